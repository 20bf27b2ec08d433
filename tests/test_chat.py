"""A chat: streaming, tools that pause a reply, and the commands of the prompt line."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generate import MODEL, PROMPTS

from pysft.errors import DataError, UsageError
from pysft.inference.generate import Event, Reply, Sampling, choose, generate, write
from pysft.inference.repl import Talk
from pysft.inference.session import CALLS, REST, ROOM, ROOM_WITH_TOOLS, Session, once, parts, pause
from pysft.inference.tools import Tool
from pysft.text.formats import check_messages
from pysft.text.template import CHAT, HUMAN, render, render_prompt
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

T = CharTokenizer(SHAKESPEARE, CHAT.tokens).grow(CHAT.tool_tokens)
END, ASSISTANT = T.special["<|end|>"], T.special["<|assistant|>"]
steady = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def ids(*pieces):
    """Text, and names of special tokens, as ids."""
    return [i for p in pieces for i in ([T.special[p]] if p in T.special else T.encode(p).tolist())]


def call(text, kind="search"):
    return ids(f"<|{kind}_start|>", text, f"<|{kind}_end|>")


def scripted(*pieces, context=256):
    """A model that writes the pieces and an end, whatever it is asked. What stands between a
    result's tokens it did not write itself, so that does not move the script on."""
    script = [*ids(*pieces), END]

    class Model:
        config = SimpleNamespace(context=context, vocab=len(T))

        def decoder(self, sequences=1):
            self.lengths, self.read = [0], []
            return self

        def reset(self, slot=0):
            self.read = []

        def steps(self, tokens, slots):
            (token,) = tokens
            self.read.append(int(token))
            assert len(self.read) <= self.config.context
            reply = (
                self.read[len(self.read) - self.read[::-1].index(ASSISTANT) :]
                if ASSISTANT in self.read
                else []
            )
            own, inside = 0, False
            for t in reply:
                inside = inside or t == T.special["<|result_start|>"]
                own += not inside
                inside = inside and t != T.special["<|result_end|>"]
            row = np.zeros((1, len(T)), np.float32)
            row[0, script[min(own, len(script) - 1)]] = 9
            return row

    return Model()


def tools(**functions):
    return {name: Tool(name, f) for name, f in functions.items()}


def session(*pieces, context=256, **more):
    return Session(scripted(*pieces, context=context), T, CHAT, **more)


# ------------------------------------------------------------------------------------------ tools


def test_a_closed_call_pauses_the_reply_and_its_result_is_read_before_it_goes_on():
    asked = []
    chat = session(
        "Let me see. ",
        "<|search_start|>",
        "Elka",
        "<|search_end|>",
        "She swims.",
        tools=tools(search=lambda q: asked.append(q) or "Elka swims."),
    )
    answer, reply, _ = chat.say("Who is Elka?")
    assert asked == ["Elka"] and reply.stop == "end"
    assert (
        answer == "Let me see. <|search_start|>Elka<|search_end|><|result_start|>Elka"
        " swims.<|result_end|>She swims."
    )
    assert T.decode(reply.ids[reply.injected]) == "<|result_start|>Elka swims.<|result_end|>"
    assert chat.messages[1]["content"] == [
        {"type": "text", "text": "Let me see. "},
        {"type": "search", "text": "Elka"},
        {"type": "result", "text": "Elka swims."},
        {"type": "text", "text": "She swims."},
    ]


def test_what_the_model_reads_is_id_for_id_what_training_rendered():
    chat = session(
        "<|search_start|>",
        "Elka",
        "<|search_end|>",
        "Aye.",
        tools=tools(search=lambda q: "Elka swims."),
    )
    chat.say("Who?")
    check_messages(chat.messages, "chat")
    trained = render(chat.messages, T, CHAT)[0].tolist()
    assert chat.model.read == trained[:-1]  # but for the end token, after which nothing is read
    assert (
        render_prompt([*chat.messages, {"role": "user", "content": "And?"}], T, CHAT).tolist()[
            : len(trained)
        ]
        == trained
    )


