"""`pysft ppo`: tune a model that talks on a reward for its own replies."""

from pysft.cli.arguments import add_training, positive, print_json
from pysft.errors import UsageError

HELP = "tune a model that talks on a reward for the replies that it writes (PPO)"
EXAMPLES = (
    "ppo runs/world --reward world",
    "ppo runs/world --reward runs/reward --beta 0.05 --kl-target 6",
    "ppo runs/tiny --reward mine.py:score --prompts prompts.txt",
)


def add_arguments(p):
    p.add_argument(
        "base", metavar="RUN", nargs="?", help="the run whose newest stage that talks is tuned"
    )
    p.add_argument(
        "--reward",
        metavar="RUN|world|FILE.py:function",
        help="what a reply is worth: a run's reward model (default: that of RUN, if it has one),"
        " world (the exact judge of the world that RUN learned), or a function(prompt, replies) in"
        " a file, which returns a number for each reply",
    )
    p.add_argument(
        "--prompts",
        metavar="FILE",
        help="a file of prompts, one on each line, or JSON lines (default: questions about the"
        " world that RUN learned, with --tools those that the search answers)",
    )
    p.add_argument(
        "--beta",
        type=float,
        metavar="B",
        help="the price of a nat of KL from the model that it begins from; usually 0.02, and 0 is"
        " free",
    )
    p.add_argument(
        "--kl-target",
        type=float,
        metavar="NATS",
        help="raise and lower beta so that the KL of a reply comes near this, such as 3 (default:"
        " beta stays)",
    )
    p.add_argument(
        "--baseline",
        choices=("value", "leave-one-out", "group"),
        help="what a reward is compared with: the value of a critic (PPO, the default), the other"
        " replies to the prompt (RLOO), or their mean and deviation (GRPO)",
    )
    p.add_argument(
        "--ptx",
        type=float,
        metavar="W",
        help="weight of the base text beside the replies; usually 1",
    )
    p.add_argument(
        "--tools",
        action="store_true",
        default=None,
        help="let replies call the tools that the model knows",
    )
    p.add_argument(
        "--on-alarm",
        choices=("say", "stop"),
        help="what to do when the reward is hacked, or the KL, the length or the variety of replies"
        " has left its bounds: say so (the default), or end the training there",
    )
    p.add_argument(
        "--steps", type=positive, metavar="N", help="iterations; usually 200, in a world 300"
    )
    p.add_argument(
        "--lr",
        type=float,
        metavar="RATE",
        help="learning rate of the policy; usually 3e-4, in a world 1e-3",
    )
    add_training(p)


def _order(args):
    """Return the order of the training. A UsageError if no run is named."""
    from pathlib import Path

    from pysft.cli.arguments import settings_of
    from pysft.cli.comparing import refuse_base
    from pysft.errors import MissingInput
    from pysft.jobs.begin import Order, parent_named
    from pysft.measure.raters import is_function
    from pysft.run.stage import find_stage, reward_model
    from pysft.training.flags import PPO_FLAGS
    from pysft.training.kinds import next_name

    if args.base is None and not args.resume:
        raise UsageError("name the run to begin from: ppo RUN")
    parent = base = model = None
    reward, args.reward = args.reward, None
    if not args.resume:
        base = str(find_stage(args.base))
        refuse_base(Path(base), args.base)
        parent = parent_named(base)
        if reward == "world" or reward is not None and is_function(reward):
            args.reward = reward
        elif reward is not None:
            model = str(reward_model(reward))
    stages = None if parent is None else [next_name(parent.stage, "ppo")]
    settings = settings_of(args, PPO_FLAGS, None, stages, parent)
    if not args.resume and model is None:
        [stage] = settings.stages.values()
        if stage.reward == "reward":
            try:
                model = str(reward_model(args.base))
            except MissingInput:
                if settings.world is None and not stage.tools:
                    raise UsageError(
                        f"{args.base} holds no reward model; say what a reply is worth by --reward"
                        " RUN or --reward FILE.py:function"
                    ) from None
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
        name="ppo",
        reward=model,
        prompts=args.prompts,
    )


def run(args):
    from pysft.cli.show import print_rows, side_by_side
    from pysft.console import Screen
    from pysft.jobs.train import train
    from pysft.measure.alignment import ppo_rows

    screen = Screen(args.json)
    done = train(_order(args), screen, "ppo")
    if done.sides is not None:
        side_by_side(done.sides, screen)
    print_rows(ppo_rows(done.report), screen)
    if args.json:
        print_json(done.report)
