r"""The KAN bases in plain PyTorch: every family's formula and its derivatives, as a reader can check them.

A basis is a short code that a kernel can read, `BasisCode`: which family, how many functions, and numbers. What
`kan_linear` needs of one is B_k(x) and its m-th derivative, and both come from one text: each family is evaluated in
truncated Taylor arithmetic. A *jet* is a list of the Taylor coefficients of a function at x,

    f = [f(x), f'(x), f''(x) / 2!, ..., f^(m)(x) / m!]

so that sums are termwise, products are convolutions, and exp, tanh, sin and cos follow from their differential
equations. With m = 0 a jet is the plain value and the formulas below read as they stand.

    family       B_k(x)                                            numbers
    uniform      B-spline of order p on knots t_j = t_0 + j h      a = p, scalars = (t_0, h)
    spline       B-spline of order p on any knots, Cox-de Boor     a = p, table (1 or I, K + p + 1)
    radial       psi((x - g_k) w_k)                                a = shape, table (2, K): g, w
    polynomial   p_{k+1} = (A_k z + B_k) p_k - C_k p_{k-1}         a = squash (z = x or tanh x), table (3, K): A, B, C
    fourier      cos(k omega x), then sin(k omega x), k = 1..K/2   scalars = (omega,)
    relu_power   r_k^q combine(relu(x - s_k), relu(e_k - x))       a = combination, b = power q, table (3, K): s, e, r

Splines: b is what is done outside the knots (zero, clamp, linear), c where outside begins: the first and last knot, or
those of the grid, t_p and t_K. Intervals are half open, [t_j, t_{j+1}), so that the last knot itself is outside; with
clamp and linear, whose value there is wanted, the last interval that is not empty is closed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

UNIFORM, SPLINE, RADIAL, POLYNOMIAL, FOURIER, RELU_POWER = range(6)
FAMILIES = ("uniform", "spline", "radial", "polynomial", "fourier", "relu_power")
SHAPES = ("gaussian", "rswaf", "sech", "mexican_hat", "morlet", "dog", "haar")  # of the radial family
SQUASHES = ("none", "tanh")
OUTSIDE = ("zero", "clamp", "linear")
EDGES = ("knots", "grid")
COMBINATIONS = ("power", "product", "sum", "sum_product")
BASES = ("none", "silu", "gelu", "relu", "identity", "tanh")  # activations of the base branch

Jet = list[Tensor]


class BasisCode(NamedTuple):
    """A basis as operators and kernels take it."""

    family: int
    size: int  # K
    a: int = 0
    b: int = 0
    c: int = 0
    scalars: tuple[float, ...] = ()
    table: Tensor | None = None  # in the compute dtype, on the data's device, contiguous

    @property
    def numbers(self) -> list[int]:
        return [self.family, self.size, self.a, self.b, self.c]


# ---- truncated Taylor arithmetic ---------------------------------------------------------------------------------


def variable(x: Tensor, m: int) -> Jet:
    """x itself: [x, 1, 0, ...]."""
    return [x, torch.ones_like(x), *(torch.zeros_like(x) for _ in range(m - 1))][: m + 1]


def add(f: Jet, g: Jet) -> Jet:
    return [u + v for u, v in zip(f, g)]


def scale(f: Jet, factor) -> Jet:
    return [u * factor for u in f]


def shift(f: Jet, constant) -> Jet:
    return [f[0] + constant, *f[1:]]


def multiply(f: Jet, g: Jet) -> Jet:
    return [sum(f[i] * g[n - i] for i in range(n + 1)) for n in range(len(f))]


def _integrate(value: Tensor, f: Jet, slope) -> Jet:
    """The jet of y(f) from its value and dy/df, itself a function of y's coefficients so far: n y_n = sum i f_i slope_{n-i}."""
    y = [value]
    for n in range(1, len(f)):
        s = slope(y)
        y.append(sum(i * f[i] * s[n - i] for i in range(1, n + 1)) / n)
    return y


def exp(f: Jet) -> Jet:
    return _integrate(torch.exp(f[0]), f, lambda y: y)


