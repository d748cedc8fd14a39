// fft_conv backward for one instruction set: everything is made again from u, the kernel and the gates. The
// spectra of a row's v and of its dc serve dk (their product, summed over the rows) and du alike; where
// several filters meet, du sums over them in the spectrum.
#include "cpu/fft_conv_rows.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename T> struct Backward : Rows<T> {
  using Base = Rows<T>;
  using C = typename Base::C;
  using Base::at, Base::c, Base::p, Base::roots, Base::slot, Base::width;

  const bool again, inputs, sums;  // conv(v) is needed; so is dv; dskip or dmask is wanted
  const bool at_once;              // dv is finished as soon as it is there

  Backward(const ConvJob& job, int index)
      : Base(job, true, index),
        again(c.activation != SPECTRALOPS_IDENTITY || c.dgate_out || c.dmask),
        inputs(c.du || c.dgate_in),
        sums(c.dskip || c.dmask),
        at_once(p.row_span == 0) {}

  C* spectrum_of_v(i64 h) const { return at(slot.spectra) + h * 2 * p.pitch; }
  // The spectrum of dk is summed, filter f and kernel `kernel` of the task, over at most kChain rows and windows as it comes and
  // over all such chains in double, so that the error does not grow with their number; then a part's sum is kept.
  static constexpr i64 kChain = 32;
  i64 place_of(i64 f, i64 kernel) const { return (f * p.kernels + kernel) * 2 * p.pitch; }
  C* kernel_sum(i64 f, i64 kernel) const { return at(slot.sums) + place_of(f, kernel); }
  double* chain_sum(i64 f, i64 kernel) const { return reinterpret_cast<double*>(at(slot.chains)) + place_of(f, kernel); }
  C* part_sum(i64 f, i64 kernel, i64 part) const {
    const i64 task = (this->sample * p.supers + this->super) * p.parts + part;
    return this->shared_at(p.partials) + task * p.kernels * c.filters * 2 * p.pitch + place_of(f, kernel);
  }

  void end_chain() {
    for (i64 f = 0; f < c.filters; ++f)
      for (i64 k = 0; k < task_kernels(); ++k) {
        C* const sum = kernel_sum(f, k);
        double* const total = chain_sum(f, k);
        for (i64 i = 0; i < 2 * p.pitch; ++i) total[i] = (chained ? total[i] : 0.0) + double(sum[i]), sum[i] = C(0);
      }
    chained = true;
    links = 0;
  }

  void keep_part() {
    if (chained) end_chain();
    for (i64 f = 0; f < c.filters; ++f)
      for (i64 k = 0; k < task_kernels(); ++k) {
        C* const sum = kernel_sum(f, k);
        const double* const total = chain_sum(f, k);
        for (i64 i = 0; chained && i < 2 * p.pitch; ++i) sum[i] = C(total[i]);
        if (p.parts > 1) __builtin_memcpy(part_sum(f, k, this->part), sum, 2 * p.pitch * sizeof(C));
      }
  }

  // c, from v's spectrum, which the first filter leaves there.
  const C* convolve(i64 f, i64 h) const {
    Line<C> line = this->line();
    line.kernel = this->spectrum(f, h);
    line.source = line.keep = spectrum_of_v(h);
    C* const out = this->result();
    const C* const v = at(slot.v) + h * p.span;
    if (f == 0) transform<kFromTime | kKeep | kTimes | kToTime>(roots, line, p.real, v, out);
    else transform<kTimes | kToTime>(roots, line, p.real, v, out);
    return out;
  }

  template <bool Sums, typename S> void choose_slope(Slope<C, S>& job) const {
    if (!again) slope<SPECTRALOPS_IDENTITY, false, Sums>(job);
    else if (c.activation == SPECTRALOPS_SILU) slope<SPECTRALOPS_SILU, true, Sums>(job);
    else if (c.activation == SPECTRALOPS_GELU) slope<SPECTRALOPS_GELU, true, Sums>(job);
    else slope<SPECTRALOPS_IDENTITY, true, Sums>(job);
  }

  // d = dc of (f, h) in the window, zero outside it.
  template <typename S> void pointwise(const Window& w, i64 f, i64 h, const S* grad, const S* gate, S* dgate) {
    C* const d = at(slot.grad);
    const C* const result = again ? convolve(f, h) + w.low : nullptr;
    Slope<C, S> job = {result, at(slot.v) + h * p.span + w.low - w.lag, this->skip(f, h), this->mask(h), grad, gate,
                       dgate, d + w.low, w.count, 0, 0};
    if (sums && c.u) choose_slope<true>(job);
    else choose_slope<false>(job);
    fill(d, w.low, C(0));
    fill(d + w.low + w.count, (p.real ? p.n : 2 * p.n) - w.low - w.count, C(0));
    const i64 channel = this->channel + h;
    if (c.dskip) skip_sums()[(this->row * c.filters + f) * c.channels + channel] += job.dskip;
    dmask[h] += job.dmask;
    if (all_finite(d + w.low, w.count)) return;
    fill(d, p.real ? p.n : 2 * p.n, C(__builtin_nan("")));
    odd_d[h] = true;
  }

  // dk and dv of one filter and channel, from d.
  void products(const Window& w, i64 f, i64 h) {
    const C* const d = at(slot.grad);
    Line<C> line = this->line();
    line.source = spectrum_of_v(h);
    line.kernel = c.kernel ? this->spectrum(f, h) : nullptr;
    line.sum = kernel_sum(f, this->group(this->channel + h) - this->group(this->first_channel));
    line.keep = at(slot.total) + h * 2 * p.pitch;
    C* const out = this->result();
    if (inputs && c.filters == 1) {
      if (c.dkernel) transform<kFromTime | kGradient | kTimesConj | kToTime>(roots, line, p.real, d, out);
      else transform<kFromTime | kTimesConj | kToTime>(roots, line, p.real, d, out);
      collect(w, h, out);
    } else if (inputs) {
      if (c.dkernel) transform<kFromTime | kGradient | kTimesConj | kAdd>(roots, line, p.real, d, out);
      else transform<kFromTime | kTimesConj | kAdd>(roots, line, p.real, d, out);
    } else if (c.dkernel) {
      transform<kFromTime | kGradient>(roots, line, p.real, d, out);
    }
    if (inputs && !at_once && c.skip)
      add_scaled(d + w.low, this->skip(f, h), w.count, at(slot.dv) + h * p.row_span + w.time);
  }

  // dv of a window: its row's gradients, or a part of the row.
  void collect(const Window& w, i64 h, const C* dv) const {
    if (at_once) {
      T* const du = this->like_u(static_cast<T*>(c.du), h, 0);
      T* const dgate = this->like_u(static_cast<T*>(c.dgate_in), h, 0);
      const C* const d = c.skip ? at(slot.grad) : nullptr;
      finish<C, T>(dv, d, this->skip(0, h), this->u(h, 0), this->gate_in(h, 0), du, dgate, w.count);
    } else {
      add_scaled(dv + w.begin, C(1), w.end - w.begin, at(slot.dv) + h * p.row_span + w.from + w.begin);
    }
  }

  void run_window(const Window& w) {
    if (c.dkernel && !again)
      for (i64 h = 0; h < width; ++h) {
        Line<C> line = this->line();
        line.keep = spectrum_of_v(h);
        transform<kFromTime | kKeep>(roots, line, p.real, at(slot.v) + h * p.span, line.re);
      }
    if (c.filters > 1 && inputs) fill(at(slot.total), width * 2 * p.pitch, C(0));
    C* const grad = at(slot.first);
    C* const gate = at(slot.second);
    T* const dgate = static_cast<T*>(c.dgate_out);
    for (i64 f = 0; f < c.filters; ++f) {
      if (!p.direct) {
        gather<C>(this->grad(f, 0, w.time), c.grad_channel, c.grad_time, width, w.count, grad, p.span);
        if (c.gate_out)
          gather<C>(this->gate_out(f, 0, w.time), c.gate_out_channel, c.gate_out_time, width, w.count, gate, p.span);
      }
      for (i64 h = 0; h < width; ++h) {
        if (p.direct) {
          pointwise<T>(w, f, h, this->grad(f, h, w.time), this->gate_out(f, h, w.time), this->like_y(dgate, f, h, w.time));
        } else {
          C* const g = gate + h * p.span;
          pointwise<C>(w, f, h, grad + h * p.span, c.gate_out ? g : nullptr, dgate ? g : nullptr);
        }
        products(w, f, h);
      }
      if (!p.direct && dgate) scatter<C>(gate, p.span, this->like_y(dgate, f, 0, w.time), c.y_channel, c.y_time, width, w.count);
    }
    for (i64 h = 0; c.filters > 1 && inputs && h < width; ++h) {
      Line<C> line = this->line();
      line.source = at(slot.total) + h * 2 * p.pitch;
      C* const out = this->result();
      transform<kToTime>(roots, line, p.real, out, out);
      collect(w, h, out);
    }
  }

  // The gradients of a whole row put together in dv.
  void finish_row() {
    T* const du = static_cast<T*>(c.du);
    T* const dgate = static_cast<T*>(c.dgate_in);
    const i64 most = p.real ? p.n : 2 * p.n;
    for (i64 h = 0; h < width; ++h)
      if (odd_d[h]) fill(at(slot.dv) + h * p.row_span, this->length, C(__builtin_nan("")));
    for (i64 t = 0; t < this->length; t += most) {
      const i64 count = least(most, this->length - t);
      C* const u = at(slot.first);
      C* const gate = at(slot.second);
      if (!p.direct) {
        if (dgate) gather<C>(this->u(0, t), c.u_channel, c.u_time, width, count, u, p.span);
        if (c.gate_in) gather<C>(this->gate_in(0, t), c.gate_in_channel, c.gate_in_time, width, count, gate, p.span);
      }
      for (i64 h = 0; h < width; ++h) {
        const C* const dv = at(slot.dv) + h * p.row_span + t;
        if (p.direct) {
          finish<C, T>(dv, nullptr, C(0), this->u(h, t), this->gate_in(h, t), this->like_u(du, h, t),
                       this->like_u(dgate, h, t), count);
        } else {
          C *const a = u + h * p.span, *const b = gate + h * p.span;
          finish<C, C>(dv, nullptr, C(0), a, c.gate_in ? b : nullptr, du ? a : nullptr, dgate ? b : nullptr, count);
        }
      }
      if (p.direct) continue;
      if (du) scatter<C>(u, p.span, this->like_u(du, 0, t), c.du_channel, c.du_time, width, count);
      if (dgate) scatter<C>(gate, p.span, this->like_u(dgate, 0, t), c.du_channel, c.du_time, width, count);
    }
  }

  void run_item(i64 item) {
    this->open_item(item);
    for (i64 h = 0; h < width; ++h) {
      const i64 channel = this->channel + h;
      for (i64 f = 0; f < c.filters && c.dskip; ++f)
        skip_sums()[(this->row * c.filters + f) * c.channels + channel] = 0;
      dmask[h] = 0;
      if (!at_once && inputs) fill(at(slot.dv) + h * p.row_span, this->length, C(0));
    }
    for (i64 h = 0; h < width; ++h) odd_d[h] = false;
    if (c.u) this->find_odd();
    for (i64 i = 0; i < this->windows(); ++i) {
      const Window w = this->window(i);
      if (c.u) this->stage(w);
      run_window(w);
      links += width;
      if (c.dkernel && links + width > kChain) end_chain();
    }
    if (inputs && !at_once) finish_row();
    for (i64 h = 0; h < width && c.dmask; ++h)
      static_cast<C*>(c.dmask)[this->row * c.channels + this->channel + h] = C(dmask[h]);
  }

  i64 task_kernels() const { return this->group(this->end_channel - 1) - this->group(this->first_channel) + 1; }

  void run(i64 task) {
    this->open_task(task);
    if (c.kernel) this->task_spectra();
    for (i64 f = 0; f < c.filters && c.dkernel; ++f) fill(kernel_sum(f, 0), task_kernels() * 2 * p.pitch, C(0));
    links = 0, chained = false;
    for (i64 item = this->first_item; item < this->last_item; ++item) run_item(item);
    if (c.dkernel) keep_part();
    for (i64 f = 0; f < c.filters && c.dkernel && p.parts == 1; ++f)
      for (i64 k = 0; k < task_kernels(); ++k) write_kernel(f, k);
  }

  // dk from its spectrum.
  void write_kernel(i64 f, i64 kernel) const {
    const i64 index = this->kernel_index(this->sample, f, this->group(this->first_channel) + kernel);
    const C* const sum = p.parts == 1 ? kernel_sum(f, kernel) : part_sum(f, kernel, 0);
    const C scale = C(1) / C(p.n);
    if (c.grid) {
      C* const q = static_cast<C*>(c.dkernel) + index * 2 * c.grid;
      this->each_bin([&](i64 place, i64 bin) { q[2 * bin] = sum[place] * scale, q[2 * bin + 1] = sum[place + Base::W] * scale; });
      return;
    }
    const bool real = this->kernel_real();
    C* const out = real ? at(slot.work) : at(slot.out);
    Line<C> line = this->line();
    line.source = sum;
    transform<kToTime>(roots, line, real, out, out);
    C* const taps = static_cast<C*>(c.dkernel) + index * c.size;
    const i64 before = p.tiled ? 0 : c.lag0;
    for (i64 j = 0; j < before; ++j) taps[j] = -out[2 * p.n - before + j] * scale;
    for (i64 j = before; j < c.size; ++j) taps[j] = out[j - before] * scale;
  }

  // Filter f of kernel `kernel` of a super: its parts summed in order, then dk.
  void join_parts(i64 task, i64 f, i64 kernel) {
    this->open_task(task * p.parts);
    if (kernel >= task_kernels()) return;
    C* const sum = part_sum(f, kernel, 0);
    for (i64 part = 1; part < p.parts; ++part) add_scaled(part_sum(f, kernel, part), C(1), 2 * p.pitch, sum);
    write_kernel(f, kernel);
  }

  double* skip_sums() const { return reinterpret_cast<double*>(this->workspace + p.skips); }  // [row][filter][channel]

  i64 links;     // of the chain at hand, at most
  bool chained;  // a chain has ended
  double dmask[kMostUnit];
  bool odd_d[kMostUnit];
};

