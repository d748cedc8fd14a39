"""The CuPy path without a GPU.

Every kernel that the core plans is found by its name and compiled by NVRTC from the shipped headers, its one parameter
has the size that NVRTC gives it, and the launches go to CuPy as planned. Where a device would be needed, a recorder
stands in for CuPy.
"""

import contextlib
import re
import struct
import sys
import types

import nvrtc
import pytest
import torch

from spectralops import _loader
from spectralops.backends import _core, _sparse_wht, cupy
from spectralops.ops.hadamard_base import hadamard_base
from spectralops.ops.sparse_wht_plan import SparseWHTPlan

needs_nvrtc = pytest.mark.skipif(
    not nvrtc.available, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)"
)
LIMITS = {
    80: (108, 166912),
    90: (132, 232448),
    100: (148, 232448),
    120: (170, 101376),
}  # multiprocessors, shared memory


def limits(sm: int) -> cupy.Limits:
    return cupy.Limits(sm, *LIMITS[sm])


@pytest.fixture(autouse=True)
def fresh_compiler():
    """The driver of the backend, on one device that plans as an H200 does and runs nothing."""
    for cached in (cupy._kernels, cupy.limits):
        cached.cache_clear()


def where(x):
    return 0, 1, 0x5000


def rational_case(function, dtype=torch.float32, degrees=(5, 4), version=0, groups=(8, 8), shape=(96, 64)):
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.zeros(shape, dtype=dtype)
    num = torch.zeros(groups[0], degrees[0] + 1, dtype=compute)
    den = torch.zeros(groups[1], degrees[1] + (version == 2), dtype=compute)
    g = max(groups)
    ggnum, ggden = (torch.zeros(g, t.shape[1], dtype=compute) for t in (num, den))
    return {
        "rational_forward": (x, num, den, version),
        "rational_backward": (x, x, num, den, version, 0),
        "rational_double_backward": (x, ggnum, ggden, x, x, num, den, version, 0),
    }[function]


def hadamard_case(n, dtype=torch.float32, outer=4, inner=1, base=None, signs=False, order=0):
    x = torch.zeros(outer, n, inner, dtype=dtype)
    compute = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    s = torch.ones(1, n, dtype=compute) if signs else None
    return (x, s, None, base, 1.0, 0, order)


def quantize_case(format, dtype=torch.bfloat16, dim=1024, block=128, group=128, base=None):
    return (torch.zeros(8, dim, dtype=dtype), None, base, 1.0, block, group, format, False)


def sparse_case(n, k, dtype=torch.float32, **options):
    plan = SparseWHTPlan(n, k, **options)
    return (torch.zeros(2, plan.num_queries, dtype=dtype), plan._index, plan.tables, plan._call("auto"))


def sum_case(n, points, dtype=torch.float32):
    words = (n + 63) // 64
    return (*(torch.zeros(m, words, dtype=torch.int64) for m in (points, 50)), torch.zeros(50, dtype=dtype))


