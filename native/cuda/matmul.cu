// Matrix products on the GPU: those of a linear layer, y = x w^T, dx = dy w, dw += dy^T x, with x [N,C], w [O,C], y [N,O],
// and the same for the gradients of the head. Each element is one sum over C, over O, or over tokens starting from the value
// in dw. In f32 these are the CPU's bits; in bf16 tokens are summed 16 at a time (Device::token_alignment), so micro-batches
// add up to the bits of one batch where they are cut at multiples of 16 tokens. bf16 has two loops: gemm.h, and
// gemm_hopper.h on sm_90a.
#include "gemm_start.h"

namespace ws::cuda {
namespace {

struct Stored {
  void* c;
  int64_t stride;
};

/// C in memory, of type Out.
template <class Out, Into into>
struct Store {
  using Tail = Stored;

  template <class S>
  static WS_DEVICE void begin(S& sums, const Stored& to, const Corner& at) {
    if constexpr (into == Into::continued)
      each_pair_in(static_cast<Out*>(to.c), to.stride, at, sums,
                   [](const Out* p, int count, bool paired, float& x, float& y) { load_pair(p, count, paired, x, y); });
  }

  template <class, class S>
  static WS_DEVICE void end(S& sums, const Stored& to, const Corner& at) {
    if constexpr (into == Into::added)
      each_pair_in(static_cast<Out*>(to.c), to.stride, at, sums,
                   [](const Out* p, int count, bool paired, float& x, float& y) {
                     float old_x, old_y;
                     load_pair(p, count, paired, old_x, old_y);
                     x += old_x, y += old_y;
                   });
    store_sums(static_cast<Out*>(to.c), to.stride, at, sums);
  }
};

#define WS_PRODUCT(name, T, Out, a_across, b_across, into)           \
  WS_KERNEL(name, gemm_threads, TileArguments<Stored>, a) {          \
    tile_product<T, a_across, b_across, Store<Out, into>>(a);        \
  }
WS_PRODUCT(product_f32, float, float, false, false, Into::fresh)
WS_PRODUCT(product_bf16, ws::bf16, ws::bf16, false, false, Into::fresh)
WS_PRODUCT(product_dx_f32, float, float, false, true, Into::fresh)
WS_PRODUCT(product_dx_bf16, ws::bf16, ws::bf16, false, true, Into::fresh)
WS_PRODUCT(product_dx_added_f32, float, float, false, true, Into::added)
WS_PRODUCT(product_dx_added_bf16, ws::bf16, float, false, true, Into::added)
WS_PRODUCT(product_dw_f32, float, float, true, true, Into::continued)
WS_PRODUCT(product_dw_bf16, ws::bf16, float, true, true, Into::continued)

#if WS_HOPPER
#define WS_HOPPER_PRODUCT(name, Out, a_across, b_across, into)                    \
  WS_KERNEL(name##_128, hopper_threads, HopperArguments<Stored>, a) {             \
    hopper_product<128, a_across, b_across, Store<Out, into>>(a);                 \
  }                                                                               \
  WS_KERNEL(name##_256, hopper_threads, HopperArguments<Stored>, a) {             \
    hopper_product<256, a_across, b_across, Store<Out, into>>(a);                 \
  }
WS_HOPPER_PRODUCT(hopper, ws::bf16, false, false, Into::fresh)
WS_HOPPER_PRODUCT(hopper_dx, ws::bf16, false, true, Into::fresh)
WS_HOPPER_PRODUCT(hopper_dx_added, float, false, true, Into::added)
WS_HOPPER_PRODUCT(hopper_dw, float, true, true, Into::continued)
#endif

}  // namespace

#if WS_HOST

namespace {

/// The kernels of one kind of product.
struct Variant {
  DType type, c_type;
  bool a_across, b_across;
  Into into;
  ProductKernels kernels;
};

constexpr DType f32 = DType::f32, half = DType::bf16;
const Variant variants[] = {
    {f32, f32, false, false, Into::fresh, {&product_f32, nullptr, nullptr}},
    {half, half, false, false, Into::fresh, {&product_bf16, &hopper_128, &hopper_256}},
    {f32, f32, false, true, Into::fresh, {&product_dx_f32, nullptr, nullptr}},
    {half, half, false, true, Into::fresh, {&product_dx_bf16, &hopper_dx_128, &hopper_dx_256}},
    {f32, f32, false, true, Into::added, {&product_dx_added_f32, nullptr, nullptr}},
    {half, f32, false, true, Into::added, {&product_dx_added_bf16, &hopper_dx_added_128, &hopper_dx_added_256}},
    {f32, f32, true, true, Into::continued, {&product_dw_f32, nullptr, nullptr}},
    {half, f32, true, true, Into::continued, {&product_dw_bf16, &hopper_dw_128, &hopper_dw_256}},
};

const Variant* find(const Product& p) {
  for (const Variant& v : variants)
    if (v.type == p.type && v.c_type == p.c_type && v.a_across == p.a_across && v.b_across == p.b_across &&
        v.into == p.into)
      return &v;
  return nullptr;
}

Status map_operand(const Operand& o, bool across, Launcher& on, TensorMap& map) {
  TiledMatrix m = {o.data, across ? o.depth : o.lines, across ? o.lines : o.depth, o.stride};
  if (reinterpret_cast<uintptr_t>(o.data) % 16 != 0) {
    const int64_t size = (m.lines - 1) * o.stride + m.elements;
    void* to = on.scratch(size * 2);
    WS_CHECK(to != nullptr, oom, "no memory for an aligned copy of %lld elements", static_cast<long long>(size));
    Call c;
    c.t[0] = {to, DType::bf16, 1, {size}};
    c.t[1] = {const_cast<void*>(o.data), DType::bf16, 1, {size}};
    WS_TRY(copy(c, on));
    m.data = to;
  }
  return on.map_tiles(m, map);
}

}  // namespace

Status map_operands(const Factors& f, Launcher& on, HopperOperands& to) {
  WS_TRY(map_operand(f.a, f.a_across, on, to.a));
  WS_TRY(map_operand(f.b, f.b_across, on, to.b));
  to.rows = f.a.lines, to.columns = f.b.lines, to.depth = f.a.depth;
  return {};
}

Status multiply(const Product& p, Launcher& on) {
  const Variant* v = find(p);
  WS_CHECK(v != nullptr, internal, "there is no kernel for this kind of product");
  return start_product(v->kernels, {p.type, p.a_across, p.b_across, p.a, p.b}, Stored{p.c, p.c_stride}, on);
}

static Status check_linear(const View& x, const View& w, const View& y) {
  WS_CHECK(x.rank == 2 && w.rank == 2 && y.rank == 2, shape, "expected matrices, got shapes %s, %s, %s",
           shape_text(x).text, shape_text(w).text, shape_text(y).text);
  WS_SAME(w.dims[1], x.dims[1], "columns of w");
  WS_SAME(y.dims[0], x.dims[0], "rows of y");
  WS_SAME(y.dims[1], w.dims[0], "columns of y");
  return {};
}

Status linear(const Call& c, Launcher& on) {
  const View &x = c.t[0], &w = c.t[1], &y = c.t[2];
  WS_TRY(check_linear(x, w, y));
  const int64_t n = x.dims[0], width = x.dims[1], out = w.dims[0];
  return multiply({x.dtype, x.dtype, false, false, Into::fresh, {x.data, n, width, width}, {w.data, out, width, width},
                   y.data, out}, on);
}

Status linear_dx(const Call& c, Launcher& on) {
  const View &dy = c.t[0], &w = c.t[1], &dx = c.t[2];
  WS_TRY(check_linear(dx, w, dy));
  const int64_t n = dx.dims[0], width = dx.dims[1], out = w.dims[0];
  return multiply({dx.dtype, dx.dtype, false, true, Into::fresh, {dy.data, n, out, out}, {w.data, width, out, width},
                   dx.data, width}, on);
}

Status linear_dw(const Call& c, Launcher& on) {
  const View &dw = c.t[0], &dy = c.t[1], &x = c.t[2];
  WS_TRY(check_linear(x, dw, dy));
  const int64_t n = x.dims[0], width = x.dims[1], out = dw.dims[0];
  return multiply({x.dtype, f32, true, true, Into::continued, {dy.data, out, n, out}, {x.data, width, n, width}, dw.data,
                   width}, on);
}

#endif

}  // namespace ws::cuda
