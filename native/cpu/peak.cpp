// The densest arithmetic of an instruction set, on registers alone: the ceiling that benchmarks divide by. Nothing in
// training calls it. There are as many chains as registers hold beside the operands, more than any processor has in
// flight. Operands come through volatile memory and sums end there, so that all of it is computed.
#include "../core/op.h"
#include "simd.h"
#if WS_LEVEL >= 5
#include "amx.h"
#endif

namespace ws::WS_NS {
namespace {

constexpr int chains = WS_LEVEL >= 3 ? 28 : 12;

/// `turns` turns of every chain: the FLOPs that were done.
template <class Step>
double turn_chains(int64_t turns, double flops_of_step, Step step) {
  V sums[chains];
  WS_EACH(chains) sums[i] = set1(static_cast<float>(i));
  for (int64_t turn = 0; turn < turns; ++turn) WS_EACH(chains) sums[i] = step(sums[i]);
  volatile float kept = 0;
  WS_EACH(chains) kept = kept + hsum(sums[i]);
  return static_cast<double>(turns) * chains * flops_of_step;
}

double peak_f32(int64_t turns) {
  const volatile float numbers[2] = {0.999f, 0.001f};
  const V a = set1(numbers[0]), b = set1(numbers[1]);
  return turn_chains(turns, 2.0 * W, [&](V sum) { return fma(sum, a, b); });
}

#if WS_LEVEL >= 5

/// Four sums from two tiles of each operand, as in gemm_amx.h, but without a load.
double peak_bf16(int64_t turns) {
  uint32_t numbers[16 * 16];
  for (uint32_t i = 0; i < 16 * 16; ++i) numbers[i] = 0x3c003b00u + (i * 0x00350047u & 0x007f007fu);
  float sums[16 * 16];
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) shapes.rows[t] = 16, shapes.row_bytes[t] = 64;
  WS_TILE_SHAPES(shapes);
  WS_TILE_FENCE();
  WS_TILE_LOAD(4, numbers, 64);
  WS_TILE_LOAD(5, numbers, 64);
  WS_TILE_LOAD(6, numbers, 64);
  WS_TILE_LOAD(7, numbers, 64);
  WS_TILE_ZERO(0);
  WS_TILE_ZERO(1);
  WS_TILE_ZERO(2);
  WS_TILE_ZERO(3);
  for (int64_t turn = 0; turn < turns; ++turn) {
    WS_TILE_MULTIPLY(0, 4, 6);
    WS_TILE_MULTIPLY(1, 4, 7);
    WS_TILE_MULTIPLY(2, 5, 6);
    WS_TILE_MULTIPLY(3, 5, 7);
  }
  WS_TILE_STORE(0, sums, 64);
  WS_TILE_FENCE();
  WS_TILE_RELEASE();
  return static_cast<double>(turns) * 4 * 2 * 16 * 16 * 32;
}

#elif WS_LEVEL == 4

double peak_bf16(int64_t turns) {
  const volatile float numbers[2] = {0.5f, 0.001f};
  const V a = set1(numbers[0]), b = set1(numbers[1]);
  return turn_chains(turns, 4.0 * W, [&](V sum) -> V {
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
  });
}

#else

/// bf16 is widened and multiplied as f32.
double peak_bf16(int64_t turns) { return peak_f32(turns); }

#endif

}  // namespace

double peak(DType type, int64_t turns) { return type == DType::bf16 ? peak_bf16(turns) : peak_f32(turns); }

}  // namespace ws::WS_NS
