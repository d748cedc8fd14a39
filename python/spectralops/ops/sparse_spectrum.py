"""`SparseSpectrum`: the coefficients that were found, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import bits

if TYPE_CHECKING:
    from .sparse_wht_plan import SparseWHTPlan
    from .sparse_wht_reference import Call


class Batch(NamedTuple):
    """What one call of the decoder gave, shared by the spectra of its R functions (sparse_wht_reference.Decoded)."""

    plan: "SparseWHTPlan"
    call: "Call"
    keys: Tensor
    values: Tensor
    counts: Tensor
    energy: Tensor
    noise: Tensor
    samples: Tensor | None  # (R, num_queries): the coefficients are fitted to them

    def unpacked(self, r: int) -> dict:
        """The fields of spectrum r."""
        count = int(self.counts[r])
        keys, values = self.keys[r, :count], self.values[r, :count]
        v, floor = self.noise[r]
        samples = self.plan.num_offsets
        kept = samples * values.square() >= self.call.theta * v / 4  # what was found and taken back leaves its rounding
        order = values[kept].abs().argsort(descending=True, stable=True)
        keys, values = keys[kept][order], values[kept][order]
        level = v
        if self.call.noise < 0 and not bool((keys != 0).any()):
            level = floor  # an estimate of the noise is believed where something stands out of it
        unresolved = (self.energy[r] > self.call.tau * level).nonzero()
        residual = self.energy[r].sum(1).mean()
        noise = (v * self.plan.bins).sqrt().item() if v > floor else 0.0
        return dict(keys=keys, values=values, unresolved=unresolved, residual_energy=residual.item(), noise_std=noise)


class SparseSpectrum:
    r"""Walsh-Hadamard coefficients :math:`F[k]` of a function on n bits, all others taken as zero:
    :math:`f(m) = \sum_k F[k] (-1)^{\langle m, k \rangle}`.

    Args:
        n: variables. keys: (K, ceil(n / 64)) int64, variable i of n at bit n - 1 - i. values: (K,) float32 or float64.
        unresolved: (U, 2) int64, group and bin of what a decoder could not explain; empty for a complete one.
        residual_energy: the unexplained sum of F^2, noise included.
        noise_std: of the values that were decoded, estimated or given.
    """

    _batch: Batch | None = None

    def __init__(
        self, n: int, keys: Tensor, values: Tensor, unresolved: Tensor | None = None, residual_energy: float = 0.0, noise_std: float = 0.0
    ):  # fmt: skip
        self.n, self.keys, self.values = n, keys, values
        self.unresolved = keys.new_zeros((0, 2)) if unresolved is None else unresolved
        self.residual_energy, self.noise_std = residual_energy, noise_std

    @classmethod
    def _of(cls, batch: Batch, r: int) -> "SparseSpectrum":
        """Spectrum r of a batch; its fields are made when one of them is asked for."""
        self = cls.__new__(cls)
        self.n, self._batch, self._row = batch.plan.n, batch, r
        return self

    def __getattr__(self, name: str):
        if name.startswith("__") or self._batch is None:
            raise AttributeError(f"SparseSpectrum has no attribute {name!r}")
        batch, self._batch = self._batch, None
        self.__dict__.update(batch.unpacked(self._row))
        return getattr(self, name)

    def __len__(self) -> int:
        return self.keys.shape[0]

    def bits(self) -> Tensor:
        """(K, n) uint8: the keys, variable i in column i."""
        return bits.unpack(self.keys, self.n).contiguous()
