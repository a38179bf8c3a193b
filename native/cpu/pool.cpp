// Workers spin for a few tens of microseconds after a job, because ops follow each other closely, then sleep. A job
// waits only for workers that have joined it: when the other cores are busy with something else, the caller does all
// of the work itself instead of waiting for a thread that the system has not run yet.
#include "pool.h"

#include <chrono>
#include <thread>

namespace ws {
namespace {

constexpr auto spin_time = std::chrono::microseconds(40);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void Pool::start(int threads) {
  stopping_ = false;
  // A new worker must not take part in the last job, which is over: it waits for the next generation.
  const uint64_t seen = generation_;
  for (int worker = 1; worker < threads; ++worker) {
    Thread thread;
    if (!thread.start([this, worker, seen] { loop(worker, seen); })) {
      // Half of what there was: the queue and Node need threads too.
      stop();
      return start(1 + (worker - 1) / 2);
    }
    workers_.push_back(std::move(thread));
  }
}

void Pool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (Thread& worker : workers_) worker.join();
  workers_.clear();
}

void Pool::resize(int threads) {
  stop();
  start(threads);
}

void Pool::work(const Job& job, int worker) {
  for (int64_t task = next_++; task < job.tasks; task = next_++) job.fn(job.context, task, worker);
}

void Pool::run(int64_t tasks, void (*fn)(void*, int64_t, int), void* context) {
  if (tasks == 1 || workers_.empty()) {
    for (int64_t task = 0; task < tasks; ++task) fn(context, task, 0);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    job_ = {fn, context, tasks};
    next_ = 0;
    open_ = true;
    ++generation_;
  }
  wake_.notify_all();
  work(job_, 0);
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  for (int spins = 0; active_.load(std::memory_order_acquire) > 0; ++spins) {
    if (spins < 1000) relax();
    else std::this_thread::yield();
  }
}

bool Pool::wait_for_job(uint64_t seen) {
  const auto ready = [&] { return stopping_ || generation_ != seen; };
  const auto until = std::chrono::steady_clock::now() + spin_time;
  while (!ready() && std::chrono::steady_clock::now() < until) relax();
  if (!ready()) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, ready);
  }
  return !stopping_;
}

/// Enters the open job, unless it was seen before or has been closed.
bool Pool::join(uint64_t& seen, Job& job) {
  const std::lock_guard lock(mutex_);
  seen = generation_;
  if (!open_) return false;
  active_.fetch_add(1, std::memory_order_relaxed);
  job = job_;
  return true;
}

void Pool::loop(int worker, uint64_t seen) {
  while (wait_for_job(seen)) {
    Job job;
    if (!join(seen, job)) continue;
    work(job, worker);
    active_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace ws
