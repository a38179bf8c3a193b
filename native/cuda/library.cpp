#include "library.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>

namespace ws::cuda {
namespace {

/// "sm_90a" for a GPU of 9.0 is its own; "sm_80" runs on 8.0, 8.6 and 8.9; "compute_80" is compiled for anything newer.
int fitness(std::string_view target, const Gpu& gpu) {
  const bool ptx = target.substr(0, 8) == "compute_";
  if (!ptx && target.substr(0, 3) != "sm_") return target == "file" ? 1 : 0;
  const int number = std::atoi(target.data() + (ptx ? 8 : 3));
  const int own = gpu.major * 10 + gpu.minor;
  const bool only_here = target.back() == 'a';
  if (number > own || (only_here && number != own)) return 0;
  if (ptx) return 1 + number;
  return number / 10 == gpu.major ? 1000 + number * 2 + (only_here ? 1 : 0) : 0;
}

/// One library for the process: it belongs to no context.
struct Shared {
  std::mutex mutex;
  Library library = nullptr;
};

Shared& shared() {
  static Shared& one = *new Shared;
  return one;
}

bool has_libraries(const Driver& d) {
  return d.cuLibraryLoadData != nullptr && d.cuLibraryGetKernel != nullptr && d.cuKernelGetFunction != nullptr;
}

}  // namespace

std::string target_for(const Image& image, const Gpu& gpu) {
  std::string best;
  int best_fitness = 0;
  std::string_view rest = image.targets;
  while (!rest.empty()) {
    const std::string_view target = rest.substr(0, rest.find(' '));
    rest.remove_prefix(std::min(rest.size(), target.size() + 1));
    const int fit = target.empty() ? 0 : fitness(target, gpu);
    if (fit > best_fitness) best_fitness = fit, best = target;
  }
  return best;
}

Status check_image(const Image& image, const Gpu& gpu) {
  WS_CHECK(image.bytes != nullptr, device, "this build has no CUDA kernels");
  const int32_t version = driver().version;
  WS_CHECK(version / 1000 >= image.toolkit / 1000, device,
           "the driver speaks CUDA %s and the kernels were built by %s: install a newer driver",
           version_text(version).c_str(), version_text(image.toolkit).c_str());
  const std::string target = target_for(image, gpu);
  WS_CHECK(!target.empty(), device, "no kernels for %s (compute capability %d.%d); built for %s",
           gpu.name.c_str(), gpu.major, gpu.minor, image.targets);
  // A driver runs machine code of newer toolkits of its major version, but does not read their PTX.
  WS_CHECK(target.compare(0, 8, "compute_") != 0 || version >= image.toolkit, device,
           "the driver speaks CUDA %s and must compile PTX of %s for %s: install a newer driver",
           version_text(version).c_str(), version_text(image.toolkit).c_str(), gpu.name.c_str());
  return {};
}

Status Kernels::load_image() {
  if (library_ != nullptr || module_ != nullptr) return {};
  const Driver& d = driver();
  const Image& image = kernel_image();
  WS_CHECK(image.bytes != nullptr, device, "this build has no CUDA kernels");
  if (!has_libraries(d)) return to_status(d.cuModuleLoadData(&module_, image.bytes), "loading the kernels");
  Shared& common = shared();
  const std::lock_guard lock(common.mutex);
  if (common.library == nullptr) {
    int32_t option = binary_is_preserved;
    void* value = reinterpret_cast<void*>(uintptr_t{1});
    const Result r =
        d.cuLibraryLoadData(&common.library, image.bytes, nullptr, nullptr, 0, &option, &value, 1);
    if (r != result::success) return to_status(r, "loading the kernels");
  }
  library_ = common.library;
  return {};
}

Status Kernels::load(const KernelInfo& kernel, Loaded& out) {
  const Status status = load_image();
  if (!status.ok()) return status;
  const Driver& d = driver();
  Result r = result::success;
  if (library_ != nullptr) {
    Kernel found = nullptr;
    r = d.cuLibraryGetKernel(&found, library_, kernel.name);
    if (r == result::success) r = d.cuKernelGetFunction(&out.function, found);
  } else {
    r = d.cuModuleGetFunction(&out.function, module_, kernel.name);
  }
  WS_CHECK(r != result::not_found, no_kernel, "the kernels in this addon lack '%s'", kernel.name);
  return to_status(r, kernel.name);
}

Status Kernels::find(const KernelInfo& kernel, uint32_t shared_bytes, Function& function) {
  Loaded& loaded = loaded_[&kernel];
  if (loaded.function == nullptr) {
    const Status status = load(kernel, loaded);
    if (!status.ok()) return status;
  }
  if (shared_bytes > loaded.shared_bytes) {
    const Result r = driver().cuFuncSetAttribute(loaded.function, max_dynamic_shared_bytes, static_cast<int>(shared_bytes));
    if (r != result::success) return to_status(r, kernel.name);
    loaded.shared_bytes = shared_bytes;
  }
  function = loaded.function;
  return {};
}

void Kernels::unload() {
  if (module_ != nullptr) driver().cuModuleUnload(module_);
  abandon();
}

}  // namespace ws::cuda
