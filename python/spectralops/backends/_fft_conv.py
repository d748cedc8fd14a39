"""fft_conv through the C core, for the `cpu` and `cuda` backends: one struct of 8-byte fields (csrc/capi/spectralops.h)."""

from __future__ import annotations

from array import array
from functools import lru_cache

import torch
from torch import Tensor

from ._core import DTYPES, _pointer, _workspace
from .._loader import core
from ..ops.fft_conv_reference import ACTIVATIONS, GRADIENTS, Call, compute_dtype, new_like_u, new_like_y

WORKSPACE = 15, 16  # the positions of workspace and workspace_bytes among the fields


def unsupported(function: str, *args) -> str | None:
    """Why the core has no kernel for this call, or None."""
    if args[0].dtype not in DTYPES:
        return f"no kernel for {args[0].dtype}"
    return None


@lru_cache(maxsize=256)
def _plannable(device: int, backward: bool, *sizes: int) -> bool:
    """Whether the core has a plan for these sizes (rows .. dtype of the struct): one that it has takes a workspace."""
    fields = array("q", (*(0,) * (WORKSPACE[1] + 1), *sizes, *(0,) * 22))
    return core().fft_conv_workspace(fields.buffer_info()[0], int(backward), device, 1) > 0


def unplannable(function: str, *args) -> str | None:
    """Why the CUDA kernels have no plan for a call, or None."""
    backward = function == "fft_conv_backward"
    first, cu_seqlens, call = args[0], args[6 + backward], args[7 + 2 * backward]
    samples, filters, groups, size = args[8] if backward else args[1].shape[:4]
    rows = first.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    sizes = (rows, filters, first.shape[-2], call.length, samples, groups, size, call.lag0, call.grid, 0, DTYPES[first.dtype])
    if _plannable(first.device.index or 0, backward, *sizes):
        return None
    return f"no CUDA kernel for rows of {call.length} with {size} taps"


def _strides(t: Tensor | None, count: int) -> tuple[int, ...]:
    return (0,) * count if t is None else t.stride()


def _fields(first, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, grad, outputs, filters, shape, call: Call) -> array:
    """Every field of spectralops_fft_conv_call in order; `first` is u or grad, which every call has."""
    samples, _, groups, size = shape
    y, du, dkernel, dskip, dgate_in, dgate_out, dmask = outputs
    rows = first.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    like_y = y if y is not None else dgate_out
    like_u = du if du is not None else dgate_in
    return array("q", (
        *map(_pointer, (u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, grad)),
        *map(_pointer, (y, du, dkernel, dskip, dgate_in, dgate_out, dmask)), 0, 0,
        rows, filters, first.shape[-2], call.length, samples, groups, size, call.lag0, call.grid,
        ACTIVATIONS.index(call.activation), DTYPES[first.dtype], int(call.precision == "high"),
        *_strides(u, 3), *_strides(gate_in, 3), *_strides(gate_out, 4), *_strides(grad, 4), *_strides(like_y, 4), *_strides(like_u, 3),
    ))  # fmt: skip


def _run(name: str, where, fields: array, x: Tensor) -> None:
    place = where(x)
    address = fields.buffer_info()[0]
    size = core().fft_conv_workspace(address, int(name == "fft_conv_backward"), *place[:2])
    work = _workspace(size, x.device)
    fields[WORKSPACE[0]], fields[WORKSPACE[1]] = _pointer(work), size
    getattr(core(), name)(address, *place)


def fft_conv(where, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, call):
    filters = kernel.shape[1]
    y = new_like_y(u, filters, call.blh)
    outputs = (y, *(None,) * 6)
    fields = _fields(u, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, None, outputs, filters, kernel.shape[:4], call)
    _run("fft_conv_forward", where, fields, u)
    return y


def fft_conv_backward(where, grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, call, needs):
    dtype, rows, filters = compute_dtype(grad), grad[:, 0], kernel_shape[1]
    makers = {
        "u": lambda: new_like_u(rows, call.blh),
        "kernel": lambda: grad.new_empty((*kernel_shape, 2) if call.grid else kernel_shape, dtype=dtype),
        "skip": lambda: grad.new_empty(grad.shape[1:3], dtype=dtype),
        "gate_in": lambda: new_like_u(rows, call.blh),
        "gate_out": lambda: new_like_y(rows, filters, call.blh),
        "mask": lambda: torch.empty_like(mask),
    }
    found = tuple(makers[name]() if need else None for name, need in zip(GRADIENTS, needs))
    fields = _fields(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, grad, (None, *found), filters, kernel_shape, call)
    _run("fft_conv_backward", where, fields, grad)
    return found
