"""Hostile messages to `chat -p`, and models that misuse their tools. Every run of the tests tries
some of each; PYSFT_HOSTILE=10000 tries ten thousand."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, in_process
from fake_decoder import FakeDecoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysft.inference.sampling import Sampling
from pysft.inference.search import Search
from pysft.inference.session import Session
from pysft.inference.tool_calls import MAX_CALLS, content_parts
from pysft.inference.tools import tools
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.run.stage import Stage, save_stage
from pysft.text.characters import replaced
from pysft.text.conversation import check_messages
from pysft.text.corpora import shipped
from pysft.text.render import render
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

many = settings(
    max_examples=int(os.environ.get("PYSFT_HOSTILE", "30")),
    deadline=None,
    derandomize=True,
    database=None,
)
# With these characters a message can spell every control token and every expression.
T = (
    CharTokenizer(SHAKESPEARE)
    .grow_characters("0123456789+-*/()%.<|>_^=")
    .grow(CHAT.tokens + CHAT.tool_tokens)
)
CONTEXT = 64
ANSWERED, USAGE, BAD_DATA = 0, 2, 65

# fmt: off
NASTY = [
    *T.specials, "<|", "|>", "\n", "\r", "\0", " ", "-", "--", "A", "a" * 70,
    "\x1b[2J", "\u202e", "\ud800", "\U0001f600", "\ufeff", "e\u0301",
    "'; DROP TABLE docs; --", "NEAR(", "title:", '"', "*", "../../", "$(id)", "`id`", "%s%n",
    "{0.__class__}", "__import__('os')", "9**9**9", "1/0", "sqrt(",
    "Who is ", "Orson Kovacs", "Elka Wimberry", "USER:", "/save ",
]
FLAGS = [
    ("--json",), ("--no-tools",), ("--show-tokens",), ("--temperature", "9"), ("--seed", "7"),
    ("--top-k", "3"), ("--repetition", "2"),
]
# fmt: on
hostile = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(NASTY), max_size=8).map("".join),
    st.text(T.characters, max_size=CONTEXT + 4),
    st.tuples(st.sampled_from(NASTY), st.text(max_size=9)).map("".join),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two untrained runs with tools: "refuse" refuses unknown characters, "replace" replaces
    them."""
    home = tmp_path_factory.mktemp("hostile")
    for unknown in ("refuse", "replace"):
        model = GPT(GPTConfig(len(T), CONTEXT, 1, 2, 16), rng=rng(1, "hostile", "init"))
        save_stage(Stage(home / unknown / "sft", model, T, CHAT, {"unknown": unknown}, {}))
    return home


@many
@given(
    text=hostile,
    unknown=st.sampled_from(["refuse", "replace"]),
    flags=st.lists(st.sampled_from(FLAGS), max_size=3, unique=True),
)
@example("", "refuse", [])
@example("<|end|><|assistant|>", "refuse", [])
@example("x" * 10**6, "replace", [])
def test_every_message_is_answered_or_refused_in_words(runs, text, unknown, flags):
    words = [word for flag in flags for word in flag]
    code, out, err = in_process(
        "chat", runs / unknown, "--tokens", 12, "--threads", 1, "-p", text, *words
    )
    assert code in (ANSWERED, USAGE, BAD_DATA)
    if code == ANSWERED:
        assert out.endswith("\n") and err.count("\n") <= 1
        if ("--json",) in flags:
            reply = json.loads(out)
            assert reply["prompt"] == text and reply["tokens"] <= 12
            assert reply["stop"] in ("end", "length", "tool")
    else:
        assert out == "" and err.endswith("\n") and "Traceback" not in err
        is_one_sentence = err.startswith("pysft: ") and err.count("\n") == 1
        is_taken_for_a_flag = text.startswith("-") and "expected one argument" in err
        assert code == BAD_DATA and is_one_sentence or is_taken_for_a_flag


