"""Builds the CUDA sources for a CPU, with g++ and the shim of csrc/simt, into build/simt.

    core = simt_core()                     # ctypes: the functions of csrc/capi/spectralops.h;
                                           # device 0 runs the CUDA kernels on the CPU
    path = simt_library([CU_FILE])         # a library of a few kernels of one's own
    done = run_sanitized("address", CODE)  # CODE in a fresh Python under ASan (or "undefined")

Objects are kept by the digest of what they were made from (the source, the headers it included, the
flags), so an edit of one file compiles that file, and builds at the same time do not disturb each
other.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "simt"
SUPPORT = ROOT / "tests" / "simt" / "support.cpp"
SHIM = tuple(CSRC / "simt" / name for name in ("simt.cpp", "block.cpp", "fiber.cpp"))
FIRST, LAST = CSRC / "simt" / "shared_begin.cpp", CSRC / "simt" / "shared_end.cpp"
RECORD, LIMITS = CSRC / "capi" / "record.cpp", CSRC / "cuda" / "limits.cu"
JOBS = min(2, os.cpu_count() or 1)

WARNINGS = ("-Wall", "-Wextra")
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *WARNINGS)
SANITIZERS = {
    None: (),
    "address": ("-fsanitize=address", "-fno-omit-frame-pointer"),
    "undefined": ("-fsanitize=undefined", "-fno-sanitize-recover=all"),
}


def compiler() -> str:
    return os.environ.get("CXX", "g++")


@functools.cache
def _machine_flags() -> tuple[str, ...]:
    """fmaf as one instruction where there is one: the same bits as libm's, without the call."""
    try:
        return ("-mfma",) if " fma " in Path("/proc/cpuinfo").read_text() else ()
    except OSError:
        return ()


@functools.cache
def _compiler_version() -> str:
    command = [compiler(), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def _content(paths: list[str]) -> str:
    """One digest of the files as they are now; empty when one has gone."""
    try:
        return _digest(*(hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in paths))
    except OSError:
        return ""


@contextlib.contextmanager
def _locked(name: str):
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / (name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-6000:]}")


def _compile(source: Path, flags: tuple[str, ...]) -> Path:
    """The object of a source. The manifest lists the files that its last compilation read."""
    name = f"{source.stem}-{_digest(source, flags, _compiler_version())}"
    manifest = BUILD / (name + ".json")
    with _locked(name):
        if manifest.is_file():
            obj = BUILD / f"{name}-{_content(json.loads(manifest.read_text()))}.o"
            if obj.is_file():
                return obj
        temporary, depfile = BUILD / (name + ".o.new"), BUILD / (name + ".d")
        include = [f"-I{CSRC}", f"-I{CSRC / 'include'}", "-MMD", "-MF", str(depfile)]
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        output = ["-c", str(source), "-o", str(temporary)]
        _run([compiler(), *flags, *include, *language, *output])
        files = depfile.read_text().split(":", 1)[1].replace("\\\n", " ").split()
        depfile.unlink()
        obj = BUILD / f"{name}-{_content(files)}.o"
        temporary.replace(obj)
        manifest.write_text(json.dumps(files))
        return obj


def _stubs(objects: list[Path]) -> Path | None:
    """Traps under the names of the CPU kernels: the core made here is for device 0 alone."""
    command = ["nm", "-P", *map(str, objects)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"^(_ZNK?11spectralops3cpu\w+) ([A-Za-z])", listing, flags=re.M)
    defined = {name for name, kind in symbols if kind != "U"}
    missing = sorted({name for name, kind in symbols} - defined)
    if not missing:
        return None
    labels = "".join(f".globl {s}\n.hidden {s}\n{s}:\n" for s in missing)
    text = f'#include "simt/stubs.h"\n.text\n{labels}SIMT_TRAP\n'
    text += '.section .note.GNU-stack,"",%progbits\n'
    source = BUILD / f"stubs-{_digest(text)}.S"
    obj = source.with_suffix(".o")
    with _locked(source.stem):
        if not obj.is_file():
            source.write_text(text)
            _run([compiler(), f"-I{CSRC}", "-c", str(source), "-o", str(obj)])
    return obj


