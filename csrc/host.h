// Blocks on the host: the same algorithm, one thread a block.
#pragma once

#include "problem.h"

namespace hcnr {

// Larger blocks are refused: a factorisation that moves whole panels is faster there.
constexpr int host_max_size = 1024;

// Inverts every block with up to `threads` threads. Table, shifts and results are host memory.
void invert_on_host(const Problem& problem, int threads);

// The instruction set that serves this processor.
const char* host_variant();

}  // namespace hcnr
