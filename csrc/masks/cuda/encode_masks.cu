// encode_masks on CUDA: positions at which a mask changes, then their code, without an image-sized buffer.
//
// A warp walks a column, 32 rows at a time. Columns are walked twice: to count the changes, and, once scans
// have given every column its place, to write them. Then a block per instance measures and writes the code.
// The host waits twice, for two sizes of buffers.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <tuple>

#include "common/cuda/launch.cuh"
#include "masks/checks.h"
#include "masks/paste.h"
#include "masks/rle.h"

namespace {

using namespace mrcnn_plugin;
using torch::stable::Tensor;

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int64_t kMaxBlocksPerInstance = 64;

struct EncodeParameters {
  const float* masks;
  const float* boxes;
  int32_t mask_height, mask_width, height, width;
  int32_t blocks_per_instance;
  float threshold;
  // (K, width): the number of changes of each column of a region; later those of the columns before it.
  uint32_t* column_flips;
};

__device__ MaskColumns mask_columns(const EncodeParameters& p, int64_t instance) {
  const PasteRegion region = paste_region(p.boxes + 4 * instance, p.height, p.width);
  return {region, static_cast<uint32_t>(p.height),
          static_cast<uint32_t>(p.height) * static_cast<uint32_t>(p.width)};
}

// walk_column()'s `word` for a warp: lane i looks at row y + i.
struct WarpWord {
  const EncodeParameters& p;
  const float* mask;
  const float* box;
  int32_t end;

