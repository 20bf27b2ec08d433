"""What the lab's experiments are made of: figures read from records, the source's rule for a rate,
measurements of weights and gradients, data changed on purpose, and personas."""

import contextlib
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_lab import record_of, track_of

from pysft import IGNORE
from pysft.batch import Batch, Example, Output
from pysft.inference.generate import Reply
from pysft.lab import markers, personas
from pysft.lab.arm import Arm, judge, standard
from pysft.lab.experiments import EXPERIMENTS
from pysft.lab.experiments.arms import PLAIN, pairs_arm, plain
from pysft.lab.experiments.columns import (
    at,
    at_goal,
    finished,
    first_loss,
    first_row,
    is_falling,
    last,
    memorised,
    recalled,
    spikes,
)
from pysft.lab.experiments.data_content import slope
from pysft.lab.experiments.data_size import POOLS, since, turn
from pysft.lab.experiments.forgetting import least_of_loras
from pysft.lab.experiments.plain_run import fallen, learnt, matrices_moved, most_moved, recalls_at
from pysft.lab.experiments.rates import STARTS, ends, find_lr, judge_rate
from pysft.lab.measures import NEW, OLD, LossByKind, moved, user_share
from pysft.lab.personas import persona_of
from pysft.lab.variants import exchange, first_token_masked, noisy, without_end
from pysft.measure import evaluate
from pysft.measure.probe import Probe
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.text.corpora import shipped
from pysft.text.examples import prepare_sft_example
from pysft.text.formats import read_conversations
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training.objectives import Sft
from pysft.training.presets import PRESETS
from pysft.training.stages import finetune

CHAT_TOKENS = CharTokenizer(SHAKESPEARE, CHAT.tokens)
SPELLED_OUT = CharTokenizer(SHAKESPEARE + "<>|")
END = 67  # <|end|>
PAIRS = list(read_conversations(shipped("pairs40.jsonl")))


pytestmark = pytest.mark.usefixtures("small_lab")


# -------------------------------------------------------------------- figures read from a record


def test_a_figure_at_a_step_is_that_of_the_nearest_measurement():
    record = record_of(
        track=track_of(loss=[3.0, 2.0, None], recall=[0, 0.725, 0.3], recall_of=[40, 40, 40])
    )
    assert at("loss", 0)(record) == 3 and at("loss", 120)(record) == 2
    assert at("loss", 1000)(record) is None and last("loss")(record) is None
    assert last("none")(record) is None and recalled(record) == 12
    assert finished("x")(record) is None and finished("x")({"finish": {"x": 0.5}}) == 0.5
    assert recalled(record_of(track=track_of(recall=[None], recall_of=[0]))) is None


def test_the_first_row_is_the_first_measurement_that_reaches_a_level():
    rows = [{"step": s, "recall": r} for s, r in ((0, 0.0), (50, None), (100, 0.9), (200, 1.0))]
    record = record_of(track=rows)
    assert first_row(record, "recall", 0.9)["step"] == 100
    assert first_row(record, "recall", 1.1) is None


def test_the_goal_is_reached_with_36_of_40_pairs_recalled():
    record = record_of(track=track_of(recall=[0.5, 35 / 40, 36 / 40, 1], forgetting=[0, 1, 2, 3]))
    assert at_goal(record) == 2 and recalls_at(record) == record["track"][2]["step"]
    record = record_of(track=track_of(recall=[0.5, 35 / 40], forgetting=[0, 1]))
    assert at_goal(record) is None and recalls_at(record) is None


def test_the_memorised_share_counts_copies_near_copies_and_spliced_replies():
    found = {"verbatim": 1, "near copy": 2, "spliced": 1, "new": 3, "empty": 1}
    assert memorised(record_of(track=[{"origins": found}])) == 0.5
    assert memorised(record_of(track=[{}])) is None


