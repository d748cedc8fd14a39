"""Calls of spectral_filter through the Python glue on the SIMT build, beside the reference that specifies it."""

import ctypes
from types import SimpleNamespace

import torch
from simt_build import check

import spectralops.backends._spectral as glue
from spectralops.ops import spectral_filter_reference as spec
from spectralops.ops.fft_conv_reference import compute_dtype

H200 = (90, 132, 227 * 1024)


def where(_):
    return 0, 1, 0


def as_core(library):
    """The library as _loader.core() gives it: integers in, RuntimeError out."""

    def call(name):
        function = getattr(library, "spectralops_" + name)
        return lambda *args: check(library, function(*args[:-1], ctypes.c_void_p(args[-1])))

    return SimpleNamespace(
        filter=call("filter"), filter_gradient=call("filter_gradient"), filter_workspace=library.spectralops_filter_workspace
    )


def randn(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def problem(
    sides, rows=2, channels=3, groups=None, each=False, norm=False, residual=False, conj=False, dtype=torch.float32, seed=0
):
    """Operands in `dtype`, parameters in the compute dtype; sides (n1, n2, n3), or fewer."""
    sides = (*(1,) * (3 - len(sides)), *sides)
    grid, wide = (rows, *sides, channels), compute_dtype(torch.empty(0, dtype=dtype))
    weight = randn(seed + 1, rows if each else 1, *sides[:2], sides[2] // 2 + 1, groups or channels, 2)
    return SimpleNamespace(
        x=(randn(seed, *grid) + (0.5 if norm else 0)).to(dtype), grad=randn(seed + 2, *grid).to(dtype), weight=weight.to(wide),
        norm_weight=randn(seed + 3, channels).to(wide) if norm else None,
        norm_bias=randn(seed + 4, channels).to(wide) if norm else None,
        residual=randn(seed + 5, *grid).to(dtype) if residual else None, eps=1e-5 if norm else -1.0, conj=conj,
    )  # fmt: skip


def cast(p, data, wide):
    """The same values in other dtypes."""
    to = {"x": data, "grad": data, "residual": data, "weight": wide, "norm_weight": wide, "norm_bias": wide}
    return SimpleNamespace(**{**vars(p), **{n: t if (t := getattr(p, n)) is None else t.to(d) for n, d in to.items()}})


def filter_args(p):
    return p.x, p.weight, p.norm_weight, p.norm_bias, p.residual, p.eps, p.conj


def gradient_args(p):
    return p.x, p.grad, p.norm_weight, p.norm_bias, p.eps, p.weight.shape[0], p.weight.shape[4]


def reference(p):
    return {"y": spec.forward(*filter_args(p)), "dweight": spec.gradient(*gradient_args(p))}


def ours(p):
    y = glue.spectral_filter(where, *filter_args(p))
    return {"y": y, "dweight": glue.spectral_filter_gradient(where, *gradient_args(p))}


def compare(tally, p, only=("y", "dweight")):
    """Each result in units of its roundoff, beside the reference's; float64 beside the float32 reference."""
    got, exact = ours(p), reference(cast(p, torch.float64, torch.float64))
    plain = reference(cast(p, torch.float32, torch.float32) if p.x.dtype == torch.float64 else p)
    assert got["y"].dtype == p.x.dtype and got["y"].stride() == torch.empty_like(p.x).stride()
    assert got["dweight"].dtype == compute_dtype(p.x) and got["dweight"].shape == p.weight.shape
    for name in only:
        tally.add(name, got[name], plain[name], exact[name])
