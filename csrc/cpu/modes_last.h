// Truncated transforms of grids with channels last: the passes of spectral_filter (spectral_filter.h), L channels a vector, and
// of the half spectrum the modes alone. Columns without a mode are left out.
//
//   mode_dft    rows in pairs, columns, then s c / 2 times the modes, as the rows leave twice the transform
//   mode_idft   s c / 2 times the modes (s at the ends of the half spectrum) in their places, columns, rows, the layer's end
//
// A frequency f3 beyond the half spectrum is the conjugate of that at -f: X(-f) = conj X(f) of a real grid, and
// Re(X e^(i theta)) = Re(conj(X) e^(-i theta)).
#pragma once

#include "cpu/modes.h"
#include "cpu/spectral_filter_plan.h"
#include "spectralops/platform.h"

namespace spectralops {
namespace cpu {

// Columns are of FilterPlan: bins along its outermost dimension; inner modes are those of the other two.
struct ModesLast {
  const spectralops_modes_call* call;
  spectralops_filter_call grid;  // its x is mode_dft's
  FilterPlan plan;
  i64 outer_modes, inner_modes;
  const i64* outer;              // (outer_modes,) the bin of a mode in its column
  const i64* column;             // mode_dft: (inner_modes,), its column, or -1 - the column of -f
  const i64 *plain, *mirrored;   // mode_idft: (columns,), the inner mode there, and the one whose -f is there; or -1
  char* workspace;
};

SO_CPU_DECLARE(void mode_dft_last_run(const ModesLast&); void mode_idft_last_run(const ModesLast&);)

}  // namespace cpu
}  // namespace spectralops
