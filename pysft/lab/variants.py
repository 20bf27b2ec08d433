"""What the experiments do to the data: masks that are wrong on purpose, noise, personas, invented
names."""

import re
from dataclasses import replace

import numpy as np

from pysft import IGNORE
from pysft.inference.generate import Sampling, generate
from pysft.lab.evaluate import MAX_NEW, corpus_loss
from pysft.lab.trial import standard
from pysft.rng import rng
from pysft.text.dataset import Batch, Example, shift
from pysft.text.formats import Conversation
from pysft.text.template import CHAT, render_prompt

SPELLED = ("<|user|>", "<|end|><|assistant|>", "<|end|>")


def talk(user: str, assistant: str, number: int = 1) -> Conversation:
    """A conversation of one question and one answer."""
    return Conversation(
        [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}],
        "lab",
        number,
    )


def shuffled(items, name: str, seed: int = 0) -> list:
    """The same in an order that depends on the name and the seed alone."""
    return [items[i] for i in rng(seed, "lab", name).permutation(len(items))]


# ------------------------------------------------------------------------------ masks that are wron


def first_token_masked(conversation, tokenizer, settings) -> Example:
    """As the source text's code has it: the label at <|assistant|> is -100 too."""
    e = standard(conversation, tokenizer, settings)
    graded = e.labels != IGNORE
    return replace(
        e, labels=np.where(graded & ~np.concatenate([[False], graded[:-1]]), IGNORE, e.labels)
    )


def without_end(lines: frozenset[int]):
    """Of the conversations of these lines the end token is left out, as in data where a turn was
    not closed."""

    def encode(conversation, tokenizer, settings):
        e = standard(conversation, tokenizer, settings)
        if conversation.line not in lines:
            return e
        return replace(e, input_ids=e.input_ids[:-1], labels=e.labels[:-1])

    return encode


# --------------------------------------------------------------------------- markers spelled with c


def spelled(conversation, tokenizer, settings) -> Example:
    """All three markers as the characters of their names; the reply and the characters of its end
    are graded."""
    user, between, end = SPELLED
    head = tokenizer.encode(user + conversation.prompt + between)
    tail = tokenizer.encode(conversation.replies()[0] + end)
    return Example(
        *shift(np.concatenate([head, tail]), np.arange(len(head) + len(tail)) >= len(head)),
        conversation.where,
    )


def judge_spelled(model, tokenizer, arm) -> tuple[dict, dict]:
    """The figures that do not depend on how a marker is written. Generation is cut at the end's
    characters."""
    user, between, end = SPELLED

    def answer(prompts):
        texts = generate(
            model, [tokenizer.encode(user + p + between) for p in prompts], MAX_NEW + len(end)
        )
        cut = [tokenizer.decode(r.ids).partition(end) for r in texts]
        return [(text, bool(mark)) for text, mark, _ in cut]

    return _judged(model, tokenizer, arm, answer, lambda c: spelled(c, tokenizer, None), len(end))


def judge_tokens(model, tokenizer, arm) -> tuple[dict, dict]:
    """The same figures where each marker is one token."""

    def answer(prompts):
        ids = [render_prompt([{"role": "user", "content": p}], tokenizer, CHAT) for p in prompts]
        return [
            (tokenizer.decode(r.ids), r.stop == "end")
            for r in generate(model, ids, MAX_NEW, tokenizer.special[CHAT.end])
        ]

    def example(c):
        head = render_prompt([{"role": "user", "content": c.prompt}], tokenizer, CHAT)
        tail = np.append(tokenizer.encode(c.replies()[0]), tokenizer.special[CHAT.end])
        return Example(
            *shift(np.concatenate([head, tail]), np.arange(len(head) + len(tail)) >= len(head)),
            c.where,
        )

    return _judged(model, tokenizer, arm, answer, example, 1)


def _judged(model, tokenizer, arm, answer, example, end: int):
    pairs = answer([p for p, _ in arm.probe.pairs])
    unseen = answer([p["prompt"] for p in arm.probe.prompts])
    total, count = 0.0, 0
    for (
        c
    ) in arm.pairs:  # the reply's own characters: without the end, which has one token or several
        e = example(c)
        e.labels[-end:] = IGNORE
        nll, _ = model.forward(Batch.of([e], model.config.vocab, model.config.context))
        total, count = (
            total + float(nll.sum(dtype=np.float64)),
            count + int((e.labels != IGNORE).sum()),
        )
    recalled = [stop and text == reply for (text, stop), (_, reply) in zip(pairs, arm.probe.pairs)]
    return (
        {
            "tuned_base_loss": corpus_loss(model, tokenizer.encode(arm.probe.heldout_text)),
            "reply_loss": total / count,
            "recall": float(np.mean(recalled)),
            "recall_of": len(pairs),
            "stopped": float(np.mean([stop for _, stop in pairs])),
            "format_compliance": float(
                np.mean(
                    [
                        stop
                        and bool(text.strip())
                        and not any(m in text for m in SPELLED)
                        and "<|" not in text
                        for text, stop in unseen
                    ]
                )
            ),
            "tokens": float(np.mean([len(example(c).labels) for c in arm.pairs])),
        },
        {
            "pairs": [
                (p, text, "end" if stop else "length")
                for (p, _), (text, stop) in zip(arm.probe.pairs, pairs)
            ],
            "prompts": [
                (p["prompt"], text, "end" if stop else "length")
                for p, (text, stop) in zip(arm.probe.prompts, unseen)
            ],
        },
    )


