"""fft_conv in Triton for rows that no program holds: N = N0 M points in three launches with float32 memory between them.

With j = j0 M + j' and m = m0 + N0 m' a spectrum is a transform of N0 = 16 points down the columns, a turn, and a transform of
M points along each of the N0 rows:

    Q_m = sum_{j'} exp(-2 pi i j' m' / M) T0[m0, j'] sum_{j0} W0[m0, j0] z_j      W0 = exp(-2 pi i j0 (m0 + 1/4) / N0)
                                                                                 T0 = exp(-2 pi i j' (m0 + 1/4) / N)

    columns    W0 and T0 of blocks of columns: rows in, (item, 2, N0, M) out; an item is one row of one filter and channel
    rows       along M, all that happens between a transform and its inverse, and back: fft_conv_dft.py's levels, unshifted
    the rest   T0 and W0 back, and the epilogues of fft_conv.py and fft_conv_backward.py

A spectrum stays as (m0, m').  As many rows of a batch go at a time as the workspace holds.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from . import configs
from . import fft_conv_dft as dft
from .common import launch
from .fft_conv_dft import back, bins, matrix, operand, places, product_of, stretch, transform
from .fft_conv_tiles import ACTIVATIONS, strides, tap, wide, write

TRANSFORM, CONVOLVE, ADJOINT, INVERT = (tl.constexpr(i) for i in range(4))


# ---- inside kernels ------------------------------------------------------------------------------


@triton.jit
def column_places(N0: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr):
    """Item, and places (N0, COLUMNS) in a row, which are times on one side and m0 M + j' on the other."""
    blocks: tl.constexpr = M // COLUMNS
    column = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return tl.program_id(0) // blocks, tl.arange(0, N0)[:, None] * M + column


@triton.jit
def columns_forth(lo, hi, p_z, p_w, item, t, N0: tl.constexpr, M: tl.constexpr, HIGH: tl.constexpr, PRECISION: tl.constexpr):
    """Stores the columns of z = lo - i hi."""
    lo = operand(lo, PRECISION)
    w_re, w_im = matrix(p_w, N0, "")
    re = tl.dot(w_re, lo, input_precision=PRECISION)
    im = tl.dot(w_im, lo, input_precision=PRECISION)
    if HIGH:
        hi = operand(hi, PRECISION)
        re = tl.dot(w_im, hi, re, input_precision=PRECISION)
        im = tl.dot(-w_re, hi, im, input_precision=PRECISION)
    p_t = p_w + 4 * N0 * N0 + t
    t_re, t_im = tl.load(p_t), tl.load(p_t + N0 * M)
    p = p_z + item.to(tl.int64) * (2 * N0 * M) + t
    tl.store(p, re * t_re - im * t_im)
    tl.store(p + N0 * M, re * t_im + im * t_re)


@triton.jit
def columns_back(p_z, p_w, item, t, N0: tl.constexpr, M: tl.constexpr, HIGH: tl.constexpr, PRECISION: tl.constexpr):
    """lo and hi, which is lo unless HIGH."""
    p = p_z + item.to(tl.int64) * (2 * N0 * M) + t
    re, im = tl.load(p), tl.load(p + N0 * M)
    p_t = p_w + 4 * N0 * N0 + t
    t_re, t_im = tl.load(p_t), tl.load(p_t + N0 * M)
    re, im = operand(re * t_re + im * t_im, PRECISION), operand(im * t_re - re * t_im, PRECISION)
    w_re, w_im = matrix(p_w + 2 * N0 * N0, N0, "")  # W0, transposed
    lo = tl.dot(w_re, re, input_precision=PRECISION)
    lo = tl.dot(w_im, im, lo, input_precision=PRECISION)
    hi = lo
    if HIGH:
        hi = tl.dot(w_im, re, input_precision=PRECISION)
        hi = tl.dot(-w_re, im, hi, input_precision=PRECISION)
    return lo, hi


