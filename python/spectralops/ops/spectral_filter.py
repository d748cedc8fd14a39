"""`spectral_filter`: y = irfftn(rfftn(x) W) over one to three dimensions, one kernel, any grid.

Two operators run it: F(x, W), or its adjoint with `conj`, and G(x, g), the gradient with respect to W. They are each other's
derivatives (spectral_filter_reference.py), so derivatives of every order are the same kernels. Only x and W are saved.

Fewest bytes, s an element of x, N = B N1 N2 N3 C: forward 2 N s, backward 3 N s (5 N s as two kernels), and the weight once, 4 bytes
a real. Fewest operations known: 5 log2(N1 N2 N3) a point and direction.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from . import modes_reference
from . import spectral_filter_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from .batching import rows_or_each
from .fft_conv_reference import compute_dtype
from .modes_reference import Modes
from .plain import exporting


def _check_sizes(x: Tensor, shape) -> None:
    """The sizes that a kernel trusts: a trace or a graph may bring others than the public function saw."""
    samples, n1, n2, bins, groups = shape
    if (n1, n2, bins) != (x.shape[1], x.shape[2], spec.half_size(x.shape[3])) or samples not in (1, x.shape[0]):
        raise ValueError(f"weight of {tuple(shape)} (S, n1, n2, bins, G) does not fit x of {_check.shape(x)} (B, n1, n2, n3, C)")
    if groups < 1 or x.shape[4] % groups:
        raise ValueError(f"{groups} groups do not divide the {x.shape[4]} channels of x")


def _check_like(name: str, t: Tensor | None, shape) -> None:
    if t is not None and tuple(t.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}; got {_check.shape(t)}")


@implement("spectral_filter")
def filter_(x, weight, norm_weight, norm_bias, residual, eps, conj, backend=None):
    """-> F(x, W) in the memory order of x."""
    _check.operand("x", x, 5)
    _check.operand("weight", weight, 6, x, pairs=True)
    _check.operand("residual", residual, 5, x)
    _check_sizes(x, weight.shape[:5])
    _check_like("residual", residual, x.shape)
    for name, t in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        _check.operand(name, t, 1, x)
        _check_like(name, t, x.shape[-1:])
    if x.numel() == 0:
        return torch.empty_like(x)
    weight = weight.to(compute_dtype(x)).contiguous()
    norm_weight, norm_bias = (None if t is None else t.to(compute_dtype(x)).contiguous() for t in (norm_weight, norm_bias))
    args = (x, weight, norm_weight, norm_bias, residual, eps, conj)
    return backends.select("spectral_filter", backend, *args)(*args)


@implement("spectral_filter_gradient")
def gradient(x, grad, norm_weight, norm_bias, eps, samples, groups, backend=None):
    """-> G(x, g) (S, N1, N2, bins, G, 2) in the compute dtype."""
    _check.operand("x", x, 5)
    _check.operand("grad", grad, 5, x)
    shape = (samples, x.shape[1], x.shape[2], spec.half_size(x.shape[3]), groups)
    _check_sizes(x, shape)
    _check_like("grad", grad, x.shape)
    for name, t in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        _check.operand(name, t, 1, x)
        _check_like(name, t, x.shape[-1:])
    if x.numel() == 0:
        return x.new_zeros((*shape, 2), dtype=compute_dtype(x))
    norm_weight, norm_bias = (None if t is None else t.to(compute_dtype(x)).contiguous() for t in (norm_weight, norm_bias))
    args = (x, grad.to(x.dtype), norm_weight, norm_bias, eps, samples, groups)
    return backends.select("spectral_filter_gradient", backend, *args)(*args)


register_vmap("spectral_filter")(rows_or_each(filter_, (0, 4), lambda args: args[1].shape[0] == 1))
register_vmap("spectral_filter_gradient")(rows_or_each(gradient, (0, 1), lambda args: False))


# ---- autograd --------------------------------------------------------------------------------------------------------


class _Filter(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, conj, backend):
        return filter_(x, weight, None, None, None, -1.0, conj, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.static = inputs[2:]

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        conj, backend = ctx.static
        dx = _Filter.apply(grad, weight, not conj, backend) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            a, b = (grad, x) if conj else (x, grad)
            dw = _Gradient.apply(a, b, weight.shape[0], weight.shape[4], backend)
        return dx, dw, None, None


class _Gradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, grad, samples, groups, backend):
        return gradient(x, grad, None, None, -1.0, samples, groups, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.backend = inputs[4]

    @staticmethod
    def backward(ctx, cotangent):
        x, grad = ctx.saved_tensors
        dx = _Filter.apply(grad, cotangent, True, ctx.backend) if ctx.needs_input_grad[0] else None
        dg = _Filter.apply(x, cotangent, False, ctx.backend) if ctx.needs_input_grad[1] else None
        return dx, dg, None, None, None


def _composed(x, weight, norm_weight, norm_bias, residual, eps, backend) -> Tensor:
    """The whole as pointwise operations around F: autograd and torch.func differentiate it to any order."""
    z = x if eps < 0 else spec.normalised(x, norm_weight, norm_bias, eps)
    y = _Filter.apply(z, weight, False, backend)
    return (y if residual is None else y + residual).to(x.dtype)


class _Whole(Function):
    """With a layer norm before the filter, a residual after it, or both."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, norm_weight, norm_bias, residual, eps, backend):
        return filter_(x, weight, norm_weight, norm_bias, residual, eps, False, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])
        ctx.residual, ctx.static = inputs[4] is not None, inputs[5:]

    @staticmethod
    def backward(ctx, grad):
        x, weight, norm_weight, norm_bias = ctx.saved_tensors
        (eps, backend), needs = ctx.static, ctx.needs_input_grad
        dres = grad if ctx.residual and needs[4] else None
        if torch.is_grad_enabled():
            wanted = [t for t, need in zip((x, weight, norm_weight, norm_bias), needs) if need]
            with torch.enable_grad():
                y = _composed(x, weight, norm_weight, norm_bias, None, eps, backend)
                found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True)) if wanted else iter(())
            return *(next(found) if need else None for need in needs[:4]), dres, None, None
        dw = None
        if needs[1]:
            dw = gradient(x, grad, norm_weight, norm_bias, eps, weight.shape[0], weight.shape[4], backend)
        dx = dnw = dnb = None
        if needs[0] or needs[2] or needs[3]:
            dx = filter_(grad, weight, None, None, None, -1.0, True, backend)
            if eps >= 0:
                dx, dnw, dnb = _norm_backward(dx, x, norm_weight, norm_bias, eps, needs)
        return dx, dw, dnw, dnb, dres, None, None


