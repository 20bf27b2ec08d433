"""Nothing outside of pysft/text takes a character for a token: everything works on a tokenizer
whose tokens are pairs of characters, and whose special tokens have any ids (pair_tokenizer.py)."""

import json
import math
import os
import re
import signal

import numpy as np
import pytest
from command_line import CONVERSATIONS, TrainedRun, conversation, lines, pysft, refusal, succeeds
from hypothesis import given
from hypothesis import strategies as st
from pair_tokenizer import PairTokenizer
from texts import say, shown, steady

from pysft import IGNORE
from pysft.errors import DataError, UsageError
from pysft.inference.generate import Reply
from pysft.inference.session import ROOM, Session
from pysft.inference.tool_calls import SPARE, answer_calls, content_parts
from pysft.inference.tools import Tool, fitted
from pysft.jobs.compare import compared
from pysft.measure.evaluate import checks, corpus_loss
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.run.stage import load_stage
from pysft.text.characters import replaced, write_with
from pysft.text.conversation import Conversation
from pysft.text.corpora import read_corpus
from pysft.text.examples import encode_conversation, shift
from pysft.text.render import graded_targets, render, render_prompt
from pysft.text.templates import CHAT, CHATML, TEMPLATES
from pysft.text.tokenizer import CharTokenizer
from pysft.text.tokenizers import TOKENIZERS, vocabulary_from_json, vocabulary_to_json
from pysft.text.view import names
from pysft.training import runner
from pysft.training.settings import Data

pytestmark = pytest.mark.usefixtures("few_prompts", "few_tokens")

CORPUS = read_corpus("plays")[:12000] + "Human: Assistant"  # the words of every template
BASE = PairTokenizer.of(CORPUS)
CHARACTERS = CharTokenizer.of(CORPUS)
CALL = [
    {"type": "search", "text": "the king"},
    {"type": "result", "text": "The king is here."},
    {"type": "text", "text": "He is here."},
]
TALKS = [*CONVERSATIONS[:-1], ("Find the king", CALL)]


def grown(template, tokenizer=BASE):
    return tokenizer.grow(template.tokens + template.tool_tokens)


T = grown(CHAT)


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TOKENIZERS, PairTokenizer.kind, PairTokenizer)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory, without_figures, known):
    """A small run, one of whose conversations calls a tool."""
    folder = tmp_path_factory.mktemp("pairs")
    return TrainedRun(folder, TALKS, data={"tokenizer": "pairs"}, sft={"checkpoint_every": "5"})


# ----------------------------------------------------------------------------------- the tokenizer


def test_the_second_tokenizer_is_unlike_the_first_in_all_that_the_interface_leaves_open():
    assert len(BASE.encode("the ")) < 4 and BASE.unit == "byte"
    split = [*BASE.encode("t"), *BASE.encode("h")]
    assert BASE.encode("th").tolist() != split and BASE.decode(split) == "th"
    first, *_, last = sorted(T.special.values())
    assert first == 0 and last == len(T) - 1 > max(T.ids.values()) > BASE.special["<|unused|>"]


@steady
@given(st.lists(st.text("the king.\n", max_size=9), max_size=5))
def test_both_tokenizers_keep_the_interface(texts):
    text = "".join(texts)
    for tokenizer in (T, grown(CHAT, CHARACTERS)):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and tokenizer.decode(ids) == text
        assert not tokenizer.is_special(ids).any() and tokenizer.count_units(ids) == len(text)
        pieces, lengths = tokenizer.encode_pieces(texts)
        assert lengths == [len(tokenizer.encode(piece)) for piece in texts]
        assert pieces.tolist() == [i for piece in texts for i in tokenizer.encode(piece)]
        more = tokenizer.grow(["<|end|>", "<|more|>"])
        assert more.special == {**tokenizer.special, "<|more|>": len(tokenizer)}
        assert more.encode(text).tolist() == ids.tolist() and len(more) == len(tokenizer) + 1
        assert all(tokenizer.is_special(i) for i in tokenizer.special.values())
        stored = json.loads(json.dumps(vocabulary_to_json(tokenizer)))
        assert vocabulary_from_json(stored) == tokenizer != more
        assert tokenizer.can_write(text) and not tokenizer.can_write(text + "\u00e9")
        assert tokenizer.unknown(text + "\u00e9") == [(len(text), "\u00e9")]


