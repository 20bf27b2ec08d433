"""Tools: whatever a call says, a search and a calculation answer it in words; and the town that
ships to be searched."""

import json
import math
import re
import sqlite3
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysft.errors import DataError, MissingInput, PysftError, RowError
from pysft.inference.tools import (
    ASKING,
    NOTHING,
    CalcError,
    Document,
    Search,
    Tool,
    calculate,
    tools,
    use,
)
from pysft.text.dataset import shipped
from pysft.text.template import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer

steady = settings(max_examples=300, deadline=None, derandomize=True, database=None)
TOWN = shipped("town.jsonl")
FACTS = [json.loads(line) for line in TOWN.read_text(encoding="utf-8").splitlines()]
KNOWN = frozenset(SHAKESPEARE)


@pytest.fixture(scope="module")
def town():
    return Search.of([str(TOWN)])


def write(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
        encoding="utf-8",
    )
    return str(path)


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# -------------------------------------------------------------------------------------- arithmetic

# Texts that are nearly expressions, and texts that are anything.
PIECES = [
    "1",
    "0",
    "9",
    "12",
    "0.5",
    ".",
    "1e30",
    "1e-30",
    "e",
    "_",
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "(",
    ")",
    ",",
    " ",
    "\n",
    "pi",
    "abs",
    "min",
    "max",
    "round",
    "floor",
    "ceil",
    "sqrt(",
    "if",
    "else",
    "or",
    "not",
    "in",
    "is",
    "for",
    "lambda",
    "await",
    "None",
    "True",
    "__import__",
    ".real",
    "9**9**",
    "x",
    "\0",
    "'",
    "[",
    "{",
    ":",
    "=",
    "\\",
    "#",
    "\ud800",
    "\u0665",
    "\uff19",
    "\u00b2",
]
hostile = st.one_of(
    st.text(max_size=250),
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 250)).map(lambda t: t[0] * t[1] + "1"),
)


@steady
@given(hostile)
@example("9" * 10**6)
@example("(" * 100 + "1" + ")" * 99)
@example("-" * 199 + "1")
@example("~" * 199 + "1")
@example("(1+1e-29)**(10**30)")
@example("((1-1e-29)**(10**29))**(1/3+1e-29)")
@example("*".join(["(1/3)**70"] * 15))
@example("+".join(["1/" + str(10**8 + n) for n in range(16)]))
@example("sqrt(" * 30 + "2" + ")" * 30)
@example("round(" * 25 + "2.5" + ")" * 25)
def test_any_text_is_calculated_or_refused_in_a_sentence_within_50_ms(text):
    took = []
    for _ in range(
        2
    ):  # the better time counts: the garbage of other tests may be collected in the other
        began = time.process_time()
        try:
            answer, refused = calculate(text), False
        except CalcError as error:
            answer, refused = str(error), True
        took.append(time.process_time() - began)
    if refused:
        assert 0 < len(answer) < 125 and answer.isprintable()
    else:
        assert re.fullmatch(r"-?\d{1,31}|-?\d+\.\d+|-?\d(\.\d+)?e[-+]?\d\d?", answer), answer
    assert min(took) < 0.05


class Outside(Exception):
    """A value that calculate refuses, or rounds."""


def checked(value):
    value = Fraction(value)
    if (
        abs(value) > 10**30
        or value
        and abs(value) < Fraction(1, 10**30)
        or value.denominator > 10**40
    ):
        raise Outside
    return value


def power(a, b):
    if b.denominator != 1 or abs(b) > 40 or not a and b < 0:
        raise Outside
    return a ** int(b)


numbers = st.integers(0, 9999).map(str) | st.decimals(0, 99, places=2).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        inner.map(lambda a: f"-{a}"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "round"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
    ),
    max_leaves=10,
)
IN_PYTHON = {
    "abs": abs,
    "min": min,
    "max": max,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
}


