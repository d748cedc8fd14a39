"""modReLU's gate one sample after another on a CPU, in memory that stays in the near caches, forward and backward:

    G = g F,  r = |G|,  m = relu(r + b) / (r + eps),  Y = m G
    q = Re(conj(G) dY),  on = [r + b > 0]
    dG = m dY + k G,  k = on (eps - b) / (r + eps)^2 q / r, 0 where r = 0
    dF = conj(g) dG,  dg = sum conj(F) dG over the channels of a head,  db = sum on q / (r + eps) likewise

|G| is the root of the sum of squares; a sample where that is not finite takes hypot. Shapes: F, Y (B, K, D, 2), g
(S, K, heads) or (S, K, heads, 2), b (K or 1, heads). Saved for backward: F, g and b. Second derivatives are those of
the composed formula.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.autograd import Function

EPS = 1e-6  # of modReLU, as upstream


def taken(*tensors: Tensor) -> bool:
    """Whether a call is of plain numbers on a CPU, that nothing traces or maps."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu" and t.numel() > 0 for t in tensors)


def _heads(t: Tensor, heads: int) -> Tensor:
    """(K, D, 2) -> complex (K, heads, d)."""
    return torch.view_as_complex(t).unflatten(1, (heads, -1))


class _Sample:
    """Buffers of one sample, and what is shared of forward and backward."""

    def __init__(self, spectrum: Tensor, gate: Tensor, bias: Tensor):
        self.spectrum, self.gate, self.bias = spectrum, gate.contiguous(), bias[..., None]
        self.heads = gate.shape[2]
        shape = (spectrum.shape[1], self.heads, spectrum.shape[2] // self.heads)
        self.g = spectrum.new_empty(*shape, 2)
        self.pairs = torch.empty_like(self.g)
        self.r, self.m, self.s = (spectrum.new_empty(shape) for _ in range(3))

    def factor(self, b: int) -> Tensor:
        """g of sample b (K, heads, 1), real or complex."""
        gate = self.gate[b if self.gate.shape[0] > 1 else 0]
        return gate[..., None] if gate.dim() == 2 else torch.view_as_complex(gate)[..., None]

    def gated(self, b: int) -> None:
        """G, r, s = r + eps, and m (where not yet divided by s, relu(r + b))."""
        factor, f = self.factor(b), self.spectrum[b]
        if factor.is_complex():
            torch.mul(_heads(f, self.heads), factor, out=torch.view_as_complex(self.g))
        else:
            torch.mul(f.unflatten(1, (self.heads, -1)).flatten(2), factor, out=self.g.flatten(2))
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
        y, sample = torch.empty_like(spectrum), _Sample(spectrum, gate, bias)
        for b in range(spectrum.shape[0]):
            sample.gated(b)
            sample.scaled(torch.view_as_complex(sample.g), sample.m.div_(sample.s), _heads(y[b], sample.heads))
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
    sample = _Sample(spectrum, gate, bias)
    dspectrum = torch.empty_like(spectrum) if needs[0] else None
    dgate = sample.gate.new_empty(spectrum.shape[0], *gate.shape[1:]) if needs[1] else None
    dbias = gate.new_empty(spectrum.shape[0], *gate.shape[1:3]) if needs[2] else None
    q, d, complex_g = torch.empty_like(sample.r), torch.empty_like(sample.g), torch.view_as_complex(sample.g)
    for b in range(spectrum.shape[0]):
        sample.gated(b)
        sample.dot(grad[b].view_as(sample.g), q)
        q.div_(sample.s).masked_fill_(sample.m <= 0, 0)
        if needs[2]:
            torch.sum(q, -1, out=dbias[b])
        if not (needs[0] or needs[1]):
            continue
        dg, f, factor = torch.view_as_complex(d), _heads(spectrum[b], sample.heads), sample.factor(b)
        sample.scaled(_heads(grad[b], sample.heads), sample.m.div_(sample.s), dg)
        zero = sample.r == 0
        k = q.mul_(EPS - sample.bias).div_(sample.s).div_(sample.r.masked_fill_(zero, 1)).masked_fill_(zero, 0)
        dg += sample.scaled(complex_g, k, complex_g)
        if needs[1]:
            if factor.is_complex():
                torch.sum(torch.mul(f.conj_physical(), dg, out=complex_g), -1, out=torch.view_as_complex(dgate[b]))
            else:
                torch.mul(spectrum[b].view_as(d), d, out=sample.pairs)
                torch.sum(sample.pairs.flatten(2), -1, out=dgate[b])
        if needs[0]:
            torch.mul(dg, factor.conj_physical(), out=_heads(dspectrum[b], sample.heads))
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
