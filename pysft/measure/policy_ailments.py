"""What goes wrong in a stage of PPO, as rules over figures: the alarms of its iterations
(training/alarms.py), and what it is worth on prompts that it was never asked. diagnose.py has the
rules of fine-tuning, which hold for such a stage too.

At a checkpoint, and before a training has finished, only the alarms up to then are known."""

from pysft.console import command
from pysft.measure.ailments import LIMITS as OF_PAIRS
from pysft.measure.ailments import grown, grows_longer, less_in_format, loses_the_format
from pysft.measure.finding import Finding, Run
from pysft.training.alarms import SHRUNK
from pysft.training.kinds import PolicyTuning

# The limits of what is measured at the end. Those of the alarms are in training/alarms.py.
LIMITS = {
    "shorter": SHRUNK,  # of the parent's tokens
    "kl": PolicyTuning.kl_limit,  # nats a reply where the settings have no limit
    "win rate": OF_PAIRS["win rate"],  # by definition: that of a model that did not change
}


def alarms_of(log: list[dict]) -> list[dict]:
    """[{"alarm", "step", "text"}] of the rows of a log, as a report has them."""
    return [
        {"alarm": alarm, "step": row["step"], "text": text}
        for row in log
        for alarm, text in (row.get("alarms") or {}).items()
    ]


def _ppo(run: Run) -> dict:
    return run.figures["ppo"]


def _alarm(run: Run, name: str) -> str:
    """The sentence of an alarm with its iteration; "" if it did not come."""
    for a in _ppo(run).get("alarms") or []:
        if a["alarm"] == name:
            return f"{a['text']} (alarm at iteration {a['step']:,})"
    return ""


def _gentler(run: Run) -> str:
    lr, beta = map(run.flag, ("lr", "beta"))
    return f"raise beta ({beta}), or lower the rate ({lr})"


def _earlier(run: Run) -> str:
    return (
        f"take an earlier checkpoint ({command('select', run.run)}), or train for fewer iterations"
        f" ({run.flag('steps')})"
    )


def _lost(run: Run) -> bool:
    """True if the whole interval of the win rate is below one half."""
    high = _ppo(run).get("win_rate_high")
    return high is not None and high < LIMITS["win rate"]


def _rose(run: Run) -> bool:
    """True if the reward is higher than the parent's on prompts that it was never asked."""
    before, now = _ppo(run).get("proxy_before"), _ppo(run).get("proxy")
    return None not in (before, now) and now > before


def _won(run: Run) -> str:
    ppo = _ppo(run)
    low, high = ppo["win_rate_low"], ppo["win_rate_high"]
    return f"it wins {ppo['win_rate']:.1%} of the comparisons ({low:.1%} to {high:.1%})"


def _hacks_the_reward(run: Run) -> Finding | None:
    figure, ppo = _alarm(run, "reward hacking"), _ppo(run)
    if not figure and not (_lost(run) and _rose(run)):
        return None
    figure = figure or (
        f"the reward rose from {ppo['proxy_before']:.2f} to {ppo['proxy']:.2f}, but {_won(run)}"
        f" (limit: {LIMITS['win rate']:.0%} in the interval)"
    )
    return Finding(
        "hacks the reward",
        "its replies please the reward more, and are worth less",
        figure,
        "the reward is only a stand-in for what is wanted, and the policy has found where the two"
        f" part: too many iterations ({run.settings.get('steps', '?')}), or too cheap a KL (beta"
        f" {run.settings.get('beta', '?')})",
        f"{_earlier(run)}; {_gentler(run)}; or train a better reward model, on comparisons of the"
        " replies that this policy writes",
    )


def _goes_too_far(run: Run) -> Finding | None:
    figure, kl = _alarm(run, "kl"), _ppo(run).get("kl")
    limit = run.settings.get("kl_limit", LIMITS["kl"])
    if not figure and not (limit and kl is not None and kl > limit):
        return None
    figure = figure or (
        f"its replies are {kl:.1f} nats away from the parent (KL; limit: {limit:g})"
    )
    return Finding(
        "goes too far",
        "it has moved further from its parent than the reward can judge",
        figure,
        f"too high a learning rate ({run.rate}), or too low a beta"
        f" ({run.settings.get('beta', '?')})",
        f"{_gentler(run)}, let beta follow the KL ({run.flag('kl_target')}), or {_earlier(run)}",
    )


