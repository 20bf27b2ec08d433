"""`pysft world`: write an invented world as plain files: its texts, its questions and the truth."""

from pathlib import Path

from pysft.cli.arguments import part, positive, print_json, whole

HELP = "invent a world of people and facts; write its texts, questions and truth as plain files"
EXAMPLES = (
    "world --out worlds/one",
    "world --seed 7 --people 400 --relations 3 --out worlds/large",
    "world --tellings 0 10 30 100 300 500 1000 --out worlds/uneven",
    "world --violations 0.5 --out worlds/rude",
)


def add_arguments(p):
    p.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    p.add_argument(
        "--seed", type=whole, default=1, metavar="N", help="the same seed gives the same world"
    )
    p.add_argument(
        "--people", type=positive, default=100, metavar="N", help="how many people (default 100)"
    )
    for name in ("places", "things"):
        p.add_argument(
            f"--{name}", type=whole, default=0, metavar="N", help=f"how many {name} (default 0)"
        )
    p.add_argument(
        "--days", type=whole, default=32, metavar="N", help="days with a feast (default 32)"
    )
    p.add_argument(
        "--strangers",
        type=whole,
        default=0,
        metavar="N",
        help="names that nobody has (default 0: as many as people)",
    )
    p.add_argument(
        "--attributes",
        type=positive,
        default=4,
        metavar="N",
        help="how many a person has of trade, street, pet and dish (default 4)",
    )
    p.add_argument(
        "--relations",
        type=whole,
        default=0,
        metavar="N",
        help="how many a person has of neighbour, seller and teacher (default 0); they give"
        " questions of two hops",
    )
    p.add_argument(
        "--refusals",
        action="store_true",
        help="ask in training about names of nobody too, whose right answers refuse",
    )
    p.add_argument(
        "--tellings",
        type=whole,
        nargs="+",
        default=(512,),
        metavar="N",
        help="how often the text tells each fact of an entity (default 512); of several numbers,"
        " each is that of some entities",
    )
    p.add_argument(
        "--violations",
        type=part,
        metavar="SHARE",
        help="also write violating.jsonl, replies to the questions of training of which this share"
        " violates a principle of the shipped constitution, and critiques.jsonl, conversations that"
        " criticise and revise such replies (train both with --grade flags)",
    )


def run(args):
    from pysft.rng import rng
    from pysft.world.facts import WorldSettings, make
    from pysft.world.files import write_world
    from pysft.world.tell import telling

    settings = WorldSettings(
        args.people, args.places, args.things, args.days, args.strangers, args.attributes,
        args.relations, args.refusals, tuple(args.tellings), args.seed,
    )  # fmt: skip
    folder = Path(args.out)
    world = make(settings)
    document = write_world(world, folder, _violations(world, args.violations))
    if args.json:
        print_json({"folder": str(folder), **document})
        return
    asked = ", ".join(f"{n:,} {split}" for split, n in document["questions"].items())
    print(f"{folder}: {document['entities']:,} entities, {document['strangers']:,} names of nobody")
    print(f"text.txt: {document['characters']:,} characters")
    print(f"questions: {asked}")
    if args.violations:
        print(f"violating.jsonl: {document['violating']:,} replies")
        print(f"critiques.jsonl: {document['critiques']:,} conversations")
    entity = next(e for e in world.entities if e.tellings)
    g = rng(settings.seed, "world", "example")
    print(f"\n{entity.name}, as the text tells:\n{telling(entity, g)}")


def _violations(world, share: float | None) -> dict[str, list[dict]]:
    """The rows that --violations adds, by the names of their files."""
    if share is None:
        return {}
    from pysft.text.constitution import SHIPPED, read_constitution
    from pysft.world.violations import critique_rows, violating_rows

    wordings = {p.name: (p.question, p.revise) for p in read_constitution(SHIPPED)}
    return {
        "violating": violating_rows(world, share),
        "critiques": critique_rows(world, wordings),
    }
