"""`spectral_gate1d` and its decoding against the expressions of FFTNet and SPECTRE in numpy, float64."""

import numpy as np
import pytest
import torch

import spectralops as so
from spectralops import testing
from spectralops.ops.spectral_gate1d import composed, gated

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def formula(x, gate, bias=None, norm="ortho"):
    """x (B, N, D), gate (S, h, K) real or complex, bias (h, K)."""
    x, gate = x.detach().double().numpy(), gate.detach().numpy()
    b, n, d = x.shape
    heads = gate.shape[1]
    v = x.reshape(b, n, heads, d // heads).transpose(0, 2, 1, 3)
    f = np.fft.rfft(v, axis=2, norm=norm) * gate[..., None]
    if bias is not None:
        r = np.abs(f)
        f = f * np.maximum(r + bias.detach().double().numpy()[..., None], 0) / (r + 1e-6)
    y = np.fft.irfft(f, n=n, axis=2, norm=norm)
    return torch.from_numpy(y.transpose(0, 2, 1, 3).reshape(b, n, d))


CASES = [((2, 197, 12), 3), ((3, 8, 4), 4), ((1, 9, 6), 1), ((2, 1, 4), 2), ((2, 2, 4), 2)]


@pytest.mark.parametrize("shape, heads", CASES)
def test_values(shape, heads):
    b, n, d = shape
    x = torch.randn(shape, dtype=torch.float64)
    bias = -0.3 * torch.rand(heads, n // 2 + 1, dtype=torch.float64)
    for samples in (b, 1):
        real = torch.randn(samples, heads, n // 2 + 1, dtype=torch.float64)
        for gate in (real, torch.complex(real, torch.randn_like(real))):
            for kwargs in ({}, {"bias": bias}, {"bias": bias, "norm": "backward"}, {"bias": bias, "norm": "forward"}):
                expect = formula(x, gate, **kwargs)
                own = {"modrelu_bias": kwargs.get("bias"), "norm": kwargs.get("norm", "ortho")}
                torch.testing.assert_close(so.spectral_gate1d(x, gate, **own), expect, rtol=1e-10, atol=1e-10)
                pairs = torch.view_as_real(gate) if gate.is_complex() else gate
                torch.testing.assert_close(so.spectral_gate1d(x.mT, pairs, dim=-1, **own).mT, expect, rtol=1e-10, atol=1e-10)
                plain = so.spectral_gate1d(x, gate, backend="reference", **own)
                torch.testing.assert_close(plain, expect, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(so.spectral_gate1d(x, real, modrelu_bias=bias[..., None]), formula(x, real, bias))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("samples, bins", [(1, 1), (1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("near", [1, 60, 1000])
def test_some_samples_at_a_time_are_the_composed_form(monkeypatch, pairs, samples, bins, near):
    """Values, derivatives and second ones; also where |G| is 0 and where its square is not finite."""
    monkeypatch.setattr("spectralops.ops.spectral_gate1d_samples._NEAR", near)
    g = torch.Generator().manual_seed(0)
    make = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    spectrum, gate, bias = make(3, 5, 6, 2), make(samples, 5, 2, *((2,) if pairs else ())), 0.5 * make(bins, 2)
    spectrum[1, 2], spectrum[2] = 0, spectrum[2] * 1e200
    inputs = [t.requires_grad_() for t in (spectrum, gate, bias)]
    y, expect = gated(*inputs), composed(*inputs)
    torch.testing.assert_close(y, expect, rtol=1e-12, atol=0)
    grad = make(*y.shape)
    for wanted in (inputs, inputs[:1], inputs[1:], inputs[2:]):
        found, right = (torch.autograd.grad(t, wanted, grad, retain_graph=True) for t in (y, expect))
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)
    one, other = (torch.autograd.grad(t, inputs, grad, create_graph=True)[2].sum() for t in (y, expect))
    torch.testing.assert_close(torch.autograd.grad(one, inputs[1]), torch.autograd.grad(other, inputs[1]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_dtype(dtype):
    for seed in range(3):
        x, gate = torch.randn(2, 60, 8).to(dtype), torch.randn(2, 2, 31)
        bias = -0.2 * torch.rand(2, 1)
        for given in (None, bias):
            y = so.spectral_gate1d(x, gate, modrelu_bias=given)
            expect = formula(x, gate.double(), None if given is None else bias.expand(2, 31))
            room = max(torch.finfo(dtype).eps, 8 * torch.finfo(torch.float32).eps)  # the gate is float32
            assert y.dtype == dtype and testing.relative_error(y, expect) <= room


def test_derivatives_and_those_at_zero():
    x, gate = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64)
    bias = -0.1 * torch.rand(2, 3, dtype=torch.float64)
    pairs = torch.randn(1, 2, 3, 2, dtype=torch.float64)
    for g, b in ((gate, None), (pairs, None), (gate, bias), (pairs, bias)):
        leaves = [t.clone().requires_grad_() for t in (x, g) + (() if b is None else (b,))]
        f = lambda x, g, b=None: so.spectral_gate1d(x, g, modrelu_bias=b)  # noqa: E731
        torch.autograd.gradcheck(f, leaves)
        if b is not None:
            leaves = [t.detach().requires_grad_() for t in (leaves[0][:1, :3, :2], leaves[1][:1, :1, :2], b[:1, :2])]
        torch.autograd.gradgradcheck(f, leaves)
    z = torch.zeros(1, 6, 2, dtype=torch.float64, requires_grad=True)
    g = torch.ones(1, 1, 4, dtype=torch.float64, requires_grad=True)
    b = torch.full((1, 4), 0.5, dtype=torch.float64, requires_grad=True)
    y = so.spectral_gate1d(z, g, modrelu_bias=b)
    (dz, dg, db) = torch.autograd.grad((y * torch.randn_like(y)).sum(), (z, g, b), create_graph=True)
    assert dz.isfinite().all() and dg.eq(0).all() and db.eq(0).all()
    assert all(t.isfinite().all() for t in torch.autograd.grad(dz.square().sum(), (g, b)))
    t = torch.randn_like(z)
    torch.testing.assert_close(so.spectral_gate1d(1e-12 * t, g, modrelu_bias=b) / 1e-12, t * 0.5 / 1e-6, rtol=1e-4, atol=0)


@pytest.mark.parametrize("modrelu", [False, True])
@pytest.mark.parametrize("size", [7, 12])
def test_decoding_gives_the_rows_of_one_call(size, modrelu):
    heads, prompt = 2, 3
    x = torch.randn(2, size, 4, dtype=torch.float64)
    bias = -0.1 * torch.rand(heads, size // 2 + 1, dtype=torch.float64) if modrelu else None
    state = so.spectral_gate1d_state(x[:, :prompt], size)
    padded = torch.nn.functional.pad(x[:, :prompt], (0, 0, 0, size - prompt))
    torch.testing.assert_close(torch.view_as_complex(state), torch.fft.rfft(padded, dim=1))
    for t in range(prompt, size):
        gate = torch.randn(2, heads, size // 2 + 1, dtype=torch.complex128)  # each token has another
        before = state.clone()
        y, after = so.spectral_gate1d_step(x[:, t], gate, state, t, size, modrelu_bias=bias, norm="backward")
        assert torch.equal(state, before)
        state = after
        so_far = torch.cat([x[:, : t + 1], torch.zeros(2, size - t - 1, 4, dtype=x.dtype)], 1)
        torch.testing.assert_close(y, formula(so_far, gate, bias, "backward")[:, t])
    torch.testing.assert_close(torch.view_as_complex(state), torch.fft.rfft(x, dim=1))
    empty = so.spectral_gate1d_state(x[:, :0].bfloat16(), size)
    y, _ = so.spectral_gate1d_step(x[:, 0].bfloat16(), gate.to(torch.complex64), empty, 0, size)
    assert empty.dtype == torch.float32 and y.dtype == torch.bfloat16


def test_layouts_empty_nan_transforms_and_compile():
    x, gate = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    bias = -torch.rand(2, 4, dtype=torch.float64)
    for b in (None, bias):
        expect = so.spectral_gate1d(x, gate, modrelu_bias=b)
        for name, view in testing.layouts(x):
            got = so.spectral_gate1d(view, gate, modrelu_bias=b)
            torch.testing.assert_close(got, expect, msg=name, rtol=1e-12, atol=1e-12)
        assert so.spectral_gate1d(x[:0], gate[:0], modrelu_bias=b).shape == (0, 6, 4)
        z = x.clone()
        z[1, 2, 3] = float("nan")
        y = so.spectral_gate1d(z, gate, modrelu_bias=b)
        assert y[1, :, 3].isnan().all() and y.isnan().sum() == 6
    loss = lambda x, g: so.spectral_gate1d(x, g, modrelu_bias=bias).square().sum()  # noqa: E731
    got = torch.func.vmap(torch.func.grad(loss, (0, 1)))(x[:, None], gate[:, None])
    torch.testing.assert_close([t[:, 0] for t in got], list(torch.func.grad(loss, (0, 1))(x, gate)))
    torch._dynamo.reset()
    leaves = [t.clone().requires_grad_() for t in (x, gate)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(*leaves), leaves))

    class Gate(torch.nn.Module):
        def forward(self, x, g):
            return so.spectral_gate1d(x, g, modrelu_bias=bias)

    program = torch.export.export(Gate(), (x, gate))
    values = [n.meta["val"] for n in program.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not any(v.is_complex() for v in values)
    torch.testing.assert_close(program.module()(x, gate), so.spectral_gate1d(x, gate, modrelu_bias=bias))


X, G, S = torch.ones(2, 6, 4), torch.ones(2, 2, 4), torch.zeros(2, 4, 4, 2)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.spectral_gate1d([1.0], G), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: so.spectral_gate1d(X[0], G), ValueError, r"x must have shape \(B, N, D\)"),
        (lambda: so.spectral_gate1d(X, G[..., :3]), ValueError, r"gate must have shape \(2 or 1, heads, 4\)"),
        (lambda: so.spectral_gate1d(X, torch.ones(2, 3, 4)), ValueError, "gate has 3 heads, which do not divide the 4 channels"),
        (lambda: so.spectral_gate1d(X, G.double()), TypeError, "gate is float64 but x is float32"),
        (lambda: so.spectral_gate1d(X, G, modrelu_bias=torch.ones(2, 3)), ValueError, r"modrelu_bias must have shape \(2, 4\)"),
        (lambda: so.spectral_gate1d(X, G, norm="unit"), ValueError, "norm must be one of"),
        (lambda: so.spectral_gate1d(X, G, dim=0), ValueError, "dim must be 1 or 2"),
        (lambda: so.spectral_gate1d(X[:, :0], G), ValueError, "no points along dimension 1"),
        (lambda: so.spectral_gate1d_state(X, 5), ValueError, "x has 6 tokens, more than size = 5"),
        (lambda: so.spectral_gate1d_step(X[:, 0], G, S, 6, 6), ValueError, r"position must be in \[0, 5\]; got 6"),
        (lambda: so.spectral_gate1d_step(X[:, 0], G, S[:1], 0, 6), ValueError, "state must have shape"),
        (lambda: so.spectral_gate1d_step(X[:, 0], G, S.double(), 0, 6), TypeError, "state must have dtype float32"),
        (lambda: so.spectral_gate1d_step(X, G, S, 0, 6), ValueError, r"v must have shape \(B, D\)"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
