"""pysft beside other code, in one process and in several: PyTorch imported before and after, two
threads, forked children, spawned and forked pools, NumPy's own threads. Nothing hangs, no result
changes, and the state of the process is not changed."""

import importlib.util
import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, python

from pysft.batch import Batch
from pysft.nn import kernels
from pysft.nn.model import GPT
from pysft.nn.optim import AdamW
from pysft.nn.shapes import GPTConfig
from pysft.rng import rng
from pysft.run.stage import weights_sha256
from pysft.text.windows import draw_windows
from pysft.training.loop import Learner, train
from pysft.training.objectives import Sft

# Code for other processes: makes trained(threads) available there.
TESTS = str(ROOT / "tests")
TRAINED = f"import sys; sys.path.insert(0, {TESTS!r}); from test_living import trained\n"


def trained(threads, seed=0):
    """The SHA-256 of a model's weights after ten steps. The model is small, but large enough for
    its kernels to use several threads."""
    config = GPTConfig(65, 64, 2, 4, 64)
    model = GPT(config, kernels.on_threads(threads), rng(seed, "base", "init"))
    text = rng(seed, "base", "text").integers(0, 65, 5000).astype(np.int32)

    def draw(step):
        return [Batch.of(draw_windows(text, 12, 64, rng(seed, "base", "windows", step)), 65, 64)]

    for _ in train(Learner(model, AdamW(model), draw, Sft(), lambda step: 1e-3), 10):
        pass
    return weights_sha256(model)


@pytest.fixture(scope="module")
def alone():
    return [trained(2, seed) for seed in (0, 1)]


def test_two_trainings_in_two_threads_at_once_have_the_results_of_each_alone(alone):
    assert alone[0] != alone[1]
    found, both = {}, threading.Barrier(2)

    def work(seed):
        both.wait()
        found[seed] = [trained(2, seed) for _ in range(3)]

    workers = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {0: [alone[0]] * 3, 1: [alone[1]] * 3}


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_pool_of_processes_computes_the_same_and_does_not_hang(method, alone):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap_async(trained, [(2, 0), (2, 1), (1, 0)]).get(120) == [*alone, alone[0]]


def test_a_grandchild_of_two_forks_computes_the_same(alone):
    done = python(
        "-c",
        TRAINED
        + """if True:
        import os
        trained(2)
        child = os.fork()
        if not child:
            grandchild = os.fork()
            if not grandchild:
                print(trained(2), flush=True)
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print(trained(2))  # the parent still has its threads
    """,
    )
    assert done.stdout.split() == [alone[0]] * 2, done.stderr


def test_numpys_own_threads_beside_a_training_change_neither_result(alone):
    a = np.random.default_rng(0).standard_normal((600, 600))
    product, stop, right = a @ a, threading.Event(), []

    def multiply():
        while not stop.is_set():
            right.append(np.array_equal(a @ a, product))

    worker = threading.Thread(target=multiply)
    worker.start()
    try:
        assert trained(2) == alone[0]
    finally:
        stop.set()
        worker.join()
    assert right and all(right)


@pytest.mark.skipif(
    not importlib.util.find_spec("torch"), reason="PyTorch is not installed (make test-torch)"
)
@pytest.mark.parametrize(
    "order",
    ["import torch\n" + TRAINED, TRAINED + "import torch\n"],
    ids=["torch first", "pysft first"],
)
def test_pytorch_imported_before_or_after_changes_neither_its_results_nor_ours(order, alone):
    done = python(
        "-c",
        order
        + """if True:
        expected, threads = sys.argv[1], torch.get_num_threads()
        torch.manual_seed(0)
        x = torch.randn(300, 300)
        before = (x @ x).softmax(-1)
        assert trained(2) == expected
        assert torch.equal((x @ x).softmax(-1), before) and torch.get_num_threads() == threads
        w = torch.randn(300, 300, requires_grad=True)
        (x @ w).square().mean().backward()
        assert trained(2) == expected and torch.isfinite(w.grad).all()
        assert float(torch.tensor(1e-40)) > 0
        print("fine")
    """,
        alone[0],
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_the_state_of_the_process_is_not_changed(alone):
    """Denormals, the processor's floating-point control, the settings of OpenMP and NumPy, signals,
    the environment."""
    done = python(
        "-c",
        """if True:
        import ctypes, ctypes.util, locale, os, signal, sys, threading, warnings
        import numpy as np
        libm, omp = ctypes.CDLL(ctypes.util.find_library("m")), ctypes.CDLL("libgomp.so.1")

        def state():
            environment = ctypes.create_string_buffer(64)
            assert libm.fegetenv(environment) == 0
            # On x86 this is MXCSR, here without its sticky flags.
            control = int.from_bytes(environment.raw[28:32], "little") & 0xFFC0
            tiny = np.full(1000, 1e-40, np.float32)
            watched = signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGFPE
            omp_settings = "max_threads", "dynamic", "max_active_levels"
            return {
                "control": control,
                "rounding": libm.fegetround(),
                "denormals": float((tiny * np.float32(0.5)).sum()),
                "numpy": np.geterr(),
                "print": np.get_printoptions()["precision"],
                "warnings": len(warnings.filters),
                "signals": [signal.getsignal(n) for n in watched],
                "environment": dict(os.environ),
                "locale": locale.setlocale(locale.LC_ALL),
                "threads": threading.active_count(),
                "omp": [getattr(omp, "omp_get_" + name)() for name in omp_settings],
                "random": np.random.get_state()[1].tolist(),
                "hook": sys.excepthook,
                "recursion": sys.getrecursionlimit(),
            }

        before = state()
        import pysft
        from pysft.nn import kernels
        imported = state()
        tests, expected = sys.argv[1:]
        sys.path.insert(0, tests)
        os.environ.pop("OMP_WAIT_POLICY", None)
        # conftest sets a variable and a signal handler for the suite: they are restored here.
        from conftest import in_process
        signal.signal(signal.SIGINT, before["signals"][0])
        os.environ.clear(), os.environ.update(before["environment"])
        from test_living import trained
        assert trained(2) == expected
        def differs(a, b):
            return [name for name in a if a[name] != b[name]]
        print(differs(before, imported), differs(before, state()))
        from pysft.nn import gradcheck
        run, some = gradcheck.run, ("matmul, beyond a tile", "attention", "GPT, tied head")
        gradcheck.run = lambda ops, seed, cases: run(ops, seed, {n: cases[n] for n in some})
        code, out, err = in_process("gradcheck", "--threads", "3")
        assert code == 0, err
        print(differs(before, state()))
    """,
        TESTS,
        alone[0],
        OMP_WAIT_POLICY="passive",
    )
    assert (done.stdout, done.stderr) == ("[] []\n[]\n", "")


def test_an_import_prints_and_writes_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import pysft, pysft.cli.main, pysft.nn.kernels, pysft.jobs.train"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
