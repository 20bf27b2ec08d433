"""The audit: every fault of a data set is named with its place and remedy, and its parts find what
they should."""

import json
import time
from collections import Counter

import numpy as np
import pytest
from conftest import in_process
from hypothesis import given
from hypothesis import strategies as st
from texts import grown, say, steady, write

from pysft.cli.audit import SHOWN
from pysft.errors import DataError, MissingInput, UsageError
from pysft.text.audit import audit
from pysft.text.conversation import Conversation
from pysft.text.corpora import read_corpus, shipped
from pysft.text.formats import read_conversations
from pysft.text.keys import Reading
from pysft.text.near_duplicates import Texts, _min_hashes, jaccard, near_duplicates
from pysft.text.overlap import Overlap
from pysft.text.personal import personal
from pysft.text.repeats import quick_check
from pysft.text.spread import diversity
from pysft.text.templates import CHAT
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer


def pair(prompt, completion):
    return {"prompt": prompt, "completion": completion}


LETTERS = "abcdefghijklmnopqrstuvwxyz"

# What is wrong, in this order in the lines of a file: the line, and what its finding says.
BROKEN = {
    "not JSON": ('{"messages": [}', "line 1: not JSON"),
    "an array": (
        '[{"prompt": "Hi", "completion": "Ho"}]',
        "line 2: an array, expected an object; write each object of the array",
    ),
    "unknown keys": (
        '{"frage": "Hi"}',
        "line 3: no \"messages\" in it, only 'frage'; a row has one of these sets of keys",
    ),
    "a role": (
        '{"messages": [{"role": "robot", "content": "Hi"}]}',
        'line 4, turn 1: unknown role \'robot\'; this template has "user" or "assistant" (also'
        " accepted: human, prompter, gpt, bot, model, chatgpt, ai,",
    ),
    "order": (
        {"messages": say("Hi", "Ho")[::-1]},
        "line 5, turn 1: role 'assistant', expected 'user'; turns alternate",
    ),
    "missing end": (
        {"messages": say("Hi", "Ho", "Go")},
        "line 6, turn 3: no reply follows; end with an assistant turn",
    ),
    "empty": (pair("Hi", " "), "line 7, turn 2: empty reply; write one, or remove the line"),
    "system": (
        {"messages": say("Hi", "Ho", system="Be")},
        "line 8, turn 1: template 'chat' has no system role; take the turn out, or",
    ),
    "flag": (
        {"messages": [say("Hi")[0], {"role": "assistant", "content": "Ho", "weight": 2}]},
        "line 9, turn 2: the flag 'weight' is 2; it is true or false",
    ),
    "flag elsewhere": (
        {"messages": [{"role": "user", "content": "Hi", "train": True}, say("Hi", "Ho")[1]]},
        "line 10, turn 1: the flag 'train' asks to grade a turn that is no reply",
    ),
    "flag unasked": (
        {"messages": [say("Hi")[0], {"role": "assistant", "content": "Ho", "weight": 0}]},
        "line 11, turn 2 (assistant): its flag 'weight' says not graded",
    ),
    "from": (
        '{"conversations": [{"from": "human"}]}',
        'line 12, turn 1: expected an object with "from" and "value"',
    ),
    "characters": (
        pair("At 8", "Ho"),
        "line 13, turn 1 (user): outside the 65 characters of this vocabulary: '8' (U+0038) at"
        " position 3; write it with",
    ),
    "length": (
        pair("Hi", "x" * 300),
        "line 14: 305 tokens, the context holds 256; make it 49 shorter, train with a longer"
        " context, or leave",
    ),
    "exact duplicate": (pair("Fine", "Day."), "line 15: the same as "),
    "contradiction": (pair("FINE!", "Rain."), "line 16: its prompt has another answer at "),
    "near duplicate": (
        pair(
            "Sing me of the king in the tower",
            "He sits and sings, and all the town sings with him?",
        ),
        "line 17: ",
    ),
    "long reply": (
        pair("Go on", "so " * 50 + "."),
        "line 18, turn 2: a reply of 151 tokens and its end; at inference at most 120; shorten it",
    ),
    "copied": (
        pair("Quote", "They say: but soft, what light through yonder window breaks."),
        "in a row stand in the corpus too",
    ),
    "held out": (pair("what kind of actor are you", "None."), "is held out at"),
}
GOOD = [
    pair("Fine", "Day."),
    pair("Sing me of the king in the tower", "He sits and sings, and all the town sings with him."),
]


