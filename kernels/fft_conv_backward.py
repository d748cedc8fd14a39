"""fft_conv in Triton, backward: three kernels that recompute from u, the kernel and the gates, without atomics.

    products   only where an activation, gate_out or the mask asks for it: c again, and from it dc (B, F, H, L), kept in float32
    adjoint    dv = corr(dc, k) + skip dc: the filters' conj(Q) DC are summed before one transform back; du and dgate_in
    gradient   sum_b conj(V) DC over a chunk of rows in registers, and dskip with it

Else dc = grad gate_out mask is formed where it is loaded.  Sums over chunks, and over the channels that share a kernel, are one
sum over the leading dimension of the chunks' sums, in an order that depends on sizes alone; then they are turned into taps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import configs
from . import fft_conv as forward
from . import fft_conv_dft as dft
from . import fft_conv_long_backward as long
from .common import cdiv, launch, load
from .fft_conv_dft import back, bins, places, product_of, row_sums, stretch, transform
from .fft_conv_tiles import ACTIVATIONS, dc_of, derive, rows_of, strides, untap, wide, write_input


@triton.jit(do_not_specialize=["length"])
def products_kernel(
    p_e, p_u, p_g, p_o, p_q, p_skip, p_mask, p_cu, p_w, p_dc, p_do, p_dm, channels, per_group, length,
    e_b, e_f, e_h, e_t, u_b, u_h, u_t, g_b, g_h, g_t, o_b, o_f, o_h, o_t, dc_b, dc_f, dc_h, do_b, do_f, do_h, do_t, q_s, q_f,
    FILTERS: tl.constexpr, ACT: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dc (.., F, H, L) with times contiguous, dgate_out, and sum_t grad act(z) (rows, F, H)."""
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
        if p_skip is not None:
            skip = load(p_skip + f * channels + h, h < channels)
            lo += skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, t, m)
        o_e = i_row * e_b + start * e_t + f * e_f + h * e_h
        o_o = i_row * o_b + start * o_t + f * o_f + h * o_h
        o_dc = i_row * dc_b + start + f * dc_f + h * dc_h
        o_do = i_row * do_b + start * do_t + f * do_f + h * do_h
        sums = derive(lo, p_e, o_e, e_t, p_o, o_o, o_t, p_dc, o_dc, p_do, o_do, do_t, factor, t, m, ACT, p_dm is not None)
        if HIGH:
            m_hi = m & (t + N < count)
            if p_skip is not None:
                hi += skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, t + N, m_hi)
            more = derive(hi, p_e, o_e, e_t, p_o, o_o, o_t, p_dc, o_dc, p_do, o_do, do_t, factor, t + N, m_hi, ACT,
                          p_dm is not None)  # fmt: skip
            sums = tl.where(m, sums, 0.0) + tl.where(m_hi, more, 0.0)
        if p_dm is not None:
            i = i_h * R + tl.arange(0, R)
            found = row_sums(tl.where(m, sums, 0.0), N1 * P, N // (N1 * P), R)
            tl.store(p_dm + (i_b.to(tl.int64) * FILTERS + f) * channels + i, found, mask=i < channels)


@triton.jit(do_not_specialize=["length"])
def adjoint_kernel(
    p_e, p_u, p_g, p_o, p_q, p_skip, p_mask, p_cu, p_w, p_du, p_dg, channels, per_group, length,
    e_b, e_f, e_h, e_t, u_b, u_h, u_t, g_b, g_h, g_t, o_b, o_f, o_h, o_t, d_b, d_h, d_t, q_s, q_f,
    FILTERS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = N1 * N2 * N3
    blocks = tl.cdiv(channels, R)
    i_b, i_h = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    i_row, start, count = stretch(i_b, p_cu, length)
    h, t = places(i_h, N1, N2, N3, R, P, WIDE)
    h_q, o_q = bins(i_h, N1, N2, N3, R)
    m, m_q = (h < channels) & (t < count), (h_q < channels) & (o_q >= 0)
    m_hi = m & (t + N < count)
    factor = 1.0
    if p_mask is not None:
        factor = load(p_mask + i_b.to(tl.int64) * channels + h, h < channels)
    o_e, o_o = i_row * e_b + start * e_t + h * e_h, i_row * o_b + start * o_t + h * o_h
    TAIL: tl.constexpr = N3 if N3 > 1 else N2
    re, im = tl.zeros([TAIL, R * N // TAIL], tl.float32), tl.zeros([TAIL, R * N // TAIL], tl.float32)

    for f in tl.range(0, FILTERS):
        lo = dc_of(p_e, o_e + f * e_f, e_t, p_o, o_o + f * o_f, o_t, factor, t, m)
        hi = lo
        if HIGH:
            hi = dc_of(p_e, o_e + f * e_f, e_t, p_o, o_o + f * o_f, o_t, factor, t + N, m_hi)
        c_re, c_im = transform(lo, hi, p_w, N1, N2, N3, R, P, HIGH, PRECISION)
        p = p_q + i_b.to(tl.int64) * q_s + f * q_f + h_q // per_group * (2 * N) + o_q
        q_re, q_im = tl.load(p, mask=m_q, other=0), tl.load(p + N, mask=m_q, other=0)
        re += c_re * q_re + c_im * q_im  # conj(Q) DC
        im += c_im * q_re - c_re * q_im
    lo, hi = back(re, im, p_w, N1, N2, N3, R, P, HIGH, PRECISION)

    if p_skip is not None:
        for f in tl.range(0, FILTERS):
            skip = load(p_skip + f * channels + h, h < channels)
            lo += skip * dc_of(p_e, o_e + f * e_f, e_t, p_o, o_o + f * o_f, o_t, factor, t, m)
            if HIGH:
                hi += skip * dc_of(p_e, o_e + f * e_f, e_t, p_o, o_o + f * o_f, o_t, factor, t + N, m_hi)
    o_u, o_g = i_row * u_b + start * u_t + h * u_h, i_row * g_b + start * g_t + h * g_h
    o_d = i_row * d_b + start * d_t + h * d_h
    write_input(lo, p_u, o_u, u_t, p_g, o_g, g_t, p_du, o_d, p_dg, o_d, d_t, t, m)
    if HIGH:
        write_input(hi, p_u, o_u, u_t, p_g, o_g, g_t, p_du, o_d, p_dg, o_d, d_t, t + N, m_hi)


@triton.jit(do_not_specialize=["length", "rows", "steps"])
def gradient_kernel(
    p_e, p_u, p_g, p_o, p_mask, p_cu, p_w, p_sum, p_v, p_ds, channels, per_group, length, rows, steps,
    e_b, e_f, e_h, e_t, u_b, u_h, u_t, g_b, g_h, g_t, o_b, o_f, o_h, o_t, s_chunk, s_within,
    FILTERS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sum_b conj(V) DC of chunk c, filter f, channel h at c s_chunk + (h % per_group) s_within + f G + h / per_group.
    With p_v, a program's own memory, V waits there, and the sum in its place, where registers have no room beside a transform.
    """
    N: tl.constexpr = N1 * N2 * N3
    blocks = tl.cdiv(channels, R)
    i_h, f = tl.program_id(0) % blocks, tl.program_id(0) // blocks % FILTERS
    i_c = (tl.program_id(0) // (blocks * FILTERS)).to(tl.int64)
    h, t = places(i_h, N1, N2, N3, R, P, WIDE)
    TAIL: tl.constexpr = N3 if N3 > 1 else N2
    re, im = tl.zeros([TAIL, R * N // TAIL], tl.float32), tl.zeros([TAIL, R * N // TAIL], tl.float32)
    d_skip = tl.zeros([R], tl.float32)
    h_q, o_q = bins(i_h, N1, N2, N3, R)
    m_q = (h_q < channels) & (o_q >= 0)
    if p_sum is not None:
        place = i_c * s_chunk + h_q % per_group * s_within + f * (channels // per_group) + h_q // per_group
        p = p_sum + place * (2 * N) + o_q
        o_v = (tl.program_id(0).to(tl.int64) * R + h_q - i_h * R) * (2 * N) + o_q

    for i in tl.range(0, tl.minimum(steps, rows - i_c * steps).to(tl.int32)):
        i_b = i_c * steps + i
        i_row, start, count = stretch(i_b, p_cu, length)
        m = (h < channels) & (t < count)
        m_hi = m & (t + N < count)
        factor = 1.0
        if p_mask is not None:
            factor = load(p_mask + i_b * channels + h, h < channels)
        o_e, o_o = i_row * e_b + start * e_t + h * e_h + f * e_f, i_row * o_b + start * o_t + h * o_h + f * o_f
        o_u, o_g = i_row * u_b + start * u_t + h * u_h, i_row * g_b + start * g_t + h * g_h
        if p_sum is not None:
            lo = product_of(p_u, o_u, u_t, p_g, o_g, g_t, t, m)
            hi = lo
            if HIGH:
                hi = product_of(p_u, o_u, u_t, p_g, o_g, g_t, t + N, m_hi)
            v_re, v_im = transform(lo, hi, p_w, N1, N2, N3, R, P, HIGH, PRECISION)
            if p_v is not None:
                tl.store(p_v + o_v, v_re)
                tl.store(p_v + o_v + N, v_im)
            tl.debug_barrier()  # nothing is loaded, or kept, for two transforms at once
        lo = dc_of(p_e, o_e, e_t, p_o, o_o, o_t, factor, t, m)
        hi = lo
        if HIGH:
            hi = dc_of(p_e, o_e, e_t, p_o, o_o, o_t, factor, t + N, m_hi)
        if p_ds is not None:
            products = lo * product_of(p_u, o_u, u_t, p_g, o_g, g_t, t, m)
            if HIGH:
                products += hi * product_of(p_u, o_u, u_t, p_g, o_g, g_t, t + N, m_hi)
            d_skip += row_sums(products, N1 * P, N // (N1 * P), R)
        if p_sum is not None:
            c_re, c_im = transform(lo, hi, p_w, N1, N2, N3, R, P, HIGH, PRECISION, "evict_last")
            if p_v is not None:
                tl.debug_barrier()
                v_re, v_im = tl.load(p_v + o_v), tl.load(p_v + o_v + N)
            s_re, s_im = v_re * c_re + v_im * c_im, v_re * c_im - v_im * c_re
            if p_v is not None:
                s_re += tl.load(p, mask=m_q & (i > 0), other=0)
                s_im += tl.load(p + N, mask=m_q & (i > 0), other=0)
                tl.store(p, s_re, mask=m_q)
                tl.store(p + N, s_im, mask=m_q)
                tl.debug_barrier()
            else:
                re, im = re + s_re, im + s_im

    if p_ds is not None:
        i = i_h * R + tl.arange(0, R)
        tl.store(p_ds + (i_c * FILTERS + f) * channels + i, d_skip, mask=i < channels)
    if p_sum is not None and p_v is None:
        tl.store(p, re, mask=m_q)
        tl.store(p + N, im, mask=m_q)


@triton.jit(do_not_specialize=["groups", "size", "lag0"])
def taps_kernel(
    p_q, p_w, p_k, groups, size, lag0,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, R: tl.constexpr, P: tl.constexpr,
    HIGH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Spectra (S F G, 2, N) -> taps (S F G, K)."""
    N: tl.constexpr = N1 * N2 * N3
    g, o = bins(tl.program_id(0), N1, N2, N3, R)
    p, m = p_q + g * (2 * N) + o, (g < groups) & (o >= 0)
    re, im = tl.load(p, mask=m, other=0), tl.load(p + N, mask=m, other=0)
    lo, hi = back(re * (1.0 / N), im * (1.0 / N), p_w, N1, N2, N3, R, P, HIGH, PRECISION)
    g, t = places(tl.program_id(0), N1, N2, N3, R, P, False)
    m = (g < groups) & (t >= 0)
    untap(p_k + g * size, lo, t, size, lag0, N, m)
    if HIGH:
        untap(p_k + g * size, hi, t + N, size, lag0, N, m)


# ---- host ----------------------------------------------------------------------------------------


def supports_fft_conv_backward(
    grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, call, needs
) -> tuple[bool, str]:
    return dft.supports(grad, kernel_shape, call)


def _products(call, plan, shared, grad, u, skip, gate_in, gate_out, mask, spectra, keep: bool, need):
    """dc or None, dgate_out or None, dmask or None."""
    from spectralops.ops.fft_conv_reference import new_like_y

    arguments, r, options = plan
    filters, channels = grad.shape[1:3]
    rows = shared["rows"]
    dc = torch.empty(grad.shape, dtype=torch.float32, device=grad.device) if keep else None
    d_gate = new_like_y(grad[:, 0], filters, call.blh) if need["gate_out"] else None
    d_mask = torch.empty((rows, filters, channels), dtype=torch.float32, device=grad.device) if need["mask"] else None
    launch(grad, products_kernel, (rows * cdiv(channels, r),), **options, p_e=grad, p_u=u, p_g=gate_in, p_o=gate_out,
           p_skip=skip, p_mask=mask, p_dc=dc, p_do=d_gate, p_dm=d_mask, **shared["all"], **spectra,
           **strides("e", grad, "bfht"), **strides("u", u, "bht"), **strides("g", gate_in, "bht"),
           **strides("o", gate_out, "bfht"), **strides("dc", dc, "bfh"), **strides("do", d_gate, "bfht"),
           ACT=ACTIVATIONS[call.activation], WIDE=wide(shared["n"], grad, u, gate_in, gate_out, d_gate),
           **arguments)  # fmt: skip
    return dc, d_gate, None if d_mask is None else d_mask.sum(1)


def partition(rows: int, programs: int, size: int) -> tuple[int, int]:
    """(rows of a chunk, chunks): enough programs for a large GPU, and no more partial sums than the workspace takes."""
    chunks = min(rows, cdiv(configs.FFT_CONV_PROGRAMS, programs), configs.FFT_CONV_WORKSPACE // max(size, 1))
    steps = cdiv(rows, max(chunks, 1))
    return steps, cdiv(rows, steps)


def _gradient(call, plan, shared, shape, e, u, gate_in, gate_out, mask, need):
    """dkernel or None, dskip or None."""
    arguments, r, options = plan
    (samples, filters, groups, size), (n, rows, channels) = shape, (shared["n"], shared["rows"], e.shape[2])
    blocks, within = cdiv(channels, r), channels // groups
    steps, chunks = (1, rows) if samples > 1 else partition(rows, blocks * filters, 2 * n * filters * channels)
    make = dict(dtype=torch.float32, device=e.device)
    d_skip = torch.empty((chunks, filters, channels), **make) if need["skip"] else None
    lead = within if samples > 1 else chunks * within  # a sample has one chunk of one row
    sums = torch.empty((lead, samples, filters, groups, 2, n), **make) if need["kernel"] else None
    own = need["kernel"] and n >= configs.FFT_CONV_SLAB
    waiting = torch.empty((blocks * filters * chunks, r, 2, n), **make) if own else None
    unit = filters * groups
    places = (unit, samples * unit) if samples > 1 else (within * unit, unit)
    launch(e, gradient_kernel, (blocks * filters * chunks,), **options, p_e=e, p_u=u, p_g=gate_in, p_o=gate_out, p_mask=mask,
           p_sum=sums, p_v=waiting, p_ds=d_skip, **shared["all"], rows=rows, steps=steps, **strides("e", e, "bfht"),
           **strides("u", u, "bht"), **strides("g", gate_in, "bht"), **strides("o", gate_out, "bfht"),
           s_chunk=places[0], s_within=places[1], WIDE=wide(n, e, u, gate_in, gate_out), **arguments)  # fmt: skip
    d_skip = None if d_skip is None else d_skip.sum(0)
    if sums is None:
        return None, d_skip
    sums = sums.sum(0) if lead > 1 else sums[0]
    if call.grid:
        return (sums / n).movedim(-2, -1).contiguous(), d_skip
    kernels = samples * unit
    arguments, r, options = dft.plan(n, kernels, shared["like"], call.precision)
    taps = torch.empty(shape, **make)
    launch(e, taps_kernel, (cdiv(kernels, r),), **options, p_q=sums, p_k=taps, groups=kernels, size=size, lag0=call.lag0,
           HIGH=size - call.lag0 > n or call.lag0 > 0, **arguments)  # fmt: skip
    return taps, d_skip


def _adjoint(call, plan, shared, e, u, skip, gate_in, gate_out, mask, spectra, need):
    """du or None, dgate_in or None."""
    from spectralops.ops.fft_conv_reference import new_like_u

    arguments, r, options = plan
    rows, channels = shared["rows"], e.shape[2]
    like = shared["like"]
    du, d_gate = (new_like_u(like[:, 0], call.blh) if need[name] else None for name in ("u", "gate_in"))
    given = du if du is not None else d_gate
    launch(e, adjoint_kernel, (rows * cdiv(channels, r),), **options, p_e=e, p_u=u if need["gate_in"] else None, p_g=gate_in,
           p_o=gate_out, p_skip=skip, p_mask=mask, p_du=du, p_dg=d_gate, **shared["all"], **spectra,
           **strides("e", e, "bfht"), **strides("u", u, "bht"), **strides("g", gate_in, "bht"),
           **strides("o", gate_out, "bfht"), **strides("d", given, "bht"),
           WIDE=wide(shared["n"], e, u, gate_in, gate_out, given), **arguments)  # fmt: skip
    return du, d_gate


def fft_conv_backward(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, call, needs):
    from spectralops.ops.fft_conv_reference import GRADIENTS

    filters, channels = grad.shape[1:3]
    _, _, groups, size = kernel_shape
    n = call.grid or dft.points(call.length, size, call.lag0)
    need = dict(zip(GRADIENTS, needs))
    if not dft.whole(n, call, grad, u, gate_in, gate_out):
        rows = rows_of(grad, cu_seqlens)
        tensors = (grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens)
        return long.Backward(*tensors, tuple(kernel_shape), call, need, n, rows).run()
    plan = dft.plan(n, channels, grad, call.precision)
    everything = {"p_cu": cu_seqlens, "channels": channels, "per_group": channels // groups, "length": call.length,
                  "FILTERS": filters, "HIGH": call.length > n}  # fmt: skip
    shared = {"rows": rows_of(grad, cu_seqlens), "n": n, "like": grad, "all": everything}
    found = dict.fromkeys(GRADIENTS)
    to_input, to_kernel = need["u"] or need["gate_in"], need["kernel"] or need["skip"]
    recompute = call.activation != "identity" or need["gate_out"] or need["mask"]
    spectra = forward.spectra(kernel, call, n, grad) if recompute or to_input else None
    e = grad
    if recompute:
        e, found["gate_out"], found["mask"] = _products(
            call, plan, shared, grad, u, skip, gate_in, gate_out, mask, spectra, to_input or to_kernel, need)  # fmt: skip
        gate_out = mask = None  # dc has them
    if to_kernel:
        found["kernel"], found["skip"] = _gradient(call, plan, shared, kernel_shape, e, u, gate_in, gate_out, mask, need)
    if to_input:
        found["u"], found["gate_in"] = _adjoint(call, plan, shared, e, u, skip, gate_in, gate_out, mask, spectra, need)
    return tuple(found.values())
