"""KANs on real data: pykan's, from the package, and efficient-kan's, which comes as a file to copy and is written here
from its formula."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import ByHand, Network, diabetes, digits_on_grid, in_dtype, need, place


def splines(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """B-splines by Cox and de Boor's recursion, x (N, I) on knots t (I, T) -> (N, I, T - order - 1):

    B_j,0 = [t_j <= x < t_j+1]
    B_j,p = (x - t_j) / (t_j+p - t_j) B_j,p-1 + (t_j+p+1 - x) / (t_j+p+1 - t_j+1) B_j+1,p-1
    """
    x = x.unsqueeze(-1)
    b = ((grid[:, :-1] <= x) & (x < grid[:, 1:])).to(x.dtype)
    for p in range(1, order + 1):
        up = (x - grid[:, : -p - 1]) / (grid[:, p:-1] - grid[:, : -p - 1])
        down = (grid[:, p + 1 :] - x) / (grid[:, p + 1 :] - grid[:, 1:-p])
        b = up * b[..., :-1] + down * b[..., 1:]
    return b


# ---- efficient-kan -----------------------------------------------------------------------------------


class KANLinear(nn.Module):
    """y = silu(x) Wb^T + sum_{i,k} Ws_oik s_oi B_k(x_i): the published layer's parameters and formula."""

    def __init__(self, in_features: int, out_features: int, grid_size: int = 5, spline_order: int = 3, scale_noise: float = 0.1):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.grid_size, self.spline_order = grid_size, spline_order
        knots = torch.arange(-spline_order, grid_size + spline_order + 1) * (2 / grid_size) - 1
        self.register_buffer("grid", knots.repeat(in_features, 1))  # (I, G + 2p + 1) on [-1, 1] and p more a side
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, in_features, grid_size + spline_order))
        self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features))
        self.enable_standalone_scale_spline = True
        self.base_activation = nn.SiLU()
        for weight in (self.base_weight, self.spline_scaler):
            nn.init.kaiming_uniform_(weight, a=5**0.5)
        with torch.no_grad():
            self.spline_weight.uniform_(-0.5, 0.5).mul_(scale_noise / grid_size)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        basis = splines(rows, self.grid, self.spline_order)  # (N, I, K)
        scaled = self.spline_weight * self.spline_scaler.unsqueeze(-1)  # (O, I, K)
        y = F.linear(self.base_activation(rows), self.base_weight) + F.linear(basis.flatten(1), scaled.flatten(1))
        return y.reshape(*x.shape[:-1], self.out_features)


def _efficient(dtype: torch.dtype, widths: list[int]) -> nn.Module:
    return in_dtype(dtype, nn.Sequential(*(KANLinear(i, o) for i, o in zip(widths, widths[1:]))))


# ---- pykan -------------------------------------------------------------------------------------------


def _pykan(dtype: torch.dtype, widths: list[int]) -> nn.Module:
    """kan.KAN as its authors train it fast: `speed()`, without symbolic branch and without kept activations."""
    kan = need("kan", "pykan").KAN
    model = kan(list(widths), grid=5, k=3, seed=torch.initial_seed() % (1 << 31), auto_save=False)
    return in_dtype(dtype, model.speed())


def _first_layer(model: nn.Module) -> nn.Module:
    """A KAN of the model's first layer alone: in pykan it is the model that is replaced, not its layers."""
    layer = model.act_fun[0]
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        one = _pykan(torch.float32, [layer.in_dim, layer.out_dim])
    one.act_fun[0] = layer
    return place(one, layer.coef.device)


def _product(one: nn.Module, _: Tensor):
    """The sum over edges and splines as one matrix product, coefficients folded at every call."""
    layer = one.act_fun[0]

    def call(x: Tensor) -> Tensor:
        coeff = layer.coef * (layer.mask * layer.scale_sp).unsqueeze(-1)  # (I, O, K)
        base = layer.mask * layer.scale_base  # (I, O)
        coeff = coeff.transpose(1, 2).flatten(0, 1)  # (I K, O)
        return splines(x, layer.grid, layer.k).flatten(1) @ coeff + F.silu(x) @ base

    return call


_PRODUCT = ByHand("pykan's sums as one product of the splines with all coefficients, efficient-kan's form", _product)


# ---- the four ----------------------------------------------------------------------------------------


def kan_networks(small: bool) -> list[Network]:
    wide, narrow = (16, 8) if small else (256, 32)
    on_digits = "trained on the 1437 training images of scikit-learn's digits"
    on_diabetes = "a regression, trained on 353 of the 442 patients of scikit-learn's diabetes"
    pykan = "kan.KAN(grid=5, k=3).speed()"
    efficient = "KANLinear layers of grid 5, order 3, the published file's parameters and formula"

    def network(name, package, data, widths, about, **more):
        title, task = {"pykan": "A pykan KAN", "efficient-kan": "An efficient-kan KAN"}[package], data.__name__.partition("_")[0]
        model, unit, feeds, by_hand = {
            "pykan": (_pykan, _first_layer, lambda model: nn.Identity(), _PRODUCT),
            "efficient-kan": (_efficient, lambda model: model[1], lambda model: model[:1], None),
        }[package]
        return Network(
            name=name, title=f"{title} on {task}", package=package, data=data, build=lambda dtype: model(dtype, widths),
            about=f"{' - '.join(map(str, widths))}, {about}", unit=unit, feeds=feeds, by_hand=by_hand, rows=2000, **more,
        )  # fmt: skip

    steps = 10 if small else 32
    return [
        network("efficient-kan-digits", "efficient-kan", digits_on_grid, [64, wide, wide, 10], f"{efficient}, {on_digits}",
                batch=256, rate=0.15, steps=steps),
        network("pykan-digits", "pykan", digits_on_grid, [64, narrow, 10], f"{pykan}, {on_digits}",
                batch=256, rate=0.5, steps=steps, compile=("op",)),
        network("efficient-kan-diabetes", "efficient-kan", diabetes, [10, wide // 4, wide // 4, 1], f"{efficient}, {on_diabetes}",
                batch=353, rate=0.06, steps=steps, compile=()),
        network("pykan-diabetes", "pykan", diabetes, [10, narrow, 1], f"{pykan}, {on_diabetes}",
                batch=353, rate=0.15, steps=steps, compile=()),
    ]  # fmt: skip
