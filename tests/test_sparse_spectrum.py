"""SparseSpectrum: the function, its transform, interaction indices by brute force over all coalitions, files, lazy batches."""

import copy
import itertools
import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from spectralops import SparseSpectrum, SparseWHTPlan
from spectralops.ops import bits, sparse_spectrum, sparse_wht_reference as spec
from spectralops.testing import assert_within


def random_spectrum(n, count, degree=None, dtype=torch.float64, seed=0):
    """`count` distinct keys at most, of at most `degree` ones."""
    g = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(count, n, dtype=torch.uint8)
    for row in chosen:
        ones = n if degree is None else degree
        row[torch.randperm(n, generator=g)[: int(torch.randint(0, ones + 1, (), generator=g))]] = 1
    keys = bits.pack(chosen).unique(dim=0)
    return SparseSpectrum(n, keys, torch.randn(len(keys), generator=g, dtype=torch.float64).to(dtype))


def cube(n):
    """(2^n, n): row m is m in binary, variable 0 first."""
    return torch.tensor(list(itertools.product((0, 1), repeat=n)), dtype=torch.uint8)


def by_definition(spectrum, points):
    """sum_k F[k] prod_i (-1)^(x_i k_i) in numpy."""
    parity = points.numpy().astype(np.int64) @ spectrum.bits().numpy().astype(np.int64).T
    return torch.from_numpy((1.0 - 2.0 * (parity % 2)) @ spectrum.values.detach().double().numpy())


# ---- the function ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 9, 64, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evaluate(n, dtype):
    s = random_spectrum(n, 40, dtype=dtype)
    points = torch.randint(0, 2, (70, 50, n), dtype=torch.uint8)
    truth = by_definition(s, points.reshape(-1, n)).view(70, 50)
    reference = spec.walsh_sum(bits.pack(points).flatten(0, 1), s.keys, s.values).view(70, 50)
    for backend in (None, "reference"):
        got = s.evaluate(points, backend=backend)
        assert got.dtype == dtype and got.shape == (70, 50)
        assert_within(got, reference, truth)
    for other in (torch.bool, torch.int8, torch.int64):
        assert torch.equal(s.evaluate(points.to(other)), s.evaluate(points))
    assert torch.equal(s.evaluate(points.mT.contiguous().mT[::2]), s.evaluate(points)[::2])
    assert s.evaluate(points[0, 0]).shape == () and s.evaluate(points[:0]).shape == (0, 50)


def test_evaluate_without_keys_and_in_pieces():
    none = SparseSpectrum(7, torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0))
    assert none.evaluate(cube(7)).tolist() == [0] * 128 and none.degree() == 0 and len(none.mobius().values) == 0
    assert none.shapley().tolist() == [0] * 7 and none.to_dense().tolist() == [0] * 128
    s = SparseSpectrum(13, torch.arange(4500)[:, None], torch.randn(4500, dtype=torch.float64))  # two pieces of keys and of points
    points = cube(13)[::7]
    assert_within(s.evaluate(points, backend="reference"), s.evaluate(points), by_definition(s, points))


def test_evaluate_refuses():
    s = random_spectrum(9, 5)
    for points, error, words in (
        (torch.zeros(3, 8, dtype=torch.uint8), ValueError, r"points must have shape \(\.\., 9\)"),
        (torch.tensor([[0, 1, 2] * 3]), ValueError, "from 0 to 2"),
        (torch.tensor([[0, 1, -1] * 3]), ValueError, "from -1 to 1"),
        (torch.zeros(3, 9), TypeError, "points must have dtype bool"),
        (torch.zeros(3, 9, dtype=torch.uint8, device="meta"), ValueError, "points is on meta|keys is on cpu"),
        ([[0] * 9], TypeError, "points must be a torch.Tensor"),
    ):
        with pytest.raises(error, match=words):
            s.evaluate(points)
    with pytest.raises(ValueError, match="backend must be"):
        s.evaluate(cube(9), backend="abacus")


