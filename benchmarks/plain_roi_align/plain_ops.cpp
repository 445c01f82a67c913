#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mrcnn_plugin, m) {
  m.def(
      "plain_roi_align(Tensor features, Tensor boxes, Tensor places, float scale, int pooled_size, "
      "int sampling_ratio, Tensor pooled, bool backward) -> ()");
}
