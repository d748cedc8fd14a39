"""`fft_conv_state`, `fft_conv_step`, `fft_conv_block`: any partition of a stream into blocks against the whole call."""

import random

import fft_conv_oracle as oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import testing

BACKENDS = ["reference", None]
D = torch.float64


def partition(length, seed, choice=(0, 1, 1, 2, 3, 5, 31, 32, 33, 64, 100, 250)):
    draw, sizes = random.Random(seed), []
    while sum(sizes) < length:
        sizes.append(min(length - sum(sizes), draw.choice(choice)))
    return sizes


def stream(state, u, sizes, dim=-1, **gates):
    parts, at = [], 0
    for n in sizes:
        cut = {name: g.narrow(dim, at, n) for name, g in gates.items()}
        y, after = so.fft_conv_step(state, u.narrow(dim, at, n), **cut)
        assert after is state
        parts.append(y)
        at += n
    return parts


def joined(*args, dim=-1, **kwargs):
    return torch.cat(stream(*args, dim=dim, **kwargs), dim)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("taps", [1, 2, 5, 32, 33, 34, 65, 200, 400, 900])
def test_any_partition_is_the_whole_call(backend, taps):
    length = 400
    u, k = torch.randn(2, 3, length, dtype=D), torch.randn(3, taps, dtype=D)
    expect = oracle.fft_conv(u, k)
    for seed, sizes in enumerate([[1] * length, [length], [0, length, 0], *(partition(length, s) for s in range(4))]):
        limit = length if seed % 2 else None
        state = so.fft_conv_state(k, 2, max_length=limit, backend=backend)
        torch.testing.assert_close(joined(state, u, sizes), expect)
        assert state.position == length
    # a prefill of any size, then single steps
    for prefill in (31, 32, 33, 63, 64, 100, 129, 255, 256, 257, 300):
        state = so.fft_conv_state(k, 2, backend=backend)
        torch.testing.assert_close(joined(state, u, [prefill] + [1] * 70), expect[..., : prefill + 70])


def test_a_long_stream_keeps_little():
    k = torch.randn(2, 70, dtype=D)
    u = torch.randn(1, 2, 5000, dtype=D)
    state = so.fft_conv_state(k, 1)
    assert state.nbytes == 2 * 2 * 128 * 8
    torch.testing.assert_close(joined(state, u, partition(5000, 1)), so.fft_conv(u, k))
    short = so.fft_conv_state(torch.randn(2, 9000, dtype=D), 1, max_length=65)
    assert short.history.shape == (1, 2, 64)  # taps beyond the longest stream are left out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["bhl", "blh"])
@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
def test_everything_around_it(backend, layout, activation):
    b, h, length = 3, 4, 150
    u, g1, g2 = (torch.randn(b, h, length, dtype=D) for _ in range(3))
    skip, mask = torch.randn(h, dtype=D), torch.rand(b, h, dtype=D)
    blh = layout == "blh"
    turn = (lambda t: t.mT) if blh else (lambda t: t)
    dim = 1 if blh else -1
    for leading in [(h,), (2,), (b, h), (b, 1)]:
        k = torch.randn(*leading, 60, dtype=D)
        expect = oracle.fft_conv(u, k, skip=skip, gate_in=g1, gate_out=g2, activation=activation, mask=mask)
        state = so.fft_conv_state(k, b, channels=h, skip=skip, activation=activation, mask=mask, layout=layout, backend=backend)
        for y in stream(state, turn(u), [1, 2, 0, 40], dim, gate_in=turn(g1), gate_out=turn(g2)):
            assert y.is_contiguous()
        got = joined(state.reset(), turn(u), partition(length, 3), dim=dim, gate_in=turn(g1), gate_out=turn(g2))
        torch.testing.assert_close(turn(got), expect)
    k, skip, gate = torch.randn(2, h, 60, dtype=D), torch.randn(2, h, dtype=D), torch.randn(b, 2, h, length, dtype=D)
    expect = so.fft_conv(u, k, multi=True, skip=skip, gate_in=g1, gate_out=gate, activation=activation, mask=mask)
    state = so.fft_conv_state(k, b, multi=True, skip=skip, activation=activation, mask=mask, layout=layout, backend=backend)
    gate = gate.permute(0, 3, 1, 2) if blh else gate
    got = joined(state, turn(u), partition(length, 4), dim=dim, gate_in=turn(g1), gate_out=gate)
    torch.testing.assert_close(got.permute(0, 2, 3, 1) if blh else got, expect)
    state = so.fft_conv_state(k, b, multi=True, backend=backend)  # one gate for every filter
    got = joined(state, u, partition(length, 5), gate_out=g2)
    torch.testing.assert_close(got, so.fft_conv(u, k, multi=True, gate_out=g2))


