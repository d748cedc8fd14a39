"""The learnable activations through their public functions: values, derivatives, layouts, transforms, bad input."""

import math

import pytest
import torch
from activations_cases import CASES, SHARED_ONLY, derivatives, exact, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import testing
from spectralops.ops import activations_reference as spec

BACKENDS = ["reference", None]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = [((5, 7), None, -1), ((3, 4, 6), 6, -1), ((3, 4, 6), 4, 1), ((2, 3, 70), 3, 1)]  # shape, channels, dim


def cases():
    for name in CASES:
        for shape, channels, dim in LAYOUTS:
            if channels is None or name not in SHARED_ONLY:
                yield pytest.param(name, shape, channels, dim, id=f"{name} {shape} {channels}")


# ---- values and derivatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, shape, channels, dim", cases())
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_against_numpy(name, shape, channels, dim, backend):
    for dtype in FLOATS:
        x, params = inputs(name, shape, dtype, channels)
        with testing.poison():
            y = CASES[name][0](x, params, dim=dim, backend=backend)
        truth = exact(name, x, params, dim)
        assert y.dtype == dtype and y.shape == truth.shape and y.is_contiguous()
        # some ten roundings in the compute dtype, or the one to 16 bits
        assert testing.relative_error(y, truth) <= (8 if dtype.itemsize > 2 else 1) * torch.finfo(dtype).eps


@pytest.mark.parametrize("name, shape, channels, dim", cases())
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(name, shape, channels, dim, backend):
    shape = tuple(min(n, 6) for n in shape)
    if channels is not None and shape[dim] != channels:
        channels = shape[dim]
    x, params = inputs(name, shape[-2:] if channels is None else shape, torch.float64, channels)
    leaves = [t.requires_grad_() for t in (x, *params)]
    f = lambda x, *p: CASES[name][0](x, p, dim=dim, backend=backend)  # noqa: E731
    torch.autograd.gradcheck(f, leaves, fast_mode=True)
    torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_first_and_second_derivatives_within_twice_the_reference(name, dtype):
    tally = testing.Tally()
    for shape, channels, dim in [((19, 33), None, -1), ((7, 24), 24, -1), ((3, 4, 40), 4, 1)] * 8:
        channels = None if name in SHARED_ONLY else channels
        x, params = inputs(name, shape, dtype, channels)
        g = torch.randn_like(CASES[name][0](x, params, dim=dim))
        seeds = [torch.randn_like(t) for t in (x, *params)]
        with testing.poison():
            got = derivatives(name, None, x, params, g, seeds, dim)
        reference = derivatives(name, "reference", x, params, g, seeds, dim, torch.float32 if dtype == torch.float64 else None)
        truth = derivatives(name, "reference", x, params, g, seeds, dim, torch.float64)
        for i, (u, v, w) in enumerate(zip(got, reference, truth)):
            tally.add(f"output {i}", u, v, w)
    tally.check()


def test_the_second_pass_is_one_pass_and_the_third_is_refused():
    x, a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.ones((), dtype=torch.float64)

    def third(backend):
        y = so.snake(x, a, backend=backend).sum()
        for _ in range(3):
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y

    with pytest.raises(NotImplementedError, match="third derivative.*backend='reference'"):
        third(None)
    torch.testing.assert_close(third("reference"), -4 * torch.sin(2 * x))


# ---- where each function is peculiar ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_snake_near_alpha_zero(backend, dtype):
    mp = pytest.importorskip("mpmath")
    x = torch.tensor([-3.0, -0.5, 0.0, 1e-3, 2.0], dtype=dtype)
    eps = torch.finfo(dtype).eps
    with mp.workdps(60):
        for alpha in (0.0, 1e-30, 1e-12, -1e-6, 1e-3, 0.3, 0.6, 2.0):
            a = torch.full((), alpha, dtype=dtype, requires_grad=True)
            z = x.clone().requires_grad_()
            y = so.snake(z, a, backend=backend)
            for i in range(len(x)):
                v, al = mp.mpf(z[i].item()), mp.mpf(a.item())
                first = torch.autograd.grad(y[i], (z, a), create_graph=True)
                second = torch.autograd.grad(first[1], (z, a), retain_graph=True)
                got = [y[i].item(), first[0][i].item(), first[1].item(), second[0][i].item(), second[1].item()]
                t = al * v
                if al == 0:
                    want = [v, 1, v * v, 2 * v, 0]
                else:
                    f_a = v * mp.sin(2 * t) / al - mp.sin(t) ** 2 / al**2
                    f_aa = 2 * v * v * mp.cos(2 * t) / al - 2 * v * mp.sin(2 * t) / al**2 + 2 * mp.sin(t) ** 2 / al**3
                    want = [v + mp.sin(t) ** 2 / al, 1 + mp.sin(2 * t), f_a, 2 * v * mp.cos(2 * t), f_aa]
                for power, (u, w) in enumerate(zip(got, want)):
                    scale = max(abs(w), abs(v) ** max(power - 1, 1))
                    assert abs(u - w) <= 16 * eps * scale, (alpha, float(v), power, u, float(w))


