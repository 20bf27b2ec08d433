"""A chat: replies as they are written, tools that answer in the middle of one, and the history."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
from fake_decoder import FakeDecoder
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generate import MODEL, PROMPTS
from texts import grown, say

from pysft.cli import chat as command
from pysft.cli.arguments import talker
from pysft.inference.engine import Event
from pysft.inference.generate import Reply, generate, stream
from pysft.inference.sampling import CHAT as BY_DEFAULT
from pysft.inference.sampling import Sampling
from pysft.inference.session import ROOM, Session, answer_once
from pysft.inference.tool_calls import MAX_CALLS, SPARE, answer_calls, content_parts, result_ids
from pysft.inference.tools import Tool
from pysft.run import stage
from pysft.text.conversation import check_messages
from pysft.text.render import render, render_prompt
from pysft.text.templates import CHAT, CHATML, HUMAN
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

T = grown(CHAT)
steady = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def ids(*pieces, tokenizer=T):
    """Ids of texts and of special tokens, which are given by their names."""
    special = tokenizer.special
    return [
        i for p in pieces for i in ([special[p]] if p in special else tokenizer.encode(p).tolist())
    ]


def call(text, kind="search"):
    """A call of a tool as pieces."""
    return [f"<|{kind}_start|>", text, f"<|{kind}_end|>"]


def result(text):
    return ["<|result_start|>", text, "<|result_end|>"]


def scripted(*pieces, context=256, rival="", tokenizer=T, template=CHAT):
    """A model that writes the pieces and an end, whatever it is asked. The script does not advance
    over what stands between a result's tokens, because the model did not write that. rival: the
    character that it would write next."""
    script = ids(*pieces, template.end, tokenizer=tokenizer)
    special, opener = tokenizer.special, tokenizer.special[template.turns["assistant"].opens[-1]]

    class Model(FakeDecoder):
        config = SimpleNamespace(context=context, vocab=len(tokenizer))

        def reset(self, slot=0):
            self.ids = []

        def next_row(self, token, slot):
            self.ids.append(token)
            assert len(self.ids) <= self.config.context
            row = np.zeros(len(tokenizer))
            row[tokenizer.encode(rival)] = 8.9
            row[script[min(self.written(), len(script) - 1)]] = 9
            return row

        def written(self):
            """How many tokens of the last reply the model wrote itself."""
            if opener not in self.ids:
                return 0
            reply = self.ids[len(self.ids) - self.ids[::-1].index(opener) :]
            own, in_result = 0, False
            for token in reply:
                in_result = in_result or token == special["<|result_start|>"]
                own += not in_result
                in_result = in_result and token != special["<|result_end|>"]
            return own

    return Model()


def tools(**functions):
    return {name: Tool(name, f) for name, f in functions.items()}


def session(*pieces, context=256, rival="", tokenizer=T, template=CHAT, **more):
    model = scripted(*pieces, context=context, rival=rival, tokenizer=tokenizer, template=template)
    return Session(model, tokenizer, template, **more)


def results(reply):
    return [p["text"] for p in content_parts(reply.ids, T, CHAT) if p["type"] == "result"]


# ------------------------------------------------------------------------------------------ tools


def test_a_closed_call_pauses_the_reply_until_its_result_is_injected():
    asked = []
    chat = session(
        "Let me see. ",
        *call("Elka"),
        "She swims.",
        tools=tools(search=lambda q: asked.append(q) or "Elka swims."),
    )
    answer, reply, _ = chat.say("Who is Elka?")
    assert asked == ["Elka"] and reply.stop == "end"
    assert answer == "".join(["Let me see. ", *call("Elka"), *result("Elka swims."), "She swims."])
    assert T.decode(reply.ids[reply.injected]) == "<|result_start|>Elka swims.<|result_end|>"
    assert chat.messages[1]["content"] == [
        {"type": "text", "text": "Let me see. "},
        {"type": "search", "text": "Elka"},
        {"type": "result", "text": "Elka swims."},
        {"type": "text", "text": "She swims."},
    ]


def test_what_the_model_reads_is_id_for_id_what_training_rendered():
    chat = session(*call("Elka"), "Aye.", tools=tools(search=lambda q: "Elka swims."))
    chat.say("Who?")
    check_messages(chat.messages, "chat", CHAT)
    trained = render(chat.messages, T, CHAT)[0].tolist()
    assert chat.model.ids == trained[:-1]  # all but the end token, which the model only writes
    prompt = render_prompt([*chat.messages, {"role": "user", "content": "And?"}], T, CHAT)
    assert prompt.tolist()[: len(trained)] == trained


def test_a_call_without_a_tool_ends_the_reply():
    chat = session(*call("Elka"), "Aye.")
    _, reply, _ = chat.say("Who?")
    assert reply.stop == "tool" and not reply.injected.any()
    assert chat.messages[1]["content"] == [{"type": "search", "text": "Elka"}]
    assert answer_once(session(*call("x", "code")), "Who?")["stop"] == "tool"


def test_the_document_of_an_answer_lists_calls_and_results_apart_from_the_reply():
    chat = session(
        "Let me see. ", *call("Elka"), "She swims.", tools=tools(search=lambda q: "Elka swims.")
    )
    document = answer_once(chat, "Who?")
    assert document["reply"] == "Let me see. She swims." and document["stop"] == "end"
    assert document["calls"] == [
        {"type": "search", "text": "Elka"},
        {"type": "result", "text": "Elka swims."},
    ]
    assert "calls" not in answer_once(session("Aye."), "Who?")


def test_a_call_that_is_cut_off_is_text():
    chat = session("<|search_start|>", "Elka who swims", max_new=5)
    assert answer_once(chat, "Who?")["reply"] == "Elka" == chat.messages[1]["content"]


def test_a_call_beyond_the_limit_ends_the_reply():
    chat = session(*call("a") * 4, tools=tools(search=lambda q: "b"))
    _, reply, _ = chat.say("Who?")
    assert reply.stop == "tool" and len(results(reply)) == 3
    _, reply, _ = session(*call("a") * 3, tools=tools(search=lambda q: "b")).say("Who?")
    assert reply.stop == "end" and len(results(reply)) == 3


@pytest.mark.parametrize("context", [40, 60, 90])
def test_a_result_is_cut_to_its_room_and_leaves_some_for_an_answer(context):
    chat = session(
        *call("a"),
        "Aye.",
        context=context,
        max_new=8,
        tools=tools(search=lambda q: "word " * 100),
    )
    _, reply, _ = chat.say("Who?")
    assert reply.stop == "end" and len(chat.model.ids) <= context
    (text,) = results(reply)
    # The prompt takes 7 tokens, the call 3, the result's own tokens 2. A result may have half of
    # what remains beyond SPARE, and ends with a whole word.
    room = (context - 7 - 3 - 2 - SPARE) // 2
    assert set(text.split()) == {"word"} and room - 5 < len(text) <= room


@pytest.mark.parametrize("room", [10, 11, 12, 21, 30, 31, 32])
def test_a_result_is_whole_if_nothing_of_it_was_cut(room):
    found, is_whole = result_ids("Elka swims.", room, T, CHAT)
    space = (room - 2 - SPARE) // 2
    assert is_whole == (space >= len("Elka swims."))
    text = "Elka swims." if is_whole else "Elka" if space >= 4 else ""
    assert found == (ids(*result(text)) if space > 0 else [])


def test_injected_tokens_take_room_in_the_context_but_do_not_count_as_written():
    having = {"tools": tools(search=lambda q: "b" * 20)}
    _, reply, _ = session(*call("a"), "y" * 99, context=60, **having).say("Who?")
    assert reply.stop == "length" and 7 + len(reply.ids) == 60  # the prompt takes 7
    assert reply.injected.sum() == 22
    _, reply, _ = session(*call("a"), "y" * 99, max_new=6, **having).say("Who?")
    assert reply.stop == "length" and (~reply.injected).sum() == 6


def test_with_tools_a_reply_gets_more_room_and_more_history_is_dropped():
    def dropped(context, size=20, **more):
        chat = session("Aye.", context=context, **more)
        chat.say("a" * size)
        return chat.prompt("b" * size)[1]

    prompt = 20 + 3 + 4 + 1 + 20 + 3
    assert ROOM == 32 and dropped(prompt + 32) == 0 and dropped(prompt + 31) == 1
    having = {"tools": tools(search=lambda q: "b")}
    long = prompt + 2 * 40  # so that the share is more than ROOM
    # Three eighths of the context: a call, its result and the answer, and more than half for the
    # history.
    least = next(n for n in range(long, 400) if n - long >= 3 * n // 8 > ROOM)
    assert dropped(least, 60, **having) == 0 and dropped(least - 1, 60, **having) == 1
    # Without any history ROOM is enough.
    context = 63 + ROOM
    assert 3 * context // 8 > ROOM
    assert session("Aye.", context=context, **having).prompt("b" * 60)[1] == 0


def test_a_tool_that_fails_gives_a_result_that_says_so():
    def broken(query):
        raise ZeroDivisionError("no")

    _, reply, _ = session(*call("a"), "Aye.", tools=tools(search=broken)).say("Who?")
    (text,) = results(reply)
    assert reply.stop == "end" and "error" in text


def test_a_closing_token_that_closes_nothing_is_only_text():
    inject = answer_calls(T, CHAT, tools(search=lambda q: "b", code=lambda q: "c"))
    assert inject(ids("ab"), 100) is None
    assert inject(ids("ab", "<|search_end|>"), 100) is None
    answered = [*call("ab"), *result("b")]
    assert inject(ids(*answered, "and", "<|search_end|>"), 100) is None  # that call is closed
    assert inject(ids("<|search_start|>", "a", *call("x", "code")), 100) is None
    assert inject(ids(*["<|search_end|>"] * 5, *call("ab")), 100) == ids(*result("b"))
    assert inject(ids(*call("ab")), 100) == ids(*result("b"))
    assert inject(ids(*call("ab")), 2) is False


def test_a_vocabulary_without_tool_tokens_never_pauses():
    plain = CharTokenizer(SHAKESPEARE, CHAT.tokens)
    assert answer_calls(plain, CHAT, {})([65, 66, 67], 9) is None


@steady
@given(st.lists(st.integers(0, len(T) - 1), max_size=40))
def test_any_reply_becomes_parts_that_can_be_rendered(reply):
    found = content_parts(reply, T, CHAT)
    assert all(p["type"] in ("text", "search", "code", "result") for p in found)
    characters = [i for i in reply if i < len(T.characters)]
    assert "".join(p["text"] for p in found) == T.decode(characters)
    question = {"role": "user", "content": "a"}
    render([question, {"role": "assistant", "content": found or "x"}], T, CHAT)


def test_a_turn_forged_in_words_is_cut_from_the_history():
    grown = CharTokenizer(SHAKESPEARE, HUMAN.tokens)
    marker = HUMAN.forgeable[0]
    found = content_parts(grown.encode("Aye." + marker + "Hi"), grown, HUMAN)
    assert found == [{"type": "text", "text": "Aye."}]


# ------------------------------------------------------------------------------------- the history


def test_the_history_may_show_earlier_replies_without_their_calls_and_results():
    chat = session(
        "Let me see. ", *call("Elka"), "She swims.", tools=tools(search=lambda q: "Elka swims.")
    )
    answer = chat.say("Who?")[0]
    for chat.text_history, shown in ((False, answer), (True, "Let me see. She swims.")):
        prompt = say("Who?", shown, "And?") if chat.text_history else [*chat.messages, *say("And?")]
        assert chat.prompt("And?")[0].tolist() == render_prompt(prompt, T, CHAT).tolist()
    assert len(chat.messages[1]["content"]) == 4  # it is kept as it was written


def test_a_history_of_text_takes_less_room():
    def dropped(**more):
        having = tools(search=lambda q: "b" * 30)
        chat = session(*call("a"), "Aye.", context=80, tools=having, **more)
        chat.say("Who?")
        return chat.prompt("And?")[1]

    assert dropped() == 1 and dropped(text_history=True) == 0


BEFORE, ANSWERED = say("aa", "Aye."), [*call("q"), "Aye."]


def with_and_without_history(*pieces, find, **more):
    """Two chats in which the search finds find(query)."""
    return [
        session(*pieces, tools=tools(search=find), messages=list(messages), **more)
        for messages in (BEFORE, [])
    ]


@pytest.mark.parametrize("size, is_kept", [(36, True), (37, False), (41, False)])
def test_a_result_that_fits_only_without_the_history_is_whole_behind_the_question_alone(
    size, is_kept
):
    # The history takes 10 tokens, the prompt 5, a call 3, and a result 2 for itself.
    assert (100 - 10 - 5 - 3 - 2 - SPARE) // 2 == 36 and (100 - 5 - 3 - 2 - SPARE) // 2 == 41
    chat, _ = with_and_without_history(*ANSWERED, find=lambda q: "b" * size, context=100)
    _, reply, dropped = chat.say("bb")
    assert results(reply) == ["b" * size] and reply.stop == "end"
    assert chat.dropped == dropped == (not is_kept)
    kept = BEFORE if is_kept else []
    assert chat.messages[:-2] == kept
    assert chat.model.ids == [*render_prompt([*kept, *say("bb")], T, CHAT), *reply.ids]


NEEDED = {  # name -> (what the model writes, what differs from a search that finds 40 letters)
    "the whole result": (ANSWERED, {}),
    "text before the call": (["Let me see. ", *ANSWERED], {"find": lambda q: "b" * 35}),
    "the second result": ([*call("s"), *ANSWERED], {"find": {"s": "b", "q": "b" * 34}.get}),
    "two results": ([*call("q"), *ANSWERED], {}),
    "too many calls": (
        [*call("s") * (MAX_CALLS - 1), *call("q") * 2],
        {"context": 118, "find": {"s": "b", "q": "b" * 40}.get},
    ),
    "a call is the last token": (ANSWERED, {"max_new": 3}),
    "an answer without its end": (ANSWERED, {"max_new": 5}),
    "a penalty": ([*call("q"), "a a a"], {"rival": "b", "sampling": BY_DEFAULT}),
    "a system message": (
        ANSWERED,
        {"template": CHATML, "tokenizer": grown(CHATML), "system": "Sing."}
        | {"context": 160, "find": lambda q: "b" * 50},
    ),
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_reply_that_needs_the_room_of_the_history_is_the_reply_without_it(name):
    pieces, more = NEEDED[name]
    chat, alone = with_and_without_history(
        *pieces, **{"context": 100, "find": lambda q: "b" * 40} | more
    )
    events, (_, expected, _) = list(chat.stream("bb")), alone.say("bb")
    reply = events.pop()
    assert reply.ids.tolist() == expected.ids.tolist() and reply.stop == expected.stop
    assert reply.injected.tolist() == expected.injected.tolist()
    assert chat.messages == alone.messages
    if reply.stop == "end":  # otherwise the model may not have read the question again
        assert chat.model.ids == alone.model.ids
    ids, dropped = events.pop(0)
    assert dropped == 0 and ids.tolist() != alone.prompt("bb")[0].tolist()
    assert [e.stop for e in events] == [None] * len(reply.ids) + [reply.stop]
    assert [e.token for e in events[:-1]] == reply.ids.tolist()
    assert {e.number for e in events} == {0}
    assert [e.logits is None for e in events[:-1]] == reply.injected.tolist()


@pytest.mark.parametrize("result", ["b" * 30 + " " + "b" * 30, "b" * 99])
def test_a_result_that_would_be_cut_without_the_history_too_leaves_it_there(result):
    chat, _ = with_and_without_history(*ANSWERED, find=lambda q: result, context=100)
    _, reply, dropped = chat.say("bb")
    assert dropped == 0 and results(reply) == [result[:30] if " " in result else ""]


# -------------------------------------------------------------------------------------- repetition


def test_a_penalty_counts_the_words_of_a_reply_but_not_behind_a_call():
    def written(*pieces, **more):
        chat = session(*pieces, rival="b", tools=tools(search=lambda q: "c"), **more)
        return answer_once(chat, "a b")["reply"]

    assert written("a a a") == "a a a"
    assert written("a a a", sampling=Sampling(repetition=2.0)) == "a b a"
    assert written(*call("a"), "a a a", sampling=Sampling(repetition=2.0)) == "a a a"


def test_the_command_writes_by_default_as_the_figures_of_chat_are_measured(monkeypatch):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    monkeypatch.setattr(stage, "load_stage", lambda run, ops: None)
    _, drawn = talker(parser.parse_args(["run"]))
    assert drawn == BY_DEFAULT and BY_DEFAULT.repetition > 1


# ------------------------------------------------------------------------------------------ events


def test_events_add_up_to_the_replies():
    replies = generate(MODEL, PROMPTS, 7, stop=20)
    written, ends = [[] for _ in PROMPTS], {}
    for e in stream(MODEL, PROMPTS, 7, stop=20):
        assert e.number not in ends and isinstance(e, Event)
        if e.stop:
            ends[e.number] = e.stop
            assert (e.token == 20) == (e.stop == "end")
        else:
            assert int(e.logits.argmax()) == e.token
            written[e.number].append(e.token)
    assert [r.ids.tolist() for r in replies] == written
    assert {i: r.stop for i, r in enumerate(replies)} == ends


def test_a_reply_of_a_chat_has_120_tokens_at_most_unless_another_number_is_given():
    _, reply, _ = session("a" * 200).say("Hi")
    assert (len(reply.ids), reply.stop) == (120, "length")
    _, reply, _ = session("a" * 200, max_new=121).say("Hi")
    assert (len(reply.ids), reply.stop) == (121, "length")


def test_a_caller_who_stops_early_leaves_the_history_as_it_was():
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
