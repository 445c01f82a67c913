// What every kernel launch of this library does: find the stream, launch within the grid's limits, check.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <climits>
#include <cstdint>

namespace mrcnn_plugin {

// Shared memory of a block that needs no opt-in on any GPU; kernels also declare a little of it statically.
constexpr int64_t kDynamicSharedLimit = 46 * 1024;

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
            cudaStream_t stream, const Arguments&... arguments) {
  if (blocks == 0) return;
  STD_TORCH_CHECK(blocks <= INT_MAX, "a CUDA launch holds at most 2147483647 blocks, this input needs ",
                  blocks, ": split it");
  kernel<<<unsigned(blocks), unsigned(threads), size_t(shared_bytes), stream>>>(arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The dynamic shared memory of the calling block.
__device__ inline char* dynamic_shared() {
  extern __shared__ __align__(16) char shared_memory[];
  return shared_memory;
}

}  // namespace mrcnn_plugin
