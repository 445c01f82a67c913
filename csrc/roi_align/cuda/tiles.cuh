// What the backward kernels of RoIAlign share. They work on tiles of a gradient map: a tile's share of a RoI
// is A_y^T * G * A_x restricted to the tile, so every pixel is added to once per RoI, not four times per
// sample.
//   gather   a block owns a tile and adds to it, in registers, every RoI that touches it, in ascending order:
//            no atomics, the same bits in every run, every pixel written once and none zeroed before.
//   scatter  a block owns a RoI and adds the tiles under it to memory, atomically.
#pragma once

#include "roi_align/cuda/bands.cuh"

namespace mrcnn_plugin {

constexpr int kTileThreads = 256;
// RoIs whose weights a block computes together, at most.
constexpr int kTileBatch = 16;

// An axis of a RoI, ready for asking which samples lie near a pixel.
struct alignas(16) AxisRecord {
  RoIAxis axis;
  double inverse_spacing;

  static __device__ AxisRecord load(const AxisRecord* from) {
    const double* numbers = reinterpret_cast<const double*>(from);
    const auto first = Vector<double, 2>::load(numbers);
    const auto second = Vector<double, 2>::load(numbers + 2);
    return {{first.lane[0], first.lane[1], second.lane[0]}, second.lane[1]};
  }
};

// The pixels that a RoI touches, both ends included.
struct alignas(16) Window {
  int top;
  int bottom;
  int left;
  int right;

  static __device__ Window load(const Window* from) {
    const auto sides = Vector<int, 4>::load(&from->top);
    return {sides.lane[0], sides.lane[1], sides.lane[2], sides.lane[3]};
  }
};

// All RoIs of a call, in device memory. Kernels that read it were launched after the one that fills it.
struct RoITable {
  AxisRecord* axes;  // y and x of each RoI
  Window* windows;
  int* maps;  // level * batch + image, or -1 where a RoI has no gradient
  int count;
};

inline int64_t roi_table_bytes(int64_t count) {
  return count * int64_t(2 * sizeof(AxisRecord) + sizeof(Window) + sizeof(int));
}

inline RoITable roi_table(void* memory, int64_t count) {
  AxisRecord* axes = static_cast<AxisRecord*>(memory);
  Window* windows = reinterpret_cast<Window*>(axes + 2 * count);
  return {axes, windows, reinterpret_cast<int*>(windows + count), int(count)};
}

// First and last pixel that the samples of an axis touch; last < first where there is none.
__device__ inline int2 touched_pixels(const RoIAxis& axis, int bins, int size) {
  const int2 none = make_int2(0, -1);
  if (!(axis.samples > 0.0 && axis.samples < 1e15)) return none;
  const double begin = roi_sample_position(axis, 0, 0.0);
  const double end = roi_sample_position(axis, bins - 1, axis.samples - 1.0);
  const double low = begin < end ? begin : end;
  const double high = begin < end ? end : begin;
  if (!(high >= -1.0 && low <= double(size))) return none;
  const int first = low <= 0.0 ? 0 : low >= size - 1 ? size - 1 : int(low);
  const int last = high <= 0.0 ? 1 : high >= size - 1 ? size - 1 : int(high) + 1;
  return make_int2(first, last < size ? last : size - 1);
}

template <typename Box>
__global__ void __launch_bounds__(kTileThreads, 2)
    fill_roi_table(const __grid_constant__ RoIAlignParameters p, const Box* __restrict__ boxes,
                   const RoITable table) {
  const int64_t i = int64_t(blockIdx.x) * kTileThreads + threadIdx.x;
  if (i >= table.count) return;
  const Box* box = boxes + i * 5;
  const RoIMap map = roi_map(p, box, i);
  table.maps[i] = -1;
  if (map.image < 0) return;
  const RoIAxis y = roi_y_axis(p, box, map.level);
  const RoIAxis x = roi_x_axis(p, box, map.level);
  const int2 rows = touched_pixels(y, p.pooled_height, p.height[map.level]);
  const int2 columns = touched_pixels(x, p.pooled_width, p.width[map.level]);
  if (rows.y < rows.x || columns.y < columns.x) return;
  table.axes[2 * i] = {y, y.samples / y.bin_size};
  table.axes[2 * i + 1] = {x, x.samples / x.bin_size};
  table.windows[i] = {rows.x, rows.y, columns.x, columns.y};
  table.maps[i] = map.level * p.batch + map.image;
}

// A tile of one image of one level.
struct Tile {
  int level;
  int image;
  int chunk;  // of the channels
  int top;
  int left;
};

// How the maps are cut: each level into tiles of one shape, each tile into chunks of channels.
struct TileGrid {
  int rows;
  int columns;
  int chunks;
  int down[kMaxLevels];
  int across[kMaxLevels];
  int64_t end[kMaxLevels];  // of each level's blocks, the coarsest level first

