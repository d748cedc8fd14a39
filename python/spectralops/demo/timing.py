"""Interleaved medians of the original, torch.compile of the original, and the replaced model.

On a CPU the run is repeated in a process of its own for each allocator mode: glibc's default gives big
temporaries back to the system, so that every op pays for fresh pages, which flatters whoever allocates
less; with pages kept, that advantage is gone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..profile.timing import peak_bytes
from ..replace import replace
from . import images
from .base import Data, Network, build
from .networks import networks
from .progress import Bar
from .proof import stepper, trainer

KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
MODES = {"default": "default allocator", "kept": "pages kept"}
COLUMNS = ("original", "compiled", "replaced")


def interleaved(
    calls: dict[str, Callable], device: torch.device, seconds: float, bar: Bar
) -> dict[str, float]:
    """Median seconds of each call, one of each in turn, so that a slow spell of the machine falls on
    all alike."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():  # caches, thread pools, compilation left over
        call()
    started = time.perf_counter()
    while len(next(iter(samples.values()))) < 5 or time.perf_counter() - started < seconds:
        for name, call in calls.items():
            synchronise()
            begin = time.perf_counter()
            call()
            synchronise()
            samples[name].append(time.perf_counter() - begin)
        if len(next(iter(samples.values()))) >= 200:
            break
    bar.step()
    return {name: statistics.median(values) for name, values in samples.items()}


def _forward(module, x):
    def call():
        with torch.no_grad():
            module(x)

    return call


def _forward_backward(module, x, grad):
    leaf = x.detach().clone().requires_grad_()
    leaves = [leaf, *(p for p in module.parameters() if p.requires_grad)]
    return lambda: torch.autograd.grad(module(leaf), leaves, grad, allow_unused=True)


def _compile(module, failures: list[str], *example):
    """torch.compile of the module, run forward and backward once; None, and the reason kept, if that
    fails."""
    compiled = torch.compile(module)
    try:
        compiled(*example).sum().backward()
        with torch.no_grad():
            compiled(*example)
    except Exception as error:  # no C++ compiler here, or a graph that inductor does not take
        reason = (str(error).splitlines() or [""])[0][:200]
        failures.append(f"{type(error).__name__}: {reason}")
        return None
    return compiled


@dataclass(frozen=True)
class Options:
    """How to measure; passed on to the child processes."""

    small: bool = False
    seconds: float = 1.5
    compile: bool = True

    def arguments(self) -> list[str]:
        switches = ["--small"] * self.small + ["--no-compile"] * (not self.compile)
        return ["--seconds", str(self.seconds), *switches]


STAGES, PICTURE_STAGES = 6, 2  # of `measure` and `measure_picture`, for the progress bar


def measure(network: Network, data: Data, device: torch.device, options: Options, bar: Bar) -> dict:
    """{"rows": [{case, size, seconds: {column: s}}], "failures": [why torch.compile is missing],
    "notes": [what a column is]}"""
    models = {name: build(network, device) for name in COLUMNS}
    batch, targets = data.x[: network.batch], data.y[: network.batch]
    replace(models["replaced"])  # verified on random data; proof.py has done so on real ones
    with torch.no_grad():
        inner = network.feeds(models["original"])(data.x[: network.rows])
    units = {name: network.unit(model) for name, model in models.items()}
    replace(units["replaced"])  # of pykan a model of its own
    failures: list[str] = []
    for what, variants, x in (("op", units, inner.clone().requires_grad_()), ("network", models, batch)):
        module = variants.pop("compiled")
        compiled = _compile(module, failures, x) if options.compile and what in network.compile else None
        if compiled is not None:
            variants["compiled"] = compiled
        bar.step()
    calls = _cases(network, data, units, models, inner, batch, targets)
    if network.by_hand:
        by_hand = network.by_hand.make(units["original"], inner)
        next(iter(calls.values()))["by hand"] = _forward(by_hand, inner)
    rows = []
    for (case, size), variants in calls.items():
        rows.append(
            {"case": case, "size": size, "seconds": interleaved(variants, device, options.seconds, bar)}
        )
    return {"rows": rows, "failures": failures, "notes": [f"by hand: {network.by_hand.text}"] if network.by_hand else []}


