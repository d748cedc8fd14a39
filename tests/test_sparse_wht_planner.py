"""The planner of the sparse Walsh-Hadamard transform against published thresholds, brute force, simulated graphs and the decoder itself."""

import itertools
import math

import pytest
import spectralops as so
import torch

from spectralops.ops import bits
from spectralops.ops import sparse_wht_planner as planner
from spectralops.ops.sparse_wht_reference import walsh_sum
from spectralops.ops.sparse_wht_samples import samples_of


def drawn(n, k, seed, degree=None):
    """k distinct keys, and values of +-1."""
    g = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(k, n, dtype=torch.uint8)
    for row in chosen:
        count = n if degree is None else degree
        row[torch.randperm(n, generator=g)[:count]] = torch.randint(2, (count,), generator=g).to(torch.uint8)
    keys = bits.pack(chosen).unique(dim=0)
    return keys, 2.0 * torch.randint(2, (len(keys),), generator=g) - 1, g


# ---- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        so.SparseWHTPlan(7, 5),  # most of its points are asked twice
        so.SparseWHTPlan(70, 20, offsets="nso", repeats=2, b=3).grow(4),
        so.SparseWHTPlan(100, 9, offsets="bch", degree=3),
        so.SparseWHTPlan(6, 2, b=6),
        so.SparseWHTPlan(9, 1, b=0),
    ],
    ids=str,
)
def test_samples_are_those_of_the_function(plan):
    keys, values, _ = drawn(plan.n, 13, 1)
    values = values.double() * torch.arange(1, len(keys) + 1)
    want = walsh_sum(plan.queries(format="packed"), keys, values)
    assert torch.allclose(samples_of(plan, keys, values), want, rtol=0, atol=1e-12)


# ---- the graph --------------------------------------------------------------------------------------------------------


def test_thresholds():
    known = {3: 0.407, 4: 0.324, 5: 0.285, 6: 0.262}  # SparseFHT's density evolution
    assert {c: round(planner.threshold(c), 3) for c in known} == known
    assert planner.threshold(1) == math.inf and planner.threshold(2) == 1


def test_density_evolution_crosses_the_threshold():
    for groups in (3, 4, 5, 6):
        eta = planner.threshold(groups)
        below, above = planner.density_evolution(0.99 * eta, groups), planner.density_evolution(1.01 * eta, groups)
        assert below[-1] > 0.1 and above[-1] < 1e-10
        assert all(a > b for a, b in itertools.pairwise(above)) and above[0] == 1
    assert planner.density_evolution(1.0, 3)[1] == pytest.approx((1 - math.exp(-1)) ** 2)
    assert planner.rounds_needed(1.71, 3, 300) <= planner.rounds_needed(0.47, 3, 1089) <= 14  # a decoder took 2.0 and 12
    assert planner.density_evolution(2.0, 3, broken=0.3)[-1] > 0.01


def test_small_sets_are_counted_right():
    """Against every way of 4 keys into 3 bins of 2 groups."""
    ways = 0
    for one in itertools.product(range(3), repeat=4):
        for size in (2, 3, 4):
            for keys in itertools.combinations(range(4), size):
                ways += all(sum(one[i] == one[j] for j in keys) > 1 for i in keys)
    one_group = ways / 3**4  # expected, with one group
    assert planner.small_sets(4, 3, 1) == (pytest.approx(one_group), True)
    assert planner.small_sets(2, 8, 3)[0] == pytest.approx(8**-3)
    assert planner.small_sets(1, 8, 3)[0] == 0 and planner.small_sets(100, math.inf, 3)[0] == 0


@pytest.mark.parametrize("groups,bins", [(3, 16), (3, 64), (3, 256), (4, 128), (5, 32), (6, 64), (2, 32)])
def test_graph_failure_is_what_simulation_gives(groups, bins):
    trials = 500 if bins < 128 else 200
    critical = 1 / planner.threshold(groups)
    for part in (0.5, 0.8, 0.94, 1.0) if groups > 2 else (0.2, 0.4):
        k = round(part * critical * bins)
        got, want = planner.peeling_failures(k, bins, groups, trials, seed=7), planner.graph_failure(k, bins, groups)
        spread = math.sqrt(max(want * (1 - want), 1 / trials) / trials)
        assert abs(got - want) <= 4 * spread + 0.04, (k, got, want)  # 0.04: the fit's own error near the threshold


def test_graph_failure_with_misread_keys():
    for k, bins, broken in ((40, 128, 0.28), (40, 128, 0.1), (100, 64, 0.1), (110, 64, 0.02)):
        got, want = planner.peeling_failures(k, bins, 3, 1000, seed=3, broken=broken), planner.graph_failure(k, bins, 3, broken=broken)
        assert abs(got - want) < 0.08, (k, broken, got, want)


def test_graph_failure_is_monotone():
    for groups in (1, 2, 3, 6):
        by_k = [planner.graph_failure(k, 64, groups) for k in (1, 2, 8, 13, 40, 100, 150, 300)]
        by_bins = [planner.graph_failure(100, 1 << b, groups) for b in range(2, 16)]
        by_broken = [planner.graph_failure(50, 64, groups, broken=e) for e in (0, 1e-6, 1e-3, 0.01, 0.1, 0.5, 1)]
        assert by_k[0] == 0 and by_broken[-1] == pytest.approx(1)
        for increasing in (by_k, by_bins[::-1], by_broken):
            assert all(0 <= a <= b + 1e-9 <= 1 + 1e-9 for a, b in itertools.pairwise(increasing)), (groups, increasing)


# ---- signs ------------------------------------------------------------------------------------------------------------


def read_wrongly(a, rows, repeats, trials, chase=0):
    """The decoder's signs of a key that is alone (sparse_wht_reference.Decoder.reliabilities), by simulation."""
    u = a + torch.randn(trials, repeats, rows + 1, generator=torch.Generator().manual_seed(5))
    level = (u[:, :, :1] * u).sum(1)
    if repeats > 1:
        weight = (torch.where(level < 0, -1.0, 1.0)[:, None] * u).sum(2, keepdim=True)
        level = (weight * u).sum(1)
        level = torch.where(level[:, :1] < 0, -level, level)
    wrong = level < 0
    if chase:
        strong = level.abs().argsort(1)[:, chase:]
        wrong = torch.stack([torch.gather(wrong ^ flip, 1, strong).any(1) for flip in (False, True)]).all(0)[:, None]
    return wrong[:, -rows:].any(1).float().mean().item()


@pytest.mark.parametrize(
    "a,rows,repeats,chase",
    [(1.8, 20, 3, 0), (1.0, 20, 5, 0), (1.0, 20, 10, 0), (1.4, 100, 5, 0), (2.5, 30, 1, 0), (1.4, 20, 2, 0), (2.0, 21, 1, 6), (1.26, 21, 3, 6)],
)
def test_sign_failure_is_what_simulation_gives(a, rows, repeats, chase):
    trials = 3000
    got, want = read_wrongly(a, rows, repeats, trials, chase), planner.sign_failure(a, rows, repeats, chase=chase)
    assert abs(got - want) < 0.1 * want + 4 * math.sqrt(want / trials), (got, want)
    assert planner.sign_failure(a, rows, repeats, chase=chase, known=True) <= want + 1e-12


def test_sign_failure_is_monotone():
    by_a = [planner.sign_failure(a, 50, 4) for a in (0.3, 0.6, 1.2, 2.4, 4.8)]
    by_repeats = [planner.sign_failure(1.0, 50, r) for r in (1, 2, 4, 9, 17, 40)]
    by_chase = [planner.sign_failure(1.5, 20, 1, chase=c) for c in (0, 2, 4, 8)]
    for falling in (by_a, by_repeats, by_chase):
        assert all(0 <= b < a <= 1 for a, b in itertools.pairwise(falling)), falling
    assert planner.sign_failure(0.1, 0) == 0


# ---- plans ------------------------------------------------------------------------------------------------------------


def recovered(plan, sigma, seeds, degree=None):
    right = 0
    arguments = {**plan._arguments()}
    for seed in range(seeds):
        plan = so.SparseWHTPlan(**{**arguments, "seed": seed})
        keys, values, g = drawn(plan.n, plan.k, 1000 + seed, degree)
        y = samples_of(plan, keys, values)
        found = plan.decode(y + sigma * torch.randn(y.shape, generator=g), noise_std=sigma)
        right += sorted(found.keys.tolist()) == sorted(keys.tolist())
    return right / seeds


@pytest.mark.parametrize("decibel,repeats,low,high", [(5, 3, 0.99, 1), (0, 5, 0.99, 1), (-5, 5, 0.15, 0.65), (-5, 10, 0.9, 1)])
def test_prediction_is_what_the_decoder_does(decibel, repeats, low, high):
    """n = 20, K = 40, b = 7, SNR = K rho^2 / sigma^2: 100 %, 100 %, about 40 % and 100 % of decodes find everything."""
    sigma = math.sqrt(40 / 10 ** (decibel / 10))
    plan = so.SparseWHTPlan(20, 40, b=7, offsets="nso", repeats=repeats)
    predicted = 1 - planner.predicted_failure(plan, noise_std=sigma)
    assert low <= predicted <= high
    seeds = 12
    got = recovered(plan, sigma, seeds)
    assert abs(got - predicted) <= 3 * math.sqrt(max(predicted * (1 - predicted), 0.01) / seeds) + 0.05


@pytest.mark.parametrize("n,k,sigma,degree", [(60, 30, 0.0, None), (30, 20, 1.0, None), (20, 12, 3.0, None), (100, 8, 1.0, 3)])
def test_chosen_plans_hold_what_they_promise(n, k, sigma, degree):
    plan = so.SparseWHTPlan.choose(n, k, noise_std=sigma, degree=degree, failure=0.05, seed=3)
    assert plan.seed == 3 and plan.k == k and plan.offsets in (("bch",) if degree else ("exact", "nso"))
    assert planner.predicted_failure(plan, noise_std=sigma) <= 0.05
    assert recovered(plan, sigma, 10, degree) >= 0.7  # 4 of 10 failures at 5 % each: 1 in 1000


def test_more_is_asked_where_more_is_wanted():
    size = lambda **kw: planner.choose_plan(kw.pop("n", 40), kw.pop("k", 30), **kw).num_queries  # noqa: E731
    for low, high in (
        (dict(noise_std=0.0), dict(noise_std=2.0)),
        (dict(noise_std=2.0), dict(noise_std=10.0)),
        (dict(noise_std=2.0), dict(noise_std=2.0, amplitude=0.3)),
        (dict(failure=0.3), dict(failure=1e-6)),
        (dict(k=10), dict(k=200)),
        (dict(degree=3), dict()),
    ):
        assert size(**low) < size(**high)
    assert planner.choose_plan(5, 32).num_queries == 32  # all points, read once
    assert planner.choose_plan(10, 1).num_queries == 11


@pytest.mark.parametrize(
    "change,error,text",
    [
        (dict(failure=0), ValueError, "failure must be a probability in"),
        (dict(failure="x"), ValueError, "failure"),
        (dict(noise_std=-1.0), ValueError, "noise_std must be a number of at least 0; got -1"),
        (dict(noise_std="auto"), ValueError, "noise_std"),
        (dict(noise_std=math.nan), ValueError, "noise_std"),
        (dict(amplitude=0), ValueError, "amplitude must be a number above 0"),
        (dict(n=3, k=9), ValueError, "k is too large for n"),
        (dict(n=2.0), TypeError, "n must be an int"),
        (dict(degree=0), ValueError, "degree must be at least 1"),
        (dict(seed="a"), TypeError, "seed must be an int"),
        (dict(n=4, noise_std=1e9), ValueError, "no plan of at most 2147483647 samples and 1000 repeats"),
    ],
)
def test_bad_input(change, error, text):
    with pytest.raises(error, match=text):
        so.SparseWHTPlan.choose(**{"n": 20, "k": 3, **change})


def test_bad_graphs():
    for call in (
        lambda: planner.density_evolution(0, 3),
        lambda: planner.density_evolution(1.0, 0),
        lambda: planner.density_evolution(1.0, 3, broken=2),
        lambda: planner.rounds_needed(0.4, 3, 100),
        lambda: planner.graph_failure(0, 8, 3),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError, match="groups must be an int"):
        planner.threshold(3.0)
