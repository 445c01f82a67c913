// Per-box tables of the two axes, and what else the CPU kernels of paste_masks and encode_masks share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "masks/paste.h"

namespace mrcnn_plugin {

// axis_sample() of every pixel of [begin, end), one array per field, padded for reads of whole vectors.
struct MaskAxis {
  static constexpr int32_t kPadding = 64;
  int32_t begin = 0, end = 0;
  std::vector<int32_t> cell;
  std::vector<float> near, far;

  void fill(int32_t begin_, int32_t end_, float low, float high, int32_t size) {
    begin = begin_;
    end = end_;
    const size_t padded = static_cast<size_t>(end - begin) + kPadding;
    cell.resize(padded);
    near.resize(padded);
    far.resize(padded);
    for (int32_t pixel = begin; pixel < end; ++pixel) {
      const AxisSample sample = axis_sample(pixel, low, high, size);
      cell[pixel - begin] = sample.cell;
      near[pixel - begin] = sample.near;
      far[pixel - begin] = sample.far;
    }
  }
  int32_t size() const { return end - begin; }
  bool valid(int32_t i) const { return far[i] == far[i]; }
};

// An (Mh, Mw) mask in a frame of zeros two cells wide, so that cells -2..size + 1 can be read.
struct FramedMask {
  static constexpr int32_t kFrame = 2;
  int32_t stride = 0;
  std::vector<float> values;

  // `transposed` stores columns as contiguous rows.
  void fill(const float* mask, int32_t height, int32_t width, bool transposed) {
    const int32_t rows = transposed ? width : height, columns = transposed ? height : width;
    stride = columns + 2 * kFrame;
    values.assign(static_cast<size_t>(rows + 2 * kFrame) * stride, 0.0f);
    for (int32_t i = 0; i < height; ++i) {
      for (int32_t j = 0; j < width; ++j) {
        const int32_t row = transposed ? j : i, column = transposed ? i : j;
        values[static_cast<size_t>(row + kFrame) * stride + column + kFrame] =
            mask[static_cast<int64_t>(i) * width + j];
      }
    }
  }
  // Row `cell`, indexable from -kFrame on.
  const float* row(int32_t cell) const {
    return values.data() + static_cast<size_t>(cell + kFrame) * stride + kFrame;
  }
};

}  // namespace mrcnn_plugin
