"""The CPU core for tests: the installed one if it is newer than the sources, else one built with g++.

    library = cpu_core("rational")         # one op's functions of csrc/capi/spectralops.h, typed ("activation": its kin too)
    objects = isa_objects("rational")      # {"avx512": [paths], ...}: what csrc/cpu/*_isa.cpp compile to

Flags are those that csrc/cpu/capability.h asks for. Objects are cached by content under build/simt.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import simt_build
from simt_build import BUILD, CSRC, JOBS

FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra")
ISA_FLAGS = ("-O3", *FLAGS, "-fno-math-errno", "-fno-trapping-math")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *AVX2, "-mprefer-vector-width=512")
ISAS = {"portable": ()}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS.update(avx2=AVX2, avx512=AVX512)
LAUNCHERS = {
    "rational": ["rational"],
    "hadamard": ["hadamard", "hadamard_quantize", "srht"],
    "kan": [],
    "activation": [],
}
PARTS = {"activation": ["activation", "poly_norm", "fan"]}  # ops of one library; else the op alone


def _isa_jobs(op: str):
    for isa, flags in ISAS.items():
        sources = (s for part in PARTS.get(op, [op]) for s in sorted((CSRC / "cpu").glob(f"{part}_*isa.cpp")))
        for source in sources:
            yield isa, source, (*ISA_FLAGS, f"-DSO_CPU_ISA={isa}", *flags)


@functools.cache
def isa_objects(op: str) -> dict[str, list[Path]]:
    jobs = list(_isa_jobs(op))
    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(lambda job: simt_build._compile(job[1], job[2]), jobs))
    made: dict[str, list[Path]] = {}
    for (isa, _, _), obj in zip(jobs, objects, strict=True):
        made.setdefault(isa, []).append(obj)
    return made


def _installed() -> Path | None:
    """The library that SPECTRALOPS_LIB_PATH names, or the package's own if no source is newer than it."""
    if path := os.environ.get("SPECTRALOPS_LIB_PATH"):
        return Path(path)
    spec = importlib.util.find_spec("spectralops")
    sources = [p for d in ("cpu", "capi", "include") for p in (CSRC / d).rglob("*") if p.is_file()]
    newest = max(p.stat().st_mtime for p in sources)
    for folder in spec.submodule_search_locations if spec else ():
        library = Path(folder) / "libspectralops.so"
        if library.is_file() and library.stat().st_mtime > newest:
            return library
    return None


def _build(op: str) -> Path:
    """One op, the CPU runtime and the library's own entries; the GPU launchers only record."""
    names = ["cpu/parallel", "cpu/capability", "capi/status", "capi/library", "capi/record"]
    names += [f"{folder}/{part}" for folder in ("cpu", "capi") for part in PARTS.get(op, [op])]
    plain = [CSRC / (name + ".cpp") for name in names]
    recorded = [CSRC / "cuda" / f"{name}.cu" for name in ("limits", *LAUNCHERS[op])]
    record_only = ("-DSPECTRALOPS_SIMT", "-DSPECTRALOPS_RECORD_ONLY")
    objects = [obj for made in isa_objects(op).values() for obj in made]
    with ThreadPoolExecutor(JOBS) as pool:
        objects += pool.map(lambda source: simt_build._compile(source, ("-O2", *FLAGS)), plain)
        flags = ("-O1", *FLAGS, *record_only)
        objects += pool.map(lambda source: simt_build._compile(source, flags), recorded)
    link = [simt_build.compiler(), "-shared", "-pthread", "-static-libstdc++", "-static-libgcc"]
    link += ["-Wl,--no-undefined", "-Wl,-z,nodelete"]
    link += [f"-Wl,--version-script={CSRC / 'capi' / 'exports.map'}", *map(str, objects)]
    library = BUILD / f"libcore-{simt_build._digest(*link)}.so"
    with simt_build._locked(library.stem):
        if not library.is_file():
            temporary = library.with_suffix(".so.new")
            simt_build._run([*link, "-o", str(temporary)])
            temporary.replace(library)
    return library


@functools.cache
def cpu_core_path(op: str = "rational") -> Path:
    return _installed() or _build(op)


@functools.cache
def cpu_core(op: str = "rational") -> ctypes.CDLL:
    return simt_build.load(cpu_core_path(op))


def capabilities(op: str = "rational") -> list[str]:
    """Instruction sets that this machine can run, best last."""
    core = cpu_core(op)
    able = [isa for isa in ISAS if core.spectralops_set_cpu_capability(isa.encode()) == 0]
    core.spectralops_set_cpu_capability(None)
    return able


def libgomp() -> ctypes.CDLL | None:
    """The OpenMP runtime that torch brought into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libgomp" in line:
            return ctypes.CDLL(line.split()[-1])
    return None
