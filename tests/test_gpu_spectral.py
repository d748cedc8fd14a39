"""Spectral gating and mixing on a GPU, in CUDA C++ and Triton: sizes, dtypes, forms and derivatives against float64; streams, graphs,
bounds, isolation. Needs torch, numpy and pytest alone, so that it runs on a machine without a network.
"""

import pytest
import torch

import spectralops as so
from spectralops import testing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def make(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to("cuda", dtype)


def compute(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def results(function, tensors, dtype=None, **more):
    """y and its gradients."""
    leaves = [(t if dtype is None else t.to(dtype)).detach().requires_grad_() for t in tensors]
    y = function(*leaves, **more)
    return [y, *torch.autograd.grad(y, leaves, make(y.shape, tensors[0].dtype, 50).to(y.dtype))]


def hold(tally, function, tensors, backend, **more):
    """The rule for one call; skips what the backend says it has no kernel for."""
    try:
        with testing.poison():
            got = results(function, tensors, backend=backend, **more)
    except RuntimeError as error:
        if "cannot run" in str(error):
            pytest.skip(str(error))
        raise
    exact = results(function, tensors, torch.float64, backend="reference", **more)
    plain = results(function, tensors, torch.float32 if tensors[0].dtype == torch.float64 else None, backend="reference", **more)
    for i, three in enumerate(zip(got, plain, exact)):
        tally.add(f"result {i}", *three)
    return got


def filter_problem(dtype, grid=(14, 14), channels=40, groups=None, rows=3, seed=0):
    weight = (*grid[:-1], grid[-1] // 2 + 1, groups or channels, 2)
    return [make((rows, *grid, channels), dtype, seed), make(weight, compute(dtype), seed + 1)]


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "grid", [(7, 7), (14, 14), (28, 28), (8, 13), (5, 12), (32, 32), (56, 56), (90, 180), (196,), (197,), (4, 6, 8)], ids=str
)
def test_filter(backend, dtype, grid):
    tally = testing.Tally()
    for seed in range(3):
        hold(tally, so.spectral_filter, filter_problem(dtype, grid, seed=seed), backend, dims=tuple(range(1, 1 + len(grid))))
    tally.check()


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("form", ["groups", "samples", "norm", "channels first", "many rows"])
def test_filter_forms(backend, form):
    tally = testing.Tally()
    for seed in range(3):
        x, w = filter_problem(torch.float32, groups=8 if form == "groups" else None, rows=70 if form == "many rows" else 3, seed=seed)
        call = [x, w]
        if form == "samples":
            call[1] = torch.stack([w, -w, 2 * w])
        if form == "channels first":
            call[0] = x.permute(0, 3, 1, 2).contiguous()
        function = so.spectral_filter
        if form == "norm":
            a, b = make((40,), seed=seed + 3), make((40,), seed=seed + 4)
            call += [a, b, make(x.shape, seed=seed + 5)]

            def function(x, w, a, b, r, **k):
                return so.spectral_filter(x, w, norm_weight=a, norm_bias=b, norm_eps=1e-5, residual=r, **k)

        if form == "channels first":
            function = lambda x, w, **k: so.spectral_filter(x.permute(0, 2, 3, 1), w, **k)  # noqa: E731
        hold(tally, function, call, backend)
    tally.check()


@pytest.mark.parametrize("backend", ["triton", None])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "grid, modes",
    [((64, 64), (12, 12)), ((128, 128), (16, 16)), ((33, 47), (8, 10)), ((1000,), (16,)), ((20, 24, 18), (6, 8, 6)), ((16, 16), (16, 16)),
     ((200, 130), (150, 120))],
    ids=str,
)  # fmt: skip
def test_conv(backend, dtype, grid, modes):
    tally = testing.Tally()
    for seed in range(2):
        w = make((6, 5, *modes[:-1], modes[-1] // 2 + 1, 2), compute(dtype), seed + 1) / 6
        tensors = [make((3, 6, *grid), dtype, seed), w, make((5, 6), compute(dtype), seed + 2), make((5,), compute(dtype), seed + 3)]
        function = lambda x, w, s, b, **k: so.spectral_conv(x, w, modes=modes, skip=s, bias=b, **k)  # noqa: B023, E731
        hold(tally, function, tensors, backend, activation="gelu")
    tally.check()


def test_conv_elsewhere():
    """Other resolutions, layouts, 16-bit weights."""
    tally = testing.Tally()
    x, w = make((2, 4, 24, 30)), make((4, 4, 8, 5, 2), seed=1)
    upstream = dict(compat="neuralop", output_size=(31, 29))
    for more in (dict(output_size=(48, 60)), dict(output_size=(16, 15)), dict(layout="corner", modes=(4, 5)), upstream):
        hold(tally, so.spectral_conv, [x, w], None, **{"modes": (8, 8), **more})
    hold(tally, lambda x, **k: so.spectral_conv(x, w.bfloat16(), modes=(8, 8), **k), [x], None)
    tally.check()


@pytest.mark.parametrize("which", ["filter", "conv"])
def test_second_derivatives(which):
    def second(tensors, backend):
        leaves = [t.detach().requires_grad_() for t in tensors]
        call = so.spectral_filter if which == "filter" else lambda x, w, **k: so.spectral_conv(x, w, modes=(6, 6), activation="gelu", **k)
        y = call(*leaves, backend=backend)
        first = torch.autograd.grad(y * y, leaves, make(y.shape, y.dtype, 9), create_graph=True)
        return torch.autograd.grad(sum((t * make(t.shape, t.dtype, 30 + i)).sum() for i, t in enumerate(first)), leaves)

    tally = testing.Tally()
    for seed in range(3):
        layer = [make((2, 3, 20, 18), seed=seed), make((3, 3, 6, 4, 2), seed=seed + 1)]
        tensors = filter_problem(torch.float32, seed=seed) if which == "filter" else layer
        wide = [t.double() for t in tensors]
        for i, three in enumerate(zip(second(tensors, None), second(tensors, "reference"), second(wide, "reference"))):
            tally.add(str(i), *three)
    tally.check()


@pytest.mark.parametrize("which", ["filter", "conv"])
def test_isolation_determinism_layouts_streams_and_graphs(which):
    if which == "filter":
        x, w = filter_problem(torch.float32)
        call = lambda x: so.spectral_filter(x, w)  # noqa: E731
        spoiled, point = (lambda y: y[1, :, :, 4]), (1, 2, 3, 4)
    else:
        x, w = make((3, 4, 32, 30)), make((4, 4, 8, 5, 2), seed=1)
        call = lambda x: so.spectral_conv(x, w, modes=(8, 8))  # noqa: E731
        spoiled, point = (lambda y: y[1]), (1, 2, 3, 4)
    y = call(x)
    for name, same in testing.layouts(x):
        assert torch.equal(call(same), y), name
    dirty = x.clone()
    dirty[point] = float("nan")
    z = call(dirty)
    assert spoiled(z).isnan().all()
    spoiled(z).copy_(spoiled(y))
    assert torch.equal(z, y)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = call(x)
    stream.synchronize()
    assert torch.equal(late, y)
    static, graph = x.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(static)
    static.copy_(2 * x)
    graph.replay()
    testing.assert_within(out, 2 * y, 2 * y.double())
