"""Direct sums in numpy float64, written from the formulas and not from the package."""

import itertools

import numpy as np


def frequencies(rows, layout):
    """Of the rows of a weight along a dimension that is not the last."""
    if layout == "neuralop":
        return [r - rows // 2 for r in range(rows)]
    return [*range(rows // 2), *range(-(rows // 2), 0)]


def filtered(x, weight):
    """irfftn(rfftn(x) W) over axes 1 .. D of (B, n.., C) by direct sums; weight (n.., n_D // 2 + 1, C) complex."""
    grid = x.shape[1:-1]
    y = np.zeros_like(x)
    points = list(itertools.product(*map(range, grid)))
    for k in itertools.product(*map(range, (*grid[:-1], grid[-1] // 2 + 1))):
        wave = np.array([np.exp(2j * np.pi * sum(a * b / n for a, b, n in zip(k, p, grid))) for p in points]).reshape(grid)
        count = 1 if k[-1] == 0 or 2 * k[-1] == grid[-1] else 2
        spectrum = np.tensordot(x, wave.conj(), (list(range(1, x.ndim - 1)), list(range(len(grid)))))  # (B, C)
        y += count * np.real((spectrum * weight[k])[:, *(None,) * len(grid), :] * wave[..., None]) / len(points)
    return y


def convolved(x, weight, out_grid, layout, norm):
    """The FNO layer by direct sums: x (B, I, n..), weight (I, O, m..) complex."""
    grid = x.shape[2:]
    scales = {
        "forward": (1 / np.prod(grid), 1),
        "backward": (1, 1 / np.prod(out_grid)),
        "ortho": (np.prod(grid) ** -0.5, np.prod(out_grid) ** -0.5),
    }
    s, t = scales[norm]
    y = np.zeros((x.shape[0], weight.shape[1], *out_grid))
    rows = [frequencies(m, layout) for m in weight.shape[2:-1]] + [list(range(weight.shape[-1]))]

    def wave(f, sizes, sign):
        out = np.ones((1,) * len(sizes))
        for d, (k, n) in enumerate(zip(f, sizes)):
            one = np.exp(sign * 2j * np.pi * k * np.arange(n) / n)
            out = out * one.reshape([-1 if e == d else 1 for e in range(len(sizes))])
        return out

    for index in itertools.product(*(range(len(r)) for r in rows)):
        f = [r[i] for r, i in zip(rows, index)]
        if any(not -(n // 2) <= k <= (n - 1) // 2 for k, g in zip(f[:-1], zip(grid, out_grid)) for n in g):
            continue
        if any(2 * f[-1] > n for n in (grid[-1], out_grid[-1])):
            continue
        axes = (list(range(2, x.ndim)), list(range(len(grid))))
        spectrum = s * np.tensordot(x, wave(f, grid, -1), axes) @ weight[:, :, *index]  # (B, O)
        count = 1 if f[-1] == 0 or 2 * f[-1] == out_grid[-1] else 2
        y += t * count * np.real(spectrum[..., *(None,) * len(grid)] * wave(f, out_grid, 1))
    return y
