"""spectral_filter, the truncated transforms and the mixing of modes through the C core, for the `cpu` and `cuda` backends: one struct
of 8-byte fields each (csrc/capi/spectralops.h)."""

from __future__ import annotations

import struct
from array import array
from functools import lru_cache

import torch
from torch import Tensor

from ._core import DTYPES, _pointer, _workspace
from .._loader import core
from ..ops.fft_conv_reference import compute_dtype
from ..ops.istft_head_reference import VARIANTS
from ..ops.modes import new_grid, new_spectrum
from ..ops.modes_reference import ACTIVATIONS, wide

NAMES = ("spectral_filter", "spectral_filter_gradient", "mode_dft", "mode_idft", "mode_mix", "mode_mix_gradient")
KERNELS = {  # what the core has kernels for
    "cpu": (*NAMES, "istft_head", "istft_head_backward"),
    "cuda": ("spectral_filter", "spectral_filter_gradient"),
}
_WIDE = 600  # modes, up to which products are no slower than the reference's FFT there and back, measured on AVX-512
_FILTER_WORKSPACE, _MODES_WORKSPACE, _ISTFT_WORKSPACE = 8, 6, 5  # the position of workspace among the fields; workspace_bytes follows


def unsupported(function: str, *args) -> str | None:
    """Why the core has no kernel for this call, or None."""
    device = args[0].device.type
    if function not in KERNELS.get(device, ()):
        return f"no kernel for {function} on {device}"
    if any(isinstance(a, Tensor) and a.dtype not in DTYPES for a in args):
        return f"no kernel for {args[0].dtype}"
    if function in ("istft_head", "istft_head_backward") and not _smooth(args[1 if function == "istft_head" else 2].shape[0]):
        return "n must be even and of no prime factor but 2, 3 and 5"
    if device == "cpu" and function in ("mode_dft", "mode_idft"):
        modes, last = args[1:3]
        if not last and wide(modes) and modes.counts[0] + modes.counts[1] + 2 * modes.counts[2] > _WIDE:
            return f"of a grid of {modes.sizes}, {modes.counts} modes are better taken from a full FFT"
    return None


@lru_cache(maxsize=256)
def _plannable(device: int, gradient: bool, *fields: int) -> bool:
    """Whether the core has a kernel for these sizes, strides and codes: the fields of the struct, with pointers that are not read."""
    data = array("q", fields)
    return core().filter_workspace(data.buffer_info()[0], int(gradient), device, 1) >= 0


def unplannable(function: str, *args) -> str | None:
    """Why the CUDA kernels have no plan for a call, or None: they take the sides and strides they are made for."""
    if not function.startswith("spectral_filter"):
        return None
    x = args[0]
    if gradient := function == "spectral_filter_gradient":
        grad, (eps, samples, groups), residual = args[1], args[4:7], None
    else:
        grad, (samples, groups), residual, eps = None, (args[1].shape[0], args[1].shape[4]), args[4], args[5]
    fields = (
        *(0,) * 10, *x.shape, samples, groups, 0, DTYPES[x.dtype], _bits(eps), *_strides(x), *_strides(grad), *_strides(residual),
        *_strides(x),
    )  # fmt: skip
    if _plannable(x.device.index or 0, gradient, *fields):
        return None
    return f"no CUDA kernel for grids of {' x '.join(map(str, x.shape[1:4]))}"


def _smooth(n: int) -> bool:
    """Whether an even n has no prime factor but 2, 3 and 5."""
    if n % 2:
        return False
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    return n == 1


def _bits(value: float) -> int:
    """A double as the integer of its bits."""
    return struct.unpack("q", struct.pack("d", value))[0]


def _strides(t: Tensor | None) -> tuple[int, ...]:
    return (0,) * 5 if t is None else t.stride()


def _run(name: str, workspace: str, flag: int, position: int, where, fields: array, x: Tensor) -> None:
    place, address = where(x), fields.buffer_info()[0]
    size = max(getattr(core(), workspace)(address, flag, *place[:2]), 0)  # -1: no kernel, and the call says why
    work = _workspace(size, x.device)
    fields[position], fields[position + 1] = _pointer(work), size
    getattr(core(), name)(address, *place)


def _filter(name, where, x, grad, weight, norm_weight, norm_bias, residual, y, dweight, samples, groups, conj, eps):
    fields = array("q", (
        *map(_pointer, (x, grad, weight, norm_weight, norm_bias, residual, y, dweight)), 0, 0,
        *x.shape, samples, groups, int(conj), DTYPES[x.dtype], _bits(eps), *_strides(x), *_strides(grad), *_strides(residual), *_strides(y),
    ))  # fmt: skip
    _run(name, "filter_workspace", int(name == "filter_gradient"), _FILTER_WORKSPACE, where, fields, x)


