"""What a model that talks is measured by: all figures at the end of a stage, and some on the
way."""

from dataclasses import replace

from pysft.measure.calltest import made_figures
from pysft.measure.evaluate import finite, measure, measure_sealed, origins
from pysft.measure.probe import Probe
from pysft.measure.ratio import rise
from pysft.measure.tooltest import tool_test
from pysft.measure.world import world_figures
from pysft.run.log import add_measurement
from pysft.run.stage import Stage, save_stage
from pysft.training.runner import Moment


def measured(stage: Stage, probe: Probe, is_last: bool = True) -> tuple[dict, dict, list]:
    """Return (figures by their names in the --json document, replies by group, the sealed questions
    about its world with its replies; [] without a world).

    is_last: False for a checkpoint, which is not measured with the sealed prompts, because none may
    be chosen by them."""
    model, talker = stage.model, (stage.model, stage.tokenizer, stage.template)
    model.release()
    figures, replies = measure(*talker, probe, stage.setting("grade", "all"))
    model.release()
    if is_last:
        figures["sealed"], replies["sealed"] = measure_sealed(*talker, probe)
    verdicts, replies = origins(replies, probe)
    figures["origins"], asked = verdicts, []
    model.release()
    if stage.setting("transcripts", 0):
        figures["tools"] = tool_test(*talker, probe)
        model.release()
    if made := stage.setting("made", []):
        figures |= made_figures(*talker, probe, made)
        model.release()
    if stage.world:
        figures["world"], asked = world_figures(*talker, stage.world)
        model.release()
    return figures, replies, asked


def measured_on_the_way(
    moment: Moment, stage: Stage, probe: Probe, grade: str, base_loss: float | None
) -> None:
    """Measure a model at a moment of its training. Keep the figures, some replies and, after step
    0, the weights. base_loss: of the base under it; None if that is not known."""
    figures, replies = measure(stage.model, stage.tokenizer, stage.template, probe, grade)
    some = (("pairs", 4), ("prompts", 8), ("heldout", 4))
    samples = [row for group, count in some for row in replies[group][:count]]
    forgetting = rise(figures["tuned_base_loss"], base_loss)
    row = {"step": moment.step, "sft_loss": moment.loss, **figures, "forgetting": forgetting}
    add_measurement(stage.folder, finite(row) | {"samples": samples})
    if moment.step:
        save_stage(replace(stage, folder=stage.folder / "steps" / str(moment.step)))
