// RoIAlign over a feature pyramid on the CPU: checks, memory, and the choice of layout and dtype.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <optional>
#include <vector>

#include "common/cpu/huge_pages.h"
#include "roi_align/checks.h"
#include "roi_align/cpu/avg.h"
#include "roi_align/cpu/max.h"

namespace mrcnn_plugin {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// CPU tensors can be looked into: a bad RoI is named. On CUDA such a RoI yields NaN instead.
template <typename Box>
void check_box_values(const Box* boxes, int64_t count, int64_t batch_size) {
  for (int64_t k = 0; k < count; ++k) {
    const Box* roi = boxes + 5 * k;
    if (roi_is_valid(roi, batch_size)) continue;
    const bool finite =
        std::isfinite(roi[1]) && std::isfinite(roi[2]) && std::isfinite(roi[3]) && std::isfinite(roi[4]);
    STD_TORCH_CHECK(finite, "boxes[", k, "] must be finite, got (", roi[1], ", ", roi[2], ", ", roi[3], ", ",
                    roi[4], "); drop such boxes before pooling");
    STD_TORCH_CHECK(false, "boxes[", k, ", 0], the batch index, must be in [0, ", batch_size, "), got ",
                    roi[0]);
  }
}

// On CUDA such a level yields NaN instead.
void check_level_values(const int64_t* levels, int64_t count, int64_t num_levels) {
  for (int64_t k = 0; k < count; ++k) {
    STD_TORCH_CHECK(levels[k] >= 0 && levels[k] < num_levels, "levels[", k, "] must be in [0, ", num_levels,
                    "), got ", levels[k]);
  }
}

// The tensor itself where the kernels of the layout can read it (any strides but one of them), else a copy.
Tensor readable(const Tensor& map, bool channels_last) {
  if (channels_last) {
    const bool runs = map.stride(1) == 1 || map.size(1) == 1;
    return runs ? map : torch::stable::contiguous(map, MemoryFormat::ChannelsLast);
  }
  return map.stride(3) == 1 || map.size(3) == 1 ? map : torch::stable::contiguous(map);
}

Tensor dense(const Tensor& map, bool channels_last) {
  return torch::stable::contiguous(map,
                                   channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

Tensor empty_map(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like,
                 bool channels_last) {
  const Tensor map =
      torch::stable::empty(sizes, dtype, std::nullopt, like.device(), std::nullopt,
                           channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  use_huge_pages(map);
  return map;
}

std::vector<int64_t> sizes_of(const Tensor& map) {
  return {map.size(0), map.size(1), map.size(2), map.size(3)};
}

template <typename T>
MapView<T> view(const Tensor& map) {
  T* data = static_cast<T*>(map.data_ptr());
  T* end = data;
  if (map.numel() > 0) {
    ++end;
    for (int64_t axis = 0; axis < 4; ++axis) end += (map.size(axis) - 1) * map.stride(axis);
  }
  return {data, end, map.stride(0), map.stride(1), map.stride(2), map.stride(3), map.size(2), map.size(3)};
}

template <typename T>
std::vector<MapView<T>> views(const std::vector<Tensor>& maps) {
  std::vector<MapView<T>> result;
  for (const Tensor& map : maps) result.push_back(view<T>(map));
  return result;
}

// Checked arguments whose tensors the kernels can read, and what follows from them, whatever the dtypes.
struct Inputs {
  RoIAlignArguments arguments;
  bool max_pool;
  bool channels_last;
  SimdLevel simd;

  const Tensor& boxes() const { return arguments.boxes; }
  const Tensor& finest() const { return arguments.features[0]; }
  const int64_t* levels() const {
    return arguments.levels ? arguments.levels->const_data_ptr<int64_t>() : nullptr;
  }
};

Inputs prepare(RoIAlignArguments arguments, bool max_pool) {
  check_roi_align(arguments);
  const bool channels_last = is_channels_last(arguments.features[0]);
  Inputs inputs{std::move(arguments), max_pool, channels_last, simd_level()};
  RoIAlignArguments& ready = inputs.arguments;
  for (Tensor& map : ready.features) map = readable(map, channels_last);
  ready.boxes = torch::stable::contiguous(ready.boxes);
  if (ready.levels) {
    ready.levels = torch::stable::contiguous(*ready.levels);
    check_level_values(inputs.levels(), ready.boxes.size(0), int64_t(ready.features.size()));
  }
  return inputs;
}

// run(call) with the boxes read, checked and sorted.
template <typename T, typename Box, typename Run>
void with_call(const Inputs& inputs, const Run& run) {
  const Box* boxes = inputs.boxes().const_data_ptr<Box>();
  const int64_t count = inputs.boxes().size(0);
  const Tensor& finest = inputs.finest();
  check_box_values(boxes, count, finest.size(0));
  const auto places = place_rois(boxes, count, inputs.arguments, inputs.levels());
  run(CpuRoIAlignCall<T, Box>{inputs.arguments, roi_align_kernels<T>(inputs.simd), boxes, places,
                              finest.size(0), finest.size(1), inputs.channels_last});
}

template <typename T, typename Run>
void with_boxes(const Inputs& inputs, const Run& run) {
  if constexpr (std::is_same_v<T, double>) {
    if (inputs.boxes().scalar_type() == ScalarType::Double) return with_call<T, double>(inputs, run);
  }
  with_call<T, float>(inputs, run);
}

template <typename T>
void forward_as(const Inputs& inputs, const Tensor& output) {
  with_boxes<T>(inputs, [&](const auto& call) {
    const std::vector<MapView<T>> maps = views<T>(inputs.arguments.features);
    T* pooled = static_cast<T*>(output.data_ptr());
    if (output.numel() == 0) return;
    inputs.max_pool ? max_forward(call, maps, pooled) : average_forward(call, maps, pooled);
  });
}

template <typename T>
std::vector<Tensor> backward_as(const Inputs& inputs, const Tensor& grad_output) {
  const ScalarType dtype = grad_output.scalar_type();
  const bool wide = inputs.max_pool && !std::is_same_v<T, Accumulator<T>>;
  std::vector<Tensor> grads;
  for (const Tensor& map : inputs.arguments.features) {
    grads.push_back(empty_map(sizes_of(map), wide ? ScalarType::Float : dtype, map, inputs.channels_last));
    if (inputs.max_pool) torch::stable::zero_(grads.back());
  }
  with_boxes<T>(inputs, [&](const auto& call) {
    const T* pooled_grad = static_cast<const T*>(grad_output.const_data_ptr());
    if (call.batch_size * call.channels == 0) return;
    if (inputs.max_pool) {
      max_backward(call, pooled_grad, views<T>(inputs.arguments.features), views<Accumulator<T>>(grads));
    } else {
      average_backward(call, pooled_grad, views<T>(grads));
    }
  });
  for (Tensor& grad : grads) {
    if (wide) grad = torch::stable::to(grad, dtype);
  }
  return grads;
}

Tensor multi_level_roi_align(std::vector<Tensor> features, Tensor boxes, std::vector<double> scales,
                             int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
                             double canonical_box_size, int64_t canonical_level, bool aligned, bool max_pool,
                             std::optional<Tensor> levels) {
  const Inputs inputs =
      prepare({std::move(features), std::move(boxes), std::move(scales), pooled_height, pooled_width,
               sampling_ratio, canonical_box_size, canonical_level, aligned, std::move(levels)},
              max_pool);
  const ScalarType dtype = inputs.finest().scalar_type();
  const Tensor output =
      empty_map({inputs.boxes().size(0), inputs.finest().size(1), pooled_height, pooled_width}, dtype,
                inputs.boxes(), inputs.channels_last);
  if (dtype == ScalarType::Float) forward_as<float>(inputs, output);
  if (dtype == ScalarType::Double) forward_as<double>(inputs, output);
  if (dtype == ScalarType::Half) forward_as<Half>(inputs, output);
  if (dtype == ScalarType::BFloat16) forward_as<BFloat16>(inputs, output);
  return output;
}

std::vector<Tensor> multi_level_roi_align_backward(Tensor grad_output, std::vector<Tensor> features,
                                                   Tensor boxes, std::vector<double> scales,
                                                   int64_t sampling_ratio, double canonical_box_size,
                                                   int64_t canonical_level, bool aligned, bool max_pool,
                                                   bool /*deterministic: it always is*/,
                                                   std::optional<Tensor> levels) {
  check_pooled_grad_dim(grad_output);
  const Inputs inputs = prepare(
      {std::move(features), std::move(boxes), std::move(scales), grad_output.size(2), grad_output.size(3),
       sampling_ratio, canonical_box_size, canonical_level, aligned, std::move(levels)},
      max_pool);
  check_pooled_grad(grad_output, inputs.arguments);
  const Tensor grad = dense(grad_output, inputs.channels_last);
  const ScalarType dtype = grad.scalar_type();
  if (dtype == ScalarType::Float) return backward_as<float>(inputs, grad);
  if (dtype == ScalarType::Double) return backward_as<double>(inputs, grad);
  if (dtype == ScalarType::Half) return backward_as<Half>(inputs, grad);
  return backward_as<BFloat16>(inputs, grad);
}

}  // namespace
}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("multi_level_roi_align", TORCH_BOX(&mrcnn_plugin::multi_level_roi_align));
  m.impl("multi_level_roi_align_backward", TORCH_BOX(&mrcnn_plugin::multi_level_roi_align_backward));
}
