"""Parts of the sparse Walsh-Hadamard decoder in Triton: the signs of keys, the samples of bins, and how well
they fit.

A tile is T bins of one group by some of their samples; what is summed over samples is summed in steps of such
a tile.  Signs are exact: s_p(k) = (-1)^<d_p, k> is the parity of words of 64 bits.  A key is a row of a (T,
WP) tile, WP >= W words.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def parity(x):
    """Of int64: 0 or 1."""
    y = (x ^ (x >> 32)).to(tl.int32)
    y ^= y >> 16
    y ^= y >> 8
    y ^= y >> 4
    y ^= y >> 2
    return (y ^ (y >> 1)) & 1


@triton.jit
def column(x, i):
    """Of (T, N): column i, (T,)."""
    o = tl.arange(0, x.shape[1])
    return tl.xor_sum(tl.where(o[None, :] == i, x, 0), 1)


@triton.jit
def any_of(m):
    """Whether one of (T,) is true."""
    return tl.max(m.to(tl.int32), 0) > 0


@triton.jit
def fetched(p_bin, o_p, m, limit):
    """Samples o_p below `limit` of the bins at p_bin: (T, N), zero where there are none, and where there are.
    """
    m_p = m[:, None] & (o_p < limit)[None, :]
    return tl.load(p_bin[:, None] + o_p[None, :], mask=m_p, other=0.0), m_p


@triton.jit
def minus(p_points, keys, o_p, sizes):
    """Whether s_p(k) = -1: (T, N).  p_points: the group's (P, W)."""
    samples, words, bits, n, repeats, rows, groups = sizes
    x = tl.zeros([keys.shape[0], o_p.shape[0]], tl.int64)
    for i_w in tl.range(0, words):
        point = tl.load(p_points + o_p * words + i_w, mask=o_p < samples, other=0)
        x ^= column(keys, i_w)[:, None] & point[None, :]
    return parity(x) != 0


@triton.jit
def bin_of(p_rows, keys, sizes):
    """M_c^T k: (T,).  p_rows: the group's (n, W)."""
    samples, words, bits, n, repeats, rows, groups = sizes
    o_w = tl.arange(0, keys.shape[1])
    j = tl.zeros([keys.shape[0]], tl.int32)
    for i in tl.range(0, bits):
        row = tl.load(p_rows + i * words + o_w, mask=o_w < words, other=0)
        j |= parity(tl.xor_sum(keys & row[None, :], 1)) << i
    return j


@triton.jit
def energies(p_bin, m, samples, inverse, TP: tl.constexpr):
    """mean U^2: (T,).  inverse: 1 / samples."""
    e = tl.zeros([p_bin.shape[0], TP], tl.float32)
    for p0 in tl.range(0, samples, TP):
        u, m_u = fetched(p_bin, p0 + tl.arange(0, TP), m, samples)
        e += u * u
    return tl.sum(e, 1) * inverse


@triton.jit
def spreads(p_bin, m, samples, inverse, TP: tl.constexpr):
    """mean (|U| - mean |U|)^2: (T,)."""
    total = tl.zeros([p_bin.shape[0], TP], tl.float32)
    for p0 in tl.range(0, samples, TP):
        u, m_u = fetched(p_bin, p0 + tl.arange(0, TP), m, samples)
        total += tl.abs(u)
    middle = tl.sum(total, 1) * inverse
    left = tl.zeros([p_bin.shape[0], TP], tl.float32)
    for p0 in tl.range(0, samples, TP):
        u, m_p = fetched(p_bin, p0 + tl.arange(0, TP), m, samples)
        d = tl.where(m_p, tl.abs(u) - middle[:, None], 0.0)
        left += d * d
    return tl.sum(left, 1) * inverse


@triton.jit
def correlation(p_bin, m, keys, p_points, sizes, inverse, TP: tl.constexpr):
    """rho = mean_p U_p s_p(k): (T,)."""
    samples, words, bits, n, repeats, rows, groups = sizes
    total = tl.zeros([p_bin.shape[0], TP], tl.float32)
    for p0 in tl.range(0, samples, TP):
        o_p = p0 + tl.arange(0, TP)
        u, m_u = fetched(p_bin, o_p, m, samples)
        total += tl.where(minus(p_points, keys, o_p, sizes), -u, u)
    return tl.sum(total, 1) * inverse