def test_a_spike_is_well_above_the_twenty_steps_before_it():
    flat = [1.0] * 30
    assert spikes([1.0] * 100) == 0
    assert spikes([*flat, 1.31, *flat]) == 1 and spikes([*flat, 1.29, *flat]) == 0
    assert spikes([*flat, 2.0, 2.0, *flat]) == 2  # 2 > 1.3 * 1.05
    assert spikes([3.0 - i / 100 for i in range(200)]) == 0
    assert spikes([9.0] * 19) == spikes([]) == 0
    # The first twenty are compared with the first.
    assert spikes([1.0] * 5 + [9.0] + [1.0] * 14) == 1 and spikes([1.0, 1.2]) == 0
    # 0.1 nats at least.
    low = [0.01] * 30
    assert spikes([*low, 0.1, *low]) == 0 and spikes([*low, 0.12, *low]) == 1
    assert spikes([1.0] * 20 + [9.0]) == 1


def test_a_kind_of_token_is_learnt_once_the_mean_of_ten_losses_is_below_half_a_nat():
    record = {
        "by_kind": {"end": [4.0] * 30 + [0.0] * 30, "content": [4.0] * 60, "first": [None] * 60}
    }
    assert learnt(record, "end") == 39  # nine zeros and a four have a mean of 0.4
    assert learnt(record, "content") is None and learnt(record, "first") is None
    record = {"by_kind": {"end": [0.501] * 20, "content": [0.499] * 20}}
    assert learnt(record, "end") is None and learnt(record, "content") == 10


def test_the_share_of_the_fall_is_measured_at_a_step_of_the_thousand():
    record = record_of(losses=[4.0] + [1.0] * 199 + [0.0] * 800)
    assert fallen(record, 200) == 0.75 and fallen(record, 1000) == 1
    half_as_long = record_of(losses=record["losses"][::2])
    assert fallen(half_as_long, 200) == 0.75
    assert first_loss(record) == 4


def test_the_turn_is_the_lowest_held_out_loss_after_step_0_and_changes_count_from_it():
    record = record_of(
        track=track_of(
            heldout_loss=[1.0, 1.5, None, 2.5],
            recall=[0, 0.25, 0.5, 0.75],
            on_topic=[0.5, 0.4, 0.3, 0.1],
        )
    )
    assert turn(record) == 100
    assert since("heldout_loss")(record) == 1 and since("recall")(record) == 0.5
    assert since("on_topic")(record) == pytest.approx(-0.3)


def test_the_least_of_the_loras_reached_the_goal_and_has_no_replay():
    def arm(pairs, forgetting):  # a later measurement has forgotten more
        return record_of(
            track=track_of(
                recall=[0.0, pairs / 40, 1.0 if pairs >= 36 else 0.0],
                recall_of=[40] * 3,
                forgetting=[0.0, forgetting, 2 * forgetting],
            )
        )

    arms = {
        PLAIN: arm(40, 1.2),
        "LoRA rank 1": arm(35, 0.1),
        "LoRA rank 4": arm(36, 0.9),
        "LoRA rank 16": arm(40, 1.3),
        "LoRA rank 16 and replay": arm(40, 0.01),
    }
    assert least_of_loras(arms) == 0.9
    assert least_of_loras({k: arms[k] for k in (PLAIN, "LoRA rank 1")}) is None


def test_the_slope_compares_the_replies_lengths_with_the_datas():
    def arms(*lengths):
        return {
            f"replies (mean {wanted})": record_of(track=track_of(reply_length=[got]))
            for wanted, got in lengths
        }

    assert slope(arms((40, 41), (60, 61), (80, 81))) == pytest.approx(1)
    assert slope(arms((40, 50), (80, 50))) == pytest.approx(0, abs=1e-9)
    assert slope(arms((40, 40), (80, 60))) == pytest.approx(0.5)


def test_values_are_falling_if_none_is_equal_to_the_one_before_it():
    assert is_falling([3, 2, 1]) and not is_falling([3, 3, 1])


# ------------------------------------------------------------ the source's rule for finding a rate


def spiky(n):
    """The losses of 500 steps with n spikes, more than twenty steps apart."""
    curve = np.linspace(2, 0.2, 500)
    curve[100 : 100 + 36 * n : 36] *= 1.5  # none of them above 1.3 times the first
    return curve.tolist()


