/**
 * Attention of few queries over the latent cache of Multi-head Latent Attention in its absorbed form
 * (DeepSeek-V2, section 2.1.2): all heads read one key of, say, 512 + 64 numbers, and the value is
 * the key's first 512. Reading the cache is the cost, so
 *
 * - a block takes 64 rows (queries × heads) of one sequence and copies each tile of 64 keys once;
 *   scores read it along its columns and values along its rows, from the same shared memory;
 * - two warpgroups each compute all scores and half of the output's columns (512 f32 accumulators a
 *   row do not fit in one warpgroup's registers); a third copies;
 * - the keys of a sequence are split over as many blocks as fill the device, by its length on the
 *   device, and a second kernel combines their results (as in FlashDecoding and FlashMLA).
 */
import type { AttentionKernel } from "../contract.ts";
import type { DeviceInfo, Launch, Lowered, TensorMap } from "../kernel.ts";
import { ONLINE_SOFTMAX } from "./attention-flash.ts";
import { at, copyable, f32, isEmpty, masks, shapeConstants, viewArg } from "./attention-shape.ts";
import { constants, hopper, roundUp, tile } from "./hopper.ts";

const ROWS = 64;
const KEYS = 64;

/** Is v the first columns of k, in the same memory? */
function sharesMemory(k: AttentionKernel): boolean {
  const same = [0, 1, 3].every((axis) => k.k.strides[axis] === k.v.strides[axis]);
  return k.k.slot === k.v.slot && k.k.offset === k.v.offset && same && k.vWidth <= k.qkWidth;
}

/**
 * Into how many parts to split the keys: the count that wastes least, where blocks run in waves over
 * the multiprocessors and every block costs about one tile's time extra.
 */
export function splitCount(blocks: number, keyTiles: number, multiprocessors: number): number {
  let best = 1;
  let bestTime = Infinity;
  for (let splits = 1; splits <= Math.min(keyTiles, 64); splits++) {
    const waves = Math.ceil((blocks * splits) / multiprocessors);
    const time = waves * (Math.ceil(keyTiles / splits) + (splits > 1 ? 1.5 : 1));
    if (time < bestTime * 0.98) [best, bestTime] = [splits, time];
  }
  return best;
}