def simt_library(
    sources, sanitize: str | None = None, defines=(), support=(SUPPORT,), stubs: bool = False
) -> Path:
    """A shared library of `sources` (.cu and .cpp) with the shim: launches run on the CPU.

    `support` defines spectralops::fail where `sources` do not contain the real one.
    """
    flags = FLAGS + _machine_flags() + SANITIZERS[sanitize]
    flags += tuple(f"-D{d}" for d in ("SPECTRALOPS_SIMT", *defines))
    sources = [Path(s).resolve() for s in sources]
    kernels = [s for s in dict.fromkeys([*sources, LIMITS]) if s.suffix == ".cu"]
    others = [s for s in dict.fromkeys([*sources, *SHIM, RECORD, *support]) if s.suffix != ".cu"]
    # The kernels' objects stand between the two that mark their static shared memory.
    order = [*others, FIRST, *kernels, LAST]
    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(lambda source: _compile(source, flags), order))
    extra = [_stubs(objects)] if stubs else []
    # The sanitizers' own symbols come with the process that loads the library.
    closed = ["-Wl,--no-undefined"] if sanitize is None else []
    link = [compiler(), "-shared", *SANITIZERS[sanitize], *closed, "-pthread"]
    link += [str(o) for o in [*objects, *extra] if o]
    library = BUILD / f"libsimt-{_digest(*link)}.so"
    with _locked(library.stem):
        if not library.is_file():
            temporary = library.with_suffix(".so.new")
            _run([*link, "-o", str(temporary)])
            temporary.replace(library)
    return library


def record_only_library(sources) -> Path:
    """The sources as a build without nvcc compiles them: launches are recorded and never run."""
    defines = ("-DSPECTRALOPS_SIMT", "-DSPECTRALOPS_RECORD_ONLY")
    sources = [Path(s).resolve() for s in [*sources, LIMITS, RECORD, SUPPORT]]
    objects = [_compile(source, FLAGS + defines) for source in sources]
    link = [compiler(), "-shared", "-Wl,--no-undefined", "-Wl,--gc-sections", *map(str, objects)]
    library = BUILD / f"librecord-{_digest(*link)}.so"
    with _locked(library.stem):
        if not library.is_file():
            _run([*link, "-o", str(library)])
    return library


def simt_core_path(sanitize: str | None = None) -> Path:
    """Every entry point and every CUDA source: a library also good as SPECTRALOPS_LIB_PATH."""
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), *sorted((CSRC / "capi").glob("*.cpp"))]
    info = '{"version": "simt", "cuda": true, "archs": ["90"], "compiler": "g++", "cpu": []}'
    defines = ("SPECTRALOPS_WITH_CUDA=1", f'SPECTRALOPS_BUILD_INFO=R"json({info})json"')
    return simt_library(sources, sanitize, defines, support=(), stubs=True)


_CTYPES = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
}


def _ctype(declaration: str):
    declaration = declaration.replace("const ", "").strip()
    if re.match(r"char\s*\*(?!\*)", declaration):
        return ctypes.c_char_p
    pointer = "*" in declaration or "[" in declaration
    return ctypes.c_void_p if pointer else _CTYPES[declaration.split()[0]]


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Types for what the library has of the header (without them ctypes would cut pointers)."""
    header = (CSRC / "capi" / "spectralops.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    prototype = r"SPECTRALOPS_API\s+([\w\s\*]+?)\s*\b(spectralops_\w+)\(([^;]*?)\);"
    for result, name, arguments in re.findall(prototype, header, flags=re.S):
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype = _ctype(result)
            function.argtypes = [_ctype(a) for a in arguments.split(",") if a.strip() != "void"]
    if hasattr(library, "simt_set_order"):
        library.simt_set_order.argtypes = [ctypes.c_int]
        library.simt_set_limits.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
    return library


@functools.cache
def load(path: Path) -> ctypes.CDLL:
    return declare(ctypes.CDLL(str(path)))


@functools.cache
def simt_core(sanitize: str | None = None) -> ctypes.CDLL:
    return load(simt_core_path(sanitize))


def check(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise RuntimeError(library.spectralops_last_error().decode())


@functools.cache
def has_sanitizer(sanitize: str) -> bool:
    """Whether the compiler came with the sanitizer's runtime: a package of its own on some systems."""
    library = {"address": "libasan.so", "undefined": "libubsan.so"}[sanitize]
    command = [compiler(), f"-print-file-name={library}"]
    return os.path.isabs(subprocess.check_output(command, text=True).strip())


def sanitizer_environment(sanitize: str | None) -> dict[str, str]:
    """What a fresh Python needs to load a library built with a sanitizer."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "python")])
    environment = dict(os.environ, PYTHONPATH=path)
    if sanitize == "address":
        preload = []
        for name in ("libasan.so", "libstdc++.so"):
            command = [compiler(), f"-print-file-name={name}"]
            preload.append(subprocess.check_output(command, text=True).strip())
        # Python's own allocator would hide the ends of its blocks.
        environment.update(LD_PRELOAD=" ".join(preload), PYTHONMALLOC="malloc")
        environment.update(ASAN_OPTIONS="detect_leaks=0")
    if sanitize == "undefined":
        environment.update(UBSAN_OPTIONS="print_stacktrace=1")
    return environment


def run_sanitized(
    sanitize: str | None, code: str, timeout: float = 300
) -> subprocess.CompletedProcess:
    """Runs Python code that may `from simt_build import ...`; build its libraries before."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command,
        env=sanitizer_environment(sanitize),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )
