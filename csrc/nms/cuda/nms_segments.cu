// nms_segments on CUDA: a block for a segment. No box waits for the host, and none is compared with the
// boxes of other segments.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/cuda/launch.cuh"
#include "nms/checks.h"

namespace mrcnn_plugin {
namespace {

using torch::stable::Tensor;

constexpr int kThreads = 256;

// Whether two boxes overlap by more than the threshold; rounded as on the CPU, with nothing fused.
__device__ bool overlap(const float* a, const float* b, double threshold) {
  const float width = fmaxf(0.0f, fminf(a[2], b[2]) - fmaxf(a[0], b[0]));
  const float height = fmaxf(0.0f, fminf(a[3], b[3]) - fmaxf(a[1], b[1]));
  const float inter = __fmul_rn(width, height);
  const float areas = __fadd_rn(__fmul_rn(a[2] - a[0], a[3] - a[1]), __fmul_rn(b[2] - b[0], b[3] - b[1]));
  return static_cast<double>(inter / (areas - inter)) > threshold;
}

// The segment's boxes are visited in order, and each that is still kept removes those after it that overlap
// it.
__global__ void __launch_bounds__(kThreads) nms_segments_kernel(const float* boxes, const int64_t* offsets,
                                                                int64_t count, double threshold, bool* keep) {
  // Offsets are on the device, where the host cannot check them: clamped, they read nothing out of bounds.
  const int64_t begin = offsets[blockIdx.x] < 0 ? 0 : offsets[blockIdx.x];
  const int64_t end = offsets[blockIdx.x + 1] < count ? offsets[blockIdx.x + 1] : count;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) keep[i] = true;
  __syncthreads();
  for (int64_t i = begin; i < end; ++i) {
    if (keep[i]) {
      for (int64_t j = i + 1 + threadIdx.x; j < end; j += kThreads) {
        if (keep[j] && overlap(boxes + 4 * i, boxes + 4 * j, threshold)) keep[j] = false;
      }
    }
    __syncthreads();
  }
}

Tensor nms_segments(const Tensor& boxes, const Tensor& offsets, double iou_threshold) {
  check_nms_inputs(boxes, offsets);
  STD_TORCH_CHECK(offsets.is_cuda() && offsets.get_device_index() == boxes.get_device_index(),
                  "offsets must be on the device of boxes");
  const torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  const Tensor rows = torch::stable::contiguous(boxes), ends = torch::stable::contiguous(offsets);
  Tensor keep = torch::stable::new_zeros(boxes, {boxes.size(0)}, torch::headeronly::ScalarType::Bool);
  if (boxes.size(0) == 0) return keep;
  launch(nms_segments_kernel, offsets.size(0) - 1, kThreads, 0, current_stream(boxes),
         rows.const_data_ptr<float>(), ends.const_data_ptr<int64_t>(), boxes.size(0), iou_threshold,
         keep.mutable_data_ptr<bool>());
  return keep;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CUDA, m) { m.impl("nms_segments", TORCH_BOX(&nms_segments)); }

}  // namespace mrcnn_plugin
