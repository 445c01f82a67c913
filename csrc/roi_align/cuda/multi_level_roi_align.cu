// RoIAlign over a feature pyramid, forward: one launch for all levels and images.
#include "roi_align/cuda/forward.cuh"
#include "roi_align/cuda/host.cuh"
#include "roi_align/cuda/samples.cuh"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

// Enough blocks for a GPU of some 132 multiprocessors to even out RoIs of different sizes.
constexpr int64_t kBlocksWanted = 2048;
constexpr int64_t kThreadsWanted = 132 * 1024;

template <typename T, typename Box>
struct Forward {
  using A = Accumulator<T>;
  const CudaRoIAlignCall& call;
  T* output;
  cudaStream_t stream;

  const RoIAlignParameters& p() const { return call.parameters; }
  const Box* boxes() const { return static_cast<const Box*>(call.boxes.const_data_ptr()); }
  int64_t rois() const { return call.boxes.size(0); }
  int64_t bins() const { return int64_t(p().pooled_height) * p().pooled_width; }

  void run(bool max_pool) const {
    if (max_pool) return samples<true>();
    const BandLayout layout{
        int(tap_capacity(p().pooled_height, p().sampling_ratio, call.max_height())),
        int(tap_capacity(p().pooled_width, p().sampling_ratio, call.max_width())),
    };
    const int64_t bytes = band_bytes<A>(layout, p().pooled_height, p().pooled_width);
    // A column of sums for every tap of x, at least; more lets more channels share a pass.
    const int64_t buffer = std::max<int64_t>(4096, layout.x_capacity);
    const int64_t plane_bytes = bytes + buffer * int64_t(sizeof(A));
    const bool indexable = bins() * p().channels < INT_MAX / 2;
    if (!indexable || (p().channels_last ? bytes : plane_bytes) > kDynamicSharedLimit)
      return samples<false>();
    if (!p().channels_last) return channels_first(layout, int(buffer), plane_bytes);
    constexpr int V = 16 / sizeof(T);
    if (call.divides_into_vectors(V, sizeof(T))) return channels_last<V>(layout, bytes);
    channels_last<1>(layout, bytes);
  }

  template <int V>
  void channels_last(const BandLayout& layout, int64_t bytes) const {
    const int64_t vectors = p().channels / V;
    // Long runs of bins read the least. Few RoIs are cut finer, into more threads.
    const int64_t runs = rois() * p().pooled_height * vectors;
    const int64_t segments = std::clamp<int64_t>(kThreadsWanted / runs, 1, p().pooled_width);
    const int64_t wanted = ceil_div(p().pooled_height * segments * vectors, kForwardThreads);
    const BinLayout cut{int(std::clamp<int64_t>(wanted, 1, INT_MAX / rois())), int(segments)};
    launch(pool_channels_last<T, Box, V>, rois() * cut.parts, kForwardThreads, bytes, stream, p(), boxes(),
           layout, cut, output);
  }

  void channels_first(const BandLayout& layout, int buffer, int64_t bytes) const {
    const int64_t wanted = std::max(ceil_div(p().channels, 64),
                                    std::min(ceil_div(p().channels, 16), ceil_div(kBlocksWanted, rois())));
    const int64_t parts = std::max<int64_t>(1, std::min(wanted, INT_MAX / rois()));
    const PlaneLayout planes{int(parts), int(ceil_div(p().channels, parts)), buffer};
    launch(pool_channels_first<T, Box>, rois() * parts, kForwardThreads, bytes, stream, p(), boxes(), layout,
           planes, output);
  }

  template <bool Max>
  void samples() const {
    const int64_t elements = rois() * bins() * p().channels;
    const int64_t blocks = std::min<int64_t>(ceil_div(elements, kSampleThreads), INT_MAX);
    launch(pool_samples<T, Box, Max>, blocks, kSampleThreads, 0, stream, p(), boxes(), elements, output);
  }
};

Tensor multi_level_roi_align(std::vector<Tensor> features, Tensor boxes, std::vector<double> scales,
                             int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
                             double canonical_box_size, int64_t canonical_level, bool aligned, bool max_pool,
                             std::optional<Tensor> levels) {
  const CudaRoIAlignCall call =
      check_call({std::move(features), std::move(boxes), std::move(scales), pooled_height, pooled_width,
                  sampling_ratio, canonical_box_size, canonical_level, aligned, std::move(levels)});
  const torch::stable::accelerator::DeviceGuard guard(call.boxes.get_device_index());
  const Tensor output =
      call.empty_like_features({call.boxes.size(0), call.parameters.channels, pooled_height, pooled_width});
  if (output.numel() == 0) return output;
  dispatch_types(call, [&](auto element, auto box) {
    using T = decltype(element);
    using Box = decltype(box);
    const Forward<T, Box> forward{call, static_cast<T*>(output.mutable_data_ptr()),
                                  current_stream(call.boxes)};
    forward.run(max_pool);
  });
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  m.impl("multi_level_roi_align", TORCH_BOX(&multi_level_roi_align));
}

}  // namespace
}  // namespace mrcnn_plugin
