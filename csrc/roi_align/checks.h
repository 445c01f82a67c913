// Checks of RoIAlign's arguments that the host code of every device shares. They read shapes and dtypes,
// never values.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "roi_align/arguments.h"

namespace mrcnn_plugin {

// Far more than an average needs; the time that a RoI takes goes with it.
constexpr int64_t kMaxSamplingRatio = 4096;

inline void check_feature(const torch::stable::Tensor& feature, const torch::stable::Tensor& first,
                          size_t level) {
  STD_TORCH_CHECK(feature.dim() == 4, "features[", level, "] must have shape (N, C, H, W), got ",
                  feature.dim(), " dimensions");
  STD_TORCH_CHECK(feature.scalar_type() == first.scalar_type(), "features[", level,
                  "] must have the dtype of features[0]; convert the maps to one dtype");
  STD_TORCH_CHECK(feature.device() == first.device(), "features[", level,
                  "] must be on the device of features[0]; move the maps to one device");
  STD_TORCH_CHECK(feature.size(0) == first.size(0) && feature.size(1) == first.size(1), "features[", level,
                  "] must have the batch size and channels of features[0] (", first.size(0), ", ",
                  first.size(1), "), got (", feature.size(0), ", ", feature.size(1), ")");
  STD_TORCH_CHECK(feature.size(2) > 0 && feature.size(3) > 0 && feature.size(2) < INT32_MAX &&
                      feature.size(3) < INT32_MAX,
                  "features[", level, "] must have 1 <= H, W < 2^31, got (", feature.size(2), ", ",
                  feature.size(3), ")");
}

inline void check_boxes(const torch::stable::Tensor& boxes, const torch::stable::Tensor& feature) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 5,
                  "boxes must have shape (K, 5): batch index, x1, y1, x2, y2; got ", boxes.dim(),
                  " dimensions, the last of size ", boxes.dim() ? boxes.size(boxes.dim() - 1) : 0);
  STD_TORCH_CHECK(
      boxes.scalar_type() == ScalarType::Float ||
          (boxes.scalar_type() == ScalarType::Double && feature.scalar_type() == ScalarType::Double),
      "boxes must be float32 (float64 is allowed with float64 features); convert them with boxes.float()");
  STD_TORCH_CHECK(boxes.device() == feature.device(),
                  "boxes must be on the device of the features; move them with boxes.to(features[0].device)");
}

inline void check_levels(const torch::stable::Tensor& levels, const torch::stable::Tensor& boxes) {
  STD_TORCH_CHECK(levels.dim() == 1 && levels.size(0) == boxes.size(0),
                  "levels must have shape (K,) with K = ", boxes.size(0), ", the number of boxes; got ",
                  levels.dim(), " dimensions, the first of size ", levels.dim() ? levels.size(0) : 0);
  STD_TORCH_CHECK(levels.scalar_type() == torch::headeronly::ScalarType::Long,
                  "levels must be int64; convert them with levels.long()");
  STD_TORCH_CHECK(levels.device() == boxes.device(),
                  "levels must be on the device of the boxes; move them with levels.to(boxes.device)");
}

inline void check_roi_align(const RoIAlignArguments& arguments) {
  using torch::headeronly::ScalarType;
  const auto& features = arguments.features;
  const auto& scales = arguments.scales;
  STD_TORCH_CHECK(!features.empty(), "features must hold at least one map, got none");
  STD_TORCH_CHECK(features.size() == scales.size(), "scales must have one entry per level: ", features.size(),
                  " maps, ", scales.size(), " scales");
  for (size_t level = 0; level < features.size(); ++level) {
    check_feature(features[level], features[0], level);
    STD_TORCH_CHECK(scales[level] > 0 && scales[level] < 1e30, "scales[", level, "] must be positive, got ",
                    scales[level]);
  }
  const ScalarType dtype = features[0].scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  "features must be float64, float32, float16 or bfloat16");
  check_boxes(arguments.boxes, features[0]);
  const int64_t height = arguments.pooled_height;
  const int64_t width = arguments.pooled_width;
  STD_TORCH_CHECK(height > 0 && width > 0 && height <= 1 << 20 && width <= 1 << 20,
                  "output_size must be between 1 and 2^20, got (", height, ", ", width, ")");
  STD_TORCH_CHECK(arguments.sampling_ratio <= kMaxSamplingRatio, "sampling_ratio must be at most ",
                  kMaxSamplingRatio, " (samples per bin and axis; 0 for as many as a bin has pixels), got ",
                  arguments.sampling_ratio);
  STD_TORCH_CHECK(arguments.canonical_box_size > 0, "canonical_box_size must be positive, got ",
                  arguments.canonical_box_size);
  if (arguments.levels) check_levels(*arguments.levels, arguments.boxes);
}

inline void check_pooled_grad_dim(const torch::stable::Tensor& grad) {
  STD_TORCH_CHECK(grad.dim() == 4, "grad_output must have shape (K, C, pooled_height, pooled_width), got ",
                  grad.dim(), " dimensions");
}

inline void check_pooled_grad(const torch::stable::Tensor& grad, const RoIAlignArguments& arguments) {
  const torch::stable::Tensor& feature = arguments.features[0];
  STD_TORCH_CHECK(grad.size(0) == arguments.boxes.size(0) && grad.size(1) == feature.size(1),
                  "grad_output must have shape (K, C, pooled_height, pooled_width) with K = ",
                  arguments.boxes.size(0), " and C = ", feature.size(1));
  STD_TORCH_CHECK(grad.scalar_type() == feature.scalar_type() && grad.device() == feature.device(),
                  "grad_output must have the dtype and device of the features");
}

// Whether a tensor is laid out as torch.channels_last and not also as plain NCHW.
inline bool is_channels_last(const torch::stable::Tensor& map) {
  const int64_t sizes[4] = {map.size(0), map.size(1), map.size(2), map.size(3)};
  const int64_t order[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};
  bool dense[2] = {true, true};
  for (int layout = 0; layout < 2; ++layout) {
    int64_t expected = 1;
    for (const int64_t axis : order[layout]) {
      dense[layout] = dense[layout] && (sizes[axis] == 1 || map.stride(axis) == expected);
      expected *= sizes[axis];
    }
  }
  return dense[1] && !dense[0];
}

}  // namespace mrcnn_plugin
