// A CUDA driver on host memory, for tests without a GPU: built as a shared library and named by
// WHETSTONE_CUDA_LIBRARY. It is as late as a driver may be: work of a stream runs when somebody waits for it, so that a
// buffer that is reused too early shows. Fresh memory is poisoned, addresses are checked, every call needs a current
// context, and what is not given back is counted. FAKE_CUDA holds settings, fake_cuda_set() changes them:
//   gpus=1 memory=BYTES version=13000 capability=90 crash=cuInit hang=cuInit fail=FUNCTION:RESULT@N (the N-th call;
//   N+ from then on) fault=RESULT@N (the N-th kernel that runs breaks the context) numb=1 (kernels do nothing)
// FAKE_LEVEL 1 is a driver of CUDA 11 without libraries and launch attributes, 0 one that lacks a required function.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "../../native/cuda/driver_types.h"

#ifndef FAKE_LEVEL
#define FAKE_LEVEL 2
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace ws::cuda;

namespace {

struct Failure {
  std::string function;
  Result result;
  int64_t at;
  bool stays;
};

struct Settings {
  int32_t gpus = 1, version = FAKE_LEVEL >= 2 ? 13000 : 11040, capability = 90;
  int64_t memory = int64_t{1} << 30;
  std::string crash, hang;
  std::vector<Failure> failures;
  Result fault = 0;
  int64_t fault_at = 0;
  bool numb = false;
};

struct Memory {
  std::map<uintptr_t, int64_t> blocks;
  int64_t bytes = 0;

  bool holds(uintptr_t begin, size_t bytes_wanted) const {
    auto after = blocks.upper_bound(begin);
    if (after == blocks.begin()) return false;
    --after;
    return begin + bytes_wanted <= after->first + static_cast<uintptr_t>(after->second);
  }
};

struct Work {
  std::function<void()> run;
};

struct FakeStream {
  std::deque<Work> work;
};

struct FakeEvent {
  FakeStream* stream = nullptr;
  int64_t tickets = 0;  // work of the stream that must have run
};

struct FakeFunction {
  std::string name;
  int32_t dynamic_shared = 48 << 10;
};

struct State {
  std::mutex mutex;
  Settings settings;
  std::map<std::string, int64_t> calls;
  Memory device, pinned;
  std::set<FakeStream*> streams;
  std::map<FakeStream*, int64_t> done, issued;
  std::set<FakeEvent*> events;
  std::map<std::string, FakeFunction> functions;
  int64_t modules = 0, kernels_run = 0;
  int32_t retained[16] = {0};
  Result broken = 0;
  std::string log;
};

State& state() {
  static State& one = *new State;
  return one;
}

thread_local Context current = nullptr;

void parse(const char* text) {
  State& s = state();
  s.settings = {};
  s.calls.clear();
  s.kernels_run = 0;
  s.log.clear();
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const std::string key = word.substr(0, word.find('=')), value = word.substr(word.find('=') + 1);
    const auto number = static_cast<int64_t>(std::strtoll(value.c_str(), nullptr, 10));
    const size_t at = value.find('@');
    if (key == "gpus") s.settings.gpus = static_cast<int32_t>(number);
    if (key == "memory") s.settings.memory = number;
    if (key == "version") s.settings.version = static_cast<int32_t>(number);
    if (key == "capability") s.settings.capability = static_cast<int32_t>(number);
    if (key == "crash") s.settings.crash = value;
    if (key == "hang") s.settings.hang = value;
    if (key == "numb") s.settings.numb = number != 0;
    if (key == "fault") s.settings.fault = static_cast<Result>(number), s.settings.fault_at = std::atoll(value.c_str() + at + 1);
    if (key == "fail") {
      const size_t colon = value.find(':');
      s.settings.failures.push_back({value.substr(0, colon), std::atoi(value.c_str() + colon + 1),
                                     std::atoll(value.c_str() + at + 1), value.back() == '+'});
    }
  }
}

