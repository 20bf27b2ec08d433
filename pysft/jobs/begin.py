"""Begin a run or resume one: its inputs, its record, its folder and the folder's lock."""

import hashlib
import json
import signal
import textwrap
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pysft.console import Screen
from pysft.disk import lock_folder, remove_leftovers
from pysft.errors import DataError, Interrupted, MissingInput, PysftError, UsageError
from pysft.jobs.material import WORLD, Material
from pysft.measure.raters import is_function
from pysft.nn.shapes import GPTConfig
from pysft.run.begun import READ, SHIPPED, Begun, resume_command
from pysft.run.stage import (
    Stage,
    measured_stage,
    new_run,
    read_json,
    reward_model,
    understood,
    write_json,
)
from pysft.run.tree import line_of, named_base
from pysft.text.corpora import CORPORA, read_corpus, shipped
from pysft.text.template import Template
from pysft.text.templates import load_template
from pysft.text.tokenizers import vocabulary_from_json, vocabulary_to_json
from pysft.training.flat import stored_settings
from pysft.training.kinds import ALIGNING, check_stages, kind_of
from pysft.training.presets import Parent
from pysft.training.settings import Model, Settings
from pysft.training.values import as_toml


@dataclass(frozen=True)
class Order:
    """What a training job is asked to do, from the flags of train or pretrain.

    settings: those of the stages to train. corpus: a path, "plays" or "shakespeare"; None is the
    corpus of the base, or plays without one. data: files of conversations; None is the shipped
    ones. base: a run or a stage to begin from; None begins from nothing. out: the run's folder;
    None is runs/NAME. ops: "kernels" or "reference". threads: None is gate.default_threads().
    on_nan, save_every: replace the settings of a resumed run; None keeps them. template: that of a
    resumed run, or of a tuned model to begin from; None is the one in the settings. plain: the
    settings to use if no transcripts of tool use can be made from the corpus; None makes that an
    error. name: that of the run's folder below runs/ if `out` names none; None is the preset's.
    rankings: files of comparisons; None makes them. reward: a run whose reward model ranks or
    scores replies; None is the one that this run trains. prompts: a file of prompts for PPO; None
    asks the questions of the world."""

    settings: Settings
    corpus: str | None = None
    data: list[str] | None = None
    base: str | None = None
    out: str | None = None
    resume: bool = False
    ops: str = "kernels"
    threads: int | None = None
    on_nan: str | None = None
    save_every: float | None = None
    template: Template | None = None
    plain: Settings | None = None
    name: str | None = None
    rankings: list[str] | None = None
    reward: str | None = None
    prompts: str | None = None

    def chosen_template(self) -> Template:
        return self.template or load_template(self.settings.data.template)

    @property
    def tunes(self) -> bool:
        """True if a stage of it learns from conversations."""
        return any(kind_of(name) not in ("base", *ALIGNING) for name in self.settings.stages)

    @property
    def aligns(self) -> bool:
        """True if a stage of it learns from comparisons or from a reward."""
        return any(kind_of(name) in ALIGNING for name in self.settings.stages)


@dataclass(frozen=True)
class Place:
    """Where the stages of a run are trained.

    folder: the run's. resume: whether the run goes on. ops: the functions to compute with. inputs:
    the SHA-256 of what the run reads. began: the time (time.monotonic) when the command began.
    names: those of all its stages, in order."""

    folder: Path
    screen: Screen
    resume: bool
    ops: object
    inputs: dict[str, str]
    began: float
    names: list[str]

    def trained(self, name: str) -> list[Path]:
        """Return the folders of the stages of this run up to `name`."""
        return [self.folder / n for n in self.names[: self.names.index(name) + 1]]


def resumed(order: Order, verb: str, screen: Screen) -> tuple[Order, Begun]:
    """Return (the order that the run `order.out` was begun with, its record).

    Tell the user if the run's --ops differs from the command line's, or if its instruction set
    differs from this machine's. Errors as in Begun.of."""
    folder = Path(order.out)
    begun = Begun.of(folder, verb)
    settings = _stored_settings(begun, folder)
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
    settings = settings.everywhere(on_nan=order.on_nan, save_every=order.save_every)
    begun = replace(begun, isa=isa, settings=settings.to_json())
    order = replace(
        order,
        settings=settings,
        corpus=begun.corpus,
        data=begun.data,
        rankings=begun.rankings,
        reward=begun.reward,
        prompts=begun.prompts,
        base=begun.base,
        ops=begun.ops,
        template=begun.template,
    )
    return order, begun


