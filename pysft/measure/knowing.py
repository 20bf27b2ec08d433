"""What a model knows: the map of its knowledge that asking every question several times draws, and
the conversations that teach it to refuse what it does not know.

    the model is                     the rows that it is trained on
    known      nearly always right   its own right answer
    mixed      sometimes right       its right answers alone
    unknown    hardly ever right     a refusal
    malformed  mostly no answer      none: whether it knows cannot be seen

A refusal is no right answer, even where nothing can be known: such a question is unknown.

The source text takes this from Llama 3 (Grattafiori et al. 2024, section 4.3.6). The map is of one
model: another one knows something else."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pysft.rng import rng
from pysft.text.curated import Curated

KNOWN, MIXED, UNKNOWN, MALFORMED = CLASSES = ("known", "mixed", "unknown", "malformed")
LEAST_KNOWN, MOST_UNKNOWN = 0.6, 0.125  # shares of right replies
TAUGHT = 500  # tellings from which on a fact is meant to be known


@dataclass(frozen=True)
class Asked:
    """A question. prompt: messages. answer: a right reply, "" if nobody says. refusal: what is
    taught to whoever does not know it. about: whom or what it asks about, "" if nobody says.
    tellings: how often a text tells the answer; None if that is not known."""

    prompt: list[dict]
    answer: str
    refusal: str
    about: str = ""
    tellings: int | None = None


@dataclass(frozen=True)
class Probed:
    """A question with the replies of a model. verdicts: of each reply, as world/judge.py names
    them; None where the judge gave none. right: the share of right ones; None if a verdict is
    missing. kind: one of CLASSES; "" if a verdict is missing. surprise: the mean loss of the text
    of the question, in nats per token; what the template writes around it does not count."""

    asked: Asked
    replies: tuple[str, ...]
    verdicts: tuple[str | None, ...]
    right: float | None
    kind: str
    surprise: float = float("nan")

    def right_replies(self) -> list[str]:
        """The different right replies, the most frequent first."""
        found = [r for r, verdict in zip(self.replies, self.verdicts) if verdict == "right"]
        return [reply for reply, _ in Counter(found).most_common()]

    def to_row(self) -> dict:
        """The row of a file that holds the map."""
        a = self.asked
        return {
            "prompt": a.prompt,
            "answer": a.answer,
            "about": a.about,
            "tellings": a.tellings,
            "replies": list(self.replies),
            "verdicts": list(self.verdicts),
            "right": self.right,
            "kind": self.kind,
            "surprise": self.surprise,
        }


def probed(
    asked: Asked, replies, verdicts, least_known: float, most_unknown: float, surprise: float
) -> Probed:
    """Classify a question. It is known if the share of right replies is at least `least_known`, and
    unknown if it is at most `most_unknown`, but malformed if more than half of the replies are. One
    of which a verdict is missing has no kind, which is "": few verdicts would sort it by chance."""
    if None in verdicts:
        return Probed(asked, tuple(replies), tuple(verdicts), None, "", surprise)
    right = verdicts.count("right") / len(verdicts)
    kind = KNOWN if right >= least_known else UNKNOWN if right <= most_unknown else MIXED
    if verdicts.count(MALFORMED) > len(verdicts) / 2:
        kind = MALFORMED
    return Probed(asked, tuple(replies), tuple(verdicts), right, kind, surprise)


# ------------------------------------------------------------------------------------ the figures


def map_figures(found: list[Probed], other: dict[str, str] | None = None) -> dict:
    """Return the figures of a map.

    known, mixed, unknown, malformed   how many questions are of each kind
    not_judged         questions without a kind: the judge gave no verdict on one of the replies
    right              mean share of right replies, of the questions with a kind, like all below
    balanced_accuracy  of the map, where the tellings are known: the mean of the share of questions
                       with TAUGHT or more tellings that it calls known, and of the share of those
                       with none that it calls unknown; None if there are not both
    by_tellings        [{"tellings", "questions", "right", and the share of each kind}]; [] if they
                       are not known
    surprise           {"known", "unknown": mean nats per token of the text of these, "auc": how
                       often an unknown one is more surprising than a known one; 0.5 is chance};
                       None without both
    agreement          share of the questions that are of the same kind in another map, among those
                       with a kind in both; None without one. other: {key(prompt): kind} of that map
    chance             the share that two maps with the same numbers of each kind would agree on if
                       they had nothing to do with each other"""
    judged = [p for p in found if p.kind]
    count = Counter(p.kind for p in judged)
    told: dict[int, list[Probed]] = {}
    for p in judged:
        if p.asked.tellings is not None:
            told.setdefault(p.asked.tellings, []).append(p)
    taught = [p.kind == KNOWN for n, some in told.items() if n >= TAUGHT for p in some]
    never = [p.kind == UNKNOWN for p in told.get(0, ())]
    is_designed = taught and never
    return {
        **{kind: count[kind] for kind in CLASSES},
        "not_judged": len(found) - len(judged),
        "right": float(np.mean([p.right for p in judged])) if judged else None,
        "balanced_accuracy": float(np.mean(taught) + np.mean(never)) / 2 if is_designed else None,
        "by_tellings": [
            {
                "tellings": n,
                "questions": len(some),
                "right": float(np.mean([p.right for p in some])),
                **{kind: sum(p.kind == kind for p in some) / len(some) for kind in CLASSES},
            }
            for n, some in sorted(told.items())
        ],
        "surprise": _surprise(judged),
        **_agreement(judged, other),
    }


def _surprise(judged: list[Probed]) -> dict | None:
    """ "surprise" of map_figures()."""
    known, unknown = (
        np.array([p.surprise for p in judged if p.kind == kind]) for kind in (KNOWN, UNKNOWN)
    )
    if not len(known) or not len(unknown):
        return None
    rank = np.searchsorted(np.sort(known), unknown, "left")
    ties = np.searchsorted(np.sort(known), unknown, "right") - rank
    return {
        "known": float(known.mean()),
        "unknown": float(unknown.mean()),
        "auc": float((rank + ties / 2).mean()) / len(known),
    }


def _agreement(judged: list[Probed], other: dict[str, str] | None) -> dict:
    """ "agreement" and "chance" of map_figures()."""
    pairs = (
        [(p.kind, kind) for p in judged if (kind := other.get(key(p.asked.prompt)))]
        if other
        else []
    )
    if not pairs:
        return {"agreement": None, "chance": None}
    here, there = (Counter(kinds) for kinds in zip(*pairs))
    n = len(pairs)
    return {
        "agreement": sum(a == b for a, b in pairs) / n,
        "chance": sum(here[kind] * there[kind] for kind in CLASSES) / n**2,
    }


def key(prompt: list[dict]) -> str:
    """What two maps know a question by."""
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


# --------------------------------------------------------------------------------------- the rows


def taught_rows(
    found: list[Probed], others: int, share: float, seed: int, by: str
) -> tuple[list[Curated], dict]:
    """Return (the rows to train on, {"answers", "refusals", "wanted", "share"}).

    others: conversations that they will be mixed with. share: of the refusals among all. They are
    drawn from the unknown questions, each name as often as another. If there are too few, all are
    taken: "wanted" says how many there should be and "share" what they come to."""
    answers = [
        _row(p.asked.prompt, reply, p, by)
        for p in found
        if p.kind in (KNOWN, MIXED)
        for reply in p.right_replies()[: 1 if p.kind == KNOWN else None]
    ]
    wanted = round(share / (1 - share) * (others + len(answers)))
    unknown = _by_turns([p for p in found if p.kind == UNKNOWN], seed)[:wanted]
    refusals = [_row(p.asked.prompt, p.asked.refusal, p, by) for p in unknown]
    total = others + len(answers) + len(refusals)
    counts = {
        "answers": len(answers),
        "refusals": len(refusals),
        "wanted": wanted,
        "share": len(refusals) / total if total else 0.0,
    }
    return answers + refusals, counts


def _row(prompt: list[dict], reply: str, p: Probed, by: str) -> Curated:
    reply = {"role": "assistant", "content": reply}
    row = Curated([*prompt, reply], marks={"synthetic": True})
    return row.after("probe", by=by, kind=p.kind, right=p.right, tries=len(p.replies))


def _by_turns(found: list[Probed], seed: int) -> list[Probed]:
    """The questions in a random order in which each name comes once before any comes twice."""
    order = rng(seed, "probe", "refusals").permutation(len(found)).tolist()
    seen, numbered = Counter(), []
    for place, i in enumerate(order):
        about = found[i].asked.about or key(found[i].asked.prompt)
        numbered.append((seen[about], place, i))
        seen[about] += 1
    return [found[i] for _, _, i in sorted(numbered)]
