"""`fft_conv`: derivatives of every order, what is saved, torch.func, torch.compile, autocast, determinism, opcheck."""

import itertools

import fft_conv_oracle as oracle
import pytest
import torch
import torch.utils.checkpoint

import spectralops as so
from spectralops import testing

BACKENDS = ["reference", "cpu", None]  # None: the operators, whichever serves them; the reference by name is plain PyTorch
D = torch.float64
NAMES = ("u", "k", "skip", "gate_in", "gate_out", "mask", "k_rev")


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other take longer than these sizes do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem(b=2, h=2, length=5, size=3, back=None, dtype=D, leading=None, filters=None):
    """Every tensor of a call, each wanting its gradient."""
    lead = (h,) if leading is None else leading
    wide = (b, h, length) if filters is None else (b, filters, h, length)
    found = {
        "u": torch.randn(b, h, length, dtype=D),
        "k": torch.randn(*lead, size, dtype=D),
        "skip": torch.randn(h, dtype=D),
        "gate_in": torch.randn(b, h, length, dtype=D),
        "gate_out": torch.randn(wide, dtype=D),
        "mask": torch.rand(b, h, dtype=D) + 0.5,
    }
    if back:
        found["k_rev"] = torch.randn(*lead, back, dtype=D)
    return {n: t.to(dtype).requires_grad_() for n, t in found.items()}


def call(names, **given):
    """The call as a function of its tensors alone."""
    return lambda *tensors: so.fft_conv(**dict(zip(names, tensors)), **given)


def derivatives(given, tensors, second=True):
    f, inputs = call(tensors, **given), tuple(tensors.values())
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    assert not second or torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


# ---- first and second ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize(
    "mode, size, back", [("causal", 3, None), ("causal", 8, 4), ("same", 4, None), ("circular", 7, 2), ("toeplitz", 9, None)]
)
def test_derivatives(backend, activation, mode, size, back):
    derivatives(dict(mode=mode, activation=activation, backend=backend), problem(size=size, back=back))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("names", ["u", "k", "u k", "u k skip", "gate_in", "gate_out", "mask", "skip mask", "k_rev gate_out"])
def test_derivatives_in_some_arguments(backend, names):
    every, names = problem(size=4, back=3), names.split()
    for activation in (None, "silu"):
        rest = {n: t.detach() for n, t in every.items() if n not in names}
        derivatives(dict(activation=activation, backend=backend, **rest), {n: every[n] for n in names})
    bare = {n: t for n, t in every.items() if n in ("u", "k")}
    some = {n: t if n in names or n in bare else None for n, t in every.items()}
    wanted = {n: t for n, t in some.items() if t is not None}
    derivatives(dict(backend=backend), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_of_every_kind_of_kernel(backend):
    for leading in [(1,), (2, 2), (2, 1)]:
        derivatives(dict(activation="silu", backend=backend), problem(leading=leading))
    for leading in [(3, 2), (3, 1), (2, 3, 2)]:
        derivatives(dict(activation="silu", multi=True, backend=backend), problem(leading=leading, filters=3))
    for mode in ("causal", "same", "circular"):
        t = problem(size=4)
        how = dict(mode=mode, activation="silu", backend=backend)
        f = lambda u, k, skip, how=how: so.fft_conv(u, so.KernelSpectrum(k, 5, mode=how["mode"]), skip=skip, **how)  # noqa: E731
        inputs = (t["u"], t["k"], t["skip"])
        assert torch.autograd.gradcheck(f, inputs, fast_mode=True) and torch.autograd.gradgradcheck(f, inputs, fast_mode=True)
    a, b, h0 = (torch.randn(*s, dtype=D).mul(0.2).requires_grad_() for s in ((2, 2), (2, 2), (2,)))
    f = lambda u, a, b, h0: so.fft_conv(u, so.KernelSpectrum.from_rational(a, b, 5, h0=h0), backend=backend)  # noqa: E731
    assert torch.autograd.gradcheck(f, (t["u"], a, b, h0)) and torch.autograd.gradgradcheck(f, (t["u"], a, b, h0))
    turned = {n: v.detach().mT.requires_grad_() if n in ("u", "gate_in", "gate_out") else v for n, v in problem().items()}
    derivatives(dict(layout="blh", activation="silu", backend=backend), turned)
    several = problem(leading=(3, 2), filters=3)
    turned = {n: v.detach().mT.requires_grad_() if n in ("u", "gate_in") else v for n, v in several.items()}
    turned["gate_out"] = turned["gate_out"].detach().permute(0, 3, 1, 2).requires_grad_()
    derivatives(dict(layout="blh", multi=True, activation="gelu", backend=backend), turned)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["bhl", "blh"])
