"""What `fft_conv` takes: every argument checked, then brought to the shapes of the operators (fft_conv_reference.py)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _check
from .fft_conv_reference import Call, compute_dtype
from .fft_conv_taps import MODES, taps
from .kernel_spectrum import KernelSpectrum

ACTIVATIONS = (None, "silu", "gelu")
PRECISIONS = ("highest", "high")


class Arguments(NamedTuple):
    u: Tensor  # (B, H, L)
    kernel: Tensor  # (S, F, G, K) taps or (S, F, G, N, 2) spectrum, in the compute dtype
    skip: Tensor | None  # (F, H), in the compute dtype
    gate_in: Tensor | None  # (B, H, L)
    gate_out: Tensor | None  # (B, F, H, L)
    mask: Tensor | None  # (R, H), in the compute dtype
    cu_seqlens: Tensor | None  # (R + 1,) int64
    call: Call


def kernel_shape(name: str, k: Tensor, rows: int, channels: int, multi: bool) -> Tensor:
    """(H, K) | (G, K) | (B, H, K) | (F, H, K) | (B, F, H, K) -> (S, F, G, K)."""
    takes = "(F, H, K) or (B, F, H, K)" if multi else "(H, K), (G, K) or (B, H, K)"
    if k.dim() not in ((3, 4) if multi else (2, 3)):
        raise ValueError(f"{name} must have shape {takes}; got {_check.shape(k)}")
    if k.shape[-1] == 0 or k.shape[-2] == 0 or multi and k.shape[-3] == 0:
        raise ValueError(f"{name} must have at least one tap, group and filter; got shape {_check.shape(k)}")
    if channels % k.shape[-2]:
        raise ValueError(f"{name} has {k.shape[-2]} groups, which do not divide the {channels} channels of u")
    k = k if multi else k.unsqueeze(-3)
    k = k if k.dim() == 4 else k[None]
    if k.shape[0] not in (1, rows):
        raise ValueError(f"{name} has {k.shape[0]} samples, u has {rows} rows; per-sample kernels need one each")
    return k


def same_groups(k: Tensor, k_rev: Tensor) -> tuple[Tensor, Tensor]:
    """Both (S, F, G, K) on the finer groups of the two."""
    if k.shape[1] != k_rev.shape[1]:
        raise ValueError(f"k has {k.shape[1]} filters, k_rev {k_rev.shape[1]}")
    fine, coarse = max(k.shape[2], k_rev.shape[2]), min(k.shape[2], k_rev.shape[2])
    if fine % coarse:
        raise ValueError(f"k has {k.shape[2]} groups, k_rev {k_rev.shape[2]}: one must divide the other")
    return tuple(t if t.shape[2] == fine else t.repeat_interleave(fine // coarse, 2) for t in (k, k_rev))


def _gate(name: str, gate: Tensor | None, u: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    if gate is None:
        return None
    _check.tensor(name, gate)
    _check.coefficients_dtype(name, gate, "u", u)
    _check.same_device("u", u, **{name: gate})
    if tuple(gate.shape) != shape:
        try:
            gate = gate.expand(shape)
        except RuntimeError:
            raise ValueError(f"{name} must have u's shape {shape}, or broadcast to it; got {_check.shape(gate)}") from None
    return gate


def _gate_out(gate: Tensor | None, u: Tensor, shape: tuple[int, ...], multi: bool, blh: bool) -> Tensor | None:
    """Of the result's shape; of several filters one gate with u's dimensions serves all."""
    if gate is not None and multi:
        _check.tensor("gate_out", gate)
        if gate.dim() <= u.dim():
            gate = _gate("gate_out", gate, u, tuple(u.shape)).unsqueeze(-2 if blh else -3)
    return _gate("gate_out", gate, u, shape)


def sequences(cu_seqlens: object, max_seqlen: int | None, u: Tensor, total: int) -> tuple[Tensor, int]:
    """cu_seqlens in int64 and the longest stretch; reads the device's memory where max_seqlen is not given."""
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a torch.Tensor, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64) or cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(
            f"cu_seqlens must be int32 or int64 of shape (sequences + 1,); got {cu_seqlens.dtype} {_check.shape(cu_seqlens)}"
        )
    _check.same_device("u", u, cu_seqlens=cu_seqlens)
    if max_seqlen is not None and _check.integer("max_seqlen", max_seqlen) < 1:
        raise ValueError(f"max_seqlen must be positive; got {max_seqlen}")
    # where reading costs nothing it is read even so: a max_seqlen too small would cut the kernel of a longer sequence
    readable = cu_seqlens.device.type == "cpu" and type(cu_seqlens) is Tensor and not torch.compiler.is_compiling()
    if max_seqlen is None or readable:
        ends = cu_seqlens.tolist()
        lengths = [b - a for a, b in zip(ends, ends[1:])]
        if ends[0] != 0 or ends[-1] != total or min(lengths) < 0:
            raise ValueError(f"cu_seqlens must rise from 0 to the length of u, {total}; got {ends[:6]} .. {ends[-1]}")
        if max_seqlen is not None and max_seqlen < max(lengths):
            raise ValueError(f"max_seqlen is {max_seqlen}, the longest sequence of cu_seqlens {max(lengths)}")
        return cu_seqlens.long().contiguous(), max(lengths)
    return cu_seqlens.long().contiguous(), min(max_seqlen, total)