def _norm_backward(grad, x, norm_weight, norm_bias, eps, needs):
    dtype, shape = compute_dtype(x), x.shape[-1:]
    z = x.to(dtype).contiguous()
    _, mean, rstd = torch.ops.aten.native_layer_norm(z, shape, norm_weight, norm_bias, eps)
    mask = [needs[0], needs[2], needs[3]]
    dx, dw, db = torch.ops.aten.native_layer_norm_backward(
        grad.to(dtype).contiguous(), z, shape, mean, rstd, norm_weight, norm_bias, mask
    )
    return dx.to(x.dtype) if needs[0] else None, dw if needs[2] else None, db if needs[3] else None


for _f in (_Filter, _Gradient, _Whole):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public function ---------------------------------------------------------------------------------------------


def lowered(x, weight, norm_weight, norm_bias, residual, eps) -> Tensor:
    """F as products with real matrices: what torch.export and torch.onnx get, standard operators and no complex numbers."""
    sizes = tuple(x.shape[1:4])
    half = Modes(sizes, (0, 0, 0), (0, 0, 0), (*sizes[:2], spec.half_size(sizes[2])))
    spectrum = modes_reference.dft(spec.normalised(x, norm_weight, norm_bias, eps), half, True, 1 / math.prod(sizes), False)
    pairs = spectrum.unflatten(-2, (weight.shape[4], -1))  # (B, N1, N2, bins, G, C / G, 2)
    spectrum = torch.einsum("...cS,...ST->...cT", pairs, modes_reference.matrix(weight.to(pairs.dtype))).flatten(-3, -2)
    return modes_reference.idft(spectrum, half, True, 1.0, True, residual, None, None, "identity", x.dtype)


