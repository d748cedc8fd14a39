"""Triton kernels run by Triton's interpreter on the CPU, in a worker process; the cases are in interpret_worker.py."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import interpret_worker
import numpy
import pytest

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
    and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4),
    reason="the interpreter of this Triton cannot loop under NumPy 2.4 and later",
)

WORKER = Path(interpret_worker.__file__)


def run_worker(names):
    """name -> None where it passed, else the text to show.

    A worker that dies is started again after the case that killed it.
    """
    results, left = {}, list(names)
    environment = dict(os.environ, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    while left:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", WORKER, *left], env=environment, capture_output=True, text=True
        )
        begun = None
        for line in done.stdout.splitlines():
            word, _, rest = line.partition(" ")
            if word == "BEGIN":
                begun = rest
            elif word == "OK":
                results[rest] = None
            elif word == "FAIL":
                name, _, text = rest.partition("\t")
                results[name] = json.loads(text)
        died = begun if begun is not None and begun not in results else left[0] if begun is None else None
        if died is not None:
            results[died] = f"the worker ended with status {done.returncode}\n{done.stderr[-4000:]}"
        left = [name for name in left if name not in results]
    return results


def results_of(request, cases):
    """Of the selected cases of a test file, whose module of cases is a worker itself, by two workers for two cores."""
    names = [item.callspec.params["name"] for item in request.session.items if item.path == request.path
             and "name" in getattr(getattr(item, "callspec", None), "params", {})]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(sys.modules[__name__], "WORKER", Path(cases.__file__))
        halves = list(pool.map(run_worker, (names[::2], names[1::2])))
    return {**halves[0], **halves[1]}


@pytest.fixture(scope="module")
def results(request):
    names = [item.callspec.params["name"] for item in request.session.items if item.path == Path(__file__)
             and "name" in getattr(getattr(item, "callspec", None), "params", {})]  # fmt: skip
    return run_worker(names)


@pytest.mark.parametrize("name", interpret_worker.CASES)
def test_in_the_interpreter(name, results):
    if results[name] is not None:
        pytest.fail(results[name], pytrace=False)


def test_a_crash_is_a_failure_of_its_case(monkeypatch, tmp_path):
    """A case that kills the process is reported, and those after it still run."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print('BEGIN', name, flush=True)\n"
        "    os.abort() if name == 'bad' else print('OK', name, flush=True)\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "WORKER", script)
    found = run_worker(["first", "bad", "last"])
    assert found["first"] is None and found["last"] is None and "status -6" in found["bad"]
