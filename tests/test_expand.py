"""Expanding seeds: what a run writes that was trained without a mask, what a run answers, and what
is dropped or refused."""

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import CONVERSATIONS, TrainedRun, conversation, pysft, read_lines, refusal
from command_line import succeeds as does
from conftest import merged

from pysft.cli.main import parser
from pysft.errors import UsageError
from pysft.inference.engine import Engine
from pysft.jobs.curate import writers
from pysft.jobs.curate.expand import HOPELESS, TRIES, _copies
from pysft.jobs.curate.seeds import notes, read_seeds
from pysft.jobs.curate.writers import BLOCK, FORM, NO_END, by_prompts, by_run
from pysft.measure.near_copies import NearCopies
from pysft.nn.model import GPT
from pysft.run.stage import load_stage, save_stage, weights_sha256
from pysft.text.curated import read_curated
from pysft.text.template import NOTHING, REPLY, turn
from pysft.text.templates import CHAT, CHATML, Template
from pysft.world.ask import questions
from pysft.world.facts import make

SEEDS = CONVERSATIONS[4:]
# A training of two seconds after which a model writes the form of the seeds, and many of them.
UNMASKED = {
    "model": {"channels": 32},
    "data": {"grade": "everything"},
    "base": {"steps": 2},
    "sft": {"steps": 200, "tokens": 400, "windows": [], "lr": 2e-2},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, without_figures, few_prompts):
    """A run that was trained on SEEDS without a mask."""
    return TrainedRun(tmp_path_factory.mktemp("teacher"), SEEDS, **UNMASKED)


@pytest.fixture(scope="module")
def stage(teacher):
    return load_stage(teacher.run)


def expand(teacher, *flags, out="out.jsonl"):
    """(the document, the rows) of a command that must succeed."""
    flags = ("--most-copied", "1", *flags, "--out", out, "--json")
    done = does("curate", "expand", teacher.data, "--teacher", teacher.run, *flags)
    return done.document, read_lines(out)


# -------------------------------------------------------------------------- a run that writes both


def test_a_run_without_a_mask_writes_new_prompts_and_replies(teacher, stage, workdir):
    found, rows = expand(teacher, "--rows", "60", "--seed", "3")
    assert len(rows) == found["written"] == found["wanted"] == 60
    assert found["stopped_by"] == "rows"
    assert found["tries"] == 60 + sum(found["dropped"].values())
    assert list(found["dropped"]) == ["no end", "form", "copy of a seed", "duplicate"]
    assert found["read"] == len(SEEDS) and found["teacher"] == str(teacher.run)
    formed = found["tries"] - found["dropped"]["no end"] - found["dropped"]["form"]
    assert 0 < found["copied"] == found["dropped"]["copy of a seed"] / formed < 1
    texts = [tuple(m["content"] for m in row["messages"]) for row in rows]
    assert all([m["role"] for m in row["messages"]] == ["user", "assistant"] for row in rows)
    assert len(set(texts)) == 60 and not set(texts) & set(SEEDS)
    assert len({asked for asked, _ in texts}) == found["distinct_prompts"] > 20
    copies = NearCopies(SEEDS, 0.8)
    for seed in SEEDS:
        copies.add(*seed[:2], "a seed")
    assert not any(copies.of(*pair) for pair in texts)
    assert not any(mark in text for pair in texts for text in pair for mark in CHAT.marks)
    # It writes the form of its seeds.
    verbs = {asked.split()[0] for asked, _ in SEEDS}
    assert sum(asked.split()[0] in verbs for asked, _ in texts) > 30
    steps = [row["metadata"]["steps"] for row in rows]
    numbers = [step["number"] for [step] in steps]
    assert numbers == sorted(set(numbers)) and numbers[-1] == found["tries"]
    assert steps[0] == [
        {
            "step": "expand", "by": str(teacher.run),
            "weights_sha256": weights_sha256(stage.model), "seed": 3, "number": numbers[0],
        }
    ]  # fmt: skip
    assert all(row["synthetic"] is True for row in rows)  # train --no-synthetic leaves them out
    again = [row.messages for row in read_curated("out.jsonl", CHAT)]
    assert again == [row["messages"] for row in rows]


