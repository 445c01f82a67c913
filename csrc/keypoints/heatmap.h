// Arithmetic and checks of heatmaps_to_keypoints that the CPU and CUDA kernels share. Bicubic resizing is
// torch's F.interpolate(mode="bicubic", align_corners=False): a = -0.75, borders replicated, in the same
// order of operations, so that ties fall as they do there.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace mrcnn_plugin::heatmap {

// Most pixels along a side that are searched. A longer RoI is searched on a grid of this many samples.
constexpr int kMaxSide = 16384;

// Rounding of the two cubic sums, relative to the largest |logit| of the map: a cell is passed over only if
// its upper bound lies below the best value by more than this.
constexpr float kRoundingSlack = 4e-6f;

// A map with a logit beyond this, where the sums could overflow, has no peak, as one with a NaN has none.
constexpr float kMaxLogit = 1e37f;

// A product rounded on its own: compilers do not merge it into a following addition.
MRCNN_HOST_DEVICE_INLINE float product(float a, float b) { return std::fma(a, b, 0.0f); }

// One side of a RoI on which the heatmap is resampled.
struct Axis {
  int samples;       // pixels of the upsampled map
  float scale;       // heatmap cells per pixel
  float correction;  // image pixels per pixel: the RoI's real length over its ceiling
  float start;       // image coordinate of the RoI's edge
};

MRCNN_HOST_DEVICE_INLINE Axis make_axis(float start, float end, int64_t heatmap_size) {
  const float side = end - start;
  const float length = side > 1.0f ? side : 1.0f;
  const float samples = length < kMaxSide ? std::ceil(length) : static_cast<float>(kMaxSide);
  // side - side is NaN where the RoI is not finite, and so is then all that is_finite looks at.
  const float correction = length / samples + (side - side);
  return {static_cast<int>(samples), static_cast<float>(heatmap_size) / samples, correction, start};
}

// False for a NaN, infinite or overflowing side.
MRCNN_HOST_DEVICE_INLINE bool is_finite(const Axis& axis) {
  const float sum = axis.start + axis.correction;
  return sum - sum == 0.0f;
}

MRCNN_HOST_DEVICE_INLINE float image_coordinate(const Axis& axis, int pixel) {
  return product(static_cast<float>(pixel) + 0.5f, axis.correction) + axis.start;
}

// Where a pixel lies between heatmap cells: taps `cell - 1 ... cell + 2` (replicated at the border) with
// weights `w`; -1 <= cell < heatmap_size.
struct Taps {
  int cell;
  float w[4];
};

MRCNN_HOST_DEVICE_INLINE float cubic_near(float x) {
  constexpr float a = -0.75f;
  return product(product(std::fma(a + 2, x, -(a + 3)), x), x) + 1.0f;
}

MRCNN_HOST_DEVICE_INLINE float cubic_far(float x) {
  constexpr float a = -0.75f;
  return product(std::fma(std::fma(a, x, -5 * a), x, 8 * a), x) - 4 * a;
}

MRCNN_HOST_DEVICE_INLINE Taps make_taps(const Axis& axis, int pixel) {
  const float position = std::fma(axis.scale, static_cast<float>(pixel) + 0.5f, -0.5f);
  const float cell = std::floor(position);
  const float t = position - cell;
  return {static_cast<int>(cell), {cubic_far(t + 1), cubic_near(t), cubic_near(1 - t), cubic_far(2 - t)}};
}

MRCNN_HOST_DEVICE_INLINE float weighted(float w0, float v0, float w1, float v1, float w2, float v2, float w3,
                                        float v3) {
  return std::fma(w3, v3, std::fma(w2, v2, std::fma(w0, v0, product(w1, v1))));
}

// Bounds of the cubic between v1 and v2. Its outer weights are negative and add up to -n with
// n = 0.75 t (1 - t) <= 3/16; the inner ones are positive and add up to 1 + n. Hence
// value <= (1 + n) max(v1, v2) - n min(v0, v3), and likewise from below.
constexpr float kOuterWeight = 0.1875f;

MRCNN_HOST_DEVICE_INLINE float upper_bound(float v1, float v2, float outer_min) {
  const float inner = v1 > v2 ? v1 : v2;
  const float excess = inner - outer_min;
  return std::fma(kOuterWeight, excess > 0 ? excess : 0.0f, inner);
}

