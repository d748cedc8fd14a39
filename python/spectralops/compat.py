"""Stand-ins for the convolutions of other packages, argument by argument, over :func:`spectralops.fft_conv`.

    from spectralops.compat import FlashFFTConv     # for: from flashfftconv import FlashFFTConv
    from spectralops.compat import fftconv_func     # for: from src.ops.fftconv import fftconv_func (H3, safari)
    from spectralops.compat import fftconv_ref      # for: from src.ops.fftconv import fftconv_ref
    from spectralops.compat import fftconv          # for HyenaDNA's standalone fftconv

Any length, any float dtype, every device that torch has; derivatives of every order, in eval mode as well. Arithmetic and
rounding are fft_conv's: float32 inside, one rounding at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import _check
from .ops.fft_conv import fft_conv


def wrapped(k: Tensor, length: int, period: int) -> tuple[Tensor, Tensor | None]:
    """Causal taps and anticausal ones, from lag -1 on, of what transforms of `period` points compute for rows of `length`.

    With the row followed by zeros up to the period, y_t = sum_j k_j u_{(t - j) mod period}: tap j is at lag j and at lag j -
    period, so where length + K - 1 > period the last taps look ahead. None where they do not.
    """
    if length > period:
        raise ValueError(f"rows of {length} are longer than the transform, {period}")
    k = k[..., :period]
    ahead = k[..., period - length + 1 :]  # lags -(length - 1) ..
    if ahead.shape[-1] == 0:
        return k, None
    missing = length - 1 - ahead.shape[-1]  # those up to lag -1 are 0
    return k, F.pad(ahead, (0, missing)).flip(-1)


def periodic_conv(u: Tensor, k: Tensor, period: int, **kwargs) -> Tensor:
    """`fft_conv` with taps that wrap around the period of a transform (:func:`wrapped`)."""
    length = u.shape[-2 if kwargs.get("layout") == "blh" else -1]
    if length == period:
        return fft_conv(u, k[..., :period], mode="circular", **kwargs)
    k, k_rev = wrapped(k, max(length, 1), period)
    return fft_conv(u, k, **kwargs) if k_rev is None else fft_conv(u, k, k_rev=k_rev, rev_offset=1, **kwargs)


class FlashFFTConv(nn.Module):
    r"""y = postgate * irfft(rfft(pregate * u, N) rfft(k, N), N)[..., :L], N = seqlen: flash-fft-conv's module.

    Args:
        seqlen: N, any positive integer. dtype, use_32_butterfly: kept as attributes; results have u's dtype whatever they say.

    forward(u, k, pregate=None, postgate=None): u and the gates (B, H, L), L <= N, even or odd; k (H, K) (or another shape that
    fft_conv takes), cut to N taps. One gate without the other is taken, as is any stride.

    The convolution is linear and causal where L + K - 1 <= N. Otherwise it wraps around with period N: taps j > N - L reach
    u_{t - j + N}, which is the future, and at L = N it is the circular convolution. That is what this class is defined to do
    and what upstream does in silence; :func:`spectralops.fft_conv` does not. For a causal convolution of rows of L take N >=
    2 L - 1, or fft_conv.

    The buffers of an upstream checkpoint (tables of twiddle factors) are passed over by load_state_dict.

    Source: D. Fu et al., FlashFFTConv, 2023.
    """

    def __init__(self, seqlen: int, dtype: torch.dtype = torch.float16, use_32_butterfly: bool = True):
        super().__init__()
        if _check.integer("seqlen", seqlen) < 1:
            raise ValueError(f"seqlen must be positive; got {seqlen}")
        self.seqlen, self.dtype, self.use_32_butterfly = seqlen, dtype, use_32_butterfly

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in [n for n in state_dict if n.startswith((f"{prefix}f_", f"{prefix}twid"))]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
        for name, value in (("u", u), ("k", k)):
            _check.tensor(name, value)
            if value.dim() < 2:
                raise ValueError(f"{name} must have shape (.., H, {'L' if name == 'u' else 'K'}); got {_check.shape(value)}")
        if u.shape[-1] > self.seqlen:
            raise ValueError(f"u has rows of {u.shape[-1]}, longer than the transform, seqlen = {self.seqlen}")
        return periodic_conv(u, k, self.seqlen, gate_in=pregate, gate_out=postgate)

    def extra_repr(self) -> str:
        return f"{self.seqlen}, dtype={self.dtype}"


def _widened(u: Tensor, k: Tensor) -> Tensor:
    """u in the dtype that the published functions compute in, where it is wider than fft_conv's."""
    return u.to(k.dtype) if k.dtype == torch.float64 else u


