"""Runs a learner's function in a process of its own: `python -m pysft.lessons.worker FOLDER`.

running.py starts it and reads what it leaves. An endless loop, a crash or an exit in the learner's
file ends this process and not the checker's. FOLDER holds

    given.pickle    what to run (running.py wrote it)
    report.json     {"fault": null or {"kind", ...}, "calls": [...]}, written last
    results.npz     arrays of the calls: "NUMBER/NAME"
    printed.txt     the beginning of what the file printed
    trace.txt       where the function was when the time was over, or when the process crashed

The fault's kinds are named in faults.py, which has their texts."""

import copy
import faulthandler
import inspect
import json
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np

# The name of the learner's file in tracebacks. A fixed one: faulthandler cuts and escapes a path.
FILE = "<the exercise>"
MODULE = "exercise"
PRINTED = 4000  # characters of the output that are kept


class Fault(Exception):
    """What is wrong with the learner's file or function: a kind, and its details by name."""

    def __init__(self, kind: str, **details):
        super().__init__(kind)
        self.content = {"kind": kind} | details


class Printed:
    """Stands for standard output and error, and keeps the first PRINTED characters in a file.

    They are written at once, so that they are there after an endless loop."""

    def __init__(self, path: Path):
        self.file, self.room = open(path, "w", encoding="utf-8", errors="replace"), PRINTED
        self.encoding = "utf-8"

    def write(self, text) -> int:
        text = str(text)
        if self.room > 0:
            self.file.write(text[: self.room])
            self.file.flush()
        self.room -= len(text)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def main(folder: Path) -> None:
    """Run what given.pickle says, and write report.json."""
    given = pickle.loads((folder / "given.pickle").read_bytes())
    report, arrays = {"fault": None, "calls": []}, {}
    with open(folder / "trace.txt", "w") as trace:
        faulthandler.enable(trace)
        sys.stdout = sys.stderr = Printed(folder / "printed.txt")
        # A thread of the interpreter's own ends the process, even if the function hangs in C.
        faulthandler.dump_traceback_later(given["time_limit"], exit=True, file=trace)
        try:
            function = load(given["source"], given["path"], given["function"])
            if fault := signature_fault(function, given["skeleton"], given["function"]):
                raise Fault("signature", **fault)
            calls = copy.deepcopy(given["calls"]) if given["shared"] else []
            for i, (outputs, arguments) in enumerate(given["calls"]):
                called = call(function, outputs, arguments, given["returns"])
                report["calls"].append(called["report"])
                arrays |= {f"{i}/{name}": x for name, x in called["results"].items()}
            for i, (outputs, arguments) in enumerate(calls):
                called = call(function, outputs, arguments, given["returns"], given["shared"])
                arrays |= {f"shared {i}/{name}": x for name, x in called["results"].items()}
        except Fault as fault:
            report["fault"] = fault.content
        faulthandler.cancel_dump_traceback_later()
        np.savez(folder / "results.npz", **arrays)
        (folder / "report.json").write_text(json.dumps(report))
        faulthandler.disable()


def load(source: bytes, path: str, name: str):
    """Run the learner's file and return its function of this name. A Fault if that fails."""
    try:
        code = compile(source, FILE, "exec")
    except SyntaxError as error:
        raise Fault("syntax", line=error.lineno, message=error.msg) from None
    except ValueError as error:  # a byte that is 0
        raise Fault("syntax", line=None, message=str(error)) from None
    module = types.ModuleType(MODULE)
    module.__file__ = path
    sys.modules[MODULE] = module  # dataclasses look for it there
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        exec(code, vars(module))
    except BaseException as error:  # SystemExit too
        raise Fault("file-exception", **described(error)) from None
    if not hasattr(module, name):
        similar = [n for n, f in vars(module).items() if inspect.isfunction(f)]
        raise Fault("missing", functions=similar)
    if not callable(function := getattr(module, name)):
        raise Fault("no-function", type=type(function).__name__)
    return function


def described(error: BaseException) -> dict:
    """The type and message of an exception, and the last line of the learner's file on its way."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == FILE:
            line = frame.tb_lineno
        frame = frame.tb_next
    return {"type": type(error).__name__, "message": str(error)[:500], "line": line}


def signature_fault(function, skeleton: str, name: str) -> dict | None:
    """Return how the parameters of a function differ from the skeleton's, or None if every call
    that the skeleton allows means the same here.

    Other names are allowed, because the arguments are passed in order. A name of the skeleton that
    stands at another place is not: there two arguments would be mixed up."""
    space = {"np": np}
    exec(compile(skeleton, "<skeleton>", "exec"), space)
    expected = list(inspect.signature(space[name]).parameters.values())
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some callables have none; the call will show it
        return None
    found = list(signature.parameters.values())
    wanted = [p.name for p in expected]
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    differs = {"found": str(signature), "expected": str(inspect.signature(space[name]))}
    required = [p for p in expected if p.default is p.empty]
    for count in (len(required), len(expected)):
        try:
            signature.bind(*wanted[:count])
        except TypeError as error:
            return differs | {"why": str(error)}
    for place, p in enumerate(positional):
        if p.name in wanted and wanted.index(p.name) != place:
            why = f"{p.name} is argument {place + 1}, and belongs at {wanted.index(p.name) + 1}"
            return differs | {"why": why}
    for p, mine in zip(expected, positional):
        if p.default is not p.empty and repr(p.default) != repr(mine.default):
            return differs | {"why": f"the default of {mine.name} is not {p.default!r}"}
    return None


def call(function, outputs: dict, arguments: dict, returns: list, shared=None) -> dict:
    """Call the function once. Return the report and the results of the call.

    shared: {output: argument} of the outputs that are the array of an argument in this call."""
    given, kept = copy.deepcopy(arguments), copy.deepcopy(arguments)
    outputs = outputs | {name: given[of] for name, of in (shared or {}).items()}
    try:
        value = function(*outputs.values(), *given.values())
    except NotImplementedError as error:
        raise Fault("not-written", **described(error)) from None
    except BaseException as error:
        raise Fault("exception", **described(error)) from None
    changed = [name for name in given if not same(given[name], kept[name])]
    if outputs:
        results = outputs
    else:
        results = returned(value, returns)
    return {
        "report": {"changed": changed, "returned": value is not None},
        "results": results,
    }


def returned(value, names: list) -> dict:
    """Return the results by name, as arrays. A Fault if there are not as many, or one is none."""
    if value is None:
        raise Fault("returned-nothing")
    if isinstance(value, dict) and set(value) == set(names):
        values = [value[name] for name in names]
    elif len(names) == 1:
        values = [value[0]] if isinstance(value, tuple) and len(value) == 1 else [value]
    elif isinstance(value, (tuple, list)):
        values = list(value)
    else:
        values = [value]
    if len(values) != len(names):
        raise Fault("returned-number", found=len(values))
    results = {}
    for name, x in zip(names, values):
        try:
            array = np.asarray(x)
        except Exception:
            array = np.asarray(None)
        if array.dtype.kind not in "biufUS":
            what = f"an array of {array.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
            raise Fault("returned-type", name=name, found=what)
        results[name] = array
    return results


def same(a, b) -> bool:
    """True if an argument is what it was, bit for bit where it is an array."""
    if isinstance(b, np.ndarray):
        is_alike = isinstance(a, np.ndarray) and (a.shape, a.dtype) == (b.shape, b.dtype)
        return is_alike and a.tobytes() == b.tobytes()
    if isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (int, float, str, bytes)):
        return a == b or a != a
    return True  # of other objects nothing is known


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # Threads or handlers that the file started must not keep the process.
    os._exit(0)