  __device__ uint32_t operator()(int32_t x, int32_t y) const {
    const int32_t row = y + static_cast<int32_t>(threadIdx.x % kWarp);
    bool set = false;
    if (row < end) {
      const AxisSample across = axis_sample(x, box[0], box[2], p.mask_width);
      const AxisSample down = axis_sample(row, box[1], box[3], p.mask_height);
      set = sample_mask(mask, p.mask_height, p.mask_width, down, across) >= p.threshold;
    }
    return __ballot_sync(~0u, set);
  }
};

// Calls visit(instance, columns, x, word) for the columns of this warp.
template <class Visit>
__device__ void for_each_column(const EncodeParameters& p, Visit visit) {
  const int64_t instance = blockIdx.x / p.blocks_per_instance;
  const int32_t block = blockIdx.x % p.blocks_per_instance;
  const MaskColumns columns = mask_columns(p, instance);
  const WarpWord word = {p, p.masks + instance * p.mask_height * p.mask_width, p.boxes + 4 * instance,
                         columns.region.y1};
  constexpr int kWarps = kThreads / kWarp;
  for (int64_t x = columns.region.x0 + block * kWarps + static_cast<int32_t>(threadIdx.x) / kWarp;
       x < columns.region.x1; x += static_cast<int64_t>(p.blocks_per_instance) * kWarps) {
    visit(instance, columns, static_cast<int32_t>(x), word);
  }
}

__global__ void __launch_bounds__(kThreads) count_flips_kernel(EncodeParameters p) {
  for_each_column(p, [&](int64_t instance, const MaskColumns& columns, int32_t x, const WarpWord& word) {
    uint32_t flips = 0;
    walk_column(columns, x, word, [&](int32_t, uint32_t changes) { flips += __popc(changes); });
    if (threadIdx.x % kWarp == 0) p.column_flips[instance * p.width + x] = flips;
  });
}

// One block per instance: column_flips becomes its exclusive sum, flips[instance] the total.
__global__ void __launch_bounds__(kThreads) scan_columns_kernel(EncodeParameters p, int64_t* flips) {
  using Scan = cub::BlockScan<uint32_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  const int64_t instance = blockIdx.x;
  const PasteRegion region = mask_columns(p, instance).region;
  uint32_t* column_flips = p.column_flips + instance * p.width;
  uint32_t before = 0;
  for (int32_t start = region.x0; start < region.x1; start += kThreads) {
    const int32_t x = start + static_cast<int32_t>(threadIdx.x);
    const uint32_t own = x < region.x1 ? column_flips[x] : 0;
    uint32_t sum, all;
    Scan(storage).ExclusiveSum(own, sum, all);
    if (x < region.x1) column_flips[x] = before + sum;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) flips[instance] = before;
}

// One block: offsets[0..n] = 0, sizes[0], sizes[0] + sizes[1], ...
__global__ void __launch_bounds__(kThreads)
    scan_instances_kernel(const int64_t* sizes, int64_t n, int64_t* offsets) {
  using Scan = cub::BlockScan<int64_t, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  int64_t before = 0;
  for (int64_t start = 0; start < n; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    int64_t sum, all;
    Scan(storage).ExclusiveSum(i < n ? sizes[i] : 0, sum, all);
    if (i < n) offsets[i] = before + sum;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) offsets[n] = before;
}

__global__ void __launch_bounds__(kThreads)
    write_flips_kernel(EncodeParameters p, const int64_t* offsets, uint32_t* positions) {
  for_each_column(p, [&](int64_t instance, const MaskColumns& columns, int32_t x, const WarpWord& word) {
    const int lane = threadIdx.x % kWarp;
    const uint32_t first = static_cast<uint32_t>(x) * columns.height;
    uint32_t* next = positions + offsets[instance] + p.column_flips[instance * p.width + x];
    walk_column(columns, x, word, [&](int32_t y, uint32_t changes) {
      if (changes >> lane & 1u) next[__popc(changes & ((1u << lane) - 1))] = first + y + lane;
      next += __popc(changes);
    });
  });
}

__device__ RleRuns instance_runs(const EncodeParameters& p, const int64_t* offsets,
                                 const uint32_t* positions) {
  const int64_t instance = blockIdx.x;
  return {positions + offsets[instance], offsets[instance + 1] - offsets[instance],
          mask_columns(p, instance).total};
}

struct RleStats {
  int64_t bytes, area;
  RleBounds bounds;
};

struct MergeStats {
  __device__ RleStats operator()(const RleStats& a, const RleStats& b) const {
    return {a.bytes + b.bytes,
            a.area + b.area,
            {min(a.bounds.x0, b.bounds.x0), min(a.bounds.y0, b.bounds.y0), max(a.bounds.x1, b.bounds.x1),
             max(a.bounds.y1, b.bounds.y1)}};
  }
};

// One block per instance: the length of its code, its area and its box.
__global__ void __launch_bounds__(kThreads)
    measure_runs_kernel(EncodeParameters p, const int64_t* offsets, const uint32_t* positions, int64_t* bytes,
                        int64_t* areas, int64_t* boxes) {
  using Reduce = cub::BlockReduce<RleStats, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  const RleRuns runs = instance_runs(p, offsets, positions);
  RleStats stats = {0, 0, {}};
  for (int64_t run = threadIdx.x; run < runs.size(); run += kThreads) {
    stats.bytes += rle_length(runs.number(run));
    if (run % 2 == 1) {
      stats.area += runs.end(run) - runs.begin(run);
      stats.bounds.add(runs.begin(run), runs.end(run), p.height);
    }
  }
  stats = Reduce(storage).Reduce(stats, MergeStats());
  if (threadIdx.x != 0) return;
  bytes[blockIdx.x] = stats.bytes;
  areas[blockIdx.x] = stats.area;
  stats.bounds.write_xywh(boxes + 4 * static_cast<int64_t>(blockIdx.x));
}

__global__ void __launch_bounds__(kThreads)
    write_codes_kernel(EncodeParameters p, const int64_t* offsets, const uint32_t* positions,
                       const int64_t* code_offsets, uint8_t* codes) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage storage;
  const RleRuns runs = instance_runs(p, offsets, positions);
  uint8_t* code = codes + code_offsets[blockIdx.x];
  for (int64_t start = 0; start < runs.size(); start += kThreads) {
    const int64_t run = start + threadIdx.x;
    const int64_t number = run < runs.size() ? runs.number(run) : 0;
    int place, all;
    Scan(storage).ExclusiveSum(run < runs.size() ? rle_length(number) : 0, place, all);
    if (run < runs.size()) rle_write(number, code + place);
    code += all;
    __syncthreads();
  }
}