template <typename T> void backward(const ConvJob& job) {
  using C = compute_t<T>;
  const spectralops_fft_conv_call& c = *job.call;
  const ConvPlan& p = *job.plan;
  shared_spectra<T>(job, true);
  parallel_for(p.threads, p.tasks, [&](i64 task, int index) { Backward<T>(job, index).run(task); });
  if (c.dkernel && p.parts > 1)
    parallel_for(p.threads, p.tasks / p.parts * c.filters * p.kernels, [&](i64 i, int index) {
      Backward<T>(job, index).join_parts(i / p.kernels / c.filters, i / p.kernels % c.filters, i % p.kernels);
    });
  if (!c.dskip) return;
  const i64 count = c.filters * c.channels;
  const double* const each = reinterpret_cast<const double*>(job.workspace + p.skips);
  for (i64 i = 0; i < count; ++i) {
    double sum = 0;
    for (i64 r = 0; r < c.rows; ++r) sum += each[r * count + i];
    static_cast<C*>(c.dskip)[i] = C(sum);
  }
}

}  // namespace

void fft_conv_backward_run(const ConvJob& job) {
  switch (job.call->dtype) {
    case SPECTRALOPS_F32: return backward<float>(job);
    case SPECTRALOPS_F64: return backward<double>(job);
    case SPECTRALOPS_F16: return backward<half_t>(job);
    default: return backward<bf16_t>(job);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops
