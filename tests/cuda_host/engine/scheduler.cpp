// Threads of a block are fibers. A warp runs until its lanes wait; lanes meet at collectives, warps at
// barriers.
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "state.h"

namespace cuda_host {

Settings settings;
thread_local LaunchState* launch = nullptr;
thread_local Fiber* running = nullptr;
std::set<std::string> kernels_run;

namespace {

constexpr size_t kStackBytes = 256 * 1024;

struct Fibers {
  std::vector<Fiber> all{kMaxThreads};
  char* stacks;

  Fibers() {
    void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("cuda_host: no memory for the stacks of threads");
    stacks = static_cast<char*>(memory);
  }
  ~Fibers() { munmap(stacks, kStackBytes * kMaxThreads); }
};

thread_local Fibers fibers;
thread_local std::jmp_buf scheduler;

[[noreturn]] void leave_fiber() { std::longjmp(scheduler, 1); }

void wait() {
  if (setjmp(running->context) == 0) leave_fiber();
}

// Runs one thread of one block after another, for as long as the process lives.
void fiber_main() {
  for (;;) {
    launch->thread();
    running->in_kernel = false;
    running->state = State::kDone;
    wait();
  }
}

void resume(unsigned thread) {
  Fiber& fiber = fibers.all[thread];
  if (setjmp(scheduler) == 0) {
    running = &fiber;
    if (fiber.started) std::longjmp(fiber.context, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fibers.stacks + kStackBytes * thread;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    setcontext(&context);
  }
  running = nullptr;
  if (!launch->error.empty()) throw std::runtime_error(launch->error);
}

std::string at(const Where& where) {
  return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string describe(const Fiber& fiber, const std::string& message) {
  return "CUDA on the host: " + launch->kernel + ", block " + std::to_string(launch->block) + ", thread " +
         std::to_string(fiber.stamp.thread) + ": " + message;
}

// Ends the launch on behalf of a thread that waits.
[[noreturn]] void fail_for(const Fiber& fiber, const std::string& message) {
  throw std::runtime_error(describe(fiber, message));
}

const char* name_of(State state) {
  switch (state) {
    case State::kAtBarrier:
      return "waits at a barrier";
    case State::kAtCollective:
      return "waits at another collective or with another mask";
    case State::kDone:
      return "has returned from the kernel";
    default:
      return "does not exist in this block";
  }
}

class BlockRun {
 public:
  explicit BlockRun(std::mt19937_64& random) : random_(random), threads_(unsigned(launch->threads)) {
    warps_ = (threads_ + kWarp - 1) / kWarp;
    for (unsigned thread = 0; thread < threads_; ++thread) {
      Fiber& fiber = fibers.all[thread];
      fiber.state = State::kReady;
      fiber.in_kernel = false;
      fiber.stamp = {uint32_t(launch->block), uint16_t(thread), uint16_t(thread / kWarp), 0, 0};
    }
  }

  void run() {
    for (;;) {
      const std::vector<unsigned> order = ordered(warps_);
      bool progress = false;
      for (const unsigned warp : order) progress = advance(warp) || progress;
      if (!progress && !release_barrier()) return;
    }
  }

 private:
  std::vector<unsigned> ordered(unsigned count) {
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0u);
    if (settings.order == Order::kDescending) std::reverse(order.begin(), order.end());
    if (settings.order == Order::kRandom) std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  // Runs the lanes of a warp; in random order only until they have met once, so that warps interleave.
  bool advance(unsigned warp) {
    const unsigned first = warp * kWarp, lanes = std::min(kWarp, threads_ - first);
    bool progress = false;
    for (;;) {
      bool ran = false;
      for (const unsigned lane : ordered(lanes)) {
        if (fibers.all[first + lane].state != State::kReady) continue;
        resume(first + lane);
        ran = true;
      }
      if (!ran) return progress;
      progress = true;
      meet_lanes(first, lanes);
      if (settings.order == Order::kRandom) return true;
    }
  }

  // Lets lanes that wait for each other go on; none of the warp's lanes is ready.
  void meet_lanes(unsigned first, unsigned lanes) {
    for (unsigned lane = 0; lane < lanes; ++lane) {
      Fiber& fiber = fibers.all[first + lane];
      if (fiber.state == State::kAtCollective) meet(first, lanes, lane);
    }
  }

  void meet(unsigned first, unsigned lanes, unsigned lane) {
    Fiber& fiber = fibers.all[first + lane];
    if (!(fiber.mask >> lane & 1)) {
      fail_for(fiber, "its own lane is not in the mask of the collective at " + at(fiber.where));
    }
    uint64_t values[kWarp] = {};
    for (unsigned other = 0; other < kWarp; ++other) {
      if (!(fiber.mask >> other & 1)) continue;
      if (other < lanes) {
        const Fiber& peer = fibers.all[first + other];
        values[other] = peer.value;
        if (peer.state == State::kAtCollective && peer.mask == fiber.mask &&
            peer.collective == fiber.collective && same_place(peer.where, fiber.where)) {
          continue;
        }
      }
      const State state = other < lanes ? fibers.all[first + other].state : State::kReady;
      fail_for(fiber, "the collective at " + at(fiber.where) + " waits for lane " + std::to_string(other) +
                          " of its warp, which " + name_of(state));
    }
    unsigned ballot = 0;
    for (unsigned other = 0; other < kWarp; ++other) ballot |= unsigned(values[other] != 0) << other;
    const unsigned mask = fiber.mask;
    const Collective collective = fiber.collective;
    for (unsigned other = 0; other < lanes; ++other) {
      if (!(mask >> other & 1)) continue;
      Fiber& peer = fibers.all[first + other];
      peer.state = State::kReady;
      if (collective == Collective::kSyncWarp) ++peer.stamp.warp_epoch;
      if (collective == Collective::kBallot) peer.value = ballot;
      if (collective >= Collective::kShuffle && collective <= Collective::kShuffleXor) {
        peer.value = values[source(peer, other)];
      }
    }
  }

  // The lane that a shuffle reads.
  unsigned source(Fiber& fiber, unsigned lane) {
    int64_t from = fiber.argument;
    if (fiber.collective == Collective::kShuffleUp) from = int64_t(lane) - fiber.argument;
    if (fiber.collective == Collective::kShuffleDown) from = int64_t(lane) + fiber.argument;
    if (fiber.collective == Collective::kShuffleXor) from = lane ^ unsigned(fiber.argument);
    if (fiber.collective == Collective::kShuffle) from %= kWarp;
    if (from < 0 || from >= int64_t(kWarp)) return lane;
    if (!(fiber.mask >> from & 1)) {
      fail_for(fiber, "the shuffle at " + at(fiber.where) + " reads lane " + std::to_string(from) +
                          ", which is not in its mask");
    }
    return unsigned(from);
  }

  // No lane can run. Whether the block goes on: false where it has ended.
  bool release_barrier() {
    Fiber* waiting = nullptr;
    for (unsigned thread = 0; thread < threads_ && !waiting; ++thread) {
      if (fibers.all[thread].state == State::kAtBarrier) waiting = &fibers.all[thread];
    }
    if (!waiting) return false;
    for (unsigned thread = 0; thread < threads_; ++thread) {
      Fiber& fiber = fibers.all[thread];
      if (fiber.state == State::kDone) {
        fail_for(*waiting, "the barrier at " + at(waiting->where) + " is never reached by thread " +
                               std::to_string(thread) + ", which has returned from the kernel");
      }
      if (!same_place(fiber.where, waiting->where)) {
        fail_for(*waiting, "the barrier at " + at(waiting->where) + " is never reached by thread " +
                               std::to_string(thread) + ", which waits at the one at " + at(fiber.where));
      }
    }
    for (unsigned thread = 0; thread < threads_; ++thread) {
      fibers.all[thread].state = State::kReady;
      ++fibers.all[thread].stamp.epoch;
    }
    return true;
  }

  std::mt19937_64& random_;
  unsigned threads_, warps_;
};

std::vector<uint64_t> block_order(std::mt19937_64& random) {
  std::vector<uint64_t> order;
  // An odd step, so that it does not always meet the same chunk of channels.
  const uint64_t all = launch->blocks, most = settings.most_blocks;
  const uint64_t stride = all <= most ? 1 : ((all + most - 1) / most) | 1;
  for (uint64_t block = 0; block < launch->blocks; block += stride) order.push_back(block);
  if (settings.order == Order::kDescending) std::reverse(order.begin(), order.end());
  if (settings.order == Order::kRandom) std::shuffle(order.begin(), order.end(), random);
  return order;
}

void check_grid() {
  const auto limit = [](uint64_t value, uint64_t most, const char* what) {
    if (value < 1 || value > most) {
      fail(std::string("a launch has 1 to ") + std::to_string(most) + " " + what + ", this one asks for " +
           std::to_string(value));
    }
  };
  limit(launch->asked_blocks, kMaxBlocks, "blocks");
  limit(launch->asked_threads, kMaxThreads, "threads a block");
  if (launch->shared_bytes > kMaxShared) {
    fail("a block has at most " + std::to_string(kMaxShared) +
         " bytes of shared memory without opting in to more, this launch asks for " +
         std::to_string(launch->shared_bytes));
  }
}

std::string short_name(const char* function) {
  const std::string whole(function);
  const size_t end = whole.find('(');
  const size_t begin = whole.find_last_of(": ", end);
  const size_t with = whole.find("[with ");
  const std::string name = whole.substr(begin + 1, end - begin - 1);
  return with == std::string::npos ? name : name + " " + whole.substr(with);
}

}  // namespace

bool on_a_stack(const volatile void* address) {
  const char* p = const_cast<const char*>(static_cast<const volatile char*>(address));
  return p >= fibers.stacks && p < fibers.stacks + kStackBytes * kMaxThreads;
}

bool on_stack_of(const volatile void* address, unsigned thread) {
  const char* p = const_cast<const char*>(static_cast<const volatile char*>(address));
  return p >= fibers.stacks + kStackBytes * thread && p < fibers.stacks + kStackBytes * (thread + 1);
}

void enter_kernel(const char* function, int64_t max_threads) {
  if (launch->kernel.empty()) {
    launch->kernel = short_name(function);
    kernels_run.insert(launch->kernel);
    check_grid();
    if (max_threads > 0 && launch->threads > uint64_t(max_threads)) {
      fail("__launch_bounds__ promises at most " + std::to_string(max_threads) + " threads, the launch has " +
           std::to_string(launch->threads));
    }
  }
  running->in_kernel = true;
}

void run_grid(uint64_t blocks, uint64_t threads, uint64_t shared_bytes, const std::function<void()>& thread) {
  if (launch) throw std::runtime_error("cuda_host: a launch inside a launch");
  const bool legal = blocks >= 1 && blocks <= kMaxBlocks && threads >= 1 && threads <= kMaxThreads;
  LaunchState state;
  state.asked_blocks = blocks;
  state.asked_threads = threads;
  // A launch outside the limits has one thread, which finds out in enter_kernel(), where the kernel has a
  // name.
  state.blocks = legal ? blocks : 1;
  state.threads = legal ? threads : 1;
  state.shared_bytes = shared_bytes;
  state.thread = thread;
  launch = &state;
  struct Reset {
    ~Reset() { launch = nullptr; }
  } reset;
  begin_grid_memory();
  try {
    std::mt19937_64 random(settings.seed);
    for (const uint64_t block : block_order(random)) {
      state.block = block;
      begin_block_memory();
      BlockRun(random).run();
      finish_block_trace();
    }
  } catch (...) {
    // Threads of the block were left in the middle: all start on a fresh stack again.
    for (Fiber& fiber : fibers.all) fiber.started = false;
    throw;
  }
  finish_grid_trace();
}

void fail(const std::string& message, const void* pc) {
  launch->error = describe(*running, message + (pc ? source_line(pc) : std::string()));
  leave_fiber();
}

void meet_block(const Where& where) {
  trace_meeting(running->stamp.thread, true);
  running->where = where;
  running->state = State::kAtBarrier;
  wait();
}

uint64_t meet_warp(Collective collective, unsigned mask, uint64_t value, int argument, const Where& where) {
  trace_meeting(running->stamp.thread, false);
  running->where = where;
  running->collective = collective;
  running->mask = mask;
  running->value = value;
  running->argument = argument;
  running->state = State::kAtCollective;
  wait();
  return running->value;
}

Index thread_index() { return {running->stamp.thread, 0, 0}; }
Index block_index() { return {unsigned(launch->block), 0, 0}; }
Index block_size() { return {unsigned(launch->threads), 1, 1}; }
Index grid_size() { return {unsigned(launch->blocks), 1, 1}; }

}  // namespace cuda_host
