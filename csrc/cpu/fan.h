// The elementwise part of fan on a CPU: y = [cos h, sin h, gelu(e)] (ops/fan.py).
#pragma once

#include "cpu/capability.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

struct FanJob {
  const void *h, *e, *grad, *ggh, *gge;  // h and its kin (rows, p), e and its kin (rows, q), grad (rows, 2 p + q)
  void *y, *dh, *de, *dgrad;
  i64 rows, p, q;
  int dtype, threads;
};

// Columns [col, col_end) of h, or with `periodic` false of e, in rows [row, row_end).
struct FanTile {
  i64 row, row_end, col, col_end;
  bool periodic;
};

// clang-format off
SO_CPU_DECLARE(
  void fan_forward(const FanJob& job, const FanTile& tile);
  void fan_backward(const FanJob& job, const FanTile& tile);
  void fan_double_backward(const FanJob& job, const FanTile& tile);
)
// clang-format on

// Validated.
int fan_forward(const FanJob& job);
int fan_backward(const FanJob& job);
int fan_double_backward(const FanJob& job);

}  // namespace cpu
}  // namespace spectralops
