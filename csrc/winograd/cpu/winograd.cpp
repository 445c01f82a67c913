// What comes before and after the matrix products of a 3x3 convolution by F(4x4, 3x3), and of its gradients,
// on the CPU, for maps and weights that lie channels last.
//
// The points are 0, 1, -1, 1/2, -2 and infinity. With the customary 2 instead of 1/2, errors are three times
// as large (Barabasz et al., arXiv 1803.10986, on the choice of points).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "common/cpu/huge_pages.h"
#include "common/cpu/simd_level.h"

#define MRCNN_LEVEL_FILE "winograd/cpu/transforms.h"
#include "common/cpu/each_level.h"

namespace mrcnn_plugin {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kTile = 4;
// Of the widest register: at every level all channels are whole registers.
constexpr int64_t kChannelMultiple = 16;
// Tiles that a thread takes at once.
constexpr int64_t kGrain = 8;

// A map (N, C, H, W) that lies channels last, cut into tiles of 4x4 pixels, row by row, image by image.
struct Tiles {
  int64_t channels, height, width, rows, columns, count;

  explicit Tiles(const Tensor& map)
      : channels(map.size(1)),
        height(map.size(2)),
        width(map.size(3)),
        rows((height + kTile - 1) / kTile),
        columns((width + kTile - 1) / kTile),
        count(map.size(0) * rows * columns) {}

  int64_t image(int64_t tile) const { return tile / (rows * columns); }
  int64_t top(int64_t tile) const { return tile / columns % rows * kTile; }
  int64_t left(int64_t tile) const { return tile % columns * kTile; }
  bool holds(int64_t y, int64_t x) const { return y >= 0 && y < height && x >= 0 && x < width; }
  int64_t offset(int64_t image, int64_t y, int64_t x) const {
    return ((image * height + y) * width + x) * channels;
  }
};

void check_map(const Tensor& map, const char* name) {
  STD_TORCH_CHECK(map.dim() == 4, name, " must have shape (N, C, H, W)");
  STD_TORCH_CHECK(map.scalar_type() == ScalarType::Float, name, " must be float32");
  const int64_t c = map.size(1), h = map.size(2), w = map.size(3);
  STD_TORCH_CHECK(c % kChannelMultiple == 0, name, " must have a multiple of 16 channels, got ", c);
  const bool dense = (c == 1 || map.stride(1) == 1) && (w == 1 || map.stride(3) == c) &&
                     (h == 1 || map.stride(2) == c * w) && (map.size(0) == 1 || map.stride(0) == c * h * w);
  STD_TORCH_CHECK(dense, name, " must be contiguous in memory format channels_last");
}

// Sums of `first` and `count` may overflow.
void check_tiles(const Tiles& tiles, int64_t first, int64_t count) {
  STD_TORCH_CHECK(0 <= first && 0 <= count && first <= tiles.count && count <= tiles.count - first, count,
                  " tiles from ", first, " on are not among the map's ", tiles.count);
}

Tensor winograd_input(Tensor input, int64_t first, int64_t count) {
  check_map(input, "input");
  const Tiles tiles(input);
  check_tiles(tiles, first, count);
  const auto transform = MRCNN_FOR_LEVEL(simd_level(), transform_tile);
  Tensor out = torch::stable::new_empty(input, {36, count, tiles.channels}, ScalarType::Float);
  const float* data = input.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  const std::vector<float> zeros(tiles.channels, 0.0f);
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    const float* pixels[36];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = tiles.image(first + i);
      // One pixel of padding.
      const int64_t top = tiles.top(first + i) - 1, left = tiles.left(first + i) - 1;
      for (int64_t p = 0; p < 36; ++p) {
        const int64_t y = top + p / 6, x = left + p % 6;
        pixels[p] = tiles.holds(y, x) ? data + tiles.offset(image, y, x) : zeros.data();
      }
      transform(pixels, tiles.channels, out_data + i * tiles.channels, count * tiles.channels);
    }
  });
  return out;
}

void winograd_output(Tensor output, Tensor products, std::optional<Tensor> bias, int64_t first,
                     bool accumulate, bool relu) {
  check_map(output, "output");
  const Tiles tiles(output);
  STD_TORCH_CHECK(products.dim() == 3 && products.size(0) == 36 && products.size(2) == tiles.channels,
                  "products must have shape (36, tiles, ", tiles.channels, ")");
  STD_TORCH_CHECK(products.scalar_type() == ScalarType::Float, "products must be float32");
  const int64_t count = products.size(1);
  check_tiles(tiles, first, count);
  const Tensor rows = torch::stable::contiguous(products);
  const float* bias_data = nullptr;
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == tiles.channels && bias->is_contiguous() &&
                        bias->scalar_type() == ScalarType::Float,
                    "bias must be contiguous float32 of shape (", tiles.channels, ",)");
    bias_data = bias->const_data_ptr<float>();
  }
  const auto combine = MRCNN_FOR_LEVEL(simd_level(), combine_tile);
  const float* data = rows.const_data_ptr<float>();
  float* out_data = output.mutable_data_ptr<float>();
  if (first == 0 && !accumulate) use_huge_pages(output);
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    float* pixels[16];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = tiles.image(first + i);
      const int64_t top = tiles.top(first + i), left = tiles.left(first + i);
      for (int64_t p = 0; p < 16; ++p) {
        const int64_t y = top + p / 4, x = left + p % 4;
        pixels[p] = tiles.holds(y, x) ? out_data + tiles.offset(image, y, x) : nullptr;
      }
      combine(data + i * tiles.channels, count * tiles.channels, bias_data, tiles.channels, accumulate, relu,
              pixels);
    }
  });
}

