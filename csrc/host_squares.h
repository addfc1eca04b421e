// Sums of squares along rows or down columns: float32 in short sums, float64 beyond them.
#pragma once

#include <cstring>

#include "host_team.h"
#include "squares.h"

namespace hcnr {
namespace HCNR_VARIANT {

using Floats = Register<float>::Type;
constexpr int float_width = register_bytes / sizeof(float);
// Of all instruction sets, so that each adds in the same order.
constexpr int lanes = 32;
constexpr int lane_parts = lanes / float_width;
// Columns whose sums stay in the nearest cache, and rows that are added in float32.
constexpr int strip = 1024, stretch = 64;

using Bfloat16 = std::uint16_t;

inline float widened(float value) { return value; }
inline float widened(Bfloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline Floats several(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}
inline Floats several(const Bfloat16* from) {
  typedef std::uint16_t Narrow __attribute__((vector_size(register_bytes / 2)));
  typedef std::uint32_t Wide __attribute__((vector_size(register_bytes)));
  Narrow stored;
  std::memcpy(&stored, from, sizeof stored);
  const Wide bits = __builtin_convertvector(stored, Wide) << 16;
  Floats values;
  std::memcpy(&values, &bits, sizeof values);
  return values;
}

template <class Type>
void row_squares(const Type* base, const Type* tuned, std::int64_t count, double* change,
                 double* whole) {
  Floats changes[lane_parts] = {}, wholes[lane_parts] = {};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    HCNR_UNROLL
    for (int part = 0; part < lane_parts; ++part) {
      const Floats original = several(base + i + part * float_width);
      const Floats moved = original - several(tuned + i + part * float_width);
      changes[part] += moved * moved;
      wholes[part] += original * original;
    }
  }
  float sums[2][lanes];
  std::memcpy(sums[0], changes, sizeof sums[0]);
  std::memcpy(sums[1], wholes, sizeof sums[1]);
  for (int lane = 0; i < count; ++i, ++lane) {
    const float original = widened(base[i]), moved = original - widened(tuned[i]);
    sums[0][lane] += moved * moved;
    sums[1][lane] += original * original;
  }
  double totals[2] = {};
  for (int lane = 0; lane < lanes; ++lane) {
    totals[0] += sums[0][lane];
    totals[1] += sums[1][lane];
  }
  *change = totals[0];
  *whole = totals[1];
}

// Columns `first` to `first + count`, of which there are at most `strip`.
template <class Type>
void strip_squares(const Squares& squares, std::int64_t first, std::int64_t count) {
  const auto* base = static_cast<const Type*>(squares.base) + first;
  const auto* tuned = static_cast<const Type*>(squares.tuned) + first;
  double* const totals[2] = {squares.change + first, squares.whole + first};
  for (std::int64_t i = 0; i < count; ++i) {
    totals[0][i] = totals[1][i] = 0.0;
  }
  float sums[2][strip];
  for (std::int64_t begin = 0; begin < squares.rows; begin += stretch) {
    std::memset(sums, 0, sizeof sums);
    const std::int64_t end = begin + stretch < squares.rows ? begin + stretch : squares.rows;
    for (std::int64_t row = begin; row < end; ++row) {
      const Type* const originals = base + row * squares.base_stride;
      const Type* const others = tuned + row * squares.tuned_stride;
      std::int64_t i = 0;
      for (; i + float_width <= count; i += float_width) {
        const Floats original = several(originals + i), moved = original - several(others + i);
        const Floats change = several(sums[0] + i) + moved * moved;
        const Floats whole = several(sums[1] + i) + original * original;
        std::memcpy(sums[0] + i, &change, sizeof change);
        std::memcpy(sums[1] + i, &whole, sizeof whole);
      }
      for (; i < count; ++i) {
        const float original = widened(originals[i]), moved = original - widened(others[i]);
        sums[0][i] += moved * moved;
        sums[1][i] += original * original;
      }
    }
    for (int which = 0; which < 2; ++which) {
      for (std::int64_t i = 0; i < count; ++i) {
        totals[which][i] += sums[which][i];
      }
    }
  }
}

// The neurons from `begin` to `end`.
template <class Type>
void squares_between(const Squares& squares, std::int64_t begin, std::int64_t end) {
  if (!squares.by_row) {
    for (std::int64_t first = begin; first < end; first += strip) {
      strip_squares<Type>(squares, first, end - first < strip ? end - first : strip);
    }
    return;
  }
  for (std::int64_t row = begin; row < end; ++row) {
    row_squares(static_cast<const Type*>(squares.base) + row * squares.base_stride,
                static_cast<const Type*>(squares.tuned) + row * squares.tuned_stride,
                squares.columns, squares.change + row, squares.whole + row);
  }
}

}  // namespace HCNR_VARIANT
}  // namespace hcnr