MRCNN_HOST_DEVICE_INLINE float lower_bound(float v1, float v2, float outer_max) {
  const float inner = v1 < v2 ? v1 : v2;
  const float excess = outer_max - inner;
  return std::fma(-kOuterWeight, excess > 0 ? excess : 0.0f, inner);
}

// A heatmap in memory, read with its border replicated.
struct Map {
  const float* values;
  int height, width;

  MRCNN_HOST_DEVICE_INLINE float at(int y, int x) const {
    y = y < 0 ? 0 : (y < height ? y : height - 1);
    x = x < 0 ? 0 : (x < width ? x : width - 1);
    return values[static_cast<int64_t>(y) * width + x];
  }

  // Upper bound of the surface over the cell whose inner taps start at (row, column), each from -1.
  MRCNN_HOST_DEVICE_INLINE float bound(int row, int column) const {
    float upper[4], lower[4];
    for (int i = 0; i < 4; ++i) {
      const float v0 = at(row + i - 1, column - 1), v1 = at(row + i - 1, column);
      const float v2 = at(row + i - 1, column + 1), v3 = at(row + i - 1, column + 2);
      upper[i] = upper_bound(v1, v2, v0 < v3 ? v0 : v3);
      lower[i] = lower_bound(v1, v2, v0 > v3 ? v0 : v3);
    }
    return upper_bound(upper[1], upper[2], lower[0] < lower[3] ? lower[0] : lower[3]);
  }

  MRCNN_HOST_DEVICE_INLINE float resample(const Taps& y, const Taps& x) const {
    float rows[4];
    for (int i = 0; i < 4; ++i) {
      const int row = y.cell + i - 1;
      rows[i] = weighted(x.w[0], at(row, x.cell - 1), x.w[1], at(row, x.cell), x.w[2], at(row, x.cell + 1),
                         x.w[3], at(row, x.cell + 2));
    }
    return weighted(y.w[0], rows[0], y.w[1], rows[1], y.w[2], rows[2], y.w[3], rows[3]);
  }
};

// The first pixel whose cell is `cell` or a later one.
MRCNN_HOST_DEVICE_INLINE int first_pixel(const Axis& axis, int cell) {
  // Exact up to rounding, which the two loops make good.
  const float guess = (static_cast<float>(cell) + 0.5f) / axis.scale - 0.5f;
  int pixel = static_cast<int>(guess < 0 ? 0.0f : guess);
  pixel = pixel < axis.samples ? pixel : axis.samples;
  while (pixel > 0 && make_taps(axis, pixel - 1).cell >= cell) --pixel;
  while (pixel < axis.samples && make_taps(axis, pixel).cell < cell) ++pixel;
  return pixel;
}

// Orders pixels by value; of equal values the first in row-major order is the greatest.
MRCNN_HOST_DEVICE_INLINE uint64_t rank_pixel(float value, int index) {
  value += 0.0f;  // -0 is not below 0
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

MRCNN_HOST_DEVICE_INLINE float ranked_value(uint64_t rank) {
  uint32_t bits = static_cast<uint32_t>(rank >> 32);
  bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

MRCNN_HOST_DEVICE_INLINE int ranked_index(uint64_t rank) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(rank));
}

// maps (K, num_keypoints, H, W) and rois (K, 4), both float32.
inline void check(const torch::stable::Tensor& maps, const torch::stable::Tensor& rois) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(maps.dim() == 4, "maps must have shape (K, num_keypoints, H, W), got ", maps.dim(),
                  " dimensions");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(0) == maps.size(0) && rois.size(1) == 4,
                  "rois must have shape (K, 4) with K = ", maps.size(0), " as in maps, got ", rois.dim(),
                  " dimensions of ", rois.numel(), " elements");
  STD_TORCH_CHECK(maps.scalar_type() == ScalarType::Float && rois.scalar_type() == ScalarType::Float,
                  "maps and rois must be float32");
  for (int dim = 2; dim < 4; ++dim) {
    STD_TORCH_CHECK(maps.size(dim) >= 1 && maps.size(dim) <= kMaxSide, "maps must have 1 to ", kMaxSide,
                    " rows and columns, got ", maps.size(dim));
  }
}

}  // namespace mrcnn_plugin::heatmap
