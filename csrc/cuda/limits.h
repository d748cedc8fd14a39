// What device_limits() asks when nothing is being recorded.
#pragma once

#include "cuda/launch.h"

namespace spectralops::cuda {

int runtime_limits(int device, DeviceLimits* limits);

}  // namespace spectralops::cuda
