"""A spectrum as a table to read, and as a file: JSON with every number exact, keys in hexadecimal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import bits
from .sparse_spectrum_indices import sets_of

if TYPE_CHECKING:
    from .sparse_spectrum import SparseSpectrum

FORMAT, VERSION = "spectralops.SparseSpectrum", 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}
ROWS = 20


def table(spectrum: "SparseSpectrum", rows: int | None = ROWS) -> str:
    """A line for each coefficient, in the spectrum's order, and what was not resolved."""
    shown = len(spectrum) if rows is None else min(rows, len(spectrum))
    sets = sets_of(spectrum.keys[:shown], spectrum.n)
    name = (spectrum.names or [str(i) for i in range(spectrum.n)]).__getitem__
    lines = [f"{value: .6e}  {{{', '.join(map(name, s))}}}" for value, s in zip(spectrum.values[:shown].tolist(), sets)]
    if shown < len(spectrum):
        lines.append(f"... {len(spectrum) - shown} more")
    what = f"{len(spectrum)} coefficients of a function of {spectrum.n} bits"
    energy, noise = f"residual energy {spectrum.residual_energy:.3g}", f"noise {spectrum.noise_std:.3g}"
    return "\n".join([f"{what}; unresolved bins {spectrum.unresolved.shape[0]}, {energy}, {noise}", *lines])


def _integers(keys: Tensor) -> list[int]:
    """(K, W) -> the keys as n-bit integers."""
    mask = (1 << bits.WORD) - 1
    return [sum((word & mask) << (bits.WORD * w) for w, word in enumerate(row)) for row in keys.tolist()]


def _words(key: int, count: int) -> list[int]:
    half, mask = 1 << (bits.WORD - 1), (1 << bits.WORD) - 1
    return [((key >> (bits.WORD * w) & mask) ^ half) - half for w in range(count)]


def save(spectrum: "SparseSpectrum", path: str | Path) -> None:
    state = {
        "format": FORMAT,
        "version": VERSION,
        "n": spectrum.n,
        "dtype": str(spectrum.values.dtype).removeprefix("torch."),
        "keys": [f"{key:x}" for key in _integers(spectrum.keys)],
        "values": spectrum.values.detach().tolist(),
        "unresolved": spectrum.unresolved.tolist(),
        "residual_energy": spectrum.residual_energy,
        "noise_std": spectrum.noise_std,
        "threshold": spectrum.threshold,
        "names": spectrum.names,
    }
    Path(path).write_text(json.dumps(state) + "\n")


def load(make: type["SparseSpectrum"], path: str | Path, device=None) -> "SparseSpectrum":
    try:
        state = json.loads(Path(path).read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a saved SparseSpectrum: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a saved SparseSpectrum")
    if state.get("version") != VERSION:
        got = state.get("version")
        raise ValueError(f"{path} was saved by another version: its format is {got}, this package reads {VERSION}")
    try:
        n, keys = int(state["n"]), [int(key, 16) for key in state["keys"]]
        if any(key >> n for key in keys):
            raise ValueError(f"a key has more than {n} bits")
        words = bits.words(n)
        return make(
            n=n,
            keys=torch.tensor([_words(key, words) for key in keys], dtype=torch.int64, device=device).view(-1, words),
            values=torch.tensor(state["values"], dtype=DTYPES[state["dtype"]], device=device),
            unresolved=torch.tensor(state["unresolved"], dtype=torch.int64, device=device).view(-1, 2),
            residual_energy=float(state["residual_energy"]),
            noise_std=float(state["noise_std"]),
            threshold=float(state["threshold"]),
            names=state["names"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is a damaged SparseSpectrum file: {error!r}") from None
