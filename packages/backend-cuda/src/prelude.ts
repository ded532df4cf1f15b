/**
 * What stands in front of every CUDA source: type names after @dsv3/tensor's dtypes, conversions that
 * agree bit for bit with its dtype.ts, reductions. No headers are included.
 *
 * Storage types: f32 i8 i32 u32 u8 bool, and `bf16 f16 f8e4m3 f8e5m2` as structs of raw bits.
 * `to_f32(x)` widens any float; `from_f32<T>(x)` narrows with the conversions of dtype.ts.
 */

const TYPES = `
typedef float f32; typedef signed char i8; typedef int i32; typedef unsigned int u32;
typedef unsigned char u8; typedef unsigned short u16; typedef long long i64;
typedef unsigned long long u64;
struct bf16 { u16 bits; };
struct f16 { u16 bits; };
struct f8e4m3 { u8 bits; };
struct f8e5m2 { u8 bits; };
struct __align__(64) TensorMap { u64 opaque[16]; };
#define DEVICE static __device__ __forceinline__
#define INF __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
`;

// Every kernel begins with this (compiler.ts puts it there). From Hopper on a kernel's blocks are set up
// while the kernels before it still run, and wait here until their results are in memory; then the next
// kernel may do the same ("Programmatic Dependent Launch" in NVIDIA's CUDA C++ Programming Guide).
const ORDER = `
#if __CUDA_ARCH__ >= 900
DEVICE void after_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
// Memory that may be read soon, written by kernels before this one or not: the cache is the whole chip's.
DEVICE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" :: "l"(p)); }
#else
DEVICE void after_previous() {}
DEVICE void prefetch(const void*) {}
#endif
`;

// NVIDIA's conversions round to nearest even. NaN becomes one canonical pattern, as dtype.ts writes it.
// cvt.rn.bf16 and cvt.rn.f16 give 0x7fff for NaN, so NaN is handled apart; cvt.satfinite to e4m3 and
// e5m2 gives 0x7f. All keep no sign for NaN, as dtype.ts.
const CONVERSIONS = `
DEVICE f32 to_f32(f32 x) { return x; }
DEVICE f32 to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
DEVICE f32 to_f32(f16 x) { f32 r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.bits)); return r; }
DEVICE u32 f8x2_to_f16x2(u16 pair, f8e4m3) { u32 r; asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(pair)); return r; }
DEVICE u32 f8x2_to_f16x2(u16 pair, f8e5m2) { u32 r; asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(r) : "h"(pair)); return r; }
DEVICE f32 to_f32(f8e4m3 x) { f16 h; h.bits = (u16)f8x2_to_f16x2(x.bits, x); return to_f32(h); }
DEVICE f32 to_f32(f8e5m2 x) { f16 h; h.bits = (u16)((u32)x.bits << 8); return to_f32(h); }
DEVICE u32 to_e4m3x2(f32 low, f32 high) { u16 r; asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low)); return r; }

template <class T> struct Narrow;
template <class T> DEVICE T from_f32(f32 x) { return Narrow<T>::from(x); }
template <> struct Narrow<f32> { DEVICE f32 from(f32 x) { return x; } };
template <> struct Narrow<bf16> { DEVICE bf16 from(f32 x) {
  bf16 r; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x)); if (x != x) r.bits = 0x7fc0; return r; } };
template <> struct Narrow<f16> { DEVICE f16 from(f32 x) {
  f16 r; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(x)); if (x != x) r.bits = 0x7e00; return r; } };
template <> struct Narrow<f8e4m3> { DEVICE f8e4m3 from(f32 x) {
  u16 p; asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(p) : "f"(0.0f), "f"(x)); f8e4m3 r; r.bits = (u8)p; return r; } };
template <> struct Narrow<f8e5m2> { DEVICE f8e5m2 from(f32 x) {
  u16 p; asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(p) : "f"(0.0f), "f"(x)); f8e5m2 r; r.bits = (u8)p; return r; } };
`;

// Butterfly reductions: every lane gets the same value, added in the same order on every run.
const REDUCTIONS = `
#define FULL 0xffffffffu
DEVICE f32 warp_sum(f32 x) { for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(FULL, x, d); return x; }
DEVICE f32 max_nan(f32 a, f32 b) { f32 r; asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
DEVICE f32 min_nan(f32 a, f32 b) { f32 r; asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }
DEVICE f32 warp_max(f32 x) { for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, d)); return x; }
DEVICE i32 warp_sum(i32 x) { for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(FULL, x, d); return x; }
`;

// Arrays in registers, moved 16 bytes at a time. The address is aligned to the whole array or to 16.
const VECTORS = `
#define UNROLL _Pragma("unroll")
template <int B> struct Word; template <> struct Word<1> { typedef u8 type; };
template <> struct Word<2> { typedef u16 type; }; template <> struct Word<4> { typedef u32 type; };
template <> struct Word<8> { typedef uint2 type; }; template <> struct Word<16> { typedef uint4 type; };
template <class T, int N> DEVICE void load_vec(T (&to)[N], const T* from) {
  constexpr int bytes = sizeof(T) * N, word = bytes < 16 ? bytes : 16; typedef typename Word<word>::type W;
  UNROLL for (int i = 0; i < bytes / word; i++) ((W*)to)[i] = ((const W*)from)[i]; }
template <class T, int N> DEVICE void store_vec(T* to, const T (&from)[N]) {
  constexpr int bytes = sizeof(T) * N, word = bytes < 16 ? bytes : 16; typedef typename Word<word>::type W;
  UNROLL for (int i = 0; i < bytes / word; i++) ((W*)to)[i] = ((const W*)from)[i]; }
`;

export const PRELUDE: string = TYPES + ORDER + CONVERSIONS + REDUCTIONS + VECTORS;
