/**
 * Attention and its derivative for any dtypes, strides and widths, in f32 on the ordinary cores:
 * exact where the tensor-core kernels round to bf16, and the reference on the device. Tiles of 32
 * queries × 32 keys; query heads that read one key head share its tiles.
 */
import type {
  AttentionGradKernel,
  AttentionKernel,
  AttentionShape,
  HeadsView,
  SplitHeadsView,
} from "../contract.ts";
import { dtypeBytes } from "../contract.ts";
import type { Launch, Lowered } from "../kernel.ts";
import {
  at,
  f32,
  HEAD_MAP,
  type Masks,
  masks,
  shapeConstants,
  tails,
  viewArg,
} from "./attention-shape.ts";
import { constants } from "./hopper.ts";

// A thread computes row threadIdx/8 and columns threadIdx%8 + 8i of every 32 × 32 product.
const TILES = `
typedef f32 Square[32][33];
DEVICE int my_row() { return threadIdx.x >> 3; }
DEVICE int my_column(int i) { return (threadIdx.x & 7) + 8 * i; }
DEVICE f32 row_max(f32 x) { for (int d = 1; d < 8; d *= 2) x = fmaxf(x, __shfl_xor_sync(FULL, x, d)); return x; }
DEVICE f32 row_sum(f32 x) { for (int d = 1; d < 8; d *= 2) x += __shfl_xor_sync(FULL, x, d); return x; }
// Columns c0 … c0 + 31 of 32 rows of a matrix; at(r, c) is the address of an element, or null.
template <class At> DEVICE void load(Square& to, int c0, int width, At at) {
  for (int i = threadIdx.x; i < 1024; i += 256) {
    const int c = c0 + (i & 31);
    const auto* from = c < width ? at(i >> 5, c) : nullptr;
    to[i >> 5][i & 31] = from != nullptr ? to_f32(*from) : 0.0f;
  }
}
// out[i] += Σ_c a[row][c] b[column(i)][c] over the width of two matrices of 32 rows.
template <class A, class B> DEVICE void dot_rows(f32 (&out)[4], Square& sa, Square& sb, int width, A a, B b) {
  for (int c0 = 0; c0 < width; c0 += 32) {
    __syncthreads();
    load(sa, c0, width, a);
    load(sb, c0, width, b);
    __syncthreads();
    for (int c = 0; c < 32; ++c)
      for (int i = 0; i < 4; ++i) out[i] += sa[my_row()][c] * sb[my_column(i)][c];
  }
}
// sum[row][c] = sum[row][c] * factor + Σ_s weight[row][s] b[s][c]
template <class B> DEVICE void add_rows(f32* sum, f32 factor, Square& weight, Square& sb, int width, B b) {
  for (int c0 = 0; c0 < width; c0 += 32) {
    __syncthreads();
    load(sb, c0, width, b);
    __syncthreads();
    for (int i = 0; i < 4; ++i) {
      const int c = c0 + my_column(i);
      if (c >= width) continue;
      f32 x = sum[my_row() * width + c] * factor;
      for (int s = 0; s < 32; ++s) x += weight[my_row()][s] * sb[s][my_column(i)];
      sum[my_row() * width + c] = x;
    }
  }
}
`;

const MAX_SHARED = 232_448;

function header(k: AttentionShape): string {
  // Query heads per row tile: all heads of a key head where they divide evenly.
  const share = k.heads % k.keyHeads === 0 ? k.heads / k.keyHeads : 1;
  return `${shapeConstants(k)}${constants({ SHARE: share })}constexpr f32 SCALE = ${f32(k.scale)};
${HEAD_MAP}${TILES}`;
}

/** Condition under which query t (of segment own) at sequence b sees key s. */
function visible(k: AttentionShape, mask: Masks): string {
  const terms = ["s < length", "t < QUERIES"];
  if (k.causal) terms.push("s <= length - QUERIES + t");
  const same = mask.sameSegment("b", "s", mask.segment("b", "t"));
  if (same) terms.push(same);
  return `const auto visible = [&](int t, int s) { return ${terms.join(" && ")}; };`;
}

