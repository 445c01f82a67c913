// The part of the CUDA runtime and of its device functions that csrc uses, for execution on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

// What source.py makes of `__shared__ T name[extent];`.
#define CUDA_HOST_SHARED(name, extent, ...) \
  using name##_type = __VA_ARGS__;          \
  using name##_extent = name##_type extent; \
  name##_extent& name = cuda_host::shared_variable<name##_extent>(#name)

// A function that reports its own accesses, with its caller's address.
#define CUDA_HOST_UNWATCHED __attribute__((noinline, no_sanitize("thread"), no_sanitize_coverage))

#define threadIdx (cuda_host::thread_index())
#define blockIdx (cuda_host::block_index())
#define blockDim (cuda_host::block_size())
#define gridDim (cuda_host::grid_size())

namespace cuda_host {

#define CUDA_HOST_CALLER __builtin_return_address(0)

// A vector type: copied from or to memory, it is one access of its whole size.
template <typename Value>
struct Whole : Value {
  Whole() = default;
  explicit Whole(const Value& value) : Value(value) {}
  CUDA_HOST_UNWATCHED Whole(const Whole& from) : Value(from) {
    check_aligned(&from, sizeof(Value), Access::kRead, CUDA_HOST_CALLER);
  }
  CUDA_HOST_UNWATCHED Whole& operator=(const Whole& from) {
    check_aligned(&from, sizeof(Value), Access::kRead, CUDA_HOST_CALLER);
    check_aligned(this, sizeof(Value), Access::kWrite, CUDA_HOST_CALLER);
    Value::operator=(from);
    return *this;
  }
};

struct alignas(8) Int2 {
  int x, y;
};
struct alignas(8) UInt2 {
  unsigned x, y;
};
struct alignas(16) UInt4 {
  unsigned x, y, z, w;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};

}  // namespace cuda_host

using int2 = cuda_host::Whole<cuda_host::Int2>;
using uint2 = cuda_host::Whole<cuda_host::UInt2>;
using uint4 = cuda_host::Whole<cuda_host::UInt4>;
using float4 = cuda_host::Whole<cuda_host::Float4>;

inline int2 make_int2(int x, int y) { return int2(cuda_host::Int2{x, y}); }
inline float4 make_float4(float x, float y, float z, float w) {
  return float4(cuda_host::Float4{x, y, z, w});
}

// Loads and stores with a hint for the caches: one access each.
template <typename T>
CUDA_HOST_UNWATCHED T __ldg(const T* from) {
  cuda_host::check_aligned(from, sizeof(T), cuda_host::Access::kRead, CUDA_HOST_CALLER);
  T value;
  std::memcpy(static_cast<void*>(&value), from, sizeof(T));
  return value;
}

template <typename T>
CUDA_HOST_UNWATCHED void __stcs(T* to, const T& value) {
  cuda_host::check_aligned(to, sizeof(T), cuda_host::Access::kWrite, CUDA_HOST_CALLER);
  std::memcpy(static_cast<void*>(to), &value, sizeof(T));
}

namespace cuda_host {

template <typename T, typename Change>
CUDA_HOST_UNWATCHED T atomic(T* at, const void* pc, const Change& change) {
  check_aligned(at, sizeof(T), Access::kAtomic, pc);
  T old;
  std::memcpy(static_cast<void*>(&old), at, sizeof(T));
  const T changed = change(old);
  std::memcpy(static_cast<void*>(at), &changed, sizeof(T));
  return old;
}

}  // namespace cuda_host

#define CUDA_HOST_ATOMIC(name, T, expression)                                               \
  CUDA_HOST_UNWATCHED inline T name(T* at, T value) {                                       \
    return cuda_host::atomic(at, CUDA_HOST_CALLER, [&](T old) -> T { return expression; }); \
  }

CUDA_HOST_ATOMIC(atomicAdd, int, old + value)
CUDA_HOST_ATOMIC(atomicAdd, unsigned, old + value)
CUDA_HOST_ATOMIC(atomicAdd, unsigned long long, old + value)
CUDA_HOST_ATOMIC(atomicAdd, float, old + value)
CUDA_HOST_ATOMIC(atomicAdd, double, old + value)
CUDA_HOST_ATOMIC(atomicMax, unsigned, old > value ? old : value)
CUDA_HOST_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
CUDA_HOST_ATOMIC(atomicXor, unsigned, old ^ value)

CUDA_HOST_UNWATCHED inline float4 atomicAdd(float4* at, float4 value) {
  return cuda_host::atomic(at, CUDA_HOST_CALLER, [&](const float4& old) {
    return make_float4(old.x + value.x, old.y + value.y, old.z + value.z, old.w + value.w);
  });
}
// The kernels' 64-bit integers are uint64_t, which is another type of the same size on the host.
inline uint64_t atomicMax(uint64_t* at, unsigned long long value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(at), value);
}

// Rounded on their own: the compiler cannot see through the empty statement, and so fuses nothing with them.
namespace cuda_host {

template <typename T>
inline T opaque(T value) {
  asm("" : "+m"(value));
  return value;
}

}  // namespace cuda_host

inline float __fmul_rn(float a, float b) { return cuda_host::opaque(a * b); }
inline double __dmul_rn(double a, double b) { return cuda_host::opaque(a * b); }
inline double __dadd_rn(double a, double b) { return cuda_host::opaque(a) + b; }
inline float __fadd_rn(float a, float b) { return cuda_host::opaque(a) + b; }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }

template <typename T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
inline T max(T a, T b) {
  return a < b ? b : a;
}

inline void __syncthreads(const cuda_host::Where& where = cuda_host::Where::current()) {
  cuda_host::meet_block(where);
}
inline void __syncwarp(unsigned mask = ~0u, const cuda_host::Where& where = cuda_host::Where::current()) {
  cuda_host::meet_warp(cuda_host::Collective::kSyncWarp, mask, 0, 0, where);
}
inline unsigned __ballot_sync(unsigned mask, bool vote,
                              const cuda_host::Where& where = cuda_host::Where::current()) {
  return unsigned(cuda_host::meet_warp(cuda_host::Collective::kBallot, mask, vote, 0, where));
}

namespace cuda_host {

template <typename T>
inline T shuffle(Collective collective, unsigned mask, T value, int argument, const Where& where) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = meet_warp(collective, mask, bits, argument, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_host

#define CUDA_HOST_SHUFFLE(name, collective)                                                     \
  template <typename T>                                                                         \
  inline T name(unsigned mask, T value, int argument,                                           \
                const cuda_host::Where& where = cuda_host::Where::current()) {                  \
    return cuda_host::shuffle(cuda_host::Collective::collective, mask, value, argument, where); \
  }

CUDA_HOST_SHUFFLE(__shfl_sync, kShuffle)
CUDA_HOST_SHUFFLE(__shfl_up_sync, kShuffleUp)
CUDA_HOST_SHUFFLE(__shfl_down_sync, kShuffleDown)
CUDA_HOST_SHUFFLE(__shfl_xor_sync, kShuffleXor)

// The runtime. Work on a stream is done when the call returns.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
