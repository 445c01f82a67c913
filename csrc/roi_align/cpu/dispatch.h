// The table of one instruction set's kernels; see simd.h for how this file is included.

namespace mrcnn_plugin::MRCNN_SIMD {

template <typename T>
constexpr RoIAlignKernels<T> kKernels{
    Register<Accumulate<T>>::kLanes, &pool_nchw<T>, &spread_nchw<T>, &pool_nhwc<T>, &spread_nhwc_row<T>,
    &convert<Accumulate<T>, T>};

}  // namespace mrcnn_plugin::MRCNN_SIMD
