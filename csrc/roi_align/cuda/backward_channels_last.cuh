// Backward kernels of average RoIAlign, channels last. tiles.cuh says what gather and scatter are.
#pragma once

#include "roi_align/cuda/tiles.cuh"

namespace mrcnn_plugin {

// A thread sums kSegmentRows x kSegmentColumns pixels: the larger the patch, the fewer threads read a bin
// again.
constexpr int kSegmentRows = 2;
constexpr int kSegmentColumns = 8;

// How threads are laid over a tile of a channels-last map: `lanes` threads side by side own the channels of
// one patch.
struct SegmentLayout {
  int lanes;
  int segments;  // across

  __device__ int row(int segment) const { return segment / segments * kSegmentRows; }
  __device__ int column(int segment) const { return segment % segments * kSegmentColumns; }
};

// sum += weight * value where the pixel is under the bin; 0 times an infinite gradient would not be 0.
template <int N, typename A, typename Value>
__device__ inline void add_weighted(A (&sum)[N], A weight, const Value& value) {
  if (weight == A(0)) return;
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] += weight * static_cast<A>(value[i]);
}

// The share of one tile that one thread sums in registers.
template <typename T, int V>
struct Segment {
  using A = Accumulator<T>;
  int row;     // of its first pixel, in the tile
  int column;  // of its first pixel, in the tile
  int channel;
  bool active;
  A sum[kSegmentRows][kSegmentColumns][V];

  __device__ Segment(const RoIAlignParameters& p, const SegmentLayout& layout, int chunk) {
    const int segment = threadIdx.x / layout.lanes;
    row = layout.row(segment);
    column = layout.column(segment);
    channel = (chunk * layout.lanes + int(threadIdx.x) % layout.lanes) * V;
    active = channel < p.channels;
    clear();
  }

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < kSegmentRows; ++r) {
#pragma unroll
      for (int k = 0; k < kSegmentColumns; ++k) {
#pragma unroll
        for (int i = 0; i < V; ++i) sum[r][k][i] = A(0);
      }
    }
  }

  // The bins that lie over any of `count` pixels.
  static __device__ int2 bins_over(const int2* ranges, int count) {
    int2 bins = ranges[0];
#pragma unroll
    for (int k = 1; k < count; ++k) {
      const int2 next = ranges[k];
      bins = make_int2(min(bins.x, next.x), max(bins.y, next.y));
    }
    return bins;
  }

  // grad: (pooled_height, pooled_width, C), of one RoI.
  __device__ void add(const T* grad, int channels, const TileWeights<A>& weights, int slot) {
    const int2 rows = bins_over(weights.y_ranges(slot) + row, kSegmentRows);
    if (rows.y < rows.x || !active) return;
    const int2 columns = bins_over(weights.x_ranges(slot) + column, kSegmentColumns);
    const A* y = weights.y(slot) + row;
    const A* x = weights.x(slot) + column;
    // Two by two bins per step: four loads in flight, and seldom more than one step down.
    for (int j = columns.x; j <= columns.y; j += 2) {
      A left[kSegmentRows][V] = {};
      A right[kSegmentRows][V] = {};
      const bool has_right = j < columns.y;
      for (int i = rows.x; i <= rows.y; i += 2) {
        const bool has_low = i < rows.y;
        const T* high = grad + int64_t(i * weights.pooled_width + j) * channels + channel;
        const T* low = high + int64_t(weights.pooled_width) * channels;
        const auto none = Vector<T, V>::zero();
        const auto high_left = Vector<T, V>::load(high);
        const auto high_right = has_right ? Vector<T, V>::load(high + channels) : none;
        const auto low_left = has_low ? Vector<T, V>::load(low) : none;
        const auto low_right = has_low && has_right ? Vector<T, V>::load(low + channels) : none;
#pragma unroll
        for (int r = 0; r < kSegmentRows; ++r) {
          const A high_weight = y[i * weights.rows + r];
          const A low_weight = has_low ? y[(i + 1) * weights.rows + r] : A(0);
          add_weighted(left[r], high_weight, high_left.lane);
          add_weighted(left[r], low_weight, low_left.lane);
          add_weighted(right[r], high_weight, high_right.lane);
          add_weighted(right[r], low_weight, low_right.lane);
        }
      }
      spread(left, x + j * weights.columns);
      if (has_right) spread(right, x + (j + 1) * weights.columns);
    }
  }

  __device__ void spread(const A (&value)[kSegmentRows][V], const A* x) {
#pragma unroll
    for (int k = 0; k < kSegmentColumns; ++k) {
      const A weight = x[k];
#pragma unroll
      for (int r = 0; r < kSegmentRows; ++r) add_weighted(sum[r][k], weight, value[r]);
    }
  }

  // Calls visit(row and column in the tile, offset of the channels in the map, sums) for its pixels inside
  // the map.
  template <typename Visit>
  __device__ void each_pixel(const RoIAlignParameters& p, const Tile& tile, const Visit& visit) const {
    const int height = p.height[tile.level];
    const int width = p.width[tile.level];
    if (!active) return;
#pragma unroll
    for (int r = 0; r < kSegmentRows; ++r) {
      const int y = tile.top + row + r;
      const int64_t line = (int64_t(tile.image) * height + y) * width;
#pragma unroll
      for (int k = 0; k < kSegmentColumns; ++k) {
        const int x = tile.left + column + k;
        if (y < height && x < width) visit(row + r, column + k, (line + x) * p.channels + channel, sum[r][k]);
      }
    }
  }
};

