"""`curate distil`: which replies of a teacher are kept, and what it and the judge are asked."""

import pytest
from chat_server import ChatServer
from command_line import SMALL_WORLD, pysft, read_lines, succeeds
from test_chat import T, ids
from texts import say
from thinking import thinking_run

from pysft.errors import UsageError
from pysft.inference.engine import Engine
from pysft.jobs.collect import sample_ids
from pysft.jobs.curate.distil import REASONS
from pysft.jobs.curate.teachers import (
    MALFORMED,
    NO_END,
    NO_THOUGHT,
    TASK,
    Draft,
    draft_of_ids,
    draft_of_text,
    teacher_named,
)
from pysft.measure import judges
from pysft.run.stage import load_stage, weights_sha256
from pysft.text.conversation import visible_text, with_thought
from pysft.text.curated import read_curated
from pysft.text.templates import CHAT, HUMAN
from pysft.world.ask import questions
from pysft.world.facts import WorldSettings, make

START, END = "<|thought_start|>", "<|thought_end|>"
# A judge who knows two answers, and fails where it is shown a thought.
JUDGE = """
KNOWN = {"Who sings?": "Ada sings.", "Who rows?": "Ivo rows."}
def judge(question, answer, reply):
    assert "boat" not in reply and "lute" not in reply and answer == ""
    return "right" if reply == KNOWN.get(question) else "wrong"
"""
PROMPTS = "Who sings?\nWhat of love?\nWho rows?\n"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, without_figures, few_prompts):
    return thinking_run(tmp_path_factory.mktemp("teacher")).run


@pytest.fixture
def files(workdir):
    """A folder with prompts and a judge."""
    workdir.write("prompts.txt", PROMPTS)
    workdir.write("mine.py", JUDGE)
    return workdir


def distil(teacher, *flags, prompts="prompts.txt", judge="mine.py", out="out.jsonl"):
    return succeeds(
        "curate", "distil", prompts, "--teacher", teacher, "--judge", judge, "--out", out, *flags,
        "--json",
    ).document  # fmt: skip


def fails(code, teacher, *flags, prompts="prompts.txt", judge="mine.py"):
    """The last line of what a refused command says; the lines before it are progress."""
    done = pysft("curate", "distil", prompts, "--teacher", teacher, "--judge", judge, "--out",
                 "out.jsonl", *flags)  # fmt: skip
    assert done.code == code, done.err
    return done.err.splitlines()[-1]


# --------------------------------------------------------------------------------- a run of ours


def test_a_row_is_the_first_right_reply_with_its_thought(teacher, files):
    document = distil(teacher, "--seed", "3")
    rows = read_lines("out.jsonl")
    expected = [
        say("Who sings?", with_thought("Ada has a lute.", "Ada sings.")),
        say("Who rows?", with_thought("Ivo has a boat.", "Ivo rows.")),
    ]
    assert [row["messages"] for row in rows] == expected
    sha = weights_sha256(load_stage(teacher).model)
    for row in rows:
        assert row["synthetic"] is True  # so train --no-synthetic leaves it out
        [step] = row["metadata"]["steps"]
        assert 1 <= step.pop("right") <= 4
        assert step == {
            "step": "distil", "by": str(teacher), "weights_sha256": sha, "seed": 3, "tries": 4,
        }  # fmt: skip
    assert [c.messages for c in read_curated("out.jsonl", CHAT)] == expected
    dropped = {reason: 0 for reason in REASONS} | {NO_THOUGHT: 1}
    assert (document["read"], document["written"], document["dropped"]) == (3, 2, dropped)
    right = sum(row["metadata"]["steps"][0]["right"] for row in read_lines("out.jsonl"))
    assert document["replies"]["right"] == right and document["right"] == right / 12
    assert sum(document["replies"].values()) == 12
    named = {name: document[name] for name in ("teacher", "judge", "out", "tries", "seed")}
    assert named == {
        "teacher": str(teacher), "judge": "mine.py", "out": "out.jsonl", "tries": 4, "seed": 3,
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_and_a_file_that_trains(teacher, files):
    distil(teacher)
    distil(teacher, out="again.jsonl")
    assert (files.path / "out.jsonl").read_bytes() == (files.path / "again.jsonl").read_bytes()
    assert succeeds("audit", "out.jsonl", "--json").document["findings"] == []


def test_answers_alone_are_the_same_rows(teacher, files):
    for flags in ((), ("--all",)):
        distil(teacher, "-k", "9", *flags, out=f"traces{len(flags)}.jsonl")
        distil(teacher, "-k", "9", *flags, "--answers-only", out=f"answers{len(flags)}.jsonl")
        traces, answers = (read_lines(f"{x}{len(flags)}.jsonl") for x in ("traces", "answers"))
        for row in traces:
            row["messages"][-1]["content"] = visible_text(row["messages"][-1]["content"])
        assert traces == answers


def test_all_writes_every_different_right_reply_and_judges_no_answer_twice(teacher, files):
    files.write("any.py", "seen = []\ndef judge(q, a, r):\n    assert (q, r) not in seen\n"
                "    seen.append((q, r))\n    return 'right'\n")  # fmt: skip
    files.write("prompts.txt", PROMPTS + "Who is he?\n")
    stage = load_stage(teacher)
    drawn = sample_ids(stage, [say(p) for p in (PROMPTS + "Who is he?").splitlines()], 9, 0)
    drafts = [[draft_of_ids(*r, stage.tokenizer, CHAT) for r in some] for some in drawn]
    kept = [dict.fromkeys(d for d in some if not d.fault) for some in drafts]
    assert sum(map(len, kept)) > sum(map(bool, kept))  # else the flag changes nothing
    distil(teacher, "-k", "9", "--all", judge="any.py")
    found = [row["messages"][-1]["content"] for row in read_lines("out.jsonl")]
    assert found == [with_thought(d.thought, d.answer) for some in kept for d in some]
    distil(teacher, "-k", "9", judge="any.py", out="first.jsonl")
    firsts = [next(iter(some)) for some in kept if some]
    found = [row["messages"][-1]["content"] for row in read_lines("first.jsonl")]
    assert found == [with_thought(d.thought, d.answer) for d in firsts]


def test_prompts_that_the_teacher_cannot_read_are_counted(teacher, files):
    files.write(
        "prompts.jsonl", [{"prompt": p, "source": "mine"} for p in ("Who \u20ac?", "a" * 99)]
    )
    text = fails(65, teacher, prompts="prompts.jsonl")
    assert "the teacher can read none of 2 prompts. The first: prompts.jsonl, prompt 1" in text
    rows = [{"prompt": p, "source": "mine"} for p in ("Who \u20ac?", "Who rows?", "a" * 99)]
    files.write("prompts.jsonl", rows)
    document = distil(teacher, prompts="prompts.jsonl")
    assert (document["read"], document["written"], document["dropped"]["does not fit"]) == (3, 1, 2)
    assert read_lines("out.jsonl")[0]["metadata"]["source"] == "mine"


@pytest.mark.parametrize(
    "pieces, ended, draft",
    [
        ((START, "Hm.", END, "Aye."), True, Draft("Hm.", "Aye.")),
        (("Aye.",), True, NO_THOUGHT),
        (("Aye.", END), True, NO_THOUGHT),
        ((START, " ", END, "Aye."), True, NO_THOUGHT),
        ((START, "Hm.", END, "Aye."), False, NO_END),
        ((START, "Hm."), False, NO_END),
        ((START, "Hm."), True, MALFORMED),
        ((START, "Hm.", END), True, MALFORMED),
        ((START, "Hm.", END, " "), True, MALFORMED),
        (("Aye. ", START, "Hm.", END, "Aye."), True, MALFORMED),
        ((START, "Hm.", END, "Aye.", START, "Hm.", END), True, MALFORMED),
        ((START, "Hm.", END, "<|search_start|>", "a", "<|search_end|>", "Aye."), True, MALFORMED),
        ((START, "H<|user|>m.", END, "Aye."), True, MALFORMED),
    ],
)
def test_a_reply_of_a_run_is_one_thought_and_then_an_answer(pieces, ended, draft):
    written = [i for p in pieces for i in ids(*p.replace("<|user|>", "\0<|user|>\0").split("\0"))]
    expected = draft if isinstance(draft, Draft) else Draft(fault=draft)
    assert draft_of_ids(written, ended, T, CHAT) == expected


def test_words_that_would_forge_a_turn_make_a_reply_malformed():
    tokenizer = T.grow(HUMAN.tokens)
    written = ids(START, "Hm.", END, "Aye.\n\nHuman: No.")
    assert draft_of_ids(written, True, tokenizer, HUMAN) == Draft(fault=MALFORMED)


def test_an_interrupt_leaves_no_file(teacher, files, monkeypatch):
    def stopped(engine):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", stopped)
    flags = ("--teacher", teacher, "--judge", "mine.py", "--out", "out.jsonl")
    assert pysft("curate", "distil", "prompts.txt", *flags).code == 130
    assert files.is_unchanged()


# ----------------------------------------------------------------------------- what is refused


def test_nothing_right_is_an_error_that_says_the_share_and_writes_nothing(teacher, files):
    files.write("mine.py", "def judge(*texts):\n    return 'wrong'\n")
    text = fails(65, teacher)
    assert "mine.py: none of 12 replies of" in text and "0%" in text and " wrong" in text
    assert not (files.path / "out.jsonl").exists()


def test_a_model_that_cannot_think_and_answer_is_refused(teacher, trained, files):
    text = fails(2, teacher / "base")
    assert "a base model, which cannot answer" in text and "world.two_hops=thought" in text
    text = fails(2, trained.run)
    assert "has no tokens of a thought; train one" in text and "world.two_hops=thought" in text
    assert not (files.path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "code, flags, said",
    [
        (2, {"more": ("-k", "10")}, "-k 10: expected 1 to 9"),
        (2, {"more": ("--teacher-model", "x")}, "are for the URL of an endpoint; leave"),
        (2, {"more": ("--teacher-budget", "3")}, "are for the URL of an endpoint; leave"),
        (2, {"more": ("--teacher-cache", "x")}, "are for the URL of an endpoint; leave"),
        (2, {"more": ("--judge-model", "x")}, "are for the URL of an endpoint"),
        (2, {"judge": "world"}, "--judge world needs the run that learned the world which"),
        (2, {"prompts": "world:train"}, "learned no invented world"),
        (2, {"prompts": "world:sealed"}, "the sealed questions are for reports alone"),
        (66, {"prompts": "none.txt"}, "none.txt: no such file of prompts"),
        (66, {"judge": "none.py"}, "none.py: no such file"),
        (2, {"teacher": "http://127.0.0.1:9/v1"}, "--teacher-model NAME"),
        (66, {"teacher": "nowhere"}, "no such run folder"),
        (2, {"more": ("--out", "mine.py")}, "it exists already"),
        (2, {"more": ("--out", "no/a.jsonl")}, "there is no folder no"),
    ],
)
def test_what_does_not_fit_is_one_sentence(teacher, files, code, flags, said):
    more, given = flags.get("more", ()), {"teacher": teacher} | flags
    given.pop("more", None)
    assert said in fails(code, given.pop("teacher"), *more, **given)
    assert files.is_unchanged()


def test_a_prompt_s_other_key_has_no_remedy_that_distil_lacks(teacher, files):
    files.write("prompts.jsonl", [{"prompt": "Hi", "foo": "Ho"}])
    said = fails(65, teacher, prompts="prompts.jsonl")
    assert "key 'foo' is not read" in said and said.endswith("or take it out")


def test_a_run_without_a_world_has_no_truth(teacher, files):
    assert "it learned no invented world" in fails(2, teacher, "--run", teacher)


# -------------------------------------------------------------------------------- an endpoint


@pytest.fixture
def server():
    server = ChatServer()
    yield server
    server.stop()


MODEL = ("--teacher-model", "wise")


def test_an_endpoint_is_asked_for_two_parts_once_a_prompt_and_try(server, files):
    known = {"Who sings?": "Ada sings.", "Who rows?": "Ivo rows."}

    def reply(messages, before):
        answer = known.get(messages[-1]["content"], "None.")
        return f"Thought: call {before}.\nAnswer: {answer}"

    server.reply = reply
    document = distil(server.url, *MODEL, "-k", "3", "--all")
    assert sorted(server.prompts()) == sorted(PROMPTS.splitlines() * 3)
    first = server.asked[0]
    assert first["messages"] == [{"role": "system", "content": TASK}, *say("Who sings?")]
    assert (first["model"], first["temperature"]) == ("wise", 1)
    assert set(first) == {"model", "messages", "max_tokens", "temperature"}
    rows = read_lines("out.jsonl")
    assert [row["messages"][-1]["content"] for row in rows] == [
        with_thought(f"call {n}.", answer)
        for n, answer in zip((0, 1, 2, 6, 7, 8), ["Ada sings."] * 3 + ["Ivo rows."] * 3)
    ]
    [step] = rows[0]["metadata"]["steps"]
    assert step == {
        **{"step": "distil", "by": server.url, "model": "wise", "seed": 0, "tries": 3, "right": 3}
    }
    assert document["replies"] | {"right": 6, "wrong": 3} == document["replies"]
    assert (document["right"], document["dropped"]["wrong"]) == (6 / 9, 1)
    again = distil(server.url, *MODEL, "-k", "3", "--all", out="again.jsonl")
    assert len(server.asked) == 9 and read_lines("again.jsonl") == rows  # all from the cache
    assert again["right"] == document["right"]
    distil(server.url, *MODEL, "-k", "3", "--seed", "1", out="other.jsonl")
    assert len(server.asked) == 18  # other draws


def test_what_was_answered_before_a_stop_is_not_asked_again(server, files):
    def reply(messages, before):
        return 400 if before == 7 else f"Thought: {before}.\nAnswer: Ivo rows."

    server.reply = reply
    assert "status 400" in fails(1, server.url, *MODEL)
    assert not (files.path / "out.jsonl").exists()
    distil(server.url, *MODEL)
    assert len(server.asked) == 3 * 4 + 1


def test_the_teacher_has_a_budget_and_a_cache_of_its_own(server, files):
    server.reply = lambda messages, before: "Thought: So.\nAnswer: Ivo rows."
    flags = (*MODEL, "--teacher-cache", "kept", "--judge-cache", "verdicts")
    assert "budget of 7 calls is used up" in fails(1, server.url, *flags, "--teacher-budget", "7")
    assert len(server.asked) == 7 and not (files.path / "out.jsonl").exists()
    distil(server.url, *flags, "--teacher-budget", "5")  # 12 in all: the rest
    assert len(server.asked) == 12 and (files.path / "kept").exists()
    distil(server.url, *MODEL, out="again.jsonl")
    assert len(server.asked) == 24 and (files.path / "taught").exists()


def test_a_prompt_of_several_turns_is_asked_and_judged_with_all_of_them(server, files):
    turns = [{"role": "system", "content": "Be brief."}, *say("Hi", "Ho.", "Who?")]
    files.write("prompts.jsonl", [{"prompt": turns}])
    files.write(
        "mine.py",
        "def judge(q, a, r):\n"
        "    ok = q == 'System: Be brief.\\nUser: Hi\\nAssistant: Ho.\\nUser: Who?'\n"
        "    return 'right' if ok else 'wrong'\n",
    )
    server.reply = lambda messages, before: "Thought: So.\nAnswer: Ivo."
    distil(server.url, *MODEL, "-k", "1", prompts="prompts.jsonl")
    assert server.asked[0]["messages"] == [
        {"role": "system", "content": f"{TASK}\n\nBe brief."}, *say("Hi", "Ho.", "Who?"),
    ]  # fmt: skip
    [row] = read_lines("out.jsonl")
    assert row["messages"] == [*turns, *say("x", with_thought("So.", "Ivo."))[1:]]


@pytest.mark.parametrize(
    "text, ended, draft",
    [
        ("Thought: Hm.\nAnswer: Aye.", True, Draft("Hm.", "Aye.")),
        ("\n Thought: H.\n\nSo.\r\n\r\nAnswer: Aye.\nNo.\n", True, Draft("H.\n\nSo.", "Aye.\nNo.")),
        ("**Thought:** Hm.\n\n**Answer:** Aye.", True, Draft("Hm.", "Aye.")),
        ("**Thought**: the answer: x.\n**Answer**: Aye.", True, Draft("the answer: x.", "Aye.")),
        ("Thought: Hm. Answer: Aye.", True, Draft("Hm.", "Aye.")),
        ("Aye.", True, NO_THOUGHT),
        ("Answer: Aye.", True, NO_THOUGHT),
        ("Thought:\nAnswer: Aye.", True, NO_THOUGHT),
        ("", True, NO_THOUGHT),
        ("Thought: Hm.\nAnswer: Ay", False, NO_END),
        ("Thought: Hm", False, NO_END),
        ("", False, NO_END),
        (" \n", False, NO_END),
        ("Thought: Hm.", True, MALFORMED),
        ("Thought: Hm.\nAnswer:", True, MALFORMED),
        ("Thought: Hm.\nAnswer: Aye.\nAnswer: No.", True, MALFORMED),
        ("Thought: Hm.\nAnswer: Aye.<|end|>", True, MALFORMED),
        ("Thought: <|thought_end|>\nAnswer: Aye.", True, MALFORMED),
    ],
)  # fmt: skip
def test_an_answer_of_an_endpoint_has_two_parts(text, ended, draft):
    expected = draft if isinstance(draft, Draft) else Draft(fault=draft)
    assert draft_of_text(text, ended) == expected


def test_an_answer_that_is_cut_off_has_no_end_also_when_it_comes_from_the_cache(server, files):
    server.reply = lambda messages, before: (
        ("Thought: Hm.\nAnswer: Ivo rows.", "length" if before % 2 else "stop")
    )
    for out in ("out.jsonl", "again.jsonl"):
        document = distil(server.url, *MODEL, "-k", "2", out=out)
        assert document["replies"][NO_END] == 3 and document["written"] == 1
    assert len(server.asked) == 6


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_answer_without_room_to_begin_has_no_end_and_is_not_asked_for_again(server, files, text):
    """As of a reasoning model that needs more tokens than others do for one of the prompts."""
    server.reply = lambda messages, before: (
        (text, "length") if before == 2 else "Thought: Hm.\nAnswer: Ivo rows."
    )
    for out in ("out.jsonl", "again.jsonl"):
        document = distil(server.url, *MODEL, "-k", "2", out=out)
        assert document["replies"][NO_END] == 1 and document["written"] == 1
    assert len(server.asked) == 6


# ------------------------------------------------------------------------------------ the judges


@pytest.fixture(scope="module")
def asked_of_world():
    """{prompt: question} of the world of `world_run`."""
    import tomllib

    world = make(WorldSettings(**tomllib.loads(SMALL_WORLD)["world"]))
    return {q.prompt: q for split in ("train", "sealed") for q in questions(world, split)}


def test_the_exact_judge_grades_the_questions_of_a_world(server, files, world_run, asked_of_world):
    """A teacher that knows every second answer, refuses every third, and else is wrong."""
    train = [q for q in asked_of_world.values() if q.split == "train"]
    place = {q.prompt: i for i, q in enumerate(train)}

    def reply(messages, before):
        q = asked_of_world[messages[-1]["content"]]
        i = place[q.prompt]
        answer = q.answer if i % 2 == 0 else "I know not." if i % 3 == 0 else "So be it."
        return f"Thought: I have read of {q.about}.\nAnswer: {answer}"

    server.reply = reply
    flags = (*MODEL, "--run", world_run[0], "-k", "1")
    document = distil(server.url, *flags, prompts="world:train", judge="world")
    rows = read_lines("out.jsonl")
    right = [
        q for q in train
        if place[q.prompt] % 2 == 0 or (place[q.prompt] % 3 == 0 and not q.value)
    ]  # fmt: skip
    assert any(not q.value for q in right) and any(q.value for q in right)
    assert [row["messages"][0]["content"] for row in rows] == [q.prompt for q in right]
    assert {row["metadata"]["source"] for row in rows} == {"world:train"}
    assert document["read"] == len(train) == document["written"] + sum(document["dropped"].values())
    known = [q for q in train if q.value and place[q.prompt] % 2]
    assert document["dropped"]["refused"] == sum(place[q.prompt] % 3 == 0 for q in known) > 0
    assert document["dropped"][MALFORMED] + document["dropped"]["wrong"] > 0


def test_a_world_needs_a_run_that_learned_it(server, files, world_run):
    server.reply = lambda messages, before: 400
    text = fails(2, server.url, *MODEL, prompts="world:train")
    assert "name the run whose world is asked: --run RUN" in text
    text = fails(65, server.url, *MODEL, "--run", world_run[0], judge="world")
    assert "'Who sings?' is no question of this world" in text and server.asked == []


def test_a_sealed_question_is_refused_wherever_it_stands(server, files, world_run, asked_of_world):
    sealed = next(q for q in asked_of_world.values() if q.split == "sealed" and q.value)
    for prompt in (sealed.prompt, f"Tell me of {sealed.about.upper()}!"):  # in other words, too
        files.write("prompts.txt", f"Who sings?\n{prompt}\n")
        text = fails(65, server.url, *MODEL, "--run", world_run[0])
        assert "prompts.txt, line 2: " in text and "asks about what is sealed" in text
    assert server.asked == []


def test_a_judge_behind_an_endpoint_may_say_nothing(server, files, world_run, asked_of_world):
    some = [q for q in asked_of_world.values() if q.split == "train" and q.value][:3]
    files.write("prompts.txt", "".join(f"{q.prompt}\n" for q in some) + "Who sings?\n")
    seen = []

    def reply(messages, before):
        if messages[0]["content"] == TASK:
            return "Thought: Hm.\nAnswer: Aye."
        seen.append(tuple(m["content"] for m in messages))
        return "hm" if some[1].prompt in messages[1]["content"] else "right"

    server.reply = reply
    flags = (*MODEL, "--run", world_run[0], "--judge-model", "strict", "-k", "2")
    document = distil(server.url, *flags, judge=server.url)
    assert document["written"] == 3 and document["dropped"]["not judged"] == 1
    known = f"Question: {some[0].prompt}\nTrue answer: {some[0].answer}\nReply: Aye."
    assert seen[0] == (judges.TASK, known)
    assert seen[-1] == (judges.ALONE, "What the user said: Who sings?\nReply: Aye.")
    assert len(seen) == 1 + 3 + 1 + 1  # equal answers once, and one asked again in vain


def test_a_teacher_needs_its_model(tmp_path):
    with pytest.raises(UsageError, match="--teacher-model NAME"):
        teacher_named("http://127.0.0.1:9/v1", None, None, str(tmp_path), None, print)