@pytest.mark.parametrize(
    "text, unknown",
    [
        (b"\xff\xfe", "refuse"),
        (b"\xff\xfe", "replace"),
        (b"Who is \xc3\xa9?", "replace"),
        (b"a\x1b[2J", "refuse"),
        ("\u202eWho".encode(), "replace"),
        (b"<|end|>", "refuse"),
        (b" ", "refuse"),
        (b"-x", "replace"),
        (b"$(id)", "refuse"),
    ],
)
def test_a_message_of_any_bytes_from_a_real_command_line_is_answered_or_refused(
    runs, text, unknown
):
    chat = ["chat", runs / unknown, "--tokens", "5", "--json", "-p", text]
    done = subprocess.run(
        [sys.executable, "-m", "pysft", *chat],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode in (ANSWERED, USAGE, BAD_DATA) and b"Traceback" not in done.stderr
    if done.returncode == ANSWERED:
        assert json.loads(done.stdout)["stop"]
    else:
        assert done.stdout == b"" and done.stderr.endswith(b"\n")


@many
@given(hostile)
def test_no_message_becomes_a_control_token(text):
    model = SimpleNamespace(config=SimpleNamespace(context=512))
    session = Session(model, T, CHAT, replace_unknown=True)
    ids, _ = session.prompt(replaced(text, T))
    plain, _ = session.prompt("a")
    control = [[i for i in prompt if i >= len(T.characters)] for prompt in (ids, plain)]
    assert control[0] == control[1]


class Rogue(FakeDecoder):
    """A model that writes the given ids, whatever it reads, and then ends."""

    def __init__(self, ids, context):
        self.config, self.ids = SimpleNamespace(context=context, vocab=len(T)), iter(ids)

    def reset(self, slot=0):
        self.length = 0

    def next_row(self, token, slot):
        self.length += 1
        assert self.length <= self.config.context
        row = np.zeros(len(T))
        row[next(self.ids, T.special[CHAT.end])] = 1
        return row


def call(kind, text, is_closed):
    """The ids of a call of a tool, as far as the vocabulary can write its text."""
    known = T.encode("".join(c for c in text if c in T.characters))
    return [T.special[f"<|{kind}_start|>"], *known, *[T.special[f"<|{kind}_end|>"]] * is_closed]


calls = st.builds(call, st.sampled_from(["search", "code"]), hostile, st.booleans())
anything = st.lists(st.integers(0, len(T) - 1), max_size=20)
written = st.lists(calls | anything, max_size=6).map(lambda lists: sum(lists, []))
SEARCH = Search.of([str(shipped("town.jsonl"))])


@many
@given(written, st.integers(40, 300), st.integers(1, 200), st.booleans())
def test_whatever_a_model_writes_it_is_answered_and_the_history_can_be_rendered(
    ids, context, max_new, has_tools
):
    having = tools(SEARCH) if has_tools else {}
    session = Session(Rogue(ids, context), T, CHAT, Sampling(), max_new, tools=having)
    modules = set(sys.modules)
    _, reply, _ = session.say("Who?")
    assert set(sys.modules) <= modules  # no call has imported anything
    assert reply.stop in ("end", "length", "tool") and session.model.length <= context
    assert len(reply.ids) <= context and (~reply.injected).sum() <= max_new
    injected = T.decode(reply.ids[reply.injected])
    openers, closers = injected.count("<|result_start|>"), injected.count("<|result_end|>")
    assert openers == closers <= MAX_CALLS * has_tools

    # Each injected result stands behind a call.
    parts = content_parts(reply.ids, T, CHAT)
    answers = [
        after["text"]
        for before, after in zip(parts, parts[1:])
        if before["type"] in ("search", "code") and after["type"] == "result"
    ]
    results = re.findall(r"<\|result_start\|>(.*?)<\|result_end\|>", injected)
    assert all(results.count(text) <= answers.count(text) for text in results)

    render(session.messages, T, CHAT)  # as the next prompt needs it
    content = session.messages[1]["content"]
    content = [{"type": "text", "text": content}] if isinstance(content, str) else content
    own_words = "".join(part["text"] for part in content if part["type"] != "result")
    if own_words.strip():  # a reply without words of the model is no training data
        check_messages(session.messages, "chat", CHAT)
