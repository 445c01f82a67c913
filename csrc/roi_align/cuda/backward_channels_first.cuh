// Backward kernels of average RoIAlign, channels first. tiles.cuh says what gather and scatter are.
#pragma once

#include "roi_align/cuda/tiles.cuh"

namespace mrcnn_plugin {

constexpr int kPlaneRows = 32;
constexpr int kPlaneColumns = 16;
constexpr int kPlaneChannels = 16;
// Rows that the threads of a block cover at a time.
constexpr int kPassRows = kTileThreads / kPlaneColumns;
constexpr int kPasses = kPlaneRows / kPassRows;

// The pixels of a tile, one in each pass, kPlaneChannels channels deep, that one thread sums in registers. A
// warp covers 8 x 4 pixels: compact, so that few of its lanes lie beside a RoI, and its rows are whole
// 32-byte sectors.
template <typename T>
struct PixelColumn {
  using A = Accumulator<T>;
  int row;  // in the first pass
  int column;
  int first_channel;
  int channels;
  A sum[kPasses][kPlaneChannels];

  __device__ PixelColumn(const RoIAlignParameters& p, int chunk) {
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    row = warp / 2 * 4 + lane / 8;
    column = warp % 2 * 8 + lane % 8;
    first_channel = chunk * kPlaneChannels;
    channels = min(p.channels - first_channel, kPlaneChannels);
    clear();
  }

  __device__ void clear() {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
      for (int c = 0; c < kPlaneChannels; ++c) sum[pass][c] = A(0);
    }
  }

  __device__ bool under(const TileWeights<A>& weights, int slot, int pass) const {
    const int2 rows = weights.y_ranges(slot)[row + pass * kPassRows];
    const int2 columns = weights.x_ranges(slot)[column];
    return rows.y >= rows.x && columns.y >= columns.x;
  }

  // grad: (channels, bins), of one RoI, from the first channel of this thread; in shared memory if Staged.
  template <bool Staged>
  __device__ void add(const T* grad, int bins, const TileWeights<A>& weights, int slot) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      add_pixel<Staged>(grad, bins, weights, slot, row + pass * kPassRows, sum[pass]);
    }
  }

  template <bool Staged>
  __device__ void add_pixel(const T* grad, int bins, const TileWeights<A>& weights, int slot, int row,
                            A (&sum)[kPlaneChannels]) const {
    const int2 rows = weights.y_ranges(slot)[row];
    const int2 columns = weights.x_ranges(slot)[column];
    const A* y = weights.y(slot) + row;
    const A* x = weights.x(slot) + column;
    for (int i = rows.x; i <= rows.y; ++i) {
      const A row_weight = y[i * weights.rows];
      for (int j = columns.x; j <= columns.y; ++j) {
        const A weight[1] = {row_weight * x[j * weights.columns]};
        const T* source = grad + i * weights.pooled_width + j;
        Vector<T, 1> values[kPlaneChannels];
#pragma unroll
        for (int c = 0; c < kPlaneChannels; ++c) {
          values[c] = Vector<T, 1>::zero();
          if (c >= channels) continue;
          const T* from = source + int64_t(c) * bins;
          values[c] = Staged ? Vector<T, 1>::load_shared(from) : Vector<T, 1>::load(from);
        }
#pragma unroll
        for (int c = 0; c < kPlaneChannels; ++c) sum[c] += weight[0] * static_cast<A>(values[c].lane[0]);
      }
    }
  }

  // Calls visit(offset in the map, sum) for its channels in a pass, if the pixel is inside the map.
  template <typename Visit>
  __device__ void each_channel(const RoIAlignParameters& p, const Tile& tile, int pass,
                               const Visit& visit) const {
    const int height = p.height[tile.level];
    const int width = p.width[tile.level];
    const int y = tile.top + row + pass * kPassRows;
    const int x = tile.left + column;
    if (y >= height || x >= width) return;
    const int64_t plane = int64_t(height) * width;
    const int64_t first = (int64_t(tile.image) * p.channels + first_channel) * plane + int64_t(y) * width + x;
#pragma unroll
    for (int c = 0; c < kPlaneChannels; ++c) {
      if (c < channels) visit(first + c * plane, sum[pass][c]);
    }
  }
};

// Room for the gradient of one RoI in the channels of a block.
template <typename T>
inline int64_t staged_bytes(const RoIAlignParameters& p) {
  const int64_t bytes = int64_t(kPlaneChannels) * p.pooled_height * p.pooled_width * sizeof(T);
  // Tables of other types follow one another in shared memory.
  return (bytes + 15) / 16 * 16;
}