@pytest.mark.parametrize(
    "losses, diverged, expected",
    [
        (spiky(0), None, "right"),
        (spiky(10), None, "right"),
        (spiky(11), None, "jumpy"),
        (spiky(0)[:100], "step 101", "jumpy"),
        ([2.0, 2.61] + [0.1] * 498, None, "jumpy"),
        ([2.0, 2.59] + [0.1] * 498, None, "right"),
        ([2.0] * 480 + [1.61] * 20, None, "flat"),
        ([2.0] * 480 + [1.59] * 20, None, "right"),
        ([2.0] * 500, None, "flat"),
    ],
)
def test_a_rate_is_judged_jumpy_flat_or_right_by_its_loss_curve(losses, diverged, expected):
    assert judge_rate(record_of(losses=losses, diverged=diverged)) == expected


def tried(lab, answer):
    """The rates that the rule tries from each start. answer(rate, how many so far) gives the
    verdict on each."""
    curves = {
        "jumpy": record_of(losses=[1.0], diverged="step 2"),
        "flat": record_of(losses=[2.0] * 500),
        "right": record_of(losses=[2.0] * 250 + [0.1] * 250),
    }
    found, arms, record = {}, find_lr(lab, 1), None
    with contextlib.suppress(StopIteration):
        while True:
            arm = arms.send(record)
            assert arm.settings["steps"] == 500
            rates = found.setdefault(arm.name.split(":")[0], [])
            rates.append(arm.settings["lr"])
            record = curves[answer(arm.settings["lr"], len(rates))]
    return [found[start] for start, _ in STARTS]


def test_the_rule_stops_at_a_rate_that_is_right(lab):
    base = lab.settings("seed").stages["base"].lr
    assert tried(lab, lambda lr, n: "right") == [[base * factor] for _, factor in STARTS]
    assert STARTS[0][1] == 1 / 3


def test_the_rule_halves_a_jumpy_rate_and_doubles_a_flat_one_until_it_is_right(lab):
    base = lab.settings("seed").stages["base"].lr

    def answer(lr, n=0):
        return "flat" if lr < 2e-4 else "jumpy" if lr > 8e-4 else "right"

    for rates, (_, factor) in zip(tried(lab, answer), STARTS, strict=True):
        step = 2 if factor * base < 2e-4 else 0.5
        assert rates == [base * factor * step**i for i in range(len(rates))]
        assert answer(rates[-1]) == "right" and all(answer(lr) != "right" for lr in rates[:-1])


def test_the_rule_stops_before_it_repeats_a_rate_and_after_ten_rates(lab):
    a, b = 3e-4 / 3, 3e-4 / 3 * 2
    back_and_forth = tried(lab, lambda lr, n: "flat" if n % 2 else "jumpy")
    assert back_and_forth[0] == pytest.approx([a, b])
    assert [len(rates) for rates in tried(lab, lambda lr, n: "flat")] == [10, 10, 10]
    assert [len(rates) for rates in tried(lab, lambda lr, n: "jumpy")] == [10, 10, 10]


def test_the_rule_ends_at_the_last_try_from_each_start():
    assert ends({"low: 1": "a", "low: 2": "b", "high: 9": "c"}) == {"low": "b", "high": "c"}


# --------------------------------------------------------------------- weights, gradients, losses


def halving_model():
    """A model that gives the end token the probability 1/2 and each of the 67 others 1/134,
    whatever it reads."""
    model = GPT(GPTConfig(68, 64, 1, 2, 16), dtype=np.float64)
    model.params["lnf.b"][0] = 1
    model.params["head"][END, 0] = math.log(67)
    return model


def example_of(user, assistant):
    return Example(*map(np.int32, prepare_sft_example(user, assistant)))


