"""The models whose ops `replace` finds: those of rational-activations and compressed-tensors here, the KANs in
`kan_networks.py`, state spaces in `convolution_networks.py`, models of spectra in `fourier_networks.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import ByHand, Network, digits, in_dtype, need, quiet
from .convolution_networks import convolution_networks
from .fourier_networks import fourier_networks
from .kan_networks import kan_networks


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
    return in_dtype(dtype, nn.Sequential(*layers))


def _rotated_network(dtype: torch.dtype, width: int) -> nn.Module:
    transform = need("compressed_tensors.transform", "compressed-tensors")
    layers = [nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10)]
    model = in_dtype(dtype, nn.Sequential(*layers))
    where = [
        transform.TransformArgs(targets=["2"], location="input"),
        transform.TransformArgs(targets=["2"], location="weight_input", inverse=True),
    ]
    scheme = transform.TransformScheme(type="hadamard", apply=where, precision=dtype)
    with quiet():
        transform.apply_transform_config(model, transform.TransformConfig(config_groups={"rotation": scheme}))
    return model


def kronecker(n: int, device: torch.device):
    """What a good user writes instead of the dense product: H_n = H_a (x) H_b, two small matrix
    products."""
    from ..ops.hadamard import hadamard_transform

    a = 1 << (n.bit_length() // 2)
    left, right = (hadamard_transform(torch.eye(s, device=device), s**-0.5) for s in (a, n // a))
    return lambda x: (left @ (x.unflatten(-1, (a, n // a)) @ right)).flatten(-2)


def _by_kronecker(_: nn.Module, x: Tensor):
    return kronecker(x.shape[-1], x.device)


def networks(small: bool) -> list[Network]:
    width, rotated = (64, 64) if small else (768, 4096)
    return [
        Network(
            name="rational",
            title="A digits network with rational activations",
            package="rational-activations",
            about=f"64 - {width} - {width} - {width} - 10, three rational.torch.Rational(cuda=False) units "
            "of degrees 5/4, versions A, B, A, trained on the 1437 training images of scikit-learn's digits",
            data=digits,
            build=lambda dtype: _rational_network(dtype, width),
            unit=lambda model: model[1],
            feeds=lambda model: model[:1],
            rows=2000,
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
            data=digits,
            build=lambda dtype: _rotated_network(dtype, rotated),
            unit=lambda model: model[2].rotation_input,
            feeds=lambda model: model[:2],
            rows=512,
            batch=64,
            rate=0.01,
            steps=10 if small else 24,
            by_hand=ByHand(
                "the rotation as two small matrix products (Kronecker), what a good user writes", _by_kronecker
            ),
        ),
        *kan_networks(small),
        *convolution_networks(small),
        *fourier_networks(small),
    ]
