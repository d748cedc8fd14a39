"""The specification of `fourier_linear`, in plain PyTorch: a linear layer whose update is a matrix of few frequencies.

With n entries c_j at the frequencies (u_j, v_j) of a matrix of O x I,

    dW[o, i] = s / (O I) sum_j c_j cos(2 pi (u_j o / O + v_j i / I)) = s Re ifft2(D)[o, i],   D[u_j, v_j] += c_j
    y = x (W + dW)^T + b                                                        and, `transposed`, x (W + dW)

The gradient of c_j is s / (O I) sum_t sum_{o, i} g[t, o] x[t, i] cos(..). dW is symmetric under (u, v) -> (-u, -v),
so every v_j may be taken in 0 .. I / 2. Two exact forms:

    sparse  R = rfft(x), G_k = sum over the j with k_j = k of (s / (O I)) c_j (Re R_{v_j} -+ i Im R_{v_j}), y = sum_k
            Re(G_k e^{i k o 2 pi / O}) with (k_j, -) = (u_j, conjugate) for u_j <= O / 2 and (O - u_j, +) above: no
            matrix of O x I, O(T (I log I + n + O log O))
    dense   dW by one irfft2 of the half plane, O(O I log(O I)), added to W: one product in all

and for the gradient of c the sums over t of the products of both transforms at the entries, or Re rfft2(g^T x) there. Sizes alone
decide, by measured costs (is_dense, is_dense_gradient). On a CPU dW is kept as long as c has the same values, so that
the micro-batches of one step share it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from .fft_conv_reference import compute_dtype

TOKENS = 256  # of a block of the sparse form, whose gathered rows stay in the cache
# Nanoseconds of one core: launches of the sparse form; an entry, and a point of the two transforms, of a token; a
# point of irfft2, halved as dW serves the backward pass and further micro-batches too, and of rfft2; a multiply-add of a product
SETUP, ENTRY, POINT, MATRIX, MATRIX_GRADIENT, PRODUCT = 250e3, 5.0, 2.0, 4.5, 8.0, 0.012


class Plan(NamedTuple):
    """Entries from the frequencies of one side to those of the other, in half spectra."""

    size: int  # of the input side
    other: int
    source: Tensor  # (n,) v_j
    target: Tensor  # (n,) k_j
    row: Tensor  # (n,) u_j that goes with source, and its place in the half plane
    place: Tensor
    once: Tensor  # (n,) half(v_j)
    sign: Tensor  # (n, 2, 1): 1 and the sign of the imaginary part, in the compute dtype; times half(k_j); times half(v_j)
    forth: Tensor
    back: Tensor


_plans = WeakTensorKeyDictionary()
_deltas = WeakTensorKeyDictionary()


def half(k: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """1 / 2, but 1 where 2 k = 0 modulo size: a half spectrum counts the others twice."""
    return torch.where(2 * k % size == 0, 1.0, 0.5).to(dtype)


def make_plan(indices: Tensor, outputs: int, inputs: int, transposed: bool, dtype: torch.dtype) -> Plan:
    u, v = indices.flip(0) if transposed else indices
    size, other = (outputs, inputs) if transposed else (inputs, outputs)
    over = 2 * v > size
    v, u = torch.where(over, size - v, v), torch.where(over, (other - u) % other, u)
    low = 2 * u <= other
    target = torch.where(low, u, other - u)
    sign = torch.stack([torch.ones_like(u), torch.where(low, -1, 1)], 1).to(dtype)[..., None]
    once, forth, place = half(v, size, dtype), half(target, other, dtype), u * (size // 2 + 1) + v
    return Plan(size, other, v, target, u, place, once, sign, sign * forth[:, None, None], sign * once[:, None, None])


def plan(indices: Tensor, outputs: int, inputs: int, transposed: bool, dtype: torch.dtype) -> Plan:
    """Kept with the indices; these are tested here, once."""
    if indices.is_inference():
        return _tested(indices, outputs, inputs, transposed, dtype)
    kept = _plans.setdefault(indices, {})
    key, version = (outputs, inputs, transposed, dtype), (indices._version, indices.data_ptr())
    if key not in kept or kept[key][0] != version:
        with torch.inference_mode(False):
            kept[key] = version, _tested(indices, *key)
    return kept[key][1]


def _tested(indices, outputs, inputs, transposed, dtype) -> Plan:
    if indices.shape[1]:
        u, v = indices.amax(1).tolist()
        if min(indices.amin(1).tolist()) < 0 or u >= outputs or v >= inputs:
            raise ValueError(f"indices must be in 0 .. {outputs - 1} and 0 .. {inputs - 1}; the largest are {u} and {v}")
    return make_plan(indices, outputs, inputs, transposed, dtype)


def _sparse(tokens: int, entries: int, outputs: int, inputs: int) -> float:
    return SETUP + tokens * (entries * ENTRY + (inputs + outputs) * POINT)


def is_dense(x: Tensor, entries: int, outputs: int, inputs: int, weight: Tensor | None) -> bool:
    """On a GPU the matrix costs next to nothing beside the launches of the sparse form."""
    merged = weight is not None and weight.dtype == compute_dtype(x)  # then its product is the layer's own
    dense = outputs * inputs * (MATRIX + (0 if merged else x.shape[0] * PRODUCT))
    return x.device.type != "cpu" or dense < _sparse(x.shape[0], entries, outputs, inputs)


def is_dense_gradient(x: Tensor, entries: int, outputs: int, inputs: int) -> bool:
    dense = outputs * inputs * (MATRIX_GRADIENT + x.shape[0] * PRODUCT)
    return x.device.type != "cpu" or dense < _sparse(x.shape[0], entries, outputs, inputs)


def delta(spectrum: Tensor, p: Plan, scaling: float, dtype: torch.dtype) -> Tensor:
    """dW (O, I), of a plan that is not transposed."""
    bins = p.size // 2 + 1
    plane = torch.zeros(p.other * bins, dtype=dtype, device=spectrum.device)
    plane = plane.index_add_(0, p.place, spectrum.to(dtype) * p.once).view(p.other, bins).to(dtype.to_complex())
    return torch.fft.irfft2(plane, (p.other, p.size)).mul_(scaling)


def kept_delta(spectrum: Tensor, indices: Tensor, p: Plan, scaling: float, dtype: torch.dtype) -> Tensor:
    """delta, kept while the values of spectrum are what they were: however they were written, so compared, which is
    free of a wait on a CPU alone."""
    if spectrum.device.type != "cpu":
        return delta(spectrum, p, scaling, dtype)
    found, key = _deltas.get(spectrum), (p.other, p.size, scaling, dtype)
    if found is None or found[0] != key or found[1] is not p.source or not torch.equal(found[2], spectrum):
        with torch.inference_mode(False):
            found = (key, p.source, spectrum.detach().clone(), delta(spectrum.detach(), p, scaling, dtype))
        _deltas[spectrum] = found
    return found[3]


def _rows(z: Tensor) -> Tensor:
    """(T, bins) complex -> (bins, 2, T)."""
    return torch.view_as_real(z).permute(1, 2, 0).contiguous()


def _points(out: Tensor, size: int) -> Tensor:
    """(bins, 2, T) -> (T, size)."""
    return torch.fft.irfft(torch.view_as_complex(out.permute(2, 0, 1).contiguous()), size, norm="forward")


def sparse(x: Tensor, spectrum: Tensor, p: Plan, scaling: float) -> Tensor:
    """x dW^T (T, other) in the compute dtype."""
    dtype = compute_dtype(x)
    coefficient = p.forth * (spectrum.to(dtype) * (scaling / (p.size * p.other)))[:, None, None]
    y = x.new_empty(x.shape[0], p.other, dtype=dtype)
    for begin in range(0, x.shape[0], TOKENS):
        block = x[begin : begin + TOKENS].to(dtype)
        rows = _rows(torch.fft.rfft(block)).index_select(0, p.source).mul_(coefficient)
        out = rows.new_zeros(p.other // 2 + 1, 2, block.shape[0]).index_add_(0, p.target, rows)
        y[begin : begin + TOKENS] = _points(out, p.other)
    return y


def forward(x, spectrum, indices, weight, bias, outputs, inputs, scaling, transposed):
    """x (T, I) -> (T, O), transposed (T, O) -> (T, I)."""
    dtype = compute_dtype(x)
    if is_dense(x, spectrum.shape[0], outputs, inputs, weight):
        whole = kept_delta(spectrum, indices, plan(indices, outputs, inputs, False, dtype), scaling, dtype)
        merged = weight is not None and weight.dtype == dtype
        whole = whole + weight if merged else whole
        z = F.linear(x.to(dtype), whole.T if transposed else whole, bias.to(dtype) if merged and bias is not None else None)
        weight, bias = (None, None) if merged else (weight, bias)
    else:
        z = sparse(x, spectrum, plan(indices, outputs, inputs, transposed, dtype), scaling)
    if weight is not None:
        weight = weight.to(x.dtype)
        z = z + F.linear(x, weight.T if transposed else weight, None if bias is None else bias.to(x.dtype))
    elif bias is not None:
        z = z + bias.to(dtype)
    return z.to(x.dtype)


def gradient(x, grad, indices, outputs, inputs, scaling):
    """x (T, I), grad (T, O) -> (n,) in the compute dtype."""
    dtype = compute_dtype(x)
    p = plan(indices, outputs, inputs, False, dtype)
    if is_dense_gradient(x, indices.shape[1], outputs, inputs):
        spectrum = torch.fft.rfft2(grad.to(dtype).T @ x.to(dtype))
        return torch.view_as_real(spectrum)[p.row, p.source, 0] * (scaling / (outputs * inputs))
    sums = x.new_zeros(indices.shape[1], dtype=dtype)
    for begin in range(0, x.shape[0], TOKENS):
        a = _rows(torch.fft.rfft(x[begin : begin + TOKENS].to(dtype))).index_select(0, p.source)
        b = _rows(torch.fft.rfft(grad[begin : begin + TOKENS].to(dtype))).index_select(0, p.target)
        sums += a.mul_(p.sign).mul_(b).flatten(1).sum(1)
    return sums * (scaling / (outputs * inputs))


def backward(grad, x, spectrum, indices, weight, outputs, inputs, scaling):
    """The gradients of x and of c at once: in the sparse form they share the transform of grad (T, O) and its gathered rows."""
    sizes = (spectrum.shape[0], outputs, inputs)
    if is_dense(x, *sizes, weight) or is_dense_gradient(x, *sizes):
        dx = forward(grad, spectrum, indices, weight, None, outputs, inputs, scaling, True)
        return dx, gradient(x, grad, indices, outputs, inputs, scaling)
    dtype = compute_dtype(x)
    p = plan(indices, outputs, inputs, False, dtype)
    scale = scaling / (outputs * inputs)
    coefficient = p.back * (spectrum.to(dtype) * scale)[:, None, None]
    dx, sums = x.new_empty(x.shape, dtype=dtype), x.new_zeros(indices.shape[1], dtype=dtype)
    for begin in range(0, x.shape[0], TOKENS):
        a = _rows(torch.fft.rfft(x[begin : begin + TOKENS].to(dtype))).index_select(0, p.source)
        b = _rows(torch.fft.rfft(grad[begin : begin + TOKENS].to(dtype))).index_select(0, p.target)
        sums += a.mul_(p.sign).mul_(b).flatten(1).sum(1)
        out = b.new_zeros(p.size // 2 + 1, 2, b.shape[2]).index_add_(0, p.source, b.mul_(coefficient))
        dx[begin : begin + TOKENS] = _points(out, p.size)
    if weight is not None:
        dx += F.linear(grad, weight.to(grad.dtype).T)
    return dx.to(x.dtype), sums * scale


def tables(k: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos, sin (size, n) of 2 pi k m / size, exact in the phase."""
    angle = (torch.arange(size, device=k.device)[:, None] * k % size).to(torch.float64) * (2 * math.pi / size)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def lowered(x, spectrum, indices, weight, bias, outputs, inputs, scaling):
    """The same as products with real tables: of operations that every exporter knows, and differentiable."""
    dtype = compute_dtype(x)
    (co, so), (ci, si) = tables(indices[0], outputs, dtype), tables(indices[1], inputs, dtype)
    c = spectrum.to(dtype) * (scaling / (outputs * inputs))
    z = x.to(dtype)
    y = (z @ ci * c) @ co.T - (z @ si * c) @ so.T
    if weight is not None:
        y = y + F.linear(x, weight.to(x.dtype))
    if bias is not None:
        y = y + bias
    return y.to(x.dtype)
