"""Binary BCH codes, read backwards: a set of at most t of n positions from its syndrome.

Position p has the locator alpha^p in GF(2^m), 2^m > n.  The check rows give the m bits of each odd power sum
    S_j = sum_{p in set} alpha^(j p),  j = 1, 3, .., 2 t - 1,
so t m rows in place of n.  Even sums are squares, S_2j = S_j^2.  Berlekamp-Massey finds the shortest recurrence of
S_1 .. S_2t, whose polynomial L(z) = prod_{p in set} (1 + alpha^p z) has as many roots alpha^-p as its degree if the
set has at most t members.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Primitive polynomials of degree m over F_2, as integers: x^m + .. + 1.
PRIMITIVE = {
    2: 0x7, 3: 0xB, 4: 0x13, 5: 0x25, 6: 0x43, 7: 0x89, 8: 0x11D, 9: 0x211, 10: 0x409, 11: 0x805, 12: 0x1053, 13: 0x201B,
    14: 0x4443, 15: 0x8003, 16: 0x1100B,
}  # fmt: skip
MAX_POSITIONS = (1 << 16) - 1
MAX_DEGREE = 16


def field_bits(n: int) -> int:
    """m of the smallest field with n locators."""
    return max(2, n.bit_length())


@functools.lru_cache(maxsize=None)
def _powers(m: int) -> tuple[list[int], list[int]]:
    size, x = (1 << m) - 1, 1
    exponential, logarithm = [0] * (2 * size), [0] * (size + 1)
    for i in range(size):
        exponential[i] = exponential[i + size] = x
        logarithm[x] = i
        x <<= 1
        if x >> m:
            x ^= PRIMITIVE[m]
    return exponential, logarithm


def tables(m: int) -> Tensor:
    """(2, 2^m) int32: alpha^i in the first row, i of alpha^i in the second (its entry 0 is not used)."""
    exponential, logarithm = _powers(m)
    size = 1 << m
    return torch.tensor([exponential[:size], logarithm], dtype=torch.int32)


def check_rows(n: int, degree: int) -> Tensor:
    """(degree m, n) uint8: bit u of alpha^(j p) for j = 1, 3, ..; row (j - 1)/2 m + u, column p."""
    m = field_bits(n)
    size = (1 << m) - 1
    exponential = torch.tensor(_powers(m)[0][:size])
    j = 2 * torch.arange(degree)[:, None] + 1
    sums = exponential[(j * torch.arange(n)) % size]  # (degree, n)
    return ((sums[:, None, :] >> torch.arange(m)[:, None]) & 1).reshape(degree * m, n).to(torch.uint8)


def locate(syndrome: list[int], n: int) -> list[int] | None:
    """The positions below n, at most len(syndrome), with these odd power sums; None where there are none."""
    m, degree = field_bits(n), len(syndrome)
    exponential, logarithm = _powers(m)
    order = (1 << m) - 1

    def times(a: int, b: int) -> int:
        return exponential[logarithm[a] + logarithm[b]] if a and b else 0

    sums = [0] * (2 * degree + 1)
    for j in range(1, 2 * degree + 1):
        sums[j] = syndrome[j // 2] if j % 2 else times(sums[j // 2], sums[j // 2])
    # Berlekamp-Massey; for a binary code every second discrepancy is zero, so that it goes by steps of two.
    locator, previous, length, shift, last = [1] + [0] * degree, [1] + [0] * degree, 0, 1, 1
    for step in range(1, 2 * degree, 2):
        gap = 0
        for i in range(min(length, step - 1) + 1):
            gap ^= times(locator[i], sums[step - i])
        if gap == 0:
            shift += 2
            continue
        ratio = exponential[(logarithm[gap] - logarithm[last]) % order]
        updated = list(locator)
        for i in range(degree + 1 - shift):
            updated[i + shift] ^= times(ratio, previous[i])
        if 2 * length < step:
            locator, previous, length, shift, last = updated, locator, step - length, 2, gap
            if length > degree:  # it never shrinks
                return None
        else:
            locator, shift = updated, shift + 2
    found = []
    for p in range(n):
        value = 0
        for i in range(length + 1):
            if locator[i]:
                value ^= exponential[(logarithm[locator[i]] - i * p) % order]
        if value == 0:
            found.append(p)
    return found if len(found) == length else None
