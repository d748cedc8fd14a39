"""The demo: its verdict must turn red when something is wrong, its page must show what was measured,
and it must run."""

import importlib
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace as changed

import pytest
import spectralops as so
import torch
from spectralops.demo import networks, plots, progress, text, timing
from spectralops.demo import proof as proofs
from spectralops.demo.page import page


def _missing(*modules):
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            return f"{module}: {error}"
    return ""


WHY = _missing("sklearn.datasets", "rational.torch", "compressed_tensors.transform")
needs_packages = pytest.mark.skipif(bool(WHY), reason=WHY)
CPU = torch.device("cpu")


def _prove(name, steps=6):
    network = changed(next(n for n in networks.networks(small=True) if n.name == name), steps=steps)
    return network, proofs.prove(network, networks.digits(CPU), CPU)


def _result(network, proof):
    seconds = {"original": 0.08, "compiled": 0.02, "replaced": 0.01}
    rows = [{"case": "the op, forward", "size": "3 x 4", "seconds": seconds}]
    entry = {"name": network.name, "title": network.title, "about": network.about, "package": network.package}
    times = {"default": {"rows": rows, "failures": []}, "kept": {"rows": rows, "failures": ["no <compiler>"]}}
    machine = {"device": "cpu", "processor": "a <processor>", "threads": 2}
    entry |= {"proof": proof.to_dict(), "reasons": proof.reasons(), "times": times}
    return {"machine": machine, "versions": {"torch": "2"}, "commit": "abc", "note": "", "networks": [entry]}


# ---- the verdict -------------------------------------------------------------------------------


@needs_packages
@pytest.mark.parametrize("name, modules", [("rational", 3), ("hadamard", 1)])
def test_proof_is_green_and_speaks_of_every_comparison(name, modules):
    network, proof = _prove(name)
    assert proof.green and not proof.reasons()
    assert len(proof.report.replaced) == modules
    assert len(proof.checks) == 4 and all(0 < c.replaced <= c.allowed < 1e-4 for c in proof.checks)
    assert set(proof.curves) == {"float64", "original", "nudged", "replaced"}
    assert all(
        len(curve) == network.steps and all(map(math.isfinite, curve)) for curve in proof.curves.values()
    )
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


@needs_packages
@pytest.mark.parametrize("size, red", [(1e-5, 2), (1e-3, 4)])
def test_each_comparison_finds_an_error_that_verification_did_not_stop(monkeypatch, size, red):
    right, replace = so.rational, proofs.replace
    monkeypatch.setattr(so, "rational", lambda *args, **kwargs: right(*args, **kwargs) * (1 + size))
    monkeypatch.setattr(proofs, "replace", lambda model, example: replace(model, verify=False))
    _, proof = _prove("rational")
    assert proof.report.replaced and not proof.green
    assert not any(check.green for check in proof.checks[:red])


@needs_packages
def test_models_of_one_seed_are_equal_and_the_wide_one_has_their_values():
    for network in networks.networks(small=True):
        a, b, wide = (f(network, CPU) for f in (networks.build, networks.build, networks.build_wide))
        for p, q, w in zip(a.parameters(), b.parameters(), wide.parameters(), strict=True):
            assert torch.equal(p, q) and p.data_ptr() != q.data_ptr()
            assert w.dtype == torch.float64 and torch.equal(w, p.double())
        moved = networks.nudged(networks.build(network, CPU))
        change = [
            ((m - p).abs() / p.abs()).nan_to_num().max().item()
            for m, p in zip(moved.parameters(), a.parameters())
        ]
        assert 0 < max(change) <= 2 * torch.finfo(torch.float32).eps


@needs_packages
def test_digits_are_the_real_ones():
    data = networks.digits(CPU)
    assert data.x.shape == (1437, 64) and data.test_x.shape == (360, 64)
    assert data.y.bincount().min() > 100 and data.x.mean(0).abs().max() < 1e-5


# ---- timing --------------------------------------------------------------------------------------


@needs_packages
def test_every_column_is_timed_and_the_hand_written_rotation_is_right(capsys):
    data, options = networks.digits(CPU), timing.Options(small=True, seconds=0.0, compile=False)
    for network in networks.networks(small=True):
        with progress.Bar("test", timing.STAGES) as bar:
            rows = timing.measure(network, data, CPU, options, bar)["rows"]
        assert bar.done == timing.STAGES
        assert [row["case"] for row in rows] == [
            "the op, forward",
            "the op, forward and backward",
            "the network, forward",
            "the network, training step",
        ]
        for row in rows:
            assert {"original", "replaced"} <= set(row["seconds"]) and min(row["seconds"].values()) > 0
        assert ("by hand" in rows[0]["seconds"]) == (network.name == "hadamard")
    x = torch.randn(5, 128)
    torch.testing.assert_close(timing._kronecker(128, CPU)(x), so.hadamard_transform(x, 128**-0.5))


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
    assert "prefers-color-scheme: dark" in html and "8.0x" in html and "2.0x" in html
    assert "a &lt;processor&gt;" in html and "no &lt;compiler&gt;" in html
    drawings = _svgs(html)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)


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
    assert [n["name"] for n in result["networks"]] == ["rational", "hadamard"]
    assert all(n["proof"]["green"] and set(n["times"]) & {"default", "cuda"} for n in result["networks"])
    assert (
        result["machine"]["processor"]
        and result["versions"]["torch"] == torch.__version__
        and result["commit"]
    )
    assert "nothing but the time changed" in done.stdout and "3 replaced" in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert "timing, default allocator: done" in done.stderr or result["machine"]["device"] == "cuda"


@pytest.mark.parametrize("module", ["rational", "compressed_tensors"])
def test_a_missing_package_fails_with_what_to_install(module, tmp_path):
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise ImportError('half installed')")
    for name in ("rational",) if module != "rational" else ():  # what is looked for before it
        (tmp_path / name / "torch").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "torch" / "__init__.py").write_text("")
    run = "from spectralops.demo.__main__ import main; sys.exit(main([]))"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "half installed" in done.stderr and "pip install --no-deps" in done.stderr
    assert "Traceback" not in done.stderr
