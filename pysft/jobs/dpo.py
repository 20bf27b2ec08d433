"""DPO as a stage of a run: a model that talks is tuned on pairs of a better and a worse reply, so
that it gives replies like the better ones more often."""

import time
from contextlib import closing
from dataclasses import replace

import numpy as np

from pysft.batch import Example, in_batches
from pysft.inference.sampling import GREEDY, Sampling
from pysft.inference.score import log_probabilities
from pysft.jobs.begin import Place
from pysft.jobs.compare import Sides, compared, parent_figures
from pysft.jobs.comparisons import JUDGED, Comparisons, keep_heldout
from pysft.jobs.material import Material
from pysft.jobs.measured import measured, measured_on_the_way
from pysft.jobs.pretrain import announce
from pysft.measure.alignment import exact_kl, gain_figures, split_scores, win_figures
from pysft.measure.evaluate import answer, checks, finite
from pysft.measure.memory import refuse_too_large, say_memory
from pysft.measure.probe import Probe
from pysft.measure.ratio import ratio, rise
from pysft.nn.grow import copied
from pysft.nn.shapes import sizes
from pysft.rng import rng
from pysft.run.checkpoints import drop_checkpoints
from pysft.run.stage import Stage, save_origin, save_stage, weights_sha256, write_json
from pysft.text.compared import graded_examples
from pysft.text.examples import reply_example
from pysft.text.ranking import Ranking
from pysft.text.render import render_prompt
from pysft.training import stages
from pysft.training.runner import stage_figures, train_stage
from pysft.training.settings import Settings

SAMPLES = 4  # replies at temperature 1 to each prompt that is judged


def train_dpo(
    name: str,
    settings: Settings,
    parent: Stage,
    comparisons: Comparisons,
    material: Material,
    probe: Probe,
    base_loss: float | None,
    place: Place,
) -> tuple[Stage, dict, Sides]:
    """Train the stage `name` on comparisons, and measure it. Return (the stage, its report, its
    replies beside the parent's).

    settings: the run's, with this stage alone. material: the text to replay. probe: what the parent
    was measured with. base_loss: of the base under it; None if that is not known."""
    screen, folder, stage = place.screen, place.folder / name, settings.stages[name]
    pairs = pairs_of(parent, comparisons.trained)
    corpus, world = (
        parent.tokenizer.encode(material.train_text),
        material.world_ids(parent.tokenizer),
    )
    plan = stages.dpo(settings, name, pairs, corpus, parent.model.config.vocab, world)
    stage = replace(stage, steps=plan.steps, warmup=min(stage.warmup, plan.steps))
    settings = replace(settings, stages={name: stage})
    model = copied(parent.model, settings.model.precision)
    refuse_too_large(model.config, plan.rows)
    beside = sizes(model.config, 1)["weights"]
    say_memory(screen, (model.config, plan.rows, beside, JUDGED))
    params = announce(screen, name, model.config)
    origin = {"path": str(parent.folder.resolve()), "weights_sha256": weights_sha256(parent.model)}
    tuned = Stage(
        folder, model, parent.tokenizer, parent.template, settings.to_json(), origin, place.inputs
    )
    save_origin(tuned)
    write_json(folder / "evaluation.json", probe.to_json())
    keep_heldout(folder, comparisons)
    at = stages.checkpoint_steps(stage, plan)
    with closing(train_stage(tuned, plan, stage, screen, place.resume, at=at)) as moments:
        for moment in moments:
            measured_on_the_way(moment, tuned, probe, settings.data.grade, base_loss)
    screen.say(f"measuring {name} ...")
    report, replies = _report(name, tuned, parent, settings, comparisons, probe, base_loss, place)
    sides = compared(parent, tuned, replies)
    report["parent"] = parent_figures(parent, probe, settings.data.grade)
    report |= {"params": params, "seconds": time.monotonic() - place.began}
    write_json(folder / "samples.json", replies)
    write_json(folder / "before.json", sides.to_json())
    write_json(folder / "report.json", report)
    save_stage(tuned)
    drop_checkpoints(folder)  # not before: a stop while it is measured must not undo the training
    return tuned, report, sides


def pairs_of(parent: Stage, rankings: list[Ranking]) -> list[tuple[Example, Example]]:
    """(chosen, rejected) for every two replies that a ranking puts in an order, with the column
    "reference": the parent's nll, computed here once."""
    model, read = parent.model, (parent.tokenizer, parent.model.config.context, parent.template)
    each = [graded_examples(r, *read) for r in rankings]
    known = iter(with_reference(model, [e for examples in each for e in examples]))
    each = [[next(known) for _ in examples] for examples in each]
    model.release()
    return [(examples[i], examples[j]) for r, examples in zip(rankings, each) for i, j in r.pairs()]


