"""One run, one page: what a run folder holds, made readable, from nothing but the folder.

What is missing there, or cut off, or not as this program writes it, is named on the page; the rest
is shown."""

import json
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from pysft import __version__, disk
from pysft.errors import MissingInput, PysftError
from pysft.lab import figures
from pysft.lab.diagnose import findings
from pysft.lab.figures import Series
from pysft.lab.page import (
    badge,
    bullets,
    code,
    details,
    figure,
    heading,
    number,
    page,
    paragraph,
    stack,
    table,
)
from pysft.lab.provenance import RULE, VERDICTS
from pysft.run import read_json
from pysft.text.audit import GRAM
from pysft.training.stages import PRESETS

POINTS = 200  # at most, of a curve: more steps are averaged in equal groups
ROWS = 12  # at most, of a curve's table
SHOWN, MOST = 8, 400  # samples of a group that are seen at once, and that the page holds

# What each file gives the page.
FILES = {
    "run.json": "the settings, and the command that makes the run again",
    "base/report.json": "the base model's figures",
    "base/log.jsonl": "the curves of the base",
    "sft/report.json": "the figures",
    "sft/log.jsonl": "the curves of fine-tuning",
    "sft/data.json": "the census of the data",
    "sft/measurements.jsonl": "the measurements by checkpoint",
    "sft/before.json": "before and after",
    "sft/samples.json": "the replies",
}

FIGURES = {  # name in the --json document: (what it is, how it is written)
    "params": ("weights of the model", "count"),
    "trained_params": (
        "of these, weights that were trained (with LoRA: of the adapters and the new rows)",
        "count",
    ),
    "base_loss": ("base text, the base model: nats per character", "loss"),
    "grown_base_loss": ("the same, once its vocabulary has grown", "loss"),
    "tuned_base_loss": ("the same, once it is tuned", "loss"),
    "forgetting": ("forgetting: the relative rise of that loss", "share"),
    "matched_base_loss": ("that loss, of the base trained on by the replay alone", "loss"),
    "forgetting_matched": ("matched forgetting: the rise against that base", "share"),
    "sft_loss_start": ("conversations, the first step: nats per graded token", "loss"),
    "sft_loss": ("the same, the mean of the last 20 steps", "loss"),
    "heldout_loss": ("the same, of conversations never trained on", "loss"),
    "recall": ("pairs answered word for word", "share"),
    "recall_of": ("pairs asked", "count"),
    "stopped": ("of these, replies that end by the end token", "share"),
    "format_compliance": (
        "unseen prompts whose reply has content, ends, and holds no stray control token",
        "share",
    ),
    "prompts": ("unseen prompts asked", "count"),
    "content": ("of these, replies with content", "share"),
    "stopped_unseen": ("of these, replies that end by the end token", "share"),
    "no_user_turn": ("of these, replies without a stray control token", "share"),
    "reply_length": ("characters of such a reply, the mean", ""),
    "distinct_replies": ("of these, replies that differ", "count"),
    "verbatim_replies": ("of these, replies that are a training reply word for word", "count"),
    "on_topic": ("in-domain prompts whose reply names a word of theirs", "share"),
    "on_topic_chance": ("the same, if replies were dealt to other prompts", "share"),
    "in_domain_prompts": ("in-domain prompts asked", "count"),
    "real_words": ("words of the replies that the corpus or the data have", "share"),
    "graded_targets": ("targets that are graded", "count"),
    "targets": ("targets", "count"),
    "turns": ("turns that should be graded", "count"),
    "end_tokens_graded": ("end tokens among the graded targets", "count"),
    "tokens": ("tokens trained on", "count"),
    "tokens_per_s": ("tokens a second, in training", "count"),
    "training_seconds": ("seconds of training", "seconds"),
    "seconds": ("seconds in all", "seconds"),
    "peak_memory": ("most memory held", "bytes"),
}

FORMS = {
    "share": "{:.1%}",
    "count": "{:,.0f}",
    "loss": "{:.3f}",
    "seconds": "{:,.1f}",
    "bytes": "{:,.0f} MiB",
}

# What a verdict rests on: (what is asked, the measured share, good from there on, partly from there
# on).
ASKED = (
    ("It recalls what it was taught, word for word", lambda r: r["recall"], 0.95, 0.5),
    (
        "It answers prompts it never saw in the right form, and stops",
        lambda r: r["format_compliance"],
        0.95,
        0.5,
    ),
    ("It answers in real words", lambda r: r["real_words"], 0.95, 0.85),
    (
        "It names what it is asked about, above chance",
        lambda r: r["on_topic"] - r["on_topic_chance"],
        0.25,
        0.05,
    ),
    ("It has forgotten little of the base text", lambda r: r["forgetting"], 0.05, 0.10),
)

BY_STEP = {
    "recall": "recall",
    "stopped": "stopped",
    "format_compliance": "format",
    "on_topic": "on topic",
    "real_words": "real words",
}
LOSSES = {"sft_loss": "trained", "heldout_loss": "held out", "tuned_base_loss": "base text"}
GROUPS = {
    "pairs": "Prompts it was trained on",
    "prompts": "Prompts it never saw",
    "heldout": "Conversations kept from training",
}
SPREADS = {
    "tokens": "tokens a conversation",
    "prompt_length": "characters a prompt",
    "reply_length": "characters a reply",
}

# Settings that have a flag; all others that differ from their preset go through a file.
TRAIN = {
    "base_steps": "--base-steps",
    "sft_steps": "--sft-steps",
    "sft_lr": "--lr",
    "sft_tokens": "--sft-tokens",
    "mix": "--mix",
    "template": "--template",
    "grade": "--grade",
    "too_long": "--too-long",
    "unknown": "--unknown",
    "lora_rank": "--lora",
    "lora_matrices": "--lora-matrices",
    "checkpoint_every": "--checkpoint-every",
}
PRETRAIN = {"base_steps": "--steps", "base_lr": "--lr"}


def write_report(folder) -> Path:
    """Write RUN/report.html, whole or not at all."""
    path = Path(folder) / "report.html"
    disk.replace(path, [report(folder).encode()])
    return path


def report(folder) -> str:
    """The page of a run folder, an HTML document."""
    folder, missing = Path(folder), []
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such run folder; 'python -m pysft train' makes one")
    tuned, own_base = (folder / "sft").is_dir(), (folder / "base").is_dir()
    if not (tuned or own_base or (folder / "run.json").is_file()):
        raise MissingInput(
            f"{folder}: no run folder; name the one that 'python -m pysft train' made"
        )
    files = {}
    for name in FILES:
        stage = name.partition("/")[0]
        wanted = (stage != "sft" or tuned) and (stage != "base" or own_base)
        files[name] = _read(folder / name, name, missing) if wanted else None
    run = files["run.json"]
    if run:
        run["tuned"] = tuned or bool(run.get("base") or run.get("data"))  # was it, or was it to be?
    if not tuned:
        missing.append(
            ("sft", "this run was not fine-tuned, or not yet", "all that is said of a tuned model")
        )
    if not own_base:
        elsewhere = run and run.get("base")
        missing.append(
            (
                "base",
                (
                    f"trained in {elsewhere}, whose own page shows it"
                    if elsewhere
                    else "no such folder"
                ),
                "the curves of the base",
            )
        )
    if not figures.available():
        missing.append(
            ("matplotlib", figures.NEEDED, "the figures; all their numbers are here, in tables")
        )
    parts = []
    for title, build, *names in (
        ("In short", _short, "sft/report.json", "run.json"),
        (
            "Warnings",
            _warnings,
            "sft/report.json",
            "sft/data.json",
            "sft/measurements.jsonl",
            "run.json",
        ),
        ("Before and after", _before, "sft/before.json"),
        ("Training the base", _curves, "base/log.jsonl"),
        ("Fine-tuning", _curves, "sft/log.jsonl"),
        ("Measured on the way", _measured, "sft/measurements.jsonl"),
        ("What it replies, and where that may come from", _samples, "sft/samples.json"),
        ("The figures", _figures, "sft/report.json", "base/report.json"),
        ("The data", _data, "sft/data.json", "sft/report.json"),
        ("Settings", _settings, "run.json"),
        ("Making it again", _again, "run.json", "sft/report.json", "base/report.json"),
    ):
        given = [files[name] for name in names]
        if any(given):
            try:
                made = build(*given)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                read = " or ".join(name for name, data in zip(names, given) if data)
                why = f"not as this program writes it ({type(error).__name__}: {error})"
                missing.append((read, why, f"\u201c{title}\u201d"))
                continue
            parts += [heading(title), *made] if made else []
    if missing:
        parts += [
            heading("What is missing"),
            table(["what", "why", "so the page lacks"], missing, "lll"),
        ]
    return page(
        f"Run {folder.resolve().name}",
        parts,
        f"Made by pysft {__version__} from the files of the run's folder. The page loads nothing"
        " from anywhere.",
    )


