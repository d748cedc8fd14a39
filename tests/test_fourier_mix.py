"""`fourier_mix` against numpy's transform and the sum of cosines, both in float64."""

import numpy as np
import pytest
import torch

import spectralops as so
from spectralops import testing

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BACKENDS = ["reference", None]


def truth(x):
    return torch.from_numpy(np.fft.fft2(x.detach().double().numpy()).real)


def test_the_oracle_is_the_sum_of_cosines():
    x = np.random.default_rng(0).standard_normal((5, 6))
    s, h = np.arange(5), np.arange(6)
    angle = 2 * np.pi * (np.multiply.outer(s, s)[:, None, :, None] / 5 + np.multiply.outer(h, h)[None, :, None, :] / 6)
    np.testing.assert_allclose((np.cos(angle) * x).sum((2, 3)), truth(torch.from_numpy(x)[None])[0], atol=1e-13)


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_at_any_size(dtype):
    tally = testing.Tally()
    for shape in [(3, 8, 12), (2, 7, 9), (1, 1, 1), (2, 1, 5), (2, 5, 1), (2, 2, 2), (1, 197, 33), (2, 64, 96)]:
        x = torch.randn(shape).to(dtype)
        with testing.poison():
            y = so.fourier_mix(x)
        assert y.dtype == dtype and y.shape == x.shape and y.is_contiguous()
        wide = x.to(torch.float32)
        tally.add("y", y, torch.fft.fft2(wide).real.to(dtype if dtype != torch.float64 else torch.float32), truth(x))
    tally.check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives(backend):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    f = lambda t: so.fourier_mix(t, backend=backend)  # noqa: E731
    torch.autograd.gradcheck(f, x)
    torch.autograd.gradgradcheck(lambda t: f(t).square(), x)


def test_its_own_adjoint_and_nothing_saved():
    x, saved = torch.randn(2, 6, 7, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = so.fourier_mix(x)
    g = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, g)
    assert not saved and torch.equal(dx, so.fourier_mix(g))


def test_layouts_rank_empty_nan_and_two_runs():
    x = torch.randn(3, 10, 7)
    expect = so.fourier_mix(x)
    for name, view in testing.layouts(x):
        assert torch.equal(so.fourier_mix(view), expect), name
    assert torch.equal(so.fourier_mix(x[0].expand(4, 10, 7)), expect[0].expand(4, 10, 7))
    assert torch.equal(so.fourier_mix(x[0]), expect[0]) and torch.equal(so.fourier_mix(x[None]), expect[None])
    assert torch.equal(so.fourier_mix(x), expect)
    for shape in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0)]:
        z = torch.empty(shape, requires_grad=True)
        assert torch.autograd.grad(so.fourier_mix(z).sum(), z)[0].shape == z.shape
    z = x.clone()
    z[1, 2, 3] = float("nan")
    y = so.fourier_mix(z)
    assert y[1].isnan().all() and torch.equal(y[::2], expect[::2])


def test_transforms_autocast_compile_export_and_opcheck():
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    loss = lambda t: so.fourier_mix(t).pow(3).sum()  # noqa: E731
    grad = torch.func.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(grad, torch.stack([torch.func.grad(loss)(t) for t in x]))
    torch.testing.assert_close(torch.func.vmap(so.fourier_mix, 1, 1)(x), so.fourier_mix(x))
    torch.library.opcheck(torch.ops.spectralops.fourier_mix, (x[0, :, ::2],))
    z = torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(so.fourier_mix(z), so.fourier_mix(z.clone())) and so.fourier_mix(z).dtype == torch.float32
    torch._dynamo.reset()
    leaf = z.clone().requires_grad_()
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf)
    torch.testing.assert_close(torch.autograd.grad(got, leaf), torch.autograd.grad(loss(leaf), leaf))
    torch.testing.assert_close(torch.compile(torch.func.grad(loss), fullgraph=True, backend="eager")(z), torch.func.grad(loss)(z))

    class Mix(torch.nn.Module):
        def forward(self, x):
            return so.fourier_mix(x)

    program = torch.export.export(Mix(), (z,), dynamic_shapes=({0: torch.export.Dim("b")},))
    calls = [n.target for n in program.run_decompositions().graph.nodes if n.op == "call_function"]
    assert {t.namespace for t in calls if isinstance(t, torch._ops.OpOverload)} == {"aten"}
    assert torch.ops.aten.cos.default not in calls
    values = [n.meta["val"] for n in program.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not any(v.is_complex() for v in values)
    torch.testing.assert_close(program.module()(z[:1]), so.fourier_mix(z[:1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.fourier_mix([1.0]), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: so.fourier_mix(torch.ones(3, 3, dtype=torch.int32)), TypeError, "x must have dtype"),
        (lambda: so.fourier_mix(torch.ones(3)), ValueError, r"x must have shape \(.., S, H\); got \(3,\)"),
        (lambda: so.fourier_mix(torch.ones(3, 3), backend="mkl"), ValueError, "backend must be None or one of .*got 'mkl'"),
        (lambda: so.fourier_mix(torch.ones(3, 3), backend="triton"), RuntimeError, "backend 'triton' cannot run fourier_mix"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_explain():
    assert "reference  chosen" in so.explain("fourier_mix", torch.ones(2, 3, 4))
