// Host side of RoIAlign on CUDA: from tensors to kernel parameters.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "roi_align/arguments.h"
#include "roi_align/checks.h"
#include "roi_align/cuda/bands.cuh"

namespace mrcnn_plugin {

// Checked arguments, ready for the kernels. The tensors are dense, in one layout, and live as long as this
// does.
struct CudaRoIAlignCall {
  std::vector<torch::stable::Tensor> features;
  torch::stable::Tensor boxes;
  std::optional<torch::stable::Tensor> levels;
  RoIAlignParameters parameters;

  torch::headeronly::ScalarType dtype() const { return features[0].scalar_type(); }

  torch::headeronly::MemoryFormat format() const {
    return parameters.channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                    : torch::headeronly::MemoryFormat::Contiguous;
  }

  int64_t max_height() const {
    return *std::max_element(parameters.height, parameters.height + parameters.levels);
  }
  int64_t max_width() const {
    return *std::max_element(parameters.width, parameters.width + parameters.levels);
  }

  torch::stable::Tensor empty_like_features(const std::vector<int64_t>& sizes) const {
    return torch::stable::empty({sizes.data(), sizes.size()}, dtype(), std::nullopt, features[0].device(),
                                std::nullopt, format());
  }

  // Whether every pixel of every map starts on a vector of so many elements.
  bool divides_into_vectors(int elements, size_t element_size) const {
    bool aligned = parameters.channels % elements == 0;
    for (int level = 0; level < parameters.levels; ++level) {
      const auto address = reinterpret_cast<uintptr_t>(parameters.features[level]);
      aligned = aligned && address % (elements * element_size) == 0;
    }
    return aligned;
  }
};

inline CudaRoIAlignCall check_call(const RoIAlignArguments& arguments) {
  using torch::headeronly::MemoryFormat;
  const auto& features = arguments.features;
  check_roi_align(arguments);
  STD_TORCH_CHECK(features.size() <= size_t(kMaxLevels), "features must hold at most ", kMaxLevels,
                  " maps on CUDA, got ", features.size());
  STD_TORCH_CHECK(features[0].size(0) < INT_MAX / kMaxLevels && features[0].size(1) < INT_MAX &&
                      arguments.boxes.size(0) < INT_MAX,
                  "the batch, the channels and the number of boxes must fit 32-bit indices on CUDA");
  CudaRoIAlignCall call{{}, torch::stable::contiguous(arguments.boxes), {}, {}};
  RoIAlignParameters& p = call.parameters;
  if (arguments.levels) {
    call.levels = torch::stable::contiguous(*arguments.levels);
    p.roi_levels = static_cast<const int64_t*>(call.levels->const_data_ptr());
  }
  p.channels_last = is_channels_last(features[0]);
  for (size_t level = 0; level < features.size(); ++level) {
    call.features.push_back(torch::stable::contiguous(features[level], call.format()));
    p.features[level] = call.features[level].const_data_ptr();
    p.height[level] = int(features[level].size(2));
    p.width[level] = int(features[level].size(3));
    p.scale[level] = arguments.scales[level];
  }
  p.levels = int(features.size());
  p.min_level = pyramid_min_level(arguments.scales[0]);
  p.canonical_box_size = arguments.canonical_box_size;
  p.canonical_level = int(arguments.canonical_level);
  p.batch = int(features[0].size(0));
  p.channels = int(features[0].size(1));
  p.pooled_height = int(arguments.pooled_height);
  p.pooled_width = int(arguments.pooled_width);
  p.sampling_ratio = arguments.sampling_ratio;
  p.aligned = arguments.aligned;
  return call;
}

// Calls run(element, box) with values of the features' and the boxes' types.
template <typename Run>
void dispatch_types(const CudaRoIAlignCall& call, const Run& run) {
  using torch::headeronly::ScalarType;
  const bool double_boxes = call.boxes.scalar_type() == ScalarType::Double;
  switch (call.dtype()) {
    case ScalarType::Float:
      return run(float(), float());
    case ScalarType::Half:
      return run(c10::Half(), float());
    case ScalarType::BFloat16:
      return run(c10::BFloat16(), float());
    default:
      return double_boxes ? run(double(), double()) : run(double(), float());
  }
}

}  // namespace mrcnn_plugin
