"""Training on one's own conversations: formats, templates, what is graded, texts that do not fit,
mixtures of files, and calls of tools."""

import contextlib
import json
from functools import partial

import pytest
from command_line import (
    CONVERSATIONS,
    SUBJECTS,
    conversation,
    interrupted_at_once,
    lines,
    pysft,
    refusal,
    succeeds,
    toml,
)

from pysft.jobs.town import STRANGER
from pysft.measure import calltest, evaluate, tooltest
from pysft.text.corpora import read_corpus
from pysft.text.grades import GRADES
from pysft.text.templates import CHATML
from pysft.text.tokenizer import SHAKESPEARE
from pysft.training.presets import WITH_TOOLS
from pysft.world.town import town


def stored(run, name):
    """A JSON file of the tuned stage in the folder `run`."""
    return json.loads((run / "sft" / name).read_text())


# ----------------------------------------------------------------------------- files and templates


def test_a_spreadsheet_becomes_a_chat(trained, workdir):
    rows = [f"Who keeps the {s};Old Tom keeps the {s}." for s in SUBJECTS]
    workdir.write("mine.csv", ["question;answer", *rows])
    succeeds("audit", "mine.csv", "--run", trained.run)
    report = succeeds(*trained.fine_tuning("mine.csv", "--out", "run")).document
    assert report["turns"] == report["recall_of"] == 10
    succeeds("chat", "run", "-p", "Who keeps the moon")


@pytest.fixture(scope="module", params=["chatml", "llama2", "human"])
def templated(request, trained, tmp_path_factory):
    """(name of a template, a run trained with it, what the training printed)."""
    folder = tmp_path_factory.mktemp(request.param)
    data = folder / "mine.jsonl"
    data.write_text(lines(conversation(*texts) for texts in CONVERSATIONS if len(texts) == 2))
    flags = ("--template", request.param, "--out", folder / "run")
    return request.param, folder / "run", succeeds(*trained.fine_tuning(data, *flags))


def test_a_template_is_stored_in_the_run_and_used_by_eval(templated):
    template, run, result = templated
    assert f"template {template}" in result.err
    assert result.document["turns"] == result.document["end_tokens_graded"] > 50
    assert stored(run, "template.json")["name"] == template
    measured = succeeds("eval", run, "--json").document
    for name in ("recall", "format_compliance", "heldout_loss"):
        assert measured[name] == result.document[name], name


def test_a_run_is_read_with_its_own_template_alone(templated):
    template, run, _ = templated
    assert template in refusal(2, "mask", "--run", run, "--template", "chat")


def test_chat_refuses_a_message_that_forges_a_turn_where_turns_begin_with_words(templated):
    template, run, _ = templated
    succeeds("chat", run, "-p", "Go")
    forged = ("chat", run, "-p", "Go\n\nHuman: go")
    if template == "human":
        assert "begins a turn" in refusal(65, *forged)
    else:
        succeeds(*forged)


def test_a_system_turn_comes_first_if_the_template_has_one(trained, workdir):
    rows = [conversation(*texts[:2], system="Be brief") for texts in CONVERSATIONS]
    workdir.write("mine.jsonl", rows)
    flags = ("--template", "llama2", "--out", "run")
    report = succeeds(*trained.fine_tuning("mine.jsonl", *flags)).document
    assert (report["turns"], report["recall_of"]) == (54, 40)
    assert succeeds("eval", "run", "--json").document["recall"] == report["recall"]
    succeeds("chat", "run", "--system", "Be brief", "-p", "Go")


def test_a_system_turn_is_refused_by_a_template_without_one(trained, workdir):
    assert "no system role" in refusal(2, "chat", trained.run, "--system", "Be brief", "-p", "Go")
    workdir.write("mine.jsonl", [conversation("Go", "Ho.", system="Be brief")])
    refusal(65, "train", *trained.text, "--data", "mine.jsonl", "--out", "run")


def test_a_template_whose_words_the_corpus_cannot_write_is_refused_before_any_row(trained, workdir):
    workdir.write("upper.txt", read_corpus("plays")[:3000].upper())
    workdir.write("mine.jsonl", [conversation("HI", "HO.")])
    flags = ("mine.jsonl", "--corpus", "upper.txt", "--template", "chatml")
    for verb, more in (
        (("train", "--config", trained.config, "--data"), ("--out", "run")),
        (("audit",), ("--no-overlap",)),
        (("mask",), ()),
    ):
        assert "writes its words with 'a'" in refusal(2, *verb, *flags)
        succeeds(*verb, *flags, "--unknown", "grow", *more)


