"""report.html: one file, nothing fetched, light and dark."""

from __future__ import annotations

from html import escape

from .plots import bar_chart, graph_chart, legend, line_chart, pair_chart
from .spectra import cut_note, cut_table, steps_table, trees_level, trees_verdict
from .style import STYLE
from .text import FIT_NAMES, NAMES, case_title, columns, common_notes, failures_text, mode_title, ratios, show_ms


def page(result: dict) -> str:
    """`result` as report.json has it."""
    facts = [f"{key} {value}" for key, value in result["versions"].items()]
    machine = result["machine"]
    head = (
        f"{machine['processor']}, {machine['threads']} threads"
        if machine["device"] == "cpu"
        else machine["processor"]
    )
    body = "".join(_network(network) for network in result["networks"])
    fits = "".join(_picture(picture) for picture in result["pictures"])
    found = "".join(_spectrum(entry) for entry in result["spectra"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>spectralops demo</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{STYLE}</style></head><body><main><h1>Slow operators, replaced in place</h1>"
        f'<p class="soft">{escape(head)} &middot; {escape(", ".join(facts))} &middot; '
        f"commit {escape(result['commit'])}</p>"
        "<p>Each model below was built twice from one seed and <code>spectralops.replace(model)</code> "
        "was run on one of the two. Weights, state_dict and code of the model are untouched. The pictures at the "
        "end were fitted twice from the same weights, by the formula of the layer in plain PyTorch and by "
        "<code>spectralops.kan_linear</code>. Last are two functions whose sparse Walsh-Hadamard transform "
        "<code>spectralops.SparseWHTPlan</code> found by asking them.</p>"
        f'<p class="bad">{escape(result["note"])}</p>{body}{fits}{found}</main></body></html>'
    )


def _chip(green: bool, text: str) -> str:
    return f'<span class="chip {"good" if green else "bad"}">{escape(text)}</span>'


def _card(entry: dict, green: bool, body: str) -> str:
    verdict = _chip(True, "unchanged: proven") if green else _chip(False, "not proven: no speed-up is shown")
    reasons = "".join(f'<p class="bad">{escape(reason)}</p>' for reason in entry["reasons"])
    return (
        f'<section class="card"><h2>{escape(entry["title"])}</h2>'
        f'<p class="soft">{escape(entry["about"])}</p>{verdict}{reasons}{body}</section>'
    )


def _network(network: dict) -> str:
    proof = network["proof"]
    body = (
        f"<h3>What replace did</h3>{_replaced(proof['replace'])}"
        f"<h3>Is anything different?</h3>{_checks(proof['checks'], NAMES, _proof_rows(proof))}"
        f'<div class="two"><div>{_losses(proof)}</div><div>{_drift(proof)}</div></div>'
        f"{_times(network['times'], proof['green'], NAMES)}"
    )
    return _card(network, proof["green"], body)


def _picture(picture: dict) -> str:
    fit = picture["fit"]
    last = [f"{fit['psnr'][k][-1]:.2f} dB" for k in ("original", "replaced")]
    under = {"photograph": "the photograph", "original": f"eager formula, {last[0]}", "replaced": f"kan_linear, {last[1]}"}
    images = "".join(
        f'<figure><img alt="{escape(text)}" src="{fit["pictures"][k]}"><figcaption>{escape(text)}</figcaption></figure>'
        for k, text in under.items()
    )
    series = [(FIT_NAMES[k], fit["psnr"][k], k) for k in ("original", "replaced")]
    chart = line_chart(series, "PSNR, dB", "training step", at=fit["at"])
    apart = [abs(a - b) for a, b in zip(fit["psnr"]["original"], fit["psnr"]["replaced"])]
    between = line_chart([("between the two runs", apart, "replaced")], "dB", "training step", log=True, at=fit["at"])
    title = f"peak signal to noise after {fit['at'][-1]} steps"
    body = (
        f'<div class="three">{images}</div>'
        f"<h3>Is anything different?</h3>{_checks(fit['checks'], FIT_NAMES, [[escape(title), *last, '', '']])}"
        f'<div class="two"><div><h3>Quality of the whole picture; kan_linear by backend '
        f"{escape(fit['backend'])}</h3>{chart}</div><div><h3>Distance of the two</h3>{between}</div></div>"
        f"{_times(picture['times'], fit['green'], FIT_NAMES)}"
    )
    return _card(picture, fit["green"], body)


def _spectrum(entry: dict) -> str:
    trees = entry["name"] == "boosted-trees"
    right = "every coefficient found, none invented" if trees else "no edge invented, all found where the queries suffice"
    verdict = _chip(True, right) if entry["green"] else _chip(False, "not as it must be")
    return (
        f'<section class="card"><h2>{escape(entry["title"])}</h2><p class="soft">{escape(entry["about"])}</p>'
        f"{verdict}{_trees(entry) if trees else _cut(entry)}</section>"
    )


def _text_table(rows: list[tuple[str, ...]]) -> str:
    """Of what the terminal shows: the first column is text, the others numbers."""
    head, *body = ([escape(cell) for cell in row] for row in rows)
    return _table(head, body, set(range(1, len(head))))


def _trees(entry: dict) -> str:
    names = ("by the model's trees", "by the decoder")
    pairs = [(" x ".join(t["features"]), t["exact"], t["found"]) for t in entry["top"]]
    curves = [(name, entry["ranked"][k], css) for name, k, css in zip(names, ("exact", "found"), ("original", "replaced"))]
    verdicts = [(trees_level(entry), ""), *((trees_verdict(row), "" if row["green"] else "bad") for row in entry["rows"])]
    text = "".join(f'<p class="{css or "soft"}">{escape(line)}</p>' for line, css in verdicts)
    return (
        f'<div class="two"><div><h3>Largest interactions</h3>{pair_chart(pairs, names)}</div>'
        f"<div><h3>All coefficients, by size</h3>{line_chart(curves, '|coefficient|', 'rank', log=True)}</div></div>"
        f"<h3>Bins are doubled until they explain everything; what was asked is kept</h3>{_text_table(steps_table(entry))}{text}"
    )


def _cut(entry: dict) -> str:
    drawings = []
    for row in entry["rows"][-2:]:
        title = f"{row['plan']}, {row['decibel']:g} dB: {row['queries']:,} queries"
        chart = graph_chart(entry["place"], {k: row[k] for k in ("missed", "false", "found")})
        drawings.append(f"<div><h3>{escape(title)}</h3>{chart}</div>")
    return (
        f"<h3>Queries and what they found</h3>{_text_table(cut_table(entry))}"
        f'<p class="soft">{escape(cut_note(entry))}</p><div class="two">{"".join(drawings)}</div>'
    )


def _table(head: list[str], rows: list[list[str]], numeric: set[int] = frozenset()) -> str:
    def line(cells, tag):
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{line(head, "th")}</tr>{body}</table></div>'


def _replaced(report: dict) -> str:
    rows = []
    for row in report["rows"]:
        output = row["errors"].get("output", ("", ""))
        state = escape(row["status"]) + (
            f'<br><span class="soft">{escape(row["reason"])}</span>' if row["reason"] else ""
        )
        cells = [row["path"] or "(model)", row["module_class"], f"{row['old_op']} → {row['new_op']}", row["backend"]]
        rows.append([*map(escape, cells), state, *(f"{e:.1e}" if e != "" else "" for e in output)])
    return _table(["module", "class", "op", "backend", "result", "error before", "error after"], rows, {5, 6})


def _checks(checks: list[dict], names: dict[str, str], more: list[list[str]]) -> str:
    rows = [
        [
            escape(c["what"]),
            f"{c['original']:.2e}",
            f"{c['replaced']:.2e}",
            f"{c['allowed']:.2e}",
            _chip(c["green"], "yes" if c["green"] else "no"),
        ]
        for c in checks
    ]
    head = ["", names["original"], names["replaced"], "allowed", "within"]
    return _table(head, rows + more, {1, 2, 3})


def _proof_rows(proof: dict) -> list[list[str]]:
    score = proof["score"]
    scores = [escape(score["title"]), f"{score['original']:.1%}", f"{score['replaced']:.1%}", "", ""]
    state = proof["state"]
    same = ["state_dict, bit for bit", "", "changed" if state else "the same", "", _chip(not state, "no" if state else "yes")]
    return [scores, same]


def _losses(proof: dict) -> str:
    curves = proof["curves"]
    series = [("original", curves["original"], "original"), ("replaced", curves["replaced"], "replaced")]
    return "<h3>Training loss, the two runs overlaid</h3>" + line_chart(series, proof["loss"], "step")


def _drift(proof: dict) -> str:
    curves = proof["curves"]

    def away(name):
        return [abs(a - b) for a, b in zip(curves[name], curves["float64"])]

    names = [
        ("original", "original"),
        ("original, weights nudged by half an ulp", "nudged"),
        ("replaced", "replaced"),
    ]
    series = [(text, away(text if css != "nudged" else css), css) for text, css in names]
    return "<h3>Distance of the loss from a float64 run's</h3>" + line_chart(
        series, "|difference|", "step", log=True
    )


def _times(times: dict[str, dict], green: bool, names: dict[str, str]) -> str:
    parts = []
    for mode, measured in times.items():
        groups = []
        for row in measured["rows"]:
            timed = [(k, row["seconds"][k]) for k in NAMES if k in row["seconds"]]
            bars = [(names[k], v, "hand" if k == "by hand" else k) for k, v in timed]
            groups.append((case_title(row), bars))
        title = f"{mode_title(mode)}: median times, bars to scale within a group"
        parts.append(f"<div><h3>{escape(title)}</h3>{bar_chart(groups, lambda v: show_ms(v) + ' ms')}</div>")
    used = columns(times)
    rows, notes = [], []
    for mode, measured in times.items():
        for row in measured["rows"]:
            cells = [show_ms(row["seconds"].get(k)) for k in used]
            speed = ratios(row["seconds"], used, green)
            rows.append([escape(mode_title(mode)), escape(case_title(row)), *cells, *speed])
        notes += failures_text(mode, measured)
    over = [f"faster than {names['original']}"] + ["than torch.compile"] * ("compiled" in used)
    head = ["allocator", "case", *(f"{names[k]}, ms" for k in used), *over]
    table = _table(head, rows, set(range(2, len(head))))
    text = "".join(f'<p class="soft">{escape(note)}</p>' for note in notes + common_notes(times))
    keys = legend([(names[k], "hand" if k == "by hand" else k) for k in used])
    return f'<div class="two">{"".join(parts)}</div>{keys}<h3>Times</h3>{table}{text}'
