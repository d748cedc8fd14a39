"""The table, the JSON and the CSV of a profile."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

COLUMNS = ("op", "name", "device", "allocator", "ok", "gate", "contender", "seconds", "of_floor", "bandwidth", "peak_bytes", "rounds")
_started: dict[str, float] = {}


def progress(done: int, total: int, what: str) -> None:
    """One line that rewrites itself on a terminal, on standard error."""
    if done == 0:
        _started["at"] = time.monotonic()
    if not sys.stderr.isatty():
        return
    width = 24
    filled = width * done // max(total, 1)
    left = (time.monotonic() - _started["at"]) / done * (total - done) if done else 0
    text = f"\r[{'#' * filled}{'.' * (width - filled)}] {done}/{total} {f'{left:3.0f} s left ' if done else ''}{what}"
    sys.stderr.write(f"{text:<118.118}")
    if done + 1 >= total:
        sys.stderr.write("\r" + " " * 118 + "\r")
    sys.stderr.flush()


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"


def table(result: dict) -> str:
    """One block an allocator mode: times in milliseconds, the fraction of the floor, and the goals as ratios of one run."""
    lines = ["  ".join(f"{k} {v}" for k, v in result["machine"].items() if v)]
    for mode in result["modes"]:
        lines += ["", f"{mode['allocator']}" if mode["allocator"] else "GPU, cold cache"]
        head = f"  {'':<62}{'eager':>10}{'compile':>10}{'ours':>10}{'floor':>10}{'of floor':>9}{'GB/s':>8}{'peak MB':>14}"
        lines.append(head)
        for row in mode["rows"]:
            if not row["ok"]:
                lines.append(f"  {row['name']:<62} gate red: {row['gate']}; nothing is timed")
                continue
            s, peak = row["seconds"], row["peak_bytes"]
            lines.append(
                f"  {row['name']:<62}{_ms(s['eager']):>10}{_ms(s.get('compile')):>10}{_ms(s['ours']):>10}{_ms(s['floor']):>10}"
                f"{row['of_floor']:>9.0%}{row['bandwidth'] / 1e9:>8.1f}{peak['eager'] / 1e6:>7.0f} >{peak['ours'] / 1e6:>4.0f}"
            )
            if row.get("compile_error"):
                lines.append(f"  {'':<4}torch.compile: {row['compile_error']}")
            for r in row["ratios"]:
                lines.append(f"  {'':<4}{r['ratio']:<16} {r['value']:6.2f}   goal {r['goal']:<8} {'met' if r['met'] else 'NOT met'}")
        if mode.get("overhead"):
            o = mode["overhead"]
            lines.append(
                f"  import after torch {o['import_seconds'] * 1e3:.0f} ms (goal < 100); a small no-grad call {o['call_seconds'] * 1e6:.1f} us, "
                f"{(o['call_seconds'] - o['kernel_seconds']) * 1e6:.1f} us over its kernel (goal < 8)"
            )
    return "\n".join(lines)


def write(result: dict, out: Path) -> None:
    """profile.json, profile.csv (one line a contender) and profile.txt."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "profile.json").write_text(json.dumps(result, indent=1))
    (out / "profile.txt").write_text(table(result) + "\n")
    with open(out / "profile.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *result["machine"]])
        for mode in result["modes"]:
            for row in mode["rows"]:
                for name, seconds in row.get("seconds", {"": ""}).items():
                    cells = {**row, "allocator": mode["allocator"], "contender": name, "seconds": seconds}
                    cells["peak_bytes"] = row.get("peak_bytes", {}).get(name, "")
                    writer.writerow([*(cells.get(c, "") for c in COLUMNS), *result["machine"].values()])
