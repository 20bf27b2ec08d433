"""Whatever a file holds, it is read or refused in a sentence: settings, templates, safetensors
headers, run folders; and arrays of any kind at the gate. Every run of the tests tries some of each,
`make fuzz` (PYSFT_FUZZ=20000) many; they are the same each time. Conversations are fuzzed in
tests/test_formats.py, damaged checkpoints in tests/heavy/mutate.py, messages in
tests/test_hostile.py."""

import copy
import dataclasses
import json
import os
import shutil
import time

import conftest
import numpy as np
import pytest
from conftest import SMALL_RUN, in_process, merged
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft.disk import LOCK
from pysft.errors import GateError, PysftError
from pysft.measure import figures
from pysft.nn import kernels, safetensors
from pysft.run.stage import load_stage, weights_sha256
from pysft.text.corpora import read_corpus
from pysft.text.templates import TEMPLATES, load_template
from pysft.training import runner
from pysft.training.kinds import FineTuning, Pretraining
from pysft.training.presets import PRESETS, read_settings, resolve
from pysft.training.settings import Data, Model, Settings

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

MANY = int(os.environ.get("PYSFT_FUZZ", "0"))


def many(count, share=1.0):
    """Settings for `count` examples, or for PYSFT_FUZZ * share if that is more."""
    return settings(
        max_examples=max(count, int(MANY * share)), deadline=None, derandomize=True, database=None
    )


@pytest.fixture(scope="module", autouse=True)
def without_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "available", lambda: False)
        yield


# fmt: off
ODD = st.sampled_from([
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e300, float("nan"), float("inf"),
    "", "x", "0", "\0", "\ud800", "a" * 5000, "sft", "\n", "é",
    [], [[]], [None], ["x", 3], [1, 2, 3], [[16, 2]], [True, False, True], [[[[[[[[]]]]]]]],
    {}, {"x": 1}, {"": []},
])
# fmt: on


def spoilt(draw, data):
    """A copy of a JSON value with one to three of its items removed, doubled, renamed, or replaced
    by something odd."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        here = data
        while isinstance(here, (dict, list)) and here:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            key = draw(st.sampled_from(keys[:60]))
            if isinstance(here[key], (dict, list)) and here[key] and draw(st.booleans()):
                here = here[key]
                continue
            way = draw(st.integers(0, 3))
            if way == 0:
                del here[key]
            elif way == 1 and isinstance(here, list):
                here.insert(key, copy.deepcopy(here[key]))
            elif way == 2 and isinstance(here, dict):
                here[draw(st.sampled_from(["", "x", "vocab", "name", "\0"]))] = here.pop(key)
            else:
                here[key] = copy.deepcopy(draw(ODD))
            break
    return data


def is_refused(error):
    """Check that a PysftError's text is one line for people."""
    text = str(error)
    assert text.strip() and len(text.splitlines()) == 1, text


# ------------------------------------------------------------------------------------ settings

TABLES = {"model": Model, "data": Data, "base": Pretraining, "sft": FineTuning}
FIELDS = sorted({f.name for table in TABLES.values() for f in dataclasses.fields(table)})
WORDS = (
    "constant cosine linear random mean all last flags grow drop skip pairs conversations tenth"
    " epoch"
).split()
toml_values = st.one_of(ODD, st.integers(-3, 300), st.floats(0, 2), st.sampled_from(WORDS))


def as_toml(value):
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


