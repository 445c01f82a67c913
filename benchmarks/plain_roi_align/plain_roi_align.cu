// RoIAlign on CUDA in the usual design, to count costs beside csrc's: a thread an output element, the RoI's
// geometry in every thread, four scattered loads a sample, one launch a level; backward by atomic additions.
// NCHW.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>

#include "common/cuda/launch.cuh"
#include "roi_align/geometry.h"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

constexpr int kThreads = 512;

// One level's features and the RoIs that are pooled from it.
struct Level {
  const float* boxes;     // (K, 5)
  const int64_t* places;  // (K,): the RoI's row in the output
  int channels, height, width, pooled_height, pooled_width;
  double scale;
  int64_t sampling_ratio;
};

// Calls visit(offset in the plane, weight) for the pixels of one bin, and returns the plane.
template <typename Visit>
__device__ void visit_bin(const Level& level, const float* box, int row, int column, const Visit& visit) {
  const RoIAxis y = roi_axis(box[2], box[4], level.scale, level.pooled_height, level.sampling_ratio, true);
  const RoIAxis x = roi_axis(box[1], box[3], level.scale, level.pooled_width, level.sampling_ratio, true);
  const float share = float(1.0 / roi_sample_count(y, x));
  for (int i = 0; i < int(y.samples); ++i) {
    const RoITap ty = roi_tap(roi_sample_position(y, row, i), level.height);
    for (int j = 0; ty.inside && j < int(x.samples); ++j) {
      const RoITap tx = roi_tap(roi_sample_position(x, column, j), level.width);
      if (!tx.inside) continue;
      visit(ty.low * level.width + tx.low, share * float(ty.low_weight * tx.low_weight));
      visit(ty.low * level.width + tx.high, share * float(ty.low_weight * tx.high_weight));
      visit(ty.high * level.width + tx.low, share * float(ty.high_weight * tx.low_weight));
      visit(ty.high * level.width + tx.high, share * float(ty.high_weight * tx.high_weight));
    }
  }
}

struct Element {
  int64_t roi;
  int channel, row, column;

  __device__ Element(const Level& level, int64_t i) {
    column = int(i % level.pooled_width);
    row = int(i / level.pooled_width % level.pooled_height);
    channel = int(i / level.pooled_width / level.pooled_height % level.channels);
    roi = i / level.pooled_width / level.pooled_height / level.channels;
  }
  __device__ int64_t plane(const Level& level) const {
    return (int64_t(level.boxes[roi * 5]) * level.channels + channel) * level.height * level.width;
  }
  __device__ int64_t pooled(const Level& level) const {
    return ((level.places[roi] * level.channels + channel) * level.pooled_height + row) * level.pooled_width +
           column;
  }
};

template <typename T>
__global__ void plain_forward(Level level, int64_t elements, const T* features, T* output) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= elements) return;
  const Element element(level, i);
  const T* plane = features + element.plane(level);
  float sum = 0;
  visit_bin(level, level.boxes + element.roi * 5, element.row, element.column,
            [&](int64_t offset, float weight) { sum += weight * static_cast<float>(plane[offset]); });
  output[element.pooled(level)] = static_cast<T>(sum);
}

template <typename T>
__global__ void plain_backward(Level level, int64_t elements, const T* grad, float* features) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= elements) return;
  const Element element(level, i);
  const float value = static_cast<float>(grad[element.pooled(level)]);
  float* plane = features + element.plane(level);
  visit_bin(level, level.boxes + element.roi * 5, element.row, element.column,
            [&](int64_t offset, float weight) { atomicAdd(plane + offset, weight * value); });
}

Level make_level(const Tensor& features, const Tensor& boxes, const Tensor& places, double scale,
                 int64_t pooled_size, int64_t sampling_ratio) {
  return {boxes.const_data_ptr<float>(),
          places.const_data_ptr<int64_t>(),
          int(features.size(1)),
          int(features.size(2)),
          int(features.size(3)),
          int(pooled_size),
          int(pooled_size),
          scale,
          sampling_ratio};
}

template <typename T>
void run_level(const Tensor& features, const Tensor& boxes, const Tensor& places, double scale,
               int64_t pooled_size, int64_t sampling_ratio, const Tensor& pooled, bool backward) {
  const Level level = make_level(features, boxes, places, scale, pooled_size, sampling_ratio);
  const int64_t elements = boxes.size(0) * features.size(1) * pooled_size * pooled_size;
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  const cudaStream_t stream = current_stream(features);
  if (backward) {
    launch(plain_backward<T>, blocks, kThreads, 0, stream, level, elements,
           static_cast<const T*>(pooled.const_data_ptr()), features.mutable_data_ptr<float>());
  } else {
    launch(plain_forward<T>, blocks, kThreads, 0, stream, level, elements,
           static_cast<const T*>(features.const_data_ptr()), static_cast<T*>(pooled.mutable_data_ptr()));
  }
}

// backward: `features` is the float32 gradient that is added to.
void plain_roi_align(Tensor features, Tensor boxes, Tensor places, double scale, int64_t pooled_size,
                     int64_t sampling_ratio, Tensor pooled, bool backward) {
  if (pooled.scalar_type() == torch::headeronly::ScalarType::BFloat16) {
    run_level<c10::BFloat16>(features, boxes, places, scale, pooled_size, sampling_ratio, pooled, backward);
  } else {
    run_level<float>(features, boxes, places, scale, pooled_size, sampling_ratio, pooled, backward);
  }
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) { m.impl("plain_roi_align", TORCH_BOX(&plain_roi_align)); }

}  // namespace
}  // namespace mrcnn_plugin
