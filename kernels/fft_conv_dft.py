"""The transform of fft_conv in Triton: N = N1 N2 N3 complex points as two (N3 = 1) or three levels of matrix products.

With j = (j1 N2 + j2) N3 + j3 and m = m1 + N1 (m2 + N2 m3) the quarter-shifted spectrum of ops/fft_conv_reference.py is

    Q_m = sum_{j3} W3[m3, j3] T2[m2, j3] sum_{j2} W2[m2, j2] T1[m1, j2 j3] sum_{j1} W1[m1, j1] z_j

    W1 = exp(-2 pi i j1 (m1 + 1/4) / N1)      T1 = exp(-2 pi i (j2 N3 + j3) (m1 + 1/4) / N)
    W2 = exp(-2 pi i j2 m2 / N2)              T2 = exp(-2 pi i j3 m2 / N2 N3)                   W3 = exp(-2 pi i j3 m3 / N3)

so the turn exp(-i pi j / 2N) costs nothing: it is in W1 and T1.  Each sum is a product from the left with a matrix of 16 or 32
rows: every warp holds all of the matrix, which is small, and columns of its own of the data, so that nothing is held twice.
Between levels the axis to be summed is brought to the front.  A row stands as (N1; r, j2, j3), r one of R channels beside
each other, and its spectrum as (m3; r, m2, m1), both in the order of memory.  N1 = 8 is a product of 16 rows, P = 2 halves of
j2 beside each other: W1 x I.

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
def matrix(p, SIZE: tl.constexpr, KEEP: tl.constexpr):
    """The real and the imaginary part of a table (2, SIZE, SIZE).  KEEP is how a cache is asked to hold it; it differs
    between the two transforms of a kernel, so that the compiler loads again what it would else keep in registers.
    """
    o = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    return tl.load(p + o, eviction_policy=KEEP), tl.load(p + SIZE * SIZE + o, eviction_policy=KEEP)


@triton.jit
def times_matrix(p, re, im, SIZE: tl.constexpr, INVERSE: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr):
    """W (re + i im), or conj(W) (re + i im), for a table of SIZE rows."""
    re, im = operand(re, PRECISION), operand(im, PRECISION)
    w_re, w_im = matrix(p, SIZE, KEEP)
    # all of re's products before im's: operands are what registers are short of
    a_re = tl.dot(w_re, re, input_precision=PRECISION)
    a_im = tl.dot(-w_im if INVERSE else w_im, re, input_precision=PRECISION)
    a_re = tl.dot(w_im if INVERSE else -w_im, im, a_re, input_precision=PRECISION)
    a_im = tl.dot(w_re, im, a_im, input_precision=PRECISION)
    return a_re, a_im


@triton.jit
def twiddle(p, re, im, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PERIOD: tl.constexpr, SIGN: tl.constexpr, KEEP: tl.constexpr):
    """times T (ROWS, PERIOD), or its conjugate, repeated along the columns."""
    o = tl.arange(0, ROWS)[:, None] * PERIOD + tl.arange(0, COLUMNS)[None, :] % PERIOD
    t_re = tl.load(p + o, eviction_policy=KEEP)
    t_im = SIGN * tl.load(p + ROWS * PERIOD + o, eviction_policy=KEEP)
    return re * t_re - im * t_im, re * t_im + im * t_re


@triton.jit
def second(x, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, BACK: tl.constexpr):
    """(N1 P; r, j2 j3) -> (N2; r, m1, j3), or BACK."""
    if BACK:
        x = tl.permute(tl.reshape(x, (P, N2 // P, R, N1, N3)), (3, 0, 2, 1, 4))
        return tl.reshape(x, (N1 * P, R * (N2 // P) * N3))
    else:
        x = tl.permute(tl.reshape(x, (N1, P, R, N2 // P, N3)), (1, 3, 2, 0, 4))
        return tl.reshape(x, (N2, R * N1 * N3))


@triton.jit
def third(x, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, BACK: tl.constexpr):
    """(N2; r, m1, j3) -> (N3; r, m2, m1), or BACK."""
    if BACK:
        return tl.reshape(tl.permute(tl.reshape(x, (N3, R, N2, N1)), (2, 1, 3, 0)), (N2, R * N1 * N3))
    else:
        return tl.reshape(tl.permute(tl.reshape(x, (N2, R, N1, N3)), (3, 1, 0, 2)), (N3, R * N2 * N1))


@triton.jit
def transform(
    lo, hi, p_w, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr,
    HIGH: tl.constexpr, PRECISION: tl.constexpr, KEEP: tl.constexpr = "",
):  # fmt: skip
    """z = lo - i hi in time, hi 0 unless HIGH -> its spectrum."""
    S1: tl.constexpr = N1 * P
    lo = operand(lo, PRECISION)
    w_re, w_im = matrix(p_w, S1, KEEP)
    re = tl.dot(w_re, lo, input_precision=PRECISION)
    im = tl.dot(w_im, lo, input_precision=PRECISION)
    if HIGH:
        hi = operand(hi, PRECISION)
        re = tl.dot(w_im, hi, re, input_precision=PRECISION)
        im = tl.dot(-w_re, hi, im, input_precision=PRECISION)
    re, im = twiddle(p_w + 2 * S1 * S1, re, im, S1, R * N1 * N2 * N3 // S1, N1 * N2 * N3 // S1, 1.0, KEEP)
    re, im = second(re, N1, N2, N3, R, P, False), second(im, N1, N2, N3, R, P, False)
    p = p_w + 2 * S1 * S1 + 2 * N1 * N2 * N3
    re, im = times_matrix(p, re, im, N2, False, KEEP, PRECISION)
    if N3 > 1:
        re, im = twiddle(p + 2 * N2 * N2, re, im, N2, R * N1 * N3, N3, 1.0, KEEP)
        re, im = third(re, N1, N2, N3, R, False), third(im, N1, N2, N3, R, False)
        re, im = times_matrix(p + 2 * N2 * (N2 + N3), re, im, N3, False, KEEP, PRECISION)
    return re, im


@triton.jit
def back(
    re, im, p_w, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr,
    HIGH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """N times the inverse: a spectrum -> lo and hi in time; hi is lo unless HIGH."""
    S1: tl.constexpr = N1 * P
    p = p_w + 2 * S1 * S1 + 2 * N1 * N2 * N3
    if N3 > 1:
        re, im = times_matrix(p + 2 * N2 * (N2 + N3), re, im, N3, True, "evict_last", PRECISION)
        re, im = third(re, N1, N2, N3, R, True), third(im, N1, N2, N3, R, True)
        re, im = twiddle(p + 2 * N2 * N2, re, im, N2, R * N1 * N3, N3, -1.0, "evict_last")
    re, im = times_matrix(p, re, im, N2, True, "evict_last", PRECISION)
    re, im = second(re, N1, N2, N3, R, P, True), second(im, N1, N2, N3, R, P, True)
    re, im = twiddle(p_w + 2 * S1 * S1, re, im, S1, R * N1 * N2 * N3 // S1, N1 * N2 * N3 // S1, -1.0, "evict_last")
    re, im = operand(re, PRECISION), operand(im, PRECISION)
    w_re, w_im = matrix(p + 2 * N2 * N2 + (2 * N2 * N3 + 2 * N3 * N3 if N3 > 1 else 0), S1, "")  # W1, transposed
    lo = tl.dot(w_re, re, input_precision=PRECISION)
    lo = tl.dot(w_im, im, lo, input_precision=PRECISION)
    hi = lo
    if HIGH:
        hi = tl.dot(w_im, re, input_precision=PRECISION) - tl.dot(w_re, im, input_precision=PRECISION)
    return lo, hi


@triton.jit
def _beside(i_h, SIZE: tl.constexpr, ROWS: tl.constexpr, R: tl.constexpr):
    """Channel and index of the elements of a tile (ROWS, R SIZE / ROWS), R things of SIZE beside each other."""
    COLUMNS: tl.constexpr = SIZE // ROWS
    column = tl.arange(0, R * COLUMNS)[None, :]
    if R == 1:
        return tl.zeros([1, 1], tl.int64) + i_h, tl.arange(0, ROWS)[:, None] * COLUMNS + column
    else:
        return (i_h * R + column // COLUMNS).to(tl.int64), tl.arange(0, ROWS)[:, None] * COLUMNS + column % COLUMNS


@triton.jit
def places(i_h, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, WIDE: tl.constexpr):
    """Channel and time of a tile in time; block i_h of R channels.  WIDE: a time times a stride may leave 32 bits."""
    h, t = _beside(i_h, N1 * N2 * N3, N1 * P, R)
    return h, t.to(tl.int64 if WIDE else tl.int32)


@triton.jit
def bins(i_h, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr):
    """Channel and frequency of a tile in frequency."""
    return _beside(i_h, N1 * N2 * N3, N3 if N3 > 1 else N2, R)


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
    x = load(p_x + o_x + t * x_t, m)
    if p_g is not None:
        x = x * load(p_g + o_g + t * g_t, m)
    return x


@triton.jit
def row_sums(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr):
    """Sums over the times of each channel: (ROWS, R COLUMNS) -> (R,)."""
    return tl.sum(tl.sum(tl.reshape(x, (ROWS, R, COLUMNS)), 2), 0)


# ---- host ----------------------------------------------------------------------------------------


def whole(n: int, call, x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether a program holds all of a row.  Three products for one leave registers for half as many points, and so do the
    addresses of times that are not contiguous.
    """
    contiguous = not call.blh and all(t is None or t.stride(-1) == 1 for t in (x, *others))
    return n <= configs.FFT_CONV_WHOLE[contiguous and input_precision(x.dtype, call.precision) == "tf32"]