@pytest.mark.parametrize("backend", BACKENDS)
def test_spder_at_zero(backend):
    x = torch.tensor([0.0, -0.0, 1e-12, -2.0], dtype=torch.float64, requires_grad=True)
    y = so.spder(x, backend=backend)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert y[:2].eq(0).all() and first[:2].eq(0).all() and second[:2].eq(0).all()
    torch.testing.assert_close(first[2].item(), 1.5e-6)  # 3/2 |x|^(1/2)
    torch.testing.assert_close(second[2].item(), 0.75e6)
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_square_wave_has_the_sines_derivatives(backend):
    x = torch.tensor([-2.0, -0.3, 0.0, 0.4, 3.5, float("nan")], dtype=torch.float64, requires_grad=True)
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    y = so.square_wave(x, w, backend=backend)
    assert y[:5].tolist() == [-1, -1, 0, 1, -1] and y[5].isnan()
    results = []
    for f in (so.square_wave, so.sine):
        first = torch.autograd.grad(f(x, w, backend=backend)[:5].sum(), (x, w), create_graph=True)
        results.append((*first, *torch.autograd.grad(first[0][:5].sum() + first[1], (x, w))))
    for u, v in zip(*results):
        torch.testing.assert_close(u, v, equal_nan=True)


def test_wire_takes_complex_tensors():
    z = torch.randn(3, 5, dtype=torch.complex128, requires_grad=True)
    y = so.wire(z, 2.0, 0.7)
    assert y.shape == (3, 5, 2) and not y.is_complex()
    torch.testing.assert_close(torch.view_as_complex(y), torch.exp(2j * z) * torch.exp(-((0.7 * z.abs()) ** 2)))
    (dz,) = torch.autograd.grad(y[..., 0].sum(), z)
    w = z.detach().clone().requires_grad_()
    (expect,) = torch.autograd.grad((torch.exp(2j * w) * torch.exp(-((0.7 * w.abs()) ** 2))).real.sum(), w)
    torch.testing.assert_close(dz, expect)


def test_poly_relu_of_any_degree():
    for degree in (0, 1, 9, 24):
        x, a = torch.randn(40, dtype=torch.float64), torch.randn(degree + 1, dtype=torch.float64)
        expect = sum(c * x.clamp(min=0) ** i for i, c in enumerate(a))
        torch.testing.assert_close(so.poly_relu(x, a), expect)


def test_numbers_have_no_gradient_and_cost_no_sums():
    x = torch.randn(4, 6, requires_grad=True)
    (dx,) = torch.autograd.grad(so.cauchy(x, 1.0, 0.5, 2).sum(), x)
    y = so.cauchy(x, torch.ones(6), torch.tensor(0.5), torch.full((1,), 2.0))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], dx)
    grad, dparams = torch.ops.spectralops.activation_backward(torch.ones_like(x), x.detach(), torch.ones(1, 6), spec.SINE, 1, False)
    assert dparams.numel() == 0 and grad.shape == x.shape


# ---- layouts, dtypes, memory -----------------------------------------------------------------------------------------


def test_backward_saves_the_input_and_the_parameters_only():
    for name in CASES:
        x, params = inputs(name, (8, 32), torch.float32, None)
        leaves = [t.requires_grad_() for t in (x, *params)]
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # noqa: B023
            CASES[name][0](x, params)
        big = [t for t in saved if t.numel() > 8]
        assert [t.data_ptr() for t in big] == [leaves[0].data_ptr()], name


@pytest.mark.parametrize("name", CASES)
def test_layouts_do_not_matter(name):
    channels = None if name in SHARED_ONLY else 5
    x, params = inputs(name, (3, 5, 8), torch.float32, channels)
    expect = CASES[name][0](x, params, dim=1)
    for what, view in testing.layouts(x):
        before = view.clone()
        assert torch.equal(CASES[name][0](view, params, dim=1), expect), what
        assert torch.equal(view, before), f"{what}: the input was written"
    assert torch.equal(CASES[name][0](x[:1].expand(4, *x.shape[1:]), params, dim=1), expect[:1].expand(4, *expect.shape[1:]))
    z, w = (x.clone().requires_grad_() for _ in range(2))
    CASES[name][0](z, params, dim=1).sum().backward()  # a gradient of stride 0 everywhere
    CASES[name][0](w, params, dim=1).backward(torch.ones_like(expect))
    assert torch.equal(z.grad, w.grad)


