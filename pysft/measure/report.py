"""The page of a run: everything that its folder holds, made readable, from the folder alone.

The page names each file that is missing, cut off, or not as this program writes it, and shows
everything else."""

from pathlib import Path

from pysft import __version__, disk
from pysft.errors import PysftError
from pysft.measure import aligned, curves, figures, policy, sections
from pysft.measure.otherwise import answered_otherwise
from pysft.measure.page import heading, page, table
from pysft.measure.run_files import RUN_FILE, RunFiles, read_run
from pysft.measure.way import stages, way

# How the sections of a stage that talks are called, by its kind: that of its training, that of its
# checkpoints.
TITLES = {
    "sft": ("Fine-tuning", "Measured during fine-tuning"),
    "dpo": ("Tuning on pairs", "Measured while tuning on pairs"),
    "ppo": ("Training by reward", "Measured while training by reward"),
}


def _titles(kind: str) -> tuple[str, str]:
    """The titles of the sections of a stage that talks; of a kind that is not in TITLES, those of a
    fine-tuning."""
    return TITLES.get(kind, TITLES["sft"])


def _sections(files: RunFiles) -> list[tuple]:
    """[(title, builder, what the builder takes, names for messages)] of the sections of a page. The
    newest stage that talks is shown in full, and of earlier ones the training, the measurements and
    the figures. A reward model has its figures and its training."""
    newest = files.tuned[-1] if files.tuned else "sft"
    earlier = files.tuned[:-1]

    def section(title, build, *names):
        return title, build, [files.data.get(name) for name in names], names

    def of(name, file):
        return f"{name}/{file}"

    report, track = of(newest, "report.json"), of(newest, "measurements.jsonl")
    reports = {name: files.data[of(name, "report.json")] for name in files.stages}
    scored = [of(name, "report.json") for name in files.rewards]
    made = [
        section("In short", sections.summary, report, RUN_FILE, *scored[-1:]),
        ("The stages", stages, [files.tree], ("the stages",)),
        ("The way from text to answers", way, [files.way], ("the stages",)),
        section(
            "Warnings", _warnings, report, of(newest, "data.json"), track, RUN_FILE,
            of(newest, "log.jsonl"), *scored,
        ),
        section("Compared with its parent", sections.comparison, report),
        section("Before and after", sections.before_and_after, of(newest, "before.json")),
        (
            "What it answers otherwise",
            answered_otherwise,
            files.answers.get(newest, []),
            (of(newest, "world.json"),) * 4,
        ),
        section("Training the base", curves.training, "base/log.jsonl"),
    ]  # fmt: skip
    for name in (name for name in files.stages if name in earlier or name in files.rewards):
        if name in files.rewards:
            title = "The reward model" + (f": {name}" if len(files.rewards) > 1 else "")
            made += [
                section(title, aligned.reward_model, of(name, "report.json")),
                section(f"Training {name}", curves.training, of(name, "log.jsonl")),
            ]
        else:
            made += _talking(files, name, f"{_titles(files.kinds[name])[0]}: {name}", name)
    last = f": {newest}" if earlier else ""
    return [
        *made,
        *_talking(files, newest, _titles(files.kinds.get(newest, "sft"))[0] + last),
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


def _talking(files: RunFiles, name: str, title: str, earlier: str = "") -> list[tuple]:
    """The sections of the training of a stage that talks. earlier: its name if it is not the
    newest, whose figures have sections of their own."""
    kind = files.kinds.get(name, "sft")
    measured = f"Measured during {earlier}" if earlier else _titles(kind)[1]
    log, track, report = (f"{name}/{f}" for f in ("log.jsonl", "measurements.jsonl", "report.json"))
    inside = f" in {earlier}" if earlier else ""
    if kind == "ppo":
        parts = [
            ("What the reward changed" + inside, policy.reached, report, RUN_FILE, log),
            (title, policy.iterations, log, report),
            (measured, policy.checkpoints, track),
        ]
    elif kind == "dpo":
        parts = [
            ("What the pairs changed" + inside, aligned.preference, report),
            (title, curves.training, log),
            (measured, curves.of_pairs, track),
        ]
    else:
        parts = [(title, curves.training, log), (measured, curves.checkpoints, track)]
    if earlier:
        parts.append((f"The figures of {earlier}", sections.all_figures, report))
    return [
        (title, build, [files.data.get(file) for file in names], names)
        for title, build, *names in parts
    ]


def _warnings(report, data, track, run, log, *scored) -> list:
    return sections.warnings(report, data, track, run, log, [r for r in scored if r])


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
