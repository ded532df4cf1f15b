/**
 * Attention forward on Hopper's tensor cores, bf16 in and out, f32 in between.
 *
 * A block owns 128 or 192 queries of one head: two or three warpgroups of 64 rows each that compute,
 * and one that copies key and value tiles into two stages of shared memory. The online softmax (Milakov &
 * Gimelshein 2018; tiled as in FlashAttention-2, Dao 2023) of one tile runs while the tensor cores
 * multiply the previous tile's probabilities with its values (FlashAttention-3, Shah et al. 2024).
 * Blocks are ordered so that concurrent ones share keys in the L2 cache, the longest first.
 */
import type { AttentionKernel } from "../contract.ts";
import type { DeviceInfo, Lowered } from "../kernel.ts";
import {
  at,
  copyable,
  copyHeads,
  f32,
  HEAD_MAP,
  isEmpty,
  masks,
  shapeConstants,
  TURNS,
  tails,
  viewArg,
  warpgroups,
} from "./attention-shape.ts";
import { constants, hopper, roundUp, type Tile, tile } from "./hopper.ts";

/** The visibility of a score, and the online softmax over one tile of scores. */
export const ONLINE_SOFTMAX = `
// Scores s of two rows; top: raised to their maximum (unscaled). visible(i) tells whether score i may be seen.
template <bool MASKED, int N, class Visible>
DEVICE void raise_to_scores(f32 (&s)[N], f32 (&top)[2], Visible visible) {
  if (MASKED) {
    #pragma unroll
    for (int i = 0; i < N; ++i) if (!visible(i)) s[i] = -INF;
  }
  #pragma unroll
  for (int i = 0; i < N; ++i) top[i >> 1 & 1] = fmaxf(top[i >> 1 & 1], s[i]);
  #pragma unroll
  for (int h = 0; h < 2; ++h) top[h] = quad_max(top[h]);
}
// Scores become probabilities. m: the running maximum, which becomes top; l: this thread's share of the
// running sum; alpha: what to scale earlier results by.
template <int N> DEVICE void to_probabilities(f32 (&s)[N], const f32 (&top)[2], f32 (&m)[2], f32 (&l)[2], f32 (&alpha)[2]) {
  f32 base[2], sum[2] = {0, 0};
  #pragma unroll
  for (int h = 0; h < 2; ++h) {
    base[h] = top[h] == -INF ? 0.0f : top[h] * SCALE_LOG2;
    alpha[h] = exp2_fast(m[h] * SCALE_LOG2 - base[h]);
    m[h] = top[h];
  }
  #pragma unroll
  for (int i = 0; i < N; ++i) {
    s[i] = exp2_fast(s[i] * SCALE_LOG2 - base[i >> 1 & 1]);
    sum[i >> 1 & 1] += s[i];
  }
  l[0] = l[0] * alpha[0] + sum[0];
  l[1] = l[1] * alpha[1] + sum[1];
}
template <bool MASKED, int N, class Visible>
DEVICE void online_softmax(f32 (&s)[N], f32 (&m)[2], f32 (&l)[2], f32 (&alpha)[2], Visible visible) {
  f32 top[2] = {m[0], m[1]};
  raise_to_scores<MASKED>(s, top, visible);
  to_probabilities(s, top, m, l, alpha);
}
`;

interface Plan {
  readonly q: Tile;
  readonly k: Tile;
  readonly v: Tile;
  readonly shared: number;
  readonly warps: ReturnType<typeof warpgroups>;
}

const STAGES = 2;

/** Tile sizes that fit in shared memory and registers, or undefined. */
function plan(k: AttentionKernel, device: DeviceInfo): Plan | undefined {
  const { bounds } = tails(k);
  for (const keys of [128, 64]) {
    const kt = tile(keys, k.qkWidth, ...bounds);
    const v = tile(keys, k.vWidth);
    // Accumulators: output, scores and packed probabilities of one thread.
    const registers = v.width / 2 + keys / 2 + keys / 4;
    const warps = warpgroups(registers);
    const q = tile(64 * warps.groups, k.qkWidth, ...bounds);
    const shared = q.bytes + STAGES * (kt.bytes + v.bytes) + 128;
    if (shared <= device.sharedPerBlock && registers <= 176 && v.width <= 256)
      return { q, k: kt, v, shared, warps };
  }
  return undefined;
}

