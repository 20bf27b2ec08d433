"""Asking a chat endpoint that misbehaves: nothing is lost, nothing is asked twice, no budget is
exceeded, and the key stays secret."""

import contextlib
import email.utils
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

from pysft.errors import UsageError
from pysft.measure import wire
from pysft.measure.endpoint import ANSWERS, UNBEGUN, Asker, Endpoint, EndpointError

KEY = 'sk-test/0123456789-"abc'  # with characters that JSON and URLs escape


def chat(content, finish="stop", **message):
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content, **message}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode()


def reply(body=None, status=200, **headers):
    """A behaviour of the server: it answers with this. body: None for a good completion."""

    def behave(handler):
        text = chat("yes") if body is None else body if isinstance(body, bytes) else body.encode()
        handler.send_response(status)
        for name, value in {"Content-Length": len(text), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(text)

    return behave


def silent(handler):
    """Close the connection without a reply."""


def reset(handler):
    """Reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.rfile.close()
    handler.wfile.close()
    handler.connection.close()


def hangs(handler):
    """Reply nothing until the test is over."""
    handler.server.over.wait(10)


def cut_body(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + chat("yes")[:30])


def cut_chunk(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{")


def no_http(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")


def drips(start):
    """A behaviour: after `start`, a byte now and then until the client goes away."""

    def behave(handler):
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            while not handler.server.over.wait(0.02):
                handler.wfile.write(b" ")

    return behave


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.seen(self)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    """Behaves by `plan`, a behaviour for each request in turn, and then well. bodies, paths and
    keys are what it was sent."""

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.plan, self.bodies, self.paths, self.keys = [], [], [], []
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def seen(self, handler):
        self.bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.paths.append(handler.path)
        self.keys.append(handler.headers["Authorization"])
        (self.plan.pop(0) if self.plan else reply())(handler)

    def handle_error(self, request, address):
        pass  # a client that went away

    def stop(self):
        self.over.set()
        self.shutdown()
        self.server_close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """No proxy and no key from outside."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in wire.KEY_VARIABLES:
            monkeypatch.delenv(name)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


class Recorded:
    """An Asker whose messages and waits are recorded."""

    __test__ = False

    def __init__(self, server, cache=None, sleep=None, **settings):
        url = server if isinstance(server, str) else server.url
        self.messages, self.waits = [], []
        self.endpoint = Endpoint(url, "judge", cache=cache, **{"timeout": 20, **settings})
        self.asker = Asker(self.endpoint, self.messages.append, sleep or self.waits.append)
        self.figures = self.asker.figures

    def ask(self, text="Is it good?", check=None, **settings):
        return self.asker.ask([{"role": "user", "content": text}], check, **settings)

    def fails(self, text="Is it good?", check=None):
        with pytest.raises(EndpointError) as caught:
            self.ask(text, check)
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
        return str(caught.value)

    @property
    def counts(self):
        """The figures that are not 0."""
        return {name: n for name, n in self.figures.items() if n}


def holds(condition):
    """True as soon as the condition is true, within 20 seconds: the server has threads of its own,
    which a busy machine may let wait."""
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def is_yes(text):
    if text != "yes":
        raise ValueError("neither yes nor no")


# ------------------------------------------------------------------------------- asking and URLs


def test_a_question_is_sent_as_a_chat_completion_with_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    test = Recorded(server)
    assert test.ask(max_tokens=7) == "yes"
    assert server.paths == ["/v1/chat/completions"]
    assert json.loads(server.bodies[0]) == {
        "model": "judge",
        "messages": [{"role": "user", "content": "Is it good?"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }
    monkeypatch.setenv("PYSFT_JUDGE_KEY", f" {KEY}\n")
    test.ask("b")
    monkeypatch.setenv("PYSFT_JUDGE_KEY", "")  # no key, whatever the other variable holds
    test.ask("c")
    assert server.keys == ["Bearer other", f"Bearer {KEY}", None]
    assert test.counts == {"calls": 3} and test.messages == []


@pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
def test_a_url_may_end_with_the_path_of_chat_completions(end):
    assert Endpoint("http://host:8000/v1" + end, "m").url == "http://host:8000/v1"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hush-hush@host/v1",
        "https://hush-hush@host/v1",
        "http://host/v1?key=hush-hush",
        "http://host/v1#hush-hush",
        "hush-hush",
        "ftp://host/hush-hush",
        "http:///hush-hush",
        "http://host:hush-hush/v1",
        "http://[hush-hush/v1",
        "http://host/v1\nhush-hush: 1",
        "http://host/hush-hush\u00e9",
        f"http://host/{KEY}/v1",
    ],
)
def test_a_url_that_is_not_usable_is_refused_and_not_shown(url, monkeypatch):
    monkeypatch.setenv("PYSFT_JUDGE_KEY", KEY)
    with pytest.raises(UsageError, match="http://host:8000/v1") as caught:
        Endpoint(url, "m")
    assert "hush-hush" not in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"timeout": 0}, {"first_wait": -1}])
