"""rational-activations: `rational.torch.Rational`, versions A, B and C.

Upstream stacks all powers of x in memory and multiplies them by the coefficients; its derivatives of
|.| are torch's, with sign(0) = 0, as ours. Its result has the dtype that torch promotes x and the
coefficients to, and for version A also the default dtype, because it concatenates the denominator with
a constant 1. Version D is B with noise on the numerator while training, N has no absolute value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .matcher import Matcher, Plan, Refused, backend_of, mark

_WHY_NOT = {
    "D": "version D multiplies the numerator by random noise while training: the results could not be equal",
    "N": "version N has no absolute value in its denominator and may divide by zero: no op here computes it",
}
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _formula(function: object) -> str:
    """The version that one of upstream's activation functions computes, "" if it is none of them."""
    owner = getattr(function, "__self__", None)
    name = getattr(owner if isinstance(owner, type) else function, "__name__", "")
    parts = name.split("_")
    known = len(parts) == 4 and parts[0] == "Rational" and parts[1] in ("PYTORCH", "CUDA") and parts[3] == "F"
    return parts[2] if known else ""


def _check(module: nn.Module) -> str:
    version = getattr(module, "version", None)
    if version in _WHY_NOT:
        raise Refused(_WHY_NOT[version])
    if version not in ("A", "B", "C"):
        raise Refused(f"version {version!r} is not one of A, B, C")
    if _formula(getattr(module, "activation_function", None)) != version:
        raise Refused(f"its activation_function is not upstream's for version {version}")
    numerator, denominator = module._parameters.get("numerator"), module._parameters.get("denominator")
    if numerator is None or denominator is None or numerator.dim() != 1 or denominator.dim() != 1:
        raise Refused("numerator and denominator are not two one-dimensional parameters")
    num, den = len(numerator), len(denominator)
    if num < 2 or den < 1 or den > (num if version == "C" else num - 1):
        raise Refused(
            f"{num} numerator and {den} denominator coefficients: upstream's own formula does not take these sizes"
        )
    return version


def _result_dtype(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> torch.dtype:
    dtype = torch.promote_types(x.dtype, torch.promote_types(numerator.dtype, denominator.dtype))
    return torch.promote_types(dtype, torch.get_default_dtype()) if version == "A" else dtype


def _forward(version: str, known: object, original):
    from .. import rational

    def forward(self, x: Tensor) -> Tensor:
        # change_version() and moves between devices swap upstream's function under a live module
        function = self.activation_function
        if function is not known and _formula(function) != version:
            return original(self, x)
        numerator, denominator = self.numerator, self.denominator
        dtype = _result_dtype(x, numerator, denominator, version)
        if dtype not in _DTYPES:
            return original(self, x)
        return rational(x.to(dtype), numerator, denominator, version=version)

    return mark(forward, "rational")


class RationalActivations(Matcher):
    package = "rational-activations"
    op = "rational"
    classes = ("rational.torch.rationals.Rational", "rational.torch.Rational")

    def plan(self, module: nn.Module) -> Plan:
        version = _check(module)
        m, n = len(module.numerator) - 1, len(module.denominator) - (version == "C")

        def probe(generator: torch.Generator) -> tuple[Tensor]:
            return (torch.randn(64, 48, generator=generator, dtype=torch.float64, device="cpu") * 2,)

        def trim(x: Tensor, elements: int) -> Tensor:
            return x if x.numel() <= elements else x.reshape(-1)[:elements]

        def backend(x: Tensor) -> str:
            dtype = _result_dtype(x, module.numerator, module.denominator, version)
            return backend_of("rational", x.to(dtype), module.numerator, module.denominator, version=version)

        return Plan(
            forward=_forward(version, module.activation_function, type(module).forward),
            old=f"Rational {version} {m}/{n}",
            new=f"rational(version={version!r})",
            probe=probe,
            trim=trim,
            backend=backend,
        )
