"""Thoughts: how they are trained, what they do not do, and that no reader of an answer sees one."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import conversation, refusal, succeeds
from hypothesis import given
from hypothesis import strategies as st
from test_chat import T, call, ids, result, scripted, session, tools
from test_repl import talk
from texts import say, shown, steady, write
from thinking import ROWS, thinking_run

from pysft.errors import RowError, UsageError
from pysft.inference import candidates
from pysft.inference.candidates import scored
from pysft.inference.generate import Reply
from pysft.inference.repl import DIM, Repl
from pysft.inference.session import answer_once
from pysft.inference.thoughts import ROOM, room_for_thoughts, visible_ids, visible_reply
from pysft.inference.tool_calls import content_parts, free_text
from pysft.jobs.align import knows_tools
from pysft.jobs.collect import sample_ids, sample_replies
from pysft.jobs.material import Material, _asked_of_world, _write
from pysft.jobs.ppo import with_room
from pysft.lab.experiments.world import people, world_arm
from pysft.lab.told import Told
from pysft.measure import evaluate
from pysft.measure.calltest import read_reply
from pysft.measure.evaluate import MAX_NEW, answer, checks
from pysft.measure.probe import make_probe
from pysft.measure.world import world_figures
from pysft.run.stage import Stage, load_stage, save_stage
from pysft.run.taught import callable_tools
from pysft.run.tree import stored_sha256
from pysft.text.audit import audit
from pysft.text.conversation import Conversation, check_messages, visible_text, with_thought
from pysft.text.formats import read_conversations, scan
from pysft.text.render import graded_targets, render, render_prompt
from pysft.text.template import ALL, NOTHING, REPLY, Template, part, turn
from pysft.text.templates import CHAT, TEMPLATES
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training.presets import PRESETS
from pysft.training.settings import Settings
from pysft.world.ask import questions, trained_questions
from pysft.world.facts import TWO_HOPS, WorldSettings, make

OLD = CharTokenizer(SHAKESPEARE, CHAT.tokens)
START, END = "<|thought_start|>", "<|thought_end|>"
THINKS = with_thought("Ivo has a boat.", "Ivo rows.")
TALK = say("Who rows?", THINKS)


def thought(text):
    return [START, text, END]


def written(*pieces, stop="end"):
    found = np.array(ids(*pieces), np.int32)
    return Reply(found, stop, np.zeros(len(found), bool))


# ------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_all_of_a_thought_is_graded(template):
    tokenizer = CharTokenizer(SHAKESPEARE).grow(template.tokens + template.tool_tokens)
    tokens, trained = render(TALK, tokenizer, template)
    graded = f"[{START}Ivo has a boat.{END}Ivo rows.{template.end}]"
    assert shown(tokens, trained, tokenizer).endswith(graded)
    assert trained.sum() == graded_targets(TALK, template, tokenizer)


@pytest.mark.parametrize("grade", ["all", "last", "flags"])
def test_a_thought_that_is_flagged_out_is_read_and_not_graded(tmp_path, grade):
    path = tmp_path / "a.jsonl"
    content = [{"type": "thought", "text": "Ivo has a boat.", "train": False}]
    content += [{"type": "text", "text": "Ivo rows."}]
    path.write_text(json.dumps({"messages": say("Who rows?", content)}) + "\n")
    [read] = read_conversations(path)
    assert (
        read.messages[1]["content"]
        == content
        == with_thought("Ivo has a boat.", "Ivo rows.", False)
    )
    tokenizer = CharTokenizer(SHAKESPEARE).grow(CHAT.tokens + CHAT.tool_tokens)
    tokens, trained = render(read.messages, tokenizer, CHAT, "x", grade)
    assert (tokens == render(TALK, tokenizer, CHAT)[0]).all()
    assert shown(tokens, trained, tokenizer).endswith(
        f"{START}Ivo has a boat.{END}[Ivo rows.<|end|>]"
    )
    assert trained.sum() == graded_targets(read.messages, CHAT, tokenizer) == 10
    with pytest.raises(RowError, match="flagged out, but --grade everything grades all"):
        render(read.messages, tokenizer, CHAT, "x", "everything")


@pytest.mark.parametrize(
    "part, said",
    [
        ({"type": "text", "text": "Hm.", "train": False}, "stands in a part of type 'text'"),
        ({"type": "search", "text": "Hm", "train": False}, "stands in a part of type 'search'"),
        ({"type": "thought", "text": "Hm.", "train": 3}, "the flag 'train' is 3"),
    ],
)
def test_flags_of_other_parts_are_refused(tmp_path, part, said):
    path = tmp_path / "a.jsonl"
    row = {"messages": say("Who rows?", [part, {"type": "text", "text": "Ivo."}])}
    path.write_text(json.dumps(row) + "\n")
    [found] = scan(path)
    assert isinstance(found, RowError) and said in str(found), found


def test_a_reply_must_say_something_beside_its_thought():
    check_messages(TALK, "a.jsonl, line 1", CHAT)
    for content in ([{"type": "thought", "text": "Hm."}], with_thought("Hm.", " ")):
        with pytest.raises(RowError, match="turn 2: empty reply"):
            check_messages(say("Hi", content), "a.jsonl, line 1", CHAT)
    with pytest.raises(RowError, match='"content" is an array'):
        check_messages(say(THINKS, "Ho."), "a.jsonl, line 1", CHAT)


def test_a_template_may_have_thoughts_and_no_results():
    rows = [turn("user", ["<u>"], ["<e>"], NOTHING), turn("assistant", ["<a>"], ["<e>"], REPLY)]
    Template.of("mine", *rows, part("thought", ["<t>"], ["</t>"], ALL))
    with pytest.raises(UsageError, match="all of thought must be graded: the model writes it"):
        Template.of("mine", *rows, part("thought", ["<t>"], ["</t>"], NOTHING))
    with pytest.raises(UsageError, match=r"calls \(search\) and no part .result."):
        parts = [part(kind, [f"<{kind}>"], [f"</{kind}>"], ALL) for kind in ("search", "thought")]
        Template.of("mine", *rows, *parts)


def grown_by(*replies):
    """The vocabulary of a training on these replies."""
    some = [Conversation(say("Hi", r), "a.jsonl", i) for i, r in enumerate(replies, 1)]
    material = Material("", "", CharTokenizer(SHAKESPEARE), CHAT, conversations=some)
    assert _write(material, Settings(), []) == []
    return material.grown


def test_a_vocabulary_grows_by_the_tokens_of_thoughts_only_if_there_are_some():
    calls = [{"type": kind, "text": "Ho."} for kind in ("table", "result", "text")]
    plain, called, thinking = grown_by("Ho."), grown_by("Ho.", calls), grown_by("Ho.", THINKS)
    assert plain == OLD and called == OLD.grow(CHAT.tokens_for({"table", "result"}))
    assert thinking == T and START not in called.special
    assert {name: T.special[name] for name in called.special} == called.special


def test_a_template_of_an_earlier_version_says_that_it_has_no_thoughts():
    parts = [row for kind, row in CHAT.parts.items() if kind != "thought"]
    old = Template.of("old", *CHAT.turns.values(), *parts)
    with pytest.raises(UsageError, match="no part 'thought', so it cannot write thoughts"):
        old.tokens_for({"thought"})


def test_a_thought_is_no_call_and_no_part_of_what_a_conversation_says():
    c = Conversation(TALK, "a.jsonl", 1)
    assert c.parts == {"thought"} and not c.has_calls and c.replies() == ["Ivo rows."]
    assert visible_text(THINKS) == "Ivo rows." and with_thought("", "Aye.") == "Aye."


def test_replies_that_differ_in_their_thoughts_alone_do_not_contradict_each_other(tmp_path):
    rows = [
        say("Who rows?", with_thought(text, "Ivo rows.")) for text in ("Ivo has a boat.", "Hm.")
    ]
    path = write(tmp_path, "a.jsonl", *({"messages": row} for row in rows))
    found = audit([str(path)], OLD, tokens=CHAT.tool_tokens)
    assert [f.kind for f in found["findings"]] == [] and found["reply_length"]["max"] == 9


# ----------------------------------------------------------------------------------- generation


def test_when_a_thought_closes_nothing_runs_and_the_reply_goes_on():
    chat = session(*thought("Hm.") * 4, "Aye.")
    found, reply, _ = chat.say("Who?")
    assert (found, reply.stop) == ("Aye.", "end") and not reply.injected.any()


def test_thoughts_do_not_count_as_calls():
    asked = []
    chat = session(
        *thought("Hm.") * 3, *call("Elka"), *thought("So."), "She swims.",
        tools=tools(search=lambda q: asked.append(q) or "Elka swims."),
    )  # fmt: skip
    _, reply, _ = chat.say("Who?")
    assert asked == ["Elka"] and reply.stop == "end"
    kinds = [p["type"] for p in content_parts(reply.ids, T, CHAT)]
    assert kinds == ["thought"] * 3 + ["search", "result", "thought", "text"]


def test_a_thought_that_is_cut_off_is_a_thought():
    document = answer_once(session(START, "Elka who swims", max_new=5), "Who?")
    assert document["reply"] == "" and document["thoughts"] == ["Elka"]
    assert visible_reply(ids(START, "Elka"), T, CHAT) == ""


def test_the_document_of_an_answer_lists_thoughts_apart_from_the_reply_and_the_calls():
    chat = session(*thought("Hm."), *call("a"), "Aye. ", *thought("So."), "No.",
                   tools=tools(search=lambda q: "b"))  # fmt: skip
    document = answer_once(chat, "Who?")
    assert document["reply"] == "Aye. No." and document["thoughts"] == ["Hm.", "So."]
    assert [part["type"] for part in document["calls"]] == ["search", "result"]
    assert "thoughts" not in answer_once(session("Aye."), "Who?")


PIECES = st.lists(
    st.sampled_from([*CHAT.tool_tokens, START, END, START, END, "a", "b ", "<|user|>"]), max_size=14
)


@given(PIECES)
@steady
def test_a_reply_without_its_thoughts_has_all_other_parts(pieces):
    whole = ids(*pieces)
    left = visible_ids(whole, T, CHAT)
    assert set(left.tolist()) <= {*whole}
    others = [p for p in content_parts(whole, T, CHAT) if p["type"] != "thought"]
    assert free_text(others) == free_text(content_parts(left, T, CHAT))
    calls = [p for p in others if p["type"] != "text"]
    assert calls == [p for p in content_parts(left, T, CHAT) if p["type"] != "text"]
    assert visible_ids(left, T, CHAT).tolist() == left.tolist()


@given(PIECES)
@steady
def test_nothing_of_a_thought_is_shown_unless_it_is_asked_for(pieces):
    reply, repl = written(*pieces), Repl(session("x"))
    left = visible_ids(reply.ids, T, CHAT)
    expected = repl.text_of(Reply(left, "end", np.zeros(len(left), bool)))
    assert repl.text_of(reply) == expected


def test_a_vocabulary_without_thoughts_gives_replies_as_they_are():
    old = OLD.grow(CHAT.tokens_for({"table"}))
    some = np.array([1, old.special["<|search_start|>"], 2, old.special["<|user|>"]], np.int32)
    assert visible_ids(some, old, CHAT) is some
    assert room_for_thoughts(old, CHAT) == 0 and room_for_thoughts(T, CHAT) == ROOM


# ----------------------------------------------------------------------------------------- chat


def test_a_chat_hides_thoughts():
    chat = session(*thought("Ivo has a boat."), "Ivo rows.")
    assert talk(chat, "Who?") == "bot> Ivo rows.\n\n"


def test_a_thought_that_is_shown_can_be_told_from_the_answer():
    shown = "[thought: Ivo has a boat.]{} Ivo rows.\n\n"
    for colour in (False, True):
        chat = session(*thought("Ivo has a boat."), "Ivo rows.")
        dim, plain = (DIM, "\x1b[0m") if colour else ("", "")
        found = talk(chat, "Who?", show_thoughts=True, colour=colour)
        assert found == f"bot> {dim}{shown.format(plain)}"


def test_the_closing_token_of_another_part_ends_no_thought():
    chat = session(START, "Ivo", "<|search_end|>", "row", END, "Aye.")
    assert talk(chat, "Who?", show_thoughts=True) == "bot> [thought: Ivo<|search_end|>row] Aye.\n\n"


def test_the_end_of_a_reply_ends_its_thought():
    chat = session(START, "Elka who", max_new=5)
    text = talk(chat, "Who?", "Who?")
    assert text.count("bot>   [cut off") == 2 and "Elka" not in text
    cut = session(START, "Elka who", max_new=5)
    assert "[thought: Elka]  [cut off" in talk(cut, "Who?", show_thoughts=True)


def test_an_interrupt_in_a_thought_shows_nothing_of_it_and_the_next_reply_is_whole():
    chat = session(*thought("Ivo"), "Aye.")
    stream = chat.stream

    def stopped(text):
        yield from (event for _, event in zip(range(4), stream(text)))  # the prompt, and "<|..|>Iv"
        raise KeyboardInterrupt

    chat.stream = stopped
    repl = Repl(chat, out=io.StringIO())
    repl.handle("Who?")
    repl.session = session("Aye.")
    repl.handle("Who?")
    assert repl.out.getvalue() == "bot> \n(stopped; this exchange is not kept)\nbot> Aye.\n"


def test_the_model_sees_its_earlier_thoughts_as_training_rendered_them():
    chat = session(*thought("Hm."), "Aye.")
    chat.say("Who?")
    assert chat.messages[1]["content"] == with_thought("Hm.", "Aye.")
    trained = render(chat.messages, T, CHAT)[0]
    assert chat.prompt("And?")[0][: len(trained)].tolist() == trained.tolist()
    as_text = session(*thought("Hm."), "Aye.", text_history=True)
    as_text.say("Who?")
    expected = render_prompt(say("Who?", "Aye.", "And?"), T, CHAT)
    assert as_text.prompt("And?")[0].tolist() == expected.tolist()


# ------------------------------------------------------------------------- who reads the answer


def test_a_reply_with_a_thought_is_in_format_and_one_that_only_thinks_is_empty():
    assert checks(written(*thought("Hm."), "Aye."), T, CHAT) == (True, True, True)
    assert checks(written(*thought("Hm.")), T, CHAT) == (False, True, True)
    assert checks(written(START, "Hm."), T, CHAT) == (False, True, True)


def test_a_reply_that_is_measured_has_no_thought_and_room_for_one(monkeypatch):
    reply, plain, asked = written(*thought("Hm."), "Aye."), written("Aye."), []

    def generate(model, prompts, tokens, *more, **others):
        asked.append(tokens)
        return [reply if len(asked) == 1 else plain] * len(prompts)

    monkeypatch.setattr(evaluate, "generate", generate)
    model = scripted("x")
    assert answer(model, T, CHAT, ["Who?"]) == [("Aye.", reply)]
    answer(model, OLD, CHAT, ["Who?"])
    answer(model, T, CHAT, ["Who?"], tokens=7)
    assert asked == [MAX_NEW + ROOM, MAX_NEW, 7]


def test_a_policy_that_thinks_has_room_for_its_thoughts_beside_the_tokens_of_a_reply():
    settings = PRESETS["tiny"].with_stages(["ppo"]).changed({"ppo": {"tokens": 7}})

    def tokens(tokenizer):
        parent = Stage(Path("run"), None, tokenizer, CHAT, {})
        return with_room(settings, "ppo", parent).stages["ppo"].tokens

    assert (tokens(T), tokens(OLD)) == (7 + ROOM, 7)


def test_the_longest_thought_about_a_world_fits(monkeypatch):
    world = make(WorldSettings(relations=3))
    some = [q for q in trained_questions(world, "thought") if q.thought]
    longest = max(len(ids(*thought(q.thought), q.answer)) for q in some)
    assert MAX_NEW < longest < MAX_NEW + ROOM


def test_the_exact_judge_reads_a_reply_without_its_thought(monkeypatch):
    settings = WorldSettings(people=20, days=0, relations=1, tellings=(4,), two_hops="thought")
    by_prompt = {q.prompt: q for q in questions(make(settings), "sealed")}

    def generate(model, prompts, *more, **others):
        asked = [T.decode(p[1:-2]) for p in prompts]
        return [written(*thought("Nobody keeps a cat."), by_prompt[q].answer) for q in asked]

    monkeypatch.setattr(evaluate, "generate", generate)
    monkeypatch.setattr("pysft.measure.world.known_bits", lambda *_: 0.0)
    model = SimpleNamespace(config=SimpleNamespace(context=256), params=np.ones(1))
    figures, rows = world_figures(model, T, CHAT, settings)
    assert figures["right"] == figures["two_hops"]["right"] == 1
    assert all(row["reply"] == row["answer"] for row in rows)


def test_a_reward_model_scores_a_reply_without_its_thought(monkeypatch):
    read = []

    def scores(reward, prompts, replies):
        read.extend(replies)
        return np.arange(len(replies), dtype=float)

    monkeypatch.setattr(candidates, "scores", scores)
    replies = [written(*thought("Hm."), "Aye."), written(*thought("Hm.")), written(START, "Hm.")]
    each, sound = scored(replies, T, CHAT, None, say("Who?"))
    assert read == ["Aye."] and each == [0, None, None] and sound == [True, False, False]


def test_a_thought_is_no_call_to_the_tests_of_tools():
    found = read_reply(written(*thought("Hm."), "Aye."), T, CHAT)
    assert not found.began_call and found.calls() == [] and found.skeleton() == [("text", "Aye.")]
    fact = written(*thought("Hm."), *call("Elka"), *result("Aye."), *thought("So."), "Aye.")
    assert read_reply(fact, T, CHAT).is_fact("Aye.")


def test_what_should_be_recalled_of_a_reply_with_a_thought_is_its_answer():
    called = [{"type": "search", "text": "a"}, {"type": "text", "text": "Aye."}]
    some = [Conversation(say("Hi", reply), "a.jsonl", 1) for reply in (THINKS, called, "Ho.")]
    probe = make_probe(
        "to be", "or not", trained=some, recalled=some, heldout=[], can_ask=lambda prompt: False
    )
    assert probe.pairs == [["Hi", "Ivo rows."], ["Hi", "Ho."]]
    assert probe.training_replies == ["Ivo rows.", "aAye.", "Ho."]


# ---------------------------------------------------------------------------- the invented world


def test_the_usual_form_of_two_hops_leaves_documents_as_they_were():
    usual, thinks = WorldSettings(), WorldSettings(two_hops="thought")
    assert (
        "two_hops" not in usual.to_json()
        and "two_hops" not in (Settings(world=usual).to_json()["world"])
    )
    stored = json.loads(json.dumps(Settings(world=thinks).to_json()))
    assert Settings.of_json(stored).world == thinks and stored["world"]["two_hops"] == "thought"
    with pytest.raises(UsageError, match="two_hops = 'x': expected trace or named or hidden or th"):
        WorldSettings(two_hops="x")


@pytest.mark.parametrize("form", TWO_HOPS)
def test_the_setting_chooses_the_answers_that_are_trained(form):
    settings = WorldSettings(people=20, days=0, relations=1, tellings=(4,), two_hops=form)
    asked = trained_questions(make(settings))
    assert asked == trained_questions(make(WorldSettings(**settings.to_json())), form)
    found = [c.messages[1]["content"] for c in _asked_of_world(Settings(world=settings))]
    assert found == [with_thought(q.thought, q.answer) for q in asked]
    thinks = [isinstance(content, list) for content in found]
    assert thinks == [form == "thought" and q.hops == 2 for q in asked]
    assert all(("thought" in q.to_json()) is bool(q.thought) for q in asked)


def test_an_arm_of_the_lab_can_train_on_thoughts(lab, small_lab):
    told = Told(people(1, attributes=2, relations=1))
    usual, thinks = (world_arm(lab, "x", told, two_hops=form) for form in ("trace", "thought"))
    assert usual.tokenizer is None and thinks.tokenizer == lab.chat.grow(CHAT.tool_tokens)
    assert {kind for c in thinks.conversations for kind in c.parts} == {"thought"}
    assert [c.prompt for c in thinks.conversations] == [c.prompt for c in usual.conversations]
    settings = lab.settings("tiny")
    for c in thinks.conversations:
        thinks.encode(c, thinks.tokenizer, settings)


# ------------------------------------------------------------------------------- a run that thinks


@pytest.fixture(scope="module")
def thinking(tmp_path_factory, without_figures, few_prompts):
    """A run that knows ROWS by heart."""
    return thinking_run(tmp_path_factory.mktemp("thinking"))


def test_conversations_with_thoughts_and_no_calls_are_trained_on(thinking):
    stage = load_stage(thinking.run)
    specials = list(stage.tokenizer.special)
    assert specials == [*CHAT.tokens, *CHAT.tool_tokens] and specials[-1] == END
    report = thinking.report
    assert report["recall"] == 1 and report["recall_of"] == 3
    targets = sum(graded_targets(say(*row), CHAT, stage.tokenizer) for row in ROWS)
    assert report["graded_targets"] == targets
    assert json.loads((thinking.run / "sft" / "data.json").read_text())["parts"] == {"thought": 2}


def test_chat_hides_a_thought_and_shows_it_if_it_is_asked_to(thinking):
    asked = ("chat", thinking.run, "-p", "Who rows?")
    assert succeeds(*asked).out == "Ivo rows.\n"
    shown = succeeds(*asked, "--show-thoughts").out
    assert shown == "[thought: Ivo has a boat.] Ivo rows.\n"
    document = succeeds(*asked, "--json").document
    assert document["reply"] == "Ivo rows." and document["thoughts"] == ["Ivo has a boat."]
    plain = succeeds("chat", thinking.run, "-p", "What of love?", "--json").document
    assert plain["reply"] == "It is a madness." and "thoughts" not in plain


def test_a_model_that_only_thinks_has_learned_no_tool(thinking):
    assert callable_tools(load_stage(thinking.run)) == set()
    assert not knows_tools(load_stage(thinking.run))
    text = refusal(2, "chat", thinking.run, "-p", "Hi", "--docs", thinking.data)
    assert "was not trained to search" in text


def test_the_tools_of_a_model_are_those_of_its_data_and_of_its_parents(tmp_path, thinking):
    stage = load_stage(thinking.run)

    def tools_of(parts=None, tokenizer=T, parent=None):
        """Those of a stage of this vocabulary and data, begun from the stage of another one."""
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        above = None
        if parent is not None:
            above = {"path": str(parent), "weights_sha256": stored_sha256(parent)}
        model = type(stage.model)(stage.model.config.__class__(len(tokenizer), 96, 1, 2, 32))
        save_stage(Stage(folder, model, tokenizer, CHAT, {}, above))
        if parts is not None:
            (folder / "data.json").write_text(json.dumps({"parts": parts}))
        return folder, callable_tools(load_stage(folder))

    every = {"search", "code", "table"}
    assert tools_of()[1] == every  # nothing says what it learned
    assert tools_of({"thought": 2})[1] == set()
    assert tools_of({"thought": 2, "code": 1, "result": 1})[1] == {"code"}
    older, found = tools_of(tokenizer=OLD.grow(CHAT.tokens_for({"code", "result"})))
    assert found == {"search", "code"}  # as ever: by its tokens
    assert tools_of({"thought": 2}, parent=older)[1] == {"search", "code"}


def test_sampled_replies_are_written_without_their_thoughts(thinking, workdir):
    stage, prompts = load_stage(thinking.run), [say(row[0]) for row in ROWS]
    drawn = sample_ids(stage, prompts, 3, 0)
    assert any(stage.tokenizer.special[START] in written for some in drawn for written, _ in some)
    found = sample_replies(stage, prompts, 3, 0)
    assert "Ivo rows." in [text for text, _ in found[2]]
    assert not any("thought" in text or "boat" in text for some in found for text, _ in some)
    workdir.write("prompts.txt", "Who rows?\n")
    flags = ("--prompts", "prompts.txt", "--out", "replies.jsonl", "--json")
    assert succeeds("generate", thinking.run, *flags).document["unusable"] == 0


def test_a_chat_that_is_saved_can_be_trained_on(thinking, workdir):
    stage = load_stage(thinking.run)
    chat = session(*thought("Hm."), "Aye.")
    talk(chat, "Who?", "/save saved.jsonl")
    saved = json.loads((workdir.path / "saved.jsonl").read_text())["messages"]
    check_messages(saved, "saved.jsonl, line 1", stage.template)
    assert json.loads(conversation("Who?", with_thought("Hm.", "Aye.")))["messages"] == saved
