// Kernels whose costs can be counted by hand, for one warp.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#include "common/cuda/launch.cuh"
#include "common/cuda/vector.cuh"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

// 32 neighbouring floats: 4 sectors read, 4 written.
__global__ void neighbours(const float* input, float* output) { output[threadIdx.x] = input[threadIdx.x]; }

// A sector for each lane read, 4 written.
__global__ void strided(const float* input, float* output) { output[threadIdx.x] = input[threadIdx.x * 8]; }

// One sector read, 4 written.
__global__ void broadcast(const float* input, float* output) { output[threadIdx.x] = input[0]; }

// 16 bytes a lane: 16 sectors read, 16 written.
__global__ void vectors(const float* input, float* output) {
  Vector<float, 4>::load(input + threadIdx.x * 4).store(output + threadIdx.x * 4);
}

// 32 atomics on one sector.
__global__ void atomics(const float*, float* output) { atomicAdd(output, 1.0f); }

// Two writes of shared memory, the second with two lanes a bank; a read with all lanes in one bank.
__global__ void banks(const float* input, float* output) {
  __shared__ float values[32 * 32];
  values[threadIdx.x] = input[threadIdx.x];
  __syncthreads();
  values[threadIdx.x * 2] = 1.0f;
  values[threadIdx.x * 32] = 1.0f;
  __syncthreads();
  output[threadIdx.x] = values[threadIdx.x * 32];
}

// Lanes go round the inner loop a different number of times, twice; in step, they read 4 sectors at the start
// of each of the two rounds of the outer loop.
__global__ void uneven_loops(const float* input, float* output) {
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    sum += input[round * 32 + threadIdx.x];
    for (unsigned i = 0; i < threadIdx.x; ++i) sum *= 0.5f * output[0];
  }
  if (sum == 12345.0f) output[1] = sum;
}

// One half of the lanes after the other: 2 sectors each.
__global__ void branches(const float* input, float* output) {
  if (threadIdx.x < 16) {
    output[threadIdx.x] = input[threadIdx.x] + 1;
  } else {
    output[threadIdx.x] = input[threadIdx.x] * 2;
  }
}

void run_kernel(std::string name, Tensor input, Tensor output) {
  const float* in = input.const_data_ptr<float>();
  float* out = output.mutable_data_ptr<float>();
#define KERNEL(kernel) \
  if (name == #kernel) return launch(kernel, 1, 32, 0, current_stream(input), in, out)
  KERNEL(neighbours);
  KERNEL(strided);
  KERNEL(broadcast);
  KERNEL(vectors);
  KERNEL(atomics);
  KERNEL(banks);
  KERNEL(uneven_loops);
  KERNEL(branches);
#undef KERNEL
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) { m.impl("run_kernel", TORCH_BOX(&run_kernel)); }

}  // namespace
}  // namespace mrcnn_plugin
