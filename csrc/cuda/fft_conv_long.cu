// Rows whose transform no block holds: columns and lines through the workspace (spectralops/fft_conv_long.h).
#include "cuda/fft_conv_plan.h"
#include "spectralops/fft_conv_long.h"

namespace spectralops {
namespace cuda {
namespace conv {
namespace {

// The steps of one call. `first`, `count`: the channels of a batch.
struct Long {
  const Call& c;
  const Plan& plan;
  i64 first = 0, count = 0;

  void* work(i64 offset) const { return static_cast<char*>(c.workspace) + offset; }
  i64 real() const { return plan.wide ? 8 : 4; }
  i64 all_points() const { return plan.form.points() << plan.parts_log; }
  void* set(int which) const { return work(plan.sets + which * plan.set_bytes); }
  int blocks() const { return int(ceil_div(plan.form.points(), fft::kColumnThreads)); }
  fft::ConvParams conv() const { return plan.p; }

  int columns(int step, int filter, const void* from, void* to, i64 items) const {
    fft::ColumnParams q{};
    q.conv = plan.p, q.step = step, q.filter = filter, q.from = from, q.to = to;
    q.tables = work(plan.column_tables), q.first_channel = int(first), q.points = int(plan.form.points());
    q.blocks = blocks();
    if ((step == fft::kColumnGradient || step == fft::kColumnRowGradient) && c.skip && (c.du || c.dgate_in))
      q.skipped = work(plan.skipped);
    const i64 parts = c.channels * c.rows * q.blocks * real();
    if (step == fft::kColumnGradient) {
      q.mask_parts = c.dmask ? work(plan.mask_parts + filter * parts) : nullptr;
      q.skip_parts = c.dskip ? work(plan.skips + filter * parts) : nullptr;
    }
    const Grid grid{items * q.blocks};
    const i64 shared = (2 * real() * fft::kColumnThreads) << plan.parts_log;
    const bool few = plan.parts_log == 2;
    constexpr int threads = fft::kColumnThreads;
    if (plan.wide)
      return few ? launch<fft::fft_conv_columns<double, 2>>(plan.where, grid, threads, shared, q)
                 : launch<fft::fft_conv_columns<double, 5>>(plan.where, grid, threads, shared, q);
    return few ? launch<fft::fft_conv_columns<float, 2>>(plan.where, grid, threads, shared, q)
               : launch<fft::fft_conv_columns<float, 5>>(plan.where, grid, threads, shared, q);
  }

  fft::LineParams line(const void* from, void* to, bool forward, bool inverse) const {
    fft::LineParams q{};
    q.conv = plan.p, q.from = from, q.to = to, q.forward = forward, q.inverse = inverse;
    q.first_channel = int(first), q.parts_log = plan.parts_log, q.scale = 1;
    q.lines = (count * plan.p.chunks) << plan.parts_log;
    return q;
  }
  // Of kernels, one after the other, instead of rows.
  fft::LineParams kernel_line(const void* from, void* to, bool forward, bool inverse) const {
    fft::LineParams q = line(from, to, forward, inverse);
    q.conv.rows = q.conv.chunk = q.conv.chunks = 1;
    q.lines = plan.p.kernels << plan.parts_log;
    q.scale = 1.0 / double(all_points());
    return q;
  }
  int lines(const fft::LineParams& q) const {
    return with_engine(plan.wide, plan.form, [&](auto kind) {
      using E = typename decltype(kind)::Engine;
      const Grid grid{ceil_div(q.lines, plan.p.layout.slots)};
      return launch<fft::fft_conv_lines<E>>(plan.where, grid, plan.threads, plan.cells, q);
    });
  }

  int prepare() const {
    const Form& form = plan.form;
    const fft::TableParams t{work(plan.tables), form.odd, form.log, form.bits};
    const fft::TableParams u{work(plan.column_tables), 1 << plan.parts_log, plan.parts_log, int(form.points())};
    const Grid grid{ceil_div(i64(2 * form.log + form.odd) * form.lanes(), 128)},
        columns_grid{ceil_div(form.points() * (plan.parts_log + 1), 128)};
    int status = plan.wide ? launch<fft::fft_tables<double>>(plan.where, grid, 128, 0, t)
                           : launch<fft::fft_tables<float>>(plan.where, grid, 128, 0, t);
    if (!status)
      status = plan.wide ? launch<fft::fft_column_tables<double>>(plan.where, columns_grid, 128, 0, u)
                         : launch<fft::fft_column_tables<float>>(plan.where, columns_grid, 128, 0, u);
    if (status || !c.kernel) return status;
    void* spectrum = work(plan.spectrum);
    fft::LineParams q = kernel_line(spectrum, spectrum, c.grid == 0, false);
    if (c.grid)
      q.natural = c.kernel;
    else
      status = columns(fft::kColumnTaps, 0, nullptr, spectrum, plan.p.kernels);
    return status ? status : lines(q);
  }

