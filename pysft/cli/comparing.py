"""What the verbs that learn from comparisons share: their flags and their order."""

from pathlib import Path

from pysft.cli.arguments import add_training, positive, settings_of
from pysft.errors import UsageError


def add_comparing(p, kind: str) -> None:
    """Add the flags. kind: "reward" or "dpo", the kind of the stage that is trained."""
    p.add_argument(
        "base", metavar="RUN", nargs="?", help="the run whose newest stage that talks is tuned"
    )
    p.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        action="extend",
        help='files of comparisons: JSON lines of {"prompt", "replies", "ranks"} or of {"prompt",'
        ' "chosen", "rejected"}, as `rate` writes them or as they are published. Without it, the'
        " run writes replies to questions about the world that it learned, and they are ranked",
    )
    p.add_argument(
        "--by",
        metavar="WHO",
        help="who ranks them: world (the exact judge), labelers (simulated people)"
        + (", or reward (a reward model)" if kind == "dpo" else ""),
    )
    p.add_argument(
        "--replies", type=positive, metavar="K", help="replies to each prompt, 2 to 9; usually 6"
    )
    p.add_argument(
        "--rounds", type=positive, metavar="N", help="rankings of each prompt; usually 3"
    )
    p.add_argument(
        "--too-long",
        choices=["refuse", "drop"],
        help="what to do with rankings that are longer than the context (refuse, the usual, stops)",
    )
    p.add_argument("--steps", type=positive, metavar="N", help="steps of training")
    p.add_argument("--lr", type=float, metavar="RATE", help="learning rate")
    add_training(p)


def _refuse_base(folder: Path, run) -> None:
    """Raise a UsageError that says what to do, if the stage in a folder is a base model."""
    from pysft.console import command
    from pysft.run.stage import can_talk, outputs_of

    if "value" == outputs_of(folder):
        raise UsageError(
            f"{folder}: this is a reward model, which gives no replies; name the run that it was"
            " trained from, and this one by --reward"
        )
    if not can_talk(folder):
        raise UsageError(
            f"{folder}: this is a base model, which cannot answer, so there are no replies of its"
            f" to compare; fine-tune it first: {command('train', '--base', Path(run))}"
        )


def order_of(args, kind: str, flags: dict):
    """Return the order_from() of a stage that learns from comparisons. A UsageError if flags
    contradict each other."""
    if args.data is not None:
        for name in ("by", "replies", "rounds", "reward"):
            if getattr(args, name, None) is not None:
                raise UsageError(
                    f"--{name} is for comparisons that the run makes, and --data names files of"
                    " them; leave one of the two out"
                )
    if getattr(args, "reward", None) is not None and args.by not in (None, "reward"):
        raise UsageError(
            f"--reward ranks replies by a reward model, and --by {args.by} by somebody else; leave"
            " one of the two out"
        )
    return order_from(args, kind, flags, rankings=args.data, reward=getattr(args, "reward", None))


def order_from(args, kind: str, flags: dict, **more):
    """Return the order of a training that is one stage of a kind, begun from the model that
    args.base names. more: what else the Order has. A UsageError if no run is named, or if it holds
    no model that talks."""
    from pysft.jobs.begin import Order, parent_named
    from pysft.run.stage import find_stage
    from pysft.training.kinds import next_name

    if args.base is None and not args.resume:
        raise UsageError(f"name the run to begin from: {kind} RUN")
    parent = base = None
    if not args.resume:
        base = str(find_stage(args.base))
        _refuse_base(Path(base), args.base)
        parent = parent_named(base)
    stages = None if parent is None else [next_name(parent.stage, kind)]
    settings = settings_of(args, flags, None, stages, parent)
    return Order(
        settings,
        args.corpus,
        None,
        base,
        args.out,
        args.resume,
        args.ops,
        args.threads,
        args.on_nan,
        args.save_every,
        name=kind,
        **more,
    )


def own_reward_model(run: str) -> str | None:
    """Return the folder of the reward model in a run; None if it has none."""
    from pysft.errors import MissingInput
    from pysft.run.stage import reward_model

    try:
        return str(reward_model(run))
    except MissingInput:
        return None
