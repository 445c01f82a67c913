// rasterize_polygons on CUDA: a block for 32 mask columns of an instance; a machine word holds a row of them.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/cuda/launch.cuh"
#include "polygons/polygon.h"

namespace mrcnn_plugin {
namespace {

using namespace polygon;
using torch::stable::Tensor;

constexpr int kThreads = 64;
constexpr int kWarp = 32;
constexpr int kColumns = 32;
static_assert(2 * sizeof(unsigned int) * kMaxMaskSize <= kDynamicSharedLimit);

struct Polygons {
  const double* coords;
  const int64_t* polygon_offsets;
  const int64_t* instance_offsets;
  int64_t num_coords, num_polygons;

  // Offsets are on the device, where the host cannot check them: clamped, they read nothing out of bounds.
  __device__ static int64_t clamp(int64_t value, int64_t limit) {
    return value < 0 ? 0 : (value < limit ? value : limit);
  }
  __device__ int64_t first_polygon(int64_t instance) const {
    return clamp(instance_offsets[instance], num_polygons);
  }
  __device__ int64_t first_coord(int64_t polygon) const {
    return clamp(polygon_offsets[polygon], num_coords);
  }
};

// Flips, with all threads, the bit of every step of the outline over the middle of columns [begin, end).
__device__ void add_outline(const double* xy, int64_t points, const Frame& frame, int begin, int end,
                            int mask_size, unsigned int* steps) {
  for (int64_t i = threadIdx.x; i < points; i += kThreads) {
    const int64_t j = i == 0 ? points - 1 : i - 1;
    const int64_t x0 = frame.fine_x(xy[2 * j]), x1 = frame.fine_x(xy[2 * i]);
    if (x0 == x1) continue;
    const Edge edge(x0, frame.fine_y(xy[2 * j + 1]), x1, frame.fine_y(xy[2 * i + 1]));
    int first, last;
    edge.columns(begin, end, &first, &last);
    for (int column = first; column < last; ++column) {
      const int row = edge.crossing(column, mask_size);
      if (row >= 0 && row < mask_size) atomicXor(&steps[row], 1u << (column - begin));
    }
  }
}

// Adds the cells with an odd number of steps at or above them to `inside`; called by one warp.
__device__ void fill_columns(const unsigned int* steps, unsigned int* inside, int mask_size) {
  unsigned int above = 0;
  for (int start = 0; start < mask_size; start += kWarp) {
    const int row = start + threadIdx.x;
    unsigned int odd = row < mask_size ? steps[row] : 0;
    for (int step = 1; step < kWarp; step *= 2) {
      const unsigned int other = __shfl_up_sync(0xffffffffu, odd, step);
      if (threadIdx.x >= step) odd ^= other;
    }
    odd ^= above;
    if (row < mask_size) inside[row] |= odd;
    above = __shfl_sync(0xffffffffu, odd, kWarp - 1);
  }
}

template <typename Box>
__global__ void __launch_bounds__(kThreads)
    rasterize_kernel(Polygons polygons, const Box* boxes, int mask_size, int tiles, bool* masks) {
  unsigned int* steps = reinterpret_cast<unsigned int*>(dynamic_shared());
  unsigned int* inside = steps + mask_size;
  const int64_t instance = blockIdx.x / tiles;
  const int begin = static_cast<int>(blockIdx.x % tiles) * kColumns, end = min(begin + kColumns, mask_size);
  const Box* box = boxes + instance * 4;
  const Frame frame = make_frame(box, mask_size);
  for (int row = threadIdx.x; row < mask_size; row += kThreads) inside[row] = 0;
  const int64_t last = is_finite(box) ? polygons.first_polygon(instance + 1) : 0;
  for (int64_t i = polygons.first_polygon(instance); i < last; ++i) {
    const int64_t offset = polygons.first_coord(i), points = (polygons.first_coord(i + 1) - offset) / 2;
    for (int row = threadIdx.x; row < mask_size; row += kThreads) steps[row] = 0;
    __syncthreads();
    add_outline(polygons.coords + offset, points, frame, begin, end, mask_size, steps);
    __syncthreads();
    if (threadIdx.x < kWarp) fill_columns(steps, inside, mask_size);
    __syncthreads();
  }
  __syncthreads();
  bool* mask = masks + instance * mask_size * mask_size;
  const int width = end - begin;
  for (int i = threadIdx.x; i < mask_size * width; i += kThreads) {
    const int row = i / width, column = i % width;
    mask[static_cast<int64_t>(row) * mask_size + begin + column] = inside[row] >> column & 1;
  }
}

Tensor rasterize_polygons(const Tensor& coords, const Tensor& polygon_offsets, const Tensor& instance_offsets,
                          const Tensor& boxes, int64_t mask_size) {
  polygon::check(coords, polygon_offsets, instance_offsets, boxes, mask_size);
  for (const Tensor* tensor : {&coords, &polygon_offsets, &instance_offsets}) {
    STD_TORCH_CHECK(tensor->is_cuda() && tensor->get_device_index() == boxes.get_device_index(),
                    "packed polygons must be on the device of boxes");
  }
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor flat = torch::stable::contiguous(coords), outer = torch::stable::contiguous(instance_offsets),
               inner = torch::stable::contiguous(polygon_offsets), rois = torch::stable::contiguous(boxes);
  Tensor masks = torch::stable::new_empty(boxes, {boxes.size(0), mask_size, mask_size},
                                          torch::headeronly::ScalarType::Bool);
  const Polygons polygons = {flat.const_data_ptr<double>(), inner.const_data_ptr<int64_t>(),
                             outer.const_data_ptr<int64_t>(), flat.numel(), inner.numel() - 1};
  const int side = static_cast<int>(mask_size), tiles = (side + kColumns - 1) / kColumns;
  const auto run = [&](auto kernel, const auto* box) {
    launch(kernel, boxes.size(0) * tiles, kThreads, 2 * sizeof(unsigned int) * side, current_stream(boxes),
           polygons, box, side, tiles, masks.mutable_data_ptr<bool>());
  };
  if (boxes.scalar_type() == torch::headeronly::ScalarType::Double) {
    run(rasterize_kernel<double>, rois.const_data_ptr<double>());
  } else {
    run(rasterize_kernel<float>, rois.const_data_ptr<float>());
  }
  return masks;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) {
  m.impl("rasterize_polygons", TORCH_BOX(&rasterize_polygons));
}

}  // namespace mrcnn_plugin
