"""`wavelet_linear`: Wav-KAN's layer, y_o = sum_i w_oi psi((x_i - t_oi) / s_oi), without its (N, O, I) tensors.

The formula, its gradient and its second derivative are in `wavelet_reference.py`. Fewest bytes, s an element: forward
s (N I + N O) + 12 O I. The work is N O I evaluations of psi, an exponential each (and a cosine for morlet): every pass is
bound by arithmetic, and a backward recomputes psi rather than store it.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from . import wavelet_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform


def _rows(t: Tensor) -> Tensor:
    """Unit stride in the last dimension: a view where it has one, else a copy."""
    return t if t.stride(-1) == 1 or t.shape[-1] <= 1 and t.is_contiguous() else t.contiguous()


def _compute(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """Parameters in the compute dtype, contiguous."""
    return tuple(p.to(spec.compute_dtype(x)).contiguous() for p in parameters)


def _empty(x: Tensor, weight: Tensor) -> bool:
    return x.numel() == 0 or weight.numel() == 0


@implement("wavelet_forward")
def wavelet_forward(x, weight, scale, translation, kind, backend=None):
    if _empty(x, weight):
        return x.new_zeros(x.shape[0], weight.shape[0])
    args = (_rows(x), *_compute(x, weight, scale, translation), kind)
    return backends.select("wavelet_forward", backend, *args)(*args)


@implement("wavelet_backward")
def wavelet_backward(grad, x, weight, scale, translation, kind, backend=None):
    parameters = (weight, scale, translation)
    if _empty(x, weight):
        return x.new_zeros(x.shape), *(p.new_zeros(p.shape) for p in parameters)
    args = (_rows(grad), _rows(x), *_compute(x, *parameters), kind)
    dx, *sums = backends.select("wavelet_backward", backend, *args)(*args)
    return dx, *(d.to(p.dtype) for d, p in zip(sums, parameters))


@implement("wavelet_double_backward")
def wavelet_double_backward(ggx, ggw, ggs, ggt, grad, x, weight, scale, translation, kind, backend=None):
    parameters = (weight, scale, translation)
    if _empty(x, weight):
        return grad.new_zeros(grad.shape), x.new_zeros(x.shape), *(p.new_zeros(p.shape) for p in parameters)
    args = (_rows(ggx), *_compute(x, ggw, ggs, ggt), _rows(grad), _rows(x), *_compute(x, *parameters), kind)
    dgrad, dx, *sums = backends.select("wavelet_double_backward", backend, *args)(*args)
    return dgrad, dx, *(d.to(p.dtype) for d, p in zip(sums, parameters))


# ---- vmap: rows of a batch are rows; anything else is a problem at a time ----------------------------------------------


def _batched(op, rows_only: bool):
    def rule(info, in_dims, *args):
        dims = (*in_dims, *(None,) * (len(args) - len(in_dims)))
        if rows_only and all(d is None for d in dims[1:]):
            x = args[0].movedim(dims[0], 0)
            return op(x.flatten(0, 1), *args[1:]).unflatten(0, x.shape[:2]), 0
        each = [op(*(a if d is None else a.select(d, i) for a, d in zip(args, dims))) for i in range(info.batch_size)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each))), (0,) * len(each[0])

    return rule


register_vmap("wavelet_forward")(_batched(wavelet_forward, True))
register_vmap("wavelet_backward")(_batched(wavelet_backward, False))
register_vmap("wavelet_double_backward")(_batched(wavelet_double_backward, False))


# ---- autograd ----------------------------------------------------------------------------------------------------------


class _Wavelet(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, scale, translation, kind, backend):
        return wavelet_forward(x, weight, scale, translation, kind, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])
        ctx.rest = inputs[4:]

    @staticmethod
    def backward(ctx, grad):
        call = _WaveletBackward.apply if torch.is_grad_enabled() else wavelet_backward
        return (*call(grad, *ctx.saved_tensors, *ctx.rest), None, None)


class _WaveletBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, weight, scale, translation, kind, backend):
        return wavelet_backward(grad, x, weight, scale, translation, kind, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:5])
        ctx.rest = inputs[5:]

    @staticmethod
    def backward(ctx, ggx, ggw, ggs, ggt):
        call = _WaveletDoubleBackward.apply if torch.is_grad_enabled() else wavelet_double_backward
        return (*call(ggx, ggw, ggs, ggt, *ctx.saved_tensors, *ctx.rest), None, None)


class _WaveletDoubleBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ggx, ggw, ggs, ggt, grad, x, weight, scale, translation, kind, backend):
        return wavelet_double_backward(ggx, ggw, ggs, ggt, grad, x, weight, scale, translation, kind, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            "the third derivative of wavelet_linear has no kernel; call wavelet_linear(..., backend='reference'), which "
            "autograd differentiates to any order"
        )


for _f in (_Wavelet, _WaveletBackward, _WaveletDoubleBackward):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public function -----------------------------------------------------------------------------------------------


def _validate(x, weight, scale, translation, kind) -> int:
    _check.tensor("x", x)
    _check.choice("kind", kind, spec.KINDS)
    if x.dim() < 1:
        raise ValueError("x must have at least one dimension, (..., I); got a scalar")
    for name, value in (("weight", weight), ("scale", scale), ("translation", translation)):
        _check.tensor(name, value)
        _check.coefficients_dtype(name, value, "x", x)
        if value.dim() != 2:
            raise ValueError(f"{name} must have shape (O, I); got {_check.shape(value)}")
        if value.shape != weight.shape:
            raise ValueError(f"{name} must have weight's shape {_check.shape(weight)}; got {_check.shape(value)}")
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"the last dimension of x, {x.shape[-1]}, must be the inputs of weight (O, I), {weight.shape[1]}")
    _check.same_device("x", x, weight=weight, scale=scale, translation=translation)
    return spec.KINDS.index(kind)


def wavelet_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    translation: Tensor,
    kind: str = "mexican_hat",
    *,
    backend: str | None = None,
) -> Tensor:
    r"""Wav-KAN's layer, :math:`y_o = \sum_i w_{oi}\,\psi\bigl((x_i - t_{oi}) / s_{oi}\bigr)`: a wavelet on every edge.

    ===============  ===========================================================
    kind             :math:`\psi(z)`
    ===============  ===========================================================
    "mexican_hat"    :math:`2 / (\sqrt3\,\pi^{1/4})\,(z^2 - 1)\,e^{-z^2/2}`
    "morlet"         :math:`\cos(5 z)\,e^{-z^2/2}`
    "dog"            :math:`-z\,e^{-z^2/2}`
    ===============  ===========================================================

    Args:
        x: (..., I), float16, bfloat16, float32 or float64; any strides, any leading shape, empty allowed.
        weight, scale, translation: w, s and t, (O, I).
        kind: which wavelet.
        backend: None (automatic) or "reference", "cpu", "triton"; there is no CUDA C++ kernel.

    Returns: (..., O), contiguous, x's dtype: computed in float32 (float64 for float64) and rounded once. A NaN in x_i gives
        NaN in its row, and so does infinity; where s is zero the formula gives NaN and so does this.

    Derivatives: first and second in x, w, s and t by closed forms; the third raises (``backend="reference"`` has every
        order). psi is recomputed, not stored: saved for backward are x and the three parameters, nothing else, and no tensor
        of size N O I exists. Gradients of parameters are summed in float32 in an order that depends on shapes alone, without
        atomics: two runs agree bit for bit, at any number of threads; they come back in the parameter's dtype.
    Autocast: none; x is used in the dtype it has. torch.func inside torch.compile runs the reference.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, float64 parameters with narrower x.
        ValueError: unknown kind, shapes that do not fit, mixed devices.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: Z. Bozorgasl, H. Chen, Wav-KAN: Wavelet Kolmogorov-Arnold Networks, 2024.
    """
    code = _validate(x, weight, scale, translation, kind)
    rows, tensors = x[None] if x.dim() == 1 else x.flatten(0, -2), (weight, scale, translation)
    if backend == "reference" or traced_transform(backend):
        y = spec.forward(rows, *tensors, code)
    elif differentiated(x, *tensors):
        y = _Wavelet.apply(rows, *tensors, code, backend)
    else:
        y = wavelet_forward(rows, *tensors, code, backend)
    return y.view(*x.shape[:-1], weight.shape[0])
