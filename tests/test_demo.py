"""The demo: its verdict must turn red when something is wrong, its page must show what was measured,
and it must run."""

import base64
import importlib
import io
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace as changed

import pytest
import spectralops as so
import torch
from spectralops.demo import base, convolution_networks, images, networks, plots, progress, text, timing
from spectralops.demo import fit as fits
from spectralops.demo import proof as proofs
from spectralops.demo.page import page


def _missing(*modules):
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            return f"{module}: {error}"
    return ""


WHY = _missing(*(module for module, _ in base.PACKAGES))
needs_packages = pytest.mark.skipif(bool(WHY), reason=WHY)
CPU = torch.device("cpu")
KANS = ["efficient-kan-digits", "pykan-digits", "efficient-kan-diabetes", "pykan-diabetes"]


def _prove(name, steps=6):
    network = changed(next(n for n in networks.networks(small=True) if n.name == name), steps=steps)
    return network, proofs.prove(network, network.data(CPU), CPU)


def _fit(name, **changes):
    picture = changed(next(p for p in images.pictures(small=True) if p.name == name), **changes)
    return picture, fits.fit(picture, CPU)


def _result(network=None, proof=None, picture=None, fit=None):
    seconds = {"original": 0.08, "compiled": 0.02, "replaced": 0.01}
    rows = [{"case": "the op, forward", "size": "3 x 4", "seconds": seconds}]
    first = {"rows": rows, "failures": [], "notes": ["by hand: <product>"]}
    times = {"default": first, "kept": {**first, "failures": ["no <compiler>"]}}
    machine = {"device": "cpu", "processor": "a <processor>", "threads": 2}
    result = {"machine": machine, "versions": {"torch": "2"}, "commit": "abc", "note": "", "networks": [], "pictures": []}
    result["spectra"] = []
    if network:
        entry = {"name": network.name, "title": network.title, "about": network.about, "package": network.package}
        entry |= {"proof": proof.to_dict(), "reasons": proof.reasons(), "times": times}
        result["networks"].append(entry)
    if picture:
        held = {"bytes": {"original": 7 << 20, "replaced": 3 << 19}}
        times = {mode: measured | held for mode, measured in times.items()}
        entry = {"name": picture.name, "title": picture.title, "about": picture.about, "times": times}
        result["pictures"].append(entry | {"fit": fit.to_dict(), "reasons": fit.reasons()})
    return result


# ---- the verdict -------------------------------------------------------------------------------


@needs_packages
@pytest.mark.parametrize("name, modules", [("rational", 3), ("hadamard", 1), *zip(KANS, (3, 1, 3, 1)), ("s4d-ecg", 2), ("s4d-digits", 2)])
def test_proof_is_green_and_speaks_of_every_comparison(name, modules):
    network, proof = _prove(name)
    assert proof.green and not proof.reasons()
    assert len(proof.report.replaced) == modules
    assert len(proof.checks) == 4 and all(0 < c.replaced <= c.allowed < 1e-4 for c in proof.checks)
    assert set(proof.curves) == {"float64", "original", "nudged", "replaced"}
    assert all(
        len(curve) == network.steps and all(map(math.isfinite, curve)) for curve in proof.curves.values()
    )
    assert all(len(row.errors) >= 2 and "example" in row.verified_on for row in proof.report.replaced)
    assert not proof.state and 0 <= proof.score["replaced"] <= 1
    json.dumps(proof.to_dict())


@needs_packages
def test_a_wrong_op_turns_the_verdict_red_and_no_speed_up_is_shown(monkeypatch):
    right = so.rational
    monkeypatch.setattr(so, "rational", lambda *args, **kwargs: right(*args, **kwargs) * (1 + 1e-5))
    network, proof = _prove("rational")
    assert not proof.green and not proof.report.replaced
    assert all("left alone" in reason for reason in proof.reasons()[:3])
    result = _result(network, proof)
    entry = result["networks"][0]
    assert "8.0x" not in page(result) and "not proven" in page(result)
    shown = "\n".join(text.times_text(entry["times"], proof.green))
    assert "8.0x" not in shown and "no speed-up is printed" in shown and "80" in shown


def _wrong(monkeypatch, op, size):
    right = getattr(so, op)
    monkeypatch.setattr(so, op, lambda *args, **kwargs: right(*args, **kwargs) * (1 + size))


@needs_packages
@pytest.mark.parametrize("name", KANS)
def test_a_wrong_kan_linear_is_left_alone_and_red(monkeypatch, name):
    _wrong(monkeypatch, "kan_linear", 1e-5)
    network, proof = _prove(name, steps=1)
    assert not proof.green and not proof.report.replaced and proof.report.skipped
    assert "not proven" in page(_result(network, proof)) and "8.0x" not in page(_result(network, proof))


@needs_packages
@pytest.mark.parametrize("name, op", [("rational", "rational"), ("pykan-digits", "kan_linear")])
@pytest.mark.parametrize("size, red", [(1e-5, 2), (1e-3, 4)])
def test_each_comparison_finds_an_error_that_verification_did_not_stop(monkeypatch, name, op, size, red):
    replace = proofs.replace
    _wrong(monkeypatch, op, size)
    monkeypatch.setattr(proofs, "replace", lambda model, example: replace(model, verify=False))
    _, proof = _prove(name)
    assert proof.report.replaced and not proof.green
    assert not any(check.green for check in proof.checks[:red])


@needs_packages
def test_a_weight_that_replace_touched_is_named(monkeypatch):
    replace = proofs.replace

    def touching(model, example):
        with torch.no_grad():
            model[1].base_weight[0, 0].mul_(1 + 1e-6)
        return replace(model, example=example)

    monkeypatch.setattr(proofs, "replace", touching)
    network, proof = _prove("efficient-kan-diabetes", steps=1)
    assert proof.state == "1.base_weight" and not proof.green
    assert "the state_dict changed: 1.base_weight" in page(_result(network, proof))


@needs_packages
@pytest.mark.parametrize("name", ["fkan", "sl2a"])
def test_a_fitted_picture_is_green_and_better_than_at_first(name):
    picture, fit = _fit(name, steps=40)
    assert fit.green and not fit.reasons() and fit.backend
    assert len(fit.checks) == 6 and all(0 < c.replaced <= c.allowed < 1e-4 for c in fit.checks)
    assert fit.at[-1] == 40 and all(len(curve) == len(fit.at) for curve in fit.psnr.values())
    assert all(curve[-1] > curve[0] + 3 for curve in fit.psnr.values())
    json.dumps(fit.to_dict())


@needs_packages
@pytest.mark.parametrize("name, size, red", [("fkan", 1e-5, {0, 1, 4, 5}), ("sl2a", 1e-3, {0, 1, 2, 3, 4, 5})])
def test_a_wrong_kan_linear_turns_the_picture_red(monkeypatch, name, size, red):
    _wrong(monkeypatch, "kan_linear", size)
    picture, fit = _fit(name)
    assert not fit.green and red <= {i for i, check in enumerate(fit.checks) if not check.green}
    html, shown = page(_result(picture=picture, fit=fit)), "\n".join(text.fit_text(fit))
    assert "not proven" in html and "8.0x" not in html and "NOT OK" in shown


@needs_packages
def test_efficient_kan_is_the_published_formula():
    from kan.spline import B_batch

    layer = base.build(next(n for n in networks.networks(True) if n.name == KANS[0]), CPU)[0]
    names = {name: tuple(t.shape) for name, t in layer.state_dict().items()}
    assert names == {"base_weight": (16, 64), "spline_weight": (16, 64, 8), "spline_scaler": (16, 64), "grid": (64, 12)}
    x = torch.randn(30, 64)
    basis = B_batch(x, layer.grid, k=3)
    edges = torch.einsum("nik,oik,oi->no", basis, layer.spline_weight, layer.spline_scaler)
    torch.testing.assert_close(layer(x), edges + torch.nn.functional.silu(x) @ layer.base_weight.T)


@needs_packages
def test_models_of_one_seed_are_equal_and_the_wide_one_has_their_values():
    for network in networks.networks(small=True):
        a = base.build(network, CPU)
        b, wide = base.build(network, CPU, a), base.build_wide(network, CPU, a)
        for p, q, w in zip(a.parameters(), b.parameters(), wide.parameters(), strict=True):
            assert torch.equal(p, q) and p.data_ptr() != q.data_ptr()
            wide_dtype = torch.complex128 if p.is_complex() else torch.float64
            assert w.dtype == wide_dtype and torch.equal(w, p.to(wide_dtype))
        moved = base.nudged(base.build(network, CPU, a))
        change = [
            ((m - p).abs() / p.abs()).nan_to_num().max().item()
            for m, p in zip(moved.parameters(), a.parameters())
        ]
        assert 0 < max(change) <= 2 * torch.finfo(torch.float32).eps