/** Defines what `load` takes to find elements of rows of queries: of all heads of a key head. */
function ofQueries(called: string, name: string, view: SplitHeadsView): string {
  const element = elementOf(name, view, (v) => at(v, "b", "t", "h0 + (r0 + r) % SHARE"));
  return `
    const auto ${called} = [&](int r, int c) { const int t = (r0 + r) / SHARE; return t < QUERIES ? ${element} : nullptr; };`;
}

/** The same for rows of keys. */
function ofKeys(called: string, name: string, view: SplitHeadsView, mask: Masks): string {
  const element = elementOf(name, view, (v) => mask.key(v, "b", "s", "kh"));
  return `
    const auto ${called} = [&](int r, int c) { const int s = s0 + r; return s < length ? ${element} : nullptr; };`;
}

/** The address of column c of a row, which may lie in the tail. */
function elementOf(name: string, view: SplitHeadsView, row: (v: HeadsView) => string): string {
  const element = (name: string, v: HeadsView, c: string) =>
    `${name} + ${row(v)} + (i64)(${c}) * ${v.strides[3]}`;
  const { tail } = view;
  if (tail === undefined) return element(name, view, "c");
  return `(c < ${tail.from} ? ${element(name, view, "c")} : ${element(`${name}_tail`, tail, `c - ${tail.from}`)})`;
}

function rowsOf(k: AttentionShape): { share: number; rowTiles: number } {
  const share = k.heads % k.keyHeads === 0 ? k.heads / k.keyHeads : 1;
  return { share, rowTiles: Math.ceil((k.queries * share) / 32) };
}

/** @throws RangeError when a row of the output is too wide for shared memory (about 1,600) */
export function plainAttention(k: AttentionKernel): Lowered {
  const mask = masks(k);
  const tail = tails(k);
  const { share, rowTiles } = rowsOf(k);
  const shared = (3 * 32 * 33 + 32 * k.vWidth) * 4;
  checkShared(shared, "attention", k.vWidth);
  const source = `${header(k)}
extern "C" __global__ void __launch_bounds__(256) attention_plain(const ${k.q.dtype}* __restrict__ q, const ${k.k.dtype}* __restrict__ k,
    const ${k.v.dtype}* __restrict__ v, ${k.out.dtype}* __restrict__ out, f32* __restrict__ lse${mask.params}${tail.params}) {
  extern __shared__ f32 memory[];
  Square& sa = *(Square*)memory; Square& sb = *(Square*)(memory + 1056); Square& p = *(Square*)(memory + 2112);
  f32* o = memory + 3168;
  const int b = blockIdx.z, h0 = blockIdx.y * SHARE, kh = key_head(h0), r0 = blockIdx.x * 32;
  const int row = r0 + my_row(), t = row / SHARE, h = h0 + row % SHARE;
  ${mask.length}
  ${visible(k, mask)}
  const int last = (min(r0 + 32, QUERIES * SHARE) - 1) / SHARE;
  const int end = CAUSAL ? min(length, length - QUERIES + last + 1) : length;
  f32 m = -INF, l = 0;
  for (int i = threadIdx.x; i < 32 * V_WIDTH; i += 256) o[i] = 0;
  for (int s0 = 0; s0 < end; s0 += 32) {${ofQueries("query", "q", k.q)}${ofKeys("key", "k", k.k, mask)}${ofKeys("value", "v", k.v, mask)}
    f32 s[4] = {0, 0, 0, 0};
    dot_rows(s, sa, sb, QK_WIDTH, query, key);
    f32 top = m;
    for (int i = 0; i < 4; ++i) {
      s[i] = visible(t, s0 + my_column(i)) ? s[i] * SCALE : -INF;
      top = fmaxf(top, s[i]);
    }
    top = row_max(top);
    const f32 alpha = m == -INF ? 0.0f : expf(m - top);
    f32 sum = 0;
    for (int i = 0; i < 4; ++i) {
      const f32 e = s[i] == -INF ? 0.0f : expf(s[i] - top);
      p[my_row()][my_column(i)] = e;
      sum += e;
    }
    l = l * alpha + row_sum(sum);
    m = top;
    add_rows(o, alpha, p, sb, V_WIDTH, value);
  }
  __syncthreads();
  if (t < QUERIES) {
    for (int c = threadIdx.x & 7; c < V_WIDTH; c += 8)
      out[${at(k.out, "b", "t", "h")} + (i64)c * ${k.out.strides[3]}] = from_f32<${k.out.dtype}>(l > 0 ? o[my_row() * V_WIDTH + c] / l : 0.0f);
    if ((threadIdx.x & 7) == 0) lse[((i64)b * HEADS + h) * QUERIES + t] = l > 0 ? m + logf(l) : -INF;
  }
}
`;
  return {
    source,
    launches: nonEmpty([
      {
        entry: "attention_plain",
        grid: [rowTiles, k.heads / share, k.batch],
        block: [256],
        shared,
        args: [
          viewArg(k.q, dtypeBytes(k.q.dtype)),
          viewArg(k.k, dtypeBytes(k.k.dtype)),
          viewArg(k.v, dtypeBytes(k.v.dtype)),
          viewArg(k.out, dtypeBytes(k.out.dtype)),
          { slot: k.lse },
          ...mask.args,
          ...tail.args,
        ],
      },
    ]),
  };
}

