"""The main job: a base model, a grown vocabulary, fine-tuning, measurements, a report."""

import hashlib
import os
import resource
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from pysft import IGNORE
from pysft.disk import alone, hush, make_folder, sweep
from pysft.errors import DataError, Diverged, MissingInput, PysftError, RowError, UsageError
from pysft.inference.generate import Sampling, generate
from pysft.lab import report as report_page
from pysft.lab.choose import read_measurements
from pysft.lab.evaluate import (
    ROWS,
    Probe,
    before_reply,
    corpus_loss,
    finite,
    loss_after_replay,
    measure,
    origins,
    words,
)
from pysft.lab.provenance import RULE, VERDICTS
from pysft.lab.tooltest import told, tool_test
from pysft.nn.lora import LoRA, apply_adapter, save_adapter
from pysft.nn.model import GPT, GPTConfig, expand_vocab, sizes
from pysft.nn.optim import AdamW
from pysft.rng import rng
from pysft.run import (
    Stage,
    add_measurement,
    append_log,
    cut_measurements,
    drop_checkpoints,
    load_checkpoint,
    load_stage,
    measured_stage,
    new_run,
    read_json,
    read_log,
    save_checkpoint,
    save_stage,
    understood,
    weights_sha256,
    whole_log,
    write_json,
)
from pysft.text.audit import census as spread
from pysft.text.audit import quick
from pysft.text.dataset import (
    CONVERSATION,
    CORPORA,
    encode_all,
    read_corpus,
    shipped,
    split_corpus,
    split_heldout,
    write_with,
)
from pysft.text.formats import check_messages, plain, read_prompts, read_table, refuse_faults, scan
from pysft.text.template import Template, load_template
from pysft.text.tokenizer import CharTokenizer
from pysft.text.transcripts import TOOLS, Lexicon, town, transcripts
from pysft.training.loop import Outliers, Report
from pysft.training.loop import train as training_loop
from pysft.training.stages import Plan, Settings, checkpoint_steps, finetune, pretrain

CHECKPOINT_SECONDS = 60
HELD = ("weights", "gradients", "moments", "activations")  # in memory while training
LAST_STEPS = 20  # over which the final loss is averaged
GRADED = {
    "all": "every assistant turn",
    "last": "the last assistant turn",
    "flags": "the assistant turns that are not flagged out",
    "everything": "everything, the user's turns too (no mask)",
}


class Interrupted(PysftError):
    """Stopped before the end, to be gone on with: by SIGINT, SIGTERM or SIGHUP (130, 143, 129), or
    by none of them (1)."""

    def __init__(self, message, signum: int | None = None):
        super().__init__(message)
        self.exit_code = 128 + signum if signum else 1


class Screen:
    """Where people read along: standard output, or standard error while --json owns the other.
    Where that takes nothing any more (a pipe or a terminal that was closed, a full disk behind it),
    a BrokenPipeError with the reason."""

    def __init__(self, json: bool):
        self.stream = sys.stderr if json else sys.stdout  # None: closed before we began
        self.live = self.stream is not None and self.stream.isatty()
        self._last = 0.0

    def say(self, text: str = "", end: str = "\n") -> None:
        if self.stream is None:
            return
        try:
            print(text, end=end, file=self.stream, flush=True)
        except BlockingIOError:  # whoever reads is only slow
            pass
        except OSError as error:
            hush(self.stream)
            raise BrokenPipeError(error.errno, error.strerror) from error

    def progress(self, text: str, last: bool = False) -> None:
        """One line that is written over on a terminal; a line every ten seconds elsewhere."""
        now = time.monotonic()
        if self.live:
            if last or now - self._last > 0.1:
                self._last = now
                self.say("\r\x1b[K" + text, end="\n" if last else "")
        elif last or now - self._last > 10:
            self._last = now
            self.say(text)


class Signals:
    """Inside `with`, the first SIGINT, SIGTERM or SIGHUP (a terminal that went away) is only noted,
    so that a step is never cut in half; a second one acts as ever, and so does the first, at the
    end, where nothing came of it."""

    def __enter__(self):
        self.caught, self._old = None, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue  # a background job: it asked not to be interrupted
                self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.caught = number
        signal.signal(number, self._old[number])

    def __exit__(self, kind, *error):
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self.caught is not None and kind is None:
            signal.raise_signal(self.caught)


# ----------------------------------------------------------------------------------- the material


@dataclass
class Material:
    """All the text of a run, read and checked before anything trains."""

    train_text: str
    heldout_text: str
    tokenizer: CharTokenizer  # of the corpus alone
    template: Template
    grown: CharTokenizer | None = None  # that of the conversations: with the template's tokens
    conversations: list = field(default_factory=list)
    pairs: list = field(default_factory=list)
    heldout: list = field(default_factory=list)
    examples: tuple[list, list] = ((), ())  # of conversations and pairs
    files: list | None = None  # with a mixture: the number of each conversation's file
    probe: Probe | None = None
    notes: list[str] = field(default_factory=list)  # what the policies did, to be told