def check_rows(length: int, total: int, cu_seqlens: Tensor | None) -> None:
    """What kernels trust, once more where a call is run: a trace or a compiled graph may bring other sizes than were checked.

    On a GPU cu_seqlens is not read, and trusted.
    """
    if cu_seqlens is None:
        if length != total:
            raise ValueError(f"the call was made for rows of {length}; u has rows of {total}")
    elif cu_seqlens.device.type == "cpu":
        ends = cu_seqlens.tolist()
        longest = max(b - a for a, b in zip(ends, ends[1:]))
        if ends[0] != 0 or ends[-1] != total or any(a > b for a, b in zip(ends, ends[1:])):
            raise ValueError(f"cu_seqlens must rise from 0 to the length of u, {total}; got {ends[:6]} .. {ends[-1]}")
        if longest > length:
            raise ValueError(f"max_seqlen is {length}, the longest sequence of cu_seqlens {longest}")


def _rows(t: Tensor, rank: int) -> Tensor:
    """The last `rank` dimensions, and one for all others."""
    if t.dim() == rank:
        return t[None]
    return t if t.dim() == rank + 1 else t.flatten(0, -rank - 1)


def normalise(u, k, skip, gate_in, gate_out, k_rev, mode, activation, mask, layout, precision, multi, rev_offset, cu_seqlens,
              max_seqlen) -> Arguments:  # fmt: skip
    _check.tensor("u", u)
    _check.choice("mode", mode, MODES)
    _check.choice("activation", activation, ACTIVATIONS)
    _check.choice("layout", layout, ("bhl", "blh"))
    _check.choice("precision", precision, PRECISIONS)
    if _check.integer("rev_offset", rev_offset) not in (0, 1):
        raise ValueError(f"rev_offset must be 0 (k_rev shares lag 0) or 1 (it begins at lag -1); got {rev_offset}")
    if u.dim() < 2:
        raise ValueError(f"u must have shape (..., H, L), or (..., L, H) with layout='blh'; got {_check.shape(u)}")
    blh, dtype = layout == "blh", compute_dtype(u)
    filters = _filters(k, multi)
    shape = tuple(u.shape) if not multi else (*u.shape[:-1], filters, u.shape[-1]) if blh else (*u.shape[:-2], filters, *u.shape[-2:])
    gate_in = _gate("gate_in", gate_in, u, tuple(u.shape))
    gate_out = _gate_out(gate_out, u, shape, multi, blh)

    def logical(t: Tensor | None, several: bool) -> Tensor | None:
        if t is None:
            return None
        if several and multi:
            t = _rows(t, 3)
            return t.movedim(1, -1) if blh else t
        t = _rows(t.transpose(-1, -2) if blh else t, 2)
        return t[:, None] if several else t

    x, g_in, g_out = logical(u, False), logical(gate_in, False), logical(gate_out, True)
    (rows, channels, total), length = x.shape, x.shape[-1]
    leading = tuple(u.shape[:-2])
    if cu_seqlens is not None:
        if rows != 1:
            raise ValueError(f"with cu_seqlens u must have a batch of 1, all sequences joined; got {_check.shape(u)}")
        cu_seqlens, length = sequences(cu_seqlens, max_seqlen, u, total)
        rows = cu_seqlens.numel() - 1
        leading = (rows,)
    elif max_seqlen is not None:
        raise ValueError("max_seqlen is for cu_seqlens, which was not given")
    kernel, lag0, grid = _kernel(k, k_rev, mode, rev_offset, u, rows, channels, length, multi, cu_seqlens)
    g_in, g_out, x = _one_dtype(x, g_in, g_out)
    call = Call(lag0, grid, activation or "identity", precision, blh, length)
    return Arguments(
        x, kernel, _skip(skip, u, filters, channels, multi), g_in, g_out, _mask(mask, u, rows, channels, leading), cu_seqlens, call
    )


