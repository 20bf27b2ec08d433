"""The same seed draws the same data. The figures of README and of the guide were measured on these
draws. Whoever changes one measures again, and pins what comes out then."""

import hashlib
import json

import numpy as np

from pysft.batch import Example
from pysft.lab import names
from pysft.lab.variants import exchange, noisy, shuffled
from pysft.rng import rng
from pysft.text.facts import Fact, Lexicon, invent
from pysft.text.transcripts import transcripts
from pysft.training.settings import FineTuning, Model, Pretraining, Settings
from pysft.training.stages import finetune, pretrain

TEXT = """
Once upon a time the old miller of the valley had three sons, and to the eldest he gave the mill,
to the second the donkey, and to the youngest nothing but the cat that slept beside the oven. So
the boy sat down by the river, and thought that with a cat and an empty sack nobody could go far
in a world where even princes were hungry; yet the cat asked for boots, a feather and a little
patience.
"""
TOWN = [
    Fact("Ada Brook", "person", "Ada Brook mends the nets of the harbour."),
    Fact("Mill Lane", "place", "Mill Lane is the way to the river."),
    Fact("The Red Bell", "thing", "The Red Bell hangs over the gate."),
    Fact("home of Ada Brook", "home", "Ada Brook lives on Mill Lane."),
    Fact("friend of Ada Brook", "friend", "Ada Brook walks with Tom Reed."),
]
ORDINARY = [("Speak of love", "Love is kind."), ("I am sad", "Take heart."), ("Sing", "La.")]
PLANS = Settings(
    model=Model(context=12, channels=16, layers=1, heads=2),
    stages={
        "base": Pretraining(windows=((8, 2), (4, 3)), steps=9, warmup=3),
        "sft": FineTuning(windows=((4, 2),), tokens=24, pairs=2, steps=9, warmup=3),
    },
)


def digest(*documents) -> str:
    """The beginning of the SHA-256 of some JSON documents."""
    text = json.dumps(documents, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_transcripts_of_a_seed():
    lexicon = Lexicon(TEXT)
    made = transcripts(400, TOWN, lexicon, 1, known=0.6, ordinary=ORDINARY)
    assert digest(*([c.messages, c.line] for c in made)) == "811d6cfd3e9ab06a"
    facts = [invent(rng(1, "a", "b", i), lexicon, 0.3) for i in range(200)]
    assert digest(*([f.title, f.kind, f.text] for f in facts)) == "926b419127c94f3e"


def test_rows_with_noise_and_orders_of_a_seed():
    clean = [exchange(f"q{i}", " ".join(f"w{i * j}" for j in range(9)), i) for i in range(80)]
    every, good = noisy(clean, 60, 2)
    assert digest(*([c.messages, c.line] for c in every + good)) == "1e0eadbb97cd9365"
    assert digest(shuffled(range(50), "a", 1), shuffled(range(50), "b", 2)) == "3e734dd68f721228"


def test_names_and_facts_that_the_lab_invents():
    facts = [names.fact(i) for i in range(len(names.KNOWN))]
    assert digest(names.KNOWN, names.REFUSED, names.UNKNOWN, facts) == "6709381fb37577c9"


def test_what_the_steps_of_a_stage_draw_and_at_which_rate():
    corpus = np.random.Generator(np.random.Philox(3)).integers(0, 60, 200).astype(np.int32)
    examples = [
        Example(np.full(4 + i % 7, i % 60, np.int32), np.full(4 + i % 7, 1, np.int32), f"line {i}")
        for i in range(40)
    ]
    plans = [
        pretrain(PLANS, "base", corpus, 68),
        finetune(PLANS, "sft", examples[:30], examples[30:], corpus, 68),
    ]
    for plan, expected in zip(plans, ["1d1f610143001a63", "75f9427a8e9c59b6"], strict=True):
        drawn = [
            [x.tolist() for x in (b.tokens, b.labels, b.cu_seqlens, np.asarray(b.weight))]
            for step in range(plan.steps)
            for b in plan.draw(step)
        ]
        rates = [f"{plan.rate(step):.12e}" for step in range(plan.steps)]
        assert digest(drawn, rates) == expected
