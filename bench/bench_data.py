"""Measure how fast a data set is audited, how fast it is read, rendered and packed, and how memory
grows with the file.

    python bench/bench_data.py                 # 6,250 to 100,000 conversations
    python bench/bench_data.py --short         # the two smallest files, in some seconds

The files are made for this: shipped conversations in which about half of the words are replaced by
other words, drawn with a fixed seed. Each size is measured in processes of its own. Memory is the
process's peak minus its peak before the work began, and is shown beside the size of the file.
"read and pack" is what training does before its first step: JSON lines to conversations,
conversations to tokens and labels, and one epoch of batches of 4,096 tokens. Everything runs on one
thread."""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import machine
import numpy as np
import report

from pysft.batch import Batch
from pysft.measure.memory import peak_memory
from pysft.text.audit import audit
from pysft.text.corpora import read_corpus, shipped
from pysft.text.examples import encode_all
from pysft.text.formats import read_conversations
from pysft.text.templates import load_template
from pysft.text.tokenizer import CharTokenizer
from pysft.training.draws import by_tokens
from pysft.training.settings import Settings

COUNTS = [6_250, 12_500, 25_000, 50_000, 100_000]  # conversations in a file
WIDTH = 4096  # tokens in a batch


def make(path: Path, count: int) -> None:
    """Write a file of `count` conversations."""
    g = np.random.default_rng(0)
    originals = read_conversations(shipped("conversations.jsonl"))
    words = sorted(
        {w for c in originals for m in c.messages for w in m["content"].split() if w.isalpha()}
    )

    def varied(text):
        return " ".join(
            words[g.integers(len(words))] if g.random() < 0.45 else w for w in text.split()
        )

    with open(path, "w") as file:
        for i in g.integers(0, len(originals), count):
            messages = [{**m, "content": varied(m["content"])} for m in originals[i].messages]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(what: str, path: str) -> dict:
    """Seconds, bytes of memory and tokens of one job ("audit" or "read and pack") on one file, in
    this process."""
    corpus, template, context = (
        read_corpus("plays"),
        load_template("chat"),
        Settings().model.context,
    )
    tokenizer = CharTokenizer.of(corpus).grow(template.tokens + template.tool_tokens)
    before, start = peak_memory(), time.perf_counter()
    if what == "audit":
        tokens = audit([path], tokenizer, template, context, corpus=corpus)["targets"]
    else:
        conversations = read_conversations(path, template)
        _, examples, _ = encode_all(conversations, tokenizer, context, template, too_long="drop")
        lengths = np.array([len(e.input_ids) for e in examples])
        pick, steps = by_tokens(1, "conversations", lengths, WIDTH)
        tokens = 0
        for step in range(math.ceil(steps)):
            batch = Batch.of([examples[i] for i in pick(step)], len(tokenizer), context)
            tokens += len(batch.tokens)
    return {
        "seconds": time.perf_counter() - start,
        "bytes": peak_memory() - before,
        "tokens": tokens,
    }


def measure_apart(what: str, path: Path) -> dict:
    """The result of `measure` in a new process."""
    command = [sys.executable, __file__, "--measure", what, str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def row_of(what: str, count: int, path: Path, rounds: int) -> dict:
    """One row of the report."""
    found = [measure_apart(what, path) for _ in range(rounds)]
    return {
        "job": what,
        "conversations": count,
        "file_bytes": path.stat().st_size,
        "tokens": found[0]["tokens"],
        "seconds": harness.spread([f["seconds"] for f in found]),
        "bytes": int(np.median([f["bytes"] for f in found])),
    }


def exponent(row: dict, rows: list[dict]) -> float | None:
    """The power of the file's size with which memory grows, from the next smaller file of the same
    job to this one. None for the smallest file."""
    smaller = [
        r for r in rows if r["job"] == row["job"] and r["conversations"] < row["conversations"]
    ]
    if not smaller:
        return None
    memory, size = (row[key] / smaller[-1][key] for key in ("bytes", "file_bytes"))
    return float(np.log(memory) / np.log(size))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the two smallest files alone")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--rounds", type=report.positive, default=3, help="processes for each job and size"
    )
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS[:2] if args.short else COUNTS:
            path = Path(folder) / f"{count}.jsonl"
            make(path, count)
            for what in ("audit", "read and pack"):
                harness.say(f"{what} {count:,} ...")
                rows.append(row_of(what, count, path, args.rounds))
    for row in rows:
        row["exponent"] = exponent(row, rows)
    about = machine.about(1)
    if args.json:
        print(json.dumps({"machine": about, "rows": rows}))
    else:
        print(machine.describe(about) + "\n")
        print(as_text(rows))


def as_text(rows: list[dict]) -> str:
    head = [
        *("", "conversations", "file MB", "seconds (quartiles)"),
        *("million tokens/s", "memory MB", "growth with the file"),
    ]
    return report.table(
        head,
        [
            [
                r["job"],
                f"{r['conversations']:,}",
                f"{r['file_bytes'] / 1e6:.1f}",
                report.with_quartiles(r["seconds"], 1),
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
        report.run(main, None)  # no functions: the only workers measure the machine
