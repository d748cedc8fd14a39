r"""Least squares on the keys that were found, and its derivative with respect to the samples.

    min_F sum_(c, j, p) |U_c[j, p] - sum_(k: M_c^T k = j) F[k] s_(c,p)(k)|^2,      s_(c,p)(k) = (-1)^<d_(c,p), k>,

over the bins U of sparse_wht_reference.py that the decoder explained: one that holds a key that was not
found would draw the others off. The transform of the bins is orthogonal but for its scale, so that of a
complete decode this is least squares over all samples: over the points that were asked, each counted as
often as the groups and offsets share it (once, in general).

With A the signs, F = G^-1 A^T U, G = A^T A.  Where two keys share a bin of group c, it adds to their entry of G

    sum_p (-1)^<d_(c,p), k + l>,

a Walsh sum; a key meets few others, so that G is sparse, of diagonal C P.  Up to DENSE keys it is factored
(Cholesky), above that solved by conjugate gradients, in float64.  F is linear in the samples: the
derivative is the transpose, samples <- U <- A G^-1 g, of every order. No sum depends on the threads: keys
that share a bin are added one after another.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import Function

from . import bits
from .fixed_sums import sum_at
from .hadamard_reference import rotate
from .walsh_sum import walsh_sum
from .._ops import differentiated

if TYPE_CHECKING:
    from .sparse_wht_plan import SparseWHTPlan

DENSE = 4096  # keys whose normal equations are factored
CLOSE = 1e-14  # of the residual of conjugate gradients, relative to the right-hand side
STEPS = 2000
SINGULAR = 1e-10  # of a pivot, relative to the largest diagonal entry
SIGNS = 1 << 22  # signs held at a time


class Problem:
    """The keys of one spectrum in the bins of a plan."""

    def __init__(self, plan: "SparseWHTPlan", keys: Tensor, unresolved: Tensor | None = None):
        self.plan, self.keys = plan, keys
        columns, self.offsets = plan._points  # (C, b, W), (C, P, W)
        self.shape = plan.groups, plan.bins, plan.num_offsets
        place = torch.arange(plan.b, device=keys.device)
        self.bins = torch.stack([(bits.parity(keys[:, None], m) << place).sum(1) for m in columns])  # (C, K)
        self.used = self._used(unresolved)
        self.members = [self._members(bins) for bins in self.bins]
        self.neighbours, self.weights = self._normal()
        self.factor = self._factored() if keys.shape[0] <= DENSE else None

    def _used(self, unresolved: Tensor | None) -> Tensor:
        """(C, K) float64 of 1 and 0: whether the bin of a key counts; those of a key that would have none all count."""
        counts = torch.ones(self.shape[:2], dtype=torch.bool, device=self.keys.device)
        if unresolved is not None:
            counts[unresolved[:, 0], unresolved[:, 1]] = False
        group = torch.arange(self.shape[0], device=counts.device)[:, None]
        lost = ~counts[group, self.bins].any(0)
        counts[group, self.bins[:, lost]] = True
        return counts[group, self.bins].to(torch.float64)

    def _members(self, bins: Tensor) -> tuple[Tensor, Tensor]:
        """(K,) -> keys (used, m) of each bin that has any, -1 beyond them, and the row of each key (K,)."""
        order = bins.argsort(stable=True)
        _, row, count = bins.unique(return_inverse=True, return_counts=True)
        rank = torch.empty_like(row)
        rank[order] = torch.arange(len(bins), device=bins.device) - (count.cumsum(0) - count)[row[order]]
        members = torch.full((len(count), int(count.max())), -1, device=bins.device)
        members[row, rank] = torch.arange(len(bins), device=bins.device)
        return members, row

    def _normal(self) -> tuple[Tensor, Tensor]:
        """G by rows: (K, L) keys, -1 where there is none, and (K, L) float64; a key may stand there once a group."""
        neighbours, weights = [], []
        for (members, row), offsets, used in zip(self.members, self.offsets, self.used):
            near = members[row]  # (K, m)
            there = (near >= 0).nonzero()
            sums = self.keys[there[:, 0]] ^ self.keys[near[there[:, 0], there[:, 1]]]
            weight = torch.zeros(near.shape, dtype=torch.float64, device=near.device)
            ones = weight.new_ones(offsets.shape[0])
            weight[there[:, 0], there[:, 1]] = walsh_sum(sums, offsets, ones)
            neighbours.append(near)
            weights.append(weight * used[:, None])
        return torch.cat(neighbours, 1), torch.cat(weights, 1)

    def _factored(self) -> tuple[Tensor, bool]:
        """The Cholesky factor of G, or its pseudoinverse where it is singular."""
        count = self.keys.shape[0]
        g = torch.zeros((count, count + 1), dtype=torch.float64, device=self.keys.device)
        row = torch.arange(count, device=g.device)
        for near, weight in zip(self.neighbours.T, self.weights.T):
            g[row, near] += weight  # each place once; the last column takes what is none
        g = g[:, :count]
        factor, info = torch.linalg.cholesky_ex(g)
        if bool((info == 0) & (factor.diagonal().min() ** 2 > SINGULAR * g.diagonal().max())):
            return factor, True
        return torch.linalg.pinv(g, hermitian=True), False

    def solve(self, right: Tensor) -> Tensor:
        """G^-1 right, (K,) float64."""
        if self.factor is None:
            return self._iterated(right)
        matrix, triangular = self.factor
        return torch.cholesky_solve(right[:, None], matrix)[:, 0] if triangular else matrix @ right

    def _iterated(self, right: Tensor) -> Tensor:
        x, r = torch.zeros_like(right), right.clone()
        p, size = r, r.square().sum()
        enough = CLOSE**2 * size
        for _ in range(STEPS):
            if not bool(size > enough):
                break
            q = (self.weights * p[self.neighbours]).sum(1)  # the weight of -1 is zero
            step = size / (p * q).sum()
            x, r = x + step * p, r - step * q
            before, size = size, r.square().sum()
            p = r + (size / before) * p
        return x

    def _signs(self):
        """Group, some of its offsets, and the signs (K, p) of the keys there, 0 in a bin that does not count."""
        count = max(1, SIGNS // max(self.keys.numel(), 1))
        for c, offsets in enumerate(self.offsets):
            for at in range(0, offsets.shape[0], count):
                part = offsets[at : at + count]
                signs = 1 - 2 * bits.parity(self.keys[:, None], part).to(torch.float64)
                yield c, slice(at, at + len(part)), signs * self.used[c][:, None]

    def fit(self, samples: Tensor) -> Tensor:
        """(num_queries,) -> F (K,)."""
        index, (groups, bins, offsets) = self.plan._index, self.shape
        u = (samples if index is None else samples[index]).view(groups, bins, offsets)
        u = rotate(u, None, None, 1 / bins)
        right = samples.new_zeros(self.keys.shape[0], dtype=torch.float64)
        for c, part, signs in self._signs():
            right += (u[c, self.bins[c], part] * signs).sum(1)
        return self.solve(right).to(samples.dtype)

    def spread(self, grad: Tensor) -> Tensor:
        """(K,) -> (num_queries,): the transpose of fit."""
        weight = self.solve(grad.to(torch.float64))
        u = torch.zeros(self.shape, dtype=torch.float64, device=grad.device)
        for c, part, signs in self._signs():
            members, _ = self.members[c]
            for keys in members.T:  # (used,): one key of each bin, so that no place comes twice
                keys = keys[keys >= 0]
                u[c, self.bins[c, keys], part] += weight[keys, None] * signs[keys]
        u = rotate(u, None, None, 1 / self.shape[1]).to(grad.dtype).reshape(-1)
        index = self.plan._index
        return u if index is None else sum_at(u, index.reshape(-1).to(torch.int64), self.plan.num_queries)


class _Fit(Function):
    @staticmethod
    def forward(samples, problem):
        return problem.fit(samples)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.problem = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return _Spread.apply(grad, ctx.problem), None

    @staticmethod
    def vmap(info, in_dims, rows, problem):
        return torch.stack([_Fit.apply(row, problem) for row in rows.unbind(in_dims[0])]), 0


class _Spread(Function):
    @staticmethod
    def forward(grad, problem):
        return problem.spread(grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.problem = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return _Fit.apply(grad, ctx.problem), None

    @staticmethod
    def vmap(info, in_dims, rows, problem):
        return torch.stack([_Spread.apply(row, problem) for row in rows.unbind(in_dims[0])]), 0


for _f in (_Fit, _Spread):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


def refit(plan: "SparseWHTPlan", keys: Tensor, samples: Tensor, unresolved: Tensor | None = None) -> Tensor:
    """(K, W), (num_queries,) -> (K,): the coefficients of least squares, differentiable in the samples.

    unresolved (U, 2): the bins that do not count.
    """
    if keys.shape[0] == 0:
        return samples[:0]
    with torch.no_grad():
        problem = Problem(plan, keys, unresolved)
    return _Fit.apply(samples, problem) if differentiated(samples) else problem.fit(samples)
