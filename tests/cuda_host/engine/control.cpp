// The engine's switches, for Python.
#include <string>

#include "state.h"

using namespace cuda_host;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void cuda_host_set(int order, uint64_t seed, int races, int cost, uint64_t most_blocks) {
  settings = {Order(order), seed, races != 0, cost != 0, most_blocks};
}

// Forgets the tensors of earlier calls.
EXPORT void cuda_host_begin_call() { clear_tensors(); }

// The kernels that have run, with their template arguments, one a line. The text lives until the next call.
EXPORT const char* cuda_host_kernels() {
  static std::string text;
  text.clear();
  for (const std::string& kernel : kernels_run) text += kernel + "\n";
  return text.c_str();
}

// The costs counted since the last call, a line a kernel.
EXPORT const char* cuda_host_costs() {
  static std::string text;
  text = costs_text();
  return text.c_str();
}
