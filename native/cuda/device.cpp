#include "device.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "../core/shapes.h"

namespace ws::cuda {
namespace {

/// GPUs that failed for good: the process cannot use them again, whoever asks.
struct LostGpus {
  std::mutex mutex;
  std::set<Ordinal> ordinals;
};

LostGpus& lost_gpus() {
  static LostGpus& one = *new LostGpus;
  return one;
}

/// Creating and destroying is done by one environment at a time.
std::mutex& lifecycle() {
  static std::mutex& one = *new std::mutex;
  return one;
}

/// The context that is current on this thread, so that it need not be set for every call. Only the device's own
/// thread relies on it; open() and the destructor set and restore it explicitly.
thread_local Context current_context = nullptr;

/// Makes a context current for a scope on a thread that others may use too.
class Borrowed {
 public:
  explicit Borrowed(Context context) {
    driver().cuCtxGetCurrent(&before_);
    driver().cuCtxSetCurrent(context);
    current_context = context;
  }
  ~Borrowed() {
    driver().cuCtxSetCurrent(before_);
    current_context = nullptr;
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;

 private:
  Context before_ = nullptr;
};

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && value[0] != 0 && value[0] != '0';
}

/// Is this a GPU for kernels of sm_90a? They run on 9.0 alone.
bool is_hopper(const Gpu& gpu) {
  const char* level = std::getenv("WHETSTONE_CUDA_LEVEL");
  const bool lower = level != nullptr && level[0] != 0 && std::atoi(level) < 90;
  return gpu.major == 9 && gpu.minor == 0 && !lower && driver().cuTensorMapEncodeTiled != nullptr;
}

/// The name that ops.def gives the operand.
std::string operand_name(Op op, int operand) {
  std::istringstream words(op_table[static_cast<int>(op)].signature);
  std::string word;
  for (int i = 0; words >> word;) {
    if (word == ">") continue;
    if (i++ == operand) break;
  }
  const size_t begin = word.find_first_not_of("&=~");
  return word.substr(begin, word.find_first_of(":?") - begin);
}

Address address_of(const void* block) { return reinterpret_cast<uintptr_t>(block); }

}  // namespace

CudaDevice::CudaDevice(const Gpu& gpu, int64_t limit_bytes)
    : gpu_(gpu),
      name_("sm_" + std::to_string(gpu.major) + std::to_string(gpu.minor) + " " + gpu.name),
      wait_after_ops_(is_set("WHETSTONE_CUDA_SYNC")),
      hopper_(is_hopper(gpu)),
      pool_(*this, limit_bytes > 0 ? limit_bytes : gpu.total_bytes, is_set("WHETSTONE_CUDA_EXACT")) {}

Status CudaDevice::open() {
  const std::lock_guard lock(lifecycle());
  const Driver& d = driver();
  const Result retained = d.cuDevicePrimaryCtxRetain(&context_, gpu_.ordinal);
  if (retained != result::success) {
    context_ = nullptr;
    return fail(retained == result::out_of_memory ? Code::oom : Code::device, "%s cannot be used: %s",
                gpu_.name.c_str(), describe(retained).c_str());
  }
  const Borrowed borrowed(context_);
  WS_TRY(check(d.cuStreamCreate(&stream_, stream_non_blocking), "cuStreamCreate"));
  WS_TRY(staging_.open(stream_));
  fault_ = static_cast<Fault*>(take(sizeof(Fault)));
  WS_CHECK(fault_ != nullptr, oom, "%s has no memory left", gpu_.name.c_str());
  return clear_fault();
}

/// The queue's thread has ended. Failures mean nothing here: the driver may be gone already at the end of a process.
CudaDevice::~CudaDevice() {
  if (context_ == nullptr) return;
  const std::lock_guard lock(lifecycle());
  const Driver& d = driver();
  {
    const Borrowed borrowed(context_);
    if (stream_ != nullptr) d.cuStreamSynchronize(stream_);
    if (!lost_.ok()) {
      pool_.abandon();
      kernels_.abandon();
    }
    pool_.trim();
    kernels_.unload();
    staging_.close();
    if (fault_ != nullptr && lost_.ok()) give(fault_);
    if (stream_ != nullptr) d.cuStreamDestroy(stream_);
  }
  d.cuDevicePrimaryCtxRelease(gpu_.ordinal);
}

Status CudaDevice::make_current() {
  if (!lost_.ok()) return lost_;
  if (current_context == context_) return {};
  const Status status = check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
  if (status.ok()) current_context = context_;
  return status;
}

/// The status of a call. What the GPU does not survive is kept.
Status CudaDevice::check(Result result, const char* call) {
  if (result == result::success) return {};
  return keep(to_status(result, call));
}

/// Keeps a status that the GPU does not survive, with the op that was queued last: the fault may be an earlier one's, since
/// ops only queue work.
Status CudaDevice::keep(const Status& status) {
  if (status.code != Code::device_lost) return status;
  if (lost_.ok()) {
    lost_ = fail(Code::device_lost, "%s failed for good: %s; last op queued: %s%s", gpu_.name.c_str(), status.text,
                 last_op_,
                 wait_after_ops_ ? "" : " (WHETSTONE_CUDA_SYNC=1 finds the op at fault)");
    LostGpus& lost = lost_gpus();
    const std::lock_guard lock(lost.mutex);
    lost.ordinals.insert(gpu_.ordinal);
  }
  return lost_;
}

// memory -------------------------------------------------------------------------------------------------------------

void* CudaDevice::take(int64_t bytes) {
  Address address = 0;
  return check(driver().cuMemAlloc(&address, static_cast<size_t>(bytes)), "cuMemAlloc").ok()
             ? reinterpret_cast<void*>(static_cast<uintptr_t>(address))
             : nullptr;
}

/// Queued kernels may still use the segment, and that cuMemFree waits for them is promised nowhere.
void CudaDevice::give(void* segment) {
  check(driver().cuStreamSynchronize(stream_), "waiting for the device");
  check(driver().cuMemFree(address_of(segment)), "cuMemFree");
}

void* CudaDevice::allocate(int64_t bytes) { return make_current().ok() ? pool_.allocate(bytes) : nullptr; }

void CudaDevice::release(void* block, int64_t) { pool_.release(block); }

void* CudaDevice::scratch(int64_t bytes) {
  void* block = pool_.allocate(bytes);
  if (block != nullptr) scratch_.push_back(block);
  else refused_bytes_ = bytes;
  return block;
}

Status CudaDevice::upload(void* to, const void* from, int64_t bytes) {
  const Status ready = make_current();
  if (!ready.ok() || bytes == 0) return ready;
  return check(staging_.upload(address_of(to), from, bytes), "copying to the device");
}

Status CudaDevice::download(void* to, const void* from, int64_t bytes) {
  const Status ready = make_current();
  if (!ready.ok() || bytes == 0) return ready;
  WS_TRY(ask_fault());
  WS_TRY(check(staging_.download(to, address_of(from), bytes), "copying from the device"));
  return take_fault();
}

Status CudaDevice::clear_fault() {
  const Fault none = {};
  return check(staging_.upload(address_of(fault_), &none, sizeof none), "copying to the device");
}

/// Queues a copy of what kernels have reported, so that it is here when what is queued behind it has arrived.
Status CudaDevice::ask_fault() {
  return check(driver().cuMemcpyDtoHAsync(staging_.small(), address_of(fault_), sizeof(Fault), stream_),
               "copying from the device");
}

/// A report in the words of the CPU's refusals.
static Status status_of(const Fault& found) {
  const std::string name = operand_name(static_cast<Op>(found.op), found.operand);
  switch (static_cast<FaultKind>(found.kind)) {
    case FaultKind::visibility: {
      static const char* const rules[] = {
          "the prefix must lie before the segment", "a segment must begin at its first token and be contiguous",
          "all tokens of a segment must have the same prefix",
          "the prefix must begin an earlier segment that has no prefix itself, and end in it"};
      return fail(Code::shape, "visibility of token %d, whose segment starts at %d: %s", found.at, found.value,
                  rules[found.limit - 1]);
    }
    case FaultKind::count:
      return fail(Code::shape, "%s[%d]: expected 1 to %d, got %d", name.c_str(), found.at, found.limit, found.value);
    default:
      return fail(Code::shape, "%s[%d]: expected an index in [0, %d), got %d", name.c_str(), found.at, found.limit,
                  found.value);
  }
}

/// What a kernel had reported when it was asked, after the wait.
Status CudaDevice::take_fault() {
  Fault found;
  std::memcpy(&found, staging_.small(), sizeof found);
  if (found.kind == static_cast<int32_t>(FaultKind::none)) return {};
  WS_TRY(clear_fault());
  Status status = status_of(found);
  status.op = op_table[found.op].name;
  return status;
}

// work ---------------------------------------------------------------------------------------------------------------

Status CudaDevice::sync() {
  const Status ready = make_current();
  if (!ready.ok()) return ready;
  WS_TRY(ask_fault());
  WS_TRY(check(driver().cuStreamSynchronize(stream_), "waiting for the device"));
  return take_fault();
}

Status CudaDevice::run(Op op, Call& call) {
  const Status ready = make_current();
  if (!ready.ok()) return ready;
  last_op_ = op_table[static_cast<int>(op)].name;
  const Entry entry = entries[static_cast<int>(op)];
  WS_CHECK(entry != nullptr, no_kernel, "the op has no CUDA kernel");
  const Status status = entry(call, *this);
  // The stream's order makes this safe while the kernels that use it still wait.
  for (void* block : scratch_) pool_.release(block);
  scratch_.clear();
  if (!lost_.ok()) return lost_;
  if (status.code == Code::oom && refused_bytes_ > 0) return out_of_scratch();
  return status.ok() && wait_after_ops_ ? sync() : status;
}

Status CudaDevice::out_of_scratch() {
  const MemoryStats m = memory();
  return fail(Code::oom, "%lld bytes of scratch asked, %lld in use, limit %lld; use a smaller batch or shorter sequences",
              static_cast<long long>(std::exchange(refused_bytes_, 0)), static_cast<long long>(m.live_bytes),
              static_cast<long long>(m.limit_bytes));
}

Status CudaDevice::map_tiles(const TiledMatrix& m, TensorMap& map) {
  const uint64_t dims[] = {static_cast<uint64_t>(m.elements), static_cast<uint64_t>(m.lines)};
  const uint64_t strides[] = {static_cast<uint64_t>(m.stride) * 2};  // of all dimensions but the first, in bytes
  const uint32_t box[] = {box_elements, box_lines}, steps[] = {1, 1};
  using namespace tensor_map;
  return check(driver().cuTensorMapEncodeTiled(&map, bfloat16, 2, const_cast<void*>(m.data), dims, strides, box, steps,
                                               no_interleave, swizzle_128b, promote_256b, fill_zeros),
               "cuTensorMapEncodeTiled");
}

Status CudaDevice::launch(const Launch& launch) {
  const auto& [x, y, z] = launch.grid;
  if (x == 0 || y == 0 || z == 0) return {};
  WS_CHECK(launch.shared_bytes <= static_cast<uint32_t>(gpu_.shared_bytes), device,
           "%s needs %u bytes of shared memory, %s has %d", launch.kernel->name, launch.shared_bytes,
           gpu_.name.c_str(), gpu_.shared_bytes);
  const Status first = attempt(launch);
  if (first.code != Code::oom) return first;
  pool_.trim();  // the driver loads a kernel's code when it is first launched, into memory that idle segments may have
  return attempt(launch);
}

Status CudaDevice::attempt(const Launch& launch) {
  Function function = nullptr;
  const Status found = kernels_.find(*launch.kernel, launch.shared_bytes, function);
  return found.ok() ? start(launch, function) : keep(found);
}

Status CudaDevice::start(const Launch& launch, Function function) {
  const Driver& d = driver();
  const Extent &grid = launch.grid, &block = launch.block, &cluster = launch.cluster;
  void* parameters[] = {const_cast<void*>(launch.parameters)};
  const bool clustered = cluster.x * cluster.y * cluster.z > 1;
  if (d.cuLaunchKernelEx == nullptr) {
    WS_CHECK(!clustered && !launch.cooperative, device, "the driver lacks cuLaunchKernelEx, which %s needs",
             launch.kernel->name);
    return check(d.cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, launch.shared_bytes,
                                  stream_, parameters, nullptr),
                 launch.kernel->name);
  }
  LaunchAttribute attributes[2] = {};
  LaunchConfig config = {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, launch.shared_bytes, stream_,
                         attributes, 0};
  if (clustered) {
    LaunchAttribute& a = attributes[config.attribute_count++];
    a.id = LaunchAttribute::cluster_dimension;
    a.cluster[0] = cluster.x, a.cluster[1] = cluster.y, a.cluster[2] = cluster.z;
  }
  if (launch.cooperative) {
    LaunchAttribute& a = attributes[config.attribute_count++];
    a.id = LaunchAttribute::cooperative;
    a.flag = 1;
  }
  return check(d.cuLaunchKernelEx(&config, function, parameters, nullptr), launch.kernel->name);
}

}  // namespace ws::cuda

namespace ws {

std::unique_ptr<Device> open_cuda(int ordinal, int64_t limit_bytes, Status& status) {
  using namespace cuda;
  std::vector<Gpu> gpus;
  status = list_gpus(gpus);
  if (status.ok() && (ordinal < 0 || ordinal >= static_cast<int>(gpus.size())))
    status = fail(Code::device, "there is no GPU %d; the driver shows %d", ordinal, static_cast<int>(gpus.size()));
  if (!status.ok()) return nullptr;
  const Gpu& gpu = gpus[static_cast<size_t>(ordinal)];
  status = check_image(kernel_image(), gpu);
  if (!status.ok()) return nullptr;
  {
    LostGpus& lost = lost_gpus();
    const std::lock_guard lock(lost.mutex);
    if (lost.ordinals.count(gpu.ordinal) > 0) {
      status = fail(Code::device_lost, "%s failed for good in this process: restart it", gpu.name.c_str());
      return nullptr;
    }
  }
  auto device = std::make_unique<CudaDevice>(gpu, limit_bytes);
  status = device->open();
  if (!status.ok()) return nullptr;
  return device;
}

}  // namespace ws
