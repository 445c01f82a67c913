// Large results in large pages.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mrcnn_plugin {

// For a tensor that is about to be written. Fresh memory costs a page fault every 4 KiB, which takes longer
// than to compute what is written there; where the system has no larger pages to give, nothing changes.
inline void use_huge_pages(const torch::stable::Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  const uintptr_t data = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t begin = (data + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (data + uintptr_t(tensor.numel()) * tensor.element_size()) & ~(kPage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)tensor;
#endif
}

}  // namespace mrcnn_plugin
