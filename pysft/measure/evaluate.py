"""Measure a model: its losses, its replies, and the figures of its replies.

Losses are in nats. Base loss is per character of the corpus's held-out tail (per byte where tokens
are not characters), in windows of the context that do not overlap. Conversation loss is per graded
token of held-out conversations. Replies are greedy, or as chat writes where a figure says so. They
have at most 120 new tokens (240 of a model that writes thoughts), or as many as the context has
room for. Thoughts are in no text of a reply. Figures of what a reply says are taken from its free
text, without calls of tools and results.

Some scripts put no spaces between words. For a model that learned to write one of them, the figures
of words are nan, and the entry "words_unmeasured" says why."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from pysft import IGNORE
from pysft.batch import ROWS, Batch, Example
from pysft.inference.generate import Reply, generate
from pysft.inference.repetition import repeated_words
from pysft.inference.sampling import CHAT, GREEDY, Sampling
from pysft.inference.thoughts import room_for_thoughts, visible_reply
from pysft.inference.tool_calls import content_parts, free_text
from pysft.measure.probe import Probe, before_reply
from pysft.measure.provenance import Origin, Provenance, summary
from pysft.measure.words import (
    FIGURES,
    distinct,
    on_topic,
    real_words,
    repeats_prompt,
    unmeasured,
    words,
)
from pysft.text.examples import shift
from pysft.text.formats import last_text
from pysft.text.render import render, render_prompt
from pysft.text.template import Template
from pysft.text.tokenizer import Tokenizer
from pysft.text.windows import tile_windows
from pysft.training.runner import steps_of
from pysft.training.settings import Settings
from pysft.training.stages import replay_alone
from pysft.world.lexicon import REFUSAL

MAX_NEW = 120  # maximum tokens of a reply


# ---------------------------------------------------------------------------------------- losses


def corpus_loss(model, tokenizer: Tokenizer, text: str) -> float:
    """Loss of a text in nats per tokenizer.unit: the sum over its targets, which are all of its
    tokens but the first, divided by the units that they stand for. Each target counts once. nan for
    a text of one token, which has no target."""
    ids = tokenizer.encode(text)
    total, _ = _total_nll(model, tile_windows(ids, model.config.context))
    units = tokenizer.count_units(ids[1:])
    return total / units if units else float("nan")


def unit_entry(tokenizer: Tokenizer) -> dict:
    """The entry of a --json document that names the unit of its losses on base text. Without it
    they are per character."""
    return {} if tokenizer.unit == "char" else {"base_loss_unit": tokenizer.unit}


def conversation_loss(
    model, conversations: list, tokenizer: Tokenizer, template: Template, grade: str = "all"
) -> tuple[float, int]:
    """(mean loss in nats per graded token, number of conversations measured).

    A conversation is measured if it fits the context and has a graded token. If none does, the loss
    is nan."""
    examples = []
    for messages in conversations:
        ids, labels = shift(*render(messages, tokenizer, template, grade=grade))
        if len(ids) <= model.config.context and (labels != IGNORE).any():
            examples.append(Example(ids, labels))
    if not examples:
        return float("nan"), 0
    total, graded = _total_nll(model, examples)
    return total / graded, len(examples)


def _total_nll(model, examples: list[Example]) -> tuple[float, int]:
    """(sum of the loss in nats over all graded targets, their number)."""
    total, graded = 0.0, 0
    per_batch = max(1, ROWS // model.config.context)
    for first in range(0, len(examples), per_batch):
        batch = Batch.of(
            examples[first : first + per_batch], model.config.vocab, model.config.context
        )
        nll = model.forward(batch).nll
        total += float(nll.sum(dtype=np.float64))
        graded += int(batch.graded.sum())
    return total, graded


def loss_after_replay(
    model,
    settings: Settings,
    name: str,
    tokenizer: Tokenizer,
    corpus: str,
    heldout: str,
    progress,
    steps: int | None = None,
) -> float:
    """corpus_loss of `heldout` after training `model`, a base, in place on base text alone.

    corpus, heldout: texts. The windows of `corpus` and the learning rates are those that the
    stage `name` of the settings has for its replay. Matched forgetting compares with this loss.
    progress(text, last) takes a line of text for the screen. steps: how many steps of the stage to
    take; None is all of them."""
    plan = replay_alone(settings, name, tokenizer.encode(corpus), model.config.vocab, steps)
    for r in steps_of(model, plan, settings.stages[name]):
        progress(f"the base alone: step {r.step:,} of {plan.steps:,}", r.step == plan.steps)
    return corpus_loss(model, tokenizer, heldout)


# --------------------------------------------------------------------------------------- replies


def answer(
    model,
    tokenizer: Tokenizer,
    template: Template,
    prompts: list,
    sampling: Sampling = GREEDY,
    inject: Callable | None = None,
    tokens: int | None = None,
) -> list[tuple[str, Reply]]:
    """(text without thoughts, Reply) for each prompt, greedy unless `sampling` says otherwise. A
    prompt is a text, or the list of turns so far. inject: answers calls of tools, as Engine.add()
    takes it; without it no tool runs. tokens: at most of a reply; None is longest_reply().

    A prompt that leaves no room in the context gets an empty reply with stop "length"."""
    rendered = [
        render_prompt(
            [{"role": "user", "content": p}] if isinstance(p, str) else p, tokenizer, template
        )
        for p in prompts
    ]
    fits = [i for i, ids in enumerate(rendered) if len(ids) <= model.config.context]
    replies = [Reply(np.zeros(0, np.int32), "length")] * len(prompts)
    end, again = tokenizer.special[template.end], repeated_words(tokenizer)
    tokens = longest_reply(tokenizer, template) if tokens is None else tokens
    written = generate(
        model, [rendered[i] for i in fits], tokens, end, sampling, inject, again=again
    )
    for i, reply in zip(fits, written):
        replies[i] = reply
    return [(visible_reply(r.ids, tokenizer, template), r) for r in replies]


def longest_reply(tokenizer: Tokenizer, template: Template, tokens: int | None = None) -> int:
    """The most tokens of a reply: `tokens`, or MAX_NEW, and more if the model may think before it
    answers."""
    return (MAX_NEW if tokens is None else tokens) + room_for_thoughts(tokenizer, template)


def spoken(reply: Reply, tokenizer: Tokenizer, template: Template) -> str:
    """The free text of a reply: without calls of tools, their results and thoughts."""
    return free_text(content_parts(reply.ids, tokenizer, template))


def checks(reply: Reply, tokenizer: Tokenizer, template: Template) -> tuple[bool, bool, bool]:
    """The three parts of format compliance, as the source text defines it.

    Returns (has content, ends with the end token, is clean). A clean reply holds neither a control
    token, other than those of tools and thoughts, nor a marker of a turn spelled out as text."""
    allowed = {tokenizer.special[t] for t in template.tool_tokens if t in tokenizer.special}
    is_special = tokenizer.is_special(reply.ids)
    text = tokenizer.decode(reply.ids[~is_special])
    return (
        bool(spoken(reply, tokenizer, template).strip()),
        reply.stop == "end",
        set(reply.ids[is_special].tolist()) <= allowed
        and not any(m in text for m in template.forgeable),
    )


# --------------------------------------------------------------------------------------- figures


def measure(
    model, tokenizer: Tokenizer, template: Template, probe: Probe, grade: str = "all"
) -> tuple[dict, dict]:
    """(figures, replies) of a tuned model.

    figures: by their names in the --json document; nan where nothing could be measured. replies:
    those that the figures are taken from, {"pairs": [(prompt, reply, stop), ...], "prompts": ...,
    "heldout": ...}. grade: which turns the training graded; the same are graded here."""
    questions = {
        "pairs": [p for p, _ in probe.pairs],
        "prompts": [p["prompt"] for p in probe.prompts],
        "heldout": [before_reply(c) for c in probe.heldout],
    }
    talk = _Talk(model, tokenizer, template)
    answers = talk.greedy(questions)
    heldout_loss, fitted = conversation_loss(model, probe.heldout, tokenizer, template, grade)
    domains = [p["domain"] for p in probe.prompts]
    # The subjects of the held-out conversations were trained on, their words were not.
    asked = questions["prompts"] + questions["heldout"]
    replies = answers["prompts"] + answers["heldout"]
    inside = [i for i, d in enumerate(domains + ["in"] * len(probe.heldout)) if d == "in"]
    figures = {
        "tuned_base_loss": corpus_loss(model, tokenizer, probe.heldout_text),
        **unit_entry(tokenizer),
        "heldout_loss": heldout_loss,
        "heldout_conversations": fitted,
        **_recall(probe.pairs, answers["pairs"]),
        **_unseen(talk, answers["prompts"], probe),
        "by_domain": _by_domain(talk, questions["prompts"], answers["prompts"], domains, probe),
        **_in_domain(talk, [asked[i] for i in inside], [replies[i] for i in inside], probe),
        **_trained_replies(probe),
    }
    figures = _without_words(figures, probe)
    return figures, {group: _rows(questions[group], answers[group]) for group in questions}


def measure_sealed(
    model, tokenizer: Tokenizer, template: Template, probe: Probe
) -> tuple[dict, list]:
    """(figures, replies) of the sealed prompts: those of measure() that are taken from unseen
    prompts, and the rows of replies. Nothing is chosen by them, so finished stages are measured
    with them and checkpoints are not."""
    prompts = [p["prompt"] for p in probe.sealed]
    domains = [p["domain"] for p in probe.sealed]
    talk = _Talk(model, tokenizer, template)
    answers = talk.greedy({"sealed": prompts})["sealed"]
    inside = [i for i, domain in enumerate(domains) if domain == "in"]
    figures = {
        **_unseen(talk, answers, probe),
        "by_domain": _by_domain(talk, prompts, answers, domains, probe),
        **_in_domain(talk, [prompts[i] for i in inside], [answers[i] for i in inside], probe),
    }
    return finite(_without_words(figures, probe)), _rows(prompts, answers)


def _without_words(figures: dict, probe: Probe) -> dict:
    """The figures without those of words, and with the reason, if words cannot be counted in the
    replies that the model was trained on.

    What was trained on decides, not the replies, so all checkpoints of a run are measured alike."""
    reason = unmeasured(probe.training_replies or [probe.heldout_text])
    if not reason:
        return figures

    def blank(row: dict, value) -> dict:
        return row | {name: value for name in FIGURES if name in row}

    domains = {d: blank(row, None) for d, row in figures["by_domain"].items()}
    return blank(figures, float("nan")) | {"by_domain": domains, "words_unmeasured": reason}


def _rows(prompts: list, answers: list[tuple[str, Reply]]) -> list[tuple[str, str, str]]:
    """[(what the user says, the reply, why it stopped)]."""
    return [(last_text(p), text, r.stop) for p, (text, r) in zip(prompts, answers)]


@dataclass(frozen=True)
class _Talk:
    """A model that answers."""

    model: object
    tokenizer: Tokenizer
    template: Template

    def answer(self, prompts: list, sampling: Sampling = GREEDY) -> list[tuple[str, Reply]]:
        return answer(self.model, self.tokenizer, self.template, prompts, sampling)

    def greedy(self, questions: dict) -> dict:
        """{group: answers} for {group: prompts}. All are written side by side."""
        every = iter(self.answer(sum(questions.values(), [])))
        return {group: [next(every) for _ in prompts] for group, prompts in questions.items()}

    def spoken(self, answers: list[tuple[str, Reply]]) -> list[str]:
        return [spoken(reply, self.tokenizer, self.template) for _, reply in answers]

    def checks(self, answers: list[tuple[str, Reply]]) -> list[tuple[bool, bool, bool]]:
        return [checks(reply, self.tokenizer, self.template) for _, reply in answers]


def _share(part, of: int) -> float:
    return part / of if of else float("nan")


def _recall(pairs, answers) -> dict:
    n = len(pairs)
    recalled = [r.stop == "end" and text == reply for (text, r), (_, reply) in zip(answers, pairs)]
    return {
        "recall": _share(sum(recalled), n),
        "recall_of": n,
        "stopped": _share(sum(r.stop == "end" for _, r in answers), n),
    }


def _unseen(talk: _Talk, answers: list, probe: Probe) -> dict:
    """Format compliance and its three parts, and the lengths and the variety of the replies to
    unseen prompts."""
    checked, replies, n = talk.checks(answers), talk.spoken(answers), len(answers)
    return {
        "prompts": n,
        "format_compliance": _share(sum(map(all, checked)), n),
        "content": _share(sum(content for content, _, _ in checked), n),
        "stopped_unseen": _share(sum(ends for _, ends, _ in checked), n),
        "no_user_turn": _share(sum(clean for _, _, clean in checked), n),
        "reply_length": _share(sum(map(len, replies)), n),
        **_variety(replies, probe),
    }


def _in_domain(talk: _Talk, prompts: list, answers: list, probe: Probe) -> dict:
    """Figures of prompts whose subjects were trained on and whose words were not. `chat` writes
    with CHAT, so the prompts are answered once more for the figures of how it writes."""
    asked, replies = list(map(last_text, prompts)), talk.spoken(answers)
    chatted = talk.spoken(talk.answer(prompts, CHAT))
    rate, chance = on_subject(asked, replies)
    known = set(probe.known_words)
    long = [(p, r) for p, r in zip(asked, replies) if len(words(p)) >= 4]
    return {
        "in_domain_prompts": len(prompts),
        "on_topic": rate,
        "on_topic_chance": chance,
        "repeats_prompt": _share(sum(repeats_prompt(p, r) for p, r in long), len(long)),
        "real_words": real_words(replies, known),
        "distinct_words_greedy": distinct(replies),
        "distinct_words": distinct(chatted),
        "distinct_pairs": distinct(chatted, 2),
        "on_topic_chat": on_subject(asked, chatted)[0],
        "real_words_chat": real_words(chatted, known),
    }


def on_subject(prompts: list[str], replies: list[str]) -> tuple[float, float]:
    """on_topic(), where a refusal is no answer on the subject, although it repeats the name; nan
    without prompts."""
    if not prompts:
        return float("nan"), float("nan")
    return on_topic(prompts, ["" if r.endswith(REFUSAL) else r for r in replies])


def _trained_replies(probe: Probe) -> dict:
    """Length and variety of the replies that were trained on, for comparison."""
    replies = probe.training_replies
    return {
        "trained_reply_length": _share(sum(map(len, replies)), len(replies)),
        "trained_distinct_words": distinct(replies),
        "trained_distinct_pairs": distinct(replies, 2),
    }


def _variety(replies: list[str], probe: Probe) -> dict:
    """How many replies differ, and how many are a training reply word for word."""
    training = set(probe.training_replies)
    return {
        "distinct_replies": len(set(replies)),
        "verbatim_replies": sum(r in training for r in replies),
    }


def _by_domain(talk: _Talk, prompts: list, answers: list, domains: list, probe: Probe) -> dict:
    """{domain: figures of its unseen prompts}, domains in the order of the list of prompts."""
    found = {}
    for domain in dict.fromkeys(domains):
        here = [i for i, d in enumerate(domains) if d == domain]
        given = talk.spoken([answers[i] for i in here])
        rate, chance = on_subject([last_text(prompts[i]) for i in here], given)
        checked = talk.checks([answers[i] for i in here])
        found[domain] = finite(
            {
                "prompts": len(here),
                "format_compliance": sum(map(all, checked)) / len(here),
                "on_topic": rate,
                "on_topic_chance": chance,
                "real_words": real_words(given, set(probe.known_words)),
                **_variety(given, probe),
            }
        )
    return found


def origins(replies: dict, probe: Probe) -> tuple[dict, dict]:
    """Trace the replies of measure() to the texts of the training (provenance.py).

    Returns ({verdict: number of replies to unseen prompts}, the replies, each with its Origin as a
    dict for a fourth element)."""
    source = Provenance(probe.training_replies, probe.corpus_text or None)
    traced = {
        group: [[*row, asdict(source.of(row[1]))] for row in rows]
        for group, rows in replies.items()
    }
    return summary([Origin(**row[3]) for row in traced["prompts"]])["counts"], traced


def finite(figures: dict) -> dict:
    """The figures with None for each float that is not finite: JSON has no nan."""
    return {
        k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in figures.items()
    }