def tanh(f: Jet) -> Jet:
    def slope(y):  # 1 - y^2
        s = scale(multiply(y, y), -1)
        return shift(s, 1)

    return _integrate(torch.tanh(f[0]), f, slope)


def cos_sin(f: Jet) -> tuple[Jet, Jet]:
    c, s = [torch.cos(f[0])], [torch.sin(f[0])]
    for n in range(1, len(f)):
        c_next = -sum(i * f[i] * s[n - i] for i in range(1, n + 1)) / n
        s.append(sum(i * f[i] * c[n - i] for i in range(1, n + 1)) / n)
        c.append(c_next)
    return c, s


def sech(f: Jet) -> Jet:
    """1 / cosh; its logarithmic derivative is -tanh."""
    t = tanh(f)
    e = torch.exp(-f[0].abs())
    return _integrate(2 * e / (1 + e * e), f, lambda y: scale(multiply(y, t[: len(y)]), -1))


def relu(f: Jet) -> Jet:
    """max(f, 0) with derivative 0 at 0, as torch has it; NaN stays NaN."""
    return [torch.where(f[0] <= 0, 0.0, f[0]).to(f[0].dtype), *(torch.where(f[0] > 0, u, 0.0).to(u.dtype) for u in f[1:])]


def derivative_of(f: Jet) -> Tensor:
    """The last coefficient as a derivative, m! f_m."""
    return f[-1] * math.factorial(len(f) - 1) if len(f) > 2 else f[-1]


# ---- the families: x (..., I) -> a jet of (..., I, K) --------------------------------------------------------------


def _knots(code: BasisCode, x: Tensor) -> Tensor:
    """(1 or I, K + p + 1)."""
    if code.family == SPLINE:
        return code.table
    start, step = code.scalars
    return start + step * torch.arange(code.size + code.a + 1, dtype=x.dtype, device=x.device)[None]


def _spline(x: Tensor, code: BasisCode, m: int) -> Jet:
    t, order, outside = _knots(code, x), code.a, OUTSIDE[code.b]
    low, high = (t[:, order], t[:, code.size]) if code.c else (t[:, 0], t[:, -1])  # (1 or I,)
    left, right = t[:, :-1], t[:, 1:]
    if outside == "zero":
        beyond = (x < low) | (x >= high)
        at = torch.where(beyond, low, x)  # a finite place; NaN stays NaN
        inside = (x[..., None] >= left) & (x[..., None] < right) & ~beyond[..., None]
    else:
        beyond = (x < low) | (x > high)
        at = torch.where(x < low, low, torch.where(x > high, high, x))
        last = (right == high[:, None]) & (left < right)  # the last interval that is not empty, closed
        within = (left < high[:, None]) & (at[..., None] >= left)
        inside = within & ((at[..., None] < right) | (last & (at == high)[..., None]))
    y = variable(at[..., None], m)
    nowhere = torch.where(x.isnan(), x, 0.0).to(x.dtype)[..., None]  # NaN lies in no interval, and is not lost
    basis = [inside.to(x.dtype) + nowhere, *(nowhere.expand(inside.shape) for _ in range(m))]
    for p in range(1, order + 1):
        rise, fall = t[:, p:-1] - t[:, : -p - 1], t[:, p + 1 :] - t[:, 1:-p]
        up = torch.where(rise > 0, 1 / rise, 0.0).to(x.dtype)  # an empty span counts nothing
        down = torch.where(fall > 0, 1 / fall, 0.0).to(x.dtype)
        risen = multiply(scale(shift(y, -t[:, : -p - 1]), up), [b[..., :-1] for b in basis])
        fallen = multiply(scale(shift(y, -t[:, p + 1 :]), -down), [b[..., 1:] for b in basis])
        basis = add(risen, fallen)
    if outside == "clamp":
        return [basis[0], *(torch.where(beyond[..., None], 0.0, b).to(x.dtype) for b in basis[1:])]
    if outside == "linear":
        slope = basis[1] if m else _spline(at, code._replace(b=OUTSIDE.index("clamp")), 1)[1]
        straight = basis[0] + (x - at)[..., None] * slope
        return [
            torch.where(beyond[..., None], straight, basis[0]),
            *basis[1:2],
            *(torch.where(beyond[..., None], 0.0, b).to(x.dtype) for b in basis[2:]),
        ]
    return basis


