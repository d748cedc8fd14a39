"""spectral_filter in Triton: y = F(x, W) + residual on grids of up to 256 points a side; formulas and shapes are those of
ops/spectral_filter_reference.py.

Two-dimensional grids of up to 32 a side: a program holds TC channels of a sample, reads them once, transforms, multiplies by W,
transforms back and writes once (spectral_filter_dft.py).  Bytes, s an element and N elements of x: 2 N s, the fewest; W comes
from memory once, and for each further sample from the L2 cache, 4 (1 + 2 / N3) bytes an element.  A layer norm reads x once more,
for its moments: 3 N s.  Longer sides and grids of one or three dimensions take one launch a dimension and direction
(spectral_filter_passes.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import common, configs
from . import spectral_filter_dft as grids
from . import spectral_filter_passes as passes
from .common import cdiv, launch, load, next_power_of_2, store
from .fft_conv_dft import input_precision, operand
from .spectral_filter_dft import back, bins, filtered, places, transform


@triton.jit(do_not_specialize=["n2", "n3", "points"])
def filter_kernel(
    p_x, p_mean, p_nw, p_nb, p_q, p_r, p_y, p_w, n2, n3, channels, per_group, points, q_s,
    x_b, x_1, x_2, x_3, x_c, r_b, r_1, r_2, r_3, r_c, y_b, y_1, y_2, y_3, y_c,
    CONJ: tl.constexpr, WIDE: tl.constexpr,
    P2: tl.constexpr, P3: tl.constexpr, B: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(channels, TC)
    b, i_c = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    if p_mean is not None:
        p_mean += b * (n2 * n3)
    re, im = transform(p_x + b * x_b, x_2, x_3, x_c, p_mean, points, p_nw, p_nb, p_w, i_c, n2, n3, channels, WIDE,
                       P2, P3, B, TC, PRECISION)  # fmt: skip

    o, _, c_q, m_q = bins(i_c, n2, n3, channels, P2, B, TC)
    groups = channels // per_group
    re, im = filtered(re, im, p_q + b * q_s, o * groups + c_q // per_group, m_q, CONJ)

    re, im = operand(re, PRECISION), operand(im, PRECISION)
    for first in tl.range(0, P2, 16, disable_licm=True):
        y = back(re, im, p_w, first, P2, P3, B, TC, PRECISION)
        i_3, i_2, c, m = places(i_c, first, tl.arange(0, P3)[:, None], n2, n3, channels, TC, WIDE)
        if p_r is not None:
            y += load(p_r + b * r_b + i_3 * r_3 + i_2 * r_2 + c * r_c, m)
        store(p_y + b * y_b + i_3 * y_3 + i_2 * y_2 + c * y_c, y, m)


# ---- host ----------------------------------------------------------------------------------------


def supports_spectral_filter(x, weight, norm_weight, norm_bias, residual, eps, conj) -> tuple[bool, str]:
    return grids.supports(x)


def tile(x: torch.Tensor, kind: str, mode: str) -> tuple[dict, dict]:
    """Arguments every kernel on whole grids takes, and options of the launch."""
    n2, n3, channels = x.shape[2:]
    p2, p3, b = grids.padded(n2, n3)
    row = configs.SPECTRAL_FILTER[p2, p3, b][kind]
    arguments = {"p_w": grids.tables(n2, n3, mode == "tf32", x.device), "n2": n2, "n3": n3, "channels": channels,
                 "points": x.shape[0] * n2 * n3, "P2": p2, "P3": p3, "B": b,
                 "TC": min(row.channels, max(4, next_power_of_2(channels))), "PRECISION": mode}  # fmt: skip
    warps = min(row.warps, 4) if common.AMD else row.warps  # of 64 lanes there, and of 512 registers
    return arguments, {"warps": warps, "stages": 1, "fuse": True}


def spectral_filter(x, weight, norm_weight, norm_bias, residual, eps, conj):
    y, residual = torch.empty_like(x), grids.readable(residual)
    mean = grids.moments(x, eps)
    if eps < 0:
        norm_weight = norm_bias = None
    if not grids.whole(x):
        passes.spectral_filter(y, x, weight, mean, norm_weight, norm_bias, residual, conj)
        return y
    mode = input_precision(x.dtype, "highest")
    arguments, options = tile(x, "one" if mode == "tf32" else "three", mode)
    samples, groups = weight.shape[0], weight.shape[4]
    launch(x, filter_kernel, (x.shape[0] * cdiv(x.shape[4], arguments["TC"]),), **options, **arguments,
           p_x=x, p_mean=mean, p_nw=norm_weight, p_nb=norm_bias, p_q=weight, p_r=residual, p_y=y, per_group=x.shape[4] // groups,
           q_s=weight.stride(0) if samples > 1 else 0, CONJ=conj, WIDE=grids.wide(x, residual, y),
           **grids.strides("x", x), **grids.strides("r", residual), **grids.strides("y", y))  # fmt: skip
    return y