@needs_packages
def test_data_are_the_real_ones():
    data = base.digits(CPU)
    assert data.x.shape == (1437, 64) and data.test_x.shape == (360, 64)
    assert data.y.bincount().min() > 100 and data.x.mean(0).abs().max() < 1e-5
    on_grid = base.digits_on_grid(CPU)
    assert torch.equal(on_grid.y, data.y) and on_grid.x.min() == -1 and on_grid.x.max() == 1
    patients = base.diabetes(CPU)
    assert patients.x.shape == (353, 10) and patients.test_y.shape == (89, 1)
    assert abs(patients.y.mean()) < 1e-6 and (patients.x.abs() <= 1).float().mean() > 0.9
    assert patients.score(patients.y, patients.y) == 1 and abs(patients.score(0 * patients.y, patients.y)) < 1e-6
    heart = convolution_networks.electrocardiogram(CPU)
    assert heart.x.shape == (255, 512) and heart.y.shape == (255, 512) and heart.test_x.shape == (1, 512)
    assert torch.equal(heart.x[0, 2:], heart.y[0, :-2]) and torch.equal(heart.x[1:, :-1], heart.x[:-1, 1:])
    beats = (heart.test_y[0] > 4).float().diff().clamp(min=0).sum()  # one sharp peak a beat
    assert 1 <= beats <= 4 and heart.score(heart.test_y, heart.test_y) == 1
    photo = images.pixels(images.pictures(small=False)[0], CPU)
    assert photo.x.shape == (96 * 128, 2) and photo.y.shape == (96 * 128, 3)
    assert photo.x[1, 0] > photo.x[0, 0] and photo.x[128, 1] > photo.x[0, 1] and photo.x.abs().max() < 1
    colours = photo.y.unflatten(0, (96, 128))
    assert 0.7 < colours[:20].mean() < 1 and colours[70:].mean() < 0.45  # the sky above, trees below


# ---- timing --------------------------------------------------------------------------------------


@needs_packages
def test_every_column_is_timed_and_the_hand_written_rotation_is_right(capsys):
    options = timing.Options(small=True, seconds=0.0, compile=False)
    for network in networks.networks(small=True):
        with progress.Bar("test", timing.STAGES) as bar:
            rows = timing.measure(network, network.data(CPU), CPU, options, bar)["rows"]
        assert bar.done == timing.STAGES
        assert [row["case"] for row in rows] == [
            "the op, forward",
            "the op, forward and backward",
            "the network, forward",
            "the network, training step",
        ]
        for row in rows:
            assert {"original", "replaced"} <= set(row["seconds"]) and min(row["seconds"].values()) > 0
        assert ("by hand" in rows[0]["seconds"]) == (network.name in ("hadamard", "pykan-digits", "pykan-diabetes"))


@needs_packages
def test_what_is_written_by_hand_computes_the_op():
    for network in networks.networks(small=True):
        if network.by_hand:
            model, data = base.build(network, CPU), network.data(CPU)
            x = network.feeds(model)(data.x[:40])
            unit = network.unit(model)
            torch.testing.assert_close(network.by_hand.make(unit, x)(x), unit(x))


@needs_packages
def test_time_and_memory_of_a_step_of_each_picture():
    options = timing.Options(small=True, seconds=0.0, compile=False)
    for picture in images.pictures(small=True):
        with progress.Bar("test", timing.PICTURE_STAGES) as bar:
            found = timing.measure_picture(picture, CPU, options, bar)
        assert bar.done == timing.PICTURE_STAGES
        (row,) = found["rows"]
        assert set(row["seconds"]) == {"original", "replaced"} == set(found["bytes"])
        assert min(row["seconds"].values()) > 0 and min(found["bytes"].values()) > picture.batch * 16 * 4


def test_interleaved_takes_one_of_each_in_turn():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    with progress.Bar("test", 1) as bar:
        found = timing.interleaved(calls, CPU, 0.0, bar)
    assert set(found) == set("abc")
    assert order == list("abc") * (len(order) // 3) and len(order) == 18


def test_a_failed_compilation_is_reported_not_raised(monkeypatch):
    def broken(*_):
        raise RuntimeError("no C++ compiler\nlong trace")

    monkeypatch.setattr(torch, "compile", lambda module: broken)
    failures = []
    assert timing._compile(torch.nn.Identity(), failures, torch.ones(2)) is None
    assert failures == ["RuntimeError: no C++ compiler"]


# ---- page and drawings -----------------------------------------------------------------------------


def _svgs(html):
    return ["<svg" + part.split("</svg>")[0] + "</svg>" for part in html.split("<svg")[1:]]


@needs_packages
def test_page_is_self_contained_and_shows_the_numbers():
    network, proof = _prove("hadamard")
    html = page(_result(network, proof))
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in html
    assert "by hand: &lt;product&gt;" in html and "state_dict, bit for bit" in html and proof.score["title"] in html
    assert "prefers-color-scheme: dark" in html and "8.0x" in html and "2.0x" in html
    assert "a &lt;processor&gt;" in html and "no &lt;compiler&gt;" in html
    drawings = _svgs(html)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)