  int64_t blocks(int levels) const { return end[levels - 1]; }
};

inline TileGrid tile_grid(const RoIAlignParameters& p, int rows, int columns, int64_t chunks) {
  TileGrid grid{rows, columns, int(chunks), {}, {}, {}};
  int64_t end = 0;
  for (int i = 0; i < p.levels; ++i) {
    const int level = p.levels - 1 - i;
    grid.down[level] = (p.height[level] + rows - 1) / rows;
    grid.across[level] = (p.width[level] + columns - 1) / columns;
    end += int64_t(p.batch) * grid.down[level] * grid.across[level] * chunks;
    grid.end[i] = end;
  }
  return grid;
}

// Coarse levels come first: their few tiles lie under many RoIs each and take longest.
__device__ inline Tile find_tile(const TileGrid& grid, int levels) {
  int i = 0;
  while (i + 1 < levels && blockIdx.x >= grid.end[i]) ++i;
  const int level = levels - 1 - i;
  int rest = int(blockIdx.x - (i > 0 ? grid.end[i - 1] : 0));
  const int chunk = rest % grid.chunks;
  rest /= grid.chunks;
  const int column = rest % grid.across[level];
  rest /= grid.across[level];
  const int row = rest % grid.down[level];
  return {level, rest / grid.down[level], chunk, row * grid.rows, column * grid.columns};
}

// Shared memory for the weights of a batch of RoIs on a tile: y[bin][row] and x[bin][column] of each RoI, and
// for every row and column the first and last bin that weighs on it.
template <typename A>
struct TileWeights {
  int rows;
  int columns;
  int pooled_height;
  int pooled_width;
  A* weights;
  int2* ranges;

