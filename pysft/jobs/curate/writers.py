"""Who writes new rows: the teachers of `curate expand`. Each is a generator of blocks of tries.

A run that was trained without a mask has learned the user's turns too. So it writes both sides of a
conversation (by_run). Any run that talks can answer prompts that are there already (by_prompts). A
model behind an endpoint is shown some seeds and asked for more of their kind (by_endpoint)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from pysft.errors import DataError, UsageError
from pysft.inference.engine import SLOTS, Engine
from pysft.inference.sampling import Sampling
from pysft.jobs.collect import rendered, sample_replies
from pysft.measure.endpoint import Asker
from pysft.rng import rng
from pysft.run.stage import Stage
from pysft.text.curated import FORM, NO_END
from pysft.text.render import render_words
from pysft.text.sampled import is_usable

BLOCK = 4 * SLOTS  # tries of a run between two looks at what came; their texts do not depend on it
SHOWN, NEW = 6, 5  # seeds that an endpoint is shown, and rows that it is asked for
SILENT = 5  # questions in a row without a usable answer, after which an endpoint is given up

TASK = """You write training data for a small language model that chats. You are shown {shown} \
examples. Each is a line of JSON with what a user says and what the assistant replies. Write {new} \
new ones of the same kind, as if the same author had gone on: the same language, tone, length and \
form, about other things. Do not repeat or rephrase an example.

Answer with {new} lines of JSON and nothing else, each {{"prompt": ..., "reply": ...}}"""


@dataclass(frozen=True)
class Try:
    """A row that a teacher wrote, or failed to write.

    messages: the prompt and the reply; [] if it is no row. fault: then NO_END (a turn did not end)
    or FORM (it is empty, holds a control token or cannot be written). more: what stands in the
    row's metadata beside its number."""

    messages: list[dict] = field(default_factory=list)
    fault: str = ""
    more: dict = field(default_factory=dict)


# --------------------------------------------------------------------- a run that writes both sides


def by_run(stage: Stage, seed: int, tokens: int) -> Iterator[list[Try]]:
    """Yield tries without end: conversations of one exchange, of which the stage writes both turns,
    at temperature 1 without cuts. Try n depends on the seed, n and the weights alone.

    tokens: most tokens of each turn, its end included.

    The tokens that open the user's turn are given. The stage writes the turn up to its end. Then
    come the tokens that open the assistant's turn, and it writes the reply. Training without a mask
    teaches it to write these tokens as well, but in no place does it have a choice there: they
    follow every first turn of the user. So they are put in, and a draw cannot miss them."""
    user, assistant = stage.template.turns["user"], stage.template.turns["assistant"]
    if not user.opens:
        raise UsageError(
            f"template {stage.template.name!r} has nothing that opens a user's turn, so no prompt"
            " can be begun; name prompts by --prompts"
        )
    opens, closes = _ids(stage, user.opens), _ids(stage, user.closes or assistant.opens)
    between = len(_ids(stage, user.closes + assistant.opens))
    # The prompt must leave room for a reply, as rendered() asks.
    most = min(tokens, stage.model.config.context - 2 - len(opens) - between + len(closes))
    # Other random numbers than those of the replies, which sample_replies() draws by `seed`.
    sampling = Sampling(1.0, seed=int(rng(seed, "expand", "prompts").integers(2**31)))
    decoder = stage.model.decoder(SLOTS)
    for first in count(0, BLOCK):
        engine = Engine(stage.model, decoder=decoder)
        begun = [
            engine.add(n, opens, most, sampling=sampling, inject=_until(closes))
            for n in range(first, first + BLOCK)
        ]
        engine.run()
        prompts = [_prompt_of(stage, s, len(closes)) for s in begun]
        yield _answered(stage, prompts, seed, tokens, first)


def _ids(stage: Stage, words: tuple[str, ...]) -> list[int]:
    return render_words(words, stage.tokenizer, stage.template).tolist()


def _until(closes: list[int]):
    """Return what Engine.add() takes as `inject`, to end a sequence behind these ids. They are more
    than one token where a template closes a turn in plain words."""
    n = len(closes)
    return lambda written, room: False if written[-n:] == closes else None


def _prompt_of(stage: Stage, sequence, closing: int) -> Try:
    """The prompt that a sequence is, or why it is none. closing: the tokens of its end."""
    if sequence.ended != "tool":
        return Try(fault=NO_END)
    text = stage.tokenizer.decode(sequence.written[:-closing])
    messages = [{"role": "user", "content": text}]
    try:
        if not is_usable(text, stage.template):
            return Try(fault=FORM)
        rendered(stage, messages, "prompt")
    except DataError:  # it holds words by which the template begins a turn
        return Try(fault=FORM)
    return Try(messages)


def _answered(stage: Stage, prompts: list[Try], seed: int, tokens: int, first: int) -> list[Try]:
    """The tries with a reply to each prompt. first: the number of the first one."""
    asked = [p.messages for p in prompts if not p.fault]
    replies = iter(sample_replies(stage, asked, 1, seed, tokens, first=first))
    found = []
    for prompt in prompts:
        if prompt.fault:
            found.append(prompt)
            continue
        [(text, ended)] = next(replies)
        fault = "" if ended and is_usable(text, stage.template) else FORM if ended else NO_END
        row = [*prompt.messages, {"role": "assistant", "content": text}]
        found.append(Try([] if fault else row, fault, prompt.more))
    return found


# ------------------------------------------------------------------------- a run that answers alone


def by_prompts(
    stage: Stage, asked: list[tuple[list[dict], str, str]], rounds: int, seed: int, tokens: int
) -> Iterator[list[Try]]:
    """Yield tries: one reply of the stage to each prompt and round, at temperature 1 without cuts.

    asked: [(messages, source, where)]. Each round asks the prompts in an order of its own, so that
    a part of a round is no part of the file. tokens: most tokens of a reply, its end included."""
    order = [
        i
        for number in range(rounds)
        for i in rng(seed, "expand", "order", number).permutation(len(asked)).tolist()
    ]
    for first in range(0, len(order), BLOCK):
        some = [asked[i] for i in order[first : first + BLOCK]]
        prompts = [Try(m, more={"source": source} if source else {}) for m, source, _ in some]
        yield _answered(stage, prompts, seed, tokens, first)


# ------------------------------------------------------------------------------------- an endpoint


def by_endpoint(
    asker: Asker, seeds: list[tuple[str, str]], seed: int, tokens: int
) -> Iterator[list[Try]]:
    """Yield tries without end: the rows of one answer after the other.

    seeds: [(prompt, reply)]. Each question shows SHOWN of them, drawn anew, and asks for NEW rows.
    It depends on the seed, its number and the seeds alone, so a command that was stopped finds its
    answers in the cache. tokens: most tokens of an answer.

    EndpointError as Asker.ask(). A DataError if SILENT questions in a row have no usable answer."""
    silent = 0
    for number in count(1):
        shown = rng(seed, "expand", "seeds", number).permutation(len(seeds))[:SHOWN].tolist()
        answer = asker.ask(question(seeds, shown, number), rows_in, tokens, temperature=1)
        silent = 0 if answer else silent + 1
        if silent == SILENT:
            raise DataError(
                f"{asker.endpoint.model}: {SILENT} questions in a row have no answer in lines of"
                " JSON; allow longer ones by --tokens, or take a model that follows instructions"
            )
        more = {"seeds": [i + 1 for i in shown]}
        found = rows_in(answer) if answer else []
        yield [_try_of(row, more) for row in found]


def question(seeds: list[tuple[str, str]], shown: list[int], number: int) -> list[dict]:
    """Return the messages that ask for new rows. shown: the indices of the seeds to show. number:
    that of the question, which stands in it: with few seeds, two questions would else be the same
    one, and the second would be settled by the first one's answer."""
    examples = [
        json.dumps(dict(zip(("prompt", "reply"), seeds[i])), ensure_ascii=False) for i in shown
    ]
    task = TASK.format(shown=len(shown), new=NEW)
    return [
        {"role": "system", "content": task},
        {"role": "user", "content": "\n".join([*examples, "", f"Set {number} of new ones:"])},
    ]


def rows_in(answer: str) -> list[tuple[str, str] | None]:
    """Return the rows (prompt, reply) of an answer; None for a line that begins like a row and is
    none, such as one that was cut off. Lines that do not begin with "{" are passed over: models
    like to put a sentence or a fence around what they were asked for. A ValueError if there is no
    row at all."""
    lines = (line.strip().rstrip(",") for line in answer.splitlines())
    found = [_row(line) for line in lines if line.startswith("{")]
    if not any(found):
        raise ValueError('expected lines of JSON, each {"prompt": ..., "reply": ...}')
    return found


def _row(line: str) -> tuple[str, str] | None:
    try:
        row = json.loads(line)
        prompt, reply = row["prompt"], row["reply"]
    except (ValueError, KeyError, RecursionError):
        return None
    is_row = isinstance(prompt, str) and isinstance(reply, str)
    return (prompt.strip(), reply.strip()) if is_row else None


def _try_of(row: tuple[str, str] | None, more: dict) -> Try:
    if row is None or not all(map(is_usable, row)):
        return Try(fault=FORM, more=more)
    messages = [{"role": r, "content": text} for r, text in zip(("user", "assistant"), row)]
    return Try(messages, more=more)
