// What the addon and the driver offer, for the probe and the doctor.
#include "../core/cuda.h"

#include "library.h"

namespace ws {
namespace {

using namespace cuda;

/// Free memory as the driver counts it, which needs a context; -1 when it cannot be had.
int64_t free_bytes(Ordinal ordinal) {
  const Driver& d = driver();
  Context context = nullptr, before = nullptr;
  if (d.cuDevicePrimaryCtxRetain(&context, ordinal) != result::success) return -1;
  d.cuCtxGetCurrent(&before);
  size_t free = 0, total = 0;
  const bool told = d.cuCtxSetCurrent(context) == result::success && d.cuMemGetInfo(&free, &total) == result::success;
  d.cuCtxSetCurrent(before);
  d.cuDevicePrimaryCtxRelease(ordinal);
  return told ? static_cast<int64_t>(free) : -1;
}

}  // namespace

CudaKernels report_cuda_kernels() {
  const Image& image = kernel_image();
  CudaKernels out;
  out.bytes = static_cast<int64_t>(image.size);
  if (image.toolkit > 0) out.toolkit = version_text(image.toolkit);
  out.targets = image.targets;
  out.ops = entry_count();
  return out;
}

CudaDriver report_cuda_driver(int ordinal) {
  const Driver& d = driver();
  CudaDriver out;
  out.file = d.file;
  if (d.version > 0) out.version = version_text(d.version);
  out.missing = d.missing;
  std::vector<Gpu> gpus;
  const Status status = list_gpus(gpus);
  if (!status.ok()) out.problem = status.text;
  for (const Gpu& gpu : gpus) {
    const Status usable = check_image(kernel_image(), gpu);
    CudaGpu one;
    one.ordinal = gpu.ordinal;
    one.name = gpu.name;
    one.capability = std::to_string(gpu.major) + "." + std::to_string(gpu.minor);
    one.multiprocessors = gpu.multiprocessors;
    one.total_bytes = gpu.total_bytes;
    if (gpu.ordinal == ordinal) one.free_bytes = free_bytes(gpu.ordinal);
    one.target = target_for(kernel_image(), gpu);
    if (!usable.ok()) one.problem = usable.text;
    out.gpus.push_back(one);
  }
  return out;
}

}  // namespace ws
