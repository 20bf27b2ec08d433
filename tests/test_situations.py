"""What people's files and machines are really like: each row of tests/situations/ comes out right.

python tests/test_situations.py       prints the rows as a table for bench/RESULTS.md"""

import shlex

import pytest
from command_line import pysft
from conftest import ROOT
from situations import data, more, more_runs, runs, scripts
from situations.formats import format_lines

from pysft.cli.guide import read_pages

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

TABLES = (data, scripts, runs, more, more_runs)
SITUATIONS = [s for table in TABLES for s in table.SITUATIONS]


@pytest.mark.parametrize("s", SITUATIONS, ids=[s.name for s in SITUATIONS])
def test_a_situation_comes_out_right(s, workdir, trained, monkeypatch):
    for name, content in s.files.items():
        workdir.write(name, content)
    if s.setup:
        s.setup(monkeypatch, workdir.path)
    command = s.command.replace("{run}", shlex.quote(str(trained.run)))
    result = pysft(*shlex.split(command.replace("{inputs}", shlex.join(map(str, trained.text)))))
    printed = result.out + result.err
    assert result.code == s.code, printed
    for text in s.says:
        assert text in printed, printed
    for text in s.never:
        assert text not in printed, printed
    if s.code not in (0, 1, 65) or (s.code and not result.out):
        assert len(result.err.splitlines()) == 1, result.err
    if s.check:
        s.check(result, workdir.path)


def test_every_situation_has_a_name_of_its_own_and_says_where_it_was_met():
    assert len({s.name for s in SITUATIONS}) == len(SITUATIONS)
    assert all(s.source and s.before and (s.says or s.check) for s in SITUATIONS)


def test_the_guide_lists_every_format_with_its_example():
    assert "\n".join(format_lines()) in read_pages()["data"]


def test_the_results_have_a_row_for_every_situation():
    assert table() in (ROOT / "bench/RESULTS.md").read_text()


def table() -> str:
    """The situations as a table of Markdown."""
    rows = [f"| {s.name} | {s.source} | {s.before} |".replace("\n", " ") for s in SITUATIONS]
    return "\n".join(["| situation | met in | at first |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
