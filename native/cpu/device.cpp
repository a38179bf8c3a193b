// The CPU device: which instruction set to use, a pool of aligned blocks by size class, the thread pool, and the
// scratch arena of the running op. Kernels are reached through the tables of kernels.cpp, one per level.
#include "../core/device.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "pool.h"

namespace ws {

#if defined(__x86_64__)
namespace v2 {
extern const Kernel kernels[op_count];
double peak(DType type, int64_t turns);
}
namespace avx2 {
extern const Kernel kernels[op_count];
double peak(DType type, int64_t turns);
}
namespace avx512 {
extern const Kernel kernels[op_count];
double peak(DType type, int64_t turns);
}
namespace avx512bf16 {
extern const Kernel kernels[op_count];
double peak(DType type, int64_t turns);
}
namespace amx {
extern const Kernel kernels[op_count];
double peak(DType type, int64_t turns);
const char* check_tiles();
}
#endif

namespace {

struct Level {
  const char* name;
  const Kernel* kernels;
  double (*peak)(DType type, int64_t turns);
  bool (*available)();
  bool (*preferred)();  // over the levels below it, when none is named
  int token_alignment;  // of the device
};

bool has_v2() { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
#if defined(WS_PORTABLE_SIMD)
// Functions over AVX2 in place of instructions, for tests; never taken unless named.
bool has_avx512() { return has_avx2(); }
bool has_avx512bf16() { return has_avx2(); }
bool has_wide_vectors() { return false; }
bool has_fast_dot() { return false; }
#else
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
bool has_wide_vectors() { return true; }
/// AMD does two VDPBF16PS per clock, twice the rate of multiply-adds; Intel's first processors do half that rate.
bool has_fast_dot() { return __builtin_cpu_is("amd"); }
#endif
bool always() { return true; }

/// Why this machine cannot have the level `amx`; null when it can. Found out once: the system must let the process use
/// tiles (8 KB more for a thread that does), and then the instructions must do what the kernels expect of them.
const char* amx_refusal() {
#if defined(WS_TILE_MODEL)
  return has_avx512bf16() ? nullptr : "the processor has no AVX512-BF16";
#else
  static const char* const refusal = []() -> const char* {
    constexpr unsigned tile_bits = 1u << 22 | 1u << 24, tile_state = 3u << 17, request = 0x1023, tile_data = 18;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile_bits) != tile_bits) {
      return "the processor has no AMX-BF16";
    }
    unsigned low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & tile_state) != tile_state) return "the system does not save tiles (XCR0)";
    if (syscall(SYS_arch_prctl, request, tile_data) != 0) return "the system refuses tiles (arch_prctl)";
    return amx::check_tiles();
  }();
  return refusal;
#endif
}
bool has_amx() { return amx_refusal() == nullptr; }
#if defined(WS_TILE_MODEL)
bool has_real_tiles() { return false; }
#else
bool has_real_tiles() { return true; }
#endif

// From low to high; __builtin_cpu_supports also asks the operating system (xgetbv) for the wide registers. It knows the
// names x86-64-v2 to -v4 only from clang 18 on, so each level names the features that tell it apart.
const Level levels[] = {
    {"v2", v2::kernels, v2::peak, has_v2, always, 1},
    {"avx2", avx2::kernels, avx2::peak, has_avx2, always, 1},
    {"avx512", avx512::kernels, avx512::peak, has_avx512, has_wide_vectors, 1},
    {"avx512bf16", avx512bf16::kernels, avx512bf16::peak, has_avx512bf16, has_fast_dot, 1},
    {"amx", amx::kernels, amx::peak, has_amx, has_real_tiles, 32},
};

const Level* find_level(const std::string& wanted) {
  const Level* found = nullptr;
  for (const Level& level : levels)
    if (level.available() && (wanted.empty() ? level.preferred() : wanted == level.name)) found = &level;
  return found;
}

int64_t read_number(const char* path) {
  int64_t value = -1;
  if (std::FILE* file = std::fopen(path, "r")) {
    if (std::fscanf(file, "%ld", &value) != 1) value = -1;
    std::fclose(file);
  }
  return value;
}

/// Blocks of one and more lie in huge pages where the system has them: products walk over rows that are pages apart, and
/// weights are read faster than small pages are looked up.
constexpr int64_t huge_page = int64_t{2} << 20;

/// CPUs that the cgroup's quota pays for; 0 when there is no quota (or none that can be read).
int quota_cpus() {
  int64_t quota = -1, period = 100000;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%ld %ld", &quota, &period) < 1) quota = -1;
    std::fclose(file);
  } else {
    quota = read_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    period = read_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  }
  return quota > 0 && period > 0 ? static_cast<int>((quota + period - 1) / period) : 0;
}

/// The lowest-numbered hardware thread of the core that `cpu` belongs to.
int first_sibling(int cpu) {
  char path[96];
  std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
  const int64_t first = read_number(path);
  return first < 0 ? cpu : static_cast<int>(first);
}

class CpuDevice final : public Device, public Runtime {
 public:
  CpuDevice(const Level& level, int threads, int64_t limit)
      : level_(level), pool_(threads), limit_(limit) {}

  ~CpuDevice() override {
    trim();
    std::free(scratch_);
  }

  const char* name() const override { return level_.name; }
  int token_alignment() const override { return level_.token_alignment; }
  bool has_kernel(Op op) const override { return level_.kernels[static_cast<int>(op)] != nullptr; }

