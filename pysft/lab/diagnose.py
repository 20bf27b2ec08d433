"""What went wrong: the source text's six ways for fine-tuning to fail, as rules over measurements.

Each rule says which figure triggered it, the likely cause and the fix. Rules read what measure()
gave at the end and along the way, and the settings; they look at no weight and generate no text, so
a diagnosis takes no time and repeats exactly."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pysft.errors import DataError, MissingInput
from pysft.lab.choose import read_measurements
from pysft.run import read_json

# Where a rule begins to speak. The source text gives the gate (10 to 15 %); the others lie between
# healthy runs and provoked ones, as tests/test_diagnose.py trains them.
STOPS = 0.5  # of replies to unseen prompts that stop: below, there is no chat format to speak of
WORDS = 0.85  # of the words of replies that are real: below, it is gibberish
COPIED = 0.3  # of replies to unseen prompts that are memorised: above, it answers from memory
CLEAN = 0.95  # of replies without a control token inside
RECALLED = 0.8  # of the trained pairs; beside it
OVERFIT = 0.3  # nats per graded token that held-out loss lies above its lowest checkpoint
GATE = 0.10  # rise of the base loss


@dataclass(frozen=True)
class Finding:
    """mode: a name; symptom: the source's words, shortened; figure: what triggered it; cause and
    fix in a sentence each."""

    mode: str
    symptom: str
    figure: str
    cause: str
    fix: str


@dataclass(frozen=True)
class Run:
    """What the rules read: the last figures, those of the checkpoints, the settings, what is known
    of the data."""

    figures: dict
    track: list[dict]
    settings: dict
    data: dict

    def get(self, name: str, default=None):
        value = self.figures.get(name)
        return default if value is None else value

    @property
    def rate(self) -> str:
        return f"{self.settings['sft_lr']:g}" if "sft_lr" in self.settings else "its present value"

    @property
    def epochs(self) -> float:
        return max(self.data.get("epochs", {}).values(), default=0.0)


def _ignores_format(run: Run) -> Finding | None:
    if (
        not run.figures.get("prompts")
        or run.get("stopped_unseen", 1) >= STOPS
        or run.get("content", 0) < STOPS
    ):
        return None
    ends, turns = run.data.get("end_tokens_graded"), run.data.get("turns")
    if ends is not None and turns is not None and ends < turns:
        cause = (
            f"only {ends:,} of {turns:,} turns have a graded end token, so the model was not taught"
            " to stop"
        )
        fix = "close every reply (python -m pysft audit shows which are not)"
    elif run.get("sft_loss") is not None and run.get("sft_loss") < 0.5 * run.get(
        "sft_loss_start", 0
    ):
        cause = (
            "the loss has fallen, so something was learnt, but not where to stop: ends are missing"
            " from the data, or masked"
        )
        fix = "look at the mask of an example: python -m pysft mask FILE --line 1"
    else:
        cause = (
            f"too few steps ({run.settings.get('sft_steps', '?')}), or too low a rate ({run.rate}):"
            " the loss has hardly fallen"
        )
        fix = "train longer (--sft-steps), or raise --lr"
    return Finding(
        "ignores the format",
        "it completes text instead of answering",
        f"{run.get('stopped_unseen'):.0%} of replies to unseen prompts stop at the end token, below"
        f" {STOPS:.0%}",
        cause,
        fix,
    )


def _gibberish(run: Run) -> Finding | None:
    words = run.figures.get("real_words")
    if words is None or words >= WORDS or run.get("stopped_unseen", 0) < STOPS:
        return None
    many = f", {run.epochs:,.0f} times over the same data" if run.epochs > 20 else ""
    return Finding(
        "gibberish",
        "it keeps the format, but the words are none",
        f"{words:.1%} of the words in its replies occur in the corpus or the training data, below"
        f" {WORDS:.0%}",
        f"the rate ({run.rate}) is too high, or training went on too long{many}: what the base knew"
        " is destroyed",
        "start again from the base with a lower --lr, and mix in base text (sft_windows in a"
        " --config file)",
    )


def _memorises(run: Run) -> Finding | None:
    origins, prompts = run.get("origins", {}), run.get("prompts", 0)
    copied = (
        sum(origins.get(v, 0) for v in ("verbatim", "near copy", "spliced"))
        if origins
        else run.get("verbatim_replies", 0)
    )
    if not prompts or copied / prompts <= COPIED:
        return None
    return Finding(
        "memorises",
        "it repeats training replies word for word",
        f"{copied} of {prompts} replies to unseen prompts are copies or pieces of training text,"
        f" above {COPIED:.0%}",
        "too many epochs"
        + (f" ({run.epochs:,.0f})" if run.epochs else "")
        + " on too small a data set",
        "add more and more diverse conversations, or stop earlier (python -m pysft select shows"
        " where)",
    )


def _writes_user_turns(run: Run) -> Finding | None:
    if not run.figures.get("prompts") or run.get("no_user_turn", 1) >= CLEAN:
        return None
    unstopped = run.get("stopped_unseen", 1) < 0.9
    unmasked = run.settings.get("grade") == "everything"
    cause = (
        "it runs past the end of its reply, where only another turn can follow: first find out why"
        " it does not stop"
        if unstopped
        else "the mask: the user's words were graded"
    )
    return Finding(
        "writes the user's part",
        "there are control tokens or user turns inside its replies",
        f"{1 - run.get('no_user_turn'):.0%} of replies to unseen prompts hold one, above"
        f" {1 - CLEAN:.0%}",
        cause + ("; and nothing was masked (--grade everything)" if unmasked else ""),
        "see that each reply ends with a graded end token and that all before it is masked: python"
        " -m pysft mask FILE --line 1" + ("; leave --grade everything out" if unmasked else ""),
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
        "it answers what it was trained on and little else",
        f"{run.get('recall'):.0%} of the trained pairs are recalled, but held-out loss is"
        f" {now:.2f}, {now - low['heldout_loss']:.2f} nats above step {low['step']:,}'s",
        "it has fitted the particular prompts",
        "add more diverse prompts (not more replies to the same), or take an earlier checkpoint:"
        " python -m pysft select RUN",
    )


def _forgets(run: Run) -> Finding | None:
    rose = run.figures.get("forgetting")
    if rose is None or rose <= GATE:
        return None
    windows = run.settings.get("sft_windows")
    return Finding(
        "forgets",
        "it has become worse at the base's own text",
        f"the base loss rose by {rose:+.1%}, above {GATE:.0%}"
        + (" (severe from 15 %)" if rose <= 0.15 else ""),
        f"too many steps ({run.settings.get('sft_steps', '?')}) or too high a rate ({run.rate})"
        + ("" if windows else ", and no base text was mixed in"),
        (
            "mix in more base text"
            if windows
            else "mix in base text (sft_windows in a --config file, as the tiny preset does)"
        )
        + ", train for fewer steps, or at a lower rate (python -m pysft lab forgetting compares"
        " them)",
    )


RULES: list[Callable[[Run], Finding | None]] = [
    _ignores_format,
    _gibberish,
    _memorises,
    _writes_user_turns,
    _overfits,
    _forgets,
]


def findings(
    figures: dict, track: list[dict], settings: dict, data: dict | None = None
) -> list[Finding]:
    """What the rules find, in the source text's order; nothing for a healthy run."""
    run = Run(figures, track, settings, data or {})
    return [found for rule in RULES if (found := rule(run)) is not None]


