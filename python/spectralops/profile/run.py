"""Run cases: the correctness gate first, then the times; and what machine and commit they were measured on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

from .cases import Case, find
from .timing import interleaved, median, peak_bytes, saved_bytes
from ..testing import relative_error

# Pages kept: the allocator returns nothing to the system, so eager code stops paying for fresh pages on
# every temporary.
PAGES_KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def machine() -> dict:
    """What the numbers belong to."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    from .._loader import CoreMissing, core

    try:
        capability = core().cpu_capability()
    except CoreMissing as error:
        capability = f"no core ({error})"
    info = {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "capability": capability,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
        info["cuda"] = torch.version.cuda
        try:
            import triton

            info["triton"] = triton.__version__
        except ImportError:
            pass
    return info


def commit() -> str:
    """The commit of the source tree this package was imported from, "+" behind it where the tree has changes; "" outside one."""
    here = Path(__file__).resolve().parent

    def git(*args):
        return subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cast(value, dtype=torch.float64):
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return value.detach().to(dtype).requires_grad_(value.requires_grad)


def _viewable(t: torch.Tensor) -> torch.Tensor:
    return t.detach().contiguous().view(torch.uint8)


def gate(case: Case, inputs) -> tuple[bool, str]:
    """Is `ours` right on these inputs: at most twice the eager formula's error against float64, or bit-equal where that is promised."""
    got = case.call("ours", *inputs)
    eager = case.call("eager", *inputs)
    if case.exact is None:
        same = all(torch.equal(_viewable(u), _viewable(v)) for u, v in zip(got, eager))
        return same, "bit-equal" if same else "differs from the two steps"
    exact = case.call("exact", *map(_cast, inputs))
    worst = 0.0
    for u, v, w in zip(got, eager, exact):
        error, allowed = relative_error(u, w), 2 * relative_error(v, w)
        floor = torch.finfo(u.dtype).eps
        worst = max(worst, error)
        if not error <= max(allowed, floor):
            return False, f"relative error {error:.2e}, allowed {max(allowed, floor):.2e}"
    return True, f"relative error {worst:.1e}"


@contextlib.contextmanager
def _quiet_compiler():
    """torch.compile's warnings and dumps are about the baseline; its errors are raised all the same."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def run_case(case: Case, device: torch.device, *, seconds: float, compiled: bool = True) -> dict:
    """One row of results; times in seconds, without any where the gate is red."""
    inputs = case.make(device)
    row = {"op": case.op, "name": case.name, "device": device.type, "bytes": case.bytes, "operations": case.operations}
    ok, why = gate(case, inputs)
    row.update(ok=ok, gate=why)
    if not ok:
        return row
    calls = {name: (lambda f=f: f(*inputs)) for name, f in case.contenders.items()}
    if compiled and case.compile:
        torch._dynamo.reset()
        f = torch.compile(case.contenders[case.compile])
        try:
            with _quiet_compiler():
                f(*inputs)
            calls["compile"] = lambda: f(*inputs)
        except Exception as error:  # a baseline that cannot be built is reported, not hidden
            row["compile_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    times = interleaved(calls, device, seconds=seconds, rounds=case.rounds)
    row["seconds"] = {name: median(t) for name, t in times.items()}
    row["rounds"] = len(times["ours"])
    row["peak_bytes"] = {name: peak_bytes(calls[name], device) for name in ("eager", "ours")}
    row["bandwidth"] = case.bytes / row["seconds"]["ours"]
    row["of_floor"] = row["seconds"]["floor"] / row["seconds"]["ours"]
    kept = all(os.environ.get(k) == v for k, v in PAGES_KEPT.items())
    given_back = sum(t.nbytes for t in case.call("ours", *inputs))  # by both, so no one's extra memory
    measured = dict(row["seconds"], **{f"extra {name}": size - given_back for name, size in row["peak_bytes"].items()})
    if case.saved is not None:
        measured["saved"], measured["x"] = saved_bytes(case.saved, inputs[:-1]), inputs[0].nbytes
        row["saved_bytes"] = measured["saved"]
    row["ratios"] = [
        {
            "ratio": f"{g.over}/{g.under}",
            "value": measured[g.over] / measured[g.under],
            "goal": g.text(kept),
            "met": g.met(measured[g.over] / measured[g.under], kept),
        }
        for g in case.goals
        if g.over in measured and g.under in measured and g.device in (None, device.type)
    ]
    return row


def overhead() -> dict:
    """What a call costs beside its kernel: import after torch, and a no-grad call on a small tensor against the core called directly."""
    from ..backends import cpu
    from ..ops.rational import rational

    code = "import torch, time; t = time.perf_counter(); import spectralops; print(time.perf_counter() - t)"
    imports = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    x, a, b = torch.randn(4, 32), torch.randn(1, 6), torch.randn(8, 4)
    calls = {
        "call": lambda: [rational(x, a, b) for _ in range(1000)],
        "kernel": lambda: [cpu.rational_forward(x, a, b, 0) for _ in range(1000)],
    }
    with torch.no_grad():
        times = interleaved(calls, torch.device("cpu"), seconds=1, rounds=(9, 30))
    each = {name: median(t) / 1000 for name, t in times.items()}
    return {"import_seconds": sorted(imports)[1], "call_seconds": each["call"], "kernel_seconds": each["kernel"]}


def run(ops: list[str] | None, device: str, *, match: str = "", seconds: float = 2.0, compiled: bool = True, progress=None) -> list[dict]:
    rows = []
    chosen = find(ops, device, match)
    for i, case in enumerate(chosen):
        if progress:
            progress(i, len(chosen), case.name)
        rows.append(run_case(case, torch.device(device), seconds=seconds, compiled=compiled))
    return rows


def run_in_child(ops: list[str] | None, pages_kept: bool, *, match: str = "", seconds: float, compiled: bool) -> dict:
    """The same in a process of its own, whose allocator is told to keep its pages or left alone."""
    command = [sys.executable, "-m", "spectralops.profile.run", json.dumps({"ops": ops, "match": match, "seconds": seconds, "compiled": compiled})]
    env = {k: v for k, v in os.environ.items() if k not in PAGES_KEPT}
    if pages_kept:
        env.update(PAGES_KEPT)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"profiling failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _child() -> None:
    from .report import progress

    task = json.loads(sys.argv[1])
    rows = run(task.pop("ops"), "cpu", **task, progress=progress)
    print(json.dumps({"rows": rows, "overhead": overhead()}))


if __name__ == "__main__":
    _child()
