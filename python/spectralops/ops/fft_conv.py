"""`fft_conv`: y = act(gate_out * (conv(gate_in * u, k) + skip * gate_in * u)) * mask, at any length.

Every mode is one linear convolution with lags (fft_conv_taps.py). Two operators run it: the whole of it (`fft_conv`) and all of
its gradients (`fft_conv_backward`), which recomputes from u, k and the gates, the only things saved. Its bare core is three
products that are each other's derivatives, with K the map of v (B, H, L) to c (B, F, H, L) and v*, c* incoming gradients:

    conv(v, k)      dv = adjoint(c*, k)        dk = gradient(c*, v)
    adjoint(c, k)   dc = conv(v*, k)           dk = gradient(c, v*)
    gradient(c, v)  dc = conv(v, k*)           dv = adjoint(c, k*)

so derivatives of every order are the same kernels: the second derivative of the whole differentiates the composition of
these three with pointwise operations, in the compute dtype.

Fewest bytes, s an element, N = B H L: forward 4 N s gated (2 N s plain), backward 7 N s gated (3 N s plain), and 4 H K for the
kernel. Fewest operations known: a row of L needs complex transforms of L points forward and back (right-angle convolution, see
fft_conv_reference.py), 10 L log2 L flops, and as much again for each of the two gradients, whose transforms are shared.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

from . import fft_conv_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from .batching import rows_or_each
from .fft_conv_check import Arguments, check_rows, normalise
from .fft_conv_reference import Call, compute_dtype, new_like_u, new_like_y
from .kernel_spectrum import KernelSpectrum

# What identifies a call beside its tensors: the fields of Call, then backend
Static = tuple


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


@implement("fft_conv")
def conv(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, lag0, grid, activation, precision, blh, length, backend=None):
    """-> y (B, F, H, L)."""
    check_rows(length, u.shape[-1], cu_seqlens)
    if u.numel() == 0:
        return new_like_y(u, kernel.shape[1], blh)
    call = Call(lag0, grid, activation, precision, blh, length)
    args = (u, kernel.contiguous(), _contiguous(skip), gate_in, gate_out, _contiguous(mask), _contiguous(cu_seqlens), call)
    return backends.select("fft_conv", backend, *args)(*args)


@implement("fft_conv_backward")
def conv_backward(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, lag0, grid, activation, precision,
                  blh, length, needs, backend=None):  # fmt: skip
    """-> the gradients of GRADIENTS, empty where not needed."""
    check_rows(length, grad.shape[-1], cu_seqlens)
    call = Call(lag0, grid, activation, precision, blh, length)
    if grad.numel() == 0:
        found = _zeros(grad, kernel_shape, mask, call, needs)
    else:
        args = (grad, u, _contiguous(kernel), _contiguous(skip), gate_in, gate_out, _contiguous(mask), _contiguous(cu_seqlens),
                tuple(kernel_shape), call, tuple(needs))  # fmt: skip
        found = backends.select("fft_conv_backward", backend, *args)(*args)
    return tuple(grad.new_empty(0) if t is None else t for t in found)


def _zeros(grad, kernel_shape, mask, call, needs):
    """The gradients of an empty call."""
    rows = grad[:, 0]
    shapes = (rows.shape, (*kernel_shape, 2) if call.grid else kernel_shape, grad.shape[1:3], rows.shape, grad.shape, mask)
    dtype = compute_dtype(grad)
    zeros = [grad.new_zeros(s.shape if isinstance(s, Tensor) else tuple(s or ()), dtype=dtype) for s in shapes]
    for i, name in enumerate(spec.GRADIENTS):
        if name in ("u", "gate_in"):
            zeros[i] = new_like_u(rows, call.blh)
        elif name == "gate_out":
            zeros[i] = new_like_y(rows, grad.shape[1], call.blh)
    return [z if need else None for z, need in zip(zeros, needs)]


# ---- vmap: batches of rows are rows; batches of kernels are separate problems ----------------------------------------

register_vmap("fft_conv")(rows_or_each(conv, (0, 3, 4, 5), lambda args: args[6] is None and args[1].shape[0] == 1))
register_vmap("fft_conv_backward")(rows_or_each(conv_backward, (), lambda args: False))


# ---- autograd: the bare products -------------------------------------------------------------------------------------


def _shape(kernel: Tensor) -> tuple[int, ...]:
    return tuple(kernel.shape[:4])


class _Conv(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(v, kernel, cu_seqlens, static):
        return conv(v, kernel, None, None, None, None, cu_seqlens, *static)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.static = inputs[3]

    @staticmethod
    def backward(ctx, grad):
        v, kernel, cu = ctx.saved_tensors
        dv = _Adjoint.apply(grad, kernel, cu, ctx.static) if ctx.needs_input_grad[0] else None
        dk = _KernelGradient.apply(grad, v, cu, _shape(kernel), ctx.static) if ctx.needs_input_grad[1] else None
        return dv, dk, None, None


class _Adjoint(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(c, kernel, cu_seqlens, static):
        needs = (True, False, False, False, False, False)
        *call, backend = static
        return conv_backward(c, None, kernel, None, None, None, None, cu_seqlens, _shape(kernel), *call, needs, backend)[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.static = inputs[3]

    @staticmethod
    def backward(ctx, grad):
        c, kernel, cu = ctx.saved_tensors
        dc = _Conv.apply(grad, kernel, cu, ctx.static) if ctx.needs_input_grad[0] else None
        dk = _KernelGradient.apply(c, grad, cu, _shape(kernel), ctx.static) if ctx.needs_input_grad[1] else None
        return dc, dk, None, None


class _KernelGradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(c, v, cu_seqlens, shape, static):
        needs = (False, True, False, False, False, False)
        *call, backend = static
        return conv_backward(c, v, None, None, None, None, None, cu_seqlens, shape, *call, needs, backend)[1]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.static = inputs[4]

    @staticmethod
    def backward(ctx, grad):
        c, v, cu = ctx.saved_tensors
        dc = _Conv.apply(v, grad, cu, ctx.static) if ctx.needs_input_grad[0] else None
        dv = _Adjoint.apply(c, grad, cu, ctx.static) if ctx.needs_input_grad[1] else None
        return dc, dv, None, None, None


def _composed(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, static: Static) -> Tensor:
    """The whole as pointwise operations around _Conv: autograd and torch.func differentiate it to any order."""
    call, dtype = Call(*static[:-1]), compute_dtype(u)
    v = u.to(dtype) if gate_in is None else u.to(dtype) * gate_in.to(dtype)
    z = _Conv.apply(v, kernel, cu_seqlens, (call.lag0, call.grid, "identity", *static[3:]))
    if skip is not None:
        z = z + skip[..., None] * v[:, None]
    if gate_out is not None:
        z = gate_out.to(dtype) * z
    y = spec._act(z, call.activation)
    if mask is not None:
        rows = mask if cu_seqlens is None else mask.repeat_interleave(cu_seqlens.diff(), 0, output_size=u.shape[-1])  # (T, H)
        y = y * (rows[:, None, :, None] if cu_seqlens is None else rows.T)
    return y.to(u.dtype)


# ---- autograd: the whole ---------------------------------------------------------------------------------------------


class _FFTConv(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, static):
        return conv(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, *static)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:7])
        ctx.static = inputs[7]

    @staticmethod
    def backward(ctx, grad):
        tensors, needs = ctx.saved_tensors, tuple(ctx.needs_input_grad[:6])
        if torch.is_grad_enabled():
            found = _FFTConvBackward.apply(grad, *tensors, needs, ctx.static)
        else:
            found = _gradients(grad, *tensors, needs, ctx.static)
        return *(g if need else None for g, need in zip(found, needs)), None, None


def _gradients(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, needs, static):
    *call, backend = static
    return conv_backward(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, _shape(kernel), *call, needs, backend)


class _FFTConvBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, needs, static):
        return _gradients(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, needs, static)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:8])
        ctx.needs, ctx.static = inputs[8:]

    @staticmethod
    def backward(ctx, *cotangents):
        """Differentiates the composed form, from aliases of what was saved, so that inputs that depend on each other stay apart."""
        create = torch.is_grad_enabled()
        with torch.enable_grad():
            alias = [t if t is None or not t.is_floating_point() else t.view_as(t) for t in ctx.saved_tensors]
            for t in alias:
                if t is not None and t.is_floating_point() and not t.requires_grad:
                    t.requires_grad_()
            grad, *inputs = alias
            y = _composed(*inputs, ctx.static)
            wanted = [t for t, need in zip(inputs, ctx.needs) if need]
            first = torch.autograd.grad(y, wanted, grad, create_graph=True)
            given = [v for v, need in zip(cotangents, ctx.needs) if need]
            asked = [t for t, need in zip(alias, ctx.needs_input_grad) if need]
            second = torch.autograd.grad(first, asked, given, create_graph=create, allow_unused=True)
        found = iter(second)
        return *(next(found) if need else None for need in ctx.needs_input_grad[:7]), None, None, None


for _f in (_Conv, _Adjoint, _KernelGradient, _FFTConv, _FFTConvBackward):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public function ---------------------------------------------------------------------------------------------


def _run(a: Arguments, backend: str | None) -> Tensor:
    """y (B, F, H, L)."""
    if backend is not None and backend not in backends.NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, backends.NAMES))}; got {backend!r}")
    tensors = (a.u, a.kernel, a.skip, a.gate_in, a.gate_out, a.mask, a.cu_seqlens)
    if a.u.numel() > 0 and (backend == "reference" or traced_transform(backend)):
        return spec.forward(*tensors, a.call)
    static = (*a.call, backend)
    if not differentiated(*tensors[:6]):
        return conv(*tensors, *static)
    if torch._C._are_functorch_transforms_active():
        return _composed(*tensors, static)
    if torch.compiler.is_compiling():  # Dynamo takes no tensor twice
        tensors = [t if t is None or all(t is not s for s in tensors[:i]) else t.view_as(t) for i, t in enumerate(tensors)]
    return _FFTConv.apply(*tensors, static)


def fft_conv(
    u: Tensor,
    k: Tensor | KernelSpectrum,
    *,
    skip: Tensor | None = None,
    gate_in: Tensor | None = None,
    gate_out: Tensor | None = None,
    k_rev: Tensor | None = None,
    mode: str = "causal",
    activation: str | None = None,
    mask: Tensor | None = None,
    layout: str = "bhl",
    precision: str = "highest",
    multi: bool = False,
    rev_offset: int = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Long convolution with everything around it, :math:`y = \mathrm{act}(g_o (k * (g_i u) + D g_i u))\, m`, in one pass.

    A true convolution, :math:`(k * v)_t = \sum_j k_j v_{t-j}`, v zero outside its row; never circular unless asked for.

    Args:
        u: (..., H, L), or (..., L, H) with layout "blh"; float16, bfloat16, float32 or float64. Any strides, any L, empty allowed.
        k: (H, K); (G, K), each row shared by a contiguous block of H / G channels; (B, H, K) or (B, G, K), one per sample; with
            `multi` (F, H, K) or (B, F, H, K), several filters a channel. Any K. Or a KernelSpectrum.
        skip: D, (H,); with multi also (F, H). gate_in, gate_out: g_i, g_o, broadcast to u's shape. With multi a gate_out of one
            dimension more than u is broadcast to the result's shape, and one of u's dimensions serves every filter.
        k_rev: anticausal taps, shaped as k, added as sum_j k_rev[j] v[t + j + rev_offset]; rev_offset 0 shares lag 0 with k, 1
            begins at lag -1, as S4's and flash-fft-conv's padded form do. Modes "causal" and "circular".
        mode: "causal": lags of L or more have no effect and are no error. "same": y_t = full[t + K // 2], also for even K.
            "circular": indices modulo L, taps beyond L wrap around. "toeplitz": k has 2 L - 1 lags, lag 0 in the middle.
        activation: None, "silu" or "gelu" (erf form). mask: m, (B, H) or broadcast to it ((.., H) with u's leading
            dimensions): one factor a row, a dropout mask.
        precision: "highest", or "high", which lets a GPU use one-pass tf32 for float32 data. A CPU ignores it.
        multi: k has a dimension of filters before its channels; so has the result: (..., F, H, L), or (..., L, F, H) for "blh".
        cu_seqlens: (R + 1,) int, rising from 0 to L: u has a batch of 1 and holds R sequences one after the other; mask and a
            per-sample k then have R rows. Mode "causal". max_seqlen: the longest, or more, which spares reading cu_seqlens from a
            GPU; there it is trusted.
        backend: None (automatic) or "reference", "cpu", "triton", "cuda".

    Returns: u's shape and dtype (with multi a dimension more), contiguous in its layout. Computed in float32 (float64 for
        float64) whatever u's dtype, and rounded once; float16 neither overflows nor loses small numbers on the way. A row
        with NaN or infinity becomes NaN throughout, other rows do not see it.

    Derivatives: every order, in u, k, k_rev, skip, gate_in, gate_out and mask. Backward recomputes: saved are u, the kernel, the
        gates, skip and mask. Kernel gradients are summed over the batch in float32 in a fixed order; two runs are equal
        bit for bit. Under torch.func gates and activation are separate operations; forward mode (jvp, jacfwd, torch.func.hessian)
        takes backend="reference", jacrev of jacrev any.
    Autocast: none; u is used in the dtype it has, gates of a wider dtype widen the arithmetic and not the result.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, float64 parameters with narrower u.
        ValueError: shapes that do not fit, an unknown mode, layout, activation or precision, k_rev in a mode that has none,
            toeplitz with other than 2 L - 1 lags, mixed devices.
        RuntimeError: `backend` was named and cannot run this call (the message says why).

    Source: M. Poli et al., Hyena Hierarchy, 2023; D. Fu et al., FlashFFTConv, 2023.
    """
    a = normalise(u, k, skip, gate_in, gate_out, k_rev, mode, activation, mask, layout, precision, multi, rev_offset,
                  cu_seqlens, max_seqlen)  # fmt: skip
    y = _run(a, backend).to(u.dtype)  # (B, F, H, L)
    if multi:
        y = y.permute(0, 3, 1, 2) if a.call.blh else y
        return y.reshape(*u.shape[:-2], *y.shape[1:])
    y = y.squeeze(1)  # a view whose gradient is one, which that of y[:, 0] is not
    y = y.transpose(1, 2) if a.call.blh else y
    return y.reshape(u.shape)


