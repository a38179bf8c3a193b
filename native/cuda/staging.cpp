#include "staging.h"

#include <algorithm>
#include <cstring>

namespace ws::cuda {
namespace {

/// Large enough that a copy reaches the bus's rate, small enough to be filled while the other travels.
constexpr int64_t buffer_bytes = 4 << 20;

}  // namespace

Status Staging::open(Stream stream) {
  stream_ = stream;
  const Driver& d = driver();
  pinned_ = true;
  for (Buffer* buffer : {&up_[0], &up_[1], &down_[0], &down_[1]}) {
    const Result r = d.cuEventCreate(&buffer->event, event_disable_timing);
    if (r != result::success) return to_status(r, "cuEventCreate");
    void* memory = nullptr;
    pinned_ = pinned_ && d.cuMemHostAlloc(&memory, buffer_bytes, 0) == result::success;
    buffer->memory = static_cast<char*>(memory);
  }
  if (d.cuMemHostAlloc(&small_, small_bytes, 0) != result::success) small_ = unpinned_;
  return {};
}

void Staging::close() {
  const Driver& d = driver();
  for (Buffer* buffer : {&up_[0], &up_[1], &down_[0], &down_[1]}) {
    if (buffer->memory != nullptr) d.cuMemFreeHost(buffer->memory);
    if (buffer->event != nullptr) d.cuEventDestroy(buffer->event);
    *buffer = {};
  }
  if (small_ != nullptr && small_ != unpinned_) d.cuMemFreeHost(small_);
  small_ = nullptr;
}

/// Goes on with the other upload buffer, as soon as what it holds has left it.
Result Staging::turn() {
  const Driver& d = driver();
  Buffer& full = up_[current_];
  const Result r = d.cuEventRecord(full.event, stream_);
  if (r != result::success) return r;
  full.in_flight = true;
  current_ ^= 1;
  Buffer& next = up_[current_];
  next.used = 0;
  if (!next.in_flight) return result::success;
  next.in_flight = false;
  return d.cuEventSynchronize(next.event);
}

Result Staging::upload(Address to, const void* from, int64_t bytes) {
  const Driver& d = driver();
  const auto* source = static_cast<const char*>(from);
  Result r = result::success;
  if (!pinned_) {
    // Whether the driver has read pageable memory when the call returns is left open.
    r = d.cuMemcpyHtoDAsync(to, source, static_cast<size_t>(bytes), stream_);
    return r == result::success ? d.cuStreamSynchronize(stream_) : r;
  }
  for (int64_t done = 0; r == result::success && done < bytes;) {
    if (up_[current_].used == buffer_bytes) r = turn();
    if (r != result::success) return r;
    Buffer& buffer = up_[current_];
    const int64_t part = std::min(bytes - done, buffer_bytes - buffer.used);
    char* place = buffer.memory + buffer.used;
    std::memcpy(place, source + done, static_cast<size_t>(part));
    r = d.cuMemcpyHtoDAsync(to + static_cast<Address>(done), place, static_cast<size_t>(part), stream_);
    buffer.used += (part + 63) / 64 * 64;
    done += part;
  }
  return r;
}

/// Starts the copy of one part into a buffer.
Result Staging::fetch(Buffer& buffer, Address from, int64_t bytes) {
  const Driver& d = driver();
  const Result r = d.cuMemcpyDtoHAsync(buffer.memory, from, static_cast<size_t>(bytes), stream_);
  return r == result::success ? d.cuEventRecord(buffer.event, stream_) : r;
}

Result Staging::download(void* to, Address from, int64_t bytes) {
  const Driver& d = driver();
  if (!pinned_) {
    const Result r = d.cuMemcpyDtoHAsync(to, from, static_cast<size_t>(bytes), stream_);
    return r == result::success ? d.cuStreamSynchronize(stream_) : r;
  }
  const int64_t parts = (bytes + buffer_bytes - 1) / buffer_bytes;
  const auto length = [&](int64_t i) { return static_cast<size_t>(std::min(buffer_bytes, bytes - i * buffer_bytes)); };
  Result r = result::success;
  for (int64_t i = 0; r == result::success && i <= parts; ++i) {  // part i begins, part i - 1 ends
    if (i < parts)
      r = fetch(down_[i % 2], from + static_cast<Address>(i * buffer_bytes), static_cast<int64_t>(length(i)));
    if (i == 0 || r != result::success) continue;
    const Buffer& arrived = down_[(i - 1) % 2];
    r = d.cuEventSynchronize(arrived.event);
    if (r == result::success)
      std::memcpy(static_cast<char*>(to) + (i - 1) * buffer_bytes, arrived.memory, length(i - 1));
  }
  return r;
}

}  // namespace ws::cuda
