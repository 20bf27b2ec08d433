"""`pysft reward`: train a reward model on rankings of replies."""

from pysft.cli.arguments import print_json
from pysft.cli.comparing import add_comparing, order_of

HELP = "train a reward model, which gives a reply a number, on rankings of replies"
EXAMPLES = ("reward runs/tiny --data rankings.jsonl", "reward runs/world --by labelers --gate")


def add_arguments(p):
    add_comparing(p, "reward")
    p.add_argument(
        "--epochs",
        type=float,
        metavar="N",
        help="passes over the rankings; usually 2, in a world 4",
    )
    p.add_argument(
        "--ties",
        choices=("none", "half", "davidson"),  # objectives.TIES
        help="what two replies of equal rank count: nothing (none, the default), a half for both"
        " orders (half), or a tie with a probability of its own (davidson)",
    )
    p.add_argument(
        "--gate",
        action="store_true",
        help="end with status 1 unless the model is good enough to train with: better on held-out"
        " pairs than the length of a reply is, and than 60 %%",
    )


def run(args):
    from pysft.cli.show import print_rows
    from pysft.console import Screen
    from pysft.jobs.train import train
    from pysft.measure.alignment import is_good_enough, reward_rows
    from pysft.training.flags import REWARD_FLAGS

    screen = Screen(args.json)
    report = train(order_of(args, "reward", REWARD_FLAGS), screen, "reward").report
    print_rows(reward_rows(report["reward"]), screen)
    if args.json:
        print_json(report)
    if args.gate:
        good, why = is_good_enough(report["reward"])
        screen.say(f"good enough: {'yes' if good else 'no'}; {why}")
        return 0 if good else 1
    return 0
