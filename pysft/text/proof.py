"""The check that every template passes when it is made: its rows are read, and then conversations
are rendered with it, to see that the mask and the prompts come out right."""

import numpy as np

from pysft.errors import UsageError
from pysft.text.conversation import SPEAKERS, TEXT, THOUGHT, is_call
from pysft.text.render import graded_targets, render, render_prompt
from pysft.text.tokenizer import CharTokenizer


def check_template(template) -> None:
    """Raise a UsageError if a template would train wrongly, or could not be read back."""
    try:
        _check_turns(template)
        _check_parts(template)
        _check_end(template)
        others = [role for role in template.turns if role not in SPEAKERS]
        for role in (None, *others):
            _prove(template, role)
    except UsageError as error:
        raise UsageError(f"template {template.name!r}: {error}") from None


# --------------------------------------------------------------------------------------- the rows


def _check_turns(template) -> None:
    """Every turn can be rendered, and there is a user and an assistant."""
    if not set(SPEAKERS) <= set(template.turns):
        raise UsageError(
            f"its turns are {', '.join(template.turns)}; there must be a user and an assistant"
        )
    for kind, row in {**template.turns, **template.parts}.items():
        if len(row.graded) != 3 or not all(isinstance(g, bool) for g in row.graded):
            raise UsageError(f"{kind} needs three grades: opener, text, closer")
        if not all(isinstance(word, str) and word for word in row.opens + row.closes):
            raise UsageError(f"{kind} opens or closes with something that is no word")
        if row.joins and kind in (*SPEAKERS, *template.parts):
            raise UsageError(
                f"{kind} cannot hold the turn that follows; only a turn before the user's first can"
            )
    if TEXT in template.turns:
        raise UsageError(f"a role cannot be called {TEXT!r}, which is a row of plain text")


def _check_parts(template) -> None:
    """Parts can be told apart among the ids, and are graded as what they are."""
    for kind, row in template.parts.items():
        if not row.opens or not row.closes or not set(row.opens + row.closes) <= template.marks:
            raise UsageError(f"{kind} must open and close with tokens of the template")
        if kind in ("text", *template.turns):
            raise UsageError(f"a part cannot be called {kind!r}")
        if kind == "result" and any(row.graded):
            raise UsageError("nothing of a result may be graded: the system writes it")
        if kind != "result" and not all(row.graded):
            why = "writes it" if kind == THOUGHT else "chooses to call it"
            raise UsageError(f"all of {kind} must be graded: the model {why}")
    if (calls := [*filter(is_call, template.parts)]) and "result" not in template.parts:
        raise UsageError(
            f'it has calls ({", ".join(calls)}) and no part "result" for what they give'
        )
    rows = template.parts.values()
    for words in ([row.opens[0] for row in rows], [row.closes[-1] for row in rows]):
        if len(set(words)) < len(words):
            raise UsageError("two of its parts begin or end with the same token; give each its own")


def _check_end(template) -> None:
    """One token ends a reply and nothing else of it, and a question is told from its answer."""
    end = template.turns["assistant"].closes
    if len(end) != 1 or end[0] not in template.marks:
        raise UsageError("a reply must close with one special token, at which generation stops")
    rows = [*template.turns.values(), *template.parts.values()]
    elsewhere = {word for row in rows for word in row.opens}
    elsewhere |= {word for row in template.parts.values() for word in row.closes}
    if end[0] in elsewhere:
        raise UsageError(f"{end[0]!r} ends a reply, so nothing else of it may be written with it")
    if not template.turns["user"].closes and not template.turns["assistant"].opens:
        raise UsageError("nothing stands between a question and its answer")


# -------------------------------------------------------------------------------------- the proof


def _prove(template, first: str | None) -> None:
    """Render a conversation that begins with a turn of the role `first` (None: with the user's),
    and refuse the template unless

    - k turns are a prefix of k + 1 turns,
    - only assistant turns are graded, and each ends with the graded stop token,
    - the graded targets are as many as the formula says,
    - the prompt for an answer is an id-for-id prefix of the example that trains it."""
    words = template.characters
    letters = [c for c in map(chr, range(0x61, 0x3000)) if c not in words][:3]  # in no word of it
    tokenizer = CharTokenizer(words + "".join(letters), (*template.tokens, *template.tool_tokens))
    messages = _conversation(template, first, *letters)
    shorter, graded = np.zeros(0, np.int32), 0
    for turn, message in enumerate(messages, 1):
        tokens, trained = render(messages[:turn], tokenizer, template)
        if tokens[: len(shorter)].tolist() != shorter.tolist():
            raise UsageError(f"turn {turn} changes how the turns before it are written")
        new, trained = tokens[len(shorter) :], trained[len(shorter) :]
        if message["role"] != "assistant":
            if trained.any():
                raise UsageError(f"a {message['role']} turn would be graded")
            prompt = render_prompt(messages[:turn], tokenizer, template)
        else:
            if not trained.any() or new[trained][-1] != tokenizer.special[template.end]:
                raise UsageError(
                    "the last graded token of a reply is not the token that ends it, so the model"
                    " would never learn to stop"
                )
            if tokens[: len(prompt)].tolist() != prompt.tolist():
                raise UsageError(
                    "the prompt for an answer is not how training begins the answer's turn"
                )
            graded += trained.sum()
            if graded != graded_targets(messages[:turn], template, tokenizer):
                raise UsageError("not exactly the replies and their ends would be graded")
        shorter = tokens


def _conversation(template, first: str | None, a: str, b: str, c: str) -> list[dict]:
    """A conversation with every part of the template, written with the letters a, b and c."""
    parts = [{"type": kind, "text": b + c} for kind in template.parts]
    called = [{"type": "text", "text": a}, *parts, {"type": "text", "text": b}]
    turns = [(first, a + b)] if first else []
    turns += [("user", a + b), ("assistant", b + c + a), ("user", c), ("assistant", called)]
    return [{"role": role, "content": content} for role, content in turns]
