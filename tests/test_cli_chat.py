"""`chat` and `generate`."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import conversation, lines, pysft, raising, refusal, sentence, succeeds, toml

from pysft.cli import chat as cli_chat
from pysft.errors import PysftError, UsageError
from pysft.inference import repl, search, tools
from pysft.inference import session as inference_session
from pysft.jobs.town import town_chat
from pysft.run import tree
from pysft.text.corpora import read_corpus
from pysft.text.templates import CHAT

ANSWER = {"prompt", "reply", "stop", "tokens", "tokens_per_s"}  # the names of the --json document


def test_chat_answers_one_message(trained):
    document = succeeds("chat", trained.run, "-p", "Speak of the rose", "--json").document
    assert ANSWER <= document.keys()
    assert document["prompt"] == "Speak of the rose"
    assert document["stop"] in ("end", "length")
    plain = succeeds("chat", trained.run, "-p", "Speak of the rose")
    assert plain.out == document["reply"] + "\n"
    assert ("length" in plain.err) == (document["stop"] == "length")


@pytest.mark.parametrize("stage", ["sft", "base"])
def test_generate_continues_a_text(trained, stage):
    command = ("generate", trained.run / stage, "-p", "KING: ", "--tokens", 7, "--seed")
    document = succeeds(*command, 3, "--json").document
    assert ANSWER <= document.keys()
    assert [document[name] for name in ("prompt", "stop", "tokens")] == ["KING: ", "length", 7]
    assert succeeds(*command, 3).out == "KING: " + document["reply"] + "\n"
    assert succeeds(*command, 4, "--json").document["reply"] != document["reply"]


def test_generate_writes_two_hundred_tokens_or_as_many_as_the_context_holds(trained):
    context = 64
    base = trained.run / "base"
    for prompt in ("K", "KING: "):
        result = succeeds("generate", base, "-p", prompt, "--json")
        room = context - len(prompt)
        assert room <= result.document["tokens"] <= room + 1
        assert f"cut off after {result.document['tokens']} of 200 tokens" in sentence(result)


def test_chat_with_a_base_model_is_refused_and_generate_is_offered(trained):
    error = refusal(2, "chat", trained.run / "base", "-p", "Hi")
    assert "base model" in error
    assert "pysft generate" in error


@pytest.fixture
def chat(trained, monkeypatch):
    """A function that chats with the trained run: it types the lines, then ends the input."""

    def chat(*lines):
        remaining = iter(lines)

        def read(prompt):
            try:
                return next(remaining)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", read)
        return succeeds("chat", trained.run, "--tokens", 8)

    return chat


def test_a_chat_goes_on_after_refused_messages_until_the_end_of_input(chat):
    result = chat("Hi", "", "a@b", "x" * 60, "/clear", "Go")
    assert result.out.count("bot> ") == 2
    assert "forgotten" in result.out
    unknown, too_long = result.err.splitlines()
    assert "'@' (U+0040) at position 1" in unknown
    assert "shorten the prompt" in too_long


def test_a_chat_reports_that_old_exchanges_were_dropped(chat):
    result = chat(*["x" * 20] * 4, "/quit", "never reached")
    assert "dropped" in result.out
    assert result.out.count("bot> ") == 4


@pytest.mark.parametrize(
    "flags, code, text",
    [
        (("-p", ""), 65, "empty"),
        (("-p", "a8"), 65, "'8' (U+0038) at position 1"),
        (("-p", "x" * 99), 65, "shorten"),
        (("--json",), 2, "-p"),
        (("-p", "x", "--temperature", "-1"), 2, "temperature"),
        (("-p", "x", "--temperature", "nan"), 2, "temperature"),
        (("-p", "x", "--top-p", "0"), 2, "top-p"),
        (("-p", "x", "--top-k", "-3"), 2, "top-k"),
        (("-p", "x", "--tokens", "0"), 2, "tokens"),
        (("-p", "x", "--threads", "0"), 2, "threads"),
    ],
)
def test_a_chat_that_cannot_be_is_refused_with_its_reason(trained, flags, code, text):
    result = pysft("chat", trained.run, *flags)
    assert (result.code, result.out) == (code, "")
    assert text in result.err


def test_the_smallest_temperature_gives_the_greedy_reply(trained):
    chat = ("chat", trained.run, "-p", "Go", "--json")
    greedy = succeeds(*chat).document["reply"]
    assert succeeds(*chat, "--temperature", "1e-320").document["reply"] == greedy


# ------------------------------------------------------------------- a flag that would help, or not


FLAG = "--unknown replace"


@pytest.fixture(scope="module")
def unasking(tmp_path_factory):
    """A function that talks to a run with system messages that has no "?", so that an @ cannot be
    replaced, but an e with an accent can."""
    folder = tmp_path_factory.mktemp("unasking")
    (folder / "small.toml").write_text(toml())
    (folder / "c.txt").write_text(read_corpus("plays")[:12000].replace("?", "."))
    (folder / "d.jsonl").write_text(lines(conversation("Hi", "Ho.") for _ in range(3)))
    text = ["--config", folder / "small.toml", "--corpus", folder / "c.txt"]
    flags = ["--template", "chatml", "--unknown", "grow"]
    succeeds("train", *text, "--data", folder / "d.jsonl", *flags, "--out", folder / "run")
    return lambda *flags: pysft("chat", folder / "run", "--unknown", *flags)


@pytest.mark.parametrize(
    "flags, is_named",
    [
        (["refuse", "-p", "caf\u00e9"], True),
        (["refuse", "-p", "Hi", "--system", "\u00e9"], True),
        (["refuse", "--system", "\u00e9"], True),
        (["refuse", "-p", "caf\u00e9", "--json"], True),
        (["refuse", "-p", "caf\u00e9", "--show-tokens"], True),
        (["refuse", "-p", "a@b"], False),  # nothing can replace it
        (["replace", "-p", "a@b"], False),  # the flag that was just used
        (["replace", "-p", "Hi", "--system", "a@b"], False),
        (["replace", "-p", "caf\u00e9 " * 60], False),  # too long, whatever is replaced
        (["refuse", "-p", "Hi " * 90], False),
    ],
)
def test_an_error_of_chat_names_the_flag_that_replaces_characters_only_if_it_helps(
    unasking, monkeypatch, flags, is_named
):
    monkeypatch.setattr("builtins.input", raising(EOFError))
    result = unasking(*flags)
    assert (result.code, result.out, len(result.err.splitlines())) == (65, "", 1)
    assert (FLAG in result.err) == is_named
    if is_named:
        assert unasking("replace", *flags[1:]).code == 0


def test_inside_a_chat_no_error_names_a_flag(unasking, monkeypatch):
    typed = iter(["caf\u00e9", "Hi", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    result = unasking("refuse")
    assert result.code == 0 and "'\u00e9' (U+00E9)" in result.err and FLAG not in result.err


# ------------------------------------------------------------------- tools, and how a reply ends


def stage_that(knows_tools=True, **data):
    """A stage whose template has tokens of tools, which its vocabulary has or lacks."""
    tokens = CHAT.tokens_for({"search", "result"}) if knows_tools else ()
    return SimpleNamespace(
        folder="run/sft",
        tokenizer=SimpleNamespace(special={token: 70 + i for i, token in enumerate(tokens)}),
        template=CHAT,
        setting=lambda name, usual: data.get(name, usual),
    )


@pytest.mark.parametrize(
    "knows, docs, no_tools, searched",
    [
        (True, None, False, ["town.jsonl"]),
        (True, ["a.jsonl", "b"], False, ["a.jsonl", "b"]),
        (True, None, True, None),
        (True, ["a.jsonl"], True, None),
        (False, None, False, None),
        (False, None, True, None),
    ],
)
def test_a_model_that_knows_tools_searches_in_the_documents_unless_told_not_to(
    monkeypatch, knows, docs, no_tools, searched
):
    monkeypatch.setattr(search.Search, "of", lambda paths: [Path(path).name for path in paths])
    monkeypatch.setattr(tools, "tools", lambda found, table: {"search": found})
    monkeypatch.setattr(tree, "lineage", lambda stage: [stage])
    args = SimpleNamespace(docs=docs, table=None, no_tools=no_tools)
    found = cli_chat._tools(args, stage_that(knows))
    assert found == ({} if searched is None else {"search": searched})


@pytest.mark.parametrize("no_tools", [False, True])
@pytest.mark.parametrize("stage", [dict(knows_tools=False), dict(made=["sums"])])
def test_documents_are_refused_by_a_model_that_cannot_search(monkeypatch, no_tools, stage):
    """One that was taught sums alone has the tokens of a search, which come before them."""
    monkeypatch.setattr(tree, "lineage", lambda stage: [stage])
    args = SimpleNamespace(docs=["a.jsonl"], table=None, no_tools=no_tools)
    with pytest.raises(UsageError, match="run/sft: this model was not trained to search"):
        cli_chat._tools(args, stage_that(**stage))


@pytest.mark.parametrize(
    "above, made",
    [
        ([0], False),
        ([5], True),
        ([0, 5], True),  # a model that was begun from one that learned from transcripts
        ([0, 0, 0], False),
        (PysftError("damaged"), None),
    ],
)
def test_a_model_learned_from_made_transcripts_if_it_or_a_parent_did(monkeypatch, above, made):
    is_damaged = isinstance(above, PysftError)
    line = [] if is_damaged else [stage_that(transcripts=n) for n in above]
    monkeypatch.setattr(tree, "lineage", raising(above) if is_damaged else lambda stage: line)
    for own in (0, 5):
        expected = own == 5 if is_damaged else made
        taught = {"search"} if expected else set()
        assert cli_chat._taught(stage_that(transcripts=own)) == taught


def test_a_stage_that_stored_no_number_of_transcripts_learned_from_none(monkeypatch):
    """An earlier version knew no transcripts."""
    monkeypatch.setattr(tree, "lineage", lambda stage: [stage])
    assert cli_chat._taught(stage_that()) == set()
    assert cli_chat._taught(stage_that(made=["sums", "table"])) == {"code", "table"}
    assert town_chat(stage_that()) == []


class Screenless:
    """A Repl that says what it was asked to do."""

    def __init__(self, session, colour, show_tokens, show_thoughts):
        self.show_tokens = show_tokens

    def text_of(self, reply):
        return f"text of {reply.stop}"

    def answer(self, text):
        print(f"answered {text}, tokens shown: {self.show_tokens}")


@pytest.mark.parametrize(
    "stop, said",
    [
        ("end", ""),
        ("length", "pysft: the reply was cut off at its length limit, before an end token\n"),
        ("tool", "pysft: the reply ended at a call of a tool, which gets no result\n"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_one_answer_says_on_standard_error_why_it_ended(monkeypatch, capsys, stop, said, as_json):
    document = {"reply": "Aye.", "stop": stop}
    monkeypatch.setattr(inference_session, "answer_once", lambda session, text: document)
    monkeypatch.setattr(repl, "Repl", Screenless)
    answer = SimpleNamespace(stop=stop)
    session = SimpleNamespace(say=lambda text: (text, answer, 0), best_of=0)
    args = SimpleNamespace(prompt="Hi", json=as_json, show_tokens=False, show_thoughts=False)
    cli_chat._answer_once(session, args)
    shown = capsys.readouterr()
    assert shown.err == said
    assert shown.out == (
        f'{{"reply": "Aye.", "stop": "{stop}"}}\n' if as_json else f"text of {stop}\n"
    )


def test_tokens_are_shown_in_place_of_the_reply_but_never_in_a_document(monkeypatch, capsys):
    monkeypatch.setattr(inference_session, "answer_once", lambda session, text: {"stop": "end"})
    monkeypatch.setattr(repl, "Repl", Screenless)
    for as_json, shown in ((True, '{"stop": "end"}'), (False, "answered Hi, tokens shown: True")):
        args = SimpleNamespace(prompt="Hi", json=as_json, show_tokens=True, show_thoughts=False)
        cli_chat._answer_once(SimpleNamespace(), args)
        assert capsys.readouterr().out == shown + "\n"
