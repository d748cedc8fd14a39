"""`fft_conv`, `KernelSpectrum` and `stu_conv` against direct sums in float64 and scipy: every mode, kernel, epilogue, layout
and dtype. Derivatives and transforms are in test_fft_conv_gradients.py, bad input in test_fft_conv_input.py.
"""

import math

import fft_conv_oracle as oracle
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectralops as so
from spectralops import testing

BACKENDS = ["reference", "cpu"]
D = torch.float64
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
MODES = ["causal", "same", "circular"]


def epilogue(b, h, length, filters=None, dtype=D):
    shape = (b, h, length) if filters is None else (b, filters, h, length)
    return {
        "skip": torch.randn(h, dtype=dtype) if filters is None else torch.randn(filters, h, dtype=dtype),
        "gate_in": torch.randn(b, h, length, dtype=dtype),
        "gate_out": torch.randn(shape, dtype=dtype),
        "mask": torch.randint(0, 3, (b, h)).to(dtype) / 2,
    }


# ---- the modes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 37])
def test_every_mode_against_direct_sums(backend, mode, length):
    u = torch.randn(2, 3, length, dtype=D)
    for size in sorted({1, 2, 3, max(length - 1, 1), length, length + 1, 2 * length, 2 * length + 3, 3 * length + 1}):
        k = torch.randn(3, size, dtype=D)
        expect = oracle.fft_conv(u, k, mode=mode)
        torch.testing.assert_close(so.fft_conv(u, k, mode=mode, backend=backend), expect)
        spectrum = so.KernelSpectrum(k, length, mode=mode)
        torch.testing.assert_close(so.fft_conv(u, spectrum, mode=mode, backend=backend), expect)
        if mode == "same":
            continue
        for back in (1, 2, length, length + 4):
            k_rev = torch.randn(3, back, dtype=D)
            for offset in (0, 1):
                given = dict(mode=mode, k_rev=k_rev, rev_offset=offset)
                expect = oracle.fft_conv(u, k, **given)
                torch.testing.assert_close(so.fft_conv(u, k, **given, backend=backend), expect)
                spectrum = so.KernelSpectrum(k, length, **given)
                torch.testing.assert_close(so.fft_conv(u, spectrum, mode=mode, backend=backend), expect)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [1, 2, 3, 8, 21])
def test_toeplitz_against_scipy(backend, length):
    u, k = torch.randn(2, 3, length, dtype=D), torch.randn(3, 2 * length - 1, dtype=D)
    dense = [scipy.linalg.toeplitz(c[length - 1 :], c[:length].flip(0)) for c in k]
    expect = torch.stack([u[:, h] @ torch.from_numpy(dense[h]).T for h in range(3)], 1)
    torch.testing.assert_close(so.fft_conv(u, k, mode="toeplitz", backend=backend), expect)
    spectrum = so.KernelSpectrum(k, length, mode="toeplitz")
    torch.testing.assert_close(so.fft_conv(u, spectrum, mode="toeplitz", backend=backend), expect)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length, size", [(9, 4), (9, 9), (9, 14), (1000, 77), (1023, 1024), (513, 3000), (4000, 4000)])
