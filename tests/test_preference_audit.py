"""The audit of preferences: each fault with its place, and figures that were worked out by hand."""

import json

import pytest
from conftest import in_process
from hypothesis import given
from hypothesis import strategies as st
from situations.rankings import FORMATS, is_table, text_of
from texts import grown, say, steady, write

from pysft.errors import DataError, UsageError
from pysft.text.agreement import Judgements
from pysft.text.findings import Finding
from pysft.text.keys import Reading
from pysft.text.preference_audit import COMPARED, INSTRUCTGPT, audit_rankings
from pysft.text.preferences import read_rankings, scan_rankings
from pysft.text.ranking import Ranking
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer


def pair(prompt, chosen, rejected, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def audited(folder, *rows, **options):
    path = write(folder, "x.jsonl", *rows)
    return audit_rankings([str(path)], grown(CHAT), **options)


def findings_in(folder, *rows, **options) -> list[str]:
    """The findings, without the name of the file."""
    found = audited(folder, *rows, **options)["findings"]
    return [f"{f.severity}: {f.kind}: {f}".replace(f"{folder}/x.jsonl", "x") for f in found]


# The first reply to "Hi" is the best for ann and bob; on the second they differ.
ROWS = [
    {"prompt": "Hi", "replies": ["Ho.", "Hm, so.", "No."], "ranks": [1, 2, 2], "labeler": "ann"},
    pair("Hi", "Ho.", "No.", labeler="bob", id=7),
    pair("Hi", "Hm, so.", "Ho.", labeler="bob"),
    pair("Go", "Yes.", "No.", source="user"),
    pair("Go", "Yes.", "No."),
    pair("Go", "No.", "Yes."),
    {"prompt": "Go", "replies": ["Yes.", "No."], "ranks": [1, 1]},
    pair("Go", "Yes.", " "),
]


def test_the_figures_of_an_audit_are_those_worked_out_by_hand(tmp_path):
    report = audited(tmp_path, *ROWS)
    findings = report.pop("findings")
    path = str(tmp_path / "x.jsonl")
    assert [f"{f.kind}: {f}".replace(path, "x") for f in findings] == [
        "exact duplicate: x, line 5: the same as x, line 4; remove one of the two (--fix does)",
        "contradiction: x, line 6: it puts two replies in another order than x, line 4 does; keep"
        " one of the two, or name their labelers if two people judged",
        "empty: x, line 8, rejected: empty reply; write one, or remove the line",
    ]
    assert report == {
        "data": "preferences",
        "files": [path],
        "rows": 7,
        "rankings": 6,
        "left_out": {"whose replies all tie": 1},
        "keys_not_read": {"id": 1},
        "errors": 1,
        "warnings": 2,
        "kinds": [
            {"severity": "error", "kind": "empty", "count": 1},
            {"severity": "warning", "kind": "contradiction", "count": 1},
            {"severity": "warning", "kind": "exact duplicate", "count": 1},
        ],
        "prompts": 2,
        "replies": {2: 5, 3: 1},
        "pairs": 7,  # two of the first row, and one of each other
        "ties": 1,  # "Hm, so." and "No." of the first row
        # Hi: Ho (1, 2; 3) and Hm (3; 1). Go: Yes (4; 6) and No (6; 4).
        "best_and_worst": 4,
        # Not "Ho." and "No.", which are as long. Longer is better in rows 3, 4, 5, not in 1 and 6.
        "longer_is_better": {"share": 0.6, "pairs": 5},
        "agreement": {
            "pairs": 2,  # Ho and No; Ho and Hm
            "comparisons": 2,
            "agreed": 1,
            "share": 0.5,
            "labelers": [
                {"labeler": "ann", "judged": 2, "comparisons": 2, "agreed": 1, "share": 0.5},
                {"labeler": "bob", "judged": 2, "comparisons": 2, "agreed": 1, "share": 0.5},
            ],
            "instructgpt": INSTRUCTGPT,
        },
        "sources": {"kinds": 1, "effective": 1.0, "top": [["user", 1.0]]},
        "characters_changed": None,
        "context": 256,
        "template": "chat",
        "characters": 65,
        "tables": {},
        # The replies have 3 (eight of them), 4 (three) and 7 letters (two). A turn is its text
        # between two tokens, and the last token is no input: n + 5 of a prompt of two letters.
        "tokens": {"min": 8, "median": 8.0, "p95": 12.0, "max": 12},
        "too_long": 0,
        "prompt_length": {"min": 2, "median": 2.0, "p95": 2.0, "max": 2},
        "reply_length": {"min": 3, "median": 3.0, "p95": 7.0, "max": 7},
        "max_new": 120,
        "fixed": None,
    }


def test_labelers_are_compared_two_by_two_on_each_pair_that_both_put_in_order():
    """Of three on one pair, two agree: one comparison of three."""
    judgements = Judgements()

    def judged(labeler, *ranks):
        replies = ("Ho", "Hm", "No")[: len(ranks)]
        judgements.add(Ranking(say("Hi"), replies, ranks, "x", 1, labeler))

    judged("ann", 1, 2)
    judged("bob", 1, 2)
    judged("eve", 2, 1)
    judged("", 2, 1)  # nobody knows who: not compared
    judged("ann", 2, 1)  # her first judgement of the pair counts
    judged("eve", 1, 1, 2)  # she alone on (Ho, No) and (Hm, No)
    judged("bob", 1, 1, 2)
    found = judgements.agreement()
    assert found == {
        "pairs": 3,
        "comparisons": 5,
        "agreed": 3,
        "labelers": [
            {"labeler": "ann", "judged": 1, "comparisons": 2, "agreed": 1},
            {"labeler": "bob", "judged": 3, "comparisons": 4, "agreed": 3},
            {"labeler": "eve", "judged": 3, "comparisons": 4, "agreed": 2},
        ],
    }
    assert judgements.contradictions() == [(4, 0)]  # of ann with herself
    empty = {"pairs": 0, "comparisons": 0, "agreed": 0, "labelers": []}
    assert Judgements().agreement() == empty and Judgements().contradictions() == []


votes = st.tuples(st.sampled_from(["a", "b", "c", ""]), st.integers(0, 4), st.booleans())


@steady
@given(st.lists(votes, max_size=40))
def test_agreement_is_that_of_a_plain_count(some):
    judgements, first = Judgements(), {}
    for labeler, prompt, is_first in some:
        replies = ("Ho", "No") if is_first else ("No", "Ho")
        judgements.add(Ranking(say(f"Ask {prompt}"), replies, (1, 2), "x", 1, labeler))
        first.setdefault((labeler, prompt), is_first)
    named = {(who, prompt): vote for (who, prompt), vote in first.items() if who}
    compared = [
        (vote, named[other, prompt])
        for (who, prompt), vote in named.items()
        for other in "abc"
        if who < other and (other, prompt) in named
    ]
    found = judgements.agreement()
    assert found["comparisons"] == len(compared)
    assert found["agreed"] == sum(one == other for one, other in compared)
    due = {
        i: next(j for j, other in enumerate(some) if other[:2] == vote[:2])
        for i, vote in enumerate(some)
        if first[vote[:2]] != vote[2]
    }
    assert dict(judgements.contradictions()) == due


@pytest.mark.parametrize(
    "agreed, compared, is_named",
    [(17, 30, True), (18, 30, False), (17, 29, False), (0, 30, True), (59, 100, True)],
)
def test_a_labeler_who_agrees_hardly_more_than_by_chance_is_named(
    tmp_path, agreed, compared, is_named
):
    """ann and bob agree always; eve with both in the same share."""
    rows = []
    for i in range(compared):
        prompt = f"Ask {chr(97 + i // 26)}{chr(97 + i % 26)}"
        replies = ("Ho.", "No.") if i % 2 else ("No.", "Ho.")
        rows += [pair(prompt, *replies, labeler="ann")]
        rows += [pair(prompt, *replies[:: 1 if i < agreed else -1], labeler="eve")]
    report = audited(tmp_path, *rows)
    found = {f.kind: f for f in report["findings"]}
    assert ("labeler" in found) is is_named and set(found) <= {"labeler"}
    if is_named:
        share = f"{agreed / compared:.0%} of {compared} comparisons, where chance gives 50%"
        assert found["labeler"].what == f"labeler 'eve' agrees with others in {share}"
        assert found["labeler"].where == str(tmp_path / "x.jsonl")
    assert COMPARED == 30


@pytest.mark.parametrize(
    "longer, shorter, said",
    [
        (65, 35, None),
        (66, 34, "the longer reply is the better one in 66% of 100 pairs"),
        (34, 66, "the shorter reply is the better one in 66% of 100 pairs"),
        (9, 3, None),  # two standard errors of 12 are 29 %
        (10, 2, "the longer reply is the better one in 83% of 12 pairs"),
    ],
)
def test_a_preference_for_length_is_named_if_chance_does_not_explain_it(
    tmp_path, longer, shorter, said
):
    rows = [pair(f"Ask {'x' * i}", "Hm, so.", "No.") for i in range(longer)]
    rows += [pair(f"Say {'x' * i}", "No.", "Hm, so.") for i in range(shorter)]
    findings = audited(tmp_path, *rows)["findings"]
    assert [f.what for f in findings if f.kind == "length"] == [said] * (said is not None)


def test_what_is_wrong_with_a_text_is_named_with_its_reply(tmp_path):
    mail = "To ann.lee@post.example."
    rows = [
        {"prompt": "At 8", "replies": ["Ho.", "No."], "ranks": [1, 2]},
        {"prompt": "Go", "replies": ["Ho.", "At 8."], "ranks": [1, 2]},
        pair("Mail", mail, "No."),
        pair("Long", "x" * 300, "No."),
        pair("Blank", "Ho.", " No."),
        pair("Talk", "a" * 119 + ".", "No."),
        {"prompt": "Same", "replies": ["Ho.", "No.", "No."], "ranks": [1, 2, 2]},
        pair("So\u00ad", "Ho.", "No."),
    ]
    grow = "write it with other characters, or train on a corpus that has them, or give --unknown"
    grow += " replace or --unknown grow"
    outside = "outside the 65 characters of this vocabulary:"
    assert findings_in(tmp_path, *rows) == [
        f"error: characters: x, line 1, prompt, turn 1 (user): {outside} '8' (U+0038) at position"
        f" 3; {grow}",
        f"error: characters: x, line 2, reply 2: {outside} '8' (U+0038) at position 3; {grow}",
        f"warning: personal data: x, line 3, chosen: '{mail[3:-1]}' looks like an e-mail address;"
        " take it out, or invent one",
        f"error: characters: x, line 3, chosen: {outside} '@' (U+0040) at position 10; {grow}",
        "error: length: x, line 4, chosen: 307 tokens, the context holds 256; make it 51 shorter,"
        " train with a longer context, or leave such rows out (--too-long drop)",
        "warning: blanks: x, line 5, rejected: the reply begins or ends with blanks, which the"
        " model would learn; take them out",
        "warning: long reply: x, line 6, chosen: a reply of 120 tokens and its end; at inference at"
        " most 120; shorten it, or allow more tokens when you chat (--tokens)",
        "warning: equal replies: x, line 7, reply 3: the same text as reply 2, and the same rank;"
        " keep one of them: each pair with it counts twice",
        "warning: invisible character: x, line 8, prompt, turn 1: a soft hyphen (U+00AD) at"
        " position 2; take such characters out, or put plain ones in their place",
        f"error: characters: x, line 8, prompt, turn 1 (user): {outside} '\\xad' (U+00AD) at"
        f" position 2; {grow}",
    ]


def test_characters_are_replaced_or_added_and_counted_once_for_each_text(tmp_path):
    rows = [{"prompt": "At 8", "replies": ["Ho 8.", "No.", "Hm."], "ranks": [1, 2, 3]}]
    report = audited(tmp_path, *rows, unknown="replace")
    assert report["errors"] == 0
    assert report["characters_changed"] == "replaced characters: '8' by '?' (2 times)"
    path = str(write(tmp_path, "x.jsonl", *rows))
    report = audit_rankings([path], CharTokenizer(SHAKESPEARE), unknown="grow", tokens=CHAT.tokens)
    assert report["characters_changed"] == "new characters: '8' (2 times)"
    assert report["characters"] == 66
    # Two replies that differ in such a character alone are one afterwards.
    [found] = findings_in(tmp_path, pair("Hi", "No 7.", "No 8."), unknown="replace")
    assert found.startswith("error: equal replies: x, line 1, rejected: the same text as chosen")


def test_a_prompt_that_is_held_out_is_named(tmp_path):
    heldout = write(tmp_path, "h.jsonl", {"prompt": "hi!"})
    rows = pair("Hi", "Ho.", "No."), pair("Go", "Ho.", "No.")
    [found] = findings_in(tmp_path, *rows, heldout=str(heldout))
    assert found == (
        f"warning: overlap with held-out: x, line 1: the prompt 'Hi' is held out at {heldout}"
        " ('hi!'); remove one of the two: a prompt that was trained on measures nothing"
    )


def test_a_control_token_in_a_reply_is_warned_of(tmp_path):
    path = write(tmp_path, "x.jsonl", pair("Hi", "Ho <|end|>", "No."))
    tokenizer = CharTokenizer(SHAKESPEARE + "<|>", CHAT.tokens)
    [found] = audit_rankings([str(path)], tokenizer)["findings"]
    assert found.kind == "control token" and found.where == f"{path}, line 1, chosen"


def test_files_without_a_ranking_are_errors(tmp_path):
    assert findings_in(tmp_path, "") == [
        "error: empty: x: no ranking in it; write some, or leave the file out"
    ]
    tie = {"prompt": "Hi", "replies": ["Ho", "No"], "ranks": [1, 1]}
    assert findings_in(tmp_path, tie) == [
        "error: empty: x: all of its rows are left out; ask for fewer to be left out"
    ]


def test_the_fixed_file_has_each_ranking_once(tmp_path):
    out = tmp_path / "out.jsonl"
    report = audited(tmp_path, *ROWS, fix=str(out))
    assert report["fixed"] == {
        "path": str(out),
        "kept": 5,
        "removed_duplicates": 1,
        "removed_untrainable": 1,
    }
    assert [r.row for r in read_rankings(out)] == [*ROWS[:4], ROWS[5]]


@pytest.mark.parametrize("f", FORMATS, ids=[f.what for f in FORMATS])
def test_each_format_is_checked_by_the_command_and_fixed(f, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "x.csv" if is_table(f.rows) else "x.jsonl"
    write(tmp_path, name, text_of(f.rows))
    code, out, err = in_process("audit", name, *f.flags.split(), "--fix", "out.jsonl")
    assert (code, err) == (0, "") and "none: clean" in out
    [before], [after] = read_rankings(name), read_rankings("out.jsonl")
    assert (before.prompt, before.replies, before.ranks) == (
        *(after.prompt, after.replies, after.ranks),
    )


# --------------------------------------------------------------------------------- the command


def test_the_command_prints_a_line_for_each_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "x.jsonl", *ROWS)
    code, out, _ = in_process("audit", "x.jsonl")
    assert code == 65
    figures = out.rpartition("\n\n")[2].splitlines()
    assert [(line[:24].rstrip(), line[24:]) for line in figures] == [
        ("rows", "7, of which 6 are rankings to learn from"),
        ("left out", "1 whose replies all tie"),
        ("keys not read", "id (1)"),
        ("characters changed", "none"),
        ("prompts", "2 different"),
        ("replies", "5 with 2, 1 with 3"),
        ("pairs", "7; 1 more tie"),
        ("the longer is better", "in 60% of 5 pairs (by chance 50%)"),
        ("labelers agree", "50% of 2 comparisons on 2 pairs (InstructGPT's labelers: 73% to 77%)"),
        ("best and worst", "4 replies, each of different rankings"),
        ("tokens a ranked reply", "shortest 8, median 8, 95 % at most 12, longest 12; 0 do not fit"
         " the context of 256"),
        ("characters a prompt", "shortest 2, median 2, 95 % at most 2, longest 2"),
        ("characters a reply", "shortest 3, median 3, 95 % at most 7, longest 7; at inference at"
         " most 120 tokens"),
        ("labelers", "ann (50% of 2), bob (50% of 2)"),
        ("sources", "1 kind, as diverse as 1 equal ones; user 100%"),
        ("findings", "1 empty (error), 1 contradiction (warning), 1 exact duplicate (warning)"),
    ]  # fmt: skip
    write(tmp_path, "x.jsonl", pair("Hi", "Ho.", "No."))
    code, out, _ = in_process("audit", "x.jsonl", "--strict")
    assert code == 0 and "no pair of different lengths" in out
    assert "no pair was judged by two labelers" in out


def test_the_document_of_json_is_that_of_the_audit(tmp_path):
    path = write(tmp_path, "x.jsonl", *ROWS)
    code, out, err = in_process("audit", path, "--json")
    report, expected = json.loads(out), audit_rankings([str(path)], grown(CHAT))
    assert (code, err) == (65, "")
    found = report.pop("findings")
    assert [Finding(**f) for f in found] == expected.pop("findings")
    assert report == json.loads(json.dumps(expected))


def test_files_of_both_kinds_and_options_that_mean_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "p.jsonl", pair("Hi", "Ho.", "No."))
    write(tmp_path, "c.jsonl", {"prompt": "Hi", "completion": "Ho."})
    for words, said in (
        (["c.jsonl", "p.jsonl"], "p.jsonl holds preferences, and c.jsonl does not"),
        (["p.jsonl", "--grade", "last"], "--grade: of preferences all replies count"),
        (["--preferences"], "--preferences needs a FILE"),
    ):
        code, out, err = in_process("audit", *words)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err
    code, out, _ = in_process("audit", "c.jsonl", "--preferences")
    assert code == 65 and "no ranking in it, only 'prompt', 'completion'" in out
    # With --ignore the same file is of conversations.
    code, out, _ = in_process("audit", "p.jsonl", "--ignore", "chosen,rejected")
    assert code == 65 and "no \"messages\" in it, only 'prompt'" in out


@pytest.mark.parametrize("verb", [["mask"], ["train", "--out", "run", "--data"]])
def test_mask_and_train_refuse_preferences_in_one_sentence(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "p.csv", "prompt,chosen,rejected", "Hi,Ho.,No.", "Go,Ho.,No.")
    code, out, err = in_process(*verb, "p.csv")
    assert code == 65
    assert err.splitlines()[-1] == (
        'pysft: p.csv, line 2: a row of preferences ("chosen", "rejected"), from which fine-tuning'
        ' cannot learn; to train on the better reply alone, write it into "messages" (and 1 more;'
        " python -m pysft audit p.csv checks the file)"
    )


def test_a_mutated_row_is_counted_as_a_ranking_or_an_error(tmp_path):
    rows = [*ROWS, {"prompt": 1}, "[", '"x"', {"replies": 1, "ranks": []}]
    report = audited(tmp_path, *rows)
    assert report["rankings"] + report["errors"] == report["rows"] == 11
    kinds = [type(row) for row in scan_rankings(tmp_path / "x.jsonl", CHAT, Reading())]
    assert kinds.count(Ranking) == report["rankings"]
    with pytest.raises((DataError, UsageError)):
        audited(tmp_path, *rows, fix=str(tmp_path / "out.txt"))