def _in(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return t if t is None or t.dtype is dtype else t.to(dtype)


def _one_dtype(x: Tensor, *gates: Tensor | None):
    """The gates and u in one dtype: a float32 gate under a 16-bit u (autocast) widens what the kernels read, not what they return."""
    dtype = x.dtype
    for g in gates:
        dtype = dtype if g is None or g.dtype is dtype else torch.promote_types(dtype, g.dtype)
    return *(_in(g, dtype) for g in gates), _in(x, dtype)


def _filters(k: object, multi: bool) -> int:
    if isinstance(k, KernelSpectrum):
        if k.multi != bool(multi):
            raise ValueError(f"k was made with multi={k.multi}, the call has multi={multi}")
        return k.spectrum.shape[1]
    _check.tensor("k", k)
    return k.shape[-3] if multi and k.dim() >= 3 else 1


def kernels(k, k_rev, mode, rev_offset, u, rows, channels, length, multi) -> tuple[Tensor, Tensor | None]:
    """Both kernels (S, F, G, K), on the same groups."""
    for name, value in (("k", k), ("k_rev", k_rev)):
        if value is not None:
            _check.tensor(name, value)
            _check.coefficients_dtype(name, value, "u", u)
            _check.same_device("u", u, **{name: value})
    if k_rev is not None and mode not in ("causal", "circular"):
        raise ValueError(f"k_rev is for the modes 'causal' and 'circular'; got mode={mode!r}")
    if rev_offset and k_rev is None:
        raise ValueError("rev_offset says where k_rev begins, which was not given")
    k = kernel_shape("k", k, rows, channels, multi)
    k_rev = None if k_rev is None else kernel_shape("k_rev", k_rev, rows, channels, multi)
    if mode == "toeplitz" and length and k.shape[-1] != 2 * length - 1:
        raise ValueError(f"mode 'toeplitz' takes k of 2 L - 1 = {2 * length - 1} lags; got {k.shape[-1]}")
    return (k, None) if k_rev is None else same_groups(k, k_rev)


def _kernel(k, k_rev, mode, rev_offset, u, rows, channels, length, multi, cu_seqlens) -> tuple[Tensor, int, int]:
    """The kernel in the compute dtype, lag0, and its grid (0 for taps)."""
    if cu_seqlens is not None and mode != "causal":
        raise ValueError(f"cu_seqlens is for mode 'causal', whose kernel does not depend on the length; got mode={mode!r}")
    if isinstance(k, KernelSpectrum):
        if k_rev is not None or rev_offset:
            raise ValueError("k_rev and rev_offset must be given to KernelSpectrum, which holds both directions")
        k.check(mode, length, rows, channels, u)
        return k.spectrum, 0, k.grid
    k, k_rev = kernels(k, k_rev, mode, rev_offset, u, rows, channels, length, multi)
    dtype = compute_dtype(u)
    kernel, lag0 = taps(_in(k, dtype), _in(k_rev, dtype), mode, max(length, 1), rev_offset)
    return kernel, lag0, 0


def _skip(skip, u, filters: int, channels: int, multi: bool) -> Tensor | None:
    if skip is None:
        return None
    _check.tensor("skip", skip)
    _check.coefficients_dtype("skip", skip, "u", u)
    _check.same_device("u", u, skip=skip)
    fits = skip.dim() == 1 or multi and skip.dim() == 2 and skip.shape[0] == filters
    if not fits or skip.shape[-1] != channels:  # sizes one by one: they may be symbolic
        several = f" or {(filters, channels)}" if multi else ""
        raise ValueError(f"skip must have shape {(channels,)}{several}; got {_check.shape(skip)}")
    return _in(skip, compute_dtype(u)).expand(filters, channels)


def _mask(mask, u, rows: int, channels: int, leading: tuple[int, ...]) -> Tensor | None:
    """(B, H), one factor for a whole row (a dropout mask); leading dimensions as u's, or the sequences of cu_seqlens."""
    if mask is None:
        return None
    _check.tensor("mask", mask, (*_check.FLOATS, torch.bool))
    _check.coefficients_dtype("mask", mask, "u", u)
    _check.same_device("u", u, mask=mask)
    shape = (*leading, channels)
    try:
        mask = mask.expand(shape)
    except RuntimeError:
        what = "(B, H)" if len(shape) == 2 else "(.., H)"
        raise ValueError(f"mask must have shape {what} = {shape}, or broadcast to it; got {_check.shape(mask)}") from None
    return _in(mask, compute_dtype(u)).reshape(rows, channels)
