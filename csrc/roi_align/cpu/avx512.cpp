// RoIAlign kernels for x86-64 processors with AVX512.
#include "roi_align/cpu/kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define MRCNN_SIMD avx512
#define MRCNN_SIMD_BYTES 64
// clang-format off
#include "common/cpu/simd.h"
#include "roi_align/cpu/nchw.h"
#include "roi_align/cpu/nhwc.h"
#include "roi_align/cpu/dispatch.h"
// clang-format on
#pragma GCC pop_options

namespace mrcnn_plugin {

template <typename T>
const RoIAlignKernels<T>& roi_align_kernels_avx512() {
  return avx512::kKernels<T>;
}

template const RoIAlignKernels<float>& roi_align_kernels_avx512();
template const RoIAlignKernels<double>& roi_align_kernels_avx512();
template const RoIAlignKernels<Half>& roi_align_kernels_avx512();
template const RoIAlignKernels<BFloat16>& roi_align_kernels_avx512();

}  // namespace mrcnn_plugin
#endif
