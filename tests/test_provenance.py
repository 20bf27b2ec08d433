"""Where replies come from: verdicts that are known in advance, and a plain search as the oracle of
every figure."""

import json
import random
import re
import string
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft.measure.provenance import (
    RULE,
    VERDICTS,
    Origin,
    Provenance,
    _suffixes,
    origin_notes,
    summary,
    verdict_counts,
)
from pysft.text.corpora import shipped
from pysft.text.formats import read_conversations
from pysft.text.near_duplicates import NEAR, SHINGLE
from pysft.text.overlap import GRAM

PLAYS = shipped("plays.txt").read_text(encoding="utf-8")
TRAINED = [
    reply for c in read_conversations(shipped("conversations.jsonl")) for reply in c.replies()
]
LETTERS = string.ascii_letters + string.digits  # all different: what two slices share is plain
ODD = "".join(map(chr, range(0x4E00, 0x4E40)))  # characters that no other text here has


steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def origins_of(*replies, training=(), corpus=None):
    provenance = Provenance(training, corpus)
    return [provenance.of(r) for r in replies]


def plain(reply, training, corpus):
    """Every figure by looking everywhere: ((nearest, similarity), the longest stretch in a training
    reply, the longest in the corpus). Of several the first."""

    def pieces(text):
        text = " ".join(text.split())
        return {text[i : i + 5] for i in range(len(text) - 4)}

    def alike(a, b):
        if min(len(" ".join(t.split())) for t in (a, b)) < 5:
            return float(a.split() == b.split())
        return len(pieces(a) & pieces(b)) / len(pieces(a) | pieces(b))

    def longest(wheres, least):
        for size in range(len(reply), least - 1, -1):
            for i in range(len(reply) - size + 1):
                if any(reply[i : i + size] in where for where in wheres):
                    return reply[i : i + size]
        return ""

    verbatim = [t for t in training if t.split() == reply.split()]
    nearest = max(training, key=lambda t: alike(reply, t), default="")  # the first of equals
    nearest = verbatim[0] if verbatim else nearest
    return (
        (nearest, alike(reply, nearest) if training else 0.0),
        longest(training, 1),
        longest([corpus or ""], 16),
    )


# ------------------------------------------------------------------------------------ known answers


def test_training_replies_are_verbatim():
    origins = origins_of(*TRAINED[::10], training=TRAINED, corpus=PLAYS)
    assert summary(origins)["shares"] == dict.fromkeys(VERDICTS, 0) | {"verbatim": 1}
    assert all(
        (o.nearest, o.similarity, o.shared_replies_text) == (r, 1, r)
        for o, r in zip(origins, TRAINED[::10])
    )


def test_random_letters_are_new():
    g = random.Random(0)
    babble = ["".join(g.choices(string.ascii_letters, k=60)) for _ in range(100)]
    origins = origins_of(*babble, training=TRAINED, corpus=PLAYS)
    assert summary(origins)["counts"] == dict.fromkeys(VERDICTS, 0) | {"new": 100}
    assert all(0 < o.shared_replies < 8 and o.shared_corpus == 0 for o in origins)


def test_a_reply_made_of_halves_of_two_training_replies_is_spliced():
    training = [
        "The garden sleeps beneath the snow, and so do I.",
        "My father kept the mill until the river took it.",
    ]
    (origin,) = origins_of(training[0][:25] + training[1][24:], training=training)
    assert (origin.verdict, origin.shared_replies_text) == ("spliced", "The garden sleeps beneath")
    assert origin.nearest == training[0] and 0.2 < origin.similarity < NEAR


def test_a_line_of_the_corpus_is_spliced_and_shared_in_its_whole_length():
    lines = [line for line in PLAYS.splitlines() if len(line) >= 30][:50]
    origins = origins_of(*lines, training=["Aye, my lord."], corpus=PLAYS)
    assert {o.verdict for o in origins} == {"spliced"} and len(lines) == 50
    assert all(
        (o.shared_corpus, o.shared_corpus_text) == (len(line), line)
        for o, line in zip(origins, lines)
    )


# --------------------------------------------------------------------------------------- the oracle


@steady
@given(st.data(), st.sampled_from(["ab", "abc \n", "ab\0", "aé😀\ud800\U0010ffff"]))
def test_every_figure_is_that_of_a_plain_search(data, alphabet):
    # \0 is in replies and the corpus alone, so it can be the border between training replies.
    training = data.draw(st.lists(st.text(alphabet.replace("\0", ""), max_size=30), max_size=6))
    corpus = data.draw(st.none() | st.text(alphabet, max_size=80))
    reply = data.draw(
        st.text(alphabet, max_size=12)
        | st.text(alphabet, max_size=50)
        | st.sampled_from(training or [""])
    )
    cut = data.draw(st.integers(0, 60))
    reply += (corpus or "")[cut : cut + 25] + (training or [""])[-1][cut % 9 :]
    origin = Provenance(training, corpus).of(reply)
    if not reply.strip():
        assert origin == Origin("", 0, 0, "", 0, "", "empty")
        return
    nearest, ours, corpus_text = plain(reply, training, corpus)
    assert (origin.nearest, origin.similarity) == nearest
    assert (origin.shared_replies, origin.shared_replies_text) == (len(ours), ours)
    assert origin.shared_corpus == len(origin.shared_corpus_text) == len(corpus_text)
    assert origin.shared_corpus_text == corpus_text
    assert json.loads(json.dumps(asdict(origin))) == asdict(origin)


