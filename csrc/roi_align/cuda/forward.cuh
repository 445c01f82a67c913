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

// Weighted sum down one column of a map, its rows `pitch` elements apart.
template <typename T, int V, typename A>
__device__ inline void add_column(A (&sum)[V], const T* column, int64_t pitch, const Tap<A>* taps,
                                  int count) {
  for (int first = 0; first < count; first += kUnroll) {
    Vector<T, V> values[kUnroll];
    A weights[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const bool present = first + i < count;
      const Tap<A> tap = present ? taps[first + i] : Tap<A>{0, A(0)};
      weights[i] = tap.weight;
      values[i] = present ? Vector<T, V>::load(column + tap.pixel * pitch) : Vector<T, V>::zero();
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) multiply_add(sum, weights[i], values[i]);
  }
}

// The sums of the last two columns: all that two neighbouring bins can share.
template <typename A, int V>
struct LastColumns {
  int pixels[2] = {-1, -1};
  A sums[2][V] = {};

  // Calls compute(sum) where the column is neither of the two.
  template <typename Compute>
  __device__ void add(A (&to)[V], int pixel, A weight, const Compute& compute) {
    if (pixel != pixels[1]) {
      const bool held = pixel == pixels[0];
      // Both move up: the column in hand is the newest now.
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const A before = sums[0][i];
        sums[0][i] = sums[1][i];
        sums[1][i] = held ? before : A(0);
      }
      pixels[0] = pixels[1];
      pixels[1] = pixel;
      if (!held) compute(sums[1]);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) to[i] += weight * sums[1][i];
  }
};

// How pool_channels_last shares out a RoI.
struct BinLayout {
  int parts;     // blocks a RoI
  int segments;  // of a row of bins; a thread owns one of them
};

// Channels last: a thread owns V channels of a run of bins side by side, and reads each column of pixels once
// for all of them. A warp reads whole pixels, 16 bytes a lane.
template <typename T, typename Box, int V>
__global__ void __launch_bounds__(kForwardThreads, sizeof(T) == 8 ? 2 : 3)
    pool_channels_last(const __grid_constant__ RoIAlignParameters p, const Box* __restrict__ boxes,
                       const BandLayout layout, const BinLayout cut, T* __restrict__ output) {
  using A = Accumulator<T>;
  const int roi = blockIdx.x / cut.parts;
  const int part = blockIdx.x - roi * cut.parts;
  const int vectors = p.channels / V;
  const int items = p.pooled_height * cut.segments * vectors;
  T* pooled = output + int64_t(roi) * p.pooled_height * p.pooled_width * p.channels;
  const Box* box = boxes + int64_t(roi) * 5;
  const RoIMap map = roi_map(p, box, roi);
  if (map.image < 0) {
    if (part == 0) fill_nan(pooled, 0, int64_t(p.pooled_height) * p.pooled_width * p.channels);
    return;
  }
  const Bands<A> bands = build_bands<A>(p, box, map.level, layout, dynamic_shared());
  const int64_t row_pitch = int64_t(p.width[map.level]) * p.channels;
  const T* image =
      static_cast<const T*>(p.features[map.level]) + map.image * (p.height[map.level] * row_pitch);
  for (int item = part * kForwardThreads + threadIdx.x; item < items; item += cut.parts * kForwardThreads) {
    const int segment = item / vectors;
    const int channel = (item - segment * vectors) * V;
    const int row = segment / cut.segments;
    const int place = segment - row * cut.segments;
    const Tap<A>* y_taps = bands.y.taps + bands.y.start[row];
    const int y_count = bands.y.start[row + 1] - bands.y.start[row];
    LastColumns<A, V> columns;
    const int end = (place + 1) * p.pooled_width / cut.segments;
    for (int bin = place * p.pooled_width / cut.segments; bin < end; ++bin) {
      A sum[V] = {};
      for (int i = bands.x.start[bin]; i < bands.x.start[bin + 1]; ++i) {
        const Tap<A> tap = bands.x.taps[i];
        const T* source = image + int64_t(tap.pixel) * p.channels + channel;
        columns.add(sum, tap.pixel, tap.weight,
                    [&](A(&column)[V]) { add_column(column, source, row_pitch, y_taps, y_count); });
      }
      T* to = pooled + (int64_t(row) * p.pooled_width + bin) * p.channels + channel;
      rounded<T>(sum).store_streaming(to);
    }
  }
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
          A sum[1] = {};
          add_column(sum, source, width, bands.y.taps + start, count);
          target[row * columns] = tap.weight * sum[0];
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
