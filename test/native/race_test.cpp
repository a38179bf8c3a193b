// The race check of the emulated GPU: small kernels that are right with one line, and race without it. Compiled as the
// kernels of the emulated driver are (CMakeLists.txt), with the emulator beside it.
#include "../../native/cuda/emulator/emulator.h"
#include "check.h"

namespace ws::cuda {
namespace {

struct Arguments {
  uint32_t* memory;
  bool right;  // with the line that orders
};

uint32_t* words() { return reinterpret_cast<uint32_t*>(shared()); }
uint16_t* halves() { return reinterpret_cast<uint16_t*>(shared()); }

WS_KERNEL(read_behind_write, 64, Arguments, a) {
  words()[thread()] = 1;
  if (a.right) barrier();
  a.memory[thread()] = words()[63 - thread()];
}

WS_KERNEL(write_behind_read, 64, Arguments, a) {
  words()[thread()] = 1;
  barrier();
  const uint32_t x = words()[63 - thread()];
  if (a.right) barrier();
  words()[thread()] = x;
}

WS_KERNEL(two_writes, 64, Arguments, a) { words()[a.right ? thread() : 0] = 1; }

WS_KERNEL(shuffles_do_not_order, 32, Arguments, a) {
  words()[thread()] = 1;
  shuffle(1, 0);
  if (a.right) warp_barrier();
  a.memory[thread()] = words()[31 - thread()];
}

WS_KERNEL(barrier_of_a_part, 128, Arguments, a) {
  words()[thread()] = 1;
  barrier(1 + thread() / 64, 64);
  a.memory[thread()] = words()[thread() ^ (a.right ? 63 : 127)];
}

/// Words belong to no thread, bytes do.
WS_KERNEL(halves_of_a_word, 64, Arguments, a) { halves()[a.right ? thread() : thread() / 2] = 1; }

WS_KERNEL(order_through_a_third, 96, Arguments, a) {
  Gate* gates = reinterpret_cast<Gate*>(shared());
  if (thread() == 0) {
    open_gate(gates, 1), open_gate(gates + 1, 1);
    show_gates();
  }
  barrier();
  if (thread() == 0) words()[8] = 1, arrive(gates);
  if (thread() == 32) {
    if (a.right) wait(gates, 0);
    arrive(gates + 1);
  }
  if (thread() == 64) wait(gates + 1, 0), a.memory[0] = words()[8];
}

WS_KERNEL(gates_want_a_barrier, 64, Arguments, a) {
  Gate* gate = reinterpret_cast<Gate*>(shared());
  if (thread() == 0) open_gate(gate, 64);
  if (a.right) barrier();
  arrive(gate);
}

WS_KERNEL(own_copy, 32, Arguments, a) {
  copy_async(words() + 4 * thread(), a.memory);
  copy_commit();
  if (a.right) copy_wait<0>();
  a.memory[128 + thread()] = words()[4 * thread()];
  copy_wait<0>();
}

WS_KERNEL(copy_of_another, 64, Arguments, a) {
  copy_async(words() + 4 * thread(), a.memory);
  copy_commit();
  copy_wait<0>();
  if (a.right) barrier();
  a.memory[256 + thread()] = words()[4 * (thread() ^ 1)];
}

/// Written by threads, read by wgmma.
WS_KERNEL(threads_to_wgmma, 128, Arguments, a) {
  for (int i = thread(); i < 4096; i += 128) words()[i] = 0;
  if (a.right) async_fence();
  barrier();
  float c[32] = {};
  group_fence();
  group_multiply<64, false, false>(c, Panel<false>::at(shared(), 0), Panel<false>::at(shared() + box_bytes, 0), true);
  group_commit();
  group_wait<0>(c);
}

/// wgmma reads until its wait.
WS_KERNEL(write_under_wgmma, 128, Arguments, a) {
  for (int i = thread(); i < 4096; i += 128) words()[i] = 0;
  async_fence();
  barrier();
  float c[32] = {};
  group_fence();
  group_multiply<64, false, false>(c, Panel<false>::at(shared(), 0), Panel<false>::at(shared() + box_bytes, 0), true);
  group_commit();
  if (a.right) group_wait<0>(c);
  barrier();
  words()[thread()] = 1;
  group_wait<0>(c);
}

WS_KERNEL(blocks_apart, 32, Arguments, a) { a.memory[32 * (a.right ? block().x : 0) + thread()] = 1; }

WS_KERNEL(block_reads_of_another, 32, Arguments, a) {
  if (thread() == 0) a.memory[block().x] = 1;
  barrier();
  a.memory[64 + 32 * block().x + thread()] = a.memory[a.right ? block().x : 0];
}

WS_KERNEL(counts, 32, Arguments, a) {
  if (a.right) atomic_add(a.memory, 1u);
  else a.memory[0] += 1;
}

struct Case {
  const char* kernel;
  uint32_t blocks, threads;
  const char* said;
};

const Case cases[] = {
    {"read_behind_write", 1, 64, "race in shared memory at byte"},
    {"write_behind_read", 1, 64, "race in shared memory at byte"},
    {"two_writes", 1, 64, "race in shared memory at byte 0: written by thread"},
    {"shuffles_do_not_order", 1, 32, "then read by thread"},
    {"barrier_of_a_part", 1, 128, "race in shared memory"},
    {"halves_of_a_word", 1, 64, "race in shared memory at byte"},
    {"order_through_a_third", 1, 96, "race in shared memory at byte 32"},
    {"gates_want_a_barrier", 1, 64, "open"},
    {"own_copy", 1, 32, "being copied to by thread"},
    {"copy_of_another", 1, 64, "race in shared memory"},
    {"threads_to_wgmma", 1, 128, "no async_fence() in shared memory"},
    {"write_under_wgmma", 1, 128, "read by wgmma of warp"},
    {"blocks_apart", 2, 32, "of another block at race_test.cpp:"},
    {"block_reads_of_another", 2, 32, "race in global memory: written by thread 0 of another block at race_test.cpp:"},
    {"counts", 1, 32, "race in global memory"},
};

void run_case(const Case& c, uint64_t seed) {
  alignas(64) static uint32_t memory[1024];
  emulator::settings().seed = seed;
  for (const bool right : {true, false}) {
    const Arguments a = {memory, right};
    const std::string report = emulator::run({c.kernel, {c.blocks, 1, 1}, c.threads, 32768, &a});
    if (right) CHECK_SAYING(report.empty(), report);
    else CHECK_SAYING(report.find(c.said) != std::string::npos, std::string(c.kernel) + " said: " + report);
  }
}

}  // namespace
}  // namespace ws::cuda

int main() {
  for (const auto& c : ws::cuda::cases)
    for (const uint64_t seed : {0, 1, 7}) ws::cuda::run_case(c, seed);
  return check::report();
}
