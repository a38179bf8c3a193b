// The N-API face: a Device class with nine methods, and two functions; no arithmetic. TypeScript checks
// arguments first (ts/src/native); here they are checked again, so that no argument can crash Node. A device and its
// queue belong to one environment, whose cleanup hook stops them. Status codes only, no C++ exceptions.
#include <napi.h>

#include <cmath>

#include "../core/cuda.h"
#include "queue.h"

namespace ws {
namespace {

constexpr double max_id = 1 << 24;
constexpr double max_elements = 1e14;
constexpr int64_t record_length = 4096;

void refuse(Napi::Env env, const char* code, const std::string& text) {
  Napi::Error error = Napi::Error::New(env, text);
  error.Set("code", Napi::String::New(env, code));
  error.ThrowAsJavaScriptException();
}

/// A whole number in [low, high] from an argument.
bool whole(const Napi::Value& value, double low, double high, double& out) {
  if (!value.IsNumber()) return false;
  out = value.As<Napi::Number>().DoubleValue();
  return out >= low && out <= high && out == std::floor(out);
}

/// The numbers of the record, taken one after another. Once one is missing or out of range all that follow are.
struct Numbers {
  const double* at;
  const double* end;
  bool good = true;

  double take() {
    good = good && at < end;
    return good ? *at++ : 0;
  }
  double whole(double low, double high) {
    const double x = take();
    good = good && x >= low && x <= high && x == std::floor(x);
    return good ? x : low;
  }
  int32_t small(double low, double high) { return static_cast<int32_t>(whole(low, high)); }
};

/// dtype, rank, dims
void take_shape(Numbers& from, View& shape) {
  shape.dtype = static_cast<DType>(from.small(0, 3));
  shape.rank = from.small(0, max_rank);
  double size = 1;
  for (int i = 0; i < shape.rank; ++i) {
    const double dim = from.whole(0, 1e12);
    shape.dims[i] = static_cast<int64_t>(dim);
    size *= dim;
  }
  from.good = from.good && size <= max_elements;
}

/// op, operand count, ids (-1: absent), parameter count, parameters
void take_run(Numbers& from, Command& command) {
  command.op = static_cast<Op>(from.small(0, op_count - 1));
  command.operands = from.small(0, max_operands);
  for (int i = 0; i < command.operands; ++i) command.ids[i] = from.small(-1, max_id);
  command.parameters = from.small(0, max_parameters);
  for (int i = 0; i < command.parameters; ++i) command.p[i] = from.take();
}

/// One command of the record: its kind, and
///   0 create   id, shape          1 view   id, source, offset in elements, shape
///   2 release  id                 3 run    as take_run() says
void take_command(Numbers& from, Command& command) {
  static_assert(static_cast<int>(Command::Kind::create) == 0 && static_cast<int>(Command::Kind::run) == 3);
  command.kind = static_cast<Command::Kind>(from.small(0, 3));
  if (command.kind == Command::Kind::run) return take_run(from, command);
  command.id = from.small(0, max_id);
  if (command.kind == Command::Kind::release) return;
  if (command.kind == Command::Kind::view) {
    command.source = from.small(0, max_id);
    command.offset = static_cast<int64_t>(from.whole(0, 9e15));
  }
  take_shape(from, command.shape);
}

/// Reads in flight that were asked for together: one helper thread waits for all. Completion may come while the environment
/// ends, when no JS can run: every napi status of complete() is therefore ignored on purpose.
struct Reads {
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref arrays = nullptr;  // the list of arrays: they must live until all are filled
  std::vector<std::shared_ptr<Request>> requests;
  std::vector<std::shared_ptr<const Failure>> failures;
};

napi_value error_of(napi_env env, const Failure& failure) {
  napi_value message = nullptr, code = nullptr, where = nullptr, error = nullptr;
  napi_create_string_utf8(env, failure.status.text, NAPI_AUTO_LENGTH, &message);
  napi_create_string_utf8(env, code_name(failure.status.code), NAPI_AUTO_LENGTH, &code);
  napi_create_string_utf8(env, failure.where.c_str(), NAPI_AUTO_LENGTH, &where);
  if (napi_create_error(env, code, message, &error) == napi_ok) napi_set_named_property(env, error, "where", where);
  return error;
}

void execute_reads(napi_env, void* data) {
  auto* reads = static_cast<Reads*>(data);
  for (const auto& request : reads->requests) reads->failures.push_back(request->wait());
}

void complete_reads(napi_env env, napi_status, void* data) {
  const std::unique_ptr<Reads> reads(static_cast<Reads*>(data));
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) == napi_ok) {
    napi_value failures = nullptr;
    napi_create_array_with_length(env, reads->failures.size(), &failures);
    for (uint32_t i = 0; i < reads->failures.size(); ++i) {
      if (reads->failures[i]) napi_set_element(env, failures, i, error_of(env, *reads->failures[i]));
    }
    napi_resolve_deferred(env, reads->deferred, failures);
    napi_close_handle_scope(env, scope);
  }
  if (reads->arrays != nullptr) napi_delete_reference(env, reads->arrays);
  napi_delete_async_work(env, reads->work);
}

