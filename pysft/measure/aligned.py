"""The sections of stages that learned from comparisons on the page of a run: a reward model, and a
model tuned on pairs by DPO. Each function takes the report of its stage."""

from pysft.measure.alignment import reward_rows
from pysft.measure.page import badge, heading, paragraph, table
from pysft.measure.wording import FIGURES, cell
from pysft.text.preference_audit import INSTRUCTGPT

SAMPLED = (
    "Replies are drawn at temperature 1, several to each held-out prompt, unless a row says greedy."
    " A win against the parent's reply to the same prompt counts 1, and a tie a half. The interval"
    " is that of 95 %, with all prompts about one person as one observation."
)
CALIBRATED = ("predicted", "accuracy")  # the columns that are alike in a calibrated model
CALIBRATION = (
    "The difference of two scores says how sure the reward model is: it predicts that the reply"
    " with the higher score is the better one with probability sigmoid(scale * difference), where"
    " scale is the number by which the scores were divided after the training. Where the two last"
    " columns are alike, it is calibrated."
)


def in_short(r: dict) -> list:
    """The result of a reward model in a sentence."""
    reward = r["reward"]
    return [
        paragraph(
            f"A reward model, which gives a reply a number: {r['params']:,} weights. It puts"
            f" {cell(reward['accuracy'], 'share')} of {reward['pairs']:,} held-out pairs in the"
            f" right order{_interval(reward, 'accuracy')}; the length of a reply alone"
            f" {cell(reward['length_accuracy'], 'share')}."
        )
    ]


def reward_model(r: dict) -> list:
    """The figures of a reward model, and how well its scores say how sure it is."""
    reward, (least, most) = r["reward"], INSTRUCTGPT
    rows = [[what.strip(), value] for what, value in reward_rows(reward)]
    rows.append(["two labelers of InstructGPT agreed", f"{least:.0%} to {most:.0%}"])
    rows += [
        [what, cell(r.get(name), form)]
        for name, what, form in (
            ("loss_start", "loss of its first step, nats a ranking", "loss"),
            ("loss", "loss: mean of the last 20 steps", "loss"),
            ("training_seconds", FIGURES["training_seconds"][0], "seconds"),
            ("params", FIGURES["params"][0], "count"),
        )
    ]
    parts = [table(["figure", "value"], rows, "lr")]
    if reward.get("by_margin"):
        bins = [
            [b["pairs"], cell(b["margin"], "loss"), *(cell(b[k], "share") for k in CALIBRATED)]
            for b in reward["by_margin"]
        ]
        headings = ["held-out pairs", "difference of scores, mean", "predicted right", "right"]
        parts += [heading("By the difference of the scores", 3), table(headings, bins, "rrrr")]
        parts.append(paragraph(CALIBRATION))
    return parts


def _interval(figures: dict, name: str) -> str:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    if low is None or high is None:
        return ""
    return f" ({cell(low, 'share')} to {cell(high, 'share')})"


def preference(r: dict) -> list:
    """What tuning on pairs changed."""
    dpo = r.get("dpo")
    if not dpo:
        return []
    rows = judged_rows(dpo)
    if dpo.get("accuracy") is not None:
        gained = f"{dpo['chosen_logp']:+.2f}, {dpo['rejected_logp']:+.2f}"
        rows += [
            [
                "held-out pairs whose better reply gained more",
                cell(dpo["accuracy"], "share") + _interval(dpo, "accuracy"),
            ],
            ["nats gained by the better and by the worse reply", gained],
        ]
    rows += moved_rows(dpo)
    return [table(["figure", "value"], rows, "lr"), paragraph(SAMPLED)]


def judged_rows(judged: dict) -> list[list[str]]:
    """The rows about who answers better, the model or its parent; [] without a judge who knows.
    judged: the figures of DPO or PPO in a report."""
    rows = []
    for how, some in (("at temperature 1", judged), ("greedy", judged.get("greedy") or {})):
        if some.get("win_rate") is not None:
            won = cell(some["win_rate"], "share") + _interval(some, "win_rate")
            gold = f"{some['gold_before']:.2f} \u2192 {some['gold']:.2f}"
            rows += [
                [f"win rate against its parent, {how}", won],
                [f"ties, {how}", cell(some["ties"], "share")],
                [f"points by the exact judge (0 to 3), {how}", gold],
            ]
    return rows


def moved_rows(judged: dict) -> list[list[str]]:
    """The rows about how far a model has moved from its parent. judged: as in judged_rows()."""
    kl = "\u2013" if judged.get("kl") is None else f"{judged['kl']:.2f} nats a reply"
    return [
        ["KL from its parent", kl],
        ["tokens of a reply", f"{judged['length_before']:.1f} \u2192 {judged['length']:.1f}"],
        ["prompts that were judged", cell(judged["prompts_judged"], "count")],
        ["replies to these in the right format", cell(judged["format_compliance"], "share")],
        ["different replies to these", cell(judged.get("distinct"), "share")],
    ]


def won(r: dict) -> list[list]:
    """The row of a model that was tuned on pairs or by a reward: whether it answers better than its
    parent. It is good if the whole interval of the win rate is above one half, and bad if all of it
    is below."""
    judged = r.get("dpo") or r.get("ppo") or {}
    rate, low, high = (judged.get(f"win_rate{end}") for end in ("", "_low", "_high"))
    if None in (rate, low, high):
        return []
    kind = "good" if low > 0.5 else "bad" if high < 0.5 else "partly"
    measured = f"{cell(rate, 'share')} ({cell(low, 'share')} to {cell(high, 'share')})"
    statement = "Its replies win against those of the model that it was tuned from"
    return [[statement, badge(kind, kind), measured, "all above 50%, not all below"]]
