"""A shim: CMakeLists.txt compiles, pyproject.toml describes, this file joins the two. No network, no torch."""

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel


class PlatformWheel(bdist_wheel):
    """py3-none: libspectralops.so has no Python ABI, and where this build's `_C` does not fit, ctypes loads it."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setuptools.setup(
    packages=[
        *setuptools.find_namespace_packages("python", include=["spectralops*"], exclude=["*__pycache__*"]),
        "spectralops.kernels",
        "spectralops.include.spectralops",
    ],
    cmake_source_dir=".",
    cmake_install_dir="spectralops",
    cmdclass={"bdist_wheel": PlatformWheel},
)
