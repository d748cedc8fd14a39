"""`poly_norm`: y = sum_{i=1..r} w_i norm(x^i) + b over the last dimension, which no power overflows.

With n the row's length, E the mean over it and norm(u) = u rsqrt(E u^2 + eps): a row is scaled by
s = 2^floor(log2 max(1, max |x|)), a power of two, so that z = x / s is exact and below 2, and

    norm(x^i) = n_i = z^i rho_i,   rho_i = rsqrt(E z^(2i) + eps s^(-2i))

is the same number, whatever s is; so s counts as a constant in every derivative. For a direction v of x, with
ud_i = i z^(i-1) v / s the change of u_i = z^i,

    n_id = rho_i (ud_i - n_i E(n_i ud_i))
    backward          dx = (1 / s) sum_i w_i rho_i i z^(i-1) (g - n_i E(g n_i)),   dw_i = sum g n_i,   db = sum g
    double backward   dgrad = sum_i (w_i n_id + wd_i n_i) + bd,   dw_i = sum g n_id,   db = 0, dx the derivative of <g, dgrad>:
                      with A = E(g ud_i), B = E(g n_i), C = E(n_i ud_i), n = n_i, rho = rho_i
                      dx = (1 / s) sum_i i z^(i-1) rho (wd_i (g - n B) - w_i (rho C g + rho B ud_i + rho (A - 3 B C) n))
                           + (1 / s^2) sum_i i (i-1) z^(i-2) v w_i rho (g - n B)

Fewest bytes, s an element: forward 2 s, backward 3 s, double backward 5 s; a row is read twice, the second time from cache.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from .activations_reference import compute_dtype

# ---- the reference ---------------------------------------------------------------------------------------------------


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """z (rows, n) and s (rows, 1); a row with NaN or infinity becomes NaN."""
    z = x.to(compute_dtype(x))
    largest = z.detach().abs().amax(-1, keepdim=True).clamp(min=1)
    _, exponent = torch.frexp(largest)  # largest = f 2^exponent, f in [1/2, 1)
    s = torch.where(largest.isfinite(), torch.ldexp(torch.ones_like(largest), exponent - 1), torch.nan)
    return z / s, s


def _rho(power: Tensor, s: Tensor, i: int, eps: float) -> Tensor:
    return torch.rsqrt((power * power).mean(-1, keepdim=True) + eps * s ** (-2 * i))


def reference_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x (rows, n), weight (r,), bias (1,) -> y; differentiable by autograd to any order."""
    z, s = _scaled(x)
    power, y = torch.ones_like(z), torch.zeros_like(z) + bias
    for i in range(1, weight.shape[0] + 1):
        power = power * z
        y = y + weight[i - 1] * (power * _rho(power, s, i, eps))
    return y.to(x.dtype)


def reference_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float):
    """dx (rows, n), dweight (r,), dbias (1,)."""
    z, s = _scaled(x)
    g = grad.to(z.dtype)
    lower, dx, dweight = torch.ones_like(z), torch.zeros_like(z), []
    for i in range(1, weight.shape[0] + 1):
        power = lower * z
        rho = _rho(power, s, i, eps)
        normed = power * rho
        mean = (g * normed).mean(-1, keepdim=True)
        dx = dx + weight[i - 1] * rho * i * lower * (g - normed * mean)
        dweight.append(mean.sum() * z.shape[-1])
        lower = power
    return (dx / s).to(x.dtype), torch.stack(dweight), g.sum().reshape(1)