def test_batch_shapes_and_empties():
    k = torch.randn(3, 50, dtype=D)
    u = torch.randn(2, 5, 3, 90, dtype=D)
    for batch, x in [((2, 5), u), ((5,), u[0]), (5, u[1]), ((), u[0, 0]), ([2, 5], u)]:
        state = so.fft_conv_state(k, batch)
        torch.testing.assert_close(joined(state, x, [40, 1, 0, 49]), so.fft_conv(x, k))
    empty = so.fft_conv_state(k, 0)
    y, empty = so.fft_conv_step(empty, torch.empty(0, 3, 40, dtype=D))
    assert y.shape == (0, 3, 40) and empty.position == 40
    none = so.fft_conv_state(k[:1], 2, channels=0)
    assert so.fft_conv_step(none, torch.empty(2, 0, 40, dtype=D))[0].shape == (2, 0, 40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    """The state is kept in float32 and a result rounded once: no block adds to the error of the whole call."""
    tally = testing.Tally()
    for taps in (40, 600):
        u, gate = torch.randn(2, 3, 600).to(dtype), torch.randn(2, 3, 600).to(dtype)
        k, skip = torch.randn(3, taps), torch.randn(3)
        exact = oracle.fft_conv(u, k, skip=skip, gate_in=gate, activation="gelu")
        whole = so.fft_conv(u, k, skip=skip, gate_in=gate, activation="gelu", backend="reference")
        for seed in range(3):
            state = so.fft_conv_state(k, 2, skip=skip, activation="gelu")
            got = joined(state, u, partition(600, seed, range(1, 90)), gate_in=gate)
            assert got.dtype == dtype and state.history.dtype == torch.float32
            tally.add("y", got, whole, exact)
    tally.check()
    wide = so.fft_conv_state(torch.randn(3, 5), 2, dtype=D)
    assert so.fft_conv_step(wide, torch.randn(2, 3, 4, dtype=D))[0].dtype == D


def test_layouts_do_not_matter_and_nothing_given_is_written():
    u, k = torch.randn(2, 3, 40), torch.randn(3, 50)
    expect = so.fft_conv_step(so.fft_conv_state(k, 2), u, gate_in=u)[0]
    for how, view in testing.layouts(u):
        before = view.clone()
        y, _ = so.fft_conv_step(so.fft_conv_state(k, 2), view, gate_in=view)
        assert testing.relative_error(y, expect) < 1e-6, how
        assert torch.equal(view, before)
    for _, view in testing.layouts(k):
        state = so.fft_conv_state(view, 2)
        assert testing.relative_error(so.fft_conv_step(state, u, gate_in=u)[0], expect) < 1e-6
    state, kept = so.fft_conv_state(k, 2), k.clone()
    k.zero_()  # the state has its own
    torch.testing.assert_close(so.fft_conv_step(state, u)[0], so.fft_conv(u, kept))


def test_clones_and_beams():
    u, k, mask = torch.randn(3, 2, 200, dtype=D), torch.randn(2, 200, dtype=D), torch.rand(3, 2, dtype=D)
    each = torch.randn(3, 2, 200, dtype=D)
    for kernel in (k, each):
        expect = so.fft_conv(u, kernel, mask=mask)
        state = so.fft_conv_state(kernel, 3, mask=mask)
        so.fft_conv_step(state, u[..., :77])
        copy = state.clone()
        so.fft_conv_step(state, torch.full((3, 2, 50), float("nan"), dtype=D))
        assert copy.position == 77 and state.position == 127
        beams = torch.tensor([2, 2, 0, 1])
        moved = copy.select(beams)
        torch.testing.assert_close(joined(copy, u[..., 77:], [1] * 60 + [63]), expect[..., 77:])
        torch.testing.assert_close(joined(moved, u[beams][..., 77:], [50] + [1] * 73), expect[beams][..., 77:])
        assert moved.batch_shape == (4,) and "position 200" in repr(moved)
    assert copy.detach() is copy


def test_nan_stays_in_its_row_and_passes():
    k = torch.randn(2, 20)
    u = torch.randn(2, 2, 200)
    u[0, 1, 50] = float("nan")
    y = joined(so.fft_conv_state(k, 2), u, [1] * 200)
    assert y[0, 1, 50:70].isnan().all() and y[0, 1, :50].isfinite().all() and y[0, 1, 128:].isfinite().all()
    assert y[0, 0].isfinite().all() and y[1].isfinite().all()


def test_gradients_are_refused():
    k, u = torch.randn(2, 8), torch.randn(1, 2, 5)
    with pytest.raises(RuntimeError, match="fft_conv_state has no derivative"):
        so.fft_conv_state(k.clone().requires_grad_(), 1)
    state = so.fft_conv_state(k, 1)
    wanted = u.clone().requires_grad_()
    for given in (dict(u=wanted), dict(u=u, gate_in=wanted), dict(u=u, gate_out=wanted)):
        with pytest.raises(RuntimeError, match="fft_conv_step has no derivative"):
            so.fft_conv_step(state, **given)
        assert state.position == 0
    with torch.no_grad():
        learned = so.fft_conv_state(torch.nn.Parameter(k), 1)
        y, _ = so.fft_conv_step(learned, u.clone().requires_grad_())
    assert not y.requires_grad
    with torch.inference_mode():
        assert torch.equal(so.fft_conv_step(so.fft_conv_state(k, 1), u)[0], y)


def test_work_is_that_of_relaxed_tiling(monkeypatch):
    """Products by size: half of all tiles are of W, a quarter of 2 W ..; no input is transformed again by a prefill."""
    from spectralops.ops import fft_conv_stream as module

    seen, real = [], module.fft_conv

    def counted(v, k, *, mode="causal", **how):
        seen.append((mode, v.shape[-1]))
        return real(v, k, mode=mode, **how)

    monkeypatch.setattr(module, "fft_conv", counted)
    state = so.fft_conv_state(torch.randn(1, 1025), 1)
    joined(state, torch.randn(1, 1, 1024), [1] * 1024)
    assert {n: seen.count(("toeplitz", n)) for _, n in seen} == {32: 16, 64: 8, 128: 4, 256: 2, 512: 1, 1024: 1}
    seen.clear()
    so.fft_conv_step(state.reset(), torch.randn(1, 1, 1000))
    assert seen == [x for n in (512, 256, 128, 64, 32) for x in (("causal", n), ("toeplitz", n))]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 40), taps=st.integers(1, 60), start=st.integers(-50, 80), size=st.integers(0, 40), seed=st.integers(0, 99)
)
def test_blocks_are_slices_of_the_sum(n, taps, start, size, seed):
    torch.manual_seed(seed)
    u, k = torch.randn(2, 2, n, dtype=D), torch.randn(2, taps, dtype=D)
    lag = start + torch.arange(size)[:, None] - torch.arange(n)
    dense = torch.where((lag >= 0) & (lag < taps), k[:, lag.clamp(0, taps - 1)], 0.0)
    got = so.fft_conv_block(u, k, start, size)
    torch.testing.assert_close(got, (dense @ u[..., None])[..., 0])


