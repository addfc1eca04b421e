// hcnr_kernels._native: addresses and a stream handle in, nothing of torch.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>

#include "host.h"
#include "squares.h"
#ifdef HCNR_WITH_CUDA
#include "device.h"
#endif

#ifndef HCNR_WITHOUT_CUDA_REASON
#define HCNR_WITHOUT_CUDA_REASON ""
#endif
#ifndef HCNR_COMPILERS
#define HCNR_COMPILERS ""
#endif

namespace py = pybind11;

namespace {

using hcnr::Block;
using hcnr::Mode;
using hcnr::Problem;

void require(bool condition, const std::string& sentence) {
  if (!condition) {
    throw py::value_error(sentence);
  }
}

bool is_wide(const std::string& dtype) {
  require(dtype == "float32" || dtype == "float64",
          "dtype must be 'float32' or 'float64', not '" + dtype + "'.");
  return dtype == "float64";
}

bool is_cuda(const std::string& device) {
  require(device == "cpu" || device == "cuda",
          "device must be 'cpu' or 'cuda', not '" + device + "'.");
  return device == "cuda";
}

Mode as_mode(const std::string& mode) {
  require(mode == "inverse" || mode == "factor",
          "mode must be 'inverse' or 'factor', not '" + mode + "'.");
  return mode == "factor" ? Mode::factor : Mode::inverse;
}

std::string cuda_trouble() {
#ifdef HCNR_WITH_CUDA
  return hcnr::device_trouble();
#else
  return "built without CUDA: " HCNR_WITHOUT_CUDA_REASON;
#endif
}

int max_size(const std::string& dtype, const std::string& device) {
  const bool wide = is_wide(dtype);
#ifdef HCNR_WITH_CUDA
  return is_cuda(device) ? hcnr::device_max_size(wide) : hcnr::host_max_size;
#else
  (void)wide;
  return is_cuda(device) ? 0 : hcnr::host_max_size;
#endif
}

void check_block(const Block& block, const Problem& problem, const std::string& which) {
  require(block.size >= 0 && block.size <= problem.largest,
          which + " has size " + std::to_string(block.size) + ", not 0 to " +
              std::to_string(problem.largest) + ".");
  if (block.size == 0) {
    return;
  }
  const bool factors = problem.mode == Mode::factor;
  require(block.input != 0 && block.output != 0 && (!factors || block.factor != 0),
          which + " has a null address.");
  require(block.input_stride >= block.size && block.output_stride >= block.size &&
              (!factors || block.factor_stride >= block.size),
          which + " has rows that overlap: a row stride is below its size.");
}

struct Call {
  std::string device;
  int ordinal;
  std::uintptr_t stream;
  int threads;
};

void run(Problem& problem, const Call& call, const std::string& dtype, std::uintptr_t shifts,
         std::uintptr_t status, std::uintptr_t norms) {
  const bool cuda = is_cuda(call.device);
  const int limit = max_size(dtype, call.device);
  require(!cuda || limit > 0, cuda_trouble() + ".");
  require(problem.count >= 0 && problem.count < (std::int64_t{1} << 31),
          "count must be between 0 and 2^31 - 1, not " + std::to_string(problem.count) + ".");
  require(problem.largest >= 0,
          "size must not be negative: " + std::to_string(problem.largest) + ".");
  require(problem.largest <= limit,
          "blocks of " + std::to_string(problem.largest) + " are too large: the limit is " +
              std::to_string(limit) + " for " + dtype + " on " + call.device + ".");
  if (problem.count == 0) {
    return;
  }
  require(shifts != 0 && status != 0 && norms != 0,
          "shifts, status and norms must be addresses, not null.");
  problem.shifts = reinterpret_cast<const void*>(shifts);
  problem.status = reinterpret_cast<std::int32_t*>(status);
  problem.norms = reinterpret_cast<void*>(norms);
  if (problem.table == nullptr) {
    check_block(problem.first, problem, "The stack");
  } else if (!cuda) {
    for (std::int64_t i = 0; i < problem.count; ++i) {
      check_block(problem.table[i], problem, "Block " + std::to_string(i));
    }
  }
  const py::gil_scoped_release release;
  if (!cuda) {
    hcnr::invert_on_host(problem, std::max(1, call.threads));
    return;
  }
#ifdef HCNR_WITH_CUDA
  hcnr::invert_on_device(problem, call.ordinal, call.stream);
#endif
}

void invert_stack(std::int64_t count, std::int64_t size, const py::tuple& input,
                  const py::tuple& output, const py::object& factor, std::uintptr_t shifts,
                  std::uintptr_t status, std::uintptr_t norms, const std::string& dtype,
                  const std::string& mode, const std::string& device, int ordinal,
                  std::uintptr_t stream, int threads) {
  Problem problem{};
  problem.count = count;
  problem.wide = is_wide(dtype);
  problem.mode = as_mode(mode);
  problem.largest = static_cast<int>(std::min<std::int64_t>(size, 1 << 20));
  problem.first.size = size;
  const std::int64_t bytes = problem.wide ? 8 : 4;
  const auto place = [bytes](const py::tuple& where, std::int64_t& address, std::int64_t& stride,
                             std::int64_t& step) {
    require(where.size() == 3, "A place must be (address, stride between blocks, row stride).");
    address = where[0].cast<std::int64_t>();
    step = where[1].cast<std::int64_t>() * bytes;
    stride = where[2].cast<std::int64_t>();
  };
  place(input, problem.first.input, problem.first.input_stride, problem.input_step);
  place(output, problem.first.output, problem.first.output_stride, problem.output_step);
  if (!factor.is_none()) {
    place(factor.cast<py::tuple>(), problem.first.factor, problem.first.factor_stride,
          problem.factor_step);
  }
  run(problem, {device, ordinal, stream, threads}, dtype, shifts, status, norms);
}

void invert_table(std::int64_t count, std::uintptr_t table, int largest, std::uintptr_t shifts,
                  std::uintptr_t status, std::uintptr_t norms, const std::string& dtype,
                  const std::string& mode, const std::string& device, int ordinal,
                  std::uintptr_t stream, int threads) {
  Problem problem{};
  problem.count = count;
  problem.wide = is_wide(dtype);
  problem.mode = as_mode(mode);
  problem.largest = largest;
  problem.table = reinterpret_cast<const Block*>(table);
  require(table != 0 || count == 0, "table must be an address, not null.");
  run(problem, {device, ordinal, stream, threads}, dtype, shifts, status, norms);
}

void sum_squares(std::int64_t rows, std::int64_t columns, const py::tuple& base,
                 const py::tuple& tuned, std::uintptr_t change, std::uintptr_t whole,
                 const std::string& dtype, bool by_row, int threads) {
  require(dtype == "float32" || dtype == "bfloat16",
          "dtype must be 'float32' or 'bfloat16', not '" + dtype + "'.");
  require(rows > 0 && columns > 0, "There must be rows and columns.");
  require(base.size() == 2 && tuned.size() == 2, "A place must be (address, row stride).");
  hcnr::Squares squares{};
  squares.rows = rows;
  squares.columns = columns;
  squares.stored = dtype == "float32" ? hcnr::Stored::float32 : hcnr::Stored::bfloat16;
  squares.by_row = by_row;
  squares.base = reinterpret_cast<const void*>(base[0].cast<std::uintptr_t>());
  squares.tuned = reinterpret_cast<const void*>(tuned[0].cast<std::uintptr_t>());
  squares.base_stride = base[1].cast<std::int64_t>();
  squares.tuned_stride = tuned[1].cast<std::int64_t>();
  squares.change = reinterpret_cast<double*>(change);
  squares.whole = reinterpret_cast<double*>(whole);
  require(squares.base != nullptr && squares.tuned != nullptr && change != 0 && whole != 0,
          "All places must be addresses, not null.");
  require(rows == 1 || (squares.base_stride >= columns && squares.tuned_stride >= columns),
          "Rows overlap: a row stride is below the number of columns.");
  const py::gil_scoped_release release;
  hcnr::squares_on_host(squares, std::max(1, threads));
}

py::list architectures() {
  py::list numbers;
#ifdef HCNR_WITH_CUDA
  for (const int number : hcnr::architectures()) {
    numbers.append(number);
  }
#endif
  return numbers;
}

py::dict build_info() {
  py::dict info;
  info["compilers"] = HCNR_COMPILERS;
  info["architectures"] = architectures();
  info["host"] = hcnr::host_variant();
#ifdef HCNR_WITH_CUDA
  info["cuda"] = true;
#else
  info["cuda"] = false;
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Batched damped Cholesky inverses, see docs/cholesky.md, and sums of squares.";
  module.def("invert_stack", &invert_stack, py::kw_only(), py::arg("count"), py::arg("size"),
             py::arg("input"), py::arg("output"), py::arg("factor") = py::none(),
             py::arg("shifts"), py::arg("status"), py::arg("norms"), py::arg("dtype"),
             py::arg("mode") = "inverse", py::arg("device") = "cpu", py::arg("ordinal") = 0,
             py::arg("stream") = 0, py::arg("threads") = 1,
             "Blocks of one size at equal distances. `input`, `output` and `factor` are (address, "
             "elements from one block to the next, elements from one row to the next).");
  module.def("invert_table", &invert_table, py::kw_only(), py::arg("count"), py::arg("table"),
             py::arg("largest"), py::arg("shifts"), py::arg("status"), py::arg("norms"),
             py::arg("dtype"), py::arg("mode") = "inverse", py::arg("device") = "cpu",
             py::arg("ordinal") = 0, py::arg("stream") = 0, py::arg("threads") = 1,
             "Unequal blocks. `table` is the address of int64 [count, 7]: input, row stride, "
             "output, row stride, factor, row stride, size.");
  module.def("sum_squares", &sum_squares, py::kw_only(), py::arg("rows"), py::arg("columns"),
             py::arg("base"), py::arg("tuned"), py::arg("change"), py::arg("whole"),
             py::arg("dtype"), py::arg("by_row"), py::arg("threads") = 1,
             "Sums of (base - tuned)^2 and of base^2 along every row, or down every column, on the "
             "host. `base` and `tuned` are (address, elements from one row to the next), of "
             "'float32' or 'bfloat16'; `change` and `whole` are addresses of float64.");
  module.def("max_size", &max_size, py::arg("dtype"), py::arg("device"),
             "The largest block for 'float32' or 'float64' on 'cpu' or 'cuda'; 0 for none.");
  module.def("cuda_trouble", &cuda_trouble, "Why CUDA cannot be used, or an empty string.");
  module.def("architectures", &architectures, "What the device code was compiled for, sm_80 as 800.");
  module.def("build_info", &build_info, "Compilers, architectures, host instruction set.");
}
