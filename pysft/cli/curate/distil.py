"""`pysft curate distil`: keep what a teacher thinks and answers, where a judge finds it right."""

from pathlib import Path

from pysft.cli.arguments import (
    add_computing,
    add_judge,
    add_precision,
    positive,
    print_json,
    warn_if_unfinished,
    whole,
)

HELP = "let a teacher think and answer, and keep the thoughts that led to a right answer"
EXAMPLES = (
    "curate distil world:train --teacher runs/teacher --judge world --out traces.jsonl",
    "curate distil prompts.txt --teacher http://localhost:8000/v1 --teacher-model NAME --judge"
    " my_judge.py --out traces.jsonl",
)


def add_arguments(p):
    add_computing(p)
    add_precision(p, "(default: as the teacher was trained)")
    p.add_argument(
        "prompts",
        metavar="PROMPTS",
        help="a text with a prompt on each line, a .jsonl of them, or the questions of the world"
        " that a run learned (world:train, world:reward or world:ppo)",
    )
    p.add_argument(
        "--teacher",
        metavar="RUN|URL",
        required=True,
        help="who answers: a run that learned to think before it answers, or an OpenAI-compatible"
        " endpoint, whose key is taken from PYSFT_JUDGE_KEY or OPENAI_API_KEY",
    )
    p.add_argument("--teacher-model", metavar="NAME", help="the model of the teacher's endpoint")
    p.add_argument(
        "--teacher-budget",
        type=positive,
        metavar="N",
        help="at most N calls of the teacher's endpoint; the same command goes on from the answers"
        " that are kept",
    )
    p.add_argument(
        "--teacher-cache",
        metavar="DIR",
        help="where the teacher's answers are kept, so that nothing is asked twice (default"
        " taught)",
    )
    p.add_argument(
        "-k",
        type=positive,
        default=4,
        metavar="K",
        help="replies to each prompt, at temperature 1, 1 to 9 (default 4)",
    )
    p.add_argument(
        "--judge",
        metavar="world|FILE.py|URL",
        required=True,
        help="who grades the answers, without the thoughts: the exact judge of the world, a Python"
        " file with judge(question, answer, reply), or an endpoint. The last two are told the"
        " world's answer to a question of the world of --run, or of the teacher; else the answer is"
        ' ""',
    )
    add_judge(p)
    p.add_argument(
        "--run",
        dest="run_of_world",
        metavar="RUN",
        help="the run whose world is asked (default: the teacher, if it is a run)",
    )
    p.add_argument("--out", metavar="FILE.jsonl", required=True, help="the new file of rows")
    p.add_argument(
        "--all",
        action="store_true",
        help="write all different right replies (default: the first one to each prompt)",
    )
    p.add_argument(
        "--answers-only",
        action="store_true",
        help="write the same rows without the thoughts, to compare a student of each",
    )
    p.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="the same seed gives the same replies"
    )


def run(args):
    from pysft.console import Screen, command
    from pysft.jobs.curate.distil import distil
    from pysft.nn.computing import computing_ops

    for folder in (args.teacher, args.run_of_world):
        if folder is not None and Path(folder).is_dir():
            warn_if_unfinished(folder)
    screen = Screen(args.json)
    document = distil(
        args.prompts, args.teacher, args.judge, Path(args.out), args.k, args.seed,
        args.run_of_world, computing_ops(args.ops, args.threads, args.precision),
        args.teacher_model, args.teacher_budget, args.teacher_cache, args.judge_model,
        args.judge_budget, Path(args.judge_cache), args.all, args.answers_only, screen.say,
        screen.progress,
    )  # fmt: skip
    screen.end_line()
    if args.json:
        return print_json(document)
    d, dropped = document, {k: n for k, n in document["dropped"].items() if n}
    total = sum(d["replies"].values())
    print(f"{d['out']}: {d['written']:,} rows of {d['read']:,} prompts")
    print(f"{d['right']:.0%} of {total:,} replies are right")
    if dropped:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
        print(f"prompts without a right reply, and what was wrong with most replies: {reasons}")
    print(f"Train a student: {command('train', '--data', Path(d['out']))}")
