"""The subsampling of a sparse Walsh-Hadamard transform: which points a plan asks for.

Group c has an invertible matrix A_c over F_2, n x n.  Its first b columns span the subspace that is transformed: of
a key k, t = A_c^T k has in its first b bits the bin that k falls into.  A_c is P [[T, 0], [R, I]] with a random
permutation P, T unit lower triangular of up to 64 rows and T, R random, so that it is invertible without a search,
and that two keys share a bin with probability 2^-b at most.  Columns do not depend on b: a plan of b + 1 has the
points of b among its own.

Offsets are d_(q, i) = base_q + row_i, q < repeats, row_0 = 0; what a bin holds at them are its samples.  Rows:

    exact   columns b .. n-1 of A_c: with the bin they give all of t, hence k = A_c^-T t; n - b rows
    nso     the n unit vectors: the signs are the bits of k, and the bin checks them
    bch     the checks of a BCH code (bch.py): the signs are the syndrome of k, of at most `degree` ones

base_0 = 0, the others are random.  All bits come from SHAKE-256 of (seed, purpose), so that a plan is the same
everywhere.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import bch, bits

OFFSETS = ("exact", "nso", "bch")


class Tables(NamedTuple):
    """Bits of vectors of F_2^n in words (bits.py).  Each map is given by columns, to be added where a bit is set,
    and by rows, whose parities with the argument are the bits of the result.
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


def random_words(seed: int, purpose: str, count: int) -> Tensor:
    """(count,) int64."""
    digest = hashlib.shake_256(f"spectralops.sparse_wht/{seed}/{purpose}".encode()).digest(8 * count)
    return torch.frombuffer(bytearray(digest), dtype=torch.int64) if count else torch.zeros(0, dtype=torch.int64)


def _random(seed: int, purpose: str, *shape: int) -> Tensor:
    """(*shape) random bits, uint8."""
    count = math.prod(shape)
    return bits.unpack_bits(random_words(seed, purpose, bits.words(count)), count).reshape(shape)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices over F_2, float32: exact, as sums stay below 2^24."""
    return (a @ b).remainder_(2)


def _triangular_inverse(t: Tensor) -> Tensor:
    """Of unit lower triangular matrices over F_2: (I + N)^-1 = sum_i N^i = (I + N) (I + N^2) (I + N^4) .. as N^64 = 0."""
    unit = torch.eye(t.shape[-1])
    power = t - unit
    inverse = t.clone()
    for _ in range((t.shape[-1] - 1).bit_length() - 1):
        power = _product(power, power)
        inverse = _product(inverse, unit + power)
    return inverse


def _matrices(n: int, seed: int, groups: int) -> tuple[Tensor, Tensor]:
    """A and A^-T of each group, (C, n, n) uint8."""
    h = min(n, bits.WORD)
    a = torch.eye(n, dtype=torch.uint8).repeat(groups, 1, 1)
    for c in range(groups):
        a[c, :h, :h] |= _random(seed, f"{c}/T", h, h).tril(-1)
        a[c, h:, :h] = _random(seed, f"{c}/R", n - h, h)
    dual = a.transpose(1, 2).clone()  # [[T, 0], [R, I]]^-T = [[T^-1, 0], [R T^-1, I]]^T
    inverse = _triangular_inverse(a[:, :h, :h].float())
    dual[:, :h, :h] = inverse.transpose(1, 2)
    dual[:, :h, h:] = _product(a[:, h:, :h].float(), inverse).transpose(1, 2)
    for c in range(groups):  # rows in the order of a random permutation: row i to place[i]
        back = random_words(seed, f"{c}/P", n).argsort(stable=True).argsort()
        a[c], dual[c] = a[c, back], dual[c, back]
    return a, dual


def tables(n: int, groups: int, offsets: str, repeats: int, degree: int | None, seed: int) -> Tables:
    a, dual = _matrices(n, seed, groups)  # (C, bit of k, bit of t)
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


def names(points: Tensor) -> Tensor:
    """(..., W) -> (...) int64, linear over F_2: a point of one word itself, of more of them a digest, the same for
    distinct points with probability 2^-64.
    """
    if points.shape[-1] == 1:
        return points[..., 0]
    return bits.digest(points, random_words(0, "names", bits.WORD * points.shape[-1]).to(points.device))
