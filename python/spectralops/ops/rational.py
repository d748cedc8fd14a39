"""`rational`: a learnable activation P(x) / Q(x), the channels in groups that may have coefficients of
their own.

The formula, its gradient and its second derivative are in `rational_reference.py`. Fewest bytes, at s bytes
an element: forward 2 s (x, y), backward 3 s (grad, x, dx), double backward 5 s (ggx, grad, x, dgrad, dx).
With some 20, 60 and 150 operations an element every pass is bound by memory.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from . import rational_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform

# A short row does not fill a vector unit or a thread block; without groups, rows may be cut anywhere.
_SHORT, _LONG = 1024, 8192


# ---- from torch's shapes to (rows, dim) and (G, degree + 1) ----------------------------------------------------


def _table(coefficients: Tensor, dtype: torch.dtype) -> Tensor:
    """(number,) or (G, number) -> contiguous (G, number) in the compute dtype."""
    if coefficients.dtype == dtype and coefficients.dim() == 2 and coefficients.is_contiguous():
        return coefficients
    return coefficients.to(dtype).reshape(-1, coefficients.shape[-1]).contiguous()


def _row_length(x: Tensor, groups: int) -> int:
    """Length of the rows to cut x into: its last dimension, or without groups any length that divides the storage."""
    dim = x.shape[-1] if x.dim() else 1
    if groups > 1 or not x.is_contiguous():
        return dim
    for size in reversed(x.shape[:-1]):
        if dim >= _SHORT:
            break
        dim *= size
    while dim > _LONG and dim % 2 == 0:
        dim //= 2
    return dim


def _rows(x: Tensor, dim: int) -> Tensor:
    """(rows, dim) with unit stride in dim: a view where the strides allow one, else one copy."""
    if x.dim() == 2 and x.stride(1) == 1 and x.shape[1] == dim:
        return x
    rows = x.reshape(-1, dim)
    return rows if rows.stride(1) == 1 or dim == 1 else rows.contiguous()


def _per_parameter(sums: Tensor, parameter: Tensor) -> Tensor:
    """Sums for each group (G, number) -> the parameter's shape (shared coefficients add their groups) and dtype."""
    rows = 1 if parameter.dim() == 1 else parameter.shape[0]
    if sums.shape[0] != rows:
        sums = sums.sum(0, keepdim=True)
    return sums.reshape(parameter.shape).to(parameter.dtype)


def _prepare(x: Tensor, numerator: Tensor, denominator: Tensor):
    dtype = spec.compute_dtype(x)
    num, den = _table(numerator, dtype), _table(denominator, dtype)
    groups = max(num.shape[0], den.shape[0])
    return num, den, groups, _row_length(x, groups)


@implement("rational_forward")
def rational_forward(x: Tensor, numerator: Tensor, denominator: Tensor, version: int, backend: str | None = None):
    if x.numel() == 0:
        return x.new_empty(x.shape)
    num, den, _, dim = _prepare(x, numerator, denominator)
    args = (_rows(x, dim), num, den, version)
    y = backends.select("rational_forward", backend, *args)(*args)
    return y if y.shape == x.shape else y.view(x.shape)


@implement("rational_backward")
def rational_backward(grad, x, numerator, denominator, version, sign_at_zero, backend=None):
    if x.numel() == 0:
        return x.new_empty(x.shape), torch.zeros_like(numerator), torch.zeros_like(denominator)
    num, den, _, dim = _prepare(x, numerator, denominator)
    args = (_rows(grad, dim), _rows(x, dim), num, den, version, sign_at_zero)
    dx, dnum, dden = backends.select("rational_backward", backend, *args)(*args)
    return dx.view(x.shape), _per_parameter(dnum, numerator), _per_parameter(dden, denominator)


@implement("rational_double_backward")
def rational_double_backward(ggx, ggnum, ggden, grad, x, numerator, denominator, version, sign_at_zero, backend=None):
    if x.numel() == 0:
        return x.new_empty(x.shape), x.new_empty(x.shape), torch.zeros_like(numerator), torch.zeros_like(denominator)
    num, den, groups, dim = _prepare(x, numerator, denominator)
    spread = lambda t: _table(t, num.dtype).expand(groups, -1).contiguous()  # noqa: E731
    args = (_rows(ggx, dim), spread(ggnum), spread(ggden), _rows(grad, dim), _rows(x, dim), num, den, version, sign_at_zero)
    dgrad, dx, dnum, dden = backends.select("rational_double_backward", backend, *args)(*args)
    return dgrad.view(x.shape), dx.view(x.shape), _per_parameter(dnum, numerator), _per_parameter(dden, denominator)


# ---- vmap: a batch of problems is one problem whose groups are (batch, group) ------------------------------------


