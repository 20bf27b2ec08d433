"""Build an HTML page from small parts: one document that opens from a file and loads nothing else.

Every builder escapes the text it is given and returns Html, which is not escaped again."""

import base64
import hashlib
import re
from html import escape

# The sign of each kind of verdict. A badge has its word and its colour too.
SIGNS = {"good": "\u2713", "partly": "\u25d1", "bad": "\u2717"}

# The browser must load and run nothing, whatever text of a model or a data set is on the page. The
# one script that a page may have is known by its hash.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1d21; --dim: #5c626b; --paper: #fdfdfb;
  --rule: #d9dbd6; --field: #f1f2ee; --good: #00684c; --partly: #7a4b00; --bad: #a32a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e0; --dim: #a0a5ac; --paper: #15171a;
  --rule: #383c42; --field: #202328; --good: #4fd0a5; --partly: #f0b95a; --bad: #ff9468; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, sans-serif; font-variant-numeric: tabular-nums;
  -webkit-text-size-adjust: 100%; }
main { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1, h2, h3, h4 { line-height: 1.25; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: 2rem; margin: 0 0 1.5rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 .75rem; padding-top: .9rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .75rem 0; }
p, li, summary { overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; line-height: 1.45; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0;
  border-bottom: 1px solid var(--rule); white-space: pre-wrap; overflow-wrap: break-word; }
th { font-weight: 600; color: var(--dim); vertical-align: bottom; }
td.left { min-width: 6.5rem; overflow-wrap: anywhere; }
td.right, th.right { text-align: right; }
td.right { white-space: nowrap; }
tr > :last-child { padding-right: 0; }
td, li, small { unicode-bidi: plaintext; }  /* text from right to left keeps its order */
small { display: block; margin-top: .15rem; color: var(--dim); font-size: .86em;
  line-height: 1.4; }
figure { margin: 1.5rem 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption, footer { color: var(--dim); font-size: .9rem; line-height: 1.5; margin-top: .6rem; }
footer { margin-top: 4rem; padding-top: .9rem; border-top: 1px solid var(--rule); }
pre { background: var(--field); padding: .8rem 1rem; border-radius: .4rem; overflow-x: auto;
  font-size: .85rem; line-height: 1.5; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--dim); }
.badge { display: inline-block; padding: 0 .5rem; border: 1px solid currentColor;
  border-radius: 1rem; font-size: .88em; white-space: nowrap; font-weight: 600; }
.good { color: var(--good); } .partly { color: var(--partly); } .bad { color: var(--bad); }
"""


class Html(str):
    """Text that is HTML already."""


def printable(text) -> str:
    """The text with visible signs in place of characters that no document may hold: control
    characters, and halves of surrogate pairs."""

    def sign(control):
        return "\u2421" if control[0] == "\x7f" else chr(0x2400 + ord(control[0]))

    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", sign, str(text))
    return text.encode("utf-8", "backslashreplace").decode()


def as_html(part) -> str:
    """Text, escaped; HTML as it is."""
    return part if isinstance(part, Html) else escape(printable(part))


def page(title: str, parts: list[str], note: str = "", style: str = "", script: str = "") -> str:
    """The whole document. parts: values of the builders below, in order. note: a small text at the
    end. style: CSS after the page's own. script: JavaScript, which runs when the page is there."""
    foot = f"<footer>{as_html(note)}</footer>\n" if note else ""
    body = "\n".join(map(as_html, parts))
    policy, run = POLICY, ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, run = f"{POLICY}; script-src 'sha256-{digest}'", f"<script>{script}</script>\n"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy"'
        f' content="{policy}">\n<title>{as_html(title)}</title>\n<style>{STYLE}{style}</style>\n'
        f"</head>\n<body>\n<main>\n<h1>{as_html(title)}</h1>\n{body}\n{foot}"
        f"</main>\n{run}</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> Html:
    """A heading; the page's title is the only one of level 1."""
    return Html(f"<h{level}>{as_html(text)}</h{level}>")


def paragraph(*texts: str) -> Html:
    """A paragraph of texts and badges, with a blank between them."""
    return Html(f"<p>{' '.join(map(as_html, texts))}</p>")


def number(value) -> str:
    """A number for people: a whole number as 12,345, another to four significant digits, a bool as
    yes or no; a dash for None and nan."""
    if value is None or value != value:
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("-", "\u2212")


def table(headings: list[str], rows: list[list], align: str = "") -> Html:
    """A table that scrolls sideways on a narrow screen.

    Cells are texts, badges, or numbers, which number() writes. align: "l" or "r" for each column.
    By default a column that holds only numbers is aligned to the right."""

    def is_number(cell):
        return cell is None or isinstance(cell, (int, float))

    align = align or "".join(
        "r" if all(is_number(c) for c in column) else "l" for column in zip(*rows)
    )
    sides = [{"l": "left", "r": "right"}[side] for side in align.ljust(len(headings), "l")]

    def line(tag, cells):
        made = (
            f'<{tag} class="{side}">{as_html(number(c) if is_number(c) else c)}</{tag}>'
            for side, c in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    return Html(
        '<div class="wide"><table>\n<thead>'
        + line("th", headings)
        + "</thead>\n<tbody>\n"
        + "\n".join(line("td", cells) for cells in rows)
        + "\n</tbody></table></div>"
    )


def stack(text: str, *notes: str) -> Html:
    """A text with small notes below it, for the cell of a table."""
    return Html(as_html(text) + "".join(f"<small>{as_html(note)}</small>" for note in notes))


def figure(svg: str, caption: str = "") -> Html:
    """An SVG document from figures.py, not escaped, with a caption."""
    if not svg.startswith("<svg"):
        raise ValueError(f"figure: expected a document that begins with <svg, got {svg[:20]!r}...")
    below = f"<figcaption>{as_html(caption)}</figcaption>\n" if caption else ""
    return Html(f"<figure>\n{svg}\n{below}</figure>")


def bullets(items: list[str]) -> Html:
    """A list of texts or badges."""
    return Html("<ul>\n" + "\n".join(f"<li>{as_html(item)}</li>" for item in items) + "\n</ul>")


def code(text: str) -> Html:
    """A text in a fixed-width font, with its line breaks: commands, settings."""
    return Html(f"<pre><code>{as_html(text)}</code></pre>")


def details(summary: str, parts: list[str]) -> Html:
    """Parts that are hidden until somebody clicks the summary."""
    return Html(
        f"<details><summary>{as_html(summary)}</summary>\n"
        + "\n".join(map(as_html, parts))
        + "\n</details>"
    )


def badge(text: str, kind: str, alone: bool = False) -> Html:
    """A verdict: the sign, the word and the colour of `kind` (good, partly or bad), then the text.

    alone: leave the word out, because the text means the same."""
    shown = printable(text) if alone or text == kind else f"{kind}: {printable(text)}"
    return Html(f'<span class="badge {kind}">{SIGNS[kind]} {escape(shown)}</span>')
