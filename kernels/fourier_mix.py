"""fourier_mix in Triton: y = Re FFT2(x) over the last two dimensions of (B, S, H), half of the columns computed.

    Z[s, k] = sum_h x[s, h] exp(-2 pi i h k / H),  k = 0 .. H / 2        rows, real to complex
    y[s, k] = Re sum_t Z[t, k] exp(-2 pi i s t / S) = y[-s, -k]           columns, complex to real, written twice

A transform of N points is one product up to FOURIER_MIX_FACTOR points, 32, and two where N = N1 N2 with factors up to that:
j = j1 N2 + j2, m = m1 + N1 m2:

    X_m = sum_j2 exp(-2 pi i j2 m2 / N2) exp(-2 pi i j2 m1 / N) sum_j1 exp(-2 pi i j1 m1 / N1) x_j

Tiles are powers of two, P1 and P2, tables have zeros beyond N1 and N2.  Other sizes take one thin product as modes.py has them.
Operands as in fft_conv_dft.py: bfloat16 data one tf32 product, float16 and float32 three for one; Z is float32.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from spectralops.ops.modes_reference import Modes

from . import common, configs, modes
from .common import cdiv, launch, load, next_power_of_2, runnable, store
from .fft_conv_dft import input_precision, matrix, operand, tf32, times_matrix, turns


@triton.jit
def twiddle(p, re, im, at, P1: tl.constexpr, P2: tl.constexpr):
    """times T (P1, P2) at column `at`; m1 are the rows."""
    o = tl.arange(0, P1)[:, None] * P2 + at
    t_re, t_im = tl.load(p + o), tl.load(p + P1 * P2 + o)
    return re * t_re - im * t_im, re * t_im + im * t_re


@triton.jit
def rows_kernel(
    p_x, p_w, p_z, rows, sequence, half, pitch, x_b, x_s, x_h, N1: tl.constexpr, N2: tl.constexpr, P1: tl.constexpr,
    P2: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """R rows x (P1; r, j2) -> Z (P2; r, m1), or with one product (P1; r) -> (P1; r)."""
    column, j1 = tl.arange(0, R * P2)[None, :], tl.arange(0, P1)[:, None]
    r, j2 = tl.program_id(0) * R + column // P2, column % P2
    o_x = (r // sequence).to(tl.int64) * x_b + (r % sequence).to(tl.int64) * x_s
    t = (j1 * N2 + j2).to(tl.int64 if WIDE else tl.int32)
    x = operand(load(p_x + o_x + t * x_h, (j1 < N1) & (j2 < N2) & (r < rows)), PRECISION)  # (P1, R P2)
    w_re, w_im = matrix(p_w, P1, "")
    re = tl.dot(w_re, x, input_precision=PRECISION)
    im = tl.dot(w_im, x, input_precision=PRECISION)
    if P2 == 1:
        z = tl.reshape(tl.join(re, im), (P1, 2 * R))
        pair = tl.arange(0, 2 * R)[None, :]
        r = tl.program_id(0) * R + pair // 2
        tl.store(p_z + r.to(tl.int64) * (2 * pitch) + 2 * j1 + pair % 2, z, mask=(j1 < half) & (r < rows))
    else:
        re, im = twiddle(p_w + 2 * P1 * P1, re, im, j2, P1, P2)
        re = tl.reshape(tl.permute(tl.reshape(re, (P1, R, P2)), (2, 1, 0)), (P2, R * P1))
        im = tl.reshape(tl.permute(tl.reshape(im, (P1, R, P2)), (2, 1, 0)), (P2, R * P1))
        re, im = times_matrix(p_w + 2 * P1 * (P1 + P2), re, im, P2, False, "", PRECISION)
        z = tl.reshape(tl.join(re, im), (P2, 2 * R * P1))
        pair, m2 = tl.arange(0, 2 * R * P1)[None, :], tl.arange(0, P2)[:, None]
        r, q = tl.program_id(0) * R + pair // (2 * P1), pair % (2 * P1)
        m = (r < rows) & (q < 2 * N1) & (q + 2 * N1 * m2 < 2 * half)
        tl.store(p_z + r.to(tl.int64) * (2 * pitch) + q + 2 * N1 * m2, z, mask=m)


@triton.jit
def columns_kernel(
    p_z, p_w, p_y, sequence, length, half, pitch, N1: tl.constexpr, N2: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BC columns Z (P1; j2, c) -> y (P2; m1, c), or with one product (P1; c) -> (P1; c), each number to two places."""
    blocks = tl.cdiv(half, BC)
    i_b, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BC
    pair, j1 = tl.arange(0, 2 * P2 * BC)[None, :], tl.arange(0, P1)[:, None]
    j2, q = pair // (2 * BC), 2 * first + pair % (2 * BC)
    p_z += i_b.to(tl.int64) * sequence * (2 * pitch)
    z = tl.load(p_z + (j1 * N2 + j2) * (2 * pitch) + q, mask=(j1 < N1) & (j2 < N2) & (q < 2 * half), other=0)
    re, im = tl.split(tl.reshape(z, (P1, P2 * BC, 2)))
    column = tl.arange(0, (P1 if P2 > 1 else 1) * BC)[None, :]
    if P2 > 1:
        re, im = times_matrix(p_w, re, im, P1, False, "", PRECISION)
        at = tl.arange(0, P2 * BC)[None, :] // BC
        re, im = twiddle(p_w + 2 * P1 * P1, re, im, at, P1, P2)
        re = tl.reshape(tl.permute(tl.reshape(re, (P1, P2, BC)), (1, 0, 2)), (P2, P1 * BC))
        im = tl.reshape(tl.permute(tl.reshape(im, (P1, P2, BC)), (1, 0, 2)), (P2, P1 * BC))
        w_re, w_im = matrix(p_w + 2 * P1 * (P1 + P2), P2, "")
        m1 = column // BC
        s = m1 + N1 * tl.arange(0, P2)[:, None]
        m = (m1 < N1) & (s < sequence)
    else:
        w_re, w_im = matrix(p_w, P1, "")
        s = j1 + 0 * column
        m = s < sequence
    y = tl.dot(w_re, operand(re, PRECISION), input_precision=PRECISION)
    y = tl.dot(-w_im, operand(im, PRECISION), y, input_precision=PRECISION)

    c = first + column % BC
    m = m & (c < half)
    p_y += i_b.to(tl.int64) * sequence * length
    store(p_y + s * length + c, y, m)
    mirror = tl.where(s > 0, sequence - s, 0) * length + length - c
    store(p_y + mirror, y, m & (c > 0) & (2 * c != length))