def test_each_fault_of_a_broken_file_is_named_with_its_place_and_remedy_in_one_run(tmp_path):
    good = write(tmp_path, "good.jsonl", *GOOD)
    bad = write(tmp_path, "bad.jsonl", *(line for line, _ in BROKEN.values()))
    corpus = "x" * 40 + "\nROMEO: but soft, what light through yonder window breaks" + "y" * 40
    report = audit(
        [str(good), str(bad)],
        grown(CHAT),
        CHAT,
        corpus=corpus,
        heldout=str(shipped("heldout_prompts.jsonl")),
    )
    findings = report["findings"]
    text = "\n".join(map(str, findings))
    for number, (kind, (_, named)) in enumerate(BROKEN.items(), 1):
        assert named in text, kind
        here = f"bad.jsonl, line {number}"
        assert any(here in f.where and f.remedy for f in findings), kind
    assert report["errors"] == 14 and report["rows"] == len(BROKEN) + 2
    assert report["trainable"] == len(BROKEN) - 12
    assert len({f.where for f in findings}) == len(BROKEN)
    first = r"line 1: not JSON .*and 10 more; python -m pysft audit .*bad.jsonl names them all"
    with pytest.raises(DataError, match=first):
        read_conversations(bad)


@pytest.mark.parametrize(
    "text",
    [
        "0171 2345",
        "(0)30 1234567",
        "+1 (555) 010-9999",
        "555-010-9999",
        "+123456789012345",
        "0049-30-123456",
    ],
)
def test_telephone_numbers_of_many_shapes_are_found(text):
    assert personal(f"Call {text}, friend.") == [("telephone number", text)]


# 16, 15 and 19 digits.
@pytest.mark.parametrize("text", ["4111111111111111", "378282246310005", "6304000000000000000"])
def test_card_numbers_are_known_by_their_check_digit(text):
    assert personal(f"Pay by {text}.") == [("card number", text)]
    wrong = text[:-1] + str((int(text[-1]) + 1) % 10)
    assert personal(f"Pay by {wrong}.") == []


def test_a_telephone_number_has_8_to_15_digits_and_a_card_number_13_to_19():
    for size in range(6, 22):
        number = f"0{'0' * (size - 2)}1"  # its check digit is wrong
        kinds = ["telephone number"] * (8 <= size <= 15)
        assert [kind for kind, _ in personal(f"Call {number}.")] == kinds
        number = next(n for c in "0123456789" if checked(n := f"{'4' * (size - 1)}{c}"))
        assert [kind for kind, _ in personal(number)] == ["card number"] * (13 <= size <= 19)


def checked(number):
    """True if the last digit is the check digit: every second one, from the right, counts twice,
    and is then the sum of its digits."""
    twice = sum(int(c) for d in number[-2::-2] for c in str(2 * int(d)))
    return (twice + sum(map(int, number[::-2]))) % 10 == 0


@pytest.mark.parametrize(
    "text",
    [
        "3.14159265358979",
        "0.12345678",
        "192.168.100.200",
        "1914 1915 1916",
        "10 000 000",
        "2024-01-02 10:30",
        "1/2/2024 - 3/4/2024",
        "978-3-16-148410-0",
        "12345678",
        "01.02.2024",
    ],
)
def test_ordinary_numbers_are_no_personal_data(text):
    assert personal(f"It says {text} there.") == []


def test_personal_data_is_named_with_its_turn_even_in_a_row_that_cannot_be_trained_on(tmp_path):
    path = write(tmp_path, "x.jsonl", pair("Mail", "To ann.lee@post.example."))
    found = audit([str(path)], grown(CHAT))["findings"]
    assert sorted(f.kind for f in found) == ["characters", "personal data"]
    assert all("line 1, turn 2" in f.where for f in found) and "an e-mail address" in str(found)


def test_personal_data_is_found_and_ordinary_numbers_are_not():
    def kinds(text):
        return [kind for kind, _ in personal(text)]

    assert kinds("Write to ann.lee@post.example or call +44 20 7946 0958.") == [
        "e-mail address",
        "telephone number",
    ]
    assert kinds("My card is 4111 1111 1111 1111, I live at 12 Mill Lane.") == [
        "street address",
        "card number",
    ]
    # The check digit is wrong, and there are too many digits for a telephone number.
    assert kinds("Card 4111 1111 1111 1112") == []
    ordinary = "In 1599 they took 300 men on 1599-05-12; 3 went home. Call me at noon @ the inn."
    assert kinds(ordinary) == []


alphabet = st.text("ab c", min_size=0, max_size=60)


@steady
@given(st.lists(alphabet, min_size=1, max_size=25))
def test_near_duplicates_found_are_near_and_equal_texts_are_found(some):
    texts = Texts()
    for t in some:
        texts.add(t)
    assert [texts[i] for i in range(len(some))] == some
    found = near_duplicates(texts)
    for first, second, alike in found:
        a, b = ({t[i : i + 5] for i in range(len(t) - 4)} for t in (some[first], some[second]))
        assert first < second and alike == len(a & b) / len(a | b) >= 0.8
    for second, text in enumerate(some):  # MinHash cannot miss what is equal
        if len(text) >= 5 and text in some[:second]:
            assert any(s == second for _, s, _ in found)


