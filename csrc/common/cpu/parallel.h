// Threads of the CPU kernels, on top of PyTorch's own pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>

namespace mrcnn_plugin {

// Calls work(worker, task) for every task in [0, tasks). Tasks are handed out one by one, so they may differ
// in cost; `worker` < parallel_workers(tasks) tells whose scratch memory to use.
inline int64_t parallel_workers(int64_t tasks) {
  const int64_t threads = int64_t(torch::stable::get_num_threads());
  return tasks < threads ? (tasks > 1 ? tasks : 1) : threads;
}

template <typename Work>
void parallel_tasks(int64_t tasks, const Work& work) {
  if (tasks <= 0) return;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, parallel_workers(tasks), 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t task = next++; task < tasks; task = next++) work(worker, task);
    }
  });
}

}  // namespace mrcnn_plugin
