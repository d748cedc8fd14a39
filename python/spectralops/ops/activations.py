"""Learnable activations, elementwise, with parameters shared or one a channel: snake, sine, spder, cauchy, poly_relu,
square_wave, wire.

One family y = f(x; p) of three passes; the formulas, their gradients and second derivatives are in
`activations_reference.py`. Fewest bytes, at s bytes an element: forward 2 s (x, y), backward 3 s (grad, x, dx), double
backward 5 s (ggx, grad, x, dgrad, dx); with some 10 to 100 operations an element every pass is bound by memory.
"""

from __future__ import annotations

import inspect
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from . import activations_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform

# ---- from torch's shapes to (outer, C, inner) ------------------------------------------------------------------------


def _cut(t: Tensor, x: Tensor, params: Tensor, function: int, dim: int) -> Tensor:
    """t, of x's or y's shape, as (outer, C, inner), and a trailing 2 where it has one; C = 1 for shared parameters."""
    shape = x.shape[:-1] if function == spec.WIRE_COMPLEX else x.shape
    channels = params.shape[1]
    outer, inner = (1, math.prod(shape)) if channels == 1 else (math.prod(shape[:dim]), math.prod(shape[dim + 1 :]))
    pair = (2,) if t.dim() > len(shape) else ()
    return t.reshape(outer, channels, inner, *pair).contiguous()


def _output_shape(x: Tensor, function: int) -> tuple[int, ...]:
    return (*x.shape, 2) if function == spec.WIRE else tuple(x.shape)


@implement("activation_forward")
def activation_forward(x: Tensor, params: Tensor, function: int, dim: int, backend: str | None = None) -> Tensor:
    shape = _output_shape(x, function)
    if x.numel() == 0:
        return x.new_empty(shape)
    args = (_cut(x, x, params, function, dim), params.contiguous(), function)
    return backends.select("activation_forward", backend, *args)(*args).view(shape)


@implement("activation_backward")
def activation_backward(grad, x, params, function, dim, need_params, backend=None):
    if x.numel() == 0:
        return x.new_empty(x.shape), params.new_zeros(params.shape if need_params else (0,))
    data = (_cut(t, x, params, function, dim) for t in (grad, x))
    args = (*data, params.contiguous(), function, need_params)
    dx, dparams = backends.select("activation_backward", backend, *args)(*args)
    return dx.view(x.shape), dparams if need_params else params.new_empty(0)


@implement("activation_double_backward")
def activation_double_backward(ggx, ggparams, grad, x, params, function, dim, need_params, backend=None):
    if x.numel() == 0:
        return grad.new_empty(grad.shape), x.new_empty(x.shape), params.new_zeros(params.shape if need_params else (0,))
    v, g, z = (_cut(t, x, params, function, dim) for t in (ggx, grad, x))
    args = (v, None if ggparams is None else ggparams.contiguous(), g, z, params.contiguous(), function, need_params)
    dgrad, dx, dparams = backends.select("activation_double_backward", backend, *args)(*args)
    return dgrad.view(grad.shape), dx.view(x.shape), dparams if need_params else params.new_empty(0)


# ---- vmap: a batch of problems is one problem whose channels are (batch, channel) ------------------------------------


class _Fold(NamedTuple):
    """Puts a batch in front of the channels, and takes results apart again."""

    batch: int
    channels: int
    dim: int

    def data(self, t: Tensor, d: int | None) -> Tensor:
        t = t.unsqueeze(0).expand(self.batch, *t.shape) if d is None else t.movedim(d, 0)
        return t if self.channels == 1 else t.movedim(0, self.dim).flatten(self.dim, self.dim + 1)

    def table(self, t: Tensor | None, d: int | None) -> Tensor | None:
        if t is None:
            return None
        t = t.unsqueeze(1).expand(-1, self.batch, -1) if d is None else t.movedim(d, 1)  # (P, B, C)
        return t.flatten(1)

    @property
    def folded_dim(self) -> int:
        return 0 if self.channels == 1 else self.dim

    def undo(self, t: Tensor) -> Tensor:
        return t if self.channels == 1 else t.unflatten(self.dim, (self.batch, self.channels)).movedim(self.dim, 0)

    def undo_table(self, t: Tensor) -> Tensor:
        return t.new_empty(self.batch, 0) if t.dim() == 1 else t.unflatten(1, (self.batch, self.channels)).movedim(1, 0)


