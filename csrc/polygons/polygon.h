// Arithmetic and checks of rasterize_polygons that the CPU and CUDA kernels share.
//
// The rule is that of pycocotools: corners are rounded to a grid five times as fine as the mask, each edge is
// a chain of grid points one step apart along its longer side, and a mask column is bounded where the outline
// steps over the middle of it, from grid column 5 c + 2 to 5 c + 3. A cell is inside if the number of such
// steps at or above it in its column is odd. Where pycocotools walks all grid points, the steps are computed
// here from the edge directly: so coordinates far outside the mask cost nothing.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>

#include "common/numeric.h"

namespace mrcnn_plugin::polygon {

constexpr int kMaxMaskSize = 4096;
constexpr int kFine = 5;

// Towards zero, as a C cast; beyond 32 bits it saturates, and NaN becomes the lowest value.
MRCNN_HOST_DEVICE_INLINE int64_t truncate(double value) {
  constexpr double limit = 2147483647.0;
  if (!(value > -limit)) return -static_cast<int64_t>(limit);
  return static_cast<int64_t>(value < limit ? value : limit);
}

// Integer division rounded down, for a positive divisor.
MRCNN_HOST_DEVICE_INLINE int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Image pixels to the fine grid of the mask in a box.
struct Frame {
  double x, y, scale_x, scale_y;

  MRCNN_HOST_DEVICE_INLINE int64_t fine_x(double image_x) const {
    return truncate(rounded_product(double(kFine), (image_x - x) * scale_x) + 0.5);
  }
  MRCNN_HOST_DEVICE_INLINE int64_t fine_y(double image_y) const {
    return truncate(rounded_product(double(kFine), (image_y - y) * scale_y) + 0.5);
  }
};

// Mask cells per image pixel. Computed in the boxes' own type, as NumPy 2 does for Detectron2, except for
// sides below 0.1, which are taken for 0.1.
template <typename Box>
MRCNN_HOST_DEVICE_INLINE double box_scale(Box side, int mask_size) {
  return side < Box(0.1) ? mask_size / 0.1 : static_cast<double>(Box(mask_size) / side);
}

template <typename Box>
MRCNN_HOST_DEVICE_INLINE Frame make_frame(const Box* box, int mask_size) {
  return {static_cast<double>(box[0]), static_cast<double>(box[1]), box_scale(box[2] - box[0], mask_size),
          box_scale(box[3] - box[1], mask_size)};
}

template <typename Box>
MRCNN_HOST_DEVICE_INLINE bool is_finite(const Box* box) {
  const Box width = box[2] - box[0], height = box[3] - box[1];
  return width - width == 0 && height - height == 0;
}

// One edge of the outline on the fine grid, turned so that it runs up along its longer side.
struct Edge {
  int64_t x0, y0, x1, y1;
  double slope;
  bool steep;

  MRCNN_HOST_DEVICE_INLINE Edge(int64_t xa, int64_t ya, int64_t xb, int64_t yb) {
    const int64_t dx = xa < xb ? xb - xa : xa - xb, dy = ya < yb ? yb - ya : ya - yb;
    steep = dx < dy;
    const bool turned = steep ? ya > yb : xa > xb;
    x0 = turned ? xb : xa;
    y0 = turned ? yb : ya;
    x1 = turned ? xa : xb;
    y1 = turned ? ya : yb;
    slope = steep ? static_cast<double>(x1 - x0) / static_cast<double>(dy)
                  : static_cast<double>(y1 - y0) / static_cast<double>(dx);
  }

  // The other coordinate `steps` along the longer side.
  MRCNN_HOST_DEVICE_INLINE int64_t across(int64_t steps) const {
    const double start = static_cast<double>(steep ? x0 : y0);
    return truncate(rounded_product(slope, static_cast<double>(steps)) + start + 0.5);
  }

  // The first and one past the last of the mask columns [begin, end) whose middle the edge steps over.
  MRCNN_HOST_DEVICE_INLINE void columns(int begin, int end, int* first, int* last) const {
    const int64_t left = x0 < x1 ? x0 : x1, right = x0 < x1 ? x1 : x0;
    const int64_t from = floor_divide(left - 2 + kFine - 1, kFine), to = floor_divide(right - 3, kFine) + 1;
    *first = static_cast<int>(from < begin ? begin : (from > end ? end : from));
    *last = static_cast<int>(to < begin ? begin : (to > end ? end : to));
  }

  // Mask row at which the edge steps over the middle of mask column `column`; mask_size if below the mask,
  // -1 if it does not after all.
  MRCNN_HOST_DEVICE_INLINE int crossing(int column, int mask_size) const {
    const int64_t left = int64_t(kFine) * column + 2;
    int64_t y;
    if (steep) {
      const int64_t steps = steps_to(left);
      if (steps < 0) return -1;
      y = y0 + steps;
    } else {
      const int64_t ya = across(left - x0), yb = across(left + 1 - x0);
      y = ya < yb ? ya : yb;
    }
    const int64_t row = -floor_divide(2 - y, kFine);
    return static_cast<int>(row < 0 ? 0 : (row > mask_size ? mask_size : row));
  }

 private:
  MRCNN_HOST_DEVICE_INLINE bool beyond(int64_t steps, int64_t left) const {
    return slope > 0 ? across(steps) > left : across(steps) <= left;
  }

  // Steps along a steep edge before the one that takes it over from `left` to `left + 1`, or back; -1 if
  // none.
  MRCNN_HOST_DEVICE_INLINE int64_t steps_to(int64_t left) const {
    const int64_t length = y1 - y0;
    // Exact up to rounding, which the two loops make good. An edge may have more than 2^31 steps.
    const double guess = (static_cast<double>(left - x0) + 0.5) / slope;
    int64_t steps =
        guess < static_cast<double>(length) ? (guess > 0 ? static_cast<int64_t>(guess) : 0) : length;
    while (steps > 0 && beyond(steps, left)) --steps;
    while (steps < length && !beyond(steps + 1, left)) ++steps;
    return steps < length && !beyond(steps, left) ? steps : -1;
  }
};

inline void check(const torch::stable::Tensor& coords, const torch::stable::Tensor& polygon_offsets,
                  const torch::stable::Tensor& instance_offsets, const torch::stable::Tensor& boxes,
                  int64_t mask_size) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(coords.dim() == 1 && coords.scalar_type() == ScalarType::Double,
                  "coords must be a flat float64 tensor");
  STD_TORCH_CHECK(polygon_offsets.dim() == 1 && polygon_offsets.scalar_type() == ScalarType::Long &&
                      polygon_offsets.numel() >= 1,
                  "polygon_offsets must be a flat int64 tensor of at least one element");
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4 &&
                      (boxes.scalar_type() == ScalarType::Float || boxes.scalar_type() == ScalarType::Double),
                  "boxes must have shape (K, 4) and dtype float32 or float64");
  STD_TORCH_CHECK(instance_offsets.dim() == 1 && instance_offsets.scalar_type() == ScalarType::Long &&
                      instance_offsets.numel() == boxes.size(0) + 1,
                  "instance_offsets must be a flat int64 tensor of K + 1 = ", boxes.size(0) + 1,
                  " elements, got ", instance_offsets.numel());
  STD_TORCH_CHECK(mask_size >= 1 && mask_size <= kMaxMaskSize, "mask_size must be 1 to ", kMaxMaskSize,
                  ", got ", mask_size);
}

}  // namespace mrcnn_plugin::polygon
