/** Programs as text, for people. */
import type { BufferId, Program, Step } from "../backend.ts";
import type { Expr, Index, LoopKernel } from "../loop.ts";

/** Every step with its operands, loops written out, and the memory plan. */
export function printProgram(program: Program): string {
  const name = (id: BufferId) => {
    const spec = program.buffers[id] as Program["buffers"][number];
    const n =
      spec.role === "input"
        ? id
        : spec.role === "output"
          ? id - program.inputs
          : id - program.inputs - program.outputs;
    return `${spec.role}${n}`;
  };
  const head = `program ${program.name}: ${program.steps.length} kernels, ${program.inputs} inputs, ${program.outputs} outputs, ${mebibytes(program.scratchBytes)} scratch`;
  const lines = program.steps.map(
    (step, i) => `${String(i).padStart(4)}  ${printStep(step, step.buffers.map(name))}`,
  );
  return [head, ...lines].join("\n");
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(2)} MiB`;
}

function printStep(step: Step, names: readonly string[]): string {
  const writes = step.writes.map((s) => names[s]).join(", ");
  const reads = names.filter((_, s) => !step.writes.includes(s)).join(", ");
  const title = `${step.kernel.kind} ${step.label}: ${writes} ← ${reads}`;
  return step.kernel.kind === "loop" ? `${title}\n${printLoop(step.kernel, names)}` : title;
}

/** A loop kernel in a notation close to what emitters make of it. */
export function printLoop(kernel: LoopKernel, names: readonly string[] = []): string {
  const slot = (s: number) => names[s] ?? `slot${s}`;
  const range = (vars: readonly number[]) => vars.map((v) => `v${v}<${kernel.vars[v]}`).join(" ");
  const outer = range(kernel.vars.map((_, v) => v).slice(0, kernel.outer));
  const lines = [`        for ${outer || "once"}`];
  for (const stage of kernel.stages) {
    if (stage.inner.length > 0) lines.push(`          over ${range(stage.inner)}`);
    for (const r of stage.reduces)
      lines.push(`            a${r.acc} = ${r.op} ${printExpr(r.value, slot)}`);
    for (const s of stage.columnSums) {
      lines.push(
        `            ${slot(s.slot)}[${printIndex(s.index, slot)}] = sum over rows ${printExpr(s.value, slot)}`,
      );
    }
    for (const s of stage.stores) {
      lines.push(
        `            ${slot(s.slot)}[${printIndex(s.index, slot)}] = ${printExpr(s.value, slot)}`,
      );
    }
  }
  return lines.join("\n");
}

const INFIX: Readonly<Record<string, string>> = {
  add: "+",
  sub: "−",
  mul: "·",
  div: "/",
  lt: "<",
  le: "≤",
  eq: "=",
  ne: "≠",
  and: "&",
  or: "|",
  xor: "^",
  shl: "<<",
  shr: ">>",
};

function printExpr(e: Expr, slot: (s: number) => string): string {
  switch (e.op) {
    case "const":
      return `${e.value}`;
    case "index":
      return `(${printIndex(e.index, slot)})`;
    case "load":
      return `${slot(e.slot)}[${printIndex(e.index, slot)}]`;
    case "acc":
      return `a${e.acc}`;
    default: {
      const args = e.args.map((a) => printExpr(a, slot));
      const infix = INFIX[e.op];
      if (infix) return `(${args.join(` ${infix} `)})`;
      const name =
        e.op === "narrow"
          ? e.to
          : e.op === "cast" || e.op === "bitcast"
            ? `${e.op}.${e.type}`
            : e.op;
      return `${name}(${args.join(", ")})`;
    }
  }
}

function printIndex(index: Index, slot: (s: number) => string): string {
  const parts = index.strides.flatMap((s, v) => (s === 0 ? [] : [s === 1 ? `v${v}` : `${s}v${v}`]));
  for (const t of index.terms)
    parts.push(`${t.stride === 1 ? "" : `${t.stride}·`}${printExpr(t.expr, slot)}`);
  if (index.offset !== 0 || parts.length === 0) parts.push(String(index.offset));
  return parts.join("+");
}
