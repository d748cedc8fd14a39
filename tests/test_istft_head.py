"""istft_head and imdct_head against direct float64 sums, torch.istft and the published formulas."""

import io
import math

import numpy as np
import pytest
import spectralops as so
import torch
import torch.nn.functional as F
from spectralops.ops import istft_head as module
from spectralops.testing import Tally, layouts, poison

@pytest.fixture(autouse=True)
def _one_thread():
    """Rows this short gain nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CASES = {  # n, hop, padding, variant, win_length
    "vocos": (128, 32, "same", "vocos", None),
    "iSTFTNet": (16, 4, "center", "istftnet", None),
    "small, same": (20, 6, "same", "vocos", None),
    "hop does not divide": (100, 30, "center", "istftnet", None),
    "short window": (96, 20, "center", "vocos", 70),
    "odd": (65, 20, "same", "cartesian", None),
}


def call(name, **more):
    n, hop, padding, variant, size = CASES[name]
    more = {"n_fft": n, "hop_length": hop, "padding": padding, "variant": variant, "win_length": size, **more}
    return lambda x, **k: so.istft_head(x, **more, **k)


def data(name, rows=2, frames=9, dtype=torch.float32, seed=0):
    n = CASES[name][0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, frames, 2 * (n // 2 + 1), generator=generator, dtype=torch.float64).to(dtype)


def direct(x, n, hop, padding, variant, size):
    """The sums of the definition, sample by sample of each frame, in numpy float64."""
    x, size = x.double().numpy(), size or n
    rows, frames, channels = x.shape
    a, b = x[..., : channels // 2], x[..., channels // 2 :]
    if variant == "cartesian":
        X = a + 1j * b
    else:
        magnitude = np.minimum(np.exp(a), 100) if variant == "vocos" else np.exp(a)
        X = magnitude * np.exp(1j * (b if variant == "vocos" else np.sin(b)))
    w = np.zeros(n)
    w[(n - size) // 2 : (n - size) // 2 + size] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    k, m = np.arange(channels // 2), np.arange(n)
    c = np.where((2 * k) % n == 0, 1, 2) / n
    angle = 2 * np.pi * np.outer(k, m) / n
    f = (c * X.real) @ np.cos(angle) - (c * X.imag) @ np.where((2 * k % n == 0)[:, None], 0, np.sin(angle))
    z, e = np.zeros((rows, (frames - 1) * hop + n)), np.zeros((frames - 1) * hop + n)
    for i in range(frames):
        z[:, i * hop : i * hop + n] += w * f[:, i]
        e[i * hop : i * hop + n] += w * w
    cut = (n - hop) // 2 if padding == "same" else n // 2
    return torch.from_numpy((z[:, cut:-cut] / e[cut:-cut]))


def eager(x, n, hop, padding, variant, size):
    """What models do today: complex tensors and fold, or torch.istft."""
    a, b = x.chunk(2, 2)
    if variant == "cartesian":
        spectrum = torch.complex(a, b)
    else:
        magnitude = a.exp().clip(max=1e2) if variant == "vocos" else a.exp()
        phase = b if variant == "vocos" else b.sin()
        spectrum = magnitude * (phase.cos() + 1j * phase.sin())
    spectrum, w = spectrum.transpose(1, 2), torch.hann_window(size or n, dtype=x.dtype)
    if padding == "center":
        return torch.istft(spectrum, n, hop, size, w, center=True)
    frames, total, pad = x.shape[1], (x.shape[1] - 1) * hop + n, (n - hop) // 2
    f = torch.fft.irfft(spectrum, n, dim=1) * w[:, None]
    fold = {"output_size": (1, total), "kernel_size": (1, n), "stride": (1, hop)}
    e = F.fold(w.square()[:, None].expand(n, frames), **fold)
    return F.fold(f, **fold)[:, 0, 0, pad:-pad] / e[0, 0, pad:-pad]


@pytest.mark.parametrize("name", CASES)
def test_the_definition(name):
    x = data(name, dtype=torch.float64)
    y = call(name)(x)
    exact = direct(x, *CASES[name])
    assert y.shape == exact.shape and (y - exact).abs().max() < 1e-13 * exact.abs().max()
    assert (call(name)(x, export=True) - exact).abs().max() < 1e-13 * exact.abs().max()
    assert torch.equal(call(name, window=torch.hann_window(CASES[name][4] or CASES[name][0], dtype=x.dtype))(x), y)


@pytest.mark.parametrize("name", CASES)
def test_errors_within_twice_those_of_torch(name):
    tally = Tally()
    for seed in range(4):
        x = data(name, frames=23, seed=seed)
        grad = torch.randn(call(name)(x).shape, generator=torch.Generator().manual_seed(seed))
        results = []
        published = lambda x: eager(x, *CASES[name])  # noqa: E731
        for f, dtype in ((call(name), x.dtype), (published, x.dtype), (published, torch.float64)):
            z = x.to(dtype).requires_grad_()
            y = f(z)
            results.append((y.detach(), torch.autograd.grad(y, z, grad.to(dtype))[0]))
        tally.add("y", *(r[0] for r in results))
        tally.add("dx", *(r[1] for r in results))
    tally.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_rounded_once(dtype):
    for name in ("vocos", "iSTFTNet"):
        x = data(name, dtype=dtype).requires_grad_()
        y, wide = call(name)(x), x.detach().float().requires_grad_()
        exact = call(name)(wide)
        assert y.dtype == dtype and torch.equal(y, exact.to(dtype))
        g = torch.randn(y.shape).to(dtype)
        (dx,), (de,) = torch.autograd.grad(y, x, g), torch.autograd.grad(exact, wide, g.float())
        assert torch.equal(dx, de.to(dtype))


@pytest.mark.parametrize("name", ["vocos", "iSTFTNet"])
def test_any_layout_and_nothing_is_written(name):
    x = data(name, frames=150)
    with poison():
        y = call(name)(x)
        for how, z in layouts(x):
            before = z.clone()
            assert torch.equal(call(name)(z), y), how
            assert torch.equal(z, before)
    assert torch.equal(call(name)(x[:1].expand(3, -1, -1))[2], y[0])
    assert call(name)(x[:0]).shape == (0, y.shape[1])
    assert torch.equal(call(name)(x.flip(0).flip(0)), y)
    many = x[:, :40].repeat(3, 1, 1)  # several short rows in one block
    assert torch.equal(call(name)(many)[:2], call(name)(many)[2:4]) and torch.equal(call(name)(many), call(name)(many))


@pytest.mark.parametrize("n, hop, variant", [(8, 3, "vocos"), (8, 2, "istftnet"), (66, 20, "vocos"), (7, 2, "cartesian")])
def test_derivatives(n, hop, variant):
    x = torch.randn(1, 3, 2 * (n // 2 + 1), dtype=torch.float64, requires_grad=True)
    bound = None if variant == "cartesian" else 2.0  # some magnitudes are bounded, none is near the bound
    with torch.no_grad():
        x[..., : n // 2 + 1][(x[..., : n // 2 + 1] - math.log(2)).abs() < 0.05] += 0.2
    f = lambda x: so.istft_head(x, n_fft=n, hop_length=hop, variant=variant, max_magnitude=bound)  # noqa: E731
    assert torch.autograd.gradcheck(f, x, fast_mode=n > 8)
    assert torch.autograd.gradgradcheck(f, x, fast_mode=n > 8)


def test_operators():
    x = data("iSTFTNet", frames=4)
    rest = (None, 16, 16, 4, 8, 12, True, "istftnet", math.inf)
    torch.library.opcheck(torch.ops.spectralops.istft_head.default, (x, *rest))
    backward = (torch.randn(2, 12), x, None, 16, 16, 4, 4, 8, True, "istftnet", math.inf)
    torch.library.opcheck(torch.ops.spectralops.istft_head_backward.default, backward)
    with pytest.raises(ValueError, match="do not fit"):
        torch.ops.spectralops.istft_head(x[..., :-2], *rest)
    with pytest.raises(ValueError, match="no samples"):
        torch.ops.spectralops.istft_head(x, None, 16, 16, 4, 8, 30, True, "istftnet", math.inf)


def test_transforms():
    f, x = call("small, same"), data("small, same", rows=6, frames=5).view(3, 2, 5, -1)
    y = f(x.flatten(0, 1)).view(3, 2, -1)
    torch.testing.assert_close(torch.vmap(f)(x), y)
    torch.testing.assert_close(torch.vmap(f, in_dims=2)(x.movedim(0, 2)), y)
    g = torch.func.grad(lambda x: f(x).square().sum())
    each = torch.stack([g(z) for z in x])
    torch.testing.assert_close(torch.vmap(g)(x), each)
    z = x[0].clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(f(z).square().sum(), z)[0], each[0])


class Head(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name, n = name, CASES[name][0]
        self.linear = torch.nn.Linear(6, 2 * (n // 2 + 1))

    def forward(self, x):
        return call(self.name)(self.linear(x))


def test_compile_with_dynamic_shapes():
    model = Head("vocos")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for frames in (9, 5):
        x = torch.randn(2, frames, 6)
        torch.testing.assert_close(compiled(x), model(x))
        a, b = (torch.autograd.grad(m(x).square().sum(), model.linear.weight)[0] for m in (compiled, model))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vocos", "iSTFTNet"])
def test_export_has_standard_real_operations(name):
    model, x = Head(name).eval(), torch.randn(2, 9, 6)
    program = torch.export.export(model, (x,), dynamic_shapes=({1: torch.export.Dim("frames", min=3, max=100)},))
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    assert all(n.target.namespace == "aten" for n in nodes if isinstance(n.target, torch._ops.OpOverload))
    assert not any(n.meta["val"].is_complex() for n in nodes if isinstance(n.meta.get("val"), torch.Tensor))
    for frames in (9, 6):
        z = torch.randn(2, frames, 6)
        torch.testing.assert_close(program.module()(z), model(z), rtol=1e-4, atol=1e-5)


def test_onnx():
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    model, x = Head("small, same").eval(), torch.randn(2, 9, 6)
    out = io.BytesIO()
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(out)
    import onnx

    graph = onnx.load_from_string(out.getvalue())
    kinds = {node.op_type for node in graph.graph.node}
    assert "ConvTranspose" in kinds and not kinds & {"DFT", "STFT"}, kinds
    (y,) = reference.ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_nan_stays_with_the_samples_of_its_frame():
    for name in ("vocos", "iSTFTNet"):
        n, hop, *_ = CASES[name]
        x = data(name, frames=40)
        x[0, 20, 3] = float("nan")
        y = call(name)(x)
        cut = (n - hop) // 2 if name == "vocos" else n // 2
        bad = torch.zeros(y.shape[1], dtype=torch.bool)
        bad[20 * hop - cut : 20 * hop - cut + n] = True
        assert torch.equal(y[0].isnan(), bad) and not y[1].isnan().any()
        z = x.requires_grad_()
        (dx,) = torch.autograd.grad(call(name)(z)[1].sum(), z)
        assert not dx[1].isnan().any()


def test_the_envelope_is_kept_until_the_window_changes(monkeypatch):
    made, original = [], module.spec.envelope
    monkeypatch.setattr(module.spec, "envelope", lambda *a: made.append(a) or original(*a))
    window, x = torch.hann_window(16), torch.randn(1, 7, 18)
    run = lambda: so.istft_head(x, n_fft=16, hop_length=4, window=window)  # noqa: E731
    first = run()
    assert torch.equal(run(), first) and len(made) == 1
    window.add_(0.5)
    assert not torch.equal(run(), first) and len(made) == 2
    with torch.inference_mode():
        run()
        window = torch.hann_window(16)
        assert torch.equal(run(), first)
        window.mul_(0.5)
        torch.testing.assert_close(run(), 2 * first)
    x.requires_grad_()
    so.istft_head(x, n_fft=16, hop_length=4).sum().backward()


@pytest.mark.parametrize(
    "name, pieces", [("vocos", (1, 1, 3, 0, 7, 11)), ("iSTFTNet", (5, 18)), ("hop does not divide", (1,) * 12)]
)
def test_streaming_gives_the_samples_of_one_call(name, pieces):
    n, hop, padding, variant, _ = CASES[name]
    x, window = data(name, frames=23), torch.hamming_window(n)
    whole = so.istft_head(x, n_fft=n, hop_length=hop, padding=padding, variant=variant, window=window)
    state = so.istft_head_state(2, n_fft=n, hop_length=hop, padding=padding, variant=variant, window=window)
    found, at = [], 0
    for size in pieces:
        twin = state.clone()
        found.append(so.istft_head_step(x[:, at : at + size], state))
        assert torch.equal(so.istft_head_step(x[:, at : at + size], twin), found[-1])
        at += size
    found.append(so.istft_head_step(x[:, at:], state, last=True))
    y = torch.cat(found, 1)
    assert state.samples == whole.shape[1] and state.frames == 23 and state.nbytes < 2 * 4 * 2 * n
    torch.testing.assert_close(y, whole, rtol=1e-5, atol=1e-6 * whole.abs().max().item())
    with pytest.raises(ValueError, match="ended"):
        so.istft_head_step(x, state)


@pytest.mark.parametrize(
    "error, match, change",
    [
        (TypeError, "x must be a torch.Tensor", {"x": 3}),
        (TypeError, "x must have dtype", {"x": torch.zeros(1, 4, 18, dtype=torch.int64)}),
        (ValueError, r"x must have shape \(.., L, 18\)", {"x": torch.zeros(1, 4, 16)}),
        (ValueError, "x must have shape", {"x": torch.zeros(1, 0, 18)}),
        (ValueError, "too few frames", {"x": torch.zeros(1, 1, 18), "padding": "center"}),
        (ValueError, "hop_length must be at most", {"hop_length": 17}),
        (ValueError, "n_fft must be positive", {"n_fft": 0}),
        (TypeError, "hop_length must be an int", {"hop_length": 4.0}),
        (ValueError, "padding must be one of", {"padding": "valid"}),
        (ValueError, "variant must be one of", {"variant": "hifi"}),
        (ValueError, "window must have shape", {"window": torch.ones(4, 4)}),
        (ValueError, "window must not require a gradient", {"window": torch.ones(16, requires_grad=True)}),
        (TypeError, "window is float64", {"window": torch.ones(16, dtype=torch.float64)}),
        (ValueError, "win_length must be 1 to n_fft", {"win_length": 17}),
        (ValueError, "window: the sum of its squares", {"hop_length": 16}),
        (ValueError, "max_magnitude must be a positive number", {"max_magnitude": -1}),
        (ValueError, "backend must be None", {"backend": "fast"}),
    ],
)
def test_bad_input(error, match, change):
    arguments = {"x": torch.zeros(1, 4, 18), "n_fft": 16, "hop_length": 4, **change}
    with pytest.raises(error, match=match):
        so.istft_head(arguments.pop("x"), **arguments)


def test_bad_streams():
    make = lambda **k: so.istft_head_state(2, **{"n_fft": 16, "hop_length": 4, **k})  # noqa: E731
    for x in (torch.zeros(3, 1, 18), torch.zeros(2, 1, 16), torch.zeros(2, 0, 16), torch.zeros(2, 1, 18, dtype=torch.float64)):
        with pytest.raises(ValueError, match="x must have"):
            so.istft_head_step(x, make())
    with pytest.raises(ValueError, match="vanishes"):
        make(hop_length=16)
    with pytest.raises(TypeError, match="state"):
        so.istft_head_step(torch.zeros(2, 1, 18), None)
    assert so.istft_head_step(torch.zeros(2, 0, 18), make(), last=True).shape == (2, 0)


def test_autocast_does_not_round_the_transform():
    for name in ("iSTFTNet", "vocos"):
        x = data(name).requires_grad_()
        y = call(name)(x)
        with torch.autocast("cpu", torch.bfloat16):
            z, c = call(name)(x), so.imdct_head(x[..., :8], frame_len=16)
        assert torch.equal(z, y) and torch.equal(c, so.imdct_head(x[..., :8], frame_len=16))


def test_explain():
    assert "istft_head on cpu" in so.explain("istft_head", torch.zeros(1, 4, 18), n_fft=16, hop_length=4)


# ---- IMDCT ---------------------------------------------------------------------------------------------------------------


def imdct(X, frame_len, padding):
    """The sums of the definition in float64."""
    X, N = X.double(), frame_len // 2
    n, k = torch.arange(frame_len, dtype=torch.float64), torch.arange(N, dtype=torch.float64)
    table = torch.cos(torch.pi / N * (n + (N + 1) / 2) * (k[:, None] + 0.5)) * math.sqrt(2 / N)
    f = X @ table * torch.sin(torch.pi * (n + 0.5) / frame_len)
    z = F.fold(f.transpose(1, 2), (1, (X.shape[1] + 1) * N), (1, frame_len), stride=(1, N))[:, 0, 0]
    cut = frame_len // 2 if padding == "center" else frame_len // 4
    return z[:, cut:-cut]


@pytest.mark.parametrize("frame_len, padding", [(16, "same"), (16, "center"), (48, "same"), (4, "center")])
def test_imdct(frame_len, padding):
    X = torch.randn(2, 6, frame_len // 2, dtype=torch.float64)
    call = lambda x, **k: so.imdct_head(x, frame_len=frame_len, padding=padding, **k)  # noqa: E731
    torch.testing.assert_close(call(X), imdct(X, frame_len, padding), rtol=1e-12, atol=1e-13)
    exact = imdct((X.sign() * torch.expm1(6 * X.abs())).clamp(-100, 100), frame_len, padding)
    torch.testing.assert_close(call(6 * X, variant="symexp"), exact)
    both = torch.randn(2, 6, frame_len, dtype=torch.float64) * 4
    a, b = both.chunk(2, 2)
    torch.testing.assert_close(call(both, variant="cos"), imdct(a.exp().clip(max=1e2) * b.cos(), frame_len, padding))
    torch.testing.assert_close(call(X.bfloat16()), imdct(X.bfloat16(), frame_len, padding).bfloat16(), rtol=0.01, atol=1e-2)


def test_imdct_derivatives_compile_and_bad_input():
    x = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    w = torch.rand(8, dtype=torch.float64, requires_grad=True)
    f = lambda x, w: so.imdct_head(x, frame_len=8, variant="cos", window=w)  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, w)) and torch.autograd.gradgradcheck(f, (x, w))
    g = lambda x: so.imdct_head(x, frame_len=8, variant="symexp")  # noqa: E731
    z = torch.randn(2, 5, 4)
    torch.testing.assert_close(torch.compile(g, fullgraph=True, backend="aot_eager")(z), g(z))
    torch.testing.assert_close(torch.vmap(g)(z[None])[0], g(z))
    with pytest.raises(ValueError, match="multiple of 4"):
        so.imdct_head(z, frame_len=6)
    with pytest.raises(ValueError, match="x must have shape"):
        so.imdct_head(z, frame_len=16)
    with pytest.raises(ValueError, match="window must have shape"):
        so.imdct_head(z, frame_len=8, window=torch.ones(4))
