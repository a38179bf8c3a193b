// A CUDA driver without a GPU: the functions of ../driver.def over host memory, launches run by the emulator. Built as a
// library of its own for tests; WHETSTONE_CUDA_LIBRARY points the package at it, which then takes it for a GPU.
// A launch that fails is CUDA_ERROR_LAUNCH_FAILED, and cuGetErrorString gives the emulator's report.
//   WHETSTONE_EMULATED_LEVEL   compute capability, 80 (default) or 90
//   WHETSTONE_EMULATED_MIB     memory, 4096 by default
//   WHETSTONE_EMULATED_SEED    order of threads and of asynchronous copies, see emulator.h
//   WHETSTONE_EMULATED_SKIP    file.cu:line of a wait that does nothing
//   WHETSTONE_EMULATED_SITES   file to which all waits that were reached are written at the end
#include <sys/mman.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "../driver_types.h"
#include "emulator.h"

using namespace ws::cuda;

namespace {

constexpr size_t page = 4096;
constexpr size_t pages_of(size_t bytes) { return (bytes + page - 1) / page * page; }
std::mutex memory_mutex;
std::map<uint64_t, size_t> allocations;  // address and bytes
size_t used_bytes = 0;
std::set<std::string> functions;
std::string last_report = "no report";
Context current = nullptr;

int number(const char* variable, int fallback) {
  const char* text = std::getenv(variable);
  return text != nullptr && text[0] != 0 ? std::atoi(text) : fallback;
}

/// Memory of the GPU.
size_t total_bytes() {
  static const size_t mib = static_cast<size_t>(number("WHETSTONE_EMULATED_MIB", 4096));
  return mib << 20;
}

void write_sites() {
  const char* path = std::getenv("WHETSTONE_EMULATED_SITES");
  std::FILE* file = path != nullptr ? std::fopen(path, "a") : nullptr;
  if (file == nullptr) return;
  for (const Site& site : emulator::sites()) std::fprintf(file, "%s:%d\n", site.file, site.line);
  std::fclose(file);
}

void configure() {
  emulator::Settings& settings = emulator::settings();
  settings.seed = static_cast<uint64_t>(number("WHETSTONE_EMULATED_SEED", 0));
  const char* skip = std::getenv("WHETSTONE_EMULATED_SKIP");
  if (skip != nullptr && skip[0] != 0) {
    static std::string file = skip;
    const size_t colon = file.rfind(':');
    settings.skipped.line = std::atoi(file.c_str() + colon + 1);
    file.resize(colon);
    settings.skipped.file = file.c_str();
  }
  if (std::getenv("WHETSTONE_EMULATED_SITES") != nullptr) std::atexit(write_sites);
}

Result run(Function function, const uint32_t (&grid)[3], const uint32_t (&block)[3], uint32_t shared_bytes,
           void** parameters) {
  if (block[1] != 1 || block[2] != 1) return result::invalid_value;
  const char* name = reinterpret_cast<const char*>(function);
  const std::string report = emulator::run({name, {grid[0], grid[1], grid[2]}, block[0], shared_bytes, parameters[0]});
  if (report.empty()) return result::success;
  last_report = report;
  return result::launch_failed;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) ws::cuda::Result

EXPORT cuInit(uint32_t) {
  static const bool once = (configure(), true);
  return once ? result::success : result::unknown;
}
EXPORT cuDriverGetVersion(int32_t* version) { return *version = 13000, result::success; }
EXPORT cuGetErrorName(Result code, const char** name) {
  *name = code == result::launch_failed ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR";
  return result::success;
}
EXPORT cuGetErrorString(Result code, const char** text) {
  *text = code == result::launch_failed ? last_report.c_str() : "emulated";
  return result::success;
}

EXPORT cuDeviceGetCount(int32_t* count) { return *count = 1, result::success; }
EXPORT cuDeviceGet(Ordinal* device, int32_t) { return *device = 0, result::success; }
EXPORT cuDeviceGetName(char* name, int32_t length, Ordinal) {
  std::snprintf(name, static_cast<size_t>(length), "emulated GPU");
  return result::success;
}
EXPORT cuDeviceTotalMem_v2(size_t* bytes, Ordinal) { return *bytes = total_bytes(), result::success; }
EXPORT cuDeviceGetAttribute(int32_t* value, int32_t what, Ordinal) {
  const int level = number("WHETSTONE_EMULATED_LEVEL", 80);
  *value = what == attribute::warp_size                ? 32
           : what == attribute::multiprocessors        ? 3
           : what == attribute::l2_bytes               ? 1 << 20
           : what == attribute::capability_major       ? level / 10
           : what == attribute::capability_minor       ? level % 10
           : what == attribute::shared_per_block_optin ? (level >= 90 ? 227 : 163) << 10
                                                       : 0;
  return result::success;
}

EXPORT cuDevicePrimaryCtxRetain(Context* context, Ordinal) {
  return *context = reinterpret_cast<Context>(1), result::success;
}
EXPORT cuDevicePrimaryCtxRelease_v2(Ordinal) { return result::success; }
EXPORT cuCtxSetCurrent(Context context) { return current = context, result::success; }
EXPORT cuCtxGetCurrent(Context* context) { return *context = current, result::success; }

EXPORT cuMemGetInfo_v2(size_t* free, size_t* total) {
  const std::lock_guard lock(memory_mutex);
  *free = total_bytes() - used_bytes;
  *total = total_bytes();
  return result::success;
}
/// Pages of their own, all bits set at first, with a page behind that nobody may touch: memory ends there, but for the
/// alignment of 16 bytes that vectors and tiles want. What is left over is looked at when the memory is freed.
EXPORT cuMemAlloc_v2(Address* address, size_t bytes) {
  const std::lock_guard lock(memory_mutex);
  const size_t whole = pages_of(bytes);
  if (used_bytes + whole > total_bytes()) return result::out_of_memory;
  void* memory = mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return result::out_of_memory;
  mprotect(static_cast<char*>(memory) + whole, page, PROT_NONE);
  std::memset(memory, 0xff, whole);
  used_bytes += whole;
  *address = reinterpret_cast<uint64_t>(memory) + (whole - bytes) / 16 * 16;
  allocations[*address] = bytes;
  return result::success;
}
EXPORT cuMemFree_v2(Address address) {
  const std::lock_guard lock(memory_mutex);
  const auto found = allocations.find(address);
  if (found == allocations.end()) return result::invalid_value;
  const uint64_t end = address + found->second, begin = address / page * page;
  for (uint64_t at = end; at % page != 0; ++at) {
    if (*reinterpret_cast<const unsigned char*>(at) == 0xff) continue;
    std::fprintf(stderr, "byte %llu behind the end of %llu bytes was written\n", static_cast<unsigned long long>(at - end),
                 static_cast<unsigned long long>(found->second));
    std::abort();
  }
  munmap(reinterpret_cast<void*>(begin), pages_of(found->second) + page);
  used_bytes -= pages_of(found->second);
  allocations.erase(found);
  return result::success;
}
EXPORT cuMemHostAlloc(void** memory, size_t bytes, uint32_t) {
  return *memory = std::malloc(bytes), *memory != nullptr ? result::success : result::out_of_memory;
}
EXPORT cuMemFreeHost(void* memory) { return std::free(memory), result::success; }
EXPORT cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream) {
  return std::memcpy(reinterpret_cast<void*>(to), from, bytes), result::success;
}
EXPORT cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream) {
  return std::memcpy(to, reinterpret_cast<const void*>(from), bytes), result::success;
}

