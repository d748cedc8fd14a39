"""csrc/cpu/sparse_wht*: the decoder against the specification and scipy's transform, on every instruction set of this machine."""

import time

import numpy as np
import pytest
import torch
from cpu_isas import as_before, instruction_sets  # noqa: F401  (as_before is a fixture)
from scipy.linalg import hadamard

from spectralops import SparseWHTPlan, backends
from spectralops._loader import core
from spectralops.backends import _sparse_wht
from spectralops.ops import bits
from spectralops.ops import sparse_wht_reference as spec
from spectralops.testing import Tally, guard_bands, poison

CPU = backends.backend("cpu")


class Problem:
    """rows functions of k coefficients of size 0.5 to 1.5, their values at a plan's queries, and what a decoder is told."""

    def __init__(self, n, k, *, rows=1, noise=0.0, told=None, dtype=torch.float64, weight=None, seed=0, **settings):
        g = torch.Generator().manual_seed(seed)
        offsets = "bch" if weight else settings.pop("offsets", "exact")
        self.plan = SparseWHTPlan(n, k, degree=weight, offsets=offsets, seed=seed, **settings)
        points = self.plan.queries().numpy().astype(np.float64)
        values, self.keys = [], []
        for _ in range(rows):
            keys = torch.rand(k, n, generator=g).argsort(1) < (weight or torch.randint(0, n + 1, (k, 1), generator=g))
            size = (torch.rand(k, generator=g, dtype=torch.float64) + 0.5) * (1 - 2 * torch.randint(0, 2, (k,), generator=g))
            odd = (points @ keys.numpy().T.astype(np.float64)) % 2
            values.append(torch.from_numpy((1 - 2 * odd) @ size.numpy()))
            self.keys.append(set(map(tuple, bits.pack(keys).tolist())))
        self.values = torch.stack(values)
        self.values += noise * torch.randn(self.values.shape, generator=g, dtype=torch.float64)
        self.values = self.values.to(dtype)
        self.call = self.plan._call(noise if told is None else told)

    def run(self, decode, dtype=None, **changed):
        values = self.values.to(dtype or self.values.dtype, copy=True)  # copied: whoever writes to it does so alone
        out = decode(values, self.plan._index, self.plan.tables, self.call._replace(**changed))
        assert decode is spec.decode or torch.equal(values, self.values)
        return out


def spectra(out):
    """A function's {key: value} for each row."""
    counts = out.counts.tolist()
    return [dict(zip(map(tuple, k[:c].tolist()), v[:c].tolist())) for k, v, c in zip(out.keys, out.values, counts)]


def coefficients(out, keys):
    """In the order of `keys`, of all rows."""
    return torch.tensor([row[key] for row, its in zip(spectra(out), keys) for key in its], dtype=out.values.dtype)


def agree(noiseless, **settings):
    """Keys equal; coefficients, energies and noise within twice the specification's error; what follows the keys is zero; all
    instruction sets bit for bit the same."""
    tally, dtype = Tally(), settings.get("dtype", torch.float64)
    for seed in range(settings.pop("draws", 2)):
        p = Problem(seed=seed, **settings)
        reference, told = p.run(spec.decode, torch.float32), {}
        if noiseless and dtype == torch.float32:  # the rounding of its values is noise to float64
            told["noise"] = float(reference.noise.max())
        truth = p.run(spec.decode, torch.float64, **told)
        keys, same = [set(row) for row in spectra(truth)], None
        for isa in instruction_sets():
            with poison():
                got = p.run(CPU.sparse_wht_decode)
            assert [set(row) for row in spectra(got)] == keys, isa
            same = same or got
            assert all(torch.equal(a, b) for a, b in zip(got, same)), isa
        for row, count in enumerate(got.counts.tolist()):
            assert not got.keys[row, count:].any() and not got.values[row, count:].any()
        if [set(row) for row in spectra(reference)] == keys and any(keys):
            tally.add("values", *(coefficients(o, keys) for o in (got, reference, truth)))
        if noiseless:  # what is left is rounding
            mine, its = (o.energy > p.call.tau * o.noise[:, :1, None] for o in (got, truth))
            assert torch.equal(mine, its)
        else:
            tally.add("energy", got.energy, reference.energy, truth.energy)
            tally.add("noise", got.noise[:, 0], reference.noise[:, 0], truth.noise[:, 0])
    tally.check(factor=5**0.5 if dtype == torch.float64 else 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        dict(n=20, k=30), dict(n=60, k=12, rows=3), dict(n=64, k=9), dict(n=65, k=9), dict(n=130, k=9),
        dict(n=600, k=3, groups=2), dict(n=9, k=20, b=9, groups=2), dict(n=7, k=1, b=0), dict(n=1, k=1), dict(n=5, k=3, groups=4),
        dict(n=40, k=12, b=2), dict(n=40, k=12, b=2, groups=5, repeats=3),
        dict(n=63, k=6, offsets="nso"), dict(n=64, k=6, offsets="nso", repeats=2, majority="hard"),
        dict(n=70, k=6, weight=3), dict(n=200, k=6, weight=4, repeats=2, chase=2), dict(n=15, k=6, weight=1),
    ],
    ids=str,
)  # fmt: skip
def test_noiseless(settings, dtype):
    agree(True, dtype=dtype, **settings)


