"""`fft_conv2d` against scipy, every mode, size, dtype and layout; derivatives; bad input."""

import pytest
import scipy.ndimage
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import testing

BACKENDS = ["reference", "cpu", None]
D = torch.float64
MODES = ["same", "circular", "full"]


def truth(u, k, mode, skip=None):
    """(B, H, Y, X), (G, Ky, Kx) in float64."""
    u, k = u.detach().double(), k.detach().double().repeat_interleave(u.shape[1] // k.shape[0], 0)
    (y, x), (ky, kx) = u.shape[2:], k.shape[1:]
    full = torch.stack([torch.stack([torch.from_numpy(scipy.signal.convolve2d(c, w)) for c, w in zip(b, k)]) for b in u])
    if mode == "full":
        return full
    if mode == "same":
        found = full[:, :, ky // 2 : ky // 2 + y, kx // 2 : kx // 2 + x]
    else:
        found = torch.zeros_like(u)
        for a in range(0, full.shape[2], y):
            for b in range(0, full.shape[3], x):
                part = full[:, :, a : a + y, b : b + x]
                found[:, :, : part.shape[2], : part.shape[3]] += part
    return found if skip is None else found + skip.detach().double()[:, None, None] * u


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_every_size_against_scipy(backend, mode):
    sizes = [(1, 1), (1, 5), (4, 1), (3, 4), (5, 5), (8, 6)]
    for size in sizes:
        for kernel in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (3, 4), (5, 2), (7, 7), (6, 11), (19, 3)]:
            u, k = torch.randn(2, 4, *size, dtype=D), torch.randn(2, *kernel, dtype=D)
            skip = None if mode == "full" else torch.randn(4, dtype=D)
            got = so.fft_conv2d(u, k, skip=skip, mode=mode, backend=backend)
            assert got.is_contiguous()
            torch.testing.assert_close(got, truth(u, k, mode, skip), msg=lambda m, s=size, n=kernel: f"{s} {n}: {m}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_against_ndimage_and_conv2d(backend):
    """Odd kernels, of SMPConv's sizes: scipy.ndimage is centred as "same" is; torch's conv2d takes the kernel turned round."""
    for size, side in [((20, 17), 7), ((32, 32), 31), ((40, 33), 51)]:
        u, k = torch.randn(1, 2, *size, dtype=D), torch.randn(2, side, side, dtype=D)

        def each(edge, u=u, k=k):
            planes = [scipy.ndimage.convolve(c.numpy(), w.numpy(), mode=edge) for c, w in zip(u[0], k)]
            return torch.stack(list(map(torch.from_numpy, planes)))[None]

        torch.testing.assert_close(so.fft_conv2d(u, k, backend=backend), each("constant"))
        ring = so.fft_conv2d(u, k, mode="circular", backend=backend).roll((-(side // 2),) * 2, (2, 3))
        torch.testing.assert_close(ring, each("grid-wrap"))
        direct = torch.nn.functional.conv2d(u, k.flip(1, 2)[:, None], padding=side // 2, groups=2)
        torch.testing.assert_close(so.fft_conv2d(u, k, backend=backend), direct)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(backend, dtype):
    for mode in MODES:
        tally = testing.Tally()
        for kernel in [(3, 3), (9, 6), (31, 31)]:
            u, k = torch.randn(2, 3, 24, 24).to(dtype), torch.randn(3, *kernel).to(dtype)
            for taps in (k, k.float()):
                y = so.fft_conv2d(u, taps, mode=mode, backend=backend)
                assert y.dtype == dtype
                tally.add(mode, y, so.fft_conv2d(u, taps, mode=mode, backend="reference"), truth(u, taps, mode))
        tally.check()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_derivatives(backend, mode):
    for size, kernel, groups in [((3, 4), (2, 3), 2), ((2, 3), (5, 4), 1)]:
        u = torch.randn(2, 2, *size, dtype=D, requires_grad=True)
        k = torch.randn(groups, *kernel, dtype=D, requires_grad=True)
        skip = None if mode == "full" else torch.randn(2, dtype=D, requires_grad=True)
        inputs = (u, k) if skip is None else (u, k, skip)
        f = lambda u, k, skip=None: so.fft_conv2d(u, k, skip=skip, mode=mode, backend=backend)  # noqa: E731
        assert torch.autograd.gradcheck(f, inputs, fast_mode=True) and torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_shapes_layouts_empties(mode):
    u, k = torch.randn(2, 2, 5, 6, dtype=D), torch.randn(2, 3, 4, dtype=D)
    expect = so.fft_conv2d(u, k, mode=mode)
    for name, view in testing.layouts(u):
        before = view.clone()
        torch.testing.assert_close(so.fft_conv2d(view, k, mode=mode), expect, msg=name)
        assert torch.equal(view, before)
    for _, view in testing.layouts(k):
        torch.testing.assert_close(so.fft_conv2d(u, view, mode=mode), expect)
    torch.testing.assert_close(so.fft_conv2d(u[0], k, mode=mode), expect[0])
    torch.testing.assert_close(so.fft_conv2d(u.expand(3, 2, 2, 5, 6), k, mode=mode)[1], expect)
    one = u[:, :1, :1, :1]
    expanded, repeated = so.fft_conv2d(one.expand(2, 2, 5, 6), k, mode=mode), so.fft_conv2d(one.repeat(1, 2, 5, 6), k, mode=mode)
    torch.testing.assert_close(expanded, repeated)
    for shape in [(0, 2, 5, 6), (2, 0, 5, 6), (2, 2, 0, 6), (2, 2, 5, 0), (3, 0, 2, 5, 6)]:
        x, w = torch.empty(shape, dtype=D, requires_grad=True), torch.full((1, 3, 4), float("nan"), dtype=D, requires_grad=True)
        y = so.fft_conv2d(x, w, mode=mode)
        assert y.shape[:-2] == shape[:-2] and not y.any()
        assert y.shape[-2:] == ((shape[-2] + 2, shape[-1] + 3) if mode == "full" else shape[-2:])
        dx, dw = torch.autograd.grad(y.sum(), (x, w))
        assert dx.shape == shape and torch.equal(dw, torch.zeros_like(w))


def test_nan_stays_in_its_image():
    for mode in MODES:
        u, k = torch.randn(2, 2, 5, 6), torch.randn(2, 3, 3)
        clean = so.fft_conv2d(u, k, mode=mode)
        u[0, 1, 2, 3] = float("nan")
        y = so.fft_conv2d(u, k, mode=mode)
        assert y[0, 1].isnan().all() and torch.equal(y[1], clean[1]) and torch.equal(y[0, 0], clean[0, 0])


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)), kernel=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    mode=st.sampled_from(MODES), seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_size(size, kernel, mode, seed):
    torch.manual_seed(seed)
    u, k = torch.randn(1, 2, *size, dtype=D), torch.randn(2, *kernel, dtype=D)
    torch.testing.assert_close(so.fft_conv2d(u, k, mode=mode), truth(u, k, mode))


@pytest.mark.parametrize("mode", MODES)
def test_transforms(mode):
    torch._dynamo.reset()
    u, k = torch.randn(3, 2, 2, 4, 5, dtype=D), torch.randn(2, 3, 3, dtype=D)
    f = lambda u, k: so.fft_conv2d(u, k, mode=mode)  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(f, (0, None))(u, k), f(u, k))
    each = torch.func.vmap(torch.func.grad(lambda k, u: f(u, k).square().sum()), (None, 0))(k, u)
    torch.testing.assert_close(each.sum(0), torch.func.grad(lambda k: f(u, k).square().sum())(k))
    dynamic = mode == "full"
    compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((4, 5), (6, 7)) if dynamic else ((4, 5),):
        x, w = torch.randn(2, 2, *size, requires_grad=True), torch.randn(2, 3, 3, requires_grad=True)
        torch.testing.assert_close(compiled(x, w), f(x, w))
        got = torch.autograd.grad(compiled(x, w).square().sum(), (x, w))
        torch.testing.assert_close(got, torch.autograd.grad(f(x, w).square().sum(), (x, w)))
    assert ("fft_conv on cpu" in so.explain("fft_conv2d", u, k, mode=mode)) == (mode != "circular")


U, K = torch.randn(2, 4, 5, 6), torch.randn(4, 3, 3)


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        (("u", K), {}, TypeError, "u must be a torch.Tensor, got str"),
        ((U, [1]), {}, TypeError, "k must be a torch.Tensor, got list"),
        ((U.long(), K), {}, TypeError, "u must have dtype"),
        ((U, K.double()), {}, TypeError, "k is float64 but u is float32"),
        ((U[0, 0], K), {}, ValueError, r"u must have shape \(..., H, Y, X\); got \(5, 6\)"),
        ((U, K[0]), {}, ValueError, r"k must have shape \(H, Ky, Kx\) .*; got \(3, 3\)"),
        ((U, K[:, :0]), {}, ValueError, "k must have shape .* nowhere empty"),
        ((U, K[:3]), {}, ValueError, "k has 3 groups, which do not divide the 4 channels of u"),
        ((U, K.to("meta")), {}, ValueError, "k is on meta but u is on cpu"),
        ((U, K), dict(skip=1.0), TypeError, "skip must be a torch.Tensor"),
        ((U, K), dict(skip=torch.ones(3)), ValueError, r"skip must have shape \(H,\) = \(4,\); got \(3,\)"),
        ((U, K), dict(skip=torch.ones(4).double()), TypeError, "skip is float64"),
        ((U, K), dict(skip=torch.ones(4), mode="full"), ValueError, "skip is for the modes 'same' and 'circular'"),
        ((U, K), dict(mode="valid"), ValueError, "mode must be one of 'same', 'circular', 'full'; got 'valid'"),
        ((U, K), dict(backend="gpu"), ValueError, "backend must be None or one of"),
        ((U, K), dict(backend="gpu", mode="circular"), ValueError, "backend must be None or one of"),
    ],
)
def test_bad_input_is_named(args, change, error, text):
    with pytest.raises(error, match=text):
        so.fft_conv2d(*args, **change)
