"""Streaming `fft_conv`: `fft_conv_state` and `fft_conv_step` decode in blocks what one causal call gives at once.

Relaxed tiling. Let p be a multiple of W, U the largest power of two that divides p, at most c, the first power of
two that reaches every lag, c >= K - 1. Once v[p - U : p] is known, its part of y[p : p + U] is added up,

    y[p + t] += sum_s k[U + t - s] v[p - U + s],    s, t = 0 .. U - 1,

one Toeplitz product of lags 1 .. 2 U - 1. A pair s < t of positions is met exactly once, at the multiple of the
highest power of two in (s, t] (where t - s < c; only pairs of one aligned W remain, and those are summed directly).
So everything known of a position stands ready when it comes, and a step adds at most W products.

Cost a channel and L steps, from sizes U = W .. c: L / 2U products of two complex transforms of U points
(fft_conv_reference.py; and the kernel's, for all rows together), 5 L log2 U flops a size, 2.5 L (log2^2 c - log2^2 W)
in all, and L W for the direct part; the plain sum takes L K. Memory: 2 c numbers, and 2 c of taps shared by all
rows. Because U divides p both blocks lie inside rings of c: no position is ever moved. A spectrum kept for every
size saves nothing measurable on a CPU, not even for one row, and is not kept.

Source: C. Oncescu et al., Flash Inference, 2024; S. Agarwal et al., FutureFill, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _check
from .fft_conv import fft_conv
from .fft_conv_check import ACTIVATIONS, _gate, _gate_out, _mask, _skip, kernel_shape
from .fft_conv_reference import _act, compute_dtype

DIRECT = 32  # W: below it a matrix of W x W a channel costs less than a launch


def _window(k: Tensor, start: int, size: int) -> Tensor:
    """Taps (.., K) at lags 0 .. K - 1 -> (.., size) at lags start .. start + size - 1, zero where there are none."""
    low, high = max(start, 0), min(start + size, k.shape[-1])
    if low >= high:
        return k.new_zeros(*k.shape[:-1], size)
    return F.pad(k[..., low:high], (low - start, start + size - high))


def fft_conv_block(u: Tensor, k: Tensor, start: int, size: int, *, multi: bool = False, backend: str | None = None) -> Tensor:
    r"""What a block of inputs adds to a block of outputs: :math:`y_t = \sum_s k_{start + t - s} u_s`, t < size.

    The part of u[a : b] in y[e : f] of a causal convolution is ``fft_conv_block(u[..., a:b], k, e - a, f - e)``;
    with the taps c <= j < d alone it is ``fft_conv_block(u[..., a:b], k[..., c:d], e - a - c, f - e)``. Summed over
    blocks that meet every pair of positions once that is the whole convolution, in any order: for decoding,
    prefill and pipelines of blocks.

    Args:
        u: (..., H, n). k: as in fft_conv, taps at lags 0 .. K - 1. start: lag of the first output from the first
            input, any integer.
        multi, backend: as in fft_conv.

    Returns: (..., H, size), with multi (..., F, H, size), in u's dtype. Dtypes, derivatives of every order and
        errors as in fft_conv.
    """
    _check.tensor("u", u)
    _check.tensor("k", k)
    _check.integer("start", start)
    if _check.integer("size", size) < 0:
        raise ValueError(f"size must not be negative; got {size}")
    if u.dim() < 2:
        raise ValueError(f"u must have shape (..., H, n); got {_check.shape(u)}")
    n = max(u.shape[-1], size, 1)
    taps = _window(k, start - (n - 1), 2 * n - 1)
    return fft_conv(F.pad(u, (0, n - u.shape[-1])), taps, mode="toeplitz", multi=multi, backend=backend)[..., :size]


class _Kernel:
    """The taps, and what is made of them; shared by the clones of a state."""

    def __init__(self, taps: Tensor, backend: str | None):
        self.size, self.backend = taps.shape[-1], backend
        self.ring = max(DIRECT, 1 << max(self.size - 2, 0).bit_length())  # c
        self.taps = _window(taps, 0, 2 * self.ring)  # (S, F, G, 2 c)
        lag = torch.arange(DIRECT, device=taps.device)
        lag = lag[:, None] - lag
        near = self.taps[..., lag.clamp(min=0)]
        self.direct = torch.where(lag >= 0, near, 0.0)[:, :, :, None]  # (S, F, G, 1, W, W)

    def select(self, rows: Tensor) -> _Kernel:
        return self if self.taps.shape[0] == 1 else _Kernel(self.taps[..., : self.size].index_select(0, rows), self.backend)

    def within(self, v: Tensor) -> Tensor:
        """The causal convolution of (B, H, m), whole in itself -> (B, F, H, m)."""
        return fft_conv(v, self.taps[..., : min(self.size, v.shape[-1])], multi=True, backend=self.backend)

    def across(self, v: Tensor) -> Tensor:
        """What (B, H, U) adds to the U positions after it -> (B, F, H, U)."""
        taps = self.taps[..., 1 : 2 * v.shape[-1]]
        return fft_conv(v, taps, mode="toeplitz", multi=True, backend=self.backend)

    def near(self, v: Tensor, first: int) -> Tensor:
        """(B, H, n) of one aligned W, from its beginning -> the convolution from `first` on, (B, F, H, ..)."""
        size, groups = v.shape[-1], self.taps.shape[2]
        x = v.unflatten(1, (groups, -1))[:, None, ..., None, :]  # (B, 1, G, H / G, 1, n)
        return (x * self.direct[..., first:size, :size]).sum(-1).flatten(2, 3)


class FFTConvState:
    """What :func:`fft_conv_step` carries from block to block. Made by :func:`fft_conv_state`.

    Attributes: position, the number of steps taken; history (B, H, c) and pending (B, F, H, c), rings in the
        compute dtype: the last inputs, and what is known of the next results; batch_shape; nbytes, of both rings.
    """

    def __init__(self, kernel, batch_shape, channels, max_length, skip, activation, mask, multi, layout):
        self._kernel, self.batch_shape, self.channels, self.max_length = kernel, batch_shape, channels, max_length
        self._skip, self._activation, self._mask = skip, activation, mask
        self._multi, self._layout, self.position = multi, layout, 0
        rows, ring, filters = math.prod(batch_shape), kernel.ring, kernel.taps.shape[1]
        self.history = kernel.taps.new_zeros(rows, channels, ring)
        self.pending = kernel.taps.new_zeros(rows, filters, channels, ring)

    @property
    def nbytes(self) -> int:
        return self.history.nbytes + self.pending.nbytes

    def _with(self, **changed) -> FFTConvState:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **changed)
        return other

    def clone(self) -> FFTConvState:
        """A state of its own: steps of the one do not show in the other. The kernel is shared."""
        return self._with(history=self.history.clone(), pending=self.pending.clone())

    def detach(self) -> FFTConvState:
        """Itself: a state never carries a graph."""
        return self

    def select(self, index: Tensor) -> FFTConvState:
        """The state of the rows `index` (int64), in that order and as often as named: for beams. Flattens batch_shape."""
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.dim() != 1:
            raise ValueError(f"index must be an int64 tensor of shape (rows,); got {index!r}")
        pick = lambda t: None if t is None else t.index_select(0, index)  # noqa: E731
        return self._with(batch_shape=(index.numel(),), history=pick(self.history), pending=pick(self.pending),
                          _mask=pick(self._mask), _kernel=self._kernel.select(index))  # fmt: skip

    def reset(self) -> FFTConvState:
        """Back to position 0, in place."""
        self.history.zero_()
        self.pending.zero_()
        self.position = 0
        return self

    def __repr__(self) -> str:
        at = self.position if self.max_length is None else f"{self.position} of {self.max_length}"
        what = f"{self.batch_shape} x {self.channels} channels, {self._kernel.size} taps"
        return f"FFTConvState({what}, position {at}, ring {self._kernel.ring})"

    # ---- one block ---------------------------------------------------------------------------------------------------

    def _piece(self, remaining: int) -> int:
        """How many positions to take at once: to the end of an aligned W, an aligned power of two, or whole rings."""
        at, ring = self.position, self._kernel.ring
        if at % DIRECT or remaining < DIRECT:
            return min(remaining, DIRECT - at % DIRECT)
        if at % ring == 0 and remaining >= ring:
            return remaining // ring * ring
        size = 1 << (remaining.bit_length() - 1)
        return min(size, at & -at) if at % ring else size

    def _advance(self, v: Tensor) -> Tensor:
        """The convolution at the next (B, H, m) inputs, m from _piece -> (B, F, H, m)."""
        ring, size = self._kernel.ring, v.shape[-1]
        at = self.position % ring
        known = self.pending[..., at : at + size]
        if size < DIRECT or at % DIRECT:
            first = at % DIRECT
            self.history[..., at : at + size] = v
            y = self._kernel.near(self.history[..., at - first : at + size], first) + known
        else:
            y = self._kernel.within(v)
            y[..., :ring] += known
            keep = min(size, ring)
            self.history[..., at : at + keep] = v[..., size - keep :]
        self.position += size
        if self.position % DIRECT == 0 and self._kernel.size > 1:
            self._tile()
        return y

    def _tile(self) -> None:
        ring, at = self._kernel.ring, self.position % self._kernel.ring
        reach = at & -at if at else ring
        begin = (at or ring) - reach
        ahead = self._kernel.across(self.history[..., begin : begin + reach])
        if at:
            self.pending[..., at : at + reach] += ahead
        else:  # a whole ring begins: what stood there has been used
            self.pending.copy_(ahead)


def fft_conv_state(
    k: Tensor,
    batch_shape: int | Sequence[int] = (),
    *,
    channels: int | None = None,
    max_length: int | None = None,
    skip: Tensor | None = None,
    activation: str | None = None,
    mask: Tensor | None = None,
    multi: bool = False,
    layout: str = "bhl",
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> FFTConvState:
    r"""The beginning of a stream: :func:`fft_conv_step` then gives, block after block, what ``fft_conv(u, k, ...)``
    gives of the whole.

    Args:
        k: as in fft_conv, (H, K), (G, K), (B, H, K), with multi (F, H, K) or (B, F, H, K); taps, not a
            KernelSpectrum. Mode "causal".
        batch_shape: the leading dimensions of u, an int or several; () for u of (H, n).
        channels: H, where k has groups; k's own number of rows by default.
        max_length: of the stream; taps beyond it are left out and a longer stream is an error. None: any length, K
            taps.
        skip, activation, mask, multi, layout, backend: as in fft_conv, for every step.
        dtype: float32 or float64, in which the state is kept; k's own by default (float32 for 16 bit). u of 16 bit
            goes with float32.

    Memory: 2 c numbers a row and channel, c the power of two from K - 1 on, and 2 c a channel for the taps.

    Raises: TypeError, ValueError as fft_conv does; RuntimeError where grad mode is on and an argument requires a
        gradient.

    Source: C. Oncescu et al., Flash Inference, 2024; S. Agarwal et al., FutureFill, 2024.
    """
    _check.tensor("k", k)
    _check.choice("activation", activation, ACTIVATIONS)
    _check.choice("layout", layout, ("bhl", "blh"))
    batch = (batch_shape,) if isinstance(batch_shape, int) and not isinstance(batch_shape, bool) else batch_shape
    if not isinstance(batch, Sequence) or isinstance(batch, str) or any(_check.integer("batch_shape", n) < 0 for n in batch):
        raise ValueError(f"batch_shape must be an int or a tuple of them, none negative; got {batch_shape!r}")
    batch = tuple(batch)
    if max_length is not None and _check.integer("max_length", max_length) < 1:
        raise ValueError(f"max_length must be positive; got {max_length}")
    if channels is None:
        channels = k.shape[-2] if k.dim() > 1 else 0
    if _check.integer("channels", channels) < 0:
        raise ValueError(f"channels must not be negative; got {channels}")
    dtype = dtype or compute_dtype(k)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be float32 or float64; got {dtype}")
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (k, skip, mask)):
        raise RuntimeError("fft_conv_state has no derivative: call it under torch.no_grad(), and train with fft_conv")
    like = torch.empty(0, dtype=dtype, device=k.device)
    _check.coefficients_dtype("k", k, "the state", like)
    rows = math.prod(batch)
    taps = kernel_shape("k", k, rows, channels, multi)[..., :max_length].to(dtype)
    skip = _skip(skip, like, taps.shape[1], channels, multi)
    mask = _mask(mask, like, rows, channels, batch)
    own = lambda t: None if t is None else t.detach().clone(memory_format=torch.contiguous_format)  # noqa: E731
    return FFTConvState(_Kernel(own(taps), backend), batch, channels, max_length, own(skip), activation or "identity", own(mask),
                        bool(multi), layout)  # fmt: skip


def fft_conv_step(
    state: FFTConvState, u: Tensor, *, gate_in: Tensor | None = None, gate_out: Tensor | None = None
) -> tuple[Tensor, FFTConvState]:
    r"""The next block of a stream, and the state after it: positions state.position .. state.position + n - 1 of
    :math:`y = \mathrm{act}(g_o (k * (g_i u) + D g_i u))\, m`.

    Blocks of any size, a long prefill as well as single steps, in any order; joined, the results equal one call of
    fft_conv to rounding. A step costs O(log^2) of the kernel's length, on average (formula at the head of the
    module); nothing is computed twice.

    Args:
        state: from fft_conv_state. It is advanced in place and returned; clone() it to keep what was.
        u: (*batch_shape, H, n), or (*batch_shape, n, H) with layout "blh"; float16, bfloat16 or float32 for a
            float32 state, float64 for a float64 one. Any strides; n may be 0.
        gate_in, gate_out: broadcast to u's shape (gate_out: the result's), for this block.

    Returns: y, of u's shape and dtype (with multi a dimension more, as fft_conv has), and state.

    Derivatives: none; under grad mode an argument that requires one is refused (train with fft_conv, decode under
        torch.no_grad()).
    NaN or infinity makes its row NaN from the beginning of its block, or later, until the kernel has passed and the ring of
        the state, at least K - 1 steps and a power of two, has turned.

    Raises: TypeError, ValueError (shapes, dtypes, devices, a stream longer than max_length), RuntimeError (a
        gradient is wanted).
    """
    if not isinstance(state, FFTConvState):
        raise TypeError(f"state must come from fft_conv_state, got {type(state).__name__}")
    _check.tensor("u", u)
    blh, multi, filters = state._layout == "blh", state._multi, state.pending.shape[1]
    name = "(*batch_shape, n, H)" if blh else "(*batch_shape, H, n)"
    batch = state.batch_shape
    if u.dim() != len(batch) + 2 or u.shape[:-2] != batch or u.shape[-1 if blh else -2] != state.channels:
        takes = f"{name} with batch_shape {batch} and H {state.channels}"
        raise ValueError(f"u must have shape {takes}; got {_check.shape(u)}")
    if compute_dtype(u) != state.history.dtype:
        takes = "a float32 state takes 16 bit and float32, a float64 one float64"
        raise TypeError(f"u is {u.dtype}, the state {state.history.dtype}; {takes}")
    _check.same_device("state", state.history, u=u)
    size = u.shape[-2 if blh else -1]
    if state.max_length is not None and state.position + size > state.max_length:
        raise ValueError(f"u has {size} steps at position {state.position}, the stream at most max_length = {state.max_length}")
    shape = tuple(u.shape)
    if multi:
        shape = (*shape[:-1], filters, shape[-1]) if blh else (*shape[:-2], filters, *shape[-2:])
    gate_in = _gate("gate_in", gate_in, u, tuple(u.shape))
    gate_out = _gate_out(gate_out, u, shape, multi, blh)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (u, gate_in, gate_out)):
        raise RuntimeError("fft_conv_step has no derivative: call it under torch.no_grad(), and train with fft_conv")
    with torch.no_grad():
        y = _step(state, u, gate_in, gate_out, blh, multi, size)
    return y.reshape(shape), state


def _step(state: FFTConvState, u, gate_in, gate_out, blh: bool, multi: bool, size: int) -> Tensor:
    dtype = state.history.dtype

    def rows(t: Tensor) -> Tensor:  # -> (B, H, n), or (B, F, H, n)
        t = t.to(dtype).reshape(state.history.shape[0], *t.shape[len(state.batch_shape) :])
        return t.movedim(1, -1) if blh else t

    v = rows(u)
    if gate_in is not None:
        v = v * rows(gate_in)
    parts, done = [], 0
    if v.numel() == 0:
        state.position += size
        parts, done = [state.pending[..., :1].expand(*state.pending.shape[:-1], size)], size
    while done < size:
        piece = state._piece(size - done)
        parts.append(state._advance(v[..., done : done + piece]))
        done += piece
    y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)  # (B, F, H, n)
    if state._skip is not None:
        y = y + state._skip[..., None] * v[:, None]
    if gate_out is not None:
        y = (rows(gate_out) if multi else rows(gate_out)[:, None]) * y
    y = _act(y, state._activation)
    if state._mask is not None:
        y = y * state._mask[:, None, :, None]
    y = y.to(u.dtype)
    if multi:
        return (y.permute(0, 3, 1, 2) if blh else y).contiguous()
    return (y[:, 0].mT if blh else y[:, 0]).contiguous()