/** Takes bf16 with one key head whose values are the first columns of its keys. */
export function mlaDecode(k: AttentionKernel, device: DeviceInfo): Lowered | undefined {
  if (device.computeCapability !== 90 || isEmpty(k) || !(k.scale > 0)) return undefined;
  if (k.keyHeads !== 1 || k.segments !== undefined || !sharesMemory(k)) return undefined;
  if (!copyable(k.q, k.qkWidth) || !copyable(k.k, k.qkWidth) || !copyable(k.out, k.vWidth))
    return undefined;
  const half = roundUp(k.vWidth, 32) / 2;
  const q = tile(ROWS, k.qkWidth, half);
  const kt = tile(KEYS, k.qkWidth, half);
  if (half > 256 || half * 2 > kt.width) return undefined;
  const stages = Math.min(4, Math.floor((device.sharedPerBlock - 128 - q.bytes) / kt.bytes));
  if (stages < 2) return undefined;
  const shared = q.bytes + stages * kt.bytes + 128;

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

  const source = `${hopper([KEYS, half])}${shapeConstants(k)}${constants({
    BM: ROWS,
    BN: KEYS,
    QK: q.width,
    PANEL: q.panel,
    HALF: half,
    STAGES: stages,
    K_AT: q.bytes,
    K_BYTES: kt.bytes,
    BARS: shared - 128,
    ROW_COUNT: rows,
    SPLITS: splits,
  })}constexpr f32 SCALE_LOG2 = ${f32(k.scale * Math.LOG2E)}, LN2 = ${f32(Math.LN2)};
${ONLINE_SOFTMAX}
DEVICE void write_lse(f32* lse, int b, int row, f32 log2_sum) {
  lse[((i64)b * HEADS + row % HEADS) * QUERIES + row / HEADS] = log2_sum * LN2;
}
// Partial results: normalised rows o [batch, rows, splits, V_WIDTH] and their log2-sum-exp2.
extern "C" __global__ void __launch_bounds__(384, 1) mla_decode(const bf16* __restrict__ q, const bf16* __restrict__ k,
    bf16* __restrict__ out, f32* __restrict__ lse, f32* __restrict__ partial, f32* __restrict__ partial_lse${mask.params}${boxes ? ", const __grid_constant__ TensorMap k_map" : ""}) {
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
  Ring<STAGES> ring(q_full + 8);
  if (threadIdx.x == 0) {
    barrier_init(q_full, 128);
    ring.init(128, 8);
    fence_async();
  }
  __syncthreads();

  if (group == 0) { // copies
    registers_give<40>();
    if (from < to) {
      copy_tile<BM, QK_WIDTH, QK, PANEL, 128>(shared, thread, q, [&](int r) {
        const int row = row0 + r;
        return row < ROW_COUNT ? q + ${at(k.q, "b", "row / HEADS", "row % HEADS")} : nullptr; });
      copies_arrive(q_full);
    }
    for (int j = to - 1; j >= from; --j) {
      const u32 stage = shared + K_AT + ring.stage * K_BYTES;
      ${
        boxes
          ? `if ((j + 1) * BN <= length) { // a whole tile, in one page: the bulk copy engine
        const int at = ${boxes.batch};
        ring.wait_empty();
        if (thread == 0) {
          barrier_expect(ring.full(), K_BYTES);
          #pragma unroll
          for (int p = 0; p < QK / PANEL; ++p)
            copy_box(stage + p * (BN * PANEL * 2), &k_map, p * PANEL, ${boxes.time}, at, ring.full());
        } else barrier_arrive(ring.full());
        ring.next();
        continue;
      }`
          : ""
      }
      ring.wait_empty();
      copy_tile<BN, QK_WIDTH, QK, PANEL, 128>(stage, thread, k, [&](int r) {
        const int s = j * BN + r;
        return s < length ? k + ${mask.key(k.k, "b", "s", "0")} : nullptr; });
      copies_arrive(ring.full());
      ring.next();
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

    const auto scores = [&](int stage) { // s = q kᵀ, left running
      const u64 a = fresh(q_desc);
      const u64 k_desc = k_major<PANEL>(shared + K_AT + stage * K_BYTES);
      pin(s);
      wgmma_begin();
      #pragma unroll
      for (int i = 0; i < QK / 16; ++i)
        wgmma_ss<0, 0>(s, a + k_step<PANEL, BM>(i), k_desc + k_step<PANEL, BN>(i), i > 0);
      wgmma_commit();
    };
    const auto values = [&](int stage) { // o += p v, left running
      const u64 v_desc = mn_major<PANEL, BN>(shared + K_AT + stage * K_BYTES + part_of_v * (HALF / PANEL) * (BN * PANEL * 2));
      pin(o);
      wgmma_begin();
      #pragma unroll
      for (int i = 0; i < BN / 16; ++i) wgmma_rs<1>(o, p + 4 * i, v_desc + mn_step<PANEL>(i), 1);
      wgmma_commit();
    };
    int j = to - 1;
    const auto visible = [&](int i) {
      return j * BN + (i >> 2) * 8 + (lane & 3) * 2 + (i & 1) < limit[i >> 1 & 1];
    };
    // One warpgroup's softmax overlaps the other's products; running ahead within one would hold two
    // stages, and with only two of them leave no time for copies.
    if (from < to) wait_tile(q_full, 0);
    for (; j >= from; --j) {
      ring.wait_full();
      scores(ring.stage);
      wgmma_wait<0>();
      pin(s);
      if (j >= unmasked) online_softmax<true>(s, m, l, alpha, visible);
      else online_softmax<false>(s, m, l, alpha, visible);
      if (__any_sync(FULL, alpha[0] != 1.0f || alpha[1] != 1.0f)) {
        #pragma unroll
        for (int i = 0; i < HALF / 2; ++i) o[i] *= alpha[i >> 1 & 1];
      }
      to_operand(s, p);
      values(ring.stage);
      wgmma_wait<0>();
      pin(o);
      pin(p);
      if (lane == 0) barrier_arrive(ring.empty());
      ring.next();
    }
    f32 factor[2];
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      l[i] = quad_sum(l[i]);
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

// One block a row: the parts' results weighted by their shares of the softmax. Empty parts wrote no o.
extern "C" __global__ void __launch_bounds__(128) mla_combine(bf16* __restrict__ out, f32* __restrict__ lse,
    const f32* __restrict__ partial, const f32* __restrict__ partial_lse) {
  __shared__ f32 weights[SPLITS];
  const int b = blockIdx.x / ROW_COUNT, row = blockIdx.x % ROW_COUNT, lane = threadIdx.x & 31;
  const f32* logs = partial_lse + (i64)blockIdx.x * SPLITS;
  f32 top = -INF, sum = 0; // by every warp for itself
  for (int i = lane; i < SPLITS; i += 32) top = fmaxf(top, logs[i]);
  top = warp_max(top);
  for (int i = lane; i < SPLITS; i += 32) {
    const f32 w = logs[i] == -INF ? 0.0f : exp2f(logs[i] - top);
    sum += w;
    if (threadIdx.x < 32) weights[i] = w;
  }
  sum = warp_sum(sum);
  const f32 factor = sum > 0 ? 1.0f / sum : 0.0f;
  __syncthreads();
  bf16* to = out + ${at(k.out, "b", "row / HEADS", "row % HEADS")};
  for (int c = threadIdx.x * 4; c < V_WIDTH; c += 512) {
    float4 o = make_float4(0, 0, 0, 0);
    #pragma unroll 8
    for (int i = 0; i < SPLITS; ++i) {
      const f32 w = weights[i];
      const float4 x = *(const float4*)(partial + ((i64)blockIdx.x * SPLITS + i) * V_WIDTH + c);
      if (w > 0) { o.x += w * x.x; o.y += w * x.y; o.z += w * x.z; o.w += w * x.w; }
    }
    *(uint2*)(to + c) = make_uint2(pack(o.x * factor, o.y * factor), pack(o.z * factor, o.w * factor));
  }
  if (threadIdx.x == 0) write_lse(lse, b, row, sum > 0 ? top + log2f(sum) : -INF);
}
`;
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
