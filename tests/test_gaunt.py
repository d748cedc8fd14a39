"""`nn.GauntTensorProduct` against numerically integrated Gaunt coefficients, with scipy's spherical harmonics."""

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

import spectralops as so
from spectralops.nn.gaunt import to_fourier

D = torch.float64


def harmonics(degree, theta, phi):
    """Real orthonormal spherical harmonics, without the Condon-Shortley sign: ((degree + 1)^2, ...)."""
    found = []
    for l in range(degree + 1):  # noqa: E741
        for m in range(-l, l + 1):
            y = (-1) ** m * sph_harm_y(l, abs(m), theta, phi)
            found.append(y.real if m == 0 else 2**0.5 * (y.real if m > 0 else y.imag))
    return np.stack(found)


def gaunt(*degrees):
    """int Y_a Y_b Y_c by Gauss-Legendre in cos theta, equal steps in phi: exact for polynomials of these degrees."""
    x, w = np.polynomial.legendre.leggauss(16)
    phi = 2 * np.pi * np.arange(32) / 32
    grid = np.meshgrid(np.arccos(x), phi, indexing="ij")
    a, b, c = (harmonics(d, *grid) for d in degrees)
    return torch.from_numpy(np.einsum("axy,bxy,cxy,x->abc", a, b, c, w * 2 * np.pi / 32))


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 8])
def test_harmonics_are_fourier_series_on_the_torus(degree):
    theta, phi = np.random.default_rng(0).uniform(0, np.pi, (2, 20))
    d = np.arange(-degree, degree + 1)
    waves = np.exp(1j * np.outer(d, theta)), np.exp(1j * np.outer(d, 2 * phi))
    got = np.einsum("auv,un,vn->an", to_fourier(degree).numpy(), *waves)
    np.testing.assert_allclose(got, harmonics(degree, theta, 2 * phi), atol=1e-13)


@pytest.mark.parametrize("degrees", [(a, b, c) for a in range(4) for b in range(4) for c in {0, 1, 3, a + b}])
def test_against_integrated_gaunt_coefficients(degrees):
    product = so.nn.GauntTensorProduct(*degrees, dtype=D)
    x, y = (torch.randn(3, (d + 1) ** 2, dtype=D) for d in degrees[:2])
    torch.testing.assert_close(product(x, y), torch.einsum("abc,na,nb->nc", gaunt(*degrees), x, y))


def test_the_whole_product_is_the_product_of_functions():
    product = so.nn.GauntTensorProduct(3, 2)
    x, y = torch.randn(4, 1, 16), torch.randn(5, 9)
    theta, phi = np.random.default_rng(1).uniform(0, np.pi, (2, 30))
    at = lambda d: torch.from_numpy(harmonics(d, theta, 2 * phi))  # noqa: E731
    z = product(x, y)
    assert z.shape == (4, 5, 36) and "degrees 3 x 2 -> 5" in repr(product) and not product.state_dict()
    torch.testing.assert_close((z.double() @ at(5)), (x.double() @ at(3)) * (y.double() @ at(2)), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(x, y), z)


def test_derivatives_and_empties():
    product = so.nn.GauntTensorProduct(1, 2, 2, dtype=D)
    x, y = torch.randn(2, 4, dtype=D, requires_grad=True), torch.randn(2, 9, dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(product, (x, y), fast_mode=True)
    assert torch.autograd.gradgradcheck(product, (x, y), fast_mode=True)
    assert product(torch.empty(0, 4, dtype=D), y[:1]).shape == (0, 9)
    assert product(x[0], y[0]).shape == (9,)


def test_bad_input_is_named():
    product = so.nn.GauntTensorProduct(1, 1)
    for f, error, text in [
        (lambda: so.nn.GauntTensorProduct(-1, 1), ValueError, "degree1 must not be negative; got -1"),
        (lambda: so.nn.GauntTensorProduct(1, 1.0), TypeError, "degree2 must be an int"),
        (lambda: so.nn.GauntTensorProduct(1, 1, -2), ValueError, "degree_out must not be negative"),
        (lambda: so.nn.GauntTensorProduct(1, 1, dtype=torch.float16), TypeError, "dtype must be float32 or float64"),
        (lambda: product("x", torch.ones(4)), TypeError, "x must be a torch.Tensor"),
        (lambda: product(torch.ones(4), torch.ones(4).double()), TypeError, "y must have dtype float32; got float64"),
        (lambda: product(torch.ones(4), torch.ones(5)), ValueError, r"y must have shape \(..., 4\) for degree 1; got \(5,\)"),
        (lambda: product(torch.ones(2, 4), torch.ones(3, 4)), ValueError, "the leading dimensions of x and y must broadcast"),
    ]:
        with pytest.raises(error, match=text):
            f()
