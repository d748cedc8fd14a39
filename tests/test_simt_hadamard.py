"""The CUDA Hadamard kernels, run on a CPU by csrc/simt through the C interface.

Compared in float64 with scipy: hadamard(n) as a matrix up to 2^10, an n-dimensional FFT of length 2 above, and a Kronecker
product for base factors. A kernel may be at most twice as wrong as a butterfly written in PyTorch at the same dtype.
"""

import ctypes

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch

from simt_build import check, simt_core

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3, torch.int32: 4, torch.int64: 5}
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTS = [torch.int32, torch.int64]
ORDERS = {"natural": 0, "dyadic": 1, "sequency": 2}
GUARD = 64  # elements before and after every output: keeps its alignment
H200 = (90, 132, 227 * 1024)


def one_warp(dtype):
    """Shared memory for no more than one warp's 1024 values: what fits no device, so that small sizes take the paths of large ones."""
    return 6000 * max(4, dtype.itemsize) // 4


@pytest.fixture(scope="module")
def core():
    return simt_core()


@pytest.fixture(autouse=True)
def _defaults(core):
    core.simt_set_order(0)
    core.simt_set_limits(*H200)
    yield
    core.simt_set_order(0)
    core.simt_set_limits(*H200)


# ---- oracles -----------------------------------------------------------------------------------


def paley(m):
    """A Hadamard matrix of size m = q + 1, q = 3 mod 4 a prime (Paley's first construction)."""
    q = m - 1
    squares = {i * i % q for i in range(1, q)}
    chi = [0] + [1 if i in squares else -1 for i in range(1, q)]
    s = np.zeros((m, m), dtype=np.int64)
    s[0, 1:], s[1:, 0] = 1, -1
    s[1:, 1:] = [[chi[(i - j) % q] for j in range(q)] for i in range(q)]
    h = s + np.eye(m, dtype=np.int64)
    assert (h @ h.T == m * np.eye(m)).all()
    return torch.from_numpy(h)


def random_base(m, seed=0):
    """Any table of +-1: the kernels must not rely on orthogonality or symmetry."""
    return torch.from_numpy(np.random.default_rng(seed).choice([-1, 1], (m, m)))


