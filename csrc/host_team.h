// Host teams: 16 lanes are one vector of the compiler, and tiles of 16 lie in memory.
#pragma once

#include <cmath>
#include <cstring>
#include <utility>

#include "geometry.h"

#ifdef __has_builtin
#define HCNR_HAS_SHUFFLEVECTOR __has_builtin(__builtin_shufflevector)
#else
#define HCNR_HAS_SHUFFLEVECTOR 0
#endif

namespace hcnr {
namespace HCNR_VARIANT {

// One register. Left to itself, the compiler cuts vectors wider than registers badly.
#if defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif

template <class Scalar>
struct Register;

template <>
struct Register<float> {
  typedef float Type __attribute__((vector_size(register_bytes), may_alias));
  typedef std::int32_t Bits __attribute__((vector_size(register_bytes), may_alias));
  static constexpr std::int32_t magnitude = 0x7fffffff;
};

template <>
struct Register<double> {
  typedef double Type __attribute__((vector_size(register_bytes), may_alias));
  typedef std::int64_t Bits __attribute__((vector_size(register_bytes), may_alias));
  static constexpr std::int64_t magnitude = 0x7fffffffffffffff;
};

// 16 scalars in as many registers as they need.
template <class Scalar>
struct Vector16 {
  using Part = typename Register<Scalar>::Type;
  using Bits = typename Register<Scalar>::Bits;
  static constexpr int width = register_bytes / sizeof(Scalar), parts = 16 / width;
  Part part[parts];

  // Part by part: a copy of the whole becomes a copy through memory in smaller pieces.
  static Vector16 load(const Scalar* from) {
    return each([from](std::size_t i) {
      Part one;
      std::memcpy(&one, from + i * width, sizeof one);
      return one;
    });
  }
  void store(Scalar* to) const {
    HCNR_UNROLL
    for (int i = 0; i < parts; ++i) {
      std::memcpy(to + i * width, &part[i], sizeof part[i]);
    }
  }

  Scalar operator[](int i) const { return reinterpret_cast<const Scalar*>(part)[i]; }
  Scalar& operator[](int i) { return reinterpret_cast<Scalar*>(part)[i]; }

  // Without a loop, so that the parts stay in registers.
  template <class Operation>
  static Vector16 each(const Operation& operation) {
    return each(operation, std::make_index_sequence<parts>());
  }
  template <class Operation, std::size_t... I>
  static Vector16 each(const Operation& operation, std::index_sequence<I...>) {
    return {{operation(I)...}};
  }
  friend Vector16 operator+(const Vector16& a, const Vector16& b) {
    return each([&](std::size_t i) { return a.part[i] + b.part[i]; });
  }
  friend Vector16 operator-(const Vector16& a, const Vector16& b) {
    return each([&](std::size_t i) { return a.part[i] - b.part[i]; });
  }
  friend Vector16 operator*(const Vector16& a, Scalar b) {
    return each([&](std::size_t i) { return a.part[i] * b; });
  }
  Vector16 operator-() const {
    return each([&](std::size_t i) { return -part[i]; });
  }
  Vector16 magnitude() const {
    return each([&](std::size_t i) { return (Part)((Bits)part[i] & Register<Scalar>::magnitude); });
  }

  // a0 b0 a1 b1 ...: the first 16 of them, and the last.
  static void interleave(const Vector16& a, const Vector16& b, Vector16& first, Vector16& last) {
    HCNR_UNROLL
    for (int i = 0; i < 2 * parts; ++i) {
      Part& to = i < parts ? first.part[i] : last.part[i - parts];
      to = i % 2 == 0 ? lower(a.part[i / 2], b.part[i / 2]) : upper(a.part[i / 2], b.part[i / 2]);
    }
  }

 private:
#if HCNR_HAS_SHUFFLEVECTOR
  static Part lower(const Part& a, const Part& b) {
    if constexpr (width == 16) {
      return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    } else if constexpr (width == 8) {
      return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    } else if constexpr (width == 4) {
      return __builtin_shufflevector(a, b, 0, 4, 1, 5);
    } else {
      return __builtin_shufflevector(a, b, 0, 2);
    }
  }
  static Part upper(const Part& a, const Part& b) {
    if constexpr (width == 16) {
      return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                     31);
    } else if constexpr (width == 8) {
      return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    } else if constexpr (width == 4) {
      return __builtin_shufflevector(a, b, 2, 6, 3, 7);
    } else {
      return __builtin_shufflevector(a, b, 1, 3);
    }
  }
#else  // GCC before 12
  static Part lower(const Part& a, const Part& b) { return __builtin_shuffle(a, b, halves(0)); }
  static Part upper(const Part& a, const Part& b) {
    return __builtin_shuffle(a, b, halves(width / 2));
  }
  static Bits halves(int first) {
    Bits places{};
    for (int i = 0; i < width; ++i) {
      places[i] = first + i / 2 + (i % 2 == 0 ? 0 : width);
    }
    return places;
  }
#endif
};

// What 16 lanes do together, where a device uses half a warp.
template <class Type>
struct HostLanes {
  using Lane = Vector16<Type>;
  static constexpr int lanes = 16, portion = register_bytes == 64 ? 16 : 4;

