"""Cases of the sparse Walsh-Hadamard kernels in Triton's interpreter, for test_triton_sparse_wht.py; the
process is interpret_worker.py's.
"""

import sys

import interpret_worker
from interpret_worker import main

CASES = {}


def case(*arguments):
    """Register a function once for each tuple of arguments."""

    def register(function):
        for given in arguments or ((),):
            name = " ".join([function.__name__, *map(str, given)])
            CASES[name] = lambda function=function, given=given: function(*given)
        return function

    return register


def problem(n, k, seed=0, count=1, noise=0.0, degree=None, std="auto", **plan):
    """(count, Q) samples of functions of k keys, the plan and its call."""
    import torch

    from spectralops.ops import bits
    from spectralops.ops.sparse_wht_plan import SparseWHTPlan
    from spectralops.ops.sparse_wht_reference import walsh_sum

    plan = SparseWHTPlan(n, k, degree=degree, **plan)
    g = torch.Generator().manual_seed(seed)
    points, rows = plan.queries(format="packed"), []
    for _ in range(count):
        chosen = torch.rand(k, n, generator=g).argsort(1).argsort(1) < degree if degree else torch.rand(k, n, generator=g) < 0.5
        values = (1 + torch.rand(k, generator=g)) * torch.randn(k, generator=g).sign()
        samples = walsh_sum(points, bits.pack_bits(chosen.to(torch.uint8)), values)
        rows.append(samples + noise * torch.randn(samples.shape, generator=g))
    return torch.stack(rows), plan, plan._call(std)


def found(decoded, i):
    """key -> value of function i."""
    count = int(decoded.counts[i])
    assert not decoded.keys[i, count:].any() and not decoded.values[i, count:].any()
    return dict(zip(map(tuple, decoded.keys[i, :count].tolist()), decoded.values[i, :count]))


def run(values, plan, call):
    from spectralops.kernels import sparse_wht

    return sparse_wht.sparse_wht_decode(values, plan._index, plan.tables, call)


def check(values, plan, call, tally=None):
    """The reference's keys; values, energies and noise by the tolerance rule; inputs unwritten.  -> what was
    found.
    """
    import torch

    from spectralops import testing
    from spectralops.ops import sparse_wht_reference as spec

    given, tally = values.clone(), tally or testing.Tally()
    with testing.guard_bands():
        got = run(values, plan, call)
    plain = spec.decode(values, plan._index, plan.tables, call)
    exact = spec.decode(values.double(), plan._index, plan.tables, call)
    assert torch.equal(values, given)
    for a, b, name in zip(got, plain, got._fields):
        assert a.dtype == b.dtype and a.shape == b.shape, name
    for i in range(len(values)):
        mine, its, true = (found(d, i) for d in (got, plain, exact))
        assert mine.keys() == its.keys()
        if its and its.keys() == true.keys():  # the rounding of another dtype may end a decode elsewhere
            tally.add("values", *(torch.stack([m[key] for key in its]) for m in (mine, its, true)))
            if plan.repeats > 1:  # else what is left is rounding
                tally.add("energy", got.energy[i], plain.energy[i], exact.energy[i])
                tally.add("noise", got.noise[i, 0], plain.noise[i, 0], exact.noise[i, 0])
    tally.check()
    return got


@case()
def exact():
    """Several functions; some points are asked twice; twice the same bits."""
    import torch

    values, plan, call = problem(10, 4, count=2)
    assert plan._index is not None
    got = check(values, plan, call)
    assert got.counts.tolist() == [4, 4]
    assert all(torch.equal(a, b) for a, b in zip(got, run(values, plan, call)))


@case()
def every_bit_is_a_bin():
    values, plan, call = problem(5, 3, b=5, groups=2)
    assert plan.num_offsets == 1
    assert check(values, plan, call).counts.tolist() == [3]


@case()
def several_words():
    """n > 64, and more samples than a tile has."""
    values, plan, call = problem(130, 2, groups=2)
    assert plan.tables.base.shape[-1] == 3 and plan.num_offsets > 128
    assert check(values, plan, call).counts.tolist() == [2]


@case(("soft", 1), ("soft", 3), ("hard", 3))
def nso(majority, repeats):
    values, plan, call = problem(9, 3, offsets="nso", repeats=repeats, noise=0.3, majority=majority, groups=2, seed=3)
    assert int(check(values, plan, call).counts) == 3


@case()
def nso_words():
    values, plan, call = problem(66, 1, offsets="nso", noise=0.2, std=0.2, groups=1, b=1, count=4)
    assert plan._index is None
    assert check(values, plan, call).counts.tolist() == [1] * 4


@case()
def bch():
    values, plan, call = problem(70, 2, offsets="bch", degree=3, repeats=2, noise=0.1, groups=2, chase=0)
    assert check(values, plan, call).counts.tolist() == [2]


@case()
def bch_chase():
    """A sign is wrong: without the chase a key would be missed."""
    values, plan, call = problem(12, 2, offsets="bch", degree=2, groups=2, noise=0.9, std=0.9, chase=2, seed=3)
    with_it, without = (int(check(values, plan, c).counts) for c in (call, call._replace(chase=0)))
    assert (without, with_it) == (1, 2)


