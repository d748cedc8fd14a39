"""`HyenaFilter`: a long kernel as a small network of the position, under a window that decays."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check
from .long_conv import positive


class Sin(nn.Module):
    """sin(w_mod freq x), freq (1, D) learned."""

    def __init__(self, dim: int, w: float = 10.0, w_mod: float = 1.0, device=None, dtype=None):
        super().__init__()
        self.freq, self.w_mod = nn.Parameter(torch.full((1, dim), float(w), device=device, dtype=dtype)), w_mod

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.w_mod * self.freq * x)


class _PositionalEmbedding(nn.Module):
    """z (1, K, E) = [t, cos(f w), -sin(f w)], t from 0 to 1, w = 2 pi l / K, f: F = (E - 1) / 2 frequencies, 1e-4 to F - 1."""

    def __init__(self, emb_dim: int, seq_len: int, device=None, dtype=None):
        super().__init__()
        bands = (emb_dim - 1) // 2
        t = torch.linspace(0, 1, seq_len, device="cpu")[None, :, None]
        w = 2 * math.pi * torch.linspace(0, seq_len - 1, seq_len, device="cpu")[None, :, None] / seq_len
        angle = torch.linspace(1e-4, bands - 1, bands, device="cpu")[None, None] * w
        z = torch.cat([t, angle.cos(), -angle.sin()], -1)
        self.z = nn.Parameter(z.to(device=device or torch.get_default_device(), dtype=dtype))
        self.register_buffer("t", t.to(self.z))


class _Modulation(nn.Module):
    """h (exp(-t |delta_c|) + shift), delta from ln(target) / slow to ln(target) / fast over the channels."""

    def __init__(self, d_model: int, fast: float, slow: float, target: float, shift: float, device=None, dtype=None):
        super().__init__()
        self.shift = shift
        low, high = math.log(target) / slow, math.log(target) / fast
        self.register_buffer("deltas", torch.linspace(low, high, d_model, device=device, dtype=dtype)[None, None])

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return h * (torch.exp(-t * self.deltas.abs()) + self.shift)


class HyenaFilter(nn.Module):
    r"""k[c, l] = h_c(l) (exp(-t_l |delta_c|) + shift), h = W_n sin(f .. sin(f (W_0 z_l + b_0))): the taps of H channels.

    Args:
        d_model: H. seq_len: K, the most taps. emb_dim: E of the embedding z, odd, 3 or more. order: width of the network.
        num_inner_mlps: layers of that width. w: initial frequency of the sines; w_mod: a constant factor of it, M2's.
        bidirectional: a second network for the anticausal taps, with the same frequencies. normalized: h_c(l) is divided by
            sum_c |h_c(l)|. bias: False makes the skip weights 0. modulate, fast_decay_pct, slow_decay_pct, target, shift:
            the window.

    Parameters and buffers, as in the published modules, whose states load: `bias` (H,), the skip weights; `implicit_filter`
    (and `implicit_filter_rev`), linear layers with the sine between them; `pos_emb.z` (1, K, E), a parameter that upstream trains
    with a learning rate of 1e-5, `pos_emb.t`; `modulation.deltas` (1, 1, H). Initialised as there.

    Source: M. Poli et al., Hyena Hierarchy, 2023; D. Fu et al., Monarch Mixer, 2023.
    """

    def __init__(
        self,
        d_model: int,
        seq_len: int,
        *,
        emb_dim: int = 3,
        order: int = 16,
        num_inner_mlps: int = 2,
        w: float = 1.0,
        w_mod: float = 1.0,
        bidirectional: bool = False,
        normalized: bool = False,
        bias: bool = True,
        modulate: bool = True,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive(d_model=d_model, seq_len=seq_len, order=order)
        if _check.integer("emb_dim", emb_dim) < 3 or emb_dim % 2 == 0:
            raise ValueError(f"emb_dim must be odd and at least 3 (time, cosines, sines); got {emb_dim}")
        place = {"device": device, "dtype": dtype}
        self.d_model, self.seq_len, self.emb_dim, self.bidirectional = d_model, seq_len, emb_dim, bidirectional
        self.use_bias, self.modulate, self.normalized = bias, modulate, normalized
        self.bias = nn.Parameter(torch.randn(d_model, **place))
        self.pos_emb = _PositionalEmbedding(emb_dim, seq_len, **place)
        sine = Sin(order, w, w_mod, **place)

        def network() -> nn.Sequential:
            inner = [part for _ in range(num_inner_mlps) for part in (nn.Linear(order, order, **place), sine)]
            return nn.Sequential(nn.Linear(emb_dim, order, **place), sine, *inner, nn.Linear(order, d_model, bias=False, **place))

        self.implicit_filter = network()
        self.implicit_filter_rev = network() if bidirectional else None
        self.modulation = _Modulation(d_model, fast_decay_pct, slow_decay_pct, target, shift, **place)

    def taps(self, length: int, reverse: bool = False) -> Tensor:
        """(H, length): the causal taps, or with `reverse` the anticausal ones."""
        if length > self.seq_len:
            raise ValueError(f"the filter has {self.seq_len} taps; got rows of {length}")
        h = (self.implicit_filter_rev if reverse else self.implicit_filter)(self.pos_emb.z[:, :length])  # (1, L, H)
        if self.normalized:
            h = h / h.abs().sum(-1, keepdim=True)
        if self.modulate:
            h = self.modulation(self.pos_emb.t[:, :length], h)
        return h[0].T

    def skip(self) -> Tensor | None:
        return self.bias if self.use_bias else None

    def extra_repr(self) -> str:
        return f"{self.d_model}, seq_len={self.seq_len}, emb_dim={self.emb_dim}, bidirectional={self.bidirectional}"
