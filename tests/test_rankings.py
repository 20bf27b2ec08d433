"""Preferences: every format becomes rankings, every fault is named, and parts share no prompt."""

import copy
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import note_messages, places_of_messages
from situations.rankings import FORMATS, is_table, ranking_lines, text_of
from test_formats import KEYS, SPLINTERS, VALUES, objects_in
from texts import node, one_line, say, steady, write

from pysft.cli.guide import read_pages
from pysft.errors import DataError, MissingInput, PysftError, RowError
from pysft.text import preferences, ranking, replies
from pysft.text.conversation import Conversation, LeftOut
from pysft.text.formats import read_prompts, scan
from pysft.text.heldout import SHARES, heldout_prompts, prompt_key, split_by_prompt
from pysft.text.keys import MARKS, Reading
from pysft.text.preferences import (
    ABOUT,
    SCORES,
    holds_preferences,
    read_many,
    read_rankings,
    scan_rankings,
)
from pysft.text.ranking import Ranking, ranks_of
from pysft.text.templates import CHAT, CHATML

HI = say("Hi")
PAIR = {"prompt": "Hi", "chosen": "Ho", "rejected": "No"}
RANKED = {"prompt": "Hi", "replies": ["Ho", "No"], "ranks": [1, 2]}
SCORED = {
    "instruction": "Hi",
    "completions": [{"response": "Ho", "overall_score": 7}, {"response": "No", "overall_score": 2}],
}


def user(text, **more):
    return {"role": "user", "content": text, **more}


def reply(text, **more):
    return {"role": "assistant", "content": text, **more}


def whole(*texts):
    """A pair of conversations that differ in their last reply."""
    turns = say(*texts)
    return {"chosen": [*turns, reply("Ho")], "rejected": [*turns, reply("No")]}


def rankings_in(path, *arguments):
    return [row for row in scan_rankings(path, *arguments) if isinstance(row, Ranking)]


def file_of(folder, rows):
    """A file of rows: lines of a table, or objects."""
    return write(folder, "x.csv" if is_table(rows) else "x.jsonl", text_of(rows))


# -------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("f", FORMATS, ids=[f.what for f in FORMATS])
def test_each_format_becomes_its_ranking(tmp_path, f):
    path = file_of(tmp_path, f.rows)
    [found] = read_rankings(path)
    is_tree = any("message_id" in str(row) for row in f.rows)
    row = (
        None
        if is_tree
        else dict(zip(PAIR, ("Hi", "Ho.", "No.")))
        if is_table(f.rows)
        else f.rows[0]
    )
    line = 2 if is_table(f.rows) else 1
    assert found == Ranking(f.prompt, f.replies, f.ranks, str(path), line, row=row, **f.more)
    assert holds_preferences(path) is not is_tree


def test_the_guide_lists_every_format_with_its_example():
    assert "\n".join(ranking_lines()) in read_pages()["data"]


@pytest.mark.parametrize("f", FORMATS, ids=[f.what for f in FORMATS])
def test_fine_tuning_refuses_each_format_but_trees_which_are_conversations_too(tmp_path, f):
    found = list(scan(file_of(tmp_path, f.rows)))
    if "OASST" in f.what:
        assert [c.messages for c in found] == [say("Hi", "Ho."), say("Hi", "No.")]
        return
    [fault] = found
    assert fault.kind == "preferences" and "from which fine-tuning cannot learn" in str(fault)


