"""Begin a run or resume one: its inputs, its record, its folder and the folder's lock."""

import hashlib
import textwrap
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pysft.console import Screen
from pysft.disk import lock_folder, remove_leftovers
from pysft.errors import DataError, Interrupted, MissingInput, PysftError, UsageError
from pysft.jobs.material import Material
from pysft.run.begun import SHIPPED, Begun
from pysft.run.stage import Stage, load_stage, new_run, read_json, write_json
from pysft.text.corpora import CORPORA, read_corpus, shipped
from pysft.text.template import Template
from pysft.text.templates import load_template
from pysft.training.settings import Settings


@dataclass(frozen=True)
class Order:
    """What a training job is asked to do, from the flags of train or pretrain.

    corpus: a path, "plays" or "shakespeare"; None is the corpus of the base, or plays without one.
    data: files of conversations; None is the shipped ones. base: a run whose base model is tuned;
    None trains one. out: the run's folder; None is runs/PRESET. ops: "kernels" or "reference".
    threads: None is gate.default_threads(). on_nan: replaces the setting of a resumed run; None
    keeps it. template: that of a resumed run; None is the one in the settings."""

    settings: Settings
    corpus: str | None = None
    data: list[str] | None = None
    base: str | None = None
    out: str | None = None
    resume: bool = False
    ops: str = "kernels"
    threads: int | None = None
    on_nan: str | None = None
    template: Template | None = None

    def chosen_template(self) -> Template:
        return self.template or load_template(self.settings.template)


def resumed(order: Order, verb: str, screen: Screen) -> tuple[Order, Begun]:
    """Return (the order that the run `order.out` was begun with, its record).

    Tell the user if the run's --ops differs from the command line's, or if its instruction set
    differs from this machine's. Errors as in Begun.of."""
    folder = Path(order.out)
    begun = Begun.of(folder, verb)
    try:
        settings = Settings(**begun.settings)
    except (TypeError, ValueError, UsageError) as error:
        raise DataError(f"{folder / 'run.json'}: not as this program writes it ({error})") from None
    if begun.ops != order.ops:
        screen.say(f"resume: this run was begun with --ops {begun.ops}, and goes on with it")
    isa, here = begun.isa, current_isa(begun.ops)
    if isa != here:
        is_one = isa and "," not in isa
        remedy = f" (PYSFT_ISA={isa} keeps them, on a processor that has it)" if is_one else ""
        screen.say(
            f"resume: begun on instruction set {isa or 'unknown'}, going on with {here}. From here"
            f" on the bits differ from those of an uninterrupted run{remedy}"
        )
        isa = isa if isa.endswith(here) else f"{isa or 'unknown'}, {here}"
    settings = replace(settings, on_nan=order.on_nan or settings.on_nan)
    begun = replace(begun, isa=isa, settings=asdict(settings))
    order = replace(
        order,
        settings=settings,
        corpus=begun.corpus,
        data=begun.data,
        base=begun.base,
        ops=begun.ops,
        template=begun.template,
    )
    return order, begun


def current_isa(ops_name: str) -> str:
    """Return the instruction set of the kernels, or "" for the reference."""
    if ops_name == "reference":
        return ""
    from pysft.nn import gate

    return gate.ISA


def base_stage(stage: Stage, path) -> Stage:
    """Return the base that --base names: `stage` itself, or the base beside it if it is tuned. A
    UsageError if there is none. path: the value of --base, for the message."""
    if stage.can_talk:
        folder = stage.folder.parent / "base"
        if (folder / "model.safetensors").is_file():
            return load_stage(folder, stage.model.ops)
        raise UsageError(
            f"--base {path}: this model is tuned already (its vocabulary has"
            f" {stage.template.end}). Name a base model"
        )
    return stage


def corpus_of(base: Stage) -> str:
    """Return the corpus that a base was trained on, because forgetting is measured on it. It is
    "plays" if the base has no record. A DataError if the record is damaged."""
    record = base.folder.parent / "run.json"
    if not record.is_file():
        return "plays"
    corpus = read_json(record).get("corpus")
    if not isinstance(corpus, str):
        raise DataError(f"{record}: not as this program writes it (no corpus)")
    return corpus


def input_digests(order: Order, base: Stage | None, tunes: bool = True) -> dict[str, str]:
    """Return the SHA-256 of everything that a run reads, by name. With other inputs it would be
    another run.

    tunes: whether the run reads conversations. MissingInput if a resumed run lacks a file."""
    if order.resume and order.corpus not in CORPORA:
        require(order.corpus)
    found = {order.corpus: hashlib.sha256(read_corpus(order.corpus).encode()).hexdigest()}
    files = {str(path): Path(path) for path in order.data or []}
    if tunes and not order.data:
        names = ["conversations.jsonl"]
        names += ["pairs40.jsonl"] if "pairs" in order.settings.data else []
        names += ["town.jsonl"] if order.settings.transcripts else []
        files = {SHIPPED + name: shipped(name) for name in names}
    if base is not None:
        files |= {str(base.folder / "model.safetensors"): base.folder / "model.safetensors"}
    for name, file in files.items():
        if order.resume:
            require(file)
        with suppress(OSError):  # gather() opens the file next, and explains what is wrong with it
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def require(path) -> None:
    """Raise MissingInput if a file or folder that a resumed run needs cannot be read."""
    try:
        if not Path(path).is_dir():
            open(path, "rb").close()
    except OSError as error:
        absolute = Path(path).is_absolute()
        raise MissingInput(
            f"{path}: cannot be read ({error.strerror}), but this run was begun with it. Put it"
            " back" + ("" if absolute else ", or resume from the folder where the run was begun")
        ) from None


@contextmanager
def open_run(begun: Begun, out: str | None, resume: bool, screen: Screen):
    """Make and lock the folder of a run, or lock that of a resumed one, and write its record.

    Yields the folder. Inside `with`, no other process can train in it (where folders can be locked)
    and every OSError becomes an error that says how to resume the run: Interrupted if the output
    can no longer be written, else PysftError. A UsageError if the folder is taken."""
    preset = "tools" if begun.settings["transcripts"] else begun.settings["preset"]
    folder = Path(out) if resume else new_run(out, preset)
    with lock_folder(folder) as is_locked:
        if not resume and (folder / "run.json").exists():  # another process was faster
            raise UsageError(
                f"{folder}: another process has begun a training in it. Name another folder by"
                " --out"
            )
        if is_locked:
            remove_leftovers(list(folder.rglob("*.tmp")))
        else:
            screen.say(f"{folder}: cannot be locked here. Make sure no other process trains in it")
        try:
            write_json(folder / "run.json", begun.to_json())
            yield folder
        except BrokenPipeError as error:
            raise Interrupted(
                f"stopped, because its output can no longer be written ({error.strerror}). Go on"
                f" with --resume --out {folder}"
            ) from None
        except OSError as error:
            raise PysftError(
                f"{error.filename or folder}: {error.strerror or error}. Files that were complete"
                f" on disk are unchanged. Go on with --resume --out {folder}"
            ) from None


def describe(
    screen: Screen, settings: Settings, folder: Path, corpus: str, material: Material
) -> None:
    """Print the resolved settings, the folder and the corpus."""
    text = ", ".join(f"{k} {v}" for k, v in asdict(settings).items())
    screen.say(
        textwrap.fill("settings: " + text, 110, subsequent_indent="  ", break_on_hyphens=False)
    )
    screen.say(
        f"run: {folder}; corpus: {corpus} ({len(material.train_text):,} characters to train on, "
        f"{len(material.heldout_text):,} held out)"
    )
