/**
 * Loop kernels as CUDA C++. One entry does everything where the outer points fill the chip. Where they
 * don't and the inner loops are long, each inner loop is cut into pieces, one block a piece: a launch
 * leaves partial results in the workspace, and the next one begins by combining them, always in the
 * same order.
 */
import type { LoopKernel, Reduce, Stage } from "../contract.ts";
import { type Arg, type DeviceInfo, H100, type Launch, type Lowered } from "../kernel.ts";
import { Body } from "./body.ts";
import { Columns, summedValues } from "./columns.ts";
import { onlineEnd, onlineUpdate, shiftOf } from "./online.ts";
import { type Plan, planLoop } from "./plan.ts";
import { combine, identity, storageType } from "./scalar.ts";
import { lowerTiled } from "./tiled.ts";

/** What one entry does with a stage. */
type Role =
  /** All of it. */
  | "whole"
  /** Its reductions again, without its stores, which another launch does. */
  | "reduce"
  /** One piece of its inner loop; reductions go to the workspace. */
  | "piece"
  /** Reads its reductions from the workspace. */
  | "combine"
  /** Nothing: the stage before has done it, too (online.ts). */
  | "done";

/** @param name start of the entries' names, so that several loops can share a source */
export function lowerLoop(
  kernel: LoopKernel,
  device: DeviceInfo = H100,
  name = "loop",
): Lowered<Launch> {
  const plan = planLoop(kernel, device);
  if (plan.outer.total === 0) return { source: "", launches: [] };
  const tiled = lowerTiled(kernel, plan, name);
  if (tiled !== undefined) return tiled;
  if (plan.pieces === 1) {
    const summed = summedValues(kernel).length > 0;
    const columns = summed ? new Columns(kernel, plan, device) : undefined;
    const entry = new Entry(kernel, plan, name, columns);
    const launch = entry.write(
      kernel.stages.map((_, s) => (plan.online.has(s) ? "done" : "whole")),
    );
    if (columns === undefined) return { source: entry.source, launches: [launch] };
    const totals = columns.totals(`${name}_columns`);
    return {
      source: [entry.source, totals.source].join("\n"),
      launches: [launch, ...totals.launches],
      workspace: columns.workspace,
    };
  }
  const entries: Entry[] = [];
  const launches: Launch[] = [];
  const roles: Role[] = [];
  const add = (stages: readonly Role[]) => {
    const entry = new Entry(kernel, plan, `${name}${entries.length}_`);
    entries.push(entry);
    launches.push(entry.write(stages));
  };
  kernel.stages.forEach((_stage, s) => {
    if (plan.online.has(s)) {
      roles.push("done");
      return;
    }
    if (plan.inner[s] === undefined) {
      roles.push("whole");
      return;
    }
    add([...roles.map((r) => (r === "whole" ? "reduce" : r)), "piece"]);
    roles.push("combine");
  });
  if (roles.includes("whole")) add(roles);
  const reductions = kernel.stages.reduce((n, stage) => n + stage.reduces.length, 0);
  return {
    source: entries.map((e) => e.source).join("\n"),
    launches,
    workspace: reductions * plan.pieces * plan.outer.total * 4,
  };
}

class Entry {
  source = "";
  readonly #kernel: LoopKernel;
  readonly #plan: Plan;
  readonly #name: string;
  readonly #body: Body;
  readonly #columns: Columns | undefined;

  /** @param columns of a kernel with sums over rows */
  constructor(kernel: LoopKernel, plan: Plan, name: string, columns?: Columns) {
    this.#kernel = kernel;
    this.#plan = plan;
    this.#name = name;
    const ahead = columns && { ahead: columns.blocks * plan.across };
    this.#body = new Body({ kernel, ...plan, ...ahead });
    this.#columns = columns;
  }

