"""The vocabulary, template and context to read a data set with when nothing is trained: those of a
run, or those that a training from scratch would have."""

from typing import NamedTuple

from pysft.errors import UsageError
from pysft.nn.computing import computing_ops
from pysft.run.stage import Stage, load_stage
from pysft.text.corpora import read_corpus
from pysft.text.template import Template
from pysft.text.templates import load_template
from pysft.text.tokenizer import Tokenizer
from pysft.text.tokenizers import vocabulary_of
from pysft.training.settings import Settings


class Reader(NamedTuple):
    """What a data set is read with. tokenizer: that of the run, or of the base of a training from
    scratch. tokens: the special tokens by which it grows before conversations are rendered. stage:
    the run's, or None if no run is named."""

    tokenizer: Tokenizer
    template: Template
    context: int
    stage: Stage | None
    tokens: tuple[str, ...] = ()


def reader_of(
    run: str | None,
    corpus: str | None,
    template: str | None,
    ops_name: str = "reference",
    threads: int | None = None,
    precision: str | None = None,
) -> Reader:
    """Return the Reader of a run. Without a run, return that of a corpus (plays by default) and a
    template (chat by default). A UsageError if corpus or template is named beside a run that has
    its own."""
    if run is None:
        chosen = load_template(template or "chat")
        settings = Settings()
        tokenizer = vocabulary_of(settings.data.tokenizer, read_corpus(corpus or "plays"))
        tokens = chosen.tokens + chosen.tool_tokens
        return Reader(tokenizer, chosen, settings.model.context, None, tokens)
    if corpus is not None:
        raise UsageError("--run has its own vocabulary; leave --corpus out")
    stage = load_stage(run, computing_ops(ops_name, threads, precision))
    context = stage.model.config.context
    if not stage.can_talk:  # a base model, which has no template yet
        chosen = stage.template if template is None else load_template(template)
        tokens = chosen.tokens + chosen.tool_tokens
        return Reader(stage.tokenizer, chosen, context, stage, tokens)
    if template is not None and load_template(template) != stage.template:
        raise UsageError(
            f"--run {run}: it was trained with template {stage.template.name!r}; leave"
            " --template out"
        )
    return Reader(stage.tokenizer, stage.template, context, stage)
