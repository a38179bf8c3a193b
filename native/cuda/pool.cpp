#include "pool.h"

#include <algorithm>

namespace ws::cuda {
namespace {

constexpr int64_t block_step = 512;           // vector loads, TMA and coalescing want less
constexpr int64_t segment_step = 2 << 20;     // pages of the device
constexpr int64_t least_segment = 32 << 20;
constexpr int64_t most_segment = 1ll << 30;   // unless one block needs more

constexpr int64_t round_up(int64_t bytes, int64_t step) { return (bytes + step - 1) / step * step; }

}  // namespace

void* MemoryPool::allocate(int64_t bytes) {
  const int64_t step = exact_ ? 1 : block_step, size = std::max(step, round_up(bytes, step));
  if (live_ + size > limit_) return nullptr;
  void* block = take_idle(size);
  if (block == nullptr && grow(size)) block = take_idle(size);
  if (block == nullptr) return nullptr;
  live_ += size;
  if (live_ > peak_) peak_ = live_.load();
  return block;
}

/// The smallest idle block that is large enough; what it has too much stays idle.
void* MemoryPool::take_idle(int64_t bytes) {
  const auto found = idle_.lower_bound({bytes, nullptr});
  if (found == idle_.end()) return nullptr;
  const auto [size, begin] = *found;
  idle_.erase(found);
  Block& block = blocks_.at(begin);
  block.idle = false;
  if (size > bytes) {
    block.bytes = bytes;
    blocks_.insert({begin + bytes, {size - bytes, true, block.segment}});
    idle_.insert({size - bytes, begin + bytes});
  }
  return begin;
}

void MemoryPool::release(void* pointer) {
  const auto block = blocks_.find(static_cast<char*>(pointer));
  if (block == blocks_.end()) return;  // abandoned
  live_ -= block->second.bytes;
  block->second.idle = true;
  join(block);
  if (exact_) trim();
}

/// Joins an idle block with idle neighbours of its segment and lists the whole.
void MemoryPool::join(Blocks::iterator block) {
  const auto fits = [&](Blocks::iterator other) {
    return other->second.idle && other->second.segment == block->second.segment;
  };
  const auto next = std::next(block);
  if (next != blocks_.end() && fits(next)) {
    block->second.bytes += next->second.bytes;
    idle_.erase({next->second.bytes, next->first});
    blocks_.erase(next);
  }
  if (block != blocks_.begin() && fits(std::prev(block))) {
    const auto before = std::prev(block);
    idle_.erase({before->second.bytes, before->first});
    before->second.bytes += block->second.bytes;
    blocks_.erase(block);
    block = before;
  }
  idle_.insert({block->second.bytes, block->first});
}

/// A new segment: an eighth of what there is, so that there are few, or what the limit leaves; only what is asked when
/// the source has not that much; after giving idle segments back when even that does not fit.
bool MemoryPool::grow(int64_t bytes) {
  if (exact_) return add_segment(bytes);
  const int64_t least = round_up(bytes, segment_step);
  const int64_t ample = round_up(std::clamp(taken_ / 8, least_segment, most_segment), segment_step);
  const auto within_limit = [&](int64_t size) { return std::max(bytes, std::min(size, limit_ - taken_)); };
  if (add_segment(within_limit(std::max(least, ample))) || add_segment(within_limit(least))) return true;
  trim();
  return add_segment(within_limit(least));
}

bool MemoryPool::add_segment(int64_t bytes) {
  if (taken_ + bytes > limit_) return false;
  auto* begin = static_cast<char*>(source_.take(bytes));
  if (begin == nullptr) return false;
  taken_ += bytes;
  blocks_.insert({begin, {bytes, true, begin}});
  idle_.insert({bytes, begin});
  return true;
}

void MemoryPool::trim() {
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    const auto next = std::next(block);
    const auto& [begin, facts] = *block;
    const bool alone = next == blocks_.end() || next->second.segment != facts.segment;
    if (facts.idle && facts.segment == begin && alone) {
      taken_ -= facts.bytes;
      idle_.erase({facts.bytes, begin});
      source_.give(begin);
      blocks_.erase(block);
    }
    block = next;
  }
}

void MemoryPool::abandon() {
  blocks_.clear();
  idle_.clear();
  live_ = 0;
  taken_ = 0;
}

}  // namespace ws::cuda
