"""The way from Python to libspectralops: what is loaded, what its absence says, and what a call costs."""

import ctypes
import json
import os
import re
import subprocess
import sys
import timeit
from pathlib import Path

import pytest
import torch

import spectralops
from spectralops import _loader, collect_env, envs

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(spectralops.__file__).parent
HEADER = (ROOT / "csrc" / "capi" / "spectralops.h").read_text()
LIBRARY = PACKAGE / "libspectralops.so"
BINDINGS = {"pybind11": _loader._through_pybind11, "ctypes": _loader._through_ctypes}


@pytest.fixture(params=BINDINGS)
def library(request):
    try:
        return BINDINGS[request.param](str(LIBRARY))
    except ImportError:
        pytest.skip("no _C for this Python")


def fresh(code: str, **environment: str) -> str:
    """What a new Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=os.path.expanduser("~"),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def declared() -> dict[str, str]:
    """The C declarations as signatures of the loader."""
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
    codes = {"int64_t": "l", "int32_t": "i", "int": "i", "double": "d"}
    found = {}
    for result, name, parameters in re.findall(
        r"SPECTRALOPS_API ([\w\s*]+?)\s*\bspectralops_(\w+)\(([^;]*)\);", text
    ):
        arguments = ""
        for parameter in filter(None, (p.strip() for p in parameters.split(","))):
            if parameter == "void":
                continue
            is_text = parameter == "const char* name"
            arguments += (
                "s" if is_text else "p" if re.search(r"[*\[]", parameter) else codes[parameter.split()[0]]
            )
        found[name] = arguments + "=" + ("s" if "char" in result else codes[result.strip()])
    return found


def test_ctypes_signatures_are_those_of_the_header():
    # A status and a count are both int in C; the loader tells them apart as "e" and "i".
    assert {name: s.replace("=e", "=i") for name, s in _loader.SIGNATURES.items()} == declared()
    assert int(re.search(r"SPECTRALOPS_ABI_VERSION (\d+)", HEADER)[1]) == _loader.ABI_VERSION


def test_both_bindings_have_every_function(library):
    assert {name for name in declared() if not callable(getattr(library, name, None))} == set()
    assert library.abi_version() == _loader.ABI_VERSION
    info = json.loads(library.build_info())
    assert info["version"] == spectralops.__version__ and isinstance(info["cuda"], bool) and info["cpu"]


def rational_arguments(x, num, den, y, threads=1):
    rows, dim = x.shape
    return (
        x.data_ptr(), x.stride(0), num.data_ptr(), 0, den.data_ptr(), 0, y.data_ptr(), rows, dim, 1,
        num.shape[1] - 1, den.shape[1], 0, 0, -1, threads, 0,
    )  # fmt: skip


def test_a_call_computes_and_an_error_has_the_text_of_the_library(library):
    x, num, den = torch.randn(5, 8), torch.randn(1, 4), torch.rand(1, 2)
    y = torch.full_like(x, 42.0)
    assert library.rational_forward(*rational_arguments(x, num, den, y)) is None
    powers = torch.stack([x**i for i in range(4)])
    expected = (num[0, :, None, None] * powers).sum(0) / (1 + den[0, 0] * x.abs() + den[0, 1] * x**2)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)

    wrong = list(rational_arguments(x, num, den, y))
    wrong[9] = 3  # groups that do not divide dim
    with pytest.raises(RuntimeError, match="groups"):
        library.rational_forward(*wrong)
    with pytest.raises(TypeError):
        library.rational_forward(*wrong[:-1])
    with pytest.raises(RuntimeError, match="nonsense"):
        library.set_cpu_capability("nonsense")


def test_a_plan_has_the_same_bytes_through_both_bindings():
    plans = []
    for bind in BINDINGS.values():
        try:
            library = bind(str(LIBRARY))
        except ImportError:
            pytest.skip("no _C for this Python")
        library.record_begin(90, 132, 232448)
        arguments = [4096, 768, 8192, 0, 12288, 0, 16384, 1000, 768, 1, 5, 4, 0, 0, 0, 1, 0]
        library.rational_forward(*arguments)
        plans.append([library.record_get(i) for i in range(library.record_end())])
        with pytest.raises(RuntimeError):
            library.record_get(99)
    assert plans[0] == plans[1] and len(plans[0]) >= 1
    name, grid, block, shared, params = plans[0][0]
    assert "rational" in name and min(grid) >= 1 and block[0] >= 32 and shared >= 0 and len(params) > 64


def test_a_call_through_pybind11_costs_little():
    try:
        library = _loader._through_pybind11(str(LIBRARY))
    except ImportError:
        pytest.skip("no _C for this Python")
    x, num, den = torch.zeros(0, 8), torch.zeros(1, 6), torch.zeros(1, 4)
    arguments = rational_arguments(x, num, den, x)
    call = library.rational_forward
    best = min(timeit.repeat(lambda: call(*arguments), number=500, repeat=400)) / 500
    assert best < 1e-6, f"{best * 1e6:.2f} us"  # 0.3 us on a quiet machine


def test_the_core_uses_the_openmp_of_torch():
    code = "import torch; torch.ones(9).sum(); from spectralops._loader import core; print(core().openmp)"
    assert "torch's OpenMP" in fresh(code) or _loader.openmp_of_torch() is None


def test_the_core_alone_has_its_own_threads():
    code = (
        "import sys, types; p = sys.modules['spectralops'] = types.ModuleType('spectralops')\n"
        f"p.__path__ = [{str(PACKAGE)!r}]\n"
        "from spectralops._loader import core; print(core().openmp, 'torch' in sys.modules)"
    )
    assert fresh(code) == "its own threads False"


def test_import_loads_nothing_eagerly():
    code = (
        "import sys, torch; before = set(sys.modules); import spectralops\n"
        "new = set(sys.modules) - before; from spectralops import _loader\n"
        "print([m for m in new if m.split('.')[0] in ('triton', 'cupy', 'transformers')], _loader._core,"
        " any('libspectralops' in path for _, _, path in _loader._mapped_files()))"
    )
    assert fresh(code) == "[] None False"


@pytest.mark.parametrize(
    "source, reason, binding",
    [
        (None, "does not exist", "pybind11"),
        ("int spectralops_abi_version(void) { return 99; }", "ABI version is 99", "pybind11"),
        ("int spectralops_abi_version(void) { return 99; }", "ABI version is 99", "ctypes"),
        ("int something_else(void) { return 1; }", "no function spectralops_abi_version", "ctypes"),
        ("int spectralops_abi_version(void) { return 1; }", "no function spectralops_", "pybind11"),
        ("not C at all", "cannot be used", "ctypes"),
    ],
    ids=["missing", "other-abi", "other-abi-ctypes", "no-abi-ctypes", "incomplete", "no-library-ctypes"],
)
def test_an_unusable_library_is_reported_when_asked_for(tmp_path, source, reason, binding):
    path = tmp_path / "libfake.so"
    if source == "not C at all":
        path.write_text(source)
    elif source is not None:
        (tmp_path / "fake.c").write_text(source)
        subprocess.run(
            [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-o", path, tmp_path / "fake.c"], check=True
        )
    hide = "import sys; sys.modules['spectralops._C'] = None\n" if binding == "ctypes" else ""
    code = hide + (
        "import torch, spectralops as so\n"
        "from spectralops._loader import core, core_status, CoreMissing\n"
        "x, a, b = torch.randn(4, 8), torch.randn(1, 6), torch.randn(1, 4)\n"
        "y = so.rational(x, a, b, version='A'); assert y.abs().sum() > 0   # the reference\n"
        "for _ in range(2):\n"
        "    try: core()\n"
        "    except CoreMissing as error: print(error)\n"
        "try: so.rational(x, a, b, version='A', backend='cpu')\n"
        "except RuntimeError as error: print(error)\n"
        "print(so.explain('rational', x, a, b, version='A'))\n"
    )
    lines = fresh(code, SPECTRALOPS_LIB_PATH=str(path)).splitlines()
    assert len(lines) > 3
    for line in lines[:3]:
        assert reason in line and str(path) in line, line


def test_another_library_can_be_named(tmp_path):
    copy = tmp_path / "libelsewhere.so"
    copy.write_bytes(LIBRARY.read_bytes())
    code = "from spectralops._loader import core; c = core(); print(c.path, c.cpu_capability())"
    assert (
        fresh(code, SPECTRALOPS_LIB_PATH=str(copy), SPECTRALOPS_CPU_CAPABILITY="portable")
        == f"{copy} portable"
    )


def test_a_wrong_capability_names_its_variable():
    code = "from spectralops._loader import core_status; print(core_status())"
    assert "SPECTRALOPS_CPU_CAPABILITY=sse9" in fresh(code, SPECTRALOPS_CPU_CAPABILITY="sse9")


# ---- envs and collect_env ------------------------------------------------------------------------------------


def test_every_variable_is_declared_and_used():
    names = {v.name for v in envs.VARIABLES}
    assert len(names) == len(envs.VARIABLES) < 10
    sources = [
        p
        for d in ("python", "kernels", "csrc")
        for p in (ROOT / d).rglob("*")
        if p.suffix in (".py", ".cpp", ".h", ".cu")
    ]
    text = {p: p.read_text() for p in [*sources, ROOT / "CMakeLists.txt"]}
    read = {
        m
        for p, t in text.items()
        if p.name != "envs.py"
        for m in re.findall(r"(?:environ\S*\(?\[?\"|ENV\{|getenv\(\")(SPECTRALOPS_\w+)", t)
    }
    assert read <= names
    for variable in envs.VARIABLES:
        accessor = f"envs.{next(k for k, v in vars(envs).items() if v is variable)}("
        assert any(
            accessor in t or f"ENV{{{variable.name}}}" in t for p, t in text.items() if p.name != "envs.py"
        ), variable.name
        assert variable.when == (
            "build" if variable.name.startswith(("SPECTRALOPS_CUDA", "SPECTRALOPS_REQUIRE")) else "run"
        )


def test_a_variable_is_its_default_until_set(monkeypatch):
    monkeypatch.delenv("SPECTRALOPS_BACKEND", raising=False)
    assert envs.backend() is None
    monkeypatch.setenv("SPECTRALOPS_BACKEND", "")
    assert envs.backend() is None
    monkeypatch.setenv("SPECTRALOPS_BACKEND", "reference")
    assert envs.backend() == "reference"


def test_collect_env_tells_every_probe(capsys, monkeypatch):
    monkeypatch.setenv("SPECTRALOPS_MISSPELT", "1")
    assert collect_env.main() == 0
    text = capsys.readouterr().out
    assert "libspectralops.so" in text and torch.__version__ in text
    assert "SPECTRALOPS_MISSPELT=1   (not a variable of spectralops)" in text
    assert all(re.search(rf"^{re.escape(name)} ", text, re.M) for name in collect_env.PROBES)


def test_collect_env_runs_where_the_package_does_not_import(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('a broken torch')")
    done = subprocess.run(
        [sys.executable, collect_env.__file__],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^torch +failed: ImportError: a broken torch", done.stdout, re.M)
    assert re.search(r"^core +.*libspectralops.so through", done.stdout, re.M)


def test_a_failing_probe_does_not_stop_the_others(monkeypatch):
    def broken():
        raise SystemExit(3)

    monkeypatch.setitem(collect_env.PROBES, "numpy", broken)
    found = collect_env.collect()
    assert found["numpy"] == "failed: SystemExit: 3" and found["python"].startswith(
        ".".join(map(str, sys.version_info[:2]))
    )


def test_the_openmp_found_is_callable():
    found = _loader.openmp_of_torch()
    if found is None:
        pytest.skip("torch was built without OpenMP")
    assert ctypes.CFUNCTYPE(ctypes.c_int)(found[1])() == 0  # the thread number outside of a parallel region
