// Every Hadamard kernel: what a run-time compiler includes.
#pragma once

#include "spectralops/hadamard_quantize.h"
#include "spectralops/hadamard_rows.h"
#include "spectralops/hadamard_strided.h"
