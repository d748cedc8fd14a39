"""NVRTC through ctypes, with the functions of cupy.cuda.nvrtc that the cupy backend uses.

Compiles without a GPU and without CuPy.
"""

import ctypes
import importlib.util
from pathlib import Path


def _candidates():
    spec = importlib.util.find_spec("nvidia")
    for directory in spec.submodule_search_locations if spec else ():
        yield from sorted(Path(directory).glob("*/lib/libnvrtc.so.1[2-9]"), reverse=True)
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")


def _load():
    for path in _candidates():
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


_library = _load()
available = _library is not None


class NVRTCError(RuntimeError):
    pass


def _call(name: str, *args) -> None:
    status = getattr(_library, f"nvrtc{name}")(*args)
    if status:
        describe = _library.nvrtcGetErrorString
        describe.restype = ctypes.c_char_p
        raise NVRTCError(f"nvrtc{name}: {describe(status).decode()}")


def getVersion() -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("Version", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def getSupportedArchs() -> tuple[int, ...]:
    count = ctypes.c_int()
    _call("GetNumSupportedArchs", ctypes.byref(count))
    found = (ctypes.c_int * count.value)()
    _call("GetSupportedArchs", found)
    return tuple(found)


def createProgram(source: str, name: str, headers: tuple, include_names: tuple) -> ctypes.c_void_p:
    assert not headers and not include_names
    program = ctypes.c_void_p()
    _call("CreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
    return program


def destroyProgram(program) -> None:
    _call("DestroyProgram", ctypes.byref(program))


def addNameExpression(program, name: str) -> None:
    _call("AddNameExpression", program, name.encode())


def compileProgram(program, options: tuple[str, ...]) -> None:
    _call(
        "CompileProgram",
        program,
        len(options),
        (ctypes.c_char_p * len(options))(*(o.encode() for o in options)),
    )


def getLoweredName(program, name: str) -> str:
    lowered = ctypes.c_char_p()
    _call("GetLoweredName", program, name.encode(), ctypes.byref(lowered))
    return lowered.value.decode()


def _bytes(program, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"Get{what}Size", program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    _call(f"Get{what}", program, text)
    return text.raw


def getProgramLog(program) -> str:
    return _bytes(program, "ProgramLog").rstrip(b"\0").decode()


def getCUBIN(program) -> bytes:
    return _bytes(program, "CUBIN")


def getPTX(program) -> bytes:
    return _bytes(program, "PTX")
