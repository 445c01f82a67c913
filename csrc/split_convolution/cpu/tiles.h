// Matrix products of float32 numbers on the matrix tiles of a processor (AMX): each number is the sum of two
// bfloat16, and of the four products of two such sums the three largest are added up in float32.
//
// A bfloat16 has 8 bits, so that two of them leave at most 2^-16 of a number away, and the product that is
// left out is at most 2^-16 of the whole.
#pragma once

#include "common/cpu/simd_level.h"

#if MRCNN_X86_LEVELS && defined(__linux__)
#define MRCNN_MATRIX_TILES 1

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace mrcnn_plugin {

// Whether processor and kernel of the operating system let this process use matrix tiles of bfloat16.
bool has_matrix_tiles();

#define MRCNN_TILES \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,amx-tile,amx-bf16")))

// A tile has 16 rows of 64 bytes: 16 float32, or 32 bfloat16. Blocks of results are 2 x 2 tiles.
constexpr int64_t kTileRows = 16;
constexpr int64_t kBlock = 2 * kTileRows;
// Channels of a step: a row of bfloat16.
constexpr int64_t kStep = 32;
// Bytes of a number of channels as two rows of bfloat16, the larger parts first.
constexpr int64_t kSplitRow = 128;

// The compiler knows neither that tiles are loaded from memory, nor the size of their configuration.
inline void finish_writes() { __asm__ volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tiles of a thread in the shape that this file wants, and then as they were: another library may rely on
// having configured them.
class TileScope {
 public:
  MRCNN_TILES TileScope() {
    _tile_storeconfig(&before_);
    const TileConfig wanted;
    finish_writes();
    _tile_loadconfig(&wanted);
  }
  MRCNN_TILES ~TileScope() {
    finish_writes();
    if (before_.palette == 0) {
      _tile_release();
    } else {
      _tile_loadconfig(&before_);
    }
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  TileConfig before_;
};

// Memory of whole cache lines. Its contents are undefined.
class Lines {
 public:
  explicit Lines(int64_t bytes) : memory_(new char[bytes + 64]) {
    void* start = memory_.get();
    size_t space = size_t(bytes) + 64;
    data_ = static_cast<char*>(std::align(64, size_t(bytes), start, space));
  }
  char* data() const { return data_; }

 private:
  std::unique_ptr<char[]> memory_;
  char* data_;
};

// 32 numbers as two rows of bfloat16, one behind the other.
MRCNN_TILES inline void split(__m512 first, __m512 second, char* to) {
  const __m512i large = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  const __m512i low_half = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(large));
  const __m512i high_half = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(large, 1));
  const __m512 rest_first = _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_slli_epi32(low_half, 16)));
  const __m512 rest_second = _mm512_sub_ps(second, _mm512_castsi512_ps(_mm512_slli_epi32(high_half, 16)));
  _mm512_store_si512(to, large);
  _mm512_store_si512(to + 64, (__m512i)_mm512_cvtne2ps_pbh(rest_second, rest_first));
}

MRCNN_TILES inline __m512i interleave(__m512 a, __m512 b) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// The same of 16 pairs of numbers, in the order that the right factor of a product has: a pair side by side.
MRCNN_TILES inline void split_pairs(__m512 first, __m512 second, char* large_to, char* small_to) {
  const __m512i large = interleave(first, second);
  const __m512 rest_first = _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_slli_epi32(large, 16)));
  const __m512 rest_second =
      _mm512_sub_ps(second, _mm512_castsi512_ps(_mm512_and_si512(large, _mm512_set1_epi32(int(0xffff0000)))));
  _mm512_store_si512(large_to, large);
  _mm512_store_si512(small_to, interleave(rest_first, rest_second));
}

// Bytes of a block of the right factor.
constexpr int64_t kRightBlock = 4096;

// Tiles 0 to 3 are the results, 4 and 5 of the left factor, 6 and 7 of the right one.
MRCNN_TILES inline void clear_results() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

MRCNN_TILES inline void multiply() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Adds the product of 32 rows of 32 channels, `row_bytes` apart, with the smaller parts 64 bytes behind the
// larger, and a block of 32 x 32: four tiles, those of the larger parts first.
MRCNN_TILES inline __attribute__((always_inline)) void add_product(const char* left, int64_t row_bytes,
                                                                   const char* right) {
  const char* below = left + kTileRows * row_bytes;
  _tile_loadd(6, right, 64);
  _tile_loadd(7, right + 1024, 64);
  _tile_loadd(4, left + 64, row_bytes);
  _tile_loadd(5, below + 64, row_bytes);
  multiply();
  _tile_loadd(4, left, row_bytes);
  _tile_loadd(5, below, row_bytes);
  multiply();
  _tile_loadd(6, right + 2048, 64);
  _tile_loadd(7, right + 3072, 64);
  multiply();
}

// The results to 32 rows of 32 numbers.
MRCNN_TILES inline void store_results(float* to) {
  _tile_stored(0, to, 128);
  _tile_stored(1, to + 16, 128);
  _tile_stored(2, to + 16 * 32, 128);
  _tile_stored(3, to + 16 * 32 + 16, 128);
}

MRCNN_TILES inline void load_results(const float* from) {
  _tile_loadd(0, from, 128);
  _tile_loadd(1, from + 16, 128);
  _tile_loadd(2, from + 16 * 32, 128);
  _tile_loadd(3, from + 16 * 32 + 16, 128);
}

}  // namespace mrcnn_plugin

#endif