@pytest.mark.parametrize(
    "row, expected",
    [
        ({**PAIR, "chosen": reply("Ho"), "rejected": reply("No")}, HI),  # as LLaMA-Factory has it
        ({"question": "Hi", "chosen": "Ho", "rejected": "No"}, HI),
        ({**PAIR, "prompt": "\n\nHuman: Hi\n\nAssistant:"}, HI),  # HH-RLHF cut in three
        ({**PAIR, "prompt": "\n\nHuman: Hi"}, HI),
        ({**PAIR, "prompt": "\r\n\r\nHuman: Hi\r\n\r\nAssistant:"}, HI),
        ({**PAIR, "response": "Ho", "source": 7, "chosen_model": "x", "margin": None}, HI),
        ({**whole("Hi", "Ho", "Go"), "prompt": "Hi"}, say("Hi", "Ho", "Go")),
        ({**whole("Hi", "Ho", "Go"), "prompt": say("Hi", "Ho", "Go")}, say("Hi", "Ho", "Go")),
        ({**PAIR, "chosen": [reply([{"type": "text", "text": "Ho"}], train=True)]}, HI),
        (
            {**PAIR, "prompt": [*say("Hi"), reply("x", train=False), user("Go")]},
            say("Hi", "x", "Go"),
        ),
        ({**PAIR, "prompt": [{"from": "human", "value": "Hi"}]}, HI),
        ({**PAIR, "prompt": [{"role": "system", "content": ""}, user("Hi")]}, HI),
        ({**PAIR, "replies": None, "ranks": None}, HI),
        ({**PAIR, "score_chosen": 7, "score_rejected": None}, HI),
    ],
    ids=range(14),
)
def test_other_ways_to_write_a_pair(tmp_path, row, expected):
    [found] = read_rankings(write(tmp_path, "x.jsonl", row))
    assert (found.prompt, found.replies, found.ranks) == (expected, ("Ho", "No"), (1, 2))


def test_a_system_text_begins_the_prompt_if_the_template_has_one(tmp_path):
    rows = ({**PAIR, "system": "Be kind"}, {**PAIR, "prompt": say("Hi", system="Be kind")})
    path = write(tmp_path, "x.jsonl", *rows)
    found = rankings_in(path, CHATML)
    assert [r.prompt for r in found] == [say("Hi", system="Be kind")] * 2
    assert [r.first_turn for r in found] == [0, 1]
    assert ["no system role" in str(fault) for fault in scan_rankings(path)] == [True, True]


def test_the_columns_of_a_table_may_stand_in_any_order(tmp_path):
    path = write(tmp_path, "x.tsv", "rejected\tQuestion\tChosen", "No\tHi\tHo", "", "Nay\tGo\tAye")
    found = read_rankings(path)
    assert [(r.prompt, r.replies, r.line) for r in found] == [
        (HI, ("Ho", "No"), 2),
        (say("Go"), ("Aye", "Nay"), 4),
    ]


def test_the_mean_of_four_marks_goes_before_an_overall_score(tmp_path):
    row = copy.deepcopy(SCORED)
    for completion, score in zip(row["completions"], (2.5, 3.75)):
        completion["fine-grained_score"] = score
    one, other = read_rankings(write(tmp_path, "x.jsonl", SCORED, row))
    assert (one.ranks, other.ranks) == ((1, 2), (2, 1))


@pytest.mark.parametrize("key", ["labeler", "annotator", "annotator_id", "rater", "worker_id"])
def test_a_labeler_is_a_name_or_a_number(tmp_path, key):
    path = write(tmp_path, "x.jsonl", PAIR | {key: "ann"}, PAIR | {key: 7}, PAIR | {key: None})
    assert [r.labeler for r in read_rankings(path)] == ["ann", "7", ""]


def test_the_ranked_replies_to_each_message_of_a_tree_make_a_ranking(tmp_path):
    path = write(
        tmp_path,
        "x.jsonl",
        node("a", None, "prompter", "Hi"),
        node("c", "a", "assistant", "Hm", 1),
        node("b", "a", "assistant", "Ho", 0),
        node("u", "a", "assistant", "unranked"),
        node("n", "a", "assistant", "no number", float("nan")),
        node("d", "b", "prompter", "Go"),
        node("e", "d", "assistant", "One", 3),
        node("f", "d", "assistant", "Two", 0),
        node("g", "d", "assistant", "Six", 3),
        node("h", "c", "prompter", "one reply"),
        node("i", "h", "assistant", "No", 0),
        node("x", "nowhere", "assistant", "lost"),
    )
    found = list(scan_rankings(path))
    rankings = [row for row in found if isinstance(row, Ranking)]
    assert [(r.prompt, r.replies, r.ranks, r.line) for r in rankings] == [
        (HI, ("Ho", "Hm"), (1, 2), 1),
        (say("Hi", "Ho", "Go"), ("Two", "One", "Six"), (1, 2, 2), 6),
    ]
    reasons = [row.reason for row in found if isinstance(row, LeftOut)]
    assert sorted(reasons) == ["with fewer than two ranked replies", *["without a rank"] * 2]
    [fault] = [str(row) for row in found if isinstance(row, RowError)]
    assert "line 12: its parent 'nowhere'" in fault


