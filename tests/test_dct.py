"""`dct`, `idct`, `dct_resample` against scipy.fft in float64 and the matrices written out."""

import numpy as np
import pytest
import torch
from scipy import fft as scipy_fft

import spectralops as so
from spectralops import testing
from spectralops.ops import dct_reference

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ops = torch.ops.spectralops
SIZES = [1, 2, 3, 4, 7, 16, 197, 256, 257, 300, 512]


def cosines(size):
    k, n = np.arange(size)[:, None], np.arange(size)
    d = np.cos(np.pi * k * (2 * n + 1) / (2 * size)) * np.sqrt(2 / size)
    d[0] /= np.sqrt(2)
    return torch.from_numpy(d)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("norm", ["ortho", None])
def test_values_against_scipy(dtype, norm):
    eps = torch.finfo(dtype).eps
    for size in SIZES:
        x = torch.randn(5, size, dtype=torch.float64).to(dtype)
        for ours, theirs in ((so.dct, scipy_fft.dct), (so.idct, scipy_fft.idct)):
            expect = torch.from_numpy(theirs(x.double().numpy(), norm=norm))
            with testing.poison():
                y = ours(x, norm=norm)
            assert y.dtype == dtype and y.is_contiguous()
            assert testing.relative_error(y, expect) <= (4 + np.log2(size) if dtype.itemsize > 2 else 1) * eps, size
            z = ours(x.T[None].expand(2, size, 5), dim=1, norm=norm)
            assert testing.relative_error(z[1].T, expect) <= (4 + np.log2(size) if dtype.itemsize > 2 else 1) * eps, size


@pytest.mark.parametrize("small", [0, 256])
def test_both_ways_are_one_map_and_invert(monkeypatch, small):
    monkeypatch.setattr(dct_reference, "SMALL", small)
    for size in (1, 2, 5, 8, 9):
        x = torch.randn(3, size, 2, dtype=torch.float64)
        for norm in ("ortho", None):
            torch.testing.assert_close(so.idct(so.dct(x, dim=1, norm=norm), dim=1, norm=norm), x)
        torch.testing.assert_close(so.dct(x, dim=1), torch.einsum("kn,bnc->bkc", cosines(size), x))
        for m in (1, 3, size, size + 4):
            kept = min(m, size)
            r = cosines(m)[:kept].T @ cosines(size)[:kept]
            torch.testing.assert_close(so.dct_resample(x, m, dim=-2), torch.einsum("mn,bnc->bmc", r, x))


def test_resample_is_scipys_and_upstreams():
    for size, m in ((300, 90), (64, 20), (20, 64), (100, 301)):
        x = torch.randn(size, 3, dtype=torch.float64)
        kept = scipy_fft.dct(x.numpy(), axis=0, norm="ortho")[:m]
        kept = np.concatenate([kept, np.zeros((m - len(kept), 3))])
        torch.testing.assert_close(so.dct_resample(x, m, dim=0), torch.from_numpy(scipy_fft.idct(kept, axis=0, norm="ortho")))
        y = so.dct_resample(x.bfloat16(), m, dim=0)
        assert y.dtype == torch.bfloat16
        assert testing.relative_error(y, so.dct_resample(x.bfloat16().double(), m, dim=0)) <= torch.finfo(y.dtype).eps


@pytest.mark.parametrize("small", [0, 256])
@pytest.mark.parametrize("backend", ["reference", None])
def test_derivatives(monkeypatch, small, backend):
    monkeypatch.setattr(dct_reference, "SMALL", small)
    x = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    for f in (
        lambda t: so.dct(t, dim=1, norm=None, backend=backend),
        lambda t: so.idct(t, dim=1, norm=None, backend=backend),
        lambda t: so.dct_resample(t, 3, dim=1, backend=backend),
    ):
        torch.autograd.gradcheck(f, x)
        torch.autograd.gradgradcheck(lambda t: f(t).square(), x)
        g = torch.randn_like(f(x))
        (dx,) = torch.autograd.grad(f(x), x, g)
        torch.testing.assert_close((dx * x).sum(), (f(x) * g).sum())  # the exact adjoint
    z, saved = torch.randn(2, 300, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        so.dct(z)
        so.dct_resample(z, 20, dim=1)
    assert not saved


def test_layouts_empty_nan_and_autocast():
    for size in (12, 300):
        x = torch.randn(3, size)
        expect = so.dct(x)
        for name, view in testing.layouts(x):
            assert torch.equal(so.dct(view), expect), name
        z = x.clone()
        z[1, 2] = float("nan")
        y = so.dct(z)
        assert y[1].isnan().all() and torch.equal(y[::2], expect[::2])
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(so.dct(x), expect) and so.dct_resample(x, 5, dim=1).dtype == torch.float32
            assert torch.equal(so.dct(x, backend="reference"), expect)
    z = torch.empty(0, 5, requires_grad=True)
    assert torch.autograd.grad(so.dct(z).sum(), z)[0].shape == (0, 5) and so.dct_resample(z, 3, dim=1).shape == (0, 3)
    assert so.dct(torch.empty(5, 0), dim=0).shape == (5, 0)


def test_transforms_compile_export_and_opcheck():
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    loss = lambda t: (so.dct(t, dim=0).pow(3).sum() + so.dct_resample(t, 3, dim=1).square().sum())  # noqa: E731
    grad = torch.func.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(grad, torch.stack([torch.func.grad(loss)(t) for t in x]))
    torch._dynamo.reset()
    leaf = x.clone().requires_grad_()
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf)
    torch.testing.assert_close(torch.autograd.grad(got, leaf), torch.autograd.grad(loss(leaf), leaf))
    torch.library.opcheck(ops.dct, (x[..., ::2], 2, True))
    torch.library.opcheck(ops.dct_resample, (x, 7), test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))

    class Low(torch.nn.Module):
        def forward(self, x):
            return so.idct(so.dct(so.dct_resample(x, 5, dim=1), dim=1), dim=1)

    program = torch.export.export(Low(), (x,), dynamic_shapes=({0: torch.export.Dim("b")},))
    calls = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert {t.namespace for t in calls if isinstance(t, torch._ops.OpOverload)} == {"aten"}
    assert not {torch.ops.aten.cos.default, torch.ops.aten.arange.default} & set(calls)
    torch.testing.assert_close(program.module()(x[:2]), so.dct_resample(x[:2], 5, dim=1))


X = torch.ones(2, 6)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.dct([1.0]), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: so.dct(torch.tensor(1.0)), ValueError, "x must have at least one dimension"),
        (lambda: so.dct(X, dim=2), ValueError, r"dim must be in \[-2, 1\]"),
        (lambda: so.idct(X, norm="forward"), ValueError, "norm must be one of None, 'ortho'; got 'forward'"),
        (lambda: so.dct(torch.ones(2, 0)), ValueError, r"x of \(2, 0\) has no points along dimension 1"),
        (lambda: so.dct_resample(X, 0, dim=1), ValueError, "m must be at least 1; got 0"),
        (lambda: so.dct_resample(X, 2.0, dim=1), TypeError, "m must be an int"),
        (lambda: so.dct(X, backend="mkl"), ValueError, "backend must be None or one of"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
