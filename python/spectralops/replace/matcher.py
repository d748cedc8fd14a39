"""What a third-party package's file provides: a `Matcher` that recognises modules and plans their new
forward.

A module is recognised by the path and name of its class and by the shapes of its parameters, never by
the model it sits in. Whatever could make the new forward differ from the old one is refused with a
reason.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_MARK = "__spectralops_replaces__"
_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}


class Refused(Exception):
    """The module is of a known class but is left as it is; the text says why."""


@dataclass(frozen=True)
class Plan:
    """How one module is replaced."""

    forward: Callable  # forward(self, ...), a plain function: a deep copy of the module rebinds it to itself
    old: str
    new: str
    probe: Callable[
        [torch.Generator], tuple[Tensor, ...]
    ]  # random inputs of a plausible shape, float64 on the CPU
    trim: Callable[[Tensor, int], Tensor]  # (input, elements): fewer rows of the same problem
    backend: Callable[..., str]  # (inputs) -> the backend that the op chooses for them


class Matcher:
    """One class of one package. Subclasses set the three names and write `plan`."""

    package: str  # as PyPI spells it
    op: str  # the public function that replaces it
    classes: tuple[str, ...]  # "module.path.Class"

    def plan(self, module: nn.Module) -> Plan:
        """The plan for a module of exactly one of `classes`; raises Refused."""
        raise NotImplementedError

    def claims(self, module: nn.Module) -> bool:
        """Whether the module is one of ours, perhaps subclassed, parametrized or scripted."""
        names = [class_name(base) for base in type(module).__mro__]
        short = {name.rpartition(".")[2] for name in self.classes}
        scripted = (
            isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", "") in short
        )
        return scripted or any(name in self.classes for name in names)


def class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def mark(forward: Callable, op: str) -> Callable:
    setattr(forward, _MARK, op)
    return forward


def is_ours(module: nn.Module) -> bool:
    """Whether the module's forward was put there by `replace`."""
    return hasattr(getattr(module.__dict__.get("forward"), "__func__", None), _MARK)


def check_instance(module: nn.Module, matcher: Matcher, compiled_by: str | None, allow_hooks: bool) -> None:
    """Refusals that do not depend on the package."""
    cls = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused("scripted: its graph is frozen, replace before torch.jit.script")
    if parametrize.is_parametrized(module):
        names = ", ".join(module.parametrizations)
        raise Refused(
            f"parametrized ({names}): torch.nn.utils.parametrize recomputes the parameter with code we do not know"
        )
    if class_name(cls) not in matcher.classes:
        raise Refused(
            f"{class_name(cls)} is a subclass of {matcher.classes[0]} and may compute something else"
        )
    if compiled_by is not None:
        raise Refused(
            f"inside {compiled_by}, compiled by torch.compile: the graph holds the old forward; replace first"
        )
    own = module.__dict__.get("forward")
    if own is not None and getattr(own, "__func__", None) is not cls.forward:
        raise Refused(
            f"its forward was already rebound, to {getattr(own, '__qualname__', type(own).__name__)}"
        )
    if not allow_hooks:
        hooks = [
            f"{len(getattr(module, a))} {name}" for a, name in _HOOKS.items() if getattr(module, a, None)
        ]
        if hooks:
            raise Refused(
                f"hooked ({', '.join(hooks)}): a hook may change the result; allow_hooks=True if they only look"
            )
    _check_parameters(module)


def _check_parameters(module: nn.Module) -> None:
    if type(module._parameters) not in (dict, OrderedDict):
        raise Refused(f"its parameters are offloaded ({type(module._parameters).__name__})")
    for name, parameter in module.named_parameters(recurse=False):
        if type(parameter) not in (nn.Parameter, Tensor):
            raise Refused(f"{name} is a {type(parameter).__name__}, not a plain parameter")
        if parameter.is_meta:
            raise Refused(f"{name} is on the meta device: offloaded or not loaded yet")
        if parameter.is_inference():
            raise Refused(f"{name} was made under torch.inference_mode: changes to it cannot be seen")


def compiled_paths(model: nn.Module) -> dict[int, str]:
    """id of each module that a torch.compile'd module holds -> what holds it."""
    found: dict[int, str] = {}
    for path, module in model.named_modules():
        wrapped = isinstance(module, torch._dynamo.OptimizedModule) if hasattr(torch, "_dynamo") else False
        if wrapped or getattr(module, "_compiled_call_impl", None) is not None:
            for inner in module.modules():
                found.setdefault(id(inner), path or "the model")
    return found


def backend_of(op: str, *args, **kwargs) -> str:
    """The backend that `explain` says a call would use."""
    import spectralops

    head = spectralops.explain(op, *args, **kwargs).splitlines()[0]
    found = re.search(r": (\w+)", head)
    return found.group(1) if found else ""


def select(matchers: Iterable[Matcher], ops: str | Iterable[str]) -> list[Matcher]:
    """The matchers that `ops` names: "all", names of ops, names of packages."""
    matchers = list(matchers)
    names = [ops] if isinstance(ops, str) else list(ops)
    known = sorted({m.op for m in matchers} | {m.package for m in matchers})
    for name in names:
        if name != "all" and name not in known:
            raise ValueError(f"ops must be 'all' or among {', '.join(map(repr, known))}; got {name!r}")
    return [m for m in matchers if {"all", m.op, m.package} & set(names)]
