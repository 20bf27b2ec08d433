"""`pysft gradcheck`: check every derivative of the kernels, a whole model and the objectives."""

import time

from pysft.cli.arguments import print_json, threads, whole

HELP = "check the derivatives of kernels, whole model and objectives by finite differences"
EXAMPLES = ("gradcheck", "gradcheck --ops reference", "gradcheck --ops my_layernorm.py")


def add_arguments(p):
    p.add_argument("--threads", type=threads, metavar="N", help="threads of the kernels")
    p.add_argument(
        "--ops",
        default="kernels",
        metavar="kernels|reference|FILE.py",
        help=(
            "the functions to check: the C kernels (default), the NumPy reference, or the"
            " functions of your own file, with the reference in place of all others"
        ),
    )
    p.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of the random inputs")


def run(args):
    from pysft.nn import gradcheck
    from pysft.nn.computing import computing_ops
    from pysft.training import objective_cases

    began = time.monotonic()
    not_written = None  # of a reader's file
    if args.ops in ("kernels", "reference"):
        ops, name = computing_ops(args.ops, args.threads), args.ops
    else:
        ops = gradcheck.load_ops(args.ops)
        name = f"{', '.join(ops.own)} of {args.ops}, the reference for the rest"
        not_written = ops.not_written
    rows = gradcheck.run(ops, args.seed, gradcheck.CASES | objective_cases.CASES)
    if args.json:
        more = {} if not_written is None else {"not_written": not_written}
        print_json(_document(rows) | more)
    else:
        if not_written:
            print(f"not written yet: {', '.join(not_written)}")
        _print_table(name, rows, gradcheck.TOLERANCE, time.monotonic() - began)
    return 0 if all(row.passed for row in rows) else 1


def _document(rows) -> dict:
    """The document of --json. An error that is not finite is null."""

    def finite(error):
        return error if error < float("inf") else None

    return {
        "worst_relative_error": finite(max(row.worst for row in rows)),
        "cases": len({row.name for row in rows}),
        "failed": sum(not row.passed for row in rows),
        "rows": [
            {
                "name": row.name,
                "tensor": row.tensor,
                "elements": row.elements,
                "worst": finite(row.worst),
                "passed": row.passed,
            }
            for row in rows
        ],
    }


def _print_table(name: str, rows, tolerance: float, seconds: float) -> None:
    print(f"{name}: float64, five-point differences, every element\n")
    print(f"{'case':<30}{'tensor':<16}{'elements':>9}  {'worst relative error':>20}")
    for row in rows:
        print(
            f"{row.name:<30}{row.tensor:<16}{row.elements:>9}  {row.worst:>20.1e}"
            + ("" if row.passed else "   FAILED")
        )
    cases, failed = len({row.name for row in rows}), [row for row in rows if not row.passed]
    print(
        f"\n{len(rows)} tensors of {cases} cases, worst {max(row.worst for row in rows):.1e},"
        f" allowed {tolerance:.0e}, {seconds:.1f} s: "
        + (f"{len(failed)} FAILED" if failed else "all passed")
    )
    if failed:  # forwards come first, then the kernels' own cases, then the whole model
        print(f"look first at {failed[0].name}: {failed[0].tensor}, {failed[0].worst:.1e}")
    if any(row.tensor.endswith("(forward)") for row in failed):
        print("a forward differs from the reference's, so the gradients are those of another one")
