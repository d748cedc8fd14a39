#include "cpu/fft_conv_roots.h"

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <tuple>
#include <vector>

namespace spectralops {
namespace cpu {
namespace {

constexpr i64 kWholeTable = 1 << 17;  // points up to which every tile has its roots; the others are made of two when needed

// exp(-2 pi i x), 0 <= x < 1, from an angle of at most pi / 4.
Root turn_of(double x) {
  const int eighth = int(x * 8);
  const int quarter = (eighth + 1) / 2;
  const double angle = (x - quarter * 0.25) * 6.283185307179586476925;
  const double c = std::cos(angle), s = std::sin(angle);
  switch (quarter & 3) {
    case 0: return {c, -s};
    case 1: return {-s, -c};
    case 2: return {-c, s};
    default: return {s, c};
  }
}

// The positions of blocks: X^size = exp(-2 pi i at). All are dyadic fractions times 1/3 or 1/5 of the top's
// 1/4.
using Blocks = std::vector<double>;

struct Tables {
  FftRoots roots = {};
  std::vector<std::vector<char>> kept;
  std::vector<int> bin;

  template <typename C> C* room(i64 count) {
    kept.emplace_back(size_t(count) * sizeof(C) + 64);
    char* p = kept.back().data();
    return reinterpret_cast<C*>(p + (-reinterpret_cast<u64>(p) & 63u));
  }

  void choose_radices() {
    i64 vectors = roots.n / roots.lanes;
    int count = 0;
    for (const int odd : {3, 5})
      if (vectors % odd == 0) roots.radix[count++] = odd, vectors /= odd;
    int bits = 0;
    while (vectors >> bits > 1) ++bits;
    for (; bits > 1 && bits % 3; bits -= 2) roots.radix[count++] = 4;
    if (bits == 1) roots.radix[count++] = 2, bits = 0;
    for (; bits > 0; bits -= 3) roots.radix[count++] = 8;
    roots.levels = count;
  }

  template <typename C> void build(i64 n, int lanes) {
    roots.n = n, roots.lanes = lanes;
    roots.pitch = (n + lanes * lanes - 1) / (lanes * lanes) * lanes * lanes;
    choose_radices();
    Blocks at{0.25};
    for (int l = 0; l < roots.levels; ++l) {
      const int r = roots.radix[l];
      C* out = room<C>(i64(at.size()) * 2 * (r - 1));
      roots.pass[l] = out;
      Blocks next;
      next.reserve(at.size() * size_t(r));
      for (const double x : at) {
        for (int q = 1; q < r; ++q) {
          const Root w = turn_of(x * q / r);
          *out++ = C(w.c), *out++ = C(w.s);
        }
        for (int k = 0; k < r; ++k) next.push_back((x + k) / r);
      }
      at.swap(next);
    }
    bin.resize(at.size());
    for (size_t g = 0; g < at.size(); ++g) bin[g] = int(std::lround(at[g] * double(at.size()) - 0.25));
    roots.bin = bin.data();
    if (n <= kWholeTable) whole_tiles<C>(at);
    else parted_tiles<C>(at);
  }

  template <typename C> void whole_tiles(const Blocks& at) {
    const int lanes = roots.lanes;
    C* out = room<C>(roots.pitch / lanes * 2 * (lanes - 1));
    roots.tile = out;
    for (i64 t = 0; t < roots.pitch / lanes; t += lanes)
      for (int q = 1; q < lanes; ++q, out += 2 * lanes)
        for (int l = 0; l < lanes; ++l) {
          const Root w = t + l < i64(at.size()) ? turn_of(at[size_t(t + l)] * q / lanes) : Root{0, 0};
          out[l] = C(w.c), out[lanes + l] = C(w.s);
        }
  }

  // A tile's vectors stand to its first as those of every other tile.
  template <typename C> void parted_tiles(const Blocks& at) {
    const int lanes = roots.lanes;
    C* first = room<C>(i64(at.size()) / lanes * 2 * (lanes - 1));
    C* rest = room<C>(2 * (lanes - 1) * lanes);
    roots.tile_first = first, roots.tile_rest = rest;
    for (size_t t = 0; t < at.size(); t += size_t(lanes))
      for (int q = 1; q < lanes; ++q) {
        const Root w = turn_of(at[t] * q / lanes);
        *first++ = C(w.c), *first++ = C(w.s);
      }
    for (int q = 1; q < lanes; ++q, rest += 2 * lanes)
      for (int l = 0; l < lanes; ++l) {
        const double x = (at[size_t(l)] - at[0]) * q / lanes;
        const Root w = turn_of(x - std::floor(x));
        rest[l] = C(w.c), rest[lanes + l] = C(w.s);
      }
  }
};

}  // namespace

i64 fast_points(i64 least) {
  i64 best = 0;
  for (const i64 odd : {1, 3, 5}) {
    i64 n = odd * kLeastPoints;
    while (n < least) n *= 2;
    if (!best || n < best) best = n;
  }
  return best;
}

Root root_of(i64 j, i64 n) { return turn_of(double(j < 0 ? j + n : j) / double(n)); }

// Never freed, as a call in another thread may be using any of them.
const FftRoots* fft_roots(i64 n, int lanes, bool wide) {
  static std::mutex mutex;
  static auto& known = *new std::map<std::tuple<i64, int, bool>, std::unique_ptr<Tables>>;
  std::lock_guard<std::mutex> lock(mutex);
  try {
    std::unique_ptr<Tables>& found = known[{n, lanes, wide}];
    if (!found) {
      auto fresh = std::make_unique<Tables>();
      if (wide) fresh->build<double>(n, lanes);
      else fresh->build<float>(n, lanes);
      found = std::move(fresh);
    }
    return &found->roots;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace cpu
}  // namespace spectralops
