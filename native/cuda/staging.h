// Copies between ordinary host memory and the device through pairs of pinned buffers: while one is in flight the other
// is filled or emptied. An upload returns before it has arrived, many small ones share a buffer; a download returns
// when it has arrived. Used by the thread of the device.
#pragma once
#include "driver.h"

namespace ws::cuda {

class Staging {
 public:
  Staging() = default;
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Needs a current context. Without pinned memory copies still work, slower.
  Status open(Stream stream);
  /// After the stream has been waited for.
  void close();
  Result upload(Address to, const void* from, int64_t bytes);
  Result download(void* to, Address from, int64_t bytes);
  /// Room for a few words that the caller copies from the device by itself.
  void* small() { return small_; }

 private:
  static constexpr int64_t small_bytes = 64;
  struct Buffer {
    char* memory = nullptr;
    Event event = nullptr;
    bool in_flight = false;  // uploads: the event says when it may be filled again
    int64_t used = 0;
  };

  Result turn();
  Result fetch(Buffer& buffer, Address from, int64_t bytes);

  Stream stream_ = nullptr;
  bool pinned_ = false;
  void* small_ = nullptr;
  char unpinned_[small_bytes] = {0};
  Buffer up_[2], down_[2];
  int current_ = 0;
};

}  // namespace ws::cuda
