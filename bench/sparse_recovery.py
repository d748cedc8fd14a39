"""How often a sparse Walsh-Hadamard spectrum is found: `python -m bench.sparse_recovery [--seeds 100]`, some minutes on a CPU.

Each line: of so many decodes, how many gave the very support, how many failed and said so (`unresolved` is not empty), how many failed
without saying so, and how many keys were given that are none.
"""

import argparse
import time

import torch

import spectralops as so

FUNCTIONS = 10  # decoded with one plan


def draw(n: int, count: int, generator: torch.Generator, degree: int | None, signs: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct random keys (count, n) of zeros and ones, and values: +-1, or of magnitude 1 and more."""
    keys = torch.zeros(0, n, dtype=torch.float64)
    while len(keys) < count:
        rows = torch.randint(0, 2, (count, n), generator=generator, dtype=torch.float64)
        if degree is not None:
            rows = torch.zeros(count, n, dtype=torch.float64)
            rows.scatter_(1, torch.rand(count, n, generator=generator).argsort(1)[:, :degree], 1.0)
        keys = torch.cat([keys, rows]).unique(dim=0)
    keys = keys[torch.randperm(len(keys), generator=generator)[:count]]
    values = torch.randn(count, generator=generator, dtype=torch.float64)
    return keys, values.sign() if signs else values.sign() * (1 + values.abs())


def run(name: str, decodes: int, n: int, count: int, sigma: float = 0.0, signs: bool = False, noise_std="auto", **arguments) -> None:
    exact = said = silent = false = done = 0
    begin = time.perf_counter()
    for seed in range(-(-decodes // FUNCTIONS)):
        generator = torch.Generator().manual_seed(seed)
        plan = so.SparseWHTPlan(n, max(count, 1), seed=seed, **arguments)
        points = plan.queries().double()
        truths, rows = [], []
        for _ in range(min(FUNCTIONS, decodes - done)):
            keys, values = draw(n, count, generator, arguments.get("degree"), signs)
            noise = sigma * torch.randn(len(points), generator=generator, dtype=torch.float64)
            truths.append({tuple(k) for k in keys.to(torch.uint8).tolist()})
            rows.append((1 - 2 * (points @ keys.T).remainder_(2)) @ values + noise)
        for truth, spectrum in zip(truths, plan.decode(torch.stack(rows), noise_std)):
            got = {tuple(k) for k in spectrum.bits().tolist()}
            false += len(got - truth)
            done += 1
            if got == truth:
                exact += 1
            elif spectrum.unresolved.numel():
                said += 1
            else:
                silent += 1
    seconds = time.perf_counter() - begin
    print(f"{name:<72} {done:>5} {exact:>6} {said:>6} {silent:>7} {false:>6} {seconds:>7.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    seeds = parser.parse_args().seeds
    print(f"{'':<72} {'runs':>5} {'exact':>6} {'said':>6} {'silent':>7} {'false':>6}")
    for count in (10, 20, 50, 100, 200):
        for signs in (False, True):
            kind = "+-1" if signs else "|F| >= 1"
            run(f"no noise, default b and groups, n = 60, K = {count}, {kind}", seeds, 60, count, signs=signs)
    for n in (8, 12, 20):
        run(f"no noise, default b and groups, n = {n}, K = 20, +-1", seeds, n, 20, signs=True)
    for majority in ("soft", "hard"):
        for decibels, repeats in ((5, 3), (0, 5), (0, 10)):
            sigma = (40 / 10 ** (decibels / 10)) ** 0.5
            name = f"nso, {majority}, n = 20, K = 40, b = 7, +-1, {decibels} dB, repeats = {repeats}"
            run(name, seeds, 20, 40, sigma, True, offsets="nso", repeats=repeats, b=7, majority=majority)
    coded = dict(offsets="bch", degree=5)
    run("bch, degree 5, n = 500, K = 50, b = 6, sigma = 0.1", seeds // 2, 500, 50, 0.1, b=6, **coded)
    run("bch, degree 5, n = 100, K = 50, default b, +-1, sigma = 1", seeds, 100, 50, 1.0, True, **coded)
    for scheme in (dict(offsets="exact"), dict(offsets="nso", repeats=3), dict(offsets="nso", repeats=3, majority="hard"), coded):
        what = ", ".join(map(str, scheme.values()))
        for noise_std in ("auto", 1.0):
            run(f"noise alone, {what}, n = 30, B = 32, noise_std = {noise_std}", 10 * seeds, 30, 0, 1.0, noise_std=noise_std, b=5, **scheme)
        for sigma in (0.3, 3.0):
            run(f"{what}, n = 30, K = 10, +-1, sigma = {sigma}", 10 * seeds, 30, 10, sigma, True, **scheme)


if __name__ == "__main__":
    main()
