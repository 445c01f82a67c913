// Checks that the kernels of paste_masks and encode_masks make on every device.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace mrcnn_plugin {

inline void check_mask_inputs(const torch::stable::Tensor& masks, const torch::stable::Tensor& boxes,
                              int64_t height, int64_t width, double threshold) {
  constexpr int64_t kMaxSide = std::numeric_limits<int32_t>::max() / 2;
  constexpr auto kFloat = torch::headeronly::ScalarType::Float;
  STD_TORCH_CHECK(masks.dim() == 3, "masks must have shape (K, Mh, Mw), got ", masks.dim(), " dimensions");
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 && boxes.size(0) == masks.size(0),
                  "boxes must have shape (K, 4) with K = ", masks.size(0), " as masks has");
  STD_TORCH_CHECK(masks.scalar_type() == kFloat && boxes.scalar_type() == kFloat,
                  "masks and boxes must be float32");
  STD_TORCH_CHECK(masks.is_contiguous() && boxes.is_contiguous(), "masks and boxes must be contiguous");
  STD_TORCH_CHECK(masks.get_device_index() == boxes.get_device_index() && masks.is_cuda() == boxes.is_cuda(),
                  "masks and boxes must be on one device");
  STD_TORCH_CHECK(masks.size(0) == 0 || (masks.size(1) > 0 && masks.size(2) > 0),
                  "masks must have at least one cell, got (", masks.size(1), ", ", masks.size(2), ")");
  STD_TORCH_CHECK(masks.size(1) <= kMaxSide && masks.size(2) <= kMaxSide, "masks are too large");
  STD_TORCH_CHECK(height >= 0 && width >= 0 && height <= kMaxSide && width <= kMaxSide,
                  "image_shape must be (height, width) >= 0, got (", height, ", ", width, ")");
  STD_TORCH_CHECK(!std::isnan(threshold), "threshold must be a number, got NaN");
}

// What RLE asks for in addition: a binary mask whose positions fit COCO's 32-bit counts.
inline void check_rle_inputs(int64_t height, int64_t width, double threshold) {
  STD_TORCH_CHECK(threshold >= 0, "threshold must be >= 0, got ", threshold,
                  ": only binary masks have a run-length encoding");
  STD_TORCH_CHECK(height * width <= std::numeric_limits<uint32_t>::max(),
                  "image_shape must have fewer than 2**32 pixels (COCO's counts have 32 bits), got (", height,
                  ", ", width, ")");
}

}  // namespace mrcnn_plugin
