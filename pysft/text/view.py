"""The loss mask, to be looked at: in colour, as aligned rows, and as a picture.

Everything here takes what training takes: input_ids (L,) and labels (L,), -100 where nothing is
graded."""

from html import escape

import numpy as np

from pysft import IGNORE
from pysft.text.tokenizer import CharTokenizer

OPEN_BOX = "\u2423"  # how a space is drawn
GRADED, MASKED, PLAIN = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"  # bold green, faint, as ever
WIDTH = 96


def names(ids, tokenizer: CharTokenizer) -> list[str]:
    """How each token is shown: itself, a special token by its name, a line break as \\n."""
    shown = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return [
        shown.get(t, t if t.isprintable() else f"U+{ord(t[0]):04X}")
        for t in (tokenizer.decode([i]) for i in ids)
    ]


def coloured(input_ids, labels, tokenizer: CharTokenizer, colour: bool) -> str:
    """The tokens of a sequence, those that are graded as targets in green, the others faint.
    Without colour each line has another beneath, with ^ under what is graded."""
    tokens = [*names(input_ids[:1], tokenizer), *names(following(input_ids, labels), tokenizer)]
    graded = [False, *(labels != IGNORE).tolist()]
    lines, line, marks = [], [], []
    used = 0

    def end():
        lines.append("".join(line).rstrip() if not colour else "".join(line) + PLAIN)
        if not colour and "^" in "".join(marks):
            lines.append("".join(marks).rstrip())
        line.clear(), marks.clear()

    state = None
    for token, good in zip(tokens, graded):
        if used + len(token) > WIDTH or (used and token.startswith("\\n") and used > WIDTH // 2):
            end()
            used, state = 0, None
        if colour and state is not good:
            line.append(PLAIN + (GRADED if good else MASKED))
            state = good
        line.append(token)
        marks.append(("^" if good else " ") * len(token))
        used += len(token)
    end()
    return "\n".join(lines)


def following(input_ids, labels):
    """(L,) what follows each input: the next input, and at the end the last label, if it is
    graded."""
    return np.append(input_ids[1:], labels[-1:][labels[-1:] != IGNORE])


def rows(
    input_ids, labels, tokenizer: CharTokenizer, colour: bool, probability=None, nll=None
) -> str:
    """A line for each position: what is read there, its id, the label, and whether it is graded;
    with the model's probability of the label and the loss, nats, where they are given."""
    read, label = (
        [name if name != " " else "' '" for name in some]
        for some in (
            names(input_ids, tokenizer),
            [names([t], tokenizer)[0] if t != IGNORE else "" for t in labels.tolist()],
        )
    )
    wide = max(7, *(len(t) for t in read + label))
    head = f"{'position':>8}  {'input':<{wide}} {'id':>4}  {'label':>5} {'':<{wide}}"
    head += f" {'probability':>11} {'loss':>7}" if nll is not None else ""
    lines = [head.rstrip()]
    for i, (a, b) in enumerate(zip(input_ids.tolist(), labels.tolist())):
        good = b != IGNORE
        line = f"{i:>8}  {read[i]:<{wide}} {a:>4}  {b:>5} {label[i]:<{wide}}"
        if nll is not None:
            line += f" {probability[i]:>11.4f} {nll[i]:>7.3f}" if good else f" {'-':>11} {0:>7}"
        line = f"{line}  {'graded' if good else 'skipped'}"
        lines.append((GRADED if good else MASKED) + line + PLAIN if colour else line)
    return "\n".join(lines)


def picture(input_ids, labels, tokenizer: CharTokenizer, title: str = "") -> str:
    """An SVG document: each position a column of two boxes, above what is read, below its label;
    what is graded in blue, what is masked in grey."""
    size, gap, across = 46, 4, 18
    read = names(input_ids, tokenizer)
    count = len(read)
    columns = min(across, count)
    lines = -(-count // across)
    left, top, tall = 76, 64, 2 * size + 40
    width, height = left + columns * (size + gap) + 20, top + lines * tall + 16
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0'
            f' 0 {width} {height}" font-family="DejaVu Sans Mono, monospace">'
        ),
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="15" fill="#222222">{escape(title)}</text>',
        (
            '<rect x="16" y="38" width="12" height="12" fill="#d7d9dc"/><text x="34" y="49"'
            ' font-size="12" fill="#222222">masked: label -100, no loss, no gradient</text>'
        ),
        (
            '<rect x="346" y="38" width="12" height="12" fill="#2f6fd0"/><text x="364" y="49"'
            ' font-size="12" fill="#222222">graded</text>'
        ),
    ]

    def box(x, y, text, small, fill, ink):
        text = text if len(text) <= 9 else text.strip("<|>[]")
        letters = 15 if len(text) <= 2 else max(6, min(10, int(size * 1.55 / len(text))))
        out.append(
            f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{size - 1}" height="{size - 1}" rx="4"'
            f' fill="{fill}" stroke="#c9ccd0"/>'
        )
        out.append(
            f'<text x="{x + size / 2}" y="{y + 22}" font-size="{letters}" fill="{ink}"'
            ' text-anchor="middle"'
            f' xml:space="preserve">{escape(text if text != " " else OPEN_BOX)}</text>'
        )
        out.append(
            f'<text x="{x + size / 2}" y="{y + 39}" font-size="9" fill="{ink}"'
            f' text-anchor="middle">{small}</text>'
        )

    for i, (a, b) in enumerate(zip(input_ids.tolist(), labels.tolist())):
        x, y = left + i % across * (size + gap), top + i // across * tall
        if i % across == 0:
            out.append(f'<text x="16" y="{y + 28}" font-size="12" fill="#222222">input</text>')
            out.append(
                f'<text x="16" y="{y + size + gap + 28}" font-size="12" fill="#222222">label</text>'
            )
        box(x, y, read[i], a, "#ffffff", "#222222")
        if b != IGNORE:
            box(x, y + size + gap, names([b], tokenizer)[0], b, "#2f6fd0", "#ffffff")
        else:
            box(x, y + size + gap, "-100", "", "#d7d9dc", "#555b62")
    return "\n".join([*out, "</svg>", ""])
