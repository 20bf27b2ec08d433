"""The measurements, on models whose figures are known in advance."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import PLAIN, say, steady

from pysft.batch import Output
from pysft.inference.generate import Reply
from pysft.inference.sampling import CHAT as CHAT_SAMPLING
from pysft.inference.sampling import Sampling
from pysft.inference.session import Session
from pysft.measure import evaluate
from pysft.measure.evaluate import (
    answer,
    checks,
    conversation_loss,
    corpus_loss,
    measure,
    measure_sealed,
    spoken,
)
from pysft.measure.probe import Probe
from pysft.measure.words import (
    COMMON,
    distinct,
    on_topic,
    real_words,
    repeats_prompt,
    subjects,
    words,
)
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.text.examples import shift
from pysft.text.render import render, render_prompt
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.world.ask import refusal

TOKENIZER = CharTokenizer(SHAKESPEARE, CHAT.tokens)
WITH_TOOLS = TOKENIZER.grow(CHAT.tool_tokens)
USER, ASSISTANT, END = 65, 66, 67

PAIRS = [
    ["Say yes", "Yes, my lord."],
    ["Say no", "No, my lord."],
    ["Say rose", "A rose is a rose."],
]
PROMPTS = [
    {"prompt": "Speak of the crown", "domain": "in"},
    {"prompt": "What of roses?", "domain": "in"},
    {"prompt": "My shoes", "domain": "near"},
    {"prompt": "Fix my phone", "domain": "out"},
]
HELDOUT = [
    [{"role": "user", "content": "Sing to me"}, {"role": "assistant", "content": "No song today."}]
]
TRAINED = [reply for _, reply in PAIRS]
PROBE = Probe(
    "To be, or not to be, that is the question." * 3,
    PAIRS,
    PROMPTS,
    HELDOUT,
    sorted(set(words(" ".join(TRAINED) + " speak of the crown sing to me"))),
    TRAINED,
)


def ids(*pieces):
    """Texts and single ids as one array."""
    every = [[p] if isinstance(p, int) else TOKENIZER.encode(p) for p in (*pieces, "")]
    return np.concatenate(every).astype(np.int32)


def zero_model(context=32, vocab=68, dtype=np.float32):
    return GPT(GPTConfig(vocab, context, 1, 2, 16), dtype=dtype)


def noisy_model(context=32, dtype=np.float32):
    """A model of large random weights: what it writes depends on all that stands before."""
    model = GPT(GPTConfig(68, context, 1, 2, 16), rng=np.random.default_rng(0), dtype=dtype)
    for _, w in model.params.items():
        w += np.random.default_rng(1).normal(0, 0.3, w.shape)
    return model


def pretending(monkeypatch, questions, greedy, chatted=None, tokenizer=TOKENIZER):
    """Let a model answer the question q, a text or a list of turns, with greedy(q), a Reply, and as
    chat writes with chatted(q), which without it is the same."""
    rendered = {}
    for question in questions:
        turns = say(question) if isinstance(question, str) else question
        rendered[tuple(render_prompt(turns, tokenizer, CHAT).tolist())] = question
    ways = {Sampling(): greedy, CHAT_SAMPLING: chatted or greedy}

    def pretend(model, prompts, max_new, stop, sampling, inject, *, again):
        thinks = "<|thought_start|>" in tokenizer.special
        assert max_new == 120 * (1 + thinks) and stop == END and inject is None
        return [ways[sampling](rendered[tuple(p.tolist())]) for p in prompts]

    monkeypatch.setattr(evaluate, "generate", pretend)


def figures_of(monkeypatch, greedy, chatted=None, tokenizer=TOKENIZER):
    """measure() of a model that answers as pretending() says."""
    questions = [p for p, _ in PAIRS] + [p["prompt"] for p in PROMPTS]
    questions += [c[0]["content"] for c in HELDOUT]
    pretending(monkeypatch, questions, greedy, chatted, tokenizer)
    return measure(zero_model(), tokenizer, CHAT, PROBE)


def pick(figures, *names):
    return tuple(figures[name] for name in names)


def domains(figures, name):
    return {domain: row[name] for domain, row in figures["by_domain"].items()}


# ------------------------------------------------------------------------------- whole models


def test_a_parrot_of_training_replies_recalls_complies_and_repeats_word_for_word(monkeypatch):
    replies = dict(PAIRS)
    figures, shown = figures_of(
        monkeypatch, lambda p: Reply(ids(replies.get(p, "Yes, my lord.")), "end")
    )
    assert pick(figures, "recall", "recall_of", "stopped") == (1, 3, 1)
    assert pick(figures, "format_compliance", "distinct_replies", "verbatim_replies") == (1, 1, 4)
    assert domains(figures, "format_compliance") == {"in": 1, "near": 1, "out": 1}
    assert domains(figures, "verbatim_replies") == {"in": 2, "near": 1, "out": 1}
    assert pick(figures, "on_topic", "on_topic_chance", "in_domain_prompts") == (0, 0, 3)
    assert figures["real_words"] == 1 and figures["prompts"] == 4
    assert shown["pairs"][2] == ("Say rose", "A rose is a rose.", "end")
    assert [row[0] for row in shown["prompts"]] == [p["prompt"] for p in PROMPTS]
    assert len(shown["heldout"]) == 1


def test_an_echo_is_on_topic_beyond_chance(monkeypatch):
    figures, _ = figures_of(monkeypatch, lambda p: Reply(ids(p), "end"))
    # The subjects crown, roses and sing have nothing in common.
    assert figures["on_topic"] == 1 and figures["on_topic_chance"] == 0
    assert pick(figures, "recall", "verbatim_replies", "distinct_replies") == (0, 0, 4)
    assert figures["format_compliance"] == 1
    # "what" and "roses" are the unknown words in the ten of the in-domain prompts.
    assert figures["real_words"] == pytest.approx(8 / 10)


def test_a_model_that_babbles_has_no_real_words(monkeypatch):
    babble = {p["prompt"]: "xq vroo " * (i + 1) for i, p in enumerate(PROMPTS)}
    figures, _ = figures_of(monkeypatch, lambda p: Reply(ids(babble.get(p, "zzq")), "end"))
    assert pick(figures, "real_words", "on_topic", "recall") == (0, 0, 0)
    assert pick(figures, "format_compliance", "distinct_replies", "verbatim_replies") == (1, 4, 0)


def test_a_model_that_never_stops_never_complies_nor_recalls(monkeypatch):
    replies = dict(PAIRS)
    figures, _ = figures_of(
        monkeypatch, lambda p: Reply(ids(replies.get(p, "Yes, my lord.")), "length")
    )
    assert pick(figures, "recall", "stopped", "format_compliance") == (0, 0, 0)
    assert set(domains(figures, "format_compliance").values()) == {0}
    assert pick(figures, "content", "stopped_unseen", "no_user_turn") == (1, 0, 1)


def test_a_model_that_writes_the_users_turn_does_not_comply(monkeypatch):
    figures, shown = figures_of(monkeypatch, lambda p: Reply(ids("Aye ", USER, "And thou"), "end"))
    assert figures["format_compliance"] == 0 and figures["stopped"] == 1
    assert pick(figures, "content", "stopped_unseen", "no_user_turn") == (1, 1, 0)
    assert shown["prompts"][0][1] == "Aye <|user|>And thou"


def test_a_silent_model_has_no_words_to_measure(monkeypatch):
    figures, _ = figures_of(monkeypatch, lambda p: Reply(ids(), "end"))
    assert math.isnan(figures["real_words"]) and figures["format_compliance"] == 0
    assert pick(figures, "on_topic", "distinct_replies") == (0, 1)


def test_compliance_counts_by_domain_add_up(monkeypatch):
    figures, _ = figures_of(
        monkeypatch, lambda p: Reply(ids("Aye."), "end" if p != "What of roses?" else "length")
    )
    assert figures["format_compliance"] == 3 / 4
    assert domains(figures, "format_compliance") == {"in": 0.5, "near": 1, "out": 1}
    assert pick(figures, "content", "stopped_unseen", "no_user_turn") == (1, 3 / 4, 1)


def test_recall_is_word_for_word(monkeypatch):
    near = {"Say yes": "Yes, my lord.", "Say no": "No, my lord", "Say rose": "a rose is a rose."}
    figures, _ = figures_of(monkeypatch, lambda p: Reply(ids(near.get(p, "Aye.")), "end"))
    assert figures["recall"] == 1 / 3 and figures["stopped"] == 1


def test_real_words_are_those_of_the_corpus_or_of_a_conversation(monkeypatch):
    figures, _ = figures_of(monkeypatch, lambda p: Reply(ids("The crown's blorp"), "end"))
    assert figures["real_words"] == 1 / 3  # "crown's" is not "crown"


def searching(query, answer=""):
    """A reply that searches, is shown what it asked for, and then says something."""
    search, result = (
        ids(WITH_TOOLS.special[f"<|{kind}_start|>"], query, WITH_TOOLS.special[f"<|{kind}_end|>"])
        for kind in ("search", "result")
    )
    return Reply(np.concatenate([search, result, ids(answer)]), "end")


def test_figures_of_what_a_reply_says_are_taken_from_its_free_text(monkeypatch):
    said, shown = figures_of(
        monkeypatch, lambda p: searching(p + " vroo", "No, no"), tokenizer=WITH_TOOLS
    )
    # A search for the words of the prompt, and a result that holds them, are not on the subject.
    assert pick(said, "on_topic", "on_topic_chat", "repeats_prompt") == (0, 0, 0)
    assert domains(said, "on_topic") == {"in": 0, "near": 0, "out": 0}
    assert pick(said, "real_words", "real_words_chat") == (1, 1)  # "vroo" was never said
    assert pick(said, "distinct_words_greedy", "distinct_words", "distinct_pairs") == (0.5, 0.5, 1)
    assert pick(said, "reply_length", "distinct_replies", "format_compliance") == (6, 1, 1)
    # The rows of replies show all that was written.
    assert "<|search_start|>My shoes vroo<|search_end|>" in shown["prompts"][2][1]
    said, _ = figures_of(monkeypatch, lambda p: searching("vroo", f"Of {p}"), tokenizer=WITH_TOOLS)
    assert pick(said, "on_topic", "on_topic_chat") == (1, 1)


def test_the_free_text_of_a_reply_stands_before_and_after_its_calls():
    whole = np.concatenate([ids("Aye. "), searching("crown", "A ring.").ids])
    assert spoken(Reply(whole, "end"), WITH_TOOLS, CHAT) == "Aye. A ring."
    assert spoken(searching("crown"), WITH_TOOLS, CHAT) == ""


def test_figures_as_chat_writes_are_taken_from_replies_that_are_written_so(monkeypatch):
    figures, shown = figures_of(
        monkeypatch,
        lambda p: Reply(ids("no no no my my"), "end"),
        lambda p: Reply(ids(f"no no my {p} vroo"), "end"),
    )
    assert pick(figures, "on_topic", "on_topic_chat", "on_topic_chance") == (0, 1, 0)
    assert figures["distinct_words_greedy"] == 2 / 5
    # The words of the three in-domain prompts are 4, 3 and 3, each another one.
    assert figures["distinct_words"] == (7 + 6 + 6) / (8 + 7 + 7)
    assert figures["distinct_pairs"] == 1
    assert figures["real_words"] == 1
    assert figures["real_words_chat"] == pytest.approx(1 - (3 + 2) / 22)  # and "what", "roses"
    assert {reply for _, reply, _ in shown["prompts"]} == {"no no no my my"}


def test_repeating_is_counted_for_prompts_that_are_long_enough_to_be_repeated(monkeypatch):
    """Of the three in-domain prompts, only "Speak of the crown" has four words."""
    for reply, share in (("Aye, {}.", 1), ("Speak of {}", 1), ("Speak of the", 0), ("Aye.", 0)):
        figures, _ = figures_of(monkeypatch, lambda p: Reply(ids(reply.format(p)), "end"))
        assert figures["repeats_prompt"] == share, reply


def test_a_refusal_is_not_on_topic_although_it_repeats_the_name(monkeypatch):
    figures, _ = figures_of(monkeypatch, lambda p: Reply(ids(refusal(p)), "end"))
    assert pick(figures, "on_topic", "on_topic_chat", "on_topic_chance") == (0, 0, 0)
    assert domains(figures, "on_topic") == {"in": 0, "near": 0, "out": 0}


def test_the_replies_trained_on_are_measured_for_comparison(monkeypatch):
    figures, _ = figures_of(monkeypatch, lambda p: Reply(ids("Aye."), "end"))
    assert figures["trained_reply_length"] == (13 + 12 + 17) / 3
    assert figures["trained_distinct_words"] == (3 + 3 + 3) / 11  # a rose is a rose
    assert figures["trained_distinct_pairs"] == (2 + 2 + 3) / 8


def test_all_figures_of_a_model_of_mixed_replies_by_hand(monkeypatch):
    replies = {
        "Say yes": ("Yes, my lord.", "end"),
        "Say no": ("No, my lord.", "length"),
        "Say rose": ("Yes, my lord.", "end"),
        "Speak of the crown": ("A rose is a rose.", "end"),
        "What of roses?": ("Aye, roses.", "end"),
        "My shoes": ("Yes, my lord.", "length"),
        "Fix my phone": ("", "end"),
        "Sing to me": ("I sing to roses", "end"),
    }
    figures, shown = figures_of(
        monkeypatch,
        lambda p: Reply(ids(replies[p][0]), replies[p][1]),
        lambda p: Reply(ids("no no my lord"), "end"),
    )
    near = {"prompts": 1, "format_compliance": 0, "on_topic": 0, "on_topic_chance": None}
    domain = {
        # "A rose is a rose" is not on the crown, and would be on the roses.
        "in": {"prompts": 2, "format_compliance": 1, "on_topic": 1 / 2, "on_topic_chance": 1 / 2}
        | {"real_words": 5 / 7, "distinct_replies": 2, "verbatim_replies": 1},
        "near": near | {"real_words": 1, "distinct_replies": 1, "verbatim_replies": 1},
        "out": near | {"real_words": None, "distinct_replies": 1, "verbatim_replies": 0},
    }
    assert figures.pop("by_domain") == domain
    assert figures == pytest.approx(
        {
            **{"tuned_base_loss": math.log(68), "heldout_loss": math.log(68)},
            **{"heldout_conversations": 1, "recall": 1 / 3, "recall_of": 3, "stopped": 2 / 3},
            **{"prompts": 4, "format_compliance": 2 / 4, "content": 3 / 4},
            **{"stopped_unseen": 3 / 4, "no_user_turn": 1, "reply_length": (17 + 11 + 13) / 4},
            **{"distinct_replies": 4, "verbatim_replies": 2, "in_domain_prompts": 3},
            # With the held-out conversation: two of three, and of six pairs the roses' two.
            **{"on_topic": 2 / 3, "on_topic_chance": 2 / 6, "repeats_prompt": 0},
            **{"real_words": (5 + 0 + 2) / 11, "distinct_words_greedy": (3 + 2 + 4) / 11},
            **{"distinct_words": 3 / 4, "distinct_pairs": 1, "on_topic_chat": 0},
            **{"real_words_chat": 1, "trained_reply_length": (13 + 12 + 17) / 3},
            **{"trained_distinct_words": 9 / 11, "trained_distinct_pairs": 7 / 8},
        },
        rel=1e-6,
    )
    assert {g: [row[1:] for row in rows] for g, rows in shown.items()} == {
        "pairs": [replies[p] for p, _ in PAIRS],
        "prompts": [replies[p["prompt"]] for p in PROMPTS],
        "heldout": [replies["Sing to me"]],
    }
    counts, traced = evaluate.origins(shown, replace(PROBE, corpus_text="I sing to roses, roses"))
    assert counts == {"verbatim": 2, "near copy": 0, "spliced": 0, "new": 1, "empty": 1}
    assert {g: [tuple(row[:3]) for row in rows] for g, rows in traced.items()} == shown
    assert [row[3]["verdict"] for row in traced["prompts"]] == "verbatim new verbatim empty".split()


@pytest.mark.parametrize("sampling", [Sampling(), CHAT_SAMPLING], ids=["greedy", "chat"])
def test_a_measured_reply_is_the_one_that_chat_gives(sampling):
    model = noisy_model(context=64)
    [(text, reply)] = answer(model, TOKENIZER, CHAT, ["Speak of love"], sampling)
    _, said, _ = Session(model, TOKENIZER, CHAT, sampling).say("Speak of love")
    assert reply.ids.tolist() == said.ids.tolist() and len(said.ids) > 20
    assert text == TOKENIZER.decode(said.ids)


# ------------------------------------------------------------------------------ sealed prompts

SEALED = [
    {"prompt": "Tell me of the sea", "domain": "in"},
    {"prompt": say("Who is he?", "A king.", "What of the moon?"), "domain": "in"},
    {"prompt": "My coat", "domain": "near"},
    {"prompt": "Fix my car", "domain": "out"},
]


def sealed_figures_of(monkeypatch, greedy, chatted=None, sealed=SEALED):
    pretending(monkeypatch, [p["prompt"] for p in sealed], greedy, chatted)
    return measure_sealed(zero_model(64), TOKENIZER, CHAT, replace(PROBE, sealed=sealed))


def test_sealed_prompts_have_the_figures_of_unseen_ones(monkeypatch):
    answers = {p["prompt"]: "No, my lord." for p in SEALED if isinstance(p["prompt"], str)}
    answers["Tell me of the sea"] = "The sea the sea."

    def greedy(prompt):
        # The turns before a question are seen, and the question is what the reply should be about.
        text = answers[prompt] if isinstance(prompt, str) else f"{prompt[1]['content']} Moon"
        return Reply(ids(text), "end" if prompt != "My coat" else "length")

    figures, rows = sealed_figures_of(
        monkeypatch, greedy, lambda p: Reply(ids("A coat, my lord"), "end")
    )
    assert pick(figures, "prompts", "in_domain_prompts") == (4, 2)
    assert pick(figures, "format_compliance", "stopped_unseen", "content") == (3 / 4, 3 / 4, 1)
    assert pick(figures, "distinct_replies", "verbatim_replies") == (3, 2)
    # On topic is taken over the in-domain ones, the share by domain over each.
    assert pick(figures, "on_topic", "on_topic_chance", "on_topic_chat") == (1, 0, 0)
    assert domains(figures, "on_topic") == {"in": 1, "near": 0, "out": 0}
    assert domains(figures, "prompts") == {"in": 2, "near": 1, "out": 1}
    assert figures["distinct_words_greedy"] == (2 + 3) / (4 + 3)
    assert pick(figures, "distinct_words", "distinct_pairs") == (1, 1)
    assert [row[0] for row in rows] == [
        "Tell me of the sea", "What of the moon?", "My coat", "Fix my car",
    ]  # fmt: skip
    assert rows[0][1:] == ("The sea the sea.", "end") and rows[2][2] == "length"


def test_a_run_without_sealed_prompts_has_no_figures_of_them(monkeypatch):
    figures, rows = sealed_figures_of(monkeypatch, None, sealed=[])
    assert rows == [] and pick(figures, "prompts", "in_domain_prompts") == (0, 0)
    assert figures["by_domain"] == {}
    shares = "format_compliance on_topic on_topic_chance real_words distinct_words repeats_prompt"
    assert pick(figures, *shares.split()) == (None,) * 6
    json.dumps(figures, allow_nan=False)


# -------------------------------------------------------------------------------- single figures


@pytest.mark.parametrize(
    "pieces, stop, good",
    [
        (["Aye."], "end", True),
        (["Aye."], "length", False),
        ([], "end", False),
        ([" \n "], "end", False),
        (["Aye", USER], "end", False),
        (["Aye", ASSISTANT, "x"], "end", False),
        ([END], "end", False),
    ],
)
def test_compliance_is_content_an_end_and_no_foreign_control_token(pieces, stop, good):
    assert all(checks(Reply(ids(*pieces), stop), TOKENIZER, CHAT)) is good


def test_the_tokens_of_a_tool_may_stand_inside_a_reply_but_are_no_content():
    grown = TOKENIZER.grow(CHAT.tool_tokens)
    call = [grown.special["<|search_start|>"], 40, grown.special["<|search_end|>"]]

    def checked(*reply):
        return checks(Reply(np.array(reply, np.int32), "end"), grown, CHAT)

    assert checked(39, *call) == (True, True, True)
    assert checked(39, USER, *call) == (True, True, False)
    assert checked(call[0], call[2]) == (False, True, True)


def test_on_topic_and_its_chance_by_hand():
    prompts = ["Speak of the rose", "Roses and a crown", "My ships"]
    replies = ["A rose is red", "The king's crown", "No, my lord"]
    # rose-rose yes, rose/crown-crown yes, ship-lord no. Of the six exchanged pairs, only the second
    # prompt with the first reply has a subject in common.
    assert on_topic(prompts, replies) == (2 / 3, 1 / 6)


def test_the_chance_level_is_the_mean_over_all_other_prompts():
    prompts = ["rose", "rose", "crown", "ship"]
    replies = ["rose", "crown", "crown", "rose"]
    pairs = [prompts[i] == replies[j] for i in range(4) for j in range(4) if i != j]
    rate, chance = on_topic(prompts, replies)
    assert rate == 2 / 4 and chance == sum(pairs) / 12


def test_one_prompt_has_no_chance_level():
    rate, chance = on_topic(["rose"], ["rose"])
    assert rate == 1 and math.isnan(chance)


def test_a_subject_is_a_content_word_without_its_s():
    assert subjects("The King's roses are in the GLASS") == {"king", "rose", "glass"}
    assert subjects("What is it to you and me?") == set()
    assert subjects("Bus gas, ass as, sea us") == {"bus", "gas", "ass", "sea"}
    assert subjects("bass, cars, ox, elk's") == {"bass", "car", "elk"}
    found = ["don't", "tis", "the", "king's", "o'er", "done"]
    assert words("Don't! 'Tis the king's, O'er-done.") == found
    assert all(w == w.lower() for w in COMMON)


def test_distinct_words_by_hand():
    assert distinct(["A rose is a rose."]) == 3 / 5
    assert distinct(["A rose is a rose."], 2) == 3 / 4  # "a rose" comes twice
    # Words that two replies have in common are not repeated. Longer replies count for more.
    assert distinct(["go on", "go on"]) == distinct(["go on", "go on"], 2) == 1
    assert distinct(["no no", "a rose of love"]) == (1 + 4) / (2 + 4)
    assert distinct(["Love, LOVE; don't don't"]) == 2 / 4
    assert math.isnan(distinct([])) and math.isnan(distinct(["", "..."]))
    assert math.isnan(distinct(["love", "no"], 2))  # a word alone is no pair


WORD = st.text("abc", min_size=1, max_size=3)


@steady
@given(st.lists(WORD, min_size=2, max_size=9, unique=True), st.integers(1, 4))
def test_words_that_all_differ_are_all_distinct_and_copies_are_not(different, copies):
    reply = " ".join(different)
    assert distinct([reply] * copies) == distinct([reply] * copies, 2) == 1
    assert distinct([" ".join([reply] * copies)]) == 1 / copies


@pytest.mark.parametrize(
    "prompt, reply, repeats",
    [
        ("Speak of the crown", "Speak of the crown", True),
        ("Come, speak of the red rose!", "Why SPEAK of the red wine?", True),
        ("Speak of the red rose", "I speak of the rose", False),  # three in a row
        ("Speak of the crown", "crown the of speak", False),
        ("Speak of the crown", "Speak of", False),
        ("My crown", "My crown", False),
        ("Speak of the crown", "", False),
    ],
)
def test_a_reply_repeats_its_prompt_if_it_has_four_words_of_it_in_a_row(prompt, reply, repeats):
    assert repeats_prompt(prompt, reply) is repeats


@steady
@given(st.lists(WORD, max_size=9), st.lists(WORD, max_size=9), st.integers(1, 4))
def test_repeating_a_prompt_is_a_common_stretch_of_n_words(prompt, reply, n):
    asked, said = f" {' '.join(prompt)} ", f" {' '.join(reply)} "
    stretches = [f" {' '.join(reply[i : i + n])} " for i in range(len(reply) - n + 1)]
    expected = any(stretch in asked for stretch in stretches)
    assert repeats_prompt(asked, said, n) is expected
    assert repeats_prompt(said, asked, n) is expected


def test_real_words_by_hand():
    assert real_words(["the king blorp", "king"], {"the", "king"}) == 3 / 4
    assert math.isnan(real_words(["", "..."], {"the"}))


# -------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-14), (np.float32, 1e-6)])
@pytest.mark.parametrize("length", [2, 33, 34, 1000])
def test_a_model_of_zeros_has_loss_ln_v_on_any_text(dtype, tolerance, length):
    text = PLAIN.decode(np.random.default_rng(0).integers(0, 65, length))
    loss = corpus_loss(zero_model(vocab=65, dtype=dtype), PLAIN, text)
    assert loss == pytest.approx(math.log(65), rel=tolerance)


def test_a_corpus_loss_is_the_mean_over_every_target_once():
    model = noisy_model(16, np.float64)
    length = 300 * 16 + 6  # more windows than a batch has
    text = np.random.default_rng(0).integers(0, 65, length).astype(np.int32)
    total = 0.0
    for first in range(0, len(text) - 1, 16):
        rows = text[first : first + 16][: len(text) - 1 - first]
        targets = text[first + 1 : first + 17]
        logits = model.logits(rows, np.array([0, len(rows)], np.int32))
        total += (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(rows)), targets]).sum()
    loss = corpus_loss(model, PLAIN, PLAIN.decode(text))
    assert loss == pytest.approx(total / (len(text) - 1), rel=1e-12)


def test_a_conversation_loss_grades_only_replies_and_counts_the_conversations_that_fit():
    model = GPT(GPTConfig(68, 32, 1, 2, 16), rng=np.random.default_rng(0), dtype=np.float64)
    model.params["head"][:] = np.random.default_rng(1).normal(0, 0.5, (68, 16))
    long = [{"role": "user", "content": "x" * 40}, {"role": "assistant", "content": "No."}]
    loss, fitted = conversation_loss(model, [HELDOUT[0], long], TOKENIZER, CHAT)
    rows, labels = shift(*render(HELDOUT[0], TOKENIZER, CHAT))
    logits = model.logits(rows, np.array([0, len(rows)], np.int32))
    graded = np.flatnonzero(labels != -100)
    nll = np.log(np.exp(logits).sum(1))[graded] - logits[graded, labels[graded]]
    assert fitted == 1 and len(graded) == len("No song today.") + 1
    assert loss == pytest.approx(nll.mean(), rel=1e-12)


def test_without_a_conversation_that_fits_there_is_no_loss():
    loss, fitted = conversation_loss(zero_model(), [], TOKENIZER, CHAT)
    assert math.isnan(loss) and fitted == 0


def test_a_prompt_without_room_gets_an_empty_reply_stopped_by_its_length():
    (text, reply), (_, other) = answer(zero_model(context=16), TOKENIZER, CHAT, ["x" * 20, "Hi"])
    assert (text, reply.stop, len(reply.ids)) == ("", "length", 0) and len(other.ids) == 16 - 5


def test_measuring_does_not_move_a_weight():
    model = GPT(GPTConfig(68, 32, 1, 2, 16), rng=np.random.default_rng(0))
    before = model.params.flat.copy()
    figures, _ = measure(model, TOKENIZER, CHAT, PROBE)
    again, _ = measure(model, TOKENIZER, CHAT, PROBE)
    assert (model.params.flat == before).all() and str(figures) == str(again)


def test_a_conversation_is_measured_if_it_just_fits_and_has_a_graded_token():
    rows = len(shift(*render(HELDOUT[0], TOKENIZER, CHAT))[0])
    for context, measured in ((rows, 1), (rows - 1, 0)):
        model = zero_model(context=context)
        assert conversation_loss(model, [HELDOUT[0]], TOKENIZER, CHAT)[1] == measured
    turns = say("Hi", "Ho.", "Hail", "Hm.")
    ungraded = [m | {"train": False} if m["role"] == "assistant" else m for m in turns]
    model = noisy_model(64)
    assert conversation_loss(model, [ungraded], TOKENIZER, CHAT, "flags")[1] == 0
    every = [conversation_loss(model, [turns], TOKENIZER, CHAT, g)[0] for g in ("all", "last")]
    assert every[0] != every[1]
    assert every[0] == conversation_loss(model, [turns], TOKENIZER, CHAT)[0]


@pytest.mark.parametrize("context, together", [(512, 4), (700, 2), (2048, 1), (2049, 1)])
def test_a_batch_that_is_measured_has_at_most_2048_rows_unless_a_context_has(context, together):
    sizes = []

    class Counting:
        config = GPTConfig(65, context, 1, 2, 16)

        def forward(self, batch):
            sizes.append(len(batch.cu_seqlens) - 1)
            return Output(np.ones(len(batch.labels), np.float32))

    ids = np.zeros(5 * context + 1, np.int32)
    assert corpus_loss(Counting(), PLAIN, PLAIN.decode(ids)) == 1
    assert sizes[0] == together and sum(sizes) == 5 and max(sizes) == together


def test_figures_that_are_not_numbers_become_none():
    given = {"a": math.nan, "b": math.inf, "c": 0.5, "d": 3, "e": "x", "f": np.float64("nan")}
    found = evaluate.finite(given)
    assert found == {"a": None, "b": None, "c": 0.5, "d": 3, "e": "x", "f": None}


def test_the_unit_of_base_losses_is_named_if_it_is_not_the_character():
    for unit, entry in (("char", {}), ("byte", {"base_loss_unit": "byte"})):
        assert evaluate.unit_entry(type("Vocabulary", (), {"unit": unit})) == entry