def test_the_setting_names_a_tokenizer_of_the_table():
    assert Data().tokenizer == "characters" and Data(tokenizer="pairs").tokenizer == "pairs"
    with pytest.raises(UsageError, match="tokenizer = 'words' is not one of characters, pairs"):
        Data(tokenizer="words")


def test_a_vocabulary_without_a_kind_is_one_of_characters_and_an_unknown_kind_is_refused():
    assert vocabulary_from_json(CHARACTERS.to_json()) == CHARACTERS
    with pytest.raises(UsageError, match="'other'; this version knows characters, pairs"):
        vocabulary_from_json({"kind": "other"})


# ----------------------------------------------------------------------------------------- the mask

words = st.text("the king.\n", min_size=1, max_size=12).filter(str.strip)
parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "search", "code", "result"]), "text": words}
    ),
    min_size=1,
    max_size=4,
).filter(lambda parts: any(p["type"] != "result" for p in parts))


@steady
@given(
    st.sampled_from(list(TEMPLATES.values())),
    st.lists(st.tuples(words, words | parts), min_size=1, max_size=4),
)
def test_the_mask_is_that_of_characters_and_no_token_spans_two_pieces(template, exchanges):
    """The drawing of a conversation, with brackets around what is graded, is the same as with a
    token for each character."""
    tokenizer, characters = grown(template), grown(template, CHARACTERS)
    talk = say(*(content for exchange in exchanges for content in exchange))
    tokens, trained = render(talk, tokenizer, template)
    drawn = shown(tokens, trained, tokenizer)
    assert drawn == shown(*render(talk, characters, template), characters)
    _, labels = shift(tokens, trained)
    assert (labels != IGNORE).sum() == graded_targets(talk, template, tokenizer)
    for turn in range(0, len(talk), 2):
        prompt = render_prompt(talk[: turn + 1], tokenizer, template)
        assert prompt.tolist() == tokens[: len(prompt)].tolist()


