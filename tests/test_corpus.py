"""Where the base text comes from (the package, a file, the cache, or one download that is checked),
and windows of it."""

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import one_line, steady

from pysft.errors import DataError, MissingInput
from pysft.text import corpora
from pysft.text.corpora import SHAKESPEARE_SHA256, read_corpus, split_corpus
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.text.windows import draw_windows, tile_windows, window

TEXT = ("First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 40).encode()
REAL = Path(__file__).resolve().parents[1] / "../shared/data/tinyshakespeare.txt"


# ---------------------------------------------------------------------------------------- files


def test_the_plays_ship_with_the_package():
    text = read_corpus("plays")
    assert len(text) == 242186 and text.isascii()


def test_any_text_file_is_a_corpus(tmp_path):
    path = tmp_path / "my.txt"
    path.write_bytes("Öl und Ähre.\n".encode() * 100)
    assert read_corpus(str(path)) == "Öl und Ähre.\n" * 100


def test_line_ends_are_normalised_and_a_byte_order_mark_goes(tmp_path):
    path = tmp_path / "my.txt"
    path.write_bytes(b"\xef\xbb\xbf" + b"One line.\r\n" * 150)
    assert read_corpus(str(path)) == "One line.\n" * 150


@pytest.mark.parametrize(
    "content, named",
    [
        (b"\xff\xfeabc" * 500, "UTF-8"),
        (b"Too short.", "10 characters"),
        (b"", "0 characters"),
        (b"a" * 999, "999 characters"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused_with_its_name(tmp_path, content, named):
    path = tmp_path / "my.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_corpus(str(path))
    text = one_line(error)
    assert "my.txt" in text and named in text


def test_a_thousand_characters_are_enough_for_a_corpus(tmp_path):
    (tmp_path / "my.txt").write_text("é" + "a" * 999, encoding="utf-8")
    assert len(read_corpus(str(tmp_path / "my.txt"))) == 1000


def test_a_missing_file_and_a_folder_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(MissingInput) as error:
        read_corpus(str(tmp_path / "none.txt"))
    text = one_line(error)
    assert "none.txt: no such file" in text and "plays" in text and "shakespeare" in text
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(str(tmp_path))


# -------------------------------------------------------------------------------------- windows


def test_the_last_tenth_of_a_text_is_held_out():
    train, tail = split_corpus("a" * 90 + "b" * 10)
    assert train == "a" * 90 and tail == "b" * 10


@steady
@given(st.integers(2, 200), st.integers(1, 64))
def test_tiled_windows_grade_every_target_exactly_once(length, width):
    corpus = np.arange(length, dtype=np.int32)
    tiles = tile_windows(corpus, width)
    assert np.concatenate([t.labels for t in tiles]).tolist() == list(range(1, length))
    assert all(
        np.array_equal(t.labels, t.input_ids + 1) and 1 <= len(t.labels) <= width for t in tiles
    )


def test_drawn_windows_reach_every_start_and_never_beyond_the_end():
    corpus = np.arange(12, dtype=np.int32)
    drawn = draw_windows(corpus, 400, 8, np.random.default_rng(0))
    assert {int(e.input_ids[0]) for e in drawn} == {0, 1, 2, 3}
    assert all(len(e.labels) == 8 and np.array_equal(e.labels, e.input_ids + 1) for e in drawn)
    assert window(corpus, 3, 8).labels[-1] == 11


# ------------------------------------------------------------------------------------- download


class Home:
    """A server on loopback in place of the corpus's home. It counts the requests in `asked`, and
    promises `missing` bytes that it does not send."""

    def __init__(self):
        self.content, self.status, self.asked, self.missing = TEXT, 200, 0, 0
        home = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                home.asked += 1
                self.send_response(home.status)
                self.send_header("Content-Length", str(len(home.content) + home.missing))
                self.end_headers()
                self.wfile.write(home.content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/input.txt"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A server whose text has the expected hash, an empty cache, and no proxy."""
    home = Home()
    monkeypatch.setenv("PYSFT_SHAKESPEARE_URL", home.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", hashlib.sha256(TEXT).hexdigest())
    yield home
    home.server.shutdown()
    home.server.server_close()


def cached(tmp_path):
    cache = tmp_path / "cache"
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file())


def test_the_expected_hash_is_the_real_corpus():
    assert SHAKESPEARE_SHA256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def test_shakespeare_is_fetched_once_and_then_comes_from_the_cache(home, tmp_path):
    assert read_corpus("shakespeare") == TEXT.decode()
    assert home.asked == 1 and cached(tmp_path) == ["pysft/tinyshakespeare.txt"]
    home.status = 500
    assert read_corpus("shakespeare") == TEXT.decode() and home.asked == 1


def test_wrong_bytes_are_refused_and_not_kept(home, tmp_path):
    for wrong in (TEXT + b" ", TEXT[:-1], b"<html>Sign in to the network</html>", b""):
        home.content = wrong
        with pytest.raises(DataError) as error:
            read_corpus("shakespeare")
        text = one_line(error)
        assert home.url in text and f"{len(wrong)} bytes" in text and "--corpus PATH" in text
        assert cached(tmp_path) == []


def test_an_answer_that_ends_early_is_refused_and_not_kept(home, tmp_path):
    home.content, home.missing = TEXT[:-100], 100
    with pytest.raises((DataError, MissingInput)) as error:
        read_corpus("shakespeare")
    assert "--corpus PATH" in one_line(error) and cached(tmp_path) == []


def test_a_refusal_is_one_sentence_with_what_to_do(home, tmp_path):
    home.status = 404
    with pytest.raises(MissingInput) as error:
        read_corpus("shakespeare")
    text = one_line(error)
    assert home.url in text and "Not Found" in text and "--corpus PATH" in text and "plays" in text
    assert error.value.exit_code == 66 and cached(tmp_path) == []


def test_a_closed_port_is_one_sentence_with_what_to_do(home, tmp_path, monkeypatch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{s.getsockname()[1]}/"
    monkeypatch.setenv("PYSFT_SHAKESPEARE_URL", closed)
    with pytest.raises(MissingInput) as error:
        read_corpus("shakespeare")
    text = one_line(error)
    assert closed in text and "refused" in text and "--corpus PATH" in text
    assert cached(tmp_path) == []


def test_a_server_that_does_not_speak_http_is_one_sentence_with_what_to_do(
    home, tmp_path, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail ready\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("PYSFT_SHAKESPEARE_URL", f"http://127.0.0.1:{server.getsockname()[1]}/")
        with pytest.raises(MissingInput) as error:
            read_corpus("shakespeare")
    assert "--corpus PATH" in one_line(error) and cached(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["nonsense", "", "http://127.0.0.1:port/", "gopher://127.0.0.1/", "http://"]
)
def test_an_address_that_cannot_be_opened_is_one_sentence_with_what_to_do(home, monkeypatch, url):
    monkeypatch.setenv("PYSFT_SHAKESPEARE_URL", url)
    with pytest.raises(MissingInput) as error:
        read_corpus("shakespeare")
    assert "--corpus PATH" in one_line(error)


@pytest.mark.parametrize("damaged", [b"", TEXT[:100], TEXT[:-1] + b"x", b"\xff" * 2000])
def test_a_damaged_cache_is_fetched_again(home, tmp_path, damaged):
    path = tmp_path / "cache" / "pysft" / "tinyshakespeare.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged)
    assert read_corpus("shakespeare") == TEXT.decode() and home.asked == 1
    assert path.read_bytes() == TEXT and cached(tmp_path) == ["pysft/tinyshakespeare.txt"]


def test_a_cache_that_cannot_be_written_does_not_stop_the_download(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read_corpus("shakespeare") == TEXT.decode() and home.asked == 1


@pytest.mark.skipif(not REAL.is_file(), reason="the Shakespeare corpus is not beside this checkout")
def test_the_real_corpus_passes_the_real_hash(home, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", SHAKESPEARE_SHA256)
    home.content = REAL.read_bytes()
    text = read_corpus("shakespeare")
    assert len(text) == 1115394 and CharTokenizer.of(text).characters == SHAKESPEARE
    home.content = b"gone"
    assert read_corpus("shakespeare") == text and home.asked == 1