def test_on_a_uniform_model_the_users_share_of_the_gradient_is_that_of_the_targets():
    # <|user|> a b <|end|> <|assistant|> c d e <|end|>: of the eight targets a, b, <|end|> and
    # <|assistant|> are the user's.
    example, model = example_of("ab", "cde"), GPT(GPTConfig(68, 64, 1, 2, 16))
    share = user_share(model, [example])
    assert share == {"user_targets": 0.5, "user_gradient": pytest.approx(0.5, rel=1e-6)}
    in_three_batches = user_share(model, [example] * 40)
    assert in_three_batches == pytest.approx(share, rel=1e-6)


def test_the_users_share_of_the_gradient_weighs_targets_by_one_minus_their_probability():
    share = user_share(halving_model(), [example_of("ab", "c")])
    end, other = 1 / 2, 1 - 1 / 134
    assert share["user_targets"] == pytest.approx(4 / 6)
    expected = (3 * other + end) / (4 * other + 2 * end)
    assert share["user_gradient"] == pytest.approx(expected, rel=1e-12)


def test_the_users_share_does_not_depend_on_the_arms_mask(lab):
    masked, unmasked = (
        lab.run(pairs_arm(lab, "x", (), settings={"grade": grade}), 1)["track"][0]
        for grade in ("all", "everything")
    )
    assert masked["user_gradient"] == unmasked["user_gradient"] > 0
    assert masked["user_targets"] == unmasked["user_targets"] > 0


def test_relative_changes_are_as_by_hand_with_old_and_new_rows_apart():
    start = {
        "wte": np.float32([[3, 4], [0, 0], [0, 2]]),
        "b": np.float32([0, 2]),
        "zero": np.float32([0, 0]),
    }
    params = {
        "wte": np.float32([[3, 4], [0, 1], [0, 5]]),
        "b": np.float32([0, 1]),
        "zero": np.float32([1, 1]),
    }
    apart = {f"wte, {OLD}": 0.2, f"wte, {NEW}": 1.5, "b": 0.5, "zero": None}
    assert moved(start, params, 2) == apart
    assert moved(start, params, 3)["wte"] == round(math.sqrt(10 / 29), 6)  # no row is new


def test_the_median_is_of_matrices_and_the_largest_change_also_of_old_rows():
    changes = {
        "h0.fc.w": 0.1,
        "h1.fc.w": 0.3,
        "h0.qkv.w": 0.2,
        "h0.fc.b": 8.0,
        "wpe": None,
        f"wte, {OLD}": 0.4,
        f"wte, {NEW}": 9.0,
    }
    assert matrices_moved({"moved": changes}) == 0.2
    assert most_moved({"moved": changes}) == 0.4


def test_the_losses_by_kind_weighted_by_their_counts_give_the_loss(lab):
    record = lab.run(replace(plain(lab), at=()), 1)
    settings = replace(lab.settings("seed"), seed=1)
    examples = [standard(c, lab.chat, settings) for c in lab.pairs]
    plan = finetune(settings, "sft", [], examples, lab.tokenizer.encode(lab.train_text), 68)
    assert {kind: len(curve) for kind, curve in record["by_kind"].items()} == {
        "first": 10,
        "content": 10,
        "end": 10,
    }
    for step, loss in enumerate(record["losses"]):
        (batch,) = plan.draw(step)
        graded, replies = int((batch.labels != IGNORE).sum()), len(batch.weight)
        counts = {"first": replies, "end": replies, "content": graded - 2 * replies}
        mean = sum(n * record["by_kind"][kind][step] for kind, n in counts.items()) / graded
        assert mean == pytest.approx(loss, abs=2e-5)  # all are rounded to five places


def test_a_kind_without_tokens_counts_nothing_and_the_objective_is_unchanged():
    objective = LossByKind(Sft(), END)
    batch = Batch.of([Example(np.int32([1, 2, 3]), np.int32([IGNORE, 2, 3]))], 68, 8)
    out = Output(np.float32([0, 1, 3]))
    loss, dnll, dvalue, figures = objective(batch, out, objective.counts(batch))
    assert figures == {"conversation": (4, 2), "first": (1, 1), "content": (3, 1), "end": (0, 0)}
    assert loss == 2 and dnll.tolist() == [0, 0.5, 0.5] and dvalue is None
    assert objective.counts(batch) == Sft().counts(batch) == {"graded": 2}