def test_a_call_that_no_tool_answers_ends_the_reply():
    chat = session("<|search_start|>", "Elka", "<|search_end|>", "Aye.")
    _, reply, _ = chat.say("Who?")
    assert reply.stop == "tool" and not reply.injected.any()
    assert chat.messages[1]["content"] == [{"type": "search", "text": "Elka"}]
    assert once(session("<|code_start|>", "x", "<|code_end|>"), "Who?")["stop"] == "tool"


def test_one_answer_keeps_calls_and_results_apart_from_what_is_said():
    chat = session(
        "Let me see. ",
        "<|search_start|>",
        "Elka",
        "<|search_end|>",
        "She swims.",
        tools=tools(search=lambda q: "Elka swims."),
    )
    document = once(chat, "Who?")
    assert document["reply"] == "Let me see. She swims." and document["stop"] == "end"
    assert document["calls"] == [
        {"type": "search", "text": "Elka"},
        {"type": "result", "text": "Elka swims."},
    ]
    assert "calls" not in once(session("Aye."), "Who?")


def test_a_reply_that_is_cut_inside_a_call_is_shown_whole_and_its_bracket_closed():
    chat = session("<|search_start|>", "Elka who swims", max_new=5)
    assert once(chat, "Who?")["reply"] == "Elka" == chat.messages[1]["content"]
    chat = session("<|search_start|>", "Elka who swims", max_new=5)
    shown = talk(chat, "Who?", colour=True)
    assert "[search: Elka]\x1b[0m  [cut" in shown


def test_a_result_that_the_model_made_up_is_not_shown_as_one():
    said = np.array(ids("<|result_start|>", "Elka", "<|result_end|>", "Aye."), np.int32)
    show = Talk(session("Aye.")).said
    assert (
        show(Reply(said, "end", np.zeros(len(said), bool)))
        == "<|result_start|>Elka<|result_end|>Aye."
    )
    assert show(Reply(said, "end", np.arange(len(said)) < 6)) == "[result: Elka] Aye."


def test_a_reply_makes_so_many_calls_and_no_more():
    chat = session(
        *(["<|search_start|>", "a", "<|search_end|>"] * (CALLS + 1)),
        tools=tools(search=lambda q: "b"),
    )
    _, reply, _ = chat.say("Who?")
    made = [p for p in parts(reply.ids, T, CHAT) if p["type"] == "result"]
    assert reply.stop == "tool" and len(made) == CALLS


@pytest.mark.parametrize("context", [40, 60, 90])
def test_a_result_is_cut_to_the_room_and_leaves_some_for_an_answer(context):
    chat = session(
        "<|search_start|>",
        "a",
        "<|search_end|>",
        "Aye.",
        context=context,
        max_new=8,
        tools=tools(search=lambda q: "word " * 100),
    )
    _, reply, _ = chat.say("Who?")
    assert reply.stop == "end" and len(chat.model.read) <= context
    (result,) = [p["text"] for p in parts(reply.ids, T, CHAT) if p["type"] == "result"]
    room = (
        context - 7 - 3 - 2 - REST
    )  # beside the prompt, the call, the result's ends and the rest: half of it is the result's
    assert set(result.split()) == {"word"} and room // 2 - 5 < len(result) <= room // 2


def test_with_tools_history_makes_more_room():
    def dropped(context, **more):
        chat = session("Aye.", context=context, **more)
        chat.say("a" * 20)
        return chat.prompt("b" * 20)[1]

    prompts = 20 + 3 + 4 + 1 + 20 + 3
    assert dropped(prompts + ROOM) == 0 and dropped(prompts + ROOM - 1) == 1
    having = {"tools": tools(search=lambda q: "b")}
    least = next(n for n in range(40, 400) if n - prompts >= int(n * ROOM_WITH_TOOLS))
    assert dropped(least, **having) == 0 and dropped(least - 1, **having) == 1
    assert (
        session("Aye.", context=23 + ROOM, **having).prompt("b" * 20)[1] == 0
    )  # alone it needs no more than ever


