"""The compiled core: `core().rational_forward(*integers)` and the rest of csrc/capi/spectralops.h.

It is looked for when first asked for. The library is SPECTRALOPS_LIB_PATH or the one in this package; the binding
is `_C` (pybind11) where this Python has one, else ctypes. A function returns None, or its value if it has one, and
raises RuntimeError with the library's own text otherwise.
"""

from __future__ import annotations

import ctypes
import functools
import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

from . import envs

ABI_VERSION = 1
PACKAGE = Path(__file__).resolve().parent

# The C signatures: p pointer, l int64, i int32, d double, s string; then "=" and what a call gives: e (a
# status), l, i, s.
SIGNATURES = {
    "abi_version": "=i",
    "build_info": "=s",
    "last_error": "=s",
    "cpu_capability": "=s",
    "set_cpu_capability": "s=e",
    "set_openmp": "pp=e",
    "rational_forward": "plplplpllliiiiiip=e",
    "rational_workspace": "llliiiii=l",
    "rational_backward": "plplplplpppplllliiiiiiip=e",
    "rational_double_backward": "plppplplplplppppplllliiiiiiip=e",
    "fft_conv_workspace": "piii=l",
    "fft_conv_forward": "piip=e",
    "fft_conv_backward": "piip=e",
    "filter_workspace": "piii=l",
    "filter": "piip=e",
    "filter_gradient": "piip=e",
    "modes_workspace": "piii=l",
    "mode_dft": "piip=e",
    "mode_idft": "piip=e",
    "mode_mix": "piip=e",
    "istft_workspace": "piii=l",
    "istft_head": "piip=e",
    "istft_head_backward": "piip=e",
    "sparse_wht_workspace": "pii=l",
    "sparse_wht_decode": "piip=e",
    "walsh_sum": "ppppllliiip=e",
    "wavelet_forward": "plppppllliiiip=e",
    "wavelet_workspace": "lllii=l",
    "wavelet_backward": "plplpppppppplllliiiip=e",
    "wavelet_double_backward": "plpppplplppppppppplllliiiip=e",
    "hadamard_workspace": "llliiii=l",
    "hadamard": "plppplplllidiipliiip=e",
    "hadamard_quantize_workspace": "llliiii=l",
    "hadamard_quantize": "plppplpllllidiipliiip=e",
    "srht_workspace": "lliiii=l",
    "srht": "plpppplllidpliiip=e",
    "activation_forward": "pppllliiiiip=e",
    "activation_workspace": "llliiii=l",
    "activation_backward": "pppppplllliiiiip=e",
    "activation_double_backward": "ppppppppplllliiiiip=e",
    "poly_norm_forward": "ppppllidiiip=e",
    "poly_norm_workspace": "lliii=l",
    "poly_norm_backward": "ppppppplllidiiip=e",
    "poly_norm_double_backward": "pppppppppplllidiiip=e",
    "fan_forward": "pppllliiip=e",
    "fan_backward": "pppppllliiip=e",
    "fan_double_backward": "ppppppppllliiip=e",
    "kan_workspace": "illliiiiiiiii=l",
    "kan_forward": "plplpppplpplllliiiiiddiiiiip=e",
    "kan_dx": "plplplppplpplllliiiiiddiiiiip=e",
    "kan_dcoeff": "plplplplppplllliiiiiddiiiiip=e",
    "record_begin": "iil=e",
    "record_end": "=i",
    "record_get": "ipppppp=e",
}
_CTYPES = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_int64,
    "i": ctypes.c_int32,
    "d": ctypes.c_double,
    "s": ctypes.c_char_p,
    "e": ctypes.c_int32,
}


class CoreMissing(RuntimeError):
    """There is no usable libspectralops; the text says which was tried and why it was refused."""


def _through_pybind11(path: str) -> SimpleNamespace:
    from . import _C

    if _C.ABI_VERSION != ABI_VERSION:
        raise ImportError(f"_C was built for ABI version {_C.ABI_VERSION}, this package is {ABI_VERSION}")
    return SimpleNamespace(binding="pybind11", **_C.load(path))


