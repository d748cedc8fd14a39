"""The subsampling of a sparse Walsh-Hadamard transform: which points a plan asks for.

Group c has an invertible matrix A_c over F_2, n x n.  Its first b columns span the subspace that is transformed: of a key k,
t = A_c^T k has in its first b bits the bin that k falls into.  A_c is P [[T, 0], [R, I]] with a random permutation P, T unit lower
triangular of up to 64 rows and T, R random, so that it is invertible without a search, and that two keys share a bin with
probability 2^-b at most.  Columns do not depend on b: a plan of b + 1 has the points of b among its own.

Offsets are d_(q, i) = base_q + row_i, q < repeats, row_0 = 0; what a bin holds at them are its samples.  Rows:

    exact   columns b .. n-1 of A_c: with the bin they give all of t, hence k = A_c^-T t; n - b rows
    nso     the n unit vectors: the signs are the bits of k, and the bin checks them
    bch     the checks of a BCH code (bch.py): the signs are the syndrome of k, of at most `degree` ones

base_0 = 0, the others are random.  All bits come from SHAKE-256 of (seed, purpose), so that a plan is the same everywhere.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from . import bch, bits

OFFSETS = ("exact", "nso", "bch")


class Tables(NamedTuple):
    """Bits of vectors of F_2^n in words (bits.py).  Each map is given by columns, to be added where a bit is set, and by rows, whose
    parities with the argument are the bits of the result.
    """

    to_bin_rows: Tensor  # (C, n, W): row p of A^T, that is column p of A: bit p of t is <row p, k>
    to_bin_columns: Tensor  # (C, n, W): for bit p of k the bits of t
    to_key_rows: Tensor  # (C, n, W): bit p of k is <row p, t>
    to_key_columns: Tensor  # (C, n, W): for bit p of t the bits of k
    base: Tensor  # (C, repeats, W)
    check_rows: Tensor  # bch: (checks, W), else (0, W)
    check_columns: Tensor  # bch: (n, ceil(checks / 64)): for bit p of k its syndrome; else (0, 1)
    field: Tensor  # bch: (2, 2^m) int32, powers and logarithms; else (2, 0)

    def to(self, device) -> "Tables":
        return Tables(*(t.to(device) for t in self))


def _random(seed: int, purpose: str, *shape: int) -> Tensor:
    """(*shape) random bits, uint8."""
    count = 1
    for size in shape:
        count *= size
    digest = hashlib.shake_256(f"spectralops.sparse_wht/{seed}/{purpose}".encode()).digest((count + 7) // 8 + 8)
    octets = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    return ((octets[:, None] >> torch.arange(8)) & 1).reshape(-1)[:count].reshape(shape)


def _permutation(seed: int, purpose: str, n: int) -> Tensor:
    keys = bits.pack_bits(_random(seed, purpose, n, bits.WORD))[:, 0]
    return torch.argsort(keys, stable=True)


def _triangular_inverse(t: Tensor) -> Tensor:
    """Of a unit lower triangular matrix over F_2: row i of the inverse is e_i plus the rows that row i of t selects below i."""
    rows = [sum(int(x) << j for j, x in enumerate(row)) for row in t.tolist()]
    inverse: list[int] = []
    for i, row in enumerate(rows):
        value = 1 << i
        for j in range(i):
            if row >> j & 1:
                value ^= inverse[j]
        inverse.append(value)
    h = len(rows)
    return torch.tensor([[value >> j & 1 for j in range(h)] for value in inverse], dtype=torch.uint8).reshape(h, h)


def _matrix(n: int, seed: int, group: int) -> tuple[Tensor, Tensor]:
    """A and A^-T, (n, n) uint8."""
    h = min(n, bits.WORD)
    top = torch.tril(_random(seed, f"{group}/T", h, h), -1) | torch.eye(h, dtype=torch.uint8)
    below = _random(seed, f"{group}/R", n - h, h)
    inverse = _triangular_inverse(top)
    below_inverse = (below.to(torch.float32) @ inverse.to(torch.float32)).remainder(2).to(torch.uint8)
    place = _permutation(seed, f"{group}/P", n)

    def whole(corner: Tensor, lower: Tensor) -> Tensor:
        a = torch.eye(n, dtype=torch.uint8)
        a[:h, :h], a[h:, :h] = corner, lower
        return a

    a, dual = torch.empty(n, n, dtype=torch.uint8), torch.empty(n, n, dtype=torch.uint8)
    a[place] = whole(top, below)
    dual[place] = whole(inverse, below_inverse).T  # A^-1 = [[T^-1, 0], [R T^-1, I]] P^T
    return a, dual


def tables(n: int, groups: int, offsets: str, repeats: int, degree: int | None, seed: int) -> Tables:
    matrices = [_matrix(n, seed, c) for c in range(groups)]
    a, dual = torch.stack([m[0] for m in matrices]), torch.stack([m[1] for m in matrices])  # (C, bit of k, bit of t)
    base = bits.pack_bits(_random(seed, "base", groups, repeats, n))
    base[:, 0] = 0
    checks = bch.check_rows(n, degree) if offsets == "bch" else torch.zeros(0, n, dtype=torch.uint8)
    return Tables(
        bits.pack_bits(a.transpose(1, 2)),
        bits.pack_bits(a),
        bits.pack_bits(dual),
        bits.pack_bits(dual.transpose(1, 2)),
        base,
        bits.pack_bits(checks),
        bits.pack_bits(checks.T) if offsets == "bch" else torch.zeros(0, 1, dtype=torch.int64),
        bch.tables(bch.field_bits(n)) if offsets == "bch" else torch.zeros(2, 0, dtype=torch.int32),
    )


def num_checks(n: int, b: int, offsets: str, degree: int | None) -> int:
    """Rows besides row 0."""
    return {"exact": n - b, "nso": n}.get(offsets) if offsets != "bch" else degree * bch.field_bits(n)


def offset_rows(t: Tables, n: int, b: int, offsets: str) -> Tensor:
    """(C, checks + 1, W): row 0 = 0, then the rows of the scheme."""
    groups, _, w = t.to_bin_rows.shape
    if offsets == "exact":
        rows = t.to_bin_rows[:, b:]
    elif offsets == "nso":
        rows = bits.pack_bits(torch.eye(n, dtype=torch.uint8, device=t.base.device)).expand(groups, n, w)
    else:
        rows = t.check_rows.expand(groups, -1, w)
    return torch.cat([rows.new_zeros(groups, 1, w), rows], 1)


def offset_points(t: Tables, n: int, b: int, offsets: str) -> Tensor:
    """(C, repeats (checks + 1), W): d_(q, i), i fastest."""
    rows = offset_rows(t, n, b, offsets)
    return (t.base[:, :, None, :] ^ rows[:, None]).flatten(1, 2)


# ---- which points are asked twice ------------------------------------------------------------------------------------


def _echelon(vectors: Tensor) -> list[tuple[int, Tensor]]:
    """(bit, vector) pairs of a reduced basis: the vector is the only one with that bit."""
    w = vectors.shape[-1]
    mask = (1 << bits.WORD) - 1
    basis: dict[int, int] = {}
    for row in vectors.tolist():
        value = sum((word & mask) << (bits.WORD * i) for i, word in enumerate(row))
        for p, v in basis.items():
            if value >> p & 1:
                value ^= v
        if value:
            top = value.bit_length() - 1
            basis = {p: v ^ value if v >> top & 1 else v for p, v in basis.items()} | {top: value}

    def signed(word: int) -> int:
        return word - (1 << bits.WORD) if word >> (bits.WORD - 1) else word

    return [
        (p, torch.tensor([signed(v >> (bits.WORD * i) & mask) for i in range(w)], device=vectors.device))
        for p, v in basis.items()
    ]


def _coset(points: Tensor, basis: list[tuple[int, Tensor]]) -> Tensor:
    """(..., W) -> (...): a number of the coset of each point; equal for points of one coset."""
    for p, vector in basis:
        points = points ^ (-bits.bit(points, p)[..., None] & vector)
    return bits.mixed(points)


def shared_cosets(columns: Tensor, offsets: Tensor) -> Tensor:
    """(C, b, W), (C, P, W) -> (C, P) bool: whether span(columns_c) + d_(c, p) may meet another of these sets."""
    groups, count, _ = offsets.shape
    shared = torch.zeros(groups, count, dtype=torch.bool, device=offsets.device)
    for c in range(groups):
        number = _coset(offsets[c], _echelon(columns[c]))
        _, place, times = number.unique(return_inverse=True, return_counts=True)
        shared[c] |= times[place] > 1
        for other in range(c):
            basis = _echelon(torch.cat([columns[c], columns[other]]))
            mine, its = _coset(offsets[c], basis), _coset(offsets[other], basis)
            shared[c] |= torch.isin(mine, its)
            shared[other] |= torch.isin(its, mine)
    return shared
