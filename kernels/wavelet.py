"""Wav-KAN's layer in Triton, y_no = sum_i w psi(z), z = (x_ni - t_oi) / s_oi: values, gradients, second derivatives.

Three kernels, each first and (SECOND) second order, recompute psi where they need it; nothing of size N O I is stored.

    kernel        tile              sums over   first                       second
    value_kernel  (rows, outputs)   inputs      y = w psi                   dgrad = hw psi + w psi' v
    dx_kernel     (rows, inputs)    outputs     dx = g w psi' / s           dx = g U / s
    sums_kernel   (outputs, inputs) rows        g psi, g psi' z, g psi'     g psi' v, g U z, g U

    v = (hx - ht - z hs) / s      U = (hw - w hs / s) psi' + w psi'' v

Each kernel reads the matrix it walks by rows: x, grad and the parameters are turned once a call where that is needed.
Arithmetic is float under 16-bit data and double under double.  Parameter gradients use no atomics: a program sums a range of
rows that the sizes alone give, and reduce_kernel adds the ranges in double, in order.
"""

from __future__ import annotations

from fractions import Fraction

import torch
import triton
import triton.language as tl

from . import configs
from .common import COMPUTE, cdiv, launch, load, runnable, store

MEXICAN_HAT, MORLET = tl.constexpr(0), tl.constexpr(1)
AMPLITUDE = tl.constexpr(0.8673250705840776)  # 2 / (sqrt 3 pi^(1/4))


# ---- the mathematics -----------------------------------------------------------------------------


