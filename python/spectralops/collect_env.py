"""What a bug report needs: `python -m spectralops.collect_env`.

Where the package does not import, run this file by its path. Standard library only; every probe may fail on its own
and says how.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not found"
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    text = (done.stdout or done.stderr).strip()
    return text if done.returncode == 0 else f"failed with status {done.returncode}: {text[:200]}"


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return f"{metadata.version(name)} ({name})" if len(distributions) > 1 else metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    flags = set(re.findall(r"\b(?:avx2|avx512f|avx512bw|fma|f16c|asimd)\b", text))
    name = model[1] if model else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} usable cores, {' '.join(sorted(flags))}"


def _torch() -> str:
    import torch

    version = torch.version
    text = f"{torch.__version__}, CUDA {version.cuda}, HIP {version.hip}, {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        text += f"\nGPU {i}: {torch.cuda.get_device_name(i)}, compute capability {major}.{minor}"
    return text


def _import() -> str:
    import spectralops

    return f"{spectralops.__version__} from {Path(spectralops.__file__).parent}"


def _module(name: str) -> types.ModuleType:
    """A module of this package, even where the package itself fails to import: an empty one then stands for it."""
    try:
        return importlib.import_module(f"spectralops.{name}")
    except Exception:
        stand_in = types.ModuleType("spectralops")
        stand_in.__path__ = [str(PACKAGE)]
        saved = {key: sys.modules.pop(key) for key in list(sys.modules) if key.split(".")[0] == "spectralops"}
        sys.modules["spectralops"] = stand_in
        try:
            return importlib.import_module(f"spectralops.{name}")
        finally:
            for key in [key for key in sys.modules if key.split(".")[0] == "spectralops"]:
                del sys.modules[key]
            sys.modules.update(saved)


def _core() -> str:
    return _module("_loader").core_status()


def _build() -> str:
    return _module("_loader").core().build_info()


def _environment() -> str:
    known = _module("envs").VARIABLES
    others = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "TRITON_CACHE_DIR",
    )
    names = [variable.name for variable in known] + list(others)
    unknown = sorted(k for k in os.environ if k.startswith("SPECTRALOPS_") and k not in names)
    lines = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    lines += [f"{name}={os.environ[name]}   (not a variable of spectralops)" for name in unknown]
    return "\n".join(lines) or "none set"


def _mapped() -> str:
    """The runtimes in this process, by file: two OpenMP or two CUDA runtimes explain many a surprise."""
    pattern = (
        r"/[^\s]*/lib(?:spectralops|gomp|omp|iomp5|cudart|nvrtc|cuda|torch_cpu|torch_cuda)\b[^\s]*\.so[^\s]*"
    )
    found = re.findall(pattern, Path("/proc/self/maps").read_text())
    return "\n".join(dict.fromkeys(found)) or "none"


PROBES: dict[str, Callable[[], str]] = {
    "spectralops": _import,
    "core": _core,
    "core build": _build,
    "python": lambda: f"{platform.python_version()} ({sys.executable})",
    "system": lambda: f"{platform.platform()}, {' '.join(platform.libc_ver())}",
    "processor": _processor,
    "torch": _torch,
    "numpy": lambda: _version("numpy"),
    "triton": lambda: _version("triton", "pytorch-triton", "pytorch-triton-rocm"),
    "cupy": lambda: _version("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "g++": lambda: _run("g++", "--version").splitlines()[0],
    "nvcc": lambda: _run("nvcc", "--version").splitlines()[-1],
    "cmake": lambda: _run("cmake", "--version").splitlines()[0],
    "driver": lambda: _run(
        "nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"
    ),
    "environment": _environment,
    "loaded": _mapped,
}


def collect() -> dict[str, str]:
    found = {}
    for name, probe in PROBES.items():
        try:
            found[name] = probe()
        except BaseException as error:  # a broken library may even raise SystemExit
            if isinstance(error, KeyboardInterrupt):
                raise
            found[name] = f"failed: {type(error).__name__}: {error}"
    return found


def main() -> int:
    width = max(map(len, PROBES))
    for name, text in collect().items():
        first, *rest = text.splitlines() or [""]
        print(f"{name:<{width}}  {first}")
        for line in rest:
            print(f"{'':<{width}}  {line}")
    return 0


if __name__ == "__main__":
    # Run by its path, the script's own directory is first on sys.path, where modules of this package would
    # shadow others.
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != PACKAGE]
    sys.exit(main())
