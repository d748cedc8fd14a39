"""The rational activation in plain PyTorch: the formula, its gradient and its second derivative, as a
reader can check them.

    y = F(x) = P(x) / Q(x)        P(x) = sum_{i=0..m} a_i x^i        T(z) = sum_j b'_j z^j

    version   z     b'       j from   Q                dQ/dT           note
    A         |x|   |b_j|    1        1 + T            1               safe PAU; the default of rational-activations and of KAT's kernels
    B         x     b_j      1        1 + |T|          sgn T           the form KAT's paper states and its initial values were fitted for
    C         x     b_j      0        0.1 + |T|        sgn T
    smooth    x     b_j      1        1 + T^2          2 T             infinitely differentiable

Everything is computed in float32 (float64 for float64 input) and rounded once. Tensors here are (rows, G,
w): G groups of w contiguous channels, coefficients (G or 1, degree + 1). sgn(0) = `sign_at_zero`, 0 as in
torch.abs, in every derivative of |.|.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

VERSIONS = ("A", "B", "C", "smooth")
A, B, C, SMOOTH = range(4)


def first_power(version: int) -> int:
    """The power of x that the first denominator coefficient multiplies."""
    return 0 if version == C else 1


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def sign(v: Tensor, sign_at_zero: int) -> Tensor:
    return torch.sign(v) if sign_at_zero == 0 else torch.where(v < 0, -1.0, 1.0).to(v.dtype)


def _abs(v: Tensor, sign_at_zero: int) -> Tensor:
    return v * sign(v, sign_at_zero).detach()


def _horner(z: Tensor, coefficients: Tensor, start: int = 0) -> Tensor:
    """sum_j c_j z^(start + j), c (G or 1, number) against z (rows, G, w)."""
    total = torch.zeros_like(z)
    for j in reversed(range(coefficients.shape[-1])):
        total = total * z + coefficients[:, j, None]
    return total * z if start else total


def _derived(coefficients: Tensor, start: int) -> tuple[Tensor, int]:
    """Coefficients and first power of d/dz of sum_j c_j z^(start + j)."""
    powers = torch.arange(start, start + coefficients.shape[-1], dtype=coefficients.dtype, device=coefficients.device)
    scaled = coefficients * powers
    return (scaled, 0) if start else (scaled[:, 1:], 0)


def _grouped(x: Tensor, groups: int) -> Tensor:
    return x.to(compute_dtype(x)).unflatten(-1, (groups, x.shape[-1] // groups))  # (rows, G, w)


def forward(x: Tensor, num: Tensor, den: Tensor, version: int, sign_at_zero: int = 0) -> Tensor:
    """y (rows, dim); differentiable by autograd to any order."""
    groups = max(num.shape[0], den.shape[0])
    z = _grouped(x, groups)
    start = first_power(version)
    if version == A:
        q = 1 + _horner(_abs(z, sign_at_zero), _abs(den, sign_at_zero), start)
    elif version == SMOOTH:
        q = 1 + _horner(z, den, start) ** 2
    else:
        q = (0.1 if version == C else 1.0) + _abs(_horner(z, den, start), sign_at_zero)
    return (_horner(z, num) / q).flatten(-2).to(x.dtype)


class _Parts(NamedTuple):
    """P, Q and F = P / Q with what their derivatives need, every entry (rows, G, w) unless said otherwise."""

    x: Tensor
    z: Tensor  # |x| for version A
    sx: Tensor | float  # dz/dx
    sb: Tensor | float  # db'/db, (G or 1, nb)
    den: Tensor  # b', (G or 1, nb)
    p1: Tensor  # P'
    t: Tensor
    t1: Tensor  # dT/dx
    q_t: Tensor | float  # dQ/dT
    q: Tensor
    f: Tensor


def _parts(x: Tensor, num: Tensor, den: Tensor, version: int, sign_at_zero: int) -> _Parts:
    start = first_power(version)
    sx = sb = 1.0
    z = x
    if version == A:
        sx, sb = sign(x, sign_at_zero), sign(den, sign_at_zero)
        z, den = x.abs(), den.abs()
    t = _horner(z, den, start)
    t1 = sx * _horner(z, *_derived(den, start))
    if version == A:
        q_t, q = 1.0, 1 + t
    elif version == SMOOTH:
        q_t, q = 2 * t, 1 + t * t
    else:
        q_t, q = sign(t, sign_at_zero), (0.1 if version == C else 1.0) + t.abs()
    return _Parts(x, z, sx, sb, den, _horner(x, *_derived(num, 0)), t, t1, q_t, q, _horner(x, num) / q)


def _sums(weight: Tensor, z: Tensor, first: int, count: int) -> Tensor:
    """sum over rows and channels of weight * z^(first + j), j < count: (G, count)."""
    power, out = weight if first == 0 else weight * z, []
    for _ in range(count):
        out.append(power.sum(dim=(0, 2)))
        power = power * z
    return torch.stack(out, dim=-1) if out else weight.new_zeros(weight.shape[1], 0)


def _power_sums(weight: Tensor, z: Tensor, first: int, count: int) -> Tensor:
    """sum of weight * (d/dz) z^(first + j) = weight * (first + j) z^(first + j - 1): (G, count)."""
    powers = torch.arange(first, first + count, dtype=weight.dtype, device=weight.device)
    if first:
        return powers * _sums(weight, z, first - 1, count)
    inner = _sums(weight, z, 0, max(count - 1, 0))
    return powers * torch.cat([inner.new_zeros(inner.shape[0], min(count, 1)), inner], dim=-1)


def backward(grad: Tensor, x: Tensor, num: Tensor, den: Tensor, version: int, sign_at_zero: int):
    """dx (rows, dim), dnum (G, m+1), dden (G, nb):  dx = g F',  dnum_i = sum g x^i / Q,  dden_j = -sum g (F / Q) dQ/db_j."""
    groups = max(num.shape[0], den.shape[0])
    s = _parts(_grouped(x, groups), num, den, version, sign_at_zero)
    g = _grouped(grad, groups)
    dx = g * (s.p1 - s.f * s.q_t * s.t1) / s.q
    dnum = _sums(g / s.q, s.x, 0, num.shape[-1])
    dden = s.sb * _sums(-g * s.f / s.q * s.q_t, s.z, first_power(version), den.shape[-1])
    return dx.flatten(-2).to(x.dtype), dnum, dden


