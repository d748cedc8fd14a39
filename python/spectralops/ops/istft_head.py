"""`istft_head`: the head of Vocos and iSTFTNet, from L frames of magnitude and phase to audio, one kernel.

Two operators run it, the head and its gradient; with the variant "cartesian" they are linear and adjoint to each other, and the
other variants are that after pointwise functions: this is how second derivatives are taken (istft_head_reference.py). Saved: x.

Fewest bytes, s an element of x: forward B (2 K L + T) s, backward B (4 K L + T) s, T = L hop. Fewest operations
known: 2.5 n log2 n a frame and the transcendental functions, against 5 n log2 n and two sums by fold in the published head.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from . import istft_head_reference as spec
from .. import _check, backends
from .._ops import differentiated, implement, register_vmap, traced_transform
from .batching import rows_or_each
from .fft_conv_reference import compute_dtype
from .plain import exporting, no_autocast

_NOLA = 1e-11  # the least sum of squared windows that may be divided by, torch.istft's


class _Window:
    """A window centred in n samples, and 1 / e for the lengths it was last asked for."""

    def __init__(self, window: Tensor, n: int, version: object):
        left = (n - window.shape[0]) // 2
        self.whole = F.pad(window, (left, n - window.shape[0] - left)).contiguous()
        self.version, self.scales = version, OrderedDict()

    def scale(self, frames: int, hop: int, start: int, length: int) -> Tensor:
        key = (frames, hop, start, length)
        found = self.scales.get(key)
        if found is None:
            e = spec.envelope(self.whole, frames, hop)[start : start + length]
            if not bool((e > _NOLA).all()):
                raise ValueError(f"window: the sum of its squares over frames {hop} apart vanishes within the result, which"
                                 " cannot be normalised: a longer window, a shorter hop_length or padding 'center' can")  # fmt: skip
            found = self.scales[key] = e.reciprocal()
            while len(self.scales) > 16:
                self.scales.popitem(last=False)
        return found


_given = WeakTensorKeyDictionary()  # a caller's window -> {(n, dtype): _Window}
_hann: dict[tuple, _Window] = {}


def _window(window: Tensor | None, n: int, size: int, dtype: torch.dtype, device: torch.device) -> _Window:
    """Kept until the window changes: its version and address say so."""
    if window is None:
        key = (n, size, dtype, device)
        if key not in _hann:
            _hann[key] = _Window(torch.hann_window(size, dtype=dtype, device=device), n, None)
        return _hann[key]
    if window.is_inference():  # its changes are not counted
        return _Window(window.to(dtype), n, None)
    kept, version = _given.setdefault(window, {}), (window._version, window.data_ptr())
    found = kept.get((n, dtype))
    if found is None or found.version != version or window.device.type == "cpu" and not torch.equal(found.given, window):
        found = kept[n, dtype] = _Window(window.detach().to(dtype), n, version)
        found.given = window.detach().clone()  # .data and numpy write without a new version
    return found


def _check_call(window, n, size, hop, start, length, frames, channels) -> None:
    """The sizes that a kernel trusts: a trace or a graph may bring others than the public function saw."""
    found = (size,) if window is None else tuple(window.shape)
    if channels != 2 * spec.bins(n) or not 1 <= size <= n or not 1 <= hop <= n or found != (size,):
        raise ValueError(f"x of {channels} channels and a window of {found} do not fit frames of {n} samples, {hop} apart")
    if frames < 1 or start < 0 or length < 0 or start + length > (frames - 1) * hop + n:
        raise ValueError(f"{frames} frames of {n} samples, {hop} apart, have no samples {start} to {start + length}")


@implement("istft_head")
def head(x, window, n, size, hop, start, length, normalize, variant, limit, backend=None):
    """-> y (B, length)."""
    _check.operand("x", x, 3)
    _check.operand("window", window, 1, x)
    _check.choice("variant", variant, spec.VARIANTS)
    _check_call(window, n, size, hop, start, length, *x.shape[1:])
    if x.shape[0] == 0 or length == 0:
        return x.new_empty(x.shape[0], length)
    kept = _window(window, n, size, compute_dtype(x), x.device)
    scale = kept.scale(x.shape[1], hop, start, length) if normalize else None
    args = (x, kept.whole, scale, hop, start, length, variant, limit)
    with no_autocast(args[0]):
        return backends.select("istft_head", backend, *args)(*args)


@implement("istft_head_backward")
def head_backward(grad, x, window, n, size, frames, hop, start, normalize, variant, limit, backend=None):
    """-> the gradient of x (B, frames, 2 K); x may be None for "cartesian"."""
    _check.operand("grad", grad, 2)
    for name, t, rank in (("x", x, 3), ("window", window, 1)):
        _check.operand(name, t, rank, grad)
    _check.choice("variant", variant, spec.VARIANTS)
    length = grad.shape[1]
    _check_call(window, n, size, hop, start, length, frames, 2 * spec.bins(n))
    shape = (grad.shape[0], frames, 2 * spec.bins(n))
    if x is None and variant != "cartesian" or x is not None and tuple(x.shape) != shape:
        raise ValueError(f"x must have shape {shape}; got {None if x is None else tuple(x.shape)}")
    if grad.numel() == 0:
        return grad.new_zeros(shape)
    kept = _window(window, n, size, compute_dtype(grad), grad.device)
    scale = kept.scale(frames, hop, start, length) if normalize else None
    args = (grad, x, kept.whole, scale, frames, hop, start, variant, limit)
    with no_autocast(args[0]):
        return backends.select("istft_head_backward", backend, *args)(*args)


register_vmap("istft_head")(rows_or_each(head, (0,)))
register_vmap("istft_head_backward")(rows_or_each(head_backward, (0, 1)))


# ---- autograd --------------------------------------------------------------------------------------------------------
# call = (n, window's size, hop, start, length, normalize)


class _Linear(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, window, call, backend):
        return head(x, window, *call, "cartesian", math.inf, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.window, ctx.call, ctx.backend = inputs
        ctx.frames = x.shape[1]

    @staticmethod
    def backward(ctx, grad):
        return _Adjoint.apply(grad, ctx.window, ctx.frames, ctx.call, ctx.backend), None, None, None


class _Adjoint(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad, window, frames, call, backend):
        n, size, hop, start, _, normalize = call
        return head_backward(grad, None, window, n, size, frames, hop, start, normalize, "cartesian", math.inf, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.window, _, ctx.call, ctx.backend = inputs

    @staticmethod
    def backward(ctx, cotangent):
        return _Linear.apply(cotangent, ctx.window, ctx.call, ctx.backend), None, None, None, None


def _composed(x, window, call, variant, limit, backend) -> Tensor:
    """Pointwise operations before the linear head: autograd and torch.func differentiate it to any order."""
    parts = spec.spectrum(*x.to(compute_dtype(x)).chunk(2, 2), variant, limit)
    return _Linear.apply(torch.cat(parts, 2), window, call, backend).to(x.dtype)


class _Head(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, window, call, variant, limit, backend):
        return head(x, window, *call, variant, limit, backend)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.window, *ctx.static = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        call, variant, limit, backend = ctx.static
        if torch.is_grad_enabled():  # the derivative of this again: of the composed form
            with torch.enable_grad():
                y = _composed(x, ctx.window, *ctx.static)
                (dx,) = torch.autograd.grad(y, x, grad, create_graph=True)
        else:
            n, size, hop, start, _, normalize = call
            dx = head_backward(grad, x, ctx.window, n, size, x.shape[1], hop, start, normalize, variant, limit, backend)
        return dx, None, None, None, None, None


for _f in (_Linear, _Adjoint, _Head):
    _f.forward.__signature__ = inspect.signature(_f.forward)  # Function.apply inspects it on every call otherwise


# ---- the public function ---------------------------------------------------------------------------------------------


def run(x, window, call, variant, limit, backend, export=False) -> Tensor:
    """On checked arguments."""
    n, size, hop, start, length, normalize = call
    if export or traced_transform(backend):
        dtype = compute_dtype(x)
        w = torch.hann_window(size, dtype=dtype, device=x.device) if window is None else window.to(dtype)
        left = (n - size) // 2
        return spec.lowered(x, F.pad(w, (left, n - size - left)), hop, start, length, normalize, variant, limit)
    if not differentiated(x):
        return head(x, window, *call, variant, limit, backend)
    if variant == "cartesian":
        return _Linear.apply(x, window, call, backend)
    if torch._C._are_functorch_transforms_active():
        return _composed(x, window, call, variant, limit, backend)
    return _Head.apply(x, window, call, variant, limit, backend)


def checked(n_fft, hop_length, win_length, window, variant, max_magnitude, backend):
    """-> the window's size and the limit of the magnitude."""
    for name, value in (("n_fft", n_fft), ("hop_length", hop_length)):
        if _check.integer(name, value) < 1:
            raise ValueError(f"{name} must be positive; got {value}")
    if hop_length > n_fft:
        raise ValueError(f"hop_length must be at most n_fft = {n_fft}, or there are gaps between frames; got {hop_length}")
    size = n_fft if win_length is None else _check.integer("win_length", win_length)
    if window is not None:
        _check.tensor("window", window)
        if window.dim() != 1 or win_length is not None and window.shape[0] != win_length:
            raise ValueError(f"window must have shape ({size},), that of win_length; got {_check.shape(window)}")
        if window.requires_grad:
            raise ValueError("window must not require a gradient; none is given for it")
        size = window.shape[0]
    if not 1 <= size <= n_fft:
        raise ValueError(f"win_length must be 1 to n_fft = {n_fft}; got {size}")
    _check.choice("variant", variant, spec.VARIANTS)
    if max_magnitude is not None and (not isinstance(max_magnitude, (int, float)) or not max_magnitude > 0):
        raise ValueError(f"max_magnitude must be a positive number; got {max_magnitude!r}")
    if backend is not None and backend not in backends.NAMES:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, backends.NAMES))}; got {backend!r}")
    default = 100.0 if variant == "vocos" else math.inf
    return size, default if max_magnitude is None else float(max_magnitude)


