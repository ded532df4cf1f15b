/**
 * Times the matrix kernels on a GPU beside their floors: `node bench/kernels.ts [name pattern]`.
 * Floor: the larger of operations over the matrix rate and bytes over copy bandwidth, as measured on
 * an H100 SXM (800 TFLOP/s bf16, 1,335 TFLOP/s e4m3, 3.0 TB/s).
 */
import type { Backend, BufferSpec, DType, HeadsView, Kernel, MatrixView } from "../src/contract.ts";
import { dtypeBytes } from "../src/contract.ts";
import { cudaBackend } from "../src/index.ts";

const RATE = { bf16: 800e12, f8e4m3: 1335e12 } as const;
const BANDWIDTH = 3.0e12;

interface Slot {
  readonly dtype: DType;
  readonly elements: number;
  /** What an input holds; random numbers if absent. */
  readonly data?: Int32Array;
}

interface Case {
  readonly name: string;
  readonly kernel: Kernel;
  readonly slots: readonly Slot[];
  readonly writes: readonly number[];
  readonly flops: number;
  readonly bytes: number;
  readonly rate: number;
}

function heads(slot: number, t: number, h: number, w: number): HeadsView {
  return { slot, dtype: "bf16", offset: 0, strides: [t * h * w, h * w, w, 1] };
}

function attention(
  batch: number,
  time: number,
  h: number,
  qk: number,
  v: number,
  grad: boolean,
): Case {
  const shape = {
    batch,
    queries: time,
    keys: time,
    heads: h,
    keyHeads: h,
    qkWidth: qk,
    vWidth: v,
    scale: qk ** -0.5,
    causal: true,
    q: heads(0, time, h, qk),
    k: heads(1, time, h, qk),
    v: heads(2, time, h, v),
    out: heads(3, time, h, v),
    lse: 4,
  };
  const rows = batch * time * h;
  const wide: Slot = { dtype: "bf16", elements: rows * qk };
  const narrow: Slot = { dtype: "bf16", elements: rows * v };
  const stats: Slot = { dtype: "f32", elements: rows };
  const pairs = (rows * (time + 1)) / 2;
  return {
    name: `attention${grad ? " gradient" : ""} ${qk}/${v}, ${batch} x ${time}, ${h} heads`,
    kernel: grad
      ? {
          ...shape,
          kind: "attentionGrad",
          dout: heads(5, time, h, v),
          dq: heads(6, time, h, qk),
          dk: heads(7, time, h, qk),
          dv: heads(8, time, h, v),
        }
      : { ...shape, kind: "attention" },
    slots: [wide, wide, narrow, narrow, stats, ...(grad ? [narrow, wide, wide, narrow] : [])],
    writes: grad ? [6, 7, 8] : [3, 4],
    flops: 2 * pairs * (grad ? 3 * qk + 2 * v : qk + v),
    bytes: 0,
    rate: RATE.bf16,
  };
}

function latent(batch: number, keys: number, h: number, qk: number, v: number): Case {
  const pageSize = 64;
  const pages = Math.ceil(keys / pageSize);
  const cache: HeadsView = {
    slot: 1,
    dtype: "bf16",
    offset: 0,
    strides: [pageSize * qk, qk, qk, 1],
  };
  // Every sequence's pages, spread over the pool.
  const table = Int32Array.from({ length: batch * pages }, (_, i) => (i * 7919) % (batch * pages));
  return {
    name: `latent decode ${qk}/${v}, ${batch} x ${keys}, ${h} heads`,
    kernel: {
      kind: "attention",
      batch,
      queries: 1,
      keys,
      heads: h,
      keyHeads: 1,
      qkWidth: qk,
      vWidth: v,
      scale: qk ** -0.5,
      causal: true,
      q: heads(0, 1, h, qk),
      k: cache,
      v: cache,
      out: heads(4, 1, h, v),
      lse: 5,
      lengths: 2,
      pages: { slot: 3, pageSize },
    },
    slots: [
      { dtype: "bf16", elements: batch * h * qk },
      { dtype: "bf16", elements: batch * pages * pageSize * qk },
      { dtype: "i32", elements: batch, data: new Int32Array(batch).fill(keys) },
      { dtype: "i32", elements: table.length, data: table },
      { dtype: "bf16", elements: batch * h * v },
      { dtype: "f32", elements: batch * h },
    ],
    writes: [4, 5],
    flops: 2 * batch * h * keys * (qk + v),
    bytes: batch * keys * qk * 2,
    rate: RATE.bf16,
  };
}

type Way = "x·w" | "x·wᵀ" | "xᵀ·y";

