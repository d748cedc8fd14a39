"""Streaming `istft_head`: `istft_head_state` and `istft_head_step` give in blocks of frames the samples of one call.

After L frames the samples t < L hop are final; what later frames add to is kept as sums, of windowed frames and of
squared windows, n - hop numbers a row. Samples that the end of a stream would cut are held back until the end is known.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import istft_head_reference as spec
from .. import _check
from .fft_conv_reference import compute_dtype
from .istft_head import _NOLA, check_x, checked, run


class ISTFTHeadState:
    """What :func:`istft_head_step` carries from block to block. Made by :func:`istft_head_state`.

    Attributes: frames, samples: how many were taken and given; pending (B, held), in the compute dtype; nbytes, of it.
    """

    def __init__(self, batch, n, hop, start, window, size, variant, limit, backend, like):
        self._n, self._hop, self._start, self._window, self._size = n, hop, start, window, size
        self._variant, self._limit, self._backend, self.batch = variant, limit, backend, batch
        self.dtype, self.finished, self.frames = like.dtype, False, 0
        dtype = compute_dtype(like)
        w = torch.hann_window(size, dtype=dtype, device=like.device) if window is None else window.to(dtype)
        self._whole = F.pad(w, ((n - size) // 2, n - size - (n - size) // 2))
        self._at = 0  # the position of pending's first sample, before any is cut
        self.pending, self._envelope = self._whole.new_zeros(batch, 0), self._whole.new_zeros(0)

    @property
    def samples(self) -> int:
        return max(0, self._at - self._start)

    @property
    def nbytes(self) -> int:
        return self.pending.nbytes

    def clone(self) -> ISTFTHeadState:
        """A state of its own: steps of the one do not show in the other."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other  # a step makes new tensors

    def _add(self, x: Tensor) -> None:
        count, n, hop = x.shape[1], self._n, self._hop
        total, offset = (self.frames + count - 1) * hop + n, self.frames * hop - self._at
        z = run(x.to(self._whole.dtype), self._window, (n, self._size, hop, 0, (count - 1) * hop + n, False), self._variant,
                self._limit, self._backend)  # fmt: skip
        missing = total - self._at - self.pending.shape[1]
        self.pending, self._envelope = F.pad(self.pending, (0, missing)), F.pad(self._envelope, (0, missing))
        self.pending[:, offset:] += z
        self._envelope[offset:] += spec.envelope(self._whole, count, hop)
        self.frames += count

    def _give(self, end: int) -> Tensor:
        """The samples up to position `end`, for good."""
        skip, size = max(0, min(self._start, end) - self._at), end - self._at
        y = (self.pending[:, skip:size] / self._envelope[skip:size]).to(self.dtype)
        self.pending, self._envelope, self._at = self.pending[:, size:], self._envelope[size:], end
        return y


def istft_head_state(
    batch: int,
    *,
    n_fft: int,
    hop_length: int,
    padding: str = "same",
    win_length: int | None = None,
    window: Tensor | None = None,
    variant: str = "vocos",
    max_magnitude: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> ISTFTHeadState:
    """The state of a stream of `batch` rows of x's dtype and device; the other arguments are those of :func:`istft_head`."""
    size, limit = checked(n_fft, hop_length, win_length, window, variant, max_magnitude, backend)
    _check.choice("padding", padding, ("same", "center"))
    if _check.integer("batch", batch) < 0:
        raise ValueError(f"batch must not be negative; got {batch}")
    like = torch.empty(0, dtype=dtype, device=device if window is None or device is not None else window.device)
    _check.tensor("dtype", like)
    if window is not None:
        _check.coefficients_dtype("window", window, "dtype", like)
        _check.same_device("device", like, window=window)
    start = (n_fft - hop_length) // 2 if padding == "same" else n_fft // 2
    state = ISTFTHeadState(batch, n_fft, hop_length, start, window, size, variant, limit, backend, like)
    frames = -(-n_fft // hop_length) + 2
    e = spec.envelope(state._whole, frames, hop_length)
    if not bool((e[start : e.shape[0] - start] > _NOLA).all()):
        raise ValueError(f"window: the sum of its squares over frames {hop_length} apart vanishes within the result")
    return state


@torch.no_grad()
def istft_head_step(x: Tensor, state: ISTFTHeadState, *, last: bool = False) -> Tensor:
    """The samples that the next frames x (B, l, 2 K), l >= 0, make final, (B, any number of them); with `last` all that remain.

    Concatenated, the results of a stream are those of one call of :func:`istft_head` on all its frames, up to the
    rounding of sums of neighbouring frames. Changes `state` (``state.clone()`` keeps one). For inference: no gradient
    is recorded.
    """
    if not isinstance(state, ISTFTHeadState):
        raise TypeError(f"state must come from istft_head_state; got {type(state).__name__}")
    if state.finished:
        raise ValueError("state: this stream has ended with last=True")
    _check.tensor("x", x)
    if x.dim() == 3 and x.shape[1] > 0:
        check_x(x, state._n, None)
        if x.dim() != 3:
            raise ValueError(f"x must have shape (B, L, {x.shape[-1]}); got {_check.shape(x)}")
    elif x.dim() != 3 or x.shape[2] != 2 * spec.bins(state._n):
        raise ValueError(f"x must have shape (B, l, {2 * spec.bins(state._n)}); got {_check.shape(x)}")
    if x.shape[0] != state.batch or x.dtype != state.dtype or x.device != state.pending.device:
        raise ValueError(f"x must have {state.batch} rows of {state.dtype} on {state.pending.device}, as state; got"
                         f" {_check.shape(x)}, {x.dtype}, {x.device}")  # fmt: skip
    if x.shape[1]:
        state._add(x)
    total = (state.frames - 1) * state._hop + state._n
    state.finished = last
    if not state.frames:
        return state.pending.to(state.dtype)
    end = total - state._start
    return state._give(max(state._at, end if last else min(state.frames * state._hop, end)))
