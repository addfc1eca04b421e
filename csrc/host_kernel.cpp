// Blocks one after another, and sums of squares, by one thread. Compiled once per instruction set,
// see setup.py.
#include "host_kernel.h"

#include "cholesky.h"
#include "host_squares.h"
#include "host_team.h"

namespace hcnr {
namespace HCNR_VARIANT {

namespace {

template <class Type>
class SerialTeam : public VectorTiles<Type>, public HostLanes<Type> {
 public:
  using typename VectorTiles<Type>::Row;

  explicit SerialTeam(Row* tiles) : tiles_(tiles) {}

  int rank() const { return 0; }
  int size() const { return 1; }
  bool leads() const { return true; }
  void sync() const {}
  void raise(int* status, int code) const { *status = code; }
  void maximum(Type* slot, Type value) const { *slot = value; }

  template <class Body>
  void each_tile(int size, const Body& body) const {
    Row* tile = tiles_;
    for (int row = 0; row < padded(size) / this->edge; ++row) {
      for (int column = 0; column <= row; ++column, tile += this->edge) {
        body(row, column, tile);
      }
    }
  }

 private:
  Row* tiles_;
};

template <class Type>
void run(const Problem& problem, std::int64_t begin, std::int64_t end, void* memory) {
  using Team = SerialTeam<Type>;
  auto* tiles = static_cast<typename Team::Row*>(memory);
  auto* scratch = reinterpret_cast<Type*>(tiles + tile_count(problem.largest, Team::edge) * Team::edge);
  Team team(tiles);
  for (std::int64_t index = begin; index < end; ++index) {
    Inversion<Team>::run(team, problem, index, scratch);
  }
}

template <class Type>
std::size_t bytes(int largest) {
  const int edge = SerialTeam<Type>::edge;
  const int scalars = tile_count(largest, edge) * edge * edge + scratch_scalars(largest, edge, padded(largest));
  return static_cast<std::size_t>(scalars) * sizeof(Type);
}

}  // namespace

HostKernel host_kernel() {
  return {
      [](const Problem& problem, std::int64_t begin, std::int64_t end, void* memory) {
        (problem.wide ? run<double> : run<float>)(problem, begin, end, memory);
      },
      [](const Problem& problem) {
        return (problem.wide ? bytes<double> : bytes<float>)(problem.largest);
      },
      [](const Squares& squares, std::int64_t begin, std::int64_t end) {
        const bool wide = squares.stored == Stored::float32;
        (wide ? squares_between<float> : squares_between<Bfloat16>)(squares, begin, end);
      },
  };
}

}  // namespace HCNR_VARIANT
}  // namespace hcnr
