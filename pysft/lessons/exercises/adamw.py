"""AdamW: one step of the optimiser, in place."""

import numpy as np

from pysft.lessons.problem import CHANGED, Problem

# lr and eps are larger than usual. Otherwise the order of decay and step, and the place of eps,
# would change too little to be seen.
SIZES = (
    {"n": 7, "step": 3, "lr": 0.2, "beta1": 0.9, "beta2": 0.99, "eps": 0.05, "decay": 0.4},
    {"n": 4, "step": 6, "lr": 0.1, "beta1": 0.8, "beta2": 0.98, "eps": 0.03, "decay": 0.5},
)


def arguments(rng, sizes) -> dict:
    """The moments are as large as the steps before this one would have left them."""
    n, scalars = sizes["n"], {name: x for name, x in sizes.items() if name != "n"}
    beta1, beta2, before = sizes["beta1"], sizes["beta2"], sizes["step"] - 1
    arrays = {
        "w": rng.standard_normal(n),
        "m": (1 - beta1**before) * rng.standard_normal(n),
        "v": (1 - beta2**before) * rng.uniform(0.5, 1.5, n),
        "g": rng.standard_normal(n),
    }
    return arrays | scalars


def adamw(arguments: dict, wrong: frozenset) -> dict:
    """adamw, with these mistakes."""
    w, m, v, g, step, lr, beta1, beta2, eps, decay = arguments.values()
    lost = decay if "decay-without-lr" in wrong else lr * decay
    if "decay-left-out" in wrong:
        decay = lost = 0.0
    if "decay-through-the-gradient" in wrong:
        g, lost = g + decay * w, 0.0
    beta2 = beta1 if "one-beta-for-both" in wrong else beta2
    share1, share2 = 1 - beta1, 1 - beta2
    if "gradient-not-averaged" in wrong:
        share1 = share2 = 1.0
    kept1, kept2 = beta1, beta2
    if "weights-of-m-swapped" in wrong:
        kept1, share1 = share1, kept1
    if "weights-of-v-swapped" in wrong:
        kept2, share2 = share2, kept2
    m = kept1 * m + share1 * g
    v = kept2 * v + share2 * g**2
    counted = step - 1 if "steps-counted-from-0" in wrong else step
    if "one-step-too-many" in wrong:
        counted = step + 1
    m_hat = m if "m-not-corrected" in wrong else m / (1 - beta1**counted)
    correction2 = 1.0 if "v-not-corrected" in wrong else 1 - beta2**counted
    v_hat = v / correction2
    root = np.sqrt(v_hat) + eps
    if "root-left-out" in wrong:
        root = v_hat + eps
    elif "eps-inside-the-root" in wrong:
        root = np.sqrt(v_hat + eps)
    elif "eps-before-the-correction" in wrong:
        root = (np.sqrt(v) + eps) / np.sqrt(correction2)
    elif "correction-outside-the-root" in wrong:
        root = np.sqrt(v) / correction2 + eps
    moved = lr * m_hat / root
    if "uphill" in wrong:
        moved = -moved
    if "decay-after-the-step" in wrong:
        w = (1 - lost) * (w - moved)
    else:
        w = (1 - lost) * w - moved
    if "corrected-moments-kept" in wrong:
        m, v = m_hat, v_hat
    return {"w": w, "m": m, "v": v}


ADAMW = Problem(
    function="adamw",
    skeleton='''def adamw(w, m, v, g, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0):
    """Change w, m and v (n,) in place: step number `step`, from 1, with the gradient g (n,)."""
''',
    arguments=arguments,
    answer=adamw,
    sizes=SIZES,
    outputs={"w": CHANGED, "m": CHANGED, "v": CHANGED},
    mistakes=(
        "m-not-corrected",
        "v-not-corrected",
        "steps-counted-from-0",
        "one-step-too-many",
        "corrected-moments-kept",
        "decay-through-the-gradient",
        "decay-without-lr",
        "decay-after-the-step",
        "decay-left-out",
        "eps-inside-the-root",
        "eps-before-the-correction",
        "correction-outside-the-root",
        "root-left-out",
        "one-beta-for-both",
        "weights-of-m-swapped",
        "weights-of-v-swapped",
        "gradient-not-averaged",
        "uphill",
    ),
)

PROBLEMS = (ADAMW,)
