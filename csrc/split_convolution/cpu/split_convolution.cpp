// Convolutions of float32 maps that lie channels last, as matrix products on the processor's matrix tiles.
//
// A block of a map's pixels is copied, with the pixels around it, into rows of bfloat16, line by line. In
// that copy the pixel under another weight of a filter is a fixed number of rows away: a convolution of k x k
// is the sum of k^2 matrix products whose left factors are the same rows, shifted. Rows at the end of a line
// that have no result of their own are computed and dropped.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "common/cpu/huge_pages.h"
#include "common/cpu/parallel.h"
#include "split_convolution/cpu/tiles.h"

#if MRCNN_MATRIX_TILES
// g++ 12 finds fault with its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mrcnn_plugin {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#if MRCNN_MATRIX_TILES

bool has_matrix_tiles() {
  static const bool found = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24;
    if ((d & kBFloat16) == 0 || (d & kTiles) == 0) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & (1u << 5)) == 0) return false;  // AVX512_BF16
    // ARCH_REQ_XCOMP_PERM for the tiles' data: Linux asks for it once per process.
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  }();
  // Who names an instruction set has that alone: avx512 is without tiles.
  const char* requested = std::getenv("MRCNN_PLUGIN_SIMD");
  return found && (requested == nullptr || *requested == '\0') && simd_level() == SimdLevel::avx512;
}

namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bytes that a core keeps near: of a block's rows, one by one or while all weights stay there too, and of
// weights.
constexpr int64_t kBlockBytes = 640 << 10;
constexpr int64_t kBlockBytesBesideWeights = 256 << 10;
constexpr int64_t kNearWeights = 1100 << 10;
// Pixels of a block's line, where the map is wider.
constexpr int64_t kLine = 62;

// A map (N, C, H, W) that lies channels last.
struct Map {
  int64_t images, channels, height, width;

  explicit Map(const Tensor& map)
      : images(map.size(0)), channels(map.size(1)), height(map.size(2)), width(map.size(3)) {}

  int64_t offset(int64_t image, int64_t y, int64_t x) const {
    return ((image * height + y) * width + x) * channels;
  }
};

struct Arguments {
  Map input, output;
  int64_t kernel, stride;
  const float* data;
  const char* weight;
  const float* bias;
  float* result;
  bool accumulate, relu;

  int64_t steps() const { return divide_up(input.channels, kStep); }
  // Bytes of the weights of 32 filters.
  int64_t group_bytes() const { return kernel * kernel * steps() * kRightBlock; }
  // Whether all weights stay near a core.
  bool weight_stays() const { return group_bytes() * divide_up(output.channels, kBlock) <= kNearWeights; }
};

// How the map of results is cut: parts of `height` lines of `width` pixels, `group` of which make a block.
struct Cut {
  int64_t height, width, rows, columns, images, group;
  // Rows of a part's copy: `pitch` per line.
  int64_t pitch, results, copied;

  Cut(const Arguments& arguments, int64_t threads) {
    const int64_t around = arguments.kernel - 1;
    const int64_t bytes = arguments.weight_stays() ? kBlockBytesBesideWeights : kBlockBytes;
    const int64_t budget = std::max(kBlock, bytes / (arguments.steps() * kSplitRow));
    int64_t map_height = arguments.output.height, map_width = arguments.output.width;
    images = arguments.output.images;
    if (around == 0 && arguments.stride == 1) {
      // Lines mean nothing.
      map_width *= map_height * images;
      map_height = images = 1;
      const int64_t fair = divide_up(divide_up(map_width, 2 * threads), kBlock) * kBlock;
      width = std::min({map_width, budget / kBlock * kBlock, fair});
    } else {
      width = divide_up(map_width, divide_up(map_width, kLine));
    }
    pitch = width + around;
    const int64_t fair = divide_up(map_height * images, 2 * threads);
    height = std::min({map_height, std::max<int64_t>(1, budget / pitch - around), fair});
    height = divide_up(map_height, divide_up(map_height, height));
    rows = divide_up(map_height, height);
    columns = divide_up(map_width, width);
    results = divide_up(height * pitch, kBlock) * kBlock;
    copied = results + around * pitch + around;
    group = std::max<int64_t>(1, budget / copied);
    group = std::min(group, std::max<int64_t>(1, parts() / (2 * threads)));
  }

