// compact(keep, tensors) for CUDA tensors: memory and stream are torch's, the kernels are in compact.cu.
//
// The number of kept rows is read once, so a call waits for the stream and cannot be captured in a CUDA graph.
#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

#include "compact.h"

namespace bump {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::vector<Tensor> compact(Tensor keep, std::vector<Tensor> tensors) {
  STD_TORCH_CHECK(keep.dim() == 1 && keep.scalar_type() == ScalarType::Bool, "keep must be a bool tensor [M]");
  const int64_t rows = keep.size(0);
  const int32_t device = keep.get_device_index();
  for (const Tensor& t : tensors)
    STD_TORCH_CHECK(t.dim() >= 1 && t.size(0) == rows && t.is_cuda() && t.get_device_index() == device,
                    "tensors must be [M, ...] on the device of keep");
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
                  "compact: torch has no current CUDA stream");

  keep = torch::stable::contiguous(keep);
  Tensor scratch = torch::stable::new_empty(keep, {rows + 1}, ScalarType::Long);
  int64_t* index = static_cast<int64_t*>(scratch.mutable_data_ptr());
  int64_t kept = 0;
  const char* error =
      select_rows(device, stream, static_cast<const unsigned char*>(keep.const_data_ptr()), rows, index, &kept);
  STD_TORCH_CHECK(error == nullptr, "compact: selecting rows failed: ", error);

  // `sources` keeps contiguous copies alive until the launch; the allocator orders what comes after by the stream.
  std::vector<Tensor> sources, results;
  std::vector<Copy> copies;
  for (const Tensor& t : tensors) {
    sources.push_back(torch::stable::contiguous(t));
    std::vector<int64_t> size{kept};
    int64_t row_bytes = static_cast<int64_t>(t.element_size());
    for (int64_t i = 1; i < t.dim(); i++) {
      size.push_back(t.size(i));
      row_bytes *= t.size(i);
    }
    results.push_back(torch::stable::new_empty(t, size));
    if (kept > 0 && row_bytes > 0)
      copies.push_back({static_cast<const char*>(sources.back().const_data_ptr()),
                        static_cast<char*>(results.back().mutable_data_ptr()), row_bytes});
  }
  error = gather_rows(device, stream, copies.data(), static_cast<int64_t>(copies.size()), index, kept);
  STD_TORCH_CHECK(error == nullptr, "compact: moving rows failed: ", error);
  return results;
}

}  // namespace
}  // namespace bump

STABLE_TORCH_LIBRARY_IMPL(bumpnet_fast, CUDA, m) { m.impl("compact", TORCH_BOX(&bump::compact)); }

// The module has no Python content: importing it registers the operator.
PyMODINIT_FUNC PyInit__C_cuda(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&definition);
}