/// Every function begins with this: injected failures, the broken context, the current context.
Result enter(const char* function, bool needs_context = true) {
  State& s = state();
  static const bool read = [] {
    const char* text = std::getenv("FAKE_CUDA");
    if (text != nullptr) parse(text);
    return true;
  }();
  static_cast<void>(read);
  if (s.settings.crash == function) std::abort();
  if (s.settings.hang == function) sleep(1000);
  const int64_t call = ++s.calls[function];
  for (const Failure& f : s.settings.failures)
    if (f.function == function && (call == f.at || (f.stays && call > f.at))) {
      if ((f.result >= 700 && f.result != result::launch_out_of_resources) || f.result == 214) s.broken = f.result;
      return f.result;
    }
  if (needs_context && current == nullptr) return result::invalid_context;
  return needs_context ? s.broken : result::success;
}

#define ENTER(function)                                \
  const std::lock_guard lock(state().mutex);           \
  if (const Result bad = enter(#function); bad != 0) return bad
#define ENTER_FREE(function)                           \
  const std::lock_guard lock(state().mutex);           \
  if (const Result bad = enter(#function, false); bad != 0) return bad

/// Runs a stream's work until `tickets` of it have run.
Result advance(FakeStream* stream, int64_t tickets) {
  State& s = state();
  while (s.done[stream] < tickets && s.broken == 0) {
    const Work work = std::move(stream->work.front());
    stream->work.pop_front();
    ++s.done[stream];
    work.run();
  }
  return s.broken;
}

Result drain(FakeStream* stream) { return advance(stream, state().issued[stream]); }

void push(FakeStream* stream, std::function<void()> run) {
  stream->work.push_back({std::move(run)});
  ++state().issued[stream];
}

FakeStream* stream_of(Stream stream) { return reinterpret_cast<FakeStream*>(stream); }

void copy_checked(void* to, const void* from, size_t bytes, uintptr_t device_address) {
  State& s = state();
  if (!s.device.holds(device_address, bytes)) s.broken = result::illegal_address;
  else std::memcpy(to, from, bytes);
}

Result copy(void* to, const void* from, size_t bytes, uintptr_t device_address, const void* host, Stream stream) {
  State& s = state();
  FakeStream* queue = stream_of(stream);
  if (s.streams.count(queue) == 0) return 400;
  push(queue, [=] { copy_checked(to, from, bytes, device_address); });
  return s.pinned.holds(reinterpret_cast<uintptr_t>(host), bytes) ? 0 : drain(queue);
}

/// What the kernel scale_f32 is given (native/cuda/elementwise.cu): the one kernel that does something here, because
/// the package tries it before it trusts a GPU. The others only leave a line in the log.
struct ScaleArguments {
  const float *x, *unused[2];
  float *y, *unused_too;
  int64_t size;
  float factor;
};

struct KernelCall {
  std::string name;
  uint32_t grid[3], block[3], cluster[3] = {1, 1, 1};
  uint32_t shared_bytes;
  bool cooperative = false;
  ScaleArguments scale = {};
};

void run_kernel(const KernelCall& k) {
  State& s = state();
  if (++s.kernels_run == s.settings.fault_at) {
    s.broken = s.settings.fault;
    return;
  }
  char line[256];
  std::snprintf(line, sizeof line, "%s grid %u,%u,%u block %u,%u,%u cluster %u,%u,%u shared %u%s\n", k.name.c_str(),
                k.grid[0], k.grid[1], k.grid[2], k.block[0], k.block[1], k.block[2], k.cluster[0], k.cluster[1],
                k.cluster[2], k.shared_bytes, k.cooperative ? " cooperative" : "");
  s.log += line;
  for (int64_t i = 0; i < k.scale.size && !s.settings.numb; ++i) k.scale.y[i] = k.scale.factor * k.scale.x[i];
}

Result launch(KernelCall k, Function function, Stream stream, void** parameters) {
  const auto* f = reinterpret_cast<FakeFunction*>(function);
  for (const uint32_t n : k.grid)
    if (n == 0) return result::invalid_value;
  if (k.block[0] * k.block[1] * k.block[2] > 1024 || k.shared_bytes > static_cast<uint32_t>(f->dynamic_shared))
    return result::invalid_value;
  for (int i = 0; i < 3; ++i)
    if (k.grid[i] % k.cluster[i] != 0) return result::invalid_value;
  k.name = f->name;
  if (k.name == "scale_f32") std::memcpy(&k.scale, parameters[0], sizeof k.scale);
  push(stream_of(stream), [k = std::move(k)] { run_kernel(k); });
  return 0;
}

Result find_function(const char* name, Function* out) {
  State& s = state();
  // The image of a test lists its kernels; an empty list has them all.
  FakeFunction& f = s.functions[name];
  if (std::strncmp(name, "absent", 6) == 0) return result::not_found;
  f.name = name;
  *out = reinterpret_cast<Function>(&f);
  return 0;
}

}  // namespace

// control ------------------------------------------------------------------------------------------------------------

EXPORT void fake_cuda_set(const char* settings) {
  const std::lock_guard lock(state().mutex);
  parse(settings);
}

/// A repaired context: what a new process would have.
EXPORT void fake_cuda_repair() {
  const std::lock_guard lock(state().mutex);
  state().broken = 0;
}

/// What has not been given back, by kind; calls of a function by its name.
EXPORT int64_t fake_cuda_count(const char* what) {
  const std::lock_guard lock(state().mutex);
  State& s = state();
  const std::string kind = what;
  if (kind == "blocks") return static_cast<int64_t>(s.device.blocks.size());
  if (kind == "pinned") return static_cast<int64_t>(s.pinned.blocks.size());
  if (kind == "streams") return static_cast<int64_t>(s.streams.size());
  if (kind == "events") return static_cast<int64_t>(s.events.size());
  if (kind == "modules") return s.modules;
  if (kind == "contexts") return s.retained[0] + s.retained[1];
  return s.calls[kind];
}

/// A line per kernel that has run.
EXPORT const char* fake_cuda_log() { return state().log.c_str(); }

// driver -------------------------------------------------------------------------------------------------------------

EXPORT Result cuInit(uint32_t) {
  ENTER_FREE(cuInit);
  return state().settings.gpus == 0 ? result::no_device : 0;
}
EXPORT Result cuDriverGetVersion(int32_t* version) {
  ENTER_FREE(cuDriverGetVersion);
  *version = state().settings.version;
  return 0;
}
EXPORT Result cuGetErrorName(Result result, const char** name) {
  const std::map<Result, const char*> names = {{2, "CUDA_ERROR_OUT_OF_MEMORY"},   {100, "CUDA_ERROR_NO_DEVICE"},
                                               {201, "CUDA_ERROR_INVALID_CONTEXT"}, {214, "CUDA_ERROR_ECC_UNCORRECTABLE"},
                                               {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {719, "CUDA_ERROR_LAUNCH_FAILED"}};
  const auto found = names.find(result);
  *name = found == names.end() ? "CUDA_ERROR_OTHER" : found->second;
  return 0;
}
EXPORT Result cuGetErrorString(Result, const char** text) {
  *text = "said by the fake driver";
  return 0;
}

EXPORT Result cuDeviceGetCount(int32_t* count) {
  ENTER_FREE(cuDeviceGetCount);
  *count = state().settings.gpus;
  return 0;
}
EXPORT Result cuDeviceGet(Ordinal* device, int32_t index) {
  *device = index;
  return 0;
}
EXPORT Result cuDeviceGetName(char* name, int32_t length, Ordinal device) {
  std::snprintf(name, static_cast<size_t>(length), "Fake GPU %d", device);
  return 0;
}
EXPORT Result cuDeviceGetAttribute(int32_t* value, int32_t what, Ordinal) {
  const int32_t capability = state().settings.capability;
  const std::map<int32_t, int32_t> values = {{attribute::capability_major, capability / 10},
                                             {attribute::capability_minor, capability % 10},
                                             {attribute::multiprocessors, 4},
                                             {attribute::l2_bytes, 1 << 20},
                                             {attribute::shared_per_block_optin, 227 << 10}};
  const auto found = values.find(what);
  if (found == values.end()) return result::invalid_value;
  *value = found->second;
  return 0;
}
EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, Ordinal) {
  *bytes = static_cast<size_t>(state().settings.memory);
  return 0;
}

EXPORT Result cuDevicePrimaryCtxRetain(Context* context, Ordinal device) {
  ENTER_FREE(cuDevicePrimaryCtxRetain);
  ++state().retained[device];
  *context = reinterpret_cast<Context>(uintptr_t{0x1000} + static_cast<uintptr_t>(device));
  return 0;
}
EXPORT Result cuDevicePrimaryCtxRelease_v2(Ordinal device) {
  ENTER_FREE(cuDevicePrimaryCtxRelease);
  --state().retained[device];
  return 0;
}
EXPORT Result cuCtxSetCurrent(Context context) {
  ENTER_FREE(cuCtxSetCurrent);
  current = context;
  return state().broken;
}
EXPORT Result cuCtxGetCurrent(Context* context) {
  *context = current;
  return 0;
}

EXPORT Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  ENTER(cuMemGetInfo);
  *total = static_cast<size_t>(state().settings.memory);
  *free_bytes = *total - static_cast<size_t>(state().device.bytes);
  return 0;
}
#if FAKE_LEVEL >= 1
EXPORT Result cuMemAlloc_v2(Address* address, size_t bytes) {
  ENTER(cuMemAlloc);
  State& s = state();
  if (s.device.bytes + static_cast<int64_t>(bytes) > s.settings.memory) return result::out_of_memory;
  void* block = nullptr;
  if (posix_memalign(&block, 512, bytes) != 0) return result::out_of_memory;
  std::memset(block, 0xff, bytes);
  *address = reinterpret_cast<uintptr_t>(block);
  s.device.blocks[reinterpret_cast<uintptr_t>(block)] = static_cast<int64_t>(bytes);
  s.device.bytes += static_cast<int64_t>(bytes);
  return 0;
}
#endif
EXPORT Result cuMemFree_v2(Address address) {
  ENTER(cuMemFree);
  State& s = state();
  for (FakeStream* stream : s.streams) drain(stream);
  const auto found = s.device.blocks.find(static_cast<uintptr_t>(address));
  if (found == s.device.blocks.end()) return result::invalid_value;
  s.device.bytes -= found->second;
  std::free(reinterpret_cast<void*>(found->first));
  s.device.blocks.erase(found);
  return s.broken;
}
EXPORT Result cuMemHostAlloc(void** memory, size_t bytes, uint32_t) {
  ENTER(cuMemHostAlloc);
  *memory = std::malloc(bytes);
  std::memset(*memory, 0xff, bytes);
  state().pinned.blocks[reinterpret_cast<uintptr_t>(*memory)] = static_cast<int64_t>(bytes);
  return 0;
}
EXPORT Result cuMemFreeHost(void* memory) {
  const std::lock_guard lock(state().mutex);
  state().pinned.blocks.erase(reinterpret_cast<uintptr_t>(memory));
  std::free(memory);
  return 0;
}
EXPORT Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream stream) {
  ENTER(cuMemcpyHtoDAsync);
  const auto address = static_cast<uintptr_t>(to);
  return copy(reinterpret_cast<void*>(address), from, bytes, address, from, stream);
}
EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream stream) {
  ENTER(cuMemcpyDtoHAsync);
  const auto address = static_cast<uintptr_t>(from);
  return copy(to, reinterpret_cast<const void*>(address), bytes, address, to, stream);
}