/** Takes bf16 of widths divisible by 8, up to about 256; undefined for anything else. */
export function flashAttention(k: AttentionKernel, device: DeviceInfo): Lowered | undefined {
  const views = [k.q, k.k, k.v, k.out] as const;
  const widths = [k.qkWidth, k.qkWidth, k.vWidth, k.vWidth] as const;
  if (device.computeCapability !== 90 || isEmpty(k) || !(k.scale > 0)) return undefined;
  if (!views.every((view, i) => copyable(view, widths[i] as number))) return undefined;
  const p = plan(k, device);
  if (!p) return undefined;

  const { groups, take, give } = p.warps;
  const rowTiles = Math.ceil(k.queries / p.q.rows);
  const heads = k.batch * k.heads;
  // As many heads side by side as have their keys and values in about half the L2 cache.
  const bytesPerHead = (k.keys * (k.qkWidth + k.vWidth) * 2 * k.keyHeads) / k.heads;
  const together = Math.max(1, Math.min(heads, Math.floor(device.l2Bytes / 2 / bytesPerHead)));
  const mask = masks(k);
  const tail = tails(k);
  const segment = mask.sameSegment("b", "s", "own[i >> 1 & 1]");

  const source = `${hopper([p.k.rows, p.v.width])}${shapeConstants(k)}${constants({
    BM: p.q.rows,
    BN: p.k.rows,
    QK: p.q.width,
    QK_PANEL: p.k.panel,
    V: p.v.width,
    V_PANEL: p.v.panel,
    STAGES,
    K_AT: p.q.bytes,
    K_BYTES: p.k.bytes,
    V_AT: p.q.bytes + STAGES * p.k.bytes,
    V_BYTES: p.v.bytes,
    BARS: p.shared - 128,
    ROW_TILES: rowTiles,
    ALL_HEADS: heads,
    TOGETHER: together,
  })}constexpr f32 SCALE_LOG2 = ${f32(k.scale * Math.LOG2E)}, SCALE = ${f32(k.scale)};
${HEAD_MAP}${TURNS}${ONLINE_SOFTMAX}
extern "C" __global__ void __launch_bounds__(${128 * (groups + 1)}, 1) attention(const bf16* __restrict__ q, const bf16* __restrict__ k,
    const bf16* __restrict__ v, bf16* __restrict__ out, f32* __restrict__ lse${mask.params}${tail.params}) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int thread = threadIdx.x & 127, group = warpgroup();

  const int set = blockIdx.x / (ROW_TILES * TOGETHER), in_set = blockIdx.x % (ROW_TILES * TOGETHER);
  const int set_size = min(TOGETHER, ALL_HEADS - set * TOGETHER);
  const int q0 = (ROW_TILES - 1 - in_set / set_size) * BM, bh = set * TOGETHER + in_set % set_size;
  const int b = bh / HEADS, h = bh % HEADS, kh = key_head(h);
  ${mask.length}
  const int first = length - QUERIES + q0; // position of the block's first query
  const int last = length - QUERIES + min(q0 + BM, QUERIES) - 1;
  const int end = CAUSAL ? min(length, last + 1) : length;
  const int tiles = max(0, (end + BN - 1) / BN);
  const int unmasked = SEGMENTS ? 0 : max(0, CAUSAL ? min(length, first + 1) : length) / BN;

  const u32 q_full = shared + BARS;
  Ring<STAGES> kr(q_full + 8), vr(q_full + 8 + 16 * STAGES);
  if (threadIdx.x == 0) {
    barrier_init(q_full, 128);
    kr.init(128, ${4 * groups});
    vr.init(128, ${4 * groups});
    fence_async();
  }
  __syncthreads();

  if (group == 0) { // copies
    registers_give<${give}>();
    if (tiles > 0) {
      ${copyHeads({
        name: "q",
        view: k.q,
        to: "shared",
        rows: "BM",
        panel: "QK_PANEL",
        row: "q0 + r",
        limit: "QUERIES",
        at: (view) => at(view, "b", "row", "h"),
      })}
      copies_arrive(q_full);
    }
    for (int j = tiles - 1; j >= 0; --j) {
      kr.wait_empty();
      ${copyHeads({
        name: "k",
        view: k.k,
        to: "shared + K_AT + kr.stage * K_BYTES",
        rows: "BN",
        panel: "QK_PANEL",
        row: "j * BN + r",
        limit: "length",
        at: (view) => mask.key(view, "b", "row", "kh"),
      })}
      copies_arrive(kr.full());
      kr.next();
      vr.wait_empty();
      copy_tile<BN, V_WIDTH, V, V_PANEL, 128>(shared + V_AT + vr.stage * V_BYTES, thread, v, [&](int r) {
        const int s = j * BN + r;
        return s < length ? v + ${mask.key(k.v, "b", "s", "kh")} : nullptr; });
      copies_arrive(vr.full());
      vr.next();
    }
    copies_wait_all();
  } else { // computes 64 rows
    registers_take<${take}>();
    const int lane = thread & 31;
    const int row = (group - 1) * 64 + (thread >> 5) * 16 + (lane >> 2); // and row + 8
    const int t[2] = {q0 + row, q0 + row + 8};
    const int limit[2] = {CAUSAL ? min(length, first + row + 1) : length, CAUSAL ? min(length, first + row + 9) : length};
    const int own[2] = {t[0] < QUERIES ? ${mask.segment("b", "t[0]")} : 0, t[1] < QUERIES ? ${mask.segment("b", "t[1]")} : 0};
    f32 o[V / 2], s[BN / 2], m[2] = {-INF, -INF}, l[2] = {0, 0}, alpha[2];
    u32 p[BN / 4];
    #pragma unroll
    for (int i = 0; i < V / 2; ++i) o[i] = 0;
    const u64 q_desc = k_major<QK_PANEL>(shared + (group - 1) * 64 * QK_PANEL * 2);

    const auto scores = [&]() { // s = q kᵀ, left running
      const u64 a = fresh(q_desc);
      const u64 k_desc = k_major<QK_PANEL>(shared + K_AT + kr.stage * K_BYTES);
      pin(s);
      wgmma_begin();
      #pragma unroll
      for (int i = 0; i < QK / 16; ++i)
        wgmma_ss<0, 0>(s, a + k_step<QK_PANEL, BM>(i), k_desc + k_step<QK_PANEL, BN>(i), i > 0);
      wgmma_commit();
    };
    const auto values = [&]() { // o += p v, left running
      const u64 v_desc = mn_major<V_PANEL, BN>(shared + V_AT + vr.stage * V_BYTES);
      pin(o);
      wgmma_begin();
      #pragma unroll
      for (int i = 0; i < BN / 16; ++i) wgmma_rs<1>(o, p + 4 * i, v_desc + mn_step<V_PANEL>(i), 1);
      wgmma_commit();
    };
    int j = tiles - 1;
    const auto visible = [&](int i) {
      const int s = j * BN + (i >> 2) * 8 + (lane & 3) * 2 + (i & 1);
      return s < limit[i >> 1 & 1]${segment && ` && ${segment}`};
    };
    const auto release = [&](u32 bar) { if (lane == 0) barrier_arrive(bar); };

    const Turns<${groups}> turns(group - 1);
    if (tiles > 0) {
      wait_tile(q_full, 0);
      kr.wait_full();
      turns.take();
      scores();
      turns.pass();
      wgmma_wait<0>();
      pin(s);
      release(kr.empty());
      kr.next();
      online_softmax<true>(s, m, l, alpha, visible);
      to_operand(s, p);
      for (--j; j >= 0; --j) {
        kr.wait_full();
        vr.wait_full();
        turns.take();
        scores();
        values();
        turns.pass();
        wgmma_wait<1>();
        pin(s);
        release(kr.empty());
        kr.next();
        if (j >= unmasked) online_softmax<true>(s, m, l, alpha, visible);
        else online_softmax<false>(s, m, l, alpha, visible);
        wgmma_wait<0>();
        pin(o);
        pin(p);
        release(vr.empty());
        vr.next();
        #pragma unroll
        for (int i = 0; i < V / 2; ++i) o[i] *= alpha[i >> 1 & 1];
        to_operand(s, p);
      }
      vr.wait_full();
      values();
      wgmma_wait<0>();
      pin(o);
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      l[i] = quad_sum(l[i]);
      if ((lane & 3) == 0 && t[i] < QUERIES)
        lse[((i64)b * HEADS + h) * QUERIES + t[i]] = l[i] > 0 ? m[i] * SCALE + logf(l[i]) : -INF;
    }
    store_rows(o, t[0] < QUERIES ? out + ${at(k.out, "b", "t[0]", "h")} : nullptr,
      t[1] < QUERIES ? out + ${at(k.out, "b", "t[1]", "h")} : nullptr, V_WIDTH,
      l[0] > 0 ? 1.0f / l[0] : 0.0f, l[1] > 0 ? 1.0f / l[1] : 0.0f);
  }
}
`;
  return {
    source,
    launches: [
      {
        entry: "attention",
        grid: [rowTiles * heads],
        block: [128 * (groups + 1)],
        shared: roundUp(p.shared, 16),
        args: [
          viewArg(k.q, 2),
          viewArg(k.k, 2),
          viewArg(k.v, 2),
          viewArg(k.out, 2),
          { slot: k.lse },
          ...mask.args,
          ...tail.args,
        ],
      },
    ],
  };
}
