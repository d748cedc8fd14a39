"""Where the sparse transform could be wrong without saying so: values of any size, offsets that share points, keys
that look like one, noise that is no noise, operands that no plan made.
"""

import pytest
import torch
from sparse_wht_functions import draw, function

import spectralops as so
from spectralops.ops.sparse_wht_reference import Call

SCHEMES = {
    "exact": dict(),
    "nso": dict(offsets="nso", repeats=3),
    "bch": dict(offsets="bch", degree=3),
}


def as_dict(spectrum):
    return {tuple(b): v for b, v in zip(spectrum.bits().tolist(), spectrum.values.tolist())}


def waves(n):
    """x_0 and x_1 x_2 as signs: (queries) -> values."""

    def f(points):
        signs = 1 - 2 * points.double()
        return signs[:, 0] + signs[:, 1] * signs[:, 2]

    keys = {tuple(int(i == 0) for i in range(n)), tuple(int(i in (1, 2)) for i in range(n))}
    return f, keys


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_values_of_any_size(scheme, backend):
    plan = so.SparseWHTPlan(20, 6, **scheme)
    f, keys = waves(20)
    y = f(plan.queries())
    for dtype, scales in (
        (torch.float32, [1e-37, 1e-23, 1.0, 1e19, 1e37]),
        (torch.float64, [1e-300, 1e-170, 1.0, 1e160, 1e300]),
    ):
        rows = torch.stack([(y * s).to(dtype) for s in [*scales, 0.0]])
        for noise_std in ("auto", 0.0):
            for scale, spectrum in zip(scales, plan.decode(rows, noise_std, backend=backend)):
                assert as_dict(spectrum).keys() == keys and not spectrum.unresolved.numel() and spectrum.noise_std == 0
                torch.testing.assert_close(spectrum.values / scale, torch.ones(2, dtype=dtype), rtol=1e-5, atol=0)
    assert len(plan.decode(rows)[-1]) == 0
    noisy = plan.decode((y + 0.05 * torch.randn(y.shape)) * 1e200, 0.05e200, backend=backend, refit=True)
    assert as_dict(noisy).keys() == keys and noisy.noise_std == pytest.approx(0.05e200) and noisy.threshold < 1e200


@pytest.mark.parametrize("n, k, scheme", [
    (6, 3, dict(repeats=3)), (8, 4, dict(repeats=10)), (10, 10, dict(repeats=3)), (6, 6, dict(repeats=5, groups=1)), (4, 1, dict()),
])  # fmt: skip
def test_offsets_that_share_points_are_not_counted_twice(n, k, scheme):
    plan = so.SparseWHTPlan(n, k, offsets="nso", **scheme)
    assert plan.num_queries < plan.num_samples
    f, keys = waves(n)
    y = f(plan.queries())
    for noise_std in (0.05, "auto"):
        spectra = plan.decode(y + 0.05 * torch.randn(500, len(y), dtype=y.dtype), noise_std)
        wrong = sum(as_dict(s).keys() != keys and not s.unresolved.numel() for s in spectra)
        assert wrong <= (0 if noise_std == 0.05 else 1)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_two_keys_that_differ_at_a_few_offsets_are_not_one(backend):
    for seed in range(20):
        plan = so.SparseWHTPlan(40, 2, offsets="nso", b=1, seed=seed)  # few bins: the keys often share one
        keys = torch.zeros(2, 40, dtype=torch.uint8)
        keys[0, 3] = keys[1, 7] = 1
        y = function(plan.queries(), keys, torch.ones(2, dtype=torch.float64)) + 0.05 * torch.randn(plan.num_queries)
        spectrum = plan.decode(y, 0.05, backend=backend)
        for key, value in as_dict(spectrum).items():
            assert key in {tuple(k.tolist()) for k in keys} and abs(value - 1) < 0.1
        assert len(spectrum) == 2 or spectrum.unresolved.numel()


def test_false_keys_under_strong_noise():
    false = silent = 0
    for seed in range(20):
        plan = so.SparseWHTPlan(30, 10, offsets="bch", degree=5, seed=seed)
        keys, values = draw(30, 10, seed, degree=5)
        values = values.sign()
        y = function(plan.queries(), keys, values)
        wanted = {tuple(k.tolist()) for k in keys}
        for s in plan.decode(y + 3.0 * torch.randn(10, len(y), dtype=y.dtype)):
            false += len(as_dict(s).keys() - wanted)
            silent += as_dict(s).keys() != wanted and not s.unresolved.numel()
    assert false <= 1 and silent <= 1