def stu_conv(u: Tensor, filters: Tensor, *, layout: str = "blh", backend: str | None = None) -> tuple[Tensor, Tensor]:
    r"""The two branches of a spectral transform unit, from one transform of u: :math:`y^+ = f * u` and
    :math:`y^-_t = (-1)^t \sum_j f_j (-1)^{t-j} u_{t-j}`, which is u convolved with :math:`(-1)^j f_j`.

    u (..., L, H) (or (..., H, L) with layout "bhl"); filters (F, K), every one applied to every channel. Returns two tensors
    (..., L, F, H) (or (..., F, H, L)). Dtypes, errors, every derivative, determinism and what is saved are those of fft_conv in
    mode "causal" with several filters.

    Source: N. Agarwal et al., Spectral State Space Models, 2023; Y. Liu et al., Flash STU, 2024.
    """
    _check.tensor("filters", filters)
    if filters.dim() != 2:
        raise ValueError(f"filters must have shape (F, K); got {_check.shape(filters)}")
    if filters.numel() == 0:
        raise ValueError(f"filters must have at least one filter and tap; got {_check.shape(filters)}")
    _check.tensor("u", u)
    _check.coefficients_dtype("filters", filters, "u", u)
    _check.same_device("u", u, filters=filters)
    sign = 1 - 2 * (torch.arange(filters.shape[1], device=filters.device) % 2).to(filters.dtype)
    both = torch.cat([filters, filters * sign])[:, None]  # (2 F, 1, K)
    y = fft_conv(u, both, layout=layout, multi=True, backend=backend)
    return tuple(y.chunk(2, -2 if layout == "blh" else -3))