# Letters changed of 200: the similarity is 0.95, 0.9, 0.86, 0.82.
@pytest.mark.parametrize("change, missed", [(1, 0.0), (2, 0.0), (3, 0.004), (4, 0.01)])
def test_near_duplicates_are_missed_as_rarely_as_the_docstring_says(change, missed):
    g = np.random.default_rng(0)
    texts, n = Texts(), 1000
    for _ in range(n):
        letters = g.choice(list("abcdefghij"), 200)
        texts.add("".join(letters))
        letters[g.choice(200, change, replace=False)] = "k"
        texts.add("".join(letters))
    alike = [jaccard(texts[2 * i], texts[2 * i + 1]) for i in range(n)]
    due = {(2 * i, 2 * i + 1) for i in range(n) if alike[i] >= 0.8}
    found = {(a, b) for a, b, _ in near_duplicates(texts)}
    assert due and found <= due and len(due - found) <= missed * len(due), (len(due), len(found))


def test_near_duplicates_are_found_in_a_crowd_that_begins_alike():
    g = np.random.default_rng(3)
    opening, texts = "".join(g.choice(list("abcdefghij"), 100)), Texts()
    for _ in range(600):
        text = opening + "".join(g.choice(list("klmnopqrst"), 60))
        texts.add(text)
        texts.add(text + ".")
    found = {(a, b) for a, b, _ in near_duplicates(texts)}
    assert sum((2 * i, 2 * i + 1) in found for i in range(600)) >= 599


def test_in_a_crowd_a_text_is_compared_with_the_four_of_the_thousand_before_that_are_closest(
    monkeypatch,
):
    n, crowd = 1010, 1000
    g = np.random.default_rng(0)
    hashes = g.integers(0, 3, (5, n)).astype(np.uint64)
    hashes[0], hashes[1:, 900:] = 7, 9  # all agree in one band, and the last in every one
    texts, compared = Texts(), {}
    for i in range(n):
        texts.add(f"text {i}")

    def different(a, b):
        compared.setdefault(int(b[5:]), []).append(int(a[5:]))
        return 0.0

    monkeypatch.setattr("pysft.text.near_duplicates._min_hashes", lambda *_: hashes[:1])
    monkeypatch.setattr("pysft.text.near_duplicates.jaccard", different)
    assert near_duplicates(texts) == []
    # They agree equally, so the first are taken.
    assert compared == {
        i: list(range(max(0, i - crowd), max(0, i - crowd) + min(i, 4))) for i in range(1, n)
    }
    compared.clear()
    monkeypatch.setattr("pysft.text.near_duplicates._min_hashes", lambda *_: hashes)
    assert near_duplicates(texts) == []
    agree = (hashes[:, None, :] == hashes[:, :, None]).sum(axis=0)
    for i in (1, 4, 5, 6, 100, 899, 905, 1005):
        before = range(max(0, i - crowd), i)
        closest = sorted(before, key=lambda k: -agree[i, k])[:4] if i > 4 else list(before)
        assert compared[i][: len(closest)] == closest
        # No pair is compared twice, though the two agree in several bands.
        assert len(compared[i]) == len(set(compared[i]))


@steady
@given(st.lists(st.text("ab\u00e9\u738b", max_size=9), max_size=20), st.integers(1, 30))
def test_texts_are_read_in_pieces_of_a_size_and_hashed_the_same_in_any(some, size):
    texts = Texts()
    for t in some:
        texts.add(t)
    lengths = [len(t.encode()) for t in some]
    assert texts.lengths().tolist() == lengths
    pieces = list(texts.pieces(size))
    assert [i for first, last in pieces for i in range(first, last)] == list(range(len(some)))
    for first, last in pieces:
        assert last - first == 1 or sum(lengths[first:last]) <= size
        assert last == len(some) or sum(lengths[first : last + 1]) > size
        codes, starts = texts.codes(first, last)
        assert bytes(codes) == "".join(some[first:last]).encode()
        assert starts.tolist() == [sum(lengths[first:i]) for i in range(first, last)]
    whole = _min_hashes(texts, 3, 2)
    texts.pieces = lambda _: pieces
    enough = [i for i, n in enumerate(lengths) if n >= 5]
    assert (_min_hashes(texts, 3, 2)[:, enough] == whole[:, enough]).all()


@steady
@given(
    st.text("abc", min_size=1, max_size=400),
    st.text("abc", max_size=60),
    st.integers(0, 300),
    st.integers(0, 60),
)
def test_the_longest_overlap_with_a_corpus_is_that_of_a_plain_search(corpus, text, at, size):
    text += corpus[at : at + size]
    best = max(
        (
            j - i
            for i in range(len(text))
            for j in range(i + 16, len(text) + 1)
            if text[i:j] in corpus
        ),
        default=0,
    )
    length, where = Overlap(corpus).longest(text)
    assert length == best and (not best or corpus[where : where + best] in text)