def points(length: int, size: int, lag0: int) -> int:
    """N for taps: the least power of two with 2 N >= length + the reach of the taps."""
    linear = length + max(lag0, size - 1 - lag0)
    return max(common.next_power_of_2(common.cdiv(linear, 2)), min(configs.FFT_CONV))


def supports(x, kernel_shape, call) -> tuple[bool, str]:
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False, f"triton's fft_conv computes in float32, which {x.dtype} does not fit"
    n = call.grid or points(call.length, kernel_shape[3], call.lag0)
    most = configs.FFT_CONV_OUTER * configs.FFT_CONV_WHOLE[input_precision(x.dtype, call.precision) == "tf32"]
    if call.grid and (n < min(configs.FFT_CONV) or n & (n - 1)):
        least = min(configs.FFT_CONV)
        return False, f"triton's fft_conv takes a spectrum on a grid of a power of two from {least} points on, got {n}"
    if n > most:
        return False, f"triton's fft_conv takes transforms of up to {most} points for {x.dtype}, got {n}"
    return runnable(x)


def input_precision(dtype: torch.dtype, precision: str) -> str:
    if dtype == torch.bfloat16 or precision == "high":
        return "tf32"
    return "ieee" if common.AMD else "tf32x3"


def turns(rows: int, columns: int, shift: float, period: int) -> torch.Tensor:
    """exp(-2 pi i column (row + shift) / period), (2, rows, columns) in float64; the angle is reduced exactly."""
    k = torch.outer(torch.arange(rows, dtype=torch.float64) + shift, torch.arange(columns, dtype=torch.float64))
    angle = k.remainder(period) * (-2 * math.pi / period)
    return torch.stack([angle.cos(), angle.sin()])


