"""`poly_norm`, `fan` and `fourier_features` through their public functions, against numpy in float64 and long double."""

import numpy as np
import pytest
import torch
from scipy import special

import spectralops as so
from spectralops import testing

BACKENDS = ["reference", None]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
WIDE = np.longdouble  # its exponent reaches where the powers of a float64 do not


def formula(x, w, b, eps=1e-6):
    """Power by power, without any scaling."""
    x, w, b = (np.asarray(t.detach().double().numpy()).astype(WIDE) for t in (x, w, b))
    y = b.reshape(()) + np.zeros_like(x)
    for i, c in enumerate(w, 1):
        u = x**i
        y = y + c * u / np.sqrt((u * u).mean(-1, keepdims=True) + WIDE(eps))
    return torch.from_numpy(y.astype(np.float64))


# ---- poly_norm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(5, 33), (2, 3, 20), (1, 1), (2, 40000)])
@pytest.mark.parametrize("degree", [1, 3, 6])
def test_values_against_the_formula(backend, shape, degree):
    for dtype in FLOATS:
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        x, w, b = torch.randn(shape).to(dtype), torch.randn(degree, dtype=compute), torch.randn((), dtype=compute)
        with testing.poison():
            y = so.poly_norm(x, w, b, backend=backend)
        assert y.dtype == dtype and y.shape == x.shape and y.is_contiguous()
        assert testing.relative_error(y, formula(x, w, b)) <= (8 if dtype.itemsize > 2 else 1) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", FLOATS)