def run(x, weight, norm_weight, norm_bias, residual, eps, backend) -> Tensor:
    """F on checked tensors of the operators' shapes."""
    tensors = (x, weight, norm_weight, norm_bias, residual)
    if exporting():
        return lowered(*tensors, eps)
    if x.numel() > 0 and (backend == "reference" or traced_transform(backend)):
        return spec.forward(x, weight, norm_weight, norm_bias, residual, eps, False)
    if not differentiated(*tensors):
        return filter_(*tensors, eps, False, backend)
    if torch._C._are_functorch_transforms_active() or x.requires_grad and weight is x:
        return _composed(*tensors, eps, backend)
    if torch.compiler.is_compiling():  # Dynamo takes no tensor twice
        tensors = tuple(t if t is None or all(t is not s for s in tensors[:i]) else t.view_as(t) for i, t in enumerate(tensors))
        x, weight, norm_weight, norm_bias, residual = tensors
    if eps < 0 and residual is None:
        return _Filter.apply(x, weight, False, backend)
    return _Whole.apply(x, weight, norm_weight, norm_bias, residual, eps, backend)


def grid_dims(name: str, dims, rank: int) -> tuple[int, ...]:
    """One to three distinct dimensions of a tensor of `rank`, from the front."""
    dims = _check.integers(name, dims)
    found = tuple(_check.dimension(name, d, rank) for d in dims)
    if not 1 <= len(found) <= 3 or len(set(found)) != len(found):
        raise ValueError(f"{name} must be one to three distinct dimensions; got {dims}")
    return found


def as_real(name: str, t: Tensor) -> Tensor:
    """A complex tensor as a real one with a trailing 2."""
    if isinstance(t, Tensor) and t.is_complex():
        return torch.view_as_real(t.resolve_conj())
    _check.tensor(name, t)
    if t.dim() < 1 or t.shape[-1] != 2:
        raise ValueError(f"{name} must be complex or end in a dimension of 2 (real and imaginary part); got {_check.shape(t)}")
    return t