# ---------------------------------------------------------------------------------- one ranking


def of_ranks(*ranks):
    texts = [f"reply {i}" for i in range(len(ranks))]
    return Ranking(HI, tuple(texts), ranks, "x.jsonl", 3)


def test_every_two_replies_that_do_not_tie_are_a_pair():
    assert len(of_ranks(3, 1, 4, 2).pairs()) == 6
    assert of_ranks(1, 2, 2, 4).pairs() == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    assert of_ranks(2, 1).pairs() == [(1, 0)] and of_ranks(5, 5, 5).pairs() == []


def test_a_rank_is_one_more_than_the_number_of_higher_scores():
    assert ranks_of([7, 9, 7, 2]) == [2, 1, 2, 4] and ranks_of([]) == []


def test_a_ranking_becomes_a_conversation_for_each_reply():
    r = of_ranks(1, 2)
    assert [c.messages for c in r.conversations()] == [say("Hi", "reply 0"), say("Hi", "reply 1")]
    assert all(isinstance(c, Conversation) and c.where == r.where for c in r.conversations())
    assert r.with_texts_of(r.as_one().mapped(str.upper)).replies == ("REPLY 0", "REPLY 1")


# --------------------------------------------------------------------------------------- faults

ALONE = "a reply is a text, or a list of one assistant turn"
MEANS_NOTHING = "write it into the prompt, take it out, or, if it means nothing, give --ignore"
LAST = "end the prompt with what the user says, and put each reply among the replies"
# (kind, the rows of a file, its only fault).
FAULTS = [
    # preferences.py
    ("format", [{"messages": say("Hi", "Ho")}],
     'line 1: no ranking in it, only \'messages\'; a row has one of these sets of keys: "prompt",'
     ' "chosen", "rejected"; "chosen", "rejected"; "prompt", "replies", "ranks"; "instruction",'
     ' "completions"; "message_id", "role", "text"'),
    ("format", [PAIR | {"labeler": ["ann"]}],
     'line 1: "labeler" is an array; write a name, or give --ignore labeler'),
    ("format", [RANKED | {"ranks": 1}], 'line 1: "ranks" is a number; write a list'),
    ("ranks", [RANKED | {"ranks": [1]}], "line 1: 1 rank for 2 replies; write one for each reply"),
    *(
        ("ranks", [RANKED | {"ranks": [1, rank]}],
         f"line 1, reply 2: its rank is {shown}; write a whole number: 1 for the best, the same"
         " number for replies that tie")
        for rank, shown in ((0, 0), (-1, -1), (1.5, 1.5), ("2", "a text"), (True, "true or false"))
    ),
    ("format", [whole("Hi") | {"rejected": "No", "prompt": "Hi"}],
     "line 1: one of chosen and rejected is a whole conversation, and the other a reply alone;"
     " write both in the same way"),
    ("format", [{"chosen": "Ho", "rejected": "No"}],
     'line 1: no "prompt" in it, and "chosen" is no whole conversation; add the "prompt" that both'
     " replies answer"),
    ("different prompts", [whole("Hi") | {"rejected": [*say("Ho"), reply("No")]}],
     'line 1: "chosen" and "rejected" answer different prompts: turn 1 differs; give both the same'
     " turns before the last reply"),
    ("different prompts", [whole("Hi") | {"rejected": [*say("Hi", "Ho", "Go"), reply("No")]}],
     'line 1: "chosen" and "rejected" answer different prompts: turn 2 differs; give both the same'
     " turns before the last reply"),
    ("different prompts", [whole("Hi") | {"prompt": "Go"}],
     'line 1: "prompt" is not what "chosen" and "rejected" answer; write the turns before the'
     " replies into it, or take it out"),
    ("format", [PAIR | {"score_chosen": "7", "score_rejected": 2}],
     'line 1: "score_chosen" is a text; write a number, or take it out'),
    ("ranks", [PAIR | {"score_chosen": 2, "score_rejected": 3.5}],
     'line 1: "score_chosen" is 2, and "score_rejected" is 3.5; the chosen reply has the higher'
     " score: swap them, or take the scores out"),
    ("format", [SCORED | {"completions": ["Ho"]}],
     'line 1: "completions" must be a list of objects; make each {"response": ...,'
     ' "overall_score": ...}'),
    ("ranks", [SCORED | {"completions": [*SCORED["completions"], {"response": "Hm"}]}],
     'line 1: not every completion has a number as "fine-grained_score" or "overall_score"; add'
     " what is missing, or remove the line"),
    ("unread key", [SCORED | {"completions": [{"response": "Ho", "overall_score": 1, "mine": 1}]}],
     "line 1, reply 1: its key 'mine' is not read, so the row could lose its meaning;"
     f" {MEANS_NOTHING} mine"),
    ("unread key", [PAIR | {"mine": "x"}],
     "line 1: its key 'mine' is not read, so the row could lose its meaning;"
     f" {MEANS_NOTHING} mine"),
    # replies.py
    ("format", [{"prompt": "Hi", "chosen": "Ho"}],
     'line 1: no "rejected" in it; add it, or remove the row'),
    ("format", [RANKED | {"prompt": 5}],
     "line 1, prompt: it is a number; write a text or a list of turns"),
    ("format", [RANKED | {"replies": ["Ho", 5]}], f"line 1, reply 2: it is a number; {ALONE}"),
    ("format", [RANKED | {"replies": ["Ho", say("Hi", "Ho")]}],
     f"line 1, reply 2: a list of 2; {ALONE}"),
    ("format", [PAIR | {"rejected": ["No"]}],
     'line 1, rejected: expected an object with "role" and "content"; write it so'),
    ("roles", [{"chosen": "\n\nHuman: Hi", "rejected": "\n\nHuman: Hi"}],
     "line 1, chosen, turn 1: a turn of role 'user' where a reply should stand; end with an"
     " assistant turn"),
    ("format", [PAIR | {"chosen": [reply([{"type": "search", "text": "Hi"}])]}],
     'line 1, chosen: its "content" is parts; a reply of preferences must be text'),
    ("format", [PAIR | {"chosen": [reply(None)]}],
     'line 1, chosen: its "content" is null; a reply of preferences must be text'),
    ("flags", [PAIR | {"chosen": [reply("Ho", train=False)]}],
     "line 1, chosen: its flag 'train' says not graded; of preferences the replies are graded, and"
     " nothing else: take the flag out"),
    ("flags", [PAIR | {"prompt": [*say("Hi"), reply("x", weight=1), user("Go")]}],
     "line 1, prompt, turn 2: its flag 'weight' says graded; of preferences the replies are graded,"
     " and nothing else: take the flag out"),
    # ranking.py
    ("ranks", [RANKED | {"replies": ["Ho"], "ranks": [1]}],
     "line 1: 1 reply; a ranking has two or more: add some, or remove it"),
    ("ranks", [RANKED | {"replies": [], "ranks": []}],
     "line 1: no replies; a ranking has two or more: add some, or remove it"),
    ("format", [RANKED | {"prompt": []}],
     "line 1, prompt: no turn in it; end the prompt with what the user says"),
    ("roles", [PAIR | {"prompt": say("Hi", "Ho")}],
     f"line 1, prompt: its last turn is of role 'assistant'; {LAST}"),
    ("equal replies", [PAIR | {"rejected": "Ho"}],
     "line 1, rejected: the same text as chosen, with another rank; no reply is better than itself:"
     " change one of them, or remove the row"),
    ("equal replies", [RANKED | {"replies": ["Ho", "No", "Ho"], "ranks": [1, 1, 2]}],
     "line 1, reply 3: the same text as reply 1, with another rank; no reply is better than itself:"
     " change one of them, or remove the row"),
    # those of conversation.py, at their places
    ("empty", [PAIR | {"rejected": " "}],
     "line 1, rejected: empty reply; write one, or remove the line"),
    ("empty", [RANKED | {"replies": ["Ho", ""]}],
     "line 1, reply 2: empty reply; write one, or remove the line"),
    ("empty", [RANKED | {"prompt": " "}],
     "line 1, prompt, turn 1: empty text; write one, or remove the line"),
    ("characters", ['{"prompt": "Hi", "chosen": "Ho", "rejected": "a\\udc00"}'],
     "line 1, rejected: half of a character (a lone surrogate); write the whole character"),
    ("roles", [PAIR | {"prompt": [user("Hi", role="robot")]}],
     "line 1, prompt, turn 1: unknown role 'robot'; this template has \"user\" or \"assistant\""
     " (also accepted: human, prompter, gpt, bot, model, chatgpt, ai, bard, bing)"),
    ("roles", [PAIR | {"prompt": [user("Hi"), user("Go")]}],
     "line 1, prompt, turn 2: role 'user', expected 'assistant'; turns alternate, and the user"
     " begins"),
    ("format", [PAIR | {"prompt": [user(5)]}],
     'line 1, prompt, turn 1: "content" is a number; it must be text'),
    # spreadsheet.py
    ("format", ["prompt,chosen,rejected", "Hi,Ho,No", "Go,No"],
     "line 3: 2 columns; there must be three: the prompt, the chosen reply, the rejected reply"),
    ("format", ["prompt,chosen,rejected", "Hi,Ho,No", "prompt,chosen,rejected"],
     "line 3: the header once more; remove the line: each row is a question and two replies to it"),
    ("format", ["Hi,Ho,No"],
     "line 1: 3 columns; there must be two: what is asked, what is answered (preferences need a"
     ' header: "prompt,chosen,rejected")'),
]  # fmt: skip


