// Damped Cholesky inverse of one block by one team of threads: potrf, trtri and lauum in one pass.
//
// The lower triangle is cut into tiles that threads own from load to store (registers on a device).
// Step K eliminates 16 columns. With L_KK the factor of the diagonal tile and W = L^-1, it forms
// one panel P of 16 columns, one tile P_I for every tile row I of the block:
//
//     P_I = A_IK L_KK^-T = L_IK      below the diagonal   (potrf)
//     P_K = I    L_KK^-T = W_KK^T    on it
//     P_I = R_KI^T L_KK^-T = W_KI^T  above it             (trtri, R the partial sums of W)
//
// and subtracts P_I P_J^T from every tile (I, J) of the triangle, first clearing row and column K:
//
//     I > K, J > K    A_IJ - L_IK L_JK^T     the trailing matrix of potrf
//     I > K, J <= K   R_IJ - L_IK W_KJ       the partial sums of trtri
//     I <= K         -X_IJ - W_KI^T W_KJ     the partial sums of lauum, X = W^T W, with minus signs
//
// No two of the three need the same place at the same time, so everything happens in the triangle
// of the input, every step does the same work, and d^3 operations do it all. A step synchronises
// three times.
//
// A Team knows: `rank`, `size`, `sync`; who owns which tile; how to load and store vectors; and what
// 16 lanes do together. Every team runs this source: a thread block, one host thread, many.
//
//     edge     rows and columns of a tile; a `Row` is one row of it, moved as vectors of `chunk`
//     lanes    how many of the 16 lanes one thread is: 1 on a device, where 16 threads shuffle, and
//              16 on a host, where a vector holds them; a `Lane` is what it holds of one value
//     leads    whether a thread is one of the lanes that factorise the diagonal tile
//     portion  columns of a panel that a lane keeps in registers at a time
#pragma once

#include <limits>

#include "block.h"

namespace hcnr {
namespace HCNR_VARIANT {

template <class Team>
class Inversion : BlockOfTeam<Team> {
  using Base = BlockOfTeam<Team>;
  using typename Base::Lane;
  using typename Base::Matrix;
  using typename Base::Row;
  using typename Base::Scalar;
  using Base::edge, Base::lanes, Base::team_, Base::problem_, Base::scratch_;
  using Base::size_, Base::width_, Base::stride_, Base::nan_, Base::failed, Base::factor;
  using Base::output, Base::load, Base::sum_tiles, Base::norm, Base::store, Base::store_tile;
  using Base::clear_above, Base::poison;
  using Slot = Slots<Team::edge, Team::chunk>;
  static constexpr int panel_tiles = panel_width / edge;
  static constexpr int portion = Team::portion;  // columns of the panel in registers at a time
  static constexpr Scalar largest = std::numeric_limits<Scalar>::max();

 public:
  // Inverts block `index`. The scratch is free for the next block after one more `sync`.
  HCNR_DEVICE static void run(Team& team, const Problem& problem, std::int64_t index,
                              Scalar* memory) {
    Inversion inversion(team, problem, index, memory);
    inversion.invert(static_cast<const Scalar*>(problem.shifts)[index]);
    const Scratch<Scalar>& scratch = inversion.scratch_;
    if (team.rank() == 0) {
      problem.status[index] = *scratch.status;
      Scalar* norms = static_cast<Scalar*>(problem.norms) + 2 * index;
      const bool good = *scratch.status == 0;
      norms[0] = *scratch.status == non_finite ? nan_ : scratch.norms[0];
      norms[1] = good && problem.mode == Mode::inverse ? scratch.norms[1] : nan_;
    }
  }

 private:
  using Base::Base;

