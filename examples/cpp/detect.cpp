// Detects objects without Python: detect OPS MODEL THRESHOLD PICTURE.ppm... > results.json
//
// OPS is the library of mrcnn_plugin's ops, mrcnn_plugin/_C.so; MODEL what `export.py --format aoti` has
// written; pictures are binary PPM. The output is predict.py's JSON.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

using Metadata = std::unordered_map<std::string, std::string>;

std::vector<std::string> words(const Metadata& metadata, const std::string& key) {
  const auto entry = metadata.find(key);
  if (entry == metadata.end()) throw std::runtime_error("the model was not written by export.py: no " + key);
  std::istringstream text(entry->second);
  std::vector<std::string> found;
  for (std::string word; text >> word;) found.push_back(word);
  return found;
}

// uint8 (H, W, 3) RGB of a binary PPM with 8 bits.
at::Tensor read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t numbers[3] = {0, 0, 0};
  file >> magic;
  for (int64_t& number : numbers) {
    while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    file >> number;
  }
  const auto [width, height, most] = numbers;
  constexpr int64_t kLongest = 1 << 15;
  if (!file || magic != "P6" || most != 255 || width < 1 || height < 1 || width > kLongest ||
      height > kLongest) {
    throw std::runtime_error(path + ": not a binary PPM (P6) with 8 bits");
  }
  file.get();
  at::Tensor image = at::empty({height, width, 3}, at::kByte);
  file.read(reinterpret_cast<char*>(image.data_ptr<uint8_t>()), image.numel());
  if (file.gcount() != image.numel()) throw std::runtime_error(path + ": ends before its last pixel");
  return image;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

// A model, and what it says about itself.
struct Model {
  torch::inductor::AOTIModelPackageLoader package;
  std::vector<std::string> outputs, category_ids;
  std::vector<double> pixel_mean;
  int64_t height, width;
  bool bgr;
  double score_threshold, mask_threshold;
};

std::vector<double> numbers(const Metadata& metadata, const std::string& key, size_t count) {
  std::vector<double> found;
  for (const std::string& word : words(metadata, key)) found.push_back(std::strtod(word.c_str(), nullptr));
  if (found.size() != count) throw std::runtime_error("the model's " + key + " has another length");
  return found;
}

// The instruction sets of this processor.
std::string processor_flags() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) == 0) return line + " ";
  }
  return "";
}

Model load(const std::string& path) {
  using torch::inductor::AOTIModelPackageLoader;
  // Read before any of the model's code runs.
  const Metadata metadata = AOTIModelPackageLoader::load_metadata_from_package(path, "model");
  const std::string flags = processor_flags();
  for (const std::string& needed : words(metadata, "instructions")) {
    if (flags.find(" " + needed + " ") == std::string::npos) {
      throw std::runtime_error(path + " was compiled for a processor with " + needed +
                               ", which this one lacks");
    }
  }
  const std::vector<double> size = numbers(metadata, "image_size", 2);
  return Model{AOTIModelPackageLoader(path),
               words(metadata, "outputs"),
               words(metadata, "category_ids"),
               numbers(metadata, "pixel_mean", 3),
               static_cast<int64_t>(size[0]),
               static_cast<int64_t>(size[1]),
               words(metadata, "color_order") == std::vector<std::string>{"BGR"},
               numbers(metadata, "score_threshold", 1)[0],
               numbers(metadata, "mask_threshold", 1)[0]};
}

// What was found in a picture, in its pixels.
using Found = std::map<std::string, at::Tensor>;

Found detect(Model& model, const at::Tensor& picture) {
  const int64_t height = picture.size(0), width = picture.size(1);
  // As large as fits, and padded with the mean colour at the right and at the bottom.
  const double scale = std::min(double(model.height) / height, double(model.width) / width);
  const int64_t rows = std::max<int64_t>(1, height * scale + 0.5);
  const int64_t columns = std::max<int64_t>(1, width * scale + 0.5);
  at::Tensor pixels = (model.bgr ? picture.flip(2) : picture).permute({2, 0, 1}).unsqueeze(0);
  if (rows != height || columns != width) {
    pixels = at::_upsample_bilinear2d_aa(pixels, {rows, columns}, /*align_corners=*/false);
  }
  at::Tensor image = at::empty({model.height, model.width, 3}, at::kByte);
  for (int64_t c = 0; c < 3; ++c) image.select(2, c).fill_(std::nearbyint(model.pixel_mean[c]));
  image.narrow(0, 0, rows).narrow(1, 0, columns).copy_(pixels[0].permute({1, 2, 0}));

  const std::vector<at::Tensor> results = model.package.run({image});
  Found found;
  for (size_t i = 0; i < model.outputs.size(); ++i) found[model.outputs[i]] = results.at(i);
  const float x = double(width) / columns, y = double(height) / rows;
  const at::Tensor sides = at::tensor({float(width), float(height), float(width), float(height)});
  at::Tensor boxes = found.at("boxes") * at::tensor({x, y, x, y});
  boxes = at::minimum(boxes.clamp_min(0), sides);
  found["boxes"] = boxes;
  if (found.count("keypoints")) found["keypoints"] = found["keypoints"] * at::tensor({x, y, 1.0f});
  const at::Tensor nonempty = (boxes.narrow(1, 2, 2) > boxes.narrow(1, 0, 2)).all(1);
  const at::Tensor kept = nonempty.nonzero().select(1, 0);
  for (auto& [name, value] : found) value = value.index_select(0, kept).contiguous();
  return found;
}

