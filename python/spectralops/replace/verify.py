"""Proof, before anything is rebound, that the new forward computes what the old one does.

Both run on the same inputs in the module's own dtype; the old one also runs on a float64 copy of the
module, which is taken for the truth. For the output, for the gradient of each input and for the
gradient of each parameter, with e the relative L2 error:

    e_new <= 2 e_old + 2 eps        eps of the quantity's dtype: what rounding once or twice gives an
    exact original.

Gradients of parameters are taken for several cotangents and their errors pooled: the four numbers of a
denominator's gradient, once, may be right by luck.
A float64 module has no wider copy. There the truth is the original itself, whose own error is taken to
be that of its float32 copy scaled by eps64 / eps32, and the bound is 3 e_old + 2 eps. The module's
parameters, gradients, buffers and mode and the random state are left as they were.

Where a float64 copy of the original is not the truth, because its kernels round to float32, the plan brings
its formula in plain PyTorch, which takes the truth's place. Where the original's gradients are not those of
its own values, and the caller wants them mended, outputs are compared with the original's and gradients
with the formula's.

A formula is compared with the original first: what agrees with it in fewer than half of the digits, in outputs, and in gradients
unless these are known to be wrong, computes something else. Complex parameters go to complex128 with the float64 copy, which
`Module.double` does not do; gradients of complex numbers are compared as pairs of real ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .matcher import Plan, Refused, is_ours

# Elements of an input that verification uses, and bytes of the float64 copy that it will make.
_ELEMENTS = 1 << 16
_WIDE_BYTES = 4 << 30
_COTANGENTS = 8


@dataclass
class Evidence:
    """What one verification found: for each quantity, the relative L2 error of the original and of the
    new forward."""

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    failure: str = ""


def trimmed(args: tuple, kwargs: dict, plan: Plan) -> tuple[tuple, dict]:
    def cut(value):
        return plan.trim(value, _ELEMENTS).detach().clone() if isinstance(value, Tensor) else value

    return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}


def random_inputs(module: nn.Module, plan: Plan) -> tuple[tuple, dict]:
    """Inputs in the dtype and on the device of the module's first floating parameter, or as the plan places them, from a
    generator of their own."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0, device="cpu"))
    probe = plan.probe(torch.Generator("cpu").manual_seed(0))
    if plan.place is not None:
        return plan.place(module, probe), {}
    return tuple(t.to(like) for t in probe), {}


def verify(module: nn.Module, plan: Plan, args: tuple, kwargs: dict) -> Evidence:
    wide_bytes = sum((16 if p.is_complex() else 8) * p.numel() for p in module.parameters())
    if wide_bytes > _WIDE_BYTES:
        raise Refused(
            f"a float64 copy to verify against takes {wide_bytes / 2**30:.1f} GiB; verify=False does without"
        )
    devices = {
        t.device for t in [*module.parameters(), *args] if isinstance(t, Tensor) and t.device.type == "cuda"
    }
    with torch.random.fork_rng(devices=list(devices)), torch.inference_mode(False), torch.enable_grad():
        with torch.autocast("cuda" if devices else "cpu", enabled=False):
            return _compare(module, plan, args, kwargs)


def _compare(module: nn.Module, plan: Plan, args: tuple, kwargs: dict) -> Evidence:
    original, formula = type(module).forward, plan.formula or type(module).forward
    same = _copy(module)
    if plan.prepare is not None:
        plan.prepare(same)
    try:
        old = _run(original, same, args, kwargs)
    except (
        Exception
    ) as error:  # upstream's version A, say, with parameters on a GPU and its constants on the CPU
        return Evidence(failure=f"the original itself raised {type(error).__name__}: {error}")
    if plan.wrong_gradients:
        outputs = {name: value for name, value in old.items() if name.startswith("output")}
        old = {**_run(formula, same, args, kwargs), **outputs}
    try:
        new = _run(plan.forward, same, args, kwargs)
    except Exception as error:  # whatever the new forward raises is a reason not to use it
        return Evidence(failure=f"the new forward raised {type(error).__name__}: {error}")
    truth = _run(formula, _wide(_copy(same)), args, kwargs, torch.float64)
    narrow = None
    if any(q is not None and q.dtype == torch.float64 for q in old.values()):
        narrow = _run(formula, _copy(same).float(), args, kwargs, torch.float32)
    if plan.formula is not None:  # to half the digits of the coarsest dtype that takes part
        parts = [t for t in (*args, *kwargs.values(), *same.parameters()) if isinstance(t, Tensor) and t.is_floating_point()]
        coarse = max((torch.finfo(t.dtype).eps for t in parts), default=0.0)
        for name, was in old.items():
            exact = truth.get(name)
            comparable = was is not None and exact is not None and was.shape == exact.shape
            off = relative_l2(was, exact) if comparable else 0.0
            if was is not None and off > max(torch.finfo(was.dtype).eps, coarse) ** 0.5:
                return Evidence(failure=f"{name}: the original is off its formula by {off:.2e}")
    return _judge(old, new, truth, narrow)


