// Schemas of every operator. Kernels register themselves from <folder>/cpu/<op>.cpp and
// <folder>/cuda/<op>.cu.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mrcnn_plugin, m) {
  m.def("simd_level() -> str");
  m.def("heatmaps_to_keypoints(Tensor maps, Tensor rois) -> Tensor");
  m.def(
      "multi_level_roi_align(Tensor[] features, Tensor boxes, float[] scales, SymInt pooled_height, "
      "SymInt pooled_width, int sampling_ratio, float canonical_box_size, int canonical_level, "
      "bool aligned, bool max_pool, Tensor? levels=None) -> Tensor");
  m.def(
      "multi_level_roi_align_backward(Tensor grad_output, Tensor[] features, Tensor boxes, float[] scales, "
      "int sampling_ratio, float canonical_box_size, int canonical_level, bool aligned, bool max_pool, "
      "bool deterministic, Tensor? levels=None) -> Tensor[]");
  m.def("nms_segments(Tensor boxes, Tensor offsets, float iou_threshold) -> Tensor");
  m.def("nms_mask(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  m.def(
      "rasterize_polygons(Tensor coords, Tensor polygon_offsets, Tensor instance_offsets, Tensor boxes, "
      "SymInt mask_size) -> Tensor");
  m.def("paste_masks(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) -> Tensor");
  m.def(
      "encode_masks(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) -> "
      "(Tensor counts, Tensor offsets, Tensor areas, Tensor tight_boxes)");
  m.def("winograd_input(Tensor input, SymInt first, SymInt count) -> Tensor");
  m.def(
      "winograd_output(Tensor(a!) output, Tensor products, Tensor? bias, SymInt first, bool accumulate, "
      "bool relu) -> ()");
  m.def(
      "winograd_conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, bool relu, int part) -> "
      "Tensor");
  m.def("winograd_gradient(Tensor grad, SymInt first, SymInt count) -> Tensor");
  m.def("winograd_filter(Tensor weight, bool flip) -> Tensor");
  m.def("winograd_filter_backward(Tensor products) -> Tensor");
  m.def("has_matrix_tiles() -> bool");
  m.def("split_weight(Tensor weight, bool flip) -> Tensor");
  m.def(
      "split_conv2d_out(Tensor(a!) output, Tensor input, Tensor weight, Tensor? bias, int stride, "
      "bool accumulate, bool relu) -> ()");
  m.def(
      "split_conv2d(Tensor input, Tensor weight, SymInt out_channels, Tensor? bias, Tensor? residual, "
      "int stride, bool relu) -> Tensor");
}