# ------------------------------------------------------------------------------ masks and markers


def test_the_first_token_is_masked_as_in_the_source_texts_code():
    for c in PAIRS:
        e = first_token_masked(c, CHAT_TOKENS, PRESETS["seed"])
        source = prepare_sft_example(c.prompt, c.replies()[0], off_by_one=True)
        assert (e.input_ids.tolist(), e.labels.tolist()) == source


def test_a_conversation_without_its_end_lacks_that_row_and_others_are_unchanged():
    encode = without_end(frozenset({3, 40}))
    for c in PAIRS:
        e = encode(c, CHAT_TOKENS, PRESETS["seed"])
        whole = standard(c, CHAT_TOKENS, PRESETS["seed"])
        rows = len(whole.labels) - (c.line in (3, 40))
        assert e.input_ids.tolist() == whole.input_ids.tolist()[:rows]
        assert e.labels.tolist() == whole.labels.tolist()[:rows]
        assert (e.labels == END).sum() == (c.line not in (3, 40)) and whole.labels[-1] == END


def test_spelled_markers_are_their_names_and_the_reply_and_its_spelled_end_are_graded():
    for c in PAIRS:
        e, reply = markers.spelled(c, SPELLED_OUT, None), c.replies()[0]
        text = SPELLED_OUT.decode(np.append(e.input_ids, e.labels[-1:]))
        assert text == f"<|user|>{c.prompt}<|end|><|assistant|>{reply}<|end|>"
        graded = e.labels != IGNORE
        assert SPELLED_OUT.decode(e.labels[graded]) == reply + "<|end|>"
        assert (e.labels[:-1][graded[:-1]] == e.input_ids[1:][graded[:-1]]).all()


def ids_of(tokenizer, text):
    """The ids of a text; a marker's name is one id if the vocabulary has it."""
    special = tokenizer.special
    pieces = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
    return np.concatenate(
        [np.int32([special[p]]) if p in special else tokenizer.encode(p) for p in pieces]
    )


def test_all_ways_of_judging_agree_on_the_same_replies(monkeypatch):
    pairs = [  # (prompt, the right reply, what the model writes)
        ("Say yes", "Yes, my lord.", "Yes, my lord.<|end|>"),
        ("Say no", "No, my lord.", "No, my lord"),
        ("Say rose", "A rose.", "A nose.<|end|>"),
        ("Say bee", "A bee.", "A bee.<|end|>"),
        ("Say bow", "A bow.", "A bow."),
    ]
    unseen = {
        "Be": "Aye.<|end|>",
        "Do": " <|end|>",
        "Go": "Aye <|user|>And thou?<|end|>",
        "Sit": "Nay nay nay",
    }
    written = {p: reply for p, _, reply in pairs} | unseen
    probe = Probe(
        "To be, or not to be, that is the question.",
        [[p, right] for p, right, _ in pairs],
        [{"prompt": p, "domain": "in"} for p in unseen],
        [],
        ["aye"],
        [],
    )
    arm = Arm("made up", "seed", probe, pairs=tuple(exchange(p, right) for p, right, _ in pairs))
    found = []
    for judged, tokenizer in (
        (judge, CHAT_TOKENS),
        (markers.judge_tokens, CHAT_TOKENS),
        (markers.judge_spelled, SPELLED_OUT),
    ):

        def pretend(model, prompts, most, stop=None, *_, **more):
            for prompt in map(tokenizer.decode, prompts):
                text = written[prompt.removeprefix("<|user|>").removesuffix("<|end|><|assistant|>")]
                stops = text.endswith("<|end|>") and stop is not None
                ids = ids_of(tokenizer, text.removesuffix("<|end|>") if stops else text)
                yield Reply(ids, "end" if stops else "length")

        monkeypatch.setattr(evaluate, "generate", pretend)
        monkeypatch.setattr(markers, "generate", pretend)
        found.append(judged(GPT(GPTConfig(68, 128, 1, 2, 16)), tokenizer, arm))
    expected = {"recall": 2 / 5, "recall_of": 5, "stopped": 3 / 5, "format_compliance": 1 / 4}
    for shown, replies in found:
        assert {k: shown[k] for k in expected} == expected
        assert shown["tuned_base_loss"] == pytest.approx(math.log(68), rel=1e-6)
        assert [row[0] for row in replies["pairs"]] == [p for p, _, _ in pairs]
    (_, _), (tokens, replies), (spelled, spelled_replies) = found
    for shown in (tokens, spelled):
        assert shown["reply_loss"] == pytest.approx(math.log(68), rel=1e-6)
    more = len("<|user|><|end|><|assistant|><|end|>") - 4
    assert spelled["tokens"] - tokens["tokens"] == pytest.approx(more)
    assert replies == spelled_replies


