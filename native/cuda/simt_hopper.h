// simt_ptx.h for sm_90a: mbarriers, tile loads, wgmma, registers by role. Included by simt_ptx.h only.
#pragma once

namespace ws::cuda {

WS_DEVICE void open_gate(Gate* gate, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(gate)), "r"(arrivals) : "memory");
}
WS_DEVICE void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
WS_DEVICE void show_gates() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  async_fence();
}
WS_DEVICE void arrive(Gate* gate) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(gate)) : "memory");
}
WS_DEVICE void expect(Gate* gate, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(gate)), "r"(bytes)
               : "memory");
}
WS_DEVICE void wait(Gate* gate, int parity) {
  uint32_t over = 0;
  while (over == 0)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(shared_address(gate)), "r"(parity)
        : "memory");
}
WS_DEVICE void load_tile(void* to, const TensorMap* map, int x, int y, Gate* gate) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(to)),
      "l"(map), "r"(shared_address(gate)), "r"(x), "r"(y)
      : "memory");
}

template <int n>
WS_DEVICE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
WS_DEVICE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

WS_DEVICE void group_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// With the sums that come next: nothing that writes them may move behind the fence.
template <int n>
WS_DEVICE void group_fence(float (&c)[n]) {
  WS_UNROLL
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(c[i])::"memory");
  group_fence();
}
/// With fragments of a as well.
template <int n, int steps>
WS_DEVICE void group_fence(float (&c)[n], uint32_t (&a)[steps][4]) {
  WS_UNROLL
  for (int i = 0; i < 4 * steps; ++i) asm volatile("" : "+r"(a[i / 4][i % 4]));
  group_fence(c);
}
WS_DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until all but the newest `left` groups of this warp are done. Sums pass through, so that no use of them moves up.
template <int left>
WS_DEVICE void group_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}
template <int left, int n>
WS_DEVICE void group_wait(float (&c)[n]) {
  group_wait<left>();
  WS_UNROLL
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

template <int left, int n>
WS_DEVICE void group_wait(float (&c)[n], float (&d)[n]) {
  group_wait<left>(c);
  WS_UNROLL
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Operands of wgmma: names %t0 .. %t9, sums c[i] .. c[i + 7].
#define WS_TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define WS_NAMES_30 WS_TEN() WS_TEN(1) WS_TEN(2)
#define WS_NAMES_60 WS_NAMES_30 WS_TEN(3) WS_TEN(4) WS_TEN(5)
#define WS_NAMES_120 WS_NAMES_60 WS_TEN(6) WS_TEN(7) WS_TEN(8) WS_TEN(9) WS_TEN(10) WS_TEN(11)
#define WS_NAMES_32 WS_NAMES_30 "%30,%31"
#define WS_NAMES_64 WS_NAMES_60 "%60,%61,%62,%63"
#define WS_NAMES_128 WS_NAMES_120 "%120,%121,%122,%123,%124,%125,%126,%127"
#define WS_SUMS_8(i) \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define WS_SUMS_32(i) WS_SUMS_8(i), WS_SUMS_8(i + 8), WS_SUMS_8(i + 16), WS_SUMS_8(i + 24)
#define WS_SUMS_64(i) WS_SUMS_32(i), WS_SUMS_32(i + 32)
#define WS_SUMS_128(i) WS_SUMS_64(i), WS_SUMS_64(i + 64)

// wgmma of `columns` columns, with `sums` = columns / 2 sums a thread; p0 .. p6 are the numbers of the operands behind them.
#define WS_WGMMA(columns, sums, p0, p1, p2, p3, p4, p5, p6)                                                             \
  template <bool a_across, bool b_across>                                                                              \
  WS_DEVICE void wgmma_##columns(float (&c)[sums], uint64_t a, uint64_t b, bool add) {                                  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns            \
                 "k16.f32.bf16.bf16 {" WS_NAMES_##sums "}, %" #p0 ", %" #p1 ", p, 1, 1, %" #p3 ", %" #p4 ";\n}"          \
                 : WS_SUMS_##sums(0)                                                                                   \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(a_across)),                         \
                   "n"(static_cast<int>(b_across)));                                                                   \
  }                                                                                                                    \
  template <bool b_across>                                                                                             \
  WS_DEVICE void wgmma_##columns(float (&c)[sums], const uint32_t (&a)[4], uint64_t b, bool add) {                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns            \
                 "k16.f32.bf16.bf16 {" WS_NAMES_##sums "}, {%" #p0 ",%" #p1 ",%" #p2 ",%" #p3 "}, %" #p4                 \
                 ", p, 1, 1, %" #p6 ";\n}"                                                                             \
                 : WS_SUMS_##sums(0)                                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),                      \
                   "n"(static_cast<int>(b_across)));                                                                   \
  }
WS_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
WS_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
WS_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)

/// c[64][columns] of the warpgroup += a[64][16] b[columns][16], or without `add` becomes it. Sum i of a thread is row
/// 16 (warp % 4) + lane / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (lane % 4) + i % 2.
template <int columns, bool a_across, bool b_across>
WS_DEVICE void group_multiply(float (&c)[columns / 2], uint64_t a, uint64_t b, bool add) {
  if constexpr (columns == 64) wgmma_64<a_across, b_across>(c, a, b, add);
  else if constexpr (columns == 128) wgmma_128<a_across, b_across>(c, a, b, add);
  else wgmma_256<a_across, b_across>(c, a, b, add);
}
/// The same with a's 16 rows of each warp in its registers, as in multiply16x8x16.
template <int columns, bool b_across>
WS_DEVICE void group_multiply(float (&c)[columns / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
  if constexpr (columns == 64) wgmma_64<b_across>(c, a, b, add);
  else if constexpr (columns == 128) wgmma_128<b_across>(c, a, b, add);
  else wgmma_256<b_across>(c, a, b, add);
}

}  // namespace ws::cuda
