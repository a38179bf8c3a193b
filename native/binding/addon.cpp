// The N-API face: a Device class with about a dozen methods, and two functions; no arithmetic. TypeScript checks
// arguments first (ts/src/native); here they are checked again, so that no argument can crash Node. A device and its
// queue belong to one environment, whose cleanup hook stops them. Status codes only, no C++ exceptions.
#include <napi.h>

#include <cmath>

#include "../core/cuda.h"
#include "queue.h"

namespace ws {
namespace {

constexpr double max_id = 1 << 24;
constexpr int record_length = 2 + max_operands + 1 + max_parameters;

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

/// A read in flight. Completion may come while the environment ends, when no JS can run: every napi status
/// of complete() is therefore ignored on purpose.
struct Read {
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref array = nullptr;
  std::shared_ptr<Request> request;
  std::shared_ptr<const Failure> failure;
};

napi_value error_of(napi_env env, const Failure& failure) {
  napi_value message = nullptr, code = nullptr, where = nullptr, error = nullptr;
  napi_create_string_utf8(env, failure.status.text, NAPI_AUTO_LENGTH, &message);
  napi_create_string_utf8(env, code_name(failure.status.code), NAPI_AUTO_LENGTH, &code);
  napi_create_string_utf8(env, failure.where.c_str(), NAPI_AUTO_LENGTH, &where);
  if (napi_create_error(env, code, message, &error) == napi_ok) napi_set_named_property(env, error, "where", where);
  return error;
}

void execute_read(napi_env, void* data) {
  auto* read = static_cast<Read*>(data);
  read->failure = read->request->wait();
}

void complete_read(napi_env env, napi_status, void* data) {
  const std::unique_ptr<Read> read(static_cast<Read*>(data));
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) == napi_ok) {
    napi_value value = nullptr;
    if (read->failure) {
      napi_reject_deferred(env, read->deferred, error_of(env, *read->failure));
    } else {
      if (read->array != nullptr) napi_get_reference_value(env, read->array, &value);
      else napi_get_undefined(env, &value);
      napi_resolve_deferred(env, read->deferred, value);
    }
    napi_close_handle_scope(env, scope);
  }
  if (read->array != nullptr) napi_delete_reference(env, read->array);
  napi_delete_async_work(env, read->work);
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
                           InstanceMethod("create", &NativeDevice::create),
                           InstanceMethod("view", &NativeDevice::view),
                           InstanceMethod("release", &NativeDevice::release),
                           InstanceMethod("run", &NativeDevice::run),
                           InstanceMethod("write", &NativeDevice::write),
                           InstanceMethod("read", &NativeDevice::read),
                           InstanceMethod("sync", &NativeDevice::sync),
                           InstanceMethod("setThreads", &NativeDevice::set_threads),
                           InstanceMethod("memory", &NativeDevice::memory),
                           InstanceMethod("resetPeak", &NativeDevice::reset_peak),
                           InstanceMethod("hasKernel", &NativeDevice::has_kernel),
                       });
  }

  /// new Device(level, threads, limitBytes): has `record`, `level` and `threads`. level: an instruction set, "" for the
  /// best, or "cuda:N".
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
    napi_add_env_cleanup_hook(env_, stop, this);
    Napi::Float64Array record = Napi::Float64Array::New(info.Env(), record_length);
    record_ = record.Data();
    record_reference_ = Napi::Persistent(record.As<Napi::Object>());
    Napi::Object self = info.This().As<Napi::Object>();
    self.Set("record", record);
    self.Set("level", queue_->device().name());
    self.Set("threads", queue_->device().threads());
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

  /// create(id, dtype, ...dims)
  Napi::Value create(const Napi::CallbackInfo& info) {
    Command command;
    command.kind = Command::Kind::create;
    if (!read_shape(info, 1, 2, command)) return bad(info, "create(id, dtype, ...dims)");
    return push(info, std::move(command));
  }

  /// view(id, source, offset in elements, dtype, ...dims)
  Napi::Value view(const Napi::CallbackInfo& info) {
    Command command;
    double source = 0, offset = 0;
    command.kind = Command::Kind::view;
    if (!whole(info[1], 0, max_id, source) || !whole(info[2], 0, 9e15, offset) || !read_shape(info, 3, 4, command))
      return bad(info, "view(id, source, offset, dtype, ...dims)");
    command.source = static_cast<int32_t>(source);
    command.offset = static_cast<int64_t>(offset);
    return push(info, std::move(command));
  }

  Napi::Value release(const Napi::CallbackInfo& info) {
    Command command;
    command.kind = Command::Kind::release;
    if (!read_id(info, command)) return bad(info, "release(id)");
    return push(info, std::move(command));
  }

  /// run(): the record holds op, operand count, ids (-1: absent), parameter count, parameters.
  Napi::Value run(const Napi::CallbackInfo& info) {
    Command command;
    command.kind = Command::Kind::run;
    if (record_ == nullptr || !read_record(command)) return bad(info, "run() with a valid record");
    return push(info, std::move(command));
  }

  /// write(id, typed array): the bytes are copied before the call returns.
  Napi::Value write(const Napi::CallbackInfo& info) {
    Command command;
    command.kind = Command::Kind::write;
    if (!read_id(info, command) || !info[1].IsTypedArray()) return bad(info, "write(id, typedArray)");
    const auto array = info[1].As<Napi::TypedArray>();
    const auto* from = static_cast<const uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    command.bytes.assign(from, from + array.ByteLength());
    return push(info, std::move(command));
  }

  /// read(id, typed array) -> Promise of the same array, filled.
  Napi::Value read(const Napi::CallbackInfo& info) {
    Command command;
    if (!read_id(info, command) || !info[1].IsTypedArray()) return bad(info, "read(id, typedArray)");
    const auto array = info[1].As<Napi::TypedArray>();
    auto request = std::make_shared<Request>();
    request->to = static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
    request->bytes = static_cast<int64_t>(array.ByteLength());
    return wait_for(info, std::move(command), std::move(request), array);
  }

  /// sync() -> Promise that resolves when everything before it has run.
  Napi::Value sync(const Napi::CallbackInfo& info) {
    return wait_for(info, Command{}, std::make_shared<Request>(), info.Env().Undefined());
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

  Napi::Value bad(const Napi::CallbackInfo& info, const char* expected) {
    refuse(info.Env(), "E_INTERNAL", std::string("expected ") + expected);
    return info.Env().Undefined();
  }

  bool read_id(const Napi::CallbackInfo& info, Command& command) {
    double id = 0;
    if (!whole(info[0], 0, max_id, id)) return false;
    command.id = static_cast<int32_t>(id);
    return true;
  }

  bool read_shape(const Napi::CallbackInfo& info, size_t dtype_at, size_t dims_at, Command& command) {
    double dtype = 0, size = 1;
    const size_t rank = info.Length() < dims_at ? 0 : info.Length() - dims_at;
    if (!read_id(info, command) || !whole(info[dtype_at], 0, 3, dtype) || rank > max_rank) return false;
    command.shape.dtype = static_cast<DType>(static_cast<int>(dtype));
    command.shape.rank = static_cast<int32_t>(rank);
    for (size_t i = 0; i < rank; ++i) {
      double dim = 0;
      if (!whole(info[dims_at + i], 0, 1e12, dim)) return false;
      command.shape.dims[i] = static_cast<int64_t>(dim);
      size *= dim;
    }
    return size <= 1e14;
  }

  bool read_record(Command& command) const {
    const double* r = record_;
    const auto integer = [](double x, double low, double high) { return x >= low && x <= high && x == std::floor(x); };
    if (!integer(r[0], 0, op_count - 1) || !integer(r[1], 0, max_operands)) return false;
    command.op = static_cast<Op>(static_cast<int>(r[0]));
    command.operands = static_cast<int32_t>(r[1]);
    r += 2;
    for (int i = 0; i < command.operands; ++i, ++r) {
      if (!integer(*r, -1, max_id)) return false;
      command.ids[i] = static_cast<int32_t>(*r);
    }
    if (!integer(*r, 0, max_parameters)) return false;
    command.parameters = static_cast<int32_t>(*r++);
    for (int i = 0; i < command.parameters; ++i) command.p[i] = *r++;
    return true;
  }

  Napi::Value push(const Napi::CallbackInfo& info, Command command) {
    if (!queue_ || !queue_->push(std::move(command))) return bad(info, "an open device");
    return info.Env().Undefined();
  }

  Napi::Value wait_for(const Napi::CallbackInfo& info, Command command, std::shared_ptr<Request> request,
                       const Napi::Value& array) {
    if (!queue_) return bad(info, "an open device");
    const napi_env env = info.Env();
    auto read = std::make_unique<Read>();
    read->request = request;
    napi_value promise = nullptr, name = nullptr;
    napi_create_promise(env, &read->deferred, &promise);
    napi_create_string_utf8(env, "whetstone.read", NAPI_AUTO_LENGTH, &name);
    if (array.IsTypedArray()) napi_create_reference(env, array, 1, &read->array);
    napi_create_async_work(env, nullptr, name, execute_read, complete_read, read.get(), &read->work);
    command.kind = Command::Kind::read;
    command.request = std::move(request);
    queue_->push(std::move(command));
    napi_queue_async_work(env, read->work);
    read.release();
    return Napi::Value(env, promise);
  }

  napi_env env_;
  std::unique_ptr<Queue> queue_;
  double* record_ = nullptr;
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
  exports.Set("cudaKernels", Napi::Function::New(env, cuda_kernels, "cudaKernels"));
  exports.Set("cudaDriver", Napi::Function::New(env, cuda_driver, "cudaDriver"));
  return exports;
}

NODE_API_MODULE(whetstone, start)

}  // namespace
}  // namespace ws