  __device__ TileWeights(const RoIAlignParameters& p, int rows, int columns, int batch, char* shared)
      : rows(rows), columns(columns), pooled_height(p.pooled_height), pooled_width(p.pooled_width) {
    weights = reinterpret_cast<A*>(shared);
    ranges = reinterpret_cast<int2*>(weights + batch * slot_size());
  }
  // What follows the weights of so many RoIs.
  __device__ char* end(int batch) const { return reinterpret_cast<char*>(ranges + batch * (rows + columns)); }
  __device__ int slot_size() const { return pooled_height * rows + pooled_width * columns; }
  __device__ A* y(int slot) const { return weights + slot * slot_size(); }
  __device__ A* x(int slot) const { return y(slot) + pooled_height * rows; }
  __device__ int2* y_ranges(int slot) const { return ranges + slot * (rows + columns); }
  __device__ int2* x_ranges(int slot) const { return y_ranges(slot) + rows; }
};

template <typename A>
inline int64_t tile_weight_bytes(const RoIAlignParameters& p, int rows, int columns) {
  return (int64_t(p.pooled_height) * rows + int64_t(p.pooled_width) * columns) * int64_t(sizeof(A)) +
         (rows + columns) * int64_t(sizeof(int2));
}

// Writes what each bin of an axis gives to one pixel, `stride` apart, and returns the bins that give any.
template <typename A>
__device__ inline int2 weigh_pixel(const AxisRecord& record, int bins, int size, int pixel, A* weights,
                                   int stride) {
  for (int bin = 0; bin < bins; ++bin) weights[bin * stride] = A(0);
  int2 range = make_int2(bins, -1);
  const RoIAxis& axis = record.axis;
  // Samples are counted over the whole axis. Those within a pixel of `pixel`, and a few more.
  const double last = axis.samples * bins - 1.0;
  double from = (pixel - 1.0 - axis.start) * record.inverse_spacing - 0.5;
  double to = (pixel + 1.0 - axis.start) * record.inverse_spacing - 0.5;
  if (from > to) {
    const double swap = from;
    from = to;
    to = swap;
  }
  from = floor(from) - 1.0;
  to = ceil(to) + 1.0;
  // Not a number for a RoI of no size: all its samples may be near.
  if (!(from > 0.0)) from = 0.0;
  if (!(to < last)) to = last;
  if (from > to) return range;
  int bin = min(int(from / axis.samples), bins - 1);
  double sample = from - bin * axis.samples;
  double sum = 0.0;
  for (double left = to - from; left >= 0.0; left -= 1.0) {
    const RoITap tap = roi_tap(roi_sample_position(axis, bin, sample), size);
    if (tap.inside && tap.low == pixel) sum += tap.low_weight;
    if (tap.inside && tap.high == pixel) sum += tap.high_weight;
    sample += 1.0;
    if (sample < axis.samples && left >= 1.0) continue;
    if (sum != 0.0) {
      weights[bin * stride] = A(sum / axis.samples);
      range = make_int2(min(range.x, bin), bin);
    }
    sum = 0.0;
    sample = 0.0;
    if (++bin >= bins) break;
  }
  return range;
}

// The whole block weighs the pixels of a tile for `count` RoIs.
template <typename A>
__device__ inline void weigh_tile(const RoIAlignParameters& p, const RoITable& table, const Tile& tile,
                                  const int* rois, int count, const TileWeights<A>& to) {
  const int pixels = to.rows + to.columns;
  for (int i = threadIdx.x; i < count * pixels; i += kTileThreads) {
    const int slot = i / pixels;
    const int j = i - slot * pixels;
    const bool is_row = j < to.rows;
    const int at = is_row ? j : j - to.rows;
    const int pixel = at + (is_row ? tile.top : tile.left);
    const int bins = is_row ? to.pooled_height : to.pooled_width;
    const int size = is_row ? p.height[tile.level] : p.width[tile.level];
    int2* range = (is_row ? to.y_ranges(slot) : to.x_ranges(slot)) + at;
    A* weights = (is_row ? to.y(slot) : to.x(slot)) + at;
    const AxisRecord record = AxisRecord::load(table.axes + 2 * int64_t(rois[slot]) + (is_row ? 0 : 1));
    *range = weigh_pixel(record, bins, size, pixel, weights, is_row ? to.rows : to.columns);
  }
  __syncthreads();
}

// Calls work(rois, count) with the RoIs that touch a tile, at most `batch` at a time and in ascending order,
// whatever the order in which blocks and warps run. The whole block takes part.
template <typename Work>
__device__ inline void for_each_roi(const RoITable& table, int map, const Tile& tile, int rows, int columns,
                                    int batch, const Work& work) {
  __shared__ int queue[kTileThreads + kTileBatch];
  __shared__ int hits[kTileThreads / 32];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  int queued = 0;
  for (int64_t first = 0; first < table.count; first += kTileThreads) {
    const int roi = int(first + threadIdx.x);
    bool hit = first + threadIdx.x < table.count && table.maps[roi] == map;
    if (hit) {
      const Window window = Window::load(table.windows + roi);
      hit = window.top < tile.top + rows && window.bottom >= tile.top && window.left < tile.left + columns &&
            window.right >= tile.left;
    }
    const unsigned ballot = __ballot_sync(0xffffffffu, hit);
    if (lane == 0) hits[warp] = __popc(ballot);
    __syncthreads();
    int place = queued + __popc(ballot & ((1u << lane) - 1u));
    for (int i = 0; i < kTileThreads / 32; ++i) {
      if (i < warp) place += hits[i];
      queued += hits[i];
    }
    if (hit) queue[place] = roi;
    __syncthreads();
    int done = 0;
    for (; queued - done >= batch; done += batch) work(queue + done, batch);
    if (done == 0) continue;
    queued -= done;
    const int at = int(threadIdx.x);
    const int kept = at < queued ? queue[done + at] : 0;
    __syncthreads();
    if (at < queued) queue[at] = kept;
    __syncthreads();
  }
  if (queued > 0) work(queue, queued);
}

struct Gradients {
  void* maps[kMaxLevels];
};

// The tiles under a RoI, cut from the corner of its window.
struct RoITiles {
  Tile tile;
  Window window;
  int across;
  int count;
  bool any;

  __device__ RoITiles(const RoIAlignParameters& p, const RoITable& table, int roi, int chunk, int rows,
                      int columns) {
    const int map = table.maps[roi];
    any = map >= 0;
    if (!any) return;
    window = Window::load(table.windows + roi);
    const int level = map / p.batch;
    tile = {level, map - level * p.batch, chunk, window.top, window.left};
    across = (window.right - window.left) / columns + 1;
    count = ((window.bottom - window.top) / rows + 1) * across;
  }
  __device__ Tile at(int i, int rows, int columns) const {
    Tile result = tile;
    result.top += i / across * rows;
    result.left += i % across * columns;
    return result;
  }
};

// How the scatter kernels share a RoI among blocks.
struct RoISplit {
  int chunks;  // of the channels
  int parts;   // of the tiles
};

}  // namespace mrcnn_plugin