def faults_in(folder, rows):
    is_sheet = is_table(rows) and rows[0][0] not in "[{"
    path = write(folder, "x.csv" if is_sheet else "x.jsonl", text_of(rows))
    return [row for row in scan_rankings(path) if isinstance(row, RowError)]


@pytest.mark.parametrize("kind, rows, said", FAULTS, ids=range(len(FAULTS)))
def test_each_fault_of_a_row_is_named_with_its_kind_and_its_remedy(tmp_path, kind, rows, said):
    [fault] = faults_in(tmp_path, rows)
    assert str(fault).partition(", ")[2] == said
    assert fault.kind == kind and said.endswith(f"; {fault.remedy}")


def refusals(folder):
    """[(what is refused, what is said of it)] of files as a whole."""
    bad = write(folder, "bad.jsonl", PAIR | {"rejected": ""}, RANKED | {"ranks": [1]})
    tie = write(folder, "tie.jsonl", RANKED | {"ranks": [1, 1]})
    good = write(folder, "good.jsonl", PAIR)
    return [
        (lambda: read_rankings(bad),
         f"{bad}, line 1, rejected: empty reply; write one, or remove the line (and 1 more; python"
         f" -m pysft audit {bad} names them all)"),
        (lambda: read_many([good, bad]),
         f"{bad}, line 1, rejected: empty reply; write one, or remove the line (and 1 more; python"
         f" -m pysft audit {bad} names them all)"),
        (lambda: read_many([good, tie]),
         f"{tie}: no ranking in it puts two replies in an order (1 tie, or have one reply); rank"
         f" some replies above others"),
    ]  # fmt: skip


