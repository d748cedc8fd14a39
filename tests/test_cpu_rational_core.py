"""csrc/cpu and csrc/capi for the rational activation, called through the C interface."""

import ctypes
import itertools
import multiprocessing
import re
import threading

import numpy as np
import pytest
import torch
from core_build import ISAS, capabilities, cpu_core, libgomp
from rational_calls import CPU, DTYPES, Call, compute, problem, run
from rational_oracle import VERSIONS, Oracle, plain
from simt_build import CSRC


@pytest.fixture(autouse=True)
def _own_pool_and_best_capability():
    yield
    cpu_core().spectralops_set_cpu_capability(None)
    cpu_core().spectralops_set_openmp(None, None)


# Wide groups, narrow ones (1, 2, 3, 5 wide), rows that are folded, groups wider than a block, odd sizes.
SHAPES = [
    (37, 96, 2), (9, 30, 10), (70, 5, 1), (300, 2, 1), (13, 7, 7), (4, 1100, 1), (2, 4400, 1),
    (11, 10, 2), (8, 34, 2), (1, 64, 4), (33, 1, 1), (150, 12, 6), (5, 520, 260),
]  # fmt: skip
DEGREES = [(5, 4), (3, 2), (7, 6), (4, 3), (0, 1), (2, 5), (10, 3)]


def autograd_error(call, truth, dtype):
    """Relative errors of the plain formula in the compute type, rounded to the data type at the end."""
    c = compute(dtype)
    x, grad, ggx = (t.to(c) for t in (call.x, call.grad, call.ggx))
    num, den = (t.expand(call.groups, -1).clone() for t in (call.num, call.den))
    leaves = [t.clone().requires_grad_() for t in (x, num, den)]
    grad = grad.clone().requires_grad_()
    y = plain(*leaves, call.version, call.groups)
    first = torch.autograd.grad(y, leaves, grad, create_graph=True)
    scalar = sum((d * u).sum() for d, u in zip(first, (ggx, call.ggnum, call.ggden), strict=True))
    second = torch.autograd.grad(scalar, [grad, *leaves])
    values = [y, *first, *second]
    rounded = [v.detach().to(dtype) if v.shape == x.shape else v.detach() for v in values]
    return [relative(v, t) for v, t in zip(rounded, truth, strict=True)]


def relative(value, truth):
    value, truth = value.double().numpy().astype(np.longdouble).ravel(), truth.ravel()
    return float(np.sqrt(((value - truth) ** 2).sum() / max((truth**2).sum(), np.longdouble(1e-300))))


def truth_of(call):
    oracle = Oracle(call.x, call.num, call.den, call.version, call.groups, call.sign)
    second = oracle.double_backward(call.ggx, call.ggnum, call.ggden, call.grad)
    return [oracle.forward(), *oracle.backward(call.grad), *second]


