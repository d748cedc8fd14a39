"""Calls of the C core (csrc/capi/spectralops.h) on torch tensors, shared by the `cpu` and `cuda` backends.

`where(x)` gives the last arguments of every call: device, threads, stream. The caller has checked everything.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._loader import core
from .._ops import FORMATS
from ..ops.activations_reference import WIRE, WIRE_COMPLEX

DTYPES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.int32: 4,
    torch.int64: 5,
}
MAX_DEGREE = 32  # of the general rational and polynomial kernels
FORMAT_CODES = {name: code for code, name in enumerate(FORMATS)}


def _pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


# Where launches are only planned here and run later, the workspaces they name must live until then.
keeping: ContextVar[list[Tensor] | None] = ContextVar("keeping", default=None)


def _workspace(size: int, device: torch.device) -> Tensor | None:
    if not size:
        return None
    work = torch.empty(size, dtype=torch.uint8, device=device)
    if (kept := keeping.get()) is not None:
        kept.append(work)
    return work


def _coefficients(num: Tensor, den: Tensor) -> tuple[int, int, int, int]:
    """Pointers and group strides; a single row is shared by stride 0."""
    return (
        num.data_ptr(),
        num.shape[1] if num.shape[0] > 1 else 0,
        den.data_ptr(),
        den.shape[1] if den.shape[0] > 1 else 0,
    )


def _sizes(x: Tensor, num: Tensor, den: Tensor, version: int) -> tuple[int, ...]:
    """rows, dim, groups, num_degree, den_degree, version."""
    groups = max(num.shape[0], den.shape[0])
    return (*x.shape, groups, num.shape[1] - 1, den.shape[1] - (version == 2), version)


DEFAULT_SHARED = 48 * 1024  # bytes any GPU gives a block without being asked

# The position of x among the arguments of a backend function; the rational coefficients follow it.
_X = {"rational_backward": 1, "rational_double_backward": 4}
# That of the parameters of an activation, or of poly_norm's weight.
_TABLE = {
    "activation_forward": 1,
    "activation_backward": 2,
    "activation_double_backward": 4,
    "poly_norm_forward": 1,
    "poly_norm_backward": 2,
    "poly_norm_double_backward": 5,
}


def unsupported(function: str, *args) -> str | None:
    """Why the core has no kernel for this call, or None."""
    if function.startswith("fft_conv"):
        from ._fft_conv import unsupported as fft_conv_unsupported

        return fft_conv_unsupported(function, *args)
    if function.startswith(("spectral", "mode", "fourier", "dct", "haar", "istft_head", "circulant")):
        from ._spectral import unsupported as spectral_unsupported

        return spectral_unsupported(function, *args)
    if function in ("sparse_wht_decode", "walsh_sum"):
        from ._sparse_wht import unsupported as sparse_wht_unsupported

        return sparse_wht_unsupported(function, *args)
    if function.startswith("kan"):
        return _kan_unsupported(function, *args)
    if function.startswith(("activation", "poly_norm", "fan")) and args[0].device.type != "cpu":
        return f"no CUDA C++ kernel for {function}"
    at = _X.get(function, 0)
    if args[at].dtype not in DTYPES:
        return f"no kernel for {args[at].dtype}"
    if function.startswith("rational") and max(args[at + 1].shape[1] - 1, args[at + 2].shape[1]) > MAX_DEGREE:
        return f"degrees above {MAX_DEGREE}"
    if function in _TABLE and args[_TABLE[function]].shape[0] > MAX_DEGREE + 1:
        return f"more than {MAX_DEGREE + 1} parameters"
    return None


MAX_DERIVATIVE = 4  # of the basis: the kernels' Taylor arithmetic is unrolled to this order, and none asks for more


def _kan_unsupported(function: str, *args) -> str | None:
    x, code, m = args[0 if function == "kan_forward" else 1], args[-4], args[-2]
    if x.device.type != "cpu":
        return "no CUDA kernel for kan_linear"
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        return f"no kernel for {x.dtype}"
    if m > MAX_DERIVATIVE:
        return f"derivatives of the basis above order {MAX_DERIVATIVE}"
    if code.table is not None and code.table.device != x.device:
        return f"the basis has its table on {code.table.device}"
    return None


class Limits(NamedTuple):
    sm: int  # compute capability, 90 for 9.0
    sm_count: int
    shared: int  # largest dynamic shared memory of a block, bytes


@lru_cache(maxsize=None)
def limits(index: int) -> Limits:
    properties = torch.cuda.get_device_properties(index)
    shared = getattr(properties, "shared_memory_per_block_optin", DEFAULT_SHARED)
    return Limits(10 * properties.major + properties.minor, properties.multi_processor_count, shared)


_ADDRESS = 1 << 20  # stands for an aligned pointer where a call is only planned


@lru_cache(maxsize=256)
def _quantise_plan(gpu: Limits, dim: int, block: int, group: int, m: int, format: int, dtype: int) -> str | None:
    core().record_begin(*gpu)
    try:
        core().hadamard_quantize(
            _ADDRESS, dim, _ADDRESS, _ADDRESS, 0, 1, _ADDRESS if m > 1 else 0, 1, dim, block, group, m, 1.0, format,
            0, 0, 0, dtype, 0, 1, 0,
        )  # fmt: skip
    except RuntimeError as error:
        return str(error)
    finally:
        core().record_end()
    return None


def unplannable(function: str, *args) -> str | None:
    """Why the CUDA kernels cannot run this call on x's GPU, or None: a rotation and its groups may not fit one block."""
    if function.startswith("fft_conv"):
        from ._fft_conv import unplannable as fft_conv_unplannable

        return fft_conv_unplannable(function, *args)
    if function.startswith("spectral_filter"):
        from ._spectral import unplannable as filter_unplannable

        return filter_unplannable(function, *args)
    if function == "sparse_wht_decode":
        from ._sparse_wht import unplannable as sparse_wht_unplannable

        return sparse_wht_unplannable(*args)
    if function != "hadamard_quantize":
        return None
    x, _, base, _, block, group, format, _ = args
    m = base.size if base else 1
    return _quantise_plan(limits(x.device.index), x.shape[1], block, group, m, FORMAT_CODES[format], DTYPES[x.dtype])


