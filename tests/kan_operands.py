"""What the Triton kernels of kan_linear are held to where tensor cores round their operands.

A product on tensor cores takes both operands, basis values (times the multiplier) or a gradient and the coefficients, in a
format that is part of what was asked for, as the format of the result is: the sums behind it are float32.  So the formula
whose error against float64 a kernel may reach twice has its operands rounded alike, and nothing else:

    data              operands                                        significand
    bfloat16          bfloat16, to nearest                            8 bits
    float16           float16, to nearest                             11 bits
                      tf32 where float16 has no room, cut off         11 bits
    float32, "high"   tf32, cut off: the hardware drops the low bits  11 bits
    float32           the sum of two tf32, each to nearest            22 bits; the product left out is below 2^-22 too
    float64           as they are

Exponents are not limited: that coefficients and bases leave no format's range is the kernels' affair.
"""

import contextlib

import pytest
import torch

from spectralops import backends
from spectralops.kernels import kan_plan, kan_sparse
from spectralops.ops import kan_reference as spec

SIGNIFICAND = {torch.bfloat16: 8, torch.float16: 11}


def significand(t, bits, nearest=True):
    """t with a significand of so many bits, to nearest with ties to even, or cut off."""
    mantissa, exponent = torch.frexp(t)  # 1/2 <= |mantissa| < 1
    whole = mantissa * 2.0**bits
    return torch.ldexp(whole.round() if nearest else whole.trunc(), exponent - bits)


def rounding(x, operand, precision):
    """What becomes of an operand of type `operand` where the data has x's."""
    if operand == torch.float64:
        return lambda t: t
    bits, nearest = SIGNIFICAND.get(operand, 22), True
    if operand == torch.float32 and (x.dtype != torch.float32 or precision == "high"):
        bits, nearest = 11, False
    return lambda t: None if t is None else significand(t.float(), bits, nearest)


def forward(x, u, c, w, bias, code, base, m, precision):
    if kan_sparse.chosen(code, c.shape[0]):  # float32's own multiply-adds
        return spec.forward(x, u, c, w, bias, code, base, m)
    cut = rounding(x, kan_plan.operand_type(x, u, code, m), precision)
    basis, s = map(cut, spec._features(x, u, code, base, m))
    y = basis.flatten(1) @ cut(c).flatten(1).T
    y = y if s is None else y + s @ cut(w).T
    return (y if bias is None else y + bias).to(x.dtype)


def dx(g, x, u, c, w, code, base, m, precision):
    if kan_sparse.chosen(code, c.shape[0]):
        return spec.dx(g, x, u, c, w, code, base, m)
    cut = rounding(x, x.dtype, precision)
    return spec.dx(cut(g), x, u, cut(c), cut(w), code, base, m)


def dcoeff(g, x, u, code, base, m, precision):
    basis, s = spec._features(x, u, code, base, m)
    cut = rounding(x, kan_plan.operand_type(x, u, code, m), precision)
    dc = (cut(g).T @ cut(basis).flatten(1)).view(g.shape[1], *basis.shape[1:])
    if s is None:
        return dc, None
    cut = rounding(x, kan_plan.operand_type(x, u, code._replace(family=kan_plan.ACTIVATION), m), precision)
    return dc, cut(g).T @ cut(s)


@contextlib.contextmanager
def in_place_of_the_kernels():
    """so.kan_linear(backend="triton") runs the functions above, its derivatives too."""
    functions = {"kan_forward": forward, "kan_dx": dx, "kan_dcoeff": dcoeff}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "select", lambda name, backend, *args: functions[name])
        yield
