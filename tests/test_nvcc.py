"""The CUDA sources through nvcc, without a GPU: no register is spilled, and no kernel grows beyond its budget unnoticed.

One architecture by default (the first that is listed here), the others with SPECTRALOPS_TEST_ARCHS=all or as a list.
"""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHS = ("90", "80", "100", "120")
ASKED = os.environ.get("SPECTRALOPS_TEST_ARCHS", ARCHS[0])
CHOSEN = ARCHS if ASKED == "all" else tuple(ASKED.replace(",", " ").split())

# Most registers a thread of any instantiation may take: of those on 32-bit numbers, of those on 64-bit ones. 65536
# registers serve 65536 / (threads * registers) blocks of a multiprocessor: raising one is a decision about occupancy.
BUDGET = {
    "rational_forward_kernel": (64, 64),
    "rational_backward_kernel": (128, 128),
    "rational_double_backward_kernel": (168, 168),
    "rational_forward_general_kernel": (64, 72),
    "rational_backward_general_kernel": (80, 120),
    "rational_double_backward_general_kernel": (112, 184),
    "rational_total_kernel": (32, 32),
    "hadamard_rows": (128, 255),
    "hadamard_columns": (168, 200),
    "hadamard_strided": (128, 255),
    "hadamard_strided_base": (64, 64),
    "hadamard_quantize_rows": (128, 128),
    "hadamard_gathered": (128, 255),
    "hadamard_pick": (48, 40),
    "fft_tables": (48, 48),
    "fft_conv_spectrum": (168, 160),
    "fft_conv_forward": (168, 192),
    "fft_conv_backward": (255, 255),  # of 256 threads with 32 points each; the others 168
    "fft_conv_kernel_gradient": (255, 168),
    "fft_conv_sum": (48, 64),
    "fft_column_tables": (48, 48),
    "fft_conv_columns": (168, 255),
    "fft_conv_lines": (255, 192),
    "filter_grid": (255, 0),  # of 56 points a side; of 32 and 28: 168, of 16: 96, of 14: 80, below 64
    "filter_grid_gradient": (255, 0),  # of 28 points a side; of 16 and 14: 128, below 96
    "filter_any": (96, 128),
    "filter_any_gradient": (96, 128),
    "filter_sum": (48, 48),
    "filter_moments": (64, 72),
    "filter_tables": (64, 64),
    "sparse_wht_block": (168, 168),  # of a code or of 64-bit numbers; the others 80
    "sparse_wht_bins": (128, 128),  # of a code; the others 80
    "sparse_wht_vote": (64, 64),
    "sparse_wht_append": (64, 64),
    "sparse_wht_transform": (128, 168),  # of 32 values a thread; of 16: 80
    "walsh_sum_points": (64, 64),
    "walsh_sum_terms": (128, 128),
}

pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
    pytest.mark.slow,
]


def compile_one(source: Path, arch: str, out: Path) -> str:
    command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}", "-Xptxas=-v"]
    command += [
        f"-gencode=arch=compute_{arch},code=sm_{arch}",
        "-cubin",
        "-o",
        out / f"{source.stem}.cubin",
        source,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stderr


def kernels(log: str) -> dict[str, tuple[int, int, int]]:
    """(registers, bytes spilled at stores, at loads) of every kernel that ptxas reports, by its C++ name."""
    pattern = r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    found = re.findall(pattern, log, re.S)
    names = "\n".join(name for name, *_ in found)
    plain = subprocess.run(
        ["c++filt"], input=names, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {
        name: (int(registers), int(stores), int(loads))
        for name, (_, stores, loads, registers) in zip(plain, found, strict=True)
    }


@pytest.fixture(scope="module", params=CHOSEN)
def compiled(request, tmp_path_factory) -> dict[str, tuple[int, int, int]]:
    out = tmp_path_factory.mktemp(f"sm_{request.param}")
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        logs = list(pool.map(lambda source: compile_one(source, request.param, out), SOURCES))
    return {name: use for log in logs for name, use in kernels(log).items()}


def stem(name: str) -> str:
    return re.match(r"(?:void )?(?:spectralops::)?(?:(?:hadamard|fft)::)?(\w+)", name)[1]


def test_no_kernel_spills(compiled):
    assert len(compiled) > 20
    assert {name: use for name, use in compiled.items() if use[1] or use[2]} == {}


def test_every_kernel_keeps_its_register_budget(compiled):
    assert {stem(name) for name in compiled} == set(BUDGET)
    wide = {name: bool(re.search(r"<(double|long|unsigned long)", name)) for name in compiled}
    over = {name: use[0] for name, use in compiled.items() if use[0] > BUDGET[stem(name)][wide[name]]}
    assert over == {}
