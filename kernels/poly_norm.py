"""PolyNorm in Triton: y = sum_i w_i norm(x^i) + b over rows; the formulas are in spectralops.ops.poly_norm.

A program takes some rows at a time and reads each up to three times: its largest value, for the power of two that scales
it; the sums of its powers; and what is left.  A row no longer than a tile comes from cache the second and third time.
Arithmetic is float under 16-bit data and double under double.  Weight gradients use no atomics: a program sums a range of
rows fixed by the sizes alone, and a second kernel adds the programs' sums in double, in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from .activations import reduce_kernel
from .common import COMPUTE, cdiv, double_bits, launch, load, next_power_of_2, runnable, store


@triton.jit
def reciprocal_scale(p, p_w, o_r, m_r, n, BLOCK_C: tl.constexpr):
    """1 / s, (BLOCK_R, 1), s = 2^floor(log2 max(1, max |x|)), at most 2^126 (2^1022); NaN for a row with NaN or infinity."""
    largest = tl.zeros([o_r.shape[0]], p_w.dtype.element_ty) + 1.0
    infinity = float("inf")
    for c in tl.range(0, n, BLOCK_C):
        o_c = c + tl.arange(0, BLOCK_C)[None, :]
        x = tl.abs(load(p + o_r * n + o_c, m_r & (o_c < n)))
        largest = tl.maximum(largest, tl.max(tl.where(x == x, x, infinity), axis=1))
    if largest.dtype == tl.float64:
        bits = largest.to(tl.int64, bitcast=True) & 0x7FF0000000000000
        r = (0x7FE0000000000000 - tl.minimum(bits, 0x7FD0000000000000)).to(tl.float64, bitcast=True)
    else:
        bits = largest.to(tl.int32, bitcast=True) & 0x7F800000
        r = (0x7F000000 - tl.minimum(bits, 0x7E800000)).to(tl.float32, bitcast=True)
    return tl.where(largest < infinity, r, float("nan"))[:, None]


@triton.jit
def zeros(like, COUNT: tl.constexpr):
    acc = ()
    for _ in tl.static_range(0, COUNT):
        acc = acc + (tl.zeros_like(like),)
    return acc


@triton.jit
def square_sums(acc, z, DEGREE: tl.constexpr):
    """acc_i + sum z^(2 i), i from 1."""
    power, sums = z, ()
    for i in tl.static_range(0, DEGREE):
        sums = sums + (acc[i] + tl.sum(power * power, axis=1)[:, None],)
        power = power * z
    return sums


@triton.jit
def roots(squares, r, n, eps, DEGREE: tl.constexpr):
    """rho_i = (E z^(2 i) + eps s^(-2 i))^(-1/2)."""
    e, found = eps * r * r, ()
    for i in tl.static_range(0, DEGREE):
        found = found + (1.0 / tl.sqrt(squares[i] / n + e),)
        e = e * r * r
    return found


@triton.jit
def number(p_bits):
    """A double that came as its bits."""
    return p_bits.to(tl.int64).to(tl.float64, bitcast=True)


# ---- kernels -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "eps_bits"])
def forward_kernel(
    p_x, p_w, p_b, p_y, rows, n, eps_bits, DEGREE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    m_r = o_r < rows
    r = reciprocal_scale(p_x, p_w, o_r, m_r, n, BLOCK_C)
    eps = number(eps_bits).to(r.dtype)
    squares = zeros(r, DEGREE)
    for c in tl.range(0, n, BLOCK_C):
        o_c = c + tl.arange(0, BLOCK_C)[None, :]
        squares = square_sums(squares, load(p_x + o_r * n + o_c, m_r & (o_c < n)) * r, DEGREE)
    rho = roots(squares, r, n, eps, DEGREE)
    bias = tl.load(p_b)
    for c in tl.range(0, n, BLOCK_C):
        o_c = c + tl.arange(0, BLOCK_C)[None, :]
        m = m_r & (o_c < n)
        z = load(p_x + o_r * n + o_c, m) * r
        power, y = z, tl.zeros_like(z) + bias
        for i in tl.static_range(0, DEGREE):
            y += tl.load(p_w + i) * (power * rho[i])
            power = power * z
        store(p_y + o_r * n + o_c, y, m)


@triton.jit
def write_sums(p, acc, i_p, chunks, COUNT: tl.constexpr):
    """(sum, chunk), as the second stage reads them."""
    for k in tl.static_range(0, COUNT):
        tl.store(p + k * chunks + i_p, tl.sum(tl.sum(acc[k], axis=1), axis=0))


@triton.jit(do_not_specialize=["rows", "eps_bits", "chunks", "steps"])
def backward_kernel(
    p_grad, p_x, p_w, p_dx, p_partial, rows, n, eps_bits, chunks, steps,
    DEGREE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_p = tl.program_id(0)
    acc = zeros(tl.zeros([BLOCK_R, 1], p_partial.dtype.element_ty), DEGREE + 1)
    for step in tl.range(0, steps):
        o_r = (i_p.to(tl.int64) * steps + step) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        m_r = o_r < rows
        r = reciprocal_scale(p_x, p_w, o_r, m_r, n, BLOCK_C)
        eps = number(eps_bits).to(r.dtype)
        squares, products, total = zeros(r, DEGREE), zeros(r, DEGREE), tl.zeros_like(r)
        for c in tl.range(0, n, BLOCK_C):
            o_c = c + tl.arange(0, BLOCK_C)[None, :]
            m = m_r & (o_c < n)
            z, g = load(p_x + o_r * n + o_c, m) * r, load(p_grad + o_r * n + o_c, m)
            squares = square_sums(squares, z, DEGREE)
            total += tl.sum(g, axis=1)[:, None]
            power, sums = g * z, ()
            for i in tl.static_range(0, DEGREE):
                sums = sums + (products[i] + tl.sum(power, axis=1)[:, None],)  # sum g z^(i+1)
                power = power * z
            products = sums
        rho = roots(squares, r, n, eps, DEGREE)
        sums = ()
        for i in tl.static_range(0, DEGREE):
            sums = sums + (acc[i] + tl.where(m_r, products[i] * rho[i], 0.0),)
        acc = sums + (acc[DEGREE] + total,)
        for c in tl.range(0, n, BLOCK_C):
            o_c = c + tl.arange(0, BLOCK_C)[None, :]
            m = m_r & (o_c < n)
            z, g = load(p_x + o_r * n + o_c, m) * r, load(p_grad + o_r * n + o_c, m)
            lower, dx = tl.zeros_like(z) + 1.0, tl.zeros_like(z)
            for i in tl.static_range(0, DEGREE):
                normed = lower * z * rho[i]
                dx += tl.load(p_w + i) * rho[i] * (i + 1) * lower * (g - normed * (products[i] * rho[i] / n))
                lower = lower * z
            store(p_dx + o_r * n + o_c, dx * r, m)
    write_sums(p_partial, acc, i_p, chunks, DEGREE + 1)


@triton.jit
def row_sums(p_ggx, p_grad, p_x, r, o_r, m_r, n, DEGREE: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums over a row of z^(2 i), g ud_i, g z^i and z^i ud_i, ud_i = i z^(i-1) v / s."""
    squares, a, b, c = zeros(r, DEGREE), zeros(r, DEGREE), zeros(r, DEGREE), zeros(r, DEGREE)
    for first in tl.range(0, n, BLOCK_C):
        o = o_r * n + first + tl.arange(0, BLOCK_C)[None, :]
        m = m_r & (first + tl.arange(0, BLOCK_C)[None, :] < n)
        z, g, v = load(p_x + o, m) * r, load(p_grad + o, m), load(p_ggx + o, m) * r
        squares = square_sums(squares, z, DEGREE)
        lower, sa, sb, sc = tl.zeros_like(z) + 1.0, (), (), ()
        for i in tl.static_range(0, DEGREE):
            power, ud = lower * z, lower * v * (i + 1)
            sa = sa + (a[i] + tl.sum(g * ud, axis=1)[:, None],)
            sb = sb + (b[i] + tl.sum(g * power, axis=1)[:, None],)
            sc = sc + (c[i] + tl.sum(power * ud, axis=1)[:, None],)
            lower = power
        a, b, c = sa, sb, sc
    return squares, a, b, c