@settings(max_examples=60, deadline=None)
@given(
    x=testing.tensors(st.lists(st.integers(1, 9), min_size=0, max_size=3).map(tuple), dtypes=FLOATS),
    name=st.sampled_from([n for n in CASES if n != "wire complex"]),
    dim=st.integers(0, 2),
    own=st.booleans(),
)
def test_any_tensor(x, name, dim, own):
    dim = dim % x.dim() if x.dim() else 0
    own = own and x.dim() and name not in SHARED_ONLY
    _, params = inputs(name, (1,), x.dtype, x.shape[dim] if own else None)
    extra = {} if x.dim() == 0 else {"dim": dim}
    testing.assert_within(
        CASES[name][0](x, params, **extra), CASES[name][0](x, params, backend="reference", **extra),
        exact(name, x, params, dim).reshape((*x.shape, *((2,) if name == "wire" else ()))), factor=8,
    )  # fmt: skip


def test_empty_scalar_and_single():
    for name in CASES:
        for shape in [(0,), (0, 5), (3, 0)]:
            x, params = inputs(name, shape, torch.float32)
            leaves = [t.requires_grad_() for t in (x, *params)]
            y = CASES[name][0](x, params)
            assert y.shape == (x.shape if name != "wire" else (*x.shape, 2))
            first = torch.autograd.grad(y.sum(), leaves, create_graph=True)
            assert [t.shape for t in first] == [t.shape for t in leaves] and all(t.eq(0).all() for t in first)
            torch.autograd.grad(sum(t.sum() for t in first), leaves, allow_unused=True)
        x, params = inputs(name, (), torch.float32)
        one = CASES[name][0](x[None], params)
        assert torch.equal(CASES[name][0](x, params), one[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameter_gradients_have_the_parameters_dtype_and_shape(dtype):
    x = torch.randn(64, 32, dtype=torch.bfloat16)
    for shape in ((), (1,), (32,)):
        a = torch.ones(shape, dtype=dtype, requires_grad=True)
        so.snake(x, a).float().sum().backward()
        assert a.grad.dtype == dtype and a.grad.shape == shape and a.grad.abs().sum() > 0


def test_nan_and_infinity_as_in_the_reference():
    for name in CASES:
        x, params = inputs(name, (4, 40), torch.float32)
        flat = x.view(-1)
        flat[3], flat[45], flat[70] = float("nan"), float("inf"), -float("inf")
        y, expect = (CASES[name][0](x, params, backend=b) for b in (None, "reference"))
        assert torch.equal(y.isnan(), expect.isnan()) and y[0].isnan().any(), name
        assert torch.isfinite(y[2:]).all()


# ---- torch.func, torch.compile ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_func_transforms(name):
    channels = None if name in SHARED_ONLY else 4
    x, params = inputs(name, (5, 4, 6), torch.float64, channels)
    loss = lambda backend: lambda x, *p: CASES[name][0](x, p, dim=0, backend=backend).square().sum()  # noqa: E731
    close = torch.testing.assert_close
    numbers = tuple(range(1 + len(params)))
    for dims in [(0, *(None,) * len(params))]:
        got, expect = (torch.func.vmap(torch.func.grad(loss(b), numbers), dims)(x, *params) for b in BACKENDS)
        close(got, expect)
    if params:
        many = [torch.stack([p * (1 + 0.1 * i) for i in range(5)]) for p in params]
        for dims in [(0, *(0,) * len(params)), (None, *(0,) * len(params))]:
            z = x if dims[0] == 0 else x[0]
            got, expect = (torch.func.vmap(torch.func.grad(loss(b), numbers), dims)(z, *many) for b in BACKENDS)
            close(got, expect)
    v = torch.randn(*(4, 2) if name == "wire complex" else (4,), dtype=torch.float64)
    one = [p.flatten()[0] for p in params]
    total = lambda b: lambda z: CASES[name][0](z, one, backend=b).sum()  # noqa: E731
    hessian = [torch.func.jacrev(torch.func.jacrev(total(b)))(v) for b in BACKENDS]
    close(*hessian)


def test_func_inside_compile_and_forward_mode():
    torch._dynamo.reset()
    x, a = torch.randn(4, 6), torch.rand(6)
    f = lambda x, a: torch.func.grad(lambda x, a: so.snake(x, a).square().sum(), (0, 1))(x, a)  # noqa: E731
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x, a), f(x, a))
    with pytest.raises(Exception, match="jvp"):
        torch.func.jvp(lambda x: so.snake(x, a), (x,), (torch.ones_like(x),))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    torch._dynamo.reset()
    a, w = torch.rand(16, requires_grad=True), torch.rand((), requires_grad=True)

    def model(x):
        return so.wire(so.cauchy(so.snake(x * 2, a), w, 0.5, 1.0), w, 0.3).relu()

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (5, 9) if dynamic else (5,):
        x = torch.randn(rows, 16, requires_grad=True)
        z = x.detach().clone().requires_grad_()
        torch.testing.assert_close(compiled(x), model(z))
        got = torch.autograd.grad(compiled(x).sum(), (x, a, w))
        torch.testing.assert_close(got, torch.autograd.grad(model(z).sum(), (z, a, w)))


