"""Sparse Walsh-Hadamard transform in Triton: the decoder's loop on the GPU, and the sum of given
coefficients.

ops/sparse_wht_reference.py has the formulas.  The bins U are dense transforms (hadamard.py); rounds of a
visit to the bins that have changed (sparse_wht_visit.py) and a settlement of what was found
(sparse_wht_resolve.py) follow, and the host waits for none:

loop      one program a problem goes through its rounds.  Thousands of small problems fill a GPU so, in one
          launch; U is in global memory and, as each is small, in a cache.  What one thread writes and another
          reads has a barrier between.  It orders a block's accesses to global memory too: bar.sync on
          NVIDIA's, on AMD's with fences of the workgroup's scope around it.
visit     where a problem is large, its first rounds, in which most bins are visited, take a program for every
          T bins of a group, ...
refuse    ... again for what was found in them, which all groups are asked about as all visits left them, ...
settle    ... and one a problem in between, as launches of their own.  Once few bins are left, `loop` does the
          rest.

All call the same functions with the same tiles, so the bits of a result do not depend on which of them did
a round.  The bins, not the keys, are what is divided among programs: a bin takes what it loses from the
round's list of keys, in its order, so that nothing is written twice and no sum needs an atomic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from spectralops.ops.sparse_wht_groups import OFFSETS, offset_points
from spectralops.ops.sparse_wht_reference import Decoded

from . import configs
from .common import cdiv, double_bits, launch, next_power_of_2, runnable
from .hadamard import hadamard
from .sparse_wht_bins import energies, parity
from .sparse_wht_resolve import DONE, FOUND, FRESH, ROUND, begin, settle
from .sparse_wht_visit import refusal, visit

STATE = 8  # integers of a problem's state


@triton.jit
def single_precision(bits):
    """A double's bits."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(tl.float32)


@triton.jit
def levels_from(tau_try, tau, tau_one, theta, refuse, inverse):
    return (single_precision(tau_try), single_precision(tau), single_precision(tau_one), single_precision(theta),
            single_precision(refuse), single_precision(inverse))  # fmt: skip


@triton.jit
def buffers(i_r, p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, cells, capacity, sizes):
    """Of problem i_r: what visits take, what a settlement takes, and the lists and the state.

    Three floats a cell: rho, and the values of the lists of cells and of keys.  Integers: found in round, to
    be visited in round, the list of bins, the list of cells, the list of places, for each group the bins of
    the keys; then lengths and state.
    """
    samples, words, bits, n, repeats, rows, groups = sizes
    r = i_r.to(tl.int64)
    p_u += r * cells * samples
    p_key += r * cells * words
    p_rho = p_floats + r * cells * 3
    p_hit = p_ints + r * (cells * (5 + groups) + groups + 8)
    p_keys += r * capacity * words
    p_found += r * capacity
    p_energy += r * cells
    p_means, p_values = p_rho + cells, p_rho + 2 * cells
    p_visit, p_list, p_cells, p_places, p_of_keys = (
        p_hit + cells, p_hit + 2 * cells, p_hit + 3 * cells, p_hit + 4 * cells, p_hit + 5 * cells
    )  # fmt: skip
    p_fill = p_of_keys + groups * cells
    visited = (p_u, p_key, p_rho, p_hit, p_energy, p_places, p_values, p_of_keys, p_keys)
    settled = (p_key, p_rho, p_hit, p_energy, p_cells, p_means, p_places, p_values, p_of_keys, p_keys, p_found)
    return visited, settled, (p_visit, p_list, p_fill, p_fill + groups, p_noise + 2 * r)


@triton.jit
def note(i_c, j, bins, p_u, p_energy, samples, inverse, TP: tl.constexpr):
    """The energies of bins j, before there is a v to test them by."""
    cell = i_c * bins + j
    tl.store(p_energy + cell, energies(p_u + cell * samples, j < bins, samples, inverse, TP), mask=j < bins)


LEVELS = ["tau_try", "tau", "tau_one", "theta", "refuse", "inverse", "noise"]
VARIES = ["bits", "n", "groups", "capacity", "rounds", "chase", *LEVELS]