def gather(
    settings: Settings,
    corpus: str,
    data: list[str] | None,
    tokenizer: CharTokenizer | None = None,
    template: Template | None = None,
) -> Material:
    """Read the corpus and the conversations, and render them; every row that cannot be trained on
    is found here. data: files that replace the shipped conversations. tokenizer: a given base
    model's. template: that of a run which is resumed."""
    text = read_corpus(corpus)
    template = template or load_template(settings.template)
    material = Material(*split_corpus(text), tokenizer or CharTokenizer.of(text), template)
    material.tokenizer.encode(text, corpus)
    if settings.transcripts and data:
        raise UsageError(
            "transcripts of tool use are mixed with the shipped conversations; leave --data"
            " FILE out"
        )
    if settings.mix and len(settings.mix) != (2 if settings.transcripts else len(data or ())):
        what = (
            "conversations and transcripts of tool use"
            if settings.transcripts
            else f"{len(data or ())} files of --data"
        )
        raise UsageError(f"mix has {len(settings.mix)} weights for {what}; give each one")
    files = data or [str(shipped("conversations.jsonl"))]
    rows = [row for path in files for row in scan(path, template)]
    pairs = (
        list(scan(shipped("pairs40.jsonl"), template))
        if not data and "pairs" in settings.data
        else []
    )
    faults = [row for row in rows + pairs if isinstance(row, RowError)]
    found = [row for row in rows if not isinstance(row, RowError)]
    if settings.transcripts:
        Lexicon(material.heldout_text)  # which the tool test will need
        found += transcripts(
            settings.transcripts, town(trained=True), Lexicon(material.train_text), settings.seed
        )
    written, grown, done = write_with(found + pairs, material.tokenizer, settings.unknown)
    if settings.unknown == "grow":
        grown = grown.grow_characters(template.characters())
    template.written_with(grown.characters)
    if settings.unknown == "replace":
        for c in written:
            try:
                check_messages(c.messages, c.where, template)  # a text may be empty now
            except RowError as error:
                faults.append(error)
    if done:
        named = ", ".join(
            f"{c!r}" + (f" by {r!r}" if r != c else "") + f" ({n:,} times)"
            for (c, r), n in done.most_common(8)
        )
        material.notes.append(
            f"{'new' if settings.unknown == 'grow' else 'replaced'} characters: {named}"
            + (f" and {len(done) - 8} more" if len(done) > 8 else "")
        )
    found, material.pairs = written[: len(found)], written[len(found) :]
    calls = any(
        isinstance(m["content"], list) and any(part["type"] != "text" for part in m["content"])
        for c in written
        for m in c.messages
    )
    material.grown = grown.grow(template.tokens + (template.tool_tokens if calls else ()))
    made = (
        [c for c in found if c.category == TOOLS] if settings.transcripts else []
    )  # these are tested by other questions
    found = found[: len(found) - len(made)]
    if not data or len(found) >= 50:
        found, material.heldout = split_heldout(found, shuffled=data is not None)
    found = found + made
    if not data and settings.data == "pairs":
        found = []
    # Held-out conversations are checked too; only those that ship may be too long for a short
    # context.
    way = (template, settings.grade, settings.too_long)
    material.conversations, examples, more = encode_all(
        found, material.grown, settings.context, *way
    )
    pairs, pair_examples, third = encode_all(material.pairs, material.grown, settings.context, *way)
    heldout, _, second = encode_all(
        material.heldout, material.grown, settings.context if data else sys.maxsize, *way
    )
    refuse_faults(faults + more + second + third)
    dropped = (
        len(found)
        + len(material.heldout)
        + len(material.pairs)
        - len(examples)
        - len(heldout)
        - len(pairs)
    )
    if dropped:
        material.notes.append(
            f"left out: {dropped:,} conversations that are longer than the context of"
            f" {settings.context}"
        )
    material.heldout, material.pairs, material.examples = heldout, pairs, (examples, pair_examples)
    if not examples and not pairs:
        raise DataError(
            f"{', '.join(map(str, files))}: no conversation in it"
            + (" that fits" if dropped else "")
        )
    if settings.transcripts:
        material.files = [int(c.category == TOOLS) for c in material.conversations]
    elif settings.mix:
        names = {str(Path(path)): i for i, path in enumerate(data)}
        if len(names) < len(data):
            raise UsageError("--data names a file twice; a mixture weighs each file once")
        material.files = [names[c.path] for c in material.conversations]
        for path, i in names.items():
            if i not in material.files:
                raise DataError(
                    f"{path}: no conversation of it is left to train on"
                    + (
                        " (its prompts are held out)"
                        if any(c.path == path for c in heldout)
                        else ""
                    )
                    + "; leave the file out, or put more into it"
                )
    material.notes += [
        f"{path}: {read_table(path)}"
        for path in files
        if Path(path).suffix.lower() in (".csv", ".tsv")
    ]
    material.notes += quick(material.conversations + material.pairs)
    material.probe = _probe(material, text, data is not None, settings.grade)
    return material


def _probe(material: Material, corpus: str, own_data: bool, grade: str) -> Probe:
    """What the run will be measured with. Of a conversation the first reply that is graded should
    be recalled, unless it calls a tool: what follows a call depends on the tool."""
    trained = [c for c in material.conversations + material.pairs if not c.is_text]
    known = set(words(corpus)) | {
        w for c in trained for m in c.messages for w in words(plain(m["content"]))
    }
    asked = {m["content"] for c in trained for m in c.messages if m["role"] == "user"}
    talks = [(c, c.graded_turn(grade)) for c in material.pairs or material.conversations]
    trained = [
        c for c in trained if c.category != TOOLS
    ]  # a transcript's reply depends on the search
    recalled = [
        (c.messages, turn)
        for c, turn in talks
        if turn > 0 and isinstance(c.messages[turn]["content"], str)
    ][:40]
    return Probe(
        material.heldout_text,
        [[before_reply(m, turn), plain(m[turn]["content"])] for m, turn in recalled],
        _prompts(material.grown, asked, own_data),
        [c.messages for c in material.heldout if not c.is_text],
        sorted(known),
        [r for c in trained for r in c.replies()],
        material.train_text,
    )


def _prompts(tokenizer: CharTokenizer, trained: set[str], own_data: bool) -> list[dict]:
    """The shipped prompts that this vocabulary can write and that no conversation asks. They are in
    the domain of the shipped conversations; beside other data they are all out of it."""
    return [
        {**p, "domain": "out"} if own_data else p
        for p in read_prompts(shipped("heldout_prompts.jsonl"))
        if p["prompt"] not in trained and not tokenizer.unknown(p["prompt"])
    ]


def graded_ends(conversations: list, template: Template, grade: str) -> int:
    """How many of the turns' ends should be graded, by the policy and not by the mask."""
    total = 0
    for c in conversations:
        replies = [m for m in c.messages if m["role"] == "assistant"]
        if grade == "everything":
            total += sum(
                template.turns[m["role"]].closes[-1:] == (template.end,)
                for m in c.messages
                if not c.is_text
            )
        elif grade == "last":
            total += bool(replies)
        else:
            total += sum(m.get("train", True) for m in replies)
    return total


def census(examples: list, end: int) -> dict:
    """What the mask leaves: graded targets, targets, and turns' ends among the graded."""
    graded = sum(int((e.labels != IGNORE).sum()) for e in examples)
    return {
        "graded_targets": graded,
        "targets": sum(len(e.labels) for e in examples),
        "end_tokens_graded": sum(int((e.labels == end).sum()) for e in examples),
    }


# ---------------------------------------------------------------------------------- one stage


class Journal:
    """A stage's log while it is written: a line for each step, outliers among the steps, and the
    losses that are told."""

    def __init__(self, folder: Path, measured: int):
        """measured: after which step the stage was measured last."""
        self.folder, self.lines, self.recent, self.outliers = folder, [], [], Outliers()
        rows = read_log(folder, skipped=True)
        self.skipped = next(
            (i for i, row in enumerate(reversed(rows)) if not row.get("skipped")), len(rows)
        )  # in a row, at its end
        rows = [row for row in rows if not row.get("skipped")]
        self.since = [
            row["losses"].get(CONVERSATION, row["loss"]) for row in rows if row["step"] > measured
        ]
        for row in rows[-self.outliers.window :]:
            self.outliers(loss=row["loss"], norm=row["norm"])

    def add(self, r: Report) -> str:
        """Note a step; what of it is worth saying, mostly nothing."""
        if r.skipped:
            self.lines.append({"step": r.step, "skipped": True})
            return ""
        self.lines.append(
            {
                "step": r.step,
                "loss": r.loss,
                "losses": r.losses,
                "norm": r.norm,
                "lr": r.lr,
                "graded_tokens": r.graded,
                "tokens": r.tokens,
                "seconds": round(r.seconds, 6),
                "tokens_per_s": round(r.tokens / r.seconds),
            }
        )
        self.recent = [*self.recent, r.losses.get(CONVERSATION, r.loss)][-LAST_STEPS:]
        self.since.append(self.recent[-1])
        if odd := self.outliers(loss=r.loss, norm=r.norm):
            self.lines[-1]["outliers"] = {name: round(score, 1) for name, score in odd.items()}
        return " and ".join(
            f"a {name} of {getattr(r, name):.3g}, {score:.0f} spreads above the last hundred"
            for name, score in odd.items()
        )

    def loss(self) -> float:
        """The mean of the last steps."""
        return float(np.mean(self.recent or [np.nan]))

    def measured(self) -> float | None:
        """The mean since this was last asked."""
        mean, self.since = float(np.mean(self.since)) if self.since else None, []
        return mean

    def flush(self) -> None:
        if self.lines:
            append_log(self.folder, self.lines)
            self.lines.clear()


