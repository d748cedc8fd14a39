"""What the terminal and the page both say."""

from __future__ import annotations

from .fit import Fit
from .proof import Check, Proof
from .timing import MODES

NAMES = {"original": "original", "compiled": "torch.compile", "by hand": "by hand", "replaced": "replaced"}
FIT_NAMES = {"original": "eager formula", "compiled": "torch.compile", "replaced": "kan_linear"}  # of a picture


def case_title(row: dict) -> str:
    return f"{row['case']} ({row['size']})"


def mode_title(mode: str) -> str:
    return MODES.get(mode, "GPU" if mode == "cuda" else mode)


def show_ms(seconds: float | None) -> str:
    """Three digits, never an exponent."""
    value = 0.0 if seconds is None else seconds * 1e3
    return "" if seconds is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratios(seconds: dict[str, float], used: list[str], green: bool) -> list[str]:
    """Speed-up of the replaced model over the original and, if it was timed, over torch.compile of it; nothing unless
    the two were proven to do the same."""
    over = [k for k in ("original", "compiled") if k in used]
    return [f"{seconds[k] / seconds['replaced']:.1f}x" if green and k in seconds else "" for k in over]


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


def show_bytes(count: int) -> str:
    return f"{count / 2**20:.3g} MB"


def _checks_text(checks: list[Check], names: dict[str, str]) -> list[tuple[str, ...]]:
    rows = [("", names["original"], names["replaced"], "allowed", "")]
    for check in checks:
        numbers = (f"{v:.1e}" for v in (check.original, check.replaced, check.allowed))
        rows.append((check.what, *numbers, "ok" if check.green else "NOT OK"))
    return rows


def proof_text(proof: Proof) -> list[str]:
    scores = (f"{proof.score[k]:.1%}" for k in ("original", "replaced"))
    rows = [*_checks_text(proof.checks, NAMES), (proof.score["title"], *scores, "", "")]
    rows.append(("state_dict, bit for bit", "", "changed" if proof.state else "the same", "", "NOT OK" if proof.state else "ok"))
    return table(rows, 1)


def fit_text(fit: Fit) -> list[str]:
    last = (f"{fit.psnr[k][-1]:.2f} dB" for k in ("original", "replaced"))
    rows = [*_checks_text(fit.checks, FIT_NAMES), (f"peak signal to noise after {fit.at[-1]} steps", *last, "", "")]
    return [f"  kan_linear by backend {fit.backend}", *table(rows, 1)]


def times_text(times: dict[str, dict], green: bool, names: dict[str, str] = NAMES) -> list[str]:
    used = columns(times)
    over = [f"over {names['original'].split()[0]}"] + ["over compile"] * ("compiled" in used)
    rows = [("median ms", "allocator", *(names[k] for k in used), *over)]
    notes = []
    for mode, measured in times.items():
        for row in measured["rows"]:
            speed = ratios(row["seconds"], used, green)
            rows.append(
                (case_title(row), mode_title(mode), *(show_ms(row["seconds"].get(k)) for k in used), *speed)
            )
        notes += failures_text(mode, measured)
    notes += common_notes(times)
    if not green:
        notes.append("no speed-up is printed: what was replaced was not proven to be unchanged")
    return table(rows, 2) + [f"  {note}" for note in notes]


def failures_text(mode: str, measured: dict) -> list[str]:
    return [f"torch.compile of the original failed ({mode_title(mode)}): {f}" for f in measured["failures"]]


def common_notes(times: dict[str, dict]) -> list[str]:
    """What the columns are, and memory, which is the same in all modes."""
    first = next(iter(times.values()))
    held = {FIT_NAMES[k]: show_bytes(v) for k, v in first.get("bytes", {}).items()}
    memory = ", ".join(f"{size} {name}" for name, size in held.items())
    return [*first["notes"], *([f"most memory of a step beyond parameters, as torch allocates it: {memory}"] if held else [])]
