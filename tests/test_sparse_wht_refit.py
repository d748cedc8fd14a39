"""The least-squares refit of a decoded spectrum: against a dense least-squares solution, its derivatives, noise, threads."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from spectralops import SparseSpectrum, SparseWHTPlan
from spectralops.ops import bits, sparse_wht_refit

SCHEMES = [("exact", {}), ("nso", {"repeats": 2}), ("bch", {"degree": 3})]


@pytest.fixture(autouse=True)
def as_before():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sampled(n, count, offsets, options, noise=0.0, dtype=torch.float64, seed=0, **more):
    """A plan, the true spectrum and its noisy values at the plan's points."""
    g = torch.Generator().manual_seed(seed)
    plan = SparseWHTPlan(n, count, offsets=offsets, **options, **more)
    chosen = torch.zeros(count, n, dtype=torch.uint8)
    for i, row in enumerate(chosen):
        row[torch.randperm(n, generator=g)[: 1 + i % 3]] = 1
    keys = bits.pack(chosen).unique(dim=0)
    signs = 1 - 2.0 * torch.randint(0, 2, (len(keys),), generator=g)
    s = SparseSpectrum(n, keys, (signs * (1 + torch.rand(len(keys), generator=g))).double())
    y = s.evaluate(plan.queries())
    return plan, s, (y + noise * torch.randn(y.shape, generator=g, dtype=torch.float64)).to(dtype)


def least_squares(plan, keys, y):
    """Over the points asked, each weighted by how many samples of the bins it makes."""
    signs = 1 - 2 * bits.parity(plan.queries(format="packed")[:, None], keys).double()
    times = torch.ones_like(y) if plan._index is None else plan._index.long().flatten().bincount(minlength=len(y)).double()
    weight = times.double().sqrt()
    return torch.linalg.lstsq(signs * weight[:, None], (y.double() * weight)[:, None]).solution[:, 0]


@pytest.mark.parametrize(("offsets", "options"), SCHEMES)
@pytest.mark.parametrize("n", [9, 70])
@pytest.mark.parametrize("iterated", [False, True])
def test_is_least_squares(offsets, options, n, iterated, monkeypatch):
    if iterated:
        monkeypatch.setattr(sparse_wht_refit, "DENSE", 0)
    plan, _, y = sampled(n, 7, offsets, options, noise=0.2 if offsets != "exact" else 0.0)
    got = plan.decode(y, refit=True)
    assert len(got) >= 6 and got.values.dtype == torch.float64 and got.values.abs().diff().le(0).all()
    assert torch.allclose(got.values, least_squares(plan, got.keys, y), rtol=1e-10)
    single = plan.decode(y.float(), refit=True)
    assert single.values.dtype == torch.float32 and torch.equal(single.keys, got.keys)
    assert torch.allclose(single.values.double(), got.values, rtol=1e-6)


def test_few_bins_and_keys_that_no_sample_tells_apart():
    plan, s, y = sampled(9, 12, "nso", {}, b=1)  # many keys in a bin
    fitted = sparse_wht_refit.refit(plan, s.keys, y)
    assert torch.allclose(fitted, s.values)
    twice = torch.cat([s.keys, s.keys[:1]])  # the same key twice: the solution of least norm
    fitted = sparse_wht_refit.refit(plan, twice, y)
    assert torch.allclose(fitted[0] + fitted[-1], s.values[0]) and torch.allclose(fitted[0], fitted[-1])
    assert sparse_wht_refit.refit(plan, s.keys[:0], y).shape == (0,)


def test_points_in_their_order_and_bins_that_do_not_count():
    plan, s, y = sampled(30, 6, "exact", {}, groups=1, b=3)
    assert plan._index is None
    noisy = (y + 0.1 * torch.randn(y.shape, dtype=torch.float64)).requires_grad_()
    fitted = sparse_wht_refit.refit(plan, s.keys, noisy)
    assert torch.allclose(fitted, least_squares(plan, s.keys, noisy.detach()))
    assert gradcheck(lambda t: sparse_wht_refit.refit(plan, s.keys, t), noisy, fast_mode=True)
    plan, s, _ = sampled(30, 6, "exact", {}, b=4)
    missed = SparseSpectrum(30, s.keys[:1] ^ 0b101, 3 * s.values[:1])
    y = s.evaluate(plan.queries()) + missed.evaluate(plan.queries())
    bins = torch.stack([(bits.parity(missed.keys, m) << torch.arange(plan.b)).sum() for m in plan._points[0]])
    unresolved = torch.stack([torch.arange(plan.groups), bins], 1)
    drawn, exact = sparse_wht_refit.refit(plan, s.keys, y), sparse_wht_refit.refit(plan, s.keys, y, unresolved)
    assert torch.allclose(exact, s.values) and not torch.allclose(drawn, s.values)
    every = torch.cartesian_prod(torch.arange(plan.groups), torch.arange(plan.bins))
    assert torch.allclose(sparse_wht_refit.refit(plan, s.keys, y, every), drawn)  # none would be left: all count


@pytest.mark.parametrize(("offsets", "options"), SCHEMES[1:])
@pytest.mark.parametrize("b", [3, 5])
def test_is_better_than_the_peeling_under_noise(offsets, options, b):
    """b = 3 leaves bins unresolved: they are left out, for the keys in them that were not found."""
    errors, complete = {False: 0.0, True: 0.0}, 0
    for seed in range(6):
        plan, s, y = sampled(40, 24, offsets, options, noise=0.4, seed=seed, b=b)
        true = dict(zip(map(tuple, s.keys.tolist()), s.values.tolist()))
        for refit in (False, True):
            got = plan.decode(y, 0.4, refit=refit)
            pairs = zip(got.keys.tolist(), got.values.tolist())
            errors[refit] += sum((v - true.get(tuple(k), 0.0)) ** 2 for k, v in pairs)
        complete += got.unresolved.numel() == 0
    assert (complete < 3) == (b == 3) and errors[True] < (0.95 if b == 3 else 0.9) * errors[False]


@pytest.mark.parametrize(("offsets", "options"), SCHEMES)
@pytest.mark.parametrize("iterated", [False, True])
def test_derivatives(offsets, options, iterated, monkeypatch):
    if iterated:
        monkeypatch.setattr(sparse_wht_refit, "DENSE", 0)
    plan, _, y = sampled(8, 3, offsets, options, b=2)
    y.requires_grad_()
    keys = plan.decode(y).keys
    assert len(keys) == 3

    def f(samples):
        return sparse_wht_refit.refit(plan, keys, samples)

    assert gradcheck(f, y, fast_mode=True) and gradgradcheck(f, y, fast_mode=True)


def test_values_of_a_decode_stay_attached():
    plan, s, y = sampled(30, 5, "exact", {})
    rows = torch.stack([y, -2 * y]).requires_grad_()
    spectra = plan.decode(rows)
    with torch.no_grad():  # read later, the graph is that of the decode
        values = [spectrum.values for spectrum in spectra]
    for spectrum, v in zip(spectra, values):
        assert v.requires_grad and not spectrum.keys.requires_grad
        v.sum().backward()
    assert torch.allclose(rows.grad[0] @ y, s.values.sum()) and torch.allclose(rows.grad[1] @ y, s.values.sum())
    # f(m) at other points from the samples: the gradient of one value is what that point takes from each sample
    y.requires_grad_()
    points = torch.randint(0, 2, (4, 30), dtype=torch.uint8)
    f = plan.decode(y).evaluate(points)
    (g,) = torch.autograd.grad(f[2], y)
    assert torch.allclose(g @ y, f[2]) and torch.allclose(f, s.evaluate(points))
    with torch.no_grad():
        assert not plan.decode(y, refit=True).values.requires_grad
    assert not plan.decode(y.detach(), refit=True).values.requires_grad


def test_threads_change_no_bit():
    plan, _, y = sampled(12, 40, "nso", {"repeats": 2}, noise=0.1, dtype=torch.float32)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        z = y.clone().requires_grad_()
        got = plan.decode(z)
        (g,) = torch.autograd.grad(got.values.square().sum(), z)
        found.append((got.keys, got.values.detach(), g))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0]))
