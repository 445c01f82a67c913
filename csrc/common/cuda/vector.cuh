// Vectors of up to 16 bytes: one load or store instruction each, arithmetic in the accumulation type.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#include "common/numeric.h"

namespace mrcnn_plugin {

// The builtin type that the hardware moves in one instruction.
template <int Bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

template <typename T, int N>
struct Vector {
  using Raw = typename Word<sizeof(T) * N>::type;
  T lane[N];

  // Through the read-only cache: only for memory that the kernel does not write.
  static __device__ Vector load(const T* from) {
    const Raw raw = __ldg(reinterpret_cast<const Raw*>(from));
    Vector result;
    memcpy(&result, &raw, sizeof(raw));
    return result;
  }

  static __device__ Vector load_shared(const T* from) {
    const Raw raw = *reinterpret_cast<const Raw*>(from);
    Vector result;
    memcpy(&result, &raw, sizeof(raw));
    return result;
  }

  static __device__ Vector zero() {
    Vector result;
    memset(&result, 0, sizeof(result));
    return result;
  }

  __device__ void store(T* to) const {
    Raw raw;
    memcpy(&raw, this, sizeof(raw));
    *reinterpret_cast<Raw*>(to) = raw;
  }

  // For results that this kernel does not read again, so that they do not push the features out of L2.
  __device__ void store_streaming(T* to) const {
    Raw raw;
    memcpy(&raw, this, sizeof(raw));
    __stcs(reinterpret_cast<Raw*>(to), raw);
  }
};

template <typename T, int N, typename A>
__device__ inline Vector<T, N> rounded(const A (&values)[N]) {
  Vector<T, N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result.lane[i] = static_cast<T>(values[i]);
  return result;
}

template <typename T, int N, typename A>
__device__ inline void multiply_add(A (&sum)[N], A weight, const Vector<T, N>& value) {
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] += weight * static_cast<A>(value.lane[i]);
}

template <int N>
__device__ inline void atomic_add(double* to, const double (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) atomicAdd(to + i, values[i]);
}

// One instruction where the hardware has one, for `to` aligned to 16 bytes.
__device__ inline void atomic_add_four(float* to, float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(a, b, c, d));
#else
  atomicAdd(to, a);
  atomicAdd(to + 1, b);
  atomicAdd(to + 2, c);
  atomicAdd(to + 3, d);
#endif
}

template <int N>
__device__ inline void atomic_add(float* to, const float (&values)[N]) {
  static_assert(N == 1 || N == 4);
  if constexpr (N == 4) {
    atomic_add_four(to, values[0], values[1], values[2], values[3]);
  } else {
    atomicAdd(to, values[0]);
  }
}

}  // namespace mrcnn_plugin