  HCNR_DEVICE void invert(Scalar shift) {
    if (team_.rank() == 0) {
      *scratch_.status = 0;
      scratch_.norms[0] = scratch_.norms[1] = 0;
    }
    team_.sync();
    load(shift);
    sum_tiles();
    team_.sync();
    if (failed()) {
      return poison();
    }
    norm(scratch_.norms);
    team_.sync();
    for (int step = 0; step < width_ / panel_width; ++step) {
      Scalar* panel = scratch_.panels + step % 2 * panel_width * stride_;
      extract(panel, step);
      team_.sync();
      if (team_.leads()) {
        factor_diagonal(step);
      }
      team_.sync();
      if (failed()) {
        return poison();
      }
      solve(panel);
      if (problem_.mode == Mode::factor) {
        store_diagonal(step);
      }
      team_.sync();
      update(panel, step);
    }
    if (problem_.mode == Mode::factor) {
      store_inverse_factor();
      return clear_above();
    }
    store();
    team_.sync();
    sum_tiles();
    team_.sync();
    norm(scratch_.norms + 1);
    team_.sync();
  }

  // The panel: column K below the diagonal, row K before it, transposed, I between. The diagonal tile.
  HCNR_DEVICE void extract(Scalar* panel, int step) {
    team_.each_tile(size_, [&](int tile_row, int tile_column, Row* tile) {
      const bool in_row = tile_row / panel_tiles == step, in_column = tile_column / panel_tiles == step;
      if (!in_row && !in_column) {
        return;
      }
      const int r0 = tile_row * edge - step * panel_width;
      const int c0 = tile_column * edge - step * panel_width;
      if (!in_column) {
        HCNR_UNROLL
        for (int r = 0; r < edge; ++r) {
          store_panel(panel + (r0 + r) * stride_, tile_column, tile[r]);
        }
        return;
      }
      Row columns[edge];
      Team::transpose(tile, columns);
      if (!in_row) {
        HCNR_UNROLL
        for (int c = 0; c < edge; ++c) {
          store_panel(panel + (c0 + c) * stride_, tile_row, columns[c]);
        }
        return;
      }
      HCNR_UNROLL
      for (int c = 0; c < edge; ++c) {
        Team::store_aligned(scratch_.diagonal + (c0 + c) * panel_width + r0, columns[c]);
      }
    });
    HCNR_KEEP_LOOP
    for (int e = team_.rank(); e < panel_width * panel_width; e += team_.size()) {
      const int k = e / panel_width, i = step * panel_width + e % panel_width;
      const int slot = Slot::of(i / edge, i % edge / Team::chunk, stride_) + i % Team::chunk;
      panel[k * stride_ + slot] = Scalar(k == e % panel_width);
    }
  }

  HCNR_DEVICE void store_panel(Scalar* row, int tile, const Row& values) {
    Team::store_chunks(row, tile, stride_, values);
  }

  // L_KK from the diagonal tile, in lanes: lane i holds column i.
  HCNR_DEVICE void factor_diagonal(int step) {
    int failing = 0;
    HCNR_KEEP_LOOP
    for (int begin = 0; begin < panel_width; begin += portion) {
      Lane x[portion];
      load_columns(x, scratch_.diagonal + team_.lane(), panel_width, begin);
      HCNR_UNROLL
      for (int j = 0; j < portion; ++j) {
        const Scalar pivot = team_.broadcast(x[j], begin + j);
        const bool good = pivot > 0 && pivot <= largest;
        failing = !good && failing == 0 ? step * panel_width + begin + j + 1 : failing;
        const Scalar reciprocal = Team::reciprocal_root(good ? pivot : Scalar(1));
        const Lane own = x[j] * reciprocal;
        Team::store_lanes(scratch_.diagonal + (begin + j) * panel_width + team_.lane(), own);
        if (team_.lane() == 0) {
          scratch_.reciprocals[begin + j] = reciprocal;
        }
        HCNR_UNROLL
        for (int r = j + 1; r < portion; ++r) {
          x[r] = x[r] - own * team_.broadcast(own, begin + r);
        }
      }
      team_.sync_lanes();
    }
    if (team_.lane() == 0 && failing != 0) {
      *scratch_.status = failing;
    }
  }

  // Some columns of the panel, or of its diagonal tile, less what those before them explain.
  HCNR_DEVICE void load_columns(Lane* x, const Scalar* from, int stride, int begin) {
    HCNR_UNROLL
    for (int r = 0; r < portion; ++r) {
      x[r] = Team::load_lanes(from + (begin + r) * stride);
    }
    HCNR_KEEP_LOOP
    for (int k = 0; k < begin; ++k) {
      const Lane known = Team::load_lanes(from + k * stride);
      HCNR_UNROLL
      for (int r = 0; r < portion; ++r) {
        x[r] = x[r] - known * scratch_.diagonal[k * panel_width + begin + r];
      }
    }
  }

