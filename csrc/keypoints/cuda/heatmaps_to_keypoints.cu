// heatmaps_to_keypoints on CUDA: one block per map. Bounds of all cells first; then warps resample only the
// cells whose bound reaches the best value so far.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/cuda/launch.cuh"
#include "keypoints/heatmap.h"

namespace mrcnn_plugin {
namespace {

using namespace heatmap;
using torch::stable::Tensor;

constexpr int kThreads = 128;
constexpr int kWarp = 32;

struct Shared {
  unsigned int largest;        // bit pattern of the largest |logit|
  unsigned long long highest;  // rank of the cell with the highest bound
  unsigned long long best;     // rank of the best pixel
  float sums[kThreads / kWarp];
};

__device__ unsigned long long warp_max(unsigned long long value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const unsigned long long other = __shfl_xor_sync(0xffffffffu, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// Resamples the pixels of one cell, with `lanes` threads of which this is `lane`; the best pixel's rank.
__device__ unsigned long long visit(const Map& map, const Axis& y, const Axis& x, int cell, int lane,
                                    int lanes) {
  const int columns = map.width + 1;
  const int row = cell / columns - 1, column = cell % columns - 1;
  const int y_begin = first_pixel(y, row), y_end = first_pixel(y, row + 1);
  const int x_begin = first_pixel(x, column), width = first_pixel(x, column + 1) - x_begin;
  unsigned long long best = 0;
  for (int i = lane; i < (y_end - y_begin) * width; i += lanes) {
    const int pixel_y = y_begin + i / width, pixel_x = x_begin + i % width;
    const float value = map.resample(make_taps(y, pixel_y), make_taps(x, pixel_x));
    const unsigned long long rank = rank_pixel(value, pixel_y * x.samples + pixel_x);
    best = rank > best ? rank : best;
  }
  return best;
}

__device__ void search_cells(const Map& map, const Axis& y, const Axis& x, float slack, Shared& shared) {
  const int cells = (map.height + 1) * (map.width + 1), lane = threadIdx.x % kWarp;
  for (int first = threadIdx.x - lane; first < cells; first += kThreads) {
    const int cell = first + lane;
    // That another warp may raise it meanwhile only costs a visit in vain.
    unsigned long long best = lane == 0 ? atomicMax(&shared.best, 0ull) : 0;
    best = __shfl_sync(0xffffffffu, best, 0);
    const bool candidate =
        cell < cells &&
        map.bound(cell / (map.width + 1) - 1, cell % (map.width + 1) - 1) >= ranked_value(best) - slack;
    unsigned int candidates = __ballot_sync(0xffffffffu, candidate);
    for (; candidates; candidates &= candidates - 1) {
      const unsigned long long rank = warp_max(visit(map, y, x, first + __ffs(candidates) - 1, lane, kWarp));
      if (lane == 0) atomicMax(&shared.best, rank);
    }
  }
}

__device__ float block_sum(float value, Shared& shared) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % kWarp == 0) shared.sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) total += shared.sums[warp];
  return total;
}

__global__ void __launch_bounds__(kThreads)
    keypoints_kernel(const float* maps, const float* rois, float* keypoints, int64_t maps_per_roi, int height,
                     int width) {
  __shared__ Shared shared;
  const int64_t index = blockIdx.x, size = static_cast<int64_t>(height) * width;
  const Map map = {maps + index * size, height, width};
  const float* box = rois + index / maps_per_roi * 4;
  const Axis x = make_axis(box[0], box[2], width), y = make_axis(box[1], box[3], height);
  if (threadIdx.x == 0) {
    shared.largest = 0;
    shared.highest = 0;
    shared.best = rank_pixel(__uint_as_float(0xff800000u), 0);  // -infinity
  }
  __syncthreads();

  unsigned int largest = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    largest = max(largest, __float_as_uint(map.values[i]) & 0x7fffffffu);
  }
  atomicMax(&shared.largest, largest);
  unsigned long long highest = 0;
  for (int cell = threadIdx.x; cell < (height + 1) * (width + 1); cell += kThreads) {
    const float bound = map.bound(cell / (width + 1) - 1, cell % (width + 1) - 1);
    const unsigned long long rank = rank_pixel(bound, cell);
    highest = rank > highest ? rank : highest;
  }
  highest = warp_max(highest);
  if (threadIdx.x % kWarp == 0) atomicMax(&shared.highest, highest);
  __syncthreads();

  float* out = keypoints + index * 4;
  const float limit = __uint_as_float(shared.largest);
  if (!is_finite(x) || !is_finite(y) || !(limit <= kMaxLogit)) {
    if (threadIdx.x < 4) out[threadIdx.x] = __uint_as_float(0x7fc00000u);
    return;
  }
  atomicMax(&shared.best, visit(map, y, x, ranked_index(shared.highest), threadIdx.x, kThreads));
  __syncthreads();
  search_cells(map, y, x, kRoundingSlack * limit, shared);
  __syncthreads();

  const float logit = ranked_value(shared.best);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) sum += expf(map.values[i] - logit);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) {
    const int pixel = ranked_index(shared.best);
    out[0] = image_coordinate(x, pixel % x.samples);
    out[1] = image_coordinate(y, pixel / x.samples);
    out[2] = logit;
    out[3] = 1.0f / sum;
  }
}

Tensor heatmaps_to_keypoints(const Tensor& maps, const Tensor& rois) {
  heatmap::check(maps, rois);
  STD_TORCH_CHECK(rois.is_cuda() && rois.get_device_index() == maps.get_device_index(),
                  "rois must be on the device of maps");
  const torch::stable::accelerator::DeviceGuard guard(maps.get_device_index());
  const Tensor inputs = torch::stable::contiguous(maps), boxes = torch::stable::contiguous(rois);
  const int64_t n = maps.size(0), k = maps.size(1);
  Tensor keypoints = torch::stable::new_empty(maps, {n, k, 4});
  if (n * k == 0) return keypoints;
  launch(keypoints_kernel, n * k, kThreads, 0, current_stream(maps), inputs.const_data_ptr<float>(),
         boxes.const_data_ptr<float>(), keypoints.mutable_data_ptr<float>(), k,
         static_cast<int>(maps.size(2)), static_cast<int>(maps.size(3)));
  return keypoints;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  m.impl("heatmaps_to_keypoints", TORCH_BOX(&heatmaps_to_keypoints));
}

}  // namespace mrcnn_plugin