def test_blocks_sum_to_the_whole():
    u, k = torch.randn(2, 3, 60, dtype=D), torch.randn(3, 60, dtype=D)
    y = torch.zeros_like(u)
    for a, b in [(0, 10), (10, 37), (37, 60)]:
        for e, f in [(0, 20), (20, 21), (21, 60)]:
            for c, d in [(0, 7), (7, 60)]:
                y[..., e:f] += so.fft_conv_block(u[..., a:b], k[..., c:d], e - a - c, f - e)
    torch.testing.assert_close(y, so.fft_conv(u, k))
    x, w = (torch.randn(*s, dtype=D, requires_grad=True) for s in ((1, 2, 4), (2, 5)))
    f = lambda u, k: so.fft_conv_block(u, k, 2, 3)  # noqa: E731
    assert torch.autograd.gradcheck(f, (x, w)) and torch.autograd.gradgradcheck(f, (x, w))
    assert so.fft_conv_block(u, torch.randn(4, 3, 9, dtype=D), 3, 5, multi=True).shape == (2, 4, 3, 5)


K, U = torch.randn(3, 8), torch.randn(2, 3, 4)


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        (("k",), {}, TypeError, "k must be a torch.Tensor"),
        ((so.KernelSpectrum(K, 8),), {}, TypeError, "k must be a torch.Tensor, got KernelSpectrum"),
        ((K[0],), {}, ValueError, r"k must have shape"),
        ((K[:, :0],), {}, ValueError, "k must have at least one tap"),
        ((K, -1), {}, ValueError, "batch_shape must be an int or a tuple of them, none negative; got -1"),
        ((K, 2.0), {}, ValueError, "batch_shape must be"),
        ((K, (2, 1.5)), {}, TypeError, "batch_shape must be an int, got float"),
        ((K, 2), dict(channels=4), ValueError, "k has 3 groups, which do not divide the 4 channels"),
        ((K, 2), dict(channels="3"), TypeError, "channels must be an int"),
        ((K, 2), dict(max_length=0), ValueError, "max_length must be positive; got 0"),
        ((K, 2), dict(max_length=8.0), TypeError, "max_length must be an int"),
        ((K.expand(4, 3, 8), 2), {}, ValueError, "k has 4 samples, u has 2 rows"),
        ((K, 2), dict(skip=torch.ones(4)), ValueError, r"skip must have shape \(3,\)"),
        ((K, 2), dict(mask=torch.ones(3, 3)), ValueError, r"mask must have shape"),
        ((K, 2), dict(activation="relu"), ValueError, "activation must be one of"),
        ((K, 2), dict(layout="lbh"), ValueError, "layout must be one of"),
        ((K, 2), dict(dtype=torch.float16), TypeError, "dtype must be float32 or float64; got torch.float16"),
        ((K.double(), 2), dict(dtype=torch.float32), TypeError, "k is float64"),
    ],
)
def test_bad_states_are_named(args, change, error, text):
    with pytest.raises(error, match=text):
        so.fft_conv_state(*args, **change)


