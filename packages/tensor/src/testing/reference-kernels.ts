/** The other kernels of the contract, written as their definitions read. */
import type {
  AttentionGradKernel,
  AttentionKernel,
  CountingSortKernel,
  CumsumKernel,
  GroupedMatmulKernel,
  Kernel,
  MatmulKernel,
  MatrixView,
  QuantizeKernel,
  RowLookup,
  ScatterKernel,
  SplitHeadsView,
  TopKKernel,
} from "../backend.ts";
import { roundTo } from "../dtype.ts";
import type { LoopKernel } from "../loop.ts";
import type { Slot } from "./reference-backend.ts";

type Slots = readonly Slot[];
const values = (slots: Slots, s: number): Float64Array => (slots[s] as Slot).values;

/** Stores with the rounding of the slot's dtype. */
function store(slots: Slots, s: number, at: number, x: number): void {
  const { dtype, values } = slots[s] as Slot;
  values[at] = roundTo(x, dtype);
}

type Runner<K> = (kernel: K, slots: Slots) => void;

export function runKernel(kernel: Exclude<Kernel, LoopKernel>, slots: Slots): void {
  (RUNNERS[kernel.kind] as Runner<typeof kernel>)(kernel, slots);
}

/** Element (r, c) of a matrix view at batch offsets, scaled. */
function reader(
  view: MatrixView,
  slots: Slots,
  batch: readonly number[],
): (r: number, c: number) => number {
  const data = values(slots, view.slot);
  const dot = (strides: readonly number[]) =>
    strides.reduce((n, s, i) => n + s * (batch[i] ?? 0), 0);
  const base = view.offset + dot(view.batch);
  const { scale } = view;
  if (scale === undefined) return (r, c) => data[base + r * view.row + c * view.col] as number;
  const scales = values(slots, scale.slot);
  const from = dot(scale.batch);
  const [br, bc] = scale.block;
  return (r, c) =>
    (data[base + r * view.row + c * view.col] as number) *
    (scales[from + Math.floor(r / br) * scale.row + Math.floor(c / bc) * scale.col] as number);
}

function* points(extents: readonly number[]): Generator<number[]> {
  const total = extents.reduce((a, b) => a * b, 1);
  for (let i = 0; i < total; i++) {
    let rest = i;
    const at = [...extents];
    for (let a = extents.length - 1; a >= 0; a--) {
      const d = extents[a] as number;
      at[a] = rest % d;
      rest = Math.floor(rest / d);
    }
    yield at;
  }
}

function matmul(kernel: MatmulKernel, slots: Slots): void {
  const { m, n, k } = kernel;
  let out = 0;
  for (const batch of points(kernel.batch)) {
    const a = reader(kernel.a, slots, batch);
    const b = reader(kernel.b, slots, batch);
    const add = kernel.add && reader(kernel.add, slots, batch);
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = add ? add(i, j) : 0;
        for (let l = 0; l < k; l++) sum += a(i, l) * b(l, j);
        store(slots, kernel.out.slot, out++, sum);
      }
    }
  }
}

/** The same matrix with its rows looked up. */
function lookingUp(
  read: (r: number, c: number) => number,
  rows: RowLookup | undefined,
  slots: Slots,
): (r: number, c: number) => number {
  if (rows === undefined) return read;
  const indices = values(slots, rows.slot);
  return (r, c) => read(Math.max(0, Math.min(indices[r] as number, rows.extent - 1)), c);
}

function groupedMatmul(kernel: GroupedMatmulKernel, slots: Slots): void {
  const { form, groups, rows, k, n } = kernel;
  const offsets = values(slots, kernel.offsets);
  const out = kernel.out.slot;
  const a = lookingUp(reader(kernel.a, slots, []), kernel.aRows, slots);
  if (form === "rows") values(slots, out).fill(0);
  for (let g = 0; g < groups; g++) {
    const [from, to] = [offsets[g] as number, Math.min(rows, offsets[g + 1] as number)];
    if (form === "rows") {
      const b = reader(kernel.b, slots, [g]);
      for (let r = from; r < to; r++) {
        for (let j = 0; j < n; j++) {
          let sum = 0;
          for (let l = 0; l < k; l++) sum += a(r, l) * b(l, j);
          store(slots, out, r * n + j, sum);
        }
      }
    } else {
      const b = lookingUp(reader(kernel.b, slots, []), kernel.bRows, slots);
      for (let i = 0; i < k; i++) {
        for (let j = 0; j < n; j++) {
          let sum = 0;
          for (let r = from; r < to; r++) sum += a(r, i) * b(r, j);
          store(slots, out, (g * k + i) * n + j, sum);
        }
      }
    }
  }
}

function heads(
  view: SplitHeadsView,
  slots: Slots,
): (b: number, t: number, h: number, d: number) => number {
  const data = values(slots, view.slot);
  const [sb, st, sh, sd] = view.strides;
  const from = view.tail?.from ?? Infinity;
  const tail = view.tail && heads(view.tail, slots);
  return (b, t, h, d) =>
    d >= from && tail
      ? tail(b, t, h, d - from)
      : (data[view.offset + b * sb + t * st + h * sh + d * sd] as number);
}

