"""The loss mask for people to look at: in colour, as aligned rows, and as a picture.

Every function takes what training takes: input_ids (L,) and labels (L,), -100 where not graded."""

from html import escape

import numpy as np

from pysft import IGNORE
from pysft.console import columns, padded
from pysft.text.tokenizer import Tokenizer

OPEN_BOX = "\u2423"  # drawn for a space
GRADED, MASKED, PLAIN = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"  # bold green, faint, the default
WIDTH = 96  # columns of the text
# Of the picture: the size of a box, between two boxes, boxes in a line, and the margins.
BOX, GAP, ACROSS, LEFT, TOP = 46, 4, 18, 76, 64
BLUE, GREY, WHITE, INK, FAINT = "#2f6fd0", "#d7d9dc", "#ffffff", "#222222", "#555b62"


def names(ids, tokenizer: Tokenizer) -> list[str]:
    """What is shown for each token: itself, the name of a special token, \\n for a line break."""
    shown = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return [
        "".join(shown.get(c, c if c.isprintable() else f"U+{ord(c):04X}") for c in token)
        for token in (tokenizer.decode([i]) for i in ids)
    ]


def coloured(input_ids, labels, tokenizer: Tokenizer, colour: bool) -> str:
    """The tokens of a sequence, in lines: those that are graded as targets in green, the others
    faint. Without colour each line has another below it, with ^ under what is graded."""
    tokens = [*names(input_ids[:1], tokenizer), *names(following(input_ids, labels), tokenizer)]
    graded = [False, *(labels != IGNORE).tolist()]
    return "\n".join(
        _painted(line) if colour else _marked(line) for line in _lines(list(zip(tokens, graded)))
    )


def _lines(tokens: list[tuple[str, bool]]) -> list[list[tuple[str, bool]]]:
    """The (token, graded) of each line: at most WIDTH columns, and a line that is more than half
    full ends before a line break of the text."""
    lines, used = [[]], 0
    for token, is_graded in tokens:
        is_full = used + columns(token) > WIDTH
        if is_full or (used > WIDTH // 2 and token.startswith("\\n")):
            lines.append([])
            used = 0
        lines[-1].append((token, is_graded))
        used += columns(token)
    return lines


def _painted(line: list[tuple[str, bool]]) -> str:
    out, state = "", None
    for token, is_graded in line:
        if state is not is_graded:
            out += PLAIN + (GRADED if is_graded else MASKED)
            state = is_graded
        out += token
    return out + PLAIN


def _marked(line: list[tuple[str, bool]]) -> str:
    text = "".join(token for token, _ in line).rstrip()
    marks = "".join(("^" if is_graded else " ") * columns(token) for token, is_graded in line)
    marks = marks.rstrip()
    return f"{text}\n{marks}" if marks else text


def following(input_ids, labels):
    """(L,) or (L-1,): what follows each input. Behind the last it is the label, if that is
    graded."""
    return np.append(input_ids[1:], labels[-1:][labels[-1:] != IGNORE])


def rows(input_ids, labels, tokenizer: Tokenizer, colour: bool, probability=None, nll=None) -> str:
    """A line for each position: the token that is read there, its id, the label, and whether it is
    graded. probability (L,), nll (L,): the model's probability of the label and the loss, nats, to
    be shown too."""

    def shown(name):
        return name if name != " " else "' '"

    read = [shown(name) for name in names(input_ids, tokenizer)]
    label = [shown(names([i], tokenizer)[0]) if i != IGNORE else "" for i in labels.tolist()]
    wide = max(7, *map(columns, read + label))
    head = f"{'position':>8}  {'input':<{wide}} {'id':>4}  {'label':>5} {'':<{wide}}"
    head += f" {'probability':>11} {'loss':>7}" if nll is not None else ""
    lines = [head.rstrip()]
    for i, (a, b) in enumerate(zip(input_ids.tolist(), labels.tolist())):
        is_graded = b != IGNORE
        line = f"{i:>8}  {padded(read[i], wide)} {a:>4}  {b:>5} {padded(label[i], wide)}"
        if nll is not None:
            figures = f" {probability[i]:>11.4f} {nll[i]:>7.3f}"
            line += figures if is_graded else f" {'-':>11} {0:>7}"
        line = f"{line}  {'graded' if is_graded else 'skipped'}"
        lines.append((GRADED if is_graded else MASKED) + line + PLAIN if colour else line)
    return "\n".join(lines)


def picture(input_ids, labels, tokenizer: Tokenizer, title: str = "") -> str:
    """An SVG document. Each position is a column of two boxes: the token that is read, and its
    label below, in blue if it is graded and in grey if it is masked."""
    read = names(input_ids, tokenizer)
    lines, tall = -(-len(read) // ACROSS), 2 * BOX + 40
    width = LEFT + min(ACROSS, len(read)) * (BOX + GAP) + 20
    height = TOP + lines * tall + 16
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="DejaVu Sans Mono, monospace">',
        f'<rect width="{width}" height="{height}" fill="{WHITE}"/>',
        _words(16, 26, 15, escape(title)),
        *_legend(16, GREY, "masked: label -100, no loss, no gradient"),
        *_legend(346, BLUE, "graded"),
    ]
    for i, (a, b) in enumerate(zip(input_ids.tolist(), labels.tolist())):
        x, y = LEFT + i % ACROSS * (BOX + GAP), TOP + i // ACROSS * tall
        below = y + BOX + GAP
        if i % ACROSS == 0:
            out += [_words(16, y + 28, 12, "input"), _words(16, below + 28, 12, "label")]
        out += _box(x, y, read[i], a, WHITE, INK)
        if b != IGNORE:
            out += _box(x, below, names([b], tokenizer)[0], b, BLUE, WHITE)
        else:
            out += _box(x, below, "-100", "", GREY, FAINT)
    return "\n".join([*out, "</svg>", ""])


def _words(x, y, size: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{INK}">{text}</text>'


def _legend(x: int, fill: str, text: str) -> list[str]:
    square = f'<rect x="{x}" y="38" width="12" height="12" fill="{fill}"/>'
    return [square + _words(x + 18, 49, 12, text)]


def _box(x: int, y: int, text: str, number, fill: str, ink: str) -> list[str]:
    """A box with a token and its id."""
    text = text if len(text) <= 9 else text.strip("<|>[]")
    letters = 15 if len(text) <= 2 else max(6, min(10, int(BOX * 1.55 / len(text))))
    shown, middle = escape(text if text != " " else OPEN_BOX), x + BOX / 2
    return [
        f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{BOX - 1}" height="{BOX - 1}" rx="4"'
        f' fill="{fill}" stroke="#c9ccd0"/>',
        f'<text x="{middle}" y="{y + 22}" font-size="{letters}" fill="{ink}" text-anchor="middle"'
        f' xml:space="preserve">{shown}</text>',
        f'<text x="{middle}" y="{y + 39}" font-size="9" fill="{ink}"'
        f' text-anchor="middle">{number}</text>',
    ]
