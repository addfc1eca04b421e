// The device's algorithm in the device's shape, by host threads: for ThreadSanitizer, which sees a
// missing synchronisation even where the values happen to be right.
//
// A team is 33 threads, so that tiles do not divide evenly, and every thread is one lane: 16 of
// them exchange values through memory where a device shuffles. `races N` leaves out the N-th
// synchronisation of a block, `races -1` those of lanes: each must then be reported.
#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../cholesky.h"
#include "../rows.h"

namespace {

using namespace hcnr;
using namespace hcnr::device;

constexpr int threads = 33;
int left_out = 0;

struct Meeting {
  std::barrier<> all{threads}, lanes{panel_width};
};

template <class Type, int Edge, int Largest, int Portion>
class ThreadTeam : public PlainTiles<Type, Edge, 16 / sizeof(Type)> {
 public:
  using Row = typename PlainTiles<Type, Edge, 16 / sizeof(Type)>::Row;
  using Lane = Type;
  static constexpr int lanes = 1, portion = Portion, largest = Largest;
  struct Shared {
    Meeting meeting;
    Type exchange[panel_width];
    std::vector<Row> tiles = std::vector<Row>(tile_count(Largest, Edge) * Edge);
    std::vector<double> memory = std::vector<double>(scratch_scalars(Largest, Edge, Largest));
  };

  ThreadTeam(Shared& shared, int rank) : shared_(shared), rank_(rank) {}

  static int stride(int) { return Largest; }
  int rank() const { return rank_; }
  int size() const { return threads; }
  bool leads() const { return rank_ < panel_width; }
  int lane() const { return rank_; }

  void sync() {
    if (++syncs_ != left_out) {
      shared_.meeting.all.arrive_and_wait();
    }
  }
  void sync_lanes() {
    if (left_out >= 0) {
      shared_.meeting.lanes.arrive_and_wait();
    }
  }
  Type broadcast(Type value, int index) {
    shared_.exchange[rank_] = value;
    sync_lanes();
    const Type result = shared_.exchange[index];
    sync_lanes();
    return result;
  }

  // Where a device uses atomic instructions, so that several threads may come at once.
  void raise(int* status, int code) const { std::atomic_ref<int>(*status).store(code); }
  void maximum(Type* slot, Type value) const {
    std::atomic_ref<Type> shared(*slot);
    Type before = shared.load();
    while (!(value <= before) && !shared.compare_exchange_weak(before, value)) {
    }
  }

  template <class Body>
  void each_tile(int size, const Body& body) {
    for (int tile = rank_; tile < tile_count(size, Edge); tile += threads) {
      const Place where = place(tile);
      body(where.row, where.column, shared_.tiles.data() + tile * Edge);
    }
  }

  static Lane load_lanes(const Type* from) { return *from; }
  static void store_lanes(Type* to, Lane lane) { *to = lane; }
  static Type element(Lane lane, int) { return lane; }
  static Type reciprocal_root(Type value) { return 1 / std::sqrt(value); }

 private:
  Shared& shared_;
  const int rank_;
  int syncs_ = 0;
};

// A well-conditioned matrix whose inverse nobody needs to know: A A^-1 is the identity.
double element(int i, int j) { return i == j ? 3 : std::cos(7.0 * (i + 1) * (j + 1)) / (1 + std::abs(i - j)); }

// What kind of block: a good one, NaN, not positive definite.
enum class Kind { good, nan, indefinite };

// Matrices whose rows may begin anywhere, and what becomes of one.
template <class Scalar>
struct Matrix {
  int size, stride, offset;
  std::vector<Scalar> values;

