// Registers of numbers read from and written to features of any dtype. Included by kernel_table.h.

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

typedef uint32_t Bits __attribute__((vector_size(MRCNN_SIMD_BYTES)));
typedef uint16_t HalfBits __attribute__((vector_size(MRCNN_SIMD_BYTES / 2)));

MRCNN_INLINE Vector<float> load(const float* from) { return read_as<Vector<float>>(from); }
MRCNN_INLINE Vector<double> load(const double* from) { return read_as<Vector<double>>(from); }

MRCNN_INLINE Vector<float> load(const BFloat16* from) {
  return (Vector<float>)(__builtin_convertvector(read_as<HalfBits>(from), Bits) << 16);
}

MRCNN_INLINE Vector<float> load(const Half* from) {
#if MRCNN_SIMD_BYTES == 64
  return (Vector<float>)_mm512_cvtph_ps(read_as<__m256i>(from));
#elif MRCNN_SIMD_BYTES == 32
  return (Vector<float>)_mm256_cvtph_ps(read_as<__m128i>(from));
#else
  Vector<float> result;
  for (int i = 0; i < Register<float>::kLanes; ++i) {
    result[i] = c10::detail::fp16_ieee_to_fp32_value(from[i].x);
  }
  return result;
#endif
}

MRCNN_INLINE void store(Vector<float> from, float* to) { write(from, to); }
MRCNN_INLINE void store(Vector<double> from, double* to) { write(from, to); }

MRCNN_INLINE void store(Vector<float> from, BFloat16* to) {
  const Bits bits = (Bits)from;
  const Bits rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Bits is_nan = (Bits)(from != from);
  write(__builtin_convertvector(((rounded & ~is_nan) | (is_nan & 0x7fc00000)) >> 16, HalfBits), to);
}

MRCNN_INLINE void store(Vector<float> from, Half* to) {
#if MRCNN_SIMD_BYTES == 64
  write(_mm512_cvtps_ph((__m512)from, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), to);
#elif MRCNN_SIMD_BYTES == 32
  write(_mm256_cvtps_ph((__m256)from, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), to);
#else
  for (int i = 0; i < Register<float>::kLanes; ++i) {
    to[i].x = c10::detail::fp16_ieee_from_fp32_value(from[i]);
  }
#endif
}

// The first `count` < kLanes numbers; nothing behind them is touched.
template <typename T>
MRCNN_INLINE Vector<Accumulator<T>> load_some(const T* from, int64_t count) {
  T padded[Register<Accumulator<T>>::kLanes] = {};
  __builtin_memcpy(padded, from, size_t(count) * sizeof(T));
  return load(padded);
}

template <typename T>
MRCNN_INLINE void store_some(Vector<Accumulator<T>> from, T* to, int64_t count) {
  T padded[Register<Accumulator<T>>::kLanes];
  store(from, padded);
  __builtin_memcpy(to, padded, size_t(count) * sizeof(T));
}

template <typename S, typename T>
MRCNN_INLINE void convert(const S* from, int64_t count, T* to) {
  constexpr int kLanes = Register<Accumulator<T>>::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(load(from + i), to + i);
  if (i < count) store_some(load_some(from + i, count - i), to + i, count - i);
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
