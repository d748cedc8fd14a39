"""Truncated transforms between a grid and a box of modes, and the mixing of channels in each mode: what spectral_conv and
spectral_mlp are made of. Formulas and shapes: modes_reference.py.

Five operators, closed under differentiation: mode_dft and mode_idft are adjoint to each other, and the three products of mode_mix
are each other's derivatives. Fewest bytes: the grid once and the kept modes once; the full spectrum never exists.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from . import modes_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap
from .batching import rows_or_each
from .fft_conv_reference import compute_dtype
from .modes_reference import Modes


def _check_modes(modes: Modes, grid: tuple[int, ...], box: tuple[int, ...] | None) -> None:
    """The sizes that a kernel trusts: a trace or a graph may bring others than the public function saw."""
    if {*map(len, modes)} != {3}:
        raise ValueError(f"sizes, starts, shifts and counts must have three entries each; got {tuple(modes)}")
    if tuple(grid) != modes.sizes or box is not None and tuple(box) != modes.counts:
        raise ValueError(f"grid {tuple(grid)} and modes {box} do not fit the call's {modes.sizes} and {modes.counts}")
    if any(m > n or m < 1 for m, n in zip(modes.counts, modes.sizes)):
        raise ValueError(f"modes {modes.counts} must be 1 to the size of the grid, {modes.sizes}")


def _check_like(name: str, t: Tensor | None, shape) -> None:
    if t is not None and tuple(t.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}; got {tuple(t.shape)}")


def new_spectrum(x: Tensor, counts, last: bool) -> Tensor:
    b, c = x.shape[0], x.shape[4 if last else 1]
    return x.new_empty((b, *counts, c, 2) if last else (b, c, *counts, 2), dtype=compute_dtype(x))


def new_grid(spectrum: Tensor, sizes, last: bool, dtype: torch.dtype) -> Tensor:
    b, c = spectrum.shape[0], spectrum.shape[4 if last else 1]
    return spectrum.new_empty((b, *sizes, c) if last else (b, c, *sizes), dtype=dtype)


@implement("mode_dft")
def dft(x, sizes, starts, shifts, counts, last, scale, doubled, backend=None):
    _check.operand("x", x, 5)
    modes = Modes(tuple(sizes), tuple(starts), tuple(shifts), tuple(counts))
    _check_modes(modes, x.shape[1:4] if last else x.shape[2:], None)
    if x.numel() == 0:
        return new_spectrum(x, counts, last)
    args = (x, modes, last, scale, doubled)
    return backends.select("mode_dft", backend, *args)(*args)


@implement("mode_idft")
def idft(spectrum, sizes, starts, shifts, counts, last, scale, doubled, skip, bias, grad, activation, dtype, backend=None):
    _check.operand("spectrum", spectrum, 6, pairs=True)
    for name, t, rank in (("skip", skip, 5), ("bias", bias, 1), ("grad", grad, 5)):
        _check.operand(name, t, rank, spectrum)
    _check.choice("activation", activation, spec.ACTIVATIONS)
    _check.choice("dtype", dtype, _check.FLOATS)
    spectrum = spectrum.to(torch.float64 if dtype == torch.float64 else torch.float32)
    modes = Modes(tuple(sizes), tuple(starts), tuple(shifts), tuple(counts))
    _check_modes(modes, sizes, spectrum.shape[1:4] if last else spectrum.shape[2:5])
    out = new_grid(spectrum, sizes, last, dtype)
    _check_like("skip", skip, out.shape)
    _check_like("grad", grad, out.shape)
    _check_like("bias", bias, spectrum.shape[4 if last else 1 : 5 if last else 2])
    if out.numel() == 0:
        return out
    bias = None if bias is None else bias.to(spectrum.dtype).contiguous()
    args = (spectrum.contiguous(), modes, last, scale, doubled, skip, bias, grad, activation, dtype)
    return backends.select("mode_idft", backend, *args)(*args)


def _check_mix(spectrum: Tensor, weight: Tensor, inputs: int, outputs: int) -> None:
    _check.operand("spectrum", spectrum, 4, pairs=True)
    _check.operand("weight", weight, 4, spectrum, pairs=True)
    if tuple(weight.shape) != (inputs, outputs, spectrum.shape[2], 2):
        raise ValueError(f"weight must have shape {(inputs, outputs, spectrum.shape[2], 2)}; got {tuple(weight.shape)}")


@implement("mode_mix")
def mix(spectrum, weight, adjoint, backend=None):
    inputs, outputs = weight.shape[:2]
    _check_mix(spectrum, weight, *((inputs, spectrum.shape[1]) if adjoint else (spectrum.shape[1], outputs)))
    b, _, modes, _ = spectrum.shape
    if spectrum.numel() == 0 or weight.numel() == 0:
        return spectrum.new_zeros(b, inputs if adjoint else outputs, modes, 2)
    args = (spectrum.contiguous(), weight.contiguous(), adjoint)
    return backends.select("mode_mix", backend, *args)(*args)


@implement("mode_mix_gradient")
def mix_gradient(spectrum, grad, backend=None):
    _check.operand("spectrum", spectrum, 4, pairs=True)
    _check.operand("grad", grad, 4, spectrum, pairs=True)
    if spectrum.shape[0] != grad.shape[0] or spectrum.shape[2:] != grad.shape[2:]:
        raise ValueError(f"spectra of {tuple(spectrum.shape)} and {tuple(grad.shape)} must agree in rows and modes")
    if spectrum.numel() == 0 or grad.numel() == 0:
        return spectrum.new_zeros(spectrum.shape[1], grad.shape[1], spectrum.shape[2], 2)
    args = (spectrum.contiguous(), grad.to(spectrum.dtype).contiguous())
    return backends.select("mode_mix_gradient", backend, *args)(*args)


register_vmap("mode_dft")(rows_or_each(dft, (0,)))
register_vmap("mode_idft")(rows_or_each(idft, (0, 8, 10)))
register_vmap("mode_mix")(rows_or_each(mix, (0,)))
register_vmap("mode_mix_gradient")(rows_or_each(mix_gradient, (0, 1), lambda args: False))


# ---- autograd --------------------------------------------------------------------------------------------------------


class _Dft(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, modes, last, scale, doubled, backend):
        return dft(x, *modes, last, scale, doubled, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, *ctx.static = inputs
        ctx.dtype = x.dtype

    @staticmethod
    def backward(ctx, grad):
        return _Idft.apply(grad, *ctx.static[:4], ctx.dtype, ctx.static[4]), None, None, None, None, None


class _Idft(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(spectrum, modes, last, scale, doubled, dtype, backend):
        return idft(spectrum, *modes, last, scale, doubled, None, None, None, "identity", dtype, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, *ctx.static = inputs

    @staticmethod
    def backward(ctx, grad):
        modes, last, scale, doubled, _, backend = ctx.static
        return _Dft.apply(grad, modes, last, scale, doubled, backend), None, None, None, None, None, None


class _Out(Function):
    """y = act(mode_idft(X) + skip + bias)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(spectrum, skip, bias, modes, last, scale, doubled, activation, dtype, backend):
        return idft(spectrum, *modes, last, scale, doubled, skip, bias, None, activation, dtype, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        spectrum, skip, bias, *ctx.static = inputs
        gelu = ctx.static[4] != "identity"
        ctx.save_for_backward(spectrum if gelu else None, skip if gelu else None, bias if gelu else None)
        ctx.skip = None if skip is None else skip.dtype
        ctx.bias = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx, grad):
        modes, last, scale, doubled, activation, dtype, backend = ctx.static
        needs = ctx.needs_input_grad
        if activation != "identity":
            spectrum, skip, bias = ctx.saved_tensors
            if torch.is_grad_enabled():  # the derivative of this again: of the composed form
                wanted = [t for t, need in zip((spectrum, skip, bias), needs) if need]
                with torch.enable_grad():
                    y = composed_out(spectrum, skip, bias, *ctx.static)
                    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
                return *(next(found) if need else None for need in needs[:3]), *(None,) * 7
            grad = idft(spectrum, *modes, last, scale, doubled, skip, bias, grad, activation, dtype, backend)
        dbias = None
        if needs[2]:
            dbias = grad.to(compute_dtype(grad)).sum((0, 1, 2, 3) if last else (0, 2, 3, 4)).to(ctx.bias)
        dspectrum = _Dft.apply(grad, modes, last, scale, doubled, backend) if needs[0] else None
        return dspectrum, grad.to(ctx.skip) if needs[1] else None, dbias, *(None,) * 7


def composed_out(spectrum, skip, bias, modes, last, scale, doubled, activation, dtype, backend) -> Tensor:
    z = _Idft.apply(spectrum, modes, last, scale, doubled, spectrum.dtype, backend)
    if skip is not None:
        z = z + skip
    if bias is not None:
        z = z + (bias if last else bias[:, None, None, None])
    return (z if activation == "identity" else F.gelu(z)).to(dtype)


class _Mix(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(spectrum, weight, adjoint, backend):
        return mix(spectrum, weight, adjoint, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.static = inputs[2:]

    @staticmethod
    def backward(ctx, grad):
        spectrum, weight = ctx.saved_tensors
        adjoint, backend = ctx.static
        ds = _Mix.apply(grad, weight, not adjoint, backend) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            a, b = (grad, spectrum) if adjoint else (spectrum, grad)
            dw = _MixGradient.apply(a, b, backend).to(weight.dtype)
        return ds, dw, None, None


class _MixGradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(spectrum, grad, backend):
        return mix_gradient(spectrum, grad, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.backend = inputs[2]

    @staticmethod
    def backward(ctx, cotangent):
        spectrum, grad = ctx.saved_tensors
        ds = _Mix.apply(grad, cotangent, True, ctx.backend) if ctx.needs_input_grad[0] else None
        dg = _Mix.apply(spectrum, cotangent, False, ctx.backend) if ctx.needs_input_grad[1] else None
        return ds, dg, None


for _f in (_Dft, _Idft, _Out, _Mix, _MixGradient):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the same, as functions that autograd follows: the building blocks of the ops ------------------------------------------
# `plain` is traced_transform(backend) or backend == "reference": the formulas themselves, which everything can differentiate.


def mode_dft(x: Tensor, modes: Modes, *, last: bool, scale: float, doubled: bool, backend=None, plain=False) -> Tensor:
    """Grid -> spectrum."""
    if plain:
        return spec.dft(x, modes, last, scale, doubled)
    if not differentiated(x):
        return dft(x, *modes, last, scale, doubled, backend)
    return _Dft.apply(x, modes, last, scale, doubled, backend)


def mode_idft(spectrum, modes: Modes, *, last, scale, doubled, dtype, skip=None, bias=None, activation="identity",
              backend=None, plain=False) -> Tensor:  # fmt: skip
    """Spectrum -> grid, act(. + skip + bias)."""
    if plain:
        return spec.idft(spectrum, modes, last, scale, doubled, skip, bias, None, activation, dtype)
    if not differentiated(spectrum, skip, bias):
        return idft(spectrum, *modes, last, scale, doubled, skip, bias, None, activation, dtype, backend)
    static = (modes, last, scale, doubled, activation, dtype, backend)
    if torch._C._are_functorch_transforms_active():
        return composed_out(spectrum, skip, bias, *static)
    if skip is None and bias is None and activation == "identity":
        return _Idft.apply(spectrum, modes, last, scale, doubled, dtype, backend)
    return _Out.apply(spectrum, skip, bias, *static)


def mode_mix(spectrum: Tensor, weight: Tensor, *, backend=None, plain=False) -> Tensor:
    """(B, Ci, P, 2), (Ci, Co, P, 2) -> (B, Co, P, 2)."""
    if plain:
        return spec.mix(spectrum, weight, False)
    if not differentiated(spectrum, weight):
        return mix(spectrum, weight, False, backend)
    return _Mix.apply(spectrum, weight, False, backend)