/**
 * Row statistics of the derivative, f32 [batch · heads, `padded` queries] each: the log-sum-exp times
 * `factor` (+∞ where there is no query or it saw nothing, so that its probabilities come out as 0)
 * and Σ_c out · dout.
 */
export function gradStatistics(k: AttentionGradKernel, padded: number, factor: number): string {
  return `
extern "C" __global__ void __launch_bounds__(256) attention_grad_statistics(const ${k.out.dtype}* __restrict__ out,
    const ${k.dout.dtype}* __restrict__ dout, const f32* __restrict__ lse, f32* __restrict__ stat_lse, f32* __restrict__ stat_delta) {
  const int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  const int t = row % ${padded}, h = row / ${padded} % HEADS, b = row / ${padded} / HEADS;
  if (b >= BATCH) return;
  f32 sum = 0, log_sum = -INF;
  if (t < QUERIES) {
    const auto* x = out + ${at(k.out, "b", "t", "h")};
    const auto* y = dout + ${at(k.dout, "b", "t", "h")};
    for (int c = lane; c < V_WIDTH; c += 32) sum += to_f32(x[(i64)c * ${k.out.strides[3]}]) * to_f32(y[(i64)c * ${k.dout.strides[3]}]);
    sum = warp_sum(sum);
    log_sum = lse[((i64)b * HEADS + h) * QUERIES + t];
  }
  if (lane == 0) {
    stat_lse[row] = log_sum == -INF ? INF : log_sum * ${f32(factor)};
    stat_delta[row] = sum;
  }
}
`;
}

/** The launch of {@link gradStatistics}, into the first 2 · `bytes` of the workspace. */
export function gradStatisticsLaunch(
  k: AttentionGradKernel,
  padded: number,
  bytes: number,
): Launch {
  return {
    entry: "attention_grad_statistics",
    grid: [Math.ceil((k.batch * k.heads * padded) / 8)],
    block: [256],
    args: [
      viewArg(k.out, dtypeBytes(k.out.dtype)),
      viewArg(k.dout, dtypeBytes(k.dout.dtype)),
      { slot: k.lse },
      { workspace: 0 },
      { workspace: bytes },
    ],
  };
}

