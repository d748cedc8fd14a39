"""What the files of the KAN packages share: which calls the new forwards take, which activations the base branch
of `kan_linear` knows, and the parts of a plan that are the same for all of them.

A new forward runs the old one whenever a call is not one that both answer alike: another dtype or device than
the parameters', arguments the published module does not have, a rank it does not take.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .matcher import Plan, Refused, backend_of, mark, untouched

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MODULES = {nn.SiLU: "silu", nn.ReLU: "relu", nn.Identity: "identity", nn.Tanh: "tanh"}
_FUNCTIONS = {
    F.silu: "silu", F.gelu: "gelu", F.relu: "relu", torch.relu: "relu", F.tanh: "tanh", torch.tanh: "tanh",
}  # fmt: skip


def autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def takes(x: object, weight: Tensor, inputs: int) -> bool:
    """Whether x is (..., I), on the parameters' device and in their dtype, or what autocast brings to it."""
    if not isinstance(x, Tensor) or x.dim() < 1 or x.shape[-1] != inputs or x.device != weight.device:
        return False
    if x.dtype == weight.dtype:
        return x.dtype in _FLOATS
    both = {x.dtype, weight.dtype}
    return autocast(x) and both <= set(_FLOATS) and torch.float64 not in both


def as_linear(y: Tensor) -> Tensor:
    """In the dtype that `F.linear`, with which the published modules end, gives under autocast."""
    if y.dtype == torch.float64 or not autocast(y):
        return y
    return y.to(torch.get_autocast_dtype(y.device.type))


def activation_name(activation: object) -> str | None:
    """`kan_linear`'s name for a base activation; None for one that it does not know."""
    if getattr(activation, "inplace", False):
        raise Refused("its base activation works in place: the splines would see its result")
    if isinstance(activation, nn.Module):
        if not untouched(activation):
            return None
        if type(activation) is nn.GELU:
            return "gelu" if activation.approximate == "none" else None
        return _MODULES.get(type(activation))
    return next((name for function, name in _FUNCTIONS.items() if activation is function), None)


def kan_with_base(x: Tensor, coeff: Tensor, basis, base_weight: Tensor, activation: Callable) -> Tensor:
    """`kan_linear` with the base branch sum_i w_oi sigma(x_i), which PyTorch computes where sigma is any other
    function."""
    from .. import kan_linear

    name = activation_name(activation)
    if name is not None:
        return kan_linear(x, coeff, basis, base_weight=base_weight, base_activation=name)
    return kan_linear(x, coeff, basis) + F.linear(activation(x), base_weight).to(x.dtype)


def splines(grid: Tensor, size: int):
    """Splines on knots (I, T) as they are at this call; their order is T - K - 1."""
    from ..basis import BSpline

    return BSpline(order=grid.shape[-1] - size - 1, knots=grid)


def check_knots(grid: Tensor, size: int, order: int) -> None:
    if grid.requires_grad:
        raise Refused("its grid requires a gradient, which the kernels do not give")
    if grid.shape[-1] != size + order + 1:
        raise Refused(f"{grid.shape[-1]} knots and {size} coefficients are not those of splines of order {order}")
    if not 0 <= order <= 7:
        raise Refused(f"splines of order {order}; kan_linear has orders 0 to 7")


def leading(module: nn.Module, inputs: int, outputs: int) -> str:
    """What the module's own forward makes of leading dimensions: from (2, 3, I) "kept" (2, 3, O) or "flat" (6, O);
    "rows" where it takes (N, I) alone. Copies of one published module differ in this."""
    x = next(module.parameters()).new_zeros(2, 3, inputs)
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            shape = type(module).forward(module, x).shape
        except Exception:  # whatever it raises, it does not take such inputs
            return "rows"
    return {(2, 3, outputs): "kept", (6, outputs): "flat"}.get(tuple(shape), "rows")


def shaped(y: Tensor, lead: str) -> Tensor:
    return y.reshape(-1, y.shape[-1]) if lead == "flat" else y


def rank_taken(x: Tensor, lead: str) -> bool:
    return x.dim() == 2 if lead == "rows" else x.dim() > 1


def normal(inputs: int, lead: str = "rows", spread: float = 1.0) -> Callable[[torch.Generator], tuple[Tensor]]:
    """Random inputs of unit variance times `spread`."""
    shape = (64, inputs) if lead == "rows" else (4, 16, inputs)
    return lambda generator: (torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") * spread,)


def on_grid(grid: Tensor, lead: str = "rows") -> Callable[[torch.Generator], tuple[Tensor]]:
    """Random inputs over each input's knots and a tenth beyond them."""
    low, high = (t.detach().double().cpu() for t in (grid[:, 0], grid[:, -1]))
    shape = (64, len(low)) if lead == "rows" else (4, 16, len(low))

    def probe(generator: torch.Generator) -> tuple[Tensor]:
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        return (low + (high - low) * (1.2 * u - 0.1),)

    return probe


def kan_plan(
    forward: Callable, old: str, new: str, probe: Callable, operands: Callable, *,
    op: str = "kan_linear", inputs: int, cost: int = 0, **more,
) -> Plan:  # fmt: skip
    """A plan for inputs (..., I). `operands()`: the op's arguments after x, for the report. `cost`: elements that the
    old forward makes for each row, where they are many more than I."""

    def trim(x: Tensor, elements: int) -> Tensor:
        return x.reshape(-1, x.shape[-1])[: max(2, elements // max(inputs, cost // 64))] if x.dim() > 1 else x

    def backend(x: Tensor, *_, **__) -> str:
        return backend_of(op, x, *operands()) if isinstance(x, Tensor) and x.shape[-1] == inputs else ""

    return Plan(mark(forward, op), old, new, probe, trim, backend, **more)
