/**
 * The derivative of attention on Hopper's tensor cores, bf16 in and out, f32 in between.
 *
 * Two passes, each shaped like the forward kernel, so that every sum is made by one warpgroup in one
 * order and results are the same bits on every run (FlashAttention-2's single pass adds dq with
 * atomics): a block owns 128 keys and walks over queries for dk and dv, or 128 queries and walks
 * over keys for dq. The scores and dp are computed in both, 7 products in place of 5; in exchange
 * p and ds go from the accumulators straight into the next product's left operand, never through
 * memory. With P = exp2(scale·log2e·QKᵀ − lse), δ = rowsum(O ∘ dO):
 *
 *     dV = Pᵀ dO      dS = P ∘ (dO Vᵀ − δ)      dQ = scale · dS K      dK = scale · dSᵀ Q
 */
import type { AttentionGradKernel, HeadsView } from "../contract.ts";
import type { DeviceInfo, Lowered } from "../kernel.ts";
import { gradStatistics, gradStatisticsLaunch } from "./attention-plain.ts";
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
import { constants, hopper, roundUp, tile } from "./hopper.ts";

const WALK = 64; // rows of a tile that it walks over

// Waits for a stage and multiplies 64 × WALK: d = a bᵀ over WIDTH columns, left running.
const PRODUCTS = `
template <int WIDTH, int PANEL> DEVICE void scores(f32 (&d)[WALK / 2], u64 own, u32 walked) {
  const u64 a = fresh(own), b = k_major<PANEL>(walked);
  pin(d);
  wgmma_begin();
  #pragma unroll
  for (int i = 0; i < WIDTH / 16; ++i) wgmma_ss<0, 0>(d, a + k_step<PANEL, OWN>(i), b + k_step<PANEL, WALK>(i), i > 0);
  wgmma_commit();
}
template <int PANEL, int N> DEVICE void accumulate(f32 (&d)[N], const u32* a, u32 walked) {
  const u64 b = mn_major<PANEL, WALK>(walked);
  pin(d);
  wgmma_begin();
  #pragma unroll
  for (int i = 0; i < WALK / 16; ++i) wgmma_rs<1>(d, a + 4 * i, b + mn_step<PANEL>(i), 1);
  wgmma_commit();
}
`;