  void* allocate(int64_t bytes) override {
    const int64_t size = size_class(bytes);
    if (limit_ > 0 && live_ + size > limit_) return nullptr;
    void* block = take(size);
    if (block == nullptr) return nullptr;
    live_ += size;
    if (live_ > peak_) peak_ = live_.load();
    return block;
  }

  void release(void* block, int64_t bytes) override {
    const int64_t size = size_class(bytes);
    live_ -= size;
    idle_[size].push_back(block);
  }

  Status run(Op op, Call& call) override {
    call.rt = this;
    return level_.kernels[static_cast<int>(op)](call);
  }

  Status upload(void* to, const void* from, int64_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));  // an empty array may be a null pointer
    return {};
  }
  Status download(void* to, const void* from, int64_t bytes) override { return upload(to, from, bytes); }

  MemoryStats memory() const override { return {live_, peak_, pool_bytes_ + scratch_bytes_, limit_}; }
  void reset_peak() override { peak_ = live_.load(); }
  void set_threads(int threads) override { pool_.resize(threads); }

  // Runtime
  int threads() const override { return pool_.threads(); }
  void parallel(int64_t tasks, void (*fn)(void*, int64_t, int), void* context) override {
    pool_.run(tasks, fn, context);
  }
  void* scratch(int64_t bytes) override {
    if (bytes <= scratch_bytes_) return scratch_;
    std::free(scratch_);
    scratch_bytes_ = 0;
    scratch_ = aligned(size_class(bytes));
    if (scratch_ != nullptr) scratch_bytes_ = size_class(bytes);
    return scratch_;
  }

 private:
  /// Sizes in steps of an eighth of their power of two (at least 256 bytes), so that a freed block fits again.
  static int64_t size_class(int64_t bytes) {
    int64_t step = 256;
    while (step * 8 < bytes) step *= 2;
    return bytes <= 256 ? 256 : (bytes + step - 1) / step * step;
  }

  static void* aligned(int64_t bytes) {
    void* block = nullptr;
    const bool large = bytes >= huge_page;
    if (posix_memalign(&block, large ? huge_page : 64, static_cast<size_t>(bytes)) != 0) return nullptr;
    if (large) madvise(block, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // where that is refused, nothing is lost
    return block;
  }

  void* take(int64_t size) {
    const auto found = idle_.find(size);
    if (found != idle_.end() && !found->second.empty()) {
      void* block = found->second.back();
      found->second.pop_back();
      return block;
    }
    if (limit_ > 0 && pool_bytes_ + size > limit_) trim();
    void* block = aligned(size);
    if (block == nullptr) {
      trim();
      block = aligned(size);
    }
    if (block != nullptr) pool_bytes_ += size;
    return block;
  }

  /// Gives idle blocks back to the system.
  void trim() {
    for (auto& [size, blocks] : idle_)
      for (void* block : blocks) {
        std::free(block);
        pool_bytes_ -= size;
      }
    idle_.clear();
  }

  const Level& level_;
  Pool pool_;
  const int64_t limit_;
  std::map<int64_t, std::vector<void*>> idle_;
  // Read by the JS thread for statistics while the queue's thread changes them.
  std::atomic<int64_t> live_{0}, peak_{0}, pool_bytes_{0}, scratch_bytes_{0};
  void* scratch_ = nullptr;
};

}  // namespace

const char* cpu_levels() {
  static const std::string list = [] {
    std::string names;
    for (const Level& level : levels)
      if (level.available()) names.append(names.empty() ? "" : " ").append(level.name);
    return names;
  }();
  return list.c_str();
}

const char* cpu_best_level() { return find_level("")->name; }
const char* cpu_amx_refusal() { return amx_refusal(); }

int default_threads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<int> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &allowed)) cores.insert(first_sibling(cpu));
  const int physical = cores.empty() ? 1 : static_cast<int>(cores.size());
  const int quota = quota_cpus();
  return quota > 0 && quota < physical ? quota : physical;
}

double cpu_peak(const char* wanted, DType type, int threads, int64_t turns) {
  const Level* level = find_level(wanted);
  if (level == nullptr) return 0;
  struct Work {
    const Level* level;
    DType type;
    int64_t turns;
    std::atomic<int> missing;
    std::atomic<double> rate{0};
  } work{level, type, turns, {threads}, {}};
  // A thread that has just been started is late: all wait for it, and each has a clock of its own.
  Pool pool(threads);
  pool.run(threads, [](void* context, int64_t, int) {
    Work& w = *static_cast<Work*>(context);
    --w.missing;
    while (w.missing > 0) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    const double flops = w.level->peak(w.type, w.turns);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    w.rate.fetch_add(flops / seconds.count());
  }, &work);
  return work.rate;
}

std::unique_ptr<Device> open_cpu(const char* wanted, int threads, int64_t limit_bytes, Status& status) {
  const Level* level = find_level(wanted);
  if (level == nullptr) {
    const bool tiles = std::strcmp(wanted, "amx") == 0 && amx_refusal() != nullptr;
    status = fail(Code::device, "the instruction-set level '%s' is not available%s%s; this machine has: %s", wanted,
                  tiles ? ", " : "", tiles ? amx_refusal() : "", cpu_levels());
    return nullptr;
  }
  return std::make_unique<CpuDevice>(*level, threads < 1 ? default_threads() : threads, limit_bytes);
}

}  // namespace ws
