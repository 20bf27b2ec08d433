"""`pysft select`: show which checkpoint each criterion picks, and where they disagree."""

from pathlib import Path

from pysft.cli.arguments import add_computing, add_run_folder, print_json, tuned_stage
from pysft.console import command
from pysft.errors import UsageError

HELP = "show which checkpoint each criterion picks, and where they disagree"
EXAMPLES = ("select runs/tiny", "select runs/world --by reward")


def add_arguments(p):
    add_computing(p)
    add_run_folder(p)
    p.add_argument(
        "--by",
        choices=["reward"],
        help="compare by a reward model: its mean score of fresh replies, beside held-out loss, the"
        " share of right answers (in an invented world), and marks",
    )
    p.add_argument(
        "--reward",
        metavar="RUN",
        help="the run that has the reward model (default: the run itself)",
    )


def run(args):
    from pysft.measure.choose import BY_POLICY, select, with_iterations
    from pysft.measure.rate import read_marks
    from pysft.measure.run_files import known_kind
    from pysft.run.log import read_log, read_measurements

    folder = tuned_stage(args.run_folder)
    if args.by:
        choice = _by_reward(args, folder)
    elif args.reward:
        raise UsageError("--reward RUN needs --by reward")
    elif known_kind(folder) == "ppo":
        rows = with_iterations(read_measurements(folder), read_log(folder))
        choice = select(rows, read_marks(folder), BY_POLICY)
    else:
        choice = select(read_measurements(folder), read_marks(folder))
    print_json(choice) if args.json else print(table(choice, folder))


def _by_reward(args, folder) -> dict:
    from pysft.console import Screen
    from pysft.jobs.choosing import select_by_reward
    from pysft.nn.computing import computing_ops

    ops = computing_ops(args.ops, args.threads)
    return select_by_reward(folder, args.reward, ops, Screen(args.json).progress)


def table(choice: dict, stage_folder) -> str:
    """A choice for the terminal: a line for each checkpoint, a line for each criterion, and the
    conclusion. A star marks what a criterion picks."""
    from pysft.measure.choose import BY_POLICY, BY_REWARD, CRITERIA

    every = (CRITERIA, BY_REWARD, BY_POLICY)
    criteria = next(c for c in every if [*c] == [*choice["criteria"]])
    lines = [*_by_step(choice, criteria), "", *_by_criterion(choice, criteria), ""]
    if "reward_model" in choice:
        what = {
            "world": "questions about the world, which no stage that talks is trained on",
            "probe": "prompts that no training conversation asks",
        }[choice["asked_of"]]
        lines += [
            f"Scores: by {choice['reward_model']}, of fresh replies at temperature 1 to"
            f" {choice['asked']:,} {what}.",
            "A score is a stand-in for what you care about. Where it disagrees with right answers"
            " or marks, believe those.",
        ]
    reasons = {str(row["words_unmeasured"]) for row in choice["rows"] if "words_unmeasured" in row}
    lines += [f"{reason[:1].upper()}{reason[1:]}." for reason in sorted(reasons)]
    return "\n".join([*lines, *_advice(choice, stage_folder)])


def _by_step(choice: dict, criteria: dict) -> list[str]:
    heads = {name: ([""] + name.split(" ", 1))[-2:] for name in criteria}  # on two lines
    widths = {name: max(7, *map(len, head)) for name, head in heads.items()}
    lines = [
        f"{first:>6} " + " ".join(f"{heads[name][i]:>{w}}" for name, w in widths.items())
        for i, first in enumerate(["", "step"])
    ]
    for row in choice["rows"]:
        line = f"{row['step']:>6} "
        for name, c in criteria.items():
            value = c.value(row)
            text = "-" if value is None else c.form.format(value)
            star = "*" if choice["criteria"][name]["step"] == row["step"] else " "
            line += f"{text:>{widths[name]}}{star}"
        lines.append(line.rstrip())
    return lines


def _by_criterion(choice: dict, criteria: dict) -> list[str]:
    counts = ", ".join(f"{row['marks']} at {row['step']}" for row in choice["rows"] if row["marks"])
    lines = []
    for name, c in criteria.items():
        step, ties = choice["criteria"][name]["step"], choice["criteria"][name]["ties"]
        if step is None:
            lines.append(f"{name:<22} -           not measured")
            continue
        text = c.best
        if ties:
            text += f" (the same at {', '.join(map(str, ties))})"
        if c.warning:
            text += f"; {c.warning}"
        if name == "person's marks":
            text += f"; marks: {counts}"
        lines.append(f"{name:<22} {f'step {step}':<11} {text}")
    return lines


def _advice(choice: dict, stage_folder) -> list[str]:
    if not choice["agree"]:
        return ["Nothing was measured, so there is no best checkpoint."]
    most, *others = choice["agree"]
    conclusion = f"Step {most['step']} is best, or tied for best, by everything that was measured."
    if others:
        parts = [
            f"{' and '.join(g['criteria'])} pick{'s' * (len(g['criteria']) == 1)} step {g['step']}"
            for g in sorted(others, key=lambda g: g["step"])
        ]
        rest = "everything else" if len(most["criteria"]) > 1 else most["criteria"][0]
        conclusion = f"They disagree: {', '.join(parts)}, {rest} step {most['step']}."
    marked = choice["criteria"]["person's marks"]["step"]
    step = marked or most["step"]  # a person's marks count for more than the figures
    chat = command("chat", Path(stage_folder) / "steps" / str(step))
    return [conclusion, f"Talk to step {step} before you choose it: {chat}"]
