"""The sparse Walsh-Hadamard transform on a GPU, in CUDA C++ and Triton: keys as the reference's on the CPU, values
within twice its error; batches, streams, graphs, determinism, isolation. Needs torch, numpy and pytest alone.
"""

import pytest
import torch

import spectralops as so
from spectralops import testing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

BACKENDS = ["cuda", "triton", "reference"]
PLANS = {
    "exact": dict(n=20, k=40),
    "exact, small": dict(n=30, k=20),
    "exact, wide": dict(n=150, k=60),
    "exact, n = b": dict(n=6, k=32),
    "nso": dict(n=20, k=40, offsets="nso", repeats=3, b=7),
    "nso, hard": dict(n=70, k=20, offsets="nso", repeats=5, majority="hard"),
    "bch": dict(n=100, k=30, offsets="bch", degree=4),
    "bch, repeats": dict(n=64, k=20, offsets="bch", degree=3, repeats=2, chase=4),
}


def function(n, k, degree=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    keys = torch.zeros(k, n, dtype=torch.uint8)
    for row in keys:
        row[torch.randperm(n, generator=draw)[: 1 + int(torch.randint(degree or n, (), generator=draw))]] = 1
    keys = keys.unique(dim=0)
    values = torch.randn(len(keys), generator=draw, dtype=torch.float64)
    return keys, values.sign() * (0.5 + values.abs())


def samples(plan, keys, values):
    points = plan.queries().cpu()
    return (1 - 2 * ((points.double() @ keys.double().T) % 2)) @ values


def as_dict(spectrum):
    return {tuple(b.tolist()): v.item() for b, v in zip(spectrum.bits().cpu(), spectrum.values.cpu())}


def run(plan, values, backend, **more):
    try:
        with testing.poison():
            return plan.decode(values, backend=backend, **more)
    except RuntimeError as error:
        if "cannot run" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_decode(backend, dtype, name):
    tally = testing.Tally()
    for seed in range(4):
        plan = so.SparseWHTPlan(**PLANS[name], seed=seed, device="cuda")
        small = plan.to("cpu")
        keys, exact = function(plan.n, min(plan.k, 1 << plan.n - 1), plan.degree, seed)
        y = samples(plan, keys, exact)
        y += (0.2 if plan.offsets != "exact" else 0) * torch.randn(y.shape, dtype=torch.float64)
        got = as_dict(run(plan, y.to("cuda", dtype), backend))
        plain = as_dict(small.decode(y.to(dtype), backend="reference"))
        wide = as_dict(small.decode(y, backend="reference"))
        assert got.keys() == wide.keys() == plain.keys()
        order = sorted(wide)
        low = plain if dtype == torch.float32 else as_dict(small.decode(y.float(), backend="reference"))
        three = (torch.tensor([d[k] for k in order], dtype=t) for d, t in ((got, dtype), (low, torch.float32), (wide, torch.float64)))
        tally.add("values", *three)
    tally.check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_functions_at_once(backend):
    plan = so.SparseWHTPlan(30, 20, device="cuda")
    functions = [function(30, 20, seed=s) for s in range(16)]
    y = torch.stack([samples(plan, *f) for f in functions]).float().cuda()
    y = y.repeat(1 if backend == "reference" else 40, 1)
    spectra = run(plan, y, backend)
    for i, spectrum in enumerate(spectra):
        keys, exact = functions[i % 16]
        assert as_dict(spectrum).keys() == {tuple(k.tolist()) for k in keys} and not spectrum.unresolved.numel()
    again = run(plan, y, backend)
    assert all(torch.equal(a.values, b.values) and torch.equal(a.keys, b.keys) for a, b in zip(spectra, again))
    assert run(plan, y[:0], backend) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_problem(backend):
    plan = so.SparseWHTPlan(500, 500, device="cuda")
    keys, exact = function(500, 500)
    bins = plan.to("cpu")
    spectrum = run(plan, so.SparseSpectrum(500, _pack(keys), exact).evaluate(bins.queries()).float().cuda(), backend)
    assert as_dict(spectrum).keys() == {tuple(k.tolist()) for k in keys} and not spectrum.unresolved.numel()


def _pack(keys):
    from spectralops.ops import bits

    return bits.pack(keys)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_sparse_ends_and_says_so(backend):
    plan = so.SparseWHTPlan(14, 8, device="cuda")
    spectrum = run(plan, torch.randn(plan.num_queries, device="cuda"), backend)
    assert spectrum.unresolved.numel() and len(spectrum) < 8
    with pytest.raises(ValueError, match="finite"):
        plan.decode(torch.full((plan.num_queries,), float("nan"), device="cuda"), backend=backend)
    with pytest.raises(ValueError, match="one device"):
        plan.decode(torch.zeros(plan.num_queries), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_another_stream(backend):
    plan = so.SparseWHTPlan(24, 10, device="cuda")
    y = samples(plan, *function(24, 10)).float().cuda()
    expect = as_dict(run(plan, y, backend))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = as_dict(run(plan, y.clone(), backend))
    assert got == expect


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_walsh_sum(backend, dtype):
    tally = testing.Tally()
    for n, k, m in ((20, 40, 1000), (130, 7, 333), (64, 300, 50), (5, 1, 1)):
        keys, values = function(n, k)
        points = torch.randint(0, 2, (m, n), dtype=torch.uint8)
        try:
            got = so.SparseSpectrum(n, _pack(keys).cuda(), values.to("cuda", dtype)).evaluate(points.cuda(), backend=backend)
        except RuntimeError as error:
            assert "cannot run" in str(error)
            pytest.skip(str(error))
        exact = so.SparseSpectrum(n, _pack(keys), values).evaluate(points, backend="reference")
        plain = so.SparseSpectrum(n, _pack(keys), values.float()).evaluate(points, backend="reference")
        tally.add(f"n = {n}", got, plain.cuda(), exact.cuda())
    tally.check()


def test_sparse_wht_in_memory():
    x = torch.zeros(1 << 16, device="cuda", dtype=torch.float64)
    keys = torch.randperm(1 << 16)[:30]
    x[keys.cuda()] = torch.randn(30, dtype=torch.float64).sign().cuda()
    x = so.hadamard_transform(x)
    for offsets in ("auto", "exact", "nso", "dense"):
        spectrum = so.sparse_wht(x, 30, offsets=offsets)
        assert set(spectrum.keys[:, 0].tolist()) == set(keys.tolist()) and not spectrum.unresolved.numel()
