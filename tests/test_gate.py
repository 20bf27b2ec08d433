"""The gate: every wrong argument is refused in one sentence that names the function, the argument,
what came and what fits; and a call that passes cannot crash C."""

import os
import re

import numpy as np
import pytest
from conftest import offsets, python
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft.errors import GateError, UsageError
from pysft.nn import _build, gate, kernels

X = np.float32


def good():
    """Right arguments for every kernel: N = 6 rows in two sequences, C = 4, K = 3, H = 2, V = 5."""

    def f(*shape):
        return np.ones(shape, X)

    tokens, cu = np.arange(6, dtype=np.int32) % 5, offsets([4, 2])
    labels = np.array([0, -100, 4, 1, 2, 3], np.int32)
    return {
        "matmul_forward": dict(y=f(6, 3), x=f(6, 4), w=f(3, 4), b=f(3), residual=f(6, 3)),
        "matmul_backward": dict(dx=f(6, 4), dw=f(3, 4), db=f(3), dy=f(6, 3), x=f(6, 4), w=f(3, 4)),
        "attention_forward": dict(y=f(6, 4), lse=f(6, 2), qkv=f(6, 12), cu_seqlens=cu.copy()),
        "attention_backward": dict(
            dqkv=f(6, 12), dy=f(6, 4), qkv=f(6, 12), y=f(6, 4), lse=f(6, 2), cu_seqlens=cu.copy()
        ),
        "layernorm_forward": dict(y=f(6, 4), mean=f(6), rstd=f(6), x=f(6, 4), w=f(4), b=f(4)),
        "layernorm_backward": dict(
            dx=f(6, 4), dw=f(4), db=f(4), dy=f(6, 4), x=f(6, 4), w=f(4), mean=f(6), rstd=f(6)
        ),
        "gelu_forward": dict(y=f(6, 4), x=f(6, 4)),
        "gelu_backward": dict(dx=f(6, 4), dy=f(6, 4), x=f(6, 4)),
        "embedding_forward": dict(
            y=f(6, 4), tokens=tokens.copy(), cu_seqlens=cu.copy(), wte=f(5, 4), wpe=f(4, 4)
        ),
        "embedding_backward": dict(
            dwte=f(5, 4), dwpe=f(4, 4), dy=f(6, 4), tokens=tokens.copy(), cu_seqlens=cu.copy()
        ),
        "cross_entropy_forward": dict(nll=f(6), lse=f(6), logits=f(6, 5), labels=labels.copy()),
        "cross_entropy_backward": dict(
            dlogits=f(6, 5), dnll=f(6), logits=f(6, 5), lse=f(6), labels=labels.copy()
        ),
        "adamw": dict(w=f(7), m=f(7), v=f(7), g=f(7), step=1, lr=0.1),
        "sum_squares": dict(x=f(7)),
    }


WRITTEN = {
    "matmul_forward": ["y"],
    "matmul_backward": ["dx", "dw", "db"],
    "attention_forward": ["y", "lse"],
    "attention_backward": ["dqkv"],
    "layernorm_forward": ["y", "mean", "rstd"],
    "layernorm_backward": ["dx", "dw", "db"],
    "gelu_forward": ["y"],
    "gelu_backward": ["dx"],
    "embedding_forward": ["y"],
    "embedding_backward": ["dwte", "dwpe"],
    "cross_entropy_forward": ["nll", "lse"],
    "cross_entropy_backward": ["dlogits"],
    "adamw": ["w", "m", "v"],
    "sum_squares": [],
}
OPTIONAL = {
    "matmul_forward": ["b", "residual"],
    "matmul_backward": ["dx", "dw", "db"],
    "layernorm_backward": ["dx", "dw", "db"],
}
IN_PLACE = {
    ("gelu_forward", "y", "x"),
    ("gelu_backward", "dx", "dy"),
    ("cross_entropy_backward", "dlogits", "logits"),
}
SLOTS = [(f, n) for f, a in good().items() for n, v in a.items() if isinstance(v, np.ndarray)]
EVERY_ARRAY = pytest.mark.parametrize("function, name", SLOTS, ids=[f"{f}-{n}" for f, n in SLOTS])
INTEGERS = {"tokens", "labels", "cu_seqlens"}