def run_stage(
    stage: Stage,
    plan: Plan,
    settings: Settings,
    screen: Screen,
    resume: bool,
    model=None,
    at=(),
    watch=lambda step, loss: None,
) -> None:
    """Train stage.model (or `model`, the LoRA around it) along the plan, logging each step;
    watch(step, mean loss since it was last called) before the first step and after the steps `at`.
    A signal writes a checkpoint and raises Interrupted; so does whoever read along and went
    away."""
    folder, model = stage.folder, stage.model if model is None else model
    make_folder(folder)
    adam = AdamW(model, **settings.adam(stage.name))
    if resume and load_checkpoint(folder, model, adam, screen.say):
        screen.say(f"{stage.name}: going on after step {adam.steps:,}")
    else:
        (folder / "log.jsonl").unlink(missing_ok=True)
    if not cut_measurements(folder, adam.steps if adam.steps else -1) and adam.steps:
        screen.say(
            f"{folder / 'measurements.jsonl'}: a damaged line is left out; `select` and the report"
            " may lack it"
        )
    model.reserve(plan.rows)
    journal = Journal(folder, max((s for s in at if s <= adam.steps), default=0))
    if adam.steps == 0 and len(at):
        watch(0, None)
    seconds, tokens, first, saved = 0.0, 0, adam.steps, time.monotonic()

    def checkpoint():
        # first: resuming drops lines beyond the checkpoint, and has no others for those before it
        journal.flush()
        return save_checkpoint(folder, model, adam)

    def interrupt(number, what="interrupted"):
        where = checkpoint()
        if screen.live:
            with suppress(BrokenPipeError):
                screen.say()
        raise Interrupted(
            f"{what} after step {adam.steps}; a checkpoint stands in {where}; "
            f"go on with --resume --out {folder.parent}",
            number,
        )

    def skip(error):
        where = keep_batch(folder, adam.steps + 1, error, stage.tokenizer)
        screen.say(f"{stage.name}: skipped {error} (its batch: {where})")

    with Signals() as signals:
        try:
            for r in training_loop(
                model,
                adam,
                plan.draw,
                plan.objective,
                plan.rate,
                plan.steps,
                settings.clip,
                skip if settings.on_nan == "skip" else None,
                journal.skipped,
            ):
                seconds, tokens = seconds + r.seconds, tokens + r.tokens
                odd = journal.add(r)
                if r.step in at:
                    watch(r.step, journal.measured())
                if odd:  # nothing is said before a step is measured: who reads along may be gone
                    screen.say(f"{stage.name}: step {r.step:,}: {odd}")
                left = (plan.steps - r.step) * seconds / (r.step - first)
                screen.progress(
                    f"{stage.name}  step {r.step:,} of {plan.steps:,}  loss {journal.loss():.3f}  "
                    f"{tokens / seconds:,.0f} tokens/s  {_clock(left)} left",
                    r.step == plan.steps,
                )
                if signals.caught is not None:
                    interrupt(signals.caught)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    checkpoint()
                    saved = time.monotonic()
            journal.flush()
            if signals.caught is not None:  # while the last step was looked at
                interrupt(signals.caught)
        except Diverged as error:
            with suppress(OSError):  # a full disk must not hide what diverged
                journal.flush()
            journal.lines.clear()
            if not error.batches:  # no step's: what was to be written was not finite
                raise
            raise Diverged(
                f"{error} (its batch: {keep_batch(folder, adam.steps + 1, error, stage.tokenizer)})"
            ) from None
        except BrokenPipeError as error:
            interrupt(
                signals.caught,
                f"stopped, since what it says cannot be written any more ({error.strerror}),",
            )
        finally:
            journal.flush()


def keep_batch(folder: Path, step: int, error: Diverged, tokenizer: CharTokenizer) -> str:
    """Write what a step was made of that was not finite, to be looked at: the file, or why there is
    none."""
    path = folder / f"not-finite-{step}.json"
    sequences = [
        {
            "source": str(batch.source[s]),
            "text": tokenizer.decode(batch.tokens[a:b]),
            "tokens": batch.tokens[a:b].tolist(),
            "labels": batch.labels[a:b].tolist(),
        }
        for batch in error.batches
        for s, (a, b) in enumerate(zip(batch.cu_seqlens, batch.cu_seqlens[1:]))
    ]
    try:
        write_json(path, {"step": step, "error": str(error), "sequences": sequences})
    except OSError as failure:  # a full disk must not hide what diverged
        return f"could not be kept, {failure.strerror}"
    return str(path)


def stage_figures(folder: Path) -> dict:
    """What a stage's log says of its training: loss_start at the first step, loss as the mean of
    the last ones (of conversations, where there are any), tokens and seconds."""
    rows = read_log(folder)
    losses = [row["losses"].get(CONVERSATION, row["loss"]) for row in rows]
    return {
        "loss_start": losses[0] if losses else None,
        "loss": float(np.mean(losses[-LAST_STEPS:])) if losses else None,
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
    }


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def computing_ops(name: str, threads: int | None):
    """The functions to compute with; the reference only ever when asked for."""
    if name == "reference":
        from pysft.nn import reference

        return reference
    from pysft.nn import ops

    return ops.on_threads(threads)


def _announce(screen, what, config):
    params = sizes(config, 1)["params"]
    screen.say(
        f"{what}: {params:,} weights ({config.layers} blocks, {config.channels} channels,"
        f" {config.heads} heads, context {config.context})"
    )
    return params


def _status(name: str) -> int | None:
    """Bytes, of a line of Linux's own account of this process; None elsewhere."""
    try:
        return next(
            int(line.split()[1]) * 1024
            for line in open("/proc/self/status")
            if line.startswith(name + ":")
        )
    except (OSError, StopIteration):
        return None