  int forward_batch() const {
    const i64 items = count * c.rows;
    void *v = set(0), *to = set(c.filters > 1);
    int status = columns(fft::kColumnRow, 0, nullptr, v, items);
    for (int filter = 0; filter < c.filters && !status; ++filter) {
      fft::LineParams q = line(v, to, true, true);
      q.multiply = 1, q.filter = filter;
      status = lines(q);
      if (!status) status = columns(fft::kColumnResult, filter, to, nullptr, items);
    }
    return status;
  }

  int backward_batch() const {
    const i64 items = count * c.rows;
    const bool rows = c.du || c.dgate_in;
    void *v = set(0), *d = set(1), *total = set(rows && c.filters > 1 ? 2 : 1);
    int status = SPECTRALOPS_OK;
    if (plan.p.again || c.dkernel) {
      status = columns(fft::kColumnRow, 0, nullptr, v, items);
      if (!status) status = lines(line(v, v, true, false));
    }
    for (int filter = 0; filter < c.filters && !status; ++filter) {
      if (plan.p.again) {
        fft::LineParams q = line(v, d, false, true);
        q.multiply = 1, q.filter = filter;
        if ((status = lines(q))) return status;
      }
      const bool lines_next = rows || c.dkernel;
      if ((status = columns(fft::kColumnGradient, filter, plan.p.again ? d : nullptr, lines_next ? d : nullptr, items)))
        return status;
      if (!lines_next) continue;
      fft::LineParams q = line(d, rows ? total : nullptr, true, rows);
      q.multiply = rows ? 2 : 0, q.filter = filter, q.add = filter > 0 && rows;
      if (c.dkernel) {
        q.v = v;
        q.products = static_cast<char*>(work(plan.products)) + filter * i64(plan.p.items) * all_points() * 2 * real();
      }
      status = lines(q);
    }
    return status || !rows ? status : columns(fft::kColumnRowGradient, 0, total, nullptr, items);
  }

  // dkernel from the products, summed over rows and channels.
  int kernel_gradient(void* summed) const {
    fft::LineParams q = kernel_line(summed, summed, false, c.grid == 0);
    if (c.grid) q.to_natural = c.dkernel;
    const int status = lines(q);
    return status || c.grid ? status : columns(fft::kColumnTapGradient, 0, summed, nullptr, plan.p.kernels);
  }

  fft::SumParams mask_sum() const {
    const i64 n = blocks();
    fft::SumParams s{};
    s.in = work(plan.mask_parts), s.out = c.dmask;
    s.total = c.rows * c.channels, s.size = 1, s.inner = c.channels, s.middle = c.rows;
    s.inner_step = c.rows * n, s.middle_step = n;
    s.count = c.filters, s.count_step = c.channels * c.rows * n, s.chunks = n, s.chunk_step = 1;
    return s;
  }
  fft::SumParams skip_sum() const {
    const i64 n = blocks() * c.rows;
    fft::SumParams s{};
    s.in = work(plan.skips), s.out = c.dskip;
    s.total = c.filters * c.channels, s.size = 1, s.inner = c.channels, s.middle = c.filters;
    s.inner_step = n, s.middle_step = c.channels * n, s.count = 1, s.chunks = n, s.chunk_step = 1;
    return s;
  }
};

}  // namespace

int long_forward(const Call& c, const Plan& plan) {
  Long l{c, plan};
  int status = l.prepare();
  for (; l.first < c.channels && !status; l.first += plan.batch) {
    l.count = smaller(plan.batch, c.channels - l.first);
    status = l.forward_batch();
  }
  return status;
}

int long_backward(const Call& c, const Plan& plan) {
  Long l{c, plan};
  int status = l.prepare();
  for (; l.first < c.channels && !status; l.first += plan.batch) {
    l.count = smaller(plan.batch, c.channels - l.first);
    status = l.backward_batch();
  }
  l.first = 0;
  if (!status && c.dmask) status = launch_sum(plan, l.mask_sum());
  if (!status && c.dskip) status = launch_sum(plan, l.skip_sum());
  if (status || !c.dkernel) return status;
  void* summed = l.work(plan.sum_products ? plan.summed : plan.products);
  if (plan.sum_products && (status = launch_sum(plan, sum_of_products(plan, summed)))) return status;
  return l.kernel_gradient(summed);
}

}  // namespace conv
}  // namespace cuda
}  // namespace spectralops