def reference_double_backward(ggx: Tensor, ggweight: Tensor, ggbias: Tensor, grad: Tensor, x: Tensor, weight: Tensor, eps: float):
    """dgrad, dx (rows, n), dweight (r,): the gradient of <ggx, dx> + <ggweight, dweight> + <ggbias, dbias>."""
    z, s = _scaled(x)
    g, v = grad.to(z.dtype), ggx.to(z.dtype) / s
    lowest, lower = torch.zeros_like(z), torch.ones_like(z)  # z^(i-2), z^(i-1)
    dgrad, dx, dweight = torch.zeros_like(z) + ggbias, torch.zeros_like(z), []
    for i in range(1, weight.shape[0] + 1):
        w, wd = weight[i - 1], ggweight[i - 1]
        power = lower * z
        rho = _rho(power, s, i, eps)
        n, ud = power * rho, i * lower * v
        a, b, c = ((p * q).mean(-1, keepdim=True) for p, q in ((g, ud), (g, n), (n, ud)))
        moved = rho * (ud - n * c)
        dgrad = dgrad + w * moved + wd * n
        dweight.append((g * moved).sum())
        centred = g - n * b
        inner = wd * centred - w * rho * (c * g + b * ud + (a - 3 * b * c) * n)
        dx = dx + rho * (i * lower * inner + i * (i - 1) * lowest * v * w * centred)
        lowest, lower = lower, power
    return dgrad.to(x.dtype), (dx / s).to(x.dtype), torch.stack(dweight)


# ---- the operators ---------------------------------------------------------------------------------------------------


def _rows(t: Tensor) -> Tensor:
    return t.reshape(-1, t.shape[-1]).contiguous()


@implement("poly_norm_forward")
def poly_norm_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, backend: str | None = None) -> Tensor:
    if x.numel() == 0:
        return x.new_empty(x.shape)
    args = (_rows(x), weight.contiguous(), bias, eps)
    return backends.select("poly_norm_forward", backend, *args)(*args).view(x.shape)


@implement("poly_norm_backward")
def poly_norm_backward(grad, x, weight, eps, backend=None):
    if x.numel() == 0:
        return x.new_empty(x.shape), torch.zeros_like(weight), weight.new_zeros(1)
    args = (_rows(grad), _rows(x), weight.contiguous(), eps)
    dx, dweight, dbias = backends.select("poly_norm_backward", backend, *args)(*args)
    return dx.view(x.shape), dweight, dbias


@implement("poly_norm_double_backward")
def poly_norm_double_backward(ggx, ggweight, ggbias, grad, x, weight, eps, backend=None):
    if x.numel() == 0:
        return x.new_empty(x.shape), x.new_empty(x.shape), torch.zeros_like(weight)
    args = (_rows(ggx), ggweight.contiguous(), ggbias, _rows(grad), _rows(x), weight.contiguous(), eps)
    dgrad, dx, dweight = backends.select("poly_norm_double_backward", backend, *args)(*args)
    return dgrad.view(x.shape), dx.view(x.shape), dweight


# Rows are independent, so a batch of rows is rows; where the sums over them differ by the batch, one problem after the other.
@register_vmap("poly_norm_forward")
def _(info, in_dims, x, weight, bias, eps, backend=None):
    if in_dims[1] is None and in_dims[2] is None:
        return poly_norm_forward(x.movedim(in_dims[0], 0), weight, bias, eps, backend), 0
    return _each(poly_norm_forward, info, in_dims, x, weight, bias, eps, backend)


def _each(op, info, in_dims, *args):
    dims = (*in_dims, *(None,) * (len(args) - len(in_dims)))
    found = [op(*(a if d is None else a.select(d, i) for a, d in zip(args, dims))) for i in range(info.batch_size)]
    if isinstance(found[0], Tensor):
        return torch.stack(found), 0
    return tuple(map(torch.stack, zip(*found))), (0,) * len(found[0])


@register_vmap("poly_norm_backward")
def _(info, in_dims, *args):
    return _each(poly_norm_backward, info, in_dims, *args)


@register_vmap("poly_norm_double_backward")
def _(info, in_dims, *args):
    return _each(poly_norm_double_backward, info, in_dims, *args)


# ---- autograd --------------------------------------------------------------------------------------------------------


