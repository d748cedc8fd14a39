"""What one program does for a problem between two visits of its bins, in Triton: noise, which keys are taken,
what is visited next.

A cell is a bin of a group, c B + j.  Cells found, or to be visited, in a round bear its number, so that
nothing has to be cleared. Whatever one thread writes and another reads here has a barrier between.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sparse_wht_bins import any_of, parity

ESTIMATES = tl.constexpr(3)  # of the noise, as in the specification
ROUNDING = tl.constexpr((8.0 * 2.0**-24) ** 2)  # (8 eps)^2
# The state of a problem: whether it is done, keys found, estimates made, keys of this round, rounds.
DONE, FOUND, MADE, FRESH, ROUND = (tl.constexpr(i) for i in range(5))


@triton.jit
def floor_of(p_energy, cells, groups, TB: tl.constexpr):
    """The least v, that of rounding."""
    o = tl.arange(0, TB)
    total = tl.zeros([TB], tl.float32)
    for i0 in tl.range(0, cells, TB):
        total += tl.load(p_energy + i0 + o, mask=i0 + o < cells, other=0.0)
    return tl.sum(total, 0) / groups * ROUNDING


@triton.jit
def below(p_energy, cells, limit, TB: tl.constexpr):
    """How many energies are at most `limit`, and their sum."""
    o = tl.arange(0, TB)
    count = tl.zeros([TB], tl.int32)
    total = tl.zeros([TB], tl.float32)
    for i0 in tl.range(0, cells, TB):
        e = tl.load(p_energy + i0 + o, mask=i0 + o < cells, other=float("inf"))
        count += (e <= limit).to(tl.int32)
        total += tl.where(e <= limit, e, 0.0)
    return tl.sum(count, 0), tl.sum(total, 0)


@triton.jit
def smaller(p_energy, cells, bits, TB: tl.constexpr):
    """How many energies are smaller than the number of these bits: of floats that are not negative the bits,
    as integers, have their order.
    """
    o = tl.arange(0, TB)
    count = tl.zeros([TB], tl.int32)
    for i0 in tl.range(0, cells, TB):
        e = tl.load(p_energy + i0 + o, mask=i0 + o < cells, other=float("inf")).to(tl.int32, bitcast=True)
        count += ((e < bits) & (i0 + o < cells)).to(tl.int32)
    return tl.sum(count, 0)


@triton.jit
def noise_of(p_energy, cells, floor, tau, TB: tl.constexpr):
    """v, estimated from the bins that hold nothing else.  The k-th smallest energy is the largest number with
    fewer than k below it.
    """
    k = (cells + 15) // 16
    bits = k * 0
    for i in tl.range(0, 31):  # from the top
        trial = bits + (1 << (30 - i))
        bits = tl.where(smaller(p_energy, cells, trial, TB) < k, trial, bits)
    v = tl.maximum(bits.to(tl.float32, bitcast=True), floor)
    before, i = k * 0 - 1, k * 0
    while i < 64:
        count, total = below(p_energy, cells, tau * v, TB)
        i = tl.where(count == before, 64, i + 1)
        v = tl.where((count == before) | (count == 0), v, tl.maximum(total / tl.maximum(count, 1), floor))
        before = count
    return v


@triton.jit
def bin_at(p_key, m, p_rows, sizes):
    """M_c^T k of the keys at p_key: (N,)."""
    samples, words, bits, n, repeats, rows, groups = sizes
    j = tl.zeros([m.shape[0]], tl.int32)
    for i in tl.range(0, bits):
        x = tl.zeros([m.shape[0]], tl.int64)
        for i_w in tl.range(0, words):
            x ^= tl.load(p_key + i_w, mask=m, other=0) & tl.load(p_rows + i * words + i_w)
        j |= parity(x) << i
    return j


@triton.jit
def same_key(p_a, p_b, m, words):
    """Where m and the keys at p_a and p_b are equal; the shapes of p_a and p_b broadcast to that of m."""
    for i_w in tl.range(0, words):
        a = tl.load(tl.broadcast_to(p_a, m.shape) + i_w, mask=m, other=0)
        m &= a == tl.load(tl.broadcast_to(p_b, m.shape) + i_w, mask=m, other=0)
    return m


@triton.jit
def agree(i_c, bins, round, p_rows, work, sizes, TB: tl.constexpr):
    """Of what group i_c found: the keys that no group before it found, in the order of their bins, as cells and
    values at the group's place of the two lists.  -> how many.
    """
    samples, words, bits, n, repeats, rows, groups = sizes
    p_key, p_rho, p_hit, p_cells, p_means = work
    kept = i_c * 0
    for j0 in tl.range(0, bins, TB):
        j = j0 + tl.arange(0, TB)
        cell = i_c * bins + j
        keep = tl.load(p_hit + cell, mask=j < bins, other=0) == round
        if any_of(keep):
            there = keep
            rho = tl.load(p_rho + cell, mask=there, other=0.0)
            total, times = rho, tl.full([TB], 1.0, tl.float32)
            for i_o in tl.range(0, groups):
                if i_o != i_c:
                    place = i_o * bins + bin_at(p_key + cell * words, there, p_rows + i_o * n * words, sizes)
                    same = there & (tl.load(p_hit + place, mask=there, other=0) == round)
                    same = same_key(p_key + cell * words, p_key + place * words, same, words)
                    total += tl.load(p_rho + place, mask=same, other=0.0)
                    times += same.to(tl.float32)
                    keep &= tl.where(i_o < i_c, same.to(tl.int32), 0) == 0
            o = i_c * bins + kept + tl.cumsum(keep.to(tl.int32), 0) - 1
            tl.store(p_cells + o, cell, mask=keep)
            tl.store(p_means + o, total / times, mask=keep)
            kept += tl.sum(keep.to(tl.int32), 0)
    return kept


@triton.jit
def known(p_key, m, p_keys, count, words, TK: tl.constexpr):
    """The places of the keys at p_key among the first `count` found, -1 where they are new: (N,)."""
    place = tl.full([m.shape[0]], -1, tl.int32)
    for i0 in tl.range(0, count, TK):
        o = i0 + tl.arange(0, TK)
        equal = m[:, None] & (o < count)[None, :]
        equal = same_key(p_key[:, None], (p_keys + o.to(tl.int64) * words)[None, :], equal, words)
        place = tl.maximum(place, tl.max(tl.where(equal, o[None, :], -1), 1))
    return place


@triton.jit
def enter(i_c, kept, before, found, fresh, round, bins, capacity, p_rows, work, sizes, TL: tl.constexpr, TK: tl.constexpr):
    """The keys of `agree` into the list of those found, of which `before` are of earlier rounds, as far as
    that holds them, and into the round's.  -> keys found, keys of the round, how many were too many.
    """
    samples, words, bits, n, repeats, rows, groups = sizes
    p_key, p_cells, p_means, p_places, p_values, p_of_keys, p_visit, p_keys, p_found = work
    full = before * 0
    for i0 in tl.range(0, kept, TL):
        o = i0 + tl.arange(0, TL)
        m = o < tl.where(full == 0, kept, 0)
        cell = tl.load(p_cells + i_c * bins + o, mask=m, other=0)
        value = tl.load(p_means + i_c * bins + o, mask=m, other=0.0)
        place = known(p_key + cell * words, m, p_keys, before, words, TK)
        new = m & (place < 0)
        place = tl.where(new, found + tl.cumsum(new.to(tl.int32), 0) - 1, place)
        m &= tl.cumsum((new & (place >= capacity)).to(tl.int32), 0) == 0  # from the first that is too many on, none of the group
        full += tl.sum((new & (place >= capacity)).to(tl.int32), 0)
        new &= m
        old = tl.load(p_found + place, mask=m & (new == 0), other=0.0)
        tl.store(p_found + place, old + value, mask=m)
        for i_w in tl.range(0, words):
            word = tl.load(p_key + cell * words + i_w, mask=new, other=0)
            tl.store(p_keys + place.to(tl.int64) * words + i_w, word, mask=new)
        at = fresh + tl.cumsum(m.to(tl.int32), 0) - 1
        tl.store(p_places + at, place, mask=m)
        tl.store(p_values + at, value, mask=m)
        for i_o in tl.range(0, groups):
            j = bin_at(p_key + cell * words, m, p_rows + i_o * n * words, sizes)
            tl.store(p_of_keys + i_o * (groups * bins) + at, j, mask=m)
            tl.store(p_visit + i_o * bins + j, tl.zeros([TL], tl.int32) + round, mask=m)
        found += tl.sum(new.to(tl.int32), 0)
        fresh += tl.sum(m.to(tl.int32), 0)
    return found, fresh, full


@triton.jit
def enlist(round, every, bins, groups, p_visit, p_list, p_fill, TB: tl.constexpr):
    """The bins of each group that bear the round's number, or all of them, in order."""
    for i_c in tl.range(0, groups):
        fill = i_c * 0
        for j0 in tl.range(0, bins, TB):
            j = j0 + tl.arange(0, TB)
            m = j < bins
            m &= tl.where(every, round, tl.load(p_visit + i_c * bins + j, mask=m, other=0)) == round
            tl.store(p_list + i_c * bins + fill + tl.cumsum(m.to(tl.int32), 0) - 1, j, mask=m)
            fill += tl.sum(m.to(tl.int32), 0)
        tl.store(p_fill + i_c, fill)


