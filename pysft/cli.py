"""The command line: `python -m pysft VERB`. Each verb imports what it needs when it runs, so that
--help answers at once."""

import argparse
import json
import sys

from pysft import __version__, disk
from pysft.errors import PysftError, UsageError

EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 usage, 3 diverged, 65 bad data, 66 missing input, 129/130/143"
    " interrupted"
)

GRADES = ("all", "last", "flags", "everything")  # as text/template.py has them
POLICIES = (
    "template",
    "grade",
    "too_long",
    "unknown",
    "mix",
    "sft_tokens",
)  # flags of train about its data

EXAMPLES = f"""examples:
  python -m pysft train                         the whole job with the shipped text, some minutes
  python -m pysft train --preset mini           a larger model, some ten minutes
  python -m pysft train --corpus my.txt --data my.jsonl --out runs/mine
  python -m pysft chat runs/tiny                talk to the result
  python -m pysft chat runs/tiny -p 'I am sad'  one answer
  python -m pysft audit my.jsonl                everything that is wrong with a data set, before training
  python -m pysft mask --user Hi --assistant Ho what of a conversation is graded, in colour
  python -m pysft gradcheck                     every derivative against finite differences
{EXIT_CODES}"""


def _threads(text):
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 1024")
    return int(text)


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _whole(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _share(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0, such as 0.10")
    return value


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="pysft",
        description="A language model that only completes text becomes a chatbot that answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pysft {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, help, run, *examples):
        p = verbs.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog="\n".join(
                ["examples:", *("  python -m pysft " + e for e in examples), EXIT_CODES]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        p.set_defaults(run=run)
        p.add_argument(
            "--json",
            action="store_true",
            help="one JSON document on standard output, messages on standard error",
        )
        return p

    def computing(p):
        p.add_argument(
            "--threads",
            type=_threads,
            metavar="N",
            help=(
                "threads of the kernels (default: "
                "PYSFT_NUM_THREADS, OMP_NUM_THREADS, or the CPUs this process may use)"
            ),
        )
        p.add_argument(
            "--ops",
            choices=["kernels", "reference"],
            default="kernels",
            help=(
                "compute with the C kernels, or with the NumPy reference (slow, needs no compiler)"
            ),
        )

    def training(p):
        computing(p)
        p.add_argument(
            "--preset",
            metavar="NAME",
            help="tiny (default), mini, small, or seed: the source text to the letter",
        )
        p.add_argument(
            "--config", metavar="FILE.toml", help="a file of settings; flags win over it"
        )
        p.add_argument(
            "--corpus",
            metavar="PATH|plays|shakespeare",
            help=(
                "the base text: a file, the plays that ship (default; with --base: that run's own),"
                " or Shakespeare (fetched once)"
            ),
        )
        p.add_argument(
            "--out",
            metavar="DIR",
            help="the run's folder (default: runs/PRESET, numbered if taken)",
        )
        p.add_argument(
            "--seed",
            type=_whole,
            metavar="N",
            help="the same seed gives the same weights, bit by bit",
        )
        p.add_argument(
            "--on-nan",
            choices=["abort", "skip"],
            help=(
                "what becomes of a step whose loss or gradient is not finite: stop "
                "(default), or leave it out; its batch is kept to be looked at"
            ),
        )
        p.add_argument(
            "--resume",
            action="store_true",
            help="go on with the interrupted run --out, with the settings it has",
        )

    def rendering(p):
        p.add_argument(
            "--template",
            metavar="NAME|FILE.json",
            help=(
                "how conversations are written: chat (default), chatml, "
                "llama2, human, or a file like a run's template.json"
            ),
        )
        p.add_argument(
            "--grade",
            choices=GRADES,
            help=(
                "train on all assistant turns (default), on the last one, on those "
                'not flagged {"train": false}, or on everything: no mask'
            ),
        )

    p = verb(
        "train",
        "the whole job: base model, grown vocabulary, fine-tuning, measurements",
        _train,
        "train",
        "train --preset seed --corpus shakespeare",
        "train --base runs/tiny --data mine.jsonl",
        "train --config mine.toml --out runs/mine",
    )
    training(p)
    p.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        help=(
            'conversations, instead of those that ship: JSON lines ({"messages": [...]},'
            " prompt/completion, Alpaca, ShareGPT, OASST, text) or a .csv of two columns; or the"
            " word tools: those that ship, mixed with made transcripts of search"
        ),
    )
    rendering(p)
    p.add_argument(
        "--too-long",
        choices=["refuse", "drop"],
        help=(
            "what becomes of a conversation that the context cannot "
            "hold (default: refuse; none is ever cut)"
        ),
    )
    p.add_argument(
        "--unknown",
        choices=["refuse", "replace", "grow"],
        help=(
            "characters that the corpus lacks: refuse them "
            "(default), put look-alikes or ? in their place, or grow the vocabulary by them"
        ),
    )
    p.add_argument(
        "--sft-tokens",
        type=_positive,
        metavar="N",
        help="at most so many tokens of conversations a step",
    )
    p.add_argument(
        "--mix",
        type=float,
        nargs="+",
        metavar="WEIGHT",
        help=(
            "a weight for each file of --data: its share of "
            "each step (default: every conversation counts the same)"
        ),
    )
    p.add_argument(
        "--base", metavar="RUN", help="fine-tune this run's base model instead of training one"
    )
    p.add_argument("--base-steps", type=_positive, metavar="N", help="steps of pre-training")
    p.add_argument("--sft-steps", type=_positive, metavar="N", help="steps of fine-tuning")
    p.add_argument("--lr", type=float, metavar="RATE", help="learning rate of fine-tuning")
    p.add_argument(
        "--lora",
        type=_positive,
        metavar="RANK",
        help="train adapters of this rank and the new rows; all other weights stay as they are",
    )
    p.add_argument(
        "--lora-matrices",
        nargs="+",
        choices=["qkv", "attproj", "fc", "fcproj"],
        metavar="NAME",
        help=(
            "which matrices of each block have an adapter: qkv attproj fc fcproj (default: all"
            " four)"
        ),
    )
    p.add_argument(
        "--checkpoint-every",
        metavar="K|tenth|epoch|never",
        help=(
            "measure and keep the model every K steps, after "
            "each tenth of them (default), after each epoch, or not at all"
        ),
    )

    p = verb("pretrain", "the base model alone", _pretrain, "pretrain --corpus my.txt --steps 1000")
    training(p)
    p.add_argument("--steps", type=_positive, metavar="N", help="steps of pre-training")
    p.add_argument("--lr", type=float, metavar="RATE", help="learning rate of pre-training")

    def talking(p, temperature):
        computing(p)
        p.add_argument("run_folder", metavar="RUN", help="a run's folder, or one stage of it")
        p.add_argument(
            "--temperature",
            type=float,
            default=temperature,
            metavar="T",
            help=f"0 is greedy (default {temperature})",
        )
        p.add_argument(
            "--top-k",
            type=_whole,
            default=0,
            metavar="K",
            help="only the K likeliest (default: all)",
        )
        p.add_argument(
            "--top-p",
            type=float,
            default=1.0,
            metavar="P",
            help="only the likeliest that reach P (default 1: all)",
        )
        p.add_argument(
            "--repetition",
            type=float,
            default=1.0,
            metavar="R",
            help="above 1, what the reply holds already becomes less likely (default 1)",
        )
        p.add_argument(
            "--seed", type=_whole, default=0, metavar="N", help="the same seed gives the same text"
        )
        p.add_argument(
            "--tokens", type=_positive, default=None, metavar="N", help="at most N new tokens"
        )

    p = verb(
        "chat",
        "talk to a tuned model",
        _chat,
        "chat runs/tiny",
        "chat runs/tiny -p 'Speak of love'",
        "chat runs/tiny --temperature 0.7 --seed 3",
    )
    talking(p, 0.0)
    p.add_argument("-p", "--prompt", metavar="TEXT", help="answer this once and stop")
    p.add_argument(
        "--system", metavar="TEXT", help="what the system says first (templates chatml and llama2)"
    )
    p.add_argument(
        "--show-tokens",
        action="store_true",
        help=(
            "show the prompt as the model reads it, and of each token of the "
            "reply how likely it was and what else was"
        ),
    )
    p.add_argument(
        "--docs",
        nargs="+",
        metavar="FOLDER|FILE",
        help=(
            "what a model that was taught to search searches in "
            "(default: the facts of a town that ship)"
        ),
    )
    p.add_argument("--no-tools", action="store_true", help="no tool answers: a call ends the reply")

    p = verb(
        "generate",
        "continue text, which is all a base model does",
        _generate,
        "generate runs/tiny/base -p 'KING: '",
        "generate runs/tiny/base --temperature 0",
    )
    talking(p, 0.8)
    p.add_argument(
        "-p",
        "--prompt",
        metavar="TEXT",
        default="\n",
        help="the text to continue (default: a new line)",
    )

    def of_run(p, what="a run's folder, or one stage of it"):
        p.add_argument("run_folder", metavar="RUN", help=what)

    p = verb(
        "eval",
        "measure a run, or one checkpoint of it, again",
        _eval,
        "eval runs/tiny",
        "eval runs/tiny --gate 0.10",
        "eval runs/tiny --matched",
        "eval runs/tiny/sft/steps/500 --samples 20",
    )
    computing(p)
    of_run(p, "a run's folder, one stage of it, or a checkpoint: RUN/sft/steps/STEP")
    p.add_argument(
        "--gate",
        type=_share,
        metavar="SHARE",
        help=(
            "exit 1 where the base loss rose by more than this share (the source text's regression"
            " check: 0.10 to 0.15); with --matched that against the matched base"
        ),
    )
    p.add_argument(
        "--matched",
        action="store_true",
        help=(
            "forgetting also against the base trained on for as much base text as the fine-tuning"
            " replayed (trains it: about as long as the fine-tuning's share of replay)"
        ),
    )
    p.add_argument(
        "--samples",
        type=_whole,
        default=0,
        metavar="N",
        help="show N replies to unseen prompts, and what of each was in the training data",
    )

    p = verb(
        "select",
        "which checkpoint each criterion picks, and where they disagree",
        _select,
        "select runs/tiny",
    )
    of_run(p)

    p = verb(
        "rate",
        "give the replies of several checkpoints marks, blind and shuffled",
        _rate,
        "rate runs/tiny",
        "rate runs/tiny --steps 500 2500 --prompts 12",
    )
    of_run(p)
    p.add_argument(
        "--steps",
        type=_positive,
        nargs="+",
        metavar="STEP",
        help="which checkpoints (default: up to four that the criteria pick)",
    )
    p.add_argument(
        "--prompts",
        type=_positive,
        default=10,
        metavar="N",
        help="of how many prompts (default 10)",
    )
    p.add_argument("--seed", type=_whole, metavar="N", help="of the order")

    p = verb(
        "diagnose",
        "what went wrong with a run: likely causes and fixes, each with the figure that shows it;"
        " exit 1 where one shows",
        _diagnose,
        "diagnose runs/tiny",
    )
    of_run(p)

    p = verb(
        "merge",
        "put adapters that LoRA trained into a base model: a run to talk to",
        _merge,
        "merge runs/mine/sft/adapter.safetensors --base runs/tiny --out runs/merged",
    )
    p.add_argument(
        "adapter",
        metavar="ADAPTER",
        help="an adapter.safetensors, with vocabulary.json and template.json beside it",
    )
    p.add_argument(
        "--base",
        required=True,
        metavar="RUN",
        help="the base that it was trained on, known by its weights' hash",
    )
    p.add_argument("--out", required=True, metavar="DIR", help="a new folder")

    p = verb("report", "a page of everything that is known of a run", _report, "report runs/tiny")
    of_run(p, "a run's folder")

    p = verb(
        "lab",
        "the source text's claims as experiments, each with table, figure and verdict",
        _lab,
        "lab",
        "lab first-token",
        "lab forgetting --seeds 3 --corpus shakespeare",
        "lab all --seeds 3",
    )
    computing(p)
    p.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="which experiments, or all (none: the list of them)",
    )
    p.add_argument(
        "--seeds",
        type=_positive,
        default=3,
        metavar="N",
        help="how many (default 3); they vary the fine-tuning on one base",
    )
    p.add_argument("--retrain-base", action="store_true", help="each seed with a base of its own")
    p.add_argument(
        "--corpus",
        default="plays",
        metavar="PATH|plays|shakespeare",
        help="the base text (default plays)",
    )
    p.add_argument(
        "--out",
        default="runs/lab",
        metavar="DIR",
        help=(
            "where records, figures and the page are kept (default "
            "runs/lab); the same command goes on with what is there"
        ),
    )
    p.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help=(
            "experiments side by side, a thread each (default: as many "
            "as there are "
            "threads, where more than one experiment is named)"
        ),
    )
    p.add_argument(
        "--part", action="store_true", help=argparse.SUPPRESS
    )  # of a lab that has other processes
    p.add_argument(
        "--scale",
        type=_share,
        default=1.0,
        metavar="F",
        help=(
            "a fraction of every number of steps, to try the lab "
            "out in seconds; verdicts then mean nothing"
        ),
    )

    def reading(p):
        p.add_argument(
            "--unknown",
            choices=["refuse", "replace", "grow"],
            help=(
                "characters that the vocabulary lacks, as "
                "train takes it (default: refuse, or as the run did)"
            ),
        )
        p.add_argument(
            "--run",
            dest="of_run",
            metavar="RUN",
            help="with this run's vocabulary, template and context",
        )
        p.add_argument(
            "--corpus",
            metavar="PATH|plays|shakespeare",
            help="with the vocabulary of this text (default: plays)",
        )
        rendering(p)

    p = verb(
        "mask",
        "show which tokens the model is graded on, and what the mask does",
        _mask,
        "mask",
        "mask --user 'Speak of love' --assistant 'Love is a smoke.'",
        "mask my.jsonl --line 3",
        "mask my.jsonl --line 3 --run runs/tiny",
        "mask --prove",
        "mask my.jsonl --line 3 --svg mask.svg",
    )
    computing(p)
    p.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="conversations (default: the source text's worked example)",
    )
    p.add_argument(
        "--line", type=_positive, metavar="N", help="only the row that begins in this line of FILE"
    )
    p.add_argument("--user", metavar="TEXT", help="a question")
    p.add_argument("--assistant", metavar="TEXT", help="and its answer, instead of a file")
    p.add_argument("--system", metavar="TEXT", help="what the system says before both")
    reading(p)
    p.add_argument(
        "--rows",
        type=_whole,
        default=None,
        metavar="N",
        help="a file's first N conversations (default 5; 0: all)",
    )
    p.add_argument("--svg", metavar="OUT.svg", help="draw one conversation's mask")
    p.add_argument(
        "--prove",
        action="store_true",
        help=(
            "show by numbers that what is masked has exactly no gradient, in the "
            "model of --run or in a small random one"
        ),
    )

    p = verb(
        "audit",
        "check a data set before training on it",
        _audit,
        "audit my.jsonl",
        "audit my.jsonl --run runs/tiny",
        "audit my.csv --fix clean.jsonl",
        "audit train.jsonl --heldout test.jsonl --strict",
    )
    p.add_argument(
        "files", metavar="FILE", nargs="*", help="conversations (default: those that ship)"
    )
    reading(p)
    p.add_argument(
        "--context",
        type=_positive,
        metavar="N",
        help="tokens that a conversation may have (default 256, or the run's)",
    )
    p.add_argument(
        "--tokens",
        type=_positive,
        default=120,
        metavar="N",
        help="tokens that a reply may have at inference (default 120)",
    )
    p.add_argument(
        "--heldout", metavar="FILE", help="prompts or conversations that these should not repeat"
    )
    p.add_argument(
        "--no-overlap",
        action="store_true",
        help="do not look for what replies share with the corpus",
    )
    p.add_argument("--strict", action="store_true", help="exit 1 where there are warnings")
    p.add_argument(
        "--fix", metavar="OUT.jsonl", help="write what can be trained on, without exact duplicates"
    )
    p.add_argument(
        "--all", action="store_true", help="show every finding (default: the first 8 of each kind)"
    )

    p = verb(
        "gradcheck",
        "every kernel and the whole model against finite differences, in float64",
        _gradcheck,
        "gradcheck",
        "gradcheck --ops reference",
        "gradcheck --ops my_layernorm.py",
    )
    p.add_argument("--threads", type=_threads, metavar="N", help="threads of the kernels")
    p.add_argument(
        "--ops",
        default="kernels",
        metavar="kernels|reference|FILE.py",
        help=(
            "whose functions: the C kernels (default), the NumPy reference, or those of a file of "
            "yours, the reference standing in for those it lacks"
        ),
    )
    p.add_argument("--seed", type=_whole, default=0, metavar="N", help="of the random inputs")

    p = verb("info", "build, instruction set, threads, versions", _info, "info", "info --json")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit code."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    top = parser()
    args, more = top.parse_known_args(argv)
    if more:
        top.error(
            "unrecognized arguments: "
            + " ".join(more)
            + (
                "; a run's folder is named by --out"
                if hasattr(args, "resume") and not more[0].startswith("-")
                else ""
            )
        )
    try:
        code = args.run(args) or 0
        if sys.stdout is not None:
            # now, and not at the process's end, where what goes wrong has no words
            sys.stdout.flush()
        return code
    except PysftError as error:
        return _told(f"pysft: {error}", error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "pysft").startswith("pysft"):
            raise  # a bug of ours
        return _told(
            f"pysft: this Python ({sys.executable}) has no {error.name}; after 'make build' use"
            " .venv/bin/python, or install pysft with 'pip install .'"
        )
    except MemoryError as error:
        return _told(
            f"pysft: not enough memory ({error}); a smaller model, context or batch needs less"
        )
    except KeyboardInterrupt:
        return _told("\npysft: interrupted", 130)
    except BrokenPipeError:  # as in: pysft audit | head
        disk.hush(sys.stdout)
        return 1
    except OSError as error:  # a full or read-only disk, a folder that went away
        disk.hush(sys.stdout)
        return _told(
            f"pysft: {error.strerror or error}{f': {error.filename}' if error.filename else ''};"
            " what was complete on disk is as it was"
        )


