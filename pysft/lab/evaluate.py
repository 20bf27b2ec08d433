"""The measurements, each a figure with a definition.

Losses are in nats: base loss per character of the corpus's held-out tail, in windows of the context
that do not overlap; conversation loss per graded token of held-out conversations. Replies are
greedy, at most 120 new tokens or the room left."""

import re
from dataclasses import asdict, dataclass

import numpy as np

from pysft import IGNORE
from pysft.errors import DataError
from pysft.inference.generate import Reply, generate
from pysft.lab.provenance import Origin, Provenance, summary
from pysft.nn.optim import AdamW
from pysft.text.dataset import Batch, Example, shift, tile_windows
from pysft.text.formats import check_messages
from pysft.text.template import Template, render, render_prompt
from pysft.text.tokenizer import CharTokenizer
from pysft.training.loop import train
from pysft.training.stages import replay_alone

MAX_NEW = 120
ROWS = 2048  # of one batch while measuring

# Words that say nothing about a subject: their return in a reply is no sign of staying on it.
COMMON = frozenset(
    """
a about after again all also always am an and another any are art as ask at away aye be because been
before being best better between both but by call came can cannot come could day did didst do does
done dost doth down each else enough even ever every far feel few find first for friend from full
gave get give go goes going gone good got great had has hast hath have he hear help her here hers him
his how i if in into is it its just keep kind know last least left less let like little long look made
make makes man many may me mean might mine more most much must my name nay near need never new no none
nor not nothing now of off often oh old on once one only or other our out over own people please put
quite rather really said same say says see seem shall she should show since so some something soon
speak still such take tell than that the thee their them then there these they thine thing things
think this those thou though through thus thy till time to today together too two under until up upon
us use very want was way we well went were what when where which while who whom whose why will wilt
with without word words work worth would yes yet you your yours""".split()
)


def words(text: str) -> list[str]:
    """The words of a text in lower case, with their inner apostrophes."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def subjects(text: str) -> set[str]:
    """The content words of a text, a plural or possessive s taken off."""
    return {_stem(w) for w in words(text) if w not in COMMON and len(w) > 2}


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


@dataclass
class Probe:
    """What measuring needs beside the model: it is stored in the run.

    heldout_text: the corpus's tail. pairs: [prompt, reply] that should be recalled; such a prompt
    is a text, or the turns before the reply where there is more than one. prompts: [{"prompt",
    "domain"}]. heldout: messages of conversations never trained on. known_words: of the corpus and
    the training conversations. training_replies: for "word for word". corpus_text: what of the
    corpus was trained on, for what replies share with it ("": not kept)."""

    heldout_text: str
    pairs: list
    prompts: list
    heldout: list
    known_words: list
    training_replies: list
    corpus_text: str = ""

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict, where: str, template: Template) -> "Probe":
        """The probe of a run folder's evaluation.json, checked."""

        def texts(x):
            return isinstance(x, list) and all(isinstance(t, str) for t in x)

        def asked(x):
            if not isinstance(x, list) or not x:
                return isinstance(x, str)
            check_messages([*x, {"role": "assistant", "content": "x"}], where, template)
            return True

        fields = set(cls.__dataclass_fields__)
        fine = (
            isinstance(data, dict)
            and fields - {"corpus_text"} <= set(data) <= fields
            and isinstance(data["heldout_text"], str)
            and len(data["heldout_text"]) > 1
            and isinstance(data.get("corpus_text", ""), str)
            and all(isinstance(data[f], list) for f in fields - {"heldout_text", "corpus_text"})
            and all(
                isinstance(pair, list)
                and len(pair) == 2
                and asked(pair[0])
                and isinstance(pair[1], str)
                for pair in data["pairs"]
            )
            and all(
                isinstance(p, dict) and texts([p.get("prompt"), p.get("domain")])
                for p in data["prompts"]
            )
            and texts(data["known_words"])
            and texts(data["training_replies"])
        )
        if not fine:
            raise DataError(f"{where}: not as this program writes it")
        for messages in data["heldout"]:
            check_messages(messages, where, template)
        return cls(**data)


def corpus_loss(model, ids: np.ndarray) -> float:
    """Mean nats per character of a text (L,), every target once."""
    return _mean_nll(model, tile_windows(ids, model.config.context))[0]


