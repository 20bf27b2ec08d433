"""Put the adapters of a LoRA training into their base: a run to talk to."""

import shutil
from contextlib import suppress
from pathlib import Path

from pysft.errors import DataError, MissingInput
from pysft.jobs.begin import base_stage
from pysft.nn.lora import apply_adapter
from pysft.run.stage import (
    Stage,
    load_stage,
    new_run,
    save_stage,
    understood,
    weights_sha256,
)
from pysft.text.template import Template
from pysft.text.tokenizer import CharTokenizer


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
    given = base_stage(load_stage(base), base)
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
