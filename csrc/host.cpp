// Which instruction set, and which thread does which part.
#include "host.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "host_kernel.h"

namespace hcnr {

namespace {

struct Variant {
  const char* name;
  HostKernel kernel;
};

// HCNR_HOST_ISA asks for less than the processor has: `generic` or `avx2`.
Variant choose() {
  const char* asked = std::getenv("HCNR_HOST_ISA");
  const std::string most = asked == nullptr || *asked == '\0' ? "avx512" : asked;
  if (most != "generic" && most != "avx2" && most != "avx512") {
    throw std::invalid_argument("HCNR_HOST_ISA must be generic, avx2 or avx512, not '" + most + "'.");
  }
#ifdef HCNR_X86
  __builtin_cpu_init();
  if (most == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    return {"avx512", avx512::host_kernel()};
  }
  if (most != "generic" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {"avx2", avx2::host_kernel()};
  }
#endif
  return {"generic", generic::host_kernel()};
}

const Variant& variant() {
  static const Variant chosen = choose();
  return chosen;
}

class Memory {
 public:
  explicit Memory(std::size_t bytes)
      : address_(::operator new(bytes, std::align_val_t(host_alignment))) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::operator delete(address_, std::align_val_t(host_alignment)); }
  void* address() const { return address_; }

 private:
  void* address_;
};

// Starting a thread costs as much as this many operations.
constexpr double worth_a_thread = 2e6;

// The same as many elements to pass through.
constexpr std::int64_t elements_worth_a_thread = 1 << 20;

// `work` of thread 0 to `count` - 1, each in one of its own.
template <class Work>
void in_threads(std::int64_t count, const Work& work) {
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<std::size_t>(count));
  try {
    for (std::int64_t thread = 1; thread < count; ++thread) {
      helpers.emplace_back(work, thread);
    }
  } catch (const std::exception&) {
    // The system refuses more threads or memory for them: those there are do all the work.
  }
  work(0);
  for (std::thread& helper : helpers) {
    helper.join();
  }
}

}  // namespace

void invert_on_host(const Problem& problem, int threads) {
  const HostKernel& kernel = variant().kernel;
  const double work = static_cast<double>(problem.count) * problem.largest * problem.largest *
                      problem.largest;
  const std::int64_t useful = std::min<std::int64_t>(
      {threads, problem.count, static_cast<std::int64_t>(work / worth_a_thread) + 1});
  // Few blocks a turn, so that unequal ones spread; not one, so that the counter stays cheap.
  const std::int64_t turn = std::max<std::int64_t>(1, problem.count / (useful * 16));
  const std::size_t bytes = (kernel.bytes(problem) / host_alignment + 1) * host_alignment;
  const Memory memory(bytes * static_cast<std::size_t>(useful));
  std::atomic<std::int64_t> next{0};
  const auto work_on = [&](std::int64_t thread) {
    void* own = static_cast<char*>(memory.address()) + bytes * static_cast<std::size_t>(thread);
    for (;;) {
      const std::int64_t begin = next.fetch_add(turn);
      if (begin >= problem.count) {
        return;
      }
      kernel.run(problem, begin, std::min(begin + turn, problem.count), own);
    }
  };
  in_threads(useful, work_on);
}

void squares_on_host(const Squares& squares, int threads) {
  const HostKernel& kernel = variant().kernel;
  const std::int64_t neurons = squares.by_row ? squares.rows : squares.columns;
  const std::int64_t useful = std::min<std::int64_t>(
      {threads, neurons, squares.rows * squares.columns / elements_worth_a_thread + 1});
  // Turns of a multiple of what lies in one line of the cache.
  const std::int64_t turn = (neurons / (useful * 4) / 64 + 1) * 64;
  std::atomic<std::int64_t> next{0};
  in_threads(useful, [&](std::int64_t) {
    for (;;) {
      const std::int64_t begin = next.fetch_add(turn);
      if (begin >= neurons) {
        return;
      }
      kernel.squares(squares, begin, std::min(begin + turn, neurons));
    }
  });
}

const char* host_variant() { return variant().name; }

}  // namespace hcnr