class Wrapped:
    """A Fraction whose every operation is checked; so Python's own parser, precedence and fractions
    are the oracle."""

    def __init__(self, value):
        self.v = checked(value)

    def __pow__(self, other):
        return Wrapped(power(self.v, other.v))

    def __neg__(self):
        return Wrapped(-self.v)

    def __abs__(self):
        return Wrapped(abs(self.v))

    def __floor__(self):
        return Wrapped(math.floor(self.v))

    def __ceil__(self):
        return Wrapped(math.ceil(self.v))

    def __round__(self):
        return Wrapped(round(self.v))

    def __lt__(self, other):
        return self.v < other.v

    def __gt__(self, other):
        return self.v > other.v


for name in ("add", "sub", "mul", "truediv", "floordiv", "mod"):
    method = f"__{name}__"
    setattr(
        Wrapped,
        method,
        lambda self, other, method=method: Wrapped(getattr(self.v, method)(other.v)),
    )


@settings(steady, max_examples=500)
@given(expressions)
def test_an_expression_has_the_value_that_pythons_fractions_give_it(text):
    try:
        expected = eval(
            re.sub(r"\d+(\.\d+)?", lambda m: f"W('{m[0]}')", text), {"W": Wrapped, **IN_PYTHON}
        ).v
    except Outside:
        return
    except ZeroDivisionError:
        expected = None
    try:
        answer = calculate(text)
    except CalcError as error:
        assert (
            len(text) > 200
            or "too long" in str(error)
            or expected is None
            and "division by zero" in str(error)
        ), text
        return
    assert expected is not None
    if expected.denominator == 1:
        assert answer == str(expected)
    else:
        assert abs(Fraction(answer) - expected) <= abs(expected) * Fraction(6, 10**12)
        assert len(re.sub(r"^-?0?\.?0*|\.|e.*", "", answer)) <= 12


@pytest.mark.parametrize(
    "text, answer",
    {
        "2+3*4": "14",
        "-2**2": "-4",
        "2**3**2": "512",
        "7//-2": "-4",
        "-7 % 3": "2",
        "1/3": "0.333333333333",
        "0.1 + 0.2": "0.3",
        "5.": "5",
        ".5": "0.5",
        "2e3": "2000",
        "1/8": "0.125",
        "2**99": str(2**99),
        "10**30": "1" + "0" * 30,
        "10**29/7": "1.42857142857e+28",
        "1/3e9": "3.33333333333e-10",
        "1e-30": "1e-30",
        "0**0": "1",
        "0*5": "0",
        "-0": "0",
        "4**0.5": "2",
        "4**-0.5": "0.5",
        "2**0.5": "1.41421356237",
        "sqrt(2)": "1.41421356237",
        "sqrt(9/16)": "0.75",
        "sqrt(2)**2": "2",
        "floor(sqrt(2)**2)": "2",
        "sqrt(8) - 2*sqrt(2)": "0",
        "pi": "3.14159265359",
        "floor(-1.5)": "-2",
        "ceil(-1.5)": "-1",
        "round(2.5)": "2",
        "round(2.675, 2)": "2.68",
        "round(1250, -2)": "1200",
        "abs(-3)": "3",
        "min(3, 1, 2)": "1",
        "max(1/3, 0.3)": "0.333333333333",
        " (1\n+ 2) ": "3",
        "(-1)**(10**30)": "1",
        "1.05**30": "4.32194237515",
        "(1+1e-20)**(10**21)": "22026.4657948",
        "sqrt(1/9)*3": "1",
        "(1/3)**62*(1+(1/7)**35)*(1+(1/11)**28)": "2.62109165288e-30",
        "+".join("1" * 30): "30",
    }.items(),
)
def test_arithmetic_is_exact_and_written_short(text, answer):
    assert calculate(text) == answer


