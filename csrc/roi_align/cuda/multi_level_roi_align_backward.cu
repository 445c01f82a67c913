// RoIAlign over a feature pyramid, backward.
#include "roi_align/cuda/backward_channels_first.cuh"
#include "roi_align/cuda/backward_channels_last.cuh"
#include "roi_align/cuda/backward_samples.cuh"
#include "roi_align/cuda/host.cuh"

namespace mrcnn_plugin {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T, typename Box>
struct Backward {
  using A = Accumulator<T>;
  const CudaRoIAlignCall& call;
  const std::vector<Tensor>& gradients;
  const T* pooled_grad;
  void* table_memory;
  cudaStream_t stream;

  const RoIAlignParameters& p() const { return call.parameters; }
  const Box* boxes() const { return static_cast<const Box*>(call.boxes.const_data_ptr()); }
  int64_t rois() const { return call.boxes.size(0); }
  RoITable table() const { return roi_table(table_memory, rois()); }

  Gradients targets() const {
    Gradients result{};
    for (size_t level = 0; level < gradients.size(); ++level) {
      result.maps[level] = gradients[level].mutable_data_ptr();
    }
    return result;
  }

  // Channels-last channels that a thread moves at once where every pixel is aligned to that. No more than
  // four: then a patch has as many pixels as registers can sum.
  static constexpr int kVector = std::min<int>(4, 16 / sizeof(T));

  bool vectors() const {
    constexpr size_t kBytes = kVector * sizeof(T);
    bool aligned = p().channels % kVector == 0 && reinterpret_cast<uintptr_t>(pooled_grad) % kBytes == 0;
    for (const Tensor& map : gradients) {
      aligned = aligned && reinterpret_cast<uintptr_t>(map.data_ptr()) % kBytes == 0;
    }
    return aligned;
  }

  void run(bool max_pool, bool deterministic) const {
    launch(fill_roi_table<Box>, ceil_div(rois(), kTileThreads), kTileThreads, 0, stream, p(), boxes(),
           table());
    if (max_pool) return samples<true>();
    const bool indexable = int64_t(p().pooled_height) * p().pooled_width * p().channels < INT_MAX / 2;
    // The largest tile that either layout uses.
    const bool fits = tile_weight_bytes<A>(p(), 64, 64) <= kDynamicSharedLimit;
    if (!indexable || !fits) return samples<false>();
    // A scatter would have to sum half-precision gradients in a float copy of the maps, and zeroing, adding
    // to and rounding that moves more memory than the whole gather does.
    const bool gather = deterministic || sizeof(T) == 2;
    if (!gather) clear();
    if (!p().channels_last) {
      const int64_t bytes = tile_weight_bytes<A>(p(), kPlaneRows, kPlaneColumns) + staged_bytes<T>(p());
      return bytes <= kDynamicSharedLimit ? channels_first<true>(gather) : channels_first<false>(gather);
    }
    if (vectors()) return channels_last<kVector>(gather);
    channels_last<1>(gather);
  }

  void clear() const {
    for (const Tensor& map : gradients) {
      STD_CUDA_CHECK(cudaMemsetAsync(map.mutable_data_ptr(), 0, map.numel() * sizeof(T), stream));
    }
  }

  static int batch_of(int64_t bytes_each) {
    return int(std::min<int64_t>(kTileBatch, kDynamicSharedLimit / bytes_each));
  }

  // Blocks that share the tiles of a RoI, so that a large RoI does not keep one block busy for long.
  RoISplit split(int64_t chunks) const {
    const int64_t parts =
        std::max<int64_t>(1, std::min<int64_t>(4, INT_MAX / std::max<int64_t>(1, rois() * chunks)));
    return {int(chunks), int(parts)};
  }

