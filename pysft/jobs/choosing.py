"""Choose a checkpoint by a reward model: what it makes of fresh replies of each checkpoint, beside
the exact judge, held-out loss and a person's marks.

The replies are fresh, and the same number of each checkpoint. The stored ones are greedy replies to
sixteen prompts, a quarter of which were trained on: too few to tell checkpoints apart, and not how
the model is used. In an invented world the questions are those of a split that the stage was not
trained on, and not the sealed ones, because nothing may be chosen by them. Elsewhere they are the
probe's unseen prompts and held-out conversations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pysft.errors import DataError, MissingInput, RowError, UsageError
from pysft.inference.sampling import Sampling
from pysft.inference.score import values
from pysft.jobs.comparisons import asked
from pysft.measure.choose import BY_REWARD, select
from pysft.measure.evaluate import answer
from pysft.measure.probe import before_reply, stored_probe
from pysft.measure.rate import read_marks
from pysft.measure.raters import Truth
from pysft.rng import rng
from pysft.run.log import read_measurements
from pysft.run.stage import Stage, load_stage, measured_stage, read_json, reward_model
from pysft.text.compared import scored_example
from pysft.text.conversation import Conversation
from pysft.text.sampled import is_usable
from pysft.training.kinds import kind_of
from pysft.training.settings import stages_of
from pysft.world.labelers import ANSWERABLE

ASKED = 200  # the most questions to each checkpoint
# Kind of a stage -> the split of the world whose questions its checkpoints are asked: those of
# neither its own training nor, for a fine-tuning, the reward model's. DPO and PPO learn from the
# questions of "ppo", and the sealed ones are for reports, so only those of "reward" are left: the
# reward model has been trained on replies to them. Its scores are nearer to the truth there than
# elsewhere, so they show less of a reward that is hacked; the right answers beside them show it.
SPLIT = {"sft": "ppo", "dpo": "reward", "ppo": "reward"}
SEED = 1  # of the questions and replies: each checkpoint gets the same


def select_by_reward(
    folder: Path,
    reward: str | None,
    ops=None,
    progress: Callable[[str, bool], None] = lambda text, last: None,
) -> dict:
    """Return what choose.select() gives by BY_REWARD, and "reward_model" (its folder), "asked" (the
    number of questions) and "asked_of" ("world" or "probe").

    folder: of a stage that keeps checkpoints. reward: a run with a reward model; None takes that of
    the stage's own run. A row of the choice also has:

    reward       the mean score of the replies; None if none could be scored
    scored       how many were: those that have content, no control token, and room in the context
    right        the share of the questions that were answered right, as the exact judge says, or
                 refused where there is no answer; it is not there without a world

    A UsageError if there is no reward model. MissingInput if no checkpoint is kept. A DataError if
    the reward model cannot read a reply."""
    rows, marks = read_measurements(folder), read_marks(folder)
    scorer = load_stage(_reward_model(folder, reward), ops)
    if scorer.model.config.outputs != "value":
        raise UsageError(f"{scorer.folder}: it is no reward model; name one by --reward RUN")
    kept = {row["step"]: folder / "steps" / str(row["step"]) for row in rows if row["step"] > 0}
    there = {step: path for step, path in kept.items() if path.is_dir()}
    if not there:
        raise MissingInput(
            f"{folder / 'steps'}: no checkpoint is kept in it, so there is nothing to ask"
        )
    prompts, found = None, {}
    for number, (step, path) in enumerate(there.items(), 1):
        stage = load_stage(path, ops)
        if prompts is None:
            prompts, judge = _questions(stage)
        found[step] = _asked(stage, prompts, judge, scorer)
        progress(f"{len(prompts):,} questions to step {step:,}", number == len(there))
    rows = [row | found.get(row["step"], {}) for row in rows]
    return select(rows, marks, BY_REWARD) | {
        "reward_model": str(scorer.folder),
        "asked": len(prompts),
        "asked_of": "probe" if judge is None else "world",
    }


def _reward_model(folder: Path, reward: str | None) -> Path:
    """The folder of the reward model: that of the run `reward`, else of the stage's own run, else
    the one that ranked replies for it. A UsageError if there is none."""
    if reward is not None:
        return reward_model(reward)
    run = measured_stage(folder).parent
    try:
        return reward_model(run)
    except MissingInput:
        record = run / "run.json"
        named = read_json(record).get("reward") if record.is_file() else None
        if isinstance(named, str) and Path(named).is_dir():
            return reward_model(named)
    raise UsageError(f"{run}: no reward model in it; name a run that has one by --reward RUN")


def _questions(stage: Stage) -> tuple[list, Callable | None]:
    """Return (prompts, judge). judge(i, reply, ended): True if the reply to prompt i is right; None
    without a world."""
    if stage.world is not None:
        [name] = stages_of(stage.settings)
        every = asked(stage.world, [SPLIT[kind_of(name)]])
        chosen = rng(SEED, "lab", "asked").permutation(len(every))[:ASKED]
        some, truth = [every[i] for i in sorted(chosen)], Truth(stage.world)

        def judge(i: int, reply: str, ended: bool) -> bool:
            return truth.golds(some[i], [reply], [ended]) == [ANSWERABLE["right"]]

        return [messages[-1]["content"] for messages in some], judge
    probe = stored_probe(measured_stage(stage.folder), stage.template)
    prompts = [p["prompt"] for p in probe.prompts] + [before_reply(c) for c in probe.heldout]
    if not prompts:
        raise MissingInput(f"{stage.folder}: it was measured with no unseen prompt to ask")
    chosen = rng(SEED, "lab", "asked").permutation(len(prompts))[:ASKED]
    return [prompts[i] for i in sorted(chosen)], None


def _asked(stage: Stage, prompts: list, judge, scorer: Stage) -> dict:
    """Return the entries of a checkpoint's row."""
    talker = stage.model, stage.tokenizer, stage.template
    replies = answer(*talker, prompts, Sampling(temperature=1.0, seed=SEED))
    stage.model.release()
    usable = [i for i, (text, _) in enumerate(replies) if is_usable(text)]
    messages = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
    examples, fault = [], None
    for i in usable:
        reply = {"role": "assistant", "content": replies[i][0]}
        try:
            c = Conversation([*messages[i], reply], "replies", i + 1)
            context = scorer.model.config.context
            examples.append(scored_example(c, scorer.tokenizer, context, scorer.template))
        except RowError as error:
            fault = error
    if fault and not examples:
        raise DataError(
            f"{scorer.folder}: it can read no reply of {stage.folder} ({fault.what}); name a reward"
            " model that has the vocabulary and the context of this run"
        )
    found = values(scorer.model, examples)
    scorer.model.release()
    entries = {"reward": float(found.mean()) if len(found) else None, "scored": len(found)}
    if judge is not None:
        right = [judge(i, text, end.stop == "end") for i, (text, end) in enumerate(replies)]
        entries["right"] = float(np.mean(right))
    return entries
