"""Measure how long an iteration of PPO takes (writing, scoring, advantages, updates), against TRL.

    python bench/bench_rl.py                        # every method against TRL, and pysft alone
    python bench/bench_rl.py --short                # to see that everything works
    python bench/bench_rl.py --methods value        # PPO with a critic alone
    python bench/bench_rl.py --no-torch             # pysft alone

The model is that of tiny, with random weights. An iteration writes 64 replies of 40 tokens to
prompts of 40, at temperature 1, and learns from them in two updates, each from all of them. Every
reply has its full length, because no token ends one. The methods:

    value            a critic and a reward model, both of the policy's size, a reply to each of 64
                     prompts; TRL's PPOTrainer, which was taken out of TRL after 1.12
    group            4 replies to each of 16 prompts, compared with each other; the reward is a
                     function of the reply; TRL's GRPOTrainer
    leave-one-out    the same with the mean of the others; TRL's RLOOTrainer

"pysft bf16" is the same with products in bf16, where the processor has them. All have a reference
and a price of KL. TRL runs in float32 as fast as it goes: all replies in one
batch, a key-value cache, fused AdamW, no gradient checkpoints, nothing logged or saved (trl_peer.py
has its settings), and a malloc that keeps its memory. --compile adds "tuned TRL compile", the same
with torch_compile. To install TRL: pip install trl==1.12.0 requests.

pysft alone: iterations of 64 replies to 16 prompts, whose ends are drawn, so that they have some 40
tokens of at most 60. "critic" has no text beside the replies, and "world" 2 windows of base text
and 6 of a world, of 256 tokens, in each update. The table has the milliseconds of each part."""

import importlib.util
import time
from dataclasses import replace

import harness
import numpy as np
import report
from harness import TUNED_ENV, Worker, ratios, spread, take_turns
from report import with_quartiles

from pysft.batch import Example
from pysft.inference.score import values
from pysft.nn import gate, kernels
from pysft.nn.grow import copied, with_outputs
from pysft.nn.model import GPT
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.training import ppo, stages
from pysft.training.kinds import PolicyTuning
from pysft.training.presets import PRESETS

CONFIG = GPTConfig(vocab=68, context=256, layers=4, heads=4, channels=64)
METHODS = {"value": "PPO", "group": "GRPO", "leave-one-out": "RLOO"}  # baseline: TRL's trainer
OURS = ["pysft"] + ["pysft bf16"] * gate.HAS_BF16
PEERS = ["tuned TRL", "tuned TRL compile"]
PROMPT, POOL = 40, 4096  # tokens of a prompt, number of prompts
NEVER = -1  # an end that no model draws
LIMIT = 0.5  # seconds that an iteration of pysft alone may take
RATE = 1e-6  # so low that the models stay as they begin

COMPARED = {"tokens": 40, "epochs": 2, "windows": (), "beta": 0.02, "lr": RATE, "critic_lr": RATE}
SHAPES = {  # of pysft alone
    "critic": {"tokens": 60, "windows": ()},
    "world": {"tokens": 60, "windows": ((256, 2),), "world": ((256, 6),)},
}
PARTS = ["writing", "reward model", "reference, values", "policy", "critic"]


def shape_of(method):
    """The settings of PolicyTuning for an iteration that is compared with TRL's."""
    prompts, replies = (64, 1) if method == "value" else (16, 4)
    return {**COMPARED, "baseline": method, "prompts": prompts, "replies": replies}


def prompts():
    return rng(1, "bench", "prompts").integers(0, CONFIG.vocab, (POOL, PROMPT)).astype(np.int32)


