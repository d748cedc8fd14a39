"""fft_conv in Triton, backward, for rows that no program holds: fft_conv_backward.py's three parts on fft_conv_long.py's launches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .common import launch
from .fft_conv_dft import product_of, stretch
from .fft_conv_long import ADJOINT, INVERT, Plan, column_places, columns_back, gradient_rows_kernel
from .fft_conv_tiles import ACTIVATIONS, dc_of, derive, strides, untap, wide, write_input


@triton.jit(do_not_specialize=["length", "first"])
def derive_kernel(
    p_z, p_e, p_u, p_g, p_o, p_skip, p_mask, p_cu, p_w, p_dc, p_do, p_dm, channels, length, first,
    e_b, e_f, e_h, e_t, u_b, u_h, u_t, g_b, g_h, g_t, o_b, o_f, o_h, o_t, dc_b, dc_f, dc_h, do_b, do_f, do_h, do_t,
    FILTERS: tl.constexpr, ACT: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N0: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Items (rows, FILTERS, channels) of conv(gate_in u) -> dc, dgate_out, and sum_t grad act(z) of each block."""
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
    o_e, o_o = row * e_b + start * e_t + f * e_f + h * e_h, row * o_b + start * o_t + f * o_f + h * o_h
    o_dc, o_do = row * dc_b + start + f * dc_f + h * dc_h, row * do_b + start * do_t + f * do_f + h * do_h
    if p_skip is not None:
        skip = tl.load(p_skip + f * channels + h)
        lo += skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, o, m)
        if HIGH:
            hi += skip * product_of(p_u, o_u, u_t, p_g, o_g, g_t, o + N, m_hi)
    MASK: tl.constexpr = p_dm is not None
    sums = derive(lo, p_e, o_e, e_t, p_o, o_o, o_t, p_dc, o_dc, p_do, o_do, do_t, factor, o, m, ACT, MASK)
    sums = tl.where(m, sums, 0.0)
    if HIGH:
        more = derive(hi, p_e, o_e, e_t, p_o, o_o, o_t, p_dc, o_dc, p_do, o_do, do_t, factor, o + N, m_hi, ACT, MASK)
        sums += tl.where(m_hi, more, 0.0)
    if MASK:
        tl.store(p_dm + tl.program_id(0), tl.sum(tl.sum(sums, 1), 0))


