// RoIAlign kernels for any processor, and the choice between the instruction sets.
#include <cstdlib>
#include <string>

#include "roi_align/cpu/kernels.h"

#define MRCNN_SIMD baseline
#define MRCNN_SIMD_BYTES 16
// clang-format off
#include "common/cpu/simd.h"
#include "roi_align/cpu/nchw.h"
#include "roi_align/cpu/nhwc.h"
#include "roi_align/cpu/dispatch.h"
// clang-format on

namespace mrcnn_plugin {

template <typename T>
const RoIAlignKernels<T>& roi_align_kernels_avx512();
template <typename T>
const RoIAlignKernels<T>& roi_align_kernels_avx2();

// MRCNN_PLUGIN_SIMD=baseline|avx2 asks for less than the processor has, for tests.
template <typename T>
const RoIAlignKernels<T>& roi_align_kernels() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  const char* asked = std::getenv("MRCNN_PLUGIN_SIMD");
  const std::string most = asked ? asked : "avx512";
  const bool avx2 = most != "baseline" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && most != "avx2" && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512) return roi_align_kernels_avx512<T>();
  if (avx2) return roi_align_kernels_avx2<T>();
#endif
  return baseline::kKernels<T>;
}

template const RoIAlignKernels<float>& roi_align_kernels();
template const RoIAlignKernels<double>& roi_align_kernels();
template const RoIAlignKernels<Half>& roi_align_kernels();
template const RoIAlignKernels<BFloat16>& roi_align_kernels();

}  // namespace mrcnn_plugin
