"""`SparseWHTPlan`: which points to ask of a function, and the decoding of its answers.

`sparse_wht_groups.py` has the points, `sparse_wht_reference.py` the decoder and its formulas.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Iterator

import torch
from torch import Tensor

from . import bch, bits
from . import sparse_wht_groups as layout
from .sparse_spectrum import SparseSpectrum
from .sparse_wht_decode import DTYPES, check_noise, decode, real, solve
from .sparse_wht_levels import call_of
from .sparse_wht_reference import Call
from .. import _check

FORMAT, VERSION = "spectralops.SparseWHTPlan", 1
ROWS = 4096  # points made at a time
MAX_VARIABLES = 4096
MAX_B = 30
MAX_SAMPLES = 2**31 - 1  # their numbers are int32
ARGUMENTS = ("n", "k", "groups", "offsets", "repeats", "degree", "b", "majority", "chase", "seed", "q")


class SparseWHTPlan:
    r"""The queries that find a sparse Walsh-Hadamard spectrum, and the decoder of their answers.

    :math:`f(m) = \sum_k F[k] (-1)^{\langle m, k \rangle}` on n bits, K of its 2^n coefficients other than zero. The
    plan asks f at about `groups` 2^b P points, P the offsets of a group, and gets back the keys k and F[k].

    >>> plan = SparseWHTPlan(500, 100)
    >>> spectrum = plan.decode(f(plan.queries()))             # or: for points in plan.queries(chunk=100_000): ...
    >>> spectrum.bits(), spectrum.values, spectrum.unresolved  # unresolved is empty if all was found

    Args:
        n: variables, 1 to 4096.
        k: the number of coefficients expected, K; it sets b if that is not given. More may be found.
        groups: C, subsampling matrices, at least 1. With 3, decoding succeeds while 2^b > 0.41 K, K large.
        offsets: "exact" for functions without noise, P = n - b + 1; "nso" against noise, P = repeats (n + 1); "bch"
            where keys have at most `degree` ones, P = repeats (degree ceil(log2(n + 1)) + 1).
        repeats: random shifts of the offsets, at least 1; more of them withstand more noise.
        degree: the largest number of ones of a key; "bch" needs it, the others do not take it.
        b: 2^b bins a group; default the least with 2^b >= 2 K, at most n.
        majority: "soft" or "hard", how the signs at the repeats are combined.
        chase: "bch": how many of the least reliable signs are tried both ways.
        seed: of the random points, any int. The same arguments give the same plan on every machine.
        device: where points are made and answers are decoded; default the CPU.
        q: the size of the alphabet; 2 is the only one there is.

    Attributes: the arguments; `num_queries`, the points to ask, none of them twice; `num_samples`, groups 2^b P,
        what the transforms take; `num_offsets`, P; `bins`, 2^b.

    A plan is its arguments: `save`, `load` and pickle keep those, a few hundred bytes, `==` compares them, repr
    shows them.

    Noise: independent, of equal variance. The decoder is deterministic. Certificate: `unresolved` and
    `residual_energy` of the result.

    Raises: ValueError or TypeError naming the argument; K > 2^n is one of them.

    Source: R. Scheibler, S. Haghighatshoar, M. Vetterli, IEEE Trans. Inf. Theory 61 (2015) 2115-2132; X. Li, J. K.
    Bradley, S. Pawar, K. Ramchandran, IEEE ISIT 2014 and arXiv 1508.06336 (SPRIGHT); for codes A. Amrollahi et al.,
    NeurIPS 2019.
    """

    def __init__(
        self, n: int, k: int, *, groups: int = 3, offsets: str = "exact", repeats: int = 1, degree: int | None = None,
        b: int | None = None, majority: str = "soft", chase: int = 6, seed: int = 0, device=None, q: int = 2,
    ):  # fmt: skip
        for name, value, low, high in (
            ("n", n, 1, MAX_VARIABLES), ("k", k, 1, None), ("groups", groups, 1, 16), ("repeats", repeats, 1, 1000),
            ("chase", chase, 0, 16),
        ):  # fmt: skip
            if _check.integer(name, value) < low or high is not None and value > high:
                raise ValueError(f"{name} must be at least {low}{'' if high is None else f' and at most {high}'}; got {value}")
        if k > 1 << n:
            raise ValueError(f"k is too large for n: a function of {n} bits has {1 << n} coefficients; got k = {k}")
        _check.choice("q", q, (2,))
        _check.choice("offsets", offsets, layout.OFFSETS)
        _check.choice("majority", majority, ("soft", "hard"))
        _check.integer("seed", seed)
        if offsets == "bch":
            if degree is None:
                raise ValueError('degree is needed with offsets="bch": the largest number of ones of a key')
            if not 1 <= _check.integer("degree", degree) <= min(n, bch.MAX_DEGREE):
                raise ValueError(f"degree must be at least 1 and at most {min(n, bch.MAX_DEGREE)}; got {degree}")
        elif degree is not None:
            raise ValueError(f'degree belongs to offsets="bch"; got {degree} with offsets={offsets!r}')
        if b is None:
            b = min(n, (2 * k - 1).bit_length())
        if not 0 <= _check.integer("b", b) <= min(n, MAX_B):
            raise ValueError(f"b must be at least 0 and at most {min(n, MAX_B)} (k = {k}, n = {n}); got {b}")
        self.n, self.k, self.groups, self.offsets, self.repeats = n, k, groups, offsets, repeats
        self.degree, self.majority, self.chase, self.seed, self.q = degree, majority, chase, seed, q
        self.b = self.first_b = b
        try:
            self.device = torch.device("cpu" if device is None else device)
        except RuntimeError:
            raise ValueError(f"device must be a torch.device or the name of one; got {device!r}") from None
        except TypeError:
            raise TypeError(f"device must be a torch.device or the name of one; got {type(device).__name__}") from None
        if self.num_samples > MAX_SAMPLES:
            sizes = f"{groups} groups of 2^{b} bins and {self.num_offsets} offsets"
            raise ValueError(f"b (or k) is too large: {sizes} are {self.num_samples} samples, more than {MAX_SAMPLES}")
        self._smaller: SparseWHTPlan | None = None  # the plan that this one was grown from

    # ---- sizes -----------------------------------------------------------------------------------------------------

    @property
    def bins(self) -> int:
        """B = 2^b, of a group."""
        return 1 << self.b

    @property
    def checks(self) -> int:
        return layout.num_checks(self.n, self.b, self.offsets, self.degree)

    @property
    def num_offsets(self) -> int:
        """P, of a group."""
        return self.repeats * (self.checks + 1)

    @property
    def num_samples(self) -> int:
        """C 2^b P, what the transforms take: a point counts as often as it occurs."""
        return self.groups * self.bins * self.num_offsets

    @property
    def num_queries(self) -> int:
        """Distinct points, the length of `queries()` and of `values`."""
        return self._numbering[1].numel() + (0 if self._smaller is None else self._smaller.num_queries)

    def __repr__(self) -> str:
        shown = {**self._arguments(), "b": self.first_b, "device": None if self.device.type == "cpu" else str(self.device)}
        usual = {**SparseWHTPlan.__init__.__kwdefaults__, "offsets": None}
        text = ", ".join(f"{name}={value!r}" for name, value in shown.items() if name not in usual or value != usual[name])
        return f"SparseWHTPlan({text})" + (f".grow({self.b})" if self.b > self.first_b else "")

    # ---- points ----------------------------------------------------------------------------------------------------

    @cached_property
    def tables(self) -> layout.Tables:
        with torch.device("cpu"):  # whatever the default device is
            made = layout.tables(self.n, self.groups, self.offsets, self.repeats, self.degree, self.seed)
        return made.to(self.device)

    @cached_property
    def _points(self) -> tuple[Tensor, Tensor]:
        """Columns of M_c (C, b, W) and offsets (C, P, W)."""
        return self.tables.to_bin_rows[:, : self.b], layout.offset_points(self.tables, self.n, self.b, self.offsets)

    def _inherited(self) -> Tensor:
        """(C, B, P) int64: the number that the smaller plan gave each sample, -1 where it had none."""
        half = self.bins // 2
        its = self._smaller._slots().view(self.groups, half, self.repeats, -1)
        number = torch.full((self.groups, self.bins, self.repeats, self.checks + 1), -1, device=self.device)
        if self.offsets != "exact":
            number[:, :half] = its
        else:  # column b - 1 was a row of the smaller plan and now spans the subspace
            number[:, :half, :, 0], number[:, half:, :, 0] = its[..., 0], its[..., 1]
            number[:, :half, :, 1:] = its[..., 2:]
        return number.view(self.groups, self.bins, -1)

    def _slots(self) -> Tensor:
        """(C, B, P): the number of the query at each sample."""
        if self._index is not None:
            return self._index
        return self._numbering[1].view(self.groups, self.bins, self.num_offsets)

    def _repeated(self) -> tuple[Tensor, Tensor]:
        """Samples (N,) whose point is another sample's too, in order of the points, and the number (N,) of the point of each."""
        columns, offsets = (layout.names(points)[..., None] for points in self._points)  # linear: names of sums are sums of names
        name = torch.stack([bits.span(m) for m in columns]) ^ offsets.transpose(1, 2)  # (C, B, P)
        name, sample = name.flatten().sort(stable=True)
        again = torch.zeros(name.numel() + 1, dtype=torch.bool, device=self.device)
        again[1:-1] = name[1:] == name[:-1]  # as the one before
        member = again[1:] | again[:-1]
        sample, first = sample[member], ~again[:-1][member]
        point = first.cumsum(0) - 1
        if self.n > bits.WORD:  # names may agree where points do not: these stay as they are
            exact = self._points_at(sample)
            same = (exact == exact[first][point]).all(1)
            sample, point = sample[same], point[same]
        return sample, point

    @cached_property
    def _numbering(self) -> tuple[Tensor | None, Tensor]:
        """(C, B, P) int32, the query at each sample, None for the order itself; and of each query that a smaller
        plan did not ask the first of its samples, increasing, int64.
        """
        sample, point = self._repeated()
        slot = torch.arange(self.num_samples, device=self.device)
        if self._smaller is None and sample.numel() == 0:
            return None, slot
        asked, rank = 0, slot  # the sample of least rank stands for its point: the first, or one that has a number
        if self._smaller is not None:
            asked, inherited = self._smaller.num_queries, self._inherited().flatten()
            rank = torch.where(inherited < 0, slot + asked, inherited)
        least = torch.full_like(sample, rank.numel() + asked).scatter_reduce_(0, point, rank[sample], "amin")
        fresh = rank >= asked
        fresh[sample] &= rank[sample] == least[point]
        number = fresh.cumsum(0) + (asked - 1)
        number[sample] = torch.where(least < asked, least, number[(least - asked).clamp(0, slot.numel() - 1)])[point]
        if asked:
            number = torch.where(rank < asked, rank, number)
        return number.to(torch.int32).view(self.groups, self.bins, -1), slot[fresh]

    @property
    def _index(self) -> Tensor | None:
        """(C, B, P) int32 for the decoder, None for the order itself."""
        return self._numbering[0]

    @cached_property
    def _halves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of the lower and of the upper columns of M_c, (C, 2^(b/2), W) each, and offsets: a point is one of each."""
        columns, offsets = self._points
        low = self.b // 2
        return *(torch.stack([bits.span(m) for m in part]) for part in (columns[:, :low], columns[:, low:])), offsets

    @cached_property
    def _unpacked_halves(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same with a byte for each variable."""
        return tuple(bits.unpack(part, self.n).contiguous() for part in self._halves)

    def _points_at(self, slot: Tensor) -> Tensor:
        """Samples (N,) -> their points (N, W)."""
        low, high, offsets = self._halves
        cell, p = slot // self.num_offsets, slot % self.num_offsets
        c, j = cell // self.bins, cell % self.bins
        return low[c, j % low.shape[1]] ^ high[c, j // low.shape[1]] ^ offsets[c, p]

    def queries(self, chunk: int | None = None, format: str = "bits", *, start: int = 0) -> Tensor | Iterator[Tensor]:
        """The points to ask, in the order in which `decode` takes their values.

        Args:
            chunk: None for one tensor; else an iterator of tensors of at most so many points, made as they are taken.
            format: "bits" for (N, n) uint8, variable i of n in column i; or "packed" for (N, ceil(n / 64)) int64,
                lowest word first: variable i is bit n - 1 - i of the number, so that for n <= 63 it is the position in
                a tensor of 2^n.
            start: leave out the queries before this one. A plan that was grown asks those of the smaller plan first.
        """
        _check.choice("format", format, ("bits", "packed"))
        if not 0 <= _check.integer("start", start) <= self.num_queries:
            raise ValueError(f"start must be in [0, {self.num_queries}]; got {start}")
        if chunk is None:
            return self._block(start, self.num_queries, format)
        if _check.integer("chunk", chunk) < 1:
            raise ValueError(f"chunk must be at least 1; got {chunk}")
        return (self._block(at, min(at + chunk, self.num_queries), format) for at in range(start, self.num_queries, chunk))

    def _block(self, start: int, stop: int, format: str) -> Tensor:
        width, dtype = (self.n, torch.uint8) if format == "bits" else (bits.words(self.n), torch.int64)
        out = torch.empty((stop - start, width), dtype=dtype, device=self.device)
        self._write(out, start, format)
        return out

    def _write(self, out: Tensor, start: int, format: str) -> None:
        """Queries from `start` on into all of out. Some bins at a time: the points of a bin are the offsets, moved by
        one vector.
        """
        if self._smaller is not None and start < (asked := self._smaller.num_queries):
            self._smaller._write(out[: asked - start], start, format)
            out, start = out[asked - start :], asked
        first = self.num_queries - self._numbering[1].numel()
        slots = self._numbering[1][start - first : start - first + out.shape[0]]
        low, high, offsets = self._unpacked_halves if format == "bits" else self._halves
        samples, at = self.num_offsets, 0
        while at < out.shape[0]:
            cell, last = int(slots[at]) // samples, int(slots[-1]) // samples
            c, j = divmod(cell, self.bins)
            count = min(max(1, ROWS // samples), self.bins - j, last - cell + 1)
            end = at + int(torch.searchsorted(slots[at:], (cell + count) * samples))
            bins = torch.arange(j, j + count, device=self.device)
            moved = low[c, bins % low.shape[1]] ^ high[c, bins // low.shape[1]]  # (bins, width)
            if end - at == count * samples:
                torch.bitwise_xor(moved[:, None], offsets[c], out=out[at:end].view(count, samples, -1))
            else:  # some of them are asked elsewhere
                row = slots[at:end] - cell * samples
                out[at:end] = moved[row // samples] ^ offsets[c, row % samples]
            at = end

    def grow(self, b: int | None = None) -> "SparseWHTPlan":
        """A plan of 2^b bins, default twice as many, whose first queries are this plan's, in the same order: only
        the others, `queries(start=plan.num_queries)`, are asked, and their values appended.
        """
        b = self.b + 1 if b is None else _check.integer("b", b)
        if not self.b <= b <= min(self.n, MAX_B):
            raise ValueError(f"b must be at least {self.b} and at most {min(self.n, MAX_B)}; got {b}")
        plan = self
        while plan.b < b:
            small, plan = plan, SparseWHTPlan(**{**plan._arguments(), "b": plan.b + 1}, device=plan.device)
            plan.first_b, plan._smaller = small.first_b, small
            plan.tables = small.tables
        return plan

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _call(self, noise_std: float | str) -> Call:
        return self._levels if noise_std == "auto" else self._levels._replace(noise=min(noise_std, 1e150) ** 2 / self.bins)

    @cached_property
    def _levels(self) -> Call:
        return call_of(self, self._independent)

    @cached_property
    def _independent(self) -> float:
        """How many independent samples of noise the P of a bin are worth, for the mean of their squares and for
        their mean: offsets of one coset of span(M_c) give one sample m times, so P^2 / sum m^2, the least of any
        group.
        """
        if self._numbering is None:
            return float(self.num_offsets)
        coset = self._slots().amin(1)  # (C, P): the same query for the offsets of one coset
        squares = max(int(c.unique(return_counts=True)[1].square().sum()) for c in coset)
        return self.num_offsets**2 / squares

    def decode(
        self, values: Tensor, noise_std: float | str = "auto", refit: bool = False, *, backend: str | None = None
    ) -> SparseSpectrum | list[SparseSpectrum]:
        """The spectrum of a function from its values at `queries()`.

        Args:
            values: (num_queries,), or (R, num_queries) for R functions at the same points, which gives a list of R.
                float32 and float64 are decoded as they are, other real types as float32 (16 bits) or float64
                (integers). On the plan's device.
            noise_std: sigma of the noise of a value. "auto" estimates it from the bins: coefficients that fill all
                bins alike cannot be told from noise, so give 0 for a function that has none but rounding.
            refit: coefficients by least squares over the samples of all bins that were explained, given the keys, in
                place of those from the peeling. They are so also where `values` require a gradient, which then reaches
                them: the keys are held fixed, and F is linear in the values.

        Returns: a SparseSpectrum whose `unresolved` is empty if every bin was explained: by keys, or as noise. Coefficients
            below its `threshold` may be missing all the same: noise hides them.

        Raises: ValueError for values of another length or device, or that are not finite (on a GPU this check waits).
        """
        _check.tensor("values", values, DTYPES)
        if values.dim() not in (1, 2) or values.shape[-1] != self.num_queries:
            wanted = f"({self.num_queries},) or (R, {self.num_queries})"
            raise ValueError(f"values must have shape {wanted}; got {_check.shape(values)}")
        if values.device != self.tables.base.device:  # which has an index even where the plan's has none
            raise ValueError(f"values are on {values.device} but the plan is on {self.device}; they must be on one device")
        check_noise(noise_std)
        if not isinstance(refit, bool):
            raise TypeError(f"refit must be True or False, got {type(refit).__name__} ({refit!r})")
        rows = real(values) if values.dim() == 2 else real(values)[None]
        spectra = decode(self, rows, noise_std, refit, backend)
        return spectra if values.dim() == 2 else spectra[0]

    def solve(
        self, f, noise_std: float | str = 0.0, *, chunk: int = 65536, max_queries: int | None = None, format: str = "bits",
        refit: bool = False, backend: str | None = None,
    ) -> tuple[SparseSpectrum, "SparseWHTPlan"]:
        """The spectrum of a function that can be called, with twice as many bins again while something is unresolved.

        f takes points, (N, n) uint8 or packed as `format` says, at most `chunk` at a time, and gives (N,) values: a tensor or an
        array. Every point is asked once. `noise_std` is 0 here: an estimate would take what is too much for the bins for noise.
        Stops without success where another step would ask more than `max_queries` in all, or at 2^n bins.

        Returns the spectrum, and the plan that it was found with: its `num_queries` points were asked.
        """
        if not callable(f):
            raise TypeError(f"f must be callable, got {type(f).__name__}")
        check_noise(noise_std)
        if max_queries is not None:
            _check.integer("max_queries", max_queries)
        return solve(self, f, noise_std, chunk, max_queries, format, refit, backend)

    # ---- another process, another device ----------------------------------------------------------------------------

    def _arguments(self) -> dict:
        return {name: getattr(self, name) for name in ARGUMENTS}

    def to(self, device) -> "SparseWHTPlan":
        """The same plan on another device."""
        return self._from(self._state(), device)

    def _state(self) -> dict:
        return {"format": FORMAT, "version": VERSION, "first_b": self.first_b, **self._arguments()}

    @classmethod
    def _from(cls, state: dict, device=None) -> "SparseWHTPlan":
        state = dict(state) if isinstance(state, dict) else {}
        kind, version = state.pop("format", None), state.pop("version", None)
        if kind != FORMAT:
            raise ValueError("this is not a saved SparseWHTPlan")
        if version != VERSION:
            raise ValueError(f"this plan was saved by another version: its format is {version}, this package reads {VERSION}")
        if state.keys() != {"first_b", *ARGUMENTS}:
            odd = ", ".join(sorted(state.keys() ^ {"first_b", *ARGUMENTS}))
            raise ValueError(f"this is not a saved SparseWHTPlan: {odd} missing or not known")
        b, state["b"] = state["b"], state.pop("first_b")
        return cls(**state, device=device).grow(b)

    def __getstate__(self) -> dict:
        return {**self._state(), "device": str(self.device)}

    def __setstate__(self, state: dict) -> None:
        state = dict(state)
        device = state.pop("device", None)
        self.__dict__.update(self._from(state, device).__dict__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SparseWHTPlan) and self._state() == other._state()

    def __hash__(self) -> int:
        return hash(tuple(self._state().values()))

    def save(self, path: str | Path) -> None:
        """A file of a few hundred bytes: the arguments, from which the points follow."""
        Path(path).write_text(json.dumps(self._state()) + "\n")

    @classmethod
    def load(cls, path: str | Path, device=None) -> "SparseWHTPlan":
        """What `save` wrote. ValueError for another version's file, or for one that is not a plan."""
        try:
            state = json.loads(Path(path).read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a saved SparseWHTPlan: {error}") from None
        return cls._from(state, device)

    @classmethod
    def choose(cls, n: int, k: int, **wanted) -> "SparseWHTPlan":
        """The plan of the fewest queries that fails rarely enough: `sparse_wht_planner.choose_plan`, whose arguments it takes."""
        from .sparse_wht_planner import choose_plan

        return choose_plan(n, k, **wanted)
