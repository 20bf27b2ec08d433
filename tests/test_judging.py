"""Who says whether a reply is right: what a name of --by stands for."""

from types import SimpleNamespace

import pytest
from chat_server import judging

from pysft.errors import DataError, MissingInput, UsageError
from pysft.jobs.curate.judging import as_text, judge_of, refuse_sealed, truth_of
from pysft.world.ask import questions
from pysft.world.facts import SPLITS, WorldSettings, make

SETTINGS = WorldSettings(people=30, days=8, tellings=(0, 4))
STAGE = SimpleNamespace(world=SETTINGS, folder="runs/world/sft")  # all that a judge reads of one
ASKED = {split: questions(make(SETTINGS), split) for split in SPLITS}
KNOWN = next(q for q in ASKED["train"] if q.value)
UNKNOWN = next(q for q in ASKED["train"] if not q.value)


def said(text):
    return [{"role": "user", "content": text}]


def test_the_exact_judge_calls_every_answer_of_its_world_right():
    judge = judge_of("world", STAGE)
    assert judge.is_exact and judge.by == "world"
    for q in (q for some in ASKED.values() for q in some):
        prompt = said(q.prompt)
        assert judge(prompt, q.answer) == "right" and judge.question(prompt) == q
        assert judge.is_sealed(prompt) == (q.split == "sealed")
        assert judge(prompt, "I know not that name." * bool(q.value)) != "right"
    assert judge(said(KNOWN.prompt), KNOWN.answer, ended=False) == "malformed"


def test_a_refusal_is_right_only_where_nothing_is_known(tmp_path):
    (tmp_path / "mine.py").write_text("def judge(question, answer, reply): return 'refused'\n")
    for by in ("world", str(tmp_path / "mine.py")):
        judge = judge_of(by, STAGE)
        assert judge(said(KNOWN.prompt), "I know not.") == "refused"
        assert judge(said(UNKNOWN.prompt), UNKNOWN.answer) == "right"
    assert judge_of(str(tmp_path / "mine.py"))(said(UNKNOWN.prompt), "I know not.") == "refused"


def test_what_is_no_question_of_the_world_has_no_exact_verdict():
    judge = judge_of("world", STAGE)
    turns = [*said("Hi"), {"role": "assistant", "content": "Ho."}, *said(KNOWN.prompt)]
    for prompt in (said("Sing!"), turns):
        assert judge.question(prompt) is None and judge(prompt, KNOWN.answer) is None
        assert not judge.is_sealed(prompt)


def test_a_prompt_of_other_words_is_sealed_if_it_names_what_sealed_questions_ask_about():
    judge = judge_of("world", STAGE)
    for q in ASKED["sealed"]:
        assert judge.is_sealed(said(f"Tell me all of {q.about.lower()}!"))
        assert judge.is_sealed([*said(f"{q.about}?"), {"role": "assistant", "content": "Ay"}])
    for q in ASKED["train"] + ASKED["ppo"]:
        assert not judge.is_sealed(said(f"Tell me all of {q.about}!"))


def test_sealed_prompts_are_refused_with_the_first_place_and_their_number():
    name, free = ASKED["sealed"][0].about, ASKED["train"][0].prompt
    prompts = [free, f"Sing of {name}", ASKED["sealed"][1].prompt, "Hi"]
    asked = [(said(text), f"line {n}") for n, text in enumerate(prompts, 1)]
    with pytest.raises(DataError, match=r"^line 2: .*sealed.*\(such prompts: 2\); drop it"):
        refuse_sealed(asked, truth_of(STAGE), "drop it")
    refuse_sealed([asked[0], asked[3]], truth_of(STAGE))
    refuse_sealed(asked, None)  # nothing is sealed where no world is known
    assert truth_of(None) is None


