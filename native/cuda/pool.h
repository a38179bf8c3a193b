// Device memory in segments, handed out in blocks: best fit, neighbours joined when they are free, so that steps of
// changing shapes do not pile up blocks of sizes that never come again. A block may be handed out again at once: all
// work of a device runs in one stream, in the order of allocation. Where segments come from is the source's business.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <set>

#include "../core/device.h"

namespace ws::cuda {

/// Where segments come from: the driver, or a test.
struct SegmentSource {
  virtual ~SegmentSource() = default;
  /// Null when memory is short.
  virtual void* take(int64_t bytes) = 0;
  virtual void give(void* segment) = 0;
};

class MemoryPool {
 public:
  /// limit: most bytes that are live, and most that are taken from the source. exact: a block is a segment of its own, of just
  /// the bytes that were asked for, so that a tool that knows the source's blocks sees every access beyond an end.
  MemoryPool(SegmentSource& source, int64_t limit, bool exact = false) : source_(source), limit_(limit), exact_(exact) {}
  ~MemoryPool() { trim(); }
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// 512-byte aligned within its segment, contents undefined; null when the limit or the source is short.
  void* allocate(int64_t bytes);
  void release(void* block);
  /// Gives segments without live blocks back.
  void trim();
  /// Forgets everything without giving it back: the device is gone, and its memory with it.
  void abandon();

  /// Any thread may ask.
  MemoryStats stats() const { return {live_, peak_, taken_, limit_}; }
  void reset_peak() { peak_ = live_.load(); }

 private:
  struct Block {
    int64_t bytes;
    bool idle;
    char* segment;  // where its segment begins: blocks of two segments are not joined
  };
  using Blocks = std::map<char*, Block>;

  void* take_idle(int64_t bytes);
  bool grow(int64_t bytes);
  bool add_segment(int64_t bytes);
  void join(Blocks::iterator block);

  SegmentSource& source_;
  const int64_t limit_;
  const bool exact_;
  Blocks blocks_;                              // every byte of every segment, by address
  std::set<std::pair<int64_t, char*>> idle_;   // the idle ones by size, then address
  std::atomic<int64_t> live_{0}, peak_{0}, taken_{0};
};

}  // namespace ws::cuda
