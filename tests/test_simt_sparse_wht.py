"""The CUDA kernels of sparse_wht_decode and walsh_sum on the shim of csrc/simt, through the Python glue, against the reference."""

import ctypes
import functools
from types import SimpleNamespace

import pytest
import torch
from simt_build import CSRC, check, has_sanitizer, run_sanitized, simt_core, simt_library

import spectralops.backends._sparse_wht as glue
from spectralops.ops import sparse_wht_reference as spec
from spectralops.ops.sparse_wht_plan import SparseWHTPlan
from spectralops.testing import Tally, guard_bands

H200 = (90, 132, 227 * 1024)
SMALL = (90, 3, 5000)  # too little shared memory for any problem here: every phase a launch

INSIDE, OUTSIDE = "a block a problem", "a launch a phase"
PLANS = {
    "exact": dict(n=12, k=6),
    "exact, two words": dict(n=70, k=5),
    "exact, b = 0": dict(n=9, k=1, b=0),
    "exact, b = n": dict(n=5, k=6, b=5),
    "exact, repeats": dict(n=10, k=5, repeats=3, seed=2),
    "nso": dict(n=12, k=5, offsets="nso", repeats=3, noise=0.3),
    "nso, one repeat": dict(n=66, k=4, offsets="nso"),
    "nso, hard": dict(n=10, k=5, offsets="nso", repeats=4, majority="hard", noise=0.2),
    "bch": dict(n=40, k=6, offsets="bch", degree=3, repeats=2, noise=0.2),
    "bch, chase": dict(n=30, k=5, offsets="bch", degree=3, repeats=1, chase=3, noise=0.55),
    "one group": dict(n=20, k=4, groups=1, b=6),
    "more than fit": dict(n=12, k=40, b=4),
}


def where(_):
    return 0, 1, 0


def as_core(library):
    """The library as _loader.core() gives it: integers in, RuntimeError out."""

    def call(name):
        function = getattr(library, "spectralops_" + name)
        return lambda *args: check(library, function(*args[:-1], ctypes.c_void_p(args[-1])))

    return SimpleNamespace(
        sparse_wht_workspace=library.spectralops_sparse_wht_workspace,
        sparse_wht_decode=call("sparse_wht_decode"), walsh_sum=call("walsh_sum"),
    )  # fmt: skip


def generator(seed):
    return torch.Generator().manual_seed(seed)


def problem(n, k, rows=1, noise=0.0, draw=0, given=True, **options):
    """float64 answers of `rows` functions of k coefficients, and what the decoder is told."""
    plan = SparseWHTPlan(n, k, **options)
    points, words = plan.queries(format="packed"), (n + 63) // 64
    values = torch.empty(rows, len(points), dtype=torch.float64)
    for r in range(rows):
        g = generator(100 * draw + r)
        order = torch.rand(k, n, generator=g).argsort(1)
        chosen = torch.zeros(k, n, dtype=torch.uint8)
        ones = options.get("degree") or n
        for row in range(k):
            chosen[row, order[row, : int(torch.randint(0, ones + 1, (), generator=g))]] = 1
        chosen = chosen.unique(dim=0)
        keys = torch.zeros(len(chosen), words, dtype=torch.int64)
        for p in range(n):
            keys[:, p // 64] |= chosen[:, p].long() << (p % 64)
        sign = 1 - 2.0 * torch.randint(0, 2, (len(keys),), generator=g)
        coefficients = sign * (1 + torch.rand(len(keys), dtype=torch.float64, generator=g))
        values[r] = spec.walsh_sum(points, keys, coefficients) + noise * torch.randn(len(points), dtype=torch.float64, generator=g)
    call = plan._call(noise if given else "auto")
    return values, plan._index, plan.tables, call


def decoded(args, dtype):
    values, *others = args
    return glue.sparse_wht_decode(where, values.to(dtype), *others)


def as_dict(result, r):
    count = int(result.counts[r])
    return dict(zip(map(tuple, result.keys[r, :count].tolist()), result.values[r, :count].tolist()))


def compare(tally, args, dtype):
    got = decoded(args, dtype)
    plain = spec.decode(args[0].to(torch.float32), *args[1:])
    exact = spec.decode(args[0].to(dtype).to(torch.float64), *args[1:])
    call, same = args[3], plain if dtype == torch.float32 else exact
    for r in range(len(args[0])):
        ours, theirs, wide = as_dict(got, r), as_dict(same, r), as_dict(exact, r)
        assert ours.keys() == theirs.keys()
        count = len(ours)
        assert not got.keys[r, count:].any() and not got.values[r, count:].any()
        left, its = (t.energy[r] > call.tau * t.noise[r, 0] for t in (got, same))
        assert torch.equal(left, its)
        other = as_dict(plain, r)
        if ours.keys() == wide.keys() == other.keys() and ours:
            pick = lambda d, dtype: torch.tensor([d[key] for key in wide], dtype=dtype)  # noqa: E731
            tally.add("values", pick(ours, dtype), pick(other, torch.float32), pick(wide, torch.float64))
            tally.add("floor", got.noise[r, 1:] ** 0.5, plain.noise[r, 1:] ** 0.5, exact.noise[r, 1:] ** 0.5 * eps_ratio(dtype))
            if args[0].shape[0] and bool(left.any()):
                tally.add("energy", got.energy[r], plain.energy[r], exact.energy[r])
    return got


def eps_ratio(dtype):
    return torch.finfo(dtype).eps / torch.finfo(torch.float64).eps


@pytest.fixture(scope="module")
def library():
    return simt_core()


@pytest.fixture(autouse=True)
def _core(library, monkeypatch):
    monkeypatch.setattr(glue, "core", functools.cache(lambda: as_core(library)))
    library.simt_set_order(0)
    library.simt_set_limits(*H200)
    yield
    library.simt_set_order(0)
    library.simt_set_limits(*H200)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("driver", [INSIDE, OUTSIDE])
@pytest.mark.parametrize("case", PLANS)
def test_the_reference(library, case, driver, dtype):
    if driver == OUTSIDE:
        library.simt_set_limits(*SMALL)
    tally, found = Tally(), 0
    for draw in range(2):
        args = problem(**PLANS[case], draw=draw, rows=2)
        found += int(compare(tally, args, dtype).counts.sum())
    assert found
    tally.check()
