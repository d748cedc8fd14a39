"""`spectral_mlp`: y = x + irfft2(MLP(rfft2(x))), the mixer of AFNO, DPOT and AFFNet: a small complex MLP that all
modes share.

Three operators: mode_dft to the modes that are kept and no others, spectral_mlp_core (spectral_mlp_reference.py),
mode_idft with the residual. Saved for backward: x's kept modes and the weights; the layers are computed again.

Fewest bytes: x twice and the weights once. Fewest operations known, per kept mode: 8 bs (hs + bs) nb and the transforms.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor
from torch.autograd import Function

from . import spectral_mlp_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap
from .batching import rows_or_each
from .fft_conv_reference import compute_dtype
from .modes import mode_dft, mode_idft
from .modes_reference import Modes
from .plain import formula

VARIANTS = ("afno", "physicsnemo", "dpot", "aff")


def _check_core(x, w1, b1, w2, b2) -> None:
    """The sizes that a kernel trusts: a trace or a graph may bring others than the public function saw."""
    for name, t, rank in (("x", x, 4), ("w1", w1, 4), ("b1", b1, 3), ("w2", w2, 4), ("b2", b2, 3)):
        _check.operand(name, t, rank, x)
    _, nb, bs, two = x.shape
    hs = w1.shape[3]
    wanted = ((2, nb, bs, hs), (2, nb, hs), (2, nb, hs, bs), (2, nb, bs))
    for name, t, shape in zip(("w1", "b1", "w2", "b2"), (w1, b1, w2, b2), wanted):
        if tuple(t.shape) != shape or two != 2:
            raise ValueError(f"{name} must have shape {shape} for modes of {_check.shape(x)}; got {_check.shape(t)}")


@implement("spectral_mlp_core")
def core(x, w1, b1, w2, b2, threshold, activation, mask, backend=None):
    _check_core(x, w1, b1, w2, b2)
    if x.numel() == 0:
        return x.new_empty(x.shape)
    args = (x.contiguous(), *(t.to(x.dtype).contiguous() for t in (w1, b1, w2, b2)), threshold, activation, mask)
    return backends.select("spectral_mlp_core", backend, *args)(*args)


@implement("spectral_mlp_core_backward")
def core_backward(grad, x, w1, b1, w2, b2, threshold, activation, mask, needs, backend=None):
    """-> dx, dw1, db1, dw2, db2, an empty tensor where not needed."""
    _check_core(x, w1, b1, w2, b2)
    if len(needs) != 5:
        raise ValueError(f"needs must have five entries; got {needs}")
    if grad.shape != x.shape:
        raise ValueError(f"grad must have shape {_check.shape(x)}; got {_check.shape(grad)}")
    tensors = (x, w1, b1, w2, b2)
    if x.numel() == 0:
        return tuple(torch.zeros_like(t) if need else t.new_empty(0) for t, need in zip(tensors, needs))
    weights = (t.to(x.dtype).contiguous() for t in tensors[1:])
    args = (grad.to(x.dtype).contiguous(), x.contiguous(), *weights, threshold, activation, mask, needs)
    found = backends.select("spectral_mlp_core_backward", backend, *args)(*args)
    return tuple(t.new_empty(0) if d is None else d.to(t.dtype) for d, t in zip(found, tensors))


register_vmap("spectral_mlp_core")(rows_or_each(core, (0,)))
register_vmap("spectral_mlp_core_backward")(rows_or_each(core_backward, (0, 1), lambda args: False))


class _Core(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w1, b1, w2, b2, threshold, activation, mask, backend):
        return core(x, w1, b1, w2, b2, threshold, activation, mask, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:5])
        ctx.static = inputs[5:]

    @staticmethod
    def backward(ctx, grad):
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad[:5]
        *static, backend = ctx.static
        if torch.is_grad_enabled():  # the derivative of this again: of the formula
            wanted = [t for t, need in zip(tensors, needs) if need]
            with torch.enable_grad():
                found = iter(torch.autograd.grad(spec.forward(*tensors, *static), wanted, grad, create_graph=True))
            return *(next(found) if need else None for need in needs), *(None,) * 4
        found = core_backward(grad, *tensors, *static, needs, backend)
        return *(d if need else None for d, need in zip(found, needs)), *(None,) * 4


_Core.forward.__signature__ = inspect.signature(_Core.forward)  # Function.apply inspects it on every call otherwise


def block_mlp(x, w1, b1, w2, b2, threshold, activation, mask, backend, plain) -> Tensor:
    """spectral_mlp_core with derivatives, on checked tensors: x (M, nb, bs, 2) -> y."""
    tensors, static = (x, w1, b1, w2, b2), (threshold, activation, mask)
    if plain or x.numel() == 0 or torch._C._are_functorch_transforms_active():
        return spec.forward(*tensors, *static)
    return _Core.apply(*tensors, *static, backend) if differentiated(*tensors) else core(*tensors, *static, backend)


# ---- the public function ---------------------------------------------------------------------------------------------


def kept(variant: str, rows: int, columns: int, keep: float, modes: int | None) -> Modes | None:
    """The window of the half spectrum that each upstream keeps, rows of it counted from frequency 0 on; None if it
    is empty."""
    half, first, height = columns // 2 + 1, 0, rows
    width = half
    if variant == "afno":
        width = int(half * keep)
    elif variant == "physicsnemo":
        total = rows // 2 + 1
        width = int(total * keep)
        first = total - width
        height, width = min(total + width, rows) - first, min(width, half)
    elif variant == "dpot" and modes is not None:
        height, width = min(modes, rows), min(modes, half)
    if width < 1 or height < 1:
        return None
    return Modes((1, rows, columns), (0, first, 0), (0, 0, 0), (1, height, width))


def spectral_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    threshold: float | None = None,
    activation: str | None = None,
    keep: float = 1.0,
    modes: int | None = None,
    variant: str = "afno",
    backend: str | None = None,
) -> Tensor:
    r"""AFNO's mixer: with X = rfft2(x, norm="ortho") over h and w, in blocks of bs channels,

        y = x + irfft2(S),   S = shrink(act(X w1 + b1) w2 + b2) on the modes that are kept, 0 on the others,

    products of complex numbers, act and the soft shrinkage by `threshold` of real and imaginary part each.

    Args:
        x: (.., h, w, C), any sizes, float16, bfloat16, float32 or float64, any strides, empty allowed.
        w1, b1, w2, b2: (2, nb, bs, hs), (2, nb, hs), (2, nb, hs, bs), (2, nb, bs), nb bs = C, real and imaginary
            parts in front, as the upstream modules hold them. They may stay float32 under 16-bit x.
        threshold: None is 0.01, for "dpot" 0; 0 shrinks nothing.
        activation: "identity", "relu", "gelu", "silu", "tanh"; None is "relu", for "dpot" "gelu".
        keep, variant: which modes are kept, row r of the spectrum being frequency r, or r - h:
            "afno": columns 0 .. int((w // 2 + 1) keep) - 1, all rows.
            "physicsnemo": with t = h // 2 + 1 and k = int(t keep) the rows t - k .. t + k - 1 and the columns 0 .. k
            - 1 of what there is: rows about Nyquist where keep < 1, and never more columns than h // 2 + 1.
            "dpot": rows and columns 0 .. modes - 1, `modes` as upstream has it (None: all); keep does not apply.
            "aff": all modes, and the MLP's output is a mask, S = shrink(..) X. x is channels-last here, upstream's is not.
        backend: None (automatic), "reference", "cpu", "triton", "cuda".

    Returns y of x's shape and dtype, computed in float32 (float64 for float64) and rounded once, x added before.

    At frequencies 0 and w / 2 of the last dimension S acts by its Hermitian part, as in :func:`spectral_filter`.
    Saved for backward: the kept modes of x and the weights. First derivatives are kernels, the second ones those of
    the plain formula. Deterministic. Autocast: takes what it is given. NaN spreads over its sample and block of
    channels. Errors: TypeError, ValueError.

    Source: J. Guibas et al., Adaptive Fourier Neural Operators, 2021; Z. Hao et al., DPOT, 2024; Z. Huang et al.,
    Adaptive Frequency Filters As Efficient Global Token Mixers, 2023 (AFFNet).
    """
    _check.choice("variant", variant, VARIANTS)
    _check.backend(backend)
    threshold = (0.0 if variant == "dpot" else 0.01) if threshold is None else threshold
    activation = ("gelu" if variant == "dpot" else "relu") if activation is None else activation
    _check.choice("activation", activation, spec.ACTIVATIONS)
    _check_static(threshold, keep, modes, variant)
    weights = _weights(x, w1=w1, b1=b1, w2=w2, b2=b2)
    if x.dim() != 4:  # any leading batch shape
        rows = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
        return spectral_mlp(rows, w1, b1, w2, b2, threshold=threshold, activation=activation, keep=keep, modes=modes, variant=variant,
                            backend=backend).reshape(x.shape)  # fmt: skip
    b, h, w, c = x.shape
    window = kept(variant, h, w, keep, modes)
    if window is None or x.numel() == 0:
        return x + sum(t.flatten()[:0].sum() for t in weights).to(x.dtype)
    plain, scale = formula(backend), 1 / math.sqrt(h * w)
    spectrum = mode_dft(x[:, None], window, last=True, scale=scale, doubled=False, backend=backend, plain=plain)
    nb = w1.shape[1]
    z = spectrum.reshape(b * window.counts[1] * window.counts[2], nb, c // nb, 2)
    z = block_mlp(z, *weights, float(threshold), activation, variant == "aff", backend, plain)
    y = mode_idft(z.reshape(spectrum.shape), window, last=True, scale=scale, doubled=True, dtype=x.dtype, skip=x[:, None],
                  backend=backend, plain=plain)  # fmt: skip
    return y[:, 0]


def _check_static(threshold, keep, modes, variant) -> None:
    for name, value in (("threshold", threshold), ("keep", keep)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be finite and at least 0; got {threshold}")
    if not 0 <= keep <= 1:
        raise ValueError(f"keep must be in [0, 1]; got {keep}")
    if keep != 1 and variant in ("dpot", "aff"):
        raise ValueError(f"keep is for the variants 'afno' and 'physicsnemo'; got {keep} with {variant!r}")
    if modes is not None:
        if variant != "dpot":
            raise ValueError(f"modes is for the variant 'dpot'; got {modes} with {variant!r}")
        if _check.integer("modes", modes) < 0:
            raise ValueError(f"modes must be at least 0; got {modes}")


def _weights(x, **weights) -> list[Tensor]:
    """The four in the compute dtype."""
    _check.tensor("x", x)
    for name, t in weights.items():
        _check.tensor(name, t)
        _check.coefficients_dtype(name, t, "x", x)
    _check.same_device("x", x, **weights)
    w1 = weights["w1"]
    if x.dim() < 3:
        raise ValueError(f"x must have shape (.., h, w, C); got {_check.shape(x)}")
    if w1.dim() != 4 or w1.shape[0] != 2 or w1.shape[1] * w1.shape[2] != x.shape[-1]:
        raise ValueError(f"w1 must have shape (2, nb, bs, hs), nb bs = C = {x.shape[-1]}; got {_check.shape(w1)}")
    _, nb, bs, hs = w1.shape
    for name, shape in (("b1", (2, nb, hs)), ("w2", (2, nb, hs, bs)), ("b2", (2, nb, bs))):
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"{name} must have shape {shape} for w1 of {_check.shape(w1)}; got {_check.shape(weights[name])}")
    return [t.to(compute_dtype(x)) for t in weights.values()]