def measure_picture(picture: images.Picture, device: torch.device, options: Options, bar: Bar) -> dict:
    """As `measure`, for a training step, and the most memory it holds: {"bytes": {column: bytes}}."""
    data = images.pixels(picture, device)
    index = torch.randperm(len(data.x), generator=torch.Generator("cpu").manual_seed(2), device="cpu")
    x, y = data.batch(index[: picture.batch].to(device), torch.float32)
    models = {name: images.build(picture, device, fused) for name, fused in (("original", False), ("replaced", True))}
    failures: list[str] = []
    if options.compile and picture.compile:
        compiled = _compile(images.build(picture, device, False), failures, x)
        models |= {} if compiled is None else {"compiled": compiled}
    bar.step()
    calls = {}
    for name, model in models.items():
        optimizer = torch.optim.Adam(model.parameters(), lr=picture.rate * 1e-6)
        calls[name] = partial(stepper(model, optimizer, data.loss), x, y)
    seconds = interleaved(calls, device, options.seconds, bar)
    rows = [{"case": "a training step", "size": f"{picture.batch} pixels", "seconds": seconds}]
    held = {name: peak_bytes(call, device) for name, call in calls.items()}
    return {"rows": rows, "failures": failures, "notes": [], "bytes": held}


def _cases(
    network: Network, data: Data, units: dict, models: dict, inner, batch, targets
) -> dict[tuple[str, str], dict]:
    generator = torch.Generator("cpu").manual_seed(2)
    with torch.no_grad():
        shape = units["original"](inner).shape
    grad = torch.randn(shape, generator=generator, device="cpu").to(inner.device)
    op, net = " x ".join(map(str, inner.shape)), f"batch {len(batch)}"
    # at this rate the weights hardly move: every call does the same work on the same values
    steps = {name: trainer(model, network.rate * 1e-6, data.loss) for name, model in models.items()}
    return {
        ("the op, forward", op): {k: _forward(m, inner) for k, m in units.items()},
        ("the op, forward and backward", op): {
            k: _forward_backward(m, inner, grad) for k, m in units.items()
        },
        ("the network, forward", net): {k: _forward(m, batch) for k, m in models.items()},
        ("the network, training step", net): {k: partial(s, batch, targets) for k, s in steps.items()},
    }


def measure_all(device: torch.device, options: Options, label: str) -> dict:
    """Name of a network or a picture -> what was measured."""
    chosen, fitted = networks(options.small), images.pictures(options.small)
    with Bar(f"timing, {label}", STAGES * len(chosen) + PICTURE_STAGES * len(fitted)) as bar:
        found = {n.name: measure(n, n.data(device), device, options, bar) for n in chosen}
        return found | {p.name: measure_picture(p, device, options, bar) for p in fitted}


def measure_in_modes(device: torch.device, options: Options) -> dict[str, dict]:
    """Allocator mode -> measure_all's result; on a GPU torch keeps its memory itself, and there is one
    mode."""
    if device.type == "cuda":
        return {"cuda": measure_all(device, options, "GPU")}
    return {mode: _child(mode, options) for mode in MODES}


def _child(mode: str, options: Options) -> dict:
    environment = {k: v for k, v in os.environ.items() if k not in KEPT}
    environment |= KEPT if mode == "kept" else {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        command = [sys.executable, "-m", "spectralops.demo", "--time-into", str(out), "--mode", mode]
        done = subprocess.run([*command, *options.arguments()], env=environment)
        if done.returncode:
            raise RuntimeError(f"the timing process for mode {mode!r} ended with status {done.returncode}")
        return json.loads(out.read_text())
