"""`rational` through its public function: values, first and second derivatives, vmap, compile, layouts, bad input."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import testing
from spectralops.ops import rational_reference as spec

BACKENDS = ["reference", "cpu"]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def textbook(x, a, b, version):
    """The formula in numpy float64, power by power; not ours."""
    x, a, b = (np.asarray(t.detach().double().cpu()) for t in (x, a, b))
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    groups = max(len(a), len(b))
    a, b = (np.repeat(np.broadcast_to(c, (groups, c.shape[1])), x.shape[-1] // groups, 0) for c in (a, b))  # (D, number)
    p = sum(a[:, i] * x**i for i in range(a.shape[1]))
    if version == "A":
        q = 1 + sum(np.abs(b[:, i]) * np.abs(x) ** (i + 1) for i in range(b.shape[1]))
    elif version == "B":
        q = 1 + np.abs(sum(b[:, i] * x ** (i + 1) for i in range(b.shape[1])))
    elif version == "C":
        q = 0.1 + np.abs(sum(b[:, i] * x**i for i in range(b.shape[1])))
    else:
        q = 1 + sum(b[:, i] * x ** (i + 1) for i in range(b.shape[1])) ** 2
    return torch.from_numpy(p / q)


def problem(shape, degrees=(5, 4), groups=(1, 1), version="A", dtype=torch.float32, device="cpu", coefficients=None):
    m, n = degrees
    coefficients = coefficients or (torch.float64 if dtype == torch.float64 else torch.float32)
    make = lambda *s: torch.randn(*s, dtype=torch.float64)  # noqa: E731
    return (
        make(*shape).to(dtype).to(device),
        make(groups[0], m + 1).to(coefficients).to(device),
        (0.5 * make(groups[1], n + (version == "C"))).to(coefficients).to(device),
    )


@pytest.mark.parametrize("version", spec.VERSIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("degrees", [(5, 4), (3, 2), (7, 6), (2, 3), (0, 1), (9, 8)])
def test_values_against_the_textbook(version, backend, degrees):
    tally = testing.Tally()
    for _ in range(4):
        for groups, shape in [((1, 1), (7, 33)), ((1, 4), (2, 3, 20)), ((3, 3), (5, 3)), ((4, 1), (65, 68))]:
            for dtype in FLOATS:
                x, a, b = problem(shape, degrees, groups, version, dtype)
                with testing.poison():
                    y = so.rational(x, a, b, version=version, backend=backend)
                reference = so.rational(x, a, b, version=version, backend="reference")
                assert y.dtype == dtype and y.shape == x.shape
                tally.add(str(dtype), y, reference, textbook(x, a, b, version))
                assert y.abs().max() > 0
    tally.check()


@pytest.mark.parametrize("version", spec.VERSIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_gradcheck_and_gradgradcheck(version, backend, groups):
    x, a, b = (t.requires_grad_() for t in problem((4, 6), (3, 2), groups, version, torch.float64))
    f = lambda *args: so.rational(*args, version=version, backend=backend)  # noqa: E731
    torch.autograd.gradcheck(f, (x, a, b))
    torch.autograd.gradgradcheck(f, (x, a, b))


NAMES = ["y", "dx", "da", "db", "ddx", "dda", "ddb", "dgrad"]


def derivatives(backend, version, tensors, to=None):
    """y, first derivatives, and the second ones of <h, first>; everything cast to `to`."""
    x, a, b, g, *seeds = (t if to is None else t.to(to) for t in tensors)
    leaves = [t.detach().clone().requires_grad_() for t in (x, a, b, g)]
    y = so.rational(*leaves[:3], version=version, backend=backend)
    first = torch.autograd.grad(y, leaves[:3], leaves[3], create_graph=True)
    return [y, *first, *torch.autograd.grad(first, leaves, [s.to(u.dtype) for s, u in zip(seeds, first)])]


@pytest.mark.parametrize("version", spec.VERSIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_first_and_second_derivatives_within_twice_the_reference(version, dtype):
    tally = testing.Tally()
    for degrees, groups, shape in [((5, 4), (1, 8), (19, 96)), ((7, 6), (2, 2), (130, 6)), ((4, 5), (1, 1), (3, 257))] * 6:
        x, a, b = problem(shape, degrees, groups, version, dtype)
        tensors = (x, a, b, torch.randn_like(x), torch.randn_like(x), torch.randn_like(a), torch.randn_like(b))
        with testing.poison():
            got = derivatives("cpu", version, tensors)
        reference = derivatives("reference", version, tensors, torch.float32 if dtype == torch.float64 else None)
        for name, u, v, w in zip(NAMES, got, reference, derivatives("reference", version, tensors, torch.float64)):
            tally.add(name, u, v, w)
    tally.check()


@pytest.mark.parametrize("backend", BACKENDS)
def test_sign_at_zero_is_the_callers_choice(backend):
    for version in ("A", "B", "C"):
        x = torch.tensor([[0.0, 1.0, -2.0, 0.0]], requires_grad=True)
        a, b = torch.randn(1, 6, requires_grad=True), torch.zeros(1, 5 if version == "C" else 4, requires_grad=True)
        grads = {}
        for at_zero in (0, 1):
            y = so.rational(x, a, b, version=version, sign_at_zero=at_zero, backend=backend)
            grads[at_zero] = torch.autograd.grad(y.sum(), (x, a, b))
        assert torch.equal(grads[0][2], torch.zeros_like(b)), "torch.abs has derivative 0 at 0"
        assert grads[1][2].abs().min() > 0, "with sign(0) = 1 coefficients that start at zero learn"
        z = x.detach().requires_grad_()
        own = torch.autograd.grad(spec.forward(z, a, b, spec.VERSIONS.index(version), 0).sum(), z)[0]
        torch.testing.assert_close(grads[0][0], own)


def test_backward_saves_the_input_and_the_coefficients_only():
    x, a, b = (t.requires_grad_() for t in problem((8, 32), groups=(1, 4)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        so.rational(x, a, b)
    assert sorted(t.data_ptr() for t in saved) == sorted(t.data_ptr() for t in (x, a, b))


def test_two_runs_and_any_thread_count_agree_bit_for_bit():
    x, a, b = (t.requires_grad_() for t in problem((777, 96), groups=(1, 8)))
    g = torch.randn_like(x)
    threads = torch.get_num_threads()
    runs = []
    try:
        for n in (1, 2, 3, 2):
            torch.set_num_threads(n)
            runs.append(torch.autograd.grad(so.rational(x, a, b, backend="cpu"), (x, a, b), g))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(u, v) for u, v in zip(runs[0], other))


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_do_not_matter(backend):
    x, a, b = problem((3, 4, 24), groups=(1, 4))
    expect = so.rational(x, a, b, backend=backend)
    for name, view in testing.layouts(x):
        before = view.clone()
        assert torch.equal(so.rational(view, a, b, backend=backend), expect), name
        assert torch.equal(view, before), f"{name}: the input was written"
    row = torch.randn(24)
    assert torch.equal(
        so.rational(row.expand(5, 24), a, b, backend=backend), so.rational(row, a, b, backend=backend).expand(5, 24)
    )
    z = x.clone().requires_grad_()
    so.rational(z, a, b, backend=backend).sum().backward()  # a gradient of stride 0 everywhere
    w = x.clone().requires_grad_()
    so.rational(w, a, b, backend=backend).backward(torch.ones_like(x))
    assert torch.equal(z.grad, w.grad)


def test_any_tensor():
    """Any shape and layout; a single draw of a few elements may be unlucky, so all draws are judged together."""
    tally = testing.Tally()

    @settings(max_examples=60, deadline=None)
    @given(
        x=testing.tensors(st.lists(st.integers(1, 9), min_size=0, max_size=3).map(lambda s: (*s, 12)), dtypes=FLOATS),
        groups=st.sampled_from([1, 2, 3, 4, 12]),
        version=st.sampled_from(spec.VERSIONS),
    )
    def each(x, groups, version):
        torch.manual_seed(0)
        _, a, b = problem((1,), (4, 3), (groups, 1), version, x.dtype)
        narrow = (t.float() if x.dtype == torch.float64 else t for t in (x, a, b))
        reference = so.rational(*narrow, version=version, backend="reference")
        tally.add("y", so.rational(x, a, b, version=version), reference, textbook(x, a, b, version))

    each()
    tally.check()


def test_empty_scalar_and_single():
    _, a, b = problem((1,))
    for shape in [(0,), (0, 5), (3, 0), (2, 0, 4)]:
        x = torch.empty(shape, requires_grad=True)
        y = so.rational(x, a.requires_grad_(), b)
        assert y.shape == x.shape
        dx, da = torch.autograd.grad(y.sum(), (x, a))
        assert dx.shape == x.shape and da.abs().sum() == 0
    x = torch.tensor(0.7, requires_grad=True)
    y = so.rational(x, a, b)
    assert y.shape == () and torch.allclose(y, so.rational(x[None], a, b)[0])
    y.backward()
    assert x.grad.shape == ()
    assert so.rational(torch.ones(1, 1, 1), a, b).shape == (1, 1, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_as_in_the_reference(backend):
    _, a, b = problem((1,))
    x = torch.randn(4, 40)
    x[0, 3], x[1, 5], x[2, 39] = float("nan"), float("inf"), -float("inf")
    y = so.rational(x, a, b, backend=backend)
    assert torch.equal(torch.isnan(y), torch.isnan(so.rational(x, a, b, backend="reference")))
    assert torch.isfinite(y[3]).all()


@pytest.mark.parametrize("coefficients", [torch.float32, torch.bfloat16])
def test_coefficient_gradients_have_the_coefficients_dtype_and_shape(coefficients):
    x, a, b = problem((64, 32), dtype=torch.bfloat16, coefficients=coefficients)
    for shape in ["1-D", "2-D"]:
        num, den = (t[0].clone() if shape == "1-D" else t.clone() for t in (a, b))
        num.requires_grad_(), den.requires_grad_()
        so.rational(x, num, den).float().sum().backward()
        for p in (num, den):
            assert p.grad.dtype == coefficients and p.grad.shape == p.shape and p.grad.abs().sum() > 0


def test_func_transforms():
    x, a, b = problem((5, 12), groups=(1, 3), dtype=torch.float64)
    loss = lambda x, a, b: so.rational(x, a, b).square().sum()  # noqa: E731
    plain = lambda x, a, b: so.rational(x, a, b, backend="reference").square().sum()  # noqa: E731
    close = lambda u, v: torch.testing.assert_close(u, v)  # noqa: E731
    close(torch.func.grad(loss, (0, 1, 2))(x, a, b), torch.func.grad(plain, (0, 1, 2))(x, a, b))
    per_sample = torch.func.vmap(torch.func.grad(loss, (1, 2)), in_dims=(0, None, None))
    close(per_sample(x, a, b), torch.func.vmap(torch.func.grad(plain, (1, 2)), in_dims=(0, None, None))(x, a, b))
    many = (torch.randn(4, 1, 6, dtype=torch.float64), torch.randn(4, 3, 4, dtype=torch.float64))
    x3 = torch.randn(2, 7, 12, dtype=torch.float64)
    for dims in [(None, 0, 0), (0, None, None), (1, None, None), (None, 0, None)]:
        args = [t if d is None or i == 0 else many[i - 1] for i, (t, d) in enumerate(zip((x3, a, b), dims))]
        f = lambda *v: so.rational(*v)  # noqa: E731
        r = lambda *v: so.rational(*v, backend="reference")  # noqa: E731
        close(torch.func.vmap(f, dims)(*args), torch.func.vmap(r, dims)(*args))
    v = torch.randn(6, dtype=torch.float64)
    s, t = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    hessian = torch.func.jacrev(torch.func.jacrev(lambda z: so.rational(z, s, t, version="smooth").sum()))(v)
    close(hessian, torch.func.jacrev(torch.func.jacrev(lambda z: so.rational(z, s, t, version="smooth", backend="reference").sum()))(v))


def test_a_third_derivative_is_refused_and_the_reference_has_it():
    x, a, b = (t.requires_grad_() for t in problem((3, 4), (3, 2), dtype=torch.float64))

    def third(backend):
        y = so.rational(x, a, b, version="smooth", backend=backend).sum()
        for _ in range(3):
            (y,) = torch.autograd.grad(y, x, create_graph=True)
            y = y.sum()
        return y

    with pytest.raises(NotImplementedError, match="third derivative.*backend='reference'"):
        third("cpu")
    assert third("reference").isfinite()


def test_opcheck():
    x, a, b = problem((6, 12), groups=(1, 3))
    ops = torch.ops.spectralops
    for z in (x, x.t().contiguous().t(), x[::2], x[:0]):
        h = torch.randn_like(z)
        torch.library.opcheck(ops.rational_forward, (z, a, b, 0))
        torch.library.opcheck(ops.rational_backward, (h, z, a, b, 1, 0))
        torch.library.opcheck(
            ops.rational_double_backward, (h, torch.randn_like(a), torch.randn_like(b), h, z, a, b, 0, 0)
        )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    torch._dynamo.reset()
    _, a, b = (t.requires_grad_() for t in problem((1,), groups=(1, 4)))

    def model(x):
        return so.rational(x * 2, a, b, version="B").relu()

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for rows in (5, 9) if dynamic else (5,):
        x = torch.randn(rows, 16, requires_grad=True)
        z = x.detach().clone().requires_grad_()
        torch.testing.assert_close(compiled(x), model(z))
        got = torch.autograd.grad(compiled(x).sum(), (x, a, b))
        torch.testing.assert_close(got, torch.autograd.grad(model(z).sum(), (z, a, b)))


def test_autocast_keeps_the_dtype():
    x, a, b = problem((4, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert so.rational(x, a, b).dtype == torch.float32
        assert so.rational(x.bfloat16(), a, b).dtype == torch.bfloat16


GOOD = dict(x=torch.ones(2, 12), numerator=torch.ones(1, 6), denominator=torch.ones(3, 4))


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(x=[1.0]), TypeError, "x must be a torch.Tensor, got list"),
        (dict(x=torch.ones(2, 12, dtype=torch.int64)), TypeError, "x must have dtype float32, .*; got int64"),
        (dict(x=torch.ones(2, 12).to_sparse()), TypeError, "x must be a dense"),
        (dict(numerator=torch.ones(1, 6, dtype=torch.complex64)), TypeError, "numerator must have dtype"),
        (dict(numerator=torch.ones(1, 6, dtype=torch.float64)), TypeError, "numerator is float64 but x is float32"),
        (dict(numerator=torch.ones(1, 1, 6)), ValueError, r"numerator must have shape .*; got \(1, 1, 6\)"),
        (dict(numerator=torch.ones(1, 0)), ValueError, r"numerator .*at least one coefficient; got \(1, 0\)"),
        (dict(denominator=torch.tensor(1.0)), ValueError, r"denominator must have shape .*; got \(\)"),
        (dict(numerator=torch.ones(2, 6)), ValueError, "numerator has 2 groups and denominator 3"),
        (dict(x=torch.ones(2, 10)), ValueError, "last dimension of x, 10, must be a multiple of the number of groups, 3"),
        (dict(version="D"), ValueError, "version must be one of 'A', 'B', 'C', 'smooth'; got 'D'"),
        (dict(sign_at_zero=2), ValueError, "sign_at_zero must be one of 0, 1; got 2"),
        (dict(denominator=torch.ones(3, 4, device="meta")), ValueError, "denominator is on meta but x is on cpu"),
        (dict(backend="gpu"), ValueError, "backend must be None or one of .*; got 'gpu'"),
    ],
)
def test_bad_input_is_named(change, error, text):
    with pytest.raises(error, match=text):
        so.rational(**{**GOOD, **change})


def test_a_backend_asked_for_by_hand_raises_where_it_cannot():
    for backend in ("cuda", "triton", "cupy"):
        with pytest.raises(RuntimeError, match=f"backend '{backend}' cannot run rational_forward: "):
            so.rational(**GOOD, backend=backend)


def test_explain_tells_every_reason():
    text = so.explain("rational", **GOOD)
    assert "rational_forward on cpu, float32" in text and "chosen automatically" in text
    for name in ("cuda", "triton", "cupy", "cpu", "reference"):
        assert f"  {name}" in text
    assert "asked for" in so.explain("rational", **GOOD, backend="reference") or "reference" in text
    big = dict(GOOD, numerator=torch.ones(1, 60))
    assert "degrees above" in so.explain("rational", **big)
    assert so.rational(**big).shape == (2, 12)  # the reference took it
    with pytest.raises(ValueError, match="op_name must be one of"):
        so.explain("nothing")


def test_every_combination_of_shared_and_own_coefficients():
    x = torch.randn(6, 24)
    for gn, gd, version in itertools.product((1, 4), (1, 4), spec.VERSIONS):
        _, a, b = problem((1,), groups=(gn, gd), version=version)
        y = so.rational(x, a, b, version=version)
        whole = so.rational(x, a.expand(4, -1), b.expand(4, -1), version=version)
        assert torch.equal(y, whole), (gn, gd, version)
        assert testing.relative_error(y, textbook(x, a, b, version)) < 1e-5


def test_an_outer_level_differentiates_through_vmap():
    x, a, b = problem((5, 12), groups=(1, 3), dtype=torch.float64)
    f = lambda backend: lambda x, a: torch.vmap(lambda r: so.rational(r, a, b, backend=backend))(x).square().sum()  # noqa: E731
    got, expect = (torch.func.grad(f(k), (0, 1))(x, a) for k in ("cpu", "reference"))
    torch.testing.assert_close(got, expect)
    assert got[0].abs().sum() > 0
    z = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(f("cpu")(z, a), z)
    torch.testing.assert_close(plain, expect[0])


def test_an_ensemble_trains_every_layer():
    from torch.func import functional_call, stack_module_state

    from spectralops.nn import Rational

    make = lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), Rational(2), torch.nn.Linear(8, 1))  # noqa: E731
    models = [make() for _ in range(3)]
    params, buffers = stack_module_state(models)
    x = torch.randn(6, 4)
    one = lambda p, s: functional_call(models[0], (p, s), (x,))  # noqa: E731
    torch.vmap(one)(params, buffers).square().sum().backward()
    for model, i in zip(models, range(3)):
        model(x).square().sum().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(params[name].grad[i], p.grad, rtol=1e-4, atol=1e-6)


def test_func_inside_compile():
    torch._dynamo.reset()
    x, a, b = problem((4, 8))
    f = lambda x, a: torch.func.grad(lambda x, a: so.rational(x, a, b).square().sum(), (0, 1))(x, a)  # noqa: E731
    torch.testing.assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(x, a), f(x, a))
    by_hand = lambda x: torch.func.grad(lambda x: so.rational(x, a, b, backend="cpu").sum())(x)  # noqa: E731
    with pytest.raises(Exception, match="cannot run inside torch.func under torch.compile"):
        torch.compile(by_hand, fullgraph=True, backend="aot_eager")(x)


def test_forward_mode_is_refused_not_dropped():
    x, a, b = problem((4, 8))
    with pytest.raises(Exception, match="jvp"):
        torch.func.jvp(lambda x: so.rational(x, a, b), (x,), (torch.ones_like(x),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(Exception, match="jvp"):
        so.rational(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_q_overflows_the_gradient_is_the_references(dtype):
    x = torch.tensor([[1e6, -1e6, 3e5, 1e7]]).to(dtype)
    for version in spec.VERSIONS:
        grads = []
        for backend in ("cpu", "reference"):
            z = x.clone().requires_grad_()
            grads.append(torch.autograd.grad(so.rational(z, torch.ones(6), torch.ones(4), version=version, backend=backend).sum(), z)[0])
        assert torch.equal(*(torch.isnan(g) for g in grads)), version
    assert torch.isfinite(grads[0]).all()
