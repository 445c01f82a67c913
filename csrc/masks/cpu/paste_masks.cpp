// paste_masks on the CPU: instances in parallel; each row of a box is one vectorised pass over tables.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <utility>

#include "common/cpu/parallel.h"
#include "common/cpu/simd_level.h"
#include "masks/checks.h"
#include "masks/cpu/axis.h"

namespace mrcnn_plugin {
namespace {

// What one thread keeps from instance to instance.
struct Scratch {
  MaskAxis rows, columns;
  FramedMask mask;
  // The mask rows above and below the current image row, at the left and right cell of every pixel.
  std::vector<float> top_left, top_right, bottom_left, bottom_right;

  void prepare(const float* values, const float* box, int32_t mask_height, int32_t mask_width,
               const PasteRegion& region) {
    rows.fill(region.y0, region.y1, box[1], box[3], mask_height);
    columns.fill(region.x0, region.x1, box[0], box[2], mask_width);
    mask.fill(values, mask_height, mask_width, false);
    for (auto* corner : {&top_left, &top_right, &bottom_left, &bottom_right}) corner->resize(columns.size());
  }
};

}  // namespace
}  // namespace mrcnn_plugin

#define MRCNN_LEVEL_FILE "masks/cpu/paste_instance.h"
#include "common/cpu/each_level.h"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

Tensor paste_masks(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold) {
  check_mask_inputs(masks, boxes, height, width, threshold);
  using torch::headeronly::ScalarType;
  const bool soft = threshold < 0;
  const SimdLevel level = simd_level();
  const auto paste =
      soft ? MRCNN_FOR_LEVEL(level, paste_instance<true>) : MRCNN_FOR_LEVEL(level, paste_instance<false>);
  const int64_t n = masks.size(0);
  Tensor out =
      torch::stable::new_empty(masks, {n, height, width}, soft ? ScalarType::Byte : ScalarType::Bool);
  if (out.numel() == 0) return out;
  const int64_t pixels = height * width;
  const int32_t mask_height = static_cast<int32_t>(masks.size(1));
  const int32_t mask_width = static_cast<int32_t>(masks.size(2));
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  uint8_t* out_data = static_cast<uint8_t*>(out.mutable_data_ptr());
  const auto make_scratch = [](int64_t) { return Scratch(); };
  // Boxes differ too much in size for equal shares.
  parallel_tasks(n, make_scratch, [&](Scratch& scratch, int64_t i) {
    uint8_t* image = out_data + i * pixels;
    std::memset(image, 0, pixels);
    const float* box = box_data + i * 4;
    const PasteRegion region = paste_region(box, static_cast<int32_t>(height), static_cast<int32_t>(width));
    if (region.empty()) return;
    scratch.prepare(mask_data + i * mask_height * mask_width, box, mask_height, mask_width, region);
    paste(scratch, static_cast<float>(threshold), width, image);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) { m.impl("paste_masks", TORCH_BOX(&paste_masks)); }

}  // namespace mrcnn_plugin
