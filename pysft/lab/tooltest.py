"""The tool test: questions whose answers only the search can give, about facts and in wordings never trained on."""

import numpy as np

from pysft.inference.generate import generate
from pysft.inference.session import parts, pause
from pysft.inference.tools import Document, Search, tools
from pysft.lab.evaluate import MAX_NEW
from pysft.rng import rng
from pysft.text.template import Template, render_prompt
from pysft.text.tokenizer import CharTokenizer
from pysft.text.transcripts import HELD_OUT, Fact, Lexicon, invent, name, refusal, town

INVENTED = 100  # facts beside the town's
STRANGERS = 50  # names that nothing is known of, and as many that share a word with a known one


def tool_test(model, tokenizer: CharTokenizer, template: Template, probe, seed: int = 0) -> dict:
    """Shares (0 to 1), all replies greedy:

    called, queried, answered    of questions about held-out facts: the search was called, with the very name, and the reply is
                                 the fact, word for word; town_answered of the shipped town's alone
    answered_without             the last with the search switched off
    refused                      of names that no document is about, those answered by the refusal (near misses included:
                                 refused_near of names that share a word with a known one)
    quiet                        of ordinary questions (the unseen prompts and the held-out conversations), those without a call"""
    g = rng(seed, "tools", "test")
    lexicon = Lexicon(probe.heldout_text)  # no sentence of it was trained on
    held, made = town(trained=False), [invent(g, lexicon) for _ in range(INVENTED)]
    everything = [*town(trained=True), *held, *made]
    search = Search([Document(f.title, f.text) for f in everything])
    asked = [(f, HELD_OUT[f.kind][int(g.integers(0, len(HELD_OUT[f.kind])))].format(f.title)) for f in [*held, *made]]
    near, far = strangers(g, everything, lexicon)
    unknown = [HELD_OUT["person"][i % 2].format(title) for i, title in enumerate([*near, *far])]
    ordinary = [p["prompt"] for p in probe.prompts] + [c[0]["content"] for c in probe.heldout if len(c) == 2]
    with_search, without = tools(search), {}

    def answers(questions, having):
        prompts = [render_prompt([{"role": "user", "content": q}], tokenizer, template) for q in questions]
        replies = generate(model, prompts, MAX_NEW, tokenizer.special[template.end], pause=pause(tokenizer, template, having))
        return [({kind: [p["text"] for p in found if p["type"] == kind] for kind in ("search", "text")}, r.stop)
                for r in replies for found in [parts(r.ids, tokenizer, template)]]

    def right(fact, found, stop):
        return stop == "end" and found["text"][-1:] == [fact.text]

    known = answers([q for _, q in asked], with_search)
    good = [right(f, *a) for (f, _), a in zip(asked, known)]
    off = [right(f, *a) for (f, _), a in zip(asked, answers([q for _, q in asked], without))]
    refused = [a["text"][-1:] == [refusal(title)] and stop == "end" for title, (a, stop) in zip([*near, *far], answers(unknown, with_search))]
    quiet = [not a["search"] for a, _ in answers(ordinary, without)]
    return {"called": float(np.mean([bool(a["search"]) for a, _ in known])),
            "queried": float(np.mean([a["search"][:1] == [f.title] for (f, _), (a, _) in zip(asked, known)])),
            "answered": float(np.mean(good)), "town_answered": float(np.mean(good[:len(held)])), "answered_of": len(good),
            "answered_without": float(np.mean(off)), "refused": float(np.mean(refused)),
            "refused_near": float(np.mean(refused[:len(near)])), "refused_of": len(refused),
            "quiet": float(np.mean(quiet)), "quiet_of": len(quiet)}


def strangers(g: np.random.Generator, facts: list[Fact], lexicon: Lexicon) -> tuple[list[str], list[str]]:
    """(names that share a first or a last word with a person of the facts, names that share none), none of them known."""
    taken = {f.title for f in facts}
    people = [f.title.split() for f in facts if f.kind == "person"]
    near, far = [], ["Orson Kovacs"]
    while len(near) < STRANGERS:
        own = people[int(g.integers(0, len(people)))]
        title = f"{own[0]} {name(g, lexicon)}" if len(near) % 2 else f"{name(g, lexicon)} {own[-1]}"
        if title not in taken:
            near.append(title)
    while len(far) < STRANGERS:
        far.append(f"{name(g, lexicon)} {name(g, lexicon)}")
    return near, far


def told(t: dict) -> list[tuple[str, str]]:
    """The figures as rows of the table."""
    return [("tools: held-out facts", f"{t['answered']:.0%} of {t['answered_of']} answered right (the town's {t['town_answered']:.0%}), "
             f"{t['answered_without']:.0%} without the search; called {t['called']:.0%}, right name {t['queried']:.0%}"),
            ("tools: unknown names", f"{t['refused']:.0%} of {t['refused_of']} refused (near misses {t['refused_near']:.0%})"),
            ("tools: ordinary prompts", f"{t['quiet']:.0%} of {t['quiet_of']} without a call")]