def _told(text: str, code: int = 1) -> int:
    """Say what ended a command, if anybody still listens; its exit code."""
    try:
        if sys.stderr is not None:
            print(text, file=sys.stderr)
    except OSError:
        disk.hush(sys.stderr)
    return code


def _print_json(document):
    print(json.dumps(document, ensure_ascii=False, allow_nan=False))


def _settings(args, **flags):
    from pysft.training.stages import resolve

    if args.resume:
        fixed = (
            "preset",
            "config",
            "corpus",
            "seed",
            "data",
            "base",
            "base_steps",
            "sft_steps",
            "steps",
            "lr",
            "lora",
            "lora_matrices",
            "checkpoint_every",
            *POLICIES,
        )
        given = [name for name in fixed if getattr(args, name, None) is not None]
        if given:
            raise UsageError(
                "--resume goes on with the settings the run has; leave out"
                f" --{given[0].replace('_', '-')}"
            )
        if args.out is None:
            raise UsageError("--resume needs the run to go on with: --resume --out RUN")

    flags |= {"seed": args.seed, "on_nan": args.on_nan}
    return resolve(args.preset, args.config, **flags)


def _train(args):
    from pysft import recipe
    from pysft.training.stages import TOOLS

    upon = None
    if args.data and "tools" in args.data and not args.resume:
        if len(args.data) > 1:
            raise UsageError(
                "--data tools stands alone: made transcripts are mixed with the shipped"
                " conversations only (a file of that name is ./tools)"
            )
        args.data, upon = None, TOOLS
    settings = _settings(
        args,
        base_steps=args.base_steps,
        sft_steps=args.sft_steps,
        sft_lr=args.lr,
        lora_rank=args.lora,
        lora_matrices=args.lora_matrices,
        checkpoint_every=args.checkpoint_every,
        upon=upon,
        **{name: getattr(args, name) for name in POLICIES},
    )
    if args.lora_matrices and not args.lora and not args.resume:
        raise UsageError("--lora-matrices says where adapters go; give their rank too: --lora RANK")
    report = recipe.train(
        settings,
        args.corpus,
        args.data,
        args.base,
        args.out,
        args.resume,
        args.ops,
        args.threads,
        recipe.Screen(args.json),
        args.on_nan,
    )
    if args.json:
        _print_json(report)


