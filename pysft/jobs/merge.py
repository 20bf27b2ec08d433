"""Merge the adapters of a LoRA training into their base, as a run to talk to."""

import shutil
from contextlib import suppress
from pathlib import Path

from pysft.errors import DataError, MissingInput
from pysft.jobs.begin import known_name
from pysft.nn.computing import computing_ops
from pysft.nn.lora import apply_adapter
from pysft.run.stage import (
    Stage,
    load_stage,
    new_run,
    save_stage,
    understood,
    weights_sha256,
)
from pysft.run.tree import named_base
from pysft.text.template import Template
from pysft.text.tokenizers import vocabulary_from_json


def merge(adapter: Path, base: str, out: str) -> str:
    """Merge the adapters of a LoRA training into their base, and write the result to OUT/sft, or
    OUT/sft-2 for adapters from RUN/sft-2.

    base: a run whose base the adapters were trained on, or the stage that they were trained on.
    Return the SHA-256 of the merged weights, which have the same bits as at the end of the
    training. MissingInput or a DataError if a file is missing or damaged, or belongs to another
    base. A UsageError if `out` is taken."""
    if not adapter.is_file():
        raise MissingInput(
            f"{adapter}: no such file; a training with --lora writes RUN/sft/adapter.safetensors"
        )
    home = adapter.parent
    tokenizer = understood(home / "vocabulary.json", vocabulary_from_json)
    template = understood(home / "template.json", Template.from_json)
    given = load_stage(named_base(base), computing_ops("kernels", None, "float32"))
    model = apply_adapter(adapter, given.model)
    if len(tokenizer) != model.config.vocab:
        raise DataError(
            f"{home / 'vocabulary.json'}: {len(tokenizer)} symbols, but the adapters are for"
            f" {model.config.vocab}"
        )
    name = known_name(home.name, "sft")
    is_there = Path(out).is_dir()
    folder = new_run(out, "merged")
    try:
        save_stage(
            Stage(
                folder / name,
                model,
                tokenizer,
                template,
                given.settings,
                {"path": str(given.folder), "weights_sha256": weights_sha256(given.model)},
            )
        )
    except BaseException:  # leave no files behind: new_run() refuses a folder that has some
        shutil.rmtree(folder / name, ignore_errors=True)
        if not is_there:
            with suppress(OSError):
                folder.rmdir()
        raise
    return weights_sha256(model)