def _says_the_same(run: Run) -> Finding | None:
    if not (figure := _alarm(run, "same replies")):
        return None
    return Finding(
        "says the same",
        "different prompts get the same reply",
        figure,
        "one reply earns a good reward everywhere, or the rate is too high"
        f" ({run.rate}): the policy went where its first luck was",
        f"see which reply it is ({command('chat', run.run)}), and whether the reward should like"
        f" it; {_gentler(run)}; or {_earlier(run)}",
    )


def _no_longer_explores(run: Run) -> Finding | None:
    if not (figure := _alarm(run, "entropy")):
        return None
    return Finding(
        "no longer explores",
        "it is nearly certain of every token, so it tries little that is new",
        figure,
        "as a reward is learned, this comes by itself; if the reward no longer rises, the"
        f" iterations since then were for nothing, or the rate is too high ({run.rate})",
        f"if its replies are good, end there ({run.flag('steps')}); if not, {_gentler(run)}",
    )


def _grows_shorter(run: Run) -> Finding | None:
    figure = _alarm(run, "short replies")
    before, now = _ppo(run).get("length_before"), _ppo(run).get("length")
    if not figure and (not before or now is None or now >= LIMITS["shorter"] * before):
        return None
    return Finding(
        "grows shorter",
        "its replies have shrunk",
        figure
        or f"a reply has {now:.1f} tokens, the parent's have {before:.1f}"
        f" (limit: {LIMITS['shorter']:g} of them)",
        "the reward likes short replies, or punishes long ones: one that does not end gets the"
        f" score {run.settings.get('unfinished', '?')}, and each further token costs KL",
        f"leave more room for a reply ({run.flag('tokens')}), look at the reward of short replies,"
        f" or {_earlier(run)}",
    )


def _grows_longer(run: Run) -> Finding | None:
    if not (figure := grown(_ppo(run))):
        return None
    return grows_longer(
        figure,
        "the reward likes long replies: a reward model learns that from comparisons whose longer"
        " reply is mostly the better one",
        "compare the reward model with a rule that counts characters: 'eval RUN' of it shows both;"
        f" train it on replies of like length; or {_gentler(run)}",
    )


def _loses_the_format(run: Run) -> Finding | None:
    if not (figure := less_in_format(run)):
        return None
    return loses_the_format(
        figure,
        "a reply without its end has the score"
        f" {run.settings.get('unfinished', '?')}, or less, but only among the prompts that the"
        " policy is asked; of other prompts it forgets how a reply ends",
        f"{_gentler(run)}; or ask it prompts of other kinds too (--prompts FILE)",
    )


def _loses(run: Run) -> Finding | None:
    if not _lost(run) or _rose(run):
        return None
    return Finding(
        "loses against its parent",
        "its replies are worse than those of the model that it was tuned from",
        f"{_won(run)}, so it is worse with 95 % certainty (limit: {LIMITS['win rate']:.0%} in the"
        " interval)",
        "not even the reward rose: too high a learning rate"
        f" ({run.rate}) destroys more than it learns",
        f"lower the rate ({run.flag('lr')}), give an iteration more replies"
        f" ({run.flag('prompts')}), or {_earlier(run)}",
    )


def _gains_nothing(run: Run) -> Finding | None:
    low, high = _ppo(run).get("win_rate_low"), _ppo(run).get("win_rate_high")
    if low is None or high is None or not low <= LIMITS["win rate"] <= high:
        return None
    return Finding(
        "no better than its parent",
        "its replies cannot be told from those of the model that it was tuned from",
        f"{_won(run)}, and the interval has {LIMITS['win rate']:.0%} in it",
        f"too few iterations ({run.settings.get('steps', '?')}), too low a learning rate"
        f" ({run.rate}), a reward that says little about which reply is better, or a parent that"
        " never writes a better one",
        f"train for more iterations ({run.flag('steps')}), raise the rate ({run.flag('lr')}), or"
        f" let it write more replies to a prompt ({run.flag('replies')})",
    )


OF_PPO = [
    _hacks_the_reward,
    _goes_too_far,
    _says_the_same,
    _no_longer_explores,
    _grows_shorter,
    _grows_longer,
    _loses_the_format,
    _loses,
    _gains_nothing,
]
# Their figures in the document of a diagnosis.
SHOWN_OF_PPO = (
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "gold",
    "gold_before",
    "proxy",
    "proxy_before",
    "kl",
    "length",
    "length_before",
    "alarms",
)
