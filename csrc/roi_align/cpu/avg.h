// RoIAlign by averaging on the CPU: makes the plans, shares the work out to threads, calls the kernels.
#pragma once

#include <cstring>
#include <vector>

#include "common/cpu/parallel.h"
#include "common/numeric.h"
#include "roi_align/cpu/kernels.h"
#include "roi_align/cpu/plan.h"

namespace mrcnn_plugin {

template <typename T, typename Box>
struct CpuRoIAlignCall {
  const RoIAlignArguments& arguments;
  const RoIAlignKernels<T>& kernels;
  const Box* boxes;
  const std::vector<RoIPlace>& places;  // sorted: level, image, top
  int64_t batch_size;
  int64_t channels;
  bool channels_last;
};

// Plans of RoIs [begin, begin + plans.size()) in the sorted order.
template <typename T>
class Plans {
  using A = Accumulator<T>;

 public:
  template <typename Box>
  Plans(const CpuRoIAlignCall<T, Box>& call, const std::vector<MapView<T>>& maps, int64_t begin, int64_t end)
      : plans_(end - begin) {
    constexpr int64_t kGroup = 16;
    const int32_t lanes = call.channels_last ? 0 : call.kernels.lanes;
    const int64_t groups = ceil_div(end - begin, kGroup);
    arenas_.resize(parallel_workers(groups));
    const auto make_builder = [&](int64_t worker) { return PlanBuilder<A>(call.arguments, arenas_[worker]); };
    parallel_tasks(groups, make_builder, [&](PlanBuilder<A>& builder, int64_t group) {
      const int64_t last = std::min((group + 1) * kGroup, end - begin);
      for (int64_t i = group * kGroup; i < last; ++i) {
        const RoIPlace& place = call.places[begin + i];
        const MapView<T>& map = maps[place.level];
        plans_[i] = builder.build(call.boxes, place, {map.height, map.width});
        if (lanes == 0) continue;
        plans_[i].x_gather = builder.pack(plans_[i].x.gather, lanes, false);
        plans_[i].x_scatter = builder.pack(plans_[i].x.scatter, lanes, true);
      }
    });
  }

  const RoIPlan<A>& operator[](int64_t i) const { return plans_[i]; }
  int64_t size() const { return int64_t(plans_.size()); }