def refused(function, *words, **changes):
    """The message with which `function` refuses the good arguments with these changes.

    It must be one sentence with the function's name and all `words`, and no array may have been
    written."""
    arguments = {**good()[function], **changes}
    written = [n for n in WRITTEN[function] if isinstance(arguments[n], np.ndarray)]
    before = [arguments[n].copy() for n in written]
    with pytest.raises(GateError) as caught:
        getattr(kernels, function)(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in (function, *words):
        assert str(word) in message, f"{word!r} is not in: {message}"
    for n, old in zip(written, before):
        is_float = old.dtype.kind == "f"
        assert np.array_equal(arguments[n], old, equal_nan=is_float), f"{n} was written"
    return message


def test_good_arguments_pass_in_both_precisions():
    def double(v):
        return v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype == X else v

    for function, arguments in good().items():
        getattr(kernels, function)(**arguments)
        getattr(kernels, function)(**{n: double(v) for n, v in arguments.items()})


# ------------------------------------------------------------- a test for each way to be wrong

OTHER_TYPES = (np.float16, np.int64, np.uint32, bool, complex, object, "S4", "M8[s]", np.longdouble)


@EVERY_ARRAY
def test_a_wrong_dtype_is_refused(function, name):
    a = good()[function]
    first = next(n for n, v in a.items() if isinstance(v, np.ndarray) and n not in INTEGERS)
    fits = "int32" if name in INTEGERS else "float32 or float64" if name == first else "float32"
    for dtype in OTHER_TYPES:
        other = np.zeros(a[name].shape, dtype)
        refused(function, f" {name} ", other.dtype, fits, **{name: other})


@EVERY_ARRAY
def test_two_precisions_in_one_call_are_refused(function, name):
    a = good()[function]
    floats = [n for n, v in a.items() if isinstance(v, np.ndarray) and n not in INTEGERS]
    if name in floats and len(floats) > 1:
        message = refused(function, "float32", "float64", **{name: a[name].astype(np.float64)})
        assert "like the arrays before it" in message


@EVERY_ARRAY
def test_a_foreign_byte_order_is_refused(function, name):
    a = good()[function][name]
    foreign = a.astype(a.dtype.newbyteorder())
    refused(function, f" {name} ", foreign.dtype, **{name: foreign})


@EVERY_ARRAY
def test_a_wrong_number_of_axes_is_refused(function, name):
    a = good()[function][name]
    for other in (a[..., None], np.ones((), a.dtype)):
        if function not in ("gelu_forward", "gelu_backward"):  # which take any one shape
            refused(function, f"{name} has shape {other.shape}", "expected (", **{name: other})


# Axes whose letter no other array has, so that any size fits. (Offsets are checked by value.)
FREE = {(f, "cu_seqlens", 0) for f in good()} | {
    ("attention_forward", "lse", 1),
    ("attention_backward", "lse", 1),
    ("embedding_forward", "wte", 0),
    ("embedding_forward", "wpe", 0),
    ("embedding_backward", "dwte", 0),
    ("embedding_backward", "dwpe", 0),
    ("cross_entropy_forward", "logits", 1),
    ("sum_squares", "x", 0),
}


@EVERY_ARRAY
def test_a_wrong_size_is_refused(function, name):
    """One more element along each axis. The message names this array or a later one that does not
    fit it."""
    a = good()[function][name]
    for axis in range(a.ndim):
        if (function, name, axis) not in FREE:
            other = np.ones([n + (i == axis) for i, n in enumerate(a.shape)], a.dtype)
            message = refused(function, "has shape", **{name: other})
            assert re.search(r"\w+ has shape \([\d, ]+\), expected \(?[\w\d, +*]+", message)


def test_a_wrong_shape_says_which_letter_has_which_number():
    message = refused("layernorm_forward", w=np.ones(6, X))
    assert (
        message
        == "layernorm_forward: w has shape (6,), expected (C,) with C = 4, none of them zero"
    )


@EVERY_ARRAY
def test_an_array_of_no_elements_is_refused(function, name):
    a = good()[function][name]
    for axis in range(a.ndim):
        empty = np.ones([0 if i == axis else n for i, n in enumerate(a.shape)], a.dtype)
        refused(function, "has shape", "expected", **{name: empty})


def test_all_arrays_without_rows_are_refused_together():
    for function, arguments in good().items():
        if function not in ("adamw", "sum_squares"):
            arrays = {n: v for n, v in arguments.items() if isinstance(v, np.ndarray)}
            empty = {n: v[:0] for n, v in arrays.items() if len(v) == 6}
            refused(function, "has shape (0", **empty)


@EVERY_ARRAY
def test_an_array_with_gaps_is_refused(function, name):
    a = good()[function][name]
    gapped = np.repeat(a, 2, axis=-1)[..., ::2]
    refused(function, f" {name} ", "contiguous", f"np.ascontiguousarray({name})", **{name: gapped})


def test_a_transposed_and_a_reversed_and_a_broadcast_array_are_refused():
    refused("matmul_forward", " w ", "contiguous", w=np.ones((4, 3), X).T)
    refused("matmul_forward", " b ", "contiguous", b=np.ones(3, X)[::-1])
    refused("matmul_forward", " w ", "contiguous", w=np.broadcast_to(np.ones(4, X), (3, 4)))


@EVERY_ARRAY
def test_a_read_only_array_is_refused_exactly_where_it_would_be_written(function, name):
    a = good()[function][name]
    a.setflags(write=False)
    if name in WRITTEN[function]:
        refused(function, f" {name} ", "read-only", "written", **{name: a})
    else:
        getattr(kernels, function)(**{**good()[function], name: a})


@EVERY_ARRAY
def test_a_misaligned_array_is_refused(function, name):
    a = good()[function][name]
    misaligned = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    refused(function, f" {name} ", "aligned", "copy", **{name: misaligned})


@pytest.mark.parametrize("function", [f for f in WRITTEN if WRITTEN[f]])
def test_an_array_that_is_written_may_not_overlap_any_other(function):
    """Each written array is placed on each other one: on the very same memory, and one element
    further. The pairs that a docstring allows may be the very same memory, but nothing else."""
    for name in WRITTEN[function]:
        for other, v in good()[function].items():
            if other == name or not isinstance(v, np.ndarray):
                continue
            a = good()[function]
            memory = np.zeros(max(a[name].nbytes, v.nbytes) + 8, np.uint8)

            def at(start, like):
                placed = memory[start : start + like.nbytes].view(like.dtype).reshape(like.shape)
                placed[...] = like
                return placed

            for shift in (0, 4):
                changed = {**a, name: at(shift, a[name]), other: at(0, v)}
                if shift == 0 and (function, name, other) in IN_PLACE:
                    getattr(kernels, function)(**changed)
                    continue
                with pytest.raises(GateError, match="overlap") as caught:
                    getattr(kernels, function)(**changed)
                message = str(caught.value)
                assert all(word in message for word in (function, name, other, "written"))


def test_arrays_that_are_only_read_may_be_the_same_memory():
    same = np.ones((6, 4), X)
    kernels.gelu_backward(np.empty_like(same), same, same)
    kernels.matmul_forward(np.empty((6, 6), X), same, same)


def test_neighbours_in_memory_do_not_overlap():
    memory = np.ones(48, X)
    kernels.gelu_forward(memory[:24], memory[24:])


@EVERY_ARRAY
def test_what_is_not_an_array_is_refused(function, name):
    for thing in ([1.0, 2.0], 3.0, "x", b"1234", memoryview(b"12")):
        refused(function, f" {name} ", type(thing).__name__, "NumPy array", **{name: thing})


@EVERY_ARRAY
def test_none_is_refused_exactly_where_it_is_not_optional(function, name):
    if name in OPTIONAL.get(function, ()):
        getattr(kernels, function)(**{**good()[function], name: None})
    else:
        refused(function, f" {name} ", "None", "array of shape (", **{name: None})


@pytest.mark.parametrize("function", ["embedding_forward", "embedding_backward"])
def test_a_token_outside_of_the_vocabulary_is_named_with_its_row(function):
    for row, token in ((0, -1), (3, 5), (5, 2**31 - 1), (2, -(2**31)), (4, -100)):
        tokens = good()[function]["tokens"]
        tokens[row] = token
        refused(function, f"tokens[{row}] = {token}", "0..4", tokens=tokens)


def test_gelu_takes_its_derivative_or_its_input_not_both():
    f = np.ones((6, 4), X)
    refused("gelu_backward", "exactly one", dydx=f)
    kernels.gelu_backward(np.empty_like(f), f, None, f)


# ------------------------------------------------------------------------ calls made many times


def test_noted_calls_do_what_the_kernels_do_for_any_number_of_rows_up_to_their_arrays():
    g = np.random.default_rng(0)
    x, w = g.standard_normal((9, 5)).astype(X), g.standard_normal((3, 5)).astype(X)
    y = np.zeros((9, 3), X)
    calls = kernels.on_threads(1).calls(9)
    calls.noting().matmul_forward(y, x, w)
    calls.noting().gelu_forward(y, y)
    assert not y.any()
    for N in (9, 4, 1):
        y[:] = 7
        calls.run(N, 1)
        expected = np.full_like(y, 7)
        kernels.matmul_forward(expected[:N], x[:N], w)
        kernels.gelu_forward(expected[:N], expected[:N].copy())
        assert np.array_equal(y, expected)


def test_noted_calls_refuse_what_the_gate_refuses_and_more_rows_than_they_were_checked_for():
    calls = kernels.on_threads(1).calls(4)
    a = good()["embedding_forward"]
    with pytest.raises(GateError, match="contiguous"):
        calls.noting().embedding_forward(**{**a, "wte": np.ones((4, 5), X).T})
    calls.noting().embedding_forward(*a.values())
    for N, S in ((0, 2), (7, 2), (6, 0), (6, 3)):
        with pytest.raises(GateError, match="checked for"):
            calls.run(N, S)
    a["tokens"][4] = 5
    with pytest.raises(GateError, match=r"tokens\[4\] = 5 is not in 0..4"):
        calls.run(6, 2)
    calls.run(4, 1)  # without the row of the bad token


@pytest.mark.parametrize("rooms", [(4, 6), (6, 4)], ids=str)
def test_noted_calls_run_for_as_many_rows_as_the_one_with_the_least_room(rooms):
    calls = kernels.on_threads(1).calls(4)
    for room in rooms:
        y, x, w = (np.ones((n, 3), X) for n in (room, room, 3))
        calls.noting().matmul_forward(y, x, w)
    with pytest.raises(GateError, match="N = 5, but these calls were checked for 1 to 4"):
        calls.run(5, 1)
    calls.run(4, 1)


def test_noted_attention_refuses_a_sequence_longer_than_it_has_room_for():
    calls, a = kernels.on_threads(1).calls(4), good()["attention_forward"]
    calls.noting().attention_forward(*a.values())
    calls.run(6, 2)
    a["cu_seqlens"][:] = 0, 5, 6
    with pytest.raises(GateError, match="sequence 0 has 5 rows"):
        calls.run(6, 2)


@pytest.mark.parametrize("function", ["cross_entropy_forward", "cross_entropy_backward"])
def test_a_label_that_is_neither_minus_100_nor_a_symbol_is_named_with_its_row(function):
    for row, label in ((0, -1), (3, 5), (5, 2**31 - 1), (2, -(2**31)), (4, -99), (1, -101)):
        labels = good()[function]["labels"]
        labels[row] = label
        refused(function, f"labels[{row}] = {label}", "-100", "0..4", labels=labels)


OFFSETS = ["attention_forward", "attention_backward", "embedding_forward", "embedding_backward"]


@pytest.mark.parametrize("function", OFFSETS)
def test_offsets_that_do_not_rise_from_0_to_N_are_refused(function):
    for cu, *words in (
        ([1, 4, 6], "starts with 1", "expected 0"),
        ([-1, 4, 6], "starts with -1"),
        ([0, 4, 5], "ends with 5", "N = 6"),
        ([0, 4, 7], "ends with 7", "N = 6"),
        ([0, 4, 3, 6], "falls from 4 to 3", "offset 2"),
        ([0, -2, 4, 6], "falls from 0 to -2"),
        ([0], "has shape (1,)", "S+1"),
    ):
        refused(function, "cu_seqlens", *words, cu_seqlens=np.array(cu, np.int32))


@pytest.mark.parametrize("function", OFFSETS)
def test_noted_calls_refuse_offsets_that_became_bad_since_they_were_checked(function):
    """When noted calls are made, only C checks the offsets."""
    calls, a = kernels.on_threads(1).calls(6), good()[function]
    getattr(calls.noting(), function)(*a.values())
    calls.run(6, 2)
    for cu, message in (
        ([1, 4, 6], "starts with 1"),
        ([-1, 4, 6], "starts with -1"),
        ([0, 4, 5], "ends with 5"),
        ([0, 4, 7], "ends with 7"),
        ([0, 7, 6], "cu_seqlens falls from 7|sequence 0 has 7 rows"),
        ([0, -2, 6], "falls from 0 to -2"),
    ):
        a["cu_seqlens"][:] = cu
        with pytest.raises(GateError, match=message):
            calls.run(6, 2)


@pytest.mark.parametrize("function", OFFSETS)
def test_offsets_whose_differences_overflow_int32_are_refused_for_what_they_are(function):
    """From 4 to -2^31 is a fall, although the difference in int32 is positive."""
    falling = np.array([0, 4, -(2**31), 6], np.int32)
    refused(function, "cu_seqlens", "falls from 4", cu_seqlens=falling)


@pytest.mark.parametrize("function", OFFSETS)
def test_empty_sequences_are_allowed(function):
    cu_seqlens = np.array([0, 0, 4, 4, 6], np.int32)
    getattr(kernels, function)(**{**good()[function], "cu_seqlens": cu_seqlens})


@pytest.mark.parametrize("function", ["embedding_forward", "embedding_backward"])
def test_a_sequence_longer_than_the_context_is_named(function):
    words = "sequence 1 has 5 rows", "the context has 4"
    refused(function, *words, cu_seqlens=np.array([0, 1, 6], np.int32))


@pytest.mark.parametrize("function", ["attention_forward", "attention_backward"])
def test_channels_that_heads_do_not_divide_are_refused(function):
    refused(function, "C = 4", "H = 3", lse=np.ones((6, 3), X))
    refused(function, "C = 4", "H = 8", lse=np.ones((6, 8), X))


def test_adamw_counts_its_steps_from_one():
    refused("adamw", "step = 0", "expected 1", step=0)


# ----------------------------------------------------------------- scalars and the environment

THREADS = pytest.mark.parametrize("threads", [0, -1, "2", 2.0, 1025, True], ids=repr)


@THREADS
def test_an_impossible_number_of_threads_is_refused(threads):
    message = re.escape(f": threads = {threads!r} is not a whole number from 1 to 1024")
    with pytest.raises(GateError, match=message):
        kernels.gelu_forward(np.ones(3, X), np.ones(3, X), threads=threads)
    with pytest.raises(GateError, match=message):
        kernels.on_threads(threads)


def test_a_wrong_number_of_threads_names_the_function():
    with pytest.raises(GateError, match="gelu_forward"):
        kernels.gelu_forward(np.ones(3, X), np.ones(3, X), threads=0)


@pytest.mark.parametrize(
    "function, name",
    [("adamw", n) for n in ("step", "lr", "beta1", "beta2", "eps", "decay")]
    + [("layernorm_forward", "eps")],
)
def test_a_scalar_that_is_not_a_number_is_refused(function, name):
    for value in ("fast", None, 1j, np.ones(2)):
        refused(function, f"{name} = {value!r}", **{name: value})


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025", "99999999999999999999"])
@pytest.mark.parametrize("variable", ["PYSFT_NUM_THREADS", "OMP_NUM_THREADS"])
def test_a_bad_number_of_threads_in_the_environment_is_named_with_its_variable(
    monkeypatch, variable, text
):
    monkeypatch.delenv("PYSFT_NUM_THREADS", raising=False)
    monkeypatch.setenv(variable, text)
    message = f"{variable}={text} is not a number of threads from 1 to 1024"
    with pytest.raises(UsageError, match=message):
        gate.default_threads()


@pytest.mark.parametrize("threads", [1, 1024])
def test_from_one_to_1024_threads_may_be_asked_for(monkeypatch, threads):
    monkeypatch.delenv("PYSFT_NUM_THREADS", raising=False)
    for variable in ("OMP_NUM_THREADS", "PYSFT_NUM_THREADS"):
        monkeypatch.setenv(variable, f" {threads} ")
        assert gate.default_threads() == threads
    assert gate.count_threads("gelu_forward", threads) == threads


def test_threads_come_from_pysfts_variable_then_openmps_then_the_processors(monkeypatch):
    monkeypatch.setenv("PYSFT_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert gate.default_threads() == 3
    monkeypatch.delenv("PYSFT_NUM_THREADS")
    assert gate.default_threads() == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert gate.default_threads() == len(os.sched_getaffinity(0))


def test_an_unknown_instruction_set_is_one_sentence_that_names_the_known_ones():
    done = python("-m", "pysft", "info", PYSFT_ISA="mmx")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"pysft: PYSFT_ISA=mmx is not one of {', '.join(_build.ISAS)}\n"


def test_a_bad_number_of_threads_is_one_sentence_on_the_command_line():
    done = python("-m", "pysft", "info", PYSFT_NUM_THREADS="many")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "PYSFT_NUM_THREADS=many" in done.stderr


def test_an_instruction_set_that_the_processor_lacks_is_refused_in_a_sentence(monkeypatch):
    class OldProcessor:
        class lib:
            @staticmethod
            def pysft_cpu_has(isa):
                return isa == b"base"

    monkeypatch.setattr(_build, "ISAS", {"base": [], "avx2": [], "avx512": []})
    monkeypatch.setattr(gate, "_import", lambda isa: OldProcessor)
    monkeypatch.setenv("PYSFT_ISA", "avx512")
    message = "PYSFT_ISA=avx512: this processor has no avx512; it can run base"
    with pytest.raises(UsageError, match=message):
        gate._load()


def test_the_chosen_instruction_set_is_the_best_or_the_one_asked_for(monkeypatch):
    monkeypatch.delenv("PYSFT_ISA", raising=False)
    assert gate._load()[2] == gate.ISAS[-1]
    for isa in gate.ISAS:
        monkeypatch.setenv("PYSFT_ISA", isa)
        assert gate._load()[2] == isa


# ------------------------------------------------------------------------------ any arguments


def _arrays():
    """Small arrays of any dtype, shape and memory layout."""

    def array(dtype, shape, layout, seed):
        doubled = [*shape[:-1], 2 * shape[-1]] if shape else ()
        base = np.random.default_rng(seed).integers(-3, 9, doubled).astype(dtype)
        if not shape:
            return base
        return {
            "plain": lambda: np.ascontiguousarray(base[..., : shape[-1]]),
            "gaps": lambda: base[..., ::2],
            "fortran": lambda: np.asfortranarray(base[..., : shape[-1]]),
            "tail": lambda: base[..., shape[-1] :],
            "broadcast": lambda: np.broadcast_to(base[..., :1], shape),
        }[layout]()

    types = [X, X, X, X, np.float64, np.int32, np.int32, np.int64, bool, ">f4", object]
    shapes = st.lists(st.sampled_from([1, 2, 2, 2, 2, 3, 4, 6, 0]), max_size=3)
    layouts = st.sampled_from(["plain"] * 6 + ["gaps", "fortran", "tail", "broadcast"])
    return st.builds(array, st.sampled_from(types), shapes, layouts, st.integers(0, 5))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_arguments_are_computed_or_refused_with_a_gate_error(data):
    for function, arguments in good().items():
        things = st.one_of(_arrays(), st.none(), st.sampled_from([1, "x"]))
        arrays = sorted(n for n, v in arguments.items() if isinstance(v, np.ndarray))
        kept = data.draw(st.sets(st.sampled_from(arrays)))
        changes = {n: data.draw(things) for n in arrays if n not in kept}
        try:
            getattr(kernels, function)(**{**arguments, **changes}, threads=2)
        except GateError as error:
            assert str(error).startswith(function) and "\n" not in str(error)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.integers(-2, 8), min_size=1, max_size=5),
    st.lists(st.integers(-101, 6), min_size=6, max_size=6),
    st.integers(1, 4),
)
def test_any_offsets_tokens_and_labels_are_computed_or_refused(cu, numbers, threads):
    cu, numbers = np.array(cu, np.int32), np.array(numbers, np.int32)
    valid = len(cu) > 1 and cu[0] == 0 and cu[-1] == 6 and (np.diff(cu) >= 0).all()
    for function, arguments in good().items():
        values = {"cu_seqlens": cu, "tokens": numbers, "labels": numbers}
        changes = {n: values[n] for n in arguments if n in INTEGERS}
        if not changes:
            continue
        expected = valid or "cu_seqlens" not in changes
        if "tokens" in changes:
            expected &= bool(((numbers >= 0) & (numbers < 5)).all() and (np.diff(cu) <= 4).all())
        if "labels" in changes:
            expected &= bool(((numbers == -100) | (numbers >= 0) & (numbers < 5)).all())
        try:
            getattr(kernels, function)(**{**arguments, **changes}, threads=threads)
            assert expected, function
        except GateError:
            assert not expected, function


