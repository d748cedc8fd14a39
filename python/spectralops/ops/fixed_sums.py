"""Sums of the numbers that share a place, in an order that depends on the places alone, on every device."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function


def _add(values: Tensor, place: Tensor, count: int) -> Tensor:
    out = values.new_zeros(count)
    if values.device.type == "cpu":
        return out.index_add_(0, place, values)  # one after another
    return out.index_put_((place,), values, accumulate=True)  # sorted first


class _Sum(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values, place, count):
        return _add(values, place, count)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])
        ctx.count = inputs[2]

    @staticmethod
    def backward(ctx, grad):
        return _Take.apply(grad, ctx.saved_tensors[0], ctx.count), None, None


class _Take(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values, place, count):
        return values[place]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])
        ctx.count = inputs[2]

    @staticmethod
    def backward(ctx, grad):
        return _Sum.apply(grad, ctx.saved_tensors[0], ctx.count), None, None


for _f in (_Sum, _Take):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


def sum_at(values: Tensor, place: Tensor, count: int) -> Tensor:
    """(T,), (T,) int64 in [0, count) -> (count,): entry c is the sum of values[place == c]."""
    return _Sum.apply(values, place, count)


def take_at(values: Tensor, place: Tensor) -> Tensor:
    """values[place] for 1-D values, whose gradient is `sum_at`."""
    return _Take.apply(values, place, values.shape[0])