def test_what_is_not_a_spectrum():
    keys, values = torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3)
    for arguments, words in (
        ((65, keys, values), r"keys must have shape \(K, 2\)"), ((9, keys, values[:2]), "values"), ((0, keys, values), "n must be"),
        ((9, keys, values), "keys must be distinct"), ((9, keys.to("meta"), values.to("meta")), "meta"),
        ((3, torch.tensor([[8]]), values[:1]), "keys must be of n = 3 bits"), ((3, torch.tensor([[-1]]), values[:1]), "n = 3 bits"),
        ((65, torch.tensor([[0, 2]]), values[:1]), "n = 65 bits"), ((65, torch.tensor([[5, 1], [5, 0], [5, 1]]), values), "distinct"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            SparseSpectrum(*arguments)
    keys = torch.arange(3)[:, None]
    for name, bad, error in (
        ("unresolved", torch.zeros(2, dtype=torch.int64), ValueError), ("unresolved", torch.zeros(1, 3, dtype=torch.int64), ValueError),
        ("unresolved", torch.zeros(1, 2), TypeError), ("unresolved", [[0, 1]], TypeError),
        ("residual_energy", float("nan"), ValueError), ("noise_std", -0.1, ValueError), ("threshold", float("inf"), ValueError),
        ("threshold", "1", TypeError), ("noise_std", True, TypeError), ("names", 3, ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match=f"{name} must"):
            SparseSpectrum(9, keys, values, **{name: bad})
    with pytest.raises(TypeError, match="values must have dtype"):
        SparseSpectrum(9, keys, values.half())
    assert SparseSpectrum(9, keys, values, residual_energy=math.inf).residual_energy == math.inf
    with pytest.raises(TypeError, match="n must be an int"):
        SparseSpectrum(9.0, keys, values)
    assert SparseSpectrum(np.int64(9), keys, values, noise_std=np.float32(1)).top(np.int32(2)).noise_std == 1.0
    assert len(SparseSpectrum(64, torch.tensor([[-1], [1 << 62]]), values[:2])) == 2


def test_mixed_words_that_meet_are_compared(monkeypatch):
    monkeypatch.setattr(sparse_spectrum.indices, "MIXER", 0)  # only the last word is left of them
    assert sparse_spectrum.indices.distinct(torch.tensor([[1, 3], [2, 3]]))
    assert not sparse_spectrum.indices.distinct(torch.tensor([[2, 3], [1, 3], [2, 3]]))


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 200])
def test_bits(n):
    """The integer sum_i x_i 2^(n - 1 - i) in Python, from any strides and types."""
    x = torch.randint(0, 2, (3, 7, n), dtype=torch.uint8)
    number = lambda row: sum(bit << (n - 1 - i) for i, bit in enumerate(row))  # noqa: E731
    words = lambda key: [(key >> (64 * w) & (1 << 64) - 1) for w in range(bits.words(n))]  # noqa: E731
    expected = [[words(number(row)) for row in rows] for rows in x.tolist()]
    for given in (x, x.bool(), x.long(), x.mT.contiguous().mT, x.transpose(0, 1).contiguous().transpose(0, 1)):
        packed = bits.pack(given)
        assert [[[w % (1 << 64) for w in row] for row in rows] for rows in packed.tolist()] == expected
        assert torch.equal(bits.unpack(packed, n), x) and torch.equal(bits.pack_bits(x.flip(-1)), packed)
    assert torch.equal(torch.func.vmap(bits.pack)(x), bits.pack(x))
    for part in (x[:0], x[:, :0], x[:1, :1]):
        assert torch.equal(bits.unpack(bits.pack(part), n), part)
        assert torch.equal(bits.pack(part.mT.contiguous().mT), bits.pack(part))


def test_keys_of_any_strides(tmp_path):
    weights = torch.randint(-(1 << 62), 1 << 62, (64,))
    for keys in (torch.tensor([[1, 2, 3]]).t(), torch.from_numpy(np.empty((0, 1), dtype=np.int64)), torch.tensor([[1, 9, 9]])[:, ::3],
                 torch.arange(12).view(4, 3)[:, :1], torch.empty_strided((2, 1), (7, 5), dtype=torch.int64).copy_(torch.tensor([[1], [2]]))):  # fmt: skip
        s, plain = (SparseSpectrum(5, k, torch.ones(len(k))) for k in (keys, keys.clone(memory_format=torch.contiguous_format)))
        assert s.sets() == plain.sets() and torch.equal(s.bits(), plain.bits()) and torch.equal(s.degrees(), plain.degrees())
        assert torch.equal(s.shapley(), plain.shapley()) and s.mobius().to_dict() == plain.mobius().to_dict()
        assert s.to_dict() == dict.fromkeys(plain.sets(), 1.0) and torch.equal(bits.digest(keys, weights), bits.digest(plain.keys, weights))
        s.save(tmp_path / "s.json")
        assert torch.equal(SparseSpectrum.load(tmp_path / "s.json").keys, plain.keys)


def test_derivatives_of_evaluate():
    s = random_spectrum(70, 6)
    points = torch.randint(0, 2, (11, 70), dtype=torch.uint8)
    signs = 1 - 2 * bits.parity(bits.pack(points)[:, None], s.keys).to(torch.float64)  # (M, K)

    def f(values):
        return SparseSpectrum(70, s.keys, values).evaluate(points)

    v = s.values.clone().requires_grad_()
    assert gradcheck(f, v) and gradgradcheck(f, v)
    assert torch.allclose(torch.func.jacrev(f)(s.values), signs)
    assert torch.allclose(torch.func.vmap(f)(torch.stack([s.values, 2 * s.values])), torch.stack([f(s.values), 2 * f(s.values)]))
    half_square = torch.func.grad(lambda x: f(x).square().sum() / 2)
    assert torch.allclose(torch.func.jacrev(half_square)(s.values), signs.T @ signs)
    op = torch.ops.spectralops.walsh_sum.default
    torch.library.opcheck(op, (bits.pack(points), s.keys, s.values))
    with pytest.raises(ValueError, match=r"\(M, W\), \(K, W\) and \(K,\)"):
        op(bits.pack(points), s.keys[:, :1], s.values)


def test_compiles():
    s = random_spectrum(20, 4)
    points = bits.pack(torch.randint(0, 2, (9, 20), dtype=torch.uint8))
    compiled = torch.compile(lambda v: torch.ops.spectralops.walsh_sum(points, s.keys, v) * 2, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(s.values), 2 * spec.walsh_sum(points, s.keys, s.values))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_evaluate_is_traced(dtype):
    s, points = random_spectrum(70, 6), torch.randint(0, 2, (5, 4, 70)).to(dtype)
    expected = s.evaluate(points)
    assert torch.equal(torch.compile(s.evaluate, backend="aot_eager", fullgraph=True)(points), expected)
    assert torch.equal(torch.func.vmap(s.evaluate)(points), expected)
    assert torch.equal(torch.func.vmap(torch.func.vmap(s.evaluate), in_dims=1, out_dims=1)(points), expected)


def test_dense():
    s = random_spectrum(9, 30)
    dense = s.to_dense()
    for key, value in zip(s.keys[:, 0].tolist(), s.values.tolist()):
        assert dense[key] == value
    assert (dense != 0).sum() == len(s)
    hadamard = 1 - 2 * (cube(9).long() @ cube(9).long().T % 2)
    assert torch.allclose(hadamard.double() @ dense, s.evaluate(cube(9)))
    v = s.values.clone().requires_grad_()
    assert gradcheck(lambda x: SparseSpectrum(9, s.keys, x).to_dense(), v)
    with pytest.raises(ValueError, match="n must be at most 28"):
        random_spectrum(29, 3).to_dense()


# ---- interactions ----------------------------------------------------------------------------------------------------


class Game:
    """v over all coalitions, and every index by its definition."""

    def __init__(self, spectrum):
        self.n = n = spectrum.n
        self.v = {tuple(i for i in range(n) if row[i]): y for row, y in zip(cube(n).tolist(), by_definition(spectrum, cube(n)).tolist())}
        self.coalitions = list(self.v)

    def derivative(self, s, t):
        """sum_(L within S) (-1)^(|S| - |L|) v(T + L)"""
        parts = (part for size in range(len(s) + 1) for part in itertools.combinations(s, size))
        return sum((-1) ** (len(s) - len(part)) * self.v[tuple(sorted(t + part))] for part in parts)

    def outside(self, s):
        return [t for t in self.coalitions if not set(s) & set(t)]

    def moebius(self, s, order):
        return self.derivative(s, ())

    def banzhaf(self, s, order):
        return sum(self.derivative(s, t) for t in self.outside(s)) / 2 ** (self.n - len(s))

    def shapley(self, s, order):
        n, size, f = self.n, len(s), math.factorial
        return sum(f(n - len(t) - size) * f(len(t)) / f(n - size + 1) * self.derivative(s, t) for t in self.outside(s))

    def shapley_taylor(self, s, order):
        if len(s) < order:
            return self.derivative(s, ())
        return order / self.n * sum(self.derivative(s, t) / math.comb(self.n - 1, len(t)) for t in self.outside(s))

    def sets(self, least, most):
        return [s for size in range(least, most + 1) for s in itertools.combinations(range(self.n), size)]

    def k_shapley(self, order):
        """Order by order: what the sets of n - 1 share of a set of n is given back in Bernoulli numbers."""
        bernoulli = (1, -1 / 2, 1 / 6, 0, -1 / 30)
        value = {s: self.shapley(s, 1) for s in self.sets(1, 1)}
        for size in range(2, order + 1):
            new = {s: self.shapley(s, size) for s in self.sets(size, size)}
            for s in value:
                value[s] += bernoulli[size - len(s)] * sum(x for t, x in new.items() if set(s) <= set(t))
            value.update(new)
        return value

    def faithful(self, order, shapley):
        """The polynomial of least weighted squares over the coalitions; Shapley's weights make the empty and the full one exact."""
        sets = self.sets(0, order)
        a = np.array([[set(s) <= set(t) for s in sets] for t in self.coalitions], dtype=float)
        y, size = np.array(list(self.v.values())), np.array([len(t) for t in self.coalitions])
        if not shapley:
            return dict(zip(sets, np.linalg.lstsq(a, y, rcond=None)[0]))
        ends = (size == 0) | (size == self.n)
        w = np.array([0 if e else (self.n - 1) / (math.comb(self.n, t) * t * (self.n - t)) for t, e in zip(size, ends)])
        zero = np.zeros((2, 2))
        system = np.block([[a.T @ (w[:, None] * a), a[ends].T], [a[ends], zero]])
        return dict(zip(sets, np.linalg.solve(system, np.concatenate([a.T @ (w * y), y[ends]]))[: len(sets)]))


def agree(game, got, expected):
    scale = max(map(abs, game.v.values()))
    found = got.to_dict()
    assert set(found) <= set(expected)
    for s, x in expected.items():
        assert abs(found.get(s, 0.0) - x) < 1e-11 * scale, s


GAMES = [random_spectrum(5, 200, seed=1), random_spectrum(7, 9, seed=2), random_spectrum(8, 5, degree=4, seed=3), random_spectrum(2, 9, seed=4)]


@pytest.mark.parametrize("s", GAMES)
def test_mobius_and_shapley(s):
    game = Game(s)
    m = s.mobius()
    agree(game, m, {t: game.moebius(t, 0) for t in game.sets(0, s.n)})
    assert m.sets() == sorted(m.sets(), key=lambda t: (len(t), t)) and m.bits().sum(1).tolist() == list(map(len, m.sets()))
    assert m.at(1, 0) == m.to_dict().get((0, 1), 0.0)
    expected = torch.tensor([game.shapley((i,), 1) for i in range(s.n)], dtype=torch.float64)
    assert torch.allclose(s.shapley(), expected)
    assert torch.allclose(s.shapley().sum(), s.evaluate(cube(s.n)[[0, -1]]).diff())


@pytest.mark.parametrize(("s", "order"), [(s, order) for s in GAMES for order in (1, 2, 3) if order <= s.n])
def test_interactions(s, order):
    game = Game(s)
    for index in ("banzhaf", "shapley", "shapley-taylor"):
        rule = getattr(game, index.replace("-", "_"))
        agree(game, s.interactions(order, index), {t: rule(t, order) for t in game.sets(1, order)})
    agree(game, s.interactions(order, "k-shapley"), game.k_shapley(order))
    agree(game, s.interactions(order, "faith-banzhaf"), game.faithful(order, False))
    if order < s.n:
        agree(game, s.interactions(order, "faith-shapley"), game.faithful(order, True))
    total = game.v[tuple(range(s.n))] - game.v[()]
    for index in ("k-shapley", "shapley-taylor"):
        assert abs(s.interactions(order, index).values.sum().item() - total) < 1e-10 * max(map(abs, game.v.values()))


def test_interactions_of_many_variables():
    s = random_spectrum(300, 30, degree=5, dtype=torch.float32)
    assert torch.allclose(s.interactions(1, "shapley").values.sum(), s.shapley().sum(), rtol=1e-5)
    m = s.mobius()
    points = torch.randint(0, 2, (50, 300), dtype=torch.uint8)
    inside = (points.long() @ m.bits().long().T) == m.bits().long().sum(1)
    assert m.values.dtype == torch.float32
    assert torch.allclose(inside.double() @ m.values.double(), by_definition(s, points), atol=1e-4)
    wide = SparseSpectrum(300, torch.full((1, 5), -1) & torch.tensor([-1, -1, -1, -1, (1 << 44) - 1]), torch.ones(1))
    with pytest.raises(ValueError, match=r"up to 300 variables.*top"):
        wide.mobius()
    full = SparseSpectrum(4096, torch.full((1, 64), -1), torch.ones(1))
    with pytest.raises(ValueError, match="up to 4096 variables"):
        full.mobius()
    with pytest.raises(ValueError, match="beyond float64"):
        full.interactions(4096, "banzhaf")
    assert len(wide.interactions(1, "shapley").values) == 0 and len(wide.interactions(2, "shapley").values) == 44850
    for bad, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="order must be"):
            s.interactions(bad)
    with pytest.raises(ValueError, match="index must be one of 'banzhaf'"):
        s.interactions(2, "myerson")