def test_against_scipy_signal(backend, length, size):
    u, k = torch.randn(2, length, dtype=D), torch.randn(2, size, dtype=D)
    full = torch.stack([torch.from_numpy(scipy.signal.fftconvolve(a, b)) for a, b in zip(u, k)])
    close = lambda got, expect: testing.relative_error(got, expect) < 1e-14  # noqa: E731
    assert close(so.fft_conv(u, k, backend=backend), full[:, :length])
    assert close(so.fft_conv(u, k, mode="same", backend=backend), full[:, size // 2 : size // 2 + length])
    wrapped = torch.nn.functional.pad(full, (0, -full.shape[1] % length)).unflatten(1, (-1, length)).sum(1)
    assert close(so.fft_conv(u, k, mode="circular", backend=backend), wrapped)
    if size <= length:
        odd = k[:, : size - 1 + size % 2]
        ring = [torch.from_numpy(scipy.ndimage.convolve1d(a.numpy(), b.numpy(), mode="wrap")) for a, b in zip(u, odd)]
        centred = so.fft_conv(u, odd, mode="circular", backend=backend).roll(-(odd.shape[1] // 2), 1)
        assert close(centred, torch.stack(ring))


def test_k_rev_is_what_upstream_packages_compute():
    length, h = 12, 3
    u, k, k_rev = torch.randn(2, h, length, dtype=D), torch.randn(h, length, dtype=D), torch.randn(h, length, dtype=D)
    n = 2 * length
    fft = lambda t: torch.fft.rfft(t, n)  # noqa: E731
    shared = torch.fft.irfft(fft(u) * (fft(k) + fft(k_rev).conj()), n)[..., :length]  # H3, safari
    torch.testing.assert_close(so.fft_conv(u, k, k_rev=k_rev), shared)
    pad = torch.nn.functional.pad
    both = pad(k, (0, length)) + pad(k_rev.flip(-1), (length, 0))  # S4, FlashFFTConv
    torch.testing.assert_close(so.fft_conv(u, k, k_rev=k_rev, rev_offset=1), torch.fft.irfft(fft(u) * fft(both), n)[..., :length])


# ---- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_kernels_grouped_per_sample_and_several(backend, mode):
    b, h, length = 3, 4, 11
    u = torch.randn(b, h, length, dtype=D)
    for leading in [(h,), (2,), (1,), (b, h), (b, 2), (b, 1)]:
        k = torch.randn(*leading, 6, dtype=D)
        torch.testing.assert_close(so.fft_conv(u, k, mode=mode, backend=backend), oracle.fft_conv(u, k, mode=mode))
        ready = so.KernelSpectrum(k, length, mode=mode)
        torch.testing.assert_close(so.fft_conv(u, ready, mode=mode, backend=backend), oracle.fft_conv(u, k, mode=mode))
    for leading in [(2, h), (2, 1), (1, h), (b, 2, h), (b, 2, 2)]:
        k = torch.randn(*leading, 6, dtype=D)
        given = dict(mode=mode, multi=True, activation="silu", **epilogue(b, h, length, leading[-2]))
        torch.testing.assert_close(so.fft_conv(u, k, **given, backend=backend), oracle.fft_conv(u, k, **given))
        ready = so.KernelSpectrum(k, length, mode=mode, multi=True)
        torch.testing.assert_close(so.fft_conv(u, ready, **given, backend=backend), oracle.fft_conv(u, k, **given))
    if mode != "same":
        for one, other in [((2,), (h,)), ((h,), (1,)), ((b, 2), (h,)), ((h,), (b, 1))]:
            k, k_rev = torch.randn(*one, 5, dtype=D), torch.randn(*other, 8, dtype=D)
            given = dict(mode=mode, k_rev=k_rev, rev_offset=1)
            torch.testing.assert_close(so.fft_conv(u, k, **given, backend=backend), oracle.fft_conv(u, k, **given))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_gate_for_several_filters(backend):
    u, k, gate = torch.randn(2, 3, 7, dtype=D), torch.randn(4, 3, 5, dtype=D), torch.randn(2, 3, 7, dtype=D)
    got = so.fft_conv(u, k, gate_out=gate, skip=torch.ones(3, dtype=D), multi=True, backend=backend)
    torch.testing.assert_close(got, oracle.fft_conv(u, k, gate_out=gate, skip=torch.ones(4, 3), multi=True))
    blh = so.fft_conv(u.mT, k, gate_out=gate.mT, skip=torch.ones(3, dtype=D), multi=True, layout="blh", backend=backend)
    assert blh.shape == (2, 7, 4, 3) and blh.is_contiguous()
    torch.testing.assert_close(blh.permute(0, 2, 3, 1), got)


@pytest.mark.parametrize("backend", BACKENDS)
def test_stu_conv(backend):
    u, filters = torch.randn(2, 9, 3, dtype=D), torch.randn(4, 14, dtype=D)
    plus, minus = so.stu_conv(u, filters, backend=backend)
    sign = (-1.0) ** torch.arange(9, dtype=D)
    k = filters[:, None].expand(4, 3, 14)
    expect = oracle.fft_conv(u.mT, k, multi=True)
    torch.testing.assert_close(plus, expect.permute(0, 3, 1, 2))
    alternate = oracle.fft_conv(u.mT * sign, k, multi=True) * sign
    torch.testing.assert_close(minus, alternate.permute(0, 3, 1, 2))
    for got, given in zip(so.stu_conv(u.mT, filters, layout="bhl", backend=backend), (expect, alternate)):
        torch.testing.assert_close(got, given)
    for bad, error, text in [
        (torch.ones(3), ValueError, r"filters must have shape \(F, K\); got \(3,\)"),
        (torch.ones(0, 3), ValueError, r"filters must have at least one filter and tap; got \(0, 3\)"),
        ("f", TypeError, "filters must be a torch.Tensor"),
        (torch.ones(2, 3, device="meta"), ValueError, "filters is on meta"),
    ]:
        with pytest.raises(error, match=text):
            so.stu_conv(u, bad)
    with pytest.raises(TypeError, match="filters is float64 but u is float32"):
        so.stu_conv(u.float(), filters)


# ---- everything around the convolution -------------------------------------------------------------------------------

NAMES = ("skip", "gate_in", "gate_out", "mask", "activation")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("names", [(n,) for n in NAMES] + [NAMES, NAMES[:3], NAMES[2:]])
def test_epilogues(backend, names):
    u, k = torch.randn(2, 3, 13, dtype=D), torch.randn(3, 6, dtype=D)
    every = epilogue(2, 3, 13)
    for activation in ("silu", "gelu") if "activation" in names else (None,):
        given = {n: t for n, t in every.items() if n in names}
        expect = oracle.fft_conv(u, k, activation=activation, **given)
        torch.testing.assert_close(so.fft_conv(u, k, activation=activation, **given, backend=backend), expect)
        turned = {n: t.mT if n in ("gate_in", "gate_out") else t for n, t in given.items()}
        y = so.fft_conv(u.mT, k, activation=activation, layout="blh", **turned, backend=backend)
        assert y.is_contiguous()
        torch.testing.assert_close(y.mT, expect)
        narrow = {n: t.float() for n, t in given.items()}
        single = so.fft_conv(u.float(), k.float(), activation=activation, **narrow, backend=backend)
        assert testing.relative_error(single, expect) < 2e-6


def test_epilogues_broadcast():
    u, k = torch.randn(2, 3, 8, dtype=D), torch.randn(3, 8, dtype=D)
    for shape in [(8,), (3, 1), (1, 3, 8), (2, 1, 1), ()]:
        gate = torch.randn(shape, dtype=D)
        expect = oracle.fft_conv(u, k, gate_in=gate.expand(u.shape), gate_out=gate.expand(u.shape))
        torch.testing.assert_close(so.fft_conv(u, k, gate_in=gate, gate_out=gate), expect)
    for mask in (torch.tensor(0.5), torch.rand(3), torch.rand(2, 1), torch.rand(1, 3), torch.tensor([[True, False, True]])):
        expect = oracle.fft_conv(u, k, mask=mask.expand(2, 3))
        torch.testing.assert_close(so.fft_conv(u, k, mask=mask), expect)


# ---- shapes, layouts, dtypes -----------------------------------------------------------------------------------------


def same(got, expect):
    """To a unit of rounding: vectorised and scalar code round an activation differently."""
    return testing.relative_error(got, expect) <= torch.finfo(got.dtype).eps


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_dimensions(backend):
    k, skip = torch.randn(3, 5, dtype=D), torch.randn(3, dtype=D)
    u = torch.randn(2, 4, 3, 7, dtype=D)
    expect = so.fft_conv(u.flatten(0, 1), k, skip=skip, gate_in=u.flatten(0, 1), backend=backend)
    got = so.fft_conv(u, k, skip=skip, gate_in=u, mask=torch.ones(2, 4, 3, dtype=D), backend=backend)
    assert got.shape == u.shape and same(got, expect.view(u.shape))
    blh = so.fft_conv(u.mT, k, skip=skip, gate_in=u.mT, layout="blh", backend=backend)
    assert same(blh.mT, got) and blh.is_contiguous()
    assert same(so.fft_conv(u[0, 0], k, skip=skip, gate_in=u[0, 0], backend=backend), got[0, 0])
    several = so.fft_conv(u, k[None], multi=True, backend=backend)
    assert several.shape == (2, 4, 1, 3, 7)
    assert so.fft_conv(u.mT, k[None], multi=True, layout="blh", backend=backend).shape == (2, 4, 7, 1, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_do_not_matter(backend):
    u, k = torch.randn(2, 4, 10), torch.randn(4, 6)
    given = dict(activation="gelu", **epilogue(2, 4, 10, dtype=torch.float32))
    expect = so.fft_conv(u, k, **given, backend=backend)
    for name in ("u", "k", *given):
        if name == "activation":
            continue
        every = dict(u=u, k=k, **given)
        for how, view in testing.layouts(every[name]):
            before = view.clone()
            with testing.poison():
                got = so.fft_conv(**{**every, name: view}, backend=backend)
            assert got.is_contiguous() and same(got, expect), (name, how)
            assert torch.equal(view, before), f"{name}, {how}: the input was written"
    row = torch.randn(10)
    wide = so.fft_conv(row.expand(2, 4, 10), k, gate_in=row[:1].expand(2, 4, 10), gate_out=row.expand(2, 4, 10), backend=backend)
    assert same(wide, so.fft_conv(row.repeat(2, 4, 1), k, gate_in=row[:1], gate_out=row.repeat(2, 4, 1), backend=backend))
    blh = u.mT.contiguous()
    turned = {n: t.mT.contiguous() if n.startswith("gate") else t for n, t in given.items() if n != "activation"}
    for _, view in testing.layouts(blh):
        got = so.fft_conv(view, k, layout="blh", activation="gelu", **turned, backend=backend)
        assert got.is_contiguous() and same(got.mT, expect)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    k = torch.randn(3, 5, dtype=D)
    for shape in [(0, 3, 8), (2, 3, 0), (2, 0, 3, 8), (0, 3, 0)]:
        u = torch.empty(shape, dtype=D, requires_grad=True)
        weights = k.clone().requires_grad_()
        for mode in MODES:
            given = dict(gate_in=u, skip=k[:, 0], mask=torch.ones(3), activation="silu")
            y = so.fft_conv(u, weights, mode=mode, **given, backend=backend)
            assert y.shape == shape
            du, dk = torch.autograd.grad(y.sum(), (u, weights))
            assert du.shape == shape and torch.equal(dk, torch.zeros_like(k))
    assert so.fft_conv(torch.empty(2, 0, 3), k.float(), layout="blh", backend=backend).shape == (2, 0, 3)
    assert so.fft_conv(torch.empty(0, 3, 8), k.float()[None], multi=True, backend=backend).shape == (0, 1, 3, 8)
    assert so.fft_conv(torch.empty(2, 0, 8), torch.ones(1, 4), backend=backend).shape == (2, 0, 8)


def rounded_once(got, exact, n):
    """Computed in float32 and rounded once: half a unit of the dtype and what transforms of n points lose."""
    units = torch.finfo(got.dtype).eps / 2 if got.dtype.itemsize == 2 else 0
    inner = torch.finfo(D if got.dtype == D else torch.float32).eps
    assert testing.relative_error(got, exact) <= units + max(n, 4).bit_length() * inner


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes(backend, dtype):
    cases = [(m, length, size) for m in MODES for length, size in [(5, 9), (64, 64), (300, 40)]]
    tally = testing.Tally()
    for mode, length, size in cases + [("toeplitz", 64, 127)]:
        u = torch.randn(2, 4, length).to(dtype)
        for k_dtype in {dtype, torch.float32}:
            k = torch.randn(4, size).to(k_dtype)
            given = epilogue(2, 4, length, dtype=dtype)
            exact = oracle.fft_conv(u, k, mode=mode, activation="gelu", **given)
            y = so.fft_conv(u, k, mode=mode, activation="gelu", **given, backend=backend)
            assert y.dtype == dtype
            rounded_once(y, exact, length)
            own = torch.float32 if dtype == D else dtype
            plain = so.fft_conv(*(t.to(own) for t in (u, k)), mode=mode, activation="gelu",
                                **{n: t.to(own) for n, t in given.items()}, backend="reference")  # fmt: skip
            tally.add("y", y, plain, exact)
    tally.check()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wider_gate_widens_the_arithmetic_alone(backend, dtype):
    u, k, gate = torch.randn(2, 3, 40).to(dtype), torch.randn(3, 40), torch.randn(2, 3, 40)
    for names in (["gate_in"], ["gate_out"], ["gate_in", "gate_out"]):
        given = dict.fromkeys(names, gate)
        y = so.fft_conv(u, k, **given, backend=backend)
        assert y.dtype == dtype
        rounded_once(y, oracle.fft_conv(u, k, **given), 40)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1.0, 0.02, 4e-4])
def test_float16_does_not_underflow(backend, scale):
    for length in (1024, 8192):
        u = (torch.randn(1, 2, length) * scale).half()
        k = torch.randn(2, length) * torch.exp(-0.002 * torch.arange(length)) * 0.2
        exact = so.fft_conv(u.double(), k.double(), backend="reference")
        assert testing.relative_error(so.fft_conv(u, k, backend=backend), exact) < 1e-3
        gate = (torch.randn(1, 2, length) * scale).half()
        exact = so.fft_conv(u.double(), k.double(), gate_in=gate.double(), backend="reference")
        up = 2.0 ** round(-math.log2(scale))  # gate_in u is below float16's range, the result is not
        y = so.fft_conv(u, k * up**2, gate_in=gate, backend=backend)
        assert testing.relative_error(y.double() / up**2, exact) < 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_stay_in_their_row(backend):
    for mode in MODES:
        u, k = torch.randn(3, 2, 20), torch.randn(2, 9)
        clean = so.fft_conv(u, k, mode=mode, backend=backend)
        for bad in (float("nan"), float("inf"), -float("inf")):
            dirty = u.clone()
            dirty[1, 0, 13] = bad
            y = so.fft_conv(dirty, k, mode=mode, backend=backend)
            assert y[1, 0].isnan().all()
            keep = torch.ones(3, 2, dtype=torch.bool)
            keep[1, 0] = False
            assert torch.equal(y[keep], clean[keep])
            taps = k.clone()
            taps[1, 4] = bad
            y = so.fft_conv(u, taps, mode=mode, backend=backend)
            assert y[:, 1].isnan().all() and torch.equal(y[:, 0], clean[:, 0])


@settings(max_examples=60, deadline=None)
@given(
    u=testing.tensors(st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 4]), st.integers(1, 40)), dtypes=FLOATS),
    data=st.data(),
)
def test_any_tensor(u, data):
    b, h, length = u.shape
    mode = data.draw(st.sampled_from([*MODES, "toeplitz"]))
    size = 2 * length - 1 if mode == "toeplitz" else data.draw(st.integers(1, 2 * length + 5))
    groups = data.draw(st.sampled_from([g for g in (1, 2, 4) if h % g == 0]))
    shape = data.draw(st.sampled_from([(groups, size), (max(b, 1), groups, size)]))
    shape = shape if b else shape[-2:]
    k = data.draw(testing.tensors(st.just(shape), dtypes=[u.dtype]))
    given = {}
    for name in data.draw(st.lists(st.sampled_from(["gate_in", "gate_out"]), unique=True)):
        given[name] = data.draw(testing.tensors(st.just(tuple(u.shape)), dtypes=[u.dtype], scale=1.0))
    if data.draw(st.booleans()):
        given["skip"] = data.draw(testing.tensors(st.just((h,)), dtypes=[u.dtype]))
    blh = data.draw(st.booleans())
    turn = (lambda t: t.mT) if blh else (lambda t: t)
    turned = {n: turn(t) if n != "skip" else t for n, t in given.items()}
    y = turn(so.fft_conv(turn(u), k, mode=mode, layout="blh" if blh else "bhl", **turned))
    assert y.shape == u.shape and y.dtype == u.dtype
    exact = oracle.fft_conv(u, k, mode=mode, **given)
    error = (y.double() - exact).norm()
    # of the sums of magnitudes: a convolution may cancel, and then no rounding is small beside the result
    sizes = oracle.fft_conv(u.abs(), k.abs(), mode=mode, **{n: t.abs() for n, t in given.items()}).norm()
    own = torch.finfo(u.dtype).eps if u.dtype != D else 0
    inner = torch.finfo(D if u.dtype == D else torch.float32).eps
    assert error <= own * exact.norm() + 8 * inner * sizes + torch.finfo(u.dtype).tiny


