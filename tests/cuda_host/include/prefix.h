// Included before every CUDA source. PyTorch's and the standard headers come first and see a plain C++
// compiler; only the sources after them see one that compiles for a CUDA device.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

// The ops of this copy live in a namespace of their own, for tensors on the CPU.
#undef STABLE_TORCH_LIBRARY
#undef STABLE_TORCH_LIBRARY_IMPL
#define CUDA_HOST_DEFINE(ns, m)                                                                       \
  static void cuda_host_define(torch::stable::detail::StableLibrary&);                                \
  static const torch::stable::detail::StableTorchLibraryInit cuda_host_definition(                    \
      torch::stable::detail::StableLibrary::Kind::DEF, &cuda_host_define, C10_STRINGIZE(ns), nullptr, \
      __FILE__, __LINE__);                                                                            \
  void cuda_host_define(torch::stable::detail::StableLibrary& m)
#define CUDA_HOST_IMPLEMENT(ns, m)                                                                      \
  static void cuda_host_implement(torch::stable::detail::StableLibrary&);                               \
  static const torch::stable::detail::StableTorchLibraryInit cuda_host_implementation(                  \
      torch::stable::detail::StableLibrary::Kind::IMPL, &cuda_host_implement, C10_STRINGIZE(ns), "CPU", \
      __FILE__, __LINE__);                                                                              \
  void cuda_host_implement(torch::stable::detail::StableLibrary& m)
#define STABLE_TORCH_LIBRARY(ns, m) CUDA_HOST_DEFINE(CUDA_HOST_NAMESPACE, m)
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) CUDA_HOST_IMPLEMENT(CUDA_HOST_NAMESPACE, m)

#define __CUDACC__ 1
#define __CUDA_ARCH__ CUDA_HOST_ARCH