@steady
@given(st.text("ab\0", max_size=40) | st.integers(0, 9).map("ab".__mul__) | st.text(max_size=9))
def test_suffixes_are_in_sorted_order(text):
    assert _suffixes(text) == sorted(range(len(text)), key=lambda i: text[i:])


def test_the_figures_of_a_real_training_set_are_those_of_a_plain_search():
    training, g = TRAINED[:300], random.Random(1)
    provenance = Provenance(training, PLAYS)
    for _ in range(12):
        a, b = g.sample(TRAINED, 2)
        reply = a[: g.randrange(len(a))] + b[g.randrange(len(b)) :]
        origin = provenance.of(reply)
        nearest, ours, corpus = plain(reply, training, PLAYS)
        assert (origin.nearest, origin.similarity) == nearest
        assert (origin.shared_replies_text, origin.shared_corpus_text) == (ours, corpus)


# ------------------------------------------------------------------------------- limits of verdicts


def test_verbatim_ignores_white_space_and_nothing_else():
    origins = origins_of(
        "Aye,  my\nlord. ", "aye, my lord.", "Aye, my lord", training=["No.", "Aye, my lord."]
    )
    assert [o.verdict for o in origins] == ["verbatim", "near copy", "near copy"]
    assert (origins[0].nearest, origins[0].similarity) == ("Aye, my lord.", 1)
    assert origins[0].shared_replies_text == "Aye, "


def test_of_replies_with_the_same_shingles_the_equal_one_is_nearest():
    near, same = origins_of("hahahahaha", "hahahaha", training=["hahaha", "hahahaha"])
    assert (same.nearest, same.verdict) == ("hahahaha", "verbatim")
    assert (near.nearest, near.similarity, near.verdict) == ("hahaha", 1, "near copy")


def test_a_near_copy_has_a_similarity_of_at_least_eight_tenths():
    exactly, below = origins_of(LETTERS[:9], LETTERS[20:48], training=[LETTERS[:8], LETTERS[20:43]])
    assert (exactly.similarity, exactly.verdict) == (4 / 5, "near copy") and NEAR == 0.8
    assert (below.similarity, below.verdict) == (19 / 24, "spliced")


@pytest.mark.parametrize("source", ["training", "corpus"])
def test_a_spliced_reply_shares_a_stretch_of_at_least_half_of_it(source):
    text = ODD[:20] + LETTERS[:16] + ODD[20:]
    where = {source: [text] if source == "training" else text}
    half, less = origins_of(LETTERS[:16] + "." * 16, LETTERS[:16] + "." * 17, **where)
    assert [max(o.shared_replies, o.shared_corpus) for o in (half, less)] == [16, 16]
    assert [o.verdict for o in (half, less)] == ["spliced", "new"]


@pytest.mark.parametrize("source", ["training", "corpus"])
def test_a_spliced_reply_shares_at_least_sixteen_characters(source):
    text = ODD[:20] + LETTERS[:16] + ODD[20:]
    where = {source: [text] if source == "training" else text}
    long, short = origins_of(LETTERS[:16], LETTERS[:15], **where)
    assert (long.verdict, short.verdict) == ("spliced", "new") and GRAM == 16
    assert short.shared_replies == (15 if source == "training" else 0)
    assert short.shared_corpus == 0


def test_a_reply_of_white_space_is_empty_whatever_was_trained_on():
    origins = origins_of("", " \n\t", training=["", " ", "a b"], corpus=" " * 40)
    assert {o.verdict for o in origins} == {"empty"}


# -------------------------------------------------------------------------------------- edge cases


def test_a_reply_shorter_than_a_shingle_is_similar_only_to_an_equal_one():
    assert len("Aye.") < SHINGLE
    same, other, inside = origins_of("Aye.", "Nay.", "Aye", training=["Nay, sir.", "Aye."])
    assert (same.similarity, same.nearest, same.verdict) == (1, "Aye.", "verbatim")
    assert (other.similarity, other.verdict, other.shared_replies_text) == (0, "new", "Nay")
    assert (inside.similarity, inside.verdict, inside.shared_replies) == (0, "new", 3)


