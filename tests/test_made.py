"""Sums, dates and a table: the transcripts that teach them, and the test of what was learnt."""

import json
import re
from datetime import date, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import SETTINGS, refusal, succeeds
from conftest import as_toml, merged

from pysft.cli import chat as cli_chat
from pysft.cli.guide import read_pages
from pysft.errors import DataError, MissingInput, PysftError, UsageError
from pysft.inference.calculator import calculate
from pysft.inference.generate import Reply
from pysft.inference.sampling import GREEDY
from pysft.inference.table import Table
from pysft.inference.tools import run_tool, tools
from pysft.jobs.material import gather
from pysft.measure import calltest, evaluate
from pysft.measure.calltest import call_figures, call_rows
from pysft.measure.reproduce import reproduce
from pysft.nn.computing import computing_ops
from pysft.run.stage import load_stage
from pysft.text.conversation import made_conversation
from pysft.text.render import render
from pysft.text.template import Template
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.text.tokenizers import vocabulary_from_json
from pysft.training.presets import resolve, with_made
from pysft.world.ask import refusal as refused
from pysft.world.facts import WorldSettings, all_days, make
from pysft.world.judge import ExactJudge
from pysft.world.lexicon import MONTHS, NOTHING, ORDINALS
from pysft.world.made import MADE
from pysft.world.sums import CHARACTERS, PROBLEMS, sums, sums_test
from pysft.world.table import SHARES, facts_in, table, table_test, truth
from pysft.world.transcripts import Transcript

SUMS, SUMS_TEST = sums(4000), sums_test()
ASKED, TABLE_TEST = table(4000), table_test()
WORLD = truth()
T = CharTokenizer(SHAKESPEARE + "012456789+*", CHAT.tokens).grow(CHAT.tool_tokens)


def expression(made):
    ((tool, call, result),) = made.calls
    assert tool == "code"
    a, sign, b = call.split()
    return int(a), sign, int(b), result


def all_of(groups):
    return [made for some in groups.values() for made in some]


# ------------------------------------------------------------------------------------------ sums


@pytest.mark.parametrize("made", [SUMS, all_of(SUMS_TEST)], ids=["training", "test"])
def test_each_result_is_what_the_tool_gives_and_stands_in_the_answer(made):
    for shown in made:
        a, sign, b, result = expression(shown)
        assert result == calculate(f"{a} {sign} {b}") == str(eval(f"{a} {sign} {b}"))
        if shown.answer.startswith("It is the "):
            assert ORDINALS[int(result) - 1] in shown.answer
        else:
            assert result in re.findall(r"-?\d+", shown.answer)


def test_no_pair_of_numbers_of_the_test_is_in_a_training_whatever_its_seed():
    seen = {frozenset(expression(made)[:3:2]) for made in SUMS + sums(4000, seed=9)}
    tested = [expression(made)[:3:2] for made in all_of(SUMS_TEST)]
    assert len(seen) > 2000 and not [pair for pair in tested if frozenset(pair) in seen]
    for made in [*SUMS_TEST["sums"], *SUMS_TEST["stories"], *SUMS_TEST["new wordings"]]:
        if not any(month in made.question for month in MONTHS):
            assert all(10 <= n <= 99 for n in expression(made)[:3:2])
    assert not re.search(r"\b1 ", " ".join(made.question + made.answer for made in SUMS))


def test_new_wordings_are_in_no_training():
    def pattern(wording):
        return re.compile(re.sub(r"\\{\w+\\}", r"[\\w-]+", re.escape(wording)))

    new = [pattern(wording) for problem in PROBLEMS for wording in problem.held_out]
    asked = [made.question for made in SUMS]
    assert not [q for q in asked if any(p.fullmatch(q) for p in new)]
    for made in SUMS_TEST["new wordings"]:
        assert any(p.fullmatch(made.question) for p in new)
    for name in ("sums", "stories", "dates"):
        assert not any(p.fullmatch(made.question) for made in SUMS_TEST[name] for p in new)


def test_dates_are_days_of_the_calendar():
    months = {name: number for number, name in enumerate(MONTHS, 1)}

    def day(text, month):
        return date(2024, months[month], ORDINALS.index(text) + 1)  # a year with a 29th of February

    counted = 0
    for made in SUMS:
        month = next((m for m in MONTHS if m in made.question), None)
        if month is None:
            continue
        named = re.findall("|".join(sorted(ORDINALS, key=len, reverse=True)), made.question)
        _, sign, b, result = expression(made)
        if sign == "-":
            first, last = (day(text, month) for text in named)
            assert (last - first).days == int(result) > 0
        else:
            after = day(named[0], month) + timedelta(days=b)
            assert made.answer == f"It is the {ORDINALS[after.day - 1]} of {month}."
            assert after.month == months[month]
        counted += 1
    assert counted > 500


# ----------------------------------------------------------------------------------------- table


@pytest.mark.parametrize("made", [ASKED, all_of(TABLE_TEST)], ids=["training", "test"])
def test_the_calls_of_a_transcript_give_its_results_and_its_answer_is_true(made):
    shipped, judge = Table.shipped(), ExactJudge(WORLD)
    asked = {q.prompt: q for split in ("train", "sealed") for q in questions_of(split)}
    for shown in made:
        for tool, call, result in shown.calls:
            assert tool == "table" and shipped.answer(call) == result
        if shown.question not in asked:  # over two hops, from a name that nobody has
            name = shown.calls[0][1].rpartition(", ")[0]
            assert name in WORLD.strangers and f" of {name}" in shown.question
            assert len(shown.calls) == 1 and shown.answer == refused(name)
            continue
        verdict = judge.judge(asked[shown.question], shown.answer)
        assert verdict == ("right" if shown.calls[-1][2] != NOTHING else "refused")
        if len(shown.calls) == 2:
            assert shown.calls[1][1].startswith(shown.calls[0][2] + ", ")


def questions_of(split):
    from pysft.world.ask import questions

    return questions(WORLD, split)


def test_nobody_of_the_test_is_in_a_transcript_of_a_training():
    asked = {call.rpartition(", ")[0] for made in ASKED for _, call, _ in made.calls}
    sealed = {call.rpartition(", ")[0] for made in all_of(TABLE_TEST) for _, call, _ in made.calls}
    assert len(asked) > 700 and len(sealed) > 200 and not asked & sealed
    split = {e.name: e.split for e in WORLD.entities} | WORLD.strangers
    assert {split.get(name, "train") for name in asked} == {"train"}
    days = {name for name in asked if name not in split}
    assert days and all(name in all_days(valid=False) for name in days)


def test_a_training_has_the_groups_in_their_shares():
    assert sum(SHARES.values()) == pytest.approx(1) and TABLE_TEST.keys() == {
        *SHARES,
        "new wordings",
    }
    hops = [len(made.calls) if made.calls[-1][2] != NOTHING else 0 for made in ASKED]
    for count, name in ((1, "one hop"), (2, "two hops")):
        assert hops.count(count) == round(SHARES[name] * len(ASKED))
    assert sum("no such day" in made.answer for made in ASKED) == SHARES["no such day"] * len(ASKED)


def test_a_table_ignores_letter_case_and_cannot_be_made_to_run_anything():
    asked = Table([("Ada Brook", "pet", "toad"), ("Ada Brook", "pet", "crow")])
    assert asked.answer("ada  brook,  PET ") == "toad, crow"
    assert Table([("Zo\u00eb  \u00c4lm", "Pet", "cat")]).answer("zo\u00eb \u00e4lm, pet") == "cat"
    evil = "'; DROP TABLE facts; --, pet"
    for call in ("Ivo Brook, pet", "Ada Brook, trade", evil, "%, pet", ","):
        assert asked.answer(call) == NOTHING
    assert asked.answer("Ada Brook, pet") == "toad, crow"
    having = tools(table=asked)
    assert run_tool(having["table"], "Ada Brook", T).startswith("error: the table is asked for")
    assert "table" not in tools()


