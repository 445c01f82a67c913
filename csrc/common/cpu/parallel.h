// The queue from which the threads of a CPU kernel take their work, on top of PyTorch's own pool. Where tasks
// cost about the same, torch::stable::parallel_for alone is enough.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>

namespace mrcnn_plugin {

// How many threads share so many tasks, at least 1.
inline int64_t parallel_workers(int64_t tasks) {
  const int64_t threads = int64_t(torch::stable::get_num_threads());
  return tasks < threads ? (tasks > 1 ? tasks : 1) : threads;
}

// Calls work(state, task) for every task in [0, tasks). Tasks are handed out one by one, so they may differ
// in cost; `state` is a thread's own make_state(worker), worker < parallel_workers(tasks).
template <typename MakeState, typename Work>
void parallel_tasks(int64_t tasks, const MakeState& make_state, const Work& work) {
  if (tasks <= 0) return;
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, parallel_workers(tasks), 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      auto state = make_state(worker);
      for (int64_t task = next++; task < tasks; task = next++) work(state, task);
    }
  });
}

// The same for work(task), which needs no memory of its thread.
template <typename Work>
void parallel_tasks(int64_t tasks, const Work& work) {
  struct Nothing {};
  parallel_tasks(tasks, [](int64_t) { return Nothing(); }, [&](Nothing, int64_t task) { work(task); });
}

}  // namespace mrcnn_plugin