def test_each_refused_file_is_named_with_its_remedy(tmp_path):
    for refused, said in refusals(tmp_path):
        with pytest.raises(DataError) as error:
            refused()
        assert one_line(error) == said
    with pytest.raises(MissingInput):
        read_rankings(tmp_path / "none.jsonl")


def test_every_place_that_makes_a_message_is_reached_by_the_messages_above(tmp_path, monkeypatch):
    """So a new fault needs its line in a table."""
    places = places_of_messages((preferences, replies, ranking))
    reached = note_messages(monkeypatch)
    for _, rows, _ in FAULTS:
        faults_in(tmp_path, rows)
    for refused, _ in refusals(tmp_path):
        with pytest.raises(PysftError):
            refused()
    assert len(places) > 20 and places - reached == set()


# ------------------------------------------------------------------------- what is not read


@pytest.mark.parametrize(
    "row",
    [
        RANKED | {"ranks": [1, 1]},
        PAIR | {"score_chosen": 3, "score_rejected": 3.0},
        SCORED | {"completions": [{"response": t, "overall_score": 5} for t in ("Ho", "No")]},
        RANKED | {"replies": ["Ho", "Ho"], "ranks": [2, 2]},
    ],
    ids=range(4),
)
def test_a_row_whose_replies_all_tie_is_left_out_and_counted(tmp_path, row):
    path = write(tmp_path, "x.jsonl", row, PAIR)
    assert [r for r in scan_rankings(path) if isinstance(r, LeftOut)] == [
        LeftOut("whose replies all tie")
    ]
    assert len(read_rankings(path)) == 1