def test_a_template_file_is_kept_in_the_run_and_used_on_resume(trained, workdir):
    path = workdir.write("mine.json", json.dumps(CHATML.to_json()))
    train = trained.fine_tuning(trained.data, "--too-long", "drop", "--template", path)
    uninterrupted = succeeds(*train, "--out", "uninterrupted").document
    with interrupted_at_once():
        assert pysft(*train, "--out", "run").code == 130
    path.unlink()
    resumed = succeeds("train", "--resume", "--out", "run", "--json").document
    assert resumed["weights_sha256"] == uninterrupted["weights_sha256"]


# ---------------------------------------------------------------------------------- what is graded


@pytest.mark.parametrize(
    "grade, turns, words",
    [
        ("last", 54, "the last assistant turn"),
        ("everything", 110, "no mask"),
        ("all", 55, "every assistant turn"),
    ],
)
def test_what_is_graded_is_printed_and_counted(trained, workdir, grade, turns, words):
    result = succeeds(*trained.fine_tuning(trained.data, "--grade", grade, "--out", "run"))
    report = result.document
    assert words in result.err
    assert report["turns"] == report["end_tokens_graded"] == turns
    every_target = report["graded_targets"] == report["targets"]
    assert every_target == (grade == "everything")


def two_exchanges(subject, adverb) -> dict:
    """Two exchanges; only the second reply, "Aye.", is to be trained on."""
    row = json.loads(conversation(f"Say {subject}", "Hm.", f"And {adverb}?", "Aye."))
    row["messages"][1]["train"], row["messages"][3]["train"] = False, True
    return row


def test_train_flags_are_followed_in_training_measuring_and_showing(trained, workdir):
    adverbs = "now then here there so me".split()
    workdir.write("mine.jsonl", [two_exchanges(s, a) for s in SUBJECTS for a in adverbs])
    assert "choose --grade flags" in refusal(65, *trained.fine_tuning("mine.jsonl"))
    assert workdir.is_unchanged()

    flags = ("--grade", "flags", "--out", "run")
    report = succeeds(*trained.fine_tuning("mine.jsonl", *flags)).document
    assert report["heldout_loss"] > 0
    assert report["turns"] == report["end_tokens_graded"] == 54
    measured = succeeds("eval", "run", "--json").document
    assert measured["heldout_loss"] == report["heldout_loss"]
    # The reply that is recalled is the graded one, after the three turns before it.
    pairs = stored(workdir.path / "run", "evaluation.json")["pairs"]
    assert all(len(before) == 3 and reply == "Aye." for before, reply in pairs)
    # `mask` takes --grade from the run.
    mask = succeeds("mask", "mine.jsonl", "--line", 1, "--run", "run", "--json").document
    assert mask["graded"] == len("Aye.") + 1


def test_the_command_line_offers_the_grades_that_templates_know():
    from pysft.cli import arguments

    assert arguments.GRADES == GRADES  # written twice, so that --help need not import NumPy


# ------------------------------------------------------------------ what does not fit or is unknown


@pytest.fixture
def unfit(workdir):
    """Four conversations: too long for the context; with two unknown characters; and fine."""
    rows = [("Hi", "x" * 90), ("At 8", "Fine."), ("Caf\u00e9", "Yes."), ("Hm", "Ho.")]
    return workdir.write("mine.jsonl", [conversation(*texts) for texts in rows])


def test_texts_that_do_not_fit_are_refused(trained, workdir, unfit):
    error = refusal(65, *trained.fine_tuning("mine.jsonl"))
    assert "mine.jsonl, line 1" in error
    assert "and 2 more; python -m pysft audit" in error
    refusal(65, *trained.fine_tuning("mine.jsonl", "--too-long", "drop"))
    assert workdir.is_unchanged()
    refusal(65, "chat", trained.run, "-p", "At 8")


