"""`mittag_leffler` against mpmath's series with digits enough, against closed forms, and through autograd."""

import math

import pytest
import torch

import spectralops as so
from spectralops import testing

mp = pytest.importorskip("mpmath")

XS = [-50.0, -20.0, -10.0, -5.0, -2.1, -1.9, -1.0, -0.1, -1e-9, 0.0, 1e-3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0]


def series(alpha, beta, x, m):
    """The m-th derivative, term by term, with digits for the largest term; None where that would take too long."""
    size = abs(x) ** (1 / alpha)
    if size > 120:
        return None
    with mp.workdps(int(40 + size)):
        a, b, z = mp.mpf(alpha), mp.mpf(beta), mp.mpf(x)
        count = m + 1 if x == 0 else int((size * 3 + 60) / alpha) + m + 20
        return +mp.fsum(mp.rgamma(a * k + b) * z ** (k - m) * mp.ff(k, m) for k in range(m, count))


def derivative(x, alpha, beta, m):
    x = x.clone().requires_grad_()
    y = so.mittag_leffler(x, alpha, beta)
    for _ in range(m):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.detach()


@pytest.mark.parametrize("alpha, beta", [(0.4, 1.0), (0.5, 0.5), (0.8, 2.0), (1.0, 1.0), (1.0, 3.0), (1.2, 1.2), (1.7, 0.3), (1.98, 4.0)])
@pytest.mark.parametrize("m", [0, 1, 2])
def test_against_mpmath(alpha, beta, m):
    exact = {x: series(alpha, beta, x, m) for x in XS}
    exact = {x: e for x, e in exact.items() if e is not None}
    got = derivative(torch.tensor(list(exact), dtype=torch.float64), alpha, beta, m)
    for (x, e), g in zip(exact.items(), got.tolist()):
        # beside its zeros: a power, or what oscillates for alpha > 1
        wave = abs(x) ** ((1 - beta + m * (1 - alpha)) / alpha) if x < -1 and alpha > 1 else 0
        size = max(abs(e), mp.mpf(10) ** -2 / (1 + abs(x)) ** (m + 2), wave)
        condition = 1 + abs(x) ** (1 / alpha) if x > 0 else 1
        assert abs(mp.mpf(g) - e) <= 100 * 2.0**-52 * condition * size, (x, float(e), g)


def test_against_closed_forms():
    x = torch.linspace(-50, 10, 301, dtype=torch.float64)
    close = lambda u, v: torch.testing.assert_close(u, v, rtol=1e-13, atol=1e-15)  # noqa: E731
    close(so.mittag_leffler(x, 1, 1), x.exp())
    close(so.mittag_leffler(x, 1, 2), torch.where(x == 0, 1.0, torch.expm1(x) / x))
    z = x[x <= 0]
    close(so.mittag_leffler(z, 0.5), torch.special.erfcx(-z))  # E_{1/2}(-x) = exp(x^2) erfc(x)


@pytest.mark.parametrize("alpha, beta", [(0.3, 0.3), (0.9, 1.5), (1.6, 1.6)])
def test_far_out_it_is_the_asymptotic_series(alpha, beta):
    x = torch.tensor([-1e4, -1e6, -1e12], dtype=torch.float64)
    got = so.mittag_leffler(x, alpha, beta)
    terms = [-(x.double() ** -k) * float(mp.rgamma(beta - alpha * k)) for k in range(1, 9)]
    torch.testing.assert_close(got, sum(terms), rtol=1e-11, atol=0)


def test_gradcheck():
    for alpha, beta in ((0.6, 1.0), (1.5, 0.8)):
        x = (torch.randn(9, dtype=torch.float64) * 2).requires_grad_()
        f = lambda x: so.mittag_leffler(x, alpha, beta)  # noqa: E731, B023
        torch.autograd.gradcheck(f, (x,))
        torch.autograd.gradgradcheck(f, (x,))
    y = so.mittag_leffler(x, 0.5)
    for _ in range(2):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative of mittag_leffler"):
        torch.autograd.grad(y.sum(), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounded_once(dtype):
    x = torch.linspace(-20, 2, 50).to(dtype)
    exact = so.mittag_leffler(x.double(), 0.7, 1.3)
    assert torch.equal(so.mittag_leffler(x, 0.7, 1.3), exact.to(dtype))


def test_layouts_empty_nan_and_infinity():
    x = torch.randn(3, 4, 6)
    expect = so.mittag_leffler(x, 0.8)
    for name, view in testing.layouts(x):
        got = so.mittag_leffler(view, 0.8)
        assert torch.equal(got, expect) and got.is_contiguous(), name
    assert torch.equal(so.mittag_leffler(x[0, 0].expand(3, 6), 0.8), so.mittag_leffler(x[0, 0], 0.8).expand(3, 6))
    z = torch.empty(2, 0, requires_grad=True)
    so.mittag_leffler(z, 0.8).sum().backward()
    assert z.grad.shape == z.shape and so.mittag_leffler(torch.tensor(0.0), 0.8).item() == 1.0
    odd = so.mittag_leffler(torch.tensor([float("nan"), 1e3]), 0.8)
    assert odd[0].isnan() and odd[1] == math.inf


def test_transforms_and_compile():
    torch._dynamo.reset()
    x = torch.randn(4, 5, dtype=torch.float64)
    f = lambda x: so.mittag_leffler(x, 0.8, 1.1).square().sum()  # noqa: E731
    z = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(f(z), z)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(f))(x), plain)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(z), z)[0], plain)
    inside = torch.compile(lambda x: torch.func.grad(f)(x), fullgraph=True, backend="eager")
    torch.testing.assert_close(inside(x), plain)
    torch.library.opcheck(torch.ops.spectralops.mittag_leffler, (x[:, ::2], 0.8, 1.1, 1))


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(x=1.0), TypeError, "x must be a torch.Tensor, got float"),
        (dict(x=torch.ones(2, dtype=torch.int32)), TypeError, "x must have dtype"),
        (dict(alpha=torch.ones(())), TypeError, "alpha must be a number, got a torch.Tensor: the derivative in alpha"),
        (dict(beta="1"), TypeError, "beta must be a number, got str"),
        (dict(alpha=2), ValueError, r"alpha must be in \(0, 2\); got 2"),
        (dict(beta=0), ValueError, r"beta must be in \(0, 50\]; got 0"),
        (dict(backend="triton"), ValueError, "backend must be one of None, 'reference'"),
    ],
)
def test_bad_input_is_named(change, error, text):
    with pytest.raises(error, match=text):
        so.mittag_leffler(**{**dict(x=torch.ones(2), alpha=0.5, beta=1.0), **change})
