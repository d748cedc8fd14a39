"""fft_conv on a GPU, in CUDA C++ and Triton: every length class, dtype and epilogue against float64; streams, graphs, bounds, isolation.

Needs torch, numpy and pytest alone, so that it runs on a machine without a network.
"""

import pytest
import torch

import spectralops as so
from spectralops import backends, testing
from spectralops.ops import fft_conv_reference as spec
from spectralops.ops.fft_conv_check import normalise

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NAMES = ("y", "du", "dk", "dskip", "dgate_in", "dgate_out", "dmask")


@pytest.fixture(params=["cuda", "triton"])
def backend(request):
    call = spec.Call(0, 0, "identity", "highest", False, 64)
    u, k = torch.zeros(1, 2, 64, device="cuda"), torch.zeros(1, 1, 2, 64, device="cuda")
    able, reason = backends.backend(request.param).supports("fft_conv", u, k, None, None, None, None, None, call)
    if not able:
        pytest.skip(reason)
    return request.param


def make(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to("cuda", dtype)


def problem(dtype, rows=3, channels=6, length=300, size=None, groups=None, seed=0):
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    shape = (rows, channels, length)
    k = make((groups or channels, size or length), compute, seed + 1) / (size or length) ** 0.5
    return [make(shape, dtype, seed), k, make((channels,), compute, seed + 2), make(shape, dtype, seed + 3),
            make(shape, dtype, seed + 4), make((rows, channels), compute, seed + 5)]  # fmt: skip


def results(tensors, backend, dtype=None, **more):
    """y and its gradients."""
    leaves = [(t if dtype is None else t.to(dtype)).detach().requires_grad_() for t in tensors]
    u, k, skip, gate_in, gate_out, mask = leaves
    y = so.fft_conv(u, k, skip=skip, gate_in=gate_in, gate_out=gate_out, mask=mask, backend=backend, **more)
    grad = make(y.shape, tensors[0].dtype, 50).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, grad)]


def able(backend, dtype, **more):
    """Whether the backend says it can; what it cannot it must say, not get wrong."""
    try:
        results(problem(dtype), backend, **more)
    except RuntimeError as error:
        if "cannot run" in str(error):
            return False
        raise
    return True


def rounded(tensors, activation=None):
    """results() of the formula with the operands that one-pass tf32 rounds, of a causal call with one filter."""
    import fft_conv_operands

    u, k, skip, gate_in, gate_out, mask = (t.cpu() for t in tensors)
    a = normalise(u, k, skip, gate_in, gate_out, None, "causal", activation, mask, "bhl", "highest", False, 0, None, None)
    grad = make(u.shape, u.dtype, 50).cpu()[:, None]
    call = [grad, a.u, a.kernel, a.skip, a.gate_in, a.gate_out, a.mask, None]
    y, du, dk, dskip, dgate_in, dgate_out, dmask = fft_conv_operands.run(call, a.call, (True,) * 6)
    return [y[:, 0], du, dk[0, 0], dskip[0], dgate_in, dgate_out[:, 0], dmask]


