"""The page of a run: everything that its folder holds, made readable, from the folder alone.

The page names each file that is missing, cut off, or not as this program writes it, and shows
everything else."""

from pathlib import Path

from pysft import __version__, disk
from pysft.errors import PysftError
from pysft.measure import curves, figures, sections
from pysft.measure.page import heading, page, table
from pysft.measure.run_files import RUN_FILE, RunFiles, read_run


def _sections(files: RunFiles) -> list[tuple]:
    """[(title, builder, what the builder takes, names for messages)] of the sections of a page. The
    newest fine-tuning is shown in full, and of earlier ones the training, the measurements and the
    figures."""
    newest = files.tuned[-1] if files.tuned else "sft"
    earlier = files.tuned[:-1]

    def section(title, build, *names):
        return title, build, [files.data.get(name) for name in names], names

    def of(name, file):
        return f"{name}/{file}"

    report, track = of(newest, "report.json"), of(newest, "measurements.jsonl")
    reports = {name: files.data[of(name, "report.json")] for name in files.stages}
    made = [
        section("In short", sections.summary, report, RUN_FILE),
        ("The stages", sections.stages, [files.tree], ("the stages",)),
        section("Warnings", sections.warnings, report, of(newest, "data.json"), track, RUN_FILE),
        section("Compared with its parent", sections.comparison, report),
        section("Before and after", sections.before_and_after, of(newest, "before.json")),
        section("Training the base", curves.training, "base/log.jsonl"),
    ]
    for name in earlier:
        made += [
            section(f"Fine-tuning: {name}", curves.training, of(name, "log.jsonl")),
            section(f"Measured during {name}", curves.checkpoints, of(name, "measurements.jsonl")),
            section(f"The figures of {name}", sections.all_figures, of(name, "report.json")),
        ]
    last = f": {newest}" if earlier else ""
    return [
        *made,
        section(f"Fine-tuning{last}", curves.training, of(newest, "log.jsonl")),
        section("Measured during fine-tuning", curves.checkpoints, track),
        section(
            "Replies, and where they may come from",
            sections.replies,
            of(newest, "samples.json"),
        ),
        section("The figures", sections.all_figures, report, "base/report.json"),
        section("The data", sections.census, of(newest, "data.json"), report),
        section("Settings", sections.settings, RUN_FILE),
        (
            "Making it again",
            sections.reproduction,
            [files.data[RUN_FILE], reports],
            (RUN_FILE, *(of(name, "report.json") for name in files.stages)),
        ),
    ]


# What the contents of a file can raise that this program did not write.
NOT_AS_WRITTEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    PysftError,
    TypeError,
    ValueError,
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
    for title, build, given, names in _sections(files):
        if not any(given):
            continue
        try:
            made = build(*given)
        except NOT_AS_WRITTEN as error:
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