  int64_t parts() const { return images * rows * columns; }
};

// A thread's memory: rows, step by step, and where each result goes, or -1.
struct Scratch {
  Lines rows;
  std::vector<int64_t> places;
  TileScope tiles;

  Scratch(const Arguments& arguments, const Cut& cut)
      : rows(arguments.steps() * cut.group * cut.copied * kSplitRow), places(cut.group * cut.results) {}
};

MRCNN_TILES void copy_pixel(const float* pixel, int64_t channels, char* to, int64_t step_bytes) {
  int64_t c = 0;
  for (; c + kStep <= channels; c += kStep, to += step_bytes) {
    split(_mm512_loadu_ps(pixel + c), _mm512_loadu_ps(pixel + c + 16), to);
  }
  if (c < channels) {
    const uint32_t present = (uint32_t(1) << (channels - c)) - 1;
    split(_mm512_maskz_loadu_ps(__mmask16(present), pixel + c),
          _mm512_maskz_loadu_ps(__mmask16(present >> 16), pixel + std::min(c + 16, channels)), to);
  }
}

void clear_pixel(char* to, int64_t steps, int64_t step_bytes) {
  for (int64_t step = 0; step < steps; ++step) std::memset(to + step * step_bytes, 0, kSplitRow);
}

// The rows of part `part`, the `slot`-th of its block, and the places of its results.
void copy_part(const Arguments& arguments, const Cut& cut, int64_t part, int64_t slot, Scratch& scratch) {
  const Map& input = arguments.input;
  const Map& output = arguments.output;
  const int64_t steps = arguments.steps(), around = arguments.kernel - 1;
  const int64_t step_bytes = cut.group * cut.copied * kSplitRow;
  char* to = scratch.rows.data() + slot * cut.copied * kSplitRow;
  int64_t* places = scratch.places.data() + slot * cut.results;
  std::fill(places, places + cut.results, -1);
  int64_t row = 0;
  if (around == 0 && arguments.stride == 1) {
    const int64_t first = part * cut.width;
    const int64_t count = std::min(cut.width, output.images * output.height * output.width - first);
    for (; row < count; ++row, to += kSplitRow) {
      copy_pixel(arguments.data + (first + row) * input.channels, input.channels, to, step_bytes);
      places[row] = (first + row) * output.channels;
    }
  } else {
    const int64_t image = part / (cut.rows * cut.columns);
    const int64_t top = part / cut.columns % cut.rows * cut.height, left = part % cut.columns * cut.width;
    const int64_t height = std::min(cut.height, output.height - top);
    const int64_t width = std::min(cut.width, output.width - left);
    const int64_t margin = around / 2;
    for (int64_t y = 0; y < cut.height + around; ++y) {
      const int64_t from_y = (top + y - margin) * arguments.stride;
      for (int64_t x = 0; x < cut.pitch; ++x, ++row, to += kSplitRow) {
        const int64_t from_x = (left + x - margin) * arguments.stride;
        if (from_y >= 0 && from_y < input.height && from_x >= 0 && from_x < input.width) {
          copy_pixel(arguments.data + input.offset(image, from_y, from_x), input.channels, to, step_bytes);
        } else {
          clear_pixel(to, steps, step_bytes);
        }
        if (y < height && x < width) places[row] = output.offset(image, top + y, left + x);
      }
    }
  }
  for (; row < cut.copied; ++row, to += kSplitRow) clear_pixel(to, steps, step_bytes);
}

