"""Which features of a patient a boosted model weighs together: its Walsh-Hadamard spectrum, from its answers and from its trees.

    f(m) = decision function of the point that takes feature i from x where m_i = 1 and from a baseline where m_i = 0,   m in {0, 1}^n

The decoder asks f at points and knows nothing of the model. The oracle reads the trees and asks nothing. A node sends m left
or right by one feature; where x and the baseline go apart it is decided by one bit, and with A the function below it for bit 0, B for 1,

    node(m) = (1 + s)/2 A(m) + (1 - s)/2 B(m),   s = (-1)^m_i,   so that   node^ = (A^ + B^)/2 + s (A^ - B^)/2 ,

where s moves the coefficient of a set S of features to S xor {i}. Along the path to a leaf these factors are 2^-d prod(1 +- (-1)^m_i).
Leaves are added as fractions, without rounding: what cancels is gone, and what is left is a coefficient. scikit-learn rounds when
it adds the trees; `rounding` bounds by how much that moves f, hence each coefficient, a mean of +-f.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from fractions import Fraction

import torch
from torch import Tensor

from spectralops import SparseSpectrum, SparseWHTPlan

from .base import need

LARGEST_B = 14  # a function that 2^14 bins do not explain is given up

Spectrum = dict[tuple[int, ...], Fraction]  # features of the key, in order -> coefficient


@dataclass(frozen=True)
class MixedPatient:
    """f: bits (N, n) -> (N,) float64, of a fitted GradientBoostingClassifier of two classes."""

    model: object
    x: Tensor  # (n,) float64
    baseline: Tensor  # (n,) float64
    names: list[str]  # of the features

    @property
    def n(self) -> int:
        return len(self.x)

    def __call__(self, points: Tensor) -> Tensor:
        mixed = torch.where(points.cpu().bool(), self.x, self.baseline)
        return torch.from_numpy(self.model.decision_function(mixed.numpy())).to(points.device)


def mixed_patient(trees: int, depth: int, features: int = 30, patient: int = 0) -> MixedPatient:
    """A model of scikit-learn's breast cancer data, 569 patients; x is one of them, the baseline their mean."""
    data = need("sklearn.datasets", "scikit-learn").load_breast_cancer()
    boosting = need("sklearn.ensemble", "scikit-learn").GradientBoostingClassifier
    rows = data.data[:, :features]
    model = boosting(n_estimators=trees, max_depth=depth, random_state=0).fit(rows, data.target)
    x, baseline = torch.tensor(rows[patient], device="cpu"), torch.tensor(rows.mean(0), device="cpu")
    return MixedPatient(model, x, baseline, [str(name) for name in data.feature_names[:features]])


def _first(model) -> float:
    """What boosting starts from: the log odds of the classes."""
    odds = float(model.init_.class_prior_[1])
    return math.log(odds / (1 - odds))


def spectrum_of_trees(f: MixedPatient) -> Spectrum:
    """Every coefficient of f that is not zero, without rounding."""
    ends = torch.stack([f.baseline, f.x]).float().numpy()  # trees compare float32 with their thresholds

    def below(tree, node: int) -> Spectrum:
        left, right = int(tree.children_left[node]), int(tree.children_right[node])
        if left < 0:
            return {(): Fraction(float(tree.value[node, 0, 0]))}
        i = int(tree.feature[node])
        child = [left if value <= tree.threshold[node] else right for value in ends[:, i]]
        if child[0] == child[1]:
            return below(tree, child[0])
        total: Spectrum = {}
        for bit in (0, 1):
            for key, value in below(tree, child[bit]).items():
                moved = tuple(sorted({*key} ^ {i}))
                total[key] = total.get(key, 0) + value / 2
                total[moved] = total.get(moved, 0) + (-value if bit else value) / 2
        return total

    total: Spectrum = {(): Fraction(_first(f.model))}
    rate = Fraction(float(f.model.learning_rate))
    for (tree,) in f.model.estimators_:
        for key, value in below(tree.tree_, 0).items():
            total[key] = total.get(key, 0) + rate * value
    return {key: value for key, value in total.items() if value}


def rounding(f: MixedPatient) -> float:
    """A bound of |f as scikit-learn computes it - f|: one rounding a product, one an addition, of T trees and the start."""
    start = abs(_first(f.model))
    leaves = sum(abs(tree.tree_.value).max() for (tree,) in f.model.estimators_) * f.model.learning_rate
    return (len(f.model.estimators_) + 2) * 2.0**-53 * float(start + leaves)