@pytest.mark.parametrize(
    "text, sentence",
    {
        "": "nothing to calculate",
        "1" * 201: "too long",
        "+".join("1" * 31): "too long",
        "1/0": "division by zero",
        "1%0": "division by zero",
        "1//0": "division by zero",
        "0**-1": "division by zero",
        "9**9**9**9": "too large",
        "10**30 + 1": "too large",
        "1e31": "too large",
        "9" * 31: "too large",
        "1e-31": "too small",
        "0.1**31": "too small",
        "(1-1e-28)**(10**30)": "too small",
        "(1+1e-28)**(10**30)": "too large",
        "(1-1e-25)**1e30": "too small",
        "(1+1e-25)**1e30": "too large",
        "sqrt(-1)": "no square root",
        "(-8)**(1/3)": "whole powers",
        "round(1, 0.5)": "whole number of places",
        "round(1, 31)": "whole number of places",
        "min(1)": "min takes 2",
        "abs(1, 2)": "abs takes 1, here are 2",
        "max(*1)": "max takes 2",
        "2^3": "a power is **",
        "'a'": "no meaning",
        "\0": "no meaning",
        "\u0665": "no meaning",
        "0x10": "not a number",
        "3j": "not a number",
        "1_000": "not a number",
        "1if 2 else 3": "not a number",
        "1 if 2 else 3": "not arithmetic",
        "()": "not arithmetic",
        "1, 2": "not arithmetic",
        "1 2": "not arithmetic",
        "True": "not arithmetic",
        "max": "not arithmetic",
        "pi()": "not arithmetic",
        "pi.real": "not arithmetic",
        "(1).real": "not arithmetic",
        "abs(1).real": "not arithmetic",
        "__import__(1)": "not arithmetic",
        "min(1, **2)": "not arithmetic",
        "not 1": "not arithmetic",
        "1 or 2": "not arithmetic",
        "abs": "not arithmetic",
        "(abs)(abs)": "not arithmetic",
        "print(1)": "not arithmetic",
        "007": "not arithmetic",
        "*": "not arithmetic",
    }.items(),
)
def test_what_is_no_arithmetic_is_refused_by_its_reason(text, sentence):
    with pytest.raises(CalcError) as error:
        calculate(text)
    assert sentence in one_line(error)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["1or 2", "0in 1", "1(2)", "1 is 1", "0xfor 1", "1.real", "1 .e"])
def test_no_expression_makes_python_warn(text):
    with pytest.raises(CalcError):
        calculate(text)


def test_a_power_that_is_too_large_is_never_computed(monkeypatch):
    def computed(*_):
        raise AssertionError("computed")

    monkeypatch.setattr(Fraction, "__pow__", computed)
    for text, refusal in (
        ("9**99", "too large"),
        ("0.5**999", "too small"),
        ("2**-999", "too small"),
        ("9**9**9", "computed"),
        ("9**2", "computed"),
    ):
        with pytest.raises((CalcError, AssertionError), match=refusal):
            calculate(text)


# ------------------------------------------------------------------------------------------ search

QUERIES = [
    '"',
    "'",
    "*",
    ":",
    "^",
    "(",
    ")",
    "+",
    "-",
    "NEAR",
    "NEAR(",
    "AND",
    "OR",
    "NOT",
    "title:",
    "text : ",
    "{title text}",
    "docs",
    "\0",
    "\ud800",
    "\u0301",
    "\u0130",
    "\u00df",
    "\u4e2d",
    "\u0915\u093f",
    "\U0001f600",
    " ",
    "\n",
    "Wenna",
    "bell",
    "3",
    "_",
    "--",
    ";",
    "/*",
    "x" * 500,
]


@steady
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(QUERIES), max_size=40).map("".join),
        st.lists(st.sampled_from(QUERIES), max_size=40).map(" ".join),
    ),
    st.integers(-3, 300),
)
@example("x" * 10**6, 1)
@example("x " * 10**6, 1)
@example(" ".join(f"w{i}" for i in range(10**5)), 1)
@example(" ".join(map(chr, range(0x4E00, 0x5000))), 1)
@example("inn", -1)
def test_any_query_gives_documents_or_none_and_never_an_error_of_sqlite(town, query, most):
    found = town.find(query, most)
    assert len(found) <= max(most, 0) and all(isinstance(document, Document) for document in found)
    assert len({document.title for document in found}) == len(found)
    assert town.answer(query) in {NOTHING, *(fact["text"] for fact in FACTS)}


@pytest.mark.parametrize(
    "ask",
    ["{}", "Who is {}?", "where is the {}", "Tell me about {}, please!", "WHAT IS {}", '"{}"'],
)
def test_each_of_the_towns_facts_is_found_first_by_its_title(town, ask):
    for fact in FACTS:
        for title in (fact["title"], fact["title"].lower()):
            assert town.find(ask.format(title))[0] == Document(fact["title"], fact["text"]), title
            assert town.answer(ask.format(title)) == fact["text"]


