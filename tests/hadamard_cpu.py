"""Calls of the CPU Hadamard entries through the C interface, and their oracles in float64 (or exact integers)."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import scipy.linalg
import torch
from core_build import capabilities, cpu_core

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.int32: 4,
    torch.int64: 5,
}
ORDERS = {"natural": 0, "dyadic": 1, "sequency": 2}
FORMATS = {"int8": 0, "fp8_e4m3": 1, "mxfp4": 2, "nvfp4": 3}
INTEGERS = (torch.int32, torch.int64)
GUARD = 64  # elements around each output that must keep their bits


def core() -> ctypes.CDLL:
    return cpu_core("hadamard")


def compute(dtype):
    return dtype if dtype in (torch.float64, *INTEGERS) else torch.float32


def pointer(tensor):
    return None if tensor is None else tensor.data_ptr()


class Guarded:
    """An output between two guard bands, poisoned, so that what is not written shows."""

    def __init__(self, shape, dtype):
        size, item = int(np.prod(shape)), torch.empty(0, dtype=dtype).element_size()
        self.bytes = torch.full(((size + 2 * GUARD) * item,), 0xB7, dtype=torch.uint8)
        self.band = GUARD * item
        self.tensor = self.bytes.view(dtype)[GUARD : GUARD + size].view(shape)

    def checked(self):
        edges = (self.bytes[: self.band], self.bytes[self.bytes.numel() - self.band :])
        assert all((e == 0xB7).all() for e in edges), "wrote outside the output"
        return self.tensor


class Workspace:
    """Poisoned with NaN bytes, and guarded at its end."""

    def __init__(self, size):
        self.size, self.bytes = size, torch.full((size + GUARD,), 0xFF, dtype=torch.uint8)

    def arguments(self):
        return (pointer(self.bytes) if self.size else None, self.size)

    def check(self):
        assert (self.bytes[self.size :] == 0xFF).all(), "wrote outside the workspace"


def packed(base):
    """(m, ceil(m / 64)) int64: bit j of row i where the entry is -1."""
    m = base.shape[0]
    bits = np.zeros((m, -(-m // 64) * 64), np.uint8)
    bits[:, :m] = base < 0
    return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little").view(np.int64).copy())


def invoke(name, *arguments):
    if getattr(core(), "spectralops_" + name)(*arguments):
        raise ValueError(core().spectralops_last_error().decode())


def hadamard(
    x, base=None, signs_in=None, signs_out=None, scale=1, order_in="natural", order_out="natural", threads=1
):
    """x (outer, n, inner), contiguous but for the outer stride."""
    outer, n, inner = x.shape
    m, code = 1 if base is None else base.shape[0], DTYPES[x.dtype]
    blocks = next((s.shape[0] for s in (signs_in, signs_out) if s is not None), 1)
    table = None if base is None else packed(base)
    y = Guarded(x.shape, x.dtype)
    size = core().spectralops_hadamard_workspace(outer, n, inner, m, code, -1, threads)
    work = Workspace(size)
    invoke(
        "hadamard", pointer(x), x.stride(0), pointer(y.tensor), pointer(signs_in), pointer(signs_out), blocks,
        pointer(table), outer, n, inner, m, float(scale), ORDERS[order_in], ORDERS[order_out], *work.arguments(), code,
        -1, threads, None,
    )  # fmt: skip
    work.check()
    return y.checked()


def quantize(x, block, group, format, base=None, signs=None, scale=1.0, round_rotation=False, threads=1):
    """x (rows, dim) -> codes as bytes, scales."""
    rows, dim = x.shape
    four, code = format in ("mxfp4", "nvfp4"), DTYPES[x.dtype]
    m, table = (1, None) if base is None else (base.shape[0], packed(base))
    q = Guarded((rows, dim // 2 if four else dim), torch.uint8)
    scales = Guarded((rows, dim // group), torch.uint8 if four else torch.float32)
    work = Workspace(core().spectralops_hadamard_quantize_workspace(rows, dim, block, m, code, -1, threads))
    invoke(
        "hadamard_quantize", pointer(x), x.stride(0), pointer(q.tensor), pointer(scales.tensor), pointer(signs),
        1 if signs is None else signs.shape[0], pointer(table), rows, dim, block, group, m, float(scale),
        FORMATS[format], int(round_rotation), *work.arguments(), code, -1, threads, None,
    )  # fmt: skip
    work.check()
    return q.checked(), scales.checked()


def srht(x, rows, signs=None, base=None, scale=1, threads=1):
    outer, n = x.shape
    m, table = (1, None) if base is None else (base.shape[0], packed(base))
    y = Guarded((outer, rows.numel()), x.dtype)
    work = Workspace(core().spectralops_srht_workspace(outer, n, m, DTYPES[x.dtype], -1, threads))
    invoke(
        "srht", pointer(x), x.stride(0), pointer(signs), pointer(rows), pointer(y.tensor), pointer(table), outer, n,
        rows.numel(), m, float(scale), *work.arguments(), DTYPES[x.dtype], -1, threads, None,
    )  # fmt: skip
    work.check()
    return y.checked()


def bits(tensor):
    """The bytes, with every NaN the same: instruction sets may keep different payloads."""
    if tensor.dtype.is_floating_point:
        tensor = torch.where(tensor.isnan(), torch.full_like(tensor, float("nan")), tensor)
    return tensor.contiguous().view(torch.uint8)


def everywhere(function, *arguments, threads=(1, 2, 3), isas=None, **options):
    """The result, which every instruction set and number of threads must give bit for bit."""
    first = None
    try:
        for isa in isas or capabilities("hadamard"):
            assert core().spectralops_set_cpu_capability(isa.encode()) == 0
            for count in threads:
                result = function(*arguments, threads=count, **options)
                result = result if isinstance(result, tuple) else (result,)
                first = first or result
                for a, b in zip(first, result, strict=True):
                    assert torch.equal(bits(a), bits(b)), f"{isa}, {count} threads: other bits"
    finally:
        core().spectralops_set_cpu_capability(None)
    return first if len(first) > 1 else first[0]


# ---- oracles ----
@functools.cache
def dense(n):
    return scipy.linalg.hadamard(n).astype(np.float64)


def sylvester(x):
    """Along dim 1 of a numpy array: a dense product where that is small, butterflies (of integers, too) beyond."""
    n = x.shape[1]
    if n <= 4096 and x.dtype == np.float64:
        return np.matmul(dense(n), x)
    return butterfly(x, np.stack)


def butterfly(x, stack):
    """The plain loop over bits, on numpy arrays or torch tensors."""
    outer, n, inner = x.shape
    h = 1
    while h < n:
        v = x.reshape(outer, n // (2 * h), 2, h, inner)
        x = stack([v[:, :, 0] + v[:, :, 1], v[:, :, 0] - v[:, :, 1]], 2).reshape(outer, n, inner)
        h *= 2
    return x


@functools.cache
def positions(order, n):
    """positions[i]: the natural row that position i holds."""
    k = n.bit_length() - 1
    reversed_bits = np.array([int(f"{i:0{k}b}"[::-1], 2) if k else 0 for i in range(n)])
    if order == "natural":
        return np.arange(n)
    if order == "dyadic":
        return reversed_bits
    if n <= 1024:  # by its definition: row k has k changes of sign
        changes = (np.diff(scipy.linalg.hadamard(n), axis=1) != 0).sum(1)
        return np.argsort(changes)
    return reversed_bits[np.arange(n) ^ np.arange(n) >> 1]


def transform(
    x, base=None, signs_in=None, signs_out=None, scale=1, order_in="natural", order_out="natural", plain=None
):
    """The definition. x (outer, n, inner) numpy in float64 or integers, or torch with plain=True."""
    xp = torch if plain else np
    outer, n, inner = x.shape
    row = np.arange(outer)
    if signs_in is not None:
        x = x * signs_in[row % signs_in.shape[0]][:, :, None]
    if order_in != "natural":
        natural = xp.zeros_like(x)
        natural[:, positions(order_in, n)] = x
        x = natural
    m = 1 if base is None else base.shape[0]
    walsh = (lambda v: butterfly(v, torch.stack)) if plain else sylvester
    y = walsh(x.reshape(outer * m, n // m, inner))
    if base is not None:
        h = torch.from_numpy(base).to(x.dtype) if plain else base.astype(x.dtype)
        y = xp.einsum("ab,obc->oac", h, y.reshape(outer, m, -1))
    y = y.reshape(outer, n, inner)[:, positions(order_out, n)]
    y = y * scale
    return y if signs_out is None else y * signs_out[row % signs_out.shape[0]][:, :, None]


def distance(got, truth):
    """Relative L2, in float64."""
    truth = np.asarray(truth, np.float64)
    return np.linalg.norm(got.double().numpy() - truth) / max(np.linalg.norm(truth), 1e-300)


def agrees(got, x, signs_in=None, signs_out=None, **options):
    """Integers exactly; floats within twice the error of plain PyTorch in the compute type, rounded once."""
    as_numpy = lambda s, t: None if s is None else s.to(t).numpy()  # noqa: E731
    wide = x.dtype if x.dtype in INTEGERS else torch.float64
    with np.errstate(over="ignore"):
        truth = transform(x.to(wide).numpy(), None or options.get("base"), as_numpy(signs_in, wide),
                          as_numpy(signs_out, wide), **{k: v for k, v in options.items() if k != "base"})  # fmt: skip
    if x.dtype in INTEGERS:
        assert np.array_equal(got.numpy(), truth)
        return
    reference = transform(x.to(compute(x.dtype)), options.get("base"), signs_in, signs_out, plain=True,
                          **{k: v for k, v in options.items() if k != "base"}).to(x.dtype)  # fmt: skip
    floor = 2 * torch.finfo(x.dtype).eps if x.dtype in (torch.float32, torch.float64) else 0
    assert distance(got, truth) <= 2 * distance(reference, truth) + floor
    assert np.linalg.norm(truth) > 0 or x.numel() == 0