def spectral_filter(where, x, weight, norm_weight, norm_bias, residual, eps, conj):
    y = torch.empty_like(x)
    residual = None if residual is None else residual.to(x.dtype)
    _filter("filter", where, x, None, weight, norm_weight, norm_bias, residual, y, None, weight.shape[0], weight.shape[4], conj, eps)
    return y


def spectral_filter_gradient(where, x, grad, norm_weight, norm_bias, eps, samples, groups):
    shape = (samples, x.shape[1], x.shape[2], x.shape[3] // 2 + 1, groups, 2)
    dweight = x.new_empty(shape, dtype=compute_dtype(x))
    _filter("filter_gradient", where, x, grad, None, norm_weight, norm_bias, None, None, dweight, samples, groups, False, eps)
    return dweight


def _grid_strides(t: Tensor | None, last: bool) -> tuple[int, ...]:
    """Of rows, channels, n1, n2, n3."""
    if t is None:
        return (0,) * 5
    s = t.stride()
    return (s[0], s[4], *s[1:4]) if last else s


def _modes(name, where, x, skip, bias, grad, spectrum, y, modes, last, scale, doubled, activation, dtype):
    grid = x if x is not None else y
    fields = array("q", (
        *map(_pointer, (x, skip, bias, grad, spectrum, y)), 0, 0, grid.shape[0], grid.shape[4 if last else 1],
        *modes.sizes, *modes.counts, *modes.starts, *modes.shifts, int(last), int(doubled),
        ACTIVATIONS.index(activation) and 2, DTYPES[dtype], _bits(scale), *_grid_strides(x, last), *_grid_strides(skip, last), *_grid_strides(grad, last),
    ))  # fmt: skip
    _run(name, "modes_workspace", int(name == "mode_idft"), _MODES_WORKSPACE, where, fields, grid)


def mode_dft(where, x, modes, last, scale, doubled):
    spectrum = new_spectrum(x, modes.counts, last)
    _modes("mode_dft", where, x, None, None, None, spectrum, None, modes, last, scale, doubled, "identity", x.dtype)
    return spectrum


def mode_idft(where, spectrum, modes, last, scale, doubled, skip, bias, grad, activation, dtype):
    y = new_grid(spectrum, modes.sizes, last, dtype)
    skip, grad = (None if t is None else t.to(dtype) for t in (skip, grad))
    _modes("mode_idft", where, None, skip, bias, grad, spectrum, y, modes, last, scale, doubled, activation, dtype)
    return y


def _mix(where, a, weight, grad, out, rows, inputs, outputs, modes, kind, weight_dtype):
    fields = array("q", (
        *map(_pointer, (a, weight, grad, out)), rows, inputs, outputs, modes, kind, DTYPES[weight_dtype], DTYPES[a.dtype],
    ))  # fmt: skip
    core().mode_mix(fields.buffer_info()[0], *where(a))


def mode_mix(where, spectrum, weight, adjoint):
    inputs, outputs, modes, _ = weight.shape
    rows = spectrum.shape[0]
    out = spectrum.new_empty(rows, inputs if adjoint else outputs, modes, 2)
    _mix(where, spectrum, weight, None, out, rows, inputs, outputs, modes, int(adjoint), weight.dtype)
    return out


def mode_mix_gradient(where, spectrum, grad):
    rows, inputs, modes, _ = spectrum.shape
    out = spectrum.new_empty(inputs, grad.shape[1], modes, 2)
    _mix(where, spectrum, None, grad, out, rows, inputs, grad.shape[1], modes, 2, spectrum.dtype)
    return out


def _istft(name, where, x, grad, window, scale, y, frames, hop, start, length, variant, limit):
    given = x if grad is None else grad
    fields = array("q", (
        *map(_pointer, (x, grad, window, scale, y)), 0, 0, given.shape[0], frames, window.shape[0], hop, start, length,
        VARIANTS.index(variant), DTYPES[given.dtype], _bits(limit), *((0,) * 3 if x is None else x.stride()),
        *((0,) * 2 if grad is None else grad.stride()),
    ))  # fmt: skip
    _run(name, "istft_workspace", int(grad is not None), _ISTFT_WORKSPACE, where, fields, given)


def istft_head(where, x, window, scale, hop, start, length, variant, limit):
    y = x.new_empty(x.shape[0], length)
    _istft("istft_head", where, x, None, window, scale, y, x.shape[1], hop, start, length, variant, limit)
    return y


def istft_head_backward(where, grad, x, window, scale, frames, hop, start, variant, limit):
    dx = grad.new_empty(grad.shape[0], frames, 2 * (window.shape[0] // 2 + 1))
    x = None if variant == "cartesian" else x.to(grad.dtype)
    _istft("istft_head_backward", where, x, grad, window, scale, dx, frames, hop, start, grad.shape[1], variant, limit)
    return dx
