// The peak of a heatmap upsampled to its RoI, without the upsampled map: every heatmap cell gets an upper
// bound of the bicubic surface over it, and only cells whose bound reaches the best value are resampled.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/cpu/simd_level.h"
#include "keypoints/heatmap.h"

namespace mrcnn_plugin {
namespace {

using namespace heatmap;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kMaxLanes = 8;

// The pixels of one axis: their four weights, and which of them lie in each heatmap cell. Cells are counted
// from 0, one more than `Taps` counts them.
struct AxisTable {
  std::vector<int> first_pixel;  // (heatmap_size + 2)
  std::vector<float> weights;    // (4, stride)
  size_t stride = 0;

  explicit AxisTable(int heatmap_size) : first_pixel(heatmap_size + 2) {}
  void resize(int samples) {
    stride = samples + kMaxLanes;
    if (weights.size() < 4 * stride) weights.resize(4 * stride);
  }
  float* weight(int tap) { return weights.data() + tap * stride; }
  const float* weight(int tap) const { return weights.data() + tap * stride; }
};

struct Peak {
  float value;
  int x, y;
};

// What a thread needs to search one map after the other; sized once, so that no map allocates.
struct Search {
  int height, width;  // of the heatmap
  int stride;         // width + 1 cells, rounded up to whole vectors
  AxisTable x, y;
  std::vector<float> padded;    // (height, stride + 4) the map, its outer columns twice more on either side
  std::vector<float> bounds;    // (height + 1, stride)
  std::vector<int> candidates;  // (width + 1) cells of one row that may hold the peak
  std::vector<float> row_tops;  // (height + 1, kMaxLanes) partial maxima of the rows of `bounds`

  Search(int h, int w)
      : height(h),
        width(w),
        stride((w + kMaxLanes) / kMaxLanes * kMaxLanes),
        x(w),
        y(h),
        padded(size_t(h) * (stride + 4)),
        bounds(size_t(h + 1) * stride),
        candidates(w + 1),
        row_tops(size_t(h + 1) * kMaxLanes) {}

  float* padded_row(int r) { return padded.data() + size_t(r) * (stride + 4); }
  const float* row(int r) const {
    return padded.data() + size_t(std::clamp(r, 0, height - 1)) * (stride + 4);
  }
  float* bound_row(int r) { return bounds.data() + size_t(r) * stride; }
  float* row_top(int r) { return row_tops.data() + size_t(r) * kMaxLanes; }
};

}  // namespace
}  // namespace mrcnn_plugin

#define MRCNN_LEVEL_FILE "keypoints/cpu/heatmap_search.h"
#include "common/cpu/each_level.h"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

Tensor heatmaps_to_keypoints(const Tensor& maps, const Tensor& rois) {
  heatmap::check(maps, rois);
  const auto decode = MRCNN_FOR_LEVEL(simd_level(), decode_maps);
  const auto inputs = torch::stable::contiguous(maps);
  const auto boxes = torch::stable::contiguous(rois);
  const int64_t maps_per_roi = maps.size(1), count = maps.size(0) * maps_per_roi;
  Tensor keypoints = torch::stable::new_empty(maps, {maps.size(0), maps_per_roi, 4});
  if (count == 0) return keypoints;
  const float* map = inputs.const_data_ptr<float>();
  const float* roi = boxes.const_data_ptr<float>();
  float* out = keypoints.mutable_data_ptr<float>();
  const int height = static_cast<int>(maps.size(2)), width = static_cast<int>(maps.size(3));
  torch::stable::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
    Search search(height, width);
    decode(search, map, roi, out, begin, end, maps_per_roi);
  });
  return keypoints;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("heatmaps_to_keypoints", TORCH_BOX(&heatmaps_to_keypoints));
}

}  // namespace mrcnn_plugin
