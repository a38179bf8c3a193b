// The product of gemm.h on sm_90a, for bf16: a producer thread loads tiles (TMA) into a ring of stages, two warpgroups
// multiply them (wgmma), 64 rows each of 128 x `width` elements of C. A stage is 64 steps of k: boxes of 64 x 64, two of A,
// then those of B; two gates tell when it is full and when all eight warps have read it. Sums run over k 16 at a time, as
// with mma. Included by kernel files only.
#pragma once
#include "product.h"

#if WS_HOPPER

namespace ws::cuda {

constexpr int hopper_rows = 128, hopper_threads = 384, hopper_depth = 64;

template <int width>
struct HopperTile {
  static constexpr int boxes = (hopper_rows + width) / box_lines;
  static constexpr int stage_bytes = boxes * box_bytes, stages = width == 256 ? 4 : 6;
  static constexpr int shared_bytes = stages * stage_bytes + 2 * stages * static_cast<int>(sizeof(Gate));
};

struct HopperOperands {
  TensorMap a, b;
  int64_t rows, columns, depth;
};
template <class Tail>
struct HopperArguments {
  HopperOperands g;
  Tail tail;
};

/// Sums of a thread of a warpgroup, whose 64 rows these are: sum i is row 16 (warp % 4) + lane / 4 + 8 (i / 2 % 2), column
/// 8 (i / 4) + 2 (lane % 4) + i % 2.
template <int width>
struct GroupSums {
  static constexpr int rows = 2, strips = width / strip_columns, columns = width;
  float c[width / 2] = {};

  static WS_DEVICE int row(int i) { return warp() % 4 * 16 + lane() / 4 + i * 8; }
  static WS_DEVICE int column(int s, int k) { return quad_column(s, k); }
  WS_DEVICE float& at(int i, int s, int k) { return c[16 * s + k / 2 * 4 + i * 2 + k % 2]; }
};

/// Stages in turn; a stage's parity changes with every round.
template <int width>
struct Ring {
  int slot = 0, parity = 0;
  WS_DEVICE void next() {
    if (++slot < HopperTile<width>::stages) return;
    slot = 0, parity ^= 1;
  }
  WS_DEVICE char* stage() const { return shared() + slot * HopperTile<width>::stage_bytes; }
  WS_DEVICE Gate* full() const {
    return reinterpret_cast<Gate*>(shared() + HopperTile<width>::stages * HopperTile<width>::stage_bytes) + slot;
  }
  WS_DEVICE Gate* empty() const { return full() + HopperTile<width>::stages; }
};

template <bool across>
WS_DEVICE void load_box(char* to, const TensorMap& map, int64_t line, int64_t k, Gate* gate) {
  load_tile(to, &map, static_cast<int>(across ? line : k), static_cast<int>(across ? k : line), gate);
}

/// One thread's part: all boxes of the tile at (top, left).
template <int width, bool a_across, bool b_across>
WS_DEVICE void fetch_boxes(const HopperOperands& g, int64_t top, int64_t left) {
  Ring<width> ring;
  for (int64_t k = 0; k < g.depth; k += hopper_depth, ring.next()) {
    wait(ring.empty(), ring.parity ^ 1);
    expect(ring.full(), HopperTile<width>::stage_bytes);
    for (int i = 0; i < 2; ++i) load_box<a_across>(ring.stage() + i * box_bytes, g.a, top + i * 64, k, ring.full());
    for (int i = 0; i < width / 64; ++i)
      load_box<b_across>(ring.stage() + (2 + i) * box_bytes, g.b, left + i * 64, k, ring.full());
  }
}

/// A warpgroup's part: continues the sums of its 64 rows. One stage is multiplied while the next is awaited; the first
/// stands alone, since ptxas waits after every wgmma when it finds none before the loop.
template <int width, bool a_across, bool b_across>
WS_DEVICE void multiply_boxes(const HopperOperands& g, int group, float (&c)[width / 2]) {
  Ring<width> ring;
  const auto multiply_stage = [&] {
    wait(ring.full(), ring.parity);
    group_fence(c);
    WS_UNROLL
    for (int step = 0; step < hopper_depth / 16; ++step)
      group_multiply<width, a_across, b_across>(c, Panel<a_across>::at(ring.stage() + group * box_bytes, step),
                                                Panel<b_across>::at(ring.stage() + 2 * box_bytes, step), true);
    group_commit();
  };
  multiply_stage();
  for (int64_t k = hopper_depth; k < g.depth; k += hopper_depth) {
    Gate* const read = ring.empty();
    ring.next();
    multiply_stage();
    group_wait<1>();
    if (lane() == 0) arrive(read);
  }
  group_wait<0>(c);
}

/// A kernel: this loop with an epilogue.
template <int width, bool a_across, bool b_across, class Epilogue>
WS_DEVICE void hopper_product(const HopperArguments<typename Epilogue::Tail>& arguments) {
  const HopperOperands& g = arguments.g;
  Corner at = {static_cast<int64_t>(block().x) * hopper_rows, static_cast<int64_t>(block().y) * width, g.rows, g.columns};
  if (thread() == 0) {
    Ring<width> ring;
    for (int i = 0; i < HopperTile<width>::stages; ++i) open_gate(ring.full() + i, 1), open_gate(ring.empty() + i, 8);
    show_gates();
  }
  barrier();
  if (warp() < 4) {
    fewer_registers<40>();
    if (thread() == 0) fetch_boxes<width, a_across, b_across>(g, at.top, at.left);
    return;
  }
  more_registers<232>();
  const int group = warp() / 4 - 1;
  at.top += group * 64;
  GroupSums<width> sums;
  Epilogue::begin(sums, arguments.tail, at);
  multiply_boxes<width, a_across, b_across>(g, group, sums.c);
  Epilogue::template end<bf16>(sums, arguments.tail, at);
}

}  // namespace ws::cuda

#endif