  template <int V>
  void channels_last(bool gather) const {
    const int64_t vectors = ceil_div(p().channels, V);
    SegmentLayout layout{32, 1};
    while (layout.lanes / 2 >= vectors) layout.lanes /= 2;
    const int segments = kTileThreads / layout.lanes;
    const auto rows = [&] { return segments / layout.segments * kSegmentRows; };
    const auto columns = [&] { return layout.segments * kSegmentColumns; };
    while (2 * columns() <= rows()) layout.segments *= 2;
    const int64_t chunks = ceil_div(vectors, layout.lanes);
    const TileGrid grid = tile_grid(p(), rows(), columns(), chunks);
    const int64_t each = tile_weight_bytes<A>(p(), rows(), columns());
    if (gather) {
      const int batch = batch_of(each);
      launch(gather_channels_last<T, V>, grid.blocks(p().levels), kTileThreads, batch * each, stream, p(),
             grid, targets(), table(), layout, batch, pooled_grad);
    } else if constexpr (sizeof(T) > 2) {
      const RoISplit parts = split(chunks);
      launch(scatter_channels_last<T, V>, rois() * parts.chunks * parts.parts, kTileThreads, each, stream,
             p(), grid, targets(), table(), layout, parts, pooled_grad);
    }
  }

  template <bool Staged>
  void channels_first(bool gather) const {
    const int64_t chunks = ceil_div(p().channels, kPlaneChannels);
    const int64_t staged = Staged ? staged_bytes<T>(p()) : 0;
    const int64_t each = tile_weight_bytes<A>(p(), kPlaneRows, kPlaneColumns) + staged;
    if (gather) {
      const TileGrid grid = tile_grid(p(), kPlaneRows, kPlaneColumns, chunks);
      const int batch = batch_of(each);
      launch(gather_channels_first<T, Staged>, grid.blocks(p().levels), kTileThreads, batch * each, stream,
             p(), grid, targets(), table(), batch, pooled_grad);
    } else if constexpr (sizeof(T) > 2) {
      const RoISplit parts = split(chunks);
      launch(scatter_channels_first<T, Staged>, rois() * parts.chunks * parts.parts, kTileThreads, each,
             stream, p(), targets(), table(), parts, pooled_grad);
    }
  }

  template <bool Max>
  void samples() const {
    const TileGrid grid =
        tile_grid(p(), kSampleTileRows, sample_tile_columns<A>(), ceil_div(p().channels, kTileThreads));
    launch(gather_samples<T, Box, Max>, grid.blocks(p().levels), kTileThreads, sample_tile_bytes<A>(), stream,
           p(), grid, targets(), table(), boxes(), pooled_grad);
  }
};

std::vector<Tensor> multi_level_roi_align_backward(Tensor grad_output, std::vector<Tensor> features,
                                                   Tensor boxes, std::vector<double> scales,
                                                   int64_t sampling_ratio, double canonical_box_size,
                                                   int64_t canonical_level, bool aligned, bool max_pool,
                                                   bool deterministic, std::optional<Tensor> levels) {
  check_pooled_grad_dim(grad_output);
  const RoIAlignArguments arguments{std::move(features), std::move(boxes),    std::move(scales),
                                    grad_output.size(2), grad_output.size(3), sampling_ratio,
                                    canonical_box_size,  canonical_level,     aligned,
                                    std::move(levels)};
  const CudaRoIAlignCall call = check_call(arguments);
  check_pooled_grad(grad_output, arguments);
  const torch::stable::accelerator::DeviceGuard guard(call.boxes.get_device_index());
  std::vector<Tensor> gradients;
  for (const Tensor& map : call.features) {
    gradients.push_back(call.empty_like_features({map.size(0), map.size(1), map.size(2), map.size(3)}));
  }
  if (gradients[0].size(0) == 0 || gradients[0].size(1) == 0) return gradients;
  const Tensor pooled = torch::stable::contiguous(grad_output, call.format());
  const std::vector<int64_t> bytes{std::max<int64_t>(roi_table_bytes(call.boxes.size(0)), 1)};
  const Tensor table =
      torch::stable::empty({bytes.data(), 1}, ScalarType::Byte, std::nullopt, pooled.device());
  dispatch_types(call, [&](auto element, auto box) {
    using T = decltype(element);
    using Box = decltype(box);
    const Backward<T, Box> backward{call, gradients, static_cast<const T*>(pooled.const_data_ptr()),
                                    table.mutable_data_ptr(), current_stream(call.boxes)};
    backward.run(max_pool, deterministic);
  });
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  m.impl("multi_level_roi_align_backward", TORCH_BOX(&multi_level_roi_align_backward));
}

}  // namespace
}  // namespace mrcnn_plugin