// What is left to do with 32 x 32 sums: `columns` of them from channel `first` on.
MRCNN_TILES void write_results(const Arguments& arguments, const float* sums, const int64_t* places,
                               int64_t first, int64_t columns) {
  const uint32_t present = columns >= kBlock ? ~uint32_t(0) : (uint32_t(1) << columns) - 1;
  const __mmask16 masks[2] = {__mmask16(present), __mmask16(present >> 16)};
  for (int64_t half = 0; half < 2; ++half) {
    const __mmask16 mask = masks[half];
    if (mask == 0) return;
    const int64_t channel = first + 16 * half;
    const __m512 bias =
        arguments.bias ? _mm512_maskz_loadu_ps(mask, arguments.bias + channel) : _mm512_setzero_ps();
    for (int64_t row = 0; row < kBlock; ++row) {
      if (places[row] < 0) continue;
      float* to = arguments.result + places[row] + channel;
      __m512 value = _mm512_add_ps(_mm512_load_ps(sums + row * kBlock + 16 * half), bias);
      if (arguments.accumulate) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, to));
      // A NaN stays one: the second operand is the result where a comparison fails.
      if (arguments.relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
      _mm512_mask_storeu_ps(to, mask, value);
    }
  }
}

// 32 results of 32 channels: those of a block's rows from `row` on, of its part `slot`.
MRCNN_TILES void convolve_rows(const Arguments& arguments, const Cut& cut, const Scratch& scratch,
                               int64_t slot, int64_t row, int64_t channel) {
  const int64_t steps = arguments.steps(), kernel = arguments.kernel;
  const int64_t step_bytes = cut.group * cut.copied * kSplitRow;
  const char* left = scratch.rows.data() + (slot * cut.copied + row) * kSplitRow;
  const char* right = arguments.weight + channel / kBlock * arguments.group_bytes();
  alignas(64) float sums[kBlock * kBlock];
  clear_results();
  for (int64_t y = 0; y < kernel; ++y) {
    for (int64_t step = 0; step < steps; ++step) {
      // Three shifts of the same rows, which stay in the nearest cache.
      const char* shifted = left + y * cut.pitch * kSplitRow + step * step_bytes;
      for (int64_t x = 0; x < kernel; ++x, shifted += kSplitRow, right += kRightBlock) {
        add_product(shifted, kSplitRow, right);
      }
    }
  }
  store_results(sums);
  const int64_t* places = scratch.places.data() + slot * cut.results + row;
  write_results(arguments, sums, places, channel, arguments.output.channels - channel);
}

void convolve_block(const Arguments& arguments, const Cut& cut, int64_t block, Scratch& scratch) {
  const int64_t first = block * cut.group;
  const int64_t count = std::min(cut.group, cut.parts() - first);
  for (int64_t slot = 0; slot < count; ++slot) copy_part(arguments, cut, first + slot, slot, scratch);
  finish_writes();
  const int64_t channels = arguments.output.channels;
  if (arguments.weight_stays()) {
    // Results are written pixel by pixel, as they lie.
    for (int64_t slot = 0; slot < count; ++slot) {
      for (int64_t row = 0; row < cut.results; row += kBlock) {
        for (int64_t channel = 0; channel < channels; channel += kBlock) {
          convolve_rows(arguments, cut, scratch, slot, row, channel);
        }
      }
    }
    return;
  }
  for (int64_t channel = 0; channel < channels; channel += kBlock) {
    for (int64_t slot = 0; slot < count; ++slot) {
      for (int64_t row = 0; row < cut.results; row += kBlock) {
        convolve_rows(arguments, cut, scratch, slot, row, channel);
      }
    }
  }
}

// Blocks of a weight's packed form: see split_weight.
struct PackedShape {
  int64_t groups, kernel, steps;
};

PackedShape packed_shape(int64_t filters, int64_t channels, int64_t kernel) {
  return {divide_up(filters, kBlock), kernel, divide_up(channels, kStep)};
}