def _through_ctypes(path: str) -> SimpleNamespace:
    library = ctypes.CDLL(path)

    def find(name, arguments="", result="i"):
        try:
            function = library["spectralops_" + name]
        except AttributeError:
            raise RuntimeError(f"it has no function spectralops_{name}") from None
        function.argtypes, function.restype = [_CTYPES[a] for a in arguments], _CTYPES[result]
        return function

    version = find("abi_version")()
    if version != ABI_VERSION:
        raise RuntimeError(f"its ABI version is {version}, this package needs {ABI_VERSION}")
    last_error = find("last_error", result="s")

    def failure() -> RuntimeError:
        return RuntimeError(last_error().decode())

    def wrap(function, result):
        if result == "s":
            return lambda: function().decode()

        def status(*args):
            if function(*args):
                raise failure()

        def value(*args):
            got = function(*args)
            if got < 0:
                raise failure()
            return got

        return status if result == "e" else value

    functions = {}
    for name, signature in SIGNATURES.items():
        arguments, result = signature.split("=")
        functions[name] = wrap(find(name, arguments, result), result)
    set_capability, get = functions["set_cpu_capability"], functions["record_get"]

    def record_get(index: int):
        name, params, shared, size = ctypes.c_char_p(), ctypes.c_void_p(), ctypes.c_int64(), ctypes.c_int64()
        grid, block = (ctypes.c_int64 * 3)(), (ctypes.c_int64 * 3)()
        get(index, *map(ctypes.addressof, (name, grid, block, shared, params, size)))
        return (
            name.value.decode(),
            tuple(grid),
            tuple(block),
            shared.value,
            ctypes.string_at(params.value, size.value),
        )

    functions["record_get"] = record_get
    functions["set_cpu_capability"] = lambda name: set_capability(None if name is None else name.encode())
    return SimpleNamespace(binding="ctypes", **functions)


def _mapped_files() -> list[tuple[int, int, str]]:
    """(first address, end, path) of every mapping of a shared object in this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and ".so" in fields[5]:
            first, end = (int(a, 16) for a in fields[0].split("-"))
            found.append((first, end, fields[5]))
    return found


def openmp_of_torch() -> tuple[int, int, str] | None:
    """GOMP_parallel and omp_get_thread_num of the OpenMP runtime that torch runs on: their addresses, and its path.

    dlsym on libtorch_cpu searches what it was linked with: right even where another package brought a second runtime.
    """
    mapped = _mapped_files()
    paths = list(dict.fromkeys(path for _, _, path in mapped))
    candidates = [p for p in paths if "libtorch_cpu.so" in p]
    candidates += [p for p in paths if re.search(r"/lib(gomp|omp|iomp)[^/]*\.so", p)]
    for path in candidates:
        try:
            library = ctypes.CDLL(path)
            functions = library["GOMP_parallel"], library["omp_get_thread_num"]
        except (OSError, AttributeError):
            continue
        parallel, number = (ctypes.cast(function, ctypes.c_void_p).value for function in functions)
        return parallel, number, next((p for first, end, p in mapped if first <= parallel < end), path)
    return None


def _load() -> SimpleNamespace:
    chosen = envs.lib_path()
    path = str(chosen or PACKAGE / "libspectralops.so")
    if not Path(path).is_file():
        how = (
            "which SPECTRALOPS_LIB_PATH names, does not exist" if chosen else "was not built or not installed"
        )
        raise CoreMissing(f"the compiled core is missing: {path} {how}")
    try:
        try:
            library = _through_pybind11(path)
        except ImportError:  # no _C for this Python
            library = _through_ctypes(path)
    except (OSError, RuntimeError) as error:
        raise CoreMissing(f"the compiled core {path} cannot be used: {error}") from error
    library.path = path
    library.openmp = "its own threads"
    if "torch" in sys.modules:
        found = openmp_of_torch()
        if found is not None:
            library.set_openmp(*found[:2])
            library.openmp = f"torch's OpenMP ({Path(found[2]).name})"
    capability = envs.cpu_capability()
    if capability is not None:
        try:
            library.set_cpu_capability(capability)
        except RuntimeError as error:
            raise CoreMissing(f"SPECTRALOPS_CPU_CAPABILITY={capability}: {error}") from error
    return library


_core: SimpleNamespace | None = None
_failure: str | None = None
_lock = threading.Lock()


def core() -> SimpleNamespace:
    """The functions of the library; CoreMissing, with the reason, if there is none. Loaded once a process."""
    global _core, _failure
    if _core is not None:
        return _core
    with _lock:
        if _core is None:
            if _failure is not None:
                raise CoreMissing(_failure)
            try:
                _core = _load()
            except CoreMissing as error:
                _failure = str(error)
                raise
    return _core


def core_status() -> str:
    """One line: what was loaded and how, or why nothing was."""
    try:
        library = core()
    except CoreMissing as error:
        return str(error)
    cuda = "CUDA for " + build_info()["archs"] if build_info()["cuda"] else "no CUDA part"
    return f"{library.path} through {library.binding}; {library.cpu_capability()}, {library.openmp}; {cuda}"


@functools.cache
def build_info() -> dict:
    """version, cuda, archs, compiler, cpu: how the loaded library was built."""
    return json.loads(core().build_info())


def include_dir() -> Path:
    """Where the device headers are: in the package, or in the source tree of an editable install."""
    packaged = PACKAGE / "include"
    return packaged if packaged.is_dir() else PACKAGE.parents[1] / "csrc" / "include"