def _fold(info, in_dims, data: tuple[Tensor, ...], coefficients: tuple[Tensor, ...]):
    """Batched data (B, ..., D) -> (..., B D); batched coefficients -> (B G, number); and how to undo the first."""
    batch = info.batch_size
    dims = iter(in_dims)

    def front(t, d):
        return t.unsqueeze(0).expand(batch, *t.shape) if d is None else t.movedim(d, 0)

    data = [front(t, next(dims)) for t in data]
    tables = [front(t, next(dims)) for t in coefficients]
    scalar = data[0].dim() == 1
    data = [t.unsqueeze(-1) if scalar else t for t in data]
    groups = max(1 if t.dim() == 2 else t.shape[1] for t in tables)
    merged = [t.movedim(0, -2).flatten(-2) for t in data]
    tables = [t.reshape(batch, -1, t.shape[-1]).expand(batch, groups, -1).reshape(batch * groups, -1) for t in tables]

    def undo(t):
        t = t.unflatten(-1, (batch, -1)).movedim(-2, 0)
        return t.squeeze(-1) if scalar else t

    def undo_table(sums, original, d):
        shape = original.shape if d is None else original.movedim(d, 0).shape[1:]
        sums = sums.view(batch, groups, -1)
        if len(shape) == 1 or shape[0] == 1:
            sums = sums.sum(1, keepdim=True)
        return sums.reshape(batch, *shape)

    return merged, tables, undo, undo_table


@register_vmap("rational_forward")
def _(info, in_dims, x, numerator, denominator, version, backend=None):
    if in_dims[1] is None and in_dims[2] is None and x.dim() > 1:
        return rational_forward(x.movedim(in_dims[0], 0), numerator, denominator, version, backend), 0
    (x,), tables, undo, _ = _fold(info, in_dims, (x,), (numerator, denominator))
    return undo(rational_forward(x, *tables, version, backend)), 0


@register_vmap("rational_backward")
def _(info, in_dims, grad, x, numerator, denominator, version, sign_at_zero, backend=None):
    (g, z), tables, undo, undo_table = _fold(info, in_dims, (grad, x), (numerator, denominator))
    dx, dnum, dden = rational_backward(g, z, *tables, version, sign_at_zero, backend)
    return (undo(dx), undo_table(dnum, numerator, in_dims[2]), undo_table(dden, denominator, in_dims[3])), (0, 0, 0)


@register_vmap("rational_double_backward")
def _(info, in_dims, ggx, ggnum, ggden, grad, x, numerator, denominator, version, sign_at_zero, backend=None):
    order = (0, 3, 4, 1, 2, 5, 6)
    (h, g, z), tables, undo, undo_table = _fold(
        info, [in_dims[i] for i in order], (ggx, grad, x), (ggnum, ggden, numerator, denominator)
    )
    dgrad, dx, dnum, dden = rational_double_backward(h, *tables[:2], g, z, *tables[2:], version, sign_at_zero, backend)
    outs = (undo(dgrad), undo(dx), undo_table(dnum, numerator, in_dims[5]), undo_table(dden, denominator, in_dims[6]))
    return outs, (0, 0, 0, 0)


# ---- autograd ----------------------------------------------------------------------------------------------------


class _Rational(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, numerator, denominator, version, sign_at_zero, backend):
        return rational_forward(x, numerator, denominator, version, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.rest = inputs[3:]

    @staticmethod
    def backward(ctx, grad):
        call = _RationalBackward.apply if torch.is_grad_enabled() else rational_backward
        return (*call(grad, *ctx.saved_tensors, *ctx.rest), None, None, None)


class _RationalBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, numerator, denominator, version, sign_at_zero, backend):
        return rational_backward(grad, x, numerator, denominator, version, sign_at_zero, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])
        ctx.rest = inputs[4:]

    @staticmethod
    def backward(ctx, ggx, ggnum, ggden):
        call = _RationalDoubleBackward.apply if torch.is_grad_enabled() else rational_double_backward
        return (*call(ggx, ggnum, ggden, *ctx.saved_tensors, *ctx.rest), None, None, None)


class _RationalDoubleBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ggx, ggnum, ggden, grad, x, numerator, denominator, version, sign_at_zero, backend):
        return rational_double_backward(
            ggx, ggnum, ggden, grad, x, numerator, denominator, version, sign_at_zero, backend
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            "the third derivative of rational has no kernel; call rational(..., backend='reference'), which autograd "
            "differentiates to any order"
        )


for _f in (_Rational, _RationalBackward, _RationalDoubleBackward):
    # Function.apply inspects the signature on every call unless it is cached here: 10 microseconds a call.
    _f.forward.__signature__ = inspect.signature(_f.forward)