// Where a block keeps the gradients of a batch of RoIs, so that their sectors are read once a tile and not
// once for each warp that needs a few of their bytes.
template <typename T>
struct StagedGradients {
  T* memory;
  int channels;  // of the block
  int bins;

  __device__ T* of(int slot) const {
    return memory + slot * ((kPlaneChannels * bins * sizeof(T) + 15) / 16 * 16 / sizeof(T));
  }

  // With the whole block; a barrier must follow. grad: of the RoI, from the first channel of the block.
  __device__ const T* load(int slot, const T* grad) const {
    T* to = of(slot);
    for (int i = threadIdx.x; i < channels * bins; i += kTileThreads) {
      Vector<T, 1>::load(grad + i).store(to + i);
    }
    return to;
  }
};

template <typename T, bool Staged>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 8 ? 1 : 2)
    gather_channels_first(const __grid_constant__ RoIAlignParameters p, const __grid_constant__ TileGrid grid,
                          const __grid_constant__ Gradients gradients, const RoITable table, const int batch,
                          const T* __restrict__ pooled_grad) {
  using A = Accumulator<T>;
  const Tile tile = find_tile(grid, p.levels);
  const TileWeights<A> weights(p, kPlaneRows, kPlaneColumns, batch, dynamic_shared());
  const int bins = p.pooled_height * p.pooled_width;
  const int64_t pooled_size = int64_t(bins) * p.channels;
  PixelColumn<T> pixel(p, tile.chunk);
  const StagedGradients<T> staged{reinterpret_cast<T*>(weights.end(batch)), pixel.channels, bins};
  const T* first = pooled_grad + int64_t(pixel.first_channel) * bins;
  const int map = tile.level * p.batch + tile.image;
  for_each_roi(table, map, tile, kPlaneRows, kPlaneColumns, batch, [&](const int* rois, int count) {
    for (int slot = 0; Staged && slot < count; ++slot) staged.load(slot, first + rois[slot] * pooled_size);
    weigh_tile(p, table, tile, rois, count, weights);
    for (int slot = 0; slot < count; ++slot) {
      pixel.template add<Staged>(Staged ? staged.of(slot) : first + rois[slot] * pooled_size, bins, weights,
                                 slot);
    }
    __syncthreads();
  });
  T* target = static_cast<T*>(gradients.maps[tile.level]);
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    pixel.each_channel(p, tile, pass, [&](int64_t offset, A sum) { target[offset] = static_cast<T>(sum); });
  }
}

template <typename T, bool Staged>
__global__ void __launch_bounds__(kTileThreads, 2)
    scatter_channels_first(const __grid_constant__ RoIAlignParameters p,
                           const __grid_constant__ Gradients gradients, const RoITable table,
                           const RoISplit split, const T* __restrict__ pooled_grad) {
  __shared__ int roi;
  const int part = blockIdx.x % split.parts;
  const int rest = blockIdx.x / split.parts;
  const int chunk = rest % split.chunks;
  if (threadIdx.x == 0) roi = rest / split.chunks;
  __syncthreads();
  const RoITiles tiles(p, table, roi, chunk, kPlaneRows, kPlaneColumns);
  if (!tiles.any) return;
  const TileWeights<T> weights(p, kPlaneRows, kPlaneColumns, 1, dynamic_shared());
  const int bins = p.pooled_height * p.pooled_width;
  T* target = static_cast<T*>(gradients.maps[tiles.tile.level]);
  PixelColumn<T> pixel(p, chunk);
  const T* grad = pooled_grad + (int64_t(roi) * p.channels + pixel.first_channel) * bins;
  const StagedGradients<T> staged{reinterpret_cast<T*>(weights.end(1)), pixel.channels, bins};
  if (Staged) grad = staged.load(0, grad);  // weigh_tile() has the barrier
  for (int i = part; i < tiles.count; i += split.parts) {
    const Tile tile = tiles.at(i, kPlaneRows, kPlaneColumns);
    weigh_tile(p, table, tile, &roi, 1, weights);
    pixel.clear();
    pixel.template add<Staged>(grad, bins, weights, 0);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if (!pixel.under(weights, 0, pass)) continue;
      pixel.each_channel(p, tile, pass, [&](int64_t offset, T sum) { atomicAdd(target + offset, sum); });
    }
    __syncthreads();
  }
}

}  // namespace mrcnn_plugin