@many(150)
@given(
    st.dictionaries(st.sampled_from(["seed", "preset", "stages", "unheard of"]), toml_values),
    st.dictionaries(
        st.sampled_from([*TABLES, "sft-2", "tune"]),
        st.dictionaries(st.sampled_from([*FIELDS, "unheard of"]), toml_values, max_size=3),
        max_size=3,
    ),
    st.sampled_from(["", "", "[table]\n", "=", "\0", "layers = 2\n", "\x80"]),
)
def test_any_toml_file_gives_settings_or_a_sentence(tmp_path_factory, alone, tables, rest):
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    lines = [f"{json.dumps(name)} = {as_toml(value)}\n" for name, value in alone.items()]
    for table, values in tables.items():
        lines.append(f"[{table}]\n")
        lines += [f"{json.dumps(name)} = {as_toml(value)}\n" for name, value in values.items()]
    path.write_bytes(("".join(lines) + rest).encode("utf-8", "surrogatepass"))
    try:
        found = resolve(file=read_settings(str(path)))
    except PysftError as error:
        return is_refused(error)
    assert isinstance(found, Settings)
    saved = json.loads(json.dumps(found.to_json()))
    assert Settings.of_json(saved) == found
    for table in (
        TABLES.keys() & tables.keys() & saved.keys()
    ):  # each value of the file is in the settings
        for name, value in tables[table].items():
            assert saved[table][name] in (value, str(value)), (table, name)


@many(150)
@given(st.binary(max_size=60))
def test_a_settings_file_of_any_nbytesgives_settings_or_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(data)
    try:
        assert resolve(file=read_settings(str(path))) == PRESETS["tiny"]
    except PysftError as error:
        is_refused(error)


# ----------------------------------------------------------------------------------- templates


@many(150)
@given(st.data())
def test_a_spoilt_template_is_read_or_refused_in_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "template.json"
    whole = TEMPLATES[data.draw(st.sampled_from(list(TEMPLATES)))].to_json()
    path.write_bytes(json.dumps(spoilt(data.draw, json.loads(json.dumps(whole)))).encode())
    try:
        found = load_template(str(path))
    except PysftError as error:
        return is_refused(error)
    assert found.end in found.marks  # a reply of any accepted template can stop


# --------------------------------------------------------------------------------- safetensors

entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "I32", "I64", "BF16", "", 3]),
        "shape": st.lists(
            st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**40, 2**63, 1.0, True, None])),
            max_size=4,
        ),
        "data_offsets": st.lists(
            st.one_of(st.integers(0, 64), st.sampled_from([-4, 2**62, 2.0, None])),
            min_size=1,
            max_size=3,
        ),
    }
)


@many(300)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c", "__metadata__"]),
        st.one_of(entries, entries, ODD),
        max_size=4,
    ),
    st.integers(0, 80),
    st.integers(-2, 2),
    st.booleans(),
)
def test_any_header_is_read_within_the_file_or_refused(tmp_path_factory, table, body, off, nearly):
    path = tmp_path_factory.getbasetemp() / "a.safetensors"
    if nearly:  # the offsets fit, one after the other, but perhaps not the length of the body
        end = 0
        for name, entry in table.items():
            if (
                name != "__metadata__"
                and isinstance(entry, dict)
                and entry.get("dtype") in ("F32", "F64", "I32", "I64")
            ):
                sizes = [n for n in entry["shape"] if type(n) is int and 0 <= n < 9]
                size = int(np.prod(sizes, initial=1)) * int(entry["dtype"][1:]) // 8
                table[name], end = entry | {"data_offsets": [end, end + size]}, end + size
        body, off = max(0, end + off), off * (body % 2)
    header = json.dumps(table).encode()
    length = max(0, len(header) + off).to_bytes(8, "little")
    path.write_bytes(length + header + bytes(i % 251 for i in range(body)))
    try:
        tensors, metadata = safetensors.load(path)
    except PysftError as error:
        return is_refused(error)
    assert sum(a.nbytes for a in tensors.values()) == path.stat().st_size - 8 - len(header) - off
    assert all(isinstance(v, str) for v in metadata.values())