@triton.jit(do_not_specialize=["length", "first"])
def columns_kernel(
    p_x, p_g, p_mask, p_cu, p_w, p_z, p_u, p_i, p_sum, channels, length, first, x_b, x_f, x_h, x_t, g_b, g_f, g_h, g_t,
    u_b, u_h, u_t, i_b, i_h, i_t, FILTERS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N0: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Items (rows, FILTERS, channels) of x g mask; with p_sum also the sum of x g mask u i of each block."""
    N: tl.constexpr = N0 * M
    item, t = column_places(N0, M, COLUMNS)
    h, f = (item % channels).to(tl.int64), item // channels % FILTERS
    b = item // (channels * FILTERS) + first
    row, start, count = stretch(b, p_cu, length)
    o = t.to(tl.int64 if WIDE else tl.int32)
    m, m_hi = o < count, o + N < count
    factor = 1.0
    if p_mask is not None:
        factor = tl.load(p_mask + b.to(tl.int64) * channels + h)
    o_x, o_g = row * x_b + start * x_t + h * x_h + f * x_f, row * g_b + start * g_t + h * g_h + f * g_f
    lo = product_of(p_x, o_x, x_t, p_g, o_g, g_t, o, m) * factor
    hi = lo
    if HIGH:
        hi = product_of(p_x, o_x, x_t, p_g, o_g, g_t, o + N, m_hi) * factor
    if p_sum is not None:
        o_u, o_i = row * u_b + start * u_t + h * u_h, row * i_b + start * i_t + h * i_h
        products = lo * product_of(p_u, o_u, u_t, p_i, o_i, i_t, o, m)
        if HIGH:
            products += hi * product_of(p_u, o_u, u_t, p_i, o_i, i_t, o + N, m_hi)
        tl.store(p_sum + tl.program_id(0), tl.sum(tl.sum(products, 1), 0))
    if p_z is not None:
        columns_forth(lo, hi, p_z, p_w, item, t, N0, M, HIGH, PRECISION)


@triton.jit
def tile_of(p_z, item, place, N: tl.constexpr):
    p = p_z + item.to(tl.int64) * (2 * N) + place
    return tl.load(p), tl.load(p + N)


@triton.jit(do_not_specialize=["first"])
def rows_kernel(
    p_z, p_q, p_w, p_out, channels, per_group, first, q_s, q_f,
    MODE: tl.constexpr, FILTERS: tl.constexpr, N0: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """R rows m0 of an item: its transform; V times each filter, and back; the sum of conj(Q) DC, and back; or back alone.
    What is a spectrum in itself carries 1 / N, the kernel's and its gradient.
    """
    M: tl.constexpr = N1 * N2 * N3
    N: tl.constexpr = N0 * M
    TAIL: tl.constexpr = N3 if N3 > 1 else N2
    item, block = tl.program_id(0) // (N0 // R), tl.program_id(0) % (N0 // R)
    m0, t = places(block, N1, N2, N3, R, P, False)
    time = m0 * M + t
    m0, t = bins(block, N1, N2, N3, R)
    frequency = m0 * M + t
    row = item // channels
    q = (row + first).to(tl.int64) * q_s + item % channels // per_group * (2 * N)
    if MODE == TRANSFORM or MODE == CONVOLVE:
        re, im = tile_of(p_z, item, time, N)
        v_re, v_im = transform(re, -im, p_w, N1, N2, N3, R, P, True, PRECISION)
    if MODE == TRANSFORM:
        p = p_out + item.to(tl.int64) * (2 * N) + frequency
        tl.store(p, v_re * (1.0 / N))
        tl.store(p + N, v_im * (1.0 / N))
    elif MODE == CONVOLVE:
        for f in tl.range(0, FILTERS):
            q_re, q_im = tile_of(p_q + q + f * q_f, item * 0, frequency, N)
            lo, hi = back(v_re * q_re - v_im * q_im, v_re * q_im + v_im * q_re, p_w, N1, N2, N3, R, P, True, PRECISION)
            p = p_out + ((row * FILTERS + f) * channels + item % channels).to(tl.int64) * (2 * N) + time
            tl.store(p, lo)
            tl.store(p + N, -hi)
    else:
        re, im = tl.zeros([TAIL, R * M // TAIL], tl.float32), tl.zeros([TAIL, R * M // TAIL], tl.float32)
        if MODE == INVERT:
            re, im = tile_of(p_z, item, frequency, N)
            re, im = re * (1.0 / N), im * (1.0 / N)
        else:
            for f in tl.range(0, FILTERS):
                lo, hi = tile_of(p_z, (row * FILTERS + f) * channels + item % channels, time, N)
                c_re, c_im = transform(lo, -hi, p_w, N1, N2, N3, R, P, True, PRECISION)
                q_re, q_im = tile_of(p_q + q + f * q_f, item * 0, frequency, N)
                re += c_re * q_re + c_im * q_im
                im += c_im * q_re - c_re * q_im
        lo, hi = back(re, im, p_w, N1, N2, N3, R, P, True, PRECISION)
        p = p_out + item.to(tl.int64) * (2 * N) + time
        tl.store(p, lo)
        tl.store(p + N, -hi)


@triton.jit(do_not_specialize=["rows", "first", "before"])
def gradient_rows_kernel(
    p_v, p_c, p_w, p_sum, channels, per_group, rows, first, before, s_sample, s_within, FILTERS: tl.constexpr, N0: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """conj(V) DC of one row, or of all in turn where samples share a kernel, added to what stands in p_sum where rows went `before`."""
    M: tl.constexpr = N1 * N2 * N3
    N: tl.constexpr = N0 * M
    TAIL: tl.constexpr = N3 if N3 > 1 else N2
    block, item = tl.program_id(0) % (N0 // R), tl.program_id(0) // (N0 // R)
    h, f, sample = item % channels, item // channels % FILTERS, item // (channels * FILTERS)
    m0, t = places(block, N1, N2, N3, R, P, False)
    time = m0 * M + t
    m0, t = bins(block, N1, N2, N3, R)
    place = (sample + first).to(tl.int64) * s_sample + (h % per_group).to(tl.int64) * s_within
    p = p_sum + (place + f * (channels // per_group) + h // per_group) * (2 * N) + m0 * M + t
    re, im = tl.zeros([TAIL, R * M // TAIL], tl.float32), tl.zeros([TAIL, R * M // TAIL], tl.float32)
    for i in tl.range(0, rows):
        b = sample + i
        lo, hi = tile_of(p_v, b * channels + h, time, N)
        v_re, v_im = transform(lo, -hi, p_w, N1, N2, N3, R, P, True, PRECISION)
        tl.debug_barrier()  # nothing is loaded, or kept, for two transforms at once
        lo, hi = tile_of(p_c, (b * FILTERS + f) * channels + h, time, N)
        c_re, c_im = transform(lo, -hi, p_w, N1, N2, N3, R, P, True, PRECISION, "evict_last")
        re += v_re * c_re + v_im * c_im
        im += v_re * c_im - v_im * c_re
    more = t * 0 + before > 0
    re += tl.load(p, mask=more, other=0)
    im += tl.load(p + N, mask=more, other=0)
    tl.store(p, re)
    tl.store(p + N, im)


@triton.jit(do_not_specialize=["size", "lag0"])
def tap_columns_kernel(
    p_k, p_w, p_z, size, lag0, HIGH: tl.constexpr, N0: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr
):
    """Items (S F G): taps (S F G, K)."""
    N: tl.constexpr = N0 * M
    item, t = column_places(N0, M, COLUMNS)
    p = p_k + item.to(tl.int64) * size
    lo = tap(p, t, size, lag0, N, t >= 0)
    hi = lo
    if HIGH:
        hi = tap(p, t + N, size, lag0, N, t >= 0)
    columns_forth(lo, hi, p_z, p_w, item, t, N0, M, HIGH, PRECISION)


@triton.jit(do_not_specialize=["length", "first"])
def write_kernel(
    p_z, p_u, p_g, p_o, p_skip, p_mask, p_cu, p_w, p_y, channels, length, first, u_b, u_h, u_t, g_b, g_h, g_t,
    o_b, o_f, o_h, o_t, y_b, y_f, y_h, y_t, FILTERS: tl.constexpr, ACT: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N0: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Items (rows, FILTERS, channels) of conv(gate_in u) -> y."""
    N: tl.constexpr = N0 * M
    item, t = column_places(N0, M, COLUMNS)
    lo, hi = columns_back(p_z, p_w, item, t, N0, M, HIGH, PRECISION)
    h, f = (item % channels).to(tl.int64), item // channels % FILTERS
    b = item // (channels * FILTERS) + first
    row, start, count = stretch(b, p_cu, length)
    o = t.to(tl.int64 if WIDE else tl.int32)
    m, m_hi = o < count, o + N < count
    factor = 1.0
    if p_mask is not None:
        factor = tl.load(p_mask + b.to(tl.int64) * channels + h)
    o_u, o_g = row * u_b + start * u_t + h * u_h, row * g_b + start * g_t + h * g_h
    o_o, o_y = row * o_b + start * o_t + f * o_f + h * o_h, row * y_b + start * y_t + f * y_f + h * y_h
    v = 0.0
    if p_skip is not None:
        skip = tl.load(p_skip + f * channels + h)
        v = skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, o, m)
    write(p_y, o_y, y_t, lo, v, p_o, o_o, o_t, factor, o, m, ACT)
    if HIGH:
        if p_skip is not None:
            v = skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, o + N, m_hi)
        write(p_y, o_y, y_t, hi, v, p_o, o_o, o_t, factor, o + N, m_hi, ACT)


