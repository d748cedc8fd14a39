"""The bases of `spectralops.basis` against scipy and numpy, their derivatives against nested forward-mode, and bad input."""

import math

import numpy as np
import pytest
import scipy.interpolate
import scipy.special
import torch

import spectralops as so
from spectralops import basis as B

F64 = torch.float64


def uniform_knots(grid, order, low=-1.0, high=1.0):
    return low + (np.arange(grid + 2 * order + 1) - order) * (high - low) / grid


def scipy_splines(t, order, x, m=0):
    """(len(x), K): each basis element, zero outside its support."""
    columns = []
    for j in range(len(t) - order - 1):
        element = scipy.interpolate.BSpline.basis_element(t[j : j + order + 2], extrapolate=False)
        columns.append(np.nan_to_num((element.derivative(m) if m else element)(x)))
    return np.stack(columns, -1)


def close(got, exact, units=64):
    """Both float64: within some roundoffs of the largest value."""
    got, exact = np.asarray(got), np.asarray(exact)
    assert got.shape == exact.shape
    assert np.abs(got - exact).max() <= units * np.finfo(float).eps * max(np.abs(exact).max(), 1.0)
    assert np.abs(got).max() > 0


@pytest.mark.parametrize("order", range(8))
@pytest.mark.parametrize("grid", [1, 5, 50])
def test_uniform_splines_are_scipys(order, grid):
    x = np.random.default_rng(0).uniform(-1.9, 1.9, 500)
    t = uniform_knots(grid, order)
    basis = B.BSpline(grid, order)
    assert basis.size == grid + order == len(t) - order - 1
    for m in range(min(order, 3) + 1):
        scale = grid**m
        close(basis.derivative(torch.from_numpy(x)[:, None], m)[:, 0] / scale, scipy_splines(t, order, x, m) / scale, 512)


def test_spline_on_any_knots_of_its_own_for_each_input():
    rng, order = np.random.default_rng(1), 3
    t = np.sort(rng.uniform(-2, 2, (3, 12)), -1)
    t[1, 4:7] = t[1, 5]  # a triple knot
    t[2] = np.r_[[-1.0] * 4, -0.5, 0.1, 0.2, 0.9, [1.0] * 4]  # clamped
    x = rng.uniform(-2.2, 2.2, (200, 3))
    got = B.BSpline(knots=torch.from_numpy(t), order=order)(torch.from_numpy(x))
    for i in range(3):
        with np.errstate(all="ignore"):
            close(got[:, i], scipy_splines(t[i], order, x[:, i]), 512)
    inside = torch.from_numpy(np.linspace(-0.999, 0.999, 50))[:, None]
    sums = B.BSpline(knots=torch.from_numpy(t[2]), order=order)(inside).sum(-1)
    assert (sums - 1).abs().max() < 1e-14  # a clamped basis is a partition of unity up to its ends


@pytest.mark.parametrize("edge", ["knots", "grid"])
@pytest.mark.parametrize("clamped", [False, True])
def test_outside(edge, clamped):
    knots = torch.tensor([-1.0] * 4 + [-0.5, 0.1, 0.3] + [1.0] * 4, dtype=F64) if clamped else None
    make = lambda outside: (  # noqa: E731
        B.BSpline(knots=knots, outside=outside, edge=edge) if clamped else B.BSpline(5, 3, outside=outside, edge=edge)
    )
    low, high = (-1.0, 1.0) if clamped or edge == "grid" else (-2.2, 2.2)
    column = lambda *v: torch.tensor(v, dtype=F64)[:, None]  # noqa: E731
    far, near = column(-9.0, -2.5, 2.5, 40.0), column(low, low, high, high)
    if clamped or edge == "grid":  # the value just inside
        just = column(low, low, high - 1e-9, high - 1e-9)
        value, slope = make("zero")(just), make("zero").derivative(just, 1)
        assert value.abs().max() > 0.1
    else:
        value = slope = torch.zeros(4, 1, 8, dtype=F64)
    assert make("zero")(far).abs().max() == 0
    clamp, linear = make("clamp"), make("linear")
    assert (clamp(far) - value).abs().max() < 1e-7 and (clamp(near) - value).abs().max() < 1e-7
    assert clamp.derivative(far, 1).abs().max() == 0
    tangent = value + (far - near)[..., None] * slope
    assert (linear(far) - tangent).abs().max() < 1e-5 and (linear.derivative(far, 1) - slope).abs().max() < 1e-6
    assert linear.derivative(far, 2).abs().max() == 0
    x = torch.linspace(low + 1e-3, high - 1e-3, 77, dtype=F64)[:, None]
    for m in range(3):
        assert torch.equal(clamp.derivative(x, m), make("zero").derivative(x, m))


POLYNOMIALS = {
    "chebyshev": (B.Chebyshev, {}, scipy.special.eval_chebyt),
    "legendre": (B.Legendre, {}, scipy.special.eval_legendre),
    "jacobi": (B.Jacobi, {"a": 0.5, "b": 1.75}, lambda n, x: scipy.special.eval_jacobi(n, 0.5, 1.75, x)),
    "hermite": (B.Hermite, {}, scipy.special.eval_hermite),
}


