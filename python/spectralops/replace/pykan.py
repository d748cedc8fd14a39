"""pykan: `MultKAN`, which is its `KAN`, and `KANLayer`.

    y_o = sum_i mask_io (scale_base_io sigma(x_i) + scale_sp_io sum_k coef_iok B_k(x_i))

with B-splines on grid (I, G + 2p + 1). A KANLayer returns y and three (N, O, I) tensors: inputs, edge functions and
their spline parts, on every edge. They are most of its work.

MultKAN uses them where `save_act` is on, for plots, pruning and regularisation. Its `fit` turns that off while lamb = 0,
`speed()` for good. The new forward runs the old one where it is on. Where it is off the old one runs too, on a view of
the model whose layers give y alone, by `kan_linear`, and whose symbolic layers are asked only if their mask is not
all zero, so that whatever upstream does between the layers stays upstream's.

A KANLayer that no MultKAN holds has no such switch: y comes from `kan_linear`, and the others are real tensors as before,
computed without a graph; only a backward that reaches them computes them again (torch.utils.checkpoint).

Upstream turns NaN into 0 in the basis, which hides repeated knots; ours gives the splines of repeated knots. Grids that
its `update_grid` makes repeat knots only where an input is constant; both give 0 there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .kan_common import activation_name, check_knots, kan_plan, kan_with_base, on_grid, splines, takes
from .matcher import Matcher, Plan, Refused, backend_of, has_tensors, require, require_plain, untouched


def _check_layer(module: nn.Module) -> tuple[int, int, int]:
    """(I, O, K) of a KANLayer."""
    coef, grid = module._parameters.get("coef"), module._parameters.get("grid")
    if coef is None or grid is None or coef.dim() != 3 or grid.dim() != 2 or not callable(getattr(module, "base_fun", None)):
        raise Refused("it has not the coef (I, O, K), grid (I, T) and base_fun of the published module")
    inputs, outputs, size = coef.shape
    edges = {name: (inputs, outputs) for name in ("mask", "scale_base", "scale_sp")}
    shapes = {"coef": coef.shape, "grid": (inputs, grid.shape[1]), **edges}
    require(module, shapes, {}, {"base_fun": nn.Module}, ["base_fun"])
    check_knots(grid, size, getattr(module, "k", -1))
    activation_name(module.base_fun)
    return inputs, outputs, size


def _coefficients(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """(O, I, K) and (O, I)."""
    coeff = layer.coef * (layer.mask * layer.scale_sp).unsqueeze(-1)
    return coeff.transpose(0, 1), (layer.mask * layer.scale_base).T


def _output(layer: nn.Module, x: Tensor) -> Tensor:
    """y alone, (N, O)."""
    x = x.to(layer.coef.dtype)  # under autocast the sums are of the parameters' dtype
    coeff, base = _coefficients(layer)
    return kan_with_base(x, coeff, splines(layer.grid, coeff.shape[2]), base, layer.base_fun)


# ---- KANLayer ----------------------------------------------------------------------------------------------------


def _layer_forward(original):
    def forward(self, x: Tensor, *args, **kwargs):
        fits = not args and not kwargs and takes(x, self.coef, len(self.coef)) and x.dim() == 2
        trains = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.parameters()))
        if not fits or not trains or torch._C._are_functorch_transforms_active():  # which have no checkpoints
            return original(self, x, *args, **kwargs)
        _, *edges = checkpoint(original, self, x, use_reentrant=False, preserve_rng_state=False)
        return _output(self, x), *edges

    return forward


class PykanLayer(Matcher):
    package = "pykan"
    op = "kan_linear"
    classes = ("kan.KANLayer.KANLayer",)
    names = ("KANLayer",)

    def resembles(self, module: nn.Module) -> bool:
        return has_tensors(module, coef=3, grid=2, mask=2, scale_base=2, scale_sp=2)

    def plan(self, module: nn.Module) -> Plan:
        inputs, outputs, size = _check_layer(module)
        return kan_plan(
            _layer_forward(type(module).forward),
            old=f"KANLayer({inputs}, {outputs}), order {module.k}, {size} splines",
            new="kan_linear(BSpline), the three (N, O, I) outputs without a graph",
            probe=on_grid(module.grid),
            operands=lambda: (_coefficients(module)[0].detach(), splines(module.grid, size)),
            inputs=inputs,
            cost=inputs * outputs,
            note="gains in training alone: the three (N, O, I) tensors it returns are computed as before",
        )


_LAYER = PykanLayer()


# ---- MultKAN -----------------------------------------------------------------------------------------------------


class _View:
    """A model as its forward sees it: the attributes are the model's, read and written, but for the layers."""

    def __init__(self, model: nn.Module):
        layers = [_numerical(layer) for layer in model.act_fun]
        symbolic = [_symbolic(layer) for layer in model.symbolic_fun]
        self.__dict__.update(_model=model, act_fun=layers, symbolic_fun=symbolic)

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._model, name, value)