def test_rows_and_keys_are_left_out_as_the_reader_is_asked(tmp_path):
    path = write(tmp_path, "x.jsonl", PAIR | {"lang": "de"}, PAIR | {"lang": "en", "mine": 1})
    found = list(scan_rankings(path, CHAT, Reading(ignore=("mine",), lang="en")))
    assert found[0] == LeftOut("in another language (de)") and isinstance(found[1], Ranking)
    assert holds_preferences(path) and not holds_preferences(path, Reading(("chosen", "rejected")))


OBJECTS = [f for f in FORMATS if not is_table(f.rows) and "OASST" not in f.what]


@pytest.mark.parametrize("f", OBJECTS, ids=[f.what for f in OBJECTS])
def test_a_key_is_read_or_known_to_mean_nothing_or_the_row_is_refused(tmp_path, f):
    harmless = {*ABOUT, *MARKS, *(key for keys in SCORES for key in keys)}
    [expected] = read_rankings(write(tmp_path, "x.jsonl", *f.rows))
    for key in {*KEYS, "margin", "history", "feedback"} - f.rows[0].keys() - harmless:
        [found] = scan_rankings(write(tmp_path, "x.jsonl", f.rows[0] | {key: "Something else"}))
        is_other = isinstance(found, Ranking) and found.prompt != expected.prompt
        assert isinstance(found, RowError) or is_other, key


def test_the_first_row_that_can_be_read_decides_what_a_file_holds(tmp_path):
    talk = {"messages": say("Hi", "Ho")}
    for rows, holds in (
        ([PAIR, talk], True),
        ([talk, PAIR], False),
        (["not JSON", RANKED], True),
        (["not JSON"], False),
        ([SCORED], True),
        ([{"prompt": "Hi", "completion": "Ho", "chosen": None, "rejected": ""}], False),
        ([node("a", None, "prompter", "Hi")], False),
    ):
        assert holds_preferences(write(tmp_path, "x.jsonl", *rows)) is holds
    assert not holds_preferences(write(tmp_path, "x.csv", "prompt,completion", "Hi,Ho"))
    assert not holds_preferences(tmp_path)
    with pytest.raises(MissingInput):
        holds_preferences(tmp_path / "none.jsonl")


# ------------------------------------------------------------------------------------ the parts


def asked(text, *more):
    return Ranking(say(text, *more), ("Ho", "No"), (1, 2), "x.jsonl", 1)


def test_the_parts_share_no_prompt_and_hold_every_item_once_in_its_order():
    items = [asked(f"Ask {i % 40}{'!' * (i % 3)}") for i in range(120)]
    items += [asked("ask 7", "Ho", f"And {i}") for i in range(5)]  # further turns of one chat
    items += [{"prompt": f"Ask {i}", "source": "user"} for i in range(20)]
    parts = split_by_prompt(items, 1)
    keys = {
        name: {
            prompt_key(p if isinstance(p := getattr(x, "prompt", None) or x["prompt"], str)
                       else p[0]["content"])
            for x in part
        }
        for name, part in parts.items()
    }  # fmt: skip
    assert [len(keys[name]) for name in SHARES] == [18, 18, 4]  # of 40 prompts
    assert sum(map(len, keys.values())) == 40
    numbers = {id(item): i for i, item in enumerate(items)}
    places = [[numbers[id(item)] for item in part] for part in parts.values()]
    assert sorted(sum(places, [])) == list(range(len(items)))
    assert all(part == sorted(part) for part in places)


