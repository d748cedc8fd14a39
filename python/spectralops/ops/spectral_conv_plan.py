"""Which frequencies a call of `spectral_conv` uses, which rows of the weight belong to them, and where the result has them."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import torch

from .modes_reference import Modes

Windows = list[tuple[int, int]]  # per dimension the frequencies lo .. hi - 1
Sizes = tuple[int, ...]


class Box(NamedTuple):
    """Modes that stay together in the result."""

    starts: Sizes  # of the modes that are kept
    counts: Sizes  # (): none
    modes: Modes  # of the result's grid


class Plan(NamedTuple):
    counts: Sizes  # kept modes, per dimension
    runs: list[list[tuple[int, int]]]  # rows of the weight, per dimension
    grid: Modes  # of the input's grid
    boxes: list[Box]


def plan(rows: Sizes, modes: Sizes, layout: str, compat: bool, sizes: Sizes, out_sizes: Sizes) -> Plan:
    """Kept for sizes that are numbers; while a graph is traced they may not be."""
    if torch.compiler.is_compiling() or any(type(n) is not int for n in (*rows, *modes, *sizes, *out_sizes)):
        return _plan(rows, modes, layout, compat, sizes, out_sizes)
    return _kept_plan(tuple(rows), tuple(modes), layout, compat, sizes, out_sizes)


def _plan(rows, modes, layout, compat, sizes, out_sizes) -> Plan:
    if compat:
        runs = _upstream_cut(rows, modes, sizes)
        rows = [sum(b - a for a, b in r) for r in runs]
        found = [(-(m // 2), m - m // 2) for m in rows[:-1]] + [(0, rows[-1])]
    else:
        found = windows(rows, modes, layout, sizes, out_sizes)
        runs = weight_runs(rows, found, layout)
    counts = tuple(high - low for low, high in found)
    boxes = [Box((0,) * len(rows), counts, as_modes(found, out_sizes, layout))]
    even = tuple(sizes[:-1]) == tuple(out_sizes[:-1]) and all(n % 2 == 0 for n in sizes[:-1])
    if compat and not (even and counts[-1] <= out_sizes[-1] // 2 + 1):  # else they are where they should be
        boxes = _misplaced_boxes(found, sizes, out_sizes)
    return Plan(counts, runs, as_modes(found, sizes, layout), boxes)


_kept_plan = lru_cache(maxsize=256)(_plan)


def windows(rows: tuple[int, ...], modes: tuple[int, ...], layout: str, sizes, out_sizes) -> Windows:
    """The frequencies used: those that the weight has, `modes` asks for, and both grids carry."""
    found = []
    for d, (have, want) in enumerate(zip(rows, modes)):
        if d == len(rows) - 1:  # half a spectrum
            want = want // 2 + 1 if layout == "neuralop" else want
            found.append((0, min(have, want, sizes[d] // 2 + 1, out_sizes[d] // 2 + 1)))
            continue
        m = min(have, want) if layout == "neuralop" else min(have, 2 * want)
        low, high = -(m // 2), m - m // 2
        found.append((max(low, -(sizes[d] // 2), -(out_sizes[d] // 2)), min(high, (sizes[d] + 1) // 2, (out_sizes[d] + 1) // 2)))
    return found


def weight_runs(rows: tuple[int, ...], found: Windows, layout: str) -> list[list[tuple[int, int]]]:
    """The rows of the weight that belong to the frequencies, as runs."""
    runs = []
    for d, (have, (low, high)) in enumerate(zip(rows, found)):
        if d == len(rows) - 1:
            runs.append([(low, high)])
        elif layout == "neuralop":
            runs.append([(low + have // 2, high + have // 2)])
        else:  # frequencies 0 .. high - 1, then low .. -1
            pieces = [(0, high), (have + low, have)]
            runs.append([(0, have)] if high - low == have else [r for r in pieces if r[0] < r[1]])
    return runs


def as_modes(found: Windows, sizes, layout: str) -> Modes:
    """Padded to three dimensions; in the corner layout the rows of a box begin at frequency 0."""
    last = len(found) - 1
    starts = [low for low, _ in found]
    counts = [high - low for low, high in found]
    shifts = [0 if d == last or layout == "neuralop" else -low % max(count, 1)
              for d, ((low, _), count) in enumerate(zip(found, counts))]  # fmt: skip
    pad = 3 - len(found)
    return Modes((1,) * pad + tuple(sizes), (0,) * pad + tuple(starts), (0,) * pad + tuple(shifts), (1,) * pad + tuple(counts))


def misplaced(found: Windows, sizes, out_sizes) -> list[list[tuple[int, int, int]]]:
    """Where neuraloperator 2.0.0 puts the frequencies: per dimension runs (from, to, frequency there of `from`).

    It shifts back by fftshift, so that rows of an odd grid come out one lower, on the grid of the input, and lets irfftn pad
    or crop that at its end: a negative frequency becomes the positive one of its row. Rows that are cropped are lost.
    """
    runs = []
    for d, ((low, high), size, out) in enumerate(zip(found, sizes, out_sizes)):
        if d == len(found) - 1:
            runs.append([(low, high, low)])
            continue
        lower = size % 2
        pieces = [(max(low, lower), high, max(low, lower) - lower), (low, min(high, lower), low - lower + size)]
        runs.append([(a, min(b, a + out - g), g) for a, b, g in pieces if a < b and g < out])
    return runs


def _upstream_cut(rows: Sizes, modes: Sizes, sizes: Sizes) -> list[list[tuple[int, int]]]:
    """The rows of a weight that neuraloperator 2.0.0 takes for fewer modes."""
    cut = []
    for d, (have, want, size) in enumerate(zip(rows, modes, sizes)):
        last = d == len(rows) - 1
        less = have - min(size // 2 + 1 if last else size, want // 2 + 1 if last else want, have)
        cut.append([(0, have - less) if last else (less // 2, have - (less + 1) // 2)])
    return cut


def _misplaced_boxes(found: Windows, sizes: Sizes, out_sizes: Sizes) -> list[Box]:
    pad, boxes = (1,) * (3 - len(found)), []
    for runs in itertools.product(*misplaced(found, sizes, out_sizes)):
        starts = tuple(a - low for (a, _, _), (low, _) in zip(runs, found))
        ends = [b for _, b, _ in runs]
        ends[-1] = min(ends[-1], out_sizes[-1] // 2 + 1)  # irfftn takes no more columns than the result has
        counts = tuple(b - a for (a, _, _), b in zip(runs, ends))
        modes = Modes(pad + tuple(out_sizes), (0,) * len(pad) + tuple(g for _, _, g in runs), (0, 0, 0), pad + counts)
        boxes.append(Box(starts, counts, modes))
    nothing = Modes(pad + tuple(out_sizes), (0, 0, 0), (0, 0, 0), (1, 1, 1))
    return boxes or [Box((), (), nothing)]  # every row was cropped
