"""The functions that a model computes with: the C kernels, or the NumPy reference.

`ops` in this project is an object with the functions of reference.py as attributes, each with the
same arguments. That can be the module itself, or what kernels.on_threads(n) returns, or an object
made of functions from both (gradcheck). Two attributes are optional. With `calls`, a model notes
its kernel calls once and repeats them (calls.py). With `decoder`, a Decoder has its arrays checked
once (decode.py).
"""


def computing_ops(name: str, threads: int | None):
    """The functions to compute with: "kernels" on as many threads, or "reference".

    threads: None is gate.default_threads(). The reference is used only when asked for; it needs no
    compiled part, so each of the two is imported only when it is used."""
    if name == "reference":
        from pysft.nn import reference

        return reference
    from pysft.nn import kernels

    return kernels.on_threads(threads)
