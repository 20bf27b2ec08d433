"""Tokens and templates: turns become ids, for training and for a prompt."""

import re

import numpy as np

from pysft.lessons.problem import Problem

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
SPECIALS = (USER, ASSISTANT, END)
# A space, some letters, and what a special token is spelled with.
CHARACTERS = tuple(" <>abcdefghijklmnopqrstuvwxyz|")
SIZES = ({"turns": 4, "longest": 7}, {"turns": 6, "longest": 9})
MARK = re.compile("|".join(map(re.escape, SPECIALS)))


def render(roles, texts, vocabulary):
    """Return tokens (L,): the turns one after the other, each as [opener] + [its text] + [<|end|>].

    The opener is the special token <|user|> or <|assistant|>, by the role of the turn. An id is a
    place in vocabulary (V,). A special token is one id, and only the template writes it. A text is
    read one character at a time, so a text that holds the seven characters <|end|> gives seven
    ids, and nobody can type the end of a turn."""
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokens = []
    for role, text in zip(roles, texts):
        tokens += [ids[f"<|{role}|>"], *(ids[c] for c in text), ids[END]]
    return np.array(tokens)


def render_prompt(roles, texts, vocabulary):
    """Return tokens (L,) after which the model writes a reply: the turns, and <|assistant|>.

    The last turn is the user's. In training the reply follows <|assistant|>, so generation has to
    begin there too. Then the prompt is an id-for-id prefix of the example that render() makes of
    the same turns and their reply."""
    opener = list(vocabulary).index(ASSISTANT)
    return np.append(render(roles, texts, vocabulary), opener)


def arguments(rng, sizes, turns: int) -> dict:
    """Turns of alternating roles, the user's first. A text has a space at both ends, and one text
    of the user holds the characters of <|end|>."""
    texts = []
    for _ in range(turns):
        length = rng.integers(3, sizes["longest"] + 1)
        texts.append(f" {''.join(rng.choice(list('abcdefghijklm'), length))} ")
    texts[2] = f" {texts[2]}{END}"
    roles = ["user", "assistant"] * turns
    return {
        "roles": np.array(roles[:turns]),
        "texts": np.array(texts),
        "vocabulary": np.array(CHARACTERS + SPECIALS),
    }


def answer(arguments: dict, wrong: frozenset, is_prompt: bool) -> dict:
    """render or render_prompt, with these mistakes."""
    roles, texts, vocabulary = (a.tolist() for a in arguments.values())
    ids = {token: i for i, token in enumerate(vocabulary)}

    def special(name):
        if "special-tokens-spelled-out" in wrong:
            return [ids[c] for c in name]
        return [ids[name]]

    def encode(text):
        if "text-stripped" in wrong:
            text = text.strip()
        if "special-tokens-from-text" not in wrong:
            return [ids[c] for c in text]
        found, start = [], 0
        for mark in MARK.finditer(text):
            found += [ids[c] for c in text[start : mark.start()]] + [ids[mark.group()]]
            start = mark.end()
        return found + [ids[c] for c in text[start:]]

    openers = {"user": USER, "assistant": ASSISTANT}
    if "one-opener-for-both" in wrong:
        openers["assistant"] = USER
    if "openers-swapped" in wrong:
        openers = {"user": ASSISTANT, "assistant": USER}
    if "last-turn-only" in wrong:
        roles, texts = roles[-1:], texts[-1:]
    tokens = []
    for turn, (role, text) in enumerate(zip(roles, texts), 1):
        if "openers-left-out" not in wrong:
            tokens += special(openers[role])
        tokens += encode(text)
        is_last = turn == len(roles)
        if not (
            "ends-left-out" in wrong
            or ("last-end-left-out" in wrong and is_last)
            or ("user-ends-left-out" in wrong and role == "user")
        ):
            tokens += special(END)
    if is_prompt and "reply-not-opened" not in wrong:
        tokens += special(USER if "user-opener-for-the-reply" in wrong else ASSISTANT)
    elif "reply-opened" in wrong:
        tokens += special(ASSISTANT)
    if "end-after-the-opener" in wrong:
        tokens += special(END)
    if "space-after-the-opener" in wrong:
        tokens += encode(" ")
    return {"tokens": np.array(tokens)}


RENDER = Problem(
    function="render",
    skeleton='''def render(roles, texts, vocabulary):
    """Return tokens (L,) of turns with roles (T,) and texts (T,). vocabulary (V,): id -> token."""
''',
    arguments=lambda rng, sizes: arguments(rng, sizes, sizes["turns"]),
    answer=lambda arguments, wrong: answer(arguments, wrong, is_prompt=False),
    sizes=SIZES,
    returns=("tokens",),
    mistakes=(
        "special-tokens-from-text",
        "special-tokens-spelled-out",
        "openers-left-out",
        "openers-swapped",
        "one-opener-for-both",
        "ends-left-out",
        "last-end-left-out",
        "user-ends-left-out",
        "text-stripped",
        "reply-opened",
    ),
)

PROMPT = Problem(
    function="render_prompt",
    skeleton='''def render_prompt(roles, texts, vocabulary):
    """Return tokens (L,) of the turns, the last one a user's, up to where a reply begins."""
''',
    arguments=lambda rng, sizes: arguments(rng, sizes, sizes["turns"] - 1),
    answer=lambda arguments, wrong: answer(arguments, wrong, is_prompt=True),
    sizes=SIZES,
    returns=("tokens",),
    mistakes=(
        "reply-not-opened",
        "user-opener-for-the-reply",
        "end-after-the-opener",
        "space-after-the-opener",
        "last-end-left-out",
        "last-turn-only",
        "special-tokens-from-text",
    ),
)

PROBLEMS = (RENDER, PROMPT)
