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

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
