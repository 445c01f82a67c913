// cub::BlockScan as csrc uses it. Like the original it needs a barrier before its storage is used again.
#pragma once

#include <cuda_runtime.h>

namespace cub {

template <typename T, int Threads>
class BlockScan {
 public:
  struct TempStorage {
    T values[Threads];
    T total;
  };

  explicit BlockScan(TempStorage& storage) : storage_(storage) {}

  void ExclusiveSum(T input, T& before, T& total) {
    storage_.values[threadIdx.x] = input;
    __syncthreads();
    if (threadIdx.x == 0) {
      T sum = 0;
      for (int i = 0; i < Threads; ++i) {
        const T value = storage_.values[i];
        storage_.values[i] = sum;
        sum += value;
      }
      storage_.total = sum;
    }
    __syncthreads();
    before = storage_.values[threadIdx.x];
    total = storage_.total;
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub
