"""BCH codes read backwards in Triton (ops/bch.py has the formulas): one bin a row of a tile, products by
tables of logarithms.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sparse_wht_bins import any_of, column, fits, levels_of


@triton.jit
def power(p_field, i, order):
    """alpha^i, 0 <= i < 2 order."""
    return tl.load(p_field + tl.where(i >= order, i - order, i))


@triton.jit
def logarithm(p_field, x, order):
    """Of 0 nothing."""
    return tl.load(p_field + order + 1 + x)


@triton.jit
def times(p_field, x, y, order):
    z = power(p_field, logarithm(p_field, x, order) + logarithm(p_field, y, order), order)
    return tl.where((x != 0) & (y != 0), z, 0)


@triton.jit
def locator_of(p_field, odd, degree, order, DP: tl.constexpr):
    """S_1, S_3, .. in (T, DP), DP > degree -> Berlekamp-Massey's polynomial (T, DP), and its length (T,)."""
    T: tl.constexpr = odd.shape[0]
    o_s = tl.arange(0, 2 * DP)
    half = tl.zeros([2 * DP], tl.int32)  # S_j = S_(j / 2^h)^(2^h), j / 2^h odd
    for i in tl.static_range(1, 6):
        half += tl.where(o_s % (1 << i) == 0, 1, 0)
    source = tl.minimum((o_s >> half) >> 1, DP - 1)
    sums = tl.gather(odd, tl.broadcast_to(source[None, :], [T, 2 * DP]), 1)
    square = power(p_field, (logarithm(p_field, sums, order) << half[None, :]) % order, order)
    sums = tl.where((sums != 0) & (o_s > 0)[None, :], square, 0)  # (T, 2 DP): S_j

    o_i = tl.arange(0, DP)[None, :]
    locator = tl.zeros([T, DP], tl.int32) + tl.where(o_i == 0, 1, 0)
    previous = locator
    length = tl.zeros([T], tl.int32)
    shift, last = length + 1, length + 1
    for i in tl.range(0, degree):
        step = 2 * i + 1
        behind = tl.gather(sums, tl.broadcast_to(tl.maximum(step - o_i, 0), [T, DP]), 1)
        within = (o_i <= length[:, None]) & (o_i < step)
        gap = tl.xor_sum(tl.where(within, times(p_field, locator, behind, order), 0), 1)
        ratio = power(p_field, logarithm(p_field, gap, order) - logarithm(p_field, last, order) + order, order)
        ratio = tl.where(gap == 0, 0, ratio)
        o_m = o_i - shift[:, None]
        moved = tl.where((o_m >= 0) & (o_i <= degree), tl.gather(previous, tl.maximum(o_m, 0), 1), 0)
        updated = locator ^ times(p_field, tl.broadcast_to(ratio[:, None], [T, DP]), moved, order)
        longer = (gap != 0) & (2 * length < step)
        previous = tl.where(longer[:, None], locator, previous)
        last = tl.where(longer, gap, last)
        length = tl.where(longer, step - length, length)
        shift = tl.where(longer, 2, shift + 2)
        locator = updated
    return locator, length


@triton.jit
def located(p_field, odd, degree, order, sizes, DP: tl.constexpr, WP: tl.constexpr):
    """Syndromes -> keys (T, WP), and whether there is one (T,)."""
    samples, words, bits, n, repeats, rows, groups = sizes
    locator, length = locator_of(p_field, odd, degree, order, DP)
    logs = logarithm(p_field, locator, order)
    keys = tl.zeros([odd.shape[0], WP], tl.int64)
    count = tl.zeros([odd.shape[0]], tl.int32)
    o_w, o_b = tl.arange(0, WP), tl.arange(0, 64)
    for i_w in tl.range(0, words):
        o_p = i_w * 64 + o_b
        value = tl.zeros([odd.shape[0], 64], tl.int32)
        for i in tl.range(0, degree + 1):  # L(alpha^-p)
            term = power(p_field, column(logs, i)[:, None] + (order - (i * o_p) % order)[None, :], order)
            value ^= tl.where((column(locator, i) != 0)[:, None], term, 0)
        root = (value == 0) & (o_p < n)[None, :]
        count += tl.sum(root.to(tl.int32), 1)
        word = tl.xor_sum(root.to(tl.int64) << o_b.to(tl.int64)[None, :], 1)
        keys = tl.where((o_w == i_w)[None, :], word[:, None], keys)
    return keys, (length <= degree) & (count == length)