def _read(path: Path, name: str, missing: list):
    """The data of a file, or None; what is wrong with it goes to `missing`."""
    try:
        if name.endswith(".jsonl"):
            data = _lines(path.read_bytes().splitlines(), name, missing)
        else:
            data = read_json(path)
        if not data:
            missing.append((name, "there is nothing in it", FILES[name]))
        return data
    except (PysftError, OSError, ValueError, RecursionError) as error:
        missing.append(
            (
                name,
                str(error).removeprefix(f"{path}: ") if path.exists() else "no such file",
                FILES[name],
            )
        )
    return None


def _lines(lines: list[bytes], name: str, missing: list) -> list[dict]:
    """A row for each step, up to the first line that is none: run.read_log does the same, but
    silently."""
    rows = []
    for n, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            missing.append(
                (
                    name,
                    f"line {n} of {len(lines)} is cut off, or no step",
                    f"{FILES[name]}, from that line on",
                )
            )
            break
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------- the sections


def _written(value, form: str = "") -> str:
    """A figure as its kind is written."""
    if value is None or isinstance(value, str) or form not in FORMS:
        return value if isinstance(value, str) else number(value)
    return FORMS[form].format(value / 2**20 if form == "bytes" else value).replace("-", "\u2212")


def _share(part: int, of: int) -> str:
    return f"{part:,} of {of:,}" + (f" ({part / of:.1%})" if of else "")


def _short(r: dict | None, run: dict | None) -> list:
    """What became of it, in a few lines."""
    settings = (run or {}).get("settings", {})
    told = f"preset {settings['preset']}, seed {settings['seed']}" if settings else ""
    if not r:
        return [] if run["tuned"] else [paragraph(f"A base model that completes text: {told}.")]
    rows = []
    for what, measured, good, partly in ASKED:
        try:
            value = measured(r)
        except (KeyError, TypeError):
            value = None
        if value is None:  # not measured: a run without unseen prompts, say
            continue
        more, sign = (1, "\u2265") if good > partly else (-1, "\u2264")  # is more better, or less?
        kind = (
            "good"
            if more * value >= more * good
            else "partly"
            if more * value >= more * partly
            else "bad"
        )
        rows.append(
            [what, badge(kind, kind), _written(value, "share"), f"{sign} {good:.0%}, {partly:.0%}"]
        )
    took = _written(r.get("training_seconds"), "count")
    return [
        paragraph(
            f"A base model that completes text became one that answers: {r['params']:,} weights"
            + (f", {told}" if told else "")
            + f", {took} seconds of training."
        ),
        table(["", "verdict", "measured", "good, partly"], rows, "llrr"),
        paragraph("What each figure means stands below, under The figures."),
    ]


def _warnings(r: dict | None, data: dict | None, track: list | None, run: dict | None) -> list:
    """What a reader should know before believing the rest: what was noted of the data, what the
    mask got wrong, and the failure modes that show."""
    said, r, data = list((data or {}).get("notes", [])), r or {}, data or {}
    ends, turns = (r.get(name, data.get(name)) for name in ("end_tokens_graded", "turns"))
    if None not in (ends, turns) and ends != turns:
        said.append(
            f"{ends:,} end tokens are graded, but there are {turns:,} turns: the model may not"
            " learn to stop"
        )
    if r.get("distinct_replies") is not None and 2 * r["distinct_replies"] < r["prompts"]:
        said.append(
            f"{r['prompts']:,} unseen prompts had only {r['distinct_replies']:,} different replies"
        )
    for f in findings(r, track or [], (run or {}).get("settings", {}), data) if r else ():
        said.append(
            stack(
                f"{f.mode}: {f.symptom}",
                f.figure,
                f"Likely cause: {f.cause}.",
                f"What helps: {f.fix}.",
            )
        )
    return [bullets(said)] if said else []


def _before(sides: dict) -> list:
    """The same prompts to both models."""
    parts = []
    for trained, title in ((True, "Prompts it was trained on"), (False, "Prompts it never saw")):
        some = [
            [prompt, "\u2026" + base.replace("\n", " / ") + "\u2026", _said(reply, stop)]
            for prompt, base, reply, stop, seen in sides["rows"]
            if bool(seen) is trained
        ]
        if some:
            parts += [
                heading(title, 3),
                table(
                    ["prompt", "the base model completes", "the tuned model answers"], some, "lll"
                ),
            ]
    return parts


