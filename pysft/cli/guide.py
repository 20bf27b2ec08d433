"""`pysft guide`: list the pages of the guide, or show one."""

from pysft.cli.arguments import print_json
from pysft.errors import UsageError

HELP = "list the pages of the guide, or show one"
EXAMPLES = ("guide", "guide data", "guide settings | less")


def add_arguments(p):
    p.add_argument("name", metavar="NAME", nargs="?", help="the page to show (default: list them)")


def run(args):
    pages = read_pages()
    if args.name is None:
        titles = [{"name": name, "title": title_of(text)} for name, text in pages.items()]
        if args.json:
            print_json({"pages": titles})
            return
        for page in titles:
            print(f"{page['name']:<14} {page['title']}")
        print("\nShow one: python -m pysft guide NAME")
        return
    if args.name not in pages:
        raise UsageError(f"no page is called {args.name!r}. There are {', '.join(pages)}")
    text = pages[args.name]
    if args.json:
        print_json({"name": args.name, "title": title_of(text), "text": text})
    else:
        print(text, end="")


def read_pages() -> dict[str, str]:
    """The pages that ship with the package: name -> text, by name."""
    from pathlib import Path

    folder = Path(__file__).resolve().parents[1] / "guide"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}


def title_of(text: str) -> str:
    """A page's title: its first line."""
    return text.partition("\n")[0].removeprefix("# ")
