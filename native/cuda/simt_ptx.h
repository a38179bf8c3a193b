// simt.h under nvcc: one line of PTX or one built-in function each. Included by simt.h only.
#pragma once

#define WS_DEVICE __device__ __forceinline__
#define WS_PRAGMA(text) _Pragma(#text)
#define WS_UNROLL WS_PRAGMA(unroll)
#define WS_UNROLL_BY(n) WS_PRAGMA(unroll n)
/// Names are C names, which the host looks up. Arguments stay where the driver put them.
#define WS_KERNEL(name, threads, Arguments, a) \
  extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Arguments a)
/// With registers for `resident` blocks of a multiprocessor, where ptxas by itself would take fewer, and spill.
#define WS_KERNEL_RESIDENT(name, threads, resident, Arguments, a) \
  extern "C" __global__ void __launch_bounds__(threads, resident) name(const __grid_constant__ Arguments a)

namespace ws::cuda {

struct Place {
  int32_t x, y, z;
};

WS_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
WS_DEVICE Place block() {
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
}
WS_DEVICE Place blocks() {
  return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
}
WS_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }

WS_DEVICE char* shared() {
  extern __shared__ __align__(1024) char memory[];
  return memory;
}

WS_DEVICE void barrier() { __syncthreads(); }
WS_DEVICE void barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
WS_DEVICE void warp_barrier() { __syncwarp(); }

template <class T>
WS_DEVICE T shuffle(T v, int from) {
  return __shfl_sync(0xffffffffu, v, from);
}
template <class T>
WS_DEVICE T shuffle_xor(T v, int mask) {
  return __shfl_xor_sync(0xffffffffu, v, mask);
}
WS_DEVICE uint32_t ballot(bool b) { return __ballot_sync(0xffffffffu, b); }

WS_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
WS_DEVICE uint32_t as_bits(float x) { return __float_as_uint(x); }
/// x, and what is made of it is not kept in registers from one round of a loop to the next.
WS_DEVICE uint32_t computed_anew(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}
/// To and from local memory, of which the compiler then makes no registers.
WS_DEVICE void put_aside(Quad* p, const Quad& q) {
  asm volatile("st.local.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_local(p)), "r"(q.x), "r"(q.y),
               "r"(q.z), "r"(q.w)
               : "memory");
}
WS_DEVICE Quad taken(const Quad* p) {
  Quad q;
  asm volatile("ld.local.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(q.x), "=r"(q.y), "=r"(q.z), "=r"(q.w)
               : "l"(__cvta_generic_to_local(p))
               : "memory");
  return q;
}
WS_DEVICE bf16 round_bf16(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
}
WS_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
WS_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
WS_DEVICE float smaller(float a, float b) { return fminf(a, b); }
WS_DEVICE float root(float x) { return __fsqrt_rn(x); }
WS_DEVICE double root(double x) { return __dsqrt_rn(x); }
WS_DEVICE float exponential(float x) { return expf(x); }
WS_DEVICE float logarithm(float x) { return logf(x); }
WS_DEVICE float logarithm_1p(float x) { return log1pf(x); }
WS_DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
/// 2^x within 2 ulp; for the inside of softmax.
WS_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

WS_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

WS_DEVICE void load_matrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
WS_DEVICE void load_matrix4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
WS_DEVICE void multiply16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// 16 bytes of shared memory from `bytes` (0 to 16) of global memory and zeros. Both 16-byte aligned.
WS_DEVICE void copy_async(void* to, const void* from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
WS_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until all but the newest `left` groups of this thread have arrived. A barrier makes them visible to others.
template <int left>
WS_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

WS_DEVICE int32_t atomic_add(int32_t* p, int32_t v) { return atomicAdd(p, v); }
WS_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
WS_DEVICE uint64_t atomic_add(uint64_t* p, uint64_t v) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(v));
}
WS_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t v) { return atomicMax(p, v); }
WS_DEVICE int32_t exchange(int32_t* p, int32_t v) { return atomicExch(p, v); }
WS_DEVICE int32_t compare_and_swap(int32_t* p, int32_t expected, int32_t v) { return atomicCAS(p, expected, v); }

}  // namespace ws::cuda

#if WS_HOPPER
#include "simt_hopper.h"
#endif
