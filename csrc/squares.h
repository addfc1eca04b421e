// Sums of squares of two matrices, method.md (4): what is asked of the host.
#pragma once

#include <cstdint>

namespace hcnr {

enum class Stored { float32, bfloat16 };

struct Squares {
  const void* base;   // [rows, columns]
  const void* tuned;  // [rows, columns]
  std::int64_t base_stride, tuned_stride;  // elements from one row to the next
  std::int64_t rows, columns;
  Stored stored;
  bool by_row;
  double* change;  // [rows] if by_row, else [columns]: sums of (base - tuned)^2
  double* whole;   // the same of base^2
};

// With up to `threads` threads; the sums do not depend on how many there are.
void squares_on_host(const Squares& squares, int threads);

}  // namespace hcnr
