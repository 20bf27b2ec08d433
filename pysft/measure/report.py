"""The page of a run: everything that its folder holds, made readable, from the folder alone.

The page names each file that is missing, cut off, or not as this program writes it, and shows
everything else."""

from pathlib import Path

from pysft import __version__, disk
from pysft.measure import curves, figures, sections
from pysft.measure.page import heading, page, table
from pysft.measure.run_files import read_run

# Title of a section, its builder, and the files whose contents the builder takes.
SECTIONS = (
    ("In short", sections.summary, "sft/report.json", "run.json"),
    (
        "Warnings",
        sections.warnings,
        "sft/report.json",
        "sft/data.json",
        "sft/measurements.jsonl",
        "run.json",
    ),
    ("Before and after", sections.before_and_after, "sft/before.json"),
    ("Training the base", curves.training, "base/log.jsonl"),
    ("Fine-tuning", curves.training, "sft/log.jsonl"),
    ("Measured during fine-tuning", curves.checkpoints, "sft/measurements.jsonl"),
    ("Replies, and where they may come from", sections.replies, "sft/samples.json"),
    ("The figures", sections.all_figures, "sft/report.json", "base/report.json"),
    ("The data", sections.census, "sft/data.json", "sft/report.json"),
    ("Settings", sections.settings, "run.json"),
    ("Making it again", sections.reproduction, "run.json", "sft/report.json", "base/report.json"),
)


def write_report(folder) -> Path:
    """Write RUN/report.html, whole or not at all, and return its path. MissingInput if `folder` is
    no run folder."""
    path = Path(folder) / "report.html"
    disk.replace(path, [report(folder).encode()])
    return path


def report(folder) -> str:
    """The page of a run folder, an HTML document. MissingInput if it is no run folder."""
    folder = Path(folder)
    files = read_run(folder)
    if not figures.available():
        lacks = "the curves; their numbers are in the tables"
        files.missing.append(("matplotlib", figures.NEEDED, lacks))
    parts = []
    for title, build, *names in SECTIONS:
        given = [files.data[name] for name in names]
        if not any(given):
            continue
        try:
            made = build(*given)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            read = " or ".join(name for name, data in zip(names, given) if data)
            why = f"not as this program writes it ({type(error).__name__}: {error})"
            files.missing.append((read, why, f"\u201c{title}\u201d"))
            continue
        parts += [heading(title), *made] if made else []
    if files.missing:
        parts.append(heading("What is missing"))
        parts.append(table(["what", "why", "so the page lacks"], files.missing, "lll"))
    note = (
        f"Made by pysft {__version__} from the files in the run's folder. The page loads nothing"
        " from anywhere."
    )
    return page(f"Run {folder.resolve().name}", parts, note)
