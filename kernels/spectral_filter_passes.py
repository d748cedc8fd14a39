"""spectral_filter in Triton for grids that no program holds, and for one and three dimensions: a launch a dimension and
direction, each a dense product from the left with the matrix of its transform, the half spectrum between them in float32 memory.

    rows        (b, n1, n2; n3, c) -> (b, n1, n2; k3, c)        real to complex, layer norm on the way in
    columns     (outer, n, inner) -> (outer, k, inner)          along n2, then n1, and back; the last one multiplies by W, and
                                                                up to 64 points it goes there and back in one launch
    last rows   (b, n1, n2; k3, c) -> (b, n1, n2; n3, c)        complex to real, residual on the way out

A spectrum is (2, b, n1, n2, bins, c): real parts, then imaginary parts.  Bytes, s an element of x, N elements: in two dimensions
2 N s + 16 N (1 + 2 / N3) up to 64 rows and 24 in place of 16 beyond, against 2 N s; a gradient's are 2 N s and 32 N (1 + 2 / N3).
Dense products take 2 (N3 + 2) operations an element and direction along rows and 4 N2 along columns: a side of 256 is bound by
them.  As many samples go at a time as the workspace holds.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from . import configs
from . import fft_conv_dft as dft
from . import spectral_filter_dft as grids
from .common import cdiv, launch, load, next_power_of_2, store
from .fft_conv_dft import input_precision, operand
from .spectral_filter_dft import added, filtered, normalised, part

# ---- kernels -------------------------------------------------------------------------------------


@triton.jit
def work(inner, tiles, BM: tl.constexpr, TN: tl.constexpr):
    """Outer index, rows and columns of the result a program makes, (BM, 1) and (1, TN); all rows of a column together."""
    blocks = tl.cdiv(inner, TN)
    rest = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * BM + tl.arange(0, BM)[:, None]
    return (rest // blocks).to(tl.int64), row, rest % blocks * TN + tl.arange(0, TN)[None, :]


@triton.jit
def spectrum_place(p_q, b, q_s, row, i, inner, channels, per_group):
    """The weights of sample b, and where in them (row, i) of (n, inner) stands, inner ending in the channels."""
    groups = channels // per_group
    return p_q + b * q_s, (row * (inner // channels) + i // channels) * groups + i % channels // per_group


@triton.jit(do_not_specialize=["n1", "n2", "n3", "points", "plane", "tiles"])
def rows_kernel(
    p_x, p_mean, p_nw, p_nb, p_w, p_q, p_z, n1, n2, n3, channels, per_group, points, plane, tiles, q_s, x_b, x_1, x_2, x_3, x_c,
    PERIOD: tl.constexpr, CONJ: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, TN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    outer, k3, c = work(channels, tiles, BM, TN)
    b = outer // (n1 * n2)
    p = p_x + b * x_b + outer // n2 % n1 * x_1 + outer % n2 * x_2 + c.to(tl.int64) * x_c
    p_row = p_w + tl.program_id(0) % tiles * (BM * PERIOD)
    re, im = tl.zeros([BM, TN], tl.float32), tl.zeros([BM, TN], tl.float32)
    for i in tl.range(0, n3, BK):
        i_3 = i + tl.arange(0, BK)[:, None]
        m = (i_3 < n3) & (c < channels)
        x = load(p + i_3.to(tl.int64) * x_3, m)
        if p_mean is not None:
            x = normalised(x, p_mean, outer * n3 + i_3, points, p_nw, p_nb, c, m)
        x = operand(x, PRECISION)
        re = tl.dot(part(p_row + i, BM, BK, PERIOD, ""), x, re, input_precision=PRECISION)
        im = tl.dot(part(p_row + i + tiles * (BM * PERIOD), BM, BK, PERIOD, ""), x, im, input_precision=PRECISION)
    half = n3 // 2 + 1
    m = (k3 < half) & (c < channels)
    if p_q is not None:
        p_s, o = spectrum_place(p_q, b, q_s, k3, c, channels, channels, per_group)
        re, im = filtered(re, im, p_s, o, m, CONJ)
    p = p_z + (outer * half + k3) * channels + c
    tl.store(p, re, mask=m)
    tl.store(p + plane, im, mask=m)


@triton.jit(do_not_specialize=["n", "plane", "tiles"])
def columns_kernel(
    p_x, p_w, p_q, p_z, n, inner, channels, per_group, plane, tiles, q_s,
    PERIOD: tl.constexpr, INVERSE: tl.constexpr, CONJ: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, TN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    outer, k, c = work(inner, tiles, BM, TN)
    p = p_x + outer * n * inner + c
    p_row = p_w + tl.program_id(0) % tiles * (BM * PERIOD)
    re, im = tl.zeros([BM, TN], tl.float32), tl.zeros([BM, TN], tl.float32)
    for i in tl.range(0, n, BK):
        row = i + tl.arange(0, BK)[:, None]
        m = (row < n) & (c < inner)
        x_re = operand(load(p + row.to(tl.int64) * inner, m), PRECISION)
        x_im = operand(load(p + row.to(tl.int64) * inner + plane, m), PRECISION)
        w_re = part(p_row + i, BM, BK, PERIOD, "")
        w_im = part(p_row + i + tiles * (BM * PERIOD), BM, BK, PERIOD, "")
        re = tl.dot(w_re, x_re, re, input_precision=PRECISION)
        im = tl.dot(-w_im if INVERSE else w_im, x_re, im, input_precision=PRECISION)
        re = tl.dot(w_im if INVERSE else -w_im, x_im, re, input_precision=PRECISION)
        im = tl.dot(w_re, x_im, im, input_precision=PRECISION)
    m = (k < n) & (c < inner)
    if p_q is not None:
        p_s, o = spectrum_place(p_q, outer, q_s, k, c, inner, channels, per_group)
        re, im = filtered(re, im, p_s, o, m, CONJ)
    p = p_z + (outer * n + k) * inner + c
    tl.store(p, re, mask=m)
    tl.store(p + plane, im, mask=m)


@triton.jit(do_not_specialize=["n", "plane"])
def there_and_back_kernel(
    p_w, p_q, p_z, n, inner, channels, per_group, plane, q_s,
    CONJ: tl.constexpr, BM: tl.constexpr, TN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns of up to BM points in place: transform, times W, back."""
    outer, k, c = work(inner, 1, BM, TN)
    p = p_z + outer * n * inner + c
    row = tl.arange(0, 16)[:, None]
    re, im = tl.zeros([BM, TN], tl.float32), tl.zeros([BM, TN], tl.float32)
    for first in tl.range(0, BM, 16, disable_licm=True):  # slabs, as in spectral_filter_dft.py
        m, o = (first + row < n) & (c < inner), (first + row).to(tl.int64) * inner
        x_re, x_im = operand(load(p + o, m), PRECISION), operand(load(p + o + plane, m), PRECISION)
        re, im = added(re, im, p_w + first, x_re, x_im, BM, 16, BM, False, "", PRECISION)
    tl.debug_barrier()  # all has been read before any of it is written
    p_s, o_q = spectrum_place(p_q, outer, q_s, k, c, inner, channels, per_group)
    re, im = filtered(re, im, p_s, o_q, (k < n) & (c < inner), CONJ)
    re, im = operand(re, PRECISION), operand(im, PRECISION)
    zero = tl.zeros([16, TN], tl.float32)
    for first in tl.range(0, BM, 16, disable_licm=True):
        y_re, y_im = added(zero, zero, p_w + first * BM, re, im, 16, BM, BM, True, "evict_last", PRECISION)
        m, o = (first + row < n) & (c < inner), (first + row).to(tl.int64) * inner
        tl.store(p + o, y_re, mask=m)
        tl.store(p + o + plane, y_im, mask=m)