@case((1, (2, 2, 4)), (2, (2, 3, 3)))
def two_keys_look_like_one(seed, counts):
    """Equal coefficients in one bin whose signs differ at two of 131 offsets: within the noise, until one sample
    or another group is asked.
    """
    import torch

    from spectralops.ops import bits
    from spectralops.ops.sparse_wht_plan import SparseWHTPlan
    from spectralops.ops.sparse_wht_reference import walsh_sum

    plan = SparseWHTPlan(130, 1, offsets="nso", groups=2, b=1)
    keys, std = bits.pack_bits(torch.eye(130, dtype=torch.uint8)[1:3]), (plan.bins * 0.1) ** 0.5
    y = walsh_sum(plan.queries(format="packed"), keys, torch.ones(2))
    values, call = (y + std * torch.randn(len(y), generator=torch.Generator().manual_seed(seed)))[None], plan._call(std)
    right = check(values, plan, call)
    assert set(found(right, 0)) == set(map(tuple, keys.tolist()))
    without = call._replace(tau_one=1e9), call._replace(tau_one=1e9, refuse=1e9)
    assert (int(right.counts), *(int(check(values, plan, c).counts) for c in without)) == counts


@case()
def bch_refused():
    """The noise makes a key of one group's bin that the others know nothing of; by every way through."""
    import torch

    from spectralops.kernels import configs

    values, plan, call = problem(12, 2, offsets="bch", degree=2, groups=3, noise=1.2, std=1.2, chase=2, seed=20)
    whole = check(values, plan, call)
    assert (int(whole.counts), int(check(values, plan, call._replace(refuse=1e9)).counts)) == (2, 3)
    configs.SPARSE_WHT_WHOLE, configs.SPARSE_WHT_ROUNDS = 0, 2
    assert all(torch.equal(a, b) for a, b in zip(run(values, plan, call)[:4], whole[:4]))


@case()
def bch_syndromes():
    """Every set of at most `degree` positions from its syndrome, and none from others, against the
    reference's decoder.
    """
    global located, tl  # a kernel sees its module's names alone
    import torch
    import triton
    import triton.language as tl

    from spectralops.kernels.sparse_wht_bch import located
    from spectralops.ops import bch as oracle

    @triton.jit
    def kernel(p_field, p_odd, p_keys, p_there, degree, log2, n, T: tl.constexpr, DP: tl.constexpr):
        o_t, o_d = tl.arange(0, T), tl.arange(0, DP)
        odd = tl.load(p_odd + o_t[:, None] * degree + o_d[None, :], mask=(o_d < degree)[None, :], other=0)
        keys, there = located(p_field, odd, degree, (1 << log2) - 1, (0, 1, 0, n, 1, 0, 1), DP, 1)
        tl.store(p_keys + o_t[:, None], keys)
        tl.store(p_there + o_t, there.to(tl.int32))

    for n, degree in ((14, 3), (40, 4)):
        m, count = oracle.field_bits(n), 64
        odd = torch.randint(0, 1 << m, (count, degree), dtype=torch.int32)
        chosen = torch.rand(count // 2, n).argsort(1).argsort(1) < torch.randint(0, degree + 1, (count // 2, 1))
        sums = (chosen.long() @ oracle.check_rows(n, degree).T.long()) % 2
        odd[: count // 2] = (sums.view(-1, degree, m) << torch.arange(m)).sum(2)
        keys, there = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int32)
        kernel[(1,)](oracle.tables(m), odd, keys, there, degree, m, n, T=count, DP=triton.next_power_of_2(degree + 1))
        expect = [oracle.locate(row, n) for row in odd.tolist()]
        assert there.tolist() == [int(e is not None) for e in expect] and 0 < sum(there) < count
        assert all(not t or key == sum(1 << p for p in e) for key, t, e in zip(keys.tolist(), there.tolist(), expect))


@case()
def all_ways_through():
    """Programs for every few bins, loops of several steps everywhere: the same bits as one program with all
    at once.
    """
    import torch

    from spectralops.kernels import configs

    values, plan, call = problem(16, 8, groups=2, count=1, seed=1)
    whole = check(values, plan, call)
    assert 2 < int(whole.counts)
    configs.SPARSE_WHT = tuple(row._replace(cells=4, list=2, known=2) for row in configs.SPARSE_WHT)
    configs.SPARSE_WHT_WHOLE, configs.SPARSE_WHT_ROUNDS = 0, 2
    assert all(torch.equal(a, b) for a, b in zip(run(values, plan, call)[:4], whole[:4]))


@case()
def too_many():
    """The list of keys is full, or the rounds are over, while bins still wait for what they lose."""
    values, plan, call = problem(10, 4, groups=2, seed=5)
    assert int(check(values, plan, call._replace(capacity=2)).counts) == 2
    assert int(check(values, plan, call._replace(rounds=1)).counts) > 0


@case()
def nothing_there():
    import torch

    values, plan, call = problem(6, 1, groups=2)
    for given in (torch.zeros_like(values), torch.randn(values.shape, generator=torch.Generator().manual_seed(1))):
        check(given, plan, call)
    assert all(t.shape[0] == 0 for t in run(values[:0], plan, call))


@case((5, 3, 1), (100, 70, 3), (0, 4, 1), (4, 0, 1))
def walsh_sum(m, k, words):
    import torch

    from spectralops import testing
    from spectralops.kernels import sparse_wht
    from spectralops.ops import sparse_wht_reference as spec

    tally = testing.Tally()
    for _ in range(4):
        points, keys = (torch.randint(-(1 << 63), (1 << 63) - 1, (size, words)) for size in (m, k))
        values = torch.randn(k)
        got = sparse_wht.walsh_sum(points, keys, values)
        assert got.shape == (m,) and got.dtype == torch.float32
        if m:
            tally.add("y", got, spec.walsh_sum(points, keys, values), spec.walsh_sum(points, keys, values.double()))
    tally.check()


if __name__ == "__main__":
    interpret_worker.CASES = CASES
    main(sys.argv[1:])
