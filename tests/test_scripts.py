"""Texts in any script: their words, their composed form, what a reader does not see, and the width
of a text on a screen."""

import math
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from command_line import succeeds, toml
from hypothesis import given
from hypothesis import strategies as st
from situations.scripts import JAPANESE, RUSSIAN, in_script
from texts import PLAIN, steady

from pysft.console import columns, padded
from pysft.inference.generate import Reply
from pysft.inference.repetition import repeated_words
from pysft.inference.search import Search
from pysft.measure import evaluate
from pysft.measure.evaluate import measure, measure_sealed
from pysft.measure.probe import Probe
from pysft.measure.words import FIGURES, on_topic, subjects, unmeasured, words
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.text.characters import composed, typed
from pysft.text.corpora import read_corpus
from pysft.text.heldout import prompt_key
from pysft.text.odd import invisible, is_mark, misread, odd_characters, uncomposed
from pysft.text.scripts import letters_in, unspaced
from pysft.text.templates import CHAT
from pysft.text.tokenizer import CharTokenizer

CAFE, CAFE_APART = "caf\u00e9", "cafe\u0301"


# ------------------------------------------------------------------------------------- words


@steady
@given(st.text("abYZ' -3_.\n", max_size=30))
def test_words_of_ascii_are_runs_of_letters_in_lower_case(text):
    assert words(text) == re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())
    assert [w for w in words(text + " \u0436") if w != "\u0436"] == words(text)