// aten::bmm, for which torch/csrc/stable/ops.h has no wrapper.
Tensor bmm(const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(a), torch::stable::detail::from(b)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::bmm", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The whole convolution, `part` tiles at once: one call of a program that is not Python.
Tensor winograd_conv2d(Tensor input, Tensor weight, std::optional<Tensor> bias,
                       std::optional<Tensor> residual, bool relu, int64_t part) {
  check_map(input, "input");
  STD_TORCH_CHECK(weight.dim() == 3 && weight.size(0) == 36 && weight.size(1) == input.size(1) &&
                      weight.scalar_type() == ScalarType::Float,
                  "weight must be float32 of shape (36, ", input.size(1), ", C')");
  STD_TORCH_CHECK(part > 0, "part must be positive, got ", part);
  const std::array<int64_t, 4> shape{input.size(0), weight.size(2), input.size(2), input.size(3)};
  Tensor output = torch::stable::empty(shape, ScalarType::Float, std::nullopt, input.device(), std::nullopt,
                                       torch::headeronly::MemoryFormat::ChannelsLast);
  if (residual.has_value()) {
    check_map(*residual, "residual");
    for (int64_t axis = 0; axis < 4; ++axis) {
      STD_TORCH_CHECK(residual->size(axis) == shape[axis], "residual must have the result's shape");
    }
    torch::stable::copy_(output, *residual);
  }
  const Tiles tiles(input);
  for (int64_t first = 0; first < tiles.count; first += part) {
    const int64_t count = std::min(part, tiles.count - first);
    const Tensor products = bmm(winograd_input(input, first, count), weight);
    winograd_output(output, products, bias, first, residual.has_value(), relu);
  }
  return output;
}

Tensor winograd_gradient(Tensor grad, int64_t first, int64_t count) {
  check_map(grad, "grad");
  const Tiles tiles(grad);
  STD_TORCH_CHECK(0 <= first && 0 <= count && first + count <= tiles.count, "tiles ", first, " to ",
                  first + count, " are not among the map's ", tiles.count);
  const auto spread = MRCNN_FOR_LEVEL(simd_level(), spread_tile);
  Tensor out = torch::stable::new_empty(grad, {36, count, tiles.channels}, ScalarType::Float);
  const float* data = grad.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  const std::vector<float> zeros(tiles.channels, 0.0f);
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    const float* pixels[16];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = tiles.image(first + i);
      const int64_t top = tiles.top(first + i), left = tiles.left(first + i);
      for (int64_t p = 0; p < 16; ++p) {
        const int64_t y = top + p / 4, x = left + p % 4;
        pixels[p] = tiles.holds(y, x) ? data + tiles.offset(image, y, x) : zeros.data();
      }
      spread(pixels, tiles.channels, out_data + i * tiles.channels, count * tiles.channels);
    }
  });
  return out;
}

Tensor winograd_filter(Tensor weight, bool flip) {
  check_map(weight, "weight");
  STD_TORCH_CHECK(weight.size(2) == 3 && weight.size(3) == 3, "weight must have shape (C', C, 3, 3)");
  const int64_t filters = weight.size(0), channels = weight.size(1);
  const auto transform = MRCNN_FOR_LEVEL(simd_level(), transform_filter);
  Tensor out = torch::stable::new_empty(weight, {36, filters, channels}, ScalarType::Float);
  const float* data = weight.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, filters, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      transform(data + 9 * i * channels, channels, flip, out_data + i * channels, filters * channels);
    }
  });
  return out;
}

Tensor winograd_filter_backward(Tensor products) {
  STD_TORCH_CHECK(products.dim() == 3 && products.size(0) == 36 && products.size(2) % kChannelMultiple == 0,
                  "products must have shape (36, C', C), C a multiple of 16");
  STD_TORCH_CHECK(products.scalar_type() == ScalarType::Float, "products must be float32");
  const int64_t filters = products.size(1), channels = products.size(2);
  const auto combine = MRCNN_FOR_LEVEL(simd_level(), combine_filter);
  const Tensor rows = torch::stable::contiguous(products);
  Tensor grad =
      torch::stable::empty({filters, channels, 3, 3}, ScalarType::Float, std::nullopt, products.device(),
                           std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
  const float* data = rows.const_data_ptr<float>();
  float* grad_data = grad.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, filters, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      combine(data + i * channels, filters * channels, channels, grad_data + 9 * i * channels);
    }
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_plugin, CPU, m) {
  m.impl("winograd_input", TORCH_BOX(&winograd_input));
  m.impl("winograd_output", TORCH_BOX(&winograd_output));
  m.impl("winograd_conv2d", TORCH_BOX(&winograd_conv2d));
  m.impl("winograd_gradient", TORCH_BOX(&winograd_gradient));
  m.impl("winograd_filter", TORCH_BOX(&winograd_filter));
  m.impl("winograd_filter_backward", TORCH_BOX(&winograd_filter_backward));
}

}  // namespace mrcnn_plugin