 private:
  std::vector<RoIPlan<A>> plans_;
  std::vector<Arena> arenas_;
};

template <typename T>
const T* window_of(const MapView<T>& map, const RoIPlan<Accumulator<T>>& plan) {
  return map.data + plan.batch * map.batch_stride + plan.y.first * map.row_stride +
         plan.x.first * map.pixel_stride;
}

template <typename T>
int64_t widest(const std::vector<MapView<T>>& maps) {
  int64_t width = 0;
  for (const MapView<T>& map : maps) width = std::max(width, map.width);
  return width;
}

template <typename T>
int64_t tallest(const std::vector<MapView<T>>& maps) {
  int64_t height = 0;
  for (const MapView<T>& map : maps) height = std::max(height, map.height);
  return height;
}

// output: [K, C, pooled_height, pooled_width], dense in the layout of the call.
template <typename T, typename Box>
void average_forward(const CpuRoIAlignCall<T, Box>& call, const std::vector<MapView<T>>& maps, T* output) {
  using A = Accumulator<T>;
  // Plans are made for so many RoIs at a time, which bounds their memory.
  constexpr int64_t kChunk = 2048;
  const int64_t bins = call.arguments.pooled_height * call.arguments.pooled_width;
  const int64_t total = int64_t(call.places.size());
  const int64_t block = call.channels_last ? std::min<int64_t>(call.channels, 256) : 16;
  const int64_t blocks = ceil_div(call.channels, block);
  const int64_t scratch_size =
      call.channels_last
          ? nhwc_scratch(widest(maps), std::max(widest(maps), tallest(maps)), block)
          : nchw_scratch(call.arguments.pooled_height, call.arguments.pooled_width, widest(maps));
  for (int64_t begin = 0; begin < total; begin += kChunk) {
    const Plans<T> plans(call, maps, begin, std::min(begin + kChunk, total));
    const int64_t group = call.channels_last ? 4 : 32;
    const int64_t groups = ceil_div(plans.size(), group);
    const auto no_memory = [](int64_t) { return std::vector<A>(); };
    parallel_tasks(groups * blocks, no_memory, [&](std::vector<A>& memory, int64_t task) {
      memory.resize(scratch_size);
      const int64_t c = task / groups * block;
      const int64_t count = std::min(block, call.channels - c);
      const int64_t first = task % groups * group;
      for (int64_t i = first; i < std::min(first + group, plans.size()); ++i) {
        const RoIPlan<A>& plan = plans[i];
        const MapView<T>& map = maps[plan.level];
        const T* window = window_of(map, plan) + c * map.channel_stride;
        if (call.channels_last) {
          call.kernels.pool_nhwc(window, map.row_stride, map.pixel_stride, count, plan, memory.data(),
                                 output + plan.index * call.channels * bins + c, call.channels);
        } else {
          call.kernels.pool_nchw(window, map.end, map.channel_stride, map.row_stride, count, plan,
                                 memory.data(), output + (plan.index * call.channels + c) * bins);
        }
      }
    });
  }
}

// RoIs [begin, end) of the sorted order that lie on one level of one image.
struct RoIRange {
  int64_t begin;
  int64_t end;
};

inline RoIRange rois_of(const std::vector<RoIPlace>& places, int64_t level, int64_t batch) {
  const auto before = [](const RoIPlace& place, const std::pair<int64_t, int64_t>& key) {
    return std::pair<int64_t, int64_t>(place.level, place.batch) < key;
  };
  const auto begin = std::lower_bound(places.begin(), places.end(), std::pair(level, batch), before);
  const auto end = std::lower_bound(begin, places.end(), std::pair(level, batch + 1), before);
  return {begin - places.begin(), end - places.begin()};
}

// A rectangle of a gradient map that one thread computes: nobody else writes to it, and RoIs are added in
// sorted order, so the result does not depend on the threads.
struct GradTile {
  int64_t level;
  int64_t batch;
  int64_t channel;
  int64_t channels;
  int64_t row;
  int64_t rows;
};

template <typename T>
std::vector<GradTile> grad_tiles(const std::vector<MapView<T>>& maps, int64_t batch_size, int64_t channels,
                                 int64_t block, int64_t numbers) {
  std::vector<GradTile> tiles;
  for (int64_t level = 0; level < int64_t(maps.size()); ++level) {
    const int64_t per_row = maps[level].width * std::min(block, channels);
    const int64_t rows = std::clamp<int64_t>(numbers / std::max<int64_t>(per_row, 1), 1, maps[level].height);
    for (int64_t batch = 0; batch < batch_size; ++batch) {
      for (int64_t c = 0; c < channels; c += block) {
        for (int64_t row = 0; row < maps[level].height; row += rows) {
          tiles.push_back({level, batch, c, std::min(block, channels - c), row,
                           std::min(rows, maps[level].height - row)});
        }
      }
    }
  }
  return tiles;
}

// The rows of a RoI's window that lie in [begin, begin + count) of the map.
template <typename A>
std::pair<int32_t, int32_t> rows_inside(const AxisPlan<A>& y, int64_t begin, int64_t count) {
  const int64_t first = std::max<int64_t>(begin - y.first, 0);
  const int64_t last = std::min<int64_t>(begin + count - y.first, y.extent);
  return {int32_t(first), int32_t(std::max(first, last))};
}

template <typename T, typename Box>
void tile_backward_nchw(const CpuRoIAlignCall<T, Box>& call, const Plans<T>& plans, const T* grad_output,
                        const MapView<T>& map, const GradTile& tile, std::vector<Accumulator<T>>& memory) {
  using A = Accumulator<T>;
  const int64_t bins = call.arguments.pooled_height * call.arguments.pooled_width;
  const int64_t pitch = map.width + call.kernels.lanes;
  const int64_t plane = tile.rows * pitch + call.kernels.lanes;
  memory.resize(nchw_scratch(call.arguments.pooled_height, call.arguments.pooled_width, map.width) +
                plane * tile.channels);
  A* planes = memory.data();
  A* scratch = planes + plane * tile.channels;
  std::fill(planes, scratch, A(0));
  const RoIRange rois = rois_of(call.places, tile.level, tile.batch);
  for (int64_t i = rois.begin; i < rois.end; ++i) {
    const RoIPlan<A>& plan = plans[i];
    const auto [begin, end] = rows_inside(plan.y, tile.row, tile.rows);
    if (begin >= end || plan.x.extent == 0) continue;
    A* corner = planes + (plan.y.first + begin - tile.row) * pitch + plan.x.first;
    call.kernels.spread_nchw(grad_output + (plan.index * call.channels + tile.channel) * bins, tile.channels,
                             plan, begin, end, scratch, corner, plane, pitch);
  }
  for (int64_t c = 0; c < tile.channels; ++c) {
    T* to = map.data + tile.batch * map.batch_stride + (tile.channel + c) * map.channel_stride;
    for (int64_t row = 0; row < tile.rows; ++row) {
      call.kernels.store(planes + c * plane + row * pitch, map.width, to + (tile.row + row) * map.row_stride);
    }
  }
}

// Sums in float32 and double are made where they stay: a tile of all channels is one run of memory, which is
// written once. Those of narrower types are rounded at the end.
template <typename T, typename Box>
void tile_backward_nhwc(const CpuRoIAlignCall<T, Box>& call, const Plans<T>& plans, const T* grad_output,
                        const MapView<T>& map, const GradTile& tile, std::vector<Accumulator<T>>& memory) {
  using A = Accumulator<T>;
  const int64_t bins = call.arguments.pooled_height * call.arguments.pooled_width;
  const int64_t row_size = map.width * tile.channels;
  const int64_t terms = std::max(call.arguments.pooled_height, call.arguments.pooled_width);
  const bool in_place = std::is_same_v<T, A> && tile.channels == call.channels;
  const int64_t kept = in_place ? 0 : row_size * tile.rows;
  memory.resize(kept + nhwc_scratch(call.arguments.pooled_width, terms, tile.channels));
  A* pixels = memory.data();
  A* scratch = pixels + kept;
  T* first = map.data + tile.batch * map.batch_stride + tile.row * map.row_stride + tile.channel;
  if constexpr (std::is_same_v<T, A>) {
    if (in_place) pixels = first;
  }
  std::fill(pixels, pixels + row_size * tile.rows, A(0));
  const RoIRange rois = rois_of(call.places, tile.level, tile.batch);
  for (int64_t i = rois.begin; i < rois.end; ++i) {
    const RoIPlan<A>& plan = plans[i];
    const auto [begin, end] = rows_inside(plan.y, tile.row, tile.rows);
    for (int32_t row = begin; row < end; ++row) {
      A* to = pixels + (plan.y.first + row - tile.row) * row_size + plan.x.first * tile.channels;
      call.kernels.spread_nhwc_row(grad_output + plan.index * call.channels * bins + tile.channel,
                                   call.channels, tile.channels, plan, row, scratch, to);
    }
  }
  for (int64_t row = 0; row < tile.rows && !in_place; ++row) {
    for (int64_t x = 0; x < map.width; ++x) {
      call.kernels.store(pixels + row * row_size + x * tile.channels, tile.channels,
                         first + row * map.row_stride + x * map.pixel_stride);
    }
  }
}

// maps: the gradients of the features, dense in the layout of the call; every element is written.
template <typename T, typename Box>
void average_backward(const CpuRoIAlignCall<T, Box>& call, const T* grad_output,
                      const std::vector<MapView<T>>& maps) {
  using A = Accumulator<T>;
  const Plans<T> plans(call, maps, 0, int64_t(call.places.size()));
  constexpr int64_t kTile = 64 * 1024;
  // A row of all channels is a run of memory; each is summed up on its own, so that one costs no more than
  // many.
  const int64_t all = call.channels;
  const int64_t block = call.channels_last ? (std::is_same_v<T, A> ? all : 64) : 4;
  const std::vector<GradTile> tiles = grad_tiles(maps, call.batch_size, call.channels, block, kTile);
  const auto no_memory = [](int64_t) { return std::vector<A>(); };
  parallel_tasks(int64_t(tiles.size()), no_memory, [&](std::vector<A>& memory, int64_t task) {
    const GradTile& tile = tiles[task];
    const auto tile_backward = call.channels_last ? &tile_backward_nhwc<T, Box> : &tile_backward_nchw<T, Box>;
    tile_backward(call, plans, grad_output, maps[tile.level], tile, memory);
  });
}

}  // namespace mrcnn_plugin
