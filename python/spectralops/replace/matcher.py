"""What a third-party package's file provides: a `Matcher` that recognises modules and plans their new
forward.

A module is recognised by the path and name of its class and by the shapes of its parameters, never by
the model it sits in. Packages that are source files people copy have no path to go by: their classes are
known by their short name where the tensors of the published module are there too (`Matcher.resembles`);
`plan` then demands exactly the published parameters, buffers and children (`require`), and verification,
which for these cannot be switched off, is the proof. Whatever could make the new forward differ from the
old one is refused with a reason.
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
    note: str = ""  # said in the report of a replaced module
    # The module's forward in plain PyTorch, for an original whose float64 copy is not the truth
    formula: Callable | None = None
    # What is wrong with the original's gradients: replaced only with fix_gradients=True. Outputs are then
    # compared with the original's, gradients with those of `formula`
    wrong_gradients: str = ""
    prepare: Callable[[nn.Module], None] | None = None  # puts a copy into the state that is to be verified
    # (module, the probe's tensors) -> the same in the dtypes and on the device that it takes, where these are not its
    # parameters'
    place: Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None


class Matcher:
    """One class of one package. Subclasses set the names and write `plan`."""

    package: str  # as PyPI spells it, or its repository
    op: str  # the public function that replaces it
    classes: tuple[str, ...] = ()  # "module.path.Class"
    names: tuple[str, ...] = ()  # "Class", wherever it was defined, of modules that `resembles` accepts

    def plan(self, module: nn.Module) -> Plan:
        """The plan for a module of exactly one of `classes` or `names`; raises Refused."""
        raise NotImplementedError

    def resembles(self, module: nn.Module) -> bool:
        """Whether a module with one of `names` has the tensors of the published one."""
        return False

    def covers(self, module: nn.Module) -> Iterable[nn.Module]:
        """Modules inside a claimed one that are computed by it and not replaced on their own."""
        return ()

    def claims(self, module: nn.Module) -> bool:
        """Whether the module is one of ours, perhaps subclassed, parametrized or scripted."""
        package = type(module).__module__.split(".")[:2]
        if package[0] == "spectralops" and package[1:] != ["demo"]:  # the demo writes down published modules
            return False  # nn.KANLinear is not efficient-kan's
        if any(class_name(base) in self.classes for base in type(module).__mro__):
            return True
        short = {base.__name__ for base in type(module).__mro__}
        if isinstance(module, torch.jit.ScriptModule):
            original = getattr(module, "original_name", "")
            if original in {name.rpartition(".")[2] for name in self.classes}:
                return True
            short.add(original)
        return not short.isdisjoint(self.names) and self.resembles(module)

    def known_class(self, cls: type) -> bool:
        """Whether this is one of the classes itself; a class derived from one of the same name is not."""
        if class_name(cls) in self.classes:
            return True
        derived = any(b.__name__ in self.names or class_name(b) in self.classes for b in cls.__mro__[1:])
        return cls.__name__ in self.names and not derived

    def known_path(self, cls: type) -> bool:
        return class_name(cls) in self.classes


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
    if not matcher.known_class(cls):
        known = [*matcher.classes, *(f"{matcher.package}'s {name}" for name in matcher.names)]
        raise Refused(f"{class_name(cls)} is a subclass of {known[0]} and may compute something else")
    if compiled_by is not None:
        raise Refused(
            f"inside {compiled_by}, compiled by torch.compile: the graph holds the old forward; replace first"
        )
    own = module.__dict__.get("forward")
    if own is not None and getattr(own, "__func__", None) is not cls.forward:
        raise Refused(
            f"its forward was already rebound, to {getattr(own, '__qualname__', type(own).__name__)}"
        )
    hooks = "" if allow_hooks else hooks_of(module)
    if hooks:
        raise Refused(f"hooked ({hooks}): a hook may change the result; allow_hooks=True if they only look")
    _check_parameters(module)


def hooks_of(module: nn.Module) -> str:
    return ", ".join(f"{len(getattr(module, a))} {name}" for a, name in _HOOKS.items() if getattr(module, a, None))


def untouched(module: nn.Module) -> bool:
    """Whether nothing was hung on a module whose forward a replaced one leaves out; asked at every call."""
    own = module.__dict__.get("forward")
    return (own is None or is_ours(module)) and not any(getattr(module, a, None) for a in _HOOKS)


def require(
    module: nn.Module,
    parameters: dict[str, tuple[int, ...]],
    buffers: dict[str, tuple[int, ...]] | None = None,
    children: dict[str, type | str] | None = None,
    optional: Iterable[str] = (),
) -> None:
    """Refuse a module that has not exactly these parameters, buffers (name: shape) and children (name: class,
    or a class's short name); those in `optional` may be missing."""
    buffers, children, optional = buffers or {}, children or {}, set(optional)
    tensors = {"parameter": (module._parameters, parameters), "buffer": (module._buffers, buffers)}
    for kind, (found, wanted) in tensors.items():
        found = {name: t for name, t in found.items() if t is not None}
        _same_names(kind, set(found), set(wanted), optional)
        for name, shape in wanted.items():
            if name in found and found[name].shape != shape:
                raise Refused(f"{kind} {name} is {tuple(found[name].shape)}, not {tuple(shape)}")
    found = {name: child for name, child in module._modules.items() if child is not None}
    _same_names("child", set(found), set(children), optional)
    for name, child in found.items():
        wanted = children[name]
        fits = type(child).__name__ == wanted if isinstance(wanted, str) else isinstance(child, wanted)
        if not fits:
            raise Refused(f"its {name} is a {type(child).__name__}")


def _same_names(kind: str, found: set[str], wanted: set[str], optional: set[str]) -> None:
    if found - wanted:
        raise Refused(f"it has a {kind} {min(found - wanted)} that the published module has not")
    if wanted - found - optional:
        raise Refused(f"it has no {kind} {min(wanted - found - optional)}, which the published module has")


def has_tensors(module: nn.Module, **dims: int) -> bool:
    """Whether the module has tensors of these names and numbers of dimensions, parametrized or not."""
    found = {name: getattr(module, name, None) for name in dims}
    return all(isinstance(found[name], Tensor) and found[name].dim() == n for name, n in dims.items())


def require_plain(child: nn.Module, name: str) -> None:
    """Refuse a child, whose forward the new one leaves out, on which something was hung."""
    if parametrize.is_parametrized(child):
        raise Refused(f"its {name} is parametrized ({', '.join(child.parametrizations)})")
    if not untouched(child):
        raise Refused(f"its {name} is hooked or rebound ({hooks_of(child) or 'forward'})")
    _check_parameters(child)


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