def tf32(t: torch.Tensor) -> torch.Tensor:
    """To nearest, 11 bits of significand."""
    mantissa, exponent = torch.frexp(t)
    return torch.ldexp((mantissa * 2.0**11).round(), exponent - 11)


@functools.lru_cache(maxsize=64)
def tables(row: configs.Fft, one_pass: bool, shift: float, device: torch.device) -> torch.Tensor:
    """W1, T1, W2, with a third level T2 and W3, and W1 transposed, one after the other, computed in float64; the matrices
    are tf32's where one pass would cut them.
    """
    n1, n2, n3, pairs = row.n1, row.n2, row.n3, row.pairs
    cut = tf32 if one_pass else lambda t: t
    eye = torch.eye(pairs, dtype=torch.float64)
    w1 = cut(torch.stack([torch.kron(t, eye) for t in turns(n1, n1, shift, n1)]))
    parts = [w1, turns(n1, n2 * n3, shift, n1 * n2 * n3), cut(turns(n2, n2, 0.0, n2))]
    if n3 > 1:
        parts += [turns(n2, n3, 0.0, n2 * n3), cut(turns(n3, n3, 0.0, n3))]
    parts.append(w1.transpose(1, 2))
    return torch.cat([t.flatten() for t in parts]).float().to(device)


def plan(n: int, channels: int, x: torch.Tensor, precision: str, shift: float = 0.25) -> tuple[dict, int, dict]:
    """Arguments every kernel takes for N points, channels a program, options of the launch."""
    row, mode = configs.FFT_CONV[n], input_precision(x.dtype, precision)
    r = min(row.channels, common.next_power_of_2(channels))
    arguments = {"p_w": tables(row, mode == "tf32", shift, x.device), "N1": row.n1, "N2": row.n2, "N3": row.n3, "R": r,
                 "P": row.pairs, "PRECISION": mode}  # fmt: skip
    return arguments, r, {"warps": row.warps, "stages": 1, "fuse": True, "registers": min(255, 2048 // row.warps)}
