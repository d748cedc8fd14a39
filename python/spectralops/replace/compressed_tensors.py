"""compressed-tensors: `HadamardTransform`, which multiplies by a dense matrix of +-1 what a fast
transform does in n log n.

Upstream computes  y = (v M) / sqrt(n)  along the last dimension for activations (for weights: along
the dimension and with the transpose that its location asks for), with M = W[perm][:, perm], transposed
when `inverse`, in W's dtype, and rounds to v's. A longer last dimension is cut into heads of n. The
module is replaced when, exactly,

    K = W or W^T = diag(r) H^T diag(c),   r, c of +-1,   H the matrix of `hadamard_transform`,

which holds for the type "hadamard" (Sylvester, r = c = 1) and for "random-hadamard" of a power of two
(r random). W is looked at again whenever its storage or version counter changed, and a W that no
longer fits runs the old forward. Under torch.compile W is taken as constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .matcher import Matcher, Plan, Refused, backend_of, mark

_ONLINE = ("input", "output", "q_attn", "k_cache")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _is_sylvester(matrix: Tensor) -> bool:
    """Exactly, by doubling: H_2s = [[H_s, H_s], [H_s, -H_s]]."""
    size = 1
    if matrix[0, 0] != 1:
        return False
    while size < len(matrix):
        known = matrix[:size, :size]
        right, below = matrix[:size, size : 2 * size], matrix[size : 2 * size, :size]
        corner = matrix[size : 2 * size, size : 2 * size]
        if not (torch.equal(right, known) and torch.equal(below, known) and torch.equal(corner, -known)):
            return False
        size *= 2
    return True


def factor(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """r, c (n,) of +-1 with matrix (n, n) = diag(r) H^T diag(c), None if there are none."""
    from .. import hadamard_transform

    n = len(matrix)
    if n & (n - 1) == 0:
        rows, columns = matrix[:, 0], matrix[0] * matrix[0, 0]
        if not (torch.all(rows.abs() == 1) and torch.all(columns.abs() == 1)):
            return None
        fits = _is_sylvester(rows[:, None] * matrix * columns)
    else:
        try:
            ours = hadamard_transform(torch.eye(n, dtype=torch.float32, device=matrix.device)).to(
                matrix.dtype
            )  # row i: H e_i
        except ValueError:
            return None
        rows = matrix[:, 0] * ours[:, 0]
        columns = matrix[0] * ours[0] * rows[0]
        fits = torch.equal(rows[:, None] * ours * columns, matrix)
    return (rows.clone(), columns.clone()) if fits else None


@dataclass(frozen=True, eq=False)
class _Rotation:
    """v -> scale * hadamard(v r) c along dim, the index permuted on both sides."""

    n: int
    dim: int
    transposed: bool  # K = W^T
    rows: Tensor | None  # r, None for all ones
    columns: Tensor | None  # c
    perm: Tensor | None
    scale: float
    dtype: torch.dtype  # W's
    inverse: bool
    location: str

    def fits(self, module: nn.Module) -> bool:
        """Whether the module's matrix is still the one that was recognised."""
        weight, perm = module.weight, module.perm
        if weight.requires_grad or weight.dtype != self.dtype or weight.shape != (self.n, self.n):
            return False
        if (perm is None) != (self.perm is None) or (
            perm is not None and not torch.equal(perm.to(self.perm.device), self.perm)
        ):
            return False
        found = factor(weight.detach().T if self.transposed else weight.detach())
        ours = (self.rows, self.columns)
        return found is not None and all(torch.equal(f, _or_ones(o, f)) for f, o in zip(found, ours))

    def __call__(self, value: Tensor) -> Tensor:
        from .. import hadamard_transform

        heads = value.shape[self.dim] // self.n
        x = value.to(self._work(value.dtype))
        x = x.unflatten(self.dim, (heads, self.n)) if heads > 1 else x
        if self.perm is not None:
            x = x.index_select(self.dim, torch.argsort(self.perm).to(x.device))
        signs = None if self.rows is None else self.rows.to(x)
        y = hadamard_transform(x, self.scale, signs=signs, dim=self.dim)
        if self.columns is not None:
            y = y * self.columns.to(y).reshape(-1, *[1] * (-1 - self.dim))
        if self.perm is not None:
            y = y.index_select(self.dim, self.perm.to(y.device))
        y = y.flatten(self.dim - 1, self.dim) if heads > 1 else y
        return y.to(value.dtype)

    def takes(self, value: Tensor) -> bool:
        enough = (
            value.dim() >= -self.dim
            and value.shape[self.dim] >= self.n
            and value.shape[self.dim] % self.n == 0
        )
        return enough and value.dtype in _FLOATS

    def _work(self, dtype: torch.dtype) -> torch.dtype:
        """Upstream rounds the value to W's dtype. Under a float32 W, 16-bit values are computed in
        float32 and rounded once: so are ours."""
        return dtype if self.dtype == torch.float32 and dtype != torch.float64 else self.dtype


def _or_ones(signs: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like) if signs is None else signs.to(like)


def _place(location: str, module_type: type) -> tuple[int, bool]:
    """(dimension, whether M is transposed) of the product at a location, in terms of v M."""
    if location in _ONLINE:
        return -1, False
    if location in ("weight_input", "weight_output") and isinstance(module_type, type):
        if issubclass(module_type, nn.Linear):
            return (-1, True) if location == "weight_input" else (-2, False)
        if issubclass(module_type, nn.Embedding):
            return (-2, True) if location == "weight_input" else (-1, False)
    raise Refused(
        f"location {location!r} on {getattr(module_type, '__name__', module_type)} is none that upstream applies"
    )


def _recognise(module: nn.Module) -> _Rotation:
    weight, perm, args = (
        module._parameters.get("weight"),
        getattr(module, "perm", None),
        getattr(module, "args", None),
    )
    if (
        weight is None
        or weight.dim() != 2
        or weight.shape[0] != weight.shape[1]
        or weight.dtype not in _FLOATS
    ):
        raise Refused("weight is not a square floating-point matrix")
    if weight.requires_grad:
        raise Refused(
            "its weight requires a gradient: a learned rotation is no Hadamard matrix after its first step"
        )
    n = len(weight)
    if perm is not None and (
        perm.shape != (n,) or not torch.equal(perm.sort().values, torch.arange(n, device=perm.device))
    ):
        raise Refused("perm is not a permutation of the rows of weight")
    scale = getattr(module, "_scale", None)
    if scale is None or abs(float(scale) - math.sqrt(n)) > 1e-9 * math.sqrt(n):
        raise Refused("it does not divide by sqrt(n)")
    location = str(getattr(args.location, "value", args.location))
    dim, transposed = _place(location, module.module_type)
    transposed ^= bool(args.inverse)
    matrix = weight.detach().T if transposed else weight.detach()
    found = factor(matrix)
    if found is None:
        raise Refused(
            f"its weight ({n} x {n}) is not diag(+-1) H diag(+-1), H our matrix of that size: {_why(matrix)}"
        )
    rows, columns = (None if torch.all(signs == 1) else signs for signs in found)
    return _Rotation(
        n,
        dim,
        transposed,
        rows,
        columns,
        None if perm is None else perm.detach().clone(),
        1 / math.sqrt(n),
        weight.dtype,
        bool(args.inverse),
        location,
    )


def _why(matrix: Tensor) -> str:
    if not torch.all(matrix.abs() == 1):
        return "entries other than +-1"
    n = len(matrix)
    if n & (n - 1) == 0:
        return "a power of two, but not Sylvester's matrix up to signs"
    return "another Hadamard matrix, perhaps upstream's table for this size, or none"


def _state(module: nn.Module) -> tuple:
    weight, perm = module.weight, module.perm
    return weight._version, weight.data_ptr(), weight.requires_grad, perm is None or (id(perm), perm._version)


def _forward(rotation: _Rotation, original, recognised: nn.Module):
    verdicts = WeakTensorKeyDictionary()  # weight -> (its state when it was looked at, whether it fitted)
    verdicts[recognised.weight] = (_state(recognised), True)

    def fits(module: nn.Module) -> bool:
        state, seen = _state(module), verdicts.get(module.weight)
        if seen is None or seen[0] != state:
            seen = verdicts[module.weight] = (state, rotation.fits(module))
        return seen[1]

    def forward(self, value: Tensor) -> Tensor:
        # upstream's right_inverse flips args.inverse around a call
        same_place = self.args.inverse == rotation.inverse and self.args.location == rotation.location
        if not same_place or not rotation.takes(value) or not (torch.compiler.is_compiling() or fits(self)):
            return original(self, value)
        return rotation(value)

    return mark(forward, "hadamard_transform")


class CompressedTensorsHadamard(Matcher):
    package = "compressed-tensors"
    op = "hadamard_transform"
    classes = ("compressed_tensors.transform.factory.hadamard.HadamardTransform",)

    def plan(self, module: nn.Module) -> Plan:
        rotation = _recognise(module)
        n, dim = rotation.n, rotation.dim

        def probe(generator: torch.Generator) -> tuple[Tensor]:
            shape = (4, n) if dim == -1 else (n, 4)
            return (torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu"),)

        def trim(value: Tensor, elements: int) -> Tensor:
            if dim != -1 or value.dim() < 2 or value.numel() <= elements:
                return value
            rows = value.reshape(-1, value.shape[-1])
            return rows[: max(1, elements // value.shape[-1])]

        def backend(value: Tensor) -> str:
            return backend_of("hadamard_transform", value.to(rotation._work(value.dtype)), dim=dim, block=n)

        detail = ", ".join(
            filter(
                None,
                (
                    "signs" if rotation.rows is not None else "",
                    "inverse" if rotation.inverse else "",
                    "perm" if rotation.perm is not None else "",
                ),
            )
        )
        return Plan(
            forward=_forward(rotation, type(module).forward, module),
            old=f"dense {n} x {n} at {rotation.location}" + (f" ({detail})" if detail else ""),
            new="hadamard_transform",
            probe=probe,
            trim=trim,
            backend=backend,
        )
