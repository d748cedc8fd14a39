"""`hadamard_transform`, `hadamard_quantize` and `srht`: the Walsh-Hadamard transform of every size m 2^k,
any axis, any order.

The formulas are in `hadamard_reference.py`, the matrices H_m in `hadamard_base.py`. The map is linear: its
gradient is the same kernel with H^T (H_m is not symmetric in general), signs and orders on the other side;
so is the gradient of that, to any order. Fewest bytes: 2 s an element while a row fits on chip, and k + m -
1 additions.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from . import hadamard_reference as spec
from .hadamard_base import check_size, hadamard_base
from .. import _check, backends
from .._ops import FORMATS, differentiated, implement, register_vmap, traced_transform

DTYPES = (*_check.FLOATS, torch.int32, torch.int64)
MAX_SIZE = 1 << 28


# ---- from torch's shapes to (outer, n, inner) ---------------------------------------------------------------------


def _sign_rows(signs: Tensor | None, x: Tensor, block: int) -> Tensor | None:
    """(n,) or (block,) -> contiguous (sign_blocks, block) in the compute dtype."""
    return None if signs is None else signs.to(spec.compute_dtype(x)).reshape(-1, block).contiguous()


def _slices(x: Tensor, dim: int, block: int) -> Tensor:
    """(outer, block, inner) with dense slices: a view where the strides allow one, else one copy."""
    size = x.shape[dim]
    if block == size and dim == x.dim() - 1 and not x.is_contiguous():
        rows = x.reshape(-1, size)
        return (rows if rows.stride(1) == 1 or size == 1 else rows.contiguous())[..., None]
    inner = 1
    for length in x.shape[dim + 1 :]:
        inner *= length
    return x.contiguous().view(-1, block, inner)


@implement("hadamard")
def hadamard(x, signs_in, signs_out, scale, dim, block, order_in, order_out, transpose, backend=None):
    if x.numel() == 0:
        return x.new_empty(x.shape)
    base = hadamard_base(block, transpose)
    signs = (_sign_rows(s, x, block) for s in (signs_in, signs_out))
    args = (_slices(x, dim, block), *signs, base, scale, order_in, order_out)
    return backends.select("hadamard", backend, *args)(*args).view(x.shape)


@implement("hadamard_quantize")
def _hadamard_quantize(x, signs, scale, block, group, format, round_rotation, backend=None):
    *leading, dim = x.shape
    dtype, scale_dtype, packed = FORMATS[format]
    if x.numel() == 0:
        q = x.new_empty((*leading, dim // packed), dtype=dtype)
        return q, x.new_empty((*leading, dim // group), dtype=scale_dtype)
    args = (
        _slices(x, x.dim() - 1, dim).squeeze(2),
        _sign_rows(signs, x, block),
        hadamard_base(block),
        scale,
        block,
        group,
        format,
        round_rotation,
    )
    q, scales = backends.select("hadamard_quantize", backend, *args)(*args)
    return q.view(*leading, -1), scales.view(*leading, -1)


@implement("srht")
def _srht(x, signs, rows, scale, backend=None):
    if x.numel() == 0 or rows.numel() == 0:
        return x.new_empty((*x.shape[:-1], rows.shape[0]))
    n = x.shape[-1]
    args = (_slices(x, x.dim() - 1, n).squeeze(2), _sign_rows(signs, x, n), rows.contiguous(), hadamard_base(n), scale)
    return backends.select("srht", backend, *args)(*args).view(*x.shape[:-1], rows.shape[0])


@register_vmap("hadamard")
def _(info, in_dims, x, signs_in, signs_out, scale, dim, block, order_in, order_out, transpose, backend=None):
    def front(t, d):
        return t.unsqueeze(0).expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)

    x = front(x, in_dims[0])
    rest = (scale, dim + 1, block, order_in, order_out, transpose, backend)
    if in_dims[1] is None and in_dims[2] is None:
        return hadamard(x, signs_in, signs_out, *rest), 0
    y = x.to(spec.compute_dtype(x))  # a row of signs for each sample: products in the compute type
    if in_dims[1] is not None:
        y, signs_in = y * _spread(front(signs_in, in_dims[1]), y, dim + 1), None
    if in_dims[2] is None:
        return hadamard(y, signs_in, signs_out, *rest).to(x.dtype), 0
    y = hadamard(y, signs_in, None, *rest)
    return (y * _spread(front(signs_out, in_dims[2]), y, dim + 1)).to(x.dtype), 0


@register_vmap("srht")
def _(info, in_dims, x, signs, rows, scale, backend=None):
    if in_dims[1] is not None or in_dims[2] is not None:
        raise NotImplementedError("srht maps over x only; signs and rows are one draw for the whole batch")
    return _srht(x.movedim(in_dims[0], 0), signs, rows, scale, backend), 0


# ---- autograd ------------------------------------------------------------------------------------------------------


def _spread(signs: Tensor, x: Tensor, dim: int) -> Tensor:
    """signs (..., n or block) shaped to multiply x along dim, in x's dtype; leading dimensions of signs are x's first."""
    full = signs.repeat(*[1] * (signs.dim() - 1), x.shape[dim] // signs.shape[-1]).to(x.dtype)
    lead, trail = full.shape[:-1], x.dim() - dim - 1
    return full.reshape(*lead, *[1] * (dim - len(lead)), full.shape[-1], *[1] * trail)


def _signs_gradient(product: Tensor, signs: Tensor, dim: int) -> Tensor:
    """sum of product over everything but the position along dim (and over blocks where they share their signs)."""
    flat = product.movedim(dim, -1).reshape(-1, signs.shape[0])
    return flat.sum(0, dtype=spec.compute_dtype(product)).to(signs.dtype)


class _Hadamard(Function):
    """Arguments: x, signs_in, signs_out, scale, dim, block, order_in, order_out, transpose, backend."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, signs_in, signs_out, scale, dim, block, order_in, order_out, transpose, backend):
        return hadamard(x, signs_in, signs_out, scale, dim, block, order_in, order_out, transpose, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, signs_in, signs_out, *ctx.rest = inputs
        given = [s for s in (signs_in, signs_out) if s is not None]
        # Inside torch.func an outer level may follow signs that do not say so.
        ctx.learned = any(s.requires_grad or torch._C._are_functorch_transforms_active() for s in given)
        ctx.save_for_backward(x if ctx.learned else None, signs_in, signs_out)

    @staticmethod
    def backward(ctx, grad):
        x, signs_in, signs_out = ctx.saved_tensors
        scale, dim, block, order_in, order_out, transpose, backend = ctx.rest
        call = _Hadamard.apply if torch.is_grad_enabled() else hadamard
        forth = (scale, dim, block, order_in, order_out, transpose, backend)
        back = (scale, dim, block, order_out, order_in, not transpose, backend)
        none = (None,) * 7
        if not ctx.learned:
            return (call(grad, signs_out, signs_in, *back), None, None, *none)
        # Learned signs: products and sums in the compute type, one rounding at the end.
        wide_x, wide_grad = x.to(spec.compute_dtype(x)), grad.to(spec.compute_dtype(x))
        dx = call(wide_grad, signs_out, None, *back)  # scale H^T (signs_out * grad)
        d_in = d_out = None
        if signs_in is not None:
            d_in = _signs_gradient(dx * wide_x, signs_in, dim)
            dx = dx * _spread(signs_in, dx, dim)
        if signs_out is not None:
            d_out = _signs_gradient(call(wide_x, signs_in, None, *forth) * wide_grad, signs_out, dim)
        dx = dx.to(x.dtype)
        return (dx, d_in, d_out, *none)


_Hadamard.forward.__signature__ = inspect.signature(_Hadamard.forward)  # else inspected again on every call


class _Srht(Function):
    """Arguments: x, signs, rows, scale, backend. Gradient: scatter the rows, then the transposed transform."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, signs, rows, scale, backend):
        return _srht(x, signs, rows, scale, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, signs, rows, scale, backend = inputs
        ctx.save_for_backward(signs, rows)
        ctx.rest = (x.shape[-1], scale, backend)

    @staticmethod
    def backward(ctx, grad):
        signs, rows = ctx.saved_tensors
        n, scale, backend = ctx.rest
        # Repeated rows are added in the compute type; index_put with accumulate sorts on a GPU, so in a fixed order.
        wide = grad.to(spec.compute_dtype(grad))
        zeros = wide.new_zeros((n, *grad.shape[:-1]))
        scattered = zeros.index_put((rows,), wide.movedim(-1, 0), accumulate=True).movedim(0, -1)
        call = _Hadamard.apply if torch.is_grad_enabled() else hadamard
        dx = call(scattered, None, signs, scale, scattered.dim() - 1, n, 0, 0, True, backend)
        return dx.to(grad.dtype), None, None, None, None


_Srht.forward.__signature__ = inspect.signature(_Srht.forward)


# ---- the public functions ---------------------------------------------------------------------------------------------


def _validate_signs(signs: Tensor | None, x: Tensor, size: int, block: int) -> None:
    if signs is None:
        return
    _check.tensor("signs", signs, (*DTYPES, torch.int8, torch.int16))
    if not x.is_floating_point() and signs.is_floating_point():
        raise TypeError(f"signs must be integers for integer x ({x.dtype}); got {signs.dtype}")
    _check.coefficients_dtype("signs", signs, "x", x)
    if signs.dim() != 1 or (signs.shape[0] != size and signs.shape[0] != block):
        lengths = f"({size},)" if size == block else f"({size},) or ({block},)"
        raise ValueError(f"signs must have shape {lengths}; got {_check.shape(signs)}")
    _check.same_device("x", x, signs=signs)


def _validate_scale(scale: float, x: Tensor) -> float:
    if isinstance(scale, Tensor) or not isinstance(scale, (int, float)):
        raise TypeError(f"scale must be a number, got {type(scale).__name__}")
    if not x.is_floating_point() and not (abs(scale) <= 1 << 53 and scale == int(scale)):
        raise ValueError(f"scale must be a whole number of at most 2^53 for integer x, which is exact; got {scale}")
    return float(scale)


def check_block(size: int, block: int | None) -> int:
    size = int(size)  # the transform's size is static under torch.compile; leading dimensions may be dynamic
    block = size if block is None else int(_check.integer("block", block))
    if block < 1 or size % block:
        raise ValueError(f"block must divide the size along dim, {size}; got {block}")
    if block > MAX_SIZE:
        raise ValueError(f"sizes are limited to 2^28; got {block}")
    check_size(block)
    return block


def hadamard_transform(
    x: Tensor,
    scale: float = 1.0,
    *,
    signs: Tensor | None = None,
    dim: int = -1,
    block: int | None = None,
    order: str = "natural",
    backend: str | None = None,
) -> Tensor:
    r"""Walsh-Hadamard transform :math:`y = \mathrm{scale} \cdot H (\mathrm{signs} \odot x)` along one
    dimension.

    :math:`H = H_m \otimes H_{2^k}` for a size n = m 2^k, with :math:`H H^T = n I` exactly: m = 1 is
    Sylvester's matrix, m = 12, 20, 28, 36, 44, 52, 60, ... up to 252 a Paley or Williamson matrix on the
    slow bits (188 and 236 have none here). ``scale=n ** -0.5`` makes it orthogonal; nothing is padded.

    Args:
        x: any shape with size n along `dim`; float16, bfloat16, float32, float64, or int32, int64 (exact,
            wrapping as integers do). Any strides; empty allowed.
        scale: a number; a whole one for integers.
        signs: diagonal applied before H, (n,), or (block,) shared by the blocks; +-1 for a randomised
            rotation, any real numbers otherwise. Learnable.
        dim: the dimension transformed.
        block: transform consecutive blocks of this size on their own (a block-diagonal rotation); default
        the whole dimension.
        order: of the output index: "natural" (Kronecker), "dyadic" (bit-reversed) or "sequency" (row k has
            k sign changes); the last two for powers of two.
        backend: None (automatic) or "reference", "cpu", "triton", "cuda", "cupy".

    Returns: x's shape and dtype, contiguous. float32 arithmetic for 16-bit types, additions only, bits
        combined in a fixed order, then one product by scale and one rounding. NaN and Inf spread over their
        block, as sums do.

    Derivatives: of every order, with :math:`H^T` through the same kernels; with respect to `signs` too.
    Saved for backward: `signs`; x only when `signs` require a gradient. Deterministic. Autocast: none.
    torch.func inside torch.compile runs the reference.

    Raises:
        TypeError: not a dense tensor, an unsupported dtype, real signs or a fractional type for integers.
        ValueError: a size without a Hadamard matrix or above 2^28, `block` that does not divide, signs of
            another length, unknown order, order other than natural for a size that is no power of two,
            mixed devices.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: J. J. Sylvester 1867, R. E. A. C. Paley 1933, J. Williamson 1944; B. J. Fino, V. R. Algazi, IEEE
    Trans. Comput. C-25 (1976) 1142-1146 for the fast transform and its orders.
    """
    _check.tensor("x", x, DTYPES)
    if x.dim() == 0:
        raise ValueError("x must have at least one dimension; got a scalar")
    dim = _check.dimension("dim", dim, x.dim())
    block = check_block(x.shape[dim], block)
    _check.choice("order", order, spec.ORDERS)
    code = spec.ORDERS.index(order)
    if code and block & (block - 1):
        raise ValueError(f"order {order!r} is defined for powers of two; the block here is {block}")
    scale = _validate_scale(scale, x)
    _validate_signs(signs, x, x.shape[dim], block)
    rest = (scale, dim, block, 0, code, False, backend)
    if traced_transform(backend):
        plain = (_slices(x, dim, block), _sign_rows(signs, x, block), None, hadamard_base(block))
        return spec.hadamard(*plain, scale, 0, code).view(x.shape)
    if differentiated(x, signs):
        return _Hadamard.apply(x, signs, None, *rest)
    return hadamard(x, signs, None, *rest)


def srht(
    x: Tensor, signs: Tensor, rows: Tensor, scale: float | None = None, *, backend: str | None = None
) -> Tensor:
    r"""Subsampled randomised Hadamard transform :math:`y = \mathrm{scale} \cdot (H (\mathrm{signs} \odot
    x))[\mathrm{rows}]`.

    A Johnson-Lindenstrauss embedding of (..., n) into (..., s), s = len(rows): with random signs, rows
    drawn uniformly and the default ``scale = s ** -0.5`` the expected squared norm is kept. One pass: only
    the chosen rows are written.

    Args:
        x: (..., n), n = m 2^k as for :func:`hadamard_transform`; float16, bfloat16, float32 or float64.
        signs: (n,), +-1.
        rows: (s,) int64 in [0, n), in any order, repeats allowed.
        scale: default s ** -0.5.

    Derivatives: of every order in x (scatter, then H^T); `signs` that require a gradient take the composed
    form. Saved for backward: signs and rows. Deterministic. Autocast: none. Raises as
    :func:`hadamard_transform`, and ValueError for rows outside [0, n) on a CPU; a GPU cannot check them
    without waiting and gives NaN there.

    Source: N. Ailon, B. Chazelle, SIAM J. Comput. 39 (2009) 302-322; J. A. Tropp, Adv. Adapt. Data Anal. 3
    (2011) 115-126.
    """
    _check.tensor("x", x)
    if x.dim() == 0:
        raise ValueError("x must have at least one dimension; got a scalar")
    n = check_block(x.shape[-1], None)
    if not isinstance(signs, Tensor):
        raise TypeError(f"signs must be a torch.Tensor, got {type(signs).__name__}")
    _validate_signs(signs, x, n, n)
    _check.tensor("rows", rows, (torch.int64,))
    if rows.dim() != 1:
        raise ValueError(f"rows must have shape (s,); got {_check.shape(rows)}")
    _check.same_device("x", x, rows=rows)
    if rows.device.type == "cpu" and type(rows) is Tensor and rows.numel() and not torch.compiler.is_compiling():
        low, high = (int(v) for v in torch.aminmax(rows))
        if low < 0 or high >= n:
            raise ValueError(f"rows must be in [0, {n}); got values from {low} to {high}")
    scale = _validate_scale(max(rows.shape[0], 1) ** -0.5 if scale is None else scale, x)
    if traced_transform(backend) or (torch.is_grad_enabled() and signs.requires_grad):
        return hadamard_transform(x, scale, signs=signs, backend=backend).index_select(-1, rows)
    if differentiated(x):
        return _Srht.apply(x, signs, rows, scale, backend)
    return _srht(x, signs, rows, scale, backend)
