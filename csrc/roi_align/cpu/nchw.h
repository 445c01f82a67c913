// RoIAlign on NCHW maps: whole rows of the window are averaged into bins first (A_y * F), then the few
// numbers of each such row are brought to their bins by register shuffles (* A_x^T). Included by
// kernel_table.h.

namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

// sum += shuffle(from, indices) * weights, over all segments of one block of output lanes.
// Segments read two registers at `offset`, so `from` is readable that far.
template <typename A>
MRCNN_INLINE void apply_shuffles(const Shuffles<A>& shuffles, const A* from, A* to) {
  using R = Register<A>;
  const auto* index = shuffles.index;
  const A* weight = shuffles.weight;
  int32_t block = 0;
  Vector<A> sum = {};
  for (int32_t s = 0; s < shuffles.segments; ++s) {
    const ShuffleSegment segment = shuffles.segment[s];
    for (; block < segment.block; ++block) {
      store(sum, to + block * R::kLanes);
      sum = Vector<A>{};
    }
    const Vector<A> low = load(from + segment.offset);
    const Vector<A> high = load(from + segment.offset + R::kLanes);
    for (int32_t tap = 0; tap < segment.taps; ++tap) {
      const Vector<A> share = load(weight);
      const Vector<A> part = shuffle(low, high, read_as<typename R::Indices>(index)) * share;
      sum += segment.partial ? (share != A(0) ? part : Vector<A>{}) : part;
      index += R::kLanes;
      weight += R::kLanes;
    }
  }
  for (; block < shuffles.blocks; ++block) {
    store(sum, to + block * R::kLanes);
    sum = Vector<A>{};
  }
}

// to[0 .. N registers) = the band's row applied to rows of a map.
template <int N, typename T, typename A>
MRCNN_INLINE void average_rows(const BandMatrix<A>& band, int32_t row, const T* window, int64_t row_stride,
                               A* to) {
  constexpr int kLanes = Register<A>::kLanes;
  Vector<A> sums[N] = {};
  for (int32_t i = band.start[row]; i < band.start[row + 1]; ++i) {
    const T* pixels = window + band.column[i] * row_stride;
    const Vector<A> weight = Vector<A>{} + band.weight[i];
    for (int v = 0; v < N; ++v) sums[v] += load(pixels + v * kLanes) * weight;
  }
  for (int v = 0; v < N; ++v) store(sums[v], to + v * kLanes);
}

template <typename T, typename A>
MRCNN_INLINE void average_all_rows(const BandMatrix<A>& band, const T* window, int64_t row_stride,
                                   int64_t pitch, int32_t vectors, A* to) {
  constexpr int kLanes = Register<A>::kLanes;
  int32_t v = 0;
  for (; v + 4 <= vectors; v += 4) {
    for (int32_t row = 0; row < band.rows; ++row) {
      average_rows<4>(band, row, window + v * kLanes, row_stride, to + row * pitch + v * kLanes);
    }
  }
  for (int32_t row = 0; row < band.rows && v < vectors; ++row) {
    const T* from = window + v * kLanes;
    A* sums = to + row * pitch + v * kLanes;
    if (vectors - v == 3) average_rows<3>(band, row, from, row_stride, sums);
    if (vectors - v == 2) average_rows<2>(band, row, from, row_stride, sums);
    if (vectors - v == 1) average_rows<1>(band, row, from, row_stride, sums);
  }
}

// The same where a full register would reach past the end of the map's memory.
template <typename T, typename A>
void average_all_rows_carefully(const BandMatrix<A>& band, const T* window, int64_t row_stride, int32_t width,
                                int64_t pitch, A* to) {
  for (int32_t row = 0; row < band.rows; ++row) {
    A* sums = to + row * pitch;
    for (int32_t x = 0; x < width; ++x) sums[x] = A(0);
    for (int32_t i = band.start[row]; i < band.start[row + 1]; ++i) {
      const T* pixels = window + band.column[i] * row_stride;
      for (int32_t x = 0; x < width; ++x) sums[x] += A(pixels[x]) * band.weight[i];
    }
  }
}

// One plane whose window fits two registers and whose bins fit one: averaged rows never leave the registers.
template <int N, typename T, typename A>
MRCNN_INLINE void pool_narrow(const RoIPlan<A>& plan, const T* window, int64_t row_stride, A* bins) {
  using R = Register<A>;
  const BandMatrix<A>& band = plan.y.gather;
  const auto* indices = plan.x_gather.index;
  const A* weights = plan.x_gather.weight;
  const int32_t taps = plan.x_gather.segment[0].taps;
  const int32_t width = plan.x.gather.rows;
  for (int32_t row = 0; row < band.rows; ++row) {
    Vector<A> rows[2] = {};
    for (int32_t i = band.start[row]; i < band.start[row + 1]; ++i) {
      const T* pixels = window + band.column[i] * row_stride;
      const Vector<A> weight = Vector<A>{} + band.weight[i];
      for (int v = 0; v < N; ++v) rows[v] += load(pixels + v * R::kLanes) * weight;
    }
    Vector<A> sum = {};
    for (int32_t tap = 0; tap < taps; ++tap) {
      const auto index = read_as<typename R::Indices>(indices + tap * R::kLanes);
      const Vector<A> weight = load(weights + tap * R::kLanes);
      sum += (N == 1 ? shuffle(rows[0], index) : shuffle(rows[0], rows[1], index)) * weight;
    }
    store(sum, bins + row * width);
  }
}

