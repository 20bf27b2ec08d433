"""`pysft ppo`: tune a model that talks on a reward for its own replies."""

from dataclasses import replace

from pysft.cli.arguments import add_training, positive, print_json

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
    """Return the order of the training. --reward is a setting, or names the run of a model."""
    from pysft.cli.comparing import order_from, own_reward_model
    from pysft.measure.raters import is_function
    from pysft.run.stage import reward_model
    from pysft.training.flags import PPO_FLAGS

    reward, args.reward = args.reward, None
    model = None
    if reward == "world" or reward is not None and is_function(reward):
        args.reward = reward
    elif reward is not None:
        model = str(reward_model(reward))
    order = order_from(args, "ppo", PPO_FLAGS, reward=model, prompts=args.prompts)
    if order.resume or model is not None:
        return order
    [stage] = order.settings.stages.values()
    return replace(order, reward=own_reward_model(args.base)) if stage.reward == "reward" else order


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
