// What both passes of fft_conv share: where an item's rows lie, its windows, staging them, and the spectra of
// its kernels.
#pragma once

#include "cpu/fft_conv_passes.h"
#include "cpu/fft_conv_points.h"
#include "cpu/parallel.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {

// One window of an item: v_i = v[from + i], of which [begin, end) lie within the row; results i in [low, low
// + count) are those of the times time + (i - low), and stand beside v_(i - lag).
struct Window {
  i64 from, begin, end, low, count, time, lag;
};

template <typename T> struct Rows {
  using C = compute_t<T>;
  static constexpr int W = lanes<C>;
  const spectralops_fft_conv_call& c;
  const ConvPlan& p;
  const FftRoots& roots;
  const ConvSlot slot;
  char* const workspace;
  C* own;  // this thread's scratch

  // the task
  i64 sample, super, part, first_item, last_item, first_channel, end_channel;
  // the item
  i64 row, batch, start, length, channel, width;

  Rows(const ConvJob& job, bool backward, int index)
      : c(*job.call), p(*job.plan), roots(*job.roots), slot(conv_slot(*job.plan, job.call->filters, backward)),
        workspace(job.workspace), own(reinterpret_cast<C*>(job.workspace + job.plan->slots + index * job.plan->slot_bytes)) {}

  i64 per_group() const { return c.channels / c.groups; }
  i64 group(i64 h) const { return h / per_group(); }
  C* at(i64 offset) const { return own + offset; }
  C* shared_at(i64 bytes) const { return reinterpret_cast<C*>(workspace + bytes); }

  void open_task(i64 task) {
    part = task % p.parts;
    super = task / p.parts % p.supers;
    sample = task / p.parts / p.supers;
    first_item = p.items * part / p.parts, last_item = p.items * (part + 1) / p.parts;
    const i64 channels = p.units > 1 ? per_group() : p.kernels * per_group();
    first_channel = super * channels;
    end_channel = least(c.channels, first_channel + channels);
  }
  void open_item(i64 item) {
    row = c.samples > 1 ? sample : item / p.units;
    const i64 unit = item % p.units;
    channel = first_channel + unit * p.unit;
    width = least(p.unit, end_channel - channel);
    batch = c.cu_seqlens ? 0 : row;
    start = c.cu_seqlens ? c.cu_seqlens[row] : 0;
    length = c.cu_seqlens ? c.cu_seqlens[row + 1] - start : c.length;
  }

  i64 windows() const { return p.tiled ? (length + p.step - 1) / p.step : length > 0; }
  Window window(i64 w) const {
    if (!p.tiled) return {0, 0, length, 0, length, 0, 0};
    const i64 from = w * p.step + c.lag0 - p.low, end = length - from;
    return {from, from < 0 ? -from : 0, least(end < 0 ? 0 : end, 2 * p.n), p.low, least(p.step, length - w * p.step), w * p.step, c.lag0};
  }

  // Channel h (of the item), time t of a tensor.
  template <typename P> P* place(P* base, i64 by_batch, i64 by_channel, i64 by_time, i64 h, i64 t) const {
    return base ? base + batch * by_batch + (channel + h) * by_channel + (start + t) * by_time : nullptr;
  }
  const T* u(i64 h, i64 t) const { return place(static_cast<const T*>(c.u), c.u_batch, c.u_channel, c.u_time, h, t); }
  const T* gate_in(i64 h, i64 t) const {
    return place(static_cast<const T*>(c.gate_in), c.gate_in_batch, c.gate_in_channel, c.gate_in_time, h, t);
  }
  const T* gate_out(i64 f, i64 h, i64 t) const {
    return place(static_cast<const T*>(c.gate_out) + (c.gate_out ? f * c.gate_out_filter : 0), c.gate_out_batch,
                 c.gate_out_channel, c.gate_out_time, h, t);
  }
  const T* grad(i64 f, i64 h, i64 t) const {
    return place(static_cast<const T*>(c.grad) + f * c.grad_filter, c.grad_batch, c.grad_channel, c.grad_time, h, t);
  }
  template <typename P> P* like_y(P* base, i64 f, i64 h, i64 t) const {
    return place(base ? base + f * c.y_filter : base, c.y_batch, c.y_channel, c.y_time, h, t);
  }
  template <typename P> P* like_u(P* base, i64 h, i64 t) const {
    return place(base, c.du_batch, c.du_channel, c.du_time, h, t);
  }

  C skip(i64 f, i64 h) const { return c.skip ? static_cast<const C*>(c.skip)[f * c.channels + channel + h] : C(0); }
  C mask(i64 h) const { return c.mask ? static_cast<const C*>(c.mask)[row * c.channels + channel + h] : C(1); }

  // v of the whole unit for a window, zero outside the row.
  void stage(const Window& w) {
    C* const v = at(slot.v);
    const i64 count = w.end > w.begin ? w.end - w.begin : 0;
    for (i64 h = 0; h < width; ++h) {
      C* const to = v + h * p.span;
      fill(to, w.begin, C(0));
      if (p.direct && count) product<C, T>(u(h, w.from + w.begin), gate_in(h, w.from + w.begin), count, to + w.begin);
    }
    if (!p.direct && count) {
      C* const gate = at(slot.first);
      gather<C>(u(0, w.from + w.begin), c.u_channel, c.u_time, width, count, v + w.begin, p.span);
      if (c.gate_in) {
        gather<C>(gate_in(0, w.from + w.begin), c.gate_in_channel, c.gate_in_time, width, count, gate, p.span);
        for (i64 h = 0; h < width; ++h)
          product<C, C>(v + h * p.span + w.begin, gate + h * p.span, count, v + h * p.span + w.begin);
      }
    }
    for (i64 h = 0; h < width; ++h) {
      C* const to = v + h * p.span;
      fill(to + w.begin + count, (p.real ? p.n : 2 * p.n) - w.begin - count, C(0));
      if (odd[h] || !(p.tiled || all_finite(to, length))) fill(to, p.real ? p.n : 2 * p.n, C(__builtin_nan("")));
    }
  }
  // Marks the channels of the unit that have NaN or infinity in this row, whose windows do not see each other.
  void find_odd() {
    for (i64 h = 0; h < width; ++h) odd[h] = false;
    for (i64 i = 0; p.tiled && i < windows(); ++i) {
      stage(window(i));
      for (i64 h = 0; h < width; ++h) odd[h] |= !all_finite(at(slot.v) + h * p.span, p.real ? p.n : 2 * p.n);
    }
  }

  // ---- kernels ----
  bool kernel_real() const { return !c.grid && (p.tiled || c.lag0 == 0) && c.size <= p.n; }
  i64 kernel_index(i64 s, i64 f, i64 g) const { return (s * c.filters + f) * c.groups + g; }
  Line<C> line() const { return {at(slot.work), at(slot.work) + p.pitch + kSkew, nullptr, nullptr, nullptr, nullptr, C(1)}; }
  C* result() const { return p.real ? at(slot.work) : at(slot.out); }

  // The spectrum of kernel (s, f, g) over n.  Uses v and work.
  void kernel_spectrum(i64 s, i64 f, i64 g, C* out) {
    const C scale = C(1) / C(p.n);
    if (c.grid) {
      const C* q = static_cast<const C*>(c.kernel) + kernel_index(s, f, g) * 2 * c.grid;
      return each_bin([&](i64 place, i64 bin) { out[place] = q[2 * bin] * scale, out[place + W] = q[2 * bin + 1] * scale; });
    }
    const C* taps = static_cast<const C*>(c.kernel) + kernel_index(s, f, g) * c.size;
    const i64 before = p.tiled ? 0 : c.lag0, after = c.size - before, whole = kernel_real() ? p.n : 2 * p.n;
    C* const h = at(slot.v);
    for (i64 j = 0; j < after; ++j) h[j] = taps[before + j];
    fill(h + after, whole - before - after, C(0));
    for (i64 j = 0; j < before; ++j) h[whole - before + j] = -taps[j];
    if (!(all_finite(h, after) && all_finite(h + whole - before, before))) fill(h, whole, C(__builtin_nan("")));
    Line<C> l = line();
    l.keep = out, l.scale = scale;
    transform<kFromTime | kKeep>(roots, l, kernel_real(), h, l.re);
  }
  // f(place in a spectrum, frequency)
  template <typename F> void each_bin(F f) const {
    const i64 vectors = p.n / W;
    for (i64 g = 0; g < vectors; ++g)
      for (i64 k = 0; k < W; ++k) f((g / W * W + k) * 2 * W + g % W, roots.bin[g] + k * vectors);
  }
  // Those of the task's kernels; kernel (f, g) of the task is at out + (f kernels + g) 2 pitch.
  void task_spectra() {
    if (p.shared) return;
    for (i64 f = 0; f < c.filters; ++f)
      for (i64 g = group(first_channel); g <= group(end_channel - 1); ++g)
        kernel_spectrum(sample, f, g, at(slot.kernels) + (f * p.kernels + g - group(first_channel)) * 2 * p.pitch);
  }
  i64 task_kernel(i64 f, i64 h) const { return f * p.kernels + group(channel + h) - group(first_channel); }
  const C* spectrum(i64 f, i64 h) const {
    if (p.shared) return shared_at(p.spectra) + kernel_index(sample, f, group(channel + h)) * 2 * p.pitch;
    return at(slot.kernels) + task_kernel(f, h) * 2 * p.pitch;
  }

  bool odd[kMostUnit];
};

// All kernels' spectra, where tasks share them.
template <typename T> static void shared_spectra(const ConvJob& job, bool backward) {
  const spectralops_fft_conv_call& c = *job.call;
  if (!job.plan->shared || !c.kernel) return;
  parallel_for(job.plan->threads, c.samples * c.filters * c.groups, [&](i64 i, int index) {
    Rows<T> rows(job, backward, index);
    rows.kernel_spectrum(i / c.groups / c.filters, i / c.groups % c.filters, i % c.groups,
                         rows.shared_at(job.plan->spectra) + i * 2 * job.plan->pitch);
  });
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops
