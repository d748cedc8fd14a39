"""`wavelet_linear` through its public function: values, first and second derivatives, vmap, compile, layouts, bad input."""

import itertools

import numpy as np
import pytest
import torch
from core_build import ISAS
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import testing
from spectralops._loader import core
from spectralops.ops import wavelet_reference as spec

BACKENDS = ["reference", "cpu"]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# (rows, inputs, outputs): below, at and above the lanes of a vector and the blocks of the kernels
SHAPES = [(1, 1, 1), (3, 2, 5), (37, 5, 3), (64, 64, 32), (65, 70, 34), (300, 17, 33), (520, 20, 2), (1, 7, 65), (17, 130, 1)]


@pytest.fixture(autouse=True)
def _best_capability():
    yield
    core().set_cpu_capability(None)


def able(isa):
    try:
        core().set_cpu_capability(isa)
    except RuntimeError:
        return False
    return True


def use(isa):
    if not able(isa):
        pytest.skip(f"this machine has no {isa}")


def textbook(x, weight, scale, translation, kind):
    """The formula in numpy float64; not ours."""
    x, w, s, t = (np.asarray(v.detach().double().cpu()) for v in (x, weight, scale, translation))
    z = (x[..., None, :] - t) / s
    bell = np.exp(-(z**2) / 2)
    psi = {
        "mexican_hat": 2 / (np.sqrt(3) * np.pi**0.25) * (z**2 - 1) * bell,
        "morlet": np.cos(5 * z) * bell,
        "dog": -z * bell,
    }[kind]
    return torch.from_numpy((w * psi).sum(-1))


def problem(shape, outputs, dtype=torch.float32, parameters=None):
    """x, weight, scale (of either sign), translation."""
    parameters = parameters or (torch.float64 if dtype == torch.float64 else torch.float32)
    make = lambda *s: torch.randn(*s, dtype=torch.float64)  # noqa: E731
    scale = make(outputs, shape[-1])
    scale += 0.4 * torch.where(scale < 0, -1.0, 1.0)
    return make(*shape).to(dtype), *(p.to(parameters) for p in (make(*scale.shape), scale, make(*scale.shape)))


@pytest.mark.parametrize("kind", spec.KINDS)
def test_values_against_the_textbook(kind):
    isas = [isa for isa in ISAS if able(isa)]
    tally = testing.Tally()
    for (rows, inputs, outputs), dtype in itertools.product(SHAPES, FLOATS):
        tensors = problem((rows, inputs), outputs, dtype)
        low = (t.float() if dtype == torch.float64 else t for t in tensors)
        reference, exact = so.wavelet_linear(*low, kind, backend="reference"), textbook(*tensors, kind)
        for isa in isas:
            core().set_cpu_capability(isa)
            with testing.poison():
                y = so.wavelet_linear(*tensors, kind, backend="cpu")
            assert y.dtype == dtype and y.shape == (rows, outputs) and y.abs().max() > 0
            tally.add(f"{isa} {dtype}", y, reference, exact)
    tally.check()


@pytest.mark.parametrize("kind", spec.KINDS)
def test_the_reference_is_the_textbook(kind):
    tensors = problem((4, 9, 6), 5, torch.float64)
    expect = textbook(*tensors, kind)
    assert testing.relative_error(so.wavelet_linear(*tensors, kind, backend="reference"), expect) < 1e-14
    z = torch.randn(50, dtype=torch.float64, requires_grad=True)
    p0, p1, p2 = spec.jet(z, spec.KINDS.index(kind))
    (first,) = torch.autograd.grad(spec.psi(z, spec.KINDS.index(kind)).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    for got, expect in zip((p0, p1, p2), (spec.psi(z, spec.KINDS.index(kind)), first, second)):
        assert testing.relative_error(got, expect) < 1e-13


def test_the_reference_in_chunks_is_the_reference(monkeypatch):
    tensors = [t.requires_grad_() for t in problem((23, 6), 5, torch.float64)]

    def everything():
        y = so.wavelet_linear(*tensors, "morlet", backend=None)
        first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum(f.square().sum() for f in first), tensors)]

    monkeypatch.setenv("SPECTRALOPS_BACKEND", "reference")
    whole = everything()
    monkeypatch.setattr(spec, "_CHUNK", 4 * 30)
    torch.testing.assert_close(everything(), whole)


