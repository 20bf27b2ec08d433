"""`pysft audit`: check a data set before training on it."""

from pysft.cli.arguments import positive, print_json
from pysft.cli.reading import add_reading, policies, reading_of

HELP = "check a data set before training on it"
EXAMPLES = (
    "audit my.jsonl",
    "audit my.jsonl --run runs/tiny",
    "audit my.csv --fix clean.jsonl",
    "audit train.jsonl --heldout test.jsonl --strict",
)
SHOWN = 8  # findings of each kind that are printed without --all


def add_arguments(p):
    p.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="files of conversations (default: the shipped ones)",
    )
    add_reading(p)
    p.add_argument(
        "--context",
        type=positive,
        metavar="N",
        help="tokens that a conversation may have (default 256, or the run's)",
    )
    p.add_argument(
        "--tokens",
        type=positive,
        default=120,
        metavar="N",
        help="tokens that a reply may have at inference (default 120)",
    )
    p.add_argument(
        "--heldout",
        metavar="FILE",
        help="prompts or conversations that the files should not repeat",
    )
    p.add_argument(
        "--no-overlap",
        action="store_true",
        help="do not search the corpus for stretches of the replies (never done with --run)",
    )
    p.add_argument("--strict", action="store_true", help="exit 1 if there are warnings")
    p.add_argument(
        "--fix",
        metavar="OUT.jsonl",
        help="write the rows that can be trained on, without exact duplicates",
    )
    p.add_argument(
        "--all",
        action="store_true",
        help=f"show every finding (default: the first {SHOWN} of each kind)",
    )


def run(args):
    from dataclasses import asdict

    from pysft.jobs.reader import reader_of
    from pysft.text.audit import audit
    from pysft.text.corpora import read_corpus, shipped

    reader = reader_of(args.of_run, args.corpus, args.template)
    files = args.files or [str(shipped(name)) for name in ("conversations.jsonl", "pairs40.jsonl")]
    heldout = args.heldout or (None if args.files else str(shipped("heldout_prompts.jsonl")))
    # The corpus of a run may be gone by now, so with --run no overlap is searched for.
    corpus = (
        None if args.no_overlap or reader.stage is not None else read_corpus(args.corpus or "plays")
    )
    grade, unknown = policies(args, reader.stage)
    report = audit(
        files,
        reader.tokenizer,
        reader.template,
        args.context or reader.context,
        grade,
        args.tokens,
        corpus,
        heldout,
        args.fix,
        unknown,
        reader.tokens,
        reading_of(args, reader.stage),
    )
    if args.json:
        print_json(report | {"findings": [asdict(f) for f in report["findings"]]})
    else:
        _show_findings(report["findings"], args.all)
        _show_figures(report)
    if report["errors"]:
        return 65
    return 1 if report["warnings"] and args.strict else 0


def _show_findings(findings, all_of_them):
    """Print the first SHOWN findings of each kind, or all."""
    counts = {}
    for f in findings:
        kind = f.severity, f.kind
        counts[kind] = counts.get(kind, 0) + 1
        if all_of_them or counts[kind] <= SHOWN:
            print(f"{f.severity}: {f.kind}: {f}")
    for (severity, kind), n in counts.items():
        if not all_of_them and n > SHOWN:
            print(f"{severity}: {kind}: {n - SHOWN:,} more like it (--all shows them)")
    if findings:
        print()


def _show_figures(report):
    """Print the figures of an audit, a line each."""
    turns = ", ".join(f"{n:,} with {count}" for count, n in report["turns"].items())
    share = f" ({report['graded_share']:.0%})" if report["targets"] else ""
    lines = [("table", f"{path}: {sheet}") for path, sheet in report["tables"].items()]
    lines += [
        ("rows", f"{report['rows']:,}, of which {report['trainable']:,} can be trained on"),
        ("left out", ", ".join(f"{n:,} {why}" for why, n in report["left_out"].items()) or "none"),
        ("keys not read", _counts(report["keys_not_read"])),
        ("characters changed", report["characters_changed"] or "none"),
        ("turns", turns or "none"),
        (
            "tokens a conversation",
            f"{_spread(report['tokens'])}; {report['too_long']:,} do not fit the context of"
            f" {report['context']:,}",
        ),
        ("characters a prompt", _spread(report["prompt_length"])),
        (
            "characters a reply",
            f"{_spread(report['reply_length'])}; at inference at most {report['max_new']:,} tokens",
        ),
        (
            "graded",
            f"{report['graded_targets']:,} of {report['targets']:,} targets{share}, template"
            f" {report['template']}",
        ),
        ("prompts begin", _kinds(report["prompt_types"])),
    ]
    if report["categories"]:
        lines.append(("categories", _kinds(report["categories"])))
    if report["identities"]:
        claims = ", ".join(f"{claim} ({n})" for claim, n in report["identities"])
        lines.append(("who it says it is", claims))
    if report["corpus_overlap"]:
        longest, least = _spread(report["corpus_overlap"]), report["corpus_overlap"]["from"]
        copied = f"longest stretch of a reply: {longest} (0: under {least})"
        lines.append(("copied from the corpus", copied))
    if report["fixed"]:
        f = report["fixed"]
        removed = f"removed {f['removed_duplicates']:,} exact duplicates and"
        removed += f" {f['removed_untrainable']:,} that cannot be trained on"
        lines.append(("fixed", f"{f['path']}: {f['kept']:,} rows; {removed}"))
    found = ", ".join(f"{k['count']:,} {k['kind']} ({k['severity']})" for k in report["kinds"])
    lines.append(("findings", found or "none: clean"))
    for name, value in lines:
        print(f"{name:<24}{value}")


def _counts(counts):
    """Names with how often each comes, the most frequent first."""
    shown = [f"{name} ({n:,})" for name, n in list(counts.items())[:SHOWN]]
    return ", ".join(shown + ["..."] * (len(counts) > SHOWN)) or "none"


def _spread(c):
    if c["max"] is None:
        return "none"
    return (
        f"shortest {c['min']:,}, median {c['median']:,.0f}, 95 % at most {c['p95']:,.0f},"
        f" longest {c['max']:,}"
    )


def _kinds(d):
    if not d["kinds"]:
        return "none"
    top = ", ".join(f"{name or '(no word)'} {share:.0%}" for name, share in d["top"])
    return (
        f"{d['kinds']:,} kind{'s' * (d['kinds'] != 1)}, as diverse as {d['effective']:,.0f}"
        f" equal ones; {top}"
    )
