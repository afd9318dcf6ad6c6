// The kernels of compact(keep, tensors) and their launches; without a torch header, so that nvcc takes seconds.
#include <cuda_runtime.h>

#include <algorithm>

#include "compact.h"

namespace bump {
namespace {

struct DeviceBlock {
  template <class F>
  __device__ void each(const F& f) const {
    f(static_cast<int>(threadIdx.x));
    __syncthreads();
  }
};

__global__ void __launch_bounds__(kBlock)
    select_kernel(const unsigned char* keep, int64_t rows, int64_t* index, int64_t* kept) {
  __shared__ Scan scan;
  select(DeviceBlock{}, scan, keep, rows, index, kept);
}

// blockIdx.y is the tensor.
__global__ void __launch_bounds__(kGatherBlock) gather_kernel(Copies copies, const int64_t* index, int64_t kept) {
  gather(copies.of[blockIdx.y], index, kept, int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
         int64_t(gridDim.x) * blockDim.x);
}

// The device made current, and the former one again at the end.
class OnDevice {
  int before_ = -1;

 public:
  cudaError_t error;
  explicit OnDevice(int device) {
    error = cudaGetDevice(&before_);
    if (error == cudaSuccess && before_ != device) error = cudaSetDevice(device);
  }
  ~OnDevice() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
};

const char* message(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

}  // namespace

const char* select_rows(int device, void* stream, const unsigned char* keep, int64_t rows, int64_t* scratch,
                        int64_t* kept) {
  const OnDevice on(device);
  if (on.error != cudaSuccess) return message(on.error);
  const auto at = static_cast<cudaStream_t>(stream);
  select_kernel<<<1, kBlock, 0, at>>>(keep, rows, scratch, scratch + rows);
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaMemcpyAsync(kept, scratch + rows, sizeof(*kept), cudaMemcpyDeviceToHost, at);
  if (error == cudaSuccess) error = cudaStreamSynchronize(at);
  return message(error);
}

const char* gather_rows(int device, void* stream, const Copy* copies, int64_t count, const int64_t* index,
                        int64_t kept) {
  const OnDevice on(device);
  cudaError_t error = on.error;
  for (int64_t first = 0; first < count && error == cudaSuccess; first += kTensors) {
    Copies some{};
    const int64_t tensors = std::min<int64_t>(kTensors, count - first);
    int64_t words = 1;
    for (int64_t i = 0; i < tensors; i++) {
      some.of[i] = copies[first + i];
      words = std::max(words, kept * (some.of[i].row_bytes / word_of(some.of[i])));
    }
    // Beyond a few blocks per multiprocessor the threads take several words each.
    const int64_t blocks = std::min<int64_t>((words + kGatherBlock - 1) / kGatherBlock, 2048);
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(tensors));
    gather_kernel<<<grid, kGatherBlock, 0, static_cast<cudaStream_t>(stream)>>>(some, index, kept);
    error = cudaGetLastError();
  }
  return message(error);
}

}  // namespace bump
