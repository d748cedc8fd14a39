"""The registry: every operation that is measured, with the baseline a good user would write, its floor, and
its truth.

A case times callables of the same inputs. Each returns a tuple of tensors in the same order; the gate
compares them with `exact`, the formula in float64. `bytes` are the fewest an implementation can move (every
input read once, every output written once), `operations` the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..ops.hadamard import hadamard_transform, srht
from ..ops.hadamard_quantize import hadamard_quantize
from ..ops.hadamard_reference import quantize
from ..ops.rational import rational

Inputs = tuple[Tensor, ...]
Call = Callable[..., tuple[Tensor, ...]]


@dataclass
class Goal:
    """time(over) / time(under) should be at most `most`, or at least `least` (`least_kept` where the allocator keeps its pages)."""

    over: str
    under: str
    most: float | None = None
    least: float | None = None
    least_kept: float | None = None
    device: str | None = None  # where it holds; None: everywhere

    def bound(self, kept: bool) -> float | None:
        return self.least_kept if kept and self.least_kept is not None else self.least

    def met(self, ratio: float, kept: bool = False) -> bool:
        least = self.bound(kept)
        return (self.most is None or ratio <= self.most) and (least is None or ratio >= least)

    def text(self, kept: bool = False) -> str:
        return f"<= {self.most:g}" if self.most is not None else f">= {self.bound(kept):g}"


@dataclass
class Case:
    op: str
    name: str
    make: Callable[[torch.device], Inputs]
    contenders: dict[str, Call]  # must hold "ours", "eager" and "floor"
    exact: Call | None
    bytes: int
    operations: int
    goals: list[Goal] = field(default_factory=list)
    compile: str | None = "eager"  # the contender that torch.compile is given
    devices: tuple[str, ...] = ("cpu", "cuda")
    saved: Call | None = None  # our forward alone: what it saves for backward is measured against its first input
    read: Callable[..., tuple[Tensor, ...]] | None = None  # what the gate compares of a result that is not a tuple of tensors
    rounds: tuple[int, int] = (7, 60)  # at least and at most

    def call(self, name: str, *inputs) -> tuple[Tensor, ...]:
        """What a contender gives, or "exact", as tensors."""
        result = (self.exact if name == "exact" else self.contenders[name])(*inputs)
        return result if self.read is None else self.read(result)


CASES: list[Case] = []


def find(ops: list[str] | None, device: str, match: str = "") -> list[Case]:
    """Cases of the named operations (a prefix is enough: "hadamard"), all without names, whose own name holds `match`."""
    known = {c.op for c in CASES}
    for name in ops or ():
        if not any(op.startswith(name) for op in known):
            raise ValueError(f"op must be one of {', '.join(sorted(known))} or a prefix of one; got {name!r}")
    found = [c for c in CASES if device in c.devices and (not ops or any(c.op.startswith(name) for name in ops)) and match in c.name]
    if match and not found:
        raise ValueError(f"match: no case of {', '.join(ops or known)} on {device} has {match!r} in its name")
    return found


# ---- rational ------------------------------------------------------------------------------------------------------


def eager_rational(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Version A as a user writes it: Horner on groups, the denominator's coefficients and |x| made absolute."""
    groups = max(a.shape[0], b.shape[0])
    z = x.unflatten(-1, (groups, -1))
    w, b = z.abs(), b.abs()
    p = a[:, -1, None].to(x.dtype)
    for i in reversed(range(a.shape[1] - 1)):
        p = p * z + a[:, i, None].to(x.dtype)
    q = b[:, -1, None].to(x.dtype)
    for i in reversed(range(b.shape[1] - 1)):
        q = q * w + b[:, i, None].to(x.dtype)
    return (p / (1 + q * w)).flatten(-2)


def _with_gradients(f: Callable[..., Tensor], count: int) -> Call:
    """(y, gradients of the first `count` inputs) with the last input as the incoming gradient."""

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        *leaves, grad = inputs
        y = f(*leaves)
        return (y.detach(), *torch.autograd.grad(y, leaves[:count], grad))

    return call


