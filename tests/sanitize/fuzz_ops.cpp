// Arbitrary bytes as arguments of every CPU op: sizes, coordinates, offsets, thresholds. An op may refuse
// them by an exception. It must not read or write outside its tensors, overflow or hang, which the sanitizers
// and the fuzzer watch, and where two ways lead to a result, both must give the same.
//
// Linked with libFuzzer (clang), or with random_inputs.cpp, which draws the bytes by seed (g++).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace {

using at::Tensor;
using torch::jit::Stack;

// What is left of the input; zeros once there is nothing left.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename T>
  T take() {
    T value{};
    const size_t count = std::min(sizeof(T), size_);
    if (count > 0) std::memcpy(&value, data_, count);
    data_ += count;
    size_ -= count;
    return value;
  }
  int64_t below(int64_t bound) { return take<uint8_t>() % bound; }
  bool flag() { return take<uint8_t>() & 1; }
  template <typename T, size_t count>
  T one_of(const T (&values)[count]) {
    return values[below(count)];
  }

  // Mostly a coordinate of a small image, in eighths; now and then a number at some limit, or any bits.
  double real() {
    static const double kSpecial[] = {0.0,
                                      -0.0,
                                      0.5,
                                      -0.5,
                                      1.0,
                                      -1.0,
                                      1e-38,
                                      1e-45,
                                      16777216.0,
                                      2147483648.0,
                                      -2147483649.0,
                                      4294967296.0,
                                      1e18,
                                      -1e30,
                                      3.4e38,
                                      -3.4e38,
                                      1e300,
                                      std::numeric_limits<double>::infinity(),
                                      -std::numeric_limits<double>::infinity(),
                                      std::numeric_limits<double>::quiet_NaN()};
    const uint8_t kind = take<uint8_t>();
    if (kind < 208) return (int64_t(take<uint16_t>() % 1024) - 256) / 8.0;
    if (kind < 232) return kSpecial[kind % (sizeof(kSpecial) / sizeof(double))];
    return kind < 244 ? double(take<float>()) : take<double>();
  }
  // A size or count: mostly small, now and then any 64 bits.
  int64_t integer(int64_t bound) { return take<uint8_t>() < 250 ? below(bound) : take<int64_t>(); }

 private:
  const uint8_t* data_;
  size_t size_;
};

template <typename T>
Tensor reals(Bytes& bytes, at::IntArrayRef sizes, at::ScalarType dtype) {
  // In memory of its own, of exactly its size, so that a read behind its end is found.
  Tensor tensor = at::empty(sizes, dtype);
  T* data = tensor.mutable_data_ptr<T>();
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<T>(bytes.real());
  return tensor;
}

Tensor floats(Bytes& bytes, at::IntArrayRef sizes) { return reals<float>(bytes, sizes, at::kFloat); }

// Values of masks, maps and features: a byte each, so that an input suffices for many; special where it is
// 255.
Tensor pixels(Bytes& bytes, at::IntArrayRef sizes) {
  Tensor tensor = at::empty(sizes, at::kFloat);
  float* data = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const uint8_t value = bytes.take<uint8_t>();
    data[i] = value == 255 ? float(bytes.real()) : float(value) / 128.0f - (value & 1);
  }
  return tensor;
}

// `count` + 1 numbers that rise from 0 to `total`; now and then they do not.
Tensor offsets(Bytes& bytes, int64_t count, int64_t total, int64_t step) {
  Tensor tensor = at::empty({count + 1}, at::kLong);
  int64_t* data = tensor.mutable_data_ptr<int64_t>();
  data[0] = 0;
  for (int64_t i = 1; i <= count; ++i) data[i] = std::min(total, data[i - 1] + step * bytes.below(8));
  data[count] = std::max(data[count], total);
  if (bytes.take<uint8_t>() > 250) data[bytes.below(count + 1)] = bytes.integer(64) - 16;
  return tensor;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz_ops: %s\n", what);
  std::abort();
}

Stack call(const std::string& name, Stack stack) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(("mrcnn_plugin::" + name).c_str(), "");
  op.callBoxed(stack);
  return stack;
}

// The pixels of a COCO code, column after column; what it says must fill the mask exactly.
std::vector<uint8_t> decode(const uint8_t* code, int64_t length, int64_t total) {
  std::vector<uint8_t> mask;
  std::vector<int64_t> runs;
  for (int64_t i = 0; i < length;) {
    int64_t run = 0;
    int shift = 0;
    bool more = true;
    for (; more; shift += 5) {
      require(i < length && code[i] >= '0' && code[i] < '0' + 64 && shift < 40, "a code breaks off");
      const int64_t group = code[i++] - '0';
      run |= (group & 0x1f) << shift;
      more = group & 0x20;
      if (!more && (group & 0x10)) run -= int64_t(1) << (shift + 5);
    }
    if (runs.size() > 2) run += runs[runs.size() - 2];
    require(run >= 0 && int64_t(mask.size()) + run <= total, "a run leaves the mask");
    mask.insert(mask.end(), run, runs.size() % 2);
    runs.push_back(run);
  }
  require(int64_t(mask.size()) == total, "the runs do not fill the mask");
  return mask;
}

void check_code(const Stack& encoded, const Tensor& pasted, int64_t height, int64_t width) {
  const Tensor counts = encoded[0].toTensor(), offsets = encoded[1].toTensor(), areas = encoded[2].toTensor();
  const Tensor columns = pasted.transpose(1, 2).contiguous();
  const int64_t total = height * width;
  for (int64_t i = 0; i < pasted.size(0); ++i) {
    const int64_t begin = offsets[i].item<int64_t>(), end = offsets[i + 1].item<int64_t>();
    const auto mask =
        decode(static_cast<const uint8_t*>(counts.const_data_ptr()) + begin, end - begin, total);
    const bool* pixel = static_cast<const bool*>(columns.const_data_ptr()) + i * total;
    int64_t area = 0;
    for (int64_t p = 0; p < total; ++p) {
      require(bool(mask[p]) == pixel[p], "encode_masks and paste_masks differ");
      area += mask[p];
    }
    require(areas[i].item<int64_t>() == area, "an area is wrong");
  }
}

void masks(Bytes& bytes) {
  const int64_t count = bytes.below(4);
  const Tensor values = pixels(bytes, {count, bytes.below(13), bytes.below(13)});
  const Tensor boxes = floats(bytes, {count, 4});
  int64_t height = bytes.integer(100), width = bytes.integer(100);
  // An op may be given any size; what is pasted must fit into the memory.
  if (height > 0 && width > 0 && height > (1 << 20) / width) width = height % 100, height = 70;
  const double threshold = bytes.flag() ? 0.5 : bytes.real();
  const Stack arguments = {values, boxes, height, width, threshold};
  const Tensor pasted = call("paste_masks", arguments)[0].toTensor();
  if (pasted.scalar_type() == at::kBool) check_code(call("encode_masks", arguments), pasted, height, width);
}

void polygons(Bytes& bytes) {
  const int64_t instances = bytes.below(4), count = bytes.below(6), points = bytes.below(40);
  const Tensor coords = reals<double>(bytes, {2 * points}, at::kDouble);
  const Tensor inner = offsets(bytes, count, 2 * points, 2), outer = offsets(bytes, instances, count, 1);
  const bool wide = bytes.flag();
  const Tensor boxes =
      wide ? reals<double>(bytes, {instances, 4}, at::kDouble) : floats(bytes, {instances, 4});
  const Tensor drawn =
      call("rasterize_polygons", {coords, inner, outer, boxes, bytes.integer(150)})[0].toTensor();
  const uint8_t* cell = static_cast<const uint8_t*>(drawn.const_data_ptr());
  for (int64_t i = 0; i < drawn.numel(); ++i) require(cell[i] <= 1, "a mask holds a byte that is no bool");
}