def test_subsets_of_a_large_key():
    s = SparseSpectrum(18, torch.tensor([[(1 << 18) - 1]]), torch.ones(1, dtype=torch.float64))
    m = s.mobius()
    assert m.keys.sum() == (1 << 18) * ((1 << 18) - 1) // 2 and len(m.keys) == 1 << 18 and m.at(0, 4, 17) == -8.0
    for d, size in ((6, 0), (6, 3), (6, 5), (6, 6), (1, 1)):
        sets = sorted(sum(1 << p for p in chosen) for chosen in itertools.combinations(range(d), size))
        found = sparse_spectrum.indices.subsets(torch.arange(d)[None], size, 1)
        assert sorted(found.flatten().tolist()) == sets
    for d, s in ((9, 0), (9, 2), (60, 1)):  # the sum as it stands in the module's text
        for index in ("shapley-taylor", "faith-shapley"):
            terms = (math.comb(d - s, t - s) * (-2) ** t * sparse_spectrum.indices._weight(index, 2, t, s) for t in range(s, d + 1))
            assert sparse_spectrum.indices.coefficient(index, 2, d, s) == sum(terms)


def test_derivatives_of_indices():
    s = random_spectrum(6, 12)
    v = s.values.clone().requires_grad_()
    calls = [SparseSpectrum.mobius, SparseSpectrum.shapley, lambda t: t.interactions(2, "faith-shapley"), lambda t: t.top(3), lambda t: t.to("cpu")]
    for call in calls:

        def f(values):
            got = call(SparseSpectrum(6, s.keys, values))
            return got if isinstance(got, torch.Tensor) else got.values

        assert gradcheck(f, v) and gradgradcheck(f, v)


