// The emulator's scheduler and its waits. A fiber runs until it must wait; the scheduler then resumes the next one that
// may run. Blocks run one after the other, so memory between them is as ordered as it can be: kernels may not rely on it.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "machine.h"

namespace ws::cuda {
namespace emulator {

Machine machine;

namespace {

constexpr size_t guard_bytes = 1024;              // beside shared memory
constexpr uint32_t most_shared_bytes = 227 << 10;  // what a block may have at most, sm_90
constexpr unsigned char guard = 0xfe, poison = 0xff;

Settings current_settings;
std::vector<Site> known_sites;

struct Body {
  uint32_t threads;
  void (*run)(const void*);
};

std::unordered_map<std::string, Body>& bodies() {
  static std::unordered_map<std::string, Body> all;
  return all;
}

Lane& own() { return machine.lanes[static_cast<size_t>(machine.current)]; }

// Context switch --------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
extern "C" void ws_fiber_switch(void** save, void* to);
asm(R"(
  .pushsection .text
  .hidden ws_fiber_switch
  .globl ws_fiber_switch
  .type ws_fiber_switch, @function
ws_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .popsection
)");
void change(Context& from, Context& to) { ws_fiber_switch(&from, to); }
#else
void change(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

void pause() { change(own().context, machine.scheduler); }

void fiber_main() {
  machine.body(machine.launch->arguments);
  own().done = true;
  pause();
  std::abort();
}

void prepare(Lane& lane, char* stack) {
  lane.done = false;
  lane.waits_for = nullptr;
  lane.copies.clear();
  lane.groups.clear();
#if defined(__x86_64__)
  // The first switch pops six registers and returns into fiber_main, whose stack is then aligned as after a call.
  void** top = reinterpret_cast<void**>(stack + stack_bytes) - 8;
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void*>(fiber_main);
  lane.context = top;
#else
  getcontext(&lane.context);
  lane.context.uc_stack.ss_sp = stack;
  lane.context.uc_stack.ss_size = stack_bytes;
  lane.context.uc_link = nullptr;
  makecontext(&lane.context, fiber_main, 0);
#endif
}

}  // namespace

// Waiting ---------------------------------------------------------------------------------------------------------------

uint64_t next_random() {
  machine.random = machine.random * 6364136223846793005u + 1442695040888963407u;
  return machine.random >> 33;
}

void stop(std::string text) {
  machine.fault = std::move(text);
  pause();
  std::abort();
}

std::string place(Site site) {
  const char* name = std::strrchr(site.file, '/');
  return std::string(name ? name + 1 : site.file) + ":" + std::to_string(site.line);
}

bool skips(Site site) {
  const auto same = [site](Site s) { return s.line == site.line && std::strcmp(s.file, site.file) == 0; };
  if (std::none_of(known_sites.begin(), known_sites.end(), same)) known_sites.push_back(site);
  const Site skipped = current_settings.skipped;
  return skipped.file != nullptr && same(skipped);
}

void wait_for(const void* what, Site site) {
  own().waits_for = what;
  own().site = site;
  pause();
}

void release(const void* what, int first, int threads) {
  for (int i = first; i < first + threads; ++i) {
    Lane& lane = machine.lanes[static_cast<size_t>(i)];
    if (lane.waits_for == what) lane.waits_for = nullptr;
  }
}

void meet(Combine combine, void* slot, Site site) {
  Meeting& m = machine.meetings[static_cast<size_t>(machine.current / 32)];
  if (m.arrived == 0) m.site = site, m.combine = combine;
  if (m.combine != combine || m.site.line != site.line || m.site.file != site.file)
    stop("warp " + std::to_string(machine.current / 32) + " has parted: lanes at " + place(m.site) + " and at " + place(site));
  m.slots[machine.current % 32] = slot;
  if (++m.arrived < 32) return wait_for(&m, site);
  m.arrived = 0;
  combine(m.slots);
  release(&m, machine.current / 32 * 32, 32);
}

namespace {

/// The first copies of a lane arrive.
void perform(Lane& lane, size_t end) {
  for (size_t i = 0; i < end; ++i) {
    Copy& copy = lane.copies[i];
    if (copy.done) continue;
    copy.done = true;
    std::memset(copy.to, 0, 16);
    std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  }
}

// Running ---------------------------------------------------------------------------------------------------------------

/// Who waits where, for a block that cannot go on.
std::string stuck() {
  std::string text = "no thread can go on:";
  for (size_t i = 0, shown = 0; i < machine.lanes.size() && shown < 4; ++i) {
    const Lane& lane = machine.lanes[i];
    const bool same = i > 0 && !lane.done && !machine.lanes[i - 1].done && machine.lanes[i - 1].site.line == lane.site.line;
    if (same) continue;
    text += " thread " + std::to_string(i) + (lane.done ? " has ended" : " waits at " + place(lane.site)) + ";";
    ++shown;
  }
  return text;
}

std::vector<int> order_of(size_t count) {
  std::vector<int> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = static_cast<int>(i);
  if (current_settings.seed == 1) std::reverse(order.begin(), order.end());
  return order;
}

void shuffle_order(std::vector<int>& order) {
  if (current_settings.seed < 2) return;
  for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[next_random() % (i + 1)]);
}

/// Runs the lanes of a warp that may run, once each; true when one did. Counts those that ended.
bool run_warp(int warp, std::vector<int>& order, size_t& left) {
  bool moved = false;
  shuffle_order(order);
  for (const int i : order) {
    Lane& lane = machine.lanes[static_cast<size_t>(32 * warp + i)];
    if (lane.done || lane.waits_for != nullptr) continue;
    machine.current = 32 * warp + i;
    change(machine.scheduler, lane.context);
    if (!machine.fault.empty()) return false;
    moved = true;
    if (lane.done) --left;
  }
  return moved;
}

/// Warps take turns, or with a random order one runs as far as it can before the others: the two ways to be unfair that
/// find a missing barrier on either side of a read.
void schedule() {
  std::vector<int> warps = order_of(machine.meetings.size()), lanes = order_of(32);
  const bool greedy = current_settings.seed >= 2;
  for (size_t left = machine.lanes.size(); left > 0;) {
    bool moved = false;
    shuffle_order(warps);
    for (const int warp : warps) {
      bool again = run_warp(warp, lanes, left);
      moved |= again;
      while (greedy && again) again = run_warp(warp, lanes, left);
      if (!machine.fault.empty()) return;
    }
    if (greedy && !machine.flights.empty() && next_random() % 2 == 0) moved |= land_one();
    if (!moved && !land_one()) {
      machine.fault = stuck();
      return;
    }
  }
}

bool guards_hold(const char* memory, size_t bytes) {
  const auto whole = [](const char* p) {
    return std::all_of(p, p + guard_bytes, [](char c) { return static_cast<unsigned char>(c) == guard; });
  };
  return whole(memory) && whole(memory + guard_bytes + bytes);
}

void run_block(Place at, char* memory) {
  const size_t bytes = machine.launch->shared_bytes;
  machine.block = at;
  machine.shared = memory + guard_bytes;
  std::memset(memory, guard, bytes + 2 * guard_bytes);
  std::memset(machine.shared, poison, bytes);
  for (Meeting& m : machine.meetings) m.arrived = 0;
  for (Barrier& b : machine.barriers) b = {};
  reset_hopper();
  race::begin_block();
  for (size_t i = 0; i < machine.lanes.size(); ++i) prepare(machine.lanes[i], machine.stacks + i * stack_bytes);
  schedule();
  race::end_block();
  if (machine.fault.empty() && !guards_hold(memory, bytes)) machine.fault = "wrote beyond shared memory";
  if (machine.fault.empty()) machine.fault = unfinished_work();
}

/// Why a launch is refused before anything runs.
std::string refusal(const Launch& launch) {
  const auto found = bodies().find(launch.kernel);
  if (found == bodies().end()) return "is not known";
  if (found->second.threads != launch.threads || launch.threads % 32 != 0 || launch.threads > most_threads)
    return "cannot have " + std::to_string(launch.threads) + " threads";
  if (launch.shared_bytes > most_shared_bytes)
    return "cannot have " + std::to_string(launch.shared_bytes) + " bytes of shared memory";
  if (launch.grid[1] > 65535 || launch.grid[2] > 65535) return "has too many blocks in y or z";
  return {};
}

}  // namespace

Settings& settings() { return current_settings; }
const std::vector<Site>& sites() { return known_sites; }

bool exists(const char* kernel) { return bodies().count(kernel) == 1; }

std::string run(const Launch& launch) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  machine.fault = refusal(launch);
  if (!machine.fault.empty()) return std::string(launch.kernel) + " " + machine.fault;
  const size_t threads = launch.threads;
  machine.launch = &launch;
  machine.body = bodies()[launch.kernel].run;
  machine.random = current_settings.seed;
  machine.lanes.resize(threads);
  machine.meetings.resize(threads / 32);
  machine.products.resize(threads / 32);
  if (machine.stacks == nullptr)
    machine.stacks = static_cast<char*>(mmap(nullptr, most_threads * stack_bytes, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  race::begin_launch();
  const size_t bytes = (launch.shared_bytes + 2 * guard_bytes + 1023) / 1024 * 1024;
  char* memory = static_cast<char*>(std::aligned_alloc(1024, bytes));
  const auto [columns, lines, layers] = launch.grid;
  for (uint32_t z = 0; z < layers && machine.fault.empty(); ++z)
    for (uint32_t y = 0; y < lines && machine.fault.empty(); ++y)
      for (uint32_t x = 0; x < columns && machine.fault.empty(); ++x)
        run_block({static_cast<int32_t>(x), static_cast<int32_t>(y), static_cast<int32_t>(z)}, memory);
  std::free(memory);
  if (machine.fault.empty()) return {};
  const auto at = [](int32_t i) { return std::to_string(i); };
  return std::string(launch.kernel) + ", block " + at(machine.block.x) + " " + at(machine.block.y) + " " +
         at(machine.block.z) + ": " + machine.fault;
}

// What kernels call -----------------------------------------------------------------------------------------------------

uint32_t exchange(uint32_t word, int from, Site site) {
  struct Slot {
    uint32_t word;
    int from;
    uint32_t result;
  } slot = {word, from, 0};
  meet(
      [](void* const* slots) {
        for (int i = 0; i < 32; ++i) {
          Slot& s = *static_cast<Slot*>(slots[i]);
          s.result = static_cast<const Slot*>(slots[s.from & 31])->word;
        }
      },
      &slot, site);
  return slot.result;
}

uint32_t vote(bool b, Site site) {
  uint32_t slot = b;
  meet(
      [](void* const* slots) {
        uint32_t bits = 0;
        for (int i = 0; i < 32; ++i) bits |= *static_cast<uint32_t*>(slots[i]) << i;
        for (int i = 0; i < 32; ++i) *static_cast<uint32_t*>(slots[i]) = bits;
      },
      &slot, site);
  return slot;
}

void load_matrix4(uint32_t* r, const void* row, bool transposed, Site site) {
  struct Slot {
    uint32_t* r;
    const void* row;
    bool transposed;
  } slot = {r, row, transposed};
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) stop("ldmatrix of a row that is not 16-byte aligned at " + place(site));
  race::touch(row, 16, race::Kind::read, WS_CALLER);
  meet(
      [](void* const* slots) {
        const auto slot_of = [slots](int i) -> const Slot& { return *static_cast<const Slot*>(slots[i]); };
        const auto element = [&](int matrix, int row, int column) {
          return static_cast<const uint16_t*>(slot_of(8 * matrix + row).row)[column];
        };
        for (int lane = 0; lane < 32; ++lane)
          for (int m = 0; m < 4; ++m) {
            const int line = lane / 4, pair = lane % 4 * 2;
            const bool turn = slot_of(lane).transposed;
            const uint32_t low = turn ? element(m, pair, line) : element(m, line, pair);
            const uint32_t high = turn ? element(m, pair + 1, line) : element(m, line, pair + 1);
            slot_of(lane).r[m] = low | high << 16;
          }
      },
      &slot, site);
}

/// c[16][8] += a[16][16] b[16][8] in the fragment layout of m16n8k16; each element one sum, rounded once.
void multiply(float* c, const uint32_t* a, const uint32_t* b, Site site) {
  struct Slot {
    float* c;
    const uint32_t *a, *b;
  } slot = {c, a, b};
  meet(
      [](void* const* slots) {
        float left[16][16], right[16][8];
        const auto half = [](uint32_t pair, int which) { return as_float(which ? pair & 0xffff0000u : pair << 16); };
        for (int lane = 0; lane < 32; ++lane) {
          const Slot& s = *static_cast<const Slot*>(slots[lane]);
          const int line = lane / 4, k = lane % 4 * 2;
          for (int which = 0; which < 2; ++which) {
            for (int r = 0; r < 4; ++r) left[line + r % 2 * 8][k + r / 2 * 8 + which] = half(s.a[r], which);
            for (int r = 0; r < 2; ++r) right[k + r * 8 + which][line] = half(s.b[r], which);
          }
        }
        double sums[16][8];
        const auto each_sum = [&](auto visit) {
          for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i)
              visit(static_cast<const Slot*>(slots[lane])->c[i], sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
        };
        each_sum([](float c, double& sum) { sum = c; });
        for (int row = 0; row < 16; ++row)
          for (int k = 0; k < 16; ++k)
            for (int column = 0; column < 8; ++column)
              sums[row][column] += static_cast<double>(left[row][k]) * right[k][column];
        each_sum([](float& c, double sum) { c = static_cast<float>(sum); });
      },
      &slot, site);
}

void wait_for_copies(int left, Site site) {
  if (skips(site)) return;
  Lane& lane = own();
  const ptrdiff_t over = std::ssize(lane.groups) - left;
  if (over <= 0) return;
  const size_t end = lane.groups[static_cast<size_t>(over) - 1];
  perform(lane, end);
  for (size_t i = 0; i < end; ++i) race::land(lane.copies[i].to);
  lane.copies.erase(lane.copies.begin(), lane.copies.begin() + static_cast<ptrdiff_t>(end));
  lane.groups.erase(lane.groups.begin(), lane.groups.begin() + over);
  for (size_t& group : lane.groups) group -= end;
}

}  // namespace emulator

using namespace emulator;

Emulated::Emulated(const char* name, uint32_t threads, void (*body)(const void*)) { bodies()[name] = {threads, body}; }

int thread() { return machine.current; }
Place block() { return machine.block; }
Place blocks() {
  const auto& grid = machine.launch->grid;
  return {static_cast<int32_t>(grid[0]), static_cast<int32_t>(grid[1]), static_cast<int32_t>(grid[2])};
}
int block_threads() { return static_cast<int>(machine.launch->threads); }
char* shared() { return machine.shared; }

void barrier(Site site) { barrier(0, block_threads(), site); }

void barrier(int id, int threads, Site site) {
  if (skips(site)) return;
  Barrier& b = machine.barriers[id];
  if (b.arrived.empty()) b.expected = threads;
  if (b.expected != threads) stop("barrier " + std::to_string(id) + " for two numbers of threads at " + place(site));
  b.arrived.push_back(machine.current);
  if (static_cast<int>(b.arrived.size()) < threads) return wait_for(&b, site);
  if (threads == block_threads()) race::join_all();
  else race::join(b.arrived);
  b.arrived.clear();
  release(&b, 0, block_threads());
}

void warp_barrier(Site site) {
  const auto join = [](void* const*) {
    std::vector<int> lanes(32);
    for (int i = 0; i < 32; ++i) lanes[static_cast<size_t>(i)] = machine.current / 32 * 32 + i;
    race::join(lanes);
  };
  if (!skips(site)) meet(join, nullptr, site);
}

void copy_async(void* to, const void* from, int bytes) {
  const char* p = static_cast<const char*>(to);
  const bool aligned = (reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 == 0;
  if (!aligned || bytes < 0 || bytes > 16) stop("an asynchronous copy that is not of 16 aligned bytes");
  if (p < machine.shared || p + 16 > machine.shared + machine.launch->shared_bytes)
    stop("an asynchronous copy to outside of shared memory");
  race::touch(from, static_cast<size_t>(bytes), race::Kind::read, WS_CALLER);
  race::touch(to, 16, race::Kind::pending, WS_CALLER);
  own().copies.push_back({to, from, bytes, false});
}

void copy_commit() {
  Lane& lane = own();
  lane.groups.push_back(lane.copies.size());
  if (early()) perform(lane, lane.copies.size());  // all at once, sooner than anyone waits
}

namespace {

template <class T>
T add(T* p, T v, const void* pc) {
  race::touch(p, sizeof(T), race::Kind::atomic, pc);
  const T before = *p;
  *p += v;
  return before;
}

}  // namespace

int32_t atomic_add(int32_t* p, int32_t v) { return add(p, v, WS_CALLER); }
uint32_t atomic_add(uint32_t* p, uint32_t v) { return add(p, v, WS_CALLER); }
uint64_t atomic_add(uint64_t* p, uint64_t v) { return add(p, v, WS_CALLER); }
uint32_t atomic_max(uint32_t* p, uint32_t v) {
  race::touch(p, 4, race::Kind::atomic, WS_CALLER);
  const uint32_t before = *p;
  *p = std::max(before, v);
  return before;
}
int32_t exchange(int32_t* p, int32_t v) {
  race::touch(p, 4, race::Kind::atomic, WS_CALLER);
  return std::exchange(*p, v);
}
int32_t compare_and_swap(int32_t* p, int32_t expected, int32_t v) {
  race::touch(p, 4, race::Kind::atomic, WS_CALLER);
  const int32_t before = *p;
  if (before == expected) *p = v;
  return before;
}

}  // namespace ws::cuda