@pytest.mark.parametrize(
    "text, found",
    [
        (f"{CAFE} {CAFE_APART}", [CAFE, CAFE]),
        ("Объять ёж", ["объять", "ёж"]),
        ("हिंदी में", ["हिंदी", "में"]),  # vowel signs are marks of their consonants
        ("هذا جميل.", ["هذا", "جميل"]),
        ("می\u200cخواهم", ["میخواهم"]),  # a joiner ends no word
        ("won\u00adder don\u2019t", ["wonder", "don't"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("ΣΊΣΥΦΟΣ Σίσυφος", ["σίσυφοσ", "σίσυφοσ"]),
        ("IŞIK ışık İl il", ["işik", "işik", "il", "il"]),
        ("ﬁne ＲＯＳＥ", ["fine", "rose"]),
        ("\u0301 \u0302\u0303 👍🏽 3² ½", []),
        ("a\u200bb", ["a", "b"]),
    ],
)
def test_a_word_is_letters_of_any_script_with_their_marks(text, found):
    assert words(text) == found


def test_a_subject_has_three_letters_however_they_are_written():
    assert subjects("사랑 곰 ёж лес") == {"사랑", "곰", "лес"}  # a syllable has two or three
    assert letters_in("e\u0301l") == letters_in("\u00e9l") == 2


def test_on_topic_in_cyrillic_by_hand():
    prompts, replies = ["Покажи лес", "Назови РЕКУ"], ["Лес тихий.", "Нет, не реку: море."]
    assert on_topic(prompts, replies) == (1, 0)


def test_scripts_without_spaces_are_named_the_most_frequent_first():
    assert unspaced(["王は美しい。", "abc"]) == ["Hiragana", "Han"]
    assert unspaced(["ราชา นั้น"]) == ["Thai"]
    assert unspaced(["사랑", "лес", "abc", "हिंदी", "...", ""]) == []
    assert unspaced(["one word of Han among many: 王"]) == []
    assert "Thai, without spaces" in unmeasured(["ราชา นั้น"]) and unmeasured(["лес"]) == ""


def test_the_reason_why_words_are_not_counted_names_every_script():
    texts, named = [], []
    for text, name in (("ราชา นั้น", "Thai"), ("မင်း", "Myanmar"), ("ព្រះ", "Khmer")):
        texts, named = [text, *texts * 2], [*named, name]
        reason = unmeasured(texts)
        scripts = reason.partition("written in ")[2].partition(", without")[0]
        assert sorted(re.split(", | and ", scripts)) == sorted(named)
        assert scripts.count(" and ") == (len(named) > 1)
        assert scripts.count(", ") == max(0, len(named) - 2)


def test_each_letter_of_a_script_without_spaces_is_known_by_the_name_that_unicode_gives_it():
    begins = {
        "Han": ("CJK UNIFIED IDEOGRAPH-", "CJK COMPATIBILITY IDEOGRAPH-"),
        "Hiragana": ("HIRAGANA ",),
        "Katakana": ("KATAKANA", "HALFWIDTH KATAKANA"),
        "Thai": ("THAI CHARACTER ",),
        "Lao": ("LAO ",),
        "Khmer": ("KHMER ",),
        "Myanmar": ("MYANMAR ",),
    }
    seen = Counter()
    for code in [*range(0x3400), *range(0x3400, 0xA000, 61), *range(0xA000, 0xFF9E)]:
        letter = chr(code)
        name = unicodedata.name(letter, "")
        if letter.isalpha() and "KHMER SIGN" not in name and "TAI LAING" not in name:  # rare
            found = [script for script, starts in begins.items() if name.startswith(starts)]
            assert unspaced([letter]) == found, name
            seen.update(found)
    assert min(seen[script] for script in begins) > 40


def test_a_tenth_of_the_letters_makes_a_text_one_without_spaces():
    assert unspaced(["\u738b" + "a" * 9]) == unspaced(["a" * 9, "\u738b"]) == ["Han"]
    assert unspaced(["\u738b" + "a" * 10]) == unspaced([]) == unspaced(["3 ..."]) == []


def test_the_marks_of_a_script_belong_to_a_word_that_is_repeated():
    tokenizer = CharTokenizer.of("हिंदी में").grow(CHAT.tokens)
    again = repeated_words(tokenizer)(tokenizer.encode("हिंदी ह").tolist())
    assert tokenizer.decode(again) == "ि"  # not "ं", which no word has behind its first letter


# ----------------------------------------------------------------------- figures of given replies


def echoed(monkeypatch, prompts, replies, tokenizer, sealed=False):
    """The figures of a model that gives each prompt its reply."""
    domains = [{"prompt": p, "domain": "in"} for p in prompts]
    probe = Probe(
        replies[0] * 3, [], domains, [], sorted(set(words(" ".join(replies)))), replies, "", domains
    )
    texts = iter(replies * 2)  # greedy, then as chat writes

    def generate(model, ids, *arguments, **options):
        return [Reply(tokenizer.encode(next(texts)), "end") for _ in ids]

    monkeypatch.setattr(evaluate, "generate", generate)
    model = GPT(GPTConfig(len(tokenizer), 64, 1, 2, 16), dtype=np.float32)
    return (measure_sealed if sealed else measure)(model, tokenizer, CHAT, probe)[0]


def test_a_cyrillic_model_that_names_its_subjects_is_on_topic(monkeypatch):
    prompts = ["Покажи лес", "Назови реку", "Воспой луну"]
    replies = ["Вот лес.", "Это — реку!", "ЛУНУ пою, луну."]
    tokenizer = CharTokenizer.of("".join(prompts + replies)).grow(CHAT.tokens)
    figures = echoed(monkeypatch, prompts, replies, tokenizer)
    assert (figures["on_topic"], figures["on_topic_chance"], figures["real_words"]) == (1, 0, 1)
    assert figures["distinct_words"] == 6 / 7 and "words_unmeasured" not in figures
    assert figures["by_domain"]["in"]["on_topic"] == 1


def test_without_spaces_between_words_no_figure_of_words_is_measured(monkeypatch):
    prompts, replies = ["王を見せて", "川を見せて"], ["王は美しい。", "川は美しい。"]
    tokenizer = CharTokenizer.of("".join(prompts + replies)).grow(CHAT.tokens)
    figures = echoed(monkeypatch, prompts, replies, tokenizer)
    assert all(math.isnan(figures[name]) for name in FIGURES)
    assert figures["words_unmeasured"].startswith("the training replies are written in Hiragana")
    assert {figures["by_domain"]["in"][n] for n in ("on_topic", "real_words")} == {None}
    assert figures["format_compliance"] == 1 and figures["distinct_replies"] == 2
    sealed = echoed(monkeypatch, prompts, replies, tokenizer, sealed=True)
    assert sealed["on_topic"] is None and sealed["by_domain"]["in"]["on_topic"] is None


def test_the_probe_of_an_earlier_version_gets_the_words_that_it_lacked():
    stored = Probe("Тихий лес", [], [], [], ["rose"], ["Вот роза."], "море", []).to_json()
    probe = Probe.from_json(stored, "evaluation.json", CHAT)
    assert probe.known_words == sorted(["rose", "тихий", "лес", "вот", "роза", "море"])
    assert Probe.from_json(probe.to_json(), "evaluation.json", CHAT) == probe


# -------------------------------------------------------------------------------- composed texts


def test_a_text_takes_the_first_form_that_the_vocabulary_writes():
    both, apart = CharTokenizer("cafe\u00e9\u0301"), CharTokenizer("cafe\u0301")
    assert composed(CAFE_APART, both) == composed(CAFE, both) == CAFE
    assert composed(CAFE_APART, apart) == composed(CAFE, apart) == CAFE_APART
    assert composed(CAFE_APART, PLAIN) == CAFE_APART  # an error then names what was typed


def test_a_typed_message_loses_what_a_file_puts_around_its_lines():
    assert typed("\ufeffSay\r\nit\r", PLAIN) == "Say\nit"
    assert typed("a\rb \u2028\x0c\x85", PLAIN) == "a\rb \u2028\x0c\x85"


def test_a_corpus_is_composed_and_its_lines_end_in_one_way(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(f"{CAFE_APART}\r\na\rb\u2028\x0c\x85c\n\ufeff".encode() * 100)
    assert read_corpus(str(path)) == f"{CAFE}\na\nb\u2028\x0c\x85c\n" * 100
    old = CharTokenizer.of(f"{CAFE_APART}\nabc\u2028\x0c\x85")  # made before corpora were composed
    assert read_corpus(str(path), old) == f"{CAFE_APART}\na\nb\u2028\x0c\x85c\n" * 100


def test_a_held_out_prompt_is_the_same_in_both_forms():
    assert prompt_key(f"Un {CAFE}?") == prompt_key(f"un {CAFE_APART}")


def test_documents_with_the_line_ends_of_old_files_have_paragraphs(tmp_path):
    (tmp_path / "old.txt").write_bytes(b"One rose.\r\rTwo crowns.\r")
    texts = [document.text for document in Search.of([str(tmp_path / "old.txt")]).documents]
    assert texts == ["One rose.", "Two crowns."]


# --------------------------------------------------------------------- what a reader does not see


@pytest.mark.parametrize(
    "character, kind",
    [
        ("\u200b", "zero-width character"),
        ("\u200d", "zero-width character"),
        ("\u200f", "direction mark"),
        ("\u202e", "direction mark"),
        ("\u2066", "direction mark"),
        ("\u00a0", "non-breaking space"),
        ("\u00ad", "soft hyphen"),
        ("\ufeff", "byte order mark"),
        ("\ue000", "private-use character"),
        ("\U000f1234", "private-use character"),
        ("\u0378", "unassigned character"),
        ("\x07", "control character"),
        ("\r", "control character"),
        ("\x85", "control character"),
        ("\u2028", "line separator"),
    ],
)
def test_each_invisible_character_is_found_where_it_stands(character, kind):
    assert invisible(f"ab{character}c{character}") == [(kind, 2)]
    assert invisible(f"é\t\n{character}") == [(kind, 3)]


@pytest.mark.parametrize(
    "text", ["a\tb\n", "é 王 हिंदी", "👨‍👩‍👧 👍🏽 ❤️‍🔥", "می\u200cخواهم", "क्\u200dष"]
)
def test_characters_that_belong_to_their_script_are_no_finding(text):
    assert odd_characters(text) == []


def test_one_finding_of_a_turn_names_three_kinds():
    [(kind, what, remedy)] = odd_characters("a\u200bb\u00adc\u00a0d\ue000e\u0378")
    assert kind == "invisible character" and "take such characters out" in remedy
    assert "(U+200B) at position 1, a soft hyphen (U+00AD) at position 3" in what
    assert what.endswith("at position 5 and 2 more kinds") and "E000" not in what
    (what,) = (f[1] for f in odd_characters("a\u200bb\u00adc\u00a0d\ue000"))
    assert what.endswith("at position 5 and 1 more kind")
    (what,) = (f[1] for f in odd_characters("a\u200bb\u00adc\u00a0d"))
    assert what.endswith("at position 5")


@steady
@given(st.text("ae\u0301\u0327\u00e9 \u1112\u1161\u11a8\u212b", max_size=12))
def test_the_first_pair_that_is_not_composed_is_named(text):
    found = uncomposed(text)
    assert (found is None) == unicodedata.is_normalized("NFC", text)
    if found:
        position, characters, one = found
        assert text[position:].startswith(characters) and characters != one
        assert unicodedata.normalize("NFC", characters) == one
        end = position + len(characters)
        assert unicodedata.is_normalized("NFC", text[: end - 1])


def read_wrongly(text):
    """A text in UTF-8, read as if each byte was a character."""
    return text.encode().decode("cp1252")


def test_a_text_that_was_decoded_wrongly_is_known_by_three_characters_or_two_pairs():
    assert misread("abc") is misread("caf\u00e9") is misread("IRM\u00c3\u00bb") is None
    assert misread(f"un {read_wrongly('é')}t") is None  # a single pair may be meant
    pair = read_wrongly("é")
    assert misread(f"un {pair}t{pair}") == (3, pair, "é")
    for one in ("\u2019", "\u20ac", "\U0001f600"):  # of three or four bytes
        assert misread(f"un {read_wrongly(one)}") == (3, read_wrongly(one), one)
    # What the first of two was, also if it is the shorter one, and not what is no UTF-8.
    assert misread(f"\u00c3a {pair}{read_wrongly('€')}") == (3, pair, "é")
    (kind, what, remedy), *_ = odd_characters(read_wrongly("été"))
    assert (kind, remedy) == ("decoded wrongly", "read the original once more, as UTF-8")
    assert what == f"{pair!r} at position 0 was decoded wrongly; it was 'é'"


@pytest.mark.parametrize(
    "text, found",
    [
        *((f"a {entity} b", entity) for entity in ("&amp;", "&lt;", "&gt;", "&quot;", "&apos;")),
        *((f"a {entity} b", entity) for entity in ("&nbsp;", "&#39;", "&#128512;", "&#x27;")),
        ("a & b; &c; &AMP; &# 39; &#3; &#1234567; &#x2; &#xg0; &amp", None),
    ],
)
def test_an_entity_of_html_is_found_where_it_stands(text, found):
    named = f"{found!r} at position 2 is HTML, which would be learnt"
    expected = [("entity of HTML", named, "decode it (Python: html.unescape)")]
    assert odd_characters(text) == (expected if found else [])


def test_a_mark_of_any_script_ends_a_reply():
    assert all(map(is_mark, "。।؟！»”👍\ufe0f")) and not any(map(is_mark, "aя王ी3"))


# ---------------------------------------------------------------------------- width on a screen


def test_a_wide_character_takes_two_columns_and_a_mark_none():
    assert [columns(t) for t in ("abc", "王a", CAFE_APART, "हिं", "가", "\u1100\u1161")] == [
        3, 3, 4, 2, 2, 2,
    ]  # fmt: skip
    assert padded("王", 4) + "|" == "王  |" and padded("王", 4, right=True) == "  王"


# ------------------------------------------------------------------- whole runs in two scripts


@pytest.fixture(scope="module")
def runs(tmp_path_factory, without_figures):
    """{script: (the folder of a small run, the document of its training)}."""
    made = {}
    for name, script in (("Cyrillic", RUSSIAN), ("Japanese", JAPANESE)):
        folder = tmp_path_factory.mktemp(name)
        (folder / "small.toml").write_text(toml(sft={"checkpoint_every": 5}))
        for file, text in in_script(*script).items():
            (folder / file).write_text(text, encoding="utf-8")
        inputs = ["--config", folder / "small.toml", "--corpus", folder / "corpus.txt"]
        inputs += ["--data", folder / "data.jsonl", "--out", folder / "run"]
        made[name] = folder / "run", succeeds("train", *inputs, "--json").document
    return made


def test_every_verb_takes_a_run_in_another_script(runs):
    for name, (run, report) in runs.items():
        counted = name == "Cyrillic"
        assert (report["on_topic"] is not None) == counted
        assert (report["trained_distinct_words"] == 1) == counted
        assert ("words_unmeasured" in report) == (not counted)
        again = succeeds("eval", run, "--json").document
        assert again["on_topic"] == report["on_topic"]
        chosen = succeeds("select", run, "--json").document["criteria"]
        assert (chosen["on-topic above chance"]["step"] is not None) == counted
        assert ("without spaces" in succeeds("select", run).out) == (not counted)
        diagnosis = succeeds("diagnose", run, "--json").document
        assert ("words_unmeasured" in diagnosis) == (not counted)
        assert ("need them" in succeeds("diagnose", run).out) == (not counted)
        succeeds("report", run)
        page = (run / "report.html").read_text(encoding="utf-8")
        assert ("without spaces between words" in page) == (not counted)
        assert "unicode-bidi: plaintext" in page
        [prompt, *_] = again["before_after"][0]
        assert succeeds("generate", run / "base", "-p", prompt).out.startswith(prompt)
        assert succeeds("chat", run, "-p", prompt, "--show-tokens").out


def test_a_mark_may_be_a_digit_of_full_width(runs, monkeypatch):
    answers = iter(["４", "ｑ"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(answers))
    assert succeeds("rate", runs["Japanese"][0], "--seed", "1", "--json").document["marked"] == 1
