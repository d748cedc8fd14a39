"""The Walsh-Hadamard transform, its quantised form and the subsampled form in plain PyTorch.

    y = scale * signs_out * (H (signs_in * x)),      H = H_m (x) H_2 (x) ... (x) H_2,      H_2 = [[1, 1], [1, -1]]

n = m 2^k: the index along n is j 2^k + i with j over the base H_m. k butterfly stages on the bits of i,
lowest first, then one product with the m x m table: n (k + m) additions where the matrix product has n^2.
Orders of an index k of 2^k (natural is the Kronecker order):

    dyadic(k) = bits of k reversed        sequency(k) = dyadic(k xor k >> 1): row k has k sign changes

float32 arithmetic (float64 for float64, the type itself for integers), one rounding at the end.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from .hadamard_base import HadamardBase

ORDERS = ("natural", "dyadic", "sequency")


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


@lru_cache(maxsize=64)
def _permutation(n: int, order: int, inverse: bool, device: torch.device) -> Tensor:
    """natural index of the k-th ordered one, (n,) int64; or the inverse."""
    k = torch.arange(n)
    k = k ^ (k >> 1) if order == 2 else k
    natural = torch.zeros_like(k)
    for bit in range(n.bit_length() - 1):
        natural = (natural << 1) | ((k >> bit) & 1)
    return (natural.argsort() if inverse else natural).to(device)


def _times_signs(h: Tensor, signs: Tensor | None) -> Tensor:
    """h (outer, n, inner) * signs (sign_blocks, n): outer slice o takes row o % sign_blocks."""
    if signs is None:
        return h
    return (h.unflatten(0, (-1, signs.shape[0])) * signs[..., None]).flatten(0, 1)


def _base_product(base: HadamardBase, h: Tensor) -> Tensor:
    """H_m along dimension 1 of h (outer, m, rest)."""
    table = base.dense(h)
    if h.is_floating_point():
        with torch.autocast(h.device.type, enabled=False):  # which would narrow the product
            return torch.matmul(table, h)
    return torch.stack([(h * table[i, None, :, None]).sum(1, dtype=h.dtype) for i in range(base.size)], dim=1)


def rotate(x: Tensor, signs: Tensor | None, base: HadamardBase | None, scale: float) -> Tensor:
    """scale * H (signs * x) of x (outer, n, inner), natural order, left in the compute dtype."""
    outer, n, inner = x.shape
    m = base.size if base else 1
    h = _times_signs(x.to(compute_dtype(x)), signs)
    step = 1
    while step < n // m:
        a, b = h.reshape(outer, n // (2 * step), 2, step * inner).unbind(2)
        h = torch.stack((a + b, a - b), dim=2)
        step *= 2
    if base:
        h = _base_product(base, h.reshape(outer, m, -1))
    h = h.reshape(outer, n, inner)
    return h * (scale if h.is_floating_point() else int(scale)) if scale != 1 else h


def hadamard(x, signs_in, signs_out, base, scale, order_in, order_out):
    n = x.shape[1]
    if order_in:
        x = x[:, _permutation(n, order_in, True, x.device)]
        signs_in = None if signs_in is None else signs_in[:, _permutation(n, order_in, True, x.device)]
    h = rotate(x, signs_in, base, scale)
    if order_out:
        h = h[:, _permutation(n, order_out, False, x.device)]
    return _times_signs(h, signs_out).to(x.dtype).contiguous()


def srht(x, signs, rows, base, scale):
    return rotate(x[..., None], signs, base, scale)[:, rows, 0].to(x.dtype)


# ---- quantisation ------------------------------------------------------------------------------------------------

E2M1_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # between 0, 0.5, 1, 1.5, 2, 3, 4, 6


def _e2m1(v: Tensor) -> Tensor:
    """Codes 0..15 of v in float4 e2m1, to nearest, ties to the even code, saturating at 6."""
    edges = torch.tensor(E2M1_MIDPOINTS, device=v.device)
    below, upto = (torch.bucketize(v.abs(), edges, right=r) for r in (False, True))
    code = torch.where(below % 2 == 0, below, upto)  # on a midpoint the two differ; keep the even one
    return (code | (torch.signbit(v).to(code.dtype) << 3)).to(torch.uint8)


def quantize(r: Tensor, group: int, format: str) -> tuple[Tensor, Tensor]:
    """(q, scales) of r (rows, dim) float32 in groups along dim; the definition is in `hadamard_quantize`'s docstring."""
    rows, dim = r.shape
    v = r.reshape(rows, dim // group, group)
    amax = v.abs().amax(-1, keepdim=True)
    zero, bad = amax == 0, ~torch.isfinite(amax)
    if format in ("int8", "fp8_e4m3"):
        limit = 127.0 if format == "int8" else 448.0
        scale = amax / limit
        scale = torch.where(scale == 0, 1.0, scale)  # a group of zeros, or one so small that the quotient underflows
    elif format == "mxfp4":
        exponent = torch.frexp(torch.where(bad | zero, 1.0, amax)).exponent - 1  # floor(log2 amax)
        scale = torch.where(zero, 2.0**-127, torch.ldexp(torch.ones_like(amax), (exponent - 2).clamp(-127, 127)))
    else:
        scale = (amax / 6).nan_to_num(0).clamp(2.0**-9, 448.0).to(torch.float8_e4m3fn).float()
    scaled = torch.where(bad | zero, 0.0, v / scale)  # not -0
    scale = torch.where(bad, math.nan, scale).squeeze(-1)
    if format == "int8":
        return scaled.round().clamp(-127, 127).to(torch.int8).view(rows, dim), scale
    if format == "fp8_e4m3":
        return scaled.clamp(-448, 448).to(torch.float8_e4m3fn).view(rows, dim), scale
    codes = _e2m1(scaled).view(rows, dim)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    if format == "nvfp4":
        return packed, scale.to(torch.float8_e4m3fn)
    e8m0 = torch.where(torch.isnan(scale), 255, torch.frexp(scale).exponent + 126).to(torch.uint8)
    return packed, e8m0.view(torch.float8_e8m0fnu)


def hadamard_quantize(x, signs, base, scale, block, group, format, round_rotation):
    rows, dim = x.shape
    r = rotate(x.reshape(-1, block, 1), signs, base, scale).view(rows, dim)
    if round_rotation:
        r = r.to(x.dtype)
    return quantize(r.float(), group, format)