def test_a_name_that_shares_a_word_finds_a_near_miss_and_another_finds_nothing(town):
    assert town.find("Who is Wenna Kovacs?")[0].title.startswith("Wenna ")
    assert town.answer("Who is Orson Kovacs?") == NOTHING == "nothing found"
    assert town.find("Who is Orson Kovacs?") == town.find("?!") == town.find("") == []


def test_a_word_in_the_title_weighs_more_than_many_in_the_text():
    index = Search(
        [
            Document("Pond", "The bell, the bell, the bell of a bell."),
            Document("Bell", "It hangs high."),
            Document("Well", "Deep."),
        ]
    )
    assert [document.title for document in index.find("bell", 9)] == ["Bell", "Pond"]


def test_equals_come_in_their_order_and_a_rare_word_outweighs_a_common_one():
    index = Search(
        [
            Document(title, f"A mill of the {word} kind.")
            for title, word in zip("abcd", ("red", "red", "blue", "red"))
        ]
    )
    assert (
        [d.title for d in index.find("mill red", 9)]
        == ["a", "b", "d", "c"]
        == [d.title for d in index.find("red mill", 9)]
    )
    assert index.find("blue mill")[0].title == "c"


def test_words_that_only_ask_count_only_where_there_is_nothing_else():
    index = Search(
        [
            Document("", "What is it? Who is it?"),
            Document("The Who", "They play loud."),
            Document("", "A pear."),
        ]
    )
    assert index.find("who is the pear")[0].text == "A pear."
    assert index.find("the who")[0].title == "The Who"
    assert not ASKING & {
        word.lower()
        for fact in FACTS
        for word in fact["title"].split()
        if word not in ("and", "of")
    }


def test_syntax_in_a_query_is_only_words():
    index = Search([Document("a", "near the bell"), Document("b", "not a pear")])
    assert [d.title for d in index.find('title:NEAR("bell" "x")', 9)] == ["a"]
    assert [d.title for d in index.find("bell NOT bell", 9)] == ["a", "b"]
    assert index.find("be*") == []


def test_letters_and_their_accents_are_found_however_they_are_written():
    index = Search(
        [
            Document("Zo\u00eb", "Dances."),
            Document("Rene\u0301e", "Sings."),
            Document("\u0420\u044b\u0431\u0430", "Swims."),
        ]
    )
    for query, title in (
        ("Zoe", "Zo\u00eb"),
        ("ZOE\u0308", "Zo\u00eb"),
        ("Ren\u00e9e", "Rene\u0301e"),
        ("Rene\u0301e", "Rene\u0301e"),
        ("\u0440\u044b\u0431\u0430", "\u0420\u044b\u0431\u0430"),
    ):
        assert index.find(query)[0].title == title


def test_a_search_can_run_in_another_thread(town):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(town.answer, "Old Grumble").result().startswith("Old Grumble")


