"""What the KAN kernels share: products on tensor cores, and on the host the layout of the coefficients, the
arguments that describe a basis, and tiles from the table.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
import triton
import triton.language as tl

from . import common, configs
from .common import COMPUTE, INTERPRETED, cdiv, double_bits, narrow, runnable

UNIFORM, SPLINE, RADIAL, POLYNOMIAL, FOURIER, RELU_POWER, ACTIVATION = range(7)
MORLET = 4
ONE_TURN = Fraction("0.159154943091895335768883763372514362034459645740456448747667344058896797634")  # 1 / 2 pi
MAX_DERIVATIVE, MAX_ORDER, MAX_ORDER_DOUBLE = 4, 7, 4
_INTERPRETED = tl.constexpr(INTERPRETED)


# ---- inside kernels ------------------------------------------------------------------------------


@triton.jit
def product(a, b, acc, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a b, both rounded to OPERAND; sums in acc's type."""
    if a.dtype != OPERAND:
        a = narrow(a.to(tl.float32), OPERAND)
    if b.dtype != OPERAND:
        b = narrow(b.to(tl.float32), OPERAND)
    if OPERAND == tl.float64:
        return tl.dot(a, b, acc, out_dtype=tl.float64)
    elif _INTERPRETED and OPERAND.primitive_bitwidth == 16:  # its product of bfloat16 is one of their bits
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION)


# ---- on the host ---------------------------------------------------------------------------------


def supports(x, code, m: int) -> tuple[bool, str]:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False, f"triton's kan takes floating point, got {x.dtype}"
    if m > MAX_DERIVATIVE:
        return False, f"triton's kan takes derivatives of the basis up to order {MAX_DERIVATIVE}, got {m}"
    if not 0 <= code.family < ACTIVATION:
        return False, f"triton's kan has no family {code.family}"
    if code.family in (UNIFORM, SPLINE):
        if code.a > MAX_ORDER:
            return False, f"triton's kan takes splines up to order {MAX_ORDER}, got {code.a}"
        if code.family == SPLINE and x.dtype == torch.float64 and code.a > MAX_ORDER_DOUBLE:  # registers
            return False, f"triton's kan takes float64 splines on given knots up to order {MAX_ORDER_DOUBLE}, got {code.a}"
        if code.c and code.size <= code.a:
            return False, f"a spline of order {code.a} with {code.size} functions has no grid between its edge knots"
    return runnable(x)


def _in_turns(rate: float) -> tuple[float, float]:
    """rate / 2 pi as a sum of two doubles."""
    if not math.isfinite(rate):
        return math.nan, 0.0
    exact = Fraction(rate) * ONE_TURN
    return float(exact), float(exact - Fraction(float(exact)))


def basis_arguments(code, m: int) -> dict:
    """A basis as kernels take it."""
    scalars = [0.0, 0.0, 0.0]
    if code.family == UNIFORM:
        scalars[:2] = code.scalars
    elif code.family == FOURIER:
        scalars = [code.scalars[0], *_in_turns(code.scalars[0])]
    elif code.family == RADIAL and code.a == MORLET:
        scalars[1:] = _in_turns(5.0)
    per_input = code.family == SPLINE and code.table.shape[0] > 1
    return {
        "p_table": code.table,
        "table_stride": code.table.shape[1] if per_input else 0,
        **{f"s{i}": double_bits(s) for i, s in enumerate(scalars)},
        "FAMILY": code.family,
        "K": code.size,
        "A": code.a,
        "B": code.b,
        "C": code.c,
        "M": m,
    }


def bounded(code, m: int) -> bool:
    """Whether |B_k^(m)| is at most about 1 wherever x is, so that it may be rounded to float16."""
    within = {UNIFORM: code.b != 2, SPLINE: code.b != 2, RADIAL: True, FOURIER: True}
    return m == 0 and within.get(code.family, False)


def operand_type(x, u, code, m: int) -> torch.dtype:
    """What a basis value is rounded to before a product.  float16 has no range to spare: a basis that may leave it, or one
    times a multiplier of any size, goes through tf32, whose significand is as long.
    """
    if x.dtype == torch.float16 and not (u is None and bounded(code, m)):
        return torch.float32
    return x.dtype


