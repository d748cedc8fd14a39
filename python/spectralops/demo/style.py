"""The style sheet of report.html. Colours are variables, one set for a light and one for a dark
page."""

STYLE = """
:root {
  --ink: #1d2430; --soft: #5b6678; --paper: #f6f7f9; --card: #fff; --rule: #dde2ea; --good: #15803d;
  --bad: #b91c1c; --original: #2563eb; --compiled: #64748b; --replaced: #ea580c; --hand: #7c3aed;
  --nudged: #94a3b8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6eaf1; --soft: #98a4b8; --paper: #11151c; --card: #1a202a; --rule: #2d3644; --good: #4ade80;
    --bad: #f87171; --original: #60a5fa; --compiled: #94a3b8; --replaced: #fb923c; --hand: #a78bfa;
    --nudged: #64748b;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1360px; margin: 0 auto; padding: 28px 20px 60px }
h1 { font-size: 26px; margin: 0 0 4px }
h2 { font-size: 20px; margin: 0 0 2px }
h3 { font-size: 14px; margin: 22px 0 6px; color: var(--soft); font-weight: 600 }
p { margin: 4px 0 10px; max-width: 90ch }
.card {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 20px 22px;
  margin-top: 22px;
}
.soft { color: var(--soft) }
.good { color: var(--good) }
.bad { color: var(--bad) }
.chip {
  display: inline-block; border-radius: 99px; padding: 1px 11px; font-size: 13px; font-weight: 600;
  border: 1.5px solid;
}
.two {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 8px 36px;
}
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); gap: 8px 22px; margin-top: 14px }
figure { margin: 0 }
figure img { width: 100%; display: block; image-rendering: pixelated; border-radius: 6px }
figcaption { font-size: 13px; color: var(--soft); margin-top: 4px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 13.5px; width: 100% }
th { text-align: left; color: var(--soft); font-weight: 600; white-space: nowrap }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--rule); vertical-align: top }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; display: block }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
svg .group { fill: var(--ink); font-size: 12.5px; font-weight: 600 }
svg .value { fill: var(--ink) }
.grid { stroke: var(--rule) }
.line { fill: none; stroke-width: 2 }
.line.original { stroke: var(--original); stroke-width: 6; stroke-opacity: .35 }
.line.replaced { stroke: var(--replaced) }
.line.nudged { stroke: var(--nudged); stroke-dasharray: 4 3 }
.original { --own: var(--original) }
.compiled { --own: var(--compiled) }
.replaced { --own: var(--replaced) }
.hand { --own: var(--hand) }
.nudged { --own: var(--nudged) }
.bar { fill: var(--own) }
.mark { stroke: var(--original); stroke-width: 3 }
.edge { stroke: var(--own); stroke-width: 1.6 }
.edge.missed { stroke-dasharray: 4 3 }
.vertex { fill: var(--ink) }
.found { --own: var(--replaced) }
.missed { --own: var(--compiled) }
.false { --own: var(--bad) }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft) }
.key {
  display: inline-block; width: 14px; height: 5px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; background: var(--own);
}
"""
