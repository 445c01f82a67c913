// Compiles the kernels of RoIAlign for every instruction set.
#include "roi_align/cpu/kernels.h"

#define MRCNN_LEVEL_FILE "roi_align/cpu/kernel_table.h"
#include "common/cpu/each_level.h"

namespace mrcnn_plugin {

template <typename T>
const RoIAlignKernels<T>& roi_align_kernels(SimdLevel level) {
  return *MRCNN_FOR_LEVEL(level, kKernels<T>);
}

template const RoIAlignKernels<float>& roi_align_kernels(SimdLevel);
template const RoIAlignKernels<double>& roi_align_kernels(SimdLevel);
template const RoIAlignKernels<Half>& roi_align_kernels(SimdLevel);
template const RoIAlignKernels<BFloat16>& roi_align_kernels(SimdLevel);

}  // namespace mrcnn_plugin