def test_opcheck():
    ops, cauchy = torch.ops.spectralops, spec.CAUCHY
    p = torch.rand(3, 4) + 0.5
    for z in (torch.randn(3, 4, 6), torch.randn(6, 4, 3).transpose(0, 2), torch.randn(0, 4, 2)):
        h = torch.randn_like(z)
        torch.library.opcheck(ops.activation_forward, (z, p, cauchy, 1))
        torch.library.opcheck(ops.activation_backward, (h, z, p, cauchy, 1, True))
        torch.library.opcheck(ops.activation_double_backward, (h, p, h, z, p, cauchy, 1, True))
        torch.library.opcheck(ops.activation_double_backward, (h, None, h, z, p, cauchy, 1, False))
    z, pair, p = torch.randn(3, 4), torch.randn(3, 4, 2), torch.rand(2, 1)
    torch.library.opcheck(ops.activation_forward, (z, p, spec.WIRE, 1))
    torch.library.opcheck(ops.activation_backward, (pair, z, p, spec.WIRE, 1, True))
    torch.library.opcheck(ops.activation_double_backward, (pair, p, pair, pair, p, spec.WIRE_COMPLEX, 1, True))


def test_two_runs_agree_bit_for_bit():
    for name in CASES:
        x, params = inputs(name, (77, 96), torch.float32)
        leaves = [t.requires_grad_() for t in (x, *params)]
        runs = [torch.autograd.grad(CASES[name][0](x, params).sum(), leaves) for _ in range(2)]
        assert all(torch.equal(u, v) for u, v in zip(*runs))


def test_autocast_keeps_the_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert so.snake(torch.randn(3, 4), 1.0).dtype == torch.float32


# ---- bad input -------------------------------------------------------------------------------------------------------

X = torch.ones(2, 12)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: so.snake([1.0], 1.0), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: so.snake(X.long(), 1.0), TypeError, "x must have dtype float32, .*; got int64"),
        (lambda: so.snake(X, "a"), TypeError, "alpha must be a number or a torch.Tensor, got str"),
        (lambda: so.snake(X, True), TypeError, "alpha must be a number or a torch.Tensor, got bool"),
        (lambda: so.snake(X, torch.ones(12, dtype=torch.float64)), TypeError, "alpha is float64 but x is float32"),
        (lambda: so.snake(X, torch.ones(5)), ValueError, "alpha has 5 values, one a channel, but x has size 12 in dimension 1"),
        (lambda: so.snake(X, torch.ones(12), dim=0), ValueError, "alpha has 12 values, .* size 2 in dimension 0"),
        (lambda: so.snake(X, torch.ones(2, 12)), ValueError, r"alpha must be a number or have shape \(\) or \(channels,\); got \(2, 12\)"),
        (lambda: so.snake(X, torch.ones(0)), ValueError, r"alpha must be .* got \(0,\)"),
        (lambda: so.snake(torch.tensor(1.0), torch.ones(3)), ValueError, "alpha has 3 values, .* x has no dimension"),
        (lambda: so.snake(X, 1.0, dim=2), ValueError, r"dim must be in \[-2, 1\]"),
        (lambda: so.sine(X, torch.ones(12, device="meta")), ValueError, "omega is on meta but x is on cpu"),
        (lambda: so.cauchy(X, 1.0, 1.0, torch.ones(3)), ValueError, "d has 3 values"),
        (lambda: so.poly_relu(X, torch.ones(2, 2)), ValueError, r"a must have shape \(degree \+ 1,\) .*; got \(2, 2\)"),
        (lambda: so.poly_relu(X, 1.0), TypeError, "a must be a torch.Tensor, got float"),
        (lambda: so.wire(X, 1.0, 1.0, complex_input=True), ValueError, r"x must have a trailing dimension of 2 .*; got \(2, 12\)"),
        (lambda: so.spder(X, backend="gpu"), ValueError, "backend must be None or one of .*; got 'gpu'"),
        (lambda: so.spder(X, backend="triton"), RuntimeError, "backend 'triton' cannot run activation_forward: "),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_explain():
    text = so.explain("snake", X, 1.0)
    assert "activation_forward on cpu, float32" in text and "chosen automatically" in text
    assert math.prod(X.shape) == 24


def test_fan_and_fourier_features_have_shapes_on_the_meta_device():
    x, w = torch.randn(3, 4, device="meta"), torch.randn(2, 4, device="meta")
    assert so.fan(x, w, w, w[:, 0]).shape == (3, 6) and so.fourier_features(x, w).is_meta