/** Takes bf16 of widths divisible by 8 whose sum is at most 320; undefined for anything else. */
export function flashAttentionGrad(
  k: AttentionGradKernel,
  device: DeviceInfo,
): Lowered | undefined {
  const wide = [k.q, k.k, k.dq, k.dk].every((view) => copyable(view, k.qkWidth));
  const narrow = [k.v, k.out, k.dout, k.dv].every((view) => copyable(view, k.vWidth));
  if (
    device.computeCapability !== 90 ||
    isEmpty(k) ||
    !(k.scale > 0) ||
    k.pages ||
    !wide ||
    !narrow
  )
    return undefined;
  const tail = tails(k);
  const qk = tile(WALK, k.qkWidth, ...tail.bounds);
  const v = tile(WALK, k.vWidth);
  // Accumulators of a thread: sums, two tiles of 64 × WALK (one and dv in the second pass), p or ds.
  const registers = qk.width / 2 + Math.max(WALK, v.width / 2 + WALK / 2) + WALK / 4;
  const { groups, take, give } = warpgroups(registers);
  const OWN = 64 * groups; // rows that a block owns
  const ownQk = tile(OWN, k.qkWidth, ...tail.bounds);
  const ownV = tile(OWN, k.vWidth);
  if (qk.width + v.width > 320 || qk.width > 256) return undefined;
  const statistics = 2 * WALK * 4;
  const stageBytes = roundUp(qk.bytes + v.bytes + statistics, 1024);
  const fixed = ownQk.bytes + ownV.bytes;
  const stages = Math.min(3, Math.floor((device.sharedPerBlock - 128 - fixed) / stageBytes));
  if (stages < 2) return undefined;
  const shared = fixed + stages * stageBytes + 128;

  const padded = roundUp(k.queries, OWN);
  const rowTiles = padded / OWN;
  const keyTiles = Math.ceil(k.keys / OWN);
  const bytesPerHead = (k.keys + k.queries) * (k.qkWidth + k.vWidth) * 2;
  const together = (all: number) =>
    Math.max(1, Math.min(all, Math.floor(device.l2Bytes / 2 / bytesPerHead)));
  const mask = masks(k);
  const same = (t: string, s: string) => {
    const text = mask.sameSegment("b", s, mask.segment("b", t));
    return text && ` && ${text}`;
  };

  const queries = {
    name: "q" as const,
    view: k.q,
    panel: "QK_PANEL",
    limit: "QUERIES",
    at: (view: HeadsView) => at(view, "b", "row", "h"),
  };
  const keys = {
    name: "k" as const,
    view: k.k,
    panel: "QK_PANEL",
    limit: "length",
    at: (view: HeadsView) => at(view, "b", "row", "kh"),
  };

  const source = `${hopper([WALK, qk.width, v.width])}${shapeConstants(k)}${constants({
    OWN,
    WALK,
    QK: qk.width,
    QK_PANEL: qk.panel,
    V: v.width,
    V_PANEL: v.panel,
    STAGES: stages,
    OWN_V_AT: ownQk.bytes,
    STAGES_AT: fixed,
    STAGE_BYTES: stageBytes,
    V_AT: qk.bytes,
    STATISTICS_AT: qk.bytes + v.bytes,
    BARS: shared - 128,
    PADDED: padded,
  })}constexpr f32 SCALE_LOG2 = ${f32(k.scale * Math.LOG2E)}, SCALE = ${f32(k.scale)};
${HEAD_MAP}${TURNS}${PRODUCTS}${gradStatistics(k, padded, Math.LOG2E)}
// The block's tile (of \`tiles\`, first ones first) and head: concurrent blocks share heads.
struct Place { int tile, head; };
DEVICE Place place(int tiles, int heads, int together) {
  const int set = blockIdx.x / (tiles * together), in_set = blockIdx.x % (tiles * together);
  const int set_size = min(together, heads - set * together);
  return {in_set / set_size, set * together + in_set % set_size};
}

extern "C" __global__ void __launch_bounds__(${128 * (groups + 1)}, 1) attention_grad_q(const bf16* __restrict__ q, const bf16* __restrict__ k,
    const bf16* __restrict__ v, const bf16* __restrict__ dout, const f32* __restrict__ stat_lse, const f32* __restrict__ stat_delta,
    bf16* __restrict__ dq${mask.params}${tail.params}) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int thread = threadIdx.x & 127, group = warpgroup();
  const Place my = place(${rowTiles}, BATCH * HEADS, ${together(k.batch * k.heads)});
  const int q0 = (${rowTiles} - 1 - my.tile) * OWN, b = my.head / HEADS, h = my.head % HEADS, kh = key_head(h);
  ${mask.length}
  const int first = length - QUERIES + q0, last = length - QUERIES + min(q0 + OWN, QUERIES) - 1;
  const int end = CAUSAL ? min(length, last + 1) : length;
  const int tiles = max(0, (end + WALK - 1) / WALK);
  const int unmasked = SEGMENTS ? 0 : max(0, CAUSAL ? min(length, first + 1) : length) / WALK;

  const u32 own_full = shared + BARS;
  Ring<STAGES> ring(own_full + 8);
  if (threadIdx.x == 0) {
    barrier_init(own_full, 128);
    ring.init(128, ${4 * groups});
    fence_async();
  }
  __syncthreads();

  if (group == 0) { // copies
    registers_give<${give}>();
    ${copyHeads({ ...queries, to: "shared", rows: "OWN", row: "q0 + r" })}
    copy_tile<OWN, V_WIDTH, V, V_PANEL, 128>(shared + OWN_V_AT, thread, q, [&](int r) {
      return q0 + r < QUERIES ? dout + ${at(k.dout, "b", "q0 + r", "h")} : nullptr; });
    copies_arrive(own_full);
    for (int j = tiles - 1; j >= 0; --j) {
      const u32 stage = shared + STAGES_AT + ring.stage * STAGE_BYTES;
      ring.wait_empty();
      ${copyHeads({ ...keys, to: "stage", rows: "WALK", row: "j * WALK + r" })}
      copy_tile<WALK, V_WIDTH, V, V_PANEL, 128>(stage + V_AT, thread, q, [&](int r) {
        const int s = j * WALK + r;
        return s < length ? v + ${at(k.v, "b", "s", "kh")} : nullptr; });
      copies_arrive(ring.full());
      ring.next();
    }
    copies_wait_all();
  } else { // computes dq of 64 queries
    registers_take<${take}>();
    const int lane = thread & 31;
    const int row = (group - 1) * 64 + (thread >> 5) * 16 + (lane >> 2);
    const int t[2] = {q0 + row, q0 + row + 8};
    f32 sum[QK / 2], s[WALK / 2], dp[WALK / 2], log_sum[2], delta[2];
    u32 ds[WALK / 4];
    #pragma unroll
    for (int i = 0; i < QK / 2; ++i) sum[i] = 0;
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      log_sum[i] = stat_lse[((i64)b * HEADS + h) * PADDED + t[i]];
      delta[i] = stat_delta[((i64)b * HEADS + h) * PADDED + t[i]];
    }
    const u64 q_desc = k_major<QK_PANEL>(shared + (group - 1) * 64 * QK_PANEL * 2);
    const u64 dout_desc = k_major<V_PANEL>(shared + OWN_V_AT + (group - 1) * 64 * V_PANEL * 2);
    u32 held_empty = 0; // the stage that the running product still reads
    const Turns<${groups}> turns(group - 1);
    wait_tile(own_full, 0);
    turns.take();
    for (int j = tiles - 1; j >= 0; --j) {
      const u32 stage = shared + STAGES_AT + ring.stage * STAGE_BYTES;
      ring.wait_full();
      scores<QK, QK_PANEL>(s, q_desc, stage);
      scores<V, V_PANEL>(dp, dout_desc, stage + V_AT);
      turns.pass();
      wgmma_wait<1>();
      pin(s);
      pin(sum);
      pin(ds);
      if (held_empty && lane == 0) barrier_arrive(held_empty);
      #pragma unroll
      for (int i = 0; i < WALK / 2; ++i) s[i] = exp2_fast(s[i] * SCALE_LOG2 - log_sum[i >> 1 & 1]);
      if (j >= unmasked) {
        #pragma unroll
        for (int i = 0; i < WALK / 2; ++i) {
          const int key = j * WALK + (i >> 2) * 8 + (lane & 3) * 2 + (i & 1), query = t[i >> 1 & 1];
          const bool seen = key < length && (!CAUSAL || key <= length - QUERIES + query) && query < QUERIES${same("query", "key")};
          if (!seen) s[i] = 0;
        }
      }
      wgmma_wait<0>();
      pin(dp);
      #pragma unroll
      for (int i = 0; i < WALK / 2; ++i) s[i] *= dp[i] - delta[i >> 1 & 1];
      to_operand(s, ds);
      turns.take();
      accumulate<QK_PANEL>(sum, ds, stage);
      held_empty = ring.empty();
      ring.next();
    }
    turns.pass();
    wgmma_wait<0>();
    pin(sum);
    store_rows(sum, t[0] < QUERIES ? dq + ${at(k.dq, "b", "t[0]", "h")} : nullptr,
      t[1] < QUERIES ? dq + ${at(k.dq, "b", "t[1]", "h")} : nullptr, QK_WIDTH, SCALE, SCALE);
  }
}

extern "C" __global__ void __launch_bounds__(${128 * (groups + 1)}, 1) attention_grad_kv(const bf16* __restrict__ q, const bf16* __restrict__ k,
    const bf16* __restrict__ v, const bf16* __restrict__ dout, const f32* __restrict__ stat_lse, const f32* __restrict__ stat_delta,
    bf16* __restrict__ dk, bf16* __restrict__ dv${mask.params}${tail.params}) {
  extern __shared__ __align__(1024) u8 memory[];
  const u32 shared = shared_address(memory);
  const int thread = threadIdx.x & 127, group = warpgroup();
  const Place my = place(${keyTiles}, BATCH * KEY_HEADS, ${together(k.batch * k.keyHeads)});
  const int s0 = my.tile * OWN, b = my.head / KEY_HEADS, kh = my.head % KEY_HEADS;
  ${mask.length}
  const int seen_from = CAUSAL ? max(0, s0 - length + QUERIES) : 0; // first query that sees a key of the block
  const int begin = s0 < length ? seen_from / WALK : PADDED / WALK, end = (QUERIES + WALK - 1) / WALK;
  const int h_begin = first_head(kh), h_end = first_head(kh + 1);

  const u32 own_full = shared + BARS;
  Ring<STAGES> ring(own_full + 8);
  if (threadIdx.x == 0) {
    barrier_init(own_full, 128);
    ring.init(128, ${4 * groups});
    fence_async();
  }
  __syncthreads();

  if (group == 0) { // copies
    registers_give<${groups === 3 ? give : 24}>();
    ${copyHeads({ ...keys, to: "shared", rows: "OWN", row: "s0 + r" })}
    copy_tile<OWN, V_WIDTH, V, V_PANEL, 128>(shared + OWN_V_AT, thread, q, [&](int r) {
      return s0 + r < length ? v + ${at(k.v, "b", "s0 + r", "kh")} : nullptr; });
    copies_arrive(own_full);
    for (int h = h_begin; h < h_end; ++h) for (int j = begin; j < end; ++j) {
      const u32 stage = shared + STAGES_AT + ring.stage * STAGE_BYTES;
      ring.wait_empty();
      ${copyHeads({ ...queries, to: "stage", rows: "WALK", row: "j * WALK + r" })}
      copy_tile<WALK, V_WIDTH, V, V_PANEL, 128>(stage + V_AT, thread, q, [&](int r) {
        const int t = j * WALK + r;
        return t < QUERIES ? dout + ${at(k.dout, "b", "t", "h")} : nullptr; });
      if (thread < WALK / 2) {
        const f32* from = (thread < WALK / 4 ? stat_lse : stat_delta) + ((i64)b * HEADS + h) * PADDED + j * WALK + thread % (WALK / 4) * 4;
        copy16(stage + STATISTICS_AT + thread * 16, from, true);
      }
      copies_arrive(ring.full());
      ring.next();
    }
    copies_wait_all();
  } else { // computes dk and dv of 64 keys
    registers_take<${groups === 3 ? take : 240}>();
    const int lane = thread & 31;
    const int row = (group - 1) * 64 + (thread >> 5) * 16 + (lane >> 2);
    const int key[2] = {s0 + row, s0 + row + 8};
    f32 sum_k[QK / 2], sum_v[V / 2], x[WALK / 2];
    u32 p[WALK / 4]; // probabilities, then ds in their place
    #pragma unroll
    for (int i = 0; i < QK / 2; ++i) sum_k[i] = 0;
    #pragma unroll
    for (int i = 0; i < V / 2; ++i) sum_v[i] = 0;
    const u64 k_desc = k_major<QK_PANEL>(shared + (group - 1) * 64 * QK_PANEL * 2);
    const u64 v_desc = k_major<V_PANEL>(shared + OWN_V_AT + (group - 1) * 64 * V_PANEL * 2);
    u32 held_empty = 0;
    const Turns<${groups}> turns(group - 1);
    wait_tile(own_full, 0);
    turns.take();
    for (int h = h_begin; h < h_end; ++h) for (int j = begin; j < end; ++j) {
      const u32 stage = shared + STAGES_AT + ring.stage * STAGE_BYTES;
      const f32* statistics = (const f32*)(memory + STAGES_AT + ring.stage * STAGE_BYTES + STATISTICS_AT) + (lane & 3) * 2;
      ring.wait_full();
      scores<QK, QK_PANEL>(x, k_desc, stage); // rows are keys, columns queries
      turns.pass();
      wgmma_wait<0>();
      pin(x);
      pin(sum_k);
      pin(p);
      if (held_empty && lane == 0) barrier_arrive(held_empty);
      #pragma unroll
      for (int i = 0; i < WALK / 2; i += 4) {
        const float2 log_sum = *(const float2*)(statistics + i * 2);
        #pragma unroll
        for (int e = 0; e < 4; ++e) x[i + e] = exp2_fast(x[i + e] * SCALE_LOG2 - (e & 1 ? log_sum.y : log_sum.x));
      }
      const int q0 = j * WALK;
      if (SEGMENTS || s0 + OWN > length || (CAUSAL && s0 + OWN - 1 > length - QUERIES + q0)) {
        #pragma unroll
        for (int i = 0; i < WALK / 2; ++i) {
          const int query = q0 + (i >> 2) * 8 + (lane & 3) * 2 + (i & 1), s = key[i >> 1 & 1];
          const bool seen = s < length && (!CAUSAL || s <= length - QUERIES + query) && query < QUERIES${same("query", "s")};
          if (!seen) x[i] = 0;
        }
      }
      to_operand(x, p);
      turns.take();
      scores<V, V_PANEL>(x, v_desc, stage + V_AT);
      accumulate<V_PANEL>(sum_v, p, stage + V_AT);
      turns.pass();
      wgmma_wait<0>();
      pin(x);
      pin(sum_v);
      pin(p);
      #pragma unroll
      for (int i = 0; i < WALK / 2; i += 4) {
        const float2 delta = *(const float2*)(statistics + WALK + i * 2);
        p[i / 2] = pack(low_half(p[i / 2]) * (x[i] - delta.x), high_half(p[i / 2]) * (x[i + 1] - delta.y));
        p[i / 2 + 1] = pack(low_half(p[i / 2 + 1]) * (x[i + 2] - delta.x), high_half(p[i / 2 + 1]) * (x[i + 3] - delta.y));
      }
      turns.take();
      accumulate<QK_PANEL>(sum_k, p, stage);
      held_empty = ring.empty();
      ring.next();
    }
    turns.pass();
    wgmma_wait<0>();
    pin(sum_k);
    store_rows(sum_k, key[0] < KEYS ? dk + ${at(k.dk, "b", "key[0]", "kh")} : nullptr,
      key[1] < KEYS ? dk + ${at(k.dk, "b", "key[1]", "kh")} : nullptr, QK_WIDTH, SCALE, SCALE);
    store_rows(sum_v, key[0] < KEYS ? dv + ${at(k.dv, "b", "key[0]", "kh")} : nullptr,
      key[1] < KEYS ? dv + ${at(k.dv, "b", "key[1]", "kh")} : nullptr, V_WIDTH, 1.0f, 1.0f);
  }
}
`;
  const bytes = k.batch * k.heads * padded * 4;
  const args = [
    viewArg(k.q, 2),
    viewArg(k.k, 2),
    viewArg(k.v, 2),
    viewArg(k.dout, 2),
    { workspace: 0 },
    { workspace: bytes },
  ];
  return {
    source,
    workspace: 2 * bytes,
    launches: [
      gradStatisticsLaunch(k, padded, bytes),
      {
        entry: "attention_grad_q",
        grid: [rowTiles * k.batch * k.heads],
        block: [128 * (groups + 1)],
        shared,
        args: [...args, viewArg(k.dq, 2), ...mask.args, ...tail.args],
      },
      {
        entry: "attention_grad_kv",
        grid: [keyTiles * k.batch * k.keyHeads],
        block: [128 * (groups + 1)],
        shared,
        args: [...args, viewArg(k.dk, 2), viewArg(k.dv, 2), ...mask.args, ...tail.args],
      },
    ],
  };
}
