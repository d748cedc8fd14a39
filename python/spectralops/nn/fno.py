"""`FNO`: a Fourier neural operator in one to three dimensions, and its block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from .long_conv import positive
from .spectral_conv import SpectralConv


class FNOBlock(SpectralConv):
    r"""y = GELU(F^{-1}(W_f F x) + S x + b), :class:`SpectralConv` with a 1x1 convolution beside it and GELU (erf)
    after it, all one call.

    Args: channels: C. modes. activation: "gelu" or None. The others are SpectralConv's, and so are the parameters.
    """

    def __init__(self, channels: int, modes: int | tuple[int, ...], *, activation: str | None = "gelu", **more):
        super().__init__(channels, channels, modes, skip=True, activation=activation, **more)


def _pointwise(rank: int, inputs: int, outputs: int, place: dict) -> nn.Module:
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](inputs, outputs, 1, **place)


class FNO(nn.Module):
    r"""Fourier neural operator: y = Q(block(.. block(P(x)))), x (B, Ci, n_1, .., n_D) -> (B, Co, n_1, .., n_D) on any
    grid.

    P and Q are pointwise, two layers with GELU between, Q's hidden width `projection`, P's `lifting`; the last of the
    blocks has no GELU. With `grid` the coordinates 0 .. 1 - 1 / n_d of the points are further input channels.

    Args:
        in_channels, out_channels: Ci and Co. modes: D = 1 to 3 numbers. width: channels of the blocks. layers: how
            many blocks. lifting, projection: hidden widths, default 2 width. The others go to :class:`FNOBlock`:
            factorization, rank, separable, layout, norm, backend.

    Parameters: `lift` and `project`, each an nn.Sequential of two 1x1 convolutions, `blocks`.

    forward(x). Results on a finer grid are those of the same function of the coarser one's modes: frequencies stay
    what they are.

    Source: Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: int | tuple[int, ...],
        width: int = 64,
        layers: int = 4,
        *,
        lifting: int | None = None,
        projection: int | None = None,
        grid: bool = True,
        device=None,
        dtype=None,
        **more,
    ):
        super().__init__()
        positive(in_channels=in_channels, out_channels=out_channels, width=width, layers=layers)
        modes = (modes,) if isinstance(modes, int) else tuple(modes)
        place, rank = {"device": device, "dtype": dtype}, len(modes)
        if not 1 <= rank <= 3:
            raise ValueError(f"modes must have one to three entries; got {modes}")
        self.in_channels, self.grid, self.rank = in_channels, grid, rank
        hidden, last = 2 * width if lifting is None else lifting, 2 * width if projection is None else projection
        first = in_channels + rank * grid
        self.lift = nn.Sequential(_pointwise(rank, first, hidden, place), nn.GELU(), _pointwise(rank, hidden, width, place))
        kinds = ["gelu"] * (layers - 1) + [None]
        self.blocks = nn.ModuleList(FNOBlock(width, modes, activation=kind, **more, **place) for kind in kinds)
        self.project = nn.Sequential(_pointwise(rank, width, last, place), nn.GELU(), _pointwise(rank, last, out_channels, place))

    def reset_parameters(self) -> None:
        for module in (self.lift[0], self.lift[2], *self.blocks, self.project[0], self.project[2]):
            module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != self.rank + 2 or x.shape[1] != self.in_channels:
            sizes = ", ".join(f"n{d + 1}" for d in range(self.rank))
            raise ValueError(f"x must have shape (B, {self.in_channels}, {sizes}); got {_check.shape(x)}")
        if self.grid:
            x = torch.cat([x, *(self._coordinate(x, d) for d in range(self.rank))], 1)
        x = self.lift(x)
        for block in self.blocks:
            x = block(x)
        return self.project(x)

    def _coordinate(self, x: Tensor, d: int) -> Tensor:
        """(B, 1, n..)."""
        size = x.shape[2 + d]
        points = torch.arange(size, device=x.device, dtype=torch.float32) / size
        points = points.to(x.dtype).reshape([size if e == d else 1 for e in range(self.rank)])
        return points.expand(x.shape[0], 1, *x.shape[2:])

    def extra_repr(self) -> str:
        return f"{self.in_channels}, grid={self.grid}"