def test_a_tool_that_fails_gives_a_result_that_can_be_read():
    def broken(query):
        raise ZeroDivisionError("no")

    chat = session("<|search_start|>", "a", "<|search_end|>", "Aye.", tools=tools(search=broken))
    _, reply, _ = chat.say("Who?")
    (result,) = [p["text"] for p in parts(reply.ids, T, CHAT) if p["type"] == "result"]
    assert reply.stop == "end" and "error" in result


def test_a_closer_of_nothing_is_only_text():
    after = pause(T, CHAT, tools(search=lambda q: "b", code=lambda q: "c"))
    assert after(ids("ab", "<|search_end|>"), 100) is None
    answered = [*call("ab"), *ids("<|result_start|>", "b", "<|result_end|>")]
    assert (
        after([*answered, *ids("and", "<|search_end|>")], 100) is None
    )  # its opener was another call's
    assert after(ids("<|search_start|>", "a", "<|code_start|>", "x", "<|code_end|>"), 100) is None
    assert after([*ids("<|search_end|>") * 5, *call("ab")], 100) == ids(
        "<|result_start|>", "b", "<|result_end|>"
    )
    assert after(ids("ab"), 100) is None
    assert after(call("ab"), 100) == ids("<|result_start|>", "b", "<|result_end|>")
    assert after(call("ab"), 2) is False


def test_a_vocabulary_without_tool_tokens_never_pauses():
    plain = CharTokenizer(SHAKESPEARE, CHAT.tokens)
    assert pause(plain, CHAT, {})([65, 66, 67], 9) is None


@steady
@given(st.lists(st.integers(0, len(T) - 1), max_size=40))
def test_any_reply_becomes_parts_that_can_be_rendered(reply):
    found = parts(reply, T, CHAT)
    assert all(p["type"] in ("text", "search", "code", "result") for p in found)
    assert "".join(p["text"] for p in found) == T.decode(
        [i for i in reply if i < len(T.characters)]
    )
    render(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": found or "x"}], T, CHAT
    )


def test_a_forged_turn_in_words_is_cut_from_the_history():
    grown = CharTokenizer(SHAKESPEARE, HUMAN.tokens)
    marker = HUMAN.forgeable[0]
    found = parts(grown.encode("Aye." + marker + "Hi"), grown, HUMAN)
    assert found == [{"type": "text", "text": "Aye."}]


# ------------------------------------------------------------------------------------------ events


def test_events_are_the_replies_as_they_come():
    replies = generate(MODEL, PROMPTS, 7, stop=20)
    said, ends = [[] for _ in PROMPTS], {}
    for e in write(MODEL, PROMPTS, 7, stop=20):
        assert e.number not in ends and isinstance(e, Event)
        if e.stop:
            ends[e.number] = e.stop
            assert (e.token == 20) == (e.stop == "end")
        else:
            assert int(e.logits.argmax()) == e.token
            said[e.number].append(e.token)
    assert [r.ids.tolist() for r in replies] == said and {
        i: r.stop for i, r in enumerate(replies)
    } == ends


def test_repetition_makes_what_was_said_less_likely():
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    g = np.random.default_rng(0)
    assert (
        choose(logits, Sampling(repetition=2.0), g, [0]) == 1
        and choose(logits, Sampling(), g, [0]) == 0
    )
    assert (
        choose(np.array([-1.0, -1.5], np.float32), Sampling(repetition=2.0), g, [0]) == 1
    )  # below zero it falls too
    assert logits.tolist() == [2.0, 1.5, -1.0]
    for bad in (0.5, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="repetition"):
            Sampling(repetition=bad)


def test_a_listener_who_leaves_leaves_the_history_as_it_was():
    chat = session("Well met!")
    chat.say("Hi")
    before = [dict(m) for m in chat.messages]
    events = chat.stream("Who?")
    next(events), next(events)
    events.close()
    assert chat.messages == before
    assert isinstance(list(chat.stream("Go"))[-1], Reply) and len(chat.messages) == 4


