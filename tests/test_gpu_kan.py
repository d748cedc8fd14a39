"""kan_linear on a GPU, in Triton: every family and dtype to the second derivative against float64, streams, graphs, bounds.

Needs torch, numpy and pytest alone, so that it runs on a machine without a network.
"""

import kan_operands
import pytest
import torch

import spectralops as so
from spectralops import backends, testing
from spectralops import basis as B

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def knots(inputs=40, order=3):
    steps = torch.rand(inputs, 9 + order, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.3
    return (4 * (steps.cumsum(-1) / steps.sum(-1, keepdim=True) - 0.5)).float().double()


BASES = {
    "cubic": lambda: B.BSpline(5, 3),
    "order 5": lambda: B.BSpline(4, 5, -2, 2),
    "knots": lambda: B.BSpline(knots=knots().cuda(), order=3),
    "linear": lambda: B.BSpline(5, 3, outside="linear", edge="grid"),
    "clamp": lambda: B.BSpline(knots=knots(order=2).cuda(), order=2, outside="clamp", edge="grid"),
    "sparse": lambda: B.BSpline(120, 3, -2, 2),
    "rbf": lambda: B.RBF(8),
    "rswaf": lambda: B.RSWAF(5),
    "sech": lambda: B.Sech(5),
    "mexican hat": lambda: B.MexicanHat(4),
    "morlet": lambda: B.Morlet(4),
    "dog": lambda: B.DoG(4),
    "chebyshev": lambda: B.Chebyshev(5),
    "legendre": lambda: B.Legendre(4, squash=None),
    "hermite": lambda: B.Hermite(3),
    "fourier": lambda: B.Fourier(20),
    "relu power": lambda: B.ReLUPower(5, 3, -2, 2, power=4),
    "relu sum": lambda: B.ReLUPower(5, 3, -2, 2, combination="sum_product"),
}
JUMPS = ("linear", "clamp", "relu sum")  # in the second derivative


@pytest.fixture(autouse=True)
def _able():
    x, c = make((4, 8), torch.float32), make((3, 8, 5), torch.float32)
    basis = B.RBF(5)
    able, reason = backends.backend("triton").supports(
        "kan_forward", x, None, c, None, None, basis.code(x.dtype, x.device), 0, 0, "highest"
    )
    if not able:
        pytest.skip(reason)


def make(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to("cuda", dtype)


def problem(basis, dtype, rows=130, inputs=40, outputs=72, seed=0):
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    c = make((outputs, inputs, basis.size), compute, seed + 1) / basis.size**0.5
    return make((rows, inputs), dtype, seed), c, make((outputs, inputs), compute, seed + 2), make((outputs,), compute, seed + 3)


def derivatives(tensors, basis, backend, dtype=None, second=True, **more):
    """y, its gradients, and the gradients of a fixed product with those."""
    leaves = [(t if dtype is None else t.to(dtype)).detach().requires_grad_() for t in tensors]
    x, c, w, b = leaves
    y = so.kan_linear(x, c, basis, base_weight=w, bias=b, backend=backend, **more)
    grad = make(y.shape, tensors[0].dtype, 50).to(y.dtype).requires_grad_()
    first = torch.autograd.grad(y, leaves, grad, create_graph=second)
    if not second:
        return [y, *first]
    weights = [make(t.shape, tensors[0].dtype, 60 + i).to(t.dtype) for i, t in enumerate(first)]
    return [y, *first, *torch.autograd.grad(first, [x, c, w, grad], weights)]


NAMES = ("y", "dx", "dc", "dw", "db", "ddx", "ddc", "ddw", "dgrad")


def hold(tally, tensors, basis, second, **more):
    """Add every result to the tally, against the formulas with the operands of tensor cores; returns the results."""
    with testing.poison():
        got = derivatives(tensors, basis, "triton", second=second, **more)
    exact = derivatives(tensors, basis, "reference", torch.float64, second)
    if tensors[0].dtype == torch.float64:
        plain = derivatives(tensors, basis, "reference", torch.float32, second)
    else:
        with kan_operands.in_place_of_the_kernels():
            plain = derivatives(tensors, basis, "triton", second=second, **more)
    for key, *each in zip(NAMES, got, plain, exact):
        tally.add(key, *each)
    return got


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_to_the_second_derivative(name, dtype):
    basis, tally = BASES[name](), testing.Tally()
    second = name not in JUMPS
    for seed in range(4):
        tensors = problem(basis, dtype, seed=10 * seed)
        got = hold(tally, tensors, basis, second)
        again = derivatives(tensors, basis, "triton", second=second)
        assert all(torch.equal(a, b) for a, b in zip(got, again)), "two runs differ"
    tally.check()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 300, 17), (7, 5, 16), (1000, 33, 40), (5000, 64, 64), (257, 129, 300)])
def test_sizes(sizes, dtype):
    for basis in (B.BSpline(5, 3), B.RBF(3), B.Legendre(9)):
        tally = testing.Tally()
        for seed in range(16 if sizes[0] < 10 else 2):  # a result of few elements is a matter of luck in one draw
            hold(tally, problem(basis, dtype, *sizes, seed=10 * seed), basis, second=False)
        tally.check()


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("name", ["cubic", "rbf", "chebyshev", "fourier"])
def test_precisions_of_float32(name, precision):
    """One tf32 product for each under "high", with tf32's error and no more; the default's is that of three."""
    basis, tally = BASES[name](), testing.Tally()
    for seed in range(4):
        tensors = problem(basis, torch.float32, rows=512, inputs=64, seed=10 * seed)
        hold(tally, tensors, basis, second=False, precision=precision)
    tally.check()