def _fold(info, params: Tensor, params_dim: int | None, dim: int) -> _Fold:
    shape = list(params.shape)
    if params_dim is not None:
        del shape[params_dim]
    return _Fold(info.batch_size, shape[1], dim)


@register_vmap("activation_forward")
def _(info, in_dims, x, params, function, dim, backend=None):
    if in_dims[1] is None:
        return activation_forward(x.movedim(in_dims[0], 0), params, function, dim + 1, backend), 0
    fold = _fold(info, params, in_dims[1], dim)
    tensors = fold.data(x, in_dims[0]), fold.table(params, in_dims[1])
    return fold.undo(activation_forward(*tensors, function, fold.folded_dim, backend)), 0


@register_vmap("activation_backward")
def _(info, in_dims, grad, x, params, function, dim, need_params, backend=None):
    fold = _fold(info, params, in_dims[2], dim)
    tensors = fold.data(grad, in_dims[0]), fold.data(x, in_dims[1]), fold.table(params, in_dims[2])
    dx, dparams = activation_backward(*tensors, function, fold.folded_dim, need_params, backend)
    return (fold.undo(dx), fold.undo_table(dparams)), (0, 0)


@register_vmap("activation_double_backward")
def _(info, in_dims, ggx, ggparams, grad, x, params, function, dim, need_params, backend=None):
    fold = _fold(info, params, in_dims[4], dim)
    make = (fold.data, fold.table, fold.data, fold.data, fold.table)
    tensors = [f(t, d) for f, t, d in zip(make, (ggx, ggparams, grad, x, params), in_dims)]
    dgrad, dx, dparams = activation_double_backward(*tensors, function, fold.folded_dim, need_params, backend)
    return (fold.undo(dgrad), fold.undo(dx), fold.undo_table(dparams)), (0, 0, 0)


# ---- autograd --------------------------------------------------------------------------------------------------------


class _Activation(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, params, function, dim, backend):
        return activation_forward(x, params, function, dim, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.rest = inputs[2:]

    @staticmethod
    def backward(ctx, grad):
        function, dim, backend = ctx.rest
        need = ctx.needs_input_grad[1]
        call = _ActivationBackward.apply if torch.is_grad_enabled() else activation_backward
        function = spec.SINE if function == spec.SQUARE_WAVE else function
        dx, dparams = call(grad, *ctx.saved_tensors, function, dim, need, backend)
        return dx, dparams if need else None, None, None, None


class _ActivationBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, params, function, dim, need_params, backend):
        return activation_backward(grad, x, params, function, dim, need_params, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.rest = inputs[3:]

    @staticmethod
    def backward(ctx, ggx, ggparams):
        function, dim, had_params, backend = ctx.rest
        need = ctx.needs_input_grad[2]
        call = _ActivationDoubleBackward.apply if torch.is_grad_enabled() else activation_double_backward
        ggparams = ggparams if had_params else None
        dgrad, dx, dparams = call(ggx, ggparams, *ctx.saved_tensors, function, dim, need, backend)
        return dgrad, dx, dparams if need else None, None, None, None, None


class _ActivationDoubleBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ggx, ggparams, grad, x, params, function, dim, need_params, backend):
        return activation_double_backward(ggx, ggparams, grad, x, params, function, dim, need_params, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            "the third derivative of an activation has no kernel; call it with backend='reference', which autograd "
            "differentiates to any order"
        )


for _f in (_Activation, _ActivationBackward, _ActivationDoubleBackward):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- what the public functions share ---------------------------------------------------------------------------------

Parameter = Tensor | float  # a number, a tensor of one element, or one value a channel, (C,)