# ---- the public function -----------------------------------------------------------------------------------------


def _validate(x, numerator, denominator, version, sign_at_zero) -> int:
    _check.tensor("x", x)
    _check.choice("version", version, spec.VERSIONS)
    _check.choice("sign_at_zero", sign_at_zero, (0, 1))
    dim = x.shape[-1] if x.dim() else 1
    groups = []
    for name, table, least in (("numerator", numerator, 1), ("denominator", denominator, 1)):
        _check.tensor(name, table)
        _check.coefficients_dtype(name, table, "x", x)
        if table.dim() not in (1, 2) or table.shape[-1] < least or table.shape[0] < 1:
            raise ValueError(
                f"{name} must have shape (number,) or (groups or 1, number) with at least one coefficient; "
                f"got {_check.shape(table)}"
            )
        groups.append(table.shape[0] if table.dim() == 2 else 1)
    _check.same_device("x", x, numerator=numerator, denominator=denominator)
    if min(groups) not in (1, max(groups)):
        raise ValueError(f"numerator has {groups[0]} groups and denominator {groups[1]}; they must agree or one be 1")
    if dim % max(groups):
        raise ValueError(f"the last dimension of x, {dim}, must be a multiple of the number of groups, {max(groups)}")
    return spec.VERSIONS.index(version)


def rational(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    *,
    version: str = "A",
    sign_at_zero: int = 0,
    backend: str | None = None,
) -> Tensor:
    r"""Rational (Pade) activation :math:`y = P(x) / Q(x)`, elementwise, with learnable coefficients.

    :math:`P(x) = \sum_{i=0}^{m} a_i x^i` and

    ========  =====================================================
    version   Q(x)
    ========  =====================================================
    "A"       :math:`1 + \sum_{i=1}^{n} |b_i| |x|^i`
    "B"       :math:`1 + |\sum_{i=1}^{n} b_i x^i|`
    "C"       :math:`0.1 + |\sum_{i=0}^{n} b_i x^i|`
    "smooth"  :math:`1 + (\sum_{i=1}^{n} b_i x^i)^2`
    ========  =====================================================

    Args:
        x: (..., D), float16, bfloat16, float32 or float64; any strides, any leading shape, empty allowed.
        numerator: a, (m + 1,) or (G or 1, m + 1), lowest power first. Group g is the g-th contiguous slice
        of D / G channels.
        denominator: b, (n,) or (G or 1, n); version C has b_0 and so n + 1. Any degrees.
        version: which Q. KAT's kernels compute A although their initial values for "gelu" and others were
            fitted for B: see :func:`spectralops.nn.rational_init`.
        sign_at_zero: sgn(0) in the derivatives of |.|: 0 as in ``torch.abs``, or 1 as in KAT's kernels,
            where coefficients that start at zero learn. Versions A, B and C are only continuous, not
            differentiable, where the argument of |.| is zero.
        backend: None (automatic) or "reference", "cpu", "triton", "cuda", "cupy".

    Returns: (..., D), contiguous, x's dtype: computed in float32 (float64 for float64 input) and rounded
        once. NaN and Inf go through Horner's scheme; for finite x whose powers overflow the result is NaN,
        as in the formula.

    Derivatives: first and second by closed forms, in one pass each; the third raises
    (``backend="reference"`` has every order). Coefficient gradients are summed in float32 and float64 in an
    order that depends on shapes and strides alone, without atomics: two runs agree bit for bit; they come back in
    the coefficients' dtype. Saved for backward: x and the coefficients, nothing else.
    Autocast: none; x is used in the dtype it has. torch.func inside torch.compile runs the reference.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, float64 coefficients with narrower x.
        ValueError: unknown version or sign_at_zero, wrong rank, groups that disagree or do not divide D,
        mixed devices.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: A. Molina, P. Schramowski, K. Kersting, Pade Activation Units, ICLR 2020 (A, B, C); X. Yang, X.
    Wang, Kolmogorov-Arnold Transformer, ICLR 2025 (groups).
    """
    code = _validate(x, numerator, denominator, version, sign_at_zero)
    if backend == "reference" or traced_transform(backend):
        num, den = (_table(t, spec.compute_dtype(x)) for t in (numerator, denominator))
        if x.numel() == 0:
            return x.clone(memory_format=torch.contiguous_format)
        return spec.forward(x.reshape(-1, x.shape[-1] if x.dim() else 1), num, den, code, sign_at_zero).view(x.shape)
    if differentiated(x, numerator, denominator):
        return _Rational.apply(x, numerator, denominator, code, sign_at_zero, backend)
    return rational_forward(x, numerator, denominator, code, backend)