def test_a_number_that_is_not_usable_is_refused(wrong):
    with pytest.raises(UsageError, match="above 0"):
        Endpoint("http://host/v1", "m", **wrong)


# ------------------------------------------------------------------------- failures that may pass


@pytest.mark.parametrize(
    "fault, reason",
    [
        (reply("busy", 408), "408 .busy"),
        (reply("", 409), "409"),
        (reply("", 425), "425"),
        (reply(json.dumps({"error": {"message": "slow down"}}), 429), "429 .slow down"),
        (reply("<html><h1>Oh no</h1>", 500), "500 .Oh no"),
        (reply(json.dumps({"error": "no model"}), 502), "502 .no model"),
        (reply(b"\xff\x00\x1b[31m", 503), r"503 .\ufffd\\x00\\x1b\[31m"),
        (reply("", 504), "504"),
        (reply("", 529), "529"),
        (silent, "closed connection"),
        (reset, "[Rr]eset"),
        (cut_body, "IncompleteRead"),
        (cut_chunk, "IncompleteRead"),
        (no_http, "BadStatusLine: SSH"),
        (reply("hello"), "no chat completion"),
        (reply(""), "no chat completion"),
        (reply("[" * 100_000), "no chat completion"),
        (reply("[1]"), "no chat completion"),
        (reply("{}"), "no chat completion"),
        (reply('{"choices": []}'), "no chat completion"),
        (reply('{"error": {"message": "overloaded"}}'), "no chat completion .*overloaded"),
        (reply(chat(None)), "not a text"),
        (reply(chat(5)), "not a text"),
        (reply(chat([{"type": "text"}])), "no chat completion"),
        (reply(b" " * (2**20 + 1) + chat("yes")), "longer than 1048576 bytes"),
        (reply(chat("yes")[:-9]), "no chat completion"),
    ],
)
def test_a_failed_call_is_repeated_with_waits_that_double(server, fault, reason):
    server.plan = [fault] * 3
    test = Recorded(server)
    assert test.ask() == "yes"
    assert test.waits == [1, 2, 4] and len(test.messages) == 3
    assert test.counts == {"calls": 4, "retried": 3} and len(server.bodies) == 4
    assert re.search(reason, test.messages[0]), test.messages[0]
    assert test.messages[0].endswith("Call 2 of 5 in 1 s")


def test_waits_end_at_the_longest_and_tries_at_their_number(server, tmp_path):
    test = Recorded(server, tmp_path, longest_wait=3, tries=6)
    assert test.ask("first") == "yes"
    server.plan = [reply("down", 500)] * 6
    message = test.fails()
    assert "6 calls gave no answer" in message and "status 500 (down)" in message
    assert "kept in" in message and "the same command goes on" in message
    assert test.waits == [1, 2, 3, 3, 3] and len(server.bodies) == 7
    assert Recorded(server, tmp_path).ask("first") == "yes" and len(server.bodies) == 7


