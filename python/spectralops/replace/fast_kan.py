"""fast-kan: `FastKANLayer`, Gaussians of the normalised input plus a linear layer of SiLU(x).

    y = spline_linear(exp(-((LayerNorm(x) - g) / h)^2)) + base_linear(sigma(x))

g = rbf.grid (K,), h = rbf.denominator, spline_linear.weight (O, I K) without bias, the centres of an input side by
side. `layernorm` and `base_linear` are called as the modules they are; `rbf` and `spline_linear` are not called any
more, and a layer on which somebody hangs something there runs its old forward.
"""

from __future__ import annotations

from torch import Tensor, nn

from .kan_common import as_linear, kan_plan, leading, normal, rank_taken, shaped, takes
from .matcher import Matcher, Plan, Refused, has_tensors, require, require_plain, untouched

_LINEARS = ("SplineLinear", "SplineLinear_FASTERKAN")


def check_parts(module: nn.Module, rbf: str) -> tuple[int, int, int]:
    """(O, I, K) of a layer with an `rbf` of this class and a `spline_linear`, refused where one does anything more."""
    basis, linear = module._modules.get("rbf"), module._modules.get("spline_linear")
    if type(basis).__name__ != rbf or type(linear).__name__ not in _LINEARS:
        raise Refused(f"its rbf and spline_linear are a {type(basis).__name__} and a {type(linear).__name__}")
    if not isinstance(linear, nn.Linear) or type(linear).forward is not nn.Linear.forward or linear.bias is not None:
        raise Refused("its spline_linear is no linear layer without bias")
    require_plain(basis, "rbf")
    require_plain(linear, "spline_linear")
    grid = basis._parameters.get("grid", basis._buffers.get("grid"))
    if grid is None or grid.dim() != 1 or linear.weight.shape[1] % len(grid):
        raise Refused("the grid of its rbf does not fit the weight of its spline_linear")
    if grid.requires_grad:
        raise Refused("the grid of its rbf requires a gradient, which the kernels do not give")
    return linear.weight.shape[0], linear.weight.shape[1] // len(grid), len(grid)


def coefficients(module: nn.Module) -> Tensor:
    """(O, I, K)."""
    weight = module.spline_linear.weight
    return weight.view(weight.shape[0], -1, len(module.rbf.grid))


def _basis(module: nn.Module):
    from ..basis import RBF

    return RBF(centres=module.rbf.grid, width=module.rbf.denominator)


def _forward(lead: str, original):
    from .. import kan_linear

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        coeff, plain = coefficients(self), untouched(self.rbf) and untouched(self.spline_linear)
        if args or kwargs or not plain or not takes(x, coeff, coeff.shape[1]) or not rank_taken(x, lead):
            return original(self, x, *args, **kwargs)
        z = x if self.layernorm is None else self.layernorm(x)
        y = as_linear(kan_linear(z, coeff, _basis(self)))
        if self.use_base_update:
            y = y + self.base_linear(self.base_activation(x))
        return shaped(y, lead)

    return forward


class FastKAN(Matcher):
    package = "fast-kan"
    op = "kan_linear"
    classes = ("fastkan.fastkan.FastKANLayer",)
    names = ("FastKANLayer",)

    def resembles(self, module: nn.Module) -> bool:
        rbf, linear = getattr(module, "rbf", None), getattr(module, "spline_linear", None)
        return has_tensors(rbf, grid=1) and has_tensors(linear, weight=2)

    def plan(self, module: nn.Module) -> Plan:
        outputs, inputs, size = check_parts(module, "RadialBasisFunction")
        children = {"layernorm": nn.LayerNorm, "rbf": nn.Module, "spline_linear": nn.Linear}
        if getattr(module, "use_base_update", None) not in (True, False) or not hasattr(module, "layernorm"):
            raise Refused("it has not the layernorm and the use_base_update of the published module")
        if module.use_base_update:
            children |= {"base_linear": nn.Linear, "base_activation": nn.Module}
        require(module, {}, {}, children, ["layernorm", "base_activation"])
        width = getattr(module.rbf, "denominator", None)
        if not isinstance(width, (int, float)) or not 0 < width < float("inf"):
            raise Refused(f"the denominator of its rbf is {width!r}, not a positive number")
        lead = leading(module, inputs, outputs)
        return kan_plan(
            _forward(lead, type(module).forward),
            old=f"FastKANLayer({inputs}, {outputs}), {size} Gaussians",
            new="kan_linear(RBF)",
            probe=normal(inputs, lead),
            operands=lambda: (coefficients(module).detach(), _basis(module)),
            inputs=inputs,
        )
