// cub::BlockScan as csrc uses it. Like the original it needs a barrier before its storage is used again.
#pragma once

#include <cuda_runtime.h>

namespace cub {

template <typename T, int Threads>
class BlockScan {
 public:
  struct TempStorage {
    T up_to[Threads];
  };

  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void ExclusiveSum(T input, T& before, T& total) {
    storage_.up_to[threadIdx.x] = input;
    __syncthreads();
    for (int i = 1; threadIdx.x == 0 && i < Threads; ++i) storage_.up_to[i] += storage_.up_to[i - 1];
    __syncthreads();
    before = threadIdx.x > 0 ? storage_.up_to[threadIdx.x - 1] : 0;
    total = storage_.up_to[Threads - 1];
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub
