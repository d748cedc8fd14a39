"""Writes python/spectralops/nn/rational_tables.py: `python -m bench.fit_rational`. Prints the largest error of every fit on [-3, 3]."""

from pathlib import Path

from spectralops.nn.rational_init import TARGETS, fit
from spectralops.ops.rational_reference import VERSIONS

DEGREES = (5, 4)
HEAD = '''"""Fits of activations at degrees (5, 4) on [-3, 3], written by `python -m bench.fit_rational`: (name, degrees, version) -> (a, b)."""

TABLES = {
'''


def main() -> None:
    lines = [HEAD]
    for name in TARGETS:
        for version in VERSIONS if name != "identity" else ():
            num, den, error = fit(TARGETS[name], DEGREES, version)
            print(f"{name:<12} {version:<7} largest error {error:.2e}")
            rows = [", ".join(f"{v:.9g}" for v in t.tolist()) for t in (num, den)]
            lines.append(f'    ("{name}", {DEGREES}, "{version}"): (  # largest error {error:.1e}\n')
            lines += [f"        ({row}),\n" for row in rows] + ["    ),\n"]
    lines.append("}\n")
    package = Path(__file__).resolve().parents[1] / "python" / "spectralops"
    (package / "nn" / "rational_tables.py").write_text("".join(lines))


if __name__ == "__main__":
    main()
