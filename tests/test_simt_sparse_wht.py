"""The CUDA kernels of sparse_wht_decode and walsh_sum on the shim of csrc/simt, against the reference."""

import contextlib
import ctypes
import functools
import math
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
    "bch, chase": dict(n=30, k=5, offsets="bch", degree=3, repeats=1, chase=3, noise=2.8),
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
        values[r] = spec.walsh_sum(points, keys, coefficients)
        values[r] += noise * torch.randn(len(points), dtype=torch.float64, generator=g)
    call = plan._call(noise if given else "auto")._replace(rounds=12)  # launches are what takes time here
    return values, plan._index, plan.tables, call


def decoded(args, dtype):
    values, *others = args
    return glue.sparse_wht_decode(where, values.to(dtype), *others)


def as_dict(result, r):
    count = int(result.counts[r])
    return dict(zip(map(tuple, result.keys[r, :count].tolist()), result.values[r, :count].tolist()))


def floor_units(result, r):
    """The floor of the noise, in units of the roundoff that it is made from."""
    return result.noise[r, 1:].double().sqrt() / torch.finfo(result.noise.dtype).eps


def compare(tally, args, dtype):
    """Keys as those of the reference in this dtype; numbers beside the float32 reference."""
    got, plain = decoded(args, dtype), spec.decode(args[0].to(torch.float32), *args[1:])
    exact = spec.decode(args[0].to(dtype).to(torch.float64), *args[1:])
    call, same = args[3], plain if dtype == torch.float32 else exact
    for r in range(len(args[0])):
        ours, theirs, wide = as_dict(got, r), as_dict(plain, r), as_dict(exact, r)
        assert ours.keys() == as_dict(same, r).keys()
        count = len(ours)
        assert not got.keys[r, count:].any() and not got.values[r, count:].any()
        left, its = (t.energy[r] > call.tau * t.noise[r, 0] for t in (got, same))
        assert torch.equal(left, its)
        torch.testing.assert_close(floor_units(got, r), floor_units(same, r), rtol=1e-5, atol=0)
        if ours.keys() != wide.keys() or ours.keys() != theirs.keys() or not ours:
            continue
        results = (ours, dtype), (theirs, torch.float32), (wide, torch.float64)
        tally.add("values", *(torch.tensor([d[key] for key in wide], dtype=t) for d, t in results))
        if bool(left.any()) or call.noise > 0:
            tally.add("energy", got.energy[r], plain.energy[r], exact.energy[r])
            tally.add("noise", got.noise[r, :1], plain.noise[r, :1], exact.noise[r, :1])
    return got


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
def test_the_reference(library, dtype):
    tally = Tally()
    for number, (case, options) in enumerate(PLANS.items()):
        args = problem(**options, given=number % 2 == 0, draw=number, rows=2)
        for limits in (H200, SMALL):
            library.simt_set_limits(*limits)
            assert compare(tally, args, dtype).counts.any(), case
    tally.check()


def test_which_driver():
    """What the tests above mean by little shared memory: a workspace in place of it."""
    args = problem(**PLANS["exact"])
    sizes = []
    for limits in (H200, SMALL):
        simt_core().simt_set_limits(*limits)
        with workspaces() as asked:
            decoded(args, torch.float32)
        sizes.append(asked[0])
    assert sizes[0] == 0 < sizes[1]


@contextlib.contextmanager
def workspaces():
    asked, plain = [], glue._workspace
    glue._workspace = lambda size, device: asked.append(size) or plain(size, device)
    try:
        yield asked
    finally:
        glue._workspace = plain


CHASED = dict(n=30, k=5, offsets="bch", degree=3, repeats=1, noise=2.8)


def test_the_chase_finds_more():
    counts = [int(decoded(problem(**CHASED, chase=chase, rows=3), torch.float32).counts.sum()) for chase in (0, 3)]
    assert counts[0] < counts[1]


def equal_pair(n=60, rows=3):
    """Two keys of one position each and of one value, in the only bin: they differ at two offsets, where little is left."""
    plan = SparseWHTPlan(n, 2, offsets="nso", b=0, groups=1)
    points, values = plan.queries(format="packed"), []
    for row in range(rows):
        g = generator(row)
        keys = 1 << torch.randperm(n, generator=g)[:2, None]
        noise = 0.1 * torch.randn(len(points), dtype=torch.float64, generator=g)
        values.append(spec.walsh_sum(points, keys, torch.ones(2, dtype=torch.float64)) + noise)
    return torch.stack(values), plan._index, plan.tables, plan._call(0.3)


def split_votes():
    """Keys that some of their groups find, with a rho each, next to groups where they are too weak to be tried: what those
    have of a key is near enough to one rho and not to another."""
    args = problem(n=24, k=6, offsets="nso", repeats=2, noise=1.0, groups=4, rows=2, draw=1)
    call = args[3]
    return with_levels(args, refuse=3 / (call.repeats * (call.checks + 1)), tau_try=1 + 1.5**2 / call.noise)


def with_levels(args, **levels):
    return *args[:3], args[3]._replace(**levels)