  write(roles: readonly Role[]): Launch {
    const { outer, lanes, width, group, across, pieces } = this.#plan;
    const columns = this.#columns;
    const body = this.#body;
    const { lines } = body;
    const points = outer.total / (lanes === "outer" ? width : 1);
    const threads = group * across;
    const perBlock = lanes === "outer" ? group : across;
    const blocks = columns?.blocks ?? Math.ceil(points / perBlock);
    const slots = this.#kernel.slots.map((dtype, s) => `${storageType(dtype)}* s${s}`);
    const counter = lanes === "outer" && width > 1 ? `* ${width}u` : "";
    if (lanes === "outer") {
      lines.push(
        across > 1
          ? "const u32 lane = threadIdx.x, row = threadIdx.y;"
          : "const u32 lane = threadIdx.x, row = 0;",
        `const u32 point = blockIdx.x * ${group}u + lane;`,
      );
    } else {
      lines.push(
        group > 1 ? `const u32 lane = threadIdx.x % ${group}u;` : "const u32 lane = 0;",
        ...(columns?.begin() ?? []),
        ...(columns
          ? [
              `for (u32 first = blockIdx.x * ${across}u; first < ${points}u; first += ${blocks * across}u) {`,
            ]
          : []),
        `const u32 point = ${columns ? "first" : `blockIdx.x * ${across}u`} + threadIdx.x / ${group}u;`,
      );
    }
    // Threads past the end repeat the last point, so that all reach the barriers, and store nothing.
    const exact = points % perBlock === 0;
    lines.push(
      exact ? "const bool live = true;" : `const bool live = point < ${points}u;`,
      ...(columns ? [`const bool more = point + ${blocks * across}u < ${points}u;`] : []),
      `const u32 o = ${exact ? "point" : `(live ? point : ${points - 1}u)`}${counter};`,
    );
    if (roles.at(-1) === "piece") lines.push("const u32 piece = blockIdx.y;");
    lines.push(...body.keptDeclarations());
    roles.forEach((role, s) => {
      this.#stage(s, role);
    });
    if (columns) {
      // What one row's threads told each other must have been read before the next row's.
      if (group > 32) lines.push("__syncthreads();");
      lines.push("}", ...columns.end());
    }
    const last = roles.at(-1);
    const parameters = [...slots, "u32* partial"].join(", ");
    this.source = [
      `extern "C" __global__ void __launch_bounds__(${columns ? `${threads}, ${columns.resident}` : threads}) ${this.#name}(${parameters}) {`,
      ...lines.map((line) => `  ${line}`),
      "}",
    ].join("\n");
    const args: Arg[] = [...slots.map((_, slot): Arg => ({ slot })), { workspace: 0 }];
    return {
      entry: this.#name,
      grid: last === "piece" ? [blocks, pieces] : [blocks],
      block: lanes === "outer" && across > 1 ? [group, across] : [threads],
      ...(this.#plan.cache && { shared: this.#plan.cache.bytes }),
      args,
    };
  }

  #stage(s: number, role: Role): void {
    const stage = this.#kernel.stages[s] as Stage;
    const inner = this.#plan.inner[s];
    if (role === "done") return;
    if (role === "combine") this.#combine(s, stage);
    else if (inner === undefined) this.#pointStage(stage, role);
    else this.#loopStage(s, stage, role === "piece");
  }

  /** A stage without inner variables: reductions of one value each, and stores by one thread. */
  #pointStage(stage: Stage, role: Role): void {
    const body = this.#body;
    body.begin(undefined);
    for (const r of stage.reduces) {
      body.lines.push(this.#declare(r, body.value(r.value)));
    }
    if (role === "whole") {
      for (const store of stage.stores) body.store(store);
      const { stores } = body.end(stage);
      if (stores.length > 0) {
        const { lanes, group, across } = this.#plan;
        const one =
          lanes === "outer" ? (across > 1 ? " && row == 0" : "") : group > 1 ? " && lane == 0" : "";
        body.lines.push(`if (live${one}) {`, ...stores.map((line) => `  ${line}`), "}");
      }
    }
  }

  #loopStage(s: number, stage: Stage, isPiece: boolean): void {
    const { lanes, width, group, across, pieces, outer } = this.#plan;
    const body = this.#body;
    const inner = this.#plan.inner[s];
    if (inner === undefined) return;
    body.begin(inner);
    const sum = this.#onlineSum(s);
    const reduces = sum === undefined ? stage.reduces : [...stage.reduces, sum];
    const values = stage.reduces.map((r) => body.value(r.value));
    const sums = new Set(
      stage.columnSums.map(({ value }) => this.#columns?.add(value, body.value(value)) as string),
    );
    for (const store of stage.stores) body.store(store);
    const { loop, stores } = body.end(stage);
    const array = this.#array();
    const each = width > 1 ? `UNROLL for (int j = 0; j < ${width}; j++) ` : "";
    const j = width > 1 ? "[j]" : "";
    for (const r of reduces) {
      const start = identity(r.op, r.value.type);
      body.lines.push(`${r.value.type} a${r.acc}${array}; ${each}a${r.acc}${j} = ${start};`);
    }
    const ordinary = stage.reduces.map((r, n) => {
      const a = `a${r.acc}${j}`;
      return `${each}${a} = ${combine(r.op, r.value.type, a, values[n] as string)};`;
    });
    const guarded = [...sums, ...stores];
    const pass = [
      ...loop,
      ...(sum === undefined
        ? ordinary
        : onlineUpdate(values[0] as string, this.#running(stage), `a${sum.acc}${j}`, each)),
      ...(guarded.length > 0 ? ["if (live) {", ...guarded, "}"] : []),
    ].map((line) => `  ${line}`);

    const n = inner.total;
    if (n === 0) {
      this.#finish(reduces);
      return;
    }
    const stride = lanes === "outer" ? across : group * width;
    const first = lanes === "outer" ? "row" : `lane${width > 1 ? ` * ${width}u` : ""}`;
    if (isPiece) {
      // Pieces are whole vectors, so that none straddles a boundary.
      const unit = lanes === "outer" ? 1 : width;
      const chunk = Math.ceil(n / unit / pieces) * unit;
      body.lines.push(
        `const u32 end${s} = min(${n}u, (piece + 1u) * ${chunk}u);`,
        `#pragma unroll 4`,
        `for (u32 i = piece * ${chunk}u + ${first}; i < end${s}; i += ${stride}u) {`,
        ...pass,
        "}",
      );
    } else if (this.#plan.passes > 0) {
      const passes = this.#plan.passes;
      const guard = passes * stride === n ? "" : `if (i < ${n}u) `;
      body.lines.push(
        `UNROLL for (u32 pass = 0; pass < ${passes}u; pass++) {`,
        `  const u32 i = pass * ${stride}u + ${first}; ${guard}{`,
        ...pass,
        "  }",
        "}",
      );
    } else {
      body.lines.push(
        `#pragma unroll ${lanes === "outer" ? 4 : 2}`,
        `for (u32 i = ${first}; i < ${n}u; i += ${stride}u) {`,
        ...pass,
        "}",
      );
    }
    this.#finish(stage.reduces);
    if (sum !== undefined) {
      const max = `A${(stage.reduces[0] as Reduce).acc}`;
      body.lines.push(
        `${each}a${sum.acc}${j} = a${sum.acc}${j} * expf(${this.#running(stage)} - ${shiftOf(max)});`,
      );
      this.#finish([sum]);
      if (!isPiece) body.lines.push(onlineEnd(max, `A${sum.acc}`));
    }
    if (!isPiece) return;
    for (const r of reduces) {
      const at = `(${r.acc}u * ${pieces}u + piece) * ${outer.total}u + o`;
      const bits = (x: string) => (r.value.type === "f32" ? `__float_as_uint(${x})` : `(u32)${x}`);
      const writes =
        lanes === "outer"
          ? `if (live && row == 0) { ${each}partial[${at}${width > 1 ? " + j" : ""}] = ${bits(`A${r.acc}${j}`)}; }`
          : `if (live && lane == 0) partial[${at}] = ${bits(`A${r.acc}`)};`;
      body.lines.push(writes);
    }
  }

  /** The sum that is made along with a stage's maximum. */
  #onlineSum(s: number): Reduce | undefined {
    return this.#plan.online.has(s + 1) ? this.#kernel.stages[s + 1]?.reduces[0] : undefined;
  }

  /** The one maximum of all lanes of a thread. */
  #running({ reduces }: Stage): string {
    return `a${(reduces[0] as Reduce).acc}${this.#plan.width > 1 ? "[0]" : ""}`;
  }

  /** Combines the pieces' partial results, in the order of the pieces within each thread. */
  #combine(s: number, stage: Stage): void {
    this.#combineAll(stage.reduces);
    const sum = this.#onlineSum(s);
    if (sum === undefined) return;
    const max = stage.reduces[0] as Reduce;
    this.#combineAll([sum], max);
    this.#body.lines.push(onlineEnd(`A${max.acc}`, `A${sum.acc}`));
  }

  /** @param max whose pieces' own values the sums refer to */
  #combineAll(reduces: readonly Reduce[], max?: Reduce): void {
    const { lanes, width, group, across, pieces, outer } = this.#plan;
    const lines = this.#body.lines;
    const array = this.#array();
    const each = width > 1 && lanes === "outer" ? `UNROLL for (int j = 0; j < ${width}; j++) ` : "";
    const j = each ? "[j]" : "";
    for (const r of reduces) {
      const { type } = r.value;
      const value = (x: string) =>
        type === "f32"
          ? `__uint_as_float(${x})`
          : type === "bool"
            ? `(${x} != 0)`
            : `(${type})${x}`;
      const from = ({ acc }: Reduce) =>
        value(`partial[(${acc}u * ${pieces}u + s) * ${outer.total}u + o${each ? " + j" : ""}]`);
      const scale = max ? ` * expf(${from(max)} - ${shiftOf(`A${max.acc}`)})` : "";
      const a = `a${r.acc}${lanes === "outer" ? j : width > 1 ? "[0]" : ""}`;
      const start = identity(r.op, type);
      const all =
        width > 1
          ? `UNROLL for (int j = 0; j < ${width}; j++) a${r.acc}[j] = ${start};`
          : `a${r.acc} = ${start};`;
      lines.push(
        `${type} a${r.acc}${array}; ${all}`,
        `for (u32 s = ${lanes === "outer" ? "row" : "lane"}; s < ${pieces}u; s += ${lanes === "outer" ? across : group}u) {`,
        `  ${each}${a} = ${combine(r.op, type, a, from(r) + scale)};`,
        "}",
      );
    }
    this.#finish(reduces);
  }

  /** Lane arrays and other threads' values become one value for the whole group. */
  #finish(reduces: readonly Reduce[]): void {
    if (reduces.length === 0) return;
    const { lanes, width, group, across } = this.#plan;
    const { lines } = this.#body;
    if (lanes === "outer") {
      const each = width > 1 ? `UNROLL for (int j = 0; j < ${width}; j++) ` : "";
      const j = width > 1 ? "[j]" : "";
      if (across === 1) {
        for (const r of reduces) lines.push(this.#declare(r, `a${r.acc}${j}`));
        return;
      }
      const at = (row: string) => `[${row}][lane${width > 1 ? ` * ${width} + j` : ""}]`;
      for (const r of reduces) {
        lines.push(
          `__shared__ ${r.value.type} red${r.acc}[${across}][${group * width}];`,
          `${each}red${r.acc}${at("row")} = a${r.acc}${j};`,
        );
      }
      lines.push("__syncthreads();");
      for (const r of reduces) {
        const a = `A${r.acc}${j}`;
        lines.push(
          this.#declare(r, `red${r.acc}${at("0")}`, false),
          `for (int t = 1; t < ${across}; t++) { ${each}${a} = ${combine(r.op, r.value.type, a, `red${r.acc}${at("t")}`)}; }`,
        );
      }
      return;
    }
    for (const r of reduces) {
      const A = `A${r.acc}`;
      const { type } = r.value;
      lines.push(`${type} ${A} = a${r.acc}${width > 1 ? "[0]" : ""};`);
      if (width > 1) {
        lines.push(
          `UNROLL for (int j = 1; j < ${width}; j++) ${A} = ${combine(r.op, type, A, `a${r.acc}[j]`)};`,
        );
      }
      const distance = Math.min(group, 32) / 2;
      if (distance >= 1) {
        const other = `__shfl_xor_sync(FULL, ${A}, d)`;
        lines.push(
          `UNROLL for (int d = ${distance}; d > 0; d >>= 1) ${A} = ${combine(r.op, type, A, type === "bool" ? `(bool)${other}` : other)};`,
        );
      }
    }
    const warps = group / 32;
    if (warps <= 1) return;
    for (const r of reduces) {
      lines.push(
        `__shared__ ${r.value.type} red${r.acc}[${warps}];`,
        `if (lane % 32 == 0) red${r.acc}[lane / 32] = A${r.acc};`,
      );
    }
    lines.push("__syncthreads();");
    for (const r of reduces) {
      const A = `A${r.acc}`;
      lines.push(
        `${A} = red${r.acc}[0];`,
        `UNROLL for (int w = 1; w < ${warps}; w++) ${A} = ${combine(r.op, r.value.type, A, `red${r.acc}[w]`)};`,
      );
    }
  }

  #array(): string {
    return this.#plan.width > 1 ? `[${this.#plan.width}]` : "";
  }

  /** Declares a stage's result: a lane array when lanes are outer points. */
  #declare(r: Reduce, value: string, isConstant = true): string {
    const { lanes, width } = this.#plan;
    const type = r.value.type;
    return lanes === "outer" && width > 1
      ? `${type} A${r.acc}[${width}]; UNROLL for (int j = 0; j < ${width}; j++) A${r.acc}[j] = ${value};`
      : `${isConstant ? "const " : ""}${type} A${r.acc} = ${value};`;
  }
}
