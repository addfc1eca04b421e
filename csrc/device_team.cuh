// A thread block as a team: one tile per thread, in registers; lanes are threads of the first warp.
#pragma once

#include "rows.h"

namespace hcnr {
namespace device {

// `Largest`: no block is larger.
template <class Type, int Edge, int Largest>
class DeviceTeam : public PlainTiles<Type, Edge, 16 / sizeof(Type)> {
 public:
  using Row = typename PlainTiles<Type, Edge, 16 / sizeof(Type)>::Row;
  using Lane = Type;
  static constexpr int lanes = 1;
  // 512 threads and more, with a tile of 8 each, have few registers for anything else.
  static constexpr int portion = Edge == 4 ? 8 : Largest <= 128 ? 4 : 2;

  __device__ __forceinline__ DeviceTeam() : place_(place(threadIdx.x)) {}

  // A constant distance of panel rows makes every address a constant too.
  __device__ __forceinline__ static constexpr int stride(int) { return Largest; }

  __device__ __forceinline__ int rank() const { return threadIdx.x; }
  __device__ __forceinline__ int size() const { return blockDim.x; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ bool leads() const { return rank() < panel_width; }
  __device__ __forceinline__ int lane() const { return rank(); }

  __device__ __forceinline__ void raise(int* status, int code) const { atomicExch(status, code); }

  // Values are not negative, and such numbers are ordered like their bits, NaN last.
  __device__ __forceinline__ void maximum(float* slot, float value) const {
    atomicMax(reinterpret_cast<int*>(slot), __float_as_int(fabsf(value)));
  }
  __device__ __forceinline__ void maximum(double* slot, double value) const {
    atomicMax(reinterpret_cast<long long*>(slot), __double_as_longlong(fabs(value)));
  }

  template <class Body>
  __device__ __forceinline__ void each_tile(int size, const Body& body) {
    if (rank() < tile_count(size, Edge)) {
      body(place_.row, place_.column, own_);
    }
  }

  __device__ __forceinline__ static void sync_lanes() { __syncwarp((1u << panel_width) - 1); }
  __device__ __forceinline__ static Lane load_lanes(const Type* from) { return *from; }
  __device__ __forceinline__ static void store_lanes(Type* to, Lane lane) { *to = lane; }
  __device__ __forceinline__ static Type element(Lane lane, int) { return lane; }
  __device__ __forceinline__ static Type broadcast(Lane lane, int index) {
    return __shfl_sync((1u << panel_width) - 1, lane, index);
  }
  __device__ __forceinline__ static float reciprocal_root(float value) { return rsqrtf(value); }
  __device__ __forceinline__ static double reciprocal_root(double value) { return rsqrt(value); }

 private:
  const Place place_;
  Row own_[Edge];
};

}  // namespace device
}  // namespace hcnr
