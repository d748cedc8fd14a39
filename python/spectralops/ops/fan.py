"""`fan` and `fourier_features`: torch's matrix products, then one elementwise pass for the cosines, sines and GELU.

With h (N, p) the periodic projections and e (N, q) those of the GELU branch, Phi and phi the normal distribution and density:

    y = [cos h, sin h, gelu(e)]  (N, 2 p + q)        gelu(e) = e Phi(e)
    dh = -g_1 sin h + g_2 cos h                      de = g_3 gelu',  gelu' = Phi(e) + e phi(e)
    double backward, in the direction (v, u) of (h, e):
        dgrad = [-v sin h, v cos h, u gelu']         dh = -v (g_1 cos h + g_2 sin h)
        de = u g_3 gelu'',  gelu'' = (2 - e^2) phi(e)

Fewest bytes, s an element: forward s (3 p + 2 q), backward s (4 p + 3 q), double backward s (7 p + 5 q).
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from .activations_reference import compute_dtype

# ---- the reference ---------------------------------------------------------------------------------------------------


def reference_forward(h: Tensor, e: Tensor) -> Tensor:
    """y (N, 2 p + q); differentiable by autograd to any order."""
    z, w = (t.to(compute_dtype(t)) for t in (h, e))
    return torch.cat([torch.cos(z), torch.sin(z), torch.nn.functional.gelu(w)], dim=-1).to(h.dtype)


def _normal(e: Tensor) -> tuple[Tensor, Tensor]:
    """The standard normal distribution function and density."""
    return torch.special.ndtr(e), torch.exp(-e * e / 2) / math.sqrt(2 * math.pi)


def reference_backward(grad: Tensor, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """dh (N, p), de (N, q)."""
    z, w, g = (t.to(compute_dtype(t)) for t in (h, e, grad))
    p, (cdf, pdf) = z.shape[1], _normal(w)
    dh = g[:, p : 2 * p] * torch.cos(z) - g[:, :p] * torch.sin(z)
    return dh.to(h.dtype), (g[:, 2 * p :] * (cdf + w * pdf)).to(e.dtype)


def reference_double_backward(ggh: Tensor, gge: Tensor, grad: Tensor, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dgrad (N, 2 p + q), dh, de."""
    v, u, g, z, w = (t.to(compute_dtype(t)) for t in (ggh, gge, grad, h, e))
    p, (cdf, pdf) = z.shape[1], _normal(w)
    s, c = torch.sin(z), torch.cos(z)
    dgrad = torch.cat([-v * s, v * c, u * (cdf + w * pdf)], dim=-1)
    dh = -v * (g[:, :p] * c + g[:, p : 2 * p] * s)
    return dgrad.to(h.dtype), dh.to(h.dtype), (u * g[:, 2 * p :] * (2 - w * w) * pdf).to(e.dtype)


# ---- the operators: h (N, p), e (N, q) -------------------------------------------------------------------------------


@implement("fan_forward")
def fan_forward(h: Tensor, e: Tensor, backend: str | None = None) -> Tensor:
    if h.numel() + e.numel() == 0:
        return h.new_empty(h.shape[0], 2 * h.shape[1] + e.shape[1])
    args = (h.contiguous(), e.contiguous())
    return backends.select("fan_forward", backend, *args)(*args)


@implement("fan_backward")
def fan_backward(grad, h, e, backend=None):
    if h.numel() + e.numel() == 0:
        return h.new_empty(h.shape), e.new_empty(e.shape)
    args = tuple(t.contiguous() for t in (grad, h, e))
    return backends.select("fan_backward", backend, *args)(*args)


@implement("fan_double_backward")
def fan_double_backward(ggh, gge, grad, h, e, backend=None):
    if h.numel() + e.numel() == 0:
        return grad.new_empty(grad.shape), h.new_empty(h.shape), e.new_empty(e.shape)
    args = tuple(t.contiguous() for t in (ggh, gge, grad, h, e))
    return backends.select("fan_double_backward", backend, *args)(*args)


def _merge(op):
    """A batch of rows is rows."""

    def rule(info, in_dims, *args):
        batch = info.batch_size
        front = lambda t, d: t.expand(batch, *t.shape) if d is None else t.movedim(d, 0)  # noqa: E731
        rows = [front(t, d) for t, d in zip(args, in_dims) if isinstance(t, Tensor)]
        count = rows[0].shape[1]
        out = op(*(t.reshape(batch * count, t.shape[2]) for t in rows), *args[len(rows) :])
        apart = lambda t: t.reshape(batch, count, t.shape[1])  # noqa: E731
        return (apart(out), 0) if isinstance(out, Tensor) else (tuple(map(apart, out)), (0,) * len(out))

    return rule


register_vmap("fan_forward")(_merge(fan_forward))
register_vmap("fan_backward")(_merge(fan_backward))
register_vmap("fan_double_backward")(_merge(fan_double_backward))


# ---- autograd --------------------------------------------------------------------------------------------------------


