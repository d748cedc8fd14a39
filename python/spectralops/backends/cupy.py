"""The CUDA kernels compiled at run time by NVRTC, through CuPy.

For a core without its CUDA part, or not built for this GPU. The core plans: between `record_begin` and `record_end`
its launchers list what they would launch, each kernel by name with its grid and the bytes of its one by-value argument.
NVRTC compiles the same headers for this GPU, and the list runs on torch's current stream.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import _core, _sparse_wht
from ._core import Limits, limits
from .. import envs
from .._loader import CoreMissing, core, core_status, include_dir

OPTIONS = (
    "-std=c++17",
)  # NVRTC's defaults otherwise: IEEE division, no flush to zero, as nvcc compiles them
_DEFAULT_SHARED = _core.DEFAULT_SHARED  # beyond this a kernel must be allowed its shared memory
_lock = threading.Lock()


class Launch(NamedTuple):
    name: str  # the kernel's C++ name, template arguments included
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int  # bytes
    params: bytes


def _where(x: Tensor) -> tuple[int, int, int]:
    return x.device.index, 1, torch.cuda.current_stream(x.device).cuda_stream


@functools.cache
def _able() -> str | None:
    """The reason why this installation cannot, or None."""
    if importlib.util.find_spec("cupy") is None:
        return "cupy is not installed"
    try:
        core()
    except CoreMissing:
        return core_status()
    if not _headers():
        return f"the device headers are missing from {include_dir()}"
    return None


def supports(function: str, *args) -> tuple[bool, str]:
    missing, x = _able(), args[0]
    if missing is None and (x.device.type != "cuda" or torch.version.hip):
        missing = f"takes NVIDIA GPU tensors, this one is on {x.device}"
    if missing is None and function.startswith(("fft_conv", "spectral_filter")):
        missing = f"no kernel for {function}"
    missing = missing or _core.unsupported(function, *args) or _core.unplannable(function, *args)
    return missing is None, missing or "compiled by NVRTC for this GPU at the first call"


class Plan(NamedTuple):
    result: object  # what the call returns, its tensors not written yet
    launches: list[Launch]  # what writes them, in order
    workspaces: list[Tensor]  # what the launches also write; alive until they are enqueued


def plan(function, device_limits: Limits, *args) -> Plan:
    workspaces: list[Tensor] = []
    token = _core.keeping.set(workspaces)
    core().record_begin(*device_limits)
    try:
        result = function(*args)
    finally:
        count = core().record_end()
        _core.keeping.reset(token)
    return Plan(result, [Launch(*core().record_get(i)) for i in range(count)], workspaces)


# ---- compiling -----------------------------------------------------------------------------------------------


@functools.cache
def _headers() -> tuple[str, ...]:
    return tuple(sorted(f"spectralops/{path.name}" for path in (include_dir() / "spectralops").glob("*.h")))


@functools.cache
def source() -> str:
    """Every header, and a digest of their text: a cache that is keyed on the source is then right after an upgrade."""
    digest = hashlib.sha256()
    for name in _headers():
        digest.update((include_dir() / name).read_bytes())
    return f"// {digest.hexdigest()}\n" + "".join(f"#include <{name}>\n" for name in _headers())


def compile_kernels(nvrtc, names: tuple[str, ...], sm: int) -> tuple[bytes, str, list[str]]:
    """(binary, its kind, the mangled names) of some kernels; `nvrtc` has the functions of cupy.cuda.nvrtc.

    A GPU newer than this NVRTC gets PTX of the newest architecture that both know, which the driver translates.
    """
    known = [a for a in nvrtc.getSupportedArchs() if a <= sm]
    if not known:
        raise RuntimeError(f"this NVRTC compiles for nothing as old as compute capability {sm / 10}")
    exact = sm in known
    target = f"-arch={'sm' if exact else 'compute'}_{max(known)}"
    program = nvrtc.createProgram(source(), "spectralops.cu", (), ())
    try:
        for name in names:
            nvrtc.addNameExpression(program, name)
        try:
            nvrtc.compileProgram(program, (*OPTIONS, f"-I{include_dir()}", target))
        except nvrtc.NVRTCError as error:
            text = nvrtc.getProgramLog(program)
            raise RuntimeError(
                f"NVRTC could not compile {', '.join(names)} ({target}): {error}\n{text}"
            ) from error
        binary = nvrtc.getCUBIN(program) if exact else nvrtc.getPTX(program)
        return binary, "cubin" if exact else "ptx", [nvrtc.getLoweredName(program, name) for name in names]
    finally:
        nvrtc.destroyProgram(program)


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing: another process may be writing the same file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def _cache_directory() -> Path:
    directory = Path(envs.cache_dir()) / "nvrtc"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return directory
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="spectralops-"))


def compiled(nvrtc, names: tuple[str, ...], sm: int) -> tuple[Path, list[str]]:
    """The file with some kernels, from the cache where it is there already, and their names in it."""
    key = repr((source(), names, sm, OPTIONS, nvrtc.getVersion()))
    stem = hashlib.sha256(key.encode()).hexdigest()[:32]
    directory = _cache_directory()
    index = directory / f"{stem}.names"  # written last: it vouches for the binary
    if not index.exists():
        binary, kind, mangled = compile_kernels(nvrtc, names, sm)
        _write(directory / f"{stem}.{kind}", binary)
        _write(index, "\n".join([kind, *mangled]).encode())
    kind, *mangled = index.read_text().split("\n")
    return directory / f"{stem}.{kind}", mangled


# ---- launching -----------------------------------------------------------------------------------------------


@functools.cache
def _kernels(names: tuple[str, ...], index: int) -> dict:
    """The kernels of one call, compiled together, ready for one GPU."""
    import cupy

    with _lock, cupy.cuda.Device(index):
        path, mangled = compiled(cupy.cuda.nvrtc, names, limits(index).sm)
        module = cupy.RawModule(path=str(path))
        return {name: module.get_function(symbol) for name, symbol in zip(names, mangled, strict=True)}


class _TorchStream:
    """torch's stream in the protocol of cupy.cuda.Stream.from_external."""

    def __init__(self, pointer: int):
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def _stream(pointer: int):
    import cupy

    if pointer == 0:
        return cupy.cuda.Stream.null
    if hasattr(cupy.cuda.Stream, "from_external"):  # CuPy 14
        return cupy.cuda.Stream.from_external(_TorchStream(pointer))
    return cupy.cuda.ExternalStream(pointer)


