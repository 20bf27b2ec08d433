"""The file of weights: what was saved comes back, and any other file is refused in a sentence."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft.errors import DataError, MissingInput, PysftError
from pysft.nn import safetensors

steady = settings(max_examples=300, deadline=None, derandomize=True, database=None)

TENSORS = {
    "a.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2.5]),
    "c": np.array([-7], np.int64),
    "d": np.array([[1], [2]], np.int32),
}


def raw(header, data=b"", length=None):
    """The bytes of a file with this header (bytes, or anything that becomes JSON) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        found[n].dtype == a.dtype
        and found[n].shape == a.shape
        and found[n].tobytes() == a.tobytes()
        for n, a in expected.items()
    )


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {
        **TENSORS,
        "nan": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
        "scalar": np.array(3.0),
        "none": np.zeros((0, 4), np.float32),
        "across": np.arange(6.0).reshape(2, 3).T,
    }
    safetensors.save(path, tensors, {"who": "Gonçalo", "steps": "3"})
    found, metadata = safetensors.load(path)
    assert same(found, tensors) and metadata == {"who": "Gonçalo", "steps": "3"}
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_the_data_starts_at_a_multiple_of_eight_as_the_format_asks(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.save(path, TENSORS)
    data = path.read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    table = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert table["a.w"] == entry("F32", (2, 3), (0, 24))
    assert list(table["__metadata__"]) == ["sha256"]


def test_any_changed_bit_of_the_data_is_named_by_its_tensor(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.save(path, TENSORS)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    ends = dict(zip(TENSORS, np.cumsum([a.nbytes for a in TENSORS.values()])))
    for at in range(start, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        named = next(name for name, end in ends.items() if at - start < end)
        with pytest.raises(DataError, match=f"checksum of '{named}'"):
            safetensors.load(path)


def test_metadata_has_a_checksum_and_checksums_can_be_required(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.save(path, TENSORS, {"steps": "7"})
    assert safetensors.load(path, summed=True)[1] == {"steps": "7"}
    path.write_bytes(path.read_bytes().replace(b'"steps":"7"', b'"steps":"3"'))
    with pytest.raises(DataError, match="checksum of '__metadata__'"):
        safetensors.load(path)
    path.write_bytes(raw({"a": entry()}, bytes(8)))
    assert list(safetensors.load(path)[0]) == ["a"]
    with pytest.raises(DataError, match="no checksum"):
        safetensors.load(path, summed=True)


@pytest.mark.parametrize("sums", ["[]", "{", "3", '{"a": 3}'])
def test_checksums_of_a_wrong_form_are_refused(tmp_path, sums):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw({"__metadata__": {"sha256": sums}, "a": entry()}, bytes(8)))
    with pytest.raises(DataError, match="checksum"):
        safetensors.load(path)


def test_every_truncation_and_every_longer_file_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.save(path, TENSORS, {"k": "v"})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="m.safetensors"):
            safetensors.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DataError, match="has grown"):
        safetensors.load(path)


FLOATS = np.array([1, 2], np.float32).tobytes()


@pytest.mark.parametrize(
    "content, named",
    [
        (b"", "cut short"),
        (raw({"a": entry()}, FLOATS, length=1 << 62), "header would take"),
        (raw({"a": entry()}, FLOATS, length=(1 << 64) - 1), "header would take"),
        (raw(b"{" * 9), "header is not JSON"),
        (raw(b"[" * 100_000), "header is not JSON"),
        (raw(b"\xff\xff"), "header is not JSON"),
        (raw([1, 2]), "not a table of tensors"),
        (raw({"__metadata__": 3, "a": entry()}, FLOATS), "metadata"),
        (
            raw(b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2), FLOATS),
            "occurs twice",
        ),
        (
            raw({"a": entry(offsets=(0, 8)), "b": entry(offsets=(4, 12))}, FLOATS + b"1234"),
            "hole or an overlap",
        ),
        (
            raw({"a": entry(offsets=(0, 8)), "b": entry(offsets=(0, 8))}, FLOATS),
            "hole or an overlap",
        ),
        (raw({"a": entry(offsets=(4, 12))}, FLOATS + b"1234"), "hole or an overlap"),
        (
            raw({"a": entry(), "b": entry(offsets=(12, 20))}, FLOATS * 2 + b"1234"),
            "hole or an overlap",
        ),
        (raw({"a": entry("BF16", (4,))}, FLOATS), "dtype"),
        (raw({"a": entry(None)}, FLOATS), "dtype"),
        (raw({"a": entry(["F32"])}, FLOATS), "dtype"),
        (raw({"a": entry({})}, FLOATS), "dtype"),
        (raw({"a": entry(shape=(3,))}, FLOATS), "shape"),
        (raw({"a": entry(shape=(1,))}, FLOATS), "but 8 bytes"),
        (raw({"a": entry(shape=(-2,))}, FLOATS), "shape"),
        (raw({"a": entry(shape=(2.0,))}, FLOATS), "shape"),
        (raw({"a": entry(shape=(True, 2))}, FLOATS), "shape"),
        (raw({"a": entry(shape=(1 << 62, 1 << 62))}, FLOATS), "shape"),
        (raw({"a": entry(shape=(1 << 80, 0), offsets=(0, 0))}), "shape"),
        (raw({"a": entry(shape=(0, 1 << 40, 1 << 40), offsets=(0, 0))}), "shape"),
        (raw({"a": entry(shape=[1] * 100 + [2])}, FLOATS), "shape"),
        (raw({"a": entry(offsets=(-8, 0))}, FLOATS), "data_offsets"),
        (raw({"a": entry(offsets=(8, 0))}, FLOATS), "-8 bytes"),
        (raw({"a": entry(offsets=(0, 8, 8))}, FLOATS), "data_offsets"),
        (raw({"a": entry(offsets=(0, 1 << 70))}, FLOATS), "bytes"),
        (raw({"a": entry(shape=(1 << 40,), offsets=(0, 1 << 42))}, FLOATS), "cut short"),
        (raw({"a": {"dtype": "F32"}}, FLOATS), "dtype"),
        (raw({"a": 3}, FLOATS), "dtype"),
        (raw({"a": None}, FLOATS), "dtype"),
    ],
    ids=range(34),
)
def test_a_header_that_lies_is_refused_in_one_sentence(tmp_path, content, named):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        safetensors.load(path)
    text = str(error.value)
    assert "m.safetensors" in text and named in text and "\n" not in text


def test_a_header_larger_than_any_model_needs_is_refused_unread(tmp_path):
    path = tmp_path / "m.safetensors"
    with open(path, "wb") as f:  # a sparse file, which takes no room on the disk
        f.write((1 << 30).to_bytes(8, "little"))
        f.truncate((1 << 30) + 100)
    with pytest.raises(DataError, match="not a safetensors file"):
        safetensors.load(path)


def test_a_header_of_16_mib_is_read_and_a_longer_one_is_not(tmp_path):
    path, size = tmp_path / "m.safetensors", 16 << 20
    path.write_bytes(raw(json.dumps({"a": entry()}).encode().ljust(size), FLOATS))
    assert list(safetensors.load(path)[0]) == ["a"]
    path.write_bytes(raw(json.dumps({"a": entry()}).encode().ljust(size + 1), FLOATS))
    with pytest.raises(DataError, match=f"its header would take {size + 9}"):
        safetensors.load(path)


def test_a_file_that_is_not_there_is_missing_input_and_a_folder_is_bad_data(tmp_path):
    with pytest.raises(MissingInput, match="none.safetensors: no such file"):
        safetensors.load(tmp_path / "none.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        safetensors.load(tmp_path)


SHAPES = {"w": (2, 3), "b": (3,)}
EXPECTED = {"x.w": np.ones((2, 3), np.float32), "x.b": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x.b": None}, "tensor 'x.b' is missing"),
        ({"x.c": np.ones(1)}, "tensor 'x.c' is not among those that settings.json describes"),
        (
            {"x.w": np.ones((3, 2), np.float32)},
            "tensor 'x.w' is float32 (3, 2), expected float32 (2, 3) by settings.json",
        ),
        ({"x.b": np.ones(3)}, "tensor 'x.b' is float64 (3,), expected float32 (3,)"),
        ({"x.b": np.float32([1, np.inf, 1])}, "tensor 'x.b' holds numbers that are not finite"),
    ],
    ids=["missing", "foreign", "shape", "precision", "not finite"],
)
def test_tensors_that_do_not_fit_the_expected_shapes_are_refused_by_name(changes, message):
    other = {"y.w": np.ones(1)}  # its name does not begin with the prefix
    safetensors.check_tensors("file", EXPECTED | other, SHAPES, prefix="x.")
    changed = {name: a for name, a in (EXPECTED | other | changes).items() if a is not None}
    with pytest.raises(DataError) as caught:
        safetensors.check_tensors("file", changed, SHAPES, prefix="x.", remedy=". Mend it")
    assert str(caught.value).startswith(f"file: {message}")
    assert str(caught.value).endswith(". Mend it")


