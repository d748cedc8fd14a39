"""`RelativeKernelAttention`: linear attention with learned relative positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _check
from ..ops.fft_conv import fft_conv
from .exponentials import no_autocast
from .kan_spec import chosen
from .long_conv import positive


def relative_kernel_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, causal: bool = False, backend: str | None = None
) -> Tensor:
    r"""z_i = sum_j e^{b_{i-j}} (q_i . k_j) v_j / sum_j e^{b_{i-j}} (q_i . k_j) in each head.

    q, k (B, h, n, r), positive features; v (B, h, n, d); bias (h, 2 n - 1), b_{-(n-1)} first -> (B, h, n, d).

    Both sums are q_i applied to a Toeplitz product of k_j [v_j, 1]: r (d + 1) channels of a head share its kernel, so a head
    has one transform. The largest b of a head is subtracted, which cancels. causal: only j <= i, and only b_0 .. b_{n-1} are
    used. Memory: k_j [v_j, 1], r (d + 1) numbers a token and head. Computed in float32 for 16-bit inputs and
    under autocast. Divisions by 0 give NaN.

    A transform's rounding error is that of a row's largest terms: a position all of whose own e^b lie a factor s below the
    head's largest loses log10 s of its digits, in float32 all seven at a spread of 16 in b. Float64 inputs carry twice as far.
    """
    (batch, heads, n, r), d = q.shape, v.shape[-1]
    if n == 0:
        return torch.zeros_like(v)
    wide = torch.promote_types(v.dtype, torch.float32)
    bias = bias[:, n - 1 :] if causal else bias
    taps = torch.exp(bias - bias.amax(-1, keepdim=True).detach()).to(wide)
    values = F.pad(v.to(wide), (0, 1), value=1.0).transpose(2, 3)  # (B, h, d + 1, n)
    features = k.to(wide).transpose(2, 3)  # (B, h, r, n)
    products = (features[:, :, :, None] * values[:, :, None]).flatten(1, 3)  # (B, h r (d + 1), n)
    summed = fft_conv(products, taps, mode="causal" if causal else "toeplitz", backend=backend)
    with no_autocast(v):
        z = torch.einsum("bhnr,bhrdn->bhnd", q.to(wide), summed.view(batch, heads, r, d + 1, n))
    return (z[..., :d] / z[..., d:]).to(v.dtype)


class RelativeKernelAttention(nn.Module):
    r"""Softmax attention by positive random features, with relative positions: x (B, n, D) -> (B, n, D).

    z_i = sum_j e^{b_{i-j}} (phi(q_i) . phi(k_j)) v_j / sum_j e^{b_{i-j}} (phi(q_i) . phi(k_j)) in each head,
    phi(x)_m = r^{-1/2} exp(w_m . x - |x|^2 / 2), E[phi(q) . phi(k)] = exp(q . k), q and k scaled to length `scale` each.

    Args:
        dim, heads: D and h. max_len: the longest row. features: r (default the size of a head). causal: j <= i alone.
        scale: 1 as published, which keeps the estimate's variance small. feature_map: "exp", or "elu" for phi = elu + 1 of q
            and k as they are. bias: of the four projections. backend: :func:`spectralops.fft_conv`'s.

    Parameters: `qkv`, `out`, linear layers; `relative_bias` (h, 2 max_len - 1), zeros, b_{-(max_len-1)} first. Buffer:
    `projection` (r, D / h), w, orthogonal in blocks, with the lengths of normal rows.

    Source: S. Luo et al., Stable, Fast and Accurate: Kernelized Attention with Relative Positional Encoding, 2021.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        max_len: int,
        *,
        features: int | None = None,
        causal: bool = False,
        scale: float = 1.0,
        feature_map: str = "exp",
        bias: bool = True,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive(dim=dim, heads=heads, max_len=max_len)
        if dim % heads:
            raise ValueError(f"heads must divide dim, {dim}; got {heads}")
        _check.choice("feature_map", feature_map, ("exp", "elu"))
        place, size = {"device": device, "dtype": dtype}, dim // heads
        features = size if features is None else features
        positive(features=features)
        self.dim, self.heads, self.max_len, self.causal, self.scale = dim, heads, max_len, causal, scale
        self.feature_map, self.backend = feature_map, backend
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias, **place)
        self.out = nn.Linear(dim, dim, bias=bias, **place)
        self.relative_bias = nn.Parameter(torch.zeros(heads, 2 * max_len - 1, **place))
        q, r = torch.linalg.qr(torch.randn(-(-features // size), size, size, device="cpu"))
        q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]  # uniform over rotations, which LAPACK's signs are not
        rows = q.flatten(0, 1)[:features] * torch.randn(features, size, device="cpu").norm(dim=1, keepdim=True)
        rows = rows.to(self.relative_bias.dtype)
        self.register_buffer("projection", rows.to(self.relative_bias.device) if feature_map == "exp" else None)

    def phi(self, x: Tensor) -> Tensor:
        """(B, h, n, D / h) -> (B, h, n, r)."""
        if self.feature_map == "elu":
            return F.elu(x) + 1
        x = F.normalize(x, dim=-1) * self.scale
        w = self.projection.to(x.dtype)
        with no_autocast(x):
            return torch.exp(F.linear(x, w) - 0.5 * self.scale**2) * len(w) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (B, n, {self.dim}); got {_check.shape(x)}")
        n = x.shape[1]
        if n > self.max_len:
            raise ValueError(f"x has rows of {n}, longer than max_len = {self.max_len}")
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, n, D / h) each
        wide = torch.promote_types(v.dtype, torch.float32)
        bias = self.relative_bias[:, self.max_len - n : self.max_len + n - 1].to(wide)
        z = relative_kernel_attention(
            self.phi(q.to(wide)), self.phi(k.to(wide)), v, bias, causal=self.causal, backend=chosen(self.backend)
        )
        return self.out(z.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, max_len={self.max_len}, causal={self.causal}, feature_map={self.feature_map!r}"
