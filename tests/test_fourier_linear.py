"""fourier_linear against the published formula in numpy float64."""

import numpy as np
import pytest
import spectralops as so
import torch
from spectralops.ops import fourier_linear_reference as reference
from spectralops.testing import Tally, layouts, poison

SIZES = [(8, 8, 20), (7, 10, 30), (9, 5, 45), (6, 12, 1), (1, 4, 2), (33, 20, 50)]  # O, I, n


@pytest.fixture(autouse=True)
def _one_thread():
    """Products this small gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[False, True], ids=["sparse", "dense"])
def form(request, monkeypatch):
    monkeypatch.setattr(reference, "is_dense", lambda *a: request.param)
    monkeypatch.setattr(reference, "is_dense_gradient", lambda *a: request.param)
    return request.param


def entries(o, i, n, seed=0):
    return torch.stack([(p := torch.randperm(o * i, generator=torch.Generator().manual_seed(seed))[:n]) // i, p % i])


def operands(o, i, n, tokens=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    make = lambda *s: torch.randn(s, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    return make(tokens, i), make(n), entries(o, i, n, seed), make(o, i), make(o)


def delta(spectrum, indices, o, i, scaling):
    dense = np.zeros((o, i))
    np.add.at(dense, tuple(indices.numpy()), spectrum.detach().double().numpy())
    return torch.from_numpy(np.fft.ifft2(dense).real * scaling)


def eager(x, c, indices, w, b, scaling):
    """As PEFT computes it."""
    dense = torch.zeros(w.shape, dtype=c.dtype).index_put(tuple(indices), c)
    return torch.nn.functional.linear(x, w, b) + torch.nn.functional.linear(x, torch.fft.ifft2(dense).real * scaling)


def call(x, c, indices, w=None, b=None, o=None, scaling=3.0, **k):
    return so.fourier_linear(x, c, indices, out_features=w.shape[0] if o is None else o, scaling=scaling, weight=w, bias=b, **k)


@pytest.mark.parametrize("o, i, n", SIZES)
def test_the_definition(o, i, n, form):
    x, c, indices, w, b = operands(o, i, n)
    update = x @ delta(c, indices, o, i, 3.0).T
    for args, base in (((w, b), x @ w.T + b), ((w,), x @ w.T), ((None, b), b), ((), 0)):
        torch.testing.assert_close(call(x, c, indices, *args, o=o), update + base, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(reference.lowered(x, c, indices, w, b, o, i, 3.0), update + x @ w.T + b, rtol=1e-12, atol=1e-13)
    lead = x.view(1, 5, 1, i)
    assert torch.equal(call(lead, c, indices, w, b), call(x, c, indices, w, b).view(1, 5, 1, o))


@pytest.mark.parametrize("o, i, n", [(7, 10, 30), (32, 20, 50)])
def test_errors_within_twice_those_of_torch(o, i, n, form):
    tally = Tally()
    for seed in range(6):
        data = operands(o, i, n, 300, torch.float32, seed)
        grad, results = torch.randn(300, o, generator=torch.Generator().manual_seed(seed)), []
        for f, dtype in ((call, torch.float32), (eager, torch.float32), (eager, torch.float64)):
            x, c, indices, w, b = (t.to(dtype).requires_grad_() if t.is_floating_point() else t for t in data)
            y = f(x, c, indices, w, b, scaling=3.0)
            results.append((y.detach(), *torch.autograd.grad(y, (x, c, w, b), grad.to(dtype))))
        for name, *three in zip(("y", "dx", "dspectrum", "dweight", "dbias"), *results):
            tally.add(name, *three)
    tally.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype, form):
    x, c, indices, w, b = operands(8, 12, 20, 40, torch.float32)
    x = x.to(dtype)
    y = call(x, c, indices, o=8)
    assert y.dtype == dtype and torch.equal(y, call(x.float(), c, indices, o=8).to(dtype))
    base = torch.nn.functional.linear(x, w.to(dtype), b.to(dtype))
    z = call(x.requires_grad_(), c.requires_grad_(), indices, w.to(dtype), b.to(dtype))
    assert z.dtype == dtype
    torch.testing.assert_close(z, (base + call(x.float(), c, indices, o=8)).to(dtype), rtol=2e-2, atol=2e-2)
    dx, dc = torch.autograd.grad(z.sum(), (x, c))
    assert dx.dtype == dtype and dc.dtype == torch.float32


def test_any_layout_and_nothing_is_written(form):
    x, c, indices, w, b = operands(6, 10, 25, dtype=torch.float32)
    with poison():
        y = call(x, c, indices, w, b)
        for name, z in layouts(x):
            before = z.clone()
            torch.testing.assert_close(call(z, c, indices, w, b), y, msg=name)
            assert torch.equal(z, before)
    assert call(x[:0], c, indices, w, b).shape == (0, 6)
    e = x[:0].clone().requires_grad_()
    torch.autograd.grad(call(e, c.requires_grad_(), indices, w, b).sum(), (e, c))
    many = torch.randn(700, 10)
    assert torch.equal(call(many, c, indices, w, b), call(many, c, indices, w, b))


def test_derivatives(form):
    x, c, indices, w, b = operands(4, 5, 7, 3)
    leaves = [t.requires_grad_() for t in (x, c, w, b)]
    f = lambda x, c, w, b: call(x, c, indices, w, b)  # noqa: E731
    assert torch.autograd.gradcheck(f, leaves) and torch.autograd.gradgradcheck(f, leaves)
    y = call(x, c, indices, w, b)
    whole = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)  # without the operator that fuses two gradients
    for a, e in zip(torch.autograd.grad(call(x, c, indices, w, b).square().sum(), leaves), whole):
        torch.testing.assert_close(a, e)


def test_the_matrix_is_kept_but_never_stale(monkeypatch):
    monkeypatch.setattr(reference, "is_dense", lambda *a: True)
    made, original = [], reference.delta
    monkeypatch.setattr(reference, "delta", lambda *a: made.append(1) or original(*a))
    x, c, indices, w, b = operands(6, 10, 25)
    c = torch.nn.Parameter(c)
    optimizer = torch.optim.SGD([c], lr=0.1)
    for step in range(2):
        for micro in range(3):
            y = call(x, c, indices, w, b)
            torch.testing.assert_close(y, x @ (w + delta(c, indices, 6, 10, 3.0)).T + b)
            y.square().sum().backward()
        assert len(made) == step + 1 and c.grad is not None
        optimizer.step()
    for write in (lambda: c.data.mul_(2), lambda: setattr(c, "data", torch.randn_like(c)), lambda: c.detach().numpy().fill(1.5)):
        write()
        torch.testing.assert_close(call(x, c, indices, w, b), x @ (w + delta(c, indices, 6, 10, 3.0)).T + b)
    other = entries(6, 10, 25, seed=5)
    torch.testing.assert_close(call(x, c, other, o=6), x @ delta(c, other, 6, 10, 3.0).T)
    torch.testing.assert_close(call(x, c, other, o=6, scaling=1.0), x @ delta(c, other, 6, 10, 1.0).T)
    other.copy_(indices)
    torch.testing.assert_close(call(x, c, other, o=6), x @ delta(c, indices, 6, 10, 3.0).T)


def test_choice_by_tokens():
    w, c = torch.empty(1024, 1024), 1000
    chosen = [reference.is_dense(torch.empty(t, 1024), c, 1024, 1024, w) for t in (1, 64, 2048, 8192)]
    assert chosen == [False, False, True, True]
    chosen = [reference.is_dense_gradient(torch.empty(t, n), 1000, n, n) for n, t in ((1024, 64), (1024, 8192), (256, 512))]
    assert chosen == [False, False, True]


def test_operators():
    x, c, indices, w, b = operands(4, 6, 9, dtype=torch.float32)
    op = torch.ops.spectralops
    torch.library.opcheck(op.fourier_linear.default, (x, c, indices, w, b, 4, 6, 2.0, False))
    torch.library.opcheck(op.fourier_linear.default, (torch.randn(5, 4), c, indices, None, None, 4, 6, 2.0, True))
    torch.library.opcheck(op.fourier_linear_gradient.default, (x, torch.randn(5, 4), indices, 4, 6, 2.0))
    torch.library.opcheck(op.fourier_linear_backward.default, (torch.randn(5, 4), x, c, indices, w, 4, 6, 2.0))
    with pytest.raises(ValueError, match="x must have 6 features"):
        op.fourier_linear(x[:, :5], c, indices, w, b, 4, 6, 2.0, False)
    with pytest.raises(ValueError, match="grad must have shape"):
        op.fourier_linear_backward(x, x, c, indices, w, 4, 6, 2.0)


def test_transforms_and_compile():
    x, c, indices, w, b = operands(4, 6, 9, dtype=torch.float32)
    f = lambda x, c: call(x, c, indices, w, b)  # noqa: E731
    many, spectra = torch.randn(3, 5, 6), torch.randn(3, 9)
    torch.testing.assert_close(torch.vmap(f, (0, None))(many, c), torch.stack([f(z, c) for z in many]))
    torch.testing.assert_close(torch.vmap(f)(many, spectra), torch.stack([f(z, s) for z, s in zip(many, spectra)]))
    loss = lambda c, x: f(x, c).square().sum()  # noqa: E731
    each = torch.vmap(torch.func.grad(loss), (None, 0))(c, many)
    torch.testing.assert_close(each, torch.stack([torch.func.grad(loss)(c, z) for z in many]))
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    c.requires_grad_()
    for z in (x, torch.randn(11, 6)):
        torch.testing.assert_close(compiled(z, c), f(z, c))
        a, e = (torch.autograd.grad(g(z, c).square().sum(), c)[0] for g in (compiled, f))
        torch.testing.assert_close(a, e)


class Adapter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        _, c, self.indices, w, b = operands(4, 6, 9, dtype=torch.float32)
        self.c, self.w, self.b = (torch.nn.Parameter(t) for t in (c, w, b))

    def forward(self, x):
        return call(x, self.c, self.indices, self.w, self.b)


def test_export_as_products():
    model, x = Adapter(), torch.randn(2, 5, 6)
    program = torch.export.export(model, (x,)).run_decompositions()
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    assert {n.target.namespace for n in nodes if isinstance(n.target, torch._ops.OpOverload)} == {"aten"}
    assert not any(n.meta["val"].is_complex() for n in nodes if isinstance(n.meta.get("val"), torch.Tensor))
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    "error, match, change",
    [
        (TypeError, "x must be a torch.Tensor", {"x": None}),
        (TypeError, "indices must have dtype int64", {"indices": torch.zeros(2, 9)}),
        (ValueError, "indices must have shape", {"indices": torch.zeros(9, dtype=torch.int64)}),
        (ValueError, r"indices must have shape \(2, 9\)", {"indices": torch.zeros(2, 8, dtype=torch.int64)}),
        (ValueError, r"indices must be in 0 .. 3 and 0 .. 5; the largest are 4", {"indices": torch.full((2, 9), 4)}),
        (ValueError, "indices must be in", {"indices": torch.full((2, 9), -1)}),
        (ValueError, "weight must have shape", {"weight": torch.zeros(4, 5)}),
        (ValueError, "bias must have shape", {"bias": torch.zeros(5)}),
        (TypeError, "spectrum is float64", {"spectrum": torch.zeros(9, dtype=torch.float64)}),
        (TypeError, "scaling must be a number", {"scaling": "2"}),
        (ValueError, "out_features must be positive", {"out_features": 0}),
        (ValueError, "backend must be None", {"backend": "fast"}),
    ],
)
def test_bad_input(error, match, change):
    x, c, indices, w, b = operands(4, 6, 9, dtype=torch.float32)
    arguments = {"x": x, "spectrum": c, "indices": indices, "out_features": 4, "scaling": 1.0, "weight": w, "bias": b, **change}
    with pytest.raises(error, match=match):
        so.fourier_linear(**arguments)
