// Arithmetic of pasting an (Mh, Mw) mask into its box, shared by the CPU and CUDA kernels.
//
// A pixel's value is the bilinear sample, with zeros outside the mask, at the pixel's centre mapped to the
// mask's frame: what grid_sample(align_corners=False, padding_mode="zeros") returns. Every rounding is fixed
// by explicit fused multiply-adds, in the order in which PyTorch's vectorised CPU grid_sample does them, so
// that all devices agree in every bit.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace mrcnn_plugin {

// Pixels [x0, x1) x [y0, y1); empty where x1 <= x0 or y1 <= y0.
struct PasteRegion {
  int32_t x0, y0, x1, y1;

  MRCNN_HOST_DEVICE_INLINE bool empty() const { return x1 <= x0 || y1 <= y0; }
};

// floor(low) - 1, at least 0, at most `size`; `size` for NaN.
MRCNN_HOST_DEVICE_INLINE int32_t region_begin(float low, int32_t size) {
  const double begin = static_cast<double>(floorf(low)) - 1.0;
  if (!(begin < size)) return size;
  return begin > 0 ? static_cast<int32_t>(begin) : 0;
}

// ceil(high) + 1, at least 0, at most `size`; 0 for NaN.
MRCNN_HOST_DEVICE_INLINE int32_t region_end(float high, int32_t size) {
  const double end = static_cast<double>(ceilf(high)) + 1.0;
  if (!(end > 0)) return 0;
  return end < size ? static_cast<int32_t>(end) : size;
}

// The pixels that Detectron2's CPU path visits for one box.
MRCNN_HOST_DEVICE_INLINE PasteRegion paste_region(const float* box, int32_t height, int32_t width) {
  PasteRegion region = {region_begin(box[0], width), region_begin(box[1], height), region_end(box[2], width),
                        region_end(box[3], height)};
  if (region.empty()) region = {0, 0, 0, 0};
  return region;
}

// One axis of a bilinear sample: between mask cells `cell` and `cell + 1`, with their weights.
struct AxisSample {
  int32_t cell;  // in [-2, size]: at both ends the two cells lie outside the mask
  float near, far;

  // Weights are NaN where the location is not finite (a box without extent); no pixel is set there.
  MRCNN_HOST_DEVICE_INLINE bool valid() const { return far == far; }
};

MRCNN_HOST_DEVICE_INLINE AxisSample axis_sample(int32_t pixel, float low, float high, int32_t size) {
  const float grid = (static_cast<float>(pixel) + 0.5f - low) / (high - low) * 2.0f - 1.0f;
  const float location = fmaf(grid + 1.0f, static_cast<float>(size) / 2.0f, -0.5f);
  const float cell = floorf(location);
  AxisSample sample;
  sample.far = location - cell;
  sample.near = 1.0f - sample.far;
  sample.cell = location > -2.0f ? (location < size ? static_cast<int32_t>(cell) : size) : -2;
  return sample;
}

// Weighted sum of the four corners in grid_sample's order.
MRCNN_HOST_DEVICE_INLINE float paste_value(float top_left, float top_right, float bottom_left,
                                           float bottom_right, float top, float bottom, float left,
                                           float right) {
  float value = top_left * (top * left);
  value = fmaf(top_right, top * right, value);
  value = fmaf(bottom_left, bottom * left, value);
  return fmaf(bottom_right, bottom * right, value);
}

// The same, with the corners read from a contiguous (height, width) mask, 0 outside it.
MRCNN_HOST_DEVICE_INLINE float sample_mask(const float* mask, int32_t height, int32_t width,
                                           const AxisSample& row, const AxisSample& column) {
  const bool top = row.cell >= 0 && row.cell < height, bottom = row.cell >= -1 && row.cell + 1 < height;
  const bool left = column.cell >= 0 && column.cell < width;
  const bool right = column.cell >= -1 && column.cell + 1 < width;
  const int64_t corner = static_cast<int64_t>(row.cell) * width + column.cell;
  return paste_value(top && left ? mask[corner] : 0.0f, top && right ? mask[corner + 1] : 0.0f,
                     bottom && left ? mask[corner + width] : 0.0f,
                     bottom && right ? mask[corner + width + 1] : 0.0f, row.near, row.far, column.near,
                     column.far);
}

// A value in [0, 1] as 0..255, truncated; values beyond, and NaN, are clamped.
MRCNN_HOST_DEVICE_INLINE uint8_t soft_pixel(float value) {
  const float scaled = value * 255.0f;
  return scaled > 0.0f ? (scaled < 255.0f ? static_cast<uint8_t>(scaled) : 255) : 0;
}

}  // namespace mrcnn_plugin