def test_nothing_overflows_and_small_rows_keep_their_eps(dtype):
    info = torch.finfo(dtype)
    x = torch.randn(6, 33, dtype=torch.float64)
    x = x / x.abs().amax(1, keepdim=True)
    scales = torch.tensor([info.max, info.max / 8, 300.0, 1.0, 1e-3, 0.0], dtype=torch.float64)
    x = (x * scales[:, None]).to(dtype)
    w = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    y = so.poly_norm(x, w, 0.1)
    for row in range(6):
        assert testing.relative_error(y[row], formula(x[row], w, torch.tensor(0.1, dtype=w.dtype))) <= 4 * info.eps, row
    z = x.clone().requires_grad_()
    (dz,) = torch.autograd.grad(so.poly_norm(z, w, 0.1).sum(), z, create_graph=True)
    ddz = torch.autograd.grad(dz.float().sum(), z)[0]
    assert dz.isfinite().all() and ddz[:4].isfinite().all()  # that of small rows goes as 1 / eps, beyond float16


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(backend):
    for scale in (1.0, 40.0):
        leaves = [scale * torch.randn(3, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64), torch.randn((), dtype=torch.float64)]
        leaves = [t.requires_grad_() for t in leaves]
        f = lambda *args: so.poly_norm(*args, backend=backend)  # noqa: E731
        torch.autograd.gradcheck(f, leaves, eps=1e-5)
        torch.autograd.gradgradcheck(f, leaves, eps=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_derivatives_within_twice_autograd_of_the_formula(dtype):
    """dx, dw, db, and the gradients of <seeds, them>."""
    tally = testing.Tally()

    def run(backend, tensors, to=None):
        x, w, b, g, *seeds = (t if to is None else t.to(to) for t in tensors)
        leaves = [t.detach().clone().requires_grad_() for t in (x, w, b, g)]
        y = so.poly_norm(*leaves[:3], backend=backend)
        first = torch.autograd.grad(y, leaves[:3], leaves[3], create_graph=True)
        second = torch.autograd.grad(first, (leaves[0], leaves[1], leaves[3]), [s.to(f.dtype) for s, f in zip(seeds, first)])
        return [y, *first, *second]

    for shape in [(9, 40), (3, 300)] * 10:
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        x, w, b = torch.randn(shape).to(dtype), torch.randn(3, dtype=compute), torch.randn(1, dtype=compute)
        tensors = (x, w, b, torch.randn_like(x), torch.randn_like(x), torch.randn_like(w), torch.randn_like(b))
        reference = run("reference", tensors, torch.float32 if dtype == torch.float64 else None)
        for i, (u, v, e) in enumerate(zip(run(None, tensors), reference, run("reference", tensors, torch.float64))):
            tally.add(f"output {i}", u, v, e)
    tally.check()


def test_layouts_empty_nan_determinism_and_what_is_saved():
    x, w, b = torch.randn(3, 4, 24), torch.randn(3, requires_grad=True), torch.randn(1)
    expect = so.poly_norm(x, w, b)
    for name, view in testing.layouts(x):
        assert torch.equal(so.poly_norm(view, w, b), expect), name
    assert torch.equal(so.poly_norm(x[0, 0].expand(5, 24), w, b), expect[0, 0].expand(5, 24))
    for shape in [(0,), (0, 5), (3, 0)]:
        z = torch.empty(shape, requires_grad=True)
        dz, dw = torch.autograd.grad(so.poly_norm(z, w, b).sum(), (z, w))
        assert dz.shape == z.shape and dw.eq(0).all()
    z = x.clone()
    z[0, 0, 3], z[1, 1, 5] = float("nan"), float("inf")
    y = so.poly_norm(z, w, b)
    assert y[0, 0].isnan().all() and y[1, 1].isnan().all() and y[2].isfinite().all()
    z, saved = x.clone().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = so.poly_norm(z, w, b)
    assert [t.data_ptr() for t in saved if t.numel() > 3] == [z.data_ptr()]
    runs = [torch.autograd.grad(so.poly_norm(z, w, b).square().sum(), (z, w)) for _ in range(2)]
    assert all(torch.equal(u, v) for u, v in zip(*runs))


def test_transforms_compile_and_opcheck():
    torch._dynamo.reset()
    x, w, b = (torch.randn(s, dtype=torch.float64) for s in ((4, 5, 6), (3,), ()))
    loss = lambda backend: lambda *a: so.poly_norm(*a, backend=backend).square().sum()  # noqa: E731
    for dims, args in (((0, None, None), (x, w, b)), ((0, 0, None), (x, torch.randn(4, 3, dtype=torch.float64), b))):
        got, expect = (torch.func.vmap(torch.func.grad(loss(k), (0, 1, 2)), dims)(*args) for k in BACKENDS)
        torch.testing.assert_close(got, expect)
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    compiled = torch.compile(loss(None), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(None)(*leaves), leaves))
    ops, b1 = torch.ops.spectralops, b.reshape(1)
    torch.library.opcheck(ops.poly_norm_forward, (x[:, ::2], w, b1, 1e-6))
    torch.library.opcheck(ops.poly_norm_backward, (x, x, w, 1e-6))
    torch.library.opcheck(ops.poly_norm_double_backward, (x, w, b1, x, x, w, 1e-6))