BASE12 = hadamard_base(12 * 64)
CASES = {
    "rational fp32 5/4": ("rational_forward", rational_case("rational_forward")),
    "rational bf16 C 3/2": ("rational_forward", rational_case("rational_forward", torch.bfloat16, (3, 2), 2)),
    "rational fp64 smooth": ("rational_forward", rational_case("rational_forward", torch.float64, (7, 6), 3)),
    "rational general": (
        "rational_forward",
        rational_case("rational_forward", torch.float16, (9, 3), 1, (1, 1)),
    ),
    "rational backward": ("rational_backward", rational_case("rational_backward")),
    "rational backward bf16 B": (
        "rational_backward",
        rational_case("rational_backward", torch.bfloat16, (5, 4), 1, (1, 8)),
    ),
    "rational double backward": ("rational_double_backward", rational_case("rational_double_backward")),
    "hadamard row": ("hadamard", hadamard_case(1024)),
    "hadamard fp16 signs": ("hadamard", hadamard_case(4096, torch.float16, signs=True)),
    "hadamard fp64": ("hadamard", hadamard_case(256, torch.float64)),
    "hadamard int32": ("hadamard", hadamard_case(512, torch.int32)),
    "hadamard base 12": ("hadamard", hadamard_case(12 * 64, base=BASE12)),
    "hadamard strided": ("hadamard", hadamard_case(256, inner=40)),
    "hadamard sequency": ("hadamard", hadamard_case(64, order=2)),
    "hadamard passes": ("hadamard", hadamard_case(1 << 20, outer=1)),
    "quantize int8": ("hadamard_quantize", quantize_case("int8", group=1024)),
    "quantize fp8": ("hadamard_quantize", quantize_case("fp8_e4m3")),
    "quantize mxfp4": ("hadamard_quantize", quantize_case("mxfp4", group=32)),
    "quantize nvfp4 fp32": ("hadamard_quantize", quantize_case("nvfp4", torch.float32, group=16)),
    "srht": ("srht", (torch.zeros(4, 1024), torch.ones(1, 1024), torch.arange(100), None, 1.0)),
    "sparse_wht block": ("sparse_wht_decode", sparse_case(30, 5, torch.float64, offsets="bch", degree=3)),
    "sparse_wht phases": ("sparse_wht_decode", sparse_case(100, 100)),
    "walsh_sum": ("walsh_sum", sum_case(500, 5000)),
    "walsh_sum few points": ("walsh_sum", sum_case(70, 50, torch.float64)),
}


def of_core(function):
    return getattr(_sparse_wht if hasattr(_sparse_wht, function) else _core, function)


def planned(case: str, sm: int = 90) -> list[cupy.Launch]:
    function, args = CASES[case]
    return cupy.plan(of_core(function), limits(sm), where, *args).launches


# ---- planning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sm", LIMITS)
@pytest.mark.parametrize("case", CASES)
def test_every_call_is_planned_within_the_limits(case, sm):
    launches = planned(case, sm)
    assert launches
    for launch in launches:
        assert launch.name.startswith("spectralops::") and launch.params
        assert (
            all(1 <= g for g in launch.grid) and 32 <= launch.block[0] <= 1024 and launch.block[1:] == (1, 1)
        )
        assert 0 <= launch.shared <= limits(sm).shared


