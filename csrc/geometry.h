// Sizes and places: how a block is cut into tiles and what its shared scratch holds.
#pragma once

#include "problem.h"

// Every instruction set compiles the algorithm under a name of its own, so that the linker cannot
// hand code for a newer processor to an older one.
#ifndef HCNR_VARIANT
#define HCNR_VARIANT device
#endif

#ifdef __CUDACC__
#define HCNR_DEVICE __device__ __forceinline__
#define HCNR_UNROLL _Pragma("unroll")
#define HCNR_KEEP_LOOP _Pragma("unroll 1")
#else
#define HCNR_DEVICE inline
#define HCNR_UNROLL _Pragma("GCC unroll 16")
#define HCNR_KEEP_LOOP
#endif

namespace hcnr {
namespace HCNR_VARIANT {

// Where block `index` lies.
HCNR_DEVICE Block locate(const Problem& problem, std::int64_t index) {
  if (problem.table != nullptr) {
    return problem.table[index];
  }
  Block block = problem.first;
  block.input += index * problem.input_step;
  block.output += index * problem.output_step;
  block.factor += index * problem.factor_step;
  return block;
}

HCNR_ANYWHERE constexpr int larger(int a, int b) { return a > b ? a : b; }

// A block is padded to whole panels by unit pivots.
HCNR_ANYWHERE constexpr int padded(int size) {
  return (size + panel_width - 1) / panel_width * panel_width;
}

// Tiles [edge, edge] on and below the diagonal of a padded block.
HCNR_ANYWHERE constexpr int tile_count(int size, int edge) {
  return padded(size) / edge * (padded(size) / edge + 1) / 2;
}

// The shared memory of one team. Two panels, because the next one is written while the last is
// still being read; the partial sums of a norm use the same place before and after.
HCNR_ANYWHERE constexpr int panel_rows(int size, int edge) {
  return larger(2 * panel_width, padded(size) / edge);
}

// `stride` is the distance of the panels' rows, at least the padded size.
HCNR_ANYWHERE constexpr int scratch_scalars(int size, int edge, int stride) {
  return (panel_rows(size, edge) + 1) * stride        // panels, liveness
         + (panel_width + 2) * panel_width;           // diagonal tile, its pivots, the rest
}

template <class Scalar>
struct Scratch {
  Scalar* panels;
  Scalar* diagonal;     // [16, 16], row j holds column j of L_KK
  Scalar* reciprocals;  // [16], of its diagonal
  Scalar* live;         // 0 for a dead neuron, else 1
  Scalar* norms;        // [2]
  int* status;

  HCNR_DEVICE Scratch(Scalar* memory, int stride) {
    diagonal = memory;
    reciprocals = diagonal + panel_width * panel_width;
    norms = reciprocals + panel_width;
    status = reinterpret_cast<int*>(norms + 2);
    live = norms + panel_width;
    panels = live + stride;
  }
};

// Which tile of the lower triangle has a number, counted row by row.
struct Place {
  int row, column;
};

HCNR_DEVICE Place place(int tile) {
  int row = 0;
  while ((row + 1) * (row + 2) / 2 <= tile) {
    ++row;
  }
  return {row, tile - row * (row + 1) / 2};
}

// Where neuron i lies in a row of the panel. Threads read `Edge` neighbours as `Edge / Chunk` vectors
// of `Chunk`; all first vectors come first, so that adjacent threads read adjacent vectors and meet
// no bank conflict.
template <int Edge, int Chunk>
struct Slots {
  static constexpr int groups = Edge / Chunk;

  HCNR_DEVICE static int of(int tile, int chunk, int stride) {
    return chunk * (stride / groups) + tile * Chunk;
  }

  HCNR_DEVICE static int neuron(int slot, int stride) {
    const int chunk = slot / (stride / groups), rest = slot % (stride / groups);
    return rest / Chunk * Edge + chunk * Chunk + rest % Chunk;
  }
};

}  // namespace HCNR_VARIANT
}  // namespace hcnr
