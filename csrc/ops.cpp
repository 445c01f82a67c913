// Schemas of every operator. Kernels register themselves from cpu/<op>.cpp and cuda/<op>.cu.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mrcnn_plugin, m) {}
