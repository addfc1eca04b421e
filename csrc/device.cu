#include "device.h"

#include <cuda_runtime.h>

#include <stdexcept>

#include "cholesky.h"
#include "device_team.cuh"

namespace hcnr {
namespace device {

// Blocks up to 64 have tiles of 4, which make more threads; larger ones have tiles of 8, which halve
// the traffic of shared memory.
template <class Scalar, int Edge, int Largest>
struct SizeClass {
  using Team = DeviceTeam<Scalar, Edge, Largest>;
  static constexpr int threads(int size) {
    return (larger(tile_count(size, Edge), panel_width) + 31) / 32 * 32;
  }
  static constexpr int most_threads = threads(Largest);
  static constexpr int shared = scratch_scalars(Largest, Edge, Largest) * sizeof(Scalar);
  static_assert(shared <= 48 * 1024, "what every device grants without being asked");
};

template <class Sizes, Mode mode>
__global__ void __launch_bounds__(Sizes::most_threads, 1) invert_blocks(Problem problem) {
  extern __shared__ __align__(16) unsigned char memory[];
  problem.mode = mode;
  typename Sizes::Team team;
  Inversion<typename Sizes::Team>::run(
      team, problem, blockIdx.x,
      reinterpret_cast<typename Sizes::Team::Scalar*>(memory));
}

void check(cudaError_t code) {
  if (code != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(code) + ".");
  }
}

template <class Sizes>
void launch(const Problem& problem, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(problem.count);
  const int threads = Sizes::threads(problem.largest);
  if (problem.mode == Mode::inverse) {
    invert_blocks<Sizes, Mode::inverse><<<blocks, threads, Sizes::shared, stream>>>(problem);
  } else {
    invert_blocks<Sizes, Mode::factor><<<blocks, threads, Sizes::shared, stream>>>(problem);
  }
}

}  // namespace device

void invert_on_device(const Problem& problem, int ordinal, std::uintptr_t handle) {
  using namespace device;
  const auto stream = reinterpret_cast<cudaStream_t>(handle);
  // The caller has made the device its thread's own, by the runtime that it uses. The static runtime
  // here may have an older idea of it; it is told, and nothing is put back: to put another device's
  // context in place would be behind the caller's back.
  int known = 0;
  check(cudaGetDevice(&known));
  if (known != ordinal) {
    check(cudaSetDevice(ordinal));
  }
  cudaGetLastError();  // an error of somebody else's
  if (problem.wide && problem.largest <= 64) {
    launch<SizeClass<double, 4, 64>>(problem, stream);
  } else if (problem.wide) {
    launch<SizeClass<double, 4, device_max_size(true)>>(problem, stream);
  } else if (problem.largest <= 64) {
    launch<SizeClass<float, 4, 64>>(problem, stream);
  } else if (problem.largest <= 128) {
    launch<SizeClass<float, 8, 128>>(problem, stream);
  } else {
    launch<SizeClass<float, 8, device_max_size(false)>>(problem, stream);
  }
  check(cudaGetLastError());
}

std::string device_trouble() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess) {
    cudaGetLastError();  // forget it
    return std::string("no CUDA device: ") + cudaGetErrorString(code);
  }
  return count == 0 ? "no CUDA device" : "";
}

// The compiler lists what it was asked for.
std::vector<int> architectures() { return {__CUDA_ARCH_LIST__}; }

}  // namespace hcnr