def fftconv_ref(
    u: Tensor, k: Tensor, D: Tensor, dropout_mask: Tensor | None, gelu: bool = True, k_rev: Tensor | None = None
) -> Tensor:
    r"""y = gelu(k * u + k_rev . u + D u) mask, causal; k_rev anticausal from lag 0: safari's and H3's `fftconv_ref`.

    u (B, H, L), or (.., H, Z, L) with one kernel for the Z rows of a channel, as Hyena has them; k, k_rev (H, K) or (1, H,
    K), any K; D (H,) or of H elements; dropout_mask (B, H) or None. The result has u's dtype. Where upstream's transforms of
    2 L points let taps beyond L wrap around, these have no effect.
    """
    for name, value in (("u", u), ("k", k), ("D", D)):
        _check.tensor(name, value)
    blocks = 1 if u.dim() <= 3 else u.shape[-2]
    v = _widened(u, k)
    v = v if u.dim() <= 3 else v.flatten(-3, -2)
    channels = v.shape[-2] if v.dim() > 1 else 0
    if D.numel() * blocks != channels:
        raise ValueError(f"D must have {channels // max(blocks, 1)} elements, one a channel; got shape {_check.shape(D)}")
    skip, mask = D.reshape(-1), dropout_mask
    if blocks > 1:
        skip = skip.repeat_interleave(blocks)
        mask = None if mask is None else mask.repeat_interleave(blocks, -1)
    y = fft_conv(v, k, skip=skip, k_rev=k_rev, activation="gelu" if gelu else None, mask=mask)
    return y.reshape(u.shape).to(u.dtype)


def fftconv(u: Tensor, k: Tensor, D: Tensor) -> Tensor:
    """y = k * u + D u, causal: HyenaDNA's standalone `fftconv`. Shapes as in :func:`fftconv_ref`."""
    return fftconv_ref(u, k, D, None, gelu=False)


def fftconv_func(
    u: Tensor,
    k: Tensor,
    D: Tensor,
    dropout_mask: Tensor | None = None,
    gelu: bool = True,
    force_fp16_output: bool = False,
    output_hbl_layout: bool = False,
    v: Tensor | None = None,
    head_dim: int = 1,
    q: Tensor | None = None,
    fftfp16: bool = False,
    k_rev: Tensor | None = None,
) -> Tensor:
    r"""H3's fused `fftconv_func`: y = gelu(k * u + D u) mask, or with v and q (H3's shift-SSM and multiplication)

        y[b, h d2, l] = sum_{d1} q[b, h d1, l] (k * w + D w)[b, d1, d2, h, l],   w = u[b, h d1, l] v[b, h d2, l],

    d1, d2 = 0 .. head_dim - 1, channel h head_dim + d. u, v, q (B, H, L); k, k_rev (H / head_dim, K); D (H / head_dim,); k_rev
    anticausal from lag 0; dropout_mask (B, H).

    force_fp16_output: the result is float16, else it has u's dtype. output_hbl_layout: it lies in memory as (H, B, L). fftfp16 is
    accepted and has no effect: transforms are in float32. With v and q, gelu must be False (H3 has none there and its
    reference defines none), and with head_dim above 1 there is no dropout_mask. head_dim > 1 makes u v and the terms of the
    sum, head_dim times u's size.
    """
    for name, value in (("u", u), ("k", k), ("D", D)):
        _check.tensor(name, value)
    if (v is None) != (q is None):
        raise ValueError("v and q come together; got one of them")
    if _check.integer("head_dim", head_dim) < 1 or v is None and head_dim != 1:
        raise ValueError(f"head_dim must be positive, and 1 without v and q; got {head_dim}")
    if v is None:
        y = fftconv_ref(u, k, D, dropout_mask, gelu, k_rev)
    else:
        y = _outer(u, k, D, dropout_mask, gelu, v, head_dim, q, k_rev)
    y = y.to(torch.float16) if force_fp16_output else y
    return y.transpose(0, 1).contiguous().transpose(0, 1) if output_hbl_layout else y


def _outer(u, k, D, mask, gelu, v, head_dim, q, k_rev) -> Tensor:
    if gelu:
        raise ValueError("gelu must be False with v and q")
    if u.dim() != 3 or v.shape != u.shape or q.shape != u.shape:
        raise ValueError(f"u, v and q must have one shape (B, H, L); got {_check.shape(u)}, {_check.shape(v)}, {_check.shape(q)}")
    if mask is not None and head_dim > 1:
        raise ValueError("dropout_mask is for head_dim = 1")
    heads, rest = divmod(u.shape[1], head_dim)
    if rest or D.shape != (heads,):
        raise ValueError(f"D must have H / head_dim = {u.shape[1]} / {head_dim} elements; got {_check.shape(D)}")
    if head_dim == 1:
        return fft_conv(_widened(u, k), k, skip=D, gate_in=v, gate_out=q, k_rev=k_rev, mask=mask).to(u.dtype)

    def rows(t: Tensor) -> Tensor:  # (B, H, L) -> (d1, B, H, L): its d1-th channel of each head, for all d2 of the head
        t = t.unflatten(1, (heads, head_dim)).movedim(2, 0)  # (d1, B, h, L)
        return t.unsqueeze(3).expand(-1, -1, -1, head_dim, -1).flatten(2, 3)

    w = _widened(v, k).expand(head_dim, *v.shape)
    terms = fft_conv(w, k, skip=D.repeat_interleave(head_dim), gate_in=rows(u), gate_out=rows(q), k_rev=k_rev)
    return terms.sum(0, dtype=torch.promote_types(terms.dtype, torch.float32)).to(u.dtype)
