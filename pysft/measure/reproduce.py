"""The command that makes a run again, from its run.json."""

import json
import shlex
from dataclasses import asdict

from pysft.training.settings import PRESETS

# Settings that have a flag, for each verb. Others that differ from the preset go through a file.
TRAIN = {
    "base_steps": "--base-steps",
    "sft_steps": "--sft-steps",
    "sft_lr": "--lr",
    "sft_tokens": "--sft-tokens",
    "mix": "--mix",
    "template": "--template",
    "grade": "--grade",
    "too_long": "--too-long",
    "unknown": "--unknown",
    "lora_rank": "--lora",
    "lora_matrices": "--lora-matrices",
    "checkpoint_every": "--checkpoint-every",
}
PRETRAIN = {"base_steps": "--steps", "base_lr": "--lr"}


def preset_of(settings: dict) -> dict:
    """The settings of the preset that a run began with, as they are after a trip through JSON."""
    return json.loads(json.dumps(asdict(PRESETS[settings["preset"]])))


def reproduce(run: dict, tuned: bool) -> tuple[str, str]:
    """(text of settings.toml, command) that make a run again. The text is "" if every setting that
    differs has a flag.

    run: its run.json. tuned: was it fine-tuned?"""
    settings, flags = run["settings"], TRAIN if tuned else PRETRAIN
    preset = _given(run)
    changed = {
        name: value
        for name, value in settings.items()
        if name not in ("preset", "seed") and value != preset.get(name)
    }
    in_file = {name: value for name, value in changed.items() if name not in flags}
    verb = "train" if tuned else "pretrain"
    groups = [["--preset", settings["preset"]]]
    groups += [["--config", "settings.toml"]] if in_file else []
    groups += [["--corpus", run["corpus"]]]
    groups += [["--data", *run["data"]]] if run["data"] else []
    groups += [["--base", run["base"]]] if run["base"] else []
    groups += [["--seed", settings["seed"]]]
    for name, value in changed.items():
        if name in flags:
            groups.append([flags[name], *(value if isinstance(value, list) else [value])])
    first, *pieces = [shlex.join(map(str, group)) for group in groups]
    pieces = [f"python -m pysft {verb} {first}", *pieces]
    short = len(" ".join(pieces)) < 80
    toml = "\n".join(f"{name} = {json.dumps(value)}" for name, value in in_file.items())
    return toml, (" " if short else " \\\n    ").join(pieces)


def _given(run: dict) -> dict:
    """The settings that the run gets without a flag or a file: those of its preset. If it has a
    given base, that base decides the shape of the model, and no base is trained."""
    settings, preset = run["settings"], preset_of(run["settings"])
    if run["base"] is None:
        return preset
    shape = ("context", "layers", "heads", "channels", "base_windows")
    preset |= {name: settings[name] for name in shape}
    windows = [[min(n, settings["context"]), count] for n, count in preset["sft_windows"]]
    return preset | {"sft_windows": windows}