def test_each_stretch_that_a_text_and_a_corpus_share_is_followed_once_from_its_beginning():
    """A place whose characters before it match too lies inside of a stretch that was followed
    already. Every other place with 16 equal characters begins a stretch, and may be the longest."""
    g = np.random.default_rng(0)

    def letters(least, most):
        return "".join(g.choice(["a", "b"], g.integers(least, most + 1)))

    for _ in range(60):
        pieces = [letters(14, 24) for _ in range(3)]
        corpus, text = (
            "".join(str(g.choice(pieces)) + letters(0, 2) for _ in range(n)) for n in (8, 4)
        )
        begins = {
            (i, at)
            for i in range(len(text) - 15)
            for at in range(len(corpus) - 15)
            if text[i : i + 16] == corpus[at : at + 16]
            and (i == 0 or at == 0 or text[i - 1] != corpus[at - 1])
        }
        longest = max(
            (
                size
                for i, at in begins
                for size in range(16, min(len(text) - i, len(corpus) - at) + 1)
                if text[i : i + size] == corpus[at : at + size]
            ),
            default=0,
        )
        overlap, followed = Overlap(corpus), []
        match = overlap._match

        def following(text, i, at):
            followed.append((i, at))
            return match(text, i, at)

        overlap._match = following
        size, at = overlap.longest(text)
        assert size == longest and corpus[at : at + size] in text
        assert len(followed) == len(begins) and set(followed) == begins


def test_a_corpus_that_repeats_one_stretch_is_searched_in_time():
    corpus = "\n".join(["-" * 79] * 400)
    began = time.process_time()
    overlap = Overlap(corpus)
    assert all(overlap.longest("-" * 79 + "x")[0] == 79 for _ in range(20))
    assert time.process_time() - began < 10


def test_an_empty_file_is_an_error_and_unreadable_heldout_prompts_are_refused(tmp_path):
    assert audit([str(write(tmp_path, "x.jsonl", ""))], grown(CHAT))["errors"] == 1
    good = str(write(tmp_path, "good.jsonl", *GOOD))
    for content in ("prose", "", {"prompt": ""}):
        with pytest.raises(DataError):
            audit([good], grown(CHAT), heldout=str(write(tmp_path, "h.jsonl", content)))
    # Held-out conversations may have a role that the template has not.
    rows = {"messages": say("fine.", "Ho", system="Be brief")}
    talk = str(write(tmp_path, "h.jsonl", rows))
    (finding,) = audit([good], grown(CHAT), heldout=talk)["findings"]
    assert finding.kind == "overlap with held-out"


def test_two_spellings_of_a_path_are_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.jsonl", *GOOD), write(tmp_path, "b.jsonl", GOOD[0])
    (finding,) = audit(["./a.jsonl", "./b.jsonl"], grown(CHAT))["findings"]
    assert str(finding).startswith("b.jsonl, line 1: the same as a.jsonl, line 1")


def test_the_effective_number_of_kinds_is_that_of_equal_ones():
    assert diversity(Counter({"a": 5, "b": 5, "c": 5}))["effective"] == pytest.approx(3)
    one = diversity(Counter({"a": 97, "b": 1, "c": 1, "d": 1}))
    assert one["effective"] < 1.3 and one["top"][0] == ["a", 0.97]


def test_typed_control_tokens_blanks_and_cut_replies_are_warned_of(tmp_path):
    whole = [pair(f"Ask {a}{b}", f"The {a}{b} is fair.") for a in "abc" for b in "xyz"]
    odd = [pair("What is <|end|>", "It is a mark."), pair("Blank", " Yes. ")]
    cut = pair("Cut", "And then the")
    path = write(tmp_path, "x.jsonl", *whole, *odd, cut)
    tokenizer = CharTokenizer(SHAKESPEARE + "<|>", CHAT.tokens)
    found = {f.kind: f for f in audit([str(path)], tokenizer)["findings"]}
    assert {kind: f.where.rpartition("jsonl, ")[2] for kind, f in found.items()} == {
        "control token": "line 10, turn 1",
        "blanks": "line 11, turn 2",
        "cut reply": "line 12, turn 2",
    }
    assert "spells '<|end|>'" in str(found["control token"])
    assert "ends with 'And then the', where 11 others end with a mark" in str(found["cut reply"])
    # Cut replies are found where nine of ten end with a mark.
    few = write(tmp_path, "few.jsonl", *whole[:8], cut)
    assert audit([str(few)], tokenizer)["findings"] == []


def test_the_shipped_data_pass_the_audit_clean():
    report = audit(
        [str(shipped("conversations.jsonl")), str(shipped("pairs40.jsonl"))],
        CharTokenizer(SHAKESPEARE, CHAT.tokens),
        CHAT,
        corpus=read_corpus("plays"),
        heldout=str(shipped("heldout_prompts.jsonl")),
    )
    assert report["findings"] == [] and report["trainable"] == report["rows"] == 2849


