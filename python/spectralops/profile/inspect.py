"""What the compilers make of each kernel, without a GPU: registers, shared memory, spills, occupancy, and
the bytes and floor of the call.

The launches are the real ones: the C core and the Triton host functions plan them as on the named
architecture but record instead of launching, and then exactly those kernels are compiled.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from ..backends import _core, _fft_conv, _sparse_wht, _spectral
from ..basis import BSpline, Chebyshev
from ..ops import activations_reference
from ..ops.fft_conv_reference import Call
from .. import OPS
from .._loader import CoreMissing, core, include_dir
from ..ops.hadamard_base import hadamard_base
from .spectral_examples import EXAMPLES as SPECTRAL_EXAMPLES

# Compute capability: threads, registers and shared memory of a multiprocessor, shared memory of a block,
# multiprocessors, bytes/s.
ARCHITECTURES = {
    80: (2048, 65536, 164 << 10, 163 << 10, 108, 2.04e12),
    90: (2048, 65536, 228 << 10, 227 << 10, 132, 4.8e12),
    100: (2048, 65536, 228 << 10, 227 << 10, 148, 8.0e12),
    120: (1536, 65536, 100 << 10, 99 << 10, 170, 1.79e12),
}


@dataclass(frozen=True)
class Kernel:
    backend: str
    name: str
    grid: tuple[int, ...]
    threads: int
    registers: int
    shared: int  # static and dynamic, bytes a block
    spilled: int  # bytes of local memory a thread

    def occupancy(self, sm: int) -> float:
        """Resident threads over the multiprocessor's, limited by registers (given out 256 a warp), shared memory and 32 blocks."""
        threads, registers, shared, *_ = ARCHITECTURES[sm]
        warps = -(-self.threads // 32)
        each = -(-self.registers * 32 // 256) * 256 * warps
        blocks = min(threads // (32 * warps), registers // max(each, 1), shared // (self.shared + 1024), 32)
        return blocks * 32 * warps / threads


@dataclass
class Example:
    """A typical call: its operator function, arguments, and fewest bytes."""

    label: str
    function: str
    args: tuple
    bytes: int


def examples(op: str, dtype: torch.dtype) -> list[Example]:
    """Typical calls of an operation, on tensors that are never read."""
    size = dtype.itemsize
    label = str(dtype).removeprefix("torch.")
    if op == "rational":
        rows, dim = 12608, 768
        x, num, den = torch.empty(rows, dim, dtype=dtype), torch.empty(1, 6), torch.empty(8, 4)
        each = rows * dim * size
        ggnum, ggden = torch.empty(8, 6), torch.empty(8, 4)
        shape = f"({rows}, {dim}) {label}"
        return [
            Example(f"forward {shape}", "rational_forward", (x, num, den, 0), 2 * each),
            Example(f"backward {shape}", "rational_backward", (x, x, num, den, 0, 0), 3 * each),
            Example(f"double backward {shape}", "rational_double_backward", (x, ggnum, ggden, x, x, num, den, 0, 0), 5 * each),
        ]
    if op == "hadamard_transform":
        found = []
        for outer, n in [(1 << 16, 128), (1 << 13, 1024), (1 << 11, 4096), (1 << 8, 1 << 15), (8, 1 << 20), (1 << 10, 12 << 10)]:
            x = torch.empty(outer, n, 1, dtype=dtype)
            args = (x, None, None, hadamard_base(n), 1.0, 0, 0)
            found.append(Example(f"({outer}, {n}) {label}", "hadamard", args, 2 * x.numel() * size))
        return found
    rows, dim = 2048, 4096
    x = torch.empty(rows, dim, dtype=dtype)
    if op == "hadamard_quantize":
        return [
            Example(f"{f} ({rows}, {dim}) {label}", op, (x, None, None, 1.0, b, g, f, False), int(rows * dim * (size + w)))
            for f, b, g, w in [("int8", dim, dim, 1), ("fp8_e4m3", 128, 128, 1.03), ("mxfp4", dim, 32, 0.53), ("nvfp4", dim, 16, 0.56)]
        ]
    if op == "srht":
        picked = torch.zeros(256, dtype=torch.int64)
        return [Example(f"({rows}, {dim}) -> 256 {label}", op, (x, torch.empty(1, dim), picked, None, 1.0), rows * (dim + 256) * size)]
    if op == "kan_linear":
        return _kan_examples(dtype, label)
    if op == "fft_conv":
        return _fft_conv_examples(dtype, label)
    if op in SPECTRAL_EXAMPLES:
        return [Example(*example) for example in SPECTRAL_EXAMPLES[op](dtype, label)]
    if op in _PARAMETERS or op in ("poly_norm", "fan", "fourier_features", "wavelet_linear"):
        return _activation_examples(op, dtype, label)
    if op in WITHOUT_KERNELS:
        raise ValueError(f"{op} {WITHOUT_KERNELS[op]}")
    raise ValueError(f"op must be one of {', '.join(OPS)}; got {op!r}")


_PLAIN = "is plain PyTorch on a GPU: there is no kernel to inspect"
WITHOUT_KERNELS = {  # operators that have none of their own there
    "fft_conv2d": "runs the kernels of fft_conv: inspect that",
    "spectral_gate1d": "runs the kernels of spectral_filter and spectral_conv: inspect those",
    **dict.fromkeys(("mittag_leffler", "dct", "idct", "dct_resample", "haar", "ihaar", "wavelet_gate", "istft_head", "imdct_head",
                     "fourier_linear", "circulant_linear", "waveft_linear"), _PLAIN),
}  # fmt: skip
# The elementwise activations: parameters of each.
_PARAMETERS = {"snake": 1, "sine": 1, "spder": 0, "cauchy": 3, "poly_relu": 4, "square_wave": 1, "wire": 2}


def _activation_examples(op: str, dtype: torch.dtype, label: str) -> list[Example]:
    """Forward and backward; every element is read once and every result written once."""
    rows, dim = 8192, 4096
    x, many = torch.empty(rows, dim, dtype=dtype), f"({rows}, {dim}) {label}"
    if op in _PARAMETERS:
        function, pair = getattr(activations_reference, op.upper()), 2 if op == "wire" else 1
        z, p = torch.empty(rows, dim, 1, dtype=dtype), torch.empty(_PARAMETERS[op], dim)
        grad = torch.empty(rows, dim, 1, 2, dtype=dtype) if pair == 2 else z
        forward, backward = (z, p, function), (grad, z, p, function, True)
        name, moved = "activation", ((1 + pair) * x.nbytes, (2 + pair) * x.nbytes)
    elif op == "poly_norm":
        w, b = torch.empty(3), torch.empty(1)
        name, forward, backward, moved = op, (x, w, b, 1e-6), (x, x, w, 1e-6), (2 * x.nbytes, 3 * x.nbytes)
    elif op == "wavelet_linear":
        x, y, w = torch.empty(8192, 256, dtype=dtype), torch.empty(8192, 256, dtype=dtype), torch.empty(256, 256)
        many = f"mexican hat (8192, 256) -> 256 {label}, bound by arithmetic"
        name, forward, backward = "wavelet", (x, w, w, w, 0), (y, x, w, w, w, 0)
        moved = 2 * x.nbytes + 3 * w.nbytes, 3 * x.nbytes + 6 * w.nbytes
    else:
        e = x if op == "fan" else torch.empty(rows, 0, dtype=dtype)
        grad = torch.empty(rows, 2 * dim + e.shape[1], dtype=dtype)
        name, forward, backward = "fan", (x, e), (grad, x, e)
        moved = x.nbytes + e.nbytes + grad.nbytes, 2 * (x.nbytes + e.nbytes) + grad.nbytes
    calls = (("forward", forward, moved[0]), ("backward", backward, moved[1]))
    return [Example(f"{op} {what} {many}", f"{name}_{what}", args, size) for what, args, size in calls]


def _kan_examples(dtype: torch.dtype, label: str) -> list[Example]:
    found, rows, inputs, outputs = [], 8192, 1024, 1024
    x, grad = torch.empty(rows, inputs, dtype=dtype), torch.empty(rows, outputs, dtype=dtype)
    for name, basis in (("B-spline 5/3", BSpline(5, 3)), ("Chebyshev 7", Chebyshev(7)), ("B-spline 100/3", BSpline(100, 3))):
        code, c, w = basis.code(dtype, "cpu"), torch.empty(outputs, inputs, basis.size), torch.empty(outputs, inputs)
        data, weights = x.nbytes + grad.nbytes, c.nbytes + w.nbytes
        where = f"{name} ({rows}, {inputs}) -> {outputs} {label}"
        rest = (code, 1, 0, "highest")
        found += [
            Example(f"forward {where}", "kan_forward", (x, None, c, w, None, *rest), data + weights),
            Example(f"dx {where}", "kan_dx", (grad, x, None, c, w, code, 1, 1, "highest"), data + weights + x.nbytes),
            Example(f"dcoeff {where}", "kan_dcoeff", (grad, x, None, *rest), data + weights),
        ]
    return found


def _fft_conv_examples(dtype: torch.dtype, label: str) -> list[Example]:
    """Gated causal rows with a skip: four tensors' bytes forward, seven backward."""
    found = []
    for rows, channels, length in ((16, 768, 1024), (8, 768, 4096), (4, 256, 16384)):
        u, k, skip = torch.empty(rows, channels, length, dtype=dtype), torch.empty(1, 1, channels, length), torch.empty(1, channels)
        y, call = u[:, None], Call(0, 0, "identity", "highest", False, length)
        where = f"gated ({rows}, {channels}, {length}) {label}"
        shared = (k, skip, u, y, None, None)
        needs = (True, True, True, True, True, False)
        found += [
            Example(f"forward {where}", "fft_conv", (u, *shared, call), 4 * u.nbytes + k.nbytes),
            Example(f"backward {where}", "fft_conv_backward", (y, u, *shared, tuple(k.shape), call, needs), 7 * u.nbytes + 2 * k.nbytes),
        ]
    return found


# ---- CUDA ------------------------------------------------------------------------------------------------------------


# The core's functions that have CPU kernels alone.
_CPU_ONLY = tuple(f"{f}_{w}" for f in ("kan", "wavelet", "activation", "poly_norm", "fan") for w in ("forward", "dx", "dcoeff", "backward")) + (
    "mode_dft", "mode_idft", "mode_mix", "mode_mix_gradient", "fourier_mix", "spectral_mlp_core")


_GLUE = {"fft_conv": _fft_conv, "spectral": _spectral, "mode": _spectral, "sparse": _sparse_wht, "walsh": _sparse_wht}


def record_cuda(example: Example, sm: int) -> list[tuple]:
    """(name, grid, block, dynamic shared bytes, params) of every launch of the C core's CUDA path for this call."""
    if example.function in _CPU_ONLY:
        raise RuntimeError("no CUDA kernel")
    library = core()
    library.record_begin(sm, ARCHITECTURES[sm][4], ARCHITECTURES[sm][3])
    try:
        glue = next((g for name, g in _GLUE.items() if example.function.startswith(name)), _core)
        getattr(glue, example.function)(lambda x: (0, 1, 0), *example.args)
    finally:
        count = library.record_end()
    return [library.record_get(i) for i in range(count)]


def _header(name: str) -> str:
    kernel = re.sub(r"<.*", "", name).rsplit("::", 1)[-1]
    for path in sorted((include_dir() / "spectralops").glob("*.h")):
        if re.search(rf"SO_KERNEL\([^;{{]*\bvoid\s+{kernel}\b|SO_KERNEL\([^)]*\)[^;{{(]*\b{kernel}\s*\(", path.read_text()):
            return f"spectralops/{path.name}"
    raise RuntimeError(f"no header defines the kernel {kernel}")


def compile_cuda(names: list[str], sm: int) -> dict[str, tuple[int, int, int]]:
    """name -> (registers, static shared bytes, spilled bytes), by nvcc."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin"))
    if nvcc is None:
        raise RuntimeError("nvcc is not on the PATH; without it the CUDA kernels cannot be compiled for inspection")
    includes = "\n".join(f'#include "{h}"' for h in sorted({_header(n) for n in names}))
    table = ",\n".join(f"  (const void*)&{n}" for n in names)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "inspect.cu"
        source.write_text(f"{includes}\nextern const void* const table[] = {{\n{table}\n}};\n")
        command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{sm}", "-Xptxas", "-v", "-I", str(include_dir()), "-c", str(source)]
        done = subprocess.run([*command, "-o", os.path.join(folder, "o.o")], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc failed:\n{done.stderr[-2000:]}")
    demangle = subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True)
    found, current, spilled = {}, None, 0
    for line in (demangle.stdout if demangle.returncode == 0 else done.stderr).splitlines():
        if m := re.search(r"Compiling entry function '(?:void )?(.+?)(?:\([^()]*\))?' for", line):
            current, spilled = m[1], 0
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = max(int(m[1]), int(m[2]), int(m[3]))
        elif (m := re.search(r"Used (\d+) registers", line)) and current:
            static = re.search(r"(\d+) bytes smem", line)
            found[_plain(current)] = (int(m[1]), int(static[1]) if static else 0, spilled)
    return {n: found[_plain(n)] for n in names}


def _plain(name: str) -> str:
    """Spelling aside: no spaces, casts or integer suffixes in template arguments."""
    return re.sub(r"\(\w+\)|\s+", "", name).replace("true", "1").replace("false", "0")


def cuda_kernels(example: Example, sm: int) -> list[Kernel]:
    launches = record_cuda(example, sm)
    facts = compile_cuda(sorted({name for name, *_ in launches}), sm)
    return [
        Kernel("cuda", name.replace("spectralops::", ""), tuple(grid), block[0], facts[name][0], facts[name][1] + dynamic, facts[name][2])
        for name, grid, block, dynamic, _ in launches
    ]


# ---- Triton ----------------------------------------------------------------------------------------------------------


def triton_kernels(example: Example, sm: int) -> list[Kernel]:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget

    from ..backends.triton import _MODULES, _coded

    common = importlib.import_module("spectralops.kernels.common")
    function = getattr(importlib.import_module(f"spectralops.kernels.{_MODULES[example.function]}"), example.function)
    with common.record() as launches:
        function(*_coded(example.function, example.args))
    found = []
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for planned in launches:
        compiled = common.compile_ahead(planned, GPUTarget("cuda", sm, 32))
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.search(rf"{k}:(\d+)", usage)[1]) for k in ("REG", "STACK"))
        name = planned.kernel.fn.__name__
        threads = 32 * compiled.metadata.num_warps
        found.append(Kernel("triton", name, tuple(planned.grid), threads, registers, compiled.metadata.shared, stack))
    return found


# ---- the report ------------------------------------------------------------------------------------------------------


def inspect(op: str, *, sm: int = 90, dtype: torch.dtype = torch.float32) -> str:
    """A table of the kernels of an operation's typical calls; without a GPU."""
    if sm not in ARCHITECTURES:
        raise ValueError(f"sm must be one of {', '.join(map(str, ARCHITECTURES))}; got {sm}")
    bandwidth = ARCHITECTURES[sm][5]
    lines = [f"{op} on sm_{sm}, floor at {bandwidth / 1e12:.2f} TB/s"]
    for example in examples(op, dtype):
        lines += ["", f"{example.label}: {example.bytes / 1e6:.1f} MB, floor {example.bytes / bandwidth * 1e6:.1f} us"]
        lines.append(f"  {'':<8}{'registers':>10}{'shared':>9}{'spilled':>9}{'threads':>9}{'occupancy':>11}  {'grid':<18}kernel")
        for kernels in (cuda_kernels, triton_kernels):
            try:
                rows = kernels(example, sm)
            except (RuntimeError, ImportError, CoreMissing) as error:
                lines.append(f"  {kernels.__name__.split('_')[0]}: {error}")
                continue
            for k, times in Counter(rows).items():  # a loop launches its kernels again and again
                grid, name = "x".join(map(str, k.grid)), k.name + f", {times} times" * (times > 1)
                lines.append(
                    f"  {k.backend:<8}{k.registers:>10}{k.shared:>9}{k.spilled:>9}{k.threads:>9}{k.occupancy(sm):>11.0%}  {grid:<18}{name}"
                )
    return "\n".join(lines)
