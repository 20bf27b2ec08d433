"""The command that makes a run again, from its run.json."""

import json

from pysft.console import no_flag, quoted
from pysft.training.flags import PRETRAIN_FLAGS, TRAIN_FLAGS
from pysft.training.kinds import ALIGNING, kind_of
from pysft.training.presets import (
    PRESETS,
    WITH_TOOLS,
    of_world,
    with_made,
    with_tools,
)
from pysft.training.settings import TABLES, stages_of


def preset_of(settings: dict) -> dict:
    """The settings of the preset that a run began with, in the form of the stored ones."""
    preset = PRESETS[settings["preset"]].with_stages(stages_of(settings))
    if settings.get("world"):
        names = stages_of(settings)
        asks = any(settings[n].get("world") for n in names if kind_of(n) != "base")
        tables = ("world", "base", *["sft"] * asks, *ALIGNING)
        preset = preset.changed(of_world(preset, settings["preset"], tables))
    elif settings["data"].get("made"):
        preset = preset.changed(with_made(*_taught(settings)))
    elif settings["data"]["transcripts"]:
        preset = preset.changed(with_tools(preset))
    return json.loads(json.dumps(preset.to_json()))


def _taught(settings: dict) -> tuple[list[str], bool]:
    """(the names of the made transcripts, True if there are those of a search beside them)."""
    made = settings["data"].get("made", [])
    return made, bool(made and settings["data"]["transcripts"])


def reproduce(run: dict, tuned: bool) -> str:
    """The command that makes a run again.

    run: its run.json, with settings in tables. tuned: was it fine-tuned?"""
    settings = run["settings"]
    flags = {
        place: f"--{flag.replace('_', '-')}"
        for flag, place in (TRAIN_FLAGS if tuned else PRETRAIN_FLAGS).items()
    }
    groups = [["--preset", settings["preset"]], ["--corpus", no_flag(run["corpus"])]]
    groups += [["--data", *map(no_flag, run["data"])]] if run["data"] else []
    made, tools = _taught(settings)
    groups += [["--data", *["tools"] * tools, *made]] if made else []
    groups += [["--rankings", *map(no_flag, run["rankings"])]] if run.get("rankings") else []
    groups += [["--reward", no_flag(run["reward"])]] if run.get("reward") else []
    groups += [["--prompts", no_flag(run["prompts"])]] if run.get("prompts") else []
    groups += [["--base", no_flag(run["base"])]] if run["base"] else []
    stages = stages_of(settings)
    has_choice = (
        "sft" in map(kind_of, stages)
        and not (run["data"] or made)
        and settings["preset"] in WITH_TOOLS
    )
    groups += [["--no-tools"]] if has_choice and not settings["data"]["transcripts"] else []
    is_usual = run["base"] is None and stages == ["base", "sft"]
    groups += [["--stages", ",".join(stages)]] if tuned and not is_usual else []
    groups += [["--seed", settings["seed"]]]
    others = []
    for table, name, value in _changed(run):
        if name == "ignore":
            value = ",".join(value)
        if value and (table, name) in flags:  # no flag takes an empty value or 0
            groups.append([flags[table, name], *(value if isinstance(value, list) else [value])])
        else:
            others.append(f"{table}.{name}={json.dumps(value)}")
    groups += [["--set", *others]] if others else []
    first, *pieces = [" ".join(quoted(str(word)) for word in group) for group in groups]
    verb = "train" if tuned else "pretrain"
    pieces = [f"python -m pysft {verb} {first}", *pieces]
    short = len(" ".join(pieces)) < 80
    return (" " if short else " \\\n    ").join(pieces)


def _changed(run: dict) -> list[tuple[str, str, object]]:
    """[(table, name, value)] of the settings that the run would not have without a flag or a file.

    The first stage of a kind stands under the kind's name, and further ones differ from it."""
    settings, given = run["settings"], preset_of(run["settings"])
    if run["base"] is not None:  # the model that a run begins from decides the shape
        given["model"] = settings["model"]
        given["world"] = settings.get("world")
        for name in stages_of(given):
            windows = given[name]["windows"]
            context = settings["model"]["context"]
            given[name]["windows"] = [[min(rows, context), count] for rows, count in windows]
    found, first = [], {}
    for table, values in settings.items():
        if table in ("preset", "seed"):
            continue
        kind = table if table in TABLES else kind_of(table)
        usual = settings[first[kind]] if kind in first else given.get(table, {})
        under = table if kind in first else kind
        first.setdefault(kind, table)
        found += [(under, name, v) for name, v in values.items() if v != usual.get(name)]
    return found
