// Kernels that are right, and kernels with one fault each, for the tests of the checks. Blocks of 64 threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#include "common/cuda/launch.cuh"
#include "common/cuda/vector.cuh"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

constexpr int kThreads = 64;
constexpr unsigned kAll = 0xffffffffu;

// Right: output = the sum of the block's inputs, by every primitive in turn.
__global__ void __launch_bounds__(kThreads) block_sum(const float* input, float* output) {
  __shared__ float sums[kThreads / 32];
  float sum = input[blockIdx.x * kThreads + threadIdx.x];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  const unsigned odd = __ballot_sync(kAll, threadIdx.x % 2 == 1);
  if (threadIdx.x == 0) output[blockIdx.x] = odd == 0xaaaaaaaau ? sums[0] + sums[1] : -1.0f;
}

// Right: a warp passes values on through shared memory, with no barrier of the block.
__global__ void warp_shift(const float* input, float* output) {
  __shared__ float values[kThreads];
  const unsigned lane = threadIdx.x % 32, first = threadIdx.x - lane;
  values[threadIdx.x] = input[threadIdx.x];
  __syncwarp();
  const float down = __shfl_down_sync(kAll, input[threadIdx.x], 1);
  const float up = __shfl_up_sync(kAll, input[threadIdx.x], 1);
  const float next = values[first + (lane + 1) % 32];
  output[threadIdx.x] = lane == 31 || down == next ? next - (lane == 0 ? 0.0f : up) : -1.0f;
}

// Right: atomics of many blocks on one word.
__global__ void atomic_total(const float* input, float* output) {
  atomicAdd(output, input[blockIdx.x * kThreads + threadIdx.x]);
}

__global__ void barrier_of_half_the_threads(const float*, float* output) {
  if (threadIdx.x >= 32) return;
  __syncthreads();
  output[threadIdx.x] = 1;
}

__global__ void two_barriers(const float*, float* output) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  output[threadIdx.x] = 1;
}

__global__ void ballot_without_a_lane(const float*, float* output) {
  if (threadIdx.x == 5) return;
  output[threadIdx.x] = __ballot_sync(kAll, true);
}

__global__ void shuffle_from_outside_the_mask(const float* input, float* output) {
  if (threadIdx.x % 32 < 16) output[threadIdx.x] = __shfl_sync(0xffffu, input[threadIdx.x], 20);
}

__global__ void lane_outside_its_own_mask(const float* input, float* output) {
  output[threadIdx.x] = __shfl_xor_sync(0xffffu, input[threadIdx.x], 1);
}

__global__ void misaligned_vector(const float* input, float* output) {
  if (threadIdx.x == 3) Vector<float, 4>::load(input + 1).store(output);
}

__global__ void misaligned_shared_vector(const float* input, float* output) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = input[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 3) Vector<float, 2>::load_shared(values + 4).store(output);
}

__global__ void read_past_the_input(const float* input, float* output) {
  output[threadIdx.x] = input[blockIdx.x * kThreads + threadIdx.x + 1];
}

__global__ void write_before_the_output(const float*, float* output) { output[int(threadIdx.x) - 1] = 1; }

__global__ void write_to_the_input(const float* input, float*) { const_cast<float*>(input)[threadIdx.x] = 1; }

__global__ void null_pointer(const float*, float* output) {
  const float* none = output ? nullptr : output;
  output[threadIdx.x] = none[threadIdx.x];
}

__global__ void past_a_shared_array(const float* input, float* output) {
  __shared__ float values[kThreads];
  __shared__ float others[kThreads];
  others[threadIdx.x] = 0;
  values[threadIdx.x + 1] = input[threadIdx.x];
  output[threadIdx.x] = others[threadIdx.x];
}

__global__ void past_dynamic_shared_memory(const float* input, float* output) {
  float* values = reinterpret_cast<float*>(dynamic_shared());
  values[threadIdx.x] = input[threadIdx.x];
  output[threadIdx.x] = values[threadIdx.x];
}

__global__ void shared_memory_never_written(const float* input, float* output) {
  __shared__ float values[kThreads];
  if (threadIdx.x != 7) values[threadIdx.x] = input[threadIdx.x];
  __syncthreads();
  output[threadIdx.x] = values[threadIdx.x];
}

__global__ void shared_memory_of_the_block_before(const float* input, float* output) {
  __shared__ float value;
  if (blockIdx.x == 0 && threadIdx.x == 0) value = input[0];
  __syncthreads();
  output[blockIdx.x * kThreads + threadIdx.x] = value;
}

