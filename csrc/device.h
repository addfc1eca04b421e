// Blocks on a CUDA device: one launch, one thread block a matrix.
#pragma once

#include <string>
#include <vector>

#include "problem.h"

namespace hcnr {

// Threads own one tile each, at most 528 of 8 x 8 (float32) or of 4 x 4 (float64).
constexpr int device_max_size(bool wide) { return wide ? 128 : 256; }

// Starts the work on device `ordinal` in `stream` and does not wait. Everything is device memory, and
// the device is the calling thread's current one.
// Throws std::runtime_error with CUDA's reason if it cannot be started.
void invert_on_device(const Problem& problem, int ordinal, std::uintptr_t stream);

// Why no device can be used, or nothing.
std::string device_trouble();

// What was compiled, as CUDA numbers it: 800 for sm_80.
std::vector<int> architectures();

}  // namespace hcnr