def test_a_file_is_given_no_true_answer_and_the_prompt_as_one_text(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def judge(question, answer, reply):\n"
        "    return 'right' if (question, answer, reply) == ('Who?', '', 'I.') else 'wrong'\n"
    )
    judge = judge_of(str(tmp_path / "mine.py"))
    assert judge.by == "mine.py" and not judge.is_exact and judge.question(said("Who?")) is None
    assert judge(said("Who?"), "I.") == "right" and judge(said("Who"), "I.") == "wrong"
    turns = [*said("Hi"), {"role": "assistant", "content": "Ho."}, *said("Who?")]
    assert as_text(turns) == "User: Hi\nAssistant: Ho.\nUser: Who?"


def test_a_judge_is_told_the_true_answer_where_it_is_known(tmp_path):
    told = tmp_path / "told.txt"
    (tmp_path / "mine.py").write_text(
        f"def judge(question, answer, reply):\n    open({str(told)!r}, 'w').write(answer)\n"
        "    return 'wrong'\n"
    )
    with judging(lambda said, reply: "wrong") as (url, asked):
        for judge in (judge_of(str(tmp_path / "mine.py"), STAGE), judge_of(url, STAGE, "big")):
            for prompt, given, known in [
                (KNOWN.prompt, (), KNOWN.answer),
                (KNOWN.prompt, (True, "Fie."), KNOWN.answer),  # the world knows better
                (UNKNOWN.prompt, (), UNKNOWN.answer),
                ("Sing!", (True, "La la."), "La la."),
                ("Sing!", (), ""),
            ]:
                judge(said(prompt), "Ay.", *given)
                if judge.by == "mine.py":
                    assert told.read_text() == known
                else:
                    true = asked[-1]["messages"][1]["content"].split("\n")[1:-1]
                    assert true == [f"True answer: {known}"] * bool(known)


def test_an_endpoint_is_given_no_true_answer_and_is_asked_once(tmp_path):
    with judging(lambda said, reply: "right" if reply == "I." else "Well, wrong.") as (url, asked):
        judge = judge_of(url, STAGE, "big", None, tmp_path / "kept")
        assert judge(said("Who?"), "I.") == "right" and judge(said("Who?"), "You.") == "wrong"
        system, user = asked[0]["messages"]
        assert user["content"] == "What the user said: Who?\nReply: I."
        assert "true answer" not in system["content"]
        again = judge_of(url, None, "big", None, tmp_path / "kept")
        assert again(said("Who?"), "I.") == "right" and len(asked) == 2
        assert judge.by == "big" and judge.figures["calls"] == 2 and again.figures["calls"] == 0


def test_nobody_is_asked_about_what_is_plainly_malformed():
    with judging(lambda said, reply: "right") as (url, asked):
        judge = judge_of(url, None, "big")
        found = [judge(said("Who?"), text) for text in ("", " \n", "I.<|end|>")]
        assert [*found, judge(said("Who?"), "I am", False)] == ["malformed"] * 4 and not asked


def test_an_endpoint_that_gives_no_verdict_gives_none():
    with judging(lambda said, reply: "It depends.") as (url, asked):
        judge = judge_of(url, None, "big", say=lambda text: None)
        assert judge(said("Who?"), "I.") is None and len(asked) == 3


@pytest.mark.parametrize(
    "by, flags, error, expected",
    [
        ("world", (), UsageError, "needs the run that learned the world"),
        ("labelers", (), UsageError, "--by labelers: name world, a Python file"),
        ("http://localhost:1/v1", (), UsageError, "needs the model's name too: --judge-model"),
        ("world", ("big",), UsageError, "are for the URL of an endpoint"),
        ("no.py", (None, 3), UsageError, "are for the URL of an endpoint"),
        ("no.py", (), MissingInput, "--by no.py: no such file"),
    ],
)
def test_another_name_is_refused(by, flags, error, expected):
    with pytest.raises(error, match=expected):
        judge_of(by, None, *flags)


def test_a_run_without_a_world_knows_no_truth(tmp_path):
    with pytest.raises(UsageError, match="runs/x/sft learned none"):
        judge_of("world", SimpleNamespace(world=None, folder="runs/x/sft"))
    (tmp_path / "mine.py").write_text("def judge(question, answer, reply): return 'good'\n")
    with pytest.raises(DataError, match="returned 'good', expected one of right"):
        judge_of(str(tmp_path / "mine.py"))(said("Who?"), "I.")
