"""The worked examples of the sparse Walsh-Hadamard transform: their oracles against dense transforms, what the decoder finds against
the oracles, and verdicts that turn red.
"""

import json
import math
import xml.etree.ElementTree as ElementTree
from fractions import Fraction

import numpy as np
import pytest
import torch
from spectralops import SparseWHTPlan
from spectralops.demo import boosted_trees, noisy_cut, page, plots, spectra

pytest.importorskip("sklearn")

CPU = torch.device("cpu")
ULP = 2.0**-53


def every_point(n):
    """(2^n, n): the position in a tensor of 2^n has variable 0 at its highest bit."""
    return torch.tensor(np.indices([2] * n).reshape(n, -1).T.copy(), dtype=torch.uint8)


def dense(values):
    """(2^n,) -> [2] * n: the mean of f over all points with the signs of each key."""
    f = values.numpy().reshape([2] * int(math.log2(len(values))))
    for axis in range(f.ndim):
        zero, one = np.take(f, 0, axis), np.take(f, 1, axis)
        f = np.stack([zero + one, zero - one], axis) / 2
    return f


@pytest.fixture(scope="module")
def small():
    return spectra.spectra(CPU, small=True)


# ---- the oracles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trees, depth, patient", [(1, 2, 0), (12, 3, 0), (40, 5, 1)])
def test_spectrum_of_trees_is_the_dense_transform(trees, depth, patient):
    f = boosted_trees.mixed_patient(trees, depth, features=12, patient=patient)
    exact = boosted_trees.spectrum_of_trees(f)
    values = f(every_point(12))
    transform = dense(values)
    allowed = boosted_trees.rounding(f) + 12 * ULP * values.abs().max().item()
    for key in np.ndindex(*[2] * 12):
        features = tuple(np.flatnonzero(key).tolist())
        assert abs(transform[key] - float(exact.get(features, 0))) <= allowed
    assert all(exact.values()) and max(map(len, exact)) <= depth
    assert trees == 1 or len(exact) > 30


def test_splits_that_no_bit_decides_leave_a_constant():
    f = boosted_trees.mixed_patient(5, 3)
    same = boosted_trees.MixedPatient(f.model, f.x, f.x, f.names)
    exact = boosted_trees.spectrum_of_trees(same)
    assert set(exact) == {()}
    assert abs(float(exact[()]) - same(torch.zeros(1, 30, dtype=torch.uint8)).item()) <= boosted_trees.rounding(same)