# ---- sequences of many lengths, one after the other --------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["bhl", "blh"])
@pytest.mark.parametrize("ends", [[0, 3, 3, 9, 13], [0, 0, 13, 13], [0, 1, 2, 13], [0, 13], [0, 0]])
def test_packed_sequences(backend, layout, ends):
    total, h, rows = ends[-1], 2, len(ends) - 1
    u = torch.randn(1, h, total, dtype=D)
    gate = torch.randn(1, h, total, dtype=D)
    skip, mask = torch.randn(h, dtype=D), torch.rand(rows, h, dtype=D)
    turn = (lambda t: t.mT) if layout == "blh" else (lambda t: t)
    for k in (torch.randn(h, 5, dtype=D), torch.randn(h, 30, dtype=D), torch.randn(rows, 1, 4, dtype=D)):
        for extra in ({}, {"k_rev": torch.randn(*k.shape[:-1], 6, dtype=D), "rev_offset": 1}):
            each = []
            for r, (a, b) in enumerate(zip(ends, ends[1:])):
                one = {n: t if t is None or t.ndim < 3 else t[r : r + 1] for n, t in extra.items() if n == "k_rev"}
                taps = k if k.dim() == 2 else k[r : r + 1]
                if b > a:
                    each.append(oracle.fft_conv(u[..., a:b], taps, skip=skip, gate_in=gate[..., a:b], gate_out=gate[..., a:b],
                                                activation="silu", mask=mask[r : r + 1], **one, rev_offset=1))  # fmt: skip
            expect = torch.cat(each, -1) if each else u
            longest = max(b - a for a, b in zip(ends, ends[1:]))
            for dtype in (torch.int32, torch.int64):
                for given in ({}, {"max_seqlen": max(longest, 1)}, {"max_seqlen": total + 5}):
                    y = so.fft_conv(turn(u), k, skip=skip, gate_in=turn(gate), gate_out=turn(gate), activation="silu", mask=mask,
                                    cu_seqlens=torch.tensor(ends, dtype=dtype), layout=layout, backend=backend,
                                    **extra, **given)  # fmt: skip
                    torch.testing.assert_close(turn(y), expect)