def _pretrain(args):
    from pysft import recipe

    settings = _settings(args, base_steps=args.steps, base_lr=args.lr)
    report = recipe.pretrain_only(
        settings,
        args.corpus,
        args.out,
        args.resume,
        args.ops,
        args.threads,
        recipe.Screen(args.json),
        args.on_nan,
    )
    if args.json:
        _print_json(report)


def _eval(args):
    from pysft import recipe

    _say_if_unfinished(args.run_folder)
    screen = recipe.Screen(args.json)
    report = recipe.evaluate(args.run_folder, args.ops, args.threads, args.matched, screen.progress)
    rose = None
    if (args.gate or args.matched) and "recall" not in report:
        raise UsageError(
            f"{args.run_folder}: a base model, which has forgotten nothing; --gate and --matched"
            " are for a tuned one"
        )
    if "recall" in report:
        rose = report.get("forgetting_matched", report.get("forgetting"))
        if args.gate and rose is None:
            raise UsageError(
                f"{args.run_folder}: the base loss before fine-tuning is not known, so there is"
                " nothing to gate"
            )
    if args.json:
        _print_json(report)
    elif "recall" in report:
        recipe.side_by_side(report["before_after"], screen)
        recipe.table(report, screen)
        recipe.domains(report, screen)
        recipe.provenance(report["samples"][: args.samples], screen)
    else:
        print(f"base text, nats/char     {report['base_loss']:.3f}")
    if args.gate and rose is not None:
        passed = rose <= args.gate
        screen.say(
            f"gate                     {'passed' if passed else 'NOT passed'}: the base loss rose"
            f" by {rose:+.1%}{' against the matched base' if args.matched else ''}, allowed"
            f" {100 * args.gate:g} %"
            + (
                ""
                if passed
                else "; mix in base text (sft_windows), lower the rate, or train for fewer steps"
            )
        )
        return 0 if passed else 1