/// "cuda:N" is GPU N; anything else an instruction-set level of the CPU.
std::unique_ptr<Device> open(const std::string& level, int threads, int64_t limit, Status& status) {
  if (level.compare(0, 5, "cuda:") != 0) return open_cpu(level.c_str(), threads, limit, status);
  const std::string number = level.substr(5);
  if (!number.empty() && number.size() <= 3 && number.find_first_not_of("0123456789") == std::string::npos)
    return open_cuda(std::stoi(number), limit, status);
  status = fail(Code::device, "expected cuda:N with a number, got '%.40s'", level.c_str());
  return nullptr;
}

class NativeDevice : public Napi::ObjectWrap<NativeDevice> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Device",
                       {
                           InstanceMethod("close", &NativeDevice::close),
                           InstanceMethod("submit", &NativeDevice::submit),
                           InstanceMethod("write", &NativeDevice::write),
                           InstanceMethod("read", &NativeDevice::read),
                           InstanceMethod("setThreads", &NativeDevice::set_threads),
                           InstanceMethod("memory", &NativeDevice::memory),
                           InstanceMethod("resetPeak", &NativeDevice::reset_peak),
                           InstanceMethod("hasKernel", &NativeDevice::has_kernel),
                           InstanceMethod("profile", &NativeDevice::profile),
                       });
  }

  /// new Device(level, threads, limitBytes): has `record`, `level`, `threads` and `tokenAlignment`. level: an instruction
  /// set, "" for the best, or "cuda:N".
  explicit NativeDevice(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeDevice>(info), env_(info.Env()) {
    double threads = 0, limit = 0;
    if (!info[0].IsString() || !whole(info[1], 0, 4096, threads) || !whole(info[2], 0, 9e15, limit)) {
      bad(info, "new Device(level: string, threads: integer, limitBytes: integer)");
      return;
    }
    Status status;
    std::unique_ptr<Device> device = open(info[0].As<Napi::String>().Utf8Value(), static_cast<int>(threads),
                                          static_cast<int64_t>(limit), status);
    if (!device) {
      refuse(info.Env(), code_name(status.code), status.text);
      return;
    }
    queue_ = std::make_unique<Queue>(std::move(device));
    if (!queue_->started()) {
      queue_.reset();
      refuse(info.Env(), "E_DEVICE", "the system gives no thread for the device's queue: too many processes or threads");
      return;
    }
    napi_add_env_cleanup_hook(env_, stop, this);
    Napi::Float64Array record = Napi::Float64Array::New(info.Env(), record_length);
    record_ = record.Data();
    record_reference_ = Napi::Persistent(record.As<Napi::Object>());
    Napi::Object self = info.This().As<Napi::Object>();
    self.Set("record", record);
    self.Set("level", queue_->device().name());
    self.Set("threads", queue_->device().threads());
    self.Set("tokenAlignment", queue_->device().token_alignment());
  }

  ~NativeDevice() override {
    if (queue_) napi_remove_env_cleanup_hook(env_, stop, this);
  }

 private:
  static void stop(void* self) { static_cast<NativeDevice*>(self)->queue_.reset(); }

  Napi::Value close(const Napi::CallbackInfo& info) {
    if (queue_) napi_remove_env_cleanup_hook(env_, stop, this);
    queue_.reset();
    return info.Env().Undefined();
  }

  /// submit(length): queues the commands that the first `length` numbers of the record hold; all of them or, when one
  /// is not valid, none.
  Napi::Value submit(const Napi::CallbackInfo& info) {
    double length = 0;
    if (record_ == nullptr || !whole(info[0], 0, record_length, length)) return bad(info, "submit(length)");
    Numbers numbers = {record_, record_ + static_cast<int64_t>(length)};
    commands_.clear();
    while (numbers.good && numbers.at < numbers.end) {
      commands_.emplace_back();
      take_command(numbers, commands_.back());
    }
    if (!numbers.good) return bad(info, "submit(length) of a record with valid commands");
    if (!queue_ || !queue_->push(commands_)) return bad(info, "an open device");
    return info.Env().Undefined();
  }

  /// write(id, typed array): the bytes are copied before the call returns.
  Napi::Value write(const Napi::CallbackInfo& info) {
    Command command;
    command.kind = Command::Kind::write;
    if (!read_id(info[0], command) || !info[1].IsTypedArray()) return bad(info, "write(id, typedArray)");
    const auto array = info[1].As<Napi::TypedArray>();
    const auto* from = static_cast<const uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    command.bytes.assign(from, from + array.ByteLength());
    return push(info, std::move(command));
  }

  /// read(ids, arrays) -> Promise of a list, when all arrays are filled with these tensors' elements and everything before
  /// has run: at the place of each that failed, its error. Null in place of an array only waits.
  Napi::Value read(const Napi::CallbackInfo& info) {
    static const char expected[] = "read(ids, typed arrays or nulls)";
    if (!info[0].IsArray() || !info[1].IsArray()) return bad(info, expected);
    const auto ids = info[0].As<Napi::Array>(), arrays = info[1].As<Napi::Array>();
    if (ids.Length() != arrays.Length()) return bad(info, expected);
    std::vector<Command> commands(ids.Length());
    for (uint32_t i = 0; i < ids.Length(); ++i) {
      commands[i].kind = Command::Kind::read;
      commands[i].request = std::make_shared<Request>();
      const Napi::Value array = arrays[i];
      if (array.IsNull()) continue;
      if (!array.IsTypedArray() || !read_id(ids[i], commands[i])) return bad(info, expected);
      const auto typed = array.As<Napi::TypedArray>();
      commands[i].request->to = static_cast<uint8_t*>(typed.ArrayBuffer().Data()) + typed.ByteOffset();
      commands[i].request->bytes = static_cast<int64_t>(typed.ByteLength());
    }
    return wait_for(info, commands, arrays);
  }

  Napi::Value set_threads(const Napi::CallbackInfo& info) {
    double threads = 0;
    if (!whole(info[0], 1, 4096, threads)) return bad(info, "setThreads(count)");
    Command command;
    command.kind = Command::Kind::set_threads;
    command.id = static_cast<int32_t>(threads);
    return push(info, std::move(command));
  }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    if (!queue_) return bad(info, "memory() of an open device");
    const MemoryStats stats = queue_->device().memory();
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("liveBytes", static_cast<double>(stats.live_bytes));
    out.Set("peakBytes", static_cast<double>(stats.peak_bytes));
    out.Set("poolBytes", static_cast<double>(stats.pool_bytes));
    out.Set("limitBytes", static_cast<double>(stats.limit_bytes));
    return out;
  }

  Napi::Value reset_peak(const Napi::CallbackInfo& info) {
    if (queue_) queue_->device().reset_peak();
    return info.Env().Undefined();
  }

  /// hasKernel(op index)
  Napi::Value has_kernel(const Napi::CallbackInfo& info) {
    double op = 0;
    if (!queue_ || !whole(info[0], 0, op_count - 1, op)) return bad(info, "hasKernel(op) of an open device");
    return Napi::Boolean::New(info.Env(), queue_->device().has_kernel(static_cast<Op>(static_cast<int>(op))));
  }

  /// profile(on) -> op, begin, end, waited of every op since the last call, in nanoseconds; see Queue::profile.
  Napi::Value profile(const Napi::CallbackInfo& info) {
    if (!queue_ || !info[0].IsBoolean()) return bad(info, "profile(on: boolean) of an open device");
    const std::vector<Timing> timings = queue_->profile(info[0].As<Napi::Boolean>().Value());
    Napi::Float64Array out = Napi::Float64Array::New(info.Env(), 4 * timings.size());
    size_t at = 0;
    for (const Timing& t : timings) {
      out[at++] = static_cast<double>(static_cast<int>(t.op));
      for (const int64_t time : {t.begin, t.end, t.waited}) out[at++] = static_cast<double>(time);
    }
    return out;
  }

  Napi::Value bad(const Napi::CallbackInfo& info, const char* expected) {
    refuse(info.Env(), "E_INTERNAL", std::string("expected ") + expected);
    return info.Env().Undefined();
  }

  static bool read_id(const Napi::Value& value, Command& command) {
    double id = 0;
    if (!whole(value, 0, max_id, id)) return false;
    command.id = static_cast<int32_t>(id);
    return true;
  }

  Napi::Value push(const Napi::CallbackInfo& info, Command command) {
    if (!queue_ || !queue_->push(std::move(command))) return bad(info, "an open device");
    return info.Env().Undefined();
  }

  Napi::Value wait_for(const Napi::CallbackInfo& info, std::vector<Command>& commands, const Napi::Array& arrays) {
    if (!queue_) return bad(info, "an open device");
    const napi_env env = info.Env();
    auto reads = std::make_unique<Reads>();
    for (const Command& command : commands) reads->requests.push_back(command.request);
    napi_value promise = nullptr, name = nullptr;
    napi_create_promise(env, &reads->deferred, &promise);
    napi_create_string_utf8(env, "whetstone.read", NAPI_AUTO_LENGTH, &name);
    napi_create_reference(env, arrays, 1, &reads->arrays);
    napi_create_async_work(env, nullptr, name, execute_reads, complete_reads, reads.get(), &reads->work);
    queue_->push(commands);
    napi_queue_async_work(env, reads->work);
    reads.release();
    return Napi::Value(env, promise);
  }

  napi_env env_;
  std::unique_ptr<Queue> queue_;
  double* record_ = nullptr;
  std::vector<Command> commands_;  // kept for its memory
  Napi::ObjectReference record_reference_;
};

