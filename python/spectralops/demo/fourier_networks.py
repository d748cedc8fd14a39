"""Models that work on spectra: neuraloperator's FNO, which learns to solve Burgers' equation, and a classifier of digits with GFNet's
global filters, which come as a file to copy and are written here from their formula."""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Data, Network, digits_on_grid, in_dtype, need
from .burgers import solutions

# ---- GFNet: the published layer's parameters and formula ---------------------------------------------


class GlobalFilter(nn.Module):
    """irfft2(rfft2(x) W) of x (B, N, C) on a square grid of N points."""

    def __init__(self, dim: int, h: int = 14, w: int = 8):
        super().__init__()
        self.complex_weight = nn.Parameter(torch.randn(h, w, dim, 2) * 0.02)
        self.w, self.h = w, h

    def forward(self, x: Tensor, spatial_size=None) -> Tensor:
        batch, points, channels = x.shape
        a, b = spatial_size or (int(points**0.5),) * 2
        spectrum = torch.fft.rfft2(x.reshape(batch, a, b, channels), dim=(1, 2), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.complex_weight)
        return torch.fft.irfft2(spectrum, s=(a, b), dim=(1, 2), norm="ortho").reshape(batch, points, channels)


class Patches(nn.Module):
    """Rows of an image (B, 64) -> (B, 64, C): a linear map of each pixel and a table of positions."""

    def __init__(self, width: int):
        super().__init__()
        self.embed, self.position = nn.Linear(1, width), nn.Parameter(0.02 * torch.randn(64, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x[..., None]) + self.position


class FilterBlock(nn.Module):
    """x + mlp(norm(filter(norm(x)))), GFNet's block."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.filter, self.norm2 = nn.LayerNorm(width), GlobalFilter(width, 8, 5), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm2(self.filter(self.norm1(x))))


class Classes(nn.Module):
    """(B, N, C) -> (B, classes), linear in everything after a norm."""

    def __init__(self, width: int, points: int, classes: int):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(points * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x).flatten(1))


def _gfnet(dtype: torch.dtype, width: int) -> nn.Module:
    return in_dtype(dtype, nn.Sequential(Patches(width), FilterBlock(width), FilterBlock(width), Classes(width, 64, 10)))


# ---- neuraloperator's FNO ----------------------------------------------------------------------------


class Line(nn.Module):
    """Values on a line (B, N) as one channel, and back."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, None])[:, 0]


def _exact(self, x: Tensor, output_shape=None) -> Tensor:
    """neuraloperator's layer in one dimension from its formula, in float64; its own forward keeps spectra in complex64."""
    kept = self.weight.tensor.shape[-1]
    spectrum = torch.fft.rfft(x, norm="forward")
    out = torch.einsum("bik,iok->bok", spectrum[..., :kept], self.weight.tensor.to(spectrum.dtype))
    return torch.fft.irfft(out, n=x.shape[-1], norm="forward") + self.bias


def _fno(dtype: torch.dtype, width: int, modes: int) -> nn.Module:
    fno = need("neuralop.models", "neuraloperator").FNO
    model = in_dtype(dtype, Line(fno(n_modes=(modes,), in_channels=1, out_channels=1, hidden_channels=width, n_layers=4)))
    if dtype == torch.float64:
        for part in model.modules():
            if type(part).__name__ == "SpectralConv":
                part.forward = MethodType(_exact, part)
                part.weight.tensor.data = part.weight.tensor.data.to(torch.complex128)
    return model


def burgers(device: torch.device) -> Data:
    """160 pairs of an initial value on 128 points and the solution of Burgers' equation (viscosity 0.1) at time 1, by a
    pseudo-spectral solver that is checked against the equation's conserved mean and balance of energy; 128 to train on."""
    x, y = (t.float().to(device) for t in solutions(160, 128))

    def explained(output: Tensor, truth: Tensor) -> float:
        return (1 - (output - truth).square().mean() / (truth - truth.mean()).square().mean()).item()

    return Data(x[:128], y[:128], x[128:], y[128:], F.mse_loss, "mean squared error", explained,
                "variance explained of 32 solutions not trained on")  # fmt: skip


def fourier_networks(small: bool) -> list[Network]:
    width, modes, channels = (8, 12, 16) if small else (64, 24, 64)
    return [
        Network(
            name="fno-burgers",
            title="An FNO that learns to solve Burgers' equation",
            package="neuraloperator",
            about=f"neuraloperator's FNO with 4 layers of {width} channels and {modes} modes, from the initial value on 128 points to "
            "the solution at time 1; data from a pseudo-spectral solver checked against the conserved mean and the balance of energy",
            data=burgers,
            build=lambda dtype: _fno(dtype, width, modes),
            unit=lambda model: model.inner.fno_blocks.convs[0],
            feeds=lambda model: Lifted(model.inner),
            rows=16 if small else 128,
            batch=8 if small else 32,
            rate=0.1,
            steps=8 if small else 40,
            compile=(),
        ),
        Network(
            name="gfnet-digits",
            title="A classifier of digits with GFNet's global filters",
            package="GFNet",
            about=f"two blocks with global filters of {channels} channels on the 8 x 8 grid, the published file's parameters and "
            "formula, on the 1437 training images of scikit-learn's digits",
            data=digits_on_grid,
            build=lambda dtype: _gfnet(dtype, channels),
            unit=lambda model: model[1].filter,
            feeds=lambda model: nn.Sequential(model[0], model[1].norm1),
            rows=32 if small else 256,
            batch=16 if small else 64,
            rate=0.01,
            steps=8 if small else 40,
            compile=("op",),
        ),
    ]


class Lifted(nn.Module):
    """What neuraloperator's FNO does to (B, N) before its first spectral layer."""

    def __init__(self, fno: nn.Module):
        super().__init__()
        self.fno = fno

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        if self.fno.positional_embedding is not None:
            x = self.fno.positional_embedding(x)
        return self.fno.lifting(x)
