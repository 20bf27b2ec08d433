"""Greedy and sampled text, where a reply stops, and the history of a chat."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_decoder import FakeDecoder
from hypothesis import given, settings
from hypothesis import strategies as st

from pysft.errors import DataError, UsageError
from pysft.inference import generate as generating
from pysft.inference.generate import complete, generate, stream
from pysft.inference.sampling import Sampling
from pysft.inference.session import ROOM, Session, answer_once
from pysft.nn import kernels
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.text.render import render, render_prompt
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

TOKENIZER = CharTokenizer(SHAKESPEARE, CHAT.tokens)
USER, ASSISTANT, END = 65, 66, 67
CONTEXT = 24

steady = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def random_model(context=CONTEXT, vocab=68, spread=0.5):
    """A model with weights so large that its probabilities are far from uniform."""
    g = np.random.default_rng(3)
    model = GPT(GPTConfig(vocab, context, 2, 2, 16), rng=g)
    for _, w in model.params.items():
        w += g.normal(0, spread, w.shape).astype(np.float32)
    return model


MODEL = random_model()
PROMPTS = [
    np.random.default_rng(i).integers(0, 68, n).astype(np.int32)
    for i, n in enumerate((1, 5, 9, 3, 23, 2))
]


class Scripted(FakeDecoder):
    """A model that writes `script` whatever it is asked, one id for each token that it reads beyond
    the first `start` ids. It keeps, in `seen`, every sequence that it was asked to continue, at its
    full length."""

    def __init__(self, script, context=256, start=None, vocab=68):
        self.config = SimpleNamespace(context=context, vocab=vocab)
        self.script, self.start, self.seen = script, start, []

        self.ids = {}

    def reset(self, slot=0):
        self.ids[slot] = []

    def next_row(self, token, slot):
        ids, row = self.ids[slot], np.zeros(self.config.vocab)
        ids.append(token)
        assert len(ids) <= self.config.context
        if ids[:-1] in self.seen:
            self.seen.remove(ids[:-1])  # it is the same sequence, one token longer
        self.seen.append(list(ids))
        start = self.start or max(j + 1 for j, t in enumerate(ids) if t == ASSISTANT or j == 0)
        row[self.script[min(max(0, len(ids) - start), len(self.script) - 1)]] = 9
        return row


def scripted(reply, **more):
    return Scripted([*TOKENIZER.encode(reply).tolist(), END], **more)


# ------------------------------------------------------------------------------------ generation


def recomputed(model, prompt, count, pick=lambda logits, written: int(logits.argmax())):
    """The text behind one prompt, by default greedy, with a whole forward pass for each token."""
    ids = list(prompt)
    while len(ids) < min(len(prompt) + count, model.config.context):
        logits = model.logits(np.array(ids, np.int32), np.array([0, len(ids)], np.int32))
        ids.append(pick(logits[-1], ids[len(prompt) :]))
    return ids[len(prompt) :]


def test_greedy_is_the_argmax_of_recomputed_logits():
    for prompt in PROMPTS:
        assert generate(MODEL, [prompt], 12)[0].ids.tolist() == recomputed(MODEL, prompt, 12)


def test_a_penalty_counts_what_a_reply_holds_and_nothing_of_its_prompt():
    penalty, changed = Sampling(repetition=3.0), 0
    replies = generate(MODEL, PROMPTS, 12, sampling=penalty, again=lambda written: written)
    for prompt, reply in zip(PROMPTS, replies):
        expected = recomputed(MODEL, prompt, 12, lambda *row: choose(row[0], penalty, row[1]))
        assert reply.ids.tolist() == expected
        changed += expected != recomputed(MODEL, prompt, 12)
    assert changed > 1


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 5, 0.9, seed=4)])
def test_a_prompt_gets_the_same_reply_alone_and_among_others(sampling, slots, monkeypatch):
    together = generate(MODEL, PROMPTS, 10, stop=20, sampling=sampling)
    monkeypatch.setattr(generating, "SLOTS", slots)
    few_at_once = generate(MODEL, PROMPTS, 10, stop=20, sampling=sampling)
    for a, b in zip(together, few_at_once):
        assert a.ids.tolist() == b.ids.tolist() and a.stop == b.stop
    alone = generate(MODEL, PROMPTS[:1], 10, stop=20, sampling=sampling)[0]
    assert alone.ids.tolist() == together[0].ids.tolist()
    if sampling.temperature == 0:
        for prompt, reply in zip(PROMPTS, together):
            assert generate(MODEL, [prompt], 10, stop=20)[0].ids.tolist() == reply.ids.tolist()


def test_the_stop_token_ends_the_reply_and_is_not_in_its_ids():
    model, prompt = Scripted([5, 6, END, 7], start=2), np.array([1, 2], np.int32)
    reply = generate(model, [prompt], 10, stop=END)[0]
    assert reply.ids.tolist() == [5, 6] and reply.stop == "end"


def test_a_reply_that_ends_does_not_hold_up_the_others():
    model = Scripted([5, 6, END], start=1)
    short, long = generate(model, [np.array([1], np.int32), np.array([1] * 3, np.int32)], 4, stop=5)
    assert (short.ids.tolist(), short.stop) == ([], "end")
    assert (long.ids.tolist(), long.stop) == ([END] * 4, "length")


def test_without_a_stop_token_a_reply_ends_at_its_length():
    reply = generate(Scripted([5, END], start=1), [np.array([1], np.int32)], 3)[0]
    assert reply.ids.tolist() == [5, END, END] and reply.stop == "length"
    assert len(generate(MODEL, PROMPTS[:1], 0)[0].ids) == 0


def test_the_context_is_never_exceeded():
    for reply, prompt in zip(generate(MODEL, PROMPTS, 1000), PROMPTS):
        assert len(prompt) + len(reply.ids) == CONTEXT and reply.stop == "length"
    full = generate(MODEL, [np.zeros(CONTEXT, np.int32)], 5)[0]
    assert len(full.ids) == 0 and full.stop == "length"


@pytest.mark.parametrize("length", [0, CONTEXT + 1])
def test_a_prompt_that_does_not_fit_the_context_is_refused(length):
    with pytest.raises(
        DataError, match=f"prompt 1: {length} tokens, the context holds 1 to {CONTEXT}"
    ):
        generate(MODEL, [PROMPTS[0], np.zeros(length, np.int32)], 5)


def test_a_decoder_that_is_used_again_writes_what_a_new_one_writes():
    model = GPT(GPTConfig(12, 32, 2, 2, 16), rng=np.random.default_rng(3))
    prompts = [np.array(ids) for ids in ([1], [5, 2, 7], [9, 9])]
    decoder = model.decoder()
    for _ in range(2):
        for prompt in prompts:
            events = stream(model, [prompt], 9, decoder=decoder)
            if len(prompt) == 3:
                next(events)  # a caller who stops here leaves a half-read slot
                events.close()
                events = stream(model, [prompt], 9, decoder=decoder)
            assert [e.token for e in events] == [e.token for e in stream(model, [prompt], 9)]

    def tokens(**more):
        return sorted((e.number, e.token or -1) for e in stream(model, prompts, 9, **more))

    assert tokens(decoder=decoder) == tokens()  # with more prompts than the decoder has slots


# -------------------------------------------------------------------------------------- sampling

LOGITS = np.log(np.array([0.4, 0.05, 0.3, 0.15, 0.1], np.float32))


def drawn(sampling, count=1, logits=LOGITS, again=(), module=kernels):
    """The tokens of draws 0 to count-1 from the same logits."""
    S, V = count, len(logits)
    repeats = dict(again=np.tile(np.array(again, np.int32), S)) if len(again) else {}
    if repeats:
        repeats["offsets"] = np.arange(S + 1, dtype=np.int32) * len(again)
    chosen = np.full(S, -1, np.int32)
    module.sample(
        chosen,
        np.empty((S, V), np.float32),
        np.empty((S, V), np.int32),
        np.tile(logits.astype(np.float32), (S, 1)),
        np.tile(np.array(sampling.rules(), np.float32), S),
        np.full(S, sampling.most(), np.int32),
        np.tile(sampling.key(0), S),
        np.arange(S, dtype=np.int32),
        **repeats,
    )
    return chosen


def choose(logits, sampling, again=()):
    return int(drawn(sampling, 1, logits, again)[0])


def shares(sampling, count=4000, logits=LOGITS, again=()):
    """How often each token is chosen in `count` draws, as a share."""
    return np.bincount(drawn(sampling, count, logits, again), minlength=len(logits)) / count


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1, top_k=1),
        Sampling(temperature=1, top_p=1e-9),
        Sampling(temperature=1e-4),
        Sampling(temperature=5e-324),
        Sampling(temperature=1, top_p=0.4),
    ],
)
def test_temperature_zero_or_tiny_top_k_1_and_a_small_top_p_are_all_greedy(sampling):
    assert shares(sampling, 50)[0] == 1


@pytest.mark.parametrize(
    "sampling, expected",
    [
        (Sampling(1.0), [0.4, 0.05, 0.3, 0.15, 0.1]),
        (Sampling(0.5), np.array([0.16, 0.0025, 0.09, 0.0225, 0.01]) / 0.285),
        (Sampling(1.0, top_k=2), [4 / 7, 0, 3 / 7, 0, 0]),
        (Sampling(1.0, top_k=99), [0.4, 0.05, 0.3, 0.15, 0.1]),
        (Sampling(1.0, top_p=0.71), [0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0]),
        (Sampling(1.0, top_p=0.69), [4 / 7, 0, 3 / 7, 0, 0]),
        (Sampling(1.0, top_k=3, top_p=0.99), [0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0]),
        (Sampling(float("inf")), [0.2] * 5),
    ],
)
def test_samples_follow_the_distribution(sampling, expected):
    assert_follows(shares(sampling), np.array(expected))


def assert_follows(found, expected):
    """The shares in 4,000 draws are as probable as `expected` says."""
    assert (found[expected == 0] == 0).all()
    kept = expected > 0
    chi = (4000 * (found - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi < 25  # with four degrees of freedom it is larger once in 20,000 times


@pytest.mark.parametrize(
    "again, repetition, expected",
    [
        ([], 2.0, [0.4, 0.05, 0.3, 0.15, 0.1]),
        ([0, 1], 1.0, [0.4, 0.05, 0.3, 0.15, 0.1]),
        ([0], 2.0, np.array([0.16, 0.05, 0.3, 0.15, 0.1]) / 0.76),
        ([2, 4], 3.0, np.array([0.4, 0.05, 0.027, 0.15, 0.001]) / 0.628),
        ([0, 1, 2, 3, 4], 2.0, np.array([0.16, 0.0025, 0.09, 0.0225, 0.01]) / 0.285),
    ],
)
def test_a_penalty_takes_the_probability_of_a_repeated_word_to_its_power(
    again, repetition, expected
):
    drawn = shares(Sampling(1.0, repetition=repetition), again=again)
    assert_follows(drawn, np.array(expected))


@pytest.mark.parametrize("sure, kept", [(0.4, False), (0.6, False), (0.7, True), (0.99, True)])
def test_a_penalty_changes_a_doubtful_choice_and_leaves_a_sure_one(sure, kept):
    # With two choices, p squared is below 1 - p until p is 0.618.
    logits = np.log(np.array([1 - sure, sure], np.float32))
    assert choose(logits, Sampling(repetition=2.0), [1]) == int(kept)
    assert choose(logits + 50, Sampling(repetition=2.0), [1]) == int(kept)


@steady
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=6),
    st.integers(-99, 99),
    st.sets(st.integers(0, 1)),
)
def test_a_penalty_does_not_change_the_logits_nor_depend_on_where_they_begin(logits, shift, again):
    logits = np.array(logits, np.float32) / 4
    before = logits.copy()
    first = choose(logits, Sampling(repetition=2.0), sorted(again))
    assert logits.tolist() == before.tolist()
    assert choose(logits + shift, Sampling(repetition=2.0), sorted(again)) == first


def test_large_logits_do_not_overflow():
    logits = np.array([3e38, -3e38, 0], np.float32)
    assert shares(Sampling(0.5), 20, logits).tolist() == [1, 0, 0]


def test_sampling_is_reproducible_by_its_seed():
    a, b, c = (generate(MODEL, PROMPTS[:2], 15, sampling=Sampling(1.5, seed=s)) for s in (1, 1, 2))
    assert [r.ids.tolist() for r in a] == [r.ids.tolist() for r in b] != [r.ids.tolist() for r in c]
    twins = generate(MODEL, [PROMPTS[0]] * 2, 15, sampling=Sampling(1.5, seed=1))
    assert twins[0].ids.tolist() != twins[1].ids.tolist()  # each prompt has its own generator


@pytest.mark.parametrize(
    "bad, named",
    [
        (dict(temperature=-1), "temperature"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(top_k=-1), "top-k"),
        (dict(top_p=0), "top-p"),
        (dict(top_p=1.5), "top-p"),
        (dict(top_p=float("nan")), "top-p"),
        (dict(repetition=0.5), "repetition"),
        (dict(repetition=float("nan")), "repetition"),
        (dict(repetition=float("inf")), "repetition"),
        (dict(repetition=1e6), "repetition"),
        (dict(seed=-1), "seed"),
        (dict(seed=1.0), "seed"),
    ],
)
def test_a_sampling_value_out_of_range_is_refused_by_its_name(bad, named):
    with pytest.raises(UsageError, match=named):
        Sampling(**bad)


def test_the_least_and_the_most_that_a_sampling_takes_are_what_the_kernels_take():
    """The rules are stored in float32, the most likely tokens in int32."""
    assert Sampling(0, 0, 1, 0, 1) == Sampling() and Sampling().rules() == (0, 1, 1)
    most = Sampling(temperature=1e300, top_k=2**40, top_p=1, repetition=999_999)
    least = Sampling(temperature=1e-300, top_k=1, top_p=1e-300)
    assert (least.most(), most.most()) == (1, 2**31 - 1)
    for sampling, expected in ((least, (1e-30, 1e-30, 1)), (most, (1e38, 1, 999_999))):
        assert sampling.rules() == expected
        stored = np.array(expected, np.float32)
        assert np.isfinite(stored).all() and (stored > 0).all()


# -------------------------------------------------------------------------------- continuing text


def test_a_base_model_continues_a_text():
    document = complete(MODEL, TOKENIZER, "To be", 7, Sampling())
    ids = recomputed(MODEL, TOKENIZER.encode("To be"), 7)
    assert document["prompt"] == "To be" and document["reply"] == TOKENIZER.decode(ids)
    assert document["stop"] == "length" and document["tokens"] == 7 and document["tokens_per_s"] > 0


def test_a_base_model_repeats_words_unless_there_is_a_penalty():
    class Doubtful(Scripted):
        """It would nearly as soon write "b"."""

        def next_row(self, token, slot):
            row = super().next_row(token, slot)
            row[TOKENIZER.encode("b")] = 8.9
            return row

    def written(prompt, sampling):
        model = Doubtful(TOKENIZER.encode("a a a").tolist(), start=len(prompt))
        return complete(model, TOKENIZER, prompt, 5, sampling)["reply"]

    assert written("a b", Sampling()) == "a a a"
    assert written("a b", Sampling(repetition=2.0)) == "a b a"


@pytest.mark.parametrize(
    "prompt, named", [("", "empty"), ("a" * CONTEXT, "no room"), ("a8", "'8' .* position 1")]
)
def test_a_text_that_cannot_be_continued_is_refused(prompt, named):
    with pytest.raises(DataError, match=f"the prompt.*{named}"):
        complete(MODEL, TOKENIZER, prompt, 7, Sampling())


# -------------------------------------------------------------------------------------- sessions


def session(model, **more):
    return Session(model, TOKENIZER, CHAT, **more)


def test_a_prompt_is_id_for_id_what_training_rendered():
    chat = session(scripted("Well met!"))
    for text in ("Hi", "Who are you"):
        chat.say(text)
    tokens = render(chat.messages, TOKENIZER, CHAT)[0].tolist()
    longest = chat.model.seen[-1]
    assert longest == tokens[: len(longest)] and len(longest) == len(tokens) - 1
    first, reply = TOKENIZER.encode("Hi"), TOKENIZER.encode("Well met!")
    assert chat.model.seen[0] == [USER, *first, END, ASSISTANT, *reply]


def test_the_history_grows_by_each_exchange():
    chat = session(scripted("Aye."))
    assert chat.say("Hi")[0] == "Aye." and chat.say("Go")[2] == 0
    assert chat.messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Aye."},
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": "Aye."},
    ]
    ids, dropped = chat.prompt("No")
    expected = render_prompt([*chat.messages, {"role": "user", "content": "No"}], TOKENIZER, CHAT)
    assert ids.tolist() == expected.tolist() and dropped == 0


def test_the_oldest_whole_exchanges_are_dropped_when_the_context_is_full():
    chat = session(scripted("Aye.", context=64))
    # Two letters and this reply take 10 tokens. A prompt takes 5 and ROOM is 32, so the 27 that
    # remain of 64 hold two exchanges.
    dropped = [chat.say(text)[2] for text in ("aa", "bb", "cc", "dd", "ee", "ff")]
    assert dropped == [0, 0, 0, 1, 1, 1]
    assert [m["content"] for m in chat.messages[::2]] == ["dd", "ee", "ff"]
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 3
    ids, dropped = chat.prompt("g" * 25)
    assert dropped == 3 and ids.tolist() == [USER, *TOKENIZER.encode("g" * 25), END, ASSISTANT]


@steady
@given(st.lists(st.integers(1, 29), min_size=1, max_size=6), st.integers(0, 30))
def test_a_reply_always_has_room_and_no_exchange_is_dropped_without_need(sizes, answer):
    chat = session(scripted("y" * answer, context=64))
    for size in sizes:
        before, turn = list(chat.messages), {"role": "user", "content": "x" * size}
        ids, dropped = chat.prompt("x" * size)
        assert len(ids) + ROOM <= 64
        if dropped:
            one_more = render_prompt([*before[2 * dropped - 2 :], turn], TOKENIZER, CHAT)
            assert len(one_more) + ROOM > 64
        _, reply, reported = chat.say("x" * size)
        assert reported == dropped and reply.stop == "end" and len(reply.ids) == answer
        assert chat.messages[:-2] == before[2 * dropped :]


def test_a_prompt_that_cannot_fit_is_refused_and_changes_nothing():
    chat = session(scripted("Aye.", context=64))
    chat.say("Hi")
    before = list(chat.messages)
    assert chat.prompt("x" * 29)[1] == 1  # 29 + 3 control tokens + ROOM: just fits, alone
    for size, excess in ((30, "1 token"), (31, "2 tokens")):
        with pytest.raises(
            DataError,
            match=f"{size + 3} tokens.*needs 32.*holds 64; shorten the prompt by {excess}$",
        ):
            chat.say("x" * size)
    assert chat.messages == before


@pytest.mark.parametrize(
    "text, named",
    [
        ("", "message is empty"),
        (" \n", "message is empty"),
        ("a@b", "'@' .* position 1"),
        ("<|end|>", "'<'"),
    ],
)
def test_a_message_that_cannot_be_sent_is_refused_and_changes_nothing(text, named):
    chat = session(scripted("Aye."))
    with pytest.raises(DataError, match=named):
        chat.say(text)
    assert chat.messages == []


def test_a_control_token_that_the_model_wrote_never_becomes_a_turn():
    script = [*TOKENIZER.encode("Aye"), USER, *TOKENIZER.encode("Hi"), END]
    chat = session(Scripted(script, start=5))
    answer, reply, _ = chat.say("aa")
    assert answer == "Aye<|user|>Hi" and USER in reply.ids
    assert chat.messages[1]["content"] == "AyeHi"
    assert chat.prompt("bb")[0].tolist().count(USER) == 2


def test_a_reply_without_an_end_is_cut_at_its_length():
    document = answer_once(session(Scripted([39]), max_new=6), "Hi")
    assert (document["reply"], document["stop"], document["tokens"]) == ("aaaaaa", "length", 6)
    assert document["prompt"] == "Hi" and document["tokens_per_s"] > 0


def test_the_document_of_one_answer_has_the_reply_its_stop_and_its_tokens():
    document = answer_once(session(scripted("Aye.")), "Hi")
    assert (document["reply"], document["stop"], document["tokens"]) == ("Aye.", "end", 4)
