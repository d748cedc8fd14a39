"""Calls of fft_conv through the Python glue on the SIMT build, beside the reference that specifies it."""

import ctypes
import math
from types import SimpleNamespace

import torch
from simt_build import check

import spectralops.backends._fft_conv as glue
from spectralops.ops import fft_conv_reference as spec
from spectralops.ops.fft_conv_reference import GRADIENTS, Call, compute_dtype

H200 = (90, 132, 227 * 1024)


def where(_):
    return 0, 1, 0


def as_core(library):
    """The library as _loader.core() gives it: integers in, RuntimeError out."""

    def call(name):
        function = getattr(library, "spectralops_" + name)
        return lambda *args: check(library, function(*args[:-1], ctypes.c_void_p(args[-1])))

    return SimpleNamespace(
        fft_conv_forward=call("fft_conv_forward"),
        fft_conv_backward=call("fft_conv_backward"),
        fft_conv_workspace=library.spectralops_fft_conv_workspace,
    )


def randn(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def problem(
    length,
    size,
    lag0=0,
    *,
    rows=1,
    channels=2,
    filters=1,
    groups=None,
    samples=1,
    grid=0,
    skip=False,
    gate_in=False,
    gate_out=False,
    mask=False,
    activation="identity",
    blh=False,
    starts=None,
    dtype=torch.float32,
    seed=0,
):
    """Operands in `dtype`, parameters in the compute dtype; the float64 truth starts from the rounded values."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    batch, total = (rows, length) if starts is None else (1, starts[-1])
    groups = channels if groups is None else groups
    rows = rows if starts is None else len(starts) - 1
    row = (batch, channels, total)
    out = (batch, filters, channels, total)
    taps = randn(seed + 1, samples, filters, groups, size) / math.sqrt(size)
    kernel = taps if not grid else spec.spectrum(taps, lag0, grid)
    return SimpleNamespace(
        u=randn(seed, *row).to(dtype),
        kernel=kernel.to(wide),
        skip=randn(seed + 2, filters, channels).to(wide) if skip else None,
        gate_in=randn(seed + 3, *row).to(dtype) if gate_in else None,
        gate_out=randn(seed + 4, *out).to(dtype) if gate_out else None,
        mask=randn(seed + 5, rows, channels).to(wide) if mask else None,
        starts=None if starts is None else torch.tensor(starts),
        grad=randn(seed + 6, *out).to(dtype),
        call=Call(0 if grid else lag0, grid, activation, "highest", blh, length),
    )


FLOATS = ("u", "kernel", "skip", "gate_in", "gate_out", "mask", "grad")


def cast(p, data, parameters=None):
    """The same values in other dtypes."""
    parameters = parameters or data
    to = lambda name: data if name in ("u", "gate_in", "gate_out", "grad") else parameters  # noqa: E731
    wide = {n: t if (t := getattr(p, n)) is None else t.to(to(n)) for n in FLOATS}
    return SimpleNamespace(**{**vars(p), **wide})


def operands(p):
    return p.u, p.kernel, p.skip, p.gate_in, p.gate_out, p.mask, p.starts


def needs_of(p):
    return (True, True, *(t is not None for t in (p.skip, p.gate_in, p.gate_out, p.mask)))


def reference(p, needs=None):
    """y and the gradients wanted, by name."""
    needs = needs_of(p) if needs is None else needs
    found = {"y": spec.forward(*operands(p), p.call)}
    gradients = spec.backward(p.grad, *operands(p), p.kernel.shape[:4], p.call, needs)
    return found | {n: g for n, g in zip(GRADIENTS, gradients) if g is not None}


def ours(p, needs=None):
    needs = needs_of(p) if needs is None else needs
    found = {"y": glue.fft_conv(where, *operands(p), p.call)}
    gradients = glue.fft_conv_backward(where, p.grad, *operands(p), p.kernel.shape[:4], p.call, needs)
    return found | {n: g for n, g in zip(GRADIENTS, gradients) if g is not None}


def compare(tally, p, needs=None, sums=True):
    """Every result in units of its roundoff, beside the reference's; float64 beside the float32 reference.

    sums: with those of dskip and dmask, single numbers for a channel, whose rounding is luck where they are few.
    """
    got = ours(p, needs)
    exact = reference(cast(p, torch.float64), needs)
    plain = reference(cast(p, torch.float32) if p.u.dtype == torch.float64 else p, needs)
    assert got.keys() == exact.keys()
    for name, value in got.items():
        assert value.dtype == (p.u.dtype if name in ("y", "u", "gate_in", "gate_out") else compute_dtype(p.u)), name
        if sums or name not in ("skip", "mask"):
            tally.add(name, value, plain[name], exact[name])
    return got