def _wide(module: nn.Module) -> nn.Module:
    module = module.double()
    if any(p.is_complex() for p in module.parameters()):
        module._apply(lambda t: t.to(torch.complex128) if t.is_complex() else t)
    return module


def _pairs(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def _copy(module: nn.Module) -> nn.Module:
    """A deep copy with the old forwards. Tensors that a forward left on the module as results, which cannot
    be copied, are copied without their graph."""
    memo: dict[int, object] = {}
    for part in module.modules():
        for value in part.__dict__.values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, Tensor) and not item.is_leaf:
                    memo[id(item)] = item.detach()
    copied = copy.deepcopy(module, memo)
    for part in copied.modules():
        if is_ours(part):
            del part.__dict__["forward"]
    return copied


def _run(
    forward, module: nn.Module, args: tuple, kwargs: dict, dtype: torch.dtype | None = None
) -> dict[str, Tensor | None]:
    """Outputs and gradients by name. The gradients, (cotangents, ...), flow back from the same
    pseudo-random cotangents in every run."""
    leaves: dict[str, Tensor] = {}

    def leaf(name, value):
        if not isinstance(value, Tensor):
            return value
        value = value.detach().clone()
        if value.is_floating_point():
            value = value.to(dtype or value.dtype).requires_grad_()
            leaves[f"gradient of {name}"] = value
        return value

    args = tuple(leaf(f"input {i}" if i else "input", a) for i, a in enumerate(args))
    kwargs = {name: leaf(name, value) for name, value in kwargs.items()}
    parameters = {f"gradient of {n}": p for n, p in module.named_parameters() if p.requires_grad}
    leaves.update(parameters)
    output = forward(module, *args, **kwargs)
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    found: dict[str, Tensor | None] = {
        f"output {i}" if i else "output": None if t is None else _pairs(t.detach()) for i, t in enumerate(outputs)
    }
    flowing = [t for t in outputs if t is not None and t.requires_grad]
    generator = torch.Generator("cpu").manual_seed(1)
    pooled: dict[str, list] = {name: [] for name in leaves}
    for _ in range(0 if not (flowing and leaves) else _COTANGENTS if parameters else 1):
        # eight bits each, so that every dtype holds the same values
        back = [torch.randn(t.shape, generator=generator, device="cpu").bfloat16().to(t) for t in flowing]
        gradients = torch.autograd.grad(
            flowing, list(leaves.values()), back, retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(leaves, gradients):
            pooled[name].append(gradient)
    for name, gradients in pooled.items():
        if gradients:
            found[name] = None if gradients[0] is None else torch.stack([_pairs(g) for g in gradients])
    return found


def relative_l2(value: Tensor, truth: Tensor) -> float:
    value, truth = value.detach().double(), truth.detach().double()
    error, size = (value - truth).norm().item(), truth.norm().item()
    return error / size if size else (float("inf") if error else 0.0)


def _judge(old: dict, new: dict, truth: dict, narrow: dict | None) -> Evidence:
    evidence = Evidence()
    if old.keys() != new.keys():
        evidence.failure = f"the original gives {', '.join(old)}; the new forward gives {', '.join(new)}"
        return evidence
    for name, was in old.items():
        now, exact = new[name], truth[name]
        if (was is None) != (now is None):
            evidence.failure = f"{name}: one of the two forwards gives none"
        elif was is not None and _kind(was) != _kind(now):
            evidence.failure = f"{name}: was {_kind(was)}, would be {_kind(now)}"
        elif was is not None and not torch.isfinite(was).all():
            evidence.failure = f"{name}: the original is not finite on this data, nothing can be concluded"
        elif was is not None:
            _bound(evidence, name, was, now, exact, None if narrow is None else narrow[name])
        if evidence.failure:
            break
    return evidence


def _kind(t: Tensor) -> str:
    return f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} on {t.device}"


def _bound(
    evidence: Evidence, name: str, was: Tensor, now: Tensor, exact: Tensor, narrow: Tensor | None
) -> None:
    eps = torch.finfo(was.dtype).eps
    if was.dtype == torch.float64:
        e_old = relative_l2(narrow, was) * eps / torch.finfo(torch.float32).eps
        e_new, allowed = relative_l2(now, was), 3 * e_old + 2 * eps
    else:
        e_old, e_new = relative_l2(was, exact), relative_l2(now, exact)
        allowed = 2 * e_old + 2 * eps
    evidence.errors[name] = (e_old, e_new)
    if not e_new <= allowed:
        evidence.failure = (
            f"{name}: relative L2 error {e_new:.2e}, the original's {e_old:.2e}, allowed {allowed:.2e}"
        )