def _grouped(rows: list[dict], most: int, *names) -> list[list]:
    """[step, the mean of each of the names] for equal groups of the rows, each with the last of its
    steps. A name may be a path: "losses/base"."""
    size = -(-len(rows) // most)
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]

    def mean(group, name):
        found = []
        for row in group:
            for key in name.split("/", 1):
                row = row.get(key, {}) if isinstance(row, dict) else {}
            if isinstance(row, (int, float)):
                found.append(row)
        return sum(found) / len(found) if found else None

    return [[group[-1]["step"], *(mean(group, name) for name in names)] for group in groups]


def _curves(rows: list[dict]) -> list:
    """A stage's log: its losses, and out of sight the norm of the gradient and the learning
    rate."""
    left_out = sum(bool(row.get("skipped")) for row in rows)
    rows = [row for row in rows if not row.get("skipped")]
    if not rows:
        return [paragraph(f"All {left_out:,} steps were skipped: they were not finite.")]
    sources = list(dict.fromkeys(s for row in rows for s in row["losses"]))
    names = [f"losses/{s}" for s in sources]
    points = _grouped(rows, POINTS, *names, "norm", "lr")
    steps, *columns = zip(*points)
    each = -(-len(rows) // POINTS)
    note = f"Each point is the mean of {each:,} steps." if each > 1 else "Each point is one step."
    parts, more = [], []
    if figures.available():
        lines = [
            Series(f"loss of {s}", list(steps), [list(column)])
            for s, column in zip(sources, columns)
        ]
        parts.append(
            figure(figures.curves("Loss by step", lines, "step", "nats per graded token"), note)
        )
        for title, column, log in (
            ("Norm of the gradient", columns[-2], True),
            ("Learning rate", columns[-1], False),
        ):
            line = Series(title.lower(), list(steps), [list(column)])
            more.append(figure(figures.curves(title, [line], "step", "", log_y=log), note))
    cells = _grouped(rows, ROWS, *names, "norm", "lr", "graded_tokens", "tokens_per_s")
    shown = table(
        ["step", *(f"loss, {s}" for s in sources), "norm", "rate", "graded tokens", "tokens/s"],
        [
            [
                row[0],
                *(_written(n, "loss") for n in row[1:-4]),
                *row[-4:-2],
                *(_written(n, "count") for n in row[-2:]),
            ]
            for row in cells
        ],
        "r" * (len(names) + 5),
    )
    seconds, tokens = (sum(row[name] for row in rows) for name in ("seconds", "tokens"))
    parts.insert(
        0,
        paragraph(
            f"{len(rows):,} steps, {tokens:,} tokens, {seconds:,.1f} seconds."
            + (f" {left_out:,} more steps were skipped: they were not finite." if left_out else "")
        ),
    )
    told = paragraph(
        f"Means of {-(-len(rows) // ROWS):,} steps each, up to the step that is named."
    )
    return parts + (
        [details("Norm, learning rate and the numbers", [*more, told, shown])]
        if more
        else [told, shown]
    )


def _measured(rows: list[dict]) -> list:
    """Every figure as it was at each checkpoint."""
    steps, parts = [row["step"] for row in rows], []

    def column(name):
        return [[row.get(name) for row in rows]]

    if figures.available():
        for title, y_label, names, note in (
            ("Shares by step", "share", BY_STEP, "Each as defined under The figures; 1 is all."),
            (
                "Losses by step",
                "nats",
                LOSSES,
                (
                    "Of conversations trained on and held out, per graded token; of the base "
                    "text, per character."
                ),
            ),
        ):
            lines = [Series(label, steps, column(name)) for name, label in names.items()]
            parts.append(figure(figures.curves(title, lines, "step of fine-tuning", y_label), note))
        ways = [
            (BY_STEP[name], [(*column("forgetting"), *column(name))])
            for name in ("recall", "real_words")
        ]
        parts.append(
            figure(
                figures.paths("What is learnt, and what it costs", ways, "forgetting", "share"),
                "To the right: more of the base text forgotten. Up: more learnt.",
            )
        )
    names = {**LOSSES, "forgetting": "forgetting", **BY_STEP}
    cells = [
        [
            row["step"],
            *(_written(row.get(name), "loss" if name in LOSSES else "share") for name in names),
        ]
        for row in rows
    ]
    parts.append(table(["step", *names.values()], cells, "r" * (len(names) + 1)))
    asked = {}
    for row in rows:
        for prompt, reply, stop in row.get("samples", []):
            asked.setdefault(prompt, []).append([row["step"], _said(reply, stop)])
    return parts + [
        details(
            f"The same prompt at each checkpoint: {' '.join(prompt.split())}",
            [table(["step", "reply"], replies, "rl")],
        )
        for prompt, replies in asked.items()
    ]


def _said(reply: str, stop: str, *notes: str) -> str:
    return stack(reply, *([] if stop == "end" else ["cut: no end token"]), *notes)


def _samples(groups: dict) -> list:
    """The replies, and under each what the model was trained on that is like it."""
    parts, counted = [], []
    for name, rows in groups.items():
        title, cells = GROUPS.get(name, name), []
        for prompt, reply, stop, *origin in rows[:MOST]:
            cells.append([prompt, _said(reply, stop, *(_origin(origin[0]) if origin else []))])
        verdicts = Counter(row[3]["verdict"] for row in rows if len(row) > 3)
        if verdicts:
            counted.append([title, len(rows), *(verdicts[v] for v in VERDICTS)])
        if rows:
            parts += [heading(title, 3), table(["prompt", "reply"], cells[:SHOWN], "ll")]
        if len(rows) > SHOWN:
            left = (
                f" (the other {len(rows) - MOST:,} stand in sft/samples.json)"
                if len(rows) > MOST
                else ""
            )
            parts.append(
                details(
                    f"{len(cells) - SHOWN:,} more{left}",
                    [table(["prompt", "reply"], cells[SHOWN:], "ll")],
                )
            )
    if counted:
        parts[:0] = [table(["replies to", "all", *VERDICTS], counted), paragraph(RULE)]
    return parts


def _origin(o: dict) -> list[str]:
    """What provenance.Origin says of a reply, in notes; of those that are verbatim or empty the
    verdict says all."""
    if o["verdict"] in ("verbatim", "empty"):
        return [o["verdict"]]
    ours, corpus = o["shared_replies"], o["shared_corpus"]
    alike = (
        f"; nearest training reply ({o['similarity']:.2f} alike): {o['nearest']}"
        if o["similarity"]
        else ""
    )
    shared = (
        f"longest stretch in a training reply: {ours:,} characters, in the corpus:"
        f" {corpus or f'under {GRAM}'}"
    )
    if o["verdict"] == "spliced":
        shared += f"; it is: {o['shared_replies_text' if ours >= corpus else 'shared_corpus_text']}"
    return [o["verdict"] + alike, shared]


def _figures(r: dict | None, base: dict | None) -> list:
    """Every figure of the report, by what it means."""
    r = r or base
    parts = [
        table(
            ["figure", "value"],
            [
                [stack(label, name), _written(r[name], form)]
                for name, (label, form) in FIGURES.items()
                if name in r
            ],
            "lr",
        )
    ]
    domains = r.get("by_domain")
    if domains:
        names = list(dict.fromkeys(name for row in domains.values() for name in row))
        cells = [
            [domain, *(_written(row.get(name), FIGURES.get(name, ("", ""))[1]) for name in names)]
            for domain, row in domains.items()
        ]
        parts += [
            heading("By domain of the prompt", 3),
            table(
                ["domain", *(name.replace("_", " ") for name in names)],
                cells,
                "l" + "r" * len(names),
            ),
            paragraph(
                "In: subjects that were trained on, in new words. Near and out: subjects that were"
                " not."
            ),
        ]
    rest = {name: value for name, value in r.items() if name not in {*FIGURES, "by_domain"}}
    return parts + (
        [
            details(
                "Other entries of report.json",
                [
                    table(
                        ["name", "value"],
                        [
                            [
                                name,
                                (
                                    _written(value)
                                    if not isinstance(value, (dict, list))
                                    else json.dumps(value, ensure_ascii=False)
                                ),
                            ]
                            for name, value in rest.items()
                        ],
                        "ll",
                    )
                ],
            )
        ]
        if rest
        else []
    )


def _data(d: dict | None, r: dict | None) -> list:
    """The census of the conversations, and the share of them that the mask leaves."""
    parts, d, r = [], d or {}, r or {}
    mask = r if "targets" in r else d
    if "targets" in mask:
        parts.append(
            paragraph(
                f"The mask leaves {_share(mask['graded_targets'], mask['targets'])} of the targets"
                " graded: only from these does the model learn. End tokens among them:"
                f" {mask['end_tokens_graded']:,}, of {mask['turns']:,} turns."
            )
        )
    rows = [
        [label, d[name]]
        for name, label in (
            ("conversations", "conversations"),
            ("pairs", "pairs, shown more often"),
            ("heldout", "conversations kept from training"),
        )
        if name in d
    ]
    rows += [[f"epochs of {name}", f"{n:,.1f}"] for name, n in d.get("epochs", {}).items()]
    spreads = [
        [label, *(d[name].get(k) for k in ("min", "median", "p95", "max"))]
        for name, label in SPREADS.items()
        if d.get(name)
    ]
    if rows:
        parts.append(table(["what", "how many"], rows, "lr"))
    if spreads:
        parts.append(table(["", "shortest", "median", "95 % at most", "longest"], spreads))
    if d.get("categories"):
        parts.append(
            details(
                "By category, the most frequent",
                [table(["category", "conversations"], d["categories"], "lr")],
            )
        )
    return parts


def _settings(run: dict) -> list:
    """All settings, what differs from the preset first."""
    settings, preset = run["settings"], _preset(run["settings"])
    rows = [
        [name, json.dumps(value), json.dumps(preset.get(name))] for name, value in settings.items()
    ]
    changed = [row for row in rows if row[1] != row[2] and row[0] != "preset"]
    parts = (
        [table(["changed", "here", f"in preset {settings['preset']}"], changed, "lll")]
        if changed
        else [paragraph(f"All as preset {settings['preset']} has them.")]
    )
    return parts + [
        details(
            f"All {len(rows)} settings",
            [table(["setting", "value"], [row[:2] for row in rows], "ll")],
        )
    ]


def _again(run: dict | None, r: dict | None, base: dict | None) -> list:
    """The command, what it reads, and what should come out."""
    parts = []
    if run:
        toml, command = reproduce(run, run["tuned"])
        if toml:
            parts += [
                paragraph("Settings that have no flag stand in a file, settings.toml:"),
                code(toml),
            ]
        parts += [
            code(command),
            table(["what it reads", "SHA-256"], [[*pair] for pair in run["sha256"].items()], "ll"),
        ]
    rows = [
        [stage, data["weights_sha256"]]
        for stage, data in (("base", base), ("sft", r))
        if data and "weights_sha256" in data
    ]
    if rows:
        parts += [
            paragraph(
                "The same build on the same kind of processor gives these weights, bit by bit, with"
                " any number of threads:"
            ),
            table(["stage", "SHA-256 of the weights"], rows, "ll"),
        ]
    return parts


def _preset(settings: dict) -> dict:
    """The preset's own settings, as JSON gives them back."""
    return json.loads(json.dumps(asdict(PRESETS[settings["preset"]])))


def reproduce(run: dict, tuned: bool) -> tuple[str, str]:
    """(the text of settings.toml, "" where no setting needs it; the command) that make a run again,
    from its run.json."""
    settings, flags = run["settings"], TRAIN if tuned else PRETRAIN
    preset = _preset(settings)
    if run["base"] is not None:  # a given base decides the model's shape, and no base is trained
        preset |= {
            name: settings[name]
            for name in ("context", "layers", "heads", "channels", "base_windows")
        }
        preset["sft_windows"] = [
            [min(n, settings["context"]), count] for n, count in preset["sft_windows"]
        ]
    changed = {
        name: value
        for name, value in settings.items()
        if name not in ("preset", "seed") and value != preset.get(name)
    }
    file = {name: value for name, value in changed.items() if name not in flags}
    words = [
        ["python", "-m", "pysft", "train" if tuned else "pretrain"],
        ["--preset", settings["preset"]],
    ]
    words += [["--config", "settings.toml"]] if file else []
    words += [["--corpus", run["corpus"]]]
    words += [["--data", *run["data"]]] if run["data"] else []
    words += [["--base", run["base"]]] if run["base"] else []
    words += [["--seed", settings["seed"]]]
    words += [
        [flags[name], *(value if isinstance(value, list) else [value])]
        for name, value in changed.items()
        if name in flags
    ]
    pieces = [shlex.join(map(str, some)) for some in words]
    pieces[:2] = [" ".join(pieces[:2])]
    return (
        "\n".join(f"{name} = {json.dumps(value)}" for name, value in file.items()),
        (" " if len(" ".join(pieces)) < 80 else " \\\n    ").join(pieces),
    )
