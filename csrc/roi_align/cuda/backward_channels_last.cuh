// Backward kernels of average RoIAlign, channels last. tiles.cuh says what gather and scatter are.
#pragma once

#include "roi_align/cuda/tiles.cuh"

namespace mrcnn_plugin {

// How threads are laid over a tile of a channels-last map: `lanes` threads side by side own the channels of
// a segment of Pixels pixels in a row.
struct SegmentLayout {
  int lanes;
  int rows;
  int segments;  // of a row
};

// The share of one tile that one thread sums in registers.
template <typename T, int V, int Pixels>
struct Segment {
  using A = Accumulator<T>;
  int row;     // in the tile
  int column;  // of its first pixel, in the tile
  int channel;
  bool active;
  A sum[Pixels][V];

  __device__ Segment(const RoIAlignParameters& p, const SegmentLayout& layout, int chunk) {
    const int segment = threadIdx.x / layout.lanes;
    row = segment / layout.segments;
    column = (segment - row * layout.segments) * Pixels;
    channel = (chunk * layout.lanes + int(threadIdx.x) % layout.lanes) * V;
    active = channel < p.channels;
    clear();
  }

  __device__ void clear() {
#pragma unroll
    for (int k = 0; k < Pixels; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) sum[k][i] = A(0);
    }
  }

  // grad: (pooled_height, pooled_width, C), of one RoI.
  __device__ void add(const T* grad, int channels, const TileWeights<A>& weights, int slot) {
    const int2 rows = weights.y_ranges(slot)[row];
    if (rows.y < rows.x || !active) return;
    int2 columns = weights.x_ranges(slot)[column];
#pragma unroll
    for (int k = 1; k < Pixels; ++k) {
      const int2 next = weights.x_ranges(slot)[column + k];
      columns = make_int2(min(columns.x, next.x), max(columns.y, next.y));
    }
    const A* y = weights.y(slot) + row;
    const A* x = weights.x(slot) + column;
    // Two by two bins per step: four loads in flight, and seldom more than one step down.
    for (int j = columns.x; j <= columns.y; j += 2) {
      A left[V] = {};
      A right[V] = {};
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
        const A high_weight = y[i * weights.rows];
        const A low_weight = has_low ? y[(i + 1) * weights.rows] : A(0);
        multiply_add(left, high_weight, high_left);
        multiply_add(left, low_weight, low_left);
        multiply_add(right, high_weight, high_right);
        multiply_add(right, low_weight, low_right);
      }
      spread(left, x + j * weights.columns);
      if (has_right) spread(right, x + (j + 1) * weights.columns);
    }
  }

  __device__ void spread(const A (&value)[V], const A* x) {
#pragma unroll
    for (int k = 0; k < Pixels; ++k) {
      const A weight = x[k];
      // Most pixels are not under the bin; and 0 times an infinite gradient would not be 0.
      if (weight == A(0)) continue;
#pragma unroll
      for (int i = 0; i < V; ++i) sum[k][i] += weight * value[i];
    }
  }

  // Calls visit(column in the tile, offset of the channels in the map, sums) for its pixels inside the map.
  template <typename Visit>
  __device__ void each_pixel(const RoIAlignParameters& p, const Tile& tile, const Visit& visit) const {
    const int height = p.height[tile.level];
    const int width = p.width[tile.level];
    const int y = tile.top + row;
    if (!active || y >= height) return;
    const int64_t line = (int64_t(tile.image) * height + y) * width;
#pragma unroll
    for (int k = 0; k < Pixels; ++k) {
      const int x = tile.left + column + k;
      if (x < width) visit(column + k, (line + x) * p.channels + channel, sum[k]);
    }
  }
};

template <typename T, int V, int Pixels>
__global__ void __launch_bounds__(kTileThreads, 2)
    gather_channels_last(const __grid_constant__ RoIAlignParameters p, const __grid_constant__ TileGrid grid,
                         const __grid_constant__ Gradients gradients, const RoITable table,
                         const SegmentLayout layout, const int batch, const T* __restrict__ pooled_grad) {
  using A = Accumulator<T>;
  const Tile tile = find_tile(grid, p.levels);
  const TileWeights<A> weights(p, grid.rows, grid.columns, batch, dynamic_shared());
  const int64_t pooled_size = int64_t(p.pooled_height) * p.pooled_width * p.channels;
  Segment<T, V, Pixels> segment(p, layout, tile.chunk);
  const int map = tile.level * p.batch + tile.image;
  for_each_roi(table, map, tile, grid.rows, grid.columns, batch, [&](const int* rois, int count) {
    weigh_tile(p, table, tile, rois, count, weights);
    for (int slot = 0; slot < count; ++slot) {
      segment.add(pooled_grad + rois[slot] * pooled_size, p.channels, weights, slot);
    }
    __syncthreads();
  });
  T* target = static_cast<T*>(gradients.maps[tile.level]);
  segment.each_pixel(p, tile,
                     [&](int, int64_t offset, const A(&sum)[V]) { rounded<T>(sum).store(target + offset); });
}

template <typename T, int V, int Pixels>
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
  Segment<T, V, Pixels> segment(p, layout, chunk);
  for (int i = part; i < tiles.count; i += split.parts) {
    const Tile tile = tiles.at(i, grid.rows, grid.columns);
    weigh_tile(p, table, tile, &roi, 1, weights);
    segment.clear();
    segment.add(grad, p.channels, weights, 0);
    const int2 rows = weights.y_ranges(0)[segment.row];
    segment.each_pixel(p, tile, [&](int column, int64_t offset, const T(&sum)[V]) {
      const int2 columns = weights.x_ranges(0)[column];
      if (rows.y >= rows.x && columns.y >= columns.x) atomic_add(target + offset, sum);
    });
    __syncthreads();
  }
}

}  // namespace mrcnn_plugin
