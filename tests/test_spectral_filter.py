"""`spectral_filter`: against direct sums, derivatives, torch.func, compile and export, bad input."""

import numpy as np
import pytest
import spectral_oracle as oracle
import torch
from torch.nn import functional as F

import spectralops as so
from spectralops import testing
from spectralops.ops import spectral_filter as module

D = torch.float64
BACKENDS = ["reference", None]


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other take longer than these sizes do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weight_for(grid, channels, lead=(), dtype=D):
    return torch.randn(*lead, *grid[:-1], grid[-1] // 2 + 1, channels, 2, dtype=dtype)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grid", [(1,), (2,), (5,), (8,), (3, 4), (4, 3), (7, 7), (2, 3, 4), (3, 2, 5)])
def test_direct_sum(grid, backend):
    x, w = torch.randn(2, *grid, 3, dtype=D), weight_for(grid, 3)
    y = so.spectral_filter(x, w, dims=tuple(range(1, 1 + len(grid))), backend=backend)
    expected = oracle.filtered(x.numpy(), w.numpy()[..., 0] + 1j * w.numpy()[..., 1])
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("norm", ["ortho", "forward", "backward"])
def test_upstream_expression(norm):
    """GFNet's own formula; the weight of DC and Nyquist columns is not Hermitian, as trained ones are not."""
    x, w = torch.randn(2, 14, 14, 6, dtype=D), weight_for((14, 14), 6)
    spectrum = torch.fft.rfft2(x, dim=(1, 2), norm=norm) * torch.view_as_complex(w)
    expected = torch.fft.irfft2(spectrum, s=(14, 14), dim=(1, 2), norm=norm)
    torch.testing.assert_close(so.spectral_filter(x, w, norm=norm), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(so.spectral_filter(x, torch.view_as_complex(w)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dims", [(1, 2), (2, 3), (-1, -2), (1, 3), 1, (3,), (1, 2, 3), (0, 1, 2)])
def test_any_dimensions(dims):
    x = torch.randn(2, 4, 3, 5, dtype=D)
    listed = [d % 4 for d in ((dims,) if isinstance(dims, int) else dims)]
    channel = max(d for d in range(4) if d not in listed)
    w = weight_for([x.shape[d] for d in listed], x.shape[channel])
    moved = x.movedim((*listed, channel), tuple(range(-len(listed) - 1, 0)))
    spectrum = torch.fft.rfftn(moved, dim=tuple(range(-len(listed) - 1, -1))) * torch.view_as_complex(w)
    expected = torch.fft.irfftn(spectrum, s=[x.shape[d] for d in listed], dim=tuple(range(-len(listed) - 1, -1)))
    expected = expected.movedim(tuple(range(-len(listed) - 1, 0)), (*listed, channel))
    torch.testing.assert_close(so.spectral_filter(x, w, dims=dims), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_and_samples(backend):
    x = torch.randn(3, 5, 4, 6, dtype=D)
    w = weight_for((5, 4), 2)
    whole = so.spectral_filter(x, w.repeat_interleave(3, -2), backend=backend)
    torch.testing.assert_close(so.spectral_filter(x, w, backend=backend), whole)
    each = weight_for((5, 4), 2, lead=(3,))
    y = so.spectral_filter(x, each, backend=backend)
    for b in range(3):
        torch.testing.assert_close(y[b : b + 1], so.spectral_filter(x[b : b + 1], each[b], backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("affine", [False, True])
def test_norm_and_residual(backend, affine):
    x, w, r = torch.randn(2, 6, 5, 8, dtype=D), weight_for((6, 5), 8), torch.randn(2, 6, 5, 8, dtype=D)
    a, b = (torch.randn(8, dtype=D), torch.randn(8, dtype=D)) if affine else (None, None)
    expected = so.spectral_filter(F.layer_norm(x, (8,), a, b, 1e-6), w, backend="reference") + r
    y = so.spectral_filter(x, w, norm_weight=a, norm_bias=b, norm_eps=1e-6, residual=r, backend=backend)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    tally = testing.Tally()
    for _ in range(8):
        x, w = torch.randn(2, 14, 9, 5, dtype=D).to(dtype), weight_for((14, 9), 5, dtype=torch.float32)
        y = so.spectral_filter(x, w)
        assert y.dtype == dtype
        exact = so.spectral_filter(x.double(), w.double(), backend="reference")
        tally.add("y", y, so.spectral_filter(x, w, backend="reference"), exact)
    tally.check()


def test_layouts_and_nan():
    x, w = torch.randn(3, 6, 4, 5, dtype=D), weight_for((6, 4), 5)
    expected = so.spectral_filter(x, w)
    for name, same in testing.layouts(x):
        torch.testing.assert_close(so.spectral_filter(same, w), expected, msg=name)
    one = x[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(so.spectral_filter(one, w)[2], expected[0])
    x[1, 2, 3, 4] = float("nan")
    y = so.spectral_filter(x, w)
    assert y[1, :, :, 4].isnan().all() and y.isnan().sum() == 24
    assert so.spectral_filter(x[:0], w).shape == (0, 6, 4, 5)


# ---- derivatives and transforms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grid", [(4, 3), (3, 4), (5,), (2, 3, 2)])
def test_derivatives(grid, backend):
    x, w = torch.randn(2, *grid, 4, dtype=D, requires_grad=True), weight_for(grid, 2).requires_grad_()
    f = lambda x, w: so.spectral_filter(x, w, dims=tuple(range(1, 1 + len(grid))), backend=backend)  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, w), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_of_the_whole(backend):
    x, r = (torch.randn(2, 3, 4, 5, dtype=D, requires_grad=True) for _ in range(2))
    w, a, b = weight_for((3, 4), 5, lead=(2,)).requires_grad_(), *(torch.randn(5, dtype=D, requires_grad=True) for _ in range(2))

    def f(x, w, a, b, r):
        return so.spectral_filter(x, w, norm_weight=a, norm_bias=b, norm_eps=1e-5, residual=r, backend=backend)

    assert torch.autograd.gradcheck(f, (x, w, a, b, r), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, w, a, b, r), fast_mode=True)


def test_third_derivative():
    x, w = torch.randn(1, 3, 2, 2, dtype=D, requires_grad=True), weight_for((3, 2), 2).requires_grad_()

    def f(backend):
        y = so.spectral_filter(x, w, backend=backend)
        (first,) = torch.autograd.grad((y * y * y).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * first).sum(), w, create_graph=True)
        return torch.autograd.grad((second * second).sum(), x)[0]

    torch.testing.assert_close(f(None), f("reference"))


def test_saves_x_and_weight_alone():
    x, w = torch.randn(2, 6, 6, 4, requires_grad=True), weight_for((6, 6), 4, dtype=torch.float32).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        so.spectral_filter(x, w)
    assert sum(t.numel() for t in saved) == x.numel() + w.numel()


def test_vmap_and_func():
    x, w = torch.randn(3, 2, 4, 5, 3, dtype=D), weight_for((4, 5), 3)
    f = lambda x, w: so.spectral_filter(x, w)  # noqa: E731
    whole = torch.stack([f(a, w) for a in x])
    torch.testing.assert_close(torch.vmap(f, (0, None))(x, w), whole)
    ws = torch.stack([w, 2 * w, -w])
    torch.testing.assert_close(torch.vmap(f)(x, ws), torch.stack([f(a, b) for a, b in zip(x, ws)]))
    grads = torch.vmap(torch.func.grad(lambda x, w: f(x, w).square().sum(), argnums=1), (0, None))(x, w)
    for a, g in zip(x, grads):
        torch.testing.assert_close(g, torch.func.grad(lambda w: so.spectral_filter(a, w, backend="reference").square().sum())(w))


def test_operators():
    x, w = torch.randn(2, 1, 4, 5, 3), weight_for((1, 4, 5), 3, dtype=torch.float32)[None]
    a = torch.randn(3)
    torch.library.opcheck(torch.ops.spectralops.spectral_filter.default, (x, w, a, None, x, 1e-5, True))
    torch.library.opcheck(torch.ops.spectralops.spectral_filter_gradient.default, (x, x, None, None, -1.0, 1, 3))
    with pytest.raises(ValueError, match="does not fit"):
        torch.ops.spectralops.spectral_filter(x, w[:, :, :3], None, None, None, -1.0, False)
    assert module.filter_ is torch.ops.spectralops.spectral_filter.default


def test_compile_and_export():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(weight_for((6, 5), 4, dtype=torch.float32))

        def forward(self, x):
            return so.spectral_filter(x, self.w, norm_eps=1e-5, residual=x).relu()

    net, x = Net(), torch.randn(3, 6, 5, 4, requires_grad=True)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(x), net(x))
    (expected,) = torch.autograd.grad(net(x).sum(), net.w)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), net.w)[0], expected)
    program = torch.export.export(net, (x.detach(),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=2)}})
    assert not any("spectralops" in str(n.target) for n in program.graph.nodes)
    values = [n.meta["val"] for n in program.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    assert not any(v.is_complex() for v in values)
    torch.testing.assert_close(program.module()(torch.cat([x, x]).detach()), net(torch.cat([x, x])))


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(x=[1.0]), TypeError, "x must be a torch.Tensor"),
        (dict(x=torch.zeros(2, 4, 5, 3, dtype=torch.int64)), TypeError, "x must have dtype"),
        (dict(weight=torch.zeros(4, 3, 3)), ValueError, "weight must be complex or end in a dimension of 2"),
        (dict(weight=torch.zeros(4, 4, 3, 2)), ValueError, "weight must have shape"),
        (dict(weight=torch.zeros(4, 3, 2, 2)), ValueError, "do not divide"),
        (dict(weight=torch.zeros(3, 4, 3, 3, 2)), ValueError, "weight must have shape"),
        (dict(weight=torch.zeros(4, 3, 3, 2, dtype=D)), TypeError, "weight is float64"),
        (dict(weight=torch.zeros(4, 3, 3, 2, device="meta")), ValueError, "weight is on meta"),
        (dict(dims=(1, 1)), ValueError, "distinct"),
        (dict(dims=(1, 7)), ValueError, "dims must be in"),
        (dict(dims=()), ValueError, "one to three"),
        (dict(norm="both"), ValueError, "norm must be one of"),
        (dict(norm_weight=torch.ones(3)), ValueError, "need norm_eps"),
        (dict(norm_eps=-1.0), ValueError, "norm_eps"),
        (dict(norm_eps=1e-5, norm_weight=torch.ones(4)), ValueError, "norm_weight must have shape"),
        (dict(residual=torch.zeros(2, 4, 5, 2)), ValueError, "residual must have shape"),
        (dict(x=torch.zeros(2, 0, 5, 3)), ValueError, "no points"),
        (dict(backend="gpu"), ValueError, "backend must be"),
    ],
)
def test_bad_input(change, error, text):
    call = dict(x=torch.zeros(2, 4, 5, 3), weight=torch.zeros(4, 3, 3, 2)) | change
    with pytest.raises(error, match=text):
        so.spectral_filter(call.pop("x"), call.pop("weight"), **call)