# ---- host ----------------------------------------------------------------------------------------


def factors(n: int) -> tuple[int, int] | None:
    """N1, N2 of n, those whose powers of two make the smallest tile and then are nearest to each other; None: it has none."""
    most = configs.FOURIER_MIX_FACTOR
    if n <= most:
        return n, 1
    found = [(a, n // a) for a in range(2, most + 1) if n % a == 0 and n // a <= most]
    return min(found, key=lambda f: (_pad(f[0]) * _pad(f[1]), _pad(f[0]) + _pad(f[1]), f), default=None)


def _pad(n: int) -> int:
    return next_power_of_2(max(n, 16))


@functools.lru_cache(maxsize=64)
def tables(n1: int, n2: int, one_pass: bool, device: torch.device) -> torch.Tensor:
    """W1 (2, P1, P1), and with two products T (2, P1, P2) and W2 (2, P2, P2), one after the other; float64 on the way."""
    cut, pad = tf32 if one_pass else (lambda t: t), torch.nn.functional.pad
    p1, p2 = _pad(n1), _pad(n2)
    parts = [pad(cut(turns(n1, n1, 0.0, n1)), (0, p1 - n1, 0, p1 - n1))]
    if n2 > 1:
        parts.append(pad(turns(n1, n2, 0.0, n1 * n2), (0, p2 - n2, 0, p1 - n1)))
        parts.append(pad(cut(turns(n2, n2, 0.0, n2)), (0, p2 - n2, 0, p2 - n2)))
    return torch.cat([t.flatten() for t in parts]).float().to(device)


def _plan(found: tuple[int, int], count: int, precision: str, device) -> tuple[dict, int, dict]:
    """Arguments, how many rows or columns a program takes of `count`, options."""
    n1, n2 = found
    p1, p2 = _pad(n1), _pad(n2) if n2 > 1 else 1
    elements, warps = configs.FOURIER_MIX
    each = max(1 if n2 > 1 else 16, min(elements // (p1 * p2), next_power_of_2(count)))
    warps = max(1, warps * p1 * p2 * each // elements // (2 if common.AMD else 1))
    arguments = {"p_w": tables(n1, n2, precision == "tf32", device), "N1": n1, "N2": n2, "P1": p1, "P2": p2, "PRECISION": precision}
    return arguments, each, {"warps": warps, "stages": 1, "fuse": True, "registers": min(255, 2048 // warps)}


def supports_fourier_mix(x) -> tuple[bool, str]:
    most = configs.FOURIER_MIX_MOST
    if x.dtype not in modes.FLOATS:
        return False, f"triton's fourier_mix computes in float32, which {x.dtype} does not fit"
    if max(x.shape[1:]) > most:
        return False, f"triton's fourier_mix takes sides of up to {most}, got {tuple(x.shape[1:])}"
    if x.shape[0] * x.shape[1] >= 1 << 31:
        return False, f"triton's fourier_mix takes fewer than 2^31 rows, got {x.shape[0] * x.shape[1]}"
    return runnable(x)


def _box(n: int, m: int) -> Modes:
    """Frequencies 0 .. m - 1 of the last dimension of n points."""
    return Modes((1, 1, n), (0, 0, 0), (0, 0, 0), (1, 1, m))


def fourier_mix(x):
    b, s, h = x.shape
    half = h // 2 + 1
    pitch, precision = cdiv(half, 16) * 16, input_precision(x.dtype, "highest")
    form = "tf32" if precision == "tf32" else "exact"
    y = x.new_empty(b, s, h)
    if y.numel() == 0:
        return y
    z = x.new_empty(b * s * 2 * pitch, dtype=torch.float32)
    found = factors(h)
    if found:
        arguments, r, options = _plan(found, b * s, precision, x.device)
        launch(x, rows_kernel, (cdiv(b * s, r),), p_x=x, p_z=z, rows=b * s, sequence=s, half=half, pitch=pitch, x_b=x.stride(0),
               x_s=x.stride(1), x_h=x.stride(2), R=r, WIDE=h * x.stride(2) >= 1 << 30, **arguments, **options)  # fmt: skip
    else:
        table = modes.rows_table(_box(h, half), 1.0, False, False, form, x.device)
        strides = (0, 0, x.stride(0), x.stride(1), x.stride(2))
        modes.rows(x, table, z, b * s, h, 2 * pitch, (1, b, s), strides, form, chain=configs.FOURIER_MIX_CHAIN)
    found = factors(s)
    if found:
        arguments, c, options = _plan(found, half, precision, x.device)
        launch(x, columns_kernel, (b * cdiv(half, c),), p_z=z, p_y=y, sequence=s, length=h, half=half, pitch=pitch, BC=c,
               **arguments, **options)  # fmt: skip
        return y
    table = modes.columns_table(_box(s, s), 2, 1.0, False, False, form, x.device)
    part = x.new_empty(b, 1, 1, s, pitch)
    modes.columns(z, table, part, b, s, s, pitch, form, real_out=True, chain=configs.FOURIER_MIX_CHAIN)
    part = part.view(b, s, pitch)
    y[:, :, :half] = part[:, :, :half]
    mirror = part[:, :, 1 : 1 + h - half].flip(2)
    y[:, 0, half:] = mirror[:, 0]
    y[:, 1:, half:] = mirror[:, 1:].flip(1)
    return y
