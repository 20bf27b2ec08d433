"""The heads of a model: from the output of the last layer norm to nll and values, and back.

As in model.py each forward stands directly above its backward. run(kernel, *arrays) calls one of
the functions to compute with. p, d and a are the model's parameters, their gradients, which are
added to, and the activations. The first M rows of a["lnf"] belong to the M wanted rows, and so do
those of a["dbranch"], its gradient."""


def nll_forward(run, p, a, labels, head: str) -> None:
    """Compute the first M rows of a["nll"] for the labels (M,). head: the name of its weights
    (V,C)."""
    for part, logits in _logits_parts(a, len(labels)):
        run("matmul_forward", logits, a["lnf"][part], p[head])
        run("cross_entropy_forward", a["nll"][part], a["logits_lse"][part], logits, labels[part])


def nll_backward(run, p, d, a, dnll, labels, head: str) -> None:
    """From dnll (M,): a["dbranch"] is written, and the logits are overwritten."""
    parts = _logits_parts(a, len(labels))
    for part, logits in parts:
        lnf, dlnf, lse = a["lnf"][part], a["dbranch"][part], a["logits_lse"][part]
        if len(parts) > 1:  # the logits of earlier parts have been overwritten
            run("matmul_forward", logits, lnf, p[head])
        run("cross_entropy_backward", logits, dnll[part], logits, lse, labels[part])
        run("matmul_backward", dlnf, d[head], None, logits, lnf, p[head])


def _logits_parts(a, M: int):
    """Return a list of (slice of the M wanted rows, array for their logits). All parts share one
    array, so only the logits of one part are in memory at a time."""
    most = len(a["logits"])
    return [
        (slice(i, min(i + most, M)), a["logits"][: min(most, M - i)]) for i in range(0, M, most)
    ]


def value_forward(run, p, a, M: int) -> None:
    """Compute the first M rows of a["value"] (N,1): a linear layer with one output."""
    run("matmul_forward", a["value"][:M], a["lnf"][:M], p["value.w"], p["value.b"])


def value_backward(run, p, d, a, dvalue, adds: bool) -> None:
    """From dvalue (M,): a["dbranch"] is written, or added to if it holds the gradient through the
    logits already (`adds`)."""
    M, C = len(dvalue), a["lnf"].shape[1]
    lnf, dlnf = a["lnf"][:M], a["dbranch"][:M]
    share = (
        a["dwide"].reshape(-1, C)[:M] if adds else dlnf
    )  # dwide is free until the blocks need it
    run("matmul_backward", share, d["value.w"], d["value.b"], dvalue[:, None], lnf, p["value.w"])
    if adds:
        dlnf += share
