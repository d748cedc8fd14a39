"""The decoder as an operator, and the spectra it gives. Formulas: `sparse_wht_reference.py`.

Fewest operations of a decode: C B P b additions for the transforms, C B P for the tests of the bins, K C P for the peeling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .sparse_spectrum import Batch, SparseSpectrum
from .sparse_wht_groups import Tables
from .sparse_wht_reference import Call
from .. import backends
from .._ops import implement

if TYPE_CHECKING:
    from .sparse_wht_plan import SparseWHTPlan


@implement("sparse_wht_decode")
def sparse_wht_decode(values, index, tables, sizes, levels, backend=None):
    tables = Tables(*tables)
    call = Call(*sizes[:5], bool(sizes[5]), *sizes[6:], *levels)
    groups, bins, samples = tables.base.shape[0], 1 << call.b, call.repeats * (call.checks + 1)
    if index is None and values.shape[1] != groups * bins * samples or index is not None and tuple(index.shape) != (groups, bins, samples):
        raise ValueError(f"values of {tuple(values.shape)} are not those of {groups} groups of {bins} bins and {samples} offsets")
    args = (values.contiguous(), index, tables, call)
    return tuple(backends.select("sparse_wht_decode", backend, *args)(*args))


def decode(plan: "SparseWHTPlan", values: Tensor, noise_std, refit: bool, backend: str | None) -> list[SparseSpectrum]:
    """(R, num_queries), float32 or float64 -> R spectra."""
    if values.shape[0] == 0:
        return []
    learned = torch.is_grad_enabled() and values.requires_grad
    call = plan._call(noise_std)
    with torch.no_grad():
        done = sparse_wht_decode(values.detach(), plan._index, plan.tables, call[:10], call[10:], backend)
    batch = Batch(plan, call, *done, samples=values if learned else values.detach() if refit else None)
    return [SparseSpectrum._of(batch, r) for r in range(values.shape[0])]
