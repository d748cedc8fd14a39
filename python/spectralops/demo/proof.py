"""Are outputs, gradients and a training run what they were?

Outputs and gradients: both models and a float64 one get the same batch; with e the relative L2 error
against float64, e_replaced <= 2 e_original + 2 eps, as for every kernel of this package.

Training: rounding errors grow as weights move, and how far a run drifts from the float64 one is partly
luck. So the original is also trained from weights nudged by at most half an ulp, which is one more
draw of that luck; the replaced model's losses and final weights may lie at most twice as far from the
float64 run's as the farther of the two originals.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from ..replace import Report, replace
from .networks import Digits, Network, build, build_wide, nudged
from .progress import Bar


@dataclass
class Check:
    """One line of the verdict."""

    what: str
    original: float
    replaced: float
    allowed: float

    @property
    def green(self) -> bool:
        return self.replaced <= self.allowed


@dataclass
class Proof:
    report: Report
    checks: list[Check] = field(default_factory=list)
    curves: dict[str, list[float]] = field(
        default_factory=dict
    )  # losses of float64, original, nudged, replaced
    accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def replaced_all(self) -> bool:
        return bool(self.report.rows) and not self.report.skipped and bool(self.report.replaced)

    @property
    def green(self) -> bool:
        return self.replaced_all and all(check.green for check in self.checks)

    def reasons(self) -> list[str]:
        red = [f"{c.what}: {c.replaced:.2e}, allowed {c.allowed:.2e}" for c in self.checks if not c.green]
        left = [f"{row.path} was left alone: {row.reason}" for row in self.report.skipped]
        return red + left + ([] if self.report.replaced else ["nothing was replaced"])

    def to_dict(self) -> dict:
        checks = [{**vars(c), "green": c.green} for c in self.checks]
        return {
            "green": self.green,
            "checks": checks,
            "curves": self.curves,
            "accuracy": self.accuracy,
            "replace": self.report.to_dict(),
        }


def prove(network: Network, data: Digits, device: torch.device) -> Proof:
    """Replace the ops of one of two equal models and compare the two."""
    x, y = data.x[: network.batch], data.y[: network.batch]
    original, model, wide = build(network, device), build(network, device), build_wide(network, device)
    with Bar(f"{network.name}: replacing and verifying", 1) as bar:
        report = replace(model, example=x)
        bar.step()
    proof = Proof(report)
    _compare(proof, original, model, wide, x, y)
    runs = {
        "float64": wide,
        "original": original,
        "nudged": nudged(build(network, device)),
        "replaced": model,
    }
    with Bar(f"{network.name}: training it four times", 4 * network.steps) as bar:
        for name, run in runs.items():
            proof.curves[name] = train(run, network, data, bar)
    for name in ("original", "replaced"):
        proof.accuracy[name] = _accuracy(runs[name], data)
    _compare_training(proof, runs, network.steps)
    return proof


def _flat_gradient(model: nn.Module, x, y) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, all parameter gradients as one vector), in float64."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    logits = model(x.to(parameters[0].dtype))
    gradients = torch.autograd.grad(F.cross_entropy(logits, y), parameters)
    return logits.detach().double(), torch.cat([g.reshape(-1).double() for g in gradients])


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    return ((value - truth).norm() / truth.norm()).item()


def _compare(proof: Proof, original: nn.Module, model: nn.Module, wide: nn.Module, x, y) -> None:
    eps = torch.finfo(torch.float32).eps
    truth, was, now = (_flat_gradient(m, x, y) for m in (wide, original, model))
    for what, t, a, b in zip(("logits", "gradients of all parameters"), truth, was, now):
        before, after = relative(a, t), relative(b, t)
        proof.checks.append(
            Check(f"{what}, relative L2 error against float64", before, after, 2 * before + 2 * eps)
        )


def train(model: nn.Module, network: Network, data: Digits, bar: Bar | None = None) -> list[float]:
    """Losses of a run; batches are drawn from a generator of their own, the same for every run."""
    order = torch.Generator("cpu").manual_seed(1)
    step, dtype = trainer(model, network.rate), next(model.parameters()).dtype
    losses = []
    for _ in range(network.steps):
        index = torch.randint(len(data.x), (network.batch,), generator=order, device="cpu").to(data.x.device)
        losses.append(step(data.x[index].to(dtype), data.y[index]))
        if bar is not None:
            bar.step()
    return [float(loss) for loss in losses]


def trainer(model: nn.Module, rate: float):
    """step(x, y) -> loss: forward, backward and one update of stochastic gradient descent with
    momentum."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=0.9)

    def step(x, y):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


@torch.no_grad()
def _accuracy(model: nn.Module, data: Digits) -> float:
    return (model(data.test_x).argmax(-1) == data.test_y).float().mean().item()


def _vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).double() for p in model.parameters() if p.requires_grad])


def _compare_training(proof: Proof, runs: dict[str, nn.Module], steps: int) -> None:
    losses = {
        name: torch.tensor(curve, dtype=torch.float64, device="cpu") for name, curve in proof.curves.items()
    }
    weights = {name: _vector(model) for name, model in runs.items()}
    eps = torch.finfo(torch.float32).eps
    for what, of in ((f"losses of {steps} training steps", losses), ("weights after them", weights)):
        far = {name: relative(value, of["float64"]) for name, value in of.items()}
        before = max(far["original"], far["nudged"])
        proof.checks.append(Check(f"{what}, likewise", before, far["replaced"], 2 * before + 2 * eps))