def test_derivatives_of_packed_sequences(backend, layout):
    cu = torch.tensor([0, 3, 3, 4, 7])
    for leading in [(2,), (4, 2)]:
        t = problem(b=1, length=7, leading=leading, back=3)
        t["mask"] = torch.rand(4, 2, dtype=D).requires_grad_()
        if layout == "blh":
            t = {n: v.detach().mT.requires_grad_() if n in ("u", "gate_in", "gate_out") else v for n, v in t.items()}
        derivatives(dict(cu_seqlens=cu, max_seqlen=3, layout=layout, activation="silu", backend=backend), t)


def test_the_third_derivative():
    t = problem(b=1, h=1, length=3, size=2)
    names = ("u", "k", "gate_in")
    rest = {n: v.detach() for n, v in t.items() if n not in (*names, "k_rev")}
    f = call(names, activation="gelu", **rest)
    inputs = tuple(t[n] for n in names)

    def twice(*inputs):
        first = torch.autograd.grad(f(*inputs).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs, create_graph=True)

    assert torch.autograd.gradcheck(twice, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_tensor_in_many_places(backend):
    x = torch.randn(2, 3, 6, dtype=D, requires_grad=True)
    f = lambda x: so.fft_conv(x, x[0], gate_in=x, gate_out=x, skip=x[0, :, 0], activation="silu", backend=backend)  # noqa: E731
    assert torch.autograd.gradcheck(f, (x,), fast_mode=True) and torch.autograd.gradgradcheck(f, (x,), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_what_was_broadcast(backend):
    t = problem(b=2, h=3, length=6)
    t["gate_in"], t["gate_out"], t["mask"] = (torch.randn(*s, dtype=D, requires_grad=True) for s in ((3, 1), (6,), (3,)))
    derivatives(dict(activation="silu", backend=backend), t)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_of_any_stride(backend):
    t = problem(dtype=torch.float32)
    inputs = tuple(t.values())
    for seed in range(3):
        torch.manual_seed(seed)
        grad = torch.randn(2, 2, 5)
        y = call(t, activation="silu", backend=backend)(*inputs)
        expect = torch.autograd.grad(y, inputs, grad, retain_graph=True)
        for how, view in testing.layouts(grad):
            got = torch.autograd.grad(y, inputs, view, retain_graph=True)
            for g, e in zip(got, expect):
                assert testing.relative_error(g, e) < 1e-6, how
    one = torch.ones((), dtype=torch.float32)
    summed = torch.autograd.grad(y.sum(), inputs, retain_graph=True)
    for g, e in zip(summed, torch.autograd.grad(y, inputs, one.expand_as(y).clone())):
        assert testing.relative_error(g, e) < 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_gradients_against_float64(backend, dtype):
    """Truth: autograd through the dense matrices of the oracle, in u, skip, gates and mask; for k a call in float64."""
    tally = testing.Tally()
    own = torch.float32 if dtype == D else dtype
    for mode, size, draw in itertools.product(("causal", "same", "circular"), (20, 90), range(2)):
        t = problem(b=3, h=2, length=60, size=size, dtype=dtype)
        grad = torch.randn(3, 2, 60).to(dtype)
        run = lambda tensors, g, mode=mode, **how: torch.autograd.grad(  # noqa: E731
            call(tensors, mode=mode, activation="gelu", **how)(*tensors.values()), tuple(tensors.values()), g
        )
        cast = lambda d, t=t: {n: v.detach().to(d).requires_grad_() for n, v in t.items()}  # noqa: E731
        exact = dict(zip(t, run(cast(D), grad.double(), backend="reference")))
        wide = cast(D)
        y = oracle.fft_conv(**wide, mode=mode, activation="gelu")
        truth = torch.autograd.grad(y, [v for n, v in wide.items() if n != "k"], grad.double())
        for n, v in zip((n for n in wide if n != "k"), truth):
            assert testing.relative_error(exact[n], v) < 1e-13
        for n, g, plain in zip(t, run(t, grad, backend=backend), run(cast(own), grad.to(own), backend="reference")):
            assert g.dtype == dtype and g.shape == t[n].shape
            tally.add(n, g, plain, exact[n])
    tally.check()


def test_kernel_gradients_are_summed_in_float():
    u = torch.full((3000, 1, 2), 1.0).half()
    k, skip = torch.ones(1, 2, requires_grad=True), torch.ones(1, requires_grad=True)
    dk, dskip = torch.autograd.grad(so.fft_conv(u, k, skip=skip).sum(), (k, skip))
    torch.testing.assert_close(dk, torch.tensor([[6000.0, 3000.0]]))
    torch.testing.assert_close(dskip, torch.tensor([6000.0]))


# ---- what is saved, and modes of autograd ----------------------------------------------------------------------------


def saved(f):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = f()
    return y, kept


def test_saved_are_the_arguments_alone():
    t = problem(b=3, h=4, length=30, size=7, dtype=torch.float32)
    y, kept = saved(lambda: call(t, activation="gelu")(*t.values()))
    storages = {v.untyped_storage().data_ptr() for v in t.values()}
    assert {v.untyped_storage().data_ptr() for v in kept} == storages
    assert y.untyped_storage().data_ptr() not in storages
    half = {n: v.detach().half().requires_grad_() for n, v in t.items()}
    _, kept = saved(lambda: call(half, activation="gelu")(*half.values()))
    allowed = {v.untyped_storage().data_ptr() for v in half.values()}
    beyond = {v.shape for v in kept if v.untyped_storage().data_ptr() not in allowed}
    assert all(s.numel() <= 4 * 7 for s in beyond), beyond  # the widened k, skip and mask
    with torch.no_grad():
        assert not saved(lambda: call(t)(*t.values()))[1]


def test_eval_and_no_grad():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.k = torch.nn.Parameter(torch.randn(2, 8, dtype=D))

        def forward(self, u):
            return so.fft_conv(u, self.k, activation="silu")

    layer, u = Layer(), torch.randn(2, 2, 9, dtype=D)
    trained = layer(u)
    trained.sum().backward()
    expect, layer.k.grad = layer.k.grad, None
    layer.eval()
    layer(u).sum().backward()
    assert torch.equal(layer.k.grad, expect)
    with torch.no_grad():
        y = layer(u)
    assert torch.equal(y, trained) and not y.requires_grad
    with torch.inference_mode():
        assert torch.equal(layer(u), trained)


def test_checkpoints_and_hooks_and_writes_in_place():
    t = problem(b=2, h=3, length=20, size=9)
    f, inputs = call(t, activation="silu"), tuple(t.values())
    expect = torch.autograd.grad(f(*inputs).sum(), inputs)
    again = torch.autograd.grad(torch.utils.checkpoint.checkpoint(f, *inputs, use_reentrant=False).sum(), inputs)
    assert all(map(torch.equal, again, expect))
    with torch.autograd.graph.save_on_cpu():
        assert all(map(torch.equal, torch.autograd.grad(f(*inputs).sum(), inputs), expect))
    w = t["k"] * 1
    y = so.fft_conv(t["u"], w)
    w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_autocast_changes_nothing():
    t = problem(b=2, h=3, length=20, size=9, dtype=torch.float32)
    run = lambda: torch.autograd.grad(call(t, activation="gelu")(*t.values()).sum(), tuple(t.values()))  # noqa: E731
    plain = run()
    with torch.autocast("cpu", torch.bfloat16):
        y = call(t, activation="gelu")(*t.values())
        assert y.dtype == torch.float32
        assert all(map(torch.equal, run(), plain))
        u = torch.nn.functional.linear(t["u"], torch.eye(20))
        assert u.dtype == torch.bfloat16 and so.fft_conv(u, t["k"], gate_in=t["gate_in"]).dtype == torch.bfloat16
    t = {n: v.detach().bfloat16().requires_grad_() if n == "u" else v for n, v in t.items()}
    grads = torch.autograd.grad(call(t)(*t.values()).sum(), tuple(t.values()))
    assert [g.dtype for g in grads] == [v.dtype for v in t.values()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_are_equal(backend):
    t = problem(b=5, h=3, length=300, size=200, dtype=torch.float32)
    threads, runs = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 3) if backend == "cpu" else (1, 1):
            torch.set_num_threads(n)
            y = call(t, activation="gelu", backend=backend)(*t.values())
            runs.append((y, *torch.autograd.grad(y.square().sum(), tuple(t.values()))))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


# ---- torch.func, torch.compile, opcheck ------------------------------------------------------------------------------


def test_vmap():
    u, k = torch.randn(3, 2, 4, 7, dtype=D), torch.randn(4, 5, dtype=D)
    gate, skip, mask = torch.randn(3, 2, 4, 7, dtype=D), torch.randn(4, dtype=D), torch.rand(3, 2, 4, dtype=D)
    f = lambda u, k, gate, mask: so.fft_conv(u, k, gate_out=gate, skip=skip, mask=mask, activation="silu")  # noqa: E731
    vmap = torch.func.vmap
    expect = f(u, k, gate, mask)
    torch.testing.assert_close(vmap(f, (0, None, 0, 0))(u, k, gate, mask), expect)
    got = vmap(f, (2, None, 2, 2), 2)(u.movedim(0, 2), k, gate.movedim(0, 2), mask.movedim(0, 2))
    torch.testing.assert_close(got, expect.movedim(0, 2))
    one = u[0]
    got = vmap(f, (None, None, 0, None))(one, k, gate, mask[0])
    torch.testing.assert_close(got, torch.stack([f(one, k, g, mask[0]) for g in gate]))
    many = torch.randn(3, 4, 5, dtype=D)
    got = vmap(f, (0, 0, None, None))(u, many, gate[0], mask[0])
    torch.testing.assert_close(got, torch.stack([f(a, b, gate[0], mask[0]) for a, b in zip(u, many)]))
    several = vmap(lambda u: so.fft_conv(u, many, multi=True))(u)
    torch.testing.assert_close(several, so.fft_conv(u, many, multi=True))
    nested = vmap(vmap(lambda u, k: so.fft_conv(u, k), (0, None)), (None, 0))(u, many)
    torch.testing.assert_close(nested, torch.stack([so.fft_conv(u, m) for m in many]))


def test_func():
    t = {n: v.detach() for n, v in problem(length=4).items()}
    names = tuple(t)
    f = call(names, activation="gelu")
    loss = lambda *a: f(*a).square().sum()  # noqa: E731
    every = tuple(range(len(names)))
    live = tuple(v.clone().requires_grad_() for v in t.values())
    expect = torch.autograd.grad(loss(*live), live)
    for got, e in zip(torch.func.grad(loss, every)(*t.values()), expect):
        torch.testing.assert_close(got, e)
    rest = tuple(t.values())[1:]
    jacobian = torch.func.jacrev(lambda u: f(u, *rest))(t["u"])
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(lambda u: f(u, *rest), t["u"]))
    for i in (0, 1):
        at = lambda v, i=i: loss(*(v if j == i else w for j, w in enumerate(t.values())))  # noqa: E731
        x = tuple(t.values())[i]
        torch.testing.assert_close(torch.func.jacrev(torch.func.grad(at))(x), torch.autograd.functional.hessian(at, x))
    each = torch.func.vmap(torch.func.grad(lambda k, u: so.fft_conv(u, k, activation="silu").sum()), (None, 0))(t["k"], t["u"])
    torch.testing.assert_close(each.sum(0), torch.func.grad(lambda k: so.fft_conv(t["u"], k, activation="silu").sum())(t["k"]))
    rows = torch.vmap(lambda r: so.fft_conv(r, t["k"], gate_in=r, skip=t["skip"]))
    outer = torch.func.grad(lambda u: rows(u).square().sum())(t["u"])
    plain = torch.func.grad(lambda u: so.fft_conv(u, t["k"], gate_in=u, skip=t["skip"]).square().sum())(t["u"])
    torch.testing.assert_close(outer, plain)
    with pytest.raises(Exception, match="jvp"):  # forward mode is refused, not dropped
        torch.func.jvp(lambda u: so.fft_conv(u, t["k"]), (t["u"],), (t["u"],))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(Exception, match="jvp|forward"):
        so.fft_conv(torch.autograd.forward_ad.make_dual(t["u"], t["u"]), t["k"], activation="silu")


@pytest.mark.parametrize("dynamic, how", [(False, "inductor"), (True, "aot_eager")])
def test_compile_fullgraph(dynamic, how):
    torch._dynamo.reset()
    k, skip = torch.randn(3, 9, requires_grad=True), torch.randn(3, requires_grad=True)

    def model(u, gate):
        y = so.fft_conv(u * 2, k, gate_in=gate, skip=skip, activation="gelu")
        if dynamic:  # guards on a length take seconds a call
            return y
        y = so.fft_conv(y, k[:1], mode="same", gate_out=u)
        return so.fft_conv(y.mT, k, k_rev=k[:, :4], layout="blh").relu()

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=how)
    for b, length in ((2, 12), (3, 20), (4, 7)) if dynamic else ((2, 12),):
        u, gate = torch.randn(b, 3, length, requires_grad=True), torch.randn(b, 3, length)
        inputs = (u, k, skip)
        torch.testing.assert_close(compiled(u, gate), model(u, gate))
        got = torch.autograd.grad(compiled(u, gate).square().sum(), inputs)
        torch.testing.assert_close(got, torch.autograd.grad(model(u, gate).square().sum(), inputs), rtol=1e-4, atol=1e-4)


