"""The spectral layers that are published as source, written from their formulas: same class names, attributes, parameters and results.
`replace` is tested on these; none of the repositories is needed."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.fft import irfft2, rfft2

_broken = False


def break_originals(monkeypatch):
    """From here on a call that falls back on an old forward fails."""
    monkeypatch.setitem(globals(), "_broken", True)


def single(x):
    """Upstream's cast to float32, which here leaves float64 as it is: these are also the truth for the modules of the package."""
    return x if x.dtype == torch.float64 else x.float()


def transformed(x, dims):
    if _broken:
        raise AssertionError("the old forward ran")
    return rfft2(x, dim=dims, norm="ortho")


# ---- GFNet, SpectFormer, Surya -----------------------------------------------------------------------------------------


def filtered(self, x, spatial_size):
    b, n, c = x.shape
    h, w = (int(math.sqrt(n)),) * 2 if spatial_size is None else spatial_size
    z = transformed(single(x).reshape(b, h, w, c), (1, 2)) * torch.view_as_complex(self.complex_weight)
    return irfft2(z, s=(h, w), dim=(1, 2), norm="ortho").reshape(b, n, c)


def gate(self, dim, h=14, w=8):
    nn.Module.__init__(self)
    self.complex_weight = nn.Parameter(torch.randn(h, w, dim, 2) * 0.02)
    self.h, self.w = h, w


class GlobalFilter(nn.Module):
    __init__ = gate

    def forward(self, x, spatial_size=None):
        return filtered(self, x, spatial_size)


class SpectralGatingNetwork(nn.Module):
    __init__ = gate

    def forward(self, x, spatial_size=None):
        return filtered(self, x, spatial_size)


class Surya:
    """Returns x's dtype."""

    class SpectralGatingNetwork(nn.Module):
        __init__ = gate

        def forward(self, x, spatial_size=None):
            return filtered(self, x, spatial_size).to(x.dtype)


# ---- AFNO ---------------------------------------------------------------------------------------------------------------


def parameters(self, width, blocks, factor, scale=0.02, draw=torch.randn):
    size = width // blocks
    self.hidden_size, self.num_blocks, self.block_size, self.hidden_size_factor, self.scale = width, blocks, size, factor, scale
    self.w1 = nn.Parameter(scale * draw(2, blocks, size, size * factor))
    self.b1 = nn.Parameter(scale * draw(2, blocks, size * factor))
    self.w2 = nn.Parameter(scale * draw(2, blocks, size * factor, size))
    self.b2 = nn.Parameter(scale * draw(2, blocks, size))


def mixed(self, z, acts, rows, columns):
    """The MLP of the modes [rows, columns] of z (B, h, w, nb, bs) as a complex tensor, 0 elsewhere."""
    re, im = z[:, rows, columns].real, z[:, rows, columns].imag
    for i, (w, b) in enumerate(((self.w1, self.b1), (self.w2, self.b2))):
        u = torch.einsum("...bi,bio->...bo", re, w[0]) - torch.einsum("...bi,bio->...bo", im, w[1]) + b[0]
        v = torch.einsum("...bi,bio->...bo", im, w[0]) + torch.einsum("...bi,bio->...bo", re, w[1]) + b[1]
        re, im = (acts[0](u), acts[1](v)) if i == 0 else (u, v)
    out = z.real.new_zeros(*z.shape, 2)
    out[:, rows, columns] = torch.stack([re, im], -1)
    return out