@pytest.mark.parametrize(
    "args, change, error, text",
    [
        ((U,), {}, TypeError, "u must be a torch.Tensor, got str"),
        ((torch.ones(3, 4),), {}, ValueError, r"u must have shape \(\*batch_shape, H, n\) with batch_shape \(2,\) and H 3; got"),
        ((torch.ones(2, 4, 3),), {}, ValueError, "u must have shape"),
        ((U.double(),), {}, TypeError, "u is torch.float64, the state torch.float32"),
        ((U.int(),), {}, TypeError, "u must have dtype"),
        ((U.to("meta"),), {}, ValueError, "u is on meta but state is on cpu"),
        ((torch.ones(2, 3, 9),), {}, ValueError, "u has 9 steps at position 0, the stream at most max_length = 8"),
        ((U,), dict(gate_in=torch.ones(2, 3, 5)), ValueError, "gate_in must have u's shape"),
        ((U,), dict(gate_out=torch.ones(2, 2, 4)), ValueError, "gate_out must have u's shape"),
    ],
)
def test_bad_steps_are_named(args, change, error, text):
    state = so.fft_conv_state(K, 2, max_length=8)
    args = ("u",) if "got str" in text else args
    with pytest.raises(error, match=text):
        so.fft_conv_step(state, *args, **change)
    assert state.position == 0
    with pytest.raises(TypeError, match="state must come from fft_conv_state, got Tensor"):
        so.fft_conv_step(U, U)
    with pytest.raises(ValueError, match="index must be an int64 tensor"):
        state.select([0, 1])


@pytest.mark.parametrize(
    "args, error, text",
    [
        (("u", K, 0, 4), TypeError, "u must be a torch.Tensor"),
        ((U, None, 0, 4), TypeError, "k must be a torch.Tensor"),
        ((U, K, 0.5, 4), TypeError, "start must be an int"),
        ((U, K, 0, -1), ValueError, "size must not be negative; got -1"),
        ((U[0, 0], K, 0, 1), ValueError, r"u must have shape \(..., H, n\)"),
        ((U, K[:2], 0, 1), ValueError, "k has 2 groups"),
    ],
)
def test_bad_blocks_are_named(args, error, text):
    with pytest.raises(error, match=text):
        so.fft_conv_block(*args)
