// Chooses between the loops of gemm.h and gemm_hopper.h for a product and starts it; the choice depends on the type, on
// depths and strides alone. Included by kernel files only.
#pragma once
#include "gemm.h"
#include "gemm_hopper.h"

#if WS_HOST

namespace ws::cuda {

/// The kernels of an epilogue: on any GPU, and on sm_90a with tiles 128 and 256 wide; null where there are none.
struct ProductKernels {
  const HostKernel *any, *narrow, *wide;
};

/// A(m, k) and B(n, k), of one type.
struct Factors {
  DType type;
  bool a_across, b_across;
  Operand a, b;
};

/// What sm_90a needs to know of the operands. One that begins where no tile can is copied first: bits may not depend on
/// addresses. (matmul.cu)
Status map_operands(const Factors& f, Launcher& on, HopperOperands& to);

/// Wide tiles where there are enough of them to keep the GPU busy; an element's sum is the same in both.
template <class Tail>
static inline Status start_product(const ProductKernels& kernels, const Factors& f, const Tail& tail, Launcher& on) {
  if (f.a.lines == 0 || f.b.lines == 0) return {};
  WS_CHECK(f.b.lines <= 65535 * tile, shape, "a product of %lld columns: more than %lld",
           static_cast<long long>(f.b.lines), static_cast<long long>(65535 * tile));
  if (!on.hopper() || kernels.wide == nullptr || f.a.depth == 0 || f.a.stride % 8 != 0 || f.b.stride % 8 != 0) {
    const Extent grid = {blocks_for(f.a.lines, tile), blocks_for(f.b.lines, tile), 1};
    return start(on, *kernels.any, grid, f.type == DType::f32 ? gemm_shared_bytes<float> : gemm_shared_bytes<bf16>,
                 TileArguments<Tail>{f.a, f.b, tail});
  }
  HopperArguments<Tail> a = {{}, tail};
  WS_TRY(map_operands(f, on, a.g));
  const uint32_t rows = blocks_for(f.a.lines, hopper_rows), wide = blocks_for(f.b.lines, 256);
  if (static_cast<int64_t>(rows) * wide >= on.gpu().multiprocessors)
    return start(on, *kernels.wide, {rows, wide, 1}, HopperTile<256>::shared_bytes, a);
  return start(on, *kernels.narrow, {rows, blocks_for(f.b.lines, 128), 1}, HopperTile<128>::shared_bytes, a);
}

}  // namespace ws::cuda

#endif