class NVlabs:
    class AFNO2D(nn.Module):
        def __init__(self, hidden_size, num_blocks=8, sparsity_threshold=0.01, hard_thresholding_fraction=1, hidden_size_factor=1):
            super().__init__()
            parameters(self, hidden_size, num_blocks, hidden_size_factor)
            self.sparsity_threshold, self.hard_thresholding_fraction = sparsity_threshold, hard_thresholding_fraction

        def forward(self, x, spatial_size=None):
            b, n, c = x.shape
            h, w = (int(math.sqrt(n)),) * 2 if spatial_size is None else spatial_size
            z = transformed(single(x).reshape(b, h, w, c), (1, 2)).unflatten(-1, (self.num_blocks, -1))
            kept = slice(int((w // 2 + 1) * self.hard_thresholding_fraction))
            s = torch.view_as_complex(F.softshrink(mixed(self, z, (F.relu, F.relu), slice(None), kept), self.sparsity_threshold))
            return irfft2(s.flatten(3), s=(h, w), dim=(1, 2), norm="ortho").reshape(b, n, c).type(x.dtype) + x


class AFNO2DLayer(nn.Module):
    def __init__(self, hidden_size, num_blocks=8, sparsity_threshold=0.01, hard_thresholding_fraction=1, hidden_size_factor=1):
        nn.Module.__init__(self)
        parameters(self, hidden_size, num_blocks, hidden_size_factor)
        self.sparsity_threshold, self.hard_thresholding_fraction = sparsity_threshold, hard_thresholding_fraction

    def forward(self, x):
        b, h, w, c = x.shape
        z = transformed(single(x), (1, 2)).unflatten(-1, (self.num_blocks, -1))
        total = h // 2 + 1
        kept = int(total * self.hard_thresholding_fraction)
        s = mixed(self, z, (F.relu, F.relu), slice(total - kept, total + kept), slice(kept))
        s = torch.view_as_complex(F.softshrink(s, self.sparsity_threshold)).flatten(3)
        return irfft2(s, s=(h, w), dim=(1, 2), norm="ortho").type(x.dtype) + x


class FourCastNet:
    class AFNO2D(nn.Module):
        __init__ = AFNO2DLayer.__init__
        forward = AFNO2DLayer.forward


class DPOT:
    class AFNO2D(nn.Module):
        def __init__(self, width=32, num_blocks=8, channel_first=False, sparsity_threshold=0.01, modes=32, hidden_size_factor=1, act=None):
            super().__init__()
            parameters(self, width, num_blocks, hidden_size_factor, num_blocks**2 / width**2 / hidden_size_factor, torch.rand)
            self.sparsity_threshold, self.modes, self.channel_first = sparsity_threshold, modes, channel_first
            self.act = nn.GELU() if act is None else act

        def forward(self, x, spatial_size=None):
            x = x.permute(0, 2, 3, 1) if self.channel_first else x
            z = transformed(x, (1, 2)).unflatten(-1, (self.num_blocks, -1))
            s = torch.view_as_complex(mixed(self, z, (self.act, self.act), slice(self.modes), slice(self.modes))).flatten(3)
            y = irfft2(s, s=x.shape[1:3], dim=(1, 2), norm="ortho") + x
            return y.permute(0, 3, 1, 2) if self.channel_first else y


class AFNO2D_channelfirst(nn.Module):
    def __init__(self, hidden_size, num_blocks=8, sparsity_threshold=0.01, hard_thresholding_fraction=1, hidden_size_factor=1, act=nn.ReLU):
        super().__init__()
        parameters(self, hidden_size, num_blocks, hidden_size_factor)
        self.sparsity_threshold, self.hard_thresholding_fraction = sparsity_threshold, hard_thresholding_fraction
        self.act, self.act2 = act(), act()

    def forward(self, x, spatial_size=None):
        with torch.autocast(x.device.type, enabled=False):
            origin = transformed(single(x), (2, 3))
            z = origin.permute(0, 2, 3, 1).unflatten(-1, (self.num_blocks, -1))
            s = torch.view_as_complex(F.softshrink(mixed(self, z, (self.act, self.act2), slice(None), slice(None)), self.sparsity_threshold))
            mask = s.flatten(3).permute(0, 3, 1, 2)
            return irfft2(mask * origin, s=x.shape[2:], dim=(2, 3), norm="ortho").type(x.dtype) + x


# name -> (module, input shape): odd and even, square and not
LAYERS = {
    "GFNet": (lambda: GlobalFilter(6, 8, 5), (2, 64, 6)),
    "GFNet, odd": (lambda: GlobalFilter(5, 7, 4), (2, 49, 5)),
    "SpectFormer": (lambda: SpectralGatingNetwork(6, 6, 4), (2, 36, 6)),
    "Surya": (lambda: Surya.SpectralGatingNetwork(6, 8, 5), (2, 64, 6)),
    "AFNO": (lambda: NVlabs.AFNO2D(8, 2), (2, 49, 8)),
    "AFNO, truncated": (lambda: NVlabs.AFNO2D(8, 4, 0.003, 0.6, 2), (2, 64, 8)),
    "PhysicsNeMo": (lambda: AFNO2DLayer(8, 2), (2, 6, 9, 8)),
    "PhysicsNeMo, truncated": (lambda: AFNO2DLayer(8, 2, 0.002, 0.5, 3), (2, 9, 6, 8)),
    "FourCastNet": (lambda: FourCastNet.AFNO2D(8, 2), (2, 6, 8, 8)),
    "DPOT": (lambda: DPOT.AFNO2D(8, 2, modes=4), (2, 6, 9, 8)),
    "DPOT, channels first": (lambda: DPOT.AFNO2D(8, 2, True, modes=32, act=nn.SiLU()), (2, 8, 7, 6)),
    "AFFNet": (lambda: AFNO2D_channelfirst(8, 2, act=nn.SiLU), (2, 8, 6, 7)),
    "AFFNet, relu": (lambda: AFNO2D_channelfirst(8, 4, hidden_size_factor=2), (2, 8, 5, 8)),
}
