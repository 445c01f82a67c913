// The inner loop of non-maximum suppression, compiled for every instruction set (common/cpu/each_level.h).
namespace mrcnn_plugin {
namespace {
namespace MRCNN_SIMD {

// Marks the boxes [begin, end) that overlap box `i` by more than the threshold. The union is rounded as
// torchvision's CPU kernel rounds it: `inter` is stored first, so that nothing is fused into it.
void suppress(const Corners& box, int64_t i, int64_t begin, int64_t end, double threshold, float* inter,
              uint8_t* dead) {
  const float x1 = box.x1[i], y1 = box.y1[i], x2 = box.x2[i], y2 = box.y2[i], area = box.area[i];
  for (int64_t j = begin; j < end; ++j) {
    const float width = std::min(x2, box.x2[j]) - std::max(x1, box.x1[j]);
    const float height = std::min(y2, box.y2[j]) - std::max(y1, box.y1[j]);
    inter[j] = std::max(0.0f, width) * std::max(0.0f, height);
  }
  for (int64_t j = begin; j < end; ++j) {
    const float overlap = inter[j] / (area + box.area[j] - inter[j]);
    dead[j] |= static_cast<double>(overlap) > threshold;
  }
}

}  // namespace MRCNN_SIMD
}  // namespace
}  // namespace mrcnn_plugin
