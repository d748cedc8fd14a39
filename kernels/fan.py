"""The elementwise part of a Fourier-analysis layer in Triton: y = [cos h, sin h, gelu(e)], its backward and double backward.

The formulas are in spectralops.ops.fan.  A program takes a block of the columns of h or of those of e.  Arithmetic is float
under 16-bit data and double under double.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from .common import cdiv, launch, load, next_power_of_2, runnable, store


@triton.jit
def gelu(e):
    """gelu and its first two derivatives, by the normal distribution function and density."""
    cdf = 0.5 * (1.0 + tl.erf(e * 0.7071067811865476))
    pdf = 0.3989422804014327 * tl.exp(-0.5 * e * e)
    return e * cdf, cdf + e * pdf, (2.0 - e * e) * pdf


@triton.jit
def place(rows, p, q, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Whether the block is one of h; its rows (BLOCK_R, 1), columns and width, and mask (BLOCK_R, BLOCK_C)."""
    of_h = tl.cdiv(p, BLOCK_C)
    blocks = of_h + tl.cdiv(q, BLOCK_C)
    i_c = tl.program_id(0) % blocks
    periodic = i_c < of_h
    width = tl.where(periodic, p, q)
    o_r = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    o_c = tl.where(periodic, i_c, i_c - of_h) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    return periodic, o_r, o_c, (o_r < rows) & (o_c < width)


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(p_h, p_e, p_y, rows, p, q, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    periodic, o_r, o_c, m = place(rows, p, q, BLOCK_R, BLOCK_C)
    o_y = o_r * (2 * p + q) + o_c
    if periodic:
        h = load(p_h + o_r * p + o_c, m)
        store(p_y + o_y, tl.cos(h), m)
        store(p_y + o_y + p, tl.sin(h), m)
    else:
        y, _, _ = gelu(load(p_e + o_r * q + o_c, m))
        store(p_y + o_y + 2 * p, y, m)


@triton.jit(do_not_specialize=["rows"])
def backward_kernel(p_grad, p_h, p_e, p_dh, p_de, rows, p, q, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    periodic, o_r, o_c, m = place(rows, p, q, BLOCK_R, BLOCK_C)
    p_g = p_grad + o_r * (2 * p + q) + o_c
    if periodic:
        h = load(p_h + o_r * p + o_c, m)
        store(p_dh + o_r * p + o_c, load(p_g + p, m) * tl.cos(h) - load(p_g, m) * tl.sin(h), m)
    else:
        _, d, _ = gelu(load(p_e + o_r * q + o_c, m))
        store(p_de + o_r * q + o_c, load(p_g + 2 * p, m) * d, m)


@triton.jit(do_not_specialize=["rows"])
def double_backward_kernel(
    p_ggh, p_gge, p_grad, p_h, p_e, p_dgrad, p_dh, p_de, rows, p, q, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    periodic, o_r, o_c, m = place(rows, p, q, BLOCK_R, BLOCK_C)
    o_y = o_r * (2 * p + q) + o_c
    if periodic:
        o = o_r * p + o_c
        h, v = load(p_h + o, m), load(p_ggh + o, m)
        s, c = tl.sin(h), tl.cos(h)
        store(p_dgrad + o_y, -v * s, m)
        store(p_dgrad + o_y + p, v * c, m)
        store(p_dh + o, -v * (load(p_grad + o_y, m) * c + load(p_grad + o_y + p, m) * s), m)
    else:
        o = o_r * q + o_c
        u = load(p_gge + o, m)
        _, d, dd = gelu(load(p_e + o, m))
        store(p_dgrad + o_y + 2 * p, u * d, m)
        store(p_de + o, u * load(p_grad + o_y + 2 * p, m) * dd, m)


# ---- host ----------------------------------------------------------------------------------------


def supports_fan(h) -> tuple[bool, str]:
    if h.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False, f"triton's fan takes floating point, got {h.dtype}"
    return runnable(h)


def _launch(kernel, name: str, h, e, **pointers):
    (rows, p), q = h.shape, e.shape[1]
    tile = configs.FAN[name, h.element_size()]
    block_c = min(max(next_power_of_2(max(p, q)), 16), configs.FAN_COLUMNS)
    block_r = tile.elements // block_c
    grid = (cdiv(rows, block_r) * (cdiv(p, block_c) + cdiv(q, block_c)),)
    launch(h, kernel, grid, warps=tile.warps, fuse=True, p_h=h, p_e=e, rows=rows, p=p, q=q, BLOCK_R=block_r, BLOCK_C=block_c,
           **pointers)  # fmt: skip


def _empty(*like):
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in like)


def fan_forward(h, e):
    y = torch.empty(h.shape[0], 2 * h.shape[1] + e.shape[1], dtype=h.dtype, device=h.device)
    _launch(forward_kernel, "forward", h, e, p_y=y)
    return y


def fan_backward(grad, h, e):
    dh, de = _empty(h, e)
    _launch(backward_kernel, "backward", h, e, p_grad=grad, p_dh=dh, p_de=de)
    return dh, de


def fan_double_backward(ggh, gge, grad, h, e):
    dgrad, dh, de = _empty(grad, h, e)
    _launch(double_backward_kernel, "double_backward", h, e, p_ggh=ggh, p_gge=gge, p_grad=grad, p_dgrad=dgrad, p_dh=dh, p_de=de)
    return dgrad, dh, de
