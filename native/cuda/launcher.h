// What an op needs to run on a GPU: a Launcher that takes kernel launches in order, and scratch. An op's CUDA entry is
// plain C++: it checks shapes, asks for scratch and appends launches; the same entry drives the real GPU (device.cpp)
// and the emulator. Entries are listed in table.cpp.
#pragma once
#include "../core/op.h"
#include "driver.h"
#include "fault.h"

namespace ws::cuda {

/// A kernel as the table knows it: its extern "C" name in the image. One static object per kernel.
struct KernelInfo {
  const char* name;
};

struct Extent {
  uint32_t x = 1, y = 1, z = 1;
};

/// One launch. `parameters` is the kernel's only argument, a plain struct that is copied before launch() returns.
struct Launch {
  const KernelInfo* kernel = nullptr;
  Extent grid, block;
  Extent cluster;             // blocks of a cluster; one when the kernel has none
  uint32_t shared_bytes = 0;  // dynamic
  bool cooperative = false;   // all blocks must be resident at once
  const void* parameters = nullptr;
  uint32_t parameter_bytes = 0;
};

/// A bf16 matrix for load_tile(): 16-byte aligned, `stride` elements from line to line, a multiple of 8.
struct TiledMatrix {
  const void* data;
  int64_t lines, elements, stride;
};

struct Launcher {
  virtual ~Launcher() = default;
  /// Appends a launch. An empty grid is no work and no error.
  virtual Status launch(const Launch& launch) = 0;
  /// Device memory for the running op, 512-byte aligned, contents undefined; every call gives another block, all are
  /// taken back when the op has been appended. Null when memory is short.
  virtual void* scratch(int64_t bytes) = 0;
  /// Where kernels report what is wrong with their data; on the device.
  virtual Fault* fault() = 0;
  /// The GPU, for choices of tiles and variants. Results may not depend on it within one model of GPU.
  virtual const Gpu& gpu() const = 0;
  /// Kernels of sm_90a can be launched, with maps. WHETSTONE_CUDA_LEVEL=80 says no.
  virtual bool hopper() const = 0;
  virtual Status map_tiles(const TiledMatrix& matrix, TensorMap& map) = 0;
};

/// An op's entry: appends what the call needs.
using Entry = Status (*)(const Call& call, Launcher& launcher);

/// One per op; null where no CUDA kernel exists yet.
extern const Entry entries[op_count];

/// How many ops have an entry.
int entry_count();

}  // namespace ws::cuda
