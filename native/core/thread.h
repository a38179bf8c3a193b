// A thread that the system may refuse: std::thread throws then, which ends the process where exceptions are off.
#pragma once
#include <functional>

namespace ws {

class Thread {
 public:
  Thread() = default;
  Thread(Thread&& other) noexcept;
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  Thread& operator=(Thread&&) = delete;

  /// Once; false when there is no thread to be had. Whoever starts one joins it.
  bool start(std::function<void()> work);
  bool started() const { return started_; }
  void join();

 private:
  unsigned long id_ = 0;
  bool started_ = false;
};

}  // namespace ws