@triton.jit(do_not_specialize=VARIES)
def loop_kernel(
    p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, p_points, p_rows, p_columns, p_field,
    bits, n, groups, words, repeats, rows, capacity, rounds, degree, log2, chase,
    tau_try, tau, tau_one, theta, refuse, inverse, noise,
    START: tl.constexpr, SCHEME: tl.constexpr, HARD: tl.constexpr, CHASE: tl.constexpr, RP: tl.constexpr, DP: tl.constexpr,
    WP: tl.constexpr, T: tl.constexpr, TP: tl.constexpr, TI: tl.constexpr, TB: tl.constexpr, TL: tl.constexpr, TK: tl.constexpr,
):  # fmt: skip
    """All rounds that are left of a problem; START: from the energies on."""
    bins, samples = 1 << bits, repeats * rows
    sizes = (samples, words, bits, n, repeats, rows, groups)
    levels = levels_from(tau_try, tau, tau_one, theta, refuse, inverse)
    tau, noise = single_precision(tau), single_precision(noise)
    tables, code = (p_points, p_rows, p_columns, p_field), (degree, log2, (1 << log2) - 1, chase)
    visited, settled, lists = buffers(
        tl.program_id(0), p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, groups * bins, capacity, sizes
    )
    p_visit, p_list, p_fill, p_state, p_v = lists
    o_t = tl.arange(0, T)
    if START:
        for i_c in tl.range(0, groups):
            for j0 in tl.range(0, bins, T):
                note(i_c, j0 + o_t, bins, visited[0], visited[4], samples, single_precision(inverse), TP)
        tl.debug_barrier()  # energies
        begin(bins, p_state, p_v, visited[4], p_visit, p_list, p_fill, groups, tau, noise, TB)
        tl.debug_barrier()  # lists and state
    going = bits >= 0
    while going:
        testing, fresh, round = tl.load(p_state + DONE) == 0, tl.load(p_state + FRESH), tl.load(p_state + ROUND)
        v = tl.load(p_v)
        if testing | (fresh > 0):
            for i_c in tl.range(0, groups):
                fill = tl.load(p_fill + i_c)
                for j0 in tl.range(0, fill, T):
                    m = j0 + o_t < fill
                    j = tl.load(p_list + i_c * bins + j0 + o_t, mask=m, other=0)
                    visit(i_c, j, m, v, fresh, round, testing, bins, tables, visited, code, sizes, levels,
                          SCHEME, HARD, CHASE, RP, DP, WP, TP, TI)  # fmt: skip
        tl.debug_barrier()  # what was found
        if testing:
            for i_c in tl.range(0, groups):
                fill = tl.load(p_fill + i_c)
                for j0 in tl.range(0, fill, T):
                    m = j0 + o_t < fill
                    j = tl.load(p_list + i_c * bins + j0 + o_t, mask=m, other=0)
                    refusal(i_c, j, m, v, round, bins, p_points, p_rows, visited, sizes, levels, WP, TP)
            tl.debug_barrier()  # what was refused
            settle(bins, capacity, rounds, p_rows, p_state, p_v, p_list, p_fill, p_visit, settled, sizes, tau, noise, TB, TL, TK)
            tl.debug_barrier()  # what is next
        going = testing


@triton.jit(do_not_specialize=VARIES)
def visit_kernel(
    p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, p_points, p_rows, p_columns, p_field,
    bits, n, groups, words, repeats, rows, capacity, degree, log2, chase,
    tau_try, tau, tau_one, theta, refuse, inverse,
    START: tl.constexpr, SCHEME: tl.constexpr, HARD: tl.constexpr, CHASE: tl.constexpr, RP: tl.constexpr, DP: tl.constexpr,
    WP: tl.constexpr, T: tl.constexpr, TP: tl.constexpr, TI: tl.constexpr,
):  # fmt: skip
    """T bins of a group; START: only their energies."""
    bins, samples = 1 << bits, repeats * rows
    sizes = (samples, words, bits, n, repeats, rows, groups)
    levels = levels_from(tau_try, tau, tau_one, theta, refuse, inverse)
    tables, code = (p_points, p_rows, p_columns, p_field), (degree, log2, (1 << log2) - 1, chase)
    tiles = tl.cdiv(bins, T)
    i_c, i_r = tl.program_id(0) // tiles % groups, tl.program_id(0) // (tiles * groups)
    visited, settled, lists = buffers(
        i_r, p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, groups * bins, capacity, sizes
    )
    p_visit, p_list, p_fill, p_state, p_v = lists
    o = tl.program_id(0) % tiles * T + tl.arange(0, T)
    if START:
        note(i_c, o, bins, visited[0], visited[4], samples, single_precision(inverse), TP)
    else:
        fill = tl.load(p_fill + i_c)
        if (tl.load(p_state + DONE) == 0) & (tl.program_id(0) % tiles * T < fill):
            m = o < fill
            j = tl.load(p_list + i_c * bins + o, mask=m, other=0)
            visit(i_c, j, m, tl.load(p_v), tl.load(p_state + FRESH), tl.load(p_state + ROUND), m.shape[0] > 0, bins, tables,
                  visited, code, sizes, levels, SCHEME, HARD, CHASE, RP, DP, WP, TP, TI)  # fmt: skip


