"""The material of a run: which of its text is trained on, and which is only measured on."""

import json
import re

import pytest

from pysft.errors import DataError
from pysft.jobs.material import gather, no_transcripts
from pysft.text.conversation import Conversation, plain
from pysft.text.corpora import read_corpus
from pysft.text.facts import town
from pysft.text.tokenizer import SHAKESPEARE
from pysft.training.presets import resolve

PLAYS = read_corpus("plays")[:20000] + SHAKESPEARE
SIGNS = SHAKESPEARE * 4000  # each line has one word, of 26 letters; a name has at most nine


def gathered(tmp_path, **data):
    """The material of a training on the shipped conversations and this many transcripts."""
    path = tmp_path / "corpus.txt"
    path.write_text(PLAYS)
    return gather(resolve("tiny", flags={"data": data}, tools=True), str(path), None)


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


def test_transcripts_are_mixed_with_all_that_would_be_trained_on_without_them(tmp_path):
    plain, mixed = gathered(tmp_path, transcripts=0), gathered(tmp_path, transcripts=500)
    made = [c for c in mixed.conversations if is_made(c)]
    assert len(made) == 500
    assert [c for c in mixed.conversations if not is_made(c)] == plain.conversations
    assert (mixed.heldout, mixed.pairs) == (plain.heldout, plain.pairs)
    assert mixed.files == [int(is_made(c)) for c in mixed.conversations] and plain.files is None
    assert len(mixed.examples[0]) == len(mixed.conversations)


def test_transcripts_change_nothing_that_a_model_is_measured_with(tmp_path):
    """Not even the known words: the names in transcripts are invented syllables."""
    plain, mixed = (gathered(tmp_path, transcripts=n).probe for n in (0, 500))
    assert plain == mixed


def test_a_fact_of_the_town_is_trained_on_only_if_it_is_of_the_half_for_training(tmp_path):
    made = [c for c in gathered(tmp_path, transcripts=2000).conversations if c.has_calls]
    answers = {c.messages[-1]["content"][-1]["text"] for c in made}
    trained, held = ({fact.text for fact in town(trained=half)} for half in (True, False))
    assert trained & answers and not held & answers


def test_nothing_that_is_held_out_stands_in_a_transcript(tmp_path):
    """Transcripts hold some of the shipped conversations too."""
    mixed = gathered(tmp_path, transcripts=3000)
    made = [plain(m["content"]) for c in mixed.conversations if is_made(c) for m in c.messages]
    read = [m["content"] for c in mixed.conversations if not is_made(c) for m in c.messages]
    held = [m["content"] for messages in mixed.heldout for m in messages.messages]
    assert set(made) & set(read)
    assert not set(made) & (set(held) - set(read))


def test_a_transcript_that_does_not_fit_is_left_out_and_said(tmp_path):
    """The shipped conversations may not be dropped so; nobody wrote the transcripts."""
    mixed = gathered(tmp_path, transcripts=2000, template="chatml")
    made = sum(map(is_made, mixed.conversations))
    assert 1000 < made < 2000
    assert any(note.startswith(f"left out: {2000 - made:,} of 2,000 made") for note in mixed.notes)
    assert max(len(example.input_ids) for example in mixed.examples[0]) <= 256


def test_made_transcripts_bring_no_notes_about_the_data(tmp_path):
    """Two of them may ask the same and be answered otherwise: "And where does she live?" """
    assert gathered(tmp_path, transcripts=2000).notes == gathered(tmp_path, transcripts=0).notes
