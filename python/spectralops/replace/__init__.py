"""`replace`: put the kernels of this package into a model that somebody already has, without changing
its weights or results.

>>> import spectralops as so
>>> report = so.replace(model, example=batch)  # in place: rebinds the `forward` of known modules
>>> print(report)   # what changed, on what evidence, and what was left alone and why
>>> report.undo()   # or:  with so.replace(model): ...

`matcher.py` says how a module is recognised and refused, `verify.py` what counts as proof, one small
file a package how its module is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType

import torch
from torch import nn

from .matcher import Matcher, Plan, Refused, check_instance, class_name, compiled_paths, is_ours, select
from .report import ALREADY, FAILED, REPLACED, SKIPPED, WOULD, Report, Row
from .verify import random_inputs, trimmed
from .verify import verify as _verify

__all__ = ["MATCHERS", "Matcher", "Plan", "Refused", "Report", "Row", "replace", "restore"]


def __getattr__(name: str):
    """MATCHERS, of every package, when it is first asked for: importing spectralops reads none of their files."""
    if name != "MATCHERS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .registry import MATCHERS

    return globals().setdefault("MATCHERS", MATCHERS)


@dataclass
class _Candidate:
    """One module instance of a known class, at the first path that leads to it."""

    module: nn.Module
    row: Row
    plan: Plan | None = None
    captured: tuple[tuple, dict] | None = None
    known_path: bool = True


def replace(
    model: nn.Module,
    *,
    ops: str | Iterable[str] = "all",
    example: object = None,
    verify: bool = True,
    dry_run: bool = False,
    allow_hooks: bool = False,
    fix_gradients: bool = False,
) -> Report:
    """Replace the slow operators of a model in place. Weights, state_dict, hooks and results stay what
    they were.

    Only the instance attribute `forward` of each recognised module is set; parameters are read at
    every call, so training, loading and moving the model go on as before. A deep copy of the model
    keeps the new forwards, bound to the copy's parameters; a pickle comes back with the old ones.
    `report.undo()` or `restore(model)` takes them out. Replace before torch.compile.

    Args:
        model: any module; shared instances are replaced once and reported under each of their paths.
        ops: "all", or names of ops ("rational", "hadamard_transform", "kan_linear", "wavelet_linear", "fft_conv",
            "spectral_conv", "spectral_filter", "spectral_mlp", "fourier_mix", "istft_head", "imdct_head", "fourier_linear",
            "circulant_linear", "waveft_linear") or of packages ("rational-activations", "compressed-tensors", "pykan",
            "efficient-kan", "fast-kan", "faster-kan", "ChebyKAN", "FourierKAN", "Wav-KAN", "kat_rational",
            "flash-linear-attention", "s4", "safari", "flash-fft-conv", "neuraloperator", "transformers" (FNet, codec heads),
            "GFNet" (SpectFormer too), "AFNO" (PhysicsNeMo, FourCastNet, DPOT, AFFNet too), "peft" (FourierFT, WaveFT, C3A),
            "vocos").
        example: an input of the model (a tensor, a tuple of arguments or a dict of keyword arguments).
            The model is run on it once, without gradients, and what reaches each module is used to
            verify it, besides random data; buffers and random state are put back.
        verify: compare outputs and gradients of the old and the new forward first (`verify.py` has the
            bound) and leave what fails. With False, modules known by their name and tensors alone, as those
            of packages that people copy as a file, are left: nothing else proves what they compute.
        dry_run: report, change nothing.
        allow_hooks: replace modules that have forward or backward hooks; they go on running, but what
            they do is not verified.
        fix_gradients: replace modules whose own backward is not the derivative of their forward
            (faster-kan, PEFT's C3A) too. Outputs stay; gradients become those of the formula and training goes
            another way than before, so this is never done unasked.

    Raises:
        TypeError: model is not a module, or example not one of the three. ValueError: ops names
        something unknown. Whatever the model raises on `example`; the model is then unchanged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    matchers = select(globals().get("MATCHERS") or __getattr__("MATCHERS"), ops)
    rows, candidates = _find(model, matchers, allow_hooks)
    planned = [c for c in candidates if c.plan is not None]
    if example is not None:
        _capture(model, example, planned)
    for candidate in planned:
        _examine(candidate, verify, fix_gradients)
    bindings = []
    for candidate in planned:
        if candidate.row.status == WOULD and not dry_run:
            module, before = candidate.module, candidate.module.__dict__.get("forward")
            module.__dict__["forward"] = ours = MethodType(candidate.plan.forward, module)
            bindings.append((module, ours, before))
            candidate.row.status = REPLACED
    return Report(_rows(rows), bindings, dry_run)


def restore(model: nn.Module) -> int:
    """Take every forward that `replace` put into the model, or into the model it was copied from, out
    again; how many there were."""
    modules = [m for m in model.modules() if is_ours(m)]
    for module in modules:
        del module.__dict__["forward"]
    return len(modules)


def _find(model: nn.Module, matchers: list[Matcher], allow_hooks: bool):
    """[(path, candidate)] for every path to a module of a known class, and the candidates, each
    instance once."""
    compiled = compiled_paths(model)
    by_id: dict[int, _Candidate] = {}
    paths, covered = [], set()
    for path, module in model.named_modules(remove_duplicate=False):  # parents before children
        matcher = next((m for m in matchers if m.claims(module)), None)
        if matcher is None or id(module) in covered:
            continue
        covered.update(map(id, matcher.covers(module)))
        if id(module) not in by_id:
            by_id[id(module)] = _plan(path, module, matcher, compiled.get(id(module)), allow_hooks)
        paths.append((path, by_id[id(module)]))
    return paths, list(by_id.values())


def _plan(
    path: str, module: nn.Module, matcher: Matcher, compiled_by: str | None, allow_hooks: bool
) -> _Candidate:
    row = Row(path, class_name(type(module)), matcher.package, type(module).__name__, matcher.op, SKIPPED)
    if is_ours(module):
        row.status = ALREADY
        return _Candidate(module, row)
    try:
        check_instance(module, matcher, compiled_by, allow_hooks)
        plan = matcher.plan(module)
    except Refused as refusal:
        row.reason = str(refusal)
        return _Candidate(module, row)
    row.old_op, row.new_op = plan.old, plan.new
    return _Candidate(module, row, plan, known_path=matcher.known_path(type(module)))


def _capture(model: nn.Module, example: object, candidates: list[_Candidate]) -> None:
    """Run the model once and keep the first input that reaches each candidate."""
    if isinstance(example, torch.Tensor):
        args, kwargs = (example,), {}
    elif isinstance(example, (tuple, list)):
        args, kwargs = tuple(example), {}
    elif isinstance(example, dict):
        args, kwargs = (), example
    else:
        raise TypeError(
            "example must be a tensor, a tuple of arguments or a dict of keyword arguments, "
            f"got {type(example).__name__}"
        )

    def hook_for(candidate: _Candidate):
        def hook(_, seen_args, seen_kwargs):
            if candidate.captured is None:
                candidate.captured = trimmed(seen_args, seen_kwargs, candidate.plan)

        return hook

    handles = [c.module.register_forward_pre_hook(hook_for(c), with_kwargs=True) for c in candidates]
    attributes = [(c.module, dict(c.module.__dict__)) for c in candidates]  # pykan keeps activations there
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    devices = {t.device for t in [*model.parameters(), *model.buffers()] if t.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, before in attributes:
            for name in module.__dict__.keys() - before.keys():
                del module.__dict__[name]
            module.__dict__.update(before)
        with torch.no_grad():
            for buffer, value in buffers:  # batch norm writes without counting a version
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _examine(candidate: _Candidate, wanted: bool, fix_gradients: bool) -> None:
    """Verify on random data and on what the example brought; sets the row's status, evidence and
    backend."""
    row, plan, module = candidate.row, candidate.plan, candidate.module
    if plan.wrong_gradients and not fix_gradients:
        row.reason = f"{plan.wrong_gradients}; fix_gradients=True replaces it"
        return
    if not wanted and not candidate.known_path:
        row.reason = "known by its name and tensors, not by its path: only verification proves what it computes"
        return
    row.status, row.reason = WOULD, plan.note
    data = {"random data": random_inputs(module, plan)}
    if candidate.captured is not None:
        data["example"] = candidate.captured
    try:
        for name, (args, kwargs) in data.items() if wanted else ():
            evidence = _verify(module, plan, args, kwargs)
            row.verified_on = f"{row.verified_on}, {name}" if row.verified_on else name
            row.errors = evidence.errors
            if evidence.failure:
                row.status, row.reason = FAILED, f"on {name}: {evidence.failure}"
                return
        args, kwargs = candidate.captured or data["random data"]
        row.backend = plan.backend(*args, **kwargs)
    except Refused as refusal:
        row.status, row.reason = SKIPPED, str(refusal)


def _rows(paths: list[tuple[str, _Candidate]]) -> list[Row]:
    rows = []
    for path, candidate in paths:
        row = candidate.row
        if path != row.path:
            row = Row(
                **{
                    **vars(row),
                    "path": path,
                    "reason": row.reason or f"the same module as {row.path or 'the model'}",
                }
            )
        rows.append(row)
    return rows
