// RoIAlign sample by sample, for what the bands do not cover: max pooling, and maps or outputs so large that
// the bands of a RoI do not fit in shared memory. Any layout.
#pragma once

#include "roi_align/cuda/bands.cuh"

namespace mrcnn_plugin {

// The samples of one bin, and their values.
template <typename T>
struct BinSampler {
  using A = Accumulator<T>;
  RoIAxis y;
  RoIAxis x;
  int row;
  int column;
  int height;
  int width;
  MapStrides strides;

  __device__ RoITap y_tap(double sample) const {
    return roi_tap(roi_sample_position(y, row, sample), height);
  }
  __device__ RoITap x_tap(double sample) const {
    return roi_tap(roi_sample_position(x, column, sample), width);
  }
  __device__ A value(const T* plane, const RoITap& ty, const RoITap& tx) const {
    const T* low = plane + ty.low * strides.row;
    const T* high = plane + ty.high * strides.row;
    const int64_t left = tx.low * strides.column;
    const int64_t right = tx.high * strides.column;
    const A left_weight = static_cast<A>(tx.low_weight);
    const A right_weight = static_cast<A>(tx.high_weight);
    const A upper = static_cast<A>(low[left]) * left_weight + static_cast<A>(low[right]) * right_weight;
    const A lower = static_cast<A>(high[left]) * left_weight + static_cast<A>(high[right]) * right_weight;
    return upper * static_cast<A>(ty.low_weight) + lower * static_cast<A>(ty.high_weight);
  }

  // Calls visit(y tap, x tap) for every sample on the map, row by row.
  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    const RoISamples ys = roi_samples(y, row, height);
    const RoISamples xs = roi_samples(x, column, width);
    for (int64_t i = 0; i < ys.count; ++i) {
      const RoITap ty = y_tap(ys.first + static_cast<double>(i));
      if (!ty.inside) continue;
      for (int64_t j = 0; j < xs.count; ++j) {
        const RoITap tx = x_tap(xs.first + static_cast<double>(j));
        if (tx.inside) visit(ty, tx);
      }
    }
  }
};

template <typename T, typename Box>
__device__ inline BinSampler<T> bin_sampler(const RoIAlignParameters& p, const Box* roi, int level) {
  const int height = p.height[level];
  const int width = p.width[level];
  return {roi_y_axis(p, roi, level),
          roi_x_axis(p, roi, level),
          0,
          0,
          height,
          width,
          dense_strides(p.channels, height, width, p.channels_last)};
}

// The first of a bin's largest samples. Samples off the map have the value 0 and no tap.
template <typename A>
struct Peak {
  A value;
  RoITap y;
  RoITap x;
};

template <typename T, typename A = Accumulator<T>>
__device__ inline Peak<A> bin_peak(const BinSampler<T>& bin, const T* plane) {
  const RoITap nowhere{0, 0, 0.0, 0.0, false};
  Peak<A> peak{A(0), nowhere, nowhere};
  double seen = 0.0;
  bin.each([&](const RoITap& y, const RoITap& x) {
    const A value = bin.value(plane, y, x);
    if (seen == 0.0 || value > peak.value || value != value) peak = {value, y, x};
    seen += 1.0;
  });
  const bool some_outside = seen < bin.y.samples * bin.x.samples;
  if (some_outside && peak.value < A(0)) return {A(0), nowhere, nowhere};
  return peak;
}

template <typename T, typename A = Accumulator<T>>
__device__ inline A bin_mean(const BinSampler<T>& bin, const T* plane) {
  A sum = 0;
  bin.each([&](const RoITap& y, const RoITap& x) { sum += bin.value(plane, y, x); });
  return sum * static_cast<A>(1.0 / roi_sample_count(bin.y, bin.x));
}

constexpr int kSampleThreads = 256;

// One thread per output element, neighbouring threads neighbours in memory.
template <typename T, typename Box, bool Max>
__global__ void __launch_bounds__(kSampleThreads, 2)
    pool_samples(const __grid_constant__ RoIAlignParameters p, const Box* __restrict__ boxes,
                 const int64_t elements, T* __restrict__ output) {
  const int64_t bins = int64_t(p.pooled_height) * p.pooled_width;
  const int64_t step = int64_t(gridDim.x) * kSampleThreads;
  for (int64_t i = int64_t(blockIdx.x) * kSampleThreads + threadIdx.x; i < elements; i += step) {
    const int64_t fast = p.channels_last ? p.channels : bins;
    const int64_t outer = i / fast;
    const int64_t roi = outer / (p.channels_last ? bins : p.channels);
    const int64_t middle = outer - roi * (p.channels_last ? bins : p.channels);
    const int64_t channel = p.channels_last ? i - outer * fast : middle;
    const int64_t bin = p.channels_last ? middle : i - outer * fast;
    const Box* box = boxes + roi * 5;
    const RoIMap map = roi_map(p, box, roi);
    if (map.image < 0) {
      output[i] = static_cast<T>(nanf(""));
      continue;
    }
    BinSampler<T> sampler = bin_sampler<T>(p, box, map.level);
    sampler.row = static_cast<int>(bin / p.pooled_width);
    sampler.column = static_cast<int>(bin - int64_t(sampler.row) * p.pooled_width);
    const T* plane = static_cast<const T*>(p.features[map.level]) + map.image * sampler.strides.batch +
                     channel * sampler.strides.channel;
    output[i] = static_cast<T>(Max ? bin_peak(sampler, plane).value : bin_mean(sampler, plane));
  }
}

}  // namespace mrcnn_plugin