class _PolyNorm(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, eps, backend):
        return poly_norm_forward(x, weight, bias, eps, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.rest = inputs[3:]

    @staticmethod
    def backward(ctx, grad):
        call = _PolyNormBackward.apply if torch.is_grad_enabled() else poly_norm_backward
        return (*call(grad, *ctx.saved_tensors, *ctx.rest), None, None)


class _PolyNormBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, weight, eps, backend):
        return poly_norm_backward(grad, x, weight, eps, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.rest = inputs[3:]

    @staticmethod
    def backward(ctx, ggx, ggweight, ggbias):
        call = _PolyNormDoubleBackward.apply if torch.is_grad_enabled() else poly_norm_double_backward
        return (*call(ggx, ggweight, ggbias, *ctx.saved_tensors, *ctx.rest), None, None)


class _PolyNormDoubleBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ggx, ggweight, ggbias, grad, x, weight, eps, backend):
        return poly_norm_double_backward(ggx, ggweight, ggbias, grad, x, weight, eps, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            "the third derivative of poly_norm has no kernel; call poly_norm(..., backend='reference'), which autograd "
            "differentiates to any order"
        )


for _f in (_PolyNorm, _PolyNormBackward, _PolyNormDoubleBackward):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public function ---------------------------------------------------------------------------------------------


def _validate(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    _check.tensor("x", x)
    if x.dim() == 0:
        raise ValueError("x must have at least one dimension, (..., n); got a scalar")
    for name, value in (("weight", weight), ("bias", bias)):
        _check.tensor(name, value)
        _check.coefficients_dtype(name, value, "x", x)
    _check.same_device("x", x, weight=weight, bias=bias)
    if weight.dim() != 1 or weight.numel() == 0:
        raise ValueError(f"weight must have shape (degree,) with degree at least 1; got {_check.shape(weight)}")
    if bias.numel() != 1 or bias.dim() > 1:
        raise ValueError(f"bias must be a number or have shape () or (1,); got {_check.shape(bias)}")
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"eps must be a number, got {type(eps).__name__}")
    if not eps > 0:
        raise ValueError(f"eps must be positive; got {eps!r}")


def poly_norm(
    x: Tensor, weight: Tensor, bias: Tensor | float = 0.0, *, eps: float = 1e-6, backend: str | None = None
) -> Tensor:
    r"""PolyNorm, :math:`y = \sum_{i=1}^{r} w_i\,\mathrm{norm}(x^i) + b`, :math:`\mathrm{norm}(u) = u / \sqrt{E u^2 + \epsilon}`.

    E is the mean over the last dimension, of any length. Rows are scaled by a power of two, and eps with them, so that no
    power overflows whatever x is: the result is that of the formula in exact arithmetic.

    Args:
        x: (..., n), float16, bfloat16, float32 or float64; any strides, any leading shape, empty allowed.
        weight: w, (r,), lowest power first, any degree r. bias: b, a number or a tensor of one element.
        eps: positive, added to the mean square of every power.
        backend: None (automatic) or "reference", "cpu", "triton"; there is no CUDA C++ kernel.

    Returns: x's shape and dtype, contiguous; computed in float32 (float64 for float64) and rounded once. A row with NaN or
        infinity becomes NaN.

    Derivatives: first and second in x, weight and bias by closed forms, in one pass each; the third raises
        (``backend="reference"`` has every order). Deterministic: no atomics, weight gradients are summed in float32 or wider in
        an order given by the shape and come back in the weight's dtype. Saved for backward: x and weight, nothing else.
    Autocast: none; x is used in the dtype it has. torch.func inside torch.compile runs the reference.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, float64 parameters with narrower x, eps not a number.
        ValueError: a wrong rank, no coefficient, eps not positive, mixed devices.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: Z. Zhuo et al., Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models, ICLR 2025.
    """
    if isinstance(x, Tensor) and isinstance(bias, (int, float)) and not isinstance(bias, bool):
        bias = x.new_full((1,), bias, dtype=compute_dtype(x))
    _validate(x, weight, bias, eps)
    dtype = compute_dtype(x)
    w, b = weight.to(dtype), bias.to(dtype).reshape(1)
    if x.numel() > 0 and (backend == "reference" or traced_transform(backend)):
        return reference_forward(x.reshape(-1, x.shape[-1]), w, b, float(eps)).reshape(x.shape)
    if differentiated(x, w, b):
        return _PolyNorm.apply(x, w, b, float(eps), backend)
    return poly_norm_forward(x, w, b, float(eps), backend)
