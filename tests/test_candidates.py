"""The best of n replies of a model: how they are drawn, which is chosen, and the chat with it."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import CONVERSATIONS, lines, refusal, succeeds, toml
from test_chat import T, ids, scripted
from test_repl import talk
from texts import one_line

from pysft.errors import DataError, UsageError
from pysft.inference import candidates
from pysft.inference.best import kl_bound
from pysft.inference.candidates import best_reply, drawn, refuse_other_words
from pysft.inference.generate import Reply, generate
from pysft.inference.sampling import Sampling
from pysft.inference.session import Session
from pysft.inference.tools import Tool
from pysft.run.stage import load_stage
from pysft.text.render import render_prompt
from pysft.text.templates import CHAT
from pysft.text.tokenizers import vocabulary_from_json

ASKED = [{"role": "user", "content": "Who?"}]


@pytest.fixture(scope="module")
def rewarded(trained):
    """The folder of a run whose one stage is a reward model."""
    rows = [
        {"prompt": user, "chosen": f"The {user.split()[-1]} is fair.", "rejected": "It is foul."}
        for user, *_ in CONVERSATIONS
    ]
    (trained.folder / "pairs.jsonl").write_text(lines(rows))
    out = trained.folder / "rewarded"
    command = ["reward", trained.run, "--data", trained.folder / "pairs.jsonl"]
    succeeds(*command, "--set", "reward.rankings=4", "--out", out)
    return out


# ------------------------------------------------------------------------------- which is chosen


def reply(text, stop="end"):
    return Reply(np.array(ids(text), np.int32), stop)


@pytest.fixture
def chosen_of(monkeypatch):
    """A function that returns the Best of these replies. The score of a reply is its length."""

    def chosen_of(*replies, score=len):
        monkeypatch.setattr(candidates, "drawn", lambda *arguments: list(replies))
        monkeypatch.setattr(
            candidates, "scores", lambda reward, prompts, texts: np.array([*map(score, texts)])
        )
        return best_reply(None, T, CHAT, None, ASKED, len(replies), 0, 9)

    return chosen_of


def test_the_reply_with_the_highest_score_is_chosen_the_first_of_equal_ones(chosen_of):
    best = chosen_of(reply("Aye"), reply("Aye, sir"), reply("Nay, sir"))
    assert best.chosen == 1 and best.reply is best.replies[1]
    assert best.scores == [3, 8, 8] and best.sound == [True] * 3


@pytest.mark.parametrize(
    "worse, score",
    [
        (reply("a long one that was cut off", "length"), 27),
        (Reply(np.array(ids("a call: ", "<|search_start|>", "x"), np.int32), "end"), None),
        (reply("a call, which has no result", "tool"), 27),
        (reply(" "), None),
        (reply(""), None),
    ],
)
def test_a_reply_that_is_no_whole_text_comes_after_all_others(chosen_of, worse, score):
    for replies in ((worse, reply("Aye")), (reply("Aye"), worse)):
        best = chosen_of(*replies)
        assert best.reply is not worse and best.scores[1 - best.chosen] == score


def test_without_a_sound_reply_the_best_that_was_cut_off_is_chosen_and_the_line_says_so(chosen_of):
    best = chosen_of(reply("", "end"), reply("a", "length"), reply("abc", "length"))
    assert best.chosen == 2 and "none came to its end" in best.line()
    best = chosen_of(reply(""), reply(" "))
    assert best.chosen == 0 and "no score, because each is empty" in best.line()


def test_the_line_and_the_document_have_the_score_and_the_bound(chosen_of):
    best = chosen_of(reply("Aye"), reply("Aye, sir"), score=lambda text: len(text) / 4)
    shown = "best of 2: score 2.00, all from 0.75 to 2.00; at most ln n - (n-1)/n = 0.19 nats"
    assert best.line().startswith(shown)
    document = {"best_of": 2, "scores": [0.75, 2.0], "chosen": 1, "kl_bound": math.log(2) - 0.5}
    assert json.loads(json.dumps(best.to_json())) == document


# ------------------------------------------------------------------------------- how they are drawn


def test_replies_are_drawn_at_temperature_1_without_cuts_and_the_first_do_not_depend_on_n(trained):
    stage = load_stage(trained.run)
    talker = stage.model, stage.tokenizer, stage.template
    prompt = render_prompt(ASKED, stage.tokenizer, stage.template)
    found = drawn(*talker, prompt, 5, 3, 9)
    end = stage.tokenizer.special[stage.template.end]
    plain = generate(stage.model, [prompt] * 5, 9, end, Sampling(1.0, seed=3))
    assert [r.ids.tolist() for r in found] == [r.ids.tolist() for r in plain]
    fewer = drawn(*talker, prompt, 2, 3, 9, stage.model.decoder(1))
    assert [r.ids.tolist() for r in fewer] == [r.ids.tolist() for r in found[:2]]
    other = drawn(*talker, prompt, 5, 4, 9)
    assert [r.ids.tolist() for r in other] != [r.ids.tolist() for r in found]


def test_a_reply_leaves_room_for_its_end_in_the_context(trained):
    stage = load_stage(trained.run)
    prompt = render_prompt(ASKED, stage.tokenizer, stage.template)
    found = drawn(stage.model, stage.tokenizer, stage.template, prompt, 20, 0, 999)
    longest = max(len(r.ids) for r in found)
    assert len(prompt) + longest + 1 == stage.model.config.context


def test_a_call_of_a_tool_ends_a_reply():
    model = scripted("Let me see. ", "<|search_start|>", "x", "<|search_end|>", "Aye.")
    [found] = drawn(model, T, CHAT, render_prompt(ASKED, T, CHAT), 1, 0, 99)
    assert found.stop == "tool" and found.ids[-1] == T.special["<|search_end|>"]


def test_fewer_than_one_reply_is_refused():
    with pytest.raises(UsageError, match="best of 0: n must be 1 or more"):
        drawn(None, T, CHAT, np.array([1]), 0, 0, 9)


# ----------------------------------------------------------------------------------------- the chat


@pytest.fixture
def chat(trained, rewarded):
    """A function that makes a chat with the trained run that answers with the best of n."""
    stage, reward = load_stage(trained.run), load_stage(rewarded / "reward")

    def chat(n, seed=0, max_new=8, **more):
        talker = stage.model, stage.tokenizer, stage.template, Sampling(seed=seed)
        return Session(*talker, max_new, best_of=n, reward=reward, **more)

    return chat


def test_a_chat_answers_with_the_best_and_goes_on_from_it(chat):
    session = chat(6)
    text, reply, dropped = session.say("Hi")
    assert reply is session.best.reply and len(session.best.replies) == 6 and dropped == 0
    assert [m["role"] for m in session.messages] == ["user", "assistant"]
    first, (ids, _) = session.best, session.prompt("Go")
    session.say("Go")
    again = chat(6)
    again.say("Hi")
    assert again.best.scores == first.scores  # the same seed, the same replies
    style = session.tokenizer, session.template
    expected = drawn(session.model, *style, ids, 6, 0, 8)
    assert [r.ids.tolist() for r in session.best.replies] == [r.ids.tolist() for r in expected]
    assert chat(6, seed=1).say("Hi")[1].ids.tolist() != reply.ids.tolist()


def test_more_replies_never_have_a_lower_score(chat):
    best = []
    for n in (1, 2, 8, 30):
        session = chat(n, max_new=40)
        session.say("Praise the king")
        found = session.best
        best.append((found.sound[found.chosen], found.scores[found.chosen]))
    assert best == sorted(best)


def test_old_exchanges_are_dropped_and_a_full_context_is_refused_with_room_for_an_end(chat):
    session = chat(2)
    for _ in range(4):
        session.say("x" * 20)
    assert session.dropped == 1 and len(session.messages) in (2, 4)
    room = session.model.config.context - len(chat(0).prompt("")[0]) - 8
    for n in (0, 2):
        lone = chat(n)
        longest = room - bool(n)  # the end of the reply is read too
        assert lone.prompt("x" * longest)[1] == 0
        with pytest.raises(DataError, match="shorten the prompt by 1 token"):
            lone.prompt("x" * (longest + 1))


def test_a_chat_shows_the_best_reply_with_its_figures_and_no_tokens(chat, capsys):
    session = chat(3)
    shown = talk(session, "Hi", "/tokens")
    text = session.tokenizer.decode(session.best.reply.ids)
    assert shown.startswith(f"bot> {text}") and f"({session.best.line()})\n" in shown
    assert "the next replies show" not in shown
    assert "/tokens shows one reply as it is written" in capsys.readouterr().err


def test_a_model_that_calls_tools_is_refused(chat):
    with pytest.raises(UsageError) as error:
        chat(2, tools={"search": Tool("search", str)})
    assert "add --no-tools" in one_line(error)


def test_the_command_prints_the_reply_and_beside_it_the_figures(trained, rewarded):
    command = ("chat", trained.run, "-p", "Hi", "--best-of", 4, "--reward", rewarded, "--seed", 2)
    document = succeeds(*command, "--json").document
    assert document["best_of"] == 4 and len(document["scores"]) == 4
    assert document["kl_bound"] == kl_bound(4)
    best = document["scores"][document["chosen"]]
    plain = succeeds(*command)
    assert plain.out == document["reply"] + "\n"
    assert f"pysft: best of 4: score {best:.2f}" in plain.err if best is not None else True
    assert succeeds(*command, "--temperature", 1, "--repetition", 1).out == plain.out
    assert "best_of" not in succeeds("chat", trained.run, "-p", "Hi", "--json").document


def test_without_reward_the_run_s_own_reward_model_scores(trained, workdir):
    pairs = [
        {"prompt": user, "chosen": "It is fair.", "rejected": "It is foul."}
        for user, *_ in CONVERSATIONS
    ]
    workdir.write("pairs.jsonl", pairs)
    short = ["--set", "reward.rankings=4", "dpo.steps=1", "dpo.warmup=0", "dpo.windows=[]"]
    command = ["train", "--base", trained.run / "sft", "--stages", "reward,dpo"]
    succeeds(*command, "--rankings", "pairs.jsonl", *short, "--out", "both")
    for stage in ("both", "both/dpo"):
        document = succeeds("chat", stage, "-p", "Hi", "--best-of", 2, "--json").document
        assert document["best_of"] == 2


@pytest.mark.parametrize(
    "flags, code, says",
    [
        (("--best-of", 0), 2, "--best-of: '0' is not a whole number above 0"),
        (("--best-of", -1), 2, "--best-of"),
        (("--best-of", 2), 66, "no reward model in it to score replies by; name the run"),
        (("--best-of", 2, "--reward", "RUN"), 66, "no reward model in it"),
        (("--best-of", 2, "--reward", "nowhere"), 66, "nowhere: no such run folder"),
        (("--reward", "RM"), 2, "--reward scores the replies of --best-of N; give that too"),
        (
            ("--best-of", 2, "--reward", "RM", "--temperature", 0),
            2,
            "without cuts or penalties",
        ),
        (("--best-of", 2, "--reward", "RM", "--top-k", 5), 2, "without cuts or penalties"),
        (("--best-of", 2, "--reward", "RM", "--repetition", 2), 2, "without cuts or penalties"),
        (("--best-of", 2, "--reward", "RM", "--show-tokens"), 2, "--show-tokens shows one reply"),
        (("--best-of", 2, "--reward", "RM", "-p", "x" * 60), 65, "shorten the prompt"),
    ],
)
def test_what_best_of_n_cannot_do_is_one_sentence(trained, rewarded, workdir, flags, code, says):
    named = {"RUN": trained.run, "RM": rewarded}
    line = refusal(code, "chat", trained.run, "-p", "Hi", *(named.get(f, f) for f in flags))
    assert says in line
    assert workdir.is_unchanged()


def other(stage, **changes):
    """A stage with some of its parts changed."""
    parts = {name: getattr(stage, name) for name in ("folder", "model", "tokenizer", "template")}
    return SimpleNamespace(**parts | changes)


def test_a_reward_model_of_other_words_is_refused(trained, rewarded):
    stage, reward = load_stage(trained.run), load_stage(rewarded / "reward")
    refuse_other_words(reward, stage)
    letters = vocabulary_from_json({"kind": "characters", **stage.tokenizer.to_json()})
    refuse_other_words(other(reward, tokenizer=letters), stage)
    longer = SimpleNamespace(config=SimpleNamespace(context=65))
    for changed, word in (
        (other(stage, tokenizer=letters.grow(["<|more|>"])), "another vocabulary"),
        (other(stage, template=SimpleNamespace(to_json=dict)), "another template"),
        (other(stage, model=longer), "holds 64 tokens, and that of"),
    ):
        with pytest.raises(UsageError) as error:
            refuse_other_words(reward, changed)
        assert word in one_line(error) and str(trained.run / "sft") in str(error.value)


def test_the_commands_refuse_a_reward_model_of_another_vocabulary(trained, rewarded, workdir):
    workdir.write("d.jsonl", [json.dumps({"prompt": "Hi", "completion": "Ho."})] * 3)
    (workdir.path / "small.toml").write_text(toml())
    (workdir.path / "c.txt").write_text("Every rose is red, and no bird sings here. " * 200)
    text = ["--config", "small.toml", "--corpus", "c.txt", "--data", "d.jsonl"]
    succeeds("train", *text, "--unknown", "grow", "--out", "narrow")
    workdir.remember()
    best = ("--best-of", 2, "--reward", rewarded)
    assert "another vocabulary" in refusal(2, "chat", "narrow", "-p", "Hi", *best)
    assert workdir.is_unchanged()
