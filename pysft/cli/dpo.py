"""`pysft dpo`: tune a model that talks on pairs of a better and a worse reply."""

from dataclasses import replace

from pysft.cli.arguments import print_json
from pysft.cli.comparing import add_comparing, order_of, own_reward_model
from pysft.errors import UsageError

HELP = "tune a model that talks on pairs of a better and a worse reply (DPO)"
EXAMPLES = ("dpo runs/tiny --data pairs.jsonl", "dpo runs/world --by world --beta 0.3")


def add_arguments(p):
    add_comparing(p, "dpo")
    p.add_argument(
        "--reward", metavar="RUN", help="the run whose reward model ranks replies (--by reward)"
    )
    p.add_argument(
        "--beta",
        type=float,
        metavar="B",
        help="how dear it is to move away from the model that it begins from; usually 1",
    )
    p.add_argument("--kind", choices=["sigmoid", "ipo"], help="the loss; usually sigmoid")
    p.add_argument(
        "--nll",
        type=float,
        metavar="W",
        help="weight of the chosen replies' own nll; usually 0.1, in a world 5",
    )


def run(args):
    from pysft.cli.show import print_rows, side_by_side
    from pysft.console import Screen
    from pysft.jobs.train import train
    from pysft.measure.alignment import dpo_rows
    from pysft.training.flags import DPO_FLAGS

    order = order_of(args, "dpo", DPO_FLAGS)
    if not order.resume and order.rankings is None and order.reward is None:
        [stage] = order.settings.stages.values()
        if stage.by == "reward":
            order = replace(order, reward=own_reward_model(args.base))
        if args.by == "reward" and order.reward is None:
            raise UsageError(
                f"--by reward: {args.base} holds no reward model; name a run that does by --reward,"
                " or let others rank (--by world, --by labelers)"
            )
    screen = Screen(args.json)
    done = train(order, screen, "dpo")
    if done.sides is not None:
        side_by_side(done.sides, screen)
    print_rows(dpo_rows(done.report), screen)
    if args.json:
        print_json(done.report)