X = torch.ones(2, 6)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.poly_norm([1.0], torch.ones(3)), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: so.poly_norm(torch.tensor(1.0), torch.ones(3)), ValueError, "x must have at least one dimension"),
        (lambda: so.poly_norm(X, torch.ones(2, 3)), ValueError, r"weight must have shape \(degree,\) .*; got \(2, 3\)"),
        (lambda: so.poly_norm(X, torch.ones(0)), ValueError, "weight must have shape"),
        (lambda: so.poly_norm(X, torch.ones(3, dtype=torch.float64)), TypeError, "weight is float64 but x is float32"),
        (lambda: so.poly_norm(X, torch.ones(3), torch.ones(2)), ValueError, r"bias must be a number or have shape .*; got \(2,\)"),
        (lambda: so.poly_norm(X, torch.ones(3), eps=0), ValueError, "eps must be positive; got 0"),
        (lambda: so.poly_norm(X, torch.ones(3), eps="a"), TypeError, "eps must be a number, got str"),
        (lambda: so.poly_norm(X, torch.ones(3), backend="triton"), RuntimeError, "backend 'triton' cannot run poly_norm_forward"),
        (lambda: so.fan(X, torch.ones(3, 5), torch.ones(2, 6)), ValueError, "last dimension of weight_p, 5, must be that of x, 6"),
        (lambda: so.fan(X, torch.ones(3), torch.ones(2, 6)), ValueError, r"weight_p must have shape \(outputs, I\); got \(3,\)"),
        (lambda: so.fan(X, torch.ones(3, 6), torch.ones(2, 6), torch.ones(3)), ValueError, "bias_g has 3 values, weight_g has 2 rows"),
        (lambda: so.fan(X, torch.ones(3, 6).double(), torch.ones(2, 6)), TypeError, "weight_p is float64 but x is float32"),
        (lambda: so.fourier_features(X, torch.ones(3, 6), torch.ones(2)), ValueError, "phase has 2 values, weight has 3 rows"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


# ---- fan and fourier_features ----------------------------------------------------------------------------------------


def fan_formula(x, weight_p, weight_g, bias_g):
    x, p, g, b = (t.detach().double().numpy() for t in (x, weight_p, weight_g, bias_g))
    h, e = x @ p.T, x @ g.T + b
    return torch.from_numpy(np.concatenate([np.cos(h), np.sin(h), e * special.ndtr(e)], -1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("p, q", [(4, 9), (0, 5), (6, 0)])
def test_fan_against_numpy(backend, p, q):
    for dtype in (torch.float32, torch.float64):
        args = [torch.randn(s, dtype=dtype) for s in ((2, 7, 8), (p, 8), (q, 8), (q,))]
        y = so.fan(*args, backend=backend)
        assert y.shape == (2, 7, 2 * p + q) and y.dtype == dtype
        assert testing.relative_error(y, fan_formula(*args)) <= 8 * torch.finfo(dtype).eps
    half = [t.bfloat16() for t in args]
    assert so.fan(*half, backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
def test_fourier_features_against_numpy(backend):
    x, w, phase = (torch.randn(s, dtype=torch.float64) for s in ((5, 3), (6, 3), (6,)))
    z = x.numpy() @ w.numpy().T + phase.numpy()
    expect = torch.from_numpy(np.concatenate([np.cos(z), np.sin(z)], -1))
    torch.testing.assert_close(so.fourier_features(x, w, phase, backend=backend), expect)
    torch.testing.assert_close(so.fourier_features(x, w, backend=backend), so.fourier_features(x, w, 0 * phase))


def test_fan_derivatives():
    for backend in BACKENDS:
        leaves = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in ((3, 4), (2, 4), (3, 4), (3,))]
        f = lambda *a: so.fan(*a, backend=backend)  # noqa: E731, B023
        torch.autograd.gradcheck(f, leaves)
        torch.autograd.gradgradcheck(f, leaves)
    y = so.fan(*leaves).sum()
    for _ in range(2):
        (y,) = torch.autograd.grad(y.sum(), leaves[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative of fan"):
        torch.autograd.grad(y.sum(), leaves[0])


def test_fan_layouts_transforms_compile_and_opcheck():
    torch._dynamo.reset()
    x, p, g = (torch.randn(s, dtype=torch.float64) for s in ((3, 4, 6), (2, 6), (5, 6)))
    expect = so.fan(x, p, g)
    for name, view in testing.layouts(x):
        torch.testing.assert_close(so.fan(view, p, g), expect, msg=name)
    assert so.fan(x[:0], p, g).shape == (0, 4, 9) and so.fan(x[0, 0], p, g).shape == (9,)
    loss = lambda backend: lambda *a: so.fan(*a, backend=backend).square().sum()  # noqa: E731
    got, expect = (torch.func.vmap(torch.func.grad(loss(k), (0, 1, 2)), (0, None, None))(x, p, g) for k in BACKENDS)
    torch.testing.assert_close(got, expect)
    leaves = [t.clone().requires_grad_() for t in (x, p, g)]
    compiled = torch.compile(loss(None), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(None)(*leaves), leaves))
    ops, h, e = torch.ops.spectralops, torch.randn(3, 4), torch.randn(3, 2)
    y = torch.randn(3, 10)
    torch.library.opcheck(ops.fan_forward, (h, e))
    torch.library.opcheck(ops.fan_backward, (y, h, e))
    torch.library.opcheck(ops.fan_double_backward, (h, e, y, h, e))
