// The tables of dft_line.h.
#include "cpu/dft_line.h"

#include "cpu/fft_conv_roots.h"

#include <algorithm>
#include <complex>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace spectralops {
namespace cpu {
namespace {

using Complex = std::complex<double>;

Complex turn(i64 j, i64 n) {
  const Root w = root_of(j % n, n);
  return {w.c, w.s};
}

// Ascending; the last is 0 where a prime is too large.
std::vector<int> radices(i64 n) {
  std::vector<int> found;
  int twos = 0;
  for (; n % 2 == 0; n /= 2) ++twos;
  for (; twos > 2 && twos % 3; twos -= 2) found.push_back(4);
  if (twos == 2) found.push_back(4), twos = 0;
  if (twos == 1) found.push_back(2), twos = 0;
  for (; twos > 0; twos -= 3) found.push_back(8);
  for (const int r : {3, 5, 7})
    for (; n % r == 0; n /= r) found.push_back(r);
  for (int r = kLeastDirect; r <= kMostDirect && n > 1; r += 2)
    for (; n % r == 0; n /= r) found.push_back(r);
  std::sort(found.begin(), found.end());
  if (n > 1) found.push_back(0);
  return found;
}

// The least 2^a {1, 3, 5, 9} of at least n.
i64 smooth(i64 n) {
  i64 best = 0;
  for (const i64 odd : {1, 3, 5, 9}) {
    i64 size = odd;
    while (size < n) size *= 2;
    if (!best || size < best) best = size;
  }
  return best;
}

// The transform of n = 2^a {1, 3, 5, 9} points in float64, once for a table.
void transform(Complex* x, i64 n, i64 stride, Complex* out) {
  if (n == 1) return void(*out = *x);
  const i64 r = n % 2 == 0 ? 2 : n % 3 == 0 ? 3 : 5, m = n / r;
  for (i64 q = 0; q < r; ++q) transform(x + q * stride, m, r * stride, out + q * m);
  for (i64 k = 0; k < m; ++k) {
    Complex a[5];
    for (i64 q = 0; q < r; ++q) a[q] = out[q * m + k] * turn(q * k, n);
    for (i64 p = 0; p < r; ++p) {
      Complex sum = 0;
      for (i64 q = 0; q < r; ++q) sum += a[q] * turn(p * q, r);
      out[p * m + k] = sum;
    }
  }
}

struct Tables {
  LinePlan plan = {};
  std::vector<std::unique_ptr<char[]>> kept;

  template <typename C> C* room(i64 count) {
    kept.emplace_back(new char[size_t(count) * sizeof(C) + 64]);
    char* p = kept.back().get();
    return reinterpret_cast<C*>(p + (-reinterpret_cast<u64>(p) & 63u));
  }
  template <typename C> static void put(C*& out, Complex w) { *out++ = C(w.real()), *out++ = C(w.imag()); }

  template <typename C> const C* direct_table(int r) {
    const int h = (r - 1) / 2, blocks = (h + kDirectBlock - 1) / kDirectBlock;
    C* const table = room<C>(i64(blocks) * h * 2 * kDirectBlock);
    C* out = table;
    for (int b = 0; b < blocks; ++b)
      for (int j = 1; j <= h; ++j, out += 2 * kDirectBlock)
        for (int i = 0; i < kDirectBlock; ++i) {
          const int k = b * kDirectBlock + i + 1;
          const Complex w = k <= h ? turn(i64(j) * k, r) : Complex(0, 0);
          out[i] = C(w.real()), out[kDirectBlock + i] = C(-w.imag());
        }
    return table;
  }

  template <typename C> void chirp() {
    const i64 n = plan.n, size = plan.padded->n;
    C* out = room<C>(2 * n);
    plan.chirp = out;
    std::vector<Complex> wave(size_t(size), Complex(0)), spectrum(wave);
    for (i64 j = 0; j < n; ++j) {
      const Complex w = turn(i64((unsigned __int128)(j)*u64(j) % u64(2 * n)), 2 * n);
      put(out, w);
      wave[size_t(j)] = wave[size_t(j ? size - j : 0)] = std::conj(w);
    }
    transform(wave.data(), size, 1, spectrum.data());
    out = room<C>(2 * size);
    plan.kernel = out;
    for (const Complex& w : spectrum) put(out, w / double(size));
  }

  template <typename C> void build(i64 n) {
    plan.n = n;
    C* out = room<C>(2 * (n + 1));
    plan.turn = out;
    for (i64 k = 0; k <= n; ++k) put(out, turn(k, 2 * n));
    const std::vector<int> found = radices(n);
    if (!found.empty() && found.back() == 0) {
      plan.padded = line_plan(smooth(2 * n - 1), sizeof(C) == 8);
      if (!plan.padded) throw std::bad_alloc();
      plan.scratch = plan.padded->n + plan.padded->scratch;
      return chirp<C>();
    }
    i64 m = n;
    for (const int r : found) {
      const int l = plan.levels++;
      plan.radix[l] = r;
      m /= r;
      out = room<C>(m * 2 * (r - 1));
      plan.roots[l] = out;
      for (i64 p = 0; p < m; ++p)
        for (int k = 1; k < r; ++k) put(out, turn(p * k, r * m));
      if (r >= kLeastDirect) plan.direct[l] = direct_table<C>(r);
    }
    plan.whole_direct = plan.levels == 1 && plan.direct[0];
    plan.scratch = 2 * n + 4 * (i64(found.empty() ? 1 : found.back()) + kDirectBlock);
  }
};

}  // namespace

// Never freed, as a call in another thread may be using any of them.
const LinePlan* line_plan(i64 n, bool wide) {
  static std::recursive_mutex mutex;  // a padded length has a plan of its own
  static auto& known = *new std::map<std::pair<i64, bool>, std::unique_ptr<Tables>>;
  std::lock_guard<std::recursive_mutex> lock(mutex);
  try {
    const auto found = known.find({n, wide});
    if (found != known.end()) return &found->second->plan;
    auto fresh = std::make_unique<Tables>();
    if (wide) fresh->build<double>(n);
    else fresh->build<float>(n);
    return &(known[{n, wide}] = std::move(fresh))->plan;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace cpu
}  // namespace spectralops
