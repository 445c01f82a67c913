// The transforms of F(4x4, 3x3) at one instruction set: see common/cpu/each_level.h and winograd.cpp.
namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

typedef float Lanes __attribute__((vector_size(MRCNN_SIMD_BYTES)));
constexpr int64_t kLanes = MRCNN_SIMD_BYTES / sizeof(float);

inline __attribute__((always_inline)) Lanes load(const float* p) {
  Lanes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline __attribute__((always_inline)) void store(float* p, Lanes v) { __builtin_memcpy(p, &v, sizeof v); }

// B^T of the points 0, 1, -1, 1/2, -2 and infinity: row i are the coefficients of the product of all
// (x - p_j), j != i.
inline __attribute__((always_inline)) void transform_row(const Lanes* d, Lanes* t) {
  t[0] = d[0] + d[4] - 2.0f * d[2] + 1.5f * (d[3] - d[1]);
  t[1] = d[4] - d[1] + 0.5f * d[2] + 2.5f * d[3];
  t[2] = d[4] + d[1] + 0.5f * d[3] - 2.5f * d[2];
  t[3] = d[4] - d[2] + 2.0f * (d[3] - d[1]);
  t[4] = d[4] - d[2] + 0.5f * (d[1] - d[3]);
  t[5] = d[5] + d[1] - 2.0f * d[3] + 1.5f * (d[4] - d[2]);
}

// A^T: row k are the k-th powers of the points.
inline __attribute__((always_inline)) void combine_row(const Lanes* m, Lanes* y) {
  const Lanes sum = m[1] + m[2], difference = m[1] - m[2];
  y[0] = m[0] + sum + m[3] + m[4];
  y[1] = difference + 0.5f * m[3] - 2.0f * m[4];
  y[2] = sum + 0.25f * m[3] + 4.0f * m[4];
  y[3] = difference + 0.125f * m[3] - 8.0f * m[4] + m[5];
}

// A, the transpose of what combine_row does: row i are the powers 0 to 3 of the i-th point.
inline __attribute__((always_inline)) void spread_row(const Lanes* y, Lanes* t) {
  const Lanes even = y[0] + y[2], odd = y[1] + y[3];
  t[0] = y[0];
  t[1] = even + odd;
  t[2] = even - odd;
  t[3] = y[0] + 0.5f * y[1] + 0.25f * y[2] + 0.125f * y[3];
  t[4] = y[0] - 2.0f * y[1] + 4.0f * y[2] - 8.0f * y[3];
  t[5] = y[3];
}

// G: row i are the powers 0 to 2 of the i-th point, over the product of its distances from the others.
inline __attribute__((always_inline)) void transform_weight_row(const Lanes* w, Lanes* t) {
  const Lanes third = (w[0] + w[2]) * (1.0f / 3);
  t[0] = w[0];
  t[1] = third + w[1] * (1.0f / 3);
  t[2] = w[1] * (1.0f / 3) - third;
  t[3] = (w[0] + 0.5f * w[1] + 0.25f * w[2]) * (-16.0f / 15);
  t[4] = (w[0] - 2.0f * w[1] + 4.0f * w[2]) * (1.0f / 15);
  t[5] = w[2];
}

// G^T.
inline __attribute__((always_inline)) void combine_weight_row(const Lanes* m, Lanes* w) {
  const Lanes sum = (m[1] + m[2]) * (1.0f / 3), difference = (m[1] - m[2]) * (1.0f / 3);
  const Lanes half = m[3] * (-16.0f / 15), two = m[4] * (1.0f / 15);
  w[0] = m[0] + difference + half + two;
  w[1] = sum + 0.5f * half - 2.0f * two;
  w[2] = difference + 0.25f * half + 4.0f * two + m[5];
}

// The 36 pixels of a tile, each of `channels` numbers, to 36 rows that are `stride` apart.
void transform_tile(const float* const* pixels, int64_t channels, float* out, int64_t stride) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes rows[6][6];
    for (int i = 0; i < 6; ++i) {
      Lanes d[6], t[6];
      for (int j = 0; j < 6; ++j) d[j] = load(pixels[6 * i + j] + c);
      transform_row(d, t);
      for (int j = 0; j < 6; ++j) rows[j][i] = t[j];
    }
    for (int j = 0; j < 6; ++j) {
      Lanes t[6];
      transform_row(rows[j], t);
      for (int i = 0; i < 6; ++i) store(out + (6 * i + j) * stride + c, t[i]);
    }
  }
}