def test_compile_other_forms():
    torch._dynamo.reset()
    u, k = torch.randn(2, 3, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    cu = torch.tensor([0, 3, 8])
    forms = [
        lambda u, k: so.fft_conv(u, so.KernelSpectrum(k, 8)),
        lambda u, k: so.fft_conv(u, k, mode="circular", multi=False),
        lambda u, k: so.fft_conv(u[:1], k, cu_seqlens=cu, max_seqlen=5, mask=torch.ones(2, 3)),
        lambda u, k: torch.func.grad(lambda k: so.fft_conv(u, k, skip=k[:, 0], activation="silu").sum())(k),
    ]
    for f in forms:
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(u, k), f(u, k))
    got = torch.autograd.grad(torch.compile(forms[0], fullgraph=True, backend="aot_eager")(u, k).sum(), (u, k))
    torch.testing.assert_close(got, torch.autograd.grad(forms[0](u, k).sum(), (u, k)))
    with pytest.raises(Exception, match="cannot run inside torch.func under torch.compile"):
        named = torch.func.grad(lambda u: so.fft_conv(u, k, backend="cpu").sum())
        torch.compile(lambda u: named(u), fullgraph=True, backend="aot_eager")(u)


def test_export_with_dynamic_shapes():
    class Layer(torch.nn.Module):
        def __init__(self, mode):
            super().__init__()
            self.k, self.mode = torch.nn.Parameter(torch.randn(3, 8)), mode

        def forward(self, u):
            return so.fft_conv(u, self.k, mode=self.mode, gate_in=u, activation="gelu")

    dims = {"u": {0: torch.export.Dim("batch", min=1, max=64), 2: torch.export.Dim("length", min=9, max=4096)}}
    for mode in ("causal", "same", "circular"):
        layer, x = Layer(mode), torch.randn(4, 3, 99)
        exported = torch.export.export(layer, (torch.randn(2, 3, 20),), dynamic_shapes=dims).module()
        assert torch.equal(exported(x), layer(x))


