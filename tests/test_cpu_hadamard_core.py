"""csrc/cpu and csrc/capi for the Hadamard transforms, called through the C interface."""

import ctypes
import mmap
import multiprocessing
import re

import hadamard_cpu as cpu
import numpy as np
import pytest
import torch
from core_build import libgomp
from hadamard_cpu import DTYPES, INTEGERS, agrees, compute, core, everywhere, hadamard, quantize, srht

FLOATS = [d for d in DTYPES if d not in INTEGERS]


def data(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype in INTEGERS:  # the whole range: sums wrap
        info = torch.iinfo(dtype)
        return torch.from_numpy(rng.integers(info.min, info.max, shape, endpoint=True)).to(dtype)
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def signs_of(rows, n, dtype, seed=1):
    values = np.random.default_rng(seed).choice([-1.0, 1.0], (rows, n))
    return torch.from_numpy(values).to(compute(dtype))


def paley(m):
    """H_m for m - 1 a prime of the form 4 t + 3."""
    q = m - 1
    chi = np.full(q, -1)
    chi[[i * i % q for i in range(1, q)]] = 1
    chi[0] = 0
    h = np.ones((m, m), np.int64)
    h[1:, 0] = -1
    h[1:, 1:] = np.array([[chi[(i - j) % q] for j in range(q)] for i in range(q)]) + np.eye(q, dtype=np.int64)
    assert (h @ h.T == m * np.eye(m)).all()
    return h


def random_base(m):
    return np.random.default_rng(m).choice([-1, 1], (m, m))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", range(13))
def test_every_size(k, dtype):
    x = data((5, 2**k, 1), dtype)
    agrees(everywhere(hadamard, x, scale=3), x, scale=3)


@pytest.mark.parametrize(
    ("k", "dtype"),
    [
        (13, torch.float32),
        (14, torch.float64),
        (14, torch.float32),
        (15, torch.bfloat16),
        (15, torch.int32),
        (16, torch.float32),
        (16, torch.int64),
        (17, torch.float32),
        (17, torch.float16),
        (18, torch.float64),
        (19, torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("outer", [1, 3])
def test_long_rows(k, dtype, outer):
    x = data((outer, 2**k, 1), dtype)
    agrees(everywhere(hadamard, x, threads=(1, 2, 3), scale=2), x, scale=2)


@pytest.mark.parametrize("k", [20, 22])
def test_several_passes_over_memory(k):
    x = data((1, 2**k, 1), torch.float32)
    threads, isas = ((1, 2), None) if k == 20 else ((2,), [core().spectralops_cpu_capability().decode()])
    agrees(everywhere(hadamard, x, threads=threads, isas=isas), x)


def test_streamed_output():
    """Outputs beyond the caches are stored past them: 16 bit and 32 bit, one pass and two."""
    for dtype, n in [(torch.float32, 256), (torch.float32, 4096), (torch.bfloat16, 4096), (torch.bfloat16, 128)]:
        item = torch.empty(0, dtype=dtype).element_size()
        x = data((2**24 // (n * item), n, 1), dtype)
        y = torch.empty_like(x)  # aligned to lines, as the streams need it
        code = DTYPES[dtype]
        work = torch.empty(core().spectralops_hadamard_workspace(*x.shape, 1, code, -1, 2), dtype=torch.uint8)
        for isa in cpu.capabilities("hadamard"):
            assert core().spectralops_set_cpu_capability(isa.encode()) == 0
            y.view(torch.uint8).fill_(0xB7)
            cpu.invoke("hadamard", x.data_ptr(), n, y.data_ptr(), None, None, 1, None, *x.shape, 1, 0.25, 0, 0,
                       work.data_ptr() or None, work.numel(), code, -1, 2, None)  # fmt: skip
            few = hadamard(x[-7:].contiguous(), scale=0.25)
            assert torch.equal(y[-7:], few)
            assert torch.equal(y[:7], hadamard(x[:7].contiguous(), scale=0.25))
            assert not (y.view(torch.uint8).view(-1, 64) == 0xB7).all(1).any()
        core().spectralops_set_cpu_capability(None)
        agrees(few, x[-7:], scale=0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize("inner", [2, 3, 7, 16, 100])
@pytest.mark.parametrize("k", [0, 1, 3, 5, 8, 11])
def test_any_axis(k, inner, dtype):
    x = data((3, 2**k, inner), dtype)
    agrees(everywhere(hadamard, x, threads=(1, 2)), x)


@pytest.mark.parametrize(("k", "inner"), [(14, 16), (13, 100), (16, 3), (17, 5), (5, 20000), (15, 9)])
def test_any_axis_in_several_passes(k, inner):
    for dtype in (torch.float32, torch.bfloat16):
        x = data((1, 2**k, inner), dtype)
        si, so = signs_of(1, 2**k, dtype), signs_of(1, 2**k, dtype, 2)
        agrees(everywhere(hadamard, x, threads=(2,), signs_in=si, signs_out=so), x, signs_in=si, signs_out=so)


BASES = {m: paley(m) for m in (12, 20)} | {m: random_base(m) for m in (2, 3, 5, 7, 28, 33, 65, 252, 256)}


@pytest.mark.parametrize("m", BASES)
@pytest.mark.parametrize("k", [0, 1, 3, 5, 8])
def test_bases(m, k):
    dtypes = list(DTYPES) if m == 12 else [torch.float32]
    for dtype in dtypes:
        for inner in (1, 3, 16):
            if m * 2**k * inner > 2**18:
                continue
            x = data((3, m << k, inner), dtype)
            agrees(everywhere(hadamard, x, threads=(2,), base=BASES[m]), x, base=BASES[m])


@pytest.mark.parametrize(
    ("m", "k", "inner", "dtype"),
    [
        (12, 10, 1, torch.float32),
        (12, 10, 1, torch.bfloat16),
        (20, 13, 1, torch.float32),
        (12, 15, 1, torch.float16),
        (252, 8, 3, torch.float32),
        (252, 9, 1, torch.float64),
        (252, 6, 40, torch.float32),
        (28, 12, 9, torch.float32),
    ],
    ids=str,
)
def test_long_rows_with_a_base(m, k, inner, dtype):
    x = data((1, m << k, inner), dtype)
    so = signs_of(1, m << k, dtype)
    agrees(everywhere(hadamard, x, threads=(1, 2), base=BASES[m], signs_out=so), x, base=BASES[m], signs_out=so)


SIGNED = [(dtype, n, inner) for dtype in DTYPES for n, inner in [(4, 1), (64, 1), (512, 3), (32, 20)]]
SIGNED += [(torch.float32, 2**17, 1), (torch.float16, 2**17, 1)]


@pytest.mark.parametrize(("dtype", "n", "inner"), SIGNED, ids=str)
def test_signs(n, inner, dtype):
    x = data((6 if n < 2**17 else 3, n, inner), dtype)
    si, so = signs_of(3, n, dtype), signs_of(3, n, dtype, 2)
    agrees(everywhere(hadamard, x, signs_in=si, threads=(2,)), x, signs_in=si)
    agrees(everywhere(hadamard, x, signs_out=so, threads=(2,)), x, signs_out=so)
    both = dict(signs_in=si, signs_out=so, scale=2)
    agrees(everywhere(hadamard, x, threads=(2,), **both), x, **both)


def test_factors_that_are_not_signs():
    """The interface says signs, but any factor is a product in the compute type."""
    x, factors = data((4, 256, 1), torch.float32), torch.rand(2, 256) + 0.5
    agrees(everywhere(hadamard, x, signs_in=factors), x, signs_in=factors)
    agrees(everywhere(hadamard, x, signs_out=factors), x, signs_out=factors)


@pytest.mark.parametrize("order_in", cpu.ORDERS)
@pytest.mark.parametrize("order_out", cpu.ORDERS)
def test_orders(order_in, order_out):
    orders = dict(order_in=order_in, order_out=order_out)
    shapes = [(2, 1, 1), (3, 2, 1), (3, 8, 1), (3, 8, 3), (2, 64, 1), (2, 64, 20), (2, 1024, 1), (2, 256, 3)]
    for shape in [*shapes, (1, 2**17, 1), (1, 2**15, 3)]:
        for dtype in (torch.float32, torch.bfloat16, torch.int64):
            if shape[1] > 1024 and dtype != torch.bfloat16:
                continue
            x, n = data(shape, dtype), shape[1]
            si, so = signs_of(2, n, dtype), signs_of(2, n, dtype, 2)
            agrees(everywhere(hadamard, x, threads=(2,), **orders), x, **orders)
            if n < 2**14:
                got = everywhere(hadamard, x, threads=(1,), signs_in=si, signs_out=so, **orders)
                agrees(got, x, signs_in=si, signs_out=so, **orders)


@pytest.mark.parametrize(("n", "inner"), [(4, 1), (16, 1), (1024, 1), (64, 3), (12, 1), (2**17, 1)])
def test_strided_outer(n, inner):
    base = BASES[12] if n == 12 else None
    for dtype in (torch.float32, torch.float16, torch.int64)[: 3 if n < 2**17 else 1]:
        wide = data((4, n * inner + 5), dtype)
        x = wide.as_strided((4, n, inner), (n * inner + 5, inner, 1), 3)
        agrees(everywhere(hadamard, x, threads=(2,), base=base), x, base=base)
        one = wide[:1, : n * inner].reshape(1, n, inner).expand(4, n, inner)  # stride 0
        y = everywhere(hadamard, one, threads=(2,), base=base)
        agrees(y[:1], one[:1], base=base)
        assert all(torch.equal(y[0], row) for row in y)


def test_bits_do_not_depend_on_the_type():
    """16-bit values give the sums that the same values in float give, rounded once."""
    for n, inner, base in [(256, 1, None), (4096, 1, None), (2**17, 1, None), (512, 3, None), (12 * 64, 1, BASES[12])]:
        for dtype in (torch.float16, torch.bfloat16):
            x = data((2, n, inner), dtype)
            wide = hadamard(x.float(), base=base, scale=0.01)
            assert torch.equal(hadamard(x, base=base, scale=0.01), wide.to(dtype))


def test_bits_do_not_depend_on_the_axis():
    x = data((3, 1024, 1), torch.float32)
    y = hadamard(x.transpose(0, 2).contiguous())  # (1, 1024, 3)
    assert torch.equal(y, hadamard(x).transpose(0, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_special_values_stay_in_their_row(value):
    for shape in [(5, 8, 1), (5, 64, 1), (3, 4096, 1), (5, 8, 3)]:
        x = data(shape, torch.float32)
        clean = hadamard(x)
        x[1, 3] = value
        y = everywhere(hadamard, x)
        rows = [i for i in range(shape[0]) if i != 1]
        assert torch.equal(y[rows], clean[rows])
        assert not y[1].isfinite().any()


def test_nothing_to_do():
    for shape in [(0, 8, 1), (3, 8, 0), (0, 2**20, 1)]:
        assert hadamard(torch.empty(shape)).numel() == 0
    assert srht(torch.empty(0, 8), torch.tensor([1])).numel() == 0
    assert srht(torch.ones(2, 8), torch.empty(0, dtype=torch.int64)).numel() == 0
    assert quantize(torch.empty(0, 32), 32, 32, "int8")[0].numel() == 0


def test_on_the_openmp_of_torch():
    gomp = libgomp()
    if gomp is None:
        pytest.skip("this torch has no libgomp")
    x = data((64, 4096, 1), torch.float32)
    own = hadamard(x, threads=2)
    address = lambda f: ctypes.cast(f, ctypes.c_void_p)  # noqa: E731
    try:
        assert core().spectralops_set_openmp(address(gomp.GOMP_parallel), address(gomp.omp_get_thread_num)) == 0
        assert torch.equal(own, hadamard(x, threads=2))
        x = data((1, 2**18, 1), torch.float32)
        shared = hadamard(x, threads=2)
    finally:
        core().spectralops_set_openmp(None, None)
    assert torch.equal(shared, hadamard(x, threads=2))


def _at_the_end_of_a_page(queue):
    """Input and output end where a page without access begins, or begin where one ends."""
    torch.set_num_threads(1)  # an OpenMP pool does not survive a fork
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page, room = mmap.PAGESIZE, 64 * mmap.PAGESIZE

    def fenced(nbytes, at_end):
        memory = mmap.mmap(-1, room + 2 * page)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mprotect(first, page, 0) == 0 and libc.mprotect(first + page + room, page, 0) == 0
        return memory, first + page + (room - nbytes if at_end else 0)

    shapes = [(3, 2, 1), (7, 4, 1), (3, 16, 1), (5, 12, 1), (3, 24, 3), (2, 64, 7), (3, 32, 5), (2, 8, 100)]
    for isa in cpu.capabilities("hadamard"):
        core().spectralops_set_cpu_capability(isa.encode())
        for outer, n, inner in shapes:
            for dtype, code in DTYPES.items():
                x = data((outer, n, inner), dtype)
                base = BASES[12] if n in (12, 24) else None
                table = None if base is None else cpu.packed(base)
                nbytes = x.numel() * x.element_size()
                for at_end in (True, False):
                    (a, px), (b, py) = fenced(nbytes, at_end), fenced(nbytes, at_end)
                    ctypes.memmove(px, x.data_ptr(), nbytes)
                    m = 12 if base is not None else 1
                    work = cpu.Workspace(core().spectralops_hadamard_workspace(*x.shape, m, code, -1, 1))
                    cpu.invoke("hadamard", px, n * inner, py, None, None, 1, cpu.pointer(table), *x.shape,
                               m, 1.0, 0, 0, *work.arguments(), code, -1, 1, None)  # fmt: skip
                    y = torch.empty_like(x)
                    ctypes.memmove(y.data_ptr(), py, nbytes)
                    assert torch.equal(y, hadamard(x, base=base))
    queue.put(True)


def test_no_byte_outside_is_touched():
    context = multiprocessing.get_context("fork")  # a fault ends the child alone
    queue = context.SimpleQueue()
    child = context.Process(target=_at_the_end_of_a_page, args=(queue,))
    child.start()
    child.join(60)
    alive = child.is_alive()
    if alive:
        child.kill()
    assert not alive and child.exitcode == 0 and queue.get()


CHOSEN = [(dtype, n, outer) for dtype in DTYPES for n, outer in [(1, 2), (8, 5), (512, 4), (96, 3)]]
CHOSEN += [(torch.float32, 2**17, 2), (torch.bfloat16, 2**17, 2)]


@pytest.mark.parametrize(("dtype", "n", "outer"), CHOSEN, ids=str)
def test_srht(n, outer, dtype):
    base = BASES[12] if n == 96 else None
    x = data((outer, n + 3), dtype)[:, :n]
    signs = signs_of(1, n, dtype)[0]
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, n, 100))
    got = everywhere(srht, x, rows, signs=signs, base=base, scale=2)
    whole = everywhere(hadamard, x.unsqueeze(2), signs_in=signs[None], base=base, scale=2)
    agrees(whole, x.unsqueeze(2), signs_in=signs[None], base=base, scale=2)
    assert torch.equal(got, whole[:, rows, 0])


BAD = {
    "n": dict(n=24),
    "n must be 1 to 2^30": dict(n=0),
    "base_size": dict(base_size=257),
    "base is NULL": dict(n=24, base_size=12),
    "outer must not be negative": dict(outer=-1),
    "inner must not be negative": dict(inner=-2),
    "x is NULL": dict(x=None),
    "y is NULL": dict(y=None),
    "x_stride must not be negative": dict(x_stride=-8),
    "order_in must be": dict(order_in=3),
    "order_out must be": dict(order_out=-1),
    "needs a power of two": dict(n=24, base_size=12, base="table", order_out=1),
    "scale must be an integer": dict(dtype=4, scale=0.5),
    "dtype must be": dict(dtype=6),
    "device must be": dict(device=-2),
    "threads must be at least 1": dict(threads=0),
    "sign_blocks must be at least 1": dict(signs_in="table", sign_blocks=0),
    "workspace is NULL": dict(workspace_bytes=64),
    "workspace_bytes must not be negative": dict(workspace_bytes=-1),
    "workspace_bytes: got 0": dict(n=2**20),
}


@pytest.mark.parametrize("text", BAD)
def test_bad_arguments_are_named(text):
    table = torch.zeros(2**20, dtype=torch.int64)
    good = dict(x=table, x_stride=8, y=table, signs_in=None, signs_out=None, sign_blocks=1, base=None, outer=1, n=8,
                inner=1, base_size=1, scale=1.0, order_in=0, order_out=0, workspace=None, workspace_bytes=0, dtype=0,
                device=-1, threads=1, stream=None)  # fmt: skip
    arguments = {k: table if v == "table" else v for k, v in (good | BAD[text]).items()}
    values = [v.data_ptr() if isinstance(v, torch.Tensor) else v for v in arguments.values()]
    with pytest.raises(ValueError, match=re.escape(text)) as error:
        cpu.invoke("hadamard", *values)
    assert str(error.value).startswith("hadamard: ") or "workspace_bytes" in str(error.value)