def packed(h):
    m = h.shape[0]
    words = np.zeros((m, (m + 63) // 64), dtype=np.uint64)
    for i, j in zip(*np.nonzero(h.numpy() < 0), strict=True):
        words[i, j // 64] |= np.uint64(1) << np.uint64(j % 64)
    return torch.from_numpy(words.view(np.int64))


def sylvester(x):
    """x (..., 2^k) float64 or int64, transformed along the last axis by scipy."""
    n = x.shape[-1]
    if n <= 1024:
        return x @ torch.from_numpy(scipy.linalg.hadamard(n)).to(x.dtype)
    k = n.bit_length() - 1
    y = scipy.fft.fftn(x.numpy().astype(np.float64).reshape(x.shape[:-1] + (2,) * k), axes=range(x.dim() - 1, x.dim() - 1 + k))
    return torch.from_numpy(np.ascontiguousarray(y.real.reshape(x.shape))).to(x.dtype)


def positions(order, n):
    """Natural index of position p: bit reversal of p, or of its Gray code."""
    p = np.arange(n)
    if order == "natural":
        return p
    bits = n.bit_length() - 1
    p = p ^ (p >> 1) if order == "sequency" else p
    return np.array([int(format(i, f"0{bits}b")[::-1], 2) if bits else 0 for i in p])


def sign_rows(signs, outer, inner):
    if signs is None:
        return 1
    return signs[torch.arange(outer) % signs.shape[0]].unsqueeze(-1)  # (outer, n, 1)


def transform(x, base=None, signs_in=None, signs_out=None, scale=1, order_in="natural", order_out="natural", butterfly=sylvester):
    """x (outer, n, inner) in the arithmetic of x."""
    outer, n, inner = x.shape
    m = 1 if base is None else base.shape[0]
    x = x * sign_rows(signs_in, outer, inner)
    natural = torch.empty_like(x)
    natural[:, positions(order_in, n)] = x
    y = butterfly(natural.transpose(1, 2).reshape(outer, inner, m, n // m))
    if base is not None:
        y = torch.einsum("jm,oimn->oijn", base.to(y.dtype), y) if y.is_floating_point() else (base.to(y.dtype) @ y)
    y = y.reshape(outer, inner, n).transpose(1, 2)[:, positions(order_out, n)]
    return y * scale * sign_rows(signs_out, outer, inner)


def plain(x):
    """The butterfly a PyTorch user writes."""
    n, h = x.shape[-1], 1
    while h < n:
        a = x.reshape(*x.shape[:-1], n // (2 * h), 2, h)
        x = torch.stack((a[..., 0, :] + a[..., 1, :], a[..., 0, :] - a[..., 1, :]), -2).reshape(x.shape)
        h *= 2
    return x


# ---- the kernels -------------------------------------------------------------------------------


def compute(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class Output:
    """A contiguous tensor between guard bands, all of it filled with a byte pattern first."""

    def __init__(self, shape, dtype, fill=0xA5, offset=0):
        count = int(np.prod(shape))
        self.whole = torch.full(((count + 2 * GUARD) * dtype.itemsize,), fill, dtype=torch.uint8).view(dtype)
        self.tensor = self.whole[GUARD + offset : GUARD + offset + count].view(shape)
        self.before, self.after = self.whole[: GUARD + offset], self.whole[GUARD + offset + count :]

    def checked(self):
        for band in (self.before, self.after):
            assert (band.view(torch.uint8) == 0xA5).all(), "written outside the output"
        return self.tensor


def pointer(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def workspace(size):
    return torch.full((size,), 0xFF, dtype=torch.uint8)  # NaN in every format


def hadamard(core, x, base=None, signs_in=None, signs_out=None, scale=1, order_in="natural", order_out="natural", offset=0):
    outer, n, inner = x.shape
    m, table = (1, None) if base is None else (base.shape[0], packed(base))
    signs = signs_in if signs_in is not None else signs_out
    signs_in, signs_out = (None if s is None else s.to(compute(x.dtype)).contiguous() for s in (signs_in, signs_out))
    y = Output(x.shape, x.dtype, offset=offset)
    code = DTYPES[x.dtype]
    size = core.spectralops_hadamard_workspace(outer, n, inner, m, code, 0, 1)
    work = workspace(size)
    before = x.contiguous().view(torch.uint8).clone()
    check(core, core.spectralops_hadamard(
        pointer(x), x.stride(0), pointer(y.tensor), pointer(signs_in), pointer(signs_out), 1 if signs is None else signs.shape[0],
        pointer(table), outer, n, inner, m, float(scale), ORDERS[order_in], ORDERS[order_out], pointer(work), size, code, 0, 1, None))
    assert torch.equal(x.contiguous().view(torch.uint8), before), "the input was written"
    return y.checked()


def data(shape, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    if dtype in INTS:
        return torch.randint(-1000, 1000, shape, generator=g).to(dtype)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


def random_signs(rows, n, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], (rows, n)))


def distance(a, b):
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item() if b.norm() > 0 else (a - b).norm().item()


def same(core, x, **options):
    """One call against the oracle."""
    offset = options.pop("offset", 0)
    y = hadamard(core, x, offset=offset, **options)
    if x.dtype in INTS:
        options = {k: v.to(torch.int64) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        want = transform(x.to(torch.int64), **options)
        assert torch.equal(y.to(torch.int64), want.to(x.dtype).to(torch.int64))
        return y
    exact = transform(x.double(), **options)
    cast = {k: v.to(compute(x.dtype)) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    reference = transform(x.to(compute(x.dtype)), butterfly=plain, **cast).to(x.dtype)
    ours, theirs = distance(y, exact), distance(reference, exact)
    assert ours <= 2 * theirs + 4 * torch.finfo(x.dtype).eps * (theirs == 0), (ours, theirs)
    assert exact.abs().max() == 0 or y.abs().max() > 0
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", range(13))
def test_every_size(core, k, dtype):
    outer = max(1, min(37, 2**13 >> k)) + 1
    same(core, data((outer, 2**k, 1), dtype, k), scale=3 if dtype in INTS else 2 ** (-k / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int32])
@pytest.mark.parametrize("k", [13, 14, 15, 16])
def test_long_rows(core, k, dtype):
    same(core, data((2, 2**k, 1), dtype, k), scale=1 if dtype in INTS else 2 ** (-k / 2))


# ---- layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("k", [0, 1, 3, 5, 6, 8, 11])
@pytest.mark.parametrize("inner", [2, 33, 64])
def test_any_axis(core, k, inner, dtype):
    same(core, data((3, 2**k, inner), dtype, k), scale=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n, inner", [(8, 1), (64, 1), (512, 1), (2048, 1), (16, 3), (128, 5)])
def test_strided_outer(core, n, inner, dtype):
    wide = data((7, n * inner + 24), dtype)
    for first in (0, 8, 3):  # 3: rows that no vector access fits
        same(core, wide[:, first : first + n * inner].unflatten(1, (n, inner)))
    same(core, data((1, n, inner), dtype).expand(5, n, inner))
    same(core, data((5, n, inner), dtype), offset=1)


def test_nothing_to_do(core):
    for shape in ((0, 64, 1), (3, 64, 0), (0, 24, 5)):
        x = torch.empty(shape)
        base = paley(12) if shape[1] == 24 else None
        assert hadamard(core, x, base=base).shape == shape


# ---- base factors ------------------------------------------------------------------------------

BASES = {"12": paley(12), "20": paley(20), "44": paley(44), "28": random_base(28), "172": random_base(172), "7": random_base(7),
         "2": random_base(2), "256": random_base(256), "65": random_base(65)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int32])
@pytest.mark.parametrize("m, k, outer", [("12", 0, 50), ("12", 1, 9), ("12", 2, 400), ("12", 5, 31), ("20", 7, 2), ("20", 9, 1), ("28", 8, 2),
                                         ("44", 3, 3), ("172", 4, 2), ("7", 6, 5), ("2", 3, 9), ("256", 1, 2), ("65", 3, 2)])
def test_base_in_the_block(core, m, k, outer, dtype):
    base = BASES[m]
    x = data((outer, base.shape[0] << k, 1), dtype, k)
    same(core, x, base=base, scale=3, signs_in=random_signs(1, x.shape[1]), signs_out=random_signs(1, x.shape[1], 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize("m, k, inner", [("12", 0, 5), ("12", 3, 34), ("20", 6, 2), ("65", 0, 1), ("12", 12, 1), ("28", 11, 1)])
def test_base_as_a_pass(core, m, k, inner, dtype):
    core.simt_set_limits(90, 132, 96 * 1024 if inner == 1 else H200[2])
    n = BASES[m].shape[0] << k
    same(core, data((2, n, inner), dtype, k), base=BASES[m], signs_in=random_signs(2, n), signs_out=random_signs(2, n, 2))


# ---- signs and orders --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int32])
@pytest.mark.parametrize("n, inner", [(4, 1), (64, 1), (256, 1), (2048, 1), (32, 3), (64, 4)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_signs(core, n, inner, blocks, dtype):
    x = data((8, n, inner), dtype)
    first, second = random_signs(blocks, n), random_signs(blocks, n, 2)
    same(core, x, signs_in=first, signs_out=second)
    same(core, x, signs_in=first)
    same(core, x, signs_out=second, scale=3)
    if dtype not in INTS:  # any diagonal
        same(core, x, signs_in=torch.linspace(-2, 3, blocks * n).reshape(blocks, n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize("order_in", ORDERS)
@pytest.mark.parametrize("order_out", ORDERS)
@pytest.mark.parametrize("n, inner", [(1, 1), (8, 1), (128, 1), (2048, 1), (16, 3), (128, 2)])
def test_orders(core, n, inner, order_in, order_out, dtype):
    x = data((3, n, inner), dtype)
    signs = random_signs(3, n)
    same(core, x, order_in=order_in, order_out=order_out, signs_in=signs, signs_out=signs.flip(1))


# ---- several passes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k, warps", [(12, 1), (13, 1), (11, 2)])
def test_passes(core, k, warps, dtype):
    core.simt_set_limits(90, 132, warps * one_warp(dtype))
    x = data((3, 2**k, 1), dtype)
    signs = random_signs(3, 2**k)
    same(core, x, scale=2, signs_in=signs, signs_out=signs.flip(1))
    same(core, data((2, 2**k + 8, 1), dtype)[:, 8:], order_in="sequency", order_out="dyadic", signs_in=signs[:2])
    same(core, x, order_out="sequency", signs_out=signs)


def test_three_passes(core):
    core.simt_set_limits(90, 132, 6000)
    same(core, data((1, 2**17, 1), torch.bfloat16))
    same(core, data((1, 2**12, 3), torch.float32))
    same(core, data((1, 2**12, 2), torch.float16), order_out="dyadic")
    same(core, data((1, 12 * 2**11, 1), torch.float16), base=BASES["12"])


# ---- bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shared", [H200[2], 9000])
@pytest.mark.parametrize("n, inner, m", [(16, 1, ""), (32, 1, ""), (64, 1, ""), (128, 1, ""), (256, 1, ""), (1024, 1, ""), (4096, 1, ""),
                                         (192, 1, "12"), (2560, 1, "20"), (128, 3, ""), (24, 2, "12")])
def test_sums_do_not_depend_on_the_type(core, n, inner, m, dtype, shared):
    core.simt_set_limits(90, 132, shared)
    x = data((4, n, inner), dtype)
    options = dict(base=BASES[m] if m else None, scale=0.37, signs_in=torch.linspace(-1, 2, n).reshape(1, n))
    wide = hadamard(core, x.float(), **options)
    assert torch.equal(hadamard(core, x, **options), wide.to(dtype))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_thread_order_changes_nothing(core, order):
    cases = [
        (data((5, 512, 1), torch.float16), {}),
        (data((2, 4096, 1), torch.float32), dict(order_out="sequency", order_in="dyadic")),
        (data((3, 2048, 1), torch.float32), {}),
        (data((9, 384, 1), torch.bfloat16), dict(base=BASES["12"])),
        (data((2, 256, 3), torch.float32), {}),
        (data((2, 80, 3), torch.float64), dict(base=BASES["20"])),
        (data((1000, 4, 1), torch.float32), dict(signs_in=random_signs(2, 4))),
    ]
    for x, options in cases:
        want = hadamard(core, x, **options)
        core.simt_set_order(order)
        assert torch.equal(hadamard(core, x, **options), want)
        core.simt_set_order(0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_special_values_stay_in_their_row(core, value):
    for n, base in ((256, None), (2048, None), (48, BASES["12"])):
        x = data((4, n, 1), torch.float32)
        x[1, 5] = value
        y = hadamard(core, x, base=base)
        assert not torch.isfinite(y[1]).any() and torch.isfinite(y[[0, 2, 3]]).all()


def test_integers_wrap(core):
    for dtype in INTS:
        x = torch.full((2, 64, 1), torch.iinfo(dtype).max, dtype=dtype)
        x[1] = torch.iinfo(dtype).min + 3
        assert torch.equal(hadamard(core, x, scale=-3), plain(x.transpose(1, 2)).transpose(1, 2) * -3)


# ---- subsampled transforms ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("n, m", [(1, ""), (16, ""), (128, ""), (2048, ""), (96, "12"), (1280, "20")])
def test_srht(core, n, m, dtype, small):
    core.simt_set_limits(90, 132, one_warp(dtype) if small else H200[2])
    base = BASES[m] if m else None
    wide = data((5, n + 8), dtype)
    x = wide[:, 8:]
    rows = torch.randint(0, n, (max(1, n // 3) + 5,), generator=torch.Generator().manual_seed(3))
    signs, scale = random_signs(1, n), 3 if dtype in INTS else 0.3
    y = Output((5, len(rows)), dtype)
    table, code, size = base.shape[0] if m else 1, DTYPES[dtype], 0
    size = core.spectralops_srht_workspace(5, n, table, code, 0, 1)
    work, bits, typed = workspace(size), packed(base) if m else None, signs.to(compute(dtype))
    check(core, core.spectralops_srht(pointer(x), x.stride(0), pointer(typed), pointer(rows), pointer(y.tensor), pointer(bits), 5, n, len(rows),
                                      table, float(scale), pointer(work), size, code, 0, 1, None))
    whole = hadamard(core, x.unsqueeze(-1), base=base, signs_in=signs, scale=scale)
    assert torch.equal(y.checked(), whole[:, rows, 0])
    assert y.tensor.abs().max() > 0


# ---- quantisation ------------------------------------------------------------------------------

FORMATS = {"int8": 0, "fp8_e4m3": 1, "mxfp4": 2, "nvfp4": 3}


def e2m1(v):
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, ties to the even code; the sign kept."""
    codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    nearest = ((v.abs().double().clamp(max=6).unsqueeze(-1) - codes).abs() + torch.tensor([0, 1e-9] * 4)).argmin(-1)
    return (nearest + 8 * torch.signbit(v)).to(torch.uint8)


def quantised(r, group, format):
    """r (rows, dim) float32 -> codes, scales, as the header defines them."""
    groups = r.unflatten(1, (-1, group))
    amax = groups.abs().amax(-1)
    bad, zero = ~torch.isfinite(groups).all(-1), amax == 0
    safe = torch.where(bad | zero, torch.ones_like(amax), amax)
    if format in ("int8", "fp8_e4m3"):
        scale = safe / (127 if format == "int8" else 448)
        scale = torch.where(scale == 0, 1.0, scale)  # amax near the smallest float
        v = groups / scale.unsqueeze(-1)
        codes = v.round().clamp(-127, 127).to(torch.int8).view(torch.uint8) if format == "int8" else v.clamp(-448, 448).to(
            torch.float8_e4m3fn).view(torch.uint8)
        stored = torch.where(bad, torch.nan, torch.where(zero, 1.0, scale))
    elif format == "mxfp4":
        exponent = (torch.frexp(safe).exponent - 1 - 2).clamp(-127, 127)
        codes = e2m1(groups.double() * 2.0 ** -exponent.double().unsqueeze(-1))
        stored = torch.where(bad, 255, torch.where(zero, 0, exponent + 127)).to(torch.uint8)
    else:
        scale = (safe / 6).clamp(2.0**-9, 448).to(torch.float8_e4m3fn)
        codes = e2m1(groups / scale.float().unsqueeze(-1))
        stored = torch.where(bad, 0x7F, torch.where(zero, 1, scale.view(torch.uint8))).to(torch.uint8)
    codes = torch.where((bad | zero).unsqueeze(-1), 0, codes).flatten(1)
    if format in ("mxfp4", "nvfp4"):
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return codes, stored


def quantise(core, x, block, group, format, base=None, signs=None, scale=1.0, round_rotation=False, offset=0):
    rows, dim = x.shape
    four = format in ("mxfp4", "nvfp4")
    q = Output((rows, dim // 2 if four else dim), torch.uint8, fill=0xA5, offset=offset)
    scales = Output((rows, dim // group), torch.uint8 if four else torch.float32)
    m, table = (1, None) if base is None else (base.shape[0], packed(base))
    typed = None if signs is None else signs.float().contiguous()
    code = DTYPES[x.dtype]
    size = core.spectralops_hadamard_quantize_workspace(rows, dim, block, m, code, 0, 1)
    work = workspace(size)
    check(core, core.spectralops_hadamard_quantize(
        pointer(x), x.stride(0), pointer(q.tensor), pointer(scales.tensor), pointer(typed), 1 if signs is None else signs.shape[0], pointer(table),
        rows, dim, block, group, m, float(scale), FORMATS[format], int(round_rotation), pointer(work), size, code, 0, 1, None))
    return q.checked(), scales.checked()


def rotated(core, x, block, base, signs, scale):
    """(rows, dim) float32: the transform alone, kept in float32."""
    rows, dim = x.shape
    repeated = None if signs is None else signs[torch.arange(dim // block) % signs.shape[0]].repeat(rows, 1)
    y = hadamard(core, x.float().reshape(-1, block, 1), base=base, signs_in=repeated, scale=scale)
    return y.reshape(rows, dim)


def quantise_agrees(core, x, block, group, format, base=None, signs=None, scale=0.125, offset=0):
    r = rotated(core, x, block, base, signs, scale)
    for rounding in (False, True):
        codes, scales = quantise(core, x, block, group, format, base, signs, scale, rounding, offset)
        want_codes, want_scales = quantised(r.to(x.dtype).float() if rounding else r, group, format)
        assert torch.equal(scales, want_scales) or torch.equal(scales.nan_to_num(-1), want_scales.nan_to_num(-1))
        assert torch.equal(codes, want_codes)
        assert codes.count_nonzero() > 0.5 * codes.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rows, dim, block, group", [(9, 256, 128, 128), (5, 384, 128, 32), (3, 1024, 1024, 16), (33, 64, 16, 32), (2, 4096, 2048, 4096),
                                                     (5, 640, 32, 640), (3, 96, 32, 24), (7, 512, 64, 512), (3, 48, 8, 6)])
def test_quantise(core, rows, dim, block, group, format, dtype):
    quantise_agrees(core, data((rows, dim), dtype), block, group, format)


@pytest.mark.parametrize("format", FORMATS)
def test_quantise_operands(core, format):
    wide = data((4, 520), torch.float16)
    quantise_agrees(core, wide[:, 8:], 128, 64, format, signs=random_signs(4, 128))
    quantise_agrees(core, wide[:, 8:], 128, 64, format, signs=random_signs(3, 128))
    quantise_agrees(core, wide[:, 1:513], 64, 32, format, signs=random_signs(1, 64), offset=1)
    quantise_agrees(core, data((4, 384), torch.bfloat16), 96, 32, format, base=BASES["12"], signs=random_signs(4, 96))
    quantise_agrees(core, data((3, 1280), torch.float32), 1280, 128, format, base=BASES["20"])
    core.simt_set_order(2)
    quantise_agrees(core, data((3, 640), torch.float16), 128, 640, format)
    quantise_agrees(core, data((3, 640), torch.float16), 128, 128, format)


@pytest.mark.parametrize("format", FORMATS)
def test_quantise_special_groups(core, format):
    x = data((8, 256), torch.float32) * torch.logspace(-44, 38, 8, dtype=torch.float64).unsqueeze(1).float()
    x[1] = 0
    x[2, 3], x[3, 200] = torch.nan, -torch.inf
    for group in (128, 32, 4):
        r = rotated(core, x, 64, None, None, 0.5)
        codes, scales = quantise(core, x, 64, group, format, scale=0.5)
        want_codes, want_scales = quantised(r, group, format)
        assert torch.equal(scales.float().nan_to_num(-1), want_scales.float().nan_to_num(-1))
        assert torch.equal(codes[1:], want_codes[1:]), (codes != want_codes).nonzero()[:4]
        assert (codes[1] == 0).all() and codes[4:].count_nonzero() > 0


def test_quantise_refuses_what_does_not_fit(core):
    with pytest.raises(RuntimeError, match="do not fit one thread block"):
        quantise(core, data((1, 65536), torch.float32), 65536, 128, "int8")
