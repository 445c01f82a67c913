// What nms_segments asks of its arguments, on every device.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

namespace mrcnn_plugin {

inline void check_nms_inputs(const torch::stable::Tensor& boxes, const torch::stable::Tensor& offsets) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must have shape (K, 4)");
  STD_TORCH_CHECK(boxes.scalar_type() == ScalarType::Float, "boxes must be float32");
  STD_TORCH_CHECK(offsets.dim() == 1 && offsets.size(0) >= 1, "offsets must have shape (S + 1,)");
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Long, "offsets must be int64");
}

}  // namespace mrcnn_plugin
