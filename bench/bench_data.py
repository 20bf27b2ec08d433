"""How fast a data set is audited, and read, rendered and packed; and how memory grows with the
file.

    python bench/bench_data.py                 # 6,250 to 100,000 conversations
    python bench/bench_data.py --short         # some seconds, to see that all is well

The files are made for it: shipped conversations with about half of their words exchanged for
others, drawn with a fixed seed. Each size is measured in processes of its own; memory is the
process's peak less its peak before, and stands beside the file's size. Reading and packing is what
training does before its first step: JSON lines to conversations, conversations to tokens and
labels, one epoch of batches of 4,096 tokens. All on one thread."""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np

from pysft.recipe import peak_memory, reading
from pysft.text.audit import audit
from pysft.text.dataset import Batch, encode_all, read_corpus, shipped
from pysft.text.formats import read_conversations
from pysft.training.stages import by_tokens

COUNTS = [6_250, 12_500, 25_000, 50_000, 100_000]


def make(path: Path, count: int) -> None:
    """A file of `count` conversations."""
    g = np.random.default_rng(0)
    talks = read_conversations(shipped("conversations.jsonl"))
    words = sorted(
        {w for c in talks for m in c.messages for w in m["content"].split() if w.isalpha()}
    )
    with open(path, "w") as file:
        for i in g.integers(0, len(talks), count):
            messages = [
                {
                    **m,
                    "content": " ".join(
                        words[g.integers(len(words))] if g.random() < 0.45 else w
                        for w in m["content"].split()
                    ),
                }
                for m in talks[i].messages
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(what: str, path: str) -> dict:
    """Seconds, peak bytes and tokens of one job on one file, in this process."""
    tokenizer, template, context, _ = reading(None, None, None)
    corpus = read_corpus("plays")
    before, start = peak_memory(), time.perf_counter()
    if what == "audit":
        report = audit([path], tokenizer, template, context, corpus=corpus)
        tokens = report["targets"]
    else:
        _, examples, _ = encode_all(
            read_conversations(path, template), tokenizer, context, template, too_long="drop"
        )
        pick, steps = by_tokens(
            1, "conversations", np.array([len(e.input_ids) for e in examples]), 4096
        )
        tokens = sum(
            len(Batch.of([examples[i] for i in pick(step)], len(tokenizer), context).tokens)
            for step in range(math.ceil(steps))
        )
    return {
        "seconds": time.perf_counter() - start,
        "bytes": peak_memory() - before,
        "tokens": tokens,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the first two sizes")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--rounds", type=harness.positive, default=3, help="processes of each job and size"
    )
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS[:2] if args.short else COUNTS:
            path = Path(folder) / f"{count}.jsonl"
            make(path, count)
            for what in ("audit", "read and pack"):
                print(f"{what} {count:,} ...", file=sys.stderr)
                found = [
                    json.loads(
                        subprocess.run(
                            [sys.executable, __file__, "--measure", what, str(path)],
                            check=True,
                            stdout=subprocess.PIPE,
                            text=True,
                        ).stdout
                    )
                    for _ in range(args.rounds)
                ]
                rows.append(
                    {
                        "job": what,
                        "conversations": count,
                        "file_bytes": path.stat().st_size,
                        "tokens": found[0]["tokens"],
                        "seconds": harness.spread([f["seconds"] for f in found]),
                        "bytes": int(np.median([f["bytes"] for f in found])),
                    }
                )
    for (
        row
    ) in rows:  # how memory grows between this size and the one before it, per byte of the file
        small = next(
            (
                r
                for r in reversed(rows)
                if r["job"] == row["job"] and r["conversations"] < row["conversations"]
            ),
            None,
        )
        row["exponent"] = small and float(
            np.log(row["bytes"] / small["bytes"]) / np.log(row["file_bytes"] / small["file_bytes"])
        )
    about = harness.machine(1)
    if args.json:
        print(json.dumps({"machine": about, "rows": rows}))
    else:
        print(harness.describe(about) + "\n")
        print(tell(rows))


def tell(rows) -> str:
    head = [
        "",
        "conversations",
        "file MB",
        "seconds (quartiles)",
        "million tokens/s",
        "memory MB",
        "growth with the file",
    ]
    return harness.table(
        head,
        [
            [
                r["job"],
                f"{r['conversations']:,}",
                f"{r['file_bytes'] / 1e6:.1f}",
                harness.with_quartiles(r["seconds"], 1),
                f"{r['tokens'] / r['seconds']['median'] / 1e6:.2f}",
                f"{r['bytes'] / 1e6:.0f}",
                "" if r["exponent"] is None else f"exponent {r['exponent']:.2f}",
            ]
            for r in rows
        ],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        harness.run(main, None)  # no worker but the one that measures the machine
