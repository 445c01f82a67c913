// The CPU kernels of RoIAlign: what one thread does for one RoI and a block of channels. They are compiled
// for every instruction set.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

#include "common/cpu/simd_level.h"
#include "common/numeric.h"
#include "roi_align/cpu/plan.h"

namespace mrcnn_plugin {

using Half = c10::Half;
using BFloat16 = c10::BFloat16;

// A map (N, C, height, width) with strides in elements; `end` is one past its last element in memory.
template <typename T>
struct MapView {
  T* data;
  T* end;
  int64_t batch_stride;
  int64_t channel_stride;
  int64_t row_stride;
  int64_t pixel_stride;
  int64_t height;
  int64_t width;
};

template <typename T>
struct RoIAlignKernels {
  using A = Accumulator<T>;

  // Numbers in a vector register, for which the plans of NCHW maps must be packed; 0: not packed.
  int lanes;

  // NCHW, one RoI. `window` is the first pixel that the RoI touches, in the first of `channels` planes;
  // pooled: [channels, pooled_height, pooled_width]. scratch: nchw_scratch() numbers.
  void (*pool_nchw)(const T* window, const T* end, int64_t channel_stride, int64_t row_stride,
                    int64_t channels, const RoIPlan<A>& plan, A* scratch, T* pooled);

  // Its transpose for the rows [row_begin, row_end) of the RoI's window: adds to planes of `pitch` numbers
  // per row. `planes` is the window's first pixel of row_begin; up to `lanes` pixels right of the window are
  // touched.
  void (*spread_nchw)(const T* pooled_grad, int64_t channels, const RoIPlan<A>& plan, int32_t row_begin,
                      int32_t row_end, A* scratch, A* planes, int64_t plane_stride, int64_t pitch);

  // NHWC, one RoI and `channels` channels; pooled: [pooled_height, pooled_width] pixels, pooled_stride apart.
  void (*pool_nhwc)(const T* window, int64_t row_stride, int64_t pixel_stride, int64_t channels,
                    const RoIPlan<A>& plan, A* scratch, T* pooled, int64_t pooled_stride);

  // Its transpose for one row of the RoI's window: adds to `pixels`, [window, channels] numbers.
  void (*spread_nhwc_row)(const T* pooled_grad, int64_t pooled_stride, int64_t channels,
                          const RoIPlan<A>& plan, int32_t row, A* scratch, A* pixels);

  // Rounds numbers to T.
  void (*store)(const A* from, int64_t count, T* to);
};

// Defined for float, double, Half and BFloat16.
template <typename T>
const RoIAlignKernels<T>& roi_align_kernels(SimdLevel level);

// Numbers of scratch memory that each kernel needs.
inline int64_t nchw_scratch(int64_t pooled_height, int64_t pooled_width, int64_t width) {
  constexpr int64_t kPadding = 64;
  return pooled_height * (width + 2 * kPadding) + pooled_height * pooled_width + width + 4 * kPadding;
}

// runs: of channels that are kept; terms: the most that one sum has.
inline int64_t nhwc_scratch(int64_t runs, int64_t terms, int64_t channels) {
  constexpr int64_t kNumbersPerOffset = 2;
  return runs * channels + kNumbersPerOffset * terms + 64;
}

}  // namespace mrcnn_plugin
