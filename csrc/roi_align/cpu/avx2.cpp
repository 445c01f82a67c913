// RoIAlign kernels for x86-64 processors with AVX2.
#include "roi_align/cpu/kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define MRCNN_SIMD avx2
#define MRCNN_SIMD_BYTES 32
// clang-format off
#include "common/cpu/simd.h"
#include "roi_align/cpu/nchw.h"
#include "roi_align/cpu/nhwc.h"
#include "roi_align/cpu/dispatch.h"
// clang-format on
#pragma GCC pop_options

namespace mrcnn_plugin {

template <typename T>
const RoIAlignKernels<T>& roi_align_kernels_avx2() {
  return avx2::kKernels<T>;
}

template const RoIAlignKernels<float>& roi_align_kernels_avx2();
template const RoIAlignKernels<double>& roi_align_kernels_avx2();
template const RoIAlignKernels<Half>& roi_align_kernels_avx2();
template const RoIAlignKernels<BFloat16>& roi_align_kernels_avx2();

}  // namespace mrcnn_plugin
#endif
