"""sparse_wht_decode and walsh_sum through the C core, for the `cpu` and `cuda` backends: one struct (csrc/capi/spectralops.h)."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from ._core import DTYPES, _pointer, _workspace
from .._loader import core
from ..ops.sparse_wht_reference import Decoded

KERNELS = {"cpu": ("sparse_wht_decode", "walsh_sum"), "cuda": ()}  # what the core has kernels for
FORMAT = "@17q14q4d"  # pointers with workspace_bytes, sizes and codes, levels
WORKSPACE = 15  # the position of workspace among the fields; workspace_bytes follows


def unsupported(function: str, *args) -> str | None:
    """Why the core has no kernel for this call, or None."""
    values = args[0] if function == "sparse_wht_decode" else args[2]
    if function not in KERNELS.get(values.device.type, ()):
        return f"no kernel for {function} on {values.device.type}"
    if values.dtype not in (torch.float32, torch.float64):
        return f"no kernel for {values.dtype}"
    return None


def unplannable(values: Tensor, index: Tensor | None, tables, call) -> str | None:
    """Why the CUDA kernels have no plan for a call, or None."""
    return None


def new_outputs(values: Tensor, tables, call) -> Decoded:
    rows, (groups, _, words) = values.shape[0], tables.to_bin_rows.shape
    return Decoded(
        tables.base.new_empty((rows, call.capacity, words)),
        values.new_empty((rows, call.capacity)),
        torch.empty(rows, dtype=torch.int32, device=values.device),
        values.new_empty((rows, groups, 1 << call.b)),
        values.new_empty((rows, 2)),
    )


def fields(values: Tensor, index: Tensor | None, tables, call, out: Decoded) -> list:
    """Of spectralops_sparse_wht_call, without a workspace."""
    pointers = [t.data_ptr() for t in (*tables, *out)]
    sizes = (values.shape[0], values.shape[1], tables.base.shape[0], DTYPES[values.dtype])
    return [values.data_ptr(), _pointer(index), *pointers, 0, 0, *sizes, *map(int, call[:10]), *call[10:]]


def sparse_wht_decode(where, values: Tensor, index: Tensor | None, tables, call) -> Decoded:
    out, place = new_outputs(values, tables, call), where(values)
    data = fields(values, index, tables, call, out)
    buffer = bytearray(struct.pack(FORMAT, *data))
    view = (memoryview(buffer), torch.frombuffer(buffer, dtype=torch.uint8))  # the address of the struct, alive until the call is done
    size = core().sparse_wht_workspace(view[1].data_ptr(), *place[:2])
    work = _workspace(size, values.device)
    struct.pack_into("@2q", buffer, 8 * WORKSPACE, _pointer(work), size)
    core().sparse_wht_decode(view[1].data_ptr(), *place)
    return out


def walsh_sum(where, points: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    y = values.new_empty(points.shape[0])
    core().walsh_sum(
        points.data_ptr(), keys.data_ptr(), values.data_ptr(), y.data_ptr(), points.shape[0], keys.shape[0], points.shape[1],
        DTYPES[values.dtype], *where(values),
    )  # fmt: skip
    return y