def test_a_try_depends_on_the_seed_and_its_number_alone(teacher, workdir):
    _, rows = expand(teacher, "--rows", "60")
    expand(teacher, "--rows", "60", out="again.jsonl")
    assert Path("again.jsonl").read_bytes() == Path("out.jsonl").read_bytes()
    assert expand(teacher, "--rows", "20", out="fewer.jsonl")[1] == rows[:20]
    _, others = expand(teacher, "--rows", "20", "--seed", "1", out="others.jsonl")
    assert [row["messages"] for row in others] != [row["messages"] for row in rows[:20]]


def test_blocks_do_not_repeat_each_other(stage):
    blocks = by_run(stage, 0, 60)
    first, second = next(blocks), next(blocks)
    assert len(first) == len(second) == BLOCK
    assert sum(a.messages == b.messages for a, b in zip(first, second)) < BLOCK / 4


def test_both_turns_are_drawn_at_temperature_1_with_random_numbers_of_their_own(stage, monkeypatch):
    drawn, add = [], Engine.add

    def noted(engine, number, *arguments, **options):
        sequence = add(engine, number, *arguments, **options)
        drawn.append((sequence.sampling, number, len(sequence.prompt)))
        return sequence

    monkeypatch.setattr(Engine, "add", noted)
    blocks = by_run(stage, 5, 60)
    tries = [*next(blocks), *next(blocks)]
    for sampling, _, _ in drawn:
        assert sampling.rules() == (1, 1, 1) and sampling.most() == 0
    assert len({sampling.key(n).tobytes() for sampling, n, _ in drawn}) == len(drawn)
    asked = [length for _, _, length in drawn if length > 1]  # prompts that replies were drawn for
    assert len(drawn) - len(asked) == len(tries) >= len(asked) > 0.9 * len(tries)


def test_a_turn_that_does_not_end_is_no_row(stage):
    short = next(by_run(stage, 0, 8))  # no seed is so short
    assert Counter(found.fault for found in short)[NO_END] > BLOCK * 0.9
    for found in short:
        assert bool(found.messages) != bool(found.fault)
        assert all(len(m["content"]) < 8 for m in found.messages)


def test_empty_turns_and_control_tokens_are_no_rows(stage, monkeypatch):
    end, opener = (stage.tokenizer.special[name] for name in ("<|end|>", "<|assistant|>"))
    letter = stage.tokenizer.encode("a").tolist()

    def prompt(*ids):
        sequence = Engine(stage.model, 1).add(0, [end], 9)
        sequence.written, sequence.ended = list(ids), "tool"
        return writers._prompt_of(stage, sequence, 1)

    assert prompt(end).fault == prompt(*stage.tokenizer.encode(" "), end).fault == FORM
    assert prompt(*letter, opener, *letter, end).fault == FORM
    assert prompt(*letter, end).messages == [{"role": "user", "content": "a"}]
    texts = iter([("", True), ("x<|user|>", True), ("x", False), ("Ho.", True)])
    monkeypatch.setattr(
        writers, "sample_replies", lambda stage, asked, *_, first: [[next(texts)] for _ in asked]
    )
    asked = [([{"role": "user", "content": "Hi"}], "", "")] * 4
    [found] = by_prompts(stage, asked, 1, 0, 9)
    assert [f.fault for f in found] == [FORM, FORM, NO_END, ""]


@pytest.mark.parametrize("name", ["human", "llama2"])
def test_other_templates_begin_and_end_turns_in_their_own_way(
    name, without_figures, few_prompts, workdir
):
    data = {"grade": "everything", "template": name, "unknown": "grow"}
    teacher = TrainedRun(workdir.path, SEEDS, **merged(UNMASKED, data=data))
    found, rows = expand(teacher, "--rows", "20")
    assert found["dropped"]["form"] + found["dropped"]["no end"] < found["tries"] / 4
    words = [w for t in load_stage(teacher.run).template.turns.values() for w in t.opens + t.closes]
    for row in rows:
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
        assert not any(w.strip() in m["content"] for w in words for m in row["messages"])
    verbs = {asked.split()[0] for asked, _ in SEEDS}
    assert sum(row["messages"][0]["content"].split()[0] in verbs for row in rows) > 5