def _radial(x: Tensor, code: BasisCode, m: int) -> Jet:
    centre, width = code.table
    u = scale(shift(variable(x[..., None], m), -centre), width)
    shape = SHAPES[code.a]
    if shape == "rswaf":  # 1 - tanh^2 u
        s = sech(u)
        return multiply(s, s)
    if shape == "sech":
        return sech(u)
    if shape == "haar":
        step = (u[0] >= 0).to(x.dtype) - 2 * (u[0] >= 0.5).to(x.dtype) + (u[0] >= 1).to(x.dtype)
        return [torch.where(u[0].isnan(), u[0], step), *(torch.zeros_like(step) for _ in range(m))]
    square = multiply(u, u)
    if shape == "gaussian":
        return exp(scale(square, -1))
    bell = exp(scale(square, -0.5))
    if shape == "mexican_hat":  # 2 / (sqrt 3 pi^(1/4)) (u^2 - 1) e^{-u^2/2}, the sign as Wav-KAN has it
        return scale(multiply(shift(square, -1), bell), 2 / (math.sqrt(3) * math.pi**0.25))
    if shape == "morlet":
        return multiply(cos_sin(scale(u, 5))[0], bell)
    return scale(multiply(u, bell), -1)  # dog: the first derivative of a Gaussian


def _polynomial(x: Tensor, code: BasisCode, m: int) -> Jet:
    z = variable(x, m)
    if SQUASHES[code.a] == "tanh":
        z = tanh(z)
    a, b, c = code.table
    before = [torch.zeros_like(x) for _ in z]
    now = [torch.ones_like(x), *before[1:]]
    found = [now]
    for k in range(code.size - 1):
        following = add(multiply(shift(scale(z, a[k]), b[k]), now), scale(before, -c[k]))
        before, now = now, following
        found.append(now)
    return [torch.stack([p[n] for p in found], -1) for n in range(m + 1)]


def _fourier(x: Tensor, code: BasisCode, m: int) -> Jet:
    omega = code.scalars[0] * torch.arange(1, code.size // 2 + 1, dtype=x.dtype, device=x.device)
    c, s = cos_sin(scale(variable(x[..., None], m), omega))
    return [torch.cat([u, v], -1) for u, v in zip(c, s)]


def _relu_power(x: Tensor, code: BasisCode, m: int) -> Jet:
    start, end, scaling = code.table
    y = variable(x[..., None], m)
    rise, fall = relu(shift(y, -start)), relu(shift(scale(y, -1), end))
    combination = COMBINATIONS[code.a]
    if combination == "sum":
        f = add(rise, fall)
    else:
        f = multiply(rise, fall)
        if combination == "sum_product":
            f = add(f, add(rise, fall))
    f = scale(f, scaling)
    result = f
    for _ in range(code.b - 1):
        result = multiply(result, f)
    return result


_FAMILY = (_spline, _spline, _radial, _polynomial, _fourier, _relu_power)


def evaluate(x: Tensor, code: BasisCode, m: int = 0) -> Tensor:
    """B_k^(m)(x): (..., I) -> (..., I, K), in x's dtype, which is the compute dtype; differentiable by autograd."""
    return derivative_of(_FAMILY[code.family](x, code, m))


def base_activation(x: Tensor, base: int, m: int = 0) -> Tensor:
    """The m-th derivative of the base branch's activation."""
    f, name = variable(x, m), BASES[base]
    if name == "relu":
        return derivative_of(relu(f))
    if name == "tanh":
        return derivative_of(tanh(f))
    if name == "silu":  # x / (1 + e^-x), the logistic function as (1 + tanh(x/2)) / 2
        return derivative_of(multiply(f, scale(shift(tanh(scale(f, 0.5)), 1), 0.5)))
    if name == "gelu":  # x Phi(x)
        density = scale(exp(scale(multiply(f, f), -0.5)), 1 / math.sqrt(2 * math.pi))
        normal = _integrate(0.5 * torch.erfc(-f[0] / math.sqrt(2)), f, lambda y: density)
        return derivative_of(multiply(f, normal))
    return derivative_of(f)
