// What the entries of ops share on the host: kernels with their block sizes, how to start one, what kernels report.
#pragma once
#include "launcher.h"

namespace ws::cuda {

/// A kernel with what WS_KERNEL says of it.
struct HostKernel {
  KernelInfo info;
  uint32_t threads;         // of a block
  uint32_t argument_bytes;
};

template <class Arguments>
static inline Status start(Launcher& on, const HostKernel& kernel, Extent grid, uint32_t shared_bytes,
                           const Arguments& arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
  WS_CHECK(sizeof arguments == kernel.argument_bytes, internal, "%s takes %u bytes, got %zu", kernel.info.name,
           kernel.argument_bytes, sizeof arguments);
  Launch launch;
  launch.kernel = &kernel.info;
  launch.grid = grid;
  launch.block = {kernel.threads, 1, 1};
  launch.shared_bytes = shared_bytes;
  launch.parameters = &arguments;
  launch.parameter_bytes = sizeof arguments;
  return on.launch(launch);
}

// Entries of other families that a family may use.
Status fill(const Call& c, Launcher& on);
Status copy(const Call& c, Launcher& on);

struct Partial;
/// Where head_logits() puts the logits of rows: capped, not tempered, [rows, stride]; sums of groups of words (head_rows.h),
/// of tempered logits and, unless null, of those at temperature 1.
struct KeptLogits {
  float* logits;
  int64_t stride;
  Partial *partials, *plain;
  float softcap, inverse_temperature;
};
/// Logits of rows [row, row + rows) of h w^T.
Status head_logits(Launcher& on, const View& h, const View& w, int64_t row, int64_t rows, const KeptLogits& to);

/// Blocks of `each` that cover n, at most what a grid has in x.
static inline uint32_t blocks_for(int64_t n, int64_t each) {
  const int64_t blocks = (n + each - 1) / each;
  return static_cast<uint32_t>(blocks < 0x7fffffff ? blocks : 0x7fffffff);
}

}  // namespace ws::cuda
