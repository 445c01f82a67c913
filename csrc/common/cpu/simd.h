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

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
