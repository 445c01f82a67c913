// COCO's compressed run-length code, shared by the CPU and CUDA kernels.
//
// Each run length is written as a signed number in groups of 5 bits, lowest first, as characters from '0'
// on; bit 5 says that more follow. From the fourth run on the number is the difference from the run two
// before.
#pragma once

#include <cstdint>

#include "mask_paste.h"

namespace mrcnn {

constexpr int kMaxRleCodeLength = 7;  // 33 bits and a sign, 5 a character

// The number that stands for the `index`-th run of a mask.
MRCNN_PASTE_INLINE int64_t rle_number(int64_t index, uint32_t run, uint32_t run_two_before) {
  return static_cast<int64_t>(run) - (index > 2 ? static_cast<int64_t>(run_two_before) : 0);
}

// Writes the code of `number`, returns its length.
MRCNN_PASTE_INLINE int rle_write(int64_t number, uint8_t* out) {
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

MRCNN_PASTE_INLINE int rle_length(int64_t number) {
  int length = 1;
  while (number < -16 || number > 15) {
    number >>= 5;
    ++length;
  }
  return length;
}

// Tight box of the pixels of runs of ones, as inclusive bounds.
struct RleBounds {
  uint32_t x0, y0, x1, y1;

  // Adds the run of column-major positions [begin, end), end > begin, of a mask `height` high.
  MRCNN_PASTE_INLINE void add(uint32_t begin, uint32_t end, uint32_t height) {
    const uint32_t first = begin / height, last = (end - 1) / height;
    const bool one_column = first == last;
    const uint32_t top = one_column ? begin - first * height : 0;
    const uint32_t bottom = one_column ? end - 1 - last * height : height - 1;
    x0 = first < x0 ? first : x0;
    x1 = last > x1 ? last : x1;
    y0 = top < y0 ? top : y0;
    y1 = bottom > y1 ? bottom : y1;
  }
};

}  // namespace mrcnn
