"""The levels of the decoder's tests (sparse_wht_reference.py), from the false alarms that are allowed."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from .sparse_wht_groups import OFFSETS
from .sparse_wht_reference import Call

if TYPE_CHECKING:
    from .sparse_wht_plan import SparseWHTPlan

FALSE_ALARM = 1e-4  # of a decode: that noise alone gives a key, or leaves a bin unresolved
REFUSED = 25.0  # (rho' - rho)^2 P / v from which on a group has nothing of a key; of a key that is there the mean is 2
TRIED = 1e-2  # of a bin that holds noise alone: that its signs are looked at


@lru_cache(maxsize=256)
def chi_square_tail(probability: float, degrees: float) -> float:
    """x with Pr[chi^2 of these degrees of freedom > x] = probability."""

    def tail(x: float) -> float:
        half = torch.tensor([degrees / 2, x / 2], dtype=torch.float64, device="cpu")
        return torch.special.gammaincc(half[0], half[1]).item()

    low, high = 0.0, degrees + 40.0 * math.sqrt(degrees) + 200.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > probability else (low, middle)
    return high


def log_keys(n: int, degree: int | None) -> float:
    """ln of how many keys there are, of at most `degree` ones."""
    if degree is None:
        return n * math.log(2)
    return math.log(sum(math.comb(n, i) for i in range(min(degree, n) + 1)))


def believed(plan: "SparseWHTPlan") -> float:
    """P rho^2 / v from which on a key is believed, were all samples independent: above what noise alone gives any
    of the keys, and, where every pattern of signs is a key ("exact"), so far above it that no sign is wrong.
    """
    alone = 2 * (log_keys(plan.n, plan.degree) + math.log(plan.groups / FALSE_ALARM))
    if plan.offsets != "exact":
        return alone
    wrong = FALSE_ALARM / (plan.groups * plan.bins * plan.num_offsets)
    return max(alone, (plan.checks + 1) * chi_square_tail(2 * wrong, 1))


def call_of(plan: "SparseWHTPlan", independent: float) -> Call:
    """What the decoder is told where the noise is to be estimated; the P samples of a bin are worth `independent` ones."""
    cells = plan.groups * plan.bins
    return Call(
        n=plan.n, b=plan.b, repeats=plan.repeats, checks=plan.checks, scheme=OFFSETS.index(plan.offsets),
        hard=plan.majority == "hard", degree=plan.degree or 0, chase=plan.chase, capacity=cells, rounds=4 * plan.b + 40,
        tau_try=chi_square_tail(TRIED, independent) / independent,
        tau=chi_square_tail(FALSE_ALARM / cells, independent) / independent,
        tau_one=chi_square_tail(FALSE_ALARM / (cells * plan.num_offsets), 1),
        theta=believed(plan) * plan.num_offsets / independent,
        refuse=REFUSED / independent,
        noise=-1.0,
    )  # fmt: skip