def test_the_first_of_equally_similar_replies_is_named():
    def nearest(reply, *training):
        return origins_of(reply, training=training)[0].nearest

    left, right = LETTERS[:9], LETTERS[1:10]
    assert nearest(LETTERS[:10], "?", left, right, left) == left
    assert nearest(LETTERS[:10], "?", right, left) == right
    assert nearest("Nothing alike", "?", "!") == "?"
    assert nearest("Aye, sir.", "?", "Aye,  sir.", "Aye, sir.") == "Aye,  sir."


def test_nothing_is_shared_across_the_border_of_two_replies():
    origin, crossing = origins_of("abcdefgh", "abcd\0efgh", training=["abcd", "efgh"])
    assert (origin.shared_replies_text, crossing.shared_replies_text) == ("abcd", "abcd")
    # Here a training reply has \0, so the border is another character.
    zeros, across = origins_of("a\0b", "b\0c", training=["a\0b", "c"])
    assert (zeros.shared_replies_text, across.shared_replies_text) == ("a\0b", "b")


def test_without_training_replies_the_corpus_decides_and_without_both_all_is_new():
    (origin,) = origins_of(PLAYS[:60], corpus=PLAYS)
    assert origin == Origin("", 0, 0, "", 60, PLAYS[:60], "spliced")
    reply, new = "Aye, my lord, and more than that.", Origin("", 0, 0, "", 0, "", "new")
    assert origins_of(reply) == origins_of(reply, corpus="") == [new]


def test_text_of_any_script_is_compared_by_characters():
    training = ["Grüße aus Köln 😀", "東京へ行きます"]
    copy, part = origins_of(training[0], "Grüße aus Köln!! 東京", training=training)
    assert (copy.verdict, copy.shared_replies) == ("verbatim", 16)
    assert (part.shared_replies_text, part.shared_replies) == ("Grüße aus Köln", 14)
    assert part.verdict == "new"


def test_a_summary_names_every_verdict_and_its_shares_are_of_all_replies():
    found = summary(origins_of("Aye.", "Aye.", "No.", "", training=["Aye."]))
    assert found == {
        "replies": 4,
        "counts": {"verbatim": 2, "near copy": 0, "spliced": 0, "new": 1, "empty": 1},
        "shares": {"verbatim": 0.5, "near copy": 0, "spliced": 0, "new": 0.25, "empty": 0.25},
    }
    assert summary([])["shares"] == dict.fromkeys(VERDICTS)


def test_the_rule_names_every_verdict_and_every_number():
    assert all(v in RULE.lower() for v in VERDICTS)
    assert all(number in RULE for number in ("80%", "16 characters", "5 characters", "half"))


def test_the_notes_of_a_reply_say_what_it_shares():
    corpus = "the quality of mercy is not strained, it droppeth as the gentle rain"
    training = ["Yes, my lord.", "A rose is a rose, by any other name it smells as sweet."]

    def notes(reply):
        [origin] = origins_of(reply, training=training, corpus=corpus)
        return origin_notes(asdict(origin))

    assert notes("Yes,  my lord.") == ["verbatim"] and notes(" ") == ["empty"]
    none = "longest shared stretch: {} characters with a training reply, under 16 with the corpus"
    assert notes("QQQ") == ["new", none.format(0)]
    near = training[1].replace("sweet", "swell")
    [verdict, shared] = notes(near)
    assert re.fullmatch(r"near copy; nearest training reply \(8\d% similar\): A rose .*", verdict)
    assert shared == none.format(len(training[1]) - len("et."))
    for reply, replies, where in (
        ("by any other name it QQQ", 21, "under 16"),
        ("QQQ mercy is not strained", 4, "22"),  # " is "
    ):
        verdict, shared = notes(reply)
        assert verdict.startswith("spliced")
        stretch = reply.replace("QQQ", "")
        assert shared == (
            f"longest shared stretch: {replies} characters with a training reply, {where} with the"
            f" corpus; it is: {stretch}"
        )


def test_of_two_stretches_the_longer_one_is_shown_and_of_equals_that_of_the_replies():
    origin = {"verdict": "spliced", "similarity": 0, "nearest": ""}
    origin |= {"shared_replies_text": "of a reply", "shared_corpus_text": "of the corpus"}
    for replies, corpus, shown in (
        (20, 19, "of a reply"),
        (20, 20, "of a reply"),
        (20, 21, "of the corpus"),
    ):
        [verdict, note] = origin_notes(
            origin | {"shared_replies": replies, "shared_corpus": corpus}
        )
        assert (verdict, note.partition("; it is: ")[2]) == ("spliced", shown)


def test_counts_of_verdicts_are_named_in_one_order_without_those_of_none():
    counts = {"new": 3, "verbatim": 1, "empty": 0, "another": 7}
    assert verdict_counts(counts) == "1 verbatim, 3 new" and verdict_counts({}) == ""
