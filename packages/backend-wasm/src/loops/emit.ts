/**
 * Loop kernels as SIMD code. A kernel is simplified, a plan says over which variable lanes run, and
 * the nest of loops is written out here: values that a loop does not change are computed before it
 * (nest.ts), the lane loop works on several vectors at a time, and what is left over at its end goes
 * through the same vector code with fewer lanes, so that no element is computed in another way.
 */
import type { LoopKernel, Stage } from "@dsv3/tensor";
import type { Func } from "../asm.ts";
import { i32, type Local } from "../asm.ts";
import type { KernelCode, PhaseArguments, Target } from "../kernel.ts";
import { type Accumulator, Nest } from "./nest.ts";
import { type Plan, planLoops } from "./plan.ts";
import { simplify } from "./simplify.ts";
import { across, combine } from "./values.ts";

/** Elements of the lane variable in a task of column form, where nothing else limits it. */
const COLUMN_ELEMENTS = 2048;

export function loop(given: LoopKernel, target: Target): KernelCode {
  const kernel = simplify(given);
  const plan = planLoops(kernel);
  return plan.column === undefined
    ? rowForm(kernel, plan, target)
    : columnForm(kernel, plan, plan.column, target);
}

const product = (extents: readonly number[]) => extents.reduce((a, b) => a * b, 1);

/** Sets the outer variables but `except` from a point's number, last variable fastest. */
function unravel(
  f: Func,
  nest: Nest,
  kernel: LoopKernel,
  point: Local<"i32">,
  except?: number,
): void {
  const vars = Array.from({ length: kernel.outer }, (_, v) => v).filter((v) => v !== except);
  const rest = f.keep(point);
  vars.reverse().forEach((v, i) => {
    const extent = kernel.vars[v] as number;
    const last = i === vars.length - 1;
    nest.setVar(v, last ? rest : f.keep(i32.remU(rest, extent)));
    if (!last) f.set(rest, i32.divU(rest, extent));
  });
}

function rowForm(kernel: LoopKernel, plan: Plan, target: Target): KernelCode {
  const tasks = product(kernel.vars.slice(0, kernel.outer));
  const emit = (f: Func, args: PhaseArguments) => {
    const nest = new Nest(f, kernel, target, args);
    const point = f.local("i32");
    f.for(point, args.begin, args.end, 1, () =>
      nest.scope([], () => {
        unravel(f, nest, kernel, point);
        kernel.stages.forEach((stage, s) => {
          rowStage(nest, stage, plan.order[s] as number[], plan.unroll[s] as number);
        });
      }),
    );
  };
  return { phases: [{ tasks, nanoseconds: plan.nanoseconds, emit }] };
}

function rowStage(nest: Nest, stage: Stage, order: readonly number[], unroll: number): void {
  const lanes = order.at(-1);
  nest.stage(stage, () => {
    const copies = lanes === undefined ? 1 : Math.min(unroll, Math.ceil(nest.extent(lanes) / 4));
    const sums = stage.reduces.map((r) => nest.accumulators(r, copies));
    const body = () => nest.body(stage, sums);
    const nested = (depth: number): void => {
      const v = order[depth];
      if (v === undefined) nest.withLanes(undefined, 1, 1, body);
      else if (depth === order.length - 1) nest.lanesOver(v, copies, body);
      else nest.loopOver(v, false, () => nested(depth + 1));
    };
    nested(0);
    stage.reduces.forEach((r, i) => {
      const parts = nest.finish(sums[i] as Accumulator[]);
      const [first] = parts as [Local<"v128">];
      for (let step = 1; step < copies; step *= 2) {
        for (let j = 0; j + step < copies; j += 2 * step) {
          const [a, b] = [parts[j], parts[j + step]] as [Local<"v128">, Local<"v128">];
          nest.f.set(a, combine(r.op, r.value.type, a, b));
        }
      }
      const total = lanes === undefined ? first : across(nest.f, r.op, r.value.type, first);
      nest.setAccumulator(r.acc, [lanes === undefined ? first : nest.f.keep(total)]);
    });
  });
}

function columnForm(kernel: LoopKernel, plan: Plan, column: number, target: Target): KernelCode {
  const extent = kernel.vars[column] as number;
  const points = product(kernel.vars.slice(0, kernel.outer)) / Math.max(1, extent);
  const innerWork = Math.max(
    ...kernel.stages.map((s) => product(s.inner.map((v) => kernel.vars[v] as number))),
  );
  const copies = Math.min(plan.unroll[0] as number, Math.max(1, Math.floor(extent / 4)));
  // Chunks are multiples of what the lane loop takes at a time.
  const strip = 4 * copies;
  const chunk = Math.max(strip, Math.floor(COLUMN_ELEMENTS / innerWork / strip) * strip);
  const chunks = Math.ceil(extent / chunk);
  const emit = (f: Func, args: PhaseArguments) => {
    const nest = new Nest(f, kernel, target, args);
    const from = f.local("i32");
    const to = f.local("i32");
    const work = () =>
      nest.scope([], () =>
        nest.lanesBetween(column, from, to, copies, () => {
          for (const stage of kernel.stages) columnStage(nest, stage);
        }),
      );
    const clip = () => f.if(i32.gtU(to, extent), () => f.set(to, extent));
    if (points === 1) {
      // Neighbouring chunks in one go.
      f.set(from, i32.mul(args.begin, chunk));
      f.set(to, i32.mul(args.end, chunk));
      clip();
      return work();
    }
    const task = f.local("i32");
    f.for(task, args.begin, args.end, 1, () =>
      nest.scope([], () => {
        const point = chunks === 1 ? task : f.keep(i32.divU(task, chunks));
        unravel(f, nest, kernel, point, column);
        if (chunks === 1) {
          f.set(from, 0);
          f.set(to, extent);
        } else {
          f.set(from, i32.mul(i32.remU(task, chunks), chunk));
          f.set(to, i32.add(from, chunk));
          clip();
        }
        work();
      }),
    );
  };
  return { phases: [{ tasks: points * chunks, nanoseconds: plan.nanoseconds, emit }] };
}

function columnStage(nest: Nest, stage: Stage): void {
  nest.stage(stage, () => {
    const sums = stage.reduces.map((r) => nest.accumulators(r, nest.copies));
    const nested = (depth: number): void => {
      const v = stage.inner[depth];
      if (v === undefined) nest.body(stage, sums);
      else nest.loopOver(v, depth === stage.inner.length - 1, () => nested(depth + 1));
    };
    nested(0);
    stage.reduces.forEach((r, i) => {
      nest.setAccumulator(r.acc, nest.finish(sums[i] as Accumulator[]));
    });
  });
}
