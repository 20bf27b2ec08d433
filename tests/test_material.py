"""The material of a run: which of its text is trained on, and which is only measured on."""

import io
import json
import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from texts import PLAIN, one_line, say, write

from pysft.batch import Example
from pysft.console import Screen
from pysft.errors import DataError, UsageError
from pysft.jobs.material import Material, gather, no_transcripts
from pysft.jobs.summary import data_figures, describe_data, graded_ends, mask_counts
from pysft.text.conversation import Conversation, plain
from pysft.text.corpora import read_corpus
from pysft.text.spread import spread
from pysft.text.templates import CHAT, LLAMA2
from pysft.text.tokenizer import SHAKESPEARE, CharTokenizer
from pysft.training.presets import resolve
from pysft.world.town import town

PLAYS = read_corpus("plays")[:20000] + SHAKESPEARE
SIGNS = SHAKESPEARE * 4000  # each line has one word, of 26 letters; a name has at most nine


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """A function of settings: the material of a training on the shipped conversations and this many
    transcripts, gathered once for the same settings."""
    path = tmp_path_factory.mktemp("gathered") / "corpus.txt"
    path.write_text(PLAYS)

    @cache
    def gathered(**data):
        return gather(resolve("tiny", flags={"data": data}, tools=True), str(path), None)

    return gathered


def is_made(conversation: Conversation) -> bool:
    return conversation.last_only


# ------------------------------------------------------------------------- can transcripts be made


@pytest.mark.parametrize(
    "text, can",
    [
        (PLAYS, True),
        (SIGNS, False),
        (PLAYS.upper(), False),
        (PLAYS + SIGNS[: len(PLAYS) // 8], False),  # no words in the tail that is held out
        (SIGNS[: 9 * len(PLAYS)] + PLAYS, False),  # no words in what is trained on
    ],
    ids=["plays", "no words", "capitals", "no words held out", "no words to train on"],
)
def test_transcripts_need_words_to_train_on_and_words_to_measure_with(tmp_path, text, can):
    path = tmp_path / "corpus.txt"
    path.write_text(text)
    why = no_transcripts(str(path))
    assert (why == "") is can and "\n" not in why and ";" not in why
    settings = resolve("tiny", flags={"data": {"transcripts": 9}}, tools=True)
    if can:
        assert sum(map(is_made, gather(settings, str(path), None).conversations)) == 9
    else:
        with pytest.raises(DataError, match=why):
            gather(settings, str(path), None)


# ------------------------------------------------------------------ characters it cannot write


@pytest.mark.parametrize("unknown, kind", [("replace", "replaced"), ("grow", "new")])
@pytest.mark.parametrize("others, more", [(7, ""), (8, " and 1 more"), (10, " and 3 more")])
def test_a_note_names_eight_characters_the_most_frequent_first_and_counts_the_rest(
    tmp_path, unknown, kind, others, more
):
    accents = "éèêëàâîïôû"[:others]
    words = ["ö" * 1200, *(c * (20 - i) for i, c in enumerate(accents))]
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"user": "Speak", "assistant": " ".join(words)}))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(PLAYS)
    settings = resolve("tiny", flags={"data": {"unknown": unknown}, "model": {"context": 2048}})
    [note] = [
        note
        for note in gather(settings, str(corpus), [str(data)]).notes
        if note.startswith(f"{kind} characters: ")
    ]
    shown = note.removeprefix(f"{kind} characters: ").removesuffix(more)
    named = re.findall(r"'(.)'(?: by '(.)')? \(([\d,]+) times\)", shown)
    assert [(c, n) for c, _, n in named[:2]] == [("ö", "1,200"), ("é", "20")]
    assert len(named) == 8 and shown == ", ".join(
        f"{c!r}" + (f" by {new!r}" if new else "") + f" ({n} times)" for c, new, n in named
    )
    assert [new for _, new, _ in named[:2]] == ([""] * 2 if kind == "new" else ["o", "e"])


# ----------------------------------------------------------------------- transcripts in a training


def test_transcripts_are_mixed_with_all_that_would_be_trained_on_without_them(gathered):
    plain, mixed = gathered(transcripts=0), gathered(transcripts=500)
    made = [c for c in mixed.conversations if is_made(c)]
    assert len(made) == 500
    assert [c for c in mixed.conversations if not is_made(c)] == plain.conversations
    assert (mixed.heldout, mixed.pairs) == (plain.heldout, plain.pairs)
    assert mixed.files == [int(is_made(c)) for c in mixed.conversations] and plain.files is None
    assert len(mixed.examples[0]) == len(mixed.conversations)


def test_transcripts_change_nothing_that_a_model_is_measured_with(gathered):
    """Not even the known words: the names in transcripts are invented syllables."""
    plain, mixed = (gathered(transcripts=n).probe for n in (0, 500))
    assert plain == mixed


