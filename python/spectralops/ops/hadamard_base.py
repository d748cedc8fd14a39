"""Hadamard matrices of orders that are not powers of two: H has entries +-1 and H @ H.T = m I.

Three constructions cover every multiple of four up to 256 but 188 and 236 (whose odd parts, 47 and 59, need
longer methods):

    Paley I      m = q + 1,      q = 3 mod 4 a prime power:  H = I + S
    Paley II     m = 2 (q + 1),  q = 1 mod 4 a prime power:  H = C (x) [[1, 1], [1, -1]] + I (x) [[1, -1], [-1, -1]]
    Williamson   m = 4 t,        four symmetric circulants of order t with A^2 + B^2 + C^2 + D^2 = 4 t I

S and C are the Jacobsthal matrix of quadratic residues in GF(q), bordered by a row and a column of ones
(skew for Paley I, symmetric for Paley II). Sources: R. E. A. C. Paley, J. Math. Phys. 12 (1933) 311-320; J.
Williamson, Duke Math. J. 11 (1944) 65-81; L. D. Baumert, S. W. Golomb, M. Hall, Bull. AMS 68 (1962) 237-238
(order 92); L. D. Baumert, M. Hall, Math. Comp. 19 (1965) 442-447.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import torch

MAX_BASE = 256  # the largest order a kernel takes as a packed table

# The m / 4 for which `base_matrix` has a construction: every odd number to 63 but 47 and 59. A literal, so
# that torch.compile can check a size without tracing the constructions.
ODD_PARTS = tuple(t for t in range(3, MAX_BASE // 4, 2) if t not in (47, 59))

# First rows of the circulants A, B, C, D, by t.
WILLIAMSON = {
    23: ("+++-+++-+------+-+++-++", "+++---++-+-++-+-++---++", "+-++-++--++++++--++-++-", "++---+---+-++-+---+---+"),
    29: (
        "++--+--+-+++-++++-+++-+--+--+",
        "++++-++-+---++++++---+-++-+++",
        "+-+---++--+-++++++-+--++---+-",
        "+++---++--+-+----+-+--++---++",
    ),
    39: (
        "+++--+-+-----+--++----++--+-----+-+--++",
        "++++---+--++----+-+--+-+----++--+---+++",
        "+++--++-+---+-+--+----+--+-+---+-++--++",
        "+---++-+-+-----+++-++-+++-----+-+-++---",
    ),
    43: (
        "+---++--++++-+-+++-++--++-+++-+-++++--++---",
        "++-++++++----+-+--++-++-++--+-+----++++++-+",
        "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
        "++---++++-+--+--++--------++--+--+-++++---+",
    ),
}


def _prime_power(q: int) -> tuple[int, int] | None:
    """(p, k) with q = p^k, p prime and k <= 3; None if there is none."""
    for p in range(2, q + 1):
        if q % p == 0:  # p is the least divisor, hence prime
            k = next((k for k in (1, 2, 3) if p**k == q), None)
            return (p, k) if k else None
    return None


def _field(p: int, k: int):
    """GF(p^k) as (elements, subtract, square) on coefficient tuples, constant term first."""
    elements = [c[::-1] for c in product(range(p), repeat=k)]

    def multiply(a, b, modulus):
        out = [0] * (2 * k - 1)
        for i, u in enumerate(a):
            for j, v in enumerate(b):
                out[i + j] += u * v
        for top in range(2 * k - 2, k - 1, -1):  # x^k = -(modulus), modulus monic without its leading term
            for j, v in enumerate(modulus):
                out[top - k + j] -= out[top] * v
        return tuple(v % p for v in out[:k])

    def has_root(modulus):
        return any((x**k + sum(c * x**j for j, c in enumerate(modulus))) % p == 0 for x in range(p))

    # For k = 2 and 3 a polynomial is irreducible exactly when it has no root; for k = 1 the modulus is x.
    modulus = (0,) if k == 1 else next(m for m in elements if not has_root(m))
    subtract = lambda a, b: tuple((u - v) % p for u, v in zip(a, b))  # noqa: E731
    return elements, subtract, lambda a: multiply(a, a, modulus)


def _jacobsthal(q: int) -> np.ndarray:
    """J[i, j] = chi(e_i - e_j), chi the quadratic character of GF(q)."""
    elements, subtract, square = _field(*_prime_power(q))
    zero = elements[0]
    squares = {square(e) for e in elements if e != zero}
    chi = {e: 0 if e == zero else 1 if e in squares else -1 for e in elements}
    return np.array([[chi[subtract(a, b)] for b in elements] for a in elements], dtype=np.int8)


def _paley_1(q: int) -> np.ndarray:
    s = np.zeros((q + 1, q + 1), dtype=np.int8)
    s[0, 1:], s[1:, 0], s[1:, 1:] = 1, -1, _jacobsthal(q)
    return s + np.eye(q + 1, dtype=np.int8)


def _paley_2(q: int) -> np.ndarray:
    c = np.zeros((q + 1, q + 1), dtype=np.int8)
    c[0, 1:], c[1:, 0], c[1:, 1:] = 1, 1, _jacobsthal(q)
    unit = np.eye(q + 1, dtype=np.int8)
    return np.kron(c, np.array([[1, 1], [1, -1]], np.int8)) + np.kron(unit, np.array([[1, -1], [-1, -1]], np.int8))


def _williamson(t: int) -> np.ndarray:
    rows = [np.array([1 if s == "+" else -1 for s in row], dtype=np.int8) for row in WILLIAMSON[t]]
    a, b, c, d = (np.stack([np.roll(row, i) for i in range(t)]) for row in rows)
    return np.block([[a, b, c, d], [-b, a, -d, c], [-c, d, a, -b], [-d, -c, b, a]]).astype(np.int8)


@lru_cache(maxsize=None)
def base_matrix(m: int) -> np.ndarray | None:
    """A Hadamard matrix of order m = 4 * odd (int8, entries +-1), or None where no construction here gives one."""
    if m % 4 or m // 4 % 2 == 0 or m > MAX_BASE:
        return None
    if _prime_power(m - 1) and (m - 1) % 4 == 3:
        return _paley_1(m - 1)
    if m // 4 in WILLIAMSON:
        return _williamson(m // 4)
    q = m // 2 - 1
    if q % 4 == 1 and _prime_power(q):
        return _paley_2(q)
    return None


class HadamardBase:
    """H_m as the packed sign table that kernels read: bit j of row i is set where the entry is -1."""

    def __init__(self, matrix: np.ndarray):
        self.size = matrix.shape[0]
        self.matrix = matrix  # (m, m) int8
        self._packed: dict[torch.device, torch.Tensor] = {}

    def packed(self, device: torch.device) -> torch.Tensor:
        """(m, ceil(m / 64)) int64 on the device, made once."""
        table = self._packed.get(device)
        if table is None:
            words = -(-self.size // 64)
            bits = np.zeros((self.size, words * 64), dtype=np.uint8)
            bits[:, : self.size] = self.matrix < 0
            packed = np.packbits(bits, axis=1, bitorder="little").view(np.int64)  # (m, words)
            table = self._packed[device] = torch.from_numpy(packed.copy()).to(device)
        return table

    def dense(self, like: torch.Tensor) -> torch.Tensor:
        """(m, m) in the dtype and on the device of `like`."""
        return torch.from_numpy(self.matrix).to(device=like.device, dtype=like.dtype)


def check_size(n: int) -> None:
    """Raise ValueError unless n = m 2^k with a Hadamard matrix of order m here."""
    if n < 1:
        raise ValueError(f"size must be at least 1, got {n}")
    odd = n // (n & -n)
    if odd != 1 and (n % 4 or odd not in ODD_PARTS):
        raise ValueError(
            f"size {n} has no Hadamard matrix here: n must be m * 2^k with m = 1 or m in {[4 * t for t in ODD_PARTS]}; "
            "pad or split the dimension yourself (`block=`), nothing is padded silently"
        )


@lru_cache(maxsize=None)
def hadamard_base(n: int, transpose: bool = False) -> HadamardBase | None:
    """The base of the factorisation n = m 2^k with m / 4 odd, None where m = 1. Raises ValueError where n has none."""
    check_size(n)
    if n & (n - 1) == 0:
        return None
    matrix = base_matrix(4 * (n // (n & -n)))
    return HadamardBase(np.ascontiguousarray(matrix.T) if transpose else matrix)
