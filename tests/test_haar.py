"""`haar`, `ihaar` and `wavelet_gate` against pywt and the matrix written out."""

import numpy as np
import pytest
import torch

import spectralops as so
from spectralops import testing

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def matrix(size, levels):
    """(N, N), row by row: the definition of the wavelets."""
    rows = [np.repeat(np.eye(size >> levels), 1 << levels, axis=1) * 2 ** (-levels / 2)]
    for level in range(levels, 0, -1):
        wave = np.r_[np.ones(1 << (level - 1)), -np.ones(1 << (level - 1))] * 2 ** (-level / 2)
        rows.append(np.kron(np.eye(size >> level), wave))
    return torch.from_numpy(np.concatenate(rows))


@pytest.mark.parametrize("size, levels", [(1, 0), (2, 1), (6, 1), (8, 3), (48, 4), (160, 5), (256, 8)])
def test_values_and_inverse(size, levels):
    pywt = pytest.importorskip("pywt")
    for dtype in FLOATS:
        x = torch.randn(3, size).to(dtype)
        expect = x.double() @ matrix(size, levels).T
        if levels:
            bands = np.concatenate(pywt.wavedec(x.double().numpy(), "haar", level=levels), axis=-1)
            torch.testing.assert_close(torch.from_numpy(bands), expect)
        with testing.poison():
            c = so.haar(x, levels)
        assert c.dtype == dtype and c.shape == x.shape and c.is_contiguous()
        room = (2 if dtype.itemsize > 2 else 1) * torch.finfo(dtype).eps
        assert testing.relative_error(c, expect) <= room
        assert testing.relative_error(so.haar(x.T, levels, dim=0).T, expect) <= room
        assert testing.relative_error(so.ihaar(x, levels), x.double() @ matrix(size, levels)) <= room
        assert testing.relative_error(so.ihaar(so.haar(x, levels), levels), x.double()) <= 2 * room


@pytest.mark.parametrize("backend", ["reference", None])
def test_derivatives(backend):
    x = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    gates = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 3), (8, 1), (2, 3, 3), (2, 8, 3))]
    for f in (so.haar, so.ihaar):
        torch.autograd.gradcheck(lambda t: f(t, 2, dim=1, backend=backend), x)
        torch.autograd.gradgradcheck(lambda t: f(t, 2, dim=1, backend=backend).square(), x)
    for g in gates:
        torch.autograd.gradcheck(lambda *t: so.wavelet_gate(*t, levels=2, backend=backend), (x, g))
    torch.autograd.gradgradcheck(lambda *t: so.wavelet_gate(*t, levels=2, backend=backend), (x[:1, :4], gates[0]))


def test_gates():
    h = matrix(16, 3)
    x = torch.randn(2, 5, 16, 4, dtype=torch.float64)
    apply = lambda g: torch.einsum("mn,bhmc->bhnc", h, g * torch.einsum("mn,bhnc->bhmc", h, x))  # noqa: E731
    for shape in ((16, 4), (16, 1), (5, 16, 4), (2, 1, 16, 1)):
        g = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(so.wavelet_gate(x, g, levels=3), apply(g))
    for shape in ((4, 4), (4, 1), (2, 5, 4, 4)):
        g = torch.randn(shape, dtype=torch.float64)
        every = g.repeat_interleave(torch.tensor([2, 2, 4, 8]), -2)
        torch.testing.assert_close(so.wavelet_gate(x, g, levels=3), apply(every))
        torch.testing.assert_close(so.wavelet_gate(x.mT, g.mT, levels=3, dim=-1).mT, apply(every))
    g = torch.rand(4, 4)
    y = so.wavelet_gate(x.bfloat16(), g, levels=3)
    exact = so.wavelet_gate(x.bfloat16().double(), g.double(), levels=3)
    assert y.dtype == torch.bfloat16 and testing.relative_error(y, exact) <= torch.finfo(y.dtype).eps