def rational_forward(where, x, num, den, version):
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    core().rational_forward(
        x.data_ptr(), x.stride(0), *_coefficients(num, den), y.data_ptr(),
        *_sizes(x, num, den, version), DTYPES[x.dtype], *where(x),
    )  # fmt: skip
    return y


def _rational_outputs(x, num, den, version, device_code):
    sizes = _sizes(x, num, den, version)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dnum, dden = num.new_empty((sizes[2], num.shape[1])), den.new_empty((sizes[2], den.shape[1]))
    work = _workspace(core().rational_workspace(*sizes, DTYPES[x.dtype], device_code), x.device)
    return sizes, dx, dnum, dden, work


def rational_backward(where, grad, x, num, den, version, sign_at_zero):
    place = where(x)
    sizes, dx, dnum, dden, work = _rational_outputs(x, num, den, version, place[0])
    core().rational_backward(
        grad.data_ptr(), grad.stride(0), x.data_ptr(), x.stride(0), *_coefficients(num, den),
        dx.data_ptr(), dnum.data_ptr(), dden.data_ptr(), _pointer(work), 0 if work is None else work.numel(),
        *sizes, sign_at_zero, DTYPES[x.dtype], *place,
    )  # fmt: skip
    return dx, dnum, dden


def rational_double_backward(where, ggx, ggnum, ggden, grad, x, num, den, version, sign_at_zero):
    place = where(x)
    sizes, dx, dnum, dden, work = _rational_outputs(x, num, den, version, place[0])
    dgrad = torch.empty_like(dx)
    core().rational_double_backward(
        ggx.data_ptr(), ggx.stride(0), ggnum.data_ptr(), ggden.data_ptr(), grad.data_ptr(), grad.stride(0),
        x.data_ptr(), x.stride(0), *_coefficients(num, den),
        dgrad.data_ptr(), dx.data_ptr(), dnum.data_ptr(), dden.data_ptr(), _pointer(work), 0 if work is None else work.numel(),
        *sizes, sign_at_zero, DTYPES[x.dtype], *place,
    )  # fmt: skip
    return dgrad, dx, dnum, dden


