"""Functions with few Walsh-Hadamard coefficients, by matrices of bits in float64: nothing of the package's packing or parities is used."""

import torch


def draw(n, count, seed=0, degree=None):
    """`count` distinct keys (count, n) uint8, of at most `degree` ones if given, and values of magnitude 1 and more (count,) float64."""
    g = torch.Generator().manual_seed(seed)
    keys = {}
    while len(keys) < count:
        if degree is None:
            key = torch.randint(0, 2, (n,), generator=g, dtype=torch.uint8)
        else:
            key = torch.zeros(n, dtype=torch.uint8)
            key[torch.randperm(n, generator=g)[: int(torch.randint(0, degree + 1, (), generator=g))]] = 1
        keys[tuple(key.tolist())] = key
    values = torch.randn(count, generator=g, dtype=torch.float64)
    return torch.stack(list(keys.values())), values.sign() * (1 + values.abs())


def function(points, keys, values):
    """(M, n), (K, n), (K,) -> (M,): sum_k values[k] (-1)^<m, k>."""
    out = [(1 - 2 * (p.double() @ keys.double().T).remainder(2)) @ values for p in points.split(20_000)]
    return torch.cat(out) if out else values.new_zeros(0)


def noise(count, sigma, seed=0):
    return sigma * torch.randn(count, generator=torch.Generator().manual_seed(10_000 + seed), dtype=torch.float64)


def as_dict(keys, values):
    return dict(zip(map(tuple, keys.tolist()), values.tolist()))


def found(spectrum):
    """{key: value}; that no key is given twice is part of it."""
    out = as_dict(spectrum.bits(), spectrum.values)
    assert len(out) == len(spectrum)
    return out
