/**
 * Attention of few queries over the latent cache of Multi-head Latent Attention in its absorbed form
 * (DeepSeek-V2, section 2.1.2): all heads read one key of, say, 512 + 64 numbers, and the value is
 * the key's first 512. Reading the cache is the cost, so
 *
 * - a block takes 64 rows (queries × heads) of one sequence and copies each tile of 64 keys once;
 *   scores read it along its columns and values along its rows, from the same shared memory;
 * - two warpgroups each compute half of the output's columns (512 f32 accumulators a row do not fit in
 *   one warpgroup's registers); a third copies;
 * - each of them computes all scores, or where rows are many, so that the tensor cores are the limit,
 *   those of every other tile, and they exchange maxima and probabilities (FlashMLA shares them, too);
 * - a tile arrives and is given back in three sections: what only scores read, and either half of the
 *   values. Two tiles are all that fit beside 64 queries of 576, so copies must not wait for whole ones;
 * - the keys of a sequence are split over as many blocks as fill the device, by its length on the
 *   device, and a second kernel combines their results (as in FlashDecoding and FlashMLA).
 */
import type { AttentionKernel } from "../contract.ts";
import type { DeviceInfo, Launch, Lowered, TensorMap } from "../kernel.ts";
import { ONLINE_SOFTMAX } from "./attention-flash.ts";
import {
  at,
  copyable,
  copyHeads,
  f32,
  isEmpty,
  masks,
  shapeConstants,
  tails,
  viewArg,
} from "./attention-shape.ts";
import { constants, hopper, roundUp, tile } from "./hopper.ts";
import { ALONE, PAIRS } from "./mla-decode-loops.ts";
import { combineParts, splitCount } from "./mla-parts.ts";

const ROWS = 64;
const KEYS = 64;
/** Bytes for the barriers of three rings of up to four stages and one more, and two numbers a row. */
const EXTRA = 256 + 2 * ROWS * 4;

/** Is v the first columns of k, in the same memory? */
function sharesMemory(k: AttentionKernel): boolean {
  const same = [0, 1, 3].every((axis) => k.k.strides[axis] === k.v.strides[axis]);
  return (
    !k.k.tail && k.k.slot === k.v.slot && k.k.offset === k.v.offset && same && k.vWidth <= k.qkWidth
  );
}

