// Backward of RoIAlign sample by sample, for what the weights of tiles do not cover: max pooling, and outputs
// so large that the weights do not fit in shared memory. A gather, hence deterministic. Any layout.
#pragma once

#include "roi_align/cuda/samples.cuh"
#include "roi_align/cuda/tiles.cuh"

namespace mrcnn_plugin {

constexpr int kSampleTileRows = 8;

// Columns of a tile: as many as let a block's channels of a tile fit in shared memory.
template <typename A>
__host__ __device__ constexpr int sample_tile_columns() {
  return int(16 / sizeof(A));
}

template <typename A>
constexpr int64_t sample_tile_bytes() {
  return int64_t(kSampleTileRows) * sample_tile_columns<A>() * kTileThreads * sizeof(A);
}

// A thread owns one channel of a tile, in shared memory.
template <typename A>
struct TileColumn {
  Tile tile;
  A* sums;

  __device__ A& at(int row, int column) const {
    return sums[(row * sample_tile_columns<A>() + column) * kTileThreads + threadIdx.x];
  }
  __device__ void add(int64_t y, int64_t x, A value) const {
    const int64_t row = y - tile.top;
    const int64_t column = x - tile.left;
    if (row < 0 || row >= kSampleTileRows || column < 0 || column >= sample_tile_columns<A>()) return;
    at(int(row), int(column)) += value;
  }
  __device__ void add(const RoITap& y, const RoITap& x, A grad) const {
    add(y.low, x.low, grad * static_cast<A>(y.low_weight * x.low_weight));
    add(y.low, x.high, grad * static_cast<A>(y.low_weight * x.high_weight));
    add(y.high, x.low, grad * static_cast<A>(y.high_weight * x.low_weight));
    add(y.high, x.high, grad * static_cast<A>(y.high_weight * x.high_weight));
  }
};

// Whether any sample of a bin of an axis can touch the pixels first ... first + count - 1.
__device__ inline bool bin_touches(const RoIAxis& axis, int bin, int size, int first, int count) {
  RoIAxis one = axis;
  one.start = roi_sample_position(axis, bin, -0.5);
  const int2 pixels = touched_pixels(one, 1, size);
  // A pixel of slack, as the bin's start is rounded here.
  return pixels.y >= pixels.x && pixels.x - 1 < first + count && pixels.y + 1 >= first;
}

template <typename T, typename Box, bool Max>
__global__ void __launch_bounds__(kTileThreads, 1)
    gather_samples(const __grid_constant__ RoIAlignParameters p, const __grid_constant__ TileGrid grid,
                   const __grid_constant__ Gradients gradients, const RoITable table,
                   const Box* __restrict__ boxes, const T* __restrict__ pooled_grad) {
  using A = Accumulator<T>;
  constexpr int kColumns = sample_tile_columns<A>();
  const Tile tile = find_tile(grid, p.levels);
  const int channel = tile.chunk * kTileThreads + int(threadIdx.x);
  const bool active = channel < p.channels;
  const TileColumn<A> column{tile, reinterpret_cast<A*>(dynamic_shared())};
  for (int i = 0; i < kSampleTileRows * kColumns; ++i) column.at(0, i) = A(0);
  const MapStrides pooled = dense_strides(p.channels, p.pooled_height, p.pooled_width, p.channels_last);
  const MapStrides strides =
      dense_strides(p.channels, p.height[tile.level], p.width[tile.level], p.channels_last);
  const int64_t plane = tile.image * strides.batch + channel * strides.channel;
  const T* features = static_cast<const T*>(p.features[tile.level]) + plane;

  const auto add_bin = [&](const BinSampler<T>& bin, A grad) {
    if constexpr (Max) {
      const Peak<A> peak = bin_peak(bin, features);
      if (peak.y.inside) column.add(peak.y, peak.x, grad);
    } else {
      const A share = grad * static_cast<A>(1.0 / roi_sample_count(bin.y, bin.x));
      bin.each([&](const RoITap& y, const RoITap& x) { column.add(y, x, share); });
    }
  };
  const auto add_roi = [&](int roi) {
    BinSampler<T> bin = bin_sampler<T>(p, boxes + int64_t(roi) * 5, tile.level);
    const T* grads = pooled_grad + roi * pooled.batch + channel * pooled.channel;
    for (bin.row = 0; bin.row < p.pooled_height; ++bin.row) {
      if (!bin_touches(bin.y, bin.row, bin.height, tile.top, kSampleTileRows)) continue;
      for (bin.column = 0; bin.column < p.pooled_width; ++bin.column) {
        if (!bin_touches(bin.x, bin.column, bin.width, tile.left, kColumns)) continue;
        add_bin(bin, static_cast<A>(grads[bin.row * pooled.row + bin.column * pooled.column]));
      }
    }
  };
  const int map = tile.level * p.batch + tile.image;
  for_each_roi(table, map, tile, kSampleTileRows, kColumns, kTileBatch, [&](const int* rois, int count) {
    for (int i = 0; active && i < count; ++i) add_roi(rois[i]);
    __syncthreads();
  });

  if (!active) return;
  T* target = static_cast<T*>(gradients.maps[tile.level]) + plane;
  for (int row = 0; row < kSampleTileRows && tile.top + row < p.height[tile.level]; ++row) {
    for (int i = 0; i < kColumns && tile.left + i < p.width[tile.level]; ++i) {
      target[(tile.top + row) * strides.row + (tile.left + i) * strides.column] =
          static_cast<T>(column.at(row, i));
    }
  }
}

}  // namespace mrcnn_plugin
