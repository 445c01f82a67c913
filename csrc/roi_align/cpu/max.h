// RoIAlign by maximum on the CPU: the largest of a bin's bilinear samples (Mask R-CNN, section 3, names it
// beside the average). Samples outside the map are 0 and count; the first of equal samples wins. It is
// compiled for no particular instruction set: fused multiply-adds would round samples, and decide ties,
// otherwise.
#pragma once

#include <vector>

#include "roi_align/cpu/avg.h"

namespace mrcnn_plugin {

// Samples of one bin along one axis that meet the map, and whether others do not.
struct BinSamples {
  std::vector<RoITap> taps;
  bool some_outside = false;
};

inline std::vector<BinSamples> bin_samples(const RoIAxis& axis, int64_t bins, int64_t size) {
  std::vector<BinSamples> result(bins);
  for (int64_t bin = 0; bin < bins; ++bin) {
    const RoISamples samples = roi_samples(axis, bin, size);
    for (int64_t i = 0; i < samples.count; ++i) {
      const RoITap tap = roi_tap(roi_sample_position(axis, bin, samples.first + double(i)), size);
      if (tap.inside) result[bin].taps.push_back(tap);
    }
    result[bin].some_outside = double(result[bin].taps.size()) < axis.samples;
  }
  return result;
}

template <typename Box>
std::pair<RoIAxis, RoIAxis> roi_axes(const Box* roi, double scale, const RoIAlignArguments& arguments) {
  return {
      roi_axis(roi[2], roi[4], scale, arguments.pooled_height, arguments.sampling_ratio, arguments.aligned),
      roi_axis(roi[1], roi[3], scale, arguments.pooled_width, arguments.sampling_ratio, arguments.aligned)};
}

template <typename A>
struct Largest {
  A value = A(0);
  const RoITap* y = nullptr;
  const RoITap* x = nullptr;
};

template <typename T>
Largest<Accumulator<T>> largest_sample(const T* plane, const MapView<T>& map, const BinSamples& rows,
                                       const BinSamples& columns) {
  using A = Accumulator<T>;
  Largest<A> best;
  for (const RoITap& y : rows.taps) {
    const T* low = plane + y.low * map.row_stride;
    const T* high = plane + y.high * map.row_stride;
    for (const RoITap& x : columns.taps) {
      const int64_t left = x.low * map.pixel_stride;
      const int64_t right = x.high * map.pixel_stride;
      const A upper = A(low[left]) * A(x.low_weight) + A(low[right]) * A(x.high_weight);
      const A lower = A(high[left]) * A(x.low_weight) + A(high[right]) * A(x.high_weight);
      const A value = upper * A(y.low_weight) + lower * A(y.high_weight);
      if (best.y == nullptr || value > best.value || value != value) best = {value, &y, &x};
    }
  }
  if ((rows.some_outside || columns.some_outside) && best.value < A(0)) best = {};
  return best;
}

// Calls visit(k, channel, bin, largest, map, plane) for every output of the RoIs and channels given.
template <typename T, typename Box, typename Visit>
void visit_largest(const CpuRoIAlignCall<T, Box>& call, const std::vector<MapView<T>>& maps,
                   const RoIPlace& place, int64_t channel_begin, int64_t channel_end, const Visit& visit) {
  const MapView<T>& map = maps[place.level];
  const auto [y_axis, x_axis] =
      roi_axes(call.boxes + 5 * place.index, call.arguments.scales[place.level], call.arguments);
  const std::vector<BinSamples> rows = bin_samples(y_axis, call.arguments.pooled_height, map.height);
  const std::vector<BinSamples> columns = bin_samples(x_axis, call.arguments.pooled_width, map.width);
  for (int64_t c = channel_begin; c < channel_end; ++c) {
    const int64_t offset = place.batch * map.batch_stride + c * map.channel_stride;
    for (size_t y = 0; y < rows.size(); ++y) {
      for (size_t x = 0; x < columns.size(); ++x) {
        const auto largest = largest_sample(map.data + offset, map, rows[y], columns[x]);
        visit(c, int64_t(y * columns.size() + x), offset, largest);
      }
    }
  }
}

// Element (k, c, bin) of a dense pooled map in the layout of the call.
template <typename T, typename Box>
int64_t pooled_offset(const CpuRoIAlignCall<T, Box>& call, int64_t k, int64_t c, int64_t bin) {
  const int64_t bins = call.arguments.pooled_height * call.arguments.pooled_width;
  return call.channels_last ? (k * bins + bin) * call.channels + c : (k * call.channels + c) * bins + bin;
}

template <typename T, typename Box>
void max_forward(const CpuRoIAlignCall<T, Box>& call, const std::vector<MapView<T>>& maps, T* output) {
  parallel_tasks(int64_t(call.places.size()), [&](int64_t i) {
    const RoIPlace& place = call.places[i];
    visit_largest(call, maps, place, 0, call.channels,
                  [&](int64_t c, int64_t bin, int64_t, const Largest<Accumulator<T>>& largest) {
                    output[pooled_offset(call, place.index, c, bin)] = T(largest.value);
                  });
  });
}

// grads: float (double) gradients of the features, zeroed, with the strides of `maps`' layout in grad_maps.
// Each thread owns some channels, so no two write to one element.
template <typename T, typename Box>
void max_backward(const CpuRoIAlignCall<T, Box>& call, const T* grad_output,
                  const std::vector<MapView<T>>& maps,
                  const std::vector<MapView<Accumulator<T>>>& grad_maps) {
  using A = Accumulator<T>;
  const int64_t block = ceil_div(call.channels, 4 * parallel_workers(call.channels));
  parallel_tasks(block ? ceil_div(call.channels, block) : 0, [&](int64_t task) {
    for (const RoIPlace& place : call.places) {
      const MapView<A>& map = grad_maps[place.level];
      visit_largest(call, maps, place, task * block, std::min((task + 1) * block, call.channels),
                    [&](int64_t c, int64_t bin, int64_t, const Largest<A>& largest) {
                      if (largest.y == nullptr) return;
                      const RoITap& y = *largest.y;
                      const RoITap& x = *largest.x;
                      const A grad = A(grad_output[pooled_offset(call, place.index, c, bin)]);
                      A* plane = map.data + place.batch * map.batch_stride + c * map.channel_stride;
                      A* low = plane + y.low * map.row_stride;
                      A* high = plane + y.high * map.row_stride;
                      low[x.low * map.pixel_stride] += grad * A(y.low_weight * x.low_weight);
                      low[x.high * map.pixel_stride] += grad * A(y.low_weight * x.high_weight);
                      high[x.low * map.pixel_stride] += grad * A(y.high_weight * x.low_weight);
                      high[x.high * map.pixel_stride] += grad * A(y.high_weight * x.high_weight);
                    });
    }
  });
}

}  // namespace mrcnn_plugin