def test_a_folder_is_read_paragraph_by_paragraph_in_the_order_of_its_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes(
        "\ufeffOne line\r\nand another.\r\n \r\nA second paragraph.\r\n\r\n\r\n".encode()
    )
    (tmp_path / "deep" / "Old Mill.MD").write_text(
        "# History\n\n## Its wheel\n\nIt turned.\n\nIt stands.\n\n# The end\n", encoding="utf-8"
    )
    (tmp_path / "a.csv").write_text("not,read", encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()
    index = Search.of([str(tmp_path)])
    assert index.documents == [
        Document("b", "One line and another."),
        Document("b", "A second paragraph."),
        Document("Old Mill", "History: Its wheel: It turned."),
        Document("Old Mill", "It stands."),
        Document("Old Mill", "# The end"),
    ]
    assert index.find("Where is the old mill?")[0].title == "Old Mill" and index.answer(
        "wheel"
    ).endswith("It turned.")


def test_a_jsonl_file_gives_a_document_a_row_and_files_add_up(tmp_path):
    rows = write(
        tmp_path / "x.jsonl",
        {"title": "A", "text": "Ho\u2028ho", "kind": 3},
        "",
        {"text": "no title"},
    )
    text = write(tmp_path / "y.txt", "Some words.")
    assert Search.of([rows, text]).documents == [
        Document("A", "Ho\u2028ho"),
        Document("", "no title"),
        Document("y", "Some words."),
    ]


@pytest.mark.parametrize(
    "row, sentence",
    {
        "{": "line 2: not JSON",
        "[" * 100_000: "line 2: not JSON",
        "[1]": "line 2: no document",
        '"x"': "line 2: no document",
        '{"text": 3}': "line 2: no document",
        '{"title": 3, "text": "x"}': "line 2: no document",
        '{"title": "x"}': 'line 2: no "text"',
        '{"text": " "}': 'line 2: no "text"',
        '{"text": "\\ud800"}': "line 2: half of a character",
        '{"title": "\\udfff", "text": "x"}': "line 2: half of a character",
    }.items(),
    ids=range(10),
)
def test_a_row_that_is_no_document_is_named_with_file_line_and_remedy(tmp_path, row, sentence):
    path = write(tmp_path / "x.jsonl", {"text": "fine"}, row)
    with pytest.raises(RowError) as error:
        Search.of([path])
    assert f"{path}, {sentence}" in one_line(error) and error.value.remedy and error.value.line == 2


def test_what_cannot_be_searched_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9 au lait")
    cases = {
        str(tmp_path / "none.txt"): (MissingInput, "no such file or folder"),
        "a\0b": (MissingInput, "no such file"),
        str(tmp_path / "empty"): (DataError, "no text to search in"),
        write(tmp_path / "void.txt", " "): (DataError, "no text"),
        write(tmp_path / "void.jsonl", ""): (DataError, "no text"),
        str(tmp_path / "bad.txt"): (DataError, "UTF-8"),
        write(tmp_path / "x.pdf", "x"): (DataError, "no kind of file"),
        "/dev/zero": (DataError, "no kind of file"),
    }
    for path, (kind, sentence) in cases.items():
        with pytest.raises(kind) as error:
            Search.of([path])
        assert sentence in one_line(error) and path in str(error.value)
    with pytest.raises(DataError, match="no path: no text"):
        Search.of([])


@pytest.mark.parametrize("lack", ["sqlite", "fts5"])
def test_an_sqlite_without_full_text_search_is_said_in_one_sentence(monkeypatch, lack):
    if lack == "sqlite":
        monkeypatch.setitem(sys.modules, "sqlite3", None)
    else:

        class Bare:
            def execute(self, sql):
                raise sqlite3.OperationalError("no such module: fts5")

        monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: Bare())
    with pytest.raises(PysftError) as error:
        Search([Document("a", "b")])
    assert "FTS5" in one_line(error) and "without --docs" in str(error.value)


# ----------------------------------------------------------------------------------------- results


def test_the_tools_are_parts_of_the_template_and_there_is_no_search_without_documents(town):
    assert set(tools(town)) == set(CHAT.parts) - {"result"} and list(tools()) == ["code"]
    assert all(tool.name == name for name, tool in tools(town).items())
    assert use(tools(town)["search"], "Who is Wenna Thrupple?", 99, KNOWN) == FACTS[0]["text"]
    assert use(tools()["code"], "6 * 7", 99, KNOWN | set("0123456789")) == "42"


@steady
@given(
    st.text() | st.text("ab \n<|end>\u201c\u00e4\u0301\u200b\u00a0", max_size=60),
    st.integers(-2, 80),
    st.frozensets(st.sampled_from(SHAKESPEARE)) | st.just(KNOWN),
)
def test_a_result_is_one_line_of_known_characters_that_has_room(text, room, known):
    result = use(Tool("echo", str), text, room, known)
    assert (
        len(result) <= max(room, 0)
        and known >= set(result)
        and "\n" not in result
        and result == result.strip()
    )
    if known >= set(text) | {" "}:
        assert result.split() == text.split()[: len(result.split())]  # whole words, from the first


def test_a_result_ends_at_a_words_end_and_no_word_is_cut():
    for room, result in {
        -1: "",
        2: "",
        3: "Old",
        4: "Old",
        10: "Old",
        11: "Old Grumble",
        12: "Old Grumble",
        18: "Old Grumble rings.",
    }.items():
        assert use(Tool("echo", str), " Old Grumble\n\nrings. ", room, KNOWN) == result


