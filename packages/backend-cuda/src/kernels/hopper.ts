/**
 * The Hopper building blocks of our matrix kernels, as CUDA C++: tiles of bf16 in shared memory laid
 * out for the tensor cores, asynchronous copies into them, barriers, and the `wgmma` instructions.
 * Sources: PTX ISA 9.0, sections "Asynchronous Warpgroup Level Matrix Instructions", "mbarrier" and
 * "cp.async".
 *
 * A tile of R rows × W columns lies in panels of P columns (P = 64, 32 or 16, the largest that
 * divides W), each panel R rows of 2·P bytes, one panel after the other. Within a panel the 16-byte
 * chunk c of row r stands where the hardware's 128-, 64- or 32-byte swizzle puts it, so that both
 * ways of reading are free of bank conflicts: with the contraction along the columns ("K-major", q
 * and k in q·kᵀ) and along the rows ("MN-major", v in p·v).
 */

/** A bf16 tile in shared memory; `width` is padded to a multiple of 16. */
export interface Tile {
  readonly rows: number;
  readonly width: number;
  readonly panel: 16 | 32 | 64;
  readonly bytes: number;
}

export function roundUp(n: number, to: number): number {
  return Math.ceil(n / to) * to;
}

/** @param divide also make the panel divide these counts of columns (a part or a share of the width) */
export function tile(rows: number, width: number, ...divide: readonly number[]): Tile {
  const padded = roundUp(width, 16);
  const fits = (p: number) => [padded, ...divide].every((n) => n % p === 0);
  const panel = ([64, 32, 16] as const).find(fits) ?? 16;
  return { rows, width: padded, panel, bytes: rows * padded * 2 };
}

/** `constexpr int` definitions, one a line. */
export function constants(values: Record<string, number | boolean>): string {
  return Object.entries(values)
    .map(([name, value]) => `constexpr int ${name} = ${Number(value)};\n`)
    .join("");
}

const COPIES = `
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void barrier_init(u32 bar, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory"); }
DEVICE void barrier_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(bar) : "memory"); }
DEVICE void barrier_wait(u32 bar, u32 parity) {
  asm volatile("{\\n.reg .pred p;\\nagain:\\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\\n@p bra done;\\nbra again;\\ndone:\\n}\\n"
    :: "r"(bar), "r"(parity) : "memory");
}
// 16 bytes, or zeros in their place.
DEVICE void copy16(u32 to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(present ? 16 : 0) : "memory");
}
// The barrier counts this thread once all its copies so far have landed.
DEVICE void copies_arrive(u32 bar) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(bar) : "memory"); }
DEVICE void copies_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// Orders ordinary writes to shared memory (the copies above) before reads by the tensor cores.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Waits for a tile that was filled by copies, and makes it visible to the tensor cores.
DEVICE void wait_tile(u32 bar, u32 parity) { barrier_wait(bar, parity); fence_async(); }
// The bulk tensor copy engine: a box of a tensor, swizzled as its map says; the barrier counts bytes.
DEVICE void barrier_expect(u32 bar, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory"); }
DEVICE void copy_box(u32 to, const TensorMap* map, int x, int y, u32 bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
    :: "r"(to), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}
DEVICE void copy_box(u32 to, const TensorMap* map, int x, int y, int z, u32 bar) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
    :: "r"(to), "l"(map), "r"(x), "r"(y), "r"(z), "r"(bar) : "memory");
}
template <int N> DEVICE void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }
template <int N> DEVICE void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }

// A ring of shared-memory stages and its two barriers a stage: full[i] at bar + 8i, empty[i] after them.
template <int STAGES> struct Ring {
  u32 bar; int stage; u32 phase;
  DEVICE_MEMBER Ring(u32 b) : bar(b), stage(0), phase(0) {}
  DEVICE_MEMBER u32 full() const { return bar + 8 * stage; }
  DEVICE_MEMBER u32 empty() const { return bar + 8 * (STAGES + stage); }
  DEVICE_MEMBER void wait_empty() const { barrier_wait(empty(), phase ^ 1); }
  DEVICE_MEMBER void wait_full() const { wait_tile(full(), phase); }
  DEVICE_MEMBER void next() { if (++stage == STAGES) { stage = 0; phase ^= 1; } }
  DEVICE_MEMBER void init(u32 producers, u32 consumers) const {
    for (int i = 0; i < STAGES; ++i) { barrier_init(bar + 8 * i, producers); barrier_init(bar + 8 * (STAGES + i), consumers); }
  }
};

// Copies a tile of ROWS × WIDTH columns (zeros up to PADDED) by THREADS threads. row(r) gives the
// address of a row's first element, or null for a row of zeros. WIDTH 0: the width is \`limit\`.
template <int ROWS, int WIDTH, int PADDED, int PANEL, int THREADS, class Row>
DEVICE void copy_tile(u32 to, int thread, const void* any, Row row, int limit = WIDTH) {
  constexpr int CHUNKS = PANEL / 8, STEP = THREADS / CHUNKS, PASSES = (ROWS + STEP - 1) / STEP;
  const int chunk = thread % CHUNKS;
  // Not unrolled whole: the addresses of all passes at once would not fit in a copying thread's registers.
  #pragma unroll (PASSES < 2 ? 1 : 2)
  for (int i = 0; i < PASSES; ++i) {
    const int r = thread / CHUNKS + i * STEP;
    if (ROWS % STEP != 0 && r >= ROWS) break;
    const bf16* from = row(r);
    u32 at = r * (PANEL * 2) + chunk * 16;
    at = to + (at ^ (((at >> 7) & (CHUNKS - 1)) << 4));
    #pragma unroll
    for (int p = 0; p < PADDED / PANEL; ++p) {
      const int column = p * PANEL + chunk * 8;
      const bool present = from != nullptr && (WIDTH == PADDED || column < limit);
      copy16(at + p * (ROWS * PANEL * 2), present ? (const void*)(from + column) : any, present);
    }
  }
}
`.replaceAll("DEVICE_MEMBER", "__device__ __forceinline__");

