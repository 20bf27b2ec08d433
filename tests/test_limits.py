"""Limits that a user can meet, each on both sides: what stands at the limit, and one more."""

from collections import Counter

import pytest
from texts import grown, say, write

from pysft.errors import DataError
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
