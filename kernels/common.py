"""What every Triton file here shares: loads that widen, stores that round once, sign, launching
and recording.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

# Triton's interpreter cuts a float to bfloat16 instead of rounding it; there, and only there,
# `narrow` rounds by hand.
INTERPRETED = bool(triton.knobs.runtime.interpret)
AMD = torch.version.hip is not None
_ROUND_BF16 = tl.constexpr(INTERPRETED)

COMPUTE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.int32: torch.int32,
    torch.int64: torch.int64,
}


# ---- inside kernels ------------------------------------------------------------------------------


@triton.jit
def widen(x):
    """16-bit floats to float; everything else as it is."""
    if x.dtype.primitive_bitwidth == 16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """Round once to the stored type, to nearest with ties to even."""
    if dtype == tl.bfloat16 and _ROUND_BF16:
        bits = x.to(tl.int32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        return tl.where(x == x, up, bits | 0x400000).to(tl.float32, bitcast=True).to(dtype)
    else:
        return x.to(dtype)


@triton.jit
def load(pointer, mask):
    """Load and widen; masked lanes are zero."""
    return widen(tl.load(pointer, mask=mask, other=0))


@triton.jit
def store(pointer, value, mask):
    """The one rounding."""
    tl.store(pointer, narrow(value, pointer.dtype.element_ty), mask=mask)


@triton.jit
def sign(x, AT_ZERO: tl.constexpr):
    """+1, -1, and AT_ZERO where x is neither positive nor negative."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, AT_ZERO + 0.0)).to(x.dtype)


# ---- launching -----------------------------------------------------------------------------------


class Launch(NamedTuple):
    """One launch as the host functions ask for it: enough to run it, or to compile it for a GPU
    that is not there.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


_recorder: list[Launch] | None = None


@contextlib.contextmanager
def record():
    """Collect the launches made inside instead of running them.  Outputs stay uninitialised, so
    any device will do, "meta" too.
    """
    global _recorder
    outer, _recorder = _recorder, []
    try:
        yield _recorder
    finally:
        _recorder = outer


def launch(
    like: torch.Tensor, kernel, grid: tuple[int, ...], *, warps: int, fuse: bool = False, stages: int | None = None,
    registers: int | None = None, **arguments,
):  # fmt: skip
    """Run `kernel` on the device of `like`.  `fuse` lets the compiler contract a*b+c; it is
    always stated, never left to the default.  `stages` is how deep loops that feed a product prefetch;
    `registers` lets NVIDIA's assembler take so many a thread before it spills, where it would trade them for
    occupancy.
    """
    options = {"num_warps": warps, "enable_fp_fusion": fuse}
    if stages is not None:
        options["num_stages"] = stages
    if registers is not None and not AMD:
        options["maxnreg"] = registers
    if _recorder is not None:
        _recorder.append(Launch(kernel, grid, arguments, options))
        return
    guard = torch.cuda.device(like.device) if like.is_cuda else contextlib.nullcontext()
    with guard:
        kernel[grid](**arguments, **options)


def runnable(x: torch.Tensor) -> tuple[bool, str]:
    """Whether Triton can run on the device of `x` at all."""
    if x.is_cuda or INTERPRETED or _recorder is not None:
        return True, ""
    return False, f"triton runs on GPU tensors (or under TRITON_INTERPRET=1), got one on {x.device}"


# ---- compiling for a GPU that is not there -------------------------------------------------------

_POINTER = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compile_ahead(planned: Launch, target):
    """Compile a recorded launch for `target` (a triton GPUTarget) with the specialisation the
    launch itself would get.
    """
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(planned.kernel.params):
        name, value = parameter.name, planned.arguments[parameter.name]
        if parameter.is_constexpr or value is None or _specialised_int(parameter, value) and value == 1:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = _POINTER[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if _specialised_int(parameter, value) and value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(planned.kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=planned.options)


def _specialised_int(parameter, value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and not parameter.do_not_specialize


# ---- numbers on the host -------------------------------------------------------------------------


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def double_bits(value: float) -> int:
    """A double as an int64: Triton would pass a Python float as a 32-bit one."""
    return struct.unpack("<q", struct.pack("<d", float(value)))[0]