# A level of the specification's steps 5 and 6, and functions that it decides.
LEVELS = {
    "tau_one": equal_pair,
    "refuse": lambda: problem(n=66, k=4, offsets="nso", noise=2.0, rows=3),
    "refuse, bch": lambda: with_levels(problem(**CHASED | {"noise": 4.5}, chase=3, rows=5), theta=12.0),
    "refuse, some votes": split_votes,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", LEVELS)
def test_each_level(library, case, dtype):
    args, tally = LEVELS[case](), Tally()
    without = with_levels(args, **{case.split(",")[0]: math.inf})
    for limits in (H200, SMALL):
        library.simt_set_limits(*limits)
        got, more = compare(tally, args, dtype), compare(tally, without, dtype)
        assert any(as_dict(got, r).keys() != as_dict(more, r).keys() for r in range(len(args[0])))
    tally.check()


@pytest.mark.parametrize("wrong", [-1, -(2**31), 2**31 - 1, "queries"])
def test_an_index_out_of_range_reads_nothing(library, wrong):
    values, index, tables, call = problem(**PLANS["exact"])
    index, group = index.clone(), 1
    index.view(tables.base.shape[0], -1)[group, 3] = values.shape[1] if wrong == "queries" else wrong
    for limits in (H200, SMALL):
        library.simt_set_limits(*limits)
        for dtype in (torch.float32, torch.float64):
            got = decoded((values, index, tables, call), dtype)
            bad = got.energy.isnan()
            assert bad[0, group].all() and bad.sum() == bad[0, group].numel() and not got.counts.any()


def test_keys_beyond_the_capacity(library):
    values, index, tables, call = problem(**PLANS["exact"])
    whole = spec.decode(values, index, tables, call)
    for capacity in (1, int(whole.counts) - 1):
        args = values, index, tables, call._replace(capacity=capacity)
        want = spec.decode(*args)
        for limits in (H200, SMALL):
            library.simt_set_limits(*limits)
            got = decoded(args, torch.float64)
            assert torch.equal(got.counts, want.counts) and torch.equal(got.keys, want.keys)


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("case", ["exact", "nso", "bch, chase", "more than fit"])
def test_the_order_of_threads_and_other_problems_change_nothing(library, case):
    values, *others = problem(**PLANS[case], rows=3, given=False)
    for limits in (H200, SMALL):
        library.simt_set_limits(*limits)
        library.simt_set_order(0)
        before = decoded((values, *others), torch.float32)
        for order in (1, 2, 3):
            library.simt_set_order(order)
            with guard_bands():
                assert same_bits(decoded((values, *others), torch.float32), before)
        alone = decoded((values[1:2], *others), torch.float32)
        assert same_bits(alone, [t[1:2] for t in before])


# ---- walsh_sum --------------------------------------------------------------------------------------------------------


SUMS = [(30, 5000, 40), (100, 4100, 33), (500, 4097, 3), (300, 4100, 5), (70, 9, 700), (20, 1, 1), (200, 4100, 0)]


@pytest.mark.parametrize("n, points, terms", SUMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums(library, n, points, terms, dtype):
    tally, words = Tally(), (n + 63) // 64
    for draw in range(3):
        g = generator(draw)
        m, k = (torch.randint(-(2**63), 2**63 - 1, (size, words), generator=g) for size in (points, terms))
        values = torch.randn(terms, dtype=dtype, generator=g)
        got = glue.walsh_sum(where, m, k, values)
        if not terms:
            assert not got.any()
            continue
        tally.add("sum", got, spec.walsh_sum(m, k, values.float()), spec.walsh_sum(m, k, values.double()))
        library.simt_set_order(draw + 1)
        with guard_bands():
            assert torch.equal(got, glue.walsh_sum(where, m, k, values))
        library.simt_set_order(0)
    tally.check()


SANITIZED = """
import torch, test_simt_sparse_wht as own, spectralops.backends._sparse_wht as glue
from simt_build import load
library = load({path!r})
glue.core = lambda: own.as_core(library)
for limits in (own.H200, own.SMALL):
    library.simt_set_limits(*limits)
    for plan in own.PLANS.values():
        own.decoded(own.problem(**plan, rows=2, given=False), torch.float64)
for n, points, terms in ((30, 300, 40), (300, 4100, 5)):
    m, k = (torch.ones(size, (n + 63) // 64, dtype=torch.int64) for size in (points, terms))
    glue.walsh_sum(own.where, m, k, torch.ones(terms))
print("done")
"""


@pytest.mark.parametrize("sanitize", ["address", "undefined"])
@pytest.mark.slow
def test_sanitized(sanitize):
    if not has_sanitizer(sanitize):
        pytest.skip(f"no runtime of the {sanitize} sanitizer")
    sources = [CSRC / "cuda" / "sparse_wht.cu", CSRC / "capi" / "sparse_wht.cpp", CSRC / "capi" / "status.cpp"]
    path = str(simt_library(sources, sanitize, support=(), stubs=True))
    done = run_sanitized(sanitize, SANITIZED.format(path=path))
    assert done.returncode == 0 and "done" in done.stdout, done.stderr[-3000:]
