// THE race check: two accesses to the same bytes, one of them a write, that no wait orders (FastTrack, Flanagan and Freund
// 2009). Barriers, gates and waits for copies order memory; shuffles and votes do not, as on a GPU. Order is kept in ticks
// of one counter: an access has its thread's tick, which moves on whenever the thread has told others of what it did, and
// each thread knows of every other up to which tick it is ordered behind it. A barrier of the whole block is one number,
// `floor`: everything before that tick is known to all.
//
// Memory is watched in words of four bytes, with a mask of the bytes: the last write and three reads, one of them from
// another warp. So a race may be missed, but none is reported that is not there. Global memory is watched between the
// blocks of a launch too: nothing orders them.
//
// Kernels call __tsan_* for their accesses, an interface of compilers (gcc and clang, -fsanitize=thread).
#include "race.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "machine.h"

namespace ws::cuda::emulator::race {
namespace {

/// An access: actor (11 bits), kind (2), mask (4), half of the offset in the library's code (22), tick (25).
using Epoch = uint64_t;
constexpr int kind_shift = 11, mask_shift = 13, pc_shift = 17, tick_shift = 39;
constexpr Epoch mask_bits = Epoch{15} << mask_shift, pc_bits = ((Epoch{1} << 22) - 1) << pc_shift;
constexpr uint32_t most_ticks = 1 << 24;  // before a launch
constexpr size_t most_pages = 8192, page_words = 1024, cached_pages = 256;

int actor_of(Epoch e) { return static_cast<int>(e & 2047); }
Kind kind_of(Epoch e) { return static_cast<Kind>(e >> kind_shift & 3); }
uint32_t tick_of(Epoch e) { return static_cast<uint32_t>(e >> tick_shift); }
Epoch at_tick(uint32_t tick) { return Epoch{tick} << tick_shift; }

struct Word {
  Epoch write, reads[3];
};

struct Page {
  Word words[page_words];
};

struct State {
  uint32_t tick = 1, floor = 0;
  Epoch launch, block;  // ticks at which they began
  size_t threads, width;
  Clocks known;  // [thread][threads, gates, products]
  Clocks fences;
  Clocks common;  // what all threads of a warp know as their wgmma of `common_tick` begins
  uint32_t common_tick;
  const uint32_t* row;  // of `known`, of who touches memory
  std::vector<Word> shared;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  struct {
    uintptr_t number;
    Page* page;
  } cache[cached_pages];
  bool running = false;  // a block, whose kernels are watched
  bool helpers = false;  // tiles or wgmma, of which barriers tell too
};

State state;
uintptr_t library;

uint32_t* row_of(int thread) { return state.known.data() + static_cast<size_t>(thread) * state.width; }
uint32_t* own_row() { return row_of(machine.current); }
size_t column_of(int actor) {
  return actor < first_gate ? static_cast<size_t>(actor) : state.threads + static_cast<size_t>(actor - first_gate);
}
uint32_t& own_tick(int thread) { return row_of(thread)[thread]; }

// Reports ---------------------------------------------------------------------------------------------------------------

/// file:line of a place in the code, and of the kernel file's line that it was inlined into; needs debug lines and
/// addr2line, else it is the offset.
std::string source(Epoch e) {
  char text[512];
  const auto offset = static_cast<unsigned long long>((e & pc_bits) >> pc_shift) * 2 - 1;
  Dl_info info;
  dladdr(reinterpret_cast<void*>(library + offset), &info);
  std::snprintf(text, sizeof text, "addr2line -i -s -e '%s' 0x%llx 2>/dev/null", info.dli_fname, offset);
  std::FILE* pipe = popen(text, "r");
  std::string first, in_kernel;
  while (pipe != nullptr && std::fgets(text, sizeof text, pipe) != nullptr) {
    std::string line = text;
    line.resize(line.find_first_of(" \n"));
    if (line.find('?') != std::string::npos || line.find("simt_host.h") != std::string::npos) continue;
    if (first.empty()) first = line;
    else if (in_kernel.empty() && line.find(".cu:") != std::string::npos) in_kernel = " < " + line;
  }
  if (pipe != nullptr) pclose(pipe);
  std::snprintf(text, sizeof text, "+0x%llx", offset);
  if (first.empty()) return text;
  return first.find(".cu:") == std::string::npos ? first + in_kernel : first;
}

std::string sentence(Epoch e) {
  const int actor = actor_of(e);
  const char* const verbs[] = {"read", "written", "changed (atomic)", "being copied to"};
  std::string text = verbs[static_cast<size_t>(kind_of(e))];
  if (actor >= first_products) text += " by wgmma of warp " + std::to_string(actor - first_products);
  else if (actor >= first_gate) text += " by a tile";
  else text += " by thread " + std::to_string(actor);
  return text + (e < state.block ? " of another block at " : " at ") + source(e);
}

[[noreturn]] void fail(const char* what, uintptr_t word, Epoch before, Epoch now) {
  state.running = false;
  const uintptr_t at = word * 4 - reinterpret_cast<uintptr_t>(machine.shared);
  const bool in_shared = at < machine.launch->shared_bytes;
  stop(std::string(what) + (in_shared ? " in shared memory at byte " + std::to_string(at) : " in global memory") + ": " +
       sentence(before) + ", then " + sentence(now));
}

// Memory ----------------------------------------------------------------------------------------------------------------

/// Is an access known to who touches memory now? `old`: all before is.
bool before(Epoch e, Epoch old) {
  if (e < old) return true;
  if (e < state.block || kind_of(e) == Kind::pending) return false;
  const int actor = actor_of(e);
  if (actor < first_gate && tick_of(e) < state.floor) return true;
  return tick_of(e) <= state.row[column_of(actor)];
}

constexpr const char* race = "race";

void read(Word& w, uintptr_t word, Epoch e, Epoch old) {
  for (const Epoch r : w.reads)
    if (((r ^ e) & ~pc_bits) == 0) return;
  if ((w.write & e & mask_bits) != 0 && !before(w.write, old)) fail(race, word, w.write, e);
  for (Epoch& r : w.reads)
    if (before(r, old)) {
      r = e;
      return;
    }
  const auto warp = [](Epoch r) { return actor_of(r) / 32; };
  const int first = warp(w.reads[0]);
  if (warp(e) != first && warp(w.reads[1]) == first && warp(w.reads[2]) == first) w.reads[2] = e;
}

void write(Word& w, uintptr_t word, Epoch e, Epoch old) {
  const bool atomic = kind_of(e) == Kind::atomic && kind_of(w.write) == Kind::atomic;
  if ((w.write & e & mask_bits) != 0 && !atomic && !before(w.write, old)) fail(race, word, w.write, e);
  for (Epoch& r : w.reads) {
    if ((r & e & mask_bits) == 0) continue;
    if (!before(r, old)) fail(race, word, r, e);
    r = 0;
  }
  const bool more_of_it = ((w.write ^ e) & ~(pc_bits | mask_bits)) == 0;
  w.write = more_of_it ? e | (w.write & mask_bits) : e;
}

/// Generic writes reach tiles and wgmma through async_fence() alone.
void check_fence(const Word& w, uintptr_t word, Epoch e) {
  const int actor = actor_of(w.write);
  if (w.write < state.block || actor >= first_gate || (w.write & e & mask_bits) == 0) return;
  if (tick_of(w.write) >= state.fences[static_cast<size_t>(actor)]) fail("no async_fence()", word, w.write, e);
}

Page& page_of(uintptr_t number) {
  auto& cached = state.cache[number % cached_pages];
  if (cached.number == number) return *cached.page;
  auto& page = state.pages[number];
  if (page == nullptr) page = std::make_unique<Page>();
  cached = {number, page.get()};
  return *page;
}

void note(Word& w, uintptr_t word, Epoch e, Epoch old) {
  if (kind_of(e) == Kind::read) read(w, word, e, old);
  else write(w, word, e, old);
}

/// `e`: an access without its mask.
void access(uintptr_t at, size_t bytes, Epoch e) {
  const uintptr_t shared = reinterpret_cast<uintptr_t>(machine.shared);
  const bool in_shared = at - shared < machine.launch->shared_bytes, fenced = in_shared && actor_of(e) >= first_gate;
  const Epoch old = in_shared ? state.block : state.launch;
  const uintptr_t end = at + bytes;
  Word* words = nullptr;  // from word number `base` on
  uintptr_t base = 0;
  for (uintptr_t word = at / 4; word * 4 < end; ++word) {
    if (words == nullptr || (!in_shared && word - base >= page_words)) {
      base = in_shared ? shared / 4 : word / page_words * page_words;
      words = in_shared ? state.shared.data() : page_of(word / page_words).words;
    }
    const unsigned low = word * 4 < at ? static_cast<unsigned>(at - word * 4) : 0;
    const unsigned high = end - word * 4 < 4 ? static_cast<unsigned>(end - word * 4) : 4;
    const Epoch now = e | Epoch{(1u << high) - (1u << low)} << mask_shift;
    if (fenced) check_fence(words[word - base], word, now);
    note(words[word - base], word, now, old);
  }
}

Epoch epoch(int actor, uint32_t tick, Kind kind, const void* pc) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(pc) - library;
  return at_tick(tick) | ((offset / 2) << pc_shift & pc_bits) | static_cast<Epoch>(kind) << kind_shift |
         static_cast<Epoch>(actor);
}

/// Registers of a thread and arguments of the kernel: nobody else's.
bool is_private(uintptr_t at) {
  return at - reinterpret_cast<uintptr_t>(machine.stacks) < most_threads * stack_bytes ||
         at - reinterpret_cast<uintptr_t>(machine.launch->arguments) < 4096;
}

void reset() {
  state.tick = 1;
  state.common_tick = 0;
  for (Clocks* c : {&state.known, &state.fences}) std::fill(c->begin(), c->end(), 0);
  std::fill(state.shared.begin(), state.shared.end(), Word{});
}

void drop_pages() {
  state.pages.clear();
  std::fill(std::begin(state.cache), std::end(state.cache), State{}.cache[0]);
}

}  // namespace

