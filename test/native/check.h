// What every native test shares: counted checks, runtimes (serial, threaded), random tensors and comparison
// against double-precision references. A test is a plain program: it calls kernels of each instruction set that
// this processor has, prints `N passed, N failed` by report(), and exits with 1 when something failed.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <thread>
#include <vector>

#include "../../native/core/op.h"

namespace ws {
#define OP(family, name, signature, parameters) Status name(const Call&);
namespace v2 {
#include "../../native/ops.def"
}
namespace avx2 {
#include "../../native/ops.def"
}
namespace avx512 {
#include "../../native/ops.def"
}
namespace avx512bf16 {
#include "../../native/ops.def"
}
namespace amx {
#include "../../native/ops.def"
}
#undef OP
}  // namespace ws

namespace check {

using namespace ws;

// counting -----------------------------------------------------------------------------------------------------------

inline int passed = 0;
inline int failed = 0;

inline bool expect(bool ok, const char* file, int line, const char* what) {
  ++(ok ? passed : failed);
  if (!ok && failed <= 40) std::printf("FAIL %s:%d %s\n", file, line, what);
  return ok;
}

/// Prints the totals; the value for main() to return.
inline int report() {
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

// instruction sets ---------------------------------------------------------------------------------------------------

struct Level {
  const char* name;
  bool available;
  Kernel kernel;
};

// What the processor has.
inline bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#if defined(WS_PORTABLE_SIMD)
inline bool runs_avx512() { return runs_avx2(); }
inline bool runs_avx512bf16() { return runs_avx2(); }
#else
inline bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool runs_avx512bf16() { return runs_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

// What is tested. Levels of vectors cut work among threads alike: under the thread sanitizer the best one stands for all.
#if defined(__SANITIZE_THREAD__)
constexpr bool all_levels = false;
#else
constexpr bool all_levels = true;
#endif
inline bool has_v2() { return all_levels || !runs_avx2(); }
inline bool has_avx2() { return runs_avx2() && (all_levels || !runs_avx512()); }
inline bool has_avx512() { return runs_avx512() && (all_levels || !runs_avx512bf16()); }
inline bool has_avx512bf16() { return runs_avx512bf16(); }
/// Test builds have a model of AMX in its place.
inline bool has_amx() { return runs_avx512bf16(); }
/// Of WS_LEVEL, in tests that are compiled once per instruction set.
inline bool has_level(int level) {
  return (level == 1 && has_v2()) || (level == 2 && has_avx2()) || (level == 3 && has_avx512()) ||
         (level == 4 && has_avx512bf16()) || (level == 5 && has_amx());
}

/// Calls body(level) for each instruction set of this processor.
inline void for_levels(std::initializer_list<Level> levels, const std::function<void(const Level&)>& body) {
  for (const Level& level : levels)
    if (level.available) body(level);
}

// runtimes -----------------------------------------------------------------------------------------------------------

/// Scratch is poisoned with NaN at every request, so that a kernel that trusts old contents is caught.
struct ScratchRuntime : Runtime {
  std::vector<char> block;
  bool short_of_memory = false;
  void* scratch(int64_t bytes) override {
    if (short_of_memory) return nullptr;
    block.assign(static_cast<size_t>(bytes) + 64, static_cast<char>(0xff));
    const auto address = reinterpret_cast<uintptr_t>(block.data());
    return block.data() + (64 - address % 64) % 64;
  }
};

struct SerialRuntime : ScratchRuntime {
  int threads() const override { return 1; }
  void parallel(int64_t tasks, void (*fn)(void*, int64_t, int), void* context) override {
    for (int64_t i = 0; i < tasks; ++i) fn(context, i, 0);
  }
};

/// Starts its threads for every call: slow, simple, visible to the thread sanitizer.
struct ThreadedRuntime : ScratchRuntime {
  int count;
  explicit ThreadedRuntime(int n) : count(n) {}
  int threads() const override { return count; }
  void parallel(int64_t tasks, void (*fn)(void*, int64_t, int), void* context) override {
    std::atomic<int64_t> next{0};
    const auto work = [&](int worker) {
      for (int64_t i = next++; i < tasks; i = next++) fn(context, i, worker);
    };
    std::vector<std::thread> pool;
    for (int w = 1; w < count; ++w) pool.emplace_back(work, w);
    work(0);
    for (auto& thread : pool) thread.join();
  }
};

// random numbers -----------------------------------------------------------------------------------------------------

struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  double normal() { return std::sqrt(-2.0 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
};

// tensors ------------------------------------------------------------------------------------------------------------

/// An owned tensor; element access goes through double whatever the type. Its allocation is exact, so that the
/// address sanitizer sees a read past the end.
struct Tensor {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::vector<char> bytes;

  Tensor() = default;
  Tensor(DType type, std::vector<int64_t> dims) : dtype(type), shape(std::move(dims)) {
    bytes.assign(static_cast<size_t>(size() * element_bytes(dtype)), 0);
  }
  int64_t size() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
  View view() const {
    View v;
    v.data = const_cast<char*>(bytes.data());
    v.dtype = dtype;
    v.rank = static_cast<int32_t>(shape.size());
    for (size_t i = 0; i < shape.size(); ++i) v.dims[i] = shape[i];
    return v;
  }
  /// Elements [first, first + count) of the first dimension, sharing memory.
  View rows(int64_t first, int64_t count) const {
    View v = view();
    v.data = const_cast<char*>(bytes.data()) + first * (size() / shape[0]) * element_bytes(dtype);
    v.dims[0] = count;
    return v;
  }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
  double at(int64_t i) const {
    if (dtype == DType::f32) return as<float>()[i];
    if (dtype == DType::bf16) return to_float(as<bf16>()[i]);
    if (dtype == DType::i32) return as<int32_t>()[i];
    return as<uint8_t>()[i];
  }
  /// Not inlined: GCC 12 would warn of a write behind the end of an empty tensor, which it cannot know to be empty.
  [[gnu::noinline]] void set(int64_t i, double x) {
    if (dtype == DType::f32) as<float>()[i] = static_cast<float>(x);
    if (dtype == DType::bf16) as<bf16>()[i] = to_bf16(static_cast<float>(x));
    if (dtype == DType::i32) as<int32_t>()[i] = static_cast<int32_t>(x);
    if (dtype == DType::u8) as<uint8_t>()[i] = static_cast<uint8_t>(x);
  }
  Tensor& fill(double x) {
    for (int64_t i = 0; i < size(); ++i) set(i, x);
    return *this;
  }
  Tensor& normal(Random& random, double deviation = 1.0, double mean = 0.0) {
    for (int64_t i = 0; i < size(); ++i) set(i, mean + deviation * random.normal());
    return *this;
  }
};

inline Tensor random_tensor(Random& random, DType dtype, std::vector<int64_t> shape, double deviation = 1.0) {
  Tensor t(dtype, std::move(shape));
  t.normal(random, deviation);
  return t;
}

inline Tensor integers(const std::vector<int32_t>& values) {
  Tensor t(DType::i32, {static_cast<int64_t>(values.size())});
  if (!values.empty()) std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
  return t;
}

/// An absent optional operand.
inline View absent() { return View{}; }

/// A call ready for a kernel: operands in the order of ops.def, then parameters.
inline Call make_call(Runtime& rt, std::initializer_list<View> operands,
                      std::initializer_list<double> parameters = {}) {
  Call c;
  c.rt = &rt;
  for (const View& v : operands) c.t[c.operands++] = v;
  for (const double p : parameters) c.p[c.parameters++] = p;
  return c;
}

// comparison ---------------------------------------------------------------------------------------------------------

/// Relative spacing of numbers of this type; rounding once errs by half of it.
inline double unit(DType dtype) { return dtype == DType::bf16 ? 0x1p-7 : 0x1p-23; }

/// Every element within absolute + relative * |expected|; equal infinities and NaN for NaN are accepted.
inline bool close(const Tensor& got, const std::vector<double>& expected, double relative, double absolute) {
  if (got.size() != static_cast<int64_t>(expected.size())) return false;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double a = got.at(i), b = expected[static_cast<size_t>(i)];
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    if (std::fabs(a - b) <= absolute + relative * std::fabs(b)) continue;
    if (failed < 40)
      std::printf("  element %lld: got %.9g, expected %.9g\n", static_cast<long long>(i), a, b);
    return false;
  }
  return true;
}

inline bool same_bits(const Tensor& a, const Tensor& b) { return a.bytes == b.bytes; }

inline bool same_bytes(const View& a, const View& b) {
  return a.bytes() == b.bytes() && (a.bytes() == 0 || std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0);
}

/// Runs the call on 1, 2, 3 and 8 threads and tells whether `output` (and only it is compared) has the same bits
/// each time. `before` is copied into `output` first, for operands that are changed in place.
inline bool same_on_threads(Kernel kernel, Call call, Tensor& output, const Tensor& before) {
  Tensor first;
  for (const int n : {1, 2, 3, 8}) {
    ThreadedRuntime rt(n);
    call.rt = &rt;
    std::copy(before.bytes.begin(), before.bytes.end(), output.bytes.begin());
    if (!kernel(call).ok()) return false;
    if (n == 1) first = output;
    if (!same_bits(first, output)) return false;
  }
  return true;
}

}  // namespace check

#define CHECK(condition) ::check::expect((condition), __FILE__, __LINE__, #condition)
#define CHECK_SAYING(condition, text) ::check::expect((condition), __FILE__, __LINE__, (std::string(text)).c_str())
/// The status is good; prints its text otherwise.
#define CHECK_OK(status)                                                            \
  do {                                                                              \
    const ::ws::Status status_ = (status);                                          \
    ::check::expect(status_.ok(), __FILE__, __LINE__, status_.ok() ? "" : status_.text); \
  } while (0)
/// The status has this code and a text.
#define CHECK_CODE(status, expected)                                                                   \
  do {                                                                                                 \
    const ::ws::Status status_ = (status);                                                             \
    ::check::expect(status_.code == ::ws::Code::expected && status_.text[0] != 0, __FILE__, __LINE__,  \
                    #status " must give " #expected);                                                  \
  } while (0)
#define CHECK_CLOSE(got, expected, relative, absolute) \
  ::check::expect(::check::close(got, expected, relative, absolute), __FILE__, __LINE__, #got " is close to " #expected)
#define CHECK_SAME(a, b) ::check::expect(::check::same_bits(a, b), __FILE__, __LINE__, #a " has the bits of " #b)
/// The instruction sets of one op, for for_levels().
#define WS_LEVELS(op)                                                                    \
  {                                                                                      \
    {"v2", ::check::has_v2(), ::ws::v2::op}, {"avx2", ::check::has_avx2(), ::ws::avx2::op}, \
        {"avx512", ::check::has_avx512(), ::ws::avx512::op},                             \
        {"avx512bf16", ::check::has_avx512bf16(), ::ws::avx512bf16::op},                 \
        {"amx", ::check::has_amx(), ::ws::amx::op},                                      \
  }