@triton.jit(do_not_specialize=VARIES)
def refuse_kernel(
    p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, p_points, p_rows,
    bits, n, groups, words, repeats, rows, capacity, tau_try, tau, tau_one, theta, refuse, inverse,
    WP: tl.constexpr, T: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """T bins of a group, after the visits to all."""
    bins, samples = 1 << bits, repeats * rows
    sizes = (samples, words, bits, n, repeats, rows, groups)
    levels = levels_from(tau_try, tau, tau_one, theta, refuse, inverse)
    tiles = tl.cdiv(bins, T)
    i_c, i_r = tl.program_id(0) // tiles % groups, tl.program_id(0) // (tiles * groups)
    visited, settled, lists = buffers(
        i_r, p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, groups * bins, capacity, sizes
    )
    p_visit, p_list, p_fill, p_state, p_v = lists
    o = tl.program_id(0) % tiles * T + tl.arange(0, T)
    fill = tl.load(p_fill + i_c)
    if (tl.load(p_state + DONE) == 0) & (tl.program_id(0) % tiles * T < fill):
        j = tl.load(p_list + i_c * bins + o, mask=o < fill, other=0)
        refusal(i_c, j, o < fill, tl.load(p_v), tl.load(p_state + ROUND), bins, p_points, p_rows, visited, sizes, levels, WP, TP)


@triton.jit(do_not_specialize=VARIES)
def settle_kernel(
    p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, p_rows,
    bits, n, groups, words, repeats, rows, capacity, rounds, tau, noise,
    START: tl.constexpr, TB: tl.constexpr, TL: tl.constexpr, TK: tl.constexpr,
):  # fmt: skip
    """Between two visits of all bins; START: before the first."""
    bins, samples = 1 << bits, repeats * rows
    sizes = (samples, words, bits, n, repeats, rows, groups)
    tau, noise = single_precision(tau), single_precision(noise)
    visited, settled, lists = buffers(
        tl.program_id(0), p_u, p_key, p_floats, p_ints, p_keys, p_found, p_energy, p_noise, groups * bins, capacity, sizes
    )
    p_visit, p_list, p_fill, p_state, p_v = lists
    if START:
        begin(bins, p_state, p_v, visited[4], p_visit, p_list, p_fill, groups, tau, noise, TB)
    elif tl.load(p_state + DONE) == 0:
        settle(bins, capacity, rounds, p_rows, p_state, p_v, p_list, p_fill, p_visit, settled, sizes, tau, noise, TB, TL, TK)


@triton.jit(do_not_specialize=["count", "terms"])
def walsh_kernel(p_points, p_keys, p_values, p_y, count, terms, words, BM: tl.constexpr, BK: tl.constexpr):
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    y = tl.zeros([BM], tl.float32)
    for k0 in tl.range(0, terms, BK):
        o_k = k0 + tl.arange(0, BK)
        x = tl.zeros([BM, BK], tl.int64)
        for i_w in tl.range(0, words):
            point = tl.load(p_points + o_m * words + i_w, mask=o_m < count, other=0)
            key = tl.load(p_keys + o_k.to(tl.int64) * words + i_w, mask=o_k < terms, other=0)
            x ^= point[:, None] & key[None, :]
        value = tl.load(p_values + o_k, mask=o_k < terms, other=0.0)[None, :]
        y += tl.sum(tl.where(parity(x) != 0, -value, value), 1)
    tl.store(p_y + o_m, y, mask=o_m < count)


# ---- host ----------------------------------------------------------------------------------------


def tile_of(call) -> configs.Bins:
    """The row of the launch table."""
    samples = call.repeats * (call.checks + 1)
    if call.scheme == 2:
        return configs.SPARSE_WHT_BCH
    return next((r for r in configs.SPARSE_WHT if samples <= r.samples), configs.SPARSE_WHT[-1])


def sparse_wht_decode(values, index, tables, call) -> Decoded:
    """(R, Q) float32 samples -> everything of R functions."""
    count, (groups, n, words) = values.shape[0], tables.to_bin_rows.shape
    bins, rows = 1 << call.b, call.checks + 1
    cells, samples = groups * bins, call.repeats * rows
    new = values.new_zeros
    out = Decoded(
        new((count, call.capacity, words), dtype=torch.int64), new((count, call.capacity)),
        new((count,), dtype=torch.int32), new((count, groups, bins)), new((count, 2)),
    )  # fmt: skip
    if count == 0:
        return out
    picked = values if index is None else values.index_select(1, index.reshape(-1))
    u = hadamard(picked.view(count * groups, bins, samples), None, None, None, 1 / bins, 0, 0)
    ints = new((count, cells * (5 + groups) + groups + STATE), dtype=torch.int32)
    row = tile_of(call)
    bch = call.scheme == 2
    common = {
        "p_u": u, "p_key": values.new_empty((count, cells, words), dtype=torch.int64),
        "p_floats": values.new_empty((count, 3, cells)),
        "p_ints": ints, "p_keys": out.keys, "p_found": out.values, "p_energy": out.energy, "p_noise": out.noise,
        "p_rows": tables.to_bin_rows.contiguous(), "bits": call.b, "n": n, "groups": groups, "words": words,
        "repeats": call.repeats, "rows": rows, "capacity": call.capacity, "tau": double_bits(call.tau),
    }  # fmt: skip
    testing = {
        "p_points": offset_points(tables, n, call.b, OFFSETS[call.scheme]).contiguous(),
        "tau_try": double_bits(call.tau_try), "tau_one": double_bits(call.tau_one), "theta": double_bits(call.theta),
        "refuse": double_bits(call.refuse), "inverse": double_bits(1 / samples), "WP": next_power_of_2(words), "T": row.bins,
        "TP": row.samples,
    }  # fmt: skip
    visiting = {
        "p_columns": tables.to_key_columns.contiguous(), "p_field": tables.field.contiguous() if bch else None,
        "degree": call.degree, "log2": call.checks // call.degree if bch else 0, "chase": min(call.chase, rows),
        "SCHEME": call.scheme, "HARD": call.hard, "CHASE": bch and call.chase > 0, "RP": next_power_of_2(call.repeats),
        "DP": next_power_of_2(call.degree + 1), "TI": min(row.samples, 64),
    }  # fmt: skip
    settling = {"rounds": call.rounds, "noise": double_bits(call.noise), "TB": row.cells, "TL": row.list, "TK": row.known}

    def run(kernel, programs, *more):
        arguments = {k: v for each in (common, *more) for k, v in each.items()}
        launch(values, kernel, (programs,), warps=row.warps, stages=1, registers=255, **arguments)

    wide = cells * samples > configs.SPARSE_WHT_WHOLE
    if wide:
        tiles = count * groups * cdiv(bins, row.bins)
        for i in range(min(configs.SPARSE_WHT_ROUNDS, call.rounds) + 1):
            run(visit_kernel, tiles, testing, visiting, {"START": i == 0})
            if i > 0:
                run(refuse_kernel, tiles, testing)
            run(settle_kernel, count, settling, {"START": i == 0})
    run(loop_kernel, count, testing, visiting, settling, {"START": not wide})
    out.counts.copy_(ints[:, cells * (5 + groups) + groups + FOUND.value])
    return out


def supports_sparse_wht_decode(values, index, tables, call) -> tuple[bool, str]:
    if values.dtype != torch.float32:
        return False, f"triton's sparse_wht_decode takes float32, got {values.dtype}"
    groups, _, words = tables.to_bin_rows.shape
    samples = call.repeats * (call.checks + 1)
    if call.repeats > configs.SPARSE_WHT_REPEATS:
        return False, f"triton's sparse_wht_decode takes up to {configs.SPARSE_WHT_REPEATS} repeats, got {call.repeats}"
    if call.degree > 16 or call.chase > 16:
        return False, f"triton's sparse_wht_decode takes a degree and a chase of up to 16, got {call.degree} and {call.chase}"
    largest = (groups << call.b) * max(samples, words, groups)
    if largest >= 1 << 31:
        return False, f"triton's sparse_wht_decode counts the samples of a function in 32 bits, got {largest}"
    return runnable(values)


def walsh_sum(points, keys, values):
    """(M, W), (K, W), (K,) float32 -> (M,): sum_k values[k] (-1)^<m, k>."""
    y = values.new_empty(points.shape[0])
    if y.numel():
        row = configs.WALSH_SUM
        launch(values, walsh_kernel, (cdiv(y.numel(), row.rows),), warps=row.warps, p_points=points.contiguous(),
               p_keys=keys.contiguous(), p_values=values.contiguous(), p_y=y, count=y.numel(), terms=values.numel(),
               words=points.shape[1], BM=row.rows, BK=row.columns)  # fmt: skip
    return y


def supports_walsh_sum(points, keys, values) -> tuple[bool, str]:
    if values.dtype != torch.float32:
        return False, f"triton's walsh_sum takes float32, got {values.dtype}"
    return runnable(values)
