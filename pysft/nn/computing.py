"""The functions that a model computes with: the C kernels, or the NumPy reference.

`ops` in this project is an object with the functions of reference.py as attributes, each with the
same arguments. It can be that module itself, or the object that kernels.on_threads(n) returns, or a
mixture of the reference and a reader's own functions (gradcheck.py). More attributes are optional.
If there is `calls`, a model has its kernel calls checked once and repeats them (calls.py). If there
are `decoder` and `sampler`, a Decoder has its arrays checked once (decode.py). `precision` is that
of its products, and at(precision) gives the functions in another one. `fixed` says that the user
chose the precision, so that a model's own does not count.
"""


def computing_ops(name: str, threads: int | None, precision: str | None = None):
    """Return the functions to compute with: "kernels", on that many threads, or "reference".

    threads: None is gate.default_threads(); the reference takes no notice of it. precision: that of
    all models, "float32" or "bf16"; None is each model's own. Only the module that is asked for is
    imported, so the reference runs without the compiled part. The kernels raise a BuildError if
    that part is missing, and a UsageError if this processor lacks the precision."""
    if name == "reference":
        from pysft.nn import reference

        ops = reference
    else:
        from pysft.nn import kernels

        ops = kernels.on_threads(threads)
    if precision is not None:
        ops = ops.at(precision)
        ops.fixed = True
    return ops


def in_precision(ops, precision: str):
    """Return the functions `ops` for a model of a precision. A UsageError if the kernels are asked
    for one that this processor lacks."""
    if getattr(ops, "fixed", False) or precision == precision_of(ops):
        return ops
    return ops.at(precision)


def precision_of(ops) -> str:
    """Return the precision of the products of the functions `ops`."""
    return getattr(ops, "precision", "float32")
