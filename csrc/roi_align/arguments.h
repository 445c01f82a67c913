// The arguments of RoIAlign's ops, forward and backward, on every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace mrcnn_plugin {

struct RoIAlignArguments {
  std::vector<torch::stable::Tensor> features;  // of each level (N, C, H, W)
  torch::stable::Tensor boxes;                  // (K, 5)
  std::vector<double> scales;                   // of each level
  int64_t pooled_height;
  int64_t pooled_width;
  int64_t sampling_ratio;
  double canonical_box_size;
  int64_t canonical_level;
  bool aligned;
  // (K,): the level of each RoI, in place of FPN's Eq. (1); none where the equation chooses.
  std::optional<torch::stable::Tensor> levels;
};

}  // namespace mrcnn_plugin
