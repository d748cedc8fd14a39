"""How likely a plan of the sparse Walsh-Hadamard transform is to fail, and the cheapest one that rarely does.

Graph.  K keys each fall into one of B bins in each of C groups; a key is found where it is alone, and then
leaves the bins of the others. With lambda = K / B = 1 / eta, p the probability that a key is still in the way
in a bin, and e that its signs are misread where it is alone,

    p <- (1 - (1 - e) exp(-lambda p))^(C - 1),  from p = 1        (density evolution: K large, the graph a tree)
    x  = (1 - (1 - e) exp(-lambda p))^C                           (the fraction that is never found)

With e = 0 p falls to 0 if lambda < lambda* = min_y y / (1 - e^-y)^(C-1) (y = lambda p), to something else
beyond.  Finite K adds two ways to fail.  Small sets of keys none of which is ever alone: of s keys, binom(K,
s) (a_s / B^s)^C are expected, a_s the number of ways of s keys into B bins without one that holds a single
key,

    a_s = sum_j S(s, j) B (B - 1) .. (B - j + 1)
    S(s, j) = j S(s-1, j) + (s-1) S(s-2, j-1)         (partitions into j blocks of 2 or more)

And the threshold is not sharp: Pr = Q(sqrt(B) (lambda* - beta B^(-2/3) - lambda) / alpha), the scaling of
Amraoui, Montanari, Richardson and Urbanke, with alpha, beta of SCALING.  Together Pr = 1 - (1 - Q) exp(-sum_s
- K x).

Signs.  In units of its noise a sample of a key that is alone is a +- 1 N(0, 1), a^2 = rho^2 B / sigma^2.
With one repeat its sign is wrong with q = Q(a).  With r of them, u_q the samples at row 0 (each N(a, 1)) and
N other rows, the decoder reads row i from sum_q w_q U_(q,i), w_q = sum_i sgn(L_i) U_(q,i), L_i = sum_q u_q
U_(q,i).  Given u each sgn(L_i) is wrong with Q(h), h = a sum u / |u|, and correlates with the noise it was
taken from, so that

    w_q = u_q + N (a (1 - 2 Q(h)) + 2 phi(h) u_q / |u|) + sqrt(N) N(0, 1)
    q = Q(a'),  a' = a sum_q w_q / |w|

and the signs are independent given w: exact, nso succeed with (1 - q)^N, averaged over draws of u and w.  bch
succeeds where all wrong signs are among the `chase` smallest of the N + 1 magnitudes (the largest wrong one,
of magnitude t, has fewer than `chase` below it):

    (1 - q)^(N+1) + int_0^inf (N+1) phi(t + a') sum_{j < chase} binom(N, j) Pr(|z| < t)^j Pr(z > t)^(N-j) dt

with z ~ N(a', 1). A key is also missed where a chi-square test of the decoder's refuses it; those are taken with normal
approximations.

False keys.  "exact" reads some key from any signs, nso and bch one of the bin's in 2^b, and a second repeat
contradicts every other wrong one, so of what is misread h = 2^(1-r) (times 2^-b) passes for a key.  It is
refused where one of its C - 1 other bins is empty, if rho^2 is large enough for that test.  With A_t =
exp(-lambda p_t), x_t the part of the keys that is left after t rounds and e_s the misread part of e, these
are expected:

    K C e_s h sum_t (A_t - A_(t-1)) p_t (1 - exp(-lambda x_t))^(C-1),     A_(-1) = 0, x_0 = 1
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from .sparse_wht_groups import num_checks
from .sparse_wht_levels import FALSE_ALARM, believed
from .sparse_wht_plan import MAX_B, MAX_SAMPLES, SparseWHTPlan
from .. import _check

GROUPS = (3, 4, 2, 5, 6, 1)  # that are tried; 3 first, most often the cheapest
MAX_REPEATS = 1000
DRAWS = 1024  # of (u, w), seeded; fewer of many repeats, which differ less
FIXED = 2000  # rounds after which density evolution is taken as settled
SETS = 12  # keys in a small set, at most

# C -> (alpha, beta): the greatest likelihood, on a grid of 0.04 and 0.2, of `peeling_failures` at B = 64 .. 2048
# and eleven K from 0.8 to 1.04 B lambda*, 4000 graphs each (2^19 / B from B = 256 on). There it is off by 0.05 at
# most, and below B = 32 near the threshold too pessimistic, by as much as 0.3; C = 3 has more small sets than are
# counted, 0.05 in place of 0.035 at B = 64, K = 132.
SCALING = {3: (0.88, 1.4), 4: (0.80, 1.2), 5: (0.80, 1.2), 6: (0.84, 1.2)}


def _ndtr(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


def _tail(x: float) -> float:
    """Q(x)."""
    return 0.5 * math.erfc(x / math.sqrt(2))


# ---- the graph -------------------------------------------------------------------------------------------------------


def _edges(eta: float, groups: int, broken: float = 0.0) -> None:
    if not (isinstance(eta, (int, float)) and eta > 0):
        raise ValueError(f"eta must be above 0; got {eta!r}")
    if _check.integer("groups", groups) < 1:
        raise ValueError(f"groups must be at least 1; got {groups}")
    if not 0 <= broken <= 1:
        raise ValueError(f"broken must be in [0, 1]; got {broken!r}")


def density_evolution(eta: float, groups: int, *, broken: float = 0.0, rounds: int = 100_000) -> list[float]:
    """p after 0, 1, 2, .. rounds, until it is below 1e-12 or does not change by more than 1e-12; eta = B / K, `broken` is e."""
    _edges(eta, groups, broken)
    history = [1.0]
    while len(history) <= rounds and history[-1] > 1e-12:
        p = (1 - (1 - broken) * math.exp(-history[-1] / eta)) ** (groups - 1)
        history.append(p)
        if history[-2] - p <= 1e-12 * history[-2]:
            break
    return history


@lru_cache(maxsize=4096)
def _critical(groups: int, broken: float) -> float:
    """lambda*: from the right, where y / (1 - (1 - e) exp(-y))^(C-1) begins to rise again; 0 if it never does."""
    y = torch.linspace(1e-3, 12, 6_000, dtype=torch.float64)
    load = y / (1 - (1 - broken) * torch.exp(-y)) ** (groups - 1)
    rising = (load[1:] < load[:-1]).nonzero()
    return load[int(rising[-1]) + 1].item() if len(rising) else load[0].item() if broken == 0 else math.inf


def threshold(groups: int) -> float:
    """The least B / K at which every key is found, K large: 1, 0.407, 0.324, 0.285, 0.262 for C = 2 .. 6; inf for C = 1."""
    _edges(1.0, groups)
    return math.inf if groups == 1 else 1.0 if groups == 2 else 1 / _critical(groups, 0.0)


def rounds_needed(eta: float, groups: int, k: int) -> int:
    """Rounds of peeling until less than half a key of k is left to be expected. ValueError below the threshold."""
    if eta <= threshold(groups):
        raise ValueError(f"eta must be above {threshold(groups):.4g}, the threshold of {groups} groups; got {eta}")
    for round, p in enumerate(density_evolution(eta, groups), 1):
        if k * (1 - math.exp(-p / eta)) ** groups < 0.5:
            return round
    return round


def small_sets(k: int, bins: float, groups: int) -> tuple[float, bool]:
    """How many sets of 2 .. 12 keys none of which is alone anywhere are to be expected, and whether these are all sets there are.
    Where there are more keys the sum ends where its terms grow.
    """
    if bins == math.inf:
        return 0.0, True
    total, last = 0.0, math.inf
    ways = [[1.0], [0.0]]  # S(s, j)
    for s in range(2, min(k, SETS) + 1):
        row = [0.0] * (s // 2 + 1)
        for j in range(1, s // 2 + 1):
            row[j] = (j * ways[s - 1][j] if j < len(ways[s - 1]) else 0.0) + (s - 1) * ways[s - 2][j - 1]
        ways.append(row)
        share, falling = 0.0, 1.0
        for j in range(1, s // 2 + 1):
            falling *= max(1 - (j - 1) / bins, 0.0)
            share += row[j] * falling * bins ** (j - s)
        term = math.comb(k, s) * share**groups
        if k > SETS and term > last:
            break
        total, last = total + term, term
    return total, k <= SETS


def graph_failure(k: int, bins: float, groups: int, *, broken: float = 0.0) -> float:
    """Probability that peeling does not find all k keys. `bins`: 1 / Pr[two keys share one], inf if they cannot; `broken`: e."""
    _edges(1.0, groups, broken)
    if k < 1 or not bins >= 1:
        raise ValueError(f"k and bins must be at least 1; got {k} and {bins}")
    sets, counted = small_sets(k, bins, groups)
    others = (k - 1) / bins
    p = density_evolution(1 / others, groups, broken=broken, rounds=FIXED)[-1] if others else broken ** (groups - 1)
    if groups == 1:  # nothing is ever freed: who shares a bin is counted by the sets
        lost = k * broken
    else:
        lost = k * (1 - (1 - broken) * math.exp(-others * p)) ** groups if broken or p > 1e-3 else 0.0
    blocked = 0.0
    if groups in SCALING and not counted:
        alpha, beta = SCALING[groups]
        critical = _critical(groups, round(broken, 4))
        blocked = _tail(math.sqrt(bins) * (critical - beta * bins ** (-2 / 3) - k / bins) / alpha) if critical < math.inf else 0.0
    return 1 - (1 - blocked) * math.exp(-sets - lost)


def peeling_failures(k: int, bins: int, groups: int, trials: int, *, seed: int = 0, broken: float = 0.0) -> float:
    """The same by simulation: the fraction of random graphs that peeling does not solve."""
    g = torch.Generator().manual_seed(seed)
    place = torch.randint(bins, (trials, groups, k), generator=g)
    read = torch.rand(trials, groups, k, generator=g) >= broken
    there = torch.ones(trials, 1, k)
    count = torch.zeros(trials, groups, bins).scatter_add_(2, place, there.expand(-1, groups, -1))
    failed = 0
    while len(there):
        alone = ((count.gather(2, place) == 1) & read).any(1, keepdim=True)
        found = (alone & (there > 0)).to(there.dtype)
        there = there - found
        count.scatter_add_(2, place, -found.expand(-1, groups, -1))
        left, moved = there.any(2)[:, 0], found.any(2)[:, 0]
        failed += int((left & ~moved).sum())
        on = left & moved
        if not bool(on.all()):
            place, read, there, count = place[on], read[on], there[on], count[on]
    return failed / trials


# ---- signs -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=None)
def _drawn(rows: int, seed: int) -> Tensor:
    draws = max(64, min(DRAWS, (1 << 15) // rows))
    return torch.randn(rows, draws, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _normals(rows: int, seed: int) -> Tensor:
    """(rows, draws), of one table for all up to the next power of two."""
    return _drawn(1 << (rows - 1).bit_length(), seed)[:rows]


def _effective(a: float, repeats: int, rows: int) -> Tensor:
    """(draws,): a', the amplitude over the noise of what decides a sign."""
    if repeats == 1:
        return torch.tensor([a], dtype=torch.float64)
    u = a + _normals(repeats, 1)  # (r, draws)
    length = u.norm(dim=0)
    h = a * u.sum(0) / length
    phi = torch.exp(-h.square() / 2) / math.sqrt(2 * math.pi)
    w = u + rows * (a * (1 - 2 * _ndtr(-h)) + 2 * phi * u / length) + math.sqrt(rows) * _normals(repeats, 2)
    return a * w.sum(0) / w.norm(dim=0)


