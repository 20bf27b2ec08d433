"""The map of what a model knows: how questions are sorted, its figures, and the rows it makes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysft.measure.knowing import Asked, key, map_figures, probed, taught_rows

VERDICTS = st.sampled_from(["right", "wrong", "refused", "malformed", None])


def asked(number, tellings=None, about=""):
    prompt = [{"role": "user", "content": f"What is {number}?"}]
    return Asked(prompt, f"It is {number}.", "I know not.", about, tellings)


def sorted_as(kind, number=0, tellings=None, about=""):
    right = {"known": 3, "mixed": 1, "unknown": 0}[kind]
    replies = [f"right {number}"] * right + [f"wrong {number}"] * (4 - right)
    verdicts = ["right"] * right + ["wrong"] * (4 - right)
    return probed(asked(number, tellings, about), replies, verdicts, 0.6, 0.125, number)


# ---------------------------------------------------------------------------------- the kinds


@given(st.lists(VERDICTS, min_size=1, max_size=9), st.floats(0.2, 1), st.floats(0, 0.19))
def test_a_question_is_sorted_by_its_share_of_right_replies(verdicts, least, most):
    p = probed(asked(1), ["x"] * len(verdicts), verdicts, least, most, 0.0)
    if None in verdicts:
        assert (p.kind, p.right) == ("", None)
        return
    share = verdicts.count("right") / len(verdicts)
    assert p.right == share
    is_readable = verdicts.count("malformed") * 2 <= len(verdicts)
    assert (p.kind == "malformed") == (not is_readable)
    assert (p.kind == "known") == (share >= least and is_readable)
    assert (p.kind == "unknown") == (share <= most and is_readable)


def test_limits_belong_to_the_outer_kinds():
    five_of_eight = ["right"] * 5 + ["wrong"] * 3
    one_of_eight = ["right"] + ["wrong"] * 7
    assert probed(asked(1), ["x"] * 8, five_of_eight, 0.625, 0.125, 0.0).kind == "known"
    assert probed(asked(1), ["x"] * 8, one_of_eight, 0.6, 0.125, 0.0).kind == "unknown"
    assert probed(asked(1), ["x"] * 8, five_of_eight, 0.63, 0.125, 0.0).kind == "mixed"
    assert probed(asked(1), ["x"] * 8, one_of_eight, 0.6, 0.124, 0.0).kind == "mixed"


# --------------------------------------------------------------------------------- the figures


def test_the_map_is_compared_with_what_was_told():
    found = [sorted_as("known", 1, 600)] * 3 + [sorted_as("mixed", 2, 600)]
    found += [sorted_as("unknown", 3, 0), sorted_as("known", 4, 0)]
    found += [sorted_as("unknown", 5, 100)]  # between never and often nothing is right or wrong
    figures = map_figures(found)
    assert figures["balanced_accuracy"] == (3 / 4 + 1 / 2) / 2
    assert (figures["known"], figures["mixed"], figures["unknown"]) == (4, 1, 2)
    told = {row["tellings"]: row for row in figures["by_tellings"]}
    assert list(told) == [0, 100, 600]
    assert told[600]["known"] == 0.75 and told[600]["right"] == (3 * 0.75 + 0.25) / 4
    assert told[0]["unknown"] == 0.5


@pytest.mark.parametrize("tellings", [0, 499, 500, None])
def test_without_both_ends_there_is_no_accuracy(tellings):
    assert map_figures([sorted_as("known", 1, tellings)])["balanced_accuracy"] is None


@pytest.mark.parametrize("verdicts", [[None], ["right", *[None] * 7], [*["wrong"] * 7, None]])
def test_questions_of_which_a_verdict_is_missing_are_counted_apart_and_make_no_row(verdicts):
    """One right verdict of eight replies is not 100 %."""
    nobody = probed(asked(9), ["x"] * len(verdicts), verdicts, 0.6, 0.1, 0.0)
    known = sorted_as("known")
    figures = map_figures([nobody, known], {key(p.asked.prompt): p.kind for p in (nobody, known)})
    assert figures["not_judged"] == 1 and figures["known"] == 1 and figures["right"] == 0.75
    assert figures["agreement"] == 1  # the other map has no kind of it either
    assert map_figures([known], {key(known.asked.prompt): ""})["agreement"] is None
    assert map_figures([nobody])["right"] is None
    assert taught_rows([nobody], 100, 0.5, 0, "x")[0] == []


def test_surprise_is_compared_by_pairs_with_ties_as_a_half():
    found = [sorted_as("known", i) for i in (1, 2, 3)] + [sorted_as("unknown", i) for i in (3, 2)]
    auc = np.mean([(u > k) + (u == k) / 2 for k in (1, 2, 3) for u in (3, 2)])
    assert map_figures(found)["surprise"] == {"known": 2, "unknown": 2.5, "auc": pytest.approx(auc)}
    assert map_figures(found[:3])["surprise"] is None


def test_two_maps_agree_where_their_kinds_are_equal():
    found = [sorted_as("known", i) for i in range(3)] + [sorted_as("unknown", 3)]
    other = {key(p.asked.prompt): p.kind for p in found}
    assert map_figures(found, other)["agreement"] == 1
    assert map_figures(found, other)["chance"] == (9 + 1) / 16
    other[key(found[0].asked.prompt)] = "unknown"
    other["user: something else"] = "known"
    figures = map_figures(found, other)
    assert figures["agreement"] == 0.75
    assert figures["chance"] == (3 * 2 + 1 * 2) / 16
    assert map_figures(found)["agreement"] is None
    assert map_figures(found, {"user: something else": "known"})["agreement"] is None


# ------------------------------------------------------------------------------------ the rows


def test_each_kind_makes_the_rows_of_the_source_text():
    replies, verdicts = ["a", "b", "b", "c", "d"], ["right", "right", "right", "wrong", "right"]
    known = probed(asked(1), replies, verdicts, 0.6, 0.1, 0.0)
    mixed = probed(asked(2), replies, ["right", "wrong", "wrong", "wrong", "right"], 0.6, 0.1, 0.0)
    rows, counts = taught_rows([known, mixed, sorted_as("unknown", 3)], 0, 0.5, 0, "world")
    taught = [(row.asked, row.reply) for row in rows]
    assert taught == [
        ("What is 1?", "b"),  # the most frequent right one alone
        ("What is 2?", "a"),
        ("What is 2?", "d"),
        ("What is 3?", "I know not."),
    ]
    assert counts == {"answers": 3, "refusals": 1, "wanted": 3, "share": 0.25}
    step = rows[0].to_row()["metadata"]["steps"][0]
    assert step == {"step": "probe", "by": "world", "kind": "known", "right": 0.8, "tries": 5}


@given(st.integers(0, 500), st.integers(0, 40), st.floats(0.01, 0.5))
def test_refusals_have_the_share_that_was_asked_for(others, answers, share):
    found = [sorted_as("known", i) for i in range(answers)]
    found += [sorted_as("unknown", i) for i in range(answers, answers + 600)]
    rows, counts = taught_rows(found, others, share, 1, "x")
    refusals = [row for row in rows if row.reply == "I know not."]
    total = others + len(rows)
    assert len(refusals) == counts["refusals"] == min(counts["wanted"], 600)
    assert abs(len(refusals) - share * total) <= 0.5 / (1 - share) + 1e-9 or counts["wanted"] > 600
    assert counts["share"] == (len(refusals) / total if total else 0)


def test_every_name_is_refused_once_before_any_is_twice():
    found = [sorted_as("unknown", i, about=f"name {i % 7}") for i in range(35)]
    for wanted in range(1, 35):
        share = wanted / (1000 + wanted)
        rows, _ = taught_rows(found, 1000, share, 3, "x")
        names = Counter(f"name {int(row.asked.split()[-1][:-1]) % 7}" for row in rows)
        assert len(rows) == wanted
        assert max(names.values()) - min(names.get(f"name {i}", 0) for i in range(7)) <= 1
    first, again, other = (taught_rows(found, 1000, 0.01, s, "x")[0] for s in (3, 3, 4))
    assert [r.asked for r in first] == [r.asked for r in again] != [r.asked for r in other]
