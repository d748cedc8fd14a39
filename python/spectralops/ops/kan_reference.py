"""The three KAN operations in plain PyTorch, with the basis materialised as kernels must not.

With B = B^(m)(x), (N, I, K), s = the m-th derivative of the base activation, and u (N, I) a multiplier (1 if None):

    forward   y_no   = sum_{i,k} c_oik B_nik u_ni + sum_i w_oi s_ni u_ni + bias_o
    dx        d_ni   = u_ni (sum_{o,k} g_no c_oik B_nik + sum_o g_no w_oi s_ni)
    dcoeff    dc_oik = sum_n g_no B_nik u_ni,   dw_oi = sum_n g_no s_ni u_ni

The derivative of each in any of its arguments is one of the three again, at m or m + 1; see `kan.py`. Computed in float32
(float64 for float64), rounded once; dcoeff and dw stay in the compute dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kan_basis import BasisCode, base_activation, evaluate


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _features(x: Tensor, u: Tensor | None, code: BasisCode, base: int, m: int) -> tuple[Tensor, Tensor | None]:
    """B u (N, I, K) and s u (N, I), in the compute dtype."""
    x = x.to(compute_dtype(x))
    basis, s = evaluate(x, code, m), base_activation(x, base, m) if base else None
    if u is not None:
        u = u.to(x.dtype)
        basis, s = basis * u[..., None], None if s is None else s * u
    return basis, s


def forward(
    x: Tensor, u: Tensor | None, coeff: Tensor, base_weight: Tensor | None, bias: Tensor | None, code: BasisCode, base: int, m: int
) -> Tensor:
    """y (N, O) in x's dtype; differentiable by autograd to any order."""
    basis, s = _features(x, u, code, base, m)
    y = basis.flatten(1) @ coeff.to(basis.dtype).flatten(1).T
    if s is not None:
        y = y + s @ base_weight.to(basis.dtype).T
    if bias is not None:
        y = y + bias.to(basis.dtype)
    return y.to(x.dtype)


def dx(
    grad: Tensor, x: Tensor, u: Tensor | None, coeff: Tensor, base_weight: Tensor | None, code: BasisCode, base: int, m: int
) -> Tensor:
    """(N, I) in x's dtype."""
    basis, s = _features(x, u, code, base, m)
    g = grad.to(basis.dtype)
    d = ((g @ coeff.to(basis.dtype).flatten(1)).view(basis.shape) * basis).sum(-1)
    if s is not None:
        d = d + (g @ base_weight.to(basis.dtype)) * s
    return d.to(x.dtype)


def dcoeff(grad: Tensor, x: Tensor, u: Tensor | None, code: BasisCode, base: int, m: int) -> tuple[Tensor, Tensor | None]:
    """(O, I, K) and (O, I) or None, in the compute dtype."""
    basis, s = _features(x, u, code, base, m)
    g = grad.to(basis.dtype)
    return (g.T @ basis.flatten(1)).view(g.shape[1], *basis.shape[1:]), None if s is None else g.T @ s
