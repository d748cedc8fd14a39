"""The command line: `spectralops profile | inspect | replace | env`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path


def _profile(options) -> int:
    import torch

    from .profile import report, run

    modes = []
    result = {"machine": run.machine(), "modes": modes}
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    run.find(options.ops, device, options.match)  # a wrong name fails before anything runs
    settings = dict(match=options.match, seconds=options.seconds, compiled=not options.no_compile)
    if device == "cpu":
        for kept, label in ((False, "CPU, default allocator"), (True, "CPU, pages kept")):
            modes.append({"allocator": label, **run.run_in_child(options.ops, kept, **settings)})
    else:
        rows = run.run(options.ops, device, progress=report.progress, **settings)
        modes.append({"allocator": "", "rows": rows})
    print(report.table(result))
    if options.out:
        report.write(result, options.out)
        print(f"written to {options.out}/profile.json, .csv, .txt")
    return 0 if all(row["ok"] for mode in modes for row in mode["rows"]) else 1


def _inspect(options) -> int:
    import torch

    from . import OPS
    from .profile.inspect import WITHOUT_KERNELS, inspect

    for op in options.ops or [op for op in OPS if op not in WITHOUT_KERNELS]:
        print(inspect(op, sm=options.sm, dtype=getattr(torch, options.dtype)), end="\n\n")
    return 0


def _replace(options) -> int:
    from . import replace

    module, _, attribute = options.model.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        model = getattr(importlib.import_module(module), attribute or "model")
    except (ImportError, AttributeError) as error:
        print(f"cannot load {options.model}: {error} (give MODULE:NAME, a torch.nn.Module or a function that returns one)", file=sys.stderr)
        return 2
    if not hasattr(model, "named_modules") and callable(model):
        model = model()
    elif isinstance(model, type):
        model = model()
    report = replace(model, ops=options.ops or "all", dry_run=options.dry_run)
    print(report)
    return 0


def _env(options) -> int:
    from .collect_env import main as collect

    return collect() or 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="spectralops", description="Fused spectral and basis kernels: measure, inspect, replace.")
    commands = parser.add_subparsers(dest="command", required=True)

    p = commands.add_parser("profile", help="time operations against eager, torch.compile and the machine's limit")
    p.add_argument("ops", nargs="*", metavar="OP", help="rational, hadamard, ...; all by default")
    p.add_argument("--device", choices=("cpu", "cuda"), help="the GPU if there is one")
    p.add_argument("--match", default="", metavar="TEXT", help="only cases whose name holds it")
    p.add_argument("--seconds", type=float, default=2.0, help="of measuring for each case")
    p.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    p.add_argument("--out", type=Path, help="folder for profile.json, profile.csv and profile.txt")
    p.set_defaults(run=_profile)

    p = commands.add_parser("inspect", help="registers, shared memory, occupancy, bytes and floor of each kernel; needs no GPU")
    p.add_argument("ops", nargs="*", metavar="OP")
    p.add_argument("--sm", type=int, default=90, help="compute capability: 80, 90, 100 or 120")
    p.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    p.set_defaults(run=_inspect)

    p = commands.add_parser("replace", help="show what replace() does to a model")
    p.add_argument("model", metavar="MODULE:NAME", help="a torch.nn.Module, or a function or class that makes one")
    p.add_argument("--ops", nargs="*", help="only these operations")
    p.add_argument("--dry-run", action="store_true", help="verify and report, change nothing")
    p.set_defaults(run=_replace)

    p = commands.add_parser("env", help="versions, GPU, core, environment variables, for a bug report")
    p.set_defaults(run=_env)

    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, RuntimeError) as error:
        print(f"spectralops: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
