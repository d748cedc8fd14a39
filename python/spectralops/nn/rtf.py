"""`RTF`: a convolution whose kernel is a rational transfer function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.fft_conv import fft_conv
from ..ops.kernel_spectrum import KernelSpectrum, rational_taps
from .kan_spec import chosen
from .long_conv import positive


class RTF(nn.Module):
    r"""y = k * u, k the taps of a rational transfer function: u (B, L, D) -> (B, L, D), L <= trunc_len.

    :math:`h_0 + (b_1 z^{-1} + .. + b_n z^{-n}) / (1 + a_1 z^{-1} + .. + a_n z^{-n})`, evaluated on roots of unity.

    Args:
        d_model, state_size: D and n. trunc_len: the longest row, above n. num_a: sets of denominators, each for D / num_a
            channels side by side (default D). dropout: of the taps. bidirectional: a second half of all parameters for the
            anticausal taps, from lag -1 on. init: "zeros", "xavier" (may be unstable) or "montel". constraint: None, or
            "l1_montel", which keeps poles in the unit circle. backend: :func:`spectralops.fft_conv`'s.

    Parameters as in RTF's module, whose state loads: `ab` (d (num_a + D), n), d = 1 or 2, denominators first; `h_0` (d D,),
    normal; with the constraint `scalar` (d num_a,). The period of the taps is trunc_len made even, as there. For
    bidirectional rows of odd length upstream's two transforms have different sizes; here they have not.

    :meth:`spectrum` transforms the kernel once; forward takes it, for inference.

    Source: R. Parnichkun et al., State-Free Inference of State-Space Models: The Transfer Function Approach, 2024.
    """

    def __init__(
        self,
        d_model: int,
        state_size: int,
        trunc_len: int,
        num_a: int | None = None,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        init: str = "zeros",
        constraint: str | None = None,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        num_a = d_model if num_a is None else num_a
        positive(d_model=d_model, state_size=state_size, trunc_len=trunc_len, num_a=num_a)
        if trunc_len <= state_size:
            raise ValueError(f"trunc_len must be above state_size, {state_size}; got {trunc_len}")
        if d_model % num_a:
            raise ValueError(f"num_a must divide d_model, {d_model}; got {num_a}")
        _check.choice("init", init, ("zeros", "xavier", "montel"))
        _check.choice("constraint", constraint, (None, "l1_montel"))
        self.d_model, self.state_size, self.trunc_len, self.num_a = d_model, state_size, trunc_len, num_a
        self.bidirectional, self.constraint, self.backend = bidirectional, constraint, backend
        place, both = {"device": device, "dtype": dtype}, 1 + bidirectional
        bound = {"zeros": 0.0, "xavier": state_size**-0.5, "montel": 1 / state_size}[init]
        self.ab = nn.Parameter((torch.rand(both * (d_model + num_a), state_size, **place) * 2 - 1) * bound)
        self.h_0 = nn.Parameter(torch.randn(both * d_model, **place))
        self.scalar = nn.Parameter(torch.rand(both * num_a, **place)) if constraint else None
        self.dropout = nn.Dropout(dropout)

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """a and b, (d D, n) each."""
        a, b = self.ab.split([len(self.ab) - len(self.h_0), len(self.h_0)])
        if self.scalar is not None:
            a = a / (a.abs().sum(-1) + self.scalar.abs() + 1e-6)[:, None]
        return a.repeat_interleave(self.d_model // self.num_a, 0), b

    def taps(self, length: int | None = None) -> tuple[Tensor, Tensor | None]:
        """(D, length) causal and anticausal taps, the second None unless bidirectional."""
        length = self.trunc_len if length is None else length
        if length > self.trunc_len:
            raise ValueError(f"trunc_len is {self.trunc_len}; got rows of {length}")
        a, b = self.coefficients()
        k = self.dropout(rational_taps(a, b, self.trunc_len + self.trunc_len % 2, h0=self.h_0)[:, :length])
        return (k[: self.d_model], k[self.d_model :]) if self.bidirectional else (k, None)

    def spectrum(self, length: int | None = None) -> KernelSpectrum:
        """The kernel as it is now, for rows of up to `length` (default trunc_len)."""
        length = self.trunc_len if length is None else length
        k, k_rev = self.taps(length)
        return KernelSpectrum(k, length, k_rev=k_rev, rev_offset=1 if self.bidirectional else 0)

    def forward(self, u: Tensor, spectrum: KernelSpectrum | None = None) -> Tensor:
        _check.tensor("u", u)
        if u.dim() != 3 or u.shape[-1] != self.d_model:
            raise ValueError(f"u must have shape (B, L, {self.d_model}); got {_check.shape(u)}")
        if spectrum is not None:
            return fft_conv(u, spectrum, layout="blh", backend=chosen(self.backend))
        k, k_rev = self.taps(max(1, u.shape[1]))
        reverse = {"k_rev": k_rev, "rev_offset": 1} if self.bidirectional else {}
        return fft_conv(u, k, layout="blh", backend=chosen(self.backend), **reverse)

    def extra_repr(self) -> str:
        size = f"{self.d_model}, {self.state_size}, trunc_len={self.trunc_len}, num_a={self.num_a}"
        return f"{size}, bidirectional={self.bidirectional}"