__global__ void read_without_a_barrier(const float* input, float* output) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = input[threadIdx.x];
  if (threadIdx.x % 32 != 31) return;
  output[threadIdx.x] = values[threadIdx.x - 1];
}

__global__ void warps_ordered_by_syncwarp_alone(const float* input, float* output) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = input[threadIdx.x];
  __syncwarp();
  if (threadIdx.x >= 32) output[threadIdx.x] = values[threadIdx.x - 32];
}

__global__ void write_after_reads_without_a_barrier(const float* input, float* output) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = input[threadIdx.x];
  __syncthreads();
  output[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
  values[threadIdx.x] = 0;
}

__global__ void two_blocks_one_word(const float*, float* output) {
  if (threadIdx.x == 0) output[0] = blockIdx.x;
}

__global__ void atomic_and_plain(const float* input, float* output) {
  atomicAdd(output, input[threadIdx.x]);
  if (threadIdx.x == 40) output[0] = 1;
}

// Right: neighbouring bytes of one word.
__global__ void bytes_of_a_word(const float*, float* output) {
  reinterpret_cast<unsigned char*>(output)[threadIdx.x] = static_cast<unsigned char>(threadIdx.x);
}

__global__ void pointer_to_a_local(const float* input, float* output) {
  __shared__ const float* shared;
  const float local = input[threadIdx.x];
  if (threadIdx.x == 0) shared = &local;
  __syncthreads();
  output[threadIdx.x] = *shared;
}

__global__ void __launch_bounds__(kThreads / 2) more_threads_than_promised(const float*, float* output) {
  output[threadIdx.x] = 1;
}

__global__ void too_much_shared_memory(const float* input, float* output) {
  __shared__ float values[12 * 1024 - 64 + 1];
  values[threadIdx.x] = input[threadIdx.x];
  output[threadIdx.x] = values[threadIdx.x];
}

__global__ void any_launch(const float*, float* output) { output[0] = 1; }

void run_kernel(std::string name, Tensor input, Tensor output) {
  const float* in = input.const_data_ptr<float>();
  float* out = output.mutable_data_ptr<float>();
  const cudaStream_t stream = current_stream(input);
  const int64_t blocks = input.numel() / kThreads;
#define KERNEL(kernel, shared_bytes) \
  if (name == #kernel) return launch(kernel, blocks, kThreads, shared_bytes, stream, in, out)
  KERNEL(block_sum, 0);
  KERNEL(warp_shift, 0);
  KERNEL(atomic_total, 0);
  KERNEL(barrier_of_half_the_threads, 0);
  KERNEL(two_barriers, 0);
  KERNEL(ballot_without_a_lane, 0);
  KERNEL(shuffle_from_outside_the_mask, 0);
  KERNEL(lane_outside_its_own_mask, 0);
  KERNEL(misaligned_vector, 0);
  KERNEL(misaligned_shared_vector, 0);
  KERNEL(read_past_the_input, 0);
  KERNEL(write_before_the_output, 0);
  KERNEL(write_to_the_input, 0);
  KERNEL(null_pointer, 0);
  KERNEL(past_a_shared_array, 0);
  KERNEL(past_dynamic_shared_memory, kThreads * 4 - 4);
  KERNEL(shared_memory_never_written, 0);
  KERNEL(shared_memory_of_the_block_before, 0);
  KERNEL(read_without_a_barrier, 0);
  KERNEL(warps_ordered_by_syncwarp_alone, 0);
  KERNEL(write_after_reads_without_a_barrier, 0);
  KERNEL(two_blocks_one_word, 0);
  KERNEL(atomic_and_plain, 0);
  KERNEL(bytes_of_a_word, 0);
  KERNEL(pointer_to_a_local, 0);
  KERNEL(more_threads_than_promised, 0);
  KERNEL(too_much_shared_memory, 256);
#undef KERNEL
  if (name == "too_many_threads") return launch(any_launch, 1, 1025, 0, stream, in, out);
  if (name == "too_much_dynamic_shared_memory")
    return launch(any_launch, 1, 1, 48 * 1024 + 1, stream, in, out);
  if (name == "too_many_blocks") any_launch<<<1ull << 31, 1, 0, stream>>>(in, out);
  if (name == "no_blocks") any_launch<<<0, 1, 0, stream>>>(in, out);
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) { m.impl("run_kernel", TORCH_BOX(&run_kernel)); }

}  // namespace
}  // namespace mrcnn_plugin
