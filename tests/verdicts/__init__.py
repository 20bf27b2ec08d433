"""When each check of the lab's experiments holds: tables of made-up records, for
tests/test_lab_checks.py.

A table has each check by its text. Behind it stand one or more (make, verdicts): make(number) gives
records in which the check's figure has this number and all others contradict it, where they can;
verdicts says for which numbers the check holds."""

from small_lab import record_of

LESS = {(1.0, 1.01): True, (1.0, 1.0): False, (1.01, 1.0): False}  # of two: the first is less


def record(rows: dict[int, dict] | None = None, **more) -> dict:
    """A record with these measurements, {step: figures}, and these fields."""
    return record_of(track=[{"step": s, **row} for s, row in (rows or {}).items()], **more)


def ended(**figures) -> dict:
    """A record whose last measurement has these figures, and the one before it has none."""
    return record({0: dict.fromkeys(figures), 1000: figures})


def recalling(pairs: int, **more) -> dict:
    return ended(recall=pairs / 40, recall_of=40, **more)


def end(arm: str, name: str, **others):
    """make(number): the last figure of an arm. others: arms with another number, by their names."""
    return lambda x: {arm: ended(**{name: x})} | {k: ended(**{name: v}) for k, v in others.items()}


def ends(arms, name: str):
    """make(numbers): the last figure of each arm."""
    return lambda xs: {arm: ended(**{name: x}) for arm, x in zip(arms, xs, strict=True)}


def recalled(*arms: str):
    """make(numbers): how many pairs each arm recalls; make(number) for one arm."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        return {arm: recalling(x) for arm, x in zip(arms, xs, strict=True)}

    return make


def finish(arm: str, other: str, *names: str):
    """make(numbers): what Arm.finish returned for an arm. The other arm has none of it."""

    def make(xs):
        xs = xs if isinstance(xs, tuple) else (xs,)
        return {arm: record(finish=dict(zip(names, xs, strict=True))), other: record()}

    return make


def along(arms, name: str, step: int):
    """make(numbers): a figure of each arm after a step. Before and after it the arms have the
    opposite order."""

    def make(xs):
        rows = [{s: {name: x if s == step else -x} for s in (0, 200, 1000)} for x in xs]
        return {arm: record(row) for arm, row in zip(arms, rows, strict=True)}

    return make


def first_reached(slow: str, fast: str, others=()):
    """make((a, b)): forgetting of two arms when they first recall 36 pairs. Before and after it
    they have forgotten other shares. None: they never recall 36."""

    def path(x):
        rows = {0: (0, 0.0), 100: (35, 0.9), 200: (36, x), 500: (40, 1 - (x or 0))}
        if x is None:
            rows = {0: (0, 0.0), 100: (35, 0.1)}
        return record({s: {"recall": n / 40, "forgetting": f} for s, (n, f) in rows.items()})

    def make(xs):
        return {slow: path(xs[0]), fast: path(xs[1])} | {name: path(0.01) for name in others}

    return make