NAMES = ["y", "dx", "dnum", "dden", "dgrad2", "dx2", "dnum2", "dden2"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_oracle_is_autograd(version):
    call = problem(7, 12, 3, 4, 3, version, torch.float64)
    assert max(autograd_error(call, truth_of(call), torch.float64)) < 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_error_is_at_most_twice_that_of_the_plain_formula(version, dtype):
    """All shapes, degrees, ways to share coefficients and strides.

    The error of a few numbers, or dominated by a few (dx of the second derivative goes with Q^-3), is
    luck, so the rule holds for the elementwise results of a thousand elements or more in every case, and for every
    result in the geometric mean over the cases. And each case must be right to half of its digits.
    """
    sharing = itertools.cycle(itertools.product((False, True), repeat=2))
    degrees = itertools.cycle(DEGREES)
    isas = capabilities()
    errors = {isa: [] for isa in isas}
    reference = []
    for index, (shape, shared) in enumerate(zip(2 * SHAPES, sharing, strict=False)):
        call = problem(*shape, *next(degrees), version, dtype, shared, stride=index)
        truth = truth_of(call)
        reference.append(autograd_error(call, truth, dtype))
        for isa in isas:
            assert cpu_core().spectralops_set_cpu_capability(isa.encode()) == 0
            results = call.all()
            assert [r.dtype for r in results[:4]] == [dtype, dtype, compute(dtype), compute(dtype)]
            errors[isa].append([relative(r, t) for r, t in zip(results, truth, strict=True)])
    reference = np.maximum(reference, torch.finfo(compute(dtype)).eps / 2)
    elementwise = [NAMES.index(name) for name in ("y", "dx", "dgrad2")]
    large = np.array([shape[0] * shape[1] >= 1000 for shape in 2 * SHAPES])
    for isa, each in errors.items():
        ratio = np.array(each) / reference
        assert np.isfinite(ratio).all()
        assert (ratio[large][:, elementwise] <= 2).all(), (isa, ratio[large].max(0))
        assert (np.exp(np.log(ratio).mean(0)) <= 2).all(), (isa, np.exp(np.log(ratio).mean(0)))
        assert np.max(each) < np.sqrt(torch.finfo(dtype).eps), (isa, np.max(each, 0))


@pytest.mark.parametrize("isa", ISAS)
def test_highest_degree(isa):
    if isa not in capabilities():
        pytest.skip(f"this machine has no {isa}")
    cpu_core().spectralops_set_cpu_capability(isa.encode())
    for groups, version in itertools.product((1, 8), VERSIONS):
        call = problem(20, 40, groups, 32, 32, version, torch.float64)
        for tensor in (call.x, call.num, call.den):
            tensor.mul_(0.3)
        for value, true, name in zip(call.all(), truth_of(call), NAMES, strict=True):
            assert relative(value, true) < 1e-11, (version, groups, name)


@pytest.mark.parametrize("shape", [(700, 768, 8), (3000, 3, 3), (9000, 5, 1), (2, 30000, 1)], ids=str)
@pytest.mark.parametrize("openmp", [False, True], ids=["pool", "openmp"])
def test_bits_do_not_depend_on_threads(shape, openmp):
    if openmp:
        gomp = libgomp()
        if gomp is None:
            pytest.skip("torch brought no libgomp")
        addresses = [ctypes.cast(f, ctypes.c_void_p) for f in (gomp.GOMP_parallel, gomp.omp_get_thread_num)]
        assert cpu_core().spectralops_set_openmp(*addresses) == 0
    call = problem(*shape, 5, 4, "A", torch.float32)
    results = []
    for threads in (1, 2, 3, 11):
        call.threads = threads
        results.append(call.all())
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two) and one.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_strides(shape, dtype):
    call = problem(*shape, 5, 4, "B", dtype, stride=1)
    strided_results = call.all()
    call.x, call.grad, call.ggx = (t.contiguous() for t in (call.x, call.grad, call.ggx))
    for one, two in zip(strided_results, call.all(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("shape", [(40, 48, 3), (60, 4, 1), (21, 6, 3)], ids=str)
def test_expanded_rows(shape):
    call = problem(*shape, 5, 4, "A", torch.float32)
    for name in ("x", "grad", "ggx"):
        setattr(call, name, getattr(call, name)[:1].contiguous().expand(shape[0], -1))
    assert call.x.stride(0) == 0
    got = call.all()
    call.x, call.grad, call.ggx = (t.contiguous() for t in (call.x, call.grad, call.ggx))
    for one, two in zip(got, call.all(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("rows, dim", [(0, 8), (5, 0), (0, 0)])
def test_empty(rows, dim):
    for version in VERSIONS:
        call = problem(rows, dim, 2, 5, 4, version, torch.float32)
        y, dx, dnum, dden, *second = call.all()
        assert y.shape == dx.shape == (rows, dim)
        for sums in (dnum, dden, *second[2:]):
            assert (sums == 0).all() and sums.numel()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("version", VERSIONS)
def test_sign_at_zero(version, sign, isa):
    """x = 0, b = 0 and T = 0: the value of sign(0) decides every derivative."""
    if isa not in capabilities():
        pytest.skip(f"this machine has no {isa}")
    cpu_core().spectralops_set_cpu_capability(isa.encode())
    for groups, dim in ((2, 64), (12, 24)):
        call = problem(6, dim, groups, 3, 2, version, torch.float64, sign_at_zero=sign)
        call.x[::2] = 0
        call.x[2] = -0.0
        call.den[::2] = 0
        call.den[1, 0] = 0
        for value, true, name in zip(call.all(), truth_of(call), NAMES, strict=True):
            assert relative(value, true) < 1e-13, (name, value, true)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("version", VERSIONS)
def test_nan_and_infinity(version, isa):
    if isa not in capabilities():
        pytest.skip(f"this machine has no {isa}")
    cpu_core().spectralops_set_cpu_capability(isa.encode())
    for groups, dim in ((2, 40), (10, 20)):
        call = problem(5, dim, groups, 3, 2, version, torch.float32)
        width = dim // groups
        call.x[1, 3], call.x[2, 1], call.x[3, 0] = float("nan"), float("inf"), -float("inf")
        y = call.forward()
        expected = plain(call.x, call.num, call.den, version, groups)
        assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y.isinf(), expected.isinf())
        dx, dnum, dden = call.backward()
        assert dx[1, 3].isnan() and dx[0].isfinite().all() and dx[4].isfinite().all()
        touched = sorted({3 // width, 1 // width, 0})
        assert all(dnum[g].isnan().any() and dden[g].isnan().any() for g in touched[-1:])
        others = [g for g in range(groups) if g not in touched]
        assert dnum[others].isfinite().all() and dden[others].isfinite().all()


def test_a_group_of_nan_stays_alone():
    call = problem(40, 30, 10, 5, 4, "A", torch.float32)
    call.num[4], call.den[7] = float("nan"), float("nan")
    y, dx, dnum, dden = [call.forward(), *call.backward()]
    for tensor in (y, dx):
        bad = tensor.view(40, 10, 3).isnan().any(0).any(-1)
        assert bad.nonzero().flatten().tolist() == [4, 7]
    assert dden.isnan().any(-1).nonzero().flatten().tolist() == [4, 7]
    assert dnum.isnan().any(-1).nonzero().flatten().tolist() == [7]


def test_sixteen_bit_results_are_the_rounded_float_results():
    for dtype in (torch.float16, torch.bfloat16):
        call = problem(50, 64, 4, 5, 4, "C", dtype)
        narrow = [call.forward(), *call.backward()]
        call.x, call.grad = call.x.float(), call.grad.float()
        wide = [call.forward(), *call.backward()]
        for one, two in zip(narrow, wide, strict=True):
            assert torch.equal(one, two.to(one.dtype))


@pytest.mark.parametrize("isa", ISAS)
def test_half_conversions_are_ieee(isa):
    """P(x) = x with Q = 1 returns every 16-bit value, and P(x) = x + 0 on floats rounds as torch does."""
    if isa not in capabilities():
        pytest.skip(f"this machine has no {isa}")
    cpu_core().spectralops_set_cpu_capability(isa.encode())
    bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    num, den = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 1)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype)[None]
        x = x[x.isfinite()][None]
        assert torch.equal(Call(x, num, den, 1, "smooth").forward(), x)
        y = Call(x, num * 1.2345679, den, 1, "smooth").forward()
        expected = (x.float() * torch.tensor(1.2345679)).to(dtype)
        assert torch.equal(y, expected)


def good(name):
    """Arguments of a call that works, by the names of the header."""
    tensors = "x grad ggx numerator denominator ggnumerator ggdenominator y dx dgrad dnumerator ddenominator"
    keep = {k: torch.zeros(64) for k in tensors.split()}
    keep["workspace"] = torch.zeros(4096)
    values = {k: v.data_ptr() for k, v in keep.items()}
    values.update({k + "_stride": 8 for k in ("x", "grad", "ggx")}, numerator_stride=6, denominator_stride=4)
    values.update(workspace_bytes=16384, rows=2, dim=8, groups=2, num_degree=5, den_degree=4, version=0)
    values.update(sign_at_zero=0, dtype=0, device=CPU, threads=1, stream=None)
    header = (CSRC / "capi" / "spectralops.h").read_text()
    prototype = re.search(rf"int spectralops_{name}\((.*?)\);", header, flags=re.S).group(1)
    names = [a.split()[-1].lstrip("*") for a in prototype.split(",")]
    return names, values, keep


BAD = [
    (dict(rows=-1), "rows must not be negative, got -1"),
    (dict(dim=-8), "dim must not be negative, got -8"),
    (dict(groups=0), "groups must be at least 1, got 0"),
    (dict(groups=3), "dim 8 is not a multiple of groups 3"),
    (dict(num_degree=-1), "num_degree must not be negative, got -1"),
    (dict(den_degree=-2), "den_degree must not be negative, got -2"),
    (dict(num_degree=33), "num_degree 33, den_degree 4: no kernel takes a degree above 32"),
    (dict(version=4), "version must be 0 (A), 1 (B), 2 (C) or 3 (smooth), got 4"),
    (dict(dtype=4), "dtype must be 0 (float32), 1 (float64), 2 (float16) or 3 (bfloat16), got 4"),
    (dict(device=-2), "device must be -1 (CPU) or a CUDA ordinal, got -2"),
    (dict(threads=0), "threads must be at least 1, got 0"),
    (dict(x=None), "x is NULL"),
    (dict(x_stride=-1), "x_stride must not be negative, got -1"),
    (dict(numerator=None), "numerator is NULL"),
    (dict(numerator_stride=-6), "numerator_stride must not be negative, got -6"),
    (dict(denominator=None), "denominator is NULL"),
    (dict(denominator_stride=-4), "denominator_stride must not be negative, got -4"),
    (dict(y=None), "y is NULL"),
    (dict(grad=None), "grad is NULL"),
    (dict(grad_stride=-1), "grad_stride must not be negative, got -1"),
    (dict(dx=None), "dx is NULL"),
    (dict(dnumerator=None), "dnumerator is NULL"),
    (dict(ddenominator=None), "ddenominator is NULL"),
    (dict(workspace=None), "workspace is NULL"),
    (dict(workspace_bytes=8), "workspace_bytes is 8, 160 are needed"),
    (dict(sign_at_zero=2), "sign_at_zero must be 0 or 1, got 2"),
    (dict(ggx=None), "ggx is NULL"),
    (dict(ggx_stride=-1), "ggx_stride must not be negative, got -1"),
    (dict(ggnumerator=None), "ggnumerator is NULL"),
    (dict(ggdenominator=None), "ggdenominator is NULL"),
    (dict(dgrad=None), "dgrad is NULL"),
]


@pytest.mark.parametrize("name", ["rational_forward", "rational_backward", "rational_double_backward"])
def test_bad_arguments(name):
    names, values, keep = good(name)
    run(name, *(values[n] for n in names))
    tried = 0
    for change, message in BAD:
        if set(change) <= set(names):
            tried += 1
            with pytest.raises(ValueError, match=re.escape(f"{name}: {message}")):
                run(name, *({**values, **change}[n] for n in names))
    assert tried >= 17


def test_capability():
    core = cpu_core()
    assert core.spectralops_cpu_capability().decode() == capabilities()[-1]
    assert core.spectralops_set_cpu_capability(b"portable") == 0
    assert core.spectralops_cpu_capability() == b"portable"
    assert core.spectralops_set_cpu_capability(b"mmx") == 1
    assert core.spectralops_last_error() == b'cpu capability "mmx" is none of "avx512", "avx2", "portable"'
    assert core.spectralops_cpu_capability() == b"portable"
    for isa in set(ISAS) - set(capabilities()):
        assert core.spectralops_set_cpu_capability(isa.encode()) == 2


def test_set_openmp_takes_both_or_neither():
    core = cpu_core()
    assert core.spectralops_set_openmp(1, None) == 1
    assert b"both addresses or neither" in core.spectralops_last_error()
    assert core.spectralops_set_openmp(None, None) == 0


def test_several_python_threads_at_once():
    call = problem(400, 256, 4, 5, 4, "A", torch.float32, threads=3)
    expected = call.backward()
    wrong = []

    def work():
        for _ in range(20):
            if not all(torch.equal(a, b) for a, b in zip(call.backward(), expected, strict=True)):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def _child(queue, call, expected):
    torch.set_num_threads(1)  # its own pool does not survive a fork
    queue.put(all(torch.equal(a, b) for a, b in zip(call.backward(), expected, strict=True)))


def test_after_fork():
    """The pool's threads are not in a child; it must make its own instead of waiting for them."""
    call = problem(400, 256, 4, 5, 4, "A", torch.float32, threads=2)
    expected = call.backward()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_child, args=(queue, call, expected))
    child.start()
    child.join(30)
    alive = child.is_alive()
    if alive:
        child.kill()
    assert not alive and child.exitcode == 0 and queue.get()