def test_opcheck():
    ops, check = torch.ops.spectralops, torch.library.opcheck
    b, h, length, size = 2, 3, 6, 4
    u, kernel, skip = torch.randn(b, h, length), torch.randn(1, 1, h, size), torch.randn(1, h)
    gate_out, mask = torch.randn(b, 1, h, length), torch.rand(b, h)
    back, shape = ops.fft_conv_backward.default, list(kernel.shape)
    for x, blh in ((u, False), (u.mT.contiguous().mT, True), (u[:0], False)):
        rows = x.shape[0]
        tail = (1, 0, "gelu", "highest", blh, length)
        check(ops.fft_conv.default, (x, kernel, None, None, None, None, None, 0, 0, "identity", "highest", blh, length))
        check(ops.fft_conv.default, (x, kernel, skip, x, gate_out[:rows], mask[:rows], None, *tail))
        grad = torch.randn(rows, 1, h, length)
        for needs in ([True] * 6, [False, True, False, False, False, False]):
            check(back, (grad, x, kernel, skip, x, gate_out[:rows], mask[:rows], None, shape, *tail, needs))
        bare = (grad, None, kernel, None, None, None, None, None, shape, 1, 0, "identity", "highest", blh, length)
        check(back, (*bare, [True] + [False] * 5))
    spectrum = so.KernelSpectrum(kernel[0, 0], length)
    tail = (0, spectrum.grid, "silu", "highest", False, length)
    check(ops.fft_conv.default, (u, spectrum.spectrum, None, None, None, None, None, *tail))
    cu, packed = torch.tensor([0, 2, 6]), u[:1]
    check(ops.fft_conv.default, (packed, kernel, skip, None, None, mask, cu, 0, 0, "silu", "highest", False, 4))
    grad = torch.randn(1, 1, h, length)
    tail = (0, 0, "silu", "highest", False, 4, [True, True, True, False, False, True])
    check(back, (grad, packed, kernel, skip, None, None, mask, cu, shape, *tail))