def with_reference(model, examples: list[Example]) -> list[Example]:
    """The examples with the column "reference": the model's nll of each row."""
    found = []
    for batch in in_batches(examples, model.config.vocab, model.config.context):
        found += np.split(model.forward(batch).nll, batch.cu_seqlens[1:-1])
    return [replace(e, columns={"reference": nll.copy()}) for e, nll in zip(examples, found)]


def _report(
    name, tuned: Stage, parent: Stage, settings: Settings, comparisons, probe, base_loss, place
) -> tuple[dict, dict]:
    """Return (the report, the replies that it was taken from)."""
    figures, replies, asked = measured(tuned, probe)
    if asked:
        write_json(tuned.folder / "world.json", asked)
    forgetting = rise(figures["tuned_base_loss"], base_loss)
    run = stage_figures(tuned.folder)
    dpo = judged(tuned, parent, comparisons, settings.seed) | comparisons.counts()
    report = {
        "run": str(place.folder),
        "stage": name,
        "preset": settings.preset,
        "precision": tuned.model.config.precision,
        "base_loss": base_loss,
        **figures,
        "forgetting": forgetting,
        "dpo": dpo,
        "sft_loss_start": run["loss_start"],
        "sft_loss": run["loss"],
        "tokens_per_s": ratio(run["tokens"], run["seconds"]),
        "training_seconds": run["seconds"],
        "weights_sha256": weights_sha256(tuned.model),
    }
    return finite(report), replies


def judged(tuned: Stage, parent: Stage, comparisons: Comparisons, seed: int) -> dict:
    """Compare a tuned model with its parent on the held-out prompts.

    What gain_figures() gives for the held-out rankings.

    What win_figures() gives, for SAMPLES replies of each at temperature 1, in the points of the
    exact judge (None without a world); "greedy": the same for greedy replies. "prompts_judged",
    "kl" (exact_kl()), and of the sampled replies "length" and "length_before" (mean tokens),
    "format_compliance" (the share with all of evaluate.checks()) and "distinct" (the share of
    different ones)."""
    prompts = comparisons.judged
    drawn = Sampling(temperature=1.0, seed=int(rng(seed, "dpo", "judged").integers(2**31)))

    def written(stage, n, sampling):
        asked = [p for p in prompts for _ in range(n)]
        found = answer(stage.model, stage.tokenizer, stage.template, asked, sampling)
        stage.model.release()
        return list(zip(asked, found))

    own, before = (written(stage, SAMPLES, drawn) for stage in (tuned, parent))
    figures = gains(tuned, parent, comparisons.heldout, comparisons) | {
        "prompts_judged": len(prompts)
    }
    if comparisons.world is not None:

        def points(rows):
            given = [comparisons.truth.golds(p, [t], [r.stop == "end"])[0] for p, (t, r) in rows]
            return np.array(given).reshape(len(prompts), -1)

        subjects = comparisons.subjects(prompts)
        figures |= win_figures(points(own), points(before), subjects)
        greedy = [points(written(stage, 1, GREEDY)) for stage in (tuned, parent)]
        figures["greedy"] = win_figures(*greedy, subjects)
    end = tuned.tokenizer.special[tuned.template.end]
    examples = [
        reply_example(
            render_prompt(prompt, tuned.tokenizer, tuned.template),
            np.append(reply.ids, [end] * (reply.stop == "end")),
        )
        for prompt, (_, reply) in own
        if len(reply.ids) or reply.stop == "end"
    ]
    figures |= {
        "kl": exact_kl(tuned.model, parent.model, examples) if examples else None,
        "length": float(np.mean([len(reply.ids) for _, (_, reply) in own])),
        "length_before": float(np.mean([len(reply.ids) for _, (_, reply) in before])),
        "format_compliance": float(
            np.mean([all(checks(r, tuned.tokenizer, tuned.template)) for _, (_, r) in own])
        ),
        "distinct": len({text for _, (text, _) in own}) / len(own),
    }
    return figures


def gains(
    tuned: Stage, parent: Stage, rankings: list[Ranking], of: Comparisons | None = None
) -> dict:
    """What gain_figures() gives for rankings. of: the comparisons that they are among, which know
    what their prompts are about."""
    read = tuned.tokenizer, tuned.model.config.context, tuned.template
    examples = [e for r in rankings for e in graded_examples(r, *read)]
    after, before = (log_probabilities(stage.model, examples) for stage in (tuned, parent))
    tuned.model.release()
    parent.model.release()
    subjects = of and of.subjects([r.prompt for r in rankings])
    return gain_figures(rankings, split_scores(rankings, after - before), subjects)
