"""The one GPU command: `python -m bench.gpu --out DIR`, under eight minutes on a bare machine.

Steps, each written to DIR as soon as it is done, so that a run cut short keeps what it has; `--only` and
`--skip` take step names to go on from there:

    machine   what this is
    build     the core with its CUDA part for the card found, into the source tree
    tests     pytest -m gpu; every backend that should run here must really have run
    sanitize  compute-sanitizer memcheck and racecheck over one small case a kernel, where the tool works
    ceilings  copy bandwidth and bf16 matrix product: the two limits everything is compared with
    profile   every registry case that has a GPU form, cold cache

`--dry` needs no GPU: it builds, compiles every CUDA and Triton kernel for sm_90, collects the GPU tests and
times nothing. Needs torch, triton, nvcc, cmake, pytest; uses ninja, pybind11 and cupy where they are; no network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "spectralops"
STEPS = ("machine", "build", "tests", "sanitize", "ceilings", "profile")
COMPILED = [f"tests/test_triton_{name}.py" for name in ("compile", "kan_compile", "activations", "wavelet", "fft_conv_compile")]
LIMITS = {"build": 240, "tests": 240, "sanitize": 60, "profile": 240}  # seconds


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'python'}{os.pathsep}{ROOT}", "PYTHONUNBUFFERED": "1", **more}


def command(arguments: list, log: Path, limit: float, **more: str) -> tuple[int, str]:
    """Run with output to the log; (status, last lines). 124 past the limit."""
    with open(log, "w") as file:
        try:
            status = subprocess.run(
                [str(a) for a in arguments], cwd=ROOT, env=environment(**more), stdout=file, stderr=subprocess.STDOUT, timeout=limit
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
    lines = log.read_text(errors="replace").splitlines()
    return status, "\n".join(lines[-12:])


def machine(out: Path, dry: bool) -> dict:
    status, text = command([sys.executable, PACKAGE / "collect_env.py"], out / "environment.txt", 120)
    print((out / "environment.txt").read_text())
    return {"ok": status == 0}


def build(out: Path, dry: bool) -> dict:
    """CMake straight into the source tree: a machine without a network has no pip build requirements."""
    link = PACKAGE / "kernels"
    if not link.exists():
        link.symlink_to(Path("../../kernels"))
    folder = ROOT / "build" / "gpu"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    more = {"SPECTRALOPS_REQUIRE_CUDA": "1"} if shutil.which("nvcc") else {}
    if dry and more:
        more["SPECTRALOPS_CUDA_ARCHS"] = "90"
    status, tail = command(
        ["cmake", "-S", ROOT, "-B", folder, *generator, f"-DPython_EXECUTABLE={sys.executable}"], out / "configure.txt", 120, **more
    )
    if status == 0:
        status, tail = command(["cmake", "--build", folder], out / "build.txt", LIMITS["build"], **more)
    if status == 0:
        install = ["cmake", "--install", folder, "--component", "python", "--prefix", PACKAGE]
        status, tail = command(install, out / "install.txt", 60)
    if status == 0:
        status, tail = command(
            [sys.executable, "-c", "from spectralops._loader import core_status; print(core_status())"], out / "core.txt", 60
        )
    return {"ok": status == 0, "text": tail}


def tests(out: Path, dry: bool) -> dict:
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests", "-p", "no:cacheprovider"]
    if dry:
        status, tail = command([*pytest, "--collect-only", "-q"], out / "collected.txt", LIMITS["tests"])
        compiled, text = command(
            [sys.executable, "-m", "pytest", "-q", *COMPILED, "-k", "90", "-p", "no:cacheprovider"],
            out / "compiled.txt",
            600,
        )
        return {"ok": status == 0 and compiled == 0, "text": f"{tail.splitlines()[-1]}\nTriton, sm_90: {text.splitlines()[-1]}"}
    status, tail = command([*pytest, "-rs", "--durations=5"], out / "tests.txt", LIMITS["tests"])
    skipped = sorted(set(re.findall(r"SKIPPED.*?: (.*)", (out / "tests.txt").read_text(errors="replace"))))
    return {"ok": status == 0, "text": tail, "skipped": skipped}


SMALL = """
import torch, spectralops as so
for backend in ("cuda",):
    for dtype in (torch.float32, torch.float16):
        for groups, dim in ((1, 33), (8, 96)):
            x = torch.randn(65, dim, device="cuda", dtype=dtype, requires_grad=True)
            a, b = torch.randn(1, 6, device="cuda", requires_grad=True), torch.randn(groups, 4, device="cuda", requires_grad=True)
            g = torch.autograd.grad(so.rational(x, a, b, backend=backend), (x, a, b), torch.ones_like(x), create_graph=True)
            torch.autograd.grad(sum(t.float().sum() for t in g), (x, a, b))
        for n in (2, 32, 512, 4096, 12 * 64, 1 << 16):
            so.hadamard_transform(torch.randn(5, n, device="cuda", dtype=dtype), backend=backend)
        so.hadamard_transform(torch.randn(2, 64, 7, device="cuda", dtype=dtype), dim=1, backend=backend)
        for format in ("int8", "fp8_e4m3", "mxfp4", "nvfp4"):
            so.hadamard_quantize(torch.randn(3, 256, device="cuda", dtype=dtype), format=format, backend=backend)
        for length in (5, 300, 5000):
            u, w = (torch.randn(2, 3, length, device="cuda", dtype=dtype, requires_grad=True) for _ in range(2))
            k = torch.randn(3, length, device="cuda", requires_grad=True)
            y = so.fft_conv(u, k, gate_in=w, gate_out=w, activation="gelu", backend=backend)
            torch.autograd.grad(y, (u, w, k), torch.ones_like(y))
