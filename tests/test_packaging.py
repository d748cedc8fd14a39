"""What is shipped: the library's symbols and needs, the sdist, the wheel built from it, the build's choices, and the import.

The wheel is compiled with the flags of every build, so that objects of these sources that `make` or an earlier run left
in build/objects serve again (compile_once.py), and its own objects can be looked at.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import core_build
import pytest

import spectralops

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path(spectralops.__file__).parent / "libspectralops.so"
SYSTEM = r"(libc|libm|libpthread|libdl|librt)\.so\.\d+|ld-linux.*"
HEADER = (ROOT / "csrc" / "capi" / "spectralops.h").read_text()
# Nothing may be fetched: no index, and a proxy that nobody listens on.
OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_CONFIG_FILE": os.devnull,
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
}


def run(*command, env=None, cwd=None, timeout=900) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPECTRALOPS_")} | (env or {})
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def needed(path: Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", path))


# ---- the library ---------------------------------------------------------------------------------------------


def check_library(library: Path) -> None:
    declared = set(re.findall(r"SPECTRALOPS_API [\w\s*]+?\s*\b(spectralops_\w+)\(", HEADER))
    exported = {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}
    assert exported == declared
    assert [name for name in needed(library) if not re.fullmatch(SYSTEM, name)] == []
    undefined = run("nm", "-D", "--undefined-only", library)
    assert not re.search(r"torch|c10|\bPy|GLIBCXX|CXXABI|cuda", undefined)
    dynamic = run("readelf", "-dW", library)
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic and "NODELETE" in dynamic


def test_the_library_exports_only_its_interface_and_needs_only_libc():
    check_library(LIBRARY)


def test_the_binding_is_linked_to_nothing_either():
    for binding in LIBRARY.parent.glob("_C*.so"):
        assert [name for name in needed(binding) if not re.fullmatch(SYSTEM, name)] == []
        assert "spectralops_rational" not in run("nm", "-D", "--undefined-only", binding)


@pytest.mark.skipif(tomllib is None, reason="needs tomllib")
def test_torch_is_no_build_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not [r for r in project["build-system"]["requires"] if "torch" in r]
    assert "torch>=2.9" in project["project"]["dependencies"]
    assert project["project"]["version"] == spectralops.__version__
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 40


# ---- sdist and wheel -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """Built from a copy, so that the sources stay as they are."""
    source = tmp_path_factory.mktemp("source") / "tree"
    left_out = ("build", "dist", ".venv", ".git", "results", "*.egg-info", "*.so", "__pycache__", ".*cache")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*left_out))
    out = source.parent / "dist"
    code = f"from scikit_build_core.setuptools.build_meta import build_sdist; build_sdist({str(out)!r})"
    run(sys.executable, "-c", code, cwd=source, env=OFFLINE)
    (path,) = out.glob("*.tar.gz")
    return path


def test_the_sdist_is_complete(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sdist.name == f"spectralops-{spectralops.__version__}.tar.gz"
    patterns = {
        "csrc": (".h", ".cpp", ".cu", ".map"),
        "kernels": (".py",),
        "python/spectralops": (".py",),
        "tests": (".py", ".cpp"),
        "bench": (".py",),
    }
    wanted = {"setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md", "Makefile", ".ci/run"}
    for folder, suffixes in patterns.items():
        files = [p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
        wanted |= {p.relative_to(ROOT).as_posix() for p in files if "results" not in p.parts}
    assert wanted - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc")) or "/.venv/" in name]


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(where := tmp_path_factory.mktemp("wheel"))
    (source,) = where.glob("spectralops-*")
    return source


@pytest.fixture(scope="module")
def wheel(unpacked) -> Path:
    """Built offline from the unpacked sdist."""
    where = unpacked.parent
    once = [sys.executable, "-I", "-S", ROOT / "tests" / "compile_once.py", ROOT / "build" / "objects"]
    launcher = os.environ.get("CMAKE_CXX_COMPILER_LAUNCHER") or ";".join(map(str, once))
    env = OFFLINE | {"SPECTRALOPS_CUDA": "0", "CMAKE_CXX_COMPILER_LAUNCHER": launcher}
    command = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", where, unpacked]
    run(sys.executable, "-m", *command, env=env, cwd=where)
    (path,) = where.glob("*.whl")
    return path


def test_nothing_shared_between_instruction_sets(wheel, unpacked):
    """A weak symbol outside its instruction set's namespace could be linked into code for older machines."""
    sources = sorted(p.name for p in (ROOT / "csrc" / "cpu").glob("*_isa.cpp"))
    for isa in core_build.ISAS:
        objects = sorted(unpacked.glob(f"build/**/cpu_{isa}.dir/**/*.o"))
        assert [p.name for p in objects] == [f"{name}.o" for name in sources]
        for path in objects:
            listing = run("nm", "-C", "--defined-only", path)
            defined = re.findall(r"^[0-9a-f]+ ([A-Zuvw]) (.*)$", listing, flags=re.M)
            foreign = [name for _, name in defined if f"::cpu::{isa}::" not in name]
            assert len(defined) > len(foreign), path.name
            assert [name for name in foreign if not name.startswith("DW.ref.")] == [], path.name