def test_layouts_empty_nan_saved_and_autocast():
    x = torch.randn(3, 5, 8)
    expect = so.haar(x, 2)
    for name, view in testing.layouts(x):
        assert torch.equal(so.haar(view, 2), expect), name
    assert torch.equal(so.haar(x[:1].expand(3, 5, 8), 2)[2], expect[0])
    same = so.haar(x, 0)
    assert torch.equal(same, x) and same.data_ptr() != x.data_ptr()
    for shape in ((0, 8), (2, 0)):
        z = torch.empty(shape, requires_grad=True)
        assert torch.autograd.grad(so.haar(z, 2).sum(), z)[0].shape == shape
    z = x.clone()
    z[0, 0, 5] = float("nan")
    assert so.haar(z, 2)[0, 0].isnan().tolist() == [False, True, False, True, False, False, True, False]
    z, saved = x.clone().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        so.haar(z, 2)
    assert not saved
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(so.haar(x, 2), expect)


def test_transforms_compile_export_and_opcheck():
    x, g = torch.randn(3, 4, 8, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    loss = lambda t, g: so.wavelet_gate(t, g, levels=2).pow(3).sum()  # noqa: E731
    grads = torch.func.vmap(torch.func.grad(loss, (0, 1)), (0, None))(x, g)
    torch.testing.assert_close(grads, tuple(map(torch.stack, zip(*(torch.func.grad(loss, (0, 1))(t, g) for t in x)))))
    torch._dynamo.reset()
    leaf = x.clone().requires_grad_()
    got = torch.compile(loss, fullgraph=True, backend="eager")(leaf, g)
    torch.testing.assert_close(torch.autograd.grad(got, leaf), torch.autograd.grad(loss(leaf, g), leaf))
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.spectralops.haar, (x[0].mT, 1, True), test_utils=quick)
    with pytest.raises(ValueError, match="does not divide"):
        torch.ops.spectralops.haar(x[0], 4, True)

    class Gate(torch.nn.Module):
        def forward(self, x, g):
            return so.wavelet_gate(x, g, levels=2)

    program = torch.export.export(Gate(), (x, g), dynamic_shapes=({0: torch.export.Dim("b")}, {}))
    calls = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert {t.namespace for t in calls if isinstance(t, torch._ops.OpOverload)} == {"aten"}
    torch.testing.assert_close(program.module()(x[:2], g), so.wavelet_gate(x[:2], g, levels=2))


X, G = torch.ones(2, 8, 3), torch.ones(3, 3)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.haar([1.0], 1), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: so.haar(torch.tensor(1.0), 1), ValueError, "x must have at least one dimension"),
        (lambda: so.haar(X, 1), ValueError, r"x has 3 points, which 2\^levels = 2 does not divide"),
        (lambda: so.ihaar(X, -1, dim=1), ValueError, "levels must be at least 0; got -1"),
        (lambda: so.ihaar(X, 1.0, dim=1), TypeError, "levels must be an int"),
        (lambda: so.haar(X, 1, dim=3), ValueError, "dim must be in"),
        (lambda: so.haar(X, 1, dim=1, backend="mkl"), ValueError, "backend must be None or one of"),
        (lambda: so.wavelet_gate(X, G, levels=3), ValueError, r"gates must have levels \+ 1 = 4 bands or 8 coefficients"),
        (lambda: so.wavelet_gate(X, torch.ones(3, 2), levels=2), ValueError, "do not broadcast to x"),
        (lambda: so.wavelet_gate(X, torch.ones(4, 1, 3, 3), levels=2), ValueError, "do not broadcast to x"),
        (lambda: so.wavelet_gate(X, G.double(), levels=2), TypeError, "gates is float64 but x is float32"),
        (lambda: so.wavelet_gate(X, G, levels=2, dim=0), ValueError, "dim must be one of the last two of x; got 0"),
        (lambda: so.wavelet_gate(X, torch.ones(3), levels=2), ValueError, "x and gates must have two dimensions"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
