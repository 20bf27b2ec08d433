"""How hard a row is: the share of a run's replies to its prompt that are not right, or the loss of
its reply."""

from collections import Counter
from collections.abc import Callable

from pysft import IGNORE
from pysft.batch import Example
from pysft.errors import DataError, RowError
from pysft.inference.score import log_probabilities
from pysft.jobs.collect import refuse_callers, sample_replies
from pysft.jobs.curate.judging import RIGHT, RowJudge
from pysft.run.stage import Stage
from pysft.text.characters import typed
from pysft.text.conversation import Conversation, plain, short
from pysft.text.curated import Curated
from pysft.text.examples import encode_conversation, length_fault, reply_example
from pysft.text.render import render_prompt

APART = "\n\n"  # between the messages of a row as a base reads them

Say, Progress = Callable[[str], None], Callable[[str, bool], None]


# ------------------------------------------------------------------------------------ who answers


def right_replies(
    rows: list[Curated],
    stage: Stage,
    judge: RowJudge,
    k: int,
    seed: int,
    say: Say = print,
    progress: Progress = lambda text, last: None,
    heard: Counter | None = None,
) -> list[int | None]:
    """Return how many of k replies to the prompt of each row are right. The stage writes them at
    temperature 1. A judge who is no exact one is told the row's own reply as a right answer, but
    the world's of a question of the world.

    None if the judge has no verdict about one of the replies, or if there are none: the prompt
    cannot be written or leaves no room for a reply, or the exact judge does not know it. heard:
    counts the verdicts of the replies, None among them. A UsageError for a stage that calls
    tools."""
    refuse_callers(stage)
    asked = _readable(rows, lambda row: _judged_prompt(row, stage, judge), say)
    sampled = sample_replies(stage, [p for _, p in asked], k, seed, progress=progress)
    found: list[int | None] = [None] * len(rows)
    for number, ((i, _), replies) in enumerate(zip(asked, sampled), 1):
        progress(f"the replies to {number:,} of {len(asked):,} prompts are judged", False)
        row = rows[i]
        verdicts = {reply: judge(row.prompt, *reply, row.reply) for reply in dict.fromkeys(replies)}
        if heard is not None:
            heard.update(verdicts[reply] for reply in replies)
        if None not in verdicts.values():
            found[i] = sum(verdicts[reply] == RIGHT for reply in replies)
    return found


def answerable(rows: list[Curated], stage: Stage, say: Say = print) -> list[bool]:
    """Return of each row whether the stage can answer its prompt: it can be written and leaves
    room for a reply."""
    found = {i for i, _ in _readable(rows, lambda row: _prompt(row, stage), say)}
    return [i in found for i in range(len(rows))]


def _judged_prompt(row: Curated, stage: Stage, judge: RowJudge) -> list[dict]:
    """The prompt that the stage answers. A RowError if it cannot, or if nobody could judge it."""
    if judge.is_exact and judge.question(row.prompt) is None:
        what = f"{short(row.asked)} is no question of the run's world"
        raise RowError(row.where, what, "leave it out", "world")
    return _prompt(row, stage)


def _prompt(row: Curated, stage: Stage) -> list[dict]:
    """The prompt that the stage answers. A RowError if it cannot."""
    prompt, context = _bare(row, stage)[:-1], stage.model.config.context
    ids = render_prompt(prompt, stage.tokenizer, stage.template, row.where)
    if len(ids) >= context - 1:  # one token, and the end
        raise length_fault(row.where, len(ids) + 2, context)
    return prompt


# --------------------------------------------------------------------------------------- whose loss


def losses(
    rows: list[Curated],
    stage: Stage,
    say: Say = print,
    progress: Progress = lambda text, last: None,
) -> list[float | None]:
    """Return the mean loss of the reply of each row, in nats per graded token; None if the model
    cannot read the row.

    A stage that talks reads the row as its template writes it, and the end of the reply is graded
    too. A base has no tokens of a template. It reads the messages as plain text with a blank line
    between two, and the end is not graded."""
    read = _readable(rows, lambda row: _example(row, stage), say)
    examples = [example for _, example in read]
    progress(f"the loss of {len(examples):,} replies", False)
    found: list[float | None] = [None] * len(rows)
    for (i, e), total in zip(read, log_probabilities(stage.model, examples).tolist()):
        found[i] = -total / int((e.labels != IGNORE).sum())
    return found


def _example(row: Curated, stage: Stage) -> Example:
    """The example of which the row's reply is graded."""
    messages, context = _bare(row, stage), stage.model.config.context
    if stage.can_talk:
        c = Conversation(messages, row.where, 0)
        return encode_conversation(c, stage.tokenizer, context, stage.template, "last")
    *prompt, reply = [plain(m["content"]) for m in messages]
    try:
        ids = [stage.tokenizer.encode(t) for t in ("".join(t + APART for t in prompt), reply)]
    except DataError as error:
        what, _, remedy = str(error).removeprefix("text: ").partition("; ")
        raise RowError(row.where, what, remedy, "characters") from None
    example = reply_example(*ids, row.where)
    if len(example.input_ids) > context:
        raise length_fault(row.where, len(example.input_ids), context)
    return example


# -------------------------------------------------------------------------------------- for both


def _bare(row: Curated, stage: Stage) -> list[dict]:
    """The messages of a row without flags, with letters and accents as the vocabulary has them."""
    bare = [{"role": m["role"], "content": m["content"]} for m in row.messages]
    return Conversation(bare, "", 0).mapped(lambda text: typed(text, stage.tokenizer)).messages


def _readable(rows: list[Curated], read: Callable, say: Say) -> list[tuple[int, object]]:
    """[(index, read(row))] of the rows that read() raises no RowError for. say() is told of the
    others."""
    found, faults = [], []
    for i, row in enumerate(rows):
        try:
            found.append((i, read(row)))
        except RowError as error:
            faults.append(error)
    if faults:
        first = f"{faults[0].where}: {faults[0].what}"
        say(f"{len(faults):,} of {len(rows):,} rows cannot be judged; the first is {first}")
    return found
