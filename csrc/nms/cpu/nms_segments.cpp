// nms_segments and nms_mask on the CPU: segments in parallel; a box that is kept is compared with all after
// it at once.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "common/cpu/parallel.h"
#include "common/cpu/simd_level.h"
#include "nms/checks.h"

namespace mrcnn_plugin {
namespace {

// The boxes of a segment, a coordinate in a row.
struct Corners {
  const float *x1, *y1, *x2, *y2, *area;
};

// What one thread keeps from segment to segment.
struct Scratch {
  std::vector<float> floats;
  std::vector<uint8_t> dead;
  // Of nms_mask: the boxes that take part, best first.
  std::vector<int64_t> order;
  std::vector<float> sorted;
};

}  // namespace
}  // namespace mrcnn_plugin

#define MRCNN_LEVEL_FILE "nms/cpu/suppress.h"
#include "common/cpu/each_level.h"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;
using Suppress = void (*)(const Corners&, int64_t, int64_t, int64_t, double, float*, uint8_t*);

void keep_segment(const float* boxes, int64_t count, double threshold, Suppress suppress, Scratch& scratch,
                  bool* keep) {
  scratch.floats.resize(6 * count);
  scratch.dead.assign(count, 0);
  float* rows = scratch.floats.data();
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t corner = 0; corner < 4; ++corner) rows[corner * count + i] = boxes[4 * i + corner];
    rows[4 * count + i] = (boxes[4 * i + 2] - boxes[4 * i]) * (boxes[4 * i + 3] - boxes[4 * i + 1]);
  }
  const Corners corners = {rows, rows + count, rows + 2 * count, rows + 3 * count, rows + 4 * count};
  for (int64_t i = 0; i < count; ++i) {
    keep[i] = !scratch.dead[i];
    if (keep[i]) suppress(corners, i, i + 1, count, threshold, rows + 5 * count, scratch.dead.data());
  }
}

Tensor nms_segments(const Tensor& boxes, const Tensor& offsets, double iou_threshold) {
  check_nms_inputs(boxes, offsets);
  const Suppress suppress = MRCNN_FOR_LEVEL(simd_level(), suppress);
  const Tensor rows = torch::stable::contiguous(boxes), ends = torch::stable::contiguous(offsets);
  const int64_t count = boxes.size(0), segments = offsets.size(0) - 1;
  Tensor keep = torch::stable::new_zeros(boxes, {count}, torch::headeronly::ScalarType::Bool);
  const float* box = rows.const_data_ptr<float>();
  const int64_t* offset = ends.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < segments; ++i) {
    STD_TORCH_CHECK(0 <= offset[i] && offset[i] <= offset[i + 1] && offset[i + 1] <= count,
                    "offsets must rise from 0 to at most ", count, ", got ", offset[i], " before ",
                    offset[i + 1]);
  }
  bool* kept = keep.mutable_data_ptr<bool>();
  const auto make_scratch = [](int64_t) { return Scratch(); };
  parallel_tasks(segments, make_scratch, [&](Scratch& scratch, int64_t i) {
    keep_segment(box + 4 * offset[i], offset[i + 1] - offset[i], iou_threshold, suppress, scratch,
                 kept + offset[i]);
  });
  return keep;
}

// One group of nms_mask: equal scores keep their order, as torchvision's nms has it.
void keep_group(const float* boxes, const float* scores, int64_t count, double threshold, Suppress suppress,
                Scratch& scratch, bool* keep) {
  std::vector<int64_t>& order = scratch.order;
  order.clear();
  for (int64_t i = 0; i < count; ++i) {
    if (scores[i] > -std::numeric_limits<float>::infinity()) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [scores](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  const auto taking_part = static_cast<int64_t>(order.size());
  scratch.sorted.resize(4 * taking_part);
  for (int64_t i = 0; i < taking_part; ++i) {
    std::copy_n(boxes + 4 * order[i], 4, scratch.sorted.data() + 4 * i);
  }
  const std::unique_ptr<bool[]> kept(new bool[taking_part]);
  keep_segment(scratch.sorted.data(), taking_part, threshold, suppress, scratch, kept.get());
  for (int64_t i = 0; i < taking_part; ++i) keep[order[i]] = kept[i];
}

Tensor nms_mask(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "boxes must have shape (B, K, 4)");
  const int64_t groups = boxes.size(0), count = boxes.size(1);
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(0) == groups && scores.size(1) == count,
                  "scores must have shape (B, K)");
  STD_TORCH_CHECK(boxes.scalar_type() == ScalarType::Float && scores.scalar_type() == ScalarType::Float,
                  "boxes and scores must be float32");
  const Suppress suppress = MRCNN_FOR_LEVEL(simd_level(), suppress);
  const Tensor rows = torch::stable::contiguous(boxes), values = torch::stable::contiguous(scores);
  Tensor keep = torch::stable::new_zeros(scores, {groups, count}, ScalarType::Bool);
  const float* box = rows.const_data_ptr<float>();
  const float* score = values.const_data_ptr<float>();
  bool* kept = keep.mutable_data_ptr<bool>();
  const auto make_scratch = [](int64_t) { return Scratch(); };
  parallel_tasks(groups, make_scratch, [&](Scratch& scratch, int64_t i) {
    keep_group(box + 4 * count * i, score + count * i, count, iou_threshold, suppress, scratch,
               kept + count * i);
  });
  return keep;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("nms_segments", TORCH_BOX(&nms_segments));
  m.impl("nms_mask", TORCH_BOX(&nms_mask));
}

}  // namespace mrcnn_plugin