def _rational_inputs(rows: int, dim: int, groups: int, dtype: torch.dtype, gradient: bool):
    def make(device: torch.device) -> Inputs:
        g = torch.Generator().manual_seed(0)
        draw = lambda *s: torch.randn(*s, generator=g)  # noqa: E731
        x, a, b = draw(rows, dim).to(device, dtype), draw(1, 6).to(device), (0.5 * draw(groups, 4)).to(device)
        if not gradient:
            return x, a, b
        return (*(t.requires_grad_() for t in (x, a, b)), draw(rows, dim).to(device, dtype))

    return make


def _rational_cases() -> None:
    rows, dim, groups = 64 * 197, 768, 8
    ours = lambda x, a, b: rational(x, a, b)  # noqa: E731
    gelu = lambda x, a, b: torch.nn.functional.gelu(x)  # noqa: E731
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        label, size = str(dtype).removeprefix("torch."), rows * dim * dtype.itemsize
        devices = ("cpu", "cuda") if dtype != torch.float16 else ("cuda",)
        single = lambda f: lambda *i: (f(*i),)  # noqa: E731
        CASES.append(
            Case(
                "rational",
                f"rational A 5/4, 8 groups, ({rows}, {dim}) {label}, forward",
                _rational_inputs(rows, dim, groups, dtype, False),
                {"ours": single(ours), "eager": single(eager_rational), "gelu": single(gelu),
                 "floor": lambda x, a, b: (x.clone(),)},  # fmt: skip
                single(eager_rational),
                2 * size,
                21 * rows * dim,
                [Goal("ours", "gelu", most=1.5), Goal("eager", "ours", least=12)] if dtype == torch.float32 else [],
                devices=devices,
            )
        )
        CASES.append(
            Case(
                "rational",
                f"rational A 5/4, 8 groups, ({rows}, {dim}) {label}, forward + backward",
                _rational_inputs(rows, dim, groups, dtype, True),
                {"ours": _with_gradients(ours, 3), "eager": _with_gradients(eager_rational, 3), "gelu": _with_gradients(gelu, 1),
                 "floor": lambda x, a, b, g: (x.detach().clone(), torch.add(x.detach(), g))},  # fmt: skip
                _with_gradients(eager_rational, 3),
                5 * size,
                81 * rows * dim,
                [Goal("ours", "gelu", most=1.5), Goal("eager", "ours", least=12), Goal("compile", "ours", least=2)]
                if dtype == torch.float32
                else [],
                devices=devices,
            )
        )


# ---- Walsh-Hadamard ------------------------------------------------------------------------------------------------


def sylvester(n: int, like: Tensor) -> Tensor:
    h = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


