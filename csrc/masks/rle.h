// COCO's compressed run-length code, shared by the CPU and CUDA kernels.
//
// Each run length is written as a signed number in groups of 5 bits, lowest first, as characters from '0'
// on; bit 5 says that more follow. From the fourth run on the number is the difference from the run two
// before.
#pragma once

#include <cstdint>

#include "masks/paste.h"

namespace mrcnn_plugin {

constexpr int kMaxRleCodeLength = 7;  // 33 bits and a sign, 5 per character

// The number that stands for the `index`-th run of a mask.
MRCNN_HOST_DEVICE_INLINE int64_t rle_number(int64_t index, uint32_t run, uint32_t run_two_before) {
  return static_cast<int64_t>(run) - (index > 2 ? static_cast<int64_t>(run_two_before) : 0);
}

// Writes the code of `number`, returns its length.
MRCNN_HOST_DEVICE_INLINE int rle_write(int64_t number, uint8_t* out) {
  int length = 0;
  bool more = true;
  while (more) {
    const uint8_t group = number & 0x1f;
    number >>= 5;
    more = (group & 0x10) ? number != -1 : number != 0;
    out[length++] = static_cast<uint8_t>(group + (more ? 0x20 : 0) + '0');
  }
  return length;
}

MRCNN_HOST_DEVICE_INLINE int rle_length(int64_t number) {
  int length = 1;
  while (number < -16 || number > 15) {
    number >>= 5;
    ++length;
  }
  return length;
}

// Tight box of the pixels of runs of ones, as inclusive bounds; of no pixels unless some are added.
struct RleBounds {
  uint32_t x0 = ~0u, y0 = ~0u, x1 = 0, y1 = 0;

  // Adds the run of column-major positions [begin, end), end > begin, of a mask `height` high.
  MRCNN_HOST_DEVICE_INLINE void add(uint32_t begin, uint32_t end, uint32_t height) {
    const uint32_t first = begin / height, last = (end - 1) / height;
    const bool one_column = first == last;
    const uint32_t top = one_column ? begin - first * height : 0;
    const uint32_t bottom = one_column ? end - 1 - last * height : height - 1;
    x0 = first < x0 ? first : x0;
    x1 = last > x1 ? last : x1;
    y0 = top < y0 ? top : y0;
    y1 = bottom > y1 ? bottom : y1;
  }

  // The box as x, y, width and height; zeros for no pixels.
  MRCNN_HOST_DEVICE_INLINE void write_xywh(int64_t* box) const {
    const bool any = x1 >= x0;
    box[0] = any ? x0 : 0;
    box[1] = any ? y0 : 0;
    box[2] = any ? static_cast<int64_t>(x1) - x0 + 1 : 0;
    box[3] = any ? static_cast<int64_t>(y1) - y0 + 1 : 0;
  }
};

// Where the region of one box lies in its image.
struct MaskColumns {
  PasteRegion region;
  uint32_t height, total;  // of the image, in pixels

  // Only then do the last row of a column and the first of the next one touch inside the region.
  MRCNN_HOST_DEVICE_INLINE bool joined() const {
    return region.y0 == 0 && static_cast<uint32_t>(region.y1) == height;
  }
};

// Finds the positions at which column x changes, 32 rows at a time, independently of all other columns.
//
// `word(x, y)` has bit i set where pixel (y + i, x) is; bits of rows from region.y1 on are ignored.
// `sink(y, changes)` gets the rows y + i, i a bit of `changes`, at which the value differs from that of the
// pixel before, in column-major order; a change at region.y1 may be the first pixel of the next column.
template <class Word, class Sink>
MRCNN_HOST_DEVICE_INLINE void walk_column(const MaskColumns& columns, int32_t x, Word word, Sink sink) {
  const PasteRegion& region = columns.region;
  const bool joined = columns.joined();
  uint32_t value = joined && x > region.x0 ? word(x - 1, region.y1 - 1) & 1u : 0u;
  for (int32_t y = region.y0; y < region.y1; y += 32) {
    const int32_t rows = region.y1 - y < 32 ? region.y1 - y : 32;
    const uint32_t bits = word(x, y);
    sink(y, (bits ^ (bits << 1 | value)) & (~0u >> (32 - rows)));
    value = bits >> (rows - 1) & 1u;
  }
  const bool goes_on = joined && x + 1 < region.x1;
  const uint32_t end = static_cast<uint32_t>(x) * columns.height + static_cast<uint32_t>(region.y1);
  if (value && !goes_on && end < columns.total) sink(region.y1, 1u);
}

// The runs between the `flips` positions at which the value changes; the first is of zeros.
struct RleRuns {
  const uint32_t* positions;
  int64_t flips;
  uint32_t total;

  MRCNN_HOST_DEVICE_INLINE int64_t size() const { return flips + 1; }
  MRCNN_HOST_DEVICE_INLINE uint32_t begin(int64_t run) const { return run == 0 ? 0 : positions[run - 1]; }
  MRCNN_HOST_DEVICE_INLINE uint32_t end(int64_t run) const { return run < flips ? positions[run] : total; }
  MRCNN_HOST_DEVICE_INLINE int64_t number(int64_t run) const {
    const uint32_t before = run > 2 ? end(run - 2) - begin(run - 2) : 0;
    return rle_number(run, end(run) - begin(run), before);
  }
};

}  // namespace mrcnn_plugin