def test_unknown_characters_are_replaced_in_training_chat_and_eval(trained, workdir, unfit):
    flags = ("--too-long", "drop", "--unknown", "replace", "--out", "run")
    result = succeeds(*trained.fine_tuning("mine.jsonl", *flags))
    assert result.document["turns"] == 3
    assert "left out: 1 conversations that are longer" in result.err
    assert "'\u00e9' by 'e'" in result.err
    assert "'8' by '?'" in result.err
    succeeds("chat", "run", "-p", "At 8")
    succeeds("eval", "run")


def test_unknown_characters_are_added_to_the_vocabulary(trained, workdir, unfit):
    flags = ("--too-long", "drop", "--unknown", "grow", "--out", "run")
    result = succeeds(*trained.fine_tuning("mine.jsonl", *flags))
    assert "new characters: '8'" in result.err
    rows = 2 * 2  # '8' and 'é', in the embedding and in the head
    assert result.document["params"] == trained.report["params"] + rows * 16
    succeeds("chat", "run", "-p", "At 8")
    succeeds("eval", "run")


@pytest.mark.parametrize("verb", ["train", "audit", "mask"])
def test_a_reply_that_replacement_leaves_empty_is_refused(trained, workdir, verb):
    workdir.write("mine.jsonl", [conversation("Hi", "\u200b\u00ad"), conversation("Go", "Ho.")])
    flags = [*trained.text, "--base", trained.run, "--data"] if verb == "train" else []
    result = pysft(verb, *flags, "mine.jsonl", "--unknown", "replace")
    assert result.code == 65
    assert "line 1, turn 2: empty reply" in result.err + result.out
    assert workdir.is_unchanged()


# ------------------------------------------------------------------------------- mixtures of files


def test_the_files_of_a_mixture_have_their_shares(trained, workdir):
    workdir.write("a.jsonl", [conversation(*texts) for texts in CONVERSATIONS[:30]])
    workdir.write("b.jsonl", [conversation(*texts) for texts in CONVERSATIONS[30:50]])
    config = workdir.write("more.toml", toml(sft={"tokens": 800}))
    command = [*trained.fine_tuning("a.jsonl"), "--data", "b.jsonl", "--config", config]
    for weights in (["1"], ["1", "-1"]):
        assert pysft(*command, "--mix", *weights).code == 2
        assert workdir.is_unchanged()
    err = succeeds(*command, "--mix", "3", "1", "--out", "run").err
    assert "mixed 3 : 1; epochs: " in err
    assert "of file 2" in err
    assert stored(workdir.path / "run", "settings.json")["settings"]["data"]["mix"] == [3.0, 1.0]


def test_rows_of_text_alone_are_graded_whole(trained, workdir):
    texts = [f"The {subject} is fair." for subject in SUBJECTS * 6]
    workdir.write("text.jsonl", [{"text": text} for text in texts])
    report = succeeds(*trained.fine_tuning("text.jsonl", "--out", "run")).document
    assert (report["turns"], report["recall_of"]) == (0, 0)
    targets = sum(len(text) - 1 for text in texts)
    assert report["graded_targets"] == report["targets"] == targets
    mask = succeeds("mask", "text.jsonl", "--line", 1, "--prove", "--json").document
    assert mask["proved"]
    assert mask["proof"]["formula"] == mask["graded"]


# -------------------------------------------------------------------------------------- tools


def test_calls_of_tools_bring_their_tokens_and_are_graded_without_their_results(trained, workdir):
    parts = [
        {"type": "search", "text": "moon"},
        {"type": "result", "text": "pale"},
        {"type": "text", "text": "Pale."},
    ]
    workdir.write("mine.jsonl", [conversation(f"Seek {s}", parts) for s in SUBJECTS])
    report = succeeds(*trained.fine_tuning("mine.jsonl", "--out", "run")).document
    # In each reply: the call, its two tokens, the answer and the end token.
    assert report["graded_targets"] == 10 * (len("moon") + 2 + len("Pale.") + 1)
    # What follows a call depends on the tool, so no reply can be recalled.
    assert (report["recall"], report["recall_of"]) == (None, 0)
    succeeds("audit", "mine.jsonl")
    succeeds("audit", "mine.jsonl", "--run", trained.run / "base")


# What differs from the other small runs here: a transcript takes up to 256 tokens.
SMALL_TOOL_USER = {"model": {"context": 256}, "sft": {"tokens": 900, "steps": 2}}