// Matrix descriptors hold addresses and strides in units of 16 bytes. "K-major": groups of 8 rows
// stand STRIDE apart. "MN-major": groups of 8 rows of the contraction likewise, panels LEADING apart.
const DESCRIPTORS = `
template <int PANEL> DEVICE u64 descriptor(u32 address, u32 leading) {
  constexpr u64 layout = PANEL == 64 ? 1 : PANEL == 32 ? 2 : 3;
  return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(PANEL * 16 >> 4) << 32 | layout << 62;
}
template <int PANEL> DEVICE u64 k_major(u32 address) { return descriptor<PANEL>(address, 16); }
template <int PANEL, int ROWS> DEVICE u64 mn_major(u32 address) { return descriptor<PANEL>(address, ROWS * PANEL * 2); }
// What to add to a descriptor for the i-th 16 of the contraction.
template <int PANEL, int ROWS> DEVICE constexpr u64 k_step(int i) {
  return (u64)(((i * 16 / PANEL) * (ROWS * PANEL * 2) + (i * 16 % PANEL) * 2) >> 4);
}
template <int PANEL> DEVICE constexpr u64 mn_step(int i) { return (u64)(i * 16 * PANEL * 2 >> 4); }

// The warpgroup's index, in a form that the compiler knows to be the same for the whole warp.
DEVICE int warpgroup() { return __shfl_sync(FULL, threadIdx.x >> 7, 0); }
// Hides where a descriptor came from: sums with it are made where used, not kept in registers.
DEVICE u64 fresh(u64 x) { asm volatile("" : "+l"(x)); return x; }
DEVICE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory"); }
// Keeps the compiler from moving or caching these registers across this point.
template <int N> DEVICE void pin(f32 (&x)[N]) {
  #pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i]) :: "memory");
}
template <int N> DEVICE void pin(u32 (&x)[N]) {
  #pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(x[i]) :: "memory");
}
`;