@pytest.mark.parametrize("kind", spec.KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck_and_gradgradcheck(kind, backend):
    tensors = [t.requires_grad_() for t in problem((2, 2, 3), 4, torch.float64)]
    f = lambda *args: so.wavelet_linear(*args, kind, backend=backend)  # noqa: E731
    torch.autograd.gradcheck(f, tensors)
    torch.autograd.gradgradcheck(f, tensors)


NAMES = ["y", "dx", "dw", "ds", "dt", "ddx", "ddw", "dds", "ddt", "dgrad"]


def derivatives(backend, kind, tensors, to=None):
    """y, first derivatives, and the second ones of <h, first>; everything cast to `to`."""
    *given, g, hx, hw, hs, ht = (t if to is None else t.to(to) for t in tensors)
    leaves = [t.detach().clone().requires_grad_() for t in (*given, g)]
    y = so.wavelet_linear(*leaves[:4], kind, backend=backend)
    first = torch.autograd.grad(y, leaves[:4], leaves[4], create_graph=True)
    return [y, *first, *torch.autograd.grad(first, leaves, [h.to(u.dtype) for h, u in zip((hx, hw, hs, ht), first)])]


@pytest.mark.parametrize("kind", spec.KINDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_first_and_second_derivatives_within_twice_the_reference(kind, dtype):
    isas = [isa for isa in ISAS if able(isa)]
    tally = testing.Tally()
    for rows, inputs, outputs in [(3, 2, 5), (37, 5, 33), (65, 17, 3), (270, 3, 2), (1, 7, 65)] * 3:
        x, *parameters = problem((rows, inputs), outputs, dtype)
        seeds = [torch.randn_like(t) for t in (x, *parameters)]
        tensors = (x, *parameters, torch.randn(rows, outputs).to(dtype), *seeds)
        reference = derivatives("reference", kind, tensors, torch.float32 if dtype == torch.float64 else None)
        exact = derivatives("reference", kind, tensors, torch.float64)
        for isa in isas:
            core().set_cpu_capability(isa)
            with testing.poison():
                got = derivatives("cpu", kind, tensors)
            for name, u, v, w in zip(NAMES, got, reference, exact):
                tally.add(f"{isa} {name}", u, v, w)
    tally.check()


def test_backward_saves_the_input_and_the_parameters_only():
    tensors = [t.requires_grad_() for t in problem((8, 32), 6)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        so.wavelet_linear(*tensors)
    assert sorted(t.data_ptr() for t in saved) == sorted(t.data_ptr() for t in tensors)


def test_two_runs_and_any_thread_count_agree_bit_for_bit():
    tensors = problem((777, 36), 50)
    tensors = (*tensors, torch.randn(777, 50), *(torch.randn_like(t) for t in tensors))
    threads, runs = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 2):
            torch.set_num_threads(n)
            runs.append(derivatives("cpu", "morlet", tensors))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(u, v) for u, v in zip(runs[0], other))


def test_a_row_does_not_depend_on_its_neighbours():
    x, *parameters = problem((100, 20), 9)
    whole = so.wavelet_linear(x, *parameters, backend="cpu")
    for rows in (slice(0, 1), slice(37, 54), slice(99, 100)):
        assert torch.equal(so.wavelet_linear(x[rows], *parameters, backend="cpu"), whole[rows])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_results_are_the_rounded_float_results(dtype):
    x, *parameters = problem((50, 24), 10, dtype)
    g = torch.randn(50, 10).to(dtype)
    ops = torch.ops.spectralops
    narrow = [ops.wavelet_forward(x, *parameters, 1, "cpu"), *ops.wavelet_backward(g, x, *parameters, 1, "cpu")]
    x, g = x.float(), g.float()
    wide = [ops.wavelet_forward(x, *parameters, 1, "cpu"), *ops.wavelet_backward(g, x, *parameters, 1, "cpu")]
    for one, two in zip(narrow, wide):
        assert torch.equal(one, two.to(one.dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_do_not_matter(backend):
    x, *parameters = problem((3, 4, 10), 7)
    expect = so.wavelet_linear(x, *parameters, backend=backend)
    for name, view in testing.layouts(x):
        before = view.clone()
        assert torch.equal(so.wavelet_linear(view, *parameters, backend=backend), expect), name
        assert torch.equal(view, before), f"{name}: the input was written"
    turned = [p.t().contiguous().t() for p in parameters]
    assert testing.relative_error(so.wavelet_linear(x, *turned, backend=backend), expect) < 1e-6
    shared = [p[:1].expand(7, 10) for p in parameters]
    own = [p.contiguous() for p in shared]
    assert torch.equal(so.wavelet_linear(x, *shared, backend=backend), so.wavelet_linear(x, *own, backend=backend))
    z, w = (x.clone().requires_grad_() for _ in range(2))
    so.wavelet_linear(z, *parameters, backend=backend).sum().backward()  # a gradient of stride 0 everywhere
    so.wavelet_linear(w, *parameters, backend=backend).backward(torch.ones(3, 4, 7))
    assert torch.equal(z.grad, w.grad)


@settings(max_examples=40, deadline=None)
@given(
    x=testing.tensors(st.lists(st.integers(1, 9), min_size=0, max_size=3).map(lambda s: (*s, 6)), dtypes=FLOATS),
    outputs=st.sampled_from([1, 2, 7, 33]),
    kind=st.sampled_from(spec.KINDS),
)
def test_any_tensor(x, outputs, kind):
    _, *parameters = problem((1, 6), outputs, x.dtype)
    testing.assert_within(
        so.wavelet_linear(x, *parameters, kind),
        so.wavelet_linear(x, *parameters, kind, backend="reference"),
        textbook(x, *parameters, kind),
        factor=8,  # a single draw of a few elements: see testing.Tally; the layout is what is tested here
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_and_single(backend):
    for shape, outputs in [((0, 5), 3), ((2, 0, 5), 3), ((3, 0), 4), ((3, 5), 0), ((0, 0), 0)]:
        tensors = [t.requires_grad_() for t in problem(shape, outputs)]
        y = so.wavelet_linear(*tensors, backend=backend)
        assert y.shape == (*shape[:-1], outputs) and y.abs().sum() == 0
        gradients = torch.autograd.grad(y.sum(), tensors, create_graph=True)
        assert [g.shape for g in gradients] == [t.shape for t in tensors] and all(g.abs().sum() == 0 for g in gradients)
    x, *parameters = problem((5,), 3)
    y = so.wavelet_linear(x, *parameters, backend=backend)
    assert y.shape == (3,) and torch.equal(y, so.wavelet_linear(x[None], *parameters, backend=backend)[0])
    assert so.wavelet_linear(torch.ones(1, 1, 1), *[torch.ones(1, 1)] * 3, backend=backend).shape == (1, 1, 1)


@pytest.mark.parametrize("kind", spec.KINDS)
@pytest.mark.parametrize("isa", ISAS)
def test_nan_infinity_zero_scale_and_far_away_as_in_the_reference(kind, isa):
    use(isa)
    x, w, s, t = problem((40, 9), 12)
    g = torch.randn(40, 12)
    x[3, 3], x[5, 5], x[39, 8] = float("nan"), float("inf"), -float("inf")
    x[7, :], x[8, 0] = 1e25, 3e4  # the square overflows; the bell is zero
    s[2, 1], t[4, 4], w[6, 6], s[7, 7] = 0.0, float("nan"), float("inf"), 1e-6
    op = torch.ops.spectralops
    for name, args in [("forward", (x, w, s, t)), ("backward", (g, x, w, s, t))]:
        call = getattr(op, "wavelet_" + name)
        got, expect = (call(*args, spec.KINDS.index(kind), b) for b in ("cpu", "reference"))
        for u, v in zip(*((r,) if isinstance(r, torch.Tensor) else r for r in (got, expect))):
            assert torch.equal(u.isnan(), v.isnan()) and torch.equal(u.isposinf(), v.isposinf()), name
    y = so.wavelet_linear(x, w, s, t, kind, backend="cpu")
    assert y[[3, 5, 39]].isnan().all() and y[:, 2].isnan().all() and y[:2, :2].isfinite().all()


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_parameter_gradients_have_the_parameters_dtype_and_shape(parameters):
    x, *given = problem((64, 12), 5, torch.bfloat16, parameters)
    for p in given:
        p.requires_grad_()
    so.wavelet_linear(x, *given).float().sum().backward()
    for p in given:
        assert p.grad.dtype == parameters and p.grad.shape == p.shape and p.grad.abs().sum() > 0


def test_func_transforms():
    x, *parameters = problem((5, 4), 3, torch.float64)
    loss = lambda backend: lambda *a: so.wavelet_linear(*a, "morlet", backend=backend).square().sum()  # noqa: E731
    ours, plain = loss(None), loss("reference")
    close = torch.testing.assert_close
    close(torch.func.grad(ours, (0, 1, 2, 3))(x, *parameters), torch.func.grad(plain, (0, 1, 2, 3))(x, *parameters))
    per_sample = lambda f: torch.func.vmap(torch.func.grad(f, (1, 2, 3)), (0, None, None, None))(x, *parameters)  # noqa: E731
    close(per_sample(ours), per_sample(plain))
    many = [torch.randn(2, *p.shape, dtype=torch.float64) for p in parameters]
    batch = torch.randn(2, 5, 4, dtype=torch.float64)
    for dims in [(0, None, None, None), (1, None, None, None), (None, 0, 0, 0), (0, 0, 0, 0), (None, None, 0, None)]:
        pairs = zip((batch, *many), (x, *parameters), dims)
        args = [m if d == 0 else m.movedim(0, 1) if d == 1 else one for m, one, d in pairs]
        f = lambda backend: lambda *v: so.wavelet_linear(*v, backend=backend)  # noqa: E731
        close(torch.func.vmap(f(None), dims)(*args), torch.func.vmap(f("reference"), dims)(*args))
    v = torch.randn(4, dtype=torch.float64)
    hessian = lambda f: torch.func.jacrev(torch.func.jacrev(lambda z: f(z, *parameters)))(v)  # noqa: E731
    close(hessian(ours), hessian(plain))


def test_an_outer_level_differentiates_through_vmap():
    x, *parameters = problem((5, 4), 3, torch.float64)
    f = lambda backend: lambda x, w: (  # noqa: E731
        torch.vmap(lambda r: so.wavelet_linear(r, w, *parameters[1:], backend=backend))(x).square().sum()
    )
    got, expect = (torch.func.grad(f(k), (0, 1))(x, parameters[0]) for k in ("cpu", "reference"))
    torch.testing.assert_close(got, expect)
    assert got[0].abs().sum() > 0


def test_a_third_derivative_is_refused_and_the_reference_has_it():
    tensors = [t.requires_grad_() for t in problem((3, 4), 2, torch.float64)]

    def third(backend):
        y = so.wavelet_linear(*tensors, backend=backend).sum()
        for _ in range(3):
            (y,) = torch.autograd.grad(y, tensors[0], create_graph=True)
            y = y.sum()
        return y

    with pytest.raises(NotImplementedError, match="third derivative.*backend='reference'"):
        third("cpu")
    assert third("reference").isfinite()


def test_opcheck():
    x, *parameters = problem((6, 4), 3)
    ops = torch.ops.spectralops
    for z in (x, x.t().contiguous().t(), x[::2], x[:0]):
        g = torch.randn(len(z), 3)
        torch.library.opcheck(ops.wavelet_forward, (z, *parameters, 0))
        torch.library.opcheck(ops.wavelet_backward, (g, z, *parameters, 1))
        torch.library.opcheck(ops.wavelet_double_backward, (torch.randn_like(z), *parameters, g, z, *parameters, 2))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    torch._dynamo.reset()
    parameters = [p.requires_grad_() for p in problem((1, 6), 3)[1:]]

    def model(x):
        return so.wavelet_linear(x * 2, *parameters, "dog").relu()

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for rows in (5, 9) if dynamic else (5,):
        x = torch.randn(rows, 6, requires_grad=True)
        torch.testing.assert_close(compiled(x), model(x))
        got = torch.autograd.grad(compiled(x).sum(), (x, *parameters))
        torch.testing.assert_close(got, torch.autograd.grad(model(x).sum(), (x, *parameters)))


def test_func_inside_compile():
    torch._dynamo.reset()
    x, *parameters = problem((4, 6), 3)
    loss = lambda x, w: so.wavelet_linear(x, w, *parameters[1:]).square().sum()  # noqa: E731
    f = lambda x, w: torch.func.grad(loss, (0, 1))(x, w)  # noqa: E731
    got = torch.compile(f, fullgraph=True, backend="aot_eager")(x, parameters[0])
    torch.testing.assert_close(got, f(x, parameters[0]))
    by_hand = lambda x: torch.func.grad(lambda x: so.wavelet_linear(x, *parameters, backend="cpu").sum())(x)  # noqa: E731
    with pytest.raises(Exception, match="cannot run inside torch.func under torch.compile"):
        torch.compile(by_hand, fullgraph=True, backend="aot_eager")(x)


def test_forward_mode_is_refused_not_dropped():
    x, *parameters = problem((4, 6), 3)
    with pytest.raises(Exception, match="jvp"):
        torch.func.jvp(lambda x: so.wavelet_linear(x, *parameters), (x,), (torch.ones_like(x),))


def test_autocast_keeps_the_dtype():
    x, *parameters = problem((4, 6), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert so.wavelet_linear(x, *parameters).dtype == torch.float32
        assert so.wavelet_linear(x.bfloat16(), *parameters).dtype == torch.bfloat16


GOOD = dict(x=torch.ones(2, 4), weight=torch.ones(3, 4), scale=torch.ones(3, 4), translation=torch.ones(3, 4))


@pytest.mark.parametrize(
    "change, error, text",
    [
        (dict(x=[1.0]), TypeError, "x must be a torch.Tensor, got list"),
        (dict(x=torch.ones(2, 4, dtype=torch.int64)), TypeError, "x must have dtype float32, .*; got int64"),
        (dict(x=torch.ones(2, 4).to_sparse()), TypeError, "x must be a dense"),
        (dict(x=torch.tensor(1.0)), ValueError, "x must have at least one dimension"),
        (dict(x=torch.ones(2, 5)), ValueError, "last dimension of x, 5, must be the inputs of weight .*, 4"),
        (dict(weight=torch.ones(3, 4, dtype=torch.complex64)), TypeError, "weight must have dtype"),
        (dict(scale=torch.ones(3, 4, dtype=torch.float64)), TypeError, "scale is float64 but x is float32"),
        (dict(weight=torch.ones(4)), ValueError, r"weight must have shape \(O, I\); got \(4,\)"),
        (dict(scale=torch.ones(1, 4)), ValueError, r"scale must have weight's shape \(3, 4\); got \(1, 4\)"),
        (dict(translation=torch.ones(3, 5)), ValueError, r"translation must have weight's shape \(3, 4\); got \(3, 5\)"),
        (dict(translation=torch.ones(3, 4, device="meta")), ValueError, "translation is on meta but x is on cpu"),
        (dict(kind="meyer"), ValueError, "kind must be one of 'mexican_hat', 'morlet', 'dog'; got 'meyer'"),
        (dict(backend="gpu"), ValueError, "backend must be None or one of .*; got 'gpu'"),
    ],
)
def test_bad_input_is_named(change, error, text):
    with pytest.raises(error, match=text):
        so.wavelet_linear(**{**GOOD, **change})


def test_a_backend_asked_for_by_hand_raises_where_it_cannot():
    for backend in ("cuda", "triton", "cupy"):
        with pytest.raises(RuntimeError, match=f"backend '{backend}' cannot run wavelet_forward: "):
            so.wavelet_linear(**GOOD, backend=backend)
    assert "wavelet_forward on cpu, float32" in so.explain("wavelet_linear", **GOOD)


# ---- the C interface -------------------------------------------------------------------------------------------------

ARGUMENTS = dict(  # of wavelet_backward, in its order
    grad=1, grad_stride=3, x=1, x_stride=4, weight=1, scale=1, translation=1, dx=1, dweight=1, dscale=1, dtranslation=1,
    workspace=1, workspace_bytes=1 << 20, rows=2, inputs=4, outputs=3, kind=0, dtype=0, device=-1, threads=1, stream=0,
)  # fmt: skip
BAD = [
    (dict(rows=-1), "rows must not be negative, got -1"),
    (dict(inputs=-4), "inputs must not be negative, got -4"),
    (dict(outputs=-3), "outputs must not be negative, got -3"),
    (dict(kind=3), r"kind must be 0 \(mexican hat\), 1 \(morlet\) or 2 \(dog\), got 3"),
    (dict(dtype=4), "dtype must be 0 .*, got 4"),
    (dict(device=-2), "device must be -1 .*, got -2"),
    (dict(device=0), "there is no kernel for device 0"),
    (dict(threads=0), "threads must be at least 1, got 0"),
    *((dict([(name, 0)]), f"{name} is NULL") for name, value in ARGUMENTS.items() if value == 1 and name != "threads"),
    (dict(grad_stride=-1), "grad_stride must not be negative, got -1"),
    (dict(workspace_bytes=8), "workspace_bytes is 8, 288 are needed"),
]


@pytest.mark.parametrize("change, text", BAD, ids=lambda v: str(v)[:30])
def test_bad_arguments_of_the_c_interface(change, text):
    with pytest.raises(RuntimeError, match="wavelet_backward: " + text):
        core().wavelet_backward(*{**ARGUMENTS, **change}.values())
