#include "common/cpu/simd_level.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <string>

namespace mrcnn_plugin {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

SimdLevel processor_level() {
#if MRCNN_X86_LEVELS
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return SimdLevel::avx512;
  if (avx2) return SimdLevel::avx2;
#endif
  return SimdLevel::baseline;
}

std::string names_up_to(SimdLevel last) {
  std::string names;
  for (int level = 0; level <= int(last); ++level) names += (level ? ", " : "") + std::string(kNames[level]);
  return names;
}

std::string simd_level_name() { return kNames[int(simd_level())]; }

}  // namespace

SimdLevel simd_level() {
  static const SimdLevel widest = processor_level();
  const char* requested = std::getenv("MRCNN_PLUGIN_SIMD");
  if (requested == nullptr || *requested == '\0') return widest;
  for (int level = 0; level <= int(widest); ++level) {
    if (std::string(requested) == kNames[level]) return SimdLevel(level);
  }
  STD_TORCH_CHECK(false, "the environment variable MRCNN_PLUGIN_SIMD must name an instruction set that this ",
                  "processor has (", names_up_to(widest), "), got '", requested,
                  "'; unset it for the widest");
}

}  // namespace mrcnn_plugin

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CompositeExplicitAutograd, m) {
  m.impl("simd_level", TORCH_BOX(&mrcnn_plugin::simd_level_name));
}
