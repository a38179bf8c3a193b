// The CUDA device over the fake driver (fake_cuda.cpp): transfers, budget, launches, faults, an old and a broken driver.
// The driver is opened once per process, so each kind of driver has a process of its own.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../native/core/cuda.h"
#include "../../native/cuda/device.h"
#include "check.h"

using namespace check;
using namespace ws::cuda;

namespace {

/// The controls of the fake driver that this process has opened.
struct Fake {
  void (*set)(const char*);
  void (*repair)();
  int64_t (*count)(const char*);
  const char* (*log)();
};

Fake fake() {
  void* library = dlopen(driver().file.c_str(), RTLD_NOW | RTLD_NOLOAD);
  const auto find = [&](const char* name) { return dlsym(library, name); };
  return {reinterpret_cast<void (*)(const char*)>(find("fake_cuda_set")),
          reinterpret_cast<void (*)()>(find("fake_cuda_repair")),
          reinterpret_cast<int64_t (*)(const char*)>(find("fake_cuda_count")),
          reinterpret_cast<const char* (*)()>(find("fake_cuda_log"))};
}

/// Runs a check in a process of its own, whose driver is the fake one of this level, and takes over its counts.
void with_driver(const char* level, void (*body)(), const char* settings = "") {
  int ends[2];
  if (!CHECK(pipe(ends) == 0)) return;
  const pid_t child = fork();
  if (child == 0) {
    setenv("WHETSTONE_CUDA_LIBRARY", (std::string(WS_FAKE_CUDA) + level + ".so").c_str(), 1);
    setenv("FAKE_CUDA", settings, 1);
    passed = failed = 0;
    body();
    const int counts[2] = {passed, failed};
    std::fflush(nullptr);
    _exit(write(ends[1], counts, sizeof counts) == sizeof counts ? 0 : 1);
  }
  int counts[2] = {0, 1}, status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(read(ends[0], counts, sizeof counts) == sizeof counts);
  close(ends[0]);
  close(ends[1]);
  passed += counts[0];
  failed += counts[1];
}

std::unique_ptr<Device> open(int64_t limit, Status& status) { return open_cuda(0, limit, status); }

/// The device as the unit tests see it.
CudaDevice& inside(Device& device) { return static_cast<CudaDevice&>(device); }

bool nothing_is_held() {
  const Fake f = fake();
  for (const char* kind : {"blocks", "pinned", "streams", "events", "modules", "contexts"})
    if (f.count(kind) != 0) return std::printf("  %s: %d left\n", kind, static_cast<int>(f.count(kind))), false;
  return true;
}

std::vector<int32_t> counting(size_t n, int32_t first) {
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = first + static_cast<int32_t>(i);
  return out;
}

// transfers ----------------------------------------------------------------------------------------------------------

/// Many uploads at once, small and larger than the staging buffers, none waited for; then all come back.
void check_transfers() {
  Status status;
  {
    auto device = open(0, status);
    CHECK_OK(status);
    if (!device) return;
    struct Piece {
      void* block;
      std::vector<int32_t> values;
    };
    std::vector<Piece> pieces;
    int32_t first = 0;
    for (const size_t n : {1u, 3u, 1000u, 7u, 3000000u, 5u, 100000u, 2000001u, 64u, 1u}) {
      pieces.push_back({device->allocate(static_cast<int64_t>(4 * n)), counting(n, first)});
      first += 17;
    }
    for (int i = 0; i < 300; ++i) CHECK_OK(device->upload(pieces[2].block, pieces[2].values.data(), 4000));
    for (Piece& p : pieces) {
      std::vector<int32_t> gone = p.values;  // the source may change as soon as upload returns
      CHECK_OK(device->upload(p.block, gone.data(), static_cast<int64_t>(4 * gone.size())));
      std::fill(gone.begin(), gone.end(), -1);
    }
    for (Piece& p : pieces) {
      std::vector<int32_t> back(p.values.size());
      CHECK_OK(device->download(back.data(), p.block, static_cast<int64_t>(4 * back.size())));
      CHECK(back == p.values);
    }
    CHECK_OK(device->upload(nullptr, nullptr, 0));
    CHECK_OK(device->download(nullptr, nullptr, 0));
    for (Piece& p : pieces) device->release(p.block, 0);
    CHECK(device->memory().live_bytes == 0);
  }
  CHECK(nothing_is_held());
}

/// Without pinned memory everything works, through the driver's own staging.
void check_transfers_without_pinned() {
  Status status;
  auto device = open(0, status);
  CHECK_OK(status);
  if (!device) return;
  CHECK(fake().count("pinned") == 0);
  const std::vector<int32_t> values = counting(3000000, 5);
  std::vector<int32_t> back(values.size());
  const auto bytes = static_cast<int64_t>(4 * values.size());
  void* block = device->allocate(bytes);
  CHECK_OK(device->upload(block, values.data(), bytes));
  CHECK_OK(device->download(back.data(), block, bytes));
  CHECK(back == values);
  device->release(block, bytes);
}

// memory -------------------------------------------------------------------------------------------------------------

void check_budget() {
  Status status;
  auto device = open(1 << 20, status);
  CHECK_OK(status);
  if (!device) return;
  void* a = device->allocate(1 << 19);
  CHECK(a != nullptr && device->allocate(1 << 20) == nullptr);
  CHECK(device->state().ok());
  CHECK(inside(*device).scratch(1 << 20) == nullptr);
  device->release(a, 1 << 19);
  CHECK(device->allocate(1 << 20) != nullptr);
  CHECK(device->memory().limit_bytes == 1 << 20 && device->memory().pool_bytes == 1 << 20);
}

/// The driver is short although the budget is not; a second try after something was freed succeeds.
void check_driver_short_of_memory() {
  Status status;
  auto device = open(0, status);
  CHECK_OK(status);
  if (!device) return;
  void* a = device->allocate(60 << 20);
  void* b = device->allocate(30 << 20);
  CHECK(a != nullptr && b != nullptr && device->allocate(30 << 20) == nullptr);
  CHECK(device->state().ok());
  device->release(a, 60 << 20);
  CHECK(device->allocate(55 << 20) != nullptr);
  CHECK(device->memory().limit_bytes == 100 << 20);
  fake().set("memory=104857600 fail=cuMemAlloc:2@1+");
  CHECK(device->allocate(4 << 20) != nullptr);   // what is idle is still handed out
  CHECK(device->allocate(20 << 20) == nullptr);  // and no new segment comes
  CHECK(device->state().ok());
}

// launches -----------------------------------------------------------------------------------------------------------

const KernelInfo first_kernel{"first"}, second_kernel{"second"}, absent_kernel{"absent_one"};

Launch small_launch(const KernelInfo& kernel, const int32_t& parameter) {
  Launch l;
  l.kernel = &kernel;
  l.grid = {6, 2, 1};
  l.block = {128, 1, 1};
  l.parameters = &parameter;
  l.parameter_bytes = sizeof parameter;
  return l;
}

void check_launches() {
  Status status;
  {
    auto device = open(0, status);
    CHECK_OK(status);
    if (!device) return;
    CudaDevice& d = inside(*device);
    const int32_t parameter = 1;
    CHECK(fake().count("cuLibraryLoadData") == 0 && fake().count("cuModuleLoadData") == 0);  // nobody needed code yet
    void* block = d.allocate(4);                                                              // binds the thread
    Launch l = small_launch(first_kernel, parameter);
    CHECK_OK(d.launch(l));
    l.shared_bytes = 100 << 10;
    l.cluster = {2, 1, 1};
    CHECK_OK(d.launch(l));
    l.kernel = &second_kernel;
    l.shared_bytes = 0;
    l.cluster = {};
    l.cooperative = true;
    CHECK_OK(d.launch(l));
    l.grid = {0, 1, 1};
    CHECK_OK(d.launch(l));
    CHECK(std::string(fake().log()).empty());
    CHECK_OK(d.sync());
    CHECK(std::string(fake().log()) ==
          "first grid 6,2,1 block 128,1,1 cluster 1,1,1 shared 0\n"
          "first grid 6,2,1 block 128,1,1 cluster 2,1,1 shared 102400\n"
          "second grid 6,2,1 block 128,1,1 cluster 1,1,1 shared 0 cooperative\n");
    CHECK(fake().count("cuLibraryLoadData") == 1 && fake().count("cuFuncSetAttribute") == 1);
    l = small_launch(absent_kernel, parameter);
    CHECK_CODE(d.launch(l), no_kernel);
    l = small_launch(first_kernel, parameter);
    l.shared_bytes = 300 << 10;
    CHECK_CODE(d.launch(l), device);
    l = small_launch(first_kernel, parameter);
    l.block = {2048, 1, 1};
    CHECK_CODE(d.launch(l), internal);
    CHECK_OK(d.sync());
    d.release(block, 4);
  }
  CHECK(nothing_is_held());
}

/// An op without an entry is refused by name of the device's queue; here by the device.
void check_ops_without_kernels() {
  Status status;
  auto device = open(0, status);
  CHECK_OK(status);
  if (!device) return;
  Call call;
  int missing = 0;
  for (int i = 0; i < op_count; ++i) {
    const Op op = static_cast<Op>(i);
    if (device->has_kernel(op)) continue;
    ++missing;
    CHECK_CODE(device->run(op, call), no_kernel);
  }
  CHECK(missing == op_count - report_cuda_kernels().ops);
}

// faults -------------------------------------------------------------------------------------------------------------

/// A kernel breaks the context: the next wait says so, everything after it answers the same, and the process cannot
/// open the GPU again, even if the driver could.
void check_lost(const char* settings) {
  Status status;
  auto device = open(0, status);
  CHECK_OK(status);
  if (!device) return;
  fake().set(settings);
  CudaDevice& d = inside(*device);
  void* block = d.allocate(4096);
  int32_t value = 5;
  CHECK_OK(d.upload(block, &value, 4));
  CHECK_OK(d.launch(small_launch(first_kernel, value)));
  const Status first = d.download(&value, block, 4);
  CHECK(first.code == Code::device_lost && std::string(first.text).find("CUDA_ERROR_") != std::string::npos);
  CHECK(std::string(d.state().text) == first.text);
  for (const Status& later : {d.sync(), d.upload(block, &value, 4), d.download(&value, block, 4)})
    CHECK(later.code == Code::device_lost && std::string(later.text) == first.text);
  CHECK(d.allocate(1) == nullptr);
  Call call;
  CHECK_CODE(d.run(Op::fill, call), device_lost);
  d.release(block, 4096);
  device.reset();
  fake().repair();
  CHECK(open(0, status) == nullptr && status.code == Code::device_lost);
}

void check_illegal_address() { check_lost("fault=700@1"); }
void check_ecc() { check_lost("fault=214@1"); }
void check_launch_failed() { check_lost("fault=719@1"); }

/// What does not break the context is an error of its call alone.
void check_survivable() {
  Status status;
  auto device = open(0, status);
  CHECK_OK(status);
  if (!device) return;
  CudaDevice& d = inside(*device);
  void* block = d.allocate(4);
  const int32_t value = 7;
  fake().set("fail=cuLaunchKernelEx:701@1 fail=cuMemcpyHtoDAsync:2@1 fail=cuStreamSynchronize:2@1");
  CHECK_CODE(d.launch(small_launch(first_kernel, value)), internal);
  CHECK_OK(d.launch(small_launch(first_kernel, value)));
  CHECK_CODE(d.upload(block, &value, 4), oom);
  CHECK_OK(d.upload(block, &value, 4));
  CHECK_CODE(d.sync(), oom);
  CHECK_OK(d.sync());
  CHECK(d.state().ok());
}

/// Loading a kernel takes memory of the GPU: idle segments make room for it, once.
void check_room_for_code() {
  Status status;
  auto device = open(0, status);
  CHECK_OK(status);
  if (!device) return;
  CudaDevice& d = inside(*device);
  const int32_t value = 7;
  d.release(d.allocate(4), 4);
  CHECK(d.memory().pool_bytes > 0);
  fake().set("fail=cuKernelGetFunction:2@1");
  CHECK_OK(d.launch(small_launch(first_kernel, value)));
  CHECK(d.memory().pool_bytes == 0);
  fake().set("fail=cuLaunchKernelEx:2@1");
  CHECK_OK(d.launch(small_launch(first_kernel, value)));
  fake().set("fail=cuLaunchKernelEx:2@1+");
  CHECK_CODE(d.launch(small_launch(first_kernel, value)), oom);
  CHECK(d.state().ok());
}

/// An address outside of all memory is found, as on a GPU.
void check_wild_address() {
  Status status;
  auto device = open(0, status);
  CHECK_OK(status);
  if (!device) return;
  void* block = device->allocate(4);
  int32_t value = 0;
  CHECK_CODE(device->download(&value, static_cast<char*>(block) + (int64_t{1} << 32), 4), device_lost);
}

// drivers ------------------------------------------------------------------------------------------------------------

void check_old_driver() {
  Status status;
  const CudaDriver report = report_cuda_driver(0);
  CHECK(report.problem.empty() && report.version == "11.4" && report.gpus.size() == 1);
  CHECK(report.gpus[0].free_bytes == 1 << 30 && report.gpus[0].capability == "9.0");
  CHECK((report.missing == std::vector<std::string>{"cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelGetFunction",
                                                     "cuTensorMapEncodeTiled", "cuLaunchKernelEx"}));
  {
    auto device = open(0, status);
    CHECK_OK(status);
    if (!device) return;
    CudaDevice& d = inside(*device);
    const int32_t parameter = 0;
    void* block = d.allocate(4);
    Launch l = small_launch(first_kernel, parameter);
    CHECK_OK(d.launch(l));
    CHECK(fake().count("cuModuleLoadData") == 1 && fake().count("cuLaunchKernel") == 1);
    l.cluster = {2, 1, 1};
    CHECK_CODE(d.launch(l), device);
    l.cluster = {};
    l.cooperative = true;
    CHECK_CODE(d.launch(l), device);
    CHECK_OK(d.sync());
    d.release(block, 4);
  }
  CHECK(nothing_is_held());
}

void check_broken_driver() {
  Status status;
  CHECK(open(0, status) == nullptr && status.code == Code::device);
  CHECK(std::string(status.text).find("cuMemAlloc") != std::string::npos);
  CHECK(report_cuda_driver(0).gpus.empty() && !report_cuda_driver(0).problem.empty());
}

void check_no_gpu() {
  Status status;
  CHECK(open(0, status) == nullptr && status.code == Code::device);
  CHECK(std::string(status.text).find("CUDA_ERROR_NO_DEVICE") != std::string::npos);
}

void check_no_driver() {
  Status status;
  CHECK(open(0, status) == nullptr && status.code == Code::device);
  CHECK(std::string(status.text).find("no CUDA driver") != std::string::npos);
}

void check_no_such_gpu() {
  Status status;
  CHECK(open_cuda(2, 0, status) == nullptr && status.code == Code::device);
  CHECK(open_cuda(-1, 0, status) == nullptr && status.code == Code::device);
  const auto second = open_cuda(1, 0, status);
  CHECK(second != nullptr && std::string(second->name()) == "sm_90 Fake GPU 1");
}

/// Every call that opening makes fails once: an error each time, nothing held, and the next try works.
void check_failed_openings() {
  Status status;
  open(0, status).reset();
  const Fake f = fake();
  for (const char* call : {"cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuEventCreate"}) {
    f.set((std::string("fail=") + call + ":2@1").c_str());
    CHECK(open(0, status) == nullptr && !status.ok());
    CHECK(nothing_is_held());
    CHECK(open(0, status) != nullptr);
  }
}

void check_targets() {
  const Image image{"FAKE", 4, 13000, "sm_80 sm_90a compute_80"};
  const auto target = [&](int major, int minor) {
    Gpu gpu;
    gpu.major = major;
    gpu.minor = minor;
    return target_for(image, gpu);
  };
  CHECK(target(8, 0) == "sm_80" && target(8, 6) == "sm_80" && target(8, 9) == "sm_80");
  CHECK(target(9, 0) == "sm_90a" && target(10, 0) == "compute_80" && target(12, 0) == "compute_80");
  CHECK(target(7, 5).empty());
  Gpu old;
  old.name = "Old GPU";
  old.major = 7;
  CHECK_CODE(check_image(image, old), device);
  Gpu good;
  good.major = 9;
  CHECK_OK(check_image(image, good));
  CHECK_CODE(check_image(Image{}, good), device);
  CHECK_CODE(check_image(Image{"FAKE", 4, 14000, "sm_90"}, good), device);
  // Machine code of a newer minor version runs, its PTX is not read.
  const int32_t version = driver().version;
  CHECK_OK(check_image(Image{"FAKE", 4, version + 10, "sm_90"}, good));
  CHECK_CODE(check_image(Image{"FAKE", 4, version + 10, "compute_80"}, good), device);
  CHECK_OK(check_image(Image{"FAKE", 4, version, "compute_80"}, good));
}

}  // namespace

int main() {
  char image[] = WS_FAKE_CUDA "kernels-XXXXXX";
  const int file = mkstemp(image);
  if (!CHECK(file >= 0 && write(file, "FAKE", 4) == 4)) return report();
  close(file);
  setenv("WHETSTONE_CUDA_KERNELS", image, 1);
  with_driver("2", check_transfers);
  with_driver("2", check_transfers_without_pinned, "fail=cuMemHostAlloc:2@1+");
  with_driver("2", check_budget);
  with_driver("2", check_driver_short_of_memory, "memory=104857600");
  with_driver("2", check_launches);
  with_driver("2", check_ops_without_kernels);
  with_driver("2", check_illegal_address);
  with_driver("2", check_ecc);
  with_driver("2", check_launch_failed);
  with_driver("2", check_survivable);
  with_driver("2", check_room_for_code);
  with_driver("2", check_wild_address);
  with_driver("1", check_old_driver);
  with_driver("0", check_broken_driver);
  with_driver("2", check_no_gpu, "gpus=0");
  with_driver("2", check_no_such_gpu, "gpus=2");
  with_driver("nowhere", check_no_driver);
  with_driver("2", check_failed_openings);
  with_driver("2", check_targets);
  unlink(image);
  return report();
}
