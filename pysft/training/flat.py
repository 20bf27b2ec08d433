"""The flat names that settings had in earlier versions: where each stands now.

Old run folders are read with this table, and an old file of settings is refused with it."""

from pysft.errors import UsageError
from pysft.training.settings import Settings

BOTH = ("beta1", "beta2", "eps", "decay_all", "clip", "on_nan", "micro_batches")

# old name -> [(table, name in the table)]
PLACES = {
    **{name: [("model", name)] for name in ("context", "layers", "heads", "channels")},
    "data": [("data", "shipped")],
    **{
        name: [("data", name)]
        for name in ("mix", "transcripts", "template", "grade", "too_long", "unknown")
    },
    **{f"base_{n}": [("base", n)] for n in ("steps", "windows", "lr", "schedule", "warmup")},
    **{
        f"sft_{name}": [("sft", name)]
        for name in ("steps", "tokens", "pairs", "windows", "window_weight", "lr", "schedule")
    },
    "sft_warmup": [("sft", "warmup")],
    "base_decay": [("base", "decay")],
    "sft_decay": [("sft", "decay")],
    **{
        name: [("sft", name)]
        for name in ("replacement", "new_rows", "lora_rank", "lora_matrices", "lora_alpha")
    },
    "checkpoint_every": [("sft", "checkpoint_every")],
    **{name: [("base", name), ("sft", name)] for name in BOTH},
}


def is_flat(document: dict) -> bool:
    """True if a document has the flat form of earlier versions."""
    return any(name in PLACES and not isinstance(document[name], dict) for name in document)


def places(document: dict) -> str:
    """Return where the flat settings of a document stand now: "sft_lr is now [sft] lr, ..."."""
    return ", ".join(
        f"{name} is now {' and '.join(f'[{table}] {key}' for table, key in PLACES[name])}"
        for name in document
        if name in PLACES
    )


def nested(document: dict) -> dict:
    """Return the settings that a run stored in the form of Settings.to_json(), whichever version
    wrote them. Values are not checked. Flat ones give the tables base and sft."""
    if not is_flat(document):
        return document
    tables = {name: document[name] for name in ("preset", "seed") if name in document}
    tables |= {"model": {}, "data": {}, "base": {}, "sft": {}}
    for name, value in document.items():
        for table, key in PLACES.get(name, ()):
            tables[table][key] = value
    return tables


def stored_settings(document: dict, stages) -> Settings:
    """The settings that a run stored, whichever version wrote them. stages: which to keep of flat
    ones, which always have both.

    A UsageError, TypeError or KeyError if the document is not as this version or an earlier one
    wrote it."""
    if not is_flat(document):
        return Settings.of_json(document)
    tables = nested(document)
    unknown = set(document) - set(PLACES) - {"preset", "seed"}
    if unknown:
        raise UsageError(f"unknown setting {min(unknown)!r}")
    idle = {"base", "sft"} - set(stages)
    return Settings.of_json({name: t for name, t in tables.items() if name not in idle})


def tuning(document: dict, name: str) -> dict:
    """Return the stored settings of a fine-tuning: those of the stage `name` and those of its data,
    in one dict. Empty if they are not there."""
    tables = nested(document)
    stage = tables.get(name, tables.get("sft"))
    found = [table for table in (tables.get("data"), stage) if isinstance(table, dict)]
    return {key: value for table in found for key, value in table.items()}
