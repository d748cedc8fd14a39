"""Vectors of F_2^n in words of 64 bits, and what one does with them.

Variable i of n is bit n - 1 - i of an n-bit integer, and bit p of the integer is bit p mod 64 of word p // 64: for n <= 64 the one
word is the position in a tensor of 2^n, whose reshape to [2] * n has variable i as axis i.  Below, "bit" counts from the low end of
the integer; only `pack` and `unpack` know of variables.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

WORD = 64


def words(n: int) -> int:
    return (n + WORD - 1) // WORD


def pack_bits(bits: Tensor) -> Tensor:
    """(..., n) of zeros and ones, bit p at place p -> (..., words) int64."""
    n = bits.shape[-1]
    padded = bits.new_zeros((*bits.shape[:-1], words(n) * WORD), dtype=torch.uint8)
    padded[..., :n] = bits
    # sum_i x_i 2^(8 i) times sum_j 2^(56 - 7 j): the exponents 8 i - 7 j + 56 all differ, and i = j are those of the highest byte
    octets = (padded.view(torch.int64) * 0x0102040810204080) >> 56
    return octets.bitwise_and_(255).to(torch.uint8).view(torch.int64)


@functools.lru_cache(maxsize=None)
def _eight(device: torch.device) -> Tensor:
    """(256,) int64: the eight bits of a byte as eight bytes, lowest first."""
    byte = torch.arange(256, device=device)[:, None]
    return ((byte >> torch.arange(8, device=device)) & 1).to(torch.uint8).view(torch.int64).squeeze(1)


def octets(packed: Tensor) -> Tensor:
    """(..., words) int64 -> (..., 8 words) uint8, lowest first."""
    packed = packed.contiguous()
    if packed.stride(-1) != 1:  # contiguous all the same: of one word or none, which `view` does not see
        packed = packed.clone(memory_format=torch.contiguous_format)
    return packed.view(torch.uint8)


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """(..., words) int64 -> (..., n) uint8, bit p at place p."""
    spread = _eight(packed.device)[octets(packed).reshape(-1).to(torch.int64)]
    return spread.view(torch.uint8).view(*packed.shape[:-1], packed.shape[-1] * WORD)[..., :n]


def pack(bits: Tensor) -> Tensor:
    """(..., n) of zeros and ones, variable i at place i -> (..., words) int64."""
    n = bits.shape[-1]
    padded = bits.new_empty((*bits.shape[:-1], words(n) * WORD), dtype=torch.uint8)
    padded[..., : words(n) * WORD - n] = 0
    padded[..., words(n) * WORD - n :] = bits
    # The highest bit is first: as in pack_bits, with sum_j 2^(63 - 9 j), so that what turns round are bytes of eight variables
    reversed_octets = (padded.view(torch.int64) * (0x8040201008040201 - (1 << 64))) >> 56
    return reversed_octets.to(torch.uint8).flip(-1).view(torch.int64)


def unpack(packed: Tensor, n: int) -> Tensor:
    """(..., words) int64 -> (..., n) uint8, variable i at place i."""
    return unpack_bits(packed, n).flip(-1)


def bit(packed: Tensor, p: int) -> Tensor:
    """(..., words) -> (...): bit p, 0 or 1."""
    return (packed[..., p // WORD] >> (p % WORD)) & 1


def fold(packed: Tensor) -> Tensor:
    """(..., words) -> (...): the exclusive or of the words, which has their parity."""
    while packed.shape[-1] > 1:
        half = packed.shape[-1] // 2
        folded = packed[..., :half] ^ packed[..., half : 2 * half]
        packed = folded if packed.shape[-1] == 2 * half else torch.cat([folded, packed[..., -1:]], -1)
    return packed[..., 0]


def parity(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> over F_2: (..., words), (..., words) -> (...) int64 of 0 and 1."""
    x = fold(a & b)
    for shift in (32, 16, 8, 4, 2, 1):  # the arithmetic shift fills the high bits, which are not read
        x = x ^ (x >> shift)
    return x & 1


def span(vectors: Tensor) -> Tensor:
    """(b, words) -> (2^b, words): entry l is the sum of the vectors at the bits of l."""
    points = vectors.new_zeros((1, vectors.shape[-1]))
    for vector in vectors:
        points = torch.cat([points, points ^ vector])
    return points


def product(vectors: Tensor, selected: Tensor) -> Tensor:
    """(n, words), (A, n) of zeros and ones -> (A, words): for each row the sum of the selected vectors."""
    unpacked = unpack_bits(vectors, vectors.shape[-1] * WORD).to(torch.float32)
    return pack_bits((selected.to(torch.float32) @ unpacked).remainder(2).to(torch.uint8))


def digest(packed: Tensor, weights: Tensor) -> Tensor:
    """(..., words), (64 words,) random words -> (...) int64: for each vector the sum over F_2 of the weights at its
    bits. It is linear, and of two vectors that differ, random weights make the same with probability 2^-64.
    """
    sums = weights.new_zeros((weights.numel() // 8, 1))  # of the weights at the bits of a byte, for each of its places
    for weight in weights.view(-1, 8).T:
        sums = torch.cat([sums, sums ^ weight[:, None]], 1)
    out, places = packed.new_zeros(packed.shape[:-1]), octets(packed)
    for place, row in enumerate(sums):
        out ^= row[places[..., place].to(torch.int64)]
    return out
