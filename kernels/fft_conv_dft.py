"""The transform of fft_conv in Triton: N = N1 N2 complex points as two levels of matrix products.

With j = j1 N2 + j2 and m = m1 + N1 m2 the quarter-shifted spectrum of ops/fft_conv_reference.py is

    Q_m = sum_{j2} W2[j2, m2] T[m1, j2] sum_{j1} W1[m1, j1] z_j                W1 = exp(-2 pi i j1 (m1 + 1/4) / N1)
                                                                              T  = exp(-2 pi i j2 (m1 + 1/4) / N)
                                                                              W2 = exp(-2 pi i j2 m2 / N2)

so the turn exp(-i pi j / 2N) costs nothing: it is in W1 and T.  A row stands as a tile (N1, N2), the time j in the order of
memory, its spectrum as the tile of (m1, m2), which is left so: the kernel's is kept in the same order.  R channels share a
product: side by side (N1, R N2) on the side of time, one below the other (N1 R, N2) on the side of frequency.

Operands: float32 and float16 data three tf32 products for one, whose error is float32's; bfloat16 data and precision
"high" one tf32 product, whose 2^-11 is a quarter of what rounding to bfloat16 loses; sums and everything between the
products is float32.  float16 never holds anything but what was given and what is returned.
"""

from __future__ import annotations

import functools
import math

import torch
import triton
import triton.language as tl

from . import common, configs
from .common import AMD, INTERPRETED, load, runnable

# NVIDIA's tensor cores cut an operand to tf32 towards zero, on average by 0.7213 / 2^11 of it (1 / 2 ln 2): given back
# beforehand, the cuts of a transform do not add up to a shrinking.  What tf32 holds exactly is cut back to what it was.
_CUT = tl.constexpr(1.0 if INTERPRETED or AMD else 1.0 + 0.7213 * 2.0**-11)


# ---- inside kernels ------------------------------------------------------------------------------


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    if PRECISION == "tf32":
        return x * _CUT
    else:
        return x