# ---- order, text, files ----------------------------------------------------------------------------------------------


def test_order_and_parts():
    s = SparseSpectrum(70, bits.pack(torch.eye(70, dtype=torch.uint8)[:3].cumsum(0).to(torch.uint8)), torch.tensor([1.0, -3.0, 2.0]))
    assert s.sets() == [(0,), (0, 1), (0, 1, 2)] and s.degrees().tolist() == [1, 2, 3] and s.degree() == 3
    top = s.top(2)
    assert top.values.tolist() == [-3.0, 2.0] and top.residual_energy == 1.0 and len(s.top(9)) == 3
    assert s.sorted().values.tolist() == [-3.0, 2.0, 1.0]
    mixed = SparseSpectrum(70, s.keys[[2, 0, 1, 1]] ^ torch.tensor([[0, 0], [0, 0], [0, 0], [0, 48]]), torch.tensor([1.0, 2.0, 3.0, 9.0]))
    assert mixed.degrees().tolist() == [3, 1, 2, 0] and mixed.sorted("degree").values.tolist() == [9.0, 2.0, 3.0, 1.0]
    assert mixed.sorted("variables").sets() == sorted(mixed.sets(), key=lambda t: (len(t), t))
    with pytest.raises(ValueError, match="by must be one of"):
        s.sorted("colour")
    with pytest.raises(ValueError, match="k must not be negative"):
        s.top(-1)


