/**
 * Hopper's copies, barriers and matrix instructions for the emulator, in place of the functions of
 * kernels/hopper.ts that are assembly. Copies and products are done when they are asked for, so nothing
 * is learnt about waiting for them; where tiles lie, what descriptors point to and which threads take
 * part is as on the device.
 */

/** Leaves out the functions that are assembly: the header has them. */
export function withoutAssembly(source: string): string {
  const named = source.replace(
    /asm volatile\("bar\.(sync|arrive) %0, 256;" :: "r"\((\w+)\) : "memory"\)/g,
    "emu_bar_$1($2)",
  );
  let out = "";
  let from = 0;
  for (const match of named.matchAll(/^(?:template <[^>]*> )?DEVICE [^{;]*\{/gm)) {
    const body = match.index + match[0].length;
    let depth = 1;
    let end = body;
    for (; depth > 0; end++) depth += named[end] === "{" ? 1 : named[end] === "}" ? -1 : 0;
    if (!named.slice(body, end).includes("asm")) continue;
    out += named.slice(from, match.index);
    from = end;
  }
  return out + named.slice(from);
}

export const HOPPER_HEADER = `
struct float2 { f32 x, y; }; struct alignas(16) float4 { f32 x, y, z, w; };
static inline float2 make_float2(f32 x, f32 y) { return {x, y}; }
static inline float4 make_float4(f32 x, f32 y, f32 z, f32 w) { return {x, y, z, w}; }
static inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
static inline f32 exp2_fast(f32 x) { return exp2f(x); }
static inline u32 pack(f32 low, f32 high) { return from_f32<bf16>(low).bits | (u32)from_f32<bf16>(high).bits << 16; }
static inline u64 fresh(u64 x) { return x; }
template <class T> static void pin(T&) {}
template <int N> static void registers_give() {}
template <int N> static void registers_take() {}
static void wgmma_begin() {}
static void wgmma_commit() {}
template <int N> static void wgmma_wait() {}
static void copies_wait_all() {}
static void fence_async() {}

// Barriers: how many arrivals a phase has left, and the parity of the running phase.
struct EmuBarrier { u32 count, left, phase; };
static EmuBarrier emu_barriers[32768], emu_named[16];
static void emu_arrive(EmuBarrier& b) { if (--b.left == 0) { b.left = b.count; b.phase ^= 1; } }
static u64 __cvta_generic_to_shared(const void* p) { return (u64)((char*)p - emu_dynamic); }
static void barrier_init(u32 bar, u32 count) { emu_barriers[bar / 8] = {count, count, 0}; }
static void barrier_arrive(u32 bar) { emu_arrive(emu_barriers[bar / 8]); }
static void barrier_wait(u32 bar, u32 parity) { while (emu_barriers[bar / 8].phase == parity) emu_yield(RUN); }
static void copies_arrive(u32 bar) { barrier_arrive(bar); }
static void emu_bar_arrive(int id) { EmuBarrier& b = emu_named[id]; if (b.count == 0) b = {256, 256, 0}; emu_arrive(b); }
static void emu_bar_sync(int id) { const u32 before = emu_named[id].phase; emu_bar_arrive(id); while (emu_named[id].phase == before) emu_yield(RUN); }
static void copy16(u32 to, const void* from, bool present) {
  if (to % 16 || (present && (u64)from % 16)) { fprintf(stderr, "unaligned copy\\n"); abort(); }
  if (present) memcpy(emu_dynamic + to, from, 16); else memset(emu_dynamic + to, 0, 16);
}

// An element of a tile in shared memory as a descriptor shows it: \`c\` along its rows of bytes.
static f32 emu_element(u64 descriptor, int r, int c) {
  const u32 start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  const int panel = 128 >> (descriptor >> 62);
  u32 at = start + r / 8 * stride + r % 8 * (panel * 2) + c % panel * 2 + c / panel * leading;
  at ^= (at >> 7 & (panel / 8 - 1)) << 4;
  bf16 x; memcpy(&x, emu_dynamic + at, 2); return to_f32(x);
}
template <int TB, int N, class A> static void emu_wgmma(f32 (&d)[N], A a, u64 b, int accumulate) {
  const int lane = emu_cur->linear % 32;
  for (int i = 0; i < N; ++i) {
    const int half = i >> 1 & 1, column = i / 4 * 8 + lane % 4 * 2 + (i & 1);
    f32 sum = accumulate ? d[i] : 0;
    for (int k = 0; k < 16; ++k) sum += a(half, k) * (TB ? emu_element(b, k, column) : emu_element(b, column, k));
    d[i] = sum;
  }
}
template <int TA, int TB, int N> static void wgmma_ss(f32 (&d)[N], u64 a, u64 b, int accumulate) {
  const int t = emu_cur->linear % 128, row = t / 32 * 16 + t % 32 / 4;
  f32 rows[2][16];
  for (int h = 0; h < 2; ++h) for (int k = 0; k < 16; ++k) rows[h][k] = TA ? emu_element(a, k, row + 8 * h) : emu_element(a, row + 8 * h, k);
  emu_wgmma<TB>(d, [&](int h, int k) { return rows[h][k]; }, b, accumulate);
}
template <int TB, int N> static void wgmma_rs(f32 (&d)[N], const u32* a, u64 b, int accumulate) {
  f32 rows[2][16];
  for (int i = 0; i < 4; ++i) for (int t = 0; t < 4; ++t) {
    const u32 x = emu_exchange(a[i], emu_cur->linear % 32 / 4 * 4 + t);
    rows[i & 1][(i >> 1) * 8 + 2 * t] = __uint_as_float(x << 16);
    rows[i & 1][(i >> 1) * 8 + 2 * t + 1] = __uint_as_float(x & 0xffff0000u);
  }
  emu_wgmma<TB>(d, [&](int h, int k) { return rows[h][k]; }, b, accumulate);
}
`;