// COCO's compressed RLE of each mask in the picture, by the op of mrcnn_plugin.
std::vector<std::string> encoded(const Found& found, int64_t height, int64_t width, double threshold) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("mrcnn_plugin::encode_masks", "");
  torch::jit::Stack stack{found.at("masks"), found.at("boxes"), height, width, threshold};
  op.callBoxed(&stack);
  const at::Tensor counts = stack[0].toTensor(), offsets = stack[1].toTensor();
  const auto* bytes = reinterpret_cast<const char*>(counts.data_ptr<uint8_t>());
  const int64_t* ends = offsets.data_ptr<int64_t>();
  std::vector<std::string> codes;
  for (int64_t i = 0; i + 1 < offsets.numel(); ++i) {
    codes.push_back("{\"size\": [" + std::to_string(height) + ", " + std::to_string(width) +
                    "], \"counts\": " + quoted(std::string(bytes + ends[i], ends[i + 1] - ends[i])) + "}");
  }
  return codes;
}

void print_result(std::ostream& out, const Found& found, int64_t index, const std::string& category,
                  int64_t image_id, const std::string& file_name, const std::string& mask) {
  const float* box = found.at("boxes").data_ptr<float>() + 4 * index;
  out << "{\"image_id\": " << image_id << ", \"category_id\": " << category
      << ", \"file_name\": " << quoted(file_name) << ", \"bbox\": [" << box[0] << ", " << box[1] << ", "
      << box[2] - box[0] << ", " << box[3] - box[1]
      << "], \"score\": " << found.at("scores").data_ptr<float>()[index];
  if (!mask.empty()) out << ", \"segmentation\": " << mask;
  if (found.count("mask_scores")) {
    out << ", \"mask_score\": " << found.at("mask_scores").data_ptr<float>()[index];
  }
  if (found.count("keypoints")) {
    const at::Tensor points = found.at("keypoints")[index].contiguous();
    const float* value = points.data_ptr<float>();
    out << ", \"keypoints\": [";
    for (int64_t i = 0; i < points.numel(); ++i) {
      // COCO's coordinates are those of pixels' corners, half a pixel less.
      out << (i ? ", " : "") << value[i] - (i % 3 < 2 ? 0.5f : 0.0f);
    }
    out << "]";
  }
  out << "}";
}

int run(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: detect OPS MODEL THRESHOLD PICTURE.ppm... > results.json\n";
    return 2;
  }
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  const c10::InferenceMode guard;
  Model model = load(argv[2]);
  const float threshold = std::strtof(argv[3], nullptr);
  if (!(threshold >= model.score_threshold)) {
    throw std::runtime_error("THRESHOLD must be at least the model's, " +
                             std::to_string(model.score_threshold));
  }
  std::cout.precision(std::numeric_limits<float>::max_digits10);
  std::cout << "[";
  bool first = true;
  for (int picture = 4; picture < argc; ++picture) {
    const at::Tensor image = read_ppm(argv[picture]);
    const Found found = detect(model, image);
    std::vector<std::string> masks(found.at("scores").numel());
    if (found.count("masks")) masks = encoded(found, image.size(0), image.size(1), model.mask_threshold);
    for (int64_t index = 0; index < found.at("scores").numel(); ++index) {
      if (found.at("scores").data_ptr<float>()[index] < threshold) continue;
      const int64_t label = found.at("classes").data_ptr<int64_t>()[index];
      const bool named = static_cast<size_t>(label) < model.category_ids.size();
      std::cout << (first ? "" : ", ");
      print_result(std::cout, found, index, named ? model.category_ids[label] : std::to_string(label),
                   picture - 3, argv[picture], masks[index]);
      first = false;
    }
  }
  std::cout << "]\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    std::cerr << "error: " << text.substr(0, text.find('\n')) << "\n";
    return 1;
  }
}