// 32 x 32 weights, of filters (columns) and channels (rows), as four tiles.
MRCNN_TILES void pack_block(const float* weight, int64_t filters, int64_t filter_stride, int64_t channels,
                            int64_t channel_stride, char* to) {
  const __m512i places =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(int(filter_stride)));
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t left = std::clamp<int64_t>(filters - 16 * half, 0, 16);
    const __mmask16 mask = __mmask16((uint32_t(1) << left) - 1);
    const float* from = weight + 16 * half * filter_stride;
    const __m512 zero = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < 16; ++pair) {
      char* row = to + 1024 * half + 64 * pair;
      const int64_t channel = 2 * pair;
      const float* at = from + channel * channel_stride;
      const __m512 first =
          _mm512_mask_i32gather_ps(zero, channel < channels ? mask : __mmask16(0), places, at, 4);
      const __m512 second = _mm512_mask_i32gather_ps(zero, channel + 1 < channels ? mask : __mmask16(0),
                                                     places, at + channel_stride, 4);
      split_pairs(first, second, row, row + 2048);
    }
  }
}

void check_map(const Tensor& map, const char* name) {
  STD_TORCH_CHECK(map.dim() == 4, name, " must have shape (N, C, H, W)");
  STD_TORCH_CHECK(map.scalar_type() == ScalarType::Float, name, " must be float32");
  const int64_t c = map.size(1), h = map.size(2), w = map.size(3);
  const bool dense = (c == 1 || map.stride(1) == 1) && (w == 1 || map.stride(3) == c) &&
                     (h == 1 || map.stride(2) == c * w) && (map.size(0) == 1 || map.stride(0) == c * h * w);
  STD_TORCH_CHECK(dense, name, " must be contiguous in memory format channels_last");
}

Tensor split_weight(Tensor weight, bool flip) {
  STD_TORCH_CHECK(has_matrix_tiles(), "this processor has no matrix tiles of bfloat16");
  check_map(weight, "weight");
  const int64_t kernel = weight.size(2), taps = kernel * kernel, stride = weight.size(1);
  STD_TORCH_CHECK(weight.size(3) == kernel, "weight must have shape (C', C, k, k)");
  STD_TORCH_CHECK(16 * taps * std::max(stride, weight.size(0)) < (int64_t(1) << 31), "weight is too large");
  // The gradient of the input is the convolution with each filter turned, in and out changed.
  const int64_t filters = weight.size(flip ? 1 : 0), channels = weight.size(flip ? 0 : 1);
  const PackedShape shape = packed_shape(filters, channels, kernel);
  Tensor packed = torch::stable::new_empty(weight, {shape.groups, kernel, shape.steps, kernel, 2, 2, 16, 32},
                                           ScalarType::BFloat16);
  const float* data = weight.const_data_ptr<float>();
  char* out = static_cast<char*>(packed.mutable_data_ptr());
  const int64_t filter_stride = flip ? 1 : taps * stride, channel_stride = flip ? taps * stride : 1;
  // Tensors are aligned to whole cache lines.
  torch::stable::parallel_for(0, shape.groups * kernel, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / kernel, y = i % kernel;
      for (int64_t j = 0; j < shape.steps * kernel; ++j) {
        const int64_t step = j / kernel, tap = y * kernel + j % kernel;
        const float* from = data + (flip ? taps - 1 - tap : tap) * stride + group * kBlock * filter_stride +
                            step * kStep * channel_stride;
        pack_block(from, filters - group * kBlock, filter_stride, channels - step * kStep, channel_stride,
                   out + (i * shape.steps * kernel + j) * kRightBlock);
      }
    }
  });
  return packed;
}

