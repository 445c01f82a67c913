// Compiles a file once for every SimdLevel (the way of Google Highway's foreach_target.h):
//
//   #define MRCNN_LEVEL_FILE "roi_align/cpu/kernel_table.h"
//   #include "common/cpu/each_level.h"
//
// The file has no header guard and opens the namespace MRCNN_SIMD, which is the level's name, inside an
// unnamed one; MRCNN_SIMD_BYTES is the width of a register. Everything that it includes must be of its own
// kind: ordinary headers come before. Helpers on vectors cannot be shared by the levels, since a vector type
// is cut to the registers of the function that names it before that function is inlined.
#include "common/cpu/simd_level.h"

#if MRCNN_X86_LEVELS
#include <immintrin.h>
#endif

#define MRCNN_SIMD baseline
#define MRCNN_SIMD_BYTES 16
#include MRCNN_LEVEL_FILE
#undef MRCNN_SIMD
#undef MRCNN_SIMD_BYTES

#if MRCNN_X86_LEVELS
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define MRCNN_SIMD avx2
#define MRCNN_SIMD_BYTES 32
#include MRCNN_LEVEL_FILE
#undef MRCNN_SIMD
#undef MRCNN_SIMD_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define MRCNN_SIMD avx512
#define MRCNN_SIMD_BYTES 64
#include MRCNN_LEVEL_FILE
#undef MRCNN_SIMD
#undef MRCNN_SIMD_BYTES
#pragma GCC pop_options
#endif

#undef MRCNN_LEVEL_FILE