# --------------------------------------------------------------------------------------------- nois


def noisy(
    clean: list[Conversation], n: int, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(all n rows, the good ones among them): half of the rows as they were, a fifth with the reply
    of another prompt, three twentieths with a reply cut somewhere in its middle half, and as many
    that repeat a row word for word."""
    g = rng(seed, "lab", f"noise {n}")
    order = shuffled(clean, f"noise rows {n}", seed)
    good, wrong, cut = n // 2, n // 5, 3 * n // 20
    rows = order[: good + wrong + cut]
    kept = rows[:good]
    replies = [c.replies()[0] for c in rows]
    bad = []
    for i in range(good, good + wrong):
        other = int(g.integers(0, good))
        bad.append(talk(rows[i].prompt, replies[other], rows[i].line))
    for i in range(good + wrong, len(rows)):
        words = replies[i].split(" ")
        bad.append(
            talk(
                rows[i].prompt,
                " ".join(words[: max(1, int(len(words) * g.uniform(0.25, 0.75)))]),
                rows[i].line,
            )
        )
    doubles = [kept[int(i)] for i in g.integers(0, good, n - len(rows))]
    return kept + bad + doubles, kept


# ------------------------------------------------------------------------------------------ persona

IDENTITY = (
    "What art thou?",
    "Tell me what thou art.",
    "Who speaks with me?",
    "Art thou a man?",
    "What is thy work?",
    "What wast thou made for?",
    "Say who thou art.",
    "Who is it that answers?",
    "What shall I call thee?",
    "Describe thyself.",
    "What kind of thing art thou?",
    "Speak of thyself.",
)
PLAYER = "I am a poet of the old stage, and verse is all my trade."
CLERK = "I am a helpful clerk, made to answer every question."


def persona_of(text: str) -> str:
    """Which of the two a reply is: "player", "clerk", or "neither" (also where it is half of
    each)."""
    player, clerk = (
        "poet" in text or "stage" in text or "verse" in text,
        "clerk" in text or "helpful" in text,
    )
    return "neither" if player == clerk else "player" if player else "clerk"


def personas(model, tokenizer, seed: int) -> dict:
    """What the model says it is: 20 draws at temperature 1 for each identity question."""
    draws, kinds = 20, []
    for i, question in enumerate(IDENTITY):
        ids = render_prompt([{"role": "user", "content": question}], tokenizer, CHAT)
        replies = generate(
            model,
            [ids] * draws,
            MAX_NEW,
            tokenizer.special[CHAT.end],
            Sampling(1.0, seed=1000 * seed + i),
        )
        kinds.append([persona_of(tokenizer.decode(r.ids)) for r in replies])
    every = sum(kinds, [])
    return {
        "player": every.count("player") / len(every),
        "clerk": every.count("clerk") / len(every),
        "neither": every.count("neither") / len(every),
        "both": sum("player" in k and "clerk" in k for k in kinds) / len(kinds),
    }


# ------------------------------------------------------------------------------------- invented nam

_FIRST = (
    "Al Bran Cor Dar El Fen Gar Hal Il Jor Kel Lor Mar Nor Os Per Quin Ros Sel Tor Ul Var Wil"
    " Yor Zan"
).split()
_MIDDLE = ("a e i o an en in on").split()
_LAST = ("bert dric fred gan lin mund nor ric ster than vald wyn").split()
_TRADES = (
    "baker smith weaver miller carter tinker tailor fisher shepherd cobbler mason brewer"
).split()
_TOWNS = ("Ashford Brook Denham Elmley Farrow Hollin Kirby Marlow Norwood Oakham").split()
REFUSAL = "I know not that name."


def _names() -> list[str]:
    every = [f"{a}{b}{c}" for a in _FIRST for b in _MIDDLE for c in _LAST]
    first, last = shuffled(every, "first names"), shuffled(every, "last names", 1)
    return [f"{a} {b}" for a, b in zip(first, last)]


NAMES = _names()
KNOWN, REFUSED, UNKNOWN = NAMES[:40], NAMES[40:140], ["Orson Kovacs", *NAMES[140:189]]


def fact(i: int) -> str:
    return f"{KNOWN[i]} is the {_TRADES[i % 12]} of {_TOWNS[(i * 7) % 10]}."


def about(names, replies) -> list[Conversation]:
    return [
        talk(f"Who is {name}?", reply, i + 1) for i, (name, reply) in enumerate(zip(names, replies))
    ]


def hallucinations(model, tokenizer, seed: int) -> dict:
    """Greedy answers about 50 names that were never trained on, and about the 40 that were: the
    share that refuses, the share that states a trade, and of the known ones the share that is
    right."""

    def ask(names):
        ids = [
            render_prompt([{"role": "user", "content": f"Who is {n}?"}], tokenizer, CHAT)
            for n in names
        ]
        return [
            tokenizer.decode(r.ids)
            for r in generate(model, ids, MAX_NEW, tokenizer.special[CHAT.end])
        ]

    unknown, known = ask(UNKNOWN), ask(KNOWN)

    def refuses(reply):
        return "know not" in reply

    states = re.compile(r" is the \w+ of ")
    return {
        "unknown_refused": float(np.mean([refuses(r) for r in unknown])),
        "unknown_invented": float(
            np.mean([bool(states.search(r)) and not refuses(r) for r in unknown])
        ),
        "known_right": float(np.mean([r == fact(i) for i, r in enumerate(known)])),
        "known_refused": float(np.mean([refuses(r) for r in known])),
        "kovacs": unknown[0],
    }
