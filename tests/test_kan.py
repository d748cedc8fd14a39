"""`kan_linear` through its public function: values, every derivative, vmap, compile, layouts, memory, bad input."""

import copy

import numpy as np
import pytest
import scipy.interpolate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import basis as B
from spectralops import testing

F64 = torch.float64
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BACKENDS = ["reference", "cpu"]


def per_input_knots(inputs=3):
    steps = torch.rand(inputs, 11, generator=torch.Generator().manual_seed(5), dtype=F64) * 0.5 + 0.15
    return steps.cumsum(-1) - steps.sum(-1, keepdim=True) / 2


BASES = {
    "cubic": lambda: B.BSpline(5, 3),
    "order 0": lambda: B.BSpline(6, 0, -2, 2),
    "order 1": lambda: B.BSpline(6, 1, -2, 2),
    "order 5": lambda: B.BSpline(4, 5, -2, 2),
    "grid 50": lambda: B.BSpline(50, 3, -2, 2),
    "knots": lambda: B.BSpline(knots=per_input_knots(), order=3),
    "linear": lambda: B.BSpline(5, 3, outside="linear", edge="grid"),
    "clamp": lambda: B.BSpline(knots=per_input_knots(), order=2, outside="clamp", edge="grid"),
    "rbf": lambda: B.RBF(8),
    "rswaf": lambda: B.RSWAF(5),
    "sech": lambda: B.Sech(5),
    "mexican hat": lambda: B.MexicanHat(4),
    "morlet": lambda: B.Morlet(4),
    "dog": lambda: B.DoG(4),
    "haar": lambda: B.Haar(4),
    "chebyshev": lambda: B.Chebyshev(5),
    "legendre": lambda: B.Legendre(4, squash=None),
    "jacobi": lambda: B.Jacobi(4),
    "hermite": lambda: B.Hermite(3),
    "gram": lambda: B.Gram(4),
    "fourier": lambda: B.Fourier(20),
    "relu power": lambda: B.ReLUPower(5, 3, -2, 2, power=4),
    "relu sum": lambda: B.ReLUPower(5, 3, -2, 2, combination="sum_product"),
    "mix": lambda: B.Mix(B.BSpline(5, 3), B.Fourier(2), B.Chebyshev(3)),
}
SMOOTH = [name for name in BASES if name not in ("order 0", "order 1", "haar", "linear", "clamp", "relu sum")]


def problem(basis, rows=(7,), inputs=3, outputs=5, dtype=torch.float32, coefficients=None, base=True, bias=True, spread=1.0):
    coefficients = coefficients or (F64 if dtype == F64 else torch.float32)
    make = lambda *s: torch.randn(*s, dtype=F64)  # noqa: E731
    x = (spread * make(*rows, inputs)).to(dtype)
    c = (make(outputs, inputs, basis.size) / basis.size**0.5).to(coefficients)
    return x, c, make(outputs, inputs).to(coefficients) if base else None, make(outputs).to(coefficients) if bias else None


def call(basis, backend=None, **more):
    return lambda x, c, w, b: so.kan_linear(x, c, basis, base_weight=w, bias=b, backend=backend, **more)


def materialised(x, c, w, b, basis):
    """The definition in float64, one basis tensor and one sum."""
    x, c = x.double(), c.double()
    y = (basis(x).unsqueeze(-3) * c).sum((-1, -2))
    if w is not None:
        y = y + (x * torch.sigmoid(x)) @ w.double().T
    return y if b is None else y + b.double()


# ---- values ------------------------------------------------------------------------------------------------------------


