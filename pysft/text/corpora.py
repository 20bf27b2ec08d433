"""Corpora: where base text comes from, and its held-out tail."""

import errno
import hashlib
import os
import sys
from functools import lru_cache
from pathlib import Path

from pysft import disk
from pysft.errors import DataError, MissingInput
from pysft.text.characters import composed
from pysft.text.files import read_text, refuse_name
from pysft.text.scripts import compose
from pysft.text.tokenizer import Tokenizer

SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
CORPORA = ("plays", "shakespeare", "world")  # names that are no path
LEAST = 1000  # characters of a corpus


def shipped(name: str) -> Path:
    """The path of a file of the package's own data."""
    return Path(__file__).resolve().parents[1] / "data" / name


def split_corpus(text: str, heldout: float = 0.1) -> tuple[str, str]:
    """(training text, held-out tail). The last tenth is held out."""
    cut = int(len(text) * (1 - heldout))
    return text[:cut], text[cut:]


def read_corpus(name: str, tokenizer: Tokenizer | None = None) -> str:
    """The text of a corpus. "plays" ships with the package, "shakespeare" comes from the user's
    cache or is fetched once, and any other name is the path of a text file. "world" is the plays,
    beside which a run reads the text of an invented world.

    Every line ends with "\\n", byte order marks are taken out, and letters and their accents are
    composed. tokenizer: a given vocabulary, which may know them otherwise."""
    if name == "shakespeare":
        return _shakespeare()
    path = shipped("plays.txt") if name in ("plays", "world") else Path(name)
    if not path.exists():
        refuse_name(name)
        raise MissingInput(
            f"{path}: no such file; --corpus takes a text file, 'plays', 'shakespeare' or"
            " 'world' (a file of such a name is ./world)"
        )
    # Files that were joined have byte order marks within the text.
    text = read_text(path).replace("\ufeff", "")
    text = compose(text) if tokenizer is None else composed(text, tokenizer)
    if len(text) < LEAST:
        raise DataError(
            f"{path}: {len(text)} characters are too few to learn a language from; at least"
            f" {LEAST:,} are needed, a million are good"
        )
    return text


def _shakespeare() -> str:
    """The Shakespeare corpus, from the cache or from its public home. Either copy is taken only if
    its SHA-256 is right. Where no cache can be written, the user is told why."""
    url = os.environ.get("PYSFT_SHAKESPEARE_URL", SHAKESPEARE_URL)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without HOME and without an entry in the list of users
        return _uncached(url, "this user has no home folder")
    cache = caches / "pysft" / "tinyshakespeare.txt"
    try:
        data = cache.read_bytes()
        if hashlib.sha256(data).hexdigest() == SHAKESPEARE_SHA256:
            return data.decode()
    except OSError:
        pass
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(cache.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        data = _fetched(url)
        disk.replace(cache, [data])
    except OSError as error:  # the cache's: _fetched() raises none
        return _uncached(url, f"{cache}: {error.strerror or error}")
    return data.decode()


@lru_cache  # a command reads its corpus several times
def _uncached(url: str, why: str) -> str:
    """The Shakespeare corpus from its public home, kept in this process alone."""
    text = _fetched(url).decode()
    print(
        f"pysft: the Shakespeare corpus cannot be kept in a cache ({why}), so each command fetches"
        " it anew; set XDG_CACHE_HOME to a folder that can be written",
        file=sys.stderr,
    )
    return text


def _fetched(url: str) -> bytes:
    """The Shakespeare corpus from a URL. MissingInput if there is no answer, a DataError if the
    answer is something else."""
    import http.client  # here, because few runs need them and they take long to import
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            data = answer.read(8 << 20)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise MissingInput(
            f"the Shakespeare corpus could not be fetched from {url}"
            f" ({' '.join(str(reason).split())}); copy the file here and name it by --corpus PATH,"
            " or leave --corpus out to train on the plays that ship"
        ) from None
    if hashlib.sha256(data).hexdigest() != SHAKESPEARE_SHA256:
        raise DataError(
            f"{url}: the answer ({len(data)} bytes) is not the Shakespeare corpus (its SHA-256"
            " differs), so it was not kept. Name your own copy by --corpus PATH"
        )
    return data
