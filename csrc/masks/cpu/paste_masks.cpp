// paste_masks on the CPU: instances in parallel; each row of a box is one vectorised pass over tables.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstring>
#include <utility>

#include "common/cpu/widest_target.h"
#include "masks/checks.h"
#include "masks/cpu/axis.h"

namespace {

using mrcnn_plugin::PasteRegion;
using torch::stable::Tensor;

// What one thread keeps from instance to instance.
struct Scratch {
  mrcnn_plugin::MaskAxis rows, columns;
  mrcnn_plugin::FramedMask mask;
  // The mask rows above and below the current image row, at the left and right cell of every pixel.
  std::vector<float> top_left, top_right, bottom_left, bottom_right;

  void prepare(const float* values, const float* box, int32_t mask_height, int32_t mask_width,
               const PasteRegion& region) {
    rows.fill(region.y0, region.y1, box[1], box[3], mask_height);
    columns.fill(region.x0, region.x1, box[0], box[2], mask_width);
    mask.fill(values, mask_height, mask_width, false);
    for (auto* corner : {&top_left, &top_right, &bottom_left, &bottom_right}) corner->resize(columns.size());
  }
};

MRCNN_PASTE_INLINE void expand_row(const float* mask_row, const mrcnn_plugin::MaskAxis& columns, float* left,
                                   float* right) {
  const int32_t* cell = columns.cell.data();
  for (int32_t i = 0, n = columns.size(); i < n; ++i) {
    left[i] = mask_row[cell[i]];
    right[i] = mask_row[cell[i] + 1];
  }
}

template <bool kSoft>
struct PasteInstance {
  // `out` is the first pixel of the image, `width` its row stride.
  static MRCNN_PASTE_INLINE void run(Scratch& scratch, float threshold, int64_t width, uint8_t* out) {
    const mrcnn_plugin::MaskAxis &rows = scratch.rows, &columns = scratch.columns;
    int32_t cell = std::numeric_limits<int32_t>::min();
    for (int32_t y = 0; y < rows.size(); ++y) {
      const int32_t next = rows.cell[y];
      if (next != cell) {
        if (next - 1 == cell) {
          std::swap(scratch.top_left, scratch.bottom_left);
          std::swap(scratch.top_right, scratch.bottom_right);
        } else {
          expand_row(scratch.mask.row(next), columns, scratch.top_left.data(), scratch.top_right.data());
        }
        expand_row(scratch.mask.row(next + 1), columns, scratch.bottom_left.data(),
                   scratch.bottom_right.data());
        cell = next;
      }
      paste_row(scratch, rows.near[y], rows.far[y], threshold,
                out + (static_cast<int64_t>(rows.begin) + y) * width + columns.begin);
    }
  }

  static MRCNN_PASTE_INLINE void paste_row(const Scratch& scratch, float top, float bottom, float threshold,
                                           uint8_t* __restrict out) {
    const float *tl = scratch.top_left.data(), *tr = scratch.top_right.data();
    const float *bl = scratch.bottom_left.data(), *br = scratch.bottom_right.data();
    const float *left = scratch.columns.near.data(), *right = scratch.columns.far.data();
    for (int32_t i = 0, n = scratch.columns.size(); i < n; ++i) {
      const float value =
          mrcnn_plugin::paste_value(tl[i], tr[i], bl[i], br[i], top, bottom, left[i], right[i]);
      out[i] = kSoft ? mrcnn_plugin::soft_pixel(value) : static_cast<uint8_t>(value >= threshold);
    }
  }
};

Tensor paste_masks(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold) {
  mrcnn_plugin::check_mask_inputs(masks, boxes, height, width, threshold);
  using torch::headeronly::ScalarType;
  const bool soft = threshold < 0;
  const int64_t n = masks.size(0);
  Tensor out =
      torch::stable::new_empty(masks, {n, height, width}, soft ? ScalarType::Byte : ScalarType::Bool);
  if (out.numel() == 0) return out;
  const int64_t pixels = height * width;
  const int32_t mask_height = static_cast<int32_t>(masks.size(1));
  const int32_t mask_width = static_cast<int32_t>(masks.size(2));
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  uint8_t* out_data = static_cast<uint8_t*>(out.mutable_data_ptr());
  std::atomic<int64_t> next{0};
  // Threads draw instances one by one: boxes differ too much in size for equal shares.
  const auto work = [&](int64_t, int64_t) {
    Scratch scratch;
    for (int64_t i = next++; i < n; i = next++) {
      uint8_t* image = out_data + i * pixels;
      std::memset(image, 0, pixels);
      const float* box = box_data + i * 4;
      const PasteRegion region =
          mrcnn_plugin::paste_region(box, static_cast<int32_t>(height), static_cast<int32_t>(width));
      if (region.empty()) continue;
      scratch.prepare(mask_data + i * mask_height * mask_width, box, mask_height, mask_width, region);
      if (soft) {
        mrcnn_plugin::run_widest<PasteInstance<true>>(scratch, 0.0f, width, image);
      } else {
        mrcnn_plugin::run_widest<PasteInstance<false>>(scratch, static_cast<float>(threshold), width, image);
      }
    }
  };
  torch::stable::parallel_for(0, std::min<int64_t>(n, torch::stable::get_num_threads()), 1, work);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) { m.impl("paste_masks", TORCH_BOX(&paste_masks)); }
