r"""How much each edge of a KAN layer does: sums over the rows of |phi_oi(x_n)|, without the (N, O, I) values.

Blocks of rows and inputs are evaluated one after the other, and again in the backward pass (`torch.utils.checkpoint`), so
that at most BLOCK values live at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..basis import Basis, Mix
from ..ops import kan_basis
from ..ops.kan_reference import compute_dtype

BLOCK = 1 << 20  # elements, of the functions and of what evaluating the basis takes
ROWS = 512


def _evaluate(basis: Basis, x: Tensor, first: int) -> Tensor:
    """B(x) for inputs first, first + 1, ... alone: (n, i) -> (n, i, K)."""
    if isinstance(basis, Mix):
        return torch.cat([_evaluate(b, x, first) for b in basis.bases], -1)
    code = basis.code(x.dtype, x.device)
    if code.family == kan_basis.SPLINE and code.table.shape[0] > 1:
        code = code._replace(table=code.table[first : first + x.shape[1]])
    return kan_basis.evaluate(x, code)


def _block(x: Tensor, z: Tensor, coeff: Tensor, base_weight: Tensor | None, basis: Basis, base: int, first: int) -> Tensor:
    """sum_n |phi_oi|, (i, O), of a block: x, z (n, i), coeff (O, i, K), base_weight (O, i)."""
    phi = _evaluate(basis, z, first).transpose(0, 1) @ coeff.permute(1, 2, 0)  # (i, n, O)
    if base_weight is not None:
        s = kan_basis.base_activation(x, base).T  # (i, n)
        phi = phi + s[..., None] * base_weight.T[:, None]
    return phi.abs().sum(1)


def edge_norms(x: Tensor, z: Tensor, coeff: Tensor, base_weight: Tensor | None, basis: Basis, base_activation: str) -> Tensor:
    """sum_n |c_oi B(z_ni) + w_oi s(x_ni)|: (O, I) in the compute dtype.

    x, z (N, I): what the base branch and the basis see; coeff (O, I, K), base_weight (O, I) or None.
    """
    dtype = compute_dtype(x)
    x, z, coeff = x.to(dtype), z.to(dtype), coeff.to(dtype)
    base_weight = None if base_weight is None else base_weight.to(dtype)
    base = kan_basis.BASES.index(base_activation) if base_weight is not None else 0
    outputs, inputs, size = coeff.shape
    rows = max(1, min(ROWS, len(x)))
    width = max(1, BLOCK // (rows * (outputs + 4 * size)))
    arguments = (x, z, coeff, base_weight)
    saved = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments)
    columns = []
    for j, first in enumerate(range(0, inputs, width)):
        if j == 0:  # each tensor is cut once, so that each gradient is joined once
            cut = [None if t is None else t.split(width, 1) for t in arguments]
        xs, zs, c, w = (None if t is None else t[j] for t in cut)
        total = coeff.new_zeros(c.shape[1], outputs)
        for xn, zn in zip(xs.split(rows), zs.split(rows)):
            block = (xn, zn, c, w, basis, base, first)
            total = total + (
                checkpoint(_block, *block, use_reentrant=False, preserve_rng_state=False) if saved else _block(*block)
            )
        columns.append(total)
    return torch.cat(columns).T if columns else coeff.new_zeros(outputs, 0)


def l1_and_entropy(norms: Tensor, count: int, l1: float, entropy: float) -> Tensor:
    """l1 sum Q + entropy H(Q / sum Q), Q = norms / count; H = -sum p log p, 0 for a layer that is zero."""
    q = norms / max(count, 1)
    total = q.sum()
    p = q / total.clamp(min=torch.finfo(q.dtype).tiny)
    log = torch.where(p > 0, p, 1).log()
    return l1 * total - entropy * (p * log).sum()
