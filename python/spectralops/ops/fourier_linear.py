"""`fourier_linear`: the linear layer of FourierFT, y = x (W + dW)^T + b with dW of n frequencies, mostly without ever making dW.

Two operators, the layer (or its transpose) and the gradient of the spectrum, are each other's derivatives, so every order of
derivative is the same code (fourier_linear_reference.py); a third gives both gradients of a first backward pass at
once. Saved: x, spectrum, W.

Fewest bytes, s an element of x: (T (I + O) + I O) s forward. Fewest operations known: T (2 I O + 2.5 (I log2 I + O
log2 O) + 4 n); PEFT makes dW at every call, 5 I O log2(I O) operations on complex numbers, and multiplies twice.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from . import fourier_linear_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from .batching import rows_or_each
from .fft_conv_reference import compute_dtype
from .plain import exporting, no_autocast


def _check_sizes(x, spectrum, indices, weight, bias, outputs, inputs, transposed) -> None:
    """The sizes that a kernel trusts: a trace or a graph may bring others than the public function saw."""
    _check.operand("x", x, 2)
    size, other = (outputs, inputs) if transposed else (inputs, outputs)
    if x.dim() != 2 or x.shape[1] != size:
        raise ValueError(f"x must have {size} features; got {tuple(x.shape)}")
    if spectrum.dim() != 1 or tuple(indices.shape) != (2, spectrum.shape[0]):
        raise ValueError(f"indices must have shape (2, {spectrum.shape[0]}), as spectrum; got {tuple(indices.shape)}")
    if weight is not None and tuple(weight.shape) != (outputs, inputs):
        raise ValueError(f"weight must have shape {(outputs, inputs)}; got {tuple(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (other,):
        raise ValueError(f"bias must have shape {(other,)}; got {tuple(bias.shape)}")


@implement("fourier_linear")
def linear(x, spectrum, indices, weight, bias, outputs, inputs, scaling, transposed, backend=None):
    """-> (T, O), transposed (T, I)."""
    _check_sizes(x, spectrum, indices, weight, bias, outputs, inputs, transposed)
    if x.shape[0] == 0:
        return x.new_empty(0, inputs if transposed else outputs)
    args = (x, spectrum, indices, weight, bias, outputs, inputs, scaling, transposed)
    with no_autocast(args[0]):
        return backends.select("fourier_linear", backend, *args)(*args)


@implement("fourier_linear_gradient")
def gradient(x, grad, indices, outputs, inputs, scaling, backend=None):
    """x (T, I), grad (T, O) -> (n,) in the compute dtype."""
    if tuple(x.shape[1:]) != (inputs,) or tuple(grad.shape) != (x.shape[0], outputs) or indices.shape[0] != 2:
        raise ValueError(f"x {tuple(x.shape)} and grad {tuple(grad.shape)} must be (T, {inputs}) and (T, {outputs})")
    args = (x, grad, indices, outputs, inputs, scaling)
    with no_autocast(args[0]):
        return backends.select("fourier_linear_gradient", backend, *args)(*args)


@implement("fourier_linear_backward")
def both(grad, x, spectrum, indices, weight, outputs, inputs, scaling, backend=None):
    """-> the gradients of x and of spectrum, the latter in the compute dtype."""
    _check_sizes(x, spectrum, indices, weight, None, outputs, inputs, False)
    if tuple(grad.shape) != (x.shape[0], outputs):
        raise ValueError(f"grad must have shape {(x.shape[0], outputs)}; got {tuple(grad.shape)}")
    if x.shape[0] == 0:
        return x.new_empty(x.shape), spectrum.new_zeros(spectrum.shape, dtype=compute_dtype(x))
    args = (grad, x, spectrum, indices, weight, outputs, inputs, scaling)
    with no_autocast(args[0]):
        return backends.select("fourier_linear_backward", backend, *args)(*args)


register_vmap("fourier_linear_backward")(rows_or_each(both, (0, 1), lambda args: False))
register_vmap("fourier_linear")(rows_or_each(linear, (0,)))
register_vmap("fourier_linear_gradient")(rows_or_each(gradient, (0, 1), lambda args: False))


# ---- autograd --------------------------------------------------------------------------------------------------------
# call = (outputs, inputs, scaling, transposed)


class _Linear(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, spectrum, indices, weight, bias, call, backend):
        return linear(x, spectrum, indices, weight, bias, *call, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, spectrum, indices, weight, bias, ctx.call, ctx.backend = inputs
        ctx.save_for_backward(x, spectrum, indices, weight)
        ctx.bias = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx, grad):
        x, spectrum, indices, weight = ctx.saved_tensors
        outputs, inputs, scaling, transposed = ctx.call
        needs, dx, dc, dw, db = ctx.needs_input_grad, None, None, None, None
        if needs[0] and needs[1] and not transposed and not torch.is_grad_enabled():
            dx, dc = both(grad, x, spectrum, indices, weight, outputs, inputs, scaling, ctx.backend)
            dc = dc.to(spectrum.dtype)
        elif needs[0]:
            dx = _Linear.apply(grad, spectrum, indices, weight, None, (outputs, inputs, scaling, not transposed), ctx.backend)
        a, b = (grad, x) if transposed else (x, grad)  # (T, I), (T, O)
        if needs[1] and dc is None:
            dc = _Gradient.apply(a, b, indices, (outputs, inputs, scaling), ctx.backend).to(spectrum.dtype)
        if needs[3]:
            dw = (b.T.to(a.dtype) @ a).to(weight.dtype)
        if needs[4]:
            db = grad.to(compute_dtype(grad)).sum(0).to(ctx.bias)
        return dx, dc, None, dw, db, None, None


class _Gradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, grad, indices, call, backend):
        return gradient(x, grad, indices, *call, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, grad, indices, ctx.call, ctx.backend = inputs
        ctx.save_for_backward(x, grad, indices)

    @staticmethod
    def backward(ctx, cotangent):
        x, grad, indices = ctx.saved_tensors
        dx = dg = None
        if ctx.needs_input_grad[0]:
            dx = _Linear.apply(grad, cotangent, indices, None, None, (*ctx.call, True), ctx.backend)
        if ctx.needs_input_grad[1]:
            dg = _Linear.apply(x, cotangent, indices, None, None, (*ctx.call, False), ctx.backend)
        return dx, dg, None, None, None


for _f in (_Linear, _Gradient):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public function ---------------------------------------------------------------------------------------------


def fourier_linear(
    x: Tensor,
    spectrum: Tensor,
    indices: Tensor,
    *,
    out_features: int,
    scaling: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Linear layer with FourierFT's update, :math:`y = x (W + s \,\mathrm{Re}\,\mathrm{ifft2}(D))^T + b`, D zero but
    for n entries.

    Args:
        x: (..., I), float16, bfloat16, float32 or float64, any strides, empty allowed.
        spectrum: (n,), the entries of D. May stay float32 under 16-bit x.
        indices: (2, n) int64, row (0 .. O - 1) and column (0 .. I - 1) of each entry; entries at the same place add up.
        out_features: O. scaling: s.
        weight: W, (O, I), or None for the update alone. bias: (O,) or None.
        backend: None or "reference".

    Returns y (..., O) in x's dtype. The update is computed in float32 (float64 for float64); x W^T is torch's product
    in x's dtype, and one product with W + dW where the weight's dtype is the compute dtype and tokens are many.

    The form is chosen by the sizes alone, from measured costs: transforms of x and y around a gather and scatter of
    the n entries, or dW by one irfft2. On a CPU dW is kept with `spectrum` while that has the same values; it is
    found again for the next micro-batch, and is never used for other values, whoever wrote them. The gradient of
    spectrum is taken in either form. Derivatives of every order in x, spectrum, weight and bias. Saved: x, spectrum,
    weight. Deterministic where indices are distinct. torch.export and torch.onnx get products with real tables.
    Autocast: takes what it is given.
    Errors: TypeError for dtypes, ValueError for shapes, devices and indices out of range.

    Source: Z. Gao et al., Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, ICML 2024 (FourierFT).
    """
    _check.tensor("x", x)
    _check.tensor("spectrum", spectrum)
    _check.tensor("indices", indices, (torch.int64,))
    _check.coefficients_dtype("spectrum", spectrum, "x", x)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None:
            _check.tensor(name, t)
            _check.coefficients_dtype(name, t, "x", x)
    _check.same_device("x", x, spectrum=spectrum, indices=indices, weight=weight, bias=bias)
    if _check.integer("out_features", out_features) < 1:
        raise ValueError(f"out_features must be positive; got {out_features}")
    if not isinstance(scaling, (int, float)):
        raise TypeError(f"scaling must be a number; got {type(scaling).__name__}")
    if x.dim() < 1 or x.shape[-1] < 1:
        raise ValueError(f"x must have shape (..., in_features); got {_check.shape(x)}")
    if indices.dim() != 2:
        raise ValueError(f"indices must have shape (2, n); got {_check.shape(indices)}")
    if backend is not None and backend not in backends.NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, backends.NAMES))}; got {backend!r}")
    inputs, rows = x.shape[-1], x.reshape(-1, x.shape[-1])
    _check_sizes(rows, spectrum, indices, weight, bias, out_features, inputs, False)
    if exporting() or traced_transform(backend):
        y = spec.lowered(rows, spectrum, indices, weight, bias, out_features, inputs, float(scaling))
    else:
        args = (rows, spectrum, indices, weight, bias)
        call = (out_features, inputs, float(scaling), False)
        y = _Linear.apply(*args, call, backend) if differentiated(rows, spectrum, weight, bias) else linear(*args, *call, backend)
    return y.reshape(*x.shape[:-1], out_features)