@pytest.mark.parametrize("case", CASES)
def test_the_parameters_hold_the_pointers(case):
    function, args = CASES[case]
    planned = cupy.plan(of_core(function), limits(90), where, *args)
    words = {
        w
        for launch in planned.launches
        for w in struct.unpack(f"<{len(launch.params) // 8}Q", launch.params[: len(launch.params) // 8 * 8])
    }
    results = planned.result if isinstance(planned.result, tuple) else (planned.result,)
    tensors = [t for t in (*args, *results, *planned.workspaces) if isinstance(t, torch.Tensor)]
    missing = [t.shape for t in tensors if t.data_ptr() not in words]
    assert not missing


def test_a_decoder_without_a_plan_says_so(monkeypatch):
    monkeypatch.setattr(_sparse_wht, "limits", lambda index: limits(90))
    for case in CASES:
        if case.startswith("sparse_wht"):
            assert _sparse_wht.unplannable(*CASES[case][1]) is None
    values, index, tables, call = CASES["sparse_wht phases"][1]
    most = call._replace(b=30, checks=70)
    assert "no CUDA kernel for 3221225472 bins of 71 samples" in _sparse_wht.unplannable(values, index, tables, most)


def test_a_refused_call_leaves_no_recording_behind():
    x = torch.zeros(4, 10)
    with pytest.raises(RuntimeError, match="groups"):
        cupy.plan(_core.rational_forward, limits(90), where, x, torch.zeros(3, 6), torch.zeros(3, 4), 0)
    assert _core.keeping.get() is None
    out = _core.rational_forward(
        lambda t: (-1, 1, 0), torch.ones(2, 2), torch.ones(1, 2), torch.ones(1, 1), 0
    )
    torch.testing.assert_close(out, torch.ones(2, 2))  # (1 + x) / (1 + |x|)


# ---- compiling ------------------------------------------------------------------------------------------------------


def size_checks(launches) -> str:
    """Source that compiles only if every kernel takes one parameter of the planned number of bytes."""
    text = "template <typename F> struct Of;\n"
    text += "template <typename P> struct Of<void(P)> { static constexpr unsigned long long size = sizeof(P); };\n"
    for launch in {launch.name: launch for launch in launches}.values():
        text += (
            f'static_assert(Of<decltype({launch.name})>::size == {len(launch.params)}, "{launch.name}");\n'
        )
    return text


@needs_nvrtc
@pytest.mark.parametrize("sm", LIMITS)
def test_the_parameters_have_the_size_that_nvrtc_gives_them(sm):
    launches = [launch for case in CASES for launch in planned(case, sm)]
    program = nvrtc.createProgram(cupy.source() + size_checks(launches), "sizes.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*cupy.OPTIONS, f"-I{_loader.include_dir()}", f"-arch=compute_{sm}"))
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


@needs_nvrtc
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_compile_from_the_shipped_headers(case):
    names = tuple(dict.fromkeys(launch.name for launch in planned(case, 90)))
    binary, kind, mangled = cupy.compile_kernels(nvrtc, names, 90)
    assert kind == "cubin" and binary.startswith(b"\x7fELF")
    assert len(set(mangled)) == len(names) and all(symbol.encode() in binary for symbol in mangled)


@needs_nvrtc
@pytest.mark.parametrize("sm", [80, 100, 120])
def test_they_compile_for_every_architecture(sm):
    names = [
        planned(case, sm)[0].name
        for case in ("rational bf16 C 3/2", "rational backward", "hadamard fp16 signs", "quantize fp8")
    ]
    binary, kind, _ = cupy.compile_kernels(nvrtc, tuple(dict.fromkeys(names)), sm)
    assert kind == "cubin" and binary.startswith(b"\x7fELF")


@needs_nvrtc
def test_a_newer_gpu_gets_ptx_and_an_older_one_a_reason():
    name = planned("hadamard row")[0].name
    binary, kind, mangled = cupy.compile_kernels(nvrtc, (name,), 990)
    assert kind == "ptx" and f".entry {mangled[0]}".encode() in binary
    with pytest.raises(RuntimeError, match="as old as compute capability 3.5"):
        cupy.compile_kernels(nvrtc, (name,), 35)


@needs_nvrtc
def test_a_compile_error_is_shown_whole():
    with pytest.raises(RuntimeError, match="(?s)no_such_kernel.*error"):
        cupy.compile_kernels(nvrtc, ("spectralops::no_such_kernel<1>",), 90)


def test_the_headers_need_nothing_but_themselves():
    included = set()
    for path in (_loader.include_dir() / "spectralops").glob("*.h"):
        text = re.sub(r"#if defined\(SPECTRALOPS_SIMT\)\n#include.*\n#endif", "", path.read_text())
        included |= set(re.findall(r"#\s*include\s+[<\"]([^>\"]+)", text))
    assert included and {name for name in included if not name.startswith("spectralops/")} == set()


# ---- launching ------------------------------------------------------------------------------------------------------


class Recorder(types.ModuleType):
    """The parts of CuPy that need a device: they write down what they are asked for."""

    def __init__(self):
        super().__init__("cupy")
        self.calls, self.compiles, self.stream = [], 0, None
        counted = types.SimpleNamespace(**{k: v for k, v in vars(nvrtc).items() if not k.startswith("__")})

        def compile_program(*args):
            self.compiles += 1
            return nvrtc.compileProgram(*args)

        counted.compileProgram = compile_program
        recorder = self

        class Stream:
            null = contextlib.nullcontext()

            @staticmethod
            @contextlib.contextmanager
            def from_external(stream):
                recorder.stream = stream.__cuda_stream__()[1]
                yield
                recorder.stream = None

        self.cuda = types.SimpleNamespace(
            Device=lambda index: contextlib.nullcontext(),
            Stream=Stream,
            function=types.SimpleNamespace(CNumpyArray=lambda array: array.tobytes()),
            nvrtc=counted,
        )

    def RawModule(self, path):
        content = open(path, "rb").read()

        def get_function(symbol):
            assert symbol.encode() in content
            kernel = types.SimpleNamespace(max_dynamic_shared_size_bytes=48 * 1024)

            def launch(grid, block, args, shared_mem):
                assert shared_mem <= kernel.max_dynamic_shared_size_bytes
                self.calls.append((symbol, grid, block, args, shared_mem, self.stream))

            class Kernel(types.SimpleNamespace):
                __call__ = staticmethod(launch)

            kernel = Kernel(max_dynamic_shared_size_bytes=48 * 1024)
            return kernel

        return types.SimpleNamespace(get_function=get_function)


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "cupy", recorder)
    monkeypatch.setenv("SPECTRALOPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cupy, "_where", where)
    monkeypatch.setattr(cupy, "limits", lambda index: limits(90))
    return recorder


@needs_nvrtc
@pytest.mark.parametrize("case", ["rational backward", "hadamard fp16 signs"])
def test_the_plan_is_what_cupy_launches(recorder, case):
    function, args = CASES[case]
    result = getattr(cupy, function)(*args)
    assert (result[0] if isinstance(result, tuple) else result).shape == args[0].shape
    expected = planned(case)
    assert [call[1:3] + (len(call[3][0]), call[4]) for call in recorder.calls] == [
        (launch.grid, launch.block, len(launch.params), launch.shared) for launch in expected
    ]
    assert {call[5] for call in recorder.calls} == {0x5000} and recorder.compiles == 1

    cupy._kernels.cache_clear()  # as in a new process: from the files
    getattr(cupy, function)(*args)
    assert recorder.compiles == 1 and len(recorder.calls) == 2 * len(expected)


@needs_nvrtc
def test_the_cache_follows_the_headers(recorder, monkeypatch):
    name = planned("hadamard row")[0].name
    first, _ = cupy.compiled(recorder.cuda.nvrtc, (name,), 90)
    again, _ = cupy.compiled(recorder.cuda.nvrtc, (name,), 90)
    other, _ = cupy.compiled(recorder.cuda.nvrtc, (name,), 80)
    text = cupy.source() + "// changed\n"
    monkeypatch.setattr(cupy, "source", lambda: text)
    changed, _ = cupy.compiled(recorder.cuda.nvrtc, (name,), 90)
    assert first == again and len({first, other, changed}) == 3 and recorder.compiles == 3
    assert not [p for p in first.parent.iterdir() if p.suffix not in (".cubin", ".names")]


@needs_nvrtc
def test_a_cache_that_cannot_be_written_is_done_without(recorder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPECTRALOPS_CACHE_DIR", str(tmp_path / "file"))
    path, _ = cupy.compiled(recorder.cuda.nvrtc, (planned("hadamard row")[0].name,), 90)
    assert path.read_bytes().startswith(b"\x7fELF")


def test_supports_gives_reasons(monkeypatch):
    args = CASES["rational fp32 5/4"][1]
    cupy._able.cache_clear()
    monkeypatch.setattr(cupy.importlib.util, "find_spec", lambda name: None)
    assert cupy.supports("rational_forward", *args) == (False, "cupy is not installed")
    cupy._able.cache_clear()
    monkeypatch.setattr(cupy.importlib.util, "find_spec", lambda name: True)
    assert cupy.supports("rational_forward", *args) == (False, "takes NVIDIA GPU tensors, this one is on cpu")
    cupy._able.cache_clear()
