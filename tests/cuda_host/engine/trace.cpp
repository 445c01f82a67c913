// Costs of kernels.
#include "state.h"

namespace cuda_host {

void trace_access(unsigned, uint64_t, unsigned, Access, bool, const void*) {}
void trace_meeting(unsigned, bool) {}
void finish_block_trace() {}
void begin_grid_trace() {}
void finish_grid_trace() {}

}  // namespace cuda_host