@pytest.mark.parametrize(
    "judged, tokenizer",
    [(markers.judge_tokens, CHAT_TOKENS), (markers.judge_spelled, SPELLED_OUT)],
)
def test_the_loss_on_a_reply_leaves_out_its_end_of_one_token_or_seven(
    judged, tokenizer, monkeypatch
):
    prompts = [{"prompt": "Be", "domain": "in"}]
    probe = Probe("To be, or not to be.", [["Say yes", "Yes."]], prompts, [], [], [])

    def pretend(model, prompts, *_):
        return [Reply(np.int32([]), "length")] * len(prompts)

    monkeypatch.setattr(markers, "generate", pretend)
    # The likely symbol is the last one: <|end|>, or the | in its name.
    pairs = exchange("Say yes", "Yes."), exchange("Say", "No, no, no.")
    shown, _ = judged(halving_model(), tokenizer, Arm("made up", "seed", probe, pairs=pairs))
    assert shown["reply_loss"] == pytest.approx(math.log(134), rel=1e-12)


# ------------------------------------------------------------------------- data of the experiments


def key_of(c):
    return c.prompt, c.replies()[0]


def test_noise_is_a_fifth_wrong_three_twentieths_cut_and_as_many_repeated():
    clean = [
        exchange(f"Question {a}{b}", f"{a} {b} {a} one two three four {b}", i + 1)
        for i, (a, b) in enumerate((a, b) for a in "abcdefghij" for b in "klmnopqrst")
    ]
    every, good = noisy(clean, 60, 1)
    assert len(every) == 60 and len(good) == 30 and every[:30] == good
    originals, kept = dict(map(key_of, clean)), set(map(key_of, good))
    assert all(originals[p] == r for p, r in kept) and len(kept) == 30
    kinds = Counter()
    for prompt, reply in map(key_of, every[30:]):
        right = originals[prompt]
        if reply == right:
            kinds["repeated"] += (prompt, reply) in kept
        elif right.startswith(reply + " "):
            kinds["cut"] += 1
            assert 0.25 * 8 - 1 <= len(reply.split()) <= 0.75 * 8
        else:
            kinds["wrong"] += reply in {r for _, r in kept} and prompt not in {p for p, _ in kept}
    assert kinds == {"wrong": 12, "cut": 9, "repeated": 9}
    assert noisy(clean, 60, 1) == (every, good) and noisy(clean, 60, 2) != (every, good)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bad_rows_of_the_shipped_data_hold_no_good_row_but_the_repeats(lab, seed):
    single = [c for c in lab.conversations if len(c.messages) == 2]
    originals = set(map(key_of, single))
    for n in POOLS:
        every, good = noisy(single, n, seed)
        assert len(every) == n and len(good) == n // 2 and every[: len(good)] == good
        rest, filtered = Counter(map(key_of, every[len(good) :])), set(map(key_of, good))
        repeats = sum(count for row, count in rest.items() if row in filtered)
        assert repeats == n - n // 2 - n // 5 - 3 * n // 20
        assert sum(count for row, count in rest.items() if row in originals) == repeats