@steady
@given(st.sampled_from([CHAT, CHATML]), st.lists(words, min_size=2, max_size=6))
def test_the_ids_between_two_special_tokens_are_those_of_one_text(template, texts):
    tokenizer, texts = grown(template), texts[: len(texts) // 2 * 2]
    tokens, _ = render(say(*texts), tokenizer, template)
    stretches = np.split(tokens, np.flatnonzero(tokenizer.is_special(tokens)))
    found = [s[tokenizer.is_special(s).sum() :].tolist() for s in stretches]
    roles = [("user", "assistant")[i % 2] for i in range(len(texts))]
    expected = texts if template is CHAT else [t for pair in zip(roles, texts) for t in pair]
    assert [ids for ids in found if ids] == [tokenizer.encode(t).tolist() for t in expected]


def test_a_text_of_one_token_leaves_nothing_to_grade():
    talk = [{"role": "text", "content": "th"}]
    assert graded_targets(talk, CHAT, T) == len(T.encode("th")) - 1 == 0
    with pytest.raises(DataError, match="no token of it would be graded"):
        encode_conversation(Conversation(talk, "x.jsonl", 1), T, 64)


def test_a_token_of_two_characters_is_shown_on_one_line():
    assert any("\n" in symbol for symbol in T.ids if len(symbol) == 2)
    shown_as = dict(zip(T.symbols, names(range(len(T)), T)))
    assert all("\n" not in name for name in shown_as.values())
    assert shown_as[".\n"] == ".\\n" and shown_as["<|eot|>"] == "<|eot|>"


# ------------------------------------------------------------------------------- units and figures


def test_the_loss_on_base_text_is_per_byte():
    model = GPT(GPTConfig(len(BASE), 16, 1, 2, 16), dtype=np.float64)  # all logits are equal
    text = CORPUS[:500]
    targets = BASE.encode(text)[1:]
    expected = math.log(len(BASE)) * len(targets) / len(BASE.decode(targets).encode())
    assert corpus_loss(model, BASE, text) == pytest.approx(expected, rel=1e-13)


def test_a_special_token_of_the_base_in_a_reply_is_a_stray_one():
    for name in T.special:
        ids = np.array([*T.encode("The king."), T.special[name]], np.int32)
        is_clean = name in CHAT.tool_tokens
        assert checks(Reply(ids, "end"), T, CHAT) == (True, True, is_clean)
        assert not checks(Reply(ids[-1:], "end"), T, CHAT)[0]


# ------------------------------------------------------------------------------------ tools, a chat


@pytest.mark.parametrize("room", range(-1, 30))
def test_a_result_takes_the_most_whole_words_whose_tokens_fit(room):
    said = "the king is in the hall of stone"
    ids = fitted(said, room, T)
    kept = T.decode(ids).split()
    n = len(kept)
    assert kept == said.split()[:n] and len(ids) <= max(room, 0)
    assert n == 8 or len(T.encode(" ".join(said.split()[: n + 1]))) > room


@pytest.mark.parametrize("room", [16, 40, 90])
def test_a_result_is_injected_within_half_of_the_tokens_that_are_left(room):
    inject = answer_calls(T, CHAT, {"search": Tool("search", lambda call: f"{call} " * 99)})
    call = [T.special["<|search_start|>"], *T.encode("the king"), T.special["<|search_end|>"]]
    opener, *result, closer = inject(call, room)
    assert (opener, closer) == (T.special["<|result_start|>"], T.special["<|result_end|>"])
    space = (room - 2 - SPARE) // 2
    assert space - 4 < len(result) <= space and T.decode(result).startswith("the")
    assert content_parts([*call, opener, *result, closer], T, CHAT) == [
        {"type": "search", "text": "the king"},
        {"type": "result", "text": T.decode(result)},
    ]


def test_a_stray_special_token_is_left_out_of_the_parts_of_a_reply():
    reply = [*T.encode("the "), T.special["<|eot|>"], *T.encode("king"), T.special["<|bos|>"]]
    assert content_parts(reply, T, CHAT) == [{"type": "text", "text": "the king"}]


def test_history_makes_room_by_tokens(home):
    stage = load_stage(home.run)
    chat = Session(stage.model, stage.tokenizer, stage.template, max_new=40)
    context, message, dropped = stage.model.config.context, "the king is there", 0
    for _ in range(4):
        turn = {"role": "user", "content": message}
        rendered = [
            len(render_prompt([*chat.messages[n:], turn], stage.tokenizer, stage.template))
            for n in range(0, len(chat.messages) + 1, 2)
        ]
        ids, expected = chat.prompt(message)
        assert [n + ROOM <= context for n in rendered].index(True) == expected
        assert len(ids) == rendered[expected]
        dropped += chat.say(message)[2]
    assert dropped > 0
    excess = len(stage.tokenizer.encode("th" * 40)) + 3 + ROOM - context
    with pytest.raises(DataError, match=f"shorten the prompt by {excess} tokens$"):
        chat.prompt("th" * 40)


# ----------------------------------------------------------------------------- the characters of it


def test_a_tokenizer_that_takes_no_characters_replaces_them_and_refuses_to_grow():
    assert replaced("the \u201cking\u201d \u00e9", BASE) == "the 'king' e"
    talk = [Conversation(say("the king", "\u00e9"), "x.jsonl", 1)]
    assert write_with(talk, BASE, CHAT, "replace").changed == {("\u00e9", "e"): 1}
    same = [Conversation(say("the king", "he"), "x.jsonl", 1)]
    assert write_with(same, BASE, CHAT, "grow").tokenizer is BASE
    with pytest.raises(UsageError, match="is of pairs, which take no new .* --unknown replace"):
        write_with(talk, BASE, CHAT, "grow")


def test_training_on_unknown_characters_is_refused_replaced_but_never_grows(home, workdir):
    data = workdir.write("e.jsonl", lines([conversation("Sing", "\u00e9t\u00e9")] * 3))
    command = home.fine_tuning(data, "--sft-tokens", "400", "--sft-steps", "2")
    assert "no token for" in refusal(65, *command, "--out", "a")
    assert "pairs, which take no new" in refusal(2, *command, "--unknown", "grow", "--out", "a")
    report = succeeds(*command, "--unknown", "replace", "--out", "a").document
    assert report["grown_base_loss"] > 0


# ----------------------------------------------------------------------------------- the whole job


def test_a_run_keeps_its_tokenizer_and_says_its_unit(home):
    for name, tokens in (("base", ()), ("sft", CHAT.tokens + CHAT.tokens_for({"result"}))):
        stored = json.loads((home.run / name / "vocabulary.json").read_text())
        base = PairTokenizer.of(home.corpus.read_text()[:12000])
        assert stored["kind"] == "pairs" and vocabulary_from_json(stored) == base.grow(tokens)
    assert home.report["base_loss_unit"] == "byte"
    assert re.search(r"base: \d\.\d+ nats/byte on the held-out tail", home.result.err)
    assert "loss on base text, nats per byte" in (home.run / "report.html").read_text()
    assert succeeds("report", home.run).code == 0


def test_the_graded_targets_of_a_run_are_the_tokens_of_its_replies(home):
    tokenizer = load_stage(home.run).tokenizer
    held = json.loads((home.run / "sft" / "evaluation.json").read_text())["heldout"]
    asked = {messages[0]["content"] for messages in held}

    def targets(content):
        if isinstance(content, str):
            return len(tokenizer.encode(content)) + 1
        search, _, text = (len(tokenizer.encode(part["text"])) for part in content)
        return search + 2 + text + 1

    replies = [reply for talk in TALKS if talk[0] not in asked for reply in talk[1::2]]
    assert home.report["graded_targets"] == sum(map(targets, replies))
    assert any(isinstance(reply, list) for reply in replies)


def test_a_run_is_measured_again_to_the_same_figures(home):
    report = succeeds("eval", home.run, "--matched", "--json").document
    for name in ("base_loss", "tuned_base_loss", "heldout_loss", "recall", "base_loss_unit"):
        assert report[name] == home.report[name]
    assert report["matched_base_loss"] > 0
    assert "base text, nats/byte" in succeeds("eval", home.run).out
    base = succeeds("eval", home.run / "base", "--json").document
    assert (base["base_loss"], base["base_loss_unit"]) == (home.report["base_loss"], "byte")
    assert "base text, nats/byte" in succeeds("eval", home.run / "base").out


def test_the_comparison_with_a_base_leaves_out_prompts_whose_tokens_do_not_fit(home):
    base = load_stage(home.run / "base")
    room = base.model.config.context - 1
    assert len(base.tokenizer.encode("th" * room)) == room
    prompts = ["th" * room, "th" * room + "t", "\u00e9", ""]
    replies = {"pairs": [(p, "Aye.", "end") for p in prompts], "prompts": []}
    rows = compared(base, load_stage(home.run), replies).rows
    assert [row[0] for row in rows] == prompts[:1]


def test_a_base_with_special_tokens_is_still_a_base(home, workdir):
    base = home.run / "base"
    assert "this is a base model" in refusal(2, "chat", base, "-p", "Sing")
    assert "a base model, which knows no" in refusal(2, "mask", "--run", base)
    assert succeeds("audit", home.data, "--run", base, "--json").document["errors"] == 0
    alone = succeeds("pretrain", *home.text, "--out", "alone", "--json").document
    assert (alone["base_loss"], alone["base_loss_unit"]) == (home.report["base_loss"], "byte")
    tuned = ["train", *home.text, "--base", "alone", "--data", home.data, "--out", "b", "--json"]
    assert succeeds(*tuned).document["weights_sha256"] == home.report["weights_sha256"]
    record = json.loads((workdir.path / "b" / "run.json").read_text())
    assert record["settings"]["data"]["tokenizer"] == "pairs"


def test_a_base_keeps_its_tokenizer_whatever_the_settings_say(home, workdir):
    workdir.write("c.toml", '[sft]\nsteps = 2\nwindows = []\ncheckpoint_every = "never"\n')
    flags = ["--config", "c.toml", "--base", home.run, "--data", home.data, "--out", "r"]
    succeeds("train", *flags, "--corpus", home.corpus)
    assert load_stage("r").tokenizer == load_stage(home.run).tokenizer
    record = json.loads((workdir.path / "r" / "run.json").read_text())
    assert record["settings"]["data"]["tokenizer"] == "pairs"


def test_chat_generate_select_and_diagnose_take_the_run(home):
    answer = succeeds("chat", home.run, "-p", "Sing of the king", "--json").document
    assert answer["tokens"] > 0 and answer["prompt"] == "Sing of the king"
    steps = succeeds("chat", home.run, "-p", "Sing", "--show-tokens").out
    assert "<|user|>Sing<|end|><|assistant|>" in steps and re.search(r" '\w\w' ", steps)
    more = succeeds("generate", home.run, "-p", "the king", "--tokens", "9", "--json").document
    assert more["tokens"] <= 9 and more["prompt"] == "the king"
    assert len(succeeds("select", home.run, "--json").document["rows"]) == 3
    assert pysft("diagnose", home.run, "--json").code in (0, 1)


@pytest.mark.parametrize("template", ["chat", "chatml"])
def test_the_mask_of_a_run_is_proved_and_its_formula_counts_tokens(home, workdir, template):
    flags = ["--user", "Sing of the king", "--assistant", "The king is there."]
    run = home.run
    if template == "chatml":
        tuned = ["train", *home.text, "--base", run / "base", "--template", template]
        tuned += ["--data", home.data, "--sft-steps", "2", "--sft-tokens", "400", "--out", "ml"]
        run = "ml" if succeeds(*tuned).code == 0 else None
    document = succeeds("mask", *flags, "--run", run, "--prove", "--json").document
    reply = load_stage(run).tokenizer.encode("The king is there.")
    assert document["proved"] and document["graded"] == len(reply) + 1 < len("The king is there.")
    assert document["proof"]["formula"] == document["graded"]
    assert document["text"].endswith("The king is there." + TEMPLATES[template].end)
    assert "graded" in succeeds("mask", *flags, "--run", run).out


def test_the_audit_counts_tokens_where_it_compares_with_tokens(home, workdir):
    tokenizer = load_stage(home.run).tokenizer
    reply = "the " * 19 + "king."
    tokens = len(tokenizer.encode(reply))
    assert tokens < len(reply) - 10
    data = workdir.write("a.jsonl", lines([conversation("Sing", reply)]))

    def kinds(most):
        flags = ["--run", home.run, "--tokens", most, "--json"]
        return {f["kind"] for f in pysft("audit", data, *flags).document["findings"]}

    assert "long reply" in kinds(tokens) and "long reply" not in kinds(tokens + 1)
    report = pysft("audit", data, "--run", home.run, "--json").document
    assert report["reply_length"]["max"] == len(reply)  # characters
    assert report["tokens"]["max"] == len(tokenizer.encode("Sing")) + tokens + 4 - 1
    assert report["graded_targets"] == tokens + 1


@pytest.mark.parametrize("flags", [[], ["--lora", "2"]])
def test_an_interrupted_run_is_resumed_to_the_same_weights(home, workdir, monkeypatch, flags):
    adam_step, taken = runner.AdamW.step, []

    def step(*arguments, **options):
        norm = adam_step(*arguments, **options)
        taken.append(1)
        if len(taken) == 12:  # in the middle of fine-tuning
            os.kill(os.getpid(), signal.SIGINT)
        return norm

    with monkeypatch.context() as patch:
        patch.setattr(runner.AdamW, "step", step)
        assert pysft("train", *home.inputs, *flags, "--out", "run").code == 130
    resumed = succeeds("train", "--resume", "--out", "run", "--json").document
    whole = home.report
    if flags:
        whole = succeeds("train", *home.inputs, *flags, "--out", "whole", "--json").document
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_adapters_are_merged_to_the_weights_of_their_training(home, workdir):
    tuned = ["train", *home.text, "--base", home.run, "--data", home.data, "--lora", "2", "--json"]
    report = succeeds(*tuned, "--out", "lora").document
    flags = ["lora/sft/adapter.safetensors", "--base", home.run, "--out", "merged", "--json"]
    assert succeeds("merge", *flags).document["weights_sha256"] == report["weights_sha256"]
    assert load_stage("merged").tokenizer == load_stage(home.run).tokenizer
