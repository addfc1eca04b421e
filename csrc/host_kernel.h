// What every instruction set provides.
#pragma once

#include <cstddef>

#include "problem.h"
#include "squares.h"

namespace hcnr {

constexpr std::size_t host_alignment = 128;

struct HostKernel {
  // Inverts the blocks from `begin` to `end` with `memory` for scratch ...
  void (*run)(const Problem& problem, std::int64_t begin, std::int64_t end, void* memory);
  // ... of so many bytes, aligned to `host_alignment`.
  std::size_t (*bytes)(const Problem& problem);
  // Adds up the squares of the neurons from `begin` to `end`.
  void (*squares)(const Squares& squares, std::int64_t begin, std::int64_t end);
};

namespace generic {
HostKernel host_kernel();
}
namespace avx2 {
HostKernel host_kernel();
}
namespace avx512 {
HostKernel host_kernel();
}

}  // namespace hcnr
