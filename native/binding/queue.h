// The in-order queue of a device. JS pushes commands and never waits; one native thread runs them in order.
// Tensors live here, by the integer ids that JS hands out: a storage with a reference count, and a shape.
// A failed op marks the memory that it would have written; what depends on it, by whichever tensor, fails with the same
// status; a read reports it.
#pragma once
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../core/device.h"
#include "../core/thread.h"

namespace ws {

/// What went wrong and in which op.
struct Failure {
  Status status;
  std::string where;
};

/// One awaited read: filled by the queue, waited for by a helper thread of Node.
class Request {
 public:
  void* to = nullptr;  // null: only wait for everything before it
  int64_t bytes = 0;

  void finish(std::shared_ptr<const Failure> failure);
  /// Blocks until finished; null when all went well.
  std::shared_ptr<const Failure> wait();

 private:
  std::mutex mutex_;
  std::condition_variable done_changed_;
  bool done_ = false;
  std::shared_ptr<const Failure> failure_;
};

struct Command {
  enum class Kind { create, view, release, run, write, read, set_threads } kind = Kind::run;
  int32_t id = -1;      // the tensor of create, view, release, write, read; the count of set_threads
  int32_t source = -1;  // view: the tensor that it looks into
  int64_t offset = 0;   // view: in elements
  View shape;           // create, view: dtype and dims
  Op op = Op::count;
  int32_t operands = 0, parameters = 0;
  int32_t ids[max_operands] = {0};
  double p[max_parameters] = {0};
  std::vector<uint8_t> bytes;        // write
  std::shared_ptr<Request> request;  // read
};

/// When one op ran, in nanoseconds of a steady clock, and how long the queue had waited for work since the op before.
struct Timing {
  Op op;
  int64_t begin, end, waited;
};

class Queue {
 public:
  explicit Queue(std::unique_ptr<Device> device);
  ~Queue() { stop(); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  Device& device() { return *device_; }
  /// False when the system gave no thread: nothing will run.
  bool started() const { return thread_.started(); }
  /// False once stopped: the command is dropped (a read is finished with a failure).
  bool push(Command command);
  /// The same for many, in one lock; leaves `commands` empty.
  bool push(std::vector<Command>& commands);
  /// Drops what is queued, fails waiting reads, joins the thread. Safe to call twice.
  void stop();
  /// Starts or ends taking times of ops; gives those taken since the last call. On a device that runs ops later each one
  /// is waited for meanwhile.
  std::vector<Timing> profile(bool on);

 private:
  struct Storage;
  struct Entry {
    std::shared_ptr<Storage> storage;
    View view;
    std::shared_ptr<const Failure> own_failure;  // of a tensor without memory or elements

    int64_t begin() const;  // bytes of the storage before it
    std::shared_ptr<const Failure> failure() const;
    void fail(const std::shared_ptr<const Failure>& failed);
    void cure();
  };

  void loop();
  bool wait_for_work(std::vector<Command>& batch);
  void execute(Command& command);
  void create(const Command& command);
  void make_view(const Command& command);
  void write(const Command& command);
  void read(const Command& command);
  void run(const Command& command);
  void run_timed(const Command& command);
  std::shared_ptr<const Failure> gather(const Command& command, Call& call);
  void spread(const Command& command, const std::shared_ptr<const Failure>& failure);
  Entry& entry(int32_t id);

  std::unique_ptr<Device> device_;
  std::vector<Entry> tensors_;
  std::mutex mutex_;
  std::condition_variable pushed_;
  std::vector<Command> commands_;
  bool asleep_ = false;  // the thread waits for pushed_
  std::atomic<bool> stopping_{false};
  std::mutex timings_mutex_;
  std::vector<Timing> timings_;
  std::atomic<bool> profiling_{false};
  int64_t waited_ = 0;  // while profiling: nanoseconds since the last op
  Thread thread_;
};

}  // namespace ws