def reward_of(ids):
    """A reward that is a function of a reply: the share of its ids in the lower half."""
    return sum(int(i) < CONFIG.vocab // 2 for i in ids) / len(ids)


# ------------------------------------------------------------------------------------- the runners


def build(runner, threads, method=None, shape=None):
    """A worker's functions. method: as in METHODS, or shape: as in SHAPES."""
    precision = "bf16" if "bf16" in runner else CONFIG.precision
    config = replace(CONFIG, precision=precision)
    policy = GPT(config, kernels.on_threads(threads), rng(1, "bench", "init"))
    if runner in OURS:
        changes = shape_of(method) if method else {**SHAPES[shape], "lr": RATE, "critic_lr": RATE}
        learner = learner_of(policy, changes, NEVER if method else CONFIG.vocab - 1)

        def step():
            found = learner.take(learner.steps)
            assert found.figures["ratio_moved"] == 0
            assert not method or found.figures["length"] == changes["tokens"]

        return {"step": step, "parts": lambda steps: parts_of(learner, steps)}
    import torch
    from bench_rollouts import renamed
    from trl_peer import iterations

    torch.set_num_threads(threads)
    given = METHODS[method], CONFIG, renamed(policy, torch), prompts(), shape_of(method)
    return {"step": iterations(*given, reward_of, threads, "compile" in runner)}


def learner_of(policy, changes: dict, end: int) -> ppo.Iterations:
    """PPO on random models, with the settings of PolicyTuning that `changes` names."""
    settings = PRESETS["tiny"].with_stages(["ppo"]).changed({"world": {}, "ppo": changes})
    stage: PolicyTuning = settings.stages["ppo"]
    text = rng(1, "bench", "text").integers(0, CONFIG.vocab, 100_000).astype(np.int32)
    asked = list(prompts())
    plan, pick = stages.ppo(
        settings, "ppo", [PROMPT] * POOL, text, CONFIG.context, text if stage.world else None
    )
    plan = replace(plan, rate=lambda step: RATE)  # of an iteration beyond the last one too
    valued = [with_outputs(policy, "value", rng(i, "bench", "value")) for i in range(2)]
    critic = valued[0] if stage.baseline == "value" else None

    def score(numbers, rollouts):
        if critic is None:
            return np.array([reward_of(r.ids) for r in rollouts]), {}
        return values(valued[1], [whole(r.example) for r in rollouts]), {}

    task = ppo.Task(asked, pick, score, end)
    reference = copied(policy, policy.config.precision)
    return ppo.Iterations(policy, reference, critic, task, plan, stage, 1, "ppo")


def whole(reply: Example) -> Example:
    """A reply with its last token, for a reward model that reads it there."""
    ids = np.append(reply.input_ids, reply.labels[-1])
    labels = np.full_like(ids, -100)
    return Example(ids, labels, wanted=np.arange(len(ids)) == len(ids) - 1)


def parts_of(learner: ppo.Iterations, steps: int) -> dict:
    """{part: seconds of it in `steps` iterations, "tokens": the mean length of a reply}. The part
    "rest" is what the others leave."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(function, part_of):
        def call(*arguments):
            start = time.perf_counter()
            found = function(*arguments)
            spent[part_of(*arguments)] += time.perf_counter() - start
            return found

        return call

    plain = ppo.roll_out, ppo.train_step, learner.task
    ppo.roll_out = timed(ppo.roll_out, lambda *_: "writing")
    is_policy = {True: "policy", False: "critic"}
    ppo.train_step = timed(ppo.train_step, lambda model, *_: is_policy[model is learner.model])
    learner.task = replace(learner.task, score=timed(learner.task.score, lambda *_: "reward model"))
    learner._weigh = timed(learner._weigh, lambda *_: "reference, values")
    start = time.perf_counter()
    lengths = [learner.take(learner.steps).figures["length"] for _ in range(steps)]
    whole = time.perf_counter() - start
    ppo.roll_out, ppo.train_step, learner.task = plain
    del learner._weigh
    return spent | {"rest": whole - sum(spent.values()), "tokens": float(np.mean(lengths))}


# -------------------------------------------------------------------------------------- the report


def measure(runners, args, **spec):
    """One row of the report."""
    medians, memory, parts = {r: [] for r in runners}, {r: 0 for r in runners}, []
    for _ in range(args.processes):
        workers = {
            r: Worker(TUNED_ENV if "tuned" in r else {}, runner=r, threads=args.threads, **spec)
            for r in runners
        }
        for r, found in take_turns(workers, args.rounds, 0.1 if args.short else 1.0).items():
            medians[r] += found
        steps = 2 if args.short else 10
        found = workers["pysft"].ask("parts", steps=steps)
        tokens = found.pop("tokens")
        parts.append({name: seconds / steps for name, seconds in found.items()})
        for r, w in workers.items():
            memory[r] = max(memory[r], w.ask("memory"))
            w.close()
    row = {**spec, "tokens": tokens, "runners": {}}
    row["parts"] = {name: float(np.median([p[name] for p in parts])) for name in parts[0]}
    for r, found in medians.items():
        row["runners"][r] = {
            "seconds": spread(found),
            "ratio": ratios(found, medians["pysft"]),
            "range": [float(f(np.array(found) / medians["pysft"])) for f in (np.min, np.max)],
            "peak_bytes": memory[r],
        }
    return row


def compared_as_text(row):
    """A row of a method as text."""
    head = [f"{row['method']}: {METHODS[row['method']]}", "ms an iteration (quartiles)"]
    head += ["x pysft's time", "range", "peak MiB"]
    cells = []
    for r, m in row["runners"].items():
        low, high = m["range"]
        ratio = [with_quartiles(m["ratio"]), f"{low:.2f}..{high:.2f}"] if r != "pysft" else ["", ""]
        milliseconds = with_quartiles(m["seconds"], 1, scale=1e3)
        cells.append([r, milliseconds, *ratio, f"{m['peak_bytes'] / 2**20:,.0f}"])
    return report.table(head, cells)


def alone_as_text(rows):
    """The rows of pysft alone as text."""
    names = list(rows[0]["parts"])
    cells = []
    for row in rows:
        time, parts = row["runners"]["pysft"]["seconds"], row["parts"]
        is_fast = "yes" if time["median"] < LIMIT else "NO"
        cells.append(
            [
                row["shape"],
                f"{row['tokens']:.1f}",
                with_quartiles(time, 1, scale=1e3),
                is_fast,
                *(f"{1e3 * parts[name]:.1f}" for name in names),
            ]
        )
    head = ["pysft alone", "tokens", "ms (quartiles)", f"below {LIMIT * 1e3:.0f} ms", *names]
    return report.table(head, cells)


def peers_of(method, has_trl, compiles):
    """The runners of TRL that a method is compared with."""
    if not has_trl:
        return []
    if METHODS[method] == "PPO" and importlib.util.find_spec("trl.experimental.ppo") is None:
        harness.say(
            "this TRL has no PPOTrainer. The last that had it: pip install trl==1.12.0 requests"
        )
        return []
    return PEERS[: 1 + compiles]


def main():
    parser = report.arguments(__doc__)
    methods = ",".join(METHODS)
    parser.add_argument(
        "--methods", type=report.one_of(METHODS), default=list(METHODS), help=f"some of {methods}"
    )
    parser.add_argument("--no-torch", action="store_true", help="measure pysft alone")
    parser.add_argument("--compile", action="store_true", help="run TRL with torch.compile too")
    args = report.settle(parser.parse_args(), short=(3, 1), full=(7, 3))
    machine, show = report.begin(args)
    has_trl = harness.compares(args) and importlib.util.find_spec("trl") is not None
    if not has_trl and not args.no_torch:
        harness.say("TRL is not compared with: pip install torch trl==1.12.0 requests")
    result = {"machine": machine, "rows": [], "alone": []}
    for method in args.methods:
        peers = peers_of(method, has_trl, args.compile)
        if peers:
            harness.say(f"{method} ...")
            row = measure([*OURS, *peers], args, method=method)
            result["rows"].append(row)
            show("\n" + compared_as_text(row))
    for shape in SHAPES:
        harness.say(f"pysft alone, {shape} ...")
        result["alone"].append(measure(["pysft"], args, shape=shape))
    show("\n" + alone_as_text(result["alone"]))
    times = {
        row.get("method") or row["shape"]: {r: m["seconds"] for r, m in row["runners"].items()}
        for row in result["rows"] + result["alone"]
    }
    report.finish(args, result, [("seconds an iteration", times)])


if __name__ == "__main__":
    report.run(main, build)