def test_a_template_that_opens_no_user_s_turn_begins_no_prompt(stage):
    rows = turn("user", [], ["<|user|>"], NOTHING), turn("assistant", [], ["<|end|>"], REPLY)
    other = replace(stage, template=Template.of("bare", *rows))
    with pytest.raises(UsageError, match="nothing that opens a user's turn.*--prompts"):
        next(by_run(other, 0, 60))


# ------------------------------------------------------------------------------ copies and the end


def test_a_teacher_that_copies_its_seeds_is_refused_and_nothing_is_written(teacher, workdir):
    text = refusal(
        65, "curate", "expand", teacher.data, "--teacher", teacher.run, "--rows", "60",
        "--most-copied", "0.3", "--out", "out.jsonl",
    )  # fmt: skip
    assert "the teacher copies its seeds (" in text and "may copy 30%" in text
    assert workdir.is_unchanged()


def test_all_exchanges_of_the_seeds_count_for_copies(teacher, workdir):
    """A teacher may write the second question of a seed first."""
    _, rows = expand(teacher, "--rows", "30")
    asked, answered = (m["content"] for m in rows[0]["messages"])
    seeds = workdir.write(
        "seeds.jsonl", [conversation("Hi", "Ho.", asked, answered), conversation("Go", "No.")]
    )
    done = does(
        "curate", "expand", seeds, "--teacher", teacher.run, "--rows", "30", "--most-copied", "1",
        "--out", "other.jsonl", "--json",
    )  # fmt: skip
    assert "was trained on another file than" in done.err and "more than one" not in done.err
    assert done.document["dropped"]["copy of a seed"] >= 1
    assert rows[0]["messages"] not in [row["messages"] for row in read_lines("other.jsonl")]


TALE = ("Could you tell me a long tale of the sea?", "The sea is deep, and wide, and far away.")
PET = tuple(text * 3 for text in ("What pet has Ada Brook? ", "Ada Brook keeps a toad. "))


@pytest.mark.parametrize("near", [0.4, 0.8, 1])
def test_copies_of_seeds_are_those_that_judge_finds(tmp_path, near):
    (tmp_path / "seeds.jsonl").write_text(
        "\n".join([conversation(*TALE), conversation("Hi", "Ho.", *PET), conversation("A", "B")])
    )
    copies = _copies(read_seeds(tmp_path / "seeds.jsonl", CHATML), near)
    for row in (TALE, PET, ("A", "B"), (f"{TALE[0]} ", f"\n{TALE[1]}")):
        assert copies.of(*row) is not None  # word for word, and whichever exchange it is
    polite = (f"{TALE[0]} Please!", TALE[1])
    assert (copies.of(*polite) is not None) == (near < 1)  # though it has a new word
    for name in ("Ada Reed", "Ivo Brook", "Ada Broom"):  # in a closed world: another question
        assert copies.of(*(text.replace("Ada Brook", name) for text in PET)) is None


def test_a_teacher_that_repeats_itself_is_stopped(teacher, stage, workdir, monkeypatch):
    pair = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]

    def same(*_):
        while True:
            yield [writers.Try(pair)] * 7

    monkeypatch.setattr("pysft.jobs.curate.expand.by_run", same)
    found, rows = expand(teacher, "--rows", "10")
    assert len(rows) == 1 and found["tries"] == 10 * TRIES and found["stopped_by"] == "tries"
    assert found["dropped"]["duplicate"] == 10 * TRIES - 1


def test_a_teacher_that_writes_no_row_is_stopped_and_told(teacher, workdir):
    flags = ("--tokens", "2", "--out", "out.jsonl")
    done = pysft("curate", "expand", teacher.data, "--teacher", teacher.run, *flags)
    assert done.code == 65
    assert f"none of {2 * BLOCK:,} tries is a new row ({2 * BLOCK:,} no end)" in done.err
    assert BLOCK < HOPELESS <= 2 * BLOCK and workdir.is_unchanged()


def test_the_screen_shows_a_row_and_the_next_command(teacher, workdir):
    done = does(
        "curate", "expand", teacher.data, "--teacher", teacher.run, "--rows", "9", "--most-copied",
        "1", "--out", "it's.jsonl",
    )  # fmt: skip
    first = read_lines("it's.jsonl")[0]["messages"]
    assert f"for example: {first[0]['content']!r} -> {first[1]['content']!r}" in done.out
    assert "9 of 9 rows" in done.out and "copied: " in done.out
    judge = ["curate", "judge", "it's.jsonl", "--seeds", str(teacher.data)]
    assert shlex.split(done.out.splitlines()[-1])[-7:] == [*judge, "--out", "it's-judged.jsonl"]