def test_the_same_prompts_and_seed_give_the_same_parts_in_any_order():
    items = [asked(f"Ask {i}") for i in range(50)]

    def prompts(parts):
        return {name: {r.prompt[0]["content"] for r in part} for name, part in parts.items()}

    first = prompts(split_by_prompt(items, 1))
    assert prompts(split_by_prompt(items[::-1], 1)) == first != prompts(split_by_prompt(items, 2))


def test_each_part_has_a_prompt_and_fewer_than_three_are_refused():
    for n in range(3, 12):
        assert all(split_by_prompt([asked(f"Ask {i}") for i in range(n)], 0).values())
    with pytest.raises(DataError, match="2 different prompts, which cannot be split"):
        split_by_prompt([asked("Ask"), asked("ask."), asked("Go")], 0)


def test_prompts_keep_their_source(tmp_path):
    rows = [{"prompt": "Hi", "source": "persona"}, {"prompt": "Go", "source": ""}]
    assert read_prompts(write(tmp_path, "x.jsonl", *rows)) == [
        {"prompt": "Hi", "domain": "", "source": "persona"},
        {"prompt": "Go", "domain": ""},
    ]


def test_prompts_of_preferences_can_be_held_out(tmp_path):
    path = write(tmp_path, "x.jsonl", PAIR, whole("Go", "Ho", "Hm"))
    assert heldout_prompts(str(path), CHAT, Reading()) == {
        "hi": f"{path}, line 1",
        "go": f"{path}, line 2",
    }


# ---------------------------------------------------------------------------- files with damage

ROWS = [f.rows[0] for f in OBJECTS] + [RANKED, SCORED, whole("Hi", "Ho", "Go")]
MORE = ["Hi", "Ho.", -1, 1.5, float("nan"), 1e999, 10**30, [1, 2], [say("Hi")], [[]], {"role": "x"}]
ADDED = ["replies", "ranks", "completions", "labeler", "score_chosen", "score_rejected", "response"]


def checked(path):
    """Read a file; every ranking must be one, and every fault a sentence."""
    for found in scan_rankings(path):
        if isinstance(found, Ranking):
            assert len(found.replies) == len(found.ranks) > 1 and found.pairs()
            assert all(type(rank) is int and rank > 0 for rank in found.ranks)
            assert all(isinstance(text, str) and text.strip() for text in found.replies)
            assert found.prompt[-1]["role"] == "user"
        elif isinstance(found, RowError):
            assert found.where.startswith(f"{path}, line ") and found.remedy
            assert "\n" not in str(found)
        else:
            assert isinstance(found, LeftOut)


@settings(steady, max_examples=max(500, int(os.environ.get("PYSFT_FUZZ", "0"))))  # make fuzz
@given(st.data())
def test_a_row_with_random_values_is_a_ranking_or_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "rankings.jsonl"
    row = copy.deepcopy(data.draw(st.sampled_from(ROWS)))
    for _ in range(data.draw(st.integers(1, 4))):
        owner = data.draw(st.sampled_from(list(objects_in(row))))
        keys = st.sampled_from([*owner, *ADDED, *KEYS])
        value = data.draw(st.sampled_from([*VALUES, *MORE]))
        owner[data.draw(keys)] = copy.deepcopy(value)
    path.write_text(json.dumps(row), encoding="utf-8")
    checked(path)


@settings(steady, max_examples=max(300, int(os.environ.get("PYSFT_FUZZ", "0"))))
@given(st.data())
def test_a_mutated_file_gives_rankings_or_one_sentence(tmp_path_factory, data):
    f = data.draw(st.sampled_from(FORMATS))
    raw = bytearray((text_of(f.rows) + "\n").encode() * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 6))] = data.draw(
            st.binary(max_size=4) | st.sampled_from([*SPLINTERS, b"Human:", b"\\n\\n", b"chosen"])
        )
    path = tmp_path_factory.getbasetemp() / ("r.csv" if is_table(f.rows) else "r.jsonl")
    path.write_bytes(raw)
    try:
        checked(path)
    except PysftError as error:
        assert str(error) and "\n" not in str(error)