@triton.jit(do_not_specialize=["rows", "eps_bits", "chunks", "steps"])
def double_backward_kernel(
    p_ggx, p_ggw, p_ggb, p_grad, p_x, p_w, p_dgrad, p_dx, p_partial, rows, n, eps_bits, chunks, steps,
    DEGREE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_p = tl.program_id(0)
    acc = zeros(tl.zeros([BLOCK_R, 1], p_partial.dtype.element_ty), DEGREE)
    for step in tl.range(0, steps):
        o_r = (i_p.to(tl.int64) * steps + step) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        m_r = o_r < rows
        r = reciprocal_scale(p_x, p_w, o_r, m_r, n, BLOCK_C)
        squares, a, b, c = row_sums(p_ggx, p_grad, p_x, r, o_r, m_r, n, DEGREE, BLOCK_C)
        rho = roots(squares, r, n, number(eps_bits).to(r.dtype), DEGREE)
        sums, ma, mb, mc = (), (), (), ()  # A, B, C of the formulas: means
        for i in tl.static_range(0, DEGREE):
            ma, mb, mc = ma + (a[i] / n,), mb + (b[i] * rho[i] / n,), mc + (c[i] * rho[i] / n,)
            sums = sums + (acc[i] + tl.where(m_r, rho[i] * (a[i] - b[i] * rho[i] * mc[i]), 0.0),)
        acc = sums
        for first in tl.range(0, n, BLOCK_C):
            o = o_r * n + first + tl.arange(0, BLOCK_C)[None, :]
            m = m_r & (first + tl.arange(0, BLOCK_C)[None, :] < n)
            z, g, v = load(p_x + o, m) * r, load(p_grad + o, m), load(p_ggx + o, m) * r
            lowest, lower = tl.zeros_like(z), tl.zeros_like(z) + 1.0
            dgrad, dx = tl.zeros_like(z) + tl.load(p_ggb), tl.zeros_like(z)
            for i in tl.static_range(0, DEGREE):
                w, wd = tl.load(p_w + i), tl.load(p_ggw + i)
                normed, ud = lower * z * rho[i], lower * v * (i + 1)
                dgrad += w * (rho[i] * (ud - normed * mc[i])) + wd * normed
                centred = g - normed * mb[i]
                inner = wd * centred - w * rho[i] * (mc[i] * g + mb[i] * ud + (ma[i] - 3.0 * mb[i] * mc[i]) * normed)
                dx += rho[i] * ((i + 1) * lower * inner + ((i + 1) * i) * lowest * v * w * centred)
                lowest = lower
                lower = lower * z
            store(p_dgrad + o, dgrad, m)
            store(p_dx + o, dx * r, m)
    write_sums(p_partial, acc, i_p, chunks, DEGREE)


# ---- host ----------------------------------------------------------------------------------------


def supports_poly_norm(x, weight) -> tuple[bool, str]:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False, f"triton's poly_norm takes floating point, got {x.dtype}"
    if weight.shape[0] > configs.POLY_NORM_MAX_DEGREE:
        return False, f"triton's poly_norm takes degrees up to {configs.POLY_NORM_MAX_DEGREE}, got {weight.shape[0]}"
    return runnable(x)


def _plan(kernel: str, x, weight, eps: float):
    """(sizes, constants, row blocks, warps): tiles as wide as a row, or as wide as a tile."""
    rows, n = x.shape
    tile = configs.POLY_NORM[kernel, x.element_size()]
    block_c = min(max(next_power_of_2(n), 16), tile.elements)
    block_r = max(min(tile.elements // block_c, next_power_of_2(rows)), 1)
    sizes = {"rows": rows, "n": n, "eps_bits": double_bits(eps)}
    return sizes, {"DEGREE": weight.shape[0], "BLOCK_R": block_r, "BLOCK_C": block_c}, cdiv(rows, block_r), tile.warps


def poly_norm_forward(x, weight, bias, eps: float):
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sizes, constants, blocks, warps = _plan("forward", x, weight, eps)
    launch(x, forward_kernel, (blocks,), warps=warps, fuse=True, p_x=x, p_w=weight, p_b=bias, p_y=y, **sizes, **constants)
    return y


def _gradient(kernel, name: str, count: int, pointers: dict, x, weight, eps: float):
    """Run a gradient kernel and its second stage: `count` sums over all rows."""
    sizes, constants, blocks, warps = _plan(name, x, weight, eps)
    steps = cdiv(blocks, configs.POLY_NORM_PROGRAMS)
    chunks = cdiv(blocks, steps)
    partial = torch.empty(count * chunks, dtype=COMPUTE[x.dtype], device=x.device)
    sums = torch.empty(count, dtype=COMPUTE[x.dtype], device=x.device)
    launch(x, kernel, (chunks,), warps=warps, fuse=True, p_x=x, p_w=weight, p_partial=partial, chunks=chunks, steps=steps,
           **pointers, **sizes, **constants)  # fmt: skip
    launch(x, reduce_kernel, (count,), warps=4, p_partial=partial, p_out=sums, count=chunks,
           BLOCK=configs.ACTIVATION_REDUCE_BLOCK)  # fmt: skip
    return sums


def poly_norm_backward(grad, x, weight, eps: float):
    dx, degree = torch.empty(x.shape, dtype=x.dtype, device=x.device), weight.shape[0]
    sums = _gradient(backward_kernel, "backward", degree + 1, {"p_grad": grad, "p_dx": dx}, x, weight, eps)
    return dx, sums[:degree].clone(), sums[degree:].clone()


def poly_norm_double_backward(ggx, ggweight, ggbias, grad, x, weight, eps: float):
    dgrad, dx = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    pointers = {"p_ggx": ggx, "p_ggw": ggweight, "p_ggb": ggbias, "p_grad": grad, "p_dgrad": dgrad, "p_dx": dx}
    return dgrad, dx, _gradient(double_backward_kernel, "double_backward", weight.shape[0], pointers, x, weight, eps)