def test_text():
    s = SparseSpectrum(3, torch.tensor([[0], [0b101]]), torch.tensor([0.5, -2.0]), torch.tensor([[1, 4]]), 0.25, 0.1)
    assert str(s).splitlines()[1:] == [" 5.000000e-01  {}", "-2.000000e+00  {0, 2}"]
    assert "unresolved bins 1" in str(s) and "residual energy 0.25" in str(s) and "noise 0.1" in str(s)
    s.names = ("age", "height", "weight")
    assert "{age, weight}" in str(s) and s.top(1).names == s.names
    assert "coefficients=2, unresolved=1" in repr(s)
    assert "... 30 more" in str(SparseSpectrum(6, torch.arange(50)[:, None], torch.ones(50)))
    assert "more" not in SparseSpectrum(6, torch.arange(50)[:, None], torch.ones(50)).table()
    s.names = np.array(["x", "y", "z"])
    assert s.names == ("x", "y", "z") and s.table(np.int64(1)).count("\n") == 2 and s.table(0).endswith("... 2 more")
    for bad, error in ((-1, ValueError), (1.5, TypeError), ("all", TypeError)):
        with pytest.raises(error, match="rows must be"):
            s.table(bad)
    for bad in (("a", "b"), "abc"):
        with pytest.raises(ValueError, match="names must be 3 strings"):
            s.names = bad