/// ops() -> [{ name, family, signature, parameters }]: ops.def as this binary was built with it.
Napi::Value ops(const Napi::CallbackInfo& info) {
  Napi::Array list = Napi::Array::New(info.Env(), op_count);
  for (int i = 0; i < op_count; ++i) {
    Napi::Object op = Napi::Object::New(info.Env());
    op.Set("name", op_table[i].name);
    op.Set("family", op_table[i].family);
    op.Set("signature", op_table[i].signature);
    op.Set("parameters", op_table[i].parameters);
    list.Set(static_cast<uint32_t>(i), op);
  }
  return list;
}

/// cpu() -> { levels, best, amx, threads }: what the machine has, without opening a device; amx: why that level is
/// missing, empty when it is not.
Napi::Value cpu(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("levels", cpu_levels());
  out.Set("best", cpu_best_level());
  out.Set("amx", cpu_amx_refusal() != nullptr ? cpu_amx_refusal() : "");
  out.Set("threads", default_threads());
  return out;
}

/// cpuPeak(level, bf16, threads, turns) -> FLOP/s: what cpu_peak() measures. Blocks.
Napi::Value cpu_peak(const Napi::CallbackInfo& info) {
  double threads = 0, turns = 0;
  if (!info[0].IsString() || !info[1].IsBoolean() || !whole(info[2], 1, 4096, threads) || !whole(info[3], 1, 1e9, turns)) {
    refuse(info.Env(), "E_INTERNAL", "expected cpuPeak(level, bf16, threads, turns)");
    return info.Env().Undefined();
  }
  const std::string level = info[0].As<Napi::String>();
  const DType type = info[1].As<Napi::Boolean>() ? DType::bf16 : DType::f32;
  return Napi::Number::New(info.Env(), ws::cpu_peak(level.c_str(), type, static_cast<int>(threads),
                                                    static_cast<int64_t>(turns)));
}

