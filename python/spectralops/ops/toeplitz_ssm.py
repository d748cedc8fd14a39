"""`toeplitz_to_ssm`: a causal Toeplitz kernel as a diagonal state-space model, whose state does not grow.

    k_j = sum_s c_s lambda_s^j,  j = 0 .. n - 1,     h_t = lambda h_{t-1} + u_t,     y_t = Re sum_s c_s h_{t,s}

With lambda_s = g exp(2 pi i s / n), 0 < g <= 1, the c_s are the discrete Fourier transform of k_j g^-j over n: n
equations, n unknowns, an orthogonal system, so the conversion is exact on n steps. Of a real k the modes s and 
n - s are conjugates, and n // 2 + 1 modes with doubled coefficients serve. Leaving modes out changes the taps by e_j,
and by Parseval

    sum_j |e_j|^2 <= sum_j |e_j g^-j|^2 = n sum over the modes left out of |c_s|^2,

so the largest are kept, and by Cauchy and Schwarz |y_t - y'_t| <= |e| |u| on those n steps, |.| being root sums of
squares.

Source: Z. Qin, Y. Zhong, Accelerating Toeplitz Neural Network with Constant-time Inference Complexity, EMNLP 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _check
from .fft_conv import fft_conv
from .fft_conv_reference import compute_dtype


class DiagonalSSM:
    """What :func:`toeplitz_to_ssm` returns: y = conv(u, k) one step at a time, in O(rank) a channel and step.

    Attributes: poles, coefficients (H, r, 2), the lambda_s and c_s, doubled where they stand for a conjugate too;
        length, n; error (H,), the bound on the root of the sum of squares of what the first n taps lost, 0 where
        every mode is kept.
    """

    def __init__(self, poles: Tensor, coefficients: Tensor, length: int, error: Tensor):
        self.poles, self.coefficients, self.length, self.error = poles, coefficients, length, error

    def __repr__(self) -> str:
        h, r, _ = self.poles.shape
        modes, lost = self.length // 2 + 1, self.error.max().item() if h else 0.0
        return f"DiagonalSSM({h} channels, {r} of {modes} modes, exact on {self.length} steps but for {lost:.2g})"

    def _powers(self, length: int) -> Tensor:
        """lambda^j, j = 0 .. length - 1: (H, r, length), from their angles in float64."""
        pole = torch.view_as_complex(self.poles.double().contiguous())
        j = torch.arange(length, device=pole.device, dtype=torch.float64)
        found = torch.polar(pole.abs()[..., None] ** j, pole.angle()[..., None] * j)
        return found.to(torch.complex128 if self.poles.dtype == torch.float64 else torch.complex64)

    def taps(self, length: int) -> Tensor:
        """The impulse response, (H, length); beyond n it goes on as g^n times its first n taps."""
        if _check.integer("length", length) < 1:
            raise ValueError(f"length must be positive; got {length}")
        return (torch.view_as_complex(self.coefficients)[..., None] * self._powers(length)).real.sum(-2)

    def prefill(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(..., H, L) -> y, and the state after it: one fft_conv and one product with the powers of the poles."""
        self._input(u, -2, "(..., H, L)")
        if u.shape[-1] == 0:
            return u.clone(), u.new_zeros((*u.shape[:-1], self.poles.shape[1], 2), dtype=self.poles.dtype)
        powers = self._powers(u.shape[-1]).flip(-1)
        state = torch.einsum("hrl,...hl->...hr", powers, u.to(powers.dtype))
        return fft_conv(u, self.taps(u.shape[-1])), torch.view_as_real(state)

    def step(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., H) -> y (..., H) in u's dtype, and the next state (..., H, r, 2); state None is the beginning."""
        self._input(u, -1, "(..., H)")
        shape = (*u.shape, *self.poles.shape[1:])
        if state is not None:
            _check.tensor("state", state)
            if tuple(state.shape) != shape or state.dtype != self.poles.dtype:
                raise ValueError(f"state must be {self.poles.dtype} of shape {shape}; got {state.dtype} {_check.shape(state)}")
        x = u.to(self.poles.dtype)
        h = torch.complex(x, torch.zeros_like(x))[..., None].expand(shape[:-1])
        if state is not None:
            h = torch.view_as_complex(self.poles) * torch.view_as_complex(state.contiguous()) + h
        y = (torch.view_as_complex(self.coefficients) * h).real.sum(-1)
        return y.to(u.dtype), torch.view_as_real(h)

    def _input(self, u: Tensor, dim: int, takes: str) -> None:
        _check.tensor("u", u)
        if u.dim() < -dim or u.shape[dim] != self.poles.shape[0]:
            raise ValueError(f"u must have shape {takes} with H {self.poles.shape[0]}; got {_check.shape(u)}")
        if compute_dtype(u) != self.poles.dtype:
            takes = "float32 takes 16 bit and float32, float64 takes float64"
            raise TypeError(f"u is {u.dtype}, the model {self.poles.dtype}; {takes}")
        _check.same_device("u", u, poles=self.poles)


