"""Drawings as inline SVG: colours are CSS variables of the page, so that they follow its light and
dark themes."""

from __future__ import annotations

import math
from html import escape

_WIDTH, _HEIGHT = 620, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 16, 40


def _nice(low: float, high: float, count: int = 5) -> list[float]:
    """Round tick values within [low, high]."""
    rough = (high - low) / count or 1.0
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, (len(exponents) + 5) // 6)
    return [10.0**e for e in exponents if e % every == 0]


def _label(value: float, log: bool) -> str:
    return f"1e{round(math.log10(value))}" if log else f"{value:g}"


def line_chart(
    series: list[tuple[str, list[float], str]], y_title: str, x_title: str, log: bool = False, at: list[int] | None = None
) -> str:
    """series: (name, values, css class). On a log axis, zeros are drawn at its foot. `at`: abscissas, if not 0, 1, ..."""
    values = [v for _, curve, _ in series for v in curve if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        ticks = _decades(low, high * 1.001)
        low, high = min(low, ticks[0]), max(high, ticks[-1])
    else:
        low, high = min(low, 0.0), high * 1.04 or 1.0
        ticks = _nice(low, high)
    at = at or list(range(max(len(curve) for _, curve, _ in series)))
    first, last = (at[0], at[-1]) if len(at) > 1 else (0, 1)

    def x_of(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - first) / (last - first)

    def y_of(v: float) -> float:
        if log:
            part = (math.log10(max(v, low)) - math.log10(low)) / (math.log10(high / low) or 1.0)
        else:
            part = (v - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part

    parts = [_frame(y_title, x_title)]
    for tick in ticks:
        if low <= tick <= high:
            y = y_of(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_label(tick, log)}</text>'
            )
    for tick in _nice(first, last, 8):
        if tick == int(tick):
            x = x_of(tick)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{tick:g}</text>'
            )
    for name, curve, css in series:
        points = " ".join(f"{x_of(i):.1f},{y_of(v):.1f}" for i, v in zip(at, curve) if math.isfinite(v))
        parts.append(
            f'<polyline class="line {css}" points="{points}"><title>{escape(name)}</title></polyline>'
        )
    return _svg(_WIDTH, _HEIGHT, parts) + legend([(name, css) for name, _, css in series])


def _frame(y_title: str, x_title: str) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
    )


def bar_chart(groups: list[tuple[str, list[tuple[str, float, str]]]], show=str) -> str:
    """groups: (label, [(name, value, css class)]). Bars are scaled within their group: the cases
    differ by orders of magnitude."""
    bar, gap, head = 17, 16, 20
    left, right = 108, 96
    height = sum(head + len(bars) * bar + gap for _, bars in groups)
    parts, y = [], 0.0
    for label, bars in groups:
        parts.append(f'<text class="group" x="0" y="{y + 13:.0f}">{escape(label)}</text>')
        y += head
        largest = max(value for _, value, _ in bars) or 1.0
        for name, value, css in bars:
            width = max((_WIDTH - left - right) * value / largest, 1.0)
            parts.append(
                f'<text class="tick" x="{left - 8}" y="{y + 12:.0f}" text-anchor="end">{escape(name)}</text>'
            )
            size = f'width="{width:.1f}" height="{bar - 4}" rx="2"'
            parts.append(f'<rect class="bar {css}" x="{left}" y="{y + 2:.0f}" {size}/>')
            parts.append(
                f'<text class="value" x="{left + width + 6:.1f}" y="{y + 12:.0f}">{show(value)}</text>'
            )
            y += bar
        y += gap
    return _svg(_WIDTH, round(height), parts)


def pair_chart(rows: list[tuple[str, float, float]], names: tuple[str, str]) -> str:
    """rows: (label, a, b). b as a bar from zero, to either side, a as a mark that stands over it."""
    bar, left, right = 19, 320, 60
    largest = max(abs(v) for _, *both in rows for v in both) or 1.0
    zero, unit = (left + _WIDTH - right) / 2, (_WIDTH - right - left) / 2 / largest
    parts = []
    for i, (label, a, b) in enumerate(rows):
        y = i * bar
        size = f'width="{max(abs(b) * unit, 1.0):.1f}" height="{bar - 6}" rx="2"'
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="bar replaced" x="{min(zero, zero + b * unit):.1f}" y="{y + 3}" {size}/>')
        mark = zero + a * unit
        parts.append(f'<line class="mark" x1="{mark:.1f}" x2="{mark:.1f}" y1="{y + 1}" y2="{y + bar - 1}"/>')
        parts.append(f'<text class="value" x="{_WIDTH - right + 8}" y="{y + 13}">{b:+.3f}</text>')
    parts.append(f'<line class="grid" x1="{zero}" x2="{zero}" y1="0" y2="{len(rows) * bar}"/>')
    return _svg(_WIDTH, len(rows) * bar + 2, parts) + legend([(names[0], "original"), (names[1], "replaced")])


def graph_chart(place: list[list[float]], edges: dict[str, list[list[int]]]) -> str:
    """place: (x, y) in the unit square of each vertex. edges: css class -> pairs of vertices."""
    size, rim = 460, 8
    at = [tuple(rim + (size - 2 * rim) * v for v in xy) for xy in place]
    parts = [
        f'<line class="edge {css}" x1="{at[u][0]:.1f}" y1="{at[u][1]:.1f}" x2="{at[v][0]:.1f}" y2="{at[v][1]:.1f}"/>'
        for css, pairs in edges.items()
        for u, v in pairs
    ]
    parts += [f'<circle class="vertex" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in at]
    return _svg(size, size, parts) + legend([(f"{css}: {len(pairs)}", css) for css, pairs in edges.items()])


def legend(entries: list[tuple[str, str]]) -> str:
    items = (f'<span><i class="key {css}"></i>{escape(name)}</span>' for name, css in entries)
    return f'<div class="legend">{"".join(items)}</div>'


def _svg(width: int, height: int, parts: list[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