EXPORT Result cuStreamCreate(Stream* stream, uint32_t) {
  ENTER(cuStreamCreate);
  auto* made = new FakeStream;
  state().streams.insert(made);
  *stream = reinterpret_cast<Stream>(made);
  return 0;
}
EXPORT Result cuStreamDestroy_v2(Stream stream) {
  const std::lock_guard lock(state().mutex);
  state().streams.erase(stream_of(stream));
  delete stream_of(stream);
  return 0;
}
EXPORT Result cuStreamSynchronize(Stream stream) {
  ENTER(cuStreamSynchronize);
  return drain(stream_of(stream));
}
EXPORT Result cuEventCreate(Event* event, uint32_t) {
  ENTER(cuEventCreate);
  auto* made = new FakeEvent;
  state().events.insert(made);
  *event = reinterpret_cast<Event>(made);
  return 0;
}
EXPORT Result cuEventDestroy_v2(Event event) {
  const std::lock_guard lock(state().mutex);
  state().events.erase(reinterpret_cast<FakeEvent*>(event));
  delete reinterpret_cast<FakeEvent*>(event);
  return 0;
}
EXPORT Result cuEventRecord(Event event, Stream stream) {
  ENTER(cuEventRecord);
  auto* e = reinterpret_cast<FakeEvent*>(event);
  e->stream = stream_of(stream);
  e->tickets = state().issued[e->stream];
  return 0;
}
EXPORT Result cuEventSynchronize(Event event) {
  ENTER(cuEventSynchronize);
  const auto* e = reinterpret_cast<FakeEvent*>(event);
  return e->stream == nullptr ? 0 : advance(e->stream, e->tickets);
}

