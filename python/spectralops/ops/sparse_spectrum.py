"""`SparseSpectrum`: the coefficients that were found, and what follows from them.

Formulas of the indices: sparse_spectrum_indices.py; of the fit to the samples: sparse_wht_refit.py.
"""

from __future__ import annotations

import copy
import math
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Sequence

import torch
from torch import Tensor

from . import bits, sparse_spectrum_indices as indices, sparse_spectrum_text as text
from .plain import exporting
from .sparse_spectrum_indices import Interactions
from .sparse_wht_refit import refit
from .walsh_sum import packed, signed_sum
from .. import _check

if TYPE_CHECKING:
    from .sparse_wht_plan import SparseWHTPlan
    from .sparse_wht_reference import Call

UNLIKELY = 8.0  # standard deviations of the spread of noise's energies: once in 10^5 decodes or less, by simulation for P = 1 to 200
LEAST = 128  # independent samples of noise from which an estimate is believed: with fewer v is uncertain by more than an eighth
NEGLIGIBLE = 1e-8  # of the energy that was found: taken for rounding
DENSE = 28  # variables of a dense spectrum at most: a GiB of float32
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ORDERS = ("magnitude", "degree", "variables")


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
    root: float = 1.0  # what was decoded is the function divided by its square

    def unpacked(self, r: int) -> dict:
        """The fields of spectrum r; whether they have a derivative was settled when the samples were given."""
        with torch.set_grad_enabled(self.samples is not None and self.samples.requires_grad):
            return self._unpacked(r)

    def _unpacked(self, r: int) -> dict:
        count = int(self.counts[r])
        keys, values = self.keys[r, :count], self.values[r, :count]
        v, floor = self.noise[r]
        samples = self.plan.num_offsets
        kept = samples * values.square() >= self.call.theta * v / 4  # what was found and taken back leaves its rounding
        keys, values = keys[kept], values[kept]
        unresolved = (self.energy[r] > self.call.tau * v).nonzero()
        believed = self._is_noise(r, keys, values)
        if self.samples is not None:
            values = refit(self.plan, keys, self.samples[r], unresolved)
        if not believed:
            unresolved = (self.energy[r] > self.call.tau * floor).nonzero()
        order = values.detach().abs().argsort(descending=True, stable=True)
        keys, values = keys[order], values[order]
        return dict(
            keys=keys, values=values if self.root == 1.0 else values * self.root * self.root, unresolved=unresolved,
            residual_energy=self.energy[r].sum(1).mean().item() * self.root * self.root * self.root * self.root,
            noise_std=(v * self.plan.bins).sqrt().item() * self.root * self.root if v > floor else 0.0,
            threshold=(self.call.theta * v / samples).sqrt().item() * self.root * self.root,
        )  # fmt: skip

    def _is_noise(self, r: int, keys: Tensor, values: Tensor) -> bool:
        """Whether what was estimated as noise may be called so: some key but the constant's stands out of it, and
        the energies e of the bins that hold nothing else spread as noise's do. P e / v is chi^2 of P degrees of
        freedom, so that D = mean (e / v - 1)^2 P / 2 is 1 with variance (2 + 12 / P) / S over S bins; many
        coefficients left in each bin spread more. What is below a ten-thousandth of the function is not judged:
        rounding is no noise of equal variance.
        """
        v, floor = self.noise[r]
        if self.call.noise >= 0 or not bool(v > floor):
            return True
        if not bool((keys != 0).any()):
            return False
        energy, samples = self.energy[r].flatten(), self.plan._independent
        if bool(v * self.plan.bins <= NEGLIGIBLE * values.square().sum()):
            return True
        energy = energy[energy <= self.call.tau * v]
        if energy.numel() * samples < LEAST:
            return False
        spread = (energy / energy.mean() - 1).square().mean() * samples / 2
        return bool(spread - 1 <= UNLIKELY * math.sqrt((2 + 12 / samples) / energy.numel()))


def _readable(t: Tensor) -> bool:
    """Whether a check may look at the entries: under tracing and torch.func there may be none."""
    return type(t) is Tensor and not (torch.compiler.is_compiling() or exporting() or torch._C._are_functorch_transforms_active())


def _whole(name: str, value: object) -> int:
    """An int, or numpy's."""
    return _check.integer(name, int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value)


def _size(name: str, value: object, finite: bool = True) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    size = float(value)
    if not size >= 0 or finite and size == math.inf:
        raise ValueError(f"{name} must be {'finite and ' * finite}not negative; got {value}")
    return size


