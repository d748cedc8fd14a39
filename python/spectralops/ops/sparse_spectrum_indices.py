r"""Moebius coefficients and interaction indices of f = sum_k F[k] (-1)^<x, k>, from the F[k].

With v(S) = f(1_S), the indicator of S, the game of cooperative game theory,

    v(T) = sum_(S within T) a_S,        a_S = (-2)^|S| sum_(k containing S) F[k],

since (-1)^<x, k> = prod_(i in k) (1 - 2 x_i).  Every index here is I(S) = sum_(T containing S) w(|T|, |S|) a_T, hence

    I(S) = sum_(k containing S) c(|k|, |S|) F[k],        c(d, s) = sum_(t = s .. d) binom(d - s, t - s) (-2)^t w(t, s)

with, for |S| up to `order` l (d = |k|, s = |S|):

    moebius             w = [t = s]                                          c = (-2)^s
    banzhaf             w = 2^(s - t)                                        c = (-2)^s [d = s]
    shapley    (SII)    w = 1 / (t - s + 1)                                  c = (-2)^s / (d - s + 1) where d - s is even, else 0
    k-shapley  (k-SII)  I(S) = sum_(R containing S, |R| <= l) B_(|R| - s) SII(R)
                                                                             c = sum_(r = s .. l) B_(r - s) binom(d - s, r - s) c_SII(d, r)
    shapley-taylor      w = [t = s] for s < l, 1 / binom(t, l) for s = l
    faith-banzhaf       F cut off at |k| = l and rewritten:                  c = (-2)^s [d <= l]
    faith-shapley       w = [t = s] for t <= l, else
                        (-1)^(l - s) s / (l + s) binom(l, s) binom(t - 1, l) / binom(t + l - 1, l + s)

B are the Bernoulli numbers with B_1 = -1/2.  c is computed in rational numbers.

Sources: M. Grabisch, M. Roubens, Int. J. Game Theory 28 (1999) 547-565 (Moebius, banzhaf, shapley); S.
Bordt, U. von Luxburg, AISTATS 2023 (k-shapley); M. Sundararajan, K. Dhamdhere, A. Agarwal, ICML 2020
(shapley-taylor); C.-P. Tsai, C.-K. Yeh, P. Ravikumar, JMLR 24 (2023) (faith-banzhaf, faith-shapley).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from . import bits
from .fixed_sums import sum_at

INDICES = ("banzhaf", "shapley", "k-shapley", "shapley-taylor", "faith-banzhaf", "faith-shapley")
MAX_TERMS = 1 << 22
PIECE = 1 << 16  # keys unpacked at a time
MIXER = 0x9E3779B97F4A7C15 - (1 << 64)  # odd, near 2^64 / the golden ratio


class Interactions(NamedTuple):
    """A number for each of some sets of variables, all others taken as zero: smaller sets first, then in the order
    of their variables.
    """

    n: int
    index: str
    order: int  # of the largest sets
    keys: Tensor  # (L, ceil(n / 64)) int64, variable i of n at bit n - 1 - i
    values: Tensor  # (L,)
    names: tuple[str, ...] | None = None

    def bits(self) -> Tensor:
        """(L, n) uint8: the sets, variable i in column i."""
        return bits.unpack(self.keys, self.n).contiguous()

    def sets(self) -> list[tuple[int, ...]]:
        """The sets as tuples of variables, ascending."""
        return sets_of(self.keys, self.n)

    def to_dict(self) -> dict[tuple[int, ...], float]:
        """{(): a, (0,): b, (0, 3): c}, the form in which shapiq keeps interactions."""
        return dict(zip(self.sets(), self.values.tolist()))

    def at(self, *variables: int) -> float:
        """The number of one set; 0 where there is none."""
        return self.to_dict().get(tuple(sorted(variables)), 0.0)


def sets_of(keys: Tensor, n: int) -> list[tuple[int, ...]]:
    sets: list[tuple[int, ...]] = []
    for part in keys.split(PIECE):
        chosen = bits.unpack(part, n)
        variables = chosen.nonzero()[:, 1].tolist()
        ends = chosen.sum(1, dtype=torch.int64).cumsum(0).tolist()
        sets += [tuple(variables[start:end]) for start, end in zip([0, *ends], ends)]
    return sets


def degrees_of(keys: Tensor, n: int) -> Tensor:
    """(K, W) -> (K,) int64"""
    return torch.cat([bits.unpack_bits(part, n).sum(1, dtype=torch.int64) for part in keys.split(PIECE)])


def distinct(keys: Tensor) -> bool:
    """Whether no two of (K, W) are alike: the words mixed into one, K of which rarely meet where the keys do not."""
    mixed = keys[:, 0]
    for word in keys.T[1:]:
        mixed = (mixed ^ (mixed >> 29)) * MIXER ^ word
    if mixed.unique().numel() == keys.shape[0]:
        return True
    return keys.unique(dim=0).shape[0] == keys.shape[0]


@lru_cache(maxsize=None)
def _bernoulli(m: int) -> Fraction:
    return Fraction(1) if m == 0 else -sum(comb(m + 1, j) * _bernoulli(j) for j in range(m)) / Fraction(m + 1)


def _weight(index: str, order: int, t: int, s: int) -> Fraction:
    """w(t, s) of the indices that have no closed form above."""
    if index == "shapley-taylor":
        return Fraction(1, comb(t, s)) if s == order else Fraction(int(t == s))
    if t <= order:
        return Fraction(int(t == s))
    return Fraction((-1) ** (order - s) * s * comb(order, s) * comb(t - 1, order), (order + s) * comb(t + order - 1, order + s))


@lru_cache(maxsize=4096)
def coefficient(index: str, order: int, d: int, s: int) -> Fraction:
    """c(d, s)."""
    if index == "moebius":
        return Fraction((-2) ** s)
    if index == "banzhaf":
        return Fraction((-2) ** s * (d == s))
    if index == "faith-banzhaf":
        return Fraction((-2) ** s * (d <= order))
    if index == "shapley":
        return Fraction((-2) ** s, d - s + 1) if (d - s) % 2 == 0 else Fraction(0)
    if index == "k-shapley":
        sizes = range(s, min(d, order) + 1)
        return sum((_bernoulli(r - s) * comb(d - s, r - s) * coefficient("shapley", order, d, r) for r in sizes), Fraction(0))
    terms, factor = [Fraction(0)], (-2) ** s  # binom(d - s, t - s) (-2)^t
    for t in range(s, d + 1):
        terms.append(factor * _weight(index, order, t, s))
        factor = factor * -2 * (d - t) // (t - s + 1)
    while len(terms) > 1:  # in pairs: denominators stay small for long
        terms = [a + b for a, b in zip(terms[::2], [*terms[1::2], 0])]
    return terms[0]


def _number(index: str, order: int, d: int, s: int) -> float:
    try:
        return float(coefficient(index, order, d, s))
    except OverflowError:
        raise ValueError(f"the {index} index of {s} of a key's {d} variables is beyond float64: take a smaller order") from None


def combinations(d: int, size: int, device: torch.device) -> Tensor:
    """(binom(d, size), size): `size` of 0 .. d - 1, ascending."""
    chosen, last = torch.zeros((1, 0), dtype=torch.int64, device=device), torch.full((1,), -1, device=device)
    for _ in range(size):
        room = d - 1 - last
        row = torch.arange(len(room), device=device).repeat_interleave(room)
        last = torch.arange(len(row), device=device) - (room.cumsum(0) - room)[row] + last[row] + 1
        chosen = torch.cat([chosen[row], last[:, None]], 1)
    return chosen


def subsets(positions: Tensor, size: int, words: int) -> Tensor:
    """(A, d) bits of keys -> (A, binom(d, size), words): the subsets of `size` of them."""
    count, d = positions.shape
    one = positions.new_zeros((count, d, words))
    one.scatter_(2, (positions // bits.WORD)[:, :, None], (torch.ones_like(positions) << (positions % bits.WORD))[:, :, None])
    chosen = combinations(d, min(size, d - size), positions.device)
    out = one.new_zeros((count, chosen.shape[0], words))
    for j in range(chosen.shape[1]):
        out |= one[:, chosen[:, j]]
    return out if 2 * size <= d else out ^ one.sum(1, keepdim=True)  # what the others leave


def order_of(keys: Tensor, n: int) -> Tensor:
    """The permutation to smaller sets first, then variable by variable."""
    order = torch.arange(keys.shape[0], device=keys.device)
    for w in range(keys.shape[1]):
        unsigned = keys[order, w] ^ torch.iinfo(torch.int64).min
        order = order[unsigned.argsort(descending=True, stable=True)]
    return order[degrees_of(keys[order], n).argsort(stable=True)]


def interactions(n: int, keys: Tensor, values: Tensor, index: str, order: int, least: int) -> tuple[Tensor, Tensor]:
    """(K, W), (K,) -> the sets of `least` to `order` variables (L, W) that any key reaches, and I of each (L,)."""
    unpacked = bits.unpack_bits(keys, n)
    degree = unpacked.sum(1, dtype=torch.int64)
    counts = degree.bincount().tolist()
    work, terms = [], 0
    for d, s in ((d, s) for d, count in enumerate(counts) if count for s in range(least, min(d, order) + 1)):
        if not coefficient(index, order, d, s):
            continue
        work.append((d, s))
        terms += counts[d] * comb(d, s)
        if terms > MAX_TERMS:
            raise ValueError(
                f"the spectrum's keys have up to {len(counts) - 1} variables, and more than {MAX_TERMS} subsets of {least} to"
                f" {order} of them, as many as are summed: keep fewer coefficients (top) or a smaller order"
            )
    found, numbers = [keys.new_zeros((0, keys.shape[1]))], [values.new_zeros(0, dtype=torch.float64)]
    for d, s in work:
        those = (degree == d).nonzero().squeeze(1)
        positions = unpacked[those].nonzero()[:, 1].view(those.shape[0], d)
        sets = subsets(positions, s, keys.shape[1])
        found.append(sets.flatten(0, 1))
        shares = values[those].to(torch.float64) * _number(index, order, d, s)
        numbers.append(shares[:, None].expand(sets.shape[:2]).reshape(-1))
    sets, place = torch.cat(found).unique(dim=0, return_inverse=True) if terms else (found[0], keys.new_zeros(0))
    total = sum_at(torch.cat(numbers), place, sets.shape[0])
    places = order_of(sets, n)
    return sets[places], total[places].to(values.dtype)


def shapley(n: int, keys: Tensor, values: Tensor) -> Tensor:
    """(n,): -2 sum_(k containing i, |k| odd) F[k] / |k|."""
    chosen = bits.unpack(keys, n).to(torch.float64)  # (K, n)
    degree = chosen.sum(1)
    share = torch.where(degree % 2 == 1, -2 / degree.clamp(min=1), 0.0)
    return ((values.to(torch.float64) * share) @ chosen).to(values.dtype)