def peak_memory() -> int:
    """The most bytes of memory that this process has held. Not ru_maxrss where Linux says better:
    there a process begins with the peak of the one that started it."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _say_memory(screen, *stages) -> None:
    """Say before it begins what the process will hold at its most. stages: (config, rows of a
    batch, weights held beside the model's own: those of the base that it is tuned from)."""
    here, most, shown = _status("VmRSS") or peak_memory(), 0, None
    for config, rows, beside in stages:
        size = sizes(config, max(rows, ROWS))
        held = sum(size[k] for k in HELD) + beside
        if held > most:
            most, shown = held, (size, max(rows, ROWS), beside)
    size, rows, beside = shown
    screen.say(
        f"memory: {(here + most) / 2**20:.0f} MiB at the most: {here / 2**20:.0f} now,"
        f" {size['weights'] / 2**20:.0f} of weights, three times that of gradients and moments,"
        f" {size['activations'] / 2**20:.0f} of activations for {rows:,} rows"
        + (f", {beside / 2**20:.0f} of the base's weights" if beside else "")
    )


# ---------------------------------------------------------------------------------- the verbs


@dataclass(frozen=True)
class Begun:
    """What a run is begun with, as its run.json keeps it. sha256: of all that it reads, by name;
    ops, isa: what it is computed with, since other kernels would give other bits."""

    verb: str
    settings: Settings
    corpus: str
    data: list | None
    base: str | None
    template: Template
    ops: str
    isa: str  # the instruction set; where it went on with another, "avx512, base"
    sha256: dict[str, str]

    def to_json(self) -> dict:
        return {
            name: getattr(self, name)
            for name in ("verb", "corpus", "data", "base", "ops", "isa", "sha256")
        } | {"settings": asdict(self.settings), "template": self.template.to_json()}

    @classmethod
    def of(cls, folder: Path, verb: str) -> "Begun":
        """That of the run in `folder`, which `verb` is to go on with."""
        record = folder / "run.json"
        if not record.is_file():
            run = (
                folder.parent if (folder.parent / "run.json").is_file() else "the right folder"
            )  # --out RUN/sft
            raise UsageError(
                f"--resume: {folder} holds no run that was begun; name {run} by --out, or leave"
                " --resume out"
            )
        kept = read_json(record)
        try:
            found = cls(
                kept.get("verb", verb),
                Settings(**kept["settings"]),
                kept["corpus"],
                kept["data"],
                kept["base"],
                Template.from_json(kept["template"]),
                kept.get("ops", "kernels"),
                kept.get("isa", ""),
                dict(kept["sha256"]),
            )
            named = (
                found.corpus,
                found.ops,
                found.isa,
                *([] if found.base is None else [found.base]),
                *(found.data or []),
            )
            if not all(isinstance(name, str) for name in named):
                raise TypeError("corpus, base, ops, isa and data are text")
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise DataError(f"{record}: not as this program writes it ({error})") from None
        if found.verb != verb:
            raise UsageError(
                f"--resume: {folder} was begun by 'pysft {found.verb}'; go on with: python -m pysft"
                f" {found.verb} --resume --out {folder}"
            )
        return found

    def unchanged(self, inputs: dict[str, str]) -> None:
        """Refuse to go on with other text than it was begun with."""
        for name, digest in inputs.items():
            if (
                self.sha256.get(name, digest if name.startswith(SHIPPED) else None) != digest
            ):  # older records lack what ships
                raise DataError(
                    f"{name}: not what this run was begun with (its SHA-256 differs); put that"
                    " back, or begin a new run"
                )


SHIPPED = "shipped "  # before the name of a file of the package's own


def _inputs(
    settings: Settings, corpus: str, data, base: Stage | None, resume: bool, talks: bool = True
) -> dict[str, str]:
    """SHA-256 of everything a run reads, by its name: resuming on other text would be another run.
    talks: it is fine-tuned."""
    if resume and corpus not in CORPORA:
        _there(corpus)
    found = {corpus: hashlib.sha256(read_corpus(corpus).encode()).hexdigest()}
    names = (
        ["conversations.jsonl"]
        + ["pairs40.jsonl"] * ("pairs" in settings.data)
        + ["town.jsonl"] * bool(settings.transcripts)
    )
    files = (
        {str(f): Path(f) for f in data or []}
        if data or not talks
        else {SHIPPED + name: shipped(name) for name in names}
    )
    if base is not None:
        files |= {str(base.folder / "model.safetensors"): base.folder / "model.safetensors"}
    for name, file in files.items():
        if resume:
            _there(file)
        with suppress(OSError):  # whoever reads it next says what is wrong with it
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _there(path) -> None:
    """Refuse to resume where something is gone that the run was begun with."""
    try:
        if not Path(path).is_dir():
            open(path, "rb").close()
    except OSError as error:
        raise MissingInput(
            f"{path}: cannot be read ({error.strerror}), but the run was begun with it; put it back"
            + (
                ""
                if Path(path).is_absolute()
                else ", or resume from the folder where the run was begun"
            )
        ) from None


def _isa(ops_name: str) -> str:
    if ops_name == "reference":
        return ""
    from pysft.nn import ops

    return ops.ISA


def _resumed(out, verb: str, ops_name: str, on_nan: str | None, screen: Screen) -> Begun:
    """What the run in `out` was begun with, `on_nan` in its place if given; said where it is
    computed with something else than one might think."""
    begun = Begun.of(Path(out), verb)
    if begun.ops != ops_name:
        screen.say(f"resume: computed with the {begun.ops}, as it was begun")
    isa, here = begun.isa, _isa(begun.ops)
    if isa != here:
        same = (
            f" (with PYSFT_ISA={isa} they are, on a processor that has it)"
            if isa and "," not in isa
            else ""
        )
        screen.say(
            f"resume: begun on instruction set {isa or 'unknown'}, going on with {here}; from here"
            f" on the bits are not those of a run without a stop{same}"
        )
        isa = isa if isa.endswith(here) else f"{isa or 'unknown'}, {here}"
    return replace(
        begun, isa=isa, settings=replace(begun.settings, on_nan=on_nan or begun.settings.on_nan)
    )


@contextmanager
def _alone_in(begun: Begun, out, resume: bool, screen: Screen):
    """Inside `with`: alone in the folder of a run, the one that is resumed or a new one, with a
    record of what it is begun with. What the system refuses there is a sentence that says how to go
    on."""
    folder = (
        Path(out)
        if resume
        else new_run(out, "tools" if begun.settings.transcripts else begun.settings.preset)
    )
    with alone(folder) as locked:
        if not resume and (folder / "run.json").exists():  # another process was faster
            raise UsageError(
                f"{folder}: a training was begun in it meanwhile; name another folder by --out"
            )
        if locked:
            sweep(list(folder.rglob("*.tmp")))
        else:
            screen.say(
                f"{folder}: it cannot be locked here; see to it that no other process trains in it"
            )
        try:
            write_json(folder / "run.json", begun.to_json())
            yield folder
        except BrokenPipeError as error:
            raise Interrupted(
                f"stopped, since what it says cannot be written any more ({error.strerror}); go on"
                f" with --resume --out {folder}"
            ) from None
        except OSError as error:
            raise PysftError(
                f"{error.filename or folder}: {error.strerror or error}; what was complete on disk"
                f" is as it was; go on with --resume --out {folder}"
            ) from None


def _base_plan(settings: Settings, material: Material) -> tuple[GPTConfig, Plan]:
    """The base model's shape and its stage; refused if it cannot fit into memory."""
    config = GPTConfig(
        len(material.tokenizer),
        settings.context,
        settings.layers,
        settings.heads,
        settings.channels,
    )
    plan = pretrain(settings, material.tokenizer.encode(material.train_text), config.vocab)
    _fits(config, plan.rows)
    return config, plan


def _fits(config: GPTConfig, rows: int) -> None:
    """Refuse a shape that this machine's memory cannot hold, before anything is allocated."""
    size = sizes(config, rows)
    needed, there = (
        sum(size[k] for k in HELD),
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
    if needed > there:
        raise UsageError(
            f"context = {config.context}, layers = {config.layers}, channels = {config.channels}"
            f" with batches of {rows:,} rows need {needed / 2**30:,.0f} GiB; this machine has"
            f" {there / 2**30:,.0f}"
        )


def _finished(folder: Path, ops) -> Stage:
    """A stage that was trained before the run was interrupted."""
    try:
        return load_stage(folder, ops)
    except (DataError, MissingInput) as error:
        raise DataError(
            f"{error}; without {folder / 'model.safetensors'} --resume trains the stage anew"
        ) from None


def pretrain_base(
    settings: Settings, material: Material, folder: Path, ops, screen: Screen, resume: bool
) -> tuple[Stage, dict]:
    """The base stage of a run, trained now (or found finished there), and its figures."""
    target = folder / "base"
    if resume and (target / "model.safetensors").is_file():
        stage, report = (
            _finished(target, ops),
            understood(
                target / "report.json",
                lambda r: {
                    **r,
                    "base_loss": float(r["base_loss"]),
                    "seconds": float(r["seconds"]),
                    "tokens": int(r["tokens"]),
                },
            ),
        )
        drop_checkpoints(target)
        return stage, report
    config, plan = _base_plan(settings, material)
    params = _announce(screen, "base", config)
    model = GPT(config, ops, rng(settings.seed, "base", "init"))
    stage = Stage(target, model, material.tokenizer, material.template, asdict(settings))
    run_stage(stage, plan, settings, screen, resume)
    run = stage_figures(target)
    report = {
        "run": str(folder),
        "params": params,
        "base_loss": corpus_loss(model, material.tokenizer.encode(material.heldout_text)),
        "tokens_per_s": run["tokens"] / max(run["seconds"], 1e-9),
        "tokens": run["tokens"],
        "seconds": run["seconds"],
        "weights_sha256": weights_sha256(model),
    }
    write_json(
        target / "evaluation.json", Probe(material.heldout_text, [], [], [], [], []).to_json()
    )
    write_json(target / "report.json", finite(report))
    save_stage(stage)
    drop_checkpoints(target)
    screen.say(
        f"base: {report['base_loss']:.3f} nats/char on the held-out tail, {run['seconds']:.0f} s"
    )
    return stage, report


def train(
    settings: Settings,
    corpus: str | None,
    data: list[str] | None,
    base: str | None,
    out: str | None,
    resume: bool,
    ops_name: str,
    threads: int | None,
    screen: Screen,
    on_nan: str | None = None,
) -> dict:
    """Everything, from the corpus to the report; the --json document. on_nan: given with resume, it
    replaces the run's."""
    began = time.monotonic()
    begun = _resumed(out, "train", ops_name, on_nan, screen) if resume else None
    if begun is not None:
        ops_name, settings, corpus, data, base = (
            begun.ops,
            begun.settings,
            begun.corpus,
            begun.data,
            begun.base,
        )
    template = begun.template if resume else load_template(settings.template)
    ops = computing_ops(ops_name, threads)
    if resume and base:
        _there(base)
    given = _as_base(load_stage(base, ops), base) if base else None
    if given is not None:
        settings = _like(settings, given.model.config)
        corpus = corpus or _corpus_of(given)
    corpus = corpus or "plays"
    inputs = _inputs(settings, corpus, data, given, resume)
    if resume:
        begun.unchanged(inputs)
    material = gather(settings, corpus, data, given.tokenizer if given else None, template)
    # All that can be wrong with data and settings is found by now, before there is a folder.
    tokenizer = material.grown
    plan = finetune(
        settings,
        *material.examples,
        tokenizer.encode(material.train_text),
        len(tokenizer),
        material.files,
    )
    config = GPTConfig(
        len(tokenizer), settings.context, settings.layers, settings.heads, settings.channels
    )
    _fits(config, plan.rows)
    stages = [
        (config, plan.rows, sizes(config, 1)["weights"])
    ]  # beside the tuned model stands the base
    if given is None:
        base_config, base_plan = _base_plan(settings, material)
        stages.append((base_config, base_plan.rows, 0))
    begun = begun or Begun(
        "train", settings, corpus, data, base, template, ops_name, _isa(ops_name), inputs
    )
    with _alone_in(begun, out, resume, screen) as folder:
        _describe(screen, settings, folder, corpus, material)
        _say_memory(screen, *stages)
        counted = _describe_data(screen, settings, material, plan)
        if given is None:
            stage, base_report = pretrain_base(settings, material, folder, ops, screen, resume)
        else:
            stage = given
            base_report = {
                "base_loss": corpus_loss(stage.model, tokenizer.encode(material.heldout_text)),
                "seconds": 0.0,
                "tokens": 0,
            }
            screen.say(
                f"base: {stage.folder}, {base_report['base_loss']:.3f} nats/char on the held-out"
                " tail"
            )
        tuned, made = _tune(
            settings,
            material,
            plan,
            counted,
            stage,
            base_report["base_loss"],
            folder,
            screen,
            resume,
        )
        run = stage_figures(tuned.folder)

        screen.say("measuring ...")
        tuned.model.release()
        figures, replies = measure(tuned.model, tokenizer, template, material.probe, settings.grade)
        tuned.model.release()
        verdicts, replies = origins(replies, material.probe)
        if settings.transcripts:
            figures |= {"tools": tool_test(tuned.model, tokenizer, template, material.probe)}
        seconds = run["seconds"] + base_report["seconds"]
        report = finite(
            {
                "run": str(folder),
                "preset": settings.preset,
                "base_loss": base_report["base_loss"],
                **made,
                **figures,
                "origins": verdicts,
                "forgetting": figures["tuned_base_loss"] / base_report["base_loss"] - 1,
                "sft_loss_start": run["loss_start"],
                "sft_loss": run["loss"],
                **counted,
                "tokens_per_s": (run["tokens"] + base_report["tokens"]) / max(seconds, 1e-9),
                "peak_memory": peak_memory(),
                "training_seconds": seconds,
                "seconds": time.monotonic() - began,
                "weights_sha256": weights_sha256(tuned.model),
            }
        )
        sides = before_and_after(stage, replies)
        write_json(tuned.folder / "report.json", report)
        write_json(tuned.folder / "samples.json", replies)
        write_json(tuned.folder / "before.json", {"rows": sides})
        tuned.model.release()
        side_by_side(sides, screen)
        table(report, screen)
        screen.say(f"\nTalk to it:  {os.path.relpath(sys.executable)} -m pysft chat {folder}")
        screen.say(f"Read all of it:  {report_page.write_report(folder)}")
        return report


def _describe_data(screen: Screen, settings: Settings, material: Material, plan: Plan) -> dict:
    """Say what is learnt from and how it is graded; the counts of targets, of end tokens and of
    turns."""
    examples, template = [*material.examples[0], *material.examples[1]], material.template
    counted = census(examples, material.grown.special[template.end]) | {
        "turns": graded_ends(material.conversations + material.pairs, template, settings.grade)
    }
    screen.say(
        f"data: template {template.name}; graded: {GRADED[settings.grade]}; too long: "
        f"{'refused' if settings.too_long == 'refuse' else 'left out'}; unknown characters: "
        f"{ {'refuse': 'refused', 'replace': 'replaced', 'grow': 'added to the vocabulary'}[settings.unknown] }; "
        + ("mixed " + " : ".join(f"{w:g}" for w in settings.mix) + "; " if settings.mix else "")
        + "epochs: "
        + ", ".join(f"{n:.1f} of {what}" for what, n in plan.epochs.items())
    )
    for note in material.notes:
        screen.say(f"data: {note}")
    screen.say(
        f"conversations: {len(examples):,} ({len(material.heldout):,} more held out); graded "
        f"{counted['graded_targets']:,} of {counted['targets']:,} targets "
        f"({counted['graded_targets'] / counted['targets']:.0%}); end tokens graded: "
        f"{counted['end_tokens_graded']:,} of {counted['turns']:,} turns"
    )
    return counted


def _tune(
    settings: Settings,
    material: Material,
    plan: Plan,
    counted: dict,
    base: Stage,
    base_loss: float,
    folder: Path,
    screen: Screen,
    resume: bool,
) -> tuple[Stage, dict]:
    """Grow the base's vocabulary, fine-tune it, and keep it as RUN/sft, unless resume finds it
    there: the stage, its number of parameters, how many of them were trained, and the loss on base
    text before they were."""
    tokenizer = material.grown
    base.model.release()
    model = expand_vocab(
        base.model, len(tokenizer), settings.new_rows, rng(settings.seed, "sft", "rows")
    )
    grown_loss = corpus_loss(model, tokenizer.encode(material.heldout_text))
    tuned = Stage(
        folder / "sft",
        model,
        tokenizer,
        material.template,
        asdict(settings),
        {"path": str(base.folder), "weights_sha256": weights_sha256(base.model)},
    )
    params = _announce(
        screen,
        f"sft: vocabulary {base.model.config.vocab} -> {len(tokenizer)} "
        f"({settings.new_rows} rows; base text now {grown_loss:.3f})",
        model.config,
    )
    trained = _adapted(settings, model, len(material.tokenizer))
    if trained is not model:
        screen.say(
            f"sft: LoRA of rank {settings.lora_rank} on {', '.join(settings.lora_matrices)}:"
            f" {trained.trained:,} weights are trained ({trained.share:.2%}), new rows included;"
            " the others stay as they are"
        )
    if resume and (tuned.folder / "model.safetensors").is_file():
        tuned = _finished(tuned.folder, model.ops)
        if not whole_log(tuned.folder, plan.steps):
            screen.say(
                f"{tuned.folder / 'log.jsonl'}: lines are damaged or missing; figures of the"
                " training itself (its losses, tokens per second) are of what is left"
            )
    else:
        make_folder(tuned.folder)
        write_json(tuned.folder / "data.json", _data(material, plan, counted))
        write_json(tuned.folder / "evaluation.json", material.probe.to_json())
        run_stage(
            tuned,
            plan,
            settings,
            screen,
            resume,
            trained,
            checkpoint_steps(settings, plan),
            _watcher(tuned, trained, material.probe, settings, base_loss, screen),
        )
        if trained is not model:
            trained.merge()
            save_adapter(tuned.folder / "adapter.safetensors", trained)
        save_stage(tuned)
    drop_checkpoints(tuned.folder)
    return tuned, {
        "params": params,
        "trained_params": trained.params.size,
        "grown_base_loss": grown_loss,
    }


def _adapted(settings: Settings, model: GPT, old_vocab: int):
    """The model, or the LoRA around it that is to be trained in its place."""
    if not settings.lora_rank:
        return model
    return LoRA(
        model,
        settings.lora_rank,
        settings.lora_matrices,
        settings.lora_alpha or None,
        old_vocab=old_vocab,
        rng=rng(settings.seed, "sft", "lora"),
    )


def _watcher(
    tuned: Stage, trained, probe: Probe, settings: Settings, base_loss: float, screen: Screen
):
    """What is done at a checkpoint: measure, keep the figures, some replies and the weights."""

    def watch(step, loss):
        if trained is not tuned.model:
            trained.merge()
        figures, replies = measure(
            tuned.model, tuned.tokenizer, tuned.template, probe, settings.grade
        )
        samples = [
            row
            for group, count in (("pairs", 4), ("prompts", 8), ("heldout", 4))
            for row in replies[group][:count]
        ]
        add_measurement(
            tuned.folder,
            finite(
                {
                    "step": step,
                    "sft_loss": loss,
                    **figures,
                    "forgetting": figures["tuned_base_loss"] / base_loss - 1,
                }
            )
            | {"samples": samples},
        )
        if step:
            save_stage(replace(tuned, folder=tuned.folder / "steps" / str(step)))

    return watch


def _data(material: Material, plan: Plan, counted: dict) -> dict:
    """What the model learns from, in numbers, for the report."""
    trained = material.conversations + material.pairs
    talks = [c for c in trained if not c.is_text]
    kinds = Counter(c.category for c in trained if c.category)
    lengths = [len(e.labels) + 1 for e in [*material.examples[0], *material.examples[1]]]
    return {
        "conversations": len(material.conversations),
        "pairs": len(material.pairs),
        "heldout": len(material.heldout),
        "notes": material.notes,
        "epochs": plan.epochs,
        "tokens": spread(lengths),
        "prompt_length": spread([len(c.prompt) for c in talks]),
        "reply_length": spread([len(r) for c in talks for r in c.replies()]),
        "categories": kinds.most_common(20),
        **counted,
    }


def pretrain_only(
    settings: Settings,
    corpus: str | None,
    out: str | None,
    resume: bool,
    ops_name: str,
    threads: int | None,
    screen: Screen,
    on_nan: str | None = None,
) -> dict:
    """The base stage alone; the --json document."""
    begun = _resumed(out, "pretrain", ops_name, on_nan, screen) if resume else None
    if begun is not None:
        ops_name, settings, corpus = begun.ops, begun.settings, begun.corpus
    corpus = corpus or "plays"
    template = begun.template if resume else load_template(settings.template)
    ops = computing_ops(ops_name, threads)
    inputs = _inputs(settings, corpus, None, None, resume, talks=False)
    if resume:
        begun.unchanged(inputs)
    text = read_corpus(corpus)
    material = Material(*split_corpus(text), CharTokenizer.of(text), template)
    config, plan = _base_plan(settings, material)  # what cannot be is said before there is a folder
    begun = begun or Begun(
        "pretrain", settings, corpus, None, None, template, ops_name, _isa(ops_name), inputs
    )
    with _alone_in(begun, out, resume, screen) as folder:
        _describe(screen, settings, folder, corpus, material)
        _say_memory(screen, (config, plan.rows, 0))
        return pretrain_base(settings, material, folder, ops, screen, resume)[1]


def merge(adapter: Path, base: str, out: str) -> str:
    """Write RUN/sft with the adapters of a LoRA training merged into their base; the SHA-256 of its
    weights, which are those that the training ended with, bit by bit."""
    if not adapter.is_file():
        raise MissingInput(
            f"{adapter}: no such file; a training with --lora writes RUN/sft/adapter.safetensors"
        )
    home = adapter.parent
    tokenizer = understood(home / "vocabulary.json", CharTokenizer.from_json)
    template = understood(home / "template.json", Template.from_json)
    given = _as_base(load_stage(base), base)
    model = apply_adapter(adapter, given.model)
    if len(tokenizer) != model.config.vocab:
        raise DataError(
            f"{home / 'vocabulary.json'}: {len(tokenizer)} symbols, but the adapters are for"
            f" {model.config.vocab}"
        )
    there = Path(out).is_dir()
    folder = new_run(out, "merged")
    try:
        save_stage(
            Stage(
                folder / "sft",
                model,
                tokenizer,
                template,
                given.settings,
                {"path": str(given.folder), "weights_sha256": weights_sha256(given.model)},
            )
        )
    except BaseException:  # it can be made again, and half of it is in the way
        shutil.rmtree(folder / "sft", ignore_errors=True)
        if not there:
            with suppress(OSError):
                folder.rmdir()
        raise
    return weights_sha256(model)


def _as_base(stage: Stage, path) -> Stage:
    """--base RUN: the run's base stage, also when RUN has been fine-tuned already."""
    if stage.tokenizer.specials:
        folder = stage.folder.parent / "base"
        if (folder / "model.safetensors").is_file():
            return load_stage(folder, stage.model.ops)
        raise UsageError(
            f"--base {path}: its vocabulary has special tokens already, so it is no base model"
        )
    return stage


def _corpus_of(base: Stage) -> str:
    """The text that a base was trained on: what it forgets is to be measured on that."""
    record = base.folder.parent / "run.json"
    if not record.is_file():
        return "plays"
    corpus = read_json(record).get("corpus")
    if not isinstance(corpus, str):
        raise DataError(f"{record}: not as this program writes it (no corpus)")
    return corpus


def _like(settings: Settings, config: GPTConfig) -> Settings:
    """The settings with a given model's shape."""
    return replace(
        settings,
        context=config.context,
        layers=config.layers,
        heads=config.heads,
        channels=config.channels,
        base_windows=((config.context, 1),),  # no base will be trained
        sft_windows=tuple((min(n, config.context), count) for n, count in settings.sft_windows),
    )


def reading(
    run: str | None,
    corpus: str | None,
    template: str | None,
    ops_name: str = "reference",
    threads: int | None = None,
) -> tuple[CharTokenizer, Template, int, Stage | None]:
    """(tokenizer with the template's tokens, template, context, stage) by which a data set would be
    read: a run's own, or those of a corpus."""
    if run is None:
        chosen = load_template(template or "chat")
        tokenizer = CharTokenizer.of(read_corpus(corpus or "plays")).grow(
            chosen.tokens + chosen.tool_tokens
        )
        return tokenizer, chosen, Settings().context, None
    if corpus is not None:
        raise UsageError("--run has its own vocabulary; leave --corpus out")
    stage = load_stage(run, computing_ops(ops_name, threads))
    tuned = bool(stage.tokenizer.specials)
    if tuned and template is not None and load_template(template) != stage.template:
        raise UsageError(
            f"--run {run}: it was trained with template {stage.template.name!r}; leave"
            " --template out"
        )
    chosen = stage.template if tuned or template is None else load_template(template)
    tokenizer = (
        stage.tokenizer if tuned else stage.tokenizer.grow(chosen.tokens + chosen.tool_tokens)
    )
    return tokenizer, chosen, stage.model.config.context, stage


def evaluate(
    run: str,
    ops_name: str,
    threads: int | None,
    matched: bool = False,
    progress=lambda text, last: None,
) -> dict:
    """Measure a run, or one checkpoint of it, again from what its folder holds. matched: also what
    the base would have lost or gained by the replay alone, which is trained now (all its weights,
    where the fine-tuning had adapters too)."""
    began = time.monotonic()
    stage = load_stage(run, computing_ops(ops_name, threads))
    home = measured_stage(stage.folder)
    path = home / "evaluation.json"
    if not path.is_file():
        raise MissingInput(
            f"{path}: not there, so there is nothing to measure with: training writes it, merging"
            " does not; name the run that was trained"
        )
    probe = Probe.from_json(read_json(path), str(path), stage.template)
    report = {
        "run": str(run),
        "params": stage.model.params.size,
        "weights_sha256": weights_sha256(stage.model),
    }
    if not stage.tokenizer.specials:
        loss = corpus_loss(stage.model, stage.tokenizer.encode(probe.heldout_text))
        return report | {"base_loss": loss, "seconds": time.monotonic() - began}
    stored = (
        read_json(home / "report.json") if (home / "report.json").is_file() else {}
    )  # there is none before it is finished
    if home != stage.folder:  # a checkpoint: the training loss is its own
        stored |= {"sft_loss": None, "tokens_per_s": None} | next(
            (
                {"sft_loss": row.get("sft_loss")}
                for row in _measured(home)
                if str(row["step"]) == stage.folder.resolve().name
            ),
            {},
        )
    if not isinstance(stored.get("base_loss"), (int, float, type(None))):
        raise DataError(
            f"{home / 'report.json'}: not as this program writes it (base_loss is"
            f" {stored['base_loss']!r})"
        )
    figures, replies = measure(
        stage.model, stage.tokenizer, stage.template, probe, stage.setting("grade", "all")
    )
    verdicts, replies = origins(replies, probe)
    if stage.setting("transcripts", 0):
        figures |= {"tools": tool_test(stage.model, stage.tokenizer, stage.template, probe)}
    kept = (
        "preset",
        "base_loss",
        "grown_base_loss",
        "sft_loss_start",
        "sft_loss",
        "graded_targets",
        "targets",
        "end_tokens_graded",
        "turns",
        "tokens_per_s",
    )
    report |= {name: stored.get(name) for name in kept} | figures | {"origins": verdicts}
    try:
        base = _parent(stage, home)
    except PysftError:  # damaged: it is needed for --matched only
        if matched:
            raise
        base = None
    if report["base_loss"] is None and base is not None:
        report["base_loss"] = corpus_loss(base.model, base.tokenizer.encode(probe.heldout_text))
    if report["base_loss"]:
        report["forgetting"] = figures["tuned_base_loss"] / report["base_loss"] - 1
    sides = before_and_after(base, replies) if base is not None else []
    if matched:
        loss = matched_loss(stage, base, probe, progress)
        report |= {
            "matched_base_loss": loss,
            "forgetting_matched": figures["tuned_base_loss"] / loss - 1,
        }
    return finite(report | {"seconds": time.monotonic() - began}) | {
        "before_after": sides,
        "samples": replies["prompts"],
    }


def _measured(home: Path) -> list[dict]:
    try:
        return read_measurements(home)
    except PysftError:
        return []


def _parent(stage: Stage, home: Path) -> Stage | None:
    """The base that a stage was tuned from, beside it or where it was then, known by the hash of
    its weights."""
    parent = stage.parent if isinstance(stage.parent, dict) else {}
    for folder in [home.parent / "base"] + (
        [Path(parent["path"])] if isinstance(parent.get("path"), str) else []
    ):
        if (folder / "model.safetensors").is_file():
            base = load_stage(folder, stage.model.ops)
            if weights_sha256(base.model) == parent.get("weights_sha256"):
                return base
    return None


def matched_loss(
    stage: Stage, base: Stage | None, probe: Probe, progress=lambda text, last: None
) -> float:
    """Nats per character of the held-out tail after the base was trained on alone, on the very
    windows of base text that the fine-tuning replayed, at its rates."""
    if base is None:
        raise MissingInput(
            f"{stage.folder}: the base it was tuned from is neither beside it nor where it was, and"
            " --matched trains it on; put it back"
        )
    if not probe.corpus_text:
        raise DataError(
            f"{stage.folder}: it does not hold the corpus, which an older version did not keep;"
            " train it anew for --matched"
        )
    try:
        settings = Settings(**stage.settings)
    except (TypeError, UsageError) as error:
        raise DataError(
            f"{stage.folder / 'settings.json'}: not settings of this version ({error})"
        ) from None
    return loss_after_replay(
        base.model,
        settings,
        base.tokenizer.encode(probe.corpus_text),
        base.tokenizer.encode(probe.heldout_text),
        progress,
    )


# ---------------------------------------------------------------------------------- what is shown


def before_and_after(base: Stage, replies: dict) -> list[list]:
    """[[prompt, the base's completion (temperature 0.8), the tuned model's reply, its stop, trained
    on?]] (none with characters that only the tuned model has)."""
    room = base.model.config.context - 1
    rows = [
        (row, group == "pairs")
        for group, count in (("pairs", 4), ("prompts", 6))
        for row in [
            r for r in replies[group] if 0 < len(r[0]) <= room and not base.tokenizer.unknown(r[0])
        ][:count]
    ]
    prompts = [base.tokenizer.encode(row[0]) for row, _ in rows]
    ends = generate(base.model, prompts, 40, sampling=Sampling(temperature=0.8, seed=1))
    return [
        [row[0], base.tokenizer.decode(end.ids), row[1], row[2], seen]
        for (row, seen), end in zip(rows, ends)
    ]


def side_by_side(rows: list[list], screen: Screen) -> None:
    """before_and_after() as people read it."""
    if rows:
        screen.say("\nbase model (completes, temperature 0.8)  ->  tuned model (answers, greedy)")
    for i, (prompt, completion, reply, stop, seen) in enumerate(rows):
        if i == 0 or seen != rows[i - 1][4]:
            screen.say(f"\n  {'prompts it was trained on' if seen else 'prompts it never saw'}")
        completion = completion.replace("\n", " / ")
        screen.say(f"  {prompt!r}\n      base:  {prompt}{completion} ...")
        screen.say(f"      tuned: {reply}{'' if stop == 'end' else ' [no end token]'}")


def table(report: dict, screen: Screen) -> None:
    """The short table at the end of training and of eval."""

    def number(name, form):
        value = report.get(name)
        return "-" if value is None else form.format(value)

    recalled = (
        round(report["recall"] * report["recall_of"]) if report.get("recall") is not None else 0
    )
    prompts = report.get("prompts", 0)
    rows = [
        (
            "base text, nats/char",
            f"{number('base_loss', '{:.3f}')} -> {number('tuned_base_loss', '{:.3f}')}"
            f"   (forgetting {number('forgetting', '{:+.1%}')}"
            + (
                "; against a base that had the replay too"
                f" {number('forgetting_matched', '{:+.1%}')}"
                if "forgetting_matched" in report
                else ""
            )
            + ")",
        ),
        (
            "fine-tuning loss, nats",
            f"{number('sft_loss_start', '{:.3f}')} -> {number('sft_loss', '{:.3f}')}",
        ),
        ("held-out conversations", f"{number('heldout_loss', '{:.3f}')} nats per graded token"),
        (
            "recalled word for word",
            f"{recalled} of {report['recall_of']}, stopped {number('stopped', '{:.0%}')}",
        ),
        (
            "format compliance",
            (
                f"{number('format_compliance', '{:.0%}')} of {prompts} unseen prompts, "
                f"{report['distinct_replies']} distinct, {report['verbatim_replies']} from training"
            ),
        ),
        (
            "on topic",
            (
                f"{number('on_topic', '{:.1%}')} of {report['in_domain_prompts']} unseen in-domain"
                f" prompts (chance {number('on_topic_chance', '{:.1%}')})"
            ),
        ),
        ("real words", number("real_words", "{:.1%}")),
        (
            "memorised?",
            ", ".join(
                f"{report['origins'].get(v, 0)} {v}" for v in VERDICTS if report["origins"].get(v)
            ),
        ),
        *(told(report["tools"]) if report.get("tools") else ()),
        ("graded targets", f"{number('graded_targets', '{:,}')} of {number('targets', '{:,}')}"),
        (
            "training",
            (
                f"{number('tokens_per_s', '{:,.0f}')} tokens/s; this command took"
                f" {number('seconds', '{:.0f}')} s"
            ),
        ),
        ("weights", f"{report['params']:,}, SHA-256 {report['weights_sha256'][:16]}"),
    ]
    screen.say("")
    for name, value in rows:
        screen.say(f"{name:<24} {value}")


def domains(report: dict, screen: Screen) -> None:
    """Generalisation: the figures of the unseen prompts by domain."""
    screen.say(
        "\nunseen prompts           number  compliance  on topic (chance)  real words  distinct "
        " from training"
    )
    for domain, d in report["by_domain"].items():

        def share(name):
            return "-" if d[name] is None else f"{d[name]:.0%}"

        screen.say(
            f"  {domain + ' domain':<22} {d['prompts']:>6}  {share('format_compliance'):>10} "
            f" {share('on_topic') + ' (' + share('on_topic_chance') + ')':>17} "
            f" {share('real_words'):>10}  {d['distinct_replies']:>8}  {d['verbatim_replies']:>13}"
        )
    screen.say(
        f"  compliance has three parts: content {report['content']:.0%}, stops"
        f" {report['stopped_unseen']:.0%}, no control token inside {report['no_user_turn']:.0%}"
        if report["prompts"]
        else ""
    )


def provenance(samples: list, screen: Screen) -> None:
    """Replies to unseen prompts, each with what of it stands in the training data."""
    for prompt, reply, stop, origin in samples:
        screen.say(
            f"\n  {prompt!r}\n    {reply}{'' if stop == 'end' else ' [no end token]'}\n   "
            f" {origin['verdict']}: longest stretch in common with the training replies"
            f" {origin['shared_replies']}, with the corpus {origin['shared_corpus'] or 'under 16'}"
            + (
                f"; nearest ({origin['similarity']:.0%}): {origin['nearest']}"
                if origin["similarity"]
                else ""
            )
        )
    if samples:
        screen.say("\n" + textwrap.fill(RULE, 110))


def _describe(
    screen: Screen, settings: Settings, folder: Path, corpus: str, material: Material
) -> None:
    """The resolved settings and where everything is."""
    text = ", ".join(f"{k} {v}" for k, v in asdict(settings).items())
    screen.say(
        textwrap.fill("settings: " + text, 110, subsequent_indent="  ", break_on_hyphens=False)
    )
    screen.say(
        f"run: {folder}; corpus: {corpus} ({len(material.train_text):,} characters to train on, "
        f"{len(material.heldout_text):,} held out)"
    )