def test_fixing_writes_each_trainable_row_once_and_counts_the_others(tmp_path):
    source = write(tmp_path, "x.csv", "Hi,Ho", "Hi,Ho", "At 8,Ho", "Go,No", "only")
    out = tmp_path / "out.jsonl"
    report = audit([str(source)], grown(CHAT), fix=str(out))
    assert report["fixed"] == {
        "path": str(out),
        "kept": 2,
        "removed_duplicates": 1,
        "removed_untrainable": 2,
    }
    assert [c.messages for c in read_conversations(out)] == [say("Hi", "Ho"), say("Go", "No")]
    assert audit([str(out)], grown(CHAT))["findings"] == [] and len(list(tmp_path.iterdir())) == 2
    before = out.read_bytes()
    with pytest.raises(UsageError, match="this exists already"):
        audit([str(source)], grown(CHAT), fix=str(out))
    assert out.read_bytes() == before
    with pytest.raises(MissingInput):  # no half-written file is left behind
        audit([str(source), "none.jsonl"], grown(CHAT), fix=str(tmp_path / "more.jsonl"))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_differs_in_flags_parts_or_replaced_characters_is_no_duplicate(tmp_path):
    def talk(*answers):
        exchanges = [(say("Hi")[0], {"role": "assistant", **answer}) for answer in answers]
        return {"messages": [m for exchange in exchanges for m in exchange]}

    path = write(
        tmp_path,
        "x.jsonl",
        talk({"content": "Ho", "train": False}, {"content": "No"}),
        talk({"content": "Ho"}, {"content": "No", "train": False}),
        talk({"content": [{"type": "search", "text": "gate"}]}),
        talk({"content": [{"type": "text", "text": "gate"}]}),
        pair("Room 5", "Yes."),
        pair("Room 6", "Yes."),
    )
    out = tmp_path / "out.jsonl"
    report = audit([str(path)], grown(CHAT), grade="flags", unknown="replace", fix=str(out))
    assert report["fixed"]["removed_duplicates"] == 0 and len(read_conversations(out)) == 6


def test_fixing_keeps_a_rows_category(tmp_path):
    path = write(tmp_path, "x.jsonl", pair("Hi", "Ho") | {"category": "greeting"}, pair("A", "B"))
    out = tmp_path / "out.jsonl"
    audit([str(path)], grown(CHAT), fix=str(out))
    assert [c.category for c in read_conversations(out)] == ["greeting", ""]


def test_half_a_character_in_an_unread_field_does_no_harm(tmp_path):
    part = {"type": "text", "text": "No", "id": "\ud800"}
    path = write(
        tmp_path,
        "x.jsonl",
        pair("Hi", "Ho") | {"category": "\ud800"},
        {"messages": [*say("Go"), {"role": "assistant", "content": [part]}]},
    )
    assert audit([str(path)], grown(CHAT), fix=str(tmp_path / "out.jsonl"))["fixed"]["kept"] == 2


def test_the_quick_check_counts_duplicates_and_contradictions():
    talk = [
        Conversation(say(*t), "x.jsonl", i)
        for i, t in enumerate([("Hi", "Ho"), ("Hi", "Ho"), ("hi!", "Hm"), ("Go", "No")], 1)
    ]
    assert quick_check(talk) == [
        "1 exact duplicate and 1 answer to a prompt that has another answer among the conversations"
        " (python -m pysft audit x.jsonl names them)"
    ]
    assert quick_check(talk[2:]) == []


def test_texts_without_a_shingle_have_no_near_duplicate():
    texts = Texts()
    for _ in range(100):
        texts.add("")
    assert near_duplicates(texts) == [] and near_duplicates(Texts()) == []


# ------------------------------------------------------------------------------- what is printed

SOFT = "Soft, what light through yonder window breaks."  # a part of it stands in the plays


def figures_in(out):
    """The lines behind the findings: [(name, value)]."""
    block = out.rpartition("\n\n")[2]
    return [(line[:24].rstrip(), line[24:]) for line in block.splitlines()]