def _tuned(run):
    """The folder of a run's fine-tuning, finished or not."""
    from pathlib import Path

    from pysft.errors import MissingInput
    from pysft.run import find_stage, measured_stage

    folder = Path(run) / "sft"
    folder = folder if folder.is_dir() else measured_stage(find_stage(run))
    if folder.resolve().name == "base" and not (folder / "measurements.jsonl").is_file():
        raise MissingInput(
            f"{folder}: a base model; fine-tune it first: python -m pysft train --base {run}"
        )
    return folder


def _available(threads):
    from pysft.nn import ops

    return threads or ops.default_threads()


def _select(args):
    from pysft.lab import choose

    folder = _tuned(args.run_folder)
    choice = choose.select(choose.read_measurements(folder), choose.read_marks(folder))
    _print_json(choice) if args.json else print(choose.table(choice, folder))


def _rate(args):
    from pysft.lab import choose

    def ask(question):
        print(question, end="", file=sys.stderr if args.json else sys.stdout, flush=True)
        if sys.stdin is None:
            raise EOFError
        return input()

    document = choose.rate(
        _tuned(args.run_folder),
        args.steps,
        args.prompts,
        args.seed,
        ask,
        lambda text="": print(text, file=sys.stderr if args.json else sys.stdout),
    )
    if args.json:
        _print_json(document)


