// Polygons to masks of RoIs: instances in parallel, 64 mask columns to a machine word. It is compiled for no
// particular instruction set, as fused multiply-adds would round corners and edges otherwise.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "common/cpu/simd_level.h"
#include "polygons/polygon.h"

namespace mrcnn_plugin {
namespace {

using namespace polygon;
using torch::stable::Tensor;

constexpr int kColumns = 64;

struct Polygons {
  const double* coords;
  const int64_t* polygon_offsets;
  const int64_t* instance_offsets;
};

// Flips the bit of every step that the outline takes over the middle of columns [begin, end).
void add_outline(const double* xy, int64_t count, const Frame& frame, int begin, int end, int mask_size,
                 uint64_t* steps) {
  int64_t x0 = frame.fine_x(xy[count - 2]), y0 = frame.fine_y(xy[count - 1]);
  for (int64_t i = 0; i < count; i += 2) {
    const int64_t x1 = frame.fine_x(xy[i]), y1 = frame.fine_y(xy[i + 1]);
    if (x0 != x1) {
      const Edge edge(x0, y0, x1, y1);
      int first, last;
      edge.columns(begin, end, &first, &last);
      for (int column = first; column < last; ++column) {
        const int row = edge.crossing(column, mask_size);
        if (row >= 0) steps[row] ^= uint64_t(1) << (column - begin);
      }
    }
    x0 = x1;
    y0 = y1;
  }
}

template <typename Box>
void rasterize_instance(const Polygons& polygons, int64_t instance, const Box* box, int mask_size,
                        uint64_t* steps, uint64_t* inside, bool* mask) {
  const Frame frame = make_frame(box, mask_size);
  for (int begin = 0; begin < mask_size; begin += kColumns) {
    const int end = std::min(begin + kColumns, mask_size);
    std::fill_n(inside, mask_size, 0);
    for (int64_t i = polygons.instance_offsets[instance]; i < polygons.instance_offsets[instance + 1]; ++i) {
      const int64_t offset = polygons.polygon_offsets[i];
      std::fill_n(steps, mask_size + 1, 0);
      add_outline(polygons.coords + offset, polygons.polygon_offsets[i + 1] - offset, frame, begin, end,
                  mask_size, steps);
      uint64_t odd = 0;
      for (int y = 0; y < mask_size; ++y) inside[y] |= odd ^= steps[y];
    }
    for (int y = 0; y < mask_size; ++y) {
      bool* row = mask + int64_t(y) * mask_size;
      for (int x = begin; x < end; ++x) row[x] = inside[y] >> (x - begin) & 1;
    }
  }
}

template <typename Box>
void rasterize(const Polygons& polygons, const Tensor& boxes, int mask_size, Tensor& masks) {
  const Box* box = boxes.const_data_ptr<Box>();
  bool* out = masks.mutable_data_ptr<bool>();
  const int64_t size = int64_t(mask_size) * mask_size;
  torch::stable::parallel_for(0, boxes.size(0), 8, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> steps(mask_size + 1), inside(mask_size);
    for (int64_t i = begin; i < end; ++i) {
      if (is_finite(box + i * 4)) {
        rasterize_instance(polygons, i, box + i * 4, mask_size, steps.data(), inside.data(), out + i * size);
      } else {
        std::fill_n(out + i * size, size, false);
      }
    }
  });
}

void check_offsets(const char* name, const Tensor& offsets, int64_t size) {
  const int64_t* values = offsets.const_data_ptr<int64_t>();
  const int64_t last = offsets.numel() - 1;
  STD_TORCH_CHECK(values[0] == 0 && values[last] == size, name, " must run from 0 to ", size, ", got ",
                  values[0], " to ", values[last]);
  for (int64_t i = 0; i < last; ++i) {
    STD_TORCH_CHECK(values[i] <= values[i + 1], name, " must not decrease, got ", values[i], " before ",
                    values[i + 1]);
  }
}

Tensor rasterize_polygons(const Tensor& coords, const Tensor& polygon_offsets, const Tensor& instance_offsets,
                          const Tensor& boxes, int64_t mask_size) {
  polygon::check(coords, polygon_offsets, instance_offsets, boxes, mask_size);
  simd_level();  // Raises for a bad MRCNN_PLUGIN_SIMD, as every op does.
  const Tensor flat = torch::stable::contiguous(coords), outer = torch::stable::contiguous(instance_offsets),
               inner = torch::stable::contiguous(polygon_offsets), rois = torch::stable::contiguous(boxes);
  check_offsets("polygon_offsets", inner, flat.numel());
  check_offsets("instance_offsets", outer, inner.numel() - 1);
  const Polygons polygons = {flat.const_data_ptr<double>(), inner.const_data_ptr<int64_t>(),
                             outer.const_data_ptr<int64_t>()};
  for (int64_t i = 0; i + 1 < inner.numel(); ++i) {
    const int64_t count = polygons.polygon_offsets[i + 1] - polygons.polygon_offsets[i];
    STD_TORCH_CHECK(count % 2 == 0 && count >= 6, "a polygon must have at least 3 points x, y, got ", count,
                    " coordinates");
  }
  Tensor masks = torch::stable::new_empty(boxes, {boxes.size(0), mask_size, mask_size},
                                          torch::headeronly::ScalarType::Bool);
  if (boxes.size(0) == 0) return masks;
  if (boxes.scalar_type() == torch::headeronly::ScalarType::Double) {
    rasterize<double>(polygons, rois, static_cast<int>(mask_size), masks);
  } else {
    rasterize<float>(polygons, rois, static_cast<int>(mask_size), masks);
  }
  return masks;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("rasterize_polygons", TORCH_BOX(&rasterize_polygons));
}

}  // namespace mrcnn_plugin