def test_the_printed_audit_has_a_line_for_each_figure_in_this_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        "x.jsonl",
        pair("Fine", SOFT) | {"category": "love", "id": 7, "source": "x"},
        pair("Fine", SOFT) | {"id": 8, "note": ""},
        pair("Go", "Ho") | {"deleted": True},
        {"frage": 1},
    )
    write(tmp_path, "x.csv", "prompt,completion", "Who art thou?,I am a king of words.")
    code, out, _ = in_process("audit", "x.jsonl", "x.csv", "--fix", "out.jsonl")
    assert code == 65
    assert figures_in(out) == [
        ("table", "x.csv: columns separated by commas; the first row, 'prompt' and 'completion',"
         " is a header"),
        ("rows", "4, of which 3 can be trained on"),
        ("left out", "1 deleted"),
        ("keys not read", "id (2), category (1), source (1)"),
        ("characters changed", "none"),
        ("turns", "3 with 2"),
        ("tokens a conversation", "shortest 37, median 53, 95 % at most 53, longest 53; 0 do not"
         " fit the context of 256"),
        ("characters a prompt", "shortest 4, median 4, 95 % at most 12, longest 13"),
        ("characters a reply", "shortest 21, median 46, 95 % at most 46, longest 46; at inference"
         " at most 120 tokens"),
        ("graded", "116 of 143 targets (81%), template chat"),
        ("prompts begin", "2 kinds, as diverse as 2 equal ones; fine 67%, who art 33%"),
        ("categories", "1 kind, as diverse as 1 equal ones; love 100%"),
        ("who it says it is", "I am a king of (1)"),
        ("copied from the corpus", "longest stretch of a reply: shortest 0, median 16, 95 % at"
         " most 16, longest 16 (0: under 16)"),
        ("fixed", "out.jsonl: 2 rows; removed 1 exact duplicates and 1 that cannot be trained on"),
        ("findings", "1 format (error), 1 exact duplicate (warning)"),
    ]  # fmt: skip


def test_figures_that_an_audit_has_not_are_none_or_have_no_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "x.jsonl", pair("Fine", "Day."))
    code, out, _ = in_process("audit", "x.jsonl", "--no-overlap")
    lines = dict(figures_in(out))
    assert code == 0 and list(lines) == [
        *("rows", "left out", "keys not read", "characters changed", "turns"),
        *("tokens a conversation", "characters a prompt", "characters a reply", "graded"),
        *("prompts begin", "findings"),
    ]
    nones = ("left out", "keys not read", "characters changed")
    assert [lines[name] for name in nones] == ["none"] * 3 and lines["findings"] == "none: clean"
    code, out, _ = in_process("audit", write(tmp_path, "x.jsonl", ""), "--no-overlap")
    lines = dict(figures_in(out))
    assert code == 65 and lines["turns"] == lines["prompts begin"] == "none"
    assert lines["graded"] == "0 of 0 targets, template chat"


@pytest.mark.parametrize("more", [0, 1, 3])
def test_the_first_eight_findings_of_a_kind_are_printed_and_the_others_counted(tmp_path, more):
    rows = [pair(f"Name {chr(97 + i)}", f"{chr(97 + i) * 3}. ") for i in range(SHOWN + more)]
    path = write(tmp_path, "x.jsonl", *rows, {"frage": 1})
    _, every, _ = in_process("audit", path, "--no-overlap", "--all")
    _, out, _ = in_process("audit", path, "--no-overlap")
    kept = every.partition("\n\n")[0].splitlines()
    blanks, error = kept[:-1], kept[-1]
    assert len(blanks) == 8 + more and all(x.startswith("warning: blanks: ") for x in blanks)
    counted = [f"warning: blanks: {more} more like it (--all shows them)"] * bool(more)
    assert error.startswith("error: format: ")
    assert out.partition("\n\n")[0].splitlines() == [*blanks[:8], error, *counted]


def test_a_key_without_meaning_is_counted_in_each_row_that_has_a_value_for_it(tmp_path):
    rows = [
        pair("Fine", "Day.") | {"id": 1, "source": "x", "mine": [1]},
        pair("Rain", "Nay.") | {"id": 0, "source": "", "note": None},
        pair("Snow", "Aye.") | {"id": 3, "tags": {}, "topic": "w"},
        pair("Hail", " ") | {"id": 4},  # it cannot be trained on
    ]
    report = audit(
        [str(write(tmp_path, "x.jsonl", *rows))], grown(CHAT), reading=Reading(("mine",))
    )
    counts = report["keys_not_read"]
    assert counts == {"id": 3, "source": 1, "mine": 1, "topic": 1} and next(iter(counts)) == "id"


# ------------------------------------------------------------------------------- what is counted

KINGS = " the king came over the hill with all his men"  # a stretch of the corpus below


def quartered(values):
    """What spread() should give, from the sorted values by the textbook's rule."""
    some = sorted(values)

    def at(share):
        whole, part = divmod(share * (len(some) - 1), 1)
        nearer, farther = some[int(whole)], some[min(int(whole) + 1, len(some) - 1)]
        return pytest.approx(nearer + part * (farther - nearer))

    return {"min": some[0], "median": at(0.5), "p95": at(0.95), "max": some[-1]}


def kinds_of(names, most=5):
    """What diversity() should give for the names of some things, one for each thing."""
    counts = Counter(names).most_common()
    shares = [n / len(names) for _, n in counts]
    product = np.prod([share**-share for share in shares])
    top = [[name, share] for (name, _), share in zip(counts, shares)]
    return {"kinds": len(counts), "effective": pytest.approx(product), "top": top[:most]}


