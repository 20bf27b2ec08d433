"""`pysft info`: show how this copy was built and with which versions it runs, or the stages of a
run."""

import sys
from pathlib import Path

from pysft import __version__
from pysft.cli.arguments import print_json

HELP = "show the build, the instruction set, the threads and the versions; or the stages of a run"
EXAMPLES = ("info", "info --json", "info runs/tiny")


def add_arguments(p):
    p.add_argument(
        "run_folder", metavar="RUN", nargs="?", help="a run: show the tree of its stages"
    )


def run(args):
    if args.run_folder is None:
        _show_build(args)
    else:
        _show_run(args)


def _show_build(args):
    import numpy

    from pysft.nn import gate

    document = {
        "version": __version__,
        "isa": gate.ISA,
        "isas": gate.ISAS,
        "precisions": gate.precisions(),
        "threads": gate.default_threads(),
        "openmp": gate.OPENMP,
        "compiler": gate.COMPILER,
        "numpy": numpy.__version__,
        "python": sys.version.split()[0],
    }
    if args.json:
        print_json(document)
        return
    for name, value in document.items():
        print(f"{name:<11} {', '.join(value) if isinstance(value, list) else value}")


def _show_run(args):
    from pysft.run.begun import resume_command
    from pysft.run.tree import drawn, tree

    rows = tree(args.run_folder)
    if args.json:
        print_json({"run": args.run_folder, "stages": rows})
        return
    for line, row in drawn(rows):
        print(f"{line:<28} {_described(row)}")
    left = {Path(row["folder"]).parent for row in rows if not (row["damaged"] or row["finished"])}
    for folder in sorted(left):
        if (folder / "run.json").is_file():
            print(f"Go on with: {resume_command(folder)}")


def _described(row: dict) -> str:
    """One stage in words."""
    if row["damaged"]:
        return f"damaged: {row['damaged']}"
    steps = "steps unknown" if row["steps"] is None else f"{row['steps']:,} steps"
    if not row["finished"]:
        return f"not finished: {steps} so far; {row['folder']}"
    text = (
        f"{steps}, {row['params']:,} weights, {row['symbols']} symbols,"
        f" {'products in bf16, ' if row['precision'] == 'bf16' else ''}SHA-256"
        f" {row['weights_sha256'][:12]}, {row['folder']}"
    )
    if row["parent_found"] is False:
        text += f"; its parent {row['parent']} was not found (it was at {row['parent_folder']})"
    return text