@pytest.mark.parametrize(("dtype", "told"), [(torch.float32, None), (torch.float64, "auto")], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        dict(n=20, k=10, offsets="nso", repeats=3, noise=1.0), dict(n=70, k=6, offsets="nso", noise=0.5),
        dict(n=20, k=10, offsets="nso", repeats=4, noise=1.0, majority="hard"),
        dict(n=17, k=5, offsets="nso", majority="hard", noise=0.3),
        dict(n=100, k=6, weight=3, noise=0.7, rows=2), dict(n=33, k=6, weight=2, repeats=3, noise=1.0),
        dict(n=100, k=10, weight=3, noise=1.0, majority="hard", chase=3), dict(n=20, k=10, noise=0.05),
    ],
    ids=str,
)  # fmt: skip
def test_noise(settings, dtype, told):
    agree(False, dtype=dtype, told=told, **settings)


@pytest.mark.parametrize(("b", "groups"), [(0, 2), (3, 1), (6, 3), (10, 2)])
def test_against_the_dense_transform(b, groups):
    """F = H f / 2^n by scipy's matrix: what is found is in it, and all of it where nothing is unresolved."""
    n = 10
    g = np.random.default_rng(b)
    dense = np.zeros(1 << n)
    dense[g.choice(1 << n, 1 + b, replace=False)] = g.choice([-1.0, 1.0], 1 + b) * g.uniform(0.5, 1.5, 1 + b)
    f = torch.from_numpy(hadamard(1 << n) @ dense)
    plan = SparseWHTPlan(n, 1 + b, b=b, groups=groups)
    values = f[plan.queries(format="packed")[:, 0]]
    got, reference = plan.decode(values, 0.0, backend="cpu"), plan.decode(values.float(), 0.0, backend="reference")
    assert len(got) == 1 + b or len(got.unresolved) > 0
    assert b != 10 or len(got.unresolved) == 0  # a bin for each key
    mine, its = (dict(zip(o.keys[:, 0].tolist(), o.values.tolist())) for o in (got, reference))
    assert mine.keys() == its.keys() <= set(dense.nonzero()[0].tolist())
    tally, dtypes = Tally(), (torch.float64, torch.float32, torch.float64)
    if mine:
        tally.add("values", *(torch.tensor([o[key] for key in mine], dtype=t) for o, t in zip((mine, its, dense), dtypes)))
        tally.check(factor=5**0.5)


def test_chase_finds_what_the_signs_miss():
    """Noise flips signs in some bins: more keys than without the search over the least reliable ones, none of them false."""
    found = {0: 0, 6: 0}
    for seed in range(4):
        p = Problem(120, 8, weight=3, noise=1.5, seed=seed)
        for chase in found:
            its = spectra(p.run(CPU.sparse_wht_decode, chase=chase))[0]
            keys = {key for key, value in its.items() if abs(value) > 0.1}  # what was found and taken back leaves its rounding
            found[chase] += len(keys)
            assert keys <= p.keys[0]
    assert found[6] > found[0]
    assert spectra(p.run(CPU.sparse_wht_decode, chase=3))[0].keys() == spectra(p.run(spec.decode, chase=3))[0].keys()