@lru_cache(maxsize=64)
def _chased(samples: int, chase: int) -> tuple[Tensor, Tensor]:
    """a' (A,), and the probability (A,) that all wrong signs of `samples` are among the `chase` weakest."""
    a = torch.linspace(-1, 10, 221, dtype=torch.float64)
    right = _ndtr(a) ** samples
    t = torch.linspace(0, 8, 401, dtype=torch.float64)[:, None]
    above, below = _ndtr(a - t), _ndtr(t - a) - _ndtr(-t - a)  # Pr(z > t), Pr(|z| < t)
    density = samples * torch.exp(-(t + a).square() / 2) / math.sqrt(2 * math.pi)
    rank = sum(math.comb(samples - 1, j) * below**j * above ** (samples - 1 - j) for j in range(min(chase, samples)))
    return a, (right + torch.trapezoid(density * rank, t[:, 0], dim=0)).clamp(max=1)


def sign_failure(a: float, rows: int, repeats: int = 1, *, chase: int = 0, known: bool = False) -> float:
    """Probability that the key of a single-ton is misread: a = |rho| sqrt(B) / sigma, N = `rows` besides row 0, majority "soft".
    `known`: a bound from below that is quicker, as if the signs of the repeats among themselves were known, a' = a sqrt(r).
    """
    if rows == 0:
        return 0.0
    level = torch.tensor([a * math.sqrt(repeats)], dtype=torch.float64) if known else _effective(a, repeats, rows)
    if chase:
        grid, right = _chased(rows + 1, chase)
        at = ((level - grid[0]) / (grid[1] - grid[0])).clamp(0, len(grid) - 1.001)
        low = at.long()
        good = torch.lerp(right[low], right[low + 1], at - low)
    elif repeats == 1:
        wrong = _ndtr(-level)
        good = (1 - wrong) ** (rows + 1) + wrong ** (rows + 1)
    else:
        good = (1 - _ndtr(-level)) ** rows
    return 1 - good.mean().item()


def misread(plan: SparseWHTPlan, noise_std: float, amplitude: float, known: bool = False) -> tuple[float, float]:
    """(e, e_s): that a single-ton of |rho| = amplitude is not read as what it is, and that signs are the reason."""
    if noise_std == 0:
        return 0.0, 0.0
    samples, a = plan.num_offsets, amplitude * math.sqrt(plan.bins) / noise_std
    signs = sign_failure(a, plan.checks, plan.repeats, chase=plan.chase if plan.offsets == "bch" else 0, known=known)
    # sqrt(P) rho / sqrt(v) is N(sqrt(P) a, 1), and P e / v has mean P (1 + a^2) and variance 2 P (1 + 2 a^2)
    faint = _tail(math.sqrt(samples) * a - math.sqrt(believed(plan)))
    empty = _tail(samples * (1 + a * a - _tried(samples)) / math.sqrt(2 * samples * (1 + 2 * a * a)))
    tested = FALSE_ALARM / (plan.groups * plan.bins)
    return 1 - (1 - signs) * (1 - faint) * (1 - empty) * (1 - tested), signs * (1 - faint)


def _tried(samples: int) -> float:
    """tau_try, by Wilson and Hilferty's cube."""
    return (1 - 2 / (9 * samples) + 2.3263 * math.sqrt(2 / (9 * samples))) ** 3  # Q(2.3263) = 0.01