def test_a_fact_of_the_town_is_trained_on_only_if_it_is_of_the_half_for_training(gathered):
    made = [c for c in gathered(transcripts=2000).conversations if c.has_calls]
    answers = {c.messages[-1]["content"][-1]["text"] for c in made}
    trained, held = ({fact.text for fact in town(trained=half)} for half in (True, False))
    assert trained & answers and not held & answers


def test_nothing_that_is_held_out_stands_in_a_transcript(gathered):
    """Transcripts hold some of the shipped conversations too."""
    mixed = gathered(transcripts=2000)
    made = [plain(m["content"]) for c in mixed.conversations if is_made(c) for m in c.messages]
    read = [m["content"] for c in mixed.conversations if not is_made(c) for m in c.messages]
    held = [m["content"] for messages in mixed.heldout for m in messages.messages]
    assert set(made) & set(read)
    assert not set(made) & (set(held) - set(read))


def test_transcripts_are_written_without_the_characters_that_are_replaced(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(PLAYS.replace("w", ""))  # as in "And where does she live?"
    data = {"transcripts": 50, "unknown": "replace"}
    mixed = gather(resolve("tiny", flags={"data": data}, tools=True), str(corpus), None)
    made = [c for c in mixed.conversations if is_made(c)]
    assert len(made) == 50
    assert not any("w" in plain(m["content"]) for c in made for m in c.messages)


def test_a_transcript_that_does_not_fit_is_left_out_and_said(gathered):
    """The shipped conversations may not be dropped so; nobody wrote the transcripts."""
    mixed = gathered(transcripts=1000, template="chatml")
    made = sum(map(is_made, mixed.conversations))
    assert 500 < made < 1000
    assert any(note.startswith(f"left out: {1000 - made:,} of 1,000 made") for note in mixed.notes)
    assert max(len(example.input_ids) for example in mixed.examples[0]) <= 256


def test_made_transcripts_bring_no_notes_about_the_data(gathered):
    """Two of them may ask the same and be answered otherwise: "And where does she live?" """
    assert gathered(transcripts=2000).notes == gathered(transcripts=0).notes


# ------------------------------------------------------------------------- the data in numbers


def spoken(*texts, path="a.jsonl", line=1, last_only=False, category="", **train):
    """A conversation of these texts. train: by the number of a turn, from 0, its "train"."""
    messages = say(*texts)
    for name, flag in train.items():
        messages[int(name.removeprefix("turn"))]["train"] = flag
    return Conversation(messages, path, line, category, last_only)


PLAIN_TEXT = Conversation([{"role": "text", "content": "To be"}], "a.jsonl", 1)
TWO = spoken("Hi", "Ho", "More", "No", turn1=False, turn3=True)
ONE_OF_TWO = spoken("Hi", "Ho", "More", "No", turn1=False)
ASKED_ALONE = spoken("Hi")
MADE = spoken("Hi", "Ho", "More", "No", last_only=True)


@pytest.mark.parametrize(
    "conversation, ends",
    [
        # (of all, of flags, of the last, of everything: turns whose end token should be graded)
        (TWO, (1, 1, 1, 4)),
        (ONE_OF_TWO, (1, 1, 1, 4)),
        (spoken("Hi", "Ho", "More", "No"), (2, 2, 1, 4)),
        (ASKED_ALONE, (0, 0, 0, 1)),
        (MADE, (1, 1, 1, 4)),
        (PLAIN_TEXT, (0, 0, 0, 0)),
    ],
)
def test_the_turns_whose_end_should_be_graded_are_counted_from_the_messages(conversation, ends):
    grades = ("all", "flags", "last", "everything")
    for grade, expected in zip(grades, ends):
        assert graded_ends([conversation], CHAT, grade) == expected, grade
        assert graded_ends([PLAIN_TEXT, conversation] * 2, CHAT, grade) == 2 * expected, grade


def test_only_turns_that_a_template_closes_with_its_end_token_are_counted():
    """In llama2 the user's turn ends with another token."""
    closed = [words[-1:] == (LLAMA2.end,) for words in (
        LLAMA2.turns["user"].closes, LLAMA2.turns["assistant"].closes)]  # fmt: skip
    assert closed == [False, True]
    talk = spoken("Hi", "Ho", "More", "No", "Hm", "Aye")
    assert graded_ends([talk], LLAMA2, "everything") == 3
    assert graded_ends([talk], CHAT, "everything") == 6


def example(labels):
    return Example(np.zeros(len(labels), np.int32), np.array(labels, np.int32))


EXAMPLES = ([example([-100, 5, 9]), example([-100, -100, -100, 9])], [example([9, 9])])


def test_the_mask_is_counted_by_graded_targets_all_targets_and_ends():
    every = [*EXAMPLES[0], *EXAMPLES[1]]
    assert mask_counts(every, 9) == {"graded_targets": 5, "targets": 9, "end_tokens_graded": 4}
    assert mask_counts(every, 5)["end_tokens_graded"] == 1
    assert mask_counts([], 5) == {"graded_targets": 0, "targets": 0, "end_tokens_graded": 0}


def described(material, *works):
    """(the lines that describe_data() prints, what it returns)"""
    screen = Screen(json=False)
    screen.stream, screen.live = io.StringIO(), False
    counts = describe_data(screen, list(works), material)
    return screen.stream.getvalue().splitlines(), counts


def work_of(name="sft", epochs=None, data=None, tunes=True):
    settings = resolve("tiny", flags={"data": data or {}})
    plan = SimpleNamespace(epochs=epochs or {"conversations": 1.25, "pairs": 40.0})
    return SimpleNamespace(name=name, settings=settings, plan=plan, tunes=tunes)


def material_of(conversations, pairs=(), heldout=(), notes=()):
    tokenizer = CharTokenizer(SHAKESPEARE, CHAT.tokens)
    return Material("text", "tail", PLAIN, CHAT, tokenizer, list(conversations), list(pairs),
                    list(heldout), EXAMPLES, notes=list(notes))  # fmt: skip


def test_the_data_are_described_before_they_are_trained_on():
    made = [TWO, ONE_OF_TWO]
    material = material_of(made, [spoken("Go", "On")], [ASKED_ALONE], ["left out: 2 deleted"])
    base = work_of("base", tunes=False)
    shown, counts = described(material, base, work_of())
    end = material.grown.special[CHAT.end]
    assert counts == mask_counts([*EXAMPLES[0], *EXAMPLES[1]], end) | {"turns": 3}
    assert shown == [
        "data: template chat; graded: every assistant turn; too long: refused; unknown characters:"
        " refused; epochs: 1.2 of conversations, 40.0 of pairs",
        "data: left out: 2 deleted",
        "conversations: 3 (1 more held out); graded 5 of 9 targets (56%); end tokens graded: 0 of"
        " 3 turns",
    ]


def test_what_is_dropped_replaced_mixed_or_trained_in_several_stages_is_described():
    data = {"too_long": "drop", "unknown": "replace", "mix": (0.25, 1.0), "grade": "last"}
    works = [work_of("sft", data=data), work_of("sft-2", {"windows": 3.0}, data=data)]
    shown, _ = described(material_of([MADE, spoken("Hi", "Ho")]), *works)
    assert shown[0] == (
        "data: template chat; graded: the last assistant turn, of transcripts the last one;"
        " too long: left out; unknown characters: replaced; mixed 0.25 : 1; epochs of sft: 1.2 of"
        " conversations, 40.0 of pairs; epochs of sft-2: 3.0 of windows"
    )
    data = {"unknown": "grow", "grade": "everything"}
    shown, _ = described(material_of([MADE]), work_of(data=data))
    assert "of transcripts" not in shown[0] and "unknown characters: added to the vo" in shown[0]


def test_the_figures_of_the_data_are_those_of_what_is_trained_on():
    asked = [spoken("Hi", "Ho.", category="a"), spoken("Good day", "Aye", "More", "No, no")]
    material = material_of([*asked, PLAIN_TEXT], [spoken("Go", "On", category="b")], [TWO], ["n"])
    figures = data_figures(material, SimpleNamespace(epochs={"pairs": 2.0}), {"turns": 7})
    assert figures == {
        **{"conversations": 3, "pairs": 1, "heldout": 1, "notes": ["n"], "epochs": {"pairs": 2.0}},
        "tokens": spread([4, 5, 3]),
        "prompt_length": spread([2, 8, 2]),
        "reply_length": spread([3, 3, 6, 2]),
        "categories": [("a", 1), ("b", 1)],
        "turns": 7,
    }
    many = [spoken("Hi", "Ho", category=f"c{i:02}") for i in range(30)]
    figures = data_figures(material_of(many), SimpleNamespace(epochs={}), {})
    assert [name for name, _ in figures["categories"]] == [f"c{i:02}" for i in range(20)]


# ------------------------------------------------------------ what the settings ask of the data


def asked_for(tmp_path, files, **tables):
    """The material of a training on files of conversations, {name: rows}."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(PLAYS)
    for name, rows in files.items():
        write(tmp_path, name, *rows)
    settings = resolve("tiny", flags=tables)
    paths = [str(tmp_path / name) for name in files]
    return gather(settings, str(corpus), paths or None)


def rows(count, word="Say"):
    numerals = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"][:count]
    return [{"user": f"{word} {n}", "assistant": f"{n} it is"} for n in numerals]


@pytest.mark.parametrize(
    "files, data, words",
    [
        (1, {"mix": [1.0, 1.0]}, "mix has 2 weights for 1 files of --data; give each a weight"),
        (2, {"mix": [1.0]}, "mix has 1 weights for 2 files of --data"),
        (0, {"mix": [1.0]}, "mix has 1 weights for 0 files of --data"),
        (1, {"transcripts": 5}, "leave --data FILE out"),
        (0, {"transcripts": 5, "mix": [1.0]}, "mix has 1 weights for conversations and transc"),
        (0, {"transcripts": 5, "mix": [1.0] * 3}, "mix has 3 weights for conversations and"),
    ],
)
def test_a_mixture_of_data_that_are_not_there_is_refused(tmp_path, files, data, words):
    given = {f"{i}.jsonl": rows(3) for i in range(files)}
    with pytest.raises(UsageError) as error:
        asked_for(tmp_path, given, data=data)
    assert words in one_line(error)


def test_each_conversation_of_a_mixture_is_of_its_file(tmp_path):
    files = {"a.jsonl": rows(3), "b.jsonl": rows(2, "Sing")}
    assert asked_for(tmp_path, files, data={"mix": [1.0, 3.0]}).files == [0, 0, 0, 1, 1]
    assert asked_for(tmp_path, files).files is None


def test_a_conversation_of_ones_own_that_is_too_long_is_left_out_and_counted(tmp_path):
    long = [{"user": "Go", "assistant": "x" * 300}] * 2
    dropped = asked_for(tmp_path, {"a.jsonl": rows(3) + long}, data={"too_long": "drop"})
    [note] = [note for note in dropped.notes if note.startswith("left out")]
    assert note == "left out: 2 conversations that are longer than the context of 256"
    assert len(dropped.conversations) == len(dropped.examples[0]) == 3
    for data, fits in (({"too_long": "drop"}, " that fits"), ({}, "")):
        with pytest.raises(DataError) as error:
            asked_for(tmp_path, {"a.jsonl": long if data else [""]}, data=data)
        assert f"a.jsonl: no conversation in it{fits}. The guide" in one_line(error)


def test_rows_that_are_left_out_are_counted_by_reason_and_alter_the_data(tmp_path):
    gone = [{"user": "Go", "assistant": "On", "deleted": True}] * 2
    other = [{"user": "Va", "assistant": "Bene", "lang": "it"}]
    read = asked_for(tmp_path, {"a.jsonl": rows(3) + gone + other}, data={"lang": "en"})
    [note] = [note for note in read.notes if note.startswith("left out")]
    assert re.fullmatch(r"left out: 2 deleted, 1 .*it.*|left out: 1 .*, 2 deleted", note), note
    assert read.is_altered and not asked_for(tmp_path, {"a.jsonl": rows(3)}).is_altered


def test_letters_with_accents_behind_them_are_composed_and_alter_the_data(tmp_path):
    composed = [{"user": "Va", "assistant": "Voila\u0300"}]
    read = asked_for(tmp_path, {"a.jsonl": rows(2) + composed}, data={"unknown": "grow"})
    assert "composed: letters and accents of 1 conversations (Unicode NFC)" in read.notes
    assert read.is_altered and read.conversations[2].replies() == ["Voil\u00e0"]


def test_the_pairs_alone_are_trained_on_if_the_settings_say_so(tmp_path):
    both, alone = asked_for(tmp_path, {}), asked_for(tmp_path, {}, data={"shipped": "pairs"})
    assert alone.conversations == [] and alone.pairs == both.pairs and len(alone.pairs) == 40
    assert alone.heldout == both.heldout and len(both.heldout) > 0
    assert len(alone.examples[0]) == 0 and len(alone.examples[1]) == 40
    of_own = asked_for(tmp_path, {"a.jsonl": rows(3)})
    assert of_own.pairs == [] and of_own.heldout == []


def test_tokens_of_tools_are_in_the_vocabulary_only_if_something_calls_tools(tmp_path):
    call = {"messages": say("Who", [{"type": "search", "text": "moon"},
                                    {"type": "result", "text": "pale"},
                                    {"type": "text", "text": "Pale."}])}  # fmt: skip
    tools = set(CHAT.tokens_for({"result"}))
    for given, data, has in (
        ({"a.jsonl": rows(3)}, {}, False),
        ({"a.jsonl": [*rows(3), call]}, {}, True),
        ({}, {}, False),
        ({}, {"transcripts": 3}, True),
    ):
        read = asked_for(tmp_path, given, data=data)
        assert (tools <= set(read.grown.special)) is has
        assert set(CHAT.tokens) <= set(read.grown.special)
        assert not tools & set(read.tokenizer.special)
