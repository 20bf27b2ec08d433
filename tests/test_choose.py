"""Choosing a checkpoint: what each criterion picks, and the marks of a blind reader, none of which
is ever lost."""

import json

import pytest

from pysft.cli.select import table
from pysft.errors import DataError, MissingInput, UsageError
from pysft.measure.choose import CRITERIA, select
from pysft.measure.rate import default_steps, plan_ratings, rate, read_marks
from pysft.run.log import read_measurements

STEPS = [7001, 7002, 7003, 7004, 7005]
PROMPTS = [f"Speak of {word}" for word in ("love", "war", "kings", "ships", "night", "swords")]


def row(step, **figures):
    return {
        "step": step,
        "samples": [[p, f"{p}? {step % 7} it is.", "end"] for p in PROMPTS],
        **figures,
    }


def write(folder, rows, tail=""):
    (folder / "measurements.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)
    return folder


@pytest.fixture
def folder(tmp_path):
    rows = [row(0, heldout_loss=4.0), *(row(s, heldout_loss=float(s)) for s in STEPS)]
    return write(tmp_path, rows)


class Reader:
    """A person who types these answers, then ends the input (or interrupts), and remembers all that
    was shown."""

    def __init__(self, *answers, end=EOFError):
        self.answers, self.end, self.shown = list(answers), end, []

    def ask(self, prompt):
        self.shown.append(prompt)
        if not self.answers:
            raise self.end
        return self.answers.pop(0)

    def replies(self):
        return [text.split("bot> ")[1] for text in self.shown if "bot> " in text]


def session(folder, *answers, end=EOFError, **options):
    reader = Reader(*answers, end=end)
    return rate(folder, **{"seed": 1, **options}, ask=reader.ask, say=reader.shown.append), reader


def lines(folder):
    return [json.loads(line) for line in (folder / "ratings.jsonl").read_text().splitlines()]


def one_line(error):
    text = str(error.value)
    assert text and "\n" not in text and ";" in text
    return text


# ----------------------------------------------------------------------------------------- reading


def test_measurements_end_at_the_line_that_a_crash_cut_off(tmp_path):
    for tail in ('{"step": 9, "recall": 0.', '{"step": 9', "[1]\n", '{"recall": 1}\n', "\xff\n"):
        write(tmp_path, [row(0), row(4)], tail)
        assert [r["step"] for r in read_measurements(tmp_path)] == [0, 4]


def test_a_step_measured_again_counts_once_with_its_later_figures(tmp_path):
    rows = read_measurements(write(tmp_path, [row(8), row(4, recall=0.1), row(4, recall=0.2)]))
    assert [(r["step"], r.get("recall")) for r in rows] == [(4, 0.2), (8, None)]


def test_a_run_without_checkpoints_to_choose_from_is_refused_in_one_line(tmp_path):
    with pytest.raises(MissingInput) as error:
        read_measurements(tmp_path)
    assert "measurements.jsonl" in one_line(error)
    for rows in ([], [row(0)]):
        with pytest.raises(MissingInput) as error:
            read_measurements(write(tmp_path, rows))
        assert "step 0" in one_line(error)


@pytest.mark.parametrize(
    "field, value",
    [
        ("recall", "much"),
        ("sft_loss", [1]),
        ("forgetting", True),
        ("samples", 3),
        ("samples", [["a", "b"]]),
        ("samples", [["a", "b", None]]),
    ],
)
def test_a_value_of_another_type_is_named_with_its_line(tmp_path, field, value):
    with pytest.raises(DataError) as error:
        read_measurements(write(tmp_path, [row(1), row(2) | {field: value}]))
    assert "measurements.jsonl, line 2: " + field in one_line(error)


# ----------------------------------------------------------------------------------------- select


@pytest.mark.parametrize(
    "name, field, better",
    [
        ("held-out loss", "heldout_loss", "low"),
        ("format compliance", "format_compliance", "high"),
        ("forgetting", "forgetting", "low"),
        ("recall", "recall", "high"),
        ("distinct words", "distinct_words", "high"),
        ("training loss", "sft_loss", "low"),
    ],
)
def test_each_criterion_picks_its_best_and_never_the_model_before_training(name, field, better):
    sign = 1 if better == "low" else -1
    rows = [
        row(step, **{field: value})
        for step, value in enumerate([-9.0 * sign, 0.5, 0.5 - 0.25 * sign, None])
    ]
    assert CRITERIA[name].better == better
    assert select(rows)["criteria"][name] == {"step": 2, "value": 0.5 - 0.25 * sign, "ties": []}


def test_on_topic_is_judged_above_chance_and_only_where_both_were_measured():
    rows = [
        row(1, on_topic=0.9, on_topic_chance=0.8),
        row(2, on_topic=0.5, on_topic_chance=0.1),
        row(3, on_topic=1.0, on_topic_chance=None),
        row(4, on_topic=None, on_topic_chance=0.0),
    ]
    assert select(rows)["criteria"]["on-topic above chance"] == {
        "step": 2,
        "value": pytest.approx(0.4),
        "ties": [],
    }


def test_the_mean_of_a_persons_marks_is_a_criterion_too():
    found = select([row(1), row(2), row(3)], {1: [3, 3], 2: [1, 5, 4]})
    assert found["criteria"]["person's marks"] == {
        "step": 2,
        "value": pytest.approx(10 / 3),
        "ties": [],
    }
    assert [(r["mark"], r["marks"]) for r in found["rows"]] == [
        (3.0, 2),
        (pytest.approx(10 / 3), 3),
        (None, 0),
    ]


def test_a_tie_goes_to_the_earliest_step_even_where_a_difference_was_rounded():
    rows = [row(1, recall=0.5), row(4, recall=1.0), row(2, recall=1.0), row(3, recall=1.0)]
    assert select(rows)["criteria"]["recall"] == {"step": 2, "value": 1.0, "ties": [3, 4]}
    assert 0.6 - 0.4 != 0.5 - 0.3
    rows = [row(1, on_topic=0.6, on_topic_chance=0.4), row(2, on_topic=0.5, on_topic_chance=0.3)]
    assert select(rows)["criteria"]["on-topic above chance"]["ties"] == [2]


def test_what_was_not_measured_is_null_and_picks_nothing():
    found = select([row(1, recall=float("nan"), forgetting=float("inf")), row(2)])
    assert all(c == {"step": None, "value": None, "ties": []} for c in found["criteria"].values())
    assert found["agree"] == [] and found["disagree"] is False
    json.dumps(found, allow_nan=False)
    assert "Nothing was measured" in table(found, "r/sft")


def test_a_choice_is_json_without_nan_and_shows_the_same_after_a_round_trip(folder):
    write(folder, [row(1, recall=0.5), row(2, recall=0.25)], '{"step": 3, "recall": NaN}\n')
    assert read_measurements(folder)[-1]["recall"] is None
    found = select(read_measurements(folder), {1: [2]})
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found and [r["step"] for r in found["rows"]] == [1, 2, 3]
    assert table(again, "r") == table(found, "r")


DISAGREE = [
    row(0, heldout_loss=9.0),
    row(3, heldout_loss=1.0, recall=0.1, format_compliance=0.5, sft_loss=2.0),
    row(10, heldout_loss=2.0, recall=0.9, format_compliance=1.0, sft_loss=1.5),
    row(20, heldout_loss=3.0, recall=0.8, format_compliance=1.0, sft_loss=0.1),
]


def test_criteria_are_grouped_by_the_step_that_is_best_for_the_most_of_them():
    found = select(DISAGREE)
    assert found["disagree"] is True
    assert found["agree"] == [
        {"step": 10, "criteria": ["format compliance", "recall"]},
        {"step": 3, "criteria": ["held-out loss"]},
        {"step": 20, "criteria": ["training loss"]},
    ]


def test_a_tie_is_no_disagreement():
    found = select(
        [row(1, format_compliance=1.0, recall=0.1), row(2, format_compliance=1.0, recall=0.2)]
    )
    assert found["criteria"]["format compliance"]["step"] == 1
    assert found["agree"] == [{"step": 2, "criteria": ["format compliance", "recall"]}]
    assert found["disagree"] is False


@pytest.mark.parametrize(
    "name, field, values",
    [("training loss", "sft_loss", (3.0, 2.0)), ("distinct words", "distinct_words", (0.8, 0.9))],
)
def test_a_criterion_with_a_warning_is_listed_and_does_not_count(name, field, values):
    """One criterion is for step 1, one for step 2, and so is that with the warning."""
    rows = [
        row(step, heldout_loss=float(step), recall=0.1 * step, **{field: value})
        for step, value in zip((1, 2), values)
    ]
    agree = select(rows)["agree"]
    assert [g["step"] for g in agree] == [1, 2]
    assert agree[1]["criteria"] == [c for c in CRITERIA if c in ("recall", name)]
    [line] = [x for x in table(select(rows), "r/sft").splitlines() if x.startswith(f"{name} ")]
    assert "step 2" in line and line.endswith(CRITERIA[name].warning)


def test_the_table_marks_what_is_picked_and_says_where_the_criteria_disagree():
    text = table(select(DISAGREE), "runs/my run/sft")
    shown = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert [shown[s].count("*") for s in ("0", "3", "10", "20")] == [0, 1, 2, 1]
    assert "1.000*" in shown["3"] and "100.0%*" in shown["10"]
    assert "0.100*" in shown["20"] and "100.0% " in shown["20"]
    assert (
        "They disagree: held-out loss picks step 3, training loss picks step 20, everything else"
        " step 10." in text
    )
    assert text.endswith("python -m pysft chat 'runs/my run/sft/steps/10'")
    for name in CRITERIA:
        assert sum(line.startswith(name + " ") for line in text.splitlines()) == 1
    assert "(the same at 20)" in text and "warns against" in text and "not measured" in text


def test_the_table_of_checkpoints_and_criteria_has_these_lines():
    tied = row(30, heldout_loss=3.0, recall=0.9, format_compliance=1.0, forgetting=0.02)
    shown = table(select([*DISAGREE, tied], {3: [5], 10: [4, 4]}), "r/sft").splitlines()
    assert shown == [
        "       held-out     format     on-topic distinct                    training person's",
        "  step     loss compliance above chance    words forgetting  recall     loss    marks",
        "     0    9.000          -            -        -          -       -        -        -",
        "     3    1.000*     50.0%            -        -          -   10.0%    2.000     5.00*",
        "    10    2.000     100.0%*           -        -          -   90.0%*   1.500     4.00",
        "    20    3.000     100.0%            -        -          -   80.0%    0.100*       -",
        "    30    3.000     100.0%            -        -      +2.0%*  90.0%        -        -",
        "",
        "held-out loss          step 3      the lowest loss on conversations never trained on",
        "format compliance      step 10     the most replies in the right format (the same at 20,"
        " 30)",
        "on-topic above chance  -           not measured",
        "distinct words         -           not measured",
        "forgetting             step 30     the smallest rise of the loss on base text",
        "recall                 step 10     the most trained pairs answered word for word (the same"
        " at 30)",
        "training loss          step 20     the lowest loss on the training data; the source text"
        " warns against choosing by it",
        "person's marks         step 3      the best mean mark from a blind reader; marks: 1 at 3,"
        " 2 at 10",
        "",
        "They disagree: held-out loss and person's marks pick step 3, training loss picks step 20,"
        " everything else step 30.",
        "Talk to step 3 before you choose it: python -m pysft chat r/sft/steps/3",
    ]


def test_the_conclusion_names_each_other_step_by_rising_step_and_the_rest():
    rows = [row(s, heldout_loss=float(s), recall=-float(s == 2)) for s in (1, 2, 3)]
    found = select(rows) | {
        "agree": [
            {"step": 5, "criteria": ["a"]},
            {"step": 9, "criteria": ["b", "c"]},
            {"step": 7, "criteria": ["d"]},
        ]
    }
    said = table(found, "r").splitlines()[-2]
    assert said == "They disagree: d picks step 7, b and c pick step 9, a step 5."
    found["agree"][0]["criteria"].append("e")
    assert table(found, "r").splitlines()[-2].endswith("everything else step 5.")


def test_why_words_were_not_measured_is_said_once_for_each_reason():
    why = ("no spaces", "a few words", "no spaces", None)
    rows = [row(i + 1) | ({"words_unmeasured": w} if w else {}) for i, w in enumerate(why)]
    said = table(select(rows), "r").splitlines()
    assert said[-3:-1] == ["A few words.", "No spaces."]
    assert table(select([row(1)]), "r").splitlines()[-2] == ""


def test_the_table_recommends_the_checkpoint_that_a_reader_preferred():
    text = table(select(DISAGREE, {3: [5], 10: [4, 4]}), "r/sft")
    assert text.endswith("chat r/sft/steps/3") and "marks: 1 at 3, 2 at 10" in text


def test_the_table_says_when_all_agree():
    found = select([row(1, recall=0.1), row(2, recall=0.2)])
    assert "Step 2 is best, or tied for best" in table(found, "r/sft")


# ------------------------------------------------------------------------------------------- rate


def test_the_steps_to_rate_are_those_picked_then_those_farthest_from_the_others():
    assert default_steps([row(s) for s in (0, 10, 20, 30, 40, 50, 60, 70)]) == [10, 20, 40, 70]
    picked = [row(s, heldout_loss=float(s == 0) + abs(s - 20)) for s in (0, 10, 20, 30, 60, 100)]
    assert default_steps(picked) == [10, 20, 60, 100]
    assert default_steps([row(0), row(5), row(6)]) == [5, 6]


def test_a_reply_that_several_checkpoints_gave_is_shown_once_and_its_mark_counts_for_all(tmp_path):
    replies = [(1, "Ho.", "end"), (2, "Ho.", "end"), (3, "Ho.", "length"), (4, "Ho", "end")]
    rows = [{"step": s, "samples": [["Hi", reply, stop]]} for s, reply, stop in replies]
    items = sorted(tuple(item)[1:] for item in plan_ratings(rows, [1, 2, 3, 4], ["Hi"], 5))
    assert items == [("Ho", [4], "end"), ("Ho.", [1, 2], "end"), ("Ho.", [3], "length")]
    _, reader = session(write(tmp_path, rows), "3", "4", "5")
    assert sorted(reader.replies()) == ["Ho", "Ho.", "Ho. [no end token]"]
    marks = read_marks(tmp_path)
    assert marks[1] == marks[2] and sorted(m for s in (2, 3, 4) for m in marks[s]) == [3, 4, 5]


def test_the_seed_alone_decides_the_order(folder):
    rows = read_measurements(folder)

    def order(seed):
        return [(i.prompt, i.reply) for i in plan_ratings(rows, STEPS, PROMPTS, seed)]

    assert order(1) == order(1) != order(2) and sorted(order(1)) == sorted(order(2))
    assert session(folder, *"s" * 24)[1].replies() == session(folder, *"s" * 24)[1].replies()
    assert len({rate(folder, ask=Reader().ask, say=str)["seed"] for _ in range(3)}) > 1


def test_no_checkpoint_is_named_before_the_last_mark(folder):
    found, reader = session(folder, "x", "u", *"12345s" * 9)
    last = max(i for i, text in enumerate(reader.shown) if text == "mark> ")
    before, after = "\n".join(reader.shown[: last + 1]), "\n".join(reader.shown[last + 1 :])
    assert len(found["steps"]) == 4
    for r in found["steps"]:
        assert str(r["step"]) not in before and str(r["step"]) in after
    assert "1 of 24" in before and "24 of 24" in before


def test_the_end_shows_mean_number_and_spread_of_the_marks_of_each_checkpoint(tmp_path):
    rows = [{"step": s, "samples": [[p, f"{s} {p}", "end"] for p in ("a", "b")]} for s in (1, 2, 3)]
    write(tmp_path, rows)
    order = session(tmp_path)[1]  # it shows the first reply only
    marks = {"1 a": "2", "1 b": "5", "2 a": "4", "2 b": "s", "3 a": "s", "3 b": "s"}
    planned = [i.reply for i in plan_ratings(rows, [1, 2, 3], ["a", "b"], 1)]
    assert order.replies() == planned[:1]
    found, reader = session(tmp_path, *(marks[r] for r in planned))
    assert found["steps"] == [
        {"step": 1, "mean": 3.5, "marks": 2, "spread": pytest.approx(4.5**0.5)},
        {"step": 2, "mean": 4.0, "marks": 1, "spread": None},
        {"step": 3, "mean": None, "marks": 0, "spread": None},
    ]
    assert (found["marked"], found["left"]) == (3, 3)
    assert [" ".join(line.split()) for line in reader.shown[-3:]] == [
        "1 3.50 2 2.12",
        "2 4.00 1 -",
        "3 - 0 -",
    ]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_marks_before_an_interrupt_are_kept_and_the_next_session_continues_with_the_rest(
    folder, end
):
    steps = STEPS[:4]
    first, reader = session(folder, *"12345", end=end, count=6, steps=steps)
    assert (first["marked"], first["left"]) == (5, 19)
    assert [r["mark"] for r in lines(folder)] == [1, 2, 3, 4, 5]
    second, again = session(folder, *"1" * 19, *"22", "q", count=6, steps=steps, seed=2)
    read, shown = reader.replies()[:5], again.replies()
    assert not set(shown[:19]) & set(read) and set(shown[19:]) <= set(read)
    assert any("5 of these 24 have a mark already" in text for text in again.shown)
    assert (second["marked"], second["left"]) == (21, 0)
    assert sum(map(len, read_marks(folder).values())) == 24


def test_a_session_after_a_finished_one_takes_prompts_not_yet_read(folder):
    first = session(folder, *"3333", count=2, steps=STEPS[:2])[1].replies()
    second = session(folder, *"3333", count=2, steps=STEPS[:2])[1].replies()
    assert len(first) == len(second) == 4 and not set(first) & set(second)


def test_only_prompts_that_every_checkpoint_answered_are_compared(tmp_path):
    rows = [
        {"step": 1, "samples": [["a", "x", "end"], ["b", "y", "end"]]},
        {"step": 2, "samples": [["b", "z", "end"]]},
    ]
    write(tmp_path, rows)
    assert sorted(session(tmp_path, *"ss")[1].replies()) == ["y", "z"]


def test_a_few_prompts_are_taken_from_the_whole_list(folder):
    reader = session(folder, *"ss", count=2, steps=STEPS[:1])[1]
    places = [PROMPTS.index(reply.split("?")[0]) for reply in reader.replies()]
    assert min(places) < len(PROMPTS) / 2 <= max(places)


def test_a_mark_can_be_taken_back_and_the_reply_is_shown_again(folder):
    found, reader = session(folder, "u", "1", "s", "u", "5", "q")
    assert [r["mark"] for r in lines(folder)] == [1, None, 5] and found["marked"] == 1
    shown = reader.replies()
    assert shown[0] == shown[3] != shown[2] and shown[1] == shown[4]
    assert "no mark" in "".join(reader.shown[:5])

    def marks():
        return [m for marks in read_marks(folder).values() for m in marks]

    assert marks() == [5]
    assert session(folder, "2", "u", seed=9)[0]["left"] == 23
    assert marks() == [5]  # a mark that was taken back does not count


def test_a_new_mark_replaces_the_one_before(tmp_path):
    write(tmp_path, [{"step": 1, "samples": [["Hi", "Ho.", "end"]]}])
    for mark in "15":
        session(tmp_path, mark)
    assert read_marks(tmp_path) == {1: [5]} and len(lines(tmp_path)) == 2


def test_a_reply_marked_for_one_checkpoint_is_asked_again_for_another_and_counts_for_both(tmp_path):
    write(tmp_path, [{"step": s, "samples": [["Hi", "Ho.", "end"]]} for s in (1, 2)])
    session(tmp_path, "2", steps=[1])
    found, reader = session(tmp_path, "4", steps=[2])
    assert not any("already" in text for text in reader.shown)
    assert found["marked"] == 1 and read_marks(tmp_path) == {1: [4], 2: [4]}


def test_any_other_input_is_asked_again_in_one_sentence_and_not_kept(folder):
    for answer in ("", "0", "6", "1.5", "²", "four", "12"):
        _, reader = session(folder, answer)
        assert len(reader.replies()) == 1
        assert any(text.startswith("A mark is 1, 2, 3, 4 or 5;") for text in reader.shown)
    assert not (folder / "ratings.jsonl").exists()
    assert session(folder, " 3 ", "Q")[0]["marked"] == 1


def test_without_input_the_session_ends_and_writes_nothing(folder):
    found, reader = session(folder)
    assert found["marked"] == 0 and "Marks given: 0" in "".join(reader.shown)
    assert not (folder / "ratings.jsonl").exists()


def test_of_the_marks_only_a_damaged_line_is_lost(folder):
    session(folder, "4", "q", count=1, steps=STEPS[:1])
    with open(folder / "ratings.jsonl", "a") as f:
        f.write('{"prompt": "Speak of love", "mark": 1')
    session(folder, "5", "q", count=1, steps=STEPS[1:2])
    assert read_marks(folder) == {STEPS[0]: [4], STEPS[1]: [5]}
    with open(folder / "ratings.jsonl", "a") as f:
        for damage in ({"prompt": []}, {"steps": "1"}, {"steps": [[1]]}, {"mark": 9}):
            line = {"prompt": "", "reply": "", "steps": [1], "mark": 1} | damage
            f.write("[]\n\n" + json.dumps(line) + "\n")
    assert read_marks(folder) == {STEPS[0]: [4], STEPS[1]: [5]}


def test_marks_feed_the_choice(folder):
    assert read_marks(folder) == {}
    session(folder, "5", "q", count=1, steps=STEPS[2:3])
    found = select(read_measurements(folder), read_marks(folder))
    assert found["criteria"]["person's marks"]["step"] == STEPS[2]


def test_a_kept_mark_has_the_reply_the_seed_of_the_order_and_the_time(folder):
    session(folder, "3", count=1, steps=STEPS[:1])
    (line,) = lines(folder)
    assert set(line) == {"prompt", "reply", "steps", "stop", "mark", "seed", "when"}
    assert line["when"].endswith("+00:00")
    assert (line["steps"], line["mark"], line["seed"]) == ([STEPS[0]], 3, 1)


def test_checkpoints_without_replies_or_measurements_are_refused_in_one_line(folder):
    with pytest.raises(UsageError) as error:
        session(folder, steps=[7001, 9])
    assert "step 9" in one_line(error) and "7003" in one_line(error)
    for rows in ([{"step": 1}], [{"step": 1, "samples": []}]):
        for steps in (None, [1]):
            with pytest.raises(MissingInput) as error:
                session(write(folder, rows), steps=steps)
            assert "stored" in one_line(error)
    (folder / "measurements.jsonl").unlink()
    with pytest.raises(MissingInput):
        session(folder)


def test_a_session_reads_as_it_should(tmp_path):
    write(tmp_path, [{"step": s, "samples": [["Hi", r, e]]} for s, r, e in
                     ((100, "Ho.", "end"), (200, "", "length"))])  # fmt: skip
    found, reader = session(tmp_path, "\uff15", "7", "u", "s", " 4", "q")
    order = [("Ho.", [100]), ("(nothing) [no end token]", [200])]
    (first, _), (second, _) = order if "Ho." in reader.shown[1] else order[::-1]
    scale = [
        "Replies of 2 checkpoints, shuffled. The end shows each checkpoint's mean mark. Marks:",
        "  1 nonsense   2 words, but no answer   3 a weak answer   4 a good answer   5 the answer I"
        " wanted",
        "s skips a reply, u takes back the last mark, q stops. Every mark is saved at once.",
    ]
    other = "A mark is 1, 2, 3, 4 or 5; s skips, u takes back the last mark, q stops."
    asked = [f"\n1 of 2\nyou> Hi\nbot> {first}", f"\n2 of 2\nyou> Hi\nbot> {second}"]
    assert reader.shown[:-4] == [
        *("\n".join(scale), asked[0], "mark> ", asked[1], "mark> ", other, "mark> ", asked[0]),
        *("mark> ", asked[1], "mark> "),
    ]
    assert reader.shown[-4:-2] == [
        "\nMarks given: 1. All marks of these checkpoints:",
        "  step   mean  marks  spread",
    ]
    last = {"Ho.": 100}.get(second, 200)
    assert reader.shown[-2:] == [
        f"{step:>6} {'4.00' if step == last else '-':>6} {int(step == last):>6}  {'-':>6}"
        for step in (100, 200)
    ]
    assert (found["marked"], found["left"], found["seed"]) == (1, 1, 1)
    assert found["ratings"] == str(tmp_path / "ratings.jsonl")


def test_ten_prompts_are_read_which_come_from_the_whole_list(tmp_path):
    prompts = [f"prompt {i}" for i in range(11)]
    write(tmp_path, [{"step": 1, "samples": [[p, f"to {p}", "end"] for p in prompts]}])

    def asked(**options):
        replies = session(tmp_path, *"s" * 11, **options)[1].replies()
        return {int(reply.split()[-1]) for reply in replies}

    assert asked(count=3) == {0, 5, 10} and asked(count=4) == {0, 5, 10, 2}
    assert asked() == set(range(11)) - {8}


def test_a_difference_above_chance_is_compared_to_twelve_digits():
    def best(difference):
        rows = [
            row(1, on_topic=0.5, on_topic_chance=0.25),
            row(2, on_topic=0.5 + difference, on_topic_chance=0.25),
        ]
        found = select(rows)["criteria"]["on-topic above chance"]
        return found["step"], found["ties"]

    assert best(2e-12) == (2, []) and best(2e-13) == (1, [2])
