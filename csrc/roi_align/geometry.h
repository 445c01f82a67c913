// Geometry of RoIAlign that the CPU and CUDA kernels share: which pyramid level pools a RoI, and where on
// that level its samples lie (Mask R-CNN, section 3; FPN, Eq. 1).
//
// Both axes are independent: the average over a bin's regular grid of bilinear samples is A_y * F * A_x^T,
// and everything here speaks of one axis. Positions are double precision: in single precision, a coordinate
// of a few hundred pixels is only good to some 1e-5, which would then be the error of the whole op. Products
// are rounded before a sum, so that the number of samples of a RoI and the level of a box are the same
// everywhere.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/numeric.h"

namespace mrcnn_plugin {

// Offset into scales/features of the level that pools a box given in image pixels, clamped to the pyramid.
// Box is the dtype of the boxes; each step rounds as Detectron2's assign_boxes_to_levels does.
template <typename Box>
MRCNN_HOST_DEVICE int roi_level(Box x1, Box y1, Box x2, Box y2, int num_levels, int min_level,
                                double canonical_box_size, int canonical_level) {
  if (num_levels == 1) return 0;
  const Box size = std::sqrt((x2 - x1) * (y2 - y1));
#if defined(__CUDA_ARCH__)
  // PyTorch divides a CUDA tensor by a number through its reciprocal.
  const Box relative = rounded_product(size, Box(1) / Box(canonical_box_size));
#else
  const Box relative = size / Box(canonical_box_size);
#endif
  const Box level = std::floor(Box(canonical_level) + std::log2(relative + Box(1e-8)));
  // A negative area makes this NaN, which takes the finest level.
  if (!(level > Box(min_level))) return 0;
  const Box last = Box(min_level + num_levels - 1);
  return level >= last ? num_levels - 1 : static_cast<int>(level) - min_level;
}

// FPN level of the finest map of a pyramid, whose scale is 2^-level.
MRCNN_HOST_DEVICE int pyramid_min_level(double finest_scale) {
  return static_cast<int>(std::lround(-std::log2(finest_scale)));
}

// Whether a RoI may be pooled at all: a batch index inside the batch, and finite corners.
template <typename Box>
MRCNN_HOST_DEVICE bool roi_is_valid(const Box* roi, int64_t batch_size) {
  // Written so that NaN fails; x - x is NaN for infinities.
  const Box spread = (roi[1] - roi[1]) + (roi[2] - roi[2]) + (roi[3] - roi[3]) + (roi[4] - roi[4]);
  // An index between -1 and 0 is cut off to 0, which an empty batch does not have.
  return batch_size > 0 && roi[0] > Box(-1) && roi[0] < Box(batch_size) && spread == Box(0);
}

// One axis of a RoI on its level, in feature pixels. `samples` is the number of samples per bin along this
// axis; it is kept as a double because boxes may be astronomically large.
struct RoIAxis {
  double start;
  double bin_size;
  double samples;
};

// lo and hi: the box's two coordinates on this axis, in image pixels.
template <typename Box>
MRCNN_HOST_DEVICE RoIAxis roi_axis(Box lo, Box hi, double scale, int64_t pooled_size, int64_t sampling_ratio,
                                   bool aligned) {
  const double offset = aligned ? 0.5 : 0.0;
  const double start = rounded_product(double(lo), scale) - offset;
  double size = (rounded_product(double(hi), scale) - offset) - start;
  if (!aligned && size < 1.0) size = 1.0;
  RoIAxis axis{start, size / double(pooled_size), double(sampling_ratio)};
  if (sampling_ratio <= 0) {
    // The number of samples jumps with the size of the RoI, so it is computed in the precision of the boxes,
    // in which torchvision computes it.
    Box box_size =
        (rounded_product(hi, Box(scale)) - Box(offset)) - (rounded_product(lo, Box(scale)) - Box(offset));
    if (!aligned && box_size < Box(1)) box_size = Box(1);
    axis.samples = double(std::ceil(box_size / Box(pooled_size)));
  }
  return axis;
}

// What the sum over a bin is divided by: every sample counts, also those outside the map (they are 0).
MRCNN_HOST_DEVICE double roi_sample_count(const RoIAxis& y, const RoIAxis& x) {
  const double count = y.samples * x.samples;
  return y.samples > 0 && x.samples > 0 && count > 1.0 ? count : 1.0;
}

// Position, in feature pixels, of a sample of a bin.
MRCNN_HOST_DEVICE double roi_sample_position(const RoIAxis& axis, int64_t bin, double sample) {
  return axis.start + rounded_product(double(bin), axis.bin_size) +
         (sample + 0.5) * axis.bin_size / axis.samples;
}

// Samples first, first + 1, ..., first + count - 1 of a bin are all that can lie in [-1, size]; some of
// them may not (roi_tap says which). count is at most about size / spacing + 4, however large the box.
struct RoISamples {
  double first;
  int64_t count;
};

MRCNN_HOST_DEVICE RoISamples roi_samples(const RoIAxis& axis, int64_t bin, int64_t size) {
  RoISamples none{0.0, 0};
  // With 1e15 samples per bin, the few that meet a map weigh nothing in the average.
  if (!(axis.samples > 0 && axis.samples < 1e15)) return none;
  const double last = axis.samples - 1.0;
  const double begin = axis.start + rounded_product(double(bin), axis.bin_size);
  const double spacing = axis.bin_size / axis.samples;
  if (!(std::fabs(spacing) < 1e300)) return none;
  if (spacing == 0.0) {
    return begin >= -1.0 && begin <= double(size) ? RoISamples{0.0, int64_t(axis.samples)} : none;
  }
  double from = (-1.0 - begin) / spacing - 0.5;
  double to = (double(size) - begin) / spacing - 0.5;
  if (from > to) {
    const double swap = from;
    from = to;
    to = swap;
  }
  from = std::floor(from) - 1.0;
  to = std::ceil(to) + 1.0;
  if (!(from > 0.0)) from = 0.0;
  if (!(to < last)) to = last;
  if (!(from <= to)) return none;
  // Far from 0 neighbouring samples round to one position, and the range above may be all of them.
  const double most = (double(size) + 1.0) / std::fabs(spacing) + 4.0;
  const double count = to - from + 1.0;
  return RoISamples{from, int64_t(count < most ? count : most)};
}

// The two neighbouring pixels of a position and their bilinear weights; `inside` is false where the sample
// lies outside [-1, size] and counts as 0. Both ends are inside, as in torchvision.
struct RoITap {
  int64_t low;
  int64_t high;
  double low_weight;
  double high_weight;
  bool inside;
};

MRCNN_HOST_DEVICE RoITap roi_tap(double position, int64_t size) {
  if (!(position >= -1.0 && position <= double(size))) return RoITap{0, 0, 0.0, 0.0, false};
  if (position <= 0.0) position = 0.0;
  const int64_t low = int64_t(position);
  if (low >= size - 1) return RoITap{size - 1, size - 1, 1.0, 0.0, true};
  const double fraction = position - double(low);
  // A pixel without weight is not read: it may be NaN.
  return RoITap{low, fraction > 0.0 ? low + 1 : low, 1.0 - fraction, fraction, true};
}

}  // namespace mrcnn_plugin
