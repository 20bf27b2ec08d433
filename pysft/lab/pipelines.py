"""What the lab's arms on pipelines of data share: models that are tuned on rows, and the folders of
the files that a step wrote. The steps are those of `probe` and `curate` themselves (jobs/)."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pysft.lab.preferring import PRESET, Subject
from pysft.lab.records import VERSION, digest, digest_of_examples
from pysft.lab.worlds import knowledge
from pysft.measure.evaluate import corpus_loss
from pysft.measure.ratio import rise
from pysft.nn.grow import copied, expand_vocab
from pysft.run.stage import (
    Stage,
    is_finished,
    load_stage,
    read_json,
    save_stage,
    weights_sha256,
    write_json,
)
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation
from pysft.text.templates import CHAT
from pysft.training.runner import steps_of
from pysft.training.stages import finetune


def tuned(
    subject: Subject,
    start: Stage,
    files: Sequence[Sequence[Conversation]],
    changes: dict,
    note: Callable[[str], None],
    mix: Sequence[float] = (),
    grade: str = "all",
) -> Stage:
    """Return `start` tuned on the conversations of some files, by the recipe of a world with
    changes. It is kept in the lab's folder, so arms that train alike share it.

    start: the subject's base, or a model tuned before. changes: to [sft], with unscaled steps. mix:
    a weight for each file, as --mix has them; () draws from all conversations alike. grade: as
    --grade has it."""
    settings = subject.settings(changes).changed({"data": {"mix": tuple(mix), "grade": grade}})
    parts = {kind for some in files for c in some for kind in c.parts}
    tokenizer = start.tokenizer.grow([*CHAT.tokens, *CHAT.tokens_for(parts)])
    examples = [
        encode_conversation(c, tokenizer, settings.model.context, CHAT, grade)
        for some in files
        for c in some
    ]
    numbers = [i for i, some in enumerate(files) for _ in some] if mix else None
    described = {
        "version": VERSION,
        "start": weights_sha256(start.model),
        "settings": settings.to_json(),
        "examples": digest_of_examples(examples),
        "files": numbers,
        "vocabulary": tokenizer.to_json(),
    }
    name = f"{PRESET}-world-rows-{subject.seed}-{digest(described)[:12]}"
    folder = subject.lab.folder / "bases" / name
    if not is_finished(folder):
        vocab = len(tokenizer)
        grows = vocab > start.model.config.vocab
        model = (
            expand_vocab(start.model, vocab, "mean") if grows else copied(start.model, "float32")
        )
        corpus, world = subject.texts
        plan = finetune(settings, "sft", examples, [], corpus, vocab, numbers, world)
        for r in steps_of(model, plan, settings.stages["sft"]):
            note(f"step {r.step:,} of {plan.steps:,}, loss {r.loss:.3f}")
        save_stage(Stage(folder, model, tokenizer, CHAT, settings.to_json()))
    return load_stage(folder, subject.lab.ops)


def made(subject: Subject, what: dict, make: Callable[[Path], dict]) -> tuple[Path, dict]:
    """Return (a folder with the files that make(folder) wrote, the document that it returned): from
    the lab's folder, or made now and kept there. what: all that they depend on beside the seed and
    its world; it names the folder."""
    described = {
        "version": VERSION,
        "seed": subject.seed,
        "world": subject.told.world.to_json(),
        **what,
    }
    folder = subject.lab.folder / "rows" / digest(described)
    if not (folder / "document.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a lab that was interrupted here
        folder.mkdir(parents=True)
        write_json(folder / "document.json", make(folder))
    return folder, read_json(folder / "document.json")


def known(subject: Subject, stage: Stage) -> dict:
    """What a model knows of its world, as worlds.knowledge() gives it, and its "forgetting"."""
    figures = knowledge(stage.model, stage.tokenizer, subject, subject.seed)
    loss = corpus_loss(stage.model, stage.tokenizer, subject.lab.heldout_text)
    stage.model.release()
    return figures | {"forgetting": rise(loss, subject.base.loss)}