def test_every_figure_of_an_audit_is_a_plain_count_of_the_rows(tmp_path):
    claims = ["a king", "an owl", "the fool", "a man", "a ghost", "the bird"]
    # (turns, category, its reply is a duplicate): a claim comes as often as its place says.
    talks = [
        (["Say who" + "x" * i + chr(97 + n), f"I am {claim}. I am a liar."], "self")
        for i, claim in enumerate(claims)
        for n in range(len(claims) - i)
    ]
    talks += [
        (["Tell me more", "It is so.", "Go on then", f"They say{KINGS}!"], "war"),
        (["Tell me now", f"He says:{KINGS[:20]}?"], "war"),
        (["Tell me never", "Nay."], None),
        (["What is this", "A thing.", "And this", "Nothing.", "And that", "No."], None),
    ]
    rows = [
        {"messages": say(*texts)} | ({"category": category} if category else {})
        for texts, category in talks
    ]
    long = [{"messages": say("Hi", "o" * n)} for n in (99, 120)]
    a = write(
        tmp_path,
        "a.jsonl",
        *rows[:9],
        *long,
        {"frage": 1},
        rows[0] | {"deleted": True},
        rows[1] | {"lang": "de"},
        rows[2] | {"deleted": True},
        "no JSON",
        rows[3],
        rows[4],
        rows[3],
    )
    b = write(tmp_path, "b.jsonl", *rows[9:])
    c = write(tmp_path, "c.tsv", "question\tanswer", "Who\tThe old one.")
    corpus, out = f"Long ago{KINGS}, they say.", tmp_path / "out.jsonl"
    report = audit(
        [str(a), str(b), str(c)],
        grown(CHAT),
        context=96,
        max_new=50,
        corpus=corpus,
        fix=str(out),
        reading=Reading(lang="en"),
    )
    texts = [t for t, _ in talks] + [talks[3][0], talks[4][0], talks[3][0], ["Who", "The old one."]]
    asked = [text for turns in texts for text in turns[::2]]
    answered = [text for turns in texts for text in turns[1::2]]
    # A turn is its text between two tokens, and of a reply all but the first is graded.
    tokens = [sum(len(text) + 2 for text in turns) for turns in texts]
    targets, graded = sum(n - 1 for n in tokens), sum(len(text) + 1 for text in answered)
    shared = [
        next((n for n in range(len(KINGS), 15, -1) if KINGS[:n] in text), 0) for text in answered
    ]
    said = Counter(f"I am {claim}" for turns in texts for claim in claims if claim in turns[1])
    categories = [c for _, c in [*talks, talks[3], talks[4], talks[3]] if c]
    findings = report.pop("findings")
    kinds = Counter((f.severity, f.kind) for f in findings)
    assert report == {
        "files": [str(a), str(b), str(c)],
        "rows": len(texts) + 4,
        "trainable": len(texts),
        "left_out": {"deleted": 2, "in another language (de)": 1},
        "keys_not_read": {"category": len(categories)},
        "characters_changed": None,
        "turns": dict(sorted(Counter(map(len, texts)).items())),
        "errors": 4,
        "warnings": len(findings) - 4,
        "kinds": [
            {"severity": severity, "kind": kind, "count": n}
            for (severity, kind), n in sorted(kinds.items())
        ],
        "context": 96,
        "template": "chat",
        "grade": "all",
        "characters": 65,
        "tables": {str(c): "columns separated by tabs; the first row, 'question' and 'answer', is"
                   " a header"},
        "tokens": quartered([n - 1 for n in tokens] + [104, 125]),
        "too_long": 2,
        "prompt_length": quartered(map(len, asked)),
        "reply_length": quartered(map(len, answered)),
        "max_new": 50,
        "graded_targets": graded,
        "targets": targets,
        "graded_share": graded / targets,
        "prompt_types": kinds_of([" ".join(text.lower().split()[:2]) for text in asked]),
        "categories": kinds_of(categories),
        "identities": said.most_common(5),
        "corpus_overlap": quartered(shared) | {"from": 16},
        "fixed": {
            "path": str(out),
            "kept": len(texts) - 3,
            "removed_duplicates": 3,
            "removed_untrainable": 4,
        },
    }  # fmt: skip
    assert len(read_conversations(out)) == len(texts) - 3
    counts = Counter(f.kind for f in findings)
    assert (counts["format"], counts["length"], counts["exact duplicate"]) == (2, 2, 3)
    assert counts["copied from the corpus"] == sum(n >= 32 for n in shared) == 1
    assert counts["long reply"] == sum(len(text) >= 50 for text in answered) == 1


