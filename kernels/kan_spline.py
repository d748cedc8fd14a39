"""B-splines on the device: the p + 1 functions that are not zero at x, and where they stand.

Of the Cox-de Boor triangle only the terms over x's interval are formed, p (p + 1) / 2 of them in place of K p.
They are jets (see kan_basis.py): level q has derivatives up to q, and the compiler drops those the last level does
not ask for.
"""

from __future__ import annotations

import triton
import triton.language as tl

UNIFORM = tl.constexpr(0)
ZERO, CLAMP, LINEAR = (tl.constexpr(code) for code in range(3))
FACTORIAL = tl.constexpr((1.0, 1.0, 2.0, 6.0, 24.0))


@triton.constexpr_function
def bit_length(n):
    return int(n).bit_length()


@triton.jit
def number(bits, like):
    """A double passed as its bits, in the dtype of `like`."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(like.dtype)


@triton.jit
def power(x, N: tl.constexpr):
    """x^N, N >= 1."""
    r = x
    for _ in tl.static_range(1, N):
        r = r * x
    return r


@triton.jit
def locate(at, p_t, high, CLOSED: tl.constexpr, KNOTS: tl.constexpr):
    """The interval of `at` among non-decreasing knots: how many of them are not beyond it, less one, by bisection.

    At the closed end knots equal to it count as beyond, which leaves the last interval that is not empty.
    """
    low = tl.zeros_like(at).to(tl.int32)
    end = low + KNOTS
    closed = at != at
    if CLOSED:
        closed = at == high
    for _ in tl.static_range(0, bit_length(KNOTS)):
        middle = tl.minimum((low + end) // 2, KNOTS - 1)
        t = tl.load(p_t + middle)
        right = ((t < at) | ((t == at) & (closed == 0))) & (low < end)
        low = tl.where(right, middle + 1, low)
        end = tl.where(right, end, tl.minimum(end, middle))
    return low - 1


@triton.jit
def spread(v, rise, fall, slope, Q: tl.constexpr, M: tl.constexpr):
    """Order Q from the jets v of order Q - 1, laid out (derivative, function), Q functions each:
    N_r = fall_r v_r + rise_{r-1} v_{r-1}, where rise and fall are affine with slopes +slope and -slope.
    """
    w = ()
    for n in tl.static_range(0, M + 1):
        if n <= Q:
            for r in tl.static_range(0, Q + 1):
                s = -0.0
                if r < Q and n < Q:
                    s = s + fall[r] * v[n * Q + r]
                if r > 0 and n < Q:
                    s = s + rise[r - 1] * v[n * Q + r - 1]
                if r < Q and n > 0:
                    s = s - slope[r] * v[(n - 1) * Q + r]
                if r > 0 and n > 0:
                    s = s + slope[r - 1] * v[(n - 1) * Q + r - 1]
                w = w + (s,)
    return w


@triton.jit
def taps_uniform(s, one, ORDER: tl.constexpr, M: tl.constexpr):
    """Jets of the ORDER + 1 functions in s = (x - t_j) / h, the place within the interval."""
    v = (one,)
    for q in tl.static_range(1, ORDER + 1):
        rise = ()
        fall = ()
        slope = ()
        for r in tl.static_range(0, q):
            rise = rise + ((s + (q - 1 - r)) * (1.0 / q),)
            fall = fall + (((1 + r) - s) * (1.0 / q),)
            slope = slope + (tl.full([], 1.0 / q, s.dtype),)
        v = spread(v, rise, fall, slope, q, M)
    return v


@triton.jit
def taps_knots(at, one, p_t, j, ORDER: tl.constexpr, M: tl.constexpr, KNOTS: tl.constexpr):
    """The same on any knots; those before the first and after the last are met only by functions that do not exist."""
    t = ()  # t_{j - ORDER + 1} ... t_{j + ORDER}
    for r in tl.static_range(0, 2 * ORDER):
        t = t + (tl.load(p_t + tl.minimum(tl.maximum(j + (r + 1 - ORDER), 0), KNOTS - 1)),)
    v = (one,)
    for q in tl.static_range(1, ORDER + 1):
        rise = ()
        fall = ()
        slope = ()
        for r in tl.static_range(0, q):
            a, b = t[ORDER - q + r], t[ORDER + r]
            d = tl.where(b > a, 1.0 / (b - a), 0.0)
            rise = rise + ((at - a) * d,)
            fall = fall + ((b - at) * d,)
            slope = slope + (d,)
        v = spread(v, rise, fall, slope, q, M)
    return v


@triton.jit
def spline_taps(
    x, o_i, p_table, table_stride, s0, s1,
    FAMILY: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr, OUTSIDE: tl.constexpr, EDGE: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """(number of the first function, what the others are: 0, or NaN where x has no place, the ORDER + 1 values)."""
    KNOTS: tl.constexpr = K + ORDER + 1
    FIRST: tl.constexpr = ORDER if EDGE else 0  # the knots where outside begins
    LAST: tl.constexpr = K if EDGE else K + ORDER
    p_t = p_table
    if FAMILY == UNIFORM:
        start, h = number(s0, x), number(s1, x)
        low, high = start + h * FIRST, start + h * LAST
    else:
        p_t = p_table + o_i.to(tl.int64) * table_stride
        low, high = tl.load(p_t + FIRST), tl.load(p_t + LAST)
    if OUTSIDE == ZERO:
        beyond = (x < low) | (x >= high)
        at = tl.where(beyond, low, x)
    else:
        beyond = (x < low) | (x > high)
        at = tl.where(x < low, low, tl.where(x > high, high, x))
    one = tl.zeros_like(x) + 1.0
    if OUTSIDE == ZERO:
        one = tl.where(beyond, 0.0, one)
    ORDERS: tl.constexpr = 1 if OUTSIDE == LINEAR and M == 0 else M  # the tangent needs the slope
    D: tl.constexpr = ORDERS if ORDERS < ORDER else ORDER
    if FAMILY == UNIFORM:
        f = tl.minimum(tl.maximum(tl.floor((at - start) / h), FIRST), LAST - 1)
        f = tl.where(at < start + h * f, f - 1, tl.where(at >= start + h * (f + 1), f + 1, f))
        f = tl.minimum(tl.maximum(f, FIRST), LAST - 1)
        v = taps_uniform((at - (start + h * f)) / h, one, ORDER, D)
        j = f.to(tl.int32)
        if D > 0:
            by = 1.0 / h
    else:
        j = tl.minimum(tl.maximum(locate(at, p_t, high, OUTSIDE != ZERO, KNOTS), 0), KNOTS - 2)
        if ORDER == 0 or OUTSIDE != ZERO:  # only where every knot is the same is there no interval
            one = tl.where(tl.load(p_t + j) < tl.load(p_t + j + 1), one, 0.0)
        v = taps_knots(at, one, p_t, j, ORDER, D, KNOTS)
        by = 1.0
    if OUTSIDE == LINEAR and M == 0:
        rest = x * 0.0
    else:
        rest = at * 0.0
    taps = (j - ORDER, rest)
    for r in tl.static_range(0, ORDER + 1):
        if M > ORDER:
            b = rest
        else:
            b = v[M * (ORDER + 1) + r] * FACTORIAL[M]
            if FAMILY == UNIFORM and M > 0:
                b = b * power(by, M)
            if M == ORDER:  # a constant, which has not met x
                b = b + rest
        if OUTSIDE == LINEAR and M == 0 and ORDER > 0:
            b = b + tl.where(beyond, (x - at) * (v[ORDER + 1 + r] * by), 0.0)
        if OUTSIDE != ZERO and (M > 1 or (M == 1 and OUTSIDE == CLAMP)):
            b = tl.where(beyond, 0.0, b)
        taps = taps + (b,)
    return taps


@triton.jit
def spline_value(k, state, ORDER: tl.constexpr):
    d = k - state[0]
    b = state[1]
    for r in tl.static_range(0, ORDER + 1):
        b = tl.where(d == r, state[2 + r], b)
    return b