@triton.jit
def begin(bins, p_state, p_noise, p_energy, p_visit, p_list, p_fill, groups, tau, noise, TB: tl.constexpr):
    """Noise and its floor from the energies; all bins are to be visited."""
    cells = groups * bins
    floor = floor_of(p_energy, cells, groups, TB)
    v = tl.maximum(noise, floor)
    if noise < 0:
        v = noise_of(p_energy, cells, floor, tau, TB)
    tl.store(p_noise, v)
    tl.store(p_noise + 1, floor)
    for i in tl.static_range(5):
        tl.store(p_state + i, 1 if i == MADE or i == ROUND else 0)
    enlist(1, True, bins, groups, p_visit, p_list, p_fill, TB)


@triton.jit
def settle(bins, capacity, rounds, p_rows, p_state, p_noise, p_list, p_fill, p_visit, work, sizes, tau, noise,
           TB: tl.constexpr, TL: tl.constexpr, TK: tl.constexpr):  # fmt: skip
    """The round's end: `agree`, `enter`, and what to do next."""
    samples, words, bits, n, repeats, rows, groups = sizes
    p_key, p_rho, p_hit, p_energy, p_cells, p_means, p_places, p_values, p_of_keys, p_keys, p_found = work
    before, made, round = tl.load(p_state + FOUND), tl.load(p_state + MADE), tl.load(p_state + ROUND)
    v, floor = tl.load(p_noise), tl.load(p_noise + 1)
    found, fresh = before, round * 0
    full = round * 0
    entered = (p_key, p_cells, p_means, p_places, p_values, p_of_keys, p_visit, p_keys, p_found)
    for i_c in tl.range(0, groups):
        kept = agree(i_c, bins, round, p_rows, (p_key, p_rho, p_hit, p_cells, p_means), sizes, TB)
        tl.debug_barrier()  # agree's lists
        found, fresh, over = enter(i_c, kept, before, found, fresh, round, bins, capacity, p_rows, entered, sizes, TL, TK)
        full += over
    tl.debug_barrier()  # p_visit; and the state has been read by all
    done = full > 0
    again = (fresh == 0) & (full == 0)
    if again:
        done = (noise >= 0) | (made == ESTIMATES)
        if done == 0:
            estimate = noise_of(p_energy, groups * bins, floor, tau, TB)
            done = estimate == v
            tl.store(p_noise, estimate)
            tl.store(p_state + MADE, made + 1)
    enlist(round, again, bins, groups, p_visit, p_list, p_fill, TB)
    tl.store(p_state + DONE, (done | (round >= rounds)).to(tl.int32))
    tl.store(p_state + FOUND, found)
    tl.store(p_state + FRESH, fresh)
    tl.store(p_state + ROUND, round + 1)