def channels_last(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """x (.., dims, ..) as (B, N1, N2, N3, C), C its last dimension that is not in dims and B the others, and those others' sizes."""
    rank = x.dim()
    rest = [d for d in range(rank) if d not in dims]
    channel = rest.pop() if rest else None
    order = x.permute(*rest, *dims, *(() if channel is None else (channel,)))
    if channel is None:
        order = order[..., None]
    lead = order.shape[: len(rest)]
    grid = (*(1,) * (3 - len(dims)), *order.shape[len(rest) : len(rest) + len(dims)])
    return order.reshape(math.prod(lead), *grid, order.shape[-1]), lead


def back(y: Tensor, like: Tensor, dims: tuple[int, ...], lead: tuple[int, ...]) -> Tensor:
    """(B, N1, N2, N3, C) as `like` was before channels_last."""
    rest = [d for d in range(like.dim()) if d not in dims]
    grid = y.shape[4 - len(dims) : 4]
    if not rest:
        return y.reshape(grid).permute([sorted(dims).index(d) for d in dims]) if list(dims) != sorted(dims) else y.reshape(grid)
    order = y.reshape(*lead, *grid, y.shape[-1])
    places = [*rest[:-1], *dims, rest[-1]]
    return order.permute([places.index(d) for d in range(like.dim())])


def spectral_filter(
    x: Tensor,
    weight: Tensor,
    *,
    dims: int | tuple[int, ...] = (1, 2),
    norm: str = "ortho",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Global filter :math:`y = \mathrm{irfftn}(W \circ \mathrm{rfftn}(x))` over `dims`: a circular convolution in each channel.

    Args:
        x: (.., n_1, .., n_D, .., C) with one to three transformed dimensions anywhere; its last other dimension is that of the
            channels. float16, bfloat16, float32 or float64, any sizes, any strides, empty allowed.
        weight: (n_1, .., n_D // 2 + 1, C, 2), real and imaginary part, or complex without the 2; n_D is the last of `dims`. Instead of C
            a divisor G of it: channel c takes weight c // (C / G). With one more dimension in front, one per sample of the
            flattened leading dimensions. May stay float32 under 16-bit x.
        dims: the transformed dimensions, in the order of the weight's.
        norm: "ortho", "forward" or "backward"; a transform and its inverse, so the result is the same.
        norm_eps: with a value, the filter acts on layer_norm(x) over the channels with the affine norm_weight, norm_bias (C,)
            (the prologue of GFNet's block); None: no norm.
        residual: added to the result, x's shape.
        backend: None (automatic), "reference", "cpu", "triton", "cuda".

    Returns y of x's shape and dtype, computed in float32 (float64 for float64) and rounded once.

    Semantics: at frequencies 0 and n_D / 2 of the last dimension W acts by its Hermitian part (what irfftn makes of it on a CPU),
    on every device and in every derivative. NaN spreads over its grid and channel and no further.
    Saved for backward: x and weight. Derivatives of every order are the same kernels. Deterministic. Autocast: takes what it is
    given. Errors: TypeError for dtypes, ValueError for shapes, dimensions, devices.

    Source: Y. Rao et al., Global Filter Networks for Image Classification, 2021 (GFNet); B. Patro et al., SpectFormer, 2023.
    """
    _check.tensor("x", x)
    weight = as_real("weight", weight)
    _check.coefficients_dtype("weight", weight, "x", x)
    _check.choice("norm", norm, ("ortho", "forward", "backward"))
    _check.same_device("x", x, weight=weight, norm_weight=norm_weight, norm_bias=norm_bias, residual=residual)
    if backend is not None and backend not in backends.NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, backends.NAMES))}; got {backend!r}")
    dims = grid_dims("dims", dims, x.dim())
    if any(x.shape[d] == 0 for d in dims):
        raise ValueError(f"x of {_check.shape(x)} has no points along a transformed dimension of {dims}")
    z, lead = channels_last(x, dims)
    weight = _weight(weight, z, len(dims))
    norm_weight, norm_bias, eps = _norm(z, norm_weight, norm_bias, norm_eps)
    if residual is not None:
        _check.tensor("residual", residual)
        _check_like("residual", residual, x.shape)
        residual = channels_last(residual, dims)[0]
    return back(run(z, weight, norm_weight, norm_bias, residual, eps, backend), x, dims, lead)


def _weight(weight: Tensor, z: Tensor, count: int) -> Tensor:
    """-> (S, N1, N2, bins, G, 2) in the compute dtype."""
    b, n1, n2, n3, c = z.shape
    half = (*(n1, n2, n3)[3 - count : -1], spec.half_size(n3))
    per_sample = weight.dim() == count + 3
    grid, groups = tuple(weight.shape[per_sample:-2]), weight.shape[-2] if weight.dim() > 1 else 0
    if weight.dim() not in (count + 2, count + 3) or grid != half or per_sample and weight.shape[0] not in (1, b):
        raise ValueError(f"weight must have shape ({', '.join(map(str, half))}, C or a divisor of it, 2), or with {b} samples in"
                         f" front, for this x and dims; got {_check.shape(weight)}")  # fmt: skip
    if groups < 1 and c > 0 or groups > 0 and c % groups:
        raise ValueError(f"weight has {groups} channels, which do not divide the {c} of x")
    samples = weight.shape[0] if per_sample else 1
    return weight.to(compute_dtype(z)).reshape(samples, n1, n2, half[-1], groups, 2)


def _norm(z: Tensor, norm_weight, norm_bias, norm_eps):
    """-> norm_weight, norm_bias in the compute dtype and eps, -1 without a norm."""
    if norm_eps is None:
        if norm_weight is not None or norm_bias is not None:
            raise ValueError("norm_weight and norm_bias need norm_eps")
        return None, None, -1.0
    if not isinstance(norm_eps, (int, float)) or not norm_eps >= 0:
        raise ValueError(f"norm_eps must be a number of at least 0; got {norm_eps!r}")
    found = []
    for name, t in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if t is not None:
            _check.tensor(name, t)
            _check.coefficients_dtype(name, t, "x", z)
            _check_like(name, t, z.shape[-1:])
        found.append(None if t is None else t.to(compute_dtype(z)))
    return *found, float(norm_eps)
