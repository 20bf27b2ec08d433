"""Corpora: where base text comes from, and its held-out tail."""

import hashlib
import os
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
CORPORA = ("plays", "shakespeare")  # names that are no path
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
    cache or is fetched once, and any other name is the path of a text file.

    Every line ends with "\\n", byte order marks are taken out, and letters and their accents are
    composed. tokenizer: a given vocabulary, which may know them otherwise."""
    if name == "shakespeare":
        return _shakespeare()
    path = shipped("plays.txt") if name == "plays" else Path(name)
    if not path.exists():
        refuse_name(name)
        raise MissingInput(
            f"{path}: no such file; --corpus takes a text file, 'plays' or 'shakespeare'"
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
    its SHA-256 is right."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = caches / "pysft" / "tinyshakespeare.txt"
    try:
        data = cache.read_bytes()
        if hashlib.sha256(data).hexdigest() == SHAKESPEARE_SHA256:
            return data.decode()
    except OSError:
        pass
    data = _fetched(os.environ.get("PYSFT_SHAKESPEARE_URL", SHAKESPEARE_URL))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(cache, [data])
    except OSError:
        pass  # without a cache it is fetched again next time
    return data.decode()


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
