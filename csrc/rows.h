// Tiles of 4 or 8 in plain arrays: registers of a device thread, and the same on a host.
#pragma once

#include <cmath>

#include "geometry.h"

namespace hcnr {
namespace HCNR_VARIANT {

// `Count` scalars that move in one access where their address allows it.
template <class Type, int Count>
struct alignas(Count * sizeof(Type)) Packed {
  Type values[Count];
};

template <class Type, int Edge, int Chunk>
struct PlainTiles {
  using Scalar = Type;
  struct Row {
    Scalar values[Edge];
    HCNR_DEVICE Scalar& operator[](int i) { return values[i]; }
    HCNR_DEVICE const Scalar& operator[](int i) const { return values[i]; }
  };
  using Vector = Packed<Scalar, Chunk>;
  using Slot = Slots<Edge, Chunk>;
  static constexpr int edge = Edge, chunk = Chunk, chunks = Edge / Chunk;

  // Whether rows that begin at an address and then every `stride` scalars are whole vectors.
  HCNR_DEVICE static bool aligned(const Scalar* address, std::int64_t stride) {
    return reinterpret_cast<std::uintptr_t>(address) % sizeof(Vector) == 0 && stride % Chunk == 0;
  }

  HCNR_DEVICE static Row load_aligned(const Scalar* from) {
    Row row;
    HCNR_UNROLL
    for (int v = 0; v < chunks; ++v) {
      load_chunk(row, v, from + v * Chunk);
    }
    return row;
  }

  HCNR_DEVICE static void store_aligned(Scalar* to, const Row& row) {
    HCNR_UNROLL
    for (int v = 0; v < chunks; ++v) {
      store_chunk(to + v * Chunk, row, v);
    }
  }

  HCNR_DEVICE static void store_chunks(Scalar* panel_row, int tile, int stride, const Row& row) {
    HCNR_UNROLL
    for (int v = 0; v < chunks; ++v) {
      store_chunk(panel_row + Slot::of(tile, v, stride), row, v);
    }
  }

  HCNR_DEVICE static Row load_chunks(const Scalar* panel_row, int tile, int stride) {
    Row row;
    HCNR_UNROLL
    for (int v = 0; v < chunks; ++v) {
      load_chunk(row, v, panel_row + Slot::of(tile, v, stride));
    }
    return row;
  }

  // Adds zeros, or NaN where there is NaN or infinity.
  HCNR_DEVICE static void add_zeros(Row& sum, const Row& row) {
    HCNR_UNROLL
    for (int i = 0; i < Edge; ++i) {
      sum[i] += row[i] * 0;
    }
  }

  HCNR_DEVICE static void negate(Row& row) {
    HCNR_UNROLL
    for (int i = 0; i < Edge; ++i) {
      row[i] = -row[i];
    }
  }

  HCNR_DEVICE static void transpose(const Row* tile, Row* columns) {
    HCNR_UNROLL
    for (int i = 0; i < Edge; ++i) {
      HCNR_UNROLL
      for (int j = 0; j < Edge; ++j) {
        columns[j][i] = tile[i][j];
      }
    }
  }

  HCNR_DEVICE static void store_row_sums(Scalar* to, const Row* tile) {
    Row sums{};
    HCNR_UNROLL
    for (int i = 0; i < Edge; ++i) {
      HCNR_UNROLL
      for (int j = 0; j < Edge; ++j) {
        sums[i] += magnitude(tile[i][j]);
      }
    }
    store_aligned(to, sums);
  }

  HCNR_DEVICE static void store_column_sums(Scalar* to, const Row* tile) {
    Row sums{};
    HCNR_UNROLL
    for (int i = 0; i < Edge; ++i) {
      HCNR_UNROLL
      for (int j = 0; j < Edge; ++j) {
        sums[j] += magnitude(tile[i][j]);
      }
    }
    store_aligned(to, sums);
  }

  HCNR_DEVICE static void subtract_products(Row* tile, const Scalar* panel, int tile_row,
                                            int tile_column, int stride) {
#ifdef __CUDACC__
#pragma unroll (Edge == 4 ? 2 : 1)  // tiles of 8 leave no registers to load ahead
#endif
    for (int k = 0; k < panel_width; ++k) {
      const Row a = load_chunks(panel + k * stride, tile_row, stride);
      const Row b = load_chunks(panel + k * stride, tile_column, stride);
      HCNR_UNROLL
      for (int i = 0; i < Edge; ++i) {
        HCNR_UNROLL
        for (int j = 0; j < Edge; ++j) {
          tile[i][j] -= a[i] * b[j];
        }
      }
    }
  }

 private:
  HCNR_DEVICE static Scalar magnitude(Scalar value) { return std::fabs(value); }

  HCNR_DEVICE static void load_chunk(Row& row, int v, const Scalar* from) {
    const Vector vector = *reinterpret_cast<const Vector*>(from);
    HCNR_UNROLL
    for (int i = 0; i < Chunk; ++i) {
      row[v * Chunk + i] = vector.values[i];
    }
  }

  HCNR_DEVICE static void store_chunk(Scalar* to, const Row& row, int v) {
    Vector vector;
    HCNR_UNROLL
    for (int i = 0; i < Chunk; ++i) {
      vector.values[i] = row[v * Chunk + i];
    }
    *reinterpret_cast<Vector*>(to) = vector;
  }
};

}  // namespace HCNR_VARIANT
}  // namespace hcnr
