"""Every environment variable of spectralops, once.

`envs.backend()` is the variable's value now, or its default where it is unset or empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    name: str
    type: Callable
    default: object
    when: str  # "run" or "build"
    doc: str

    def __post_init__(self):
        object.__setattr__(self, "_key", self.name.encode())

    def __call__(self):
        text = os.environb.get(self._key)  # asked at every call of an operator: bytes are twice as quick
        return self.type(os.fsdecode(text)) if text else self.default


backend = Variable(
    "SPECTRALOPS_BACKEND", str, None, "run",
    "the backend of every call that names none: reference, cpu, triton, cuda or cupy; a call that it cannot run fails",
)  # fmt: skip
lib_path = Variable(
    "SPECTRALOPS_LIB_PATH", str, None, "run",
    "the libspectralops.so to load instead of the packaged one; it is not fallen back from",
)  # fmt: skip
cpu_capability = Variable(
    "SPECTRALOPS_CPU_CAPABILITY", str, None, "run",
    "the instruction set of CPU kernels: avx512, avx2 or portable; the best of the machine by default",
)  # fmt: skip
cache_dir = Variable(
    "SPECTRALOPS_CACHE_DIR", os.path.expanduser, os.path.join(os.path.expanduser("~"), ".cache", "spectralops"), "run",
    "where kernels that the cupy backend compiled are kept; best on a disk of this machine",
)  # fmt: skip
cuda = Variable(
    "SPECTRALOPS_CUDA", str, None, "build",
    "1 builds the CUDA part without a GPU in sight, 0 leaves it out; by default it is built where a GPU is visible",
)  # fmt: skip
require_cuda = Variable(
    "SPECTRALOPS_REQUIRE_CUDA", str, None, "build",
    "1 makes it an error that the CUDA part cannot be built",
)  # fmt: skip
cuda_archs = Variable(
    "SPECTRALOPS_CUDA_ARCHS", str, None, "build",
    "compute capabilities to compile for, PTX for the last; the visible GPUs by default, or 80;90;100;120 without one",
)  # fmt: skip

VARIABLES = (backend, lib_path, cpu_capability, cache_dir, cuda, require_cuda, cuda_archs)
