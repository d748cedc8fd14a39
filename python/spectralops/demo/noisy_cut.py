"""A graph read back from noisy measurements of its cuts.

    f(m) = sum over edges {u, v} of (1 - (-1)^(m_u + m_v)) / 2 + sigma w,   m in {0, 1}^n a side for each vertex, w normal

is how many edges a division of the vertices cuts. Its spectrum is |E| / 2 at zero and -1/2 at every edge, a key of two ones:
which keys of two ones there are is the graph. Signal over noise is the variance of the cuts over that of the noise, (|E| / 4) / sigma^2.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from spectralops import SparseWHTPlan

CHUNK = 1 << 14  # points held at a time


@dataclass(frozen=True)
class Graph:
    place: Tensor  # (n, 2) of the vertices in the unit square
    edges: tuple[tuple[int, int], ...]  # u < v, in order

    @property
    def n(self) -> int:
        return len(self.place)

    def cut(self, points: Tensor) -> Tensor:
        """(N, n) bits -> (N,) float64: edges whose ends lie on different sides."""
        side = points.T.contiguous()  # (n, N): a row is read at once
        count = torch.zeros(len(points), dtype=torch.int16, device=points.device)
        for u, v in self.edges:
            count += side[u] ^ side[v]
        return count.double()


def roads(n: int, neighbours: int = 3, seed: int = 0) -> Graph:
    """Random points, each joined to its nearest ones."""
    place = torch.rand(n, 2, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu")
    distance = torch.cdist(place, place).fill_diagonal_(math.inf)
    nearest = distance.topk(neighbours, largest=False).indices.tolist()
    return Graph(place, tuple(sorted({(min(u, v), max(u, v)) for u, row in enumerate(nearest) for v in row})))


def recover(graph: Graph, plan: SparseWHTPlan, decibel: float, seed: int = 0) -> dict:
    """Ask the plan's cuts with noise, decode without being told how much of it there is, and read the edges from the keys."""
    sigma = math.sqrt(len(graph.edges) / 4 / 10 ** (decibel / 10))
    noise = torch.Generator("cpu").manual_seed(seed)
    begun = time.perf_counter()
    values = torch.empty(plan.num_queries, dtype=torch.float64, device=plan.device)
    at = 0
    for points in plan.queries(chunk=CHUNK):
        drawn = torch.randn(len(points), generator=noise, dtype=torch.float64, device="cpu")
        values[at : at + len(points)] = graph.cut(points) + sigma * drawn.to(plan.device)
        at += len(points)
    asked = time.perf_counter()
    spectrum = plan.decode(values)
    ones = spectrum.bits().cpu().bool()
    decoded = time.perf_counter()
    pairs = {tuple(row.nonzero().flatten().tolist()) for row in ones if row.any()}
    edges, weight = set(graph.edges), spectrum.values.cpu()[ones.any(1)]
    return {
        "plan": f"{plan.offsets}{f', degree {plan.degree}' if plan.degree else ''}, {plan.repeats} repeat{'s' if plan.repeats > 1 else ''}",
        "decibel": decibel,
        "sigma": sigma,
        "sigma_found": spectrum.noise_std,
        "queries": plan.num_queries,
        "found": sorted(pairs & edges),
        "missed": sorted(edges - pairs),
        "false": sorted(pairs - edges),
        "unresolved": len(spectrum.unresolved),
        "error": (weight + 0.5).abs().max().item() if len(weight) else math.nan,  # of the keys that were found, from -1/2
        "ask": asked - begun,
        "decode": decoded - asked,
    }


def experiments(graph: Graph, device: torch.device, small: bool = False) -> dict:
    """As report.json has it. The last but one has too much noise for its number of queries: it must miss edges and say so."""
    k = len(graph.edges) + 1
    pairs = dict(offsets="bch", degree=2)
    cases = [
        (5.0, True, dict(offsets="nso", repeats=1 if small else 3)),
        (5.0, True, dict(**pairs, repeats=1)),
        (-5.0, False, dict(**pairs, repeats=3)),
        (-5.0, True, dict(**pairs, repeats=6)),
    ]
    if small:
        cases = [(decibel + 10, whole, options) for decibel, whole, options in cases]
    rows = []
    for decibel, whole, options in cases:
        row = recover(graph, SparseWHTPlan(graph.n, k, device=device, **options), decibel)
        row["green"] = not row["false"] and not (whole and row["missed"])
        rows.append(row)
    return {
        "vertices": graph.n,
        "edges": graph.edges,
        "place": graph.place.tolist(),
        "rows": rows,
        "green": all(row["green"] for row in rows),
    }