@needs_packages
def test_page_shows_the_pictures_and_their_curve():
    import PIL.Image

    picture, fit = _fit("sl2a", steps=12)
    html = page(_result(picture=picture, fit=fit))
    for outside in ("http://", "https://", "@import", "url("):
        assert outside not in html
    found = [part.split('"')[0] for part in html.split('src="')[1:]]
    assert len(found) == html.count("src=") == 3 and all(uri.startswith("data:image/png;base64,") for uri in found)
    photo = PIL.Image.open(io.BytesIO(base64.b64decode(found[0].partition(",")[2])))
    assert photo.size == (picture.width, picture.height) and photo.mode == "RGB"
    colours = torch.tensor(list(photo.tobytes())).reshape(-1, 3) / 255
    torch.testing.assert_close(colours, images.pixels(picture, CPU).y, rtol=0, atol=0.51 / 255)
    for shown in ("the photograph", f"kan_linear, {fit.psnr['replaced'][-1]:.2f} dB", "PSNR, dB", "8.0x", picture.title):
        assert shown in html
    assert "7 MB eager formula, 1.5 MB kan_linear" in html
    drawings = _svgs(html)
    assert len(drawings) == 4
    lines = [node for node in ElementTree.fromstring(drawings[0]).iter() if node.tag == "polyline"]
    assert [len(line.get("points").split()) for line in lines] == [2, 2]


def test_line_chart_draws_every_value_inside_the_frame():
    for log in (False, True):
        series = [
            ("one", [3.0, 1e-7, 2.0, 0.0], "original"),
            ("two", [0.5, float("nan"), 1e-3, 1.0], "replaced"),
        ]
        html = plots.line_chart(series, "y", "x", log=log)
        root = ElementTree.fromstring(_svgs(html)[0])
        lines = [node for node in root.iter() if node.tag == "polyline"]
        counts = [len(line.get("points").split()) for line in lines]
        assert counts == [4, 3]
        for point in " ".join(line.get("points") for line in lines).split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 620 and 0 <= y <= 270


def test_bars_are_to_scale_within_their_group():
    html = plots.bar_chart([("a case", [("original", 10.0, "original"), ("replaced", 2.5, "replaced")])])
    widths = [
        float(node.get("width"))
        for node in ElementTree.fromstring(_svgs(html)[0]).iter()
        if node.tag == "rect"
    ]
    assert widths[1] == pytest.approx(widths[0] / 4, abs=0.2)


# ---- the command -----------------------------------------------------------------------------------


def _run(*arguments, **more):
    command = [sys.executable, "-m", "spectralops.demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **more)


@needs_packages
def test_the_command_writes_the_report(tmp_path):
    done = _run("--small", "--no-compile", "--seconds", "0.01", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "report.json").read_text())
    assert [n["name"] for n in result["networks"]] == ["rational", "hadamard", *KANS, "s4d-ecg", "s4d-digits", "fno-burgers", "gfnet-digits"]
    assert [p["name"] for p in result["pictures"]] == ["fkan", "sl2a"] and all(p["fit"]["green"] for p in result["pictures"])
    assert all(p["times"][mode]["bytes"] for p in result["pictures"] for mode in p["times"])
    assert all(n["proof"]["green"] and set(n["times"]) & {"default", "cuda"} for n in result["networks"])
    assert (
        result["machine"]["processor"]
        and result["versions"]["torch"] == torch.__version__
        and result["commit"]
    )
    assert "nothing but the time changed" in done.stdout and "3 replaced" in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert "timing, default allocator: done" in done.stderr or result["machine"]["device"] == "cuda"


@pytest.mark.parametrize("module", ["rational", "compressed_tensors", "kan"])
def test_a_missing_package_fails_with_what_to_install(module, tmp_path):
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise ImportError('half installed')")
    before = {"rational": "torch", "compressed_tensors": "transform"}  # what is looked for first
    for name, inner in before.items():
        if module == name:
            break
        (tmp_path / name / inner).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / inner / "__init__.py").write_text("")
    run = "from spectralops.demo.__main__ import main; sys.exit(main([]))"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "half installed" in done.stderr and "pip install --no-deps" in done.stderr and "pykan" in done.stderr
    assert "Traceback" not in done.stderr