def _diagnose(args):
    from pathlib import Path

    from pysft.lab import diagnose

    folder = Path(args.run_folder).resolve()
    step = int(folder.name) if folder.parent.name == "steps" and folder.name.isdecimal() else None
    document = diagnose.diagnose(_tuned(args.run_folder), step)
    _print_json(document) if args.json else print(diagnose.text(document))
    return 1 if document["findings"] else 0


def _report(args):
    from pysft.lab.report import write_report

    path = write_report(args.run_folder)
    _print_json({"run": args.run_folder, "report": str(path)}) if args.json else print(path)


def _merge(args):
    from pathlib import Path

    from pysft import recipe

    stage = recipe.merge(Path(args.adapter), args.base, args.out)
    (
        _print_json({"run": args.out, "weights_sha256": stage})
        if args.json
        else print(f"{args.out}: SHA-256 {stage[:16]}")
    )


def _lab(args):
    from pathlib import Path

    from pysft import recipe
    from pysft.lab import study
    from pysft.lab.experiments import COSTLY_FIRST, EXPERIMENTS, SMALL, WIDE
    from pysft.lab.trial import Lab

    if not args.names:
        if args.json:
            _print_json({"experiments": {e.name: e.claim for e in EXPERIMENTS.values()}})
        for e in EXPERIMENTS.values() if not args.json else ():
            print(f"{e.name:<15} {e.title}")
        return 0
    unknown = [n for n in args.names if n not in EXPERIMENTS and n != "all"]
    names = list(EXPERIMENTS) if "all" in args.names else list(dict.fromkeys(args.names))
    if unknown:
        raise UsageError(
            f"no experiment is called {unknown[0]!r}; there are {', '.join(EXPERIMENTS)}, or all"
        )
    screen = recipe.Screen(args.json)
    ops = recipe.computing_ops(args.ops, args.threads)
    lab = Lab(Path(args.out), args.corpus, ops, args.scale, args.retrain_base, screen.progress)
    jobs = args.jobs or (_available(args.threads) if len(names) > 1 else 1)
    if jobs > 1:
        for preset in (SMALL, WIDE):  # with all threads, before the processes need them
            for seed in range(1, args.seeds + 1 if args.retrain_base else 2):
                lab.ground(preset, seed)
        options = [
            "--seeds",
            str(args.seeds),
            "--corpus",
            args.corpus,
            "--out",
            args.out,
            "--scale",
            str(args.scale),
            "--ops",
            args.ops,
            *(["--retrain-base"] if args.retrain_base else []),
        ]
        study.side_by_side([n for n in COSTLY_FIRST if n in names], options, jobs, screen.say)
    documents = []
    for i, name in enumerate(names, 1):
        screen.say(f"[{i} of {len(names)}] {name}")
        documents.append(study.study(EXPERIMENTS[name], lab, args.seeds))
        if args.part:  # whoever began it tells of it
            continue
        screen.say(("\r\x1b[K" if screen.live else "") + study.text(documents[-1]) + "\n")
    if args.part:
        return 0
    path = study.write_page(lab.folder)
    screen.say(
        "".join(f"{d['verdict']:<20} {d['title']}\n" for d in documents) + f"\nThe page: {path}"
    )
    if args.json:
        _print_json({"experiments": documents, "page": str(path)})


def _talker(args):
    from pysft.inference.generate import Sampling
    from pysft.recipe import computing_ops
    from pysft.run import load_stage

    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.seed, args.repetition)
    return load_stage(args.run_folder, computing_ops(args.ops, args.threads)), sampling