@triton.jit
def matrix(p, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The real and the imaginary part of a table (2, ROWS, COLUMNS)."""
    o = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return tl.load(p + o), tl.load(p + ROWS * COLUMNS + o)


@triton.jit
def twiddle(p_w, N1: tl.constexpr, N2: tl.constexpr, R: tl.constexpr):
    """T for R channels side by side: (N1, R N2)."""
    o = tl.arange(0, N1)[:, None] * N2 + tl.arange(0, R * N2)[None, :] % N2
    p = p_w + 2 * N1 * N1
    return tl.load(p + o), tl.load(p + N1 * N2 + o)


@triton.jit
def transform(lo, hi, p_w, N1: tl.constexpr, N2: tl.constexpr, R: tl.constexpr, HIGH: tl.constexpr, PRECISION: tl.constexpr):
    """z = lo - i hi (N1, R N2), hi 0 unless HIGH -> its spectrum (N1 R, N2)."""
    lo = operand(lo, PRECISION)
    w_re, w_im = matrix(p_w, N1, N1)
    a_re = tl.dot(w_re, lo, input_precision=PRECISION)
    a_im = tl.dot(w_im, lo, input_precision=PRECISION)
    if HIGH:
        hi = operand(hi, PRECISION)
        a_re = tl.dot(w_im, hi, a_re, input_precision=PRECISION)
        a_im = tl.dot(-w_re, hi, a_im, input_precision=PRECISION)
    t_re, t_im = twiddle(p_w, N1, N2, R)
    b_re = tl.reshape(operand(a_re * t_re - a_im * t_im, PRECISION), (N1 * R, N2))
    b_im = tl.reshape(operand(a_re * t_im + a_im * t_re, PRECISION), (N1 * R, N2))
    w_re, w_im = matrix(p_w + 2 * N1 * (N1 + N2), N2, N2)
    re = tl.dot(b_re, w_re, input_precision=PRECISION)
    im = tl.dot(b_re, w_im, input_precision=PRECISION)
    re = tl.dot(b_im, -w_im, re, input_precision=PRECISION)
    im = tl.dot(b_im, w_re, im, input_precision=PRECISION)
    return re, im


@triton.jit
def back(re, im, p_w, N1: tl.constexpr, N2: tl.constexpr, R: tl.constexpr, HIGH: tl.constexpr, PRECISION: tl.constexpr):
    """N times the inverse: a spectrum (N1 R, N2) -> lo (N1, R N2) and hi, which is lo unless HIGH."""
    re, im = operand(re, PRECISION), operand(im, PRECISION)
    w_re, w_im = matrix(p_w + 2 * N1 * (N1 + N2), N2, N2)
    b_re = tl.dot(re, w_re, input_precision=PRECISION)
    b_im = tl.dot(im, w_re, input_precision=PRECISION)
    b_re = tl.dot(im, w_im, b_re, input_precision=PRECISION)
    b_im = tl.dot(re, -w_im, b_im, input_precision=PRECISION)
    b_re, b_im = tl.reshape(b_re, (N1, R * N2)), tl.reshape(b_im, (N1, R * N2))
    t_re, t_im = twiddle(p_w, N1, N2, R)
    a_re, a_im = operand(b_re * t_re + b_im * t_im, PRECISION), operand(b_im * t_re - b_re * t_im, PRECISION)
    w_re, w_im = matrix(p_w + 2 * N1 * (N1 + N2) + 2 * N2 * N2, N1, N1)  # conj(W1), transposed
    lo = tl.dot(w_re, a_re, input_precision=PRECISION)
    lo = tl.dot(-w_im, a_im, lo, input_precision=PRECISION)
    hi = lo
    if HIGH:
        hi = tl.dot(-w_re, a_im, input_precision=PRECISION)
        hi = tl.dot(-w_im, a_re, hi, input_precision=PRECISION)
    return lo, hi


@triton.jit
def places(i_h, N1: tl.constexpr, N2: tl.constexpr, R: tl.constexpr):
    """Channel (1, R N2) and time (N1, R N2) of a tile in time; block i_h of R channels."""
    column = tl.arange(0, R * N2)[None, :]
    return (i_h * R + column // N2).to(tl.int64), tl.arange(0, N1)[:, None] * N2 + column % N2


@triton.jit
def bins(i_h, N1: tl.constexpr, N2: tl.constexpr, R: tl.constexpr):
    """Channel (N1 R, 1) and place in a spectrum of its own (N1 R, N2) of a tile in frequency."""
    row = tl.arange(0, N1 * R)[:, None]
    return (i_h * R + row % R).to(tl.int64), row // R * N2 + tl.arange(0, N2)[None, :]


@triton.jit
def stretch(i_b, p_cu, length):
    """Start and length of row i_b, and the row's index where rows are a dimension: with cu_seqlens they are not."""
    if p_cu is None:
        return i_b.to(tl.int64), i_b.to(tl.int64) * 0, length
    else:
        start = tl.load(p_cu + i_b).to(tl.int64)
        return start * 0, start, (tl.load(p_cu + i_b + 1).to(tl.int64) - start).to(tl.int32)


@triton.jit
def product_of(p_x, o_x, x_t, p_g, o_g, g_t, t, m):
    """x g at times t, or x where there is no g; o_x, o_g are the offsets of a channel's first element."""
    x = load(p_x + o_x + t.to(tl.int64) * x_t, m)
    if p_g is not None:
        x = x * load(p_g + o_g + t.to(tl.int64) * g_t, m)
    return x


@triton.jit
def row_sums(x, N1: tl.constexpr, N2: tl.constexpr, R: tl.constexpr):
    """Sums over the times of each channel: (N1, R N2) -> (R,)."""
    return tl.sum(tl.sum(tl.reshape(x, (N1, R, N2)), 2), 0)


# ---- host ----------------------------------------------------------------------------------------


def points(length: int, size: int, lag0: int) -> int:
    """N for taps: the least power of two with 2 N >= length + the reach of the taps."""
    linear = length + max(lag0, size - 1 - lag0)
    return max(common.next_power_of_2(common.cdiv(linear, 2)), min(configs.FFT_CONV))


def supports(x, kernel_shape, call) -> tuple[bool, str]:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False, f"triton's fft_conv computes in float32, which {x.dtype} does not fit"
    n, most = call.grid or points(call.length, kernel_shape[3], call.lag0), max(configs.FFT_CONV)
    if call.grid and n not in configs.FFT_CONV:
        return False, f"triton's fft_conv takes a spectrum on a grid of 2^8 .. 2^{most.bit_length() - 1} points, got {n}"
    if n > most:
        return False, f"triton's fft_conv takes rows and taps whose lengths add up to {2 * most}, got {2 * n} rounded up"
    return runnable(x)


def input_precision(dtype: torch.dtype, precision: str) -> str:
    if dtype == torch.bfloat16 or precision == "high":
        return "tf32"
    return "ieee" if common.AMD else "tf32x3"


def _turns(rows: int, columns: int, shift: float, period: int) -> torch.Tensor:
    """exp(-2 pi i column (row + shift) / period), (2, rows, columns) in float64; the angle is reduced exactly."""
    k = torch.outer(torch.arange(rows, dtype=torch.float64) + shift, torch.arange(columns, dtype=torch.float64))
    angle = k.remainder(period) * (-2 * math.pi / period)
    return torch.stack([angle.cos(), angle.sin()])


def _tf32(t: torch.Tensor) -> torch.Tensor:
    """To nearest, 11 bits of significand."""
    mantissa, exponent = torch.frexp(t)
    return torch.ldexp((mantissa * 2.0**11).round(), exponent - 11)


@functools.lru_cache(maxsize=64)
def tables(n1: int, n2: int, one_pass: bool, device: torch.device) -> torch.Tensor:
    """W1, T, W2 and conj(W1) transposed, one after the other; the matrices are tf32's where one pass would cut them."""
    w1, t, w2 = _turns(n1, n1, 0.25, n1), _turns(n1, n2, 0.25, n1 * n2), _turns(n2, n2, 0.0, n2)
    if one_pass:
        w1, w2 = _tf32(w1), _tf32(w2)
    back = w1.transpose(1, 2) * torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None]
    return torch.cat([x.flatten() for x in (w1, t, w2, back)]).float().to(device)


def plan(n: int, channels: int, x: torch.Tensor, precision: str) -> tuple[dict, int, int]:
    """Arguments every kernel takes for N points, channels a program, warps."""
    row = configs.FFT_CONV[n]
    r = min(row.channels, common.next_power_of_2(channels))
    mode = input_precision(x.dtype, precision)
    arguments = {"p_w": tables(row.n1, row.n2, mode == "tf32", x.device), "N1": row.n1, "N2": row.n2, "R": r, "PRECISION": mode}
    return arguments, r, row.warps
