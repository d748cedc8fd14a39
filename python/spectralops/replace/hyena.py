"""safari and HyenaDNA: `HyenaOperator`, the recurrence of gates and long convolutions.

    [x_0, .., x_n, v] = short_filter(in_proj(u)),   v <- k_o * (x_{n-o} v) + D_o x_{n-o} v  for o = 0 .. n - 1,
    y = out_proj(act(x_0 v))

k and D from the child `filter_fn`: its method `filter` and its `bias`. safari's channel d n + o is that of order o, the
standalone module's o D + d; the two are told apart by safari's num_heads. `in_proj`, `short_filter`, `activation` and `out_proj`
are called as the modules they are, `filter_fn` itself is not. safari with several heads or blocks, outer mixing or a layer
between orders is left alone; so are its variants for other GPU kernels.
"""

from __future__ import annotations

from torch import Tensor, nn

from .conv_common import attributes, conv_plan, probe_rows, takes
from .matcher import Matcher, Plan, Refused, has_tensors, require, require_plain, untouched


def _by_order(t: Tensor, orders: int, interleaved: bool) -> Tensor:
    """(n D, ..) -> (n, D, ..)."""
    return t.unflatten(0, (-1, orders)).transpose(0, 1) if interleaved else t.unflatten(0, (orders, -1))


def _forward(original, interleaved: bool):
    from ..nn.hyena import hyena_recurrence

    def forward(self, u: Tensor, *args, **kwargs):
        d, filters, orders = self.d_model, self.filter_fn, self.order - 1
        if not takes(u, self.in_proj.weight, d, -1) or not untouched(filters):
            return original(self, u, *args, **kwargs)
        length = min(u.shape[1], self.l_max)
        uc = self.short_filter(self.in_proj(u).transpose(1, 2))[..., :length]
        *x, v = uc.split(d, 1)
        k = filters.filter(length)[0].T  # (n D, L)
        bias = filters.bias if getattr(filters, "use_bias", True) or not interleaved else 0 * filters.bias
        dropout = self.dropout if self.dropout.training and self.dropout.p else None
        k, bias = (_by_order(t, orders, interleaved) for t in (k, bias))
        y = hyena_recurrence(x, v, k, bias, dropout).transpose(1, 2)
        y = self.out_proj(self.activation(y) if "activation" in self._modules else y)
        return (y, None) if getattr(self, "return_state", False) else y

    return forward


class Hyena(Matcher):
    package = "safari"
    op = "fft_conv"
    classes = ("src.models.sequence.hyena.HyenaOperator",)
    names = ("HyenaOperator",)

    def resembles(self, module: nn.Module) -> bool:
        filters = getattr(module, "filter_fn", None)
        return has_tensors(filters, bias=1) and has_tensors(getattr(module, "short_filter", None), weight=3)

    def plan(self, module: nn.Module) -> Plan:
        children = {"in_proj": nn.Linear, "out_proj": nn.Linear, "short_filter": nn.Conv1d, "filter_fn": "HyenaFilter",
                    "dropout": nn.Dropout, "activation": nn.Module}  # fmt: skip
        require(module, {}, {}, children, ["activation"])
        known = {"num_heads": 1, "num_blocks": 1, "inner_factor": 1, "outer_mixing": False, "post_order_ffn": False,
                 "jit_filter": False}  # fmt: skip
        attributes(module, **known)
        attributes(module.filter_fn, use_flashfftconv=False, fused_fft_conv=False)
        require_plain(module.filter_fn, "filter_fn")
        d, order, longest = (getattr(module, name, None) for name in ("d_model", "order", "l_max"))
        if not all(isinstance(n, int) for n in (d, order, longest)) or not callable(getattr(module.filter_fn, "filter", None)):
            raise Refused("it has not the d_model, order and l_max of the published module, and a filter")
        if order < 2 or len(module.filter_fn.bias) != d * (order - 1) or module.in_proj.weight.shape != (d * (order + 1), d):
            raise Refused(f"its layers do not fit d_model = {d} and order = {order}")
        return conv_plan(
            _forward(type(module).forward, hasattr(module, "num_heads")),
            old=f"HyenaOperator({d}, order={order})",
            new=f"{order - 1} fft_conv",
            probe=probe_rows((2, min(longest, 128), d)),
            layout="blh",
            prepare=lambda copied: copied.dropout.eval(),
        )