def test_derivatives_of_the_basis():
    for name in ("cubic", "rbf", "chebyshev", "fourier", "morlet"):
        basis = BASES[name]()
        x, c, w, _ = problem(basis, torch.float32)
        for m in range(1, 5):
            call = lambda backend, dtype: so.kan_linear(  # noqa: E731
                x.to(dtype), c.to(dtype), basis, base_weight=w.to(dtype), base_activation="gelu", derivative=m, backend=backend
            )
            exact = call("reference", torch.float64)
            testing.assert_within(call("triton", torch.float32), call("reference", torch.float32), exact, what=f"{name} {m}")


@pytest.mark.parametrize("name", BASES)
def test_not_finite(name):
    basis = BASES[name]()
    x, c, w, b = problem(basis, torch.float32)
    x[2:7, 1] = torch.tensor([float("nan"), float("inf"), float("-inf"), -1.0, 1.0])
    got, expect = (so.kan_linear(x, c, basis, base_weight=w, bias=b, backend=s) for s in ("triton", "reference"))
    assert torch.equal(got.isnan(), expect.isnan()) and torch.equal(got.isinf(), expect.isinf())


def test_layouts_and_the_stride_zero_gradient():
    for basis in (B.BSpline(5, 3), B.BSpline(120, 3), B.RBF(4)):
        x, c, w, b = problem(basis, torch.float32)
        y = so.kan_linear(x, c, basis, base_weight=w, bias=b, backend="triton")
        for layout, view in testing.layouts(x):
            assert torch.equal(so.kan_linear(view, c, basis, base_weight=w, bias=b, backend="triton"), y), layout
        z, one = x.clone().requires_grad_(), torch.ones((), device="cuda").expand(y.shape)
        got, expect = (
            torch.autograd.grad(so.kan_linear(z, c, basis, backend="triton"), z, g)[0] for g in (one, torch.ones_like(y))
        )
        assert torch.equal(got, expect) and got.abs().sum() > 0


def test_guard_bands():
    module = backends.backend("triton")
    for basis in (B.BSpline(5, 3), B.BSpline(120, 3), B.RBF(4)):
        for rows, inputs, outputs in [(3, 5, 7), (257, 24, 40), (64, 96, 130)]:
            x, c, w, b = problem(basis, torch.float16, rows, inputs, outputs)
            g, code = make((rows, outputs), torch.float16, 9), basis.code(torch.float16, "cuda")
            with testing.guard_bands():
                module.kan_forward(x, x, c, w, b, code, 1, 0, "highest")
                module.kan_dx(g, x, x, c, w, code, 1, 1, "highest")
                module.kan_dcoeff(g, x, x, code, 1, 0, "highest")
                torch.cuda.synchronize()


def test_side_stream_and_graph_capture():
    basis = B.BSpline(5, 3)
    for dtype in (torch.float32, torch.float16):
        x, c, w, b = problem(basis, dtype, 512, 256, 256)
        g = make((512, 256), dtype, 9)

        def work(x=x, c=c, w=w, b=b, g=g):
            leaves = [t.detach().requires_grad_() for t in (x, c, w, b)]
            y = so.kan_linear(*leaves[:2], basis, base_weight=leaves[2], bias=leaves[3], backend="triton")
            return [y.detach(), *torch.autograd.grad(y, leaves, g)]

        expect = work()
        torch.cuda.synchronize()
        stream, kept = torch.cuda.Stream(), x.clone()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            x.mul_(0.5)  # only a kernel that waits on this stream sees the halved values
            late = work()
        stream.synchronize()
        assert all(torch.equal(u, v) for u, v in zip(late, work()))
        x.copy_(kept)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = work()
        for t in captured:
            t.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(u, v) for u, v in zip(captured, expect))


def test_automatic_choice_compile_and_vmap():
    basis = B.BSpline(5, 3)
    x, c, w, b = problem(basis, torch.float32)
    assert ": triton" in so.explain("kan_linear", x, c, basis).splitlines()[0]
    f = lambda x: so.kan_linear(x, c, basis, base_weight=w, bias=b)  # noqa: E731
    torch.testing.assert_close(torch.compile(f, fullgraph=True)(x), f(x))
    torch.testing.assert_close(torch.func.vmap(f)(x[:, None])[:, 0], f(x))


def test_a_batch_of_another_size_compiles_nothing():
    from spectralops.kernels import kan

    basis = B.RBF(4)
    x, c, w, b = problem(basis, torch.float32, rows=3000)
    so.kan_linear(x, c, basis, backend="triton")
    device = torch.cuda.current_device()
    before = len(kan.forward_kernel.device_caches[device][0])
    for rows in (1, 2, 16, 17, 100, 1024, 2999):
        so.kan_linear(x[:rows], c, basis, backend="triton")
    assert len(kan.forward_kernel.device_caches[device][0]) == before