template <typename T, int V>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 8 ? 1 : 2)
    gather_channels_last(const __grid_constant__ RoIAlignParameters p, const __grid_constant__ TileGrid grid,
                         const __grid_constant__ Gradients gradients, const RoITable table,
                         const SegmentLayout layout, const int batch, const T* __restrict__ pooled_grad) {
  using A = Accumulator<T>;
  const Tile tile = find_tile(grid, p.levels);
  const TileWeights<A> weights(p, grid.rows, grid.columns, batch, dynamic_shared());
  const int64_t pooled_size = int64_t(p.pooled_height) * p.pooled_width * p.channels;
  Segment<T, V> segment(p, layout, tile.chunk);
  const int map = tile.level * p.batch + tile.image;
  for_each_roi(table, map, tile, grid.rows, grid.columns, batch, [&](const int* rois, int count) {
    weigh_tile(p, table, tile, rois, count, weights);
    for (int slot = 0; slot < count; ++slot) {
      segment.add(pooled_grad + rois[slot] * pooled_size, p.channels, weights, slot);
    }
    __syncthreads();
  });
  T* target = static_cast<T*>(gradients.maps[tile.level]);
  segment.each_pixel(
      p, tile, [&](int, int, int64_t offset, const A(&sum)[V]) { rounded<T>(sum).store(target + offset); });
}

template <typename T, int V>
__global__ void __launch_bounds__(kTileThreads, 2)
    scatter_channels_last(const __grid_constant__ RoIAlignParameters p, const __grid_constant__ TileGrid grid,
                          const __grid_constant__ Gradients gradients, const RoITable table,
                          const SegmentLayout layout, const RoISplit split,
                          const T* __restrict__ pooled_grad) {
  __shared__ int roi;
  const int part = blockIdx.x % split.parts;
  const int rest = blockIdx.x / split.parts;
  const int chunk = rest % split.chunks;
  if (threadIdx.x == 0) roi = rest / split.chunks;
  __syncthreads();
  const RoITiles tiles(p, table, roi, chunk, grid.rows, grid.columns);
  if (!tiles.any) return;
  const TileWeights<T> weights(p, grid.rows, grid.columns, 1, dynamic_shared());
  const T* grad = pooled_grad + int64_t(roi) * p.pooled_height * p.pooled_width * p.channels;
  T* target = static_cast<T*>(gradients.maps[tiles.tile.level]);
  Segment<T, V> segment(p, layout, chunk);
  for (int i = part; i < tiles.count; i += split.parts) {
    const Tile tile = tiles.at(i, grid.rows, grid.columns);
    weigh_tile(p, table, tile, &roi, 1, weights);
    segment.clear();
    segment.add(grad, p.channels, weights, 0);
    segment.each_pixel(p, tile, [&](int row, int column, int64_t offset, const T(&sum)[V]) {
      const int2 rows = weights.y_ranges(0)[row];
      const int2 columns = weights.x_ranges(0)[column];
      if (rows.y >= rows.x && columns.y >= columns.x) atomic_add(target + offset, sum);
    });
    __syncthreads();
  }
}

}  // namespace mrcnn_plugin
