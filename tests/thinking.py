"""A small run that thinks before it answers: it knows three conversations by heart."""

from command_line import TrainedRun

from pysft.text.conversation import with_thought

ROWS = [
    ("Who sings?", with_thought("Ada has a lute.", "Ada sings.")),
    ("What of love?", "It is a madness."),
    ("Who rows?", with_thought("Ivo has a boat.", "Ivo rows.")),
]


def thinking_run(folder) -> TrainedRun:
    return TrainedRun(
        folder,
        ROWS,
        model={"context": 96, "channels": 32},
        sft={"steps": 150, "lr": 0.02, "windows": []},
    )