def _stored_settings(begun: Begun, folder: Path) -> Settings:
    """Return the settings in the record of a run. A DataError if they are damaged."""
    try:
        stages = ["base", "sft"] if begun.base is None else ["sft"]
        stages = stages if begun.verb == "train" else ["base"]
        settings = stored_settings(begun.settings, stages)
        check_stages(list(settings.stages), begun.base)
        return settings
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise DataError(f"{folder / 'run.json'}: not as this program writes it ({error})") from None


def current_isa(ops_name: str) -> str:
    """Return the instruction set of the kernels, or "" for the reference."""
    if ops_name == "reference":
        return ""
    from pysft.nn import gate

    return gate.ISA


def parent_named(base: str) -> Parent:
    """Return what the stage that --base names decides for a training. MissingInput or a UsageError
    if there is none, a DataError if it is damaged."""
    if not base.strip():
        raise UsageError("--base is empty; name a run or a stage to begin from, or leave it out")
    folder = named_base(base)
    path = folder / "settings.json"
    config = understood(path, lambda data: GPTConfig(**data["model"]))
    if config.outputs != "nll":
        raise UsageError(
            f"--base {base}: its outputs are {config.outputs!r}; a training begins from a model"
            " that gives nll alone"
        )
    fixed = {"model": asdict(Model.of(config)), "data": {}}
    world = understood(path, lambda data: data["settings"].get("world"))
    preset = understood(path, lambda data: data["settings"].get("preset", ""))
    if world is not None and _has_read(line_of(folder)):
        fixed["world"] = world
    precision = fixed["model"].pop("precision")
    name = measured_stage(folder).name
    template = understood(folder / "template.json", Template.from_json)
    tokenizer = understood(folder / "vocabulary.json", vocabulary_from_json)
    fixed["data"]["tokenizer"] = tokenizer.kind
    talks = template.end in tokenizer.special
    if talks:  # a base has a template too, but has not been trained with it
        fixed["data"]["template"] = template.name
    stage = known_name(name, "sft" if talks else "base")
    return Parent(stage, str(folder), fixed, precision, preset)


def _has_read(folders: list[Path]) -> bool:
    """True if one of these stages read windows of a world's text."""
    for folder in folders:
        settings = read_json(measured_stage(folder) / "settings.json").get("settings", {})
        if any(table.get("world") for table in settings.values() if isinstance(table, dict)):
            return True
    return False


def known_name(name: str, otherwise: str) -> str:
    """Return the name of a stage's folder, or `otherwise` if somebody has renamed the folder."""
    try:
        kind_of(name)
    except UsageError:
        return otherwise
    return name


def corpus_of(stage: Stage) -> str:
    """Return the corpus that a stage's run was trained on, because forgetting is measured on it. It
    is "plays" if neither the stage nor those that it was begun from have a record. A DataError if
    the record is damaged, or as in line_of()."""
    records = (measured_stage(folder).parent / "run.json" for folder in line_of(stage.folder))
    record = next((path for path in records if path.is_file()), None)
    if record is None:  # as beside a stage that `merge` made
        return "plays"
    corpus = read_json(record).get("corpus")
    if not isinstance(corpus, str):
        raise DataError(f"{record}: not as this program writes it (no corpus)")
    return corpus


def input_digests(order: Order, given: Stage | None) -> dict[str, str]:
    """Return the SHA-256 of everything that a run reads, by name. With other inputs it would be
    another run.

    given: the stage that --base names. MissingInput if a resumed run lacks a file."""
    if order.resume and order.corpus not in CORPORA:
        require(order.corpus)
    found = {order.corpus: hashlib.sha256(read_corpus(order.corpus).encode()).hexdigest()}
    named = [*(order.data or []), *(order.rankings or []), *reward_files(order)]
    files = {str(path): Path(path) for path in named if path != WORLD}
    data = order.settings.data
    if order.tunes and not order.data:
        names = ["conversations.jsonl"]
        names += ["pairs40.jsonl"] if "pairs" in data.shipped else []
        names += ["town.jsonl"] if data.transcripts else []
        files |= {SHIPPED + name: shipped(name) for name in names}
    if order.reward is not None:
        weights = reward_model(order.reward) / "model.safetensors"
        files |= {str(weights): weights}
    if given is not None:
        files |= {str(given.folder / "model.safetensors"): given.folder / "model.safetensors"}
    for name, file in files.items():
        if order.resume:
            require(file)
        with suppress(OSError):  # gather() opens the file next, and explains what is wrong with it
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def reward_files(order: Order) -> list[str]:
    """Return the file of prompts and the Python file of a reward, as far as the order has them."""
    rewards = [getattr(stage, "reward", "") for stage in order.settings.stages.values()]
    found = [by.rpartition(":")[0] for by in rewards if is_function(by)]
    return [*filter(None, [order.prompts]), *dict.fromkeys(found)]


