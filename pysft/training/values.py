"""Single values of settings: what each may be."""

import dataclasses
import json

from pysft.errors import UsageError
from pysft.nn.shapes import MATRICES, PRECISIONS
from pysft.text.grades import GRADES
from pysft.text.keys import checked_ignore
from pysft.text.tokenizers import TOKENIZERS
from pysft.training.objectives import CLIPS, TIES
from pysft.world.made import MADE

SCHEDULES = ("constant", "cosine", "linear")

# The settings that take one of a few words, and these words.
CHOICES = {
    "precision": PRECISIONS,
    "schedule": SCHEDULES,
    "new_rows": ("random", "mean"),
    "tokenizer": TOKENIZERS,
    "grade": tuple(GRADES),
    "too_long": ("refuse", "drop"),
    "unknown": ("refuse", "replace", "grow"),
    "on_nan": ("abort", "skip"),
    "ties": TIES,
    "kind": ("sigmoid", "ipo"),
    "baseline": ("value", "leave-one-out", "group"),
    "clipping": CLIPS,
    "on_alarm": ("say", "stop"),
    "shipped": ("pairs", "conversations", "conversations+pairs"),
}
SIGNED = ("unfinished",)  # the settings that may be below 0


def as_toml(value) -> str:
    """A value as people write it in a file of settings; text in Python's quotes."""
    return json.dumps(value) if isinstance(value, (list, tuple, bool)) else repr(value)


def checked(f: dataclasses.Field, value):
    """Return the value of a field of settings in the field's type. A UsageError says what was
    expected."""
    name, given = f.name, f"{f.name} = {as_toml(value)}"
    if name in ("windows", "world"):
        if not isinstance(value, (list, tuple)) or not all(map(_is_window, value)):
            raise UsageError(
                f"{given}: expected a list of pairs [rows, count] of whole numbers above 0"
            )
        return tuple(tuple(pair) for pair in value)
    if name == "lora_matrices":
        known = isinstance(value, (list, tuple)) and all(m in MATRICES for m in value)
        if not known or not value:
            raise UsageError(f"{given}: expected some of {', '.join(MATRICES)}")
        return tuple(value)
    if name == "checkpoint_every":
        words, text = ("tenth", "epoch", "never"), str(value)
        if isinstance(value, bool) or not (text in words or (text.isdecimal() and int(text) > 0)):
            raise UsageError(f"{given}: expected tenth, epoch, never, or a number of steps above 0")
        return text
    if name == "ignore":
        if not isinstance(value, (list, tuple)) or not all(isinstance(key, str) for key in value):
            raise UsageError(f"{given}: expected a list of names of keys")
        return checked_ignore(value)
    if name == "made":
        known = isinstance(value, (list, tuple)) and all(
            isinstance(word, str) and word in MADE for word in value
        )
        if not known or len({*value}) < len(value):
            raise UsageError(f"{given}: expected a list of {', '.join(MADE)}, each once at most")
        return tuple(value)
    if name == "mix":
        if not isinstance(value, (list, tuple)) or not all(_is_real(w) and w > 0 for w in value):
            raise UsageError(f"{given}: expected a list of numbers above 0, one for each file")
        return tuple(float(w) for w in value)
    if f.type is int and not is_whole(value):
        raise UsageError(f"{given} must be a whole number, not negative")
    if f.type is float:
        least = "0"
        is_fine = _is_real(value)
        if name in SIGNED:
            least, is_fine = "minus a million", is_fine or _is_number(value) and _is_real(-value)
        if not is_fine:
            raise UsageError(f"{given} must be a number from {least} to a million")
        return float(value)
    if f.type in (bool, str) and not isinstance(value, f.type):
        raise UsageError(f"{given} must be {'true or false' if f.type is bool else 'text'}")
    if name in CHOICES and value not in CHOICES[name]:
        raise UsageError(f"{given} is not one of {', '.join(CHOICES[name])}")
    return value


def is_whole(value) -> bool:
    """True for a whole number that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_real(value) -> bool:
    return _is_number(value) and 0 <= value < 1e6


def _is_window(value) -> bool:
    """True for a pair (rows, count) of whole numbers above 0."""
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    return is_pair and all(is_whole(n) and n > 0 for n in value)
