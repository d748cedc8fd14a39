r"""The KAN bases on the device: B_k^(m)(x) for k = 0, 1, ..., the formulas of `ops/kan_basis.py`.

A family is a pair of functions.  `begin` turns a tile of x into a state, a tuple of tiles, once; `step` gives
B_k^(m) from the state and the state of k + 1, so that recurrences run along k.  Kernels call the two and never
name a family: `FAMILY` is a constant of their compilation.

Derivatives are truncated Taylor arithmetic on tuples.  A jet is (f, f', f''/2!, ..., f^(m)/m!); functions of an
affine argument u = (x - g) w are differentiated in u and scaled by w^m at the end.  Splines are nonzero on p + 1
functions only: their state is those values with the number of the first, and `step` selects.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from .common import INTERPRETED
from .kan_spline import FACTORIAL, number, power, spline_taps, spline_value

UNIFORM, SPLINE, RADIAL, POLYNOMIAL, FOURIER, RELU_POWER, ACTIVATION = (tl.constexpr(code) for code in range(7))
GAUSSIAN, RSWAF, SECH, MEXICAN_HAT, MORLET, DOG, HAAR = (tl.constexpr(code) for code in range(7))
POWER, PRODUCT, SUM, SUM_PRODUCT = (tl.constexpr(code) for code in range(4))
NONE, SILU, GELU, RELU, IDENTITY, TANH = (tl.constexpr(code) for code in range(6))
_INTERPRETED = tl.constexpr(INTERPRETED)


# ---- numbers and functions -----------------------------------------------------------------------


@triton.jit
def tanh_value(x):
    """Near 0 an odd polynomial (in double an odd rational function), beyond by exp: no cancellation, no overflow."""
    z = x * x
    if x.dtype == tl.float64:
        top = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
        low = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
        near = x + x * z * (top / low)
    else:
        p = (-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2
        near = x + x * z * ((p * z + 1.33314422036e-1) * z - 3.33332819422e-1)
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def normal(x):
    """The normal distribution function, erfc(-x / sqrt 2) / 2, whose left tail keeps its digits."""
    if _INTERPRETED:
        z = x.to(tl.float64)
        return (0.5 * (1.0 + tl.erf(z * 0.7071067811865476))).to(x.dtype)
    else:
        return 0.5 * libdevice.erfc(x * -0.7071067811865476)


@triton.jit
def turns(x, s1, s2):
    """x (s1 + s2) less its nearest integer, s1 and s2 being doubles as bits: an angle in turns, as an unevaluated sum of
    two, so that multiples of it may be taken.
    """
    hi, lo = number(s1, x), number(s2, x)
    if x.dtype == tl.float32:
        lo = lo + (s1.to(tl.int64).to(tl.float64, bitcast=True) - hi).to(x.dtype)
    p = x * hi
    e = tl.fma(x, hi, -p) + x * lo
    f = p - tl.floor(p + 0.5)
    s = f + e
    v = s - f
    return s, (f - (s - v)) + (e - v)


@triton.jit
def cosine(hi, lo, k, quarter):
    """cos(2 pi (k (hi + lo) + quarter / 4)): the nearest quarter turn is taken off exactly, the rest lies within pi/4."""
    p = hi * k
    f = (p - tl.floor(p + 0.5)) + (tl.fma(hi, k + tl.zeros_like(hi), -p) + lo * k)
    n = tl.floor(4.0 * f + 0.5)
    y = (f - 0.25 * n) * 6.283185307179586
    z = y * y
    if hi.dtype == tl.float64:
        s = (1.58969099521155010221e-10 * z - 2.50507602534068634195e-8) * z + 2.75573137070700676789e-6
        s = ((s * z - 1.98412698298579493134e-4) * z + 8.33333333332248946124e-3) * z - 1.66666666666666324348e-1
        c = (-1.13596475577881948265e-11 * z + 2.08757232129817482790e-9) * z - 2.75573143513906633035e-7
        c = ((c * z + 2.48015872894767294178e-5) * z - 1.38888888888741095749e-3) * z + 4.16666666666666019037e-2
    else:
        s = (-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1
        c = (2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2
    s = y + y * z * s
    c = 1.0 - 0.5 * z + z * z * c
    q = n.to(tl.int32) + quarter
    r = tl.where(q & 1 == 0, c, s)
    return tl.where((q + 1) & 2 == 0, r, -r)


# ---- jets of functions of u, whose own jet is (u, 1) -----------------------------------------------


@triton.jit
def multiply(f, g, M: tl.constexpr):
    r = ()
    for n in tl.static_range(0, M + 1):
        s = f[0] * g[n]
        for i in tl.static_range(1, n + 1):
            s = s + f[i] * g[n - i]
        r = r + (s,)
    return r


@triton.jit
def times_u(u, f, M: tl.constexpr):
    r = (u * f[0],)
    for n in tl.static_range(1, M + 1):
        r = r + (u * f[n] + f[n - 1],)
    return r


@triton.jit
def convolution(f, g, N: tl.constexpr):
    """Coefficient N of the product."""
    s = f[0] * g[N]
    for i in tl.static_range(1, N + 1):
        s = s + f[i] * g[N - i]
    return s


@triton.jit
def bell_jet(u, RATE: tl.constexpr, M: tl.constexpr):
    """exp(-RATE u^2 / 2): y' = -RATE u y."""
    y = (tl.exp(u * u * (-0.5 * RATE)),)
    for n in tl.static_range(1, M + 1):
        s = u * y[n - 1]
        if n > 1:
            s = s + y[n - 2]
        y = y + (s * (-RATE / n),)
    return y


@triton.jit
def tanh_jet(u, M: tl.constexpr):
    """y' = 1 - y^2."""
    y = (tanh_value(u),)
    for n in tl.static_range(1, M + 1):
        s = -convolution(y, y, n - 1)
        if n == 1:
            s = s + 1.0
        y = y + (s * (1.0 / n),)
    return y


@triton.jit
def sech_jet(u, M: tl.constexpr):
    """1 / cosh: y' = -y tanh."""
    e = tl.exp(-tl.abs(u))
    y = (2.0 * e / (1.0 + e * e),)
    if M > 0:
        t = tanh_jet(u, M - 1)
        for n in tl.static_range(1, M + 1):
            y = y + (convolution(y, t, n - 1) * (-1.0 / n),)
    return y


@triton.jit
def logistic_jet(u, M: tl.constexpr):
    """y' = p = (1 - t^2) / 4, t = tanh(u / 2), away from 0 from e^-|u|, which cancels nothing; p' = -t p, t' = 2 p."""
    e = tl.exp(-tl.abs(u))
    d = 1.0 / (1.0 + e)
    y = (tl.where(u < 0, e * d, d),)
    if M > 0:
        t = (tanh_value(0.5 * u),)
        p = (tl.where(tl.abs(u) < 1.25, 0.25 - 0.25 * t[0] * t[0], e * d * d),)
        y = y + (p[0],)
        for n in tl.static_range(1, M):
            p = p + (convolution(t, p, n - 1) * (-1.0 / n),)
            t = t + (p[n - 1] * (2.0 / n),)
            y = y + (p[n] * (1.0 / (n + 1)),)
    return y


@triton.jit
def normal_jet(u, M: tl.constexpr):
    y = (normal(u),)
    if M > 0:
        d = bell_jet(u, 1.0, M - 1)
        for n in tl.static_range(1, M + 1):
            y = y + (d[n - 1] * (0.3989422804014327 / n),)
    return y


@triton.jit
def cosine_jet(hi, lo, RATE: tl.constexpr, M: tl.constexpr):
    """cos(RATE u), hi + lo = RATE u / 2 pi: its n-th coefficient is RATE^n / n! cos(RATE u + n pi / 2)."""
    y = (cosine(hi, lo, 1.0, 0),)
    for n in tl.static_range(1, M + 1):
        y = y + (cosine(hi, lo, 1.0, n) * (power(RATE, n) / FACTORIAL[n]),)
    return y


# ---- the other families ------------------------------------------------------------------------------


@triton.jit
def radial_value(k, x, p_table, s1, s2, K: tl.constexpr, SHAPE: tl.constexpr, M: tl.constexpr):
    """psi((x - g_k) w_k), differentiated in the argument."""
    width = tl.load(p_table + K + k)
    u = (x - tl.load(p_table + k)) * width
    if SHAPE == GAUSSIAN:
        y = bell_jet(u, 2.0, M)[M]
    elif SHAPE == RSWAF:
        s = sech_jet(u, M)
        y = convolution(s, s, M)
    elif SHAPE == SECH:
        y = sech_jet(u, M)[M]
    elif SHAPE == MEXICAN_HAT:
        b = bell_jet(u, 1.0, M)
        y = (u * u - 1.0) * b[M]
        if M > 0:
            y = y + 2.0 * u * b[M - 1]
        if M > 1:
            y = y + b[M - 2]
        y = y * 0.8673250705840776
    elif SHAPE == MORLET:
        hi, lo = turns(u, s1, s2)
        y = convolution(cosine_jet(hi, lo, 5.0, M), bell_jet(u, 1.0, M), M)
    elif SHAPE == DOG:
        y = -times_u(u, bell_jet(u, 1.0, M), M)[M]
    else:
        y = tl.zeros_like(x)
        if M == 0:
            y = tl.where((u >= 0) & (u < 0.5), 1.0, tl.where((u >= 0.5) & (u < 1), -1.0, u * 0.0))
            y = tl.where(tl.abs(u) == float("inf"), 0.0, y)
    if M > 0:
        y = y * (power(width, M) * FACTORIAL[M])
    return y


@triton.jit
def polynomial_begin(x, SQUASH: tl.constexpr, M: tl.constexpr):
    """The jets of z, p_{k-1} and p_k."""
    if SQUASH:
        z = tanh_jet(x, M)
    else:
        z = (x,)
        for n in tl.static_range(1, M + 1):
            z = z + (tl.zeros_like(x) + (1.0 if n == 1 else 0.0),)
    before, now = (tl.zeros_like(x),), (tl.zeros_like(x) + 1.0,)
    for _ in tl.static_range(1, M + 1):
        before, now = before + (tl.zeros_like(x),), now + (tl.zeros_like(x),)
    return z + before + now


@triton.jit
def polynomial_step(k, state, p_table, K: tl.constexpr, M: tl.constexpr):
    """p_{k+1} = (A_k z + B_k) p_k - C_k p_{k-1}."""
    J: tl.constexpr = M + 1
    a, b, c = tl.load(p_table + k), tl.load(p_table + K + k), tl.load(p_table + 2 * K + k)
    z, now, following = (), (), ()
    for n in tl.static_range(0, J):
        w = state[n] * a
        if n == 0:
            w = w + b
        z, now = z + (w,), now + (state[2 * J + n],)
    for n in tl.static_range(0, J):
        following = following + (convolution(z, now, n) - state[J + n] * c,)
    kept = ()
    for n in tl.static_range(0, J):
        kept = kept + (state[n],)
    return kept + now + following


@triton.jit
def fourier_value(k, state, s0, K: tl.constexpr, M: tl.constexpr):
    HALF: tl.constexpr = K // 2
    n = tl.full([], 0, tl.int32) + k
    sine = n >= HALF
    n = tl.where(sine, n - HALF, n) + 1
    y = cosine(state[0], state[1], n.to(state[0].dtype), M + tl.where(sine, 3, 0))
    if M > 0:
        y = y * power(number(s0, y) * n.to(y.dtype), M)
    return y


@triton.jit
def relu_value(k, x, p_table, K: tl.constexpr, COMBINATION: tl.constexpr, POWERED: tl.constexpr, M: tl.constexpr):
    rise, fall = x - tl.load(p_table + k), tl.load(p_table + K + k) - x
    a, b = (tl.where(rise <= 0, 0.0, rise),), (tl.where(fall <= 0, 0.0, fall),)
    for n in tl.static_range(1, M + 1):
        a = a + (tl.where(rise > 0, 1.0 if n == 1 else 0.0, tl.zeros_like(x)),)
        b = b + (tl.where(fall > 0, -1.0 if n == 1 else 0.0, tl.zeros_like(x)),)
    scaling = tl.load(p_table + 2 * K + k)
    f = ()
    for n in tl.static_range(0, M + 1):
        if COMBINATION == SUM:
            v = a[n] + b[n]
        else:
            v = convolution(a, b, n)
            if COMBINATION == SUM_PRODUCT:
                v = v + (a[n] + b[n])
        f = f + (v * scaling,)
    y = f
    for _ in tl.static_range(1, POWERED):
        y = multiply(y, f, M)
    return y[M] * FACTORIAL[M]


@triton.jit
def activation_value(x, NAME: tl.constexpr, M: tl.constexpr):
    if NAME == SILU:
        y = times_u(x, logistic_jet(x, M), M)[M] * FACTORIAL[M]
    elif NAME == GELU:
        y = times_u(x, normal_jet(x, M), M)[M] * FACTORIAL[M]
    elif NAME == TANH:
        y = tanh_jet(x, M)[M] * FACTORIAL[M]
    else:
        y = tl.zeros_like(x)
        if M == 0:
            y = x
            if NAME == RELU:
                y = tl.where(x <= 0, 0.0, x)
        if M == 1:
            y = y + 1.0
            if NAME == RELU:
                y = tl.where(x > 0, y, 0.0)
    return y


# ---- what kernels call ---------------------------------------------------------------------------------


@triton.jit
def begin(
    x, o_i, p_table, table_stride, s0, s1, s2,
    FAMILY: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """The state of k = 0 for a tile of x in the compute dtype; o_i are its inputs, which exist, broadcast along rows."""
    if FAMILY == UNIFORM or FAMILY == SPLINE:
        return spline_taps(x, o_i, p_table, table_stride, s0, s1, FAMILY, K, A, B, C, M)
    elif FAMILY == POLYNOMIAL:
        return polynomial_begin(x, A, M)
    elif FAMILY == FOURIER:
        return turns(x, s1, s2)  # of omega x
    else:
        return (x,)


@triton.jit
def step(
    k, state, p_table, s0, s1, s2,
    FAMILY: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """B_k^(m), and the state of k + 1."""
    if FAMILY == UNIFORM or FAMILY == SPLINE:
        return spline_value(k, state, A), state
    elif FAMILY == RADIAL:
        return radial_value(k, state[0], p_table, s1, s2, K, A, M), state
    elif FAMILY == POLYNOMIAL:
        return state[3 * M + 2] * FACTORIAL[M], polynomial_step(k, state, p_table, K, M)
    elif FAMILY == FOURIER:
        return fourier_value(k, state, s0, K, M), state
    elif FAMILY == RELU_POWER:
        return relu_value(k, state[0], p_table, K, A, B, M), state
    else:
        return activation_value(state[0], A, M), state
