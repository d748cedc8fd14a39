"""`python -m spectralops.demo.spectra`: two functions that are known only by asking them, and their sparse Walsh-Hadamard transforms.

    boosted_trees.py   30 features of a boosted model: no noise, every coefficient, judged by the model's trees
    noisy_cut.py       200 vertices of a graph: the edges from cut values that noise has drowned

Both take bits and give numbers; a plan says which of the 2^30 or 2^200 points to ask. Verdicts are of coefficients, never of times.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from .base import Missing
from .boosted_trees import explain, mixed_patient
from .noisy_cut import experiments, roads
from .text import show_ms, table

SHOWN = 8  # interactions, and vertices with their neighbours, in a terminal


def spectra(device: torch.device, small: bool) -> list[dict]:
    """Both examples as report.json has them."""
    with torch.device("cpu"):
        patient = mixed_patient(trees=20, depth=3) if small else mixed_patient(trees=300, depth=4)
        graph = roads(60) if small else roads(200)
        trees, cut = explain(patient, device), experiments(graph, device, small)
    model = patient.model
    about_trees = (
        f"{model.n_estimators} trees of depth {model.max_depth} on {patient.n} features of scikit-learn's breast cancer data, as a black box "
        f"on {patient.n} bits: feature by feature, a patient's value or the mean. {trees['rows'][0]['coefficients']} coefficients by the trees"
    )
    about_cut = (
        f"{graph.n} random points, each joined to its 3 nearest: {len(graph.edges)} edges. Asked is how many of them a division of the "
        "points cuts, plus normal noise; the decoder estimates how much noise that is"
    )
    return [
        {"name": "boosted-trees", "title": "What a boosted model weighs together", "about": about_trees} | trees,
        {"name": "noisy-cut", "title": "A graph from noisy cuts", "about": about_cut} | cut,
    ]


def steps_table(entry: dict) -> list[tuple[str, ...]]:
    rows = [("plan", "bins", "asked", "of them new", "found", "unresolved", "ask, ms", "decode, ms")]
    for row in entry["rows"]:
        for step in row["steps"]:
            counts = (step[k] for k in ("asked", "new", "found", "unresolved"))
            times = (show_ms(step[k]) for k in ("ask", "decode"))
            rows.append((row["plan"], f"3 x {2 ** step['b']}", *map("{:,}".format, counts), *times))
    return rows


def trees_verdict(row: dict) -> str:
    return (
        f"{row['plan']}: {row['expected']} coefficients from {row['largest']:.2g} down to {row['smallest']:.1e}; {row['missed']} missed, "
        f"{row['false']} false, largest difference {row['error']:.1e}; f at random points within {row['points']:.1e} "
        f"(allowed {row['allowed']:.1e})"
    )


def trees_level(entry: dict) -> str:
    return (
        f"supports are compared above {entry['level']:.1e}, a bound of what rounding in the model's own sum can make of a coefficient; "
        f"differences must be below it too"
    )


def interactions_table(entry: dict, count: int) -> list[tuple[str, ...]]:
    rows = [("interaction", "by the trees", "by the decoder")]
    return rows + [(" x ".join(t["features"]), f"{t['exact']:+.6f}", f"{t['found']:+.6f}") for t in entry["top"][:count]]


def cut_table(entry: dict) -> list[tuple[str, ...]]:
    rows = [("plan", "SNR", "noise", "estimated", "queries", "edges", "missed", "false", "unresolved", "error", "ask, ms", "decode, ms")]
    for row in entry["rows"]:
        noise = (f"{row['decibel']:g} dB", f"{row['sigma']:.2f}", f"{row['sigma_found']:.2f}", f"{row['queries']:,}")
        counts = (str(len(row[k])) for k in ("found", "missed", "false"))
        more = (str(row["unresolved"]), f"{row['error']:.2f}", show_ms(row["ask"]), show_ms(row["decode"]))
        rows.append((row["plan"], *noise, *counts, *more))
    return rows


def cut_note(entry: dict) -> str:
    return (
        f"SNR: variance of the cuts, {len(entry['edges'])} / 4, over that of the noise. error: of the edges' coefficients, from -1/2, the "
        "largest. Where the noise is too much for the queries, edges are missed, not invented"
    )


def neighbours_text(entry: dict, count: int) -> list[str]:
    """The graph that the last decode gave, vertex by vertex."""
    beside: dict[int, list[int]] = {}
    for u, v in [*entry["rows"][-1]["found"], *entry["rows"][-1]["false"]]:
        beside.setdefault(u, []).append(v)
        beside.setdefault(v, []).append(u)
    return [f"  {u}: {' '.join(map(str, sorted(beside.get(u, []))))}" for u in range(count)] + ["  .."]


def spectra_text(entry: dict) -> list[str]:
    if entry["name"] == "boosted-trees":
        asked = [f"{row['steps'][-1]['asked']:,} ({row['plan']})" for row in entry["rows"]]
        lines = table(steps_table(entry), 1)
        lines += ["", f"  asked in all: {', '.join(asked)} of 2^30 = {2**30:,} points", f"  {trees_level(entry)}"]
        lines += [f"  {trees_verdict(row)}: {'ok' if row['green'] else 'NOT OK'}" for row in entry["rows"]]
        return [*lines, "", *table(interactions_table(entry, SHOWN), 1)]
    return [*table(cut_table(entry), 1), "", f"  {cut_note(entry)}", "  neighbours, as the last plan found them", *neighbours_text(entry, SHOWN)]


def print_spectra(found: list[dict]) -> None:
    for entry in found:
        print("\n".join([entry["title"], f"  {entry['about']}", "", *spectra_text(entry)]), flush=True)
        print(f"  {'as it must be' if entry['green'] else 'NOT OK'}\n", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spectralops.demo.spectra", description="Sparse Walsh-Hadamard transforms of real functions.")
    parser.add_argument("--small", action="store_true", help="a small model and a small graph")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="of the plan and the decoder")
    options = parser.parse_args(argv)
    begun = time.monotonic()
    try:
        found = spectra(options.device, options.small)
    except Missing as missing:
        print(f"spectralops demo: {missing}", file=sys.stderr)
        return 2
    print_spectra(found)
    print(f"{time.monotonic() - begun:.0f} s in all")
    return 0 if all(entry["green"] for entry in found) else 1


if __name__ == "__main__":
    sys.exit(main())
