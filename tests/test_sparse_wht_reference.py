"""The decoder that specifies the others, and its promises: against the dense transform, brute force, published statistics.

What is statistical runs on whatever backend is chosen; what defines a value runs on the reference.
"""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from scipy.stats import chi2

import spectralops as so
from spectralops.ops import bch
from spectralops.ops.sparse_wht_reference import floor_of, noise_of
from sparse_wht_functions import as_dict, draw, found, function, noise

REPEATED = dict(offsets="nso", repeats=3)
SCHEMES = [dict(offsets="exact"), dict(offsets="nso"), REPEATED, dict(**REPEATED, majority="hard")]
CODED = [dict(offsets="bch", degree=3), dict(offsets="bch", degree=3, repeats=2, chase=0)]


def decode(plan, keys, values, sigma=0.0, seed=0, noise_std="auto", backend=None, dtype=torch.float64):
    y = function(plan.queries(), keys, values) + noise(plan.num_queries, sigma, seed)
    return plan.decode(y.to(dtype), noise_std, backend=backend)


def assert_right(spectrum, keys, values, within=0.0):
    got, exact = found(spectrum), as_dict(keys, values)
    assert spectrum.unresolved.shape == (0, 2) and got.keys() == exact.keys()
    assert max(abs(got[k] - exact[k]) for k in exact) <= within + 1e-12 * max(map(abs, exact.values()))


# ---- without noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES + CODED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_keys_and_values(scheme, dtype):
    for n, count in ((1, 1), (4, 3), (20, 20), (63, 5), (64, 5), (65, 5), (130, 7)):
        degree = scheme.get("degree")
        arguments = {**scheme, "degree": min(n, degree)} if degree else scheme
        keys, values = draw(n, min(count, n + 1) if degree else count, seed=n, degree=arguments.get("degree"))
        plan = so.SparseWHTPlan(n, len(keys), **arguments)
        spectrum = decode(plan, keys, values, backend="reference", dtype=dtype)
        assert_right(spectrum, keys, values, 1e-5 if dtype == torch.float32 else 0.0)
        assert spectrum.values.dtype == dtype and spectrum.noise_std == 0
        assert spectrum.residual_energy <= 64 * torch.finfo(dtype).eps ** 2 * values.square().sum()


@pytest.mark.parametrize("n", [3, 6, 9])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_the_dense_transform_gives(n, scheme):
    keys, values = draw(n, 1 << n >> 2, seed=1)
    everywhere = torch.tensor([[m >> (n - 1 - i) & 1 for i in range(n)] for m in range(1 << n)])
    f = function(everywhere, keys, values)
    spectrum = hadamard(1 << n) @ f.numpy() / (1 << n)
    plan = so.SparseWHTPlan(n, len(keys), **scheme)
    got = plan.decode(f[plan.queries(format="packed").squeeze(1)], backend="reference")
    dense = np.zeros(1 << n)
    dense[got.keys.squeeze(1).numpy()] = got.values.numpy()
    assert np.abs(dense - spectrum).max() < 1e-12 and not got.unresolved.numel()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from(SCHEMES), st.integers(1, 4), st.integers(0, 999))
def test_found_or_said(n, count, scheme, groups, seed):
    keys, values = draw(n, min(count, 1 << n), seed)
    spectrum = decode(so.SparseWHTPlan(n, len(keys), groups=groups, seed=seed, **scheme), keys, values)
    got, exact = found(spectrum), as_dict(keys, values)
    if spectrum.unresolved.numel():
        assert all(abs(got[k] - exact.get(k, 0)) < 1e-9 for k in got)
    else:
        assert got.keys() == exact.keys() and all(abs(got[k] - exact[k]) < 1e-9 for k in got)


