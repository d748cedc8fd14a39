"""The GPU: every backend, dtype and layout of both ops against float64, streams, graphs, second derivatives, guard bands.

Needs torch, numpy and pytest alone, so that it runs on a machine without a network.
"""

import pytest
import torch

import spectralops as so
from spectralops import backends, testing
from spectralops.ops import hadamard_reference, rational_reference
from spectralops.ops.hadamard_base import hadamard_base

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

BACKENDS = ["cuda", "triton", "cupy"]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=BACKENDS)
def backend(request):
    """A backend whose library is here; what it cannot do then is a failure, not a skip."""
    x = torch.ones(4, 8, device="cuda")
    able, reason = backends.backend(request.param).supports("rational_forward", x, x[:1], x[:1], 0)
    if not able:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def make(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to("cuda", dtype)


def coefficients(groups, degrees, version, dtype):
    m, n = degrees
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return make((groups[0], m + 1), dtype, 1), 0.5 * make((groups[1], n + (version == "C")), dtype, 2)


RATIONAL_SHAPES = {
    "vector": ((130, 96), (1, 8)),
    "tail": ((37, 33), (1, 3)),
    "narrow groups": ((64, 24), (12, 12)),
    "shared": ((5, 7, 11), (1, 1)),
    "many rows": ((5000, 64), (1, 4)),
    "one long row": ((1, 70001), (1, 1)),
}


@pytest.mark.parametrize("shape, groups", RATIONAL_SHAPES.values(), ids=RATIONAL_SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("version", rational_reference.VERSIONS)
def test_rational_to_the_second_derivative(backend, shape, groups, dtype, version):
    tally = testing.Tally()
    for seed, degrees in enumerate([(5, 4), (3, 2), (7, 6), (4, 5)] * 4):
        x, (a, b) = make(shape, dtype, seed), coefficients(groups, degrees, version, dtype)
        g, h, ha, hb = make(shape, dtype, 30 + seed), make(shape, dtype, 40 + seed), torch.randn_like(a), torch.randn_like(b)

        def run(backend, to=None):
            leaves = [(t if to is None else t.to(to)).detach().requires_grad_() for t in (x, a, b, g)]
            y = so.rational(*leaves[:3], version=version, backend=backend)
            first = torch.autograd.grad(y, leaves[:3], leaves[3], create_graph=True)
            second = torch.autograd.grad(first, leaves, [s.to(u.dtype) for s, u in zip((h, ha, hb), first)])
            return [y, *first, *second]

        with testing.poison():
            got = run(backend)
        names = ["y", "dx", "da", "db", "ddx", "dda", "ddb", "dgrad"]
        reference = run("reference", torch.float32 if dtype == torch.float64 else None)
        for name, u, v, w in zip(names, got, reference, run("reference", torch.float64)):
            tally.add(name, u, v, w)
        again = run(backend)
        assert all(torch.equal(u, v) for u, v in zip(got, again)), "two runs differ"
    tally.check()


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32, torch.int64])
def test_hadamard_every_size(backend, dtype):
    for n in [*(1 << k for k in range(17)), 12, 20, 28, 24, 172, 12 << 10, 20 << 10, 1 << 20]:
        rows = 3 if n > 4096 else 37
        x = make((rows, n), torch.float64) if dtype.is_floating_point else torch.randint(-99, 99, (rows, n), device="cuda")
        x = x.to(dtype)
        with testing.poison():
            y = so.hadamard_transform(x, n**-0.5 if dtype.is_floating_point else 3, backend=backend)
        if not dtype.is_floating_point:
            assert torch.equal(y.cpu(), so.hadamard_transform(x.cpu(), 3, backend="reference")), n
            continue
        exact = so.hadamard_transform(x.double(), n**-0.5, backend="reference")
        testing.assert_within(y, so.hadamard_transform(x, n**-0.5, backend="reference"), exact, what=f"{n}")


def test_hadamard_dimensions_blocks_signs_orders(backend):
    x = make((6, 64, 10), torch.float32)
    for dim, block, order in [(1, None, "natural"), (1, 16, "sequency"), (1, 64, "dyadic"), (-1, 2, "natural"), (0, 2, "natural")]:
        signs = torch.randint(0, 2, (block or x.shape[dim],), device="cuda") * 2 - 1
        kw = dict(dim=dim, block=block, order=order, signs=signs)
        got = so.hadamard_transform(x, 0.5, **kw, backend=backend)
        exact = so.hadamard_transform(x.double(), 0.5, **kw, backend="reference")
        testing.assert_within(got, so.hadamard_transform(x, 0.5, **kw, backend="reference"), exact, what=str((dim, block, order)))
    for n, order in [(32, "sequency"), (4096, "dyadic"), (1 << 17, "sequency"), (20, "natural"), (172 * 4, "natural")]:
        z = make((2, n), torch.float64).requires_grad_()
        w, g = z.detach().clone().requires_grad_(), make((2, n), torch.float64, 5)
        (got,) = torch.autograd.grad(so.hadamard_transform(z, order=order, backend=backend), z, g)
        (expect,) = torch.autograd.grad(so.hadamard_transform(w, order=order, backend="reference"), w, g)
        torch.testing.assert_close(got, expect)


