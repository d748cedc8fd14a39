"""`SpectralConv`: the layer of a Fourier neural operator as a module, its weight dense or factorised."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.spectral_conv import ACTIVATIONS, LAYOUTS, NORMS, spectral_conv
from .long_conv import positive

FACTORIZATIONS = (None, "cp", "tucker", "tt")


def factor_shapes(kind: str, shape: tuple[int, ...], ranks: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of the factors in `spectral_conv`'s order. ranks: cp (R,), tucker one a dimension, tt those between them."""
    if kind == "cp":
        return [ranks, *((n, ranks[0]) for n in shape)]
    if kind == "tucker":
        return [ranks, *zip(shape, ranks)]
    edges = (1, *ranks, 1)
    return list(zip(edges, shape, edges[1:]))


def _ranks_at(kind: str, shape: tuple[int, ...], t: float) -> tuple[int, ...]:
    """The ranks at 0 <= t <= 1, of a family that grows with t up to those of a tensor of full rank."""

    def part(most: int) -> int:
        return max(1, round(t * most))

    total = math.prod(shape)
    if kind == "cp":
        return (part(total // max(shape)),)
    if kind == "tucker":
        return tuple(part(n) for n in shape)
    return tuple(part(min(math.prod(shape[: i + 1]), math.prod(shape[i + 1 :]))) for i in range(len(shape) - 1))


def choose_ranks(kind: str, shape: tuple[int, ...], rank: float | int | tuple[int, ...]) -> tuple[int, ...]:
    """An int: that rank, or at most that where there are several; a tuple: these; a float: the largest ranks of at
    most this part of the dense tensor's numbers."""
    count = {"cp": 1, "tucker": len(shape), "tt": len(shape) - 1}[kind]
    if isinstance(rank, (tuple, list)):
        if len(rank) != count or any(_check.integer("rank", r) < 1 for r in rank):
            raise ValueError(f"rank must have {count} positive entries for {kind!r} of {shape}; got {rank}")
        return tuple(rank)
    if isinstance(rank, int) and not isinstance(rank, bool):
        if rank < 1:
            raise ValueError(f"rank must be positive; got {rank}")
        return (rank,) if kind == "cp" else tuple(min(rank, most) for most in _ranks_at(kind, shape, 1.0))
    if not isinstance(rank, float) or not rank > 0:
        raise ValueError(f"rank must be a positive number or a tuple of ranks; got {rank!r}")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        numbers = sum(map(math.prod, factor_shapes(kind, shape, _ranks_at(kind, shape, middle))))
        low, high = (middle, high) if numbers <= rank * math.prod(shape) else (low, middle)
    return _ranks_at(kind, shape, low)


class SpectralConv(nn.Module):
    r"""y = act(F^{-1}(W_f F x) + S x + b) on the lowest frequencies, the layer of an FNO: x (B, Ci, n_1, .., n_D) ->
    (B, Co, n'_1, .., n'_D).

    Args:
        in_channels, out_channels: Ci and Co. modes: kept modes along each of the D = 1 to 3 dimensions: with layout
            "neuralop" m_d rows about frequency 0 and m_D // 2 + 1 columns, with "corner" m_d rows on either side of 0
            and m_D columns.
        factorization: None (dense), "cp", "tucker" or "tt"; factors are never multiplied out. rank: an int or a
            tuple: the ranks; a float: the part of the dense weight's numbers that the factors may have.
        separable: one number a channel and mode, Co = Ci. norm, activation: as :func:`spectralops.spectral_conv`,
            whose backend and derivatives these are. bias: whether there is b. skip: whether there is S, a 1x1
            convolution (unchanged grids only).

    Parameters, all real: `weight` (Ci, Co, m_1, .., m_D // 2 + 1, 2) or, separable, (C, ..., 2), or the list
    `factors` in tensorly's order, each with a trailing 2; `bias` (Co,), `skip` (Co, Ci), or None. Complex entries of
    the whole weight are normal with variance 2 / (Ci + Co), as neuraloperator's; b too, S as nn.Conv's.

    forward(x, output_size=None, skip=None): output_size the grid of the result, frequencies staying what they are;
    skip a tensor of the result's shape to add, where the module has no S.

    Source: Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, 2021; J. Kossaifi et
    al., Multi-Grid Tensorized Fourier Neural Operator, 2023.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: int | tuple[int, ...],
        *,
        factorization: str | None = None,
        rank: float | int | tuple[int, ...] = 0.5,
        separable: bool = False,
        layout: str = "neuralop",
        norm: str = "forward",
        bias: bool = True,
        skip: bool = False,
        activation: str | None = None,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        modes = (modes,) if isinstance(modes, int) else tuple(modes)
        positive(in_channels=in_channels, out_channels=out_channels, **{f"modes[{d}]": m for d, m in enumerate(modes)})
        _check.choice("factorization", factorization, FACTORIZATIONS)
        _check.choice("layout", layout, LAYOUTS)
        _check.choice("norm", norm, NORMS)
        _check.choice("activation", activation, ACTIVATIONS)
        if not 1 <= len(modes) <= 3:
            raise ValueError(f"modes must have one to three entries; got {modes}")
        if separable and in_channels != out_channels:
            raise ValueError(f"separable needs as many channels out as in; got {in_channels} and {out_channels}")
        self.in_channels, self.out_channels, self.modes, self.factorization = in_channels, out_channels, modes, factorization
        self.separable, self.layout, self.norm, self.activation, self.backend = separable, layout, norm, activation, backend
        rows = (*modes[:-1], modes[-1] // 2 + 1) if layout == "neuralop" else (*(2 * m for m in modes[:-1]), modes[-1])
        shape = (*((in_channels,) if separable else (in_channels, out_channels)), *rows)
        place = {"device": device, "dtype": dtype}
        self.weight = self.factors = None
        if factorization is None:
            self.weight = nn.Parameter(torch.empty(*shape, 2, **place))
        else:
            shapes = factor_shapes(factorization, shape, choose_ranks(factorization, shape, rank))
            self.factors = nn.ParameterList(nn.Parameter(torch.empty(*s, 2, **place)) for s in shapes)
        self.bias = nn.Parameter(torch.empty(out_channels, **place)) if bias else None
        self.skip = nn.Parameter(torch.empty(out_channels, in_channels, **place)) if skip else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        std = (2 / (self.in_channels + self.out_channels)) ** 0.5
        if self.weight is not None:
            nn.init.normal_(self.weight, std=std / 2**0.5)
        else:
            self._reset_factors(std)
        if self.bias is not None:
            nn.init.normal_(self.bias, std=std)
        if self.skip is not None:
            bound = self.in_channels**-0.5
            nn.init.uniform_(self.skip, -bound, bound)

    def _reset_factors(self, std: float) -> None:
        """An entry of the whole is a sum of as many products as there are choices of the ranks."""
        first, *others = self.factors
        if self.factorization == "cp":
            terms, drawn = first.shape[0], others
            first.copy_(first.new_tensor([1.0, 0.0]).expand(first.shape))
        else:
            ranks = first.shape[:-1] if self.factorization == "tucker" else [f.shape[2] for f in self.factors]
            terms, drawn = math.prod(ranks), [first, *others]
        for factor in drawn:
            nn.init.normal_(factor, std=(std / terms**0.5) ** (1 / len(drawn)) / 2**0.5)

    def forward(self, x: Tensor, output_size: int | tuple[int, ...] | None = None, skip: Tensor | None = None) -> Tensor:
        _check.tensor("x", x)
        rank = len(self.modes)
        if x.dim() != rank + 2 or x.shape[1] != self.in_channels:
            sizes = ", ".join(f"n{d + 1}" for d in range(rank))
            raise ValueError(f"x must have shape (B, {self.in_channels}, {sizes}); got {_check.shape(x)}")
        if skip is not None and self.skip is not None:
            raise ValueError("skip is given, and the module has one of its own")
        weight = self.weight if self.factors is None else tuple(self.factors)
        return spectral_conv(
            x, weight, modes=self.modes, norm=self.norm, output_size=output_size, layout=self.layout,
            skip=self.skip if skip is None else skip, bias=self.bias, activation=self.activation,
            factorization=self.factorization, backend=self.backend,
        )  # fmt: skip

    def extra_repr(self) -> str:
        kind = "" if self.factorization is None else f", factorization={self.factorization!r}"
        how = f"separable={self.separable}, layout={self.layout!r}"
        return f"{self.in_channels}, {self.out_channels}, modes={self.modes}{kind}, {how}"