def loss_after_replay(model, settings, corpus: np.ndarray, heldout: np.ndarray, progress) -> float:
    """corpus_loss of `heldout` once `model`, a base, has been trained on alone, in place, on the
    very windows of `corpus` that a fine-tuning by `settings` replays, at its rates: what matched
    forgetting compares with. progress(text, last): a line for people."""
    plan = replay_alone(settings, corpus, model.config.vocab)
    if plan.steps:
        adam = AdamW(model, **settings.adam("sft"))
        model.reserve(plan.rows)
        for r in train(
            model, adam, plan.draw, plan.objective, plan.rate, plan.steps, settings.clip
        ):
            progress(f"the base alone: step {r.step:,} of {plan.steps:,}", r.step == plan.steps)
    return corpus_loss(model, heldout)


def conversation_loss(
    model, conversations: list, tokenizer: CharTokenizer, template: Template, grade: str = "all"
) -> tuple[float, int]:
    """(mean nats per graded token, how many conversations fitted the context and have one)."""
    examples = []
    for messages in conversations:
        ids, labels = shift(*render(messages, tokenizer, template, grade=grade))
        if len(ids) <= model.config.context and (labels != IGNORE).any():
            examples.append(Example(ids, labels))
    if not examples:
        return float("nan"), 0
    return _mean_nll(model, examples)