def double_backward(
    ggx: Tensor, ggnum: Tensor, ggden: Tensor, grad: Tensor, x: Tensor, num: Tensor, den: Tensor, version: int, sign_at_zero: int
):
    """Gradient of <ggx, dx> + <ggnum, dnum> + <ggden, dden> in (grad, x, num, den).

    That sum is <g, Fd>, Fd the derivative of F in the direction (ggx, ggnum, ggden); what follows
    differentiates Fd. A trailing d is the derivative in that direction, a trailing 1 the one in x.
    """
    groups = max(num.shape[0], den.shape[0])
    start, nb = first_power(version), den.shape[-1]
    s = _parts(_grouped(x, groups), num, den, version, sign_at_zero)
    g, xd = _grouped(grad, groups), _grouped(ggx, groups)
    bd = s.sb * ggden  # (G, nb)

    num1, _ = _derived(num, 0)
    den1, _ = _derived(s.den, start)
    pd = s.p1 * xd + _horner(s.x, ggnum)
    p1d = _horner(s.x, *_derived(num1, 0)) * xd + _horner(s.x, *_derived(ggnum, 0))
    td = s.t1 * xd + _horner(s.z, bd, start)
    t1d = s.sx * s.sx * _horner(s.z, *_derived(den1, 0)) * xd + s.sx * _horner(s.z, *_derived(bd, start))

    q1 = s.q_t * s.t1
    qd = s.q_t * td
    q1d = s.q_t * t1d + (2 * td * s.t1 if version == SMOOTH else 0)
    fd = (pd - s.f * qd) / s.q

    dx = g * ((p1d - fd * q1 - s.f * q1d) / s.q - (s.p1 - s.f * q1) * qd / (s.q * s.q))
    dnum = _power_sums(g * xd / s.q, s.x, 0, num.shape[-1]) - _sums(g * qd / (s.q * s.q), s.x, 0, num.shape[-1])
    outer = -g * (fd - s.f * qd / s.q) / s.q  # multiplies dQ/db_j
    inner = -g * s.f / s.q  # multiplies (dQ/db_j)d
    dden = _sums(outer * s.q_t + (inner * 2 * td if version == SMOOTH else 0), s.z, start, nb)
    dden = s.sb * (dden + _power_sums(inner * s.q_t * s.sx * xd, s.z, start, nb))
    cast = lambda v: v.flatten(-2).to(x.dtype)  # noqa: E731
    return cast(fd), cast(dx), dnum, dden
