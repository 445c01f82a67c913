// What g++ -fsanitize=thread calls at every access of compiled code to memory. ThreadSanitizer itself is not
// linked: these functions take its place.
#include "state.h"

using cuda_host::Access;
using cuda_host::check_access;
using cuda_host::check_aligned;

#define CALLER __builtin_return_address(0)

#define SIZED(bytes)                                                                                        \
  void __tsan_read##bytes(void* address) { check_aligned(address, bytes, Access::kRead, CALLER); }          \
  void __tsan_write##bytes(void* address) { check_aligned(address, bytes, Access::kWrite, CALLER); }        \
  void __tsan_unaligned_read##bytes(void* address) { check_access(address, bytes, Access::kRead, CALLER); } \
  void __tsan_unaligned_write##bytes(void* address) {                                                       \
    check_access(address, bytes, Access::kWrite, CALLER);                                                   \
  }                                                                                                         \
  void __tsan_volatile_read##bytes(void* address) { check_aligned(address, bytes, Access::kRead, CALLER); } \
  void __tsan_volatile_write##bytes(void* address) { check_aligned(address, bytes, Access::kWrite, CALLER); }

extern "C" {

SIZED(1)
SIZED(2)
SIZED(4)
SIZED(8)
SIZED(16)

void __tsan_read_range(void* address, unsigned long bytes) {
  check_access(address, bytes, Access::kRead, CALLER);
}
void __tsan_write_range(void* address, unsigned long bytes) {
  check_access(address, bytes, Access::kWrite, CALLER);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_init() {}
void __tsan_func_entry(void*) { cuda_host::trace_call(1); }
void __tsan_func_exit() { cuda_host::trace_call(-1); }
// From -fsanitize-coverage=trace-pc: a basic block is entered.
void __sanitizer_cov_trace_pc() { cuda_host::trace_block(CALLER); }

}  // extern "C"

// Atomics of the C++ library in host code: reference counts and guards of static variables.
#define ATOMIC(bits, T)                                                                                   \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                                             \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                                            \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {          \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }

extern "C" {

ATOMIC(8, unsigned char)
ATOMIC(32, unsigned int)
ATOMIC(64, unsigned long)

}  // extern "C"