@pytest.mark.parametrize("name", POLYNOMIALS)
@pytest.mark.parametrize("degree", [0, 1, 2, 9])
def test_polynomials_are_scipys(name, degree):
    cls, arguments, oracle = POLYNOMIALS[name]
    x = np.random.default_rng(2).uniform(-1.5, 1.5, 100)
    for squash, z in (("tanh", np.tanh(x)), (None, x)):
        got = cls(degree, squash=squash, **arguments)(torch.from_numpy(x)[:, None])[:, 0].numpy()
        exact = np.stack([oracle(n, z) for n in range(degree + 1)], -1)
        close(got / np.abs(exact).max(0), exact / np.abs(exact).max(0), 512)


def test_gram_polynomials_are_orthogonal_on_their_points():
    points = torch.linspace(-1, 1, 9, dtype=F64)[:, None]
    p = B.Gram(6, points=9, squash=None)(points)[:, 0]
    product = p.T @ p
    assert (product - product.diag().diag()).abs().max() < 1e-13
    limit, legendre = B.Gram(6, squash=None)(points)[:, 0], B.Legendre(6, squash=None)(points)[:, 0]
    assert torch.allclose(limit / limit[-1], legendre / legendre[-1])


def test_formulas_of_the_rest():
    x = np.random.default_rng(3).uniform(-2.5, 2.5, 200)
    column = torch.from_numpy(x)[:, None]
    g = np.linspace(-2, 2, 8)
    u = (x[:, None] - g) / (4 / 7)
    root = math.sqrt(3) * math.pi**0.25
    close(B.RBF(8)(column)[:, 0], np.exp(-(u**2)))
    close(B.RSWAF(8)(column)[:, 0], 1 - np.tanh(u) ** 2)
    close(B.Sech(8)(column)[:, 0], 1 / np.cosh(u))
    close(B.MexicanHat(8)(column)[:, 0], 2 / root * (u**2 - 1) * np.exp(-(u**2) / 2))
    close(B.Morlet(8)(column)[:, 0], np.cos(5 * u) * np.exp(-(u**2) / 2))
    close(B.DoG(8)(column)[:, 0], -u * np.exp(-(u**2) / 2))
    close(B.Haar(8)(column)[:, 0], np.where((u >= 0) & (u < 0.5), 1.0, np.where((u >= 0.5) & (u < 1), -1.0, 0.0)))
    k = np.arange(1, 6) * 1.5
    close(B.Fourier(5, omega=1.5)(column)[:, 0], np.concatenate([np.cos(x[:, None] * k), np.sin(x[:, None] * k)], -1))
    start = np.arange(-3, 5) / 5  # ReLU-KAN's own grid on [0, 1]
    a, b = np.maximum(x[:, None] - start, 0), np.maximum(start + 4 / 5 - x[:, None], 0)
    close(B.ReLUPower(5, 3)(column)[:, 0], (a * b * 4 * 25 / 16) ** 2)
    close(B.ReLUPower(5, 3, combination="product")(column)[:, 0], a * b)
    close(B.ReLUPower(5, 3, combination="sum")(column)[:, 0], a + b)
    close(B.ReLUPower(5, 3, combination="sum_product")(column)[:, 0], a + b + a * b)
    mixed = B.Mix(B.RBF(3), B.Fourier(2))
    assert torch.equal(mixed(column), torch.cat([B.RBF(3)(column), B.Fourier(2)(column)], -1)) and mixed.size == 7


ALL = {
    "uniform": lambda: B.BSpline(5, 3),
    "order 5": lambda: B.BSpline(3, 5, -2, 2),
    "knots": lambda: B.BSpline(knots=torch.tensor([-2.0, -1.7, -1, -0.9, 0.1, 0.3, 1.2, 2.2], dtype=F64), order=2),
    "linear": lambda: B.BSpline(4, 3, outside="linear", edge="grid"),
    "clamp": lambda: B.BSpline(4, 3, outside="clamp", edge="grid"),
    "rbf": lambda: B.RBF(5),
    "rbf width": lambda: B.RBF(centres=torch.tensor([-1.0, 0.2, 1.5], dtype=F64), width=0.7),
    "rswaf": lambda: B.RSWAF(5),
    "sech": lambda: B.Sech(5),
    "mexican hat": lambda: B.MexicanHat(4),
    "morlet": lambda: B.Morlet(4),
    "dog": lambda: B.DoG(4),
    "haar": lambda: B.Haar(4),
    "chebyshev": lambda: B.Chebyshev(5),
    "legendre": lambda: B.Legendre(4, squash=None),
    "jacobi": lambda: B.Jacobi(4),
    "hermite": lambda: B.Hermite(3),
    "gram": lambda: B.Gram(4),
    "fourier": lambda: B.Fourier(3),
    "relu power": lambda: B.ReLUPower(4, 2, -1, 1, power=4),
    "relu sum": lambda: B.ReLUPower(4, 2, -1, 1, combination="sum_product"),
    "mix": lambda: B.Mix(B.BSpline(3, 2), B.Chebyshev(2)),
}


