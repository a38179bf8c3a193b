// What the addon and the driver offer, as plain data for the binding: for the probe and the doctor.
#pragma once
#include <string>
#include <vector>

#include "driver.h"

namespace ws::cuda {

/// What this addon was built with; looks at no driver.
struct KernelReport {
  int64_t bytes = 0;    // of the image; 0 without kernels
  std::string toolkit;  // "13.0"; empty for an image from a file
  std::string targets;
  int ops = 0;          // ops that have CUDA kernels
};

struct GpuReport {
  Gpu gpu;
  std::string target;   // the target of the image that it would run, empty when there is none
  std::string problem;  // why this addon cannot use it
};

/// What the driver says. Opens it: a broken one can end the process, so only a child process asks.
struct DriverReport {
  std::string file;
  std::string version;  // newest CUDA version that it speaks
  std::string problem;  // why it cannot be used
  std::vector<std::string> missing;
  std::vector<GpuReport> gpus;
};

KernelReport report_kernels();
DriverReport report_driver();

}  // namespace ws::cuda
