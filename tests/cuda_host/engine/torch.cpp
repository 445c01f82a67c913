// PyTorch's C functions as the linker redirects them here (--wrap): the CPU stands in for the CUDA device,
// and the pointers that host code asks for say which memory kernels may touch.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdio>
#include <stdexcept>

#include "state.h"

namespace cuda_host {
namespace {

uint64_t element_bytes(AtenTensorHandle tensor) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor, &dtype));
  for (const auto& [known, bytes] : {std::pair{aoti_torch_dtype_float64(), 8},
                                     {aoti_torch_dtype_int64(), 8},
                                     {aoti_torch_dtype_float32(), 4},
                                     {aoti_torch_dtype_int32(), 4},
                                     {aoti_torch_dtype_float16(), 2},
                                     {aoti_torch_dtype_bfloat16(), 2},
                                     {aoti_torch_dtype_uint8(), 1},
                                     {aoti_torch_dtype_bool(), 1}}) {
    if (dtype == known) return uint64_t(bytes);
  }
  throw std::runtime_error("cuda_host: a tensor has a dtype that no kernel takes");
}

void register_tensor(AtenTensorHandle tensor, const void* data, bool writable) {
  int64_t dim, *sizes, *strides;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(tensor, &dim));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor, &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor, &strides));
  uint64_t extent = 1;
  for (int64_t i = 0; i < dim; ++i) {
    if (sizes[i] == 0) return;
    extent += uint64_t((sizes[i] - 1) * strides[i]);
  }
  add_tensor(data, extent * element_bytes(tensor), writable);
}

}  // namespace

std::string source_line(const void* pc) {
  Dl_info info;
  if (!dladdr(pc, &info)) return "";
  char command[4096], line[1024];
  const auto offset = static_cast<const char*>(pc) - static_cast<const char*>(info.dli_fbase) - 1;
  std::snprintf(command, sizeof(command), "addr2line -e '%s' 0x%lx 2>/dev/null", info.dli_fname,
                long(offset));
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  std::string text = std::fgets(line, sizeof(line), pipe) ? line : "";
  pclose(pipe);
  text = text.substr(0, text.find_first_of(" \n"));
  return text.empty() || text[0] == '?' ? "" : " (at " + text + ")";
}

}  // namespace cuda_host

extern "C" {

AOTITorchError __real_torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** data);
AOTITorchError __real_torch_get_const_data_ptr(AtenTensorHandle tensor, const void** data);

AOTITorchError __wrap_torch_get_mutable_data_ptr(AtenTensorHandle tensor, void** data) {
  const AOTITorchError error = __real_torch_get_mutable_data_ptr(tensor, data);
  if (error == AOTI_TORCH_SUCCESS) cuda_host::register_tensor(tensor, *data, true);
  return error;
}

AOTITorchError __wrap_torch_get_const_data_ptr(AtenTensorHandle tensor, const void** data) {
  const AOTITorchError error = __real_torch_get_const_data_ptr(tensor, data);
  if (error == AOTI_TORCH_SUCCESS) cuda_host::register_tensor(tensor, *data, false);
  return error;
}

int32_t __wrap_aoti_torch_device_type_cuda() { return aoti_torch_device_type_cpu(); }

AOTITorchError __wrap_aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError __wrap_torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool,
                                               char** message) {
  *message = nullptr;
  return AOTI_TORCH_SUCCESS;
}

void __wrap_torch_c10_cuda_free_error_msg(char*) {}

AOTITorchError __wrap_aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return AOTI_TORCH_SUCCESS;
}

}  // extern "C"
