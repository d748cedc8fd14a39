"""How the sparse Walsh-Hadamard transform grows and where it fails: `python -m bench.sparse_growth --out DIR`,
under two minutes.

    growth    samples and decode time against K log2 N and K log2^2 N, n = 10 to 1000, K = 10 to 10^4, default plans
              (exact, 3 groups, B >= 2 K)
    phase     part of the decodes that find exactly all keys against B / K at 3 groups, n = 60; density evolution
    noise     the same against SNR = K rho^2 / sigma^2, |F| = rho: nso, n = 20, K = 40, b = 7, r = 1, 3, 5, 10

Each is printed, written as NAME.csv and drawn as NAME.svg; lines are what the planner predicts
(ops/sparse_wht_planner.py), dots what was found. Values come from the spectrum bin by bin
(ops/sparse_wht_samples.py). A case of more than 3e7 samples is left out, and said to be.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import torch
from spectralops.ops.sparse_wht_plan import SparseWHTPlan
from spectralops.ops.sparse_wht_planner import graph_failure, predicted_failure, threshold
from spectralops.ops.sparse_wht_samples import samples_of
from spectralops.profile.run import machine
from spectralops.profile.sparse_wht_cases import random_keys
from spectralops.profile.timing import median

VARIABLES = (10, 20, 50, 100, 200, 500, 1000)
KEYS = (10, 30, 100, 300, 1000, 3000, 10_000)
MOST_SAMPLES = 30_000_000
LOADS = (0.3, 0.35, 0.38, 0.4, 0.42, 0.45, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0)  # B / K
BINS = (6, 8, 10)  # b
DECIBELS = tuple(2.5 * i for i in range(-5, 7))
REPEATS = (1, 3, 5, 10)


def drawn(plan: SparseWHTPlan, k: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (k, W) and their samples, coefficients +-1."""
    keys = random_keys(plan.n, k, None, g)
    return keys, samples_of(plan, keys, 2.0 * torch.randint(2, (k,), generator=g) - 1)


def recovered(plan: SparseWHTPlan, k: int, sigma: float, seeds: int) -> tuple[float, int]:
    """Part of `seeds` functions whose keys were found, all and no others; how many of the rest have nothing unresolved."""
    g = torch.Generator().manual_seed(k + plan.b)
    keys, values = zip(*(drawn(plan, k, g) for _ in range(seeds)))
    values = torch.stack(values)
    spectra = plan.decode(values + sigma * torch.randn(values.shape, generator=g), sigma)
    right, silent = 0, 0
    for spectrum, true in zip(spectra, keys):
        same = len(spectrum) == len(true) and torch.equal(spectrum.keys.unique(dim=0), true.unique(dim=0))
        right += same
        silent += not same and len(spectrum.unresolved) == 0
    return right / seeds, silent


def growth() -> tuple[list[dict], list[str]]:
    rows, left_out = [], []
    for n in VARIABLES:
        for k in KEYS:
            if 4 * k > 1 << n:  # 2^b >= 2 K, and b < n
                continue
            plan, g = SparseWHTPlan(n, k), torch.Generator().manual_seed(n + k)
            if plan.num_samples > MOST_SAMPLES:
                left_out.append(f"n = {n}, K = {k}: {plan.num_samples:.1e} samples")
                continue
            keys, values = drawn(plan, k, g)
            times, found = [], plan.decode(values, 0)
            for _ in range(5):
                start = time.perf_counter()
                found = plan.decode(values, 0)
                count = len(found.keys)
                times.append(time.perf_counter() - start)
            seconds = median(times)
            whole = count == k and torch.equal(found.keys.unique(dim=0), keys.unique(dim=0))
            rows.append(
                dict(n=n, k=k, samples=plan.num_queries, seconds=seconds, all_found=whole,
                     samples_per_kn=plan.num_queries / (k * n), ns_per_kn2=1e9 * seconds / (k * n * n))
            )  # fmt: skip
    return rows, left_out


def phase(seeds: int) -> list[dict]:
    rows = []
    for b in BINS:
        for load in LOADS:
            k = round((1 << b) / load)
            part, silent = recovered(SparseWHTPlan(60, k, b=b), k, 0.0, seeds)
            predicted = 1 - graph_failure(k, 1 << b, 3)
            rows.append(dict(b=b, bins_per_key=(1 << b) / k, k=k, recovered=part, predicted=predicted, silent=silent))
    return rows


