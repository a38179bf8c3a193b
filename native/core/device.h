// The interface between the queue and a device. A device owns memory and runs ops in the order that it is given
// them; the queue (binding/queue.cpp) is the only caller, always from its own thread. Nothing above this line
// knows whether the device is a CPU: the CUDA device implements the same few functions over a stream.
#pragma once
#include <memory>

#include "op.h"

namespace ws {

struct MemoryStats {
  int64_t live_bytes = 0;   // handed out and not returned
  int64_t peak_bytes = 0;   // largest live_bytes since the last reset
  int64_t pool_bytes = 0;   // taken from the system, idle blocks included
  int64_t limit_bytes = 0;  // 0: no limit of our own
};

struct Device {
  virtual ~Device() = default;
  virtual const char* name() const = 0;
  /// 64-byte aligned block, contents undefined; null when memory or the budget is short.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* block, int64_t bytes) = 0;
  virtual Status run(Op op, Call& call) = 0;
  virtual bool has_kernel(Op op) const = 0;
  virtual Status upload(void* to, const void* from, int64_t bytes) = 0;
  virtual Status download(void* to, const void* from, int64_t bytes) = 0;
  /// Waits until everything that was asked for has run.
  virtual Status sync() { return {}; }
  /// Not ok once the device has failed for good: what every later call answers.
  virtual Status state() const { return {}; }
  virtual MemoryStats memory() const = 0;
  virtual void reset_peak() = 0;
  virtual void set_threads(int threads) = 0;
  virtual int threads() const = 0;
  /// Tokens that one step of a bf16 weight's gradient sums: calls that add to it have the bits of one call where tokens are
  /// cut at multiples of this. In f32 they may be cut anywhere.
  virtual int token_alignment() const { return 1; }
};

/// CPU device. level: "" for the best that this machine has, else "v2", "avx2", "avx512", "avx512bf16" or "amx".
std::unique_ptr<Device> open_cpu(const char* level, int threads, int64_t limit_bytes, Status& status);

/// GPU number `ordinal` of those that the driver shows. Blocks the calling thread while the driver starts.
std::unique_ptr<Device> open_cuda(int ordinal, int64_t limit_bytes, Status& status);

/// What the CPU can do, as a blank-separated list of levels from low to high.
const char* cpu_levels();
/// The level that is taken when none is named.
const char* cpu_best_level();
/// Why the level `amx` is not among them; null when it is.
const char* cpu_amx_refusal();
/// FLOP/s of a level's densest arithmetic on registers, f32 or bf16, over `turns` turns of a loop on each of some threads;
/// 0 for a level that this machine lacks. Blocks: for benchmarks.
double cpu_peak(const char* level, DType type, int threads, int64_t turns);
/// Physical cores that affinity and the cgroup quota allow.
int default_threads();

}  // namespace ws
