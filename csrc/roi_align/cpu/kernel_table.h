// The kernels of one instruction set; included by common/cpu/each_level.h.
#include "common/cpu/simd.h"
#include "roi_align/cpu/load_store.h"
#include "roi_align/cpu/nchw.h"
#include "roi_align/cpu/nhwc.h"

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

template <typename T>
constexpr RoIAlignKernels<T> kKernels{
    Register<Accumulator<T>>::kLanes, &pool_nchw<T>, &spread_nchw<T>, &pool_nhwc<T>, &spread_nhwc_row<T>,
    &convert<Accumulator<T>, T>};

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
