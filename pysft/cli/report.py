"""`pysft report`: write the page of a run."""

from pysft.cli.arguments import add_run_folder, print_json

HELP = "write RUN/report.html, a page with everything that is known about a run"
EXAMPLES = ("report runs/tiny",)


def add_arguments(p):
    add_run_folder(p, "a run's folder")


def run(args):
    from pysft.measure.report import write_report

    path = write_report(args.run_folder)
    print_json({"run": args.run_folder, "report": str(path)}) if args.json else print(path)
