// The kernels as code: the image inside the addon, loaded into the driver by the first launch, and kernels by name.
#pragma once
#include <string>
#include <unordered_map>

#include "launcher.h"

namespace ws::cuda {

/// A fatbin: cubins of several targets, perhaps PTX. Null bytes when the addon was built without CUDA kernels.
struct Image {
  const void* bytes = nullptr;
  size_t size = 0;
  int32_t toolkit = 0;        // version of the nvcc that made it: a driver of an older major version cannot run it
  const char* targets = "";   // "sm_80 sm_90a compute_80"
};

/// The kernels to use: those built into the addon (image.cpp), or the file that WHETSTONE_CUDA_KERNELS names.
const Image& kernel_image();

/// The target of the image that this GPU would run: its own, the nearest older of its generation, or PTX to compile.
/// Empty when there is none.
std::string target_for(const Image& image, const Gpu& gpu);

/// Why kernels cannot run on this GPU; ok when they can, as far as can be said without loading them.
Status check_image(const Image& image, const Gpu& gpu);

/// Kernels of one context. Used by one thread.
class Kernels {
 public:
  Kernels() = default;
  ~Kernels() { unload(); }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

  /// The function, ready for this much dynamic shared memory; loads the image when it is the first.
  Status find(const KernelInfo& kernel, uint32_t shared_bytes, Function& function);
  /// Unloads a module; a library stays, for the next device of the process.
  void unload();
  /// Forgets the code of a context that is gone.
  void abandon() { module_ = nullptr, loaded_.clear(); }

 private:
  struct Loaded {
    Function function = nullptr;
    uint32_t shared_bytes = 48 << 10;  // what a kernel may have without asking
  };

  Status load(const KernelInfo& kernel, Loaded& out);
  Status load_image();

  Library library_ = nullptr;
  Module module_ = nullptr;
  std::unordered_map<const KernelInfo*, Loaded> loaded_;
};

}  // namespace ws::cuda