def _kronecker(n: int) -> Callable[..., Tensor]:
    """H_n = H_p (x) H_q by two matrix products, the best that torch alone offers; the factors are made once."""
    p = 1 << ((n.bit_length() - 1) // 2)
    made: dict = {}

    def call(x: Tensor) -> Tensor:
        key = (x.device, x.dtype)
        if key not in made:
            made[key] = sylvester(p, x), sylvester(n // p, x)
        left, right = made[key]
        return (left @ (x.view(-1, p, n // p) @ right)).view(x.shape)

    return call


def _butterflies(x: Tensor) -> Tensor:
    """log2 n stages of additions, as most code has it."""
    n, step = x.shape[-1], 1
    y = x
    while step < n:
        a, b = y.view(-1, n // (2 * step), 2, step).unbind(2)
        y = torch.stack((a + b, a - b), 2)
        step *= 2
    return y.view(x.shape)


def _normal(shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[torch.device], Inputs]:
    def make(device: torch.device) -> Inputs:
        return (torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype),)

    return make


def _hadamard_cases() -> None:
    copy: Call = lambda x: (x.clone(),)  # noqa: E731
    ours: Call = lambda x: (hadamard_transform(x),)  # noqa: E731

    def add(shape, dtype, goals=(), devices=("cpu", "cuda"), name=None, eager=None, call=ours):
        n, items = shape[-1], torch.Size(shape).numel()
        label = str(dtype).removeprefix("torch.")
        kronecker = eager or _kronecker(n)
        CASES.append(
            Case(
                "hadamard_transform",
                name or f"hadamard ({shape[0]}, {n}) {label}",
                _normal(shape, dtype),
                {"ours": call, "eager": lambda x: (kronecker(x),), "floor": copy},
                lambda x: (kronecker(x),),
                2 * items * dtype.itemsize,
                items * (n.bit_length() - 1),
                list(goals),
                devices=devices,
            )
        )

    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    add((4096, 4096), f32, [Goal("ours", "floor", most=2.5), Goal("eager", "ours", least=2)])
    for k in (20, 24):
        add((1, 1 << k), f32, [Goal("ours", "floor", most=4)], name=f"hadamard, one row of 2^{k}, float32", eager=_butterflies)
    add((65536, 128), bf16)
    add((65536, 128), f32)
    for dtype in (f16, bf16, f32):
        for k in range(7, 16):
            add((1 << (26 - k), 1 << k), dtype, devices=("cuda",))

    def twelve(x: Tensor) -> Tensor:
        from ..ops.hadamard_base import hadamard_base

        n = x.shape[-1] // 12
        return (hadamard_base(12).dense(x) @ _butterflies(x.reshape(-1, n)).view(-1, 12, n)).view(x.shape)

    add((2048, 12 * 1024), f32, name="hadamard (2048, 12 x 1024) float32", eager=twelve)

    for format, dtype in (("int8", bf16), ("fp8_e4m3", bf16), ("mxfp4", bf16), ("nvfp4", bf16)):
        shape, block = (8192, 4096), 128 if format == "fp8_e4m3" else None
        group = {"int8": 4096, "fp8_e4m3": 128, "mxfp4": 32, "nvfp4": 16}[format]

        def apart(x, format=format, block=block, group=group):
            r = hadamard_transform(x, 1 / 64, block=block)
            return quantize(r.float(), group, format)

        def fused(x, format=format, block=block):
            return hadamard_quantize(x, 1 / 64, block=block, format=format, round_rotation=True)

        items = shape[0] * shape[1]
        written = items * {"int8": 1, "fp8_e4m3": 1}.get(format, 0.5) + items / group * (4 if format in ("int8", "fp8_e4m3") else 1)
        CASES.append(
            Case(
                "hadamard_quantize",
                f"hadamard_quantize {format}, {shape} bfloat16, block {block or shape[1]}",
                _normal(shape, dtype),
                {"ours": fused, "eager": apart, "floor": lambda x: (x.to(torch.uint8),)},
                None,  # bit-equal to the two steps: the gate compares with eager itself
                int(items * dtype.itemsize + written),
                items * 15,
                [Goal("eager", "ours", least=2.2)],
            )
        )

    def project(x):
        return (srht(x, _signs(x), _rows(x), 1 / 16),)

    def gather(x):
        return ((_kronecker_4096(x * _signs(x)) / 16)[..., _rows(x)],)

    _kronecker_4096 = _kronecker(4096)
    CASES.append(
        Case(
            "srht",
            "srht (8192, 4096) -> 256, float32",
            _normal((8192, 4096), f32),
            {"ours": project, "eager": gather, "floor": lambda x: (x.sum(-1),)},
            gather,
            8192 * (4096 + 256) * 4,
            8192 * 4096 * 12,
            compile=None,
        )
    )


_made: dict = {}


def _signs(x: Tensor) -> Tensor:
    if ("signs", x.device, x.dtype) not in _made:
        draw = torch.randint(0, 2, (x.shape[-1],), generator=torch.Generator().manual_seed(1)) * 2 - 1
        _made["signs", x.device, x.dtype] = draw.to(x.device, x.dtype)
    return _made["signs", x.device, x.dtype]


def _rows(x: Tensor) -> Tensor:
    if ("rows", x.device) not in _made:
        _made["rows", x.device] = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(2))[:256].to(x.device)
    return _made["rows", x.device]


_rational_cases()
_hadamard_cases()

from . import activation_cases, fft_conv_cases, kan_cases, sparse_wht_cases, spectral_cases  # noqa: E402, F401  (they register their own)