@pytest.mark.parametrize("n", [6, 8, 10, 12])
def test_equal_magnitudes(n):
    """Sums of a few +-1 look like one coefficient most often."""
    complete = 0
    for seed in range(40):
        keys, values = draw(n, 1 + seed % 12, seed)
        spectrum = decode(so.SparseWHTPlan(n, len(keys), seed=seed), keys, values.sign())
        got, exact = found(spectrum), as_dict(keys, values.sign())
        assert all(abs(got[k] - exact.get(k, 0)) < 1e-9 for k in got)
        assert got.keys() == exact.keys() or spectrum.unresolved.numel()
        complete += got.keys() == exact.keys()
    assert complete >= 39


@pytest.mark.parametrize("scheme", SCHEMES + CODED[:1], ids=str)
def test_zero_and_constant(scheme):
    plan = so.SparseWHTPlan(12, 3, **scheme)
    for dtype in (torch.float32, torch.float64):
        nothing = plan.decode(torch.zeros(plan.num_queries, dtype=dtype), backend="reference")
        assert len(nothing) == 0 and not nothing.unresolved.numel() and nothing.residual_energy == 0 == nothing.noise_std
        same = plan.decode(torch.full((plan.num_queries,), -2.5, dtype=dtype), backend="reference")
        assert found(same) == {(0,) * 12: -2.5} and not same.unresolved.numel()


def test_scales_do_not_matter():
    keys, values = draw(30, 8)
    plan = so.SparseWHTPlan(30, 8)
    y = function(plan.queries(), keys, values) + noise(plan.num_queries, 1e-3)
    first = plan.decode(y, backend="reference")
    for power in (-300, -40, 40, 300):
        other = plan.decode(y * 2.0**power, backend="reference")
        assert torch.equal(other.keys, first.keys) and torch.equal(other.values, first.values * 2.0**power)


def test_several_functions_are_decoded_as_each_alone():
    plan = so.SparseWHTPlan(40, 6, offsets="nso", repeats=2)
    y = torch.stack([function(plan.queries(), *draw(40, 1 + 2 * s, s)) + noise(plan.num_queries, 0.1 * s, s) for s in range(4)])
    for backend in (None, "reference"):
        for row, spectrum in zip(y, plan.decode(y, backend=backend)):
            alone = plan.decode(row, backend=backend)
            for name in ("keys", "values", "unresolved"):
                assert torch.equal(getattr(alone, name), getattr(spectrum, name))
            assert alone.residual_energy == spectrum.residual_energy and alone.noise_std == spectrum.noise_std


# ---- what is not sparse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES + CODED[:1], ids=str)
@pytest.mark.parametrize("noise_std", ["auto", 0.0])
def test_what_is_not_sparse_says_so(scheme, noise_std):
    n = 12
    plan = so.SparseWHTPlan(n, 10, **scheme)
    at = plan.queries(format="packed").squeeze(1)
    g = torch.Generator().manual_seed(0)
    for f in (
        torch.randn(1 << n, generator=g), torch.rand(1 << n, generator=g), torch.arange(1 << n).remainder(7).float(),
        torch.from_numpy(hadamard(1 << n) @ np.random.default_rng(0).choice([-1.0, 1.0], 1 << n)),
    ):  # fmt: skip
        spectrum = plan.decode(f[at].double(), noise_std)
        unresolved = spectrum.unresolved
        assert spectrum.residual_energy > 0.2 * f.double().var() and unresolved.unique(dim=0).shape == unresolved.shape
        if (spectrum.keys != 0).any() and noise_std == "auto":  # a few stand out of the others, which are taken for noise
            assert spectrum.noise_std == pytest.approx(spectrum.residual_energy**0.5, rel=0.1)
        else:
            assert unresolved.shape[0] > plan.bins // 4
            assert unresolved[:, 0].max() < plan.groups and unresolved[:, 1].max() < plan.bins


def test_more_coefficients_than_the_plan_is_for():
    keys, values = draw(30, 200)
    spectrum = decode(so.SparseWHTPlan(30, 50), keys, values)  # B = 128, eta = 0.64: above the threshold of 0.41
    assert_right(spectrum, keys, values)
    keys, values = draw(30, 600)
    spectrum = decode(so.SparseWHTPlan(30, 50), keys, values)
    exact = as_dict(keys, values)
    kept = found(spectrum)
    assert spectrum.unresolved.numel() and all(abs(kept[k] - exact.get(k, 0)) < 1e-9 for k in kept)
    energy = values.square().sum().item()
    assert spectrum.residual_energy + sum(v * v for v in kept.values()) == pytest.approx(energy, rel=0.1)


# ---- with noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decibels", "repeats"), [(5, 3), (0, 5)])
@pytest.mark.parametrize("majority", ["soft", "hard"])
def test_recovery_at_the_published_signal_to_noise_ratios(decibels, repeats, majority):
    sigma = (40 / 10 ** (decibels / 10)) ** 0.5
    for seed in range(4):
        keys, values = draw(20, 40, seed)
        plan = so.SparseWHTPlan(20, 40, b=7, offsets="nso", repeats=repeats, majority=majority, seed=seed)
        spectrum = decode(plan, keys, values.sign(), sigma, seed)
        if majority == "soft":
            assert_right(spectrum, keys, values.sign(), 6 * sigma / plan.num_queries**0.5 * 3)
        assert abs(spectrum.noise_std - sigma) < 0.1 * sigma
        assert not found(spectrum).keys() - as_dict(keys, values).keys()


@pytest.mark.parametrize("scheme", [*SCHEMES, dict(offsets="bch", degree=3, repeats=2)], ids=str)
@pytest.mark.parametrize("sigma", [1e-3, 0.3])
def test_noise_is_estimated(scheme, sigma):
    n, count = 60, 16
    keys, values = draw(n, count, 2, degree=scheme.get("degree"))
    plan = so.SparseWHTPlan(n, 2 * count, **scheme)
    for noise_std in ("auto", sigma):
        spectrum = decode(plan, keys, values, sigma, noise_std=noise_std)
        assert spectrum.noise_std == pytest.approx(sigma, rel=0.1 if noise_std == "auto" else 1e-9)
        assert spectrum.residual_energy == pytest.approx(sigma**2, rel=0.25)
        assert_right(spectrum, keys, values, 6 * sigma / (plan.bins * plan.num_offsets) ** 0.5)


@pytest.mark.parametrize("scheme", SCHEMES + CODED, ids=str)
def test_noise_alone_gives_no_keys(scheme):
    plan = so.SparseWHTPlan(24, 8, **scheme)
    spectra = plan.decode(noise(40 * plan.num_queries, 2.0).view(40, -1), 2.0)
    assert sum(len(s) for s in spectra) == 0 and sum(s.unresolved.shape[0] for s in spectra) == 0
    assert all(abs(s.residual_energy - 4) < 1.5 for s in spectra)
    for spectrum in plan.decode(noise(10 * plan.num_queries, 2.0).view(10, -1)):
        assert len(spectrum) == 0 and spectrum.unresolved.numel() and abs(spectrum.noise_std - 2) < 0.2  # nothing stands out


def test_the_estimate_of_the_noise():
    g = np.random.default_rng(0)
    for bins, degrees, occupied in ((64, 30, 0), (64, 30, 40), (256, 10, 150), (16, 100, 6)):
        energy = torch.from_numpy(g.chisquare(degrees, (3, bins)) / degrees * 0.7)
        energy[torch.from_numpy(np.stack([g.permutation(bins) < occupied for _ in range(3)]))] += 50.0
        tau = chi2.isf(1e-4 / (3 * bins), degrees) / degrees
        empty = energy[energy < 50].mean()
        assert noise_of(energy, floor_of(energy), tau) == pytest.approx(empty.item(), rel=0.02)
    energy = torch.zeros(3, 4, dtype=torch.float64)
    assert floor_of(energy) == noise_of(energy, floor_of(energy), 3.0) == 0
    energy[:, 0] = 2.0
    assert floor_of(energy) == (8 * 2.0**-53) ** 2 * 2 and floor_of(energy.float()) == (8 * 2.0**-24) ** 2 * 2


# ---- codes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "degree"), [(1, 1), (3, 2), (7, 2), (10, 3), (15, 3), (12, 5)])
def test_every_small_set_is_located_and_no_other_syndrome_misread(n, degree):
    rows, m = bch.check_rows(n, degree).numpy(), bch.field_bits(n)

    def syndrome(places):
        signs = rows[:, list(places)].sum(1, dtype=int) % 2
        return [int((signs[i * m : (i + 1) * m] << np.arange(m)).sum()) for i in range(degree)]

    small = {}
    for size in range(min(degree, n) + 1):
        for places in combinations(range(n), size):
            assert bch.locate(syndrome(places), n) == list(places)
            small[tuple(syndrome(places))] = list(places)
    assert len(small) == sum(1 for size in range(min(degree, n) + 1) for _ in combinations(range(n), size))
    every = list(product(range(1 << m), repeat=degree))
    for sums in every[:: max(1, len(every) // 2000)]:
        assert bch.locate(list(sums), n) == small.get(sums)


@pytest.mark.parametrize("m", range(2, 17))
def test_fields(m):
    powers, logarithms = bch.tables(m).numpy()
    size = (1 << m) - 1
    assert sorted(powers[:size]) == list(range(1, size + 1)) and powers[0] == 1  # alpha generates all
    assert (logarithms[powers[:size]] == np.arange(size)).all()
    doubled = powers[: size - 1] << 1
    assert (np.where(doubled >> m, doubled ^ bch.PRIMITIVE[m], doubled) == powers[1:size]).all()


def test_chase_corrects_wrong_signs():
    keys, values = draw(100, 10, degree=4)
    right = {}
    for chase in (0, 6):
        plan = so.SparseWHTPlan(100, 10, offsets="bch", degree=4, chase=chase)
        spectra = [decode(plan, keys, values.sign(), 3.0, seed) for seed in range(5)]
        right[chase] = sum(found(s).keys() == as_dict(keys, values).keys() for s in spectra)
    assert right[6] >= 4 and right[0] <= 2


# ---- the operator --------------------------------------------------------------------------------------------------


CHECKS = {
    "exact": ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"),
    "bch": ("test_schema",),
}


@pytest.mark.parametrize("scheme", [SCHEMES[0], CODED[0]], ids=str)
def test_operator(scheme):
    plan = so.SparseWHTPlan(9, 2, **scheme)
    y = torch.stack([function(plan.queries(), *draw(9, 2, s, degree=2)) for s in range(2)])
    call = plan._call("auto")
    for backend, tests in ((None, ("test_schema", "test_faketensor")), ("reference", CHECKS[scheme["offsets"]])):
        args = (y, plan._index, list(plan.tables), list(map(int, call[:10])), list(call[10:]), backend)
        torch.library.opcheck(torch.ops.spectralops.sparse_wht_decode.default, args, test_utils=tests)
    with pytest.raises(ValueError, match="index must be int32 of shape"):
        torch.ops.spectralops.sparse_wht_decode(y, plan._index[:, :1].contiguous(), *args[2:])


@pytest.mark.parametrize("backend", [None, "reference"])
def test_deterministic_whatever_the_threads(backend):
    threads = torch.get_num_threads()
    plan = so.SparseWHTPlan(60, 30, offsets="nso", repeats=2)
    y = function(plan.queries(), *draw(60, 30)) + noise(plan.num_queries, 1.0)
    kept, done = y.clone(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            done.append(plan.decode(y, backend=backend))
    finally:
        torch.set_num_threads(threads)
    assert len(done[0]) >= 29 and torch.equal(y, kept)
    for other in done[1:]:
        assert torch.equal(done[0].keys, other.keys) and torch.equal(done[0].values, other.values)
        assert torch.equal(done[0].unresolved, other.unresolved) and done[0].residual_energy == other.residual_energy