@contextlib.contextmanager
def short_replies(draws=tooltest.DRAWS):
    """Inside `with`, replies to measure have at most 8 tokens. draws: those of the tool test."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (calltest, evaluate):
            patch.setattr(module, "MAX_NEW", 8)
        patch.setattr(tooltest, "Session", partial(tooltest.Session, max_new=8))
        _, sampling = tooltest.tool_test.__defaults__
        patch.setattr(tooltest.tool_test, "__defaults__", (draws, sampling))
        yield


@pytest.fixture(scope="module")
def tool_user(tmp_path_factory, without_figures, few_prompts):
    """(a run of `train --data tools`, its report). The training is too short to learn anything:
    what is seen is that every part is there. Its replies have at most 8 tokens."""
    folder = tmp_path_factory.mktemp("tools")
    config = folder / "small.toml"
    config.write_text(toml(**SMALL_TOOL_USER, data={"transcripts": 300}))
    with short_replies(), contextlib.chdir(folder):
        result = succeeds("train", "--data", "tools", "--config", config, "--json")
        yield folder / "runs" / "tools", result.document


def test_tool_use_is_trained_and_measured(tool_user):
    run, report = tool_user
    assert report["run"] == "runs/tools"
    assert report["tools"].keys() >= {"answered", "answered_without", "refused", "quiet"}
    settings = json.loads((run / "run.json").read_text())["settings"]
    # The first two are the file's, before those of --data tools; the third is of --data tools.
    assert settings["data"]["transcripts"] == 300
    assert (settings["sft"]["tokens"], settings["sft"]["lr"]) == (900, 2.5e-3)
    specials = set(stored(run, "vocabulary.json")["specials"])
    assert specials >= {"<|search_start|>", "<|code_start|>", "<|result_start|>"}
    out = succeeds("eval", run).out
    assert "tools: held-out facts" in out and "a chat about the town" in out
    assert " 0% of 640 answered right" in out


def test_a_model_that_can_search_takes_documents(tool_user, workdir):
    run, _ = tool_user
    chat = ("chat", run, "--tokens", 5, "-p", "Hi", "--docs")
    succeeds(*chat, workdir.write("facts.jsonl", [{"title": "Moon", "text": "The moon is pale."}]))
    assert "nothing.jsonl" in refusal(66, *chat, "nothing.jsonl")
    workdir.write("settings.toml", "context = 64")
    assert "settings.toml" in refusal(65, *chat, "settings.toml")


@pytest.mark.parametrize(
    "flags, text",
    [
        (("facts.jsonl",), "takes no other files"),
        (("--preset", "seed"), "context"),  # that preset's is 64
    ],
)
def test_a_training_of_tool_use_that_cannot_be_is_refused(workdir, flags, text):
    workdir.write("facts.jsonl", [{"title": "Moon", "text": "The moon is pale."}])
    assert text in refusal(2, "train", "--data", "tools", *flags)
    assert workdir.is_unchanged()


class TrainedByDefault:
    """Trainings on the shipped conversations, too short to learn anything.

    inputs: the flags that name the settings and the corpus."""

    def __init__(self, folder):
        self.folder = folder
        config, corpus = folder / "small.toml", folder / "corpus.txt"
        config.write_text(toml(**SMALL_TOOL_USER, data={"transcripts": 300}))
        corpus.write_text(read_corpus("plays")[:12000])
        self.inputs = ["--config", config, "--corpus", corpus]

    def train(self, name, *flags):
        """(the run's folder, what its training returned and printed)"""
        run = self.folder / name
        with short_replies(draws=(1,)):
            return run, pysft("train", *self.inputs, *flags, "--out", run)


@pytest.fixture(scope="module")
def by_default(tmp_path_factory, without_figures, few_prompts):
    # A seventh of the prompts: 18 of the 120 sealed ones.
    return TrainedByDefault(tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def learned_tools(by_default):
    return by_default.train("tools")


def test_training_on_the_shipped_conversations_teaches_tools_unasked(learned_tools):
    run, result = learned_tools
    assert result.code == 0, result.err
    for text in (
        "[sft] steps 2", "tools: second questions", "a chat about the town", "sealed prompts",
        "distinct words", "Ask it:",
    ):  # fmt: skip
        assert text in result.out, text
    kept = stored(run, "settings.json")["settings"]
    assert (kept["data"]["transcripts"], kept["sft"]["tokens"]) == (300, 900)  # the file's
    assert kept["data"]["mix"] == list(WITH_TOOLS["tiny"]["data"]["mix"])
    assert kept["sft"]["pairs"] == WITH_TOOLS["tiny"]["sft"]["pairs"]
    assert "<|search_start|>" in stored(run, "vocabulary.json")["specials"]
    report = stored(run, "report.json")
    assert report["tools"]["followed_of"] > 0 and report["sealed"]["prompts"] == 18
    # Of each transcript one reply is graded, however many it has.
    assert report["turns"] == report["end_tokens_graded"]


def test_the_chat_about_the_town_is_kept_and_eval_has_the_same(learned_tools):
    run, _ = learned_tools
    chat = stored(run, "before.json")["chat"]
    person = next(fact.title for fact in town(trained=False) if fact.kind == "person")
    asked = [f"Who is {person}?", "And where does she live?", f"Who is {STRANGER}?"]
    assert [row["question"] for row in chat] == asked
    assert not any(STRANGER in fact.text for half in (True, False) for fact in town(trained=half))
    with short_replies(draws=(1,)):
        measured = succeeds("eval", run, "--json").document
    assert measured["chat"] == chat
    for name in ("tools", "sealed"):
        assert measured[name] == stored(run, "report.json")[name], name


def test_no_tools_trains_on_the_shipped_conversations_alone(by_default, workdir):
    workdir.write("plain.toml", toml(**SMALL_TOOL_USER))
    run, result = by_default.train("plain", "--config", "plain.toml", "--no-tools")
    assert result.code == 0, result.err
    assert not any(text in result.out for text in ("tools:", "the town", "Ask it:"))
    assert "tools" not in stored(run, "report.json") and stored(run, "before.json")["chat"] == []
    assert "<|search_start|>" not in stored(run, "vocabulary.json")["specials"]
    assert stored(run, "settings.json")["settings"]["data"]["transcripts"] == 0


def test_a_corpus_of_too_few_words_gives_no_transcripts_and_the_run_goes_on(by_default, workdir):
    workdir.write("plain.toml", toml(**SMALL_TOOL_USER))
    workdir.write("signs.txt", SHAKESPEARE * 40)
    flags = ("--config", "plain.toml", "--corpus", "signs.txt", "--json")
    plain, by_will = by_default.train("by-will", *flags, "--no-tools")
    run, result = by_default.train("by-need", *flags)
    assert result.code == by_will.code == 0
    [sentence] = [line for line in result.err.splitlines() if "learns no tools" in line]
    assert sentence.startswith("signs.txt: ") and ";" not in sentence
    assert "learns no tools" not in by_will.err and "tools" not in result.document
    for name in ("model.safetensors", "vocabulary.json", "template.json"):
        assert (run / "sft" / name).read_bytes() == (plain / "sft" / name).read_bytes(), name
    assert stored(run, "../run.json") == stored(plain, "../run.json")
    with interrupted_at_once():
        assert by_default.train("interrupted", *flags)[1].code == 130
    with short_replies(draws=(1,)):
        resumed = succeeds(
            "train", "--resume", "--out", by_default.folder / "interrupted", "--json"
        )
    assert "learns no tools" not in resumed.err
    assert resumed.document["weights_sha256"] == result.document["weights_sha256"]
    succeeds("chat", run, "-p", "Hi")


def test_transcripts_that_were_asked_for_are_not_left_out_for_want_of_words(workdir):
    config = workdir.write("tools.toml", toml(**SMALL_TOOL_USER, data={"transcripts": 30}))
    workdir.write("signs.txt", SHAKESPEARE * 40)
    command = ("train", "--config", config, "--corpus", "signs.txt")
    assert "so few words" in refusal(65, *command, "--data", "tools")
    assert workdir.is_unchanged()


@pytest.mark.parametrize("flags", [("--data", "tools"), ("--set", "data.transcripts=30")])
def test_no_tools_beside_a_wish_for_transcripts_is_refused(workdir, flags):
    assert "transcripts = " in refusal(2, "train", "--no-tools", *flags)
    assert workdir.is_unchanged()