# ---- KernelSpectrum --------------------------------------------------------------------------------------------------


def test_a_spectrum_serves_shorter_rows_and_other_dtypes():
    k = torch.randn(4, 40, dtype=D)
    causal, same = so.KernelSpectrum(k, 32), so.KernelSpectrum(k[:, :9], 32, mode="same")
    for length in (1, 7, 31, 32):
        u = torch.randn(2, 4, length, dtype=D)
        torch.testing.assert_close(so.fft_conv(u, causal), oracle.fft_conv(u, k))
        torch.testing.assert_close(so.fft_conv(u, same, mode="same"), oracle.fft_conv(u, k[:, :9], mode="same"))
    assert causal.grid >= 32 and causal.spectrum.shape == (1, 1, 4, causal.grid, 2)
    assert "length 32, causal" in repr(causal)
    single = causal.to(torch.float32)
    assert single.spectrum.dtype == torch.float32 and causal.spectrum.dtype == D
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        u = torch.randn(2, 4, 20).to(dtype)
        rounded_once(so.fft_conv(u, single, skip=k[:, 0].float(), activation="gelu"),
                     oracle.fft_conv(u, k, skip=k[:, 0].float(), activation="gelu"), 64)  # fmt: skip
    packed = torch.randn(1, 4, 50, dtype=D)
    cu = torch.tensor([0, 20, 20, 50])
    torch.testing.assert_close(so.fft_conv(packed, causal, cu_seqlens=cu), so.fft_conv(packed, k, cu_seqlens=cu))


