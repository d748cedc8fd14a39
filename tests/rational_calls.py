"""Calls of the rational op through the C interface on a CPU, every output between guard bands."""

import numpy as np
import torch
from core_build import cpu_core
from rational_oracle import VERSIONS

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
GUARD = 64  # elements before and after each output that must keep their bits
CPU = -1


def compute(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


class Guarded:
    """An output between two guard bands; it starts as NaN, so what is not written shows."""

    def __init__(self, shape, dtype):
        self.all = torch.full((2 * GUARD + int(np.prod(shape)),), float("nan"), dtype=dtype)
        self.edges = [self.all[:GUARD], self.all[self.all.numel() - GUARD :]]
        for edge in self.edges:
            edge.fill_(7)
        self.tensor = self.all[GUARD : self.all.numel() - GUARD].view(shape)

    def done(self):
        assert all((edge == 7).all() for edge in self.edges), "wrote outside the output"
        return self.tensor


class GuardedBytes(Guarded):
    """A workspace: bytes that are not numbers when read as double."""

    def __init__(self, size):
        self.all = torch.full((size + 128,), -1, dtype=torch.int8)
        self.edges = [self.all[:64], self.all[size + 64 :]]
        for edge in self.edges:
            edge.fill_(7)
        self.tensor = self.all[64 : size + 64]


def run(name, *arguments):
    core = cpu_core()
    if getattr(core, "spectralops_" + name)(*arguments):
        raise ValueError(core.spectralops_last_error().decode())


class Call:
    """The arguments of one problem; stride 0 for coefficients shared by all groups."""

    def __init__(self, x, num, den, groups, version, grad=None, ggx=None, ggnum=None, ggden=None, **more):
        self.x, self.num, self.den, self.grad, self.ggx = x, num, den, grad, ggx
        self.ggnum, self.ggden, self.groups, self.version = ggnum, ggden, groups, version
        self.m, self.nb = num.shape[1] - 1, den.shape[1]
        self.n = self.nb - (version == "C")
        self.sign, self.threads = more.get("sign_at_zero", 0), more.get("threads", 2)
        self.shape = tuple(x.shape)

    def coefficients(self):
        return [
            v
            for c in (self.num, self.den)
            for v in (c.data_ptr(), c.stride(0) if c.shape[0] > 1 else 0)
        ]

    def sizes(self):
        return [*self.shape, self.groups, self.m, self.n, VERSIONS.index(self.version)]

    def tail(self):
        return [DTYPES[self.x.dtype], CPU, self.threads, None]

    def workspace(self):
        size = cpu_core().spectralops_rational_workspace(*self.sizes(), DTYPES[self.x.dtype], CPU)
        return GuardedBytes(size)

    def sums(self):
        c = compute(self.x.dtype)
        return Guarded((self.groups, self.m + 1), c), Guarded((self.groups, self.nb), c)

    def forward(self):
        y = Guarded(self.shape, self.x.dtype)
        x = [self.x.data_ptr(), self.x.stride(0)]
        run("rational_forward", *x, *self.coefficients(), y.tensor.data_ptr(), *self.sizes(), *self.tail())
        return y.done()

    def backward(self):
        work, dx, sums = self.workspace(), Guarded(self.shape, self.x.dtype), self.sums()
        inputs = [v for t in (self.grad, self.x) for v in (t.data_ptr(), t.stride(0))]
        out = [o.tensor.data_ptr() for o in (dx, *sums)]
        space = [work.tensor.data_ptr(), work.tensor.numel()]
        more = [*out, *space, *self.sizes(), self.sign, *self.tail()]
        run("rational_backward", *inputs, *self.coefficients(), *more)
        work.done()
        return dx.done(), *(s.done() for s in sums)

    def double_backward(self):
        work, sums = self.workspace(), self.sums()
        dgrad, dx = Guarded(self.shape, self.x.dtype), Guarded(self.shape, self.x.dtype)
        first = [self.ggx.data_ptr(), self.ggx.stride(0), self.ggnum.data_ptr(), self.ggden.data_ptr()]
        inputs = [v for t in (self.grad, self.x) for v in (t.data_ptr(), t.stride(0))]
        out = [o.tensor.data_ptr() for o in (dgrad, dx, *sums)]
        space = [work.tensor.data_ptr(), work.tensor.numel()]
        more = [*self.coefficients(), *out, *space, *self.sizes(), self.sign, *self.tail()]
        run("rational_double_backward", *first, *inputs, *more)
        work.done()
        return dgrad.done(), dx.done(), *(s.done() for s in sums)

    def all(self):
        return [self.forward(), *self.backward(), *self.double_backward()]


def strided(t, kind):
    """The same values, each row elsewhere: contiguous, with gaps, or at an odd offset."""
    if kind == 0:
        return t.contiguous()
    wide = torch.full((t.shape[0], t.shape[1] + 3), float("nan"), dtype=t.dtype)
    wide[:, kind : kind + t.shape[1]] = t
    return wide[:, kind : kind + t.shape[1]]


def problem(rows, dim, groups, m, n, version, dtype, shared=(False, False), stride=0, **more):
    c = compute(dtype)
    # |x| to 1.5 and a small grad, so that no result overflows float16.
    values = [scale * (2 * torch.rand(rows, dim) - 1) for scale in (1.5, 0.0625, 1.5)]
    x, grad, ggx = (strided(v.to(dtype), (stride + i) % 3) for i, v in enumerate(values))
    nb = n + (version == "C")
    num = torch.randn(1 if shared[0] else groups, m + 1, dtype=c)
    den = torch.randn(1 if shared[1] else groups, nb, dtype=c)
    ggnum, ggden = torch.randn(groups, m + 1, dtype=c), torch.randn(groups, nb, dtype=c)
    return Call(x, num, den, groups, version, grad, ggx, ggnum, ggden, **more)
