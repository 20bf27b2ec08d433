"""Which tools a stage has learned to call, as far as its folder says."""

from pysft.errors import PysftError
from pysft.run.stage import Stage, measured_stage, read_json, understood
from pysft.run.tree import line_of
from pysft.text.conversation import THOUGHT, is_call
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.text.tokenizers import vocabulary_from_json


def callable_tools(stage: Stage) -> set[str]:
    """The kinds of calls that a stage may have learned: those that it has the tokens for.

    Tokens of calls stand before those of thoughts, so a vocabulary with thoughts has them all. Then
    only those kinds count that the conversations of its training had, as data.json says, or that
    the stages it was begun from may have learned. Where nothing says so, as of a stage that `merge`
    made, all count."""
    kinds = _kinds_with_tokens(stage.template, stage.tokenizer)
    calls = {kind for kind in kinds if is_call(kind)}
    if THOUGHT not in kinds:
        return calls
    known = _kinds_learned(stage)
    return calls if known is None else calls & known


def _kinds_with_tokens(template: Template, tokenizer: Tokenizer) -> set[str]:
    special = tokenizer.special.keys()
    return {kind for kind, row in template.parts.items() if {*row.opens, *row.closes} <= special}


def _kinds_learned(stage: Stage) -> set[str] | None:
    """The kinds of parts that the line of a stage was trained on; None if nothing says so."""
    found = None
    try:
        for folder in line_of(stage.folder):
            template = understood(folder / "template.json", Template.from_json)
            tokenizer = understood(folder / "vocabulary.json", vocabulary_from_json)
            kinds = _kinds_with_tokens(template, tokenizer)
            if THOUGHT not in kinds:  # it had the tokens of what it learned alone
                return (found or set()) | kinds
            path = measured_stage(folder) / "data.json"
            if path.is_file():
                found = (found or set()) | read_json(path).get("parts", {}).keys()
    except PysftError:  # a parent that is damaged must not stop a chat
        pass
    return found