def input_precision(operand: torch.dtype, x, precision: str) -> str:
    """Of products whose operands are float32: one tf32 product where the data is 16-bit or "high" was asked for, else three,
    or float32's own multiply-adds on AMD.
    """
    if operand != torch.float32 or x.dtype != torch.float32 or precision == "high":
        return "tf32"
    return "ieee" if common.AMD else "tf32x3"


def pack(coeff, base_weight, dtype: torch.dtype, inputs_last: bool):
    """(slots, I, O) or, inputs last, (slots, O, I), in `dtype`, base_weight as the last slot; the last dimension is filled
    with zeros to a multiple of 16, so that every load is aligned.  -> arguments, and for float16 what was divided out, a
    power of two: the largest coefficient is scaled to 2^13 or more, far from float16's subnormals.
    """
    outputs, inputs, size = coeff.shape
    order = (2, 0, 1) if inputs_last else (2, 1, 0)
    scale = None
    if dtype == torch.float16:
        amax = coeff.abs().amax()
        if base_weight is not None:
            amax = torch.maximum(amax, base_weight.abs().amax())
        exponent = torch.where(amax.isfinite(), torch.frexp(amax).exponent, 14).clamp(-100, 100)
        scale = torch.ldexp(amax.new_ones(()), exponent - 14)
        coeff = coeff / scale
        base_weight = None if base_weight is None else base_weight / scale
    last = inputs if inputs_last else outputs
    padded = cdiv(last, 16) * 16
    shape = (size + (base_weight is not None), outputs if inputs_last else inputs, padded)
    packed = torch.empty(shape, dtype=dtype, device=coeff.device)
    packed[:size, :, :last].copy_(coeff.permute(order))
    if base_weight is not None:
        packed[size, :, :last].copy_(base_weight if inputs_last else base_weight.T)
    packed[:, :, last:].zero_()
    return {
        "p_c": packed,
        "p_scale": scale,
        "c_k": shape[1] * padded,
        "c_i": 1 if inputs_last else padded,
        "c_o": padded if inputs_last else 1,
        "c_inputs": padded if inputs_last else inputs,
        "c_outputs": outputs if inputs_last else padded,
    }


def triton_type(dtype: torch.dtype):
    return {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}[dtype]


def stride(t: torch.Tensor | None) -> int:
    """Of a row."""
    return 0 if t is None else t.stride(0) if t.shape[0] > 1 else t.shape[1]


def state_tiles(code, m: int) -> int:
    """About how many tiles of the shape of x a basis keeps alive while it is evaluated."""
    if code.family in (UNIFORM, SPLINE):
        derivatives = min(max(m, int(code.b == 2)), code.a)
        tiles = code.a + 3 + derivatives * (code.a + 1)
        return tiles + (2 * code.a if code.family == SPLINE else 0)
    if code.family == POLYNOMIAL:
        return 6 * m + 7
    return 5 + 2 * m if code.family == FOURIER or code.family == RADIAL and code.a == MORLET else 3 + 2 * m


def tile_of(kernel: str, x, outputs: int, code, m: int, base: int) -> configs.KanTile:
    """The row of the table, with fewer inputs and then fewer rows where the basis would not leave enough registers, and more
    warps where the least tile is far from leaving them.
    """
    kind = "narrow" if outputs <= configs.KAN_NARROW else "wide"
    tile = configs.KAN[kernel, kind, x.element_size()]
    words = COMPUTE[x.dtype].itemsize // 4
    need = max(state_tiles(code, m), 3 + 2 * m if base else 0) * words
    inputs, rows = tile.inputs, tile.rows
    while need * inputs * rows > tile.state * 32 * tile.warps and (inputs > 16 or rows > 16):
        if inputs > 16 and (inputs >= rows or rows <= 32):
            inputs //= 2
        else:
            rows //= 2
    crowded = need * inputs * rows > 2 * tile.state * 32 * tile.warps
    return tile._replace(inputs=inputs, rows=rows, warps=8 if crowded else tile.warps)