def diagnose(folder: Path, step: int | None = None) -> dict:
    """The diagnosis of a stage of fine-tuning (RUN/sft), finished or not, or as its checkpoint of a
    step was: {"stage", "finished", "figures", "findings"}."""
    folder = Path(folder)
    finished = (folder / "report.json").is_file()
    try:
        track = read_measurements(folder)
    except MissingInput:
        track = []
        if not finished:
            raise
    figures = read_json(folder / "report.json") if finished else track[-1]
    if step is not None:
        track = [row for row in track if row["step"] <= step]
        if not track or track[-1]["step"] != step:
            raise MissingInput(f"{folder}: nothing was measured at step {step}")
        figures, finished = track[-1], False
    if "stopped_unseen" not in figures and "recall" not in figures:
        raise MissingInput(
            f"{folder}: a base model; name a run that was fine-tuned (python -m pysft train)"
        )
    settings = (
        _optional(folder / "settings.json").get("settings")
        or _optional(folder.parent / "run.json").get("settings")
        or {}
    )
    try:
        found = findings(figures, track, settings, _optional(folder / "data.json"))
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder}: its figures are not as this program writes them ({error})"
        ) from None
    shown = {
        k: figures.get(k)
        for k in (
            "stopped_unseen",
            "format_compliance",
            "real_words",
            "origins",
            "no_user_turn",
            "recall",
            "heldout_loss",
            "forgetting",
        )
    }
    return {
        "stage": str(folder),
        "finished": finished,
        "figures": shown,
        "findings": [asdict(f) for f in found],
    }


def _optional(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def text(d: dict) -> str:
    """A diagnosis for the terminal."""
    head = d["stage"] + ("" if d["finished"] else " (not finished: as its last checkpoint stands)")
    if not d["findings"]:
        return f"{head}: none of the six failure modes shows"
    out = [f"{head}: {len(d['findings'])} of the six failure modes show"]
    for f in d["findings"]:
        out += [
            "",
            f"{f['mode']}: {f['symptom']}",
            f"  seen   {f['figure']}",
            f"  cause  {f['cause']}",
            f"  fix    {f['fix']}",
        ]
    return "\n".join(out)
