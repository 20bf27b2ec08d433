"""All figures of a model that talks, and the replies that they were taken from."""

from pysft.measure.calltest import made_figures
from pysft.measure.evaluate import measure, measure_sealed, origins
from pysft.measure.probe import Probe
from pysft.measure.tooltest import tool_test
from pysft.measure.world import world_figures
from pysft.run.stage import Stage


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
