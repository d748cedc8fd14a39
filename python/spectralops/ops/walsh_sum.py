"""The sum of a few Walsh functions at many points, an operator: y[m] = sum_k values[k] (-1)^<points[m], keys[k]>.

It is linear in the values, and points and keys exchanged it is its own adjoint: derivatives of every order
are the operator.

Fewest bytes: points, keys and values once, y once. Fewest operations: M K additions, and M times the ones
of all keys for the signs.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from . import bits, sparse_wht_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap
from .batching import rows_or_each
from .plain import formula

CHUNK = {"cpu": 1 << 11}  # points packed at a time, so that what is between stays in a cache; on a GPU so that it fits


@implement("walsh_sum")
def walsh_sum(points, keys, values, backend=None):
    if points.dim() != 2 or keys.dim() != 2 or points.shape[1] != keys.shape[1] or values.shape != keys.shape[:1]:
        shapes = ", ".join(str(_check.shape(t)) for t in (points, keys, values))
        raise ValueError(f"points, keys and values must have shapes (M, W), (K, W) and (K,); got {shapes}")
    if points.dtype != torch.int64 or keys.dtype != torch.int64 or not points.shape[1] or not values.is_floating_point():
        found = f"{points.dtype} {_check.shape(points)}, {keys.dtype} and {values.dtype}"
        raise ValueError(f"points and keys must be int64 with at least one word a row, values of a floating type; got {found}")
    _check.same_device("values", values, points=points, keys=keys)
    if points.shape[0] == 0 or keys.shape[0] == 0:
        return values.new_zeros(points.shape[0])
    args = (points.contiguous(), keys.contiguous(), values.contiguous())
    return backends.select("walsh_sum", backend, *args)(*args)


register_vmap("walsh_sum")(rows_or_each(walsh_sum, ()))


class _WalshSum(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(points, keys, values, backend):
        return walsh_sum(points, keys, values, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.backend = inputs[3]

    @staticmethod
    def backward(ctx, grad):
        points, keys = ctx.saved_tensors
        return None, None, _WalshSum.apply(keys, points, grad, ctx.backend), None


_WalshSum.forward.__signature__ = inspect.signature(_WalshSum.forward)  # Function.apply inspects it on every call otherwise


def signed_sum(points: Tensor, keys: Tensor, values: Tensor, backend: str | None) -> Tensor:
    """(M, W), (K, W), (K,) -> (M,), differentiable in the values."""
    if formula(backend):
        return spec.walsh_sum(points, keys, values)
    if differentiated(values):
        return _WalshSum.apply(points, keys, values, backend)
    return walsh_sum(points, keys, values, backend)


def packed(points: Tensor) -> Tensor:
    """(M, n) of zeros and ones -> (M, W), some rows at a time."""
    out = points.new_empty((points.shape[0], bits.words(points.shape[1])), dtype=bits.pack(points[:0]).dtype)
    chunk = CHUNK.get(points.device.type, 1 << 17)
    for rows, to in zip(points.split(chunk), out.split(chunk)):
        to.copy_(bits.pack(rows))
    return out
