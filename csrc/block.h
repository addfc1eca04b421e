// What a team does with a block before and after the elimination: load, norms, store.
#pragma once

#include <limits>

#include "geometry.h"

namespace hcnr {
namespace HCNR_VARIANT {

template <class Team>
class BlockOfTeam {
 protected:
  using Scalar = typename Team::Scalar;
  using Row = typename Team::Row;    // `edge` neighbours in a row of a tile
  using Lane = typename Team::Lane;  // one or all of the lanes that work in step
  static constexpr int edge = Team::edge, lanes = Team::lanes;

  Team& team_;
  const Problem& problem_;
  const std::int64_t index_;
  const int size_, width_, stride_;  // padded; of the panels' rows
  const Scratch<Scalar> scratch_;

  HCNR_DEVICE BlockOfTeam(Team& team, const Problem& problem, std::int64_t index, Scalar* memory)
      : team_(team),
        problem_(problem),
        index_(index),
        size_(static_cast<int>(locate(problem, index).size)),
        width_(padded(size_)),
        stride_(Team::stride(width_)),
        scratch_(memory, stride_) {}

  // A matrix in memory. Looked up where it is needed: a device thread has no registers to spare.
  struct Matrix {
    Scalar* first;
    std::int64_t stride;
    HCNR_DEVICE Scalar* at(int i, int j) const { return first + i * stride + j; }
  };
  HCNR_DEVICE Matrix input() const {
    const Block block = locate(problem_, index_);
    return {reinterpret_cast<Scalar*>(block.input), block.input_stride};
  }
  HCNR_DEVICE Matrix output() const {
    const Block block = locate(problem_, index_);
    return {reinterpret_cast<Scalar*>(block.output), block.output_stride};
  }
  HCNR_DEVICE Matrix factor() const {
    const Block block = locate(problem_, index_);
    return {reinterpret_cast<Scalar*>(block.factor), block.factor_stride};
  }

  static constexpr Scalar nan_ = std::numeric_limits<Scalar>::quiet_NaN();

  HCNR_DEVICE bool failed() const { return *scratch_.status != 0; }

  // Damped tiles from the lower triangle of the input; liveness; -1 for NaN and infinity.
  HCNR_DEVICE void load(Scalar shift) {
    const Matrix from = input();
    team_.each_tile(size_, [&](int tile_row, int tile_column, Row* tile) {
      const int i0 = tile_row * edge, j0 = tile_column * edge;
      if (i0 == j0) {
        load_diagonal(tile, from, i0);
      } else {
        load_tile(tile, from.at(i0, j0), from.stride, size_ - i0);
      }
      Row sum{};  // of zeros; of NaN if there is NaN or infinity
      HCNR_UNROLL
      for (int r = 0; r < edge; ++r) {
        Team::add_zeros(sum, tile[r]);
      }
      bool finite = true;
      HCNR_UNROLL
      for (int c = 0; c < edge; ++c) {
        finite = finite && sum[c] == 0;
      }
      if (!finite) {
        team_.raise(scratch_.status, non_finite);
      }
      if (i0 == j0) {
        damp(tile, i0, shift);
      }
    });
  }

  // All columns are inside, of the rows `rows`, which may be none.
  HCNR_DEVICE void load_tile(Row* tile, const Scalar* from, std::int64_t stride, int rows) {
    if (rows >= edge && Team::aligned(from, stride)) {
      HCNR_UNROLL
      for (int r = 0; r < edge; ++r) {
        tile[r] = Team::load_aligned(from);
        from += stride;
      }
      return;
    }
    HCNR_UNROLL
    for (int r = 0; r < edge; ++r) {
      HCNR_UNROLL
      for (int c = 0; c < edge; ++c) {
        tile[r][c] = r < rows ? from[c] : Scalar(0);
      }
      from += stride;
    }
  }

  // The lower half, mirrored; unit pivots behind the end.
  HCNR_DEVICE void load_diagonal(Row* tile, const Matrix& from, int i0) {
    const Scalar* row = from.at(i0, i0);
    HCNR_UNROLL
    for (int r = 0; r < edge; ++r, row += from.stride) {
      HCNR_UNROLL
      for (int c = 0; c <= r; ++c) {
        tile[r][c] = tile[c][r] = i0 + r < size_ ? row[c] : Scalar(r == c);
      }
    }
  }

