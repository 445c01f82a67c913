// RoIAlign on channels_last maps: every number is a run of channels, and the two banded products of a RoI are
// weighted sums of such runs. Included by kernel_table.h.

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

// to[0 .. N registers) (+)= sum over i of weights[i] * from[offsets[i] ...].
template <int N, bool kAdd, typename S, typename T>
MRCNN_INLINE void sum_runs(const S* from, const int64_t* offsets, const Accumulator<T>* weights,
                           int32_t terms, T* to) {
  using A = Accumulator<T>;
  constexpr int kLanes = Register<A>::kLanes;
  Vector<A> sums[N] = {};
  if constexpr (kAdd) {
    for (int v = 0; v < N; ++v) sums[v] = load(to + v * kLanes);
  }
  for (int32_t i = 0; i < terms; ++i) {
    const S* run = from + offsets[i];
    const Vector<A> weight = Vector<A>{} + weights[i];
    for (int v = 0; v < N; ++v) sums[v] += load(run + v * kLanes) * weight;
  }
  for (int v = 0; v < N; ++v) store(sums[v], to + v * kLanes);
}

template <bool kAdd, typename S, typename T>
MRCNN_INLINE void sum_channels(const S* from, const int64_t* offsets, const Accumulator<T>* weights,
                               int32_t terms, int64_t channels, T* to) {
  using A = Accumulator<T>;
  constexpr int kLanes = Register<A>::kLanes;
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
    sum_runs<4, kAdd>(from + c, offsets, weights, terms, to + c);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    sum_runs<1, kAdd>(from + c, offsets, weights, terms, to + c);
  }
  if (c < channels) {
    Vector<A> sum = {};
    if constexpr (kAdd) sum = load_some(to + c, channels - c);
    for (int32_t i = 0; i < terms; ++i) {
      sum += load_some(from + offsets[i] + c, channels - c) * (Vector<A>{} + weights[i]);
    }
    store_some(sum, to + c, channels - c);
  }
}

// The offsets of runs, behind the averaged runs in a thread's memory; nhwc_scratch() leaves room to align
// them.
template <typename A>
MRCNN_INLINE int64_t* offsets_behind(A* averaged) {
  constexpr uintptr_t kAlign = alignof(int64_t);
  return reinterpret_cast<int64_t*>((reinterpret_cast<uintptr_t>(averaged) + kAlign - 1) / kAlign * kAlign);
}

template <typename T>
void pool_nhwc(const T* window, int64_t row_stride, int64_t pixel_stride, int64_t channels,
               const RoIPlan<Accumulator<T>>& plan, Accumulator<T>* scratch, T* pooled,
               int64_t pooled_stride) {
  using A = Accumulator<T>;
  const BandMatrix<A>& rows = plan.y.gather;
  const BandMatrix<A>& columns = plan.x.gather;
  A* averaged = scratch;
  int64_t* offsets = offsets_behind(scratch + plan.x.extent * channels);
  for (int32_t bin_y = 0; bin_y < rows.rows; ++bin_y) {
    const int32_t begin = rows.start[bin_y];
    const int32_t terms = rows.start[bin_y + 1] - begin;
    for (int32_t i = 0; i < terms; ++i) offsets[i] = rows.column[begin + i] * row_stride;
    for (int32_t x = 0; x < plan.x.extent; ++x) {
      if (plan.x.scatter.start[x] == plan.x.scatter.start[x + 1]) continue;
      sum_channels<false>(window + x * pixel_stride, offsets, rows.weight + begin, terms, channels,
                          averaged + x * channels);
    }
    for (int32_t bin_x = 0; bin_x < columns.rows; ++bin_x) {
      const int32_t first = columns.start[bin_x];
      const int32_t count = columns.start[bin_x + 1] - first;
      for (int32_t i = 0; i < count; ++i) offsets[i] = columns.column[first + i] * channels;
      sum_channels<false>(averaged, offsets, columns.weight + first, count, channels,
                          pooled + (int64_t(bin_y) * columns.rows + bin_x) * pooled_stride);
    }
  }
}

template <typename T>
void spread_nhwc_row(const T* pooled_grad, int64_t pooled_stride, int64_t channels,
                     const RoIPlan<Accumulator<T>>& plan, int32_t row, Accumulator<T>* scratch,
                     Accumulator<T>* pixels) {
  using A = Accumulator<T>;
  const BandMatrix<A>& rows = plan.y.scatter;
  const BandMatrix<A>& columns = plan.x.scatter;
  const int32_t begin = rows.start[row];
  const int32_t terms = rows.start[row + 1] - begin;
  if (terms == 0) return;
  const int64_t width = rows.columns > 0 ? plan.x.gather.rows : 0;
  A* averaged = scratch;
  int64_t* offsets = offsets_behind(scratch + width * channels);
  for (int32_t i = 0; i < terms; ++i) offsets[i] = rows.column[begin + i] * width * pooled_stride;
  for (int64_t bin_x = 0; bin_x < width; ++bin_x) {
    sum_channels<false>(pooled_grad + bin_x * pooled_stride, offsets, rows.weight + begin, terms, channels,
                        averaged + bin_x * channels);
  }
  for (int32_t x = 0; x < plan.x.extent; ++x) {
    const int32_t first = columns.start[x];
    const int32_t count = columns.start[x + 1] - first;
    if (count == 0) continue;
    for (int32_t i = 0; i < count; ++i) offsets[i] = columns.column[first + i] * channels;
    sum_channels<true>(averaged, offsets, columns.weight + first, count, channels, pixels + x * channels);
  }
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