def noise(seeds: int) -> list[dict]:
    rows = []
    for repeats in REPEATS:
        plan = SparseWHTPlan(20, 40, b=7, offsets="nso", repeats=repeats)
        for decibel in DECIBELS:
            sigma = math.sqrt(40 / 10 ** (decibel / 10))
            part, silent = recovered(plan, 40, sigma, 2 * seeds)
            predicted = 1 - predicted_failure(plan, noise_std=sigma)
            rows.append(dict(repeats=repeats, decibel=decibel, recovered=part, predicted=predicted, silent=silent))
    return rows


# ---- what is written --------------------------------------------------------------------------------------------------


def table(rows: list[dict]) -> str:
    show = lambda v: f"{v:.4g}" if isinstance(v, float) else str(v)  # noqa: E731
    lines = [list(rows[0]), *([show(v) for v in r.values()] for r in rows)]
    return "\n".join("".join(f"{cell:>16}" for cell in line) for line in lines)


def write(rows: list[dict], path: Path) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_growth(plt, rows: list[dict]):
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for axis, value, power, title in ((axes[0], "samples", 1, "samples"), (axes[1], "seconds", 2, "decode, ms")):
        scale = 1e3 if value == "seconds" else 1
        for n in sorted({r["n"] for r in rows}):
            mine = [r for r in rows if r["n"] == n]
            axis.loglog([r["k"] * n**power for r in mine], [scale * r[value] for r in mine], "o", label=f"n = {n}", markersize=4)
        x = sorted(r["k"] * r["n"] ** power for r in rows)
        constant = median([scale * r[value] / (r["k"] * r["n"] ** power) for r in rows])
        unit = f"{constant:.2g}" if power == 1 else f"{1e6 * constant:.2g} ns"
        axis.loglog(x, [constant * v for v in x], "-", color="gray", linewidth=1, label=f"{unit} (median)")
        axis.set_xlabel("K log2 N" if power == 1 else "K log2² N")
        axis.set_ylabel(title)
        axis.grid(True, alpha=0.3)
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8)
    return figure


def draw_recovery(plt, rows: list[dict], by: str, x: str, label, x_title: str, line: float | None):
    figure, axis = plt.subplots(figsize=(7, 4.2))
    for i, key in enumerate(sorted({r[by] for r in rows})):
        mine = sorted((r for r in rows if r[by] == key), key=lambda r: r[x])
        axis.plot([r[x] for r in mine], [r["recovered"] for r in mine], "o", color=f"C{i}", label=label(key), markersize=4)
        axis.plot([r[x] for r in mine], [r["predicted"] for r in mine], "-", color=f"C{i}", linewidth=1)
    if line is not None:
        axis.axvline(line, color="gray", linestyle="--", linewidth=1, label=f"density evolution: {line:.3f}")
    axis.set_xlabel(x_title)
    axis.set_ylabel("all keys found, and no others")
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sparse_growth", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables and drawings")
    parser.add_argument("--seeds", type=int, default=20, help="functions at each point (noise: twice as many)")
    options = parser.parse_args(argv)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "spectralops"  # the same names inside at every run
    import matplotlib.pyplot as plt

    options.out.mkdir(parents=True, exist_ok=True)
    text = ["  ".join(f"{k} {v}" for k, v in machine().items() if v)]
    rows, left_out = growth()
    found = {"growth": rows, "phase": phase(options.seeds), "noise": noise(options.seeds)}
    for name, rows in found.items():
        write(rows, options.out / f"{name}.csv")
        text += ["", name, table(rows)]
    text += ["", f"left out, over {MOST_SAMPLES:.0e} samples: {'; '.join(left_out)}"]
    quiet = [r["decibel"] for r in found["noise"] if r["silent"]]
    silent = [sum(r["silent"] for r in found[name]) for name in ("phase", "noise")]
    text += [
        f"decodes that missed or invented a key and have nothing unresolved: {silent[0]} without noise; with it {silent[1]}, all at"
        f" {max(quiet, default=-math.inf)} dB or less, where the bins look like noise"
    ]
    (options.out / "growth.txt").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    phases, noises = found["phase"], found["noise"]
    drawings = {
        "growth": draw_growth(plt, found["growth"]),
        "phase": draw_recovery(plt, phases, "b", "bins_per_key", lambda b: f"B = {1 << b}", "B / K, C = 3, n = 60", threshold(3)),
        "noise": draw_recovery(plt, noises, "repeats", "decibel", lambda r: f"r = {r}", "SNR = K rho² / sigma², dB", None),
    }
    for name, figure in drawings.items():
        figure.tight_layout()
        figure.savefig(options.out / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