@pytest.mark.parametrize("format", ["int8", "fp8_e4m3", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("dtype", FLOATS[:1] + FLOATS[2:])
def test_quantise_is_bit_equal_to_two_steps(backend, format, dtype):
    for shape, block in [((7, 4096), None), ((33, 1024), 128), ((5, 768), 256), ((3, 12 * 128), None)]:
        x = make(shape, dtype)
        signs = torch.randint(0, 2, (block or shape[1],), device="cuda") * 2 - 1
        group = {"int8": shape[1], "fp8_e4m3": 128, "mxfp4": 32, "nvfp4": 16}[format]
        q, s = so.hadamard_quantize(x, 1 / 32, signs=signs, block=block, format=format, backend=backend)
        r = so.hadamard_transform(x.float(), 1 / 32, signs=signs, block=block, backend=backend)
        p, t = hadamard_reference.quantize(r, group, format)
        assert torch.equal(s.view(torch.uint8), t.view(torch.uint8)), (shape, block)
        assert torch.equal(q.view(torch.uint8), p.view(torch.uint8)), (shape, block)


def test_srht(backend):
    for n in (64, 4096, 12 * 256):
        x, rows = make((9, n), torch.float32), torch.randint(0, n, (40,), device="cuda")
        signs = torch.randint(0, 2, (n,), device="cuda") * 2 - 1
        got = so.srht(x, signs, rows, backend=backend)
        exact = so.srht(x.double(), signs, rows, backend="reference")
        testing.assert_within(got, so.srht(x, signs, rows, backend="reference"), exact)


def test_srht_rows_that_do_not_exist_give_nan(backend):
    if backend == "triton":
        sizes = (64, 4096)  # beyond one program it picks rows with torch, which asserts
    else:
        sizes = (64, 4096, 1 << 16)
    for n in sizes:
        x, rows = make((3, n), torch.float32), torch.tensor([1, -1, n, 1 << 40, 2], device="cuda")
        y = so.srht(x, torch.ones(n, device="cuda"), rows, backend=backend)
        assert torch.equal(y.isnan(), torch.tensor([False, True, True, True, False], device="cuda").expand(3, 5))


def test_layouts_and_the_stride_zero_gradient(backend):
    x, (a, b) = make((12, 6, 32), torch.float32), coefficients((1, 4), (5, 4), "A", torch.float32)
    y, h = so.rational(x, a, b, backend=backend), so.hadamard_transform(x, backend=backend)
    for name, view in testing.layouts(x):
        assert torch.equal(so.rational(view, a, b, backend=backend), y), name
        assert torch.equal(so.hadamard_transform(view, backend=backend), h), name
    z, one = x.clone().requires_grad_(), torch.ones((), device="cuda").expand(x.shape)  # stride 0 everywhere
    got, expect = (
        torch.autograd.grad(so.rational(z, a, b, backend=backend), z, grad)[0] for grad in (one, torch.ones_like(x))
    )
    assert torch.equal(got, expect) and got.abs().sum() > 0


def test_guard_bands(backend):
    module = backends.backend(backend)
    for rows, dim, groups in [(3, 5, 1), (257, 24, 8), (64, 96, 4)]:
        x, num, den = make((rows, dim), torch.float16), make((1, 6), torch.float32), make((groups, 4), torch.float32)
        gn, gd = make((groups, 6), torch.float32), make((groups, 4), torch.float32)
        with testing.guard_bands():
            module.rational_forward(x, num, den, 0)
            module.rational_backward(x, x, num, den, 0, 0)
            module.rational_double_backward(x, gn, gd, x, x, num, den, 0, 0)
            torch.cuda.synchronize()
    for outer, n, inner in [(5, 1, 1), (3, 2, 1), (7, 128, 1), (2, 24, 1), (2, 8, 5), (1, 1 << 17, 1)]:
        x = make((outer, n, inner), torch.float16)
        with testing.guard_bands():
            module.hadamard(x, None, None, hadamard_base(n), 1.0, 0, 0)
            torch.cuda.synchronize()


def test_side_stream_and_graph_capture(backend):
    x, (a, b) = make((512, 1024), torch.float32), coefficients((1, 8), (5, 4), "A", torch.float32)

    def work():
        z = so.hadamard_transform(so.rational(x, a, b, backend=backend), 1 / 32, backend=backend)
        return so.hadamard_quantize(z, format="fp8_e4m3", backend=backend)

    expect = work()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    x2 = x.clone()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        x.mul_(2)  # only a kernel that waits on this stream sees the doubled values
        late = work()
    stream.synchronize()
    x.copy_(x2 * 2)
    assert all(torch.equal(u.view(torch.uint8), v.view(torch.uint8)) for u, v in zip(late, work()))
    x.copy_(x2)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for u in captured:
        u.view(torch.uint8).zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(u.view(torch.uint8), v.view(torch.uint8)) for u, v in zip(captured, expect))


def test_automatic_choice_is_not_the_reference():
    x = make((8, 64), torch.float32)
    assert ": reference" not in so.explain("rational", x, x[:1, :6], x[:1, :4]).splitlines()[0]
    assert ": reference" not in so.explain("hadamard_transform", x).splitlines()[0]


def test_compile_and_vmap_on_the_gpu():
    x, (a, b) = make((16, 32), torch.float32), coefficients((1, 4), (5, 4), "A", torch.float32)
    f = lambda x: so.hadamard_transform(so.rational(x, a, b) * 2, 0.1)  # noqa: E731
    torch.testing.assert_close(torch.compile(f, fullgraph=True)(x), f(x))
    torch.testing.assert_close(torch.func.vmap(f)(x[:, None])[:, 0], f(x))