@triton.jit
def syndromes(p_bin, m, w, degree, log2, sizes, HARD: tl.constexpr, RP: tl.constexpr, DP: tl.constexpr):
    """S_1, S_3, .. from the signs: (T, DP)."""
    samples, words, bits, n, repeats, rows, groups = sizes
    o_d, o_b = tl.arange(0, DP), tl.arange(0, 16)
    odd = tl.zeros([p_bin.shape[0], DP], tl.int32)
    for i in tl.range(0, degree):
        x = levels_of(p_bin, m, 1 + i * log2 + o_b, w, repeats, rows, HARD, RP)
        s = tl.xor_sum(((x < 0) & (o_b < log2)[None, :]).to(tl.int32) << o_b[None, :], 1)
        odd = tl.where((o_d == i)[None, :], s[:, None], odd)
    return odd


@triton.jit
def weakest(p_bin, m, w, chase, sizes, HARD: tl.constexpr, RP: tl.constexpr, TI: tl.constexpr):
    """The rows i of the `chase` least |L_i|, of equal ones the first: (T, 16)."""
    samples, words, bits, n, repeats, rows, groups = sizes
    o_k = tl.arange(0, 16)
    found = tl.zeros([p_bin.shape[0], 16], tl.int32)
    last = tl.full([p_bin.shape[0]], -1, tl.int64)
    for i_k in tl.range(0, chase):
        best = tl.full([p_bin.shape[0]], 0x7FFFFFFFFFFFFFFF, tl.int64)
        for i0 in tl.range(0, rows, TI):
            o_i = i0 + tl.arange(0, TI)
            x = tl.abs(levels_of(p_bin, m, o_i, w, repeats, rows, HARD, RP))
            code = (x.to(tl.int32, bitcast=True).to(tl.int64) << 32) | o_i[None, :]  # of floats >= 0 the bits have their order
            code = tl.where((code > last[:, None]) & (o_i < rows)[None, :], code, 0x7FFFFFFFFFFFFFFF)
            best = tl.minimum(best, tl.min(code, 1))
        last = best
        found = tl.where((o_k == i_k)[None, :], best.to(tl.int32)[:, None], found)
    return found


@triton.jit
def chased(
    p_bin, m, bin, w, odd, v, p_points, p_rows, p_field, code, sizes, levels,
    HARD: tl.constexpr, RP: tl.constexpr, DP: tl.constexpr, WP: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """Step 4 where the signs as they are gave no key: the best |rho| of those a few flips away.  Row i > 0 is
    bit (i - 1) mod m of sum (i - 1) / m; a flip of row 0 is one of all the others.
    """
    degree, log2, order, chase = code
    weak = weakest(p_bin, m, w, chase, sizes, HARD, RP, TP)
    o_d = tl.arange(0, DP)[None, :]
    yes = m & (bin < 0)
    keys = tl.zeros([p_bin.shape[0], WP], tl.int64)
    rho = tl.zeros([p_bin.shape[0]], tl.float32)
    for subset in tl.range(1, 1 << chase):
        flipped = odd
        for i in tl.range(0, chase):
            if (subset >> i) & 1:
                row = column(weak, i)[:, None]
                one = tl.where(o_d == (row - 1) // log2, 1 << (tl.maximum(row - 1, 0) % log2), 0)
                every = tl.where(o_d < degree, order, 0)
                flipped ^= tl.where(row == 0, every, one)
        new, there = located(p_field, flipped, degree, order, sizes, DP, WP)
        there &= m
        if any_of(there):
            fit, value = fits(p_bin, there, bin, new, v, p_points, p_rows, sizes, levels, True, TP)
            better = fit & ((yes == 0) | (tl.abs(value) > tl.abs(rho)))
            yes |= better
            keys = tl.where(better[:, None], new, keys)
            rho = tl.where(better, value, rho)
    return yes, keys, rho