def test_what_fills_all_bins_alike_is_not_called_noise():
    keys, values = draw(12, 1500, 0)
    for scheme in SCHEMES.values():
        plan = so.SparseWHTPlan(12, 4, **scheme)
        spectrum = plan.decode(function(plan.queries(), keys, values))
        assert spectrum.unresolved.numel() or len(spectrum) > 100


def test_solve_grows_until_all_is_found():
    keys, values = draw(24, 60, 1)
    asked = []

    def f(points):
        asked.append(points)
        return function(points, keys, values).numpy()

    spectrum, plan = so.SparseWHTPlan(24, 2).solve(f, chunk=500)
    assert as_dict(spectrum).keys() == {tuple(k.tolist()) for k in keys} and not spectrum.unresolved.numel()
    points = torch.cat(asked)
    assert torch.equal(points, plan.queries()) and plan.b > 2 and max(map(len, asked)) <= 500
    short, small = so.SparseWHTPlan(24, 2).solve(f, max_queries=plan.num_queries - 1)
    assert short.unresolved.numel() and small.num_queries < plan.num_queries
    whole, full = so.SparseWHTPlan(3, 1).solve(lambda p: torch.arange(8.0)[(p.long() << torch.tensor([2, 1, 0])).sum(1)])
    assert full.b <= 3 and not whole.unresolved.numel() and len(whole) == 4
    with pytest.raises(TypeError, match="f must be callable"):
        so.SparseWHTPlan(4, 1).solve(3)
    with pytest.raises(ValueError, match="f must give"):
        so.SparseWHTPlan(4, 1).solve(lambda p: p)
    with pytest.raises(TypeError, match="refit must be"):
        plan.decode(torch.zeros(plan.num_queries), refit="x")


def call_of(plan, dtype=torch.float64):
    f, _ = waves(plan.n)
    call = plan._call(0.0)
    return [f(plan.queries()).to(dtype)[None], plan._index, list(plan.tables), list(map(int, call[:10])), list(call[10:])]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_operands_that_no_plan_made(scheme, backend):
    plan = so.SparseWHTPlan(10, 4, **scheme)
    operator = torch.ops.spectralops.sparse_wht_decode
    operator(*call_of(plan), backend=backend)

    def refuses(place, change):
        args = call_of(plan)
        args[place] = change(args[place])
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            operator(*args, backend=backend)

    for change in (lambda v: v[0], lambda v: v[None], lambda v: v.half(), lambda v: v.long()):
        refuses(0, change)
    for change in (lambda i: i[:, :, :-1], lambda i: i.long(), lambda i: i.float(), lambda i: i[:0]):
        refuses(1, change)
    refuses(2, lambda t: t[:-1])
    for j, table in enumerate(plan.tables):
        for change in (lambda t: t[..., :-1], lambda t: t.float(), lambda t: t.flatten(), lambda t: t.short()):
            if change(table).shape != table.shape or change(table).dtype != table.dtype:
                refuses(2, lambda ts, j=j, change=change: [change(t) if i == j else t for i, t in enumerate(ts)])
    for place, name in enumerate(Call._fields[:10]):
        for wrong in (-1, 1 << 40) if name not in ("hard", "degree") else ():
            refuses(3, lambda s, place=place, wrong=wrong: [wrong if i == place else v for i, v in enumerate(s)])
    refuses(4, lambda levels: [float("nan"), *levels[1:]])
    if scheme.get("offsets") == "bch":
        refuses(2, lambda t: [*t[:-1], t[-1] + 10**6])


@pytest.mark.parametrize("wrong", [10**6, -1, -(2**31)])
def test_an_index_out_of_range_reads_nothing(wrong):
    plan = so.SparseWHTPlan(10, 4)
    args = call_of(plan)
    args[1] = torch.full_like(args[1], wrong)
    keys, values, counts, energy, noise = torch.ops.spectralops.sparse_wht_decode(*args, backend="cpu")
    assert counts.tolist() == [0] and energy.isnan().all()
