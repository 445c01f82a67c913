// Marks of inlined functions: of those that C++ and CUDA kernels share, and of C++ ones.
#pragma once

// Inlined always, so that it is compiled for the instruction set of its caller (common/cpu/each_level.h).
#define MRCNN_INLINE inline __attribute__((always_inline))

// MRCNN_HOST_DEVICE is inlined where the compiler finds it worthwhile, MRCNN_HOST_DEVICE_INLINE always.
#if defined(__CUDACC__)
#define MRCNN_HOST_DEVICE __host__ __device__ inline
#define MRCNN_HOST_DEVICE_INLINE __host__ __device__ __forceinline__
#else
#define MRCNN_HOST_DEVICE inline
#define MRCNN_HOST_DEVICE_INLINE MRCNN_INLINE
#endif
