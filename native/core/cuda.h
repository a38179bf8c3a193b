// What the CUDA back end tells of itself as plain data, for the binding: implemented in native/cuda/report.cpp.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ws {

/// What this addon was built with; looks at no driver.
struct CudaKernels {
  int64_t bytes = 0;    // of the image; 0 without kernels
  std::string toolkit;  // "13.0"; empty for an image from a file
  std::string targets;  // "sm_80 sm_90a compute_80"
  int ops = 0;          // ops that have CUDA kernels
};

struct CudaGpu {
  int ordinal = 0;
  std::string name;
  std::string capability;  // "9.0"
  int multiprocessors = 0;
  int64_t total_bytes = 0;
  int64_t free_bytes = -1;  // -1: not looked at
  std::string target;       // what of the kernels it would run, empty when nothing
  std::string problem;      // why this addon cannot use it
};

/// What the driver says.
struct CudaDriver {
  std::string file;
  std::string version;  // newest CUDA version that it speaks
  std::string problem;  // why it cannot be used
  std::vector<std::string> missing;  // functions that it lacks and that we can do without
  std::vector<CudaGpu> gpus;
};

CudaKernels report_cuda_kernels();
/// Opens the driver: a broken one can end the process. Looks at the free memory of GPU `ordinal`, if there is one.
CudaDriver report_cuda_driver(int ordinal);

}  // namespace ws
