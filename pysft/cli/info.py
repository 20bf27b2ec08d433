"""`pysft info`: show how this copy was built, and with which versions it runs."""

import sys

from pysft import __version__
from pysft.cli.arguments import print_json

HELP = "show the build, the instruction set, the threads and the versions"
EXAMPLES = ("info", "info --json")


def add_arguments(p):
    pass


def run(args):
    import numpy

    from pysft.nn import gate

    document = {
        "version": __version__,
        "isa": gate.ISA,
        "isas": gate.ISAS,
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
        print(f"{name:<10} {', '.join(value) if isinstance(value, list) else value}")