/// cudaKernels() -> { bytes, toolkit, targets, ops }: what this addon was built with; the driver is not opened.
Napi::Value cuda_kernels(const Napi::CallbackInfo& info) {
  const CudaKernels report = report_cuda_kernels();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("bytes", static_cast<double>(report.bytes));
  out.Set("toolkit", report.toolkit);
  out.Set("targets", report.targets);
  out.Set("ops", report.ops);
  return out;
}

Napi::Object describe_gpu(Napi::Env env, const CudaGpu& gpu) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("ordinal", gpu.ordinal);
  out.Set("name", gpu.name);
  out.Set("capability", gpu.capability);
  out.Set("multiprocessors", gpu.multiprocessors);
  out.Set("totalBytes", static_cast<double>(gpu.total_bytes));
  out.Set("freeBytes", gpu.free_bytes < 0 ? env.Null() : Napi::Number::New(env, static_cast<double>(gpu.free_bytes)));
  out.Set("target", gpu.target);
  out.Set("problem", gpu.problem);
  return out;
}

/// cudaDriver(ordinal) -> { file, version, problem, missing, gpus }, with the free memory of one GPU. Opens the driver:
/// for child processes only.
Napi::Value cuda_driver(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  double ordinal = -1;
  whole(info[0], -1, 4096, ordinal);
  const CudaDriver report = report_cuda_driver(static_cast<int>(ordinal));
  Napi::Object out = Napi::Object::New(env);
  Napi::Array missing = Napi::Array::New(env), gpus = Napi::Array::New(env);
  for (size_t i = 0; i < report.missing.size(); ++i) missing.Set(static_cast<uint32_t>(i), report.missing[i]);
  for (size_t i = 0; i < report.gpus.size(); ++i) gpus.Set(static_cast<uint32_t>(i), describe_gpu(env, report.gpus[i]));
  out.Set("file", report.file);
  out.Set("version", report.version);
  out.Set("problem", report.problem);
  out.Set("missing", missing);
  out.Set("gpus", gpus);
  return out;
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  exports.Set("Device", NativeDevice::define(env));
  exports.Set("ops", Napi::Function::New(env, ops, "ops"));
  exports.Set("cpu", Napi::Function::New(env, cpu, "cpu"));
  exports.Set("cpuPeak", Napi::Function::New(env, cpu_peak, "cpuPeak"));
  exports.Set("cudaKernels", Napi::Function::New(env, cuda_kernels, "cudaKernels"));
  exports.Set("cudaDriver", Napi::Function::New(env, cuda_driver, "cudaDriver"));
  return exports;
}

NODE_API_MODULE(whetstone, start)

}  // namespace
}  // namespace ws
