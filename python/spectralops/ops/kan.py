"""`kan_linear`: y_o = sum_{i,k} c_oik B_k(x_i) plus a base branch, the basis never materialised.

Three operations, F (forward), D (dx) and C (dcoeff) of `kan_reference.py`, each with a derivative order m of the basis and
a multiplier u, are closed under differentiation. For an incoming gradient g of F, v of D, W (with its base part) of C:

    F_m(x, c; u)        dx = D_{m+1}(g, x, c; u)     dc = C_m(g, x; u)       du = D_m(g, x, c; 1)
    D_m(g, x, c; u)     dg = F_m(x, c; u v)          dx = D_{m+1}(g, x, c; u v)     dc = C_m(g, x; u v)     du = D_m(g, x, c; v)
    C_m(g, x; u)        dg = F_m(x, W; u)            dx = D_{m+1}(g, x, W; u)       du = D_m(g, x, W; 1)

so every derivative of every order is one of three kernels, and only x, u, g and the coefficients are ever saved.

Fewest bytes, s an element: forward s (N I + O I K + N O); the arithmetic is 2 N I K O dense, or 2 N I (p + 1) O for splines
of order p, whose other functions are zero.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from . import kan_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from ..basis import Basis, Mix
from .kan_basis import BASES, BasisCode

PRECISIONS = ("highest", "high")

# What identifies a call beside its tensors: code.numbers, code.scalars, base, m, precision, backend
Static = tuple[tuple[int, ...], tuple[float, ...], int, int, str, str | None]


def _rows(t: Tensor) -> Tensor:
    """Unit stride in the last dimension: a view where it has one, else a copy."""
    return t if t.stride(-1) == 1 or t.shape[-1] <= 1 and t.is_contiguous() else t.contiguous()


def _compute(t: Tensor | None, like: Tensor) -> Tensor | None:
    """Coefficients in the compute dtype, contiguous."""
    return None if t is None else t.to(spec.compute_dtype(like)).contiguous()


def _code(numbers, scalars, table) -> BasisCode:
    return BasisCode(*numbers, tuple(scalars), table)


@implement("kan_forward")
def kan_forward(x, u, coeff, base_weight, bias, table, code, scalars, base, m, precision, backend=None):
    rows, outputs = x.shape[0], coeff.shape[0]
    if rows == 0 or outputs == 0 or x.shape[1] == 0:
        y = x.new_zeros(rows, outputs)
        return y if bias is None else y + bias.to(x.dtype)
    args = (_rows(x), None if u is None else _rows(u), *(_compute(t, x) for t in (coeff, base_weight, bias)),
            _code(code, scalars, table), base, m, precision)  # fmt: skip
    return backends.select("kan_forward", backend, *args)(*args)


@implement("kan_dx")
def kan_dx(grad, x, u, coeff, base_weight, table, code, scalars, base, m, precision, backend=None):
    if x.numel() == 0 or coeff.shape[0] == 0:
        return x.new_zeros(x.shape)
    args = (_rows(grad), _rows(x), None if u is None else _rows(u), _compute(coeff, x), _compute(base_weight, x),
            _code(code, scalars, table), base, m, precision)  # fmt: skip
    return backends.select("kan_dx", backend, *args)(*args)


@implement("kan_dcoeff")
def kan_dcoeff(grad, x, u, table, code, scalars, base, m, precision, backend=None):
    dtype, outputs, inputs = spec.compute_dtype(x), grad.shape[1], x.shape[1]
    if grad.numel() == 0 or x.numel() == 0:
        return x.new_zeros(outputs, inputs, code[1], dtype=dtype), x.new_zeros(outputs, inputs if base else 0, dtype=dtype)
    args = (_rows(grad), _rows(x), None if u is None else _rows(u), _code(code, scalars, table), base, m, precision)
    dcoeff, dbase = backends.select("kan_dcoeff", backend, *args)(*args)
    return dcoeff, x.new_empty(outputs, 0, dtype=dtype) if dbase is None else dbase


# ---- vmap: rows of a batch are rows; batches of coefficients are separate problems -----------------------------------


def _batched(op, row_args: tuple[int, ...], rows_out: bool):
    def rule(info, in_dims, *args):
        batch = info.batch_size
        dims = tuple(in_dims) + (None,) * (len(args) - len(in_dims))
        is_batched = [isinstance(a, Tensor) and d is not None for a, d in zip(args, dims)]
        if rows_out and not any(b and i not in row_args for i, b in enumerate(is_batched)):
            merged, rows = list(args), 0
            for i in row_args:
                if args[i] is not None:
                    t = args[i].movedim(dims[i], 0) if is_batched[i] else args[i].expand(batch, *args[i].shape)
                    merged[i], rows = t.flatten(0, 1), t.shape[1]
            return op(*merged).unflatten(0, (batch, rows)), 0
        each = [op(*(a.select(d, i) if b else a for a, d, b in zip(args, dims, is_batched))) for i in range(batch)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each))), (0,) * len(each[0])

    return rule


register_vmap("kan_forward")(_batched(kan_forward, (0, 1), True))
register_vmap("kan_dx")(_batched(kan_dx, (0, 1, 2), True))
register_vmap("kan_dcoeff")(_batched(kan_dcoeff, (0, 1, 2), False))


# ---- autograd --------------------------------------------------------------------------------------------------------


def _forward(x, u, coeff, base_weight, bias, table, static: Static) -> Tensor:
    if torch.is_grad_enabled():
        return _Forward.apply(x, u, coeff, base_weight, bias, table, *static)
    return kan_forward(x, u, coeff, base_weight, bias, table, *static)


def _dx(grad, x, u, coeff, base_weight, table, static: Static) -> Tensor:
    call = _Dx.apply if torch.is_grad_enabled() else kan_dx
    return call(grad, x, u, coeff, base_weight, table, *static)


def _dcoeff(grad, x, u, coeff, base_weight, table, static: Static):
    """In the dtypes of the coefficients."""
    call = _Dcoeff.apply if torch.is_grad_enabled() else kan_dcoeff
    dcoeff, dbase = call(grad, x, u, table, *static)
    return dcoeff.to(coeff.dtype), None if base_weight is None else dbase.to(base_weight.dtype)


def _order(static: Static, more: int) -> Static:
    return (*static[:3], static[3] + more, *static[4:])


class _Forward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, u, coeff, base_weight, bias, table, code, scalars, base, m, precision, backend):
        return kan_forward(x, u, coeff, base_weight, bias, table, code, scalars, base, m, precision, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4], inputs[5])
        ctx.bias_dtype = None if inputs[4] is None else inputs[4].dtype
        ctx.static = inputs[6:]

    @staticmethod
    def backward(ctx, grad):
        x, u, c, w, table = ctx.saved_tensors
        needs, s = ctx.needs_input_grad, ctx.static
        dx = _dx(grad, x, u, c, w, table, _order(s, 1)) if needs[0] else None
        du = _dx(grad, x, None, c, w, table, s) if needs[1] else None
        dc, dw = _dcoeff(grad, x, u, c, w, table, s) if needs[2] or needs[3] else (None, None)
        dbias = grad.sum(0, dtype=spec.compute_dtype(grad)).to(ctx.bias_dtype) if needs[4] else None
        return dx, du, dc, dw, dbias, *(None,) * 7


class _Dx(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, u, coeff, base_weight, table, code, scalars, base, m, precision, backend):
        return kan_dx(grad, x, u, coeff, base_weight, table, code, scalars, base, m, precision, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:6])
        ctx.static = inputs[6:]

    @staticmethod
    def backward(ctx, v):
        grad, x, u, c, w, table = ctx.saved_tensors
        needs, s = ctx.needs_input_grad, ctx.static
        uv = v if u is None else u * v
        dgrad = _forward(x, uv, c, w, None, table, s) if needs[0] else None
        dx = _dx(grad, x, uv, c, w, table, _order(s, 1)) if needs[1] else None
        du = _dx(grad, x, v, c, w, table, s) if needs[2] else None
        dc, dw = _dcoeff(grad, x, uv, c, w, table, s) if needs[3] or needs[4] else (None, None)
        return dgrad, dx, du, dc, dw, *(None,) * 7


class _Dcoeff(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, u, table, code, scalars, base, m, precision, backend):
        return kan_dcoeff(grad, x, u, table, code, scalars, base, m, precision, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])
        ctx.static = inputs[4:]

    @staticmethod
    def backward(ctx, wc, ww):
        grad, x, u, table = ctx.saved_tensors
        needs, s = ctx.needs_input_grad, ctx.static
        ww = ww if s[2] else None
        dgrad = _forward(x, u, wc, ww, None, table, s) if needs[0] else None
        dx = _dx(grad, x, u, wc, ww, table, _order(s, 1)) if needs[1] else None
        du = _dx(grad, x, None, wc, ww, table, s) if needs[2] else None
        return dgrad, dx, du, *(None,) * 7


for _f in (_Forward, _Dx, _Dcoeff):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public function -----------------------------------------------------------------------------------------------


def _validate(x, coeff, basis, base_weight, base_activation, bias, derivative, precision) -> int:
    _check.tensor("x", x)
    if not isinstance(basis, Basis):
        raise TypeError(f"basis must be a spectralops.basis.Basis, got {type(basis).__name__}")
    if x.dim() < 1:
        raise ValueError("x must have at least one dimension, (..., I); got a scalar")
    for name, value, rank, what in (
        ("coeff", coeff, 3, "(O, I, K)"),
        ("base_weight", base_weight, 2, "(O, I)"),
        ("bias", bias, 1, "(O,)"),
    ):
        if value is None and name != "coeff":
            continue
        _check.tensor(name, value)
        _check.coefficients_dtype(name, value, "x", x)
        if value.dim() != rank:
            raise ValueError(f"{name} must have shape {what}; got {_check.shape(value)}")
    outputs, inputs, size = coeff.shape
    if x.shape[-1] != inputs:
        raise ValueError(f"the last dimension of x, {x.shape[-1]}, must be the inputs of coeff (O, I, K), {inputs}")
    if size != basis.size:
        raise ValueError(f"coeff has {size} coefficients an edge, the basis {basis!r} has {basis.size} functions")
    if base_weight is not None and base_weight.shape != coeff.shape[:2]:
        raise ValueError(f"base_weight must have shape (O, I) = {(outputs, inputs)}; got {_check.shape(base_weight)}")
    if bias is not None and bias.shape != coeff.shape[:1]:
        raise ValueError(f"bias must have shape (O,) = ({outputs},); got {_check.shape(bias)}")
    _check.same_device("x", x, coeff=coeff, base_weight=base_weight, bias=bias)
    _check.choice("base_activation", base_activation, BASES[1:])
    _check.choice("precision", precision, PRECISIONS)
    if _check.integer("derivative", derivative) < 0:
        raise ValueError(f"derivative must not be negative; got {derivative}")
    basis.check_inputs(inputs)
    return 0 if base_weight is None else BASES.index(base_activation)


def kan_linear(
    x: Tensor,
    coeff: Tensor,
    basis: Basis,
    *,
    base_weight: Tensor | None = None,
    base_activation: str = "silu",
    bias: Tensor | None = None,
    derivative: int = 0,
    precision: str = "highest",
    backend: str | None = None,
) -> Tensor:
    r"""A Kolmogorov-Arnold layer, :math:`y_o = \sum_{i,k} c_{oik} B_k(x_i) + \sum_i w_{oi}\,\sigma(x_i) + b_o`.

    Args:
        x: (..., I), float16, bfloat16, float32 or float64; any strides, any leading shape, empty allowed.
        coeff: c, (O, I, K).
        basis: the functions B_k, from :mod:`spectralops.basis`.
        base_weight: w, (O, I); None leaves the base branch out. base_activation: sigma, "silu", "gelu" (erf form), "relu",
            "identity" or "tanh".
        bias: (O,).
        derivative: m: every edge function is replaced by its m-th derivative in x, B_k^(m) and sigma^(m), and the bias
            left out if m > 0.
        precision: "highest", or "high", which lets a GPU use one-pass tf32 for float32 data. A CPU ignores it.
        backend: None (automatic) or "reference", "cpu", "triton"; there is no CUDA C++ kernel.

    Returns: (..., O), contiguous, x's dtype; computed in float32 (float64 for float64) and rounded once. On a GPU 16-bit data
        goes through tensor cores with 16-bit operands and float32 sums, float32 data through a three-way tf32 split.
        NaN and infinity go through the basis: NaN in x_i gives NaN in every output of its row (Haar's derivative is 0).
        Splines are summed over the order + 1 functions that are not zero, so that a coefficient that is NaN or infinite reaches
        the rows it belongs to; the plain formula multiplies it by the zeros of all others too.

    Derivatives: every order, in x, coeff, base_weight and bias, by the same three kernels at a higher order of the basis
        (orders above 4, and a basis with a learnable table, run as plain PyTorch, which materialises the basis).
        Deterministic: no atomics, sums in an order given by the shapes. Coefficient gradients are summed in float32 and come
        back in the parameter's dtype. Saved for backward: x and the parameters, nothing else.
    Autocast: none; x is used in the dtype it has. torch.func inside torch.compile runs the reference.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, float64 coefficients with narrower x, not a basis.
        ValueError: shapes that do not fit, knots for another number of inputs, mixed devices, an unknown activation or
            precision, a negative derivative.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: Z. Liu et al., KAN: Kolmogorov-Arnold Networks, 2024; the sum as one product over (i, k): Blealtan, efficient-kan.
    """
    base = _validate(x, coeff, basis, base_weight, base_activation, bias, derivative, precision)
    bias = bias if derivative == 0 else None
    rows = x.flatten(0, -2) if x.dim() > 1 else x[None]
    tensors = (coeff, base_weight, bias)
    if isinstance(basis, Mix):
        y = _mixed(rows, basis, tensors, base, derivative, precision, backend)
    else:
        y = _one(rows, basis, tensors, base, derivative, precision, backend)
    return y.view(*x.shape[:-1], coeff.shape[0])


def _one(x, basis, tensors, base, m, precision, backend) -> Tensor:
    code = basis.code(x.dtype, x.device)
    if basis.differentiable and torch.is_grad_enabled() and backend not in (None, "reference"):
        raise RuntimeError(f"backend {backend!r} has no gradient for the table of {basis!r}; only the reference has")
    plain = basis.differentiable and torch.is_grad_enabled()
    if backend == "reference" or plain or traced_transform(backend):
        return spec.forward(x, None, *tensors, code, base, m)
    static = (tuple(code.numbers), code.scalars, base, m, precision, backend)
    if differentiated(x, *tensors):
        return _Forward.apply(x, None, *tensors, code.table, *static)
    return kan_forward(x, None, *tensors, code.table, *static)


def _mixed(x, basis, tensors, base, m, precision, backend) -> Tensor:
    """The sum over the bases of a Mix; in the compute dtype, so that it is rounded once."""
    coeff, base_weight, bias = tensors
    z, y = x.to(spec.compute_dtype(x)), None
    for part, c in zip(basis.bases, coeff.split([b.size for b in basis.bases], dim=-1)):
        extra = (base_weight, bias) if y is None else (None, None)
        term = _one(z, part, (c, *extra), base if y is None else 0, m, precision, backend)
        y = term if y is None else y + term
    return y.to(x.dtype)
