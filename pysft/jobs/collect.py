"""Collect comparisons: sample replies to prompts, and let somebody put them in an order.

stage = load_stage("runs/tiny")
sample_replies(stage, [[{"role": "user", "content": "Hi"}]], 4, seed=0)
[[("Ho.", True), ("Hm", False), ...]]"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pysft.console import command
from pysft.errors import DataError, MissingInput, RowError, UsageError
from pysft.inference.engine import SLOTS, Engine
from pysft.inference.sampling import Sampling
from pysft.inference.thoughts import visible_reply
from pysft.measure.evaluate import MAX_NEW, longest_reply
from pysft.measure.orders import rank_all
from pysft.measure.raters import is_endpoint, is_function, is_simulated, rater_named
from pysft.run.stage import Stage, load_stage
from pysft.run.taught import callable_tools
from pysft.text.characters import typed
from pysft.text.render import render_prompt
from pysft.text.sampled import LEAST, MOST, Sampled, is_usable, read_asked, write_sampled
from pysft.text.template import Template
from pysft.world.ask import Question, questions
from pysft.world.facts import SPLITS, World, WorldSettings, make

AT_ONCE = 8 * SLOTS  # replies between two lines of progress
WORLD = "world"  # the word that stands for a world's questions in place of a file of prompts
ASKED = tuple(split for split in SPLITS if split != "sealed")  # splits that may be sampled for


# ------------------------------------------------------------------------------------- the replies


def sample_replies(
    stage: Stage,
    prompts: list[list[dict]],
    k: int,
    seed: int,
    max_new: int | None = None,
    progress: Callable[[str, bool], None] = lambda text, last: None,
    first: int = 0,
) -> list[list[tuple[str, bool]]]:
    """Return k sampled replies to each prompt, as [(text without thoughts, did it end?)]. The text
    of a control token is its name. The arguments, and what the replies depend on: sample_ids()."""
    words_of = stage.tokenizer, stage.template
    return [
        [(visible_reply(ids, *words_of), ended) for ids, ended in replies]
        for replies in sample_ids(stage, prompts, k, seed, max_new, progress, first)
    ]


def sample_ids(
    stage: Stage,
    prompts: list[list[dict]],
    k: int,
    seed: int,
    max_new: int | None = None,
    progress: Callable[[str, bool], None] = lambda text, last: None,
    first: int = 0,
) -> list[list[tuple[list[int], bool]]]:
    """Return k sampled replies to each prompt, as [(ids, did it end?)].

    prompts: messages, which leave room for a reply in the context. k: 1 to MOST. max_new: the most
    tokens of a reply; None is longest_reply(). The replies are drawn at temperature 1 without cuts,
    so each has the probability that the model gives it. Each leaves room for its end in the
    context, because a reward model reads a reply with its end. The prompts are numbered from
    `first`. Reply j to prompt i depends on the seed, i, j, the prompt and the weights alone. A
    DataError if a prompt cannot be written or is too long."""
    if not 1 <= k <= MOST:
        raise UsageError(f"k = {k}: expected 1 to {MOST} replies to a prompt")
    if max_new is None:
        max_new = longest_reply(stage.tokenizer, stage.template)
    ids = [rendered(stage, prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
    end, sampling = stage.tokenizer.special[stage.template.end], Sampling(1.0, seed=seed)
    most = stage.model.config.context - 1  # tokens of a prompt and a reply without its end
    decoder = stage.model.decoder(max(1, min(SLOTS, k * len(ids))))
    found, each = [], max(1, AT_ONCE // k)
    for begin in range(0, len(ids), each):
        engine = Engine(stage.model, decoder=decoder)
        begun = [
            engine.add(
                (first + i) * MOST + j, ids[i], min(max_new, most - len(ids[i])), end, sampling
            )
            for i in range(begin, min(begin + each, len(ids)))
            for j in range(k)
        ]
        engine.run()
        found += [(s.written, s.ended == "end") for s in begun]
        progress(f"replies to {len(found) // k:,} of {len(ids):,} prompts", False)
    return [found[i : i + k] for i in range(0, len(found), k)]


def rendered(stage: Stage, prompt: list[dict], where: str) -> np.ndarray:
    """Return the ids of a prompt. A DataError if it cannot be written, or leaves no room for a
    reply."""
    try:
        ids = render_prompt(prompt, stage.tokenizer, stage.template, where)
    except RowError as error:
        remedy = error.remedy.partition(", or give --unknown")[0]
        raise DataError(f"{error.where}: {error.what}; {remedy}") from None
    context = stage.model.config.context
    if len(ids) >= context - 1:  # one token, and the end
        raise DataError(
            f"{where}: it takes {len(ids):,} tokens and leaves no room for a reply in a context of"
            f" {context:,}; shorten it, or leave it out"
        )
    return ids


def collect(
    run: str,
    ops,
    prompts: str,
    k: int,
    out: Path,
    seed: int = 0,
    max_new: int | None = None,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> dict:
    """Sample k replies to each prompt, write them to the file `out`, and return the --json
    document. prompts: a file, or "world" or "world:SPLIT" for questions of the run's world (without
    a split those of "reward").

    replies    the file
    prompts, k, seed   as they were
    cut_off    replies without an end
    unusable   replies that are empty or hold a control token
    distinct   different usable replies, counted for each prompt by itself"""
    if not LEAST <= k <= MOST:
        raise UsageError(f"-k {k}: expected {LEAST} to {MOST} replies to each prompt")
    if out.exists():
        raise UsageError(f"--out {out}: it exists already; choose another name, or remove it")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")
    stage = talking_stage(run, ops)
    asked = prompts_named(prompts, stage)
    messages = [messages for messages, _, _ in asked]
    if max_new is None:
        max_new = longest_reply(stage.tokenizer, stage.template, MAX_NEW)
    found = sample_replies(stage, messages, k, seed, max_new, progress)
    rows = [
        Sampled(prompt, *zip(*replies), source)
        for (prompt, source, _), replies in zip(asked, found)
    ]
    write_sampled(out, rows)
    return {
        "replies": str(out),
        "prompts": len(rows),
        "k": k,
        "seed": seed,
        "cut_off": sum(not end for row in rows for end in row.ended),
        "unusable": sum(not is_usable(text) for row in rows for text in row.replies),
        "distinct": sum(len(row.usable().replies) for row in rows),
    }


def talking_stage(run: str, ops=None, flag: str = "", remedy: str = "") -> Stage:
    """Load a stage that can answer. A UsageError if it is a base or a reward model.

    ops: as load_stage() takes them. flag: the one that named it, for the message. remedy: what to
    do about a base; "" for the command that tunes it."""
    stage = load_stage(run, ops)
    where = f"{flag} {run}: {stage.folder}" if flag else str(stage.folder)
    if not stage.model.config.has_nll:
        raise UsageError(
            f"{where}: this is a reward model, which writes nothing; name a stage that talks"
        )
    if not stage.can_talk:
        remedy = remedy or f"tune it: {command('train', '--base', stage.folder)}"
        raise UsageError(f"{where}: this is a base model, which cannot answer; {remedy}")
    return stage


def refuse_callers(stage: Stage) -> None:
    """Raise a UsageError for a model that may call tools, where nobody answers its calls."""
    if tools := callable_tools(stage):
        raise UsageError(
            f"{stage.folder}: it answers by calls of tools ({', '.join(sorted(tools))}), and here"
            " no tool runs, so each call would count as malformed; name a run that learned no calls"
            " (train --no-tools)"
        )


def prompts_named(
    name: str,
    stage: Stage,
    splits: tuple[str, ...] = ASKED,
    ask: Callable[[World, str], list[Question]] = questions,
) -> list[tuple[list[dict], str, str]]:
    """Return [(messages, source, where)] of the prompts that asked_by_name() gives, of the stage's
    world. Each prompt is as the vocabulary has it and leaves room for a reply, else it is a
    DataError."""
    asked = asked_by_name(name, stage.template, stage.world, str(stage.folder), splits, ask)
    asked = [(as_typed(messages, stage), source, where) for messages, source, where in asked]
    for messages, _, where in asked:
        rendered(stage, messages, where)
    return asked


def as_typed(messages: list[dict], stage: Stage) -> list[dict]:
    """Return messages with letters and accents as the vocabulary has them."""
    return [
        {**m, "content": typed(m["content"], stage.tokenizer)}
        if isinstance(m["content"], str)
        else m
        for m in messages
    ]


def asked_by_name(
    name: str,
    template: Template,
    world: WorldSettings | None,
    run: str,
    splits: tuple[str, ...] = ASKED,
    ask: Callable[[World, str], list[Question]] = questions,
) -> list[tuple[list[dict], str, str]]:
    """Return [(messages, source, where)] of the prompts in a file, as read_asked() reads it, or for
    "world" and "world:SPLIT" of the questions of a world, as ask(world, split) gives them.

    world: that of a run, None if it learned none. run: how a message calls that run. splits: those
    that may be asked. A UsageError if there is no such split, or no world."""
    first, colon, split = name.partition(":")
    if first != WORLD:
        return read_asked(name, template)
    if colon and split not in splits:
        known = ", ".join(f"{WORLD}:{split}" for split in splits)
        sealed = "; the sealed questions are for reports alone" if split == "sealed" else ""
        raise UsageError(f"{name}: expected {known}{sealed}")
    if world is None:
        raise UsageError(
            f"{name}: {run} learned no invented world; name a file of prompts (./{WORLD} is a file"
            " of that name)"
        )
    asked = ask(make(world), split or "reward")
    return [
        ([{"role": "user", "content": q.prompt}], f"{WORLD}:{q.split}", repr(q.prompt))
        for q in asked
    ]


# ------------------------------------------------------------------------------------ their orders


def rank(
    sampled: list[Sampled],
    out: Path,
    by: str,
    run: str | None = None,
    ops=None,
    seed: int = 0,
    model: str | None = None,
    budget: int | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> dict:
    """Let the Rater `by` (rater_named()) rank sampled replies, and return the --json document of
    rank_all(). by: also the folder of a reward model. run: the run whose world is asked about."""
    if run is not None and not is_simulated(by):
        raise UsageError("--run names the world for --by world and --by labelers; leave it out")
    world = None if run is None else load_stage(run, ops).world
    if run is not None and world is None:
        raise UsageError(f"--run {run}: it learned no invented world (train --data world)")
    score = None
    if not (is_endpoint(by) or is_simulated(by) or is_function(by)):
        score = _reward_model(by, ops)
    rater = rater_named(by, world, score, seed, model, budget, cache, say)
    return rank_all(sampled, out, rater, progress)


def _reward_model(folder: str, ops) -> Callable:
    """Return score(prompts, replies) of a reward model."""
    if not Path(folder).exists():
        raise MissingInput(
            f"--by {folder}: no such folder; name a reward model's, or world, labelers,"
            " FILE.py:function, or the URL of an endpoint"
        )
    stage = load_stage(folder, ops)
    if not stage.model.config.has_value:
        raise UsageError(
            f"--by {folder}: {stage.folder} is no reward model; name the stage of one, such as"
            " RUN/reward"
        )
    from pysft.inference.score import scores

    def score(prompts, replies):
        try:
            return scores(stage, prompts, replies)
        except RowError as error:
            asked = prompts[0][-1]["content"]
            raise DataError(
                f"--by {folder}: it cannot read a reply to {asked[:40]!r}: {error.what}; leave the"
                " row out, or let somebody else rate the file"
            ) from None

    return score
