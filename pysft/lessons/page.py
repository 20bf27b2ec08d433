"""The page of the lessons: one HTML file that opens from a disk and loads nothing.

It holds all lessons, the graph of one training step with the numbers of every node, and, for a
run, its model, which computes in the page on what a reader types (model.js). Derivations and
answers are folded."""

from pathlib import Path

from pysft import disk
from pysft.errors import UsageError
from pysft.lessons import book
from pysft.lessons.markdown import to_html
from pysft.lessons.own_model import own_model
from pysft.lessons.panels import graph
from pysft.measure.page import Html, as_html, details, heading, page

HERE = Path(__file__).resolve().parent


def write_page(path, stage=None, prompt: str | None = None, reply: str = "", lessons=None) -> Path:
    """Write the page into a new file, whole or not at all, and return its path.

    stage: of a run (run.stage.load_stage), whose model the page shows; None leaves that part out.
    prompt, reply: what stands in its fields at first; without a reply the model writes its own.
    lessons: [(number, title, [(heading, text in Markdown)])], where the heading "" is for what
    stands above the first; None is all lessons.

    A UsageError if the file exists, is not called .html or cannot be written."""
    path = Path(path)
    if path.suffix != ".html":
        raise UsageError(f"--html {path}: a page is written; give it a name that ends with .html")
    if path.exists():
        raise UsageError(f"--html {path}: this exists already; choose another name")
    try:
        disk.replace(path, [lesson_page(stage, prompt, reply, lessons).encode()])
    except OSError as error:
        raise UsageError(
            f"--html {path}: cannot be written ({error.strerror}); choose a place that can"
        ) from None
    return path


def lesson_page(stage=None, prompt: str | None = None, reply: str = "", lessons=None) -> str:
    """The page, an HTML document. The arguments are those of write_page()."""
    lessons = [_of_book(lesson) for lesson in book.lessons()] if lessons is None else lessons
    numbers = {number for number, *_ in lessons}
    links = [("#lessons", "Lessons"), ("#graph", "One training step")]
    links += [("#model", "Your model")] if stage is not None else []
    parts = [
        Html("<nav>" + " ".join(f'<a href="{to}">{name}</a>' for to, name in links) + "</nav>"),
        _section("lessons", "Lessons", [_lesson(*lesson) for lesson in lessons]),
        _section("graph", "One training step", graph(numbers)),
    ]
    if stage is not None:
        parts.append(_section("model", "Your model", own_model(stage, prompt, reply)))
    script = "\n".join((HERE / name).read_text("utf-8") for name in ("model.js", "page.js"))
    style = (HERE / "page.css").read_text("utf-8")
    note = "Made by pysft. The page loads nothing from anywhere, and sends nothing."
    return page("Lessons: backpropagation by hand", parts, note, style, f"\n{script}")


def _section(name: str, title: str, parts: list) -> Html:
    inside = "\n".join(map(as_html, [heading(title), *parts]))
    return Html(f'<section id="{name}">\n{inside}\n</section>')


# ------------------------------------------------------------------------------------- lessons


def _of_book(lesson: book.Lesson) -> tuple:
    """A lesson as write_page() takes it, with the derivations in place of their names."""
    needs = "Needs lessons" if len(lesson.needs) > 1 else "Needs lesson"
    needs = f"{needs} {', '.join(map(str, lesson.needs))}. " if lesson.needs else ""
    begin = f"    python -m pysft lesson {lesson.number} --start mine.py"
    head = f"{needs}About {lesson.minutes} minutes. Begin the exercise by\n\n{begin}"
    sections = [(heading, book.expand(text)) for heading, text in lesson.sections.items()]
    return lesson.number, lesson.title, [("", f"{head}\n\n{lesson.idea}"), *sections]


def _lesson(number: int, title: str, sections) -> Html:
    """A lesson that is folded, and in it, folded again, what gives the solution away."""
    inside = []
    for name, text in sections:
        if name in book.HIDDEN:
            inside.append(details(name, [to_html(text)]))
        else:
            inside += [heading(name, 3)] * bool(name) + [to_html(text)]
    body = "\n".join(inside)
    summary = f"<b>{number}</b> {as_html(title)}"
    return Html(
        f'<details class="lesson" id="lesson-{number}"><summary>{summary}</summary>\n{body}\n'
        "</details>"
    )