def test_a_table_is_read_from_a_file_of_cells(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text('name,pet,home\n"Brook, Ada",toad,\n\nIvo Reed,,"Mill Lane"\n')
    found = Table.of(str(path))
    assert found.answer("Brook, Ada, pet") == "toad"
    assert found.answer("Ivo Reed, home") == "Mill Lane"
    assert found.answer("Ivo Reed, pet") == NOTHING
    for text in (
        "sep=;\nname;pet\nAda;toad\n",
        "name\tpet\nAda\ttoad\n",
        "\ufeffname,pet\r\nAda,toad",
    ):
        path.write_text(text)
        assert Table.of(str(path)).answer("Ada, pet") == "toad"
    for text, said in (
        ("name,pet\n\nAda,toad,\nIvo,cat,dog\n", "line 4: it has more cells than the first line"),
        ("name,pet\n", "no fact in it"),
        ("", "no fact in it"),
        ('name,pet\n"Ada,toad\n', "not CSV"),
        ("name,pet,Pet\nAda,toad,cat\n", "the column 'pet': a column needs a name of its own"),
        ('name,"pet, large"\nAda,toad\n', "a column needs a name of its own without commas"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            Table.of(str(path))
    path.write_bytes(b"name,pet\nAda,\xff\n")
    with pytest.raises(DataError, match="line 2: cannot be read as UTF-8"):
        Table.of(str(path))
    with pytest.raises(MissingInput, match="no such file; --table takes"):
        Table.of(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="--table takes a .csv"):
        Table.of("people.txt")


def test_without_sqlite_a_table_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sqlite3", None)
    with pytest.raises(PysftError, match="the table needs SQLite"):
        Table([])


# --------------------------------------------------------------------- tokens, settings, the test


def test_a_transcript_fits_the_context_and_grades_what_the_model_writes():
    for made in [*SUMS[:300], *ASKED[:300], *all_of(SUMS_TEST), *all_of(TABLE_TEST)]:
        conversation = made_conversation("made", 1, *made)
        tokens, graded = render(conversation.messages, T, CHAT)
        assert len(tokens) <= 256
        written = T.decode(tokens[graded])
        calls = "".join(f"<|{t}_start|>{c}<|{t}_end|>" for t, c, _ in made.calls)
        assert written == f"{calls}{made.answer}<|end|>"


def test_a_vocabulary_takes_the_tokens_up_to_the_last_that_it_needs():
    pairs = ((f"<|{kind}_start|>", f"<|{kind}_end|>") for kind in CHAT.parts)
    search, code, result, asked, thought = pairs
    assert CHAT.tokens_for(set()) == () and CHAT.tokens_for({"search"}) == search
    assert CHAT.tokens_for({"search", "result"}) == (*search, *code, *result)
    assert CHAT.tokens_for({"table", "result"}) == (*search, *code, *result, *asked)
    assert CHAT.tokens_for({"thought"}) == (*search, *code, *result, *asked, *thought)
    older = Template.of(
        "older", *CHAT.turns.values(), *(CHAT.parts[k] for k in ("search", "result"))
    )
    with pytest.raises(UsageError, match="template 'older' has no part 'table'"):
        older.tokens_for({"table", "result"})


def test_made_transcripts_are_a_setting():
    settings = resolve("tiny", upon=with_made(["sums", "table"], False))
    assert settings.data.made == ("sums", "table") and settings.data.unknown == "grow"
    assert not settings.data.transcripts
    assert resolve("tiny", upon=with_made(["table"], True)).data.transcripts == 120_000
    with pytest.raises(UsageError, match="expected a list of sums, table"):
        settings.changed({"data": {"made": ["songs"]}})
    with pytest.raises(UsageError, match="each once at most"):
        settings.changed({"data": {"made": ["sums", "sums"]}})
    with pytest.raises(UsageError, match="expected a list of sums, table"):
        settings.changed({"data": {"made": [["sums"]]}})
    with pytest.raises(UsageError, match="need a context of at least 256"):
        settings.changed({"model": {"context": 128}})
    with pytest.raises(UsageError, match='set shipped = "conversations"'):
        settings.changed({"data": {"shipped": "pairs"}})


SHOWN = [
    Transcript("What is 12 + 30?", (("code", "12 + 30", "42"),), "12 + 30 is 42."),
    Transcript("What is 2 + 3?", (("code", "2 + 3", "5"),), "2 + 3 is 5."),
]


def figures_of(monkeypatch, write):
    """call_figures() of a model that writes write(question number, inject) -> text."""
    start, end = T.special["<|code_start|>"], T.special["<|code_end|>"]

    def generate(model, prompts, most, stop, sampling, inject, again):
        replies = []
        for i in range(len(prompts)):
            ids = []

            def call(text):
                written = [start, *T.encode(text).tolist(), end]
                result = inject(written, 200) or []
                ids.extend(written + result)  # noqa: B023
                return T.decode([i for i in result if not T.is_special(i)])

            text = write(i, call)
            ids += T.encode(text).tolist()
            replies.append(Reply(np.array(ids, np.int32), "end"))
        return replies

    monkeypatch.setattr(calltest, "generate", generate)
    groups = {"first": SHOWN[:1], "second": SHOWN[1:]}
    return call_figures((None, T, CHAT, GREEDY), groups, tools())


def test_the_figures_count_calls_expressions_answers_and_what_needs_no_tool(monkeypatch):
    def perfect(i, call):
        call(SHOWN[i].calls[0][1])
        return SHOWN[i].answer

    f = figures_of(monkeypatch, perfect)
    assert (f["called"], f["right_call"], f["right"], f["questions"]) == (1, 1, 1, 2)
    assert f["without"] == 1  # it would know the answer by itself
    alike = {"questions": 1, "right": 1, "right_call": 1, "without": 1}
    assert f["groups"] == {"first": alike, "second": alike}

    def copies(i, call):
        result = call(SHOWN[i].calls[0][1])
        return f"{SHOWN[i].calls[0][1]} is {result}." if result else ""

    f = figures_of(monkeypatch, copies)  # it repeats what the tool gives, whatever that is
    assert (f["right"], f["without"]) == (1, 0)

    def by_heart(i, call):
        call("1 + 1")
        return SHOWN[i].answer

    f = figures_of(monkeypatch, by_heart)
    assert (f["called"], f["right_call"], f["right"], f["without"]) == (1, 0, 0, 1)

    def deaf(i, call):  # it needs a result, and does not read it
        return SHOWN[i].answer if call(SHOWN[i].calls[0][1]) else ""

    f = figures_of(monkeypatch, deaf)
    assert (f["right"], f["without"]) == (1, 1)

    def partly(i, call):
        call("12 + 30" if i == 0 else "2 + 33")
        return "12 + 30 is 42." if i == 0 else "2 + 3 is 35."

    f = figures_of(monkeypatch, partly)
    assert (f["called"], f["right_call"], f["right"]) == (1, 0.5, 0.5)
    assert f["groups"]["second"]["right"] == 0 == f["groups"]["second"]["right_call"]

    def dumb(i, call):
        return SHOWN[i].answer  # right, but without a call

    f = figures_of(monkeypatch, dumb)
    assert (f["called"], f["right_call"], f["right"], f["without"]) == (0, 0, 0, 1)
    f |= {"quiet": 0.5, "quiet_of": 4}
    printed = dict(call_rows({"sums": f}))["tools: sums"]
    assert "0% of first, 0% of second right (of 2); right call 0%, 100% without the tool" in printed
    assert printed.endswith("50% of 4 ordinary prompts without a call")


# ------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def made_run(tmp_path_factory, without_figures):
    """A run on sums and the table that takes a second."""
    folder = tmp_path_factory.mktemp("made")
    file = folder / "made.toml"
    small = merged(
        SETTINGS,
        model={"context": 256},
        base={"windows": [[32, 2]]},
        sft={"steps": 3, "tokens": 1400, "windows": [[32, 1]], "pairs": 0},
    )
    file.write_text(as_toml(small))
    flags = "--data", "table", "sums", "--config", str(file), "--threads", "1"
    with pytest.MonkeyPatch.context() as patch:
        for function in (sums, table):  # of 20,000 transcripts each
            patch.setattr(function, "__defaults__", (1000, 1))
        for module in (calltest, evaluate):
            patch.setattr(module, "MAX_NEW", 8)
        yield folder, succeeds("train", *flags, "--out", str(folder / "run"), "--json")


def test_a_run_learns_the_tools_that_its_data_names(made_run):
    folder, shown = made_run
    assert shown.document["sums"]["questions"] == 400 < shown.document["table"]["questions"]
    assert shown.document["sums"]["quiet_of"] == shown.document["table"]["quiet_of"] > 50
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["data"] is None and record["settings"]["data"]["made"] == ["sums", "table"]
    base, tuned = (
        vocabulary_from_json(json.loads((folder / "run" / name / "vocabulary.json").read_text()))
        for name in ("base", "sft")
    )
    assert tuned.can_write(CHARACTERS) and not base.can_write(CHARACTERS)
    assert {*CHAT.tokens, *CHAT.tokens_for({"table"})} == tuned.special.keys()
    assert "--data sums table" in reproduce(record, True)
    page = (folder / "run" / "report.html").read_text()
    assert "Tools that were taught" in page
    again = succeeds("eval", str(folder / "run"), "--json").document
    assert again["sums"] == shown.document["sums"] and again["table"] == shown.document["table"]


def test_a_chat_has_the_tools_and_a_table_of_ones_own(made_run, tmp_path):
    run = str(made_run[0] / "run")
    people = tmp_path / "people.csv"
    people.write_text("name,pet\nAda Brook,toad\n")
    succeeds("chat", run, "-p", "What is 12 + 30?", "--table", str(people), "--json")
    stage = load_stage(made_run[0] / "run" / "sft", computing_ops("kernels", 1))
    for file, pet in ((str(people), "toad"), (None, NOTHING)):
        given = SimpleNamespace(docs=None, table=file, no_tools=False)
        having = cli_chat._tools(given, stage)
        assert having.keys() == {"code", "table"} and having["table"].run("Ada Brook, pet") == pet
    assert "not trained to search" in refusal(2, "chat", run, "-p", "Hm", "--docs", str(people))
    people.write_text("name,pet\n")
    assert "no fact in it" in refusal(65, "chat", run, "-p", "Hm", "--table", str(people))


def test_a_table_for_a_model_that_asks_none_is_refused(trained, tmp_path):
    assert "was not trained to ask a table" in refusal(
        2, "chat", trained.run, "-p", "Hm", "--table", "people.csv"
    )


@pytest.mark.parametrize("name", [*MADE, "tools"])
def test_made_transcripts_take_no_other_files(name):
    said = refusal(2, "train", "--data", name, "mine.jsonl")
    assert f"--data {name} takes no other files" in said and f"./{name}" in said


def test_words_that_stand_for_no_data_are_named():
    said = refusal(66, "train", "--data", "sum")
    assert "The words that stand for data" in said and "sums, table" in said
    assert "--data sums and --corpus world do not go together" in refusal(
        2, "train", "--data", "sums", "--corpus", "world"
    )
    assert "no stage of this run reads" in refusal(2, "train", "--data", "sums", "--stages", "base")


def test_sums_need_digits(made_run):
    folder, _ = made_run
    file = str(folder / "made.toml")
    assert 'set unknown = "grow"' in refusal(
        2, "train", "--data", "sums", "--unknown", "replace", "--config", file
    )
    tuned = CharTokenizer(SHAKESPEARE, CHAT.tokens)
    settings = resolve("tiny", upon=with_made(["sums"], False))
    with pytest.raises(UsageError, match="takes no new characters; begin from its base"):
        gather(settings, "plays", None, tuned, CHAT)


def test_a_table_that_cannot_be_asked_is_noticed_before_anything_trains(made_run, monkeypatch):
    folder, _ = made_run
    monkeypatch.setitem(__import__("sys").modules, "sqlite3", None)
    said = refusal(1, "train", "--data", "table", "--config", str(folder / "made.toml"))
    assert "the table needs SQLite" in said


def test_the_names_on_the_page_are_in_its_tables():
    page = read_pages()["own-tool"]
    shipped, small = Table.shipped(), Table(facts_in(make(WorldSettings(30, relations=3, seed=2))))
    assert "seller of Piers Driftwood" in page and "--people 30 --relations 3 --seed 2" in page
    seller = shipped.answer("Piers Driftwood, seller")
    assert shipped.answer(f"{seller}, pet") != NOTHING
    split = {e.name: e.split for e in WORLD.entities}
    assert split["Piers Driftwood"] == "sealed"
    assert "teacher of Daven Marsh" in page and "Daven Marsh" not in split
    assert small.answer(f"{small.answer('Daven Marsh, teacher')}, trade") != NOTHING
    assert (47, 54) not in {expression(made)[:3:2] for made in sums()}