/** Calls `visit` for every query with its visible keys as (batch, time) of the k and v views. */
function eachQuery(
  kernel: AttentionKernel | AttentionGradKernel,
  slots: Slots,
  visit: (b: number, t: number, h: number, keys: [number, number][]) => void,
): void {
  const { batch, queries, keys, heads, pages } = kernel;
  for (let b = 0; b < batch; b++) {
    const length =
      kernel.lengths === undefined ? keys : (values(slots, kernel.lengths)[b] as number);
    for (let t = 0; t < queries; t++) {
      const position = length - queries + t;
      const visible: [number, number][] = [];
      for (let s = 0; s < Math.min(keys, length); s++) {
        if (kernel.causal && s > position) continue;
        if (kernel.segments !== undefined) {
          const segment = values(slots, kernel.segments);
          if (segment[b * keys + t] !== segment[b * keys + s]) continue;
        }
        if (pages === undefined) visible.push([b, s]);
        else {
          const perRow = Math.ceil(keys / pages.pageSize);
          const page = values(slots, pages.slot)[
            b * perRow + Math.floor(s / pages.pageSize)
          ] as number;
          visible.push([page, s % pages.pageSize]);
        }
      }
      for (let h = 0; h < heads; h++) visit(b, t, h, visible);
    }
  }
}

function attention(kernel: AttentionKernel, slots: Slots): void {
  const { queries, heads: count, keyHeads, qkWidth, vWidth, scale } = kernel;
  const [q, k, v] = [heads(kernel.q, slots), heads(kernel.k, slots), heads(kernel.v, slots)];
  eachQuery(kernel, slots, (b, t, h, visible) => {
    const kh = Math.floor((h * keyHeads) / count);
    const scores = visible.map(([kb, s]) => {
      let dot = 0;
      for (let d = 0; d < qkWidth; d++) dot += q(b, t, h, d) * k(kb, s, kh, d);
      return dot * scale;
    });
    const top = Math.max(...scores, Number.NEGATIVE_INFINITY);
    const weights = scores.map((x) => Math.exp(x - top));
    const total = weights.reduce((x, y) => x + y, 0);
    for (let d = 0; d < vWidth; d++) {
      let sum = 0;
      visible.forEach(([kb, s], i) => {
        sum += (weights[i] as number) * v(kb, s, kh, d);
      });
      store(
        slots,
        kernel.out.slot,
        ((b * queries + t) * count + h) * vWidth + d,
        total === 0 ? 0 : sum / total,
      );
    }
    const lse = visible.length === 0 ? Number.NEGATIVE_INFINITY : top + Math.log(total);
    store(slots, kernel.lse, (b * count + h) * queries + t, lse);
  });
}

function attentionGrad(kernel: AttentionGradKernel, slots: Slots): void {
  const { queries, keys, heads: count, keyHeads, qkWidth, vWidth, scale } = kernel;
  const [q, k, v, o, g] = [kernel.q, kernel.k, kernel.v, kernel.out, kernel.dout].map((w) =>
    heads(w, slots),
  ) as [
    ReturnType<typeof heads>,
    ReturnType<typeof heads>,
    ReturnType<typeof heads>,
    ReturnType<typeof heads>,
    ReturnType<typeof heads>,
  ];
  const sums = [kernel.dq, kernel.dk, kernel.dv].map(
    (w) => new Float64Array(values(slots, w.slot).length),
  );
  const [dq, dk, dv] = sums as [Float64Array, Float64Array, Float64Array];
  const lse = values(slots, kernel.lse);
  const bump = (sum: Float64Array, at: number, x: number) => {
    sum[at] = (sum[at] as number) + x;
  };
  eachQuery(kernel, slots, (b, t, h, visible) => {
    const kh = Math.floor((h * keyHeads) / count);
    let delta = 0;
    for (let d = 0; d < vWidth; d++) delta += o(b, t, h, d) * g(b, t, h, d);
    for (const [kb, s] of visible) {
      let dot = 0;
      for (let d = 0; d < qkWidth; d++) dot += q(b, t, h, d) * k(kb, s, kh, d);
      const p = Math.exp(dot * scale - (lse[(b * count + h) * queries + t] as number));
      let dp = 0;
      const key = (kb * keys + s) * keyHeads + kh;
      for (let d = 0; d < vWidth; d++) {
        dp += g(b, t, h, d) * v(kb, s, kh, d);
        bump(dv, key * vWidth + d, p * g(b, t, h, d));
      }
      const ds = p * (dp - delta) * scale;
      for (let d = 0; d < qkWidth; d++) {
        bump(dq, ((b * queries + t) * count + h) * qkWidth + d, ds * k(kb, s, kh, d));
        bump(dk, key * qkWidth + d, ds * q(b, t, h, d));
      }
    }
  });
  [kernel.dq, kernel.dk, kernel.dv].forEach((w, i) => {
    (sums[i] as Float64Array).forEach((x, at) => {
      store(slots, w.slot, at, x);
    });
  });
}