// Order -----------------------------------------------------------------------------------------------------------------

uint32_t next_tick() { return ++state.tick; }

void begin_launch() {
  if (!on) return;
  static const int anchor = 0;
  Dl_info info;
  if (library == 0 && dladdr(&anchor, &info) != 0) library = reinterpret_cast<uintptr_t>(info.dli_fbase);
  if (state.tick > most_ticks) reset(), drop_pages();
  if (state.pages.size() > most_pages) drop_pages();
  state.threads = machine.lanes.size();
  state.width = state.threads + (actors - first_gate);
  if (state.known.size() < state.threads * state.width) state.known.resize(state.threads * state.width);
  if (state.shared.size() < machine.launch->shared_bytes / 4 + 1) state.shared.resize(machine.launch->shared_bytes / 4 + 1);
  state.fences.resize(most_threads);
  state.launch = at_tick(next_tick());
}

void begin_block() {
  if (!on) return;
  state.floor = next_tick();
  state.block = at_tick(state.floor);
  state.helpers = false;
  for (int i = 0; i < static_cast<int>(state.threads); ++i) own_tick(i) = state.floor;
  state.running = true;
}

void end_block() { state.running = false; }

void touch(const void* p, size_t bytes, Kind kind, const void* pc) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  if (!state.running || is_private(at)) return;
  state.row = own_row();
  const Epoch e = epoch(machine.current, state.row[machine.current], kind, pc);
  const uintptr_t offset = at - reinterpret_cast<uintptr_t>(machine.shared);
  if (bytes == 4 && at % 4 == 0 && offset < machine.launch->shared_bytes)
    note(state.shared[offset / 4], at / 4, e | mask_bits, state.block);  // nearly all, hence by the shortest way
  else access(at, bytes, e);
}