class SparseSpectrum:
    r"""Walsh-Hadamard coefficients :math:`F[k]` of a function on n bits, all others taken as zero:
    :math:`f(m) = \sum_k F[k] (-1)^{\langle m, k \rangle}`.

    Args:
        n: variables.
        keys: (K, ceil(n / 64)) int64, variable i of n at bit n - 1 - i, no two alike.
        values: (K,) float32 or float64.
        unresolved: (U, 2) int64, group and bin of what a decoder could not explain; empty for a complete one.
        residual_energy: the unexplained sum of F^2, noise included.
        noise_std: of the values that were decoded, estimated or given.
        threshold: |F| below which the decoder may have missed a coefficient.
        names: of the n variables, for the table that print shows.

    Everything below is linear in `values`, deterministic, and differentiable in them to every order; keys
    are held fixed.

    Raises: TypeError or ValueError for other shapes and dtypes, keys that are alike or have bits from n on (under
    torch.compile, export and torch.func these two are not looked for), numbers that are NaN or negative.
    """

    _batch: Batch | None = None
    _names: tuple[str, ...] | None = None

    def __init__(
        self, n: int, keys: Tensor, values: Tensor, unresolved: Tensor | None = None, residual_energy: float = 0.0,
        noise_std: float = 0.0, names: Sequence[str] | None = None, threshold: float = 0.0,
    ):  # fmt: skip
        _check.tensor("keys", keys, (torch.int64,))
        _check.tensor("values", values, (torch.float32, torch.float64))
        n = _whole("n", n)
        if n < 1:
            raise ValueError(f"n must be at least 1; got {n}")
        if keys.dim() != 2 or keys.shape[1] != bits.words(n) or values.shape != keys.shape[:1]:
            raise ValueError(
                f"keys must have shape (K, {bits.words(n)}) for n = {n}, values (K,); got {_check.shape(keys)} and"
                f" {_check.shape(values)}"
            )
        unresolved = keys.new_zeros((0, 2)) if unresolved is None else unresolved
        _check.tensor("unresolved", unresolved, (torch.int64,))
        if unresolved.dim() != 2 or unresolved.shape[1] != 2:
            raise ValueError(f"unresolved must have shape (U, 2), group and bin; got {_check.shape(unresolved)}")
        _check.same_device("keys", keys, values=values, unresolved=unresolved)
        if keys.device.type == "meta":
            raise ValueError("keys must hold numbers; got a tensor on meta")
        if _readable(keys):
            if n % bits.WORD and bool((keys[:, -1] >> (n % bits.WORD)).any()):
                raise ValueError(f"keys must be of n = {n} bits, the bits from {n} on zero")
            if not indices.distinct(keys):
                raise ValueError("keys must be distinct; got one twice")
        self.n, self.keys, self.values, self.unresolved, self.names = n, keys, values, unresolved, names
        self.residual_energy = _size("residual_energy", residual_energy, finite=False)  # squares of large values are infinite
        self.noise_std = _size("noise_std", noise_std)
        self.threshold = _size("threshold", threshold)

    @classmethod
    def _of(cls, batch: Batch, r: int) -> "SparseSpectrum":
        """Spectrum r of a batch; its fields are made when one of them is asked for."""
        self = cls.__new__(cls)
        self.n, self._batch, self._row = batch.plan.n, batch, r
        return self

    def __getattr__(self, name: str):
        if name.startswith("__") or self._batch is None:
            raise AttributeError(f"SparseSpectrum has no attribute {name!r}")
        fields = self._batch.unpacked(self._row)
        self._batch = None
        self.__dict__.update(fields)
        return getattr(self, name)

    def __getstate__(self) -> dict:
        self.keys  # made now: a pickle has no batch
        return {name: value for name, value in self.__dict__.items() if name not in ("_batch", "_row")}

    def _with(self, **fields) -> "SparseSpectrum":
        """This one with other fields; what was checked is not checked again."""
        other = SparseSpectrum.__new__(SparseSpectrum)
        other.__dict__.update(self.__getstate__() | fields)
        return other

    def __deepcopy__(self, memo: dict) -> "SparseSpectrum":
        """As of a pickle: values that were computed become a leaf."""
        values = self.values.detach().requires_grad_(self.values.requires_grad)
        return self._with(**copy.deepcopy(self.__getstate__() | {"values": values}, memo))

    # ---- what it holds ---------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the variables; may be set, to a sequence of n strings or None."""
        return self._names

    @names.setter
    def names(self, names: Sequence[str] | None) -> None:
        if names is not None:
            given = () if isinstance(names, str) or not hasattr(names, "__iter__") else tuple(map(str, names))
            if len(given) != self.n:
                raise ValueError(f"names must be {self.n} strings, one for each variable; got {repr(names):.80}")
            names = given
        self._names = names

    def __len__(self) -> int:
        return self.keys.shape[0]

    def bits(self) -> Tensor:
        """(K, n) uint8: the keys, variable i in column i."""
        return bits.unpack(self.keys, self.n).contiguous()

    def sets(self) -> list[tuple[int, ...]]:
        """The keys as tuples of variables, ascending."""
        return indices.sets_of(self.keys, self.n)

    def to_dict(self) -> dict[tuple[int, ...], float]:
        """{(): F, (0,): F, (0, 3): F}: the coefficients by the variables of their keys, in their order."""
        return dict(zip(self.sets(), self.values.tolist()))

    def degrees(self) -> Tensor:
        """(K,) int64: the number of variables of each key."""
        return indices.degrees_of(self.keys, self.n)

    def degree(self) -> int:
        """The largest of `degrees()`; 0 where there is no key."""
        return int(self.degrees().max()) if len(self) else 0

    def top(self, k: int) -> "SparseSpectrum":
        """The k coefficients of largest magnitude; the energy of the others is added to `residual_energy`."""
        k = _whole("k", k)
        if k < 0:
            raise ValueError(f"k must not be negative; got {k}")
        order = self.values.detach().abs().argsort(descending=True, stable=True)
        kept = order[:k]
        dropped = self.values.detach()[order[k:]].to(torch.float64).square().sum().item()
        return self._with(keys=self.keys[kept], values=self.values[kept], residual_energy=self.residual_energy + dropped)

    def sorted(self, by: str = "magnitude") -> "SparseSpectrum":
        """The same coefficients by "magnitude", largest first; by "degree", fewest variables first and largest
        first among these; or by "variables": fewest first, then as tuples of variables.
        """
        _check.choice("by", by, ORDERS)
        if by == "variables":
            order = indices.order_of(self.keys, self.n)
        else:
            order = self.values.detach().abs().argsort(descending=True, stable=True)
            if by == "degree":
                order = order[self.degrees()[order].argsort(stable=True)]
        return self._with(keys=self.keys[order], values=self.values[order])

    def to(self, device) -> "SparseSpectrum":
        """The same spectrum on another device."""
        return self._with(**{name: getattr(self, name).to(device) for name in ("keys", "values", "unresolved")})

    # ---- the function ----------------------------------------------------------------------------------------------

    def evaluate(self, points: Tensor, *, backend: str | None = None) -> Tensor:
        """f at points.

        Args:
            points: (.., n) of zeros and ones, variable i in column i; bool or any integer type, on the
                spectrum's device.
            backend: None (automatic), "reference", "cpu", "triton", "cuda".

        Returns (..,) of the values' dtype. Points are packed in pieces: what is held besides them is an
        eighth of a byte a variable. The sum over the keys has a fixed order. Derivative: with respect to
        the values, to every order, the same sum with points and keys exchanged.

        Raises: ValueError for another number of variables, another device, entries other than 0 and 1 (on a
        GPU this check waits for it; under torch.compile, export and torch.func it is left out); TypeError for
        other dtypes.
        """
        _check.tensor("points", points, WHOLE)
        _check.backend(backend)
        if points.dim() < 1 or points.shape[-1] != self.n:
            raise ValueError(f"points must have shape (.., {self.n}), a column for each variable; got {_check.shape(points)}")
        _check.same_device("points", points, keys=self.keys)
        if points.dtype != torch.bool and points.numel() and _readable(points):
            low, high = (int(end) for end in points.aminmax())
            if low < 0 or high > 1:
                raise ValueError(f"points must hold zeros and ones; got values from {low} to {high}")
        rows = packed(points.reshape(-1, self.n))
        return signed_sum(rows, self.keys, self.values, backend).view(points.shape[:-1])

    def to_dense(self) -> Tensor:
        """(2^n,) of the values' dtype: F, with variable i of n at bit n - 1 - i of the index. n to 28."""
        if self.n > DENSE:
            raise ValueError(f"n must be at most {DENSE} for a dense spectrum; got n = {self.n}, 2^{self.n} numbers")
        return self.values.new_zeros(1 << self.n).index_copy(0, self.keys[:, 0], self.values)

    # ---- interactions of its variables -----------------------------------------------------------------------------

    def _indices(self, index: str, order: int, least: int) -> Interactions:
        keys, values = indices.interactions(self.n, self.keys, self.values, index, order, least)
        return Interactions(self.n, index, order, keys, values, self.names)

    def mobius(self) -> Interactions:
        r"""The coefficients of the multilinear polynomial on {0, 1}^n:
        :math:`f(x) = \sum_S a_S \prod_{i \in S} x_i`, :math:`a_S = (-2)^{|S|} \sum_{k \supseteq S} F[k]`.

        Returns :class:`Interactions`: `keys` (L, W) packed as this spectrum's, `values` (L,), `sets()` as
        tuples of variables, `to_dict()` {(): a, (0,): b, ..} as shapiq keeps them. They are the sets that a
        key contains, also where the sum is zero; computed in float64 and rounded once.

        Raises: ValueError where the keys have more than 2^22 subsets: `top` leaves fewer.

        Source: M. Grabisch, M. Roubens, Int. J. Game Theory 28 (1999) 547-565.
        """
        return self._indices("moebius", self.degree(), 0)

    def shapley(self) -> Tensor:
        r"""(n,): the Shapley values of the game :math:`v(S) = f(1_S)`,
        :math:`\phi_i = -2 \sum_{k \ni i, |k| \text{ odd}} F[k] / |k|`; their sum is f(1 .. 1) - f(0 .. 0).

        Source: L. S. Shapley, 1953; the form in F follows from that of the Moebius coefficients, sum_(S
        containing i) a_S / |S|.
        """
        return indices.shapley(self.n, self.keys, self.values)

    def interactions(self, order: int, index: str = "banzhaf") -> Interactions:
        r"""An interaction index of all sets of at most `order` variables, of the game :math:`v(S) = f(1_S)`.

        Args:
            order: at least 1.
            index: each is a sum over the keys that contain S, of d = |k| and s = |S| variables, B the Bernoulli numbers:

                "banzhaf"         (-2)^s F[S]: the mean of the discrete derivative, Banzhaf values for s = 1
                "shapley"         SII: (-2)^s sum F[k] / (d - s + 1) over even d - s, Shapley values for s = 1
                "k-shapley"       k-SII: sum_(R containing S, |R| <= order) B_(|R| - s) SII(R); they add up to v(N) - v({})
                "shapley-taylor"  STII: a_S for s < order, sum_(T containing S) a_T / binom(|T|, order) for s = order
                "faith-banzhaf"   (-2)^s sum F[k] over d <= order: the polynomial nearest to f over uniform points
                "faith-shapley"   the nearest in Shapley's weights, exact at the empty and the full set

        Returns :class:`Interactions` as in :meth:`mobius`; the sets that no key with a part in the index
        contains are left out, their index is zero. The empty set is there for the two polynomials only. For
        shapiq: `to_dict()` is its interaction dictionary.

        Sources: see sparse_spectrum_indices.py.
        """
        _check.choice("index", index, indices.INDICES)
        order = _whole("order", order)
        if order < 1:
            raise ValueError(f"order must be at least 1; got {order}")
        return self._indices(index, order, 0 if index.startswith("faith") else 1)

    # ---- text and files --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"SparseSpectrum(n={self.n}, coefficients={len(self)}, unresolved={self.unresolved.shape[0]}, "
            f"residual_energy={self.residual_energy:.3g}, noise_std={self.noise_std:.3g}, device={self.keys.device})"
        )

    def __str__(self) -> str:
        return text.table(self)

    def table(self, rows: int | None = None) -> str:
        """What print shows, with at most so many rows; None for all."""
        if rows is not None:
            rows = _whole("rows", rows)
            if rows < 0:
                raise ValueError(f"rows must be None or not negative; got {rows}")
        return text.table(self, rows)

    def save(self, path: str | Path) -> None:
        """A JSON file: the keys in hexadecimal, the numbers exactly. Gradients are not kept."""
        text.save(self, path)

    @classmethod
    def load(cls, path: str | Path, device=None) -> "SparseSpectrum":
        """What `save` wrote. ValueError for another version's file, or for one that is not a spectrum."""
        return text.load(cls, path, device)