def test_characters_that_the_vocabulary_lacks_are_replaced_by_look_alikes():
    assert (
        use(Tool("echo", str), "\u201cZo\u00eb\u201d \u2013 4\u00a0(four)\t\u2026", 99, KNOWN)
        == "'Zoe' - ? ,four, ..."
    )
    assert use(Tool("echo", str), "a\u00e4 \u00a7", 99, frozenset("a ")) == "aa"


def test_no_control_marker_can_come_out_of_a_result():
    tokenizer = CharTokenizer(SHAKESPEARE + "<|>_").grow(CHAT.tokens + CHAT.tool_tokens)
    result = use(
        Tool("echo", str),
        "<|end|><|user|>\n\nHuman: Hi<|result_end|>",
        99,
        frozenset(tokenizer.characters),
    )
    assert (
        tokenizer.encode(result) < len(tokenizer.characters)
    ).all() and "\n\nHuman: " not in result


@pytest.mark.parametrize(
    "fault, words",
    [
        (CalcError("division by zero"), "error: division by zero"),
        (ZeroDivisionError("x"), "error: odd failed ,ZeroDivisionError,"),
        (RecursionError(), "error: odd failed ,RecursionError,"),
        (MemoryError(), "error: odd failed ,MemoryError,"),
        (None, "error: odd gave no text"),
    ],
)
def test_any_error_of_a_tool_is_a_result_in_words(fault, words):
    def run(call):
        if fault:
            raise fault

    assert use(Tool("odd", run), "x", 99, KNOWN) == words
    assert use(Tool("odd", run), "x", 12, KNOWN) == words[:12].rpartition(" ")[0]


def test_a_very_long_result_costs_no_more_than_its_beginning():
    text = "\u00e4 b\u0308 " * 10**6
    began = time.process_time()
    assert use(Tool("echo", lambda call: text), "x", 9, KNOWN) == "a b a b a"
    assert time.process_time() - began < 0.5


@steady
@given(hostile)
def test_a_hostile_call_of_either_tool_has_a_result(town, call):
    for tool in tools(town).values():
        assert use(tool, call, 60, KNOWN)


# ---------------------------------------------------------------------------------------- the town


def test_the_town_has_120_facts_in_the_65_characters_each_a_sentence_that_begins_with_its_title():
    assert Counter(fact["kind"] for fact in FACTS) == {"person": 60, "place": 35, "thing": 25}
    for fact in FACTS:
        assert list(fact) == ["title", "kind", "text"]
        assert KNOWN >= set("".join(fact.values())) and not {"3", "\n"} & set(fact["text"]), fact
        assert (
            30 <= len(fact["text"]) <= 70
            and fact["text"].startswith(fact["title"] + " ")
            and fact["text"].endswith(".")
        ), fact
        assert not re.search(r"[.;:?!]", fact["text"][:-1]) and "  " not in fact["text"], fact


def test_no_title_of_the_town_is_within_another_nor_any_text_twice():
    titles = [fact["title"].lower() for fact in FACTS]
    assert (
        len({fact["text"].removeprefix(fact["title"]) for fact in FACTS})
        == len(FACTS)
        == len(set(titles))
    )
    assert not [(a, b) for a in titles for b in titles if a != b and a in b]


def test_persons_have_two_names_and_share_them_so_that_there_are_near_misses():
    names = [fact["title"].split() for fact in FACTS if fact["kind"] == "person"]
    assert all(
        len(name) == 2 and not part.endswith("s") and part.istitle()
        for name in names
        for part in name
    )
    firsts, lasts = (Counter(name[i] for name in names) for i in (0, 1))
    assert (
        sum(n > 1 for n in firsts.values()) >= 20
        and sum(n > 1 for n in lasts.values()) >= 20
        and not set(firsts) & set(lasts)
    )


def test_no_fact_of_the_town_stands_in_what_the_model_learns_to_speak_from():
    spoken = shipped("conversations.jsonl").read_text(encoding="utf-8") + shipped(
        "plays.txt"
    ).read_text(encoding="utf-8")
    for fact in FACTS:
        assert (
            fact["text"].removeprefix(fact["title"]) not in spoken and fact["title"] not in spoken
        ), fact
