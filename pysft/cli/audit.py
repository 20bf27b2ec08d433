"""`pysft audit`: check a data set before training on it."""

from pysft.cli.arguments import positive, print_json
from pysft.cli.reading import add_reading, policies, reading_of
from pysft.errors import UsageError

HELP = "check a data set before training on it"
EXAMPLES = (
    "audit my.jsonl",
    "audit my.jsonl --run runs/tiny",
    "audit my.csv --fix clean.jsonl",
    "audit train.jsonl --heldout test.jsonl --strict",
    "audit pairs.jsonl --unknown replace",
)
SHOWN = 8  # findings of each kind that are printed without --all


def add_arguments(p):
    p.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="files of conversations, or of preferences (default: the shipped conversations)",
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
    p.add_argument(
        "--preferences",
        action="store_true",
        help="read message trees (OASST) as preferences, by the ranks of their replies, or a pipe;"
        " other files of preferences are known by their first row",
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

    reader = reader_of(args.of_run, args.corpus, args.template)
    is_preferences = _holds_preferences(args, reading_of(args, reader.stage))
    report = (_audit_preferences if is_preferences else _audit_conversations)(args, reader)
    if args.json:
        print_json(report | {"findings": [asdict(f) for f in report["findings"]]})
    else:
        _show_findings(report["findings"], args.all)
        lines = _preference_lines(report) if is_preferences else _lines(report)
        for name, value in [*lines, *_last_lines(report)]:
            print(f"{name:<24}{value}")
    if report["errors"]:
        return 65
    return 1 if report["warnings"] and args.strict else 0


def _holds_preferences(args, reading):
    """Return True if the files are of preferences, False if they are of conversations. A UsageError
    if there are both."""
    from pysft.text.preferences import holds_preferences

    if args.preferences and not args.files:
        raise UsageError("--preferences needs a FILE; the shipped ones are of conversations")
    kinds = {path: args.preferences or holds_preferences(path, reading) for path in args.files}
    if len(set(kinds.values())) > 1:
        one = next(path for path in kinds if kinds[path])
        other = next(path for path in kinds if not kinds[path])
        raise UsageError(f"{one} holds preferences, and {other} does not; audit them one by one")
    return any(kinds.values())


def _audit_conversations(args, reader):
    """Return the report on conversations."""
    from pysft.text.audit import audit
    from pysft.text.corpora import read_corpus, shipped

    files = args.files or [str(shipped(name)) for name in ("conversations.jsonl", "pairs40.jsonl")]
    heldout = args.heldout or (None if args.files else str(shipped("heldout_prompts.jsonl")))
    # The corpus of a run may be gone by now, so with --run no overlap is searched for.
    corpus = (
        None if args.no_overlap or reader.stage is not None else read_corpus(args.corpus or "plays")
    )
    grade, unknown = policies(args, reader.stage)
    return audit(
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


def _audit_preferences(args, reader):
    """Return the report on preferences."""
    from pysft.text.preference_audit import audit_rankings

    if args.grade is not None:
        raise UsageError(
            "--grade: of preferences all replies count, and nothing else; leave it out"
        )
    _, unknown = policies(args, reader.stage)
    return audit_rankings(
        args.files,
        reader.tokenizer,
        reader.template,
        args.context or reader.context,
        args.tokens,
        args.heldout,
        args.fix,
        unknown,
        reader.tokens,
        reading_of(args, reader.stage),
    )


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


# ------------------------------------------------------------------------------------ the figures


def _lines(report):
    """Return the figures of an audit of conversations, [(name, value)]."""
    turns = ", ".join(f"{n:,} with {count}" for count, n in report["turns"].items())
    share = f" ({report['graded_share']:.0%})" if report["targets"] else ""
    lines = [
        *_first_lines(report, f"{report['trainable']:,} can be trained on"),
        ("turns", turns or "none"),
        *_lengths(report, "conversation"),
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
    return lines


def _preference_lines(report):
    """Return the figures of an audit of preferences, [(name, value)]."""
    replies = ", ".join(f"{n:,} with {count}" for count, n in report["replies"].items())
    longer, agreement = report["longer_is_better"], report["agreement"]
    least, most = agreement["instructgpt"]
    agreed = "no pair was judged by two labelers"
    if agreement["pairs"]:
        agreed = f"{agreement['share']:.0%} of {agreement['comparisons']:,} comparisons on"
        agreed += (
            f" {agreement['pairs']:,} pairs (InstructGPT's labelers: {least:.0%} to {most:.0%})"
        )
    lines = [
        *_first_lines(report, f"{report['rankings']:,} are rankings to learn from"),
        ("prompts", f"{report['prompts']:,} different"),
        ("replies", replies or "none"),
        ("pairs", f"{report['pairs']:,}; {report['ties']:,} more tie"),
        (
            "the longer is better",
            f"in {longer['share']:.0%} of {longer['pairs']:,} pairs (by chance 50%)"
            if longer["pairs"]
            else "no pair of different lengths",
        ),
        ("labelers agree", agreed),
        ("best and worst", f"{report['best_and_worst']:,} replies, each of different rankings"),
        *_lengths(report, "ranked reply"),
    ]
    if agreement["labelers"]:
        shown = sorted(agreement["labelers"], key=lambda x: x["share"] is None or x["share"])
        named = ", ".join(map(_labeler, shown[:SHOWN])) + ", ..." * (len(shown) > SHOWN)
        lines.append(("labelers", named))
    if report["sources"]:
        lines.append(("sources", _kinds(report["sources"])))
    return lines


def _labeler(row):
    """Return the name of a labeler with the agreement with all others."""
    share = (
        "not compared" if row["share"] is None else f"{row['share']:.0%} of {row['comparisons']:,}"
    )
    return f"{row['labeler']} ({share})"


def _first_lines(report, usable):
    """Return the lines about tables and rows. usable: how many rows can be used."""
    lines = [("table", f"{path}: {sheet}") for path, sheet in report["tables"].items()]
    return lines + [
        ("rows", f"{report['rows']:,}, of which {usable}"),
        ("left out", ", ".join(f"{n:,} {why}" for why, n in report["left_out"].items()) or "none"),
        ("keys not read", _counts(report["keys_not_read"])),
        ("characters changed", report["characters_changed"] or "none"),
    ]


def _lengths(report, thing):
    """Return the lines about lengths. thing: what is counted in tokens."""
    return [
        (
            f"tokens a {thing}",
            f"{_spread(report['tokens'])}; {report['too_long']:,} do not fit the context of"
            f" {report['context']:,}",
        ),
        ("characters a prompt", _spread(report["prompt_length"])),
        (
            "characters a reply",
            f"{_spread(report['reply_length'])}; at inference at most {report['max_new']:,} tokens",
        ),
    ]


def _last_lines(report):
    """Return the lines about the written file and the findings."""
    lines = []
    if report["fixed"]:
        f = report["fixed"]
        removed = f"removed {f['removed_duplicates']:,} exact duplicates and"
        removed += f" {f['removed_untrainable']:,} that cannot be trained on"
        lines.append(("fixed", f"{f['path']}: {f['kept']:,} rows; {removed}"))
    found = ", ".join(f"{k['count']:,} {k['kind']} ({k['severity']})" for k in report["kinds"])
    return [*lines, ("findings", found or "none: clean")]


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
