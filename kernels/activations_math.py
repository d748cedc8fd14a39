"""Learnable activations in Triton, the mathematics: f, its first and its directional second derivatives, element by element.

The formulas are those of spectralops.ops.activations_reference, whose codes these are.  Arguments and results come as
tuples: x, and the gradient of x, as (x,) or (Re x, Im x), y and its gradient likewise, parameters as one tensor each.
`sin` and `cos` are exact for any argument; `exp` is the hardware's ex2, `/` PTX's div.full for float (2 ulp each).
"""

from __future__ import annotations

import triton
import triton.language as tl

SNAKE, SINE, SPDER, CAUCHY, POLY_RELU, SQUARE_WAVE, WIRE, WIRE_COMPLEX = (tl.constexpr(code) for code in range(8))


# ---- sin(t) / t ----------------------------------------------------------------------------------


@triton.jit
def sinc(t, s):
    """S = s / t with s = sin t; below 1 its series, which ends where the type's precision does."""
    z = t * t
    if t.dtype == tl.float64:
        v = (((z * -8.22063524662433e-18 + 2.8114572543455206e-15) * z - 7.647163731819816e-13) * z + 1.6059043836821613e-10) * z
    else:
        v = tl.zeros_like(z)
    v = (((v - 2.505210838544172e-08) * z + 2.7557319223985893e-06) * z - 1.984126984126984e-04) * z + 8.333333333333333e-03
    v = (v * z - 1.6666666666666666e-01) * z + 1.0
    near = tl.abs(t) < 1.0
    return tl.where(near, v, s / tl.where(near, 1.0, t))


@triton.jit
def sinc_slope(t, s, c):
    """dS/dt = (c - S) / t."""
    near = tl.abs(t) < 1.0
    far = tl.where(near, 1.0, t)
    return tl.where(near, t * slope_series(t * t), (c - s / far) / far)


@triton.jit
def slope_series(z):
    """sum_k (-1)^k 2 k / (2 k + 1)! z^(k-1), k from 1."""
    if z.dtype == tl.float64:
        v = ((z * -1.4797143443923793e-16 + 4.498331606952833e-14) * z - 1.0706029224547743e-11) * z
    else:
        v = tl.zeros_like(z)
    v = (((v + 1.9270852604185937e-09) * z - 2.505210838544172e-07) * z + 2.2045855379188714e-05) * z - 1.1904761904761906e-03
    return (v * z + 3.333333333333333e-02) * z - 3.333333333333333e-01


# ---- polynomials ---------------------------------------------------------------------------------


@triton.jit
def polynomial(a, r, COUNT: tl.constexpr):
    """sum_i a_i r^i with its first two derivatives, by Horner's rule."""
    v = tl.zeros_like(r) + a[COUNT - 1]
    d = tl.zeros_like(r)
    h = tl.zeros_like(r)  # half the second derivative
    for i in tl.static_range(1, COUNT):
        h = h * r + d
        d = d * r + v
        v = v * r + a[COUNT - 1 - i]
    return v, d, 2.0 * h


@triton.jit
def relu(x):
    """max(x, 0) and its derivative, 0 at 0; NaN stays NaN."""
    return tl.where(x <= 0.0, 0.0, x), tl.where(x <= 0.0, 0.0, 1.0).to(x.dtype)


# ---- the complex wavelet -------------------------------------------------------------------------


@triton.jit
def wavelet(x, p, FUNCTION: tl.constexpr):
    """a, b, |z|^2 and the two parts of f = exp(i w z - k^2 |z|^2)."""
    a = x[0]
    b = tl.zeros_like(a)
    if FUNCTION == WIRE_COMPLEX:
        b = x[1]
    z2 = a * a + b * b
    size = tl.exp(-p[0] * b - p[1] * p[1] * z2)
    return a, b, z2, size * tl.cos(p[0] * a), size * tl.sin(p[0] * a)


# ---- the three passes ----------------------------------------------------------------------------


@triton.jit
def value(x, p, FUNCTION: tl.constexpr, COUNT: tl.constexpr):
    """y, as a tuple."""
    z = x[0]
    if FUNCTION == SNAKE:
        s = tl.sin(p[0] * z)
        return (z + z * s * sinc(p[0] * z, s),)
    elif FUNCTION == SINE:
        return (tl.sin(p[0] * z),)
    elif FUNCTION == SPDER:
        return (tl.where(z == 0.0, 0.0, tl.sin(z) * tl.sqrt(tl.abs(z))),)
    elif FUNCTION == CAUCHY:
        return ((p[0] * z + p[1]) / (z * z + p[2] * p[2]),)
    elif FUNCTION == POLY_RELU:
        r, _ = relu(z)
        y, _, _ = polynomial(p, r, COUNT)
        return (y,)
    elif FUNCTION == SQUARE_WAVE:
        s = tl.sin(p[0] * z)
        return (tl.where(s > 0.0, 1.0, tl.where(s < 0.0, -1.0, s)),)  # 0 and NaN are themselves
    else:
        _, _, _, re, im = wavelet(x, p, FUNCTION)
        return (re, im)


@triton.jit
def first(g, x, p, FUNCTION: tl.constexpr, COUNT: tl.constexpr):
    """dx = <g, f_x> as a tuple, and the terms <g, f_p> of the parameters."""
    z = x[0]
    h = g[0]
    if FUNCTION == SNAKE:
        t = p[0] * z
        s, c = tl.sin(t), tl.cos(t)
        ratio = sinc(t, s)
        return (h * (s + c) * (s + c),), (h * (z * (z * ratio * (2.0 * c - ratio))),)
    elif FUNCTION == SINE:
        c = h * tl.cos(p[0] * z)
        return (p[0] * c,), (z * c,)
    elif FUNCTION == SPDER:
        return (h * tl.sqrt(tl.abs(z)) * (tl.cos(z) + 0.5 * sinc(z, tl.sin(z))),), ()
    elif FUNCTION == CAUCHY:
        q = 1.0 / (z * z + p[2] * p[2])
        f = (p[0] * z + p[1]) * q
        u = h * q
        return (u * (p[0] - 2.0 * z * f),), (u * z, u, -2.0 * p[2] * f * u)
    elif FUNCTION == POLY_RELU:
        r, step = relu(z)
        _, d, _ = polynomial(p, r, COUNT)
        power, terms = h, ()
        for _ in tl.static_range(0, COUNT):
            terms = terms + (power,)
            power = power * r
        return (h * step * d,), terms
    else:
        a, b, z2, f_re, f_im = wavelet(x, p, FUNCTION)
        k2 = p[1] * p[1]
        re, im = h * f_re + g[1] * f_im, h * f_im - g[1] * f_re  # conj(g) f
        terms = (-re * b - im * a, -2.0 * p[1] * z2 * re)
        da = -2.0 * k2 * a * re - p[0] * im
        if FUNCTION == WIRE_COMPLEX:
            return (da, -(p[0] + 2.0 * k2 * b) * re), terms
        else:
            return (da,), terms


