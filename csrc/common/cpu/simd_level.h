// The instruction sets that CPU kernels are compiled for, and the choice between them at run time.
//
// An op asks for simd_level() once per call, before it starts threads, and picks its kernel with
// MRCNN_FOR_LEVEL. How a kernel is compiled for every level is said in common/cpu/each_level.h.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MRCNN_X86_LEVELS 1
#endif

namespace mrcnn_plugin {

// What the compiler targets by default; AVX2 with FMA and F16C; AVX-512 F, BW, DQ and VL on top of it.
enum class SimdLevel { baseline, avx2, avx512 };

// The widest level of the processor, or the one that the environment variable MRCNN_PLUGIN_SIMD names (it is
// read at every call; an empty one counts as none). Raises if that is not a level of this processor.
SimdLevel simd_level();

template <typename Kernel>
Kernel select_kernel(SimdLevel level, Kernel baseline, Kernel avx2, Kernel avx512) {
  return level == SimdLevel::avx512 ? avx512 : level == SimdLevel::avx2 ? avx2 : baseline;
}

// Pointer to a function or table that a file of common/cpu/each_level.h defines, of the level given.
#if MRCNN_X86_LEVELS
#define MRCNN_FOR_LEVEL(level, ...) \
  mrcnn_plugin::select_kernel(level, &baseline::__VA_ARGS__, &avx2::__VA_ARGS__, &avx512::__VA_ARGS__)
#else
#define MRCNN_FOR_LEVEL(level, ...) \
  mrcnn_plugin::select_kernel(level, &baseline::__VA_ARGS__, &baseline::__VA_ARGS__, &baseline::__VA_ARGS__)
#endif

}  // namespace mrcnn_plugin
