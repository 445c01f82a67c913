// What the CUDA kernels of RoIAlign share: their parameters, the place of a RoI on its level, and the bands.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>
#include <limits>

#include "common/cuda/launch.cuh"
#include "common/cuda/vector.cuh"
#include "roi_align/geometry.h"

namespace mrcnn_plugin {

constexpr int kMaxLevels = 16;

// The whole call, handed to kernels by value. Every level is dense, (N, C, H, W) or (N, H, W, C) in memory.
struct RoIAlignParameters {
  const void* features[kMaxLevels];
  int height[kMaxLevels];
  int width[kMaxLevels];
  double scale[kMaxLevels];
  int levels;
  int min_level;
  double canonical_box_size;
  int canonical_level;
  // The level of each RoI, in place of FPN's Eq. (1); null where the equation chooses.
  const int64_t* roi_levels;
  int batch;
  int channels;
  int pooled_height;
  int pooled_width;
  int64_t sampling_ratio;
  bool aligned;
  bool channels_last;
};

// Strides of a dense map, in elements.
struct MapStrides {
  int64_t batch;
  int64_t channel;
  int64_t row;
  int64_t column;
};

__device__ inline MapStrides dense_strides(int64_t channels, int64_t height, int64_t width,
                                           bool channels_last) {
  if (channels_last) return {height * width * channels, 1, width * channels, channels};
  return {channels * height * width, height * width, width, 1};
}

// Which map pools a RoI; `image` is -1 for a RoI that cannot be pooled.
struct RoIMap {
  int level;
  int image;
};

template <typename Box>
__device__ inline RoIMap roi_map(const RoIAlignParameters& p, const Box* roi, int64_t index) {
  if (!roi_is_valid(roi, p.batch)) return {0, -1};
  if (p.roi_levels) {
    const int64_t level = p.roi_levels[index];
    if (level < 0 || level >= p.levels) return {0, -1};
    return {static_cast<int>(level), static_cast<int>(roi[0])};
  }
  const int level = roi_level(roi[1], roi[2], roi[3], roi[4], p.levels, p.min_level, p.canonical_box_size,
                              p.canonical_level);
  return {level, static_cast<int>(roi[0])};
}

template <typename Box>
__device__ inline RoIAxis roi_y_axis(const RoIAlignParameters& p, const Box* roi, int level) {
  return roi_axis(roi[2], roi[4], p.scale[level], p.pooled_height, p.sampling_ratio, p.aligned);
}

template <typename Box>
__device__ inline RoIAxis roi_x_axis(const RoIAlignParameters& p, const Box* roi, int level) {
  return roi_axis(roi[1], roi[3], p.scale[level], p.pooled_width, p.sampling_ratio, p.aligned);
}

// One pixel of a bin along one axis, with the share that the bin's samples give it.
template <typename A>
struct Tap {
  int pixel;
  A weight;
};

// Merges a bin's samples into taps, pixels ascending, and returns how many there are; with `taps` null it
// only counts.
template <typename A>
__device__ inline int merge_bin(RoIAxis axis, int bin, int size, Tap<A>* taps) {
  const RoISamples samples = roi_samples(axis, bin, size);
  const double share = axis.samples > 0.0 ? 1.0 / axis.samples : 0.0;
  int count = 0;
  int64_t low = -1;
  double low_weight = 0.0;
  double high_weight = 0.0;
  const auto emit = [&](int64_t pixel, double weight) {
    if (weight == 0.0) return;
    if (taps != nullptr) taps[count] = {static_cast<int>(pixel), static_cast<A>(weight * share)};
    ++count;
  };
  for (int64_t i = 0; i < samples.count; ++i) {
    // A RoI of negative size is sampled backwards.
    const int64_t step = axis.bin_size < 0.0 ? samples.count - 1 - i : i;
    const RoITap tap =
        roi_tap(roi_sample_position(axis, bin, samples.first + static_cast<double>(step)), size);
    if (!tap.inside) continue;
    if (tap.low != low) {
      emit(low, low_weight);
      low_weight = 0.0;
      if (tap.low == low + 1) {
        low_weight = high_weight;
      } else {
        emit(low + 1, high_weight);
      }
      high_weight = 0.0;
      low = tap.low;
    }
    low_weight += tap.low_weight;
    high_weight += tap.high_weight;
  }
  emit(low, low_weight);
  emit(low + 1, high_weight);
  return count;
}

// Room for the taps of one axis. A sample has two; and as bins follow one another, they share at most two
// pixels with the next, however many samples they have.
inline int64_t tap_capacity(int64_t bins, int64_t sampling_ratio, int64_t size) {
  const int64_t dense = size + 2 * bins;
  return sampling_ratio > 0 && sampling_ratio < dense && 2 * sampling_ratio * bins < dense
             ? 2 * sampling_ratio * bins
             : dense;
}

// Where a block keeps its RoI's bands in shared memory.
struct BandLayout {
  int y_capacity;
  int x_capacity;
};

template <typename A>
__host__ __device__ inline int64_t band_bytes(const BandLayout& layout, int pooled_height, int pooled_width) {
  const int64_t taps = int64_t(layout.y_capacity + layout.x_capacity) * sizeof(Tap<A>);
  return taps + (2 * int64_t(pooled_height + pooled_width) + 2 + 3) / 4 * 16;
}

// The taps of bin b are taps[start[b]] ... taps[start[b + 1] - 1].
template <typename A>
struct Band {
  const Tap<A>* taps;
  const int* start;
};

template <typename A>
struct Bands {
  Band<A> y;
  Band<A> x;
  char* free;
};

// The whole block computes the bands of one RoI, one thread per bin.
template <typename A, typename Box>
__device__ Bands<A> build_bands(const RoIAlignParameters& p, const Box* roi, int level,
                                const BandLayout& layout, char* shared) {
  const int rows = p.pooled_height;
  const int columns = p.pooled_width;
  Tap<A>* y_taps = reinterpret_cast<Tap<A>*>(shared);
  Tap<A>* x_taps = y_taps + layout.y_capacity;
  int* y_start = reinterpret_cast<int*>(x_taps + layout.x_capacity);
  int* x_start = y_start + rows + 1;
  int* counts = x_start + columns + 1;
  for (int i = threadIdx.x; i < rows + columns; i += blockDim.x) {
    const bool is_row = i < rows;
    const RoIAxis axis = is_row ? roi_y_axis(p, roi, level) : roi_x_axis(p, roi, level);
    counts[i] = merge_bin<A>(axis, is_row ? i : i - rows, is_row ? p.height[level] : p.width[level], nullptr);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < rows + columns; i += blockDim.x) {
    const bool is_row = i < rows;
    const int bin = is_row ? i : i - rows;
    int first = 0;
    for (int before = i - bin; before < i; ++before) first += counts[before];
    int* start = is_row ? y_start : x_start;
    start[bin] = first;
    if (bin == (is_row ? rows : columns) - 1) start[bin + 1] = first + counts[i];
    const RoIAxis axis = is_row ? roi_y_axis(p, roi, level) : roi_x_axis(p, roi, level);
    merge_bin<A>(axis, bin, is_row ? p.height[level] : p.width[level], (is_row ? y_taps : x_taps) + first);
  }
  __syncthreads();
  const int64_t used = band_bytes<A>(layout, rows, columns);
  return {{y_taps, y_start}, {x_taps, x_start}, shared + used};
}

}  // namespace mrcnn_plugin
