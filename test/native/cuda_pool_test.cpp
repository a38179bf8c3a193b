// The pool of device memory over a source that counts: best fit, joined neighbours, limits, and that everything is
// given back. No driver plays a part.
#include "../../native/cuda/pool.h"

#include <map>

#include "check.h"

using namespace check;
using ws::cuda::MemoryPool;

namespace {

struct CountingSource : ws::cuda::SegmentSource {
  int64_t room = int64_t{1} << 60, taken = 0;
  int segments = 0, calls = 0;
  std::map<void*, int64_t> sizes;
  uintptr_t next = 1 << 20;

  void* take(int64_t bytes) override {
    ++calls;
    if (taken + bytes > room) return nullptr;
    taken += bytes;
    ++segments;
    void* segment = reinterpret_cast<void*>(next);
    next += static_cast<uintptr_t>(bytes);  // segments touch, as the driver's may
    sizes[segment] = bytes;
    return segment;
  }
  void give(void* segment) override {
    taken -= sizes.at(segment);
    sizes.erase(segment);
    --segments;
  }
};

constexpr int64_t mib = 1 << 20;

void check_reuse() {
  CountingSource source;
  {
    MemoryPool pool(source, 1ll << 40);
    void* a = pool.allocate(1000);
    void* b = pool.allocate(0);
    CHECK(a != nullptr && b != nullptr && a != b);
    CHECK(static_cast<char*>(b) - static_cast<char*>(a) == 1024 && source.segments == 1);
    CHECK(pool.stats().live_bytes == 1536 && pool.stats().peak_bytes == 1536);
    pool.release(a);
    CHECK(pool.allocate(600) == a);  // the smallest that fits
    pool.release(a);
    pool.release(b);
    CHECK(pool.stats().live_bytes == 0 && pool.stats().pool_bytes == source.taken);
    CHECK(pool.allocate(source.taken) == a);  // neighbours were joined
    pool.release(a);
    pool.reset_peak();
    CHECK(pool.stats().peak_bytes == 0);
  }
  CHECK(source.taken == 0 && source.segments == 0);
}

/// Steps of changing shapes must not make the pool grow for ever.
void check_changing_shapes() {
  CountingSource source;
  MemoryPool pool(source, 1ll << 40);
  Random random(7);
  int64_t after_ten = 0;
  for (int step = 0; step < 400; ++step) {
    std::vector<void*> blocks;
    for (int i = 0; i < 60; ++i) blocks.push_back(pool.allocate(1 + random.below(3 * mib)));
    while (!blocks.empty()) {
      std::swap(blocks[static_cast<size_t>(random.below(static_cast<int64_t>(blocks.size())))], blocks.back());
      pool.release(blocks.back());
      blocks.pop_back();
    }
    if (step == 10) after_ten = source.taken;
  }
  CHECK(source.taken <= 2 * after_ten && source.taken < 400 * mib);
  CHECK(pool.stats().live_bytes == 0);
}

/// Live blocks never overlap, whatever comes and goes, and segments that touch are not joined.
void check_disjoint() {
  CountingSource source;
  MemoryPool pool(source, 500 * mib);
  Random random(11);
  std::map<char*, int64_t> live;
  bool disjoint = true;
  for (int i = 0; i < 20000; ++i) {
    if (random.below(5) < 3 || live.empty()) {
      const int64_t size = 1 + random.below(random.below(10) == 0 ? 40 * mib : 20000);
      auto* block = static_cast<char*>(pool.allocate(size));
      if (block == nullptr) continue;
      const auto after = live.lower_bound(block);
      if (after != live.end() && block + size > after->first) disjoint = false;
      if (after != live.begin() && std::prev(after)->first + std::prev(after)->second > block) disjoint = false;
      live[block] = size;
    } else {
      auto victim = std::next(live.begin(), random.below(static_cast<int64_t>(live.size())));
      pool.release(victim->first);
      live.erase(victim);
    }
  }
  CHECK(disjoint);
  for (const auto& [block, size] : live) pool.release(block);
  CHECK(pool.stats().live_bytes == 0);
  pool.trim();
  CHECK(source.taken == 0 && pool.stats().pool_bytes == 0);
}

void check_limits() {
  CountingSource source;
  MemoryPool pool(source, 3 * mib);
  void* a = pool.allocate(mib);
  CHECK(a != nullptr && source.taken <= 3 * mib);
  CHECK(pool.allocate(3 * mib) == nullptr);
  CHECK(pool.stats().live_bytes == mib);
  void* b = pool.allocate(2 * mib);
  CHECK(b != nullptr && pool.stats().live_bytes == 3 * mib && pool.stats().limit_bytes == 3 * mib);
  CHECK(pool.allocate(1) == nullptr);
  pool.release(a);
  pool.release(b);
  CHECK(pool.allocate(3 * mib) != nullptr);  // idle segments make room for one that is larger than any of them

  CountingSource poor;
  poor.room = 10 * mib;
  MemoryPool short_of(poor, 1ll << 40);
  void* fits = short_of.allocate(7 * mib);
  CHECK(fits != nullptr && short_of.allocate(7 * mib) == nullptr);
  short_of.release(fits);
  CHECK(short_of.allocate(9 * mib) != nullptr);
}

/// Every block is what was asked for, from the source and back to it.
void check_exact() {
  CountingSource source;
  MemoryPool pool(source, 1000, true);
  void* a = pool.allocate(7);
  void* b = pool.allocate(0);
  CHECK(source.sizes.at(a) == 7 && source.sizes.at(b) == 1 && source.segments == 2);
  CHECK(pool.stats().live_bytes == 8 && pool.allocate(993) == nullptr);
  pool.release(a);
  CHECK(source.taken == 1 && pool.stats().pool_bytes == 1);
  void* c = pool.allocate(999);
  CHECK(source.sizes.at(c) == 999 && pool.stats().peak_bytes == 1000);
  pool.release(b);
  pool.release(c);
  CHECK(source.taken == 0 && source.segments == 0);
}

void check_abandoned() {
  CountingSource source;
  MemoryPool pool(source, 1ll << 40);
  void* a = pool.allocate(10);
  pool.abandon();
  pool.release(a);
  CHECK(pool.stats().live_bytes == 0 && source.segments == 1);
}

}  // namespace

int main() {
  check_reuse();
  check_changing_shapes();
  check_disjoint();
  check_limits();
  check_exact();
  check_abandoned();
  return report();
}