// The accumulator of a warpgroup's 64 × N product: thread (warp w, lane l) holds, in d[4j + 2h + e],
// row 16w + l/4 + 8h and column 8j + 2(l%4) + e.
const ACCUMULATORS = `
DEVICE f32 exp2_fast(f32 x) { f32 r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r; }
DEVICE u32 pack(f32 low, f32 high) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r; }
DEVICE f32 low_half(u32 x) { return __uint_as_float(x << 16); }
DEVICE f32 high_half(u32 x) { return __uint_as_float(x & 0xffff0000u); }
DEVICE f32 quad_max(f32 x) { x = fmaxf(x, __shfl_xor_sync(FULL, x, 1)); return fmaxf(x, __shfl_xor_sync(FULL, x, 2)); }
DEVICE f32 quad_sum(f32 x) { x += __shfl_xor_sync(FULL, x, 1); return x + __shfl_xor_sync(FULL, x, 2); }
// An accumulator as the bf16 left operand of the next product: step k reads a[4k] … a[4k+3].
template <int N> DEVICE void to_operand(const f32 (&d)[N], u32 (&a)[N / 2]) {
  #pragma unroll
  for (int i = 0; i < N / 2; ++i) a[i] = pack(d[2 * i], d[2 * i + 1]);
}
// Word w of thread t of a quad goes to word t of thread w.
DEVICE void quad_transpose(u32 (&x)[4]) {
  const int t = threadIdx.x & 3;
  #pragma unroll
  for (int step = 1; step <= 2; ++step) {
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int a = step == 1 ? 2 * i : i, b = a + step;
      const u32 got = __shfl_xor_sync(FULL, t & step ? x[a] : x[b], step);
      if (t & step) x[a] = got; else x[b] = got;
    }
  }
}
// Writes an accumulator's two rows of this thread (null: none) times a factor each. Columns from
// limit on, a multiple of 8, are dropped. Rows start at multiples of 16 bytes.
template <int N> DEVICE void store_rows(const f32 (&d)[N], bf16* row0, bf16* row1, int limit, f32 factor0, f32 factor1) {
  const int t = threadIdx.x & 3;
  #pragma unroll
  for (int h = 0; h < 2; ++h) {
    bf16* row = h ? row1 : row0;
    const f32 factor = h ? factor1 : factor0;
    #pragma unroll
    for (int j = 0; j + 4 <= N / 4; j += 4) {
      u32 x[4];
      #pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = pack(d[4 * (j + i) + 2 * h] * factor, d[4 * (j + i) + 2 * h + 1] * factor);
      quad_transpose(x);
      const int column = 8 * (j + t);
      if (row != nullptr && column < limit) *(uint4*)(row + column) = make_uint4(x[0], x[1], x[2], x[3]);
    }
    #pragma unroll
    for (int j = N / 4 & ~3; j < N / 4; ++j)
      if (row != nullptr && 8 * j < limit) *(u32*)(row + 8 * j + 2 * t) = pack(d[4 * j + 2 * h] * factor, d[4 * j + 2 * h + 1] * factor);
  }
}
template <int N> DEVICE void store_rows(const f32 (&d)[N], f32* row0, f32* row1, int limit, f32 factor0, f32 factor1) {
  #pragma unroll
  for (int h = 0; h < 2; ++h) {
    f32* row = h ? row1 : row0;
    const f32 factor = h ? factor1 : factor0;
    #pragma unroll
    for (int j = 0; j < N / 4; ++j)
      if (row != nullptr && 8 * j < limit)
        *(float2*)(row + 8 * j + 2 * (threadIdx.x & 3)) = make_float2(d[4 * j + 2 * h] * factor, d[4 * j + 2 * h + 1] * factor);
  }
}
`;

function list(count: number, item: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => item(i)).join(", ");
}

/**
 * `wgmma_ss<TA, TB>(d, a, b, accumulate)` (both operands in shared memory; TA, TB: 1 for MN-major) and
 * `wgmma_rs<TB>(d, a, b, accumulate)` (left operand in registers) for 64 × n accumulators.
 */
function instruction(n: number): string {
  const regs = n / 2;
  const d = list(regs, (i) => `%${i}`);
  const outs = list(regs, (i) => `"+f"(d[${i}])`);
  const name = `wgmma.mma_async.sync.aligned.m64n${n}k16.f32.bf16.bf16`;
  const p = (i: number) => `%${regs + i}`;
  return `
template <int TA, int TB> DEVICE void wgmma_ss(f32 (&d)[${regs}], u64 a, u64 b, int accumulate) {
  asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, ${p(2)}, 0;\\n${name} {${d}}, ${p(0)}, ${p(1)}, p, 1, 1, ${p(3)}, ${p(4)};\\n}\\n"
    : ${outs} : "l"(a), "l"(b), "r"(accumulate), "n"(TA), "n"(TB));
}
template <int TB> DEVICE void wgmma_rs(f32 (&d)[${regs}], const u32* a, u64 b, int accumulate) {
  asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, ${p(5)}, 0;\\n${name} {${d}}, {${p(0)}, ${p(1)}, ${p(2)}, ${p(3)}}, ${p(4)}, p, 1, 1, ${p(6)};\\n}\\n"
    : ${outs} : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TB));
}
`;
}

/**
 * The same for 8-bit floats, both operands in shared memory along the contraction (the only way they
 * may lie): one step is 32 of the contraction, the same 32 bytes.
 */
function instructionF8(n: number): string {
  const regs = n / 2;
  const d = list(regs, (i) => `%${i}`);
  const outs = list(regs, (i) => `"+f"(d[${i}])`);
  return `
DEVICE void wgmma_f8(f32 (&d)[${regs}], u64 a, u64 b, int accumulate) {
  asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, %${regs + 2}, 0;\\nwgmma.mma_async.sync.aligned.m64n${n}k32.f32.e4m3.e4m3 {${d}}, %${regs}, %${regs + 1}, p, 1, 1;\\n}\\n"
    : ${outs} : "l"(a), "l"(b), "r"(accumulate));
}
`;
}

/** Everything above, with matrix instructions for the given accumulator widths. */
export function hopper(widths: readonly number[], widthsF8: readonly number[] = []): string {
  const instructions = [...new Set(widths)].map(instruction).concat(widthsF8.map(instructionF8));
  return COPIES + DESCRIPTORS + ACCUMULATORS + instructions.join("");
}