@pytest.mark.parametrize(
    "value, wait",
    [
        ("7", 7),
        ("0.5", 1),
        ("2.5", 2.5),
        ("0", 1),
        ("-5", 1),
        ("86400", 60),
        ("9" * 999, 60),
        ("soon", 1),
        ("nan", 1),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ("Wed, 99 Oct 9999 07:28:00 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60),
    ],
)
def test_the_server_may_ask_for_a_longer_wait(server, value, wait):
    server.plan = [reply("", 429, Retry_After=value)]
    test = Recorded(server)
    assert test.ask() == "yes" and test.waits == [wait]


def test_the_server_may_ask_to_wait_until_a_date(server):
    server.plan = [
        reply("", 503, Retry_After=email.utils.formatdate(time.time() + 40, usegmt=True))
    ]
    test = Recorded(server)
    assert test.ask() == "yes" and 20 < test.waits[0] <= 40


@pytest.mark.parametrize(
    "slow",
    [
        hangs,
        drips(b"HTTP/1.1 200 OK\r\n\r\n"),
        drips(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"),
        drips(b"HTTP/1.1 200 OK\r\nX-Drip:"),
        drips(b""),
    ],
)
def test_a_call_ends_at_its_timeout_even_if_single_bytes_come(server, slow):
    server.plan = [slow, slow]
    test, start = Recorded(server, tries=2, timeout=0.1), time.monotonic()
    message = test.fails()
    assert time.monotonic() - start < 5
    assert "TimeoutError" in message and test.waits == [1]
    assert holds(lambda: len(server.bodies) == 2)


def test_a_body_without_end_is_read_up_to_a_limit(server):
    def flood(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while not handler.server.over.is_set():
                handler.wfile.write(b" " * 2**16)

    server.plan = [flood]
    assert "longer than 1048576 bytes" in Recorded(server, tries=1).fails()


def test_a_drip_does_not_hold_a_thread_for_ever(server):
    before = threading.active_count()
    server.plan = [drips(b"HTTP/1.1 200 OK\r\n\r\n")]
    Recorded(server, tries=1, timeout=0.1).fails()
    assert holds(lambda: threading.active_count() <= before)


def test_an_endpoint_that_dies_and_comes_back_costs_nothing_but_calls(tmp_path):
    first = Server()
    servers = [first]

    def wait(seconds):
        if len(waits) == 2:  # it comes back at the same address
            servers.append(Server(first.server_address[1]))
        waits.append(seconds)

    waits, texts = [], [f"question {i}" for i in range(6)]
    test = Recorded(first, tmp_path, sleep=wait)
    for i, text in enumerate(texts):
        if i == 3:
            first.stop()
        assert test.ask(text) == "yes"
    assert waits == [1, 2, 4] and "efused" in test.messages[0]
    assert len(first.bodies) == len(servers[1].bodies) == 3
    assert len({*first.bodies, *servers[1].bodies}) == 6
    servers[1].stop()
    again = Recorded(first, tmp_path)  # nobody is there any more
    assert [again.ask(text) for text in texts] == ["yes"] * 6
    assert again.counts == {"cached": 6}
    assert "efused" in again.fails("new") and again.figures["calls"] == 5


# ------------------------------------------------------------------------------ other forms, limits


@pytest.mark.parametrize(
    "body, text",
    [
        (chat([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]), "yes"),
        (chat([{"type": "thinking", "thinking": []}, {"type": "text", "text": "yes"}]), "yes"),
        (chat(""), ""),
        (chat(None, refusal="I cannot"), "I cannot"),
        (chat(None, "content_filter"), ""),
        (chat("a\ud800\U0001f600"), "a\ufffd\U0001f600"),
        (b"\xef\xbb\xbf" + chat("yes"), "yes"),
    ],
)
def test_other_forms_of_an_answer_are_read(server, tmp_path, body, text):
    server.plan = [reply(body)]
    test = Recorded(server, tmp_path)
    assert test.ask() == text and Recorded(server, tmp_path).ask() == text
    assert len(server.bodies) == 1


def unbegun(content=""):
    """A behaviour: all of max_tokens went into thoughts."""
    return reply(chat(content, "length", reasoning_content="Let me see"))


@pytest.mark.parametrize("content", ["", " \n", None, []])
def test_an_answer_that_had_no_room_to_begin_is_kept_and_not_asked_for_again(
    server, tmp_path, content
):
    server.plan = [unbegun(content)]
    for counts in ({"calls": 1, "cut": 1}, {"cached": 1, "cut": 1}):
        test = Recorded(server, tmp_path)
        assert test.ask().strip() == "" and test.counts == counts
    assert len(server.bodies) == 1 and test.messages == test.waits == []


@pytest.mark.parametrize("check", [is_yes, lambda text: None])
def test_where_a_form_is_wanted_an_answer_that_did_not_begin_is_asked_for_again(
    server, tmp_path, check
):
    server.plan = [reply(), unbegun(), reply(), *[unbegun()] * ANSWERS]
    for _ in range(2):
        test = Recorded(server, tmp_path)
        assert [test.ask(text, check) for text in "abc"] == ["yes", "yes", None]
        assert "(max_tokens was reached before it began)" in test.messages[0]
    assert len(server.bodies) == 3 + ANSWERS and test.counts["cached"] == 3


@pytest.mark.parametrize("check, answers", [(None, 1), (is_yes, ANSWERS)])
def test_a_model_of_which_no_answer_begins_is_an_error_and_one_that_has_begun_is_none(
    server, tmp_path, check, answers
):
    server.plan = [unbegun()] * answers * UNBEGUN
    for _ in range(2):  # the second time from the cache
        test = Recorded(server, tmp_path)
        for n in range(UNBEGUN - 1):
            assert not test.ask(f"{n}", check)
        assert "max_tokens" in test.fails(f"{UNBEGUN - 1}", check) and test.waits == []
        assert len(server.bodies) == answers * UNBEGUN
    test = Recorded(server, tmp_path)
    assert test.ask("begun", check) == "yes"
    assert not any(test.ask(f"{n}", check) for n in range(UNBEGUN))


def test_an_answer_that_max_tokens_cut_is_counted_now_and_from_the_cache(server, tmp_path):
    server.plan = [reply(chat("Once upon", "length"))]
    for counts in ({"calls": 1, "cut": 1}, {"cached": 1, "cut": 1}):
        test = Recorded(server, tmp_path)
        assert test.ask() == "Once upon" and test.counts == counts


# ----------------------------------------------------------------------------- refusals and the key


@pytest.mark.parametrize(
    "status, remedy",
    [(400, "max_tokens"), (401, "PYSFT_JUDGE_KEY"), (403, "may use"), (404, "URL"), (501, "URL")],
)
def test_a_refusal_is_one_line_with_the_servers_words_and_a_remedy(server, status, remedy):
    server.plan = [reply(json.dumps({"error": {"message": "No\n" + "such " * 100}}), status)]
    test = Recorded(server)
    message = test.fails()
    assert f"status {status} (No such such" in message and remedy in message
    assert len(message) < 200 + 150 and test.waits == [] and test.counts == {"calls": 1}


def test_a_redirect_is_not_followed(server):
    other = Server()
    for status in (301, 302, 303, 307, 308):
        server.plan = [reply("", status, Location=f"{other.url}/chat/completions")]
        message = Recorded(server).fails()
        assert f"status {status}" in message and other.url in message
    assert other.bodies == [] and len(server.bodies) == 5
    other.stop()


def echo(status=200, quoted=False):
    """A behaviour: the key comes back in the body, in the status line and in a header."""

    def behave(handler):
        key = handler.headers["Authorization"]
        body = f"{key} x {wire.quote(KEY, safe='')}"
        body = json.dumps({"error": {"message": body}}) if quoted else body + json.dumps(key)
        handler.send_response(status, key)
        handler.send_header("Location", f"http://host/{key}")
        handler.send_header("Retry-After", key)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return behave


def test_the_key_is_in_no_message_and_in_no_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSFT_JUDGE_KEY", KEY)
    texts = []
    for status in (200, 307, 400, 401, 404, 429, 500):
        for quoted in (False, True):
            server.plan = [echo(status, quoted)] * 2
            test = Recorded(server, tmp_path, tries=2)
            texts += [
                test.fails(f"{status}"),
                *test.messages,
                repr(test.asker),
                repr(test.endpoint),
            ]
    server.plan = [lambda handler: handler.wfile.write(KEY.encode() + b"\r\n")] * 2
    test = Recorded(server, tmp_path, tries=2)
    texts += [test.fails("no http"), *test.messages]
    server.plan = [reply(chat(f"Your key is {KEY}"))] * 3  # even as an answer

    def check(text):
        raise ValueError(f"not good: {text}")

    assert test.ask("a", check) is None
    server.plan = [reply(chat(f"Your key is {KEY}"))]
    texts += [*test.messages, test.ask("b")]
    assert texts[-1] == "Your key is (the key)"
    assert server.keys == [f"Bearer {KEY}"] * len(server.keys)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2  # the answers and the lock
    for text in [*texts, *(path.read_text() for path in files)]:
        for form in (KEY, wire.quote(KEY, safe=""), json.dumps(KEY)[1:-1]):
            assert form not in text


def test_no_part_of_the_key_is_left_where_a_message_is_cut_short(server, monkeypatch):
    monkeypatch.setenv("PYSFT_JUDGE_KEY", KEY)
    for room in range(170, 200, 5):
        server.plan = [reply("x" * room + KEY, 401)]
        assert KEY[:2] not in Recorded(server).fails()


def test_a_short_key_does_not_spoil_answers_but_is_in_no_message(server, monkeypatch):
    monkeypatch.setenv("PYSFT_JUDGE_KEY", "EMPTY")
    server.plan = [reply(chat("EMPTY")), echo(401)]
    test = Recorded(server)
    assert test.ask("a") == "EMPTY"
    assert "EMPTY" not in test.fails("b")
    monkeypatch.setenv("PYSFT_JUDGE_KEY", "x")
    server.plan = [reply("max_tokens", 400)]
    assert "status 400 (max_tokens); check" in test.fails("b")


@pytest.mark.parametrize("key", ["a\nb-secret", "\u00e4-secret", "\x1b-secret"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="OPENAI_API_KEY contains") as caught:
        Recorded(server).ask()
    assert "secret" not in str(caught.value) and server.bodies == []


# -------------------------------------------------------------------------------- proxies and TLS


def test_a_proxy_is_used_for_other_hosts_only(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    assert Recorded("http://judge.invalid/v1").ask() == "yes"
    assert server.paths == ["http://judge.invalid/v1/chat/completions"]
    monkeypatch.setenv("http_proxy", "http://judge.invalid:9")
    assert Recorded(server).ask() == "yes"
    assert Recorded(server.url.replace("127.0.0.1", "localhost")).ask() == "yes"
    monkeypatch.setenv("http_proxy", "http://user:hush-hush@:x/y")  # a proxy that is not usable
    for proxy in ("http:/user:hush-hush@host", "socks5://user:hush-hush@host:1"):
        monkeypatch.setenv("http_proxy", proxy)
        assert "hush-hush" not in Recorded("http://judge.invalid/v1", tries=1).fails()


def test_a_key_in_plain_http_to_another_host_is_warned_of(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    monkeypatch.setenv("PYSFT_JUDGE_KEY", KEY)
    test = Recorded("http://judge.invalid/v1")
    assert test.ask() == "yes" and server.keys == [f"Bearer {KEY}"]
    assert len(test.messages) == 1 and "plain http" in test.messages[0]
    for url in ("https://judge.invalid/v1", "http://localhost:1/v1", "http://[::1]:1", server.url):
        assert Recorded(url).messages == []
    monkeypatch.delenv("PYSFT_JUDGE_KEY")
    assert Recorded("http://judge.invalid/v1").messages == []


def test_a_server_without_tls_is_named(server):
    message = Recorded(server.url.replace("http", "https"), tries=1).fails()
    assert "SSLError" in message


# -------------------------------------------------------------------------------- the form: check


def test_an_answer_of_another_form_is_asked_for_again_and_only_a_good_one_counts(server, tmp_path):
    server.plan = [reply(chat("maybe\x1b[2J" + "." * 500)), reply(chat("no idea"))]
    test = Recorded(server, tmp_path)
    assert test.ask(check=is_yes) == "yes"
    assert test.counts == {"calls": 3, "malformed": 2} and len(test.messages) == 2
    assert "neither yes nor no" in test.messages[0] and r"maybe\x1b[2J..." in test.messages[0]
    assert "\x1b" not in test.messages[0] and len(test.messages[0]) < 350
    for check in (is_yes, None):
        again = Recorded(server, tmp_path)
        assert again.ask(check=check) == "yes" and len(server.bodies) == 3
        assert again.counts == {"cached": 1} | ({"malformed": 2} if check else {})


def test_a_question_is_left_out_after_three_answers_and_stays_so(server, tmp_path):
    server.plan = [reply(chat("maybe"))] * 3
    test = Recorded(server, tmp_path)
    assert test.ask(check=is_yes) is None
    assert test.counts == {"calls": 3, "malformed": 3, "left_out": 1}
    again = Recorded(server, tmp_path)
    assert again.ask(check=is_yes) is None and len(server.bodies) == 3
    assert again.counts == {"cached": 1, "malformed": 3, "left_out": 1}
    assert again.messages == test.messages and "left out" in again.messages[-1]
    # A check that is more lenient finds the answers there, and an answer that failed is no answer
    # to a question without a check.
    assert Recorded(server, tmp_path).ask(check=str) == "maybe" and len(server.bodies) == 3
    assert Recorded(server, tmp_path).ask() == "yes" and len(server.bodies) == 4


def test_a_stored_answer_that_fails_another_check_is_asked_for_again(server, tmp_path):
    server.plan = [reply(chat("maybe"))]
    test = Recorded(server, tmp_path)
    assert test.ask() == "maybe" and test.ask(check=is_yes) == "yes" and test.ask() == "maybe"
    assert len(server.bodies) == 2


# ------------------------------------------------------------------------------------- the budget


def test_the_budget_is_kept_exactly_and_the_same_command_goes_on(server, tmp_path):
    texts, answered = [f"question {i}" for i in range(7)], []
    server.plan = [reply(), reply("", 500), reply(chat("maybe"))]
    for calls in (3, 6, 9):
        test = Recorded(server, tmp_path, budget=3)
        with contextlib.suppress(EndpointError):
            answered = [test.ask(text, is_yes) for text in texts]
        assert len(server.bodies) == calls and test.figures["calls"] == 3
    assert answered == ["yes"] * 7
    # Each question was asked once, and one twice more: for the failed call and the failed check.
    assert sorted(Counter(server.bodies).values()) == [1] * 6 + [3]
    assert test.waits == []


def test_a_budget_that_is_used_up_says_what_was_done_and_how_to_go_on(server, tmp_path):
    Recorded(server, tmp_path).ask("a")
    test = Recorded(server, tmp_path, budget=1)
    test.ask("a"), test.ask("b")
    message = test.fails("c")
    assert "budget of 1 calls" in message and "1 were made" in message and "1 questions" in message
    assert str(tmp_path) in message and "the same command goes on" in message
    assert test.ask("a") == test.ask("b") == "yes"  # what is stored needs no call
    assert "no answer is kept" in Recorded(server, budget=0).fails()
    assert len(server.bodies) == 2


def test_no_wait_is_made_for_a_call_that_the_budget_forbids(server):
    server.plan = [reply("", 429, Retry_After="50")]
    test = Recorded(server, budget=1)
    assert "budget" in test.fails() and test.waits == []


# -------------------------------------------------------------------------------------- the cache


def test_nothing_is_asked_twice_in_one_process_or_the_next(server, tmp_path):
    for cache in (None, tmp_path / "folder", tmp_path / "new" / "file.jsonl"):
        server.bodies.clear()
        test = Recorded(server, cache)
        assert test.ask("a") == test.ask("a", temperature=0.0) == "yes"
        assert test.ask("a", temperature=1) == test.ask("a", max_tokens=9) == "yes"
        assert test.counts == {"calls": 3, "cached": 1}
        if cache is not None:
            moved = Recorded("http://localhost:1/v1", cache)  # the host is no part of the question
            assert moved.ask("a") == "yes" and moved.counts == {"cached": 1}
        assert len(set(server.bodies)) == len(server.bodies) == 3
    assert (tmp_path / "folder" / "answers.jsonl").is_file()
    assert (tmp_path / "new" / "file.jsonl").is_file()


def test_an_answer_is_synced_to_the_disk_before_it_is_returned(server, tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (synced.append(os.fstat(n).st_size), real(n)))
    Recorded(server, tmp_path).ask()
    assert (tmp_path / "answers.jsonl").stat().st_size in synced


def test_a_kill_in_the_middle_of_writing_costs_the_last_answer_at_most(server, tmp_path):
    file = tmp_path / "answers.jsonl"
    for text in "abc":
        Recorded(server, tmp_path).ask(text)
    whole = file.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for end in [last + 1, last + 5, last + 30, len(whole) - 2, len(whole) - 1]:
        file.write_bytes(whole[:end])
        server.bodies.clear()
        test = Recorded(server, tmp_path)
        assert [test.ask(text) for text in "abc"] == ["yes"] * 3 and test.messages == []
        assert len(server.bodies) == (end < len(whole) - 1)
        assert file.read_bytes() == whole


def test_a_tear_that_is_seen_only_when_an_answer_is_added_is_mended(server, tmp_path):
    test, file = Recorded(server, tmp_path), tmp_path / "answers.jsonl"
    test.ask("a")
    with open(file, "ab") as f:
        f.write(b'{"key": "dead')  # another process was killed
    test.ask("b")
    again = Recorded(server, tmp_path)
    assert again.ask("a") == again.ask("b") == "yes" and again.messages == []
    assert len(server.bodies) == len(file.read_bytes().splitlines()) == 2


def test_damaged_lines_are_named_and_cost_their_own_answers_only(server, tmp_path):
    file = tmp_path / "answers.jsonl"
    for text in "abcd":
        Recorded(server, tmp_path).ask(text)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:40] + b"\n"
    lines[2] = b"\0" * 9 + b"\xff\n"
    file.write_bytes(b"".join([*lines, b"\n"]))
    test = Recorded(server, tmp_path)
    assert len(test.messages) == 1 and "damaged lines: 2, 3 (2 in all)" in test.messages[0]
    assert [test.ask(text) for text in "abcd"] == ["yes"] * 4
    assert test.counts == {"calls": 2, "cached": 2}


def test_a_file_that_is_no_cache_is_left_alone(server, tmp_path):
    file = tmp_path / "poem.txt"
    file.write_text("A rose\nis a rose")
    with pytest.raises(UsageError, match="holds no answers"):
        Recorded(server, file)
    assert file.read_text() == "A rose\nis a rose" and os.listdir(tmp_path) == ["poem.txt"]


def test_a_cache_that_is_replaced_or_removed_is_read_anew(server, tmp_path):
    test, file = Recorded(server, tmp_path), tmp_path / "answers.jsonl"
    test.ask("a"), test.ask("b"), test.ask("b")
    old = file.read_bytes().splitlines(keepends=True)
    file.unlink()
    test.ask("c")
    (tmp_path / "x").write_bytes(old[0] + file.read_bytes())
    os.replace(tmp_path / "x", file)
    assert test.ask("a") == test.ask("c") == test.ask("b") == "yes"
    a, b, c = server.bodies[:3]
    assert server.bodies == [a, b, c, b] and len(file.read_bytes().splitlines()) == 3
    again = Recorded(server, tmp_path)
    assert [again.ask(text) for text in "abc"] == ["yes"] * 3 and again.messages == []


PROCESS = """
import sys
from pysft.measure.endpoint import Asker, Endpoint
asker = Asker(Endpoint(sys.argv[1], "judge", cache=sys.argv[2]))
for i in map(int, sys.argv[3:]):
    assert asker.ask([{"role": "user", "content": f"question {i}"}]) == "yes"
print(asker.figures["calls"], asker.figures["cached"])
"""


def started(server, cache, order):
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, server.url, str(cache), *map(str, order)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_with_one_cache_ask_each_question_once(server, tmp_path):
    def slow(handler):
        time.sleep(0.01)
        reply()(handler)

    server.plan = [slow] * 40
    processes = [started(server, tmp_path, order) for order in (range(12), range(12))]
    outputs = [process.communicate(timeout=30)[0].split() for process in processes]
    assert len(server.bodies) == len(set(server.bodies)) == 12
    assert [sum(map(int, column)) for column in zip(*outputs)] == [12, 12]
    assert len((tmp_path / "answers.jsonl").read_bytes().splitlines()) == 12


def test_a_process_that_is_killed_in_the_middle_of_a_question_leaves_no_lock(server, tmp_path):
    def kill(handler):
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    server.plan = [reply(), reply(), kill]
    process = started(server, tmp_path, range(5))
    process.communicate(timeout=30)
    test = Recorded(server, tmp_path)
    assert [test.ask(f"question {i}") for i in range(5)] == ["yes"] * 5
    assert test.counts == {"calls": 3, "cached": 2}
    assert sorted(Counter(server.bodies).values()) == [1, 1, 1, 1, 2]