# --------------------------------------------------------- what C promises in kernels.h, by itself


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_partial_sum_of_squares_is_that_of_its_own_block(dtype):
    x = np.random.default_rng(0).standard_normal(2 * kernels.SQUARES_BLOCK + 5).astype(dtype)
    partials = np.full(4, np.nan)
    suffix = {np.float32: "_f32", np.float64: "_f64"}[dtype]
    gate.c_function("sum_squares", suffix)(gate.pointer(partials), gate.pointer(x), len(x), 1)
    cuts = range(0, len(x), kernels.SQUARES_BLOCK)
    blocks = [x[i : i + kernels.SQUARES_BLOCK].astype(np.float64) for i in cuts]
    assert partials[:3] == pytest.approx([b @ b for b in blocks], rel=1e-12)
    assert np.isnan(partials[3])  # there is no fourth block


FOLLOWS_INDICES = [
    f"{name}_{way}"
    for name in ("attention", "embedding", "cross_entropy")
    for way in ("forward", "backward")
]


@pytest.mark.parametrize("function", FOLLOWS_INDICES)
def test_a_kernel_that_follows_good_indices_returns_minus_one(function, monkeypatch):
    codes, make = [], gate.c_function

    def noted(name, suffix):
        def call(*arguments):
            codes.append(make(name, suffix)(*arguments))
            return codes[-1]

        return call

    monkeypatch.setattr(gate, "c_function", noted)
    getattr(kernels, function)(**good()[function])
    assert codes == [-1]