@steady
@given(st.data())
def test_mutated_files_give_arrays_or_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    safetensors.save(path, TENSORS, {"k": "v"})
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(
            st.binary(max_size=3)
            | st.sampled_from([b"[]", b"{}", b"null", b"-1", b"1e9", b"0", b'"'])
        )
        content[at : at + data.draw(st.integers(0, 4))] = piece
    if data.draw(st.booleans()):  # the right length again, to get past the first check
        length = header + len(content) - os.path.getsize(path)
        content[:8] = length.to_bytes(8, "little", signed=True)
    path.write_bytes(content)
    try:
        tensors, metadata = safetensors.load(path)
    except PysftError as error:
        assert isinstance(error, (DataError, MissingInput))
        assert str(error) and "\n" not in str(error)
    else:
        assert isinstance(metadata, dict)
        assert sum(a.nbytes for a in tensors.values()) < len(content)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 99)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.sampled_from(["F32", "F64", "I32", 2**63, 2**64]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner)
    ),
    max_leaves=6,
)


@steady
@given(st.sampled_from(["dtype", "shape", "data_offsets"]), values, values)
def test_any_json_in_a_header_gives_arrays_or_one_sentence(
    tmp_path_factory, field, value, metadata
):
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(raw({"__metadata__": metadata, "a": {**entry(), field: value}}, FLOATS))
    try:
        tensors, _ = safetensors.load(path)
    except DataError as error:
        assert "header.safetensors" in str(error) and "\n" not in str(error)
    else:
        assert tensors["a"].tobytes() == FLOATS


def test_metadata_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw({"__metadata__": {"steps": 5}, "a": entry()}, FLOATS))
    with pytest.raises(DataError, match="metadata"):
        safetensors.load(path)


def test_an_interrupted_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    safetensors.save(path, TENSORS)

    def killed(*_):
        raise KeyboardInterrupt

    for step in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, killed)
            with pytest.raises(KeyboardInterrupt):
                safetensors.save(path, {"a": np.zeros(99)})
        assert same(safetensors.load(path)[0], TENSORS)
    safetensors.save(path, {"a": np.zeros(3)})
    assert same(safetensors.load(path)[0], {"a": np.zeros(3)})
    assert os.listdir(tmp_path) == ["m.safetensors"]


# ---------------------------------------------------- the safetensors package, where installed


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip(
        "safetensors.numpy", reason="the safetensors package is not installed (make test-torch)"
    )


shapes = st.lists(st.integers(0, 3), max_size=3)
stored = st.dictionaries(
    st.text("ab.éw_0", min_size=1, max_size=6),
    st.tuples(shapes, st.sampled_from(list(safetensors.DTYPES.values()))),
    max_size=5,
)


@steady
@given(stored, st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))
def test_the_package_reads_what_we_write_and_we_what_it_writes(
    peer, tmp_path_factory, chosen, metadata
):
    g = np.random.default_rng(0)
    tensors = {
        name: np.array(g.standard_normal(shape) * 9, dtype)
        for name, (shape, dtype) in chosen.items()
    }
    path = tmp_path_factory.getbasetemp() / "ours.safetensors"
    safetensors.save(path, tensors, metadata)
    assert same(peer.load_file(path), tensors)
    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    peer.save_file(tensors, path, metadata or None)
    assert same(safetensors.load(path)[0], tensors) and safetensors.load(path)[1] == metadata


ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "F64", "I32"]),
        "shape": shapes,
        "data_offsets": st.tuples(st.integers(0, 24), st.integers(0, 24)).map(list),
    }
)


@settings(steady, max_examples=1000)
@given(
    st.dictionaries(st.sampled_from("abc"), ENTRIES, max_size=3),
    st.integers(0, 40),
    st.sampled_from([0, 0, 0, -1, 1, 7]),
)
def test_a_file_that_the_package_refuses_is_refused_here(peer, tmp_path_factory, table, body, off):
    path = tmp_path_factory.getbasetemp() / "odd.safetensors"
    path.write_bytes(raw(table, bytes(body), len(json.dumps(table)) + off))
    try:
        ours, _ = safetensors.load(path)
    except PysftError:
        return  # ours is the stricter one
    assert same(peer.load_file(path), ours)