void nms(Bytes& bytes) {
  const int64_t count = bytes.below(60), segments = bytes.below(5);
  const Tensor boxes = floats(bytes, {count, 4}), ends = offsets(bytes, segments, count, 4);
  const double threshold = bytes.flag() ? bytes.below(100) / 100.0 : bytes.real();
  const Tensor keep = call("nms_segments", {boxes, ends, threshold})[0].toTensor();
  for (int64_t i = 0; i < segments; ++i) {
    const int64_t first = ends[i].item<int64_t>();
    if (first < ends[i + 1].item<int64_t>())
      require(keep[first].item<bool>(), "a segment loses its best box");
  }
}

void nms_groups(Bytes& bytes) {
  const int64_t groups = bytes.below(4), count = bytes.below(30);
  const Tensor boxes = floats(bytes, {groups, count, 4}), scores = floats(bytes, {groups, count});
  const double threshold = bytes.flag() ? bytes.below(100) / 100.0 : bytes.real();
  const Tensor keep = call("nms_mask", {boxes, scores, threshold})[0].toTensor();
  const Tensor taking_part = scores.gt(-std::numeric_limits<double>::infinity());
  require(!at::any(keep.logical_and(taking_part.logical_not())).item<bool>(),
          "a box without a score is kept");
  require(at::equal(at::any(keep, 1), at::any(taking_part, 1)), "a group loses its best box");
}

void keypoints(Bytes& bytes) {
  const int64_t count = bytes.below(3);
  const Tensor maps = pixels(bytes, {count, bytes.below(3), bytes.below(20), bytes.below(20)});
  Tensor rois = floats(bytes, {count, 4});
  // The time goes with the pixels of a RoI: its sides are kept short, its place is not.
  rois.select(1, 2).copy_(rois.select(1, 0) + rois.select(1, 2).remainder(60));
  rois.select(1, 3).copy_(rois.select(1, 1) + rois.select(1, 3).remainder(60));
  call("heatmaps_to_keypoints", {maps, rois});
}

void roi_align(Bytes& bytes) {
  static const at::ScalarType kDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16};
  const at::ScalarType dtype = bytes.one_of(kDtypes);
  const bool channels_last = bytes.flag();
  const int64_t levels = bytes.below(3) + 1, images = bytes.below(3), channels = bytes.below(70);
  std::vector<Tensor> features;
  std::vector<double> scales;
  for (int64_t level = 0; level < levels; ++level) {
    Tensor map = pixels(bytes, {images, channels, bytes.below(24), bytes.below(24)}).to(dtype);
    features.push_back(channels_last ? map.contiguous(at::MemoryFormat::ChannelsLast) : map);
    scales.push_back(bytes.flag() ? std::ldexp(1.0, -int(bytes.below(6))) : bytes.real());
  }
  const int64_t count = bytes.below(6);
  const bool wide = dtype == at::kDouble && bytes.flag();
  Tensor boxes = wide ? reals<double>(bytes, {count, 5}, at::kDouble) : floats(bytes, {count, 5});
  if (images > 0 && bytes.take<uint8_t>() < 240) boxes.select(1, 0).nan_to_num_(0, 0, 0).remainder_(images);
  const int64_t height = bytes.below(9), width = bytes.below(9), ratio = bytes.below(6) - 1;
  const double canonical_size = bytes.flag() ? 32.0 : bytes.real();
  const int64_t canonical_level = bytes.integer(8);
  const bool aligned = bytes.flag(), max_pool = bytes.flag();
  c10::IValue given;
  if (bytes.below(4) == 0) {
    Tensor chosen = at::empty({count}, at::kLong);
    for (int64_t k = 0; k < count; ++k) chosen.mutable_data_ptr<int64_t>()[k] = bytes.integer(levels);
    given = chosen;
  }
  const Tensor pooled =
      call("multi_level_roi_align", {features, boxes, scales, height, width, ratio, canonical_size,
                                     canonical_level, aligned, max_pool, given})[0]
          .toTensor();
  const Stack backward = {pooled,          features, boxes,    scales, ratio, canonical_size,
                          canonical_level, aligned,  max_pool, true,   given};
  const auto grads = call("multi_level_roi_align_backward", backward)[0].toTensorVector();
  require(grads.size() == features.size(), "a level has no gradient");
  for (int64_t level = 0; level < levels; ++level) {
    require(grads[level].sizes() == features[level].sizes(), "a gradient has another shape than its map");
  }
}