@triton.jit
def fits(p_bin, m, bin, keys, v, p_points, p_rows, sizes, levels, CHECKED: tl.constexpr, TP: tl.constexpr):
    """Step 5 of the specification: whether each bin is explained by its key, and rho.  CHECKED: whether M_c^T
    k = j is in question.
    """
    samples, words, bits, n, repeats, rows, groups = sizes
    tau_try, tau, tau_one, theta, refuse, inverse = levels
    rho = correlation(p_bin, m, keys, p_points, sizes, inverse, TP)
    left = tl.zeros([p_bin.shape[0], TP], tl.float32)
    most = tl.zeros([p_bin.shape[0]], tl.float32)
    for p0 in tl.range(0, samples, TP):
        o_p = p0 + tl.arange(0, TP)
        u, m_p = fetched(p_bin, o_p, m, samples)
        d = tl.where(m_p, tl.where(minus(p_points, keys, o_p, sizes), -u, u) - rho[:, None], 0.0)
        left += d * d
        most = tl.maximum(most, tl.max(d * d, 1))
    yes = m & (tl.sum(left, 1) * inverse <= tau * v) & (most <= tau_one * v) & (samples * (rho * rho) >= theta * v)
    if CHECKED:
        yes &= bin_of(p_rows, keys, sizes) == bin
    return yes, rho


# ---- the signs at the rows of the offsets --------------------------------------------------------------------------------


@triton.jit
def first_levels(p_bin, m, o_i, repeats, rows):
    """sum_q U_(q,0) U_(q,i), and the same of the signs alone: (T, N)."""
    soft = tl.zeros([p_bin.shape[0], o_i.shape[0]], tl.float32)
    votes = tl.zeros([p_bin.shape[0], o_i.shape[0]], tl.int32)
    for i_q in tl.range(0, repeats):
        head = tl.load(p_bin + i_q * rows, mask=m, other=0.0)
        u, m_u = fetched(p_bin + i_q * rows, o_i, m, rows)
        soft += head[:, None] * u
        votes += tl.where((head < 0)[:, None] != (u < 0), -1, 1)
    return soft, votes


@triton.jit
def weights_of(p_bin, m, repeats, rows, RP: tl.constexpr, TI: tl.constexpr):
    """w_q = sum_i sgn(L_i) U_(q,i), times the sign of the new L_0 = sum_q w_q U_(q,0): (T, RP), RP >=
    repeats.
    """
    o_q = tl.arange(0, RP)
    w = tl.zeros([p_bin.shape[0], RP], tl.float32)
    for i0 in tl.range(0, rows, TI):
        o_i = i0 + tl.arange(0, TI)
        soft, votes = first_levels(p_bin, m, o_i, repeats, rows)
        for i_q in tl.range(0, repeats):
            u, m_u = fetched(p_bin + i_q * rows, o_i, m, rows)
            part = tl.sum(tl.where(soft < 0, -u, u), 1)
            w += tl.where(o_q[None, :] == i_q, part[:, None], 0.0)
    m_q = m[:, None] & (o_q < repeats)[None, :]
    head = tl.load(p_bin[:, None] + o_q[None, :] * rows, mask=m_q, other=0.0)
    return tl.where((tl.sum(w * head, 1) < 0)[:, None], -w, w)


@triton.jit
def levels_of(p_bin, m, o_i, w, repeats, rows, HARD: tl.constexpr, RP: tl.constexpr):
    """L_i, positive where <row_i, k> = 0: (T, N)."""
    if HARD:
        soft, votes = first_levels(p_bin, m, o_i, repeats, rows)
        x = tl.where(votes == 0, soft, tl.where(votes < 0, -tl.abs(soft), tl.abs(soft)))
    elif RP > 1:
        o_q = tl.arange(0, RP)
        x = tl.zeros([p_bin.shape[0], o_i.shape[0]], tl.float32)
        for i_q in tl.range(0, repeats):
            u, m_u = fetched(p_bin + i_q * rows, o_i, m, rows)
            x += tl.sum(tl.where(o_q[None, :] == i_q, w, 0.0), 1)[:, None] * u
    else:
        x, votes = first_levels(p_bin, m, o_i, repeats, rows)
    return x
