"""Limits that a user can meet, each on both sides: what stands at the limit, and one more."""

from collections import Counter

import pytest
from test_chat import session
from texts import PLAIN, grown, say, write

from pysft.errors import DataError
from pysft.inference.calculator import CalculationError, calculate
from pysft.inference.search import Document, Search
from pysft.inference.tools import Tool, run_tool
from pysft.jobs.material import gather
from pysft.text import audit as auditing
from pysft.text import view
from pysft.text.audit import audit
from pysft.text.characters import changed_note
from pysft.text.corpora import read_corpus
from pysft.text.odd import odd_characters
from pysft.text.scripts import unspaced
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE
from pysft.training.presets import resolve


def test_a_corpus_has_a_thousand_characters_or_more(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("x" * 1000)
    assert read_corpus(str(path)) == "x" * 1000
    path.write_text("x" * 999)
    with pytest.raises(DataError, match="999 characters are too few .* at least 1,000 are needed"):
        read_corpus(str(path))


def names(count):
    """So many different names: aa, ab, ..."""
    return [chr(97 + i // 26) + chr(97 + i % 26) for i in range(count)]


def test_a_tenth_of_fifty_conversations_is_held_out_and_of_fewer_none(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(read_corpus("plays")[:20000] + SHAKESPEARE)
    for count, heldout in ((49, 0), (50, 5)):
        rows = [{"prompt": f"Name {name}", "completion": "Aye."} for name in names(count)]
        path = write(tmp_path, "x.jsonl", *rows)
        found = gather(resolve("tiny"), str(corpus), [str(path)])
        assert (len(found.heldout), len(found.conversations)) == (heldout, count - heldout)


def test_a_reply_that_shares_thirty_two_characters_with_the_corpus_is_warned_of(tmp_path):
    corpus = "To be or not to be, that is the question, whether it is nobler."
    for size, kinds in ((31, []), (32, ["copied from the corpus"])):
        row = {"prompt": "Fine", "completion": f"X{corpus[3 : 3 + size]}X."}
        path = str(write(tmp_path, "x.jsonl", row))
        report = audit([path], grown(CHAT), corpus=corpus)
        assert [f.kind for f in report["findings"]] == kinds
        assert report["corpus_overlap"]["max"] == size


def test_a_shared_stretch_counts_from_sixteen_characters_on(tmp_path):
    corpus = "To be or not to be, that is the question."
    for size, found in ((15, 0), (16, 16)):
        path = str(write(tmp_path, "x.jsonl", {"messages": say("Fine", f"X{corpus[:size]}X")}))
        overlap = audit([path], grown(CHAT), corpus=corpus)["corpus_overlap"]
        assert overlap["max"] == found and overlap["from"] == 16


def test_no_more_cut_replies_are_remembered_than_the_limit(tmp_path, monkeypatch):
    assert auditing.UNENDED == 100_000
    monkeypatch.setattr(auditing, "UNENDED", 2)
    rows = [{"prompt": name, "completion": f"{name} is here."} for name in names(30)]
    for count in (2, 3):
        cut = [{"prompt": f"Where is {c}", "completion": f"In {c * 9}"} for c in "ABC"[:count]]
        report = audit([str(write(tmp_path, "x.jsonl", *rows, *cut))], grown(CHAT))
        assert [f.kind for f in report["findings"]].count("cut reply") == 2


def test_a_line_of_the_mask_has_ninety_six_columns():
    tokenizer = grown(CHAT)
    ids = tokenizer.encode("x" * 98)
    lines = view.coloured(ids[:-1], ids[1:], tokenizer, False).split("\n")
    assert [len(line) for line in lines] == [96, 96, 2, 2]
    lines = view.coloured(ids[:95], ids[1:96], tokenizer, False).split("\n")
    assert [len(line) for line in lines] == [96, 96]


def test_three_kinds_of_invisible_characters_are_named_and_others_counted():
    kinds = ["\u00a0", "\u00ad", "\u200b", "\ue000", "\u2028"]
    for count, ends in ((3, ")"), (4, " and 1 more kind"), (5, " and 2 more kinds")):
        [(_, what, _)] = odd_characters("a".join(["", *kinds[:count]]))
        assert what.count("U+") == 3
        assert what.partition("position 5")[2] == ends.removeprefix(")")


def test_eight_changed_characters_are_named_and_others_counted():
    for count, ends in ((8, "'h' by '-' (1 times)"), (9, "'h' by '-' (1 times) and 1 more")):
        changed = Counter({(c, "-"): 1 for c in "abcdefghi"[:count]})
        assert changed_note(changed, "replace").endswith(f", {ends}")


def test_words_are_not_counted_if_a_tenth_of_the_letters_has_no_spaces_between_words():
    assert unspaced(["王" + "a" * 9]) == ["Han"]
    assert unspaced(["王" + "a" * 10]) == []


# ---------------------------------------------------------------------------------- replies


def test_a_reply_in_a_chat_has_120_tokens_at_most():
    for size, stop in ((120, "length"), (119, "end")):
        _, reply, _ = session("y" * size).say("Who?")
        assert (len(reply.ids), reply.stop) == (size, stop)


# ------------------------------------------------------------------------------------ tools


@pytest.mark.parametrize(
    "allowed, value, refused, reason",
    [
        ("1" + " " * 199, "1", "1" + " " * 200, "too long: 201 characters, at most 200 are read"),
        (
            "-1" + "+1" * 29,
            "28",
            "1" + "+1" * 30,
            "too long: more than 60 numbers and operations",
        ),
        ("10**30", "1" + "0" * 30, "10**30 + 1", "too large: a value passes 10**30"),
        ("10**-30", "1e-30", "10**-30 / 1.01", "too small: a value is nearer to 0 than 10**-30"),
    ],
    ids=["characters", "operations", "large", "small"],
)
def test_an_expression_at_a_limit_is_calculated_and_beyond_it_refused(
    allowed, value, refused, reason
):
    assert calculate(allowed) == value
    with pytest.raises(CalculationError) as error:
        calculate(refused)
    assert str(error.value) == reason


def test_a_query_is_read_up_to_a_thousand_characters():
    search = Search([Document("Elka", "Elka swims.")])
    assert search.find(" " * 996 + "elka") and not search.find(" " * 997 + "elka")


def test_twenty_thousand_characters_of_a_result_are_read():
    for size in (20_000, 20_001):
        assert run_tool(Tool("echo", lambda call: "x" * size), "", PLAIN) == "x" * 20_000
