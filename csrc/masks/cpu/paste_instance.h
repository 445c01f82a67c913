// The pixels of one pasted mask. Included by common/cpu/each_level.h into paste_masks.cpp.

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

MRCNN_INLINE void expand_row(const float* mask_row, const MaskAxis& columns, float* left, float* right) {
  const int32_t* cell = columns.cell.data();
  for (int32_t i = 0, n = columns.size(); i < n; ++i) {
    left[i] = mask_row[cell[i]];
    right[i] = mask_row[cell[i] + 1];
  }
}

template <bool kSoft>
MRCNN_INLINE void paste_row(const Scratch& scratch, float top, float bottom, float threshold,
                            uint8_t* __restrict out) {
  const float *tl = scratch.top_left.data(), *tr = scratch.top_right.data();
  const float *bl = scratch.bottom_left.data(), *br = scratch.bottom_right.data();
  const float *left = scratch.columns.near.data(), *right = scratch.columns.far.data();
  for (int32_t i = 0, n = scratch.columns.size(); i < n; ++i) {
    const float value = paste_value(tl[i], tr[i], bl[i], br[i], top, bottom, left[i], right[i]);
    out[i] = kSoft ? soft_pixel(value) : static_cast<uint8_t>(value >= threshold);
  }
}

// `out` is the first pixel of the image, `width` its row stride.
template <bool kSoft>
void paste_instance(Scratch& scratch, float threshold, int64_t width, uint8_t* out) {
  const MaskAxis &rows = scratch.rows, &columns = scratch.columns;
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
    paste_row<kSoft>(scratch, rows.near[y], rows.far[y], threshold,
                     out + (static_cast<int64_t>(rows.begin) + y) * width + columns.begin);
  }
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
