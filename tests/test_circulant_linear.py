"""circulant_linear against its matrix in numpy float64 and the published transforms; waveft against the wavelet's inverse."""

import io

import numpy as np
import pytest
import spectralops as so
import torch
from spectralops.ops import waveft
from spectralops.testing import Tally, layouts, poison

SIZES = [(2, 3, 4), (3, 2, 9), (1, 1, 17), (4, 2, 2), (3, 5, 1), (2, 2, 64)]  # m, n, b


@pytest.fixture(autouse=True)
def _one_thread():
    """Products this small gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def operands(m, n, b, tokens=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in ((tokens, n * b), (m, n, b)))


def dense(w):
    w, (m, n, b) = w.detach().double().numpy(), w.shape
    out = np.zeros((m * b, n * b))
    for p, q, o, i in np.ndindex(m, n, b, b):
        out[p * b + o, q * b + i] = w[p, q, (i - o) % b]
    return torch.from_numpy(out)


def published(x, w, scaling=1.0):
    m, n, b = w.shape
    y = torch.einsum("...nb,mnb->...mb", torch.fft.ifft(x.unflatten(-1, (n, b))), torch.fft.fft(w))
    return torch.fft.fft(y).real.flatten(-2) * scaling


@pytest.mark.parametrize("size", SIZES)
def test_the_definition(size):
    x, w = operands(*size)
    exact = 0.5 * x @ dense(w).T
    torch.testing.assert_close(so.circulant_linear(x, w, scaling=0.5), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(published(x, w, 0.5), exact, rtol=1e-12, atol=1e-12)
    assert torch.equal(so.circulant_linear(x.view(1, 5, -1), w), so.circulant_linear(x, w)[None])


@pytest.mark.parametrize("size", [(2, 3, 8), (3, 2, 15), (2, 4, 2)])
def test_errors_within_twice_those_of_torch(size):
    tally = Tally()
    for seed in range(6):
        data, results = operands(*size, 600, torch.float32, seed), []
        grad = torch.randn(600, size[0] * size[2], generator=torch.Generator().manual_seed(seed))
        for f, dtype in ((so.circulant_linear, torch.float32), (published, torch.float32), (published, torch.float64)):
            x, w = (t.to(dtype).requires_grad_() for t in data)
            y = f(x, w, scaling=0.25)
            results.append((y.detach(), *torch.autograd.grad(y, (x, w), grad.to(dtype))))
        for name, *three in zip(("y", "dx", "dw"), *results):
            tally.add(name, *three)
    tally.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_rounded_once(dtype):
    x, w = operands(2, 3, 6, dtype=dtype)
    y = so.circulant_linear(x.requires_grad_(), w.float().requires_grad_())
    assert y.dtype == dtype and torch.equal(y, so.circulant_linear(x.float(), w.float()).to(dtype))
    assert torch.autograd.grad(y.sum(), x)[0].dtype == dtype


def test_any_layout_and_nothing_is_written():
    x, w = operands(2, 3, 6, dtype=torch.float32)
    with poison():
        y = so.circulant_linear(x, w)
        for name, z in layouts(x):
            torch.testing.assert_close(so.circulant_linear(z, w), y, msg=name)
        for name, z in layouts(w):
            before = z.clone()
            torch.testing.assert_close(so.circulant_linear(x, z), y, msg=name)
            assert torch.equal(z, before)
    e = x[:0].clone().requires_grad_()
    assert torch.autograd.grad(so.circulant_linear(e, w.requires_grad_()).sum(), (e, w))[1].abs().max() == 0
    x[1, 0] = float("nan")
    assert torch.equal(so.circulant_linear(x, w).isnan().any(1), torch.tensor([False, True, False, False, False]))


@pytest.mark.parametrize("size", [(2, 1, 4), (1, 2, 3), (2, 2, 2)])
def test_derivatives(size):
    x, w = (t.requires_grad_() for t in operands(*size, tokens=2))
    f = lambda x, w: so.circulant_linear(x, w, scaling=0.5)  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, w)) and torch.autograd.gradgradcheck(f, (x, w))


def test_operators_transforms_and_compile():
    x, w = operands(2, 3, 4, dtype=torch.float32)
    op = torch.ops.spectralops
    torch.library.opcheck(op.circulant_linear.default, (x, w, 0.5, False))
    torch.library.opcheck(op.circulant_linear.default, (torch.randn(5, 8), w, 0.5, True))
    torch.library.opcheck(op.circulant_linear_gradient.default, (x, torch.randn(5, 8), 4, 0.5))
    many, kernels, f = torch.randn(3, 5, 12), torch.randn(3, 2, 3, 4), so.circulant_linear
    torch.testing.assert_close(torch.vmap(f, (0, None))(many, w), f(many, w))
    torch.testing.assert_close(torch.vmap(f)(many, kernels), torch.stack([f(z, k) for z, k in zip(many, kernels)]))
    grads = torch.vmap(torch.func.grad(lambda k, z: f(z, k).square().sum()), (None, 0))(w, many)
    each = [torch.autograd.grad(f(z, w.requires_grad_()).square().sum(), w)[0] for z in many]
    torch.testing.assert_close(grads, torch.stack(each))
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for z in (x, torch.randn(9, 12)):
        torch.testing.assert_close(compiled(z, w), f(z, w))
        torch.testing.assert_close(torch.autograd.grad(compiled(z, w).sum(), w), torch.autograd.grad(f(z, w).sum(), w))


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(2, 3, 4))
        self.c, self.indices = torch.nn.Parameter(torch.randn(3)), torch.tensor([[0, 3, 5], [7, 1, 2]])

    def forward(self, x):
        entries = (x, self.c, self.indices)
        both = (f(*entries, out_features=8, scaling=2.0) for f in (so.waveft_linear, so.fourier_linear))
        return so.circulant_linear(x, self.w), *both


def test_export_as_products():
    model, x = Layer().eval(), torch.randn(5, 12)
    program = torch.export.export(model, (x,))
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    assert {n.target.namespace for n in nodes if isinstance(n.target, torch._ops.OpOverload)} == {"aten"}
    assert not any(n.meta["val"].is_complex() for n in nodes if isinstance(n.meta.get("val"), torch.Tensor))
    torch.testing.assert_close(program.module()(x), model(x))
    pytest.importorskip("onnxscript")
    evaluator, onnx = pytest.importorskip("onnx.reference"), pytest.importorskip("onnx")
    out = io.BytesIO()
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(out)
    graph = onnx.load_from_string(out.getvalue())
    assert not {node.op_type for node in graph.graph.node} & {"DFT", "STFT"}
    for y, z in zip(evaluator.ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: x.numpy()}), model(x)):
        torch.testing.assert_close(torch.from_numpy(y), z.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "error, match, change",
    [
        (TypeError, "x must be a torch.Tensor", {"x": 1}),
        (TypeError, "weight must have dtype", {"weight": torch.ones(2, 3, 4, dtype=torch.int32)}),
        (TypeError, "weight is float64", {"weight": torch.ones(2, 3, 4, dtype=torch.float64)}),
        (ValueError, "weight must have shape", {"weight": torch.ones(2, 12)}),
        (ValueError, "nowhere empty", {"weight": torch.ones(2, 3, 0)}),
        (ValueError, r"x must have shape \(..., 12\)", {"x": torch.ones(5, 11)}),
        (TypeError, "scaling must be a number", {"scaling": None}),
        (ValueError, "backend must be None", {"backend": "fast"}),
    ],
)
def test_bad_input(error, match, change):
    with pytest.raises(error, match=match):
        so.circulant_linear(**{"x": torch.ones(5, 12), "weight": torch.ones(2, 3, 4), **change})
    with pytest.raises(ValueError, match="must have 12 features"):
        torch.ops.spectralops.circulant_linear(torch.ones(5, 11), torch.ones(2, 3, 4), 1.0, False)


# ---- WaveFT ----------------------------------------------------------------------------------------------------------------


def haar(spectrum, indices, o, i, scaling):
    """Quarters of D through the synthesis filters of the Haar wavelet, as products with its matrices."""
    h, w = -(-o // 2), -(-i // 2)
    d = np.zeros((2 * h, 2 * w))
    d[tuple(indices.numpy())] = spectrum.detach().double().numpy()
    lo, hi = np.array([[1.0, 1.0]]) / np.sqrt(2), np.array([[1.0, -1.0]]) / np.sqrt(2)
    parts = (d[:h, :w], lo, lo), (d[:h, w:], hi, lo), (d[h:, :w], lo, hi), (d[h:, w:], hi, hi)
    total = sum(np.kron(np.eye(h), a).T @ part @ np.kron(np.eye(w), b) for part, a, b in parts)
    return torch.from_numpy(total[:o, :i] * scaling)


def wave(o, i, n, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    p = torch.randperm(o * i, generator=g)[:n]
    return torch.randn(n, generator=g, dtype=torch.float64).to(dtype), torch.stack([p // i, p % i])


@pytest.mark.parametrize("o, i, n", [(8, 8, 20), (7, 9, 63), (6, 5, 11), (1, 4, 3), (33, 20, 1)])
@pytest.mark.parametrize("cost", [-1e9, 1e9], ids=["dense", "sparse"])
def test_waveft(o, i, n, cost, monkeypatch):
    monkeypatch.setattr(waveft, "MATRIX", cost)
    c, indices = wave(o, i, n)
    delta, x = haar(c, indices, o, i, 3.0), torch.randn(4, 3, i, dtype=torch.float64)
    torch.testing.assert_close(so.waveft_delta(c, indices, out_features=o, in_features=i, scaling=3.0), delta)
    torch.testing.assert_close(so.waveft_linear(x, c, indices, out_features=o, scaling=3.0), x @ delta.T)
    y = so.waveft_linear(x.bfloat16(), c.float(), indices, out_features=o, scaling=3.0)
    torch.testing.assert_close(y, (x.bfloat16().double() @ delta.T).bfloat16(), rtol=0.02, atol=0.02)
    assert so.waveft_linear(x[:0], c, indices, out_features=o, scaling=3.0).shape == (0, 3, o)
    torch.testing.assert_close(torch.vmap(lambda z: so.waveft_linear(z, c, indices, out_features=o, scaling=3.0))(x), x @ delta.T)


@pytest.mark.parametrize("cost", [-1e9, 1e9], ids=["dense", "sparse"])
def test_waveft_derivatives(cost, monkeypatch):
    monkeypatch.setattr(waveft, "MATRIX", cost)
    c, indices = wave(5, 4, 7)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    f = lambda x, c: so.waveft_linear(x, c, indices, out_features=5, scaling=2.0)  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, c.requires_grad_())) and torch.autograd.gradgradcheck(f, (x, c))
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x, c), f(x, c))


def test_waveft_bad_input():
    c, indices = wave(5, 4, 7)
    x = torch.randn(2, 4, dtype=torch.float64)
    for error, match, args in (
        (ValueError, "indices must have shape", (x, c, indices[:, :3], 5)),
        (TypeError, "indices must have dtype", (x, c, indices.float(), 5)),
        (ValueError, "out_features must be positive", (x, c, indices, 0)),
        (TypeError, "spectrum is float64", (x.float(), c, indices, 5)),
        (TypeError, "spectrum must be a torch.Tensor", (x, None, indices, 5)),
    ):
        with pytest.raises(error, match=match):
            so.waveft_linear(*args[:3], out_features=args[3], scaling=1.0)
    with pytest.raises(IndexError):
        so.waveft_delta(c, indices + 5, out_features=5, in_features=4, scaling=1.0)
