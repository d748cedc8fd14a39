"""`circulant_linear`: the block circulant layer of C3A.

With x in n blocks and y in m blocks of b, hats for the transforms of the blocks,

    y[p, o] = s sum_q sum_i w[p, q, (i - o) mod b] x[q, i],     yhat[p, k] = s sum_q xhat[q, k] conj(what[p, q, k])

Two forms, chosen by b alone: blocks of 1 or 2 are written out and the layer is one product; above, rfft of the blocks, one small
complex product a frequency, b / 2 times fewer operations, irfft. Two operators, the layer (or its transpose) and the
gradient of w, are each other's derivatives. Saved: x, w.

Fewest bytes, s an element of x: T (n + m) b s + 4 m n b forward. Fewest operations known: T (4 m n b + 2.5 (m + n) b
log2 b). PEFT takes complex transforms of real blocks, twice the operations, and float32 alone.

Source: R. Chen et al., Parameter-Efficient Fine-Tuning via Circular Convolution, 2024 (C3A).
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from .batching import rows_or_each
from .fft_conv_reference import compute_dtype
from .plain import exporting, no_autocast

SMALL = 2  # b: up to here the blocks are written out
TOKENS = 512  # of a block on a CPU


def matrix(weight: Tensor) -> Tensor:
    """(m, n, b) -> (m b, n b)."""
    m, n, b = weight.shape
    i = torch.arange(b, device=weight.device)
    return weight[:, :, (i - i[:, None]) % b].transpose(1, 2).reshape(m * b, n * b)


def reference_forward(x: Tensor, weight: Tensor, scaling: float, transposed: bool) -> Tensor:
    """x (T, n b) -> (T, m b), transposed (T, m b) -> (T, n b)."""
    (m, n, b), dtype = weight.shape, compute_dtype(x)
    if b <= SMALL:
        whole = matrix(weight.to(dtype)) * scaling
        return F.linear(x.to(dtype), whole.T if transposed else whole).to(x.dtype)
    w = torch.fft.rfft(weight.to(dtype) * scaling).movedim(2, 0)  # (K, m, n)
    w = w.contiguous() if transposed else w.transpose(1, 2).conj_physical().contiguous()
    y = x.new_empty(x.shape[0], (n if transposed else m) * b)
    for begin, end in _pieces(x):
        z = _transformed(x[begin:end], b, dtype) @ w  # (K, T, m)
        y[begin:end] = torch.fft.irfft(z.permute(1, 2, 0).contiguous(), b).flatten(1)
    return y


def reference_gradient(x: Tensor, grad: Tensor, block: int, scaling: float) -> Tensor:
    """x (T, n b), grad (T, m b) -> (m, n, b) in the compute dtype."""
    dtype, total = compute_dtype(x), None
    for begin, end in _pieces(x):
        g = _transformed(grad[begin:end], block, dtype).conj_physical()
        part = g.transpose(1, 2) @ _transformed(x[begin:end], block, dtype)  # (K, m, n)
        total = part if total is None else total.add_(part)
    return torch.fft.irfft(total.permute(1, 2, 0).contiguous(), block) * scaling


def _pieces(x: Tensor) -> list[tuple[int, int]]:
    tokens = x.shape[0]
    step = TOKENS if x.device.type == "cpu" else tokens
    return [(begin, min(begin + step, tokens)) for begin in range(0, tokens, step)]


def _transformed(x: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """(T, n b) -> (K, T, n)."""
    return torch.fft.rfft(x.to(dtype).reshape(x.shape[0], -1, block)).permute(2, 0, 1).contiguous()


@implement("circulant_linear")
def linear(x, weight, scaling, transposed, backend=None):
    _check.operand("x", x, 2)
    _check.operand("weight", weight, 3, x)
    m, n, b = weight.shape
    size, other = (m, n) if transposed else (n, m)
    if x.dim() != 2 or x.shape[1] != size * b or b < 1:
        raise ValueError(f"x must have {size * b} features for weight {tuple(weight.shape)}; got {tuple(x.shape)}")
    if x.shape[0] == 0 or weight.numel() == 0:
        return x.new_zeros(x.shape[0], other * b)
    args = (x, weight, scaling, transposed)
    with no_autocast(args[0]):
        return backends.select("circulant_linear", backend, *args)(*args)


@implement("circulant_linear_gradient")
def gradient(x, grad, block, scaling, backend=None):
    _check.operand("x", x, 2)
    _check.operand("grad", grad, 2, x)
    if x.shape[0] != grad.shape[0] or block < 1 or x.shape[1] % block or grad.shape[1] % block:
        found = f"x {tuple(x.shape)} and grad {tuple(grad.shape)}"
        raise ValueError(f"{found} must have as many rows, and features in blocks of {block}")
    if x.numel() == 0 or grad.numel() == 0:
        return x.new_zeros(grad.shape[1] // block, x.shape[1] // block, block, dtype=compute_dtype(x))
    args = (x, grad, block, scaling)
    with no_autocast(args[0]):
        return backends.select("circulant_linear_gradient", backend, *args)(*args)


register_vmap("circulant_linear")(rows_or_each(linear, (0,)))
register_vmap("circulant_linear_gradient")(rows_or_each(gradient, (0, 1), lambda args: False))


class _Linear(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, scaling, transposed, backend):
        return linear(x, weight, scaling, transposed, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, *ctx.static = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        scaling, transposed, backend = ctx.static
        dx = _Linear.apply(grad, weight, scaling, not transposed, backend) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            a, b = (grad, x) if transposed else (x, grad)
            dw = _Gradient.apply(a, b, weight.shape[2], scaling, backend).to(weight.dtype)
        return dx, dw, None, None, None


class _Gradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, grad, block, scaling, backend):
        return gradient(x, grad, block, scaling, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, grad, *ctx.static = inputs
        ctx.save_for_backward(x, grad)

    @staticmethod
    def backward(ctx, cotangent):
        x, grad = ctx.saved_tensors
        _, scaling, backend = ctx.static
        dx = _Linear.apply(grad, cotangent, scaling, True, backend) if ctx.needs_input_grad[0] else None
        dg = _Linear.apply(x, cotangent, scaling, False, backend) if ctx.needs_input_grad[1] else None
        return dx, dg, None, None, None


for _f in (_Linear, _Gradient):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


def circulant_linear(x: Tensor, weight: Tensor, *, scaling: float = 1.0, backend: str | None = None) -> Tensor:
    r"""Block circulant product, :math:`y_{p,o} = s \sum_{q,i} w_{p,q,(i-o) \bmod b}\, x_{q,i}`: C3A's, for any block size.

    Args:
        x: (..., n b), float16, bfloat16, float32 or float64, any strides, empty allowed.
        weight: (m, n, b), the first row of each circulant block; may stay float32 under 16-bit x.
        scaling: s. C3ALinear divides by its in_features: 1 / (n b).
        backend: None or "reference".

    Returns y (..., m b) in x's dtype, computed in float32 (float64 for float64) and rounded once. Equal to
    Re fft(einsum("..nb,mnb->..mb", ifft(x), fft(w))) of the published code.

    Derivatives of every order are the same two operators. Saved: x and weight. Deterministic. torch.export and torch.onnx get the
    matrix written out and one product. Autocast: takes what it is given. NaN spreads over its token, and in the first
    form over the sums it enters alone. Errors: TypeError for dtypes, ValueError for shapes and devices.
    """
    _check.tensor("x", x)
    _check.tensor("weight", weight)
    _check.coefficients_dtype("weight", weight, "x", x)
    _check.same_device("x", x, weight=weight)
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(f"weight must have shape (m, n, b) and be nowhere empty; got {_check.shape(weight)}")
    if not isinstance(scaling, (int, float)):
        raise TypeError(f"scaling must be a number; got {type(scaling).__name__}")
    if backend is not None and backend not in backends.NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, backends.NAMES))}; got {backend!r}")
    m, n, b = weight.shape
    if x.dim() < 1 or x.shape[-1] != n * b:
        raise ValueError(f"x must have shape (..., {n * b}) for weight {_check.shape(weight)}; got {_check.shape(x)}")
    rows, scaling = x.reshape(-1, n * b), float(scaling)
    if exporting() or traced_transform(backend):
        dtype = compute_dtype(x)
        y = F.linear(rows.to(dtype), matrix(weight.to(dtype)) * scaling).to(x.dtype)
    elif differentiated(rows, weight):
        y = _Linear.apply(rows, weight, scaling, False, backend)
    else:
        y = linear(rows, weight, scaling, False, backend)
    return y.reshape(*x.shape[:-1], m * b)
