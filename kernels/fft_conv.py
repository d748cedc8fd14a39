"""fft_conv in Triton, forward: y = act(gate_out (conv(gate_in u) + skip gate_in u)) mask, a row read once and written once.

Formulas and shapes are those of ops/fft_conv_reference.py, the transform is fft_conv_dft.py's.  Taps are transformed once,
by a kernel of their own; then a program takes R channels of a row: transform, and for each filter product, transform back,
epilogue.  Where L <= N, as in every causal call with as many taps as times, the upper half of the 2 N real numbers is
neither loaded nor computed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import fft_conv_dft as dft
from . import fft_conv_long as long
from .common import cdiv, launch, load
from .fft_conv_dft import back, bins, places, product_of, stretch, transform
from .fft_conv_tiles import ACTIVATIONS, rows_of, strides, tap, wide, write


@triton.jit(do_not_specialize=["size", "lag0"])
def spectrum_kernel(
    p_k, p_w, p_q, groups, size, lag0,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr,
    HIGH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Taps (S F G, K) -> spectra / N (S F G, 2, N)."""
    N: tl.constexpr = N1 * N2 * N3
    g, t = places(tl.program_id(0), N1, N2, N3, R, P, False)
    m = (g < groups) & (t >= 0)
    lo = tap(p_k + g * size, t, size, lag0, N, m)
    hi = lo
    if HIGH:
        hi = tap(p_k + g * size, t + N, size, lag0, N, m)
    re, im = transform(lo, hi, p_w, N1, N2, N3, R, P, HIGH, PRECISION)
    g, o = bins(tl.program_id(0), N1, N2, N3, R)
    p, m = p_q + g * (2 * N) + o, (g < groups) & (o >= 0)
    tl.store(p, re * (1.0 / N), mask=m)
    tl.store(p + N, im * (1.0 / N), mask=m)


@triton.jit(do_not_specialize=["length"])
def forward_kernel(
    p_u, p_g, p_o, p_q, p_skip, p_mask, p_cu, p_w, p_y, channels, per_group, length, u_b, u_h, u_t, g_b, g_h, g_t,
    o_b, o_f, o_h, o_t, y_b, y_f, y_h, y_t, q_s, q_f,
    FILTERS: tl.constexpr, ACT: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = N1 * N2 * N3
    blocks = tl.cdiv(channels, R)
    i_b, i_h = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    i_row, start, count = stretch(i_b, p_cu, length)
    h, t = places(i_h, N1, N2, N3, R, P, WIDE)
    h_q, o_q = bins(i_h, N1, N2, N3, R)
    m, m_q = (h < channels) & (t < count), (h_q < channels) & (o_q >= 0)
    o_u, o_g = i_row * u_b + start * u_t + h * u_h, i_row * g_b + start * g_t + h * g_h
    lo = product_of(p_u, o_u, u_t, p_g, o_g, g_t, t, m)
    hi = lo
    if HIGH:
        hi = product_of(p_u, o_u, u_t, p_g, o_g, g_t, t + N, m & (t + N < count))
    v_re, v_im = transform(lo, hi, p_w, N1, N2, N3, R, P, HIGH, PRECISION)

    factor = 1.0
    if p_mask is not None:
        factor = load(p_mask + i_b.to(tl.int64) * channels + h, h < channels)
    for f in tl.range(0, FILTERS):
        p = p_q + i_b.to(tl.int64) * q_s + f * q_f + h_q // per_group * (2 * N) + o_q
        q_re, q_im = tl.load(p, mask=m_q, other=0), tl.load(p + N, mask=m_q, other=0)
        lo, hi = back(v_re * q_re - v_im * q_im, v_re * q_im + v_im * q_re, p_w, N1, N2, N3, R, P, HIGH, PRECISION)
        skip = 0.0
        if p_skip is not None:
            skip = load(p_skip + f * channels + h, h < channels)
        o_o = i_row * o_b + start * o_t + f * o_f + h * o_h
        o_y = i_row * y_b + start * y_t + f * y_f + h * y_h
        v = 0.0
        if p_skip is not None:
            v = skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, t, m)
        write(p_y, o_y, y_t, lo, v, p_o, o_o, o_t, factor, t, m, ACT)
        if HIGH:
            m_hi = m & (t + N < count)
            if p_skip is not None:
                v = skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, t + N, m_hi)
            write(p_y, o_y, y_t, hi, v, p_o, o_o, o_t, factor, t + N, m_hi, ACT)


# ---- host ----------------------------------------------------------------------------------------


def supports_fft_conv(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, call) -> tuple[bool, str]:
    return dft.supports(u, kernel.shape, call)


def spectra(kernel: torch.Tensor, call, n: int, x: torch.Tensor):
    """Taps or a spectrum -> spectra / N (S, F, G, 2, N), as arguments."""
    samples, filters, groups, size = kernel.shape[:4]
    arguments, r, options = dft.plan(n, samples * filters * groups, x, call.precision)
    if call.grid:
        q = (kernel / n).movedim(-1, -2).contiguous()
    else:
        q = torch.empty((samples, filters, groups, 2, n), dtype=torch.float32, device=x.device)
        launch(x, spectrum_kernel, (cdiv(samples * filters * groups, r),), **options, p_k=kernel, p_q=q,
               groups=samples * filters * groups, size=size, lag0=call.lag0, HIGH=size - call.lag0 > n or call.lag0 > 0,
               **arguments)  # fmt: skip
    return {"p_q": q, "q_s": filters * groups * 2 * n if samples > 1 else 0, "q_f": groups * 2 * n}


def fft_conv(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, call):
    from spectralops.ops.fft_conv_reference import new_like_y

    channels, (_, filters, groups, size) = u.shape[1], kernel.shape[:4]
    y = new_like_y(u, filters, call.blh)
    n = call.grid or dft.points(call.length, size, call.lag0)
    if not dft.whole(n, call, u, gate_in, gate_out):
        long.fft_conv(y, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, call, n, rows_of(u, cu_seqlens))
        return y
    arguments, r, options = dft.plan(n, channels, u, call.precision)
    launch(u, forward_kernel, (rows_of(u, cu_seqlens) * cdiv(channels, r),), **options,
           p_u=u, p_g=gate_in, p_o=gate_out, p_skip=skip, p_mask=mask, p_cu=cu_seqlens, p_y=y,
           channels=channels, per_group=channels // groups, length=call.length, **strides("u", u, "bht"),
           **strides("g", gate_in, "bht"), **strides("o", gate_out, "bfht"), **strides("y", y, "bfht"), FILTERS=filters,
           ACT=ACTIVATIONS[call.activation], HIGH=call.length > n,
           WIDE=wide(n, u, gate_in, gate_out, y), **spectra(kernel, call, n, u), **arguments)  # fmt: skip
    return y
