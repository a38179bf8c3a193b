// The in-order queue: commands from one thread, statistics and reads from others, failures that spread along the
// data, and an end at any moment. Kernels play no part: the device here runs every op by writing a mark.
#include "../../native/binding/queue.h"

#include "check.h"

using namespace check;

namespace {

/// Fills every written operand with the number of ops so far; op `fill` with a negative value fails.
struct MarkDevice : Device {
  std::atomic<int64_t> live{0};
  int64_t limit = 0;
  int marks = 0;

  const char* name() const override { return "mark"; }
  void* allocate(int64_t bytes) override {
    if (limit > 0 && live + bytes > limit) return nullptr;
    live += bytes;
    return std::calloc(1, static_cast<size_t>(bytes) + 1);
  }
  void release(void* block, int64_t bytes) override {
    live -= bytes;
    std::free(block);
  }
  Status run(Op op, Call& call) override {
    if (op == Op::fill && call.p[0] < 0) return fail(Code::shape, "refused by the test");
    ++marks;
    const View& out = call.t[op == Op::fill ? 0 : call.operands - 1];
    for (int64_t i = 0; i < out.size(); ++i) out.as<float>()[i] = static_cast<float>(marks);
    return {};
  }
  bool has_kernel(Op op) const override { return op != Op::gelu; }
  Status upload(void* to, const void* from, int64_t bytes) override {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return {};
  }
  Status download(void* to, const void* from, int64_t bytes) override { return upload(to, from, bytes); }
  MemoryStats memory() const override { return {live, live, live, limit}; }
  void reset_peak() override {}
  void set_threads(int) override {}
  int threads() const override { return 1; }
};

Command make(Command::Kind kind, int32_t id, int64_t size = 0) {
  Command c;
  c.kind = kind;
  c.id = id;
  c.shape.rank = 1;
  c.shape.dims[0] = size;
  return c;
}

Command op(Op name, std::initializer_list<int32_t> ids, std::initializer_list<double> parameters) {
  Command c;
  c.op = name;
  for (const int32_t id : ids) c.ids[c.operands++] = id;
  for (const double p : parameters) c.p[c.parameters++] = p;
  return c;
}

/// Reads a tensor and waits; null when it went well.
std::shared_ptr<const Failure> read(Queue& queue, int32_t id, std::vector<float>& into) {
  Command c = make(Command::Kind::read, id);
  auto request = std::make_shared<Request>();
  request->to = into.data();
  request->bytes = static_cast<int64_t>(into.size() * sizeof(float));
  c.request = request;
  queue.push(std::move(c));
  return request->wait();
}

void check_order() {
  Queue queue(std::make_unique<MarkDevice>());
  std::vector<float> values(8);
  queue.push(make(Command::Kind::create, 0, 8));
  for (int i = 0; i < 1000; ++i) queue.push(op(Op::fill, {0}, {1}));
  CHECK(read(queue, 0, values) == nullptr);
  CHECK(values[0] == 1000.0f && values[7] == 1000.0f);
}

void check_failures_spread() {
  Queue queue(std::make_unique<MarkDevice>());
  std::vector<float> values(4);
  for (int32_t id = 0; id < 4; ++id) queue.push(make(Command::Kind::create, id, 4));
  queue.push(op(Op::fill, {3}, {1}));
  queue.push(op(Op::fill, {0}, {-1}));
  queue.push(op(Op::add, {0, 3, 1}, {}));
  queue.push(op(Op::add, {3, 3, 2}, {}));
  const auto failure = read(queue, 1, values);
  CHECK(failure != nullptr && failure->status.code == Code::shape && failure->where == "fill");
  CHECK(read(queue, 2, values) == nullptr);
  queue.push(op(Op::fill, {0}, {1}));
  CHECK(read(queue, 0, values) == nullptr);
  queue.push(op(Op::gelu, {3, 2}, {}));
  const auto missing = read(queue, 2, values);
  CHECK(missing != nullptr && missing->status.code == Code::no_kernel);
  const auto unknown = read(queue, 77, values);
  CHECK(unknown != nullptr && unknown->status.code == Code::internal);
}

void check_views_and_memory() {
  auto made = std::make_unique<MarkDevice>();
  MarkDevice& device = *made;
  device.limit = 100;
  Queue queue(std::move(made));
  std::vector<float> values(4);
  queue.push(make(Command::Kind::create, 0, 8));
  queue.push(make(Command::Kind::create, 1, 100));
  const auto failure = read(queue, 1, values);
  CHECK(failure != nullptr && failure->status.code == Code::oom);
  Command view = make(Command::Kind::view, 2, 4);
  view.source = 0;
  view.offset = 4;
  queue.push(view);
  queue.push(op(Op::fill, {0}, {1}));
  queue.push(make(Command::Kind::release, 0));
  CHECK(read(queue, 2, values) == nullptr && values[3] == 1.0f);
  view.id = 3;
  view.source = 2;
  view.offset = 1;
  queue.push(view);
  CHECK(read(queue, 3, values) != nullptr);
  CHECK(device.live == 32);
  for (int32_t id = 2; id < 4; ++id) queue.push(make(Command::Kind::release, id));
  CHECK(read(queue, 2, values) != nullptr);
  CHECK(device.live == 0);
}

/// Many commands at once run in order; times are taken while asked for, op by op.
void check_batches_and_times() {
  Queue queue(std::make_unique<MarkDevice>());
  std::vector<float> values(4);
  std::vector<Command> batch;
  batch.push_back(make(Command::Kind::create, 0, 4));
  for (int i = 0; i < 100; ++i) batch.push_back(op(Op::fill, {0}, {1}));
  CHECK(queue.push(batch) && batch.empty());
  CHECK(read(queue, 0, values) == nullptr && values[3] == 100.0f);
  CHECK(queue.profile(true).empty());
  for (int i = 0; i < 3; ++i) queue.push(op(Op::fill, {0}, {1}));
  CHECK(read(queue, 0, values) == nullptr);
  const std::vector<Timing> timings = queue.profile(false);
  CHECK(timings.size() == 3);
  for (size_t i = 0; i < timings.size(); ++i) {
    CHECK(timings[i].op == Op::fill && timings[i].end >= timings[i].begin && timings[i].waited >= 0);
    CHECK(i == 0 || timings[i].begin >= timings[i - 1].end + timings[i].waited);
  }
  queue.push(op(Op::fill, {0}, {1}));
  CHECK(read(queue, 0, values) == nullptr && queue.profile(false).empty());
  queue.stop();
  batch.push_back(op(Op::fill, {0}, {1}));
  CHECK(!queue.push(batch) && batch.empty());
}

/// Readers wait in other threads while work is pushed, statistics are read, and the queue ends.
void check_end_at_any_moment() {
  for (int round = 0; round < 60; ++round) {
    Queue queue(std::make_unique<MarkDevice>());
    queue.push(make(Command::Kind::create, 0, 16));
    std::atomic<int> answers{0};
    std::vector<std::thread> readers;
    for (int reader = 0; reader < 3; ++reader)
      readers.emplace_back([&] {
        std::vector<float> values(16);
        read(queue, 0, values);
        ++answers;
      });
    for (int i = 0; i < round * 5; ++i) queue.push(op(Op::fill, {0}, {1}));
    CHECK(queue.device().memory().limit_bytes == 0);
    queue.stop();
    for (std::thread& reader : readers) reader.join();
    CHECK(answers == 3);
    CHECK(!queue.push(op(Op::fill, {0}, {1})));
  }
}

}  // namespace

int main() {
  check_order();
  check_failures_spread();
  check_views_and_memory();
  check_batches_and_times();
  check_end_at_any_moment();
  return report();
}