def false_keys(plan: SparseWHTPlan, noise_std: float, amplitude: float, broken: float, signs: float) -> float:
    """How many are to be expected in a decode."""
    if signs == 0:
        return 0.0
    load, groups = plan.k / _bins(plan.n, plan.b), plan.groups
    accepted = 2.0 ** (1 - plan.repeats) * (1.0 if plan.offsets == "exact" else 1 / plan.bins)
    shrunk = 1 - 2 / plan.num_offsets  # rho with one sign wrong
    refusable = plan.bins * (amplitude * shrunk / noise_std) ** 2 > 4 * _tried(plan.num_offsets)
    total, before, left = 0.0, 0.0, 1.0
    for p in density_evolution(1 / load, groups, broken=broken, rounds=FIXED) if load else [1.0]:
        alone = math.exp(-load * p)
        total += (alone - before) * p * ((1 - math.exp(-load * left)) ** (groups - 1) if refusable else 1.0)
        before, left = alone, (1 - (1 - broken) * alone) ** groups
    return plan.k * groups * signs * accepted * total


# ---- plans -----------------------------------------------------------------------------------------------------------


def predicted_failure(plan: SparseWHTPlan, *, noise_std: float = 0.0, amplitude: float = 1.0) -> float:
    """Probability that a decode of `plan.k` keys, drawn at random with |F| = amplitude, does not give all of them."""
    _noise(noise_std, amplitude)
    return _failure(plan, noise_std, amplitude)


def _failure(plan: SparseWHTPlan, noise_std: float, amplitude: float, known: bool = False) -> float:
    broken, signs = misread(plan, noise_std, amplitude, known)
    found = 1 - graph_failure(plan.k, _bins(plan.n, plan.b), plan.groups, broken=broken)
    return 1 - found * math.exp(-false_keys(plan, noise_std, amplitude, broken, signs))


def _bins(n: int, b: int) -> float:
    """1 / Pr[two keys share a bin]: 2^(n-b) - 1 of the 2^n - 1 others do."""
    others = (1 << (n - b)) - 1
    return ((1 << n) - 1) / others if others else math.inf


def _noise(noise_std: float, amplitude: float) -> None:
    if isinstance(noise_std, bool) or not (isinstance(noise_std, (int, float)) and math.isfinite(noise_std) and noise_std >= 0):
        raise ValueError(f"noise_std must be a number of at least 0; got {noise_std!r}")
    if isinstance(amplitude, bool) or not (isinstance(amplitude, (int, float)) and math.isfinite(amplitude) and amplitude > 0):
        raise ValueError(f"amplitude must be a number above 0, the least |F| to be found; got {amplitude!r}")


def _least_repeats(make, most: int, fails) -> SparseWHTPlan | None:
    """The plan of the fewest repeats, at most `most`, that fails rarely enough."""
    low, high = 0, 1
    while high <= most and fails(make(high)):
        low, high = high, 2 * high
    if high > most:
        if low >= most or fails(make(most)):
            return None
        high = most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fails(make(middle)) else (low, middle)
    return make(high)


def choose_plan(
    n: int, k: int, *, noise_std: float = 0.0, amplitude: float = 1.0, failure: float = 0.01, degree: int | None = None,
    seed: int = 0, device=None,
) -> SparseWHTPlan:  # fmt: skip
    """The plan of the fewest samples, groups x 2^b x P, whose `predicted_failure` is at most `failure`.

    Args:
        n, k: variables, and how many coefficients there are.
        noise_std: sigma of the noise of a value; 0 for none.
        amplitude: the least |F[k]| that must be found; with noise it decides how many repeats there are.
        failure: of a decode, in (0, 1).
        degree: the largest number of ones of a key, if that is known: it allows "bch".
        seed, device: the plan's.

    It compares 1 to 6 groups, all b, and "exact", "nso" and with a degree "bch", each with the fewest repeats, and takes
    keys as random and coefficients as of equal size: keys that depend on one another over F_2 may fail more often. The
    same arguments give the same plan.

    Raises: ValueError or TypeError naming the argument; ValueError where no plan of at most 2^31 samples and 1000
    repeats fails rarely enough.
    """
    _noise(noise_std, amplitude)
    if isinstance(failure, bool) or not (isinstance(failure, (int, float)) and 0 < failure < 1):
        raise ValueError(f"failure must be a probability in (0, 1); got {failure!r}")
    schemes = [("exact", None), ("nso", None)] if noise_std else [("exact", None)]
    SparseWHTPlan(n, k, seed=seed, device=device)  # n, k and seed are what a plan takes
    if degree is not None:
        SparseWHTPlan(n, k, offsets="bch", degree=degree)
        schemes.insert(0, ("bch", degree))

    def fails(plan: SparseWHTPlan) -> bool:
        return any(_failure(plan, noise_std, amplitude, known) > failure for known in (True, False))

    best, least = None, math.inf
    for groups in GROUPS:
        for b in range(min(n, MAX_B) + 1):
            if groups << b >= least:
                break
            if graph_failure(k, _bins(n, b), groups) > failure:
                continue
            for offsets, ones in schemes:

                def make(repeats: int) -> SparseWHTPlan:
                    return SparseWHTPlan(
                        n, k, groups=groups, offsets=offsets, repeats=repeats, degree=ones, b=b, seed=seed, device=device
                    )

                once = (groups << b) * (num_checks(n, b, offsets, ones) + 1)
                most = min(MAX_REPEATS if noise_std else 1, MAX_SAMPLES // once)
                most = min(most, math.ceil(least / once) - 1) if best else most
                found = _least_repeats(make, most, fails)
                if found is not None:
                    best, least = found, found.num_samples
    if best is None:
        raise ValueError(
            f"no plan of at most {MAX_SAMPLES} samples and {MAX_REPEATS} repeats finds {k} keys of |F| = {amplitude} in noise of"
            f" {noise_std} but with probability {failure}; allow a larger failure, or give a larger amplitude"
        )
    return best
