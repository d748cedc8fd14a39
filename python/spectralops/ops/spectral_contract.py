"""The contraction of spectral_conv in each mode, Y[b, o, p] = sum_i X[b, i, p] W[i, o, p], for weights given whole or as factors, which
are never multiplied out: the largest product made of factors has the ranks in place of the channels.

    dense      W                                                       cp      W = sum_r w_r a_ir b_or prod_d f^d_(p_d r)
    separable  Y[b, i, p] = X[b, i, p] W[i, p]                         tucker  W = sum g_(r s t..) a_ir b_os prod_d f^d_(p_d t_d)
                                                                       tt      W = a_(1 i r) b_(r o s) prod_d f^d_(. p_d .)

with the channel factors (two, or one where separable) before those of the dimensions, the order of tensorly's factorised tensors.
Everything is real with a trailing 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .modes import mode_mix
from .modes_reference import matrix
from .plain import no_autocast

KINDS = ("dense", "cp", "tucker", "tt")
_LETTERS = "uvwxyz"


class Weight(NamedTuple):
    kind: str
    separable: bool
    tensors: tuple[Tensor, ...]  # cp: weights, factors; tucker: core, factors; tt: factors; dense: the weight

    def sizes(self) -> tuple[int, ...]:
        """Channels (two, or one) and modes (m_1 .. m_D)."""
        if self.kind == "dense":
            return tuple(self.tensors[0].shape[:-1])
        if self.kind == "tt":
            return tuple(t.shape[1] for t in self.tensors)
        return tuple(t.shape[0] for t in self.tensors[1:])

    def narrowed(self, windows: list[list[tuple[int, int]]]) -> "Weight":
        """Only the rows of the modes in `windows`, per dimension the runs (from, to) in order."""

        def cut(t: Tensor, dim: int, runs) -> Tensor:
            if len(runs) == 1:
                (lo, hi), size = runs[0], t.shape[dim]
                return t if (lo, hi) == (0, size) else t.narrow(dim, lo, hi - lo)
            return torch.cat([t.narrow(dim, lo, hi - lo) for lo, hi in runs], dim)

        channels, first = 1 if self.separable else 2, 0 if self.kind == "tt" else 1
        tensors = list(self.tensors)
        for d, runs in enumerate(windows):
            if self.kind == "dense":
                tensors[0] = cut(tensors[0], channels + d, runs)
            else:
                at = first + channels + d
                tensors[at] = cut(tensors[at], 1 if self.kind == "tt" else 0, runs)
        return self._replace(tensors=tuple(tensors))


def product(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """einsum of complex numbers (.., 2): one real einsum."""
    inputs, out = equation.split("->")
    left, right = inputs.split(",")
    with no_autocast(a):
        return torch.einsum(f"{left}S,{right}ST->{out}T", a, matrix(b))


def _mode_letters(count: int) -> str:
    return _LETTERS[-count:]


def _cp_scale(weight: Weight, channels: int) -> Tensor:
    """w_r prod_d f^d_(p_d r): (R, m_1 .. m_D, 2)."""
    scale, letters = weight.tensors[0], ""
    for letter, f in zip(_mode_letters(len(weight.tensors) - 1 - channels), weight.tensors[1 + channels :]):
        scale = product(f"r{letters},{letter}r->r{letters}{letter}", scale, f)
        letters += letter
    return scale


def _tucker_core(weight: Weight, channels: int) -> Tensor:
    """g with every mode factor applied: (ranks of the channels, m_1 .. m_D, 2)."""
    core, ranks = weight.tensors[0], "abcdef"[: weight.tensors[0].dim() - 1]
    names = list(ranks)
    for d, (letter, f) in enumerate(zip(_mode_letters(len(ranks) - channels), weight.tensors[1 + channels :])):
        old = "".join(names)
        names[channels + d] = letter
        core = product(f"{old},{letter}{ranks[channels + d]}->{''.join(names)}", core, f)
    return core


def _tt_modes(weight: Weight, channels: int) -> Tensor:
    """The cores of the modes, multiplied: (rank, m_1 .. m_D, 2)."""
    letters, out = "", None
    for letter, f in zip(_mode_letters(len(weight.tensors) - channels), weight.tensors[channels:]):
        out = f if out is None else product(f"a{letters}b,b{letter}c->a{letters}{letter}c", out, f)
        letters += letter
    return out.squeeze(-2)  # the last rank is 1


def contract(x: Tensor, weight: Weight, backend=None, plain=False) -> Tensor:
    """(B, Ci, m_1 .. m_D, 2) -> (B, Co, m_1 .. m_D, 2)."""
    box = x.shape[2:-1]
    p = _mode_letters(len(box))

    def mixed(a: Tensor, w: Tensor) -> Tensor:
        """(B, I, box, 2), (I, O, box, 2) -> (B, O, box, 2) by the kernels."""
        y = mode_mix(a.flatten(2, -2), w.flatten(2, -2), backend=backend, plain=plain)
        return y.unflatten(2, box)

    if weight.kind == "dense":
        w = weight.tensors[0]
        return product(f"bi{p},i{p}->bi{p}", x, w.to(x.dtype)) if weight.separable else mixed(x, w)
    weight = weight._replace(tensors=tuple(t.to(x.dtype) for t in weight.tensors))
    if weight.separable:
        if weight.kind == "cp":
            return product(f"bi{p},i{p}->bi{p}", x, product(f"ir,r{p}->i{p}", weight.tensors[1], _cp_scale(weight, 1)))
        if weight.kind == "tucker":
            return product(f"bi{p},i{p}->bi{p}", x, product(f"ir,r{p}->i{p}", weight.tensors[1], _tucker_core(weight, 1)))
        full = product(f"ir,r{p}->i{p}", weight.tensors[0].squeeze(0), _tt_modes(weight, 1))
        return product(f"bi{p},i{p}->bi{p}", x, full)
    if weight.kind == "cp":
        a, b = weight.tensors[1:3]
        inner = product(f"br{p},r{p}->br{p}", product(f"bi{p},ir->br{p}", x, a), _cp_scale(weight, 2))
        return product(f"br{p},or->bo{p}", inner, b)
    if weight.kind == "tucker":
        a, b = weight.tensors[1:3]
        inner = mixed(product(f"bi{p},ir->br{p}", x, a), _tucker_core(weight, 2))
        return product(f"bs{p},os->bo{p}", inner, b)
    a, b = weight.tensors[:2]
    modes = product(f"ros,s{p}->ro{p}", b, _tt_modes(weight, 2))
    return mixed(product(f"bi{p},ir->br{p}", x, a.squeeze(0)), modes)
