// Runs a function body compiled for the widest vectors that the processor has, without -march.
#pragma once

#include <utility>

#if defined(__x86_64__) && defined(__GNUC__)
#define MRCNN_X86_TARGETS 1
#endif

namespace mrcnn_plugin {

#if MRCNN_X86_TARGETS
template <class Body, class... Args>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) void run_avx512(Args&&... args) {
  Body::run(std::forward<Args>(args)...);
}

template <class Body, class... Args>
__attribute__((target("avx2,fma"))) void run_avx2(Args&&... args) {
  Body::run(std::forward<Args>(args)...);
}
#endif

// Calls Body::run(args...), which must be always_inline so that it is compiled anew for each target.
template <class Body, class... Args>
void run_widest(Args&&... args) {
#if MRCNN_X86_TARGETS
  static const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool avx512 = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return run_avx512<Body>(std::forward<Args>(args)...);
  if (fma) return run_avx2<Body>(std::forward<Args>(args)...);
#endif
  Body::run(std::forward<Args>(args)...);
}

}  // namespace mrcnn_plugin
