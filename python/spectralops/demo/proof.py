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

from ..replace import Report, replace
from .base import Data, Network, build, build_wide, nudged
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
    loss: str = ""  # what the curves are of
    score: dict = field(default_factory=dict)  # title, and the test scores of original and replaced
    state: str = ""  # what `replace` changed in the state_dict, nothing if all is well

    @property
    def replaced_all(self) -> bool:
        return bool(self.report.rows) and not self.report.skipped and bool(self.report.replaced)

    @property
    def green(self) -> bool:
        return self.replaced_all and not self.state and all(check.green for check in self.checks)

    def reasons(self) -> list[str]:
        red = [f"{c.what}: {c.replaced:.2e}, allowed {c.allowed:.2e}" for c in self.checks if not c.green]
        left = [f"{row.path} was left alone: {row.reason}" for row in self.report.skipped]
        state = [f"the state_dict changed: {self.state}"] if self.state else []
        return red + left + state + ([] if self.report.replaced else ["nothing was replaced"])

    def to_dict(self) -> dict:
        checks = [{**vars(c), "green": c.green} for c in self.checks]
        return {
            "green": self.green,
            "checks": checks,
            "curves": self.curves,
            "loss": self.loss,
            "score": self.score,
            "state": self.state,
            "replace": self.report.to_dict(),
        }


def prove(network: Network, data: Data, device: torch.device) -> Proof:
    """Replace the ops of one of two equal models and compare the two."""
    original = build(network, device)
    model, wide = build(network, device, original), build_wide(network, device, original)
    moved = nudged(build(network, device, original))
    before = {name: value.clone() for name, value in tensors_of(model).items()}
    with Bar(f"{network.name}: replacing and verifying", 1) as bar:
        report = replace(model, example=data.x[: network.batch])
        bar.step()
    proof = Proof(report, loss=data.loss_title, state=state_difference(before, tensors_of(model)))
    models = {"float64": wide, "original": original, "replaced": model}
    proof.checks += compare(models, data, slice(network.batch), "logits" if data.y.dim() == 1 else "predictions")
    runs = {**models, "nudged": moved}
    with Bar(f"{network.name}: training it four times", 4 * network.steps) as bar:
        for name, run in runs.items():
            proof.curves[name] = train(run, network, data, bar)
    with torch.no_grad():
        scores = {name: data.score(runs[name](data.test_x), data.test_y) for name in ("original", "replaced")}
    proof.score = {"title": data.score_title, **scores}
    weights = {name: weight_vector(run) for name, run in runs.items()}
    proof.checks += compare_training(proof.curves, weights, network.steps)
    return proof


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its state_dict; neuraloperator's has an entry beside the tensors that says how the model was built."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def state_difference(was: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> str:
    """What differs between two state_dicts, bit for bit; "" if nothing."""
    if list(was) != list(now):
        return f"keys {sorted(was.keys() ^ now.keys()) or 'in another order'}"
    return ", ".join(name for name, value in was.items() if not torch.equal(value, now[name]))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Of its data: that of its first parameter that is real."""
    return next(p.dtype for p in model.parameters() if not p.is_complex())


def _numbers(t: torch.Tensor) -> torch.Tensor:
    """As one real vector in float64."""
    return (torch.view_as_real(t) if t.is_complex() else t).reshape(-1).double()


def _flat_gradient(model: nn.Module, data: Data, index) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, all parameter gradients as one vector), in float64."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    x, y = data.batch(index, dtype_of(model))
    output = model(x)
    # what is not used, as pykan's symbolic layers, has a gradient of zero
    gradients = torch.autograd.grad(data.loss(output, y), parameters, allow_unused=True, materialize_grads=True)
    return output.detach().double(), torch.cat([_numbers(g) for g in gradients])


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    return ((value - truth).norm() / truth.norm()).item()


def compare(models: dict[str, nn.Module], data: Data, index, output: str) -> list[Check]:
    """Outputs and gradients of original and replaced on the rows `index`, against float64; with a model "nudged" the
    original's error is the larger of the two, as for training."""
    eps, checks = torch.finfo(torch.float32).eps, []
    found = {name: _flat_gradient(model, data, index) for name, model in models.items()}
    for i, what in enumerate((output, "gradients of all parameters")):
        far = {name: relative(value[i], found["float64"][i]) for name, value in found.items() if name != "float64"}
        after = far.pop("replaced")
        before = max(far.values())
        checks.append(Check(f"{what}, relative L2 error against float64", before, after, 2 * before + 2 * eps))
    return checks


def train(model: nn.Module, network: Network, data: Data, bar: Bar | None = None) -> list[float]:
    """Losses of a run; batches are drawn from a generator of their own, the same for every run."""
    order = torch.Generator("cpu").manual_seed(1)
    step, dtype = trainer(model, network.rate, data.loss), dtype_of(model)
    losses = []
    for _ in range(network.steps):
        index = torch.randint(len(data.x), (network.batch,), generator=order, device="cpu").to(data.x.device)
        losses.append(step(*data.batch(index, dtype)))
        if bar is not None:
            bar.step()
    return [float(loss) for loss in losses]


def trainer(model: nn.Module, rate: float, loss_of):
    """step(x, y) -> loss: forward, backward and one update of stochastic gradient descent with
    momentum."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=0.9)
    return stepper(model, optimizer, loss_of)


def stepper(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of):
    def step(x, y):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def weight_vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([_numbers(p.detach()) for p in model.parameters() if p.requires_grad])


def compare_training(curves: dict[str, list[float]], weights: dict[str, torch.Tensor], steps: int) -> list[Check]:
    """Losses and final weights of the four runs."""
    losses = {name: torch.tensor(curve, dtype=torch.float64, device="cpu") for name, curve in curves.items()}
    eps, checks = torch.finfo(torch.float32).eps, []
    for what, of in ((f"losses of {steps} training steps", losses), ("weights after them", weights)):
        far = {name: relative(value, of["float64"]) for name, value in of.items()}
        before = max(far["original"], far["nudged"])
        checks.append(Check(f"{what}, likewise", before, far["replaced"], 2 * before + 2 * eps))
    return checks
