#include "report.h"

#include "library.h"

namespace ws::cuda {

KernelReport report_kernels() {
  const Image& image = kernel_image();
  KernelReport out;
  out.bytes = static_cast<int64_t>(image.size);
  if (image.toolkit > 0) out.toolkit = version_text(image.toolkit);
  out.targets = image.targets;
  out.ops = entry_count();
  return out;
}

DriverReport report_driver() {
  const Driver& d = driver();
  DriverReport out;
  out.file = d.file;
  if (d.version > 0) out.version = version_text(d.version);
  out.missing = d.missing;
  std::vector<Gpu> gpus;
  const Status status = list_gpus(gpus);
  if (!status.ok()) out.problem = status.text;
  for (const Gpu& gpu : gpus) {
    const Status usable = check_image(kernel_image(), gpu);
    out.gpus.push_back({gpu, target_for(kernel_image(), gpu), usable.ok() ? "" : usable.text});
  }
  return out;
}

}  // namespace ws::cuda
