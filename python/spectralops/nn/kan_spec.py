"""What the KAN modules take for a basis, how large their first coefficients are, and what they do while exported."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import basis as B
from ..basis import Basis, BSpline, Mix
from ..ops.kan_basis import RADIAL, RELU_POWER
from ..ops.plain import exporting

# name -> the class and the arguments that stand where none are given: those of the layer each basis comes from
NAMES: dict[str, tuple[type[Basis], dict]] = {
    "bspline": (B.BSpline, {"grid_size": 5, "order": 3}),
    "rbf": (B.RBF, {"num": 8}),
    "rswaf": (B.RSWAF, {"num": 8}),
    "sech": (B.Sech, {"num": 8}),
    "mexican_hat": (B.MexicanHat, {"num": 8}),
    "morlet": (B.Morlet, {"num": 8}),
    "dog": (B.DoG, {"num": 8}),
    "haar": (B.Haar, {"num": 8}),
    "chebyshev": (B.Chebyshev, {"degree": 4}),
    "legendre": (B.Legendre, {"degree": 4}),
    "jacobi": (B.Jacobi, {"degree": 4}),
    "hermite": (B.Hermite, {"degree": 4}),
    "gram": (B.Gram, {"degree": 4}),
    "fourier": (B.Fourier, {"terms": 5}),
    "relu_power": (B.ReLUPower, {"grid_size": 5, "order": 3, "low": -1, "high": 1}),
}


def as_basis(spec: Basis | str | dict | list | tuple) -> Basis:
    """A basis from a basis, a name, {"name": ..., arguments}, or a list of these, which makes a Mix.

    Arguments that a dict leaves out are `NAMES`'s. Raises TypeError or ValueError for anything else.
    """
    if isinstance(spec, Basis):
        return spec
    if isinstance(spec, (list, tuple)):
        return Mix(*map(as_basis, spec))
    given = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(given, dict) or "name" not in given:
        raise TypeError(f"basis must be a Basis, a name, a dict with a name, or a list of these; got {spec!r}")
    if given["name"] not in NAMES:
        raise ValueError(f"basis must be one of {', '.join(map(repr, NAMES))}; got {given['name']!r}")
    cls, default = NAMES[given["name"]]
    given = {k: v for k, v in given.items() if k != "name"}
    own_grid = {"knots", "centres", "starts"} & given.keys()
    default = {k: v for k, v in default.items() if k == "order" or not own_grid}
    with torch.device("cpu"):  # a layer made on the meta device has a basis all the same
        return cls(**{**default, **given})


def interval(basis: Basis) -> tuple[float, float]:
    """Where a basis is meant to be used: its grid, between its first and last centre, or [-1, 1]."""
    if hasattr(basis, "low"):
        return basis.low, basis.high
    table = basis._table
    if isinstance(basis, BSpline):
        low, high = table[:, basis.order], table[:, -basis.order - 1]
    elif basis.family == RADIAL and basis.size > 1:
        low = high = table[0]
    elif basis.family == RELU_POWER:
        low, high = table[0], table[1]
    else:
        return -1.0, 1.0
    return low.min().item(), high.max().item()


@torch.no_grad()
def mean_square(basis: Basis) -> float:
    """The mean over x of sum_k B_k(x)^2, x uniform on the interval of each part: with independent coefficients of variance s^2,
    an edge's function has mean square s^2 times this."""
    total = 0.0
    for part in basis.bases if isinstance(basis, Mix) else (basis,):
        x = torch.linspace(*interval(part), 257, dtype=torch.float64, device="cpu")[:-1, None]
        table = part._table
        inputs = table.shape[0] if isinstance(part, BSpline) and table is not None else 1
        total += part(x.expand(-1, inputs)).square().sum(-1).mean().item()
    return total or 1.0


def chosen(backend: str | None) -> str | None:
    """The backend for a call: the plain formula while exporting."""
    return "reference" if exporting() else backend


def activation(x: Tensor, name: str) -> Tensor:
    """The base branch's activation by its name in `kan_linear`."""
    if name == "identity":
        return x
    return torch.tanh(x) if name == "tanh" else getattr(torch.nn.functional, name)(x)