function grouped(way: Way, groups: number, each: number, k: number, n: number, f8 = false): Case {
  const rows = groups * each;
  const dtype = f8 ? "f8e4m3" : "bf16";
  const view = (slot: number, row: number, over: Partial<MatrixView> = {}): MatrixView => ({
    slot,
    dtype,
    offset: 0,
    batch: [],
    row,
    col: 1,
    ...over,
  });
  const forms = way === "xᵀ·y" ? "groups" : "rows";
  const kBlocks = Math.ceil(k / 128);
  const nBlocks = Math.ceil(n / 128);
  const scaleA = { slot: 4, block: [1, 128] as const, batch: [], row: kBlocks, col: 1 };
  const scaleB = {
    slot: 5,
    block: [128, 128] as const,
    batch: [kBlocks * nBlocks],
    row: 1,
    col: kBlocks,
  };
  const weights = way === "x·wᵀ" ? { row: 1, col: k, batch: [k * n] } : { batch: [k * n] };
  const outElements = forms === "rows" ? rows * n : groups * k * n;
  const bElements = forms === "rows" ? groups * k * n : rows * n;
  const size = dtypeBytes(dtype);
  return {
    name: `grouped ${way} ${dtype}, ${groups} x ${each} rows, ${k} x ${n}`,
    kernel: {
      kind: "groupedMatmul",
      form: forms,
      groups,
      rows,
      k,
      n,
      offsets: 2,
      a: view(0, k, f8 ? { scale: scaleA } : {}),
      b: view(1, n, forms === "rows" ? { ...weights, ...(f8 ? { scale: scaleB } : {}) } : {}),
      out: { ...view(3, n, forms === "rows" ? {} : { batch: [k * n] }), dtype: "bf16" },
    },
    slots: [
      { dtype, elements: rows * k },
      { dtype, elements: bElements },
      {
        dtype: "i32",
        elements: groups + 1,
        data: Int32Array.from({ length: groups + 1 }, (_, g) => g * each),
      },
      { dtype: "bf16", elements: outElements },
      ...(f8
        ? [
            { dtype: "f32" as const, elements: rows * kBlocks },
            { dtype: "f32" as const, elements: groups * kBlocks * nBlocks },
          ]
        : []),
    ],
    writes: [3],
    flops: 2 * rows * k * n,
    bytes: (rows * k + bElements) * size + outElements * 2,
    rate: RATE[dtype],
  };
}

const CASES: readonly Case[] = [
  attention(4, 4096, 16, 192, 128, false),
  attention(8, 2048, 16, 96, 64, false),
  attention(4, 4096, 16, 192, 128, true),
  attention(8, 2048, 16, 96, 64, true),
  latent(64, 4096, 16, 576, 512),
  latent(64, 4096, 128, 576, 512),
  latent(1, 4096, 128, 576, 512),
  grouped("x·w", 64, 512, 7168, 2048),
  grouped("x·wᵀ", 64, 512, 2048, 7168),
  grouped("x·wᵀ", 64, 512, 1024, 2048),
  grouped("xᵀ·y", 32, 512, 7168, 2048),
  grouped("x·wᵀ", 128, 8, 7168, 2048),
  grouped("x·wᵀ", 64, 512, 7168, 2048, true),
  grouped("x·wᵀ", 256, 8, 7168, 2048, true),
];

/** Random finite values whose exponents are those of numbers near 1, in pieces of at most 16 MiB. */
function fill(backend: Backend, buffer: { bytes: number }, slot: Slot): void {
  if (slot.data) {
    backend.write(buffer, new Uint8Array(slot.data.buffer));
    return;
  }
  const piece = new Uint8Array(Math.min(buffer.bytes, 16 << 20));
  const words = new Uint32Array(piece.buffer, 0, piece.length >> 2);
  let state = 12345;
  const pattern = { bf16: [0x807f807f, 0x3f803f80], f8e4m3: [0x87878787, 0x38383838] } as const;
  const [keep, set] = pattern[slot.dtype as "bf16"] ?? [0x007fffff, 0x3f800000];
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = ((state ^ (state >>> 13)) & keep) | set;
  }
  for (let at = 0; at < buffer.bytes; at += piece.length)
    backend.write(buffer, piece.subarray(0, Math.min(piece.length, buffer.bytes - at)), at);
}

async function time(backend: Backend, c: Case): Promise<number> {
  const inputs = c.slots.flatMap((_, i) => (c.writes.includes(i) ? [] : [i]));
  const order = [...inputs, ...c.writes];
  const executable = backend.compile({
    name: c.name,
    buffers: order.map((slot): BufferSpec => {
      const { dtype, elements } = c.slots[slot] as Slot;
      const role = c.writes.includes(slot) ? "output" : "input";
      return { dtype, elements, bytes: elements * dtypeBytes(dtype), role };
    }),
    inputs: inputs.length,
    outputs: c.writes.length,
    steps: [
      {
        kernel: c.kernel,
        buffers: c.slots.map((_, slot) => order.indexOf(slot)),
        writes: c.writes,
        label: c.name,
        flops: c.flops,
        traffic: c.bytes,
      },
    ],
    scratchBytes: 0,
  });
  const buffers = order.map((slot) => {
    const { dtype, elements } = c.slots[slot] as Slot;
    const buffer = backend.alloc(elements * dtypeBytes(dtype));
    fill(backend, buffer, c.slots[slot] as Slot);
    return buffer;
  });
  const times: number[] = [];
  for (let i = 0; i < 12; i++) {
    const steps = await executable.profile(buffers);
    times.push(steps.reduce((sum, step) => sum + step.milliseconds, 0));
  }
  executable.dispose();
  for (const buffer of buffers) backend.free(buffer);
  return times.sort((a, b) => a - b)[times.length >> 1] as number;
}

const pattern = new RegExp(process.argv[2] ?? "");
const backend = await cudaBackend();
console.log("kernel".padEnd(56), "ms".padStart(8), "TFLOP/s", "  GB/s", "of floor");
for (const c of CASES) {
  if (!pattern.test(c.name)) continue;
  const ms = await time(backend, c);
  const floor = Math.max(c.flops / c.rate, c.bytes / BANDWIDTH) * 1e3;
  console.log(
    c.name.padEnd(56),
    ms.toFixed(4).padStart(8),
    (c.flops / ms / 1e9).toFixed(0).padStart(7),
    (c.bytes / ms / 1e6).toFixed(0).padStart(6),
    `${((100 * floor) / ms).toFixed(0).padStart(7)}%`,
  );
}
backend.dispose();
