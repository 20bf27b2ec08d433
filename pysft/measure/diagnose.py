"""Diagnose a run: the six ways in which fine-tuning fails, by the source text, and a seventh, as
rules over figures. Stages that learned from comparisons have further rules (ailments.py), and so
have those of PPO (policy_ailments.py).

Each rule names the figure that triggered it, the likely cause and the fix. The rules read the
figures that were measured at the end and at the checkpoints, the settings, the rates in the log,
and the census of the data. They read no weights and generate no text, so a diagnosis takes no time
and is always the same."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pysft.console import command
from pysft.errors import DataError, MissingInput
from pysft.measure.ailments import OF_DPO, OF_REWARD, SHOWN_OF_DPO, SHOWN_OF_REWARD
from pysft.measure.finding import Finding, Run
from pysft.measure.policy_ailments import OF_PPO, SHOWN_OF_PPO, alarms_of
from pysft.measure.provenance import MEMORISED
from pysft.measure.run_files import known_kind
from pysft.run.log import read_log, read_measurements
from pysft.run.stage import measured_stage, read_json
from pysft.text.corpora import shipped
from pysft.training.flat import tuning

# Limits of the rules. The source text gives the one for forgetting (10 to 15 %). The others lie
# between healthy runs and runs that were made to fail, both trained by tests/test_diagnose.py.
STOPS = 0.5  # share of replies to unseen prompts that stop; below it, there is no chat format
WORDS = 0.85  # share of the replies' words that are real; below it, they are gibberish
COPIED = 0.3  # share of replies to unseen prompts that are memorised; above it, too many are
CLEAN = 0.95  # share of replies without a control token inside; below it, too few are
RECALLED = 0.8  # share of trained pairs recalled; below it, a run is not called overfitted
OVERFIT = 0.3  # nats per graded token by which held-out loss may exceed its lowest checkpoint
VARIED = 0.75, 0.5  # share of distinct words in a reply, as chat writes and greedy; below one of
LESS = 0.1  # them, and so much below that of the training replies, it repeats itself
FORGOTTEN = 0.10  # relative rise of the base loss; above it, too much is forgotten


def _ignores_format(run: Run) -> Finding | None:
    if (
        not run.figures.get("prompts")
        or run.get("stopped_unseen", 1) >= STOPS
        or run.get("content", 0) < STOPS
    ):
        return None
    ends, turns = run.data.get("end_tokens_graded"), run.data.get("turns")
    loss, first = run.get("sft_loss"), run.get("sft_loss_start")
    before = (run.get("parent") or {}).get("format_compliance")
    if (run.figures.get("dpo") or run.figures.get("ppo")) and before is not None and before < STOPS:
        cause = (
            f"the model that it was tuned from does so too: {before:.0%} of its replies are in the"
            " right format"
        )
        fix = "train that model for more steps, or with more conversations, and begin from it again"
    elif ends is not None and turns is not None and ends < turns:
        cause = (
            f"only {ends:,} of {turns:,} turns have a graded end token, so the model was not taught"
            " to stop"
        )
        fix = f"close every reply; find those that are not: {command('audit', run.file)}"
    elif None not in (loss, first) and loss < 0.5 * first:
        cause = (
            "the loss has fallen, so the model has learned something, but not where to stop: the"
            " end tokens are missing from the data, or masked"
        )
        fix = f"look at the mask of an example: {command('mask', run.file, '--line', 1)}"
    else:
        cause = (
            f"too few {run.unit}s ({run.settings.get('steps', '?')}) or too low a learning rate"
            f" ({run.rate})"
        )
        if None not in (loss, first):  # a checkpoint does not know the first loss
            cause += ": the loss has fallen by less than half"
        fix = (
            f"train for more {run.unit}s ({run.flag('steps')}), or raise the learning rate"
            f" ({run.flag('lr')})"
        )
    return Finding(
        "ignores the format",
        "it completes text instead of answering",
        f"{run.get('stopped_unseen'):.0%} of the replies to unseen prompts stop at the end token"
        f" (limit: at least {STOPS:.0%})",
        cause,
        fix,
    )


def _gibberish(run: Run) -> Finding | None:
    words = run.figures.get("real_words")
    if words is None or words >= WORDS or run.get("stopped_unseen", 0) < STOPS:
        return None
    many = f" ({run.epochs:,.0f} epochs)" if run.epochs > 20 else ""
    return Finding(
        "gibberish",
        "it keeps the format, but its words are not real",
        f"{words:.1%} of the words in its replies occur in the corpus or the training data"
        f" (limit: at least {WORDS:.0%})",
        f"too high a learning rate ({run.rate}) or too long a training{many}: what the base model"
        " knew is destroyed",
        f"start again from the base with a lower rate ({run.flag('lr')}), and mix in base text"
        " (--set 'sft.windows=[[256,4]]')",
    )


def _memorises(run: Run) -> Finding | None:
    origins, prompts = run.get("origins", {}), run.get("prompts", 0)
    copied = (
        sum(origins.get(v, 0) for v in MEMORISED) if origins else run.get("verbatim_replies", 0)
    )
    if not prompts or copied / prompts <= COPIED:
        return None
    many = f" ({run.epochs:,.0f})" if run.epochs else ""
    return Finding(
        "memorises",
        "it repeats training replies word for word",
        f"{copied} of {prompts} replies to unseen prompts are copies or pieces of training text"
        f" (limit: at most {COPIED:.0%})",
        f"too many epochs{many} on too small a data set",
        "add more conversations, and more diverse ones, or stop earlier; see where:"
        f" {command('select', run.run)}",
    )


def _writes_user_turns(run: Run) -> Finding | None:
    if not run.figures.get("prompts") or run.get("no_user_turn", 1) >= CLEAN:
        return None
    unmasked = run.settings.get("grade") == "everything"
    if run.get("stopped_unseen", 1) < 0.9:
        cause = (
            "it runs past the end of its reply, where only another turn can follow; first find out"
            " why it does not stop"
        )
    else:
        cause = "the user's words were graded, so the mask is wrong"
    fix = (
        "check that each reply ends with a graded end token and that everything before the reply is"
        f" masked: {command('mask', run.file, '--line', 1)}"
    )
    return Finding(
        "writes the user's part",
        "its replies hold control tokens or turns of the user",
        f"{1 - run.get('no_user_turn'):.0%} of the replies to unseen prompts hold one"
        f" (limit: at most {1 - CLEAN:.0%})",
        cause + ("; also, nothing was masked (--grade everything)" if unmasked else ""),
        ("leave out --grade everything; " if unmasked else "") + fix,
    )


def _overfits(run: Run) -> Finding | None:
    measured = [
        row
        for row in run.track
        if row.get("step")
        and row.get("heldout_loss") is not None
        and row.get("heldout_conversations", 1) > 0
    ]
    now = run.figures.get("heldout_loss")
    if now is None or not measured or run.get("recall", 0) < RECALLED:
        return None
    low = min(measured, key=lambda row: row["heldout_loss"])
    if now - low["heldout_loss"] < OVERFIT:
        return None
    return Finding(
        "good on training prompts only",
        "it answers the prompts it was trained on, and few others",
        f"{run.get('recall'):.0%} of the trained pairs are recalled, but held-out loss is"
        f" {now:.2f}, {now - low['heldout_loss']:.2f} nats more than at step {low['step']:,}"
        f" (limit: {OVERFIT:g})",
        "it has learned these particular prompts",
        "add more diverse prompts (not more replies to the same ones), or take an earlier"
        f" checkpoint: {command('select', run.run)}",
    )


def _forgets(run: Run) -> Finding | None:
    rise = run.figures.get("forgetting")
    if rise is None or rise <= FORGOTTEN:
        return None
    windows = run.settings.get("windows")
    mix = (
        "mix in more base text"
        if windows
        else "mix in base text (--set 'sft.windows=[[256,4]]', as in the tiny preset)"
    )
    return Finding(
        "forgets",
        "it has become worse at the base model's own text",
        f"the base loss rose by {rise:+.1%} (limit: {FORGOTTEN:.0%}; 15% and more is severe)",
        f"too many {run.unit}s ({run.settings.get('steps', '?')}) or too high a learning rate"
        f" ({run.rate})" + ("" if windows else ", and no base text was mixed in"),
        f"{mix}, train for fewer {run.unit}s, or lower the learning rate; an experiment compares"
        f" these: {command('lab', 'forgetting')}",
    )


def _repeats_itself(run: Run) -> Finding | None:
    shares = [run.figures.get(name) for name in ("distinct_words", "distinct_words_greedy")]
    if None in shares or run.get("stopped_unseen", 0) < STOPS:
        return None
    usual = run.figures.get("trained_distinct_words")
    limits = VARIED if usual is None else [min(limit, usual - LESS) for limit in VARIED]
    if all(share >= limit for share, limit in zip(shares, limits)):
        return None
    trained = "" if usual is None else f"; training replies have {usual:.0%}"
    return Finding(
        "repeats itself",
        "its replies turn in circles",
        f"{shares[0]:.0%} of the words of a reply are different as chat writes it, {shares[1]:.0%}"
        f" greedy (limits: at least {limits[0]:.0%} and {limits[1]:.0%}{trained})",
        "the model knows too little to go on with, so the likeliest word comes again: too few"
        f" {run.unit}s ({run.settings.get('steps', '?')}), too low a rate ({run.rate}), or too"
        " small a model",
        f"train for more {run.unit}s ({run.flag('steps')}), or a larger model (--preset mini); in"
        " chat, a higher --repetition or --temperature hides it",
    )


RULES: list[Callable[[Run], Finding | None]] = [
    _ignores_format,
    _gibberish,
    _memorises,
    _writes_user_turns,
    _overfits,
    _forgets,
    _repeats_itself,
]


def findings(
    figures: dict,
    track: list[dict],
    settings: dict,
    data: dict | None = None,
    stage: str = "sft",
    **more,
) -> list[Finding]:
    """What the rules find, in the source text's order, the seventh behind them, and those of a
    stage that learned from comparisons or a reward last; [] for a healthy run. The arguments are
    the fields of Run."""
    run = Run(figures, track, settings, data or {}, stage, **more)
    return [found for rule in rules_for(figures) if (found := rule(run)) is not None]


def rules_for(figures: dict) -> list[Callable[[Run], Finding | None]]:
    """The rules that read the figures of such a stage."""
    if figures.get("reward"):
        return OF_REWARD
    return RULES + (OF_DPO if figures.get("dpo") else OF_PPO if figures.get("ppo") else [])


LAST = 20  # steps at the end of a log whose mean counts


def last_of(log: list[dict]) -> dict:
    """{figure of the objective: its mean over the LAST steps of a log}."""
    found = {}
    for row in [row for row in log if not row.get("skipped")][-LAST:]:
        for name, value in row["figures"].items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


# The figures in the document of a diagnosis.
SHOWN = (
    "stopped_unseen",
    "format_compliance",
    "real_words",
    "distinct_words",
    "distinct_words_greedy",
    "origins",
    "no_user_turn",
    "recall",
    "heldout_loss",
    "forgetting",
)


def diagnose(folder: Path, step: int | None = None) -> dict:
    """The diagnosis of a stage in its folder (RUN/sft): {"stage", "finished", "rules" (how many
    there are for it), "figures", "findings"}, and "words_unmeasured" if figures of words could not
    be measured.

    step: diagnose it as it was at the checkpoint of this step. Default: as it is, or as it was at
    its last checkpoint if the training has not finished. finished: true if the figures are those of
    the finished training, false if they are a checkpoint's."""
    folder = Path(folder)
    figures, track, finished = _figures_of(folder, step)
    begun = _read_if_there(folder.parent / "run.json")
    settings = (
        _read_if_there(folder / "settings.json").get("settings") or begun.get("settings") or {}
    )
    try:
        name = measured_stage(folder).name
        settings = tuning(settings, name)
        log = [row for row in read_log(folder) if step is None or row["step"] <= step]
        more = {
            "logged": last_of(log),
            "reached": _highest_rate(log),
            "run": folder.parent,
            "file": _file_of(folder, begun),
        }
        data = _read_if_there(folder / "data.json")
        if known_kind(measured_stage(folder)) == "ppo" and "ppo" not in figures:  # at a checkpoint
            figures = figures | {"ppo": {"alarms": alarms_of(log)}}
        found = findings(figures, track, settings, data, name, **more)
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder}: its figures are not as this program writes them ({error})"
        ) from None
    reason = figures.get("words_unmeasured")
    return {
        "stage": str(folder),
        "finished": finished,
        "rules": len(rules_for(figures)),
        "figures": _shown(figures),
        "findings": [asdict(f) for f in found],
    } | ({"words_unmeasured": str(reason)} if reason else {})