@triton.jit
def second(v, w, g, x, p, FUNCTION: tl.constexpr, COUNT: tl.constexpr):
    """f_d and <g, f_xd> as tuples, and the terms <g, f_pd>, along the direction v of x and w of the parameters."""
    z = x[0]
    h = g[0]
    if FUNCTION == SNAKE:
        t = p[0] * z
        s, c = tl.sin(t), tl.cos(t)
        ratio, slope = sinc(t, s), sinc_slope(t, s, c)
        f_a = z * (z * ratio * (2.0 * c - ratio))
        f_aa = z * (z * (z * (2.0 * slope * (c - ratio) - 2.0 * s * ratio)))
        double = 2.0 * (c - s) * (c + s)
        f_d = (s + c) * (s + c) * v[0] + f_a * w[0]
        return (f_d,), (h * double * (p[0] * v[0] + z * w[0]),), (h * (double * z * v[0] + f_aa * w[0]),)
    elif FUNCTION == SINE:
        t = p[0] * z
        s, c = tl.sin(t), tl.cos(t)
        td = p[0] * v[0] + z * w[0]
        return (c * td,), (h * (c * w[0] - s * p[0] * td),), (h * (c * v[0] - s * z * td),)
    elif FUNCTION == SPDER:
        s, c = tl.sin(z), tl.cos(z)
        root, ratio = tl.sqrt(tl.abs(z)), sinc(z, s)
        f_xx = tl.where(z == 0.0, 0.0, root * ((c - 0.25 * ratio) / tl.where(z == 0.0, 1.0, z) - s))
        return (root * (c + 0.5 * ratio) * v[0],), (h * f_xx * v[0],), ()
    elif FUNCTION == CAUCHY:
        q = 1.0 / (z * z + p[2] * p[2])
        f = (p[0] * z + p[1]) * q
        down = 2.0 * (z * v[0] + p[2] * w[2]) * q
        f_d = (p[0] * v[0] + w[0] * z + w[1]) * q - f * down
        u = h * q
        dx = u * (w[0] - 2.0 * (v[0] * f + z * f_d) - (p[0] - 2.0 * z * f) * down)
        return (f_d,), (dx,), (u * (v[0] - z * down), -u * down, -2.0 * u * (w[2] * f + p[2] * (f_d - f * down)))
    elif FUNCTION == POLY_RELU:
        r, step = relu(z)
        _, d, dd = polynomial(p, r, COUNT)
        e, e1, _ = polynomial(w, r, COUNT)
        rd = step * v[0]
        moved, terms = h * rd, (tl.zeros_like(r),)
        for i in tl.static_range(1, COUNT):
            terms = terms + (moved * i,)
            moved = moved * r
        return (d * rd + e,), (h * step * (dd * rd + e1),), terms
    else:
        return second_wavelet(v, w, g, x, p, FUNCTION)


@triton.jit
def second_wavelet(v, w, g, x, p, FUNCTION: tl.constexpr):
    a, b, z2, f_re, f_im = wavelet(x, p, FUNCTION)
    k2 = p[1] * p[1]
    va = v[0]
    vb = tl.zeros_like(va)
    if FUNCTION == WIRE_COMPLEX:
        vb = v[1]
    zd = 2.0 * (a * va + b * vb)  # (|z|^2)_d
    pb = -p[0] - 2.0 * k2 * b  # phi_b, which is real
    pa = -2.0 * k2 * a  # Re phi_a; Im phi_a is w
    d_re = pa * va + pb * vb - b * w[0] - 2.0 * p[1] * z2 * w[1]  # phi_d
    d_im = p[0] * va + a * w[0]
    r_re, r_im = f_re * d_re - f_im * d_im, f_re * d_im + f_im * d_re  # f_d
    re, im = g[0] * f_re + g[1] * f_im, g[0] * f_im - g[1] * f_re  # conj(g) f
    rd, md = g[0] * r_re + g[1] * r_im, g[0] * r_im - g[1] * r_re  # conj(g) f_d
    dw = -re * vb - im * va - rd * b - md * a
    dk = -2.0 * (re * (p[1] * zd + z2 * w[1]) + rd * p[1] * z2)
    da = re * (-2.0 * k2 * va - 4.0 * p[1] * a * w[1]) - im * w[0] + rd * pa - md * p[0]
    if FUNCTION == WIRE_COMPLEX:
        db = re * (-2.0 * k2 * vb - 4.0 * p[1] * b * w[1] - w[0]) + rd * pb
        return (r_re, r_im), (da, db), (dw, dk)
    else:
        return (r_re, r_im), (da,), (dw, dk)
