"""`FDConvWeight`, `FrequencyBandModulation`: what Frequency Dynamic Convolution does in the frequency domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.fft_conv_reference import compute_dtype
from ..ops.modes import mode_dft, mode_idft
from ..ops.modes_reference import Modes
from ..ops.plain import formula
from ..ops.spectral_filter import spectral_filter
from .kan_spec import chosen
from .long_conv import positive


def frequency_groups(rows: int, columns: int, groups: int) -> Tensor:
    """(rows, columns // 2 + 1) int64: which of `groups` parts of one size each frequency is in, by its distance from 0."""
    half = columns // 2 + 1
    if rows * half % groups:
        raise ValueError(f"kernel_num = {groups} does not divide the {rows} x {half} frequencies of the weight")
    f = torch.stack(torch.meshgrid(torch.fft.fftfreq(rows), torch.fft.rfftfreq(columns), indexing="ij"), -1)
    order = torch.sort(torch.norm(f, dim=-1).flatten())[1]
    found = torch.empty_like(order)
    found[order] = torch.arange(rows * half) // (rows * half // groups)
    return found.view(rows, half)


class FDConvWeight(nn.Module):
    r"""Weights of a convolution, one set a sample, from one spectrum in disjoint frequency groups.

        W_b = irfft2(alpha sum_r a[b, r, group(f)] S_r(f)) on the O k x I k grid of all the taps,
        alpha = (min(O, I) // 2) groups ratio:   a (B, ratio, groups) -> W (B, O, I, k, k).

    irfft2 is linear, so min(B, ratio groups) transforms are enough: either one a sample, or one a group, whose
    results are combined.

    Args:
        in_channels, out_channels, kernel_size: I, O, k or (k1, k2). kernel_num: groups, a divisor of the number of
            frequencies. param_ratio: spectra. backend: :func:`spectralops.spectral_filter`'s.

    Parameters: `dft_weight` (ratio, O k1, I k2 // 2 + 1, 2), as upstream's with param_reduction = 1, whose state
    loads; the transform of nn.Conv2d's initial weight over min(O, I) // 2. Derivatives of every order. I k2 may be
    odd, where upstream fails.

    forward(attention): (B, ratio groups) or (B, ratio, groups), upstream's kernel attention.

    Source: L. Chen et al., Frequency Dynamic Convolution for Dense Image Prediction, 2025.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        kernel_num: int = 4,
        param_ratio: int = 1,
        *,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        k1, k2 = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        positive(in_channels=in_channels, out_channels=out_channels, k1=k1, k2=k2, kernel_num=kernel_num, param_ratio=param_ratio)
        self.shape, self.kernel_num = (out_channels, in_channels, k1, k2), kernel_num
        self.param_ratio, self.backend = param_ratio, backend
        smaller = max(min(in_channels, out_channels) // 2, 1)
        self.alpha = smaller * kernel_num * param_ratio
        weight = nn.init.kaiming_uniform_(torch.empty(self.shape), a=math.sqrt(5))
        spectrum = torch.fft.rfft2(weight.permute(0, 2, 1, 3).reshape(out_channels * k1, in_channels * k2))
        spectrum = torch.view_as_real(spectrum).expand(param_ratio, -1, -1, -1) / smaller
        self.dft_weight = nn.Parameter(spectrum.to(device=device, dtype=dtype).clone())
        groups = frequency_groups(out_channels * k1, in_channels * k2, kernel_num)
        self.register_buffer("groups", groups.to(device=device), persistent=False)

    def _inverse(self, spectra: Tensor) -> Tensor:
        """(C, rows, half, 2) -> irfft2, (rows, columns, C): the filter's answer to a unit impulse."""
        o, i, k1, k2 = self.shape
        impulse = torch.zeros(o * k1, i * k2, device=spectra.device, dtype=spectra.dtype)
        impulse[0, 0] = 1
        grid = impulse[None, ..., None].expand(1, -1, -1, spectra.shape[0])
        return spectral_filter(grid, spectra.permute(1, 2, 0, 3), dims=(1, 2), backend=chosen(self.backend))[0]

    def forward(self, attention: Tensor) -> Tensor:
        _check.tensor("attention", attention)
        o, i, k1, k2 = self.shape
        count = self.param_ratio * self.kernel_num
        if attention.dim() < 2 or math.prod(attention.shape[1:]) != count:
            wanted = f"(B, {self.param_ratio}, {self.kernel_num})"
            raise ValueError(f"attention must have shape {wanted}; got {_check.shape(attention)}")
        batch = attention.shape[0]
        s = self.dft_weight
        a = attention.reshape(batch, self.param_ratio, self.kernel_num).to(s.dtype) * self.alpha
        if batch < count:
            spectra = (a[:, :, self.groups, None] * s).sum(1)  # (B, rows, half, 2)
            weights = self._inverse(spectra)
        else:
            inside = self.groups == torch.arange(self.kernel_num, device=s.device)[:, None, None]  # (groups, rows, half)
            basis = self._inverse((s[:, None] * inside[..., None]).flatten(0, 1))  # (rows, columns, ratio groups)
            weights = torch.einsum("xyc,bc->xyb", basis, a.flatten(1))
        return weights.unflatten(1, (i, k2)).unflatten(0, (o, k1)).permute(4, 0, 2, 1, 3)

    def extra_repr(self) -> str:
        return f"{self.shape}, kernel_num={self.kernel_num}, param_ratio={self.param_ratio}"


def table_of_band(size: int, k: int, half: bool) -> tuple[int, int, int]:
    """Of `size` points, or its half spectrum: how many frequencies 0, 1, .. and -1, -2, .. are below 1 / 2k, and of
    how many, by upstream's comparison in float32, which rounds."""
    low = ((torch.fft.rfftfreq if half else torch.fft.fftfreq)(size).abs() < 0.5 / k + 1e-8).tolist()
    return low.index(False) if False in low else len(low), low[::-1].index(False) if False in low else 0, len(low)


def _float32(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def band(rows: int, table: tuple[int, int, int]) -> tuple[int, int]:
    """First frequency and how many, of the table stretched to `rows` by nearest neighbours: row n is that of
    floor(n (source / rows)), both operations rounded to float32, as torch's interpolate has it."""
    ahead, behind, source = table
    scale = _float32(source / rows)

    def before(place: int) -> int:
        """Rows whose place in the table is smaller."""
        n = min(place * rows // source, rows)
        while n < rows and _float32(n * scale) < place:
            n += 1
        while n > 0 and _float32((n - 1) * scale) >= place:
            n -= 1
        return n

    negative = rows - before(source - behind) if behind else 0
    return -negative, before(ahead) + negative if ahead < source else rows


class FrequencyBandModulation(nn.Module):
    r"""y = sum_i g_i (x_{i-1} - x_i) + g_low x_n, x_0 = x and x_i its frequencies below 1 / 2 k_i: x (B, C, H, W) ->
    the same.

    The gates are act(conv_i(x)). One forward transform to the widest band, and from it one truncated inverse a band,
    which costs what the band has of modes: no full spectrum is masked, and none is written.

    Args:
        in_channels. k_list: k_1 < k_2 < .. . lowfreq_att: whether there is a g_low, else it is 1. act: "sigmoid" (2
            sigmoid), "tanh" (1 + tanh) or "softmax" over the groups. spatial_group: gates a band, one for C /
            spatial_group channels; above 64 it is C, as upstream. spatial_kernel: of the convolutions. max_size:
            upstream's table of masks. backend: of the transforms.

    Parameters: `freq_weight_conv_list`, as upstream, whose state loads. The bands are upstream's: masks of a table
    of max_size frequencies, stretched to the grid by nearest neighbours in the unshifted order, so they are not
    symmetric where the sizes differ. Computed in float32 (float64 for float64); the result has x's dtype.
    Derivatives of every order.

    forward(x, att_feat=None): the gates are of att_feat, by default x.

    Source: as :class:`FDConvWeight`.
    """

    def __init__(
        self,
        in_channels: int,
        k_list: tuple[int, ...] = (2, 4, 8),
        *,
        lowfreq_att: bool = False,
        act: str = "sigmoid",
        spatial_group: int = 1,
        spatial_kernel: int = 3,
        max_size: tuple[int, int] = (64, 64),
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        k_list = tuple(k_list)
        positive(in_channels=in_channels, spatial_group=spatial_group, spatial_kernel=spatial_kernel)
        positive(height=max_size[0], width=max_size[1])
        if not k_list or any(_check.integer("k_list", k) < 1 for k in k_list) or any(a >= b for a, b in zip(k_list, k_list[1:])):
            raise ValueError(f"k_list must be increasing positive integers; got {k_list}")
        _check.choice("act", act, ("sigmoid", "tanh", "softmax"))
        group = in_channels if spatial_group > 64 else spatial_group
        if in_channels % group:
            raise ValueError(f"spatial_group = {group} does not divide in_channels = {in_channels}")
        self.in_channels, self.k_list, self.lowfreq_att, self.act = in_channels, k_list, lowfreq_att, act
        self.spatial_group, self.backend = group, backend
        self.tables = [(table_of_band(max_size[0], k, False), table_of_band(max_size[1], k, True)) for k in k_list]
        self.freq_weight_conv_list = nn.ModuleList(
            nn.Conv2d(in_channels, group, spatial_kernel, padding=spatial_kernel // 2, groups=group, device=device, dtype=dtype)
            for _ in range(len(k_list) + bool(lowfreq_att))
        )
        for conv in self.freq_weight_conv_list:
            nn.init.normal_(conv.weight, std=1e-6)
            nn.init.zeros_(conv.bias)

    def _gate(self, i: int, features: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, groups, 1, H, W)."""
        g = self.freq_weight_conv_list[i](features).to(dtype)
        if self.act == "softmax":
            g = g.softmax(1) * g.shape[1]
        else:
            g = 2 * g.sigmoid() if self.act == "sigmoid" else 1 + g.tanh()
        return g[:, :, None]

    def _bands(self, x: Tensor) -> list[Tensor]:
        """x_1, x_2, .. of x (B, C, H, W) in its dtype."""
        height, width = x.shape[2:]
        backend, scale = chosen(self.backend), (height * width) ** -0.5
        how = {"last": False, "scale": scale, "backend": backend, "plain": formula(backend)}
        windows = [(band(height, rows), band(width // 2 + 1, columns)[1]) for rows, columns in self.tables]
        (first, rows), columns = windows[0]
        sizes, no = (1, height, width), (0, 0, 0)
        spectrum = mode_dft(x[:, :, None], Modes(sizes, (0, first, 0), no, (1, rows, columns)), doubled=False, **how)
        found = []
        for (start, count), width_kept in windows:
            part = spectrum[:, :, :, start - first : start - first + count, :width_kept]
            modes = Modes(sizes, (0, start, 0), no, (1, count, width_kept))
            found.append(mode_idft(part, modes, doubled=True, dtype=x.dtype, **how)[:, :, 0])
        return found

    def forward(self, x: Tensor, att_feat: Tensor | None = None) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(f"x must have shape (B, {self.in_channels}, H, W); got {_check.shape(x)}")
        features, z = x if att_feat is None else att_feat, x.to(compute_dtype(x))
        groups = lambda t: t.unflatten(1, (self.spatial_group, -1))  # noqa: E731
        y, before = 0, z
        for i, low in enumerate(self._bands(z)):
            y = y + self._gate(i, features, z.dtype) * groups(before - low)
            before = low
        last = groups(before)
        y = y + (self._gate(len(self.k_list), features, z.dtype) * last if self.lowfreq_att else last)
        return y.flatten(1, 2).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, k_list={self.k_list}, lowfreq_att={self.lowfreq_att}, act={self.act!r}"