def _numerical(layer: nn.Module):
    def call(x: Tensor):
        coef = layer.coef
        if not _LAYER.known_class(type(layer)) or not untouched(layer) or not takes(x, coef, len(coef)):
            return layer(x)
        return _output(layer, x), None, None, None

    return call


def _symbolic(layer: nn.Module):
    def call(x: Tensor, **options):
        if not untouched(layer) or layer.mask.any():
            return layer(x, **options)
        # zero, as upstream has it, and so is the gradient of affine
        return 0.0 * layer.affine.sum() if layer.affine.requires_grad else 0.0, None

    return call


def _model_forward(original):
    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return original(self if self.save_act else _View(self), x, *args, **kwargs)

    return forward


class Pykan(Matcher):
    package = "pykan"
    op = "kan_linear"
    classes = ("kan.MultKAN.MultKAN",)
    names = ("MultKAN",)

    def resembles(self, module: nn.Module) -> bool:
        lists = [getattr(module, name, None) for name in ("act_fun", "symbolic_fun")]
        return all(isinstance(found, nn.ModuleList) for found in lists) and hasattr(module, "save_act")

    def covers(self, module: nn.Module) -> list[nn.Module]:
        return list(getattr(module, "act_fun", ()))

    def plan(self, module: nn.Module) -> Plan:
        if not self.resembles(module) or not len(module.act_fun) or len(module.act_fun) != len(module.symbolic_fun):
            raise Refused("it has not the act_fun, symbolic_fun and save_act of the published module")
        for i, layer in enumerate(module.act_fun):
            if not _LAYER.known_class(type(layer)):
                raise Refused(f"its act_fun.{i} is a {type(layer).__name__}, not a KANLayer")
            require_plain(layer, f"act_fun.{i}")
            _check_layer(layer)
        first = module.act_fun[0]
        columns = int(module.input_id.max()) + 1
        around = on_grid(first.grid)

        def probe(generator: torch.Generator) -> tuple[Tensor]:
            (x,) = around(generator)
            wide = torch.zeros(len(x), columns, dtype=x.dtype)
            wide[:, module.input_id.long().cpu()] = x
            return (wide,)

        def backend(x: Tensor, *_, **__) -> str:
            coeff = _coefficients(first)[0].detach()
            return backend_of("kan_linear", x[:, module.input_id.long()], coeff, splines(first.grid, coeff.shape[2]))

        sizes = [len(module.act_fun[0].coef), *(layer.coef.shape[1] for layer in module.act_fun)]
        plan = kan_plan(
            _model_forward(type(module).forward),
            old=f"MultKAN {sizes}, order {first.k}, {first.coef.shape[2]} splines",
            new="kan_linear(BSpline) where save_act is off",
            probe=probe,
            operands=tuple,
            inputs=columns,
            cost=max(a * b for a, b in zip(sizes, sizes[1:])),
            prepare=_without_activations,
            note="the old forward runs while save_act is on: plots, pruning and regularisation read its (N, O, I) activations; "
            "fit(lamb=0) and speed() turn it off",
        )  # fmt: skip
        return replace(plan, backend=backend)


def _without_activations(model: nn.Module) -> None:
    model.save_act = False