  HCNR_DEVICE void damp(Row* tile, int i0, Scalar shift) {
    HCNR_UNROLL
    for (int r = 0; r < edge; ++r) {
      if (i0 + r < size_) {
        const Scalar value = tile[r][r];
        const bool dead = value == 0 && problem_.mode == Mode::inverse;
        tile[r][r] = dead ? Scalar(1) : value + shift;
        scratch_.live[i0 + r] = dead ? Scalar(0) : Scalar(1);
      }
    }
  }

  // Absolute row and column sums of every tile, each to a place of its own: no atomics, and always
  // the same order of additions. Sum (J, i) is what tile column J adds to row i of the whole matrix.
  HCNR_DEVICE void sum_tiles() {
    team_.each_tile(size_, [&](int tile_row, int tile_column, Row* tile) {
      Scalar* sums = scratch_.panels;
      Team::store_row_sums(sums + tile_column * stride_ + tile_row * edge, tile);
      if (tile_row != tile_column) {
        Team::store_column_sums(sums + tile_row * stride_ + tile_column * edge, tile);
      }
    });
  }

  // The largest sum over live neurons. A maximum does not depend on the order.
  HCNR_DEVICE void norm(Scalar* result) {
    Scalar mine = 0;
    for (int i = team_.rank() * lanes; i < width_; i += team_.size() * lanes) {
      Lane sum{};
      HCNR_KEEP_LOOP
      for (int tile = 0; tile < width_ / edge; ++tile) {
        sum = sum + Team::load_lanes(scratch_.panels + tile * stride_ + i);
      }
      for (int lane = 0; lane < lanes; ++lane) {
        const Scalar value = Team::element(sum, lane);
        const bool counts = i + lane < size_ && scratch_.live[i + lane] != 0;
        mine = counts && mine == mine && !(value <= mine) ? value : mine;  // NaN stays
      }
    }
    team_.maximum(result, mine);
  }

  // Changes the sign of every tile and writes it and its mirror image.
  HCNR_DEVICE void store() {
    const Matrix to = output();
    team_.each_tile(size_, [&](int tile_row, int tile_column, Row* tile) {
      const int i0 = tile_row * edge, j0 = tile_column * edge;
      HCNR_UNROLL
      for (int r = 0; r < edge; ++r) {
        Team::negate(tile[r]);
      }
      store_tile(to.at(i0, j0), to.stride, tile, size_ - i0, size_ - j0);
      if (tile_row != tile_column) {
        Row columns[edge];
        Team::transpose(tile, columns);
        store_tile(to.at(j0, i0), to.stride, columns, size_ - j0, size_ - i0);
      }
    });
  }

  HCNR_DEVICE void store_tile(Scalar* target, std::int64_t stride, const Row* tile, int rows,
                              int columns) {
    if (columns >= edge && rows >= edge && Team::aligned(target, stride)) {
      HCNR_UNROLL
      for (int r = 0; r < edge; ++r) {
        Team::store_aligned(target, tile[r]);
        target += stride;
      }
      return;
    }
    HCNR_UNROLL
    for (int r = 0; r < edge; ++r) {
      HCNR_UNROLL
      for (int c = 0; c < edge; ++c) {
        if (r < rows && c < columns) {
          target[c] = tile[r][c];
        }
      }
      target += stride;
    }
  }

  // Zeros right of the tiles on the diagonals of both factors.
  HCNR_DEVICE void clear_above() {
    const Matrix left = factor(), right = output();
    for (int i = 0; i < size_; ++i) {
      HCNR_KEEP_LOOP
      for (int j = (i / edge + 1) * edge + team_.rank(); j < size_; j += team_.size()) {
        *left.at(i, j) = *right.at(i, j) = 0;
      }
    }
  }

  // A block that failed is NaN everywhere.
  HCNR_DEVICE void poison() {
    const Matrix left = factor(), right = output();
    for (int i = 0; i < size_; ++i) {
      for (int j = team_.rank(); j < size_; j += team_.size()) {
        *right.at(i, j) = nan_;
        if (problem_.mode == Mode::factor) {
          *left.at(i, j) = nan_;
        }
      }
    }
  }
};

}  // namespace HCNR_VARIANT
}  // namespace hcnr