def _mean_nll(model, examples):
    total, graded = 0.0, 0
    per_batch = max(1, ROWS // model.config.context)
    for first in range(0, len(examples), per_batch):
        batch = Batch.of(
            examples[first : first + per_batch], model.config.vocab, model.config.context
        )
        nll, _ = model.forward(batch)
        total += float(nll.sum(dtype=np.float64))
        graded += int(batch.wanted.sum())
    return total / graded, len(examples)


def answer(
    model, tokenizer: CharTokenizer, template: Template, prompts: list
) -> list[tuple[str, Reply]]:
    """(text, Reply) for each prompt (a text, or the turns so far), greedy. A prompt that leaves no
    room gets an empty reply that was stopped by its length."""
    rendered = [
        render_prompt(
            [{"role": "user", "content": p}] if isinstance(p, str) else p, tokenizer, template
        )
        for p in prompts
    ]
    fits = [i for i, ids in enumerate(rendered) if len(ids) <= model.config.context]
    replies = [Reply(np.zeros(0, np.int32), "length")] * len(prompts)
    for i, reply in zip(
        fits, generate(model, [rendered[i] for i in fits], MAX_NEW, tokenizer.special[template.end])
    ):
        replies[i] = reply
    return [(tokenizer.decode(r.ids), r) for r in replies]


def _text(prompt) -> str:
    """What the user says in a prompt."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def before_reply(messages, turn: int | None = None):
    """What stands before a reply (messages[turn], or the first): a text, or the turns where there
    is more than one."""
    turn = (
        next(i for i, m in enumerate(messages) if m["role"] == "assistant")
        if turn is None
        else turn
    )
    return messages[0]["content"] if turn == 1 else messages[:turn]


def checks(reply: Reply, tokenizer: CharTokenizer, template: Template) -> tuple[bool, bool, bool]:
    """The source text's three: does it have content, does it stop at the end token, is there
    nothing in it that may not stand inside a reply (a control token, an opener in words)?"""
    allowed = {tokenizer.special[t] for t in template.tool_tokens if t in tokenizer.special}
    control = [i for i in reply.ids.tolist() if i >= len(tokenizer.characters) and i not in allowed]
    text = tokenizer.decode(reply.ids[reply.ids < len(tokenizer.characters)])
    return (
        bool(text.strip()),
        reply.stop == "end",
        not control and not any(m in text for m in template.forgeable),
    )


def complies(reply: Reply, tokenizer: CharTokenizer, template: Template) -> bool:
    """All three."""
    return all(checks(reply, tokenizer, template))


def on_topic(prompts: list[str], replies: list[str]) -> tuple[float, float]:
    """(rate, chance): the share of replies that name a content word of their prompt, and the same
    if each reply had been given to another prompt (the mean over all such pairs)."""
    asked, said = [subjects(p) for p in prompts], [subjects(r) for r in replies]
    n = len(asked)
    hits = sum(bool(a & s) for a, s in zip(asked, said))
    chance = float("nan")
    if n > 1:
        chance = (sum(bool(a & s) for a in asked for s in said) - hits) / (n * (n - 1))
    return hits / n, chance


def real_words(replies: list[str], known: set[str]) -> float:
    """The share of all the replies' words that are known; nan if there is no word at all."""
    said = [w for r in replies for w in words(r)]
    return sum(w in known for w in said) / len(said) if said else float("nan")


def measure(
    model, tokenizer: CharTokenizer, template: Template, probe: Probe, grade: str = "all"
) -> tuple[dict, dict]:
    """(figures, replies), what is graded being what the training graded: every figure of a tuned
    model by its name in the --json document, and the replies they were taken from, {"pairs":
    [(prompt, reply, stop)], "prompts": ..., "heldout": ...}."""
    questions = {
        "pairs": [p for p, _ in probe.pairs],
        "prompts": [p["prompt"] for p in probe.prompts],
        "heldout": [before_reply(c) for c in probe.heldout],
    }
    every = answer(model, tokenizer, template, sum(questions.values(), []))
    got, start = {}, 0
    for group, asked in questions.items():
        got[group] = every[start : start + len(asked)]
        start += len(asked)
    tuned = corpus_loss(model, tokenizer.encode(probe.heldout_text))
    heldout, fitted = conversation_loss(model, probe.heldout, tokenizer, template, grade)
    replies = [text for text, _ in got["prompts"]]
    known, training = set(probe.known_words), set(probe.training_replies)
    inside = [i for i, p in enumerate(probe.prompts) if p["domain"] == "in"]
    # In domain: subjects trained on, in words that were not. The list's and the held-out lines'.
    in_prompts = [questions["prompts"][i] for i in inside] + [
        _text(p) for p in questions["heldout"]
    ]
    in_replies = [replies[i] for i in inside] + [text for text, _ in got["heldout"]]
    rate, chance = on_topic(in_prompts, in_replies) if in_prompts else (float("nan"),) * 2

    def share(good, of):
        return good / of if of else float("nan")

    checked = [checks(r, tokenizer, template) for _, r in got["prompts"]]
    n = len(replies)
    figures = {
        "tuned_base_loss": tuned,
        "heldout_loss": heldout,
        "heldout_conversations": fitted,
        "recall": share(
            sum(
                r.stop == "end" and text == reply
                for (text, r), (_, reply) in zip(got["pairs"], probe.pairs)
            ),
            len(probe.pairs),
        ),
        "recall_of": len(probe.pairs),
        "stopped": share(sum(r.stop == "end" for _, r in got["pairs"]), len(probe.pairs)),
        "format_compliance": share(sum(map(all, checked)), n),
        "content": share(sum(c for c, _, _ in checked), n),
        "stopped_unseen": share(sum(s for _, s, _ in checked), n),
        "no_user_turn": share(sum(c for _, _, c in checked), n),
        "by_domain": _by_domain(probe.prompts, replies, checked, known, training),
        "prompts": n,
        "on_topic": rate,
        "on_topic_chance": chance,
        "in_domain_prompts": len(in_prompts),
        "real_words": real_words(in_replies, known),
        "reply_length": share(sum(map(len, replies)), n),
        "distinct_replies": len(set(replies)),
        "verbatim_replies": sum(r in training for r in replies),
    }
    return figures, {
        group: [(_text(q), text, r.stop) for q, (text, r) in zip(questions[group], got[group])]
        for group in questions
    }


def origins(replies: dict, probe: Probe) -> tuple[dict, dict]:
    """(counts by verdict over the unseen prompts of the list, the replies with their Origin as a
    fourth element): what of measure()'s replies is memorised (lab/provenance.py)."""
    source = Provenance(probe.training_replies, probe.corpus_text or None)
    traced = {
        group: [[*row, asdict(source.of(row[1]))] for row in rows]
        for group, rows in replies.items()
    }
    return summary([Origin(**row[3]) for row in traced["prompts"]])["counts"], traced


def _by_domain(prompts, replies, checked, known, training) -> dict:
    """What is said of all unseen prompts, of those of each domain."""
    found = {}
    for domain in dict.fromkeys(p["domain"] for p in prompts):
        here = [i for i, p in enumerate(prompts) if p["domain"] == domain]
        said = [replies[i] for i in here]
        rate, chance = on_topic([prompts[i]["prompt"] for i in here], said)
        found[domain] = finite(
            {
                "prompts": len(here),
                "format_compliance": sum(all(checked[i]) for i in here) / len(here),
                "on_topic": rate,
                "on_topic_chance": chance,
                "real_words": real_words(said, known),
                "distinct_replies": len(set(said)),
                "verbatim_replies": sum(r in training for r in said),
            }
        )
    return found


def finite(figures: dict) -> dict:
    """NaN has no place in JSON: what could not be measured is null."""
    return {
        k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in figures.items()
    }
