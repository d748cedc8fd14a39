"""The two models of the demo. Both are built from a seed, so that building one twice gives two equal
models."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor, nn

HOW = (
    "pip install scikit-learn matplotlib transformers loguru psutil pydantic && "
    "pip install --no-deps rational-activations compressed-tensors"
)


class Missing(RuntimeError):
    """Something the demo needs cannot be imported; the text says what, why, and what to install."""


def need(module: str, distribution: str):
    try:
        return importlib.import_module(module)
    except Exception as error:  # an import may fail with anything that the package runs
        text = f"the demo needs {distribution}: importing {module} raised {type(error).__name__}: {error}\n  {HOW}"
        raise Missing(text) from error


def versions(*distributions: str) -> dict[str, str]:
    found = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@dataclass(frozen=True)
class Digits:
    """8 x 8 images of handwritten digits, every pixel scaled to mean 0 and variance 1 over the
    training set."""

    x: Tensor  # (1437, 64) float32
    y: Tensor  # (1437,) int64
    test_x: Tensor  # (360, 64)
    test_y: Tensor  # (360,)


def digits(device: torch.device) -> Digits:
    data, target = need("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
    order = torch.randperm(len(data), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    x, y = torch.from_numpy(data).float()[order], torch.from_numpy(target).long()[order]
    cut = len(x) * 4 // 5
    mean, deviation = x[:cut].mean(0), x[:cut].std(0).clamp(min=1.0)
    x, y = ((x - mean) / deviation).to(device), y.to(device)
    return Digits(x[:cut], y[:cut], x[cut:], y[cut:])


@dataclass(frozen=True)
class Network:
    """One model of the demo and what is shown of it."""

    name: str
    title: str
    package: str
    about: str
    build: Callable[[torch.dtype], nn.Module]  # (dtype of the parameters) -> the model, on the CPU
    unit: Callable[[nn.Module], nn.Module]  # model -> the module whose op is replaced, timed alone
    feeds: Callable[[nn.Module], nn.Sequential]  # model -> what comes before that module
    rows: int  # that enter the op when it is timed alone
    by_hand: bool  # whether the op has a good form in plain PyTorch, to be timed too
    batch: int
    rate: float  # of stochastic gradient descent with momentum 0.9
    steps: int


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the parameters one by one. `.to("cuda")` would make rational-activations look for a CUDA
    extension it ships no wheel of."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.to(device)
    return model


def build(network: Network, device: torch.device, seed: int = 0) -> nn.Module:
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return place(network.build(torch.float32), device)


def build_wide(network: Network, device: torch.device) -> nn.Module:
    """The same model in float64 with the same, float32, values: the truth that both are measured
    against."""
    narrow = build(network, device)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        wide = place(network.build(torch.float64), device)
    with torch.no_grad():
        for (name, theirs), (_, ours) in zip(narrow.named_parameters(), wide.named_parameters(), strict=True):
            ours.copy_(theirs)
    return wide


def _in(dtype: torch.dtype, model: nn.Module) -> nn.Module:
    return (
        model.double() if dtype == torch.float64 else model
    )  # Rational overrides .to(), which fails on a dtype


def _rational_network(dtype: torch.dtype, width: int) -> nn.Module:
    rational = need("rational.torch", "rational-activations").Rational
    layers = [
        nn.Linear(64, width),
        rational("leaky_relu", degrees=(5, 4), cuda=False, version="A"),
        nn.Linear(width, width),
        rational("gelu", degrees=(5, 4), cuda=False, version="B"),
        nn.Linear(width, width),
        rational("tanh", degrees=(5, 4), cuda=False, version="A"),
        nn.Linear(width, 10),
    ]
    return _in(dtype, nn.Sequential(*layers))


def _rotated_network(dtype: torch.dtype, width: int) -> nn.Module:
    transform = need("compressed_tensors.transform", "compressed-tensors")
    layers = [nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10)]
    model = _in(dtype, nn.Sequential(*layers))
    where = [
        transform.TransformArgs(targets=["2"], location="input"),
        transform.TransformArgs(targets=["2"], location="weight_input", inverse=True),
    ]
    scheme = transform.TransformScheme(type="hadamard", apply=where, precision=dtype)
    with _quiet():
        transform.apply_transform_config(model, transform.TransformConfig(config_groups={"rotation": scheme}))
    return model


@contextlib.contextmanager
def _quiet():
    """Without upstream's own progress bar, which it does not let its callers switch off."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def networks(small: bool) -> list[Network]:
    width, rotated = (64, 64) if small else (768, 4096)
    return [
        Network(
            name="rational",
            title="A digits network with rational activations",
            package="rational-activations",
            about=f"64 - {width} - {width} - {width} - 10, three rational.torch.Rational(cuda=False) units "
            "of degrees 5/4, versions A, B, A, trained on the 1437 training images of scikit-learn's digits",
            build=lambda dtype: _rational_network(dtype, width),
            unit=lambda model: model[1],
            feeds=lambda model: model[:1],
            rows=2000,
            by_hand=False,
            batch=256,
            rate=0.02,
            steps=10 if small else 50,
        ),
        Network(
            name="hadamard",
            title=f"A Linear layer of {rotated} with an online Hadamard rotation",
            package="compressed-tensors",
            about=f"64 - {rotated} - {rotated} - 10; the activations that enter the middle layer are rotated "
            f"at every call by HadamardTransform, size {rotated}, and its weight was rotated back once, so "
            "that the result stays the same",
            build=lambda dtype: _rotated_network(dtype, rotated),
            unit=lambda model: model[2].rotation_input,
            feeds=lambda model: model[:2],
            rows=512,
            by_hand=True,
            batch=64,
            rate=0.01,
            steps=10 if small else 24,
        ),
    ]


def nudged(model: nn.Module, seed: int = 0) -> nn.Module:
    """Change every trained weight by at most one rounding error, as another order of summation would,
    in place."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = (
                    torch.rand(parameter.shape, generator=generator, device="cpu").to(parameter.device) * 2
                    - 1
                )
                parameter.mul_(1 + noise * torch.finfo(parameter.dtype).eps / 2)
    return model
