"""`mittag_leffler`: E_{a,b}(x) = sum_k x^k / Gamma(a k + b) for real x and its derivatives; plain PyTorch, no kernel.

Everything starts from the inverse Laplace transform along a parabola s(u) = mu (1 + i u)^2 around the negative real
axis,

    E^(m)(x) = (m! / 2 pi i) int e^s s^(a-b) / (s^a - x)^(m+1) ds,

by the trapezoidal rule with step h: with z_k = s(u_k)^a and c_k = (h mu / pi) (1 + i u_k) e^s s^(a-b), numbers that
do not depend on x,

    E^(m)(x) = m! sum_k c_k / (z_k - x)^(m+1) + R^(m)(x).

R is what the rule owes to the poles s0^a = x, wherever they stand: with w = (2 pi / h) (sqrt(s0 / mu) - 1) and
residue s0^(1-b) e^(s0) / a, the rule on u_k = (k + 1/2) h leaves R = residue / (1 + e^-w), that on u_k = k h leaves R
= residue / (1 - e^-w). Far inside the parabola R is 0, far outside the residue itself, and the contour may pass as
near a pole as it likes, since the sum and R keep each other's balance as long as no node is the pole; only digits are
lost, (pi / h)^m of them. x > 0 has one pole, s0 > 0, and where it is close to the contour a second, wider parabola is
taken; x < 0 has a pair, for a > 1 alone, and takes whichever grid is farther from it. With the step of `_nodes` what
remains is below roundoff. There is no cancellation near x = 0, in the derivatives neither: each has its own sum.

Where x < -max(2, 2 b^a) the leading term -1 / (x Gamma(b - a)), zero for b = a, is taken out: E_{a,b}(x) =
(E_{a,b-a}(x) - 1 / Gamma(b - a)) / x, so that what it would drown keeps its digits; E' = (E_{a,b-a}' - E) / x, E'' =
(E_{a,b-a}'' - 2 E') / x.

The derivatives of R: with theta = x d/dx, theta s0 = s0 / a and q = (pi / h) sqrt(s0 / mu), sigma = 1 / (1 +- e^-w):
    a theta log R = t = 1 - b + s0 + (1 - sigma) q,     a theta t = s0 + (1 - sigma) q / 2 - sigma (1 - sigma) q^2
    x R' = R t / a,     x^2 R'' = R ((t / a)^2 + (theta t) / a - t / a)
"""

from __future__ import annotations

import inspect
import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _check
from .._ops import differentiated, implement, register_vmap, traced_transform

_HIGHEST = 2  # derivative with a closed form
_BLOCK = 8  # nodes at a time: as many numbers an element
_STRETCH = 2.5  # of the second parabola, against the first


def _reciprocal_gamma(v: float) -> float:
    """1 / Gamma(v), 0 at its poles."""
    if v <= 0 and v == math.floor(v):
        return 0.0
    return 1 / math.gamma(v) if v < 170 else math.exp(-math.lgamma(v))


@lru_cache(maxsize=256)
def _nodes(a: float, b: float, offset: float = 0.5, stretch: float = 1.0):
    """(mu, h, [(Re c_k, Im c_k, Re z_k, Im z_k)]): half of the nodes, c_k doubled for the others; offset 1/2 or 0."""
    mu = stretch * max(2.0, b - 1)  # e^s s^-b is smallest on the real axis at s = b
    h = 0.08 / math.sqrt(mu / 2)
    count = math.ceil(math.sqrt(1 + (42 + abs(a - b)) / mu) / h)
    found = []
    for k in range(count):
        u = (k + offset) * h
        size, angle = math.log(mu) + math.log1p(u * u), 2 * math.atan(u)  # log s
        # c_k: e^s s^(a-b) times h mu / pi sqrt(1 + u^2) e^(i angle / 2), and twice for the other half
        factor = (1 if u == 0 else 2) * h * mu / math.pi * math.sqrt(1 + u * u) * math.exp(mu * (1 - u * u) + (a - b) * size)
        turn = 2 * mu * u + (a - b + 0.5) * angle
        z = math.exp(a * size)
        found.append((factor * math.cos(turn), factor * math.sin(turn), z * math.cos(a * angle), z * math.sin(a * angle)))
    return mu, h, found


def _sum(x: Tensor, nodes, m: int) -> Tensor:
    """m! Re sum_k c_k / (z_k - x)^(m+1) in real arithmetic, a few nodes at a time."""
    total, x = torch.zeros_like(x), x.unsqueeze(-1)
    for block in torch.tensor(nodes, dtype=x.dtype, device=x.device).split(_BLOCK):
        c_re, c_im, z_re, z_im = block.unbind(-1)
        d = z_re - x
        q = 1 / (d * d + z_im * z_im)
        re, im = d * q, -z_im * q  # 1 / (z - x)
        pr, pi = re, im
        for _ in range(m):
            pr, pi = pr * re - pi * im, pr * im + pi * re
        total = total + (c_re * pr - c_im * pi).sum(-1)
    return math.factorial(m) * total


def _owed(x: Tensor, s0: Tensor, a: float, b: float, mu: float, h: float, m: int, sign: Tensor | float) -> Tensor:
    """R^(m)(x) of the pole s0, real or complex; sign +1 or -1 in 1 / (1 + sign e^-w)."""
    root = torch.sqrt(s0 / mu)
    w = (2 * math.pi / h) * (root - 1)
    # far inside, next to the branch point, R is less than e^-52, but its derivatives there are not those of the rule
    live = w.real > -52 if s0.is_complex() else w > -52
    safe = torch.where(live, s0, torch.full_like(s0, mu))
    root = torch.where(live, root, torch.ones_like(root))
    w = torch.where(live, w, torch.ones_like(w))
    sigma = 1 / (1 + sign * torch.exp(-w))
    owed = torch.exp(safe + (1 - b) * torch.log(safe)) / a * sigma
    if m:
        q, one = (math.pi / h) * root, 1 - sigma
        t = (1 - b + safe + one * q) / a
        if m == 1:
            owed = owed * t / x
        else:
            owed = owed * (t * t + (safe + one * q / 2 - sigma * one * q * q) / (a * a) - t) / (x * x)
    return torch.where(live, owed, torch.zeros_like(owed))


def _contour(x: Tensor, a: float, b: float, m: int) -> Tensor:
    """E^(m)_{a,b}(x), x float64, by the sum and what it owes."""
    mu, h, nodes = _nodes(a, b)
    wide = _nodes(a, b, 0.5, _STRETCH)
    total = _sum(x, nodes, m)
    s0 = torch.where(x > 0, x, 1.0) ** (1 / a)
    crowded = (x > 0) & (torch.abs(torch.sqrt(s0 / mu) - 1) < 0.2)
    total = torch.where(crowded, _sum(x, wide[2], m), total)
    positive = torch.where(x > 0, x, 1.0)
    owed = torch.where(crowded, _owed(positive, s0, a, b, *wide[:2], m, 1.0), _owed(positive, s0, a, b, mu, h, m, 1.0))
    owed = torch.where(x > 0, owed, 0.0)
    if a > 1:
        negative = torch.where(x < 0, x, -1.0)
        size = (-negative) ** (1 / a)
        s0 = torch.complex(size * math.cos(math.pi / a), size * math.sin(math.pi / a))
        # the nodes of the first grid are at Im w = pi (2 k + 1), those of the second at 2 pi k
        phase = (2 * math.pi / h) * torch.sqrt(s0 / mu).imag
        first = torch.cos(phase) >= 0
        pair = 2 * _owed(negative, s0, a, b, mu, h, m, torch.where(first, 1.0, -1.0)).real
        total = torch.where((x < 0) & ~first, _sum(x, _nodes(a, b, offset=0.0)[2], m), total)
        owed = torch.where(x < 0, pair, owed)
    return total + owed


def _evaluate(x: Tensor, a: float, b: float, m: int) -> Tensor:
    """E^(m)_{a,b}(x) in float64."""
    if a == 1 and b == 1:
        return torch.exp(x)
    near = _contour(x, a, b, m)
    edge = -max(2.0, 2 * b**a)  # from about here on the asymptotic series has begun
    far = torch.where(x < edge, x, edge)
    inner = [_contour(far, a, b - a, i) for i in range(m + 1)]
    value = (inner[0] - _reciprocal_gamma(b - a)) / far
    for i in range(1, m + 1):
        value = (inner[i] - i * value) / far
    return torch.where(x < edge, value, near)


@implement("mittag_leffler")
def _operator(x: Tensor, alpha: float, beta: float, m: int) -> Tensor:
    return _evaluate(x.contiguous().double(), alpha, beta, m).to(x.dtype)


@register_vmap("mittag_leffler")
def _(info, in_dims, x, alpha, beta, m):
    return _operator(x.movedim(in_dims[0], 0), alpha, beta, m), 0


class _MittagLeffler(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, alpha, beta, m):
        return _operator(x, alpha, beta, m)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.rest = inputs[1:]

    @staticmethod
    def backward(ctx, grad):
        (x,), (alpha, beta, m) = ctx.saved_tensors, ctx.rest
        call = _last if m == _HIGHEST else _MittagLeffler.apply if torch.is_grad_enabled() else _operator
        return grad * call(x, alpha, beta, m + 1), None, None, None


def _last(*args):
    raise NotImplementedError("the third derivative of mittag_leffler is not implemented")


_MittagLeffler.forward.__signature__ = inspect.signature(_MittagLeffler.forward)


def mittag_leffler(x: Tensor, alpha: float, beta: float = 1.0, *, backend: str | None = None) -> Tensor:
    r"""The Mittag-Leffler function :math:`E_{\alpha,\beta}(x) = \sum_{k \ge 0} x^k / \Gamma(\alpha k + \beta)`, elementwise.

    It contains exp (1, 1), cosh and cos (2 is excluded, the limit of alpha), 1 / (1 - x) (alpha to 0), and for negative x decays
    like a power, or oscillates for alpha > 1.

    Args:
        x: any shape, float16, bfloat16, float32 or float64; any strides, empty allowed.
        alpha: a number in (0, 2). beta: a number > 0, at most 50. They are not learnt: a tensor is refused, since the derivatives
            in them are not implemented.
        backend: None or "reference"; this function is plain PyTorch on every device, there is no kernel.

    Returns: x's shape and dtype, contiguous. Computed in float64 whatever x is, and rounded once: relative error some 1e-14 of
        the function's size in [-50, 10] (more digits are lost only at its zeros), for larger x the conditioning of
        exp(x^(1/alpha)) on top. Overflow gives infinity, NaN gives NaN.

    Derivatives: first and second in x, each by a sum of its own, without cancellation at 0; the third raises.
        Saved for backward: x. Deterministic. Some 100 complex divisions an element.
    Autocast: none; x is used in the dtype it has.

    Raises:
        TypeError: x not a tensor, not dense, an unsupported dtype; alpha or beta not a number.
        ValueError: alpha or beta out of range, a backend other than the above.

    Source: J. A. C. Weideman, L. N. Trefethen, Parabolic and hyperbolic contours for computing the Bromwich integral, Math. Comp.
        76, 2007; R. Garrappa, Numerical evaluation of two and three parameter Mittag-Leffler functions, SIAM J. Numer. Anal. 53,
        2015 (the same integral, other contours).
    """
    _check.tensor("x", x)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if isinstance(value, Tensor):
            raise TypeError(f"{name} must be a number, got a torch.Tensor: the derivative in {name} is not implemented")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 < alpha < 2:
        raise ValueError(f"alpha must be in (0, 2); got {alpha!r}")
    if not 0 < beta <= 50:
        raise ValueError(f"beta must be in (0, 50]; got {beta!r}")
    _check.choice("backend", backend, (None, "reference"))
    alpha, beta = float(alpha), float(beta)
    if traced_transform(backend):
        return _evaluate(x.contiguous().double(), alpha, beta, 0).to(x.dtype)
    if differentiated(x):
        return _MittagLeffler.apply(x, alpha, beta, 0)
    return _operator(x, alpha, beta, 0)
