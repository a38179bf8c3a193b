// The image of the kernels as bytes of the addon. The build passes WS_CUDA_IMAGE (the fatbin's path), WS_CUDA_TOOLKIT
// and WS_CUDA_TARGETS when it had nvcc; without them the addon has no CUDA kernels and says so.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "library.h"

#ifdef WS_CUDA_IMAGE
asm(".pushsection .rodata\n"
    ".balign 64\n"
    ".hidden ws_cuda_image\n.globl ws_cuda_image\nws_cuda_image:\n"
    ".incbin \"" WS_CUDA_IMAGE "\"\n"
    ".hidden ws_cuda_image_end\n.globl ws_cuda_image_end\nws_cuda_image_end:\n"
    ".byte 0\n"
    ".popsection\n");
extern "C" __attribute__((visibility("hidden"))) const char ws_cuda_image[], ws_cuda_image_end[];
#endif

namespace ws::cuda {
namespace {

Image embedded() {
#ifdef WS_CUDA_IMAGE
  return {ws_cuda_image, static_cast<size_t>(ws_cuda_image_end - ws_cuda_image), WS_CUDA_TOOLKIT, WS_CUDA_TARGETS};
#else
  return {};
#endif
}

/// A fatbin from a file, for work on kernels; no image when it cannot be read.
Image from_file(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return {};
  std::vector<char>& bytes = *new std::vector<char>;  // for the life of the process, as the driver keeps the pointer
  char part[1 << 14];
  for (size_t n = std::fread(part, 1, sizeof part, file); n > 0; n = std::fread(part, 1, sizeof part, file))
    bytes.insert(bytes.end(), part, part + n);
  std::fclose(file);
  return {bytes.data(), bytes.size(), 0, "file"};
}

}  // namespace

const Image& kernel_image() {
  static const Image image = [] {
    const char* path = std::getenv("WHETSTONE_CUDA_KERNELS");
    return path != nullptr && path[0] != 0 ? from_file(path) : embedded();
  }();
  return image;
}

}  // namespace ws::cuda