@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_those_of_the_formula(name):
    basis = ALL[name]()
    x = 1.3 * torch.randn(60, 2, dtype=F64)
    f = basis
    for m in range(1, 5):
        f = (lambda g: lambda z: torch.func.jvp(g, (z,), (torch.ones_like(z),))[1])(f)
        exact, got = f(x), basis.derivative(x, m)
        assert (got - exact).abs().max() <= 1e-12 * exact.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_shapes(name, dtype):
    basis = ALL[name]()
    x = torch.randn(3, 4, 2).to(dtype)
    got = basis(x)
    assert got.dtype == dtype and got.shape == (3, 4, 2, basis.size)
    if name == "haar":  # jumps, where rounding x / h decides
        x = x + 0.037
    got, exact = basis(x), basis(x.double())
    assert so.testing.relative_error(got, exact) < (2e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps)
    assert basis(x[:0]).shape == (0, 4, 2, basis.size)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"mix"}))
def test_nan_stays_nan(name):
    basis = ALL[name]()
    got = basis(torch.tensor([[float("nan")]], dtype=F64))[0, 0]
    constant = 1 if name in ("chebyshev", "legendre", "jacobi", "hermite", "gram") else 0  # p_0 = 1
    assert got[constant:].isnan().all()
    assert B.BSpline(3, 0)(torch.tensor([[float("nan")]]))[0, 0].isnan().all()


def test_chebyshev_is_finite_where_the_arc_cosine_is_not():
    x = torch.tensor([[10.0, -20.0, 0.0]], requires_grad=True)
    B.Chebyshev(5)(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_tables_given_by_the_caller_are_read_at_every_call():
    knots = torch.linspace(-2, 2, 9, dtype=F64)
    basis, x = B.BSpline(knots=knots, order=2), torch.randn(5, 3, dtype=F64)
    before = basis(x)
    with torch.no_grad():
        knots.mul_(1.5)
    assert not torch.equal(before, basis(x))
    assert torch.equal(basis(x), B.BSpline(knots=knots.clone(), order=2)(x))


BAD = [
    (lambda: B.BSpline(), ValueError, "grid_size"),
    (lambda: B.BSpline(0), ValueError, "grid_size must be at least 1; got 0"),
    (lambda: B.BSpline(5, -1), ValueError, "order"),
    (lambda: B.BSpline(5, 8), ValueError, "order must be at most 7; got 8"),
    (lambda: B.BSpline(5.0), TypeError, "grid_size must be an int, got float"),
    (lambda: B.BSpline(5, 3, 1, -1), ValueError, "low must be less than high"),
    (lambda: B.BSpline(5, 3, outside="wrap"), ValueError, "outside must be one of 'zero', 'clamp', 'linear'; got 'wrap'"),
    (lambda: B.BSpline(5, 3, edge="x"), ValueError, "edge must be one of"),
    (lambda: B.BSpline(5, knots=torch.zeros(9)), ValueError, "grid_size or knots, not both"),
    (lambda: B.BSpline(knots=torch.zeros(4), order=3), ValueError, "knots must be"),
    (lambda: B.BSpline(knots=[1, 2, 3]), TypeError, "knots must be a torch.Tensor, got list"),
    (lambda: B.BSpline(knots=torch.rand(3, 9).sort(-1)[0])(torch.randn(2, 4)), ValueError, "knots are for 3 inputs, x has 4"),
    (lambda: B.RBF(), ValueError, "num or centres"),
    (lambda: B.RBF(0), ValueError, "num must be at least 1"),
    (lambda: B.RBF(4, width=-1.0), ValueError, "width must be positive"),
    (lambda: B.RBF(centres=torch.zeros(3)), ValueError, "come with a width"),
    (lambda: B.Chebyshev(-1), ValueError, "degree must be at least 0; got -1"),
    (lambda: B.Chebyshev(3, squash="sigmoid"), ValueError, "squash must be 'tanh' or None"),
    (lambda: B.Jacobi(3, -1.0, 0.0), ValueError, "a and b must be greater than -1"),
    (lambda: B.Gram(5, points=5), ValueError, "points must be more than degree"),
    (lambda: B.Gram(5, beta=torch.zeros(4)), ValueError, "beta must have shape"),
    (lambda: B.Fourier(0), ValueError, "terms must be at least 1"),
    (lambda: B.ReLUPower(), ValueError, "grid_size, or starts and ends"),
    (lambda: B.ReLUPower(4, power=0), ValueError, "power must be at least 1"),
    (lambda: B.ReLUPower(starts=torch.zeros(3)), ValueError, "starts and ends go together"),
    (lambda: B.ReLUPower(4, combination="max"), ValueError, "combination must be one of"),
    (lambda: B.Mix(3), TypeError, "Mix takes bases"),
    (lambda: B.RBF(3)([1.0]), TypeError, "x must be a torch.Tensor, got list"),
    (lambda: B.RBF(3).derivative(torch.randn(2), -1), ValueError, "order must not be negative; got -1"),
]


@pytest.mark.parametrize("call, error, text", BAD)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