def _check_parameter(name: str, value: object, x: Tensor) -> int:
    """The channels it has values for."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 1
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__name__}")
    _check.tensor(name, value)
    _check.coefficients_dtype(name, value, "x", x)
    _check.same_device("x", x, **{name: value})
    if value.dim() > 1 or value.numel() == 0:
        raise ValueError(f"{name} must be a number or have shape () or (channels,); got {_check.shape(value)}")
    return value.numel()


def _table(x: Tensor, parameters: dict[str, Parameter], dim: int, rank: int) -> tuple[Tensor, int]:
    """(P, C) or shared (P, 1) in the compute dtype, and the dimension of the channels counted from the front."""
    dtype = spec.compute_dtype(x)
    counts = {name: _check_parameter(name, value, x) for name, value in parameters.items()}
    dim = _check.dimension("dim", dim, rank) if rank else 0
    channels = max([1, *counts.values()])
    for name, count in counts.items():
        if count > 1 and (rank == 0 or count != x.shape[dim]):
            size = f"size {x.shape[dim]} in dimension {dim}" if rank else "no dimension"
            got = f"got x of shape {_check.shape(x)}"
            raise ValueError(f"{name} has {count} values, one a channel, but x has {size}; {got}")
    row = lambda p: p.to(dtype).reshape(1, -1) if isinstance(p, Tensor) else x.new_full((1, 1), p, dtype=dtype)  # noqa: E731
    rows = [row(p) for p in parameters.values()]
    if len(rows) == 1:
        return rows[0], dim
    return torch.cat([r.expand(1, channels) for r in rows]) if rows else x.new_empty(0, 1, dtype=dtype), dim


def _run(x: Tensor, params: Tensor, function: int, dim: int, backend: str | None) -> Tensor:
    if backend == "reference" or traced_transform(backend):
        shape = _output_shape(x, function)
        if x.numel() == 0:
            return x.new_empty(shape)
        return spec.forward(_cut(x, x, params, function, dim), params, function).reshape(shape)
    if differentiated(x, params):
        return _Activation.apply(x, params, function, dim, backend)
    return activation_forward(x, params, function, dim, backend)


def _elementwise(x: Tensor, parameters: dict[str, Parameter], function: int, dim: int, backend: str | None) -> Tensor:
    _check.tensor("x", x)
    params, dim = _table(x, parameters, dim, x.dim())
    return _run(x, params, function, dim, backend)


# ---- the public functions --------------------------------------------------------------------------------------------


def snake(x: Tensor, alpha: Parameter, *, dim: int = -1, backend: str | None = None) -> Tensor:
    r"""Snake, :math:`y = x + \sin^2(\alpha x) / \alpha`, elementwise; :math:`\alpha = 0` gives its limit, x.

    Args:
        x: any shape, float16, bfloat16, float32 or float64; any strides, empty allowed.
        alpha: a number, a tensor of one element, or (C,), one value for each index of dimension `dim`.
        dim: the dimension of the channels, where a parameter has one value for each (BigVGAN's layout is dim=1).
        backend: None (automatic) or "reference", "cpu", "triton"; there is no CUDA C++ kernel.

    Returns: x's shape and dtype, contiguous; computed in float32 (float64 for float64) and rounded once. NaN gives NaN, and so
        does infinity.

    Derivatives: first and second in x and in the parameters by closed forms, in one pass each, without a division by alpha;
        the third raises (``backend="reference"`` has every order). Deterministic: no atomics, parameter gradients are
        summed in an order given by the shape, in float32 or wider, and come back in the parameter's dtype. A number has no
        gradient, and its sums are not made. Saved for backward: x and the parameters, nothing else.
    Autocast: none; x is used in the dtype it has. torch.func inside torch.compile runs the reference.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, a float64 parameter with narrower x.
        ValueError: a parameter that is not one value or one a channel, `dim` out of range, mixed devices.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: L. Ziyin, T. Hartwig, M. Ueda, Neural Networks Fail to Learn Periodic Functions and How to Fix It, NeurIPS 2020.
    """
    return _elementwise(x, {"alpha": alpha}, spec.SNAKE, dim, backend)


def sine(x: Tensor, omega: Parameter = 30.0, *, dim: int = -1, backend: str | None = None) -> Tensor:
    r""":math:`y = \sin(\omega x)`, elementwise, SIREN's activation.

    omega is a number or a tensor as alpha of :func:`snake`, which says the rest: shapes, dtypes, errors, derivatives, what is
    saved, autocast. The product omega x is rounded before its sine is taken, so the error grows with its size.

    Source: V. Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions, NeurIPS 2020.
    """
    return _elementwise(x, {"omega": omega}, spec.SINE, dim, backend)


def square_wave(x: Tensor, omega: Parameter = 1.0, *, dim: int = -1, backend: str | None = None) -> Tensor:
    r""":math:`y = \mathrm{sgn} \sin(\omega x)`, BiPer's square wave: 1, -1, and 0 where the sine is exactly 0.

    Its derivatives are those of :math:`\sin(\omega x)`, the first and the second, in x and in omega (the true ones are zero
    almost everywhere and teach nothing). omega is a number or a tensor as alpha of :func:`snake`, which says the rest.

    Source: E. Vargas et al., BiPer: Binary Neural Networks using a Periodic Function, CVPR 2024.
    """
    return _elementwise(x, {"omega": omega}, spec.SQUARE_WAVE, dim, backend)


def spder(x: Tensor, *, backend: str | None = None) -> Tensor:
    r""":math:`y = \sin(x) \sqrt{|x|}`, elementwise.

    The derivative at 0 is 0, its limit. The second derivative grows as :math:`|x|^{-1/2}` near 0 and is 0 at 0 by definition,
    so that no gradient is ever NaN. Otherwise as :func:`snake`, which says the rest; there are no parameters.

    Source: K. Shah, C. Sitawarin, SPDER: Semiperiodic Damping-Enabled Object Representation, ICLR 2024.
    """
    return _elementwise(x, {}, spec.SPDER, -1, backend)


def cauchy(x: Tensor, l1: Parameter, l2: Parameter, d: Parameter, *, dim: int = -1, backend: str | None = None) -> Tensor:
    r"""The Cauchy activation :math:`y = (\lambda_1 x + \lambda_2) / (x^2 + d^2)`, elementwise.

    l1, l2, d are numbers or tensors as alpha of :func:`snake`, which says the rest; some may be shared and others one a
    channel. Where x^2 overflows float32 (|x| > 1.8e19) y is 0.

    Source: X. Li, Z. Xia, H. Zhang, Cauchy activation function and XNet, 2024.
    """
    return _elementwise(x, {"l1": l1, "l2": l2, "d": d}, spec.CAUCHY, dim, backend)


def poly_relu(x: Tensor, a: Tensor, *, backend: str | None = None) -> Tensor:
    r"""PolyReLU, :math:`y = \sum_{i=0}^{r} a_i \max(x, 0)^i`, elementwise.

    a is (r + 1,), lowest power first, any degree r. The derivative of max(x, 0) at 0 is 0, as in torch. Otherwise as
    :func:`snake`, which says the rest.

    Source: Z. Zhuo et al., Polynomial Composition Activations, ICLR 2025.
    """
    _check.tensor("x", x)
    _check.tensor("a", a)
    _check.coefficients_dtype("a", a, "x", x)
    _check.same_device("x", x, a=a)
    if a.dim() != 1 or a.numel() == 0:
        raise ValueError(f"a must have shape (degree + 1,) with at least one coefficient; got {_check.shape(a)}")
    return _run(x, a.to(spec.compute_dtype(x)).unsqueeze(1), spec.POLY_RELU, 0, backend)


def wire(
    x: Tensor,
    omega: Parameter = 10.0,
    s: Parameter = 10.0,
    *,
    complex_input: bool = False,
    dim: int = -1,
    backend: str | None = None,
) -> Tensor:
    r"""WIRE's complex Gabor wavelet, :math:`y = e^{i \omega x} e^{-|s x|^2}`.

    x is real, or with `complex_input` complex as a real tensor (..., 2), real part first; a complex tensor is viewed so. The
    result is real, (..., 2), real part first, whatever x was. `dim` counts the dimensions without the trailing 2. omega and s are
    numbers or tensors as alpha of :func:`snake`, which says the rest; gradients are those of the real and imaginary parts as
    real variables, as torch has them.

    Source: V. Saragadam et al., WIRE: Wavelet Implicit Neural Representations, CVPR 2023.
    """
    if isinstance(x, Tensor) and x.is_complex():
        x, complex_input = torch.view_as_real(x), True
    _check.tensor("x", x)
    if complex_input and (x.dim() == 0 or x.shape[-1] != 2):
        raise ValueError(f"x must have a trailing dimension of 2 where complex_input is True; got {_check.shape(x)}")
    params, dim = _table(x, {"omega": omega, "s": s}, dim, x.dim() - complex_input)
    return _run(x, params, spec.WIRE_COMPLEX if complex_input else spec.WIRE, dim, backend)
