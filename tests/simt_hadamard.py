"""Operands, oracles and calls for the tests of the CUDA Hadamard kernels on the shim.

Oracles are scipy's in float64: hadamard(n) as a matrix up to 2^10, a k-dimensional FFT of length 2 above, and a
Kronecker product for base factors. A kernel may be at most twice as wrong as a butterfly written in PyTorch.
"""

import ctypes

import numpy as np
import scipy.fft
import scipy.linalg
import torch
from simt_build import check

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.int32: 4,
    torch.int64: 5,
}
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTS = [torch.int32, torch.int64]
ORDERS = {"natural": 0, "dyadic": 1, "sequency": 2}
GUARD = 64  # elements before and after every output: keeps its alignment
H200 = (90, 132, 227 * 1024)


def one_warp(dtype):
    """Shared memory for one warp's 1024 values: small sizes then take the paths of large ones."""
    return 6000 * max(4, dtype.itemsize) // 4


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
    y = scipy.fft.fftn(
        x.numpy().astype(np.float64).reshape(x.shape[:-1] + (2,) * k),
        axes=range(x.dim() - 1, x.dim() - 1 + k),
    )
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


def transform(
    x,
    base=None,
    signs_in=None,
    signs_out=None,
    scale=1,
    order_in="natural",
    order_out="natural",
    butterfly=sylvester,
):
    """x (outer, n, inner) in the arithmetic of x."""
    outer, n, inner = x.shape
    m = 1 if base is None else base.shape[0]
    x = x * sign_rows(signs_in, outer, inner)
    natural = torch.empty_like(x)
    natural[:, positions(order_in, n)] = x
    y = butterfly(natural.transpose(1, 2).reshape(outer, inner, m, n // m))
    if base is not None:
        y = (
            torch.einsum("jm,oimn->oijn", base.to(y.dtype), y)
            if y.is_floating_point()
            else (base.to(y.dtype) @ y)
        )
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


def hadamard(
    core,
    x,
    base=None,
    signs_in=None,
    signs_out=None,
    scale=1,
    order_in="natural",
    order_out="natural",
    offset=0,
):
    outer, n, inner = x.shape
    m, table = (1, None) if base is None else (base.shape[0], packed(base))
    signs = signs_in if signs_in is not None else signs_out
    signs_in, signs_out = (
        None if s is None else s.to(compute(x.dtype)).contiguous() for s in (signs_in, signs_out)
    )
    y = Output(x.shape, x.dtype, offset=offset)
    code = DTYPES[x.dtype]
    size = core.spectralops_hadamard_workspace(outer, n, inner, m, code, 0, 1)
    work = workspace(size)
    before = x.contiguous().view(torch.uint8).clone()
    check(
        core,
        core.spectralops_hadamard(
            pointer(x),
            x.stride(0),
            pointer(y.tensor),
            pointer(signs_in),
            pointer(signs_out),
            1 if signs is None else signs.shape[0],
            pointer(table),
            outer,
            n,
            inner,
            m,
            float(scale),
            ORDERS[order_in],
            ORDERS[order_out],
            pointer(work),
            size,
            code,
            0,
            1,
            None,
        ),
    )
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


BASES = {
    "12": paley(12),
    "20": paley(20),
    "44": paley(44),
    "28": random_base(28),
    "172": random_base(172),
    "7": random_base(7),
    "2": random_base(2),
    "256": random_base(256),
    "65": random_base(65),
}
