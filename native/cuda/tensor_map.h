// A matrix in global memory as tile loads (load_tile) see it: 128 bytes that only the driver writes and only the GPU reads,
// CUtensorMap of cuda.h. Kernels have it inside their arguments, which stay where the driver put them.
#pragma once
#include <cstdint>

namespace ws::cuda {

struct alignas(128) TensorMap {
  uint64_t words[16];
};

/// Tiles are boxes of 64 lines of 64 two-byte elements: 64 x 128 bytes of shared memory, 1024-byte aligned, in which the
/// 16-byte pieces of a line lie at (piece ^ line % 8), the 128-byte swizzle.
constexpr int box_lines = 64, box_elements = 64, box_bytes = box_lines * box_elements * 2;

}  // namespace ws::cuda
