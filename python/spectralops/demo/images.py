"""A photograph as a function of position: two implicit representations whose first layer is a KAN.

FKAN         p = tanh(sum_ik a_oik cos(w k x_i) + b_oik sin(w k x_i) + c_o), then layers h <- tanh(W h + b)
SL2A         p = sum_ik c_oik T_k(tanh x_i) + b_o, then layers of low rank h <- relu(U V (h * p) + b), the first with h = 1

Both end in a Linear layer of three colours. The first layer is either the formula in plain PyTorch, which makes the
(N, I, K) basis, or `kan_linear`.
"""

from __future__ import annotations

import base64
import copy
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spectralops as so

from .base import Data, need

OMEGA = math.pi / 2  # on [-1, 1] the first harmonic makes half a turn


def fourier(x: Tensor, terms: int) -> Tensor:
    """(N, I) -> (N, I, 2 terms): cos(w k x), then sin(w k x), k = 1 .. terms."""
    angle = x.unsqueeze(-1) * (torch.arange(1, terms + 1, device=x.device, dtype=x.dtype) * OMEGA)
    return torch.cat([angle.cos(), angle.sin()], -1)


def chebyshev(x: Tensor, degree: int) -> Tensor:
    """(N, I) -> (N, I, degree + 1): T_k(tanh x) by T_k+1 = 2 z T_k - T_k-1."""
    z = torch.tanh(x)
    t = [torch.ones_like(z), z]
    for _ in range(degree - 1):
        t.append(2 * z * t[-1] - t[-2])
    return torch.stack(t, -1)


class KANFirst(nn.Module):
    """y_o = sum_ik coeff_oik B_k(x_i) + bias_o, by the formula or by `kan_linear`."""

    def __init__(self, basis: so.basis.Basis, formula: Callable[[Tensor], Tensor], outputs: int, fused: bool):
        super().__init__()
        self.basis, self.formula, self.fused = basis, formula, fused
        self.coeff = nn.Parameter(torch.randn(outputs, 2, basis.size) / math.sqrt(2 * basis.size))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            return so.kan_linear(x, self.coeff, self.basis, bias=self.bias)
        return F.linear(self.formula(x).flatten(1), self.coeff.flatten(1), self.bias)


class FKAN(nn.Module):
    def __init__(self, fused: bool, terms: int, width: int, layers: int):
        super().__init__()
        basis = so.basis.Fourier(terms, omega=OMEGA)
        self.first = KANFirst(basis, lambda x: fourier(x, terms), width, fused)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        for layer in self.hidden:
            h = torch.tanh(layer(h))
        return self.last(h)


class SL2A(nn.Module):
    def __init__(self, fused: bool, degree: int, width: int, rank: int, layers: int):
        super().__init__()
        self.first = KANFirst(so.basis.Chebyshev(degree), lambda x: chebyshev(x, degree), width, fused)
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(layers))
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        p, h = self.first(x), 1.0
        for down, up in zip(self.down, self.up):
            h = torch.relu(up(down(h * p)))
        return self.last(h)


@dataclass(frozen=True)
class Picture:
    """One representation of the photograph and how it is trained."""

    name: str
    title: str
    about: str
    make: Callable[[bool], nn.Module]  # (by kan_linear) -> the model
    height: int
    width: int
    batch: int  # pixels drawn at random for a step
    rate: float  # of Adam
    steps: int
    proved: int  # the first of them, which are also run in float64
    compile: bool


def build(picture: Picture, device: torch.device, fused: bool) -> nn.Module:
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return picture.make(fused).to(device)


def build_wide(picture: Picture, device: torch.device) -> nn.Module:
    """The formula in float64 with the same, float32, values."""
    return copy.deepcopy(build(picture, device, False)).double()


def pixels(picture: Picture, device: torch.device) -> Data:
    """Position (x, y) in [-1, 1], colour (red, green, blue) in [0, 1], row by row: the middle of scikit-learn's
    china.jpg, averaged over squares."""
    need("PIL.Image", "pillow")  # with which scikit-learn reads it
    photo = torch.from_numpy(need("sklearn.datasets", "scikit-learn").load_sample_image("china.jpg").copy())
    rows, height, width = len(photo), picture.height, picture.width
    columns = rows * width // height
    left = (photo.shape[1] - columns) // 2
    middle = photo[:, left : left + columns].permute(2, 0, 1).float() / 255
    colour = F.interpolate(middle[None], (height, width), mode="area")[0].permute(1, 2, 0).reshape(-1, 3)
    down, across = (((torch.arange(n, device="cpu") + 0.5) * 2 / n - 1) for n in (height, width))
    position = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1).reshape(-1, 2)
    x, y = position.to(device), colour.to(device)
    return Data(x, y, x, y, F.mse_loss, "mean squared error", psnr, "peak signal to noise")


def psnr(output: Tensor, y: Tensor) -> float:
    """Decibel below a peak of 1."""
    return -10 * math.log10((output.double() - y.double()).square().mean().item())


def data_uri(colour: Tensor, picture: Picture) -> str:
    """(N, 3) in [0, 1] -> a PNG of 8 bits a channel, in base64."""
    image = (colour.detach().float().cpu().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    rows = image.reshape(picture.height, -1)
    plain = F.pad(rows, (1, 0)).numpy().tobytes()  # each row begins with its filter, none

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(plain, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def pictures(small: bool) -> list[Picture]:
    terms, degree, width, rank = (8, 16, 16, 8) if small else (64, 128, 128, 32)
    size = dict(height=96, width=128, batch=4096, steps=150, proved=12)
    if small:
        size = dict(height=24, width=32, batch=256, steps=10, proved=5)
    what = (
        f"{size['height']} x {size['width']} pixels of scikit-learn's china.jpg, {size['batch']} of them drawn for each "
        "step of Adam"
    )
    return [
        Picture(
            name="fkan",
            title="A photograph as a Fourier KAN (FKAN)",
            about=f"2 - {width} - {width} - {width} - 3: a first layer of {terms} harmonics an edge, two tanh layers; {what}",
            make=lambda fused: FKAN(fused, terms, width, 2),
            rate=5e-3,
            compile=True,
            **size,
        ),
        Picture(
            name="sl2a",
            title=f"A photograph as Chebyshev series of degree {degree} (SL2A)",
            about=f"2 - {width} - {width} - {width} - {width} - 3: a first layer of degree {degree} an edge, three ReLU "
            f"layers of rank {rank} that multiply its output in; {what}",
            make=lambda fused: SL2A(fused, degree, width, rank, 3),
            rate=3e-3,
            compile=False,
            **size,
        ),
    ]
