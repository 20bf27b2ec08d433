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
    from pysft.jobs.pretrain import pretrain_only

    settings = settings_of(args, base_steps=args.steps, base_lr=args.lr)
    order = Order(
        settings,
        corpus=args.corpus,
        out=args.out,
        resume=args.resume,
        ops=args.ops,
        threads=args.threads,
        on_nan=args.on_nan,
    )
    report = pretrain_only(order, Screen(args.json))
    if args.json:
        print_json(report)