def test_no_arm_trains_on_what_is_held_out(lab):
    assert lab.heldout
    for name in ("data-size", "data-scaling", "diversity", "length"):
        for arm in EXPERIMENTS[name].arms(lab, 1):
            talks = [[m["content"] for m in c.messages] for c in arm.conversations]
            heldout = [[m["content"] for m in messages] for messages in arm.probe.heldout]
            asked = {
                m["content"] for c in arm.conversations for m in c.messages if m["role"] == "user"
            }
            assert heldout and not any(messages in talks for messages in heldout)
            assert not asked & {p["prompt"] for p in arm.probe.prompts}
            assert len(arm.probe.pairs) <= 40 and {p for p, _ in arm.probe.pairs} <= asked


def test_a_probe_asks_no_prompt_that_is_trained_on_as_unseen(lab):
    prompts = [p["prompt"] for p in lab.probe((), (), 256).prompts]
    trained = [exchange(prompts[2], "Aye."), exchange("Hi", "Ho.")]
    probe = lab.probe(trained, trained[1:], 256)
    assert [p["prompt"] for p in probe.prompts] == prompts[:2] + prompts[3:]
    assert probe.pairs == [["Hi", "Ho."]] and probe.training_replies == ["Aye.", "Ho."]
    assert {"aye", "hi", "ho"} <= set(probe.known_words)
    assert probe.heldout_text == lab.text[len(lab.train_text) :] and len(probe.heldout) == 4


def test_a_probes_held_out_conversations_fit_the_context(lab):
    for messages in lab.probe((), (), 80).heldout:
        assert len(CHAT_TOKENS.encode("".join(m["content"] for m in messages))) + 3 <= 80


def test_sizes_are_nested_and_each_seed_has_arms_of_the_same_names(lab):
    arms = list(EXPERIMENTS["data-size"].arms(lab, 1))
    for smaller, larger in zip(arms, arms[1:]):
        assert larger.conversations[: len(smaller.conversations)] == smaller.conversations
    for name in (
        "data-size",
        "data-scaling",
        "diversity",
        "length",
        "contradiction",
        "missing-end",
        *(name for name, e in EXPERIMENTS.items() if e.on_world),
    ):
        one, two = ([arm.name for arm in EXPERIMENTS[name].arms(lab, seed)] for seed in (1, 2))
        assert one == two and len(set(one)) == len(one)


# --------------------------------------------------------------------------------------- personas


@pytest.mark.parametrize(
    "text, persona",
    [
        (personas.PLAYER, "player"),
        (personas.CLERK, "clerk"),
        ("", "neither"),
        ("I am thy friend.", "neither"),
        ("Verse is mine.", "neither"),  # capitals count
        ("I am a poet, made to answer every question.", "player"),
        ("I am a helpful clerk of the old stage.", "neither"),
        ("I am a helpful poet.", "neither"),
        ("I am a poet of the old stage, made to", "player"),
        ("I am helpful.", "clerk"),
    ],
)
def test_a_reply_has_one_persona_or_neither(text, persona):
    assert persona_of(text) == persona


def test_personas_are_counted_over_draws_and_questions(monkeypatch):
    seeds = []

    def pretend(model, prompts, most, stop, sampling):
        assert sampling.temperature == 1 and stop == END and len(prompts) == 20
        seeds.append(sampling.seed)
        other = personas.CLERK if len(seeds) % 2 else "Hm."
        texts = [personas.PLAYER] * 10 + [other] * 10
        return [Reply(CHAT_TOKENS.encode(text), "end") for text in texts]

    monkeypatch.setattr(personas, "generate", pretend)
    expected = {"player": 0.5, "clerk": 0.25, "neither": 0.25, "both": 0.5}
    assert personas.personas(None, CHAT_TOKENS, None, 3) == expected
    # The seed of a trial and the number of a question give the seed of its draws: a record that is
    # made again has the same ones.
    assert seeds == [3000 + i for i in range(12)] and len(personas.IDENTITY) == 12


def test_every_text_of_the_experiments_can_be_written_with_the_65_characters():
    texts = [personas.PLAYER, personas.CLERK, *personas.IDENTITY]
    assert not [text for text in texts if CHAT_TOKENS.unknown(text)]
