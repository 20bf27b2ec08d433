"""Ask a model behind an OpenAI-compatible chat endpoint: a judge or a teacher.

Every answer is kept on disk, so no question is asked twice, and a command that was stopped goes on
where it stopped. The server's key is read from the environment for each call and kept nowhere."""

import hashlib
import http.client
import ipaddress
import json
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pysft.errors import PysftError, UsageError
from pysft.measure import wire
from pysft.measure.answers import Answers

ANSWERS = 3  # most answers to one question, if the first ones fail the check
UNBEGUN = 20  # questions from the first on without an answer that began, after which none is asked
REMEDIES = {
    400: "check the model's name, max_tokens, and the length of the question",
    401: f"set {wire.KEY_VARIABLES[0]} to a key of this server",
    403: f"set {wire.KEY_VARIABLES[0]} to a key that may use this model",
}


class EndpointError(PysftError):
    """The endpoint refuses a question, no longer answers, or never begins an answer; or the budget
    of calls is used up."""

    def __init__(self, message: str):
        super().__init__(wire.blotted(message))


class BudgetUsed(EndpointError):
    """The budget of calls is used up."""


class _Temporary(Exception):
    """A failed call that may succeed later. args: the reason, and the seconds that the server asks
    to wait."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    url           the base, such as http://host:8000/v1; /chat/completions at its end is dropped
    timeout       seconds for one call, from the connection to the last byte of the reply
    tries         most calls for one answer, if calls fail for a temporary reason
    first_wait    seconds before the second call; each later wait is twice as long
    longest_wait  most seconds of any wait, also of one that the server asks for
    budget        most calls of one Asker, failed ones included; None: no limit
    cache         a file (it exists, or ends with .jsonl) or a folder; None: in memory only

    UsageError if the URL or a number is not usable. It does not show the URL, which may hold a
    password."""

    url: str
    model: str
    timeout: float = 60
    tries: int = 5
    first_wait: float = 1
    longest_wait: float = 60
    budget: int | None = None
    cache: str | Path | None = None

    def __post_init__(self):
        try:
            parts = urlsplit(self.url)
            is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_usable = False
        has_key = wire.blotted(self.url, wire.LONG_KEY) != self.url
        if not is_usable or has_key or re.search("[^!-~]|[?#@]", self.url):
            raise UsageError(
                "the URL of the endpoint is not usable; write it like http://host:8000/v1, without"
                f" a user name, password, key, blank, '?' or '#' ({wire.KEY_VARIABLES[0]} holds"
                " the key)"
            )
        if self.timeout <= 0 or self.tries < 1 or min(self.first_wait, self.longest_wait) < 0:
            raise UsageError("timeout and tries must be above 0, and no wait below 0")
        base = self.url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        object.__setattr__(self, "url", base)

    @property
    def is_loopback(self) -> bool:
        """True if the host is this machine."""
        host = urlsplit(self.url).hostname
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