/** Takes bf16 with one key head whose values are the first columns of its keys. */
export function mlaDecode(k: AttentionKernel, device: DeviceInfo): Lowered | undefined {
  if (device.computeCapability !== 90 || isEmpty(k) || !(k.scale > 0)) return undefined;
  if (k.keyHeads !== 1 || k.segments !== undefined || !sharesMemory(k)) return undefined;
  if (!copyable(k.q, k.qkWidth) || !copyable(k.k, k.qkWidth) || !copyable(k.out, k.vWidth))
    return undefined;
  const half = roundUp(k.vWidth, 32) / 2;
  const tail = tails(k);
  const q = tile(ROWS, k.qkWidth, half, ...tail.bounds);
  const kt = tile(KEYS, k.qkWidth, half, ...tail.bounds);
  if (half > 256 || half * 2 > kt.width) return undefined;
  const stages = Math.min(4, Math.floor((device.sharedPerBlock - EXTRA - q.bytes) / kt.bytes));
  if (stages < 2) return undefined;
  const shared = q.bytes + stages * kt.bytes + EXTRA;

  const rows = k.queries * k.heads;
  const rowTiles = Math.ceil(rows / ROWS);
  const blocks = k.batch * rowTiles;
  const splits = splitCount(blocks, Math.ceil(k.keys / KEYS), device.multiprocessors);
  const partialBytes = k.batch * rows * splits * k.vWidth * 4;
  const mask = masks(k);
  // A tile is one box of the cache if it never crosses a page.
  const perPage = k.pages?.pageSize ?? k.keys;
  const boxes =
    k.pages === undefined
      ? { batch: "b", time: "j * BN" }
      : perPage % KEYS === 0
        ? {
            batch: `pages[(i64)b * ${Math.ceil(k.keys / perPage)} + j * BN / ${perPage}]`,
            time: `j * BN % ${perPage}`,
          }
        : undefined;
  const map: TensorMap = {
    slot: k.k.slot,
    offset: k.k.offset * 2,
    dtype: "bf16",
    // How many pages there are is known to the table alone.
    dims: [k.qkWidth, perPage, k.pages ? 2 ** 31 : k.batch],
    strides: [k.k.strides[1] * 2, k.k.strides[0] * 2],
    box: [q.panel, KEYS, 1],
    swizzle: q.panel === 64 ? 128 : q.panel === 32 ? 64 : 32,
  };

  const rest = kt.width - half * 2; // columns that only scores read
  // Columns of the sections, in the order in which scores read them.
  const sections = [
    { from: half * 2, to: kt.width },
    { from: 0, to: half },
    { from: half, to: half * 2 },
  ];

  // A tile's probabilities lie where its first section was.
  const inPairs = rows > ROWS && rest >= KEYS;

  const source = `${hopper([KEYS, half])}${shapeConstants(k)}${constants({
    BM: ROWS,
    BN: KEYS,
    QK: q.width,
    PANEL: q.panel,
    HALF: half,
    REST: rest,
    STAGES: stages,
    K_AT: q.bytes,
    K_BYTES: kt.bytes,
    BARS: shared - EXTRA,
    TOPS: shared - 2 * ROWS * 4,
    ROW_COUNT: rows,
    SPLITS: splits,
  })}constexpr f32 SCALE_LOG2 = ${f32(k.scale * Math.LOG2E)}, LN2 = ${f32(Math.LN2)};
${ONLINE_SOFTMAX}
// s = or += q kᵀ over so many columns, left running
template <int COLUMNS, bool FIRST, int N> DEVICE void add_scores(f32 (&s)[N], u64 q, u64 k) {
  wgmma_begin();
  #pragma unroll
  for (int i = 0; i < COLUMNS / 16; ++i)
    wgmma_ss<0, 0>(s, q + k_step<PANEL, BM>(i), k + k_step<PANEL, BN>(i), !FIRST || i > 0);
  wgmma_commit();
}
DEVICE void write_lse(f32* lse, int b, int row, f32 log2_sum) {
  lse[((i64)b * HEADS + row % HEADS) * QUERIES + row / HEADS] = log2_sum * LN2;
}
// Partial results: normalised rows o [batch, rows, splits, V_WIDTH] and their log2-sum-exp2.
extern "C" __global__ void __launch_bounds__(384, 1) mla_decode(const bf16* __restrict__ q, const bf16* __restrict__ k,
    bf16* __restrict__ out, f32* __restrict__ lse, f32* __restrict__ partial, f32* __restrict__ partial_lse${mask.params}${tail.params}${boxes ? ", const __grid_constant__ TensorMap k_map" : ""}) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int thread = threadIdx.x & 127, group = warpgroup();
  const int split = blockIdx.x % SPLITS, row0 = blockIdx.x / SPLITS % ${rowTiles} * BM, b = blockIdx.x / (SPLITS * ${rowTiles});
  ${mask.length}
  const int last = length - QUERIES + (min(row0 + BM, ROW_COUNT) - 1) / HEADS; // largest position of a row
  const int first = length - QUERIES + row0 / HEADS;
  const int all = max(0, (CAUSAL ? min(length, last + 1) : length) + BN - 1) / BN;
  const int part = (all + SPLITS - 1) / SPLITS;
  const int from = split * part, to = min(all, from + part);
  const int unmasked = max(0, CAUSAL ? min(length, first + 1) : length) / BN;

  const u32 q_full = shared + BARS;
  Ring<STAGES> ring(q_full + 8); // of the first section; the others' barriers follow
  constexpr u32 SECTION = 16 * STAGES;
  if (threadIdx.x == 0) {
    barrier_init(q_full, 128);
    for (int i = 0; i < 3; ++i) Ring<STAGES>(q_full + 8 + i * SECTION).init(32, ${inPairs ? "i == 0 ? 4 : 8" : "8"});
    fence_async();
  }
  __syncthreads();

  if (group == 0) { // copies
    registers_give<40>();
    if (from < to) {
      ${copyHeads({
        name: "q",
        view: k.q,
        to: "shared",
        rows: "BM",
        panel: "PANEL",
        row: "row0 + r",
        limit: "ROW_COUNT",
        at: (view) => at(view, "b", "row / HEADS", "row % HEADS"),
      })}
      copies_arrive(q_full);
    }
    const int warp = thread >> 5, lane = thread & 31; // a warp for each section
    for (int j = to - 1; warp < 3 && j >= from; --j) {
      const u32 stage = shared + K_AT + ring.stage * K_BYTES, full = ring.full() + warp * SECTION;
      barrier_wait(ring.empty() + warp * SECTION, ring.phase ^ 1);
      ring.next();
      ${
        boxes
          ? `if ((j + 1) * BN <= length) { // a whole tile, in one page: the bulk copy engine
        if (lane == 0) {
          const int start = warp == 0 ? 2 * HALF : (warp - 1) * HALF, end = warp == 0 ? QK : warp * HALF;
          const int at = ${boxes.batch};
          barrier_expect(full, (end - start) * BN * 2);
          for (int c = start; c < end; c += PANEL) copy_box(stage + c * (BN * 2), &k_map, c, ${boxes.time}, at, full);
        } else barrier_arrive(full);
        continue;
      }`
          : ""
      }
      ${sections
        .map(({ from, to }, i) =>
          to > from
            ? `if (warp == ${i}) copy_tile<BN, ${Math.max(0, Math.min(k.qkWidth, to) - from)}, ${to - from}, PANEL, 32>(stage + ${from * KEYS * 2}, lane, k, [&](int r) {
        const int s = j * BN + r;
        return s < length ? k + ${mask.key(k.k, "b", "s", "0")} + ${from} : nullptr; });`
            : "",
        )
        .join("\n      ")}
      copies_arrive(full);
    }
    copies_wait_all();
  } else {
    registers_take<232>();
    const int lane = thread & 31, part_of_v = group - 1;
    const int row[2] = {row0 + (thread >> 5) * 16 + (lane >> 2), row0 + (thread >> 5) * 16 + (lane >> 2) + 8};
    int limit[2];
    #pragma unroll
    for (int i = 0; i < 2; ++i) limit[i] = CAUSAL ? min(length, length - QUERIES + row[i] / HEADS + 1) : length;
    f32 o[HALF / 2], s[BN / 2], m[2] = {-INF, -INF}, l[2] = {0, 0}, alpha[2];
    u32 p[BN / 4];
    #pragma unroll
    for (int i = 0; i < HALF / 2; ++i) o[i] = 0;
    const u64 q_desc = k_major<PANEL>(shared);

    const auto scores = [&](const Ring<STAGES>& ring) { // s = q kᵀ, left running
      const u64 a = fresh(q_desc), b = k_major<PANEL>(shared + K_AT + ring.stage * K_BYTES);
      pin(s);
      wait_tile(ring.full(), ring.phase);
      add_scores<REST, true>(s, a + k_step<PANEL, BM>(2 * HALF / 16), b + k_step<PANEL, BN>(2 * HALF / 16));
      wait_tile(ring.full() + SECTION, ring.phase);
      add_scores<HALF, REST == 0>(s, a, b);
      wait_tile(ring.full() + 2 * SECTION, ring.phase);
      add_scores<HALF, false>(s, a + k_step<PANEL, BM>(HALF / 16), b + k_step<PANEL, BN>(HALF / 16));
    };
    const auto values = [&](int stage, u32 (&p)[BN / 4]) { // o += p v, left running
      const u64 v_desc = mn_major<PANEL, BN>(shared + K_AT + stage * K_BYTES + part_of_v * (HALF / PANEL) * (BN * PANEL * 2));
      wgmma_begin();
      #pragma unroll
      for (int i = 0; i < BN / 16; ++i) wgmma_rs<1>(o, p + 4 * i, v_desc + mn_step<PANEL>(i), 1);
      wgmma_commit();
    };
    const auto rescale = [&]() {
      if (__any_sync(FULL, alpha[0] != 1.0f || alpha[1] != 1.0f)) {
        #pragma unroll
        for (int i = 0; i < HALF / 2; ++i) o[i] *= alpha[i >> 1 & 1];
      }
    };
    const auto release = [&](const Ring<STAGES>& ring, int section) {
      if (lane == 0) barrier_arrive(ring.empty() + section * SECTION);
    };
    int j = to - 1; // the tile of s
    const auto visible = [&](int i) {
      return j * BN + (i >> 2) * 8 + (lane & 3) * 2 + (i & 1) < limit[i >> 1 & 1];
    };
    if (from < to) wait_tile(q_full, 0);
${inPairs ? PAIRS : ALONE}
    f32 factor[2];
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      factor[i] = l[i] > 0 ? 1.0f / l[i] : 0.0f;
      const f32 log2_sum = l[i] > 0 ? m[i] * SCALE_LOG2 + log2f(l[i]) : -INF;
      if (part_of_v == 0 && (lane & 3) == 0 && row[i] < ROW_COUNT) {
        if (SPLITS == 1) write_lse(lse, b, row[i], log2_sum);
        else partial_lse[((i64)b * ROW_COUNT + row[i]) * SPLITS + split] = log2_sum;
      }
    }
    const int column = part_of_v * HALF, columns = V_WIDTH - column;
    if (SPLITS == 1) {
      bf16* to_row[2];
      #pragma unroll
      for (int i = 0; i < 2; ++i)
        to_row[i] = row[i] < ROW_COUNT ? out + ${at(k.out, "b", "row[i] / HEADS", "row[i] % HEADS")} + column : nullptr;
      store_rows(o, to_row[0], to_row[1], columns, factor[0], factor[1]);
    } else if (from < to) {
      f32* to_row[2];
      #pragma unroll
      for (int i = 0; i < 2; ++i)
        to_row[i] = row[i] < ROW_COUNT ? partial + (((i64)b * ROW_COUNT + row[i]) * SPLITS + split) * V_WIDTH + column : nullptr;
      store_rows(o, to_row[0], to_row[1], columns, factor[0], factor[1]);
    }
  }
}
${combineParts(k)}`;
  const lseAt = roundUp(partialBytes, 256);
  const decode: Launch = {
    entry: "mla_decode",
    grid: [blocks * splits],
    block: [384],
    shared,
    args: [
      viewArg(k.q, 2),
      viewArg(k.k, 2),
      viewArg(k.out, 2),
      { slot: k.lse },
      { workspace: 0 },
      { workspace: lseAt },
      ...mask.args,
      ...tail.args,
      ...(boxes ? [{ tensorMap: map }] : []),
    ],
  };
  const combine: Launch = {
    entry: "mla_combine",
    grid: [k.batch * rows],
    block: [128],
    args: [viewArg(k.out, 2), { slot: k.lse }, { workspace: 0 }, { workspace: lseAt }],
  };
  return splits === 1
    ? { source, launches: [decode], workspace: 256 }
    : {
        source,
        launches: [decode, combine],
        workspace: lseAt + k.batch * rows * splits * 4,
      };
}
