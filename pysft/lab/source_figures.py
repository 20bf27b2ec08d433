"""figures.html: the source text's six figures, drawn from our own runs. The loss mask is drawn from
the source's two-turn conversation, the others from the experiments that `lab figures` carries
out."""

from pathlib import Path

from pysft import disk
from pysft.lab.lab import Lab
from pysft.measure import figures, page
from pysft.run.stage import read_json
from pysft.text.conversation import Conversation
from pysft.text.examples import encode_conversation
from pysft.text.view import picture

# The source's conversation of several turns, whose mask alternates.
TALK = (
    ("Hi", "Hello! How may I help thee?"),
    ("What is love?", "A madness most discreet, a bitter sweet."),
)
# Experiment, and the number of its figure that shows what the source's shows.
DRAWN = (
    ("masking", 1, "With and without the loss mask"),
    ("loss-curve", 1, "The loss of a fine-tuning"),
    ("forgetting", 4, "Forgetting"),
    ("learning-rate", 1, "Learning rates"),
    ("data-scaling", 1, "Filtered and unfiltered data"),
)
EXPERIMENTS = tuple(name for name, _, _ in DRAWN)


def write_figures(lab: Lab) -> Path:
    """Write figures.html to the lab's folder and return its path. The experiments must have been
    carried out in this folder."""
    parts = [
        page.heading("The loss mask"),
        page.paragraph("Grey labels are not graded. The model reads everything."),
        page.figure(mask(lab)),
    ]
    for name, number, title in DRAWN:
        document = read_json(lab.folder / name / f"{name}.json")
        path = lab.folder / name / f"figure-{number}.svg"
        parts += [page.heading(title), page.paragraph(document["claim"])]
        if path.is_file():
            parts.append(page.figure(path.read_text(encoding="utf-8")))
        else:
            parts.append(page.paragraph(f"Not drawn: {figures.NEEDED}."))
        parts.append(page.paragraph(f"Measured: {document['verdict']}. {document['command']}"))
    target = lab.folder / "figures.html"
    note = "Made by pysft lab figures. The tables stand in index.html."
    disk.replace(target, [page.page("The source text's figures", parts, note).encode()])
    return target


def mask(lab: Lab) -> str:
    """An SVG of the loss mask of TALK, as `mask --svg` draws it."""
    messages = [
        {"role": role, "content": text}
        for turn in TALK
        for role, text in zip(("user", "assistant"), turn)
    ]
    example = encode_conversation(Conversation(messages, "source", 1), lab.chat, 256)
    return picture(example.input_ids, example.labels, lab.chat)
