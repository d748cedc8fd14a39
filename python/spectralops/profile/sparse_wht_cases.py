"""The sparse Walsh-Hadamard transform in the registry. The baseline of a decode is its specification, peeling
that is vectorised over the bins of a group in plain torch, which is what a good user writes; of a tensor in
memory the dense transform and its largest entries.

Floors: of a decode the transforms of the bins alone, C B P b additions, in the package's own kernel; of
queries one write of every byte; of a tensor in memory one pass over it. `operations` are C B P b additions
and the K C P of the peeling.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .cases import CASES, Case, Goal, Inputs
from ..ops import bits
from ..ops.hadamard import hadamard_transform
from ..ops.sparse_spectrum import SparseSpectrum
from ..ops.sparse_wht import sparse_wht
from ..ops.sparse_wht_plan import SparseWHTPlan
from ..ops.sparse_wht_samples import samples_of


def _in_order(found) -> tuple[Tensor, ...]:
    """Spectra -> the bits of their keys and their values, in the order of the keys: what the gate compares."""
    out: list[Tensor] = []
    for spectrum in found if isinstance(found, list) else [found]:
        keys, place = spectrum.bits().unique(dim=0, return_inverse=True)
        out += [keys.double(), torch.empty_like(spectrum.values).index_put((place,), spectrum.values)]
    return tuple(out)


def random_keys(n: int, k: int, degree: int | None, g: torch.Generator) -> Tensor:
    """(k, W): distinct, of 1 to `degree` ones if that is given."""
    keys = torch.zeros(0, bits.words(n), dtype=torch.int64)
    while len(keys) < k:
        chosen = torch.randint(2, (2 * k, n), generator=g).to(torch.uint8)
        if degree is not None:
            order = torch.rand(2 * k, n, generator=g).argsort(1)
            ones = torch.randint(1, degree + 1, (2 * k, 1), generator=g)
            chosen = torch.zeros_like(chosen).scatter_(1, order, (torch.arange(n) < ones).to(torch.uint8))
        keys = torch.cat([keys, bits.pack(chosen)]).unique(dim=0)
    return keys[torch.randperm(len(keys), generator=g)[:k]]


@lru_cache(maxsize=None)
def _plan(device: torch.device, **arguments) -> SparseWHTPlan:
    return SparseWHTPlan(**arguments, device=device)


def _decode(name: str, rows: int = 1, noise: float = 0.0, rounds=(3, 30), **arguments) -> None:
    at = lambda values: _plan(values.device, **arguments)  # noqa: E731
    true: list[SparseSpectrum] = []

    def make(device: torch.device) -> Inputs:
        plan, g = _plan(torch.device("cpu"), **arguments), torch.Generator().manual_seed(0)
        values = []
        true.clear()
        for _ in range(rows):
            coefficients = torch.randn(plan.k, generator=g)
            coefficients += coefficients.sign()  # none that is lost in the noise
            keys = random_keys(plan.n, plan.k, plan.degree, g)
            y = samples_of(plan, keys, coefficients)
            values.append(y + noise * torch.randn(y.shape, generator=g))
            true.append(SparseSpectrum(plan.n, keys, coefficients))
        return (torch.stack(values).to(device),)

    def decoded(backend: str | None):
        def call(values: Tensor) -> list[SparseSpectrum]:
            spectra = at(values).decode(values, noise, backend=backend)
            for spectrum in spectra[:1]:
                spectrum.keys  # the host has it
            return spectra

        return call

    def transforms(values: Tensor) -> Tensor:
        plan = at(values)
        u = values if plan._index is None else values[:, plan._index.flatten()]
        return hadamard_transform(u.view(-1, plan.bins, plan.num_offsets), 1 / plan.bins, dim=1)

    plan = _plan(torch.device("cpu"), **arguments)
    operations = plan.num_samples * plan.b + plan.k * plan.groups * plan.num_offsets
    CASES.append(
        Case(
            "sparse_wht_decode",
            f"sparse_wht_decode {name}, n {plan.n}, K {plan.k}, {plan.offsets}, float32",
            make,
            {"ours": decoded(None), "eager": decoded("reference"), "floor": transforms},
            lambda values: true,
            rows * (4 * plan.num_samples + plan.k * (8 * bits.words(plan.n) + 4)),
            rows * operations,
            [Goal("eager", "ours", least=10, device="cpu")],
            compile=None,  # keys are as many as are found: there is no graph
            read=_in_order,
            rounds=rounds,
        )
    )


def _queries(n: int, k: int) -> None:
    def ours(rows: Tensor) -> tuple[Tensor]:
        return (SparseWHTPlan(n, k, device=rows.device).queries(),)

    def eager(rows: Tensor) -> tuple[Tensor]:
        """M_c l + d_p by a product modulo 2, and those that are not asked twice, which it is told."""
        plan = SparseWHTPlan(n, k, device=rows.device)
        columns, offsets = (bits.unpack(t, n) for t in plan._points)
        bin = (torch.arange(plan.bins, device=rows.device)[:, None] >> torch.arange(plan.b, device=rows.device)) & 1
        moved = (bin.float() @ columns.float()).remainder(2).to(torch.uint8)  # (C, B, n)
        return ((moved[:, :, None] ^ offsets[:, None]).flatten(0, 2)[rows],)

    count = SparseWHTPlan(n, k).num_queries
    CASES.append(
        Case(
            "sparse_wht_queries",
            f"sparse_wht_queries of a new plan, n {n}, K {k}, exact, uint8",
            lambda device: (SparseWHTPlan(n, k, device=device)._numbering[1],),
            {"ours": ours, "eager": eager, "floor": lambda rows: (torch.zeros(count, n, dtype=torch.uint8, device=rows.device),)},
            None,
            count * n,
            count * n,
            compile=None,
            rounds=(3, 30),
        )
    )


def _in_memory(n: int, k: int) -> None:
    def make(device: torch.device) -> Inputs:
        g = torch.Generator().manual_seed(0)
        spectrum = torch.zeros(1 << n)
        spectrum[random_keys(n, k, None, g)[:, 0]] = 1 + torch.rand(k, generator=g)
        return (hadamard_transform(spectrum).to(device),)

    def ours(x: Tensor) -> SparseSpectrum:
        found = sparse_wht(x, k)
        found.keys
        return found

    def eager(x: Tensor) -> SparseSpectrum:
        f = hadamard_transform(x, 1 / (1 << n))
        keys = f.abs().topk(k).indices
        return SparseSpectrum(n, keys[:, None], f[keys])

    CASES.append(
        Case(
            "sparse_wht",
            f"sparse_wht in memory, n {n}, K {k}, float32",
            make,
            {"ours": ours, "eager": eager, "floor": lambda x: (x.sum(),)},
            eager,
            4 << n,
            n << n,
            [Goal("eager", "ours", least=1)],
            compile=None,
            read=_in_order,
            rounds=(3, 30),
        )
    )


def register() -> None:
    _decode("noiseless", n=20, k=100)
    _decode("noiseless", n=60, k=100)
    _decode("noiseless", n=500, k=100)
    _decode("noiseless", n=500, k=500, rounds=(1, 30))
    _decode("degree 5, noise 0.1", noise=0.1, n=500, k=50, offsets="bch", degree=5)
    _decode("100 functions", rows=100, n=30, k=20, rounds=(1, 30))
    _queries(500, 100)
    for n in (20, 22, 24):
        _in_memory(n, 100)


register()