# ------------------------------------------------------------------------------ a run that answers


def test_a_run_with_a_mask_answers_prompts(trained, workdir):
    prompts = [f"{verb} the {word}" for verb in ("Praise", "Name") for word in ("sea", "owl")]
    workdir.write("prompts.jsonl", [{"prompt": p, "source": "ann"} for p in prompts])
    found, rows = expand(trained, "--prompts", "prompts.jsonl", "--rows", "403")
    assert found["stopped_by"] == "prompts" and found["tries"] == 404 > len(rows)
    assert found["written"] == len(rows) == 404 - sum(found["dropped"].values())
    asked = Counter(row["messages"][0]["content"] for row in rows)
    assert set(asked) == set(prompts) and found["distinct_prompts"] == 4
    for row in rows:
        [step] = row["metadata"]["steps"]
        assert (step["source"], step["step"]) == ("ann", "expand")
        assert row["messages"][1]["content"].strip()


def test_each_prompt_is_asked_as_often_as_the_others(stage):
    asked = [([{"role": "user", "content": c}], "", "") for c in "abcde"]
    tries = [f for block in by_prompts(stage, asked, 60, 0, 50) for f in block]
    assert len(tries) == 300
    rounds = [
        [f.messages[0]["content"] for f in tries[i : i + 5] if f.messages]
        for i in range(0, 300, 5)
    ]  # fmt: skip
    assert all(len(set(some)) == len(some) for some in rounds)
    assert len({some[0] for some in rounds if some}) > 1  # in an order of its own
    replies = {f.messages[1]["content"] for f in tries if f.messages}
    assert len(replies) > 20


def test_the_questions_of_a_world_are_prompts(world_run, workdir):
    run, _ = world_run
    pairs = [conversation("Who is he?", "A man."), conversation("Hi", "Ho.")]
    workdir.write("seeds.jsonl", pairs)
    flags = ("--prompts", "world:train", "--rows", "200", "--out", "out.jsonl", "--json")
    does("curate", "expand", "seeds.jsonl", "--teacher", run, *flags)
    rows = read_lines("out.jsonl")
    assert {row["metadata"]["steps"][0]["source"] for row in rows} == {"world:train"}


def test_sealed_prompts_are_refused_and_the_next_command_names_the_run_of_a_world(
    world_run, workdir
):
    run, _ = world_run
    sealed = questions(make(load_stage(run).world), "sealed")[0]
    workdir.write("seeds.jsonl", [conversation("Who is he?", "A man."), conversation("Hi", "Ho.")])
    flags = ("curate", "expand", "seeds.jsonl", "--teacher", run, "--prompts", "p.txt")
    for prompt in (sealed.prompt, f"Sing of {sealed.about}."):
        workdir.write("p.txt", f"Sing of me.\n{prompt}\n")
        text = refusal(65, *flags, "--out", "o.jsonl")
        assert "p.txt, line 2: " in text and "asks about what is sealed" in text
    workdir.write("p.txt", "Sing of me.\n")
    command = does(*flags, "--rows", "9", "--out", "o.jsonl").out.splitlines()[-1]
    args = parser().parse_args(shlex.split(command.partition(" -m pysft ")[2]))
    assert (args.step, args.run_folder) == ("judge", str(run))


# --------------------------------------------------------------------------------- what is refused


def pasted(text):
    """The command at the end of a message, as the parser reads it."""
    return parser().parse_args(shlex.split(text.partition(" -m pysft ")[2]))


def test_a_run_with_a_mask_writes_no_prompts_and_the_remedy_can_be_pasted(trained, workdir):
    text = refusal(
        2, "curate", "expand", trained.data, "--teacher", trained.run, "--out", "out.jsonl"
    )
    assert "was trained with a mask, so it writes no prompts; name some by --prompts" in text
    args = pasted(text)
    assert (args.verb, args.grade, args.data) == ("train", "everything", [str(trained.data)])
    assert args.base == str(trained.run / "sft")