def _file_of(folder: Path, begun: dict) -> Path:
    """A file of the data of a stage, for commands to type."""
    own = folder / "rankings.jsonl"
    if own.is_file():  # made for this stage
        return own
    named = begun.get("rankings") or begun.get("data") or [shipped("conversations.jsonl")]
    return Path(named[0])


def _highest_rate(log: list[dict]) -> float | None:
    """The highest learning rate in a log; None if it has none."""
    return max((row["lr"] for row in log if isinstance(row.get("lr"), float)), default=None)


def _figures_of(folder: Path, step: int | None) -> tuple[dict, list[dict], bool]:
    """(figures, those of each checkpoint up to then, True if they are those of the finished
    training)."""
    finished = (folder / "report.json").is_file()
    try:
        track = read_measurements(folder)
    except MissingInput:
        if not finished:
            raise
        track = []
    figures = read_json(folder / "report.json") if finished else track[-1]
    if step is not None:
        track = [row for row in track if row["step"] <= step]
        if not track or track[-1]["step"] != step:
            raise MissingInput(f"{folder}: nothing was measured at step {step}")
        figures, finished = track[-1], False
    if not {"stopped_unseen", "recall", "reward"} & set(figures):
        raise MissingInput(
            f"{folder}: a base model; name a run that was fine-tuned (python -m pysft train)"
        )
    return figures, track, finished


def _shown(figures: dict) -> dict:
    """The figures in the document of a diagnosis."""
    if reward := figures.get("reward"):
        return {name: reward.get(name) for name in SHOWN_OF_REWARD}
    shown = {name: figures.get(name) for name in SHOWN}
    if dpo := figures.get("dpo"):
        shown["dpo"] = {name: dpo.get(name) for name in SHOWN_OF_DPO}
    if ppo := figures.get("ppo"):
        shown["ppo"] = {name: ppo.get(name) for name in SHOWN_OF_PPO}
    return shown


def _read_if_there(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}
