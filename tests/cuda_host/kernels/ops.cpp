#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mrcnn_plugin, m) { m.def("run_kernel(str name, Tensor input, Tensor output) -> ()"); }
