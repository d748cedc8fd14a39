"""A function of known sparse spectrum at all points of a plan, for tests and measurements.

    f(M_c l + d_p) = sum_j (-1)^<l, j> U_c[j, p],   U_c[j, p] = sum_{k: M_c^T k = j} F[k] (-1)^<d_p, k>

C (K P + B P b) additions, where `walsh_sum` at the C B P points would take K of them each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import bits
from .hadamard import hadamard_transform

if TYPE_CHECKING:
    from .sparse_wht_plan import SparseWHTPlan

SIGNS = 1 << 22  # made at a time, times the words of a key


def samples_of(plan: "SparseWHTPlan", keys: Tensor, values: Tensor) -> Tensor:
    """(K, W) int64, (K,) -> (num_queries,): sum_k values[k] (-1)^<m, k> at the points m of `plan.queries()`, in their order.

    In the dtype of `values`, float32 or float64. No gradient.
    """
    _, offsets = plan._points  # (C, P, W)
    samples, rows = plan.num_offsets, plan.tables.to_bin_rows[:, : plan.b]
    u = values.new_zeros(plan.groups, plan.bins, samples)
    step = max(1, SIGNS // (samples * keys.shape[1]))
    for c in range(plan.groups):
        for at in range(0, len(keys), step):
            some, scale = keys[at : at + step], values[at : at + step, None]
            place = (bits.parity(some[:, None], rows[c]) << torch.arange(plan.b, device=keys.device)).sum(1)
            signs = 1 - 2 * bits.parity(some[:, None], offsets[c]).to(values.dtype)  # (A, P)
            u[c].index_add_(0, place, scale * signs)
    fresh = hadamard_transform(u, dim=1).reshape(-1)[plan._numbering[1]]
    return fresh if plan._smaller is None else torch.cat([samples_of(plan._smaller, keys, values), fresh])
