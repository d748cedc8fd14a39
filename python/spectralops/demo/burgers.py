"""The solution operator of Burgers' equation, u_t + u u_x = nu u_xx on a periodic interval of length 2 pi, by a pseudo-spectral method.

Space: Fourier modes, products on a grid 3/2 as fine (no aliasing). Time: the diffusion is integrated exactly, v_k = exp(nu k^2 t) u_k,
the rest by the classical Runge-Kutta method of fourth order. What the equation conserves checks it: the mean of u, and the balance
of energy, d/dt mean(u^2) / 2 = -nu mean(u_x^2).
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_fields(count: int, points: int, seed: int) -> Tensor:
    """Smooth random initial values (count, points) float64: modes k = 1, 2, .. with deviations 1 / (1 + (k / 3)^4), unit variance."""
    generator = torch.Generator("cpu").manual_seed(seed)
    k = torch.arange(points // 2 + 1, dtype=torch.float64, device="cpu")
    size = (k > 0) / (1 + (k / 3) ** 4)
    draw = torch.randn(count, len(k), 2, generator=generator, dtype=torch.float64, device="cpu")
    field = torch.fft.irfft(torch.view_as_complex(draw) * size, n=points, norm="forward")
    return field / field.std(-1, keepdim=True)


def _advection(spectrum: Tensor, k: Tensor, points: int) -> Tensor:
    """-(u^2 / 2)_x of spectra (.., points // 2 + 1), the product on 3/2 as many points."""
    fine = 3 * points // 2
    u = torch.fft.irfft(spectrum, n=fine, norm="forward")
    return -0.5j * k * torch.fft.rfft(u * u, norm="forward")[..., : len(k)]


def solve(u: Tensor, viscosity: float, time: float, steps: int) -> tuple[Tensor, Tensor]:
    """u (.., points) float64 at time 0 -> u at `time`, and the energy that diffusion took on the way, nu int mean(u_x^2) dt
    (Simpson's rule over pairs of steps, whose number is even)."""
    points = u.shape[-1]
    k = torch.arange(points // 2 + 1, dtype=torch.float64, device=u.device)
    dt = time / steps
    half, spectrum = torch.exp(-viscosity * k**2 * dt / 2), torch.fft.rfft(u, norm="forward")
    spectrum[..., -1] = 0  # the highest mode of an even grid has no sine
    lost = torch.zeros(u.shape[:-1], dtype=torch.float64, device=u.device)

    def rate(s: Tensor) -> Tensor:
        return 2 * viscosity * (k**2 * s.abs().square()).sum(-1)  # Parseval: both signs of k

    lost += rate(spectrum)
    for step in range(1, steps + 1):
        a = _advection(spectrum, k, points)
        b = _advection(half * (spectrum + dt / 2 * a), k, points)
        c = _advection(half * spectrum + dt / 2 * b, k, points)
        d = _advection(half * (half * spectrum + dt * c), k, points)
        after = half * (half * (spectrum + dt / 6 * a) + dt / 3 * (b + c)) + dt / 6 * d
        after[..., -1] = 0
        lost += (1 if step == steps else 4 if step % 2 else 2) * rate(after)
        spectrum = after
    return torch.fft.irfft(spectrum, n=points, norm="forward"), lost * dt / 3


def solutions(count: int, points: int, seed: int = 0, viscosity: float = 0.1, time: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pairs (u(0), u(time)) (count, points) float64, checked against what the equation conserves."""
    start = random_fields(count, points, seed)
    end, lost = solve(start, viscosity, time, steps=200)
    mean = (end.mean(-1) - start.mean(-1)).abs().max().item()
    energy = (start.square().mean(-1) / 2 - end.square().mean(-1) / 2 - lost).abs().max().item()
    if not (mean < 1e-12 and energy < 1e-6):
        raise RuntimeError(f"Burgers' equation was not solved: the mean moved by {mean:.1e}, the energy's balance is open by {energy:.1e}")
    return start, end