def test_a_rational_spectrum():
    h, n, length = 3, 4, 400
    poles = torch.tensor([0.9, 0.5, -0.6, 0.3], dtype=D)
    a = torch.stack([torch.tensor(scipy.signal.zpk2tf([], poles * s, 1)[1][1:]) for s in (1, 0.7, 0.95)])
    b, h0 = torch.randn(h, n, dtype=D), torch.randn(h, dtype=D)
    impulse = torch.zeros(length, dtype=D)
    impulse[0] = 1
    response = torch.stack([
        torch.from_numpy(scipy.signal.lfilter([0, *y.tolist()], [1, *x.tolist()], impulse.numpy())) for x, y in zip(a, b)
    ])  # fmt: skip
    u = torch.randn(2, h, length, dtype=D)
    expect = oracle.fft_conv(u, response, skip=h0)
    torch.testing.assert_close(so.fft_conv(u, so.KernelSpectrum.from_rational(a, b, length, h0=h0)), expect)
    torch.testing.assert_close(so.fft_conv(u, so.KernelSpectrum.from_rational(a, b, length), skip=h0), expect)
    # a response that has not died away is folded: RTF's expression, on the roots of unity of its length
    slow = torch.tensor([[-0.999, 0.0]], dtype=D)
    gain = torch.tensor([[1.0, 0.5]], dtype=D)
    one = torch.ones(1, 1, dtype=D)
    top, below = torch.cat([0 * one, gain], 1), torch.cat([one, slow], 1)
    rtf = torch.fft.irfft(torch.fft.rfft(top, 64) / torch.fft.rfft(below, 64), 64)
    x = torch.randn(1, 1, 64, dtype=D)
    torch.testing.assert_close(so.fft_conv(x, so.KernelSpectrum.from_rational(slow, gain, 64)), oracle.fft_conv(x, rtf))
    mixed = so.KernelSpectrum.from_rational(a.float(), b, length)
    assert mixed.spectrum.dtype == D  # not cut to float32 in silence


def test_explain():
    u, k = torch.randn(2, 3, 8), torch.randn(3, 8)
    text = so.explain("fft_conv", u, k, skip=torch.ones(3), mode="same")
    assert text.startswith("fft_conv on cpu, float32 2x3x8: ") and "reference" in text
    assert "nothing to launch" in so.explain("fft_conv", u[:0], k)
