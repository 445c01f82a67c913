// The search for a heatmap's upsampled peak. Included by common/cpu/each_level.h into
// heatmaps_to_keypoints.cpp.
#include "common/cpu/simd.h"

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

// A cell spans a few pixels, which wider vectors would leave mostly empty.
constexpr int kLanes = std::min(MRCNN_SIMD_BYTES / 4, kMaxLanes);
using Vec = Register<float, 4 * kLanes>::Vector;
using IntVec = Register<int32_t, 4 * kLanes>::Vector;
using LongVec = Register<int64_t, 4 * kLanes>::Vector;

inline Vec load(const float* from) { return read_as<Vec>(from); }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

inline bool any(IntVec condition) {
  const LongVec words = (LongVec)condition;
  int64_t bits = 0;
  for (int i = 0; i < kLanes / 2; ++i) bits |= words[i];
  return bits != 0;
}

inline float horizontal_max(Vec v) {
  float result = v[0];
  for (int i = 1; i < kLanes; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

// The first `count` lanes of v, and -infinity in the others.
inline Vec keep(Vec v, int count) {
  IntVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < count ? v : Vec{} - kInf;
}

inline Vec upper_bound(Vec v1, Vec v2, Vec outer_min) {
  const Vec inner = larger(v1, v2);
  return larger(inner - outer_min, Vec{}) * kOuterWeight + inner;
}

inline Vec lower_bound(Vec v1, Vec v2, Vec outer_max) {
  const Vec inner = smaller(v1, v2);
  return inner - larger(outer_max - inner, Vec{}) * kOuterWeight;
}

// Same order as the scalar `weighted`: compilers fuse the first product.
inline Vec weighted(Vec w0, Vec v0, Vec w1, Vec v1, Vec w2, Vec v2, Vec w3, Vec v3) {
  return w3 * v3 + (w2 * v2 + (w0 * v0 + w1 * v1));
}

// exp(x) to 3e-7 relative for x in [-87, 87], clamped outside: such a score is 0 or 1 already.
inline Vec exp_clamped(Vec x) {
  x = smaller(larger(x, Vec{} - 87.0f), Vec{} + 87.0f);
  // Adding 1.5 * 2^23 rounds to an integer; x = n ln 2 + r with |r| <= ln(2) / 2.
  const Vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * (1.0f / 720) + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
  return p * (Vec)power;
}

inline void build_table(AxisTable& table, const Axis& axis, int heatmap_size) {
  int cell = -1;
  for (int pixel = 0; pixel < axis.samples; ++pixel) {
    const Taps taps = make_taps(axis, pixel);
    while (cell < taps.cell + 1) table.first_pixel[++cell] = pixel;
    for (int tap = 0; tap < 4; ++tap) table.weight(tap)[pixel] = taps.w[tap];
  }
  while (cell <= heatmap_size) table.first_pixel[++cell] = axis.samples;
}

// Copies a map with its columns replicated; returns its largest |logit|: by its bit pattern, so that NaN is
// the largest.
inline float load_map(Search& s, const float* map) {
  int32_t largest = 0;
  for (int r = 0; r < s.height; ++r) {
    const float* source = map + int64_t(r) * s.width;
    float* row = s.padded_row(r);
    // Bit patterns of non-negative floats are ordered as the floats are.
    for (int c = 0; c < s.width; ++c) {
      int32_t bits;
      std::memcpy(&bits, source + c, sizeof(bits));
      bits &= 0x7fffffff;
      largest = bits > largest ? bits : largest;
      row[c + 2] = source[c];
    }
    row[0] = row[1] = source[0];
    for (int c = s.width + 2; c < s.stride + 4; ++c) row[c] = source[s.width - 1];
  }
  float result;
  std::memcpy(&result, &largest, sizeof(result));
  return result;
}

// Bounds of a row between its cells.
struct RowBounds {
  Vec upper, lower;
};

inline RowBounds bound_row(const float* v) {
  const Vec v0 = load(v), v1 = load(v + 1), v2 = load(v + 2), v3 = load(v + 3);
  return {upper_bound(v1, v2, smaller(v0, v3)), lower_bound(v1, v2, larger(v0, v3))};
}

// Upper bounds of the bicubic surface over every cell, and eight partial maxima of each row of cells.
inline void bound_cells(Search& s) {
  for (int c = 0; c < s.stride; c += kLanes) {
    RowBounds rows[4];
    for (int i = 0; i < 4; ++i) rows[i] = bound_row(s.row(i - 3) + c);
    for (int r = 0; r <= s.height; ++r) {
      for (int i = 0; i < 3; ++i) rows[i] = rows[i + 1];
      rows[3] = bound_row(s.row(r + 1) + c);
      Vec bound = upper_bound(rows[1].upper, rows[2].upper, smaller(rows[0].lower, rows[3].lower));
      bound = keep(bound, s.width + 1 - c);
      write(bound, s.bound_row(r) + c);
      float* top = s.row_top(r);
      write(c == 0 ? bound : larger(load(top), bound), top);
    }
  }
}

// One row of the cell's pixels: the horizontal sums `h` of four heatmap rows, weighted vertically.
inline Vec resample(const Search& s, const Vec (&h)[4], int y) {
  Vec w[4];
  for (int tap = 0; tap < 4; ++tap) w[tap] = Vec{} + s.y.weight(tap)[y];
  return weighted(w[0], h[0], w[1], h[1], w[2], h[2], w[3], h[3]);
}

// The four heatmap rows that the pixels of a row of cells lie between.
struct Rows {
  const float* v[4];
  Rows(const Search& s, int row) : v{s.row(row - 2), s.row(row - 1), s.row(row), s.row(row + 1)} {}
};

// Resamples the pixels of one cell and keeps the best; of equal values, the first in row-major order.
inline void visit(const Search& s, const Rows& rows, int row, int cell, float slack, Peak& best) {
  const int y_begin = s.y.first_pixel[row], y_end = s.y.first_pixel[row + 1];
  const int x_end = s.x.first_pixel[cell + 1];
  for (int x = s.x.first_pixel[cell]; x < x_end; x += kLanes) {
    Vec h[4];
    for (int i = 0; i < 4; ++i) {
      const float* v = rows.v[i] + cell;
      h[i] = weighted(load(s.x.weight(0) + x), Vec{} + v[0], load(s.x.weight(1) + x), Vec{} + v[1],
                      load(s.x.weight(2) + x), Vec{} + v[2], load(s.x.weight(3) + x), Vec{} + v[3]);
    }
    if (!any(upper_bound(h[1], h[2], smaller(h[0], h[3])) >= best.value - slack)) continue;
    Vec top = Vec{} - kInf;
    for (int y = y_begin; y < y_end; ++y) top = larger(top, resample(s, h, y));
    const int count = std::min(x_end - x, kLanes);
    top = keep(top, count);
    if (!any(top >= best.value)) continue;
    const float value = horizontal_max(top);
    if (value == best.value && y_begin > best.y) continue;
    for (int y = y_begin; y < y_end; ++y) {
      const Vec values = resample(s, h, y);
      int lane = 0;
      while (lane < count && values[lane] != value) ++lane;
      if (lane == count) continue;
      const Peak peak = {value, x + lane, y};
      if (value > best.value || y < best.y || (y == best.y && peak.x < best.x)) best = peak;
      break;
    }
  }
}

inline Peak find_peak(Search& s, float largest) {
  const float slack = kRoundingSlack * largest;
  bound_cells(s);
  Vec tops = load(s.row_top(0));
  for (int r = 1; r <= s.height; ++r) tops = larger(tops, load(s.row_top(r)));
  const float highest = horizontal_max(tops);
  int r = 0;
  while (!any(load(s.row_top(r)) == highest)) ++r;
  const float* bound = s.bound_row(r);
  Peak best = {-kInf, 0, 0};
  visit(s, Rows(s, r), r, int(std::find(bound, bound + s.width, highest) - bound), slack, best);
  for (r = 0; r <= s.height; ++r) {
    if (!any(load(s.row_top(r)) >= best.value - slack)) continue;
    const Rows rows(s, r);
    bound = s.bound_row(r);
    // Listed first, without a branch each: where candidates are scattered, mispredictions would cost most.
    const float threshold = best.value - slack;
    int count = 0;
    for (int c = 0; c <= s.width; ++c) {
      s.candidates[count] = c;
      count += bound[c] >= threshold;
    }
    for (int i = 0; i < count; ++i) visit(s, rows, r, s.candidates[i], slack, best);
  }
  return best;
}

inline float sum_exp(const float* values, int64_t count, float shift) {
  Vec sums[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    sums[0] += exp_clamped(load(values + i) - shift);
    sums[1] += exp_clamped(load(values + i + kLanes) - shift);
  }
  float total = 0;
  for (; i < count; ++i) total += exp_clamped(Vec{} + (values[i] - shift))[0];
  for (int lane = 0; lane < kLanes; ++lane) total += sums[0][lane] + sums[1][lane];
  return total;
}

// Maps [begin, end) of (K * maps_per_roi, height, width) with rois (K, 4) to keypoints (K * maps_per_roi, 4).
void decode_maps(Search& s, const float* maps, const float* rois, float* keypoints, int64_t begin,
                 int64_t end, int64_t maps_per_roi) {
  Axis x = {}, y = {};
  int64_t roi = -1;
  for (int64_t i = begin; i < end; ++i) {
    if (i / maps_per_roi != roi) {
      roi = i / maps_per_roi;
      const float* box = rois + roi * 4;
      x = make_axis(box[0], box[2], s.width);
      y = make_axis(box[1], box[3], s.height);
      s.x.resize(x.samples);
      s.y.resize(y.samples);
      build_table(s.x, x, s.width);
      build_table(s.y, y, s.height);
    }
    const int64_t size = int64_t(s.height) * s.width;
    const float largest = load_map(s, maps + i * size);
    float* out = keypoints + i * 4;
    if (!is_finite(x) || !is_finite(y) || !(largest <= kMaxLogit)) {
      out[0] = out[1] = out[2] = out[3] = NAN;
      continue;
    }
    const Peak peak = find_peak(s, largest);
    out[0] = image_coordinate(x, peak.x);
    out[1] = image_coordinate(y, peak.y);
    out[2] = peak.value;
    out[3] = 1.0f / sum_exp(maps + i * size, size, peak.value);
  }
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
