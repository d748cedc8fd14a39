"""What every model of the demo is made of: its data, and a way to build it twice from one seed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HOW = (
    "pip install scikit-learn pillow PyWavelets matplotlib scipy tqdm transformers loguru psutil pydantic pandas sympy pyyaml seaborn "
    "requests && pip install --no-deps rational-activations compressed-tensors pykan==0.2.8 neuraloperator==2.0.0 tensorly tensorly-torch opt_einsum"
)
PACKAGES = (  # (module, package): everything that is imported, looked for before any work
    ("rational.torch", "rational-activations"),
    ("compressed_tensors.transform", "compressed-tensors"),
    ("kan", "pykan"),
    ("neuralop.models", "neuraloperator"),
    ("sklearn.datasets", "scikit-learn"),
    ("PIL.Image", "pillow"),
    ("pywt.data", "PyWavelets"),
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


@contextlib.contextmanager
def quiet():
    """Without upstream's own progress bar, which it does not let its callers switch off."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


# ---- data ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """A task: what is trained on, what is tested on, and how both are judged."""

    x: Tensor  # (N, I) float32
    y: Tensor  # (N,) int64, or (N, O) float32
    test_x: Tensor
    test_y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    loss_title: str
    score: Callable[[Tensor, Tensor], float]  # of an output, from 0 to 1
    score_title: str

    def batch(self, index, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rows in the dtype of a model; classes stay integers."""
        y = self.y[index]
        return self.x[index].to(dtype), y.to(dtype) if y.is_floating_point() else y


def _shuffled(x, y) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(x), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    return torch.from_numpy(x).float()[order], torch.from_numpy(y)[order]


def _accuracy(output: Tensor, y: Tensor) -> float:
    return (output.argmax(-1) == y).float().mean().item()


def _explained(output: Tensor, y: Tensor) -> float:
    """R^2: 1 minus the residual variance over the variance."""
    return (1 - (output - y).square().mean() / (y - y.mean()).square().mean()).item()


def _digits(x: Tensor, y: Tensor, cut: int, device: torch.device) -> Data:
    x, y = x.to(device), y.long().to(device)
    judged = (F.cross_entropy, "cross entropy", _accuracy, f"accuracy on {len(x) - cut} test images")
    return Data(x[:cut], y[:cut], x[cut:], y[cut:], *judged)


def digits(device: torch.device) -> Data:
    """8 x 8 images of handwritten digits, 1437 to train on and 360 to test, every pixel scaled to mean 0 and variance 1
    over the former."""
    x, y = _shuffled(*need("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True))
    cut = len(x) * 4 // 5
    mean, deviation = x[:cut].mean(0), x[:cut].std(0).clamp(min=1.0)
    return _digits((x - mean) / deviation, y, cut, device)


def digits_on_grid(device: torch.device) -> Data:
    """The same with every pixel, an integer from 0 to 16, scaled to [-1, 1], where the knots of a KAN lie."""
    x, y = _shuffled(*need("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True))
    return _digits(x / 8 - 1, y, len(x) * 4 // 5, device)


def diabetes(device: torch.device) -> Data:
    """Progression of a disease in a year from ten measurements of 442 patients, 353 to train on and 89 to test. Features
    have deviation 1/2, so that nearly all lie in [-1, 1], the target mean 0 and deviation 1."""
    x, y = _shuffled(*need("sklearn.datasets", "scikit-learn").load_diabetes(return_X_y=True))
    cut = len(x) * 4 // 5
    y = y.float()[:, None]
    x = (x - x[:cut].mean(0)) / x[:cut].std(0) / 2
    x, y = x.to(device), ((y - y[:cut].mean()) / y[:cut].std()).to(device)
    judged = (F.mse_loss, "mean squared error", _explained, f"variance explained on {len(x) - cut} test patients")
    return Data(x[:cut], y[:cut], x[cut:], y[cut:], *judged)


# ---- models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByHand:
    """The op in the best plain PyTorch, timed too."""

    text: str
    make: Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]  # (the op's module, its input) -> the op


@dataclass(frozen=True)
class Network:
    """One model of the demo and what is shown of it."""

    name: str
    title: str
    package: str
    about: str
    data: Callable[[torch.device], Data]
    build: Callable[[torch.dtype], nn.Module]  # (dtype of the parameters) -> the model, on the CPU
    unit: Callable[[nn.Module], nn.Module]  # model -> the module whose op is replaced, timed alone
    feeds: Callable[[nn.Module], nn.Module]  # model -> what comes before that module
    rows: int  # that enter the op when it is timed alone
    batch: int
    rate: float  # of stochastic gradient descent with momentum 0.9
    steps: int
    by_hand: ByHand | None = None
    compile: tuple[str, ...] = ("op", "network")  # of which of the two torch.compile is timed; compiling takes long


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the parameters one by one. `.to("cuda")` would make rational-activations look for a CUDA
    extension it ships no wheel of."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.to(device)
    return model


def build(network: Network, device: torch.device, like: nn.Module | None = None) -> nn.Module:
    """The model from a seed, or with the values of another: pykan's own initial values come from a least-squares solver
    that need not give the same bits twice."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = place(network.build(torch.float32), device)
    return model if like is None else _take(model, like)


def build_wide(network: Network, device: torch.device, like: nn.Module) -> nn.Module:
    """The same model in float64 with the same, float32, values: the truth that both are measured
    against."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        return _take(place(network.build(torch.float64), device), like)


def _take(model: nn.Module, like: nn.Module) -> nn.Module:
    with torch.no_grad():
        for of in (nn.Module.named_parameters, nn.Module.named_buffers):
            for (_, theirs), (_, ours) in zip(of(like), of(model), strict=True):
                ours.copy_(theirs)
    return model


def in_dtype(dtype: torch.dtype, model: nn.Module) -> nn.Module:
    return (
        model.double() if dtype == torch.float64 else model
    )  # Rational and MultKAN override .to(), which fails on a dtype


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
