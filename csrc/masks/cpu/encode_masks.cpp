// encode_masks on the CPU: runs are found cell by cell of the mask, never through an image-sized buffer.
//
// Inside one mask cell the pasted mask is bilinear in its four corners. A cell whose corners all lie on one
// side of the threshold, with a margin for rounding, is settled at once; only rows of the other cells are
// evaluated, 16 pixels at a time. Everything runs down columns, the order of COCO's RLE.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <tuple>
#include <utility>

#include "common/cpu/parallel.h"
#include "common/cpu/simd_level.h"
#include "masks/checks.h"
#include "masks/cpu/axis.h"
#include "masks/rle.h"

namespace mrcnn_plugin {
namespace {

// Turns the positions at which the value changes into a code, an area and a box.
class RleWriter {
 public:
  explicit RleWriter(uint32_t height) : height_(height) {}

  // The value changes at this column-major position; positions increase.
  void flip(uint32_t position) {
    if (index_ % 2 == 1) {
      area += position - last_;
      bounds.add(last_, position, height_);
    }
    write(position - last_);
    last_ = position;
  }
  // `total` is the number of pixels of the mask.
  void finish(uint32_t total) {
    if (index_ % 2 == 1) {
      area += total - last_;
      bounds.add(last_, total, height_);
    }
    write(total - last_);
    code.resize(used_);
  }

  std::vector<uint8_t> code;
  int64_t area = 0;
  RleBounds bounds;

 private:
  void write(uint32_t run) {
    if (code.size() < used_ + kMaxRleCodeLength) code.resize(2 * code.size() + 256);
    used_ += rle_write(rle_number(index_, run, before_[index_ % 2]), code.data() + used_);
    before_[index_ % 2] = run;
    ++index_;
  }

  uint32_t height_;
  uint32_t last_ = 0;
  uint32_t before_[2] = {0, 0};
  int64_t index_ = 0;
  size_t used_ = 0;
};

enum class Span : uint8_t { kZeros, kOnes, kMixed };

// Rows [begin, end) of the region; of one cell, or of one kind.
struct CellRows {
  int32_t begin, end, cell;
  bool valid;
};
struct SpanRows {
  int32_t begin, end;
  Span kind;
};

// What the threshold makes of a cell, whatever the (finite) weights are.
Span classify_cell(float a, float b, float c, float d, float threshold) {
  const float low = std::min(std::min(a, b), std::min(c, d));
  const float high = std::max(std::max(a, b), std::max(c, d));
  if (low == 0.0f && high == 0.0f && a + b + c + d == 0.0f) {
    return 0.0f >= threshold ? Span::kOnes : Span::kZeros;
  }
  // NaN and infinite corners make the sum non-finite.
  if (!std::isfinite(a + b + c + d)) return Span::kMixed;
  // The four products, three sums and the weights' own rounding stay below 12 units of 2^-24.
  const float margin = std::max(std::fabs(low), std::fabs(high)) * 2e-6f + 1e-37f;
  if (low - margin >= threshold) return Span::kOnes;
  return high + margin < threshold ? Span::kZeros : Span::kMixed;
}

// What one thread keeps from instance to instance. "Left" and "right" are the two mask columns between which
// the current image column lies; mask columns are stored as contiguous rows.
struct Scratch {
  MaskAxis rows, columns;
  FramedMask mask;
  std::vector<CellRows> cells;
  std::vector<SpanRows> spans;
  std::vector<float> top_left, top_right, bottom_left, bottom_right;
  int32_t column_cell;

  void prepare(const float* values, const float* box, int32_t mask_height, int32_t mask_width,
               const PasteRegion& region) {
    rows.fill(region.y0, region.y1, box[1], box[3], mask_height);
    columns.fill(region.x0, region.x1, box[0], box[2], mask_width);
    mask.fill(values, mask_height, mask_width, true);
    for (auto* corner : {&top_left, &top_right, &bottom_left, &bottom_right}) {
      corner->resize(rows.size() + MaskAxis::kPadding);
    }
    cells.clear();
    for (int32_t y = 0; y < rows.size(); ++y) {
      const bool valid = rows.valid(y);
      if (cells.empty() || cells.back().cell != rows.cell[y] || cells.back().valid != valid) {
        cells.push_back({y, y, rows.cell[y], valid});
      }
      cells.back().end = y + 1;
    }
    column_cell = std::numeric_limits<int32_t>::min();
  }

  void enter_column(int32_t cell, float threshold) {
    if (cell - 1 == column_cell) {
      std::swap(top_left, top_right);
      std::swap(bottom_left, bottom_right);
    } else {
      expand(mask.row(cell), top_left.data(), bottom_left.data());
    }
    expand(mask.row(cell + 1), top_right.data(), bottom_right.data());
    column_cell = cell;
    find_spans(mask.row(cell), mask.row(cell + 1), threshold);
  }

  void expand(const float* mask_column, float* top, float* bottom) const {
    for (const CellRows& group : cells) {
      std::fill(top + group.begin, top + group.end, mask_column[group.cell]);
      std::fill(bottom + group.begin, bottom + group.end, mask_column[group.cell + 1]);
    }
  }

  void find_spans(const float* left, const float* right, float threshold) {
    spans.clear();
    for (const CellRows& group : cells) {
      const int32_t i = group.cell;
      const Span kind =
          group.valid ? classify_cell(left[i], right[i], left[i + 1], right[i + 1], threshold) : Span::kZeros;
      if (spans.empty() || spans.back().kind != kind) spans.push_back({group.begin, group.begin, kind});
      spans.back().end = group.end;
    }
  }
};

}  // namespace
}  // namespace mrcnn_plugin

#define MRCNN_LEVEL_FILE "masks/cpu/encode_region.h"
#include "common/cpu/each_level.h"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

struct Encoded {
  std::vector<uint8_t> code;
  int64_t area;
  int64_t box[4];
};

using EncodeRegion = void (*)(Scratch&, float, int32_t, int32_t, RleWriter&);

Encoded encode_instance(EncodeRegion encode_region, Scratch& scratch, const float* mask, const float* box,
                        int32_t mask_height, int32_t mask_width, int32_t height, int32_t width,
                        float threshold) {
  RleWriter writer(static_cast<uint32_t>(height));
  const PasteRegion region = paste_region(box, height, width);
  if (region.empty()) {
    writer.finish(static_cast<uint32_t>(height) * static_cast<uint32_t>(width));
  } else {
    scratch.prepare(mask, box, mask_height, mask_width, region);
    encode_region(scratch, threshold, height, width, writer);
  }
  Encoded result = {std::move(writer.code), writer.area, {}};
  result.code.shrink_to_fit();
  writer.bounds.write_xywh(result.box);
  return result;
}

using Tensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Lays the instances' codes end to end.
Tensors gather_results(const std::vector<Encoded>& encoded, const Tensor& like) {
  using torch::headeronly::ScalarType;
  const int64_t n = static_cast<int64_t>(encoded.size());
  int64_t bytes = 0;
  for (const Encoded& one : encoded) bytes += static_cast<int64_t>(one.code.size());
  Tensor counts = torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
  Tensor offsets = torch::stable::new_empty(like, {n + 1}, ScalarType::Long);
  Tensor areas = torch::stable::new_empty(like, {n}, ScalarType::Long);
  Tensor boxes = torch::stable::new_empty(like, {n, 4}, ScalarType::Long);
  uint8_t* count_data = counts.mutable_data_ptr<uint8_t>();
  int64_t* offset_data = offsets.mutable_data_ptr<int64_t>();
  int64_t* area_data = areas.mutable_data_ptr<int64_t>();
  int64_t* box_data = boxes.mutable_data_ptr<int64_t>();
  offset_data[0] = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Encoded& one = encoded[i];
    std::copy(one.code.begin(), one.code.end(), count_data + offset_data[i]);
    offset_data[i + 1] = offset_data[i] + static_cast<int64_t>(one.code.size());
    area_data[i] = one.area;
    std::copy(one.box, one.box + 4, box_data + 4 * i);
  }
  return {counts, offsets, areas, boxes};
}

Tensors encode_masks(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold) {
  check_mask_inputs(masks, boxes, height, width, threshold);
  check_rle_inputs(height, width, threshold);
  const EncodeRegion encode = MRCNN_FOR_LEVEL(simd_level(), encode_region);
  const int64_t n = masks.size(0);
  const int32_t mask_height = static_cast<int32_t>(masks.size(1));
  const int32_t mask_width = static_cast<int32_t>(masks.size(2));
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  std::vector<Encoded> encoded(n);
  const auto make_scratch = [](int64_t) { return Scratch(); };
  // Boxes differ too much in size for equal shares.
  parallel_tasks(n, make_scratch, [&](Scratch& scratch, int64_t i) {
    encoded[i] = encode_instance(encode, scratch, mask_data + i * mask_height * mask_width, box_data + i * 4,
                                 mask_height, mask_width, static_cast<int32_t>(height),
                                 static_cast<int32_t>(width), static_cast<float>(threshold));
  });
  return gather_results(encoded, masks);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) { m.impl("encode_masks", TORCH_BOX(&encode_masks)); }

}  // namespace mrcnn_plugin
