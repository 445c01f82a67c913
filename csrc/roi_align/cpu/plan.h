// What the CPU kernels of RoIAlign know of a RoI before they touch a feature: its level, and on each axis the
// banded matrix of which bin averages which pixel with what weight. Computed once per RoI, for all channels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <numeric>
#include <tuple>
#include <type_traits>
#include <vector>

#include "roi_align/arguments.h"
#include "roi_align/geometry.h"

namespace mrcnn_plugin {

// A feature map (N, C, height, width) of any strides, counted in elements.
struct LevelShape {
  int64_t height;
  int64_t width;
};

// Memory that is given back all at once; pointers into it stay valid until then.
class Arena {
 public:
  template <typename T>
  T* allocate(int64_t count) {
    const size_t bytes = (size_t(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    if (bytes > left_) grow(bytes);
    T* result = reinterpret_cast<T*>(next_);
    next_ += bytes;
    left_ -= bytes;
    return result;
  }

 private:
  static constexpr size_t kAlign = 64;
  static constexpr size_t kBlock = size_t(1) << 18;

  void grow(size_t bytes) {
    const size_t size = std::max(bytes, kBlock);
    blocks_.emplace_back(new char[size + kAlign]);
    void* start = blocks_.back().get();
    size_t space = size + kAlign;
    next_ = static_cast<char*>(std::align(kAlign, size, start, space));
    left_ = size;
  }

  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

// A banded matrix in compressed rows: row r holds the entries start[r] .. start[r + 1], columns ascending.
template <typename A>
struct BandMatrix {
  int32_t rows = 0;
  int32_t columns = 0;
  const int32_t* start = nullptr;
  const int32_t* column = nullptr;
  const A* weight = nullptr;
};

// A band as register shuffles, for `lanes` numbers per register: segment after segment, `taps` registers of
// indices and of weights, to be applied to the two registers of input at `offset`. A lane with fewer taps
// reads one of its own numbers again, with weight 0; in a `partial` segment some lane has none, and what a
// weight of 0 is multiplied by must not count, as it may be NaN.
struct ShuffleSegment {
  int32_t block;
  int32_t offset;
  int32_t taps;
  bool partial;
};

template <typename A>
struct Shuffles {
  using Index = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  int32_t blocks = 0;
  int32_t segments = 0;
  const ShuffleSegment* segment = nullptr;
  const Index* index = nullptr;
  const A* weight = nullptr;
};

// One axis of a RoI. Pixels are counted from `first`; `gather` has a row per bin, `scatter` is its transpose.
template <typename A>
struct AxisPlan {
  int32_t first = 0;
  int32_t extent = 0;
  BandMatrix<A> gather;
  BandMatrix<A> scatter;
};

template <typename A>
struct RoIPlan {
  int64_t index = 0;
  int64_t batch = 0;
  int32_t level = 0;
  AxisPlan<A> y;
  AxisPlan<A> x;
  Shuffles<A> x_gather;
  Shuffles<A> x_scatter;
};

// Where a RoI lies, before its plan is made.
struct RoIPlace {
  int64_t index;
  int64_t batch;
  int32_t level;
  double top;
};

// `levels` holds the level of each RoI, or is null where FPN's Eq. (1) chooses it.
template <typename Box>
RoIPlace place_roi(const Box* roi, int64_t index, const RoIAlignArguments& arguments, const int64_t* levels) {
  const int level = levels ? int(levels[index])
                           : roi_level(roi[1], roi[2], roi[3], roi[4], int(arguments.scales.size()),
                                       pyramid_min_level(arguments.scales[0]), arguments.canonical_box_size,
                                       int(arguments.canonical_level));
  return {index, int64_t(roi[0]), level, double(roi[2])};
}

// All RoIs by level, image and top edge: neighbours in this order read neighbouring rows of the features.
template <typename Box>
std::vector<RoIPlace> place_rois(const Box* boxes, int64_t count, const RoIAlignArguments& arguments,
                                 const int64_t* levels) {
  std::vector<RoIPlace> places(count);
  for (int64_t k = 0; k < count; ++k) places[k] = place_roi(boxes + 5 * k, k, arguments, levels);
  std::sort(places.begin(), places.end(), [](const RoIPlace& a, const RoIPlace& b) {
    return std::tie(a.level, a.batch, a.top, a.index) < std::tie(b.level, b.batch, b.top, b.index);
  });
  return places;
}

// Builds plans; one builder per thread, as it keeps its working memory.
template <typename A>
class PlanBuilder {
 public:
  PlanBuilder(const RoIAlignArguments& arguments, Arena& arena) : arguments_(arguments), arena_(arena) {}

  template <typename Box>
  RoIPlan<A> build(const Box* boxes, const RoIPlace& place, const LevelShape& shape) {
    const Box* roi = boxes + 5 * place.index;
    const double scale = arguments_.scales[place.level];
    RoIPlan<A> plan{place.index, place.batch, place.level, {}, {}, {}, {}};
    plan.y = build_axis(roi_axis(roi[2], roi[4], scale, arguments_.pooled_height, arguments_.sampling_ratio,
                                 arguments_.aligned),
                        arguments_.pooled_height, shape.height);
    plan.x = build_axis(roi_axis(roi[1], roi[3], scale, arguments_.pooled_width, arguments_.sampling_ratio,
                                 arguments_.aligned),
                        arguments_.pooled_width, shape.width);
    return plan;
  }

  // padded: whether the lanes behind the last row are added to something, too.
  Shuffles<A> pack(const BandMatrix<A>& band, int32_t lanes, bool padded) {
    segments_.clear();
    index_.clear();
    shuffle_weight_.clear();
    const int32_t blocks = (band.rows + lanes - 1) / lanes;
    for (int32_t block = 0; block < blocks; ++block) pack_block(band, block, lanes, padded);
    return {blocks, int32_t(segments_.size()), copy(segments_), copy(index_), copy(shuffle_weight_)};
  }

 private:
  // Takes the entries of `lanes` rows from left to right, two registers of columns at a time.
  void pack_block(const BandMatrix<A>& band, int32_t block, int32_t lanes, bool padded) {
    const int32_t first = block * lanes;
    const int32_t rows = std::min(lanes, band.rows - first);
    next_.assign(band.start + first, band.start + first + rows);
    while (true) {
      int32_t offset = band.columns;
      for (int32_t r = 0; r < rows; ++r) {
        if (next_[r] < band.start[first + r + 1]) offset = std::min(offset, band.column[next_[r]]);
      }
      if (offset == band.columns) return;
      bool partial = padded && rows < lanes;
      for (int32_t r = 0; r < rows; ++r) partial |= !reaches(band, first + r, next_[r], offset, lanes);
      int32_t taps = 0;
      for (bool found = true; found; ++taps) {
        found = false;
        for (int32_t r = 0; r < rows; ++r) found |= reaches(band, first + r, next_[r] + taps, offset, lanes);
        if (!found) break;
        append_tap(band, first, rows, taps, offset, lanes);
      }
      for (int32_t r = 0; r < rows; ++r) {
        while (reaches(band, first + r, next_[r], offset, lanes)) ++next_[r];
      }
      segments_.push_back({block, offset, taps, partial});
    }
  }

  static bool reaches(const BandMatrix<A>& band, int32_t row, int32_t entry, int32_t offset, int32_t lanes) {
    return entry < band.start[row + 1] && band.column[entry] < offset + 2 * lanes;
  }

  void append_tap(const BandMatrix<A>& band, int32_t first, int32_t rows, int32_t tap, int32_t offset,
                  int32_t lanes) {
    for (int32_t r = 0; r < lanes; ++r) {
      const bool used = r < rows && reaches(band, first + r, next_[r] + tap, offset, lanes);
      const bool own = r < rows && reaches(band, first + r, next_[r], offset, lanes);
      index_.push_back(own ? band.column[next_[r] + (used ? tap : 0)] - offset : 0);
      shuffle_weight_.push_back(used ? band.weight[next_[r] + tap] : A(0));
    }
  }

  template <typename V>
  V* copy(const std::vector<V>& from) {
    V* to = arena_.allocate<V>(int64_t(from.size()));
    std::copy(from.begin(), from.end(), to);
    return to;
  }

  AxisPlan<A> build_axis(const RoIAxis& axis, int64_t bins, int64_t size) {
    start_.assign(1, 0);
    column_.clear();
    weight_.clear();
    for (int64_t bin = 0; bin < bins; ++bin) {
      const RoISamples samples = roi_samples(axis, bin, size);
      for (int64_t i = 0; i < samples.count; ++i) {
        const RoITap tap = roi_tap(roi_sample_position(axis, bin, samples.first + double(i)), size);
        if (!tap.inside) continue;
        add(int32_t(tap.low), tap.low_weight);
        if (tap.high_weight != 0.0) add(int32_t(tap.high), tap.high_weight);
      }
      start_.push_back(int32_t(column_.size()));
    }
    AxisPlan<A> plan;
    if (!column_.empty()) {
      plan.first = *std::min_element(column_.begin(), column_.end());
      plan.extent = *std::max_element(column_.begin(), column_.end()) - plan.first + 1;
    }
    const double per_sample = axis.samples > 0.0 ? 1.0 / axis.samples : 0.0;
    plan.gather = store_gather(plan, int32_t(bins), per_sample);
    plan.scatter = store_scatter(plan.gather);
    return plan;
  }

  // Adds to the weight of a pixel in the last row, keeping its columns ascending. Samples come in order, so
  // the place is within a step or two of the end.
  void add(int32_t column, double weight) {
    size_t at = column_.size();
    const size_t row = size_t(start_.back());
    while (at > row && column_[at - 1] > column) --at;
    if (at > row && column_[at - 1] == column) {
      weight_[at - 1] += weight;
    } else {
      column_.insert(column_.begin() + at, column);
      weight_.insert(weight_.begin() + at, weight);
    }
  }

  BandMatrix<A> store_gather(const AxisPlan<A>& plan, int32_t bins, double factor) {
    const int64_t entries = int64_t(column_.size());
    int32_t* start = arena_.allocate<int32_t>(bins + 1);
    int32_t* column = arena_.allocate<int32_t>(entries);
    A* weight = arena_.allocate<A>(entries);
    std::copy(start_.begin(), start_.end(), start);
    for (int64_t i = 0; i < entries; ++i) {
      column[i] = column_[i] - plan.first;
      weight[i] = A(weight_[i] * factor);
    }
    return {bins, plan.extent, start, column, weight};
  }

  BandMatrix<A> store_scatter(const BandMatrix<A>& gather) {
    const int32_t entries = gather.start[gather.rows];
    int32_t* start = arena_.allocate<int32_t>(gather.columns + 1);
    int32_t* column = arena_.allocate<int32_t>(entries);
    A* weight = arena_.allocate<A>(entries);
    std::fill(start, start + gather.columns + 1, 0);
    for (int32_t i = 0; i < entries; ++i) ++start[gather.column[i] + 1];
    std::partial_sum(start, start + gather.columns + 1, start);
    next_.assign(start, start + gather.columns);
    for (int32_t row = 0; row < gather.rows; ++row) {
      for (int32_t i = gather.start[row]; i < gather.start[row + 1]; ++i) {
        const int32_t at = next_[gather.column[i]]++;
        column[at] = row;
        weight[at] = gather.weight[i];
      }
    }
    return {gather.columns, gather.rows, start, column, weight};
  }

  const RoIAlignArguments& arguments_;
  Arena& arena_;
  std::vector<ShuffleSegment> segments_;
  std::vector<typename Shuffles<A>::Index> index_;
  std::vector<A> shuffle_weight_;
  std::vector<int32_t> start_;
  std::vector<int32_t> column_;
  std::vector<double> weight_;
  std::vector<int32_t> next_;
};

}  // namespace mrcnn_plugin
