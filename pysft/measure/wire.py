"""What goes over the wire to a chat endpoint: the key that is sent, and the replies, which may be
late, damaged, or of another form."""

import http.client
import json
import os
import re
import threading
import urllib.error
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from pysft.errors import UsageError

KEY_VARIABLES = ("PYSFT_JUDGE_KEY", "OPENAI_API_KEY")
# A shorter key is a placeholder, such as "x": our own messages contain it by chance.
SHORT_KEY = 4
# A shorter key may be a placeholder, such as "EMPTY", that answers contain by chance.
LONG_KEY = 16
LARGEST_BODY = 2**20  # bytes
SHOWN = 200  # most characters of a server's message, or of an answer, in one of ours
# What a call raises if it fails before a whole reply is there.
FAILURES = (OSError, http.client.HTTPException, ValueError)


def key_to_send() -> str:
    """The key that the environment holds now; "" for none. A variable that is set to nothing counts
    as well. UsageError if the key cannot stand in a header."""
    name = next((name for name in KEY_VARIABLES if name in os.environ), KEY_VARIABLES[0])
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{name} contains a character that no key has; set it again")
    return key


def blotted(text: str, least: int = SHORT_KEY) -> str:
    """The text with "(the key)" for the key, if the key has at least so many characters."""
    key = key_to_send()
    if len(key) >= least:
        for form in {key, quote(key, safe=""), json.dumps(key)[1:-1]}:
            text = text.replace(form, "(the key)")
    return text


def shown(text: str) -> str:
    """The text for a message: one line of at most SHOWN characters, without the key, and with
    control characters escaped."""
    line = " ".join(blotted(text).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


def within(seconds: float, function: Callable):
    """What function() returns or raises; TimeoutError if it takes longer.

    It runs in a thread. A socket's own timeout is for one read only, and a server that sends single
    bytes never reaches it."""
    outcome = []

    def run():
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    result = outcome[0] if outcome else TimeoutError(f"no whole reply in {seconds:g} s")
    if isinstance(result, Exception):
        raise result
    return result


def reason_of(error: Exception) -> str:
    """Why a call failed, for a message."""
    if isinstance(error, urllib.error.URLError):
        error = error.reason  # another exception, or a text
    if isinstance(error, str):
        return shown(error)
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        # The text may show the URL of a proxy with its password.
        return "the name of the host, or the URL of the proxy, is not usable"
    text = getattr(error, "strerror", None) or str(error)
    name = type(error).__name__
    return shown(text if text.startswith(name) else f"{name}: {text}")


def retry_after(value: str | None) -> float:
    """The seconds that a Retry-After header asks to wait; 0 or less for none, or if it is
    missing or unreadable."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value or ""):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        return (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return 0


def message_of(body: bytes) -> str:
    """The message in the body of an error; the whole body if it has none."""
    try:
        reply = json.loads(body)
        error = reply.get("error", reply)
        return str(error if isinstance(error, str) else error.get("message") or reply)
    except (ValueError, AttributeError, RecursionError):
        return re.sub("<[^>]*>", " ", body.decode("utf-8", "replace"))  # often a page of HTML


def content_of(body: bytes) -> tuple[str, str | None]:
    """The text and the finish_reason of a chat completion; ValueError or RecursionError if the body
    is none.

    The text may come as a list of parts, of which those of type "text" count. A refusal in a field
    of its own is a text too. The text is "" if there is none because max_tokens was reached or a
    filter removed it."""
    if len(body) > LARGEST_BODY:
        raise ValueError(f"longer than {LARGEST_BODY} bytes")
    reply = json.loads(body)
    try:
        choice = reply["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content = message.get("content")
        if not content and message.get("refusal"):
            content = message["refusal"]
        if isinstance(content, list):
            content = "".join([p["text"] for p in content if p.get("type", "text") == "text"])
        if content is None and finish in ("length", "content_filter"):
            content = ""
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(
            f"choices[0].message is missing or of another form: {message_of(body)}"
        ) from None
    if not isinstance(content, str):
        raise ValueError("choices[0].message.content is not a text")
    # Half of a surrogate pair cannot be written to a file.
    return re.sub("[\ud800-\udfff]", "\ufffd", content), finish


def is_temporary(status: int) -> bool:
    """True if the same request may succeed later, although the server answered with this status."""
    return status in (408, 409, 425, 429) or (status >= 500 and status not in (501, 505))
