"""A chat: replies as they are written, tools that answer in the middle of one, and the history."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generate import MODEL, PROMPTS

from pysft.errors import UsageError
from pysft.inference.generate import Event, Reply, Sampling, choose, generate, stream
from pysft.inference.session import ROOM, ROOM_WITH_TOOLS, Session, answer_once
from pysft.inference.tool_calls import MAX_CALLS, SPARE, answer_calls, content_parts
from pysft.inference.tools import Tool
from pysft.text.conversation import check_messages
from pysft.text.render import render, render_prompt
from pysft.text.templates import CHAT, HUMAN
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

T = CharTokenizer(SHAKESPEARE, CHAT.tokens).grow(CHAT.tool_tokens)
END, ASSISTANT = T.special["<|end|>"], T.special["<|assistant|>"]
steady = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def ids(*pieces):
    """Ids of texts and of special tokens, which are given by their names."""
    return [i for p in pieces for i in ([T.special[p]] if p in T.special else T.encode(p).tolist())]


def call(text, kind="search"):
    """A call of a tool as pieces."""
    return [f"<|{kind}_start|>", text, f"<|{kind}_end|>"]


def result(text):
    return ["<|result_start|>", text, "<|result_end|>"]


def scripted(*pieces, context=256):
    """A model that writes the pieces and an end, whatever it is asked. The script does not advance
    over what stands between a result's tokens, because the model did not write that."""
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
            row = np.zeros((1, len(T)), np.float32)
            row[0, script[min(self.written(), len(script) - 1)]] = 9
            return row

        def written(self):
            """How many tokens of the last reply the model wrote itself."""
            if ASSISTANT not in self.read:
                return 0
            reply = self.read[len(self.read) - self.read[::-1].index(ASSISTANT) :]
            own, in_result = 0, False
            for token in reply:
                in_result = in_result or token == T.special["<|result_start|>"]
                own += not in_result
                in_result = in_result and token != T.special["<|result_end|>"]
            return own

    return Model()


def tools(**functions):
    return {name: Tool(name, f) for name, f in functions.items()}


def session(*pieces, context=256, **more):
    return Session(scripted(*pieces, context=context), T, CHAT, **more)


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
    assert chat.model.read == trained[:-1]  # all but the end token, which the model only writes
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
    chat = session(*call("a") * (MAX_CALLS + 1), tools=tools(search=lambda q: "b"))
    _, reply, _ = chat.say("Who?")
    assert reply.stop == "tool" and len(results(reply)) == MAX_CALLS


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
    assert reply.stop == "end" and len(chat.model.read) <= context
    (text,) = results(reply)
    # The prompt takes 7 tokens, the call 3, the result's own tokens 2. A result may have half of
    # what remains beyond SPARE, and ends with a whole word.
    room = (context - 7 - 3 - 2 - SPARE) // 2
    assert set(text.split()) == {"word"} and room - 5 < len(text) <= room


def test_injected_tokens_take_room_in_the_context_but_do_not_count_as_written():
    having = {"tools": tools(search=lambda q: "b" * 20)}
    _, reply, _ = session(*call("a"), "y" * 99, context=60, **having).say("Who?")
    assert reply.stop == "length" and 7 + len(reply.ids) == 60  # the prompt takes 7
    assert reply.injected.sum() == 22
    _, reply, _ = session(*call("a"), "y" * 99, max_new=6, **having).say("Who?")
    assert reply.stop == "length" and (~reply.injected).sum() == 6


def test_with_tools_a_reply_gets_more_room_and_more_history_is_dropped():
    def dropped(context, **more):
        chat = session("Aye.", context=context, **more)
        chat.say("a" * 20)
        return chat.prompt("b" * 20)[1]

    prompt = 20 + 3 + 4 + 1 + 20 + 3
    assert dropped(prompt + ROOM) == 0 and dropped(prompt + ROOM - 1) == 1
    having = {"tools": tools(search=lambda q: "b")}
    least = next(n for n in range(40, 400) if n - prompt >= int(n * ROOM_WITH_TOOLS))
    assert dropped(least, **having) == 0 and dropped(least - 1, **having) == 1
    # Without any history ROOM is enough.
    assert session("Aye.", context=23 + ROOM, **having).prompt("b" * 20)[1] == 0


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


def test_a_repetition_penalty_makes_written_tokens_less_likely():
    logits = np.array([2.0, 1.5, -1.0], np.float32)
    g, penalty = np.random.default_rng(0), Sampling(repetition=2.0)
    assert choose(logits, penalty, g, [0]) == 1 and choose(logits, Sampling(), g, [0]) == 0
    assert choose(np.array([-1.0, -1.5], np.float32), penalty, g, [0]) == 1  # below zero too
    assert logits.tolist() == [2.0, 1.5, -1.0]
    for bad in (0.5, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="repetition"):
            Sampling(repetition=bad)


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