def hold(tally, tensors, backend, **more):
    with testing.poison():
        got = results(tensors, backend, **more)
    exact = results(tensors, "reference", torch.float64, **more)
    if backend == "triton" and tensors[0].dtype == torch.bfloat16:
        plain = rounded(tensors, **more)
    else:
        plain = results(tensors, "reference", torch.float32 if tensors[0].dtype == torch.float64 else None, **more)
    for name, *three in zip(NAMES, got, plain, exact):
        tally.add(name, *three)
    return got


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
def test_every_epilogue(backend, dtype, activation):
    if not able(backend, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    tally = testing.Tally()
    for seed in range(4):
        hold(tally, problem(dtype, seed=10 * seed), backend, activation=activation)
    tally.check()


@pytest.mark.parametrize("length", [1, 2, 5, 31, 64, 100, 511, 1024, 1500, 2048, 4096, 5000, 8192, 16384])
def test_every_length(backend, length):
    tally = testing.Tally()
    for dtype in (torch.float32, torch.bfloat16):
        for seed in range(3):
            hold(tally, problem(dtype, 2, 3, length, seed=seed), backend)
    tally.check()


@pytest.mark.parametrize("length", [32768, 100_000, 1 << 20])
def test_long_rows(length):
    """With the automatic choice: whatever takes them must be right."""
    tensors = problem(torch.float32, 1, 2, length)
    tally = testing.Tally()
    hold(tally, tensors, None)
    tally.check()


@pytest.mark.parametrize("more", [
    dict(mode="same"), dict(mode="circular"), dict(layout="blh"), dict(multi=True), dict(k_rev=True), dict(per_sample=True),
    dict(groups=2), dict(short=True), dict(cu=True), dict(spectrum=True),
], ids=str)  # fmt: skip
def test_every_form(backend, more):
    tally = testing.Tally()
    for seed in range(3):
        u, k, skip, g, w, mask = problem(torch.float32, seed=seed, groups=more.get("groups"), size=9 if more.get("short") else None)
        extra = {n: v for n, v in more.items() if n in ("mode", "layout", "multi")}
        if more.get("layout"):
            u, g, w = (t.transpose(1, 2).contiguous() for t in (u, g, w))
        if more.get("multi"):
            k, w = torch.stack([k, k.flip(-1)]), torch.stack([w, w.flip(-1)], 1)
        if more.get("per_sample"):
            k = torch.stack([k, k.flip(-1), -k])
        if more.get("k_rev"):
            extra["k_rev"] = k.flip(0) * 0.5
        if more.get("cu"):
            u, g, w, mask = u[:1], g[:1], w[:1], torch.cat([mask, mask[:1]])
            extra["cu_seqlens"] = torch.tensor([0, 7, 7, 200, 300], device="cuda")
        if more.get("spectrum"):
            wide = [so.fft_conv(u, so.KernelSpectrum(k, 300), skip=skip, backend=backend)]
            exact = so.fft_conv(u.double(), k.double(), skip=skip.double(), backend="reference")
            testing.assert_within(wide[0], so.fft_conv(u, k, skip=skip, backend="reference"), exact)
            continue
        try:
            hold(tally, [u, k, skip, g, w, mask], backend, **extra)
        except RuntimeError as error:
            if "cannot run" not in str(error):
                raise
            pytest.skip(str(error))
    tally.check()


def test_second_derivatives(backend):
    def second(tensors, backend):
        leaves = [t.detach().requires_grad_() for t in tensors]
        u, k, skip, g, w, mask = leaves
        y = so.fft_conv(u, k, skip=skip, gate_in=g, gate_out=w, mask=mask, activation="gelu", backend=backend)
        first = torch.autograd.grad(y, leaves, make(y.shape, y.dtype, 9), create_graph=True)
        return torch.autograd.grad(sum((t * make(t.shape, t.dtype, 30 + i)).sum() for i, t in enumerate(first)), leaves)

    tally = testing.Tally()
    for seed in range(3):
        tensors = problem(torch.float32, 2, 4, 200, seed=seed)
        wide = [t.double() for t in tensors]
        for name, *three in zip(NAMES[1:], second(tensors, backend), second(tensors, "reference"), second(wide, "reference")):
            tally.add(name, *three)
    tally.check()


def test_small_numbers_in_float16(backend):
    u, k = make((2, 4, 2048), torch.float16) * 4e-4, make((4, 2048), torch.float32, 1)
    exact = so.fft_conv(u.double(), k.double(), backend="reference")
    assert testing.relative_error(so.fft_conv(u, k, backend=backend), exact) < 1e-3


def test_a_row_with_nan_stays_alone_and_two_runs_agree(backend):
    tensors = problem(torch.float32)
    first, again = results(tensors, backend), results(tensors, backend)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    u = tensors[0].clone()
    u[1, 2, 17] = float("nan")
    y = results([u, *tensors[1:]], backend)[0]
    assert y[1, 2].isnan().all()
    y[1, 2] = first[0][1, 2]
    assert torch.equal(y, first[0])


def test_layouts_bounds_streams_and_graphs(backend):
    u, k, skip, g, w, mask = problem(torch.bfloat16)
    call = lambda u: so.fft_conv(u, k, skip=skip, gate_in=g, gate_out=w, backend=backend)  # noqa: E731
    y = call(u)
    for name, same in testing.layouts(u):
        assert torch.equal(call(same), y), name
    spec_call = spec.Call(0, 0, "identity", "highest", False, u.shape[2])
    with testing.guard_bands():
        backends.backend(backend).fft_conv(u, k[None, None], skip[None], g, w[:, None], mask, None, spec_call)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = call(u)
    stream.synchronize()
    assert torch.equal(late, y)
    static, graph = u.clone(), torch.cuda.CUDAGraph()
    call(static)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = call(static)
    static.copy_(u * 2)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, call(u * 2))