# ---- host ----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def outer_tables(n0: int, m: int, one_pass: bool, device: torch.device) -> torch.Tensor:
    """W0, W0 transposed, T0."""
    w = dft.turns(n0, n0, 0.25, n0)
    w = dft.tf32(w) if one_pass else w
    parts = (w, w.transpose(1, 2), dft.turns(n0, m, 0.25, n0 * m))
    return torch.cat([t.flatten() for t in parts]).float().to(device)


class Plan:
    """The three launches for N points."""

    def __init__(self, n: int, x: torch.Tensor, precision: str):
        self.n, self.x, self.n0 = n, x, configs.FFT_CONV_OUTER
        self.m = n // self.n0
        mode = dft.input_precision(x.dtype, precision)
        self.rows, self.r, self.row_options = dft.plan(self.m, self.n0, x, precision, shift=0.0)
        self.blocks = self.m // configs.FFT_CONV_COLUMNS
        self.columns = {"p_w": outer_tables(self.n0, self.m, mode == "tf32", x.device), "N0": self.n0, "M": self.m,
                        "COLUMNS": configs.FFT_CONV_COLUMNS, "PRECISION": mode}  # fmt: skip
        self.column_options = {"warps": configs.FFT_CONV_COLUMN_WARPS, "stages": 1, "fuse": True, "registers": 255}

    def items(self, count: int) -> torch.Tensor:
        return torch.empty((count, 2, self.n), dtype=torch.float32, device=self.x.device)

    def on_columns(self, kernel, count: int, **arguments) -> None:
        launch(self.x, kernel, (count * self.blocks,), **self.column_options, **self.columns, **arguments)

    def on_rows(self, mode, count: int, z, out, q=None, channels=1, per_group=1, first=0, filters=1) -> None:
        q = q or {"p_q": None, "q_s": 0, "q_f": 0}
        launch(self.x, rows_kernel, (count * (self.n0 // self.r),), **self.row_options, **self.rows, **q, p_z=z, p_out=out,
               channels=channels, per_group=per_group, first=first, MODE=mode.value, FILTERS=filters, N0=self.n0)  # fmt: skip

    def chunks(self, rows: int, items: int) -> list[tuple[int, int]]:
        """(first, count) of the rows that go at a time, each of so many items."""
        step = min(rows, max(1, configs.FFT_CONV_WORKSPACE // (2 * self.n * items)))
        return [(first, min(step, rows - first)) for first in range(0, rows, step)]

    def spectra(self, kernel: torch.Tensor, call) -> dict:
        """Taps or a spectrum -> spectra / N (S, F, G, 2, N0, M), as arguments."""
        samples, filters, groups, size = kernel.shape[:4]
        if call.grid:
            q = (kernel / self.n).view(samples, filters, groups, self.m, self.n0, 2).permute(0, 1, 2, 5, 4, 3).contiguous()
        else:
            q = self.items(samples * filters * groups)
            self.on_columns(tap_columns_kernel, q.shape[0], p_k=kernel, p_z=q, size=size, lag0=call.lag0,
                            HIGH=size - call.lag0 > self.n or call.lag0 > 0)  # fmt: skip
            self.on_rows(TRANSFORM, q.shape[0], q, q)
        return {"p_q": q, "q_s": filters * groups * 2 * self.n if samples > 1 else 0, "q_f": groups * 2 * self.n}

    def transform(self, first: int, count: int, x, gate, mask, cu_seqlens, call, channels: int, filters: int, sums=None) -> torch.Tensor:
        """Items of rows first .. first + count - 1 of x gate mask, (B, channels, L) or (B, filters, channels, L); `sums` are more
        arguments for the kernel.
        """
        z = self.items(count * filters * channels)
        axes = "bfht" if x.dim() == 4 else "bht"
        given = {f"{name}_f": 0 for name in "xg"} | strides("x", x, axes) | strides("g", gate, axes)
        sums = sums or {"p_u": None, "p_i": None, "p_sum": None, **strides("u", None, "bht"), **strides("i", None, "bht")}
        self.on_columns(columns_kernel, count * filters * channels, p_x=x, p_g=gate, p_mask=mask, p_cu=cu_seqlens, p_z=z,
                        channels=channels, length=call.length, first=first, FILTERS=filters, HIGH=call.length > self.n,
                        WIDE=wide(self.n, x, gate, sums["p_u"], sums["p_i"]), **given, **sums)  # fmt: skip
        return z

    def convolved(self, first: int, count: int, u, gate_in, cu_seqlens, call, spectra: dict, shape) -> torch.Tensor:
        """Items of conv(gate_in u), columns still to come back."""
        filters, groups = shape[1:3]
        channels = u.shape[1]
        z = self.transform(first, count, u, gate_in, None, cu_seqlens, call, channels, 1)
        out = z if filters == 1 else self.items(count * filters * channels)
        self.on_rows(CONVOLVE, count * channels, z, out, spectra, channels, channels // groups, first, filters)
        return out


def fft_conv(y, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, call, n: int, rows: int) -> None:
    plan = Plan(n, u, call.precision)
    channels, filters = u.shape[1], kernel.shape[1]
    spectra = plan.spectra(kernel, call)
    for first, count in plan.chunks(rows, channels * (filters + (filters > 1))):
        z = plan.convolved(first, count, u, gate_in, cu_seqlens, call, spectra, kernel.shape)
        plan.on_columns(write_kernel, count * filters * channels, p_z=z, p_u=u, p_g=gate_in, p_o=gate_out, p_skip=skip,
                        p_mask=mask, p_cu=cu_seqlens, p_y=y, channels=channels, length=call.length, first=first,
                        **strides("u", u, "bht"), **strides("g", gate_in, "bht"), **strides("o", gate_out, "bfht"),
                        **strides("y", y, "bfht"), FILTERS=filters, ACT=ACTIVATIONS[call.activation],
                        HIGH=call.length > n, WIDE=wide(n, u, gate_in, gate_out, y))  # fmt: skip