def test_undo_forgets_one_exchange():
    chat = session("Aye.")
    chat.say("a"), chat.say("b")
    assert chat.undo() and [m["content"] for m in chat.messages] == ["a", "Aye."]
    assert chat.undo() and not chat.undo() and chat.messages == []


# ---------------------------------------------------------------------------------- the prompt line


def talk(chat, *lines, **more):
    """What is shown when these lines are typed; an exception among them is raised instead."""
    waiting, out = iter(lines), io.StringIO()

    def read(prompt):
        line = next(waiting, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    Talk(chat, read, out, **more).run()
    return out.getvalue()


def test_a_reply_is_shown_as_it_comes_with_calls_and_results_marked():
    chat = session(
        "<|search_start|>",
        "Elka",
        "<|search_end|>",
        "She swims.",
        tools=tools(search=lambda q: "Elka swims."),
    )
    assert talk(chat, "Who is Elka?") == "bot> [search: Elka] [result: Elka swims.] She swims.\n\n"


@pytest.mark.parametrize(
    "line, shown",
    [
        ("/help", "/undo"),
        ("/clear", "(forgotten)"),
        ("/undo", "(there is none)"),
        ("/tokens", "(tokens are shown)"),
        ("  ", ""),
    ],
)
def test_commands_answer(line, shown):
    assert shown in talk(session("Aye."), line)


def test_commands_change_the_conversation():
    chat = session("Aye.")
    talk(chat, "a", "b", "/undo", "c", "/quit", "d")
    assert [m["content"] for m in chat.messages] == ["a", "Aye.", "c", "Aye."]
    talk(chat, "/clear")
    assert chat.messages == []


@pytest.mark.parametrize(
    "line, said", [("/nothing", "/help"), ("/save", "name a file"), ("/save x", "none yet")]
)
def test_a_command_that_cannot_be_is_said_in_a_sentence(line, said, capsys):
    chat = session("Aye.")
    assert talk(chat, line, "Hi").count("bot> ") == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_saved_conversation_can_be_read_as_data(tmp_path):
    from pysft.text.formats import read_conversations

    chat = session(
        "<|search_start|>", "a", "<|search_end|>", "Aye.", tools=tools(search=lambda q: "b")
    )
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
        if len(chat.model.read) == 6:
            chat.model.steps = steps
            raise KeyboardInterrupt
        return steps(tokens, slots)

    chat.model.steps = interrupted
    shown = talk(chat, "Hi", KeyboardInterrupt(), "Ho")
    assert "(stopped; this exchange is not kept)" in shown and "(Ctrl-D leaves)" in shown
    assert [m["content"] for m in chat.messages] == ["Ho", "Aye."]


def test_the_end_of_the_input_and_no_input_at_all_end_the_chat():
    assert (
        talk(session("Aye."), EOFError()) == "\n" and talk(session("Aye."), RuntimeError()) == "\n"
    )


def test_shown_tokens_are_the_prompt_with_its_trigger_and_every_steps_candidates():
    shown = talk(session("Aye."), "Hi", show_tokens=True)
    first, second, *steps = shown.splitlines()
    assert first == "<|user|>Hi<|end|><|assistant|>"
    assert second.index("^") == first.index("<|assistant|>") and "answers from here" in second
    assert [s.split()[0] for s in steps if "%" in s] == ["'A'", "'y'", "'e'", "'.'", "<|end|>"]
    p = float(steps[0].split()[1].rstrip("%")) / 100
    assert (
        p == pytest.approx(np.exp(9) / (np.exp(9) + len(T) - 1), abs=1e-3)
        and steps[0].count("%") == 6
    )


def test_a_message_that_cannot_be_sent_is_said_and_the_chat_goes_on(capsys):
    chat = session("Aye.")
    assert talk(chat, "a8", "Hi").count("Aye.") == 1
    assert "'8'" in capsys.readouterr().err
    with pytest.raises(DataError):
        chat.say("a8")
