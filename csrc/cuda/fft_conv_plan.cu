#include "cuda/fft_conv_plan.h"

namespace spectralops {
namespace cuda {
namespace conv {
namespace {

// The form of odd 2^bits points on this device, or none (odd 0).
Form form_of(bool wide, bool backward, int odd, int bits, const DeviceLimits& limits) {
  Form form{odd, 0, bits};
  const bool fewer = odd == 1 && (bits == 10 || bits >= 13);  // 32 points a lane spare an exchange
  form.log = wide ? (odd == 1 ? 3 : 2) : odd == 1 ? (fewer ? 5 : 4) : odd == 3 ? 3 : 2;
  if (bits < form.log || bits > 20) return Form{};
  bool fits = false;
  with_engine(wide, form, [&](auto kind) {
    using E = typename decltype(kind)::Engine;
    const bool fewer_threads = backward || (form.log == 5 && !fft::has_many(limits.sm));
    fits = form.lanes() <= (fewer_threads ? E::BACKWARD_THREADS : E::FORWARD_THREADS);
    return SPECTRALOPS_OK;
  });
  const i64 cells = larger(form.points(), i64(fft::kBlockThreads) * (odd << form.log));
  return fits && cells * (wide ? 8 : 4) <= limits.shared_limit ? form : Form{};
}

// The smallest that has at least `points`, or exactly as many.
Form smallest_form(bool wide, bool backward, i64 points, bool exact, const DeviceLimits& limits) {
  Form best;
  for (int odd = 1; odd <= 5; odd += 2)
    for (int bits = 2; bits <= 20; ++bits) {
      const Form form = form_of(wide, backward, odd, bits, limits);
      if (form.odd == 0 || form.points() < points || (exact && form.points() != points)) continue;
      if (best.odd == 0 || form.points() < best.points()) best = form;
    }
  return best;
}

// A transform through memory: the smallest of those in 2^parts_log lines.
void long_form(bool wide, i64 points, bool exact, const DeviceLimits& limits, Plan* plan) {
  i64 best = 0;
  for (const int parts : kPartsLog)
    for (int odd = 1; odd <= 5; odd += 2)
      for (int bits = kLeastLineBits; bits <= 20; ++bits) {
        const Form form = form_of(wide, true, odd, bits, limits);
        const i64 all = form.points() << parts;
        if (form.odd == 0 || all < points || (exact && all != points) || (best && all >= best)) continue;
        plan->form = form, plan->parts_log = parts, best = all;
      }
}

double cost(const Form& form, i64 windows) {
  double layers = kPointCost + (form.odd > 1 ? 2 : 0) + form.bits;
  return layers * double(form.points()) * double(windows);
}

// Windows of 2 N positions with 2 N - (K - 1) results each, where that is cheaper than whole rows or these do
// not fit.
void cut_rows(const Call& c, bool wide, const DeviceLimits& limits, Plan* plan) {
  Form best = plan->form;
  double least = best.odd ? kCutGain * cost(best, 1) : 0;
  for (int bits = 2; bits <= 20; ++bits) {
    const Form form = form_of(wide, false, 1, bits, limits);
    const i64 segment = 2 * form.points() - (c.size - 1);
    if (form.odd == 0 || segment < 1) continue;
    const i64 windows = ceil_div(c.length, segment);
    if (windows < 2 || (best.odd && cost(form, windows) >= least)) continue;
    best = form, least = cost(form, windows);
    plan->p.segment = int(smaller(segment, c.length)), plan->p.segments = int(windows), plan->p.back = int(c.size - 1 - c.lag0);
  }
  plan->form = best;
}

fft::Array array(const void* data, i64 batch, i64 filter, i64 channel, i64 time) {
  return fft::Array{data, batch, filter, channel, time};
}

void set_call(const Call& c, fft::ConvParams* p) {
  p->u = array(c.u, c.u_batch, 0, c.u_channel, c.u_time);
  p->gate_in = array(c.gate_in, c.gate_in_batch, 0, c.gate_in_channel, c.gate_in_time);
  p->gate_out = array(c.gate_out, c.gate_out_batch, c.gate_out_filter, c.gate_out_channel, c.gate_out_time);
  p->grad = array(c.grad, c.grad_batch, c.grad_filter, c.grad_channel, c.grad_time);
  p->y = array(c.y, c.y_batch, c.y_filter, c.y_channel, c.y_time);
  p->dgate_out = array(c.dgate_out, c.y_batch, c.y_filter, c.y_channel, c.y_time);
  p->du = array(c.du, c.du_batch, 0, c.du_channel, c.du_time);
  p->dgate_in = array(c.dgate_in, c.du_batch, 0, c.du_channel, c.du_time);
  p->kernel = c.kernel, p->skip = c.skip, p->mask = c.mask, p->starts = reinterpret_cast<const i64*>(c.cu_seqlens);
  p->dkernel = c.dkernel, p->dskip = c.dskip, p->dmask = c.dmask;
  p->size = c.size, p->kernels = c.samples * c.filters * c.groups;
  p->rows = int(c.rows), p->channels = int(c.channels), p->groups = int(c.groups);
  p->group_channels = int(c.channels / c.groups);
  p->filters = int(c.filters), p->length = int(c.length), p->lag0 = int(c.lag0), p->grid = int(c.grid);
  p->activation = int(c.activation), p->dtype = int(c.dtype);
  p->by_sample = c.samples > 1;
  p->segment = p->length, p->segments = 1, p->back = 0;
}

// Rows of the backward pass: an item's are summed in its lanes' order, so the cut depends on the sizes alone.
void deal_rows(const Call& c, Plan* plan) {
  fft::ConvParams& p = plan->p;
  const i64 wanted = ((c.rows * c.channels) << plan->parts_log) / (kItemBlocks * p.layout.slots);
  p.chunk = p.by_sample ? 1 : int(smaller(larger(wanted, 1), c.rows));
  p.chunks = int(ceil_div(c.rows, p.chunk));
  p.items = int(c.channels * p.chunks);
  p.again = c.activation != SPECTRALOPS_IDENTITY || c.dgate_out || c.dmask;
  const bool rows = c.du || c.dgate_in;
  p.parks = rows && c.filters > 1 ? 3 : c.dkernel || c.filters > 1 ? 2 : 1;
  if (rows && c.skip) p.parks += 1;
  plan->sum_products = c.dkernel && (p.chunks > 1 || c.channels > c.groups);
}

i64 take(i64* at, i64 bytes) {
  const i64 begin = *at;
  *at += ceil_div(bytes, 256) * 256;
  return begin;
}

void lay_out_long(const Call& c, bool backward, Plan* plan) {
  fft::ConvParams& p = plan->p;
  const i64 real = plan->wide ? 8 : 4, n = plan->form.points() << plan->parts_log;
  const i64 channel = 2 * real * c.rows * n;  // bytes of a set
  const bool rows = c.du || c.dgate_in, products = backward && c.dkernel;
  const i64 parts = real * c.filters * c.channels * c.rows * ceil_div(plan->form.points(), fft::kColumnThreads);
  plan->batch = smaller(larger(kBatchBytes / channel, 1), c.channels);
  plan->set_bytes = ceil_div(channel * plan->batch, 256) * 256;
  i64 at = 0;
  plan->tables = take(&at, 2 * real * (i64(2 * plan->form.log + plan->form.odd) * plan->form.lanes()));
  plan->column_tables = take(&at, 2 * real * plan->form.points() * (plan->parts_log + 1));
  plan->spectrum = take(&at, c.kernel ? 2 * real * p.kernels * n : 0);
  plan->products = take(&at, products ? 2 * real * i64(p.items) * p.filters * n : 0);
  plan->summed = take(&at, products && plan->sum_products ? 2 * real * p.kernels * n : 0);
  plan->skips = take(&at, backward && c.dskip ? parts : 0);
  plan->mask_parts = take(&at, backward && c.dmask ? parts : 0);
  plan->skipped = take(&at, backward && rows && c.skip ? channel * plan->batch : 0);
  plan->sets = take(&at, plan->set_bytes * (backward ? (rows && c.filters > 1 ? 3 : 2) : c.filters > 1 ? 2 : 1));
  plan->park = -1;
  plan->bytes = at;
}

void lay_out(const Call& c, bool backward, const DeviceLimits& limits, Plan* plan) {
  fft::ConvParams& p = plan->p;
  const i64 real = plan->wide ? 8 : 4, n = plan->form.points();
  const i64 set = 2 * real * p.layout.slots * n;  // of a block
  p.blocks = int(ceil_div(p.items, p.layout.slots));
  plan->blocks = p.blocks;
  // Registers let 512 threads onto a multiprocessor; the sets go to shared memory where they leave it as
  // full.
  const i64 resident = larger(kResidentThreads / plan->threads, 1);
  const bool in_shared = (plan->cells + p.parks * set) * resident <= limits.shared_limit;
  plan->shared = plan->cells + (in_shared ? p.parks * set : 0);
  if (p.parks && !in_shared) plan->blocks = smaller(plan->blocks, i64(kParkBlocks) * limits.sm_count);
  i64 at = 0;
  plan->tables = take(&at, 2 * real * (i64(2 * plan->form.log + plan->form.odd) * plan->form.lanes()));
  plan->spectrum = take(&at, c.kernel ? 2 * real * p.kernels * n : 0);
  const bool products = backward && c.dkernel;
  plan->products = take(&at, products ? 2 * real * i64(p.items) * p.filters * n : 0);
  plan->summed = take(&at, products && plan->sum_products ? 2 * real * p.kernels * n : 0);
  plan->skips = take(&at, backward && c.dskip ? real * i64(p.items) * p.filters : 0);
  plan->park = take(&at, in_shared ? 0 : p.parks * set * plan->blocks);
  if (in_shared) plan->park = -1;
  plan->bytes = at;
}

}  // namespace

int make_plan(const Call& c, bool backward, const DeviceLimits& limits, Plan* plan) {
  plan->wide = c.dtype == SPECTRALOPS_F64;
  fft::ConvParams& p = plan->p;
  set_call(c, &p);
  const i64 reach = larger(c.lag0, c.size - 1 - c.lag0);
  const i64 points = c.grid ? c.grid : ceil_div(c.length + reach, 2);
  plan->form = smallest_form(plan->wide, backward, points, c.grid != 0, limits);
  if (!backward && c.grid == 0) cut_rows(c, plan->wide, limits, plan);
  if (plan->form.odd == 0) long_form(plan->wide, points, c.grid != 0, limits, plan);
  if (plan->form.odd == 0)
    return fail(SPECTRALOPS_UNSUPPORTED, "fft_conv: no CUDA kernel for transforms of %lld points", points);
  if (c.rows * c.channels > kItemLimit / p.segments)
    return fail(SPECTRALOPS_UNSUPPORTED, "fft_conv: %lld rows of %lld channels are more than one launch covers",
                (long long)c.rows, (long long)c.channels);
  p.layout.bits = plan->form.bits;
  p.layout.slots = int(larger(fft::kBlockThreads / plan->form.lanes(), 1));
  p.layout.beside = 0;
  plan->threads = p.layout.slots * plan->form.lanes();
  plan->cells = i64(plan->wide ? 8 : 4) * p.layout.slots * plan->form.points();
  p.channels_first = c.u_time > c.u_channel;
  if (backward) {
    deal_rows(c, plan);
  } else {
    p.items = int(c.rows * c.channels * p.segments);
    p.parks = c.filters > 1;
    p.chunk = 1, p.chunks = p.rows;
  }
  if (plan->parts_log)
    lay_out_long(c, backward, plan);
  else
    lay_out(c, backward, limits, plan);
  return SPECTRALOPS_OK;
}

int bind_workspace(const Call& c, Plan* plan) {
  if (c.workspace_bytes < plan->bytes)
    return fail(SPECTRALOPS_INVALID, "workspace of %lld bytes, %lld needed", (long long)c.workspace_bytes, plan->bytes);
  char* work = static_cast<char*>(c.workspace);
  plan->p.tables = work + plan->tables;
  plan->p.spectrum = work + plan->spectrum;
  plan->p.products = work + plan->products;
  plan->p.skips = work + plan->skips;
  plan->p.park = plan->park < 0 ? nullptr : work + plan->park;
  return SPECTRALOPS_OK;
}

int prepare(const Call& c, const Plan& plan) {
  const Form& form = plan.form;
  const fft::TableParams t{const_cast<void*>(plan.p.tables), form.odd, form.log, form.bits};
  const Grid grid{ceil_div(i64(2 * form.log + form.odd) * form.lanes(), 128)};
  const int status = plan.wide ? launch<fft::fft_tables<double>>(plan.where, grid, 128, 0, t)
                               : launch<fft::fft_tables<float>>(plan.where, grid, 128, 0, t);
  if (status || !c.kernel) return status;
  const i64 blocks = ceil_div(plan.p.kernels, plan.p.layout.slots);
  return with_engine(plan.wide, form, [&](auto kind) {
    using E = typename decltype(kind)::Engine;
    return launch<fft::fft_conv_spectrum<E>>(plan.where, Grid{blocks}, plan.threads, plan.cells, plan.p);
  });
}

}  // namespace conv
}  // namespace cuda
}  // namespace spectralops
