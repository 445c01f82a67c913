// cub::BlockReduce as csrc uses it: the result is valid in thread 0 alone.
#pragma once

#include <cuda_runtime.h>

namespace cub {

template <typename T, int Threads>
class BlockReduce {
 public:
  struct TempStorage {
    T values[Threads];
  };

  explicit BlockReduce(TempStorage& storage) : storage_(storage) {}

  template <typename Merge>
  T Reduce(const T& input, Merge merge) {
    storage_.values[threadIdx.x] = input;
    __syncthreads();
    T result = storage_.values[threadIdx.x];
    for (int i = 1; threadIdx.x == 0 && i < Threads; ++i) result = merge(result, storage_.values[i]);
    return result;
  }

 private:
  TempStorage& storage_;
};

}  // namespace cub