# ---- from the answers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One decode of a plan that grows."""

    b: int
    asked: int  # queries so far
    new: int  # of them in this step
    found: int
    unresolved: int
    ask: float  # seconds
    decode: float


def grow(f, plan: SparseWHTPlan) -> tuple[SparseSpectrum, SparseWHTPlan, list[Step]]:
    """Decode, and double the bins until they explain everything. What was asked is not asked again.

    f has no noise, and the decoder is told so: if it had to estimate it, it would take what too few bins mix up for noise.
    """
    values = torch.empty(0, dtype=torch.float64, device=plan.device)
    steps = []
    while True:
        begun = time.perf_counter()
        before, values = len(values), torch.cat([values, f(plan.queries(start=len(values)))])
        asked = time.perf_counter()
        spectrum = plan.decode(values, noise_std=0.0)
        left = len(spectrum.unresolved)
        seconds = (asked - begun, time.perf_counter() - asked)
        steps.append(Step(plan.b, len(values), len(values) - before, len(spectrum), left, *seconds))
        if not left or plan.b >= min(LARGEST_B, plan.n):
            return spectrum, plan, steps
        plan = plan.grow()


def as_sets(spectrum: SparseSpectrum) -> dict[tuple[int, ...], float]:
    """Variables of each key -> coefficient, in the order of the spectrum: largest first."""
    keys = [tuple(row.nonzero().flatten().tolist()) for row in spectrum.bits().cpu()]
    return dict(zip(keys, spectrum.values.tolist()))


def sum_of(coefficients: dict[tuple[int, ...], float], points: Tensor) -> Tensor:
    """(N, n) bits -> (N,) float64: sum_S F[S] (-1)^(sum of m_i over S)."""
    y = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    for key, value in coefficients.items():
        odd = points[:, list(key)].sum(1) & 1
        y += value * (1 - 2 * odd.double())
    return y


def compare(exact: Spectrum, found: dict[tuple[int, ...], float], level: float) -> dict:
    """Supports above the level, below which rounding may make or hide a coefficient, and the largest difference of all."""
    keys = {*exact, *found}
    return {
        "coefficients": len(exact),
        "expected": sum(abs(v) > level for v in exact.values()),
        "missed": sum(abs(v) > level and key not in found for key, v in exact.items()),
        "false": sum(abs(v) > level and key not in exact for key, v in found.items()),
        "error": max(abs(float(exact.get(key, 0) - Fraction(found.get(key, 0.0)))) for key in keys),
        "smallest": float(min(abs(v) for v in exact.values() if abs(v) > level)),
        "largest": float(max(abs(v) for v in exact.values())),
    }


def explain(f: MixedPatient, device: torch.device, points: int = 2000) -> dict:
    """Both plans' way to the spectrum, judged by the trees and at random points; as report.json has it."""
    exact, level = spectrum_of_trees(f), rounding(f)
    degree = max(map(len, exact))
    plans = {
        "exact": SparseWHTPlan(f.n, 8, device=device),
        f"bch, degree {degree}": SparseWHTPlan(f.n, 8, offsets="bch", degree=degree, device=device),
    }
    generator = torch.Generator("cpu").manual_seed(0)
    asked = torch.randint(0, 2, (points, f.n), generator=generator, dtype=torch.uint8, device="cpu")
    truth = f(asked)
    rows = []
    for name, plan in plans.items():
        spectrum, plan, steps = grow(f, plan)
        found = as_sets(spectrum)
        row = compare(exact, found, level)
        row["points"] = (sum_of(found, asked) - truth).abs().max().item()
        row["allowed"] = level * (len(found) + 1)  # at a point, to which every coefficient may bring its share
        row["green"] = not (row["missed"] or row["false"]) and row["error"] <= level and row["points"] <= row["allowed"]
        rows.append({"plan": name, "steps": [asdict(step) for step in steps], **row})
    ranked = sorted(exact, key=lambda key: -abs(exact[key]))
    return {
        "level": level,
        "degree": degree,
        "deviation": truth.std().item(),
        "rows": rows,
        "top": [
            {"features": [f.names[i] for i in key], "exact": float(exact[key]), "found": found.get(key, 0.0)}
            for key in ranked
            if len(key) > 1
        ][:12],
        "ranked": {"exact": [float(abs(exact[key])) for key in ranked], "found": [abs(found.get(key, 0.0)) for key in ranked]},
        "green": all(row["green"] for row in rows),
    }