/** Two passes: dq by tiles of queries, dk and dv by tiles of keys; sums in a fixed order. */
export function plainAttentionGrad(k: AttentionGradKernel): Lowered {
  const mask = masks(k);
  const tail = tails(k);
  const { share, rowTiles } = rowsOf(k);
  const sharedQ = (3 * 1056 + 32 * k.qkWidth) * 4;
  const sharedKv = (4 * 1056 + 32 * (k.qkWidth + k.vWidth)) * 4;
  checkShared(sharedKv, "attention's derivative", k.qkWidth + k.vWidth);
  const inputs = `const ${k.q.dtype}* __restrict__ q, const ${k.k.dtype}* __restrict__ k, const ${k.v.dtype}* __restrict__ v,
    const ${k.dout.dtype}* __restrict__ dout, const f32* __restrict__ stat_lse, const f32* __restrict__ stat_delta`;
  const rows = [
    ofQueries("query", "q", k.q),
    ofQueries("upstream", "dout", k.dout),
    ofKeys("key", "k", k.k, mask),
    ofKeys("value", "v", k.v, mask),
  ].join("");
  const source = `${header(k)}${gradStatistics(k, k.queries, 1)}
extern "C" __global__ void __launch_bounds__(256) attention_grad_q(${inputs}, ${k.dq.dtype}* __restrict__ dq${mask.params}${tail.params}) {
  extern __shared__ f32 memory[];
  Square& sa = *(Square*)memory; Square& sb = *(Square*)(memory + 1056); Square& ds = *(Square*)(memory + 2112);
  f32* sum = memory + 3168;
  const int b = blockIdx.z, h0 = blockIdx.y * SHARE, kh = key_head(h0), r0 = blockIdx.x * 32;
  const int row = r0 + my_row(), t = row / SHARE, h = h0 + row % SHARE;
  ${mask.length}
  ${visible(k, mask)}
  const int last = (min(r0 + 32, QUERIES * SHARE) - 1) / SHARE;
  const int end = CAUSAL ? min(length, length - QUERIES + last + 1) : length;
  const i64 at = ((i64)b * HEADS + h) * QUERIES + t;
  const f32 log_sum = t < QUERIES ? stat_lse[at] : INF, delta = t < QUERIES ? stat_delta[at] : 0.0f;
  for (int i = threadIdx.x; i < 32 * QK_WIDTH; i += 256) sum[i] = 0;
  for (int s0 = 0; s0 < end; s0 += 32) {${rows}
    f32 s[4] = {0, 0, 0, 0}, dp[4] = {0, 0, 0, 0};
    dot_rows(s, sa, sb, QK_WIDTH, query, key);
    dot_rows(dp, sa, sb, V_WIDTH, upstream, value);
    for (int i = 0; i < 4; ++i)
      ds[my_row()][my_column(i)] = visible(t, s0 + my_column(i)) ? expf(s[i] * SCALE - log_sum) * (dp[i] - delta) * SCALE : 0.0f;
    add_rows(sum, 1.0f, ds, sb, QK_WIDTH, key);
  }
  __syncthreads();
  if (t < QUERIES)
    for (int c = threadIdx.x & 7; c < QK_WIDTH; c += 8)
      dq[${at(k.dq, "b", "t", "h")} + (i64)c * ${k.dq.strides[3]}] = from_f32<${k.dq.dtype}>(sum[my_row() * QK_WIDTH + c]);
}

extern "C" __global__ void __launch_bounds__(256) attention_grad_kv(${inputs}, ${k.dk.dtype}* __restrict__ dk, ${k.dv.dtype}* __restrict__ dv${mask.params}${tail.params}) {
  extern __shared__ f32 memory[];
  Square& sa = *(Square*)memory; Square& sb = *(Square*)(memory + 1056);
  Square& p = *(Square*)(memory + 2112); Square& ds = *(Square*)(memory + 3168);
  f32* sum_k = memory + 4224; f32* sum_v = sum_k + 32 * QK_WIDTH;
  const int b = blockIdx.z, kh = blockIdx.y, s0 = blockIdx.x * 32, s = s0 + my_row();
  ${mask.length}
  ${visible(k, mask)}
  for (int i = threadIdx.x; i < 32 * (QK_WIDTH + V_WIDTH); i += 256) sum_k[i] = 0;
  const int heads = SHARE > 1 ? 1 : first_head(kh + 1) - first_head(kh);
  for (int head = 0; s0 < length && head < heads; ++head) {
    const int h0 = first_head(kh) + head;
    const int begin = CAUSAL ? max(0, s0 - length + QUERIES) * SHARE / 32 * 32 : 0;
    for (int r0 = begin; r0 < QUERIES * SHARE; r0 += 32) {${rows}
      f32 x[4] = {0, 0, 0, 0}, dp[4] = {0, 0, 0, 0};
      dot_rows(x, sa, sb, QK_WIDTH, key, query);
      dot_rows(dp, sa, sb, V_WIDTH, value, upstream);
      for (int i = 0; i < 4; ++i) {
        const int r = r0 + my_column(i), t = r / SHARE;
        f32 e = 0, d = 0;
        if (visible(t, s)) {
          const i64 at = ((i64)b * HEADS + h0 + r % SHARE) * QUERIES + t;
          e = expf(x[i] * SCALE - stat_lse[at]);
          d = e * (dp[i] - stat_delta[at]) * SCALE;
        }
        p[my_row()][my_column(i)] = e;
        ds[my_row()][my_column(i)] = d;
      }
      add_rows(sum_v, 1.0f, p, sb, V_WIDTH, upstream);
      add_rows(sum_k, 1.0f, ds, sb, QK_WIDTH, query);
    }
  }
  __syncthreads();
  if (s >= KEYS) return;
  for (int c = threadIdx.x & 7; c < QK_WIDTH; c += 8)
    dk[${at(k.dk, "b", "s", "kh")} + (i64)c * ${k.dk.strides[3]}] = from_f32<${k.dk.dtype}>(sum_k[my_row() * QK_WIDTH + c]);
  for (int c = threadIdx.x & 7; c < V_WIDTH; c += 8)
    dv[${at(k.dv, "b", "s", "kh")} + (i64)c * ${k.dv.strides[3]}] = from_f32<${k.dv.dtype}>(sum_v[my_row() * V_WIDTH + c]);
}
`;
  const bytes = k.batch * k.heads * k.queries * 4;
  const delta = Math.ceil(bytes / 256) * 256;
  const args = [
    viewArg(k.q, dtypeBytes(k.q.dtype)),
    viewArg(k.k, dtypeBytes(k.k.dtype)),
    viewArg(k.v, dtypeBytes(k.v.dtype)),
    viewArg(k.dout, dtypeBytes(k.dout.dtype)),
    { workspace: 0 },
    { workspace: delta },
  ];
  return {
    source,
    workspace: 2 * delta,
    launches: nonEmpty([
      gradStatisticsLaunch(k, k.queries, delta),
      {
        entry: "attention_grad_q",
        grid: [rowTiles, k.heads / share, k.batch],
        block: [256],
        shared: sharedQ,
        args: [...args, viewArg(k.dq, dtypeBytes(k.dq.dtype)), ...mask.args, ...tail.args],
      },
      {
        entry: "attention_grad_kv",
        grid: [Math.ceil(k.keys / 32), k.keyHeads, k.batch],
        block: [256],
        shared: sharedKv,
        args: [
          ...args,
          viewArg(k.dk, dtypeBytes(k.dk.dtype)),
          viewArg(k.dv, dtypeBytes(k.dv.dtype)),
          ...mask.args,
          ...tail.args,
        ],
      },
    ]),
  };
}

/** Nothing to launch for an output without elements. */
function nonEmpty(launches: readonly Launch[]): Launch[] {
  return launches.filter((launch) => launch.grid.every((n) => n !== 0));
}

function checkShared(bytes: number, what: string, width: number): void {
  if (bytes > MAX_SHARED)
    throw new RangeError(
      `${what} of width ${width} needs ${bytes} bytes of shared memory in f32, and a block has ` +
        `${MAX_SHARED}; use bf16 or narrower heads`,
    );
}