// The last of n + 1 offsets, on the host.
int64_t read_total(const int64_t* offsets, int64_t n, cudaStream_t stream) {
  int64_t total = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&total, offsets + n, sizeof(total), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return total;
}

using Tensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Tensors encode_masks(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold) {
  check_mask_inputs(masks, boxes, height, width, threshold);
  check_rle_inputs(height, width, threshold);
  using torch::headeronly::ScalarType;
  using torch::stable::new_empty;
  const torch::stable::accelerator::DeviceGuard guard(masks.get_device_index());
  const cudaStream_t stream = current_stream(masks);
  const int64_t n = masks.size(0);
  Tensor areas = new_empty(masks, {n}, ScalarType::Long);
  Tensor tight_boxes = new_empty(masks, {n, 4}, ScalarType::Long);
  Tensor sizes = new_empty(masks, {n}, ScalarType::Long);  // in changes, then in bytes
  Tensor flip_offsets = new_empty(masks, {n + 1}, ScalarType::Long);
  Tensor code_offsets = new_empty(masks, {n + 1}, ScalarType::Long);
  Tensor column_flips = new_empty(masks, {n, width}, ScalarType::Int);
  int64_t* size_data = sizes.mutable_data_ptr<int64_t>();
  int64_t* flip_offset_data = flip_offsets.mutable_data_ptr<int64_t>();
  int64_t* code_offset_data = code_offsets.mutable_data_ptr<int64_t>();

  constexpr int64_t kWarps = kThreads / kWarp;
  const int64_t blocks_per_instance =
      std::min(std::max<int64_t>((width + kWarps - 1) / kWarps, 1), kMaxBlocksPerInstance);
  const EncodeParameters p = {masks.const_data_ptr<float>(),
                              boxes.const_data_ptr<float>(),
                              static_cast<int32_t>(masks.size(1)),
                              static_cast<int32_t>(masks.size(2)),
                              static_cast<int32_t>(height),
                              static_cast<int32_t>(width),
                              static_cast<int32_t>(blocks_per_instance),
                              static_cast<float>(threshold),
                              static_cast<uint32_t*>(column_flips.mutable_data_ptr())};

  launch(count_flips_kernel, n * blocks_per_instance, kThreads, 0, stream, p);
  launch(scan_columns_kernel, n, kThreads, 0, stream, p, size_data);
  launch(scan_instances_kernel, 1, kThreads, 0, stream, size_data, n, flip_offset_data);
  const int64_t flips = read_total(flip_offset_data, n, stream);
  Tensor positions = new_empty(masks, {flips}, ScalarType::Int);
  uint32_t* position_data = static_cast<uint32_t*>(positions.mutable_data_ptr());

  launch(write_flips_kernel, n * blocks_per_instance, kThreads, 0, stream, p, flip_offset_data,
         position_data);
  launch(measure_runs_kernel, n, kThreads, 0, stream, p, flip_offset_data, position_data, size_data,
         areas.mutable_data_ptr<int64_t>(), tight_boxes.mutable_data_ptr<int64_t>());
  launch(scan_instances_kernel, 1, kThreads, 0, stream, size_data, n, code_offset_data);
  const int64_t bytes = read_total(code_offset_data, n, stream);
  Tensor counts = new_empty(masks, {bytes}, ScalarType::Byte);
  launch(write_codes_kernel, n, kThreads, 0, stream, p, flip_offset_data, position_data, code_offset_data,
         counts.mutable_data_ptr<uint8_t>());
  return {counts, code_offsets, areas, tight_boxes};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) { m.impl("encode_masks", TORCH_BOX(&encode_masks)); }
