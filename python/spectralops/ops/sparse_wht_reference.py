"""Sparse Walsh-Hadamard transform: the specification of the decoder, in plain PyTorch.

f(m) = sum_k F[k] (-1)^<m, k> + noise of variance sigma^2, with few F[k] other than zero.  Group c of a plan
(sparse_wht_groups.py) has the 2^b points of a subspace, l -> M_c l, moved by P offsets d_p; the transform over l
puts into bin j the keys with M_c^T k = j:

    U_c[j, p] = (1/B) sum_l f(M_c l + d_p) (-1)^<l, j> = sum_{k: M_c^T k = j} F[k] s_p(k) + noise of variance v = sigma^2 / B,
    s_p(k) = (-1)^<d_p, k>,   d_p = base_q + row_i,   p = q (checks + 1) + i.

Detection, of a bin with samples U_p and energy e = mean_p U_p^2:

    1  zero-ton      if e <= tau_try v
    2  multi-ton     if mean_p (|U_p| - mean |U|)^2 > tau v: no signs explain it
    3  signs         of <row_i, k>, from L_i = sum_q U_(q,0) U_(q,i).  soft: once more with w_q = sum_i sgn(L_i)
                     U_(q,i) in place of U_(q,0), relative to the sign of L_0.  hard: the majority of sgn U_(q,0)
                     sgn U_(q,i), soft where that is a tie
    4  key           by the scheme; bch: if that fails, the signs at the `chase` least reliable |L_i| are flipped in
                     every way (that of i = 0 flips all others) and the key with the largest |rho| is taken
    5  single-ton    if M_c^T k = j, mean_p (U_p - rho s_p(k))^2 <= tau v with rho = mean_p U_p s_p(k), no term of
                     that mean is above tau_one v (two keys whose signs differ at a few offsets only), and P rho^2
                     >= theta v, which no key of the bin reaches by noise alone but with the false alarm's
                     probability (a union bound over the keys)
    6  refused       if the key's bin in another group is a zero-ton, where rho would be rho', and (rho' - rho)^2 > refuse v

Peeling, in rounds: all bins that changed are tested; a key that several groups found takes the mean of their rho;
every key is subtracted from its bin in every group, in the order of (group, bin) of the first group that found it.
Until nothing is found. Where v is not given it is estimated from the energies, before the first round and again
when nothing is found: the ceil(C B / 16)-th smallest, then the mean of those below tau v until these stay the same.
v is never below what rounding makes, (8 eps)^2 mean_c sum_j e.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from . import bch, bits
from .hadamard_reference import hadamard as hadamard_reference
from .sparse_wht_groups import OFFSETS, Tables, offset_rows

ESTIMATES = 3  # of the noise: one before the first round, the others when nothing is found
FLOOR = 8.0  # roundings that a sample of a bin may carry


class Call(NamedTuple):
    """What a decoder is told besides the samples and the tables."""

    n: int
    b: int
    repeats: int
    checks: int
    scheme: int  # index into OFFSETS
    hard: bool
    degree: int  # bch: the largest; else 0
    chase: int
    capacity: int  # keys that are kept at most
    rounds: int  # at most
    tau_try: float
    tau: float
    tau_one: float
    theta: float
    refuse: float
    noise: float  # sigma^2 / B; negative: to be estimated


class Decoded(NamedTuple):
    keys: Tensor  # (R, capacity, W) int64, in the order found
    values: Tensor  # (R, capacity)
    counts: Tensor  # (R,) int32: how many of them are there
    energy: Tensor  # (R, C, B): e of what is left in each bin
    noise: Tensor  # (R, 2): v as last used, and the floor under it


def floor_of(energy: Tensor) -> Tensor:
    """(C, B) -> the least v, that of rounding."""
    eps = torch.finfo(energy.dtype).eps / 2
    return (FLOOR * eps) ** 2 * energy.sum(1).mean()


def noise_of(energy: Tensor, floor: Tensor, tau: float) -> Tensor:
    """(C, B) -> v, estimated from the bins that hold nothing else."""
    flat = energy.flatten()
    v = torch.maximum(flat.kthvalue((flat.numel() + 15) // 16).values, floor)
    count = -1
    for _ in range(64):
        below = flat[flat <= tau * v]
        if below.numel() == count:
            break
        count = below.numel()
        v = torch.maximum(below.mean(), floor) if count else v
    return v


class Decoder:
    """One function's samples, and the steps of the specification on them."""

    def __init__(self, values: Tensor, index: Tensor | None, tables: Tables, call: Call):
        self.t, self.call = tables, call
        groups, bins = tables.base.shape[0], 1 << call.b
        u = (values if index is None else values[index]).view(groups, bins, -1)
        self.u = hadamard_reference(u, None, None, None, 1 / bins, 0, 0).clone()  # (C, B, P); peeling writes it
        rows = offset_rows(tables, call.n, call.b, OFFSETS[call.scheme])
        self.points = (tables.base[:, :, None] ^ rows[:, None]).flatten(1, 2)  # (C, P, W)
        self.energy = u.new_zeros(groups, bins)

    def bins_of(self, c: int, keys: Tensor) -> Tensor:
        """(A, W) -> (A,): M_c^T k."""
        rows = self.t.to_bin_rows[c, : self.call.b]
        return (bits.parity(keys[:, None], rows) << torch.arange(self.call.b, device=keys.device)).sum(1)

    def signs_of(self, c: int, keys: Tensor) -> Tensor:
        """(A, W) -> (A, P): s_p(k) in group c."""
        return 1 - 2 * bits.parity(keys[:, None], self.points[c]).to(self.u.dtype)

    def reliabilities(self, u: Tensor) -> Tensor:
        """(A, P) -> (A, checks + 1): L_i, positive where <row_i, k> = 0; L_0 is not negative."""
        u = u.view(-1, self.call.repeats, self.call.checks + 1)  # (A, q, i)
        soft = (u[:, :, :1] * u).sum(1)
        if self.call.hard:
            sign = torch.where(u < 0, -1.0, 1.0).to(u.dtype)
            votes = (sign[:, :, :1] * sign).sum(1)
            return torch.where(votes == 0, soft, soft.abs() * votes.sign())
        if self.call.repeats > 1:
            sign = torch.where(soft < 0, -1.0, 1.0).to(u.dtype)
            weight = (sign[:, None] * u).sum(2, keepdim=True)
            soft = (weight * u).sum(1)
            soft = torch.where(soft[:, :1] < 0, -soft, soft)
        return soft

    def keys_of(self, c: int, bin: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """(A,), (A, checks) bool -> keys (A, W), and whether there is one (A,)."""
        call = self.call
        yes = torch.ones_like(bin, dtype=torch.bool)
        if call.scheme == 0:
            low = (bin[:, None] >> torch.arange(call.b, device=bin.device)) & 1
            return bits.product(self.t.to_key_columns[c], torch.cat([low, negative], 1)), yes
        if call.scheme == 1:
            return bits.pack_bits(negative.to(torch.uint8)), yes
        m = call.checks // call.degree
        syndromes = (negative.view(-1, call.degree, m).long() << torch.arange(m, device=bin.device)).sum(2)
        found = [bch.locate(row, call.n) for row in syndromes.tolist()]
        chosen = torch.zeros(len(found), call.n, dtype=torch.uint8, device=bin.device)
        for row, positions in enumerate(found):
            chosen[row, positions or []] = 1
        return bits.pack_bits(chosen), torch.tensor([f is not None for f in found], device=bin.device, dtype=torch.bool)

    def fits(self, c: int, bin: Tensor, u: Tensor, keys: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Step 5: whether each bin is explained by its key (A,), and rho (A,)."""
        signs = self.signs_of(c, keys)
        rho = (u * signs).mean(1)
        left = (u - rho[:, None] * signs).square()
        small = (left.mean(1) <= self.call.tau * v) & (left <= self.call.tau_one * v).all(1)
        enough = u.shape[1] * rho.square() >= self.call.theta * v
        return (self.bins_of(c, keys) == bin) & small & enough, rho

    def refused(self, c: int, keys: Tensor, rho: Tensor, v: Tensor) -> Tensor:
        """Step 6: (A,) whether another group's bin of the key is empty and has nothing of it."""
        refused = torch.zeros_like(rho, dtype=torch.bool)
        for other in range(self.energy.shape[0]):
            if other == c:
                continue
            place = self.bins_of(other, keys)
            its = (self.u[other, place] * self.signs_of(other, keys)).mean(1)
            empty = self.energy[other, place] <= self.call.tau_try * v
            refused |= empty & ((its - rho).square() > self.call.refuse * v)
        return refused

    def detect(self, c: int, active: Tensor, v: Tensor):
        """(A,) bins -> those of them that are single-tons, their keys and rho."""
        u = self.u[c, active]
        e = self.energy[c, active]
        magnitude = u.abs()
        spread = (magnitude - magnitude.mean(1, keepdim=True)).square().mean(1)
        tried = (e > self.call.tau_try * v) & (spread <= self.call.tau * v)
        bin, u = active[tried], u[tried]
        level = self.reliabilities(u)
        keys, there = self.keys_of(c, bin, level[:, 1:] < 0)
        yes, rho = self.fits(c, bin, u, keys, v)
        yes &= there
        if self.call.scheme == 2 and self.call.chase and not bool(yes.all()):
            again = (~yes).nonzero().squeeze(1)
            better = self.chase(c, bin[again], u[again], level[again], v)
            yes[again], keys[again], rho[again] = better
        bin, keys, rho = bin[yes], keys[yes], rho[yes]
        kept = ~self.refused(c, keys, rho, v)
        return bin[kept], keys[kept], rho[kept]

    def chase(self, c: int, bin: Tensor, u: Tensor, level: Tensor, v: Tensor):
        """Step 4 where the signs as they are gave no key: the best of those a few flips away."""
        yes, rho = torch.zeros_like(bin, dtype=torch.bool), torch.zeros_like(u[:, 0])
        keys = self.t.base.new_zeros(len(bin), self.t.base.shape[-1])
        depth = min(self.call.chase, level.shape[1])
        weak = level.abs().argsort(dim=1, stable=True)[:, :depth]  # (A, depth)
        row = torch.arange(len(bin), device=bin.device)
        for size in range(1, depth + 1):
            for places in combinations(range(depth), size):
                negative = level < 0
                for place in places:
                    negative[row, weak[:, place]] ^= True
                negative = negative[:, 1:] ^ negative[:, :1]
                new_keys, there = self.keys_of(c, bin, negative)
                fits, new_rho = self.fits(c, bin, u, new_keys, v)
                better = fits & there & (~yes | (new_rho.abs() > rho.abs()))
                yes, keys = yes | better, torch.where(better[:, None], new_keys, keys)
                rho = torch.where(better, new_rho, rho)
        return yes, keys, rho

    def resolve(self, found: list) -> list[tuple[int, Tensor, Tensor]]:
        """What each group found -> (group, keys, rho) of the keys that are taken, each in the first group that found it."""
        groups, bins = self.energy.shape
        rho = self.u.new_zeros(groups, bins)
        key = self.t.base.new_zeros(groups, bins, self.t.base.shape[-1])
        there = torch.zeros(groups, bins, dtype=torch.bool, device=rho.device)
        for c, (bin, keys, values) in enumerate(found):
            there[c, bin], key[c, bin], rho[c, bin] = True, keys, values
        taken = []
        for c, (bin, keys, values) in enumerate(found):
            first, total, count = torch.ones_like(bin, dtype=torch.bool), values.clone(), torch.ones_like(values)
            for other in range(groups):
                if other == c:
                    continue
                place = self.bins_of(other, keys)
                same = there[other, place] & (key[other, place] == keys).all(1)
                first &= ~(same & (other < c))
                total, count = total + torch.where(same, rho[other, place], 0.0), count + same
            taken.append((c, keys[first], (total / count)[first]))
        return taken

    def run(self) -> Decoded:
        call = self.call
        groups, bins = self.energy.shape
        known: dict[tuple, int] = {}
        keys: list[Tensor] = []
        values: list[Tensor] = []
        self.energy = self.u.square().mean(2)
        floor = floor_of(self.energy)
        given = call.noise >= 0
        v = torch.maximum(floor, floor.new_tensor(call.noise)) if given else noise_of(self.energy, floor, call.tau)
        estimates, full = 1, False
        active = torch.ones(groups, bins, dtype=torch.bool, device=self.u.device)
        for _ in range(call.rounds):
            self.energy = torch.where(active, self.u.square().mean(2), self.energy)
            found = [self.detect(c, active[c].nonzero().squeeze(1), v) for c in range(groups)]
            active.zero_()
            for _, new_keys, rho in self.resolve(found):
                for key, r in zip(new_keys, rho):
                    place = known.get(tuple(key.tolist()))
                    if place is None and len(keys) == call.capacity:
                        full = True
                        break
                    if place is None:
                        known[tuple(key.tolist())] = len(keys)
                        keys.append(key)
                        values.append(r)
                    else:
                        values[place] = values[place] + r
                    for c in range(groups):
                        j = self.bins_of(c, key[None])[0]
                        self.u[c, j] -= r * self.signs_of(c, key[None])[0]
                        active[c, j] = True
            if full:
                break
            if not bool(active.any()):
                if given or estimates == ESTIMATES:
                    break
                before, v, estimates = v, noise_of(self.energy, floor, call.tau), estimates + 1
                if v == before:
                    break
                active.fill_(True)
        self.energy = self.u.square().mean(2)
        return self.padded(keys, values, v, floor)

    def padded(self, keys, values, v, floor) -> Decoded:
        w = self.t.base.shape[-1]
        all_keys = self.t.base.new_zeros(self.call.capacity, w)
        all_values = self.u.new_zeros(self.call.capacity)
        if keys:
            all_keys[: len(keys)], all_values[: len(keys)] = torch.stack(keys), torch.stack(values)
        count = torch.tensor(len(keys), dtype=torch.int32, device=self.u.device)
        return Decoded(all_keys, all_values, count, self.energy, torch.stack([v, floor]))


def decode(values: Tensor, index: Tensor | None, tables: Tables, call: Call) -> Decoded:
    """(R, Q) samples -> everything of R functions."""
    done = [Decoder(row, index, tables, call).run() for row in values]
    return Decoded(*(torch.stack(parts) for parts in zip(*done)))


def walsh_sum(points: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(M, W), (K, W), (K,) -> (M,): sum_k values[k] (-1)^<m, k>, in pieces of bounded size."""
    step = max(16, 4096 // keys.shape[1])
    y = []
    for rows in points.split(1024):
        sums = [
            (1 - 2 * bits.parity(rows[:, None], some).to(values.dtype)) @ v for some, v in zip(keys.split(step), values.split(step))
        ]
        y.append(sum(sums[1:], sums[0]))
    return torch.cat(y)
