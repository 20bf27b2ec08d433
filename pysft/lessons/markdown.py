"""Turn the little Markdown that lessons and docstrings use into HTML.

It has paragraphs, headings, lists, code in fences or indented by four blanks, tables with |, and in
a line `code`, **bold** and *emphasis*. A paragraph that is laid out by hand, with three blanks or
more inside a line, keeps its lines: formulas in docstrings are written so."""

import re

from pysft.measure.page import Html, as_html, code, table

ITEM = re.compile(r"(-|\d+\.) +")
INDENT = "    "
BY_HAND = re.compile(r"\S {3,}\S|\n ")


def to_html(markdown: str) -> Html:
    """The HTML of a text in Markdown. What is HTML in the text is shown as it is written."""
    lines, parts = markdown.expandtabs().split("\n"), []
    while lines:
        line = lines[0]
        if not line.strip():
            lines.pop(0)
        elif line.startswith("```"):
            ends = [i for i, line in enumerate(lines) if line.startswith("```")][1:2]
            end = ends[0] if ends else len(lines)
            parts.append(code("\n".join(lines[1:end])))
            del lines[: end + 1]
        elif line.startswith(INDENT):
            inside = _take(lines, lambda line: line.startswith(INDENT), across_blanks=True)
            parts.append(code("\n".join(line[len(INDENT) :] for line in inside)))
        elif line.startswith("#"):
            level = min(6, 2 + len(line) - len(line.lstrip("#")))  # below those of the page
            parts.append(Html(f"<h{level}>{inline(lines.pop(0).lstrip('# '))}</h{level}>"))
        elif line.startswith("|"):
            parts.append(_table(_take(lines, lambda line: line.startswith("|"))))
        elif ITEM.match(line):
            parts.append(_list(lines))
        else:
            words = "\n".join(_take(lines, lambda line: not line.startswith("```")))
            parts.append(code(words) if BY_HAND.search(words) else Html(f"<p>{inline(words)}</p>"))
    return Html("\n".join(parts))


def inline(words: str) -> Html:
    """The HTML of a text without paragraphs."""
    parts = re.split(r"`([^`]+)`", words)
    parts[1::2] = (f"<code>{as_html(part)}</code>" for part in parts[1::2])
    parts[::2] = (_emphasised(as_html(part)) for part in parts[::2])
    return Html("".join(parts))


def _emphasised(html: str) -> str:
    """Stars that touch a word are emphasis; those with a blank on both sides are products."""
    for mark, tag in ((r"\*\*", "strong"), (r"\*", "em")):
        html = re.sub(rf"(?<![\w*]){mark}(?=[^\s*])(.+?)(?<=[^\s*]){mark}(?![\w*])",
                      rf"<{tag}>\1</{tag}>", html, flags=re.S)  # fmt: skip
    return html


def _take(lines: list[str], belongs, across_blanks: bool = False) -> list[str]:
    """Remove the first lines, those that belong together, and return them. A blank line ends them.
    across_blanks: only if the next line that is not blank does not belong to them."""
    n = 0
    for i, line in enumerate(lines):
        if line.strip() and belongs(line):
            n = i + 1
        elif line.strip() or not across_blanks:
            break
    return [lines.pop(0) for _ in range(n)]


def _list(lines: list[str]) -> Html:
    """A list, whose lines are removed. What is indented below an item belongs to it, and can be
    anything that a text can."""
    tag, items = "ul" if lines[0].startswith("-") else "ol", []
    while lines and (found := ITEM.match(lines[0])):
        first, wide = lines.pop(0)[found.end() :], found.end()
        more = _take(lines, lambda line: line.startswith("  "), across_blanks=True)
        inside = to_html("\n".join([first, *(line[min(wide, _indent(line)) :] for line in more)]))
        if inside.startswith("<p>") and inside.count("<p>") == 1 and inside.endswith("</p>"):
            inside = inside[len("<p>") : -len("</p>")]
        items.append(f"<li>{inside}</li>")
        while lines and not lines[0].strip():
            lines.pop(0)
    return Html(f"<{tag}>\n" + "\n".join(items) + f"\n</{tag}>")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _table(lines: list[str]) -> Html:
    cells = [[inline(c.strip()) for c in line.strip().strip("|").split("|")] for line in lines]
    wide = len(cells[0])
    rows = [(row + [Html("")] * wide)[:wide] for row in cells[1:] if not _is_rule(row)]
    return table(cells[0], rows, "l" * wide)


def _is_rule(row: list[str]) -> bool:
    """True for the line between the head of a table and its rows."""
    return all(re.fullmatch(r":?-+:?", cell) for cell in row)