def _wavelet_outputs(x, weight, kind, place):
    """Gradients, the workspace, and what every call ends with."""
    sizes = (*x.shape, weight.shape[0])
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sums = tuple(torch.empty_like(weight) for _ in range(3))
    size = core().wavelet_workspace(*sizes, DTYPES[x.dtype], place[0])
    work = _workspace(size, x.device)
    return (dx, *sums), work, (size, *sizes, kind, DTYPES[x.dtype], *place)


def wavelet_forward(where, x, weight, scale, translation, kind):
    y = torch.empty((x.shape[0], weight.shape[0]), dtype=x.dtype, device=x.device)
    core().wavelet_forward(
        x.data_ptr(), x.stride(0), weight.data_ptr(), scale.data_ptr(), translation.data_ptr(), y.data_ptr(),
        *x.shape, weight.shape[0], kind, DTYPES[x.dtype], *where(x),
    )  # fmt: skip
    return y


def wavelet_backward(where, grad, x, weight, scale, translation, kind):
    outputs, work, rest = _wavelet_outputs(x, weight, kind, where(x))
    core().wavelet_backward(
        grad.data_ptr(), grad.stride(0), x.data_ptr(), x.stride(0), *(p.data_ptr() for p in (weight, scale, translation)),
        *(t.data_ptr() for t in outputs), _pointer(work), *rest,
    )  # fmt: skip
    return outputs


def wavelet_double_backward(where, ggx, ggw, ggs, ggt, grad, x, weight, scale, translation, kind):
    outputs, work, rest = _wavelet_outputs(x, weight, kind, where(x))
    outputs = (torch.empty(grad.shape, dtype=grad.dtype, device=grad.device), *outputs)
    core().wavelet_double_backward(
        ggx.data_ptr(), ggx.stride(0), *(p.data_ptr() for p in (ggw, ggs, ggt)), grad.data_ptr(), grad.stride(0),
        x.data_ptr(), x.stride(0), *(p.data_ptr() for p in (weight, scale, translation)),
        *(t.data_ptr() for t in outputs), _pointer(work), *rest,
    )  # fmt: skip
    return outputs


def hadamard(where, x, signs_in, signs_out, base, scale, order_in, order_out):
    outer, n, inner = x.shape
    m, place, code = base.size if base else 1, where(x), DTYPES[x.dtype]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    size = core().hadamard_workspace(outer, n, inner, m, code, *place[:2])
    work = _workspace(size, x.device)
    signs = signs_in if signs_in is not None else signs_out
    core().hadamard(
        x.data_ptr(), x.stride(0), y.data_ptr(), _pointer(signs_in), _pointer(signs_out), 1 if signs is None else signs.shape[0],
        _pointer(base.packed(x.device) if base else None), outer, n, inner, m, scale, order_in, order_out,
        _pointer(work), size, code, *place,
    )  # fmt: skip
    return y


