"""`TNO` and `TNN`: a Toeplitz matrix whose coefficients are a network of the relative position."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _check
from ..ops.fft_conv import fft_conv
from .kan_spec import chosen
from .long_conv import positive


class _SimpleRMSNorm(nn.Module):
    """x / (|x|_2 / sqrt(d) + 1e-8): no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.norm(2, -1, keepdim=True) * x.shape[-1] ** -0.5 + 1e-8)


_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


class _RPE(nn.Module):
    """Positions (n, 1) -> (n, O): linear layers of width D with a norm and an activation before each but the first."""

    def __init__(self, dim: int, outputs: int, layers: int, act: str, residual: bool, bias: bool, place: dict):
        super().__init__()
        self.residual = residual

        def layer(width: int) -> nn.Sequential:
            return nn.Sequential(_SimpleRMSNorm(), _ACTIVATIONS[act](), nn.Linear(dim, width, bias=bias, **place))

        self.pos_proj = nn.Linear(1, dim, bias=bias, **place)
        self.layers = nn.ModuleList(layer(dim) for _ in range(layers))
        self.out = layer(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos_proj(x)
        for layer in self.layers:
            x = layer(x) + x if self.residual else layer(x)
        return self.out(x)


class TNO(nn.Module):
    r"""y_i = sum_j a_{i-j} x_j, a_0 = f(0), a_{+-m} = gamma^m f(+-m), f the network `rpe`: x (B, h, n, d) -> (B, h, n, d).

    Args:
        h, dim: heads and d, the channels of one; every head and channel has coefficients of its own. rpe_dim: width of f.
        causal: only i >= j. use_decay: gamma is the constant `gamma`; use_multi_decay: gamma + (1 - gamma) sigmoid(g), g learned.
        par_type: f sees m (1), m / (n - 1) (2), or exp(m / (n - 1)) (3, causal alone). layers, act ("relu", "silu", "gelu"),
            residual, bias: of f. backend: :func:`spectralops.fft_conv`'s.

    Parameters as in TNN's Tno with its parameterless norm, whose state loads: `rpe.pos_proj`, `rpe.layers`, `rpe.out`, linear
    layers as nn.Linear initialises them; `gamma` (h, 1, d).

    forward(x, normalize=False, gate=None): normalize divides by sum_j a_{i-j}; gate, shaped as x, multiplies y in the same call.

    Source: Z. Qin et al., Toeplitz Neural Network for Sequence Modeling, 2023.
    """

    def __init__(
        self,
        h: int,
        dim: int,
        rpe_dim: int,
        causal: bool = False,
        use_decay: bool = False,
        use_multi_decay: bool = False,
        residual: bool = False,
        act: str = "relu",
        par_type: int = 1,
        gamma: float = 0.999,
        bias: bool = True,
        layers: int = 3,
        *,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive(h=h, dim=dim, rpe_dim=rpe_dim)
        _check.choice("act", act, tuple(_ACTIVATIONS))
        _check.choice("par_type", par_type, (1, 2, 3) if causal else (1, 2))
        if use_decay and use_multi_decay:
            raise ValueError("use_decay and use_multi_decay are two meanings of gamma; give one")
        self.h, self.dim, self.causal, self.par_type, self.backend = h, dim, causal, par_type, backend
        self.use_decay, self.use_multi_decay, self.lambda_ = use_decay, use_multi_decay, gamma
        place = {"device": device, "dtype": dtype}
        if use_decay:
            self.gamma = nn.Parameter(torch.full((h, 1, dim), float(gamma), **place), requires_grad=False)
        elif use_multi_decay:
            self.gamma = nn.Parameter(torch.randn(h, 1, dim, **place))
        self.rpe = _RPE(rpe_dim, h * dim, layers, act, residual, bias, place)

    def coefficients(self, n: int) -> tuple[Tensor, Tensor | None]:
        """a_0 .. a_{n-1} and, unless causal, a_{-1} .. a_{-(n-1)}: (h d, n) and (h d, n - 1)."""
        like = self.rpe.pos_proj.weight
        m = torch.arange(1, n, device=like.device).to(like.dtype)[:, None]
        scaled = m if self.par_type == 1 else m / max(n - 1, 1)
        scaled, zero = (scaled.exp(), m.new_ones(1, 1)) if self.par_type == 3 else (scaled, m.new_zeros(1, 1))
        parts = [zero, scaled] if self.causal else [zero, scaled, -scaled]
        a = self.rpe(torch.cat(parts)).T  # (h d, ..)
        decay = self._decay(m)
        if decay is not None:
            lags = [decay.new_ones(len(a), 1), decay] if self.causal else [decay.new_ones(len(a), 1), decay, decay]
            a = a * torch.cat(lags, 1)
        return a[:, :n], None if self.causal else a[:, n:]

    def _decay(self, m: Tensor) -> Tensor | None:
        """gamma^m (h d, n - 1)."""
        if not (self.use_decay or self.use_multi_decay):
            return None
        gamma = self.gamma if self.use_decay else self.lambda_ + (1 - self.lambda_) * torch.sigmoid(self.gamma)
        return (gamma**m).transpose(1, 2).flatten(0, 1)

    def forward(self, x: Tensor, normalize: bool = False, gate: Tensor | None = None) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 4 or x.shape[1] != self.h or x.shape[3] != self.dim or x.shape[2] == 0:
            raise ValueError(f"x must have shape (B, {self.h}, n, {self.dim}), n positive; got {_check.shape(x)}")
        n = x.shape[2]
        ahead, back = self.coefficients(n)
        if normalize:  # sum_j a_{i-j}, i = 0 .. n - 1
            total = ahead.cumsum(1)
            if back is not None:
                total = total + F.pad(back.cumsum(1), (1, 0)).flip(1)
            share = (1 / total).T.unflatten(1, (self.h, self.dim)).transpose(0, 1)  # (h, n, d)
            gate = share.expand(x.shape) if gate is None else gate * share

        def joined(t: Tensor) -> Tensor:  # (B, n, h d)
            return t.transpose(1, 2).flatten(2)

        reverse = {} if back is None or n == 1 else {"k_rev": back, "rev_offset": 1}
        if gate is not None and gate.shape != x.shape:
            raise ValueError(f"gate must be shaped as x, {tuple(x.shape)}; got {tuple(gate.shape)}")
        gate = None if gate is None else joined(gate)
        y = fft_conv(joined(x), ahead, gate_out=gate, layout="blh", backend=chosen(self.backend), **reverse)
        return y.unflatten(2, (self.h, self.dim)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"h={self.h}, dim={self.dim}, causal={self.causal}, par_type={self.par_type}"


class TNN(nn.Module):
    r"""y = W_o (u T(v)) + x, u = silu(W_u z), v = silu(W_v z), z = norm(x), T a :class:`TNO`: the gated Toeplitz unit,
    x (B, n, D) -> (B, n, D).

    Args: embed_dim: D. num_heads: h. expand_ratio: u and v have int(expand_ratio D) channels, made a multiple of h.
    use_norm: a norm before W_o. normalize: TNO's. rpe_embedding, rpe_layers, and the rest: TNO's.

    Parameters as in TNN's Gtu with its parameterless norm, whose state loads: `u_proj`, `v_proj`, `o`, `toep`. The gate u is
    in T's call. Source: as TNO.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        expand_ratio: float = 3,
        use_norm: bool = False,
        normalize: bool = False,
        rpe_embedding: int = 512,
        rpe_layers: int = 3,
        rpe_act: str = "relu",
        gamma: float = 0.99,
        bias: bool = True,
        device=None,
        dtype=None,
        **toeplitz,
    ):
        super().__init__()
        positive(embed_dim=embed_dim, num_heads=num_heads)
        width = int(expand_ratio * embed_dim) // num_heads
        if width < 1:
            raise ValueError(f"expand_ratio {expand_ratio} of {embed_dim} channels leaves none for {num_heads} heads")
        place = {"device": device, "dtype": dtype}
        self.num_heads, self.normalize, self.use_norm = num_heads, normalize, use_norm
        self.v_proj = nn.Linear(embed_dim, width * num_heads, bias=bias, **place)
        self.u_proj = nn.Linear(embed_dim, width * num_heads, bias=bias, **place)
        self.o = nn.Linear(width * num_heads, embed_dim, bias=bias, **place)
        how = {"act": rpe_act, "layers": rpe_layers, "gamma": gamma, "bias": bias, **toeplitz, **place}
        self.toep = TNO(num_heads, width, rpe_embedding, **how)
        self.norm = _SimpleRMSNorm()

    def forward(self, x: Tensor) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 3 or x.shape[-1] != self.u_proj.in_features:
            raise ValueError(f"x must have shape (B, n, {self.u_proj.in_features}); got {_check.shape(x)}")
        z = self.norm(x)
        u, v = (F.silu(p(z)).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for p in (self.u_proj, self.v_proj))
        y = self.toep(v, normalize=self.normalize, gate=u).transpose(1, 2).flatten(2)
        return self.o(self.norm(y) if self.use_norm else y) + x