def toeplitz_to_ssm(k: Tensor, rank: int | None = None, *, decay: float = 1.0, dtype: torch.dtype | None = None) -> DiagonalSSM:
    r"""The causal kernel k of n taps as a diagonal state-space model, :math:`k_j = \sum_s c_s \lambda_s^j`.

    Args:
        k: (H, n), real.
        rank: modes a channel, at most n // 2 + 1; those of the largest coefficients. None: all, exact on n steps.
        decay: g, the modulus of the poles, 0 < g <= 1. A TNN's kernel is :math:`\gamma^j` times a smooth one: with
            g = gamma its modes are those of the smooth factor, and rounding dies away. With g = 1 a float32 state
            drifts by some n units of roundoff over n steps. A g so small that g^(n-1) falls below 1e-12 would lose
            the last taps and is refused.
        dtype: float32 or float64, of the state; k's own by default (float32 for 16 bit). The transform is in
            float64 always.

    Returns: a DiagonalSSM. On t < n: \|y_t - y'_t\| <= ssm.error |u|, with |u| the root of the sum of squares of
        the inputs up to t.

    Derivatives: every order, in k and in the inputs of its methods (plain PyTorch; which modes are kept is not
        differentiated).

    Raises: TypeError, ValueError that name the argument.

    Source: Z. Qin, Y. Zhong, Accelerating Toeplitz Neural Network with Constant-time Inference Complexity, 2023.
    """
    _check.tensor("k", k)
    if k.dim() != 2 or k.shape[1] == 0:
        raise ValueError(f"k must have shape (H, n) with n at least 1; got {_check.shape(k)}")
    n = k.shape[1]
    modes = n // 2 + 1
    if rank is not None and not 1 <= _check.integer("rank", rank) <= modes:
        raise ValueError(f"rank must be in [1, n // 2 + 1 = {modes}]; got {rank}")
    if isinstance(decay, bool) or not isinstance(decay, (int, float)):
        raise TypeError(f"decay must be a number, got {type(decay).__name__}")
    if not 0 < decay <= 1 or (n - 1) * math.log10(decay) < -12:
        raise ValueError(f"decay must be in (0, 1] and decay^(n-1) at least 1e-12 (n = {n}); got {decay}")
    dtype = dtype or compute_dtype(k)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be float32 or float64; got {dtype}")
    _check.coefficients_dtype("k", k, "the model", torch.empty(0, dtype=dtype))

    j = torch.arange(n, device=k.device, dtype=torch.float64)
    s = torch.arange(modes, device=k.device, dtype=torch.float64)
    twice = 2 - ((s == 0) | (2 * s == n)).double()  # a mode and its conjugate
    scaled = k.double() * decay**-j
    c = torch.fft.rfft(scaled) / n if len(k) else torch.complex(scaled, scaled)[:, :modes]  # (H, modes)
    poles = torch.view_as_real(torch.polar(torch.full_like(s, decay), s * (2 * math.pi / n)))
    energy = (twice * torch.view_as_real(c).square().sum(-1)).detach()
    error = torch.zeros_like(energy[:, 0])
    c, poles = torch.view_as_real(c * twice), poles.expand(k.shape[0], modes, 2)
    if rank is not None and rank < modes:
        order = energy.sort(dim=-1, descending=True, stable=True).indices
        error = (n * energy.gather(1, order[:, rank:]).sum(-1)).sqrt()
        keep = order[:, :rank].sort(-1).values[..., None].expand(-1, -1, 2)
        c, poles = c.gather(1, keep), poles.gather(1, keep)
    return DiagonalSSM(poles.to(dtype).contiguous(), c.to(dtype).contiguous(), n, error.to(dtype))