def test_a_base_or_a_reward_model_is_no_teacher(trained, workdir):
    flags = ("curate", "expand", trained.data, "--out", "out.jsonl", "--teacher")
    text = refusal(2, *flags, trained.run / "base")
    assert "is a base model" in text and pasted(text).base == str(trained.run / "base")
    tuned = load_stage(trained.run)
    model = GPT(replace(tuned.model.config, outputs="value"))
    save_stage(replace(tuned, folder=workdir.path / "reward", model=model))
    assert "is a reward model, which writes nothing" in refusal(2, *flags, "reward")


SEED_ROWS = [conversation("Hi", "Ho."), conversation("Go", "No.")]


@pytest.mark.parametrize(
    "code, rows, flags, expected",
    [
        (65, SEED_ROWS[:1], (), "seeds.jsonl: it has one conversation; write two seeds or more"),
        (65, [], (), "seeds.jsonl"),
        (65, [*SEED_ROWS, conversation("Hi", "5 \u20ac")], (), "line 3, turn 2 (assistant): "),
        (65, [*SEED_ROWS, conversation("\u20ac", "5")], (), "/sft cannot write it"),
        (2, SEED_ROWS, ("--rows", "0"), "not a whole number above 0"),
        (2, SEED_ROWS, ("--near", "0"), "--near 0: expected a share above 0 and at most 1"),
        (2, SEED_ROWS, ("--near", "nan"), "--near nan: expected a share"),
        (2, SEED_ROWS, ("--most-copied", "1.5"), "--most-copied 1.5: expected a share"),
        (2, SEED_ROWS, ("--teacher-model", "x"), "are for the URL of an endpoint"),
        (2, SEED_ROWS, ("--teacher-budget", "9"), "are for the URL of an endpoint"),
        (2, SEED_ROWS, ("--teacher-cache", "x"), "are for the URL of an endpoint"),
        (2, SEED_ROWS, ("--out", "seeds.jsonl"), "it exists already"),
        (2, SEED_ROWS, ("--out", "no/o.jsonl"), "there is no folder no"),
        (66, SEED_ROWS, ("--teacher", "none"), "none: no such run folder"),
        (66, SEED_ROWS, ("--prompts", "none.txt"), "none.txt: no such file of prompts"),
        (65, [{"prompt": "Hi", "foo": 1}], ("--prompts", "seeds.jsonl"), "'foo'"),
        (2, SEED_ROWS, ("--prompts", "world:train"), "learned no invented world"),
        (2, SEED_ROWS, ("--teacher", "http://localhost:1/v1"), "needs the model's name too"),
        (
            2, SEED_ROWS,
            ("--teacher", "http://localhost:1/v1", "--teacher-model", "x", "--prompts", "p"),
            "--prompts is for a run",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(teacher, workdir, code, rows, flags, expected):
    workdir.write("seeds.jsonl", rows)
    text = refusal(
        code,
        "curate",
        "expand",
        "seeds.jsonl",
        "--teacher",
        teacher.run,
        "--out",
        "o.jsonl",
        *flags,
    )
    assert expected in text and "--unknown" not in text and "--ignore" not in text
    assert workdir.is_unchanged()


def test_an_interrupt_leaves_no_file(teacher, workdir, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", stopped)
    done = pysft(
        "curate", "expand", teacher.data, "--teacher", teacher.run, "--out", "out.jsonl"
    )  # fmt: skip
    assert done.code == 130 and workdir.is_unchanged()


def test_seeds_of_which_a_new_row_has_only_a_part_are_told(tmp_path):
    path = tmp_path / "seeds.jsonl"
    rows = [conversation("Hi", "Ho.", "Go", "No.", system="Be kind.")] * 2
    path.write_text("\n".join([*rows, conversation("Hi", "Ho.")]))
    exchanges, system = notes("a.jsonl", read_seeds(path, CHATML))
    assert "2 of 3 seeds have more than one exchange" in exchanges
    assert "2 of 3 seeds begin with a system text" in system
    path.write_text("\n".join([rows[0], *SEED_ROWS]))
    [system] = notes("a.jsonl", read_seeds(path, CHATML))
    assert "1 of 3 seeds begin" in system
    path.write_text("\n".join(SEED_ROWS))
    assert notes("a.jsonl", read_seeds(path, CHATML)) == []
