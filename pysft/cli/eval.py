"""`pysft eval`: measure a run, or one checkpoint of it, again."""

from pysft.cli.arguments import (
    add_computing,
    add_judge,
    add_precision,
    add_run_folder,
    positive,
    print_json,
    refuse_reward_alone,
    share,
    warn_if_unfinished,
    whole,
)
from pysft.errors import UsageError

HELP = "measure a run, or one checkpoint of it, again"
EXAMPLES = (
    "eval runs/tiny",
    "eval runs/tiny --gate 0.10",
    "eval runs/tiny --matched",
    "eval runs/tiny/sft/steps/850 --samples 20",
    "eval runs/tiny/reward",
    "eval runs/tiny --data pairs.jsonl rankings.jsonl",
    "eval runs/world --best-of 64 --reward runs/reward",
    "eval runs/world --judge http://localhost:8000/v1 --judge-model judge",
)


def add_arguments(p):
    add_computing(p)
    add_precision(p, "(default: as the run was trained)")
    add_run_folder(p, "a run's folder, one stage of it, or a checkpoint: RUN/sft/steps/STEP")
    p.add_argument(
        "--gate",
        type=share,
        metavar="SHARE",
        help="exit 1 if the base loss rose by more than this share (the source text's regression"
        " check: 0.10 to 0.15); with --matched, if it is above the matched base by more",
    )
    p.add_argument(
        "--matched",
        action="store_true",
        help="also measure forgetting against the base after more training, on as much base text as"
        " the fine-tuning replayed; this takes about as long as the replay took",
    )
    p.add_argument(
        "--samples",
        type=whole,
        default=0,
        metavar="N",
        help="show N replies to unseen prompts, each with the training text similar to it",
    )
    p.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        action="extend",
        help="measure on comparisons alone: files of rankings or pairs. A reward model orders their"
        " replies by its scores, and a model that talks by the sum of the log-probabilities of"
        " their tokens",
    )
    p.add_argument(
        "--judge",
        metavar="URL|FILE.py",
        help="for a run that learned an invented world: let another judge grade the replies to its"
        " sealed questions too, and say how far it agrees with the exact one. A file has a"
        " function judge(question, answer, reply); a URL is an OpenAI-compatible endpoint, whose"
        " key is taken from PYSFT_JUDGE_KEY or OPENAI_API_KEY",
    )
    add_judge(p)
    p.add_argument(
        "--best-of",
        type=positive,
        metavar="N",
        help="for a run that learned an invented world: draw N replies, such as 64, to each of 100"
        " sealed questions, and show what the best of 1, 2, 4, ... gains by the score of a reward"
        " model and in truth",
    )
    p.add_argument(
        "--reward",
        metavar="RUN",
        help="the run whose reward model scores the replies of --best-of (default: RUN itself)",
    )


def run(args):
    from pysft.cli import show
    from pysft.console import Screen
    from pysft.jobs.compare import Sides
    from pysft.jobs.evaluate import evaluate
    from pysft.measure.alignment import dpo_rows, ppo_rows, reward_rows, scored_rows
    from pysft.measure.bestof import best_of_lines
    from pysft.measure.wording import unit_of, written
    from pysft.nn.computing import computing_ops

    warn_if_unfinished(args.run_folder)
    screen = Screen(args.json)
    ops = computing_ops(args.ops, args.threads, args.precision)
    _refuse_beside_data(args)
    judge = _judge(args, screen)
    refuse_reward_alone(args)
    best = None if args.best_of is None else (args.best_of, args.reward)
    report = evaluate(args.run_folder, ops, args.matched, screen.progress, judge, args.data, best)
    tuned = "recall" in report
    if (args.gate or args.matched) and "reward" in report:
        raise UsageError(
            f"{args.run_folder}: this is a reward model, which writes no text and has none to"
            " forget; --gate and --matched are for a tuned model"
        )
    if (args.gate or args.matched) and not tuned:
        raise UsageError(
            f"{args.run_folder}: this is a base model, which has forgotten nothing; --gate and"
            " --matched are for a tuned model"
        )
    rise = report.get("forgetting_matched", report.get("forgetting"))
    if args.gate and rise is None:
        raise UsageError(
            f"{args.run_folder}: the base loss before fine-tuning is not known or 0, so --gate"
            " cannot check its rise; leave --gate out"
        )
    if args.json:
        print_json(report)
    elif tuned:
        parent = report.get("parent")
        name = parent["stage"] if parent else "base"
        sides = Sides(name, parent is not None, report["before_after"], report["chat"])
        show.side_by_side(sides, screen)
        show.table(report, screen)
        show.domains(report, screen)
        show.provenance(report["samples"][: args.samples], screen)
        if "dpo" in report:
            show.print_rows(dpo_rows(report), screen)
        if "ppo" in report:
            show.print_rows(ppo_rows(report), screen)
        if best:
            screen.say("\n" + "\n".join(best_of_lines(report["best_of"])))
    elif "reward" in report:
        show.print_rows(reward_rows(report["reward"]), screen)
    elif "comparisons_scored" in report:
        show.print_rows(scored_rows(report["comparisons_scored"]), screen)
    else:
        loss = written(report["base_loss"], "loss")
        print(f"base text, nats/{unit_of(report)}     {loss}")
    if not args.gate:
        return 0
    return 0 if _gate(rise, args.gate, args.matched, screen) else 1


def _refuse_beside_data(args) -> None:
    """Raise a UsageError for a flag that has no meaning beside --data."""
    for name in ("gate", "matched", "samples", "judge", "best_of"):
        if args.data and getattr(args, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--data measures on comparisons alone; leave --{flag} out")


def _judge(args, screen):
    """Return the judge that --judge names, or None."""
    if args.judge is None:
        if args.judge_model or args.judge_budget:
            raise UsageError("--judge-model and --judge-budget need --judge URL")
        return None
    from pathlib import Path

    from pysft.measure.judges import judge_named

    cache = Path(args.judge_cache)
    return judge_named(args.judge, args.judge_model, args.judge_budget, cache, screen.say)


def _gate(rise: float, allowed: float, matched: bool, screen) -> bool:
    """True if the base loss rose by at most `allowed`. Prints the result."""
    passed = rise <= allowed
    text = f"gate                     {'passed' if passed else 'NOT passed'}: the base loss rose by"
    text += f" {rise:+.1%}{' above the matched base' if matched else ''},"
    text += f" {100 * allowed:g} % is allowed"
    if not passed:
        text += (
            "; mix in base text (--set 'sft.windows=[[256,4]]'), lower the rate, or train for fewer"
        )
        text += " steps"
    screen.say(text)
    return passed
