/**
 * Element-wise loops with an operand that lies across the result: a transposition and what is computed
 * with it. A block does a tile of 64 × 64. It reads the operand along its own rows into shared memory,
 * and takes it from there along the result's, so that both sides are whole lines of memory.
 */
import { type DType, dtypeBytes, type LoopKernel } from "../contract.ts";
import type { Arg, Launch, Lowered } from "../kernel.ts";
import { Body, stageLoads } from "./body.ts";
import type { Load, Plan } from "./plan.ts";
import { storageType } from "./scalar.ts";

const TILE = 64;
/** Odd, so that neither rows nor columns of a tile lie in one bank. */
const PITCH = TILE + 1;
const THREADS = 256;
/** Shorter sides and smaller wholes are read from the cache well enough. */
const SHORTEST = 32;
const SMALLEST = 1 << 15;

/** Returns undefined where no operand lies across the result. */
export function lowerTiled(
  kernel: LoopKernel,
  plan: Plan,
  name: string,
): Lowered<Launch> | undefined {
  const { outer, width, wide } = plan;
  const turned = acrossResult(kernel, plan);
  if (turned === undefined) return undefined;
  const { along, loads } = turned;
  const integer = wide ? "i64" : "i32";
  const last = outer.vars.length - 1;
  const [F, T] = [outer.extents[last] as number, outer.extents[along] as number];
  const rest = outer.vars.map((_, n) => n).filter((n) => n !== last && n !== along);
  const [tilesF, tilesT] = [Math.ceil(F / TILE), Math.ceil(T / TILE)];
  /** Elements between neighbours of a variable in the flat counter. */
  const step = (n: number) => outer.extents.slice(n + 1).reduce((a, b) => a * b, 1);

  const lines = [
    `const u32 f0 = blockIdx.x % ${tilesF}u * ${TILE}u, t0 = blockIdx.x / ${tilesF}u % ${tilesT}u * ${TILE}u;`,
  ];
  let after = tilesF * tilesT;
  for (const n of [...rest].reverse()) {
    lines.push(`const u32 r${n} = blockIdx.x / ${after}u % ${outer.extents[n]}u;`);
    after *= outer.extents[n] as number;
  }
  loads.forEach((load) => {
    const type = storageType(kernel.slots[load.slot] as DType);
    const stride = (n: number) => load.index.strides[outer.vars[n] as number] ?? 0;
    const others = [load.index.offset, T, ...[...rest, last].map(stride)];
    const most = 16 / dtypeBytes(kernel.slots[load.slot] as DType);
    const lanes = others.every((x) => x % most === 0) ? most : 1;
    const each = lanes > 1 ? `UNROLL for (int j = 0; j < ${lanes}; j++) ` : "";
    const at = [
      `${load.index.offset}`,
      ...[...rest].map((n) => `(${integer})r${n} * ${stride(n)}`),
      `(${integer})(f0 + f) * ${stride(last)}`,
      "(t0 + t)",
    ].join(" + ");
    lines.push(
      `__shared__ ${type} tile${load.id}[${TILE * PITCH}];`,
      ...overTile(lanes, "f", "t", F, T, [
        `alignas(16) ${type} x[${lanes}]; load_vec(x, s${load.slot} + ${at});`,
        `${each}tile${load.id}[f * ${PITCH}u + t${lanes > 1 ? " + j" : ""}] = x[${lanes > 1 ? "j" : "0"}];`,
      ]),
    );
  });
  const body = new Body({ kernel, ...plan, tiles: { loads: new Set(loads), pitch: PITCH } });
  const stores: string[] = [];
  for (const stage of kernel.stages) {
    body.begin(undefined);
    for (const store of stage.stores) body.store(store);
    stores.push(...body.end(stage).stores);
  }
  const point = [
    ...rest.map((n) => `r${n} * ${step(n)}u`),
    `(t0 + t) * ${step(along)}u`,
    "f0 + f",
  ].join(" + ");
  lines.push(
    "__syncthreads();",
    ...overTile(width, "t", "f", T, F, [`const u32 o = ${point};`, ...body.lines, ...stores]),
  );
  const slots = kernel.slots.map((dtype, s) => `${storageType(dtype)}* s${s}`);
  const source = [
    `extern "C" __global__ void __launch_bounds__(${THREADS}) ${name}(${slots.join(", ")}) {`,
    ...lines.map((line) => `  ${line}`),
    "}",
  ].join("\n");
  const args = slots.map((_, slot): Arg => ({ slot }));
  return { source, launches: [{ entry: name, grid: [after], block: [THREADS], args }] };
}

/** Statements for every `lanes` elements of a tile, side by side along `fast`; past the ends for none. */
function overTile(
  lanes: number,
  slow: string,
  fast: string,
  slowExtent: number,
  fastExtent: number,
  statements: readonly string[],
): string[] {
  const row = TILE / lanes;
  const passes = (TILE * row) / THREADS;
  const inside = [
    ...(slowExtent % TILE === 0 ? [] : [`${slow}0 + ${slow} < ${slowExtent}u`]),
    ...(fastExtent % TILE === 0 ? [] : [`${fast}0 + ${fast} < ${fastExtent}u`]),
  ];
  return [
    `UNROLL for (u32 pass = 0; pass < ${passes}u; pass++) {`,
    `  const u32 n = pass * ${THREADS}u + threadIdx.x, ${slow} = n / ${row}u, ${fast} = n % ${row}u * ${lanes}u;`,
    `  ${inside.length > 0 ? `if (${inside.join(" && ")}) ` : ""}{`,
    ...statements.map((line) => `    ${line}`),
    "  }",
    "}",
  ];
}

/** The loads that lie along one of the outer variables (its number among them) but not along the last. */
function acrossResult(
  kernel: LoopKernel,
  { outer, inner, width }: Plan,
): { along: number; loads: Load[] } | undefined {
  const last = outer.vars.length - 1;
  if (last < 1 || outer.total < SMALLEST || (outer.extents[last] as number) < SHORTEST)
    return undefined;
  if (inner.some((space) => space !== undefined) || TILE % width !== 0) return undefined;
  const { stages } = kernel;
  if (stages.some((s) => s.reduces.length > 0)) return undefined;
  const fast = outer.vars[last] as number;
  // A result that lies across, too, would only change sides.
  if (stages.some((s) => s.stores.some(({ index }) => index.strides[fast] !== 1))) return undefined;
  const loads = new Set(stages.flatMap((s) => [...stageLoads(s)]));
  let along: number | undefined;
  const found: Load[] = [];
  for (const load of loads) {
    const { strides, terms } = load.index;
    if (terms.length > 0 || Math.abs(strides[fast] ?? 0) <= 1) continue;
    const own = outer.vars.findIndex((v) => strides[v] === 1);
    if (own < 0 || (outer.extents[own] as number) < SHORTEST) continue;
    along ??= own;
    const bytes = dtypeBytes(kernel.slots[load.slot] as DType) * TILE * PITCH * (found.length + 1);
    if (own === along && bytes <= 40_000) found.push(load);
  }
  return along === undefined || found.length === 0 ? undefined : { along, loads: found };
}
