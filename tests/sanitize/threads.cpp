// PyTorch's parallel_for for this plugin's kernels, on std::thread instead of OpenMP. Preloaded, it takes the
// place of the functions of the same names in libtorch_cpu.so. ThreadSanitizer does not see how OpenMP's
// uninstrumented runtime hands work to its threads and reports every such hand-over as a race; it does see
// these.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

// More than the cores of a small machine, so that tasks are not handed out evenly.
constexpr int64_t kThreads = 7;

}  // namespace

extern "C" {

int32_t torch_get_num_threads(uint32_t* count) {
  *count = kThreads;
  return 0;
}

// The shares are those of at::parallel_for.
int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size,
                           void (*work)(int64_t, int64_t, void*), void* context) {
  if (begin >= end) return 0;
  const int64_t grains =
      (end - begin + std::max<int64_t>(grain_size, 1) - 1) / std::max<int64_t>(grain_size, 1);
  const int64_t count = std::min(kThreads, grains), share = (end - begin + count - 1) / count;
  std::atomic<bool> failed{false};
  const auto run = [&](int64_t first) {
    try {
      work(first, std::min(first + share, end), context);
    } catch (...) {
      failed = true;
    }
  };
  std::vector<std::thread> threads;
  for (int64_t first = begin + share; first < end; first += share) threads.emplace_back(run, first);
  run(begin);
  for (std::thread& thread : threads) thread.join();
  return failed;
}

}  // extern "C"
