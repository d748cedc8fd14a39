"""Calls of activation, poly_norm and fan through the C interface on a CPU, every output between guard bands.

    call = Activation("snake", (outer, C, inner), dtype)   its tensors; PolyNorm and Fan likewise
    call.run(threads)                                      the three passes: y, dx, dparams, dgrad, dx, dparams
    call.reference()                                       what the plain formulas make of them
"""

from __future__ import annotations

import torch
from core_build import cpu_core
from rational_calls import CPU, DTYPES, Guarded, GuardedBytes, compute
from spectralops.ops import activations_reference as spec
from spectralops.ops import fan, poly_norm

FUNCTIONS = {
    "snake": (spec.SNAKE, 1),
    "sine": (spec.SINE, 1),
    "spder": (spec.SPDER, 0),
    "cauchy": (spec.CAUCHY, 3),
    "poly_relu": (spec.POLY_RELU, 4),
    "square_wave": (spec.SQUARE_WAVE, 1),
    "wire": (spec.WIRE, 2),
    "wire_complex": (spec.WIRE_COMPLEX, 2),
}
NAMES = [*FUNCTIONS, "poly_norm", "fan"]
OUTPUTS = {
    "poly_norm": ["y", "dx", "dweight", "dbias", "dgrad2", "dx2", "dweight2"],
    "fan": ["y", "dh", "de", "dgrad2", "dh2", "de2"],
    **dict.fromkeys(FUNCTIONS, ["y", "dx", "dparams", "dgrad2", "dx2", "dparams2"]),
}


def run(name, *arguments):
    core = cpu_core("activation")
    arguments = [a.tensor if isinstance(a, Guarded) else a for a in arguments]
    plain = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    if getattr(core, "spectralops_" + name)(*plain):
        raise ValueError(core.spectralops_last_error().decode())


def workspace(name, *sizes):
    size = getattr(cpu_core("activation"), f"spectralops_{name}_workspace")(*sizes)
    space = GuardedBytes(size)
    return space, size


class Activation:
    """x (outer, C, inner), params (P, C or 1); ggparams None and need False spare what belongs to the parameters."""

    def __init__(self, name, shape, dtype, shared=False, count=None, scale=2.0):
        self.function, self.count = FUNCTIONS[name]
        self.count = count or self.count
        pair = {spec.WIRE: ((), (2,)), spec.WIRE_COMPLEX: ((2,), (2,))}.get(self.function, ((), ()))
        c, channels = compute(dtype), 1 if shared else shape[1]
        small = 0.5 if pair[1] else 1.0  # exp(-k^2 |x|^2) is soon nothing
        self.x, self.ggx = ((scale * small * torch.randn(*shape, *pair[0])).to(dtype) for _ in range(2))
        self.grad = (0.25 * torch.randn(*shape, *pair[1])).to(dtype)
        self.params, self.ggparams = (0.5 + torch.rand(self.count, channels)).to(c), torch.randn(self.count, channels).to(c)
        self.need = True

    def tensors(self):
        return [self.x, self.grad, self.ggx, self.params, self.ggparams]

    def cast(self, dtype):
        """The same numbers in another type."""
        other = object.__new__(type(self))
        c = compute(dtype)
        other.__dict__ = {**self.__dict__, **{k: getattr(self, k).to(dtype) for k in ("x", "grad", "ggx")}}
        other.params, other.ggparams = self.params.to(c), None if self.ggparams is None else self.ggparams.to(c)
        return other

    def reference(self):
        f = self.function
        first = spec.backward(self.grad, self.x, self.params, f, self.need)
        second = spec.double_backward(self.ggx, self.ggparams, self.grad, self.x, self.params, f, self.need)
        return [spec.forward(self.x, self.params, f), *first, *second]

    def run(self, threads=2):
        x, grad, params, dtype = self.x, self.grad, self.params, self.x.dtype
        elements = x.numel() // (2 if self.function == spec.WIRE_COMPLEX else 1)
        shape = x.shape[:3] if params.shape[1] != 1 else (1, 1, elements)
        sizes = [*shape, self.count, self.function, DTYPES[dtype]]
        space, size = workspace("activation", *sizes, CPU)
        y, dx, dx2, dgrad = (Guarded(s.shape, dtype) for s in (grad, x, x, grad))
        sums = [Guarded(params.shape, params.dtype) if self.need else None for _ in range(2)]
        tail = [*sizes, CPU, threads, None]
        run("activation_forward", x, params, y, *tail)
        run("activation_backward", grad, x, params, dx, sums[0], space, size, *tail)
        run(
            "activation_double_backward",
            self.ggx, self.ggparams, grad, x, params, dgrad, dx2, sums[1], space, size, *tail,
        )  # fmt: skip
        space.done()
        return [o if o is None else o.done() for o in (y, dx, sums[0], dgrad, dx2, sums[1])]


class PolyNorm:
    def __init__(self, shape, dtype, degree=3, scale=2.0, eps=1e-6):
        c = compute(dtype)
        self.x, self.ggx = ((scale * torch.randn(*shape)).to(dtype) for _ in range(2))
        self.grad, self.eps = torch.randn(*shape).to(dtype), eps
        self.weight, self.ggweight = (torch.randn(degree).to(c) for _ in range(2))
        self.bias, self.ggbias = (torch.randn(1).to(c) for _ in range(2))

    def tensors(self):
        return [self.x, self.grad, self.ggx, self.weight, self.ggweight, self.bias, self.ggbias]

    def cast(self, dtype):
        other = object.__new__(type(self))
        c = compute(dtype)
        to = {k: dtype if k in ("x", "grad", "ggx") else c for k in self.__dict__ if k != "eps"}
        other.__dict__ = {"eps": self.eps, **{k: getattr(self, k).to(t) for k, t in to.items()}}
        return other

    def reference(self):
        rest = self.grad, self.x, self.weight, self.eps
        return [
            poly_norm.reference_forward(self.x, self.weight, self.bias, self.eps),
            *poly_norm.reference_backward(*rest),
            *poly_norm.reference_double_backward(self.ggx, self.ggweight, self.ggbias, *rest),
        ]

    def run(self, threads=2):
        x, w, dtype = self.x, self.weight, self.x.dtype
        sizes = [*x.shape, w.shape[0]]
        space, size = workspace("poly_norm", *sizes, DTYPES[dtype], CPU)
        y, dx, dx2, dgrad = (Guarded(x.shape, dtype) for _ in range(4))
        dw, dw2, db = Guarded(w.shape, w.dtype), Guarded(w.shape, w.dtype), Guarded((1,), w.dtype)
        tail = [*sizes, self.eps, DTYPES[dtype], CPU, threads, None]
        run("poly_norm_forward", x, w, self.bias, y, *tail)
        run("poly_norm_backward", self.grad, x, w, dx, dw, db, space, size, *tail)
        directions = self.ggx, self.ggweight, self.ggbias
        run("poly_norm_double_backward", *directions, self.grad, x, w, dgrad, dx2, dw2, space, size, *tail)
        space.done()
        return [o.done() for o in (y, dx, dw, db, dgrad, dx2, dw2)]


class Fan:
    def __init__(self, shape, dtype, scale=2.0):
        rows, p, q = shape
        self.h, self.ggh = ((scale * torch.randn(rows, p)).to(dtype) for _ in range(2))
        self.e, self.gge = ((scale * torch.randn(rows, q)).to(dtype) for _ in range(2))
        self.grad = torch.randn(rows, 2 * p + q).to(dtype)

    def tensors(self):
        return [self.h, self.e, self.grad, self.ggh, self.gge]

    def cast(self, dtype):
        other = object.__new__(type(self))
        other.__dict__ = {k: t.to(dtype) for k, t in self.__dict__.items()}
        return other

    def reference(self):
        rest = self.grad, self.h, self.e
        return [
            fan.reference_forward(self.h, self.e),
            *fan.reference_backward(*rest),
            *fan.reference_double_backward(self.ggh, self.gge, *rest),
        ]

    def run(self, threads=2):
        h, e, grad = self.h, self.e, self.grad
        y, dgrad, dh, dh2, de, de2 = (Guarded(t.shape, h.dtype) for t in (grad, grad, h, h, e, e))
        tail = [*h.shape, e.shape[1], DTYPES[h.dtype], CPU, threads, None]
        run("fan_forward", h, e, y, *tail)
        run("fan_backward", grad, h, e, dh, de, *tail)
        run("fan_double_backward", self.ggh, self.gge, grad, h, e, dgrad, dh2, de2, *tail)
        return [o.done() for o in (y, dh, de, dgrad, dh2, de2)]


# Many channels and few, wide ones and narrow, folded rows, channels wider than a block, odd sizes, one element.
SHAPES = [
    (5, 7, 1), (3, 4, 100), (64, 300, 1), (20, 6, 7), (1, 1, 5000), (2, 3, 70), (1, 1, 1), (300, 2, 1),
    (1, 40, 1), (2, 2, 17001), (700, 1, 3), (9, 130, 5), (2, 2100, 1),
]  # fmt: skip
ROWS = [(5, 7), (60, 257), (3, 3000), (1, 1), (40, 64), (2, 20001)]
SPLITS = [(5, 7, 3), (60, 64, 128), (2, 9000, 20000), (9, 0, 30), (9, 40, 0), (1, 1, 1)]


def problem(name, dtype, index=0):
    """One of the problems of an operation, in turn."""
    if name == "poly_norm":
        degree, scale = (3, 1, 3, 5)[index % 4], (2.0, 0.05, 30.0)[index % 3]
        return PolyNorm(ROWS[index % len(ROWS)], dtype, degree, scale)
    if name == "fan":
        return Fan(SPLITS[index % len(SPLITS)], dtype)
    count = (4, 2, 6, 1, 3)[index % 5] if name == "poly_relu" else None
    return Activation(name, SHAPES[index % len(SHAPES)], dtype, shared=index % 3 == 2, count=count)


def problems(name, dtype):
    number = {"poly_norm": 12, "fan": 6}.get(name, len(SHAPES))
    return [problem(name, dtype, i) for i in range(number)]
