"""What the kernels of spectral_filter share: the transform of a grid that one program holds, tables, layer norms, W.

A program holds TC channels of a sample, sides padded to P2, P3 in {16, 32}.  It reads slabs (P3; n2, c), n3 down the rows, 16 n2
and the channels along the columns, so that rows are transformed by a real product from the left, with the B >= N3 // 2 + 1
frequencies of the half spectrum.  Then k3 and n2 change places and columns are a complex product, to which each slab adds:

    (P3; n2, c)  -- [Re; Im] W3 -->  (2, B; n2, c)  --> (n2; k3, c) twice  -- W2 -->  (k2; k3, c) twice      and back

    W3 = exp(-2 pi i k3 n3 / N3)    W2 = exp(-2 pi i k2 n2 / N2)    back conj(W2), then c_k / N [Re, -Im] conj(W3)

Every warp holds a matrix and columns of its own of the data; slabs of 16 keep matrices, three tf32 products for one, to 32
registers.  Data crosses between warps once forth and once back, the least there is, and W comes in the order of spectra.

Operands as in fft_conv_dft.py: float32 and float16 data three tf32 products for one, bfloat16 one; a gradient, float32 whatever
x is, always three.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from . import configs
from . import fft_conv_dft as dft
from .common import cdiv, double_bits, launch, load, next_power_of_2, runnable
from .fft_conv_dft import operand
from .poly_norm import number

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


# ---- inside kernels ------------------------------------------------------------------------------


@triton.jit
def part(p, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PERIOD: tl.constexpr, KEEP: tl.constexpr):
    """A table (ROWS, COLUMNS) whose rows are PERIOD apart."""
    return tl.load(p + tl.arange(0, ROWS)[:, None] * PERIOD + tl.arange(0, COLUMNS)[None, :], eviction_policy=KEEP)


@triton.jit
def added(a_re, a_im, p, re, im, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SIZE: tl.constexpr, INVERSE: tl.constexpr,
          KEEP: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """a + W (re + i im), or a + conj(W) (re + i im), W a part (ROWS, COLUMNS) of a table of SIZE rows: all products with one part
    of W before the other's, as every warp holds all of the matrix.
    """
    w = part(p, ROWS, COLUMNS, SIZE, KEEP)
    a_re = tl.dot(w, re, a_re, input_precision=PRECISION)
    a_im = tl.dot(w, im, a_im, input_precision=PRECISION)
    w = part(p + SIZE * SIZE, ROWS, COLUMNS, SIZE, KEEP)
    if INVERSE:
        a_re = tl.dot(w, im, a_re, input_precision=PRECISION)
        return a_re, a_im - tl.dot(w, re, input_precision=PRECISION)
    else:
        a_im = tl.dot(w, re, a_im, input_precision=PRECISION)
        return a_re - tl.dot(w, im, input_precision=PRECISION), a_im


@triton.jit
def places(i_c, first, row, n2, n3, channels, TC: tl.constexpr, WIDE: tl.constexpr):
    """n3, n2, c of a slab (n3 from `row`; 16 n2 from `first`, c) and which of them exist."""
    column = tl.arange(0, 16 * TC)[None, :]
    i_2, c = first + column // TC, i_c * TC + column % TC
    m = (row < n3) & (i_2 < n2) & (c < channels)
    dtype: tl.constexpr = tl.int64 if WIDE else tl.int32
    return row.to(dtype), i_2.to(dtype), c.to(dtype), m


@triton.jit
def normalised(x, p_mean, point, points, p_nw, p_nb, c, m):
    """(x - mean) / deviation, with the affine where there is one; p_mean (2, points) holds mean and 1 / deviation."""
    if p_mean is not None:
        x = (x - load(p_mean + point, m)) * load(p_mean + points + point, m)
        if p_nw is not None:
            x *= load(p_nw + c, m)
        if p_nb is not None:
            x += load(p_nb + c, m)
        x = tl.where(m, x, 0.0)
    return x


@triton.jit
def transform(
    p_x, x_2, x_3, x_c, p_mean, points, p_nw, p_nb, p_w, i_c, n2, n3, channels, WIDE: tl.constexpr,
    P2: tl.constexpr, P3: tl.constexpr, B: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr, KEEP: tl.constexpr = "",
):  # fmt: skip
    """The sample at p_x -> (k2; k3, c), real and imaginary part."""
    a_re, a_im = tl.zeros([P2, B * TC], tl.float32), tl.zeros([P2, B * TC], tl.float32)
    STACK: tl.constexpr = 2 if B < 16 else 1  # a product has 16 rows
    # a loop, and nothing carried out of it: the compiler would load and keep what several slabs need
    for first in tl.range(0, P2, 16, disable_licm=True):
        re, im = tl.zeros([STACK * B, 16 * TC], tl.float32), tl.zeros([STACK * B, 16 * TC], tl.float32)
        for third in tl.range(0, P3, 16, disable_licm=True):
            row = third + tl.arange(0, 16)[:, None]
            i_3, i_2, c, m = places(i_c, first, row, n2, n3, channels, TC, WIDE)
            x = load(p_x + i_3 * x_3 + i_2 * x_2 + c * x_c, m)
            x = operand(normalised(x, p_mean, i_2 * n3 + i_3, points, p_nw, p_nb, c, m), PRECISION)
            re = tl.dot(part(p_w + third, STACK * B, 16, P3, KEEP), x, re, input_precision=PRECISION)
            if STACK == 1:
                im = tl.dot(part(p_w + B * P3 + third, B, 16, P3, KEEP), x, im, input_precision=PRECISION)
        if STACK == 2:
            re, im = tl.split(tl.permute(tl.reshape(re, (2, B, 16, TC)), (2, 1, 3, 0)))
        else:
            re, im = tl.permute(tl.reshape(re, (B, 16, TC)), (1, 0, 2)), tl.permute(tl.reshape(im, (B, 16, TC)), (1, 0, 2))
        re, im = operand(tl.reshape(re, (16, B * TC)), PRECISION), operand(tl.reshape(im, (16, B * TC)), PRECISION)
        a_re, a_im = added(a_re, a_im, p_w + 4 * B * P3 + first, re, im, P2, 16, P2, False, KEEP, PRECISION)
    return a_re, a_im


@triton.jit
def back(
    re, im, p_w, first, P2: tl.constexpr, P3: tl.constexpr, B: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """A slab of the inverse; re and im are operands."""
    zero = tl.zeros([16, B * TC], tl.float32)
    re, im = added(zero, zero, p_w + 4 * B * P3 + first * P2, re, im, 16, P2, P2, True, "evict_last", PRECISION)
    re, im = tl.reshape(re, (16, B, TC)), tl.reshape(im, (16, B, TC))
    p = p_w + 2 * B * P3
    if B < 16:
        z = tl.reshape(tl.permute(tl.join(re, im), (3, 1, 0, 2)), (2 * B, 16 * TC))
        return tl.dot(part(p, P3, 2 * B, 2 * B, ""), operand(z, PRECISION), input_precision=PRECISION)
    else:
        re, im = tl.reshape(tl.permute(re, (1, 0, 2)), (B, 16 * TC)), tl.reshape(tl.permute(im, (1, 0, 2)), (B, 16 * TC))
        y = tl.dot(part(p, P3, B, 2 * B, ""), operand(re, PRECISION), input_precision=PRECISION)
        return tl.dot(part(p + B, P3, B, 2 * B, ""), operand(im, PRECISION), y, input_precision=PRECISION)


@triton.jit
def bins(i_c, n2, n3, channels, P2: tl.constexpr, B: tl.constexpr, TC: tl.constexpr):
    """Position in the half spectrum (N2, N3 // 2 + 1), k3 and c of a tile (k2; k3, c), and which exist."""
    column, row = tl.arange(0, B * TC)[None, :], tl.arange(0, P2)[:, None]
    k3, c, half = column // TC, i_c * TC + column % TC, n3 // 2 + 1
    return row * half + k3, k3, c, (row < n2) & (k3 < half) & (c < channels)


@triton.jit
def pairs(p, o, m):
    """Complex numbers at positions o."""
    two = tl.arange(0, 2)[None, None, :]
    return tl.split(tl.load(p + (2 * o)[:, :, None] + two, mask=m[:, :, None] & (two >= 0), other=0))


@triton.jit
def put_pairs(p, o, re, im, m):
    two = tl.arange(0, 2)[None, None, :]
    tl.store(p + (2 * o)[:, :, None] + two, tl.join(re, im), mask=m[:, :, None] & (two >= 0))


@triton.jit
def filtered(re, im, p_q, o, m, CONJ: tl.constexpr):
    """z W, or z conj(W)."""
    q_re, q_im = pairs(p_q, o, m)
    if CONJ:
        q_im = -q_im
    return re * q_re - im * q_im, re * q_im + im * q_re


@triton.jit(do_not_specialize=["points", "channels", "eps_bits"])
def moments_kernel(
    p_x, p_mean, points, channels, n1, n2, n3, eps_bits, x_b, x_1, x_2, x_3, x_c, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """mean (points,) and 1 / sqrt(variance + eps), over the channels of ROWS points a program."""
    point = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = (point // (n1 * n2 * n3) * x_b + point // (n2 * n3) % n1 * x_1 + point // n3 % n2 * x_2 + point % n3 * x_3)[:, None]
    total, c = tl.zeros([ROWS, BLOCK], tl.float32), tl.arange(0, BLOCK)[None, :].to(tl.int64)
    exists = (point < points)[:, None]
    for i in tl.range(0, channels, BLOCK):
        total += load(p_x + row + (i + c) * x_c, exists & (i + c < channels))
    mean = tl.sum(total, 1) / channels
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for i in tl.range(0, channels, BLOCK):
        m = exists & (i + c < channels)
        d = tl.where(m, load(p_x + row + (i + c) * x_c, m) - mean[:, None], 0.0)
        total += d * d
    variance = tl.sum(total, 1) / channels
    tl.store(p_mean + point, mean, mask=point < points)
    tl.store(p_mean + points + point, 1 / tl.sqrt(variance + number(eps_bits).to(tl.float32)), mask=point < points)


# ---- host ----------------------------------------------------------------------------------------


def supports(x: torch.Tensor) -> tuple[bool, str]:
    if x.dtype not in DTYPES:
        return False, f"triton's spectral_filter computes in float32, which {x.dtype} does not fit"
    if max(x.shape[1:4]) > configs.SPECTRAL_FILTER_LONGEST:
        sides = "x".join(map(str, x.shape[1:4]))
        most = f"sides of up to {configs.SPECTRAL_FILTER_LONGEST} points, beyond which torch's FFT is faster"
        return False, f"triton's spectral_filter takes {most}; got {sides}"
    return runnable(x)


def whole(x: torch.Tensor) -> bool:
    """Whether a program holds a sample's grid: two dimensions, as one would waste the second product."""
    return x.shape[1] == 1 and x.shape[2] > 1 and max(x.shape[2:4]) <= max(configs.SPECTRAL_FILTER)[0]


def padded(n2: int, n3: int) -> tuple[int, int, int]:
    """The key of a launch table: P2, P3, B."""
    return max(16, next_power_of_2(n2)), max(16, next_power_of_2(n3)), max(8, next_power_of_2(n3 // 2 + 1))


def rows_table(n3: int, rows: int, columns: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[Re; Im] W3 (2, rows, columns) and c_k scale [Re, -Im] conj(W3) (columns, 2, rows), float64, zero where padded."""
    half = n3 // 2 + 1
    w = dft.turns(half, n3, 0.0, n3)
    k = torch.arange(half)
    w[1, (k == 0) | (2 * k == n3)] = 0.0  # exactly: there W acts by its Hermitian part
    forth = torch.zeros(2, rows, columns, dtype=torch.float64)
    forth[:, :half, :n3] = w
    count = torch.where((k == 0) | (2 * k == n3), 1.0, 2.0).double() * scale
    inverse = torch.zeros(columns, 2, rows, dtype=torch.float64)
    inverse[:n3, :, :half] = (w * count[:, None]).permute(2, 0, 1)
    return forth, inverse


def square(n: int, size: int) -> torch.Tensor:
    """exp(-2 pi i k n / N) (2, size, size), zero where padded."""
    w = torch.zeros(2, size, size, dtype=torch.float64)
    w[:, :n, :n] = dft.turns(n, n, 0.0, n)
    return w


@functools.lru_cache(maxsize=64)
def tables(n2: int, n3: int, one_pass: bool, device: torch.device) -> torch.Tensor:
    """W3 (2 B, P3), its inverse (P3, 2 B) over N, and W2 (2, P2, P2), one after the other."""
    p2, p3, b = padded(n2, n3)
    cut = dft.tf32 if one_pass else lambda t: t
    parts = (*rows_table(n3, b, p3, 1 / (n2 * n3)), square(n2, p2))
    return torch.cat([cut(t).flatten() for t in parts]).float().to(device)


def moments(x: torch.Tensor, eps: float) -> torch.Tensor | None:
    """(2, points): mean and 1 / deviation over the channels, where there is a norm."""
    if eps < 0:
        return None
    points, channels = x.numel() // x.shape[4], x.shape[4]
    mean = torch.empty((2, points), dtype=torch.float32, device=x.device)
    block = min(next_power_of_2(channels), configs.SPECTRAL_FILTER_MOMENTS.columns)
    rows = max(1, configs.SPECTRAL_FILTER_MOMENTS.rows * configs.SPECTRAL_FILTER_MOMENTS.columns // block)
    launch(x, moments_kernel, (cdiv(points, rows),), warps=configs.SPECTRAL_FILTER_MOMENTS.warps, fuse=True, p_x=x, p_mean=mean,
           points=points, channels=channels, n1=x.shape[1], n2=x.shape[2], n3=x.shape[3], eps_bits=double_bits(eps),
           **strides("x", x), ROWS=rows, BLOCK=block)  # fmt: skip
    return mean


def strides(name: str, t: torch.Tensor | None) -> dict:
    return {f"{name}_{axis}": 0 if t is None else t.stride(i) for i, axis in enumerate("b123c")}


def wide(*tensors: torch.Tensor | None) -> bool:
    """Whether offsets inside a sample need 64 bits."""
    return any(t is not None and sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:])) >= 2**31 for t in tensors)


def readable(t: torch.Tensor | None) -> torch.Tensor | None:
    """A residual of another type than the kernels read, in float32."""
    return t if t is None or t.dtype in DTYPES else t.float()
