"""`pysft diagnose`: find what went wrong with a run, by rules over its figures."""

from pysft.cli.arguments import add_run_folder, print_json, tuned_stage

HELP = "find what went wrong with a run, the likely cause and the fix; exit 1 if something did"
EXAMPLES = ("diagnose runs/tiny", "diagnose runs/tiny/sft/steps/850")


NUMBERS = {2: "two", 7: "seven", 13: "thirteen", 16: "sixteen"}


def add_arguments(p):
    add_run_folder(p, "a run's folder, one stage of it, or a checkpoint: RUN/sft/steps/STEP")


def run(args):
    from pysft.measure.diagnose import diagnose
    from pysft.run.stage import checkpoint_step

    document = diagnose(tuned_stage(args.run_folder, True), checkpoint_step(args.run_folder))
    print_json(document) if args.json else print(text(document))
    return 1 if document["findings"] else 0


def text(document: dict) -> str:
    """A diagnosis for the terminal."""
    found, rules = document["findings"], NUMBERS.get(document["rules"], str(document["rules"]))
    head = document["stage"]
    if not document["finished"]:
        head += " (figures of a checkpoint, not of the finished training)"
    blind = document.get("words_unmeasured")
    note = f"\n{blind[0].upper()}{blind[1:]}; two of the modes need them." if blind else ""
    if not found:
        return f"{head}: none of the {rules} failure modes shows{note}"
    shows = "shows" if len(found) == 1 else "show"
    lines = [f"{head}: {len(found)} of the {rules} failure modes {shows}"]
    for f in found:
        lines += [
            "",
            f"{f['mode']}: {f['symptom']}",
            f"  figure  {f['figure']}",
            f"  cause   {f['cause']}",
            f"  fix     {f['fix']}",
        ]
    return "\n".join(lines) + note
