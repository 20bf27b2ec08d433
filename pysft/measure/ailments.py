"""What goes wrong in stages that learn from comparisons, as rules over figures: DPO and the reward
model. diagnose.py has the rules of fine-tuning, which hold for a stage tuned on pairs too."""

from pysft.console import command
from pysft.measure.alignment import LEAST
from pysft.measure.finding import Finding, Run

# The limits, and where each comes from. "Pilot" is a series of DPO and policy-gradient trainings of
# the tiny model, in which the exact points of the replies were known.
LIMITS = {
    # The pilot's DPO gained at 3 nats below the parent, and lost at 16 and at 50 to 60.
    "displaced": 10.0,  # nats that a chosen reply may lose
    # Nothing measured. A reply half as long again is one that a reader notices.
    "longer": 1.5,  # times as many tokens as the parent's replies
    # As much as diagnose.CLEAN allows of stray control tokens.
    "format": 0.05,  # share of replies to unseen prompts by which format compliance may fall
    # The pilot's policy gradient gained at about 10 nats, and wrote one sentence for all at 22.
    "kl": 10.0,  # nats a reply
    # By definition: half of the comparisons are won by a model that did not change.
    "win rate": 0.5,
    # The pilot's DPO at a high rate had 0.9 to 1 within 100 steps, while its points halved.
    "accuracy": 0.9,  # share of the training pairs in the right order
    # alignment.LEAST: what `reward --gate` asks for.
    "order": LEAST,  # share of held-out pairs in the right order
}


def _dpo(run: Run) -> dict:
    return run.figures["dpo"]


def _gentler(run: Run) -> str:
    lr, beta, nll = map(run.flag, ("lr", "beta", "nll"))
    return f"lower the rate ({lr}), raise beta ({beta}), or the chosen replies' own nll ({nll})"


def _displaces(run: Run) -> Finding | None:
    gained = run.logged.get("chosen_logp")
    if gained is None or gained >= -LIMITS["displaced"]:
        return None
    return Finding(
        "pushes the chosen replies away",
        "the replies that it should prefer become less likely, and those that take their place are"
        " in no data",
        f"a chosen reply is {-gained:.1f} nats less likely than under the parent, at the end of"
        f" training (limit: {LIMITS['displaced']:g})",
        "the loss sees only the difference of both replies, which also grows if both fall; the"
        f" learning rate ({run.rate}) is too high, or the two replies are too alike",
        _gentler(run),
    )


def grown(figures: dict) -> str:
    """What shows that replies have grown, from the figures of a tuned model beside its parent; ""
    if they have not."""
    before, now = figures.get("length_before"), figures.get("length")
    if not before or now is None or now <= LIMITS["longer"] * before:
        return ""
    return (
        f"a reply has {now:.1f} tokens, the parent's have {before:.1f}"
        f" (limit: {LIMITS['longer']:g} times as many)"
    )


def grows_longer(figure: str, cause: str, fix: str) -> Finding:
    what = "its replies have more words, and not more to say"
    return Finding("grows longer", what, figure, cause, fix)


def _grows_longer(run: Run) -> Finding | None:
    if not (figure := grown(_dpo(run))):
        return None
    return grows_longer(
        figure,
        "whoever put the replies in order likes long ones, or the sum over a long reply's tokens"
        " gives it the larger difference",
        "see how often the longer reply is the better one in the data"
        f" ({command('audit', run.file)}), leave out pairs that differ in length alone, or take the"
        " mean over tokens instead of the sum"
        f" ({run.flag('kind').replace('...', 'ipo')})",
    )


def less_in_format(run: Run) -> str:
    """What shows that fewer replies to unseen prompts have the right format than the parent's; ""
    if that is not so."""
    before = (run.get("parent") or {}).get("format_compliance")
    now = run.get("format_compliance")
    if before is None or now is None or before - now <= LIMITS["format"]:
        return ""
    return (
        f"{now:.1%} of the replies to unseen prompts have the right format, the parent's had"
        f" {before:.1%} (limit: {100 * LIMITS['format']:g} percentage points less)"
    )


def loses_the_format(figure: str, cause: str, fix: str) -> Finding:
    what = "replies no longer end, or hold what may not stand in them"
    return Finding("loses the format", what, figure, cause, fix)


def _loses_the_format(run: Run) -> Finding | None:
    if not (figure := less_in_format(run)):
        return None
    return loses_the_format(
        figure,
        "the end token is a token of the reply like others: where rejected replies end early, and"
        " chosen ones late, ending becomes less likely",
        f"{_gentler(run)}; and leave replies that were cut off out of the pairs",
    )


def _goes_too_far(run: Run) -> Finding | None:
    kl = _dpo(run).get("kl")
    if kl is None or kl <= LIMITS["kl"]:
        return None
    return Finding(
        "goes too far",
        "it has moved further from its parent than the comparisons can judge",
        f"its replies are {kl:.1f} nats away from the parent (KL; limit: {LIMITS['kl']:g})",
        f"too many steps ({run.settings.get('steps', '?')}), too high a learning rate ({run.rate})"
        f" or too low a beta ({run.settings.get('beta', '?')})",
        f"raise beta ({run.flag('beta')}), or take an earlier checkpoint:"
        f" {command('select', run.run)}",
    )


def _loses(run: Run) -> Finding | None:
    rate, high = _dpo(run).get("win_rate"), _dpo(run).get("win_rate_high")
    if rate is None or high is None or high >= LIMITS["win rate"]:
        return None
    return Finding(
        "loses against its parent",
        "its replies are worse than those of the model that it was tuned from",
        f"it wins {rate:.1%} of the comparisons, with 95 % certainty under {high:.1%}"
        f" (limit: {LIMITS['win rate']:.0%})",
        "the comparisons teach something else than the judge asks for, or the training went too far"
        f" ({run.settings.get('steps', '?')} steps, learning rate {run.rate})",
        f"{_gentler(run)}; or find the step where it still won: {command('select', run.run)}",
    )


def _learns_the_pairs_alone(run: Run) -> Finding | None:
    right, gold, before = (
        run.logged.get("accuracy"),
        _dpo(run).get("gold"),
        _dpo(run).get("gold_before"),
    )
    if None in (right, gold, before) or right < LIMITS["accuracy"] or gold >= before:
        return None
    return Finding(
        "good on its pairs only",
        "it orders the pairs that it was trained on, and its own replies become worse",
        f"{right:.0%} of the training pairs are in the right order (limit: {LIMITS['accuracy']:.0%}"
        f" while the judge's points fall), and the points fell from {before:.2f} to {gold:.2f}",
        "to tell two given replies apart is easier than to write a better one: accuracy on pairs"
        " says nothing about what the model writes",
        "stop by the win rate and not by the accuracy; rank more, and fresh, replies of the model"
        f" itself (--replies, --rounds), and {_gentler(run)}",
    )


def _no_better_than_length(run: Run) -> Finding | None:
    reward = run.figures["reward"]
    low, length = reward.get("accuracy_low"), reward.get("length_accuracy")
    if low is None or length is None or length < LIMITS["order"] or low > length:
        return None
    return Finding(
        "no better than length",
        "a rule that counts the characters of a reply orders replies as well",
        f"{reward['accuracy']:.1%} of the held-out pairs are in the right order, with 95 %"
        f" certainty over {low:.1%}; by the length alone {length:.1%} are (limit: that share)",
        "the rankings follow length, because their labelers like long replies or because good"
        " replies happen to be long",
        "rank replies of like length, ask labelers who judge what a reply says, or add rankings"
        f" ({_many(reward)} so far): --rounds, --replies, or more files",
    )


def _no_better_than_chance(run: Run) -> Finding | None:
    reward = run.figures["reward"]
    low, length = reward.get("accuracy_low"), reward.get("length_accuracy") or 0.0
    if low is None or low > LIMITS["order"] or length >= LIMITS["order"]:
        return None
    return Finding(
        "hardly better than chance",
        "its scores say little about which reply is better",
        f"{reward['accuracy']:.1%} of the held-out pairs are in the right order, with 95 %"
        f" certainty over {low:.1%} (limit: {LIMITS['order']:.0%})",
        f"too few rankings ({_many(reward)}), labelers who disagree"
        f" (they agree in {_agreed(reward)}), or a difference that so small a model cannot see",
        "rank more replies (--rounds, --replies, or more files), or begin from a model that can"
        " answer what is asked",
    )


def _many(reward: dict) -> str:
    return f"{reward['rankings']:,}" if "rankings" in reward else "an unknown number"


def _agreed(reward: dict) -> str:
    share = reward.get("labeler_agreement")
    return "nothing that two ranked" if share is None else f"{share:.0%}"


OF_DPO = [
    _displaces,
    _grows_longer,
    _loses_the_format,
    _goes_too_far,
    _loses,
    _learns_the_pairs_alone,
]
OF_REWARD = [_no_better_than_length, _no_better_than_chance]

# Their figures in the document of a diagnosis.
SHOWN_OF_REWARD = (
    "pairs",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "length_accuracy",
    "labeler_agreement",
)
SHOWN_OF_DPO = (
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "gold",
    "gold_before",
    "kl",
    "length",
    "length_before",
)
