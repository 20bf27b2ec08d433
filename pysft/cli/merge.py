"""`pysft merge`: merge the adapters of a LoRA training into their base, as a run to talk to."""

from pysft.cli.arguments import print_json

HELP = "merge the adapters of a LoRA training into their base, as a run to talk to"
EXAMPLES = ("merge runs/mine/sft/adapter.safetensors --base runs/tiny --out runs/merged",)


def add_arguments(p):
    p.add_argument(
        "adapter",
        metavar="ADAPTER",
        help="an adapter.safetensors, with vocabulary.json and template.json beside it",
    )
    p.add_argument(
        "--base",
        required=True,
        metavar="RUN",
        help="the base that the adapters were trained on; the hash of its weights is checked",
    )
    p.add_argument("--out", required=True, metavar="DIR", help="a new folder")


def run(args):
    from pathlib import Path

    from pysft.jobs.merge import merge

    digest = merge(Path(args.adapter), args.base, args.out)
    if args.json:
        print_json({"run": args.out, "weights_sha256": digest})
    else:
        print(f"{args.out}: SHA-256 {digest[:16]}")