function topK({ rows, n, k, ...kernel }: TopKKernel, slots: Slots): void {
  const input = values(slots, kernel.input);
  const rank = (x: number) => (Number.isNaN(x) ? Number.NEGATIVE_INFINITY : x);
  for (let r = 0; r < rows; r++) {
    const row = input.slice(r * n, r * n + n);
    const order = [...row.keys()].sort((i, j) => {
      const [x, y] = [row[i] as number, row[j] as number];
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      const [a, b] = [rank(x), rank(y)];
      return a === b ? i - j : a > b ? -1 : 1;
    });
    for (let j = 0; j < k; j++) {
      const at = order[j] as number;
      values(slots, kernel.values)[r * k + j] = row[at] as number;
      values(slots, kernel.indices)[r * k + j] = at;
    }
  }
}

function countingSort({ n, buckets, ...kernel }: CountingSortKernel, slots: Slots): void {
  const ids = values(slots, kernel.ids);
  const bucket = (i: number) => {
    const id = ids[i] as number;
    return id >= 0 && id < buckets ? id : buckets;
  };
  const order = Array.from({ length: n }, (_, i) => i).sort(
    (i, j) => bucket(i) - bucket(j) || i - j,
  );
  values(slots, kernel.order).set(order);
  order.forEach((i, at) => {
    values(slots, kernel.rank)[i] = at;
  });
  for (let b = 0; b <= buckets; b++) {
    values(slots, kernel.offsets)[b] = order.filter((i) => bucket(i) < b).length;
  }
}

function cumsum({ outer, n, inner, input, output }: CumsumKernel, slots: Slots): void {
  const x = values(slots, input);
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      let sum = 0;
      for (let j = 0; j < n; j++) {
        const at = (o * n + j) * inner + i;
        sum += x[at] as number;
        store(slots, output, at, sum);
      }
    }
  }
}

function scatter(kernel: ScatterKernel, slots: Slots): void {
  const { baseRows, rows, width } = kernel;
  const out = values(slots, kernel.out);
  if (kernel.base === undefined) out.fill(0);
  else out.set(values(slots, kernel.base));
  const indices = values(slots, kernel.indices);
  const updates = values(slots, kernel.updates);
  for (let r = 0; r < rows; r++) {
    const to = indices[r] as number;
    if (to < 0 || to >= baseRows) continue;
    for (let c = 0; c < width; c++) {
      const x = updates[r * width + c] as number;
      if (kernel.mode === "set") out[to * width + c] = x;
      else out[to * width + c] = (out[to * width + c] as number) + x;
    }
  }
  if (kernel.mode === "add") {
    out.forEach((x, at) => {
      store(slots, kernel.out, at, x);
    });
  }
}

/** Numbers that share a scale: it, and what they are in E4M3. */
function quantizedBlock(block: readonly number[]): { scale: number; values: readonly number[] } {
  const bits = new Uint32Array(1);
  const f32 = new Float32Array(bits.buffer);
  f32[0] = Math.max(...block.map(Math.abs)) / 448;
  bits[0] = ((bits[0] as number) + 0x7fffff) & 0x7f800000;
  const scale = f32[0] as number;
  return { scale, values: block.map((x) => roundTo(x / (scale || 1), "f8e4m3")) };
}

function quantize(kernel: QuantizeKernel, slots: Slots): void {
  const { rows, width, alongRows, alongColumns } = kernel;
  const x = lookingUp(reader(kernel.x, slots, []), kernel.xRows, slots);
  const upTo = (from: number, to: number) =>
    Array.from({ length: Math.min(128, to - from) }, (_, i) => from + i);
  if (alongRows) {
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < width; c += 128) {
        const block = quantizedBlock(upTo(c, width).map((i) => x(r, i)));
        values(slots, alongRows.values).set(block.values, r * width + c);
        values(slots, alongRows.scale)[(c / 128) * rows + r] = block.scale;
      }
    }
  }
  if (!alongColumns) return;
  const { length, runs } = alongColumns;
  values(slots, alongColumns.values).fill(0);
  values(slots, alongColumns.scale).fill(0);
  let start = 0;
  for (let g = 0; g < (runs?.groups ?? 1); g++) {
    const offsets = runs ? values(slots, runs.offsets) : [0, rows];
    const [from, to] = [offsets[g] as number, Math.min(rows, offsets[g + 1] as number)];
    if (runs) values(slots, runs.starts)[g] = start;
    for (let r = from; r < to; r += 128, start += 128) {
      for (let c = 0; c < width; c++) {
        const block = quantizedBlock(upTo(r, to).map((i) => x(i, c)));
        values(slots, alongColumns.values).set(block.values, c * length + start);
        values(slots, alongColumns.scale)[(start / 128) * width + c] = block.scale;
      }
    }
  }
  if (runs) values(slots, runs.starts)[runs.groups] = start;
}

const RUNNERS = {
  matmul,
  groupedMatmul,
  attention,
  attentionGrad,
  topK,
  countingSort,
  cumsum,
  scatter,
  quantize,
} as const;