def test_findings_are_in_the_order_of_the_files_their_rows_and_turns(tmp_path, monkeypatch):
    """Some are found as a row is read, and others only when all are."""
    monkeypatch.chdir(tmp_path)
    mail, whole = "To ann.lee@post.example.", [pair(f"Ask {c}", f"{c * 9}.") for c in LETTERS[:20]]
    chat = {"messages": say(*(f"{c}." for c in LETTERS[:9]), mail)}
    cut = {"messages": say(mail, "It is, that", "Go on then", mail, "Why", " It is.")}
    write(tmp_path, "b.jsonl", *whole, cut, chat, chat, pair(mail, "Nay."), pair(mail, "Nay."))
    write(tmp_path, "z.jsonl", "")
    row, other = (json.dumps(pair(LETTERS[:9], answer)) for answer in ("Nay.", "No."))
    write(tmp_path, "a.jsonl", f"[{row}, {row}, {other}, {', '.join([row] * 9)}]", pair("Hi", mail))
    tokenizer = CharTokenizer(SHAKESPEARE + "@", CHAT.tokens)
    found = audit(["b.jsonl", "z.jsonl", "a.jsonl"], tokenizer)["findings"]
    assert [f"{f.where}: {f.kind}" for f in found] == [
        "z.jsonl: empty",
        "b.jsonl, line 21, turn 1: personal data",
        "b.jsonl, line 21, turn 2: cut reply",
        "b.jsonl, line 21, turn 4: personal data",
        "b.jsonl, line 21, turn 6: blanks",
        "b.jsonl, line 22, turn 10: personal data",
        "b.jsonl, line 23: exact duplicate",
        "b.jsonl, line 23, turn 10: personal data",
        "b.jsonl, line 24: contradiction",
        "b.jsonl, line 24, turn 1: personal data",
        "b.jsonl, line 25: exact duplicate",
        "b.jsonl, line 25: contradiction",
        "b.jsonl, line 25, turn 1: personal data",
        "a.jsonl, line 1, row 2: exact duplicate",
        "a.jsonl, line 1, row 3: contradiction",
        *(f"a.jsonl, line 1, row {i}: exact duplicate" for i in range(4, 13)),
        "a.jsonl, line 2, turn 2: personal data",
    ]


def kinds_found(tmp_path, *rows, **options):
    """The kinds of the findings of an audit of these rows."""
    report = audit([str(write(tmp_path, "x.jsonl", *rows))], grown(CHAT), **options)
    return [f.kind for f in report["findings"]]


def test_a_row_a_reply_or_a_copy_of_just_the_limit_is_told_from_one_of_one_more(tmp_path):
    corpus = "The quality of mercy is not strained, it droppeth as the rain from heaven."
    for most, least, row, kind in (
        # (the last number without a finding, the first with one, the row, the kind)
        (250, 251, lambda n: pair("a" * (n - 103), "b" * 99 + "."), "length"),
        (119, 120, lambda n: pair("Say", "b" * (n - 1) + "."), "long reply"),
        (31, 32, lambda n: pair("Say", f"x{corpus[3 : 3 + n]}x."), "copied from the corpus"),
    ):
        options = {"context": 250} if kind == "length" else {}
        assert kinds_found(tmp_path, row(most), corpus=corpus, **options) == []
        assert kinds_found(tmp_path, row(least), corpus=corpus, **options) == [kind]
    # Without limits they are those of the shipped presets and of chat.
    assert kinds_found(tmp_path, pair("a" * 153, "b" * 99 + ".")) == []
    assert kinds_found(tmp_path, pair("a" * 154, "b" * 99 + ".")) == ["length"]


def test_a_reply_is_cut_if_it_ends_without_a_mark_where_nine_of_ten_end_with_one(tmp_path):
    whole = [pair(f"Ask {c}", f"{c * 9}.") for c in LETTERS[:18]]
    cut = [pair(f"Say {c}", f"{c * 9} and {LETTERS}") for c in "xy"]
    assert kinds_found(tmp_path, *cut, *whole) == ["cut reply"] * 2
    assert kinds_found(tmp_path, *cut, *whole[1:]) == []
    (found,) = audit([str(write(tmp_path, "x.jsonl", cut[0], *whole[:9]))], grown(CHAT))["findings"]
    assert found.what == f"the reply ends with {LETTERS[-20:]!r}, where 9 others end with a mark"
    # Any of these marks ends a reply, and so does one of another script.
    tokenizer = CharTokenizer(SHAKESPEARE + '")]\u3002', CHAT.tokens)
    ends = [pair(f"Say {i * 'x'}", f"So {LETTERS[i]}{c}") for i, c in enumerate(".!?:'\")]\u3002")]
    path = write(tmp_path, "x.jsonl", *whole, *ends)
    assert audit([str(path)], tokenizer)["findings"] == []


def test_only_so_many_cut_replies_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("pysft.text.audit.UNENDED", 2)
    whole = [pair(f"Ask {c}{d}", f"{c * 9}{d}.") for c in LETTERS for d in "ab"]
    cut = [pair(f"Say {c}", f"{c * 9} and") for c in "xyz"]
    assert kinds_found(tmp_path, *cut, *whole) == ["cut reply"] * 2