def _chat(args):
    from pysft.inference import repl
    from pysft.inference import session as chat
    from pysft.run import unfinished

    stage, sampling = _talker(args)
    if stage.template.end not in stage.tokenizer.special:
        raise UsageError(
            f"{stage.folder}: a base model, which has no {stage.template.end}; "
            + (
                "its fine-tuning never finished: python -m pysft train --resume --out"
                f" {stage.folder.parent}"
                if unfinished(stage.folder.parent)
                else f"it completes text: python -m pysft generate {args.run_folder}"
            )
        )
    session = chat.Session(
        stage.model,
        stage.tokenizer,
        stage.template,
        sampling,
        args.tokens or 120,
        system=args.system,
        replace=stage.setting("unknown", "refuse") == "replace",
        tools=_tools(args, stage),
    )
    if args.prompt is not None:
        if args.show_tokens and not args.json:
            return repl.Talk(session, colour=_colour(), show_tokens=True).answer(args.prompt)
        if args.json:
            document = chat.once(session, args.prompt)
            stop = document["stop"]
            _print_json(document)
        else:
            _, reply, _ = session.say(args.prompt)
            stop = reply.stop
            print(repl.Talk(session, colour=_colour()).said(reply))
        if stop != "end":
            print(
                "pysft: the reply "
                + {
                    "length": "reached its length before the end token",
                    "tool": "ended at a call that nothing answers",
                }[stop],
                file=sys.stderr,
            )
        return 0
    if args.json:
        raise UsageError("--json goes with -p TEXT")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    talk = repl.Talk(session, colour=_colour(), show_tokens=args.show_tokens)
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            import readline  # noqa: F401  (line editing and history, where the system has it)
        except ImportError:
            pass
        print(f"{stage.folder}. Type a message; /help shows what else. Ctrl-D leaves.")
    else:
        talk.read = lambda prompt: input(
            ""
        )  # a pipe: a message a line, and no prompts in what comes out
    talk.run()


def _tools(args, stage) -> dict:
    """What answers the calls of a model that was taught to make some: search in --docs, or in the
    shipped facts."""
    from pysft.inference.tools import Search, tools
    from pysft.text.dataset import shipped

    taught = any(t in stage.tokenizer.special for t in stage.template.tool_tokens)
    if args.docs and not taught:
        raise UsageError(
            f"{stage.folder}: this model was not taught to search (train --data tools does it);"
            " leave --docs out"
        )
    if not taught or args.no_tools:
        return {}
    return tools(Search.of(args.docs or [str(shipped("town.jsonl"))]))


def _say_if_unfinished(run):
    """A run whose fine-tuning never finished is taken for its base: that must not go unsaid."""
    from pysft.run import unfinished

    if unfinished(run):
        print(
            f"pysft: the fine-tuning of {run} never finished, so this is its base (go on with:"
            f" python -m pysft train --resume --out {run})",
            file=sys.stderr,
        )


def _generate(args):
    from pysft.inference.generate import complete

    _say_if_unfinished(args.run_folder)

    stage, sampling = _talker(args)
    document = complete(stage.model, stage.tokenizer, args.prompt, args.tokens or 200, sampling)
    _print_json(document) if args.json else print(document["prompt"] + document["reply"])


def _colour() -> bool:
    import os

    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def _policies(args, stage) -> tuple[str, str]:
    """(grade, unknown) of mask and audit: as the flags say, else as the run was trained, else the
    defaults."""
    trained = stage is not None and bool(stage.tokenizer.specials)
    if trained and args.unknown == "grow":
        raise UsageError(
            "--run has its own vocabulary, which cannot grow; leave --unknown out, or take replace"
        )
    grade, unknown = (
        (stage.setting("grade", "all"), stage.setting("unknown", "refuse"))
        if trained
        else ("all", "refuse")
    )
    if unknown == "grow":
        unknown = "refuse"  # the run's vocabulary has grown by now
    return args.grade or grade, args.unknown or unknown


