#include "queue.h"

#include <chrono>
#include <cstdlib>
#include <string_view>

namespace ws {

void Request::finish(std::shared_ptr<const Failure> failure) {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
    failure_ = std::move(failure);
  }
  done_changed_.notify_all();
}

std::shared_ptr<const Failure> Request::wait() {
  std::unique_lock lock(mutex_);
  done_changed_.wait(lock, [this] { return done_; });
  return failure_;
}

struct Queue::Storage {
  Device& device;
  void* block;
  int64_t bytes;
  /// Bytes that failed ops left unwritten. Here and not with a tensor's id, because others may look at them.
  struct Failed {
    int64_t begin, end;
    std::shared_ptr<const Failure> failure;
  };
  std::vector<Failed> failed;
  Storage(Device& owner, void* data, int64_t size) : device(owner), block(data), bytes(size) {}
  ~Storage() { device.release(block, bytes); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

namespace {

std::shared_ptr<const Failure> failure(Status status, std::string where) {
  return std::make_shared<const Failure>(Failure{status, status.op != nullptr ? status.op : std::move(where)});
}

Status out_of_memory(int64_t bytes, const MemoryStats& m) {
  if (m.limit_bytes <= 0)
    return fail(Code::oom, "%lld bytes asked, %lld in use: the system gives no more; use a smaller batch or shorter sequences",
                static_cast<long long>(bytes), static_cast<long long>(m.live_bytes));
  return fail(Code::oom, "%lld bytes asked, %lld in use, limit %lld; use a smaller batch or shorter sequences",
              static_cast<long long>(bytes), static_cast<long long>(m.live_bytes),
              static_cast<long long>(m.limit_bytes));
}

const char* op_name(Op op) { return op_table[static_cast<int>(op)].name; }

/// The mark before each operand of an op's signature: '&', '=', '~', or 0 for a plain input, '>' for an output.
struct Marks {
  char of[max_operands] = {0};
};

Marks parse_marks(const char* signature) {
  Marks marks;
  bool word_start = true, outputs = false;
  int operand = 0;
  for (const char* c = signature; *c != 0; ++c) {
    if (*c == '>') outputs = true;
    else if (word_start && *c != ' ')
      marks.of[operand++] = outputs ? '>' : *c == '&' || *c == '=' || *c == '~' ? *c : '\0';
    word_start = *c == ' ';
  }
  return marks;
}

const Marks& marks_of(Op op) {
  // Never destroyed: a queue's thread may run when the process ends.
  static const std::vector<Marks>& all = *[] {
    auto* list = new std::vector<Marks>;
    for (const OpInfo& info : op_table) list->push_back(parse_marks(info.signature));
    return list;
  }();
  return all[static_cast<size_t>(op)];
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// Ends the waits for commands that will not run.
void fail_reads(std::vector<Command>& commands) {
  for (Command& command : commands)
    if (command.request) command.request->finish(failure(fail(Code::device, "the device was closed"), "device"));
}

}  // namespace

Queue::Queue(std::unique_ptr<Device> device) : device_(std::move(device)) {
  thread_.start([this] { loop(); });
}

bool Queue::push(Command command) {
  std::vector<Command> one;
  one.push_back(std::move(command));
  return push(one);
}

bool Queue::push(std::vector<Command>& commands) {
  bool wake = false, taken = false;
  {
    const std::lock_guard lock(mutex_);
    taken = !stopping_;
    if (taken) {
      if (commands_.empty()) commands_.swap(commands);
      else for (Command& command : commands) commands_.push_back(std::move(command));
      wake = asleep_;
      asleep_ = false;
    }
  }
  if (!taken) fail_reads(commands);
  if (wake) pushed_.notify_one();
  commands.clear();
  return taken;
}

void Queue::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    fail_reads(commands_);
    commands_.clear();
  }
  pushed_.notify_all();
  thread_.join();
  tensors_.clear();
}

/// Everything that was pushed; false when the queue ends.
bool Queue::wait_for_work(std::vector<Command>& batch) {
  const int64_t begin = profiling_ ? now() : 0;
  {
    std::unique_lock lock(mutex_);
    while (!stopping_ && commands_.empty()) {
      asleep_ = true;
      pushed_.wait(lock);
    }
    asleep_ = false;
    batch.swap(commands_);
  }
  if (begin > 0) waited_ += now() - begin;
  return !stopping_;
}

void Queue::loop() {
  std::vector<Command> batch;
  while (wait_for_work(batch)) {
    size_t done = 0;
    while (done < batch.size() && !stopping_) execute(batch[done++]);
    batch.erase(batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(done));
    fail_reads(batch);
    batch.clear();
  }
  fail_reads(batch);
}

std::vector<Timing> Queue::profile(bool on) {
  profiling_ = on;
  const std::lock_guard lock(timings_mutex_);
  return std::move(timings_);
}

int64_t Queue::Entry::begin() const {
  return static_cast<uint8_t*>(view.data) - static_cast<uint8_t*>(storage->block);
}

/// What is wrong with the tensor: it has no memory, or some of its bytes were not written.
std::shared_ptr<const Failure> Queue::Entry::failure() const {
  if (!storage || storage->failed.empty() || view.bytes() == 0) return own_failure;
  const int64_t first = begin(), last = first + view.bytes();
  for (const Storage::Failed& f : storage->failed)
    if (f.begin < last && first < f.end) return f.failure;
  return own_failure;
}

void Queue::Entry::fail(const std::shared_ptr<const Failure>& failed) {
  if (!storage || view.bytes() == 0) own_failure = failed;
  else if (!failure()) storage->failed.push_back({begin(), begin() + view.bytes(), failed});
}

/// All of it was written anew.
void Queue::Entry::cure() {
  own_failure = nullptr;
  if (!storage || storage->failed.empty()) return;
  const int64_t first = begin(), last = first + view.bytes();
  std::erase_if(storage->failed, [=](const Storage::Failed& f) { return first <= f.begin && f.end <= last; });
}

Queue::Entry& Queue::entry(int32_t id) {
  const auto index = static_cast<size_t>(id);
  if (index >= tensors_.size()) tensors_.resize(index + 1 + index / 2);
  return tensors_[index];
}

void Queue::execute(Command& command) {
  switch (command.kind) {
    case Command::Kind::create: return create(command);
    case Command::Kind::view: return make_view(command);
    case Command::Kind::release: entry(command.id) = {}; return;
    case Command::Kind::run: return profiling_ ? run_timed(command) : run(command);
    case Command::Kind::write: write(command); command.bytes = {}; return;
    case Command::Kind::read: return read(command);
    case Command::Kind::set_threads: return device_->set_threads(command.id);
  }
}

void Queue::create(const Command& command) {
  Entry made;
  made.view = command.shape;
  const int64_t bytes = command.shape.bytes();
  void* block = device_->allocate(bytes);
  if (block == nullptr) {
    const Status state = device_->state();
    made.own_failure = failure(state.ok() ? out_of_memory(bytes, device_->memory()) : state, "allocate");
  } else {
    made.storage = std::make_shared<Storage>(*device_, block, bytes);
    made.view.data = block;
  }
  entry(command.id) = std::move(made);
}

void Queue::make_view(const Command& command) {
  Entry made;
  const Entry& source = entry(command.source);
  made.view = command.shape;
  made.own_failure = source.own_failure;
  const int64_t begin = command.offset * element_bytes(command.shape.dtype);
  if (source.storage && (begin < 0 || begin + command.shape.bytes() > source.storage->bytes - source.begin())) {
    made.own_failure = failure(fail(Code::internal, "a view leaves its storage"), "view");
  } else if (source.storage) {
    made.storage = source.storage;
    made.view.data = static_cast<uint8_t*>(source.view.data) + begin;
  }
  entry(command.id) = std::move(made);
}

void Queue::write(const Command& command) {
  Entry& target = entry(command.id);
  if (!target.storage) return;
  const auto size = static_cast<int64_t>(command.bytes.size());
  if (size != target.view.bytes()) {
    const Status status = fail(Code::shape, "expected %lld bytes, got %lld",
                               static_cast<long long>(target.view.bytes()), static_cast<long long>(size));
    return target.fail(failure(status, "write"));
  }
  const Status status = device_->upload(target.view.data, command.bytes.data(), size);
  if (status.ok()) target.cure();
  else target.fail(failure(status, "write"));
}

void Queue::read(const Command& command) {
  Request& request = *command.request;
  if (request.to == nullptr) {
    const Status status = device_->sync();
    return request.finish(status.ok() ? nullptr : failure(status, "sync"));
  }
  const Entry& source = entry(command.id);
  if (const auto failed = source.failure()) return request.finish(failed);
  if (!source.storage || source.view.bytes() != request.bytes)
    return request.finish(failure(fail(Code::internal, "the tensor is gone or has another size"), "read"));
  const Status status = device_->download(request.to, source.view.data, request.bytes);
  request.finish(status.ok() ? nullptr : failure(status, "read"));
}

/// Fills the call's operands; the first failure among what the op reads, if any.
std::shared_ptr<const Failure> Queue::gather(const Command& command, Call& call) {
  std::shared_ptr<const Failure> found;
  call.operands = command.operands;
  call.parameters = command.parameters;
  for (int i = 0; i < command.parameters; ++i) call.p[i] = command.p[i];
  const Marks& marks = marks_of(command.op);
  for (int i = 0; i < command.operands; ++i) {
    if (command.ids[i] < 0) continue;
    const Entry& operand = entry(command.ids[i]);
    call.t[i] = operand.view;
    // An overwritten operand may have failed before, but not for want of memory.
    const auto failed = operand.failure();
    if (failed && (marks.of[i] != '=' || !operand.storage) && !found) found = failed;
    if (!operand.storage && !failed && !found)
      found = failure(fail(Code::internal, "operand %d does not exist", i), op_name(command.op));
  }
  return found;
}

/// Marks what the op would have written. '~' operands stay usable: the optimizer must not lose the weights.
void Queue::spread(const Command& command, const std::shared_ptr<const Failure>& failed) {
  const Marks& marks = marks_of(command.op);
  for (int i = 0; i < command.operands; ++i)
    if (command.ids[i] >= 0 && marks.of[i] != 0 && marks.of[i] != '~') entry(command.ids[i]).fail(failed);
}

void Queue::run_timed(const Command& command) {
  const int64_t begin = now();
  run(command);
  device_->sync();
  const std::lock_guard lock(timings_mutex_);
  timings_.push_back({command.op, begin, now(), waited_});
  waited_ = 0;
}

void Queue::run(const Command& command) {
  Call call;
  std::shared_ptr<const Failure> failed = gather(command, call);
  if (!failed) {
    Status status = check_call(command.op, call);
    if (status.ok() && !device_->has_kernel(command.op))
      status = fail(Code::no_kernel, "the op has no kernel on the device '%s'", device_->name());
    if (status.ok()) status = device_->run(command.op, call);
    if (!status.ok()) failed = failure(status, op_name(command.op));
  }
  if (failed) return spread(command, failed);
  const Marks& marks = marks_of(command.op);
  for (int i = 0; i < command.operands; ++i)
    if (command.ids[i] >= 0 && marks.of[i] == '=') entry(command.ids[i]).cure();
}

}  // namespace ws
