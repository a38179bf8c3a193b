// THE intrinsic layer: everything that a kernel may do besides C++ on its own registers and memory. Under nvcc every
// function is a line of PTX (simt_ptx.h); elsewhere it is a function of the emulator (simt_host.h), which runs the same
// sources with one fiber per thread. A kernel file has kernels first, then, inside `#if WS_HOST`, its ops' entries, which
// are plain C++ of the addon.
//
//   WS_KERNEL(name, threads, Arguments, a) { ... }   a kernel of 1-D blocks with one struct of arguments
//   thread() lane() warp() block() blocks()          indices; threads of a block and a warp, blocks of the grid
//   shared()                                         dynamic shared memory, 1024-byte aligned; NaN at first
//   barrier() barrier(id, threads) warp_barrier()    id 1 .. 15 for parts of a block
//   shuffle(v, from) shuffle_xor(v, mask) ballot(b)  over the 32 lanes, all of which must come
//   load_matrix4(r, row) load_matrix4_transposed     ldmatrix: four 8 x 8 matrices of two-byte elements
//   multiply16x8x16(c, a, b)                         mma.sync m16n8k16, bf16 x bf16 + f32
//   copy_async(to, from, bytes) copy_commit() copy_wait<n>()   cp.async of 16 bytes, the rest zeros
//   put_aside(p, q) taken(p)                         16 bytes of this thread's own, in memory and not in registers
//   atomic_add atomic_max exchange compare_and_swap  on integers alone: no float atomics here
//
// In kernels under `#if WS_HOPPER`, which are compiled for sm_90a alone:
//   Gate open_gate(g, n) show_gates()                mbarrier in shared memory, of n arrivals a phase; then a barrier()
//   arrive(g) expect(g, bytes) wait(g, parity)       expect arrives and awaits bytes; wait: until that phase is over
//   load_tile(to, map, x, y, g)                      TMA: the box at column x, line y of a TensorMap; its bytes reach g
//   Panel<across>::at(tile, step)                    16 elements of k of a tile, as an operand of wgmma
//   group_multiply<columns, ...>(c, a, b, add)       wgmma m64nNk16; a in shared memory or as fragments of each warp
//   group_fence(c, a) group_commit() group_wait<n>(c)   around them, with what is in registers; c may be touched again after
//                                                    a wait that names it
//   async_fence()                                    what threads wrote to shared memory, for TMA and wgmma to read
//   more_registers<n>() fewer_registers<n>()         setmaxnreg, by whole warpgroups
//
// Not everything a GPU forbids is found on the host: no timing, no registers, no memory model beyond these waits.
#pragma once
#include <cstdint>

#include "../core/op_names.h"
#include "../core/view.h"
#include "fault.h"
#include "tensor_map.h"

namespace ws::cuda {

/// 16 bytes, moved at once.
struct alignas(16) Quad {
  uint32_t x, y, z, w;
};
struct alignas(8) Duo {
  uint32_t x, y;
};

/// An mbarrier. Only the functions below may look inside.
struct Gate {
  uint64_t state;
};

constexpr int warp_size = 32;

}  // namespace ws::cuda

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WS_HOPPER 1
#else
#define WS_HOPPER 0
#endif

#ifdef __CUDACC__
#define WS_HOST 0
#include "simt_ptx.h"
#else
#include "simt_host.h"
#ifdef WS_EMULATED
#define WS_HOST 0
#else
#define WS_HOST 1
#endif
#endif

namespace ws::cuda {

WS_DEVICE int lane() { return thread() & 31; }
WS_DEVICE int warp() { return thread() >> 5; }

/// The operand of wgmma that begins at a tile of boxes: along k (lines are lines), or across it (lines are steps of k, and
/// boxes follow one another by 64 lines of the operand). Steps of 16 along k. No cluster: the addresses of its other blocks would
/// not fit the field, and masking them costs an instruction at every step.
template <bool across>
struct Panel {
  static WS_DEVICE uint64_t at(const void* tile, int step) {
    const uint64_t start = shared_address(tile) + step * (across ? 16 * 128 : 16 * 2);
    return start >> 4 | uint64_t{box_bytes >> 4} << 16 | uint64_t{(8 * 128) >> 4} << 32 | uint64_t{1} << 62;
  }
};

WS_DEVICE float value(float x) { return x; }
WS_DEVICE float value(bf16 x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }

/// Two bf16 from two floats, rounded to nearest even; `low` lies first in memory.
WS_DEVICE uint32_t pack_bf16(float low, float high) {
  return static_cast<uint32_t>(round_bf16(low).bits) | static_cast<uint32_t>(round_bf16(high).bits) << 16;
}
WS_DEVICE float low_bf16(uint32_t pair) { return as_float(pair << 16); }
WS_DEVICE float high_bf16(uint32_t pair) { return as_float(pair & 0xffff0000u); }

template <class T>
WS_DEVICE T rounded(float x);
template <>
WS_DEVICE float rounded<float>(float x) {
  return x;
}
template <>
WS_DEVICE bf16 rounded<bf16>(float x) {
  return round_bf16(x);
}

/// Sum over the 32 lanes, in every lane: a fixed tree.
WS_DEVICE float warp_sum(float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += shuffle_xor(v, mask);
  return v;
}
WS_DEVICE float warp_max(float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v = larger(v, shuffle_xor(v, mask));
  return v;
}

}  // namespace ws::cuda

namespace ws::cuda {

WS_DEVICE void report(Fault* fault, const Fault& found) {
  if (compare_and_swap(&fault->kind, 0, found.kind) != 0) return;
  fault->op = found.op;
  fault->operand = found.operand;
  fault->at = found.at;
  fault->value = found.value;
  fault->limit = found.limit;
}

/// Reports an index outside of [0, limit): element `at` of an operand. True when all is well.
WS_DEVICE bool check_index(Fault* fault, Op op, int operand, int64_t at, int32_t value, int64_t limit) {
  if (value >= 0 && value < limit) return true;
  report(fault, {static_cast<int32_t>(FaultKind::index), static_cast<int32_t>(op), operand, static_cast<int32_t>(at),
                 value, static_cast<int32_t>(limit)});
  return false;
}

}  // namespace ws::cuda