template <typename T, typename A>
MRCNN_INLINE void pool_wide(const RoIPlan<A>& plan, const T* window, const T* end, int64_t row_stride,
                            A* scratch, A* bins) {
  constexpr int kLanes = Register<A>::kLanes;
  const int32_t vectors = (plan.x.extent + kLanes - 1) / kLanes;
  const int64_t pitch = int64_t(vectors + 2) * kLanes;
  if (end - window >= (plan.y.extent - 1) * row_stride + vectors * kLanes) {
    average_all_rows(plan.y.gather, window, row_stride, pitch, vectors, scratch);
  } else {
    average_all_rows_carefully(plan.y.gather, window, row_stride, plan.x.extent, pitch, scratch);
  }
  for (int32_t row = 0; row < plan.y.gather.rows; ++row) {
    apply_shuffles(plan.x_gather, scratch + row * pitch, bins + row * plan.x.gather.rows);
  }
}

// The window of the next plane is asked for while this one is computed: its rows lie too far apart for the
// processor to guess.
template <typename T>
MRCNN_INLINE void prefetch_window(const T* window, int64_t row_stride, int32_t rows, int32_t columns) {
  constexpr int32_t kLine = 64 / int32_t(sizeof(T));
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t x = 0; x < columns + kLine; x += kLine) __builtin_prefetch(window + row * row_stride + x);
  }
}

template <typename T>
void pool_nchw(const T* window, const T* end, int64_t channel_stride, int64_t row_stride, int64_t channels,
               const RoIPlan<Accumulator<T>>& plan, Accumulator<T>* scratch, T* pooled) {
  using A = Accumulator<T>;
  constexpr int kLanes = Register<A>::kLanes;
  const int64_t bin_count = int64_t(plan.y.gather.rows) * plan.x.gather.rows;
  const bool narrow = plan.x_gather.blocks == 1 && plan.x_gather.segments == 1 &&
                      !plan.x_gather.segment[0].partial && plan.x.extent <= 2 * kLanes;
  const int64_t reach = (plan.y.extent - 1) * row_stride + 2 * kLanes;
  A* bins = scratch + plan.y.gather.rows * (plan.x.extent + 3 * kLanes);
  for (int64_t c = 0; c < channels; ++c) {
    const T* plane = window + c * channel_stride;
    if (c + 1 < channels) {
      prefetch_window(plane + channel_stride, row_stride, plan.y.extent, plan.x.extent);
    }
    if (narrow && plan.x.extent <= kLanes && end - plane >= reach) {
      pool_narrow<1>(plan, plane, row_stride, bins);
    } else if (narrow && end - plane >= reach) {
      pool_narrow<2>(plan, plane, row_stride, bins);
    } else {
      pool_wide(plan, plane, end, row_stride, scratch, bins);
    }
    convert(bins, bin_count, pooled + c * bin_count);
  }
}

// planes[row] += sum over bins of weight * spread[bin], for one row of the window.
template <typename A>
MRCNN_INLINE void add_row(const BandMatrix<A>& band, int32_t row, const A* spread, int64_t pitch,
                          int32_t vectors, A* pixels) {
  constexpr int kLanes = Register<A>::kLanes;
  const int32_t begin = band.start[row];
  const int32_t end = band.start[row + 1];
  for (int32_t v = 0; v < vectors; ++v) {
    Vector<A> sum = load(pixels + v * kLanes);
    for (int32_t i = begin; i < end; ++i) {
      sum += load(spread + band.column[i] * pitch + v * kLanes) * (Vector<A>{} + band.weight[i]);
    }
    store(sum, pixels + v * kLanes);
  }
}

template <typename T>
void spread_nchw(const T* pooled_grad, int64_t channels, const RoIPlan<Accumulator<T>>& plan,
                 int32_t row_begin, int32_t row_end, Accumulator<T>* scratch, Accumulator<T>* planes,
                 int64_t plane_stride, int64_t plane_pitch) {
  using A = Accumulator<T>;
  constexpr int kLanes = Register<A>::kLanes;
  const BandMatrix<A>& band = plan.y.scatter;
  const int32_t height = plan.y.gather.rows;
  const int32_t width = plan.x.gather.rows;
  const int32_t vectors = (plan.x.extent + kLanes - 1) / kLanes;
  const int64_t pitch = int64_t(vectors) * kLanes;
  A* bins = scratch + height * pitch;
  int32_t first_bin = height, last_bin = -1;
  for (int32_t i = band.start[row_begin]; i < band.start[row_end]; ++i) {
    first_bin = band.column[i] < first_bin ? band.column[i] : first_bin;
    last_bin = band.column[i] > last_bin ? band.column[i] : last_bin;
  }
  for (int64_t c = 0; c < channels && first_bin <= last_bin; ++c) {
    convert(pooled_grad + c * height * width, int64_t(height) * width, bins);
    for (int32_t bin = first_bin; bin <= last_bin; ++bin) {
      apply_shuffles(plan.x_scatter, bins + bin * width, scratch + bin * pitch);
    }
    A* plane = planes + c * plane_stride;
    for (int32_t row = row_begin; row < row_end; ++row) {
      // Between the samples of a large RoI lie rows that none of them reaches.
      if (band.start[row] == band.start[row + 1]) continue;
      add_row(band, row, scratch, pitch, vectors, plane + (row - row_begin) * plane_pitch);
    }
  }
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
