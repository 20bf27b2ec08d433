"""`pysft pretrain`: train a base model alone."""

from pysft.cli.arguments import add_training, positive, print_json, settings_of

HELP = "train a base model alone"
EXAMPLES = ("pretrain --corpus my.txt --steps 1000",)


def add_arguments(p):
    add_training(p)
    p.add_argument("--steps", type=positive, metavar="N", help="steps of pre-training")
    p.add_argument("--lr", type=float, metavar="RATE", help="learning rate of pre-training")


def run(args):
    from pysft.console import Screen
    from pysft.jobs.begin import Order
    from pysft.jobs.train import train
    from pysft.training.flags import PRETRAIN_FLAGS

    order = Order(
        settings_of(
            args,
            PRETRAIN_FLAGS,
            stages=["base"],
            world=("world", "base") if args.corpus == "world" else (),
        ),
        corpus=args.corpus,
        out=args.out,
        resume=args.resume,
        ops=args.ops,
        threads=args.threads,
        on_nan=args.on_nan,
        save_every=args.save_every,
    )
    report = train(order, Screen(args.json), "pretrain").report
    if args.json:
        print_json(report)
