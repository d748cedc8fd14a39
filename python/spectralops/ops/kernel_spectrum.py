"""`KernelSpectrum`: a convolution kernel transformed once and used in many calls of `fft_conv`."""

from __future__ import annotations

import torch
from torch import Tensor

from . import fft_conv_reference as spec
from .. import _check
from .fft_conv_taps import MODES, taps


class KernelSpectrum:
    r"""The spectrum of a kernel for rows of up to `length`, to be passed as `k` to :func:`fft_conv`.

    On the grid on which every backend multiplies, :math:`Q_m = \sum_j h_j e^{-2\pi i j (m + 1/4) / N}`, `m` = 0 .. N - 1 with
    2 N >= length + the reach of the kernel: half as many complex numbers as a cyclic spectrum of real rows would seem to need,
    for the negacyclic product of the same length.

    Args:
        k: as in fft_conv: (H, K), (G, K), (B, H, K), or (F, H, K) with multi. float16 and bfloat16 are widened to float32.
        length: L, rows may be as long or (mode "causal") shorter.
        mode, k_rev, rev_offset, multi: as in fft_conv; the call then takes the same mode and multi and no k_rev.

    Autograd follows k; nothing is detached. The call must have rows and channels that fit, and the spectrum float64 for float64 u.

    Attributes: spectrum (S, F, G, N, 2), float32 or float64; length; mode; multi; grid, which is N.

    Raises: TypeError, ValueError as fft_conv does.
    """

    def __init__(self, k: Tensor, length: int, *, mode: str = "causal", k_rev: Tensor | None = None, rev_offset: int = 0,
                 multi: bool = False):  # fmt: skip
        _check.tensor("k", k)
        _check.choice("mode", mode, MODES)
        if _check.integer("length", length) < 1:
            raise ValueError(f"length must be positive; got {length}")
        if _check.integer("rev_offset", rev_offset) not in (0, 1):
            raise ValueError(f"rev_offset must be 0 (k_rev shares lag 0) or 1 (it begins at lag -1); got {rev_offset}")
        if rev_offset and k_rev is None:
            raise ValueError("rev_offset says where k_rev begins, which was not given")
        k = self._four(k, "k", multi)
        if k_rev is not None:
            _check.tensor("k_rev", k_rev)
            _check.same_device("k", k, k_rev=k_rev)
            if mode not in ("causal", "circular"):
                raise ValueError(f"k_rev is for the modes 'causal' and 'circular'; got mode={mode!r}")
            k_rev = self._four(k_rev, "k_rev", multi)
            if k_rev.shape[:-1] != k.shape[:-1]:
                got = f"{_check.shape(k)}, {_check.shape(k_rev)}"
                raise ValueError(f"k and k_rev must have the same samples, filters and groups; got {got}")
        if mode == "toeplitz" and k.shape[-1] != 2 * length - 1:
            raise ValueError(f"mode 'toeplitz' takes k of 2 length - 1 = {2 * length - 1} lags; got {k.shape[-1]}")
        kernel, lag0 = taps(k, k_rev, mode, length, rev_offset)
        self.length, self.mode, self.multi = length, mode, bool(multi)
        self.grid = spec.fast_length(spec.linear_length(length, kernel.shape[-1], lag0)) // 2
        self.spectrum = spec.spectrum(kernel, lag0, self.grid)

    @staticmethod
    def _four(k: Tensor, name: str, multi: bool) -> Tensor:
        if k.dim() not in ((3, 4) if multi else (2, 3)) or 0 in k.shape:
            takes = "(F, H, K) or (B, F, H, K)" if multi else "(H, K), (G, K) or (B, H, K)"
            raise ValueError(f"{name} must have shape {takes} and be nowhere empty; got {_check.shape(k)}")
        k = k.to(spec.compute_dtype(k))
        k = k if multi else k.unsqueeze(-3)
        return k if k.dim() == 4 else k[None]

    @classmethod
    def from_rational(cls, a: Tensor, b: Tensor, length: int, *, h0: Tensor | None = None) -> KernelSpectrum:
        r"""The kernel of a rational transfer function,
        :math:`H(z) = h_0 + \frac{b_1 z^{-1} + .. + b_n z^{-n}}{1 + a_1 z^{-1} + .. + a_n z^{-n}}`.

        a, b: (H, n), as RTF stores them. As RTF evaluates it, on the `length` roots of unity, which gives the impulse response
        folded with that period, then its first `length` taps: where the response has died away by `length` that is the impulse
        response itself. h0: (H,) or None, the direct term, added at lag 0. n < length. Autograd follows a, b and h0.

        Source: R. Parnichkun et al., State-Free Inference of State-Space Models: The Transfer Function Approach, ICML 2024.
        """
        return cls(rational_taps(a, b, length, h0=h0), length)

    def check(self, mode: str, length: int, rows: int, channels: int, u: Tensor) -> None:
        """Whether a call with u (rows, channels, length) may use it."""
        samples, _, groups = self.spectrum.shape[:3]
        if mode != self.mode:
            raise ValueError(f"k was made for mode {self.mode!r}; got mode={mode!r}")
        if length > self.length or mode in ("toeplitz", "circular") and length != self.length:
            raise ValueError(f"k was made for rows of {self.length}; u has rows of {length}")
        if channels % groups:
            raise ValueError(f"k has {groups} groups, which do not divide the {channels} channels of u")
        if samples not in (1, rows):
            raise ValueError(f"k has {samples} samples, u has {rows} rows; per-sample kernels need one each")
        if self.spectrum.dtype != spec.compute_dtype(u):
            raise TypeError(f"k is {self.spectrum.dtype}, u of {u.dtype} takes {spec.compute_dtype(u)}")
        _check.same_device("u", u, k=self.spectrum)

    def to(self, *args, **kwargs) -> KernelSpectrum:
        """The same on another device or in another dtype, as Tensor.to."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, spectrum=self.spectrum.to(*args, **kwargs))
        return other

    def __repr__(self) -> str:
        s, f, g, n, _ = self.spectrum.shape
        return f"KernelSpectrum({s} x {f} filters x {g} groups, length {self.length}, {self.mode}, {n} points)"


def rational_taps(a: Tensor, b: Tensor, length: int, *, h0: Tensor | None = None) -> Tensor:
    """(H, length): the taps of :meth:`KernelSpectrum.from_rational`."""
    for name, value in (("a", a), ("b", b)):
        _check.tensor(name, value)
        if value.dim() != 2:
            raise ValueError(f"{name} must have shape (H, n); got {_check.shape(value)}")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape; got {_check.shape(a)} and {_check.shape(b)}")
    if _check.integer("length", length) <= a.shape[1]:
        raise ValueError(f"length must be above the order, {a.shape[1]}; got {length}")
    given = {"a": a, "b": b} if h0 is None else {"a": a, "b": b, "h0": h0}
    if h0 is not None:
        _check.tensor("h0", h0)
        if h0.shape != (a.shape[0],):
            raise ValueError(f"h0 must have shape (H,) = ({a.shape[0]},); got {_check.shape(h0)}")
    _check.same_device("a", a, **given)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in given.values()) else torch.float32
    denominator = torch.cat([torch.ones_like(a[:, :1]), a], 1).to(dtype)
    numerator = torch.cat([torch.zeros_like(b[:, :1]), b], 1).to(dtype)
    if a.shape[0] == 0:
        return denominator.new_zeros(0, length)
    k = torch.fft.irfft(torch.fft.rfft(numerator, length) / torch.fft.rfft(denominator, length), length)
    if h0 is None:
        return k
    return torch.cat([k[:, :1] + h0[:, None].to(dtype), k[:, 1:]], 1)
