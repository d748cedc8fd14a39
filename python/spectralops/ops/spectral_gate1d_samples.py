"""modReLU's gate some samples at a time on a CPU, in memory that stays in the near caches, forward and backward:

    G = g F,  r = |G|,  m = relu(r + b) / (r + eps),  Y = m G
    q = Re(conj(G) dY),  on = [r + b > 0]
    dG = m dY + k G,  k = on (eps - b) / (r + eps)^2 q / r, 0 where r = 0
    dF = conj(g) dG,  dg = sum conj(F) dG over the channels of a head,  db = sum on q / (r + eps) likewise

|G| is the root of the sum of squares; samples where that is not finite take hypot. Shapes: F, Y (B, K, D, 2), g
(S, K, heads) or (S, K, heads, 2), b (K or 1, heads). Saved for backward: F, g and b. Second derivatives are those of
the composed formula.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

EPS = 1e-6  # of modReLU, as upstream
_NEAR = 65536  # modes and channels at a time: four buffers of them fit a second-level cache


def taken(*tensors: Tensor) -> bool:
    """Whether a call is of plain numbers on a CPU, that nothing traces or maps."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu" and t.numel() > 0 for t in tensors)


def _heads(t: Tensor, heads: int) -> Tensor:
    """(n, K, D, 2) -> complex (n, K, heads, d)."""
    return torch.view_as_complex(t).unflatten(2, (heads, -1))


class _Samples:
    """Buffers of n samples, and what is shared of forward and backward."""

    def __init__(self, spectrum: Tensor, gate: Tensor, bias: Tensor):
        self.spectrum, self.gate, self.bias = spectrum, gate.contiguous(), bias[..., None]
        self.heads = gate.shape[2]
        self.n = min(max(1, _NEAR // (spectrum.shape[1] * spectrum.shape[2])), spectrum.shape[0])
        shape = (self.n, spectrum.shape[1], self.heads, spectrum.shape[2] // self.heads)
        self.g = spectrum.new_empty(*shape, 2)
        self.pairs = torch.empty_like(self.g)
        self.r, self.m, self.s = (spectrum.new_empty(shape) for _ in range(3))

    def parts(self):
        """Slices of the samples; the buffers narrow for the last."""
        for b in range(0, self.spectrum.shape[0], self.n):
            left = min(self.n, self.spectrum.shape[0] - b)
            self.g, self.pairs, self.r, self.m, self.s = (t[:left] for t in (self.g, self.pairs, self.r, self.m, self.s))
            yield slice(b, b + left)

    def factor(self, part: slice) -> Tensor:
        """g of some samples (n or 1, K, heads, 1), real or complex."""
        gate = self.gate[part] if self.gate.shape[0] > 1 else self.gate
        return gate[..., None] if gate.dim() == 3 else torch.view_as_complex(gate)[..., None]

    def gated(self, part: slice) -> None:
        """G, r, s = r + eps, and m s = relu(r + b)."""
        factor, f = self.factor(part), self.spectrum[part]
        if factor.is_complex():
            torch.mul(_heads(f, self.heads), factor, out=torch.view_as_complex(self.g))
        else:
            torch.mul(f.unflatten(2, (self.heads, -1)).flatten(3), factor, out=self.g.flatten(3))
        self.dot(self.g, self.r)
        if not self.r.sqrt_().amax().isfinite():
            torch.hypot(self.g[..., 0], self.g[..., 1], out=self.r)
        torch.add(self.r, self.bias, out=self.m).relu_()
        torch.add(self.r, EPS, out=self.s)

    def dot(self, other: Tensor, out: Tensor) -> None:
        """Re(conj(G) other)."""
        torch.mul(self.g, other, out=self.pairs)
        torch.add(self.pairs[..., 0], self.pairs[..., 1], out=out)

    def scaled(self, a: Tensor, by: Tensor, out: Tensor) -> Tensor:
        """a by, complex times real."""
        pairs = torch.view_as_complex(self.pairs)
        return torch.mul(a, pairs.copy_(by), out=out)


class _Gated(Function):
    @staticmethod
    def forward(spectrum, gate, bias):
        y, samples = torch.empty_like(spectrum), _Samples(spectrum, gate, bias)
        for part in samples.parts():
            samples.gated(part)
            samples.scaled(torch.view_as_complex(samples.g), samples.m.div_(samples.s), _heads(y[part], samples.heads))
        return y

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled():  # the derivative of this again: of the composed form
            from .spectral_gate1d import composed

            wanted = [t for t, need in zip(tensors, needs) if need]
            with torch.enable_grad():
                found = iter(torch.autograd.grad(composed(*tensors), wanted, grad, create_graph=True))
            return tuple(next(found) if need else None for need in needs)
        return _backward(grad.contiguous(), *tensors, needs)


def _backward(grad, spectrum, gate, bias, needs):
    samples = _Samples(spectrum, gate, bias)
    dspectrum = torch.empty_like(spectrum) if needs[0] else None
    dgate = samples.gate.new_empty(spectrum.shape[0], *gate.shape[1:]) if needs[1] else None
    dbias = gate.new_empty(spectrum.shape[0], *gate.shape[1:3]) if needs[2] else None
    all_q, all_d = torch.empty_like(samples.r), torch.empty_like(samples.g)
    for part in samples.parts():
        samples.gated(part)
        q, d, complex_g = all_q[: len(samples.r)], all_d[: len(samples.r)], torch.view_as_complex(samples.g)
        samples.dot(grad[part].view_as(samples.g), q)
        q.div_(samples.s).masked_fill_(samples.m <= 0, 0)
        if needs[2]:
            torch.sum(q, -1, out=dbias[part])
        if not (needs[0] or needs[1]):
            continue
        dg, f, factor = torch.view_as_complex(d), _heads(spectrum[part], samples.heads), samples.factor(part)
        samples.scaled(_heads(grad[part], samples.heads), samples.m.div_(samples.s), dg)
        zero = samples.r == 0
        k = q.mul_(EPS - samples.bias).div_(samples.s).div_(samples.r.masked_fill_(zero, 1)).masked_fill_(zero, 0)
        dg += samples.scaled(complex_g, k, complex_g)
        if needs[1]:
            if factor.is_complex():
                torch.sum(torch.mul(f.conj_physical(), dg, out=complex_g), -1, out=torch.view_as_complex(dgate[part]))
            else:
                torch.mul(spectrum[part].view_as(d), d, out=samples.pairs)
                torch.sum(samples.pairs.flatten(3), -1, out=dgate[part])
        if needs[0]:
            torch.mul(dg, factor.conj_physical(), out=_heads(dspectrum[part], samples.heads))
    return dspectrum, _over(dgate, gate.shape), _over(dbias, bias.shape, gate.shape[1])


def _over(d: Tensor | None, shape, bins: int = 0) -> Tensor | None:
    """The sum over samples (and bins) that share what d is the derivative of."""
    if d is None:
        return None
    if bins:
        d = d.sum(0)
        return d if shape[0] == bins else d.sum(0, keepdim=True)
    return d if d.shape[0] == shape[0] else d.sum(0, keepdim=True)


_Gated.forward.__signature__ = inspect.signature(_Gated.forward)  # Function.apply inspects it on every call otherwise


def gated_samples(spectrum: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    return _Gated.apply(spectrum.contiguous(), gate, bias)
