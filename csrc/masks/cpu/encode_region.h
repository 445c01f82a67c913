// The run-length code of the pixels of one mask. Included by common/cpu/each_level.h into encode_masks.cpp.

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

constexpr int kBlock = 16;

// Bit i: whether row `y + i` of the column reaches the threshold.
MRCNN_INLINE uint32_t block_bits(const Scratch& scratch, int32_t y, float left, float right,
                                 float threshold) {
  const float *tl = scratch.top_left.data() + y, *tr = scratch.top_right.data() + y;
  const float *bl = scratch.bottom_left.data() + y, *br = scratch.bottom_right.data() + y;
  const float *top = scratch.rows.near.data() + y, *bottom = scratch.rows.far.data() + y;
  uint8_t flags[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    flags[i] = paste_value(tl[i], tr[i], bl[i], br[i], top[i], bottom[i], left, right) >= threshold;
  }
  uint32_t bits = 0;
  for (int half = 0; half < 2; ++half) {
    uint64_t bytes = 0;
    for (int i = 0; i < 8; ++i) bytes |= static_cast<uint64_t>(flags[8 * half + i]) << (8 * i);
    // Gathers the lowest bits of the 8 bytes in the top byte.
    bits |= static_cast<uint32_t>((bytes * 0x0102040810204080ull) >> 56) << (8 * half);
  }
  return bits;
}

MRCNN_INLINE bool encode_span(const Scratch& scratch, const SpanRows& span, float left, float right,
                              float threshold, uint32_t first, bool value, RleWriter& writer) {
  for (int32_t y = span.begin; y < span.end; y += kBlock) {
    const int count = std::min(kBlock, span.end - y);
    const uint32_t bits = block_bits(scratch, y, left, right, threshold);
    uint32_t changes = (bits ^ (bits << 1 | static_cast<uint32_t>(value))) & ((1u << count) - 1);
    for (; changes; changes &= changes - 1) {
      writer.flip(first + static_cast<uint32_t>(y + __builtin_ctz(changes)));
    }
    value = bits >> (count - 1) & 1;
  }
  return value;
}

void encode_region(Scratch& scratch, float threshold, int32_t height, int32_t width, RleWriter& writer) {
  const MaskAxis &rows = scratch.rows, &columns = scratch.columns;
  const uint32_t total = static_cast<uint32_t>(height) * static_cast<uint32_t>(width);
  // Only then do the last row of a column and the first of the next one touch inside the region.
  const bool full_height = rows.begin == 0 && rows.end == height;
  bool value = false;
  for (int32_t x = 0; x < columns.size(); ++x) {
    const uint32_t column = static_cast<uint32_t>(columns.begin + x) * static_cast<uint32_t>(height);
    const uint32_t first = column + static_cast<uint32_t>(rows.begin);
    if (!columns.valid(x)) {
      if (value) writer.flip(column);
      value = false;
      continue;
    }
    if (columns.cell[x] != scratch.column_cell) scratch.enter_column(columns.cell[x], threshold);
    for (const SpanRows& span : scratch.spans) {
      if (span.kind == Span::kMixed) {
        value = encode_span(scratch, span, columns.near[x], columns.far[x], threshold, first, value, writer);
      } else if (value != (span.kind == Span::kOnes)) {
        writer.flip(first + static_cast<uint32_t>(span.begin));
        value = !value;
      }
    }
    if (value && !(full_height && x + 1 < columns.size())) {
      const uint32_t end = column + static_cast<uint32_t>(rows.end);
      if (end < total) writer.flip(end);
      value = false;
    }
  }
  writer.finish(total);
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