@triton.jit(do_not_specialize=["n1", "n2", "n3", "plane", "tiles"])
def last_rows_kernel(
    p_z, p_w, p_r, p_y, n1, n2, n3, channels, plane, tiles, r_b, r_1, r_2, r_3, r_c, y_b, y_1, y_2, y_3, y_c,
    PERIOD: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, TN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    outer, i_3, c = work(channels, tiles, BM, TN)
    half = n3 // 2 + 1
    p = p_z + outer * half * channels + c
    p_row = p_w + tl.program_id(0) % tiles * (BM * PERIOD)
    y = tl.zeros([BM, TN], tl.float32)
    for i in tl.range(0, half, BK):
        k3 = i + tl.arange(0, BK)[:, None]
        m = (k3 < half) & (c < channels)
        re = operand(load(p + k3.to(tl.int64) * channels, m), PRECISION)
        im = operand(load(p + k3.to(tl.int64) * channels + plane, m), PRECISION)
        y = tl.dot(part(p_row + i, BM, BK, PERIOD, ""), re, y, input_precision=PRECISION)
        y = tl.dot(part(p_row + i + tiles * (BM * PERIOD), BM, BK, PERIOD, ""), im, y, input_precision=PRECISION)
    b, i_1, i_2, row, m = outer // (n1 * n2), outer // n2 % n1, outer % n2, i_3.to(tl.int64), (i_3 < n3) & (c < channels)
    if p_r is not None:
        y += load(p_r + b * r_b + i_1 * r_1 + i_2 * r_2 + row * r_3 + c.to(tl.int64) * r_c, m)
    store(p_y + b * y_b + i_1 * y_1 + i_2 * y_2 + row * y_3 + c.to(tl.int64) * y_c, y, m)


@triton.jit(do_not_specialize=["batch", "steps", "inner", "plane"])
def products_kernel(p_x, p_g, p_sum, batch, steps, inner, plane, channels, n3, scale, BLOCK: tl.constexpr):
    """sum of conj(X) G over `steps` samples -> (chunks, inner, 2), times c scale; scale is 1 / points as a count of them."""
    blocks = tl.cdiv(inner, BLOCK)
    chunk, i = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    m = i < inner
    re, im = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for step in tl.range(0, tl.minimum(steps, batch - chunk * steps)):
        o = (chunk * steps + step) * inner + i
        x_re, x_im, g_re, g_im = load(p_x + o, m), load(p_x + o + plane, m), load(p_g + o, m), load(p_g + o + plane, m)
        re += x_re * g_re + x_im * g_im
        im += x_re * g_im - x_im * g_re
    k3 = i // channels % (n3 // 2 + 1)
    count = tl.where((k3 == 0) | (2 * k3 == n3), 1.0, 2.0) / scale
    two = tl.arange(0, 2)[None, :]
    p = p_sum + (chunk * inner + i)[:, None] * 2 + two
    tl.store(p, tl.join(re * count, im * count), mask=m[:, None] & (two >= 0))


# ---- host ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def table(which: str, n: int, rows: int, columns: int, scale: float, one_pass: bool, device: torch.device) -> torch.Tensor:
    """Real and imaginary parts (2, rows, columns) of the matrix of `which` pass, zero where padded."""
    if which == "columns":
        w = torch.zeros(2, rows, columns, dtype=torch.float64)
        w[:, :n, :n] = dft.turns(n, n, 0.0, n)
    elif which == "rows":
        w = grids.rows_table(n, rows, columns, 1.0)[0]
    else:
        w = grids.rows_table(n, columns, rows, scale)[1].transpose(0, 1)
    return (dft.tf32(w) if one_pass else w).float().contiguous().to(device)


class Passes:
    """The launches over samples of one call; sizes (b, n1, n2, n3, c) of x."""

    def __init__(self, x: torch.Tensor, mode: str):
        self.x, self.mode, self.row = x, mode, configs.SPECTRAL_FILTER_PASSES
        self.n1, self.n2, self.n3, self.channels = x.shape[1:]
        self.half = self.n3 // 2 + 1
        self.options = {"warps": self.row.warps, "stages": self.row.stages, "fuse": True}

    def spectrum(self, batch: int) -> torch.Tensor:
        return torch.empty((2, batch, self.n1, self.n2, self.half, self.channels), dtype=torch.float32, device=self.x.device)

    def axes(self) -> list[tuple[int, int, int]]:
        """(outer a sample, n, inner) of the columns to be transformed."""
        along = [(self.n1, self.n2, self.half * self.channels), (1, self.n1, self.n2 * self.half * self.channels)]
        return [axis for axis in along if axis[1] > 1]

    def product(self, which: str, n: int, rows: int, count: int, inner: int, scale: float = 1.0) -> tuple[tuple, dict]:
        """The grid and the arguments of a pass whose result has so many rows, of `count` (count, inner)."""
        k = self.half if which == "last" else n
        crowded = which == "columns" and self.mode != "tf32"  # four products, three for each, of operands in registers
        bm = 32 if crowded or cdiv(rows, 32) % 2 else self.row.rows
        tiles, period = cdiv(rows, bm), cdiv(k, self.row.depth) * self.row.depth
        tn = min(self.row.columns, max(16, next_power_of_2(inner)))
        w = table(which, n, tiles * bm, period, scale, self.mode == "tf32", self.x.device)
        arguments = {"p_w": w, "tiles": tiles, "PERIOD": period, "BM": bm, "BK": self.row.depth, "TN": tn,
                     "PRECISION": self.mode}  # fmt: skip
        return (count * cdiv(inner, tn) * tiles,), {**arguments, **self.options}

    def weights(self, q: torch.Tensor | None, conj: bool) -> dict:
        if q is None:
            return {"p_q": None, "q_s": 0, "per_group": 1, "CONJ": False}
        per_group = self.channels // q.shape[4]
        return {"p_q": q, "q_s": q.stride(0) if q.shape[0] > 1 else 0, "per_group": per_group, "CONJ": conj}

    def rows(self, x, mean, first, norm_weight, norm_bias, q=None, conj=False) -> torch.Tensor:
        """Samples x, the first of which is `first`."""
        z, points = self.spectrum(x.shape[0]), self.n1 * self.n2 * self.n3
        grid, arguments = self.product("rows", self.n3, self.half, x.shape[0] * self.n1 * self.n2, self.channels)
        launch(x, rows_kernel, grid, **arguments, **self.weights(q, conj), p_x=x, p_z=z, p_nw=norm_weight, p_nb=norm_bias,
               p_mean=None if mean is None else mean[:, first * points :], points=self.x.shape[0] * points, n1=self.n1,
               n2=self.n2, n3=self.n3, channels=self.channels, plane=z[0].numel(), **grids.strides("x", x))  # fmt: skip
        return z

    def columns(self, z, axis, inverse, q=None, conj=False) -> torch.Tensor:
        count, n, inner = axis
        out = torch.empty_like(z)
        grid, arguments = self.product("columns", n, n, z.shape[1] * count, inner)
        launch(z, columns_kernel, grid, **arguments, **self.weights(q, conj), p_x=z, p_z=out, n=n, inner=inner,
               channels=self.channels, plane=z[0].numel(), INVERSE=inverse)  # fmt: skip
        return out

    def there_and_back(self, z, axis, q, conj) -> torch.Tensor:
        count, n, inner = axis
        if n > max(configs.SPECTRAL_FILTER_COLUMNS):
            return self.columns(self.columns(z, axis, False, q, conj), axis, True)
        bm = max(16, next_power_of_2(n))
        row = configs.SPECTRAL_FILTER_COLUMNS[bm]
        launch(z, there_and_back_kernel, (z.shape[1] * count * cdiv(inner, row.channels),), warps=row.warps, stages=1, fuse=True,
               p_w=table("columns", n, bm, bm, 1.0, self.mode == "tf32", z.device), p_z=z, n=n, inner=inner,
               channels=self.channels, plane=z[0].numel(), BM=bm, TN=row.channels, PRECISION=self.mode,
               **self.weights(q, conj))  # fmt: skip
        return z

    def last_rows(self, z, residual, y) -> None:
        grid, arguments = self.product("last", self.n3, self.n3, y.shape[0] * self.n1 * self.n2, self.channels,
                                       1 / (self.n1 * self.n2 * self.n3))  # fmt: skip
        launch(y, last_rows_kernel, grid, **arguments, p_z=z, p_r=residual, p_y=y, n1=self.n1, n2=self.n2, n3=self.n3,
               channels=self.channels, plane=z[0].numel(), **grids.strides("r", residual), **grids.strides("y", y))  # fmt: skip

    def chunks(self, multiple: int = 1) -> list[tuple[int, int]]:
        """(first, last) of the samples that go at a time, a multiple of so many; two spectra have to fit."""
        batch, sample = self.x.shape[0], 4 * self.n1 * self.n2 * self.half * self.channels
        step = max(1, configs.SPECTRAL_FILTER_WORKSPACE // (sample * multiple)) * multiple
        return [(first, min(first + step, batch)) for first in range(0, batch, step)]


def spectral_filter(y, x, weight, mean, norm_weight, norm_bias, residual, conj) -> None:
    passes = Passes(x, input_precision(x.dtype, "highest"))
    axes = passes.axes()
    for first, last in passes.chunks():
        q = weight[first:last] if weight.shape[0] > 1 else weight
        z = passes.rows(x[first:last], mean, first, norm_weight, norm_bias, None if axes else q, conj)
        for axis in axes[:-1]:
            z = passes.columns(z, axis, False)
        if axes:
            z = passes.there_and_back(z, axes[-1], q, conj)
        for axis in axes[-2::-1]:
            z = passes.columns(z, axis, True)
        passes.last_rows(z, None if residual is None else residual[first:last], y[first:last])


def products(x, grad, mean, norm_weight, norm_bias, samples, mode, chunked) -> torch.Tensor:
    """(chunks, N1, N2, bins, C, 2): sums of conj(X) G over chunks of samples, times c / N."""
    passes, block = Passes(x, mode), configs.SPECTRAL_FILTER_SUM.elements
    inner = passes.n1 * passes.n2 * passes.half * passes.channels
    steps, chunks = chunked(x.shape[0], cdiv(inner, block)) if samples == 1 else (1, x.shape[0])
    sums = torch.empty((chunks, *passes.spectrum(0).shape[2:], 2), dtype=torch.float32, device=x.device)
    for first, last in passes.chunks(steps):
        z = [passes.rows(x[first:last], mean, first, norm_weight, norm_bias), passes.rows(grad[first:last], None, 0, None, None)]
        for axis in passes.axes():
            z = [passes.columns(t, axis, False) for t in z]
        count = cdiv(last - first, steps)
        launch(x, products_kernel, (count * cdiv(inner, block),), warps=configs.SPECTRAL_FILTER_SUM.warps, fuse=True,
               p_x=z[0], p_g=z[1], p_sum=sums[first // steps :], batch=last - first, steps=steps, inner=inner,
               plane=z[0][0].numel(), channels=passes.channels, n3=passes.n3, scale=passes.n1 * passes.n2 * passes.n3,
               BLOCK=block)  # fmt: skip
    return sums