namespace {

void find_common(int first) {
  state.common.assign(row_of(first), row_of(first) + state.width);
  for (int lane = 1; lane < 32; ++lane)
    for (size_t i = 0; i < state.width; ++i) state.common[i] = std::min(state.common[i], row_of(first + lane)[i]);
}

}  // namespace

void touch_by(int actor, uint32_t tick, const void* p, size_t bytes, Kind kind, const void* pc) {
  if (!state.running) return;
  state.helpers = true;
  state.row = own_row();
  if (actor >= first_products) {
    if (tick != state.common_tick) find_common((actor - first_products) * 32);
    state.common_tick = tick;
    state.row = state.common.data();
  }
  access(reinterpret_cast<uintptr_t>(p), bytes, epoch(actor, tick, kind, pc));
}

void land(const void* p) {
  if (!state.running) return;
  const size_t word = static_cast<size_t>(static_cast<const char*>(p) - machine.shared) / 4;
  for (size_t i = word; i < word + 4; ++i) {
    Epoch& e = state.shared[i].write;
    if (kind_of(e) != Kind::pending || actor_of(e) != machine.current) continue;
    const Epoch code_and_mask = e & (mask_bits | pc_bits);
    e = (epoch(machine.current, own_tick(machine.current), Kind::write, nullptr) & ~pc_bits) | code_and_mask;
  }
}

