// The thread pool: every task of a job runs exactly once, on a worker that exists, for any number of threads, right
// after a change of that number, and for many jobs in a row. Under the thread sanitizer it also shows that what
// tasks write is visible when run() returns. The pool knows no exceptions: a job is a plain function.
#include "../../native/cpu/pool.h"

#include <chrono>

#include "check.h"

using namespace check;

namespace {

/// One job: counts how often each task ran, in plain memory, and remembers the largest worker number.
struct Job {
  std::vector<int> runs;
  std::atomic<int> largest_worker{0};

  explicit Job(int64_t tasks) : runs(static_cast<size_t>(tasks)) {}

  static void run(void* context, int64_t task, int worker) {
    auto* job = static_cast<Job*>(context);
    ++job->runs[static_cast<size_t>(task)];
    int seen = job->largest_worker;
    while (worker > seen && !job->largest_worker.compare_exchange_weak(seen, worker)) {
    }
  }
  bool each_ran_once() const {
    return std::all_of(runs.begin(), runs.end(), [](int count) { return count == 1; });
  }
};

void check_job(Pool& pool, int64_t tasks) {
  Job job(tasks);
  pool.run(tasks, Job::run, &job);
  CHECK(job.each_ran_once());
  CHECK(job.largest_worker < pool.threads());
}

void check_sizes() {
  for (const int threads : {1, 2, 3, 8}) {
    Pool pool(threads);
    CHECK(pool.threads() == threads);
    for (const int64_t tasks : {0, 1, 2, 3, 7, 8, 9, 100, 5000}) check_job(pool, tasks);
  }
}

/// Ops follow each other within microseconds: workers are found spinning, waking and asleep.
void check_many_small_jobs() {
  Pool pool(4);
  for (int i = 0; i < 4000; ++i) check_job(pool, 1 + i % 9);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    check_job(pool, 5);
  }
}

void wait(std::chrono::microseconds time) {
  const auto until = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < until) {
  }
}

/// New workers must not take part in a job that ended before they started: the job after a resize comes at every
/// moment of their start.
void check_resize() {
  Pool pool(2);
  for (int i = 0; i < 300; ++i) {
    const int threads = 1 + (i * 5) % 8;
    pool.resize(threads);
    CHECK(pool.threads() == threads);
    wait(std::chrono::microseconds(i % 100));
    for (int jobs = 0; jobs < 3; ++jobs) check_job(pool, 2 + (i + jobs) % 13);
  }
}

/// A sum over a shared array written by one job and read by the next: what a kernel does to the next kernel.
void check_visibility() {
  Pool pool(3);
  std::vector<int64_t> values(4096), sums(64);
  for (int64_t round = 1; round <= 50; ++round) {
    struct Context {
      std::vector<int64_t>& values;
      std::vector<int64_t>& sums;
      int64_t round;
    } context = {values, sums, round};
    pool.run(64, [](void* c, int64_t task, int) {
      auto& x = *static_cast<Context*>(c);
      for (int64_t i = 0; i < 64; ++i) x.values[static_cast<size_t>(i * 64 + task)] = x.round + task;
    }, &context);
    pool.run(64, [](void* c, int64_t task, int) {
      auto& x = *static_cast<Context*>(c);
      x.sums[static_cast<size_t>(task)] = 0;
      for (int64_t i = 0; i < 64; ++i) x.sums[static_cast<size_t>(task)] += x.values[static_cast<size_t>(task * 64 + i)];
    }, &context);
    CHECK(std::all_of(sums.begin(), sums.end(), [&](int64_t sum) { return sum == 64 * round + 64 * 63 / 2; }));
  }
}

/// Pools are independent: several threads, each with its own.
void check_two_pools() {
  std::vector<std::thread> owners;
  std::atomic<int> good{0};
  for (int owner = 0; owner < 2; ++owner)
    owners.emplace_back([&good] {
      Pool pool(3);
      for (int i = 0; i < 300; ++i) {
        Job job(17);
        pool.run(17, Job::run, &job);
        if (job.each_ran_once()) ++good;
      }
    });
  for (std::thread& owner : owners) owner.join();
  CHECK(good == 600);
}

}  // namespace

int main() {
  check_sizes();
  check_many_small_jobs();
  check_resize();
  check_visibility();
  check_two_pools();
  return report();
}