def test_rounding_bounds_what_scikit_learn_rounds():
    f = boosted_trees.mixed_patient(60, 3)
    exact = boosted_trees.spectrum_of_trees(f)
    points = torch.randint(0, 2, (20, 30), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    level = boosted_trees.rounding(f)
    for point, value in zip(points.tolist(), f(points).tolist()):
        truth = sum(v * (-1) ** sum(point[i] for i in key) for key, v in exact.items())
        assert abs(truth - Fraction(value)) <= level
    assert level < 1e-12


def test_coefficients_below_the_level_count_neither_way():
    exact = {(): Fraction(2), (0,): Fraction(1, 10), (1,): Fraction(1, 10**9), (2, 3): Fraction(1, 10**5)}
    row = boosted_trees.compare(exact, {(): 2.0, (0,): 0.1, (2, 3): 1e-5, (5,): 1e-9}, level=1e-8)
    assert (row["coefficients"], row["expected"], row["missed"], row["false"]) == (4, 3, 0, 0)
    assert row["error"] == pytest.approx(1e-9) and row["smallest"] == 1e-5 and row["largest"] == 2
    row = boosted_trees.compare(exact, {(): 2.0, (0,): 0.1, (5,): 1e-6}, level=1e-8)
    assert (row["missed"], row["false"]) == (1, 1) and row["error"] == pytest.approx(1e-5)


def test_spectrum_of_a_cut_is_its_edges():
    graph = noisy_cut.roads(10)
    transform = dense(graph.cut(every_point(10)))
    expected = np.zeros([2] * 10)
    expected[(0,) * 10] = len(graph.edges) / 2
    for u, v in graph.edges:
        expected[tuple(int(i in (u, v)) for i in range(10))] = -0.5
    assert np.array_equal(transform, expected) and len(graph.edges) >= 15


# ---- what is found ---------------------------------------------------------------------------------------------------


def test_the_boosted_model_is_found_whole_and_queries_are_kept(small):
    trees = small[0]
    assert trees["green"] and [row["plan"] for row in trees["rows"]] == ["exact", "bch, degree 3"]
    for row in trees["rows"]:
        steps = row["steps"]
        assert row["expected"] == row["coefficients"] == steps[-1]["found"] > 30 and row["error"] <= trees["level"] < 1e-13
        assert steps[-1]["unresolved"] == 0 and all(step["unresolved"] for step in steps[:-1]) and len(steps) > 1
        assert [step["asked"] for step in steps] == np.cumsum([step["new"] for step in steps]).tolist()
    asked = [row["steps"][-1]["asked"] for row in trees["rows"]]
    assert asked[1] < asked[0] < 2**12
    assert all(abs(t["exact"] - t["found"]) <= trees["level"] and len(t["features"]) > 1 for t in trees["top"])


def test_a_function_that_is_not_sparse_is_given_up_in_bounded_time(monkeypatch):
    monkeypatch.setattr(boosted_trees, "LARGEST_B", 6)
    generator = torch.Generator().manual_seed(0)
    noise = lambda points: torch.randn(len(points), generator=generator, dtype=torch.float64)  # noqa: E731
    spectrum, plan, steps = boosted_trees.grow(noise, SparseWHTPlan(16, 8))
    assert plan.b == 6 and steps[-1].unresolved > 0 and [step.b for step in steps] == [4, 5, 6]


def test_the_graph_is_found_and_too_much_noise_misses_but_invents_nothing(small):
    cut = small[1]
    assert cut["green"] and all(len(row["found"]) == len(cut["edges"]) for row in cut["rows"])
    assert cut["rows"][1]["queries"] < cut["rows"][0]["queries"]
    assert all(abs(row["sigma_found"] / row["sigma"] - 1) < 0.05 for row in cut["rows"])
    graph = noisy_cut.roads(60)
    row = noisy_cut.recover(graph, SparseWHTPlan(60, len(graph.edges) + 1, offsets="bch", degree=2), decibel=-5.0)
    assert row["missed"] and not row["false"]


def test_a_wrong_coefficient_or_edge_turns_the_verdict_red(monkeypatch):
    right = boosted_trees.spectrum_of_trees
    f = boosted_trees.mixed_patient(8, 2)
    assert boosted_trees.explain(f, CPU)["green"]
    monkeypatch.setattr(boosted_trees, "spectrum_of_trees", lambda f: {k: v + Fraction(1, 10**9) for k, v in right(f).items()})
    assert not boosted_trees.explain(f, CPU)["green"]
    monkeypatch.setattr(boosted_trees, "spectrum_of_trees", lambda f: right(f) | {(1, 2, 3): Fraction(1, 100)})
    result = boosted_trees.explain(f, CPU)
    assert not result["green"] and all(row["missed"] == 1 for row in result["rows"])
    graph = noisy_cut.roads(60)
    other = noisy_cut.Graph(graph.place, ((0, 1), *graph.edges[1:]))
    monkeypatch.setattr(noisy_cut.Graph, "cut", lambda _, points, cut=noisy_cut.Graph.cut: cut(other, points))
    result = noisy_cut.experiments(graph, CPU, small=True)
    assert not result["green"] and all(len(row["missed"]) == len(row["false"]) == 1 for row in result["rows"])


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_the_terminal_says_what_was_found(small, monkeypatch, capsys):
    monkeypatch.setattr(spectra, "spectra", lambda device, small_: small)
    assert spectra.main(["--small"]) == 0
    shown = capsys.readouterr().out
    asked = small[0]["rows"][1]["steps"][-1]["asked"]
    for text in (f"{asked:,} (bch, degree 3) of 2^30 = 1,073,741,824", "worst radius x ", "bch, degree 2, 3 repeats", "as it must be"):
        assert text in shown
    u, v = small[1]["edges"][0]
    assert f"\n  {u}: " in shown and f" {v}" in shown and "NOT OK" not in shown
    red = [small[0] | {"green": False}, small[1]]
    monkeypatch.setattr(spectra, "spectra", lambda device, small_: red)
    assert spectra.main([]) == 1 and "NOT OK" in capsys.readouterr().out


def _svgs(html):
    return [ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>") for part in html.split("<svg")[1:]]


def test_the_page_draws_both(small):
    machine = {"device": "cpu", "processor": "one", "threads": 2}
    result = {"machine": machine, "versions": {}, "commit": "", "note": "", "networks": [], "pictures": [], "spectra": small}
    html = page.page(json.loads(json.dumps(result)))
    assert "none invented" in html and "no edge invented" in html and "worst radius x " in html
    bars, ranks, *graphs = _svgs(html)
    assert len(graphs) == 2 and len(bars.findall("rect")) == 12 == len([line for line in bars.findall("line") if line.get("class") == "mark"])
    assert all(len(line.get("points").split()) == small[0]["rows"][0]["coefficients"] for line in ranks.findall("polyline"))
    for graph, row in zip(graphs, small[1]["rows"][-2:]):
        assert len(graph.findall("circle")) == 60 and len(graph.findall("line")) == len(row["found"]) + len(row["missed"])
    result["spectra"] = [small[0] | {"green": False}]
    assert "not as it must be" in page.page(result)


def test_bars_reach_to_either_side_of_zero():
    (drawing,) = _svgs(plots.pair_chart([("up", 2.0, 2.0), ("down", -1.0, -1.0)], ("a", "b")))
    up, down = drawing.findall("rect")
    marks = [float(line.get("x1")) for line in drawing.findall("line") if line.get("class") == "mark"]
    assert float(up.get("width")) == pytest.approx(2 * float(down.get("width")), abs=0.2)
    assert marks == pytest.approx([float(up.get("x")) + float(up.get("width")), float(down.get("x"))], abs=0.2)
