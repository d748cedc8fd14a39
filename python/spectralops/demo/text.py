"""What the terminal and the page both say."""

from __future__ import annotations

from .proof import Proof
from .timing import MODES

NAMES = {"original": "original", "compiled": "torch.compile", "by hand": "by hand", "replaced": "replaced"}
WHAT = {"by hand": "the rotation as two small matrix products (Kronecker), what a good user writes"}


def case_title(row: dict) -> str:
    return f"{row['case']} ({row['size']})"


def mode_title(mode: str) -> str:
    return MODES.get(mode, "GPU" if mode == "cuda" else mode)


def show_ms(seconds: float | None) -> str:
    """Three digits, never an exponent."""
    value = 0.0 if seconds is None else seconds * 1e3
    return "" if seconds is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratios(seconds: dict[str, float]) -> tuple[str, str]:
    """Speed-up of the replaced model over the original and over torch.compile of it."""
    return tuple(
        f"{seconds[k] / seconds['replaced']:.1f}x" if k in seconds else "" for k in ("original", "compiled")
    )


def columns(times: dict[str, dict]) -> list[str]:
    """What was timed in any of the cases, in the order of NAMES."""
    return [k for k in NAMES if any(k in row["seconds"] for m in times.values() for row in m["rows"])]


def table(rows: list[tuple[str, ...]], numeric: int) -> list[str]:
    """Aligned columns, those from `numeric` on to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if i >= numeric else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def proof_text(proof: Proof) -> list[str]:
    rows = [("", "original", "replaced", "allowed", "")]
    for check in proof.checks:
        numbers = (f"{v:.1e}" for v in (check.original, check.replaced, check.allowed))
        rows.append((check.what, *numbers, "ok" if check.green else "NOT OK"))
    rows.append(
        (
            "accuracy on the test images",
            *(f"{proof.accuracy[k]:.1%}" for k in ("original", "replaced")),
            "",
            "",
        )
    )
    return table(rows, 1)


def times_text(times: dict[str, dict], green: bool) -> list[str]:
    used = columns(times)
    rows = [("median ms", "allocator", *(NAMES[k] for k in used), "over original", "over compile")]
    notes = []
    for mode, measured in times.items():
        for row in measured["rows"]:
            speed = ratios(row["seconds"]) if green else ("", "")
            rows.append(
                (case_title(row), mode_title(mode), *(show_ms(row["seconds"].get(k)) for k in used), *speed)
            )
        notes += [
            f"  torch.compile of the original failed ({mode_title(mode)}): {f}" for f in measured["failures"]
        ]
    notes += [f"  {NAMES[k]}: {text}" for k, text in WHAT.items() if k in used]
    if not green:
        notes.append("  no speed-up is printed: what was replaced was not proven to be unchanged")
    return table(rows, 2) + notes
