"""The benchmark machinery: a red gate prints no time, the table has its goals, every case is right on its small inputs, inspect works."""

import csv
import json
import shutil

import pytest
import spectralops as so
import torch

from spectralops.__main__ import main
from spectralops.profile import report, run
from spectralops.profile.cases import CASES, Case, Goal, find
from spectralops.profile.timing import interleaved, peak_bytes

CPU = torch.device("cpu")


def small(**change):
    def make(device):
        return (torch.randn(64, 64),)

    double = lambda x: (2 * x,)  # noqa: E731
    contenders = {"ours": double, "eager": lambda x: (x + x,), "floor": lambda x: (x.clone(),)}
    case = Case("rational", "a small case", make, contenders, double, 2 * 4 * 4096, 4096, [Goal("ours", "floor", most=1e6)])
    for name, value in change.items():
        setattr(case, name, value)
    return case


def test_a_row_has_times_goals_and_memory(tmp_path):
    row = run.run_case(small(), CPU, seconds=0.05)
    assert row["ok"] and set(row["seconds"]) == {"ours", "eager", "floor", "compile"} and min(row["seconds"].values()) > 0
    assert row["ratios"][0]["met"] and row["peak_bytes"]["ours"] >= 4 * 4096 and 0 < row["of_floor"]
    result = {"machine": run.machine(), "modes": [{"allocator": "CPU, default allocator", "rows": [row]}]}
    text = report.table(result)
    assert "a small case" in text and "goal <= 1e+06" in text and "met" in text
    report.write(result, tmp_path)
    lines = list(csv.DictReader((tmp_path / "profile.csv").open()))
    assert {line["contender"] for line in lines} == {"ours", "eager", "floor", "compile"} and lines[0]["torch"]
    assert json.loads((tmp_path / "profile.json").read_text())["modes"][0]["rows"][0]["name"] == "a small case"


def test_no_time_is_printed_while_the_gate_is_red(tmp_path):
    wrong = small()
    wrong.contenders = {**wrong.contenders, "ours": lambda x: (torch.zeros_like(x),)}
    row = run.run_case(wrong, CPU, seconds=0.01)
    assert not row["ok"] and "seconds" not in row
    result = {"machine": {}, "modes": [{"allocator": "", "rows": [row]}]}
    assert "gate red" in report.table(result)
    report.write(result, tmp_path)


def test_a_missed_goal_is_called_missed():
    row = run.run_case(small(goals=[Goal("ours", "floor", least=1e9)]), CPU, seconds=0.01, compiled=False)
    assert not row["ratios"][0]["met"] and "NOT met" in report.table({"machine": {}, "modes": [{"allocator": "", "rows": [row]}]})


def test_contenders_run_in_turn():
    order = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, seconds=0, rounds=(3, 3))
    assert order == ["a", "b"] * 5


def test_peak_memory_counts_what_is_held_at_once():
    x = torch.randn(1 << 16)
    assert peak_bytes(lambda: x + 1, CPU) - (4 << 16) in range(64)  # and the scalar, as a tensor
    assert peak_bytes(lambda: (x + 1) * 2 + 3, CPU) in range(8 << 16, 12 << 16)


def test_registry():
    ops = {"rational", "hadamard_transform", "hadamard_quantize", "srht", "kan_linear", "fft_conv", "snake", "sine", "poly_norm", "wavelet_linear",
           "spectral_filter", "spectral_conv", "spectral_mlp", "fourier_mix", "istft_head", "fourier_linear",
           "sparse_wht", "sparse_wht_decode", "sparse_wht_queries"}  # fmt: skip
    assert {c.op for c in CASES} == ops
    assert {c.name.split(",")[0] for c in find(["kan"], "cpu", "50/3")} == {"kan B-spline 50/3"}
    with pytest.raises(ValueError, match="no case of kan on cpu has 'nothing'"):
        find(["kan"], "cpu", "nothing")
    assert len({c.name for c in CASES}) == len(CASES)
    assert all({"ours", "eager", "floor"} <= set(c.contenders) for c in CASES)
    assert {c.op for c in find(["hadamard"], "cpu")} == {"hadamard_transform", "hadamard_quantize"}
    with pytest.raises(ValueError, match="op must be one of .*got 'dct'"):
        find(["dct"], "cpu")


@pytest.mark.parametrize("name", ["forward + backward", "1024 -> 1024, 1000 frequencies, 64", "hadamard (65536, 128) bfloat16", "quantize nvfp4", "srht"])
def test_cases_pass_their_gate(name):
    case = next(c for c in find(None, "cpu") if name in c.name)
    ok, why = run.gate(case, case.make(CPU))
    assert ok, why


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_every_operator_has_typical_calls_to_inspect():
    pytest.importorskip("triton")
    import importlib

    from spectralops.backends.triton import _MODULES
    from spectralops.profile import inspect

    for op in so.OPS:
        if op in inspect.WITHOUT_KERNELS:
            with pytest.raises(ValueError, match="plain PyTorch|inspect th"):
                inspect.examples(op, torch.float32)
            continue
        common = importlib.import_module("spectralops.kernels.common")
        for example in inspect.examples(op, torch.bfloat16):
            function = getattr(importlib.import_module(f"spectralops.kernels.{_MODULES[example.function]}"), example.function)
            with common.record() as launches:
                function(*_coded(example))
            assert launches and example.bytes > 0


def _coded(example):
    from spectralops.backends.triton import _coded

    return _coded(example.function, example.args)


def test_inspect_cuda_and_triton():
    pytest.importorskip("triton")
    from spectralops.profile import inspect

    example = inspect.examples("rational", torch.float16)[0]
    for kernels in (inspect.cuda_kernels(example, 90), inspect.triton_kernels(example, 90)):
        assert kernels and all(16 <= k.registers <= 255 and k.spilled == 0 and 0 < k.occupancy(90) <= 1 for k in kernels)
        assert all(k.threads % 32 == 0 and min(k.grid) >= 1 for k in kernels)


def test_command_line(capsys):
    assert main(["profile", "nothing"]) == 2
    assert "op must be one of" in capsys.readouterr().err
    assert main(["env"]) == 0
    assert "torch" in capsys.readouterr().out
    assert main(["replace", "no_such_module:x"]) == 2
    assert "cannot load" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["dance"])
