r"""Moving the knots of a spline layer to where its inputs are, and refitting its coefficients.

Knots: (1 - eps) quantiles + eps uniform, per input. Coefficients: the least-squares fit of the old function,

    c = argmin  mean_n (S_new(x_n) - S_old(x_n))^2 + w mean_q (S_new(z_q) - S_old(z_q))^2

with z a few points in every interval of the new grid. The second sum says what an interval without data should be (what
it was), and makes the normal equations regular by themselves: order + 1 points an interval determine a spline. Both sums
need only B_new^T B_new and B_new^T B_old, (I, K, K), gathered over chunks of rows in float64; no (N, I, O) values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..basis import BSpline

CHUNK = 1 << 20  # elements of a basis at a time
ELSEWHERE = 1e-3  # w
RIDGE = 1e-13  # of the mean diagonal: against functions whose support is empty, when knots coincide


def adaptive_knots(
    x: Tensor, old: Tensor, order: int, margin: float, grid_eps: float, fence: float | None
) -> tuple[Tensor, Tensor]:
    """(I, T) knots in float64 in place of old (1 or I, T), for finite x (N, I), N >= 1, and which of them moved, (I,) bool.

    A column without spread has nothing to tell: it keeps its knots.
    """
    old = old.to(torch.float64).expand(x.shape[1], -1)
    intervals = old.shape[1] - 1 - 2 * order
    ordered = x.to(torch.float64).sort(0).values
    first, last = ordered[0], ordered[-1]  # (I,)
    moved = last - first > 1e-6 * (old[:, -order - 1] - old[:, order])
    if fence is not None:  # how far beyond the central nine tenths, in units of their width
        few, most = _quantiles(ordered, torch.tensor([0.05, 0.95], dtype=torch.float64, device=x.device))
        reach = torch.where(most > few, fence * (most - few), torch.inf)
        first, last = torch.maximum(first, few - reach), torch.minimum(last, most + reach)
    # The range is at least what float32 can divide
    least = torch.maximum(first.abs(), last.abs()) * 2**-10
    margin = torch.clamp((least - (last - first)) / 2, min=margin)
    low, high = first - margin, last + margin
    part = torch.arange(intervals + 1, dtype=torch.float64, device=x.device) / intervals
    uniform = low + part[:, None] * (high - low)
    adaptive = _quantiles(ordered, part[1:-1]).clamp(first, last)
    grid = torch.cat([low[None], grid_eps * uniform[1:-1] + (1 - grid_eps) * adaptive, high[None]])  # (G + 1, I)
    more = torch.arange(1, order + 1, dtype=torch.float64, device=x.device)[:, None] * (high - low) / intervals
    knots = torch.cat([(low - more).flip(0), grid, high + more]).T
    return torch.where(moved[:, None], knots, old).contiguous(), moved


def _quantiles(ordered: Tensor, part: Tensor) -> Tensor:
    """(P, I): linear between order statistics, as torch.quantile, for any number of rows."""
    at = part * (ordered.shape[0] - 1)
    below = at.floor().long()
    above = (below + 1).clamp(max=ordered.shape[0] - 1)
    return torch.lerp(ordered[below], ordered[above], (at - below)[:, None])


def refit(coeff: Tensor, old: BSpline, new: BSpline, x: Tensor) -> Tensor:
    """Coefficients (O, I, K) in float64 under which `new`, knots (I, T), is the old function, best where x (N, I) is."""
    inputs, order = coeff.shape[1], new.order
    knots = new.knots.to(torch.float64)
    left, right = knots[:, order : -order - 1], knots[:, order + 1 : -order or None]
    inner = (torch.arange(order + 2, dtype=torch.float64, device=x.device) + 0.5) / (order + 2)
    between = (left[..., None] + (right - left)[..., None] * inner).flatten(1).T  # (G (order + 2), I)
    gram = coeff.new_zeros(inputs, new.size, new.size, dtype=torch.float64)
    cross = coeff.new_zeros(inputs, new.size, old.size, dtype=torch.float64)
    rows = max(1, CHUNK // max(1, inputs * (new.size + old.size)))
    for points, weight in ((x, 1 / len(x)), (between, ELSEWHERE / len(between))):
        for z in points.split(rows):
            z = z.to(torch.float64)
            a, b = new(z).movedim(0, 1), old(z).movedim(0, 1)  # (I, n, K)
            gram.baddbmm_(a.mT, a, alpha=weight)
            cross.baddbmm_(a.mT, b, alpha=weight)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal += RIDGE * diagonal.mean(-1, keepdim=True) + torch.finfo(torch.float64).tiny
    target = cross @ coeff.to(torch.float64).permute(1, 2, 0)  # (I, K, O)
    return torch.linalg.solve(gram, target).permute(2, 0, 1).contiguous()
