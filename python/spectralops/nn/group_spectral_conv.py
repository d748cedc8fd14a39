"""`GroupSpectralConv`: a spectral convolution that commutes with rotations by 90 degrees, and with reflections."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.spectral_conv import spectral_conv
from .long_conv import positive


def _product(g: int, h: int) -> int:
    """The index of g h in the group of rotations r^a, index a, and reflected ones r^a f, index 4 + a; f r = r^-1 f."""
    (a, f), (b, e) = (g % 4, g // 4), (h % 4, h // 4)
    return (a - b if f else a + b) % 4 + 4 * (f ^ e)


def _acts(g: int, w: Tensor) -> Tensor:
    """w(g^-1 .) on a square of points about 0: r a quarter turn, f the reflection of rows."""
    w = w.flip(-2) if g >= 4 else w
    return torch.rot90(w, g % 4, (-2, -1))


def group_weight(base: Tensor, size: int) -> Tensor:
    r"""The weight of all pairs of group elements from one base, W[(i, h), (o, g)](k) = B[i, o, g^-1 h](g^-1 k).

    base: (Ci, Co, size, 2 m - 1, 2 m - 1), real: B(k) = (Q(k) + Q(-k)) / 2 + i (Q(k) - Q(-k)) / 2 for Q = base,
    frequencies -(m - 1) .. m - 1, the spectrum of any real kernel, each of its numbers once. size: 4, or 8 with
    reflections.

    Returns (Ci size, Co size, 2 m - 1, m, 2), as :func:`spectralops.spectral_conv` takes it.
    """
    ins, outs, _, rows, _ = base.shape
    back = base.flip(-1, -2)
    pairs = torch.stack([base + back, base - back]) / 2  # (2, Ci, Co, size, rows, rows)
    half = rows // 2
    columns = []
    for g in range(size):
        # order[h] = g^-1 h
        order = [0] * size
        for h in range(size):
            order[_product(g, h)] = h
        columns.append(_acts(g, pairs[:, :, :, order])[..., half:])
    w = torch.stack(columns, 3)  # (2, Ci, Co, g, h, rows, m)
    return w.permute(1, 4, 2, 3, 5, 6, 0).reshape(ins * size, outs * size, rows, half + 1, 2)


class GroupSpectralConv(nn.Module):
    r"""The layer of a G-FNO: x (B, Ci G, n, n) -> (B, Co G, n, n), channel c G + g carrying group element g.

    G = 4 rotations by 90 degrees, or 8 with reflections. With x[:, c, g] = u(g, .) a field on the group, the layer
    commutes with u(h, p) -> u(r^-1 h, r^-1 p) for every r of the group, as :func:`group_weight` has it, on square
    grids of any size.

    Args: in_channels, out_channels: Ci and Co, in fields on the group. modes: m, frequencies -(m - 1) .. m - 1 along
    both dimensions.
    reflection: whether the group has reflections. norm, backend: :func:`spectralops.spectral_conv`'s.

    Parameters: `weight` (Ci, Co, G, 2 m - 1, 2 m - 1), real numbers that make up Hermitian spectra; normal, of
    variance 1 / (G (Ci + Co)).

    Source: J. Helwig et al., Group Equivariant Fourier Neural Operators for Partial Differential Equations, 2023.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: int,
        *,
        reflection: bool = False,
        norm: str = "forward",
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive(in_channels=in_channels, out_channels=out_channels, modes=modes)
        self.in_channels, self.out_channels, self.modes = in_channels, out_channels, modes
        self.norm, self.backend = norm, backend
        self.group_size, rows = 8 if reflection else 4, 2 * modes - 1
        shape = (in_channels, out_channels, self.group_size, rows, rows)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(self.group_size * (self.in_channels + self.out_channels)) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        _check.tensor("x", x)
        channels = self.in_channels * self.group_size
        if x.dim() != 4 or x.shape[1] != channels or x.shape[2] != x.shape[3]:
            raise ValueError(f"x must have shape (B, {channels}, n, n); got {_check.shape(x)}")
        modes = (2 * self.modes - 1,) * 2
        weight = group_weight(self.weight, self.group_size)
        return spectral_conv(x, weight, modes=modes, norm=self.norm, backend=self.backend)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, modes={self.modes}, group_size={self.group_size}"