def digest_of_material(material: Material) -> str:
    """Return the SHA-256 of what a run trains on: the vocabularies, the base text, and the tokens
    and labels of all examples."""
    known = [t for t in (material.tokenizer, material.grown) if t is not None]
    words = [json.dumps(vocabulary_to_json(t), sort_keys=True) for t in known]
    texts = [material.train_text, *filter(None, [material.world_text])]
    h = hashlib.sha256("\0".join([*words, *texts]).encode())
    for examples in material.examples:
        if examples:
            h.update(np.array([len(e.labels) for e in examples], np.int64))
            h.update(np.concatenate([e.input_ids for e in examples], dtype=np.int32))
            h.update(np.concatenate([e.labels for e in examples], dtype=np.int32))
    return h.hexdigest()


def checked_reading(
    inputs: dict, material: Material, begun: Begun | None
) -> tuple[dict, Begun | None]:
    """Return (the inputs with the digest of what was read from them, the record of a resumed run
    with it). A DataError if something else was read when that run was begun."""
    read = {READ: digest_of_material(material)}
    if begun is not None:
        begun.refuse_other_reading(read[READ], material.is_altered)
        begun = replace(begun, sha256=begun.sha256 | read)
    return inputs | read, begun


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
def open_run(begun: Begun, out: str | None, resume: bool, screen: Screen, name: str | None = None):
    """Make and lock the folder of a run, or lock that of a resumed one, and write its record.

    Yields the folder. Inside `with`, no other process can train in it (where folders can be locked)
    and every OSError becomes an error that says how to resume the run: Interrupted if the output
    can no longer be written, else PysftError. A UsageError if the folder is taken."""
    folder = Path(out) if resume else new_run(out, name or begun.settings["preset"])
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
        except KeyboardInterrupt:  # not while training, which writes a checkpoint first
            raise Interrupted(
                f"interrupted. Go on with: {resume_command(folder)}", signal.SIGINT
            ) from None
        except BrokenPipeError as error:
            raise Interrupted(
                f"stopped, because its output can no longer be written ({error.strerror}). Go on"
                f" with: {resume_command(folder)}"
            ) from None
        except OSError as error:
            raise PysftError(
                f"{error.filename or folder}: {error.strerror or error}. Files that were complete"
                f" on disk are unchanged. Go on with: {resume_command(folder)}"
            ) from None


def describe(
    screen: Screen, settings: Settings, folder: Path, corpus: str, material: Material
) -> None:
    """Print the resolved settings, the folder and the corpus."""
    tables = settings.to_json()
    lines = [f"settings: preset {tables.pop('preset')}, seed {tables.pop('seed')}"]
    first = {}  # kind -> the first stage of it; of further ones only the differences are shown
    for name, table in tables.items():
        shown = [_shown(k, v) for k, v in table.items()]
        if name in settings.stages:
            before = first.setdefault(kind_of(name), name)
            if before != name:
                differs = [_shown(k, v) for k, v in table.items() if v != tables[before][k]]
                shown = [f"as [{before}]", *differs]
        lines.append(f"[{name}] " + ", ".join(shown))
    for line in lines:
        screen.say(textwrap.fill(line, 110, subsequent_indent="  ", break_on_hyphens=False))
    screen.say(
        f"run: {folder}; corpus: {corpus} ({len(material.train_text):,} characters to train on, "
        f"{len(material.heldout_text):,} held out)"
    )
    if material.world_text:
        screen.say(f"world: a text of {len(material.world_text):,} characters tells of it")


def _shown(name: str, value) -> str:
    return f"{name} {value if isinstance(value, str) and value else as_toml(value)}"
