// fft_conv forward for one instruction set.
#include "cpu/fft_conv_rows.h"

namespace spectralops {
namespace cpu {
namespace SO_CPU_ISA {
namespace {

template <typename T> struct Forward : Rows<T> {
  using Base = Rows<T>;
  using C = typename Base::C;
  using Base::at, Base::c, Base::p, Base::roots, Base::slot, Base::width;

  Forward(const ConvJob& job, int index) : Base(job, false, index) {}

  template <typename S> void write(const Window& w, i64 f, i64 h, const C* from, const S* gate, S* y) const {
    const C* const v = at(slot.v) + h * p.span + w.low - w.lag;
    const C skip = this->skip(f, h), mask = this->mask(h);
    if (c.activation == SPECTRALOPS_SILU) epilogue<SPECTRALOPS_SILU, C, S>(from, v, skip, gate, mask, w.count, y);
    else if (c.activation == SPECTRALOPS_GELU) epilogue<SPECTRALOPS_GELU, C, S>(from, v, skip, gate, mask, w.count, y);
    else epilogue<SPECTRALOPS_IDENTITY, C, S>(from, v, skip, gate, mask, w.count, y);
  }

  // Filter f of channel h: its results, from v or, where there are several filters, from v's spectrum.
  const C* convolve(i64 f, i64 h) const {
    Line<C> line = this->line();
    line.kernel = this->spectrum(f, h);
    C* const out = this->result();
    const C* const v = at(slot.v) + h * p.span;
    if (c.filters == 1) {
      transform<kFromTime | kTimes | kToTime>(roots, line, p.real, v, out);
    } else {
      line.source = at(slot.spectra) + h * 2 * p.pitch;
      transform<kTimes | kToTime>(roots, line, p.real, v, out);
    }
    return out;
  }

  void run_window(const Window& w) {
    T* const y = static_cast<T*>(c.y);
    if (c.filters > 1)
      for (i64 h = 0; h < width; ++h) {
        Line<C> line = this->line();
        line.keep = at(slot.spectra) + h * 2 * p.pitch;
        transform<kFromTime | kKeep>(roots, line, p.real, at(slot.v) + h * p.span, line.re);
      }
    C* const gate = at(slot.first);
    C* const out = at(slot.second);
    for (i64 f = 0; f < c.filters; ++f) {
      if (!p.direct && c.gate_out)
        gather<C>(this->gate_out(f, 0, w.time), c.gate_out_channel, c.gate_out_time, width, w.count, gate, p.span);
      for (i64 h = 0; h < width; ++h) {
        const C* const from = convolve(f, h) + w.low;
        if (p.direct) write<T>(w, f, h, from, this->gate_out(f, h, w.time), this->like_y(y, f, h, w.time));
        else write<C>(w, f, h, from, c.gate_out ? gate + h * p.span : nullptr, out + h * p.span);
      }
      if (!p.direct) scatter<C>(out, p.span, this->like_y(y, f, 0, w.time), c.y_channel, c.y_time, width, w.count);
    }
  }

  void run(i64 task) {
    this->open_task(task);
    this->task_spectra();
    for (i64 item = this->first_item; item < this->last_item; ++item) {
      this->open_item(item);
      this->find_odd();
      for (i64 i = 0; i < this->windows(); ++i) {
        const Window w = this->window(i);
        this->stage(w);
        run_window(w);
      }
    }
  }
};

template <typename T> void forward(const ConvJob& job) {
  shared_spectra<T>(job, false);
  parallel_for(job.plan->threads, job.plan->tasks, [&](i64 task, int index) { Forward<T>(job, index).run(task); });
}

}  // namespace

void fft_conv_forward_run(const ConvJob& job) {
  switch (job.call->dtype) {
    case SPECTRALOPS_F32: return forward<float>(job);
    case SPECTRALOPS_F64: return forward<double>(job);
    case SPECTRALOPS_F16: return forward<half_t>(job);
    default: return forward<bf16_t>(job);
  }
}

}  // namespace SO_CPU_ISA
}  // namespace cpu
}  // namespace spectralops
