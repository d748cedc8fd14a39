"""Learnable activations y = f(x; p) in plain PyTorch: the formulas with their first and second derivatives.

x is (outer, C, inner); the parameters p_0, p_1, ... are the rows of `params`, (P, C) or shared (P, 1). With t = p_0 x,
s = sin t, c = cos t, S = sin(t) / t and S' = dS/dt = (c - S) / t (by their series for |t| < 1, so that t = 0 is nothing special):

    code          f                                    f_x                            f_p
    SNAKE         x + x s S   (= x + sin^2(a x) / a)   (s + c)^2                      x^2 A,  A = S (2 c - S)
    SINE          s                                    p_0 c                          x c
    SPDER         sin(x) |x|^(1/2)                     |x|^(1/2) (cos x + S(x) / 2)
    CAUCHY        (l1 x + l2) q,  q = 1 / (x^2 + d^2)  (l1 - 2 x f) q                 x q,  q,  -2 d f q
    POLY_RELU     sum_i a_i r^i,  r = max(x, 0)        [x > 0] sum_i i a_i r^(i-1)    r^i
    SQUARE_WAVE   sgn s, and 0 where s is 0            as SINE                        as SINE
    WIRE          exp(phi),  phi = i w z - k^2 |z|^2   phi_u f,  u one of Re z, Im z, w, k

and their second derivatives, as far as they are not zero:

    SNAKE         f_xx = 2 a (c - s) (c + s),  f_xa = 2 x (c - s) (c + s),  f_aa = x^3 A',  A' = 2 S' (c - S) - 2 s S
    SINE          f_xx = -p_0^2 s,  f_xp = c - t s,  f_pp = -x^2 s
    SPDER         f_xx = |x|^(1/2) (-sin x + (cos x - S(x) / 4) / x)
    CAUCHY        by the product rule from q_u = -q^2 (x^2 + d^2)_u
    POLY_RELU     f_xx = [x > 0] sum_i i (i-1) a_i r^(i-2),  f_xa = [x > 0] i r^(i-1)
    WIRE          f_uv = (phi_uv + phi_u phi_v) f:  phi_a = i w - 2 k^2 a,  phi_b = -w - 2 k^2 b,  phi_w = i a - b,
                  phi_k = -2 k |z|^2,  phi_aa = phi_bb = -2 k^2,  phi_aw = i,  phi_bw = -1,  phi_ak = -4 k a,
                  phi_bk = -4 k b,  phi_kk = -2 |z|^2,  with z = a + i b

SPDER's f_x is 0 at 0 (its limit); its f_xx, which has no limit there, is 0 at 0 by definition. POLY_RELU takes [0 > 0] = 0.
WIRE has a real x and b = 0, WIRE_COMPLEX an x of shape (outer, C, inner, 2); y is (outer, C, inner, 2) for both, real part first.

The backward pass is dx = <g, f_x> and dp_j = sum <g, f_pj>; for a direction v of x and w of p, with _d the derivative
in that direction, the double backward pass is dgrad = f_d, dx = <g, f_xd>, dp_j = sum <g, f_pjd>. Everything is computed in
float32 (float64 for float64) and rounded once; `params` comes in that dtype and its gradients leave in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SNAKE, SINE, SPDER, CAUCHY, POLY_RELU, SQUARE_WAVE, WIRE, WIRE_COMPLEX = range(8)
PAIRS = (WIRE, WIRE_COMPLEX)  # of these y has a trailing 2

Parameters = Sequence[Tensor]  # each (C or 1, 1), in the compute dtype
First = tuple[Tensor, list[Tensor]]  # f_x, [f_p]
Second = tuple[Tensor, Tensor, list[Tensor]]  # f_d, f_xd, [f_pd]


def compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# ---- sin(t) / t ------------------------------------------------------------------------------------------------


def _series(t: Tensor, coefficients: list[float]) -> Tensor:
    z, total = t * t, torch.full_like(t, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * z + c
    return total


_SINC = [(-1) ** k / math.factorial(2 * k + 1) for k in range(12)]
_SLOPE = [(-1) ** k * 2 * k / math.factorial(2 * k + 1) for k in range(1, 12)]


def sinc(t: Tensor) -> Tensor:
    """sin(t) / t; every derivative by autograd is right at 0 too."""
    near = t.abs() < 1
    far = torch.where(near, 1.0, t)
    return torch.where(near, _series(torch.where(near, t, 0.0), _SINC), torch.sin(far) / far)


def sinc_slope(t: Tensor) -> Tensor:
    """The derivative of sinc, (cos t - sinc t) / t."""
    near = t.abs() < 1
    far = torch.where(near, 1.0, t)
    return torch.where(near, t * _series(torch.where(near, t, 0.0), _SLOPE), (torch.cos(far) - torch.sin(far) / far) / far)


# ---- real functions --------------------------------------------------------------------------------------------


def _snake(x: Tensor, p: Parameters) -> Tensor:
    t = p[0] * x
    return x + x * torch.sin(t) * sinc(t)


def _snake_first(x: Tensor, p: Parameters) -> First:
    t = p[0] * x
    s, c, ratio = torch.sin(t), torch.cos(t), sinc(t)
    return (s + c) ** 2, [x * (x * ratio * (2 * c - ratio))]


def _snake_second(x: Tensor, p: Parameters, v: Tensor, w: Parameters) -> Second:
    t = p[0] * x
    s, c, ratio, slope = torch.sin(t), torch.cos(t), sinc(t), sinc_slope(t)
    f_x, (f_a,) = _snake_first(x, p)
    double = 2 * (c - s) * (c + s)  # 2 cos 2t
    f_aa = x * (x * (x * (2 * slope * (c - ratio) - 2 * s * ratio)))
    return f_x * v + f_a * w[0], double * (p[0] * v + x * w[0]), [double * x * v + f_aa * w[0]]


def _sine(x: Tensor, p: Parameters) -> Tensor:
    return torch.sin(p[0] * x)


def _square_wave(x: Tensor, p: Parameters) -> Tensor:
    s = _sine(x, p)
    return torch.sign(s).detach() + (s - s.detach())  # the second term is 0, and NaN where s is NaN


def _sine_first(x: Tensor, p: Parameters) -> First:
    c = torch.cos(p[0] * x)
    return p[0] * c, [x * c]


def _sine_second(x: Tensor, p: Parameters, v: Tensor, w: Parameters) -> Second:
    t = p[0] * x
    s, c = torch.sin(t), torch.cos(t)
    td = p[0] * v + x * w[0]
    return c * td, c * w[0] - s * p[0] * td, [c * v - s * x * td]


def _spder(x: Tensor, p: Parameters) -> Tensor:
    zero = x == 0
    z = torch.where(zero, 1.0, x)
    return torch.where(zero, 0.0, torch.sin(z) * z.abs().sqrt())


def _spder_first(x: Tensor, p: Parameters) -> First:
    return x.abs().sqrt() * (torch.cos(x) + sinc(x) / 2), []


def _spder_second(x: Tensor, p: Parameters, v: Tensor, w: Parameters) -> Second:
    zero = x == 0
    z = torch.where(zero, 1.0, x)
    f_xx = z.abs().sqrt() * ((torch.cos(z) - sinc(z) / 4) / z - torch.sin(z))
    return _spder_first(x, p)[0] * v, torch.where(zero, 0.0, f_xx) * v, []


def _cauchy(x: Tensor, p: Parameters) -> Tensor:
    l1, l2, d = p
    return (l1 * x + l2) / (x * x + d * d)


def _cauchy_first(x: Tensor, p: Parameters) -> First:
    l1, l2, d = p
    q = 1 / (x * x + d * d)
    f = (l1 * x + l2) * q
    return (l1 - 2 * x * f) * q, [x * q, q.expand_as(f), -2 * d * f * q]


def _cauchy_second(x: Tensor, p: Parameters, v: Tensor, w: Parameters) -> Second:
    l1, l2, d = p
    q = 1 / (x * x + d * d)
    f = (l1 * x + l2) * q
    down = 2 * (x * v + d * w[2]) * q  # -q_d / q
    f_d = (l1 * v + w[0] * x + w[1]) * q - f * down
    f_xd = (w[0] - 2 * (v * f + x * f_d)) * q - (l1 - 2 * x * f) * q * down
    return f_d, f_xd, [(v - x * down) * q, -q * down, -2 * (w[2] * f + d * f_d - d * f * down) * q]


def _horner(r: Tensor, coefficients: Parameters) -> Tensor:
    total = torch.zeros_like(r)
    for a in reversed(coefficients):
        total = total * r + a
    return total


def _derived(coefficients: Parameters) -> Parameters:
    return [i * a for i, a in enumerate(coefficients)][1:]


def _poly_relu(x: Tensor, p: Parameters) -> Tensor:
    return _horner(torch.relu(x), p)


def _poly_relu_first(x: Tensor, p: Parameters) -> First:
    r, step = torch.relu(x), torch.where(x <= 0, 0.0, 1.0).to(x.dtype)
    powers = [torch.ones_like(r)]
    for _ in p[1:]:
        powers.append(powers[-1] * r)
    return step * _horner(r, _derived(p)), powers


def _poly_relu_second(x: Tensor, p: Parameters, v: Tensor, w: Parameters) -> Second:
    r, step = torch.relu(x), torch.where(x <= 0, 0.0, 1.0).to(x.dtype)
    f_x, powers = _poly_relu_first(x, p)
    rd = step * v
    f_xd = step * (_horner(r, _derived(_derived(p))) * rd + _horner(r, _derived(w)))
    moved = [torch.zeros_like(r)] + [i * power * rd for i, power in enumerate(powers[:-1], 1)]
    return f_x * v + _horner(r, w), f_xd, moved


_REAL = {
    SNAKE: (_snake, _snake_first, _snake_second),
    SINE: (_sine, _sine_first, _sine_second),
    SPDER: (_spder, _spder_first, _spder_second),
    CAUCHY: (_cauchy, _cauchy_first, _cauchy_second),
    POLY_RELU: (_poly_relu, _poly_relu_first, _poly_relu_second),
    SQUARE_WAVE: (_square_wave, _sine_first, _sine_second),
}


# ---- the complex wavelet ---------------------------------------------------------------------------------------


def _split(x: Tensor, function: int) -> tuple[Tensor, Tensor | None]:
    """Re z and Im z, None for a real z."""
    return (x[..., 0], x[..., 1]) if function == WIRE_COMPLEX else (x, None)


def _wire(x: Tensor, p: Parameters, function: int) -> Tensor:
    (a, b), (w, k) = _split(x, function), p
    size = torch.exp(-w * b - k * k * (a * a + b * b)) if b is not None else torch.exp(-k * k * a * a)
    return torch.stack([size * torch.cos(w * a), size * torch.sin(w * a)], dim=-1)


def _wire_parts(x: Tensor, p: Parameters, function: int):
    """a, b, |z|^2 and phi_a, phi_b, phi_w, phi_k, each a pair (real, imaginary)."""
    (a, b), (w, k) = _split(x, function), p
    b = torch.zeros_like(a) if b is None else b
    z2 = a * a + b * b
    return a, b, z2, [(-2 * k * k * a, w), (-w - 2 * k * k * b, 0 * w), (-b, a), (-2 * k * z2, 0 * z2)]


def _conjugate_times(g: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """conj(g) f, so that <g, phi f> = Re(phi conj(g) f)."""
    return g[..., 0] * f[..., 0] + g[..., 1] * f[..., 1], g[..., 0] * f[..., 1] - g[..., 1] * f[..., 0]


def _wire_backward(grad: Tensor, x: Tensor, p: Parameters, function: int) -> First:
    *_, phi = _wire_parts(x, p, function)
    re, im = _conjugate_times(grad, _wire(x, p, function))
    da, db, dw, dk = (re * u[0] - im * u[1] for u in phi)
    return (torch.stack([da, db], dim=-1) if function == WIRE_COMPLEX else da), [dw, dk]


def _wire_double(v: Tensor, w: Parameters, grad: Tensor, x: Tensor, p: Parameters, function: int) -> Second:
    a, b, z2, phi = _wire_parts(x, p, function)
    (va, vb), k = _split(v, function), p[1]
    vb = torch.zeros_like(a) if vb is None else vb
    direction = (va, vb, w[0], w[1])
    d = [sum(u[part] * move for u, move in zip(phi, direction)) for part in (0, 1)]  # phi_d
    zd = 2 * (a * va + b * vb)  # (|z|^2)_d
    moved = [  # (phi_u)_d
        (-2 * k * k * va - 4 * k * a * w[1], w[0]),
        (-2 * k * k * vb - 4 * k * b * w[1] - w[0], 0.0),
        (-vb, va),
        (-2 * k * zd - 2 * z2 * w[1], 0.0),
    ]
    f = _wire(x, p, function)
    f_d = torch.stack([f[..., 0] * d[0] - f[..., 1] * d[1], f[..., 0] * d[1] + f[..., 1] * d[0]], dim=-1)
    re, im = _conjugate_times(grad, f)
    rd, md = _conjugate_times(grad, f_d)
    da, db, dw, dk = (re * m[0] - im * m[1] + rd * u[0] - md * u[1] for u, m in zip(phi, moved))
    return f_d, (torch.stack([da, db], dim=-1) if function == WIRE_COMPLEX else da), [dw, dk]


# ---- the three passes ------------------------------------------------------------------------------------------


def _columns(params: Tensor) -> list[Tensor]:
    """(P, C or 1) -> P tensors (C or 1, 1), to broadcast against (outer, C, inner)."""
    return list(params.unsqueeze(-1).unbind(0))


def _sums(terms: list[Tensor], params: Tensor) -> Tensor:
    """P tensors (outer, C, inner) -> (P, C or 1)."""
    dims = (0, 2) if params.shape[1] > 1 else (0, 1, 2)
    return torch.stack([t.sum(dims).reshape(-1) for t in terms]) if terms else torch.zeros_like(params)


def forward(x: Tensor, params: Tensor, function: int) -> Tensor:
    """y; differentiable by autograd to any order."""
    z, p = x.to(compute_dtype(x)), _columns(params)
    y = _wire(z, p, function) if function in PAIRS else _REAL[function][0](z, p)
    return y.to(x.dtype)


def backward(grad: Tensor, x: Tensor, params: Tensor, function: int, need_params: bool = True):
    """dx in x's dtype, dparams (P, C or 1), None if not needed."""
    z, p = x.to(compute_dtype(x)), _columns(params)
    g = grad.to(z.dtype)
    if function in PAIRS:
        dx, terms = _wire_backward(g, z, p, function)
    else:
        f_x, f_p = _REAL[function][1](z, p)
        dx, terms = g * f_x, [g * f for f in f_p]
    return dx.to(x.dtype), _sums(terms, params) if need_params else None


def double_backward(
    ggx: Tensor, ggparams: Tensor | None, grad: Tensor, x: Tensor, params: Tensor, function: int, need_params: bool = True
):
    """Gradient of <ggx, dx> + <ggparams, dparams> in (grad, x, params): dgrad, dx in x's dtype, dparams (P, C or 1) or None."""
    z, p = x.to(compute_dtype(x)), _columns(params)
    w = _columns(torch.zeros_like(params) if ggparams is None else ggparams)
    g, v = grad.to(z.dtype), ggx.to(z.dtype)
    if function in PAIRS:
        dgrad, dx, terms = _wire_double(v, w, g, z, p, function)
    else:
        dgrad, f_xd, f_pd = _REAL[function][2](z, p, v, w)
        dx, terms = g * f_xd, [g * f for f in f_pd]
    return dgrad.to(x.dtype), dx.to(x.dtype), _sums(terms, params) if need_params else None
