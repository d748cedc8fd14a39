"""`S4D`: a diagonal state space model as a long convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _check
from ..ops.fft_conv import fft_conv
from .exponentials import exponential_sum
from .kan_spec import chosen
from .long_conv import positive, row_mask


class S4DKernel(nn.Module):
    r"""k[h, l] = 2 Re sum_n C_hn (exp(dt_h A_hn) - 1) / A_hn exp(l dt_h A_hn), A = -exp(log_A_real) + i A_imag: zero-order hold.

    Parameters as in s4's minimal S4DKernel, whose state loads: `C` (H, N / 2, 2), complex normal; `log_dt` (H,), uniform
    between the logarithms of dt_min and dt_max; `log_A_real` (H, N / 2) = log(1/2), `A_imag` (H, N / 2) = pi n. With
    `bidirectional` `C_rev` as C.
    """

    def __init__(self, d_model: int, d_state: int = 64, *, dt_min: float = 1e-3, dt_max: float = 0.1, bidirectional: bool = False,
                 device=None, dtype=None):  # fmt: skip
        super().__init__()
        positive(d_model=d_model, d_state=d_state)
        if d_state % 2:
            raise ValueError(f"d_state must be even (conjugate pairs); got {d_state}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min and dt_max must be positive and in order; got {dt_min} and {dt_max}")
        place, half = {"device": device, "dtype": dtype}, d_state // 2
        self.C = nn.Parameter(torch.randn(d_model, half, 2, **place) * 0.5**0.5)
        self.C_rev = nn.Parameter(torch.randn(d_model, half, 2, **place) * 0.5**0.5) if bidirectional else None
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = nn.Parameter(torch.rand(d_model, **place) * (high - low) + low)
        self.log_A_real = nn.Parameter(torch.full((d_model, half), math.log(0.5), **place))
        self.A_imag = nn.Parameter(math.pi * torch.arange(half, **place).repeat(d_model, 1))

    def forward(self, L: int, reverse: bool = False) -> Tensor:
        """(H, L), in float32 or float64."""
        wide = torch.promote_types(self.C.dtype, torch.float32)
        c = (self.C_rev if reverse else self.C).to(wide)
        log_dt, log_real, imag = (t.to(wide) for t in (self.log_dt, self.log_A_real, self.A_imag))
        real, dt = -torch.exp(log_real), torch.exp(log_dt)[:, None]
        a, b = real * dt, imag * dt  # dt A
        grown = torch.exp(a)
        x, y = grown * torch.cos(b) - 1, grown * torch.sin(b)  # exp(dt A) - 1
        size = real * real + imag * imag
        x, y = (x * real + y * imag) / size, (y * real - x * imag) / size  # ... / A
        cr, ci = c.unbind(-1)
        return 2 * exponential_sum(cr * x - ci * y, a, L, (cr * y + ci * x, b))


class S4D(nn.Module):
    r"""y = GLU(W dropout(GELU(k * u + D u)) + b), k from :class:`S4DKernel`: u (B, H, L) -> (B, H, L).

    Args:
        d_model, d_state: H and N. dropout: of whole rows, as upstream's. transposed: False for u (B, L, H) -> (B, L, H).
        bidirectional: anticausal taps k_rev from lag -1 on, with a C of their own, as in s4's full module; rev_offset=0 shares
            lag 0. output: False leaves the last layer out. dt_min, dt_max: S4DKernel's. backend: :func:`spectralops.fft_conv`'s.

    Parameters as in s4's minimal S4D, whose state loads: `D` (H,), normal; `kernel`; `output_linear.0`, a convolution of 1 tap.
    Upstream returns (y, None). Convolution, skip, GELU and dropout are one call; the kernel's memory is O(H (L + N sqrt L)).

    Source: A. Gu et al., On the Parameterization and Initialization of Diagonal State Space Models, 2022.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dropout: float = 0.0,
        transposed: bool = True,
        *,
        bidirectional: bool = False,
        rev_offset: int = 1,
        output: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.kernel = S4DKernel(d_model, d_state, dt_min=dt_min, dt_max=dt_max, bidirectional=bidirectional, **place)
        if rev_offset not in (0, 1):
            raise ValueError(f"rev_offset must be 0 or 1; got {rev_offset!r}")
        self.d_model, self.d_state, self.transposed, self.backend = d_model, d_state, transposed, backend
        self.bidirectional, self.rev_offset = bidirectional, rev_offset
        self.D = nn.Parameter(torch.randn(d_model, **place))
        self.dropout = nn.Dropout(dropout)
        self.output_linear = nn.Sequential(nn.Conv1d(d_model, 2 * d_model, 1, **place), nn.GLU(-2)) if output else None

    def forward(self, u: Tensor) -> Tensor:
        _check.tensor("u", u)
        channels = u.shape[-2 if self.transposed else -1] if u.dim() == 3 else -1
        if channels != self.d_model:
            takes = f"(B, {self.d_model}, L)" if self.transposed else f"(B, L, {self.d_model})"
            raise ValueError(f"u must have shape {takes}; got {_check.shape(u)}")
        length = u.shape[-1 if self.transposed else -2]
        if length == 0:
            return torch.zeros_like(u)
        reverse = {"k_rev": self.kernel(length, reverse=True), "rev_offset": self.rev_offset} if self.bidirectional else {}
        y = fft_conv(
            u, self.kernel(length), skip=self.D, activation="gelu", mask=row_mask(self.dropout, u.shape[0], channels, u),
            layout="bhl" if self.transposed else "blh", backend=chosen(self.backend), **reverse,
        )  # fmt: skip
        if self.output_linear is None:
            return y
        if self.transposed:
            return self.output_linear(y)
        mix = self.output_linear[0]
        return F.glu(F.linear(y, mix.weight[..., 0], mix.bias), -1)

    def extra_repr(self) -> str:
        return f"{self.d_model}, {self.d_state}, transposed={self.transposed}, bidirectional={self.bidirectional}"
