/**
 * A C++ header in place of the prelude, under which generated kernels run on the CPU: blocks one after
 * another, the threads of a block as fibers that take turns at every barrier or warp exchange. Slow, but
 * the whole conformance suite runs on a machine without a GPU, and a thread that misses a barrier is
 * found as a deadlock.
 */
export const EMULATOR_HEADER = `
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>
#undef NAN
#undef INFINITY
typedef float f32; typedef signed char i8; typedef int i32; typedef unsigned int u32;
typedef unsigned char u8; typedef unsigned short u16; typedef long long i64; typedef unsigned long long u64;
struct bf16 { u16 bits; }; struct f16 { u16 bits; }; struct f8e4m3 { u8 bits; }; struct f8e5m2 { u8 bits; };
struct uint2 { u32 x, y; }; struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(64) TensorMap { u64 opaque[16]; };
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
#define __align__(n) alignas(n)
#define DEVICE static inline
#define after_previous()
#define prefetch(p)
#define UNROLL
#define FULL 0xffffffffu
#define INF __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned pick) {
  const unsigned char* bytes[2] = {(const unsigned char*)&a, (const unsigned char*)&b};
  unsigned out = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned at = pick >> (4 * i) & 7;
    out |= (unsigned)bytes[at / 4][at % 4] << (8 * i);
  }
  return out;
}
template <class T, class F> static inline T emu_bits(F x) { T r; memcpy(&r, &x, 4); return r; }
static inline f32 __int_as_float(i32 x) { return emu_bits<f32>(x); }
static inline f32 __uint_as_float(u32 x) { return emu_bits<f32>(x); }
static inline i32 __float_as_int(f32 x) { return emu_bits<i32>(x); }
static inline u32 __float_as_uint(f32 x) { return emu_bits<u32>(x); }
static inline i32 __float2int_rz(f32 x) { return x != x ? 0 : x >= 2147483648.0f ? 2147483647 : x <= -2147483648.0f ? (i32)0x80000000u : (i32)x; }
static inline u32 __float2uint_rz(f32 x) { return x != x || x <= 0 ? 0 : x >= 4294967296.0f ? 4294967295u : (u32)x; }
static inline f32 __int2float_rn(i32 x) { return (f32)x; }
static inline f32 __uint2float_rn(u32 x) { return (f32)x; }
static inline i32 __popc(u32 x) { return __builtin_popcount(x); }
static inline i32 __ffs(u32 x) { return __builtin_ffs((int)x); }
static inline i32 __clz(u32 x) { return x ? __builtin_clz(x) : 32; }
#define __expf expf
static inline f32 rsqrtf(f32 x) { return 1.0f / sqrtf(x); }
static inline i32 min(i32 a, i32 b) { return a < b ? a : b; } static inline i32 max(i32 a, i32 b) { return a > b ? a : b; }
static inline u32 min(u32 a, u32 b) { return a < b ? a : b; } static inline u32 max(u32 a, u32 b) { return a > b ? a : b; }
static inline u32 min(u32 a, i32 b) { return min(a, (u32)b); } static inline u32 max(u32 a, i32 b) { return max(a, (u32)b); }
static inline u32 min(i32 a, u32 b) { return min((u32)a, b); } static inline u32 max(i32 a, u32 b) { return max((u32)a, b); }
static inline i64 min(i64 a, i64 b) { return a < b ? a : b; } static inline i64 max(i64 a, i64 b) { return a > b ? a : b; }
static inline f32 min(f32 a, f32 b) { return fminf(a, b); } static inline f32 max(f32 a, f32 b) { return fmaxf(a, b); }
static inline f32 max_nan(f32 a, f32 b) { return a != a || b != b ? NAN : fmaxf(a, b); }
static inline f32 min_nan(f32 a, f32 b) { return a != a || b != b ? NAN : fminf(a, b); }
static inline u32 atomicAdd(u32* p, u32 x) { u32 old = *p; *p += x; return old; }
static inline i32 atomicAdd(i32* p, i32 x) { i32 old = *p; *p += x; return old; }

struct dim3_ { u32 x, y, z; };
struct Fiber { ucontext_t context; dim3_ tid; int state; u32 linear; std::vector<char> stack; };
enum { RUN, AT_WARP, AT_BLOCK, DONE };
static Fiber* emu_cur; static ucontext_t emu_main; static dim3_ blockIdx, blockDim, gridDim; static void* emu_args;
static u64 emu_lanes[32][32]; static char* emu_dynamic; static void (*emu_body)(void**);
#define threadIdx (emu_cur->tid)
static void emu_yield(int state) { Fiber* f = emu_cur; f->state = state; swapcontext(&f->context, &emu_main); }
static void __syncthreads() { emu_yield(AT_BLOCK); }
static void __syncwarp(u32 = FULL) { emu_yield(AT_WARP); }
static u64* emu_warp() { return emu_lanes[emu_cur->linear / 32]; }
template <class T> static T emu_exchange(T v, u32 from) {
  u64* w = emu_warp(); u64 raw = 0; memcpy(&raw, &v, sizeof v); w[emu_cur->linear % 32] = raw;
  __syncwarp(); raw = w[from % 32]; T r; memcpy(&r, &raw, sizeof r); __syncwarp(); return r; }
template <class T> static T __shfl_xor_sync(u32, T v, int d) { return emu_exchange(v, (emu_cur->linear % 32) ^ d); }
template <class T> static T __shfl_sync(u32, T v, int l) { return emu_exchange(v, l); }
template <class T> static T __shfl_up_sync(u32, T v, u32 d) { u32 l = emu_cur->linear % 32; return emu_exchange(v, l >= d ? l - d : l); }
template <class T> static T __shfl_down_sync(u32, T v, u32 d) { u32 l = emu_cur->linear % 32; return emu_exchange(v, l + d < 32 ? l + d : l); }
static u32 __ballot_sync(u32, bool p) { u64* w = emu_warp(); w[emu_cur->linear % 32] = p; __syncwarp();
  u32 m = 0; for (int i = 0; i < 32; i++) m |= (u32)(w[i] != 0) << i; __syncwarp(); return m; }
static u32 __match_any_sync(u32, u32 v) { u64* w = emu_warp(); w[emu_cur->linear % 32] = v; __syncwarp();
  u32 m = 0; for (int i = 0; i < 32; i++) m |= (u32)(w[i] == v) << i; __syncwarp(); return m; }
static int __any_sync(u32 m, bool p) { return __ballot_sync(m, p) != 0; }
static void emu_thread() { emu_body((void**)emu_args); emu_cur->state = DONE; }
static int emu_run(void (*body)(void**), const u32* shape, u32 shared, void** args) {
  static std::vector<Fiber> fibers;
  gridDim = {shape[0], shape[1], shape[2]}; blockDim = {shape[3], shape[4], shape[5]};
  const u32 n = blockDim.x * blockDim.y * blockDim.z; emu_body = body; emu_args = args;
  if (fibers.size() < n) fibers.resize(n);
  for (u32 t = 0; t < n; t++) if (fibers[t].stack.empty()) fibers[t].stack.resize(96 << 10);
  std::vector<char> dynamic(shared + 128, (char)0xcd); emu_dynamic = (char*)(((u64)dynamic.data() + 127) / 128 * 128);
  for (u32 z = 0; z < gridDim.z; z++) for (u32 y = 0; y < gridDim.y; y++) for (u32 x = 0; x < gridDim.x; x++) {
    blockIdx = {x, y, z};
    for (u32 t = 0; t < n; t++) {
      Fiber& f = fibers[t]; f.linear = t; f.state = RUN; f.tid = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
      getcontext(&f.context); f.context.uc_stack.ss_sp = f.stack.data(); f.context.uc_stack.ss_size = f.stack.size();
      f.context.uc_link = &emu_main; makecontext(&f.context, emu_thread, 0);
    }
    for (;;) {
      bool ran = false, all = true, blocked = true;
      for (u32 t = 0; t < n; t++) if (fibers[t].state == RUN) { emu_cur = &fibers[t]; swapcontext(&emu_main, &fibers[t].context); ran = true; }
      for (u32 w = 0; w < n; w += 32) {
        bool ready = true; for (u32 t = w; t < w + 32 && t < n; t++) ready &= fibers[t].state == AT_WARP || fibers[t].state == DONE;
        if (ready) for (u32 t = w; t < w + 32 && t < n; t++) if (fibers[t].state == AT_WARP) { fibers[t].state = RUN; ran = true; }
      }
      for (u32 t = 0; t < n; t++) { all &= fibers[t].state == DONE; blocked &= fibers[t].state == DONE || fibers[t].state == AT_BLOCK; }
      if (all) break;
      if (blocked) { for (u32 t = 0; t < n; t++) if (fibers[t].state == AT_BLOCK) fibers[t].state = RUN; ran = true; }
      if (!ran) return 1;
    }
  }
  return 0;
}

// Conversions, written from the formats' definitions: independent of the instructions they stand for.
static inline u32 emu_encode(f32 x, int bits, int mantissa, int bias, u32 most, u32 overflow, u32 nan) {
  const u32 u = __float_as_uint(x), magnitude = u & 0x7fffffffu; const int shift = 23 - mantissa;
  if (magnitude > 0x7f800000u) return nan;
  u32 code;
  if (magnitude >= (u32)(128 - bias) << 23) {
    code = ((magnitude + ((1u << (shift - 1)) - 1) + ((magnitude >> shift) & 1)) >> shift) - ((u32)(127 - bias) << mantissa);
    if (code > most || magnitude >= 0x7f800000u) code = overflow;
  } else code = (u32)nearbyint(fabs((double)x) * pow(2.0, bias - 1 + mantissa));
  return code | ((u >> 31) << (bits - 1));
}
static inline f32 emu_decode(u32 code, int bits, int mantissa, int bias, u32 most, bool inf) {
  const u32 magnitude = code & ((1u << (bits - 1)) - 1); const f32 sign = code >> (bits - 1) ? -1.0f : 1.0f;
  if (magnitude > most) return inf && magnitude == most + 1 ? sign * INF : NAN;
  const int exponent = magnitude >> mantissa; const f32 fraction = (f32)(magnitude & ((1u << mantissa) - 1)) / (1 << mantissa);
  return exponent == 0 ? sign * ldexpf(fraction, 1 - bias) : sign * ldexpf(1 + fraction, exponent - bias);
}
static inline f32 to_f32(f32 x) { return x; }
static inline f32 to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
static inline f32 to_f32(f16 x) { return emu_decode(x.bits, 16, 10, 15, 0x7bff, true); }
static inline f32 to_f32(f8e4m3 x) { return emu_decode(x.bits, 8, 3, 7, 0x7e, false); }
static inline f32 to_f32(f8e5m2 x) { return emu_decode(x.bits, 8, 2, 15, 0x7b, true); }
template <class T> static inline T from_f32(f32 x);
template <> inline f32 from_f32<f32>(f32 x) { return x; }
template <> inline bf16 from_f32<bf16>(f32 x) { return {(u16)emu_encode(x, 16, 7, 127, 0x7f7f, 0x7f80, 0x7fc0)}; }
template <> inline f16 from_f32<f16>(f32 x) { return {(u16)emu_encode(x, 16, 10, 15, 0x7bff, 0x7c00, 0x7e00)}; }
template <> inline f8e4m3 from_f32<f8e4m3>(f32 x) { return {(u8)emu_encode(x, 8, 3, 7, 0x7e, 0x7e, 0x7f)}; }
static inline u32 to_e4m3x2(f32 low, f32 high) { return from_f32<f8e4m3>(low).bits | (u32)from_f32<f8e4m3>(high).bits << 8; }
template <> inline f8e5m2 from_f32<f8e5m2>(f32 x) { return {(u8)emu_encode(x, 8, 2, 15, 0x7b, 0x7b, 0x7f)}; }
template <class T, int N> static inline void load_vec(T (&to)[N], const T* from) {
  if ((u64)from % std::min<u64>(16, sizeof to)) { fprintf(stderr, "unaligned vector load\\n"); abort(); } memcpy(to, from, sizeof to); }
template <class T, int N> static inline void store_vec(T* to, const T (&from)[N]) {
  if ((u64)to % std::min<u64>(16, sizeof from)) { fprintf(stderr, "unaligned vector store\\n"); abort(); } memcpy(to, from, sizeof from); }
static inline f32 warp_sum(f32 x) { for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(FULL, x, d); return x; }
static inline i32 warp_sum(i32 x) { for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(FULL, x, d); return x; }
static inline f32 warp_max(f32 x) { for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, d)); return x; }
`;