// The products of a tile, 36 rows that are `stride` apart, to its 4x4 pixels; null where the map has none.
void combine_tile(const float* products, int64_t stride, const float* bias, int64_t channels, bool accumulate,
                  bool relu, float* const* pixels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes rows[4][6];
    for (int j = 0; j < 6; ++j) {
      Lanes m[6], y[4];
      for (int i = 0; i < 6; ++i) m[i] = load(products + (6 * i + j) * stride + c);
      combine_row(m, y);
      for (int i = 0; i < 4; ++i) rows[i][j] = y[i];
    }
    const Lanes shift = bias == nullptr ? Lanes{} : load(bias + c);
    for (int i = 0; i < 4; ++i) {
      Lanes y[4];
      combine_row(rows[i], y);
      for (int j = 0; j < 4; ++j) {
        float* pixel = pixels[4 * i + j];
        if (pixel == nullptr) continue;
        Lanes value = y[j] + shift;
        if (accumulate) value += load(pixel + c);
        if (relu) value = value > 0.0f ? value : Lanes{};
        store(pixel + c, value);
      }
    }
  }
}

// The gradients of a tile's 4x4 pixels, each of `channels` numbers, to 36 rows that are `stride` apart.
void spread_tile(const float* const* pixels, int64_t channels, float* out, int64_t stride) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes rows[6][4];
    for (int i = 0; i < 4; ++i) {
      Lanes y[4], t[6];
      for (int j = 0; j < 4; ++j) y[j] = load(pixels[4 * i + j] + c);
      spread_row(y, t);
      for (int j = 0; j < 6; ++j) rows[j][i] = t[j];
    }
    for (int j = 0; j < 6; ++j) {
      Lanes t[6];
      spread_row(rows[j], t);
      for (int i = 0; i < 6; ++i) store(out + (6 * i + j) * stride + c, t[i]);
    }
  }
}

// A filter's 3x3 rows of `channels` weights, row after row and backwards if `flip`, to 36 that are `stride`
// apart.
void transform_filter(const float* weight, int64_t channels, bool flip, float* out, int64_t stride) {
  const int64_t first = flip ? 8 * channels : 0, step = flip ? -channels : channels;
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes rows[6][3];
    for (int i = 0; i < 3; ++i) {
      Lanes w[3], t[6];
      for (int j = 0; j < 3; ++j) w[j] = load(weight + first + (3 * i + j) * step + c);
      transform_weight_row(w, t);
      for (int j = 0; j < 6; ++j) rows[j][i] = t[j];
    }
    for (int j = 0; j < 6; ++j) {
      Lanes t[6];
      transform_weight_row(rows[j], t);
      for (int i = 0; i < 6; ++i) store(out + (6 * i + j) * stride + c, t[i]);
    }
  }
}

// The transpose of transform_filter.
void combine_filter(const float* products, int64_t stride, int64_t channels, float* weight) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Lanes rows[3][6];
    for (int j = 0; j < 6; ++j) {
      Lanes m[6], w[3];
      for (int i = 0; i < 6; ++i) m[i] = load(products + (6 * i + j) * stride + c);
      combine_weight_row(m, w);
      for (int i = 0; i < 3; ++i) rows[i][j] = w[i];
    }
    for (int i = 0; i < 3; ++i) {
      Lanes w[3];
      combine_weight_row(rows[i], w);
      for (int j = 0; j < 3; ++j) store(weight + (3 * i + j) * channels + c, w[j]);
    }
  }
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
