"""Shared by all tests: one seed a test, and the backends that can run on this machine."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# Files that take longest, longest first: the two workers of `make test` begin with them, so that neither waits at
# the end for a long file of the other.
LONG_FILES = (
    "test_nvcc",
    "test_packaging",
    "test_demo",
    "test_triton_interpret",
    "test_triton_fft_conv",
    "test_triton_modes",
    "test_triton_kan",
    "test_triton_activations",
    "test_triton_spectral_filter",
    "test_simt_fft_conv",
    "test_simt_spectral_filter",
)


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist's own order: the files of most tests first


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def device():
    return DEVICE