def test_a_spline_layer_is_a_sum_of_scipys_splines():
    """Nothing of ours in the oracle: one scipy BSpline an edge, on its own grid, and SiLU in numpy."""
    basis, rng = B.BSpline(5, 3), np.random.default_rng(0)
    t = -1 + (np.arange(12) - 3) * 0.4
    x, c, w = rng.uniform(-0.99, 0.99, (50, 3)), rng.normal(size=(4, 3, 8)), rng.normal(size=(4, 3))
    exact = np.zeros((50, 4))
    for o in range(4):
        for i in range(3):
            exact[:, o] += scipy.interpolate.BSpline(t, c[o, i], 3)(x[:, i]) + w[o, i] * x[:, i] / (1 + np.exp(-x[:, i]))
    for backend in BACKENDS:
        got = call(basis, backend)(*map(torch.from_numpy, (x, c, w)), None)
        assert np.abs(got.numpy() - exact).max() < 1e-13


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values(name, backend):
    basis, tally = BASES[name](), testing.Tally()
    for _ in range(4):
        for dtype in FLOATS:
            for rows, base, bias in (((33,), True, True), ((2, 3, 5), False, False)):
                args = problem(basis, rows, outputs=19, dtype=dtype, base=base, bias=bias)
                if name in ("order 0", "haar"):  # they jump, and only off the jumps does rounding x not decide
                    args = ((args[0] * 8).round() / 8 + 0.03125, *args[1:])
                with testing.poison():
                    y = call(basis, backend)(*args)
                # the truth is float64 too: there the error is held to that of float32, in units of each roundoff
                reference = call(basis, "reference")(*(t if t is None or dtype != F64 else t.float() for t in args))
                assert y.dtype == dtype and y.shape == (*rows, 19) and y.is_contiguous()
                tally.add(str(dtype), y, reference, materialised(*args, basis))
                assert y.abs().max() > 0
    tally.check()


