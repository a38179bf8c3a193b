// What the emulator tells the race check (race.cpp): who touches memory, and who learns of what others have done. Kernels
// tell it of their own accesses: they are compiled with -fsanitize=thread, whose calls race.cpp takes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ws::cuda::emulator::race {

/// Of this library: are its kernels watched?
#ifdef WS_RACES
constexpr bool on = true;
#else
constexpr bool on = false;
#endif

/// What others have done, per actor: a tick up to which all of it is known.
using Clocks = std::vector<uint32_t>;

/// Who touches memory: threads, then gates (tiles that they await), then warps (their wgmma).
constexpr int first_gate = 1024, first_products = first_gate + 64, actors = first_products + 32;

/// `pending`: a copy between issue and wait, during which nobody may touch its place.
enum class Kind : uint64_t { read, write, atomic, pending };

void begin_launch();
void begin_block();
void end_block();
uint32_t next_tick();

/// The thread that runs touches `bytes` from p on. `pc`: a place in the kernel's code.
void touch(const void* p, size_t bytes, Kind kind, const void* pc);
/// The same by a tile (of a gate) or by wgmma (of a warp) since `tick`: they are ordered behind what the thread knows, or
/// all threads of the warp, and known to those who wait for them.
void touch_by(int actor, uint32_t tick, const void* p, size_t bytes, Kind kind, const void* pc);
/// A copy of the thread that runs has arrived: from now on it is a write of its own.
void land(const void* p);
/// From now on the thread's writes so far may be read by tiles and wgmma.
void fence();

/// A barrier: all of these threads know what any of them does.
void join(const std::vector<int>& threads);
void join_all();
/// The running thread gives what it knows; learns what others gave.
void give(Clocks& to);
void learn(const Clocks& from);
/// A thread, or all who learn from `clocks`, learn that an actor's work up to a tick is done.
void learn_of(int thread, int actor, uint32_t tick);
void learn_of(Clocks& clocks, int actor, uint32_t tick);

/// Something done by one thread, for others to know.
struct Deed {
  int thread;
  uint32_t tick;
};
Deed deed();
bool knows(const Deed& deed);
bool fenced(const Deed& deed);

}  // namespace ws::cuda::emulator::race