void fence() {
  if (!on) return;
  own_tick(machine.current) = state.fences[static_cast<size_t>(machine.current)] = next_tick();
}

void join(const std::vector<int>& threads) {
  if (!on) return;
  Clocks all(row_of(threads[0]), row_of(threads[0]) + state.width);
  for (const int t : threads)
    for (size_t i = 0; i < state.width; ++i) all[i] = std::max(all[i], row_of(t)[i]);
  const uint32_t tick = next_tick();
  for (const int t : threads) {
    std::copy(all.begin(), all.end(), row_of(t));
    own_tick(t) = tick;
  }
}

void join_all() {
  if (!on) return;
  state.floor = next_tick();
  const int count = static_cast<int>(state.threads);
  for (int t = 0; t < count; ++t) own_tick(t) = state.floor;
  for (size_t i = state.threads; state.helpers && i < state.width; ++i) {
    uint32_t last = 0;
    for (int t = 0; t < count; ++t) last = std::max(last, row_of(t)[i]);
    for (int t = 0; t < count; ++t) row_of(t)[i] = last;
  }
}

void give(Clocks& to) {
  if (!on) return;
  to.resize(state.width);
  for (size_t i = 0; i < state.width; ++i) to[i] = std::max(to[i], own_row()[i]);
  own_tick(machine.current) = next_tick();
}

void learn(const Clocks& from) {
  for (size_t i = 0; i < from.size(); ++i) own_row()[i] = std::max(own_row()[i], from[i]);
}

void learn_of(int thread, int actor, uint32_t tick) {
  if (on) row_of(thread)[column_of(actor)] = tick;
}
void learn_of(Clocks& clocks, int actor, uint32_t tick) {
  if (!on) return;
  clocks.resize(state.width);
  clocks[column_of(actor)] = tick;
}

Deed deed() {
  if (!on) return {};
  return {machine.current, own_tick(machine.current)};
}
bool knows(const Deed& d) { return !on || d.tick < state.floor || d.tick <= own_row()[d.thread]; }
bool fenced(const Deed& d) { return !on || d.tick < state.fences[static_cast<size_t>(d.thread)]; }

}  // namespace ws::cuda::emulator::race

// What kernels call -----------------------------------------------------------------------------------------------------

using namespace ws::cuda::emulator;

#define WS_CALLED(type) extern "C" __attribute__((visibility("hidden"))) type
#define WS_WATCHED(name, kind, bytes) \
  WS_CALLED(void) __tsan_##name(void* p) { race::touch(p, bytes, kind, WS_CALLER); }
#define WS_WATCHED_SIZES(name, kind)                                                                                 \
  WS_WATCHED(name##1, kind, 1) WS_WATCHED(name##2, kind, 2) WS_WATCHED(name##4, kind, 4) WS_WATCHED(name##8, kind, 8) \
  WS_WATCHED(name##16, kind, 16) WS_WATCHED(unaligned_##name##2, kind, 2) WS_WATCHED(unaligned_##name##4, kind, 4)    \
  WS_WATCHED(unaligned_##name##8, kind, 8) WS_WATCHED(unaligned_##name##16, kind, 16)                                 \
  WS_CALLED(void) __tsan_##name##_range(void* p, size_t bytes) { race::touch(p, bytes, kind, WS_CALLER); }
#define WS_WATCHED_COPY(name)                                                       \
  WS_CALLED(void*) __tsan_##name(void* to, const void* from, size_t bytes) {        \
    race::touch(from, bytes, race::Kind::read, WS_CALLER);                          \
    race::touch(to, bytes, race::Kind::write, WS_CALLER);                           \
    return std::name(to, from, bytes);                                              \
  }

WS_WATCHED_SIZES(read, race::Kind::read)
WS_WATCHED_SIZES(write, race::Kind::write)
WS_WATCHED_COPY(memcpy)
WS_WATCHED_COPY(memmove)
WS_CALLED(void*) __tsan_memset(void* to, int byte, size_t bytes) {
  race::touch(to, bytes, race::Kind::write, WS_CALLER);
  return std::memset(to, byte, bytes);
}
WS_CALLED(void) __tsan_init() {}
WS_CALLED(void) __tsan_func_entry(void*) {}
WS_CALLED(void) __tsan_func_exit() {}