@pytest.mark.parametrize("n", [5, 64, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_files(n, dtype, tmp_path):
    s = random_spectrum(n, 20, dtype=dtype)
    s.names, s.unresolved, s.noise_std, s.threshold = [f"x{i}" for i in range(n)], torch.tensor([[0, 3], [2, 1]]), 1 / 3, 0.7
    s.save(tmp_path / "s.json")
    for other in (SparseSpectrum.load(tmp_path / "s.json"), pickle.loads(pickle.dumps(s)), copy.copy(s)):
        for name in ("keys", "values", "unresolved"):
            assert torch.equal(getattr(other, name), getattr(s, name)) and getattr(other, name).dtype == getattr(s, name).dtype
        for name in ("n", "names", "noise_std", "residual_energy", "threshold"):
            assert getattr(other, name) == getattr(s, name)


def test_copies():
    v = torch.ones(3, requires_grad=True)
    s = SparseSpectrum(9, torch.arange(3)[:, None], 2 * v, names="abcdefghi".__iter__())
    assert copy.copy(s).values is s.values and copy.copy(s).names == tuple("abcdefghi")
    for other in (copy.deepcopy(s), copy.deepcopy([s, s])[1], pickle.loads(pickle.dumps(s))):
        assert torch.equal(other.values, s.values) and other.values.is_leaf and other.values.requires_grad
        assert other.keys.data_ptr() != s.keys.data_ptr() and other.names == s.names
    one, two = copy.deepcopy([s, s])
    assert one is two


def test_files_that_are_not_spectra(tmp_path):
    path = tmp_path / "s.json"
    random_spectrum(5, 3).save(path)
    good = json.loads(path.read_text())
    damaged = {**good, "keys": ["ff"] * len(good["keys"])}
    cases = [("[", "not a saved"), ("[]", "not a saved"), (json.dumps({**good, "format": "x"}), "not a saved")]
    cases += [(json.dumps({**good, "version": 2}), "another version"), (json.dumps(damaged), "damaged")]
    cases += [(json.dumps({**good, "keys": good["keys"][:1] * len(good["keys"])}), "damaged.*distinct")]
    cases += [(json.dumps({**good, "names": ["a"]}), "damaged.*names"), (json.dumps({**good, "noise_std": -1}), "damaged.*noise_std")]
    cases += [(json.dumps({k: v for k, v in good.items() if k != "values"}), "damaged")]
    for content, words in cases:
        path.write_text(content)
        with pytest.raises(ValueError, match=words):
            SparseSpectrum.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a saved"):
        SparseSpectrum.load(path)


# ---- what a decoder gives ----------------------------------------------------------------------------------------------


def test_spectra_of_a_batch_are_made_when_read(monkeypatch, tmp_path):
    plan = SparseWHTPlan(8, 2)
    s = random_spectrum(8, 2)
    made = []
    whole = sparse_spectrum.Batch.unpacked
    monkeypatch.setattr(sparse_spectrum.Batch, "unpacked", lambda batch, r: made.append(r) or whole(batch, r))
    spectra = plan.decode(torch.stack([(r + 1) * s.evaluate(plan.queries()) for r in range(5)]))
    assert made == [] and spectra[3].n == 8 and spectra[3].names is None
    assert torch.allclose(spectra[3].values.sum(), 4 * s.values.sum()) and made == [3]
    assert len(spectra[3]) == len(s) and made == [3]
    other = pickle.loads(pickle.dumps(spectra[1]))
    assert made == [3, 1] and torch.equal(other.values, spectra[1].values)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        spectra[3].colour
    assert torch.equal(spectra[2].to("cpu").keys, spectra[2].keys)
