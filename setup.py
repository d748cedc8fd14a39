"""A shim: CMakeLists.txt compiles, pyproject.toml describes, this file joins the two.  It reads no network and needs no torch."""

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel


class PlatformWheel(bdist_wheel):
    """libspectralops.so has no Python ABI, and where the one `_C` of this build does not fit, ctypes loads the library: so py3-none."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


setuptools.setup(
    packages=setuptools.find_packages("python") + ["spectralops.kernels", "spectralops.include.spectralops"],
    cmake_source_dir=".",
    cmake_install_dir="spectralops",
    cmdclass={"bdist_wheel": PlatformWheel},
)
