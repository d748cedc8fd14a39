"""A progress bar of few lines: redrawn in place on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import sys
import time


class Bar:
    """with Bar("training", 60) as bar: bar.step()"""

    def __init__(self, label: str, total: int, width: int = 28):
        self.label, self.total, self.width = label, max(total, 1), width
        self.done, self.started, self.drawn = 0, time.monotonic(), 0.0
        self.live = sys.stderr.isatty()

    def __enter__(self) -> Bar:
        self._draw()
        return self

    def __exit__(self, kind, *_) -> None:
        seconds = time.monotonic() - self.started
        state = "stopped" if kind else "done"
        text = f"  {self.label}: {state} in {seconds:.1f} s"
        print(f"\r\x1b[K{text}" if self.live else text, file=sys.stderr, flush=True)

    def step(self, count: int = 1) -> None:
        self.done += count
        if self.live and (time.monotonic() - self.drawn > 0.1 or self.done >= self.total):
            self._draw()

    def _draw(self) -> None:
        if not self.live:
            return
        self.drawn = time.monotonic()
        part = min(self.done / self.total, 1.0)
        full = round(part * self.width)
        left = (self.drawn - self.started) * (1 - part) / part if part else 0.0
        bar = "#" * full + "." * (self.width - full)
        print(
            f"\r\x1b[K  {self.label} [{bar}] {part:4.0%} {left:4.0f} s left",
            end="",
            file=sys.stderr,
            flush=True,
        )