  static int stride(int width) { return width; }
  static int lane() { return 0; }
  static void sync_lanes() {}
  static Lane load_lanes(const Type* from) { return Lane::load(from); }
  static void store_lanes(Type* to, const Lane& lane) { lane.store(to); }
  static Type broadcast(const Lane& lane, int index) { return lane[index]; }
  static Type element(const Lane& lane, int index) { return lane[index]; }
  static Type reciprocal_root(Type value) { return 1 / std::sqrt(value); }
};

// Tiles of 16 as vectors.
template <class Type>
struct VectorTiles {
  using Scalar = Type;
  using Row = Vector16<Type>;
  static constexpr int edge = 16, chunk = 16;
  // Rows of a tile that are updated at a time, as many as there are registers for.
  static constexpr int group = (register_bytes == 64 ? 16 : 8) / Row::parts;

  static Row load_row(const Scalar* from) { return Row::load(from); }
  static void store_row(Scalar* to, const Row& row) { row.store(to); }
  static Row load_aligned(const Scalar* from) { return load_row(from); }
  static void store_aligned(Scalar* to, const Row& row) { store_row(to, row); }
  static bool aligned(const Scalar*, std::int64_t) { return true; }  // vectors may lie anywhere
  static void store_chunks(Scalar* panel_row, int tile, int, const Row& row) {
    store_row(panel_row + tile * edge, row);
  }
  static Row load_chunks(const Scalar* panel_row, int tile, int) {
    return load_row(panel_row + tile * edge);
  }
  static void add_zeros(Row& sum, const Row& row) { sum = sum + row * Scalar(0); }
  static void negate(Row& row) { row = -row; }

  // Four rounds that each interleave the first half of the rows with the second.
  static void transpose(const Row* tile, Row* columns) {
    Row other[edge];
    interleave(tile, columns);
    interleave(columns, other);
    interleave(other, columns);
    interleave(columns, other);
    for (int i = 0; i < edge; ++i) {
      columns[i] = other[i];
    }
  }

  static void store_row_sums(Scalar* to, const Row* tile) {
    Row columns[edge];
    transpose(tile, columns);
    store_column_sums(to, columns);
  }
  static void store_column_sums(Scalar* to, const Row* tile) {
    Row sums{};
    for (int i = 0; i < edge; ++i) {
      sums = sums + tile[i].magnitude();
    }
    store_row(to, sums);
  }

  static void subtract_products(Row* tile, const Scalar* panel, int tile_row, int tile_column,
                                int stride) {
    for (int first = 0; first < edge; first += group) {
      subtract_rows(tile + first, panel + tile_row * edge + first, panel + tile_column * edge,
                    stride, std::make_index_sequence<group>(),
                    std::make_index_sequence<group * Row::parts>());
    }
  }

 private:
  // Constant indices everywhere: only then do the sums stay in registers.
  template <std::size_t... R, std::size_t... I>
  static void subtract_rows(Row* tile, const Scalar* a, const Scalar* b, int stride,
                            std::index_sequence<R...>, std::index_sequence<I...>) {
    constexpr std::size_t parts = Row::parts;
    Row sums[group] = {tile[R]...};
    for (int k = 0; k < panel_width; ++k, a += stride, b += stride) {
      const Row row = load_row(b);
      ((sums[I / parts].part[I % parts] -= row.part[I % parts] * a[I / parts]), ...);
    }
    ((tile[R] = sums[R]), ...);
  }

  static void interleave(const Row* from, Row* to) {
    HCNR_UNROLL
    for (int i = 0; i < edge / 2; ++i) {
      Row::interleave(from[i], from[i + edge / 2], to[2 * i], to[2 * i + 1]);
    }
  }
};

}  // namespace HCNR_VARIANT
}  // namespace hcnr
