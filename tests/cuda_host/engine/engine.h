// What kernels see of the host execution: who am I, barriers, collectives of a warp, shared memory, launches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>
#include <typeinfo>

namespace cuda_host {

using Where = std::source_location;

struct Index {
  unsigned x, y, z;
};

Index thread_index();
Index block_index();
Index block_size();
Index grid_size();

enum class Access : uint8_t { kRead, kWrite, kAtomic };

// Checks one access of the running thread to memory; `pc` is an address in the kernel. On the host it is a
// no-op.
void check_access(const volatile void* address, size_t bytes, Access access, const void* pc);
// The same for one instruction, whose address must be a multiple of its size.
void check_aligned(const volatile void* address, size_t bytes, Access access, const void* pc);

enum class Collective : uint8_t { kBallot, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kSyncWarp };

// All lanes of `mask` meet here. Returns the ballot, or the `value` of the lane that `argument` chooses.
uint64_t meet_warp(Collective collective, unsigned mask, uint64_t value, int argument, const Where& where);

// All threads of the block meet here.
void meet_block(const Where& where);

// A variable of the block that runs, told apart by where it is declared and by its type.
void* shared_variable(const char* name, size_t bytes, size_t alignment, const std::type_info& type,
                      const Where& where);
void* dynamic_shared_memory();

template <typename T>
T& shared_variable(const char* name, const Where& where = Where::current()) {
  return *static_cast<T*>(shared_variable(name, sizeof(T), alignof(T), typeid(T), where));
}

// The first statement of every kernel. max_threads: what __launch_bounds__ promises, 0 where it says nothing.
void enter_kernel(const char* function, int64_t max_threads);

// kernel<<<blocks, threads, shared bytes, stream>>>(arguments...).
void run_grid(uint64_t blocks, uint64_t threads, uint64_t shared_bytes, const std::function<void()>& thread);

struct Launch {
  uint64_t blocks, threads, shared_bytes;

  Launch(uint64_t blocks, uint64_t threads, uint64_t shared_bytes = 0, const void* = nullptr)
      : blocks(blocks), threads(threads), shared_bytes(shared_bytes) {}

  template <typename... Parameters, typename... Arguments>
  void operator()(void (*kernel)(Parameters...), const Arguments&... arguments) const {
    run_grid(blocks, threads, shared_bytes, [&] { kernel(arguments...); });
  }
};

}  // namespace cuda_host
