"""`distributed.fft_conv`: a long convolution whose rows are spread over ranks.

Gates, skip, activation and mask act on each time step alone, so they stay where the step is: only v = gate_in u travels, and the
convolution's result. Two exchanges of it (all channels of a stretch to some channels of whole rows, and back) cost
2 B H l s (P - 1) / P bytes a rank; a kernel that reaches no further than a neighbour needs only the neighbour's end, reach B H s.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .. import _check
from ..ops.fft_conv import fft_conv as local_fft_conv
from ..ops.fft_conv_check import ACTIVATIONS, _gate, _gate_out, _mask, _skip, kernels
from ..ops.fft_conv_reference import _act, compute_dtype
from ..ops.fft_conv_taps import MODES, taps
from .comm import Halo, Plan, ToChannels, ToTime, split_evenly

METHODS = ("auto", "all_to_all", "halo")


def _plan(group, channels: int, length: int, lengths) -> Plan:
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    if rank < 0:
        raise ValueError("group does not hold this process")
    lengths = (length,) * ranks if lengths is None else tuple(int(n) for n in lengths)
    if len(lengths) != ranks or min(lengths) < 1:
        raise ValueError(f"lengths must hold one positive length for each of the {ranks} ranks; got {lengths}")
    if lengths[rank] != length:
        raise ValueError(f"lengths says {lengths[rank]} for rank {rank}; its u has {length} steps")
    return Plan(group if group is not None else dist.group.WORLD, rank, lengths, split_evenly(channels, ranks))


def _own_groups(k: Tensor | None, channels: int, plan: Plan) -> Tensor | None:
    """(S, F, G, K) of all channels -> of this rank's."""
    if k is None:
        return None
    first, count, each = sum(plan.channels[: plan.rank]), plan.channels[plan.rank], max(1, channels // k.shape[2])
    if first % each == 0 and count % each == 0:
        return k[:, :, first // each : (first + count) // each]
    if count and first // each == (first + count - 1) // each:
        return k[:, :, first // each : first // each + 1]
    index = torch.arange(first, first + count, device=k.device) // each
    return k.index_select(2, index)


def _through_channels(v, k, k_rev, mode, rev_offset, plan: Plan, **where) -> Tensor:
    """c (B, F, H, l_r) by two exchanges; every rank convolves whole rows of its channels."""
    whole = ToChannels.apply(v, plan)  # (B, H_r, L)
    k, k_rev = (_own_groups(t, v.shape[1], plan) for t in (k, k_rev))
    if whole.shape[1]:
        c = local_fft_conv(whole, k, k_rev=k_rev, mode=mode, rev_offset=rev_offset, multi=True, **where)  # (B, F, H_r, L)
    else:
        nothing = 0 * (k.sum() if k_rev is None else k.sum() + k_rev.sum())  # no channel here; the kernels' gradients are zero
        c = (whole[:, None].expand(-1, k.shape[1], -1, -1) + nothing).to(whole.dtype)
    return ToTime.apply(c.flatten(0, 1), plan).unflatten(0, c.shape[:2])


def _through_halo(v, kernel, lag0, mode, plan: Plan, **where) -> Tensor:
    """c (B, F, H, l_r) from the neighbours' ends."""
    left, right = kernel.shape[-1] - 1 - lag0, lag0
    wide = Halo.apply(v, left, right, plan, mode == "circular")  # (B, H, left + l_r + right)
    c = local_fft_conv(wide, kernel, multi=True, **where)
    return c[..., left + lag0 : left + lag0 + v.shape[-1]]


def _reach(k, k_rev, mode, rev_offset, total) -> tuple[Tensor, int] | None:
    """Taps and lag0 if they are the same kernel for every stretch: a circular one must not be unrolled into 2 L - 1 lags."""
    if mode != "circular":
        return taps(k, k_rev, mode, total, rev_offset)
    back = 0 if k_rev is None else k_rev.shape[-1] + rev_offset
    if k.shape[-1] + back > total:
        return None
    return taps(k, k_rev, "causal", total, rev_offset)


def fft_conv(
    u: Tensor,
    k: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    lengths: tuple[int, ...] | None = None,
    method: str = "auto",
    exchange_dtype: torch.dtype | None = None,
    skip: Tensor | None = None,
    gate_in: Tensor | None = None,
    gate_out: Tensor | None = None,
    k_rev: Tensor | None = None,
    mode: str = "causal",
    activation: str | None = None,
    mask: Tensor | None = None,
    layout: str = "bhl",
    precision: str = "highest",
    multi: bool = False,
    rev_offset: int = 0,
    backend: str | None = None,
) -> Tensor:
    r""":func:`spectralops.fft_conv` of rows that are spread over the ranks of a group: rank r gives and gets stretch r.

    Args:
        u, gate_in, gate_out: this rank's stretch, (B, H, l), or (B, l, H) with layout "blh"; the batch and H are the same everywhere.
        k, k_rev, skip, mask: whole, the same on every rank; shapes as in spectralops.fft_conv, L being the sum of all l.
        group: a torch.distributed group; None is the default one. lengths: l of every rank where they differ; the ranks
            are not asked, and with None all must have the same l.
        method: "all_to_all": two exchanges of B H l (P - 1) / P numbers a rank; any kernel, any H (also H < P, where ranks idle).
            "halo": one exchange of the kernel's reach, where that is at most the shortest stretch. "auto": the one that sends less.
        exchange_dtype: of what travels; None is u's. gate_in u and the convolution's result are rounded to it: with 16-bit
            data this is one rounding more than in one process, and torch.float32 avoids it at twice the traffic.
        mode, activation, precision, multi, rev_offset, backend: as in spectralops.fft_conv.

    Returns: this rank's stretch of the result, u's dtype.

    Derivatives: every order; the backward pass sends what the forward pass sends. As for any parameter that ranks share, a rank's
        gradients of k, k_rev, skip and mask are its own part: their sum over the group is the whole gradient. All ranks must call,
        and differentiate, together. Deterministic. Not for torch.func or torch.compile.

    Raises: TypeError, ValueError as spectralops.fft_conv does, and ValueError for lengths that do not fit the group, an unknown
        method, method "halo" with a kernel that reaches beyond a neighbour.

    >>> with spectralops.distributed.count_traffic() as traffic:
    ...     y = spectralops.distributed.fft_conv(u, k, group=group)

    Source: pointwise operations before and after the exchange rather than each tensor exchanged, as in two of Evo 2's three;
    J. Ku et al., Systems and Algorithms for Convolutional Multi-Hybrid Language Models at Scale, 2025.
    """
    _check.tensor("u", u)
    _check.choice("layout", layout, ("bhl", "blh"))
    _check.choice("mode", mode, MODES)
    _check.choice("activation", activation, ACTIVATIONS)
    _check.choice("method", method, METHODS)
    if u.dim() != 3:
        raise ValueError(f"u must have shape (B, H, l), or (B, l, H) with layout='blh'; got {_check.shape(u)}")
    blh = layout == "blh"
    batch, channels, length = u.shape if not blh else (u.shape[0], u.shape[2], u.shape[1])
    plan = _plan(group, channels, length, lengths)
    dtype, total = compute_dtype(u), sum(plan.lengths)
    if _check.integer("rev_offset", rev_offset) not in (0, 1):
        raise ValueError(f"rev_offset must be 0 (k_rev shares lag 0) or 1 (it begins at lag -1); got {rev_offset}")
    k, k_rev = kernels(k, k_rev, mode, rev_offset, u, batch, channels, total, multi)
    filters = k.shape[1]
    shape = tuple(u.shape) if not multi else (batch, length, filters, channels) if blh else (batch, filters, channels, length)
    gate_in = _gate("gate_in", gate_in, u, tuple(u.shape))
    gate_out = _gate_out(gate_out, u, shape, multi, blh)
    skip = _skip(skip, u, filters, channels, multi)  # (F, H)
    mask = _mask(mask, u, batch, channels, (batch,))  # (B, H)

    x, g_in = (t if t is None or not blh else t.transpose(1, 2) for t in (u, gate_in))
    v = x.to(dtype) if g_in is None else x.to(dtype) * g_in.to(dtype)
    sent = v.to(exchange_dtype or u.dtype)
    where = {"precision": precision, "backend": backend}
    found = None if method == "all_to_all" or plan.ranks == 1 else _halo_kernel(k, k_rev, mode, rev_offset, plan, method)
    if found is not None:
        c = _through_halo(sent, *found, mode, plan, **where)
    else:
        c = _through_channels(sent, k, k_rev, mode, rev_offset, plan, **where)
    c = c.to(dtype)  # (B, F, H, l)
    if skip is not None:
        c = c + skip[..., None] * v[:, None]
    y = c.movedim(-1, 1) if blh else c
    y = y if multi else y.squeeze(2 if blh else 1)
    y = y if gate_out is None else y * gate_out.to(dtype)
    y = _act(y, activation or "identity")
    y = y if mask is None else _masked(y, mask, multi, blh)
    return y.to(u.dtype).contiguous()


def _masked(y: Tensor, mask: Tensor, multi: bool, blh: bool) -> Tensor:
    """y (B, [F,] H, l), or (B, l, [F,] H), times mask (B, H)."""
    factor = mask[:, None] if multi else mask  # (B, [1,] H)
    return y * (factor[:, None] if blh else factor[..., None])


def _halo_kernel(k, k_rev, mode, rev_offset, plan: Plan, method: str) -> tuple[Tensor, int] | None:
    """The kernel as one set of taps, if a halo is asked for or sends less than two exchanges of everything."""
    found = _reach(k, k_rev, mode, rev_offset, sum(plan.lengths))
    if found is not None:
        kernel, lag0 = found
        left, right = kernel.shape[-1] - 1 - lag0, lag0
        fits = max(left, right) <= min(plan.lengths)
        if fits and (method == "halo" or left + right <= 2 * max(plan.lengths) * (plan.ranks - 1) / plan.ranks):
            return found
        reach = max(left, right)
    else:
        reach = k.shape[-1]
    if method == "halo":
        raise ValueError(f"method 'halo' takes a kernel that reaches at most {min(plan.lengths)} steps; this one reaches {reach}")
    return None
