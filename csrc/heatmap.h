// Arithmetic and checks of heatmaps_to_keypoints that the CPU and CUDA kernels share. Bicubic resizing is
// torch's F.interpolate(mode="bicubic", align_corners=False): a = -0.75, borders replicated, in the same
// order of operations, so that ties fall as they do there.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MRCNN_HEATMAP_FN __host__ __device__ __forceinline__
#else
#define MRCNN_HEATMAP_FN inline __attribute__((always_inline))
#endif

namespace mrcnn_plugin::heatmap {

// Most pixels along a side that are searched. A longer RoI is searched on a grid of this many samples.
constexpr int kMaxSide = 16384;

// Rounding of the two cubic sums, relative to the largest |logit| of the map: a cell is passed over only if
// its upper bound lies below the best value by more than this.
constexpr float kRoundingSlack = 4e-6f;

// A map with a logit beyond this, where the sums could overflow, has no peak, as one with a NaN has none.
constexpr float kMaxLogit = 1e37f;

// A product rounded on its own: compilers do not merge it into a following addition.
MRCNN_HEATMAP_FN float product(float a, float b) { return std::fma(a, b, 0.0f); }

// One side of a RoI on which the heatmap is resampled.
struct Axis {
  int samples;       // pixels of the upsampled map
  float scale;       // heatmap cells a pixel
  float correction;  // image pixels a pixel: the RoI's real length over its ceiling
  float start;       // image coordinate of the RoI's edge
};

MRCNN_HEATMAP_FN Axis make_axis(float start, float end, int64_t heatmap_size) {
  const float side = end - start;
  const float length = side > 1.0f ? side : 1.0f;
  const float samples = length < kMaxSide ? std::ceil(length) : static_cast<float>(kMaxSide);
  // side - side is NaN where the RoI is not finite, and so is then all that is_finite looks at.
  const float correction = length / samples + (side - side);
  return {static_cast<int>(samples), static_cast<float>(heatmap_size) / samples, correction, start};
}

// False for a NaN, infinite or overflowing side.
MRCNN_HEATMAP_FN bool is_finite(const Axis& axis) {
  const float sum = axis.start + axis.correction;
  return sum - sum == 0.0f;
}

MRCNN_HEATMAP_FN float image_coordinate(const Axis& axis, int pixel) {
  return product(static_cast<float>(pixel) + 0.5f, axis.correction) + axis.start;
}

// Where a pixel lies between heatmap cells: taps `cell - 1 ... cell + 2` (replicated at the border) with
// weights `w`; -1 <= cell < heatmap_size.
struct Taps {
  int cell;
  float w[4];
};

MRCNN_HEATMAP_FN float cubic_near(float x) {
  constexpr float a = -0.75f;
  return product(product(std::fma(a + 2, x, -(a + 3)), x), x) + 1.0f;
}

MRCNN_HEATMAP_FN float cubic_far(float x) {
  constexpr float a = -0.75f;
  return product(std::fma(std::fma(a, x, -5 * a), x, 8 * a), x) - 4 * a;
}

MRCNN_HEATMAP_FN Taps make_taps(const Axis& axis, int pixel) {
  const float position = std::fma(axis.scale, static_cast<float>(pixel) + 0.5f, -0.5f);
  const float cell = std::floor(position);
  const float t = position - cell;
  return {static_cast<int>(cell), {cubic_far(t + 1), cubic_near(t), cubic_near(1 - t), cubic_far(2 - t)}};
}

MRCNN_HEATMAP_FN float weighted(float w0, float v0, float w1, float v1, float w2, float v2, float w3,
                                float v3) {
  return std::fma(w3, v3, std::fma(w2, v2, std::fma(w0, v0, product(w1, v1))));
}

// Bounds of the cubic between v1 and v2. Its outer weights are negative and add up to -n with
// n = 0.75 t (1 - t) <= 3/16; the inner ones are positive and add up to 1 + n. Hence
// value <= (1 + n) max(v1, v2) - n min(v0, v3), and likewise from below.
constexpr float kOuterWeight = 0.1875f;

MRCNN_HEATMAP_FN float upper_bound(float v1, float v2, float outer_min) {
  const float inner = v1 > v2 ? v1 : v2;
  const float excess = inner - outer_min;
  return std::fma(kOuterWeight, excess > 0 ? excess : 0.0f, inner);
}

MRCNN_HEATMAP_FN float lower_bound(float v1, float v2, float outer_max) {
  const float inner = v1 < v2 ? v1 : v2;
  const float excess = outer_max - inner;
  return std::fma(-kOuterWeight, excess > 0 ? excess : 0.0f, inner);
}

// maps (N, K, H, W) and rois (N, 4), both float32.
inline void check(const torch::stable::Tensor& maps, const torch::stable::Tensor& rois) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(maps.dim() == 4, "maps must have shape (N, K, H, W), got ", maps.dim(), " dimensions");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(0) == maps.size(0) && rois.size(1) == 4,
                  "rois must have shape (N, 4) with N = ", maps.size(0), " as in maps, got ", rois.dim(),
                  " dimensions of ", rois.numel(), " elements");
  STD_TORCH_CHECK(maps.scalar_type() == ScalarType::Float && rois.scalar_type() == ScalarType::Float,
                  "maps and rois must be float32");
  for (int dim = 2; dim < 4; ++dim) {
    STD_TORCH_CHECK(maps.size(dim) >= 1 && maps.size(dim) <= kMaxSide, "maps must have 1 to ", kMaxSide,
                    " rows and columns, got ", maps.size(dim));
  }
}

}  // namespace mrcnn_plugin::heatmap
