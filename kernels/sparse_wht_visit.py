"""A visit to T bins of a group, in Triton: what the last round found is subtracted, and what is left is
tested; once that is done to all bins, what the other groups have nothing of is refused.

Steps 1 to 6 of the specification (ops/sparse_wht_reference.py), and its peeling seen from a bin: of the
round's keys, which are numbered in the order in which they are subtracted, a bin takes the first that falls
into it, then the next, until there is none. So no two programs write a sample, and the order of every
subtraction is that of the keys.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sparse_wht_bch import chased, located, syndromes
from .sparse_wht_bins import any_of, bin_of, correlation, energies, fetched, fits, levels_of, minus, spreads, weights_of

EXACT, NSO, BCH = (tl.constexpr(code) for code in range(3))


@triton.jit
def peel(p_bin, j, m, p_places, p_values, p_of_keys, p_keys, count, p_points, sizes, WP: tl.constexpr, TP: tl.constexpr):
    """U_(j, p) -= rho s_p(k) for the round's keys k of bin j.  p_of_keys: (count,) the bin of each key in
    this group.
    """
    samples, words, bits, n, repeats, rows, groups = sizes
    T: tl.constexpr = j.shape[0]
    o_w, o_t = tl.arange(0, WP), tl.arange(0, TP)
    at = tl.full([T], -1, tl.int32)
    going = count > 0
    while going:
        next = tl.zeros([T], tl.int32) + count
        for i0 in tl.range(0, count, TP):
            o_i = i0 + o_t
            bin = tl.load(p_of_keys + o_i, mask=o_i < count, other=-1)
            mine = (bin[None, :] == j[:, None]) & (o_i[None, :] > at[:, None])
            next = tl.minimum(next, tl.min(tl.where(mine, o_i[None, :], count), 1))
        m_k = m & (next < count)
        going = any_of(m_k)
        if going:
            value = tl.load(p_values + next, mask=m_k, other=0.0)
            place = tl.load(p_places + next, mask=m_k, other=0).to(tl.int64)
            m_w = m_k[:, None] & (o_w < words)[None, :]
            keys = tl.load(p_keys + place[:, None] * words + o_w[None, :], mask=m_w, other=0)
            for p0 in tl.range(0, samples, TP):
                o_p = p0 + o_t
                u, m_p = fetched(p_bin, o_p, m_k, samples)
                u += tl.where(minus(p_points, keys, o_p, sizes), value[:, None], -value[:, None])
                tl.store(p_bin[:, None] + o_p[None, :], u, mask=m_p)
            tl.debug_barrier()  # the tests read these samples by other threads
        at = next


@triton.jit
def exact_keys(p_bin, j, m, w, p_columns, sizes, HARD: tl.constexpr, RP: tl.constexpr, WP: tl.constexpr, TI: tl.constexpr):
    """k = A^-T t: the columns of A^-T where t, the bin and the signs, has a one."""
    samples, words, bits, n, repeats, rows, groups = sizes
    o_w = tl.arange(0, WP)
    keys = tl.zeros([j.shape[0], WP], tl.int64)
    for i in tl.range(0, bits):
        column = tl.load(p_columns + i * words + o_w, mask=o_w < words, other=0)
        keys ^= tl.where(((j >> i) & 1)[:, None] != 0, column[None, :], 0)
    for i0 in tl.range(1, rows, TI):
        o_i = i0 + tl.arange(0, TI)
        x = levels_of(p_bin, m, o_i, w, repeats, rows, HARD, RP)  # rows that there are not are zero
        for i_w in tl.range(0, words):
            column = tl.load(p_columns + (bits + o_i - 1) * words + i_w, mask=o_i < rows, other=0)
            word = tl.xor_sum(tl.where(x < 0, column[None, :], 0), 1)
            keys ^= tl.where((o_w == i_w)[None, :], word[:, None], 0)
    return keys


@triton.jit
def nso_keys(p_bin, m, w, sizes, HARD: tl.constexpr, RP: tl.constexpr, WP: tl.constexpr, TI: tl.constexpr):
    """The signs are the bits.  TI is 64, or there are no more than TI bits."""
    samples, words, bits, n, repeats, rows, groups = sizes
    o_w, o_b = tl.arange(0, WP), tl.arange(0, TI)
    keys = tl.zeros([p_bin.shape[0], WP], tl.int64)
    for i_w in tl.range(0, words):
        x = levels_of(p_bin, m, 1 + i_w * 64 + o_b, w, repeats, rows, HARD, RP)
        word = tl.xor_sum((x < 0).to(tl.int64) << o_b.to(tl.int64)[None, :], 1)
        keys = tl.where((o_w == i_w)[None, :], word[:, None], keys)
    return keys


@triton.jit
def single(
    p_bin, j, m, v, group, code, sizes, levels,
    SCHEME: tl.constexpr, HARD: tl.constexpr, CHASE: tl.constexpr, RP: tl.constexpr, DP: tl.constexpr, WP: tl.constexpr,
    TP: tl.constexpr, TI: tl.constexpr,
):  # fmt: skip
    """Steps 3 to 5 -> whether a bin is a single-ton, its key and rho."""
    samples, words, bits, n, repeats, rows, groups = sizes
    p_points, p_rows, p_columns, p_field = group
    degree, log2, order, chase = code
    if RP > 1 and not HARD:
        w = weights_of(p_bin, m, repeats, rows, RP, TI)
    else:
        w = tl.zeros([p_bin.shape[0], RP], tl.float32)
    if SCHEME == EXACT:
        keys = exact_keys(p_bin, j, m, w, p_columns, sizes, HARD, RP, WP, TI)
        yes, rho = fits(p_bin, m, j, keys, v, p_points, p_rows, sizes, levels, False, TP)
    elif SCHEME == NSO:
        keys = nso_keys(p_bin, m, w, sizes, HARD, RP, WP, TI)
        yes, rho = fits(p_bin, m, j, keys, v, p_points, p_rows, sizes, levels, True, TP)
    else:
        odd = syndromes(p_bin, m, w, degree, log2, sizes, HARD, RP, DP)
        keys, there = located(p_field, odd, degree, order, sizes, DP, WP)
        yes, rho = fits(p_bin, m & there, j, keys, v, p_points, p_rows, sizes, levels, True, TP)
        if CHASE:
            again = m & (yes == 0)
            if any_of(again):
                found, new, value = chased(
                    p_bin, again, j, w, odd, v, p_points, p_rows, p_field, code, sizes, levels, HARD, RP, DP, WP, TP
                )
                yes |= found
                keys = tl.where(found[:, None], new, keys)
                rho = tl.where(found, value, rho)
    return yes, keys, rho


@triton.jit
def visit(
    i_c, j, m, v, count, round, testing, bins, tables, work, code, sizes, levels,
    SCHEME: tl.constexpr, HARD: tl.constexpr, CHASE: tl.constexpr, RP: tl.constexpr, DP: tl.constexpr, WP: tl.constexpr,
    TP: tl.constexpr, TI: tl.constexpr,
):  # fmt: skip
    """Bins j of group i_c where m.  `testing`: else only their energies are noted.  `work` is of one problem.
    """
    samples, words, bits, n, repeats, rows, groups = sizes
    p_points, p_rows, p_columns, p_field = tables
    p_u, p_key, p_rho, p_hit, p_energy, p_places, p_values, p_of_keys, p_keys = work
    tau_try, tau, tau_one, theta, refuse, inverse = levels
    group = (p_points + i_c * samples * words, p_rows + i_c * n * words, p_columns + i_c * n * words, p_field)
    cell = i_c * bins + j
    p_bin = p_u + cell * samples
    peel(p_bin, j, m, p_places, p_values, p_of_keys + i_c * (groups * bins), p_keys, count, group[0], sizes, WP, TP)
    e = energies(p_bin, m, samples, inverse, TP)
    tl.store(p_energy + cell, e, mask=m)
    m &= e > tau_try * v
    if testing & any_of(m):
        m &= spreads(p_bin, m, samples, inverse, TP) <= tau * v
        if any_of(m):
            yes, keys, rho = single(p_bin, j, m, v, group, code, sizes, levels, SCHEME, HARD, CHASE, RP, DP, WP, TP, TI)
            tl.store(p_hit + cell, tl.zeros([j.shape[0]], tl.int32) + round, mask=yes)
            tl.store(p_rho + cell, rho, mask=yes)
            o_w = tl.arange(0, WP)
            m_w = yes[:, None] & (o_w < words)[None, :]
            tl.store(p_key + cell[:, None] * words + o_w[None, :], keys, mask=m_w)


@triton.jit
def refusal(i_c, j, m, v, round, bins, p_points, p_rows, work, sizes, levels, WP: tl.constexpr, TP: tl.constexpr):
    """Step 6 for bins j of group i_c where m, after the visits of the round: a key that is refused counts as
    not found.
    """
    samples, words, bits, n, repeats, rows, groups = sizes
    p_u, p_key, p_rho, p_hit, p_energy, p_places, p_values, p_of_keys, p_keys = work
    tau_try, tau, tau_one, theta, refuse, inverse = levels
    cell = i_c * bins + j
    m &= tl.load(p_hit + cell, mask=m, other=0) == round
    if any_of(m):
        o_w = tl.arange(0, WP)
        keys = tl.load(p_key + cell[:, None] * words + o_w[None, :], mask=m[:, None] & (o_w < words)[None, :], other=0)
        rho = tl.load(p_rho + cell, mask=m, other=0.0)
        refused = m & (j < 0)
        for i_o in tl.range(0, groups):
            if i_o != i_c:
                place = i_o * bins + bin_of(p_rows + i_o * n * words, keys, sizes)
                empty = m & (tl.load(p_energy + place, mask=m, other=0.0) <= tau_try * v)
                if any_of(empty):
                    its = correlation(p_u + place * samples, empty, keys, p_points + i_o * samples * words, sizes, inverse, TP)
                    refused |= empty & ((its - rho) * (its - rho) > refuse * v)
        tl.debug_barrier()  # every thread that holds these bins has read p_hit
        tl.store(p_hit + cell, tl.zeros([j.shape[0]], tl.int32), mask=refused)
