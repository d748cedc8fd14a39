"""Is a picture fitted by `kan_linear` the one that the formula fits?

As in `proof.py`, from the same initial weights: the picture and all gradients before training, and the losses and weights
of the first steps, against float64. Then both train on to the end, each its own way, since rounding errors grow; there
the trained weights of the fused model are given to the formula, in float32, once more nudged, and in float64, and picture
and gradients are compared again: they are small there, and a ReLU may switch on a rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from ..replace.matcher import backend_of
from .base import Data, nudged
from .images import Picture, build, build_wide, data_uri, pixels, psnr
from .progress import Bar
from .proof import Check, compare, compare_training, state_difference, stepper, weight_vector

EVERY = 6  # steps between two points of the quality's curve


@dataclass
class Fit:
    checks: list[Check] = field(default_factory=list)
    at: list[int] = field(default_factory=list)  # steps at which the quality was measured
    psnr: dict[str, list[float]] = field(default_factory=dict)  # decibel, of original and replaced
    pictures: dict[str, str] = field(default_factory=dict)  # the photograph, original and replaced as data URIs
    state: str = ""
    backend: str = ""

    @property
    def green(self) -> bool:
        return not self.state and all(check.green for check in self.checks)

    def reasons(self) -> list[str]:
        red = [f"{c.what}: {c.replaced:.2e}, allowed {c.allowed:.2e}" for c in self.checks if not c.green]
        return red + ([f"the models do not start alike: {self.state}"] if self.state else [])

    def to_dict(self) -> dict:
        checks = [{**vars(c), "green": c.green} for c in self.checks]
        return {**vars(self), "checks": checks, "green": self.green}


class Run:
    """A model in training; batches are drawn from a generator of its own, seeded alike."""

    def __init__(self, model: nn.Module, picture: Picture, data: Data):
        self.model, self.data, self.batch, self.losses = model, data, picture.batch, []
        self.dtype = next(model.parameters()).dtype
        self.order = torch.Generator("cpu").manual_seed(1)
        # A step is rate g / (|g| + eps) at first: with Adam's eps of 1e-8 the sign of a gradient that is rounding alone decides it.
        optimizer = torch.optim.Adam(model.parameters(), lr=picture.rate, eps=1e-6)
        self.update = stepper(model, optimizer, data.loss)

    def step(self) -> None:
        index = torch.randint(len(self.data.x), (self.batch,), generator=self.order, device="cpu")
        self.losses.append(self.update(*self.data.batch(index.to(self.data.x.device), self.dtype)))

    @torch.no_grad()
    def picture(self) -> torch.Tensor:
        return self.model(self.data.x.to(self.dtype))


def fit(picture: Picture, device: torch.device) -> Fit:
    data = pixels(picture, device)
    plain, fused, wide = build(picture, device, False), build(picture, device, True), build_wide(picture, device)
    found = Fit(state=state_difference(plain.state_dict(), fused.state_dict()))
    first = fused.first
    found.backend = backend_of("kan_linear", data.x[: picture.batch], first.coeff.detach(), first.basis)
    models = {"float64": wide, "original": plain, "replaced": fused}
    found.checks += compare(models, data, slice(None), "picture before training")
    together = {**models, "nudged": nudged(build(picture, device, False))}
    runs = {name: Run(model, picture, data) for name, model in together.items()}
    weights: dict[str, torch.Tensor] = {}
    with Bar(f"{picture.name}: fitting", 2 * picture.proved + 2 * picture.steps) as bar:
        for name in ("float64", "nudged"):
            for _ in range(picture.proved):
                runs[name].step()
                bar.step()
        for name in ("original", "replaced"):
            found.at, found.psnr[name] = [], []
            for done in range(1, picture.steps + 1):
                runs[name].step()
                bar.step()
                if done == picture.proved:
                    weights[name] = weight_vector(runs[name].model)
                if done % EVERY == 0 or done == picture.steps:
                    found.at.append(done)
                    found.psnr[name].append(psnr(runs[name].picture(), data.y))
    weights |= {name: weight_vector(runs[name].model) for name in ("float64", "nudged")}
    losses = {name: [float(v) for v in run.losses[: picture.proved]] for name, run in runs.items()}
    found.checks += compare_training(losses, weights, picture.proved)
    found.pictures = {"photograph": data_uri(data.y, picture)}
    found.pictures |= {name: data_uri(runs[name].picture(), picture) for name in ("original", "replaced")}
    for name in ("original", "float64", "nudged"):
        together[name].load_state_dict(fused.state_dict())
    nudged(together["nudged"])
    found.checks += compare(together, data, slice(None), "picture after training, the same weights")
    return found