  Matrix(int size, int stride, int offset)
      : size(size), stride(stride), offset(offset), values(size * stride + offset, Scalar(-7)) {}
  Scalar& at(int i, int j) { return values[offset + i * stride + j]; }
  std::int64_t address() { return reinterpret_cast<std::int64_t>(values.data() + offset); }
};

template <class Scalar>
double norm(Matrix<Scalar>& matrix, double shift) {
  double largest = 0;
  for (int i = 0; i < matrix.size; ++i) {
    double sum = 0;
    for (int j = 0; j < matrix.size; ++j) {
      sum += std::abs(matrix.at(i, j) + (i == j ? shift : 0));
    }
    largest = std::max(largest, sum);
  }
  return largest;
}

template <class Scalar>
double residual(Matrix<Scalar>& input, Matrix<Scalar>& output, Matrix<Scalar>& factor, Mode mode,
                double shift) {
  const int size = input.size;
  double worst = 0;
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) {
      double product = 0, unit = 0;
      for (int k = 0; k < size; ++k) {
        const double a = input.at(i, k) + (i == k ? shift : 0);
        if (mode == Mode::inverse) {
          unit += a * output.at(k, j);
        } else {
          unit += double(factor.at(i, k)) * output.at(k, j);
          product += double(factor.at(i, k)) * factor.at(j, k);
        }
      }
      const double a = input.at(i, j) + (i == j ? shift : 0);
      worst = std::max(worst, std::abs(unit - (i == j)));
      worst = std::max(worst, mode == Mode::inverse ? 0 : std::abs(product - a));
    }
  }
  return worst;
}

// `offset`: how many scalars the rows lie behind an aligned address; a multiple of 4 apart.
template <class Team>
bool holds(int size, Mode mode, Kind kind, int offset = 0) {
  using Scalar = typename Team::Scalar;
  const Scalar shift = Scalar(0.25);
  const int stride = offset == 0 ? size : (size + 3) / 4 * 4;
  Matrix<Scalar> input(size, stride, offset), output(size, stride, offset), factor = output;
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) {
      input.at(i, j) = Scalar(element(i, j));
    }
  }
  if (kind != Kind::good) {
    input.at(size - 1, size - 1) = kind == Kind::nan ? Scalar(NAN) : Scalar(-9);
  }
  std::int32_t status = -7;
  Scalar norms[2];
  Problem problem{};
  problem.count = 1;
  problem.largest = size;
  problem.mode = mode;
  problem.first = {input.address(), stride, output.address(), stride, factor.address(), stride, size};
  problem.shifts = &shift;
  problem.status = &status;
  problem.norms = norms;
  typename Team::Shared shared;
  std::vector<std::thread> team;
  for (int rank = 0; rank < threads; ++rank) {
    team.emplace_back([&, rank] {
      Team member(shared, rank);
      Inversion<Team>::run(member, problem, 0, reinterpret_cast<Scalar*>(shared.memory.data()));
    });
  }
  for (std::thread& thread : team) {
    thread.join();
  }
  const int expected = kind == Kind::good ? 0 : kind == Kind::nan ? non_finite : size;
  double error = std::isnan(output.at(0, 0)) ? 0 : 1;
  if (kind == Kind::good) {
    error = residual(input, output, factor, mode, shift);
    error = std::max(error, std::abs(norms[0] / norm(input, shift) - 1));
    if (mode == Mode::inverse) {
      error = std::max(error, std::abs(norms[1] / norm(output, 0) - 1));
    }
  }
  const bool ok = status == expected && error < (sizeof(Scalar) == 4 ? 1e-5 : 1e-13);
  std::printf("edge %d size %d mode %d kind %d offset %d: status %d error %.1e%s\n", Team::edge, size,
              int(mode), int(kind), offset, status, error, ok ? "" : " WRONG");
  return ok;
}

template <class Team>
bool all_hold() {
  bool ok = true;
  for (const Mode mode : {Mode::inverse, Mode::factor}) {
    for (const int size : {1, 19, 48, Team::largest - 3}) {
      ok = holds<Team>(size, mode, Kind::good) && ok;
    }
    ok = holds<Team>(32, mode, Kind::good, 1) && ok;
    ok = holds<Team>(37, mode, Kind::nan) && holds<Team>(37, mode, Kind::indefinite) && ok;
  }
  return ok;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) {
    left_out = std::atoi(arguments[1]);
    // The first one matters only to a block that fails at once.
    const Kind kind = left_out == 1 ? Kind::nan : Kind::good;
    return holds<ThreadTeam<float, 8, 64, 4>>(48, Mode::inverse, kind) ? 0 : 1;
  }
  const bool narrow = all_hold<ThreadTeam<float, 4, 64, 8>>();
  const bool broad = all_hold<ThreadTeam<float, 8, 96, 4>>();
  const bool tight = all_hold<ThreadTeam<float, 8, 64, 2>>();
  const bool wide = all_hold<ThreadTeam<double, 4, 64, 8>>();
  return narrow && broad && tight && wide ? 0 : 1;
}
