// The CPU's thread pool: N - 1 workers and the caller. Where the system gives fewer threads,
// half as many as it gave. Tasks are handed out by an atomic counter; which worker
// runs a task never changes a result (tasks are cut by shape, kernels.md 11.5).
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "../core/thread.h"

namespace ws {

class Pool {
 public:
  explicit Pool(int threads) { start(threads); }
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  void resize(int threads);
  /// Runs fn(context, task, worker) for task in [0, tasks); the caller works too, as worker 0.
  void run(int64_t tasks, void (*fn)(void*, int64_t, int), void* context);

 private:
  struct Job {
    void (*fn)(void*, int64_t, int) = nullptr;
    void* context = nullptr;
    int64_t tasks = 0;
  };

  void start(int threads);
  void stop();
  void loop(int worker, uint64_t seen);
  bool wait_for_job(uint64_t seen);
  bool join(uint64_t& seen, Job& job);
  void work(const Job& job, int worker);

  std::vector<Thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Job job_;
  bool open_ = false;  // workers may still join the job
  std::atomic<int64_t> next_{0};
  std::atomic<int> active_{0};  // workers inside the job
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace ws
