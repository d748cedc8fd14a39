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
ELSEWHERE = 1e-2  # w
RIDGE = 1e-13  # of the mean diagonal: against functions whose support is empty, when knots coincide


def adaptive_knots(x: Tensor, old: Tensor, order: int, margin: float, grid_eps: float, fence: float | None) -> Tensor:
    """(I, T) knots in float64 for finite x (N, I), N >= 1, in place of old (1 or I, T).

    Range: the data's, less what lies more than `fence` interquartile ranges beyond the quartiles, and `margin` on both
    sides. A column without spread has no quantiles to follow: it keeps its knots, or where its value is outside them, gets
    uniform ones that reach from the old grid to it.
    """
    n, inputs = x.shape
    old = old.to(torch.float64).expand(inputs, -1)
    intervals = old.shape[1] - 1 - 2 * order
    ordered = x.to(torch.float64).sort(0).values
    first, last = ordered[0], ordered[-1]  # (I,)
    if fence is not None:
        q1, q3 = _quantiles(ordered, torch.tensor([0.25, 0.75], dtype=torch.float64, device=x.device))
        reach = torch.where(q3 > q1, fence * (q3 - q1), torch.inf)
        first, last = torch.maximum(first, q1 - reach), torch.minimum(last, q3 + reach)
    part = torch.arange(intervals + 1, dtype=torch.float64, device=x.device) / intervals
    adaptive = _quantiles(ordered, part).clamp(first, last)  # (G + 1, I)
    # A margin that float32 can tell from the value
    margin = torch.clamp(torch.maximum(first.abs(), last.abs()) * 2**-10, min=margin)
    low, high = first - margin, last + margin
    adaptive = torch.cat([low[None], adaptive[1:-1], high[None]]) if intervals > 1 else torch.stack([low, high])

    start, end = old[:, order], old[:, -order - 1]
    flat = last - first <= 1e-6 * (end - start)
    uniform_low = torch.where(flat, torch.minimum(start, low), low)
    uniform_high = torch.where(flat, torch.maximum(end, high), high)
    step = (uniform_high - uniform_low) / intervals
    uniform = uniform_low + part[:, None] * (uniform_high - uniform_low)
    grid = torch.where(flat, uniform, grid_eps * uniform + (1 - grid_eps) * adaptive)
    more = torch.arange(1, order + 1, dtype=torch.float64, device=x.device)[:, None] * step
    knots = torch.cat([(grid[:1] - more).flip(0), grid, grid[-1:] + more]).T
    keep = flat & (first >= start) & (last <= end)
    return torch.where(keep[:, None], old, knots).contiguous()


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
