"""The demo's command line; `__init__.py` says what it does."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

from .base import PACKAGES, Missing, need, versions
from .fit import fit
from .images import pictures
from .networks import networks
from .page import page
from .proof import prove
from .spectra import print_spectra, spectra
from .text import FIT_NAMES, fit_text, mode_title, proof_text, times_text
from .timing import Options, measure_all, measure_in_modes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spectralops.demo", description="The main job on real models."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="folder of report.html and report.json"
    )
    parser.add_argument("--seconds", type=float, default=0.8, help="time spent on each timed case")
    parser.add_argument(
        "--small", action="store_true", help="small networks: for tests of the demo itself, not for timing"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--time-into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mode", default="default", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        _constants_on_the_gpu()
    try:
        if options.time_into is not None:
            times = measure_all(device, _timing(options), mode_title(options.mode))
            options.time_into.write_text(json.dumps(times))
            return 0
        return _run(options, device)
    except Missing as missing:
        print(f"spectralops demo: {missing}", file=sys.stderr)
        return 2


def _constants_on_the_gpu() -> None:
    """rational-activations makes its constants on the default device. `torch.set_default_device` would
    do too, but slows every call from Python down, which the original makes more of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_tensor_type("torch.cuda.FloatTensor")


def _timing(options: argparse.Namespace) -> Options:
    return Options(options.small, options.seconds, not options.no_compile)


def _run(options: argparse.Namespace, device: torch.device) -> int:
    started = time.monotonic()
    for module, package in PACKAGES:
        need(module, package)  # all, before any work
    result = _facts(device)
    print(f"spectralops demo on {result['machine']['processor']}, torch {torch.__version__}", flush=True)
    print(f"{result['note']}\n" if result["note"] else "", flush=True)
    chosen, fitted = networks(options.small), pictures(options.small)
    proofs, fits = {}, {}
    for network in chosen:
        proof = proofs[network.name] = prove(network, network.data(device), device)
        print(f"{network.title}\n  {network.about}\n", flush=True)
        print(f"{proof.report}\n", flush=True)
        print("\n".join(proof_text(proof)) + "\n", flush=True)
    for picture in fitted:
        fits[picture.name] = fit(picture, device)
        print(f"{picture.title}\n  {picture.about}\n", flush=True)
        print("\n".join(fit_text(fits[picture.name])) + "\n", flush=True)
    result["spectra"] = spectra(device, options.small)
    print_spectra(result["spectra"])
    times = measure_in_modes(device, _timing(options))
    for network in chosen:
        proof = proofs[network.name]
        entry = _entry(network, proof, times) | {"package": network.package, "proof": proof.to_dict()}
        result["networks"].append(entry)
    for picture in fitted:
        found = fits[picture.name]
        result["pictures"].append(_entry(picture, found, times, FIT_NAMES) | {"fit": found.to_dict()})
    result["seconds"] = time.monotonic() - started
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "report.html").write_text(page(result), encoding="utf-8")
    print(f"{options.out / 'report.html'} and report.json written, {result['seconds']:.0f} s in all")
    green = [proof.green for proof in [*proofs.values(), *fits.values()]] + [entry["green"] for entry in result["spectra"]]
    return 0 if all(green) else 1


def _entry(of, proof, times: dict[str, dict], *names) -> dict:
    """What the report says of a network or a picture beside its proof; the verdict and the times, printed."""
    mine = {mode: measured[of.name] for mode, measured in times.items()}
    print(f"{of.title}: {'nothing but the time changed' if proof.green else 'NOT PROVEN'}")
    for reason in proof.reasons():
        print(f"  {reason}")
    print("\n".join(times_text(mine, proof.green, *names)) + "\n", flush=True)
    return {"name": of.name, "title": of.title, "about": of.about, "reasons": proof.reasons(), "times": mine}


def _facts(device: torch.device) -> dict:
    packages = (
        "spectralops",
        "torch",
        "triton",
        "rational-activations",
        "compressed-tensors",
        "pykan",
        "neuraloperator",
        "transformers",
        "scikit-learn",
    )
    machine = {
        "device": device.type,
        "processor": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    found = {**versions(*packages), "torch": torch.__version__}
    return {"machine": machine, "versions": found, "commit": _commit(), "note": _busy(), "networks": [], "pictures": [], "spectra": []}


def _busy() -> str:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    text = f"others use this machine (load {load:.1f}, {cores} cores): the proof stands, do not rely on the times"
    return text if load > cores / 2 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str:
    """Of the checkout that this file is in, or "unknown" for an installed package."""
    command = [
        "git",
        "-C",
        str(Path(__file__).resolve().parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
