"""The functions that a model computes with: the C kernels, or the NumPy reference.

`ops` in this project is an object with the functions of reference.py as attributes, each with the
same arguments. It can be that module itself, or the object that kernels.on_threads(n) returns, or a
mixture of the reference and a reader's own functions (gradcheck.py). Two more attributes are
optional. If there is `calls`, a model has its kernel calls checked once and repeats them
(calls.py). If there is `decoder`, a Decoder has its arrays checked once (decode.py).
"""


def computing_ops(name: str, threads: int | None):
    """Return the functions to compute with: "kernels", on that many threads, or "reference".

    threads: None is gate.default_threads(); the reference takes no notice of it. Only the module
    that is asked for is imported, so the reference runs without the compiled part. The kernels
    raise a BuildError if that part is missing."""
    if name == "reference":
        from pysft.nn import reference

        return reference
    from pysft.nn import kernels

    return kernels.on_threads(threads)