def test_the_wheel_fits_every_python_and_holds_what_it_should(wheel):
    assert re.fullmatch(rf"spectralops-{re.escape(spectralops.__version__)}-py3-none-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = (n for n in names if n.endswith(".dist-info/WHEEL"))
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        assert "Root-Is-Purelib: false" in archive.read(info).decode()
        text = archive.read(metadata).decode()
        (entry,) = (n for n in names if n.endswith("entry_points.txt"))
        assert "spectralops = spectralops.__main__:main" in archive.read(entry).decode()
    assert "Requires-Dist: torch>=2.9" in text and "License-Expression: Apache-2.0" in text
    packaged = {n for n in names if ".dist-info/" not in n}
    assert all(n.startswith("spectralops/") for n in packaged)
    expected = {
        f"spectralops/include/spectralops/{p.name}" for p in (ROOT / "csrc/include/spectralops").glob("*.h")
    }
    expected |= {f"spectralops/kernels/{p.name}" for p in (ROOT / "kernels").glob("*.py")}
    python = ROOT / "python"
    expected |= {p.relative_to(python).as_posix() for p in (python / "spectralops").rglob("*.py")}
    assert expected - packaged == set()
    compiled = sorted(n for n in packaged - expected if not n.endswith(".json"))
    assert (
        len(compiled) == 2
        and compiled[0].startswith("spectralops/_C.")
        and compiled[1] == "spectralops/libspectralops.so"
    )


@pytest.mark.parametrize("python", ["this", "another"], ids=["pybind11", "ctypes"])
def test_the_wheel_works_where_it_is_unpacked(wheel, tmp_path, python):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    if python == "another":  # a Python that the one _C does not fit
        (binding,) = (tmp_path / "spectralops").glob("_C.*.so")
        binding.rename(binding.with_name("_C.cpython-399-x86_64-linux-gnu.so"))
    check_library(tmp_path / "spectralops" / "libspectralops.so")
    code = (
        "import torch, spectralops as so; from spectralops._loader import core, build_info, include_dir\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('spectralops.kernels').origin.startswith(so.__path__[0])\n"
        "x, a, b = torch.randn(64, 32), torch.randn(1, 6), torch.randn(1, 4)\n"
        "y = so.rational(x, a, b, version='A', backend='cpu')\n"
        "torch.testing.assert_close(y, so.rational(x, a, b, version='A', backend='reference'))\n"
        "h = so.hadamard_transform(torch.eye(8), backend='cpu'); assert (h @ h.T == 8 * torch.eye(8)).all()\n"
        "import json; print(json.dumps([core().binding, core().path, build_info(), str(include_dir())]))"
    )
    # -P-like: the unpacked wheel comes before an editable install of the sources
    head = f"import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; sys.path.insert(0, {str(tmp_path)!r})\n"
    binding, path, info, include = json.loads(
        run(sys.executable, "-c", head + code, cwd=tmp_path).splitlines()[-1]
    )
    assert binding == ("pybind11" if python == "this" else "ctypes")
    assert path.startswith(str(tmp_path)) and include.startswith(str(tmp_path))
    assert info["version"] == spectralops.__version__ and info["cuda"] is False and "portable" in info["cpu"]


# ---- the build's choices -------------------------------------------------------------------------------------


def configure(tmp_path, smi: str, *defines: str, **env: str) -> subprocess.CompletedProcess:
    """CMake's configuration on a machine whose nvidia-smi is the given shell script."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
    (tools / "nvidia-smi").chmod(0o755)
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("SPECTRALOPS_", "TORCH_CUDA", "CUDA"))
    }
    environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **env}
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    command = [
        cmake,
        "-S",
        ROOT,
        "-B",
        tmp_path / "build",
        "-G",
        "Ninja",
        f"-DPython_EXECUTABLE={sys.executable}",
        *defines,
    ]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300
    )


def chosen(done: subprocess.CompletedProcess) -> str:
    (line,) = (line for line in done.stdout.splitlines() if "spectralops: building" in line)
    return line.partition("building ")[2]


@pytest.mark.parametrize(
    "smi, defines, env, line",
    [
        ("exit 9", [], {}, "the CPU core only (no GPU visible)"),
        ("echo 9.0", ["-Dnvcc=OFF"], {}, "the CPU core only (no nvcc)"),
        ("exit 9", ["-Dnvcc=OFF"], {"SPECTRALOPS_CUDA": "1"}, "the CPU core only (no nvcc)"),
        ("echo 9.0", [], {"SPECTRALOPS_CUDA": "0"}, "the CPU core only (SPECTRALOPS_CUDA=0)"),
    ],
)
def test_without_cuda_one_line_says_why(tmp_path, smi, defines, env, line):
    done = configure(tmp_path, smi, *defines, **env)
    assert done.returncode == 0, done.stderr
    assert chosen(done) == line


def test_cuda_can_be_required(tmp_path):
    done = configure(tmp_path, "echo 9.0", "-Dnvcc=OFF", SPECTRALOPS_REQUIRE_CUDA="1")
    assert done.returncode != 0
    assert "SPECTRALOPS_REQUIRE_CUDA=1, but the CUDA part cannot be built: no nvcc" in " ".join(
        done.stderr.split()
    )


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize(
    "smi, env, archs, compiled",
    [
        ("echo 9.0; echo 12.0; echo 9.0", {}, "90,120", ["sm_90", "sm_120", "compute_120"]),
        (
            "exit 9",
            {"SPECTRALOPS_CUDA": "1"},
            "80,90,100,120",
            ["sm_80", "sm_90", "sm_100", "sm_120", "compute_120"],
        ),
        (
            "exit 9",
            {"SPECTRALOPS_REQUIRE_CUDA": "1", "SPECTRALOPS_CUDA_ARCHS": "8.0 9.0+PTX"},
            "80,90",
            ["sm_80", "sm_90", "compute_90"],
        ),
    ],
    ids=["native", "default", "given"],
)
def test_the_architectures(tmp_path, smi, env, archs, compiled):
    done = configure(tmp_path, smi, **env)
    assert done.returncode == 0, done.stderr
    assert chosen(done) == f"the CPU core and the CUDA part for sm_{archs}"
    rules = (tmp_path / "build" / "build.ninja").read_text()
    flags = next(line for line in rules.splitlines() if "--generate-code" in line)
    assert (
        sorted(set(re.findall(r"(?:sm|compute)_\d+(?=[],])", flags.replace("arch=", "")))) and "-O3" in flags
    )
    codes = ",".join(re.findall(r"code=\[([^]]*)\]", flags))
    assert sorted(codes.split(",")) == sorted(compiled)


def test_the_number_of_compilers_can_be_set_and_is_limited(tmp_path):
    def depth(**env: str) -> int:
        assert configure(tmp_path, "exit 9", **env).returncode == 0
        rules = (tmp_path / "build" / "CMakeFiles" / "rules.ninja").read_text()
        return int(re.search(r"^pool compile\n  depth = (\d+)", rules, re.M)[1])

    assert depth(MAX_JOBS="3") == 3
    assert 1 <= depth() <= os.cpu_count()
    assert "pool = compile" in (tmp_path / "build" / "build.ninja").read_text()


def test_cmake_installs_the_core_without_python(tmp_path):
    assert configure(tmp_path, "exit 9").returncode == 0
    script = (tmp_path / "build" / "cmake_install.cmake").read_text()
    for wanted in ("libspectralops.so", "spectralops.h", "csrc/include/"):
        assert wanted in script


# ---- the import ----------------------------------------------------------------------------------------------


def test_the_import_is_quick():
    """After torch, under 100 ms of this process's own time: other processes on the machine do not count."""
    code = (
        "import torch, time; start = time.process_time(); import spectralops\n"
        "print(time.process_time() - start)"
    )
    times = [float(run(sys.executable, "-c", code)) for _ in range(5)]
    assert min(times) < 0.1, times  # what else the core's caches serve only adds
