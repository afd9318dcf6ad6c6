// compact(keep, tensors) on the CPU: the kept rows of several tensors, in order, whatever their dtype.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstring>
#include <vector>

namespace bump {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Run {
  int64_t first, count;  // kept rows that follow each other: one copy
};

// A flag is a byte: a bool tensor made as a view of others may hold more than 0 and 1.
std::vector<Run> runs_of(const unsigned char* keep, int64_t rows) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < rows; i++) {
    if (!keep[i]) continue;
    if (runs.empty() || runs.back().first + runs.back().count != i) runs.push_back({i, 0});
    runs.back().count++;
  }
  return runs;
}

Tensor gather(const Tensor& tensor, const std::vector<Run>& runs, int64_t kept) {
  const Tensor from = torch::stable::contiguous(tensor);
  std::vector<int64_t> size{kept};
  int64_t row_bytes = from.element_size();
  for (int64_t i = 1; i < from.dim(); i++) {
    size.push_back(from.size(i));
    row_bytes *= from.size(i);
  }
  Tensor result = torch::stable::new_empty(from, size);
  if (kept == 0 || row_bytes == 0) return result;
  const char* in = static_cast<const char*>(from.const_data_ptr());
  char* out = static_cast<char*>(result.mutable_data_ptr());
  for (const Run& run : runs) {
    std::memcpy(out, in + run.first * row_bytes, run.count * row_bytes);
    out += run.count * row_bytes;
  }
  return result;
}

std::vector<Tensor> compact(Tensor keep, std::vector<Tensor> tensors) {
  STD_TORCH_CHECK(keep.dim() == 1 && keep.scalar_type() == ScalarType::Bool, "keep must be a bool tensor [M]");
  const int64_t rows = keep.size(0);
  for (const Tensor& t : tensors)
    STD_TORCH_CHECK(t.dim() >= 1 && t.size(0) == rows && t.is_cpu(), "tensors must be [M, ...] on the device of keep");
  keep = torch::stable::contiguous(keep);
  const auto runs = runs_of(static_cast<const unsigned char*>(keep.const_data_ptr()), rows);
  int64_t kept = 0;
  for (const Run& run : runs) kept += run.count;
  std::vector<Tensor> results;
  for (const Tensor& t : tensors) results.push_back(gather(t, runs, kept));
  return results;
}

}  // namespace
}  // namespace bump

STABLE_TORCH_LIBRARY_IMPL(bumpnet_fast, CPU, m) { m.impl("compact", TORCH_BOX(&bump::compact)); }
