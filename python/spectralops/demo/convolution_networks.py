"""Sequence models on real signals: S4D layers, which come as a file to copy and are written here from their formula, on a heart's
electrocardiogram and on digits read pixel by pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Data, Network, digits_on_grid, in_dtype, need

# ---- S4D: the published minimal layer's parameters and formula ---------------------------------------


class S4DKernel(nn.Module):
    """k_hl = 2 Re sum_n C_hn (exp(a_hn dt_h) - 1) / a_hn exp(a_hn dt_h l), a = -exp(log_A_real) + i A_imag: a diagonal state space
    under zero-order hold."""

    def __init__(self, d_model: int, N: int = 64, dt_min: float = 0.001, dt_max: float = 0.1):
        super().__init__()
        half = N // 2
        self.C = nn.Parameter(torch.randn(d_model, half, 2) / math.sqrt(2))
        self.log_dt = nn.Parameter(torch.rand(d_model) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
        self.log_A_real = nn.Parameter(torch.full((d_model, half), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(half).repeat(d_model, 1))

    def forward(self, L: int) -> Tensor:
        a = torch.complex(-self.log_A_real.exp(), self.A_imag.to(self.log_A_real))  # (H, N / 2)
        step = a * self.log_dt.exp()[:, None]
        c = torch.view_as_complex(self.C) * (step.exp() - 1) / a
        powers = torch.exp(step[..., None] * torch.arange(L, device=a.device))  # (H, N / 2, L)
        return 2 * torch.einsum("hn,hnl->hl", c, powers).real


class S4D(nn.Module):
    """(output_linear(GELU(k * u + D u)), None) of u (B, H, L), k causal."""

    def __init__(self, d_model: int, d_state: int = 64, dropout: float = 0.0, transposed: bool = True):
        super().__init__()
        self.h, self.n, self.transposed = d_model, d_state, transposed
        self.D = nn.Parameter(torch.randn(d_model))
        self.kernel = S4DKernel(d_model, N=d_state)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.output_linear = nn.Sequential(nn.Conv1d(d_model, 2 * d_model, kernel_size=1), nn.GLU(dim=-2))

    def forward(self, u: Tensor, **kwargs) -> tuple[Tensor, None]:
        u = u if self.transposed else u.transpose(-1, -2)
        length = u.shape[-1]
        k = self.kernel(L=length)
        spectra = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(k, n=2 * length)
        y = torch.fft.irfft(spectra, n=2 * length)[..., :length] + u * self.D[:, None]
        y = self.output_linear(self.dropout(self.activation(y)))
        return (y if self.transposed else y.transpose(-1, -2)), None


# ---- the networks around it --------------------------------------------------------------------------


class Lift(nn.Module):
    """A signal (B, L) -> (B, H, L)."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(1, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[..., None]).transpose(1, 2)


class Block(nn.Module):
    """x + S4D(norm(x)) of (B, H, L), the norm over the channels."""

    def __init__(self, width: int, states: int):
        super().__init__()
        self.norm, self.mix = nn.GroupNorm(1, width), S4D(width, states)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x))[0]


class Classes(nn.Module):
    """(B, H, L) -> (B, classes), linear in everything."""

    def __init__(self, width: int, length: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(width * length, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Steps(nn.Module):
    """(B, H, L) -> (B, L), linear in the channels of a step."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(1, 2))[..., 0]


def _model(dtype: torch.dtype, width: int, states: int, head: nn.Module) -> nn.Module:
    return in_dtype(dtype, nn.Sequential(Lift(width), Block(width, states), Block(width, states), head))


# ---- the electrocardiogram ---------------------------------------------------------------------------

WINDOW, AHEAD, SEEN = 512, 2, 768  # steps of 1/360 s: of a window, from an input to what it predicts, of the record trained on


def electrocardiogram(device: torch.device) -> Data:
    """PyWavelets' record of a heart, 1024 samples: at every step of a window, the signal 2 steps later. Windows of the first
    768 samples to train on; tested is what a window that ends with the record says of the samples after those."""
    record = torch.from_numpy(need("pywt.data", "PyWavelets").ecg().copy()).float()
    record = (record - record[:SEEN].mean()) / record[:SEEN].std()
    windows = record.unfold(0, WINDOW + AHEAD, 1).to(device)  # (505, WINDOW + AHEAD)
    x, y = windows[:, :WINDOW].contiguous(), windows[:, AHEAD:].contiguous()
    known = SEEN - WINDOW - AHEAD + 1
    unseen = len(record) - SEEN

    def explained(output: Tensor, truth: Tensor) -> float:
        output, truth = output[:, -unseen:], truth[:, -unseen:]
        return (1 - (output - truth).square().mean() / (truth - truth.mean()).square().mean()).item()

    return Data(x[:known], y[:known], x[-1:], y[-1:], F.mse_loss, "mean squared error", explained,
                f"variance explained, {AHEAD} steps ahead, of the {unseen} samples not trained on")  # fmt: skip


def convolution_networks(small: bool) -> list[Network]:
    width, states = (8, 4) if small else (32, 8)
    layer = f"two S4D layers of {width} channels and {states} states, the published file's parameters and formula"
    return [
        Network(
            name="s4d-ecg",
            title="An S4D model of an electrocardiogram",
            package="s4",
            about=f"{layer}; from every step of a window of {WINDOW}, the signal {AHEAD} steps later, trained on the first {SEEN} of "
            "the 1024 samples of PyWavelets' record",
            data=electrocardiogram,
            build=lambda dtype: _model(dtype, width, states, Steps(width)),
            unit=lambda model: model[1],
            feeds=lambda model: model[:1],
            rows=8 if small else 128,
            batch=4 if small else 8,
            rate=0.03,
            steps=8 if small else 40,
            compile=("op",),
        ),
        Network(
            name="s4d-digits",
            title="An S4D model that reads digits pixel by pixel",
            package="s4",
            about=f"{layer}, on the 1437 training images of scikit-learn's digits as sequences of 64",
            data=digits_on_grid,
            build=lambda dtype: _model(dtype, width, states, Classes(width, 64, 10)),
            unit=lambda model: model[1],
            feeds=lambda model: model[:1],
            rows=32 if small else 256,
            batch=16 if small else 64,
            rate=0.01,
            steps=8 if small else 40,
            compile=(),
        ),
    ]
