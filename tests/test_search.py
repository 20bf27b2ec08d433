"""Full-text search: any query is answered, documents that cannot be read are refused in a sentence;
and the town that ships to be searched."""

import json
import re
import sqlite3
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysft.errors import DataError, MissingInput, PysftError, RowError
from pysft.inference.search import QUESTION_WORDS, Document, Search
from pysft.text.corpora import shipped
from pysft.text.tokenizer import SHAKESPEARE
from pysft.world.transcripts import NOTHING, about

steady = settings(max_examples=300, deadline=None, derandomize=True, database=None)
TOWN = shipped("town.jsonl")
FACTS = [json.loads(line) for line in TOWN.read_text(encoding="utf-8").splitlines()]
SECOND = ("home", "friend")  # the kinds that a second question asks for


def name_of(fact):
    """The name that a fact is about, with which its text begins."""
    return fact["title"].removeprefix(about(fact["kind"], ""))


@pytest.fixture(scope="module")
def town():
    return Search.of([str(TOWN)])


def write(path, *rows):
    """Write rows, texts or objects, as lines of a file; return its path as text."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# ----------------------------------------------------------------------------------------- queries

# fmt: off
PIECES = [
    '"', "'", "*", ":", "^", "(", ")", "+", "-", "NEAR", "NEAR(", "AND", "OR", "NOT",
    "title:", "text : ", "{title text}", "docs", "--", ";", "/*", "\0", "\n", " ", "_", "3",
    "\ud800", "\u0301", "\u0130", "\u00df", "\u4e2d", "\u0915\u093f", "\U0001f600",
    "Wenna", "bell", "x" * 500,
]
# fmt: on


@steady
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
        st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join),
    ),
    st.integers(-3, 300),
)
@example("x" * 10**6, 1)
@example("x " * 10**6, 1)
@example(" ".join(f"w{i}" for i in range(10**5)), 1)
@example(" ".join(map(chr, range(0x4E00, 0x5000))), 1)
@example("inn", -1)
@example("Wenna Thrupple", 0)
def test_any_query_finds_documents_or_none_and_never_an_error_of_sqlite(town, query, most):
    found = town.find(query, most)
    assert len(found) <= max(most, 0) and all(isinstance(document, Document) for document in found)
    assert len({document.title for document in found}) == len(found)
    assert town.answer(query) in {NOTHING, *(fact["text"] for fact in FACTS)}


@pytest.mark.parametrize(
    "ask",
    ["{}", "Who is {}?", "where is the {}", "Tell me about {}, please!", "WHAT IS {}", '"{}"'],
)
def test_each_fact_of_the_town_is_found_first_by_its_title(town, ask):
    for fact in FACTS:
        for title in (fact["title"], fact["title"].lower()):
            assert town.find(ask.format(title))[0] == Document(fact["title"], fact["text"]), title
            assert town.answer(ask.format(title)) == fact["text"]


def test_an_unknown_name_finds_a_document_only_if_it_shares_a_word_with_one(town):
    assert town.answer("Who is Wenna Kovacs?").startswith("Wenna ")
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


def test_a_word_in_the_title_weighs_as_much_as_four_in_the_text():
    others = [Document(f"other {c}", "some words of another kind") for c in "abcde"]
    once = Document("bell one", "two three four five")
    for bells, is_equal in ((3, False), (4, True), (5, False)):
        often = Document("one two", " ".join(["bell"] * bells + ["three"] * (4 - bells)))
        found = [
            Search([*pair, *others]).find("bell", 2)[0] for pair in ((once, often), (often, once))
        ]
        # If they are equally good, the first of the index comes first.
        assert found == ([once, often] if is_equal else [once if bells < 4 else often] * 2)


def test_of_a_query_the_first_thousand_characters_are_read():
    index = Search([Document("", "The bells ring."), Document("", "The bell rings.")])
    for blanks, text in ((995, "The bells ring."), (996, "The bell rings.")):
        assert index.answer(" " * blanks + "bells") == text
    assert index.answer(" " * 1000 + "bells") == NOTHING


def test_a_title_with_exactly_the_words_of_the_query_comes_first_whatever_the_others_hold():
    index = Search(
        [
            Document("Tom", "Tom Reed."),
            Document("friend of Tom Reed", "Tom Reed, Ann."),
            Document("Tom Reed", "He keeps " + "many " * 50 + "bees."),
            Document("Tom Reed", "Another."),
            Document("Reed Tom", "Reed Tom."),
        ]
    )
    for query in ("Tom Reed", "Who is TOM Reed?", "tell me about the tom reed"):
        found = [document.text for document in index.find(query, 9)]
        assert found[0].startswith("He keeps") and len(found) == len(set(found)) == 5
        assert [document.text for document in index.find(query, 2)] == found[:2]
    assert index.find("who is a friend of Tom Reed")[0].title == "friend of Tom Reed"
    assert index.find("Reed, Tom")[0].title == "Reed Tom"


@pytest.mark.parametrize("query", ["Tom Reed bees", "Reed", "Tom Tom Reed"])
def test_a_title_with_other_words_than_the_query_has_no_preference(query):
    index = Search([Document("Bees", "Tom Reed bees."), Document("Tom Reed", "Old. " * 99)])
    assert index.find(query)[0].title == "Bees"


def test_a_rare_word_outweighs_a_common_one_and_equals_keep_their_order():
    kinds = zip("abcd", ("red", "red", "blue", "red"))
    index = Search([Document(title, f"A mill of the {word} kind.") for title, word in kinds])
    for query in ("mill red", "red mill"):
        assert [d.title for d in index.find(query, 9)] == ["a", "b", "d", "c"]
    assert index.find("blue mill")[0].title == "c"


def test_question_words_count_only_if_a_query_has_no_others():
    index = Search(
        [
            Document("", "What is it? Who is it?"),
            Document("The Who", "They play loud."),
            Document("", "A pear."),
        ]
    )
    assert index.find("who is the pear")[0].text == "A pear."
    assert index.find("the who")[0].title == "The Who"
    words = {word.lower() for fact in FACTS for word in fact["title"].split()}
    assert not QUESTION_WORDS & (words - {"and", "of"})


def test_query_syntax_is_only_words():
    index = Search([Document("a", "near the bell"), Document("b", "not a pear")])
    assert [d.title for d in index.find('title:NEAR("bell" "x")', 9)] == ["a"]
    assert [d.title for d in index.find("bell NOT bell", 9)] == ["a", "b"]
    assert index.find("be*") == []


def test_letters_with_accents_are_found_however_they_are_encoded():
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


# --------------------------------------------------------------------------------------- documents


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
    assert index.find("Where is the old mill?")[0].title == "Old Mill"
    assert index.answer("wheel").endswith("It turned.")


def test_each_row_of_a_jsonl_file_is_a_document_and_several_files_add_up(tmp_path):
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
        "[1]": "line 2: an array, expected an object; write each object of the array on a line",
        '"x"': 'line 2: a text, expected an object; write {"title": text',
        '{"text": 3}': "line 2: not a document",
        '{"title": 3, "text": "x"}': "line 2: not a document",
        '{"title": "x"}': 'line 2: its "text" is missing or empty',
        '{"text": " "}': 'line 2: its "text" is missing or empty',
        '{"text": "\\ud800"}': "line 2: half of a character",
        '{"title": "\\udfff", "text": "x"}': "line 2: half of a character",
    }.items(),
    ids=range(10),
)
def test_a_row_that_is_not_a_document_is_refused_with_file_line_and_remedy(tmp_path, row, sentence):
    path = write(tmp_path / "x.jsonl", {"text": "fine"}, row)
    with pytest.raises(RowError) as error:
        Search.of([path])
    assert f"{path}, {sentence}" in one_line(error) and error.value.remedy and error.value.line == 2


def test_a_path_that_cannot_be_searched_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9 au lait")
    cases = {
        str(tmp_path / "none.txt"): (MissingInput, "no such file or folder"),
        "a\0b": (MissingInput, "no such file"),
        str(tmp_path / "empty"): (DataError, "no text to search in"),
        write(tmp_path / "void.txt", " "): (DataError, "no text"),
        write(tmp_path / "void.jsonl", ""): (DataError, "no text"),
        str(tmp_path / "bad.txt"): (DataError, "UTF-8"),
        write(tmp_path / "x.pdf", "x"): (DataError, "cannot read this kind of file"),
        "/dev/zero": (DataError, "cannot read this kind of file"),
    }
    for path, (kind, sentence) in cases.items():
        with pytest.raises(kind) as error:
            Search.of([path])
        assert sentence in one_line(error) and path in str(error.value)
    with pytest.raises(DataError, match="no path: no text"):
        Search.of([])


@pytest.mark.parametrize("lacking", ["sqlite", "fts5"])
def test_a_python_without_full_text_search_is_reported_in_one_sentence(monkeypatch, lacking):
    if lacking == "sqlite":
        monkeypatch.setitem(sys.modules, "sqlite3", None)
    else:

        class Bare:
            def execute(self, sql):
                raise sqlite3.OperationalError("no such module: fts5")

        monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: Bare())
    with pytest.raises(PysftError) as error:
        Search([Document("a", "b")])
    assert "FTS5" in one_line(error) and "--no-tools" in str(error.value)


# ---------------------------------------------------------------------------------------- the town


def test_each_fact_of_the_town_is_a_sentence_in_the_65_characters_that_begins_with_its_name():
    kinds = {"person": 60, "place": 35, "thing": 25, "home": 60, "friend": 60}
    assert Counter(fact["kind"] for fact in FACTS) == kinds
    for fact in FACTS:
        text = fact["text"]
        assert list(fact) == ["title", "kind", "text"]
        assert set(SHAKESPEARE) >= set("".join(fact.values())) and not {"3", "\n"} & set(text), fact
        assert 30 <= len(text) <= 70, fact
        assert text.startswith(name_of(fact) + " ") and text.endswith("."), fact
        assert not re.search(r"[.;:?!]", text[:-1]) and "  " not in text, fact


def test_each_person_of_the_town_has_a_home_and_a_friend_in_the_same_half():
    """Every second fact is held out from training. So nothing that is trained on tells of somebody
    who is held out, and nothing of a held-out person's home and friends is trained on."""
    halves = FACTS[::2], FACTS[1::2]
    people = [[f["title"] for f in half if f["kind"] == "person"] for half in halves]
    for half, names, others in zip(halves, people, people[::-1]):
        for kind in SECOND:
            facts = [f for f in half if f["kind"] == kind]
            assert [f["title"] for f in facts] == [about(kind, name) for name in names]
        assert not [f for f in half for name in others if name in f["text"]]