def hadamard_quantize(where, x, signs, base, scale, block, group, format, round_rotation):
    rows, dim = x.shape
    dtype, scale_dtype, packed = FORMATS[format]
    m, place, code = base.size if base else 1, where(x), DTYPES[x.dtype]
    q = torch.empty((rows, dim // packed), dtype=dtype, device=x.device)
    scales = torch.empty((rows, dim // group), dtype=scale_dtype, device=x.device)
    size = core().hadamard_quantize_workspace(rows, dim, block, m, code, *place[:2])
    work = _workspace(size, x.device)
    core().hadamard_quantize(
        x.data_ptr(), x.stride(0), q.data_ptr(), scales.data_ptr(), _pointer(signs), 1 if signs is None else signs.shape[0],
        _pointer(base.packed(x.device) if base else None), rows, dim, block, group, m, scale, FORMAT_CODES[format],
        int(round_rotation), _pointer(work), size, code, *place,
    )  # fmt: skip
    return q, scales


def srht(where, x, signs, rows, base, scale):
    outer, n = x.shape
    m, place, code = base.size if base else 1, where(x), DTYPES[x.dtype]
    y = torch.empty((outer, rows.shape[0]), dtype=x.dtype, device=x.device)
    size = core().srht_workspace(outer, n, m, code, *place[:2])
    work = _workspace(size, x.device)
    core().srht(
        x.data_ptr(), x.stride(0), _pointer(signs), rows.data_ptr(), y.data_ptr(),
        _pointer(base.packed(x.device) if base else None), outer, n, rows.shape[0], m, scale,
        _pointer(work), size, code, *place,
    )  # fmt: skip
    return y


# ---- activations, poly_norm, fan: on a CPU only ----------------------------------------------------------------------


def _activation_sizes(x, params, function) -> tuple[int, ...]:
    """outer, channels, inner, count, function, dtype."""
    count, channels = params.shape
    shape = x.shape[:3] if channels != 1 else (1, 1, x.numel() // (2 if function == WIRE_COMPLEX else 1))
    return *shape, count, function, DTYPES[x.dtype]


def activation_forward(where, x, params, function):
    y = torch.empty((*x.shape, 2) if function == WIRE else x.shape, dtype=x.dtype, device=x.device)
    core().activation_forward(
        x.data_ptr(), params.data_ptr(), y.data_ptr(), *_activation_sizes(x, params, function), *where(x)
    )
    return y


def _activation_outputs(where, x, params, function, need_params):
    """dx, dparams, workspace, then the arguments that name them: dx, dparams, workspace, its size, sizes, place."""
    place, sizes, dx = where(x), _activation_sizes(x, params, function), torch.empty_like(x)
    dparams = torch.empty_like(params) if need_params else None
    work = _workspace(core().activation_workspace(*sizes, place[0]) if need_params else 0, x.device)
    space = _pointer(work), 0 if work is None else work.numel()
    return dx, dparams, work, (dx.data_ptr(), _pointer(dparams), *space, *sizes, *place)


def activation_backward(where, grad, x, params, function, need_params):
    dx, dparams, _work, rest = _activation_outputs(where, x, params, function, need_params)
    core().activation_backward(grad.data_ptr(), x.data_ptr(), params.data_ptr(), *rest)
    return dx, dparams


def activation_double_backward(where, ggx, ggparams, grad, x, params, function, need_params):
    dx, dparams, _work, rest = _activation_outputs(where, x, params, function, need_params)
    dgrad = torch.empty_like(grad)
    core().activation_double_backward(
        ggx.data_ptr(), _pointer(ggparams), grad.data_ptr(), x.data_ptr(), params.data_ptr(), dgrad.data_ptr(), *rest
    )
    return dgrad, dx, dparams


def poly_norm_forward(where, x, weight, bias, eps):
    y = torch.empty_like(x)
    core().poly_norm_forward(
        x.data_ptr(), weight.data_ptr(), bias.data_ptr(), y.data_ptr(), *x.shape, weight.shape[0], eps, DTYPES[x.dtype], *where(x)
    )
    return y


def _poly_norm_outputs(where, x, weight, eps):
    """dx, dweight, workspace, then its arguments and the last ones: workspace, its size, sizes, eps, dtype, place."""
    place, code, sizes = where(x), DTYPES[x.dtype], (*x.shape, weight.shape[0])
    work = _workspace(core().poly_norm_workspace(*sizes, code, place[0]), x.device)
    space = _pointer(work), 0 if work is None else work.numel()
    return torch.empty_like(x), torch.empty_like(weight), work, (*space, *sizes, eps, code, *place)


def poly_norm_backward(where, grad, x, weight, eps):
    dx, dweight, _work, rest = _poly_norm_outputs(where, x, weight, eps)
    dbias = weight.new_empty(1)
    core().poly_norm_backward(
        grad.data_ptr(), x.data_ptr(), weight.data_ptr(), dx.data_ptr(), dweight.data_ptr(), dbias.data_ptr(), *rest
    )
    return dx, dweight, dbias


def poly_norm_double_backward(where, ggx, ggweight, ggbias, grad, x, weight, eps):
    dx, dweight, _work, rest = _poly_norm_outputs(where, x, weight, eps)
    dgrad = torch.empty_like(x)
    core().poly_norm_double_backward(
        ggx.data_ptr(), ggweight.data_ptr(), ggbias.data_ptr(), grad.data_ptr(), x.data_ptr(), weight.data_ptr(),
        dgrad.data_ptr(), dx.data_ptr(), dweight.data_ptr(), *rest,
    )  # fmt: skip
    return dgrad, dx, dweight


def _fan_rest(where, h, e) -> tuple[int, ...]:
    return (*h.shape, e.shape[1], DTYPES[h.dtype], *where(h))


def fan_forward(where, h, e):
    y = torch.empty((h.shape[0], 2 * h.shape[1] + e.shape[1]), dtype=h.dtype, device=h.device)
    core().fan_forward(h.data_ptr(), e.data_ptr(), y.data_ptr(), *_fan_rest(where, h, e))
    return y


def fan_backward(where, grad, h, e):
    dh, de = torch.empty_like(h), torch.empty_like(e)
    inputs = grad.data_ptr(), h.data_ptr(), e.data_ptr()
    core().fan_backward(*inputs, dh.data_ptr(), de.data_ptr(), *_fan_rest(where, h, e))
    return dh, de


def fan_double_backward(where, ggh, gge, grad, h, e):
    dgrad, dh, de = torch.empty_like(grad), torch.empty_like(h), torch.empty_like(e)
    inputs = (t.data_ptr() for t in (ggh, gge, grad, h, e))
    core().fan_double_backward(*inputs, dgrad.data_ptr(), dh.data_ptr(), de.data_ptr(), *_fan_rest(where, h, e))
    return dgrad, dh, de


def _kan(operation: int, where, x, u, outputs: int, code, base: int, m: int, first, middle, out) -> None:
    """One of the three: `first` before x and u, `middle` after them, `out` the outputs."""
    place, table = where(x), code.table
    basis = (code.family, code.size, code.a, code.b, code.c)
    sizes = (x.shape[0], x.shape[1], outputs)
    size = core().kan_workspace(operation, *sizes, *basis, base, DTYPES[x.dtype], *place[:2])
    work = _workspace(size, x.device)
    scalars = (*code.scalars, 0.0, 0.0)[:2]
    (core().kan_forward, core().kan_dx, core().kan_dcoeff)[operation](
        *first, x.data_ptr(), x.stride(0), _pointer(u), 0 if u is None else u.stride(0), *map(_pointer, middle),
        _pointer(table), 1 if table is None else table.shape[0], *map(_pointer, out), _pointer(work), size,
        *sizes, *basis, *scalars, base, m, DTYPES[x.dtype], *place,
    )  # fmt: skip


def kan_forward(where, x, u, coeff, base_weight, bias, code, base, m, precision):
    y = torch.empty((x.shape[0], coeff.shape[0]), dtype=x.dtype, device=x.device)
    _kan(0, where, x, u, coeff.shape[0], code, base, m, (), (coeff, base_weight, bias), (y,))
    return y


def kan_dx(where, grad, x, u, coeff, base_weight, code, base, m, precision):
    d = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first = (grad.data_ptr(), grad.stride(0))
    _kan(1, where, x, u, grad.shape[1], code, base, m, first, (coeff, base_weight), (d,))
    return d


def kan_dcoeff(where, grad, x, u, code, base, m, precision):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    shape = (grad.shape[1], x.shape[1])
    dcoeff = torch.empty((*shape, code.size), dtype=dtype, device=x.device)
    dbase = torch.empty(shape, dtype=dtype, device=x.device) if base else None
    _kan(2, where, x, u, grad.shape[1], code, base, m, (grad.data_ptr(), grad.stride(0)), (), (dcoeff, dbase))
    return dcoeff, dbase
