"""What `replace` did and why not, module by module, and the way back."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field

from torch import nn

REPLACED, WOULD, ALREADY, SKIPPED, FAILED = (
    "replaced",
    "would be replaced",
    "already replaced",
    "skipped",
    "failed verification",
)


@dataclass
class Row:
    """One path of the model that leads to a module of a known class."""

    path: str
    module_class: str
    package: str
    old_op: str
    new_op: str
    status: str
    backend: str = ""
    reason: str = ""
    verified_on: str = ""
    errors: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # quantity -> relative L2 error (original, new)

    def worst_gradient(self) -> tuple[float, float] | None:
        gradients = [pair for name, pair in self.errors.items() if name.startswith("gradient")]
        return max(gradients, key=lambda pair: pair[1], default=None)


class Report:
    """Prints as a table. `undo()` restores every forward; as a context manager it does so on exit."""

    def __init__(self, rows: list[Row], bindings: list[tuple[nn.Module, object, object]], dry_run: bool):
        self.rows = rows
        self.dry_run = dry_run
        self._bindings = (
            bindings  # (module, the forward we set, the instance attribute that was there or None)
        )

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(row.status for row in self.rows))

    @property
    def replaced(self) -> list[Row]:
        return [row for row in self.rows if row.status == REPLACED]

    @property
    def skipped(self) -> list[Row]:
        return [row for row in self.rows if row.status in (SKIPPED, FAILED)]

    def undo(self) -> int:
        """Put the old forwards back; the number of modules restored. A forward that somebody rebound
        since is left, with a warning."""
        restored = 0
        for module, ours, before in reversed(self._bindings):
            if module.__dict__.get("forward") is not ours:
                warnings.warn(
                    f"undo left a {type(module).__name__} alone: its forward was rebound after replace",
                    stacklevel=2,
                )
                continue
            del module.__dict__["forward"]
            if before is not None:
                module.__dict__["forward"] = before
            restored += 1
        self._bindings.clear()
        return restored

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_) -> None:
        self.undo()

    def to_dict(self) -> dict:
        return {"dry_run": self.dry_run, "counts": self.counts, "rows": [asdict(row) for row in self.rows]}

    def __repr__(self) -> str:
        return f"<spectralops replace Report: {self._summary()}>"

    def _summary(self) -> str:
        return (
            ", ".join(f"{n} {status}" for status, n in self.counts.items())
            or "no module of a known class in this model"
        )

    def __str__(self) -> str:
        head = ("module", "class", "old op -> new op", "backend", "result", "output error", "gradient error")
        lines = [head]
        for row in self.rows:
            lines.append(
                (
                    row.path or "(model)",
                    row.module_class.rpartition(".")[2],
                    f"{row.old_op} -> {row.new_op}",
                    row.backend,
                    row.status,
                    _pair(row.errors.get("output")),
                    _pair(row.worst_gradient()),
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines]
        text.insert(1, "  ".join("-" * w for w in widths))
        table = text[:2]
        for row, line in zip(self.rows, text[2:]):
            table.append(line)
            if row.reason:
                table.append(f"    {row.reason}")
        if any(row.errors for row in self.rows):
            table.append("errors: relative L2 against float64, new forward (original)")
        return "\n".join([*(table if self.rows else []), self._summary()])


def _pair(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[1]:.1e} ({pair[0]:.1e})"