class Asker:
    """Asks one endpoint, for one thread. Other processes may use the same cache at the same time.

    say(text) shows a message; sleep(seconds) waits. UsageError if the key cannot be sent or the
    cache is another kind of file.

    A question is the model, the messages, max_tokens, the temperature, and the draw if it is asked
    more than once. The URL is no part of it, so a server that moves keeps its answers. Two servers
    that call different weights by one name need a cache each.

    figures, counted from 0 for each Asker:
    calls      requests sent, failed ones included
    cached     questions that stored answers settled, without a call
    retried    calls that repeated a failed one
    malformed  answers that failed the check, stored ones included
    left_out   questions for which ask() returned None
    cut        answers returned that end where max_tokens was reached"""

    def __init__(
        self,
        endpoint: Endpoint,
        say: Callable[[str], None] = print,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.endpoint, self._sleep = endpoint, sleep
        self._say = lambda text: say(wire.blotted(text))
        names = ("calls", "cached", "retried", "malformed", "left_out", "cut")
        self.figures = dict.fromkeys(names, 0)
        is_open = endpoint.url.lower().startswith("http:") and not endpoint.is_loopback
        if is_open and wire.key_to_send():
            self._say(
                f"{endpoint.url}: the key is sent over plain http, where others can read it. Use"
                " https if the server has it"
            )
        self._has_begun, self._unbegun = False, 0  # questions before the first answer that began
        self._answers = Answers(endpoint.cache, self._say)
        # There are no handlers for redirects or error statuses: every reply is returned as it is.
        # By default, urllib would use a proxy for this machine too.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler({} if endpoint.is_loopback else None),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.UnknownHandler(),  # for a proxy that does not speak HTTP
        ):
            self._opener.add_handler(handler)

    def ask(
        self,
        messages: list[dict],
        check: Callable[[str], object] | None = None,
        max_tokens: int = 1024,
        temperature: float = 0,
        draw: str = "",
    ) -> str | None:
        """Return the model's answer to `messages`, [{"role", "content"}, ...].

        check(text) raises a ValueError if the text is not in the form that is wanted. Such an
        answer is shown, and the question is asked again. After ANSWERS of them, stored ones
        included, the question is left out: None is returned, now and by later commands.

        An answer that reached max_tokens before it began, as those of reasoning models may, has no
        text. It is kept like any other. It fails every check, and without a check it is returned
        as "", which figures["cut"] counts.

        draw: names one of several answers to the same messages, for a temperature above 0. It is
        not sent; each draw has an answer of its own in the cache.

        EndpointError if the endpoint refuses the question or does not answer, if none of the first
        UNBEGUN questions has an answer that began, or if the budget is used up; OSError if the
        answer cannot be written to the cache. Answers that came before are kept."""
        model, calls, seen = self.endpoint.model, self.figures["calls"], 0
        request = {"model": model, "messages": messages, "max_tokens": max_tokens}
        request["temperature"] = float(temperature)
        body = json.dumps(request, sort_keys=True, separators=(",", ":")).encode()
        key = hashlib.sha256(body + draw.encode()).hexdigest()
        with self._answers.alone(key):
            stored = iter(self._answers.of(key))
            while check is None or seen < ANSWERS:
                old = next(stored, None)
                answer = old or self._complete(body)
                seen += 1
                if old and old["failed"] and check is None:
                    continue
                self._has_begun |= not _is_unbegun(answer)
                fault = _fault(answer, check)
                if old is None:
                    self._answers.add(key, {**answer, "model": model, "failed": fault is not None})
                if fault is None:
                    break
                self.figures["malformed"] += 1
                self._say(
                    f"{model}: answer {seen} to question {key[:12]} is not in the form that is"
                    f" wanted ({wire.shown(fault)}): {wire.shown(answer['answer'])}"
                )
            else:
                answer = {"answer": None, "cut": False}
                self.figures["left_out"] += 1
                self._say(f"{model}: question {key[:12]} is left out after {seen} answers")
        self.figures["cached"] += self.figures["calls"] == calls
        self.figures["cut"] += answer["cut"]
        self._refuse_unbegun()
        return answer["answer"]

    def _refuse_unbegun(self) -> None:
        """Raise an EndpointError if UNBEGUN questions were asked and no answer ever began."""
        self._unbegun += not self._has_begun
        if not self._has_begun and self._unbegun >= UNBEGUN:
            raise EndpointError(
                f"{self.endpoint.url}: {self.endpoint.model} reached max_tokens before its answer"
                f" began (finish_reason length), as reasoning models do, in each of the first"
                f" {UNBEGUN} questions; allow more tokens, or take a model that thinks less"
            )

    def _complete(self, body: bytes) -> dict:
        """The answer to a request. A call that fails for a temporary reason is repeated."""
        endpoint, figures, reason, asked_for = self.endpoint, self.figures, "", 0
        for turn in range(endpoint.tries):
            if endpoint.budget is not None and figures["calls"] >= endpoint.budget:
                raise BudgetUsed(
                    f"{endpoint.url}: the budget of {endpoint.budget} calls is used up."
                    f" {figures['calls']} were made, and {figures['cached']} questions needed none;"
                    f" {self._answers.kept}"
                )
            if turn:
                wait = max(asked_for, endpoint.first_wait * 2 ** min(turn - 1, 60))
                wait = min(wait, endpoint.longest_wait)
                self._say(
                    f"{endpoint.url}: {reason}. Call {turn + 1} of {endpoint.tries} in"
                    f" {round(wait, 1):g} s"
                )
                self._sleep(wait)
                figures["retried"] += 1
            figures["calls"] += 1
            try:
                return self._call(body)
            except _Temporary as failure:
                reason, asked_for = failure.args
        raise EndpointError(
            f"{endpoint.url}: {endpoint.tries} calls gave no answer, the last one because of this:"
            f" {reason}; {self._answers.kept}"
        )

    def _call(self, body: bytes) -> dict:
        """The answer that one call gives. _Temporary or EndpointError if it gives none."""
        endpoint = self.endpoint
        try:
            status, headers, reply = wire.within(endpoint.timeout, lambda: self._send(body))
        except wire.FAILURES as error:
            raise _Temporary(wire.reason_of(error), 0) from None
        if not 200 <= status < 300:
            message = f"status {status} ({wire.shown(wire.message_of(reply))})"
            if wire.is_temporary(status):
                raise _Temporary(message, wire.retry_after(headers["Retry-After"]))
            remedy = REMEDIES.get(status, "check the URL and the model's name")
            if 300 <= status < 400:
                where = wire.shown(headers["Location"] or "nowhere")
                remedy = f"redirects are not followed, and this one leads to {where}"
            raise EndpointError(f"{endpoint.url}: {message}; {remedy}")
        try:
            text, finish = wire.content_of(reply)
        except (ValueError, RecursionError) as error:
            reason = f"the reply is no chat completion ({wire.shown(str(error))})"
            raise _Temporary(reason, 0) from None
        return {"answer": wire.blotted(text, wire.LONG_KEY), "cut": finish == "length"}

    def _send(self, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request. Return the status, headers and body of the reply. The body may be cut
        off beyond LARGEST_BODY, and that of an error status anywhere."""
        url, timeout, reply = f"{self.endpoint.url}/chat/completions", self.endpoint.timeout, b""
        headers = {"Content-Type": "application/json", "User-Agent": "pysft"}
        request, until = urllib.request.Request(url, body, headers), time.monotonic() + timeout
        if key := wire.key_to_send():
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        with self._opener.open(request, timeout=timeout) as stream:
            try:
                while len(reply) <= wire.LARGEST_BODY and (piece := stream.read1(2**16)):
                    reply += piece
                    if time.monotonic() > until:  # nobody waits for this thread any more
                        raise TimeoutError
                if stream.length and len(reply) <= wire.LARGEST_BODY:
                    raise http.client.IncompleteRead(reply, stream.length)
            except wire.FAILURES:
                if stream.status < 300:
                    raise
            return stream.status, stream.headers, reply


def _is_unbegun(answer: dict) -> bool:
    """True if max_tokens was reached before there was any text."""
    return answer["cut"] and not answer["answer"].strip()


def _fault(answer: dict, check: Callable[[str], object] | None) -> str | None:
    """Why the answer fails the check; None if it does not."""
    if check is None:
        return None
    if _is_unbegun(answer):
        return "max_tokens was reached before it began"
    try:
        check(answer["answer"])
    except ValueError as error:
        return str(error) or "no reason given"
    return None
