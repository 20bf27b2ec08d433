"""The Markdown of lessons and docstrings as HTML."""

import inspect

import pytest

from pysft.lessons.markdown import to_html
from pysft.nn import reference

MARKDOWN = {
    "one\ntwo\n\nthree": "<p>one\ntwo</p>\n<p>three</p>",
    "*em* **bold** `a*b*c`": "<p><em>em</em> <strong>bold</strong> <code>a*b*c</code></p>",
    "y = norm * w * b, cu_seqlens_of": "<p>y = norm * w * b, cu_seqlens_of</p>",
    "a < b & `<i>`": "<p>a &lt; b &amp; <code>&lt;i&gt;</code></p>",
    "## Part": "<h4>Part</h4>",
    "```python\n>>> 1\n\n1\n```\nend": "<pre><code>&gt;&gt;&gt; 1\n\n1</code></pre>\n<p>end</p>",
    "so\n\n    a\n\n      b\n\nend": "<p>so</p>\n<pre><code>a\n\n  b</code></pre>\n<p>end</p>",
    "dx = dy w      [1]\ndw = x": "<pre><code>dx = dy w      [1]\ndw = x</code></pre>",
    "- a\n  b\n- c\n\nend": "<ul>\n<li>a\nb</li>\n<li>c</li>\n</ul>\n<p>end</p>",
    "1. a\n\n       code\n\n2. c": "<ol>\n<li><p>a</p>\n<pre><code>code</code></pre></li>\n"
    "<li>c</li>\n</ol>",
}


@pytest.mark.parametrize("text", MARKDOWN)
def test_markdown_becomes_html(text):
    assert to_html(text) == MARKDOWN[text]


def test_a_table_has_a_head_and_rows_and_missing_cells_are_empty():
    made = to_html("| a | `b` |\n|---|:--|\n| 1 | x < y |\n| 2 |")
    assert made.count("<tr>") == 3 and made.count("<td") == 4
    assert "<code>b</code>" in made and "x &lt; y" in made


def test_formulas_in_a_docstring_keep_their_lines():
    made = to_html(inspect.getdoc(reference.matmul_backward))
    assert "<pre><code>dx[n,c] = sum_k dy[n,k] w[k,c]       dx = dy w\ndw[k,c]" in made
    assert made.count("<p>") == 2


def test_what_is_html_in_a_text_is_shown_and_not_run():
    for text in ("{}", "- {}", "`{}`", "    {}", "```\n{}\n```", "# {}", "| {} |\n|---|\n| {} |"):
        made = to_html(text.replace("{}", "<script>1</script>"))
        assert "<script" not in made and "&lt;script&gt;1" in made
