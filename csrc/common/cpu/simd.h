// Vector registers of one instruction set. For files that common/cpu/each_level.h includes, hence no header
// guard.

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

template <typename A, int kBytes = MRCNN_SIMD_BYTES>
struct Register {
  typedef A Vector __attribute__((vector_size(kBytes)));
  using Index = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  typedef Index Indices __attribute__((vector_size(kBytes)));
  static constexpr int kLanes = kBytes / sizeof(A);
};

template <typename A>
using Vector = typename Register<A>::Vector;

template <typename To, typename From>
MRCNN_INLINE To read_as(const From* from) {
  To to;
  __builtin_memcpy(&to, from, sizeof(To));
  return to;
}

template <typename V, typename T>
MRCNN_INLINE void write(V from, T* to) {
  __builtin_memcpy(to, &from, sizeof(V));
}

// Lane i of the result is number index[i] of the lanes of `low`, then those of `high`.
template <typename V, typename Indices>
MRCNN_INLINE V shuffle(V low, V high, Indices index) {
#if defined(__clang__)
  constexpr int kLanes = sizeof(V) / sizeof(low[0]);
  V result = {};
  for (int i = 0; i < kLanes; ++i) result[i] = index[i] < kLanes ? low[index[i]] : high[index[i] - kLanes];
  return result;
#else
  return __builtin_shuffle(low, high, index);
#endif
}

template <typename V, typename Indices>
MRCNN_INLINE V shuffle(V from, Indices index) {
#if defined(__clang__)
  return shuffle(from, from, index);
#else
  return __builtin_shuffle(from, index);
#endif
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
