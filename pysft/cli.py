"""The command line: `python -m pysft VERB`. Each verb imports what it needs when it runs, so that
--help answers at once."""

import argparse
import json
import sys

from pysft import __version__
from pysft.errors import PysftError, UsageError

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 usage, 3 diverged, 65 bad data, 66 missing input, 130/143 interrupted"

EXAMPLES = f"""examples:
  python -m pysft train                         the whole job with the shipped text, some minutes
  python -m pysft train --preset mini           a larger model, some seven minutes
  python -m pysft train --corpus my.txt --data my.jsonl --out runs/mine
  python -m pysft chat runs/tiny                talk to the result
  python -m pysft chat runs/tiny -p 'I am sad'  one answer
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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="pysft", description="A language model that only completes text becomes a chatbot that answers.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"pysft {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, help, run, *examples):
        p = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".",
                             epilog="\n".join(["examples:", *("  python -m pysft " + e for e in examples), EXIT_CODES]),
                             formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        p.set_defaults(run=run)
        p.add_argument("--json", action="store_true", help="one JSON document on standard output, messages on standard error")
        return p

    def computing(p):
        p.add_argument("--threads", type=_threads, metavar="N", help="threads of the kernels (default: "
                       "PYSFT_NUM_THREADS, OMP_NUM_THREADS, or the CPUs this process may use)")
        p.add_argument("--ops", choices=["kernels", "reference"], default="kernels",
                       help="compute with the C kernels, or with the NumPy reference (slow, needs no compiler)")

    def training(p):
        computing(p)
        p.add_argument("--preset", metavar="NAME",
                       help="tiny (default), mini, small, or seed: the source text to the letter")
        p.add_argument("--config", metavar="FILE.toml", help="a file of settings; flags win over it")
        p.add_argument("--corpus", metavar="PATH|plays|shakespeare",
                       help="the base text: a file, the plays that ship (default; with --base: that run's own), or "
                       "Shakespeare (fetched once)")
        p.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/PRESET, numbered if taken)")
        p.add_argument("--seed", type=_whole, metavar="N", help="the same seed gives the same weights, bit by bit")
        p.add_argument("--resume", action="store_true", help="go on with the interrupted run --out, with the settings it has")

    p = verb("train", "the whole job: base model, grown vocabulary, fine-tuning, measurements", _train,
             "train", "train --preset seed --corpus shakespeare", "train --base runs/tiny --data mine.jsonl",
             "train --config mine.toml --out runs/mine")
    training(p)
    p.add_argument("--data", metavar="FILE", nargs="+", help='conversations in JSON lines, {"messages": [...]}, '
                   "instead of those that ship")
    p.add_argument("--base", metavar="RUN", help="fine-tune this run's base model instead of training one")
    p.add_argument("--base-steps", type=_positive, metavar="N", help="steps of pre-training")
    p.add_argument("--sft-steps", type=_positive, metavar="N", help="steps of fine-tuning")
    p.add_argument("--lr", type=float, metavar="RATE", help="learning rate of fine-tuning")

    p = verb("pretrain", "the base model alone", _pretrain, "pretrain --corpus my.txt --steps 1000")
    training(p)
    p.add_argument("--steps", type=_positive, metavar="N", help="steps of pre-training")
    p.add_argument("--lr", type=float, metavar="RATE", help="learning rate of pre-training")

    def talking(p, temperature):
        computing(p)
        p.add_argument("run_folder", metavar="RUN", help="a run's folder, or one stage of it")
        p.add_argument("--temperature", type=float, default=temperature, metavar="T",
                       help=f"0 is greedy (default {temperature})")
        p.add_argument("--top-k", type=_whole, default=0, metavar="K", help="only the K likeliest (default: all)")
        p.add_argument("--top-p", type=float, default=1.0, metavar="P", help="only the likeliest that reach P (default 1: all)")
        p.add_argument("--seed", type=_whole, default=0, metavar="N", help="the same seed gives the same text")
        p.add_argument("--tokens", type=_positive, default=None, metavar="N", help="at most N new tokens")

    p = verb("chat", "talk to a tuned model", _chat, "chat runs/tiny", "chat runs/tiny -p 'Speak of love'",
             "chat runs/tiny --temperature 0.7 --seed 3")
    talking(p, 0.0)
    p.add_argument("-p", "--prompt", metavar="TEXT", help="answer this once and stop")

    p = verb("generate", "continue text, which is all a base model does", _generate,
             "generate runs/tiny/base -p 'KING: '", "generate runs/tiny/base --temperature 0")
    talking(p, 0.8)
    p.add_argument("-p", "--prompt", metavar="TEXT", default="\n", help="the text to continue (default: a new line)")

    p = verb("eval", "measure a run again", _eval, "eval runs/tiny", "eval runs/tiny --json")
    computing(p)
    p.add_argument("run_folder", metavar="RUN", help="a run's folder, or one stage of it")

    p = verb("gradcheck", "every kernel and the whole model against finite differences, in float64", _gradcheck,
             "gradcheck", "gradcheck --ops reference", "gradcheck --ops my_layernorm.py")
    p.add_argument("--threads", type=_threads, metavar="N", help="threads of the kernels")
    p.add_argument("--ops", default="kernels", metavar="kernels|reference|FILE.py",
                   help="whose functions: the C kernels (default), the NumPy reference, or those of a file of "
                   "yours, the reference standing in for those it lacks")
    p.add_argument("--seed", type=_whole, default=0, metavar="N", help="of the random inputs")

    p = verb("info", "build, instruction set, threads, versions", _info, "info", "info --json")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit code."""
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    args = parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except PysftError as error:
        print(f"pysft: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "pysft").startswith("pysft"):
            raise  # a bug of ours
        print(f"pysft: this Python ({sys.executable}) has no {error.name}; after 'make build' use .venv/bin/python, or "
              "install pysft with 'pip install .'", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"pysft: not enough memory ({error}); a smaller model, context or batch needs less", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npysft: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:  # a full or read-only disk, a folder that went away
        print(f"pysft: {error.strerror or error}{f': {error.filename}' if error.filename else ''}; what was complete "
              "on disk is as it was", file=sys.stderr)
        return 1


def _print_json(document):
    print(json.dumps(document, ensure_ascii=False, allow_nan=False))


def _settings(args, **flags):
    from pysft.training.stages import resolve

    if args.resume:
        given = [name for name in ("preset", "config", "corpus", "seed", "data", "base", "base_steps", "sft_steps",
                                   "steps", "lr") if getattr(args, name, None) is not None]
        if given:
            raise UsageError(f"--resume goes on with the settings the run has; leave out --{given[0].replace('_', '-')}")
        if args.out is None:
            raise UsageError("--resume needs the run to go on with: --resume --out RUN")

    if flags.get("seed") is None:
        flags["seed"] = args.seed
    return resolve(args.preset, args.config, **flags)


def _train(args):
    from pysft import recipe

    settings = _settings(args, base_steps=args.base_steps, sft_steps=args.sft_steps, sft_lr=args.lr)
    report = recipe.train(settings, args.corpus, args.data, args.base, args.out, args.resume, args.ops,
                          args.threads, recipe.Screen(args.json))
    if args.json:
        _print_json(report)


def _pretrain(args):
    from pysft import recipe

    settings = _settings(args, base_steps=args.steps, base_lr=args.lr)
    report = recipe.pretrain_only(settings, args.corpus, args.out, args.resume, args.ops, args.threads,
                                  recipe.Screen(args.json))
    if args.json:
        _print_json(report)


def _eval(args):
    from pysft import recipe

    _say_if_unfinished(args.run_folder)
    report = recipe.evaluate(args.run_folder, args.ops, args.threads)
    if args.json:
        _print_json(report)
    elif "recall" in report:
        recipe.table(report, recipe.Screen(False))
    else:
        print(f"base text, nats/char     {report['base_loss']:.3f}")


def _talker(args):
    from pysft.inference.generate import Sampling
    from pysft.recipe import computing_ops
    from pysft.run import load_stage

    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.seed)
    return load_stage(args.run_folder, computing_ops(args.ops, args.threads)), sampling


def _chat(args):
    from pysft.inference import session as chat
    from pysft.run import unfinished

    stage, sampling = _talker(args)
    if stage.template.end not in stage.tokenizer.special:
        raise UsageError(f"{stage.folder}: a base model, which has no {stage.template.end}; "
                         + (f"its fine-tuning never finished: python -m pysft train --resume --out {stage.folder.parent}"
                            if unfinished(stage.folder.parent) else
                            f"it completes text: python -m pysft generate {args.run_folder}"))
    session = chat.Session(stage.model, stage.tokenizer, stage.template, sampling, args.tokens or 120)
    if args.prompt is not None:
        document = chat.once(session, args.prompt)
        _print_json(document) if args.json else print(document["reply"])
        if document["stop"] == "length":
            print("pysft: the reply reached its length before the end token", file=sys.stderr)
        return 0
    if args.json:
        raise UsageError("--json goes with -p TEXT")
    try:
        import readline  # noqa: F401  (line editing, where the system has it)
    except ImportError:
        pass
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    print(f"{stage.folder}. Type a message; /clear forgets the conversation, /quit or Ctrl-D leaves.")
    while True:
        try:
            text = input("you> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if text.strip() in ("/quit", "/exit"):
            return 0
        if text.strip() == "/clear":
            session.messages.clear()
            print("(forgotten)")
        elif text.strip():
            _turn(session, text)


def _turn(session, text):
    """One exchange of the prompt loop; an error is said and the chat goes on."""
    try:
        answer, reply, dropped = session.say(text)
    except PysftError as error:
        print(f"pysft: {error}", file=sys.stderr)
        return
    if dropped:
        print(f"(the context is full: the {dropped} oldest exchange{'s' * (dropped > 1)} left out)")
    print(f"bot> {answer}" + ("" if reply.stop == "end" else "  [cut: no end token within the room]"))


def _say_if_unfinished(run):
    """A run whose fine-tuning never finished is taken for its base: that must not go unsaid."""
    from pysft.run import unfinished

    if unfinished(run):
        print(f"pysft: the fine-tuning of {run} never finished, so this is its base (go on with: python -m pysft train "
              f"--resume --out {run})", file=sys.stderr)


def _generate(args):
    from pysft.inference.generate import complete

    _say_if_unfinished(args.run_folder)

    stage, sampling = _talker(args)
    document = complete(stage.model, stage.tokenizer, args.prompt, args.tokens or 200, sampling)
    _print_json(document) if args.json else print(document["prompt"] + document["reply"])


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
        _print_json({"worst_relative_error": worst if worst < float("inf") else None,
                     "cases": len({r.name for r in rows}), "failed": len(failed),
                     "rows": [{"name": r.name, "tensor": r.tensor, "elements": r.elements,
                               "worst": r.worst if r.worst < float("inf") else None, "passed": r.passed}
                              for r in rows]})
    else:
        print(f"{name}: float64, five-point differences, every element\n")
        print(f"{'case':<30}{'tensor':<16}{'elements':>9}  {'worst relative error':>20}")
        for r in rows:
            print(f"{r.name:<30}{r.tensor:<16}{r.elements:>9}  {r.worst:>20.1e}{'' if r.passed else '   FAILED'}")
        print(f"\n{len(rows)} tensors of {len({r.name for r in rows})} cases, worst {worst:.1e}, allowed "
              f"{gradcheck.TOLERANCE:.0e}, {time.monotonic() - began:.1f} s: "
              + (f"{len(failed)} FAILED" if failed else "all passed"))
    return 1 if failed else 0


def _info(args):
    import numpy

    from pysft.nn import ops

    document = {"version": __version__, "isa": ops.ISA, "isas": ops.ISAS, "threads": ops.default_threads(),
                "openmp": ops.OPENMP, "compiler": ops.COMPILER, "numpy": numpy.__version__,
                "python": sys.version.split()[0]}
    if args.json:
        _print_json(document)
    else:
        for name, value in document.items():
            print(f"{name:<10} {', '.join(value) if isinstance(value, list) else value}")