@pytest.mark.parametrize(
    "changed", [dict(capacity=1), dict(capacity=7), dict(rounds=1), dict(rounds=2), dict(capacity=9, rounds=3)], ids=str
)
def test_capacity_and_rounds_run_out(changed):
    tally = Tally()
    nso = dict(n=12, k=8, b=3, offsets="nso", repeats=2)
    for settings in (dict(n=30, k=40, b=5, rows=2), dict(n=60, k=10, weight=3, noise=0.4), nso):
        p = Problem(**settings)
        truth, got = p.run(spec.decode, **changed), p.run(CPU.sparse_wht_decode, **changed)
        assert torch.equal(truth.counts, got.counts) and torch.equal(truth.keys, got.keys)
        reference = p.run(spec.decode, torch.float32, **changed)
        assert torch.equal(reference.keys, truth.keys)
        for name in ("values", "energy"):
            tally.add(name, *(getattr(o, name) for o in (got, reference, truth)))
    tally.check(factor=5**0.5)


@pytest.mark.parametrize("settings", [dict(n=40, k=200), dict(n=40, k=100, offsets="nso"), dict(n=500, k=50, weight=5)], ids=str)
@pytest.mark.parametrize("told", [0.0, "auto"])
def test_not_sparse_ends_and_says_so(settings, told):
    p = Problem(**settings)
    p.values = torch.randn(p.values.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    out = p.plan.decode(p.values[0], told, backend="cpu")
    assert time.perf_counter() - start < 5
    assert len(out) == 0 and len(out.unresolved) > 0


@pytest.mark.parametrize(
    "settings",
    [
        dict(n=300, k=60), dict(n=20, k=30, rows=7), dict(n=300, k=40, rows=3),
        dict(n=100, k=100, weight=3, noise=0.5, told="auto"),
    ],
    ids=str,
)  # fmt: skip
def test_threads_do_not_matter(settings):
    p, found = Problem(**settings), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        with guard_bands():
            found.append(p.run(CPU.sparse_wht_decode))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))


def test_functions_do_not_meet():
    """Each of many as if alone, whatever its size, and with NaN and infinity next to it."""
    p = Problem(30, 10, rows=6)
    alone = [Problem(30, 10, rows=6).run(CPU.sparse_wht_decode)]
    p.values[1] *= 1e150
    p.values[3] = 1e300
    p.values[4, 5], p.values[5, 7] = float("nan"), float("inf")
    for _ in instruction_sets():
        got = CPU.sparse_wht_decode(p.values, p.plan._index, p.plan.tables, p.call)
        assert all(torch.equal(a[r], b[r]) for a, b in zip(got, alone[0]) for r in (0, 2))
        assert torch.equal(got.keys[1], alone[0].keys[1]) and got.counts[4:].tolist() == [0, 0]


def test_empty():
    p = Problem(30, 10)
    p.values = p.values[:0]
    out = p.run(CPU.sparse_wht_decode)
    assert out.keys.shape == (0, p.call.capacity, 1) and out.noise.shape == (0, 2)
    p = Problem(30, 10)
    p.values.zero_()
    for told in (-1.0, 0.0):
        out = p.run(CPU.sparse_wht_decode, noise=told)
        assert not any(t.any() for t in out)


def test_repeated_queries_share_their_values():
    p = Problem(12, 20, groups=3)
    assert p.plan._index is not None and p.plan._index.max() + 1 < p.plan._index.numel()
    q = p.values[:, p.plan._index.flatten().long()]
    direct = CPU.sparse_wht_decode(q, None, p.plan.tables, p.call)
    assert all(torch.equal(a, b) for a, b in zip(direct, p.run(CPU.sparse_wht_decode)))


def test_workspace_is_checked():
    p = Problem(30, 10)
    out = _sparse_wht.new_outputs(p.values, p.plan.tables, p.call)
    data = _sparse_wht.fields(p.values, p.plan._index, p.plan.tables, p.call, out)
    buffer = torch.frombuffer(bytearray(_sparse_wht.struct.pack(_sparse_wht.FORMAT, *data)), dtype=torch.uint8)
    sizes = [core().sparse_wht_workspace(buffer.data_ptr(), -1, threads) for threads in (1, 2)]
    assert 0 < sizes[0] <= sizes[1]
    with pytest.raises((ValueError, RuntimeError), match="workspace_bytes"):
        core().sparse_wht_decode(buffer.data_ptr(), -1, 1, 0)
