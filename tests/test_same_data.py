"""The same seed draws the same data. The figures of README and of the guide were measured on these
draws. Whoever changes one measures again, and pins what comes out then."""

import hashlib
import json

import numpy as np
import pytest
from texts import transcripts

from pysft.batch import Example
from pysft.lab.variants import exchange, noisy, shuffled
from pysft.rng import rng
from pysft.training.kinds import FineTuning, Pretraining
from pysft.training.presets import TOOLS, WITH_TOOLS, resolve
from pysft.training.settings import Model, Settings
from pysft.training.stages import finetune, pretrain
from pysft.world.town import Fact, Words, invent

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

# The recipes of the presets: (model, base, sft), with what they have in common.
MODEL = {"context": 256, "layers": 4, "heads": 4, "channels": 64, "tied": False}
COMMON = {
    **{"warmup": 100, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "decay_all": False, "clip": 1.0},
    **{"micro_batches": 1, "decay": 0.1, "schedule": "cosine"},
}
BASE = COMMON | {"steps": 3000, "lr": 3e-3, "windows": [[64, 16], [256, 4]]}
SFT = COMMON | {
    **{"steps": 2500, "lr": 5e-3, "schedule": "linear", "warmup": 50, "decay": 0.3},
    **{"tokens": 1600, "pairs": 4, "windows": [[256, 4]], "window_weight": 1.0},
    **{"replacement": False, "new_rows": "mean", "lora_rank": 0, "lora_alpha": 0.0},
}
SOURCE = {"schedule": "constant", "warmup": 0, "beta2": 0.999, "decay": 0.01, "decay_all": True}
SOURCE |= {"clip": 0.0}
WITH = {"decay": 0.1, "tokens": 1700, "pairs": 2, "windows": [[256, 1]]}
RECIPES = {
    ("seed", False): (
        MODEL | {"context": 64},
        BASE | SOURCE | {"steps": 5000, "lr": 3e-4, "windows": [[64, 32]]},
        SFT
        | SOURCE
        | {"steps": 1000, "lr": 1e-4, "tokens": 1024, "pairs": 16, "windows": []}
        | {"replacement": True, "new_rows": "random"},
    ),
    ("tiny", False): (MODEL, BASE, SFT),
    ("tiny", True): (MODEL, BASE | {"steps": 2000}, SFT | WITH | {"steps": 8500}),
    ("mini", False): (
        MODEL | {"layers": 6, "heads": 8, "channels": 128},
        BASE | {"lr": 2e-3},
        SFT | {"steps": 1000, "lr": 8e-3, "tokens": 4400, "windows": [[256, 8]]},
    ),
    ("mini", True): (
        MODEL | {"layers": 6, "heads": 8, "channels": 128},
        BASE | {"lr": 2e-3, "steps": 1200},
        SFT | WITH | {"steps": 5600, "lr": 4e-3},
    ),
    ("small", False): (MODEL | {"layers": 6, "heads": 6, "channels": 384}, BASE, SFT),
}


def digest(*documents) -> str:
    """The beginning of the SHA-256 of some JSON documents."""
    text = json.dumps(documents, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_transcripts_of_a_seed():
    lexicon = Words(TEXT)
    made = transcripts(400, TOWN, lexicon, 1, known=0.6, ordinary=ORDINARY)
    assert digest(*([c.messages, c.line] for c in made)) == "811d6cfd3e9ab06a"
    facts = [invent(rng(1, "a", "b", i), lexicon, 0.3) for i in range(200)]
    assert digest(*([f.title, f.kind, f.text] for f in facts)) == "926b419127c94f3e"


def test_rows_with_noise_and_orders_of_a_seed():
    clean = [exchange(f"q{i}", " ".join(f"w{i * j}" for j in range(9)), i) for i in range(80)]
    every, good = noisy(clean, 60, 2)
    assert digest(*([c.messages, c.line] for c in every + good)) == "1e0eadbb97cd9365"
    assert digest(shuffled(range(50), "a", 1), shuffled(range(50), "b", 2)) == "3e734dd68f721228"


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


@pytest.mark.parametrize("preset, tools", RECIPES, ids=str)
def test_the_recipe_of_a_preset(preset, tools):
    document = json.loads(json.dumps(resolve(preset, tools=tools).to_json()))
    for table, recipe in zip(("model", "base", "sft"), RECIPES[preset, tools], strict=True):
        assert document[table].items() >= recipe.items(), table
    assert document["data"]["transcripts"] == (40_000 if tools else 0)
    assert document["data"]["mix"] == ([1.0, 4.0] if tools else [])
    shipped = "pairs" if preset == "seed" else "conversations+pairs"
    assert document["data"]["shipped"] == shipped


def test_the_recipe_of_a_model_that_learns_tools_afterwards():
    assert WITH_TOOLS.keys() == {"tiny", "mini"}
    assert TOOLS["data"] == {"shipped": "conversations", "transcripts": 120_000, "mix": (1.0, 3.0)}
    learns = {"steps": 55_000, "lr": 2.5e-3, "decay": 0.1, "tokens": 1700, "windows": ((256, 2),)}
    assert TOOLS["sft"] == learns