@pytest.mark.parametrize("base_activation", ["silu", "gelu", "relu", "identity", "tanh"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_base_activations_and_their_derivatives(base_activation, backend):
    functions = {"identity": lambda z: z, "tanh": torch.tanh, **{n: getattr(torch.nn.functional, n) for n in ("silu", "gelu", "relu")}}
    basis = B.BSpline(3, 3)
    x, c, w, _ = problem(basis, (40,), dtype=F64, bias=False)
    f = functions[base_activation]
    for m in range(4):
        s = f
        for _ in range(m):
            s = (lambda g: lambda z: torch.func.jvp(g, (z,), (torch.ones_like(z),))[1])(s)
        exact = torch.einsum("nik,oik->no", basis.derivative(x, m), c) + s(x) @ w.T
        got = so.kan_linear(x, c, basis, base_weight=w, base_activation=base_activation, derivative=m, backend=backend)
        assert (got - exact).abs().max() < 1e-11


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SMOOTH)
def test_derivative_argument(name, backend):
    basis = BASES[name]()
    x, c, w, b = problem(basis, (20,), dtype=F64)
    for m in (1, 2, 3, 4, 5):
        got = so.kan_linear(x, c, basis, base_weight=w, bias=b, derivative=m, backend=backend if m < 5 else None)
        exact = so.kan_linear(x, c, basis, base_weight=w, derivative=m, backend="reference")
        scale = exact.abs().max()
        assert (got - exact).abs().max() <= 1e-11 * scale and scale > 0 or name in ("cubic", "knots") and m > 3


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck_and_gradgradcheck(name, backend):
    basis = BASES[name]()
    args = [t.requires_grad_() for t in problem(basis, (3,), outputs=2, dtype=F64)]
    if name in ("cubic", "knots", "mix"):  # the second derivative has corners on the knots
        args[0].data.mul_(0.9).add_(0.0123)
    torch.autograd.gradcheck(call(basis, backend), args)
    torch.autograd.gradgradcheck(call(basis, backend), args)


def gradients(f, args, to=None):
    """y, first derivatives, and those of <h, first>, with pseudo-random cotangents that are the same each time."""
    args = [None if t is None else t.detach().to(to or t.dtype).requires_grad_() for t in args]
    leaves, generator = [t for t in args if t is not None], torch.Generator().manual_seed(3)
    like = lambda t: torch.randn(t.shape, generator=generator, dtype=F64).bfloat16().to(t.dtype)  # noqa: E731
    y = f(*args)
    first = torch.autograd.grad(y, leaves, like(y), create_graph=True)
    flowing = [t for t in first if t.requires_grad]  # not the bias's: it is a sum of the cotangent alone
    second = torch.autograd.grad(flowing, leaves, [like(t) for t in flowing], allow_unused=True)
    return [t.detach() for t in (y, *first, *second) if t is not None]


@pytest.mark.parametrize("name", ["cubic", "grid 50", "knots", "rbf", "chebyshev", "fourier", "mix"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_first_and_second_derivatives(name, dtype):
    basis, tally = BASES[name](), testing.Tally()
    for _ in range(6):
        args = problem(basis, (70,), outputs=17, dtype=dtype, spread=0.8)
        got = gradients(call(basis, "cpu"), args)
        reference = gradients(call(basis, "reference"), args)
        exact = gradients(call(basis, "reference"), args, F64)
        assert [t.dtype for t in got] == [t.dtype for t in reference] and len(got) == len(exact) == 8
        if dtype == F64:
            reference = gradients(call(basis, "reference"), [t.float() for t in args])  # as in test_values
        for i, (a, r, e) in enumerate(zip(got, reference, exact)):
            tally.add(f"{i}", a, r, e)
    tally.check()


def test_third_derivatives_and_a_laplacian_for_a_pinn():
    """A two-layer network: its Laplacian, and the gradient of a loss on it, against nested autograd of the plain formula."""
    layers = [B.BSpline(5, 4, -2, 2), B.Chebyshev(6)]
    shapes = [(8, 2), (1, 8)]
    weights = [torch.randn(o, i, b.size, dtype=F64) / b.size for (o, i), b in zip(shapes, layers)]
    points = torch.randn(12, 2, dtype=F64)

    def loss(backend):
        parameters = [w.clone().requires_grad_() for w in weights]
        x = points.clone().requires_grad_()
        y = x
        for c, basis in zip(parameters, layers):
            y = so.kan_linear(y, c, basis, backend=backend)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        laplacian = sum(torch.autograd.grad(g[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
        value = ((laplacian + y[:, 0]) ** 2).mean()
        return [value.detach(), laplacian.detach(), *torch.autograd.grad(value, [*parameters, x])]

    for ours, plain in zip(loss(None), loss("reference")):
        assert (ours - plain).abs().max() <= 1e-11 * plain.abs().max()
    f = lambda z: so.kan_linear(so.kan_linear(z, weights[0], layers[0]), weights[1], layers[1])[0]  # noqa: E731
    hessians = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(f)))(points)
    assert (hessians.diagonal(dim1=-2, dim2=-1).sum(-1) - loss("reference")[1]).abs().max() < 1e-10


def test_orders_beyond_the_kernels_run_as_plain_formulas():
    basis = B.Fourier(3)
    x, c, _, _ = problem(basis, (6,), dtype=F64, base=False, bias=False)
    x.requires_grad_()
    y = so.kan_linear(x, c, basis)
    for _ in range(6):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    exact = torch.einsum("nik,oik->ni", basis.derivative(x, 6), c)
    assert (y - exact).abs().max() < 1e-10 * exact.abs().max()
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot run kan_forward"):
        so.kan_linear(x, c, basis, derivative=5, backend="cpu")


def test_vmap_of_no_problems_is_empty():
    c = torch.randn(2, 3, 8)
    assert torch.vmap(lambda x: so.kan_linear(x, c, B.BSpline(5)))(torch.randn(0, 5, 3)).shape == (0, 5, 2)
    w = torch.rand(2, 3) + 0.5
    assert torch.vmap(lambda x: so.wavelet_linear(x, w, w, w))(torch.randn(0, 5, 3)).shape == (0, 5, 2)


@pytest.mark.parametrize(
    "make, start",
    [
        (lambda p: B.RBF(centres=p, width=0.5), torch.linspace(-1, 1, 5)),
        (lambda p: B.RBF(centres=torch.linspace(-1, 1, 5), width=p), torch.full((5,), 0.5)),
        (lambda p: B.RBF(5, width=p), torch.tensor(0.5)),
        (lambda p: B.Gram(4, beta=p), torch.rand(4)),
        (lambda p: B.ReLUPower(starts=p, ends=torch.full((5,), 2.0)), torch.linspace(-1, 0, 5)),
        (lambda p: B.BSpline(order=2, knots=p), torch.linspace(-2, 2, 8)),
    ],
)
@pytest.mark.parametrize("learnable", [True, False])
def test_a_table_follows_the_callers_tensor_through_training_steps(make, start, learnable):
    given = start.clone().requires_grad_(learnable)
    basis = make(given)
    x, c = torch.randn(9, 3), torch.randn(2, 3, 5, requires_grad=True)
    for _ in range(2):
        given.grad = None
        so.kan_linear(x, c, basis).square().sum().backward()  # the graph of a table is that of one call
        assert not learnable or given.grad.abs().sum() > 0
        with torch.no_grad():
            given += 0.05
        assert torch.equal(so.kan_linear(x, c, basis), so.kan_linear(x, c, make(given)))
    if learnable:  # as a model that holds the basis is copied
        assert torch.equal(copy.deepcopy(basis)(x), basis(x))


def test_learnable_tables_get_their_gradient_from_the_plain_formula():
    knots = per_input_knots().requires_grad_()
    x, c, w, b = problem(B.BSpline(knots=knots, order=3), (9,), dtype=F64)
    f = lambda t: so.kan_linear(x, c, B.BSpline(knots=t, order=3), base_weight=w, bias=b)  # noqa: E731
    torch.autograd.gradcheck(f, (knots,))
    beta = torch.rand(4, dtype=F64, requires_grad=True)
    torch.autograd.gradcheck(lambda t: so.kan_linear(x, c[..., :5], B.Gram(4, beta=t)), (beta,))
    with torch.no_grad():
        assert (f(knots) - call(B.BSpline(knots=knots.detach(), order=3))(x, c, w, b)).abs().max() < 1e-12
    with pytest.raises(RuntimeError, match="has no gradient for the table"):
        so.kan_linear(x, c, B.BSpline(knots=knots, order=3), backend="cpu")


def test_only_x_and_the_parameters_are_saved():
    basis = B.BSpline(50, 3)
    args = [t.requires_grad_() for t in problem(basis, (256,), 32, 32)]
    held = {t.untyped_storage().data_ptr() for t in args}
    kept = 0

    def pack(t):
        nonlocal kept
        if t.untyped_storage().data_ptr() not in held:
            kept += t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call(basis)(*args).sum().backward()
    assert kept == 0


# ---- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cubic", "knots", "chebyshev"])
def test_opcheck(name):
    basis = BASES[name]()
    x, c, w, b = problem(basis, (6,), outputs=4)
    code = basis.code(x.dtype, x.device)
    static = (code.numbers, list(code.scalars), 1, 0, "highest")
    g, u = torch.randn(6, 4), torch.randn(6, 3)
    torch.library.opcheck(torch.ops.spectralops.kan_forward.default, (x, u, c, w, b, code.table, *static))
    torch.library.opcheck(torch.ops.spectralops.kan_dx.default, (g, x, u, c, w, code.table, *static))
    torch.library.opcheck(torch.ops.spectralops.kan_dcoeff.default, (g, x, u, code.table, *static))


def test_vmap():
    basis = B.BSpline(4, 3)
    xs = torch.randn(5, 7, 3, dtype=F64)
    _, c, w, b = problem(basis, dtype=F64)
    cs, ws = torch.randn(5, *c.shape, dtype=F64), torch.randn(5, *w.shape, dtype=F64)
    f = call(basis)
    same = lambda got, want: (got - want).abs().max() < 1e-12  # noqa: E731
    assert same(torch.vmap(f, (0, None, None, None))(xs, c, w, b), f(xs, c, w, b))
    assert same(torch.vmap(f, (1, None, None, None), 1)(xs, c, w, b), f(xs, c, w, b))
    assert same(torch.vmap(f, (None, 0, 0, None))(xs[0], cs, ws, b), torch.stack([f(xs[0], *cw, b) for cw in zip(cs, ws)]))
    assert same(torch.vmap(f, (0, 0, None, None))(xs, cs, w, b), torch.stack([f(x, c, w, b) for x, c in zip(xs, cs)]))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: f(x, c, w, b)))(xs[0])
    assert same(jacobian, torch.stack([torch.autograd.functional.jacobian(lambda x: f(x, c, w, b), x) for x in xs[0]]))
    ensembles = torch.func.vmap(torch.func.grad(lambda c, x: f(x, c, w, b).square().sum()), (0, None))(cs, xs[0])
    assert same(ensembles[2], torch.func.grad(lambda c: f(xs[0], c, w, b).square().sum())(cs[2]))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    basis = B.BSpline(4, 3)
    f = torch.compile(call(basis), fullgraph=True, dynamic=dynamic)
    for rows in (5, 9, 13):
        args = [t.requires_grad_() for t in problem(basis, (rows,))]
        y, exact = f(*args), call(basis)(*args)
        assert torch.equal(y, exact)
        for u, v in zip(torch.autograd.grad(y.sum(), args), torch.autograd.grad(exact.sum(), args)):
            assert torch.equal(u, v)
    x, c, w, b = problem(basis, dtype=F64)
    g = torch.compile(lambda x: torch.func.grad(lambda z: call(basis)(z, c, w, b).sum())(x), fullgraph=True)
    assert (g(x) - torch.func.grad(lambda z: call(basis)(z, c, w, b).sum())(x)).abs().max() < 1e-12


def test_export():
    class Layer(torch.nn.Module):
        def forward(self, x, c):
            return so.kan_linear(x, c, B.Chebyshev(3))

    x, c, _, _ = problem(B.Chebyshev(3))
    program = torch.export.export(Layer(), (x, c))
    assert torch.equal(program.module()(x, c), Layer()(x, c))


def test_two_runs_and_any_number_of_threads_agree_bit_for_bit():
    threads = torch.get_num_threads()
    for name in ("cubic", "knots", "chebyshev"):
        basis = BASES[name]()
        args = problem(basis, (1031,), outputs=37)
        try:
            runs = []
            for count in (1, 2, 5, 2):
                torch.set_num_threads(count)
                runs.append(gradients(call(basis, "cpu"), args))
        finally:
            torch.set_num_threads(threads)
        for other in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(runs[0], other))


def test_autocast_leaves_the_dtype_alone():
    basis = B.BSpline(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert call(basis)(*problem(basis)).dtype == torch.float32


# ---- layouts, sizes, special values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["cubic", "chebyshev"])
def test_layouts(name, backend):
    basis = BASES[name]()
    x, c, w, b = problem(basis, (8,), dtype=F64)
    f = call(basis, backend)
    y = f(x, c, w, b)
    wide = torch.full((20, 9), float("nan"), dtype=F64)
    wide[1:17:2, 2:8:2] = x
    strided = [wide[1:17:2, 2:8:2], x.T.contiguous().T]
    c2 = c.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    for v in strided:
        assert (f(v, c2, w.T.contiguous().T, b) - y).abs().max() < 1e-13
    row = x[:1].expand(8, 3)
    assert (f(row, c, w, b) - y[:1]).abs().max() < 1e-13
    assert (f(x, c[:, :1].expand_as(c), w, b) - f(x, c[:, :1].repeat(1, 3, 1), w, b)).abs().max() < 1e-13
    leaf = x.clone().requires_grad_()
    f(leaf, c, w, b).sum().backward()  # an expanded gradient, stride 0
    (dense,) = torch.autograd.grad(f(leaf, c, w, b), leaf, torch.ones_like(y))
    assert torch.equal(leaf.grad, dense)


@pytest.mark.parametrize("rows", [(), (0,), (1,), (2, 0, 3)])
def test_few_rows(rows):
    basis = B.BSpline(4, 3)
    args = [t.requires_grad_() for t in problem(basis, rows)]
    y = call(basis)(*args)
    assert y.shape == (*rows, 5)
    found = torch.autograd.grad(y.sum(), args)
    assert [g.shape for g in found] == [t.shape for t in args] and all(torch.isfinite(g).all() for g in found)
    if 0 in rows:
        assert all(g.abs().sum() == 0 for g in found)
    x, c, w, b = problem(basis, rows, inputs=0)
    assert torch.equal(call(basis)(x, c, w, b), b.expand(*rows, 5))
    assert call(basis)(*problem(basis, rows, outputs=0)).shape == (*rows, 0)


@pytest.mark.parametrize("name", BASES)
def test_special_values_propagate_as_in_the_reference(name):
    basis = BASES[name]()
    x, c, w, b = problem(basis, (9,), dtype=torch.float32)
    for i, value in enumerate((float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-42, -0.0)):
        x[i, i % 3] = value
    if name in ("fourier", "mix"):  # its argument is not reduced exactly beyond a million
        x[3:5] = 1.0
    for base in (w, None):
        for m in (0, 1):
            got, want = (so.kan_linear(x, c, basis, base_weight=base, bias=b, derivative=m, backend=k) for k in (None, "reference"))
            assert torch.equal(got.isnan(), want.isnan()) and (got[0].isnan().all() or name == "haar" and m)
            assert torch.equal(got.isinf(), want.isinf())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 70), inputs=st.integers(1, 9), outputs=st.integers(1, 70), order=st.integers(0, 5), grid=st.integers(1, 40),
    kind=st.sampled_from(["uniform", "knots", "chebyshev", "rbf"]), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_size(rows, inputs, outputs, order, grid, kind, dtype, seed):
    torch.manual_seed(seed)
    knots = torch.rand(inputs, grid + 2 * order + 1, dtype=F64).cumsum(-1) / (grid + 2 * order + 1) * 8 - 2
    basis = {
        "uniform": lambda: B.BSpline(grid, order, -2, 2), "knots": lambda: B.BSpline(knots=knots, order=order),
        "chebyshev": lambda: B.Chebyshev(order), "rbf": lambda: B.RBF(grid),
    }[kind]()  # fmt: skip
    args = problem(basis, (rows,), inputs, outputs, dtype)
    if order == 0:
        args = ((args[0] * 8).round() / 8 + 0.0313, *args[1:])
    got, reference, exact = call(basis, "cpu")(*args), call(basis, "reference")(*args), materialised(*args, basis)
    error, allowed = testing.relative_error(got, exact), testing.relative_error(reference, exact)
    assert error <= 4 * allowed + 2 * torch.finfo(dtype).eps  # one draw: Tally has the rule of two over many


X, C, SPLINE = torch.randn(4, 3), torch.randn(5, 3, 8), B.BSpline(5, 3)
BAD = [
    (lambda: so.kan_linear([1.0], C, SPLINE), TypeError, "x must be a torch.Tensor, got list"),
    (lambda: so.kan_linear(X.int(), C, SPLINE), TypeError, "x must have dtype .* got int32"),
    (lambda: so.kan_linear(X, C, "spline"), TypeError, "basis must be a spectralops.basis.Basis, got str"),
    (lambda: so.kan_linear(X[0, 0], C, SPLINE), ValueError, "x must have at least one dimension"),
    (lambda: so.kan_linear(X, C[0], SPLINE), ValueError, r"coeff must have shape \(O, I, K\); got \(3, 8\)"),
    (lambda: so.kan_linear(X[:, :2], C, SPLINE), ValueError, "last dimension of x, 2, must be the inputs of coeff"),
    (lambda: so.kan_linear(X, C[..., :7], SPLINE), ValueError, "coeff has 7 coefficients an edge, the basis .* has 8"),
    (lambda: so.kan_linear(X, C.double(), SPLINE), TypeError, "coeff is float64 but x is float32"),
    (lambda: so.kan_linear(X, C, SPLINE, base_weight=torch.randn(3, 5)), ValueError, r"base_weight must have shape \(O, I\)"),
    (lambda: so.kan_linear(X, C, SPLINE, bias=torch.randn(3)), ValueError, r"bias must have shape \(O,\) = \(5,\); got \(3,\)"),
    (lambda: so.kan_linear(X, C, SPLINE, base_activation="mish"), ValueError, "base_activation must be one of"),
    (lambda: so.kan_linear(X, C, SPLINE, precision="low"), ValueError, "precision must be one of"),
    (lambda: so.kan_linear(X, C, SPLINE, derivative=-1), ValueError, "derivative must not be negative; got -1"),
    (lambda: so.kan_linear(X, C, SPLINE, derivative=1.0), TypeError, "derivative must be an int"),
    (lambda: so.kan_linear(X, C.to("meta"), SPLINE), ValueError, "coeff is on meta but x is on cpu"),
    (lambda: so.kan_linear(X, C, SPLINE, backend="cudnn"), ValueError, "backend must be None or one of"),
    (lambda: so.kan_linear(X, C, SPLINE, backend="cuda"), RuntimeError, "backend 'cuda' cannot run kan_forward"),
    (lambda: so.kan_linear(X.to_sparse(), C, SPLINE), TypeError, "dense"),
    (lambda: so.kan_linear(X, C, B.BSpline(knots=torch.rand(2, 12).sort(-1)[0])), ValueError, "knots are for 2 inputs, x has 3"),
]


@pytest.mark.parametrize("call, error, text", BAD)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_explain():
    text = so.explain("kan_linear", X, C, SPLINE)
    assert "kan_forward on cpu, float32 4x3: cpu (chosen automatically)" in text