# --------------------------------------------------------------------------------- run folders


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished run that has everything in it, and one that was stopped."""
    home = tmp_path_factory.mktemp("home")
    (home / "corpus.txt").write_text(read_corpus("plays")[:3000])
    rows = [
        {"prompt": f"{verb} {word}", "completion": f"The {word}."}
        for verb in ("Say", "Sing", "Show", "Name", "Praise", "Seek")
        for word in ("king", "rose", "crown", "ship", "night", "sword", "moon", "song", "hill")
    ]
    (home / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "a.toml").write_text(
        conftest.as_toml(
            merged(
                SMALL_RUN,
                base={"steps": 3, "windows": [[16, 2]]},
                sft={"steps": 4, "windows": [[16, 1]], "checkpoint_every": 2},
            )
        )
    )
    material = ["--corpus", home / "corpus.txt", "--data", home / "talk.jsonl"]
    train = ["train", "--config", home / "a.toml", *material, "--threads", 1, "--out"]
    code, _, errors = in_process(*train, home / "run")
    assert code == 0, errors
    save = runner.save_checkpoint

    def killed(folder, model, adam, *more):
        save(folder, model, adam, *more)
        if folder.name == "sft" and adam.steps == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "pause", lambda saves, save_every: 0)
        patch.setattr(runner, "save_checkpoint", killed)
        assert in_process(*train, home / "stopped")[0] == 130
    return home


RESUME = ("train", "--resume", "--out")
VERBS = [
    RESUME,
    ("chat", "-p", "Say king", "--tokens", 4),
    ("generate", "-p", "The", "--tokens", 4),
    ("eval",),
    ("diagnose",),
    ("select",),
    ("report",),
]


def damage(data, path):
    """Spoil the JSON of a file, cut it, remove it, put a folder in its place, or turn some bits."""
    way = data.draw(st.sampled_from(["json", "json", "cut", "gone", "folder", "bytes"]))
    if way == "json" and path.suffix == ".json":
        path.write_text(json.dumps(spoilt(data.draw, json.loads(path.read_text()))))
    elif way == "json" and path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in spoilt(data.draw, rows)))
    elif way == "cut":
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    elif way in ("gone", "folder"):
        path.unlink()
        if way == "folder":
            path.mkdir()
    else:
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole)


@many(30, 0.05)
@given(st.data())
def test_a_spoilt_run_folder_is_used_or_refused_in_a_sentence(home, tmp_path_factory, data):
    run = tmp_path_factory.getbasetemp() / "spoilt"
    shutil.rmtree(run, ignore_errors=True)
    name = data.draw(st.sampled_from(["run", "stopped"]))
    shutil.copytree(home / name, run)
    files = [p for p in run.rglob("*") if p.is_file() and p.suffix != ".html" and p.name != LOCK]
    path = data.draw(st.sampled_from(sorted(files)))
    damage(data, path)
    resumes = name == "stopped" and data.draw(st.booleans())
    verb, *rest = RESUME if resumes else data.draw(st.sampled_from(VERBS))
    arguments = [verb, *rest, run] if verb == "train" else [verb, run, *rest]
    began = time.monotonic()
    if verb in ("chat", "generate", "eval", "train"):
        arguments += ["--threads", 1]
    code, out, err = in_process(*arguments)
    assert code in (0, 1, 2, 65, 66), (code, err)
    assert time.monotonic() - began < 60
    if code and not (verb == "diagnose" and code == 1):
        assert err.splitlines()[-1].startswith("pysft: "), err
    assert "Traceback" not in err + out
    # Other settings or another vocabulary may train another model. Any other file may not.
    if code == 0 and verb == "train" and path.suffix != ".json":
        resumed, whole = (load_stage(folder).model for folder in (run, home / "run"))
        assert weights_sha256(resumed) == weights_sha256(whole)


# ---------------------------------------------------------------------------------------- gate

# fmt: off
KINDS = [
    np.float32, np.float32, np.float64, np.int32, np.int64, np.float16, np.complex64, bool, ">f4",
    object,
]
WAYS = ["plain"] * 6 + [
    "strided", "turned", "broadcast", "shared", "shared", "misaligned", "read-only", "subclass",
    "none", "list",
]
# fmt: on


@st.composite
def arrays(draw, pool):
    """An array of any shape, dtype, strides and alignment, perhaps in memory that others share
    (pool); or no array at all."""
    way = draw(st.sampled_from(WAYS))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    dtype = np.dtype(draw(st.sampled_from(KINDS)))
    if way == "none":
        return None
    if way == "list":
        return [[1.0, 2.0]]
    nbytes = int(np.prod(shape)) * dtype.itemsize
    is_number = dtype.kind != "O"
    if way == "shared" and is_number:
        start = draw(st.integers(0, 8)) * 4
        raw = pool[start : start + nbytes]
        return raw.view(dtype).reshape(shape) if raw.size == nbytes else np.zeros(shape, dtype)
    if way == "misaligned" and is_number:
        return np.zeros(nbytes + 1, np.uint8)[1:].view(dtype).reshape(shape)
    a = np.zeros(shape, dtype)
    if way == "strided":
        a = np.zeros((*shape, 2), dtype)[..., 0]
    elif way == "turned":
        a = a[::-1].T if a.ndim else a
    elif way == "broadcast":
        a = np.broadcast_to(a, (2, *shape))
    elif way == "read-only":
        a.flags.writeable = False
    elif way == "subclass":
        a = np.ma.masked_array(a) if is_number else a
    return a


@many(150)
@given(st.data())
def test_a_kernel_computes_with_any_arrays_or_refuses_them(data):
    kernel = data.draw(st.sampled_from(kernels.KERNELS + [kernels.decode_pack]))
    count = kernel.__code__.co_argcount
    pool = np.zeros(4096, np.uint8)
    arguments = [data.draw(arrays(pool)) for _ in range(count)]
    if kernel is kernels.adamw:
        step = data.draw(st.sampled_from([1, 2, 0, -1, 1.5, None, True]))
        arguments[4:] = [step, *(0.1,) * (count - 5)]
    elif kernel is kernels.layernorm_forward:
        arguments[6:] = [data.draw(st.sampled_from([1e-5, 0, None, "x"]))][: count - 6]
    try:
        kernel(*arguments)
    except GateError as error:
        is_refused(error)


@many(150)
@given(st.data())
def test_arrays_that_nearly_fit_are_computed_or_refused(data):
    """The arguments have the shapes that the kernel wants, but for up to two that are changed; so
    the later checks are reached too."""
    f, i = np.float32, np.int32
    kernel = data.draw(
        st.sampled_from(
            "matmul_forward matmul_backward layernorm_backward cross_entropy_forward"
            " embedding_forward".split()
        )
    )
    N, C, K = (data.draw(st.integers(1, 6)) for _ in range(3))
    # fmt: off
    shapes = {
        "matmul_forward": [((N, K), f), ((N, C), f), ((K, C), f), ((K,), f), ((N, K), f)],
        "matmul_backward": [
            ((N, C), f), ((K, C), f), ((K,), f), ((N, K), f), ((N, C), f), ((K, C), f),
        ],
        "layernorm_backward": [
            ((N, C), f), ((C,), f), ((C,), f), ((N, C), f), ((N, C), f), ((C,), f), ((N,), f),
            ((N,), f),
        ],
        "cross_entropy_forward": [((N,), f), ((N,), f), ((N, C), f), ((N,), i)],
        "embedding_forward": [((N, C), f), ((N,), i), ((3,), i), ((K, C), f), ((N, C), f)],
    }[kernel]
    # fmt: on
    made = [np.zeros(shape, dtype) for shape, dtype in shapes]
    for a in made:
        if a.dtype == np.int32:
            numbers = st.sampled_from([0, 0, 0, 1, N, C, K, -1, -100, 2**31 - 1, -(2**31)])
            a[:] = [data.draw(numbers) for _ in range(a.size)]
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(made) - 1))
        way = data.draw(st.integers(0, 5))
        a = made[at]
        made[at] = [
            lambda: a[:-1],
            lambda: np.concatenate([a, a[:1]]),
            lambda: a.astype(np.float64),
            lambda: a.T,
            lambda: made[0],
            lambda: a.reshape(a.shape + (1,)),
        ][way]()
    try:
        getattr(kernels, kernel)(*made)
    except GateError as error:
        is_refused(error)
