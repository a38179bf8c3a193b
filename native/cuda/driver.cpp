#include "driver.h"

#include <dlfcn.h>

#include <cstdlib>

namespace ws::cuda {
namespace {

using GetProcAddress = Result (*)(const char*, void**, int32_t, uint64_t, int32_t*);

/// A function by name and version through cuGetProcAddress, else by its exported name.
struct Finder {
  void* library = nullptr;
  GetProcAddress by_version = nullptr;

  void* find(const char* name, int32_t version, const char* symbol) const {
    void* found = nullptr;
    int32_t query = 0;
    if (by_version != nullptr && by_version(name, &found, version, 0, &query) == result::success && found != nullptr)
      return found;
    return dlsym(library, symbol);
  }
};

/// Fills the table; false when a required function is missing, named in the status.
bool fill(Driver& d, const Finder& finder) {
  void* found = nullptr;
#define CU_required(name) \
  if (found == nullptr && d.status.ok()) d.status = fail(Code::device, "%s lacks %s: the driver is too old", d.file.c_str(), name)
#define CU_optional(name) \
  if (found == nullptr) d.missing.push_back(name)
#define CU(need, name, version, symbol, parameters)  \
  found = finder.find(#name, version, symbol);       \
  d.name = reinterpret_cast<decltype(d.name)>(found); \
  CU_##need(#name);
#include "driver.def"
#undef CU
#undef CU_required
#undef CU_optional
  return d.status.ok();
}

Driver open() {
  Driver d;
  const char* named = std::getenv("WHETSTONE_CUDA_LIBRARY");
  d.file = named != nullptr && named[0] != 0 ? named : "libcuda.so.1";
  Finder finder;
  finder.library = dlopen(d.file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (finder.library == nullptr) {
    const char* reason = dlerror();
    d.status = fail(Code::device, "no CUDA driver: %s", reason != nullptr ? reason : d.file.c_str());
    return d;
  }
  // The form of 12.0 has a fifth argument; the older one ignores it, as the C calling convention allows.
  void* get = dlsym(finder.library, "cuGetProcAddress_v2");
  if (get == nullptr) get = dlsym(finder.library, "cuGetProcAddress");
  finder.by_version = reinterpret_cast<GetProcAddress>(get);
  if (!fill(d, finder)) return d;
  const Result started = d.cuInit(0);
  if (d.cuDriverGetVersion(&d.version) != result::success) d.version = 0;
  if (started != result::success) {
    const char* name = nullptr;
    if (d.cuGetErrorName != nullptr) d.cuGetErrorName(started, &name);
    d.status = fail(Code::device, "the CUDA driver does not start: cuInit gives %s (%d)%s", name != nullptr ? name : "",
                    started, started == result::no_device ? ", no GPU is visible to it" : "");
  }
  return d;
}

/// Results that come back from every later call: the context, or the GPU, is gone (CUDA documents each of them so).
constexpr Result fatal[] = {
    result::deinitialized,       result::device_unavailable, result::invalid_context,   result::ecc_uncorrectable,
    result::nvlink_uncorrectable, result::contained,          result::illegal_address,   result::launch_timeout,
    result::context_is_destroyed, result::assert_failed,      result::hardware_stack_error, result::illegal_instruction,
    result::misaligned_address,  result::invalid_address_space, result::invalid_pc,      result::launch_failed,
    result::tensor_memory_leak,  result::external_device,    result::unknown,
};

}  // namespace

const Driver& driver() {
  // Never destroyed: the process may end while the driver's own threads still run.
  static const Driver& opened = *new Driver(open());
  return opened;
}

std::string describe(Result result) {
  const Driver& d = driver();
  const char *name = nullptr, *text = nullptr;
  if (d.cuGetErrorName != nullptr) d.cuGetErrorName(result, &name);
  if (d.cuGetErrorString != nullptr) d.cuGetErrorString(result, &text);
  std::string out = name != nullptr ? name : "CUDA error " + std::to_string(result);
  if (text != nullptr) out.append(" (").append(text).append(")");
  return out;
}

bool is_fatal(Result result) {
  for (const Result one : fatal)
    if (one == result) return true;
  return false;
}

Status to_status(Result result, const char* call) {
  if (result == result::success) return {};
  const Code code = result == result::out_of_memory ? Code::oom : is_fatal(result) ? Code::device_lost : Code::internal;
  return fail(code, "%s gives %s", call, describe(result).c_str());
}

std::string version_text(int32_t version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Status list_gpus(std::vector<Gpu>& gpus) {
  const Driver& d = driver();
  if (!d.status.ok()) return d.status;
  int32_t count = 0;
  Result r = d.cuDeviceGetCount(&count);
  for (int32_t i = 0; r == result::success && i < count; ++i) {
    Gpu gpu;
    char name[128] = {0};
    size_t bytes = 0;
    int32_t l2 = 0;
    r = d.cuDeviceGet(&gpu.ordinal, i);
    if (r == result::success) r = d.cuDeviceGetName(name, sizeof name - 1, gpu.ordinal);
    if (r == result::success) r = d.cuDeviceTotalMem(&bytes, gpu.ordinal);
    const struct {
      int32_t what;
      int32_t* to;
    } wanted[] = {{attribute::capability_major, &gpu.major},
                  {attribute::capability_minor, &gpu.minor},
                  {attribute::multiprocessors, &gpu.multiprocessors},
                  {attribute::l2_bytes, &l2},
                  {attribute::shared_per_block_optin, &gpu.shared_bytes}};
    for (const auto& [what, to] : wanted)
      if (r == result::success) r = d.cuDeviceGetAttribute(to, what, gpu.ordinal);
    gpu.name = name;
    gpu.l2_bytes = l2;
    gpu.total_bytes = static_cast<int64_t>(bytes);
    gpus.push_back(gpu);
  }
  return to_status(r, "listing the GPUs");
}

}  // namespace ws::cuda
