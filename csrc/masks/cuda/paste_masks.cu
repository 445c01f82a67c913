// paste_masks on CUDA: the output is cleared, then one launch computes the pixels of all boxes.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "common/cuda/launch.cuh"
#include "masks/checks.h"
#include "masks/paste.h"

namespace {

using namespace mrcnn_plugin;
using torch::stable::Tensor;

constexpr int kTileWidth = 32;  // a warp's pixels of one row
constexpr int kTileHeight = 64;
constexpr int kWarps = 8;
constexpr int64_t kMaxBlocksPerInstance = 32;

struct PasteParameters {
  const float* masks;
  const float* boxes;
  uint8_t* out;
  int32_t mask_height, mask_width, height, width;
  int32_t blocks_per_instance;
  float threshold;
};

template <bool kSoft>
__global__ void __launch_bounds__(kTileWidth* kWarps) paste_masks_kernel(PasteParameters p) {
  const int64_t instance = blockIdx.x / p.blocks_per_instance;
  const float* box = p.boxes + 4 * instance;
  const PasteRegion region = paste_region(box, p.height, p.width);
  if (region.empty()) return;
  const float* mask = p.masks + instance * p.mask_height * p.mask_width;
  uint8_t* image = p.out + instance * p.height * p.width;
  const int lane = threadIdx.x % kTileWidth, warp = threadIdx.x / kTileWidth;
  const int64_t across = (region.x1 - region.x0 + kTileWidth - 1) / kTileWidth;
  const int64_t down = (region.y1 - region.y0 + kTileHeight - 1) / kTileHeight;
  for (int64_t tile = blockIdx.x % p.blocks_per_instance; tile < across * down;
       tile += p.blocks_per_instance) {
    const int32_t x = region.x0 + static_cast<int32_t>(tile % across) * kTileWidth + lane;
    const int32_t y0 = region.y0 + static_cast<int32_t>(tile / across) * kTileHeight;
    if (x >= region.x1) continue;
    const AxisSample column = axis_sample(x, box[0], box[2], p.mask_width);
    for (int32_t y = y0 + warp; y < min(y0 + kTileHeight, region.y1); y += kWarps) {
      const AxisSample row = axis_sample(y, box[1], box[3], p.mask_height);
      const float value = sample_mask(mask, p.mask_height, p.mask_width, row, column);
      image[static_cast<int64_t>(y) * p.width + x] =
          kSoft ? soft_pixel(value) : static_cast<uint8_t>(value >= p.threshold);
    }
  }
}

Tensor paste_masks(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold) {
  check_mask_inputs(masks, boxes, height, width, threshold);
  using torch::headeronly::ScalarType;
  const torch::stable::accelerator::DeviceGuard guard(masks.get_device_index());
  const int64_t n = masks.size(0);
  Tensor out = torch::stable::new_empty(masks, {n, height, width},
                                        threshold < 0 ? ScalarType::Byte : ScalarType::Bool);
  if (out.numel() == 0) return out;
  const cudaStream_t stream = current_stream(masks);
  STD_CUDA_CHECK(cudaMemsetAsync(out.mutable_data_ptr(), 0, out.numel(), stream));
  const int64_t tiles = ((width + kTileWidth - 1) / kTileWidth) * ((height + kTileHeight - 1) / kTileHeight);
  const int64_t blocks_per_instance = std::min(tiles, kMaxBlocksPerInstance);
  const PasteParameters parameters = {masks.const_data_ptr<float>(),
                                      boxes.const_data_ptr<float>(),
                                      static_cast<uint8_t*>(out.mutable_data_ptr()),
                                      static_cast<int32_t>(masks.size(1)),
                                      static_cast<int32_t>(masks.size(2)),
                                      static_cast<int32_t>(height),
                                      static_cast<int32_t>(width),
                                      static_cast<int32_t>(blocks_per_instance),
                                      static_cast<float>(threshold)};
  const auto kernel = threshold < 0 ? paste_masks_kernel<true> : paste_masks_kernel<false>;
  launch(kernel, n * blocks_per_instance, kTileWidth * kWarps, 0, stream, parameters);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) { m.impl("paste_masks", TORCH_BOX(&paste_masks)); }