def launch_all(launches: list[Launch], index: int, stream: int) -> None:
    import cupy
    import numpy

    if not launches:
        return
    kernels = _kernels(tuple(dict.fromkeys(launch.name for launch in launches)), index)
    with cupy.cuda.Device(index), _stream(stream):
        for launch in launches:
            kernel = kernels[launch.name]
            if launch.shared > _DEFAULT_SHARED:
                kernel.max_dynamic_shared_size_bytes = launch.shared
            # A numpy array among the arguments is passed by value: all its bytes are the kernel's one parameter.
            params = numpy.frombuffer(launch.params, dtype=numpy.dtype((numpy.void, len(launch.params))))
            kernel(
                launch.grid, launch.block, (cupy.cuda.function.CNumpyArray(params),), shared_mem=launch.shared
            )


def _run(function, *args):
    index, _, stream = _where(args[0])
    planned = plan(function, limits(index), _where, *args)
    launch_all(planned.launches, index, stream)
    return planned.result


rational_forward = partial(_run, _core.rational_forward)
rational_backward = partial(_run, _core.rational_backward)
rational_double_backward = partial(_run, _core.rational_double_backward)
hadamard = partial(_run, _core.hadamard)
hadamard_quantize = partial(_run, _core.hadamard_quantize)
srht = partial(_run, _core.srht)
sparse_wht_decode = partial(_run, _sparse_wht.sparse_wht_decode)
walsh_sum = partial(_run, _sparse_wht.walsh_sum)