def _mask(args):
    from pathlib import Path

    from pysft import IGNORE
    from pysft.errors import RowError
    from pysft.recipe import computing_ops, reading
    from pysft.text import view
    from pysft.text.dataset import encode_conversation, write_with
    from pysft.text.formats import (
        Conversation,
        check_messages,
        read_conversations,
        refuse_faults,
        scan,
    )
    from pysft.text.tokenizer import CharTokenizer

    tokenizer, template, context, stage = reading(
        args.of_run, args.corpus, args.template, args.ops, args.threads
    )
    if stage is not None and not stage.tokenizer.specials:
        raise UsageError(
            f"--run {args.of_run}: a base model, which knows no conversations; name a tuned run"
        )
    grade, unknown = _policies(args, stage)
    if args.file is not None:
        if args.user is not None or args.assistant is not None or args.system is not None:
            raise UsageError("a FILE, or --user and --assistant, but not both")
        if args.line is not None:  # faults elsewhere are no concern of its
            talks = [row for row in scan(args.file, template) if row.line == args.line]
            refuse_faults([row for row in talks if isinstance(row, RowError)])
            if not talks:
                raise UsageError(f"{args.file}: no conversation begins in line {args.line}")
        else:
            talks = read_conversations(args.file, template)
    else:
        if args.line is not None:
            raise UsageError("--line needs a FILE")
        if (args.user is None) != (args.assistant is None):
            raise UsageError("--user and --assistant go together: a question and its answer")
        user, assistant = (
            (args.user, args.assistant)
            if args.user is not None
            else ("Write a greeting", "Good morrow to thee, noble friend!")
        )
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        if args.system is not None:
            messages.insert(0, {"role": "system", "content": args.system})
        check_messages(messages, "example", template)
        talks = [Conversation(messages, "example", 1)]
    if unknown == "grow":
        talks, grown, _ = write_with(talks, CharTokenizer(tokenizer.characters), unknown)
        tokenizer = grown.grow_characters(template.characters()).grow(tokenizer.specials)
    elif unknown == "replace":
        talks, _, _ = write_with(talks, tokenizer, unknown)
        for c in talks:
            check_messages(c.messages, c.where, template)  # a text may be empty now
    template.written_with(tokenizer.characters)
    examples = [encode_conversation(c, tokenizer, context, template, grade) for c in talks]
    single = len(examples) == 1
    if (args.svg or args.prove) and not single:
        raise UsageError(f"{args.file} has {len(examples):,} conversations; choose one by --line N")

    def graded(e):
        return int((e.labels != IGNORE).sum())

    def document(e):
        return {
            "input_ids": e.input_ids.tolist(),
            "labels": e.labels.tolist(),
            "graded": graded(e),
            "text": (
                tokenizer.decode(e.input_ids[:1])
                + tokenizer.decode(view.following(e.input_ids, e.labels))
            ),
        }

    if args.svg:
        title = (
            f"{template.name}: {graded(examples[0])} of {len(examples[0].labels)} targets graded"
        )
        out = Path(args.svg)
        if out.suffix != ".svg":
            raise UsageError(f"--svg {out}: an SVG is drawn; give it a name that ends with .svg")
        if out.exists():
            raise UsageError(f"--svg {out}: there is something already; choose another name")
        try:
            disk.replace(
                out,
                [
                    view.picture(
                        examples[0].input_ids, examples[0].labels, tokenizer, title
                    ).encode()
                ],
            )
        except OSError as error:
            raise UsageError(
                f"--svg {out}: cannot be written ({error.strerror}); choose a place that can"
            ) from None
    traced = proof = None
    if stage is not None and single:
        from pysft.lab.trace import walk

        traced = walk(stage.model, examples[0])
    if args.prove:
        from pysft.lab.trace import holds, prove, small_model

        model = (
            stage.model
            if stage is not None
            else small_model(
                len(tokenizer), len(examples[0].labels), computing_ops(args.ops, args.threads)
            )
        )
        proof = prove(model, examples[0], talks[0].messages, template, grade)
    status = 0 if proof is None or holds(proof) else 1
    if args.json:
        if single:
            more = (
                {}
                if traced is None
                else {
                    "probability": [round(float(p), 6) for p in traced[0]],
                    "loss": [round(float(n), 6) for n in traced[1]],
                }
            )
            _print_json(
                document(examples[0])
                | more
                | ({"proof": proof, "proved": not status} if proof else {})
            )
        else:
            _print_json(
                {
                    "graded": sum(map(graded, examples)),
                    "targets": sum(len(e.labels) for e in examples),
                    "conversations": [
                        {"line": c.line, **document(e)} for c, e in zip(talks, examples)
                    ],
                }
            )
        return status
    colour = _colour()
    most = 5 if args.rows is None else args.rows or len(examples)
    for c, e in zip(talks[:most], examples):
        if not single:
            print(f"{c.where}: graded {graded(e)} of {len(e.labels)}")
        print(view.coloured(e.input_ids, e.labels, tokenizer, colour) + "\n")
    if single:
        e = examples[0]
        print(view.rows(e.input_ids, e.labels, tokenizer, colour, *(traced or ())))
        print(
            f"\ntemplate {template.name}; graded {graded(e)} of {len(e.labels)} targets"
            f" ({graded(e) / len(e.labels):.0%})"
            + (
                ""
                if traced is None
                else f"; loss {traced[1].sum() / graded(e):.3f} nats per graded token"
            )
        )
    else:
        total = sum(len(e.labels) for e in examples)
        count = sum(map(graded, examples))
        more = (
            f"({len(examples) - most:,} more; --rows 0 shows all, --line N one in full) "
            if most < len(examples)
            else ""
        )
        print(
            f"{more}{len(examples):,} conversations, template {template.name}; graded {count:,} of"
            f" {total:,} targets ({count / total:.0%})"
        )
    if args.svg:
        print(f"drawn: {args.svg}")
    if proof:
        _show_proof(
            proof,
            status == 0,
            "the run's model" if stage is not None else "a small model with random weights",
        )
    return status


def _show_proof(p, proved, model):
    lines = [
        (
            "largest gradient at the logits of a masked row",
            f"{p['masked_dlogits']:.1e}",
            "exactly 0 is promised",
        ),
        ("smallest at the logits of a graded row", f"{p['graded_dlogits']:.1e}", "above 0"),
        (
            "change of the loss when all masked rows' logits move",
            f"{p['loss_change']:.1e}",
            "exactly 0",
        ),
        (
            "gradient of all weights, masked rows computed or skipped",
            f"{p['gradient_difference']:.1e}",
            "apart by rounding only",
        ),
        (
            "gradient with no mask at all",
            f"{p['gradient_unmasked']:.1e}",
            "apart: what the mask keeps out",
        ),
        (
            "graded targets, by the labels",
            f"{p['graded']:,}",
            (
                "not counted by a formula under this --grade"
                if p["formula"] is None
                else f"by the formula {p['formula']:,}"
            ),
        ),
    ]
    print(f"\nIn {model}, {p['masked']} of {p['rows']} rows masked:")
    for what, value, promise in lines:
        print(f"  {what:<58} {value:>9}   {promise}")
    print(
        "NOT AS PROMISED"
        if not proved
        else "proved"
        if p["masked"]
        else "nothing is masked here, so there was nothing to prove"
    )


def _audit(args):
    from dataclasses import asdict

    from pysft.recipe import reading
    from pysft.text.audit import audit
    from pysft.text.dataset import read_corpus, shipped

    tokenizer, template, context, stage = reading(args.of_run, args.corpus, args.template)
    files = args.files or [str(shipped(name)) for name in ("conversations.jsonl", "pairs40.jsonl")]
    heldout = args.heldout or (None if args.files else str(shipped("heldout_prompts.jsonl")))
    # A run's corpus may lie elsewhere by now; its overlap is only looked for where it is named.
    corpus = None if args.no_overlap or stage is not None else read_corpus(args.corpus or "plays")
    grade, unknown = _policies(args, stage)
    report = audit(
        files,
        tokenizer,
        template,
        args.context or context,
        grade,
        args.tokens,
        corpus,
        heldout,
        args.fix,
        unknown,
    )
    status = 65 if report["errors"] else 1 if report["warnings"] and args.strict else 0
    if args.json:
        _print_json(report | {"findings": [asdict(f) for f in report["findings"]]})
        return status
    _show_findings(report, args.all)
    _show_figures(report)
    return status


