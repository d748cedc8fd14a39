"""The exchanges that sequence-parallel operators are made of, each with its adjoint, so that derivatives of every order exchange too.

Rank r of P holds the stretch r of every row. Two exchanges:

    channels    (B, H, l_r) <-> (B, H_r, L): from all channels of a stretch to some channels of whole rows, and back; each is
                the other's inverse and adjoint. Sent a rank: (P - 1) / P of what it holds.
    halo        v (B, H, l_r) -> (B, H, left + l_r + right): the neighbours' ends. Adjoint: what fell on the ends is sent
                back and added. Sent a rank: left + right numbers a row.

Every exchange is one all_to_all_single, on any backend of torch.distributed that has it (gloo, NCCL, MPI).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


@dataclass
class Traffic:
    """What this rank sent to others while it was counted."""

    exchanges: int = 0
    bytes: int = 0


_counting: list[Traffic] = []


@contextlib.contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count the exchanges of this process and the bytes it sends to other ranks, forward and backward."""
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        _counting.remove(traffic)


@dataclass(frozen=True)
class Plan:
    """Who holds what: of the rows' time, and, in between, of the channels."""

    group: dist.ProcessGroup
    rank: int
    lengths: tuple[int, ...]  # of the stretch of each rank
    channels: tuple[int, ...]  # of each rank where rows are whole

    @property
    def ranks(self) -> int:
        return len(self.lengths)


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    return tuple(total // parts + (r < total % parts) for r in range(parts))


def _exchange(parts: list[Tensor], sizes: list[int], plan: Plan) -> list[Tensor]:
    """parts[p], flat, goes to rank p; what each sent here comes back, sizes[p] numbers from rank p."""
    sent = torch.cat(parts)
    received = sent.new_empty(sum(sizes))
    for traffic in _counting:
        traffic.exchanges += 1
        traffic.bytes += (sent.numel() - parts[plan.rank].numel()) * sent.element_size()
    dist.all_to_all_single(received, sent, sizes, [p.numel() for p in parts], group=plan.group)
    return list(received.split(sizes))


def _to_channels(x: Tensor, plan: Plan) -> Tensor:
    """(B, H, l_r) -> (B, H_r, L)."""
    batch, mine = x.shape[0], plan.channels[plan.rank]
    parts = [c.reshape(-1) for c in x.split(plan.channels, 1)]
    found = _exchange(parts, [batch * mine * n for n in plan.lengths], plan)
    return torch.cat([f.view(batch, mine, n) for f, n in zip(found, plan.lengths)], 2)


def _to_time(x: Tensor, plan: Plan) -> Tensor:
    """(B, H_r, L) -> (B, H, l_r)."""
    batch, mine = x.shape[0], plan.lengths[plan.rank]
    parts = [c.reshape(-1) for c in x.split(plan.lengths, 2)]
    found = _exchange(parts, [batch * h * mine for h in plan.channels], plan)
    return torch.cat([f.view(batch, h, mine) for f, h in zip(found, plan.channels)], 1)


class ToChannels(Function):
    @staticmethod
    def forward(ctx, x, plan):
        ctx.plan = plan
        return _to_channels(x, plan)

    @staticmethod
    def backward(ctx, grad):
        return ToTime.apply(grad, ctx.plan), None


class ToTime(Function):
    @staticmethod
    def forward(ctx, x, plan):
        ctx.plan = plan
        return _to_time(x, plan)

    @staticmethod
    def backward(ctx, grad):
        return ToChannels.apply(grad, ctx.plan), None


def _neighbours(plan: Plan, ring: bool) -> tuple[int | None, int | None]:
    """The ranks before and after this one."""
    before, after = plan.rank - 1, plan.rank + 1
    if ring:
        return before % plan.ranks, after % plan.ranks
    return before if before >= 0 else None, after if after < plan.ranks else None


def _shift(to_after: Tensor, to_before: Tensor, plan: Plan, ring: bool) -> tuple[Tensor, Tensor]:
    """Sends one tensor to each neighbour; what the ones before and after sent here, zeros where there is none.

    All ranks send tensors of the same two shapes. Two neighbours that are the same rank get both, in this order.
    """
    before, after = _neighbours(plan, ring)
    parts, sizes = [], []
    for p in range(plan.ranks):
        pieces = [t.reshape(-1) for t, goes in ((to_after, p == after), (to_before, p == before)) if goes]
        parts.append(torch.cat(pieces) if pieces else to_after.new_empty(0))
        sizes.append((to_after.numel() if p == before else 0) + (to_before.numel() if p == after else 0))
    found = _exchange(parts, sizes, plan)
    from_before = found[before][: to_after.numel()].view(to_after.shape) if before is not None else torch.zeros_like(to_after)
    from_after = torch.zeros_like(to_before)
    if after is not None:
        from_after = found[after][sizes[after] - to_before.numel() :].view(to_before.shape)
    return from_before, from_after


def _halo(v: Tensor, left: int, right: int, plan: Plan, ring: bool) -> Tensor:
    last = v.shape[2] - left
    from_before, from_after = _shift(v[..., last:], v[..., :right], plan, ring)
    return torch.cat([from_before, v, from_after], 2)


def _halo_adjoint(g: Tensor, left: int, right: int, plan: Plan, ring: bool) -> Tensor:
    size = g.shape[2] - left - right
    from_before, from_after = _shift(g[..., left + size :], g[..., :left], plan, ring)
    own = g[..., left : left + size].clone()
    own[..., :right] += from_before
    own[..., size - left :] += from_after
    return own


class Halo(Function):
    @staticmethod
    def forward(ctx, v, left, right, plan, ring):
        ctx.rest = left, right, plan, ring
        return _halo(v, *ctx.rest)

    @staticmethod
    def backward(ctx, grad):
        return HaloAdjoint.apply(grad, *ctx.rest), None, None, None, None


class HaloAdjoint(Function):
    @staticmethod
    def forward(ctx, g, left, right, plan, ring):
        ctx.rest = left, right, plan, ring
        return _halo_adjoint(g, *ctx.rest)

    @staticmethod
    def backward(ctx, grad):
        return Halo.apply(grad, *ctx.rest), None, None, None, None
