// The emulator inside: the block that runs, its threads as fibers, and how they wait. emulator.cpp has the scheduler and
// what every GPU does, hopper.cpp what sm_90a adds. Not for anyone else.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "emulator.h"
#include "race.h"

namespace ws::cuda::emulator {

constexpr size_t most_threads = 1024;
constexpr size_t stack_bytes = (128 << 10) + 17 * 64;  // no power of two, or all stacks would share a few lines of the cache

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool done;
};

#if defined(__x86_64__)
using Context = void*;
#else
using Context = ucontext_t;
#endif

struct Lane {
  Context context;
  bool done;
  const void* waits_for;  // a Meeting, Barrier or Gate; null: may run
  Site site;              // of the wait
  std::vector<Copy> copies;    // under way, the oldest first
  std::vector<size_t> groups;  // where each committed group ends
};

/// The place in a kernel that has called.
#define WS_CALLER __builtin_extract_return_addr(__builtin_return_address(0))

using Combine = void (*)(void* const* slots);

/// A warp that comes together.
struct Meeting {
  int arrived;
  Site site;
  Combine combine;
  void* slots[32];
};

struct Barrier {
  int expected;
  std::vector<int> arrived;
};

/// Sums that wgmma works on: the threads' own are NaN until their wait.
struct Held {
  float* sums[32];
  std::vector<float> values;  // [lane][sum]
};

/// A wgmma between issue and wait, a warp's 16 of the 64 rows.
struct Product {
  std::shared_ptr<Held> c;
  int columns;
  uint64_t a, b;
  std::vector<uint32_t> fragments;  // of A, [lane][4]; empty: A is the panel a
  bool a_across, b_across, add, done;
  uint32_t tick;
};

/// What a warp has under way.
struct Products {
  std::vector<std::shared_ptr<Product>> open;
  std::vector<std::vector<std::shared_ptr<Product>>> groups;  // the oldest first
  bool fenced;
  uint64_t issued;  // a hash of all, equal for the warps of a group
};

struct GateState {
  int expected, missing;  // arrivals of a phase
  int64_t bytes;          // still to come
  int parity;
  int actor;              // of the race check
  uint32_t tick;          // of this phase
  race::Deed opened;
  race::Clocks given, released;  // in this phase; in those that are over
};

/// A tile under way.
struct Flight {
  TensorMap map;
  char* to;
  int x, y;
  Gate* gate;
};

/// The block that runs.
struct Machine {
  const Launch* launch;
  void (*body)(const void*);
  Place block;
  std::vector<Lane> lanes;
  char* stacks;  // one behind the other
  std::vector<Meeting> meetings;
  std::vector<Products> products;
  Barrier barriers[16];
  std::map<const Gate*, GateState> gates;
  std::vector<Flight> flights;
  char* shared;
  Context scheduler;
  int current;
  uint64_t random;
  std::string fault;
};

extern Machine machine;

uint64_t next_random();
/// With a random order copies and products may be early.
inline bool early() { return settings().seed >= 2 && next_random() % 4 == 0; }

/// Ends the launch with a report; the fibers are never resumed.
[[noreturn]] void stop(std::string text);
std::string place(Site site);

/// Notes that the site was reached; true when it shall do nothing.
bool skips(Site site);
void wait_for(const void* what, Site site);
/// Those of `threads` from `first` on that wait for it may run.
void release(const void* what, int first, int threads);
/// All lanes of the warp bring a slot; the last to come does the work for all.
void meet(Combine combine, void* slot, Site site);

/// Forgets what the block before had (hopper.cpp).
void reset_hopper();
/// One of the tiles under way arrives; false when there is none.
bool land_one();
/// What is wrong with a block that has ended.
std::string unfinished_work();

}  // namespace ws::cuda::emulator
