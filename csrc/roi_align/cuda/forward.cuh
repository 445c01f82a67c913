// Forward kernels of average RoIAlign on bands, one for each memory layout.
#pragma once

#include "roi_align/cuda/bands.cuh"

namespace mrcnn_plugin {

constexpr int kForwardThreads = 256;
// Taps whose loads are in flight together.
constexpr int kUnroll = 4;

// The rows of a RoI that cannot be pooled are NaN: an error that shows, without asking the device for it.
template <typename T>
__device__ void fill_nan(T* to, int64_t begin, int64_t end) {
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    to[i] = static_cast<T>(nanf(""));
  }
}

// sum += one row of a map, weighted; `row` points at its first pixel, pixels are `pitch` elements apart.
template <typename T, int V, typename A>
__device__ inline void add_row(A (&sum)[V], const T* row, int pitch, A weight, const Tap<A>* taps,
                               int count) {
  for (int first = 0; first < count; first += kUnroll) {
    Vector<T, V> values[kUnroll];
    A weights[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const bool present = first + i < count;
      const Tap<A> tap = present ? taps[first + i] : Tap<A>{0, A(0)};
      weights[i] = weight * tap.weight;
      values[i] = present ? Vector<T, V>::load(row + int64_t(tap.pixel) * pitch) : Vector<T, V>::zero();
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) multiply_add(sum, weights[i], values[i]);
  }
}

// Channels last: a thread owns V channels of a bin, so a warp reads whole pixels, 16 bytes per lane. A RoI is
// shared by `parts` blocks.
template <typename T, typename Box, int V>
__global__ void __launch_bounds__(kForwardThreads, sizeof(T) == 8 ? 2 : 3)
    pool_channels_last(const __grid_constant__ RoIAlignParameters p, const Box* __restrict__ boxes,
                       const BandLayout layout, const int parts, T* __restrict__ output) {
  using A = Accumulator<T>;
  const int roi = blockIdx.x / parts;
  const int part = blockIdx.x - roi * parts;
  const int vectors = p.channels / V;
  const int items = p.pooled_height * p.pooled_width * vectors;
  T* pooled = output + int64_t(roi) * items * V;
  const Box* box = boxes + int64_t(roi) * 5;
  const RoIMap map = roi_map(p, box, roi);
  if (map.image < 0) {
    if (part == 0) fill_nan(pooled, 0, int64_t(items) * V);
    return;
  }
  const Bands<A> bands = build_bands<A>(p, box, map.level, layout, dynamic_shared());
  const int64_t row_pitch = int64_t(p.width[map.level]) * p.channels;
  const T* image =
      static_cast<const T*>(p.features[map.level]) + map.image * (p.height[map.level] * row_pitch);
  for (int item = part * kForwardThreads + threadIdx.x; item < items; item += parts * kForwardThreads) {
    const int bin = item / vectors;
    const int row = bin / p.pooled_width;
    const int column = bin - row * p.pooled_width;
    const T* source = image + (item - bin * vectors) * V;
    const Tap<A>* x_taps = bands.x.taps + bands.x.start[column];
    const int x_count = bands.x.start[column + 1] - bands.x.start[column];
    A sum[V] = {};
    for (int i = bands.y.start[row]; i < bands.y.start[row + 1]; ++i) {
      const Tap<A> tap = bands.y.taps[i];
      add_row(sum, source + tap.pixel * row_pitch, p.channels, tap.weight, x_taps, x_count);
    }
    rounded<T>(sum).store_streaming(pooled + int64_t(item) * V);
  }
}

// Weighted sum down one column of a plane, its rows `pitch` apart.
template <typename T, typename A>
__device__ inline A column_sum(const T* column, int pitch, const Tap<A>* taps, int count) {
  A sum[1] = {};
  for (int first = 0; first < count; first += kUnroll) {
    Vector<T, 1> values[kUnroll];
    A weights[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const bool present = first + i < count;
      const Tap<A> tap = present ? taps[first + i] : Tap<A>{0, A(0)};
      weights[i] = tap.weight;
      values[i] = present ? Vector<T, 1>::load(column + int64_t(tap.pixel) * pitch) : Vector<T, 1>::zero();
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) multiply_add(sum, weights[i], values[i]);
  }
  return sum[0];
}

