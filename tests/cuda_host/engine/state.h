// State that the parts of the engine share. One launch runs at a time in an operating system thread.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine.h"

namespace cuda_host {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr uint64_t kMaxBlocks = 2147483647;
// Static and dynamic shared memory of a block that has not opted in to more.
constexpr uint64_t kMaxShared = 48 * 1024;

enum class State : uint8_t { kReady, kAtBarrier, kAtCollective, kDone };

// Who accessed memory, and after which barriers.
struct Stamp {
  uint32_t block = 0;
  uint16_t thread = 0;
  uint16_t warp = 0;
  uint32_t epoch = 0;       // barriers of the block passed
  uint32_t warp_epoch = 0;  // __syncwarp() calls of the warp passed
};

struct Fiber {
  State state = State::kDone;
  bool started = false;
  bool in_kernel = false;  // and not in host code that calls it
  Stamp stamp;
  Where where;  // what it waits at
  Collective collective{};
  unsigned mask = 0;
  int argument = 0;
  uint64_t value = 0;
  std::jmp_buf context;
};

enum class Order : int { kAscending, kDescending, kRandom };

struct Settings {
  Order order = Order::kAscending;
  uint64_t seed = 0;
  bool races = true;
  bool cost = false;
  uint64_t most_blocks = ~uint64_t(0);  // of a grid that are run, evenly spaced, where costs are sampled
};

struct LaunchState {
  uint64_t asked_blocks = 0, asked_threads = 0;
  uint64_t blocks = 0, threads = 0, shared_bytes = 0;  // that are run
  std::string kernel;                                  // empty until a thread has entered it
  std::string error;
  uint64_t block = 0;
  uint64_t static_bytes = 0;
  std::function<void()> thread;
};

extern Settings settings;
extern thread_local LaunchState* launch;
extern thread_local Fiber* running;
extern std::set<std::string> kernels_run;

// While the engine works for a thread: functions of the C++ library may be the instrumented copies of csrc.
class Unwatched {
 public:
  Unwatched() { running->in_kernel = false; }
  ~Unwatched() { running->in_kernel = true; }
};

// Ends the launch with an error that names kernel, block and thread. `pc`, where given, is named as a source
// line.
[[noreturn]] void fail(const std::string& message, const void* pc = nullptr);
// " (at file:line)" of an address in a kernel.
std::string source_line(const void* pc);

// Memory: what a launch may touch.
void add_tensor(const void* data, uint64_t bytes, bool writable);
void clear_tensors();
void begin_grid_memory();
void begin_block_memory();
bool on_a_stack(const volatile void* address);
bool on_stack_of(const volatile void* address, unsigned thread);
// The host writes, or copies, memory of the device.
void check_host_access(const void* address, uint64_t bytes, bool write);

// Where in shared memory an address lies, from the start of its variable; -1 where it is not shared.
int64_t shared_offset(const volatile void* address);

// Costs.
void trace_access(unsigned thread, uint64_t address, unsigned bytes, Access access, bool shared,
                  const void* pc);
void trace_meeting(unsigned thread, bool barrier);
void finish_block_trace();

void finish_grid_trace();
void trace_block(const void* pc);
void trace_call(int change);
// A line for each kernel, tab-separated; forgets them.
std::string costs_text();

}  // namespace cuda_host
