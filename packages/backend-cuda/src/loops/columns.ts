/**
 * Sums over all rows, beside what is computed of each row: a block stays and takes many rows, its threads
 * the same columns of each, and keeps its share of the sums in registers. At the end the blocks leave
 * their shares in the workspace, where another launch adds them up, always in the same order.
 */
import type { DType, Expr, LoopKernel } from "../contract.ts";
import type { DeviceInfo, Launch, Lowered } from "../kernel.ts";
import type { Plan } from "./plan.ts";
import { narrow, storageType } from "./scalar.ts";
import { position, runsOf, type Space } from "./space.ts";

/** Longest rows whose sums are kept: 8 numbers for each thread of the largest block. */
export const MOST_COLUMNS = 8192;

/** Threads of a multiprocessor, so that each may have 128 registers. */
const RESIDENT_THREADS = 512;
/** Bytes of registers for a thread's share of what is read of a row and of the sums. */
const STATE_BYTES = 256;

/** Threads of a block that adds shares up: columns, and shares of each at once. */
const [ALONG, DEEP] = [32, 32];

/** What is summed, each once however often it is stored. */
export function summedValues({ stages }: LoopKernel): Expr[] {
  return [...new Set(stages.flatMap((s) => s.columnSums.map((c) => c.value)))];
}

/** The most vectors of a row for one thread, whose share of the row and of the sums then fits its registers. */
export function vectorsPerThread(rowBytes: number, width: number, sums: number): number {
  const vector = width * (rowBytes + 4 * sums);
  return [4, 2].find((n) => n * vector <= STATE_BYTES) ?? 1;
}

/** What is done for a kernel's sums besides its rows, by its own launch and by another after it. */
export class Columns {
  /** Blocks of a multiprocessor that are there at once. */
  readonly resident: number;
  /** As many as are there at once, or fewer where there are fewer rows. */
  readonly blocks: number;
  readonly workspace: number;
  readonly #kernel: LoopKernel;
  readonly #plan: Plan;
  readonly #values: readonly Expr[];
  readonly #space: Space;

  constructor(kernel: LoopKernel, plan: Plan, device: DeviceInfo) {
    const { outer, inner, group, across, passes } = plan;
    if (passes === 0) throw new Error("internal: sums of columns beside rows that are too long");
    this.resident = Math.max(1, Math.floor(RESIDENT_THREADS / (group * across)));
    const most = device.multiprocessors * this.resident;
    this.blocks = Math.min(most, Math.ceil(outer.total / across));
    this.#kernel = kernel;
    this.#plan = plan;
    this.#values = summedValues(kernel);
    this.#space = inner[kernel.stages.findIndex((s) => s.columnSums.length > 0)] as Space;
    this.workspace = this.#values.length * this.#shares();
  }

  /** Bytes that all blocks leave of one sum. */
  #shares(): number {
    return 4 * this.blocks * this.#space.total;
  }

  /** Before the loop over rows. */
  begin(): string[] {
    const { passes, width } = this.#plan;
    return this.#values.map((_, n) => `alignas(16) f32 sum${n}[${passes}][${width}] = {};`);
  }

  /** In one pass of a stage. */
  add(value: Expr, text: string): string {
    const sum = `sum${this.#values.indexOf(value)}[pass][j]`;
    return `UNROLL for (int j = 0; j < ${this.#plan.width}; j++) ${sum} += ${text};`;
  }

  /** After the loop over rows: the block's shares go to the workspace. */
  end(): string[] {
    const { group, across, width, passes } = this.#plan;
    const columns = this.#space.total;
    const stride = group * width;
    const guard = passes * stride === columns ? "" : `if (i < ${columns}u) `;
    const own = (statement: string) => [
      `UNROLL for (u32 pass = 0; pass < ${passes}u; pass++) {`,
      `  const u32 i = pass * ${stride}u + lane * ${width}u; ${guard}${statement}`,
      "}",
    ];
    return this.#values.flatMap((_, n) => {
      const share = `(f32*)partial + (${n * this.blocks}u + blockIdx.x) * ${columns}u + i`;
      if (across === 1) return own(`store_vec(${share}, sum${n}[pass]);`);
      // The block's groups of threads add theirs up in turns.
      const [mine, all] = [`sum${n}[pass][j]`, `shares${n}[i + j]`];
      const turn = own(
        `UNROLL for (int j = 0; j < ${width}; j++) ${all} = turn == 0 ? ${mine} : ${all} + ${mine};`,
      );
      return [
        `__shared__ f32 shares${n}[${columns}];`,
        `for (u32 turn = 0; turn < ${across}u; turn++) {`,
        `  if (threadIdx.x / ${group}u == turn) {`,
        ...turn.map((line) => `    ${line}`),
        "  }",
        "  __syncthreads();",
        "}",
        `for (u32 i = threadIdx.x; i < ${columns}u; i += ${group * across}u) *(${share}) = shares${n}[i];`,
      ];
    });
  }

  /** Launches that add up the blocks' shares and store the sums. */
  totals(name: string): Lowered<Launch> {
    const columns = this.#space.total;
    const sums = this.#kernel.stages.flatMap((s) => s.columnSums);
    const entries = sums.map(({ slot, index, value }, n) => {
      const dtype = this.#kernel.slots[slot] as DType;
      const runs = runsOf(index, this.#space).map(
        (run) => `(${position(run, this.#space)}) * ${run.stride}u`,
      );
      const source = [
        `extern "C" __global__ void __launch_bounds__(${ALONG * DEEP}) ${name}${n}(${storageType(dtype)}* out, const f32* shares) {`,
        `  const u32 i = blockIdx.x * ${ALONG}u + threadIdx.x;`,
        `  __shared__ f32 part[${DEEP}][${ALONG}];`,
        "  f32 sum = 0.0f;",
        `  if (i < ${columns}u) for (u32 b = threadIdx.y; b < ${this.blocks}u; b += ${DEEP}u) sum += shares[b * ${columns}u + i];`,
        "  part[threadIdx.y][threadIdx.x] = sum;",
        "  __syncthreads();",
        `  if (threadIdx.y > 0 || i >= ${columns}u) return;`,
        `  for (u32 row = 1; row < ${DEEP}u; row++) sum += part[row][threadIdx.x];`,
        `  out[${[`${index.offset}u`, ...runs].join(" + ")}] = ${narrow("sum", dtype)};`,
        "}",
      ].join("\n");
      const workspace = this.#values.indexOf(value) * this.#shares();
      const launch: Launch = {
        entry: `${name}${n}`,
        grid: [Math.ceil(columns / ALONG)],
        block: [ALONG, DEEP],
        args: [{ slot }, { workspace }],
      };
      return { source, launch };
    });
    return {
      source: entries.map((e) => e.source).join("\n"),
      launches: entries.map((e) => e.launch),
    };
  }
}
