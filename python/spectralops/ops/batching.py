"""The batching rule of operators whose problems are independent: rows are merged where only rows are batched, else one call each."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_or_each(op, rows: tuple[int, ...], alone=lambda args: True):
    """A rule for register_vmap. `rows`: positions of the arguments, and all results, whose first dimension is one of independent
    rows; where only those are batched, and alone(args), the batch becomes more rows. Otherwise each problem is a call."""

    def rule(info, in_dims, *args):
        dims = tuple(in_dims) + (None,) * (len(args) - len(in_dims))
        batched = [i for i, (a, d) in enumerate(zip(args, dims)) if isinstance(a, Tensor) and d is not None]
        if info.batch_size and all(i in rows for i in batched) and alone(args):
            merged = list(args)
            for i in rows:
                if isinstance(args[i], Tensor):
                    t = args[i].movedim(dims[i], 0) if i in batched else args[i].expand(info.batch_size, *args[i].shape)
                    merged[i] = t.flatten(0, 1)
            return _each(op(*merged), lambda t: t.unflatten(0, (info.batch_size, t.shape[0] // info.batch_size)))
        if info.batch_size == 0:  # what one would give, none of it
            one = op(*(a.new_ones(a.movedim(dims[i], 0).shape[1:]) if i in batched else a for i, a in enumerate(args)))
            return _each(one, lambda t: t.new_empty(0, *t.shape))
        each = [op(*(a.select(dims[i], j) if i in batched else a for i, a in enumerate(args))) for j in range(info.batch_size)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each))), (0,) * len(each[0])

    return rule


def _each(result, f):
    if isinstance(result, Tensor):
        return f(result), 0
    return tuple(map(f, result)), (0,) * len(result)