  // P = (panel) L_KK^-T by substitution, a row of P per lane.
  HCNR_DEVICE void solve(Scalar* panel) {
    for (int slot = team_.rank() * lanes; slot < stride_; slot += team_.size() * lanes) {
      if (Slot::neuron(slot, stride_) >= width_) {
        continue;
      }
      HCNR_KEEP_LOOP
      for (int begin = 0; begin < panel_width; begin += portion) {
        Lane x[portion];
        load_columns(x, panel + slot, stride_, begin);
        HCNR_UNROLL
        for (int j = 0; j < portion; ++j) {
          x[j] = x[j] * scratch_.reciprocals[begin + j];
          HCNR_UNROLL
          for (int r = j + 1; r < portion; ++r) {
            x[r] = x[r] - x[j] * scratch_.diagonal[(begin + j) * panel_width + begin + r];
          }
          Team::store_lanes(panel + (begin + j) * stride_ + slot, x[j]);
        }
      }
    }
  }

  // (I, J) -= P_I P_J^T, row and column K cleared first.
  HCNR_DEVICE void update(const Scalar* panel, int step) {
    team_.each_tile(size_, [&](int tile_row, int tile_column, Row* tile) {
      const int panel_row = tile_row / panel_tiles, panel_column = tile_column / panel_tiles;
      if (problem_.mode == Mode::factor && panel_row <= step) {
        if (panel_row == step) {
          keep_inverse_factor(tile, panel, tile_row % panel_tiles * edge, tile_column);
        }
        return;
      }
      if (panel_row == step || panel_column == step) {
        if (problem_.mode == Mode::factor) {
          store_factor(tile, panel, tile_row, tile_column);
        }
        HCNR_UNROLL
        for (int r = 0; r < edge; ++r) {
          tile[r] = Row{};
        }
      }
      Team::subtract_products(tile, panel, tile_row, tile_column, stride_);
    });
  }

  // The tile (K, J) of L^-1 is P_J^T: it stays where it is.
  HCNR_DEVICE void keep_inverse_factor(Row* tile, const Scalar* panel, int r0, int tile_column) {
    HCNR_UNROLL
    for (int r = 0; r < edge; ++r) {
      tile[r] = Team::load_chunks(panel + (r0 + r) * stride_, tile_column, stride_);
    }
  }

  // The tile (I, K) of L is P_I: it leaves, and makes room for sums.
  HCNR_DEVICE void store_factor(Row* tile, const Scalar* panel, int tile_row, int tile_column) {
    const int i0 = tile_row * edge, j0 = tile_column * edge, c0 = j0 % panel_width;
    Row columns[edge];
    HCNR_UNROLL
    for (int c = 0; c < edge; ++c) {
      columns[c] = Team::load_chunks(panel + (c0 + c) * stride_, tile_row, stride_);
    }
    Team::transpose(columns, tile);
    const Matrix to = factor();
    store_tile(to.at(i0, j0), to.stride, tile, size_ - i0, size_ - j0);
  }

  // L_KK; what lies above its diagonal tiles is cleared at the end.
  HCNR_DEVICE void store_diagonal(int step) {
    const Matrix to = factor();
    const int begin = step * panel_width;
    HCNR_KEEP_LOOP
    for (int e = team_.rank(); e < panel_width * panel_width; e += team_.size()) {
      const int r = e / panel_width, c = e % panel_width;
      if (begin + r < size_ && begin + c < size_ && c / edge <= r / edge) {
        *to.at(begin + r, begin + c) = c > r ? Scalar(0) : scratch_.diagonal[c * panel_width + r];
      }
    }
  }

  HCNR_DEVICE void store_inverse_factor() {
    const Matrix to = output();
    team_.each_tile(size_, [&](int tile_row, int tile_column, Row* tile) {
      const int i0 = tile_row * edge, j0 = tile_column * edge;
      store_tile(to.at(i0, j0), to.stride, tile, size_ - i0, size_ - j0);
    });
  }

};

}  // namespace HCNR_VARIANT
}  // namespace hcnr
