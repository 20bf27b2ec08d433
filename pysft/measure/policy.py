"""The sections of a stage of PPO on the page of a run: what it reached, its alarms, and its curves
by iteration."""

from pysft.measure import figures
from pysft.measure.aligned import SAMPLED, judged_rows, moved_rows
from pysft.measure.curves import ROWS, checkpoints_by, grouped, means_of
from pysft.measure.figures import Series
from pysft.measure.page import details, figure, heading, paragraph, stack, table
from pysft.measure.raters import WORLD
from pysft.measure.wording import cell

PROXY = (
    "The reward, or proxy, is the number that the training was given for a reply; the gold points"
    " (0 to 3) are those of the exact judge, who knows what is true."
)
SAME = " Here the exact judge gave the reward, so a reply that ended has the same number of both."
NO_GOLD = " Nobody knows what is true here, so there are no gold points."
ASKED = (
    "The judged prompts are of the same kind as those that the training asks, whose replies"
    " \u201cin format\u201d each iteration counts. \u201cFormat\u201d and \u201cformat"
    " compliance\u201d elsewhere on this page are about other prompts: a list of this program, on"
    " everyday subjects."
)
ALARM = (
    "An alarm says that the last 10 iterations differ from the first 10, or from the best 10, as"
    " they do when a training goes wrong, or that their KL is above its limit. It comes once, at"
    " the iteration at which it was first seen. The training went on, unless on_alarm ="
    " \u201cstop\u201d was set."
)
# Name of an alarm -> what it means for somebody who has never seen one.
MEANINGS = {
    "kl": "The policy is further from the model that it began from than the limit, kl_limit.",
    "reward hacking": "The policy has found replies that please the reward and are worth less:"
    " do not believe the reward from here on.",
    "short replies": "Replies have shrunk to half of their length.",
    "entropy": "The policy is nearly certain of every token. It tries little that is new, so it can"
    " learn little more.",
    "same replies": "The policy says the same, whatever it is asked.",
}
# The curves that are shown: (title, what y is, {figure of the log: its label}).
REWARD = ("Reward (proxy) by iteration", "mean of a reply", {"reward": "reward"})
GOLD = ("Gold by iteration", "points of a reply, mean", {"gold": "gold"})
BOTH = ("Reward and gold by iteration", "points of a reply, mean", REWARD[2] | GOLD[2])
SHOWN = (
    ("KL from the model that it began from, by iteration", "nats per reply", {"kl": "KL"}),
    ("Length by iteration", "tokens of a reply, mean", {"length": "length"}),
    ("Entropy by iteration", "nats per token, mean", {"entropy": "entropy"}),
    (
        "Replies by iteration",
        "share",
        {"distinct": "different replies", "compliance": "in format", "ended": "ended"},
    ),
)
# Those that are folded away.
FOLDED = (
    ("Words of the replies", "share", {"real_words": "real", "distinct_words": "different"}),
    ("KL and its estimates", "nats per reply", {"kl": "exact", "kl_k1": "k1", "kl_k3": "k3"}),
    (
        "How far the updates of an iteration go",
        "",
        {"clipped": "share of ratios outside the clip", "kl_old": "KL in an iteration, nats"},
    ),
    (
        "The critic",
        "",
        {"value_loss": "its loss", "explained": "share of the returns' variance it explains"},
    ),
    ("Loss of the base text beside the replies", "nats per graded token", {"base": "base text"}),
    ("Price of KL", "", {"beta": "beta"}),
)
LOSSES = {
    "sft_loss": "trained, replies and base text",
    "heldout_loss": "held out",
    "tuned_base_loss": "base text",
}
LOSSES_NOTE = "The loss that is trained, a mean over updates; on held-out conversations"
POINTS = 60  # maximum points of a curve: single iterations differ much, and hide where it goes
COLUMNS = {  # of the table of iterations: figure -> heading
    "reward": "reward",
    "gold": "gold",
    "kl": "KL",
    "length": "length",
    "entropy": "entropy",
    "distinct": "different",
    "compliance": "in format",
}


def reached(r: dict, run: dict | None = None, log: list[dict] | None = None) -> list:
    """What training by a reward changed, and its alarms. r: the report of its stage. run: run.json,
    which says how many iterations were asked for. log: of the stage, with the skipped ones."""
    ppo = r.get("ppo")
    if not ppo:
        return []
    has_gold = ppo.get("win_rate") is not None
    is_gold = ppo.get("reward") == WORLD
    rows = judged_rows(ppo)
    if ppo.get("proxy") is not None:
        change = f"{cell(ppo['proxy_before'], 'points')} \u2192 {cell(ppo['proxy'], 'points')}"
        rows.append(["reward (proxy) of the same replies, at temperature 1", change])
    rows += [
        *moved_rows(ppo),
        ["iterations", _iterations(ppo, r.get("stage", "ppo"), run, log)],
        ["prompts that were asked in training", cell(ppo.get("prompts"), "count")],
        ["who gave the reward", _who(ppo.get("reward"))],
        ["ratio of each token before the first update of an iteration", _exact(ppo)],
    ]
    return [
        paragraph(PROXY + (SAME if is_gold else "" if has_gold else NO_GOLD)),
        table(["figure", "value"], rows, "lr"),
        paragraph(SAMPLED if has_gold else SAMPLED.partition(" A win")[0]),
        paragraph(ASKED),
        heading("Alarms", 3),
        paragraph(ALARM),
        *_alarms(ppo.get("alarms") or []),
    ]


def _alarms(alarms: list[dict]) -> list:
    if not alarms:
        return [paragraph("There was none.")]
    rows = [[a["step"], a["alarm"], stack(a["text"], MEANINGS.get(a["alarm"], ""))] for a in alarms]
    return [table(["iteration", "alarm", "what was seen, and what it means"], rows, "rll")]


def _iterations(ppo: dict, stage: str, run: dict | None, log: list[dict] | None) -> str:
    """How many iterations there were, with those that were skipped, which a report leaves out."""
    trained = ppo["iterations"]
    done = max(trained, log[-1]["step"] if log else 0)
    settings = (run or {}).get("settings", {}).get(stage) or {}
    asked, said = settings.get("steps"), cell(done, "count")
    is_to_stop = bool(ppo.get("alarms")) and settings.get("on_alarm") == "stop"
    if is_to_stop and isinstance(asked, int) and done < asked:
        said += f" of {cell(asked, 'count')}, where an alarm ended the training"
    return said + (f" ({cell(done - trained, 'count')} skipped)" if done > trained else "")


def _who(reward: str | None) -> str:
    return "the exact judge" if reward == WORLD else reward or "\u2013"


def _exact(ppo: dict) -> str:
    exact = ppo.get("ratio_first_exact")
    if exact is None:
        return "\u2013"
    return "exactly 1, as it must be" if exact else "not exactly 1, which is a fault of the program"


def iterations(rows: list[dict], r: dict | None = None) -> list:
    """The parts that show the log of a stage of PPO: curves with a mark at each alarm, and folded
    away the figures of its updates. Without matplotlib the table alone. r: its report."""
    skipped = sum(bool(row.get("skipped")) for row in rows)
    rows = [row for row in rows if not row.get("skipped")]
    if not rows:
        return [paragraph(f"All {skipped:,} iterations were skipped: an update was not finite.")]
    seconds, tokens = (sum(row[name] for row in rows) for name in ("seconds", "tokens"))
    text = f"{len(rows):,} iterations, {tokens:,} tokens trained on, {seconds:,.1f} seconds."
    if skipped:
        text += f" {skipped:,} more were skipped: an update was not finite."
    numbers = [paragraph(means_of("row", rows, ROWS, "iteration")), _table(rows)]
    if not figures.available():
        return [paragraph(text), *numbers]
    is_gold = ((r or {}).get("ppo") or {}).get("reward") == WORLD
    shown = [*((BOTH,) if is_gold else (REWARD, GOLD)), *SHOWN]
    marks = [(row["step"], name) for row in rows for name in row.get("alarms") or {}]
    return [
        paragraph(text + (" A thin line marks an alarm." if marks else "")),
        *_charts(rows, shown, marks),
        details("The numbers", numbers),
        details("The updates, the critic, gradient norm and rate", _charts(rows, FOLDED, marks)),
    ]


def _charts(rows: list[dict], charts, marks: list) -> list:
    """The charts of the figures that the log has."""
    names = list(dict.fromkeys(name for *_, labels in charts for name in labels))
    points = grouped(rows, POINTS, *(f"figures/{name}" for name in names), "norm", "lr")
    steps, *columns, norm, rate = map(list, zip(*points))
    note = means_of("point", rows, POINTS, "iteration")
    found = {n: column for n, column in zip(names, columns) if any(x is not None for x in column)}

    def drawn(title, y_label, lines, log_y=False):
        lines = [Series(label, steps, [column]) for label, column in lines]
        more = {"marks": marks, "log_y": log_y}
        return figure(figures.curves(title, lines, "iteration", y_label, **more), note)

    made = [
        drawn(title, y, [(label, found[n]) for n, label in labels.items() if n in found])
        for title, y, labels in charts
        if found.keys() & labels.keys()
    ]
    if charts is FOLDED:
        made.append(drawn("Gradient norm", "", [("gradient norm", norm)], log_y=True))
        made.append(drawn("Learning rate", "", [("learning rate", rate)]))
    return made


def _table(rows: list[dict]) -> str:
    shares = ("distinct", "compliance")
    has = {name for row in rows for name in row["figures"]}
    names = [name for name in COLUMNS if name in has]
    cells = [
        [step, *(cell(x, "share" if n in shares else "loss") for n, x in zip(names, values)), norm]
        for step, *values, norm in grouped(rows, ROWS, *(f"figures/{n}" for n in names), "norm")
    ]
    headings = ["iteration", *(COLUMNS[name] for name in names), "gradient norm"]
    return table(headings, cells, "r" * len(headings))


def checkpoints(rows: list[dict]) -> list:
    """The parts that show each measured checkpoint of a stage of PPO."""
    return checkpoints_by(rows, LOSSES, LOSSES_NOTE, "iteration")