def _half_pi(bits: int) -> list[float]:
    """pi / 2 as two numbers of `bits` bits, so that their products with a small integer are exact, and the rest."""
    rest = Fraction("3.14159265358979323846264338327950288419716939937510") / 2
    parts, unit = [], Fraction(2)
    for _ in range(2):
        unit /= 2**bits
        parts.append(rest // unit * unit)
        rest -= parts[-1]
    return [float(p) for p in (*parts, rest)]


_FLOAT, _DOUBLE = _half_pi(11), _half_pi(38)
FLOAT_0, FLOAT_1, FLOAT_2 = (tl.constexpr(p) for p in _FLOAT)
DOUBLE_0, DOUBLE_1, DOUBLE_2 = (tl.constexpr(p) for p in _DOUBLE)
TWO_OVER_PI = tl.constexpr(0.6366197723675814)


@triton.jit
def sin_cos(a):
    """sin and cos, |a| <= 10^4: a = n pi / 2 + r and Taylor's series; the library's own keep an array in local memory
    for large arguments.
    """
    n = tl.floor(a * TWO_OVER_PI + 0.5)
    if a.dtype == tl.float64:
        r = ((a - n * DOUBLE_0) - n * DOUBLE_1) - n * DOUBLE_2
    else:
        r = ((a - n * FLOAT_0) - n * FLOAT_1) - n * FLOAT_2
    TERMS: tl.constexpr = 10 if a.dtype == tl.float64 else 5
    q = r * r
    s = tl.zeros_like(a) + 1.0
    c = tl.zeros_like(a) + 1.0
    for i in tl.static_range(0, TERMS):
        s = 1.0 - s * q * (1.0 / (2 * (TERMS - i) * (2 * (TERMS - i) + 1)))
        c = 1.0 - c * q * (1.0 / (2 * (TERMS - i) * (2 * (TERMS - i) - 1)))
    s = s * r
    j = n.to(tl.int32)
    u = tl.where(j & 1 == 0, s, c)
    v = tl.where(j & 1 == 0, c, s)
    return tl.where(j & 2 == 0, u, -u), tl.where((j + 1) & 2 == 0, v, -v)


@triton.jit
def jet(z, KIND: tl.constexpr):
    """psi, psi' and psi'', without the amplitude of the mexican hat; what is not used is not computed."""
    q = z * z
    e = tl.exp(q * -0.5)
    if KIND == MORLET:
        a = z * 5.0
        a = tl.where(tl.abs(a) > 10000.0, a - a, a)  # e is zero there; a - a is NaN for an infinite a
        s, c = sin_cos(a)
        return c * e, -(5.0 * s + z * c) * e, ((q - 26.0) * c + 10.0 * z * s) * e
    elif KIND == MEXICAN_HAT:
        return (q - 1.0) * e, z * (3.0 - q) * e, (q * (q - 6.0) + 3.0) * e
    else:
        return -z * e, (q - 1.0) * e, z * (3.0 - q) * e


@triton.jit
def amplify(v, KIND: tl.constexpr):
    if KIND == MEXICAN_HAT:
        return v * AMPLITUDE
    else:
        return v


@triton.jit
def edges(p_w, p_s, p_t, o, m):
    """w, t and 1 / s; masked lanes have s = 1, so that nothing there is NaN."""
    return load(p_w + o, m), load(p_t + o, m), 1.0 / tl.load(p_s + o, mask=m, other=1)


@triton.jit
def directions(p_hw, p_hs, p_ht, o, m):
    return load(p_hw + o, m), load(p_hs + o, m), load(p_ht + o, m)


@triton.jit
def direction(h, z, r, hs, ht):
    """v, the derivative of z in the direction."""
    return (h - ht - z * hs) * r


# ---- kernels -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["inputs"])
def value_kernel(
    p_x, p_h, p_w, p_s, p_t, p_hw, p_hs, p_ht, p_y, rows, inputs, outputs,
    KIND: tl.constexpr, SECOND: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """x, h: (inputs, rows); parameters: (inputs, outputs)."""
    blocks = tl.cdiv(outputs, BLOCK_C)
    o_n = tl.program_id(0) // blocks * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    o_o = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    m_n, m_o = o_n < rows, o_o < outputs
    acc = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
    at_x = tl.zeros([], tl.int64)
    at_w = tl.zeros([], tl.int64)
    for _ in tl.range(0, inputs):
        x = load(p_x + at_x + o_n, m_n)
        w, t, r = edges(p_w, p_s, p_t, at_w + o_o, m_o)
        z = (x - t) * r
        p0, p1, _p2 = jet(z, KIND)
        if SECOND:
            hw, hs, ht = directions(p_hw, p_hs, p_ht, at_w + o_o, m_o)
            v = direction(load(p_h + at_x + o_n, m_n), z, r, hs, ht)
            acc += hw * p0 + w * v * p1
        else:
            acc += w * p0
        at_x += rows
        at_w += outputs
    store(p_y + o_n.to(tl.int64) * outputs + o_o, amplify(acc, KIND), m_n & m_o)


@triton.jit(do_not_specialize=["outputs"])
def dx_kernel(
    p_x, p_h, p_g, p_w, p_s, p_t, p_hw, p_hs, p_ht, p_dx, rows, inputs, outputs, x_stride, h_stride,
    KIND: tl.constexpr, SECOND: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """g: (outputs, rows); x, h: (rows, inputs); parameters: (outputs, inputs)."""
    blocks = tl.cdiv(inputs, BLOCK_C)
    o_n = tl.program_id(0) // blocks * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    o_i = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    m_n, m_i = o_n < rows, o_i < inputs
    x = load(p_x + o_n.to(tl.int64) * x_stride + o_i, m_n & m_i)  # (BLOCK_R, BLOCK_C)
    if SECOND:
        h = load(p_h + o_n.to(tl.int64) * h_stride + o_i, m_n & m_i)
    acc = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
    at_g = tl.zeros([], tl.int64)
    at_w = tl.zeros([], tl.int64)
    for _ in tl.range(0, outputs):
        g = load(p_g + at_g + o_n, m_n)
        w, t, r = edges(p_w, p_s, p_t, at_w + o_i, m_i)
        z = (x - t) * r
        _p0, p1, p2 = jet(z, KIND)
        if SECOND:
            hw, hs, ht = directions(p_hw, p_hs, p_ht, at_w + o_i, m_i)
            v = direction(h, z, r, hs, ht)
            acc += g * ((hw - w * hs * r) * p1 + w * v * p2) * r
        else:
            acc += g * p1 * (w * r)
        at_g += rows
        at_w += inputs
    store(p_dx + o_n.to(tl.int64) * inputs + o_i, amplify(acc, KIND), m_n & m_i)


@triton.jit(do_not_specialize=["rows", "chunk"])
def sums_kernel(
    p_x, p_h, p_g, p_w, p_s, p_t, p_hw, p_hs, p_ht, p_partial,
    rows, inputs, outputs, chunk, x_stride, h_stride, g_stride,
    KIND: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Rows of one chunk into partial (chunks, 3, outputs, inputs); a sum takes STEP rows before it is added to the chunk's."""
    out_blocks, in_blocks = tl.cdiv(outputs, BLOCK_R), tl.cdiv(inputs, BLOCK_C)
    i_chunk = tl.program_id(0) // (out_blocks * in_blocks)
    o_o = tl.program_id(0) // in_blocks % out_blocks * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    o_i = tl.program_id(0) % in_blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    m_o, m_i = o_o < outputs, o_i < inputs
    m = m_o & m_i  # (BLOCK_R, BLOCK_C)
    o = o_o.to(tl.int64) * inputs + o_i
    w, t, r = edges(p_w, p_s, p_t, o, m)
    if SECOND:
        hw, hs, ht = directions(p_hw, p_hs, p_ht, o, m)
    s0 = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
    s1 = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
    s2 = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
    first = i_chunk.to(tl.int64) * chunk
    last = tl.minimum(first + chunk, rows)
    for start in tl.range(first, last, STEP):
        a0 = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
        a1 = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
        a2 = tl.zeros([BLOCK_R, BLOCK_C], p_w.dtype.element_ty)
        for n in tl.range(start, tl.minimum(start + STEP, last)):
            x = load(p_x + n * x_stride + o_i, m_i)
            g = load(p_g + n * g_stride + o_o, m_o)
            z = (x - t) * r
            p0, p1, p2 = jet(z, KIND)
            if SECOND:
                v = direction(load(p_h + n * h_stride + o_i, m_i), z, r, hs, ht)
                a0 += g * p1 * v
                gb = g * ((hw - w * hs * r) * p1 + w * v * p2)
            else:
                a0 += g * p0
                gb = g * p1
            a1 += gb * z
            a2 += gb
        s0 += a0
        s1 += a1
        s2 += a2
    each = outputs.to(tl.int64) * inputs
    p = p_partial + i_chunk * 3 * each + o
    tl.store(p, s0, mask=m)
    tl.store(p + each, s1, mask=m)
    tl.store(p + 2 * each, s2, mask=m)


@triton.jit(do_not_specialize=["each", "chunks"])
def reduce_kernel(
    p_partial, p_w, p_s, p_dw, p_ds, p_dt, each, chunks,
    KIND: tl.constexpr, SECOND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dw = S0;  ds = -(w / s) S1, dt = -(w / s) S2, or for the second order ds = -(S1 + w S0) / s, dt = -S2 / s."""
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = o < each
    s0 = tl.zeros([BLOCK], tl.float64)
    s1 = tl.zeros([BLOCK], tl.float64)
    s2 = tl.zeros([BLOCK], tl.float64)
    at = tl.zeros([], tl.int64)
    for _ in tl.range(0, chunks):
        s0 += tl.load(p_partial + at + o, mask=m, other=0).to(tl.float64)
        s1 += tl.load(p_partial + at + each + o, mask=m, other=0).to(tl.float64)
        s2 += tl.load(p_partial + at + 2 * each + o, mask=m, other=0).to(tl.float64)
        at += 3 * each
    w = tl.load(p_w + o, mask=m, other=0).to(tl.float64)
    factor = -1.0 / tl.load(p_s + o, mask=m, other=1).to(tl.float64)
    s0, s1, s2 = amplify(s0, KIND), amplify(s1, KIND), amplify(s2, KIND)
    if SECOND:
        s1 += w * s0
    else:
        factor = factor * w
    store(p_dw + o, s0.to(p_dw.dtype.element_ty), m)
    store(p_ds + o, (factor * s1).to(p_ds.dtype.element_ty), m)
    store(p_dt + o, (factor * s2).to(p_dt.dtype.element_ty), m)


# ---- host ----------------------------------------------------------------------------------------


def _supports(first, *rest) -> tuple[bool, str]:
    if first.dtype not in COMPUTE or not first.dtype.is_floating_point:
        return False, f"triton's wavelet_linear takes floating point, got {first.dtype}"
    return runnable(first)


supports_wavelet_forward = supports_wavelet_backward = supports_wavelet_double_backward = _supports


def _tile(name: str, x) -> tuple[dict, int]:
    tile = configs.WAVELET[name, COMPUTE[x.dtype].itemsize]
    return {"BLOCK_R": tile.rows, "BLOCK_C": tile.columns}, tile.warps


def _turned(*matrices) -> tuple:
    return tuple(None if t is None else t.t().contiguous() for t in matrices)


def _named(parameters, directions) -> dict:
    names = ("p_w", "p_s", "p_t", "p_hw", "p_hs", "p_ht")
    return dict(zip(names, (*parameters, *directions)))


NONE = (None, None, None)


def _value(x, h, parameters, directions, kind: int):
    rows, inputs = x.shape
    outputs = parameters[0].shape[0]
    y = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    constants, warps = _tile("value", x)
    grid = (cdiv(rows, constants["BLOCK_R"]) * cdiv(outputs, constants["BLOCK_C"]),)
    turned = _named(_turned(*parameters), _turned(*directions))
    x, h = _turned(x, h)
    launch(x, value_kernel, grid, warps=warps, fuse=True, p_x=x, p_h=h, **turned, p_y=y, rows=rows, inputs=inputs,
           outputs=outputs, KIND=kind, SECOND=h is not None, **constants)  # fmt: skip
    return y


def _partition(rows: int, inputs: int, outputs: int, constants: dict) -> tuple[int, int]:
    """(rows of a chunk, chunks): enough programs to fill a GPU, by the sizes alone."""
    steps = cdiv(rows, configs.WAVELET_STEP)
    tiles = cdiv(outputs, constants["BLOCK_R"]) * cdiv(inputs, constants["BLOCK_C"])
    chunk = cdiv(steps, min(steps, cdiv(configs.WAVELET_PROGRAMS, tiles))) * configs.WAVELET_STEP
    return chunk, cdiv(rows, chunk)


def _gradients(grad, x, h, parameters, directions, kind: int):
    """dx, dw, ds, dt of the first order, or with h and directions those of the second."""
    rows, inputs = x.shape
    outputs = grad.shape[1]
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sums = tuple(torch.empty_like(p) for p in parameters)
    common = dict(p_x=x, p_h=h, **_named(parameters, directions), rows=rows, inputs=inputs, outputs=outputs,
                  x_stride=x.stride(0), h_stride=0 if h is None else h.stride(0), KIND=kind, SECOND=h is not None)  # fmt: skip
    constants, warps = _tile("dx", x)
    grid = (cdiv(rows, constants["BLOCK_R"]) * cdiv(inputs, constants["BLOCK_C"]),)
    (turned,) = _turned(grad)
    launch(x, dx_kernel, grid, warps=warps, fuse=True, p_g=turned, p_dx=dx, **common, **constants)

    constants, warps = _tile("sums", x)
    chunk, chunks = _partition(rows, inputs, outputs, constants)
    grid = (cdiv(outputs, constants["BLOCK_R"]) * cdiv(inputs, constants["BLOCK_C"]) * chunks,)
    each = outputs * inputs
    partial = torch.empty(chunks * 3 * each, dtype=COMPUTE[x.dtype], device=x.device)
    launch(x, sums_kernel, grid, warps=warps, fuse=True, p_g=grad, p_partial=partial, chunk=chunk,
           g_stride=grad.stride(0), STEP=configs.WAVELET_STEP, **common, **constants)  # fmt: skip
    w, s, _ = parameters
    launch(x, reduce_kernel, (cdiv(each, configs.WAVELET_REDUCE_BLOCK),), warps=4, fuse=True, p_partial=partial, p_w=w, p_s=s,
           p_dw=sums[0], p_ds=sums[1], p_dt=sums[2], each=each, chunks=chunks, KIND=kind, SECOND=h is not None,
           BLOCK=configs.WAVELET_REDUCE_BLOCK)  # fmt: skip
    return dx, *sums


def wavelet_forward(x, weight, scale, translation, kind: int):
    return _value(x, None, (weight, scale, translation), NONE, kind)


def wavelet_backward(grad, x, weight, scale, translation, kind: int):
    return _gradients(grad, x, None, (weight, scale, translation), NONE, kind)


def wavelet_double_backward(ggx, ggw, ggs, ggt, grad, x, weight, scale, translation, kind: int):
    parameters, directions = (weight, scale, translation), (ggw, ggs, ggt)
    return _value(x, ggx, parameters, directions, kind), *_gradients(grad, x, ggx, parameters, directions, kind)