def _show_findings(report, everything):
    shown, hidden = {}, {}
    for f in report["findings"]:
        key = f.severity, f.kind
        shown[key] = shown.get(key, 0) + 1
        if everything or shown[key] <= 8:
            print(f"{f.severity}: {f.kind}: {f}")
        else:
            hidden[key] = hidden.get(key, 0) + 1
    for (severity, kind), n in hidden.items():
        print(f"{severity}: {kind}: {n:,} more like it (--all shows them)")
    if report["findings"]:
        print()


def _show_figures(r):
    def spread(c):
        return (
            "none"
            if c["max"] is None
            else (
                f"shortest {c['min']:,}, median {c['median']:,.0f}, 95 % at most "
                f"{c['p95']:,.0f}, longest {c['max']:,}"
            )
        )

    def kinds(d):
        top = ", ".join(f"{name or '(no word)'} {share:.0%}" for name, share in d["top"])
        return (
            f"{d['kinds']:,} kind{'s' * (d['kinds'] != 1)}, as diverse as {d['effective']:,.0f}"
            f" equal ones; {top}"
        )

    lines = [
        *(("table", f"{path}: {what}") for path, what in r["tables"].items()),
        ("rows", f"{r['rows']:,}, of which {r['trainable']:,} can be trained on"),
        ("turns", ", ".join(f"{n:,} with {t}" for t, n in r["turns"].items()) or "none"),
        (
            "tokens a conversation",
            f"{spread(r['tokens'])}; {r['too_long']:,} do not fit the context of {r['context']:,}",
        ),
        ("characters a prompt", spread(r["prompt_length"])),
        (
            "characters a reply",
            f"{spread(r['reply_length'])}; at inference at most {r['max_new']:,}",
        ),
        (
            "graded",
            f"{r['graded_targets']:,} of {r['targets']:,} targets"
            + (f" ({r['graded_share']:.0%})" if r["targets"] else "")
            + f", template {r['template']}",
        ),
        ("prompts begin", kinds(r["prompt_types"])),
    ]
    if r["categories"]:
        lines.append(("categories", kinds(r["categories"])))
    if r["identities"]:
        lines.append(
            ("who it says it is", ", ".join(f"{claim} ({n})" for claim, n in r["identities"]))
        )
    if r["corpus_overlap"]:
        lines.append(
            (
                "copied from the corpus",
                (
                    f"longest stretch of a reply: {spread(r['corpus_overlap'])} "
                    f"(0: under {r['corpus_overlap']['from']})"
                ),
            )
        )
    if r["fixed"]:
        f = r["fixed"]
        lines.append(
            (
                "fixed",
                (
                    f"{f['path']}: {f['kept']:,} rows; removed {f['removed_duplicates']:,} exact"
                    f" duplicates and {f['removed_untrainable']:,} that cannot be trained on"
                ),
            )
        )
    lines.append(
        (
            "findings",
            (
                "none: clean"
                if not r["findings"]
                else ", ".join(f"{k['count']:,} {k['kind']} ({k['severity']})" for k in r["kinds"])
            ),
        )
    )
    for name, value in lines:
        print(f"{name:<24}{value}")


def _gradcheck(args):
    import time

    from pysft.nn import gradcheck
    from pysft.recipe import computing_ops

    began = time.monotonic()
    if args.ops in ("kernels", "reference"):
        whose, name = computing_ops(args.ops, args.threads), args.ops
    else:
        whose = gradcheck.load_ops(args.ops)
        name = f"{', '.join(whose.own)} of {args.ops}, the reference for the rest"
    rows = gradcheck.run(whose, args.seed)
    failed = [r for r in rows if not r.passed]
    worst = max(r.worst for r in rows)
    if args.json:
        _print_json(
            {
                "worst_relative_error": worst if worst < float("inf") else None,
                "cases": len({r.name for r in rows}),
                "failed": len(failed),
                "rows": [
                    {
                        "name": r.name,
                        "tensor": r.tensor,
                        "elements": r.elements,
                        "worst": r.worst if r.worst < float("inf") else None,
                        "passed": r.passed,
                    }
                    for r in rows
                ],
            }
        )
    else:
        print(f"{name}: float64, five-point differences, every element\n")
        print(f"{'case':<30}{'tensor':<16}{'elements':>9}  {'worst relative error':>20}")
        for r in rows:
            print(
                f"{r.name:<30}{r.tensor:<16}{r.elements:>9} "
                f" {r.worst:>20.1e}{'' if r.passed else '   FAILED'}"
            )
        print(
            f"\n{len(rows)} tensors of {len({r.name for r in rows})} cases, worst {worst:.1e},"
            f" allowed {gradcheck.TOLERANCE:.0e}, {time.monotonic() - began:.1f} s: "
            + (f"{len(failed)} FAILED" if failed else "all passed")
        )
    return 1 if failed else 0


def _info(args):
    import numpy

    from pysft.nn import ops

    document = {
        "version": __version__,
        "isa": ops.ISA,
        "isas": ops.ISAS,
        "threads": ops.default_threads(),
        "openmp": ops.OPENMP,
        "compiler": ops.COMPILER,
        "numpy": numpy.__version__,
        "python": sys.version.split()[0],
    }
    if args.json:
        _print_json(document)
    else:
        for name, value in document.items():
            print(f"{name:<10} {', '.join(value) if isinstance(value, list) else value}")
