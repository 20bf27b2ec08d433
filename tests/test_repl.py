"""The prompt line: how replies are shown, and the commands."""

import io
import json

import numpy as np
import pytest
from test_chat import T, call, ids, result, session, tools

from pysft.errors import DataError
from pysft.inference.generate import Reply
from pysft.inference.repl import Repl


def talk(chat, *lines, **more):
    """What is shown when these lines are typed. An exception among them is raised instead."""
    waiting, out = iter(lines), io.StringIO()

    def read(prompt):
        line = next(waiting, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    Repl(chat, read, out, **more).run()
    return out.getvalue()


def test_calls_and_results_are_shown_in_brackets():
    chat = session(*call("Elka"), "She swims.", tools=tools(search=lambda q: "Elka swims."))
    assert talk(chat, "Who is Elka?") == "bot> [search: Elka] [result: Elka swims.] She swims.\n\n"


def test_the_bracket_of_a_call_that_is_cut_off_is_closed():
    chat = session("<|search_start|>", "Elka who swims", max_new=5)
    assert "[search: Elka]\x1b[0m  [cut off" in talk(chat, "Who?", colour=True)


def test_a_result_that_the_model_made_up_is_not_shown_as_one():
    written = np.array(ids(*result("Elka"), "Aye."), np.int32)
    shown = Repl(session("Aye.")).text_of
    made_up = Reply(written, "end", np.zeros(len(written), bool))
    assert shown(made_up) == "<|result_start|>Elka<|result_end|>Aye."
    injected = Reply(written, "end", np.arange(len(written)) < 6)
    assert shown(injected) == "[result: Elka] Aye."


@pytest.mark.parametrize(
    "line, shown",
    [
        ("/help", "/undo"),
        ("/clear", "(the conversation is forgotten)"),
        ("/undo", "(there is no exchange to forget)"),
        ("/tokens", "(the next replies show their tokens)"),
        ("  ", ""),
    ],
)
def test_a_command_is_answered(line, shown):
    assert shown in talk(session("Aye."), line)


def test_the_help_fits_a_terminal_and_names_every_command():
    shown = talk(session("Aye."), "/help")
    assert all(command in shown for command in "/help /clear /undo /save /tokens /quit".split())
    assert max(map(len, shown.splitlines())) <= 100


def test_commands_change_the_conversation():
    chat = session("Aye.")
    talk(chat, "a", "b", "/undo", "c", "/quit", "d")
    assert [m["content"] for m in chat.messages] == ["a", "Aye.", "c", "Aye."]
    talk(chat, "/clear")
    assert chat.messages == []


@pytest.mark.parametrize(
    "line, expected",
    [
        ("/nothing", "/nothing is not a command; /help"),
        ("/save", "needs the name of a file"),
        ("/save x", "no conversation yet"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_the_chat_goes_on(line, expected, capsys):
    chat = session("Aye.")
    assert talk(chat, line, "Hi").count("bot> ") == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_dropped_exchanges_are_reported():
    chat = session("Aye.", context=64)
    shown = talk(chat, *["x" * 12] * 3)
    assert shown.count("(the oldest exchange was dropped to make room for a reply)") == 2
    assert "(the 2 oldest exchanges were dropped" in talk(chat, "x", "x", "x" * 25)


def test_a_saved_conversation_can_be_read_as_data(tmp_path):
    from pysft.text.formats import read_conversations

    chat = session(*call("a"), "Aye.", tools=tools(search=lambda q: "b"))
    assert "saved: 2 exchanges" in talk(chat, "Hi", "Ho", f"/save {tmp_path / 'talk.jsonl'}")
    (saved,) = read_conversations(tmp_path / "talk.jsonl")
    assert saved.messages == chat.messages
    assert json.loads((tmp_path / "talk.jsonl").read_text())["messages"] == chat.messages


def test_a_conversation_that_cannot_be_saved_is_not_lost(tmp_path, capsys):
    chat = session("Aye.")
    talk(chat, "Hi", f"/save {tmp_path}")
    assert "cannot be written" in capsys.readouterr().err and len(chat.messages) == 2


def test_an_interrupt_stops_the_reply_and_not_the_program():
    chat = session("Aye.")
    steps = chat.model.steps

    def interrupted(tokens, slots):
        if len(chat.model.ids) == 6:
            chat.model.steps = steps
            raise KeyboardInterrupt
        return steps(tokens, slots)

    chat.model.steps = interrupted
    shown = talk(chat, "Hi", KeyboardInterrupt(), "Ho")
    assert "(stopped; this exchange is not kept)" in shown and "(Ctrl-D leaves)" in shown
    assert [m["content"] for m in chat.messages] == ["Ho", "Aye."]


@pytest.mark.parametrize("end", [EOFError(), RuntimeError()])
def test_the_end_of_the_input_and_no_input_at_all_end_the_chat(end):
    assert talk(session("Aye."), end) == "\n"


def test_shown_tokens_are_the_prompt_with_an_arrow_and_the_candidates_of_every_step():
    shown = talk(session("Aye."), "Hi", show_tokens=True)
    first, second, *steps = shown.splitlines()
    assert first == "<|user|>Hi<|end|><|assistant|>"
    assert second.index("^") == first.index("<|assistant|>") and "answers from here" in second
    assert [s.split()[0] for s in steps if "%" in s] == ["'A'", "'y'", "'e'", "'.'", "<|end|>"]
    p = float(steps[0].split()[1].rstrip("%")) / 100
    assert p == pytest.approx(np.exp(9) / (np.exp(9) + len(T) - 1), abs=1e-3)
    assert steps[0].count("%") == 6  # its own, and five candidates'


def test_each_step_of_a_shown_reply_is_a_line_of_its_token_its_share_and_the_five_best():
    chat = session(*call("Elka"), "Oh.", rival="z", tools=tools(search=lambda q: "An"))
    shown = talk(chat, "Who\nis she", show_tokens=True).splitlines()
    assert shown[:3] == [
        "<|user|>Who",
        "is she<|end|><|assistant|>",
        " " * len("is she<|end|>") + "^" * len("<|assistant|>") + " the model answers from here",
    ]
    best, total = np.exp([9, 8.9]), np.exp(9) + np.exp(8.9) + len(T) - 2
    shares = [f"{p:.1%}" for p in (*best / total, 1 / total)]
    written = ["<|search_start|>", *map(repr, "Elka"), "<|search_end|>"]
    injected = ["<|result_start|>", *map(repr, "An"), "<|result_end|>"]
    answer = [*map(repr, "Oh."), "<|end|>"]
    others = "  ".join(f"{T.characters[i]!r} {shares[2]}" for i in range(3))

    def step(name):
        candidates = f"{name} {shares[0]}  'z' {shares[1]}  {others}"
        return f"{name:>16} {shares[0]:>7}   of {candidates}"

    assert shown[3:] == [
        *map(step, written),
        *(f"{name:>16}   injected" for name in injected),
        *map(step, answer),
        *("", ""),
    ]


def test_all_that_a_chat_shows_in_colour():
    chat = session(*call("a"), "Aye.", tools=tools(search=lambda q: "b"))
    dim, plain = "\x1b[2m", "\x1b[0m"
    bracketed = f"{dim}[search: a]{plain} {dim}[result: b]{plain} Aye.\n"
    assert talk(chat, "Hi", " ", "/undo", "/undo", "/tokens", "/tokens", colour=True) == (
        f"bot> {bracketed}"
        "(the last exchange is forgotten)\n"
        "(there is no exchange to forget)\n"
        "(the next replies show their tokens)\n"
        "(the next replies show their text)\n"
        "\n"
    )
    assert talk(chat, "\ufeffHi", "/exit", "Hi", colour=True) == f"bot> {bracketed}"
    assert chat.messages[0]["content"] == "Hi"


def test_an_interrupt_closes_the_bracket_that_is_open():
    chat = session(*call("abcdef"), "Aye.")
    steps = chat.model.steps

    def interrupted(tokens, slots):
        if chat.model.written() == 3:
            raise KeyboardInterrupt
        return steps(tokens, slots)

    chat.model.steps = interrupted
    stopped = "(stopped; this exchange is not kept)"
    assert talk(chat, "Hi") == f"bot> [search: abc]\n{stopped}\n\n"
    colour = f"bot> \x1b[2m[search: abc]\x1b[0m\x1b[2m\n{stopped}\x1b[0m\n\n"
    assert talk(chat, "Hi", colour=True) == colour


@pytest.mark.parametrize("exchanges, said", [(1, "1 exchange"), (2, "2 exchanges")])
def test_the_exchanges_that_were_saved_are_counted(tmp_path, exchanges, said):
    path = tmp_path / "talk.jsonl"
    shown = talk(session("Aye."), *["Hi"] * exchanges, f"/save {path}", f"/save  {path} ")
    assert shown.count(f"(saved: {said}, appended to {path})\n") == 2
    assert len(path.read_text().splitlines()) == 2


def test_shown_tokens_end_with_the_reason_where_there_is_no_end_token():
    cut = talk(session("Aye.", max_new=2), "Hi", show_tokens=True)
    assert "  (no end token)   [cut off: no end token within the length limit]\n" in cut
    stopped = talk(session(*call("a")), "Hi", show_tokens=True)
    assert "gets no result" in stopped and stopped.count("injected") == 0


def test_a_message_that_cannot_be_sent_is_one_sentence_and_the_chat_goes_on(capsys):
    chat = session("Aye.")
    assert talk(chat, "a8", "Hi").count("Aye.") == 1
    error = capsys.readouterr().err
    assert error.startswith("pysft: the message: ") and "'8' (U+0038) at position 1" in error
    assert "--" not in error  # here no flag can be given
    with pytest.raises(DataError):
        chat.say("a8")
