"""`LongConv`: a convolution with a learned kernel as long as the sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.fft_conv import fft_conv
from .kan_spec import chosen


def positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if _check.integer(name, size) < 1:
            raise ValueError(f"{name} must be positive; got {size}")


def row_mask(dropout: nn.Dropout, rows: int, channels: int, like: Tensor) -> Tensor | None:
    """(B, H): dropout of whole rows, as `fft_conv` takes it; None where nothing is dropped."""
    if not dropout.training or dropout.p == 0:
        return None
    ones = torch.ones(rows, channels, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return nn.functional.dropout(ones, dropout.p)


class LongConv(nn.Module):
    r"""y = act(g_o (k * (g_i x) + D g_i x)), k learned tap by tap: x (B, L, H) -> (B, L, H).

    Args:
        channels, length: H and K, the number of taps; rows may be shorter or longer.
        groups: G kernels, each shared by H / G channels side by side (default H). bidirectional: anticausal taps as well,
            from lag -rev_offset on. skip: whether there is a D. activation: None, "silu" or "gelu".
        layout: "blh", or "bhl" for x (B, H, L). mode, rev_offset, precision, backend: :func:`spectralops.fft_conv`'s.

    Parameters: `kernel` (G, K), `kernel_rev` (G, K) or None, normal with variance 1 / K, or 1 / 2 K each; `skip` (H,) or
    None, ones.

    forward(x, gate_in=None, gate_out=None, mask=None), as fft_conv's.
    """

    def __init__(
        self,
        channels: int,
        length: int,
        *,
        groups: int | None = None,
        bidirectional: bool = False,
        skip: bool = True,
        activation: str | None = None,
        layout: str = "blh",
        mode: str = "causal",
        rev_offset: int = 0,
        precision: str = "highest",
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        groups = channels if groups is None else groups
        positive(channels=channels, length=length, groups=groups)
        if channels % groups:
            raise ValueError(f"groups must divide channels, {channels}; got {groups}")
        _check.choice("layout", layout, ("bhl", "blh"))
        _check.choice("activation", activation, (None, "silu", "gelu"))
        if bidirectional and mode not in ("causal", "circular"):
            raise ValueError(f"bidirectional is for the modes 'causal' and 'circular'; got mode={mode!r}")
        self.channels, self.length, self.groups, self.bidirectional = channels, length, groups, bidirectional
        self.activation, self.layout, self.mode, self.rev_offset = activation, layout, mode, rev_offset
        self.precision, self.backend = precision, backend
        place = {"device": device, "dtype": dtype}
        self.kernel = nn.Parameter(torch.empty(groups, length, **place))
        self.kernel_rev = nn.Parameter(torch.empty(groups, length, **place)) if bidirectional else None
        self.skip = nn.Parameter(torch.empty(channels, **place)) if skip else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for kernel in (self.kernel, self.kernel_rev):
            if kernel is not None:
                nn.init.normal_(kernel, std=(self.length * (1 + self.bidirectional)) ** -0.5)
        if self.skip is not None:
            nn.init.ones_(self.skip)

    def forward(
        self, x: Tensor, gate_in: Tensor | None = None, gate_out: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        _check.tensor("x", x)
        takes, channels = ("(.., L, {})", -1) if self.layout == "blh" else ("(.., {}, L)", -2)
        if x.dim() < 2 or x.shape[channels] != self.channels:
            raise ValueError(f"x must have shape {takes.format(self.channels)}; got {_check.shape(x)}")
        how = {"rev_offset": self.rev_offset} if self.bidirectional else {}
        return fft_conv(
            x, self.kernel, skip=self.skip, gate_in=gate_in, gate_out=gate_out, k_rev=self.kernel_rev, mode=self.mode,
            activation=self.activation, mask=mask, layout=self.layout, precision=self.precision, backend=chosen(self.backend),
            **how,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.length}, groups={self.groups}, bidirectional={self.bidirectional}, layout={self.layout!r}"