torch.cuda.synchronize()
"""


def sanitize(out: Path, dry: bool) -> dict:
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if dry or tool is None:
        return {"ok": True, "text": "not run: " + ("dry" if dry else "no compute-sanitizer here")}
    texts, ok = [], True
    for check in ("memcheck", "racecheck"):
        log = out / f"{check}.txt"
        status, tail = command([tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-c", SMALL], log, LIMITS["sanitize"])
        unable = status not in (0, 9)  # the tool itself did not work, or ran out of time: reported, not counted as a finding
        ok &= status != 9
        texts.append(f"{check}: " + (f"could not run (status {status}): {tail[-200:]}" if unable else tail.splitlines()[-1]))
    return {"ok": ok, "text": "\n".join(texts)}


CEILINGS = """
import json, torch
from spectralops.profile.timing import interleaved, median
d = torch.device("cuda")
x = torch.randn(1 << 28, device=d); y = torch.empty_like(x)
a = torch.randn(8192, 8192, device=d, dtype=torch.bfloat16)
t = interleaved({"copy": lambda: y.copy_(x), "matmul": lambda: a @ a}, d, seconds=3, rounds=(20, 60))
t = {k: median(v) for k, v in t.items()}
print(json.dumps({"copy_bytes_per_second": 2 * x.numel() * 4 / t["copy"], "bf16_flops_per_second": 2 * 8192**3 / t["matmul"]}))
"""


def ceilings(out: Path, dry: bool) -> dict:
    if dry:
        return {"ok": True, "text": "not run: dry"}
    status, tail = command([sys.executable, "-c", CEILINGS], out / "ceilings.json", 60)
    return {"ok": status == 0, "text": tail}


def profile(out: Path, dry: bool) -> dict:
    from_tree = [sys.executable, "-m", "spectralops", "profile"]
    if dry:
        probe = "from spectralops.profile.cases import find; print(*(c.name for c in find(None, 'cuda')), sep='\\n')"
        status, tail = command([sys.executable, "-c", probe], out / "cases.txt", 60)
        return {"ok": status == 0, "text": f"{len((out / 'cases.txt').read_text().splitlines())} cases, not timed: dry"}
    arguments = ["--device", "cuda", "--seconds", "0.4", "--out", out]
    status, tail = command([*from_tree, *arguments], out / "profile.log", LIMITS["profile"])
    text = (out / "profile.txt").read_text() if (out / "profile.txt").exists() else tail
    return {"ok": status == 0, "text": text}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--skip", nargs="*", choices=STEPS, default=())
    parser.add_argument("--dry", action="store_true", help="no GPU: build, compile, collect; time nothing")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    record = out / "gpu.json"
    results = json.loads(record.read_text()) if record.exists() else {}
    for name in STEPS:
        if name not in options.only or name in options.skip:
            continue
        start = time.monotonic()
        print(f"== {name}", flush=True)
        results[name] = {**globals()[name](out, options.dry), "seconds": round(time.monotonic() - start, 1), "dry": options.dry}
        print(results[name].get("text", ""), flush=True)
        print(f"== {name}: {'ok' if results[name]['ok'] else 'FAILED'} in {results[name]['seconds']} s", flush=True)
        record.write_text(json.dumps(results, indent=1))
        if name == "build" and not results[name]["ok"]:
            break
    red = [name for name, r in results.items() if not r["ok"]]
    print("all green" if not red else f"red: {', '.join(red)}")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
