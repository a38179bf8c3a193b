// A GPU on the host, for tests: runs the kernels of this folder with one fiber per thread, block after block. What is
// emulated is the worst that hardware may do: shared memory is NaN at first, asynchronous copies arrive at the last
// moment that their wait allows or at any moment before, threads run in any order between barriers.
// A wait that not all come to, a warp that parts before a warp-wide instruction, and writing beyond shared memory are
// reported with the lines and threads; the launch then fails. So are races, in the driver that looks for them (race.h).
#pragma once
#include <string>
#include <vector>

#include "../simt.h"

namespace ws::cuda::emulator {

/// How the next launches run.
struct Settings {
  uint64_t seed = 0;          // 0: threads in order, copies as late as allowed; others: random
  Site skipped = {nullptr, 0};  // a wait that does nothing, for mutation tests
};

Settings& settings();

/// Every wait that any launch came to.
const std::vector<Site>& sites();

/// One launch, as the driver gets it.
struct Launch {
  const char* kernel;
  uint32_t grid[3];
  uint32_t threads;  // of a block, in one dimension
  uint32_t shared_bytes;
  const void* arguments;
};

/// What the emulated driver writes into a TensorMap: lines of two-byte elements.
struct MatrixOfTiles {
  const char* data;
  int64_t elements, lines, line_bytes;
  uint64_t unused[12];
};

/// Is there a kernel of this name?
bool exists(const char* kernel);

/// Runs all blocks. What went wrong; empty when all is well.
std::string run(const Launch& launch);

}  // namespace ws::cuda::emulator