def check_x(x: Tensor, n_fft: int, window: Tensor | None) -> None:
    _check.tensor("x", x)
    channels = 2 * spec.bins(n_fft)
    if x.dim() < 2 or x.shape[-1] != channels or x.shape[-2] < 1:
        raise ValueError(f"x must have shape (.., L, {channels}), L at least 1, for n_fft = {n_fft}; got {_check.shape(x)}")
    if window is not None:
        _check.coefficients_dtype("window", window, "x", x)
        _check.same_device("x", x, window=window)


def istft_head(
    x: Tensor,
    *,
    n_fft: int,
    hop_length: int,
    padding: str = "same",
    win_length: int | None = None,
    window: Tensor | None = None,
    variant: str = "vocos",
    max_magnitude: float | None = None,
    export: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Magnitude and phase to audio: :math:`y = \mathrm{ISTFT}(\min(e^a, m)\, e^{i\varphi})`, normalised by the
    window's envelope.

    Args:
        x: (.., L, 2 K), K = n_fft // 2 + 1, the output of a network for L frames: channels 0 .. K - 1 are the logarithm a of the
            magnitude, K .. 2 K - 1 give the phase. Any strides: a network with channels first passes ``x.transpose(1, 2)``, which
            is not copied. float16, bfloat16, float32 or float64.
        n_fft, hop_length: samples of a frame, and between frames; hop_length <= n_fft.
        padding: "same": (n_fft - hop_length) // 2 samples are cut at both ends, L hop_length remain where that is even (Vocos).
            "center": n_fft // 2 at both ends, (L - 1) hop_length remain, as torch.istft(center=True) of even n_fft.
        win_length: of the window, which is centred in the frame; None: n_fft.
        window: (win_length,), not differentiated; None: the periodic Hann window.
        variant: "vocos": phase b. "istftnet" (iSTFTNet, HiFTNet): phase sin(b), magnitude unbounded. "cartesian": the
            channels are real and imaginary part.
        max_magnitude: m; None: 100 for "vocos", no bound otherwise. CosyVoice's head is "istftnet" with 100.
        export: the form of standard operations, one ConvTranspose1d with a real weight. None: while torch.export, torch.onnx or
            torch.jit.trace runs.
        backend: None (automatic), "reference", "cpu", "triton", "cuda".

    Returns y (.., samples) in x's dtype, computed in float32 (float64 for float64) and rounded once. The imaginary parts at zero
    and at the Nyquist frequency have no effect. NaN spreads over the samples of its frame and no further.

    The envelope's inverse depends on the window, n_fft, hop_length, padding and L alone and is kept for the last 16 L
    of a window, as long as this tensor lives and is not written to; that it nowhere vanishes is tested when it is made.
    Saved for backward: x. Derivatives of every order; where the magnitude is bounded it has none in a. Deterministic.
    Errors: TypeError for dtypes, ValueError for shapes, devices and a window whose envelope vanishes.

    Source: H. Siuzdak, Vocos, 2023; T. Kaneko et al., iSTFTNet, 2022; Y. A. Li et al., HiFTNet, 2023.
    """
    size, limit = checked(n_fft, hop_length, win_length, window, variant, max_magnitude, backend)
    check_x(x, n_fft, window)
    if x.dim() != 3:  # any leading batch shape
        rows = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
        y = istft_head(rows, n_fft=n_fft, hop_length=hop_length, padding=padding, win_length=win_length, window=window, variant=variant,
                       max_magnitude=max_magnitude, export=export, backend=backend)  # fmt: skip
        return y.reshape(*x.shape[:-2], y.shape[-1])
    _check.choice("padding", padding, ("same", "center"))
    start = (n_fft - hop_length) // 2 if padding == "same" else n_fft // 2
    length = (x.shape[1] - 1) * hop_length + n_fft - 2 * start
    if length < 1:
        raise ValueError(f"x of {_check.shape(x)} has too few frames: nothing remains with padding 'center'")
    export = exporting() if export is None else export
    return run(x, window, (n_fft, size, hop_length, start, length, True), variant, limit, backend, export)