EXPORT cuStreamCreate(Stream* stream, uint32_t) { return *stream = reinterpret_cast<Stream>(1), result::success; }
EXPORT cuStreamDestroy_v2(Stream) { return result::success; }
EXPORT cuStreamSynchronize(Stream) { return result::success; }
EXPORT cuEventCreate(Event* event, uint32_t) { return *event = reinterpret_cast<Event>(1), result::success; }
EXPORT cuEventDestroy_v2(Event) { return result::success; }
EXPORT cuEventRecord(Event, Stream) { return result::success; }
EXPORT cuEventSynchronize(Event) { return result::success; }

EXPORT cuModuleLoadData(Module* module, const void*) { return *module = reinterpret_cast<Module>(1), result::success; }
EXPORT cuModuleUnload(Module) { return result::success; }
EXPORT cuModuleGetFunction(Function* function, Module, const char* name) {
  if (!emulator::exists(name)) return result::not_found;
  *function = reinterpret_cast<Function>(const_cast<char*>(functions.insert(name).first->c_str()));
  return result::success;
}
EXPORT cuFuncSetAttribute(Function, int32_t, int32_t) { return result::success; }
/// Maps as CudaDevice::map_tiles makes them; what the driver refuses is refused.
EXPORT cuTensorMapEncodeTiled(TensorMap* map, int32_t type, uint32_t rank, void* address, const uint64_t* dims,
                              const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int32_t interleave,
                              int32_t swizzle, int32_t, int32_t fill) {
  const uint64_t most = uint64_t{1} << 32;
  const bool known = type == tensor_map::bfloat16 && rank == 2 && interleave == tensor_map::no_interleave &&
                     swizzle == tensor_map::swizzle_128b && fill == tensor_map::fill_zeros;
  const bool sizes = dims[0] > 0 && dims[0] <= most && dims[1] > 0 && dims[1] <= most && box[0] == box_elements &&
                     box[1] == box_lines && steps[0] == 1 && steps[1] == 1;
  const bool aligned = reinterpret_cast<uintptr_t>(map) % 64 == 0 && reinterpret_cast<uintptr_t>(address) % 16 == 0 &&
                       strides[0] % 16 == 0 && strides[0] < most << 8;
  if (!known || !sizes || !aligned) return result::invalid_value;
  *map = std::bit_cast<TensorMap>(emulator::MatrixOfTiles{static_cast<const char*>(address), static_cast<int64_t>(dims[0]),
                                                          static_cast<int64_t>(dims[1]),
                                                          static_cast<int64_t>(strides[0]), {}});
  return result::success;
}
EXPORT cuLaunchKernelEx(const LaunchConfig* config, Function function, void** parameters, void**) {
  return run(function, config->grid, config->block, config->shared_bytes, parameters);
}
EXPORT cuLaunchKernel(Function function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x,
                      uint32_t block_y, uint32_t block_z, uint32_t shared_bytes, Stream, void** parameters, void**) {
  return run(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, parameters);
}