class _Fan(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h, e, backend):
        return fan_forward(h, e, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.backend = inputs[2]

    @staticmethod
    def backward(ctx, grad):
        call = _FanBackward.apply if torch.is_grad_enabled() else fan_backward
        return (*call(grad, *ctx.saved_tensors, ctx.backend), None)


class _FanBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, h, e, backend):
        return fan_backward(grad, h, e, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.backend = inputs[3]

    @staticmethod
    def backward(ctx, ggh, gge):
        call = _FanDoubleBackward.apply if torch.is_grad_enabled() else fan_double_backward
        return (*call(ggh, gge, *ctx.saved_tensors, ctx.backend), None)


class _FanDoubleBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ggh, gge, grad, h, e, backend):
        return fan_double_backward(ggh, gge, grad, h, e, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            "the third derivative of fan and fourier_features has no kernel; call them with backend='reference', which autograd "
            "differentiates to any order"
        )


for _f in (_Fan, _FanBackward, _FanDoubleBackward):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public functions --------------------------------------------------------------------------------------------


def _validate(x: Tensor, shapes: dict[str, tuple[Tensor | None, int]]) -> None:
    """`shapes`: name -> (tensor, rank); the last dimension of a matrix must be x's."""
    _check.tensor("x", x)
    if x.dim() == 0:
        raise ValueError("x must have at least one dimension, (..., I); got a scalar")
    for name, (value, rank) in shapes.items():
        if value is None:
            continue
        _check.tensor(name, value)
        _check.coefficients_dtype(name, value, "x", x)
        _check.same_device("x", x, **{name: value})
        if value.dim() != rank:
            raise ValueError(f"{name} must have shape {'(outputs, I)' if rank == 2 else '(outputs,)'}; got {_check.shape(value)}")
        if rank == 2 and value.shape[1] != x.shape[-1]:
            raise ValueError(f"the last dimension of {name}, {value.shape[1]}, must be that of x, {x.shape[-1]}")


def _check_bias(name: str, bias: Tensor | None, weight_name: str, weight: Tensor) -> None:
    if bias is not None and bias.shape[0] != weight.shape[0]:
        raise ValueError(f"{name} has {bias.shape[0]} values, {weight_name} has {weight.shape[0]} rows; they must agree")


def _project(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In x's dtype, whatever autocast says."""
    weight, bias = weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    if rows.is_meta:  # a device that autocast does not know
        return torch.nn.functional.linear(rows, weight, bias)
    with torch.autocast(rows.device.type, enabled=False):
        return torch.nn.functional.linear(rows, weight, bias)


def _features(h: Tensor, e: Tensor, backend: str | None) -> Tensor:
    if backend == "reference" or traced_transform(backend):
        return reference_forward(h, e)
    return _Fan.apply(h, e, backend) if differentiated(h, e) else fan_forward(h, e, backend)


def fan(x: Tensor, weight_p: Tensor, weight_g: Tensor, bias_g: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    r"""A Fourier-analysis layer, :math:`y = [\cos(W_p x),\ \sin(W_p x),\ \mathrm{gelu}(W_g x + b_g)]`, gelu in its erf form.

    Args:
        x: (..., I), float16, bfloat16, float32 or float64; any strides, any leading shape, empty allowed.
        weight_p: (p, I). weight_g: (q, I), bias_g: (q,) or None; p or q may be 0.
        backend: of the elementwise part; None (automatic) or "reference", "cpu", "triton"; there is no CUDA C++ kernel.

    Returns: (..., 2 p + q), contiguous, x's dtype. The products are torch's, in x's dtype (parameters are cast to it) and
        rounded to it; the rest is computed in float32 (float64 for float64) and rounded once. NaN propagates.

    Derivatives: first and second, the elementwise part in one pass each; the third raises (``backend="reference"`` has every
        order). Deterministic as far as torch's matrix products are. Saved for backward: x, the parameters and the projections.
    Autocast: none; x is used in the dtype it has. torch.func inside torch.compile runs the reference.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, float64 parameters with narrower x.
        ValueError: shapes that do not fit, mixed devices.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: Y. Dong et al., FAN: Fourier Analysis Networks, 2024.
    """
    _validate(x, {"weight_p": (weight_p, 2), "weight_g": (weight_g, 2), "bias_g": (bias_g, 1)})
    _check_bias("bias_g", bias_g, "weight_g", weight_g)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y = _features(_project(rows, weight_p, None), _project(rows, weight_g, bias_g), backend)
    return y.reshape(*x.shape[:-1], y.shape[1])


def fourier_features(x: Tensor, weight: Tensor, phase: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    r"""Fourier features, :math:`y = [\cos(W x + \phi),\ \sin(W x + \phi)]`.

    x (..., I), weight (F, I), phase (F,) or None -> (..., 2 F), not normalised. Everything else as :func:`fan`; a gradient
    goes to weight and phase too, so features may be random and fixed or learnt.

    Source: A. Rahimi, B. Recht, Random Features for Large-Scale Kernel Machines, NeurIPS 2007; M. Tancik et al., Fourier
        Features Let Networks Learn High Frequency Functions in Low Dimensional Domains, NeurIPS 2020.
    """
    _validate(x, {"weight": (weight, 2), "phase": (phase, 1)})
    _check_bias("phase", phase, "weight", weight)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    h = _project(rows, weight, phase)
    y = _features(h, h.new_empty(h.shape[0], 0), backend)
    return y.reshape(*x.shape[:-1], y.shape[1])