void split_conv2d_out(Tensor output, Tensor input, Tensor weight, std::optional<Tensor> bias, int64_t stride,
                      bool accumulate, bool relu) {
  STD_TORCH_CHECK(has_matrix_tiles(), "this processor has no matrix tiles of bfloat16");
  check_map(input, "input");
  check_map(output, "output");
  Arguments arguments{Map(input), Map(output), 0,       stride,     nullptr,
                      nullptr,    nullptr,     nullptr, accumulate, relu};
  const Map &in = arguments.input, &out = arguments.output;
  STD_TORCH_CHECK(weight.dim() == 8 && weight.scalar_type() == ScalarType::BFloat16 &&
                      weight.is_contiguous() && (weight.size(1) == 1 || weight.size(1) == 3),
                  "weight must be one of 1x1 or 3x3 from split_weight");
  arguments.kernel = weight.size(1);
  STD_TORCH_CHECK(stride >= 1 && (stride == 1 || arguments.kernel == 1), "stride must be 1, got ", stride);
  STD_TORCH_CHECK(
      weight.size(0) == divide_up(out.channels, kBlock) && weight.size(2) == divide_up(in.channels, kStep),
      "weight must be of ", in.channels, " channels and ", out.channels, " filters");
  STD_TORCH_CHECK(in.channels > 0, "input must have channels");
  STD_TORCH_CHECK(in.images == out.images && out.height == divide_up(in.height, stride) &&
                      out.width == divide_up(in.width, stride),
                  "output must be of the input's images and size over the stride");
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == out.channels && bias->is_contiguous() &&
                        bias->scalar_type() == ScalarType::Float,
                    "bias must be contiguous float32 of shape (", out.channels, ",)");
    arguments.bias = bias->const_data_ptr<float>();
  }
  if (out.images * out.height * out.width * out.channels == 0) return;
  if (!accumulate) use_huge_pages(output);
  arguments.data = input.const_data_ptr<float>();
  arguments.weight = static_cast<const char*>(weight.const_data_ptr());
  arguments.result = output.mutable_data_ptr<float>();
  const Cut cut(arguments, int64_t(torch::stable::get_num_threads()));
  parallel_tasks(
      divide_up(cut.parts(), cut.group), [&](int64_t) { return std::make_unique<Scratch>(arguments, cut); },
      [&](std::unique_ptr<Scratch>& scratch, int64_t block) {
        convolve_block(arguments, cut, block, *scratch);
      });
}

// For graphs: with a result of its own.
Tensor split_conv2d(Tensor input, Tensor weight, int64_t out_channels, std::optional<Tensor> bias,
                    std::optional<Tensor> residual, int64_t stride, bool relu) {
  check_map(input, "input");
  STD_TORCH_CHECK(out_channels > 0 && stride > 0, "out_channels and stride must be positive, got ",
                  out_channels, " and ", stride);
  const std::array<int64_t, 4> shape{input.size(0), out_channels, divide_up(input.size(2), stride),
                                     divide_up(input.size(3), stride)};
  Tensor output = torch::stable::empty(shape, ScalarType::Float, std::nullopt, input.device(), std::nullopt,
                                       torch::headeronly::MemoryFormat::ChannelsLast);
  if (residual.has_value()) {
    check_map(*residual, "residual");
    for (int64_t axis = 0; axis < 4; ++axis) {
      STD_TORCH_CHECK(residual->size(axis) == shape[axis], "residual must have the result's shape");
    }
    torch::stable::copy_(output, *residual);
  }
  split_conv2d_out(output, input, weight, bias, stride, residual.has_value(), relu);
  return output;
}

}  // namespace

#else

bool has_matrix_tiles() { return false; }

namespace {

Tensor split_weight(Tensor, bool) { STD_TORCH_CHECK(false, "this build has no kernels for matrix tiles"); }

void split_conv2d_out(Tensor, Tensor, Tensor, std::optional<Tensor>, int64_t, bool, bool) {
  STD_TORCH_CHECK(false, "this build has no kernels for matrix tiles");
}

Tensor split_conv2d(Tensor, Tensor, int64_t, std::optional<Tensor>, std::optional<Tensor>, int64_t, bool) {
  STD_TORCH_CHECK(false, "this build has no kernels for matrix tiles");
}

}  // namespace

#endif

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("split_weight", TORCH_BOX(&split_weight));
  m.impl("split_conv2d_out", TORCH_BOX(&split_conv2d_out));
  m.impl("split_conv2d", TORCH_BOX(&split_conv2d));
}

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CompositeExplicitAutograd, m) {
  m.impl("has_matrix_tiles", TORCH_BOX(&has_matrix_tiles));
}

}  // namespace mrcnn_plugin