// How pool_channels_first cuts its work.
struct PlaneLayout {
  int parts;     // blocks per RoI
  int channels;  // of each block
  int buffer;    // column sums that fit in shared memory
};

// Channels first, in two steps. First a lane owns one column that a bin of the RoI reads, and sums it down
// the rows of each bin: neighbouring lanes read neighbouring pixels. Then a lane owns a bin and sums over
// its columns, from shared memory.
template <typename T, typename Box>
__global__ void __launch_bounds__(kForwardThreads, sizeof(T) == 8 ? 2 : 3)
    pool_channels_first(const __grid_constant__ RoIAlignParameters p, const Box* __restrict__ boxes,
                        const BandLayout layout, const PlaneLayout planes, T* __restrict__ output) {
  using A = Accumulator<T>;
  const int roi = blockIdx.x / planes.parts;
  const int part = blockIdx.x - roi * planes.parts;
  const int begin = part * planes.channels;
  const int end = min(begin + planes.channels, p.channels);
  const int64_t bins = p.pooled_height * p.pooled_width;
  T* pooled = output + int64_t(roi) * p.channels * bins;
  const Box* box = boxes + int64_t(roi) * 5;
  const RoIMap map = roi_map(p, box, roi);
  if (map.image < 0) {
    fill_nan(pooled, begin * bins, end * bins);
    return;
  }
  const Bands<A> bands = build_bands<A>(p, box, map.level, layout, dynamic_shared());
  A* sums = reinterpret_cast<A*>(bands.free);
  const int width = p.width[map.level];
  const int64_t plane = int64_t(p.height[map.level]) * width;
  const T* image = static_cast<const T*>(p.features[map.level]) + map.image * (p.channels * plane);

  const int columns = bands.x.start[p.pooled_width];
  const int spread = max(columns, 1);
  const int max_rows = min(p.pooled_height, planes.buffer / spread);
  // Whole waves of threads where they fit.
  const int fitting = planes.buffer / (max_rows * spread);
  const int waves = fitting * spread / kForwardThreads;
  const int max_channels = waves > 0 ? max(waves * kForwardThreads / spread, 1) : fitting;
  for (int channel = begin; channel < end; channel += max_channels) {
    const int channels = min(max_channels, end - channel);
    for (int first_row = 0; first_row < p.pooled_height; first_row += max_rows) {
      const int rows = min(max_rows, p.pooled_height - first_row);
      for (int i = threadIdx.x; i < channels * columns; i += kForwardThreads) {
        const int c = i / columns;
        const int entry = i - c * columns;
        const Tap<A> tap = bands.x.taps[entry];
        const T* source = image + (channel + c) * plane + tap.pixel;
        A* target = sums + c * rows * columns + entry;
        for (int row = 0; row < rows; ++row) {
          const int start = bands.y.start[first_row + row];
          const int count = bands.y.start[first_row + row + 1] - start;
          target[row * columns] = tap.weight * column_sum(source, width, bands.y.taps + start, count);
        }
      }
      __syncthreads();
      const int slice = rows * p.pooled_width;
      for (int i = threadIdx.x; i < channels * slice; i += kForwardThreads) {
        const int c = i / slice;
        const int bin = i - c * slice;
        const int row = bin / p.pooled_width;
        const int column = bin - row * p.pooled_width;
        const A* source = sums + (c * rows + row) * columns;
        A sum[1] = {};
        for (int j = bands.x.start[column]; j < bands.x.start[column + 1]; ++j) sum[0] += source[j];
        rounded<T>(sum).store_streaming(pooled + (channel + c) * bins + first_row * p.pooled_width + bin);
      }
      __syncthreads();
    }
  }
}

}  // namespace mrcnn_plugin