void winograd(Bytes& bytes) {
  const int64_t channels = bytes.take<uint8_t>() < 250 ? 16 * bytes.below(3) : bytes.below(40);
  Tensor map = pixels(bytes, {bytes.below(3), channels, bytes.below(14), bytes.below(14)});
  map = map.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t first = bytes.integer(8), count = bytes.integer(20);
  const Tensor tiles = call("winograd_input", {map, first, count})[0].toTensor();
  const c10::IValue bias = bytes.flag() ? c10::IValue(pixels(bytes, {channels})) : c10::IValue();
  Tensor output = at::zeros_like(map);
  call("winograd_output", {output, tiles, bias, first, bytes.flag(), bytes.flag()});
  call("winograd_gradient", {map, first, count});
  const Tensor weight = pixels(bytes, {36, channels, channels});
  const c10::IValue residual = bytes.flag() ? c10::IValue(map) : c10::IValue();
  call("winograd_conv2d", {map, weight, bias, residual, bytes.flag(), bytes.integer(20)});
}

void winograd_filters(Bytes& bytes) {
  const int64_t out = bytes.below(40), in = bytes.below(40), side = bytes.take<uint8_t>() < 250 ? 3 : 2;
  const Tensor weight = pixels(bytes, {out, in, side, side});
  const Tensor filter = call("winograd_filter", {weight, bytes.flag()})[0].toTensor();
  const Tensor gradient = call("winograd_filter_backward", {filter})[0].toTensor();
  require(gradient.dim() == 4, "the gradient of a weight has four axes");
}

void split_convolutions(Bytes& bytes) {
  if (!call("has_matrix_tiles", {})[0].toBool()) return;
  const int64_t in = bytes.below(70), out = bytes.below(70), side = bytes.flag() ? 3 : 1;
  const Tensor weight = pixels(bytes, {out, in, side, side}).contiguous(at::MemoryFormat::ChannelsLast);
  const bool flip = bytes.flag();
  const Tensor split = call("split_weight", {weight, flip})[0].toTensor();
  Tensor map = pixels(bytes, {bytes.below(3), flip ? out : in, bytes.below(14), bytes.below(70)});
  map = map.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t filters = bytes.flag() ? (flip ? in : out) : bytes.integer(70), stride = bytes.integer(4);
  const c10::IValue bias = bytes.flag() ? c10::IValue(pixels(bytes, {filters})) : c10::IValue();
  const c10::IValue residual = bytes.flag() ? c10::IValue(map) : c10::IValue();
  Tensor output =
      call("split_conv2d", {map, split, filters, bias, residual, stride, bytes.flag()})[0].toTensor();
  if (bytes.flag()) output = at::zeros({bytes.below(3), bytes.below(70), bytes.below(14), 5});
  output = output.contiguous(at::MemoryFormat::ChannelsLast);
  call("split_conv2d_out", {output, map, split, bias, stride, bytes.flag(), bytes.flag()});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static constexpr void (*kOps[])(Bytes&) = {
      masks, polygons, nms, keypoints, roi_align, winograd, winograd_filters, nms_groups, split_convolutions};
  static const bool ready = [] {
    at::set_num_threads(1);
    return true;
  }();
  (void)ready;
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Bytes bytes(data, size);
  static const char* kLevels[] = {"baseline", "avx2", "avx512", ""};
  setenv("MRCNN_PLUGIN_SIMD", bytes.one_of(kLevels), 1);
  try {
    bytes.one_of(kOps)(bytes);
  } catch (const std::exception&) {
    // Refused, in words: tests/ops/ look at those.
  }
  return 0;
}
