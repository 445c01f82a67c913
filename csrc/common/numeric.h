// Arithmetic that the kernels of several ops share, on every device.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/host_device.h"

namespace mrcnn_plugin {

// Half precision numbers are summed in single precision.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// a / b rounded up, for a >= 0 and b > 0.
MRCNN_HOST_DEVICE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// a * b, rounded before anything is added to it. nvcc would fuse the two, and then results could differ
// between the devices, and between two copies of a kernel's code. On the CPU this holds in code that is
// compiled for no instruction set with fused multiply-adds.
template <typename F>
MRCNN_HOST_DEVICE F rounded_product(F a, F b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(F) == sizeof(float)) {
    return __fmul_rn(a, b);
  } else {
    return __dmul_rn(a, b);
  }
#else
  return a * b;
#endif
}

}  // namespace mrcnn_plugin
