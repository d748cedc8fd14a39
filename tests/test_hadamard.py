"""`hadamard_transform`, `srht` through their public functions: against scipy, every size, derivative, order, layout, bad input."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import testing
from spectralops.ops.hadamard_base import ODD_PARTS, base_matrix, hadamard_base

BACKENDS = ["reference", "cpu"]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def dense(n):
    """H of order n in float64: the base by its construction, the Sylvester part by scipy."""
    base = hadamard_base(n)
    m = base.size if base else 1
    h = scipy.linalg.hadamard(n // m).astype(float)
    return torch.from_numpy(np.kron(base.matrix if base else [[1.0]], h))


def test_odd_parts_are_those_with_a_construction():
    assert tuple(t for t in range(3, 64, 2) if base_matrix(4 * t) is not None) == ODD_PARTS


@pytest.mark.parametrize("m", [4 * t for t in ODD_PARTS])
def test_bases_are_hadamard_matrices(m):
    h = base_matrix(m).astype(int)
    assert set(np.unique(h)) == {-1, 1} and (h @ h.T == m * np.eye(m)).all()
    bits = np.unpackbits(hadamard_base(m).packed(torch.device("cpu")).numpy().view(np.uint8), axis=1, bitorder="little")
    assert (1 - 2 * bits[:, :m].astype(int) == h).all() and bits[:, m:].sum() == 0


def test_the_orders_the_issue_names_exist():
    for m in (1, 12, 20, 28, 36, 40, 44, 52, 60, 76, 92, 108, 140, 156, 172):
        h = so.hadamard_transform(torch.eye(m, dtype=torch.float64))
        assert torch.equal(h.abs(), torch.ones(m, m).double()) and torch.equal(h @ h.T, m * torch.eye(m).double())


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_size_against_the_matrix(backend):
    for n in [*(2**k for k in range(13)), 12, 20, 28, 24, 40, 48, 80, 160, 36, 92, 172, 344, 12 * 256]:
        h = dense(n)
        for dtype in FLOATS:
            x = torch.randn(3, n, dtype=torch.float64).to(dtype)
            with testing.poison():
                y = so.hadamard_transform(x, n**-0.5, backend=backend)
            reference = so.hadamard_transform(x, n**-0.5, backend="reference")
            assert y.dtype == dtype
            testing.assert_within(y, reference, x.double() @ h.T * n**-0.5, what=f"{n} {dtype}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_integers_are_exact(backend):
    for n in (1, 2, 64, 1024, 12, 56):
        for dtype in (torch.int32, torch.int64):
            x = torch.randint(-1000, 1000, (5, n), dtype=dtype)
            y = so.hadamard_transform(x, 3, backend=backend)
            assert y.dtype == dtype and torch.equal(y, 3 * (x @ dense(n).to(dtype).T))
    x = torch.full((1, 4), 2**30, dtype=torch.int32)
    assert so.hadamard_transform(x, backend=backend)[0].tolist() == [0, 0, 0, 0]  # 2^32 wraps


def changes(row):
    return int((row[1:] != row[:-1]).sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_orders(backend):
    for n in (1, 2, 4, 8, 64, 512, 2048):
        eye = torch.eye(n, dtype=torch.float64)
        natural = so.hadamard_transform(eye, dim=0, backend=backend)  # rows are outputs
        assert torch.equal(natural, torch.from_numpy(scipy.linalg.hadamard(n)).double())
        dyadic = so.hadamard_transform(eye, dim=0, order="dyadic", backend=backend)
        reverse = [int(format(k, f"0{max(n.bit_length() - 1, 1)}b")[::-1], 2) if n > 1 else 0 for k in range(n)]
        assert torch.equal(dyadic, natural[reverse])
        if n <= 512:
            sequency = so.hadamard_transform(eye, dim=0, order="sequency", backend=backend)
            assert [changes(row) for row in sequency] == list(range(n))


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_dimension_block_and_signs(backend):
    x = torch.randn(3, 16, 5, 24, dtype=torch.float64)
    for dim, block in [(1, None), (1, 4), (3, None), (3, 12), (3, 8), (-1, 2), (1, 1), (-3, 16)]:
        size = x.shape[dim]
        b = block or size
        for length in {size, b}:
            signs = torch.randint(0, 2, (length,)).double() * 2 - 1
            whole = torch.block_diag(*[dense(b)] * (size // b)) * signs.repeat(size // length)
            expect = (x.movedim(dim, -1) @ whole.T).movedim(-1, dim) * 0.3
            for cast in (torch.float64, torch.int8):
                got = so.hadamard_transform(x, 0.3, signs=signs.to(cast), dim=dim, block=block, backend=backend)
                torch.testing.assert_close(got, expect)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n, order", [(8, "natural"), (8, "sequency"), (8, "dyadic"), (12, "natural"), (20, "natural"), (28, "natural"), (1, "natural")])
def test_gradients_use_the_transpose(backend, n, order):
    shape = (2, n, 3) if n < 12 else (1, n, 1)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    signs = torch.randn(n, dtype=torch.float64, requires_grad=True)
    f = lambda x, s: so.hadamard_transform(x, 0.7, signs=s, dim=1, order=order, backend=backend)  # noqa: E731
    torch.autograd.gradcheck(f, (x, signs))
    torch.autograd.gradgradcheck(f, (x, signs))
    torch.autograd.gradcheck(lambda x: f(x, None), (x,))
    torch.autograd.gradgradcheck(lambda x: f(x, signs.detach()), (x,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_is_the_transposed_matrix(backend):
    for n in (20, 36, 172, 92):  # not symmetric
        g, x = torch.randn(4, n, dtype=torch.float64), torch.randn(4, n, dtype=torch.float64, requires_grad=True)
        (dx,) = torch.autograd.grad(so.hadamard_transform(x, backend=backend), x, g)
        torch.testing.assert_close(dx, g @ dense(n))


def test_block_signs_learn():
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    for length in (4, 12):
        signs = torch.randn(length, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(lambda x, s: so.hadamard_transform(x, signs=s, block=4), (x, signs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_single_rows(backend):
    for n in (2**15, 2**17, 12 * 2**13):
        x = torch.randn(n, dtype=torch.float64)
        expect = so.hadamard_transform(x, backend="reference")
        y = so.hadamard_transform(x.float(), backend=backend)
        testing.assert_within(y, so.hadamard_transform(x.float(), backend="reference"), expect)
        back = so.hadamard_transform(y, 1 / n, backend=backend) if n & (n - 1) == 0 else None
        if back is not None:
            assert testing.relative_error(back, x) < 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_do_not_matter(backend):
    x = torch.randn(4, 6, 16)
    for dim in (0, 1, 2):
        block = 2 if dim == 1 else None
        expect = so.hadamard_transform(x, dim=dim, block=block, backend=backend)
        for name, view in testing.layouts(x):
            before = view.clone()
            assert torch.equal(so.hadamard_transform(view, dim=dim, block=block, backend=backend), expect), (name, dim)
            assert torch.equal(view, before), f"{name}: the input was written"
    row = torch.randn(16).expand(5, 16)
    assert torch.equal(so.hadamard_transform(row, backend=backend)[3], so.hadamard_transform(row[0], backend=backend))


@settings(max_examples=60, deadline=None)
@given(
    x=testing.tensors(st.lists(st.sampled_from([1, 2, 4, 8, 12, 16, 20]), min_size=1, max_size=4).map(tuple), dtypes=FLOATS),
    data=st.data(),
)
def test_any_tensor(x, data):
    dim = data.draw(st.integers(-x.dim(), x.dim() - 1))
    got = so.hadamard_transform(x, 0.5, dim=dim)
    exact = so.hadamard_transform(x.double(), 0.5, dim=dim, backend="reference")
    if x.dtype == torch.float64:  # the reference would be its own truth: as in Tally, that of float32, in units of roundoff
        plain = so.hadamard_transform(x.float(), 0.5, dim=dim, backend="reference")
        units = testing.relative_error(plain, exact) / torch.finfo(torch.float32).eps
        assert testing.relative_error(got, exact) <= max(8 * units, 1) * torch.finfo(torch.float64).eps
    else:
        testing.assert_within(got, so.hadamard_transform(x, 0.5, dim=dim, backend="reference"), exact, factor=8)
    n = x.shape[dim]
    back = so.hadamard_transform(so.hadamard_transform(x.double(), dim=dim), 1 / n, dim=dim)
    if n & (n - 1) == 0:
        torch.testing.assert_close(back, x.double())


def test_empty_and_single():
    assert so.hadamard_transform(torch.empty(0, 8)).shape == (0, 8)
    assert so.hadamard_transform(torch.empty(8, 0, 3), dim=0).shape == (8, 0, 3)
    assert torch.equal(so.hadamard_transform(torch.tensor([3.0]), 2.0), torch.tensor([6.0]))
    x = torch.empty(0, 8, requires_grad=True)
    so.hadamard_transform(x).sum().backward()
    assert x.grad.shape == (0, 8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_spread_over_their_block_alone(backend):
    x = torch.ones(3, 16)
    x[1, 5], x[2, 2] = float("nan"), float("inf")
    y = so.hadamard_transform(x, block=8, backend=backend)
    r = so.hadamard_transform(x, block=8, backend="reference")
    assert torch.isnan(y[1, :8]).all() and torch.isfinite(y[1, 8:]).all() and torch.isfinite(y[0]).all()
    assert torch.equal(torch.isnan(y), torch.isnan(r)) and torch.equal(torch.isinf(y), torch.isinf(r))


def test_threads_agree_bit_for_bit():
    threads = torch.get_num_threads()
    try:
        for x in (torch.randn(33, 1024), torch.randn(2**18), torch.randn(64, 40)):
            dim = 0 if x.shape[-1] == 40 else -1
            runs = []
            for n in (1, 2, 3):
                torch.set_num_threads(n)
                runs.append(so.hadamard_transform(x, dim=dim, backend="cpu"))
            assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_srht(backend):
    n, s = 24, 10
    x = torch.randn(2, 3, n, dtype=torch.float64, requires_grad=True)
    signs, rows = torch.randint(0, 2, (n,)) * 2 - 1, torch.randint(0, n, (s,))
    y = so.srht(x, signs, rows, backend=backend)
    torch.testing.assert_close(y, ((x * signs) @ dense(n).T)[..., rows] * s**-0.5)
    torch.autograd.gradcheck(lambda x: so.srht(x, signs, rows, 0.5, backend=backend), (x[0],))
    torch.autograd.gradgradcheck(lambda x: so.srht(x, signs, rows, 0.5, backend=backend), (x[0],))
    learned = signs.double().requires_grad_()
    torch.autograd.gradcheck(lambda x, d: so.srht(x, d, rows, backend=backend), (x[0, :2], learned))
    z = torch.randn(4000, 64)
    embedded = so.srht(z, torch.randint(0, 2, (64,)) * 2 - 1, torch.randperm(64)[:32], backend=backend)
    assert abs((embedded.square().sum() / z.square().sum()).item() - 1) < 0.05
    assert so.srht(x, signs, rows[:0], backend=backend).shape == (2, 3, 0)
    for dtype in FLOATS:
        w = torch.randn(3, n).to(dtype)
        exact = so.srht(w.double(), signs, rows, backend="reference")
        testing.assert_within(so.srht(w, signs, rows, backend=backend), so.srht(w, signs, rows, backend="reference"), exact)


def test_func_transforms():
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    signs = torch.randn(3, 8, dtype=torch.float64)
    f = lambda x, s=None: so.hadamard_transform(x, 0.5, signs=s)  # noqa: E731
    r = lambda x, s=None: so.hadamard_transform(x, 0.5, signs=s, backend="reference")  # noqa: E731
    vmap = torch.func.vmap
    torch.testing.assert_close(vmap(f)(x), r(x))
    torch.testing.assert_close(vmap(f, in_dims=1, out_dims=1)(x), r(x))
    torch.testing.assert_close(vmap(f)(x, signs), r(x * signs[:, None]))
    torch.testing.assert_close(vmap(f, in_dims=(None, 0))(x, signs), torch.stack([r(x, s) for s in signs]))
    torch.testing.assert_close(torch.func.jacrev(f)(x[0, 0]), 0.5 * dense(8))
    loss = lambda x, s: f(x, s).square().sum()  # noqa: E731
    each = vmap(torch.func.grad(loss, (0, 1)), in_dims=(0, None))(x, signs[0])
    torch.testing.assert_close(each[1].sum(0), torch.func.grad(loss, (0, 1))(x, signs[0])[1])
    torch.testing.assert_close(vmap(lambda x: so.srht(x, signs[0], torch.tensor([3, 1])))(x), so.srht(x, signs[0], torch.tensor([3, 1])))


def test_opcheck():
    x, signs = torch.randn(4, 12), torch.ones(12)
    ops = torch.ops.spectralops
    for z in (x, x[::2], x[:0], torch.randn(12, 4).t()):
        torch.library.opcheck(ops.hadamard, (z, signs, None, 0.5, 1, 4, 0, 2, False))
        torch.library.opcheck(ops.hadamard, (z, None, signs, 0.5, 1, 12, 0, 0, True))
        torch.library.opcheck(ops.srht, (z, signs, torch.tensor([1, 5, 1]), 0.5))
        for format in ("int8", "fp8_e4m3"):
            torch.library.opcheck(ops.hadamard_quantize, (z, signs, 0.5, 4, 12, format, False))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    torch._dynamo.reset()
    signs = torch.randn(16, requires_grad=True)

    def model(x):
        y = so.hadamard_transform(x * 2, 0.25, signs=signs, block=4, order="sequency")
        return so.srht(so.hadamard_transform(y, dim=0, block=1).relu(), torch.ones(16), torch.tensor([3, 8]))

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for rows in (5, 9) if dynamic else (5,):
        x = torch.randn(rows, 16, requires_grad=True)
        z = x.detach().clone().requires_grad_()
        torch.testing.assert_close(compiled(x), model(z))
        got = torch.autograd.grad(compiled(x).sum(), (x, signs))
        torch.testing.assert_close(got, torch.autograd.grad(model(z).sum(), (z, signs)))


X = torch.ones(2, 24)


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        (("x",), {}, TypeError, "x must be a torch.Tensor, got str"),
        ((torch.ones(2, 24, dtype=torch.int8),), {}, TypeError, "x must have dtype .*; got int8"),
        ((torch.ones(()),), {}, ValueError, "x must have at least one dimension"),
        ((torch.ones(3, 10),), {}, ValueError, r"size 10 has no Hadamard matrix here: n must be m \* 2\^k with m = 1 or m in"),
        ((torch.ones(3, 0),), {}, ValueError, "0"),
        ((X,), dict(dim=2), ValueError, r"dim must be in \[-2, 1\] .*; got 2"),
        ((X,), dict(dim=1.0), TypeError, "dim must be an int, got float"),
        ((X,), dict(block=5), ValueError, "block must divide the size along dim, 24; got 5"),
        ((X,), dict(block=6), ValueError, "size 6 has no Hadamard matrix"),
        ((X,), dict(order="walsh"), ValueError, "order must be one of 'natural', 'dyadic', 'sequency'; got 'walsh'"),
        ((X,), dict(order="dyadic"), ValueError, "order 'dyadic' is defined for powers of two; the block here is 24"),
        ((X,), dict(signs=torch.ones(23)), ValueError, r"signs must have shape \(24,\); got \(23,\)"),
        ((X,), dict(signs=torch.ones(4), block=8), ValueError, r"signs must have shape \(24,\) or \(8,\); got \(4,\)"),
        ((X,), dict(signs=[1.0]), TypeError, "signs must be a torch.Tensor"),
        ((X,), dict(signs=torch.ones(24, dtype=torch.bool)), TypeError, "signs must have dtype"),
        ((X,), dict(signs=torch.ones(24, device="meta")), ValueError, "signs is on meta but x is on cpu"),
        ((X.int(), 0.5), {}, ValueError, "scale must be a whole number of at most 2.53 for integer x"),
        ((X.int(),), dict(signs=torch.ones(24)), TypeError, "signs must be integers for integer x"),
        ((X, torch.tensor(1.0)), {}, TypeError, "scale must be a number, got Tensor"),
        ((X,), dict(backend="gpu"), ValueError, "backend must be None or one of"),
    ],
)
def test_bad_input_is_named(args, change, error, text):
    with pytest.raises(error, match=text):
        so.hadamard_transform(*args, **change)


@pytest.mark.parametrize(
    "args, error, text",
    [
        ((X, torch.ones(24), torch.tensor([1.0])), TypeError, "rows must have dtype int64; got float32"),
        ((X, torch.ones(24), torch.tensor([[1]])), ValueError, r"rows must have shape \(s,\); got \(1, 1\)"),
        ((X, torch.ones(24), torch.tensor([24])), ValueError, r"rows must be in \[0, 24\); got values from 24 to 24"),
        ((X, torch.ones(24), torch.tensor([-1])), ValueError, r"rows must be in \[0, 24\)"),
        ((X, torch.ones(12), torch.tensor([1])), ValueError, r"signs must have shape \(24,\)"),
        ((X, None, torch.tensor([1])), TypeError, "signs must be a torch.Tensor"),
        ((X.int(), torch.ones(24), torch.tensor([1])), TypeError, "x must have dtype"),
    ],
)
def test_srht_bad_input_is_named(args, error, text):
    with pytest.raises(error, match=text):
        so.srht(*args)


def test_an_outer_level_differentiates_through_vmap():
    x, signs = torch.randn(3, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    rows = torch.tensor([1, 5, 1])
    for f, r in [
        (lambda z: so.hadamard_transform(z, signs=signs), lambda z: z * signs @ dense(8).T),
        (lambda z: so.srht(z, signs, rows, 1.0), lambda z: (z * signs @ dense(8).T)[..., rows]),
    ]:
        got = torch.func.grad(lambda x, f=f: torch.vmap(f)(x).square().sum())(x)
        torch.testing.assert_close(got, torch.func.grad(lambda x, r=r: r(x).square().sum())(x))
        torch._dynamo.reset()
        inside = torch.compile(lambda x, f=f: torch.func.grad(lambda x: f(x).square().sum())(x), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(inside(x), got)
        with pytest.raises(Exception, match="jvp"):
            torch.func.jvp(f, (x,), (x,))
    many = torch.randn(3, 8, dtype=torch.float64)
    by_signs = torch.func.grad(lambda s: torch.vmap(lambda z, s: so.hadamard_transform(z, signs=s))(x, s).square().sum())(many)
    torch.testing.assert_close(by_signs, torch.func.grad(lambda s: (x * s @ dense(8).T).square().sum())(many))


def test_sixteen_bit_gradients_are_summed_in_float():
    x = torch.randn(2, 4).bfloat16().requires_grad_()
    so.srht(x, torch.ones(4), torch.zeros(3000, dtype=torch.int64), 1 / 3000).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    z, signs = torch.full((4, 256), 300.0).half(), torch.ones(256, requires_grad=True)
    y = so.hadamard_transform(z, 1 / 16, signs=signs)
    (g,) = torch.autograd.grad(y, signs, torch.full_like(y, 20))
    assert g[0] == 384000 and torch.isfinite(g).all()
    w, s = torch.randn(64, 128).bfloat16().requires_grad_(), torch.randn(128)
    c = torch.randn(64, 128).bfloat16()
    (frozen,) = torch.autograd.grad(so.hadamard_transform(w, signs=s), w, c)
    learned, _ = torch.autograd.grad(so.hadamard_transform(w, signs=s.requires_grad_()), (w, s), c)
    assert torch.equal(frozen, learned), "dx must not depend on whether the signs learn"


def test_autocast_does_not_narrow_the_reference():
    x = torch.randn(16, 192)
    plain = so.hadamard_transform(x, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(so.hadamard_transform(x, backend="reference"), plain)


@pytest.mark.parametrize("scale", [2**53 + 2, 2**64, float("nan"), float("inf"), 0.5])
def test_integer_scales_are_exact_or_refused(scale):
    with pytest.raises(ValueError, match="scale must be a whole number of at most 2\\^53 for integer x"):
        so.hadamard_transform(torch.ones(2, 4, dtype=torch.int64), scale)