// code ---------------------------------------------------------------------------------------------------------------

EXPORT Result cuModuleLoadData(Module* module, const void* image) {
  ENTER(cuModuleLoadData);
  if (std::memcmp(image, "FAKE", 4) != 0) return result::invalid_image;
  ++state().modules;
  *module = reinterpret_cast<Module>(uintptr_t{0x2000});
  return 0;
}
EXPORT Result cuModuleUnload(Module) {
  --state().modules;
  return 0;
}
EXPORT Result cuModuleGetFunction(Function* function, Module, const char* name) {
  ENTER(cuModuleGetFunction);
  return find_function(name, function);
}
EXPORT Result cuFuncSetAttribute(Function function, int32_t, int32_t value) {
  ENTER(cuFuncSetAttribute);
  reinterpret_cast<FakeFunction*>(function)->dynamic_shared = value;
  return 0;
}
EXPORT Result cuLaunchKernel(Function function, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by,
                             uint32_t bz, uint32_t shared_bytes, Stream stream, void** parameters, void**) {
  ENTER(cuLaunchKernel);
  KernelCall k{"", {gx, gy, gz}, {bx, by, bz}, {1, 1, 1}, shared_bytes, false};
  return launch(std::move(k), function, stream, parameters);
}

#if FAKE_LEVEL >= 2
EXPORT Result cuLibraryLoadData(Library* library, const void* image, void*, void**, uint32_t, int32_t*, void**, uint32_t) {
  ENTER_FREE(cuLibraryLoadData);
  if (std::memcmp(image, "FAKE", 4) != 0) return result::invalid_image;
  *library = reinterpret_cast<Library>(uintptr_t{0x3000});
  return 0;
}
EXPORT Result cuLibraryGetKernel(Kernel* kernel, Library, const char* name) {
  ENTER_FREE(cuLibraryGetKernel);
  Function found = nullptr;
  const Result r = find_function(name, &found);
  *kernel = reinterpret_cast<Kernel>(found);
  return r;
}
EXPORT Result cuKernelGetFunction(Function* function, Kernel kernel) {
  ENTER(cuKernelGetFunction);
  *function = reinterpret_cast<Function>(kernel);
  return 0;
}
EXPORT Result cuTensorMapEncodeTiled(TensorMap*, int32_t, uint32_t, void*, const uint64_t*, const uint64_t*,
                                     const uint32_t*, const uint32_t*, int32_t, int32_t, int32_t, int32_t) {
  ENTER(cuTensorMapEncodeTiled);
  return 0;
}
EXPORT Result cuLaunchKernelEx(const LaunchConfig* config, Function function, void** parameters, void**) {
  ENTER(cuLaunchKernelEx);
  KernelCall k{"",
               {config->grid[0], config->grid[1], config->grid[2]},
               {config->block[0], config->block[1], config->block[2]},
               {1, 1, 1},
               config->shared_bytes,
               false};
  for (uint32_t i = 0; i < config->attribute_count; ++i) {
    const LaunchAttribute& a = config->attributes[i];
    if (a.id == LaunchAttribute::cluster_dimension) std::memcpy(k.cluster, a.cluster, sizeof k.cluster);
    if (a.id == LaunchAttribute::cooperative) k.cooperative = a.flag != 0;
  }
  return launch(std::move(k), function, config->stream, parameters);
}
/// Only what is younger than CUDA 11 is found here, so that the way by exported names is taken too.
EXPORT Result cuGetProcAddress_v2(const char* name, void** found, int32_t version, uint64_t, int32_t*) {
  Dl_info self;
  *found = nullptr;
  if (version < 11000 || version > state().settings.version) return result::not_found;
  if (dladdr(reinterpret_cast<void*>(&cuGetProcAddress_v2), &self) == 0) return result::not_found;
  void* library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  std::string symbol = name;
  if (symbol == "cuDevicePrimaryCtxRelease") symbol += "_v2";
  *found = library != nullptr ? dlsym(library, symbol.c_str()) : nullptr;
  return *found != nullptr ? 0 : result::not_found;
}
#endif
