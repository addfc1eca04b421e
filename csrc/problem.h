// What a call asks for: plain data, shared by every backend and every instruction set.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define HCNR_ANYWHERE __host__ __device__
#else
#define HCNR_ANYWHERE
#endif

namespace hcnr {

enum class Mode : int {
  inverse,  // output = A^-1, both triangles; a dead neuron, with a zero diagonal, gets a unit pivot
  factor,   // factor = L, output = L^-1, zeros above the diagonals; no neuron is dead
};

// Status of a block that holds NaN or infinity. 0 is success, k > 0 the failing leading minor.
constexpr int non_finite = -1;

// Columns of the panel that one step of the algorithm eliminates.
constexpr int panel_width = 16;

// Where one block lies: addresses, and the distance of its rows in elements.
// The rows of a table of unequal blocks are read as this struct: seven int64.
struct Block {
  std::int64_t input, input_stride;
  std::int64_t output, output_stride;
  std::int64_t factor, factor_stride;  // not used in Mode::inverse
  std::int64_t size;
};
static_assert(sizeof(Block) == 7 * sizeof(std::int64_t));

struct Problem {
  std::int64_t count;
  int largest;  // no block is larger
  Mode mode;
  bool wide;            // float64, not float32
  const Block* table;   // one row per block; null for a stack
  Block first;          // a stack: block 0 ...
  std::int64_t input_step, output_step, factor_step;  // ... and the bytes from one to the next
  const void* shifts;   // [count], what is added to the diagonal
  std::int32_t* status; // [count]
  void* norms;          // [count, 2], 1-norms of the damped block and of its inverse
};

}  // namespace hcnr
