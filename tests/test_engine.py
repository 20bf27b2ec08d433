"""The engine: sequences come and go while others run, and none depends on the others."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import python
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import SHAPES, full, lively

from pysft.errors import DataError, Diverged, GateError, UsageError
from pysft.inference.engine import Engine
from pysft.inference.generate import generate
from pysft.inference.sampling import Sampling
from pysft.nn import decode, gate, kernels, reference
from pysft.nn.decode import Decoder
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig

MODEL = GPT(GPTConfig(40, 24, 2, 2, 16), kernels.on_threads(2), np.random.default_rng(3))
for _, w in MODEL.params.items():
    w += np.random.default_rng(5).normal(0, 0.5, w.shape).astype(np.float32)
G = np.random.default_rng(1)
PROMPTS = [G.integers(0, 40, n).astype(np.int32) for n in (1, 5, 9, 3, 23, 2, 24, 7)]
DRAWN = Sampling(1.0, top_k=12, top_p=0.95, seed=4)


def alone(number, max_new=9, sampling=DRAWN, stop=20, **more):
    """(ids, why it stopped) of one prompt, in an engine of its own."""
    engine = Engine(MODEL, 1)
    engine.add(number, PROMPTS[number], max_new, stop, sampling, **more)
    return finish(engine)[number]


def finish(engine, found=None):
    """{number: (ids, why it stopped)} of all sequences that the engine has."""
    found = {} if found is None else found
    while len(engine):
        collect(engine.step(), found)
    return found


def collect(events, found):
    for e in events:
        ids, stop = found.setdefault(e.number, ([], None))
        assert stop is None, "an event after the end"
        if e.stop is None:
            ids.append(e.token)
        found[e.number] = ids, e.stop


# ---------------------------------------------------------------------------- reading a prompt


IN_BF16 = [replace(config, precision="bf16") for config in SHAPES if gate.HAS_BF16]
EACH = [(config, dtype) for config in SHAPES for dtype in (np.float32, np.float64)]
EACH += [(config, np.float32) for config in IN_BF16]


@pytest.mark.parametrize("config, dtype", EACH, ids=str)
def test_a_prompt_read_at_once_leaves_the_bits_that_token_by_token_leaves(config, dtype):
    model = lively(config, kernels.on_threads(2), dtype)
    g = np.random.default_rng(0)
    lengths = [config.context, 1, max(1, config.context - 1), min(2, config.context)]
    prompts = [g.integers(0, config.vocab, n) for n in lengths]
    at_once, one_by_one = Decoder(model, 6), Decoder(model, 6)
    at_once._cache[:] = one_by_one._cache[:] = 7  # whatever an earlier sequence left
    slots = [0, 2, 3, 5]
    logits = at_once.read(prompts, slots).copy()
    for row, prompt, slot in zip(logits, prompts, slots):
        assert np.array_equal(row, full(model, prompt)[-1])
        for token in prompt:
            last = one_by_one.steps([token], [slot])
        assert np.array_equal(row, last[0])
    assert (
        at_once.lengths
        == one_by_one.lengths
        == [lengths[0], 0, lengths[1], lengths[2], 0, lengths[3]]
    )
    assert np.array_equal(at_once._cache, one_by_one._cache)


def test_the_reference_reads_a_prompt_as_the_kernels_do():
    config = SHAPES[1]
    ours, theirs = (
        Decoder(lively(config, f, np.float64), 2) for f in (kernels.on_threads(1), reference)
    )
    prompts = [np.arange(5) % config.vocab, np.arange(40) % config.vocab]
    for decoder in (ours, theirs):
        decoder.read(prompts, [0, 1])
    np.testing.assert_allclose(ours.steps([1, 2], [0, 1]), theirs.steps([1, 2], [0, 1]), rtol=1e-9)


def test_a_prompt_that_cannot_be_read_leaves_the_decoder_as_it_was():
    decoder = Decoder(MODEL, 2)
    decoder.read(PROMPTS[1:3], [0, 1])
    for prompts, slots, message in (
        ([np.zeros(25, int)], [0], "a prompt of 25 tokens; it needs one, and the context has 24"),
        ([[1, 2], []], [0, 1], "a prompt of 0 tokens"),
        ([[3, -1]], [1], "the token -1, which is not in 0..39"),
        ([[3], [40]], [0, 1], "the token 40, which is not in 0..39"),
        ([[3, 2**40]], [1], f"the token {2**40}, which"),
        ([[3], [4]], [1], r"2 prompts for slots \[1\], which must rise"),
        ([[3], [4]], [1, 0], "which must rise"),
        ([[3]], [2], "which must rise"),
        ([[3]], [-1], "which must rise"),
    ):
        with pytest.raises(UsageError, match=message):
            decoder.read(prompts, slots)
    assert decoder.lengths == [5, 9]


def test_keys_and_values_are_kept_only_where_a_cache_has_room():
    cache, qkv = (
        np.zeros(kernels.decode_sizes(4, 1, 1, 6, 2, "f4")[2], "f4"),
        np.ones((3, 12), "f4"),
    )
    kernels.decode_keep(cache, qkv, 3, 1, 6, 2)
    for first, block, T, L, message in (
        (4, 1, 6, 2, "positions 4 to 6 are not in 0..5"),
        (-1, 0, 6, 2, "positions -1 to 1 are not in 0..5"),
        (0, 2, 6, 2, "block = 2 is not in 0..1"),
        (0, -1, 6, 2, "block = -1 is not in 0..1"),
        (0, 0, 70, 2, "cache has .* elements, expected"),
    ):
        with pytest.raises(GateError, match=f"decode_keep: {message}"):
            kernels.decode_keep(cache, qkv, first, block, T, L)


# -------------------------------------------------------------------------- sequences come and go


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 5), st.data())
def test_a_sequence_is_the_same_whatever_comes_and_goes_beside_it(slots, data):
    engine, found, running, waiting = Engine(MODEL, slots), {}, {}, list(range(len(PROMPTS)))
    cancelled = set()
    while waiting or len(engine):
        what = data.draw(st.sampled_from(["add", "step", "cancel"]))
        if what == "add" and waiting:
            number = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            running[number] = engine.add(number, PROMPTS[number], 9, 20, DRAWN)
        elif what == "cancel" and running and data.draw(st.booleans()):
            number = data.draw(st.sampled_from(sorted(running)))
            engine.cancel(running.pop(number))
            if number not in found or found[number][1] is None:
                cancelled.add(number)
        else:
            before = {n: list(ids) for n, (ids, _) in found.items()}
            collect(engine.step(), found)
            assert all(found[n][0] == before[n] for n in cancelled & found.keys())
    for number in range(len(PROMPTS)):
        ids, stop = alone(number)
        got, end = found.get(number, ([], None))
        if number in cancelled:
            assert got == ids[: len(got)] and end is None
        else:
            assert (got, end) == (ids, stop)


def test_each_sequence_has_its_own_rules():
    ways = [Sampling(), DRAWN, Sampling(0.5, seed=9), Sampling(2.0), Sampling(1, top_p=0.3)]
    engine = Engine(MODEL)
    for number, sampling in enumerate(ways):
        engine.add(number, PROMPTS[number], 9, 20, sampling)
    together = finish(engine)
    assert together == {n: alone(n, sampling=s) for n, s in enumerate(ways)}
    assert together[1] != alone(1, sampling=ways[2])


def test_prompts_are_read_in_parts_that_fit(monkeypatch):
    whole = generate(MODEL, PROMPTS, 9, 20, DRAWN)
    rows = []
    read = GPT.read
    monkeypatch.setattr(GPT, "read", lambda *a: rows.append(len(a[1])) or read(*a))
    monkeypatch.setattr(decode, "PROMPT_ELEMENTS", 10 * MODEL.config.channels)
    parts = generate(MODEL, PROMPTS, 9, 20, DRAWN)
    assert [r.ids.tolist() for r in parts] == [r.ids.tolist() for r in whole]
    assert rows == [6, 9, 3, 23, 9] and len(PROMPTS[6]) == 24  # a full context needs no reading


@pytest.mark.parametrize(
    "channels, lengths, parts",
    [
        (64, [256] * 8, [2048]),
        (64, [256] * 8 + [1], [2048, 1]),
        (768, [85, 85], [170]),
        (768, [85, 86], [85, 86]),
        (768, [200, 1, 1], [200, 2]),  # one prompt may be longer
    ],
)
def test_2048_rows_of_64_channels_are_read_at_a_time_and_170_of_768(
    monkeypatch, channels, lengths, parts
):
    rows, read = [], GPT.read
    monkeypatch.setattr(GPT, "read", lambda *a: rows.append(len(a[1])) or read(*a))
    model = GPT(GPTConfig(2, 256, 1, 1, channels), kernels.on_threads(1))
    model.decoder(len(lengths)).read([[1] * n for n in lengths], range(len(lengths)))
    assert rows == parts


def test_a_prompt_waits_for_a_slot_and_takes_the_first_that_is_free():
    engine, tokens = Engine(MODEL, 2), [1, 2, 3, 1]
    for number, count in enumerate(tokens):
        engine.add(number, PROMPTS[number], count)
    assert len(engine) == 4
    assert [e.number for e in engine.step()] == [0, 0, 1, 2]  # 0 ends, and 2 takes its slot
    assert sorted(e.number for e in engine.step()) == [1, 1, 2]
    assert len(engine) == 2
    assert sorted(e.number for e in engine.step()) == [2, 2, 3, 3]
    assert len(engine) == 0


def test_a_cancelled_sequence_says_no_more_and_frees_its_slot():
    engine = Engine(MODEL, 1)
    first = engine.add(0, PROMPTS[0], 9)
    second = engine.add(1, PROMPTS[1], 9, 20, DRAWN)
    third = engine.add(2, PROMPTS[2], 9)
    assert [e.number for e in engine.step()] == [0]
    engine.cancel(first)
    engine.cancel(third)
    engine.cancel(first)  # it has ended already
    assert len(engine) == 1 and engine.step()[0].number == 1
    written = finish(engine)
    assert list(written) == [1] and second.written[1:] == written[1][0]


def test_an_injected_text_is_read_and_does_not_count():
    def inject(written, room):
        return [7, 8, 9] if len(written) == 2 else None

    ids, stop = alone(1, 5, Sampling(), None, inject=inject)
    assert ids[2:5] == [7, 8, 9] and len(ids) == 8 and stop == "length"
    prompt = [*PROMPTS[1].tolist(), *ids[:5]]
    rest = generate(MODEL, [np.array(prompt, np.int32)], 3)[0].ids.tolist()
    assert rest == ids[5:]
    assert alone(1, 5, Sampling(), None, inject=lambda w, room: False)[1] == "tool"


def test_a_prompt_that_cannot_be_read_is_refused_and_the_others_go_on():
    engine = Engine(MODEL)
    engine.add(0, PROMPTS[0], 2)
    for length in (0, 25):
        with pytest.raises(
            DataError, match=f"prompt 5: {length} tokens, the context holds 1 to 24"
        ):
            engine.add(5, np.zeros(length, np.int32), 2)
    for token in (-1, 40):
        with pytest.raises(DataError, match=f"prompt 5: token {token} is not in 0..39"):
            engine.add(5, np.array([0, 39, token]), 2)
    assert list(finish(engine)) == [0]


@pytest.mark.parametrize("prompts, slots", [(1, 1), (63, 63), (64, 64), (70, 64)])
def test_as_many_sequences_run_at_once_as_there_are_but_64_at_most(prompts, slots):
    made = []

    class Model:
        config = MODEL.config

        def decoder(self, sequences):
            made.append(sequences)
            return MODEL.decoder(sequences)

    assert len(generate(Model(), [PROMPTS[0]] * prompts, 1)) == prompts
    assert made == [slots]
    Engine(Model())
    assert made[1:] == [64]


def test_nothing_to_write_is_said_at_once():
    engine = Engine(MODEL, 1)
    engine.add(0, PROMPTS[6], 5)  # the context is full
    engine.add(1, PROMPTS[0], 0)
    assert [tuple(e) for e in engine.step()] == [
        (0, None, None, "length"),
        (1, None, None, "length"),
    ]
    assert len(engine) == 0 and engine.step() == []


def test_what_runs_may_be_cancelled_while_a_token_is_judged():
    engine, others = Engine(MODEL), []

    def cancels_another(written, room):
        engine.cancel(others[0])

    def cancels_itself(written, room):
        engine.cancel(others[1])

    engine.add(0, PROMPTS[0], 9, 20, DRAWN, inject=cancels_another)
    others.append(engine.add(1, PROMPTS[1], 9, 20, DRAWN))
    others.append(engine.add(2, PROMPTS[2], 9, 20, DRAWN, inject=cancels_itself))
    engine.add(3, PROMPTS[3], 9, 20, DRAWN)
    found = finish(engine)
    assert found == {number: alone(number) for number in (0, 3)}
    assert [o.ended for o in others] == [None, None]


def test_a_prompt_that_is_begun_may_cancel_what_runs_already():
    for more in ([], [3]):  # another prompt takes the slot that is freed, in the same step
        engine, found = Engine(MODEL, 3), {}
        ran = [engine.add(number, PROMPTS[number], 9, 20, DRAWN) for number in (0, 1)]
        collect(engine.step(), found)

        def cancels(written, room, first=ran[0]):
            engine.cancel(first)

        engine.add(2, PROMPTS[2], 9, 20, DRAWN, inject=cancels)
        for number in more:
            engine.add(number, PROMPTS[number], 9, 20, DRAWN)
        engine.step()
        assert [len(s.written) for s in engine._active.values()] == [2, 1] + [1] * len(more)
        engine.run()
        assert ran[0].written == alone(0)[0][:1] and ran[0].ended is None
        assert (ran[1].written, ran[1].ended) == alone(1)


def test_an_error_of_inject_ends_its_sequence_alone():
    def breaks(written, room):
        raise ValueError("the tool is broken")

    def too_much(written, room):
        return [1] * (room + 1)

    for inject, error in ((breaks, ValueError), (too_much, UsageError)):
        engine, found = Engine(MODEL), {}
        engine.add(0, PROMPTS[0], 9, 20, DRAWN)
        engine.add(1, PROMPTS[1], 9, 20, DRAWN, inject=inject)
        third = engine.add(2, PROMPTS[2], 9, 20, DRAWN)
        with pytest.raises(error):
            engine.step()
        assert len(third.written) == 1 and len(engine) == 2
        finish(engine, found)
        for number in (0, 2):  # the events of the step that failed are lost, and nothing else
            ids, stop = alone(number)
            assert found[number] == (ids[1:], stop)


def test_a_model_that_has_diverged_is_named_and_no_token_is_made_up():
    for name, value in (("lnf.w", np.nan), ("lnf.b", np.inf)):
        for functions in (kernels.on_threads(1), reference):
            model = GPT(MODEL.config, functions, np.random.default_rng(0))
            model.params[name][:] = value
            for sampling in (Sampling(), DRAWN):
                with pytest.raises(Diverged, match="logits of slot 0 are not finite"):
                    with np.errstate(invalid="ignore"):
                        generate(model, PROMPTS[:1], 3, sampling=sampling)


def test_a_decoder_made_before_a_fork_works_in_the_child():
    script = """
import os, numpy as np
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
decoder = GPT(GPTConfig(300, 40, 1, 2, 32), rng=np.random.default_rng(0)).decoder(64)
slots, tokens = range(64), list(range(64))
decoder.steps(tokens, slots)
decoder.rules[:, 0] = 1
first = decoder.choose(slots)
if (child := os.fork()) == 0:
    same = decoder.choose(slots) == first
    decoder.steps(tokens, slots)
    os._exit(0 if same and len(decoder.choose(slots)) == 64 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python("-c", script, OMP_NUM_THREADS="2", timeout=30).returncode == 0