def test_no_title_of_the_town_stands_in_another_and_no_text_occurs_twice():
    titles = [fact["title"].lower() for fact in FACTS if fact["kind"] not in SECOND]
    assert not [(a, b) for a in titles for b in titles if a != b and a in b]
    assert len({fact["title"] for fact in FACTS}) == len(FACTS)
    assert len({fact["text"].removeprefix(name_of(fact)) for fact in FACTS}) == len(FACTS)


def test_persons_have_two_names_of_which_many_share_one_so_that_there_are_near_misses():
    names = [fact["title"].split() for fact in FACTS if fact["kind"] == "person"]
    for name in names:
        assert len(name) == 2
        assert all(part.istitle() and not part.endswith("s") for part in name)
    firsts, lasts = (Counter(name[i] for name in names) for i in (0, 1))
    assert sum(n > 1 for n in firsts.values()) >= 20
    assert sum(n > 1 for n in lasts.values()) >= 20
    assert not set(firsts) & set(lasts)


def test_no_fact_of_the_town_occurs_in_the_shipped_training_text():
    trained = [shipped(name).read_text("utf-8") for name in ("conversations.jsonl", "plays.txt")]
    for fact in FACTS:
        for text in trained:
            assert fact["text"].removeprefix(name_of(fact)) not in text, fact
            assert fact["title"] not in text, fact
