"""`KANAttention`: attention whose softmax is a learnable low-rank map of each row of scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import _check
from ..basis import Basis, Fourier
from ..ops.kan import kan_linear
from .kan_spec import as_basis, chosen, exporting, mean_square


class KANAttention(nn.Module):
    r"""Self-attention with Phi in the place of softmax, head by head:

    .. math:: S = \tfrac{1}{\sqrt d} Q K^T, \qquad \Phi(S)_{nj} = \sum_{m,k} c_{jmk} B_k(S_{nm}), \qquad
        O = \Phi(S)\, P^T V

    with Phi from N scores to r numbers a row and P (N, r) back to N weights. x (B, N, D) -> (B, N, D).

    Args:
        dim, num_heads: D and the heads, d = D / num_heads. tokens: N, fixed, as c and P have a place for every token.
        rank: r. basis: default `Fourier(3)`, any :class:`KANLinear` takes. qkv_bias, bias: of the two linear layers.
        chunk: the most elements of scores at a time, None for no bound. precision, backend: :func:`spectralops.kan_linear`'s.

    Parameters: `qkv`, `out` (linear), `coeff` (heads, r, N, K), `project` (heads, N, r), normal with variances under which Phi
    has unit mean square and the weights P Phi mean square 1/N.

    Memory: P^T V, (r, d), is taken first, so the N x N weights never exist; the scores do a block of query rows at a time and
    are computed again in the backward pass, so that Q, K, V and O alone are kept; the (N, N, K) basis never exists where
    `kan_linear` has a kernel. Softmax attention keeps B h N^2, the original of this one B h N^2 K. No mask, no causal form:
    Phi mixes all N scores of a row.

    Source: S. Maity et al., Kolmogorov-Arnold Attention (Fourier-KArAt), 2025; the order of the products and the initial
    values are our own.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        tokens: int,
        rank: int = 12,
        basis: Basis | str | dict | list | None = None,
        *,
        qkv_bias: bool = True,
        bias: bool = True,
        chunk: int | None = 1 << 22,
        precision: str = "highest",
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim; got {num_heads} and {dim}")
        self.basis = Fourier(3) if basis is None else as_basis(basis)
        self.basis.check_inputs(tokens)
        self.dim, self.num_heads, self.tokens, self.rank = dim, num_heads, tokens, rank
        self.chunk, self.precision, self.backend = chunk, precision, backend
        place = {"device": device, "dtype": dtype}
        self.qkv, self.out = nn.Linear(dim, 3 * dim, qkv_bias, **place), nn.Linear(dim, dim, bias, **place)
        self.coeff = nn.Parameter(torch.empty(num_heads, rank, tokens, self.basis.size, **place))
        self.project = nn.Parameter(torch.empty(num_heads, tokens, rank, **place))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for linear in (self.qkv, self.out):
            linear.reset_parameters()
        nn.init.normal_(self.coeff, std=(self.tokens * mean_square(self.basis)) ** -0.5)
        nn.init.normal_(self.project, std=1 / math.sqrt(self.rank * self.tokens))

    def forward(self, x: Tensor) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 3 or tuple(x.shape[1:]) != (self.tokens, self.dim):
            raise ValueError(f"x must be (B, {self.tokens}, {self.dim}); got {_check.shape(x)}")
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 3, 0, 1, 4)  # (3, h, B, N, d)
        q, k, v = qkv.unbind()
        heads = [self._head(*one) for one in zip(q, k, v, self.coeff, self.project)]
        return self.out(torch.cat(heads, -1))

    def _head(self, q: Tensor, k: Tensor, v: Tensor, coeff: Tensor, project: Tensor) -> Tensor:
        """(B, N, d) each -> (B, N, d)."""
        values = project.transpose(0, 1).to(v.dtype) @ v  # (B, r, d)
        traced = exporting() or torch.compiler.is_compiling()
        scores = q.shape[0] * q.shape[1] * k.shape[1] if not traced else 0
        if self.chunk is None or scores <= self.chunk:
            return self._rows(q, k, values, coeff)
        rows = max(1, self.chunk // (q.shape[0] * k.shape[1]))
        again = torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        blocks = [
            checkpoint(self._rows, part, k, values, coeff, use_reentrant=False, preserve_rng_state=False)
            if again
            else self._rows(part, k, values, coeff)
            for part in q.split(rows, 1)
        ]
        return torch.cat(blocks, 1)

    def _rows(self, q: Tensor, k: Tensor, values: Tensor, coeff: Tensor) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)  # (B, n, N)
        phi = kan_linear(scores, coeff, self.basis, precision=self.precision, backend=chosen(self.backend))
        return phi @ values

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}, tokens={self.tokens}, rank={self.rank}, basis={self.basis!r}"
