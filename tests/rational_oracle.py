"""The rational activation in extended precision by its closed forms, term by term."""

import numpy as np
import torch

VERSIONS = ("A", "B", "C", "smooth")


def plain(x, num, den, version, groups):
    """The formula as a PyTorch user would write it, in the dtype of its arguments; twice differentiable."""
    shape = x.shape
    x = x.reshape(shape[0], groups, -1)
    a, b = num.expand(groups, -1), den.expand(groups, -1)

    def polynomial(c, z):
        value = c[:, -1:]
        for i in range(c.shape[1] - 2, -1, -1):
            value = value * z + c[:, i : i + 1]
        return value + 0 * z

    zero = torch.zeros_like(a[:, :1])
    p = polynomial(a, x)
    if version == "A":
        q = 1 + polynomial(torch.cat([zero, b.abs()], 1), x.abs())
    elif version == "C":
        q = 0.1 + polynomial(b, x).abs()
    else:
        t = polynomial(torch.cat([zero, b], 1), x)
        q = 1 + (t.abs() if version == "B" else t * t)
    return (p / q).reshape(shape)


def _sum(c, z, derivative=0):
    """sum_i c_i (d/dz)^derivative z^i, with c (groups, 1, terms) and z (rows, groups, width)."""
    total = np.zeros_like(z)
    for i in range(derivative, c.shape[-1]):
        factor = np.prod(np.arange(i - derivative + 1, i + 1, dtype=z.dtype))
        total = total + c[..., i] * factor * z ** (i - derivative)
    return total


class Oracle:
    """y, the gradients and the second-order gradients of one call, in numpy.longdouble (or `real`)."""

    def __init__(self, x, num, den, version, groups, sign_at_zero=0, real=np.longdouble):
        def wide(t):
            return t.detach().to(torch.float64).numpy().astype(real)

        self.wide, self.version, self.groups, self.zero = wide, version, groups, real(sign_at_zero)
        self.shape = x.shape
        self.x = wide(x).reshape(x.shape[0], groups, -1)
        self.a = wide(num.expand(groups, -1))[:, None, :]
        self.first = 0 if version == "C" else 1
        b = wide(den.expand(groups, -1))
        self.sb = self._sgn(b) if version == "A" else np.ones_like(b)
        self.b = self._full(b * self.sb if version == "A" else b)
        self.sx = self._sgn(self.x) if version == "A" else np.ones_like(self.x)
        self.z = np.abs(self.x) if version == "A" else self.x
        self.p, self.p1, self.p2 = (_sum(self.a, self.x, k) for k in range(3))
        t, t1, t2 = (_sum(self.b, self.z, k) for k in range(3))
        self.t, self.tx, self.txx = t, self.sx * t1, self.sx * self.sx * t2
        self.sigma = {"A": np.ones_like(t), "B": self._sgn(t), "C": self._sgn(t), "smooth": 2 * t}[version]
        tenth = real(np.float32(0.1)) if den.dtype == torch.float32 else real(0.1)
        self.q = {"A": 1 + t, "B": 1 + np.abs(t), "C": tenth + np.abs(t), "smooth": 1 + t * t}[version]
        self.f = self.p / self.q

    def _sgn(self, v):
        return np.where(v > 0, 1, np.where(v < 0, -1, self.zero)).astype(v.dtype)

    def _full(self, b):
        return (np.concatenate([np.zeros_like(b[:, :1]), b], 1) if self.first else b)[:, None, :]

    def _terms(self, z, count, derivative=0):
        """z^i, or i z^{i-1}, for i < count on a new last axis."""
        if not derivative:
            return np.stack([z**i for i in range(count)], -1)
        return np.stack([np.zeros_like(z)] + [i * z ** (i - 1) for i in range(1, count)], -1)

    def forward(self):
        return self.f.reshape(self.shape)

    def backward(self, grad):
        g = self.wide(grad).reshape(self.x.shape)[..., None]
        q1 = self.sigma * self.tx
        dx = g[..., 0] * (self.p1 - self.f * q1) / self.q
        dnum = (g * self._terms(self.x, self.a.shape[-1]) / self.q[..., None]).sum((0, 2))
        z = self._terms(self.z, self.b.shape[-1])[..., self.first :]
        dden = (-g * (self.f / self.q * self.sigma)[..., None] * z).sum((0, 2)) * self.sb
        return dx.reshape(self.shape), dnum, dden

    def double_backward(self, ggx, ggnum, ggden, grad):
        shape, m1, nb = self.x.shape, self.a.shape[-1], self.b.shape[-1]
        g, xd = self.wide(grad).reshape(shape), self.wide(ggx).reshape(shape)
        ad, bd = self.wide(ggnum)[:, None, :], self._full(self.wide(ggden) * self.sb)
        pd = self.p1 * xd + _sum(ad, self.x)
        p1d = self.p2 * xd + _sum(ad, self.x, 1)
        td = self.tx * xd + _sum(bd, self.z)
        txd = self.txx * xd + self.sx * _sum(bd, self.z, 1)
        smooth = self.version == "smooth"
        q1, qd = self.sigma * self.tx, self.sigma * td
        q1d = self.sigma * txd + (2 * td * self.tx if smooth else 0)
        fd = (pd - self.f * qd) / self.q
        dx = g * ((p1d - fd * q1 - self.f * q1d) / self.q - (self.p1 - self.f * q1) * qd / self.q**2)
        h, r = (g / self.q)[..., None], (qd / self.q)[..., None]
        xd = xd[..., None]
        dnum = (h * (self._terms(self.x, m1, 1) * xd - self._terms(self.x, m1) * r)).sum((0, 2))
        z, z1 = self._terms(self.z, nb), self._terms(self.z, nb, 1) * self.sx[..., None]
        sigma, f = self.sigma[..., None], self.f[..., None]
        along = sigma * z1 * xd + (2 * td[..., None] * z if smooth else 0)
        dden = (h * (-(fd[..., None] - f * r) * sigma * z - f * along)).sum((0, 2))[:, self.first :] * self.sb
        return fd.reshape(self.shape), dx.reshape(self.shape), dnum, dden
