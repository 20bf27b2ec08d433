"""The reader's own model in the page: its weights and vocabulary as data, and the fields and frames
that page.js fills."""

import base64
import json

import numpy as np

from pysft.measure.page import Html, number, paragraph
from pysft.nn.shapes import head_name
from pysft.text.render import render_words

MOST = 2_000_000  # weights of a model that a page may hold: 11 MB, and a second for a long text
PROMPTS = ("Speak of love", "Write a greeting")  # the first that the vocabulary can write


def own_model(stage, prompt: str | None = None, reply: str = "") -> list:
    """The parts of the section about a stage's model; one sentence if it cannot be shown."""
    why = _why_not(stage)
    if why:
        return [paragraph(f"The model of {stage.folder} is not in this page: {why}")]
    config, tokenizer = stage.model.config, stage.tokenizer
    if prompt is None:
        prompt = next(filter(tokenizer.can_write, PROMPTS), "")
    name = "/".join(stage.folder.parts[-2:])
    about = (
        f"This is the model of {name}: {number(stage.model.params.size)} weights,"
        f" {config.layers} blocks, {config.channels} channels, a vocabulary of {config.vocab}. It"
        " computes in this page, forward and backward, in double precision."
    )
    if config.precision != "float32":
        about += (
            f" In training its products were rounded to {config.precision}, so there the numbers"
            " differ in the third digit."
        )
    data = json.dumps(model_data(stage)).replace("<", "\\u003c")
    first = json.dumps({"prompt": prompt, "reply": reply}).replace("<", "\\u003c")
    return [
        paragraph(about),
        Html(FORM if stage.can_talk else FORM_OF_A_BASE),
        Html(f'<script type="application/json" id="first">{first}</script>'),
        Html(f'<script type="application/json" id="weights">{data}</script>'),
    ]


def _why_not(stage) -> str:
    """Why a stage's model cannot be in a page, or ""."""
    config = stage.model.config
    if not config.has_nll:
        return "it gives a reward and no tokens, so it has no loss of a token."
    if stage.model.params.size > MOST:
        return (
            f"it has {number(stage.model.params.size)} weights, and a page computes with at most"
            f" {number(MOST)}. Train a smaller one, such as the preset tiny."
        )
    if any(len(symbol) > 1 for symbol in _symbols(stage) if symbol is not None):
        return "its tokens are longer than a character, and the page writes single characters."
    return ""


def _symbols(stage) -> list[str | None]:
    """The character of each id, None for a special token."""
    tokenizer = stage.tokenizer
    return [
        None if tokenizer.is_special(i) else tokenizer.decode([i]) for i in range(len(tokenizer))
    ]


def model_data(stage) -> dict:
    """A stage as JSON: the sizes, the weights in base64 (float32, little-endian, each tensor after
    the other as `tensors` says), the vocabulary, and the template as ids."""
    config, params, tokenizer = stage.model.config, stage.model.params, stage.tokenizer
    flat = np.concatenate([w.ravel() for _, w in params.items()]).astype("<f4")
    return {
        "sizes": {
            "V": config.vocab,
            "T": config.context,
            "C": config.channels,
            "H": config.heads,
            "L": config.layers,
        },
        "head": head_name(config),
        "tensors": [[name, w.size] for name, w in params.items()],
        "weights": base64.b64encode(flat.tobytes()).decode(),
        "symbols": _symbols(stage),
        "special": {i: name for name, i in tokenizer.special.items()},
        **_template(stage),
    }


def _template(stage) -> dict:
    """What opens and closes the turns of a conversation, as ids, what of it is graded, the token
    that ends a reply, and the texts that nobody may type. A base model knows no turns: there the
    question and the reply are one text, all of it graded."""
    if not stage.can_talk:
        turn = {"opens": [], "closes": [], "graded": [True, True, True]}
        return {"user": turn, "assistant": turn, "end": None, "forgeable": []}
    template, tokenizer = stage.template, stage.tokenizer
    turns = {
        kind: {
            "opens": render_words(template.turns[kind].opens, tokenizer, template).tolist(),
            "closes": render_words(template.turns[kind].closes, tokenizer, template).tolist(),
            "graded": list(template.turns[kind].graded),
        }
        for kind in ("user", "assistant")
    }
    return turns | {
        "end": tokenizer.special[template.end],
        "forgeable": list(template.forgeable),
    }


_FORM = """<noscript><p>This part needs JavaScript.</p></noscript>
<form id="typed">
<label>{question}<textarea id="prompt" rows="2" spellcheck="false"></textarea></label>
<label>{answer}<textarea id="reply" rows="2" spellcheck="false"></textarea></label>
<p>{mask}<button type="button" id="write">{write}</button></p>
</form>
<p id="message" role="status"></p>
<div>
<div id="picture" role="group" aria-label="the tokens, their losses and gradients"></div>
<div id="detail" aria-live="polite"></div>
</div>
<p class="key">{key}</p>
<details><summary>The numbers</summary><pre id="numbers"></pre></details>"""
_MASK = '<label class="check"><input type="checkbox" id="all"> no mask: grade every token</label> '
_KEY = (
    "Each column is a position. {boxes} The bar below it is the loss of that token, given all"
    " before it; the dashed line is chance, ln V. The cells below are the length of the gradient of"
    " the residual stream in the row that reads the token, from the last layer norm down to the"
    " embedding. A loss enters at the top, one column to the left of its token, because the row"
    " before a token predicts it. Each block may carry it further to the left, to rows that were"
    " attended to. A cell with a dot is exactly 0. Choose a token to see the gradient of its loss"
    " alone."
)
FORM = _FORM.format(
    question="Prompt",
    answer="Reply (empty: the model writes its own, always with the most likely token)",
    mask=_MASK,
    write="Let the model reply",
    key=_KEY.format(
        boxes="A box with a full frame is a graded token, one with a dashed frame is masked."
    ),
)
FORM_OF_A_BASE = _FORM.format(
    question="Text",
    answer="More text (empty: the model continues, always with the most likely token)",
    mask="",
    write="Let the model continue",
    key=_KEY.format(boxes="A base model is graded on every token after the first."),
)