@triton.jit(do_not_specialize=["length", "first"])
def input_kernel(
    p_z, p_e, p_u, p_g, p_o, p_skip, p_mask, p_cu, p_w, p_du, p_dg, channels, length, first,
    e_b, e_f, e_h, e_t, u_b, u_h, u_t, g_b, g_h, g_t, o_b, o_f, o_h, o_t, d_b, d_h, d_t,
    FILTERS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    N0: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Items (rows, channels) of corr(dc, k) -> du, dgate_in."""
    N: tl.constexpr = N0 * M
    item, t = column_places(N0, M, COLUMNS)
    lo, hi = columns_back(p_z, p_w, item, t, N0, M, HIGH, PRECISION)
    h, b = (item % channels).to(tl.int64), item // channels + first
    row, start, count = stretch(b, p_cu, length)
    o = t.to(tl.int64 if WIDE else tl.int32)
    m, m_hi = o < count, o + N < count
    if p_skip is not None:
        factor = 1.0
        if p_mask is not None:
            factor = tl.load(p_mask + b.to(tl.int64) * channels + h)
        for f in tl.range(0, FILTERS):
            o_e, o_o = row * e_b + start * e_t + h * e_h + f * e_f, row * o_b + start * o_t + h * o_h + f * o_f
            skip = tl.load(p_skip + f * channels + h)
            lo += skip * dc_of(p_e, o_e, e_t, p_o, o_o, o_t, factor, o, m)
            if HIGH:
                hi += skip * dc_of(p_e, o_e, e_t, p_o, o_o, o_t, factor, o + N, m_hi)
    o_u, o_g = row * u_b + start * u_t + h * u_h, row * g_b + start * g_t + h * g_h
    o_d = row * d_b + start * d_t + h * d_h
    write_input(lo, p_u, o_u, u_t, p_g, o_g, g_t, p_du, o_d, p_dg, o_d, d_t, o, m)
    if HIGH:
        write_input(hi, p_u, o_u, u_t, p_g, o_g, g_t, p_du, o_d, p_dg, o_d, d_t, o + N, m_hi)


@triton.jit(do_not_specialize=["size", "lag0"])
def untap_kernel(
    p_z, p_w, p_k, size, lag0, HIGH: tl.constexpr, N0: tl.constexpr, M: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr
):
    """Items (S F G) -> taps (S F G, K)."""
    N: tl.constexpr = N0 * M
    item, t = column_places(N0, M, COLUMNS)
    lo, hi = columns_back(p_z, p_w, item, t, N0, M, HIGH, PRECISION)
    p = p_k + item.to(tl.int64) * size
    untap(p, lo, t, size, lag0, N, t >= 0)
    if HIGH:
        untap(p, hi, t + N, size, lag0, N, t >= 0)


# ---- host ----------------------------------------------------------------------------------------


class Backward:
    """One call: its tensors, and what comes of them, a chunk of rows at a time."""

    def __init__(self, grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, shape, call, need, n: int, rows: int):
        from spectralops.ops.fft_conv_reference import new_like_u, new_like_y

        self.plan = Plan(n, grad, call.precision)
        self.grad, self.u, self.skip, self.gate_in, self.gate_out, self.mask, self.cu = grad, u, skip, gate_in, gate_out, mask, cu_seqlens
        self.shape, self.call, self.need, self.n, self.rows = shape, call, need, n, rows
        self.filters, self.channels = grad.shape[1:3]
        self.samples, self.within = shape[0], self.channels // shape[2]
        make = dict(dtype=torch.float32, device=grad.device)
        self.to_input, self.to_kernel = need["u"] or need["gate_in"], need["kernel"] or need["skip"]
        self.recompute = call.activation != "identity" or need["gate_out"] or need["mask"]
        self.spectra = self.plan.spectra(kernel, call) if self.recompute or self.to_input else None
        keep = self.recompute and (self.to_input or self.to_kernel)
        self.dc = torch.empty(grad.shape, **make) if keep else None
        self.d_out = new_like_y(grad[:, 0], self.filters, call.blh) if need["gate_out"] else None
        self.du, self.d_in = (new_like_u(grad[:, 0], call.blh) if need[name] else None for name in ("u", "gate_in"))
        self.d_mask, self.d_skip = [], []
        unit = self.filters * shape[2]
        self.sums = torch.empty((self.within, self.samples, *shape[1:3], 2, n), **make) if need["kernel"] else None
        self.s_sample, self.s_within = (unit, self.samples * unit) if self.samples > 1 else (0, unit)

    def common(self, first: int) -> dict:
        return {"p_cu": self.cu, "channels": self.channels, "length": self.call.length, "first": first, "FILTERS": self.filters,
                "HIGH": self.call.length > self.n, **strides("u", self.u, "bht"), **strides("g", self.gate_in, "bht")}  # fmt: skip

    def derive(self, first: int, count: int) -> None:
        items, plan, d_mask = count * self.filters * self.channels, self.plan, None
        z = plan.convolved(first, count, self.u, self.gate_in, self.cu, self.call, self.spectra, self.shape)
        if self.need["mask"]:
            d_mask = torch.empty((count, self.filters, self.channels, plan.blocks), dtype=torch.float32, device=z.device)
        plan.on_columns(derive_kernel, items, p_z=z, p_e=self.grad, p_u=self.u, p_g=self.gate_in, p_o=self.gate_out,
                        p_skip=self.skip, p_mask=self.mask, p_dc=self.dc, p_do=self.d_out, p_dm=d_mask, **self.common(first),
                        **strides("e", self.grad, "bfht"), **strides("o", self.gate_out, "bfht"), **strides("dc", self.dc, "bfh"),
                        **strides("do", self.d_out, "bfht"), ACT=ACTIVATIONS[self.call.activation],
                        WIDE=wide(self.n, self.grad, self.u, self.gate_in, self.gate_out, self.d_out))  # fmt: skip
        if d_mask is not None:
            self.d_mask.append(d_mask.sum((1, 3)))

    def towards_kernel(self, first: int, count: int, e, gate, mask) -> torch.Tensor:
        """-> the items of dc, as columns."""
        plan, sums = self.plan, None
        if self.need["skip"]:
            d_skip = torch.empty((count, self.filters, self.channels, plan.blocks), dtype=torch.float32, device=e.device)
            sums = {"p_u": self.u, "p_i": self.gate_in, "p_sum": d_skip, **strides("u", self.u, "bht"), **strides("i", self.gate_in, "bht")}
        c = plan.transform(first, count, e, gate, mask, self.cu, self.call, self.channels, self.filters, sums)
        if sums:
            self.d_skip.append(d_skip.sum((0, 3)))
        if self.sums is not None:
            v = plan.transform(first, count, self.u, self.gate_in, None, self.cu, self.call, self.channels, 1)
            samples, rows = (count, 1) if self.samples > 1 else (1, count)
            programs = samples * self.filters * self.channels * (plan.n0 // plan.r)
            launch(e, gradient_rows_kernel, (programs,), **plan.row_options, **plan.rows, p_v=v, p_c=c, p_sum=self.sums,
                   channels=self.channels, per_group=self.within, rows=rows, first=first, before=0 if self.samples > 1 else first, s_sample=self.s_sample,
                   s_within=self.s_within, FILTERS=self.filters, N0=plan.n0)  # fmt: skip
        return c

    def towards_input(self, first: int, count: int, c, e, gate, mask) -> None:
        plan = self.plan
        items = count * self.channels
        z = c if self.filters == 1 else plan.items(items)
        plan.on_rows(ADJOINT, items, c, z, self.spectra, self.channels, self.within, first, self.filters)
        given = self.du if self.du is not None else self.d_in
        plan.on_columns(input_kernel, items, p_z=z, p_e=e, p_u=self.u if self.need["gate_in"] else None, p_g=self.gate_in, p_o=gate,
                        p_skip=self.skip, p_mask=mask, p_du=self.du, p_dg=self.d_in, **self.common(first),
                        **strides("e", e, "bfht"), **strides("o", gate, "bfht"), **strides("d", given, "bht"),
                        WIDE=wide(self.n, e, self.u, self.gate_in, gate, given))  # fmt: skip

    def kernel_gradient(self) -> torch.Tensor:
        plan, (samples, filters, groups, size) = self.plan, self.shape
        sums = self.sums.sum(0) if self.within > 1 else self.sums[0]
        if self.call.grid:  # m = m0 + N0 m'
            natural = sums.view(samples, filters, groups, 2, plan.n0, plan.m).permute(0, 1, 2, 5, 4, 3)
            return (natural / self.n).reshape(samples, filters, groups, self.n, 2)
        plan.on_rows(INVERT, samples * filters * groups, sums, sums)
        taps = torch.empty(self.shape, dtype=torch.float32, device=sums.device)
        plan.on_columns(untap_kernel, samples * filters * groups, p_z=sums, p_k=taps, size=size, lag0=self.call.lag0,
                        HIGH=size - self.call.lag0 > self.n or self.call.lag0 > 0)  # fmt: skip
        return taps

    def run(self) -> tuple:
        for first, count in self.plan.chunks(self.rows, self.channels * (2 * self.filters + 1)):
            if self.recompute:
                self.derive(first, count)
            now = (self.dc, None, None) if self.recompute else (self.grad, self.gate_out, self.mask)
            if self.to_kernel:
                c = self.towards_kernel(first, count, *now)
            elif self.to_input:
                c = self.plan.transform(first, count, *now, self.cu, self.call, self.channels, self.filters)
            if self.to_input:
                self.towards_input(first, count, c, *now)
        d_kernel = None if self.sums is None else self.kernel_gradient()
        d_skip = torch.stack(self.d_skip).sum(0) if self.d_skip else None
        d_mask = torch.cat(self.d_mask) if self.d_mask else None
        return self.du, d_kernel, d_skip, self.d_in, self.d_out, d_mask
