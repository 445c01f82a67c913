// Detects objects without Python: detect OPS MODEL THRESHOLD PICTURE.ppm... > results.json
//
// OPS is the library of mrcnn_plugin's ops, mrcnn_plugin/_C.so; MODEL what `export.py --format aoti --resize
// --masks pasted` has written; pictures are binary PPM. The output is predict.py's JSON.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

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

// COCO's compressed RLE of a mask that spans the picture, by the op of mrcnn_plugin.
std::string encoded(const at::Tensor& mask) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("mrcnn_plugin::encode_masks", "");
  const int64_t height = mask.size(0), width = mask.size(1);
  const at::Tensor box = at::tensor({0.0f, 0.0f, float(width), float(height)}).unsqueeze(0);
  torch::jit::Stack stack{mask.unsqueeze(0).to(at::kFloat), box, height, width, 0.5};
  op.callBoxed(&stack);
  const at::Tensor counts = stack[0].toTensor();
  const auto* bytes = reinterpret_cast<const char*>(counts.data_ptr<uint8_t>());
  return "{\"size\": [" + std::to_string(height) + ", " + std::to_string(width) +
         "], \"counts\": " + quoted(std::string(bytes, counts.numel())) + "}";
}

void print_result(std::ostream& out, const std::map<std::string, at::Tensor>& found, int64_t index,
                  const std::string& category, int64_t image_id, const std::string& file_name) {
  const float* box = found.at("boxes").data_ptr<float>() + 4 * index;
  out << "{\"image_id\": " << image_id << ", \"category_id\": " << category
      << ", \"file_name\": " << quoted(file_name) << ", \"bbox\": [" << box[0] << ", " << box[1] << ", "
      << box[2] - box[0] << ", " << box[3] - box[1]
      << "], \"score\": " << found.at("scores").data_ptr<float>()[index];
  if (found.count("masks")) out << ", \"segmentation\": " << encoded(found.at("masks")[index]);
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
  torch::inductor::AOTIModelPackageLoader model(argv[2]);
  const Metadata metadata = model.get_metadata();
  if (words(metadata, "takes_pictures") != std::vector<std::string>{"1"}) {
    throw std::runtime_error("export the model with --resize and --masks pasted");
  }
  const std::vector<std::string> outputs = words(metadata, "outputs"), ids = words(metadata, "category_ids");
  const bool bgr = words(metadata, "color_order") == std::vector<std::string>{"BGR"};
  const float threshold = std::strtof(argv[3], nullptr);
  std::cout.precision(std::numeric_limits<float>::max_digits10);
  std::cout << "[";
  bool first = true;
  for (int picture = 4; picture < argc; ++picture) {
    const at::Tensor image = read_ppm(argv[picture]);
    const std::vector<at::Tensor> results = model.run({bgr ? image.flip(2) : image});
    std::map<std::string, at::Tensor> found;
    for (size_t i = 0; i < outputs.size(); ++i) found[outputs[i]] = results.at(i).contiguous();
    for (int64_t index = 0; index < found.at("scores").numel(); ++index) {
      if (found.at("scores").data_ptr<float>()[index] < threshold) continue;
      const int64_t label = found.at("classes").data_ptr<int64_t>()[index];
      std::cout << (first ? "" : ", ");
      const bool named = static_cast<size_t>(label) < ids.size();
      print_result(std::cout, found, index, named ? ids[label] : std::to_string(label), picture - 3,
                   argv[picture]);
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
